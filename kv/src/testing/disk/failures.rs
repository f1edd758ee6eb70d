//! The n-th call fails, for every n or a sample: the engine says so, or could do without it; keeps
//! what was synced, even if the power goes at that moment; and works again after it was reopened.
//! It must never take an error for an answer, or the other way round.

use super::every_call;
use super::life::{Life, read_all, scratch, steps_left};
use super::watch::{Kind, Plan, Progress, Watching};
use crate::engine::Engine;
use crate::error::{Error, Result};
use damask_types::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// A life so short that no work in the background is due.
const LIFE: Life = Life { steps: 3, sync_every: 1, load_every: 0, value_bytes: 100 };
/// Steps of it that are made while calls fail. The last is made when all is well again.
const STEPS: u64 = 2;
/// Calls of one case that fail, if not every one is asked for.
const SAMPLE: u64 = 14;
/// Engines at a time.
const THREADS: usize = 16;
const WRITES: u8 = Kind::Write as u8 | Kind::Sync as u8;
const SHAPE: u8 = Kind::Shape as u8;
const READ: u8 = Kind::Read as u8;

struct Case {
    name: &'static str,
    kinds: u8,
    error: i32,
    lasting: bool,
    /// May the engine do without the call?
    dispensable: bool,
    named: &'static [ErrorKind],
}

const CASES: [Case; 4] = [
    Case {
        name: "a failed write or sync",
        kinds: WRITES,
        error: EIO,
        lasting: false,
        dispensable: false,
        named: &[ErrorKind::Io, ErrorKind::Poisoned],
    },
    Case {
        name: "no space for one write",
        kinds: WRITES,
        error: ENOSPC,
        lasting: false,
        dispensable: false,
        named: &[ErrorKind::NoSpace, ErrorKind::Poisoned],
    },
    Case {
        name: "a full disk, then freed",
        kinds: WRITES | SHAPE,
        error: ENOSPC,
        lasting: true,
        // What fails may be the removal of a file that nobody needs.
        dispensable: true,
        named: &[ErrorKind::NoSpace, ErrorKind::Poisoned],
    },
    Case {
        name: "a failed change of names or lengths",
        kinds: SHAPE,
        error: EIO,
        lasting: false,
        dispensable: true,
        named: &[ErrorKind::Io, ErrorKind::Poisoned],
    },
];

pub(super) fn check<E: Engine>(open: &(impl Fn(&Path) -> Result<E> + Sync)) {
    for case in &CASES {
        sample(case.name, |nth| life(open, case, nth));
    }
    for (name, error) in [("a failed call of open", EIO), ("a full disk at open", ENOSPC)] {
        sample(name, |nth| opening(open, name, error, nth));
    }
    sample("a failed read", |nth| reading(open, nth));
}

