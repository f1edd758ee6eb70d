//! Three replicas in one process, on real logs that are synced: puts by 256 clients with what each
//! of them costs in syncs, beside the naive path; reads by lease, by index, by a follower and by
//! the log; what a thousand idle regions cost, asleep and awake; and for how long a region takes no
//! writes after a split, and after its leader is lost. It must never skip a sync.
//!
//! `cargo run --release -p damask-raftstore --example raft_speed -- [seconds per part] [folder]
//! [log stores]`: with names of log stores (`file,raft-engine`) only the puts, on each of them; with
//! `idle` only what idle regions cost, with `gaps` only for how long no writes are taken.
#![allow(clippy::unwrap_used)] // a bench stops at the first error

mod logs;

use damask_env::{Clock, RealClock};
use damask_kv::{Cf, Engine, MemoryEngine};
use damask_raftstore::testing::LocalNetwork;
use damask_raftstore::{
    Error, GroupLog, LogBatch, LogEntry, LogStore, Proposal, ReadMode, Result, RowMachine,
    SplitChild, Store, StoreConfig, StoreHandle, StoreOptions,
};
use damask_types::codec::encode_key;
use damask_types::{
    Epoch, KeyRange, Lock, LockKind, Peer, PeerId, PeerRole, Record, Region, RegionId, StoreId,
    Timestamp,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

const CLIENTS: usize = 256;
const VALUE_BYTES: usize = 100;
const FIRST: RegionId = RegionId(1);
const IDLE_REGIONS: u64 = 1000;
const SPLIT_KEYS: u64 = 100;

/// A log store that counts its syncs.
struct Counted {
    log: Arc<dyn LogStore>,
    syncs: Arc<AtomicU64>,
}

impl LogStore for Counted {
    fn recover(&self) -> Result<Vec<(RegionId, GroupLog)>> {
        self.log.recover()
    }

    fn group(&self, group: RegionId) -> Option<GroupLog> {
        self.log.group(group)
    }

    fn append(&self, batch: LogBatch) -> Result<()> {
        self.log.append(batch)
    }

    fn sync(&self) -> Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.log.sync()
    }

    fn entries(
        &self,
        group: RegionId,
        low: u64,
        high: u64,
        max_bytes: u64,
        out: &mut Vec<LogEntry>,
    ) -> Result<()> {
        self.log.entries(group, low, high, max_bytes, out)
    }

    fn term(&self, group: RegionId, index: u64) -> Result<Option<u64>> {
        self.log.term(group, index)
    }

    fn purge(&self) -> Result<()> {
        self.log.purge()
    }
}

struct Cluster {
    stores: Vec<Store>,
    network: LocalNetwork,
    engines: Vec<MemoryEngine>,
    syncs: Arc<AtomicU64>,
    clock: RealClock,
}

impl Cluster {
    /// `None`: there is no such log store.
    fn start(folder: &Path, naive: bool, log: &str) -> Option<Cluster> {
        Cluster::with(folder, log, StoreConfig { naive, ..StoreConfig::default() })
    }

    fn with(folder: &Path, log: &str, config: StoreConfig) -> Option<Cluster> {
        let network = LocalNetwork::new();
        let (syncs, clock) = (Arc::new(AtomicU64::new(0)), RealClock::default());
        let role = PeerRole::Voter;
        let peers = (1..=3).map(|s| Peer { id: PeerId(10 + s), store: StoreId(s), role });
        let epoch = Epoch { conf_ver: 1, version: 1 };
        let (id, range) = (FIRST, KeyRange::all());
        let first = Region { id, range, epoch, peers: peers.collect() };
        let (mut stores, mut engines) = (Vec::new(), Vec::new());
        for id in 1..=3 {
            let folder = folder.join(id.to_string());
            std::fs::create_dir_all(&folder).unwrap();
            let log = Counted { log: logs::open(log, &folder)?, syncs: syncs.clone() };
            let engine = MemoryEngine::new();
            let mut options = StoreOptions::new(StoreId(id));
            options.config = config.clone();
            options.bootstrap = Some(first.clone());
            let machine = Arc::new(RowMachine::new(Arc::new(engine.clone())));
            let network_ = Arc::new(network.clone());
            let store = Store::start(options, Arc::new(log), machine, network_, Arc::new(clock));
            let store = store.unwrap();
            network.connect(store.handle());
            stores.push(store);
            engines.push(engine);
        }
        Some(Cluster { stores, network, engines, syncs, clock })
    }

