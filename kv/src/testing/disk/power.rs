//! The power goes at every sync, after every acknowledged one, and at some writes: what the disk
//! then has is opened. It must never judge by what a process would still see.

use super::every_call;
use super::life::{Life, Pairs, read_all, scratch, steps_left};
use super::model::{Disk, Tear};
use super::watch::{Cut, Place, Progress, Watching};
use crate::engine::Engine;
use crate::error::Result;
use damask_types::ErrorKind;
use std::path::Path;
use std::sync::Arc;

/// Enough for files to be written and merged, if buffers are small.
const LIFE: Life = Life { steps: 30, sync_every: 3, load_every: 11, value_bytes: 4096 };
/// After this step the engine is closed and opened again.
const REOPEN: u64 = 20;
/// Every so many writes the power is cut, too.
const WRITES: u64 = 8;
/// Disks that are opened, if not every one is asked for.
const SAMPLE: usize = 150;
/// An engine makes at least so many syncs of files, or it writes past the calls.
const CUTS_MIN: usize = 30;

pub(super) fn check<E: Engine>(open: &impl Fn(&Path) -> Result<E>) {
    let cuts = cuts(open);
    assert!(cuts.len() >= CUTS_MIN, "only {} cuts: the engine passes the calls by", cuts.len());
    let states = LIFE.states();
    let disks: Vec<_> = cuts.iter().enumerate().flat_map(|(n, cut)| disks(n, cut)).collect();
    let stride = if every_call() { 1 } else { disks.len().div_ceil(SAMPLE) };
    eprintln!("case power cuts: {} in {} ways, one of {stride} tried", cuts.len(), disks.len());
    // Whatever the stride, what was acknowledged is always asked for.
    let mut torn = 0;
    for (n, (cut, how, seed)) in disks.into_iter().enumerate() {
        if n % stride == 0 || (cut.place == Place::Acknowledged && how == Tear::Lost) {
            let disk = cut.durable.torn(&cut.current, &cut.history, how, seed);
            let left = check_disk(open, &states, cut, how, &disk);
            torn += u64::from(left > cut.synced);
        }
    }
    eprintln!("{torn} of them had more than was synced");
}

/// All ways in which the power is cut there.
fn disks(n: usize, cut: &Cut) -> Vec<(&Cut, Tear, u64)> {
    let seed = n as u64 + 1;
    match cut.place {
        Place::Acknowledged => vec![(cut, Tear::Lost, 0), (cut, Tear::Kept, 0)],
        Place::Synced => vec![(cut, Tear::Lost, 0)],
        Place::Before => vec![(cut, Tear::Prefix, seed), (cut, Tear::Scattered, seed)],
    }
}

/// A life, and the power cut at all of it.
fn cuts<E: Engine>(open: &impl Fn(&Path) -> Result<E>) -> Vec<Cut> {
    let folder = scratch();
    let path = folder.path("engine");
    let progress = Arc::<Progress>::default();
    let watching = Watching::start(&folder.path(""), progress.clone());
    watching.cut_at_syncs(WRITES);
    for steps in [(0, REOPEN), (REOPEN, LIFE.steps)] {
        let engine = open(&path).expect("opens");
        let done = LIFE.live(&engine, steps, &progress, |n| watching.acknowledged(n));
        done.expect("nothing fails");
    }
    watching.take_cuts()
}

/// Opens what the disk has.
fn check_disk<E: Engine>(
    open: &impl Fn(&Path) -> Result<E>,
    states: &[Pairs],
    cut: &Cut,
    how: Tear,
    disk: &Disk,
) -> u64 {
    let what = format!("{how:?} {}", cut.at);
    let folder = scratch();
    let path = folder.path("engine");
    disk.write_to(&folder.path("")).expect("there is space");
    let opened = open(&path).and_then(|engine| Ok((read_all(&engine)?, engine)));
    let (found, engine) = match opened {
        Ok(opened) => opened,
        // Pages that reached the disk out of their order may be named, never served.
        Err(e) if how == Tear::Scattered && e.kind() == ErrorKind::Corrupt => {
            eprintln!("{what}: refused: {e}");
            return 0;
        }
        Err(e) => panic!("{what}: {e}"),
    };
    let left = steps_left(&found, states, (cut.synced, cut.begun), &what);
    if left < LIFE.steps {
        LIFE.go_on(&engine, left).unwrap_or_else(|e| panic!("{what}, later: {e}"));
    }
    left
}
