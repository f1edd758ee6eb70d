//! A table's schema from its definition. It must never invent: what the definition does not say
//! follows MySQL's rules.

use crate::error::{Error, Result};
use crate::session::Warnings;
use crate::statement::params::literal;
use crate::statement::{ColumnDef, CreateTable, Default, KeyDef, KeyKind};
use crate::value::{Rules, convert};
use damask_types::row::encode_value;
use damask_types::schema::{DefaultValue, IndexState, IntWidth};
use damask_types::{
    ColumnId, ColumnSchema, ColumnType, Datum, IndexId, IndexSchema, TableId, TableSchema,
};

/// Columns of a table (MySQL's limit).
const COLUMNS_MAX: usize = 1_017;
/// Indexes of a table (MySQL's limit).
const INDEXES_MAX: usize = 64;
/// Columns of an index (MySQL's limit).
const INDEX_COLUMNS_MAX: usize = 16;
/// Characters of a name.
const NAME_MAX: usize = 64;

/// Is it a name MySQL takes?
pub fn check_name(name: &str) -> Result<()> {
    if name.chars().count() > NAME_MAX {
        let message = format!("Identifier name '{name}' is too long");
        return Err(Error { code: 1059, state: "42000", message });
    }
    if name.is_empty() || name.ends_with(' ') || name.contains('\0') {
        let message = format!("Incorrect table name '{name}'");
        return Err(Error { code: 1103, state: "42000", message });
    }
    Ok(())
}

/// A new table.
pub fn table(
    id: TableId,
    database: &str,
    name: &str,
    create: &CreateTable,
    now_us: i64,
    offset_us: i64,
) -> Result<TableSchema> {
    if create.columns.len() > COLUMNS_MAX {
        return Err(Error { code: 1117, state: "HY000", message: "Too many columns".to_owned() });
    }
    let mut table = TableSchema {
        id,
        database: database.to_owned(),
        name: name.to_owned(),
        version: 1,
        columns: Vec::with_capacity(create.columns.len()),
        handle_column: None,
        indexes: Vec::new(),
        column_replicas: 0,
        max_column_id: ColumnId(0),
        max_index_id: IndexId(0),
        comment: create.comment.clone(),
    };
    let mut keys = Vec::new();
    for def in &create.columns {
        let column = column(&mut table, def, now_us, offset_us)?;
        table.columns.push(column);
        if let Some(kind) = def.key {
            keys.push(KeyDef { name: None, columns: vec![def.name.clone()], kind });
        }
    }
    keys.extend(create.keys.iter().cloned());
    primary_key(&mut table, &keys)?;
    for key in keys.iter().filter(|k| k.kind != KeyKind::Primary) {
        add_index(&mut table, key, IndexState::Public)?;
    }
    check_auto_increment(&table)?;
    Ok(table)
}

/// A column with a new id, not yet in the table.
pub fn column(
    table: &mut TableSchema,
    def: &ColumnDef,
    now_us: i64,
    offset_us: i64,
) -> Result<ColumnSchema> {
    check_name(&def.name)?;
    if table.column(&def.name).is_some() {
        return Err(Error::duplicate_column(format!("Duplicate column name '{}'", def.name)));
    }
    table.max_column_id = ColumnId(table.max_column_id.0 + 1);
    let mut column = ColumnSchema {
        id: table.max_column_id,
        name: def.name.clone(),
        ty: def.ty.clone(),
        nullable: def.nullable.unwrap_or(def.key != Some(KeyKind::Primary)),
        default: None,
        origin_default: None,
        auto_increment: def.auto_increment,
        on_update_now: def.on_update_now,
        comment: def.comment.clone(),
    };
    column.default = default(&column, def.default.as_ref(), now_us, offset_us)?;
    let is_time = matches!(column.ty, ColumnType::DateTime { .. } | ColumnType::Timestamp { .. });
    if column.on_update_now && !is_time {
        let message = format!("Invalid ON UPDATE clause for '{}' column", column.name);
        return Err(Error { code: 1294, state: "HY000", message });
    }
    let numeric =
        column.ty.is_integer() || matches!(column.ty, ColumnType::Float | ColumnType::Double);
    if column.auto_increment && !numeric {
        let message = format!("Incorrect column specifier for column '{}'", column.name);
        return Err(Error { code: 1063, state: "42000", message });
    }
    if column.auto_increment {
        column.nullable = false;
        if column.default.is_some() {
            return Err(invalid_default(&column.name));
        }
    }
    Ok(column)
}

fn invalid_default(name: &str) -> Error {
    Error::invalid_default(format!("Invalid default value for '{name}'"))
}

/// A DEFAULT as stored; 1067 if the column cannot hold it.
pub fn default(
    column: &ColumnSchema,
    given: Option<&Default>,
    now_us: i64,
    offset_us: i64,
) -> Result<Option<DefaultValue>> {
    let is_time = matches!(column.ty, ColumnType::DateTime { .. } | ColumnType::Timestamp { .. });
    let expr = match given {
        None => return Ok(None),
        Some(Default::Now) if is_time => return Ok(Some(DefaultValue::CurrentTimestamp)),
        Some(Default::Now) => return Err(invalid_default(&column.name)),
        Some(Default::Constant(expr)) => expr,
    };
    let value = literal(expr).ok_or_else(|| invalid_default(&column.name))?;
    if value.is_null() {
        if !column.nullable {
            return Err(invalid_default(&column.name));
        }
        return Ok(Some(DefaultValue::Constant(None)));
    }
    let rules = Rules { strict: true, offset_us, now_us };
    let value = convert(value, None, column, 1, rules, &mut Warnings::default())
        .map_err(|_| invalid_default(&column.name))?;
    Ok(Some(DefaultValue::Constant(encode_value(&value))))
}

