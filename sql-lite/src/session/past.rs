//! Statements that look into the past: AS OF TIMESTAMP, SET TRANSACTION … AS OF TIMESTAMP and
//! `tidb_read_staleness`. They must never see the catalog of now, nor write.
//!
//! Such a statement reads at a timestamp, of any replica that is safe up to it, else of the leader.
//! What was collected is named (9006); what lies in the future is refused (8135).

use crate::catalog::CatalogView;
use crate::convert::calendar::{DAY, SECOND};
use crate::error::{Error, Result};
use crate::failure;
use crate::outcome::Rows;
use crate::session::connection::Connection;
use crate::session::transaction::{Characteristics, Open};
use crate::statement::Hints;
use crate::value::temporal::parse_datetime;
use damask_txn::Mode;
use damask_types::{Datum, Timestamp};
use sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Query, TableFactor, Visit, Visitor,
};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Microseconds of a millisecond.
const MILLISECOND: i64 = SECOND / 1_000;

impl Connection {
    /// The catalog that statements see: the one of now, unless the transaction looks back.
    pub(super) fn view(&self) -> Arc<CatalogView> {
        let past = self.open.as_ref().and_then(|open| open.past.clone());
        past.unwrap_or_else(|| self.database.catalog.view())
    }

    /// BEGIN, with what was said of it and before it.
    pub(super) fn begin_said(
        &mut self,
        mode: Option<Mode>,
        read_only: Option<bool>,
        as_of: Option<&Expr>,
    ) -> Result<()> {
        let said = as_of.map(|at| self.moment(at)).transpose()?;
        match said.or_else(|| self.next.as_of.take()) {
            Some(ts) => {
                self.next = Characteristics::default();
                self.begin_past(ts)
            }
            None => self.begin(mode, read_only),
        }
    }

    /// Opens a transaction that reads at a timestamp; there is none.
    fn begin_past(&mut self, ts: Timestamp) -> Result<()> {
        self.check_past(ts)?;
        let txn = failure::catalog(self.database.client.begin_stale(ts))?;
        // After the transaction counts as running: what it reads stays.
        let view = self.database.catalog.past(ts)?;
        self.open = Some(Open::past(txn, view));
        Ok(())
    }

    /// 8135 if it is yet to come.
    pub(super) fn check_past(&self, ts: Timestamp) -> Result<()> {
        let now = failure::catalog(self.database.client.timestamp())?;
        match ts > now {
            true => Err(as_of("cannot set read timestamp to a future time")),
            false => Ok(()),
        }
    }

    /// A SELECT whose tables name their moment: all of them, and the same one.
    pub(super) fn select_as_of(
        &mut self,
        query: &Query,
        at: &[Expr],
        hints: &Hints,
    ) -> Result<Rows> {
        if self.open.is_some() || self.next.as_of.is_some() {
            return Err(as_of("as of timestamp can't be set in transaction"));
        }
        let mut moments = Vec::with_capacity(at.len());
        for expr in at {
            moments.push(self.moment(expr)?);
        }
        let (first, same) = match moments.split_first() {
            Some((first, rest)) => (*first, rest.iter().all(|moment| moment == first)),
            None => return Err(as_of("no timestamp")),
        };
        if !same || tables_of(query) > moments.len() {
            return Err(as_of("can not set different time in the as of"));
        }
        self.select_in(Some(first), query, hints)
    }

    /// A SELECT of now, or of the past.
    pub(super) fn select_in(
        &mut self,
        past: Option<Timestamp>,
        query: &Query,
        hints: &Hints,
    ) -> Result<Rows> {
        let Some(ts) = past else { return self.limited_select(query, hints) };
        self.begin_past(ts)?;
        let rows = match query.locks.is_empty() {
            true => self.limited_select(query, hints),
            false => self.check_writable().and_then(|()| self.limited_select(query, hints)),
        };
        self.abandon();
        rows
    }

