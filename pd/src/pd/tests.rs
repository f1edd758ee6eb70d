//! The placement driver by heartbeat: stores, regions, leaders, ids.

use super::*;
use crate::testing::{region, report, stores};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Keeps what was saved; can be told to fail.
#[derive(Default)]
struct Memory {
    bytes: Mutex<Option<Vec<u8>>>,
    broken: AtomicBool,
}

impl Persist for Arc<Memory> {
    fn save(&self, bytes: &[u8]) -> std::result::Result<(), String> {
        if self.broken.load(Ordering::SeqCst) {
            return Err("no space".to_owned());
        }
        *self.bytes.lock() = Some(bytes.to_vec());
        Ok(())
    }
}

fn open(memory: &Arc<Memory>) -> Pd {
    let saved = memory.bytes.lock().clone();
    let pd =
        Pd::open(Config::default(), 42, saved.as_deref(), Box::new(memory.clone())).expect("opens");
    for store in stores(2) {
        pd.register_store(store).expect("registers");
    }
    pd
}

#[test]
fn conformance() {
    crate::testing::suite(|| {
        let persist = Box::new(Arc::new(Memory::default()));
        Arc::new(Pd::open(Config::default(), 42, None, persist).expect("opens"))
    });
}

#[test]
fn restarts() {
    crate::testing::restart_suite(|| {
        let memory = Arc::new(Memory::default());
        Box::new(move || {
            let saved = memory.bytes.lock().clone();
            let persist = Box::new(memory.clone());
            let pd = Pd::open(Config::default(), 42, saved.as_deref(), persist);
            Arc::new(pd.expect("opens"))
        })
    });
}

#[test]
fn a_restart_keeps_identity_ids_and_rules() {
    let memory = Arc::new(Memory::default());
    let mut last = 0;
    let rule = ColumnRule { range: KeyRange::new(b"a".to_vec(), b"b".to_vec()), replicas: 1 };
    for round in 0..5 {
        let pd = open(&memory);
        assert_eq!(pd.cluster_id(), 42);
        assert_eq!(pd.bootstrapped().is_some(), round > 0);
        assert_eq!(pd.is_initialised(StoreId(2)), round > 0);
        pd.set_initialised(StoreId(2)).expect("notes");
        assert_eq!(pd.bootstrap(&region(1, b"", b"", 1)).expect("answers"), round == 0);
        pd.set_column_rule(rule.clone()).expect("sets");
        assert_eq!(pd.column_rules(), std::slice::from_ref(&rule));
        for _ in 0..700 {
            let ids = pd.alloc_ids(2).expect("ids");
            assert!(ids.start >= last);
            last = ids.end;
        }
        if round > 0 {
            assert!(pd.regions().is_empty(), "routing is rebuilt from reports");
        }
    }
}

#[test]
fn what_is_not_saved_does_not_happen() {
    let memory = Arc::new(Memory::default());
    let pd = open(&memory);
    let first = pd.alloc_ids(1).expect("ids").start;
    memory.broken.store(true, Ordering::SeqCst);
    let range = KeyRange::new(b"a".to_vec(), b"b".to_vec());
    assert!(pd.set_column_rule(ColumnRule { range, replicas: 1 }).is_err());
    assert!(pd.column_rules().is_empty());
    assert!(pd.bootstrap(&region(1, b"", b"", 1)).is_err());
    assert!(pd.bootstrapped().is_none());
    assert!(pd.set_initialised(StoreId(1)).is_err());
    assert!(!pd.is_initialised(StoreId(1)));
    let mut given = 0;
    while pd.alloc_ids(1).is_ok() {
        given += 1;
        assert!(given <= ID_WINDOW + 1, "ids beyond the saved bound");
    }
    memory.broken.store(false, Ordering::SeqCst);
    assert_eq!(pd.alloc_ids(1).expect("ids").start, first + given + 1);
}

#[test]
fn learners_spread_over_column_stores() {
    let pd = open(&Arc::new(Memory::default()));
    let range = KeyRange::new(b"a".to_vec(), b"q".to_vec());
    pd.set_column_rule(ColumnRule { range, replicas: 1 }).expect("sets");
    let mut count = HashMap::new();
    let mut ids = std::collections::HashSet::new();
    for i in 0..8u8 {
        let r = region(100 + u64::from(i), &[b'a' + i], &[b'a' + i + 1], 1);
        let Some(Step::AddLearner(peer)) = pd.region_heartbeat(report(&r, 0)).expect("takes")
        else {
            panic!("wants a learner");
        };
        assert!(ids.insert(peer.id));
        *count.entry(peer.store.0).or_insert(0) += 1;
        let again = pd.region_heartbeat(report(&r, 0)).expect("takes");
        assert_eq!(again, Some(Step::AddLearner(peer)));
    }
    assert_eq!(count, HashMap::from([(4, 4), (5, 4)]));
}

#[test]
fn counts_follow_splits_and_removals() {
    let pd = open(&Arc::new(Memory::default()));
    let parent = region(1, b"", b"", 1);
    let with_pending = RegionReport { pending: vec![parent.peers[1].id], ..report(&parent, 0) };
    pd.region_heartbeat(with_pending).expect("takes");
    assert_eq!(pd.store_statuses()[1].load.pending, 1);
    for r in [region(2, b"", b"k", 2), region(1, b"k", b"", 2)] {
        pd.region_heartbeat(report(&r, 0)).expect("takes");
    }
    let loads: Vec<Load> = pd.store_statuses().into_iter().map(|s| s.load).collect();
    assert!(loads.iter().all(|load| load.pending == 0));
    assert_eq!(loads.iter().map(|load| load.replicas).collect::<Vec<_>>(), [2, 2, 2, 0, 0]);
    assert_eq!(loads.iter().map(|load| load.leaders).collect::<Vec<_>>(), [2, 0, 0, 0, 0]);
}

#[test]
fn progress_counts_gaps_as_missing() {
    let pd = open(&Arc::new(Memory::default()));
    let range = KeyRange::new(b"a".to_vec(), b"z".to_vec());
    pd.set_column_rule(ColumnRule { range: range.clone(), replicas: 1 }).expect("sets");
    assert_eq!(pd.column_progress(&range), ColumnProgress { ready: 0, wanted: 1 });
    let mut middle = region(1, b"f", b"h", 1);
    middle.peers.push(crate::testing::learner(77, 4));
    pd.region_heartbeat(report(&middle, 0)).expect("takes");
    assert_eq!(pd.column_progress(&range), ColumnProgress { ready: 1, wanted: 3 });
}

#[test]
fn a_damaged_state_is_named() {
    let memory = Arc::new(Memory::default());
    open(&memory);
    let mut bytes = memory.bytes.lock().clone().expect("saved");
    bytes[20] ^= 1;
    let opened = Pd::open(Config::default(), 42, Some(&bytes), Box::new(memory.clone()));
    assert!(matches!(opened, Err(Error::Corrupt(_))));
}
