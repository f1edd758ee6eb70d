//! One client's session: statements in, outcomes out, with the transaction that spans them. It must
//! never leave a half-done statement in an open transaction, nor run a change again that may have
//! been done.
//!
//! ```text
//!  text ─ parse ─► Stmt ─┬─ SET, USE, PREPARE …        settings
//!                        ├─ BEGIN … COMMIT, SAVEPOINT  transaction
//!                        ├─ changes, locking SELECT    locking ─► dml
//!                        ├─ CREATE, ALTER, DROP …      ddl     (commits first)
//!                        ├─ SELECT                     point read, else query
//!                        └─ SHOW, DESCRIBE             show
//! ```

use crate::catalog::CatalogView;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::interrupt::Reason;
use crate::outcome::{
    ColumnMeta, ConnectionInfo, Done, Outcome, Prepared, RowBatch, Rows, Session, Sink, Status,
};
use crate::query::{NoSystemTables, QueryContext};
use crate::session::live::Live;
use crate::session::load::Loan;
use crate::session::prepared::Statements;
use crate::session::running::Running;
use crate::session::transaction::{Characteristics, Open};
use crate::session::{Level, SessionFacts, Warnings};
use crate::statement::{self, Hints, Parsed, Stmt};
use crate::variables::Variables;
use crate::{ddl, dml, failure, query, show};
use damask_txn::Transaction;
use damask_types::{Datum, Timestamp};
use sqlparser::ast;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A session.
pub struct Connection {
    pub(super) database: Arc<Database>,
    pub(super) info: ConnectionInfo,
    pub(super) current: Option<String>,
    pub(super) variables: Variables,
    pub(super) facts: SessionFacts,
    pub(super) warnings: Warnings,
    /// `@@warning_count` is not 0.
    warned: bool,
    pub(super) open: Option<Open>,
    /// What SET TRANSACTION said of the next one.
    pub(super) next: Characteristics,
    pub(super) statements: Statements,
    pub(super) loan: Option<Loan>,
    pub(super) live: Arc<Live>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.database.named_locks.release_all(self.info.id);
        self.database.connections.remove(self.info.id);
    }
}

impl Connection {
    /// A new client's. 1049 if the database it names is not there.
    pub fn new(database: Arc<Database>, info: ConnectionInfo) -> Result<Connection> {
        let now = database.clock.wall_ms();
        if let Some(name) = &info.database {
            known_database(&database.catalog.view(), name)?;
        }
        let (user, host) = (info.user.as_str(), info.host.as_str());
        let live = database.connections.add(info.id, user, host, info.database.as_deref(), now);
        let facts = SessionFacts {
            user: info.user.clone(),
            host: info.host.clone(),
            connection_id: info.id,
            interrupt: live.interrupt.clone(),
            named_locks: database.named_locks.clone(),
            ..SessionFacts::default()
        };
        Ok(Connection {
            current: info.database.clone(),
            variables: Variables::new(database.globals.clone()),
            facts,
            warnings: Warnings::default(),
            warned: false,
            open: None,
            next: Characteristics::default(),
            loan: None,
            statements: Statements::default(),
            live,
            info,
            database,
        })
    }

    /// Runs one statement's text and gives its outcome; for tests and tools in process.
    pub fn run(&mut self, sql: &str) -> Result<Outcome> {
        let parsed = statement::parse(sql, 0, self.variables.sql_mode())?;
        self.execute_parsed(&parsed, sql)
    }

