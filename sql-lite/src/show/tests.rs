//! SHOW against what MySQL's clients expect, over a catalog made here.

use super::{ColumnReplicas, Context, LockWait, LockWaits, Process, show};
use crate::catalog::CatalogView;
use crate::convert;
use crate::error::Result;
use crate::outcome::RowBatch;
use crate::query::{TableFacts, TableSize};
use crate::session::{Level, SessionFacts, Warnings};
use crate::statement::{Stmt, parse};
use crate::variables::{Globals, SqlMode, Variables};
use damask_types::key::row_key;
use damask_types::row::encode_value;
use damask_types::schema::{DefaultValue, IndexState, IntWidth};
use damask_types::{
    ColumnId, ColumnSchema, ColumnType, Datum, IndexId, IndexSchema, KeyRange, TableId,
    TableSchema, Timestamp,
};
use std::sync::Arc;

/// Two of three regions' replicas are there.
pub(crate) struct TwoOfThree;

impl ColumnReplicas for TwoOfThree {
    fn set(&self, _: KeyRange, _: u32) -> std::result::Result<(), String> {
        Err("SHOW changes nothing".to_owned())
    }

    fn remove(&self, _: &KeyRange) -> std::result::Result<(), String> {
        Err("SHOW changes nothing".to_owned())
    }

    fn progress(&self, _: &KeyRange) -> (u32, u32) {
        (2, 3)
    }

    fn indexes(&self, _: &KeyRange) -> Option<(u64, u64)> {
        Some((7, 9))
    }

    fn lag_ms(&self, _: &KeyRange) -> Option<u64> {
        Some(3)
    }
}

fn column(id: i64, name: &str, ty: ColumnType, nullable: bool) -> ColumnSchema {
    ColumnSchema {
        id: ColumnId(id),
        name: name.to_owned(),
        ty,
        nullable,
        default: None,
        origin_default: None,
        auto_increment: false,
        on_update_now: false,
        comment: String::new(),
    }
}

fn constant(value: Datum) -> Option<DefaultValue> {
    Some(DefaultValue::Constant(encode_value(&value)))
}

fn index(id: i64, name: &str, columns: &[i64], unique: bool) -> IndexSchema {
    IndexSchema {
        readable_from: damask_types::Timestamp::ZERO,
        id: IndexId(id),
        name: name.to_owned(),
        columns: columns.iter().map(|id| ColumnId(*id)).collect(),
        unique,
        primary: false,
        state: IndexState::Public,
    }
}

fn table(id: i64, database: &str, name: &str, columns: Vec<ColumnSchema>) -> TableSchema {
    TableSchema {
        id: TableId(id),
        database: database.to_owned(),
        name: name.to_owned(),
        version: 1,
        max_column_id: ColumnId(columns.len() as i64),
        columns,
        handle_column: None,
        indexes: Vec::new(),
        column_replicas: 0,
        max_index_id: IndexId(9),
        comment: String::new(),
    }
}

