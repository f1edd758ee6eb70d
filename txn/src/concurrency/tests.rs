//! The manager by itself: reads push, locks show, leaders sync. What threads make of it is in
//! `tests/loom.rs`; nothing here may depend on a schedule.

use super::*;
use damask_tso::MemoryOracle;
use damask_types::{Epoch, Peer, PeerId, PeerRole, Region, StoreId};

fn permit(id: u64, term: u64, version: u64) -> ReadPermit {
    let peer = Peer { id: PeerId(1), store: StoreId(1), role: PeerRole::Voter };
    let epoch = Epoch { conf_ver: 1, version };
    let range = KeyRange::all();
    let region = Region { id: RegionId(id), range, epoch, peers: vec![peer] };
    let applied = damask_raftstore::Applied { index: 1, term };
    ReadPermit { region: Arc::new(region), term, applied }
}

fn request(keys: &[&str], start_ts: u64) -> Prewrite {
    let put = |key: &&str| Mutation::Put { key: (*key).into(), value: b"v".to_vec() };
    Prewrite {
        mutations: keys.iter().map(put).collect(),
        primary: keys[0].into(),
        start_ts: Timestamp(start_ts),
        finish: Finish::OnePhase,
        ..Prewrite::default()
    }
}

fn manager(now: u64) -> (Arc<MemoryOracle>, Manager) {
    let oracle = Arc::new(MemoryOracle::new(now));
    (oracle.clone(), Manager::new(Some(oracle)))
}

fn blocked(manager: &Manager, key: &str, ts: u64) -> bool {
    let reading = manager.begin_read(Timestamp(ts)).expect("sane");
    let by_key = manager.blocking_keys(reading, std::iter::once(key.as_bytes()), &[]);
    let by_range = manager.blocking_range(reading, &KeyRange::point(key.as_bytes()), &[]);
    assert_eq!(by_key, by_range);
    !by_key.is_empty()
}

#[test]
fn commits_are_above_reads_and_reads_above_see_the_lock() {
    let (_, manager) = manager(50);
    manager.begin_read(Timestamp(90)).expect("sane");
    let mut one = request(&["a", "b"], 60);
    let guard = manager.prepare(&permit(1, 5, 1), &mut one).expect("synced");
    assert_eq!(one.min_commit_ts, Timestamp(91));
    assert!(!blocked(&manager, "a", 90) && !blocked(&manager, "c", 95));
    assert!(blocked(&manager, "b", 91));
    let reading = manager.begin_read(Timestamp(95)).expect("sane");
    let all = manager.blocking_range(reading, &KeyRange::all(), &[]);
    assert_eq!(all.len(), 2);
    assert_eq!(manager.blocking_range(reading, &KeyRange::all(), &[Timestamp(60)]), []);
    assert_eq!(manager.blocking_range(reading, &KeyRange::new("b", "b"), &[]), []);
    // The latest version is what is applied.
    let latest = manager.begin_read(Timestamp::MAX).expect("sane");
    assert_eq!(manager.blocking_range(latest, &KeyRange::all(), &[]), []);
    assert_eq!(manager.max_ts(), Timestamp(95));
    drop(guard);
    assert!(!blocked(&manager, "a", 99));
    assert!(manager.table.is_empty());
}

#[test]
fn a_request_may_ask_for_more_than_reads_do() {
    let (_, manager) = manager(10);
    let mut one = Prewrite { min_commit_ts: Timestamp(200), ..request(&["a"], 60) };
    let _guard = manager.prepare(&permit(1, 5, 1), &mut one);
    assert_eq!(one.min_commit_ts, Timestamp(200));
    let mut two = Prewrite { for_update_ts: Timestamp(300), ..request(&["b"], 61) };
    let _guard = manager.prepare(&permit(1, 5, 1), &mut two);
    assert_eq!(two.min_commit_ts, Timestamp(301));
}

#[test]
fn a_new_leader_and_a_new_region_ask_the_oracle_once() {
    let (oracle, manager) = manager(100);
    let lowest = |id, term, version| {
        let mut one = request(&["a"], 10);
        manager.prepare(&permit(id, term, version), &mut one).expect("synced");
        one.min_commit_ts.0
    };
    assert_eq!(lowest(1, 5, 1), 101);
    oracle.advance_to(Timestamp(500));
    assert_eq!(lowest(1, 5, 1), 101, "known");
    assert_eq!(lowest(1, 6, 1), 501, "a new term");
    oracle.advance_to(Timestamp(600));
    assert_eq!(lowest(1, 6, 2), 601, "a split");
    oracle.advance_to(Timestamp(700));
    assert_eq!(lowest(2, 6, 2), 701, "its other part");
}

#[test]
fn without_an_oracle_there_are_two_phases() {
    let manager = Manager::new(None);
    let mut one = request(&["a"], 10);
    assert!(manager.prepare(&permit(1, 5, 1), &mut one).is_none());
    assert_eq!(one.finish, Finish::TwoPhase);
    assert!(manager.table.is_empty());
}

#[test]
fn a_read_in_the_future_is_refused_and_pushes_nobody() {
    let (_, manager) = manager(Timestamp::compose(1_000, 0).0);
    let far = Timestamp::compose(1_001 + AHEAD_MS_MAX, 0);
    assert!(matches!(manager.begin_read(far), Err(Error::Invalid(_))));
    assert_eq!(manager.max_ts(), Timestamp::ZERO);
    let near = Timestamp::compose(1_000 + AHEAD_MS_MAX / 2, 0);
    manager.begin_read(near).expect("a clock that runs ahead a little");
    assert_eq!(manager.max_ts(), near);
}
