//! The measurements. They must never read different bytes on the two sides.

use damask_env::{Clock, RealClock};
use damask_kv::{Cf, Engine, EngineConfig, MvccReader, Read, RocksEngine, Rows, WriteBatch};
use damask_types::codec::{encode_key, encode_key_ts};
use damask_types::{KeyRange, Timestamp, Write, WriteKind};
use rocksdb::{BlockBasedOptions, Cache, DB, Options, ReadOptions, WriteOptions};
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

/// The same records in our engine and in a database of one family with the same blocks.
fn load(folder: &std::path::Path, versions: u64) -> Setup {
    let config = EngineConfig::default();
    let engine = RocksEngine::open(&folder.join("engine"), &config).expect("opens");
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(config.block_cache_bytes as usize));
    table.set_block_size(16 << 10);
    table.set_format_version(6);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(rocksdb::DBCompressionType::Lz4);
    let bare = DB::open(&options, folder.join("bare")).expect("opens");
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
    bare.compact_range::<&[u8], &[u8]>(None, None);
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

    fn bare_scans(&self) {
        let snapshot = self.bare.snapshot();
        for i in 0..SCANS {
            let first = nth(i) % (KEYS - SCAN_ROWS);
            let mut options = ReadOptions::default();
            options.set_iterate_upper_bound(encode_key(&key(first + SCAN_ROWS)));
            let mut iter = snapshot.raw_iterator_opt(options);
            iter.seek(encode_key(&key(first)));
            let (mut rows, mut bytes) = (0, 0);
            while let Some((key, value)) = iter.item() {
                rows += 1;
                bytes += black_box(key).len() + black_box(value).len();
                iter.next();
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

pub fn main() {
    let clock = RealClock::default();
    for versions in [1, 3] {
        let folder = tempfile::tempdir().expect("a folder");
        let setup = load(folder.path(), versions);
        let parts: [&dyn Fn(); 6] = [
            &|| setup.bare_gets(),
            &|| setup.mvcc_gets(true),
            &|| setup.mvcc_gets(false),
            &|| setup.bare_gets_at_fresh_snapshots(),
            &|| setup.bare_gets_after_writes(),
            &|| setup.mvcc_gets_after_writes(),
        ];
        let ns = measure(&clock, &parts, GETS);
        let ratio = |ns: &[f64], i: usize| ns[0] / ns[i];
        println!("{versions} version(s) of {KEYS} keys, {VALUE_BYTES} B values");
        println!("  get   bare {:6.0} ns", ns[0]);
        println!("        mvcc, one snapshot      {:6.0} ns  {:.2}x", ns[1], ratio(&ns, 1));
        println!("        mvcc, snapshot each     {:6.0} ns  {:.2}x", ns[2], ratio(&ns, 2));
        println!("        bare, snapshot each     {:6.0} ns  {:.2}x of it", ns[3], ns[3] / ns[2]);
        let (bare, mvcc) = (4.0 * ns[4], 4.0 * ns[5]);
        println!(
            "        write, then get: bare {bare:.0} ns, mvcc {mvcc:.0} ns  {:.2}x",
            bare / mvcc
        );
        let parts: [&dyn Fn(); 3] =
            [&|| setup.bare_scans(), &|| setup.mvcc_scans(false), &|| setup.mvcc_scans(true)];
        let ns = measure(&clock, &parts, SCANS);
        println!("  scan  bare {:6.1} us for {} records", ns[0] / 1e3, SCAN_ROWS * versions);
        println!(
            "        mvcc forward, {SCAN_ROWS} rows {:6.1} us  {:.2}x",
            ns[1] / 1e3,
            ratio(&ns, 1)
        );
        println!("        mvcc reverse            {:6.1} us  {:.2}x", ns[2] / 1e3, ratio(&ns, 2));
    }
}
