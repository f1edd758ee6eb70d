//! What a store's own limits answer: they are kept before a command reaches a region. What regions
//! answer stands in `tests/scripts/answers`. A refused command must have had no effect.

use super::support::*;
use damask_raftstore::{Error, PeerChange, Proposal, ReadMode, StoreConfig};
use damask_types::{ErrorKind, StoreId};
use std::sync::mpsc;

/// `ServerIsBusy`: of commands that wait for a quorum only so many bytes are taken, reads count too,
/// and there is room again once they are answered.
#[test]
fn a_store_with_too_much_in_flight_is_busy_until_it_is_answered() {
    let config = StoreConfig { requests_bytes_max: 8 << 10, ..StoreConfig::default() };
    let cluster = Cluster::with(3, config);
    cluster.write(FIRST, "k", 0);
    let (leader, region) = cluster.leader(FIRST);
    (1..=3).filter(|id| *id != leader).for_each(|id| cluster.network.isolate(StoreId(id)));
    let (sender, answers) = mpsc::channel();
    let propose = |n: u64| {
        let records = vec![value(&format!("k{n}"), n)];
        let proposal = Proposal { region: FIRST, epoch: region.epoch, term: None, records };
        let sender = sender.clone();
        let done = Box::new(move |result| drop(sender.send((n, result))));
        cluster.handle(leader).propose(proposal, done);
    };
    (1..=100).for_each(propose);
    let (n, refused) = answers.try_recv().expect("refused at once");
    let refused = refused.expect_err("nobody can have acknowledged it");
    assert!(matches!(refused, Error::Busy(_)), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Retry);
    assert!(n > 5, "a command of some bytes is not 1 KiB");
    let (told, read) = mpsc::channel();
    let done = Box::new(move |result| drop(told.send(result)));
    cluster.handle(leader).read(FIRST, region.epoch, ReadMode::Index, done);
    let read = read.recv_timeout(DEADLINE).expect("an answer");
    assert!(matches!(read, Err(Error::Busy(_))), "{read:?}");
    cluster.network.heal();
    for at in 1..n {
        let taken = answers.iter().find(|(of, _)| *of == at).expect("answered").1;
        // Those that were taken may be lost to another leader, and then are said to be.
        if taken.is_ok() {
            cluster.wait_for(leader, &format!("k{at}"), at);
        }
    }
    cluster.write(FIRST, "k", 1);
    assert_eq!(cluster.get(leader, &format!("k{n}")), None, "what was refused is not there");
}

/// `ServerIsBusy`: of what is committed and not applied only so many bytes wait. All of it is applied
/// once that goes on, and there is room again.
#[test]
fn a_store_that_does_not_apply_is_busy_until_it_does() {
    let config = StoreConfig { apply_bytes_max: 4 << 10, ..StoreConfig::default() };
    let cluster = Cluster::with(3, config);
    cluster.write(FIRST, "k", 0);
    let (leader, region) = cluster.leader(FIRST);
    let gate = cluster.nodes[&leader].gate.clone();
    let (sender, answers) = mpsc::channel();
    let closed = gate.lock().unwrap();
    let mut n = 0;
    let refused = eventually("too much that is not applied", || {
        n += 1;
        let records = vec![value(&format!("k{n}"), n)];
        let proposal = Proposal { region: FIRST, epoch: region.epoch, term: None, records };
        let (sender, at) = (sender.clone(), n);
        let done = Box::new(move |result| drop(sender.send((at, result))));
        cluster.handle(leader).propose(proposal, done);
        let (at, answer) = answers.try_recv().ok()?;
        (at == n).then_some(answer).map(|answer: Result<_, Error>| answer.expect_err("not applied"))
    });
    assert!(matches!(refused, Error::Busy(_)), "{refused}");
    assert!(refused.to_string().contains("not yet applied"), "{refused}");
    drop(closed);
    let taken = (1..n).map(|_| answers.recv_timeout(DEADLINE).expect("an answer"));
    let applied: Vec<u64> = taken.filter(|(_, answer)| answer.is_ok()).map(|(at, _)| at).collect();
    assert!(!applied.is_empty());
    for at in applied {
        (1..=3).for_each(|id| cluster.wait_for(id, &format!("k{at}"), at));
    }
    cluster.write(FIRST, "k", 1);
}

/// A follower that does not apply takes no more entries; it gets them later, and a majority that
/// does apply waits for nobody.
#[test]
fn a_follower_that_does_not_apply_takes_no_more_and_catches_up() {
    let config = StoreConfig { apply_bytes_max: 2 << 10, ..StoreConfig::default() };
    let cluster = Cluster::with(3, config);
    cluster.write(FIRST, "k", 0);
    let (leader, _) = cluster.leader(FIRST);
    let slow = (1..=3).find(|id| *id != leader).expect("three");
    let gate = cluster.nodes[&slow].gate.clone();
    let closed = gate.lock().unwrap();
    let matched = |cluster: &Cluster| {
        let status = cluster.handle(leader).replica(FIRST)?;
        let of = status.matched.iter().find(|(peer, _)| peer.store == StoreId(slow));
        Some((status.applied.index, of?.1))
    };
    let mut n = 0;
    eventually("entries that it does not take", || {
        n += 1;
        cluster.write(FIRST, &format!("k{n}"), n);
        matched(&cluster).filter(|(applied, matched)| applied > &(matched + 20))
    });
    drop(closed);
    for at in 1..=n {
        cluster.wait_for(slow, &format!("k{at}"), at);
    }
}

/// `RaftEntryTooLarge`: at once, on whatever store, and others are taken after it.
#[test]
fn a_command_above_the_limit_is_refused_at_once() {
    let config = StoreConfig { command_bytes_max: 1_000, ..StoreConfig::default() };
    let cluster = Cluster::with(1, config);
    cluster.write(FIRST, "k", 1);
    let (leader, region) = cluster.leader(FIRST);
    let many = |n: u64| (0..n).map(|at| value(&format!("k{at}"), at)).collect();
    let refused = cluster.propose_at(leader, &region, many(100)).expect_err("too large");
    let Error::TooLarge { bytes, limit: 1_000 } = refused else { panic!("{refused}") };
    assert!(bytes > 1_000);
    assert_eq!(refused.kind(), ErrorKind::Invalid, "it is not to be sent again");
    cluster.propose_at(leader, &region, many(2)).expect("small enough");
    assert_eq!(cluster.get(leader, "k9"), None);
}

/// A replica that was removed says so, and one that never was.
#[test]
fn who_asks_a_store_without_the_region_is_told() {
    let mut cluster = Cluster::calm(3);
    cluster.write(FIRST, "k", 1);
    cluster.add(4, false);
    let (leader, region) = cluster.leader(FIRST);
    let refused = cluster.propose_at(4, &region, vec![value("k", 2)]).expect_err("not here");
    assert!(matches!(refused, Error::RegionNotFound(FIRST)), "{refused}");
    let gone = region.peers.iter().find(|p| p.store.0 != leader).copied().expect("three");
    cluster.change(FIRST, PeerChange::Remove(gone));
    let refused = eventually("the replica to go", || {
        cluster.read_at(gone.store.0, &region).err().filter(|e| e.kind() == ErrorKind::Reroute)
    });
    assert!(matches!(refused, Error::RegionNotFound(_) | Error::NotLeader { .. }), "{refused}");
}
