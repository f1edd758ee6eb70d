//! The whole cluster, through the MySQL protocol where users are, each speed beside its target and
//! a peer. It must never print a speed whose answer it did not check.
//!
//! `cargo bench -p damask-benches --bench spine -- [NAME]`; names: `idle`, `freshness`, `load`,
//! `point`, `q1`, `q6`. See README.md beside this crate's manifest.

#[path = "spine/freshness.rs"]
mod freshness;

use damask_benches::arguments::Arguments;
use damask_benches::measure::{Spread, Stopwatch, median_of_calls};
use damask_benches::report::{Line, Target, render};
use damask_benches::tpch::{Tpch, playground};
use damask_benches::{Error, machine};
use damask_cluster::{Cluster, EngineName};
use damask_deltatree::testing::Numbers;
use damask_kv::{Cf, EngineConfig, WriteBatch};
use damask_types::key::row_key;
use mysql::prelude::Queryable;
use mysql::{Conn, Row, Value};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// Set in a child process that is to be an idle playground: its folder, or nothing for memory.
const PLAYGROUND: &str = "DAMASK_BENCH_PLAYGROUND";
/// Puts in one batch of the load's peer.
const PEER_BATCH_PUTS: usize = 1000;
/// Every random choice begins here.
const SEED: u64 = 7;

const Q1: &str = include_str!("../tpch/q01.sql");
const Q6: &str = include_str!("../tpch/q06.sql");

fn main() -> ExitCode {
    let result = match std::env::var_os(PLAYGROUND) {
        Some(folder) => be_playground(folder.into()),
        None => run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("spine: {e}");
            ExitCode::FAILURE
        }
    }
}

/// One run: what was asked, the clock, and whether the targets speak of it.
struct Run {
    arguments: Arguments,
    stopwatch: Stopwatch,
}

fn run() -> Result<(), Error> {
    let run = Run { arguments: Arguments::read()?, stopwatch: Stopwatch::default() };
    let arguments = &run.arguments;
    if !["idle", "freshness", "load", "point", "q1", "q6"].iter().any(|name| arguments.wants(name))
    {
        return Ok(());
    }
    println!("{}", machine::state(&arguments.folder, &run.stopwatch)?);
    let (scale, engine) = (arguments.scale, EngineName::best().kind());
    let built = if cfg!(debug_assertions) { ", built without optimization" } else { "" };
    println!(
        "cluster: 3 row stores ({engine}), 1 column store, one process; scale {scale}{built}\n"
    );
    if arguments.wants("idle") {
        run.idle()?;
    }
    if arguments.wants("freshness") {
        run.freshness()?;
    }
    if !["load", "point", "q1", "q6"].iter().any(|name| arguments.wants(name)) {
        return Ok(());
    }
    let tpch = Tpch::start(arguments, &run.stopwatch)?;
    let lineitem = tpch.columns()?.stats(tpch.table_id("lineitem")?)?;
    println!(
        "lineitem in columns: {} rows stable, {} rows delta\n",
        lineitem.stable_rows, lineitem.delta_rows
    );
    if arguments.wants("load") {
        run.load(&tpch)?;
    }
    if arguments.wants("point") {
        run.point(&tpch)?;
    }
    if arguments.wants("q1") {
        run.query(&tpch, "q1: TPC-H query 1", Q1, 100.0)?;
    }
    if arguments.wants("q6") {
        run.query(&tpch, "q6: TPC-H query 6", Q6, 20.0)?;
    }
    Ok(())
}

/// The child: a playground that waits until its standard input ends.
fn be_playground(folder: std::path::PathBuf) -> Result<(), Error> {
    let data = (!folder.as_os_str().is_empty()).then_some(folder.as_path());
    let mut cluster = Cluster::start(playground(data))?;
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    cluster.stop();
    Ok(())
}

impl Run {
    fn show(&self, title: &str, unit: &str, ours: Line, target: Option<Target>, peers: &[Line]) {
        println!("{}\n", render(title, unit, &ours, target, peers));
    }

