//! What every placement driver must do, as public suites: `testing::suite(|| …)`, over restarts
//! `testing::restart_suite(|| …)`; a model of a cluster that obeys; and the small values that tests
//! of clients need. It must never reach behind the seam.

pub mod model;
mod restart;

pub use restart::{Reopen, restart_suite};

use crate::seam::Placement;
use crate::values::*;
use damask_types::{Epoch, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, StoreId};
use std::collections::HashSet;
use std::sync::Arc;

/// A voter.
pub fn voter(id: u64, store: u64) -> Peer {
    Peer { id: PeerId(id), store: StoreId(store), role: PeerRole::Voter }
}

/// A learner.
pub fn learner(id: u64, store: u64) -> Peer {
    Peer { role: PeerRole::Learner, ..voter(id, store) }
}

/// A region of voters on stores 1, 2, 3; a peer's id is the region's times ten plus the store's.
pub fn region(id: u64, start: &[u8], end: &[u8], version: u64) -> Region {
    Region {
        id: RegionId(id),
        range: KeyRange::new(start, end),
        epoch: Epoch { conf_ver: 1, version },
        peers: (1..=3).map(|store| voter(id * 10 + store, store)).collect(),
    }
}

/// The report of a region led by its first peer in term 5.
pub fn report(region: &Region, bytes: u64) -> RegionReport {
    let leader = region.peers[0];
    let flow = Flow::default();
    let (region, pending) = (region.clone(), Vec::new());
    RegionReport {
        region,
        leader,
        term: 5,
        bytes,
        keys: 0,
        flow,
        split_key: None,
        pending,
        merging: false,
        unsplittable: false,
    }
}

/// Row stores 1, 2, 3 and column stores 4.. .
pub fn stores(columns: u64) -> Vec<StoreInfo> {
    let kind = |id| if id <= 3 { StoreKind::Row } else { StoreKind::Column };
    let info = |id| StoreInfo { id: StoreId(id), kind: kind(id), address: format!("s{id}") };
    (1..=3 + columns).map(info).collect()
}

/// Runs every check, each on a new placement driver that has nothing yet.
///
/// # Panics
/// With the first promise that is broken.
pub fn suite(make: impl Fn() -> Arc<dyn Placement>) {
    ids_are_never_repeated(&*make());
    bootstrap_happens_once(&*make());
    stores_are_initialised_once_and_for_all(&*make());
    routes_follow_reports(&*make());
    rules_do_not_overlap(&*make());
    learners_follow_a_rule(&*make());
}

fn register(pd: &dyn Placement) {
    for store in stores(1) {
        pd.register_store(store).expect("registers");
    }
}

fn ids_are_never_repeated(pd: &dyn Placement) {
    register(pd);
    let mut seen = HashSet::new();
    for n in [1, 999, 1, 1000, 2500, 1] {
        let ids = pd.alloc_ids(n).expect("ids");
        assert_eq!(ids.end - ids.start, n);
        assert!(ids.start > 0, "0 is never an id");
        assert!(ids.into_iter().all(|id| seen.insert(id)));
    }
    let first = region(seen.len() as u64 + 10_000, b"", b"", 1);
    pd.bootstrap(&first).expect("bootstraps");
    for split in pd.ask_split(&first, 3).expect("split ids") {
        assert_eq!(split.peers.len(), first.peers.len());
        assert!(seen.insert(split.region.0));
        assert!(split.peers.into_iter().all(|id| seen.insert(id.0)));
    }
    assert!(pd.ask_split(&first, 0).is_err());
    assert!(pd.alloc_ids(u64::MAX).is_err());
}

fn bootstrap_happens_once(pd: &dyn Placement) {
    assert!(pd.bootstrapped().is_none());
    let first = region(1, b"", b"", 1);
    assert!(pd.bootstrap(&first).is_err(), "its stores are not registered");
    register(pd);
    assert!(pd.bootstrap(&region(1, b"", b"m", 1)).is_err(), "not every key");
    assert!(pd.bootstrap(&first).expect("bootstraps"));
    assert_eq!(pd.bootstrapped(), Some(first.clone()));
    assert!(!pd.bootstrap(&region(2, b"", b"", 1)).expect("answers"));
    let route = pd.route(b"k").expect("the first region is known");
    assert_eq!((route.region, route.leader), (first, None));
}

fn stores_are_initialised_once_and_for_all(pd: &dyn Placement) {
    assert!(pd.set_initialised(StoreId(1)).is_err(), "it is not registered");
    register(pd);
    assert!((1..=4).all(|id| !pd.is_initialised(StoreId(id))));
    pd.set_initialised(StoreId(1)).expect("notes");
    pd.set_initialised(StoreId(1)).expect("notes again");
    assert!(pd.is_initialised(StoreId(1)) && !pd.is_initialised(StoreId(2)));
    // A leader says who has caught up, and so holds data.
    let first = region(1, b"", b"", 1);
    let pending = vec![first.peers[2].id];
    pd.region_heartbeat(RegionReport { pending, ..report(&first, 0) }).expect("a report");
    assert!(pd.is_initialised(StoreId(2)) && !pd.is_initialised(StoreId(3)));
    pd.region_heartbeat(report(&first, 0)).expect("a report");
    assert!(pd.is_initialised(StoreId(3)) && !pd.is_initialised(StoreId(4)));
}

