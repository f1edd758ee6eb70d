//! The region cache: stale answers are noticed and replaced, never served twice.

use super::*;
use crate::Config;
use crate::pd::{Pd, Persist};
use crate::testing::{region, report, stores};

struct Nowhere;

impl Persist for Nowhere {
    fn save(&self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

fn cluster() -> (Arc<Pd>, RegionCache) {
    let pd = Arc::new(Pd::open(Config::default(), 1, None, Box::new(Nowhere)).expect("opens"));
    stores(0).into_iter().for_each(|s| pd.register_store(s).expect("registers"));
    let cache = RegionCache::new(pd.clone());
    (pd, cache)
}

fn ids(routes: &[Route]) -> Vec<u64> {
    routes.iter().map(|r| r.region.id.0).collect()
}

#[test]
fn a_range_is_covered_or_empty() {
    let (pd, cache) = cluster();
    assert!(cache.locate(b"a").is_none());
    pd.region_heartbeat(report(&region(1, b"", b"f", 1), 0)).expect("takes");
    pd.region_heartbeat(report(&region(2, b"f", b"m", 1), 0)).expect("takes");
    let range = |start: &[u8], end: &[u8]| cache.locate_range(&KeyRange::new(start, end));
    assert_eq!(ids(&range(b"a", b"g")), [1, 2]);
    assert_eq!(ids(&range(b"f", b"m")), [2]);
    assert!(
        range(b"a", b"").is_empty() && range(b"a", b"n").is_empty() && range(b"c", b"c").is_empty()
    );
    pd.region_heartbeat(report(&region(3, b"m", b"", 1), 0)).expect("takes");
    assert_eq!(ids(&range(b"", b"")), [1, 2, 3]);
}

#[test]
fn a_store_knows_better_than_the_placement_driver() {
    let (pd, cache) = cluster();
    let parent = region(1, b"", b"", 1);
    pd.region_heartbeat(report(&parent, 0)).expect("takes");
    assert_eq!(cache.locate(b"z").map(|r| r.leader), Some(Some(parent.peers[0])));
    cache.update(vec![region(2, b"", b"k", 2), region(1, b"k", b"", 2)]);
    assert_eq!(cache.locate(b"z").map(|r| r.leader), Some(Some(parent.peers[0])), "leader kept");
    cache.update(vec![parent.clone()]);
    assert_eq!(
        cache.locate(b"a").map(|r| r.region.id),
        Some(RegionId(2)),
        "not back to the parent"
    );
    cache.set_leader(RegionId(2), Some(region(2, b"", b"k", 2).peers[2]));
    assert_eq!(cache.locate(b"a").and_then(|r| r.leader).map(|p| p.id.0), Some(23));
}

#[test]
fn a_wrong_leader_is_asked_for_again() {
    let (pd, cache) = cluster();
    let r = region(1, b"", b"", 1);
    pd.region_heartbeat(report(&r, 0)).expect("takes");
    cache.locate(b"a");
    cache.set_leader(r.id, None);
    let next = crate::RegionReport { term: 6, leader: r.peers[1], ..report(&r, 0) };
    pd.region_heartbeat(next).expect("takes");
    assert_eq!(cache.locate(b"a").and_then(|r| r.leader), Some(r.peers[1]));
    cache.invalidate(r.id);
    assert!(cache.locate(b"a").is_some());
}
