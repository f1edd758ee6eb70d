//! The data of the race, as functions of (handle, version), and the newest version of each handle,
//! now and a few transactions ago: the oracle. It must give every engine the same rows in the same order.

use crate::store::{ChangeBatch, ColumnStore};
use crate::testing::Numbers;
use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Int64Array, RecordBatch, StringArray,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use damask_types::{TableId, Timestamp};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

pub(super) const TABLE: TableId = TableId(77);
/// Columns `"1"` to `"4"`: k, c1, c2, and g with few values.
pub(super) const COLUMNS: usize = 4;
/// Columns of a wide table: the same, then 4 whole numbers, 4 decimals, 2 dates, 4 texts of few
/// values, and 2 long ones. Where each kind begins:
pub(super) const WIDE_COLUMNS: usize = 20;
pub(super) const DECIMALS: usize = 8;
const DATES: usize = 12;
pub(super) const WORDS_AT: usize = 14;
const TEXTS: usize = 18;
/// Digits of a decimal behind the point.
const SCALE: i8 = 2;
/// Days are below it.
const DAYS: i64 = 2500;
/// What a text of few values may be.
pub(super) const WORDS: [&str; 6] = ["AIR", "FOB", "MAIL", "RAIL", "SHIP", "TRUCK"];
/// Bytes of the longest text; the shortest has half of them.
const TEXT_BYTES: i64 = 80;
/// Values of g.
pub(super) const GROUPS: u64 = 6;
/// k, c1 and c2 are below it.
pub(super) const VALUES: u64 = 1_000_000;
const LOAD_ROWS: i64 = 65_536;
/// Rows of an updating transaction.
pub(super) const UPDATE_ROWS: u64 = 1000;
/// Transactions between two syncs, each followed by `maintain`.
const SYNC_EVERY: u64 = 32;
/// Timestamps that stay readable behind the newest.
pub(super) const READABLE: u64 = 20;

/// The value of a row's column, counted from 0.
pub(super) fn value(handle: i64, version: u64, column: usize) -> i64 {
    let seed = (handle as u64).wrapping_mul(31) ^ version.wrapping_mul(1 << 40) ^ column as u64;
    let end = if column + 1 == COLUMNS { GROUPS } else { VALUES };
    Numbers(seed).below(end) as i64
}

/// The word that a row has in a text column of few values.
pub(super) fn word(value: i64) -> &'static str {
    WORDS[value as usize % WORDS.len()]
}

/// Of a wide table; one that is not wide has the first [`COLUMNS`].
pub(super) fn schema() -> SchemaRef {
    let field = |at: usize| {
        let data_type = match at {
            ..DECIMALS => DataType::Int64,
            DECIMALS..DATES => DataType::Decimal128(38, SCALE),
            DATES..WORDS_AT => DataType::Date32,
            _ => DataType::Utf8,
        };
        Field::new((at + 1).to_string(), data_type, true)
    };
    Arc::new(Schema::new((0..WIDE_COLUMNS).map(field).collect::<Vec<_>>()))
}

fn column(rows: &[(i64, u64)], at: usize) -> ArrayRef {
    let values = rows.iter().map(|(h, v)| value(*h, *v, at));
    match at {
        ..DECIMALS => Arc::new(Int64Array::from_iter_values(values)),
        DECIMALS..DATES => {
            let array = Decimal128Array::from_iter_values(values.map(i128::from));
            Arc::new(array.with_precision_and_scale(38, SCALE).expect("a decimal"))
        }
        DATES..WORDS_AT => {
            Arc::new(Date32Array::from_iter_values(values.map(|value| (value % DAYS) as i32)))
        }
        WORDS_AT..TEXTS => Arc::new(StringArray::from_iter_values(values.map(word))),
        _ => {
            let text = |value: i64| {
                let bytes = (TEXT_BYTES / 2 + value % (TEXT_BYTES / 2)) as usize;
                format!("{value:0bytes$}")
            };
            Arc::new(StringArray::from_iter_values(values.map(text)))
        }
    }
}

fn batch(rows: &[(i64, u64)], columns: usize) -> ChangeBatch {
    let schema = schema().project(&(0..columns).collect::<Vec<_>>()).expect("columns of the table");
    let arrays = (0..columns).map(|at| column(rows, at)).collect();
    ChangeBatch {
        table: TABLE,
        handles: Int64Array::from_iter_values(rows.iter().map(|row| row.0)),
        versions: UInt64Array::from_iter_values(rows.iter().map(|row| row.1)),
        deleted: BooleanArray::from(vec![false; rows.len()]),
        columns: RecordBatch::try_new(Arc::new(schema), arrays).expect("columns of one length"),
    }
}

/// Which handles are updated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// Any, evenly.
    Uniform,
    /// Few of them most of the time: the n-th most favoured in 1/n of the updates. Favoured
    /// handles lie anywhere.
    Zipf,
    /// Those of the last hundredth, evenly.
    Newest,
}

impl Placement {
    pub fn name(self) -> &'static str {
        match self {
            Placement::Uniform => "uniform",
            Placement::Zipf => "zipf",
            Placement::Newest => "newest 1 %",
        }
    }

    fn handle(self, numbers: &mut Numbers, rows: u64) -> i64 {
        let handle = match self {
            Placement::Uniform => numbers.below(rows),
            Placement::Zipf => {
                let share = numbers.below(1 << 30) as f64 / (1u64 << 30) as f64;
                let rank = (rows as f64).powf(share) as u64;
                rank.wrapping_mul(2_654_435_761) % rows
            }
            Placement::Newest => {
                let newest = (rows / 100).max(1);
                rows - newest + numbers.below(newest)
            }
        };
        handle as i64
    }
}