/// One column of every type, in the shapes DDL gives.
fn every_type() -> TableSchema {
    use ColumnType as T;
    let int = |width, unsigned| T::Int { width, unsigned };
    let columns = vec![
        ColumnSchema { auto_increment: true, ..column(1, "id", int(IntWidth::Big, false), false) },
        ColumnSchema {
            default: constant(Datum::UInt(7)),
            ..column(2, "u", int(IntWidth::Normal, true), false)
        },
        ColumnSchema { default: constant(Datum::Int(1)), ..column(3, "flag", T::Bool, true) },
        column(4, "small", int(IntWidth::Small, false), true),
        column(5, "f", T::Float, true),
        ColumnSchema { default: constant(Datum::Double(0.5)), ..column(6, "d", T::Double, false) },
        ColumnSchema {
            default: constant(Datum::Decimal(damask_types::Decimal { unscaled: 150, scale: 2 })),
            ..column(7, "price", T::Decimal { precision: 10, scale: 2 }, false)
        },
        ColumnSchema {
            default: constant(Datum::Text("it's \\ a\nline".to_owned())),
            comment: "the user's `name`".to_owned(),
            ..column(8, "na`me", T::VarChar { len: 20 }, false)
        },
        column(9, "code", T::Char { len: 3 }, true),
        column(10, "body", T::Text { bytes_max: 65_535 }, true),
        column(11, "raw", T::Blob { bytes_max: u32::MAX }, true),
        ColumnSchema {
            default: constant(Datum::Bytes(vec![0xFF, 0])),
            ..column(12, "bin", T::VarBinary { len: 2 }, false)
        },
        ColumnSchema { default: constant(Datum::Date(0)), ..column(13, "day", T::Date, true) },
        ColumnSchema {
            default: Some(DefaultValue::CurrentTimestamp),
            on_update_now: true,
            ..column(14, "changed", T::DateTime { fsp: 6 }, false)
        },
        ColumnSchema {
            default: constant(Datum::DateTime(0)),
            ..column(15, "seen", T::Timestamp { fsp: 0 }, true)
        },
        column(16, "took", T::Time { fsp: 3 }, true),
    ];
    let mut building = index(5, "building", &[4], false);
    building.state = IndexState::WriteOnly;
    TableSchema {
        handle_column: Some(ColumnId(1)),
        indexes: vec![
            index(1, "by_day", &[13, 4], false),
            index(2, "u_code", &[9], true),
            index(3, "u_name", &[8, 2], true),
            building,
        ],
        comment: "every 'type'".to_owned(),
        column_replicas: 1,
        ..table(101, "test", "Every", columns)
    }
}

pub(crate) fn view() -> Arc<CatalogView> {
    let big = ColumnType::Int { width: IntWidth::Big, unsigned: false };
    let plain = TableSchema {
        indexes: vec![IndexSchema { primary: true, ..index(1, "PRIMARY", &[2, 1], true) }],
        ..table(
            102,
            "test",
            "pairs",
            vec![column(1, "a", big.clone(), false), column(2, "b", big.clone(), false)],
        )
    };
    let bare = table(103, "Other", "bare", vec![column(1, "x", big, true)]);
    let databases = vec!["test".to_owned(), "Other".to_owned()];
    Arc::new(CatalogView::new(7, databases, vec![every_type(), plain, bare]))
}

/// As many rows as columns.
struct AsManyAsColumns;

impl TableFacts for AsManyAsColumns {
    fn size(&self, table: &TableSchema) -> TableSize {
        TableSize { rows: table.columns.len() as f64, regions: 1.0 }
    }

    fn columns_ready(&self, _: &TableSchema) -> bool {
        false
    }

    fn columns_stopped(&self, _: &TableSchema) -> bool {
        false
    }
}

