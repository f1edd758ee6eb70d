//! Stores in one process over memory disks and memory engines, a network between them that loses
//! what a test says, and requests that are asked again until they are answered. It must never wait
//! for a fixed time.

use damask_env::{MemoryDisk, RealClock};
use damask_kv::{Cf, Engine, MemoryEngine};
use damask_raftstore::testing::LocalNetwork;
use damask_raftstore::*;
use damask_types::codec::encode_key;
use damask_types::{
    Epoch, KeyRange, Lock, LockKind, Peer, PeerId, PeerRole, Record, Region, RegionId, StoreId,
    Timestamp,
};
use std::collections::BTreeMap;
use std::result::Result;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

pub const DEADLINE: Duration = Duration::from_secs(60);
pub const FIRST: RegionId = RegionId(1);

pub struct Node {
    pub disk: MemoryDisk,
    pub engine: MemoryEngine,
    /// While it is held, nothing is applied.
    pub gate: Arc<Mutex<()>>,
    pub store: Option<Store>,
}

/// The rows of a store, behind its gate.
struct Gated {
    rows: RowMachine,
    gate: Arc<Mutex<()>>,
}

impl StateMachine for Gated {
    fn recover(&self) -> Result<Vec<RegionState>, Error> {
        self.rows.recover()
    }
    fn apply(&self, batches: Vec<ApplyBatch>) -> Result<(), Error> {
        drop(self.gate.lock().unwrap());
        self.rows.apply(batches)
    }
    fn sync(&self) -> Result<Vec<(RegionId, u64)>, Error> {
        self.rows.sync()
    }
    fn export(&self, region: &Region) -> Result<SnapshotChunks, Error> {
        self.rows.export(region)
    }
    fn source(&self, region: &Region) -> Result<Arc<dyn SnapshotSource>, Error> {
        self.rows.source(region)
    }
    fn import(
        &self,
        state: &RegionState,
        replaced: &[RegionState],
        chunks: SnapshotChunks,
    ) -> Result<(), Error> {
        self.rows.import(state, replaced, chunks)
    }
    fn import_staged(
        &self,
        state: &RegionState,
        replaced: &[RegionState],
        chunks: &mut dyn Iterator<Item = Result<Vec<u8>, Error>>,
        kept: bool,
    ) -> Result<(), Error> {
        self.rows.import_staged(state, replaced, chunks, kept)
    }
    fn unfinished(&self) -> Result<Option<Unfinished>, Error> {
        self.rows.unfinished()
    }
    fn destroy(&self, state: &RegionState) -> Result<(), Error> {
        self.rows.destroy(state)
    }
    fn size(&self, range: &KeyRange, parts: usize) -> Result<RangeSize, Error> {
        self.rows.size(range, parts)
    }
}

pub struct Cluster {
    pub network: LocalNetwork,
    pub nodes: BTreeMap<u64, Node>,
    bootstrap: Region,
    config: StoreConfig,
}

pub fn peer(id: u64, store: u64) -> Peer {
    Peer { id: PeerId(id), store: StoreId(store), role: PeerRole::Voter }
}

pub fn value(key: &str, n: u64) -> Record {
    let lock = Lock::new(LockKind::Put, n.to_string().into_bytes(), Timestamp(n + 1), 1);
    Record::Lock { key: key.as_bytes().to_vec(), lock }
}

#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}

/// Asks until there is an answer, or the deadline.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "timed out: {what}");
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

impl Cluster {
    /// With quick elections, for tests in which leaders change: any store may lead at any time.
    pub fn new(stores: u64) -> Cluster {
        Cluster::ticking(stores, 50)
    }

    /// Whoever leads goes on to lead: a busy machine does not delay its words for seconds.
    pub fn calm(stores: u64) -> Cluster {
        Cluster::ticking(stores, 500)
    }

    pub fn ticking(stores: u64, tick_ms: u64) -> Cluster {
        let tick = Duration::from_millis(tick_ms);
        Cluster::with(stores, StoreConfig { tick, ..StoreConfig::default() })
    }