/// May it be the handle? One integer that fits an i64.
fn can_be_handle(ty: &ColumnType) -> bool {
    ty.is_integer() && *ty != ColumnType::Int { width: IntWidth::Big, unsigned: true }
}

fn primary_key(table: &mut TableSchema, keys: &[KeyDef]) -> Result<()> {
    let mut primary = keys.iter().filter(|k| k.kind == KeyKind::Primary);
    let Some(key) = primary.next() else { return Ok(()) };
    if primary.next().is_some() {
        return Err(Error::multiple_primary_key("Multiple primary key defined"));
    }
    for name in &key.columns {
        let column = table.columns.iter_mut().find(|c| c.name.eq_ignore_ascii_case(name));
        let column = column.ok_or_else(|| missing_key_column(name))?;
        if column.default == Some(DefaultValue::Constant(None)) {
            let message = "All parts of a PRIMARY KEY must be NOT NULL; if you need NULL in a key, \
                           use UNIQUE instead";
            return Err(Error { code: 1171, state: "42000", message: message.to_owned() });
        }
        column.nullable = false;
    }
    if let [name] = key.columns.as_slice()
        && let Some(column) = table.column(name)
        && can_be_handle(&column.ty)
    {
        table.handle_column = Some(column.id);
        return Ok(());
    }
    add_index(table, key, IndexState::Public).map(drop)
}

fn missing_key_column(name: &str) -> Error {
    Error::key_column_missing(format!("Key column '{name}' doesn't exist in table"))
}

/// Adds an index to the schema and returns its id.
pub fn add_index(table: &mut TableSchema, key: &KeyDef, state: IndexState) -> Result<IndexId> {
    if table.indexes.len() >= INDEXES_MAX {
        let message = format!("Too many keys specified; max {INDEXES_MAX} keys allowed");
        return Err(Error { code: 1069, state: "42000", message });
    }
    if key.columns.len() > INDEX_COLUMNS_MAX {
        let message =
            format!("Too many key parts specified; max {INDEX_COLUMNS_MAX} parts allowed");
        return Err(Error { code: 1070, state: "42000", message });
    }
    let mut columns = Vec::with_capacity(key.columns.len());
    for name in &key.columns {
        let column = table.column(name).ok_or_else(|| missing_key_column(name))?;
        if columns.contains(&column.id) {
            return Err(Error::duplicate_column(format!("Duplicate column name '{name}'")));
        }
        columns.push(column.id);
    }
    let primary = key.kind == KeyKind::Primary;
    let name = index_name(table, key)?;
    table.max_index_id = IndexId(table.max_index_id.0 + 1);
    table.indexes.push(IndexSchema {
        readable_from: damask_types::Timestamp::ZERO,
        id: table.max_index_id,
        name,
        columns,
        unique: key.kind != KeyKind::Plain,
        primary,
        state,
    });
    Ok(table.max_index_id)
}

/// The name given, or the first column's with a number.
fn index_name(table: &TableSchema, key: &KeyDef) -> Result<String> {
    let taken = |name: &str| table.indexes.iter().any(|i| i.name.eq_ignore_ascii_case(name));
    if key.kind == KeyKind::Primary {
        return Ok("PRIMARY".to_owned());
    }
    if let Some(name) = &key.name {
        check_name(name)?;
        if taken(name) {
            return Err(Error::duplicate_key_name(format!("Duplicate key name '{name}'")));
        }
        if name.eq_ignore_ascii_case("primary") {
            let message = format!("Incorrect index name '{name}'");
            return Err(Error { code: 1280, state: "42000", message });
        }
        return Ok(name.clone());
    }
    let first = &key.columns[0];
    let base = if first.eq_ignore_ascii_case("primary") { "primary_2" } else { first.as_str() };
    let mut names = std::iter::once(base.to_owned()).chain((2..).map(|n| format!("{base}_{n}")));
    Ok(names.find(|name| !taken(name)).expect("the numbers do not end"))
}

/// At most one AUTO_INCREMENT column, and it is the first of a key.
fn check_auto_increment(table: &TableSchema) -> Result<()> {
    let mut columns = table.columns.iter().filter(|c| c.auto_increment);
    let Some(column) = columns.next() else { return Ok(()) };
    let keyed = table.handle_column == Some(column.id)
        || table.indexes.iter().any(|i| i.columns.first() == Some(&column.id));
    if columns.next().is_some() || !keyed {
        let message = "Incorrect table definition; there can be only one auto column and it must \
                       be defined as a key";
        return Err(Error { code: 1075, state: "42000", message: message.to_owned() });
    }
    Ok(())
}

/// What rows written before a column was added have in it.
pub fn origin_default(column: &ColumnSchema, now_us: i64, offset_us: i64) -> Option<Vec<u8>> {
    match &column.default {
        Some(DefaultValue::Constant(value)) => value.clone(),
        Some(DefaultValue::CurrentTimestamp) => {
            encode_value(&crate::dml::insert::now(column, now_us, offset_us))
        }
        None if column.nullable => None,
        None => {
            let zero: Datum = crate::value::zero(&column.ty);
            encode_value(&zero)
        }
    }
}
