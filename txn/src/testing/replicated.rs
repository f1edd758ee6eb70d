//! A replicated cluster of one region in one process: stores with their logs, transaction servers,
//! and all that a [`Client`] needs to find them. For tests that stop leaders and for measurements.
//! It must never wait for a fixed time, nor hide an error of a store.

use crate::client::Client;
use crate::config::Config;
use crate::error::Result;
use crate::region::Services;
use crate::request::Service;
use crate::server::TxnServer;
use damask_env::{Clock, Disk, RealClock};
use damask_kv::Engine;
use damask_pd::{Locate, Route};
use damask_raftstore::testing::LocalNetwork;
use damask_raftstore::{FileLogConfig, FileLogStore, RowMachine, Store, StoreHandle, StoreOptions};
use damask_tso::{MemoryOracle, Oracle};
use damask_types::{Epoch, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, StoreId, Timestamp};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The only region.
const REGION: RegionId = RegionId(1);
/// An election takes longer than any test waits for anything else.
const ELECTION_WAIT: Duration = Duration::from_secs(60);

/// What a store keeps over a restart.
pub struct Parts {
    /// Its log's disk.
    pub disk: Arc<dyn Disk>,
    /// Its rows.
    pub engine: Arc<dyn Engine>,
}

/// Opens what a store keeps; called at each of its starts.
pub type Open = Box<dyn Fn(StoreId) -> Parts + Send + Sync>;

/// A running store.
struct Node {
    store: Store,
    server: Arc<TxnServer>,
    engine: Arc<dyn Engine>,
}

/// The cluster. Dropping it stops every store.
pub struct Replicated {
    network: LocalNetwork,
    region: Region,
    open: Open,
    nodes: RwLock<BTreeMap<StoreId, Node>>,
    oracle: Arc<MemoryOracle>,
    clock: Arc<dyn Clock>,
    tick: Duration,
    leader: Mutex<Option<Peer>>,
}

impl Replicated {
    /// Starts stores 1 to `stores`; one tick of theirs is a tenth of the shortest election.
    pub fn start(stores: u64, tick: Duration, open: Open) -> Arc<Replicated> {
        let peer = |n| Peer { id: PeerId(n + 100), store: StoreId(n), role: PeerRole::Voter };
        let peers = (1..=stores).map(peer).collect();
        let epoch = Epoch { conf_ver: 1, version: 1 };
        let clock: Arc<dyn Clock> = Arc::new(RealClock::default());
        let now = Timestamp::compose(clock.wall_ms(), 0);
        let cluster = Arc::new(Replicated {
            network: LocalNetwork::new(),
            region: Region { id: REGION, range: KeyRange::all(), epoch, peers },
            open,
            nodes: RwLock::default(),
            oracle: Arc::new(MemoryOracle::new(now.0)),
            clock,
            tick,
            leader: Mutex::default(),
        });
        (1..=stores).for_each(|n| cluster.restart(StoreId(n), true));
        cluster
    }

    /// Starts a store on what it kept; `first`: on nothing.
    pub fn restart(&self, id: StoreId, first: bool) {
        let Parts { disk, engine } = (self.open)(id);
        let log = FileLogStore::open(disk, "raft", FileLogConfig::default()).expect("a log");
        let machine = RowMachine::new(Arc::clone(&engine));
        let mut options = StoreOptions::new(id);
        options.config.tick = self.tick;
        options.bootstrap = first.then(|| self.region.clone());
        let network = Arc::new(self.network.clone());
        let (log, machine) = (Arc::new(log), Arc::new(machine));
        let store = Store::start(options, log, machine, network, Arc::clone(&self.clock));
        let store = store.expect("the store starts");
        let server = TxnServer::new(store.handle(), Arc::clone(&engine))
            .with_oracle(Arc::clone(&self.oracle) as Arc<dyn Oracle>)
            .with_clock(Arc::clone(&self.clock));
        self.network.connect(store.handle());
        self.network.rejoin(id);
        let node = Node { store, server: Arc::new(server), engine };
        self.nodes.write().insert(id, node);
    }

    /// Cuts a store off: nothing that it says is heard, and nobody reaches it.
    pub fn cut_off(&self, id: StoreId) {
        self.network.isolate(id);
    }

    /// Stops a store; calls to it fail from here on, and those that wait are answered.
    pub fn stop(&self, id: StoreId) {
        self.network.disconnect(id);
        let node = self.nodes.write().remove(&id);
        drop(node);
    }

    /// The stores that run.
    pub fn running(&self) -> Vec<StoreId> {
        self.nodes.read().keys().copied().collect()
    }

    /// Waits until there is a leader.
    ///
    /// # Panics
    /// If there is none for a minute.
    pub fn leader(&self) -> StoreId {
        let deadline = self.clock.monotonic() + ELECTION_WAIT;
        loop {
            let leads = |handle: StoreHandle| {
                let status = handle.replica(REGION)?;
                (status.is_leader && status.applied.term == status.term).then_some(status.term)
            };
            let nodes = self.nodes.read();
            let leaders = nodes.iter().filter_map(|(id, n)| Some((leads(n.store.handle())?, *id)));
            if let Some((_, id)) = leaders.max() {
                return id;
            }
            drop(nodes);
            assert!(self.clock.monotonic() < deadline, "nobody leads");
            std::thread::yield_now();
        }
    }

    /// A store's transaction server.
    pub fn server(&self, id: StoreId) -> Option<Arc<TxnServer>> {
        self.nodes.read().get(&id).map(|node| Arc::clone(&node.server))
    }

    /// The way between the stores.
    pub fn network(&self) -> &LocalNetwork {
        &self.network
    }

    /// A store's handle.
    pub fn handle(&self, id: StoreId) -> Option<StoreHandle> {
        self.nodes.read().get(&id).map(|node| node.store.handle())
    }

    /// What a store writes to.
    pub fn engine(&self, id: StoreId) -> Option<Arc<dyn Engine>> {
        self.nodes.read().get(&id).map(|node| Arc::clone(&node.engine))
    }

    /// Its oracle; time passes only as far as it is told (and one tick a timestamp).
    pub fn oracle(&self) -> Arc<MemoryOracle> {
        Arc::clone(&self.oracle)
    }

    /// A client of it.
    pub fn client(self: &Arc<Replicated>, config: Config) -> Result<Client> {
        let (oracle, locate) = (self.oracle(), Arc::clone(self) as Arc<dyn Locate>);
        let services = Arc::clone(self) as Arc<dyn Services>;
        Client::new(oracle, locate, services, Arc::clone(&self.clock), config)
    }
}

impl Services for Replicated {
    fn service(&self, store: StoreId) -> Option<Arc<dyn Service>> {
        let nodes = self.nodes.read();
        nodes.get(&store).map(|node| Arc::clone(&node.server) as Arc<dyn Service>)
    }
}

impl Locate for Replicated {
    fn locate(&self, _: &[u8]) -> Option<Route> {
        Some(Route { region: self.region.clone(), leader: *self.leader.lock() })
    }

    fn locate_range(&self, range: &KeyRange) -> Vec<Route> {
        self.locate(&range.start).into_iter().collect()
    }

    fn update(&self, _: Vec<Region>) {}

    fn set_leader(&self, _: RegionId, leader: Option<Peer>) {
        *self.leader.lock() = leader;
    }

    fn invalidate(&self, _: RegionId) {}
}
