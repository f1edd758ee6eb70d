//! The system tables: their columns, and rows of a catalog made in the tests of `show`.

use super::{names, schema, system_table, table};
use crate::convert;
use crate::show::tests::with_context;
use damask_types::Datum;

/// The named columns of the rows that `keep` wants, cells parted by `|`, NULL as `-`.
fn select(name: &str, wanted: &[&str], keep: impl Fn(&dyn Fn(&str) -> String) -> bool) -> String {
    let (columns, rows) = with_context(|ctx| table(ctx, name)).unwrap();
    let at = |wanted: &str| columns.iter().position(|c| c.name == wanted).unwrap();
    let text = |v: &Datum| convert::text(v, None).unwrap_or_else(|| "-".to_owned());
    let mut lines = Vec::new();
    for row in &rows {
        assert_eq!(row.len(), columns.len(), "{name}");
        let get = |wanted: &str| text(&row[at(wanted)]);
        if keep(&get) {
            lines.push(wanted.iter().map(|w| get(w)).collect::<Vec<_>>().join("|"));
        }
    }
    lines.join("\n")
}

#[test]
fn every_table_has_rows_of_its_columns_types() {
    use damask_types::ColumnType as T;
    let system = with_context(|ctx| {
        super::TABLES
            .iter()
            .map(|t| (t.name, system_table(ctx, t.database, t.name).unwrap()))
            .collect::<Vec<_>>()
    });
    for (name, (columns, rows)) in system {
        for row in rows {
            assert_eq!(row.len(), columns.len(), "{name}");
            for (column, value) in columns.iter().zip(&row) {
                let fits = match (column.ty.as_ref().unwrap(), value) {
                    (_, Datum::Null) => true,
                    (T::VarChar { .. }, v) => matches!(v, Datum::Text(_)),
                    (T::Int { unsigned: true, .. }, v) => matches!(v, Datum::UInt(_)),
                    (T::Int { .. }, v) => matches!(v, Datum::Int(_)),
                    (T::Double, v) => matches!(v, Datum::Double(_)),
                    _ => false,
                };
                assert!(fits, "{name}.{}: {value:?}", column.name);
            }
        }
    }
}

#[test]
fn names_are_found_in_any_case() {
    let all: Vec<_> = names().collect();
    assert!(all.contains(&"KEY_COLUMN_USAGE") && all.contains(&"TIFLASH_REPLICA"));
    assert!(all.is_sorted());
    let found = with_context(|ctx| system_table(ctx, "INFORMATION_SCHEMA", "tables")).unwrap();
    assert_eq!(found.0[2].org_name, "TABLE_NAME");
    assert!(with_context(|ctx| table(ctx, "nope")).is_none());
    assert!(schema("performance_schema", "SESSION_VARIABLES").is_some());
}

#[test]
fn schemata_and_tables() {
    let name = ["SCHEMA_NAME", "DEFAULT_COLLATION_NAME"];
    assert_eq!(
        select("SCHEMATA", &name, |get| !get("SCHEMA_NAME").contains('s')),
        "Other|utf8mb4_bin"
    );
    let wanted = ["TABLE_SCHEMA", "TABLE_NAME", "TABLE_TYPE", "ENGINE", "TABLE_COMMENT"];
    assert_eq!(
        select("TABLES", &wanted, |get| {
            !get("TABLE_SCHEMA").ends_with("schema") || get("TABLE_NAME") == "TABLES"
        }),
        "Other|bare|BASE TABLE|InnoDB|\n\
         test|Every|BASE TABLE|InnoDB|every 'type'\n\
         test|pairs|BASE TABLE|InnoDB|\n\
         information_schema|TABLES|SYSTEM VIEW|-|\n\
         mysql|user|BASE TABLE|-|"
    );
}

#[test]
fn columns_have_their_sizes() {
    let wanted = [
        "COLUMN_NAME",
        "ORDINAL_POSITION",
        "COLUMN_DEFAULT",
        "IS_NULLABLE",
        "DATA_TYPE",
        "CHARACTER_MAXIMUM_LENGTH",
        "CHARACTER_OCTET_LENGTH",
        "NUMERIC_PRECISION",
        "NUMERIC_SCALE",
        "DATETIME_PRECISION",
        "CHARACTER_SET_NAME",
        "COLUMN_TYPE",
        "COLUMN_KEY",
        "EXTRA",
    ];
    let shown = ["id", "u", "flag", "price", "code", "body", "bin", "changed"];
    assert_eq!(
        select("COLUMNS", &wanted, |get| {
            get("TABLE_NAME") == "Every" && shown.contains(&get("COLUMN_NAME").as_str())
        }),
        "\
id|1|-|NO|bigint|-|-|19|0|-|-|bigint|PRI|auto_increment
u|2|7|NO|int|-|-|10|0|-|-|int unsigned||
flag|3|1|YES|tinyint|-|-|3|0|-|-|tinyint(1)||
price|7|1.50|NO|decimal|-|-|10|2|-|-|decimal(10,2)||
code|9|-|YES|char|3|12|-|-|-|utf8mb4|char(3)|UNI|
body|10|-|YES|text|65535|65535|-|-|-|utf8mb4|text||
bin|12|0xFF00|NO|varbinary|2|2|-|-|-|-|varbinary(2)||
changed|14|CURRENT_TIMESTAMP(6)|NO|datetime|-|-|-|-|6|-|datetime(6)||DEFAULT_GENERATED on update CURRENT_TIMESTAMP(6)"
    );
}

