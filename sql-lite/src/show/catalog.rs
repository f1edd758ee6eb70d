//! SHOW of what the catalog holds: databases, tables, columns, indexes. It must never show an index
//! that is not complete yet.

use super::Context;
use super::describe::{self, COLLATION};
use super::result::{Answer, Columns, Kind, count, int, optional, ordinal, text, yes};
use crate::catalog::{SYSTEM_DATABASES, is_system};
use crate::error::Result;
use crate::information_schema;
use crate::outcome::ColumnMeta;
use damask_types::{Datum, TableSchema};

use Kind::{Count, Int, Name, Text, Time};

/// Every database that can be named, in name order, as written.
pub(crate) fn database_names(ctx: &Context<'_>) -> Vec<String> {
    let users = ctx.view.databases.values().cloned();
    let mut names: Vec<_> = users.chain(SYSTEM_DATABASES.map(str::to_owned)).collect();
    names.sort_by_key(|name| name.to_ascii_lowercase());
    names
}

/// With LIKE, MySQL adds the pattern to the first column's name.
fn titled(title: String, like: Option<&str>) -> ColumnMeta {
    let title = like.map_or(title.clone(), |pattern| format!("{title} ({pattern})"));
    ColumnMeta::expression(title, Name.ty())
}

/// SHOW DATABASES.
pub(super) fn databases(ctx: &Context<'_>, like: Option<&str>) -> Answer {
    let rows = database_names(ctx).into_iter().map(|name| vec![text(name)]).collect();
    Answer { columns: vec![titled("Database".to_owned(), like)], rows }
}

/// SHOW [FULL] TABLES.
pub(super) fn tables(
    ctx: &Context<'_>,
    database: Option<&str>,
    full: bool,
    like: Option<&str>,
) -> Result<Answer> {
    let database = describe::database(ctx, database)?;
    let mut columns = vec![titled(format!("Tables_in_{database}"), like)];
    let mut rows: Vec<Vec<Datum>> = if is_system(database) {
        let tables = information_schema::tables_of(database);
        tables.map(|(name, kind)| vec![text(name), text(kind)]).collect()
    } else {
        let tables = ctx.view.tables_of(database);
        tables.map(|table| vec![text(&table.name), text("BASE TABLE")]).collect()
    };
    if full {
        columns.push(ColumnMeta::expression("Table_type", Name.ty()));
    } else {
        rows.iter_mut().for_each(|row| row.truncate(1));
    }
    Ok(Answer { columns, rows })
}

const STATUS: Columns = &[
    ("Name", Name),
    ("Engine", Name),
    ("Version", Int),
    ("Row_format", Name),
    ("Rows", Count),
    ("Avg_row_length", Count),
    ("Data_length", Count),
    ("Max_data_length", Count),
    ("Index_length", Count),
    ("Data_free", Count),
    ("Auto_increment", Count),
    ("Create_time", Time),
    ("Update_time", Time),
    ("Check_time", Time),
    ("Collation", Name),
    ("Checksum", Int),
    ("Create_options", Text),
    ("Comment", Text),
];

/// SHOW TABLE STATUS.
pub(super) fn table_status(ctx: &Context<'_>, database: Option<&str>) -> Result<Answer> {
    let database = describe::database(ctx, database)?;
    let row = |table: &TableSchema| {
        let mut row = vec![text(&table.name)];
        row.extend(storage(ctx, table));
        row
    };
    let rows = if is_system(database) {
        let tables = information_schema::tables_of(database);
        tables.map(|(name, _)| system_storage(name)).collect()
    } else {
        ctx.view.tables_of(database).map(|table| row(table)).collect()
    };
    Ok(Answer::new(STATUS, rows))
}

/// Engine, version, … , comment of a user's table: what SHOW TABLE STATUS and TABLES share. Sizes and
/// times are not kept.
pub(crate) fn storage(ctx: &Context<'_>, table: &TableSchema) -> Vec<Datum> {
    let mut values = vec![text("InnoDB"), int(10), text("Dynamic"), estimate(ctx, table)];
    values.extend([const { Datum::Null }; 9]);
    values.extend([text(COLLATION), Datum::Null, text(""), text(&table.comment)]);
    values
}

