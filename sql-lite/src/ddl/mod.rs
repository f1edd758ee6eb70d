//! Changes to the catalog: CREATE, ALTER, DROP, TRUNCATE, RENAME. Each is one catalog transaction,
//! an index is filled between two of them. It must never leave an index readable that lacks a row.
//!
//! ```text
//!  CREATE INDEX:  WriteOnly ──► every commit keeps it ──► backfill in batches ──► Public
//!                                                             └─ duplicate ──► removed again
//!  DROP, TRUNCATE: catalog first, then the collector deletes the data in the background
//! ```

pub mod alter;
pub mod backfill;
pub mod build;
mod checks;
pub mod collect;

use crate::catalog::{Catalog, Change, is_system};
use crate::database::ColumnReplicas;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::session::{Level, Warnings};
use crate::statement::ddl::COLLATION;
use crate::statement::{CreateTable, Stmt, TableName};
use collect::Collector;
use damask_txn::Client;
use damask_types::key::row_range;
use damask_types::{TableId, TableSchema};
use std::sync::Arc;

/// What DDL works with.
pub struct Ddl<'a> {
    /// The catalog.
    pub catalog: &'a Catalog,
    /// For data.
    pub client: &'a Client,
    /// Column replicas.
    pub replicas: &'a Arc<dyn ColumnReplicas>,
    /// Deletes what is dropped.
    pub collector: &'a Collector,
    /// The current database.
    pub database: Option<&'a str>,
    /// Ends the filling of an index.
    pub interrupt: Arc<Interrupt>,
    /// Of the statement.
    pub warnings: &'a mut Warnings,
    /// The statement's time: UTC microseconds.
    pub now_us: i64,
    /// The session's zone, for defaults.
    pub offset_us: i64,
}

/// A database and a table's name.
pub type FullName = (String, String);