#[test]
fn keys_and_constraints() {
    let wanted = ["TABLE_NAME", "NON_UNIQUE", "INDEX_NAME", "SEQ_IN_INDEX", "COLUMN_NAME"];
    let statistics = select("STATISTICS", &wanted, |get| get("INDEX_SCHEMA") == "test");
    assert_eq!(
        statistics,
        "\
Every|0|PRIMARY|1|id
Every|0|u_name|1|na`me
Every|0|u_name|2|u
Every|0|u_code|1|code
Every|1|by_day|1|day
Every|1|by_day|2|small
pairs|0|PRIMARY|1|b
pairs|0|PRIMARY|2|a"
    );
    let wanted = [
        "CONSTRAINT_NAME",
        "TABLE_NAME",
        "COLUMN_NAME",
        "ORDINAL_POSITION",
        "REFERENCED_TABLE_NAME",
    ];
    assert_eq!(
        select("KEY_COLUMN_USAGE", &wanted, |get| get("CONSTRAINT_NAME") == "PRIMARY"),
        "PRIMARY|Every|id|1|-\nPRIMARY|pairs|b|1|-\nPRIMARY|pairs|a|2|-"
    );
    let wanted = ["CONSTRAINT_NAME", "TABLE_NAME", "CONSTRAINT_TYPE"];
    assert_eq!(
        select("TABLE_CONSTRAINTS", &wanted, |_| true),
        "PRIMARY|Every|PRIMARY KEY\nu_name|Every|UNIQUE\nu_code|Every|UNIQUE\nPRIMARY|pairs|PRIMARY KEY"
    );
    assert_eq!(select("REFERENTIAL_CONSTRAINTS", &["TABLE_NAME"], |_| true), "");
}

#[test]
fn replicas_of_columns() {
    let (columns, rows) = with_context(|ctx| table(ctx, "column_replica")).unwrap();
    let names: Vec<_> = columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names[..4], ["TABLE_SCHEMA", "TABLE_NAME", "TABLE_ID", "REPLICA_COUNT"]);
    assert_eq!(names[4..], ["AVAILABLE", "PROGRESS", "APPLIED_INDEX", "COMMIT_INDEX", "LAG_MS"]);
    assert_eq!(rows.len(), 1, "only tables that ask for replicas");
    assert_eq!(rows[0][2..5], [Datum::Int(101), Datum::Int(1), Datum::Int(0)]);
    assert_eq!(rows[0][5], Datum::Double(2.0 / 3.0));
    assert_eq!(rows[0][6..], [7, 9, 3].map(Datum::UInt), "two entries behind");
    let wanted = ["TABLE_NAME", "LOCATION_LABELS", "AVAILABLE"];
    assert_eq!(select("TIFLASH_REPLICA", &wanted, |_| true), "Every||0");
}

#[test]
fn words_and_variables() {
    let words = select("KEYWORDS", &["WORD"], |get| get("RESERVED") == "1");
    assert!(words.lines().count() > 250);
    let rows = with_context(|ctx| system_table(ctx, "performance_schema", "session_variables"));
    let (_, rows) = rows.unwrap();
    assert!(rows.contains(&vec![Datum::Text("autocommit".into()), Datum::Text("ON".into())]));
}

#[test]
fn who_waits_for_whose_lock() {
    let wanted = ["KEY", "TRX_ID", "CURRENT_HOLDING_TRX_ID", "SQL_DIGEST_TEXT"];
    let all = select("DATA_LOCK_WAITS", &wanted, |_| true);
    let statement = format!("`{}`", "x".repeat(150));
    assert_eq!(
        all,
        format!(
            "7480000000000000655F728000000000000007|77|5|{statement}\n\
             74800000000000270F5F728000000000000007|78|5|-"
        )
    );
    let info = select("DATA_LOCK_WAITS", &["KEY_INFO"], |get| get("TRX_ID") == "77");
    assert!(info.contains(r#""handle_value":"7""#) && info.contains("Every"), "{info}");
    let unknown = select("DATA_LOCK_WAITS", &["KEY_INFO"], |get| get("TRX_ID") == "78");
    assert_eq!(unknown, "-");
}
