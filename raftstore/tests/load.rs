//! Regions that are too busy, or hold too much, on one running store: where it says that they should
//! be cut, and what is left of the load after that. Time is given, so nothing waits for it.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use damask_env::ManualClock;
use damask_kv::{Engine, MemoryEngine};
use damask_raftstore::testing::LocalNetwork;
use damask_raftstore::*;
use damask_types::{
    Epoch, KeyRange, Peer, PeerId, PeerRole, Record, Region, RegionId, StoreId, Timestamp, Write,
    WriteKind,
};
use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

const FIRST: RegionId = RegionId(1);
const DEADLINE: Duration = Duration::from_secs(30);
/// Requests a second from which a region is busy here.
const BUSY: u64 = 100;

fn key(n: u64) -> Vec<u8> {
    format!("k{n:06}").into_bytes()
}

/// Numbers without a pattern.
fn any(n: u64, below: u64) -> u64 {
    let mut x = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (x ^ (x >> 32)) % below
}

/// A store that leads every region there is.
struct Alone {
    store: Store,
    machine: Arc<RowMachine>,
    clock: Arc<ManualClock>,
    next_id: u64,
    requests: u64,
}

impl Alone {
    fn new() -> Alone {
        let peer = Peer { id: PeerId(11), store: StoreId(1), role: PeerRole::Voter };
        let mut options = StoreOptions::new(StoreId(1));
        options.config.load.requests_min = BUSY;
        let epoch = Epoch { conf_ver: 1, version: 1 };
        options.bootstrap =
            Some(Region { id: FIRST, range: KeyRange::all(), epoch, peers: vec![peer] });
        let machine = Arc::new(RowMachine::new(Arc::new(MemoryEngine::new()) as Arc<dyn Engine>));
        let clock = Arc::new(ManualClock::new(1));
        let (log, network) = (Arc::new(MemoryLogStore::new()), Arc::new(LocalNetwork::new()));
        let store = Store::start(options, log, machine.clone(), network, clock.clone()).unwrap();
        let alone = Alone { store, machine, clock, next_id: 100, requests: 0 };
        alone.until("it leads", |handle| handle.replicas().iter().any(|r| r.is_leader));
        alone.store.handle().loads();
        alone
    }

    #[allow(clippy::disallowed_methods)]
    fn until(&self, what: &str, done: impl Fn(&StoreHandle) -> bool) {
        let start = std::time::Instant::now();
        while !done(&self.store.handle()) {
            assert!(start.elapsed() < DEADLINE, "timed out: {what}");
            std::thread::yield_now();
        }
    }

    fn region_at(&self, key: &[u8]) -> Region {
        let all = self.store.handle().replicas();
        all.into_iter().find(|r| r.region.range.contains(key)).unwrap().region
    }

    fn read(&mut self, n: u64) {
        let region = self.region_at(&key(n)).id;
        self.store.handle().note_read(region, &key(n), &key(n), 50);
    }

    /// One version of a row.
    fn write(&mut self, n: u64, ts: u64) {
        let write = Write::new(WriteKind::Put, Timestamp(ts), Some(vec![7; 20]));
        let record = Record::Write { key: key(n), commit_ts: Timestamp(ts + 1), write };
        let region = self.region_at(&key(n));
        let (sender, receiver) = mpsc::channel();
        let proposal =
            Proposal { region: region.id, epoch: region.epoch, term: None, records: vec![record] };
        let done = Box::new(move |result| drop(sender.send(result)));
        self.store.handle().propose(proposal, done);
        receiver.recv_timeout(DEADLINE).expect("an answer").unwrap();
    }

    /// So many seconds of this, a few more requests than make one region busy.
    fn seconds(
        &mut self,
        seconds: u64,
        ask: impl Fn(&mut Alone, u64),
    ) -> BTreeMap<RegionId, RegionLoad> {
        let mut loads = BTreeMap::new();
        for _ in 0..seconds {
            for _ in 0..BUSY + BUSY / 2 {
                self.requests += 1;
                ask(self, self.requests);
            }
            self.clock.advance(Duration::from_secs(1));
            loads = self.store.handle().loads();
        }
        loads
    }

