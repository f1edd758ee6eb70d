//! The tables of `information_schema`, `performance_schema` and `mysql`: made when they are read,
//! from what SHOW shows. They must never be stored or changed.
//!
//! ```text
//!  query ─ system_table(database, name) ─► Definition ─ rows(ctx) ─► columns, rows
//!  SHOW COLUMNS, SHOW CREATE TABLE ─ schema(database, name) ─┘ (a TableSchema of the same columns)
//! ```

mod columns;
mod keywords;
mod rows;

use crate::outcome::ColumnMeta;
use crate::query::SystemTables;
use crate::show::result::{Columns, int, text};
use crate::show::{Context, lock_waits, server};
use damask_types::{ColumnId, ColumnSchema, Datum, IndexId, TableId, TableSchema};

/// One system table.
pub(crate) struct Definition {
    database: &'static str,
    name: &'static str,
    columns: Columns,
    rows: fn(&Context<'_>) -> Vec<Vec<Datum>>,
}

impl Definition {
    /// TABLE_TYPE.
    fn kind(&self) -> &'static str {
        if self.database == INFORMATION_SCHEMA { "SYSTEM VIEW" } else { "BASE TABLE" }
    }
}

const INFORMATION_SCHEMA: &str = "information_schema";

type Rows = Vec<Vec<Datum>>;

const fn view(name: &'static str, columns: Columns, rows: fn(&Context<'_>) -> Rows) -> Definition {
    Definition { database: INFORMATION_SCHEMA, name, columns, rows }
}

const fn performance(name: &'static str, rows: fn(&Context<'_>) -> Rows) -> Definition {
    Definition { database: "performance_schema", name, columns: columns::VARIABLES, rows }
}

fn none(_: &Context<'_>) -> Rows {
    Rows::new()
}

/// By database and name.
static TABLES: &[Definition] = &[
    view("CHARACTER_SETS", columns::CHARACTER_SETS, |_| server::charset_rows()),
    view("CHECK_CONSTRAINTS", columns::CHECK_CONSTRAINTS, rows::check_constraints),
    view("COLLATIONS", columns::COLLATIONS, |_| server::collation_rows()),
    view("COLLATION_CHARACTER_SET_APPLICABILITY", columns::APPLICABILITY, |_| {
        server::applicability_rows()
    }),
    view("COLUMNS", columns::COLUMNS, rows::columns),
    view("COLUMN_PRIVILEGES", columns::COLUMN_PRIVILEGES, none),
    view("COLUMN_REPLICA", columns::COLUMN_REPLICA, rows::column_replica),
    view("DATA_LOCK_WAITS", columns::DATA_LOCK_WAITS, lock_waits::rows),
    view("ENGINES", columns::ENGINES, |_| server::engine_rows()),
    view("EVENTS", columns::EVENTS, none),
    view("FILES", columns::FILES, none),
    view("KEYWORDS", columns::KEYWORDS, |_| keyword_rows()),
    view("KEY_COLUMN_USAGE", columns::KEY_COLUMN_USAGE, rows::key_column_usage),
    view("PARAMETERS", columns::PARAMETERS, none),
    view("PARTITIONS", columns::PARTITIONS, rows::partitions),
    view("PROCESSLIST", columns::PROCESSLIST, |ctx| server::process_rows(ctx, true)),
    view("REFERENTIAL_CONSTRAINTS", columns::REFERENTIAL_CONSTRAINTS, none),
    view("ROUTINES", columns::ROUTINES, none),
    view("SCHEMATA", columns::SCHEMATA, rows::schemata),
    view("SCHEMA_PRIVILEGES", columns::SCHEMA_PRIVILEGES, none),
    view("STATISTICS", columns::STATISTICS, rows::statistics),
    view("TABLES", columns::TABLES, rows::tables),
    view("TABLE_CONSTRAINTS", columns::TABLE_CONSTRAINTS, rows::table_constraints),
    view("TABLE_PRIVILEGES", columns::TABLE_PRIVILEGES, none),
    view("TIFLASH_REPLICA", columns::TIFLASH_REPLICA, rows::tiflash_replica),
    view("TRIGGERS", columns::TRIGGERS, none),
    view("USER_PRIVILEGES", columns::USER_PRIVILEGES, server::user_privilege_rows),
    view("VIEWS", columns::VIEWS, none),
    Definition { database: "mysql", name: "user", columns: columns::USER, rows: user_rows },
    performance("global_status", server::status_rows),
    performance("global_variables", |ctx| server::variable_rows(ctx, true)),
    performance("session_status", server::status_rows),
    performance("session_variables", |ctx| server::variable_rows(ctx, false)),
];

