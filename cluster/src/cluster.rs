//! A whole cluster in one process: placement driver, oracle, row stores, column stores, SQL.
//! Wiring only: it must never decide what the crates below decide.

use crate::collector;
use crate::config::Config;
use crate::network::Network;
use crate::nodes::{self, Content, Error, Memory, Shared, Transactions};
use crate::pd_group::{self, MemberStatus, PdGroup};
use crate::placement::{Members, Reporter};
use crate::quarantine::Ward;
use crate::replicas::Replicas;
use crate::resolved;
use crate::schemas::CatalogSchemas;
use crate::space::{self, Room};
use crate::status;
use crate::stores::Stores;
use crate::topology;
use damask_coprocessor::{Dispatch, Endpoint, Endpoints, ResolveLocks};
use damask_env::{Clock, Closing, MemoryDisk, RealClock, Task};
use damask_pd::{Locate, Placement, RegionCache, SplitIds};
use damask_raftstore::{ReplicaStatus, SplitChild};
use damask_sql_lite::Doorman;
use damask_sql_lite::protocol::{Server, ServerConfig};
use damask_tso::{BatchingOracle, LocalOracle, Oracle};
use damask_txn::{Client, Service, Services};
use damask_types::{KeyLock, Region, StoreId, Timestamp};
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, TryLockError};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Locked by the process that uses a data folder.
const LOCK_FILE: &str = "lock";
/// Threads for work that blocks: what tokio has by itself.
const BLOCKING_MIN: usize = 512;
/// Until a split that was asked for is applied.
const SPLIT_WAIT: Duration = Duration::from_secs(10);

/// Parts that other parts look things up in.
pub struct Parts {
    /// Placement.
    pub pd: Arc<dyn Placement>,
    /// Its members, if it is a group.
    pub group: Option<Arc<PdGroup>>,
    /// Stores, for placement and status.
    pub members: Members,
    /// Stores that could not be started with the others, and why.
    pub down: RwLock<BTreeMap<StoreId, String>>,
    /// Is there room on the disk?
    pub(crate) room: Arc<Room>,
    pub(crate) services: RwLock<HashMap<StoreId, Arc<dyn Service>>>,
    pub(crate) endpoints: RwLock<HashMap<StoreId, Arc<dyn Endpoint>>>,
}

impl Parts {
    /// The placement driver's members.
    pub fn pd_members(&self) -> Vec<MemberStatus> {
        self.group.as_ref().map_or_else(|| vec![pd_group::alone()], |group| group.members())
    }
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
struct Resolver {
    client: Client,
    closing: Arc<Closing>,
}

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
            match self.client.resolve_locks(&locks, read_ts).map_err(|e| e.to_string())? {
                None => return Ok(()),
                Some(wait) if self.closing.wait(wait.max(pause).min(LOCK_PAUSE_MAX)) => {
                    return Err("the cluster stops".to_owned());
                }
                Some(_) => {}
            }
            pause = (pause * 2).min(LOCK_PAUSE_MAX);
        }
        Ok(())
    }
}

/// A running cluster. Dropping it stops it.
pub struct Cluster {
    shared: Arc<Shared>,
    parts: Arc<Parts>,
    client: Client,
    stores: Arc<Stores>,
    reporter: Reporter,
    facts: Arc<Replicas>,
    /// Ends the waits of those who would wait for what stops now.
    closing: Arc<Closing>,
    /// Background work of the whole cluster.
    tasks: Vec<Task>,
    database: Arc<damask_sql_lite::Database>,
    mysql: Option<Server>,
    status: Option<SocketAddr>,
    runtime: Option<tokio::runtime::Runtime>,
    /// Held while this process uses the data folder.
    folder: Option<File>,
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
        let pds = config.pds;
        // Taken first: a port in use should not cost a start.
        let status_listener = config.status.map(listen).transpose()?;
        drop(config.mysql.map(listen).transpose()?);
        let folder = config.data.as_deref().map(take_folder).transpose()?;
        let (shared, parts, reporter) = open_shared(config)?;
        let oracle = shared.transactions.oracle.clone();
        let safe_point = shared.transactions.safe_point.clone();
        let safe_point = match parts.group {
            Some(_) => collector::open_mark(parts.pd.clone(), safe_point)?,
            None => collector::open(shared.disk(topology::PD_FOLDER)?, safe_point)?,
        };
        let members = if pds > 1 { format!(", {pds} members") } else { String::new() };
        progress(&format!("placement driver and timestamp oracle{members}"));

