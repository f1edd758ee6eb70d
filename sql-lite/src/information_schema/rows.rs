//! Rows of the system tables that tell of the catalog. They must never show an index that is not
//! complete yet.

use super::{TABLES, schema};
use crate::show::Context;
use crate::show::describe::{self, CHARSET, COLLATION};
use crate::show::result::{count, int, optional, ordinal, text, yes};
use crate::show::{database_names, estimate, index_columns, storage};
use damask_types::schema::IntWidth;
use damask_types::{ColumnType, Datum, TableSchema, key};

type Rows = Vec<Vec<Datum>>;

pub(super) fn schemata(ctx: &Context<'_>) -> Rows {
    let row = |name| {
        vec![text("def"), text(name), text(CHARSET), text(COLLATION), Datum::Null, text("NO")]
    };
    database_names(ctx).into_iter().map(row).collect()
}

pub(super) fn tables(ctx: &Context<'_>) -> Rows {
    let system = TABLES.iter().map(|table| {
        let mut row = vec![Datum::Null; super::columns::TABLES.len()];
        row[0] = text("def");
        row[1] = text(table.database);
        row[2] = text(table.name);
        row[3] = text(table.kind());
        row[5] = int(10);
        row[20] = text("");
        row
    });
    let users = ctx.view.tables().map(|table| {
        let mut row = named(table);
        row.push(text("BASE TABLE"));
        row.extend(storage(ctx, table));
        row
    });
    users.chain(system).collect()
}

/// TABLE_CATALOG, TABLE_SCHEMA, TABLE_NAME.
fn named(table: &TableSchema) -> Vec<Datum> {
    vec![text("def"), text(&table.database), text(&table.name)]
}

pub(super) fn columns(ctx: &Context<'_>) -> Rows {
    let mut rows = Rows::new();
    for table in ctx.view.tables() {
        columns_of(ctx, table, &mut rows);
    }
    for table in TABLES {
        columns_of(ctx, &schema_of(table), &mut rows);
    }
    rows
}

fn schema_of(table: &super::Definition) -> TableSchema {
    schema(table.database, table.name).expect("a table of the list is found in it")
}

fn columns_of(ctx: &Context<'_>, table: &TableSchema, rows: &mut Rows) {
    let keys = describe::keys(table);
    let offset_us = ctx.variables.time_zone_offset_us();
    for (at, column) in table.columns.iter().enumerate() {
        // A system table cannot fail: what is damaged says so in its place.
        let default = describe::default_text(column, offset_us);
        let default = default.unwrap_or_else(|error| Some(error.message));
        let is_text = column.ty.is_text();
        let mut row = named(table);
        row.extend([
            text(&column.name),
            ordinal(at),
            optional(default),
            yes(column.nullable),
            text(describe::type_name(&column.ty)),
        ]);
        row.extend(sizes(&column.ty));
        row.extend([
            optional(is_text.then_some(CHARSET)),
            optional(describe::collation(&column.ty)),
            text(describe::type_text(&column.ty)),
            text(describe::column_key(&keys, column)),
            text(describe::extra(column)),
            text(describe::PRIVILEGES),
            text(&column.comment),
            text(""),
            Datum::Null,
        ]);
        rows.push(row);
    }
}

/// CHARACTER_MAXIMUM_LENGTH, CHARACTER_OCTET_LENGTH, NUMERIC_PRECISION, NUMERIC_SCALE,
/// DATETIME_PRECISION.
fn sizes(ty: &ColumnType) -> [Datum; 5] {
    const NULL: Datum = Datum::Null;
    let long = |n: u32| int(n.into());
    match ty {
        ColumnType::Bool => [NULL, NULL, count(3u8), count(0u8), NULL],
        ColumnType::Int { width, unsigned } => {
            let digits: u8 = match width {
                IntWidth::Tiny => 3,
                IntWidth::Small => 5,
                IntWidth::Medium => 7,
                IntWidth::Normal => 10,
                IntWidth::Big => 19 + u8::from(*unsigned),
            };
            [NULL, NULL, count(digits), count(0u8), NULL]
        }
        ColumnType::Float => [NULL, NULL, count(12u8), NULL, NULL],
        ColumnType::Double => [NULL, NULL, count(22u8), NULL, NULL],
        ColumnType::Decimal { precision, scale } => {
            [NULL, NULL, count(*precision), count(*scale), NULL]
        }
        ColumnType::Char { len } | ColumnType::VarChar { len } => {
            [long(*len), int(4 * i64::from(*len)), NULL, NULL, NULL]
        }
        ColumnType::Binary { len } | ColumnType::VarBinary { len } => {
            [long(*len), long(*len), NULL, NULL, NULL]
        }
        ColumnType::Text { bytes_max } | ColumnType::Blob { bytes_max } => {
            [long(*bytes_max), long(*bytes_max), NULL, NULL, NULL]
        }
        ColumnType::Date => [NULL, NULL, NULL, NULL, NULL],
        ColumnType::DateTime { fsp } | ColumnType::Timestamp { fsp } | ColumnType::Time { fsp } => {
            [NULL, NULL, NULL, NULL, count(*fsp)]
        }
    }
}

