//! LOAD DATA LOCAL: the client is asked for its file, whose rows go in as transactions of a
//! bounded size, or into the open transaction, which is lent out meanwhile. It must never read a
//! file of the server.

use crate::dml::load::{Destination, Loader};
use crate::error::{Error, Result};
use crate::failure;
use crate::outcome::{Done, LocalInfile, Outcome};
use crate::session::Warnings;
use crate::session::connection::Connection;
use crate::session::transaction::Lent;
use crate::statement::{LoadData, Stmt};
use damask_txn::{Mark, Reads, Transaction};
use parking_lot::Mutex;
use std::sync::Arc;

/// What a load leaves for the session to pick up at its next statement.
#[derive(Default)]
pub struct Loan {
    /// The transaction it works in.
    pub lent: Option<Lent>,
    /// Its warnings.
    pub warnings: Arc<Mutex<Warnings>>,
}

struct Load {
    file: String,
    loader: Loader,
    warnings: Arc<Mutex<Warnings>>,
    /// `None`: the rows go into transactions of the loader's own, or all has ended.
    shared: Option<Shared>,
}

/// The session's transaction, into which the rows go as one statement.
struct Shared {
    slot: Arc<Mutex<Option<Transaction>>>,
    /// Before the statement.
    mark: Mark,
}

impl Shared {
    /// Keeps what the statement wrote, which the loader has locked, or takes it back.
    fn end<T>(self, done: Result<T>) -> Result<T> {
        let mut slot = self.slot.lock();
        let Some(txn) = slot.as_mut() else { return done };
        match &done {
            Ok(_) => txn.release(self.mark),
            Err(error) => {
                txn.rollback_to(self.mark);
                if failure::ends_transaction(error)
                    && let Some(txn) = slot.take()
                {
                    txn.rollback();
                }
            }
        }
        done
    }
}

impl LocalInfile for Load {
    fn file_name(&self) -> &str {
        &self.file
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match (self.loader.push(bytes), self.shared.is_some()) {
            (Err(error), true) => self.end_shared(Err(error)),
            (result, _) => result,
        }
    }

    fn finish(mut self: Box<Self>) -> Result<Done> {
        let done = self.loader.finish();
        *self.warnings.lock() = self.loader.take_warnings();
        self.end_shared(done)
    }
}

impl Load {
    fn end_shared<T>(&mut self, done: Result<T>) -> Result<T> {
        match self.shared.take() {
            Some(shared) => shared.end(done),
            None => done,
        }
    }
}

impl Connection {
    pub(super) fn load_data(&mut self, load: &LoadData) -> Result<Outcome> {
        if !load.local {
            // As a server whose secure_file_priv is NULL.
            return Err(Error::option_prevents(
                "The MySQL server is running with the --secure-file-priv option so it cannot \
                 execute this statement",
            ));
        }
        if self.variables.number("local_infile") == 0 {
            return Err(Error::local_infile_disabled(
                "Loading local data is disabled; this must be enabled on both the client and \
                 server sides",
            ));
        }
        self.begin_implicitly()?;
        self.check_writable()?;
        let mut loan = Loan::default();
        let mut shared = None;
        let destination = match self.open.take() {
            None => Destination::Own,
            Some(mut open) => {
                let view = self.database.catalog.view();
                let stmt = Stmt::LoadData(Box::new(load.clone()));
                open.touch(&view, self.current.as_deref(), &stmt);
                let begun = failure::convert(open.txn.begin_statement(Reads::Current), &view);
                let mark = open.txn.mark();
                let (lent, slot) = open.lend();
                loan.lent = Some(lent);
                shared = Some(Shared { slot: slot.clone(), mark });
                if let Err(error) = begun {
                    self.loan = Some(loan);
                    self.take_back();
                    return Err(error);
                }
                Destination::Shared(slot)
            }
        };
        let warnings = loan.warnings.clone();
        self.loan = Some(loan);
        let loader = Loader::new(
            self.database.catalog.clone(),
            self.database.client.clone(),
            self.current.as_deref(),
            &self.variables,
            &self.facts,
            destination,
            load,
        );
        match loader {
            Ok(loader) => {
                let load = Load { file: load.file.clone(), loader, warnings, shared };
                Ok(Outcome::LocalInfile(Box::new(load)))
            }
            Err(error) => {
                let failed = shared.map_or(Err(error.clone()), |shared| shared.end(Err(error)));
                self.take_back();
                failed
            }
        }
    }

    /// What was lent to a load comes back; it has ended.
    pub(super) fn take_back(&mut self) {
        let Some(mut loan) = self.loan.take() else { return };
        if let Some(lent) = loan.lent.take() {
            self.open = lent.back();
        }
        self.warnings = std::mem::take(&mut *loan.warnings.lock());
    }
}
