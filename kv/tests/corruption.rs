//! A flipped byte in a file is an error with its class, or does no harm: never another answer.

use damask_kv::{Cf, Engine, EngineConfig, FjallEngine, Result, WriteBatch};
use damask_types::ErrorKind;
use std::fs;
use std::path::{Path, PathBuf};

/// Enough for files of several blocks.
const KEYS: u32 = 20_000;
/// Places in each file that are flipped, one at a time.
const PLACES: u64 = 12;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn read_all(engine: &dyn Engine) -> Result<Pairs> {
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.cursor(Cf::Write, b"", b"")?;
    let mut pairs = Pairs::new();
    let mut at = cursor.seek(b"")?;
    while let Some((key, value)) = at {
        pairs.push((key.to_vec(), value.to_vec()));
        at = cursor.next()?;
    }
    Ok(pairs)
}

fn files(folder: &Path, wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, wanted, found);
        } else if wanted(&path) {
            found.push(path);
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copies");
        }
    }
}

/// What a flipped byte may lead to, beside an error and no harm.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Allowed {
    Nothing,
    /// What was written up to some sync: a wrong length at the end of a log looks like a torn end.
    Earlier,
    /// The same, and it is no other: the log ends before the first record that is not whole.
    Ends,
}

/// Flips bytes of the largest file that is wanted, one at a time, each in a copy of the closed
/// engine's folder; `close` is done before that. At least half of the flips must be noticed, and
/// none may change an answer but as allowed.
fn check<E: Engine>(
    open: impl Fn(&Path) -> Result<E>,
    close: impl Fn(&E),
    wanted: impl Fn(&Path) -> bool,
    allowed: Allowed,
) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("engine");
    let engine = open(&path).expect("opens");
    for block in 0..KEYS / 1000 {
        let mut batch = WriteBatch::default();
        for n in block * 1000..(block + 1) * 1000 {
            let value = [n.wrapping_mul(2_654_435_761).to_be_bytes(); 10].concat();
            batch.put(Cf::Write, n.to_be_bytes(), value);
        }
        engine.write(batch).expect("writes");
        engine.sync().expect("syncs");
    }
    let expected = read_all(&engine).expect("reads");
    assert_eq!(expected.len(), KEYS as usize);
    close(&engine);
    drop(engine);
    let mut tables = Vec::new();
    files(&path, &wanted, &mut tables);
    tables.sort();
    assert!(!tables.is_empty(), "the test needs files to spoil");
    let mut named = 0;
    let table = tables.iter().max_by_key(|t| fs::metadata(t).expect("a file").len());
    let table = table.expect("there are some");
    let good = fs::read(table).expect("reads");
    // A file may be longer than what was written to it.
    let written = good.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let inside = table.strip_prefix(&path).expect("a file of the engine");
    for place in 0..PLACES {
        let at = (written as u64 * place / PLACES) as usize + 3;
        let spoiled = folder.path().join(format!("spoiled{place}"));
        copy_folder(&path, &spoiled);
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(spoiled.join(inside), &bad).expect("writes");
        match open(&spoiled).and_then(|engine| read_all(&engine)) {
            Ok(pairs) if allowed != Allowed::Nothing && pairs.len() < expected.len() => {
                assert!(expected.starts_with(&pairs), "byte {at}: not an earlier state");
                assert!(pairs.len().is_multiple_of(1000), "byte {at}: half a batch");
                named += u64::from(allowed == Allowed::Ends);
            }
            Ok(pairs) => assert!(pairs == expected, "byte {at}: another answer"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
                named += 1;
            }
        }
        fs::remove_dir_all(&spoiled).expect("removes");
    }
    assert!(named >= PLACES / 2, "only {named} of {PLACES} were noticed");
    assert_eq!(read_all(&open(&path).expect("opens")).expect("reads"), expected);
}

fn small() -> EngineConfig {
    EngineConfig { write_buffer_bytes: 256 << 10, ..EngineConfig::default() }
}

#[test]
fn fjall() {
    let table = |path: &Path| path.components().any(|part| part.as_os_str() == "tables");
    check(|path| FjallEngine::open(path, &small()), |_| {}, table, Allowed::Nothing);
}

#[test]
fn fjall_journal() {
    let journal = |path: &Path| path.extension().is_some_and(|end| end == "jnl");
    check(
        |path| FjallEngine::open(path, &EngineConfig::default()),
        |_| {},
        journal,
        // Built without debug assertions fjall takes some wrong bytes for a torn end.
        Allowed::Earlier,
    );
}

#[cfg(feature = "rocksdb")]
mod rocks {
    use super::*;
    use damask_kv::RocksEngine;

    #[test]
    fn tables() {
        let table = |path: &Path| path.extension().is_some_and(|end| end == "sst");
        let compact = |engine: &RocksEngine| engine.compact(Cf::Write, b"", b"");
        check(|path| RocksEngine::open(path, &small()), compact, table, Allowed::Nothing);
    }

    #[test]
    fn manifest() {
        let manifest = |path: &Path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("MANIFEST"))
        };
        check(|path| RocksEngine::open(path, &small()), |_| {}, manifest, Allowed::Earlier);
    }

    #[test]
    fn log() {
        let log = |path: &Path| path.extension().is_some_and(|end| end == "log");
        let config = || EngineConfig { wal: true, ..EngineConfig::default() };
        check(|path| RocksEngine::open(path, &config()), |_| {}, log, Allowed::Ends);
    }
}
