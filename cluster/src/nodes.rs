//! One row store and one column store, made of their parts. Wiring only: it must never make a choice
//! that the configuration does not name.

use crate::config::{ColumnStoreName, Config, LogName};
use crate::network::Network;
use crate::placement::{Announce, Member};
use crate::quarantine::{Fault, Guarded, Ward};
use crate::reads::RowReads;
use crate::traces;
use damask_coprocessor::{ColumnEndpoint, Endpoint, RowEndpoint};
use damask_deltatree::rivals::{LsmColumns, LsmConfig, ShadowColumns};
use damask_deltatree::{ColumnStore, DeltaTree, MemoryColumnStore};
use damask_env::{Clock, Disk, MemoryDisk, RealDisk, Task, spawn};
use damask_kv::gc::Budget;
use damask_kv::{Engine, EngineKind, GcSafePoint, MemoryEngine};
use damask_learner::{AskLeader, ColumnMachine, LearnerRead, SchemaSource, StoreReads};
use damask_pd::Placement;
use damask_raftstore::{
    FileLogConfig, FileLogStore, LogStore, MemoryLogStore, RowMachine, StateMachine, Store,
    StoreOptions,
};
use damask_sql_lite::database::LockWait;
use damask_tso::Oracle;
use damask_txn::{Deadlocks, LocalDeadlocks, Service, TxnServer};
use damask_types::{ErrorKind, KeyRange, StoreId, Timestamp};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Bytes that one round of a column store's background work may write.
const MAINTAIN_BYTES: u64 = 256 << 20;
/// Where a store has its Raft log, below its folder, by kind.
const FILE_LOG: &str = "raft";
const ROCKS_LOG: &str = "raft-rocksdb";
/// What an engine's folder has, and no other engine's.
const ENGINE_FILES: [(EngineKind, &str, &str); 2] =
    [(EngineKind::Rocks, "rocksdb", "CURRENT"), (EngineKind::Fjall, "fjall", "version")];
/// Where a columnar LSM is, below its store's folder.
const LSM_FOLDER: &str = "lsm";
/// Bytes of decoded columns that it keeps in memory.
const LSM_CACHE_BYTES: usize = 512 << 20;
/// Between two looks at the schemas of all columns (TiFlash's: a minute).
const SCHEMAS_EVERY: Duration = Duration::from_secs(60);
/// Between two rounds when there is nothing to do.
const MAINTAIN_EVERY: Duration = Duration::from_millis(200);
/// Between two rounds that fail, at most; the pause doubles up to it.
const MAINTAIN_PAUSE_MAX: Duration = Duration::from_secs(10);
/// Between two pieces of garbage collection, for the sake of whoever else needs the disk.
const COLLECT_PAUSE: Duration = Duration::from_millis(5);
/// A learner that has not caught up after this long is asked again.
const LEARNER_WAIT: Duration = Duration::from_secs(10);

/// Why a node did not start.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What every node is given.
pub struct Shared {
    /// The cluster's configuration.
    pub config: Config,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Its network.
    pub network: Arc<Network>,
    /// Placement: which stores have held data, and the first region.
    pub pd: Arc<dyn Placement>,
    /// Where stores announce changes.
    pub announce: Announce,
    /// What their transaction servers share.
    pub transactions: Transactions,
    /// Where stores go that find damage in what they keep.
    pub ward: Arc<Ward>,
    /// What takes the place of the data folder when there is none.
    pub memory: Memory,
}

/// What the transaction servers of all stores share.
pub struct Transactions {
    /// Time.
    pub oracle: Arc<dyn Oracle>,
    /// Who waits for whom.
    pub deadlocks: Arc<dyn Deadlocks>,
    /// Versions below it may be collected, and are not read.
    pub safe_point: GcSafePoint,
    /// The servers of row stores, to ask who waits for a lock.
    pub servers: Mutex<HashMap<StoreId, Weak<TxnServer>>>,
}

impl Transactions {
    /// With an oracle; nobody waits, and nothing is collected yet.
    pub fn new(oracle: Arc<dyn Oracle>, clock: Arc<dyn Clock>) -> Transactions {
        let deadlocks = Arc::new(LocalDeadlocks::new(clock));
        let (safe_point, servers) = (GcSafePoint::new(), Mutex::default());
        Transactions { oracle, deadlocks, safe_point, servers }
    }

