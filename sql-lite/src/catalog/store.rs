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
use super::checks::Check;
use super::ids::Ids;
use crate::error::{Error, Result};
use crate::failure;
use damask_txn::{Client, ReadFrom, SnapshotReader, Transaction};
use damask_types::schema::{IndexSchema, IndexState, catalog as keys};
use damask_types::{IndexId, KeyRange, TableId, TableSchema, Timestamp};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Table ids below are the system's.
const FIRST_TABLE_ID: i64 = 100;
/// Conflicts after which a catalog transaction gives up.
const ATTEMPTS_MAX: u32 = 20;
/// Catalog entries read at once.
const PAGE: usize = 1_000;

/// `mg{table id}` or `mg{table id}{index id}`, big-endian: a dropped table or index whose data is
/// still to be deleted.
const GARBAGE_PREFIX: &[u8] = b"mg";
/// `mk{table id, big-endian}`: a table's CHECK constraints, JSON; none, if it has none.
const CHECKS_PREFIX: &[u8] = b"mk";

/// Something dropped whose data is still to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Garbage {
    /// A table with its indexes.
    Table(TableId),
    /// One index.
    Index(TableId, IndexId),
}

/// The catalog of a cluster.
pub struct Catalog {
    client: Client,
    view: RwLock<Arc<CatalogView>>,
    /// A change may have been made that `view` does not show: nothing commits until it is read.
    stale: AtomicBool,
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
    garbage: Vec<Garbage>,
    new_databases: Vec<String>,
    old_databases: Vec<String>,
    counters: Vec<(Vec<u8>, u64)>,
    checks: HashMap<TableId, Vec<Check>>,
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

    /// Sets a table's CHECK constraints.
    pub fn put_checks(&mut self, id: TableId, checks: Vec<Check>) {
        self.checks.insert(id, checks);
    }

    /// Removes a table; its data is deleted afterwards.
    pub fn drop_table(&mut self, id: TableId) {
        self.drops.push(id);
        self.garbage.push(Garbage::Table(id));
    }