        let locate: Arc<dyn Locate> = Arc::new(RegionCache::new(parts.pd.clone()));
        let (clock, settings) = (shared.clock.clone(), damask_txn::Config::default());
        let client = Client::new(oracle, locate.clone(), parts.clone(), clock.clone(), settings)?;
        let closing = Arc::new(Closing::new());
        let schemas = Arc::new(CatalogSchemas::new(client.clone(), closing.clone()));
        let stores = Stores::start(&shared, &parts, &schemas, &mut progress)?;

        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let runtime = open_runtime(cores, shared.config.connections_max)?;
        let resolver = Resolver { client: client.clone(), closing: closing.clone() };
        let dispatch =
            Arc::new(Dispatch::new(locate, parts.clone(), Arc::new(resolver), clock.clone()));
        let facts = Arc::new(Replicas::new(
            parts.pd.clone(),
            parts.members.clone(),
            reporter.announce(),
            clock.clone(),
            shared.config.columns as u32,
        ));
        let waits = Arc::downgrade(&shared);
        let members = parts.members.clone();
        let database = damask_sql_lite::Database::open(damask_sql_lite::Services {
            client: client.clone(),
            dispatch,
            replicas: facts.clone(),
            facts: facts.clone(),
            lock_waits: Arc::new(move || {
                waits.upgrade().map_or_else(Vec::new, |shared| shared.transactions.lock_waits())
            }),
            safe_ts: Arc::new(move || resolved::safe_everywhere(&members)),
            runtime: runtime.handle().clone(),
            clock,
            cores,
        })?;
        progress("SQL");
        let mysql = shared.config.mysql.map(|addr| {
            let mut server = ServerConfig::at(addr);
            server.connections_max = shared.config.connections_max;
            Server::start(server, Arc::new(Doorman(database.clone())))
        });
        let serve = |listener| serve_status(&runtime, listener, parts.clone());
        let status = status_listener.map(serve).transpose()?;
        let (gc, data) = (&shared.config.gc, shared.config.data.clone());
        let mut tasks = vec![collector::start(gc, client.clone(), safe_point, closing.clone())];
        tasks.push(stores.revive(closing.clone()));
        let interval = Duration::from_millis(shared.config.raft.resolved_ts_interval_ms);
        let servers = Arc::downgrade(&shared);
        let advance = resolved::start(interval, servers, client.clone(), closing.clone());
        tasks.extend(advance);
        let reserve = shared.config.reserve_bytes;
        let watch = |data| space::watch(parts.room.clone(), data, reserve, closing.clone());
        tasks.extend(data.map(watch));
        Ok(Cluster {
            shared,
            parts,
            tasks,
            client,
            stores,
            reporter,
            facts,
            closing,
            database,
            mysql: mysql.transpose()?,
            status,
            runtime: Some(runtime),
            folder,
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
    pub fn pd(&self) -> &Arc<dyn Placement> {
        &self.parts.pd
    }

    /// The placement driver's members, if it is a group.
    pub fn pd_group(&self) -> Option<&Arc<PdGroup>> {
        self.parts.group.as_ref()
    }

    /// The timestamp oracle.
    pub fn oracle(&self) -> &Arc<dyn Oracle> {
        &self.shared.transactions.oracle
    }

    /// The network, to cut stores off.
    pub fn network(&self) -> &Arc<Network> {
        &self.shared.network
    }

    /// What a running store keeps.
    pub fn content(&self, id: StoreId) -> Option<Content> {
        self.stores.look(id, |node| node.member.content.clone())
    }

    /// What the optimizer is told of tables.
    pub fn facts(&self) -> &Arc<Replicas> {
        &self.facts
    }

    /// The disk in memory of a part (`rows-1`, `columns-101`), to fill or break it in tests.
    pub fn memory_disk(&self, part: &str) -> Option<Arc<MemoryDisk>> {
        self.shared.memory.disk(part)
    }

    /// What a running store says of its replicas.
    pub fn replicas(&self, id: StoreId) -> Vec<ReplicaStatus> {
        self.stores.look(id, |node| node.member.handle.replicas()).unwrap_or_default()
    }

    /// Splits the region that holds `key` there, as the placement driver asks for.
    ///
    /// # Errors
    /// If the region has changed, has no leader now, or starts with the key.
    pub fn split(&self, key: &[u8]) -> Result<(), Error> {
        let route = self.pd().route(key).ok_or("the key's region is not known")?;
        let leader = route.leader.ok_or("the region has no leader")?;
        let store = self.stores.look(leader.store, |node| node.member.handle.clone());
        let store = store.ok_or("the leader's store has stopped")?;
        let ids = self.pd().ask_split(&route.region, 1)?;
        let child = |ids: SplitIds| SplitChild { region: ids.region, peers: ids.peers };
        let children = ids.into_iter().map(child).collect();
        let (sender, answer) = crossbeam_channel::bounded(1);
        let done = Box::new(move |result: damask_raftstore::Result<Vec<Region>>| {
            sender.send(result).ok();
        });
        let (region, epoch) = (route.region.id, route.region.epoch);
        store.split(region, epoch, vec![key.to_vec()], children, done);
        answer.recv_timeout(SPLIT_WAIT).map_err(|_| "the split was not answered")??;
        Ok(())
    }

    /// Stops one store, as if its process had ended; `start_store` brings it back.
    pub fn stop_store(&mut self, id: StoreId) {
        self.stores.stop_store(id);
    }

    /// Starts a stopped store again, with its data.
    pub fn start_store(&mut self, id: StoreId) -> Result<(), Error> {
        self.stores.start_store(id)
    }

    /// Stores that could not be started with the others, and why: what they held is served by the
    /// other replicas.
    pub fn down(&self) -> BTreeMap<StoreId, String> {
        self.parts.down.read().clone()
    }

    /// What could not be started, or has stopped by itself: stores, then members of the placement
    /// driver, each with its reason, for the user.
    pub fn not_running(&self) -> Vec<String> {
        let stores = self.down().into_iter().map(|(id, reason)| format!("store {id}: {reason}"));
        let failed = |member: MemberStatus| {
            Some(format!("member {} of the placement driver: {}", member.id, member.reason?))
        };
        stores.chain(self.parts.pd_members().into_iter().filter_map(failed)).collect()
    }

    /// Why a running store cannot be relied on, if so.
    pub fn failed(&self, id: StoreId) -> Option<String> {
        self.stores.look(id, |node| node.member.failed()).flatten()
    }

    /// Stops everything, clients first.
    pub fn stop(&mut self) {
        if let Some(mysql) = self.mysql.take() {
            mysql.stop();
        }
        self.database.stop();
        self.client.flush();
        self.closing.close();
        for task in self.tasks.drain(..) {
            task.join().ok();
        }
        self.reporter.stop();
        self.stores.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        if let Some(group) = &self.parts.group {
            group.stop();
        }
        self.folder = None;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes the data folder, and keeps every other process out of it.
fn take_folder(data: &Path) -> Result<File, Error> {
    let failed = |e: std::io::Error| format!("{}: {e}", data.display());
    damask_env::make_folder(data).map_err(failed)?;
    let lock = File::options().create(true).write(true).truncate(false).open(data.join(LOCK_FILE));
    let lock = lock.map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(format!("{} is in use by another damask process", data.display()).into())
        }
        Err(TryLockError::Error(e)) => Err(failed(e).into()),
    }
}

fn listen(addr: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(addr).map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "port {} of {} is in use: choose another, or stop what uses it",
            addr.port(),
            addr.ip()
        )
        .into(),
        _ => format!("cannot listen on {addr}: {e}").into(),
    })
}