    /// The servers of the stores that run.
    pub fn running(&self) -> Vec<Arc<TxnServer>> {
        self.servers.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Who waits for whose row lock, on every store that runs.
    pub fn lock_waits(&self) -> Vec<LockWait> {
        let servers = self.running();
        let waits = servers.iter().flat_map(|server| server.lock_waits());
        let told = waits.map(|w| LockWait { key: w.key, waiter: w.waiter, holder: w.holder });
        told.collect()
    }
}

/// Disks, logs, engines and columns in memory, by the name of their part. They outlive their node,
/// so that a store which stopped finds what it had acknowledged.
#[derive(Default)]
pub struct Memory {
    columns: Mutex<HashMap<(StoreId, ColumnStoreName), Arc<dyn ColumnStore>>>,
    disks: Mutex<HashMap<String, Arc<MemoryDisk>>>,
    logs: Mutex<HashMap<String, Arc<MemoryLogStore>>>,
    engines: Mutex<HashMap<StoreId, Arc<MemoryEngine>>>,
}

impl Memory {
    /// The disk of one part, if it was opened.
    pub fn disk(&self, name: &str) -> Option<Arc<MemoryDisk>> {
        self.disks.lock().get(name).cloned()
    }
}

/// The disk of one part.
pub fn open_disk(config: &Config, memory: &Memory, name: &str) -> Result<Arc<dyn Disk>, Error> {
    Ok(match &config.data {
        Some(data) => Arc::new(RealDisk::open(data.join(name))?),
        None => memory.disks.lock().entry(name.to_owned()).or_default().clone(),
    })
}

impl Shared {
    /// The folder of one part; `None` in memory.
    pub fn folder(&self, name: &str) -> Option<PathBuf> {
        self.config.data.as_ref().map(|data| data.join(name))
    }

    /// The disk of one part.
    pub fn disk(&self, name: &str) -> Result<Arc<dyn Disk>, Error> {
        open_disk(&self.config, &self.memory, name)
    }

    fn log(&self, name: &str) -> Result<Arc<dyn LogStore>, Error> {
        let default = if self.config.data.is_some() { LogName::File } else { LogName::Memory };
        let log = self.config.raft.log.unwrap_or(default);
        // An empty log beside data would forget what was acknowledged and not yet applied.
        let other = if log == LogName::Rocksdb { FILE_LOG } else { ROCKS_LOG };
        if self.folder(name).is_some_and(|folder| folder.join(other).exists()) {
            return Err(
                format!("{name} has its Raft log in {other}/: [raft] log was changed").into()
            );
        }
        Ok(match log {
            LogName::File => {
                Arc::new(FileLogStore::open(self.disk(name)?, FILE_LOG, FileLogConfig::default())?)
            }
            LogName::Rocksdb => self.rocks_log(name)?,
            LogName::Memory => self.memory.logs.lock().entry(name.to_owned()).or_default().clone(),
        })
    }

    #[cfg(feature = "rocksdb")]
    fn rocks_log(&self, name: &str) -> Result<Arc<dyn LogStore>, Error> {
        let folder = self.folder(&format!("{name}/{ROCKS_LOG}")).ok_or("it needs a data folder")?;
        let config = damask_raftstore::RocksLogConfig::default();
        Ok(Arc::new(damask_raftstore::RocksLogStore::open(&folder, &config)?))
    }

    #[cfg(not(feature = "rocksdb"))]
    fn rocks_log(&self, _: &str) -> Result<Arc<dyn LogStore>, Error> {
        Err("this build has no RocksDB".into())
    }

    fn engine(&self, id: StoreId) -> Result<Arc<dyn Engine>, Error> {
        if let Some(store) = self.folder(&row_folder(id)) {
            damask_env::make_folder(&store)?; // an engine sees to its own name alone
        }
        Ok(match self.folder(&(row_folder(id) + "/engine")) {
            Some(folder) => {
                let kind = self.config.kv.engine.kind();
                check_engine(kind, &folder)?;
                let safe_point = &self.transactions.safe_point;
                let config = self.config.row_engine.config();
                damask_kv::open_with_gc(kind, &folder, &config, safe_point)?
            }
            None => self.memory.engines.lock().entry(id).or_default().clone(),
        })
    }

