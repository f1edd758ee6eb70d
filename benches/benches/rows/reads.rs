//! Reads of versions beside a bare RocksDB that holds the very same pairs: one family, keys with
//! their versions, write records as values. It must never give the two sides other bytes.
//!
//! Two peers, so that neither hides the other:
//! * `alike`: the options of the engine's own write family (blocks of 16 KiB, filters, cache with
//!   indexes and filters in it, compression, counters, open files), but filters of whole keys;
//! * `defaults`: what RocksDB has by default, with the same cache, buffer, filter and compression:
//!   blocks of 4 KiB, nothing counted, indexes and filters outside of the cache.
//!
//! A peer is told the version it wants; a versioned read has to find it, and to look for a lock.

use crate::{Run, key, shuffled, value};
use damask_benches::Error;
use damask_benches::measure::Spread;
use damask_benches::report::Line;
use damask_kv::{
    Cf, Engine, EngineConfig, MvccReader, Read, RocksEngine, WriteBatch, records_to_batch,
};
use damask_types::codec::{encode_key, encode_key_ts};
use damask_types::{KeyRange, Record, Timestamp, Write, WriteKind};
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, CompactOptions, DB, DBCompressionType,
    Direction, IteratorMode, Options,
};
use std::path::Path;

/// Pairs of one scan.
const SCAN_PAIRS: usize = 1_000;
/// Versions of each key that are older than the one that is read, in the second load.
const OLDER_VERSIONS: u64 = 3;
/// The version of everything that is read.
const LOADED: Timestamp = Timestamp(100);

/// What is raced: some work, by name.
type Part<'a> = (&'a str, &'a dyn Fn() -> Result<(), Error>);

/// The same pairs three times.
struct Twins {
    engine: RocksEngine,
    alike: DB,
    defaults: DB,
    rows: u64,
    _folder: tempfile::TempDir,
}

fn record(n: u64, version: Timestamp) -> Write {
    Write::new(WriteKind::Put, version.prev(), Some(value(n)))
}

/// A database with the options of the engine.
pub fn open_alike(folder: &Path) -> Result<DB, Error> {
    Ok(DB::open(&RocksEngine::peer_options(&EngineConfig::default()), folder)?)
}

fn open_defaults(folder: &Path) -> Result<DB, Error> {
    let config = EngineConfig::default();
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(config.block_cache_bytes as usize));
    blocks.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(config.write_buffer_bytes as usize);
    options.set_compression_type(DBCompressionType::Lz4);
    Ok(DB::open(&options, folder)?)
}

impl Twins {
    /// All three in one layout: as it was written, or in the last level only.
    fn load(run: &Run, older: u64, compacted: bool) -> Result<Twins, Error> {
        let folder = run.folder("twins")?;
        let at = |name| folder.path().join(name);
        let engine = RocksEngine::open(&at("engine"), &EngineConfig::default())?;
        let (alike, defaults) = (open_alike(&at("alike"))?, open_defaults(&at("defaults"))?);
        let rows = run.arguments.pick(200_000, 2_000) / (older + 1);
        for first in (0..rows).step_by(1_000) {
            let mut records = Vec::new();
            let mut batches = [rocksdb::WriteBatch::default(), rocksdb::WriteBatch::default()];
            for n in first..(first + 1_000).min(rows) {
                for back in 0..=older {
                    let commit_ts = Timestamp(LOADED.0 - 10 * back);
                    let write = record(n, commit_ts);
                    for batch in &mut batches {
                        batch.put(encode_key_ts(&key(n), commit_ts), write.encode());
                    }
                    records.push(Record::Write { key: key(n), commit_ts, write });
                }
            }
            engine.write(records_to_batch(&records))?;
            let [one, other] = batches;
            alike.write(one)?;
            defaults.write(other)?;
        }
        engine.sync()?;
        alike.flush()?;
        defaults.flush()?;
        if compacted {
            engine.compact(Cf::Write, b"", b"");
            let mut options = CompactOptions::default();
            let level = BottommostLevelCompaction::ForceOptimized;
            options.set_bottommost_level_compaction(level);
            alike.compact_range_opt::<&[u8], &[u8]>(None, None, &options);
            defaults.compact_range_opt::<&[u8], &[u8]>(None, None, &options);
        }
        Ok(Twins { engine, alike, defaults, rows, _folder: folder })
    }
}