/// About how many rows a table has.
pub(crate) fn estimate(ctx: &Context<'_>, table: &TableSchema) -> Datum {
    count(ctx.tables.size(table).rows.max(0.0) as u64)
}

fn system_storage(name: &str) -> Vec<Datum> {
    let mut row = vec![Datum::Null; STATUS.len()];
    row[0] = text(name);
    row[2] = int(10);
    row[STATUS.len() - 1] = text("");
    row
}

const COLUMNS: Columns = &[
    ("Field", Name),
    ("Type", Text),
    ("Null", Name),
    ("Key", Name),
    ("Default", Text),
    ("Extra", Text),
];

const FULL_COLUMNS: Columns = &[
    ("Field", Name),
    ("Type", Text),
    ("Collation", Name),
    ("Null", Name),
    ("Key", Name),
    ("Default", Text),
    ("Extra", Text),
    ("Privileges", Text),
    ("Comment", Text),
];

/// SHOW [FULL] COLUMNS, DESCRIBE.
pub(super) fn columns(ctx: &Context<'_>, table: &TableSchema, full: bool) -> Result<Answer> {
    let keys = describe::keys(table);
    let offset_us = ctx.variables.time_zone_offset_us();
    let mut rows = Vec::with_capacity(table.columns.len());
    for column in &table.columns {
        let mut row = vec![
            text(&column.name),
            text(describe::type_text(&column.ty)),
            yes(column.nullable),
            text(describe::column_key(&keys, column)),
            optional(describe::default_text(column, offset_us)?),
            text(describe::extra(column)),
        ];
        if full {
            row.insert(2, optional(describe::collation(&column.ty)));
            row.push(text(describe::PRIVILEGES));
            row.push(text(&column.comment));
        }
        rows.push(row);
    }
    Ok(Answer::new(if full { FULL_COLUMNS } else { COLUMNS }, rows))
}

const INDEX: Columns = &[
    ("Table", Name),
    ("Non_unique", Int),
    ("Key_name", Name),
    ("Seq_in_index", Count),
    ("Column_name", Name),
    ("Collation", Name),
    ("Cardinality", Count),
    ("Sub_part", Count),
    ("Packed", Name),
    ("Null", Name),
    ("Index_type", Name),
    ("Comment", Text),
    ("Index_comment", Text),
    ("Visible", Name),
    ("Expression", Text),
];

/// SHOW INDEX.
pub(super) fn index(ctx: &Context<'_>, table: &TableSchema) -> Answer {
    let rows = index_columns(ctx, table).into_iter().map(|(key, column)| {
        let mut row = vec![text(&table.name), key[0].clone(), key[1].clone()];
        row.extend(column);
        row
    });
    Answer::new(INDEX, rows.collect())
}

/// For each column of each key: whether it is not unique and the key's name; then the position and
/// all that follows it in SHOW INDEX and in STATISTICS.
pub(crate) fn index_columns(
    ctx: &Context<'_>,
    table: &TableSchema,
) -> Vec<([Datum; 2], Vec<Datum>)> {
    let rows = estimate(ctx, table);
    let mut found = Vec::new();
    for key in describe::keys(table) {
        for (at, column) in key.columns.iter().enumerate() {
            // Only a whole unique key is known to have as many values as there are rows.
            let whole = key.unique && at + 1 == key.columns.len();
            let values = vec![
                ordinal(at),
                text(&column.name),
                text("A"),
                if whole { rows.clone() } else { Datum::Null },
                Datum::Null,
                Datum::Null,
                text(if column.nullable { "YES" } else { "" }),
                text("BTREE"),
                text(""),
                text(""),
                text("YES"),
                Datum::Null,
            ];
            found.push(([int(i64::from(!key.unique)), text(key.name)], values));
        }
    }
    found
}
