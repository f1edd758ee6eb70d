//! The transaction that spans statements, its savepoints, and the tables it has written. It must
//! never commit rows that were made for another version of a table: the catalog checks.

use crate::catalog::CatalogView;
use crate::error::{Error, Result};
use crate::failure;
use crate::outcome::Done;
use crate::session::connection::Connection;
use crate::statement::{Stmt, TableName};
use damask_txn::{Isolation, Mark, Mode, Options, Reads, Transaction};
use damask_types::{TableId, Timestamp};
use parking_lot::Mutex;
use sqlparser::ast::{ObjectName, TableFactor, TableWithJoins};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Savepoints of a transaction at most.
const SAVEPOINTS_MAX: usize = 1024;

/// What SET TRANSACTION without a scope says of the next transaction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Characteristics {
    /// ISOLATION LEVEL.
    pub isolation: Option<Isolation>,
    /// READ ONLY or READ WRITE.
    pub read_only: Option<bool>,
    /// AS OF TIMESTAMP.
    pub as_of: Option<Timestamp>,
}

/// An open transaction.
pub struct Open {
    /// The transaction.
    pub txn: Transaction,
    /// READ ONLY.
    pub read_only: bool,
    /// It looks into the past: the catalog as it was.
    pub past: Option<Arc<CatalogView>>,
    touched: BTreeMap<TableId, u64>,
    savepoints: Vec<(String, Mark)>,
}

impl Open {
    /// Nothing done yet.
    pub fn new(txn: Transaction, read_only: bool) -> Open {
        let (touched, savepoints) = (BTreeMap::new(), Vec::new());
        Open { txn, read_only, past: None, touched, savepoints }
    }

    /// One that looks into the past.
    pub fn past(txn: Transaction, view: Arc<CatalogView>) -> Open {
        Open { past: Some(view), ..Open::new(txn, true) }
    }

    /// Notes the tables that a statement changes, at the version it sees. The first version that
    /// was seen counts.
    pub fn touch(&mut self, view: &Arc<CatalogView>, database: Option<&str>, stmt: &Stmt) {
        for name in targets(stmt) {
            let Some(database) = name.database.as_deref().or(database) else { continue };
            if let Some(table) = view.table(database, &name.table) {
                self.touched.entry(table.id).or_insert(table.version);
            }
        }
    }
}

/// A transaction without its writes, which somebody else has.
pub struct Lent {
    slot: Arc<Mutex<Option<Transaction>>>,
    read_only: bool,
    touched: BTreeMap<TableId, u64>,
    savepoints: Vec<(String, Mark)>,
}

impl Open {
    /// Lends the writes to somebody who puts more into them.
    pub fn lend(self) -> (Lent, Arc<Mutex<Option<Transaction>>>) {
        let slot = Arc::new(Mutex::new(Some(self.txn)));
        let lent = Lent {
            slot: slot.clone(),
            read_only: self.read_only,
            touched: self.touched,
            savepoints: self.savepoints,
        };
        (lent, slot)
    }
}

impl Lent {
    /// The transaction again; `None` if it was lost on the way.
    pub fn back(self) -> Option<Open> {
        let txn = self.slot.lock().take()?;
        let (read_only, touched, savepoints) = (self.read_only, self.touched, self.savepoints);
        Some(Open { txn, read_only, past: None, touched, savepoints })
    }
}

/// Tables that a statement may change.
fn targets(stmt: &Stmt) -> Vec<TableName> {
    match stmt {
        Stmt::Insert(insert) => vec![insert.table.clone()],
        Stmt::LoadData(load) => vec![load.table.clone()],
        Stmt::Update(update) => named(&update.from),
        Stmt::Delete(delete) => named(&delete.from),
        _ => Vec::new(),
    }
}

fn named(from: &[TableWithJoins]) -> Vec<TableName> {
    let factors = from.iter().flat_map(|t| {
        std::iter::once(&t.relation).chain(t.joins.iter().map(|join| &join.relation))
    });
    factors
        .filter_map(|factor| match factor {
            TableFactor::Table { name, .. } => table_name(name),
            _ => None,
        })
        .collect()
}

fn table_name(name: &ObjectName) -> Option<TableName> {
    let mut parts = name.0.iter().filter_map(|part| part.as_ident()).map(|i| i.value.clone());
    match (parts.next(), parts.next()) {
        (Some(database), Some(table)) => Some(TableName { database: Some(database), table }),
        (Some(table), None) => Some(TableName { database: None, table }),
        _ => None,
    }
}

