//! Three stores in this process, each with a log on the disk whose syncs are counted, and a client
//! that keeps many requests in flight. It must never skip a sync, nor count a request that failed.

use crate::backends;
use damask_benches::measure::Stopwatch;
use damask_benches::{Error, machine};
use damask_env::RealClock;
use damask_kv::{Cf, Engine, EngineConfig, EngineKind, Snapshot};
use damask_raftstore::testing::LocalNetwork;
use damask_raftstore::{
    GroupLog, LogBatch, LogEntry, LogStore, Proposal, ReadMode, RowMachine, SplitChild, Store,
    StoreConfig, StoreHandle, StoreOptions,
};
use damask_types::codec::encode_key;
use damask_types::{
    Epoch, KeyRange, Lock, LockKind, Peer, PeerId, PeerRole, Record, Region, RegionId, StoreId,
    Timestamp,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// The region that is there from the start, with a replica on each of the three stores.
pub const FIRST: RegionId = RegionId(1);
/// Requests in flight.
pub const CLIENTS: u64 = 256;
/// Bytes of each value.
pub const VALUE_BYTES: usize = 100;
/// Keys that puts write, again and again.
pub const KEYS: u64 = 100_000;
/// Keys that reads read; they must be written.
pub const READ_KEYS: u64 = 1_000;
/// Longer than anything that is waited for here may take.
const WAIT: Duration = Duration::from_secs(60);
/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_micros(200);
/// Times that something is measured until its leader stays the same.
const TRIES: usize = 10;
/// Children of one split.
const SPLIT_KEYS: u64 = 100;

/// An answer of a store.
pub type Answer<T> = Result<T, damask_raftstore::Error>;

/// A log store that counts its syncs.
struct Counted {
    log: Arc<dyn LogStore>,
    syncs: Arc<AtomicU64>,
}

impl LogStore for Counted {
    fn recover(&self) -> Answer<Vec<(RegionId, GroupLog)>> {
        self.log.recover()
    }

    fn group(&self, group: RegionId) -> Option<GroupLog> {
        self.log.group(group)
    }

    fn append(&self, batch: LogBatch) -> Answer<()> {
        self.log.append(batch)
    }

    fn sync(&self) -> Answer<()> {
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
    ) -> Answer<()> {
        self.log.entries(group, low, high, max_bytes, out)
    }

    fn term(&self, group: RegionId, index: u64) -> Answer<Option<u64>> {
        self.log.term(group, index)
    }

    fn purge(&self) -> Answer<()> {
        self.log.purge()
    }
}

/// What the stores are made of.
pub struct Setup {
    pub config: StoreConfig,
    /// One of `backends::NAMES`.
    pub log: &'static str,
    pub rows: EngineKind,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { config: StoreConfig::default(), log: "file", rows: EngineKind::Memory }
    }
}

/// Requests that were answered.
pub struct Done {
    pub per_second: f64,
    /// Syncs of all three logs, for each of them.
    pub syncs: f64,
    /// Microseconds of a processor for each, of this process: stores and client.
    pub micros: f64,
}

/// Three running stores.
pub struct Cluster {
    pub stores: Vec<Store>,
    pub network: LocalNetwork,
    engines: Vec<Arc<dyn Engine>>,
    syncs: Arc<AtomicU64>,
    pub stopwatch: Stopwatch,
    /// Numbers of puts so far.
    puts: AtomicU64,
}

impl Cluster {
    /// Starts empty stores in a folder.
    pub fn start(folder: &Path, setup: &Setup, stopwatch: Stopwatch) -> Result<Cluster, Error> {
        let network = LocalNetwork::new();
        let (syncs, clock) = (Arc::new(AtomicU64::new(0)), Arc::new(RealClock::default()));
        let role = PeerRole::Voter;
        let peers = (1..=3).map(|s| Peer { id: PeerId(10 + s), store: StoreId(s), role }).collect();
        let epoch = Epoch { conf_ver: 1, version: 1 };
        let first = Region { id: FIRST, range: KeyRange::all(), epoch, peers };
        let (mut stores, mut engines) = (Vec::new(), Vec::new());
        for id in 1..=3 {
            let folder = folder.join(id.to_string());
            let log = Counted { log: backends::open(setup.log, &folder)?, syncs: syncs.clone() };
            let engine = damask_kv::open(setup.rows, &folder.join("kv"), &EngineConfig::default())?;
            let mut options = StoreOptions::new(StoreId(id));
            options.config = setup.config.clone();
            options.bootstrap = Some(first.clone());
            let machine = Arc::new(RowMachine::new(engine.clone()));
            let transport = Arc::new(network.clone());
            let store = Store::start(options, Arc::new(log), machine, transport, clock.clone())?;
            network.connect(store.handle());
            stores.push(store);
            engines.push(engine);
        }
        let puts = AtomicU64::new(0);
        let cluster = Cluster { stores, network, engines, syncs, stopwatch, puts };
        cluster.leader(FIRST)?;
        Ok(cluster)
    }

