//! KILL, PROCESSLIST and max_execution_time between sessions of one server, over a row engine
//! without replication. Whoever waits here polls with a deadline.

#![allow(clippy::disallowed_methods)] // real threads wait for one another, in real time

use damask_coprocessor::testing::{Fixed, ROW_STORE, Resolved};
use damask_coprocessor::{Dispatch, Endpoint, RowEndpoint};
use damask_env::RealClock;
use damask_kv::MemoryEngine;
use damask_sql_lite::database::ColumnReplicas;
use damask_sql_lite::outcome::{ConnectionInfo, Outcome, RowBatch};
use damask_sql_lite::query::{TableFacts, TableSize};
use damask_sql_lite::session::Connection;
use damask_sql_lite::{Database, Error, Services, convert};
use damask_txn::{LocalCluster, Replica};
use damask_types::{KeyRange, TableSchema};
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Until something that must happen has happened.
const DEADLINE: Duration = Duration::from_secs(60);

struct NoColumns;

impl ColumnReplicas for NoColumns {
    fn set(&self, _: KeyRange, _: u32) -> Result<(), String> {
        Err("there are no column stores".to_owned())
    }

    fn remove(&self, _: &KeyRange) -> Result<(), String> {
        Ok(())
    }

    fn progress(&self, _: &KeyRange) -> (u32, u32) {
        (0, 0)
    }

    fn indexes(&self, _: &KeyRange) -> Option<(u64, u64)> {
        None
    }

    fn lag_ms(&self, _: &KeyRange) -> Option<u64> {
        Some(3)
    }
}

impl TableFacts for NoColumns {
    fn size(&self, _: &TableSchema) -> TableSize {
        TableSize { rows: 1000.0, regions: 1.0 }
    }

    fn columns_ready(&self, _: &TableSchema) -> bool {
        false
    }

    fn columns_stopped(&self, _: &TableSchema) -> bool {
        false
    }
}

struct Server {
    database: Arc<Database>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn new() -> Server {
        let engine = Arc::new(MemoryEngine::new());
        let cluster = LocalCluster::new(engine.clone());
        let replica = cluster.replica().clone();
        let read_index = Box::new(move |region, epoch, done| {
            replica.read_index(region, epoch, done);
        });
        let rows: Arc<dyn Endpoint> = Arc::new(RowEndpoint::new(engine, read_index));
        let dispatch = Dispatch::new(
            cluster.clone(),
            Arc::new(Fixed(HashMap::from([(ROW_STORE, rows)]))),
            Arc::new(Resolved::default()),
            Arc::new(RealClock::default()),
        );
        let builder = &mut tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
        let database = Database::open(Services {
            client: cluster.client(),
            dispatch: Arc::new(dispatch),
            replicas: Arc::new(NoColumns),
            facts: Arc::new(NoColumns),
            lock_waits: Arc::new(Vec::new),
            safe_ts: Arc::new(damask_types::Timestamp::default),
            runtime: runtime.handle().clone(),
            clock: Arc::new(RealClock::default()),
            cores: 2,
        });
        let server = Server { database: database.expect("opens"), _runtime: runtime };
        let mut first = server.client(1);
        run(&mut first, "CREATE TABLE test.t (a INT PRIMARY KEY)").expect("creates");
        run(&mut first, "CREATE TABLE test.u (a INT)").expect("creates");
        let rows: Vec<_> = (0..2000).map(|n| format!("({n})")).collect();
        run(&mut first, &format!("INSERT INTO test.t VALUES {}", rows.join(","))).expect("inserts");
        server
    }

    fn client(&self, id: u32) -> Connection {
        let (user, host) = ("root".to_owned(), "localhost".to_owned());
        let info = ConnectionInfo { id, user, host, ..ConnectionInfo::default() };
        self.database.connect(info).expect("connects")
    }

