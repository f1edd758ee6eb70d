//! Replicas that come, go, move and catch up. It must never wait for a fixed time.

use super::support::*;
use damask_env::Disk;
use damask_raftstore::{Error, PeerChange, ReadMode};
use damask_types::{Peer, PeerRole, StoreId};

#[test]
fn a_learner_gets_a_snapshot_follows_reads_becomes_a_voter_and_is_removed() {
    let mut cluster = Cluster::new(1);
    for n in 0..50 {
        cluster.write(FIRST, &format!("k{n}"), n);
    }
    cluster.add(2, false);
    let learner = Peer { role: PeerRole::Learner, ..peer(30, 2) };
    let region = cluster.change(FIRST, PeerChange::AddLearner(learner));
    assert_eq!(region.epoch.conf_ver, 2);
    cluster.wait_for(2, "k49", 49);
    cluster.write(FIRST, "more", 7);
    let refused = cluster.read_at(2, &region).unwrap_err();
    assert!(matches!(refused, Error::NotLeader { .. }), "{refused}");
    let (sender, receiver) = std::sync::mpsc::channel();
    let done = Box::new(move |result| drop(sender.send(result)));
    cluster.handle(2).read(FIRST, region.epoch, ReadMode::Follower, done);
    let permit = receiver.recv_timeout(DEADLINE).expect("an answer").unwrap();
    assert_eq!(permit.region.epoch, region.epoch);
    assert_eq!(cluster.get(2, "more"), Some(7), "visible once the read is permitted");
    cluster.crash(2, 1);
    cluster.write(FIRST, "more", 8);
    cluster.wait_for(2, "more", 8);
    let region = cluster.change(FIRST, PeerChange::AddVoter(learner));
    assert_eq!(region.voters().count(), 2);
    cluster.write(FIRST, "more", 9);
    cluster.wait_for(2, "more", 9);
    let (leader, _) = cluster.leader(FIRST);
    let other = *region.peers.iter().find(|p| p.store != StoreId(leader)).unwrap();
    cluster.change(FIRST, PeerChange::Remove(other));
    eventually("the removed replica goes", || {
        let gone = cluster.handle(other.store.0).replica(FIRST).is_none();
        (gone && cluster.get(other.store.0, "more").is_none()).then_some(())
    });
    cluster.write(FIRST, "more", 10);
    // The tombstone outlives a restart, and a new peer may come.
    if other.store == StoreId(2) {
        cluster.crash(2, 4);
        assert!(cluster.handle(2).replica(FIRST).is_none());
        cluster.change(FIRST, PeerChange::AddLearner(peer(31, 2)));
        cluster.wait_for(2, "more", 10);
    }
}

#[test]
fn a_voter_moves_to_another_store_in_one_step_also_the_leader() {
    let mut cluster = Cluster::new(3);
    for n in 0..50 {
        cluster.write(FIRST, &format!("k{n}"), n);
    }
    cluster.add(4, false);
    let new = peer(40, 4);
    cluster.change(FIRST, PeerChange::AddLearner(new));
    cluster.wait_for(4, "k49", 49);
    let disk = cluster.nodes[&4].disk.clone();
    eventually("what was put aside goes", || disk.list("staged").unwrap().is_empty().then_some(()));
    let (leader, before) = cluster.leader(FIRST);
    let old = *before.peer_on(StoreId(leader)).unwrap();
    let swap = [PeerChange::AddVoter(new), PeerChange::AddLearner(old)];
    let after = cluster.change_all(FIRST, &swap);
    assert_eq!(after.peer(old.id).map(|p| p.role), Some(PeerRole::Learner));
    assert_eq!(after.peer(new.id).map(|p| p.role), Some(PeerRole::Voter));
    assert_eq!(after.epoch.conf_ver, before.epoch.conf_ver + 4);
    assert_ne!(cluster.leader(FIRST).0, leader, "it does not vote any more");
    cluster.change(FIRST, PeerChange::Remove(old));
    cluster.write(FIRST, "more", 7);
    cluster.wait_for(4, "more", 7);
    cluster.crash(4, 0);
    cluster.write(FIRST, "more", 8);
    cluster.wait_for(4, "more", 8);
}

#[test]
fn a_lagging_follower_catches_up_by_snapshot_and_leaders_move_on_request() {
    let cluster = Cluster::new(3);
    cluster.write(FIRST, "k", 0);
    let (leader, region) = cluster.leader(FIRST);
    let late = (1..=3).find(|id| *id != leader).unwrap();
    cluster.network.isolate(StoreId(late));
    for n in 1..400 {
        cluster.write(FIRST, "k", n);
    }
    cluster.network.heal();
    cluster.wait_for(late, "k", 399);
    let to = *region.peers.iter().find(|p| p.store == StoreId(late)).unwrap();
    eventually("the leader moves", || {
        let (id, _) = cluster.leader(FIRST);
        cluster.handle(id).transfer_leader(FIRST, to);
        (id == late).then_some(())
    });
    cluster.write(FIRST, "k", 400);
}

#[test]
fn only_stores_of_the_first_region_begin_with_it() {
    let mut cluster = Cluster::new(1);
    cluster.write(FIRST, "k", 1);
    // It is offered the first region, has no part in it, and starts empty.
    cluster.add(2, true);
    assert!(cluster.handle(2).replicas().is_empty());
    let learner = Peer { role: PeerRole::Learner, ..peer(30, 2) };
    cluster.change(FIRST, PeerChange::AddLearner(learner));
    cluster.wait_for(2, "k", 1);
}