fn mvcc_get(engine: &RocksEngine, key: &[u8], value: &[u8]) -> Result<(), Error> {
    // As the server does for each request.
    let reader = MvccReader::new(engine.snapshot());
    match reader.get(key, Timestamp::MAX)? {
        Read::Ok(Some(found)) if found == value => Ok(()),
        other => Err(format!("get: {other:?}").into()),
    }
}

fn bare_get(bare: &DB, key: &[u8], record: &[u8]) -> Result<(), Error> {
    match bare.get_pinned(encode_key_ts(key, LOADED))? {
        Some(found) if found[..] == *record => Ok(()),
        _ => Err("bare get: not found".into()),
    }
}

fn mvcc_scan(reader: &MvccReader, range: &KeyRange, reverse: bool, last: u64) -> Result<(), Error> {
    let Read::Ok(pairs) = reader.scan(range, Timestamp::MAX, SCAN_PAIRS, reverse)? else {
        return Err("scan: blocked".into());
    };
    check_scan(pairs.len(), &pairs[SCAN_PAIRS - 1].1, &value(last))
}

/// All versions that are there, since a bare iterator knows of none.
fn bare_scan(bare: &DB, mode: IteratorMode<'_>, pairs: usize, last: u64) -> Result<(), Error> {
    let found: Result<Vec<_>, _> = bare.iterator(mode).take(pairs).collect();
    let found = found?;
    let expected = record(last, LOADED).encode();
    match found.get(SCAN_PAIRS - 1) {
        Some((_, value)) if pairs == SCAN_PAIRS => check_scan(found.len(), value, &expected),
        Some(_) if found.len() == pairs => Ok(()),
        _ => Err("bare scan: too few".into()),
    }
}

fn check_scan(count: usize, last: &[u8], expected: &[u8]) -> Result<(), Error> {
    if count != SCAN_PAIRS || last != expected {
        return Err("scan: wrong rows".into());
    }
    Ok(())
}

