//! A store without peers syncs and applies on the thread that proposes when nothing else is to be
//! done. What it must never do: answer before the sync, or lose what comes while a thread is at
//! work.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use damask_env::{Clock, MemoryDisk, RealClock};
use damask_kv::{Engine, MemoryEngine};
use damask_raftstore::testing::LocalNetwork;
use damask_raftstore::*;
use damask_types::{
    Epoch, KeyRange, Lock, LockKind, Peer, PeerId, PeerRole, Record, Region, RegionId, StoreId,
    Timestamp,
};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

const FIRST: RegionId = RegionId(1);
const EPOCH: Epoch = Epoch { conf_ver: 1, version: 1 };
const DEADLINE: Duration = Duration::from_secs(30);

/// Notes which thread syncs.
struct Watched(FileLogStore, Mutex<Vec<String>>);

impl LogStore for Watched {
    fn recover(&self) -> Result<Vec<(RegionId, GroupLog)>> {
        self.0.recover()
    }
    fn group(&self, group: RegionId) -> Option<GroupLog> {
        self.0.group(group)
    }
    fn append(&self, batch: LogBatch) -> Result<()> {
        self.0.append(batch)
    }
    fn sync(&self) -> Result<()> {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        self.1.lock().unwrap().push(name);
        self.0.sync()
    }
    fn entries(
        &self,
        group: RegionId,
        low: u64,
        high: u64,
        max_bytes: u64,
        out: &mut Vec<LogEntry>,
    ) -> Result<()> {
        self.0.entries(group, low, high, max_bytes, out)
    }
    fn term(&self, group: RegionId, index: u64) -> Result<Option<u64>> {
        self.0.term(group, index)
    }
    fn purge(&self) -> Result<()> {
        self.0.purge()
    }
}

fn proposal(n: u64) -> Proposal {
    let lock = Lock::new(LockKind::Put, b"p".to_vec(), Timestamp(n + 1), 1);
    let records = vec![Record::Lock { key: n.to_be_bytes().to_vec(), lock }];
    Proposal { region: FIRST, epoch: EPOCH, term: None, records }
}

fn start(disk: &MemoryDisk, engine: &MemoryEngine) -> Store {
    let log = FileLogStore::open(Arc::new(disk.clone()), "raft", FileLogConfig::default());
    start_on(Arc::new(log.unwrap()), engine)
}

fn start_on(log: Arc<dyn LogStore>, engine: &MemoryEngine) -> Store {
    let peer = Peer { id: PeerId(11), store: StoreId(1), role: PeerRole::Voter };
    let mut options = StoreOptions::new(StoreId(1));
    options.bootstrap =
        Some(Region { id: FIRST, range: KeyRange::all(), epoch: EPOCH, peers: vec![peer] });
    let machine = Arc::new(RowMachine::new(Arc::new(engine.clone()) as Arc<dyn Engine>));
    let (network, clock) = (Arc::new(LocalNetwork::new()), Arc::new(RealClock::default()));
    Store::start(options, log, machine, network, clock).unwrap()
}

/// Its own vote has to be synced first.
fn led(store: &Store) {
    let clock = RealClock::default();
    let leads = |status: ReplicaStatus| status.is_leader && status.applied.term == status.term;
    while !store.handle().replica(FIRST).is_some_and(leads) {
        assert!(clock.monotonic() < DEADLINE, "it never led itself");
        std::thread::yield_now();
    }
}