    pub(super) fn execute_parsed(&mut self, parsed: &Parsed, text: &str) -> Result<Outcome> {
        let now_ms = self.database.clock.wall_ms();
        self.facts.now_us = now_ms as i64 * 1000;
        let clock = self.database.clock.clone();
        let mut running = Running::begin(self.live.clone(), clock, text, now_ms);
        if let Some(time) = self.time_limit(parsed) {
            running.limit(&self.database.query.runtime, time);
        }
        self.take_back();
        self.gather_notes();
        self.begin_notes();
        if !keeps_warnings(&parsed.stmt) {
            self.tell_warnings();
            self.warnings.clear();
        }
        self.facts.found_rows = self.live.found_rows.load(Ordering::Relaxed);
        let interrupt = self.live.interrupt.clone();
        let outcome = interrupt.check().and_then(|()| self.statement(&parsed.stmt, &parsed.hints));
        let outcome = outcome.and_then(|outcome| Ok((self.found(parsed)?, outcome)));
        let (found, outcome) = match outcome {
            Ok((found, outcome)) => (found, Ok(outcome)),
            Err(error) => (None, Err(error)),
        };
        match &outcome {
            Ok(Outcome::Done(done)) => {
                self.facts.row_count = done.affected_rows as i64;
                if parsed.stmt.is_change() && done.last_insert_id > 0 {
                    self.facts.last_insert_id = done.last_insert_id;
                }
            }
            Ok(_) => self.facts.row_count = -1,
            Err(error) => {
                self.facts.row_count = -1;
                self.warnings.push(Level::Error, error.code, error.message.clone());
            }
        }
        self.gather_notes();
        self.live.set_database(self.current.as_deref());
        outcome.map(|outcome| running.over(outcome, found))
    }

    /// Takes in the warnings of what ran for the statement. Rows that are still to come may add
    /// more.
    fn gather_notes(&mut self) {
        self.warnings.append(self.facts.notes.take());
    }

    /// Where the parts of this statement warn. Those of one that was told to end may go on for a
    /// moment, and keep theirs.
    fn begin_notes(&mut self) {
        if Arc::strong_count(&self.facts.notes) > 1 {
            self.facts.notes = Arc::default();
        }
    }

    /// `@@warning_count` and `@@error_count` of the statement before.
    fn tell_warnings(&mut self) {
        let count = self.warnings.count();
        if count == 0 && !self.warned {
            return;
        }
        self.warned = count > 0;
        let errors = self.warnings.kept().iter().filter(|w| w.level == Level::Error).count();
        self.variables.set_internal("warning_count", Datum::UInt(count));
        self.variables.set_internal("error_count", Datum::UInt(errors as u64));
    }

    /// The statement is run again: what the run before warned of is forgotten.
    pub(super) fn forget_warnings(&mut self) {
        self.facts.notes.take();
        self.warnings.clear();
    }

    /// How many rows a query has without its LIMIT, if SQL_CALC_FOUND_ROWS asks.
    fn found(&self, parsed: &Parsed) -> Result<Option<u64>> {
        let Stmt::Query(q) = &parsed.stmt else { return Ok(None) };
        if !parsed.hints.calc_found_rows || q.limit_clause.is_none() {
            return Ok(None);
        }
        let mut whole = q.clone();
        (whole.limit_clause, whole.order_by) = (None, None);
        let mut rows = self.with_query(&parsed.hints, |context| query::select(context, &whole))?;
        let mut found = 0;
        while let Some(batch) = rows.source.next()? {
            found += match batch {
                RowBatch::Datums(rows) => rows.len() as u64,
                RowBatch::Columns(batch) => batch.num_rows() as u64,
            };
        }
        Ok(Some(found))
    }

