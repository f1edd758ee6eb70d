//! Every interleaving of a few callers under loom. Each property also has a weakened form of the
//! window that must fail, so that the model is known to be able to.

use super::*;
use loom::sync::atomic::AtomicU64 as LoomU64;
use loom::sync::{Arc, Mutex};
use loom::thread;

damask_env::cell_over! { Strong(LoomU64) load: |order| order, change: |order| order }

/// What is done wrong on purpose.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weakened {
    No,
    /// The bound is raised before it is saved.
    ServedBeforeSaved,
    /// The bound is raised without release: whoever serves below it may not see the save.
    RelaxedBound,
    /// The counter follows the clock by a load and a store.
    FollowedByStore,
}

/// How far a save goes beyond what is needed.
const STEP: u64 = 2;

struct Oracle {
    window: Window<Strong>,
    /// What a crash would leave.
    disk: LoomU64,
    saving: Mutex<()>,
    weakened: Weakened,
}

impl Oracle {
    fn new(weakened: Weakened) -> Oracle {
        Oracle {
            window: Window::new(10, 11),
            disk: LoomU64::new(11),
            saving: Mutex::new(()),
            weakened,
        }
    }

    fn follow(&self, now: u64) {
        if self.weakened != Weakened::FollowedByStore {
            self.window.follow(now);
        } else if self.window.next() < now {
            self.window.next.0.store(now, Ordering::SeqCst);
        }
    }

    /// As `LocalOracle::get`, but for the clock; checks what it serves against the disk.
    fn get(&self) -> u64 {
        let taken = self.window.take(1);
        if !self.window.may_serve(taken) {
            let _guard = self.saving.lock().expect("no panic inside");
            if !self.window.may_serve(taken) {
                let bound = taken.end + STEP;
                if self.weakened == Weakened::ServedBeforeSaved {
                    self.window.saved(bound);
                }
                self.disk.store(bound, Ordering::Relaxed);
                match self.weakened {
                    Weakened::RelaxedBound => {
                        self.window.bound.0.store(bound, Ordering::Relaxed);
                    }
                    _ => self.window.saved(bound),
                }
            }
        }
        let disk = self.disk.load(Ordering::Relaxed);
        assert!(taken.end <= disk, "{} served, {disk} on the disk", taken.first);
        taken.first
    }
}

fn assert_apart(here: [u64; 2], there: u64) {
    let apart = here[0] < here[1] && !here.contains(&there);
    assert!(apart, "a timestamp came twice: {here:?} {there}");
}

/// Two callers: what each serves is below the disk's bound, and nothing comes twice.
fn callers(weakened: Weakened) {
    loom::model(move || {
        let oracle = Arc::new(Oracle::new(weakened));
        let other = {
            let oracle = Arc::clone(&oracle);
            thread::spawn(move || oracle.get())
        };
        let here = [oracle.get(), oracle.get()];
        let there = other.join().expect("no panic");
        assert_apart(here, there);
    });
}

/// A caller beside two that follow clocks.
fn clocks(weakened: Weakened) {
    loom::model(move || {
        let oracle = Arc::new(Oracle::new(weakened));
        oracle.window.saved(100);
        oracle.disk.store(100, Ordering::SeqCst);
        let other = {
            let oracle = Arc::clone(&oracle);
            thread::spawn(move || {
                oracle.follow(11);
                oracle.get()
            })
        };
        oracle.follow(12);
        let here = [oracle.get(), oracle.get()];
        let there = other.join().expect("no panic");
        assert_apart(here, there);
    });
}

/// An answer that was handed to another caller is below what that caller then gets.
fn hand_over() {
    loom::model(|| {
        let oracle = Arc::new(Oracle::new(Weakened::No));
        let mailbox = Arc::new(LoomU64::new(0));
        let other = {
            let (oracle, mailbox) = (Arc::clone(&oracle), Arc::clone(&mailbox));
            thread::spawn(move || mailbox.store(oracle.get(), Ordering::Release))
        };
        let before = mailbox.load(Ordering::Acquire);
        let here = oracle.get();
        assert!(here > before, "{here} after {before} had been given out");
        other.join().expect("no panic");
    });
}

#[test]
fn everything_served_is_saved_and_unique() {
    callers(Weakened::No);
}

#[test]
fn clocks_are_followed_and_nothing_comes_twice() {
    clocks(Weakened::No);
}

#[test]
fn time_order_is_kept_between_callers() {
    hand_over();
}

#[test]
#[should_panic(expected = "on the disk")]
fn a_bound_that_is_served_before_it_is_saved_is_found() {
    callers(Weakened::ServedBeforeSaved);
}

#[test]
#[should_panic(expected = "on the disk")]
fn a_bound_that_is_not_released_is_found() {
    callers(Weakened::RelaxedBound);
}

#[test]
#[should_panic(expected = "came twice")]
fn a_clock_that_is_followed_by_a_store_is_found() {
    clocks(Weakened::FollowedByStore);
}
