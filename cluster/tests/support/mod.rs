//! What the cluster's tests share: a client in process whose answers are text, waiting with a
//! deadline, and golden files. It must never wait for a fixed time.

// Each test program uses a part of it.
#![allow(dead_code)]
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test fails by panicking, in real time

use damask_cluster::{Cluster, Config};
use damask_sql_lite::convert;
use damask_sql_lite::outcome::{ColumnMeta, ConnectionInfo, Outcome, RowBatch};
use damask_sql_lite::session::connection::Connection;
use damask_sql_lite::{Database, Error};
use damask_types::key::{row_key, row_range};
use damask_types::{StoreId, TableSchema};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Until something that must happen has happened.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks.
const POLL: Duration = Duration::from_millis(5);
/// A whole test.
const TEST_DEADLINE: Duration = Duration::from_secs(300);
/// The environment variable that makes golden files anew.
pub const UPDATE: &str = "UPDATE_SCRIPTS";

/// The one column store of the clusters here.
pub const COLUMNS: StoreId = StoreId(101);

static CLIENTS: AtomicU32 = AtomicU32::new(1);

/// Runs a test's body, and fails the test if it does not end.
pub fn bounded(body: impl FnOnce() + Send + 'static) {
    let (sender, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        body();
        sender.send(()).ok();
    });
    match ended.recv_timeout(TEST_DEADLINE) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("no end after {TEST_DEADLINE:?}"),
        _ => {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Waits until it is true.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::park_timeout(POLL);
    }
}

/// Compares with a golden file of `tests/sql`, or makes it.
pub fn golden(name: &str, text: &str) {
    let path = scripts().join(name);
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    same(&format!("{name} (made anew with {UPDATE}=1)"), &expected, text);
}

/// Fails at the first line that differs, with what came before it.
pub fn same(what: &str, expected: &str, got: &str) {
    if expected == got {
        return;
    }
    let (left, right): (Vec<_>, Vec<_>) = (expected.lines().collect(), got.lines().collect());
    let pairs = left.iter().zip(&right);
    let at = pairs.take_while(|(l, r)| l == r).count();
    let around = |lines: &[&str]| lines[at.saturating_sub(4)..lines.len().min(at + 6)].join("\n");
    let (expected, got) = (around(&left), around(&right));
    panic!("{what}: line {}\n--- expected\n{expected}\n--- got\n{got}\n", at + 1);
}

/// The folder of scripts and golden files.
pub fn scripts() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/sql")
}

/// In memory, with elections quick enough for tests that stop leaders.
pub fn quick() -> Config {
    let mut config = Config::memory();
    config.raft.tick_ms = 50;
    config
}

/// A client of a cluster.
pub struct Client(pub Connection);

impl Client {
    /// Connects.
    pub fn new(database: &Arc<Database>) -> Client {
        let id = CLIENTS.fetch_add(1, Ordering::Relaxed);
        let info = ConnectionInfo {
            id,
            user: "root".to_owned(),
            host: "localhost".to_owned(),
            ..ConnectionInfo::default()
        };
        Client(database.connect(info).unwrap())
    }

