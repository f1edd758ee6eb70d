//! The tables that clients write, as rows of the product's codec. It must never encode a row in
//! another way than SQL does.

use damask_learner::SchemaSource;
use damask_types::key::row_key;
use damask_types::row::{Cell, RowView, decode_value, encode_row};
use damask_types::schema::IntWidth;
use damask_types::{ColumnId, ColumnSchema, ColumnType, Datum, IndexId, TableId, TableSchema};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Accounts: handle, balance.
pub const BANK: TableId = TableId(100);
/// Lists: handle, elements.
pub const LISTS: TableId = TableId(101);
/// Items with an index over their second column.
pub const ITEMS: TableId = TableId(102);
/// Single values.
pub const REGISTERS: TableId = TableId(103);
/// Those with columns.
pub const WITH_COLUMNS: [TableId; 3] = [BANK, LISTS, ITEMS];
/// The index of [`ITEMS`].
pub const INDEX: IndexId = IndexId(1);

/// The column beside the handle.
const VALUE: ColumnId = ColumnId(2);

/// What a row holds beside its handle.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// A number.
    Number(i64),
    /// Text.
    Text(String),
}

/// A row's key.
pub fn key(table: TableId, handle: i64) -> Vec<u8> {
    row_key(table, handle)
}

/// A cell of a column that was added: which of them, and what it holds.
pub type Added = Option<(u64, i64)>;

/// A row's bytes.
pub fn encode(value: &Value, added: Added) -> Vec<u8> {
    let datum = match value {
        Value::Number(number) => Datum::Int(*number),
        Value::Text(text) => Datum::Text(text.clone()),
    };
    let Some((number, held)) = added else { return encode_row(&[(VALUE, &datum)]) };
    encode_row(&[(VALUE, &datum), (added_id(number), &Datum::Int(held))])
}

fn added_id(number: u64) -> ColumnId {
    ColumnId(VALUE.0 + number as i64)
}

/// The value of a row of this table.
pub fn decode(table: TableId, bytes: &[u8]) -> Result<Value, String> {
    let view = RowView::new(bytes).map_err(|e| e.to_string())?;
    let Cell::Value(value) = view.get(VALUE) else { return Err("a row without value".into()) };
    match decode_value(&column_type(table), value).map_err(|e| e.to_string())? {
        Datum::Int(number) => Ok(Value::Number(number)),
        Datum::Text(text) => Ok(Value::Text(text)),
        other => Err(format!("a row with {other:?}")),
    }
}

/// The type of the column beside the handle.
pub fn column_type(table: TableId) -> ColumnType {
    match table == LISTS {
        true => ColumnType::Text { bytes_max: 1 << 20 },
        false => ColumnType::Int { width: IntWidth::Big, unsigned: false },
    }
}

/// The column beside the handle.
pub fn column(table: TableId) -> ColumnSchema {
    make(VALUE, column_type(table))
}

fn make(id: ColumnId, ty: ColumnType) -> ColumnSchema {
    ColumnSchema {
        id,
        name: format!("c{id}"),
        ty,
        nullable: true,
        default: None,
        origin_default: None,
        auto_increment: false,
        on_update_now: false,
        comment: String::new(),
    }
}

/// The column that was added as this one, counted from 1.
pub fn added_column(number: u64) -> ColumnSchema {
    make(added_id(number), ColumnType::Int { width: IntWidth::Big, unsigned: false })
}

/// Knows every table, with the columns that it had when somebody last asked for the newest.
pub struct Schemas {
    newest: Arc<AtomicU64>,
    cached: AtomicU64,
}

impl Schemas {
    /// `newest`: how many columns were added by now.
    pub fn new(newest: Arc<AtomicU64>) -> Schemas {
        Schemas { newest, cached: AtomicU64::new(0) }
    }
}

impl SchemaSource for Schemas {
    fn table(&self, id: TableId, refresh: bool) -> Result<Option<Arc<TableSchema>>, String> {
        if refresh {
            self.cached.store(self.newest.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let added = self.cached.load(Ordering::Relaxed);
        let handle = make(ColumnId(1), ColumnType::Int { width: IntWidth::Big, unsigned: false });
        Ok(Some(Arc::new(TableSchema {
            id,
            database: "sim".into(),
            name: format!("t{id}"),
            version: 1 + added,
            columns: [handle, column(id)]
                .into_iter()
                .chain((1..=added).map(added_column))
                .collect(),
            handle_column: Some(ColumnId(1)),
            indexes: Vec::new(),
            column_replicas: 1,
            max_column_id: added_id(added),
            max_index_id: IndexId(0),
            comment: String::new(),
        })))
    }
}
