//! Each system table: its columns as MySQL 8 names them, and its rows.

use super::{Information, Table, number_column, text_column};
use crate::show::describe;
use crate::variables::{CHARSETS, COLLATIONS};
use damask_types::{ColumnType, Datum, TableSchema};

/// Columns: a name, with `#` in front if it is a number.
struct Definition {
    database: &'static str,
    name: &'static str,
    columns: &'static str,
    rows: fn(&Information<'_>) -> Vec<Vec<Datum>>,
}

fn none(_: &Information<'_>) -> Vec<Vec<Datum>> {
    Vec::new()
}

const INFORMATION: &str = "information_schema";
const PERFORMANCE: &str = "performance_schema";

const fn table_of(
    database: &'static str,
    name: &'static str,
    columns: &'static str,
    rows: fn(&Information<'_>) -> Vec<Vec<Datum>>,
) -> Definition {
    Definition { database, name, columns, rows }
}

const DEFINITIONS: &[Definition] = &[
    table_of(
        INFORMATION,
        "schemata",
        "CATALOG_NAME SCHEMA_NAME DEFAULT_CHARACTER_SET_NAME DEFAULT_COLLATION_NAME SQL_PATH \
         DEFAULT_ENCRYPTION",
        schemata,
    ),
    table_of(
        INFORMATION,
        "tables",
        "TABLE_CATALOG TABLE_SCHEMA TABLE_NAME TABLE_TYPE ENGINE #VERSION ROW_FORMAT #TABLE_ROWS \
         #AVG_ROW_LENGTH #DATA_LENGTH #MAX_DATA_LENGTH #INDEX_LENGTH #DATA_FREE #AUTO_INCREMENT \
         CREATE_TIME UPDATE_TIME CHECK_TIME TABLE_COLLATION #CHECKSUM CREATE_OPTIONS TABLE_COMMENT",
        tables,
    ),
    table_of(
        INFORMATION,
        "columns",
        "TABLE_CATALOG TABLE_SCHEMA TABLE_NAME COLUMN_NAME #ORDINAL_POSITION COLUMN_DEFAULT \
         IS_NULLABLE DATA_TYPE #CHARACTER_MAXIMUM_LENGTH #CHARACTER_OCTET_LENGTH \
         #NUMERIC_PRECISION #NUMERIC_SCALE #DATETIME_PRECISION CHARACTER_SET_NAME COLLATION_NAME \
         COLUMN_TYPE COLUMN_KEY EXTRA PRIVILEGES COLUMN_COMMENT GENERATION_EXPRESSION #SRS_ID",
        columns,
    ),
    table_of(
        INFORMATION,
        "statistics",
        "TABLE_CATALOG TABLE_SCHEMA TABLE_NAME #NON_UNIQUE INDEX_SCHEMA INDEX_NAME #SEQ_IN_INDEX \
         COLUMN_NAME COLLATION #CARDINALITY #SUB_PART PACKED NULLABLE INDEX_TYPE COMMENT \
         INDEX_COMMENT IS_VISIBLE EXPRESSION",
        statistics,
    ),
    table_of(
        INFORMATION,
        "key_column_usage",
        "CONSTRAINT_CATALOG CONSTRAINT_SCHEMA CONSTRAINT_NAME TABLE_CATALOG TABLE_SCHEMA \
         TABLE_NAME COLUMN_NAME #ORDINAL_POSITION #POSITION_IN_UNIQUE_CONSTRAINT \
         REFERENCED_TABLE_SCHEMA REFERENCED_TABLE_NAME REFERENCED_COLUMN_NAME",
        key_column_usage,
    ),
    table_of(
        INFORMATION,
        "table_constraints",
        "CONSTRAINT_CATALOG CONSTRAINT_SCHEMA CONSTRAINT_NAME TABLE_SCHEMA TABLE_NAME \
         CONSTRAINT_TYPE ENFORCED",
        table_constraints,
    ),
    table_of(
        INFORMATION,
        "referential_constraints",
        "CONSTRAINT_CATALOG CONSTRAINT_SCHEMA CONSTRAINT_NAME UNIQUE_CONSTRAINT_CATALOG \
         UNIQUE_CONSTRAINT_SCHEMA UNIQUE_CONSTRAINT_NAME MATCH_OPTION UPDATE_RULE DELETE_RULE \
         TABLE_NAME REFERENCED_TABLE_NAME",
        none,
    ),
    table_of(
        INFORMATION,
        "check_constraints",
        "CONSTRAINT_CATALOG CONSTRAINT_SCHEMA CONSTRAINT_NAME CHECK_CLAUSE",
        none,
    ),
    table_of(
        INFORMATION,
        "views",
        "TABLE_CATALOG TABLE_SCHEMA TABLE_NAME VIEW_DEFINITION CHECK_OPTION IS_UPDATABLE DEFINER \
         SECURITY_TYPE CHARACTER_SET_CLIENT COLLATION_CONNECTION",
        none,
    ),
    table_of(
        INFORMATION,
        "triggers",
        "TRIGGER_CATALOG TRIGGER_SCHEMA TRIGGER_NAME EVENT_MANIPULATION EVENT_OBJECT_CATALOG \
         EVENT_OBJECT_SCHEMA EVENT_OBJECT_TABLE #ACTION_ORDER ACTION_CONDITION ACTION_STATEMENT \
         ACTION_ORIENTATION ACTION_TIMING ACTION_REFERENCE_OLD_TABLE ACTION_REFERENCE_NEW_TABLE \
         ACTION_REFERENCE_OLD_ROW ACTION_REFERENCE_NEW_ROW CREATED SQL_MODE DEFINER \
         CHARACTER_SET_CLIENT COLLATION_CONNECTION DATABASE_COLLATION",
        none,
    ),
    table_of(
        INFORMATION,
        "routines",
        "SPECIFIC_NAME ROUTINE_CATALOG ROUTINE_SCHEMA ROUTINE_NAME ROUTINE_TYPE DATA_TYPE \
         #CHARACTER_MAXIMUM_LENGTH #CHARACTER_OCTET_LENGTH #NUMERIC_PRECISION #NUMERIC_SCALE \
         #DATETIME_PRECISION CHARACTER_SET_NAME COLLATION_NAME DTD_IDENTIFIER ROUTINE_BODY \
         ROUTINE_DEFINITION EXTERNAL_NAME EXTERNAL_LANGUAGE PARAMETER_STYLE IS_DETERMINISTIC \
         SQL_DATA_ACCESS SQL_PATH SECURITY_TYPE CREATED LAST_ALTERED SQL_MODE ROUTINE_COMMENT \
         DEFINER CHARACTER_SET_CLIENT COLLATION_CONNECTION DATABASE_COLLATION",
        none,
    ),
    table_of(
        INFORMATION,
        "parameters",
        "SPECIFIC_CATALOG SPECIFIC_SCHEMA SPECIFIC_NAME #ORDINAL_POSITION PARAMETER_MODE \
         PARAMETER_NAME DATA_TYPE #CHARACTER_MAXIMUM_LENGTH #CHARACTER_OCTET_LENGTH \
         #NUMERIC_PRECISION #NUMERIC_SCALE #DATETIME_PRECISION CHARACTER_SET_NAME COLLATION_NAME \
         DTD_IDENTIFIER ROUTINE_TYPE",
        none,
    ),
    table_of(
        INFORMATION,
        "events",
        "EVENT_CATALOG EVENT_SCHEMA EVENT_NAME DEFINER TIME_ZONE EVENT_BODY EVENT_DEFINITION \
         EVENT_TYPE EXECUTE_AT INTERVAL_VALUE INTERVAL_FIELD SQL_MODE STARTS ENDS STATUS \
         ON_COMPLETION CREATED LAST_ALTERED LAST_EXECUTED EVENT_COMMENT #ORIGINATOR \
         CHARACTER_SET_CLIENT COLLATION_CONNECTION DATABASE_COLLATION",
        none,
    ),
    table_of(
        INFORMATION,
        "partitions",
        "TABLE_CATALOG TABLE_SCHEMA TABLE_NAME PARTITION_NAME SUBPARTITION_NAME \
         #PARTITION_ORDINAL_POSITION #SUBPARTITION_ORDINAL_POSITION PARTITION_METHOD \
         SUBPARTITION_METHOD PARTITION_EXPRESSION SUBPARTITION_EXPRESSION PARTITION_DESCRIPTION \
         #TABLE_ROWS #AVG_ROW_LENGTH #DATA_LENGTH #MAX_DATA_LENGTH #INDEX_LENGTH #DATA_FREE \
         CREATE_TIME UPDATE_TIME CHECK_TIME #CHECKSUM PARTITION_COMMENT NODEGROUP TABLESPACE_NAME",
        none,
    ),
    table_of(
        INFORMATION,
        "files",
        "#FILE_ID FILE_NAME FILE_TYPE TABLESPACE_NAME TABLE_CATALOG TABLE_SCHEMA TABLE_NAME \
         LOGFILE_GROUP_NAME #LOGFILE_GROUP_NUMBER ENGINE #FREE_EXTENTS #TOTAL_EXTENTS \
         #EXTENT_SIZE #INITIAL_SIZE #MAXIMUM_SIZE #AUTOEXTEND_SIZE EXTRA STATUS",
        none,
    ),
    table_of(
        INFORMATION,
        "engines",
        "ENGINE SUPPORT COMMENT TRANSACTIONS XA SAVEPOINTS",
        engines,
    ),
    table_of(
        INFORMATION,
        "character_sets",
        "CHARACTER_SET_NAME DEFAULT_COLLATE_NAME DESCRIPTION #MAXLEN",
        character_sets,
    ),
    table_of(
        INFORMATION,
        "collations",
        "COLLATION_NAME CHARACTER_SET_NAME #ID IS_DEFAULT IS_COMPILED #SORTLEN PAD_ATTRIBUTE",
        collations,
    ),
    table_of(
        INFORMATION,
        "collation_character_set_applicability",
        "COLLATION_NAME CHARACTER_SET_NAME",
        applicability,
    ),
    table_of(INFORMATION, "keywords", "WORD #RESERVED", keywords),
    table_of(
        INFORMATION,
        "processlist",
        "#ID USER HOST DB COMMAND #TIME STATE INFO",
        processlist,
    ),
    table_of(
        INFORMATION,
        "tiflash_replica",
        "TABLE_SCHEMA TABLE_NAME #TABLE_ID #REPLICA_COUNT LOCATION_LABELS #AVAILABLE *PROGRESS",
        tiflash_replica,
    ),
    table_of(
        INFORMATION,
        "column_replica",
        "TABLE_SCHEMA TABLE_NAME #TABLE_ID #REPLICA_COUNT #AVAILABLE *PROGRESS",
        column_replica,
    ),
    table_of(
        INFORMATION,
        "user_privileges",
        "GRANTEE TABLE_CATALOG PRIVILEGE_TYPE IS_GRANTABLE",
        none,
    ),
    table_of(
        INFORMATION,
        "schema_privileges",
        "GRANTEE TABLE_CATALOG TABLE_SCHEMA PRIVILEGE_TYPE IS_GRANTABLE",
        none,
    ),
    table_of(
        INFORMATION,
        "table_privileges",
        "GRANTEE TABLE_CATALOG TABLE_SCHEMA TABLE_NAME PRIVILEGE_TYPE IS_GRANTABLE",
        none,
    ),
    table_of(
        INFORMATION,
        "column_privileges",
        "GRANTEE TABLE_CATALOG TABLE_SCHEMA TABLE_NAME COLUMN_NAME PRIVILEGE_TYPE IS_GRANTABLE",
        none,
    ),
    table_of(
        INFORMATION,
        "plugins",
        "PLUGIN_NAME PLUGIN_VERSION PLUGIN_STATUS PLUGIN_TYPE PLUGIN_TYPE_VERSION PLUGIN_LIBRARY \
         PLUGIN_LIBRARY_VERSION PLUGIN_AUTHOR PLUGIN_DESCRIPTION PLUGIN_LICENSE LOAD_OPTION",
        none,
    ),
    table_of(INFORMATION, "session_variables", "VARIABLE_NAME VARIABLE_VALUE", session_variables),
    table_of(INFORMATION, "global_variables", "VARIABLE_NAME VARIABLE_VALUE", global_variables),
    table_of(PERFORMANCE, "session_variables", "VARIABLE_NAME VARIABLE_VALUE", session_variables),
    table_of(PERFORMANCE, "global_variables", "VARIABLE_NAME VARIABLE_VALUE", global_variables),
    table_of(PERFORMANCE, "session_status", "VARIABLE_NAME VARIABLE_VALUE", status),
    table_of(PERFORMANCE, "global_status", "VARIABLE_NAME VARIABLE_VALUE", status),
    table_of("mysql", "user", "Host User plugin", users),
    table_of("mysql", "db", "Host Db User", none),
];

/// A system table by lower-case names.
pub(super) fn table(information: &Information<'_>, database: &str, name: &str) -> Option<Table> {
    let found = DEFINITIONS.iter().find(|d| d.database == database && d.name == name)?;
    let column = |name: &str| match name.as_bytes()[0] {
        b'#' => number_column(&name[1..]),
        b'*' => crate::outcome::ColumnMeta::expression(&name[1..], ColumnType::Double),
        _ => text_column(name),
    };
    let columns = found.columns.split_ascii_whitespace().map(column).collect();
    Some((columns, (found.rows)(information)))
}

/// The tables of a system database; empty if it is none.
pub(super) fn names(database: &str) -> Vec<&'static str> {
    let mut names: Vec<_> =
        DEFINITIONS.iter().filter(|d| d.database == database).map(|d| d.name).collect();
    names.sort_unstable();
    names
}

fn t(text: impl Into<String>) -> Datum {
    Datum::Text(text.into())
}

fn n(v: impl TryInto<i64>) -> Datum {
    v.try_into().map_or(Datum::Null, Datum::Int)
}

fn yes(v: bool) -> Datum {
    t(if v { "YES" } else { "NO" })
}

const NULL: Datum = Datum::Null;

fn schemata(information: &Information<'_>) -> Vec<Vec<Datum>> {
    let row = |name: String| {
        vec![t("def"), t(name), t("utf8mb4"), t("utf8mb4_bin"), NULL, t("NO")]
    };
    information.databases().into_iter().map(row).collect()
}

fn tables(information: &Information<'_>) -> Vec<Vec<Datum>> {
    let user = information.view.tables().map(|table| {
        let next = table.columns.iter().any(|c| c.auto_increment);
        let next = information.next_auto_increment(table.id).filter(|_| next);
        vec![
            t("def"), t(&table.database), t(&table.name), t("BASE TABLE"), t("InnoDB"), n(10),
            t("Compact"), NULL, n(0), n(0), n(0), n(0), n(0), next.map_or(NULL, n), NULL, NULL,
            NULL, t("utf8mb4_bin"), NULL, t(""), t(&table.comment),
        ]
    });
    let system = DEFINITIONS.iter().map(|d| {
        vec![
            t("def"), t(d.database), t(d.name.to_uppercase()), t("SYSTEM VIEW"), NULL, n(10), NULL,
            NULL, n(0), n(0), n(0), n(0), n(0), NULL, NULL, NULL, NULL, NULL, NULL, t(""), t(""),
        ]
    });
    user.chain(system).collect()
}

/// Characters and bytes at most.
fn lengths(ty: &ColumnType) -> (Datum, Datum) {
    match ty {
        ColumnType::Char { len } | ColumnType::VarChar { len } => {
            (n(*len), n(i64::from(*len) * 4))
        }
        ColumnType::Text { bytes_max } | ColumnType::Blob { bytes_max } => {
            (n(*bytes_max), n(*bytes_max))
        }
        ColumnType::Binary { len } | ColumnType::VarBinary { len } => (n(*len), n(*len)),
        _ => (NULL, NULL),
    }
}

/// Digits, and digits after the point.
fn digits(ty: &ColumnType) -> (Datum, Datum) {
    match ty {
        ColumnType::Bool => (n(3), n(0)),
        ColumnType::Int { width, unsigned } => {
            let digits = match (width.bits(), unsigned) {
                (8, _) => 3,
                (16, _) => 5,
                (24, _) => 7,
                (32, _) => 10,
                (_, false) => 19,
                (_, true) => 20,
            };
            (n(digits), n(0))
        }
        ColumnType::Float => (n(12), NULL),
        ColumnType::Double => (n(22), NULL),
        ColumnType::Decimal { precision, scale } => (n(*precision), n(*scale)),
        _ => (NULL, NULL),
    }
}

fn columns(information: &Information<'_>) -> Vec<Vec<Datum>> {
    information.view.tables().flat_map(|table| columns_of(table)).collect()
}

fn columns_of(table: &TableSchema) -> Vec<Vec<Datum>> {
    let row = |(at, column): (usize, &damask_types::ColumnSchema)| {
        let ty = &column.ty;
        let (characters, bytes) = lengths(ty);
        let (precision, scale) = digits(ty);
        let fsp = match ty {
            ColumnType::DateTime { fsp } | ColumnType::Timestamp { fsp } | ColumnType::Time { fsp } => {
                n(*fsp)
            }
            _ => NULL,
        };
        let text = |value: &str| if ty.is_text() { t(value) } else { NULL };
        vec![
            t("def"), t(&table.database), t(&table.name), t(&column.name), n(at + 1),
            describe::default_text(column).map_or(NULL, Datum::Text), yes(column.nullable),
            t(describe::data_type(ty)), characters, bytes, precision, scale, fsp, text("utf8mb4"),
            text("utf8mb4_bin"), t(describe::column_type(ty)), t(describe::key(table, column)),
            t(describe::extra(column)), t("select,insert,update,references"), t(&column.comment),
            t(""), NULL,
        ]
    };
    table.columns.iter().enumerate().map(row).collect()
}

fn statistics(information: &Information<'_>) -> Vec<Vec<Datum>> {
    let mut rows = Vec::new();
    for table in information.view.tables() {
        for (name, parts, unique) in describe::keys(table) {
            for (at, column) in parts.iter().enumerate() {
                let null = t(if column.nullable { "YES" } else { "" });
                rows.push(vec![
                    t("def"), t(&table.database), t(&table.name), n(i64::from(!unique)),
                    t(&table.database), t(&name), n(at + 1), t(&column.name), t("A"), n(0), NULL,
                    NULL, null, t("BTREE"), t(""), t(""), t("YES"), NULL,
                ]);
            }
        }
    }
    rows
}

fn key_column_usage(information: &Information<'_>) -> Vec<Vec<Datum>> {
    let mut rows = Vec::new();
    for table in information.view.tables() {
        for (name, parts, _) in describe::keys(table).into_iter().filter(|(_, _, unique)| *unique) {
            for (at, column) in parts.iter().enumerate() {
                rows.push(vec![
                    t("def"), t(&table.database), t(&name), t("def"), t(&table.database),
                    t(&table.name), t(&column.name), n(at + 1), NULL, NULL, NULL, NULL,
                ]);
            }
        }
    }
    rows
}

fn table_constraints(information: &Information<'_>) -> Vec<Vec<Datum>> {
    let mut rows = Vec::new();
    for table in information.view.tables() {
        for (name, _, _) in describe::keys(table).into_iter().filter(|(_, _, unique)| *unique) {
            let kind = if name == "PRIMARY" { "PRIMARY KEY" } else { "UNIQUE" };
            rows.push(vec![
                t("def"), t(&table.database), t(name), t(&table.database), t(&table.name), t(kind),
                t("YES"),
            ]);
        }
    }
    rows
}

fn engines(_: &Information<'_>) -> Vec<Vec<Datum>> {
    let comment = "Replicated rows and columns, transactions, row versions";
    vec![vec![t("InnoDB"), t("DEFAULT"), t(comment), t("YES"), t("NO"), t("YES")]]
}

fn character_sets(_: &Information<'_>) -> Vec<Vec<Datum>> {
    let row = |c: &crate::variables::Charset| {
        vec![t(c.name), t(c.collation), t(c.description), n(c.bytes_max)]
    };
    CHARSETS.iter().map(row).collect()
}

fn collations(_: &Information<'_>) -> Vec<Vec<Datum>> {
    let rows = COLLATIONS.iter().map(|(name, charset, id, default)| {
        let default = t(if *default { "Yes" } else { "" });
        vec![t(*name), t(*charset), n(*id), default, t("Yes"), n(1), t("PAD SPACE")]
    });
    rows.collect()
}

fn applicability(_: &Information<'_>) -> Vec<Vec<Datum>> {
    COLLATIONS.iter().map(|(name, charset, _, _)| vec![t(*name), t(*charset)]).collect()
}

fn keywords(_: &Information<'_>) -> Vec<Vec<Datum>> {
    crate::statement::RESERVED.iter().map(|word| vec![t(*word), n(1)]).collect()
}

fn processlist(information: &Information<'_>) -> Vec<Vec<Datum>> {
    let rows = information.shared.processes().into_iter().map(|p| {
        vec![
            n(p.id), t(p.user), t(p.host), p.database.map_or(NULL, t), t(p.command),
            n(p.seconds as i64), t(p.state), p.info.map_or(NULL, t),
        ]
    });
    rows.collect()
}

/// Schema, name, id, wanted, available, progress of the tables with column replicas.
fn replicas(information: &Information<'_>) -> Vec<[Datum; 6]> {
    let tables = information.view.tables().filter(|t| t.column_replicas > 0);
    let rows = tables.map(|table| {
        let (ready, wanted) = information.shared.replica_progress(table.id);
        let progress = if wanted == 0 { 0.0 } else { f64::from(ready) / f64::from(wanted) };
        let available = i64::from(wanted > 0 && ready >= wanted);
        [
            t(&table.database), t(&table.name), n(table.id.0), n(table.column_replicas),
            n(available), Datum::Double(progress.min(1.0)),
        ]
    });
    rows.collect()
}

fn column_replica(information: &Information<'_>) -> Vec<Vec<Datum>> {
    replicas(information).into_iter().map(Vec::from).collect()
}

fn tiflash_replica(information: &Information<'_>) -> Vec<Vec<Datum>> {
    let rows = replicas(information).into_iter().map(|[schema, name, id, count, available, progress]| {
        vec![schema, name, id, count, t(""), available, progress]
    });
    rows.collect()
}

fn session_variables(information: &Information<'_>) -> Vec<Vec<Datum>> {
    variables(information, false)
}

fn global_variables(information: &Information<'_>) -> Vec<Vec<Datum>> {
    variables(information, true)
}

fn variables(information: &Information<'_>, global: bool) -> Vec<Vec<Datum>> {
    let all = information.variables.all(global).into_iter();
    all.map(|(name, value)| vec![t(name), t(value)]).collect()
}

fn status(information: &Information<'_>) -> Vec<Vec<Datum>> {
    information.status().into_iter().map(|(name, value)| vec![t(name), t(value)]).collect()
}

fn users(_: &Information<'_>) -> Vec<Vec<Datum>> {
    vec![vec![t("%"), t("root"), t("mysql_native_password")]]
}