    /// An index is not in its table any more; its entries are deleted afterwards.
    pub fn drop_index(&mut self, table: TableId, index: IndexId) {
        self.garbage.push(Garbage::Index(table, index));
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

    /// Sets the next AUTO_INCREMENT value of a new table.
    pub fn auto_increment(&mut self, id: TableId, next: u64) {
        self.counters.push((keys::auto_increment_key(id), next));
    }

    /// The catalog after this change.
    fn after(&self) -> CatalogView {
        let before = &self.view;
        let gone = |name: &String| self.old_databases.iter().any(|d| d.eq_ignore_ascii_case(name));
        let databases = before.databases.values().filter(|name| !gone(name));
        let databases = databases.chain(&self.new_databases).cloned().collect();
        let replaced = |id| self.drops.contains(&id) || self.puts.iter().any(|put| put.id == id);
        let kept = before.tables().filter(|table| !replaced(table.id));
        let kept = kept.map(|table| TableSchema::clone(table));
        let tables = kept.chain(self.puts.iter().cloned()).collect();
        let mut checks = before.checks.clone();
        checks.retain(|id, _| !self.drops.contains(id));
        checks.extend(self.checks.iter().map(|(id, list)| (*id, list.clone())));
        CatalogView::new(before.version + 1, databases, tables).with_checks(checks)
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
            if !self.view.checks(*id).is_empty() {
                failure::catalog(txn.delete(checks_key(*id)))?;
            }
        }
        for (id, list) in &self.checks {
            if list.is_empty() {
                failure::catalog(txn.delete(checks_key(*id)))?;
                continue;
            }
            let value = serde_json::to_vec(list);
            let value = value.map_err(|e| Error::unknown(format!("catalog: {e}")))?;
            put(txn, checks_key(*id), value)?;
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

fn checks_key(id: TableId) -> Vec<u8> {
    [CHECKS_PREFIX, &id.0.to_be_bytes()].concat()
}

fn garbage_key(garbage: Garbage) -> Vec<u8> {
    match garbage {
        Garbage::Table(table) => [GARBAGE_PREFIX, &table.0.to_be_bytes()].concat(),
        Garbage::Index(table, index) => {
            [GARBAGE_PREFIX, &table.0.to_be_bytes(), &index.0.to_be_bytes()].concat()
        }
    }
}

fn garbage_of(key: &[u8]) -> Option<Garbage> {
    let (table, index) = key.get(GARBAGE_PREFIX.len()..)?.split_first_chunk()?;
    let table = TableId(i64::from_be_bytes(*table));
    Some(match index {
        [] => Garbage::Table(table),
        index => Garbage::Index(table, IndexId(i64::from_be_bytes(index.try_into().ok()?))),
    })
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
            stale: AtomicBool::new(false),
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
        self.refresh()?;
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
        let mut last: Option<Change> = None;
        let outcome = {
            let _alone = self.gate.write();
            self.refresh()?;
            let outcome = transact(&self.client, |txn| {
                let next_id = number(txn, &keys::next_id_key())? as i64;
                let mut change = Change::new(self.view(), next_id.max(FIRST_TABLE_ID));
                let value = collect(&mut change)?;
                change.write(txn)?;
                last = Some(change);
                Ok(value)
            });
            match (&outcome, &last) {
                (Ok(_), Some(change)) => *self.view.write() = Arc::new(change.after()),
                // After an unknown outcome the cluster knows better than the cache.
                (Err(e), _) if e.code == 8501 => self.stale.store(true, Ordering::SeqCst),
                _ => {}
            }
            outcome
        };
        // An unknown outcome may have dropped them: their counters are read again.
        last.into_iter().flat_map(|change| change.drops).for_each(|id| self.ids.forget(id));
        outcome
    }

    /// Reads the catalog if it may have changed without this node knowing.
    fn refresh(&self) -> Result<()> {
        if self.stale.load(Ordering::SeqCst) {
            let view = load(&self.client)?;
            *self.view.write() = Arc::new(view);
            self.stale.store(false, Ordering::SeqCst);
        }
        Ok(())
    }

    /// The catalog as it was.
    pub fn past(&self, ts: Timestamp) -> Result<Arc<CatalogView>> {
        let now = self.view();
        let snapshot = self.client.snapshot(ts).from(ReadFrom::Any);
        let version = failure::catalog(snapshot.get(&keys::version_key()))?;
        if version.is_some_and(|text| text == now.version.to_string().as_bytes()) {
            return Ok(now);
        }
        read(&snapshot).map(Arc::new)
    }

    /// What was dropped and whose data is still there.
    pub fn garbage(&self) -> Result<Vec<Garbage>> {
        let ts = failure::catalog(self.client.timestamp())?;
        let range = KeyRange::prefix(GARBAGE_PREFIX);
        let pairs = failure::catalog(self.client.snapshot(ts).scan(&range, PAGE, false))?;
        Ok(pairs.iter().filter_map(|(key, _)| garbage_of(key)).collect())
    }

    /// The data of something dropped is gone.
    pub fn collected(&self, garbage: Garbage) -> Result<()> {
        transact(&self.client, |txn| failure::catalog(txn.delete(garbage_key(garbage))))
    }

    /// Removes indexes whose filling was cut short by the end of a process: nobody was told that
    /// they exist. For the start, before anything else changes the catalog.
    pub fn remove_unfinished(&self) -> Result<()> {
        let unfinished = |i: &IndexSchema| i.state != IndexState::Public;
        if !self.view().tables().any(|table| table.indexes.iter().any(unfinished)) {
            return Ok(());
        }
        self.change(|change| {
            let tables: Vec<_> = change.view.tables().cloned().collect();
            for table in tables.iter().filter(|t| t.indexes.iter().any(unfinished)) {
                let mut table = TableSchema::clone(table);
                for index in table.indexes.extract_if(.., |i| unfinished(i)) {
                    change.drop_index(table.id, index.id);
                }
                table.version += 1;
                change.put(table);
            }
            Ok(())
        })
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
            checks: HashMap::new(),
        }
    }
}

/// Reads the whole catalog as it is.
fn load(client: &Client) -> Result<CatalogView> {
    let ts = failure::catalog(client.timestamp())?;
    read(&client.snapshot(ts))
}

/// Reads the whole catalog at one timestamp.
fn read(snapshot: &SnapshotReader) -> Result<CatalogView> {
    let corrupt = |what: &str| Error::unknown(format!("catalog: {what} cannot be read"));
    let mut version = 0;
    let mut databases = Vec::new();
    let mut tables = Vec::new();
    let mut checks = HashMap::new();
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
                Some(b'k') => {
                    let id = key.get(CHECKS_PREFIX.len()..).and_then(|id| id.try_into().ok());
                    let list = id.zip(serde_json::from_slice::<Vec<Check>>(value).ok());
                    let (id, list) = list.ok_or_else(|| corrupt("a CHECK constraint"))?;
                    checks.insert(TableId(i64::from_be_bytes(id)), list);
                }
                _ => {}
            }
        }
        match pairs.last() {
            Some((key, _)) if pairs.len() == PAGE => range.start = KeyRange::point(key).end,
            _ => {
                return Ok(CatalogView::new(version, databases, tables).with_checks(checks));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use damask_kv::MemoryEngine;
    use damask_txn::LocalCluster;
    use damask_types::ColumnId;

    fn table(id: TableId, name: &str, state: IndexState) -> TableSchema {
        let (name, columns) = (name.to_owned(), vec![ColumnId(1)]);
        let index = IndexSchema {
            readable_from: damask_types::Timestamp::ZERO,
            id: IndexId(7),
            name: "k".to_owned(),
            columns,
            unique: false,
            primary: false,
            state,
        };
        TableSchema {
            id,
            database: "test".to_owned(),
            name,
            version: 1,
            columns: Vec::new(),
            handle_column: None,
            indexes: vec![index],
            column_replicas: 0,
            max_column_id: ColumnId(1),
            max_index_id: IndexId(7),
            comment: String::new(),
        }
    }

    /// What the cache became by a change is what the cluster holds.
    #[test]
    fn a_change_makes_the_view_that_would_be_read() {
        let cluster = LocalCluster::new(Arc::new(MemoryEngine::new()));
        let catalog = Catalog::open(cluster.client()).expect("an empty cluster");
        let same = || {
            let read = load(&cluster.client()).expect("it is there");
            assert_eq!(format!("{:?}", sorted(&read)), format!("{:?}", sorted(&catalog.view())));
        };
        let make = |name: &'static str, state| {
            let put = |change: &mut Change| {
                let id = change.table_id();
                change.put(table(id, name, state));
                let (name, clause) = (format!("{name}_chk_1"), "`n` > 0".to_owned());
                change.put_checks(id, vec![Check { name, clause, enforced: true }]);
                Ok(id)
            };
            catalog.change(put).expect("made")
        };
        let a = make("a", IndexState::Public);
        let b = make("b", IndexState::WriteOnly);
        same();
        catalog.remove_unfinished().expect("removed");
        same();
        let b = catalog.view().table_by_id(b).expect("it stays");
        assert!(b.indexes.is_empty() && b.version == 2);
        assert_eq!(catalog.view().checks(b.id)[0].name, "b_chk_1");
        assert_eq!(catalog.garbage(), Ok(vec![Garbage::Index(b.id, IndexId(7))]));
        catalog
            .change(|change| {
                change.drop_table(a);
                Ok(())
            })
            .expect("dropped");
        catalog
            .change(|change| {
                change.create_database("Other".to_owned());
                Ok(())
            })
            .expect("made");
        same();
        catalog
            .change(|change| {
                change.drop_database("TEST");
                Ok(())
            })
            .expect("dropped");
        same();
        assert_eq!(catalog.view().tables().count(), 0);
        catalog.collected(Garbage::Index(b.id, IndexId(7))).expect("noted");
        let left = catalog.garbage().expect("listed");
        assert_eq!(left, [Garbage::Table(a), Garbage::Table(b.id)]);
    }

    fn sorted(view: &CatalogView) -> (u64, Vec<String>, Vec<(TableSchema, Vec<Check>)>) {
        let databases = view.databases.values().cloned().collect();
        let table = |t: &Arc<TableSchema>| (TableSchema::clone(t), view.checks(t.id).to_vec());
        assert!(view.tables().count() >= view.checks.len(), "constraints of tables that are gone");
        (view.version, databases, view.tables().map(table).collect())
    }
}
