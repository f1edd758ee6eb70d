//! The tables that clients write, as rows of the product's codec. It must never encode a row in
//! another way than SQL does.

use damask_learner::SchemaSource;
use damask_types::key::{decode_row_key, row_key};
use damask_types::row::{Cell, RowView, decode_value, encode_row};
use damask_types::schema::IntWidth;
use damask_types::{ColumnId, ColumnSchema, ColumnType, Datum, IndexId, TableId, TableSchema};
use parking_lot::Mutex;
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
/// One that is only written when its group has been idle.
pub const QUIET: TableId = TableId(104);
/// A set that only grows.
pub const SET: TableId = TableId(105);
/// Pairs of keys, written apart.
pub const FORKS: TableId = TableId(106);
/// One counter.
pub const COUNTER: TableId = TableId(107);
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

/// A row without its cell of a column that is dropped: one of so many.
pub fn without_dropped(key: &[u8], bytes: &[u8], dropped: u64) -> Vec<u8> {
    let (table, view) = (decode_row_key(key).map(|(table, _)| table), RowView::new(bytes));
    if let (Some(table), Ok(view)) = (table, view)
        && (1..=dropped).any(|number| matches!(view.get(added_id(number)), Cell::Value(_)))
        && let Ok(value) = decode(table, bytes)
    {
        return encode(&value, None);
    }
    bytes.to_vec()
}

/// Knows every table, with the columns that it had when somebody last asked for the newest.
pub struct Schemas {
    added: Arc<AtomicU64>,
    dropped: Arc<AtomicU64>,
    /// `added` and `dropped` of then.
    cached: Mutex<(u64, u64)>,
}

impl Schemas {
    /// By how many columns were added by now, and dropped of those.
    pub fn new(added: Arc<AtomicU64>, dropped: Arc<AtomicU64>) -> Schemas {
        Schemas { added, dropped, cached: Mutex::new((0, 0)) }
    }
}

impl SchemaSource for Schemas {
    fn table(&self, id: TableId, refresh: bool) -> Result<Option<Arc<TableSchema>>, String> {
        let (added, dropped) = {
            let mut cached = self.cached.lock();
            if refresh {
                let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
                *cached = (count(&self.added), count(&self.dropped));
            }
            *cached
        };
        // A column that is added again has the name of the one before, and another id.
        let named = |number| {
            let name = format!("c{}", added_id(number - dropped));
            ColumnSchema { name, ..added_column(number) }
        };
        let handle = make(ColumnId(1), ColumnType::Int { width: IntWidth::Big, unsigned: false });
        Ok(Some(Arc::new(TableSchema {
            id,
            database: "sim".into(),
            name: format!("t{id}"),
            version: 1 + added + dropped,
            columns: [handle, column(id)]
                .into_iter()
                .chain((dropped + 1..=added).map(named))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_column_is_taken_out_of_a_row_and_its_name_given_away() {
        let row = |added| encode(&Value::Number(7), added);
        let (key, whole) = (key(BANK, 1), row(Some((2, 9))));
        assert_eq!(without_dropped(&key, &whole, 1), whole);
        assert_eq!(without_dropped(&key, &whole, 2), row(None));
        assert_eq!(without_dropped(&key, &row(None), 2), row(None));
        let (added, dropped) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
        let schemas = Schemas::new(added.clone(), dropped.clone());
        let newest = |refresh| {
            let schema = schemas.table(BANK, refresh).expect("known").expect("there");
            let last = schema.columns.last().expect("some").clone();
            (last.name, last.id, schema.max_column_id)
        };
        let (name, first, _) = newest(true);
        added.store(2, Ordering::Relaxed);
        dropped.store(1, Ordering::Relaxed);
        assert_eq!(newest(false).1, first, "nobody has asked for the newest");
        let (again, second, max) = newest(true);
        assert_eq!((again, max), (name, second));
        assert!(second > first, "an id is never used again");
    }
}
