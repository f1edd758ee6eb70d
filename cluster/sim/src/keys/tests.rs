//! Each rule meets a history that breaks it, beside the same one unbroken.

use super::*;
use damask_raftstore::{Applied, MergeState};

fn region(id: u64, range: (&str, &str), version: u64) -> Region {
    let (id, epoch) = (RegionId(id), Epoch { conf_ver: 1, version });
    Region { id, range: KeyRange::new(range.0, range.1), epoch, peers: Vec::new() }
}

fn state(region: Region, tombstone: bool) -> RegionState {
    let applied = Applied { index: 6, term: 6 };
    RegionState { region, applied, tombstone, merge: MergeState::default() }
}

fn applies(states: Vec<RegionState>) -> Vec<ApplyBatch> {
    let applied = Applied { index: 7, term: 6 };
    let effects = vec![Effect::Regions(states)];
    vec![ApplyBatch { region: RegionId(1), applied, effects }]
}

fn leads(region: &Region, is_leader: bool) -> ReplicaStatus {
    ReplicaStatus {
        region: region.clone(),
        leader: None,
        is_leader,
        term: 6,
        applied: Applied { index: 7, term: 6 },
        commit: 7,
        merging: false,
        hibernating: false,
        pending: Vec::new(),
        matched: Vec::new(),
    }
}

fn whole() -> Keys {
    let mut keys = Keys::default();
    assert_eq!(keys.know(&[state(region(1, ("", ""), 1), false)]), None);
    keys
}

#[test]
fn regions_tile_the_keys() {
    let (left, right) = (region(1, ("", "m"), 2), region(2, ("m", ""), 2));
    let both = || vec![state(left.clone(), false), state(right.clone(), false)];
    let mut keys = whole();
    assert_eq!(keys.note(&applies(both())), None);
    assert_eq!(keys.know(&[state(region(1, ("", ""), 1), false)]), None, "who is behind");
    assert_eq!(keys.note(&applies(both())), None, "another replica");
    let merged = || vec![state(right.clone(), true), state(region(1, ("", ""), 3), false)];
    assert_eq!(keys.note(&applies(merged())), None);
    assert_eq!(keys.note(&applies(both())), None, "who is behind");

    let mut keys = whole();
    let alone = applies(vec![state(left.clone(), false)]);
    assert!(keys.note(&alone).expect("a hole").contains("do not tile"));
    let mut keys = whole();
    assert_eq!(keys.note(&applies(both())), None);
    let newer = region(2, ("m", ""), 4);
    assert_eq!(keys.note(&applies(vec![state(newer, false)])), None);
    assert!(keys.note(&applies(merged())).expect("an old one").contains("is merged, but there is"));
}

#[test]
fn an_epoch_is_one_description_and_a_version_one_region_for_each_key() {
    let mut keys = whole();
    let mut other = region(1, ("", ""), 1);
    let peer = damask_types::Peer {
        id: damask_types::PeerId(9),
        store: StoreId(9),
        role: damask_types::PeerRole::Voter,
    };
    other.peers.push(peer);
    let found = keys.note(&applies(vec![state(other, false)]));
    assert!(found.expect("other replicas").contains("one epoch, two regions"));
    let mut keys = whole();
    let other = region(2, ("x", ""), 1);
    assert_eq!(keys.leads(StoreId(1), &leads(&region(1, ("", ""), 1), true)), None);
    let found = keys.leads(StoreId(2), &leads(&other, true)).expect("they share x");
    assert!(found.contains("both of version 1"), "{found}");
    assert_eq!(keys.leads(StoreId(2), &leads(&region(2, ("x", ""), 2), true)), None);
}

#[test]
fn two_leases_on_one_key_are_found_while_both_last() {
    let mut keys = whole();
    let (old, new) = (region(1, ("", ""), 1), region(2, ("x", ""), 2));
    assert_eq!(keys.leads(StoreId(1), &leads(&old, true)), None);
    assert_eq!(keys.two_leases(|_| true), None, "it is alone");
    assert_eq!(keys.leads(StoreId(2), &leads(&new, true)), None);
    assert_eq!(keys.rivals().len(), 1);
    assert_eq!(keys.two_leases(|claim| claim.store == StoreId(2)), None);
    let found = keys.two_leases(|_| true).expect("both");
    assert!(found.contains("store 1 on region 1") && found.contains("store 2 on region 2"));
    assert_eq!(keys.leads(StoreId(1), &leads(&region(1, ("", "x"), 2), true)), None);
    assert!(keys.rivals().is_empty(), "it has heard of the split");
    assert_eq!(keys.leads(StoreId(1), &leads(&old, true)), None);
    assert_eq!(keys.leads(StoreId(1), &leads(&old, false)), None);
    assert!(keys.rivals().is_empty(), "it leads no more");
    assert_eq!(keys.leads(StoreId(1), &leads(&old, true)), None);
    keys.leads_only(StoreId(1), &[]);
    assert!(keys.rivals().is_empty(), "it does not run");
}