    /// Who leads a region: its place, its handle, and the region.
    fn leader(&self, id: RegionId) -> (usize, StoreHandle, Region) {
        loop {
            for (at, store) in self.stores.iter().enumerate() {
                let status = store.handle().replica(id).filter(|s| s.is_leader);
                if let Some(status) = status {
                    return (at, store.handle(), status.region);
                }
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Keeps `CLIENTS` requests in flight; answers per second.
    fn closed_loop(
        &self,
        seconds: Duration,
        mut ask: impl FnMut(u64, Box<dyn FnOnce(bool) + Send>),
    ) -> (f64, u64) {
        let (sender, receiver) = mpsc::channel();
        let mut asked = 0;
        let mut next = || {
            let sender = sender.clone();
            asked += 1;
            // The receiver is gone when the time is up.
            ask(
                asked,
                Box::new(move |worked| {
                    let _ = sender.send(worked);
                }),
            );
        };
        (0..CLIENTS).for_each(|_| next());
        let start = self.clock.monotonic();
        let mut done = 0;
        loop {
            let worked: bool = receiver.recv().unwrap();
            done += u64::from(worked);
            let passed = self.clock.monotonic() - start;
            if passed >= seconds {
                return (done as f64 / passed.as_secs_f64(), done);
            }
            next();
        }
    }

    fn puts(&self, seconds: Duration) -> (f64, f64) {
        let (_, handle, region) = self.leader(FIRST);
        let put = |n: u64, done: Box<dyn FnOnce(bool) + Send>| {
            let lock = Lock {
                short_value: Some(vec![7; VALUE_BYTES]),
                ..Lock::new(LockKind::Put, b"p".to_vec(), Timestamp(n), 1)
            };
            let key = format!("key-{:06}", n % 100_000).into_bytes();
            let records = vec![Record::Lock { key, lock }];
            let proposal = Proposal { region: FIRST, epoch: region.epoch, term: None, records };
            handle.propose(proposal, Box::new(move |result| done(result.is_ok())));
        };
        let before = self.syncs.load(Ordering::Relaxed);
        let (rate, puts) = self.closed_loop(seconds, put);
        let syncs = self.syncs.load(Ordering::Relaxed) - before;
        (rate, syncs as f64 / puts as f64)
    }

    fn reads(&self, mode: ReadMode, seconds: Duration) -> f64 {
        let (at, handle, region) = self.leader(FIRST);
        let at = if mode == ReadMode::Follower { (at + 1) % 3 } else { at };
        let handle = if mode == ReadMode::Follower { self.stores[at].handle() } else { handle };
        let engine = self.engines[at].clone();
        let read = move |n: u64, done: Box<dyn FnOnce(bool) + Send>| {
            let engine = engine.clone();
            let key = encode_key(format!("key-{:06}", n % 1000).as_bytes());
            let take = move |permit: Result<_>| {
                let found = permit.map(|_| engine.snapshot().get(Cf::Lock, &key));
                done(matches!(found, Ok(Ok(Some(_)))));
            };
            handle.read(FIRST, region.epoch, mode, Box::new(take));
        };
        self.closed_loop(seconds, read).0
    }

    /// As a server's thread reads: snapshot first, then the lease's check.
    fn local_reads(&self, seconds: Duration) -> f64 {
        let (at, handle, region) = self.leader(FIRST);
        let key = encode_key(b"key-000001");
        let (start, mut done) = (self.clock.monotonic(), 0u64);
        loop {
            let taken = handle.read_local(FIRST, region.epoch, || self.engines[at].snapshot());
            match taken {
                Some((_, snapshot)) => {
                    assert!(snapshot.get(Cf::Lock, &key).unwrap().is_some());
                    done += 1;
                }
                None => {
                    let (sender, receiver) = mpsc::channel();
                    let answer = Box::new(move |result: Result<_>| drop(sender.send(result)));
                    handle.read(FIRST, region.epoch, ReadMode::Lease, answer);
                    receiver.recv().unwrap().unwrap();
                }
            }
            let passed = self.clock.monotonic() - start;
            if passed >= seconds {
                return done as f64 / passed.as_secs_f64();
            }
        }
    }

    /// Makes many regions of the first.
    fn split(&self) {
        let mut made = 1;
        while made < IDLE_REGIONS {
            let (_, handle, region) = self.leader(FIRST);
            let count = SPLIT_KEYS.min(IDLE_REGIONS - made);
            let ids = made..made + count;
            let keys = ids.clone().map(|n| format!("x-{n:06}").into_bytes()).collect();
            let peers = |n: u64| (1..=3).map(|p| PeerId(n * 10 + p)).collect();
            let child = |n: u64| SplitChild { region: RegionId(100 + n), peers: peers(100 + n) };
            let (sender, receiver) = mpsc::channel();
            let done = Box::new(move |result: Result<Vec<Region>>| drop(sender.send(result)));
            handle.split(FIRST, region.epoch, keys, ids.map(child).collect(), done);
            match receiver.recv().unwrap() {
                Ok(_) => made += count,
                Err(Error::EpochNotMatch { .. } | Error::NotLeader { .. } | Error::Busy(_)) => {
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                Err(e) => panic!("{e}"),
            }
        }
        (1..made).for_each(|n| drop(self.leader(RegionId(100 + n))));
    }
}

impl Cluster {
    /// Puts into a region by whoever leads it, again and again until one is acknowledged.
    fn put_by_anyone(&self, id: RegionId, key: &str) {
        loop {
            for store in &self.stores {
                let handle = store.handle();
                let Some(status) = handle.replica(id).filter(|s| s.is_leader) else { continue };
                let lock = Lock::new(LockKind::Put, b"p".to_vec(), Timestamp(1), 1);
                let records = vec![Record::Lock { key: key.as_bytes().to_vec(), lock }];
                let epoch = status.region.epoch;
                let proposal = Proposal { region: id, epoch, term: None, records };
                let (sender, receiver) = mpsc::channel();
                let done = Box::new(move |result: Result<_>| drop(sender.send(result)));
                handle.propose(proposal, done);
                // A leader that is cut off answers no more.
                if let Ok(Ok(_)) = receiver.recv_timeout(Duration::from_millis(200)) {
                    return;
                }
            }
            std::thread::park_timeout(Duration::from_micros(200));
        }
    }

    /// Waits until every replica sleeps, if it is to.
    fn wait_for_sleep(&self, asleep: bool) {
        let all = |s: &Store| s.handle().replicas().iter().all(|r| r.hibernating);
        while asleep && !self.stores.iter().all(all) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// What the same takes while nothing happens, in milliseconds: the machine's share in a gap.
    fn single_puts(&self, count: usize) -> Vec<f64> {
        let put = |_| {
            let start = self.clock.monotonic();
            self.put_by_anyone(FIRST, "z");
            1000.0 * (self.clock.monotonic() - start).as_secs_f64()
        };
        (0..count).map(put).collect()
    }

    /// For how long a new region takes no writes, from the split's answer on, in milliseconds.
    fn split_gaps(&self, count: u64) -> Vec<f64> {
        let mut gaps = Vec::new();
        while (gaps.len() as u64) < count {
            let n = gaps.len() as u64;
            let (_, handle, region) = self.leader(FIRST);
            let peers = (1..=3).map(|p| PeerId((5000 + n) * 10 + p)).collect();
            let child = SplitChild { region: RegionId(5000 + n), peers };
            let (sender, receiver) = mpsc::channel();
            let done = Box::new(move |result: Result<Vec<Region>>| drop(sender.send(result)));
            let keys = vec![format!("w-{n:06}b").into_bytes()];
            handle.split(FIRST, region.epoch, keys, vec![child], done);
            if receiver.recv().unwrap().is_err() {
                continue;
            }
            let start = self.clock.monotonic();
            self.put_by_anyone(RegionId(5000 + n), &format!("w-{n:06}a"));
            gaps.push(1000.0 * (self.clock.monotonic() - start).as_secs_f64());
        }
        gaps
    }

    /// For how long a region takes no writes after its leader's store is cut off, in milliseconds.
    fn leader_gaps(&self, count: usize, asleep: bool) -> Vec<f64> {
        let mut gaps = Vec::new();
        for _ in 0..count {
            self.put_by_anyone(FIRST, "z");
            self.wait_for_sleep(asleep);
            let (at, _, _) = self.leader(FIRST);
            let lost = self.stores[at].handle().id();
            let start = self.clock.monotonic();
            self.network.isolate(lost);
            self.put_by_anyone(FIRST, "z");
            gaps.push(1000.0 * (self.clock.monotonic() - start).as_secs_f64());
            self.network.rejoin(lost);
            let leads = |s: &&Store| s.handle().replica(FIRST).is_some_and(|r| r.is_leader);
            while self.stores.iter().filter(leads).count() != 1 {
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
        gaps
    }
}

/// Median and worst.
fn show(mut gaps: Vec<f64>) -> String {
    gaps.sort_by(f64::total_cmp);
    let (median, worst) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
    format!("{median:.1} ms in the median, {worst:.1} ms at worst, of {}", gaps.len())
}

fn measure_gaps(folder: &Path) {
    let cluster = Cluster::start(&folder.join("gaps"), false, "file").unwrap();
    // No store votes before it has run for an election's time.
    cluster.put_by_anyone(FIRST, "z");
    std::thread::park_timeout(3 * StoreConfig::default().tick * 10);
    println!("one put alone takes {}", show(cluster.single_puts(100)));
    println!("a split's child takes no writes for {}", show(cluster.split_gaps(20)));
    for asleep in [false, true] {
        let how = if asleep { "asleep" } else { "awake" };
        let gaps = show(cluster.leader_gaps(5, asleep));
        println!("after its leader is lost, {how}, a region takes no writes for {gaps}");
    }
}

fn measure_idle(folder: &Path, seconds: Duration) {
    for asleep in [true, false] {
        let mut config = StoreConfig::default();
        config.core.hibernate_regions = asleep;
        let name = if asleep { "asleep" } else { "awake" };
        let cluster = Cluster::with(&folder.join(name), "file", config).unwrap();
        cluster.split();
        cluster.wait_for_sleep(asleep);
        let (before, start) = (usage(), cluster.clock.monotonic());
        while cluster.clock.monotonic() - start < seconds {
            std::thread::park_timeout(seconds);
        }
        let after = usage();
        let share = (after.0 - before.0) / (cluster.clock.monotonic() - start).as_secs_f64();
        let memory = after.1;
        println!(
            "{IDLE_REGIONS} idle regions on three stores, {name}: {:.1} % of a core, {memory:.0} MiB",
            100.0 * share
        );
    }
}

/// Processor time of this process in seconds, and its memory in MiB.
fn usage() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    let pages: f64 = fields[21].parse().unwrap();
    (ticks / 100.0, pages * 4096.0 / (1 << 20) as f64)
}

fn puts_on(log: &str, folder: &Path, seconds: Duration) {
    match Cluster::start(&folder.join(log), false, log) {
        Some(cluster) => {
            let (rate, syncs) = cluster.puts(seconds);
            println!("{log}: {rate:.0} puts/s, {syncs:.3} syncs per put on all three stores");
        }
        None => println!("{log}: not in this build, or not known; {:?}", logs::NAMES),
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let seconds = args.next().map_or(5, |s| s.parse().unwrap());
    let seconds = Duration::from_secs(seconds);
    let base = args.next().map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(base).unwrap();
    match args.next().as_deref() {
        Some("idle") => return measure_idle(folder.path(), seconds),
        Some("gaps") => return measure_gaps(folder.path()),
        Some(names) => {
            return names.split(',').for_each(|name| puts_on(name, folder.path(), seconds));
        }
        None => {}
    }
    let mut rates = Vec::new();
    for (name, naive) in [("naive", true), ("optimised", false)] {
        let cluster = Cluster::start(&folder.path().join(name), naive, "file").unwrap();
        let (rate, syncs) = cluster.puts(seconds);
        println!("{name}: {rate:.0} puts/s, {syncs:.3} syncs per put on all three stores");
        rates.push(rate);
        if naive {
            continue;
        }
        println!("optimised / naive: {:.1}", rates[1] / rates[0]);
        for mode in [ReadMode::Lease, ReadMode::Index, ReadMode::Follower, ReadMode::Log] {
            println!("{mode:?} reads, {CLIENTS} in flight: {:.0}/s", cluster.reads(mode, seconds));
        }
        println!("local reads by the lease, one thread: {:.0}/s", cluster.local_reads(seconds));
    }
    measure_idle(folder.path(), seconds);
    measure_gaps(folder.path());
}