/// The versions that a transaction hid.
struct Replaced {
    ts: u64,
    /// Handle, version.
    rows: Vec<(i64, u64)>,
}

/// Where the data stands.
pub(super) struct Workload {
    /// The newest version of each handle.
    pub newest: Vec<u64>,
    /// The newest timestamp.
    pub now: u64,
    /// Rows updated so far.
    pub updated: u64,
    /// Of the table.
    pub columns: usize,
    /// By the last [`READABLE`] transactions, oldest first.
    replaced: VecDeque<Replaced>,
    numbers: Numbers,
    placement: Placement,
}

impl Workload {
    pub fn new(rows: u64, placement: Placement) -> Workload {
        let (newest, numbers, replaced) = (vec![1; rows as usize], Numbers(7), VecDeque::new());
        Workload { newest, now: 1, updated: 0, columns: COLUMNS, replaced, numbers, placement }
    }

    /// The same of a table of many columns.
    pub fn wide(self) -> Workload {
        Workload { columns: WIDE_COLUMNS, ..self }
    }

    pub fn rows(&self) -> u64 {
        self.newest.len() as u64
    }

    /// The oldest timestamp that may be asked about: of it and what came later, versions are kept.
    pub fn oldest(&self) -> u64 {
        self.now.saturating_sub(READABLE).max(1)
    }

    /// The newest version of each handle that a read at a timestamp sees, from [`Self::oldest`] on.
    pub fn versions_at(&self, ts: u64) -> Cow<'_, [u64]> {
        assert!(ts >= self.oldest(), "versions that were hidden by {ts} are forgotten");
        let mut versions = Cow::Borrowed(self.newest.as_slice());
        for replaced in self.replaced.iter().rev().take_while(|replaced| replaced.ts > ts) {
            let versions = versions.to_mut();
            replaced.rows.iter().for_each(|(h, version)| versions[*h as usize] = *version);
        }
        versions
    }

    /// Every row at its newest version, in order of handles.
    pub fn sorted(&self) -> impl Iterator<Item = ChangeBatch> {
        let rows = self.newest.len() as i64;
        (0..rows).step_by(LOAD_ROWS as usize).map(move |first| {
            let handles = first..rows.min(first + LOAD_ROWS);
            let part: Vec<_> = handles.map(|h| (h, self.newest[h as usize])).collect();
            batch(&part, self.columns)
        })
    }

    /// Bytes of the rows as the user sees them: the handle and each column's newest value.
    pub fn live_bytes(&self) -> u64 {
        let size = |a: &ArrayRef| a.to_data().get_slice_memory_size().unwrap_or(0);
        let bytes = |b: ChangeBatch| {
            b.handles.len() * 8 + b.columns.columns().iter().map(size).sum::<usize>()
        };
        self.sorted().map(|batch| bytes(batch) as u64).sum()
    }

    /// Applies every row at its newest version, in order of handles.
    pub fn load(&self, store: &dyn ColumnStore) -> super::Result<()> {
        for (number, batch) in self.sorted().enumerate() {
            store.apply(&batch)?;
            if number % 8 == 7 {
                store.sync(&[(1, number.to_le_bytes().to_vec())])?;
                self.maintain(store)?;
            }
        }
        store.sync(&[(1, self.rows().to_le_bytes().to_vec())])?;
        self.maintain(store)
    }

    pub fn maintain(&self, store: &dyn ColumnStore) -> super::Result<()> {
        let safe_point = Timestamp(self.oldest());
        while store.maintain(safe_point, u64::MAX)? {}
        Ok(())
    }

    /// Transactions until so many rows more are updated.
    pub fn transactions(&mut self, rows: u64) -> Vec<ChangeBatch> {
        let mut batches = Vec::new();
        let end = self.updated + rows;
        while self.updated < end {
            self.now += 1;
            let count = UPDATE_ROWS.min(end - self.updated);
            let all = self.rows();
            let (placement, numbers) = (self.placement, &mut self.numbers);
            let mut handles: Vec<i64> =
                (0..count).map(|_| placement.handle(numbers, all)).collect();
            handles.sort_unstable();
            handles.dedup();
            let hide = |h: &i64| (*h, std::mem::replace(&mut self.newest[*h as usize], self.now));
            let replaced = handles.iter().map(hide).collect();
            self.replaced.push_back(Replaced { ts: self.now, rows: replaced });
            if self.replaced.len() as u64 > READABLE {
                self.replaced.pop_front();
            }
            self.updated += count;
            let rows: Vec<_> = handles.iter().map(|h| (*h, self.now)).collect();
            batches.push(batch(&rows, self.columns));
        }
        batches
    }

    /// Gives transactions to a store, with syncs and maintenance as they fall due.
    pub fn apply(&self, store: &dyn ColumnStore, batches: &[ChangeBatch]) -> super::Result<()> {
        for (number, batch) in batches.iter().enumerate() {
            store.apply(batch)?;
            if number as u64 % SYNC_EVERY == SYNC_EVERY - 1 {
                store.sync(&[(1, self.now.to_le_bytes().to_vec())])?;
                self.maintain(store)?;
            }
        }
        store.sync(&[(1, self.now.to_le_bytes().to_vec())])?;
        self.maintain(store)
    }
}
