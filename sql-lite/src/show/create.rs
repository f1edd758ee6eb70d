//! SHOW CREATE: statements that would make the same again, in MySQL 8's exact text, which clients
//! parse. It must never print what MySQL cannot read back.

use super::Context;
use super::describe::{self, CHARSET, COLLATION};
use super::result::{Answer, Columns, Kind, text};
use crate::catalog::checks::Check;
use crate::catalog::is_system;
use crate::convert;
use crate::error::{Error, Result};
use damask_types::schema::DefaultValue;
use damask_types::{ColumnSchema, ColumnType, Datum, TableSchema};

const TABLE: Columns = &[("Table", Kind::Name), ("Create Table", Kind::Text)];
const DATABASE: Columns = &[("Database", Kind::Name), ("Create Database", Kind::Text)];

/// SHOW CREATE TABLE.
pub(super) fn table(ctx: &Context<'_>, table: &TableSchema) -> Result<Answer> {
    let checks = ctx.view.checks(table.id);
    let statement = table_text(table, checks, ctx.variables.time_zone_offset_us())?;
    Ok(Answer::new(TABLE, vec![vec![text(&table.name), text(statement)]]))
}

/// SHOW CREATE DATABASE; 1049 if there is none.
pub(super) fn database(ctx: &Context<'_>, name: &str, if_not_exists: bool) -> Result<Answer> {
    let name = describe::database(ctx, Some(name))?;
    let stored = ctx.view.databases.get(&name.to_ascii_lowercase());
    let lower = name.to_ascii_lowercase();
    let name = if is_system(name) { &lower } else { stored.map_or(name, String::as_str) };
    let condition = if if_not_exists { "/*!32312 IF NOT EXISTS*/ " } else { "" };
    let statement = format!(
        "CREATE DATABASE {condition}{} /*!40100 DEFAULT CHARACTER SET {CHARSET} COLLATE {COLLATION} */",
        quoted_name(name)
    );
    Ok(Answer::new(DATABASE, vec![vec![text(name), text(statement)]]))
}

/// There are no views: why this table is none.
pub(super) fn view(table: &TableSchema) -> Error {
    let message = format!("'{}.{}' is not VIEW", table.database, table.name);
    Error { code: 1347, state: "HY000", message }
}

/// The statement that makes a table. TIMESTAMP defaults are shown `offset_us` from UTC.
pub(crate) fn table_text(table: &TableSchema, checks: &[Check], offset_us: i64) -> Result<String> {
    let mut lines = Vec::with_capacity(table.columns.len() + table.indexes.len() + 1);
    for column in &table.columns {
        lines.push(column_text(column, offset_us)?);
    }
    for key in describe::keys(table) {
        let columns: Vec<_> = key.columns.iter().map(|c| quoted_name(&c.name)).collect();
        let columns = columns.join(",");
        lines.push(match (key.primary, key.unique) {
            (true, _) => format!("PRIMARY KEY ({columns})"),
            (_, true) => format!("UNIQUE KEY {} ({columns})", quoted_name(key.name)),
            _ => format!("KEY {} ({columns})", quoted_name(key.name)),
        });
    }
    for Check { name, clause, enforced } in checks {
        let not = if *enforced { "" } else { " /*!80016 NOT ENFORCED */" };
        lines.push(format!("CONSTRAINT {} CHECK (({clause})){not}", quoted_name(name)));
    }
    let mut out = format!("CREATE TABLE {} (\n  ", quoted_name(&table.name));
    out.push_str(&lines.join(",\n  "));
    out.push_str("\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin");
    if !table.comment.is_empty() {
        out.push_str(&format!(" COMMENT={}", quoted(&table.comment)));
    }
    Ok(out)
}

fn column_text(column: &ColumnSchema, offset_us: i64) -> Result<String> {
    let mut out = format!("{} {}", quoted_name(&column.name), describe::type_text(&column.ty));
    match &column.ty {
        _ if !column.nullable => out.push_str(" NOT NULL"),
        // Without it, old servers read NOT NULL.
        ColumnType::Timestamp { .. } => out.push_str(" NULL"),
        _ => {}
    }
    if let Some(default) = default_text(column, offset_us)? {
        out.push_str(" DEFAULT ");
        out.push_str(&default);
    }
    if column.on_update_now {
        out.push_str(" ON UPDATE ");
        out.push_str(&describe::current_timestamp(&column.ty));
    }
    if column.auto_increment {
        out.push_str(" AUTO_INCREMENT");
    }
    if !column.comment.is_empty() {
        out.push_str(&format!(" COMMENT {}", quoted(&column.comment)));
    }
    Ok(out)
}

fn default_text(column: &ColumnSchema, offset_us: i64) -> Result<Option<String>> {
    if column.auto_increment {
        return Ok(None);
    }
    if column.default == Some(DefaultValue::CurrentTimestamp) {
        return Ok(Some(describe::current_timestamp(&column.ty)));
    }
    let value = describe::constant(column, offset_us)?;
    let value = match value {
        Datum::Null => {
            let long = matches!(column.ty, ColumnType::Text { .. } | ColumnType::Blob { .. });
            return Ok((column.nullable && !long).then(|| "NULL".to_owned()));
        }
        Datum::Bytes(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Some(text),
            Err(e) => return Ok(Some(describe::hex(e.as_bytes()))),
        },
        value => convert::text(&value, Some(&column.ty)),
    };
    Ok(value.map(|value| quoted(&value)))
}

/// A name in backticks.
fn quoted_name(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A text in quotes, with the escapes MySQL prints.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        match c {
            '\0' => out.push_str("\\0"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("''"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}