pub(super) fn statistics(ctx: &Context<'_>) -> Rows {
    let mut rows = Rows::new();
    for table in ctx.view.tables() {
        rows.extend(index_columns(ctx, table).into_iter().map(|([non_unique, name], column)| {
            let mut row = named(table);
            row.extend([non_unique, text(&table.database), name]);
            row.extend(column);
            row
        }));
    }
    rows
}

pub(super) fn key_column_usage(ctx: &Context<'_>) -> Rows {
    let mut rows = Rows::new();
    for table in ctx.view.tables() {
        for key in describe::keys(table).into_iter().filter(|key| key.unique) {
            rows.extend(key.columns.iter().enumerate().map(|(at, column)| {
                let mut row = vec![text("def"), text(&table.database), text(key.name)];
                row.extend(named(table));
                row.extend([text(&column.name), ordinal(at)]);
                row.extend([const { Datum::Null }; 4]);
                row
            }));
        }
    }
    rows
}

pub(super) fn table_constraints(ctx: &Context<'_>) -> Rows {
    let mut rows = Rows::new();
    for table in ctx.view.tables() {
        for key in describe::keys(table).into_iter().filter(|key| key.unique) {
            rows.push(vec![
                text("def"),
                text(&table.database),
                text(key.name),
                text(&table.database),
                text(&table.name),
                text(if key.primary { "PRIMARY KEY" } else { "UNIQUE" }),
                text("YES"),
            ]);
        }
        for check in ctx.view.checks(table.id) {
            rows.push(vec![
                text("def"),
                text(&table.database),
                text(&check.name),
                text(&table.database),
                text(&table.name),
                text("CHECK"),
                yes(check.enforced),
            ]);
        }
    }
    rows
}

pub(super) fn check_constraints(ctx: &Context<'_>) -> Rows {
    let mut rows = Rows::new();
    for table in ctx.view.tables() {
        for check in ctx.view.checks(table.id) {
            let (database, clause) = (text(&table.database), format!("({})", check.clause));
            rows.push(vec![text("def"), database, text(&check.name), text(clause)]);
        }
    }
    rows
}

/// No table has partitions, which MySQL tells by one row without a name.
pub(super) fn partitions(ctx: &Context<'_>) -> Rows {
    let rows = ctx.view.tables().map(|table| {
        let mut row = named(table);
        row.resize(super::columns::PARTITIONS.len(), Datum::Null);
        row[12] = estimate(ctx, table);
        row[22] = text("");
        row
    });
    rows.collect()
}

pub(super) fn column_replica(ctx: &Context<'_>) -> Rows {
    let mut rows = replicas(ctx);
    let asked = ctx.view.tables().filter(|table| table.column_replicas > 0);
    for (row, table) in rows.iter_mut().zip(asked) {
        let range = key::row_range(table.id);
        let (applied, committed) = ctx.replicas.indexes(&range).unzip();
        let numbers = [applied, committed, ctx.replicas.lag_ms(&range)];
        row.extend(numbers.map(|number| number.map_or(Datum::Null, Datum::UInt)));
    }
    rows
}

fn replicas(ctx: &Context<'_>) -> Rows {
    let asked = ctx.view.tables().filter(|table| table.column_replicas > 0);
    let rows = asked.map(|table| {
        let (ready, wanted) = ctx.replicas.progress(&key::row_range(table.id));
        let available = wanted > 0 && ready >= wanted;
        let progress = f64::from(ready) / f64::from(wanted.max(1));
        vec![
            text(&table.database),
            text(&table.name),
            int(table.id.0),
            int(table.column_replicas.into()),
            int(available.into()),
            Datum::Double(progress.min(1.0)),
        ]
    });
    rows.collect()
}

pub(super) fn tiflash_replica(ctx: &Context<'_>) -> Rows {
    let mut rows = replicas(ctx);
    rows.iter_mut().for_each(|row| row.insert(4, text("")));
    rows
}
