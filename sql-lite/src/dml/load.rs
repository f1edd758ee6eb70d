//! LOAD DATA: bytes of a file, as they arrive, into rows. Outside a transaction each batch of rows
//! is a transaction of its own; inside one, all rows are part of it, and a batch is put again when
//! others were first (the file itself is gone by then). It must never hold more than one batch of
//! rows and one line.
//!
//! ```text
//!  bytes ─ Splitter ─► fields ─ cells ─► row ─► batch ─ Inserter ─► commit
//!                                             │ a key exists: again, with a look
//!                                             └ in a transaction: lock, or again
//! ```

mod cells;
mod fields;

use self::cells::Parser;
use self::fields::Splitter;
use super::input::Input;
use super::insert::{Inserter, OnConflict, Target};
use super::{Try, lock_written};
use crate::catalog::{Catalog, CatalogView};
use crate::error::{Error, Result};
use crate::failure;
use crate::interrupt::Interrupt;
use crate::outcome::Done;
use crate::session::{Level, SessionFacts, Warnings};
use crate::statement::LoadData;
use crate::value;
use crate::variables::Variables;
use damask_txn::{Client, Mark, Reads, Transaction, Wait};
use damask_types::{Datum, TableSchema};
use parking_lot::Mutex;
use std::sync::Arc;

/// Rows of a batch.
const BATCH_ROWS: usize = 5_000;
/// Bytes of the file in a batch.
const BATCH_BYTES: usize = 4 << 20;
/// Times that a batch is tried against other transactions.
const ATTEMPTS_MAX: u32 = 16;
/// Times that a batch is put into the session's transaction when others were first.
const RUNS_MAX: u32 = 256;

/// Where rows go.
pub enum Destination {
    /// Into transactions of the loader's own.
    Own,
    /// Into the session's transaction, which is in the slot until the loader has ended.
    Shared(Arc<Mutex<Option<Transaction>>>),
}

/// Loads one file into one table.
pub struct Loader {
    catalog: Arc<Catalog>,
    client: Client,
    view: Arc<CatalogView>,
    table: Arc<TableSchema>,
    destination: Destination,
    /// Of the shared transaction, before the first row.
    mark: Option<Mark>,
    splitter: Splitter,
    /// By field of the file: the column's position and parser; `None` = a variable.
    fields: Vec<Option<(usize, Parser)>>,
    /// What columns that have no field get, by position.
    defaults: Vec<Datum>,
    inserter: Inserter,
    /// What is done with rows in the way.
    on_conflict: OnConflict,
    batch: Vec<Vec<Datum>>,
    batch_bytes: usize,
    records: u64,
    warnings: Warnings,
    /// For others' row locks.
    lock_wait: Wait,
    interrupt: Arc<Interrupt>,
    failed: bool,
}

impl Loader {
    /// A loader for the statement. 1046, 1146, 1054 as MySQL gives them.
    pub fn new(
        catalog: Arc<Catalog>,
        client: Client,
        database: Option<&str>,
        variables: &Variables,
        facts: &SessionFacts,
        destination: Destination,
        statement: &LoadData,
    ) -> Result<Loader> {
        let view = catalog.view();
        let table = super::find_table(&view, database, &statement.table)?;
        let mut input = Input::new(variables, facts, statement.ignore);
        input.adjust_null = !input.rules.strict;
        let on_conflict = match () {
            () if statement.replace => OnConflict::Replace,
            () if statement.ignore => OnConflict::Ignore,
            () => OnConflict::Fail,
        };
        let mut warnings = Warnings::default();
        let fields = columns(&table, statement, input.rules.offset_us)?;
        let defaults = defaults(&table, &fields, &input, &mut warnings)?;
        let mark = match &destination {
            Destination::Own => None,
            Destination::Shared(slot) => slot.lock().as_mut().map(Transaction::mark),
        };
        Ok(Loader {
            inserter: Inserter::new(view.clone(), table.clone(), input, on_conflict)?,
            catalog,
            client,
            view,
            table,
            destination,
            mark,
            splitter: Splitter::new(statement),
            fields,
            defaults,
            on_conflict,
            batch: Vec::new(),
            batch_bytes: 0,
            records: 0,
            warnings,
            lock_wait: variables.lock_wait(),
            interrupt: facts.interrupt.clone(),
            failed: false,
        })
    }

