//! What is alike, and what is not.

use super::*;
use crate::passed_on::passed_on;
use damask_raftstore::{Applied, Effect, MergeState};
use damask_types::{Epoch, KeyRange, Record, Region};

const ONE: StoreId = StoreId(1);
const TWO: StoreId = StoreId(2);
const PARENT: RegionId = RegionId(1);
const CHILD: RegionId = RegionId(7);

fn state(id: RegionId, index: u64, tombstone: bool) -> RegionState {
    let region = Region {
        id,
        range: KeyRange::new("a", "z"),
        epoch: Epoch { conf_ver: 1, version: 1 },
        peers: Vec::new(),
    };
    let applied = Applied { index, term: 6 };
    RegionState { region, applied, tombstone, merge: MergeState::default() }
}

fn batch(region: RegionId, index: u64, effects: Vec<Effect>) -> ApplyBatch {
    ApplyBatch { region, applied: Applied { index, term: 6 }, effects }
}

fn value(value: &str) -> Effect {
    let (key, start_ts) = (b"k".to_vec(), damask_types::Timestamp(5));
    Effect::Write(vec![Record::Value { key, start_ts, value: value.as_bytes().to_vec() }])
}

/// Two stores, each with the row machine's own writes, judged as they are made.
struct Both {
    alike: Arc<parking_lot::Mutex<Alike>>,
}

impl Both {
    fn new() -> Both {
        let mut alike = Alike::default();
        for store in [ONE, TWO] {
            assert_eq!(alike.recovered(store, &[state(PARENT, LOG_START.index, false)]), None);
        }
        Both { alike: Arc::new(parking_lot::Mutex::new(alike)) }
    }

    fn apply(&self, store: StoreId, batches: Vec<ApplyBatch>) -> Option<String> {
        let engine = MemoryEngine::with_crashes();
        let kept = Arc::new(Keep { inner: engine, batch: parking_lot::Mutex::default() });
        RowMachine::new(kept.clone()).apply(batches).expect("a write in memory");
        let batch = kept.batch.lock().clone();
        self.alike.lock().wrote(store, &batch)
    }
}

/// Keeps the last write.
struct Keep {
    inner: MemoryEngine,
    batch: parking_lot::Mutex<WriteBatch>,
}

impl Engine for Keep {
    fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.inner.snapshot()
    }

    fn write(&self, batch: WriteBatch) -> damask_kv::Result<()> {
        *self.batch.lock() = batch;
        Ok(())
    }

    fn sync(&self) -> damask_kv::Result<()> {
        self.inner.sync()
    }

    passed_on!(inner);
}

#[test]
fn how_entries_are_put_together_makes_no_difference() {
    let both = Both::new();
    let steps = [(8, "b"), (9, "c")].map(|(at, v)| vec![batch(PARENT, at, vec![value(v)])]);
    assert!(steps.into_iter().all(|step| both.apply(ONE, step).is_none()));
    let at_once = vec![batch(PARENT, 9, vec![value("b"), value("c")])];
    assert_eq!(both.apply(TWO, at_once), None);
}

#[test]
fn another_value_is_found_and_where_all_was_well_is_told() {
    let both = Both::new();
    for store in [ONE, TWO] {
        assert_eq!(both.apply(store, vec![batch(PARENT, 8, vec![value("b")])]), None);
    }
    assert_eq!(both.apply(ONE, vec![batch(PARENT, 9, vec![value("c")])]), None);
    let found = both.apply(TWO, vec![batch(PARENT, 9, vec![value("d")])]).expect("another value");
    assert!(found.contains("not alike on stores 1 and 2 at index 9"), "{found}");
    assert!(found.ends_with("it was at 8"), "{found}");
}

#[test]
fn a_child_goes_on_from_its_parent_and_a_merge_joins_both() {
    let both = Both::new();
    let split = || {
        let states = vec![state(PARENT, 9, false), state(CHILD, LOG_START.index, false)];
        batch(PARENT, 9, vec![Effect::Regions(states)])
    };
    let merge = || {
        let states = vec![state(PARENT, 10, false), state(CHILD, 9, true)];
        batch(PARENT, 10, vec![Effect::Regions(states)])
    };
    assert_eq!(both.apply(ONE, vec![split(), batch(CHILD, 9, vec![value("b")])]), None);
    assert_eq!(both.apply(ONE, vec![merge()]), None);
    assert_eq!(both.apply(TWO, vec![split()]), None);
    // Nobody of the two compares the child at its last index: the parent does.
    assert_eq!(both.apply(TWO, vec![batch(CHILD, 8, vec![value("c")])]), None);
    let found = both.apply(TWO, vec![merge()]).expect("the child was another one");
    assert!(found.contains("region 1 is not alike"), "{found}");
}

#[test]
fn a_snapshot_takes_over_what_was_there_and_nothing_else() {
    let both = Both::new();
    assert_eq!(both.apply(ONE, vec![batch(PARENT, 9, vec![value("b")])]), None);
    let found = both.alike.lock().replaced(TWO, &[state(PARENT, 8, false)]).expect("nobody");
    assert!(found.contains("where nobody ever was"), "{found}");
    assert_eq!(both.alike.lock().replaced(TWO, &[state(PARENT, 9, false)]), None);
    let next = |v| vec![batch(PARENT, 10, vec![value(v)])];
    assert_eq!(both.apply(ONE, next("c")), None);
    assert!(both.apply(TWO, next("d")).is_some());
    assert_eq!(both.alike.lock().replaced(TWO, &[state(PARENT, 10, true)]), None, "it is gone");
}
