//! How long after its commit a row is in the columns, through the whole cluster, while rows are
//! written at a steady rate. It must never ask through a read that would wait for the row.

use super::Run;
use damask_benches::Error;
use damask_benches::measure::{Spread, Stopwatch};
use damask_benches::report::{Line, Target};
use damask_benches::tpch::playground;
use damask_cluster::Cluster;
use damask_cluster::nodes::Content;
use damask_deltatree::{ColumnStore, HandleRange};
use damask_pd::StoreKind;
use damask_types::{TableId, Timestamp};
use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// Rows of a transaction: one INSERT.
const TRANSACTION_ROWS: u64 = 100;
/// Transactions a second: with the above, the rate that the target speaks of.
const TRANSACTIONS_PER_SECOND: u64 = 100;
/// Between two looks whether a row is there.
const LOOK: Duration = Duration::from_micros(100);
/// Until a row must be there.
const ROW_WAIT: Duration = Duration::from_secs(30);
/// Until the table's columns must be there.
const COLUMNS_WAIT: Duration = Duration::from_secs(60);
/// The part of rows that were visible within 100 ms in the paper (section 6.3), in percent.
const PAPER_PERCENT: f64 = 86.0;
/// Milliseconds, at most, at p99.
const TARGET_MS: f64 = 100.0;

/// A transaction that was acknowledged.
struct Committed {
    last: i64,
    at: Duration,
}

/// What the writer saw.
struct Written {
    /// Milliseconds of each INSERT.
    statement_ms: Vec<f64>,
    rows_per_second: f64,
}

fn columns(cluster: &Cluster) -> Result<Arc<dyn ColumnStore>, Error> {
    let stores = cluster.pd().stores().into_iter();
    let mut columns = stores.filter(|store| store.kind == StoreKind::Column);
    let found = columns.find_map(|store| match cluster.content(store.id) {
        Some(Content::Columns(columns)) => Some(columns),
        _ => None,
    });
    Ok(found.ok_or("no column store runs")?)
}

fn connect(cluster: &Cluster) -> Result<Conn, Error> {
    let addr = cluster.mysql_addr().ok_or("the MySQL server did not start")?;
    let options = OptsBuilder::new()
        .ip_or_hostname(Some(addr.ip().to_string()))
        .tcp_port(addr.port())
        .user(Some("root"))
        .prefer_socket(false);
    Ok(Conn::new(options)?)
}

