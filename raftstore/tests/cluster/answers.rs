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