impl Connection {
    /// Opens a transaction; there is none. What is not said is as SET TRANSACTION and the
    /// variables say.
    pub(super) fn begin(&mut self, mode: Option<Mode>, read_only: Option<bool>) -> Result<()> {
        let next = std::mem::take(&mut self.next);
        let options = Options {
            mode: mode.unwrap_or_else(|| self.variables.transaction_mode()),
            isolation: next.isolation.unwrap_or_else(|| self.variables.isolation()),
        };
        let read_only = read_only.or(next.read_only).unwrap_or_else(|| self.reads_only());
        let txn = failure::catalog(self.database.client.begin_with(options))?;
        self.open = Some(Open::new(txn, read_only));
        Ok(())
    }

    /// Opens a transaction for a statement that needs one when statements do not commit by
    /// themselves.
    pub(super) fn begin_implicitly(&mut self) -> Result<()> {
        match self.open.is_none() && !self.variables.autocommit() {
            true => self.begin(None, None),
            false => Ok(()),
        }
    }

    /// `transaction_read_only`.
    fn reads_only(&self) -> bool {
        self.variables.number("transaction_read_only") != 0
    }

    /// 1792 in a transaction that only reads, or if a statement's own transaction would only read.
    pub(super) fn check_writable(&mut self) -> Result<()> {
        let read_only = match &self.open {
            Some(open) => open.read_only,
            None => {
                let next = std::mem::take(&mut self.next);
                next.read_only.unwrap_or_else(|| self.reads_only())
            }
        };
        match read_only {
            true => Err(Error::read_only_transaction(
                "Cannot execute statement in a READ ONLY transaction.",
            )),
            false => Ok(()),
        }
    }

    /// A statement begins that reads and does not lock: the version that the open transaction
    /// reads is its snapshot again, or a fresh one with read committed.
    pub(super) fn begin_reading(&mut self) -> Result<()> {
        match &mut self.open {
            Some(open) => failure::catalog(open.txn.begin_statement(Reads::Snapshot)),
            None => Ok(()),
        }
    }

    /// Rolls the open transaction back, if there is one.
    pub(super) fn abandon(&mut self) {
        if let Some(open) = self.open.take() {
            open.txn.rollback();
        }
    }

    /// Commits the open transaction, if there is one. It is over either way.
    pub(super) fn commit(&mut self) -> Result<()> {
        match self.open.take() {
            Some(open) => self.finish(open),
            None => Ok(()),
        }
    }

    pub(super) fn finish(&self, open: Open) -> Result<()> {
        let touched: Vec<_> = open.touched.into_iter().collect();
        self.database.catalog.commit(&touched, open.txn)
    }

    pub(super) fn savepoint(&mut self, name: &str) -> Result<Done> {
        if self.open.is_none() {
            // Outside of a transaction a savepoint is gone with its statement.
            if self.variables.autocommit() {
                return Ok(Done::default());
            }
            self.begin(None, None)?;
        }
        let open = self.open.as_mut().expect("it was opened");
        if open.savepoints.len() >= SAVEPOINTS_MAX {
            return Err(Error::unknown(format!("more than {SAVEPOINTS_MAX} savepoints")));
        }
        // A savepoint of the same name is replaced; its mark stays with the later ones.
        open.savepoints.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        let mark = open.txn.mark();
        open.savepoints.push((name.to_owned(), mark));
        Ok(Done::default())
    }

    pub(super) fn rollback_to(&mut self, name: &str) -> Result<Done> {
        let open = self.open.as_mut().ok_or_else(|| no_savepoint(name))?;
        let at = find(&open.savepoints, name).ok_or_else(|| no_savepoint(name))?;
        open.savepoints.truncate(at + 1);
        let (name, mark) = open.savepoints.pop().expect("it was found");
        // Locks taken since stay, as in MySQL.
        open.txn.rollback_to(mark);
        // The savepoint itself stays.
        let mark = open.txn.mark();
        open.savepoints.push((name, mark));
        Ok(Done::default())
    }

    pub(super) fn release(&mut self, name: &str) -> Result<Done> {
        let open = self.open.as_mut().ok_or_else(|| no_savepoint(name))?;
        let at = find(&open.savepoints, name).ok_or_else(|| no_savepoint(name))?;
        open.savepoints.truncate(at + 1);
        let (_, mark) = open.savepoints.pop().expect("it was found");
        open.txn.release(mark);
        Ok(Done::default())
    }
}

fn find(savepoints: &[(String, Mark)], name: &str) -> Option<usize> {
    savepoints.iter().position(|(n, _)| n.eq_ignore_ascii_case(name))
}

fn no_savepoint(name: &str) -> Error {
    Error { code: 1305, state: "42000", message: format!("SAVEPOINT {name} does not exist") }
}
