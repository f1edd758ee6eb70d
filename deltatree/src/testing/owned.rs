//! A range that one thread clears, fills and replaces while all else goes on around it: it alone
//! knows what the range holds, so every snapshot must show one of the states that it went through.
//! It must never depend on how long anything takes.

use super::model::{Model, Numbers, Seen, TABLE, Version, batch, gone, request, scan, wide};
use crate::store::{ChangeBatch, ColumnSnapshot, ColumnStore, HandleRange};
use damask_types::Timestamp;
use parking_lot::RwLock;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// No other thread writes here.
const OWNED: HandleRange = HandleRange { first: 200, last: i64::MAX };
/// Where most of it happens, beside the rows of others.
const NEAR: (i64, i64) = (200, 280);
/// Where rows are put that nothing was near before.
const FAR: i64 = 10_000;
const FAR_STEP: i64 = 100;
/// Changes of the range.
const CHANGES: usize = 80;
/// Snapshots that stay open.
const KEPT: usize = 4;

/// The range and its states.
pub(super) struct Owned {
    /// Grows in front of a change; a change of several steps adds one state for each.
    states: RwLock<Vec<Arc<Model>>>,
    /// The state that surely is, or was.
    done: AtomicUsize,
    is_over: AtomicBool,
}

/// Says that a writer is over when it goes, also by a panic: nobody must wait for it then.
pub(super) struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What a snapshot shows of the range.
fn read(snapshot: &dyn ColumnSnapshot, ts: u64) -> Vec<Seen> {
    let seen = scan(snapshot, &request(&[OWNED], ts, 40), 2).expect("a scan");
    let count = snapshot.count(&[OWNED], Timestamp(ts)).expect("a count");
    assert_eq!(count, seen.len() as u64, "the count at {ts}");
    seen
}

fn part(numbers: &mut Numbers, (first, last): (i64, i64)) -> HandleRange {
    let len = (last - first) as u64;
    let edges = [(); 2].map(|()| first + numbers.below(len) as i64);
    HandleRange { first: edges[0].min(edges[1]), last: edges[0].max(edges[1]) }
}

/// Rows of some handles of a range, ascending.
fn rows(numbers: &mut Numbers, range: HandleRange, version: u64) -> Vec<Version> {
    let all = (range.first..=range.last).filter_map(|handle| {
        Some(match numbers.below(6) {
            0 | 1 => return None,
            2 => gone(handle, version),
            _ => wide(handle, version, numbers.below(500) as i64, "owned"),
        })
    });
    all.collect()
}

impl Owned {
    pub fn new() -> Owned {
        Owned {
            states: RwLock::new(vec![Arc::default()]),
            done: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// There will be no other change.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn newest(&self) -> Arc<Model> {
        self.states.read().last().expect("there is a first state").clone()
    }

    /// Adds what the next step will lead to.
    fn will(&self, step: impl FnOnce(&mut Model)) {
        let mut model = (*self.newest()).clone();
        step(&mut model);
        self.states.write().push(Arc::new(model));
    }

    fn is(&self) {
        self.done.store(self.states.read().len() - 1, Ordering::Release);
    }

    fn apply(&self, store: &dyn ColumnStore, versions: &[Version]) {
        if versions.is_empty() {
            return;
        }
        self.will(|model| model.apply(versions));
        store.apply(&batch(versions)).expect("applied");
        self.is();
    }

    fn clear(&self, store: &dyn ColumnStore, range: HandleRange) {
        self.will(|model| model.clear(range));
        store.clear(TABLE, range).expect("cleared");
        self.is();
    }

    /// A store may do it at once or batch by batch.
    fn ingest(&self, store: &dyn ColumnStore, range: HandleRange, versions: &[Version]) {
        self.will(|model| model.clear(range));
        let parts: Vec<&[Version]> = versions.chunks(1 + versions.len() / 3).collect();
        for part in &parts {
            self.will(|model| model.apply(part));
        }
        let parts: Vec<ChangeBatch> = parts.into_iter().map(batch).collect();
        store.ingest(TABLE, range, &mut parts.into_iter().map(Ok)).expect("ingested");
        self.is();
    }

    /// One change; `version` is above every safe point so far. It may be the one of the change
    /// before: then what is there already counts, unless it was removed.
    fn change(&self, store: &dyn ColumnStore, numbers: &mut Numbers, version: u64) {
        let near = part(numbers, NEAR);
        let far = FAR + FAR_STEP * numbers.below(40) as i64;
        let far = HandleRange { first: far, last: far + FAR_STEP / 2 };
        match numbers.below(8) {
            0..=2 => self.apply(store, &rows(numbers, near, version)),
            3 | 4 => self.clear(store, near),
            5 => self.ingest(store, near, &rows(numbers, near, version)),
            6 => self.ingest(store, far, &rows(numbers, far, version)),
            _ => self.clear(store, part(numbers, (FAR, FAR + 40 * FAR_STEP))),
        }
    }

    /// What a snapshot shows must be a state that was there while it was taken.
    pub fn check(&self, store: &dyn ColumnStore) {
        let first = self.done.load(Ordering::Acquire);
        let snapshot = store.snapshot(TABLE).expect("a snapshot");
        let possible: Vec<Arc<Model>> = self.states.read()[first..].to_vec();
        let seen = read(&*snapshot, u64::MAX);
        let is = |model: &Arc<Model>| model.read(&[OWNED], u64::MAX) == seen;
        let steps = possible.len() - 1;
        assert!(possible.iter().any(is), "none of states {first}..={}: {seen:?}", first + steps);
    }

    /// Changes the range again and again. `at_version` calls back with a version that is above
    /// every safe point for as long as it runs.
    pub fn write(&self, store: &dyn ColumnStore, at_version: impl Fn(&mut dyn FnMut(u64))) {
        let _over = Over(&self.is_over);
        let mut numbers = Numbers(9);
        let mut kept: VecDeque<(Arc<dyn ColumnSnapshot>, Arc<Model>, u64)> = VecDeque::new();
        for _ in 0..CHANGES {
            at_version(&mut |version| {
                self.change(store, &mut numbers, version);
                let (snapshot, model) = (store.snapshot(TABLE), self.newest());
                let snapshot = snapshot.expect("a snapshot");
                for ts in [version, u64::MAX] {
                    let (seen, expected) = (read(&*snapshot, ts), model.read(&[OWNED], ts));
                    assert_eq!(seen, expected, "just after a change, at {ts}");
                }
                kept.push_back((snapshot, model, version));
            });
            if numbers.below(4) == 0 {
                store.sync(&[]).expect("synced");
            }
            if kept.len() > KEPT {
                let (snapshot, model, version) = kept.pop_front().expect("there is one");
                for ts in [version, u64::MAX] {
                    let (seen, expected) = (read(&*snapshot, ts), model.read(&[OWNED], ts));
                    assert_eq!(seen, expected, "an open snapshot, at {ts}");
                }
            }
        }
    }
}