    pub fn with(stores: u64, mut config: StoreConfig) -> Cluster {
        let peers = (1..=stores).map(|s| peer(s + 10, s)).collect();
        let epoch = Epoch { conf_ver: 1, version: 1 };
        let bootstrap = Region { id: FIRST, range: KeyRange::all(), epoch, peers };
        config.core.compact_ticks = 5;
        config.core.log_keep_entries = 3;
        config.core.snapshot_chunk_bytes = 200;
        config.core.hibernate_regions = true;
        let mut cluster =
            Cluster { network: LocalNetwork::new(), nodes: BTreeMap::new(), bootstrap, config };
        // The first one campaigns when it starts, and the others hear it.
        (1..=stores).rev().for_each(|s| cluster.add(s, true));
        cluster
    }

    pub fn add(&mut self, id: u64, bootstrap: bool) {
        let (disk, engine) = (MemoryDisk::new(), MemoryEngine::with_crashes());
        let gate = Arc::default();
        self.nodes.insert(id, Node { disk, engine, gate, store: None });
        self.start(id, bootstrap);
    }

    pub fn start(&mut self, id: u64, bootstrap: bool) {
        let node = self.nodes.get_mut(&id).unwrap();
        let config = FileLogConfig { segment_bytes: 64 << 10, ..FileLogConfig::default() };
        let log = FileLogStore::open(Arc::new(node.disk.clone()), "raft", config).unwrap();
        let rows = RowMachine::new(Arc::new(node.engine.clone()));
        let machine = Gated { rows, gate: node.gate.clone() };
        let mut options = StoreOptions::new(StoreId(id));
        options.config = self.config.clone();
        options.staging = Some(Arc::new(node.disk.clone()));
        options.bootstrap = bootstrap.then(|| self.bootstrap.clone());
        let network = self.network.clone();
        options.on_open = Some(Box::new(move |handle| network.connect(handle)));
        self.network.rejoin(StoreId(id));
        let store = Store::start(
            options,
            Arc::new(log),
            Arc::new(machine),
            Arc::new(self.network.clone()),
            Arc::new(RealClock::default()),
        );
        node.store = Some(store.unwrap());
    }

    pub fn stop(&mut self, id: u64) {
        self.network.disconnect(StoreId(id));
        self.nodes.get_mut(&id).unwrap().store.take().unwrap().stop().unwrap();
    }

    /// A power cut: of log and engine only what was synced is left, and a little more.
    pub fn crash(&mut self, id: u64, keep: usize) {
        // Nothing that it says after its image was taken may be heard.
        self.network.isolate(StoreId(id));
        let node = self.nodes.get_mut(&id).unwrap();
        // The machine's image is taken first: it never may be ahead of the log.
        let engine = node.engine.crash(node.engine.unsynced() * keep / 4).unwrap();
        let disk = node.disk.crash_image(|n| n * keep / 4);
        drop(node.store.take());
        *node = Node { disk, engine, gate: node.gate.clone(), store: None };
        self.start(id, false);
    }

    pub fn handle(&self, id: u64) -> StoreHandle {
        self.nodes[&id].store.as_ref().unwrap().handle()
    }

    pub fn leader_among(&self, region: RegionId, stores: &[u64]) -> (u64, Region) {
        eventually("a leader", || {
            let lead = |id: &&u64| {
                let store = self.nodes[id].store.as_ref()?;
                let status = store.handle().replica(region).filter(|s| s.is_leader)?;
                Some((**id, status.term, status.region))
            };
            let all = stores.iter().filter_map(|id| lead(&id));
            all.max_by_key(|(_, term, _)| *term).map(|(id, _, region)| (id, region))
        })
    }

    pub fn leader(&self, region: RegionId) -> (u64, Region) {
        let all: Vec<u64> = self.nodes.keys().copied().collect();
        self.leader_among(region, &all)
    }