    fn columns(&self, id: StoreId) -> Result<Arc<dyn ColumnStore>, Error> {
        match self.config.column_store {
            ColumnStoreName::Shadow => {
                let [main, twin] = self.config.shadow;
                let shadow = ShadowColumns::new(self.one(main, id)?, self.one(twin, id)?);
                Ok(Arc::new(shadow))
            }
            name => self.one(name, id),
        }
    }

    fn one(&self, name: ColumnStoreName, id: StoreId) -> Result<Arc<dyn ColumnStore>, Error> {
        match name {
            ColumnStoreName::Deltatree => self.deltatree(id),
            ColumnStoreName::Lsm => self.lsm(id),
            ColumnStoreName::Memory => {
                Ok(self.kept((id, name), || Arc::new(MemoryColumnStore::default())))
            }
            ColumnStoreName::Shadow => Err("shadow: it has no shadow of its own".into()),
        }
    }

    /// A column store in memory: the one that was there before its node stopped, or a new one.
    fn kept(
        &self,
        at: (StoreId, ColumnStoreName),
        new: impl FnOnce() -> Arc<dyn ColumnStore>,
    ) -> Arc<dyn ColumnStore> {
        self.memory.columns.lock().entry(at).or_insert_with(new).clone()
    }

    fn deltatree(&self, id: StoreId) -> Result<Arc<dyn ColumnStore>, Error> {
        let disk = self.disk(&column_folder(id))?;
        Ok(Arc::new(DeltaTree::open(disk, damask_deltatree::Config::default())?))
    }

    fn lsm(&self, id: StoreId) -> Result<Arc<dyn ColumnStore>, Error> {
        let config = LsmConfig { cache_bytes: LSM_CACHE_BYTES, ..LsmConfig::default() };
        match self.folder(&column_folder(id)) {
            Some(store) => {
                let folder = store.join(LSM_FOLDER);
                // An empty LSM beside an old log would lack what the log no longer has.
                if store.join(FILE_LOG).exists() && !folder.exists() {
                    return Err(format!("it has no {LSM_FOLDER}/: column_store was changed").into());
                }
                lsm_on_disk(&folder, config)
            }
            None => {
                let new = || Arc::new(LsmColumns::in_memory(config)) as Arc<dyn ColumnStore>;
                Ok(self.kept((id, ColumnStoreName::Lsm), new))
            }
        }
    }

    /// Makes the first region in a row store that never held anything, before the store says a
    /// word: from then on it is known to hold data.
    fn bootstrap(&self, id: StoreId, machine: &dyn StateMachine) -> Result<(), Error> {
        let first = self.pd.bootstrapped().filter(|first| first.peer_on(id).is_some());
        if let Some(first) = first
            && !self.pd.is_initialised(id)
        {
            damask_raftstore::bootstrap(machine, id, first)?;
            self.pd.set_initialised(id)?;
        }
        Ok(())
    }

