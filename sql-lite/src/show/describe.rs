//! A schema in MySQL's words: types, keys, defaults, and the tables a SHOW may name. It must never
//! guess at a value it cannot decode.

use super::Context;
use crate::convert;
use crate::error::{Error, Result};
use crate::information_schema;
use crate::statement::TableName;
use damask_types::row::decode_value;
use damask_types::schema::{DefaultValue, IndexState, IntWidth};
use damask_types::{ColumnId, ColumnSchema, ColumnType, Datum, TableSchema};
use std::sync::Arc;

/// The character set of every text column.
pub(crate) const CHARSET: &str = "utf8mb4";
/// The collation of every text column.
pub(crate) const COLLATION: &str = "utf8mb4_bin";
/// What every column may be used for.
pub(crate) const PRIVILEGES: &str = "select,insert,update,references";

/// The database named, or the current one.
///
/// # Errors
/// 1046 and 1049.
pub(crate) fn database<'a>(ctx: &'a Context<'_>, name: Option<&'a str>) -> Result<&'a str> {
    let Some(name) = name.or(ctx.database) else {
        return Err(Error::no_database("No database selected"));
    };
    if !ctx.view.has_database(name) {
        return Err(Error::unknown_database(format!("Unknown database '{name}'")));
    }
    Ok(name)
}

/// A table of a user or of the system.
///
/// # Errors
/// 1046, 1049 and 1146.
pub(crate) fn find(ctx: &Context<'_>, name: &TableName) -> Result<Arc<TableSchema>> {
    let database = database(ctx, name.database.as_deref())?;
    let found = ctx.view.table(database, &name.table);
    found.or_else(|| information_schema::schema(database, &name.table).map(Arc::new)).ok_or_else(
        || {
            let table = &name.table;
            Error::no_such_table(format!("Table '{database}.{table}' doesn't exist"))
        },
    )
}

/// A type without its arguments: DATA_TYPE.
pub(crate) fn type_name(ty: &ColumnType) -> &'static str {
    let by_size = |bytes: u32, names: [&'static str; 4]| match bytes {
        0..=0xFF => names[0],
        0x100..=0xFFFF => names[1],
        0x1_0000..=0xFF_FFFF => names[2],
        _ => names[3],
    };
    match ty {
        ColumnType::Bool | ColumnType::Int { width: IntWidth::Tiny, .. } => "tinyint",
        ColumnType::Int { width: IntWidth::Small, .. } => "smallint",
        ColumnType::Int { width: IntWidth::Medium, .. } => "mediumint",
        ColumnType::Int { width: IntWidth::Normal, .. } => "int",
        ColumnType::Int { width: IntWidth::Big, .. } => "bigint",
        ColumnType::Float => "float",
        ColumnType::Double => "double",
        ColumnType::Decimal { .. } => "decimal",
        ColumnType::Char { .. } => "char",
        ColumnType::VarChar { .. } => "varchar",
        ColumnType::Text { bytes_max } => {
            by_size(*bytes_max, ["tinytext", "text", "mediumtext", "longtext"])
        }
        ColumnType::Binary { .. } => "binary",
        ColumnType::VarBinary { .. } => "varbinary",
        ColumnType::Blob { bytes_max } => {
            by_size(*bytes_max, ["tinyblob", "blob", "mediumblob", "longblob"])
        }
        ColumnType::Date => "date",
        ColumnType::DateTime { .. } => "datetime",
        ColumnType::Timestamp { .. } => "timestamp",
        ColumnType::Time { .. } => "time",
    }
}

/// A type as MySQL 8 prints it: COLUMN_TYPE.
pub(crate) fn type_text(ty: &ColumnType) -> String {
    let name = type_name(ty);
    match ty {
        ColumnType::Bool => format!("{name}(1)"),
        ColumnType::Int { unsigned: true, .. } => format!("{name} unsigned"),
        ColumnType::Decimal { precision, scale } => format!("{name}({precision},{scale})"),
        ColumnType::Char { len }
        | ColumnType::VarChar { len }
        | ColumnType::Binary { len }
        | ColumnType::VarBinary { len } => format!("{name}({len})"),
        ColumnType::DateTime { fsp } | ColumnType::Timestamp { fsp } | ColumnType::Time { fsp }
            if *fsp > 0 =>
        {
            format!("{name}({fsp})")
        }
        _ => name.to_owned(),
    }
}

/// The collation of a text column.
pub(crate) fn collation(ty: &ColumnType) -> Option<&'static str> {
    ty.is_text().then_some(COLLATION)
}

/// A primary key or an index that may be read.
pub(crate) struct Key<'a> {
    /// `PRIMARY` for the primary key.
    pub(crate) name: &'a str,
    /// In the key's order.
    pub(crate) columns: Vec<&'a ColumnSchema>,
    /// At most one row per key without NULLs.
    pub(crate) unique: bool,
    /// Is it the PRIMARY KEY?
    pub(crate) primary: bool,
}

