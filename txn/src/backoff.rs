//! How long to wait before trying again, and when to give up. It must never wait for ever: time
//! and attempts are both limited.
//!
//! The table is client-go's (`config/retry/config.go`) with shorter waits for a busy store: stores
//! here answer at once when they can take more.

use crate::error::{Error, Result};
use damask_env::{Clock, Condvar};
use damask_types::Timestamp;
use parking_lot::Mutex;
use std::time::Duration;

/// Attempts after which an operation gives up even if the clock stands still.
const ATTEMPTS_MAX: u32 = 10_000;

/// A client's end, which cuts every wait short.
#[derive(Default)]
pub(crate) struct Closing {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Closing {
    pub fn set(&self) {
        *self.set.lock() = true;
        self.changed.notify_all();
    }

    pub fn is_set(&self) -> bool {
        *self.set.lock()
    }

    /// Waits so long, or until the client ends: then true.
    pub fn wait(&self, time: Duration) -> bool {
        let mut set = self.set.lock();
        self.changed.wait_while_for(&mut set, |set| !*set, time);
        *set
    }
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Nothing, the first times: the answer said where to go.
    Hint,
    /// A region that nobody knows, or without a leader.
    Region,
    /// A command overtaken by a change of leader.
    Stale,
    /// A store with too much to do.
    Busy,
    /// A store without space.
    Space,
    /// A store that does not answer, or the oracle.
    Remote,
    /// Another transaction's lock.
    Lock,
}

const KINDS: usize = 7;
/// Waits of kind `Hint` that cost nothing.
const FREE_HINTS: u32 = 3;

impl Wait {
    /// First and longest wait, milliseconds.
    fn bounds(self) -> (u64, u64) {
        match self {
            Wait::Hint | Wait::Region => (2, 500),
            Wait::Stale => (2, 1_000),
            Wait::Busy => (20, 2_000),
            Wait::Space => (500, 5_000),
            Wait::Remote => (50, 2_000),
            Wait::Lock => (1, 200),
        }
    }
}

/// The retries of one operation.
pub(crate) struct Backoff<'a> {
    clock: &'a dyn Clock,
    closing: &'a Closing,
    started: Duration,
    limit: Duration,
    lock_limit: Duration,
    lock_waited: Duration,
    attempts: [u32; KINDS],
    total: u32,
    unknown: bool,
    seed: u64,
}

