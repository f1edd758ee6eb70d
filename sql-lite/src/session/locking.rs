//! Statements that write or lock rows. In a pessimistic transaction such a statement reads the
//! newest rows, then locks what it wrote; if others were there first, it is run again on what they
//! left. It must never keep the writes of a run that had not read the newest rows.
//!
//! ```text
//!  ┌─► begin (newest version) ─► mark ─► run ─► lock what was written since the mark ─► done
//!  │                                                 │ outdated: others committed meanwhile
//!  └──────────── back to the mark ◄──────────────────┘
//! ```
//!
//! A change that is its own transaction first runs optimistically, which costs no lock. When
//! another was first, or holds a lock, it runs again pessimistically: it waits for its turn.

use crate::catalog::CatalogView;
use crate::dml::{self, Blocked, Locking, lock_written};
use crate::error::{Error, Result};
use crate::failure;
use crate::outcome::{Done, Rows};
use crate::query;
use crate::session::connection::Connection;
use crate::session::transaction::{Characteristics, Open};
use crate::statement::{Hints, Stmt};
use damask_txn::{Mark, Mode, Options, Reads, Wait};
use sqlparser::ast;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Times that a statement is run in its transaction when others were first (TiDB's
/// max-retry-count).
const RUNS_MAX: u32 = 256;

impl Connection {
    /// A change of rows: in the open transaction, or in one of its own.
    pub(super) fn change(&mut self, stmt: &Stmt, hints: &Hints) -> Result<Done> {
        self.begin_implicitly()?;
        self.check_writable()?;
        match self.open.is_some() {
            true => {
                let wait = self.variables.lock_wait();
                self.locking(wait, |session, view| session.run_change(view, stmt, hints, false))
            }
            false => self.change_alone(stmt, hints),
        }
    }

    /// A change that is a transaction of its own: run again, at most `tidb_retry_limit` times, when
    /// others were first.
    fn change_alone(&mut self, stmt: &Stmt, hints: &Hints) -> Result<Done> {
        let retries = self.variables.number("tidb_retry_limit");
        let (wait, last_insert_id) = (self.variables.lock_wait(), self.facts.last_insert_id);
        let mut mode = Mode::Optimistic;
        let mut retry = 0;
        // Ends: at most `retries` turns after the first.
        loop {
            let done = self.change_once(stmt, hints, mode, wait);
            let again = |error: &Error| {
                failure::is_conflict(error)
                    || failure::ends_transaction(error)
                    || error.code == Error::schema_changed("").code
            };
            match done {
                Err(error) if again(&error) && retry < retries => {}
                done => return done,
            }
            retry += 1;
            mode = Mode::Pessimistic;
            self.facts.last_insert_id = last_insert_id;
            self.forget_warnings();
            self.live.interrupt.check()?;
        }
    }

    fn change_once(&mut self, stmt: &Stmt, hints: &Hints, mode: Mode, wait: Wait) -> Result<Done> {
        let options = Options { mode, ..Options::default() };
        let txn = failure::catalog(self.database.client.begin_with(options))?;
        self.open = Some(Open::new(txn, false));
        let run = |session: &mut Connection, view: &Arc<CatalogView>| {
            session.run_change(view, stmt, hints, true)
        };
        let done = match mode {
            Mode::Optimistic => run(self, &self.database.catalog.view()),
            Mode::Pessimistic => self.locking(wait, run),
        };
        match done {
            Ok(done) => self.commit().map(|()| done),
            Err(error) => {
                self.abandon();
                Err(error)
            }
        }
    }

    fn run_change(
        &mut self,
        view: &Arc<CatalogView>,
        stmt: &Stmt,
        hints: &Hints,
        commits: bool,
    ) -> Result<Done> {
        let mut open = self.open.take().expect("a change has a transaction");
        let done = self.change_in(&mut open, view, stmt, hints, commits);
        self.open = Some(open);
        done
    }

    /// A SELECT of a client: `sql_select_limit` holds where it has no LIMIT of its own.
    pub(super) fn limited_select(&mut self, q: &ast::Query, hints: &Hints) -> Result<Rows> {
        let rows_max = self.variables.number("sql_select_limit");
        if rows_max > i64::MAX as u64 || q.limit_clause.is_some() {
            return self.select(q, hints);
        }
        let count = ast::Value::Number(rows_max.to_string(), false);
        let limit = Some(ast::Expr::Value(count.with_empty_span()));
        let limited = ast::LimitClause::LimitOffset { limit, offset: None, limit_by: Vec::new() };
        let q = ast::Query { limit_clause: Some(limited), ..q.clone() };
        self.select(&q, hints)
    }

    pub(super) fn select(&mut self, q: &ast::Query, hints: &Hints) -> Result<Rows> {
        self.begin_implicitly()?;
        if let Some(locking) = dml::locking(q, &self.variables) {
            return self.select_locking(q, hints, locking);
        }
        if ast::visit_relations(q, |_| ControlFlow::Break(())).is_break() {
            // Outside of a transaction it is the one that SET TRANSACTION was about.
            self.next = Characteristics::default();
        }
        if let Some(rows) = self.point_select(q, hints)? {
            return Ok(rows);
        }
        self.with_query(hints, |context| query::select(context, q))
    }

    /// A SELECT that locks the rows it reads. Outside of a transaction it waits for others' locks,
    /// and its own are gone when it ends.
    fn select_locking(&mut self, q: &ast::Query, hints: &Hints, locking: Locking) -> Result<Rows> {
        let alone = self.open.is_none();
        if locking.update {
            self.check_writable()?;
        }
        if alone {
            let options = Options { mode: Mode::Pessimistic, ..Options::default() };
            let txn = failure::catalog(self.database.client.begin_with(options))?;
            self.open = Some(Open::new(txn, false));
        }
        let wait = match locking.blocked {
            Blocked::Fail => Wait::No,
            Blocked::Wait | Blocked::Skip => self.variables.lock_wait(),
        };
        let rows = self.locking(wait, |session, _| {
            if let Some(rows) = session.point_select(q, hints)? {
                return Ok(rows);
            }
            let fewer = session.with_rows(hints, |c| dml::lock_rows(c, q))?;
            let q = fewer.as_ref().unwrap_or(q);
            session.with_query(hints, |context| query::select(context, q))
        });
        if alone {
            self.abandon();
        }
        rows
    }

    /// Runs a statement that writes or locks rows in the open transaction. After an error the
    /// transaction holds what it held before, with more locks perhaps; or it is over (1213).
    fn locking<T>(
        &mut self,
        wait: Wait,
        mut run: impl FnMut(&mut Connection, &Arc<CatalogView>) -> Result<T>,
    ) -> Result<T> {
        let last_insert_id = self.facts.last_insert_id;
        let mut runs = 0;
        // Ends: at most RUNS_MAX turns.
        loop {
            runs += 1;
            let txn = &mut self.transaction().txn;
            failure::catalog(txn.begin_statement(Reads::Current))?;
            // After the timestamp: an index that is dropped meanwhile loses entries only above it.
            let view = self.database.catalog.view();
            let txn = &mut self.transaction().txn;
            let mark = txn.mark();
            let mut done = run(self, &view);
            if done.is_ok()
                && let Err(error) = self.lock_since(&mark, wait, &view)
            {
                done = Err(error);
            }
            let txn = &mut self.transaction().txn;
            match done {
                Ok(value) => {
                    txn.release(mark);
                    return Ok(value);
                }
                Err(error) => {
                    txn.rollback_to(mark);
                    if !failure::is_outdated(&error) || runs == RUNS_MAX {
                        self.end_if_lost(&error);
                        return Err(error);
                    }
                }
            }
            self.facts.last_insert_id = last_insert_id;
            self.forget_warnings();
            self.live.interrupt.check()?;
        }
    }

    /// Locks what the open transaction wrote since the mark, waiting in slices so that KILL is
    /// heard.
    fn lock_since(&mut self, mark: &Mark, wait: Wait, view: &CatalogView) -> Result<()> {
        let live = self.live.clone();
        let txn = &mut self.transaction().txn;
        let _waiting = live.locking(txn.start_ts());
        lock_written(txn, mark, wait, &live.interrupt, view)
    }

    fn transaction(&mut self) -> &mut Open {
        self.open.as_mut().expect("a statement that locks has a transaction")
    }

    /// Rolls the transaction back when the error says that it cannot go on.
    fn end_if_lost(&mut self, error: &Error) {
        let timeout = error.code == Error::lock_wait_timeout("").code
            && self.variables.number("innodb_rollback_on_timeout") != 0;
        if timeout || failure::ends_transaction(error) {
            self.abandon();
        }
    }
}
