//! The SQL layer of a cluster: one catalog, one set of global variables, and a session for each
//! client. It must never know how rows are stored; it is given a transaction client, a dispatcher
//! of scans, and somebody who places column replicas.

use crate::catalog::Catalog;
use crate::ddl::{self, collect::Collector};
use crate::error::Result;
use crate::outcome::{ConnectionInfo, Session, Sessions};
use crate::query::{QueryServices, TableFacts};
use crate::session::NamedLocks;
use crate::session::connection::Connection;
use crate::session::live::{Activity, Connections};
use crate::show;

pub use crate::show::{ColumnReplicas, LockWait, LockWaits};
use crate::variables::Globals;
use damask_coprocessor::Dispatch;
use damask_env::Clock;
use damask_txn::Client;
use damask_types::key::row_range;
use damask_types::{TableId, Timestamp};
use std::sync::Arc;

/// Tells the timestamp up to which every replica is safe.
pub type SafeTs = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What the SQL layer is given.
pub struct Services {
    /// Transactions.
    pub client: Client,
    /// Scans.
    pub dispatch: Arc<Dispatch>,
    /// Column replicas.
    pub replicas: Arc<dyn ColumnReplicas>,
    /// What the optimizer knows of tables.
    pub facts: Arc<dyn TableFacts>,
    /// Who waits for whose row locks.
    pub lock_waits: LockWaits,
    /// Up to where every replica of rows may be read without asking its leader; ZERO: nowhere.
    pub safe_ts: SafeTs,
    /// Runs queries.
    pub runtime: tokio::runtime::Handle,
    /// Tells the time of day.
    pub clock: Arc<dyn Clock>,
    /// Cores that one query may use.
    pub cores: usize,
}

/// The SQL layer.
pub struct Database {
    /// Transactions.
    pub client: Client,
    /// Databases and tables.
    pub catalog: Arc<Catalog>,
    /// Deletes what was dropped.
    pub collector: Collector,
    /// Global variables.
    pub globals: Arc<Globals>,
    /// What queries share.
    pub query: QueryServices,
    /// Column replicas.
    pub replicas: Arc<dyn ColumnReplicas>,
    /// Who waits for whose row locks.
    pub lock_waits: LockWaits,
    /// As of [`Services`].
    pub safe_ts: SafeTs,
    /// Tells the time of day.
    pub clock: Arc<dyn Clock>,
    /// Who is connected.
    pub connections: Connections,
    /// GET_LOCK's.
    pub named_locks: Arc<NamedLocks>,
}

impl Database {
    /// Opens the catalog; an empty cluster gets its first databases.
    pub fn open(services: Services) -> Result<Arc<Database>> {
        let catalog = Arc::new(Catalog::open(services.client.clone())?);
        catalog.remove_unfinished()?;
        ddl::place_replicas(&catalog, services.replicas.as_ref());
        let collector = Collector::start(catalog.clone(), services.client.clone());
        let query = QueryServices::new(
            Arc::new(services.client.clone()),
            services.dispatch,
            services.facts,
            services.runtime,
            services.cores,
        );
        Ok(Arc::new(Database {
            client: services.client,
            catalog,
            collector,
            globals: Arc::default(),
            query,
            replicas: services.replicas,
            lock_waits: services.lock_waits,
            safe_ts: services.safe_ts,
            named_locks: Arc::new(NamedLocks::new(services.clock.clone())),
            clock: services.clock,
            connections: Connections::default(),
        }))
    }

    /// Column replicas of a table: there and caught up, and asked for.
    pub fn replica_progress(&self, table: TableId) -> (u32, u32) {
        self.replicas.progress(&row_range(table))
    }

    /// PROCESSLIST.
    pub fn processes(&self) -> Vec<show::Process> {
        let now = self.clock.wall_ms();
        let process = |activity: Activity| show::Process {
            id: activity.id,
            user: activity.user,
            host: activity.host,
            database: activity.database,
            command: match (&activity.statement, activity.killed) {
                (Some(_), true) => "Killed",
                (Some(_), false) => "Query",
                (None, _) => "Sleep",
            }
            .to_owned(),
            seconds: now.saturating_sub(activity.since_ms) / 1000,
            locking: activity.locking,
            state: match (&activity.statement, activity.locking.is_some()) {
                (Some(_), true) => "waiting for row locks",
                (Some(_), false) => "executing",
                (None, _) => "",
            }
            .to_owned(),
            info: activity.statement,
        };
        self.connections.list().into_iter().map(process).collect()
    }

    /// Ends the background work. Sessions get errors from then on.
    pub fn stop(&self) {
        self.collector.stop();
    }

    /// A session for a client.
    pub fn connect(self: &Arc<Database>, info: ConnectionInfo) -> Result<Connection> {
        Connection::new(self.clone(), info)
    }
}

/// Sessions of a database, for the protocol server.
pub struct Doorman(pub Arc<Database>);

impl Sessions for Doorman {
    fn open(&self, info: ConnectionInfo) -> Result<Box<dyn Session>> {
        Ok(Box::new(self.0.connect(info)?))
    }

    fn is_killed(&self, id: u32) -> bool {
        self.0.connections.is_killed(id)
    }

    fn client_gone(&self, id: u32) {
        self.0.connections.kill(id, crate::interrupt::Reason::Connection);
    }
}