    fn start(
        &self,
        id: StoreId,
        name: &str,
        log: Arc<dyn LogStore>,
        machine: Arc<dyn StateMachine>,
    ) -> Result<Store, Error> {
        let announce = self.announce.clone();
        let mut options = StoreOptions::new(id);
        self.config.raft.set(&mut options.config);
        options.held_data = self.pd.is_initialised(id);
        options.staging = Some(self.disk(name)?);
        options.on_change = Some(Arc::new(move |status| announce.changed(id, status)));
        let network = self.network.clone();
        options.on_open = Some(Box::new(move |handle| network.attach(id, handle)));
        Ok(Store::start(options, log, machine, self.network.clone(), self.clock.clone())?)
    }
}

/// Was the folder made by another engine? This one would begin beside what it does not know.
fn check_engine(kind: EngineKind, folder: &Path) -> Result<(), Error> {
    let mut others = ENGINE_FILES.iter().filter(|(other, _, _)| *other != kind);
    match others.find(|(_, _, file)| folder.join(file).exists()) {
        Some((_, name, _)) => {
            Err(format!("its rows were written by {name}: [kv] engine was changed").into())
        }
        None => Ok(()),
    }
}

/// An LSM whose pages are in RocksDB.
#[cfg(feature = "rocksdb")]
pub(crate) fn lsm_on_disk(folder: &Path, config: LsmConfig) -> Result<Arc<dyn ColumnStore>, Error> {
    damask_env::make_folder(folder)?;
    Ok(Arc::new(LsmColumns::open(folder, config)?))
}

/// An LSM whose pages are in RocksDB.
#[cfg(not(feature = "rocksdb"))]
pub(crate) fn lsm_on_disk(_: &Path, _: LsmConfig) -> Result<Arc<dyn ColumnStore>, Error> {
    Err("this build has no RocksDB".into())
}

/// What a store keeps, to look at.
#[derive(Clone)]
pub enum Content {
    /// A row store's engine.
    Rows(Arc<dyn Engine>),
    /// A column store's columns.
    Columns(Arc<dyn ColumnStore>),
}

/// A node of either kind, running.
pub struct Node {
    /// Which one.
    pub id: StoreId,
    /// For placement and status.
    pub member: Member,
    /// Transactions: row stores only.
    pub service: Option<Arc<dyn Service>>,
    /// Scans.
    pub endpoint: Arc<dyn Endpoint>,
    store: Option<Store>,
    network: Arc<Network>,
    fault: Arc<Fault>,
    tasks: Vec<(crossbeam_channel::Sender<()>, Task)>,
}

impl Node {
    /// Stops it; its data stays.
    pub fn stop(&mut self) {
        self.network.detach(self.id);
        let (stops, tasks): (Vec<_>, Vec<_>) = self.tasks.drain(..).unzip();
        drop(stops);
        for task in tasks {
            task.join().ok();
        }
        if let Some(store) = self.store.take()
            && let Err(e) = store.stop()
        {
            tracing::warn!(store = %self.id, "stop: {e}");
        }
        self.fault.discharge();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The folder of a row store.
pub fn row_folder(id: StoreId) -> String {
    format!("rows-{id}")
}

/// The folder of a column store.
pub fn column_folder(id: StoreId) -> String {
    format!("columns-{id}")
}

/// Starts a row store; the very first time with its part of the first region.
pub fn start_rows(shared: &Shared, id: StoreId) -> Result<Node, Error> {
    let engine = shared.engine(id)?;
    let machine = Arc::new(RowMachine::new(engine.clone()));
    let log = shared.log(&row_folder(id))?;
    shared.bootstrap(id, machine.as_ref())?;
    let store = shared.start(id, &row_folder(id), log, machine.clone())?;
    let handle = store.handle();
    let fault = Arc::new(Fault::of_rows(id, shared.ward.clone()));
    let safe_point = shared.transactions.safe_point.clone();
    let collect = collect(machine.clone(), safe_point, fault.clone());
    let Transactions { oracle, deadlocks, safe_point, servers } = &shared.transactions;
    let server = TxnServer::new(handle.clone(), engine.clone())
        .with_oracle(oracle.clone())
        .with_deadlocks(deadlocks.clone())
        .with_safe_point(safe_point.clone())
        .with_clock(shared.clock.clone());
    let service = Arc::new(server);
    servers.lock().insert(id, Arc::downgrade(&service));
    let reader = handle.clone();
    let endpoint = RowEndpoint::new(
        engine.clone(),
        Box::new(move |region, epoch, done| reader.read_index(region, epoch, done)),
    )
    .admitted_by(Arc::new(RowReads { server: service.clone(), store: handle.clone() }));
    let content = Content::Rows(engine);
    Ok(Node {
        id,
        member: Member { handle, machine, content, fault: fault.clone() },
        service: Some(Arc::new(Guarded::new(service, fault.clone()))),
        endpoint: Arc::new(Guarded::new(endpoint, fault.clone())),
        store: Some(store),
        network: shared.network.clone(),
        fault,
        tasks: vec![collect],
    })
}

/// Starts a column store, which asks its regions' leaders by `ask`.
pub fn start_columns(
    shared: &Shared,
    id: StoreId,
    schemas: Arc<dyn SchemaSource>,
    ask: AskLeader,
) -> Result<Node, Error> {
    let columns = shared.columns(id)?;
    let recorder = traces::recorder(&shared.config, id);
    let schemas = recorder.as_ref().map_or(schemas.clone(), |trace| trace.schemas(schemas));
    let machine = Arc::new(ColumnMachine::open(columns.clone(), schemas)?);
    let told = match recorder {
        Some(recorder) => recorder.machine(machine.clone())?,
        None => machine.clone(),
    };
    let log = shared.log(&column_folder(id))?;
    let store = shared.start(id, &column_folder(id), log, told)?;
    let handle = store.handle();
    let reads = Arc::new(StoreReads::new(handle.clone(), ask));
    let safe_point = shared.transactions.safe_point.clone();
    let collected = safe_point.clone();
    let read = LearnerRead::new(reads, machine.clone(), LEARNER_WAIT)
        .with_safe_point(Arc::new(move || collected.get()));
    let endpoint = ColumnEndpoint::new(read);
    let fault = Arc::new(Fault::of_columns(id, shared.ward.clone()));
    let content = Content::Columns(columns.clone());
    let look = look_at_schemas(machine.clone());
    Ok(Node {
        id,
        member: Member { handle, machine, content, fault: fault.clone() },
        service: None,
        endpoint: Arc::new(Guarded::new(endpoint, fault.clone())),
        store: Some(store),
        network: shared.network.clone(),
        tasks: vec![look, maintain(id, columns, safe_point, fault.clone())],
        fault,
    })
}

/// Removes old versions of rows in the background, once for each safe point, until the sender is
/// dropped. An error ends it, and is the store's fault.
fn collect(
    rows: Arc<RowMachine>,
    safe_point: GcSafePoint,
    fault: Arc<Fault>,
) -> (crossbeam_channel::Sender<()>, Task) {
    let (stop, stopped) = crossbeam_channel::bounded(0);
    let body = move || {
        let mut done = Timestamp::ZERO;
        let mut range = KeyRange::all();
        let mut pause = MAINTAIN_EVERY;
        // Ends when the node stops.
        while let Err(crossbeam_channel::RecvTimeoutError::Timeout) = stopped.recv_timeout(pause) {
            let wanted = safe_point.get();
            if wanted == done {
                continue;
            }
            pause = match rows.collect(&range, wanted, Budget::default()) {
                Ok(Some(resume)) => {
                    range.start = resume;
                    COLLECT_PAUSE
                }
                Ok(None) => {
                    (done, range) = (wanted, KeyRange::all());
                    MAINTAIN_EVERY
                }
                Err(e) => {
                    fault.found(&format!("garbage collection ended: {e}"));
                    return;
                }
            };
        }
    };
    (stop, spawn("collect", body))
}

/// Merges deltas in the background until the sender is dropped. Damage ends it, and is the store's
/// fault: trying again would not mend it.
fn maintain(
    id: StoreId,
    columns: Arc<dyn ColumnStore>,
    safe_point: GcSafePoint,
    fault: Arc<Fault>,
) -> (crossbeam_channel::Sender<()>, Task) {
    let (stop, stopped) = crossbeam_channel::bounded(0);
    let body = move || {
        let mut pause = MAINTAIN_EVERY;
        loop {
            pause = match columns.maintain(safe_point.get(), MAINTAIN_BYTES) {
                Ok(true) => Duration::ZERO,
                Ok(false) => MAINTAIN_EVERY,
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    fault.found(&format!("column maintenance ended: {e}"));
                    return;
                }
                Err(e) => {
                    tracing::error!(store = %id, "column maintenance: {e}");
                    (pause.max(MAINTAIN_EVERY) * 2).min(MAINTAIN_PAUSE_MAX)
                }
            };
            match stopped.recv_timeout(pause) {
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
    };
    (stop, spawn("maintain", body))
}

/// Looks at the schemas that columns are written by, from time to time, until the sender is dropped.
fn look_at_schemas(machine: Arc<ColumnMachine>) -> (crossbeam_channel::Sender<()>, Task) {
    let (stop, stopped) = crossbeam_channel::bounded(0);
    let body = move || {
        while let Err(crossbeam_channel::RecvTimeoutError::Timeout) =
            stopped.recv_timeout(SCHEMAS_EVERY)
        {
            let changed = machine.refresh_schemas();
            tracing::debug!(changed, "schemas looked at");
        }
    };
    (stop, spawn("schemas", body))
}

#[cfg(test)]
mod tests;