    /// How long a query may run.
    fn time_limit(&self, parsed: &Parsed) -> Option<Duration> {
        if !matches!(parsed.stmt, Stmt::Query(_)) {
            return None;
        }
        let limit = || self.variables.number("max_execution_time");
        let millis = parsed.hints.max_execution_ms.unwrap_or_else(limit);
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    fn statement(&mut self, stmt: &Stmt, hints: &Hints) -> Result<Outcome> {
        if stmt.commits_implicitly() {
            self.check_writable()?;
            self.commit()?;
        }
        if reads(stmt) {
            self.begin_reading()?;
        }
        let done = match stmt {
            Stmt::Empty => return Err(Error::empty_query("Query was empty")),
            Stmt::Query(q) => {
                let past = self.past_of_query(q)?;
                return self.select_in(past, q, hints).map(Outcome::Rows);
            }
            Stmt::AsOf { query, at } => {
                return self.select_as_of(query, at, hints).map(Outcome::Rows);
            }
            Stmt::Explain { statement, analyze } => {
                return self.explain(statement, *analyze, hints).map(Outcome::Rows);
            }
            Stmt::Insert(_) | Stmt::Update(_) | Stmt::Delete(_) => self.change(stmt, hints)?,
            Stmt::LoadData(load) => return self.load_data(load),
            Stmt::Show(show) => return self.show(show).map(Outcome::Rows),
            Stmt::SelectInto { query, variables } => self.select_into(query, variables, hints)?,
            Stmt::Do(exprs) => {
                self.eval(exprs)?;
                Done::default()
            }
            Stmt::Begin { mode, read_only, as_of } => {
                self.commit()?;
                self.begin_said(*mode, *read_only, as_of.as_deref())?;
                Done::default()
            }
            Stmt::Commit => {
                self.commit()?;
                Done::default()
            }
            Stmt::Rollback => {
                self.abandon();
                Done::default()
            }
            Stmt::Savepoint(name) => self.savepoint(name)?,
            Stmt::RollbackTo(name) => self.rollback_to(name)?,
            Stmt::Release(name) => self.release(name)?,
            Stmt::Set(items) => self.set(items)?,
            Stmt::Use(name) => {
                self.use_database(name)?;
                Done::default()
            }
            Stmt::Prepare { name, from } => self.prepare_named(name, from)?,
            Stmt::Execute { name, using } => return self.execute_named(name, using),
            Stmt::Deallocate(name) => self.deallocate(name)?,
            Stmt::Kill { id, query } => self.kill(*id, *query)?,
            Stmt::Maintain { operation, tables } => {
                return self.maintain(operation, tables).map(Outcome::Rows);
            }
            Stmt::AdminCheck(tables) => self.admin_check(tables)?,
            Stmt::NoEffect => Done::default(),
            Stmt::CreateTable(create) => match &create.query {
                Some(query) => self.create_from_query(create, query, hints)?,
                None => self.ddl(stmt)?,
            },
            _ => self.ddl(stmt)?,
        };
        Ok(Outcome::Done(done))
    }

    pub(super) fn ddl(&mut self, stmt: &Stmt) -> Result<Done> {
        ddl::Ddl {
            catalog: &self.database.catalog,
            client: &self.database.client,
            replicas: &self.database.replicas,
            collector: &self.database.collector,
            interrupt: self.live.interrupt.clone(),
            database: self.current.as_deref(),
            warnings: &mut self.warnings,
            now_us: self.facts.now_us,
            offset_us: self.variables.time_zone_offset_us(),
        }
        .run(stmt)?;
        if let Stmt::DropDatabase { name, .. } = stmt
            && self.current.as_deref().is_some_and(|c| c.eq_ignore_ascii_case(name))
        {
            self.current = None;
        }
        Ok(Done::default())
    }

    pub(super) fn change_in(
        &mut self,
        open: &mut Open,
        view: &Arc<CatalogView>,
        stmt: &Stmt,
        hints: &Hints,
        commits: bool,
    ) -> Result<Done> {
        open.touch(view, self.current.as_deref(), stmt);
        self.with_change(&mut open.txn, view, hints, commits, |c| dml::execute(c, stmt))
    }

    /// Calls the row layer with what a change may look at.
    fn with_change<T>(
        &mut self,
        txn: &mut Transaction,
        view: &Arc<CatalogView>,
        hints: &Hints,
        commits: bool,
        body: impl FnOnce(&mut dml::Context<'_>) -> Result<T>,
    ) -> Result<T> {
        // Copies, because the statement writes to its own facts and warnings.
        let (facts, warnings) = (self.facts.clone(), Warnings::default());
        let system = show::Context {
            view: view.clone(),
            database: self.current.as_deref(),
            variables: &self.variables,
            facts: &facts,
            warnings: &warnings,
            replicas: self.database.replicas.as_ref(),
            processes: &[],
            tables: self.database.query.facts.as_ref(),
            lock_waits: &self.database.lock_waits,
        };
        let mut context = dml::Context {
            view: view.at(txn.read_ts()),
            database: self.current.as_deref(),
            system: &system,
            reads: dml::Reads::Transaction(txn),
            commits,
            variables: &self.variables,
            facts: &mut self.facts,
            warnings: &mut self.warnings,
            ids: self.database.catalog.ids(),
            found_rows: self.info.found_rows,
            hints,
            services: &self.database.query,
        };
        body(&mut context)
    }

    pub(super) fn point_select(&mut self, q: &ast::Query, hints: &Hints) -> Result<Option<Rows>> {
        self.with_rows(hints, |context| dml::point_select(context, q))
    }

    /// Calls the row layer for something that is read: in the open transaction, or of now.
    pub(super) fn with_rows<T>(
        &mut self,
        hints: &Hints,
        body: impl FnOnce(&mut dml::Context<'_>) -> Result<T>,
    ) -> Result<T> {
        let view = self.view();
        let (view, reads) = match &mut self.open {
            Some(open) => (view.at(open.txn.read_ts()), dml::Reads::Transaction(&mut open.txn)),
            None => (view, dml::Reads::Latest(&self.database.client)),
        };
        let mut context = dml::Context {
            view,
            database: self.current.as_deref(),
            system: &NoSystemTables,
            reads,
            commits: false,
            variables: &self.variables,
            facts: &mut self.facts,
            warnings: &mut self.warnings,
            ids: self.database.catalog.ids(),
            found_rows: self.info.found_rows,
            hints,
            services: &self.database.query,
        };
        body(&mut context)
    }

    /// Calls the query engine with what it may look at.
    pub(super) fn with_query<T>(
        &self,
        hints: &Hints,
        body: impl FnOnce(&QueryContext<'_>) -> Result<T>,
    ) -> Result<T> {
        let txn = self.open.as_ref().map(|open| &open.txn);
        let read_ts = match txn {
            Some(txn) => txn.read_ts(),
            None => failure::catalog(self.database.client.timestamp())?,
        };
        // After the timestamp: an index that is dropped meanwhile loses entries only above it.
        let view = self.view().at(read_ts);
        self.with_query_at(&view, read_ts, hints, body)
    }

    fn with_query_at<T>(
        &self,
        view: &Arc<CatalogView>,
        read_ts: Timestamp,
        hints: &Hints,
        body: impl FnOnce(&QueryContext<'_>) -> Result<T>,
    ) -> Result<T> {
        let processes = self.database.processes();
        let system = self.show_context(view, &processes);
        body(&QueryContext {
            catalog: view.clone(),
            database: self.current.as_deref(),
            variables: &self.variables,
            session: &self.facts,
            txn: self.open.as_ref().map(|open| &open.txn),
            read_ts,
            hints,
            services: &self.database.query,
            system: &system,
        })
    }

    pub(super) fn eval(&mut self, exprs: &[ast::Expr]) -> Result<Vec<Datum>> {
        self.with_query(&Hints::default(), |context| query::eval(context, exprs))
    }

    fn explain(&mut self, stmt: &Stmt, analyze: bool, hints: &Hints) -> Result<Rows> {
        if let Stmt::Query(q) = stmt {
            return self.with_query(hints, |c| query::explain(c, q, analyze));
        }
        if analyze {
            return Err(Error::not_supported(
                "This version of Damask doesn't yet support 'EXPLAIN ANALYZE of a change'",
            ));
        }
        let view = self.database.catalog.view();
        if let Some(mut open) = self.open.take() {
            let rows =
                self.with_change(&mut open.txn, &view, hints, false, |c| dml::explain(c, stmt));
            self.open = Some(open);
            return rows;
        }
        let mut txn = failure::convert(self.database.client.begin(), &view)?;
        self.with_change(&mut txn, &view, hints, false, |c| dml::explain(c, stmt))
    }

    fn show_context<'a>(
        &'a self,
        view: &Arc<CatalogView>,
        processes: &'a [show::Process],
    ) -> show::Context<'a> {
        show::Context {
            view: view.clone(),
            database: self.current.as_deref(),
            variables: &self.variables,
            facts: &self.facts,
            warnings: &self.warnings,
            replicas: self.database.replicas.as_ref(),
            processes,
            tables: self.database.query.facts.as_ref(),
            lock_waits: &self.database.lock_waits,
        }
    }

    fn show(&mut self, what: &statement::Show) -> Result<Rows> {
        let view = self.view();
        let processes = self.database.processes();
        show::show(&self.show_context(&view, &processes), what)
    }

    fn kill(&mut self, id: u64, query: bool) -> Result<Done> {
        let reason = if query { Reason::Query } else { Reason::Connection };
        let known = u32::try_from(id).is_ok_and(|id| self.database.connections.kill(id, reason));
        match known {
            // Perhaps its own.
            true => self.live.interrupt.check().map(|()| Done::default()),
            false => Err(Error::no_such_thread(format!("Unknown thread id: {id}"))),
        }
    }
}

/// Statements that read, but do not lock, what others may have committed meanwhile.
fn reads(stmt: &Stmt) -> bool {
    match stmt {
        Stmt::Query(_) | Stmt::SelectInto { .. } | Stmt::Explain { .. } => true,
        stmt => matches!(stmt, Stmt::Do(_) | Stmt::Set(_)),
    }
}

/// Statements about warnings leave them as they are.
fn keeps_warnings(stmt: &Stmt) -> bool {
    use crate::statement::show::What;
    match stmt {
        Stmt::Show(show) => {
            matches!(show.what, What::Warnings { .. } | What::WarningCount { .. })
        }
        _ => false,
    }
}

/// 1049 if there is no such database.
pub(super) fn known_database(view: &CatalogView, name: &str) -> Result<()> {
    if view.has_database(name) {
        return Ok(());
    }
    Err(Error::unknown_database(format!("Unknown database '{name}'")))
}

impl Session for Connection {
    fn query(&mut self, sql: &str, sink: &mut dyn Sink) -> Result<()> {
        let mut at = 0;
        // Ends: each turn takes a statement of the text.
        loop {
            let parsed = statement::parse(sql, at, self.variables.sql_mode())?;
            let text = sql[at..parsed.end].trim_end_matches(';').trim();
            let more = !statement::is_blank(sql, parsed.end);
            let outcome = self.execute_parsed(&parsed, text)?;
            sink.outcome(outcome, self, more)?;
            at = parsed.end;
            if !more {
                return Ok(());
            }
        }
    }

    fn prepare(&mut self, sql: &str) -> Result<Prepared> {
        self.prepare_text(sql)
    }

    fn execute(&mut self, id: u32, params: Vec<Datum>) -> Result<Outcome> {
        let (parsed, text) = self.statements.bind(id, &params)?;
        self.execute_parsed(&parsed, &text)
    }

    fn close_statement(&mut self, id: u32) {
        self.statements.close(id);
    }

    fn use_database(&mut self, name: &str) -> Result<()> {
        known_database(&self.database.catalog.view(), name)?;
        self.current = Some(name.to_owned());
        Ok(())
    }

    fn reset(&mut self) {
        self.take_back();
        self.abandon();
        self.next = Characteristics::default();
        self.statements = Statements::default();
        self.variables = Variables::new(self.database.globals.clone());
        self.forget_warnings();
        self.database.named_locks.release_all(self.info.id);
        self.facts.user_variables.clear();
        self.facts.last_insert_id = 0;
    }

    fn fields(&mut self, table: &str) -> Result<Vec<ColumnMeta>> {
        let sql = format!("SELECT * FROM `{}`", table.replace('`', "``"));
        let parsed = statement::parse(&sql, 0, self.variables.sql_mode())?;
        match &parsed.stmt {
            Stmt::Query(q) => self.with_query(&parsed.hints, |c| query::columns(c, q)),
            _ => Err(Error::unknown("a SELECT is not a query")),
        }
    }

    fn status(&self) -> Status {
        Status {
            in_transaction: self.open.is_some()
                || self.loan.as_ref().is_some_and(|loan| loan.lent.is_some()),
            autocommit: self.variables.autocommit(),
            warnings: (self.warnings.count() + self.facts.notes.count()).min(u64::from(u16::MAX))
                as u16,
        }
    }
}
