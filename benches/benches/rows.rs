//! Rows and transactions beside bare RocksDB doing the same reads and writes, each with its target.
//! It must never compare different bytes: what is measured and its peer hold the same keys and
//! values, and every answer is checked.
//!
//! `cargo bench -p damask-benches --bench rows -- [NAME]`; names: `get`, `scan`, `bookkeeping`,
//! `oracle`, `commit`, `hot`, `bytes`. See README.md beside this crate's manifest.

#[path = "rows/reads.rs"]
mod reads;
#[path = "rows/written.rs"]
mod written;

use damask_benches::arguments::Arguments;
use damask_benches::measure::{Spread, Stopwatch, median_of_calls};
use damask_benches::report::{Line, Target, render};
use damask_benches::{Error, machine};
use damask_cluster::config::Raft;
use damask_cluster::{Cluster, Config};
use damask_env::{Disk, RealClock, RealDisk};
use damask_kv::{Engine, MvccReader, records_to_batch};
use damask_tso::{LocalOracle, Oracle};
use damask_txn::percolator::decide;
use damask_txn::testing::counter::{count_up_together, read_count};
use damask_txn::{Client, Mutation, Prewrite, Request};
use damask_types::Timestamp;
use damask_types::codec::encode_key;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of each value.
const VALUE_BYTES: usize = 100;
/// Keys of one bookkeeping round.
const BOOK_KEYS: usize = 1_000;
/// Clients on the hot key.
const HOT_CLIENTS: usize = 64;
/// Timestamps of one batch.
const TS_BATCH: u32 = 1_024;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("rows: {e}");
            ExitCode::FAILURE
        }
    }
}

struct Run {
    arguments: Arguments,
    stopwatch: Stopwatch,
}

fn run() -> Result<(), Error> {
    let run = Run { arguments: Arguments::read()?, stopwatch: Stopwatch::default() };
    let benches: [(&str, fn(&Run) -> Result<(), Error>); 7] = [
        ("get", Run::get),
        ("scan", Run::scan),
        ("bookkeeping", Run::bookkeeping),
        ("oracle", Run::oracle),
        ("commit", Run::commit),
        ("hot", Run::hot),
        ("bytes", Run::bytes),
    ];
    let wanted: Vec<_> =
        benches.into_iter().filter(|(name, _)| run.arguments.wants(name)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    println!("{}\n", machine::state(&run.arguments.folder, &run.stopwatch)?);
    wanted.into_iter().try_for_each(|(_, bench)| bench(&run))
}

fn key(n: u64) -> Vec<u8> {
    damask_types::key::row_key(damask_types::TableId(1), n as i64)
}

/// Nothing of it can be compressed, so bytes on the disk are bytes of data.
fn value(n: u64) -> Vec<u8> {
    let mut value = n.to_le_bytes().to_vec();
    let mut state = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while value.len() < VALUE_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.extend_from_slice(&state.to_le_bytes());
    }
    value.truncate(VALUE_BYTES);
    value
}

/// Keys in an order that looks random and is the same in every run.
fn shuffled(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(move |i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11) % count)
}

