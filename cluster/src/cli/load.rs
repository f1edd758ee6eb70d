//! `damask load tpch`: makes the eight TPC-H tables and loads them through any running cluster's
//! MySQL port, by LOAD DATA LOCAL INFILE in transactions. It must never read a file: every row
//! is generated (crate `tpchgen`).

use damask_env::{Clock, Closing, RealClock};
use indicatif::{ProgressBar, ProgressStyle};
use mysql::prelude::Queryable;
use mysql::{Conn, LocalInfileHandler, OptsBuilder};
use std::fmt::Display;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tpchgen::generators::*;

/// Rows that one LOAD DATA statement sends: the unit of progress and of parallel work.
/// ER_TABLE_EXISTS_ERROR.
const TABLE_EXISTS: u16 = 1050;
const ROWS_PER_STATEMENT: usize = 10_000;
/// How long column replicas may take to come up.
const REPLICA_WAIT: Duration = Duration::from_secs(300);
/// Between two looks at them.
const REPLICA_POLL: Duration = Duration::from_millis(100);

const SCHEMA: &str = include_str!("tpch_schema.sql");

/// What to load, and where.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadTpch {
    /// Scale factor: 1 is about 1 GB of text and 8.7 million rows.
    #[arg(long, default_value_t = 0.1)]
    pub scale: f64,
    /// The cluster's MySQL address.
    #[arg(long, default_value = "127.0.0.1:4000")]
    pub mysql: SocketAddr,
    /// The database to make; it must not hold TPC-H tables already, unless --drop is given.
    #[arg(long, default_value = "tpch")]
    pub database: String,
    /// Drop the database first.
    #[arg(long)]
    pub drop: bool,
    /// Connections that load at the same time.
    #[arg(long, default_value_t = 4)]
    pub threads: usize,
    /// Column replicas of each table; 0 for none.
    #[arg(long, default_value_t = 1)]
    pub columns: u32,
}

use crate::cli::Error;

/// A part of a table, as lines.
struct Chunk {
    table: &'static str,
    lines: Vec<u8>,
    rows: usize,
}

/// Loads; prints progress to standard error and a summary to standard output.
pub fn run(options: &LoadTpch) -> Result<(), Error> {
    load_all(options).map_err(in_words)
}

/// What the server said, without the client library's names.
fn in_words(error: Error) -> Error {
    match error.downcast::<mysql::Error>().map(|error| *error) {
        Ok(mysql::Error::MySqlError(said)) => {
            let hint = if said.code == TABLE_EXISTS { "; --drop begins anew" } else { "" };
            format!("ERROR {} ({}): {}{hint}", said.code, said.state, said.message).into()
        }
        Ok(error) => error.into(),
        Err(error) => error,
    }
}

fn load_all(options: &LoadTpch) -> Result<(), Error> {
    if !(options.scale > 0.0 && options.scale <= 100.0) {
        return Err("--scale must be above 0 and at most 100".into());
    }
    if options.threads == 0 || options.threads > 64 {
        return Err("--threads must be from 1 to 64".into());
    }
    let clock: Arc<dyn Clock> = Arc::new(RealClock::default());
    let mut conn = connect(options, None)?;
    if options.drop {
        conn.query_drop(format!("DROP DATABASE IF EXISTS `{}`", options.database))?;
    }
    conn.query_drop(format!("CREATE DATABASE IF NOT EXISTS `{}`", options.database))?;
    conn.query_drop(format!("USE `{}`", options.database))?;
    for statement in SCHEMA.split(';').map(str::trim).filter(|s| !s.is_empty()) {
        conn.query_drop(statement)?;
    }
    for table in TABLES {
        if options.columns > 0 {
            conn.query_drop(format!("ALTER TABLE {table} SET COLUMN REPLICA {}", options.columns))?;
        }
    }
    let start = clock.monotonic();
    let rows = load(options)?;
    let seconds = (clock.monotonic() - start).as_secs_f64();
    println!("loaded {rows} rows in {seconds:.1} s: {:.0} rows/s", rows as f64 / seconds);
    if options.columns > 0 {
        let start = clock.monotonic();
        wait_for_replicas(options, &mut conn, clock.as_ref())?;
        println!("columns ready after {:.1} s more", (clock.monotonic() - start).as_secs_f64());
    }
    Ok(())
}

const TABLES: [&str; 8] =
    ["region", "nation", "supplier", "part", "partsupp", "customer", "orders", "lineitem"];

fn connect(options: &LoadTpch, database: Option<&str>) -> Result<Conn, Error> {
    let opts = OptsBuilder::new()
        .ip_or_hostname(Some(options.mysql.ip().to_string()))
        .tcp_port(options.mysql.port())
        .user(Some("root"))
        .db_name(database)
        .prefer_socket(false)
        .tcp_connect_timeout(Some(Duration::from_secs(5)));
    Conn::new(opts).map_err(|e| {
        format!(
            "no MySQL server answers at {}: {e}; start one with `damask playground`",
            options.mysql
        )
        .into()
    })
}

