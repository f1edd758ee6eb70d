//! One call to the inner oracle for all callers that wait at the same moment (PD's client).
//! It must never answer a caller from a call that began before the caller did.
//!
//! ```text
//!   open batch:  caller A +1, caller B +3, caller C +1       offsets 0, 1, 4; total 5
//!   no call in flight: one of them closes the batch and asks for 5; later callers open the next
//! ```

use crate::error::Error;
use crate::{Oracle, REQUEST_MAX, check_count};
use damask_env::Condvar;
use damask_types::{ErrorKind, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;

/// The answer of a batch, once known; the first timestamp of its range.
#[derive(Default)]
struct Batch {
    answer: Mutex<Option<Result<Timestamp, Error>>>,
}

#[derive(Default)]
struct State {
    /// A call is in flight.
    busy: bool,
    /// The batch that callers may join.
    open: Arc<Batch>,
    /// Timestamps asked for in it.
    total: u32,
}

/// Shares calls between concurrent callers.
pub struct BatchingOracle {
    inner: Arc<dyn Oracle>,
    state: Mutex<State>,
    changed: Condvar,
}

impl BatchingOracle {
    /// In front of `inner`.
    pub fn new(inner: Arc<dyn Oracle>) -> BatchingOracle {
        BatchingOracle { inner, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Asks for a closed batch, and gives the turn on even if the inner oracle panics.
    fn lead(&self, batch: &Arc<Batch>, total: u32) {
        struct Turn<'a>(&'a BatchingOracle, &'a Batch);
        impl Drop for Turn<'_> {
            fn drop(&mut self) {
                let lost = || Err(Error::new(ErrorKind::Io, "the inner oracle panicked"));
                self.1.answer.lock().get_or_insert_with(lost);
                self.0.state.lock().busy = false;
                self.0.changed.notify_all();
            }
        }
        let turn = Turn(self, batch);
        let answer = self.inner.get(total);
        *turn.1.answer.lock() = Some(answer);
    }
}

impl Oracle for BatchingOracle {
    fn get(&self, n: u32) -> Result<Timestamp, Error> {
        check_count(n)?;
        let mut state = self.state.lock();
        while state.total + n > REQUEST_MAX {
            // The open batch is full: a call is in flight, and the next one takes it.
            self.changed.wait(&mut state);
        }
        let offset = u64::from(state.total);
        state.total += n;
        let batch = Arc::clone(&state.open);
        loop {
            let answer = batch.answer.lock().clone();
            if let Some(answer) = answer {
                return answer.map(|first| Timestamp(first.0 + offset));
            }
            if !state.busy && Arc::ptr_eq(&state.open, &batch) {
                state.busy = true;
                state.open = Arc::default();
                let total = std::mem::take(&mut state.total);
                drop(state);
                self.lead(&batch, total);
                state = self.state.lock();
                continue;
            }
            self.changed.wait(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryOracle;
    use damask_env::spawn;
    use gate::Gate;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A gate that holds the inner oracle's calls until opened.
    mod gate {
        use parking_lot::{Condvar, Mutex};

        #[derive(Default)]
        pub struct Gate {
            open: Mutex<bool>,
            changed: Condvar,
        }

        impl Gate {
            pub fn pass(&self) {
                let mut open = self.open.lock();
                while !*open {
                    self.changed.wait(&mut open);
                }
            }

            pub fn open(&self) {
                *self.open.lock() = true;
                self.changed.notify_all();
            }
        }
    }

    struct Gated {
        gate: Gate,
        calls: AtomicU32,
        inner: MemoryOracle,
    }

    impl Oracle for Gated {
        fn get(&self, n: u32) -> Result<Timestamp, Error> {
            self.calls.fetch_add(1, Ordering::SeqCst);
            self.gate.pass();
            self.inner.get(n)
        }
    }

    #[test]
    fn conforms() {
        crate::testing::suite(|| Arc::new(BatchingOracle::new(Arc::new(MemoryOracle::new(5)))));
    }

    #[test]
    fn conforms_over_an_oracle_that_fails() {
        crate::testing::oracle_faults(|inner| Arc::new(BatchingOracle::new(inner)));
    }

    #[test]
    fn waiting_callers_share_one_call() {
        let inner = Arc::new(Gated {
            gate: Gate::default(),
            calls: AtomicU32::new(0),
            inner: MemoryOracle::new(1),
        });
        let oracle = Arc::new(BatchingOracle::new(inner.clone()));
        let got = Arc::new(Mutex::new(Vec::new()));
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let (oracle, got) = (Arc::clone(&oracle), Arc::clone(&got));
                spawn("caller", move || {
                    let first = oracle.get(2).expect("served").0;
                    got.lock().push(first);
                })
            })
            .collect();
        // One call is held by the gate; the other fifteen callers gather behind it.
        while oracle.state.lock().total < 30 || inner.calls.load(Ordering::SeqCst) < 1 {
            std::thread::yield_now();
        }
        inner.gate.open();
        callers.into_iter().for_each(|caller| caller.join().expect("ends"));
        let mut got = got.lock().clone();
        got.sort_unstable();
        assert_eq!(got, (0..16).map(|i| 1 + 2 * i).collect::<Vec<_>>());
        assert_eq!(inner.calls.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_failure_reaches_every_caller_and_the_next_call_works() {
        struct Fails(AtomicU32);
        impl Oracle for Fails {
            fn get(&self, _: u32) -> Result<Timestamp, Error> {
                match self.0.fetch_add(1, Ordering::SeqCst) {
                    0 => Err(Error::new(ErrorKind::Io, "no disk")),
                    1 => panic!("a bug"),
                    n => Ok(Timestamp(u64::from(n))),
                }
            }
        }
        let oracle = Arc::new(BatchingOracle::new(Arc::new(Fails(AtomicU32::new(0)))));
        assert_eq!(oracle.get(1).expect_err("fails").kind(), ErrorKind::Io);
        let panics = Arc::clone(&oracle);
        assert!(spawn("caller", move || drop(panics.get(1))).join().is_err());
        assert_eq!(oracle.get(1).expect("works"), Timestamp(2));
    }
}