/// Makes the table, and waits until a column store has it.
fn table(conn: &mut Conn, stopwatch: &Stopwatch) -> Result<TableId, Error> {
    conn.query_drop("CREATE DATABASE fresh")?;
    conn.query_drop("USE fresh")?;
    conn.query_drop("CREATE TABLE t (id BIGINT PRIMARY KEY, k BIGINT, c VARCHAR(40))")?;
    conn.query_drop("ALTER TABLE t SET COLUMN REPLICA 1")?;
    let deadline = stopwatch.elapsed() + COLUMNS_WAIT;
    while stopwatch.elapsed() < deadline {
        let found: Option<i64> = conn.query_first(
            "SELECT table_id FROM information_schema.tiflash_replica \
             WHERE table_schema = 'fresh' AND available = 1",
        )?;
        if let Some(id) = found {
            return Ok(TableId(id));
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Err("the table has no columns".into())
}

/// Inserts at the rate, never faster; each acknowledged transaction is handed over.
fn write(
    conn: &mut Conn,
    stopwatch: &Stopwatch,
    transactions: u64,
    hand_over: impl Fn(Committed) -> bool,
) -> Result<Written, Error> {
    let pause = Duration::from_secs(1) / TRANSACTIONS_PER_SECOND as u32;
    let (start, mut statement_ms) = (stopwatch.elapsed(), Vec::new());
    for number in 0..transactions {
        let due = start + pause * number as u32;
        while let Some(early) = due.checked_sub(stopwatch.elapsed()).filter(|d| !d.is_zero()) {
            std::thread::park_timeout(early);
        }
        let first = number * TRANSACTION_ROWS;
        let rows = first..first + TRANSACTION_ROWS;
        let values: Vec<String> =
            rows.map(|id| format!("({id}, {}, 'a text of row {id}')", id * 31 % 1000)).collect();
        let sql = format!("INSERT INTO t VALUES {}", values.join(", "));
        let (done, seconds) = stopwatch.time(|| conn.query_drop(sql));
        done?;
        statement_ms.push(seconds * 1e3);
        let last = (first + TRANSACTION_ROWS - 1) as i64;
        if !hand_over(Committed { last, at: stopwatch.elapsed() }) {
            break; // the other side has said why
        }
    }
    let spent = (stopwatch.elapsed() - start).as_secs_f64();
    let rows_per_second = (statement_ms.len() as u64 * TRANSACTION_ROWS) as f64 / spent;
    Ok(Written { statement_ms, rows_per_second })
}

/// Milliseconds from each acknowledgement until the transaction's last row is in the columns.
fn watch(
    store: &dyn ColumnStore,
    table: TableId,
    stopwatch: &Stopwatch,
    committed: &Receiver<Committed>,
) -> Result<Vec<f64>, Error> {
    let mut waits = Vec::new();
    for Committed { last, at } in committed {
        let range = [HandleRange { first: last, last }];
        while store.snapshot(table)?.count(&range, Timestamp::MAX)? == 0 {
            if stopwatch.elapsed() > at + ROW_WAIT {
                return Err(format!("row {last} is not in the columns after {ROW_WAIT:?}").into());
            }
            std::thread::park_timeout(LOOK);
        }
        waits.push(stopwatch.elapsed().saturating_sub(at).as_secs_f64() * 1e3);
    }
    Ok(waits)
}

fn percentile(part: &[f64], percent: usize) -> f64 {
    let mut sorted = part.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// A percentile of each second's transactions.
fn by_second(waits: &[f64], percent: usize) -> Spread {
    let seconds = waits.chunks(TRANSACTIONS_PER_SECOND as usize);
    Spread::of(&seconds.map(|part| percentile(part, percent)).collect::<Vec<_>>())
}

impl Run {
    /// Milliseconds from a commit's acknowledgement until columns have the rows; beside it, the
    /// commit itself.
    pub(super) fn freshness(&self) -> Result<(), Error> {
        let folder = tempfile::Builder::new()
            .prefix("damask-bench-fresh-")
            .tempdir_in(&self.arguments.folder)?;
        let mut cluster = Cluster::start(playground(Some(folder.path())))?;
        let mut conn = connect(&cluster)?;
        let table = table(&mut conn, &self.stopwatch)?;
        let store = columns(&cluster)?;
        let transactions = self.arguments.pick(30, 1) * TRANSACTIONS_PER_SECOND;
        let (sender, committed) = sync_channel(transactions as usize);
        let (waits, written) = std::thread::scope(|scope| {
            let stopwatch = &self.stopwatch;
            let watcher = scope.spawn(move || watch(&*store, table, stopwatch, &committed));
            let hand_over = move |one| sender.send(one).is_ok();
            let written = write(&mut conn, stopwatch, transactions, hand_over);
            let waits = watcher.join().map_err(|_| Error::from("the watching thread panicked"));
            (waits, written)
        });
        let (waits, written) = (waits??, written?);
        let within =
            |ms: f64| waits.iter().filter(|wait| **wait <= ms).count() as f64 / waits.len() as f64;
        let count: Option<u64> = conn.query_first("SELECT count(*) FROM t")?;
        if count != Some(transactions * TRANSACTION_ROWS) {
            return Err(format!("{count:?} rows after {transactions} transactions").into());
        }
        let title = format!(
            "freshness: commit answered until visible in columns, {:.0} rows/s; p99 by second",
            written.rows_per_second
        );
        let target = (!self.arguments.small).then_some(Target::AtMost(TARGET_MS));
        let peers = [
            Line::new("p50, by second", by_second(&waits, 50)),
            Line::new(
                "peer: the INSERT of 100 rows itself, p50",
                by_second(&written.statement_ms, 50),
            ),
        ];
        self.show(&title, "ms", Line::new("p99", by_second(&waits, 99)), target, &peers);
        println!(
            "  all {} transactions: p99 {:.1} ms; within 10 ms {:.1} %, within 100 ms {:.1} % \
             (the paper: {PAPER_PERCENT} %)\n",
            waits.len(),
            percentile(&waits, 99),
            within(10.0) * 100.0,
            within(100.0) * 100.0
        );
        drop(conn);
        cluster.stop();
        Ok(())
    }
}