fn routes_follow_reports(pd: &dyn Placement) {
    register(pd);
    let first = region(1, b"", b"", 1);
    pd.bootstrap(&first).expect("bootstraps");
    pd.region_heartbeat(report(&first, 0)).expect("first report");
    assert_eq!(pd.route(b"k").and_then(|r| r.leader), Some(first.peers[0]));
    let (left, right) = (region(2, b"", b"k", 2), region(1, b"k", b"", 2));
    pd.region_heartbeat(report(&left, 0)).expect("left");
    assert!(pd.route(b"k").is_none(), "the parent is gone, the right child has not reported");
    assert!(pd.region_heartbeat(report(&first, 0)).is_err(), "the parent is stale");
    pd.region_heartbeat(report(&right, 0)).expect("right");
    assert_eq!(pd.route(b"j").map(|r| r.region), Some(left.clone()));
    assert_eq!(pd.route(b"k").map(|r| r.region), Some(right.clone()));
    let old = RegionReport { term: 4, leader: right.peers[1], ..report(&right, 0) };
    assert!(pd.region_heartbeat(old).is_err(), "an earlier term's leader");
    let new = RegionReport { term: 6, leader: right.peers[1], ..report(&right, 0) };
    pd.region_heartbeat(new).expect("a later term");
    assert_eq!(pd.route(b"z").and_then(|r| r.leader), Some(right.peers[1]));
    assert_eq!(pd.regions().iter().map(|r| r.region.id.0).collect::<Vec<_>>(), [2, 1]);
    let inside = |start: &str, end: &str| {
        let regions = pd.regions_in(&KeyRange::new(start, end));
        regions.iter().map(|r| r.region.id.0).collect::<Vec<_>>()
    };
    assert_eq!(
        (inside("a", "k"), inside("j", ""), inside("k", "l")),
        (vec![2], vec![2, 1], vec![1])
    );
}

fn rules_do_not_overlap(pd: &dyn Placement) {
    let rule = |start: &[u8], end: &[u8], replicas| ColumnRule {
        range: KeyRange::new(start, end),
        replicas,
    };
    pd.set_column_rule(rule(b"d", b"f", 1)).expect("first");
    pd.set_column_rule(rule(b"f", b"h", 1)).expect("next to it");
    assert!(pd.set_column_rule(rule(b"e", b"g", 1)).is_err());
    assert!(pd.set_column_rule(rule(b"x", b"x", 1)).is_err(), "no key");
    pd.set_column_rule(rule(b"d", b"f", 2)).expect("replaces");
    assert_eq!(pd.column_rules(), [rule(b"d", b"f", 2), rule(b"f", b"h", 1)]);
    pd.set_column_rule(rule(b"d", b"f", 0)).expect("removes");
    pd.remove_column_rule(&rule(b"f", b"h", 0).range).expect("removes");
    assert!(pd.column_rules().is_empty());
    let unknown = ColumnProgress::default();
    assert_eq!(pd.column_progress(&KeyRange::new(b"d".to_vec(), b"f".to_vec())), unknown);
}

fn learners_follow_a_rule(pd: &dyn Placement) {
    register(pd);
    let range = KeyRange::new(b"d".to_vec(), b"f".to_vec());
    let mut inside = region(1, b"d", b"f", 2);
    let ask = |r: &Region, pending: &[Peer]| {
        let pending = pending.iter().map(|p| p.id).collect();
        pd.region_heartbeat(RegionReport { pending, ..report(r, 0) }).expect("newer")
    };
    assert_eq!(ask(&inside, &[]), None);
    pd.set_column_rule(ColumnRule { range: range.clone(), replicas: 1 }).expect("sets");
    let Some(Step::AddLearner(peer)) = ask(&inside, &[]) else { panic!("wants a learner") };
    assert_eq!((peer.store, peer.role), (StoreId(4), PeerRole::Learner));
    assert_eq!(ask(&inside, &[]), Some(Step::AddLearner(peer)), "the same replica again");
    // It was added, and somebody else has removed it: its id is used up.
    inside.epoch.conf_ver += 2;
    let next = (0..3).find_map(|_| ask(&inside, &[]));
    let Some(Step::AddLearner(another)) = next else { panic!("wants a learner: {next:?}") };
    assert!(another.id != peer.id && another.store == peer.store, "{another:?} after {peer:?}");
    let peer = another;
    assert_eq!(pd.column_progress(&range), ColumnProgress { ready: 0, wanted: 1 });
    inside.peers.push(peer);
    inside.epoch.conf_ver += 1;
    assert_eq!(ask(&inside, &[peer]), None);
    assert!(!pd.column_progress(&range).is_complete(), "it has not caught up");
    assert_eq!(ask(&inside, &[]), None);
    assert!(pd.column_progress(&range).is_complete());
    pd.remove_column_rule(&range).expect("removes");
    assert_eq!(ask(&inside, &[]), Some(Step::RemovePeer(peer)));
}
