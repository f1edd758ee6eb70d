//! Where learners ask what a table is: the catalog, read like any other rows.

use damask_learner::SchemaSource;
use damask_txn::Client;
use damask_types::schema::catalog;
use damask_types::{TableId, TableSchema};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two attempts to read the catalog.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// The catalog as a source of schemas.
pub struct CatalogSchemas {
    client: Client,
    stopping: AtomicBool,
}

impl CatalogSchemas {
    /// Reads through this client.
    pub fn new(client: Client) -> CatalogSchemas {
        CatalogSchemas { client, stopping: AtomicBool::new(false) }
    }

    /// Gives up waiting: the node stops.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }
}

impl SchemaSource for CatalogSchemas {
    fn table(&self, id: TableId, _refresh: bool) -> Result<Option<Arc<TableSchema>>, String> {
        // An answer is needed before the next row can be applied, so this waits for the rows to be
        // reachable; the learner keeps what it gets and asks again only when it is too old.
        loop {
            match self.client.get_latest(&catalog::table_key(id)) {
                Ok(None) => return Ok(None),
                Ok(Some(json)) => {
                    let schema = serde_json::from_slice::<TableSchema>(&json).map(Arc::new);
                    return schema.map(Some).map_err(|e| format!("schema of table {id}: {e}"));
                }
                Err(_) if !self.stopping.load(Ordering::SeqCst) => {
                    std::thread::park_timeout(RETRY_EVERY);
                }
                Err(e) => return Err(format!("schema of table {id}: {e}")),
            }
        }
    }
}
