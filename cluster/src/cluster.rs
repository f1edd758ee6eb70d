//! A whole cluster in one process: placement driver, oracle, row stores, column stores, SQL.
//! Wiring only: what to do is decided in the crates below.

use crate::config::Config;
use crate::network::Network;
use crate::nodes::{self, Content, Error, Memory, Node, Shared};
use crate::placement::{Member, Members, PlacementDriver};
use crate::replicas::Replicas;
use crate::schemas::CatalogSchemas;
use crate::status;
use damask_coprocessor::{Dispatch, Endpoint, Endpoints, ResolveLocks};
use damask_env::{Clock, Disk, RealClock};
use damask_pd::{Locate, Pd, Persist, Placement, RegionCache, SplitIds, StoreInfo, StoreKind};
use damask_raftstore::{ReplicaStatus, SplitChild};
use damask_sql_lite::Doorman;
use damask_sql_lite::protocol::{Server, ServerConfig};
use damask_tso::{BatchingOracle, LocalOracle, Oracle};
use damask_txn::{Client, Service, Services};
use damask_types::{
    Epoch, KeyLock, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, StoreId, Timestamp,
};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Column stores' ids follow the row stores' with a gap, so that more row stores may join.
const FIRST_COLUMN_STORE: u64 = 101;
/// Ids that the first region may use.
const FIRST_IDS: u64 = 10;
/// The file of the placement driver's state.
const PD_STATE: &str = "state";
/// Until the first region has a leader.
const LEADER_WAIT: Duration = Duration::from_secs(30);
/// Until a split that was asked for is applied.
const SPLIT_WAIT: Duration = Duration::from_secs(10);
/// Between two looks for the first region's leader.
const LEADER_POLL: Duration = Duration::from_millis(2);

/// Parts that other parts look things up in.
pub struct Parts {
    /// Placement.
    pub pd: Arc<Pd>,
    /// Stores, for placement and status.
    pub members: Members,
    services: RwLock<HashMap<StoreId, Arc<dyn Service>>>,
    endpoints: RwLock<HashMap<StoreId, Arc<dyn Endpoint>>>,
}

impl Services for Parts {
    fn service(&self, store: StoreId) -> Option<Arc<dyn Service>> {
        self.services.read().get(&store).cloned()
    }
}

impl Endpoints for Parts {
    fn endpoint(&self, store: StoreId) -> Option<Arc<dyn Endpoint>> {
        self.endpoints.read().get(&store).cloned()
    }
}

/// Lets scans get past locks.
struct Resolver(Client);

/// First pause while a lock's transaction is alive; doubles up to [`LOCK_PAUSE_MAX`].
const LOCK_PAUSE_MIN: Duration = Duration::from_millis(1);
/// Longest pause.
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(64);
/// Pauses of one call, about three seconds: a dead transaction's lock has expired by then.
const LOCK_PAUSES_MAX: u32 = 50;

impl ResolveLocks for Resolver {
    fn resolve(&self, locks: Vec<KeyLock>, read_ts: Timestamp) -> Result<(), String> {
        // A scan cannot pass a lock whose transaction was only pushed: it waits for its end.
        let mut pause = LOCK_PAUSE_MIN;
        for _ in 0..LOCK_PAUSES_MAX {
            match self.0.resolve_locks(&locks, read_ts).map_err(|e| e.to_string())? {
                None => return Ok(()),
                Some(wait) => std::thread::park_timeout(wait.max(pause).min(LOCK_PAUSE_MAX)),
            }
            pause = (pause * 2).min(LOCK_PAUSE_MAX);
        }
        Ok(())
    }
}

struct PdFile(Arc<dyn Disk>);

impl Persist for PdFile {
    fn save(&self, bytes: &[u8]) -> Result<(), String> {
        self.0.replace(PD_STATE, bytes).map_err(|e| e.to_string())
    }
}

