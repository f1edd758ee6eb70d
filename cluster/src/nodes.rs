//! One row store and one column store, made of their parts. Wiring only.

use crate::config::Config;
use crate::network::Network;
use crate::placement::{Announce, Member};
use damask_coprocessor::{ColumnEndpoint, Endpoint, RowEndpoint};
use damask_deltatree::{ColumnStore, DeltaTree};
use damask_env::{Clock, Disk, MemoryDisk, RealDisk, Task, spawn};
use damask_kv::{Engine, EngineConfig, MemoryEngine};
use damask_learner::{ColumnMachine, LearnerRead, SchemaSource};
use damask_raftstore::{
    FileLogConfig, FileLogStore, LogStore, MemoryLogStore, RowMachine, StateMachine, Store,
    StoreOptions,
};
use damask_txn::{Service, TxnServer};
use damask_types::{Region, StoreId, Timestamp};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that one round of a column store's background work may write.
const MAINTAIN_BYTES: u64 = 256 << 20;
/// Between two rounds when there is nothing to do.
const MAINTAIN_EVERY: Duration = Duration::from_millis(200);
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
    /// Where stores announce changes.
    pub announce: Announce,
    /// What takes the place of the data folder when there is none.
    pub memory: Memory,
}

/// Disks, logs and engines in memory, by the name of their part. They outlive their node, so that a
/// store which stopped finds what it had acknowledged.
#[derive(Default)]
pub struct Memory {
    disks: Mutex<HashMap<String, Arc<MemoryDisk>>>,
    logs: Mutex<HashMap<String, Arc<MemoryLogStore>>>,
    engines: Mutex<HashMap<StoreId, Arc<MemoryEngine>>>,
}

impl Shared {
    /// The folder of one part; `None` in memory.
    pub fn folder(&self, name: &str) -> Option<PathBuf> {
        self.config.data.as_ref().map(|data| data.join(name))
    }

    /// The disk of one part.
    pub fn disk(&self, name: &str) -> Result<Arc<dyn Disk>, Error> {
        Ok(match self.folder(name) {
            Some(folder) => Arc::new(RealDisk::open(folder)?),
            None => self.memory.disks.lock().entry(name.to_owned()).or_default().clone(),
        })
    }

    fn log(&self, name: &str) -> Result<Arc<dyn LogStore>, Error> {
        Ok(match self.config.data {
            Some(_) => {
                Arc::new(FileLogStore::open(self.disk(name)?, "raft", FileLogConfig::default())?)
            }
            None => self.memory.logs.lock().entry(name.to_owned()).or_default().clone(),
        })
    }

    fn engine(&self, id: StoreId) -> Result<Arc<dyn Engine>, Error> {
        Ok(match self.folder(&format!("rows-{id}/engine")) {
            Some(folder) => {
                let kind = self.config.kv.engine.kind();
                damask_kv::open(kind, &folder, &EngineConfig::default())?
            }
            None => self.memory.engines.lock().entry(id).or_default().clone(),
        })
    }

    fn start(
        &self,
        id: StoreId,
        log: Arc<dyn LogStore>,
        machine: Arc<dyn StateMachine>,
        bootstrap: Option<Region>,
    ) -> Result<Store, Error> {
        let announce = self.announce.clone();
        let mut options = StoreOptions::new(id);
        options.config.tick = Duration::from_millis(self.config.raft.tick_ms);
        options.config.core.raft.election_ticks = self.config.raft.election_ticks;
        options.config.core.raft.heartbeat_ticks = self.config.raft.heartbeat_ticks;
        options.bootstrap = bootstrap;
        options.on_change = Some(Arc::new(move |status| announce.changed(id, status)));
        let network = self.network.clone();
        options.on_open = Some(Box::new(move |handle| network.attach(id, handle)));
        Ok(Store::start(options, log, machine, self.network.clone(), self.clock.clone())?)
    }
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
    /// What it keeps.
    pub content: Content,
    /// For placement.
    pub member: Member,
    /// Transactions: row stores only.
    pub service: Option<Arc<dyn Service>>,
    /// Scans.
    pub endpoint: Arc<dyn Endpoint>,
    store: Option<Store>,
    network: Arc<Network>,
    maintain: Option<(crossbeam_channel::Sender<()>, Task)>,
}

impl Node {
    /// Why it stopped by itself, if it did.
    pub fn failed(&self) -> Option<String> {
        self.store.as_ref().and_then(|store| store.failed()).map(|e| e.to_string())
    }

    /// Stops it; its data stays.
    pub fn stop(&mut self) {
        self.network.detach(self.id);
        if let Some((stop, task)) = self.maintain.take() {
            drop(stop);
            task.join().ok();
        }
        if let Some(store) = self.store.take()
            && let Err(e) = store.stop()
        {
            tracing::warn!(store = %self.id, "stop: {e}");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts a row store. `bootstrap`: the first region, made if the store is empty.
pub fn start_rows(shared: &Shared, id: StoreId, bootstrap: Option<Region>) -> Result<Node, Error> {
    let engine = shared.engine(id)?;
    let machine = Arc::new(RowMachine::new(engine.clone()));
    let log = shared.log(&format!("rows-{id}"))?;
    let store = shared.start(id, log, machine.clone(), bootstrap)?;
    let handle = store.handle();
    let service = Arc::new(TxnServer::new(handle.clone(), engine.clone()));
    let reader = handle.clone();
    let endpoint = RowEndpoint::new(
        engine.clone(),
        Box::new(move |region, epoch, done| reader.read_index(region, epoch, done)),
    );
    Ok(Node {
        id,
        content: Content::Rows(engine),
        member: Member { handle, machine },
        service: Some(service),
        endpoint: Arc::new(endpoint),
        store: Some(store),
        network: shared.network.clone(),
        maintain: None,
    })
}

/// Starts a column store.
pub fn start_columns(
    shared: &Shared,
    id: StoreId,
    schemas: Arc<dyn SchemaSource>,
) -> Result<Node, Error> {
    let disk = shared.disk(&format!("columns-{id}"))?;
    let columns: Arc<dyn ColumnStore> =
        Arc::new(DeltaTree::open(disk, damask_deltatree::Config::default())?);
    let machine = Arc::new(ColumnMachine::open(columns.clone(), schemas)?);
    let log = shared.log(&format!("columns-{id}"))?;
    let store = shared.start(id, log, machine.clone(), None)?;
    let handle = store.handle();
    let read = LearnerRead::new(Arc::new(handle.clone()), machine.clone(), LEARNER_WAIT);
    let endpoint = ColumnEndpoint::new(read);
    Ok(Node {
        id,
        content: Content::Columns(columns.clone()),
        member: Member { handle, machine },
        service: None,
        endpoint: Arc::new(endpoint),
        store: Some(store),
        network: shared.network.clone(),
        maintain: Some(maintain(columns)),
    })
}

/// Merges deltas in the background until the sender is dropped.
fn maintain(columns: Arc<dyn ColumnStore>) -> (crossbeam_channel::Sender<()>, Task) {
    let (stop, stopped) = crossbeam_channel::bounded(0);
    let task = spawn("maintain", move || {
        loop {
            // No version is dropped yet: rows keep theirs too.
            let more = columns.maintain(Timestamp::ZERO, MAINTAIN_BYTES).unwrap_or_else(|e| {
                tracing::error!("column maintenance: {e}");
                false
            });
            let pause = if more { Duration::ZERO } else { MAINTAIN_EVERY };
            match stopped.recv_timeout(pause) {
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
    });
    (stop, task)
}
