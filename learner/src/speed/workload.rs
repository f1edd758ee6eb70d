//! Log entries of transactions, as bytes, over a table of one of some shapes. It must never give
//! two runs of one plan different bytes.

use damask_deltatree::testing::Numbers;
use damask_types::codec::put_var_u64;
use damask_types::key::row_key;
use damask_types::mutation::SHORT_VALUE_MAX;
use damask_types::row::encode_row;
use damask_types::schema::IntWidth;
use damask_types::{
    ColumnId, ColumnSchema, ColumnType, Datum, Decimal, IndexId, Lock, LockKind, Record, TableId,
    TableSchema, Timestamp, Write, WriteKind,
};

/// The table.
pub(super) const TABLE: TableId = TableId(77);
/// Rows of a transaction.
const TRANSACTION_ROWS: u64 = 100;
/// Milliseconds that a lock lives.
const LOCK_MS: u64 = 3000;

/// What a row is like. The handle is a column of its own, which is not stored twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Four whole numbers.
    Narrow,
    /// `sbtest` of sysbench: a number, texts of 119 and 59 bytes.
    Sysbench,
    /// `lineitem` of TPC-H: 16 columns.
    Lineitem,
}

impl Shape {
    /// All of them.
    pub const ALL: [Shape; 3] = [Shape::Narrow, Shape::Sysbench, Shape::Lineitem];

    /// For a reader.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Narrow => "4 whole numbers",
            Shape::Sysbench => "sysbench",
            Shape::Lineitem => "lineitem",
        }
    }

    fn types(self) -> Vec<ColumnType> {
        let int = ColumnType::Int { width: IntWidth::Big, unsigned: false };
        let money = ColumnType::Decimal { precision: 15, scale: 2 };
        let text = |len| ColumnType::VarChar { len };
        match self {
            Shape::Narrow => vec![int; 4],
            Shape::Sysbench => vec![int, text(120), text(60)],
            Shape::Lineitem => {
                let mut types = vec![int; 4];
                types.extend(vec![money; 4]);
                types.extend(vec![ColumnType::Date; 3]);
                types.extend(vec![text(44); 5]);
                types
            }
        }
    }

    /// Column 1 is the handle.
    pub(super) fn schema(self) -> TableSchema {
        let handle = ColumnType::Int { width: IntWidth::Big, unsigned: false };
        let all = std::iter::once(handle).chain(self.types());
        let columns: Vec<ColumnSchema> = all.zip(1..).map(|(ty, id)| column(id, ty)).collect();
        TableSchema {
            id: TABLE,
            database: "bench".into(),
            name: self.name().into(),
            version: 1,
            max_column_id: ColumnId(columns.len() as i64),
            columns,
            handle_column: Some(ColumnId(1)),
            indexes: Vec::new(),
            column_replicas: 1,
            max_index_id: IndexId(0),
            comment: String::new(),
        }
    }

    fn row(self, numbers: &mut Numbers) -> Vec<u8> {
        let datums: Vec<Datum> = self.types().iter().map(|ty| datum(ty, numbers)).collect();
        let cells = datums.iter().zip(2..).map(|(datum, id)| (ColumnId(id), datum));
        encode_row(&cells.collect::<Vec<_>>())
    }
}

fn column(id: i64, ty: ColumnType) -> ColumnSchema {
    ColumnSchema {
        id: ColumnId(id),
        name: format!("c{id}"),
        ty,
        nullable: id > 1,
        default: None,
        origin_default: None,
        auto_increment: false,
        on_update_now: false,
        comment: String::new(),
    }
}

fn datum(ty: &ColumnType, numbers: &mut Numbers) -> Datum {
    match ty {
        ColumnType::Decimal { scale, .. } => {
            Datum::Decimal(Decimal { unscaled: numbers.below(10_000_000).into(), scale: *scale })
        }
        ColumnType::Date => Datum::Date(8000 + numbers.below(2500) as i32),
        ColumnType::VarChar { len } => {
            // long ones are full, as sysbench's are; short ones are of any length
            let bytes = match *len {
                len if len > 44 => u64::from(len) - 1,
                len => 1 + numbers.below(u64::from(len) / 2),
            };
            let digits = (0..bytes).map(|_| char::from(b'0' + numbers.below(10) as u8));
            Datum::Text(digits.collect())
        }
        _ => Datum::Int(numbers.below(1_000_000) as i64),
    }
}

/// Transactions of 100 rows.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// What a row is like.
    pub shape: Shape,
    /// Rows are locked in one entry and committed in another; else both in one (one-phase commit).
    pub two_phase: bool,
}

impl Workload {
    /// New rows, handles `0..rows`, at version 10.
    pub fn inserts(&self, rows: u64) -> Vec<Vec<u8>> {
        let mut numbers = Numbers(7);
        let handles: Vec<u64> = (0..rows).collect();
        let parts = handles.chunks(TRANSACTION_ROWS as usize);
        parts.flat_map(|part| self.transaction(part, 10, &mut numbers)).collect()
    }

    /// New versions of so many rows, at random among handles `0..rows`.
    pub fn updates(&self, count: u64, rows: u64) -> Vec<Vec<u8>> {
        let mut numbers = Numbers(11);
        let (mut entries, mut ts) = (Vec::new(), 20);
        for _ in 0..count.div_ceil(TRANSACTION_ROWS) {
            let mut handles: Vec<u64> =
                (0..TRANSACTION_ROWS).map(|_| numbers.below(rows)).collect();
            handles.sort_unstable();
            handles.dedup();
            entries.extend(self.transaction(&handles, ts, &mut numbers));
            ts += 2;
        }
        entries
    }

    /// The entries of one transaction that commits at `ts`.
    fn transaction(&self, handles: &[u64], ts: u64, numbers: &mut Numbers) -> Vec<Vec<u8>> {
        let (start_ts, commit_ts) = (Timestamp(ts - 1), Timestamp(ts));
        let primary = row_key(TABLE, handles[0] as i64);
        let (mut locked, mut committed) = (Vec::new(), Vec::new());
        for handle in handles {
            let key = row_key(TABLE, *handle as i64);
            let value = self.shape.row(numbers);
            let short = (value.len() <= SHORT_VALUE_MAX).then(|| value.clone());
            if short.is_none() {
                let into = if self.two_phase { &mut locked } else { &mut committed };
                into.push(Record::Value { key: key.clone(), start_ts, value });
            }
            if self.two_phase {
                let lock = Lock::new(LockKind::Put, primary.clone(), start_ts, LOCK_MS);
                let lock = Lock { short_value: short.clone(), ..lock };
                locked.push(Record::Lock { key: key.clone(), lock });
            }
            let write = Write::new(WriteKind::Put, start_ts, short);
            committed.push(Record::Write { key: key.clone(), commit_ts, write });
            if self.two_phase {
                committed.push(Record::Unlock { key });
            }
        }
        let entries = [locked, committed].into_iter().filter(|records| !records.is_empty());
        entries.map(|records| entry(&records)).collect()
    }
}

fn entry(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    put_var_u64(&mut out, records.len() as u64);
    records.iter().for_each(|record| record.put(&mut out));
    out
}
