//! What transactions cost beside their I/O, measured in one run:
//! `cargo run --release -p damask-txn --example cost`. It must never be taken for a bench of the
//! machine: only what is counted, and the ratios, mean something.
//!
//! * bookkeeping: processor time of the decisions of prewrite and commit, engine in memory;
//! * one row in one phase, durable, one replica with its log on disk, beside one appended and
//!   synced write of the same bytes; syncs are counted.

use damask_env::{Clock, Content, Disk, File, RealClock, RealDisk};
use damask_kv::{Engine, MemoryEngine, MvccReader, records_to_batch};
use damask_txn::percolator::decide;
use damask_txn::testing::replicated::{Parts, Replicated};
use damask_txn::{Config, Mutation, Prewrite, Request};
use damask_types::Timestamp;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const KEYS: u64 = 1_000;
const VALUE_BYTES: usize = 100;
const ROUNDS: u64 = 201;
const COMMITS: u64 = 300;

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    bookkeeping()?;
    commit()
}

fn key(n: u64) -> Vec<u8> {
    damask_types::key::row_key(damask_types::TableId(1), n as i64)
}

/// Time that this thread was on a processor: what others take of a busy machine does not count.
/// Only sums mean something: the kernel counts in ticks.
fn processor_time(clock: &dyn Clock) -> Duration {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = schedule.and_then(|s| s.split_whitespace().next()?.parse().ok());
    nanos.map_or_else(|| clock.monotonic(), Duration::from_nanos)
}

fn bookkeeping() -> Result<(), Failed> {
    let clock = RealClock::default();
    let engine = MemoryEngine::new();
    let mut spent = Duration::ZERO;
    for round in 0..ROUNDS {
        let start_ts = Timestamp(100 + 10 * round);
        let keys: Vec<Vec<u8>> = (0..KEYS).map(key).collect();
        let value = vec![b'v'; VALUE_BYTES];
        let put = |key: &Vec<u8>| Mutation::Put { key: key.clone(), value: value.clone() };
        let prewrite = Request::Prewrite(Prewrite {
            mutations: keys.iter().map(put).collect(),
            primary: keys[0].clone(),
            start_ts,
            ttl_ms: 3_000,
            txn_size: KEYS,
            ..Prewrite::default()
        });
        let reader = MvccReader::new(engine.snapshot());
        let begin = processor_time(&clock);
        let decision = decide(&reader, prewrite)?;
        let first = processor_time(&clock) - begin;
        engine.write(records_to_batch(&decision.records))?;
        let request = Request::Commit { keys, start_ts, commit_ts: start_ts.next() };
        let reader = MvccReader::new(engine.snapshot());
        let begin = processor_time(&clock);
        let decision = decide(&reader, request)?;
        let second = processor_time(&clock) - begin;
        engine.write(records_to_batch(&decision.records))?;
        spent += first + second;
    }
    let per_key = spent.as_secs_f64() * 1e6 / (KEYS * ROUNDS) as f64;
    println!("bookkeeping: {per_key:.2} us a key, prewrite and commit of {KEYS} keys");
    Ok(())
}

/// Counts syncs and appends of another disk.
struct Counted {
    inner: RealDisk,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    syncs: AtomicU64,
    bytes: AtomicU64,
}

struct CountedFile {
    inner: Arc<dyn File>,
    counts: Arc<Counts>,
}

impl File for CountedFile {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.counts.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.inner.append(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
        self.inner.sync()
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.inner.read_at(offset, len)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.inner.truncate(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }
}

impl Disk for Counted {
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let inner = self.inner.open(name)?;
        Ok(Arc::new(CountedFile { inner, counts: Arc::clone(&self.counts) }))
    }

    fn map(&self, name: &str) -> io::Result<Content> {
        self.inner.map(name)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.inner.replace(name, bytes)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.inner.list(folder)
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.inner.sync_folder(folder)
    }
}

fn commit() -> Result<(), Failed> {
    let clock = RealClock::default();
    let folder = tempfile::tempdir()?;
    let (root, counts) = (folder.path().to_owned(), Arc::<Counts>::default());
    let shared = Arc::clone(&counts);
    let open = Box::new(move |_| {
        let inner = RealDisk::open(root.join("store")).expect("a folder");
        let disk = Arc::new(Counted { inner, counts: Arc::clone(&shared) });
        Parts { disk, engine: Arc::new(MemoryEngine::new()) }
    });
    let cluster = Replicated::start(1, Duration::from_millis(100), open);
    cluster.leader();
    let client = cluster.client(Config::default())?;
    let bare = RealDisk::open(folder.path().join("bare"))?.open("log")?;
    let value = vec![b'v'; VALUE_BYTES];
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    let before = [counts.syncs.load(Ordering::Relaxed), counts.bytes.load(Ordering::Relaxed)];
    for n in 0..COMMITS {
        let begin = clock.monotonic();
        let mut txn = client.begin()?;
        txn.put(key(n), value.clone())?;
        txn.commit()?;
        let middle = clock.monotonic();
        bare.append(&[key(n), value.clone()].concat())?;
        bare.sync()?;
        ours.push((middle - begin).as_secs_f64() * 1e3);
        peer.push((clock.monotonic() - middle).as_secs_f64() * 1e3);
    }
    let commits = COMMITS as f64;
    let syncs = counts.syncs.load(Ordering::Relaxed) - before[0];
    let bytes = counts.bytes.load(Ordering::Relaxed) - before[1];
    let user = COMMITS * (key(0).len() + VALUE_BYTES) as u64;
    let median = |times: &mut Vec<f64>| {
        times.sort_unstable_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let (ours, peer) = (median(&mut ours), median(&mut peer));
    println!(
        "commit: one row {ours:.3} ms, one synced append {peer:.3} ms, {:.2}x; {:.2} syncs and \
         {:.2} log bytes a byte",
        ours / peer,
        syncs as f64 / commits,
        bytes as f64 / user as f64
    );
    Ok(())
}