impl Run {
    fn folder(&self, name: &str) -> Result<tempfile::TempDir, Error> {
        let prefix = format!("damask-bench-{name}-");
        Ok(tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.arguments.folder)?)
    }

    fn show(&self, title: &str, unit: &str, ours: Line, target: Option<Target>, peers: &[Line]) {
        let target = target.filter(|_| !self.arguments.small);
        println!("{}\n", render(title, unit, &ours, target, peers));
    }

    fn show_ratio(&self, title: &str, ratio: Spread, target: f64) {
        let target = Some(Target::AtLeast(target));
        self.show(title, "x", Line::new("ratio, pair by pair", ratio), target, &[]);
    }

    /// Units per second of `count` of them, ours and the peer's by turns.
    fn rates(
        &self,
        count: f64,
        mut ours: impl FnMut() -> Result<(), Error>,
        mut peer: impl FnMut() -> Result<(), Error>,
    ) -> Result<[Spread; 2], Error> {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for round in 0..self.arguments.pick(8, 2) {
            let (done, our_seconds) = self.stopwatch.time(&mut ours);
            done?;
            let (done, peer_seconds) = self.stopwatch.time(&mut peer);
            done?;
            if round > 0 {
                a.push(count / our_seconds);
                b.push(count / peer_seconds);
            }
        }
        Ok([Spread::of(&a), Spread::of(&b)])
    }

    /// Prewrite and commit as decisions: an engine in memory is read, nothing is replicated.
    fn bookkeeping(&self) -> Result<(), Error> {
        let engine = damask_kv::MemoryEngine::new();
        let mut start_ts = 100;
        let mut per_key = Vec::new();
        for _ in 0..self.arguments.pick(51, 3) {
            let keys: Vec<Vec<u8>> = (0..BOOK_KEYS as u64).map(key).collect();
            let put = |key: &Vec<u8>| Mutation::Put { key: key.clone(), value: value(1) };
            let prewrite = Request::Prewrite(Prewrite {
                mutations: keys.iter().map(put).collect(),
                primary: keys[0].clone(),
                start_ts: Timestamp(start_ts),
                ttl_ms: 3_000,
                txn_size: BOOK_KEYS as u64,
                ..Prewrite::default()
            });
            let reader = MvccReader::new(engine.snapshot());
            let (decision, first) = self.stopwatch.time(|| decide(&reader, prewrite));
            engine.write(records_to_batch(&decision?.records))?;
            let (start, commit) = (Timestamp(start_ts), Timestamp(start_ts + 1));
            let request = Request::Commit { keys, start_ts: start, commit_ts: commit };
            let reader = MvccReader::new(engine.snapshot());
            let (decision, second) = self.stopwatch.time(|| decide(&reader, request));
            let records = decision?.records;
            if records.len() != 2 * BOOK_KEYS {
                return Err(format!("commit: {} records", records.len()).into());
            }
            engine.write(records_to_batch(&records))?;
            per_key.push((first + second) / BOOK_KEYS as f64 * 1e6);
            start_ts += 10;
        }
        let ours = Line::new("prewrite and commit of a key", Spread::of(&per_key));
        let target = Some(Target::AtMost(3.0));
        self.show("bookkeeping: decisions for 1,000 keys, no I/O", "us", ours, target, &[]);
        Ok(())
    }

    fn oracle(&self) -> Result<(), Error> {
        let folder = self.folder("oracle")?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(folder.path())?);
        let oracle = LocalOracle::open(Arc::new(RealClock::default()), disk, "timestamp")?;
        let batches = self.arguments.pick(20_000u64, 100);
        let stamps = batches * u64::from(TS_BATCH);
        let counter = AtomicU64::new(0);
        let [ours, peer] = self.rates(
            stamps as f64,
            || (0..batches).try_for_each(|_| oracle.get(TS_BATCH).map(drop)).map_err(Into::into),
            || {
                let add = |_| counter.fetch_add(u64::from(TS_BATCH), Ordering::SeqCst);
                (0..batches).map(add).for_each(|n| {
                    std::hint::black_box(n);
                });
                Ok(())
            },
        )?;
        let peer = [Line::new("peer: atomic additions", peer)];
        let target = Some(Target::AtLeast(20e6));
        let line = Line::new("local, 1,024 at a time, 1 thread", ours);
        self.show("oracle: batched", "timestamps/s", line, target, &peer);
        let each = self.arguments.pick(2_000_000u64, 1_000);
        let two = |get: &(dyn Fn() -> Result<(), Error> + Sync)| -> Result<(), Error> {
            std::thread::scope(|scope| {
                let run = || (0..each).try_for_each(|_| get());
                let other = scope.spawn(run);
                run().and(other.join().expect("the other thread does not panic"))
            })
        };
        let [ours, peer] = self.rates(
            (2 * each) as f64,
            || {
                two(&|| {
                    oracle.get(1)?;
                    Ok(())
                })
            },
            || {
                two(&|| {
                    std::hint::black_box(counter.fetch_add(1, Ordering::SeqCst));
                    Ok(())
                })
            },
        )?;
        let peer = [Line::new("peer: atomic additions, 2 threads", peer)];
        let target = Some(Target::AtLeast(5e6));
        let line = Line::new("local, one by one, 2 threads", ours);
        self.show("oracle: one by one", "timestamps/s", line, target, &peer);
        Ok(())
    }

    /// One committed row, made durable: through the Raft log, and as a bare synced write batch.
    fn commit(&self) -> Result<(), Error> {
        let folder = self.folder("commit")?;
        let one = start(&folder.path().join("one"), 1)?;
        let three = start(&folder.path().join("three"), 3)?;
        let bare = reads::open_alike(&folder.path().join("bare"))?;
        let mut synced = rocksdb::WriteOptions::default();
        synced.set_sync(true);
        let calls = self.arguments.pick(500, 5);
        let mut n = 0;
        let (mut a, mut b, mut c, mut ratios) = (vec![], vec![], vec![], vec![]);
        for round in 0..self.arguments.pick(8, 2) {
            let times = [
                median_of_calls(&self.stopwatch, calls, || {
                    n += 1;
                    put_one(one.client(), n)
                })?,
                median_of_calls(&self.stopwatch, calls, || {
                    n += 1;
                    let mut batch = rocksdb::WriteBatch::default();
                    batch.put(encode_key(&key(n)), value(n));
                    bare.write_opt(batch, &synced).map_err(Error::from)
                })?,
                median_of_calls(&self.stopwatch, calls, || {
                    n += 1;
                    put_one(three.client(), n)
                })?,
            ];
            if round > 0 {
                a.push(times[0] * 1e3);
                b.push(times[1] * 1e3);
                c.push(times[2] * 1e3);
                ratios.push(times[0] / times[1]);
            }
        }
        let peers = [
            Line::new("peer: bare RocksDB, one synced batch", Spread::of(&b)),
            Line::new("three replicas, one process", Spread::of(&c)),
        ];
        let ours = Line::new("one replica, p50 of a commit", Spread::of(&a));
        self.show("commit: one row, one phase, durable", "ms", ours, None, &peers);
        let ratio = Line::new("ratio, round by round", Spread::of(&ratios));
        let target = Some(Target::AtMost(1.3));
        self.show("commit: times the bare synced batch", "x", ratio, target, &[]);
        Ok(())
    }

    /// One counter, many pessimistic clients.
    fn hot(&self) -> Result<(), Error> {
        let folder = self.folder("hot")?;
        let cluster = start(folder.path(), 3)?;
        let (client, hot) = (cluster.client(), key(0));
        let all = self.arguments.pick(1_920, 64);
        let mut total = 0;
        let mut rates = [Vec::new(), Vec::new()];
        for round in 0..self.arguments.pick(6, 2) {
            for (rates, clients) in rates.iter_mut().zip([HOT_CLIENTS, 1]) {
                let count = || count_up_together(client, &hot, clients, all / clients);
                let (done, seconds) = self.stopwatch.time(count);
                done?;
                total += all / clients * clients;
                if round > 0 {
                    rates.push(all as f64 / seconds);
                }
            }
        }
        let counted = read_count(client, &hot)?;
        if counted != total as u64 {
            return Err(format!("{counted} of {total} counted").into());
        }
        let ratios: Vec<f64> = rates[0].iter().zip(&rates[1]).map(|(a, b)| a / b).collect();
        let peer = [Line::new("peer: 1 client", Spread::of(&rates[1]))];
        let ours = Line::new("64 clients", Spread::of(&rates[0]));
        self.show("hot: one row, pessimistic, three replicas", "commits/s", ours, None, &peer);
        self.show_ratio("hot: part of one client's rate", Spread::of(&ratios), 0.8);
        Ok(())
    }
}

fn start(folder: &Path, stores: usize) -> Result<Cluster, Error> {
    let raft = Raft { region_bytes_max: 1 << 40, ..Raft::default() };
    let data = Some(folder.to_owned());
    Cluster::start(Config { data, stores, columns: 0, raft, ..Config::default() })
}

fn put_one(client: &Client, n: u64) -> Result<(), Error> {
    let mut txn = client.begin()?;
    txn.put(key(n), value(n))?;
    txn.commit()?;
    Ok(())
}
