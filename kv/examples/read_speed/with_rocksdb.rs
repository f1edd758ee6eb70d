//! The measurements. They must never read different bytes on the two sides.

use damask_env::{Clock, RealClock};
use damask_kv::{Cf, Engine, EngineConfig, MvccReader, Read, RocksEngine, Rows, WriteBatch};
use damask_types::codec::{encode_key, encode_key_ts};
use damask_types::{KeyRange, Timestamp, Write, WriteKind};
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use rocksdb::{BottommostLevelCompaction, CompactOptions, DB, ReadOptions, WriteOptions};
use std::hint::black_box;
use std::time::Duration;

const KEYS: u64 = 200_000;
const VALUE_BYTES: usize = 100;
/// Rows of a scan.
const SCAN_ROWS: u64 = 1000;
const GETS: u64 = 100_000;
const SCANS: u64 = 200;
/// Every measurement is taken so often, in turn; the best counts.
const ROUNDS: usize = 5;

fn key(n: u64) -> Vec<u8> {
    format!("key-{n:012}").into_bytes()
}

/// A fixed walk over all keys in no order.
fn nth(i: u64) -> u64 {
    i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS
}

struct Setup {
    engine: RocksEngine,
    bare: DB,
    versions: u64,
}

/// The same records in our engine and in a database of one family with the engine's own options.
fn load(folder: &std::path::Path, versions: u64) -> Setup {
    let config = EngineConfig::default();
    let engine = RocksEngine::open(&folder.join("engine"), &config).expect("opens");
    let bare = DB::open(&RocksEngine::peer_options(&config), folder.join("bare")).expect("opens");
    for block in (0..KEYS).step_by(1000) {
        let mut batch = WriteBatch::default();
        for n in block..block + 1000 {
            for version in 0..versions {
                let start = Timestamp(10 * version + 5);
                let value = (0..VALUE_BYTES).map(|i| (n + i as u64) as u8).collect();
                let write = Write::new(WriteKind::Put, start, Some(value)).encode();
                let key = encode_key_ts(&key(n), start.next());
                bare.put(&key, &write).expect("writes");
                batch.put(Cf::Write, key, write);
            }
        }
        engine.write(batch).expect("writes");
    }
    engine.sync().expect("syncs");
    engine.compact(Cf::Write, b"", b"");
    let mut options = CompactOptions::default();
    options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
    bare.compact_range_opt::<&[u8], &[u8]>(None, None, &options);
    Setup { engine, bare, versions }
}

impl Setup {
    fn newest(&self) -> Timestamp {
        Timestamp(10 * (self.versions - 1) + 6)
    }

    fn bare_gets(&self) {
        let snapshot = self.bare.snapshot();
        for i in 0..GETS {
            let key = encode_key_ts(&key(nth(i)), self.newest());
            let value = snapshot.get_pinned(&key).expect("reads").expect("there");
            assert!(value.len() > VALUE_BYTES);
        }
    }

    /// As a peer reads that wants one state for several gets.
    fn bare_gets_at_fresh_snapshots(&self) {
        for i in 0..GETS {
            let snapshot = self.bare.snapshot();
            let key = encode_key_ts(&key(nth(i)), self.newest());
            let value = snapshot.get_pinned(&key).expect("reads").expect("there");
            assert!(value.len() > VALUE_BYTES);
        }
    }

    /// A write before each get: nothing can be kept from one to the next.
    fn bare_gets_after_writes(&self) {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        for i in 0..GETS / 4 {
            self.bare.put_opt(b"\0", i.to_le_bytes(), &options).expect("writes");
            let snapshot = self.bare.snapshot();
            let key = encode_key_ts(&key(nth(i)), self.newest());
            let value = snapshot.get_pinned(&key).expect("reads").expect("there");
            assert!(value.len() > VALUE_BYTES);
        }
    }

    fn mvcc_gets_after_writes(&self) {
        for i in 0..GETS / 4 {
            let mut batch = WriteBatch::default();
            batch.put(Cf::Meta, "0", i.to_le_bytes());
            self.engine.write(batch).expect("writes");
            let reader = MvccReader::new(self.engine.snapshot());
            match reader.get(&key(nth(i)), Timestamp(1 << 40)).expect("reads") {
                Read::Ok(Some(value)) => assert_eq!(value.len(), VALUE_BYTES),
                other => panic!("{other:?}"),
            }
        }
    }

    fn mvcc_gets(&self, reuse: bool) {
        let reader = MvccReader::new(self.engine.snapshot());
        for i in 0..GETS {
            let fresh = (!reuse).then(|| MvccReader::new(self.engine.snapshot()));
            let reader = fresh.as_ref().unwrap_or(&reader);
            match reader.get(&key(nth(i)), Timestamp(1 << 40)).expect("reads") {
                Read::Ok(Some(value)) => assert_eq!(value.len(), VALUE_BYTES),
                other => panic!("{other:?}"),
            }
        }
    }

