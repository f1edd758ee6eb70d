//! The catalog's home: kept in the cluster under `m` keys, cached as one immutable view. Every
//! change is one transaction that raises the schema version. It must never let a transaction
//! commit rows that were made for another version of their table: commits hold `gate` shared,
//! changes hold it alone.
//!
//! ```text
//!  session ─ view() ─► Arc<CatalogView>            (statement start)
//!  session ─ commit(tables, …) ── gate shared ──► versions still the same? ─► txn.commit
//!  DDL ───── change(…) ────────── gate alone ───► one transaction ─► new view
//! ```
//!
//! One SQL node changes the catalog of a cluster; others would have to be told of new versions.

use super::CatalogView;
use super::ids::Ids;
use crate::error::{Error, Result};
use crate::failure;
use damask_txn::{Client, Transaction};
use damask_types::schema::catalog as keys;
use damask_types::{KeyRange, TableId, TableSchema};
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;

/// Table ids below are the system's.
const FIRST_TABLE_ID: i64 = 100;
/// Conflicts after which a catalog transaction gives up.
const ATTEMPTS_MAX: u32 = 20;
/// Catalog entries read at once.
const PAGE: usize = 1_000;

/// `mg{id, big-endian}`: a dropped table whose data is still to be deleted.
const GARBAGE_PREFIX: &[u8] = b"mg";

/// The catalog of a cluster.
pub struct Catalog {
    client: Client,
    view: RwLock<Arc<CatalogView>>,
    gate: RwLock<()>,
    changes: Mutex<()>,
    ids: Ids,
}

/// Changes collected for one catalog transaction.
pub struct Change {
    /// What the catalog is before.
    pub view: Arc<CatalogView>,
    next_id: i64,
    puts: Vec<TableSchema>,
    drops: Vec<TableId>,
    garbage: Vec<TableId>,
    new_databases: Vec<String>,
    old_databases: Vec<String>,
    counters: Vec<(Vec<u8>, u64)>,
}

impl Change {
    /// An id no table has had.
    pub fn table_id(&mut self) -> TableId {
        self.next_id += 1;
        TableId(self.next_id - 1)
    }

    /// Adds or replaces a table.
    pub fn put(&mut self, table: TableSchema) {
        self.puts.push(table);
    }

    /// Removes a table; its data is deleted afterwards.
    pub fn drop_table(&mut self, id: TableId) {
        self.drops.push(id);
        self.garbage.push(id);
    }

    /// Adds a database.
    pub fn create_database(&mut self, name: String) {
        self.new_databases.push(name);
    }

    /// Removes a database with its tables.
    pub fn drop_database(&mut self, name: &str) {
        self.old_databases.push(name.to_owned());
        let tables: Vec<_> = self.view.tables_of(name).map(|t| t.id).collect();
        tables.into_iter().for_each(|id| self.drop_table(id));
    }

    /// Sets the next AUTO_INCREMENT value.
    pub fn auto_increment(&mut self, id: TableId, next: u64) {
        self.counters.push((keys::auto_increment_key(id), next));
    }

    fn write(&self, txn: &mut Transaction) -> Result<()> {
        let json = |table: &TableSchema| {
            serde_json::to_vec(table).map_err(|e| Error::unknown(format!("catalog: {e}")))
        };
        let put = |txn: &mut Transaction, key, value| failure::catalog(txn.put(key, value));
        for id in &self.drops {
            failure::catalog(txn.delete(keys::table_key(*id)))?;
            failure::catalog(txn.delete(keys::auto_increment_key(*id)))?;
            failure::catalog(txn.delete(keys::row_id_key(*id)))?;
        }
        for table in &self.puts {
            put(txn, keys::table_key(table.id), json(table)?)?;
        }
        for id in &self.garbage {
            put(txn, garbage_key(*id), Vec::from(*b"1"))?;
        }
        for name in &self.old_databases {
            failure::catalog(txn.delete(keys::database_key(name)))?;
        }
        for name in &self.new_databases {
            let value = serde_json::json!({ "name": name }).to_string().into_bytes();
            put(txn, keys::database_key(name), value)?;
        }
        for (key, next) in &self.counters {
            put(txn, key.clone(), next.to_string().into_bytes())?;
        }
        put(txn, keys::next_id_key(), self.next_id.to_string().into_bytes())?;
        put(txn, keys::version_key(), (self.view.version + 1).to_string().into_bytes())
    }
}

fn garbage_key(id: TableId) -> Vec<u8> {
    [GARBAGE_PREFIX, &id.0.to_be_bytes()].concat()
}

/// A decimal number under a key; absent is 0.
pub(super) fn number(txn: &Transaction, key: &[u8]) -> Result<u64> {
    match failure::catalog(txn.get(key))? {
        None => Ok(0),
        Some(bytes) => std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::unknown("catalog: a counter is not a number")),
    }
}

