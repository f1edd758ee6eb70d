//! Schemas as MySQL's text: types, defaults, SHOW CREATE TABLE. It must never print what cannot be
//! run again.

use crate::convert;
use damask_types::row::decode_value;
use damask_types::schema::{DefaultValue, IntWidth};
use damask_types::{ColumnSchema, ColumnType, IndexSchema, TableSchema};

/// `id` as `` `id` ``.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A string literal.
pub fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        match c {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// The type's name alone, as in `DATA_TYPE`.
pub fn data_type(ty: &ColumnType) -> &'static str {
    use ColumnType::{Binary, Blob, Bool, Char, Date, DateTime, Decimal, Double, Float, Int, Text};
    use ColumnType::{Time, Timestamp, VarBinary, VarChar};
    match ty {
        Bool | Int { width: IntWidth::Tiny, .. } => "tinyint",
        Int { width: IntWidth::Small, .. } => "smallint",
        Int { width: IntWidth::Medium, .. } => "mediumint",
        Int { width: IntWidth::Normal, .. } => "int",
        Int { width: IntWidth::Big, .. } => "bigint",
        Float => "float",
        Double => "double",
        Decimal { .. } => "decimal",
        Char { .. } => "char",
        VarChar { .. } => "varchar",
        Text { bytes_max } => match bytes_max {
            0..=255 => "tinytext",
            256..=65_535 => "text",
            65_536..=16_777_215 => "mediumtext",
            _ => "longtext",
        },
        Binary { .. } => "binary",
        VarBinary { .. } => "varbinary",
        Blob { bytes_max } => match bytes_max {
            0..=255 => "tinyblob",
            256..=65_535 => "blob",
            65_536..=16_777_215 => "mediumblob",
            _ => "longblob",
        },
        Date => "date",
        DateTime { .. } => "datetime",
        Timestamp { .. } => "timestamp",
        Time { .. } => "time",
    }
}

/// The whole type, as in `COLUMN_TYPE`.
pub fn column_type(ty: &ColumnType) -> String {
    let name = data_type(ty);
    match ty {
        ColumnType::Bool => "tinyint(1)".to_owned(),
        ColumnType::Int { unsigned: true, .. } => format!("{name} unsigned"),
        ColumnType::Decimal { precision, scale } => format!("{name}({precision},{scale})"),
        ColumnType::Char { len }
        | ColumnType::VarChar { len }
        | ColumnType::Binary { len }
        | ColumnType::VarBinary { len } => format!("{name}({len})"),
        ColumnType::DateTime { fsp }
        | ColumnType::Timestamp { fsp }
        | ColumnType::Time { fsp }
            if *fsp > 0 =>
        {
            format!("{name}({fsp})")
        }
        _ => name.to_owned(),
    }
}

fn now_text(ty: &ColumnType) -> String {
    match ty {
        ColumnType::DateTime { fsp } | ColumnType::Timestamp { fsp } if *fsp > 0 => {
            format!("CURRENT_TIMESTAMP({fsp})")
        }
        _ => "CURRENT_TIMESTAMP".to_owned(),
    }
}

/// A default as `COLUMN_DEFAULT` shows it; `None` = none, or NULL.
pub fn default_text(column: &ColumnSchema) -> Option<String> {
    match column.default.as_ref()? {
        DefaultValue::CurrentTimestamp => Some(now_text(&column.ty)),
        DefaultValue::Constant(value) => {
            let datum = decode_value(&column.ty, value.as_ref()?).ok()?;
            convert::text(&datum, Some(&column.ty))
        }
    }
}

/// The `Extra` of DESCRIBE.
pub fn extra(column: &ColumnSchema) -> String {
    let mut parts = Vec::new();
    if column.auto_increment {
        parts.push("auto_increment".to_owned());
    }
    if column.default == Some(DefaultValue::CurrentTimestamp) {
        parts.push("DEFAULT_GENERATED".to_owned());
    }
    if column.on_update_now {
        parts.push(format!("on update {}", now_text(&column.ty)));
    }
    parts.join(" ")
}