fn find(database: &str, name: &str) -> Option<&'static Definition> {
    TABLES.iter().find(|table| {
        table.database.eq_ignore_ascii_case(database) && table.name.eq_ignore_ascii_case(name)
    })
}

/// The tables of `information_schema`, in name order.
pub fn names() -> impl Iterator<Item = &'static str> {
    tables_of(INFORMATION_SCHEMA).map(|(name, _)| name)
}

/// The tables of a system database and their TABLE_TYPE, in name order.
pub(crate) fn tables_of(database: &str) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
    let tables = TABLES.iter().filter(move |t| t.database.eq_ignore_ascii_case(database));
    tables.map(|table| (table.name, table.kind()))
}

/// A table of `information_schema`; `None`: there is none of this name.
pub fn table(ctx: &Context<'_>, name: &str) -> Option<(Vec<ColumnMeta>, Vec<Vec<Datum>>)> {
    system_table(ctx, INFORMATION_SCHEMA, name)
}

/// A table of any system database.
pub fn system_table(
    ctx: &Context<'_>,
    database: &str,
    name: &str,
) -> Option<(Vec<ColumnMeta>, Vec<Vec<Datum>>)> {
    let table = find(database, name)?;
    let columns = table.columns.iter().map(|(name, kind)| ColumnMeta {
        database: table.database.to_owned(),
        table: table.name.to_owned(),
        org_table: table.name.to_owned(),
        org_name: (*name).to_owned(),
        ..ColumnMeta::expression(*name, kind.ty())
    });
    Some((columns.collect(), (table.rows)(ctx)))
}

impl SystemTables for Context<'_> {
    fn table(&self, database: &str, name: &str) -> Option<(Vec<ColumnMeta>, Vec<Vec<Datum>>)> {
        system_table(self, database, name)
    }
}

/// A system table as if it were in the catalog, to be described. Its id, 0, is no table's.
pub(crate) fn schema(database: &str, name: &str) -> Option<TableSchema> {
    let table = find(database, name)?;
    let column = |(at, (name, kind)): (usize, &(&str, crate::show::result::Kind))| ColumnSchema {
        id: ColumnId(at as i64 + 1),
        name: (*name).to_owned(),
        ty: kind.ty(),
        nullable: true,
        default: None,
        origin_default: None,
        auto_increment: false,
        on_update_now: false,
        comment: String::new(),
    };
    Some(TableSchema {
        id: TableId(0),
        database: table.database.to_owned(),
        name: table.name.to_owned(),
        version: 0,
        columns: table.columns.iter().enumerate().map(column).collect(),
        handle_column: None,
        indexes: Vec::new(),
        column_replicas: 0,
        max_column_id: ColumnId(table.columns.len() as i64),
        max_index_id: IndexId(0),
        comment: String::new(),
    })
}

fn keyword_rows() -> Rows {
    keywords::RESERVED.split_ascii_whitespace().map(|word| vec![text(word), int(1)]).collect()
}

/// Who may connect is decided outside of SQL: the session's own user is all there is to see.
fn user_rows(ctx: &Context<'_>) -> Rows {
    let plugin = "mysql_native_password";
    vec![vec![text("%"), text(&ctx.facts.user), text(plugin), text("N")]]
}

#[cfg(test)]
mod tests;