    /// The next bytes of the file. After an error nothing more is taken; rows of batches that were
    /// committed stay.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.failed {
            return Err(Error::unknown("the load has failed"));
        }
        self.splitter.feed(bytes);
        let taken = self.take_lines(false);
        self.settle(taken)
    }

    /// The file has ended.
    pub fn finish(&mut self) -> Result<Done> {
        if self.failed {
            return Err(Error::unknown("the load has failed"));
        }
        let taken = self.take_lines(true).and_then(|()| self.flush());
        self.settle(taken)?;
        if let (Some(mark), Destination::Shared(slot)) = (self.mark.take(), &self.destination)
            && let Some(txn) = slot.lock().as_mut()
        {
            txn.release(mark);
        }
        let counts = self.inserter.counts;
        let (records, warnings) = (self.records, self.warnings.count());
        let (deleted, skipped) = (counts.replaced, counts.skipped);
        Ok(Done {
            affected_rows: counts.affected,
            last_insert_id: self.inserter.first_generated.unwrap_or(0),
            info: format!(
                "Records: {records}  Deleted: {deleted}  Skipped: {skipped}  Warnings: {warnings}"
            ),
        })
    }

    /// Warnings so far; the loader starts again.
    pub fn take_warnings(&mut self) -> Warnings {
        std::mem::take(&mut self.warnings)
    }

    /// After an error the shared transaction is as it was before.
    fn settle(&mut self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            self.failed = true;
            self.batch = Vec::new();
            if let (Some(mark), Destination::Shared(slot)) = (self.mark.take(), &self.destination)
                && let Some(txn) = slot.lock().as_mut()
            {
                txn.rollback_to(mark);
            }
        }
        result
    }

    fn take_lines(&mut self, end: bool) -> Result<()> {
        while self.splitter.next(end)? {
            self.records += 1;
            self.batch_bytes += self.splitter.line_bytes();
            let row = self.row()?;
            self.batch.push(row);
            if self.batch.len() >= BATCH_ROWS || self.batch_bytes >= BATCH_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// The line at hand as a row.
    fn row(&mut self) -> Result<Vec<Datum>> {
        let mut row = self.defaults.clone();
        let given = self.splitter.fields();
        let number = self.records;
        if given != self.fields.len() {
            let (code, text) = match given < self.fields.len() {
                true => (1261, format!("Row {number} doesn't contain data for all columns")),
                false => (
                    1262,
                    format!(
                        "Row {number} was truncated; it contained more data \
                                         than there were input columns"
                    ),
                ),
            };
            if self.inserter.input.rules.strict {
                return Err(Error { code, state: "01000", message: text });
            }
            self.warnings.push(Level::Warning, code, text);
        }
        for (i, field) in self.fields.iter().enumerate().take(given) {
            let Some((at, parser)) = field else { continue };
            let column = &self.table.columns[*at];
            let (input, warnings) = (&self.inserter.input, &mut self.warnings);
            row[*at] = match self.splitter.field(i) {
                None => input.cell(Datum::Null, None, column, number, warnings)?,
                Some(bytes) => match parser.parse(bytes) {
                    Some(datum) => datum,
                    None => input.cell(Parser::text(bytes), None, column, number, warnings)?,
                },
            };
        }
        Ok(row)
    }

    /// Writes the batch at hand.
    fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        match &self.destination {
            Destination::Own => self.commit_batch()?,
            Destination::Shared(slot) => {
                let slot = slot.clone();
                self.put_shared(&slot)?;
            }
        }
        self.batch.clear();
        self.batch_bytes = 0;
        Ok(())
    }

    /// Puts the batch into the session's transaction and locks it; again on what others have
    /// committed meanwhile.
    fn put_shared(&mut self, slot: &Mutex<Option<Transaction>>) -> Result<()> {
        let mut slot = slot.lock();
        let ended = || Error::unknown("the transaction of the load has ended");
        let txn = slot.as_mut().ok_or_else(ended)?;
        let mut runs = 0;
        // Ends: at most RUNS_MAX turns.
        loop {
            runs += 1;
            let before = (self.inserter.counts, self.warnings.clone());
            let mark = txn.mark();
            let (ids, warnings) = (self.catalog.ids(), &mut self.warnings);
            let mut target = Target { txn, ids, warnings };
            let put = self.inserter.push(&mut target, &mut self.batch);
            let put = put.and_then(|()| {
                lock_written(txn, &mark, self.lock_wait, &self.interrupt, &self.view)
            });
            let Err(error) = put else {
                txn.release(mark);
                return Ok(());
            };
            txn.rollback_to(mark);
            if !failure::is_outdated(&error) || runs == RUNS_MAX {
                return Err(error);
            }
            (self.inserter.counts, self.warnings) = before;
            failure::convert(txn.begin_statement(Reads::Current), &self.view)?;
            self.interrupt.check()?;
        }
    }

    /// Commits the batch: first without looking for rows in the way, since the commit does; with
    /// a look when it finds some.
    fn commit_batch(&mut self) -> Result<()> {
        self.inserter.on_conflict = OnConflict::FailLater;
        let mut attempt = 0;
        // Ends: at most ATTEMPTS_MAX turns.
        loop {
            attempt += 1;
            let before = (self.inserter.counts, self.warnings.clone());
            let Err(error) = self.try_batch(attempt == 1) else { return Ok(()) };
            (self.inserter.counts, self.warnings) = before;
            let looked = self.inserter.on_conflict != OnConflict::FailLater;
            let again = match error.code {
                1062 | 3819 => !looked && self.on_conflict != OnConflict::Fail,
                _ => failure::is_conflict(&error) || failure::ends_transaction(&error),
            };
            if !again || attempt >= ATTEMPTS_MAX {
                return Err(error);
            }
            if matches!(error.code, 1062 | 3819) {
                self.inserter.on_conflict = self.on_conflict;
            }
        }
    }

    fn try_batch(&mut self, first: bool) -> Result<()> {
        let mut own = Try::begin(&self.client, first, &self.view)?;
        let (ids, warnings) = (self.catalog.ids(), &mut self.warnings);
        let mut target = Target { txn: &mut own.txn, ids, warnings };
        self.inserter.push(&mut target, &mut self.batch)?;
        let txn = own.written(self.lock_wait, &self.interrupt, &self.view)?;
        self.catalog.commit(&[(self.table.id, self.table.version)], txn)
    }
}

