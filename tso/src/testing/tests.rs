//! The suites themselves: oracles that are wrong on purpose, each of which must be found. It must
//! hold no test of a right one.

use super::*;
use std::sync::atomic::AtomicU64;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// Takes a bound for saved though the save has failed.
    ForgetsFailures,
    /// Serves up to the new bound while it is still being saved.
    ServesFirst,
    /// Begins at the bound of the life before without looking.
    NeverLoads,
    /// Serves whatever the store says of its lease.
    NeverAsks,
}

struct Careless {
    wrong: Wrong,
    store: Arc<dyn BoundStore>,
    next: AtomicU64,
    bound: AtomicU64,
    saving: Mutex<()>,
}

/// How far a bound is saved ahead.
const AHEAD: u64 = 1 << 30;

impl Careless {
    fn open(wrong: Wrong, store: Arc<dyn BoundStore>) -> Result<Arc<dyn Oracle>, Error> {
        let first = match wrong {
            Wrong::NeverLoads => 1,
            _ => store.load()?.0.max(1),
        };
        store.save(Timestamp(first + AHEAD))?;
        let (next, bound) = (AtomicU64::new(first), AtomicU64::new(first + AHEAD));
        Ok(Arc::new(Careless { wrong, store, next, bound, saving: Mutex::new(()) }))
    }
}

impl Oracle for Careless {
    fn get(&self, n: u32) -> Result<Timestamp, Error> {
        let end = self.next.load(Ordering::SeqCst) + u64::from(n);
        let bound = self.bound.load(Ordering::SeqCst);
        if self.wrong == Wrong::ServesFirst && end > bound {
            self.bound.store(end + AHEAD, Ordering::SeqCst);
            self.store.save(Timestamp(end + AHEAD))?;
        } else if end > bound {
            let _guard = self.saving.lock();
            let saved = self.store.save(Timestamp(end + AHEAD));
            if self.wrong != Wrong::ForgetsFailures {
                saved?;
            }
            self.bound.store(end + AHEAD, Ordering::SeqCst);
        }
        let first = self.next.fetch_add(u64::from(n), Ordering::SeqCst);
        match self.wrong {
            Wrong::NeverAsks => {}
            _ => self.store.may_serve()?,
        }
        Ok(Timestamp(first))
    }
}

#[test]
#[should_panic(expected = "above")]
fn a_failure_that_is_forgotten_is_found() {
    bound_faults(|store| Careless::open(Wrong::ForgetsFailures, store));
}

#[test]
#[should_panic(expected = "served below the bound alone")]
fn serving_while_the_save_hangs_is_found() {
    // The save may go on before anybody has been served too early: a race, so there are tries.
    for _ in 0..100 {
        nothing_above_a_save_that_hangs(|store| Careless::open(Wrong::ServesFirst, store));
    }
}

#[test]
#[should_panic(expected = "Timestamp(1) below")]
fn a_life_that_forgets_the_one_before_is_found() {
    bound_faults(|store| Careless::open(Wrong::NeverLoads, store));
}

#[test]
#[should_panic(expected = "MayServe 0 never came")]
fn a_lease_that_is_never_asked_for_is_found() {
    bound_faults(|store| Careless::open(Wrong::NeverAsks, store));
}

#[test]
#[should_panic(expected = "at 0")]
fn a_decorator_that_hides_a_failure_is_found() {
    /// Asks again.
    struct Hides(Arc<dyn Oracle>);
    impl Oracle for Hides {
        fn get(&self, n: u32) -> Result<Timestamp, Error> {
            self.0.get(n).or_else(|_| self.0.get(n))
        }
    }
    oracle_faults(|inner| Arc::new(Hides(inner)));
}