impl<'a> Backoff<'a> {
    pub fn new(
        clock: &'a dyn Clock,
        closing: &'a Closing,
        limit: Duration,
        lock_limit: Duration,
    ) -> Backoff<'a> {
        let started = clock.monotonic();
        Backoff {
            clock,
            closing,
            started,
            limit,
            lock_limit,
            lock_waited: Duration::ZERO,
            attempts: [0; KINDS],
            total: 0,
            unknown: false,
            seed: started.as_nanos() as u64,
        }
    }

    /// Attempts so far.
    pub fn attempts(&self) -> u32 {
        self.total
    }

    /// Waits of this kind so far.
    pub fn attempts_of(&self, kind: Wait) -> u32 {
        self.attempts[kind as usize]
    }

    /// A request may have had its effect although it failed.
    pub fn mark_unknown(&mut self) {
        self.unknown = true;
    }

    /// May a request have had its effect although it failed? True once, until marked again.
    pub fn take_unknown(&mut self) -> bool {
        std::mem::take(&mut self.unknown)
    }

    /// Waits, or gives up naming the cause. Time spent on locks has a limit of its own.
    pub fn wait(&mut self, kind: Wait, cause: &dyn std::fmt::Display) -> Result<()> {
        self.next(kind);
        let elapsed = self.clock.monotonic().saturating_sub(self.started);
        let over = elapsed.saturating_sub(self.lock_waited) >= self.limit;
        if over || self.total > ATTEMPTS_MAX || self.closing.is_set() {
            return Err(Error::Unavailable {
                attempts: self.total,
                waited_ms: elapsed.as_millis() as u64,
                cause: cause.to_string(),
            });
        }
        self.sleep(kind, Duration::MAX);
        Ok(())
    }

    /// Counts an attempt that needs no wait; gives up when there were too many, or for too long.
    pub fn turn(&mut self, cause: &dyn std::fmt::Display) -> Result<()> {
        self.total += 1;
        let elapsed = self.clock.monotonic().saturating_sub(self.started);
        if self.total > ATTEMPTS_MAX || elapsed >= self.limit + self.lock_limit {
            return Err(Error::Unavailable {
                attempts: self.total,
                waited_ms: elapsed.as_millis() as u64,
                cause: cause.to_string(),
            });
        }
        Ok(())
    }

    /// Waits for a lock, at most `hint`; or gives up.
    pub fn wait_lock(&mut self, holder: Timestamp, hint: Duration) -> Result<()> {
        self.next(Wait::Lock);
        let out_of_attempts = self.total > ATTEMPTS_MAX || self.closing.is_set();
        if self.lock_waited >= self.lock_limit || out_of_attempts {
            let waited_ms = self.lock_waited.as_millis() as u64;
            return Err(Error::LockTimeout { holder, waited_ms });
        }
        let before = self.clock.monotonic();
        let slept = self.sleep(Wait::Lock, hint);
        let passed = self.clock.monotonic().saturating_sub(before);
        self.lock_waited += passed.max(slept);
        Ok(())
    }

    /// A store has waited for a lock in our place.
    pub fn add_lock_wait(&mut self, time: Duration) {
        self.lock_waited += time;
    }

    /// How long locks may be waited for yet.
    pub fn lock_left(&self) -> Duration {
        self.lock_limit.saturating_sub(self.lock_waited)
    }

    fn next(&mut self, kind: Wait) {
        self.total += 1;
        self.attempts[kind as usize] += 1;
    }

    /// Half the wait is by chance, so that those who met do not meet again.
    fn sleep(&mut self, kind: Wait, at_most: Duration) -> Duration {
        let mut doublings = self.attempts[kind as usize] - 1;
        if kind == Wait::Hint {
            if doublings < FREE_HINTS {
                return Duration::ZERO;
            }
            doublings -= FREE_HINTS;
        }
        let (first, longest) = kind.bounds();
        let wait_us = (first << doublings.min(20)).min(longest) * 1_000;
        let wait_us = wait_us / 2 + self.chance() % (wait_us / 2 + 1);
        let wait = Duration::from_micros(wait_us).min(at_most);
        self.closing.wait(wait);
        wait
    }

    /// splitmix64.
    fn chance(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use damask_env::ManualClock;

    const LIMIT: Duration = Duration::from_secs(1);

    #[test]
    fn gives_up_when_the_time_is_over_and_names_the_cause() {
        let (clock, closing) = (ManualClock::new(0), Closing::default());
        let mut backoff = Backoff::new(&clock, &closing, LIMIT, LIMIT);
        backoff.wait(Wait::Region, &"nobody leads").expect("goes on");
        clock.advance(LIMIT);
        let error = backoff.wait(Wait::Region, &"nobody leads").expect_err("gives up");
        let cause = "nobody leads".to_owned();
        assert_eq!(error, Error::Unavailable { attempts: 2, waited_ms: 1_000, cause });
    }

    #[test]
    fn locks_have_a_limit_of_their_own() {
        let (clock, closing) = (ManualClock::new(0), Closing::default());
        let lock_limit = Duration::from_micros(100);
        let mut backoff = Backoff::new(&clock, &closing, LIMIT, lock_limit);
        backoff.wait_lock(Timestamp(7), Duration::MAX).expect("goes on");
        let error = backoff.wait_lock(Timestamp(7), Duration::MAX).expect_err("gives up");
        assert!(matches!(error, Error::LockTimeout { holder: Timestamp(7), .. }), "{error:?}");
        backoff.wait(Wait::Hint, &"elsewhere").expect("the operation's own time is not used up");
    }

    #[test]
    fn a_closing_client_does_not_wait() {
        let (clock, closing) = (ManualClock::new(0), Closing::default());
        closing.set();
        let mut backoff = Backoff::new(&clock, &closing, LIMIT, LIMIT);
        backoff.wait(Wait::Busy, &"busy").expect_err("gives up");
        backoff.wait_lock(Timestamp(7), LIMIT).expect_err("gives up");
    }
}
