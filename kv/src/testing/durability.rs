//! Cases that close, copy or crash an engine. They must never accept a hole: what survives is what
//! was synced and a prefix of the rest.

use super::{Owned, Scratch, dump_all, get, write};
use crate::engine::{Cf, Engine};
use crate::error::Result;
use std::fs;
use std::path::Path;

/// Batches before the sync, and after it.
const SYNCED: usize = 20;
const UNSYNCED: usize = 20;

/// The n-th batch: touches all families, replaces, and removes what an earlier one wrote.
fn step(engine: &dyn Engine, n: usize) {
    write(engine, |b| {
        for cf in Cf::ALL {
            b.put(cf, format!("key{n:04}"), format!("{n}"));
            b.put(cf, "last", n.to_be_bytes());
            if n % 3 == 2 {
                b.delete(cf, format!("key{:04}", n - 1));
            }
            if n % 7 == 6 {
                b.delete_range(cf, format!("key{:04}", n - 4), format!("key{:04}", n - 2));
            }
        }
    });
}

/// What a fresh engine holds after the first `n` steps.
fn expected<E: Engine>(engine: &E, n: usize) -> Vec<Vec<Owned>> {
    (0..n).for_each(|i| step(engine, i));
    dump_all(engine)
}

/// Sync, close, open, twice.
pub(super) fn reopen<E: Engine>(open: &impl Fn(&Path) -> Result<E>) {
    eprintln!("case sync, then reopen twice");
    let scratch = Scratch::new();
    let path = scratch.path("engine");
    let engine = open(&path).expect("opens");
    let before = expected(&engine, SYNCED);
    engine.sync().expect("sync");
    let snapshot = engine.snapshot();
    drop(engine);
    assert!(snapshot.get(Cf::Meta, b"last").expect("reads").is_some(), "outlives the handle");
    drop(snapshot);
    for round in 0..2 {
        let engine = open(&path).unwrap_or_else(|e| panic!("reopen {round}: {e}"));
        assert_eq!(dump_all(&engine), before, "reopen {round}");
    }
    let engine = open(&path).expect("opens");
    write(&engine, |b| b.put(Cf::Lock, "more", "1"));
    engine.sync().expect("sync");
    drop(engine);
    let engine = open(&path).expect("opens");
    assert_eq!(get(&engine, Cf::Lock, b"more"), Some(b"1".to_vec()));
    assert_eq!(get(&engine, Cf::Write, b"last"), Some((SYNCED - 1).to_be_bytes().to_vec()));
}

/// A copy of the folder while the engine is open is what a killed process leaves.
pub(super) fn copy_of_a_live_folder<E: Engine>(open: &impl Fn(&Path) -> Result<E>) {
    eprintln!("case a copy of a live folder holds what was synced, and a prefix");
    let scratch = Scratch::new();
    let live = scratch.path("live");
    let engine = open(&live).expect("opens");
    (0..SYNCED).for_each(|n| step(&engine, n));
    engine.sync().expect("sync");
    (SYNCED..SYNCED + UNSYNCED).for_each(|n| step(&engine, n));
    let copy = scratch.path("copy");
    copy_folder(&live, &copy);
    let left = dump_all(&open(&copy).expect("a killed process's folder opens"));
    let prefixes = (SYNCED..=SYNCED + UNSYNCED).any(|n| {
        let fresh = open(&scratch.path(&format!("fresh{n}"))).expect("opens");
        expected(&fresh, n) == left
    });
    assert!(prefixes, "neither what was synced nor a prefix of the rest: {left:?}");
}

/// A checkpoint opens, equals its moment, and is apart from its source.
pub(super) fn checkpoint<E: Engine>(open: &impl Fn(&Path) -> Result<E>) {
    eprintln!("case a checkpoint opens and is equal");
    let scratch = Scratch::new();
    let engine = open(&scratch.path("engine")).expect("opens");
    let before = expected(&engine, SYNCED);
    let into = scratch.path("checkpoint");
    engine.checkpoint(&into).expect("checkpoint");
    assert!(engine.checkpoint(&into).is_err(), "refuses a folder that exists");
    step(&engine, SYNCED);
    let copy = open(&into).expect("a checkpoint opens");
    assert_eq!(dump_all(&copy), before);
    write(&copy, |b| b.delete_range(Cf::Write, "", ""));
    assert_eq!(get(&engine, Cf::Write, b"last"), Some(SYNCED.to_be_bytes().to_vec()));
}

/// Every prefix that the model may keep, and a second crash of what the first left.
pub(super) fn crash_model<E: Engine>(make: &impl Fn() -> E, crash: &impl Fn(&E, usize) -> E) {
    for synced in [0, SYNCED] {
        let engine = make();
        (0..synced).for_each(|n| step(&engine, n));
        engine.sync().expect("sync");
        (synced..synced + UNSYNCED).for_each(|n| step(&engine, n));
        for keep in 0..=UNSYNCED + 1 {
            let left = crash(&engine, keep);
            let kept = synced + keep.min(UNSYNCED);
            assert_eq!(dump_all(&left), expected(&make(), kept), "synced {synced}, keep {keep}");
            step(&left, kept);
            assert_eq!(dump_all(&crash(&left, 0)), expected(&make(), kept), "a second crash");
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("the engine's folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copies");
        }
    }
}
