//! The traps by name: small histories in which a column store is easily wrong, each in several
//! tempos (all in memory, synced, merged, reopened), each read at every timestamp. None may depend
//! on what a store is made of.

use super::Opener;
use super::model::{
    Cell, DEFAULT, Model, TABLE, Version, batch, gone, request, row, rows_of, scan, wide,
};
use crate::store::{ChangeBatch, ColumnStore, HandleRange};
use arrow::array::UInt64Array;
use damask_types::{ErrorKind, TableId, Timestamp};
use std::sync::Arc;

/// What happens between two changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tempo {
    Nothing,
    Synced,
    /// Synced, and maintained until there is nothing more to do.
    Merged,
    /// Synced, and closed and opened.
    Reopened,
}

const TEMPOS: [Tempo; 4] = [Tempo::Nothing, Tempo::Synced, Tempo::Merged, Tempo::Reopened];
/// Rounds of `maintain` after which something is wrong.
const MAINTAIN_MAX: usize = 1000;
/// Other rows, so that there is something to merge with, from this handle on.
const FILLER_FIRST: i64 = 1000;
const FILLER_ROWS: i64 = 130;

/// A store, what should be in it, and from which timestamp on that counts.
struct Case<'a> {
    open: &'a Opener,
    store: Arc<dyn ColumnStore>,
    model: Model,
    tempo: Tempo,
    safe_point: u64,
    name: &'static str,
}

impl Case<'_> {
    fn context(&self) -> String {
        format!("{} ({:?})", self.name, self.tempo)
    }

    fn settle(&mut self) {
        let context = self.context();
        if self.tempo != Tempo::Nothing {
            self.store.sync(&[]).unwrap_or_else(|e| panic!("{context}: sync: {e}"));
        }
        if self.tempo == Tempo::Merged {
            self.maintain();
        }
        if self.tempo == Tempo::Reopened {
            // one store at a time may have the place
            self.store = Arc::new(crate::MemoryColumnStore::new());
            self.store = (self.open)();
        }
        self.check();
    }

    fn maintain(&self) {
        let safe_point = Timestamp(self.safe_point);
        let more = || self.store.maintain(safe_point, u64::MAX);
        for _ in 0..MAINTAIN_MAX {
            if !more().unwrap_or_else(|e| panic!("{}: maintain: {e}", self.context())) {
                return;
            }
        }
        panic!("{}: maintain has always more to do", self.context());
    }

    fn apply(&mut self, versions: &[Version]) {
        let applied = self.store.apply(&batch(versions));
        applied.unwrap_or_else(|e| panic!("{}: apply: {e}", self.context()));
        self.model.apply(versions);
        self.settle();
    }

    fn clear(&mut self, first: i64, last: i64) {
        let range = HandleRange { first, last };
        let cleared = self.store.clear(TABLE, range);
        cleared.unwrap_or_else(|e| panic!("{}: clear: {e}", self.context()));
        self.model.clear(range);
        self.settle();
    }

    /// From now on only reads at or after it count; garbage may go.
    fn collect(&mut self, safe_point: u64) {
        self.safe_point = safe_point;
        self.store.sync(&[]).unwrap_or_else(|e| panic!("{}: sync: {e}", self.context()));
        self.maintain();
        self.check();
    }

    /// Rows enough that a small store merges and splits.
    fn fill(&mut self, version: u64) {
        let rows: Vec<Version> =
            (0..FILLER_ROWS).map(|i| wide(FILLER_FIRST + i, version, i, "filler")).collect();
        self.apply(&rows);
    }

    /// Every timestamp that can make a difference.
    fn timestamps(&self) -> Vec<u64> {
        let versions = self.model.0.keys().map(|(_, version)| *version);
        let around = versions.flat_map(|v| [v.saturating_sub(1), v, v + 1]);
        let mut all: Vec<u64> = around.chain([self.safe_point, u64::MAX]).collect();
        all.retain(|ts| *ts >= self.safe_point);
        all.sort_unstable();
        all.dedup();
        all
    }

    fn check(&self) {
        let snapshot = self.store.snapshot(TABLE).expect("a snapshot");
        self.check_snapshot(&*snapshot, &self.model);
    }

    fn check_snapshot(&self, snapshot: &dyn crate::ColumnSnapshot, model: &Model) {
        let all = [HandleRange::ALL];
        for ts in self.timestamps() {
            let seen = scan(snapshot, &request(&all, ts, 50), 2);
            let seen = seen.unwrap_or_else(|e| panic!("{}: {e}", self.context()));
            let expected = model.read(&all, ts);
            let wrong = seen.iter().zip(&expected).find(|(seen, expected)| seen != expected);
            assert_eq!(wrong, None, "{}: read at {ts}", self.context());
            assert_eq!(seen.len(), expected.len(), "{}: rows at {ts}", self.context());
            let count = snapshot.count(&all, Timestamp(ts)).expect("a count");
            assert_eq!(count, expected.len() as u64, "{}: count at {ts}", self.context());
        }
    }
}