    /// Rows as text, `None` = NULL. A statement without rows gives none.
    pub fn try_rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        match self.0.run(sql)? {
            Outcome::Rows(mut rows) => {
                let mut out = Vec::new();
                while let Some(batch) = rows.source.next()? {
                    push(&rows.columns, &batch, &mut out)?;
                }
                Ok(out)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// The same, which must go well.
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.try_rows(sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// The first value of the first row.
    pub fn value(&mut self, sql: &str) -> String {
        let first = self.rows(sql).into_iter().next().and_then(|row| row.into_iter().next());
        first.flatten().unwrap_or_else(|| panic!("{sql}: no value"))
    }

    /// Runs a statement that must go well.
    pub fn run(&mut self, sql: &str) {
        self.rows(sql);
    }

    /// Runs several.
    pub fn run_all(&mut self, statements: &[&str]) {
        for sql in statements {
            self.run(sql);
        }
    }

    /// What a person would see of it, without a final newline.
    pub fn transcript(&mut self, sql: &str) -> String {
        match self.try_transcript(sql) {
            Ok(text) => text,
            // Its message has times in it.
            Err(e) if e.code == Error::write_conflict("").code => {
                format!("ERROR {} ({}): write conflict", e.code, e.state)
            }
            Err(e) => e.to_string(),
        }
    }

    fn try_transcript(&mut self, sql: &str) -> Result<String, Error> {
        let mut rows = match self.0.run(sql)? {
            Outcome::Done(done) => {
                let mut text = format!("ok, {} rows", done.affected_rows);
                if done.last_insert_id > 0 {
                    text += &format!(", id {}", done.last_insert_id);
                }
                if !done.info.is_empty() {
                    text += &format!(", {}", done.info.trim());
                }
                return Ok(text);
            }
            Outcome::Rows(rows) => rows,
            Outcome::LocalInfile(_) => return Ok("asks for a file".to_owned()),
        };
        let head: Vec<_> = rows.columns.iter().map(|c| c.name.as_str()).collect();
        let head = head.join(" | ");
        let mut values = Vec::new();
        while let Some(batch) = rows.source.next()? {
            push(&rows.columns, &batch, &mut values)?;
        }
        let line = |row: Vec<Option<String>>| {
            let cells = row.into_iter().map(|v| v.unwrap_or_else(|| "NULL".to_owned()));
            format!("  {}", cells.collect::<Vec<_>>().join(" | ")).trim_end().to_owned()
        };
        let mut lines: Vec<_> = values.into_iter().map(line).collect();
        // SQL promises an order only when asked for one.
        let text = sql.trim_start().to_ascii_lowercase();
        let is_query = text.starts_with("select") || text.starts_with("with");
        if is_query && !text.contains("order by") {
            lines.sort();
        }
        lines.insert(0, format!("[{head}]"));
        Ok(lines.join("\n"))
    }

    /// Gives a table a column replica, unless it asked for one already, and waits until that can
    /// be read.
    pub fn replicate(&mut self, database: &str, table: &str, ask: bool) {
        if ask {
            self.run(&format!("ALTER TABLE {database}.{table} SET COLUMN REPLICA 1"));
        }
        let sql = format!(
            "SELECT available FROM information_schema.tiflash_replica \
             WHERE table_schema = '{database}' AND table_name = '{table}'"
        );
        until(&format!("columns of {database}.{table}"), || self.value(&sql) == "1");
    }
}

fn push(
    columns: &[ColumnMeta],
    batch: &RowBatch,
    out: &mut Vec<Vec<Option<String>>>,
) -> Result<(), Error> {
    match batch {
        RowBatch::Datums(rows) => {
            for row in rows {
                let cells = row.iter().zip(columns);
                out.push(cells.map(|(v, c)| convert::text(v, c.ty.as_ref())).collect());
            }
        }
        RowBatch::Columns(batch) => {
            for at in 0..batch.num_rows() {
                let mut cells = Vec::new();
                for (i, column) in columns.iter().enumerate() {
                    let ty = column.ty.as_ref();
                    let value = convert::datum_at(batch.column(i).as_ref(), at, ty)?;
                    cells.push(convert::text(&value, ty));
                }
                out.push(cells);
            }
        }
    }
    Ok(())
}

/// A table's schema.
pub fn schema(cluster: &Cluster, database: &str, table: &str) -> Arc<TableSchema> {
    let view = cluster.database().catalog.view();
    view.table(database, table).unwrap_or_else(|| panic!("no table {database}.{table}"))
}

/// Splits a table's rows before these handles.
pub fn split(cluster: &Cluster, table: &TableSchema, handles: &[i64]) {
    for handle in handles {
        let key = row_key(table.id, *handle);
        let is_edge = || {
            let route = cluster.pd().route(&key);
            route.is_some_and(|route| route.region.range.start == key)
        };
        // The driver's own steps may come between: then it is asked for again.
        until("a split", || is_edge() || cluster.split(&key).is_ok());
        until("a split to be known", is_edge);
    }
}

/// The store that leads the region of a table's rows.
pub fn leader(cluster: &Cluster, table: &TableSchema) -> StoreId {
    let mut found = None;
    until("a leader", || {
        let route = cluster.pd().route(&row_range(table.id).start);
        found = route.and_then(|route| route.leader).map(|peer| peer.store);
        found.is_some()
    });
    found.expect("waited for")
}