/// Runs a case for every n, or for some; it gets no failure first, and says how many calls there
/// were.
fn sample(name: &str, run: impl Fn(u64) -> u64 + Sync) {
    let calls = run(u64::MAX);
    let stride = if every_call() { 1 } else { calls.div_ceil(SAMPLE).max(1) };
    eprintln!("case {name}: {calls} calls, one of {stride} fails");
    let all: Vec<u64> = (0..calls).step_by(stride as usize).collect();
    // An engine that met a failure may wait a second before it says so, or to be closed.
    for some in all.chunks(THREADS) {
        std::thread::scope(|scope| {
            let runs: Vec<_> = some.iter().map(|nth| scope.spawn(|| run(*nth))).collect();
            for run in runs {
                // With its own words, not the scope's.
                run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    }
}

/// A life in which the n-th call fails.
fn life<E: Engine>(open: &impl Fn(&Path) -> Result<E>, case: &Case, nth: u64) -> u64 {
    let what = format!("{}, call {nth}", case.name);
    let (folder, states) = (scratch(), LIFE.states());
    let path = folder.path("engine");
    let engine = open(&path).expect("opens");
    let progress = Arc::<Progress>::default();
    let watching = Watching::start(&folder.path(""), progress.clone());
    let Case { kinds, error, lasting, .. } = *case;
    watching.fail(Plan { kinds, nth, error, lasting });
    let outcome = LIFE.live(&engine, (0, STEPS), &progress, |_| {});
    let (calls, failed) = watching.heal();
    match &outcome {
        Err(e) if failed > 0 => expect_kind(e, case.named, &what),
        Err(e) => panic!("{what}: {e}"),
        Ok(()) if nth == u64::MAX && !case.dispensable => {
            assert!(calls >= 2 * STEPS, "{what}: only {calls} were seen: it passes them by");
        }
        Ok(()) => assert!(failed == 0 || case.dispensable, "{what}: passed over"),
    }
    // A sync that now returns well is for everything that was written.
    if outcome.is_err() && engine.sync().is_ok() {
        let begun = progress.begun.load(Ordering::SeqCst);
        let written = if read_all(&engine).is_ok_and(|found| found == states[begun as usize]) {
            begun
        } else {
            begun - 1
        };
        progress.synced.store(written, Ordering::SeqCst);
    }
    let bounds = (progress.synced.load(Ordering::SeqCst), progress.begun.load(Ordering::SeqCst));
    let disk = watching.durable();
    drop(watching);
    if failed > 0 {
        let image = folder.path("image");
        disk.write_to(&image).expect("there is space");
        reopen(open, &image.join("engine"), bounds, &format!("{what}, then a power cut"));
    }
    drop(engine);
    reopen(open, &path, bounds, &what);
    calls
}

/// Opens what was left, and goes on with it.
fn reopen<E: Engine>(
    open: &impl Fn(&Path) -> Result<E>,
    path: &Path,
    bounds: (u64, u64),
    what: &str,
) {
    let engine = open(path).unwrap_or_else(|e| panic!("{what}: {e}"));
    let found = read_all(&engine).unwrap_or_else(|e| panic!("{what}: {e}"));
    let left = steps_left(&found, &LIFE.states(), bounds, &what);
    LIFE.go_on(&engine, left).unwrap_or_else(|e| panic!("{what}, later: {e}"));
}

fn expect_kind(error: &Error, named: &[ErrorKind], what: &str) {
    assert!(named.contains(&error.kind()), "{what}: {error}");
}

/// An engine that is opened and closed while the n-th call that changes anything, and all after it,
/// fails.
fn opening<E: Engine>(open: &impl Fn(&Path) -> Result<E>, name: &str, error: i32, nth: u64) -> u64 {
    let what = format!("{name}, call {nth}");
    let folder = scratch();
    let path = folder.path("engine");
    let progress = Arc::<Progress>::default();
    let engine = open(&path).expect("opens");
    LIFE.live(&engine, (0, STEPS), &progress, |_| {}).expect("nothing fails");
    drop(engine);
    let watching = Watching::start(&folder.path(""), progress);
    watching.fail(Plan { kinds: WRITES | SHAPE, nth, error, lasting: true });
    let opened = open(&path);
    let (calls, failed) = watching.heal();
    match opened {
        Ok(engine) => {
            let found = read_all(&engine).unwrap_or_else(|e| panic!("{what}: {e}"));
            steps_left(&found, &LIFE.states(), (STEPS, STEPS), &what);
        }
        Err(e) => {
            assert!(failed > 0, "{what}: {e}");
            let kinds = [ErrorKind::Io, ErrorKind::NoSpace, ErrorKind::Poisoned];
            expect_kind(&e, &kinds, &what);
        }
    }
    let disk = watching.durable();
    drop(watching);
    if failed > 0 {
        let image = folder.path("image");
        disk.write_to(&image).expect("there is space");
        let cut = format!("{what}, then a power cut");
        reopen(open, &image.join("engine"), (STEPS, STEPS), &cut);
    }
    reopen(open, &path, (STEPS, STEPS), &what);
    calls
}

/// An engine that is opened and read while the n-th read fails.
fn reading<E: Engine>(open: &impl Fn(&Path) -> Result<E>, nth: u64) -> u64 {
    let folder = scratch();
    let path = folder.path("engine");
    let progress = Arc::<Progress>::default();
    let engine = open(&path).expect("opens");
    LIFE.live(&engine, (0, STEPS), &progress, |_| {}).expect("nothing fails");
    drop(engine);
    let watching = Watching::start(&folder.path(""), progress);
    watching.fail(Plan { kinds: READ, nth, error: EIO, lasting: false });
    let answer = open(&path).and_then(|engine| read_all(&engine));
    let (calls, failed) = watching.heal();
    drop(watching);
    let what = format!("read {nth}");
    match answer {
        Ok(found) => drop(steps_left(&found, &LIFE.states(), (STEPS, STEPS), &what)),
        Err(e) => {
            assert!(failed > 0, "{what}: {e}");
            expect_kind(&e, &[ErrorKind::Io, ErrorKind::Corrupt], &what);
        }
    }
    reopen(open, &path, (STEPS, STEPS), &what);
    calls
}