/// The columns of the file's fields.
fn columns(
    table: &TableSchema,
    statement: &LoadData,
    offset_us: i64,
) -> Result<Vec<Option<(usize, Parser)>>> {
    let field = |at: usize| Some((at, Parser::new(&table.columns[at].ty, offset_us)));
    let Some(names) = &statement.columns else {
        return Ok((0..table.columns.len()).map(field).collect());
    };
    let named = |name: &String| {
        if name.starts_with('@') {
            return Ok(None);
        }
        let at = table.columns.iter().position(|c| c.name.eq_ignore_ascii_case(name));
        at.map(field).ok_or_else(|| super::insert::unknown_column(name))
    };
    names.iter().map(named).collect()
}

/// What each column gets when the file has nothing for it: an AUTO_INCREMENT column a new value,
/// one that is a field of the file a zero rather than an error.
fn defaults(
    table: &TableSchema,
    fields: &[Option<(usize, Parser)>],
    input: &Input,
    warnings: &mut Warnings,
) -> Result<Vec<Datum>> {
    let default = |(at, column)| match input.default(column, &mut Warnings::default()) {
        Ok(value) => Ok(value),
        Err(_) if fields.iter().flatten().any(|(field, _)| *field == at) => {
            Ok(value::zero(&column.ty))
        }
        Err(_) => input.default(column, warnings),
    };
    table.columns.iter().enumerate().map(default).collect()
}
