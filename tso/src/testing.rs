//! What every oracle must do, as a suite that an implementation's tests call in one line. It must
//! never look behind the trait.

use crate::{BoundStore, Oracle, REQUEST_MAX};
use damask_env::spawn;
use damask_types::{ErrorKind, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const THREADS: u32 = 4;
const CALLS: u32 = 2_000;

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