type Trap = (&'static str, fn(&mut Case<'_>));

const TRAPS: [Trap; 13] = [
    ("the same version twice", the_same_version_twice),
    ("an older version after a newer", an_older_version_after_a_newer),
    ("deleted and inserted again", deleted_and_inserted_again),
    ("a deletion of nothing, then what it hides", a_deletion_before_its_row),
    ("a read between two versions", a_read_between_two_versions),
    ("a clear between two writes of a row", a_clear_between_two_writes),
    ("clears that meet, touch and repeat", clears_that_meet),
    ("a snapshot while segments split and merge", a_snapshot_while_all_moves),
    ("timestamps that do not ascend with handles", timestamps_in_any_order),
    ("rows outside of the asked ranges", rows_outside_of_the_ranges),
    ("garbage up to the safe point", garbage_up_to_the_safe_point),
    ("a deletion at the safe point", a_deletion_at_the_safe_point),
    ("a column that rows lack", a_column_that_rows_lack),
];

/// All traps in all tempos, each on a new place.
pub(super) fn all(make: &dyn Fn() -> Opener) {
    for tempo in TEMPOS {
        for (name, trap) in TRAPS {
            let open = make();
            let (store, model) = (open(), Model::default());
            let mut case = Case { open: &open, store, model, tempo, safe_point: 0, name };
            trap(&mut case);
        }
    }
    an_unknown_table_is_empty(&*make()());
    wrong_requests_are_refused(&*make()());
    marks_come_and_go(&make());
    ingested_rows_replace_a_range(&make());
}

fn the_same_version_twice(case: &mut Case<'_>) {
    case.fill(5);
    case.apply(&[row(1, 10, 100), row(1, 20, 200), gone(2, 15)]);
    // what is there already counts, also against other values
    case.apply(&[row(1, 10, 999), row(2, 15, 999)]);
    case.apply(&[row(1, 30, 300), row(1, 30, 301), row(3, 30, 1), gone(3, 30)]);
    case.fill(5);
}

fn an_older_version_after_a_newer(case: &mut Case<'_>) {
    case.fill(50);
    case.apply(&[row(1, 40, 140), row(2, 40, 240), row(3, 10, 310)]);
    case.apply(&[row(1, 20, 120), gone(2, 30), row(3, 30, 330)]);
    case.apply(&[row(1, 30, 130), row(2, 10, 210), row(3, 20, 320)]);
    // under rows that may be merged by now
    case.apply(&[wide(FILLER_FIRST, 20, 1, "older"), gone(FILLER_FIRST + 1, 30)]);
}

fn deleted_and_inserted_again(case: &mut Case<'_>) {
    case.apply(&[row(1, 10, 110), row(2, 10, 210)]);
    case.fill(11);
    case.apply(&[gone(1, 20), gone(2, 20), gone(FILLER_FIRST + 3, 20)]);
    case.apply(&[row(1, 30, 130), wide(FILLER_FIRST + 3, 30, 3, "again")]);
    case.apply(&[gone(1, 40)]);
    case.apply(&[row(1, 50, 150)]);
}

fn a_deletion_before_its_row(case: &mut Case<'_>) {
    case.fill(5);
    case.apply(&[gone(1, 20), gone(7, 20)]);
    case.apply(&[row(1, 10, 110)]);
    case.apply(&[row(7, 30, 730)]);
}

fn a_read_between_two_versions(case: &mut Case<'_>) {
    case.fill(10);
    for version in [20, 30, 40] {
        let update = |i| wide(FILLER_FIRST + i * 3, version, version as i64 + i, "updated");
        case.apply(&(0..20).map(update).collect::<Vec<_>>());
    }
}

fn a_clear_between_two_writes(case: &mut Case<'_>) {
    case.fill(5);
    case.apply(&[row(1, 10, 110), row(2, 10, 210)]);
    // no snapshot lives longer than its store
    let kept = (case.tempo != Tempo::Reopened).then(|| case.store.snapshot(TABLE));
    let before = case.model.clone();
    case.clear(1, 1);
    case.apply(&[row(1, 20, 120)]);
    if let Some(snapshot) = kept {
        case.check_snapshot(&*snapshot.expect("a snapshot"), &before);
    }
    case.clear(FILLER_FIRST + 10, FILLER_FIRST + 99);
    // a version that was there before the clear comes back: it is not the same twice
    case.apply(&[row(1, 10, 7), wide(FILLER_FIRST + 50, 5, 8, "back")]);
}

