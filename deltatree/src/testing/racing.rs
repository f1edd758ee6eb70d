//! Readers, writers and maintenance at the same time: money moves between accounts, so the sum at
//! any timestamp is known without a model; another writer has a range of its own (see `owned`). No
//! thread may wait for another by sleeping.

use super::model::{Cell, Numbers, TABLE, Version, array, batch, cell, row};
use super::owned::{Over, Owned};
use crate::store::{
    Aggregate, ColumnSnapshot, ColumnStore, Fold, Grouping, HandleRange, Query, ScanRequest,
};
use arrow::datatypes::{DataType, Field, Schema};
use damask_types::Timestamp;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const ACCOUNTS: i64 = 120;
/// Where they are.
const BANK: HandleRange = HandleRange { first: 0, last: ACCOUNTS - 1 };
const MONEY: i64 = 1000;
/// Timestamps at which something moves.
const TRANSFERS: u64 = 400;
const READERS: u64 = 2;
/// How far behind the newest timestamp garbage is collected.
const BEHIND: u64 = 60;

/// Account 0 is cleared and written again now and then: it always holds this.
const RESET: i64 = 7;

fn opening() -> Vec<Version> {
    let account = |handle| row(handle, 1, if handle == 0 { RESET } else { MONEY });
    (0..ACCOUNTS).map(account).collect()
}

/// Moves money between two accounts, at one timestamp.
fn transfer(balances: &mut [i64], ts: u64, numbers: &mut Numbers) -> Vec<Version> {
    let from = 1 + numbers.below(ACCOUNTS as u64 - 1) as usize;
    let to = 1 + numbers.below(ACCOUNTS as u64 - 1) as usize;
    let amount = numbers.below(50) as i64;
    balances[from] -= amount;
    balances[to] += amount;
    let account = |at: usize| row(at as i64, ts, balances[at]);
    if from == to { vec![account(from)] } else { vec![account(to), account(from)] }
}

/// Sum and count of all accounts, by scan and by fold.
fn totals(snapshot: &dyn ColumnSnapshot, ts: u64) -> [(i128, u64); 2] {
    let schema = Arc::new(Schema::new(vec![Field::new("1", DataType::Int64, true)]));
    let scan = ScanRequest {
        ranges: vec![BANK],
        ts: Timestamp(ts),
        schema,
        defaults: vec![array(1, &[Cell::Null])],
        prune: Vec::new(),
        batch_rows: 32,
    };
    let (mut sum, mut rows) = (0, 0);
    for batch in snapshot.scan(&scan, 2).expect("a scan").into_iter().flatten() {
        let batch = batch.expect("a batch");
        for at in 0..batch.num_rows() {
            let Cell::Int(money) = cell(batch.column(0), at) else { panic!("NULL at {ts}") };
            (sum, rows) = (sum + i128::from(money), rows + 1);
        }
    }
    let one = |fold| Aggregate { fold, column: Some(0) };
    let aggregates = vec![one(Fold::Sum), one(Fold::Count)];
    let grouping =
        Grouping { groups: Vec::new(), aggregates, groups_max: 1, ..Grouping::default() };
    let query = Query { scan, filter: Vec::new() };
    let folded = snapshot.aggregate(&query, &grouping, 2).expect("folded").expect("one group");
    let Cell::Decimal(folded_sum) = cell(folded.column(0), 0) else { panic!("no sum at {ts}") };
    let Cell::Int(folded_rows) = cell(folded.column(1), 0) else { panic!("no count at {ts}") };
    [(sum, rows), (folded_sum, folded_rows as u64)]
}

/// What all threads share.
struct Bank<'a> {
    store: &'a dyn ColumnStore,
    /// Everything at or below it is applied.
    done: AtomicU64,
    /// Nothing else will be.
    is_over: AtomicBool,
    /// Held while a snapshot is taken for reads at or after it.
    safe_point: RwLock<u64>,
    /// What the other writer has.
    owned: Owned,
}

impl Bank<'_> {
    fn write(&self) {
        let _over = Over(&self.is_over);
        let mut balances = vec![MONEY; ACCOUNTS as usize];
        let mut numbers = Numbers(1);
        for ts in 2..2 + TRANSFERS {
            let mut versions = transfer(&mut balances, ts, &mut numbers);
            if ts % 5 == 0 {
                versions.push(row(0, ts, RESET));
            }
            self.store.apply(&batch(&versions)).expect("applied");
            self.done.store(ts, Ordering::Release);
            if ts % 16 == 0 {
                self.store.sync(&[(1, ts.to_le_bytes().to_vec())]).expect("synced");
            }
        }
    }

    fn is_done(&self) -> bool {
        self.owned.is_over() && self.is_over.load(Ordering::Acquire)
    }

    fn maintain(&self) {
        while !self.is_done() {
            let safe_point = {
                let mut safe_point = self.safe_point.write();
                *safe_point = self.done.load(Ordering::Acquire).saturating_sub(BEHIND);
                *safe_point
            };
            self.store.maintain(Timestamp(safe_point), 1 << 20).expect("maintained");
        }
    }

    fn write_owned(&self) {
        let at_version = |change: &mut dyn FnMut(u64)| {
            let _safe_point = self.safe_point.read();
            change(self.done.load(Ordering::Acquire) + 1);
        };
        self.owned.write(self.store, at_version);
    }

    fn read(&self, seed: u64) {
        let mut numbers = Numbers(seed);
        let expected = (i128::from((ACCOUNTS - 1) * MONEY + RESET), ACCOUNTS as u64);
        loop {
            let is_last = self.is_done();
            let (snapshot, first, last) = {
                let safe_point = self.safe_point.read();
                let last = self.done.load(Ordering::Acquire);
                (self.store.snapshot(TABLE).expect("a snapshot"), *safe_point, last)
            };
            for ts in [last, first.max(1) + numbers.below(last - first.max(1) + 1)] {
                assert_eq!(totals(&*snapshot, ts), [expected; 2], "at {ts} of {first}..={last}");
            }
            self.owned.check(self.store);
            if is_last {
                return;
            }
        }
    }
}

/// Everything at once on a new place.
pub(super) fn race(store: &dyn ColumnStore) {
    store.apply(&batch(&opening())).expect("applied");
    let (done, is_over) = (AtomicU64::new(1), AtomicBool::new(false));
    let safe_point = RwLock::new(0);
    let bank = Bank { store, done, is_over, safe_point, owned: Owned::new() };
    std::thread::scope(|scope| {
        scope.spawn(|| bank.maintain());
        scope.spawn(|| bank.write_owned());
        for reader in 0..READERS {
            let bank = &bank;
            scope.spawn(move || bank.read(reader));
        }
        bank.write();
    });
}