    fn bare_scans(&self, reverse: bool) {
        let snapshot = self.bare.snapshot();
        for i in 0..SCANS {
            let first = nth(i) % (KEYS - SCAN_ROWS);
            let mut options = ReadOptions::default();
            let (start, end) = (encode_key(&key(first)), encode_key(&key(first + SCAN_ROWS)));
            options.set_iterate_lower_bound(start.as_slice());
            options.set_iterate_upper_bound(end);
            let mut iter = snapshot.raw_iterator_opt(options);
            if reverse {
                iter.seek_to_last()
            } else {
                iter.seek(start)
            }
            let (mut rows, mut bytes) = (0, 0);
            while let Some((key, value)) = iter.item() {
                rows += 1;
                bytes += black_box(key).len() + black_box(value).len();
                if reverse { iter.prev() } else { iter.next() }
            }
            assert_eq!(rows, SCAN_ROWS * self.versions);
            black_box(bytes);
        }
    }

    fn mvcc_scans(&self, reverse: bool) {
        let reader = MvccReader::new(self.engine.snapshot());
        let mut rows = Rows::default();
        for i in 0..SCANS {
            let first = nth(i) % (KEYS - SCAN_ROWS);
            let range = KeyRange::new(key(first), key(first + SCAN_ROWS));
            if reverse {
                let found = reader.scan(&range, Timestamp(1 << 40), usize::MAX, true);
                match found.expect("reads") {
                    Read::Ok(rows) => assert_eq!(rows.len() as u64, SCAN_ROWS),
                    Read::Blocked(lock) => panic!("{lock:?}"),
                }
                continue;
            }
            rows.clear();
            let mut scan = reader.scanner(&range, Timestamp(1 << 40)).expect("a scan");
            while scan.next_block(256, &mut rows).expect("reads") != Read::Ok(0) {}
            assert_eq!(rows.len() as u64, SCAN_ROWS);
        }
    }
}

/// Time that this thread was on a processor: what others take of a busy machine does not count.
fn processor_time(clock: &dyn Clock) -> Duration {
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = schedule.and_then(|s| s.split_whitespace().next()?.parse().ok());
    nanos.map_or_else(|| clock.monotonic(), Duration::from_nanos)
}

/// Nanoseconds of each, the best of several rounds that take turns.
fn measure(clock: &dyn Clock, parts: &[&dyn Fn()], count: u64) -> Vec<f64> {
    let mut best = vec![f64::MAX; parts.len()];
    for _ in 0..ROUNDS {
        for (part, best) in parts.iter().zip(&mut best) {
            let begin = processor_time(clock);
            part();
            let spent = processor_time(clock) - begin;
            *best = best.min(spent.as_nanos() as f64 / count as f64);
        }
    }
    best
}

/// What RocksDB did for one of `count` units of the work.
fn counts(work: &dyn Fn(), count: u64) -> String {
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut context = PerfContext::default();
    context.reset();
    work();
    let of = |metric| context.metric(metric) as f64 / count as f64;
    let counted = format!(
        "{:.1} comparisons, {:.1} blocks from the cache, {:.2} read",
        of(PerfMetric::UserKeyComparisonCount),
        of(PerfMetric::BlockCacheHitCount),
        of(PerfMetric::BlockReadCount),
    );
    set_perf_stats(PerfStatsLevel::Disable);
    counted
}

/// Prints each part's time for one unit, its share of the others' speed, and what RocksDB did.
fn report(clock: &dyn Clock, unit: &str, count: u64, parts: &[(&str, &dyn Fn())]) {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let parts: Vec<_> = parts.iter().filter(|(name, _)| name.contains(&wanted)).collect();
    let work: Vec<&dyn Fn()> = parts.iter().map(|(_, work)| *work).collect();
    let ns = measure(clock, &work, count);
    for ((name, work), spent) in parts.iter().zip(&ns) {
        let ratio = ns[0] / spent;
        println!("  {name:<34} {spent:>9.0} ns a {unit}  {ratio:.2}x  {}", counts(work, count));
    }
}

pub fn main() {
    let clock = RealClock::default();
    for versions in [1, 3] {
        let folder = tempfile::tempdir().expect("a folder");
        let setup = load(folder.path(), versions);
        println!("{versions} version(s) of {KEYS} keys, {VALUE_BYTES} B values");
        report(
            &clock,
            "get",
            GETS,
            &[
                ("bare get", &|| setup.bare_gets()),
                ("bare get, a snapshot each", &|| setup.bare_gets_at_fresh_snapshots()),
                ("mvcc get, one snapshot", &|| setup.mvcc_gets(true)),
                ("mvcc get, a snapshot each", &|| setup.mvcc_gets(false)),
            ],
        );
        report(
            &clock,
            "pair",
            GETS / 4,
            &[
                ("bare write, then get", &|| setup.bare_gets_after_writes()),
                ("write, then mvcc get", &|| setup.mvcc_gets_after_writes()),
            ],
        );
        report(
            &clock,
            "row",
            SCANS * SCAN_ROWS,
            &[
                ("bare iterator", &|| setup.bare_scans(false)),
                ("mvcc scan", &|| setup.mvcc_scans(false)),
            ],
        );
        report(
            &clock,
            "row",
            SCANS * SCAN_ROWS,
            &[
                ("bare iterator, backward", &|| setup.bare_scans(true)),
                ("mvcc scan, reverse", &|| setup.mvcc_scans(true)),
            ],
        );
    }
}
