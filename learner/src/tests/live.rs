//! Under a real Raft store: entries come by its log, permits by its read index, and a restart
//! replays what was not synced.

use super::fixture::*;
use crate::{LearnerRead, StoreReads};
use damask_env::{Clock, RealClock};
use damask_raftstore::testing::LocalNetwork;
use damask_raftstore::*;
use damask_types::key::row_range;
use damask_types::*;
use std::sync::{Arc, mpsc};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(30);

fn start(f: &Fixture, log: &Arc<MemoryLogStore>) -> Store {
    let store = StoreId(1);
    let peer = Peer { id: PeerId(11), store, role: PeerRole::Voter };
    let mut first = state(R, row_range(T), 1).region;
    first.peers = vec![peer];
    let mut options = StoreOptions::new(store);
    options.bootstrap = Some(first);
    options.config.tick = Duration::from_millis(5);
    let transport = Arc::new(LocalNetwork::new());
    let clock = Arc::new(RealClock::default());
    Store::start(options, log.clone(), f.machine.clone(), transport, clock).unwrap()
}

/// Proposes until the replica leads.
fn propose(store: &Store, records: &[Record]) {
    let since = RealClock::default();
    loop {
        let (sender, answer) = mpsc::channel();
        let epoch = Epoch { conf_ver: 1, version: 1 };
        let proposal = Proposal { region: R, epoch, term: None, records: records.to_vec() };
        store.handle().propose(proposal, Box::new(move |a| drop(sender.send(a))));
        match answer.recv_timeout(DEADLINE).unwrap() {
            Ok(_) => return,
            Err(e) if e.kind() == ErrorKind::Reroute => {
                assert!(since.monotonic() < DEADLINE, "{e}")
            }
            Err(e) => panic!("{e}"),
        }
    }
}

fn rows(f: &Fixture, store: &Store, ts: u64) -> usize {
    // The replica leads itself: its own read index is the leader's.
    let leader = store.handle();
    let ask = move |region, epoch, _: &[KeyRange], _| {
        let (sender, answer) = mpsc::channel();
        leader.read_index(region, epoch, Box::new(move |a| drop(sender.send(a))));
        let permit = answer.recv_timeout(DEADLINE).map_err(|_| Error::Stopped)??;
        Ok(permit.applied.index)
    };
    let reads = Arc::new(StoreReads::new(store.handle(), Box::new(ask)));
    let reader = LearnerRead::new(reads, f.machine.clone(), DEADLINE);
    let epoch = Epoch { conf_ver: 1, version: 1 };
    let since = RealClock::default();
    loop {
        match reader.view(R, epoch, &[row_range(T)], Timestamp(ts)) {
            Ok(view) => return scan(&*view.snapshot, view.handles[0], ts).len(),
            Err(e) => {
                assert!(e.kind() != ErrorKind::ResolveLock && since.monotonic() < DEADLINE, "{e}")
            }
        }
    }
}

#[test]
fn written_read_and_replayed() {
    let f = Fixture::empty();
    let log = Arc::new(MemoryLogStore::new());
    let store = start(&f, &log);
    let (short, long) = (row(1, "a"), row(2, &"b".repeat(300)));
    for (handle, value) in [(1, &short), (2, &long)] {
        propose(&store, &prewrite(handle, 20, Some(value)));
        propose(&store, &commit(handle, 20, 30, Some(value)));
        assert_eq!(rows(&f, &store, 30), handle as usize);
    }
    propose(&store, &prewrite(3, 40, Some(&long)));
    f.machine.sync().unwrap();
    propose(&store, &commit(3, 40, 50, Some(&long)));
    assert_eq!(rows(&f, &store, 50), 3);
    store.stop().unwrap();
    let f = f.crash(false);
    assert_eq!(f.rows(50).len(), 2, "the last commit is only in the log");
    let store = start(&f, &log);
    assert_eq!(rows(&f, &store, 50), 3);
    store.stop().unwrap();
}