    fn split(&mut self, id: RegionId, keys: Vec<Vec<u8>>) -> Vec<Region> {
        let all = self.store.handle().replicas();
        let epoch = all.iter().find(|r| r.region.id == id).unwrap().region.epoch;
        let mut child = || {
            self.next_id += 10;
            SplitChild { region: RegionId(self.next_id), peers: vec![PeerId(self.next_id + 1)] }
        };
        let children = keys.iter().map(|_| child()).collect();
        let (sender, receiver) = mpsc::channel();
        let done = Box::new(move |result| drop(sender.send(result)));
        self.store.handle().split(id, epoch, keys, children, done);
        let parts: Vec<Region> = receiver.recv_timeout(DEADLINE).expect("an answer").unwrap();
        let led = |handle: &StoreHandle, region: &Region| {
            handle.replica(region.id).is_some_and(|r| r.is_leader && r.region == *region)
        };
        self.until("all parts are led", |handle| parts.iter().all(|part| led(handle, part)));
        parts
    }
}

#[test]
fn a_hot_range_is_cut_near_its_middle_and_neither_half_is_too_busy() {
    let mut alone = Alone::new();
    let hot = |alone: &mut Alone, n: u64| alone.read(5_000 + any(n, 1_000));
    let loads = alone.seconds(10, hot);
    assert_eq!(loads[&FIRST].split_key, None, "the first second only told its range");
    let loads = alone.seconds(1, hot);
    assert_eq!((loads[&FIRST].reads, loads[&FIRST].writes), (150, 0));
    let cut = loads[&FIRST].split_key.clone().expect("it was busy all the time");
    assert!((key(5_300)..key(5_700)).contains(&cut), "{cut:?}");
    let parts = alone.split(FIRST, vec![cut.clone()]);
    assert_eq!((&parts[0].range.end, &parts[1].range.start), (&cut, &cut));
    let loads = alone.seconds(15, hot);
    assert_eq!(loads.len(), 2);
    for load in loads.values() {
        assert!((50..100).contains(&load.reads) && load.split_key.is_none(), "{load:?}");
    }
}

#[test]
fn proposals_count_as_well() {
    let mut alone = Alone::new();
    let loads = alone.seconds(11, |alone, n| alone.write(any(n, 100), n));
    let load = &loads[&FIRST];
    assert_eq!((load.reads, load.writes), (0, 150));
    assert!(load.write_bytes > 150 * 30, "{load:?}");
    let cut = load.split_key.clone().expect("it was busy all the time");
    assert!((key(25)..key(75)).contains(&cut), "{cut:?}");
}

#[test]
fn a_hot_key_is_not_cut_nor_a_region_that_is_not_busy() {
    let mut alone = Alone::new();
    let loads = alone.seconds(25, |alone, _| alone.read(7));
    assert!(loads[&FIRST].reads == 150 && loads[&FIRST].split_key.is_none());
    let rarely = |alone: &mut Alone, n: u64| {
        if n.is_multiple_of(2) {
            alone.read(any(n, 1_000));
        }
    };
    let loads = alone.seconds(25, rarely);
    assert!(loads[&FIRST].reads == 75 && loads[&FIRST].split_key.is_none());
}

/// What the store says when a region holds too much: its parts are even, made by one command.
#[test]
fn a_region_with_many_rows_is_cut_into_even_parts_at_once() {
    let mut alone = Alone::new();
    (0..500).for_each(|n| alone.write(n, n + 1));
    let whole = alone.machine.size(&KeyRange::all(), 5).unwrap();
    assert!((250..1000).contains(&whole.keys) && whole.cuts.len() == 4, "{whole:?}");
    let parts = alone.split(FIRST, whole.cuts);
    assert_eq!(parts.len(), 5);
    assert_eq!(parts[4].id, FIRST, "the right end keeps its log");
    for part in &parts {
        let size = alone.machine.size(&part.range, 2).unwrap();
        assert!((45..220).contains(&size.keys), "{size:?}");
        assert!(size.cuts.iter().all(|cut| part.range.contains(cut)) && size.cuts.len() == 1);
    }
}
