//! Wrong bytes in the files of a closed engine: named, or harmless, or (at the end of a log) an
//! earlier state; never another answer. It must never spoil a folder that something else uses.

use super::durability::copy_folder;
use super::{Random, Scratch, dump_all, write};
use crate::engine::{Cf, Engine};
use crate::error::Result;
use damask_types::ErrorKind;
use std::fs;
use std::path::{Path, PathBuf};

/// Batches, each synced, and pairs of each in every family: enough for files of several blocks,
/// which are larger than any file of options.
const BATCHES: u32 = 5;
const PAIRS: u32 = 800;
/// Bytes of each value, of which nothing can be compressed.
const VALUE_BYTES: usize = 80;
/// So many of the largest files are spoiled, in so many places each, one at a time.
const FILES: usize = 3;
const PLACES: u64 = 6;
/// Of all places, so many must be noticed: the rest may be in bytes that nobody reads.
const NAMED_MIN: u64 = 6;

fn fill(engine: &dyn Engine, n: u32) {
    let mut random = Random(u64::from(n) + 1);
    write(engine, |b| {
        for i in 0..PAIRS {
            let key = n * PAIRS + i;
            let value: Vec<u8> = (0..VALUE_BYTES).map(|_| random.next() as u8).collect();
            Cf::ALL.into_iter().for_each(|cf| b.put(cf, key.to_be_bytes(), value.clone()));
        }
    });
    engine.sync().expect("syncs");
}

/// Flips a byte, opens, reads everything; again and again.
pub(super) fn flipped_bytes<E: Engine>(open: &impl Fn(&Path) -> Result<E>) {
    eprintln!("case a flipped byte is named, or does no harm");
    let scratch = Scratch::new();
    let path = scratch.path("engine");
    let engine = open(&path).expect("opens");
    let mut states = vec![dump_all(&engine)];
    for n in 0..BATCHES {
        fill(&engine, n);
        states.push(dump_all(&engine));
    }
    drop(engine);
    let mut files = Vec::new();
    list(&path, &mut files);
    // A file may be longer than what was written to it.
    let written = |file: &PathBuf| {
        let bytes = fs::read(file).expect("reads");
        bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
    };
    files.sort_by_cached_key(|file| std::cmp::Reverse(written(file)));
    let mut named = 0;
    for file in files.iter().take(FILES) {
        let good = fs::read(file).expect("reads");
        let inside = file.strip_prefix(&path).expect("a file of the engine");
        for place in 0..PLACES {
            let at = (written(file) as u64 * place / PLACES) as usize + 3;
            let Some(byte) = good.get(at) else { continue };
            let spoiled = scratch.path("spoiled");
            copy_folder(&path, &spoiled);
            let mut bad = good.clone();
            bad[at] = byte ^ 0x10;
            fs::write(spoiled.join(inside), &bad).expect("writes");
            let what = format!("byte {at} of {}", inside.display());
            match open(&spoiled).and_then(|engine| try_dump(&engine)) {
                Ok(found) => assert!(states.contains(&found), "{what}: another answer"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
                    named += 1;
                }
            }
            fs::remove_dir_all(&spoiled).expect("removes");
        }
    }
    assert!(named >= NAMED_MIN, "only {named} wrong bytes were noticed");
    assert_eq!(Some(&dump_all(&open(&path).expect("opens"))), states.last());
}

fn list(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            list(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// All pairs of all families, or the error that was met.
fn try_dump(engine: &dyn Engine) -> Result<Vec<Vec<super::Owned>>> {
    let snapshot = engine.snapshot();
    let mut all = Vec::new();
    for cf in Cf::ALL {
        let mut cursor = snapshot.cursor(cf, &[], &[])?;
        let mut pairs = Vec::new();
        let mut pair = cursor.seek(&[])?;
        while let Some((key, value)) = pair {
            pairs.push((key.to_vec(), value.to_vec()));
            pair = cursor.next()?;
        }
        all.push(pairs);
    }
    Ok(all)
}
