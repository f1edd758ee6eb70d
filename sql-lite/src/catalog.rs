//! The catalog as one statement sees it: databases and tables at a schema version. A view never
//! changes; `store` keeps the newest one.

pub mod checks;
pub mod ids;
pub mod store;

use checks::Check;
use damask_types::schema::IndexState;
use damask_types::{IndexSchema, TableId, TableSchema, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use store::{Catalog, Change, Garbage};

/// Databases that have no key in the catalog and cannot be changed.
pub const SYSTEM_DATABASES: [&str; 3] = ["information_schema", "mysql", "performance_schema"];

/// Is it one of the databases that the server itself provides?
pub fn is_system(database: &str) -> bool {
    SYSTEM_DATABASES.iter().any(|name| name.eq_ignore_ascii_case(database))
}

/// A consistent catalog at one version.
#[derive(Clone, Debug, Default)]
pub struct CatalogView {
    /// Raised by every DDL.
    pub version: u64,
    /// Users' databases: lower-case name to the name as written. System databases are not here.
    pub databases: BTreeMap<String, String>,
    tables: BTreeMap<(String, String), Arc<TableSchema>>,
    by_id: HashMap<TableId, Arc<TableSchema>>,
    /// Of tables that have any.
    checks: HashMap<TableId, Vec<Check>>,
}

impl CatalogView {
    /// A view of these databases (as written) and tables.
    pub fn new(version: u64, databases: Vec<String>, tables: Vec<TableSchema>) -> CatalogView {
        let databases = databases.into_iter().map(|d| (d.to_ascii_lowercase(), d)).collect();
        let tables: Vec<_> = tables.into_iter().map(Arc::new).collect();
        let by_id = tables.iter().map(|t| (t.id, t.clone())).collect();
        let key = |t: &TableSchema| (t.database.to_ascii_lowercase(), t.name.to_ascii_lowercase());
        let tables = tables.into_iter().map(|t| (key(&t), t)).collect();
        CatalogView { version, databases, tables, by_id, checks: HashMap::new() }
    }

    /// The view with these CHECK constraints.
    pub fn with_checks(mut self, checks: HashMap<TableId, Vec<Check>>) -> CatalogView {
        self.checks = checks;
        self.checks.retain(|_, list| !list.is_empty());
        self
    }

    /// A table's CHECK constraints, in the order of their definition.
    pub fn checks(&self, id: TableId) -> &[Check] {
        self.checks.get(&id).map_or(&[], Vec::as_slice)
    }

    /// What a statement that reads at `ts` may use: an index that was filled later than that lacks
    /// entries of it, so it is only written.
    pub fn at(self: &Arc<Self>, ts: Timestamp) -> Arc<CatalogView> {
        let younger = |index: &IndexSchema| index.readable_from > ts;
        if !self.tables().any(|table| table.indexes.iter().any(younger)) {
            return Arc::clone(self);
        }
        let tables = self.tables().map(|table| {
            let mut table = TableSchema::clone(table);
            let indexes = table.indexes.iter_mut().filter(|index| younger(index));
            indexes.for_each(|index| index.state = IndexState::WriteOnly);
            table
        });
        let databases = self.databases.values().cloned().collect();
        let view = CatalogView::new(self.version, databases, tables.collect());
        Arc::new(view.with_checks(self.checks.clone()))
    }

    /// Is there such a database, of users or of the system?
    pub fn has_database(&self, name: &str) -> bool {
        is_system(name) || self.databases.contains_key(&name.to_ascii_lowercase())
    }

    /// A table, without regard to case. System tables are not here: see `information_schema`.
    pub fn table(&self, database: &str, name: &str) -> Option<Arc<TableSchema>> {
        self.tables.get(&(database.to_ascii_lowercase(), name.to_ascii_lowercase())).cloned()
    }

    /// A table by id.
    pub fn table_by_id(&self, id: TableId) -> Option<Arc<TableSchema>> {
        self.by_id.get(&id).cloned()
    }

    /// The tables of a database in name order.
    pub fn tables_of(&self, database: &str) -> impl Iterator<Item = &Arc<TableSchema>> {
        let database = database.to_ascii_lowercase();
        let from = (database.clone(), String::new());
        self.tables.range(from..).take_while(move |((d, _), _)| *d == database).map(|(_, t)| t)
    }

    /// Every table, by database and name.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<TableSchema>> {
        self.tables.values()
    }
}