/// What every node is given, what looks things up, and the reporter between them.
fn open_shared(config: Config) -> Result<(Arc<Shared>, Arc<Parts>, Reporter), Error> {
    let clock: Arc<dyn Clock> = Arc::new(RealClock::default());
    let memory = Memory::default();
    let Driver { pd, oracle, group } = open_driver(&config, &clock, &memory)?;
    let members = Members::default();
    let reporter = Reporter::start(pd.clone(), members.clone());
    let announce = reporter.announce();
    if let Some(group) = &group {
        let announce = announce.clone();
        group.group().on_lead(move || announce.hurry());
    }
    let network = Arc::new(Network::default());
    let transactions = Transactions::new(oracle, clock.clone());
    let ward = Arc::new(Ward::new(network.clone(), members.clone()));
    let shared =
        Shared { config, clock, network, pd: pd.clone(), announce, transactions, ward, memory };
    let (services, endpoints) = (RwLock::default(), RwLock::default());
    let (down, room) = (RwLock::default(), Arc::default());
    let parts = Parts { pd, group, members, down, room, services, endpoints };
    Ok((Arc::new(shared), Arc::new(parts), reporter))
}

fn open_runtime(cores: usize, connections: usize) -> Result<tokio::runtime::Runtime, Error> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(cores).thread_name("query").enable_all();
    // Each part of a query may hold one of these threads while it waits for a scan on another.
    builder.max_blocking_threads(BLOCKING_MIN.max(2 * connections * cores));
    // Expressions are evaluated as deep as they are written.
    builder.thread_stack_size(damask_sql_lite::statement::STACK_BYTES);
    Ok(builder.build()?)
}

/// The placement driver and the oracle, whatever they are made of.
struct Driver {
    pd: Arc<dyn Placement>,
    oracle: Arc<dyn Oracle>,
    group: Option<Arc<PdGroup>>,
}

/// Alone in this process with files of its own, or a group.
fn open_driver(config: &Config, clock: &Arc<dyn Clock>, memory: &Memory) -> Result<Driver, Error> {
    if config.pds > 1 {
        let group = topology::open_group(config, clock, memory)?;
        let oracle = Arc::new(BatchingOracle::new(group.group().clone()));
        let pd = group.group().clone();
        return Ok(Driver { pd, oracle, group: Some(Arc::new(group)) });
    }
    let disk = nodes::open_disk(config, memory, topology::PD_FOLDER)?;
    topology::check_pd_folder(config, disk.as_ref())?;
    let local = LocalOracle::open(clock.clone(), disk.clone(), topology::PD_TIMESTAMP)?;
    let oracle = Arc::new(BatchingOracle::new(Arc::new(local)));
    let pd = Arc::new(topology::open_pd(config, clock.as_ref(), disk)?);
    Ok(Driver { pd, oracle, group: None })
}

fn serve_status(
    runtime: &tokio::runtime::Runtime,
    listener: TcpListener,
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