    pub fn propose_at(
        &self,
        id: u64,
        region: &Region,
        records: Vec<Record>,
    ) -> Result<Applied, Error> {
        let (sender, receiver) = mpsc::channel();
        let proposal = Proposal { region: region.id, epoch: region.epoch, term: None, records };
        let done = Box::new(move |result| drop(sender.send(result)));
        self.handle(id).propose(proposal, done);
        receiver.recv_timeout(DEADLINE).expect("an answer")
    }

    /// Writes through whoever leads, until it works.
    pub fn write(&self, region: RegionId, key: &str, n: u64) {
        eventually("a write", || {
            let (id, description) = self.leader(region);
            match self.propose_at(id, &description, vec![value(key, n)]) {
                Ok(_) => Some(()),
                Err(e) if e.kind() == damask_types::ErrorKind::Invalid => panic!("{e}"),
                Err(_) => None,
            }
        });
    }

    pub fn read_at(&self, id: u64, region: &Region) -> Result<ReadPermit, Error> {
        let (sender, receiver) = mpsc::channel();
        let done = Box::new(move |result| drop(sender.send(result)));
        self.handle(id).read_index(region.id, region.epoch, done);
        receiver.recv_timeout(DEADLINE).expect("an answer")
    }

    /// Reads through whoever of these leads, until it works.
    pub fn read_leader(&self, region: RegionId, stores: &[u64]) -> (u64, ReadPermit) {
        eventually("a leader that is read", || {
            let (id, description) = self.leader_among(region, stores);
            Some((id, self.read_at(id, &description).ok()?))
        })
    }

    pub fn get(&self, id: u64, key: &str) -> Option<u64> {
        let snapshot = self.nodes[&id].engine.snapshot();
        let bytes = snapshot.get(Cf::Lock, &encode_key(key.as_bytes())).unwrap()?;
        let primary = Lock::decode(&bytes).unwrap().primary;
        Some(String::from_utf8(primary).unwrap().parse().unwrap())
    }

    pub fn wait_for(&self, id: u64, key: &str, n: u64) {
        eventually(&format!("{key} = {n} on store {id}"), || {
            assert!(self.handle(id).failed().is_none(), "{:?}", self.handle(id).failed());
            (self.get(id, key) == Some(n)).then_some(())
        });
    }

    pub fn change(&self, region: RegionId, change: PeerChange) -> Region {
        eventually("a change of replicas", || {
            let (id, description) = self.leader(region);
            let (sender, receiver) = mpsc::channel();
            let done = Box::new(move |result| drop(sender.send(result)));
            self.handle(id).change_peer(region, description.epoch, change, done);
            receiver.recv_timeout(DEADLINE).expect("an answer").ok()
        })
    }

    /// Asked again until the leader takes it; done when the joint configuration is left.
    pub fn change_all(&self, region: RegionId, changes: &[PeerChange]) -> Region {
        let begun = eventually("a change of several replicas", || {
            let (id, description) = self.leader(region);
            let (sender, receiver) = mpsc::channel();
            let done = Box::new(move |result| drop(sender.send(result)));
            let changes = changes.to_vec();
            self.handle(id).change_peers(region, description.epoch, changes, done);
            receiver.recv_timeout(DEADLINE).expect("an answer").ok()
        });
        eventually("a configuration that is not joint", || {
            let (_, description) = self.leader(region);
            let later = description.epoch.conf_ver > begun.epoch.conf_ver;
            (later && !description.is_joint()).then_some(description)
        })
    }

    pub fn split(&self, region: RegionId, key: &str, child: SplitChild) -> Vec<Region> {
        eventually("a split", || {
            let (id, description) = self.leader(region);
            let (sender, receiver) = mpsc::channel();
            let done = Box::new(move |result| drop(sender.send(result)));
            let keys = vec![key.as_bytes().to_vec()];
            let children = vec![child.clone()];
            self.handle(id).split(region, description.epoch, keys, children, done);
            receiver.recv_timeout(DEADLINE).expect("an answer").ok()
        })
    }
}

pub fn child() -> SplitChild {
    SplitChild { region: RegionId(2), peers: vec![PeerId(21), PeerId(22), PeerId(23)] }
}