fn clears_that_meet(case: &mut Case<'_>) {
    case.fill(5);
    case.clear(FILLER_FIRST + 10, FILLER_FIRST + 19);
    case.clear(FILLER_FIRST + 20, FILLER_FIRST + 29);
    case.clear(FILLER_FIRST + 15, FILLER_FIRST + 24);
    case.clear(9, 3);
    case.apply(&[wide(FILLER_FIRST + 20, 30, 1, "between")]);
    case.clear(i64::MIN, i64::MAX);
    case.fill(40);
    case.clear(FILLER_FIRST + FILLER_ROWS - 1, i64::MAX);
}

fn a_snapshot_while_all_moves(case: &mut Case<'_>) {
    case.fill(5);
    let before = (case.store.snapshot(TABLE).expect("a snapshot"), case.model.clone());
    let many: Vec<Version> =
        (0..400).map(|i| wide(FILLER_FIRST + i % 300, 10 + i as u64, i, "later")).collect();
    for part in many.chunks(100) {
        let applied = case.store.apply(&batch(part));
        applied.unwrap_or_else(|e| panic!("{}: apply: {e}", case.context()));
        case.model.apply(part);
        case.store.sync(&[]).expect("synced");
        case.maintain();
        case.check_snapshot(&*before.0, &before.1);
    }
    case.check();
}

fn timestamps_in_any_order(case: &mut Case<'_>) {
    // two regions of one table commit on their own: the higher handles have the lower timestamps
    for round in 0..6u64 {
        let one = |i| row(i * 7 % 40, 100 + round * 10 + i as u64 % 7, i);
        let other = |i| row(500 + i * 11 % 40, 20 + round * 7 + i as u64 % 5, i);
        let mut versions: Vec<Version> = (0..30).map(one).chain((0..30).map(other)).collect();
        versions.dedup_by_key(|v| (v.handle, v.version));
        case.apply(&versions);
    }
}

fn rows_outside_of_the_ranges(case: &mut Case<'_>) {
    case.fill(5);
    case.apply(&[row(i64::MIN, 6, 1), row(i64::MAX, 6, 2), row(0, 6, 3), row(-1, 6, 4)]);
    let snapshot = case.store.snapshot(TABLE).expect("a snapshot");
    let range = |first, last| HandleRange { first, last };
    for ranges in [
        vec![],
        vec![range(i64::MIN, i64::MIN)],
        vec![range(i64::MAX, i64::MAX)],
        vec![range(5, 5)],
        vec![range(-1, -1), range(0, 0), range(1003, 1004)],
        vec![range(i64::MIN, 1015), range(1017, 1017), range(1020, i64::MAX)],
        vec![range(2, FILLER_FIRST - 1)],
    ] {
        let seen = scan(&*snapshot, &request(&ranges, 7, 9), 3).expect("a scan");
        assert_eq!(seen, case.model.read(&ranges, 7), "{}: {ranges:?}", case.context());
        let count = snapshot.count(&ranges, Timestamp(7)).expect("a count");
        assert_eq!(count, seen.len() as u64, "{}: {ranges:?}", case.context());
    }
}

fn garbage_up_to_the_safe_point(case: &mut Case<'_>) {
    for version in [10, 20, 30, 40] {
        case.fill(version);
    }
    case.collect(25);
    case.apply(&[wide(FILLER_FIRST, 26, 1, "just above"), row(1, 50, 2)]);
    case.collect(41);
    case.fill(60);
    case.collect(60);
}

fn a_deletion_at_the_safe_point(case: &mut Case<'_>) {
    case.fill(10);
    case.apply(&[row(1, 11, 1), row(2, 11, 2)]);
    let gone_all: Vec<Version> = (0..FILLER_ROWS).map(|i| gone(FILLER_FIRST + i, 20)).collect();
    case.apply(&gone_all);
    case.apply(&[gone(1, 20), row(2, 19, 3), gone(2, 20), row(2, 25, 4)]);
    case.collect(20);
    case.apply(&[row(1, 30, 5)]);
    case.fill(35);
    case.collect(36);
}

