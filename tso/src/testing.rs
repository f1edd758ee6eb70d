//! What every oracle must do, as a suite that an implementation's tests call in one line. It must
//! never look behind the trait. [`Faulty`] wraps either seam, for tests of what lies above it.

mod faulty;

pub use faulty::{Fault, Faulty, Operation};

use crate::{BoundStore, Error, MemoryBound, MemoryOracle, Oracle, REQUEST_MAX};
use damask_env::spawn;
use damask_types::{ErrorKind, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const THREADS: u32 = 4;
const CALLS: u32 = 2_000;
/// Full milliseconds asked for while something fails: several windows of a saved bound.
const FAULTY_CALLS: u32 = 20_000;
/// Operations of one sort that a run may need; more are a loop without end.
const OPERATIONS_MAX: u64 = 100_000;

/// Runs the whole suite; `make` gives a fresh oracle each time.
///
/// # Panics
/// If the oracle breaks the contract.
pub fn suite(make: impl Fn() -> Arc<dyn Oracle>) {
    ranges_follow_one_another(make().as_ref());
    bad_counts_are_refused(make().as_ref());
    a_burst_is_served(make().as_ref());
    ranges_of_threads_are_disjoint(&make());
    calls_that_follow_in_time_follow_in_order(&make());
}

/// Opens the oracle again and again over the same storage, without closing it in any special way;
/// `open(round)` may move clocks.
///
/// # Panics
/// If a timestamp comes twice or goes back.
pub fn restarts(mut open: impl FnMut(u64) -> Arc<dyn Oracle>) {
    let mut greatest = Timestamp::ZERO;
    for round in 0..8 {
        let oracle = open(round);
        for n in [1, 7, REQUEST_MAX, 3] {
            let first = oracle.get(n).expect("served");
            assert!(first > greatest, "round {round}: {first:?} after {greatest:?}");
            greatest = Timestamp(first.0 + u64::from(n) - 1);
        }
    }
}

/// What every store of a bound must do; `make(round)` gives a fresh one, allowed to serve.
///
/// # Panics
/// If the store breaks the contract.
pub fn bound_suite(make: impl Fn(u32) -> Box<dyn BoundStore>) {
    let store = make(0);
    assert_eq!(store.load().expect("loads"), Timestamp::ZERO, "nothing was saved");
    store.may_serve().expect("allowed");
    for bound in [1, 2, 1 << 40, u64::MAX - 1].map(Timestamp) {
        store.save(bound).expect("saves");
        assert_eq!(store.load().expect("loads"), bound);
        store.may_serve().expect("allowed");
    }
    assert_eq!(make(1).load().expect("loads"), Timestamp::ZERO, "stores are apart");
}

/// An oracle over a store of its bound, of which the n-th operation fails, is lost or stands
/// still; `open` opens one over the store, again after an error. Whatever fails: timestamps rise,
/// and every one is below what the store holds.
///
/// # Panics
/// If a timestamp comes twice, goes back or is not below the saved bound.
pub fn bound_faults(open: impl Fn(Arc<dyn BoundStore>) -> Result<Arc<dyn Oracle>, Error>) {
    // With how many each run has at least.
    let operations = [(Operation::Load, 2), (Operation::Save, 2), (Operation::MayServe, 501)];
    let kinds = [ErrorKind::Io, ErrorKind::NoSpace, ErrorKind::Reroute];
    let faults = kinds.into_iter().flat_map(|kind| [Fault::Refused(kind), Fault::Lost(kind)]);
    for fault in faults {
        for (operation, at_least) in operations {
            for nth in (0..8).chain([500, OPERATIONS_MAX]) {
                let store = Arc::new(Faulty::new(MemoryBound::new(), operation, nth, fault));
                over_a_faulty_store(&store, &open);
                let met = store.was_met();
                assert!(met || nth >= at_least, "{operation:?} {nth} never came, {fault:?}");
                assert!(!met || nth < OPERATIONS_MAX, "{operation:?} without end");
            }
        }
    }
    nothing_above_a_save_that_hangs(open);
}

/// A decorator of an oracle that fails or whose answer is lost; `decorate` wraps it.
///
/// # Panics
/// If a timestamp comes twice or goes back, or a failure is not reported once.
pub fn oracle_faults(decorate: impl Fn(Arc<dyn Oracle>) -> Arc<dyn Oracle>) {
    for fault in [Fault::Refused(ErrorKind::Reroute), Fault::Lost(ErrorKind::Io)] {
        for nth in 0..20 {
            let inner = Faulty::new(MemoryOracle::new(1), Operation::Get, nth, fault);
            let inner = Arc::new(inner);
            let oracle = decorate(inner.clone());
            let mut end = 0;
            let mut failures = 0;
            for n in 1..=40 {
                match oracle.get(n) {
                    Ok(first) => {
                        assert!(first.0 >= end, "{first:?} below {end}, {fault:?} at {nth}");
                        end = first.0 + u64::from(n);
                    }
                    Err(_) => failures += 1,
                }
            }
            assert!(inner.was_met(), "{nth}: the inner oracle is asked");
            assert_eq!(failures, 1, "{fault:?} at {nth}");
        }
    }
}

fn over_a_faulty_store(
    store: &Arc<Faulty<MemoryBound>>,
    open: impl Fn(Arc<dyn BoundStore>) -> Result<Arc<dyn Oracle>, Error>,
) {
    let mut end = 0;
    // Lives of several windows each, the next one over what the one before has left.
    for _ in 0..2 {
        let oracle = open(store.clone()).or_else(|_| open(store.clone()));
        let oracle = oracle.expect("only one operation fails");
        let mut failures = 0;
        for call in 0..FAULTY_CALLS / 2 {
            let n = REQUEST_MAX - call % 3;
            match oracle.get(n) {
                Ok(first) => {
                    assert!(first.0 >= end, "{first:?} below {end}");
                    end = first.0 + u64::from(n);
                    assert!(end <= store.saved().0, "{end} above {:?}", store.saved());
                }
                Err(_) => failures += 1,
            }
        }
        assert!(failures <= 1, "{failures} calls failed by one fault");
    }
}

/// While a save stands still, callers are served up to the bound before it, and wait or are
/// refused from there on.
fn nothing_above_a_save_that_hangs(
    open: impl Fn(Arc<dyn BoundStore>) -> Result<Arc<dyn Oracle>, Error>,
) {
    let store = Faulty::new(MemoryBound::new(), Operation::Save, 1, Fault::Held);
    let store = Arc::new(store);
    let oracle = open(store.clone()).expect("opens");
    let bound = store.saved();
    let greatest = Arc::new(AtomicU64::new(0));
    let released = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..THREADS)
        .map(|_| {
            let (oracle, greatest) = (Arc::clone(&oracle), Arc::clone(&greatest));
            let released = Arc::clone(&released);
            spawn("tso-suite", move || {
                for _ in 0..FAULTY_CALLS {
                    let before = !released.load(Ordering::SeqCst);
                    let Ok(first) = oracle.get(REQUEST_MAX) else {
                        std::thread::yield_now();
                        continue;
                    };
                    let end = first.0 + u64::from(REQUEST_MAX);
                    let held = before && !released.load(Ordering::SeqCst);
                    assert!(!held || end <= bound.0, "{end} above {bound:?}, which is saved");
                    greatest.fetch_max(end, Ordering::SeqCst);
                }
            })
        })
        .collect();
    // Until nobody can be served any more, or all have ended (refused, or served in vain).
    let is_near = || greatest.load(Ordering::SeqCst) + u64::from(REQUEST_MAX) > bound.0;
    let is_over = || tasks.iter().all(|task| task.is_finished());
    while !(store.is_held() && is_near() || is_over()) {
        std::thread::yield_now();
    }
    released.store(true, Ordering::SeqCst);
    store.release();
    tasks.into_iter().for_each(|task| task.join().expect("served below the bound alone"));
    assert!(store.was_met() && store.saved() > bound, "the save went on");
    let end = greatest.load(Ordering::SeqCst);
    assert!(bound.0 < end && end <= store.saved().0, "served again, below the new bound");
}