    /// Runs a statement in a session of its own; gives the session back with the answer.
    fn start(&self, id: u32, sql: &str) -> JoinHandle<(Connection, Answer)> {
        let (mut client, sql) = (self.client(id), sql.to_owned());
        std::thread::spawn(move || {
            let answer = run(&mut client, &sql);
            (client, answer)
        })
    }

    /// Waits until PROCESSLIST shows that a session runs a statement.
    fn shown(&self, admin: &mut Connection, id: u32, sql: &str) {
        let deadline = Instant::now() + DEADLINE;
        let query =
            format!("SELECT command, info FROM information_schema.processlist WHERE id = {id}");
        let wanted = [["Query".to_owned(), sql.to_owned()]];
        while run(admin, &query).expect("a process list") != wanted {
            assert!(Instant::now() < deadline, "{sql} is not shown");
            std::thread::yield_now();
        }
    }
}

type Answer = Result<Vec<Vec<String>>, Error>;

fn run(client: &mut Connection, sql: &str) -> Answer {
    let Outcome::Rows(mut rows) = client.run(sql)? else { return Ok(Vec::new()) };
    let mut all = Vec::new();
    while let Some(batch) = rows.source.next()? {
        match batch {
            RowBatch::Datums(rows) => all.extend(rows),
            RowBatch::Columns(batch) => {
                for row in 0..batch.num_rows() {
                    let cells = batch.columns().iter().zip(&rows.columns);
                    let cell = cells.map(|(c, m)| convert::datum_at(c, row, m.ty.as_ref()));
                    all.push(cell.collect::<Result<_, Error>>()?);
                }
            }
        }
    }
    let text = |(datum, meta): (_, &damask_sql_lite::outcome::ColumnMeta)| {
        convert::text(datum, meta.ty.as_ref()).unwrap_or_else(|| "NULL".to_owned())
    };
    Ok(all.iter().map(|row| row.iter().zip(&rows.columns).map(text).collect()).collect())
}

fn code(answer: Answer) -> u16 {
    answer.expect_err("told to end").code
}

/// Takes weeks.
const ENDLESS: &str = "SELECT count(*) FROM test.t a, test.t b, test.t c, test.t d \
                       WHERE a.a + b.a + c.a + d.a = 7 + abs(a.a - b.a)";

#[test]
fn kill_query_ends_what_runs_and_nothing_else() {
    let server = Server::new();
    let mut admin = server.client(2);
    let insert = format!("INSERT INTO test.u {ENDLESS}");
    let explain = format!("EXPLAIN ANALYZE {ENDLESS}");
    let sort = "SELECT a.a FROM test.t a, test.t b, test.t c ORDER BY b.a, c.a, a.a LIMIT 3";
    for (id, sql) in
        (10..).zip(["SELECT sleep(600)", ENDLESS, sort, &insert, &explain, "DO sleep(600)"])
    {
        let running = server.start(id, sql);
        server.shown(&mut admin, id, sql);
        run(&mut admin, &format!("KILL QUERY {id}")).expect("killed");
        let (mut client, answer) = running.join().expect("no panic");
        assert_eq!(code(answer), 1317, "{sql}");
        assert_eq!(run(&mut client, "SELECT 1").expect("goes on"), [["1"]]);
        assert_eq!(run(&mut client, "SELECT count(*) FROM test.u").expect("goes on"), [["0"]]);
        let list = run(&mut admin, &format!("SHOW PROCESSLIST WHERE Id = {id}")).expect("a list");
        assert_eq!(list[0][4], "Sleep");
    }
    // What is between two statements has nothing to be ended.
    let mut idle = server.client(30);
    run(&mut admin, "KILL QUERY 30").expect("known");
    assert_eq!(run(&mut idle, "SELECT 2").expect("not told to end"), [["2"]]);
    assert_eq!(code(run(&mut admin, "KILL QUERY 999")), 1094);
    assert_eq!(code(run(&mut admin, "KILL QUERY 2")), 1317, "itself");
}