/// A running cluster. Dropping it stops it.
pub struct Cluster {
    shared: Arc<Shared>,
    parts: Arc<Parts>,
    client: Client,
    schemas: Arc<CatalogSchemas>,
    nodes: HashMap<StoreId, Node>,
    placement: PlacementDriver,
    database: Arc<damask_sql_lite::Database>,
    mysql: Option<Server>,
    status: Option<SocketAddr>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Cluster {
    /// Starts everything; returns when it serves.
    pub fn start(config: Config) -> Result<Cluster, Error> {
        Cluster::start_with_progress(config, |_| {})
    }

    /// The same, telling each step as it is done.
    pub fn start_with_progress(
        config: Config,
        mut progress: impl FnMut(&str),
    ) -> Result<Cluster, Error> {
        config.validate()?;
        let clock: Arc<dyn Clock> = Arc::new(RealClock::default());
        // Taken first: a port in use should not cost a start.
        let status_listener = config.status.map(listen).transpose()?;
        drop(config.mysql.map(listen).transpose()?);
        if let Some(data) = &config.data {
            std::fs::create_dir_all(data).map_err(|e| format!("{}: {e}", data.display()))?;
        }

        let members = Members::default();
        let network = Arc::new(Network::default());
        let pd = Arc::new(open_pd(&config, clock.as_ref())?);
        let placement = PlacementDriver::start(pd.clone(), members.clone());
        let announce = placement.announce();
        let memory = Memory::default();
        let shared =
            Arc::new(Shared { config, clock, network, announce: announce.clone(), memory });
        let oracle = open_oracle(&shared)?;
        progress("placement driver and timestamp oracle");

        let parts = Arc::new(Parts {
            pd: pd.clone(),
            members,
            services: RwLock::default(),
            endpoints: RwLock::default(),
        });
        let locate: Arc<dyn Locate> = Arc::new(RegionCache::new(pd.clone()));
        let client = Client::new(
            oracle,
            locate.clone(),
            parts.clone(),
            shared.clock.clone(),
            damask_txn::Config::default(),
        )?;
        let schemas = Arc::new(CatalogSchemas::new(client.clone()));
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(cores)
            .thread_name("query")
            .enable_all()
            .build()?;
        let dispatch = Arc::new(Dispatch::new(
            locate,
            parts.clone(),
            Arc::new(Resolver(client.clone())),
            shared.clock.clone(),
        ));
        let replicas = Arc::new(Replicas {
            pd: pd.clone(),
            announce,
            stores: shared.config.columns as u32,
            complete: Mutex::default(),
        });

        for id in row_stores(&shared.config) {
            register(&pd, id, StoreKind::Row)?;
        }
        let first = first_region(&pd, shared.config.stores)?;
        let mut nodes = HashMap::new();
        // The first voter asks for votes as soon as it runs: the others run before it.
        for id in row_stores(&shared.config).rev() {
            let node = nodes::start_rows(&shared, id, Some(first.clone()))?;
            attach(&parts, &node);
            nodes.insert(id, node);
            progress(&format!("row store {id}"));
        }
        wait_for_leader(&pd, shared.clock.as_ref())?;
        for id in column_stores(&shared.config) {
            register(&pd, id, StoreKind::Column)?;
            let node = nodes::start_columns(&shared, id, schemas.clone())?;
            attach(&parts, &node);
            nodes.insert(id, node);
            progress(&format!("column store {id}"));
        }

        let database = damask_sql_lite::Database::open(damask_sql_lite::Services {
            client: client.clone(),
            dispatch,
            replicas: replicas.clone(),
            facts: replicas,
            runtime: runtime.handle().clone(),
            clock: shared.clock.clone(),
            cores,
        })?;
        progress("SQL");
        let mysql = match shared.config.mysql {
            Some(addr) => {
                let mut server = ServerConfig::at(addr);
                server.connections_max = shared.config.connections_max;
                Some(Server::start(server, Arc::new(Doorman(database.clone())))?)
            }
            None => None,
        };
        let status = match status_listener {
            Some(listener) => Some(serve_status(&runtime, listener, parts.clone())?),
            None => None,
        };
        Ok(Cluster {
            shared,
            parts,
            client,
            schemas,
            nodes,
            placement,
            database,
            mysql,
            status,
            runtime: Some(runtime),
        })
    }

    /// Where MySQL clients connect.
    pub fn mysql_addr(&self) -> Option<SocketAddr> {
        self.mysql.as_ref().map(|server| server.addr())
    }

    /// Where status is served.
    pub fn status_addr(&self) -> Option<SocketAddr> {
        self.status
    }

    /// The SQL layer, to open sessions without a network.
    pub fn database(&self) -> &Arc<damask_sql_lite::Database> {
        &self.database
    }

    /// A transaction client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The placement driver.
    pub fn pd(&self) -> &Arc<Pd> {
        &self.parts.pd
    }

    /// The network, to cut stores off.
    pub fn network(&self) -> &Arc<Network> {
        &self.shared.network
    }

    /// What a running store keeps.
    pub fn content(&self, id: StoreId) -> Option<Content> {
        self.nodes.get(&id).map(|node| node.content.clone())
    }

    /// What a running store says of its replicas.
    pub fn replicas(&self, id: StoreId) -> Vec<ReplicaStatus> {
        self.nodes.get(&id).map_or_else(Vec::new, |node| node.member.handle.replicas())
    }

    /// Splits the region that holds `key` there, as the placement driver asks for.
    ///
    /// # Errors
    /// If the region has changed, has no leader now, or starts with the key.
    pub fn split(&self, key: &[u8]) -> Result<(), Error> {
        let route = self.pd().route(key).ok_or("the key's region is not known")?;
        let leader = route.leader.ok_or("the region has no leader")?;
        let node = self.nodes.get(&leader.store).ok_or("the leader's store has stopped")?;
        let ids = self.pd().ask_split(&route.region, 1)?;
        let child = |ids: SplitIds| SplitChild { region: ids.region, peers: ids.peers };
        let children = ids.into_iter().map(child).collect();
        let (sender, answer) = crossbeam_channel::bounded(1);
        let done = Box::new(move |result: damask_raftstore::Result<Vec<Region>>| {
            sender.send(result).ok();
        });
        let (region, epoch) = (route.region.id, route.region.epoch);
        node.member.handle.split(region, epoch, vec![key.to_vec()], children, done);
        answer.recv_timeout(SPLIT_WAIT).map_err(|_| "the split was not answered")??;
        Ok(())
    }

    /// Stops one store, as if its process had ended; `start_store` brings it back.
    pub fn stop_store(&mut self, id: StoreId) {
        self.parts.members.write().remove(&id);
        self.parts.services.write().remove(&id);
        self.parts.endpoints.write().remove(&id);
        if let Some(mut node) = self.nodes.remove(&id) {
            node.stop();
        }
    }

    /// Starts a stopped store again, with its data.
    pub fn start_store(&mut self, id: StoreId) -> Result<(), Error> {
        let node = if id.0 >= FIRST_COLUMN_STORE {
            nodes::start_columns(&self.shared, id, self.schemas.clone())?
        } else {
            nodes::start_rows(&self.shared, id, None)?
        };
        attach(&self.parts, &node);
        self.nodes.insert(id, node);
        Ok(())
    }

    /// Stops everything, clients first.
    pub fn stop(&mut self) {
        if let Some(mysql) = self.mysql.take() {
            mysql.stop();
        }
        self.database.stop();
        self.client.flush();
        self.schemas.stop();
        self.placement.stop();
        // Columns first: they lean on the rows.
        let mut ids: Vec<_> = self.nodes.keys().copied().collect();
        ids.sort_by_key(|id| std::cmp::Reverse(id.0));
        for id in ids {
            self.stop_store(id);
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

fn row_stores(config: &Config) -> impl DoubleEndedIterator<Item = StoreId> + use<> {
    (1..=config.stores as u64).map(StoreId)
}

fn column_stores(config: &Config) -> impl Iterator<Item = StoreId> + use<> {
    (FIRST_COLUMN_STORE..FIRST_COLUMN_STORE + config.columns as u64).map(StoreId)
}

fn listen(addr: SocketAddr) -> Result<std::net::TcpListener, Error> {
    std::net::TcpListener::bind(addr).map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "port {} of {} is in use: choose another, or stop what uses it",
            addr.port(),
            addr.ip()
        )
        .into(),
        _ => format!("cannot listen on {addr}: {e}").into(),
    })
}

fn open_pd(config: &Config, clock: &dyn Clock) -> Result<Pd, Error> {
    let disk: Arc<dyn Disk> = match &config.data {
        Some(data) => Arc::new(damask_env::RealDisk::open(data.join("pd"))?),
        None => Arc::new(damask_env::MemoryDisk::new()),
    };
    let saved = match disk.map(PD_STATE) {
        Ok(content) => Some(content.to_vec()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(e.into()),
    };
    let planner = damask_pd::Config {
        region_bytes_max: config.raft.region_bytes_max,
        voters: if config.stores >= 3 { 3 } else { 1 },
        ..Default::default()
    };
    // Any number will do that differs from other clusters'.
    let cluster_id = clock.wall_ms();
    Ok(Pd::open(planner, cluster_id, saved.as_deref(), Box::new(PdFile(disk)))?)
}

fn open_oracle(shared: &Shared) -> Result<Arc<dyn Oracle>, Error> {
    let disk = shared.disk("pd")?;
    let local = LocalOracle::open(shared.clock.clone(), disk, "timestamp")?;
    Ok(Arc::new(BatchingOracle::new(Arc::new(local))))
}

/// The region that holds every key at first. Its ids are fixed, so that every store, whenever it
/// starts, makes the same one if it is empty.
fn first_region(pd: &Pd, stores: usize) -> Result<Region, Error> {
    let voters = if stores >= 3 { 3 } else { 1 };
    let peers =
        (1..=voters).map(|n| Peer { id: PeerId(n), store: StoreId(n), role: PeerRole::Voter });
    let region = Region {
        id: RegionId(1),
        range: KeyRange::all(),
        epoch: Epoch { conf_ver: 1, version: 1 },
        peers: peers.collect(),
    };
    if !pd.is_bootstrapped() {
        // Taken from the driver, so that nobody else ever gets the ids used here.
        pd.alloc_ids(FIRST_IDS)?;
        pd.bootstrap(&region)?;
    }
    Ok(region)
}

fn register(pd: &Pd, id: StoreId, kind: StoreKind) -> Result<(), Error> {
    Ok(pd.register_store(StoreInfo { id, kind, address: format!("in-process-{id}") })?)
}

fn attach(parts: &Parts, node: &Node) {
    let member: Member = node.member.clone();
    parts.members.write().insert(node.id, member);
    parts.endpoints.write().insert(node.id, node.endpoint.clone());
    if let Some(service) = &node.service {
        parts.services.write().insert(node.id, service.clone());
    }
}

fn wait_for_leader(pd: &Pd, clock: &dyn Clock) -> Result<(), Error> {
    let deadline = clock.monotonic() + LEADER_WAIT;
    while clock.monotonic() < deadline {
        if pd.route(b"m").is_some_and(|route| route.leader.is_some()) {
            return Ok(());
        }
        std::thread::park_timeout(LEADER_POLL);
    }
    Err("the first region has no leader: too few of its row stores run".into())
}

fn serve_status(
    runtime: &tokio::runtime::Runtime,
    listener: std::net::TcpListener,
    parts: Arc<Parts>,
) -> Result<SocketAddr, Error> {
    let addr = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let _guard = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    runtime.spawn(async move {
        if let Err(e) = axum::serve(listener, status::router(parts)).await {
            tracing::error!("status server: {e}");
        }
    });
    Ok(addr)
}