/// Runs a small transaction again until it does not conflict.
pub(super) fn transact<T>(
    client: &Client,
    mut body: impl FnMut(&mut Transaction) -> Result<T>,
) -> Result<T> {
    let mut attempt = 0;
    // Ends: at most ATTEMPTS_MAX turns.
    loop {
        attempt += 1;
        let mut txn = failure::catalog(client.begin())?;
        let value = match body(&mut txn) {
            Ok(value) => value,
            Err(error) => {
                txn.rollback();
                return Err(error);
            }
        };
        match failure::catalog(txn.commit()) {
            Ok(_) => return Ok(value),
            Err(e) if failure::is_conflict(&e) && attempt < ATTEMPTS_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

impl Catalog {
    /// Reads the catalog; an empty cluster gets its first databases.
    pub fn open(client: Client) -> Result<Catalog> {
        let mut view = load(&client)?;
        if view.version == 0 {
            transact(&client, |txn| {
                if number(txn, &keys::version_key())? > 0 {
                    return Ok(());
                }
                let mut change = Change::new(Arc::new(CatalogView::default()), FIRST_TABLE_ID);
                change.create_database("test".to_owned());
                change.write(txn)
            })?;
            view = load(&client)?;
        }
        Ok(Catalog {
            ids: Ids::new(client.clone()),
            client,
            view: RwLock::new(Arc::new(view)),
            gate: RwLock::new(()),
            changes: Mutex::new(()),
        })
    }

    /// The newest catalog.
    pub fn view(&self) -> Arc<CatalogView> {
        self.view.read().clone()
    }

    /// AUTO_INCREMENT values and row ids.
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Commits rows made for these versions of tables; 8028 if one has changed since.
    pub fn commit(&self, tables: &[(TableId, u64)], txn: Transaction) -> Result<()> {
        let _shared = self.gate.read();
        let view = self.view();
        for (id, version) in tables {
            if view.table_by_id(*id).is_none_or(|t| t.version != *version) {
                txn.rollback();
                return Err(Error::schema_changed(
                    "Information schema is changed during the execution of the statement. \
                     [try again later]",
                ));
            }
        }
        failure::convert(txn.commit(), &view).map(drop)
    }

    /// Makes one change. The closure validates against the view it is given and collects; it may
    /// be called again.
    pub fn change<T>(&self, mut collect: impl FnMut(&mut Change) -> Result<T>) -> Result<T> {
        let _one = self.changes.lock();
        let mut last: Option<Vec<TableId>> = None;
        let outcome = {
            let _alone = self.gate.write();
            let outcome = transact(&self.client, |txn| {
                let next_id = number(txn, &keys::next_id_key())? as i64;
                let mut change = Change::new(self.view(), next_id.max(FIRST_TABLE_ID));
                let value = collect(&mut change)?;
                change.write(txn)?;
                last = Some(change.drops);
                Ok(value)
            });
            // After an unknown outcome the cluster knows better than the cache.
            if outcome.is_ok() || outcome.as_ref().is_err_and(|e| e.code == 8501) {
                *self.view.write() = Arc::new(load(&self.client)?);
            }
            outcome
        };
        last.into_iter().flatten().for_each(|id| self.ids.forget(id));
        outcome
    }

    /// Dropped tables whose data is still there.
    pub fn garbage(&self) -> Result<Vec<TableId>> {
        let ts = failure::catalog(self.client.timestamp())?;
        let range = KeyRange::prefix(GARBAGE_PREFIX);
        let pairs = failure::catalog(self.client.snapshot(ts).scan(&range, PAGE, false))?;
        let id = |key: &[u8]| key[GARBAGE_PREFIX.len()..].try_into().ok().map(i64::from_be_bytes);
        Ok(pairs.iter().filter_map(|(key, _)| id(key)).map(TableId).collect())
    }

    /// The data of a dropped table is gone.
    pub fn collected(&self, id: TableId) -> Result<()> {
        transact(&self.client, |txn| failure::catalog(txn.delete(garbage_key(id))))
    }
}

impl Change {
    fn new(view: Arc<CatalogView>, next_id: i64) -> Change {
        Change {
            view,
            next_id,
            puts: Vec::new(),
            drops: Vec::new(),
            garbage: Vec::new(),
            new_databases: Vec::new(),
            old_databases: Vec::new(),
            counters: Vec::new(),
        }
    }
}

/// Reads the whole catalog at one timestamp.
fn load(client: &Client) -> Result<CatalogView> {
    let ts = failure::catalog(client.timestamp())?;
    let snapshot = client.snapshot(ts);
    let corrupt = |what: &str| Error::unknown(format!("catalog: {what} cannot be read"));
    let mut version = 0;
    let mut databases = Vec::new();
    let mut tables = Vec::new();
    let mut range = KeyRange::prefix(keys::PREFIX);
    // Ends: each page leaves less of the range.
    loop {
        let pairs = failure::catalog(snapshot.scan(&range, PAGE, false))?;
        for (key, value) in &pairs {
            match key.get(1) {
                Some(b'v') => {
                    let text = std::str::from_utf8(value).map_err(|_| corrupt("the version"))?;
                    version = text.parse().map_err(|_| corrupt("the version"))?;
                }
                Some(b'd') => {
                    let value: serde_json::Value =
                        serde_json::from_slice(value).map_err(|_| corrupt("a database"))?;
                    let name = value["name"].as_str().ok_or_else(|| corrupt("a database"))?;
                    databases.push(name.to_owned());
                }
                Some(b't') => {
                    let table: TableSchema =
                        serde_json::from_slice(value).map_err(|_| corrupt("a table"))?;
                    tables.push(table);
                }
                _ => {}
            }
        }
        match pairs.last() {
            Some((key, _)) if pairs.len() == PAGE => range.start = KeyRange::point(key).end,
            _ => return Ok(CatalogView::new(version, databases, tables)),
        }
    }
}
