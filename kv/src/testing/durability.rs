//! Cases that close, copy or crash an engine. They must never accept a hole: what survives is what
//! was synced and a prefix of the rest.

use super::{Owned, Scratch, dump_all, get, write};
use crate::engine::{Cf, Engine};
use crate::error::Result;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

/// Batches before the sync, and after it.
const SYNCED: usize = 20;
const UNSYNCED: usize = 20;
/// Batches between two syncs.
const SYNC_EVERY: usize = 5;
/// Tries to copy a folder while it changes.
const COPIES_MAX: usize = 1000;
/// Pairs of a load.
const LOADED: u64 = 5_000;

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

/// A copy of the folder while the engine is open is what a killed process leaves. One is taken
/// after every sync, and one after every few batches in between.
pub(super) fn copy_of_a_live_folder<E: Engine>(open: &impl Fn(&Path) -> Result<E>) {
    eprintln!("case a copy of a live folder holds what was synced, and a prefix");
    let scratch = Scratch::new();
    // The engine's state after each step.
    let mut states = Vec::new();
    let fresh = open(&scratch.path("fresh")).expect("opens");
    for n in 0..=SYNCED + UNSYNCED {
        states.push(dump_all(&fresh));
        step(&fresh, n);
    }
    let live = scratch.path("live");
    let engine = open(&live).expect("opens");
    let mut synced = 0;
    for n in 0..SYNCED + UNSYNCED {
        step(&engine, n);
        if n < SYNCED && n % SYNC_EVERY == SYNC_EVERY - 1 {
            engine.sync().expect("sync");
            synced = n + 1;
        }
        if n % SYNC_EVERY == SYNC_EVERY - 1 || n % SYNC_EVERY == SYNC_EVERY / 2 {
            let copy = scratch.path(&format!("copy{n}"));
            copy_folder(&live, &copy);
            let left = dump_all(&open(&copy).expect("a killed process's folder opens"));
            let kept = (synced..=n + 1).rev().find(|kept| states[*kept] == left);
            assert!(kept.is_some(), "batch {n}: neither what was synced ({synced}) nor a prefix");
        }
    }
}

/// A finished load is durable, with all that was written before it; one that was not is gone.
pub(super) fn load<E: Engine>(open: &impl Fn(&Path) -> Result<E>) {
    eprintln!("case a load is durable, and what came before it");
    let scratch = Scratch::new();
    let live = scratch.path("live");
    let engine = open(&live).expect("opens");
    let before = expected(&engine, SYNCED);
    let mut load = engine.ingest(Cf::Default).expect("a load");
    for n in 0..LOADED {
        load.put(format!("load{n:06}").as_bytes(), &[n as u8; 64]).expect("in order");
    }
    assert_eq!(load.finish().expect("comes in"), LOADED);
    let mut half = engine.ingest(Cf::Default).expect("a load");
    half.put(b"never", b"1").expect("in order");
    let copy = scratch.path("copy");
    copy_folder(&live, &copy);
    drop(half);
    let left = open(&copy).expect("a killed process's folder opens");
    let mut pairs = dump_all(&left);
    let loaded = pairs[Cf::Default as usize].extract_if(.., |(k, _)| k.starts_with(b"load"));
    assert_eq!(loaded.count() as u64, LOADED);
    assert_eq!(pairs, before);
    let seen = dump_all(&engine);
    drop(engine);
    for round in 0..2 {
        let engine = open(&live).unwrap_or_else(|e| panic!("reopen {round}: {e}"));
        assert_eq!(dump_all(&engine), seen, "reopen {round}");
        write(&engine, |b| b.put(Cf::Default, "load000001", "over"));
        assert_eq!(get(&engine, Cf::Default, b"load000001"), Some(b"over".to_vec()));
        write(&engine, |b| b.put(Cf::Default, "load000001", [1; 64]));
        engine.sync().expect("sync");
    }
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

/// Copies a folder that the engine's own threads may be changing: until it was the same before and
/// after, so that the copy is what it was at one moment.
pub(super) fn copy_folder(from: &Path, to: &Path) {
    for _ in 0..COPIES_MAX {
        let before = listing(from);
        if try_copy(from, to).is_ok() && before.is_ok() && listing(from).ok() == before.ok() {
            return;
        }
        // Half a copy is no copy.
        fs::remove_dir_all(to).expect("removes");
    }
    panic!("{} never stands still", from.display());
}

/// Every file with its length and time of change.
fn listing(folder: &Path) -> io::Result<Vec<(PathBuf, u64, Option<SystemTime>)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let about = fs::metadata(&path)?;
        if about.is_dir() {
            all.extend(listing(&path)?);
        } else {
            all.push((path, about.len(), about.modified().ok()));
        }
    }
    all.sort();
    Ok(all)
}

fn try_copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            try_copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