    /// Memory of a playground that nobody uses; beside it, one with nothing on the disk.
    fn idle(&self) -> Result<(), Error> {
        let on_disk = tempfile::Builder::new()
            .prefix("damask-bench-idle-")
            .tempdir_in(&self.arguments.folder)?;
        let disk = self.idle_memory(on_disk.path())?;
        let memory = self.idle_memory(std::path::Path::new(""))?;
        let target = (!self.arguments.small).then_some(Target::AtMost(500.0));
        self.show(
            "idle: resident memory of a new playground process",
            "MiB",
            Line::new("on disk", disk),
            target,
            &[Line::new("peer: everything in memory", memory)],
        );
        Ok(())
    }

    fn idle_memory(&self, folder: &std::path::Path) -> Result<Spread, Error> {
        let mut child = Command::new(std::env::current_exe()?)
            .env(PLAYGROUND, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().expect("standard output is piped");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        let (count, pause) = self.arguments.pick((20, 250), (2, 10));
        let found = if line.trim() == "ready" {
            machine::resident_spread(child.id(), count, Duration::from_millis(pause))
        } else {
            Err("the playground did not start".into())
        };
        drop(child.stdin.take());
        let status = child.wait()?;
        let spread = found?;
        if status.success() { Ok(spread) } else { Err(format!("the playground: {status}").into()) }
    }

    /// Rows per second of `damask load tpch`; beside it, the bytes that this left in one row
    /// store written to a bare engine.
    fn load(&self, tpch: &Tpch) -> Result<(), Error> {
        let rows = tpch.rows as f64;
        let (batches, bytes) = stored(tpch)?;
        let mut rates = Vec::new();
        for _ in 0..self.arguments.pick(3, 1) {
            let folder = tempfile::Builder::new()
                .prefix("damask-bench-bare-")
                .tempdir_in(&self.arguments.folder)?;
            let kind = EngineName::best().kind();
            let engine =
                damask_kv::open(kind, &folder.path().join("kv"), &EngineConfig::default())?;
            let copy = batches.clone();
            let (written, seconds) = self.stopwatch.time(|| {
                copy.into_iter().try_for_each(|batch| engine.write(batch))?;
                engine.sync()
            });
            written?;
            rates.push(rows / seconds);
        }
        let target = self.arguments.at_target_scale().then_some(Target::AtLeast(30_000.0));
        self.show(
            &format!(
                "load: `damask load tpch`, {} rows, {} MiB in each row store",
                tpch.rows,
                bytes >> 20
            ),
            "rows/s",
            Line::new(
                "tables made, rows in, columns caught up",
                Spread::of(&[rows / tpch.load_seconds]),
            ),
            target,
            &[Line::new("peer: the same bytes into one bare engine", Spread::of(&rates))],
        );
        Ok(())
    }

    /// Time of a point SELECT with one client; beside it, the protocol alone and the read alone.
    fn point(&self, tpch: &Tpch) -> Result<(), Error> {
        let (rounds, calls) = self.arguments.pick((7, 2000), (1, 50));
        let mut conn = tpch.connect()?;
        let customers: Option<u64> = conn.query_first("SELECT count(*) FROM customer")?;
        let customers = customers.filter(|n| *n > 0).ok_or("no customers were loaded")?;
        let table = tpch.table_id("customer")?;
        let prepared = conn.prep("SELECT c_name FROM customer WHERE c_custkey = ?")?;
        let client = tpch.cluster().client().clone();
        let mut numbers = Numbers(SEED);
        let mut key = move || numbers.below(customers) + 1;
        let mut text = |conn: &mut Conn| {
            let key = key();
            let sql = format!("SELECT c_name FROM customer WHERE c_custkey = {key}");
            check_name(key, conn.query_first(sql)?)
        };
        let mut numbers = Numbers(SEED + 1);
        let mut key = move || numbers.below(customers) + 1;
        let mut seconds: [Vec<f64>; 4] = Default::default();
        // The first round warms up.
        for round in 0..=rounds {
            let medians = [
                median_of_calls(&self.stopwatch, calls, || text(&mut conn))?,
                median_of_calls(&self.stopwatch, calls, || {
                    let key = key();
                    check_name(key, conn.exec_first(&prepared, (key,))?)
                })?,
                median_of_calls(&self.stopwatch, calls, || one(&mut conn))?,
                median_of_calls(&self.stopwatch, calls, || {
                    let found = client.begin()?.get(&row_key(table, key() as i64))?;
                    found.map(drop).ok_or_else(|| Error::from("a row is missing"))
                })?,
            ];
            if round > 0 {
                seconds.iter_mut().zip(medians).for_each(|(all, median)| all.push(median));
            }
        }
        let line = |name: &str, at: usize| Line::new(name, Spread::of(&seconds[at]).scaled(1e3));
        let target = (!self.arguments.small).then_some(Target::AtMost(0.5));
        let peers = [line("peer: SELECT 1", 2), line("peer: begin and get, in process", 3)];
        let title = |kind: &str| {
            format!("point: SELECT by primary key, 1 client, {kind}; p50 of {calls}, by round")
        };
        self.show(&title("text"), "ms", line("select, text", 0), target, &peers);
        self.show(&title("prepared"), "ms", line("select, prepared", 1), target, &peers);
        Ok(())
    }

    /// Time of a query on columns; beside it, the same query on rows, whose answer is the same.
    fn query(&self, tpch: &Tpch, title: &str, sql: &str, target_ms: f64) -> Result<(), Error> {
        let sql = sql.trim().trim_end_matches(';');
        let mut columns = reader(tpch, "column")?;
        let mut rows = reader(tpch, "row")?;
        let expected = answer(&mut rows, sql)?;
        let (mut on_columns, mut on_rows) = (Vec::new(), Vec::new());
        // The first run warms up.
        for run in 0..=self.arguments.pick(15, 1) {
            for (conn, all) in [(&mut columns, &mut on_columns), (&mut rows, &mut on_rows)] {
                let (found, seconds) = self.stopwatch.time(|| answer(conn, sql));
                if found? != expected {
                    return Err(format!("{title}: rows and columns give different answers").into());
                }
                if run > 0 {
                    all.push(seconds * 1e3);
                }
            }
        }
        let target = self.arguments.at_target_scale().then_some(Target::AtMost(target_ms));
        self.show(
            title,
            "ms",
            Line::new("on columns", Spread::of(&on_columns)),
            target,
            &[Line::new("peer: on rows, the same answer", Spread::of(&on_rows))],
        );
        Ok(())
    }
}

/// What one row store holds of its rows, locks left out, in batches; and its bytes.
fn stored(tpch: &Tpch) -> Result<(Vec<WriteBatch>, usize), Error> {
    let snapshot = tpch.engine()?.snapshot();
    let mut batches = vec![WriteBatch::default()];
    let mut bytes = 0;
    for cf in [Cf::Default, Cf::Write] {
        let mut cursor = snapshot.cursor(cf, &[], &[])?;
        let mut pair = cursor.seek(&[])?;
        while let Some((key, value)) = pair {
            if batches.last().is_some_and(|batch| batch.ops.len() >= PEER_BATCH_PUTS) {
                batches.push(WriteBatch::default());
            }
            let batch = batches.last_mut().expect("there is one from the start");
            batch.put(cf, key, value);
            bytes += key.len() + value.len();
            pair = cursor.next()?;
        }
    }
    Ok((batches, bytes))
}

fn check_name(key: u64, found: Option<String>) -> Result<(), Error> {
    match found {
        Some(name) if name == format!("Customer#{key:09}") => Ok(()),
        found => Err(format!("customer {key}: found {found:?}").into()),
    }
}

fn one(conn: &mut Conn) -> Result<(), Error> {
    match conn.query_first::<u64, _>("SELECT 1")? {
        Some(1) => Ok(()),
        found => Err(format!("SELECT 1: found {found:?}").into()),
    }
}

/// A connection that reads from one storage only.
fn reader(tpch: &Tpch, storage: &str) -> Result<Conn, Error> {
    let mut conn = tpch.connect()?;
    conn.query_drop(format!("SET damask_isolation_read_engines = '{storage}'"))?;
    Ok(conn)
}

fn answer(conn: &mut Conn, sql: &str) -> Result<Vec<Vec<Value>>, Error> {
    Ok(conn.query::<Row, _>(sql)?.into_iter().map(Row::unwrap).collect())
}