#[test]
fn kill_query_ends_what_waits_for_a_lock() {
    let server = Server::new();
    let mut admin = server.client(2);
    let mut holder = server.client(3);
    run(&mut holder, "BEGIN PESSIMISTIC").expect("begins");
    run(&mut holder, "UPDATE test.t SET a = 5000 WHERE a = 7").expect("locks");
    let sql = "DELETE FROM test.t WHERE a = 7";
    let running = server.start(10, sql);
    server.shown(&mut admin, 10, sql);
    run(&mut admin, "KILL QUERY 10").expect("killed");
    let (mut client, answer) = running.join().expect("no panic");
    assert_eq!(code(answer), 1317);
    assert_eq!(run(&mut client, "SELECT 1").expect("goes on"), [["1"]]);
    run(&mut holder, "ROLLBACK").expect("rolled back");
}

/// Index fillings that may be over before they are killed.
const FILLINGS_MAX: usize = 50;

#[test]
fn kill_query_ends_the_filling_of_an_index() {
    let server = Server::new();
    let mut admin = server.client(2);
    run(&mut admin, "ALTER TABLE test.t ADD COLUMN b INT").expect("alters");
    for _ in 0..FILLINGS_MAX {
        let running = server.start(10, "ALTER TABLE test.t ADD INDEX filled (b)");
        // It waits for nothing: it may have ended before anybody sees that it runs.
        let list = "SELECT info FROM information_schema.processlist WHERE id = 10";
        let sees = |rows: Vec<Vec<String>>| rows.iter().any(|row| row[0].contains("ADD INDEX"));
        while !running.is_finished() && !sees(run(&mut admin, list).expect("a process list")) {
            std::thread::yield_now();
        }
        run(&mut admin, "KILL QUERY 10").expect("killed, or over");
        let (_client, answer) = running.join().expect("no panic");
        if let Err(e) = answer {
            assert_eq!(e.code, 1317, "{e}");
            let filled = "SELECT count(*) FROM information_schema.statistics \
                          WHERE index_name = 'filled'";
            assert_eq!(run(&mut admin, filled).expect("answered"), [["0"]], "removed again");
            return;
        }
        run(&mut admin, "ALTER TABLE test.t DROP INDEX filled").expect("dropped");
    }
    panic!("{FILLINGS_MAX} fillings were over before they were killed");
}

#[test]
fn kill_ends_the_connection() {
    let server = Server::new();
    let mut admin = server.client(2);
    let running = server.start(3, "SELECT sleep(600)");
    server.shown(&mut admin, 3, "SELECT sleep(600)");
    run(&mut admin, "KILL 3").expect("killed");
    let (mut client, answer) = running.join().expect("no panic");
    assert_eq!(code(answer), 1317);
    assert!(server.database.connections.is_killed(3));
    assert_eq!(code(run(&mut client, "SELECT 1")), 1317, "it never runs anything again");
    drop(client);
    assert_eq!(code(run(&mut admin, "KILL CONNECTION 3")), 1094, "it is gone");
}

#[test]
fn a_query_runs_no_longer_than_it_may() {
    let server = Server::new();
    let mut client = server.client(2);
    let hinted = "SELECT /*+ MAX_EXECUTION_TIME(20) */ sleep(600)";
    assert_eq!(code(run(&mut client, hinted)), 3024);
    run(&mut client, "SET max_execution_time = 20").expect("set");
    assert_eq!(code(run(&mut client, ENDLESS)), 3024);
    // Only queries, and only for so long as they run.
    run(&mut client, "DO sleep(0.1)").expect("no query");
    run(&mut client, "SET max_execution_time = 600000").expect("set");
    assert_eq!(run(&mut client, "SELECT count(*) FROM test.u").expect("quick"), [["0"]]);
    run(&mut client, "SET max_execution_time = 0").expect("set");
    assert_eq!(run(&mut client, "SELECT sleep(0.05)").expect("no limit"), [["0"]]);
}