impl Ddl<'_> {
    /// Runs a statement that is DDL; CREATE TABLE … AS SELECT has its columns by now.
    pub fn run(&mut self, stmt: &Stmt) -> Result<()> {
        match stmt {
            Stmt::CreateDatabase { name, if_not_exists } => {
                self.create_database(name, *if_not_exists)
            }
            Stmt::DropDatabase { name, if_exists } => self.drop_database(name, *if_exists),
            Stmt::AlterDatabase { name } => match name.as_deref().or(self.database) {
                Some(name) if self.catalog.view().has_database(name) => Ok(()),
                Some(name) => Err(unknown_database(name)),
                None => Err(Error::no_database("No database selected")),
            },
            Stmt::CreateTable(create) => self.create_table(create).map(drop),
            Stmt::DropTable { names, if_exists } => self.drop_tables(names, *if_exists),
            Stmt::DropNothing { name, if_exists } => self.drop_nothing(name, *if_exists),
            Stmt::Truncate(name) => self.truncate(name),
            Stmt::RenameTables(pairs) => self.rename(pairs),
            Stmt::AlterTable { table, actions } => alter::run(self, table, actions),
            _ => Err(Error::unknown("not a definition")),
        }
    }

    /// The database and name that a name means.
    pub fn full_name(&self, name: &TableName) -> Result<FullName> {
        let database = match (&name.database, self.database) {
            (Some(database), _) => database.clone(),
            (None, Some(database)) => database.to_owned(),
            (None, None) => return Err(Error::no_database("No database selected")),
        };
        if is_system(&database) {
            let message = format!("Access denied to database '{database}'");
            return Err(Error { code: 1044, state: "42000", message });
        }
        Ok((database, name.table.clone()))
    }

    fn create_database(&mut self, name: &str, if_not_exists: bool) -> Result<()> {
        build::check_name(name)?;
        if self.catalog.view().has_database(name) {
            let message = format!("Can't create database '{name}'; database exists");
            if if_not_exists {
                self.warnings.push(Level::Note, 1007, message);
                return Ok(());
            }
            return Err(Error { code: 1007, state: "HY000", message });
        }
        self.catalog.change(|change| {
            change.create_database(name.to_owned());
            Ok(())
        })
    }

    fn drop_database(&mut self, name: &str, if_exists: bool) -> Result<()> {
        if is_system(name) {
            let message = format!("Access denied to database '{name}'");
            return Err(Error { code: 1044, state: "42000", message });
        }
        let message = format!("Can't drop database '{name}'; database doesn't exist");
        let dropped = self.catalog.change(|change| {
            if !change.view.has_database(name) {
                return Ok(None);
            }
            let tables: Vec<Arc<TableSchema>> = change.view.tables_of(name).cloned().collect();
            change.drop_database(name);
            Ok(Some(tables))
        })?;
        match dropped {
            Some(tables) => {
                tables.iter().for_each(|table| self.discard(table));
                Ok(())
            }
            None if if_exists => {
                self.warnings.push(Level::Note, 1008, message);
                Ok(())
            }
            None => Err(Error { code: 1008, state: "HY000", message }),
        }
    }

    /// After the catalog has forgotten a table: its replicas and data.
    fn discard(&mut self, table: &TableSchema) {
        if table.column_replicas > 0 {
            // The rule of a range without rows harms nobody; the next change of it wins.
            if let Err(e) = self.replicas.remove(&row_range(table.id)) {
                self.warnings.push(Level::Warning, 1105, e);
            }
        }
        self.collector.table(table.id);
    }

    /// Creates a table; `false` if it was there and IF NOT EXISTS given.
    pub fn create_table(&mut self, create: &CreateTable) -> Result<bool> {
        let (database, name) = self.full_name(&create.name)?;
        for what in &create.ignored {
            let message = match *what {
                COLLATION => "Collations are parsed and have no effect: texts compare by bytes, \
                              upper and lower case differ (utf8mb4_bin)"
                    .to_owned(),
                what => format!("{what} constraints are parsed and not enforced"),
            };
            self.warnings.push(Level::Warning, 1235, message);
        }
        let like = match &create.like {
            Some(like) => {
                let view = self.catalog.view();
                Some(crate::dml::find_table(&view, self.database, like)?)
            }
            None => None,
        };
        let (now_us, offset_us) = (self.now_us, self.offset_us);
        let mut said = Vec::new();
        let created = self.catalog.change(|change| {
            check_free(change, &database, &name, create.if_not_exists)?;
            if change.view.table(&database, &name).is_some() {
                return Ok(false);
            }
            let id = change.table_id();
            let table = match &like {
                Some(like) => TableSchema {
                    id,
                    database: database.clone(),
                    name: name.clone(),
                    version: 1,
                    column_replicas: 0,
                    ..TableSchema::clone(like)
                },
                None => build::table(id, &database, &name, create, now_us, offset_us)?,
            };
            if let Some(next) = create.auto_increment {
                change.auto_increment(id, next.max(1));
            }
            let mut list = match &like {
                Some(like) => checks::alike(&change.view, &table, change.view.checks(like.id)),
                None => Vec::new(),
            };
            said = checks::add(&change.view, &table, &mut list, &create.checks)?;
            if !list.is_empty() {
                change.put_checks(id, list);
            }
            change.put(table);
            Ok(true)
        })?;
        for message in said {
            self.warnings.push(Level::Warning, 1235, message);
        }
        if !created {
            self.warnings.push(Level::Note, 1050, format!("Table '{name}' already exists"));
        }
        Ok(created)
    }

    fn drop_tables(&mut self, names: &[TableName], if_exists: bool) -> Result<()> {
        let names = names.iter().map(|n| self.full_name(n)).collect::<Result<Vec<_>>>()?;
        let mut missing = Vec::new();
        let dropped = self.catalog.change(|change| {
            missing.clear();
            let mut dropped: Vec<Arc<TableSchema>> = Vec::new();
            for (database, name) in &names {
                match change.view.table(database, name) {
                    Some(table) if !dropped.iter().any(|d| d.id == table.id) => {
                        dropped.push(table);
                    }
                    _ => missing.push(format!("{database}.{name}")),
                }
            }
            if !missing.is_empty() && !if_exists {
                return Err(Error::bad_table(format!("Unknown table '{}'", missing.join(","))));
            }
            dropped.iter().for_each(|table| change.drop_table(table.id));
            Ok(dropped)
        })?;
        dropped.iter().for_each(|table| self.discard(table));
        for name in missing {
            self.warnings.push(Level::Note, 1051, format!("Unknown table '{name}'"));
        }
        Ok(())
    }

    fn drop_nothing(&mut self, name: &TableName, if_exists: bool) -> Result<()> {
        let message = format!("Unknown table '{name}'");
        if if_exists {
            self.warnings.push(Level::Note, 1051, message);
            return Ok(());
        }
        Err(Error::bad_table(message))
    }

    /// A table under a new id; the data of the old one is deleted.
    fn truncate(&mut self, name: &TableName) -> Result<()> {
        let (database, name) = self.full_name(name)?;
        let (old, new) = self.catalog.change(|change| {
            let old = table_of(change, &database, &name)?;
            let id = change.table_id();
            change.drop_table(old.id);
            let checks = change.view.checks(old.id).to_vec();
            if !checks.is_empty() {
                change.put_checks(id, checks);
            }
            change.put(TableSchema { id, version: old.version + 1, ..TableSchema::clone(&old) });
            Ok((old, id))
        })?;
        if old.column_replicas > 0 {
            set_replicas(self.replicas.as_ref(), new, old.column_replicas)?;
        }
        self.discard(&old);
        Ok(())
    }

    fn rename(&mut self, pairs: &[(TableName, TableName)]) -> Result<()> {
        let pairs = pairs
            .iter()
            .map(|(from, to)| Ok((self.full_name(from)?, self.full_name(to)?)))
            .collect::<Result<Vec<_>>>()?;
        self.catalog.change(|change| {
            // Names as they are after the pairs before: `a TO b, c TO a` is allowed.
            let mut moved: Vec<(FullName, FullName, Arc<TableSchema>)> = Vec::new();
            for (from, to) in &pairs {
                let table = table_of(change, &from.0, &from.1)?;
                let freed = moved.iter().any(|(was, _, _)| same(was, to));
                let taken = moved.iter().any(|(_, now, _)| same(now, to));
                if taken || !freed {
                    check_free(change, &to.0, &to.1, false)?;
                }
                moved.push((from.clone(), to.clone(), table));
            }
            for (_, (database, name), table) in moved {
                let version = table.version + 1;
                change.put(TableSchema { database, name, version, ..TableSchema::clone(&table) });
            }
            Ok(())
        })
    }
}

