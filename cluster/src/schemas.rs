//! Where learners ask what a table is: the catalog, read like any other rows. It must never answer
//! from what it remembers.

use damask_env::Closing;
use damask_learner::SchemaSource;
use damask_txn::Client;
use damask_types::schema::catalog;
use damask_types::{TableId, TableSchema};
use std::sync::Arc;
use std::time::Duration;

/// Between two attempts to read the catalog.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// The catalog as a source of schemas.
pub struct CatalogSchemas {
    client: Client,
    closing: Arc<Closing>,
}

impl CatalogSchemas {
    /// Reads through this client; gives up waiting for the rows when it is closed.
    pub fn new(client: Client, closing: Arc<Closing>) -> CatalogSchemas {
        CatalogSchemas { client, closing }
    }
}

/// A schema as the catalog keeps it.
fn parse(id: TableId, json: &[u8]) -> Result<Arc<TableSchema>, String> {
    let schema = serde_json::from_slice::<TableSchema>(json).map(Arc::new);
    schema.map_err(|e| format!("schema of table {id}: {e}"))
}

impl SchemaSource for CatalogSchemas {
    fn table(&self, id: TableId, _refresh: bool) -> Result<Option<Arc<TableSchema>>, String> {
        // An answer is needed before the next row can be applied, so this waits for the rows to be
        // reachable; the learner keeps what it gets and asks again only when it is too old.
        loop {
            match self.client.get_latest(&catalog::table_key(id)) {
                Ok(None) => return Ok(None),
                Ok(Some(json)) => return parse(id, &json).map(Some),
                Err(e) if self.closing.wait(RETRY_EVERY) => {
                    return Err(format!("schema of table {id}: {e}"));
                }
                Err(_) => {}
            }
        }
    }

    fn glance(&self, id: TableId) -> Option<Arc<TableSchema>> {
        let json = self.client.get_latest(&catalog::table_key(id)).ok()??;
        parse(id, &json).ok()
    }
}