impl Run {
    /// Prints units per second of processor time of each part, the first one's with its share of
    /// each other's, taken round by round.
    fn race(
        &self,
        title: &str,
        unit: &str,
        count: f64,
        parts: &[Part<'_>],
        target: f64,
    ) -> Result<(), Error> {
        let mut rates = vec![Vec::new(); parts.len()];
        for round in 0..self.arguments.pick(10, 2) {
            for turn in 0..parts.len() {
                // Nobody is always the first.
                let i = (turn + round) % parts.len();
                let (done, seconds) = self.stopwatch.processor(parts[i].1);
                done?;
                if round > 0 {
                    rates[i].push(count / seconds);
                }
            }
        }
        let line = |i: usize| Line::new(parts[i].0, Spread::of(&rates[i]));
        let peers: Vec<Line> = (1..parts.len()).map(line).collect();
        self.show(title, unit, line(0), None, &peers);
        for (peer, (name, _)) in rates.iter().zip(parts).skip(1) {
            let ratios: Vec<f64> = rates[0].iter().zip(peer).map(|(a, b)| a / b).collect();
            self.show_ratio(&format!("{title}: part of {name}"), Spread::of(&ratios), target);
        }
        Ok(())
    }

    pub(crate) fn get(&self) -> Result<(), Error> {
        for (older, compacted) in [(0, false), (0, true), (OLDER_VERSIONS, true)] {
            let twins = Twins::load(self, older, compacted)?;
            let gets = self.arguments.pick(100_000, 1_000).min(twins.rows);
            let order: Vec<(Vec<u8>, Vec<u8>, Vec<u8>)> = shuffled(twins.rows)
                .take(gets as usize)
                .map(|n| (key(n), value(n), record(n, LOADED).encode()))
                .collect();
            let ours = || order.iter().try_for_each(|(k, v, _)| mvcc_get(&twins.engine, k, v));
            let alike = || order.iter().try_for_each(|(k, _, r)| bare_get(&twins.alike, k, r));
            let defaults =
                || order.iter().try_for_each(|(k, _, r)| bare_get(&twins.defaults, k, r));
            let layout = if compacted { "compacted" } else { "as written" };
            let versions = older + 1;
            let title = format!("get: one of {} rows, {versions} versions, {layout}", twins.rows);
            let parts: [Part<'_>; 3] = [
                ("MVCC get, a snapshot each", &ours),
                ("bare RocksDB, alike", &alike),
                ("bare RocksDB, defaults", &defaults),
            ];
            self.race(&title, "gets/s", gets as f64, &parts, 0.6)?;
            if older == 0 && compacted {
                self.get_after_writes(&twins, &order)?;
            }
        }
        Ok(())
    }

    /// A write before each get: nothing can be kept from one to the next.
    fn get_after_writes(
        &self,
        twins: &Twins,
        order: &[(Vec<u8>, Vec<u8>, Vec<u8>)],
    ) -> Result<(), Error> {
        let order = &order[..order.len() / 4];
        let ours = || {
            order.iter().enumerate().try_for_each(|(n, (key, value, _))| {
                let mut batch = WriteBatch::default();
                batch.put(Cf::Meta, b"0", n.to_be_bytes());
                twins.engine.write(batch)?;
                mvcc_get(&twins.engine, key, value)
            })
        };
        let bare = |db: &DB| {
            let mut options = rocksdb::WriteOptions::default();
            options.disable_wal(true);
            order.iter().enumerate().try_for_each(|(n, (key, _, record))| {
                db.put_opt(b"0", n.to_be_bytes(), &options)?;
                bare_get(db, key, record)
            })
        };
        let (alike, defaults) = (|| bare(&twins.alike), || bare(&twins.defaults));
        let parts: [Part<'_>; 3] = [
            ("write, then MVCC get", &ours),
            ("bare RocksDB, alike", &alike),
            ("bare RocksDB, defaults", &defaults),
        ];
        self.race("get after a write", "pairs/s", order.len() as f64, &parts, 0.6)
    }

    pub(crate) fn scan(&self) -> Result<(), Error> {
        for older in [0, OLDER_VERSIONS] {
            self.scan_versions(older)?;
        }
        Ok(())
    }

    fn scan_versions(&self, older: u64) -> Result<(), Error> {
        let twins = Twins::load(self, older, true)?;
        let reader = MvccReader::new(twins.engine.snapshot());
        let scans = self.arguments.pick(200, 1);
        let room = twins.rows.saturating_sub(SCAN_PAIRS as u64);
        if room == 0 {
            return Ok(());
        }
        let starts: Vec<u64> = shuffled(room).take(scans).collect();
        let (pairs, versions) = (SCAN_PAIRS as u64, older + 1);
        let all = SCAN_PAIRS * versions as usize;
        let ours = |reverse: bool| {
            starts.iter().try_for_each(|start| {
                let (range, last) = match reverse {
                    false => (KeyRange::new(key(*start), key(twins.rows)), start + pairs - 1),
                    true => (KeyRange::new(key(0), key(start + pairs)), *start),
                };
                mvcc_scan(&reader, &range, reverse, last)
            })
        };
        let bare = |db: &DB, reverse: bool| {
            starts.iter().try_for_each(|start| {
                let (from, direction, last) = match reverse {
                    false => (*start, Direction::Forward, start + pairs - 1),
                    true => (start + pairs, Direction::Reverse, *start),
                };
                let from = encode_key(&key(from));
                bare_scan(db, IteratorMode::From(&from, direction), all, last)
            })
        };
        let (ahead, back) = (|| ours(false), || ours(true));
        let (alike, alike_back) = (|| bare(&twins.alike, false), || bare(&twins.alike, true));
        let (defaults, defaults_back) =
            (|| bare(&twins.defaults, false), || bare(&twins.defaults, true));
        let count = (scans * SCAN_PAIRS) as f64;
        let title = format!("scan: {SCAN_PAIRS} rows copied out, {versions} versions each");
        let parts: [Part<'_>; 3] = [
            ("MVCC scan", &ahead),
            ("bare RocksDB iterator, alike", &alike),
            ("bare RocksDB iterator, defaults", &defaults),
        ];
        self.race(&title, "rows/s", count, &parts, 0.5)?;
        let parts: [Part<'_>; 4] = [
            ("MVCC scan from the end", &back),
            ("bare RocksDB backward, alike", &alike_back),
            ("bare RocksDB backward, defaults", &defaults_back),
            ("bare RocksDB forward, alike", &alike),
        ];
        self.race(&format!("reverse {title}"), "rows/s", count, &parts, 0.5)
    }
}