/// Asks placement for this many column replicas of a table.
fn set_replicas(replicas: &dyn ColumnReplicas, table: TableId, count: u32) -> Result<()> {
    let range = row_range(table);
    let done = if count == 0 { replicas.remove(&range) } else { replicas.set(range, count) };
    done.map_err(|e| Error::unknown(format!("column replicas: {e}")))
}

/// Makes placement want what the catalog says, for each table: the end of a process may have come
/// between the two.
pub fn place_replicas(catalog: &Catalog, replicas: &dyn ColumnReplicas) {
    for table in catalog.view().tables() {
        let (_, wanted) = replicas.progress(&row_range(table.id));
        if wanted != table.column_replicas
            && let Err(error) = set_replicas(replicas, table.id, table.column_replicas)
        {
            tracing::warn!(%error, table = table.name, "column replicas cannot be placed");
        }
    }
}

fn same(a: &FullName, b: &FullName) -> bool {
    a.0.eq_ignore_ascii_case(&b.0) && a.1.eq_ignore_ascii_case(&b.1)
}

fn unknown_database(name: &str) -> Error {
    Error::unknown_database(format!("Unknown database '{name}'"))
}

/// The table that a change is about.
pub(crate) fn table_of(change: &Change, database: &str, name: &str) -> Result<Arc<TableSchema>> {
    if let Some(table) = change.view.table(database, name) {
        return Ok(table);
    }
    if !change.view.has_database(database) {
        return Err(unknown_database(database));
    }
    Err(Error::no_such_table(format!("Table '{database}.{name}' doesn't exist")))
}

/// No table has this name (1050), and its database exists (1049).
fn check_free(change: &Change, database: &str, name: &str, may_exist: bool) -> Result<()> {
    build::check_name(name)?;
    if !change.view.has_database(database) {
        return Err(unknown_database(database));
    }
    if change.view.table(database, name).is_some() && !may_exist {
        return Err(Error::table_exists(format!("Table '{name}' already exists")));
    }
    Ok(())
}