/// Runs `body` in a session of `root@127.0.0.1` in database `test`, at +01:00.
pub(crate) fn with_context<T>(body: impl FnOnce(&Context<'_>) -> T) -> T {
    let mut variables = Variables::new(Arc::new(Globals::default()));
    variables.set("time_zone", Some(Datum::Text("+01:00".into())), false).unwrap();
    let facts =
        SessionFacts { user: "root".into(), host: "127.0.0.1".into(), ..Default::default() };
    let mut warnings = Warnings::default();
    warnings.push(Level::Warning, 1265, "Data truncated");
    warnings.push(Level::Error, 1146, "Table 'x' doesn't exist");
    let processes = [
        Process { id: 9, command: "Sleep".into(), user: "b".into(), ..Default::default() },
        Process {
            id: 2,
            user: "root".into(),
            host: "127.0.0.1:5".into(),
            database: Some("test".into()),
            command: "Query".into(),
            seconds: 3,
            state: "executing".into(),
            info: Some("x".repeat(150)),
            locking: Some(Timestamp(77)),
        },
    ];
    let waits: LockWaits = Arc::new(|| {
        let wait = |key, waiter| LockWait { key, waiter: Timestamp(waiter), holder: Timestamp(5) };
        vec![wait(row_key(TableId(101), 7), 77), wait(row_key(TableId(9999), 7), 78)]
    });
    body(&Context {
        view: view(),
        database: Some("test"),
        variables: &variables,
        facts: &facts,
        warnings: &warnings,
        replicas: &TwoOfThree,
        processes: &processes,
        tables: &AsManyAsColumns,
        lock_waits: &waits,
    })
}

fn run(sql: &str) -> Result<(Vec<String>, Vec<Vec<Datum>>)> {
    let parsed = parse(sql, 0, SqlMode::default())?;
    let Stmt::Show(statement) = parsed.stmt else { panic!("{sql} is no SHOW") };
    let mut rows = with_context(|ctx| show(ctx, &statement))?;
    let mut all = Vec::new();
    while let Some(batch) = rows.source.next()? {
        let RowBatch::Datums(batch) = batch else { panic!("SHOW is row-wise") };
        all.extend(batch);
    }
    for row in &all {
        assert_eq!(row.len(), rows.columns.len(), "{sql}");
    }
    Ok((rows.columns.into_iter().map(|c| c.name).collect(), all))
}

/// Title line, then one line a row, cells parted by `|`, NULL as `-`.
fn golden(sql: &str) -> String {
    let (columns, rows) = run(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    lines(&columns, &rows)
}

pub(crate) fn lines(columns: &[String], rows: &[Vec<Datum>]) -> String {
    let cell = |v: &Datum| convert::text(v, None).unwrap_or_else(|| "-".to_owned());
    let mut out = columns.join("|");
    for row in rows {
        out.push('\n');
        out.push_str(&row.iter().map(cell).collect::<Vec<_>>().join("|"));
    }
    out
}

fn cell(sql: &str, column: usize) -> String {
    let (_, rows) = run(sql).unwrap();
    convert::text(&rows[0][column], None).unwrap()
}

fn code(sql: &str) -> (u16, String) {
    let error = run(sql).err().unwrap_or_else(|| panic!("{sql} must fail"));
    (error.code, error.message)
}

#[test]
fn create_table_is_mysqls_text() {
    let expected = "\
CREATE TABLE `Every` (
  `id` bigint NOT NULL AUTO_INCREMENT,
  `u` int unsigned NOT NULL DEFAULT '7',
  `flag` tinyint(1) DEFAULT '1',
  `small` smallint DEFAULT NULL,
  `f` float DEFAULT NULL,
  `d` double NOT NULL DEFAULT '0.5',
  `price` decimal(10,2) NOT NULL DEFAULT '1.50',
  `na``me` varchar(20) NOT NULL DEFAULT 'it''s \\\\ a\\nline' COMMENT 'the user''s `name`',
  `code` char(3) DEFAULT NULL,
  `body` text,
  `raw` longblob,
  `bin` varbinary(2) NOT NULL DEFAULT 0xFF00,
  `day` date DEFAULT '1970-01-01',
  `changed` datetime(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6),
  `seen` timestamp NULL DEFAULT '1970-01-01 01:00:00',
  `took` time(3) DEFAULT NULL,
  PRIMARY KEY (`id`),
  UNIQUE KEY `u_name` (`na``me`,`u`),
  UNIQUE KEY `u_code` (`code`),
  KEY `by_day` (`day`,`small`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin COMMENT='every ''type'''";
    assert_eq!(cell("SHOW CREATE TABLE test.every", 1), expected);
    assert_eq!(cell("SHOW CREATE TABLE every", 0), "Every");
    let expected = "\
CREATE TABLE `pairs` (
  `a` bigint NOT NULL,
  `b` bigint NOT NULL,
  PRIMARY KEY (`b`,`a`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin";
    assert_eq!(cell("SHOW CREATE TABLE pairs", 1), expected);
}

#[test]
fn what_is_shown_can_be_read_again() {
    let text = cell("SHOW CREATE TABLE every", 1);
    let parsed = parse(&text, 0, SqlMode::default()).unwrap();
    let Stmt::CreateTable(table) = parsed.stmt else { panic!("not a CREATE TABLE") };
    assert_eq!(table.columns.len(), 16);
}

#[test]
fn create_database_and_view() {
    let tail = "/*!40100 DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin */";
    assert_eq!(cell("SHOW CREATE DATABASE other", 0), "Other");
    assert_eq!(cell("SHOW CREATE DATABASE other", 1), format!("CREATE DATABASE `Other` {tail}"));
    assert_eq!(
        cell("SHOW CREATE SCHEMA IF NOT EXISTS test", 1),
        format!("CREATE DATABASE /*!32312 IF NOT EXISTS*/ `test` {tail}")
    );
    assert_eq!(code("SHOW CREATE DATABASE nodb").0, 1049);
    assert_eq!(code("SHOW CREATE VIEW pairs"), (1347, "'test.pairs' is not VIEW".to_owned()));
}

#[test]
fn databases_and_tables() {
    assert_eq!(
        golden("SHOW DATABASES"),
        "Database\ninformation_schema\nmysql\nOther\nperformance_schema\ntest"
    );
    assert_eq!(golden("SHOW SCHEMAS LIKE 'TE%'"), "Database (TE%)\ntest");
    assert_eq!(golden("SHOW TABLES"), "Tables_in_test\nEvery\npairs");
    assert_eq!(golden("SHOW TABLES LIKE 'p_irs'"), "Tables_in_test (p_irs)\npairs");
    assert_eq!(
        golden("SHOW FULL TABLES FROM `Other`"),
        "Tables_in_Other|Table_type\nbare|BASE TABLE"
    );
    assert_eq!(
        golden("SHOW FULL TABLES FROM mysql WHERE Table_type = 'base table'"),
        "Tables_in_mysql|Table_type\nuser|BASE TABLE"
    );
    assert_eq!(golden("SHOW TABLES WHERE Tables_in_test <> 'pairs'"), "Tables_in_test\nEvery");
    assert_eq!(code("SHOW TABLES FROM nodb"), (1049, "Unknown database 'nodb'".to_owned()));
}

#[test]
fn columns_of_a_table() {
    let expected = "\
Field|Type|Null|Key|Default|Extra
id|bigint|NO|PRI|-|auto_increment
u|int unsigned|NO||7|
flag|tinyint(1)|YES||1|
small|smallint|YES||-|
f|float|YES||-|
d|double|NO||0.5|
price|decimal(10,2)|NO||1.50|
na`me|varchar(20)|NO|MUL|it's \\ a
line|
code|char(3)|YES|UNI|-|
body|text|YES||-|
raw|longblob|YES||-|
bin|varbinary(2)|NO||0xFF00|
day|date|YES|MUL|1970-01-01|
changed|datetime(6)|NO||CURRENT_TIMESTAMP(6)|DEFAULT_GENERATED on update CURRENT_TIMESTAMP(6)
seen|timestamp|YES||1970-01-01 01:00:00|
took|time(3)|YES||-|";
    assert_eq!(golden("DESC every"), expected);
    assert_eq!(golden("SHOW COLUMNS FROM every FROM test"), expected);
    assert_eq!(
        golden("SHOW FULL COLUMNS FROM every WHERE Field IN ('id', 'CODE')"),
        "Field|Type|Collation|Null|Key|Default|Extra|Privileges|Comment\n\
         id|bigint|-|NO|PRI|-|auto_increment|select,insert,update,references|\n\
         code|char(3)|utf8mb4_bin|YES|UNI|-||select,insert,update,references|"
    );
    assert_eq!(
        golden("DESCRIBE every 'd%'"),
        "Field|Type|Null|Key|Default|Extra\nd|double|NO||0.5|\nday|date|YES|MUL|1970-01-01|"
    );
    assert_eq!(
        golden("SHOW COLUMNS FROM pairs"),
        "Field|Type|Null|Key|Default|Extra\na|bigint|NO|PRI|-|\nb|bigint|NO|PRI|-|"
    );
}

#[test]
fn what_is_missing_has_its_number() {
    let missing = (1146, "Table 'test.nope' doesn't exist".to_owned());
    for sql in ["DESC nope", "SHOW CREATE TABLE nope", "SHOW INDEX FROM nope"] {
        assert_eq!(code(sql), missing);
    }
    assert_eq!(code("DESCRIBE nodb.t"), (1049, "Unknown database 'nodb'".to_owned()));
    assert_eq!(code("SHOW TABLE STATUS FROM nodb").0, 1049);
}

#[test]
fn indexes() {
    assert_eq!(
        golden("SHOW KEYS FROM every WHERE Key_name = 'PRIMARY' OR Non_unique = 1"),
        "Table|Non_unique|Key_name|Seq_in_index|Column_name|Collation|Cardinality|Sub_part|\
         Packed|Null|Index_type|Comment|Index_comment|Visible|Expression\n\
         Every|0|PRIMARY|1|id|A|16|-|-||BTREE|||YES|-\n\
         Every|1|by_day|1|day|A|-|-|-|YES|BTREE|||YES|-\n\
         Every|1|by_day|2|small|A|-|-|-|YES|BTREE|||YES|-"
    );
    let (_, rows) = run("SHOW INDEX FROM every").unwrap();
    assert_eq!(rows.len(), 6, "an index that is being built is not shown");
}

#[test]
fn table_status() {
    let (columns, rows) = run("SHOW TABLE STATUS LIKE 'EVERY'").unwrap();
    assert_eq!(columns.len(), 18);
    let row = lines(&columns, &rows);
    let row = row.lines().nth(1).unwrap();
    assert_eq!(row, "Every|InnoDB|10|Dynamic|16|-|-|-|-|-|-|-|-|-|utf8mb4_bin|-||every 'type'");
    assert!(!run("SHOW TABLE STATUS FROM information_schema").unwrap().1.is_empty());
}

#[test]
fn session_and_server() {
    assert_eq!(golden("SHOW VARIABLES LIKE 'autocommi_'"), "Variable_name|Value\nautocommit|ON");
    assert_eq!(
        golden(
            "SHOW VARIABLES WHERE Variable_name = 'net_buffer_length' \
             OR Variable_name LIKE 'version\\_comp%_os'"
        ),
        "Variable_name|Value\nnet_buffer_length|16384\nversion_compile_os|Linux"
    );
    assert_eq!(
        golden("SHOW GLOBAL STATUS LIKE 'threads%'"),
        "Variable_name|Value\nThreads_connected|2\nThreads_running|1"
    );
    assert_eq!(
        golden("SHOW WARNINGS"),
        "Level|Code|Message\nWarning|1265|Data truncated\nError|1146|Table 'x' doesn't exist"
    );
    assert_eq!(
        golden("SHOW ERRORS LIMIT 1"),
        "Level|Code|Message\nError|1146|Table 'x' doesn't exist"
    );
    assert_eq!(golden("SHOW WARNINGS LIMIT 2, 5"), "Level|Code|Message");
    assert_eq!(golden("SHOW COUNT(*) WARNINGS"), "@@session.warning_count\n2");
    assert_eq!(golden("SHOW COUNT(*) ERRORS"), "@@session.error_count\n1");
    assert_eq!(
        golden("SHOW CHARACTER SET LIKE 'utf8mb4'"),
        "Charset|Description|Default collation|Maxlen\nutf8mb4|UTF-8 Unicode|utf8mb4_bin|4"
    );
    assert_eq!(
        golden("SHOW COLLATION WHERE Charset = 'utf8mb4' AND `Default` = 'Yes'"),
        "Collation|Charset|Id|Default|Compiled|Sortlen|Pad_attribute\n\
         utf8mb4_bin|utf8mb4|46|Yes|Yes|1|NO PAD"
    );
    assert_eq!(
        golden("SHOW GRANTS"),
        "Grants for root@%\nGRANT ALL PRIVILEGES ON *.* TO `root`@`%` WITH GRANT OPTION"
    );
    let titles = "Id|User|Host|db|Command|Time|State|Info";
    let (short, long) = ("x".repeat(100), "x".repeat(150));
    let line = "2|root|127.0.0.1:5|test|Query|3|executing";
    assert_eq!(golden("SHOW PROCESSLIST"), format!("{titles}\n{line}|{short}\n9|b||-|Sleep|0||-"));
    assert_eq!(
        golden("SHOW FULL PROCESSLIST WHERE Command != 'Sleep'"),
        format!("{titles}\n{line}|{long}")
    );
    for sql in ["SHOW ENGINES", "SHOW PLUGINS", "SHOW PRIVILEGES"] {
        assert!(!run(sql).unwrap().1.is_empty(), "{sql}");
    }
    assert!(run("SHOW PROCEDURE STATUS WHERE Db = DATABASE()").unwrap().1.is_empty());
}

#[test]
fn conditions() {
    let names = |condition: &str| {
        let (_, rows) = run(&format!("SHOW COLUMNS FROM every WHERE {condition}")).unwrap();
        rows.iter().map(|r| convert::text(&r[0], None).unwrap()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("`Key` = 'uni' OR `Key` = 'PRI'"), "id code");
    assert_eq!(
        names("`Default` IS NOT NULL AND NOT `Null` = 'YES' AND Type LIKE 'd%'"),
        "d price changed"
    );
    assert_eq!(names("Field BETWEEN 'da' AND 'F' AND Field <> 'day'"), "f");
    assert_eq!(names("Field NOT IN ('id', NULL)"), "", "unknown is not true");
    assert_eq!(names("(Field = 'id') XOR (Field >= 'took')"), "id u took");
    assert_eq!(names("Field LIKE '%|_%' ESCAPE '|' OR Field <=> NULL"), "");
    assert_eq!(names("Columns.Field = 'f' AND TRUE"), "f");
    assert_eq!(
        code("SHOW COLUMNS FROM every WHERE nope = 1"),
        (1054, "Unknown column 'nope' in 'where clause'".to_owned())
    );
    assert_eq!(code("SHOW TABLES FROM Other WHERE length(Tables_in_Other) > 1").0, 1235);
    assert_eq!(code("SHOW TRIGGERS WHERE nope = 1").0, 1054, "also without rows");
}

#[test]
fn like_as_mysql() {
    use super::filter::like;
    let yes = [
        ("", ""),
        ("", "%"),
        ("abc", "A%C"),
        ("abc", "___"),
        ("a%c", "a\\%c"),
        ("aXbXc", "%x%c"),
        ("aab", "%ab"),
        ("ÄB", "ä_"),
        ("a\\", "a\\\\"),
    ];
    let no = [("", "_"), ("abc", "ab"), ("abc", "a\\%c"), ("abcd", "%bc"), ("ab", "%_%_%_")];
    for (text, pattern) in yes {
        assert!(like(text, pattern, Some('\\')), "{text} LIKE {pattern}");
    }
    for (text, pattern) in no {
        assert!(!like(text, pattern, Some('\\')), "{text} NOT LIKE {pattern}");
    }
    assert!(like("a\\b", "a\\b", None));
}

#[test]
fn a_unique_key_without_null_stands_for_the_primary_key() {
    let int = ColumnType::Int { width: IntWidth::Normal, unsigned: false };
    let t = TableSchema {
        indexes: vec![index(1, "n", &[2], true), index(2, "u", &[1], true)],
        ..table(1, "test", "t", vec![column(1, "a", int.clone(), false), column(2, "b", int, true)])
    };
    let keys = super::describe::keys(&t);
    let shown: Vec<_> = t.columns.iter().map(|c| super::describe::column_key(&keys, c)).collect();
    assert_eq!(shown, ["PRI", "UNI"]);
}

#[test]
fn a_damaged_default_is_named() {
    let int = ColumnType::Int { width: IntWidth::Normal, unsigned: false };
    let mut bad = column(1, "a", int, true);
    bad.default = Some(DefaultValue::Constant(Some(vec![1, 2, 3])));
    let error = super::describe::default_text(&bad, 0).unwrap_err();
    assert!(error.message.starts_with("the default of column 'a' is damaged"), "{error}");
}