impl Key<'_> {
    fn rank(&self) -> u8 {
        match (self.primary, self.unique, self.is_not_null()) {
            (true, _, _) => 0,
            (_, true, true) => 1,
            (_, true, false) => 2,
            _ => 3,
        }
    }

    fn is_not_null(&self) -> bool {
        self.columns.iter().all(|column| !column.nullable)
    }
}

/// A table's keys in MySQL's order: primary, unique without NULL, unique, others.
pub(crate) fn keys(table: &TableSchema) -> Vec<Key<'_>> {
    let columns = |ids: &[ColumnId]| -> Vec<&ColumnSchema> {
        ids.iter().filter_map(|id| table.column_by_id(*id)).collect()
    };
    let handle = table.handle_column.map(|id| Key {
        name: "PRIMARY",
        columns: columns(&[id]),
        unique: true,
        primary: true,
    });
    let public = table.indexes.iter().filter(|index| index.state == IndexState::Public);
    let indexes = public.map(|index| Key {
        name: if index.primary { "PRIMARY" } else { &index.name },
        columns: columns(&index.columns),
        unique: index.unique || index.primary,
        primary: index.primary,
    });
    let mut keys: Vec<_> = handle.into_iter().chain(indexes).collect();
    keys.sort_by_key(Key::rank);
    keys
}

/// `PRI`, `UNI`, `MUL` or nothing. As in MySQL, the first unique key without NULL stands for a
/// primary key that is not there, and UNI is only for keys of one column.
pub(crate) fn column_key(keys: &[Key<'_>], column: &ColumnSchema) -> &'static str {
    let primary = keys.first().filter(|key| key.primary || (key.unique && key.is_not_null()));
    if primary.is_some_and(|key| key.columns.iter().any(|c| c.id == column.id)) {
        return "PRI";
    }
    let mut leads = keys.iter().filter(|k| k.columns.first().is_some_and(|c| c.id == column.id));
    let mut found = "";
    leads.any(|key| {
        let single = key.unique && key.columns.len() == 1;
        found = if single { "UNI" } else { "MUL" };
        single
    });
    found
}

/// `CURRENT_TIMESTAMP` with the digits of the column's type.
pub(crate) fn current_timestamp(ty: &ColumnType) -> String {
    match ty {
        ColumnType::DateTime { fsp } | ColumnType::Timestamp { fsp } if *fsp > 0 => {
            format!("CURRENT_TIMESTAMP({fsp})")
        }
        _ => "CURRENT_TIMESTAMP".to_owned(),
    }
}

/// A constant default; NULL if there is none or it is not a constant. TIMESTAMPs are moved into a
/// zone `offset_us` from UTC.
///
/// # Errors
/// If the catalog holds what its type cannot be.
pub(crate) fn constant(column: &ColumnSchema, offset_us: i64) -> Result<Datum> {
    let Some(DefaultValue::Constant(Some(value))) = &column.default else {
        return Ok(Datum::Null);
    };
    let value = decode_value(&column.ty, value).map_err(|e| {
        Error::unknown(format!("the default of column '{}' is damaged: {e}", column.name))
    })?;
    Ok(match (&column.ty, value) {
        (ColumnType::Timestamp { .. }, Datum::DateTime(us)) => {
            Datum::DateTime(us.saturating_add(offset_us))
        }
        (_, value) => value,
    })
}

/// A default as DESCRIBE shows it; `None` for NULL and for none.
///
/// # Errors
/// As [`constant`].
pub(crate) fn default_text(column: &ColumnSchema, offset_us: i64) -> Result<Option<String>> {
    if column.default == Some(DefaultValue::CurrentTimestamp) {
        return Ok(Some(current_timestamp(&column.ty)));
    }
    Ok(match constant(column, offset_us)? {
        Datum::Bytes(bytes) => Some(hex(&bytes)),
        value => convert::text(&value, Some(&column.ty)),
    })
}

/// `0x…`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(2 + 2 * bytes.len());
    out.push_str("0x");
    for byte in bytes {
        write!(out, "{byte:02X}").expect("writing to a string cannot fail");
    }
    out
}

/// DESCRIBE's last column.
pub(crate) fn extra(column: &ColumnSchema) -> String {
    let mut words = Vec::new();
    if column.auto_increment {
        words.push("auto_increment".to_owned());
    }
    if column.default == Some(DefaultValue::CurrentTimestamp) {
        words.push("DEFAULT_GENERATED".to_owned());
    }
    if column.on_update_now {
        words.push(format!("on update {}", current_timestamp(&column.ty)));
    }
    words.join(" ")
}