#[test]
fn a_store_alone_syncs_where_it_is_asked_and_answers_after_it() {
    let (disk, engine) = (MemoryDisk::new(), MemoryEngine::with_crashes());
    let log = FileLogStore::open(Arc::new(disk.clone()), "raft", FileLogConfig::default());
    let log = Arc::new(Watched(log.unwrap(), Mutex::default()));
    let store = start_on(log.clone(), &engine);
    led(&store);
    log.1.lock().unwrap().clear();
    let handle = store.handle();
    let (sender, answers) = mpsc::channel();
    let propose = |n| {
        let sender = sender.clone();
        handle.propose(proposal(n), Box::new(move |done| drop(sender.send(done))));
    };
    let mut last = 0;
    for n in 0..100 {
        propose(n);
        let applied = answers.recv_timeout(DEADLINE).unwrap().unwrap();
        assert!(applied.index > last, "answers in order");
        last = applied.index;
        // What is durable at this moment holds the entry.
        let image = disk.crash_image(|_| 0);
        let log = FileLogStore::open(Arc::new(image), "raft", FileLogConfig::default()).unwrap();
        assert!(log.group(FIRST).unwrap().last.index >= last, "answered before it was durable");
    }
    let names = std::mem::take(&mut *log.1.lock().unwrap());
    let own = std::thread::current().name().unwrap_or_default().to_owned();
    assert!(names.iter().filter(|name| **name == own).count() > 50, "one at a time: {names:?}");
    // Many at once: by both threads, and none is lost or answered twice.
    (100..2_100).for_each(propose);
    for _ in 100..2_100 {
        let applied = answers.recv_timeout(DEADLINE).unwrap().unwrap();
        assert!(applied.index >= last, "answers in order; those that share an entry, its index");
        last = applied.index;
    }
    store.stop().unwrap();
}

/// Proposes again from inside of the answer: on the thread that holds the core.
#[test]
fn an_answer_may_propose() {
    let store = start(&MemoryDisk::new(), &MemoryEngine::with_crashes());
    let handle = store.handle();
    let (sender, answers) = mpsc::channel();
    let clock = RealClock::default();
    let end = clock.monotonic() + DEADLINE;
    let mut n = 0;
    loop {
        n += 2;
        let (again, sender) = (handle.clone(), sender.clone());
        let then: Done<Applied> = Box::new(move |first| {
            let Ok(first) = first else { return sender.send(None).unwrap() };
            let answer = move |second: Result<Applied>| {
                let both = second.ok().map(|second| (first.index, second.index));
                sender.send(both).unwrap();
            };
            again.propose(proposal(n + 1), Box::new(answer));
        });
        handle.propose(proposal(n), then);
        match answers.recv_timeout(DEADLINE).unwrap() {
            Some((first, second)) => break assert!(second > first),
            None => assert!(clock.monotonic() < end, "it never led itself"),
        }
    }
    store.stop().unwrap();
}

/// A failed sync on the caller's thread stops the store, and the caller is told that it does not
/// know.
#[test]
fn a_sync_that_fails_on_the_callers_thread_stops_the_store() {
    let disk = MemoryDisk::new();
    let store = start(&disk, &MemoryEngine::with_crashes());
    led(&store);
    let handle = store.handle();
    let (sender, answers) = mpsc::channel();
    let mut acknowledged = 0;
    for n in 0..200u64 {
        if acknowledged == 20 {
            disk.set_fault(damask_env::Fault { fail_at: Some(1), capacity: None });
        }
        let sender = sender.clone();
        handle.propose(proposal(n), Box::new(move |done| drop(sender.send(done))));
        match answers.recv_timeout(DEADLINE).unwrap() {
            Ok(_) => acknowledged += 1,
            Err(e) => {
                assert!(acknowledged >= 20, "{e}");
                assert!(matches!(e, Error::Undetermined(_)), "{e}");
                break;
            }
        }
    }
    assert!(handle.failed().is_some(), "it has stopped");
    assert!(handle.replicas().is_empty(), "and leads nothing");
    let refused = Arc::new(Mutex::new(None));
    let slot = refused.clone();
    handle.propose(proposal(999), Box::new(move |done| *slot.lock().unwrap() = Some(done)));
    assert!(store.stop().is_err());
    assert!(refused.lock().unwrap().take().unwrap().is_err());
    let log =
        FileLogStore::open(Arc::new(disk.crash_image(|_| 0)), "raft", FileLogConfig::default());
    assert!(log.unwrap().group(FIRST).unwrap().last.index >= acknowledged, "nothing is lost");
}
