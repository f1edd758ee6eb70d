//! Every way of reading, and what a leader of old may answer. A read here must never be asked again
//! until it pleases: the first answer counts, unless it is a refusal.

use super::support::*;
use damask_raftstore::{Error, Proposal, ReadMode, ReadPermit};
use damask_types::{Epoch, StoreId};
use std::sync::mpsc;
use std::time::Duration;

/// A follower is read at the index that the leader has named, once it is there.
#[test]
fn a_replica_is_read_at_an_index_that_its_leader_named() {
    let cluster = Cluster::calm(3);
    cluster.write(FIRST, "k", 1);
    let (leader, region) = cluster.leader(FIRST);
    let behind = (1..=3).find(|id| *id != leader).expect("three");
    cluster.network.isolate(StoreId(behind));
    cluster.write(FIRST, "k", 2);
    let index = cluster.read_at(leader, &region).unwrap().applied.index;
    let (sender, receiver) = mpsc::channel();
    let read = |epoch| {
        let sender = sender.clone();
        let done = Box::new(move |result| drop(sender.send(result)));
        cluster.handle(behind).read_at(FIRST, epoch, index, done);
    };
    read(region.epoch);
    assert!(receiver.recv_timeout(Duration::from_millis(50)).is_err(), "it cannot be there yet");
    cluster.network.heal();
    let permit = receiver.recv_timeout(DEADLINE).expect("an answer").unwrap();
    assert!(permit.applied.index >= index);
    assert_eq!(cluster.get(behind, "k"), Some(2));
    read(Epoch { version: region.epoch.version - 1, ..region.epoch });
    let refused = receiver.recv_timeout(DEADLINE).expect("an answer");
    assert!(matches!(refused, Err(Error::EpochNotMatch { .. })), "{refused:?}");
}

#[test]
fn another_leader_takes_over_and_the_old_one_refuses_reads() {
    let cluster = Cluster::new(3);
    cluster.write(FIRST, "k", 1);
    let (old, ReadPermit { region, .. }) = cluster.read_leader(FIRST, &[1, 2, 3]);
    cluster.network.isolate(StoreId(old));
    let (sender, receiver) = mpsc::channel();
    let done = Box::new(move |result| drop(sender.send(result)));
    cluster.handle(old).read(FIRST, region.epoch, ReadMode::Index, done);
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    cluster.leader_among(FIRST, &others);
    cluster.write(FIRST, "k", 2);
    let (new, permit) = cluster.read_leader(FIRST, &others);
    assert_eq!(cluster.get(new, "k"), Some(2));
    assert!(permit.applied.index > 5);
    // Its lease ended before another could be elected.
    let local = cluster.handle(old).read_local(FIRST, region.epoch, || ());
    assert!(local.is_none(), "{local:?}");
    // The read that the old leader took while cut off is refused, not served.
    let refused = receiver.recv_timeout(DEADLINE).expect("an answer");
    assert!(matches!(refused, Err(Error::NotLeader { .. })), "{refused:?}");
    cluster.network.heal();
    cluster.wait_for(old, "k", 2);
}

#[test]
fn every_way_of_reading_sees_what_was_acknowledged() {
    let cluster = Cluster::calm(3);
    let (leader, region) = cluster.leader(FIRST);
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    for n in 1..20 {
        cluster.write(FIRST, "k", n);
        for mode in [ReadMode::Log, ReadMode::Index, ReadMode::Lease, ReadMode::Follower] {
            let ask = |id: u64| {
                let (sender, receiver) = mpsc::channel();
                let done = Box::new(move |result| drop(sender.send(result)));
                cluster.handle(id).read(FIRST, region.epoch, mode, done);
                receiver.recv_timeout(DEADLINE).expect("an answer")
            };
            let serves = if mode == ReadMode::Follower { follower } else { leader };
            ask(serves).unwrap();
            assert_eq!(cluster.get(serves, "k"), Some(n), "{mode:?}");
            if mode != ReadMode::Follower {
                let refused = ask(follower);
                assert!(matches!(refused, Err(Error::NotLeader { .. })), "{mode:?}: {refused:?}");
            }
        }
    }
    let local = eventually("a lease", || {
        cluster.write(FIRST, "k", 20);
        let handle = cluster.handle(leader);
        handle.read_local(FIRST, region.epoch, || cluster.get(leader, "k"))
    });
    assert_eq!(local.1, Some(20));
    assert!(cluster.handle(follower).read_local(FIRST, region.epoch, || ()).is_none());
    let old = Epoch { version: 0, ..region.epoch };
    assert!(cluster.handle(leader).read_local(FIRST, old, || ()).is_none());
}

#[test]
fn a_deposed_leaders_proposal_is_stale_once_another_entry_is_committed_in_its_place() {
    let cluster = Cluster::new(3);
    cluster.write(FIRST, "k", 1);
    let (old, region) = cluster.leader(FIRST);
    cluster.network.isolate(StoreId(old));
    let (sender, receiver) = mpsc::channel();
    let records = vec![value("lost", 1)];
    let proposal = Proposal { region: FIRST, epoch: region.epoch, term: None, records };
    let done = Box::new(move |result| drop(sender.send(result)));
    cluster.handle(old).propose(proposal, done);
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    cluster.leader_among(FIRST, &others);
    // Not so many that the old leader needs a snapshot.
    (2..4).for_each(|n| cluster.write(FIRST, "k", n));
    cluster.network.heal();
    let result = receiver.recv_timeout(DEADLINE).expect("an answer");
    assert!(matches!(result, Err(Error::Stale | Error::NotLeader { .. })), "{result:?}");
    cluster.wait_for(old, "k", 3);
    assert_eq!(cluster.get(old, "lost"), None);
}