fn a_column_that_rows_lack(case: &mut Case<'_>) {
    let narrow: Vec<Version> = (0..50).map(|i| row(i, 10, i)).collect();
    case.apply(&narrow);
    case.fill(11);
    // the column is added: some rows have it, NULL included, the others take the default
    let added = |i: i64| match i % 3 {
        0 => Version { handle: i, version: 20, row: Some((Some(i), Some(None))) },
        _ => wide(i, 20, i, "added"),
    };
    case.apply(&(0..50).step_by(2).map(added).collect::<Vec<_>>());
    // and dropped
    case.apply(&(0..50).step_by(5).map(|i| row(i, 30, i)).collect::<Vec<_>>());
    let snapshot = case.store.snapshot(TABLE).expect("a snapshot");
    let mut narrow = request(&[HandleRange::ALL], u64::MAX, 20);
    narrow.schema = Arc::new(narrow.schema.project(&[2]).expect("the column"));
    narrow.defaults = vec![narrow.defaults[2].clone()];
    let (text, mut defaults) = (Cell::Text(DEFAULT.into()), 0);
    for batch in snapshot.scan(&narrow, 1).expect("a scan").into_iter().flatten() {
        let rows = rows_of(&batch.expect("a batch"));
        defaults += rows.iter().filter(|row| row[0] == text).count();
    }
    let expected = case.model.read(&[HandleRange::ALL], u64::MAX);
    assert_eq!(defaults, expected.iter().filter(|row| row[2] == text).count());
}

fn an_unknown_table_is_empty(store: &dyn ColumnStore) {
    let snapshot = store.snapshot(TableId(5)).expect("a snapshot");
    assert_eq!(snapshot.count(&[HandleRange::ALL], Timestamp::MAX).expect("a count"), 0);
    let all = request(&[HandleRange::ALL], u64::MAX, 10);
    assert!(scan(&*snapshot, &all, 3).expect("a scan").is_empty());
    store.clear(TableId(5), HandleRange::ALL).expect("nothing to clear");
    assert!(store.marks().expect("marks").is_empty());
    assert_eq!(store.stats(TableId(5)).expect("stats"), crate::TableStats::default());
}

fn wrong_requests_are_refused(store: &dyn ColumnStore) {
    let mut wrong = batch(&[gone(1, 1)]);
    wrong.versions = UInt64Array::from(vec![1, 2]);
    let error = store.apply(&wrong).expect_err("lengths differ");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let snapshot = store.snapshot(TABLE).expect("a snapshot");
    let good = request(&[HandleRange::ALL], 1, 10);
    let mut wrong = good.clone();
    wrong.defaults.pop();
    let error = snapshot.scan(&wrong, 1).map(|_| ()).expect_err("a default is missing");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let wrong = crate::ScanRequest { batch_rows: 0, ..good };
    let error = snapshot.scan(&wrong, 1).map(|_| ()).expect_err("batches of no rows");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

fn marks_come_and_go(open: &Opener) {
    let store = open();
    store.sync(&[(1, vec![1]), (2, vec![2])]).expect("synced");
    store.apply(&batch(&[row(1, 10, 1)])).expect("applied");
    store.sync(&[(1, vec![]), (3, vec![3])]).expect("synced");
    let expected = [(2, vec![2]), (3, vec![3])];
    assert_eq!(store.marks().expect("marks"), expected);
    drop(store);
    let store = open();
    assert_eq!(store.marks().expect("marks after reopening"), expected);
    let snapshot = store.snapshot(TABLE).expect("a snapshot");
    assert_eq!(snapshot.count(&[HandleRange::ALL], Timestamp::MAX).expect("a count"), 1);
}

/// What was in the range is gone, at every timestamp; the rest stays.
fn ingested_rows_replace_a_range(open: &Opener) {
    let (store, mut model) = (open(), Model::default());
    let old: Vec<Version> = (0..200).map(|i| row(i, 10, i)).collect();
    store.apply(&batch(&old)).expect("applied");
    model.apply(&old);
    store.sync(&[]).expect("synced");
    let range = HandleRange { first: 50, last: 149 };
    let version = |i: i64| match i % 4 {
        3 => gone(50 + i / 2, 20 + i as u64 % 2),
        _ => wide(50 + i / 2, 20 + i as u64 % 2, i, "ingested"),
    };
    let new: Vec<Version> = (0..180).map(version).collect();
    let parts: Vec<ChangeBatch> = new.chunks(33).map(batch).collect();
    store.ingest(TABLE, range, &mut parts.into_iter().map(Ok)).expect("ingested");
    model.clear(range);
    model.apply(&new);
    let check = |store: &dyn ColumnStore| {
        let snapshot = store.snapshot(TABLE).expect("a snapshot");
        for ts in [9, 10, 20, 21, u64::MAX] {
            let seen = scan(&*snapshot, &request(&[HandleRange::ALL], ts, 100), 2).expect("a scan");
            assert_eq!(seen, model.read(&[HandleRange::ALL], ts), "ingested, read at {ts}");
        }
    };
    check(&*store);
    store.sync(&[(1, vec![1])]).expect("synced");
    store.maintain(Timestamp(0), u64::MAX).expect("maintained");
    check(&*store);
    drop(store);
    check(&*open());
    let outside = [Ok(batch(&[row(49, 30, 1)]))];
    let error = open().ingest(TABLE, range, &mut outside.into_iter()).expect_err("it is outside");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
