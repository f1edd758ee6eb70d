//! The SQL layer of a cluster: one catalog, one set of global variables, and a session for each
//! client. It must never know how rows are stored; it is given a transaction client, a dispatcher
//! of scans, and somebody who places column replicas.

use crate::catalog::Catalog;
use crate::error::Result;
use crate::outcome::{ConnectionInfo, Session, Sessions};
use crate::query::{QueryServices, TableFacts, TableSize};
use crate::session::connection::Connection;
use crate::session::live::Connections;
use crate::variables::Globals;
use damask_coprocessor::Dispatch;
use damask_env::Clock;
use damask_txn::Client;
use damask_types::key::row_range;
use damask_types::{KeyRange, TableSchema};
use std::sync::Arc;

/// Places column replicas of key ranges.
pub trait ColumnReplicas: Send + Sync + 'static {
    /// Asks for so many replicas of a range.
    fn set(&self, range: KeyRange, replicas: u32) -> std::result::Result<(), String>;
    /// Asks for none.
    fn remove(&self, range: &KeyRange) -> std::result::Result<(), String>;
    /// Replicas that are there and caught up, and replicas asked for.
    fn progress(&self, range: &KeyRange) -> (u32, u32);
    /// Rough bytes of a range's rows, and how many regions hold them.
    fn size(&self, range: &KeyRange) -> (u64, usize);
}

/// What the SQL layer is given.
pub struct Services {
    /// Transactions.
    pub client: Client,
    /// Scans.
    pub dispatch: Arc<Dispatch>,
    /// Column replicas.
    pub replicas: Arc<dyn ColumnReplicas>,
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
    pub catalog: Catalog,
    /// Global variables.
    pub globals: Arc<Globals>,
    /// What queries share.
    pub query: QueryServices,
    /// Column replicas.
    pub replicas: Arc<dyn ColumnReplicas>,
    /// Tells the time of day.
    pub clock: Arc<dyn Clock>,
    /// Who is connected.
    pub connections: Connections,
}

/// What the optimizer knows of a table.
struct Facts(Arc<dyn ColumnReplicas>);

/// Bytes that a row takes with its key, when nothing better is known.
const ROW_BYTES: f64 = 100.0;
/// Rows of a table that no size is known of yet: enough to prefer a key to a scan.
const ROWS_UNKNOWN: f64 = 1000.0;

impl TableFacts for Facts {
    fn size(&self, table: &TableSchema) -> TableSize {
        let (bytes, regions) = self.0.size(&row_range(table.id));
        let rows = (bytes as f64 / ROW_BYTES).max(ROWS_UNKNOWN);
        TableSize { rows, regions: regions.max(1) as f64 }
    }

    fn columns_ready(&self, table: &TableSchema) -> bool {
        if table.column_replicas == 0 {
            return false;
        }
        let (ready, wanted) = self.0.progress(&row_range(table.id));
        wanted > 0 && ready >= wanted
    }
}

impl Database {
    /// Opens the catalog; an empty cluster gets its first databases.
    pub fn open(services: Services) -> Result<Arc<Database>> {
        let catalog = Catalog::open(services.client.clone())?;
        let query = QueryServices::new(
            Arc::new(services.client.clone()),
            services.dispatch,
            Arc::new(Facts(services.replicas.clone())),
            services.runtime,
            services.cores,
        );
        Ok(Arc::new(Database {
            client: services.client,
            catalog,
            globals: Arc::default(),
            query,
            replicas: services.replicas,
            clock: services.clock,
            connections: Connections::default(),
        }))
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
}
