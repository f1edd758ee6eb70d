//! LOAD DATA LOCAL: the client is asked for its file, whose rows go in as transactions of a
//! bounded size, or into the open transaction, which is lent out meanwhile. It must never read a
//! file of the server.

use crate::dml::load::{Destination, Loader};
use crate::error::{Error, Result};
use crate::outcome::{Done, LocalInfile, Outcome};
use crate::session::Warnings;
use crate::session::connection::Connection;
use crate::session::transaction::Lent;
use crate::statement::{LoadData, Stmt};
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
}

impl LocalInfile for Load {
    fn file_name(&self) -> &str {
        &self.file
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.loader.push(bytes)
    }

    fn finish(mut self: Box<Self>) -> Result<Done> {
        let done = self.loader.finish();
        *self.warnings.lock() = self.loader.take_warnings();
        done
    }
}

impl Connection {
    pub(super) fn load_data(&mut self, load: &LoadData) -> Result<Outcome> {
        if !load.local {
            return Err(Error::not_supported(
                "This version of Damask doesn't yet support 'LOAD DATA without LOCAL'",
            ));
        }
        if self.variables.number("local_infile") == 0 {
            return Err(Error::local_infile_disabled(
                "Loading local data is disabled; this must be enabled on both the client and \
                 server sides",
            ));
        }
        if !self.variables.autocommit() && self.open.is_none() {
            self.begin(false)?;
        }
        let mut loan = Loan::default();
        let destination = match self.open.take() {
            None => Destination::Own,
            Some(mut open) if !open.read_only => {
                let view = self.database.catalog.view();
                let stmt = Stmt::LoadData(Box::new(load.clone()));
                open.touch(&view, self.current.as_deref(), &stmt);
                let (lent, slot) = open.lend();
                loan.lent = Some(lent);
                Destination::Shared(slot)
            }
            Some(open) => {
                self.open = Some(open);
                return Err(Error::read_only_transaction(
                    "Cannot execute statement in a READ ONLY transaction.",
                ));
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
                let load = Load { file: load.file.clone(), loader, warnings };
                Ok(Outcome::LocalInfile(Box::new(load)))
            }
            Err(error) => {
                self.take_back();
                Err(error)
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