fn ranges_follow_one_another(oracle: &dyn Oracle) {
    let mut greatest = Timestamp::ZERO;
    for n in (1..200).chain([REQUEST_MAX]).chain(1..50) {
        let first = oracle.get(n).expect("served");
        assert!(first > greatest, "{first:?} after {greatest:?}");
        greatest = Timestamp(first.0 + u64::from(n) - 1);
        assert!(greatest < Timestamp::MAX);
    }
}

fn bad_counts_are_refused(oracle: &dyn Oracle) {
    for n in [0, REQUEST_MAX + 1, u32::MAX] {
        assert_eq!(oracle.get(n).expect_err("refused").kind(), ErrorKind::Invalid, "{n}");
    }
    oracle.get(1).expect("goes on");
}

/// Far more than one millisecond holds.
fn a_burst_is_served(oracle: &dyn Oracle) {
    let mut greatest = Timestamp::ZERO;
    for _ in 0..20 {
        let first = oracle.get(REQUEST_MAX).expect("served");
        assert!(first > greatest);
        greatest = Timestamp(first.0 + u64::from(REQUEST_MAX) - 1);
    }
}

fn ranges_of_threads_are_disjoint(oracle: &Arc<dyn Oracle>) {
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (oracle, ranges) = (Arc::clone(oracle), Arc::clone(&ranges));
            spawn("tso-suite", move || {
                let mut own = Vec::new();
                for call in 0..CALLS {
                    let n = 1 + (call * 7 + thread) % 13;
                    own.push((oracle.get(n).expect("served").0, u64::from(n)));
                }
                assert!(own.is_sorted_by(|a, b| a.0 + a.1 <= b.0), "one caller's ranges rise");
                ranges.lock().extend(own);
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| task.join().expect("no panic"));
    let mut ranges = ranges.lock().clone();
    ranges.sort_unstable();
    assert!(ranges.is_sorted_by(|a, b| a.0 + a.1 <= b.0), "ranges overlap");
    assert_eq!(ranges.len(), (THREADS * CALLS) as usize);
}

/// What one thread has published, another thread's next call must exceed.
fn calls_that_follow_in_time_follow_in_order(oracle: &Arc<dyn Oracle>) {
    let ended = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..THREADS)
        .map(|_| {
            let (oracle, ended) = (Arc::clone(oracle), Arc::clone(&ended));
            spawn("tso-suite", move || {
                for _ in 0..CALLS {
                    let before = ended.load(Ordering::SeqCst);
                    let ts = oracle.get(1).expect("served").0;
                    assert!(ts > before, "{ts} is not above {before}, which had ended");
                    ended.fetch_max(ts, Ordering::SeqCst);
                }
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| task.join().expect("no panic"));
}

#[cfg(test)]
mod tests;
