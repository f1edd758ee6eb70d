//! A store without peers syncs on its raft thread when nothing else is to be done. What it must
//! never do: answer before the sync, or lose what comes while a thread is at work.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use damask_env::{MemoryDisk, RealClock};
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

#[test]
fn a_store_alone_syncs_where_it_decides_and_answers_after_it() {
    let (disk, engine) = (MemoryDisk::new(), MemoryEngine::with_crashes());
    let log = FileLogStore::open(Arc::new(disk.clone()), "raft", FileLogConfig::default());
    let log = Arc::new(Watched(log.unwrap(), Mutex::default()));
    let peer = Peer { id: PeerId(11), store: StoreId(1), role: PeerRole::Voter };
    let mut options = StoreOptions::new(StoreId(1));
    options.bootstrap =
        Some(Region { id: FIRST, range: KeyRange::all(), epoch: EPOCH, peers: vec![peer] });
    let machine = Arc::new(RowMachine::new(Arc::new(engine.clone()) as Arc<dyn Engine>));
    let (network, clock) = (Arc::new(LocalNetwork::new()), Arc::new(RealClock::default()));
    let store = Store::start(options, log.clone(), machine, network, clock).unwrap();
    let handle = store.handle();
    let (sender, answers) = mpsc::channel();
    let propose = |n| {
        let sender = sender.clone();
        handle.propose(proposal(n), Box::new(move |done| drop(sender.send(done))));
    };
    let mut last = 0;
    for n in 0..100 {
        propose(n);
        let Ok(applied) = answers.recv_timeout(DEADLINE).unwrap() else { continue };
        assert!(applied.index > last, "answers in order");
        last = applied.index;
        // What is durable at this moment holds the entry.
        let image = disk.crash_image(|_| 0);
        let log = FileLogStore::open(Arc::new(image), "raft", FileLogConfig::default()).unwrap();
        assert!(log.group(FIRST).unwrap().last.index >= last, "answered before it was durable");
    }
    assert!(last > 0, "it led itself");
    let names = std::mem::take(&mut *log.1.lock().unwrap());
    let inline = names.iter().filter(|name| name.starts_with("raft")).count();
    assert!(inline > 0, "one at a time: {names:?}");
    // Many at once: by both threads, and none is lost or answered twice.
    (100..2_100).for_each(propose);
    for _ in 100..2_100 {
        let applied = answers.recv_timeout(DEADLINE).unwrap().unwrap();
        assert!(applied.index > last, "answers in order");
        last = applied.index;
    }
    store.stop().unwrap();
}