    /// Looks until something is found.
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T, Error> {
        let deadline = self.stopwatch.elapsed() + WAIT;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            if let Some(failed) = self.stores.iter().find_map(Store::failed) {
                return Err(format!("a store stopped: {failed}").into());
            }
            if self.stopwatch.elapsed() > deadline {
                return Err(format!("{what}: not within {} s", WAIT.as_secs()).into());
            }
            std::thread::park_timeout(PAUSE);
        }
    }

    /// Who leads a region: its place, its handle, and the region.
    pub fn leader(&self, id: RegionId) -> Result<(usize, StoreHandle, Region), Error> {
        self.wait("a leader", || {
            self.stores.iter().enumerate().find_map(|(at, store)| {
                let status = store.handle().replica(id).filter(|status| status.is_leader)?;
                Some((at, store.handle(), status.region))
            })
        })
    }

    /// Keeps `CLIENTS` requests in flight for so long, and waits for the last answers.
    fn closed_loop(
        &self,
        time: Duration,
        mut ask: impl FnMut(Sender<Answer<()>>),
    ) -> Result<Done, Error> {
        let (sender, receiver) = channel();
        let spent = machine::processor_seconds(std::process::id())?;
        let (before, start) = (self.syncs.load(Ordering::Relaxed), self.stopwatch.elapsed());
        (0..CLIENTS).for_each(|_| ask(sender.clone()));
        let (mut asked, mut answered) = (CLIENTS, 0);
        while answered < asked {
            receiver.recv_timeout(WAIT)??;
            answered += 1;
            if self.stopwatch.elapsed() - start < time {
                ask(sender.clone());
                asked += 1;
            }
        }
        let seconds = (self.stopwatch.elapsed() - start).as_secs_f64();
        let syncs = self.syncs.load(Ordering::Relaxed) - before;
        let spent = machine::processor_seconds(std::process::id())? - spent;
        let answered = answered as f64;
        let (per_second, syncs) = (answered / seconds, syncs as f64 / answered);
        Ok(Done { per_second, syncs, micros: 1e6 * spent / answered })
    }

    /// Measures anew if that fails: on a busy machine a leader may be lost meanwhile.
    fn steadily<T>(&self, measure: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
        for _ in 1..TRIES {
            match measure() {
                Ok(found) => return Ok(found),
                Err(e) => println!("  once more, for: {e}"),
            }
            std::thread::park_timeout(PAUSE * 500);
        }
        measure()
    }

    /// Puts into the first region.
    pub fn puts(&self, time: Duration) -> Result<Done, Error> {
        self.steadily(|| self.try_puts(time))
    }

    fn try_puts(&self, time: Duration) -> Result<Done, Error> {
        let (_, handle, region) = self.leader(FIRST)?;
        self.closed_loop(time, |answer| {
            let n = self.puts.fetch_add(1, Ordering::Relaxed);
            let proposal = put(FIRST, region.epoch, key(n % KEYS), n);
            handle.propose(proposal, Box::new(move |result| tell(&answer, result.map(drop))));
        })
    }

    /// Writes what reads read.
    pub fn fill(&self) -> Result<(), Error> {
        self.steadily(|| self.try_fill())
    }

    fn try_fill(&self) -> Result<(), Error> {
        let (_, handle, region) = self.leader(FIRST)?;
        let (sender, receiver) = channel();
        for n in 0..READ_KEYS {
            let sender = sender.clone();
            let proposal = put(FIRST, region.epoch, key(n), n);
            handle.propose(proposal, Box::new(move |result| tell(&sender, result)));
        }
        (0..READ_KEYS).try_for_each(|_| {
            receiver.recv_timeout(WAIT)??;
            Ok(())
        })
    }

    /// Reads of single keys, each asked for by itself, on the leader or on a follower.
    pub fn reads(&self, mode: ReadMode, time: Duration) -> Result<Done, Error> {
        self.steadily(|| self.try_reads(mode, time))
    }

    fn try_reads(&self, mode: ReadMode, time: Duration) -> Result<Done, Error> {
        let (leader, _, region) = self.leader(FIRST)?;
        let at = if mode == ReadMode::Follower { (leader + 1) % 3 } else { leader };
        let (handle, engine) = (self.stores[at].handle(), &self.engines[at]);
        let mut n = 0;
        self.closed_loop(time, |answer| {
            n += 1;
            let (engine, key) = (engine.clone(), encode_key(&key(n % READ_KEYS)));
            let take = move |permit: Answer<_>| {
                let found = permit.and_then(|_| read(engine.snapshot().as_ref(), &key));
                tell(&answer, found);
            };
            handle.read(FIRST, region.epoch, mode, Box::new(take));
        })
    }

    /// As a thread that serves requests reads: the snapshot first, then the lease's check. Answers
    /// per second, and how many were not by the lease.
    pub fn local_reads(&self, time: Duration) -> Result<(f64, u64), Error> {
        self.steadily(|| self.try_local_reads(time))
    }

    fn try_local_reads(&self, time: Duration) -> Result<(f64, u64), Error> {
        let (at, handle, region) = self.leader(FIRST)?;
        let keys: Vec<_> = (0..READ_KEYS).map(|n| encode_key(&key(n))).collect();
        let (start, mut done, mut asked) = (self.stopwatch.elapsed(), 0usize, 0);
        loop {
            let key = &keys[done % keys.len()];
            let taken = handle.read_local(FIRST, region.epoch, || self.engines[at].snapshot());
            if let Some((_permit, snapshot)) = taken {
                read(snapshot.as_ref(), key)?;
            } else {
                let (sender, receiver) = channel();
                let answer = Box::new(move |result| tell(&sender, result));
                handle.read(FIRST, region.epoch, ReadMode::Lease, answer);
                let _permit = receiver.recv_timeout(WAIT)??;
                read(self.engines[at].snapshot().as_ref(), key)?;
                asked += 1;
            }
            done += 1;
            let passed = self.stopwatch.elapsed() - start;
            if passed >= time {
                return Ok((done as f64 / passed.as_secs_f64(), asked));
            }
        }
    }

    /// Splits the first region at keys; `false`: not now, its leader or its epoch is another.
    pub fn split(&self, keys: Vec<Vec<u8>>, children: Vec<SplitChild>) -> Result<bool, Error> {
        let (_, handle, region) = self.leader(FIRST)?;
        let (sender, receiver) = channel();
        let done = Box::new(move |result| tell(&sender, result));
        handle.split(FIRST, region.epoch, keys, children, done);
        use damask_raftstore::Error::{Busy, EpochNotMatch, NotLeader};
        match receiver.recv_timeout(WAIT)? {
            Ok(_) => Ok(true),
            Err(EpochNotMatch { .. } | NotLeader { .. } | Busy(_)) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes so many regions of the first, and waits until each has a leader.
    pub fn split_into(&self, regions: u64) -> Result<(), Error> {
        let mut made = 1;
        while made < regions {
            let ids = made..regions.min(made + SPLIT_KEYS);
            let keys = ids.clone().map(|n| format!("x-{n:06}").into_bytes()).collect();
            if self.split(keys, ids.clone().map(|n| child(100 + n)).collect())? {
                made = ids.end;
            }
        }
        (1..regions).try_for_each(|n| self.leader(RegionId(100 + n)).map(drop))
    }

    /// Puts into a region by whoever leads it, again and again until one is acknowledged.
    pub fn put_by_anyone(&self, id: RegionId, at: &[u8]) -> Result<(), Error> {
        self.wait("a put", || {
            self.stores.iter().find_map(|store| {
                let handle = store.handle();
                let status = handle.replica(id).filter(|status| status.is_leader)?;
                let (sender, receiver) = channel();
                let proposal = put(id, status.region.epoch, at.to_vec(), 1);
                handle.propose(proposal, Box::new(move |result| tell(&sender, result)));
                // A leader that is cut off answers no more.
                answered(&receiver)
            })
        })
    }
}

fn answered<T>(receiver: &Receiver<Answer<T>>) -> Option<()> {
    receiver.recv_timeout(Duration::from_millis(200)).ok()?.ok().map(drop)
}

/// Nobody listens any more when a bench has failed.
fn tell<T>(to: &Sender<Answer<T>>, answer: Answer<T>) {
    let _ = to.send(answer);
}

/// What a split makes on its left.
pub fn child(id: u64) -> SplitChild {
    SplitChild { region: RegionId(id), peers: (1..=3).map(|p| PeerId(id * 10 + p)).collect() }
}

fn key(n: u64) -> Vec<u8> {
    format!("key-{n:06}").into_bytes()
}

fn put(region: RegionId, epoch: Epoch, key: Vec<u8>, n: u64) -> Proposal {
    let short_value = Some(vec![7; VALUE_BYTES]);
    let lock = Lock { short_value, ..Lock::new(LockKind::Put, b"p".to_vec(), Timestamp(n), 1) };
    Proposal { region, epoch, term: None, records: vec![Record::Lock { key, lock }] }
}

fn read(snapshot: &dyn Snapshot, key: &[u8]) -> Answer<()> {
    let missing = || damask_raftstore::Error::Invalid("what was written is missing".to_owned());
    snapshot.get(Cf::Lock, key)?.map(drop).ok_or_else(missing)
}
