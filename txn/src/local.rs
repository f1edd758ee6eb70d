//! A cluster without replication in one process: the plain twin of routing, stores and regions,
//! for tests and as a floor in benches. It must never be used for data that has to last.

use crate::client::Client;
use crate::config::Config;
use crate::error::Result;
use crate::region::Services;
use crate::replica::LocalReplica;
use crate::request::Service;
use crate::resolved::Advance;
use crate::server::TxnServer;
use crate::waits::Wait;
use damask_env::{Clock, RealClock};
use damask_kv::{Engine, GcSafePoint};
use damask_pd::{Locate, Route};
use damask_tso::{MemoryOracle, Oracle};
use damask_types::{Epoch, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, StoreId, Timestamp};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The only store.
const STORE: StoreId = StoreId(1);
/// Its peers.
const PEER: Peer = Peer { id: PeerId(1), store: STORE, role: PeerRole::Voter };

/// Regions over one engine, and everything that a [`Client`] needs to find them. It locates from
/// a cache that goes stale when a region is split, as a client's does.
pub struct LocalCluster {
    engine: Arc<dyn Engine>,
    replica: Arc<LocalReplica>,
    /// Of the store's present life.
    server: RwLock<Arc<TxnServer>>,
    oracle: Arc<MemoryOracle>,
    safe_point: GcSafePoint,
    /// By start key.
    cache: RwLock<BTreeMap<Vec<u8>, Region>>,
    next_region: AtomicU64,
}

impl LocalCluster {
    /// One region over `engine`, which must be empty or hold what such a cluster wrote.
    pub fn new(engine: Arc<dyn Engine>) -> Arc<LocalCluster> {
        let replica = Arc::new(LocalReplica::new(Arc::clone(&engine)));
        let epoch = Epoch { conf_ver: 1, version: 1 };
        let region = Region { id: RegionId(1), range: KeyRange::all(), epoch, peers: vec![PEER] };
        replica.host(region, 1);
        let now = Timestamp::compose(RealClock::default().wall_ms(), 0);
        let oracle = Arc::new(MemoryOracle::new(now.0));
        let safe_point = GcSafePoint::new();
        let server = serve(&replica, &engine, &oracle, &safe_point);
        Arc::new(LocalCluster {
            engine,
            replica,
            server: RwLock::new(server),
            oracle,
            safe_point,
            cache: RwLock::default(),
            next_region: AtomicU64::new(2),
        })
    }

    /// The store dies and starts again: what was applied is there, what it had in memory alone
    /// (latches, who waits for whom, up to where was read) is gone. Calls to it that have not
    /// decided yet are answered `Stopped`.
    pub fn restart(&self) {
        let server = serve(&self.replica, &self.engine, &self.oracle, &self.safe_point);
        *self.server.write() = server;
    }

    /// One round of its store's safe timestamps.
    ///
    /// # Errors
    /// As [`TxnServer::advance`].
    pub fn advance(&self) -> damask_raftstore::Result<Advance> {
        let server = Arc::clone(&*self.server.read());
        server.advance()
    }

    /// The store's server, in its present life.
    pub fn server(&self) -> Arc<TxnServer> {
        Arc::clone(&*self.server.read())
    }

    /// Who waits at the store for whose lock.
    pub fn lock_waits(&self) -> Vec<Wait> {
        self.server.read().lock_waits()
    }

    /// Splits the region that holds `key` there; clients find out by themselves.
    pub fn split(&self, key: &[u8]) {
        let regions = self.replica.regions();
        if let Some(region) = regions.iter().find(|region| region.range.contains(key)) {
            let left = RegionId(self.next_region.fetch_add(1, Ordering::SeqCst));
            self.replica.split(region.id, key, left);
        }
    }

    /// A client of it.
    pub fn client(self: &Arc<LocalCluster>) -> Client {
        self.client_with(Arc::clone(self) as Arc<dyn Services>, Config::default())
            .expect("the default configuration is valid")
    }

    /// A client that reaches the store through `services`.
    pub fn client_with(
        self: &Arc<LocalCluster>,
        services: Arc<dyn Services>,
        config: Config,
    ) -> Result<Client> {
        let (oracle, locate) = (self.oracle(), Arc::clone(self) as Arc<dyn Locate>);
        Client::new(oracle, locate, services, Arc::new(RealClock::default()), config)
    }

    /// Its oracle; time passes only as far as it is told (and one tick a timestamp).
    pub fn oracle(&self) -> Arc<MemoryOracle> {
        Arc::clone(&self.oracle)
    }

    /// Lets `ms` milliseconds pass for locks.
    pub fn pass_ms(&self, ms: u64) {
        let now = self.oracle.get(1).expect("a counter").physical_ms();
        self.oracle.advance_to(Timestamp::compose(now + ms, 0));
    }

    /// What its store refuses to read below; to be published to by a [`crate::Gc`].
    pub fn safe_point(&self) -> GcSafePoint {
        self.safe_point.clone()
    }

    /// What it writes to.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Its regions.
    pub fn replica(&self) -> &Arc<LocalReplica> {
        &self.replica
    }

    fn refresh(&self) {
        let mut cache = self.cache.write();
        cache.clear();
        let regions = self.replica.regions().into_iter();
        cache.extend(regions.map(|region| (region.range.start.clone(), region)));
    }

    fn cached(&self, key: &[u8]) -> Option<Route> {
        let cache = self.cache.read();
        let below = (Bound::Unbounded, Bound::Included(key));
        let (_, region) = cache.range::<[u8], _>(below).next_back()?;
        let inside = region.range.contains(key);
        inside.then(|| Route { region: region.clone(), leader: Some(PEER) })
    }
}

/// A server on a new life of the replica.
fn serve(
    replica: &Arc<LocalReplica>,
    engine: &Arc<dyn Engine>,
    oracle: &Arc<MemoryOracle>,
    safe_point: &GcSafePoint,
) -> Arc<TxnServer> {
    let server = TxnServer::new(replica.begin_life(), Arc::clone(engine))
        .with_oracle(Arc::clone(oracle) as Arc<dyn Oracle>)
        .with_safe_point(safe_point.clone());
    Arc::new(server)
}

impl Services for LocalCluster {
    fn service(&self, store: StoreId) -> Option<Arc<dyn Service>> {
        (store == STORE).then(|| Arc::clone(&*self.server.read()) as Arc<dyn Service>)
    }
}

impl Locate for LocalCluster {
    fn locate(&self, key: &[u8]) -> Option<Route> {
        self.cached(key).or_else(|| {
            self.refresh();
            self.cached(key)
        })
    }

    fn locate_range(&self, range: &KeyRange) -> Vec<Route> {
        let mut routes: Vec<Route> = Vec::new();
        let mut key = range.start.clone();
        // Ends: each region ends after `key`.
        while let Some(route) = self.locate(&key) {
            key.clone_from(&route.region.range.end);
            routes.push(route);
            if key.is_empty() || (!range.end.is_empty() && key >= range.end) {
                break;
            }
        }
        routes
    }

    fn update(&self, _: Vec<Region>) {
        self.refresh();
    }

    fn set_leader(&self, _: RegionId, _: Option<Peer>) {}

    fn invalidate(&self, _: RegionId) {
        self.refresh();
    }
}