/// The `Key` of DESCRIBE: PRI, UNI, MUL or nothing.
pub fn key(table: &TableSchema, column: &ColumnSchema) -> &'static str {
    let primary = |i: &IndexSchema| i.primary && i.columns.contains(&column.id);
    if table.handle_column == Some(column.id) || table.indexes.iter().any(primary) {
        return "PRI";
    }
    if table.indexes.iter().any(|i| i.unique && i.columns == [column.id]) {
        return "UNI";
    }
    let first = |i: &IndexSchema| i.columns.first() == Some(&column.id);
    if table.indexes.iter().any(first) { "MUL" } else { "" }
}

/// The keys of a table, the primary key first: name, columns, unique, primary.
pub fn keys(table: &TableSchema) -> Vec<(String, Vec<&ColumnSchema>, bool)> {
    let mut keys = Vec::new();
    if let Some(column) = table.handle_column.and_then(|id| table.column_by_id(id)) {
        keys.push(("PRIMARY".to_owned(), vec![column], true));
    }
    let mut indexes: Vec<_> = table.indexes.iter().collect();
    indexes.sort_by_key(|i| (!i.primary, !i.unique));
    for index in indexes {
        let columns = index.columns.iter().filter_map(|id| table.column_by_id(*id)).collect();
        keys.push((index.name.clone(), columns, index.unique));
    }
    keys
}

fn column_line(column: &ColumnSchema) -> String {
    let mut line = format!("  {} {}", quoted(&column.name), column_type(&column.ty));
    let timestamp = matches!(column.ty, ColumnType::Timestamp { .. });
    let large = matches!(column.ty, ColumnType::Text { .. } | ColumnType::Blob { .. });
    if !column.nullable {
        line.push_str(" NOT NULL");
    } else if timestamp {
        line.push_str(" NULL");
    }
    match &column.default {
        Some(DefaultValue::CurrentTimestamp) => {
            line.push_str(&format!(" DEFAULT {}", now_text(&column.ty)));
        }
        Some(DefaultValue::Constant(Some(value))) if column.ty.is_binary() => {
            let digits: String = value.iter().map(|b| format!("{b:02X}")).collect();
            line.push_str(&format!(" DEFAULT X'{digits}'"));
        }
        Some(DefaultValue::Constant(Some(_))) => {
            let text = default_text(column).unwrap_or_default();
            line.push_str(&format!(" DEFAULT {}", literal(&text)));
        }
        _ if column.nullable && !large => line.push_str(" DEFAULT NULL"),
        _ => {}
    }
    if column.on_update_now {
        line.push_str(&format!(" ON UPDATE {}", now_text(&column.ty)));
    }
    if column.auto_increment {
        line.push_str(" AUTO_INCREMENT");
    }
    if !column.comment.is_empty() {
        line.push_str(&format!(" COMMENT {}", literal(&column.comment)));
    }
    line
}

/// SHOW CREATE TABLE. `next`: the next AUTO_INCREMENT value, if known and above 1.
pub fn create_table(table: &TableSchema, next: Option<u64>) -> String {
    let mut lines: Vec<String> = table.columns.iter().map(column_line).collect();
    for (name, columns, unique) in keys(table) {
        let columns: Vec<_> = columns.iter().map(|c| quoted(&c.name)).collect();
        let columns = columns.join(",");
        lines.push(match (name.as_str(), unique) {
            ("PRIMARY", _) => format!("  PRIMARY KEY ({columns})"),
            (_, true) => format!("  UNIQUE KEY {} ({columns})", quoted(&name)),
            (_, false) => format!("  KEY {} ({columns})", quoted(&name)),
        });
    }
    let counted = table.columns.iter().any(|c| c.auto_increment);
    let next = next.filter(|_| counted).map_or(String::new(), |n| format!(" AUTO_INCREMENT={n}"));
    let comment = match table.comment.as_str() {
        "" => String::new(),
        text => format!(" COMMENT={}", literal(text)),
    };
    format!(
        "CREATE TABLE {} (\n{}\n) ENGINE=InnoDB{next} DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin{comment}",
        quoted(&table.name),
        lines.join(",\n")
    )
}
