//! Regions that are split, merged, and asleep. It must never count on who leads them.

use super::support::*;
use damask_raftstore::Error;
use damask_types::{KeyRange, Region, RegionId};
use std::sync::mpsc;

#[test]
fn a_merge_keeps_all_rows_and_takes_writes_again() {
    // A merge that waits for too many ticks is taken back, and counts in the version.
    let cluster = Cluster::calm(3);
    for n in 0..20 {
        cluster.write(FIRST, &format!("k{n:02}"), n);
    }
    cluster.split(FIRST, "k10", child());
    cluster.write(RegionId(2), "k05", 105);
    cluster.write(FIRST, "k15", 115);
    eventually("a merge", || {
        if (1..=3).all(|id| cluster.handle(id).replica(RegionId(2)).is_none()) {
            return Some(());
        }
        for id in 1..=3 {
            let handle = cluster.handle(id);
            let status = handle.replica(RegionId(2)).filter(|s| s.is_leader && !s.merging);
            if let Some(region) = status.map(|s| s.region) {
                let (sender, receiver) = mpsc::channel();
                let done = Box::new(move |result| drop(sender.send(result)));
                handle.merge(region.id, region.epoch, FIRST, done);
                // A replica may be behind: then it is asked again.
                let _ = receiver.recv_timeout(DEADLINE).expect("an answer");
            }
        }
        None
    });
    let (_, region) = cluster.leader(FIRST);
    assert_eq!((region.range.clone(), region.epoch.version), (KeyRange::all(), 4));
    cluster.write(FIRST, "k05", 205);
    for id in 1..=3 {
        cluster.wait_for(id, "k05", 205);
        cluster.wait_for(id, "k15", 115);
        assert_eq!(cluster.get(id, "k09"), Some(9));
        // Who comes with the old description learns who has the keys now.
        let old = Region { id: RegionId(2), ..region.clone() };
        let refused = cluster.read_at(id, &old);
        assert!(matches!(refused, Err(Error::EpochNotMatch { .. })), "{refused:?}");
    }
}

#[test]
fn after_a_split_both_halves_take_writes_and_old_epochs_are_refused() {
    let mut cluster = Cluster::new(3);
    cluster.write(FIRST, "a", 1);
    cluster.write(FIRST, "z", 1);
    let (_, before) = cluster.leader(FIRST);
    let regions = cluster.split(FIRST, "m", child());
    assert_eq!(regions.len(), 2);
    assert_eq!(regions[0].range, KeyRange::new("", "m"));
    assert_eq!(regions[1].range, KeyRange::new("m", ""));
    assert!(regions.iter().all(|r| r.epoch.version == 2));
    cluster.write(RegionId(2), "a", 2);
    cluster.write(FIRST, "z", 2);
    let refusal = |region: Option<&Region>| {
        eventually("a refusal of who leads", || {
            let (id, now) = cluster.leader(FIRST);
            match cluster.propose_at(id, region.unwrap_or(&now), vec![value("a", 9)]) {
                Err(Error::NotLeader { .. } | Error::Stale) => None,
                other => Some(other.expect_err("refused")),
            }
        })
    };
    let (old, outside) = (refusal(Some(&before)), refusal(None));
    assert!(matches!(&old, Error::EpochNotMatch { current } if current.len() == 2), "{old}");
    assert!(matches!(outside, Error::KeyNotInRegion { .. }), "{outside}");
    for id in 1..=3 {
        cluster.wait_for(id, "a", 2);
        cluster.wait_for(id, "z", 2);
    }
    (1..=3).for_each(|id| cluster.crash(id, 0));
    cluster.write(RegionId(2), "b", 3);
    cluster.write(FIRST, "y", 3);
    for id in 1..=3 {
        cluster.wait_for(id, "b", 3);
        cluster.wait_for(id, "y", 3);
        assert_eq!(cluster.get(id, "a"), Some(2));
    }
}

#[test]
fn an_idle_region_sleeps_and_has_another_leader_when_its_own_is_lost() {
    // All must hear of each other for so many ticks: on a busy machine these are long enough.
    let mut cluster = Cluster::ticking(3, 100);
    cluster.write(FIRST, "a", 1);
    let asleep = |cluster: &Cluster, stores: &[u64]| {
        let sleeps = |id: &u64| cluster.handle(*id).replica(FIRST).is_some_and(|s| s.hibernating);
        stores.iter().all(sleeps).then_some(())
    };
    eventually("everybody to sleep", || asleep(&cluster, &[1, 2, 3]));
    // Whoever slept asks a quorum.
    let (_, permit) = cluster.read_leader(FIRST, &[1, 2, 3]);
    assert_eq!(permit.region.id, FIRST);
    eventually("everybody to sleep again", || asleep(&cluster, &[1, 2, 3]));
    let (lost, region) = cluster.leader(FIRST);
    cluster.stop(lost);
    let others: Vec<u64> = (1..=3).filter(|id| *id != lost).collect();
    let written = eventually("a write through another leader", || {
        let (leader, _) = cluster.leader_among(FIRST, &others);
        cluster.propose_at(leader, &region, vec![value("b", 2)]).ok()
    });
    cluster.start(lost, false);
    eventually("the lost one to catch up", || {
        let status = cluster.handle(lost).replica(FIRST)?;
        (status.applied.index >= written.index).then_some(())
    });
    eventually("all three to sleep", || asleep(&cluster, &[1, 2, 3]));
}