/// Generates on this thread, sends on `threads` others.
fn load(options: &LoadTpch) -> Result<usize, Error> {
    let total: u64 = expected_rows(options.scale);
    let bar = ProgressBar::new(total);
    let style = "{msg:9} {wide_bar} {pos}/{len} rows {per_sec} eta {eta}";
    bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
    let (sender, receiver) = crossbeam_channel::bounded::<Chunk>(options.threads);
    let mut workers = Vec::new();
    for _ in 0..options.threads {
        let mut conn = connect(options, Some(&options.database))?;
        let (receiver, bar) = (receiver.clone(), bar.clone());
        workers.push(std::thread::Builder::new().name("load".into()).spawn(move || {
            for chunk in receiver {
                let rows = chunk.rows;
                send(&mut conn, chunk)?;
                bar.inc(rows as u64);
            }
            Ok::<(), mysql::Error>(())
        })?);
    }
    drop(receiver);
    let generated = generate(options.scale, &sender, &bar);
    drop(sender);
    for worker in workers {
        worker.join().map_err(|_| "a loading thread panicked")??;
    }
    bar.finish_and_clear();
    generated
}

fn send(conn: &mut Conn, chunk: Chunk) -> Result<(), mysql::Error> {
    let table = chunk.table;
    let lines = Arc::new(chunk.lines);
    conn.set_local_infile_handler(Some(LocalInfileHandler::new(move |_, stream| {
        stream.write_all(&lines)
    })));
    conn.query_drop(format!(
        "LOAD DATA LOCAL INFILE '{table}.tbl' INTO TABLE {table} FIELDS TERMINATED BY '|' \
         LINES TERMINATED BY '|\\n'"
    ))
}

fn generate(
    scale: f64,
    sender: &crossbeam_channel::Sender<Chunk>,
    bar: &ProgressBar,
) -> Result<usize, Error> {
    let mut rows = 0;
    rows += table("region", RegionGenerator::new(scale, 1, 1).iter(), sender, bar)?;
    rows += table("nation", NationGenerator::new(scale, 1, 1).iter(), sender, bar)?;
    rows += table("supplier", SupplierGenerator::new(scale, 1, 1).iter(), sender, bar)?;
    rows += table("part", PartGenerator::new(scale, 1, 1).iter(), sender, bar)?;
    rows += table("partsupp", PartSuppGenerator::new(scale, 1, 1).iter(), sender, bar)?;
    rows += table("customer", CustomerGenerator::new(scale, 1, 1).iter(), sender, bar)?;
    rows += table("orders", OrderGenerator::new(scale, 1, 1).iter(), sender, bar)?;
    rows += table("lineitem", LineItemGenerator::new(scale, 1, 1).iter(), sender, bar)?;
    Ok(rows)
}

fn table<T: Display>(
    name: &'static str,
    iter: impl Iterator<Item = T>,
    sender: &crossbeam_channel::Sender<Chunk>,
    bar: &ProgressBar,
) -> Result<usize, Error> {
    bar.set_message(name);
    let mut total = 0;
    let mut chunk = Chunk { table: name, lines: Vec::new(), rows: 0 };
    for row in iter {
        writeln!(chunk.lines, "{row}")?;
        chunk.rows += 1;
        total += 1;
        if chunk.rows == ROWS_PER_STATEMENT {
            let full =
                std::mem::replace(&mut chunk, Chunk { table: name, lines: Vec::new(), rows: 0 });
            // Every worker ended: one of them holds the reason.
            if sender.send(full).is_err() {
                return Ok(total);
            }
        }
    }
    if chunk.rows > 0 {
        sender.send(chunk).ok();
    }
    Ok(total)
}

/// For the progress bar: TPC-H's row counts; `lineitem` is about 6,001,215 a scale.
fn expected_rows(scale: f64) -> u64 {
    let scaled = 10_000.0 + 200_000.0 + 800_000.0 + 150_000.0 + 1_500_000.0 + 6_001_215.0;
    30 + (scaled * scale) as u64
}

fn wait_for_replicas(options: &LoadTpch, conn: &mut Conn, clock: &dyn Clock) -> Result<(), Error> {
    let deadline = clock.monotonic() + REPLICA_WAIT;
    let query = format!(
        "SELECT count(*) FROM information_schema.tiflash_replica \
         WHERE table_schema = '{}' AND available = 1",
        options.database
    );
    let pause = Closing::new(); // nobody closes it
    while clock.monotonic() < deadline {
        let ready: Option<u64> = conn.query_first(&query)?;
        if ready == Some(TABLES.len() as u64) {
            return Ok(());
        }
        pause.wait(REPLICA_POLL);
    }
    Err(format!("column replicas were not ready after {} s", REPLICA_WAIT.as_secs()).into())
}
