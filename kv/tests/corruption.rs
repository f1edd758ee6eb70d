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

fn check<E: Engine>(open: impl Fn(&Path) -> Result<E>, wanted: impl Fn(&Path) -> bool) {
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
    drop(engine);
    let mut tables = Vec::new();
    files(&path, &wanted, &mut tables);
    tables.sort();
    assert!(!tables.is_empty(), "the test needs files to spoil");
    let mut named = 0;
    let table = tables.iter().max_by_key(|t| fs::metadata(t).expect("a file").len());
    let table = table.expect("there are some");
    let good = fs::read(table).expect("reads");
    for place in 0..PLACES {
        let at = (good.len() as u64 * place / PLACES) as usize + 3;
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(table, &bad).expect("writes");
        match open(&path).and_then(|engine| read_all(&engine)) {
            Ok(pairs) => assert!(pairs == expected, "byte {at}: another answer"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {error}");
                named += 1;
            }
        }
        fs::write(table, &good).expect("writes");
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
    check(|path| FjallEngine::open(path, &small()), table);
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocks() {
    let table = |path: &Path| path.extension().is_some_and(|end| end == "sst");
    check(|path| damask_kv::RocksEngine::open(path, &small()), table);
}