    /// The moment of a SELECT that does not name one, if SET TRANSACTION or `tidb_read_staleness`
    /// does: outside of transactions, and of what locks nothing.
    pub(super) fn past_of_query(&mut self, query: &Query) -> Result<Option<Timestamp>> {
        if self.open.is_some() {
            return Ok(None);
        }
        if let Some(ts) = self.next.as_of.take() {
            self.next = Characteristics::default();
            return Ok(Some(ts));
        }
        let seconds = match self.variables.get("tidb_read_staleness") {
            Some(Datum::Int(seconds)) if seconds < 0 => seconds.unsigned_abs(),
            _ => return Ok(None),
        };
        if !self.variables.autocommit() || !query.locks.is_empty() || tables_of(query) == 0 {
            return Ok(None);
        }
        let now = failure::catalog(self.database.client.timestamp())?;
        let then = now.physical_ms().saturating_sub(seconds.saturating_mul(1_000)).max(1);
        Ok(Some(Timestamp::compose(then, 0)))
    }

    /// The timestamp that an expression means: a time of the session's zone, or TiDB's
    /// `TIDB_BOUNDED_STALENESS(from, to)`: the newest at which no replica has to ask.
    pub(super) fn moment(&mut self, expr: &Expr) -> Result<Timestamp> {
        match called(expr) {
            Some((name, args)) if name == "tidb_bounded_staleness" => {
                let [from, to] = args[..] else {
                    return Err(as_of("TIDB_BOUNDED_STALENESS takes two times"));
                };
                let (from, to) = (self.moment(from)?, self.moment(to)?);
                if from > to {
                    return Err(as_of("the first time of TIDB_BOUNDED_STALENESS is the later one"));
                }
                return Ok((self.database.safe_ts)().clamp(from, to));
            }
            Some((name, args)) if name == "tidb_parse_tso" && args.len() == 1 => {
                return match self.value(args[0])? {
                    Datum::Int(ts) if ts > 0 => Ok(Timestamp(ts as u64)),
                    Datum::UInt(ts) if ts > 0 => Ok(Timestamp(ts)),
                    _ => Err(as_of("TIDB_PARSE_TSO takes a timestamp of the oracle")),
                };
            }
            _ => {}
        }
        let offset = self.variables.time_zone_offset_us();
        let local = match self.value(expr)? {
            Datum::DateTime(us) => Some(us),
            Datum::Date(days) => Some(i64::from(days) * DAY),
            Datum::Text(text) => parse_datetime(&text, offset),
            Datum::Int(digits) => parse_datetime(&digits.to_string(), offset),
            Datum::Decimal(digits) => parse_datetime(&digits.to_string(), offset),
            Datum::Null => return Err(as_of("as of timestamp cannot be NULL")),
            _ => None,
        };
        let ms = local.map(|us| (us - offset).div_euclid(MILLISECOND));
        match ms.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0) {
            Some(ms) => Ok(Timestamp::compose(ms, 0)),
            None => Err(as_of("it is not a time")),
        }
    }
}

fn as_of(why: &str) -> Error {
    Error::as_of(format!("invalid as of timestamp: {why}"))
}

/// A function's name in lower case, and its plain arguments.
fn called(expr: &Expr) -> Option<(String, Vec<&Expr>)> {
    let Expr::Function(function) = expr else { return None };
    let FunctionArguments::List(list) = &function.args else { return None };
    let args = list.args.iter().map(plain).collect::<Option<_>>()?;
    Some((function.name.to_string().replace('`', "").to_ascii_lowercase(), args))
}

fn plain(arg: &FunctionArg) -> Option<&Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}

/// How many tables a query reads, but for those that it makes itself (WITH).
fn tables_of(query: &Query) -> usize {
    let mut count = Count::default();
    let _: ControlFlow<()> = query.visit(&mut count);
    let made = |name: &&String| !count.made.contains(name);
    count.read.iter().filter(made).count()
}

#[derive(Default)]
struct Count {
    made: Vec<String>,
    read: Vec<String>,
}

impl Visitor for Count {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.made.extend(tables.map(|table| table.alias.name.value.to_ascii_lowercase()));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, .. } = factor {
            let name = name.to_string().replace('`', "").to_ascii_lowercase();
            // MySQL's table without rows.
            if name != "dual" {
                self.read.push(name);
            }
        }
        ControlFlow::Continue(())
    }
}
