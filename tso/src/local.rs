//! The oracle of one leader: an atomic counter below a bound that is saved before it is served.
//! It must never answer with a timestamp at or above the saved bound.
//!
//! The counter is the packed timestamp itself, so a burst of more than 2^18 in one millisecond
//! carries into the next millisecond, and a wall clock that stands still or goes back is outrun.
//! While the wall clock is behind, the physical part goes on with the monotonic one: what lives for
//! so many milliseconds of timestamps, as a lock does, must not live until the wall has caught up.
//!
//! ```text
//! get: clock ► take (one fetch_add) ► below the bound? ──yes──► still allowed to serve? ► answer
//!                                          └─no─► save a bound one window further, check again
//! ```

use crate::bound::{BoundStore, FileBound};
use crate::error::Error;
use crate::window::Window;
use crate::{Oracle, check_count};
use damask_env::{Clock, Disk, Mistake, lock, mistaken};
use damask_types::ts::{LOGICAL_BITS, LOGICAL_MAX};
use damask_types::{ErrorKind, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How far the saved bound runs ahead of what is served, milliseconds: one write to the disk in
/// about half this time, and at most this far a jump forward at a restart (PD: 3 to 5 s).
pub const WINDOW_MS: u64 = 4_000;
/// The wall clock is behind when what is served is so many milliseconds ahead of it: of a burst, or
/// of a bound that an earlier life has saved, it is not.
const BEHIND_MS: u64 = 2 * WINDOW_MS;
/// The latest physical time that is served (year 3084): a clock beyond it is not believed.
const PHYSICAL_MAX_MS: u64 = 1 << 45;

/// Timestamps from this process's clock and a saved bound. One instance to a bound, unless the
/// bound's store tells leaders apart.
pub struct LocalOracle {
    clock: Arc<dyn Clock>,
    store: Arc<dyn BoundStore>,
    window: Window,
    /// Held while the bound is being saved.
    saving: Mutex<()>,
    /// Since the wall clock was found to be behind: what was served then, in milliseconds, and the
    /// monotonic clock.
    behind: Mutex<Option<(u64, Duration)>>,
    is_behind: AtomicBool,
}

impl LocalOracle {
    /// Continues above everything that was given out under this file name, however it ended.
    ///
    /// # Errors
    /// `Corrupt` if the file is not what was written; `Io`, `NoSpace` from the disk; `Invalid` if
    /// the clock is absurd.
    pub fn open(
        clock: Arc<dyn Clock>,
        disk: Arc<dyn Disk>,
        name: &str,
    ) -> Result<LocalOracle, Error> {
        LocalOracle::over(clock, Arc::new(FileBound::new(disk, name)))
    }

    /// Continues above everything that was given out under the store's bound. With a replicated
    /// store: made anew at each election.
    ///
    /// # Errors
    /// Those of the store; `Invalid` if the clock is absurd.
    pub fn over(clock: Arc<dyn Clock>, store: Arc<dyn BoundStore>) -> Result<LocalOracle, Error> {
        let now = clock.wall_ms();
        if now >= PHYSICAL_MAX_MS {
            return Err(Error::invalid(format!("the clock says {now} ms after 1970")));
        }
        let saved = store.load()?;
        let next = saved.max(Timestamp::compose(now.max(1), 0));
        let window = Window::new(next.0, saved.0);
        let (saving, behind, is_behind) = Default::default();
        let oracle = LocalOracle { clock, store, window, saving, behind, is_behind };
        oracle.extend_to(next.0 + 1)?;
        Ok(oracle)
    }

    /// Everything below is given out or skipped: a restart begins here at the latest.
    pub fn bound(&self) -> Timestamp {
        Timestamp(self.window.bound())
    }

    /// Lets the counter follow the wall clock; never back, and not to an absurd time.
    fn follow_clock(&self) {
        let now_ms = self.clock.wall_ms();
        if now_ms < PHYSICAL_MAX_MS {
            self.window.follow(now_ms << LOGICAL_BITS);
        }
        let served_ms = self.window.next() >> LOGICAL_BITS;
        let is_behind = served_ms > now_ms.saturating_add(BEHIND_MS);
        if is_behind || self.is_behind.load(Ordering::Relaxed) {
            self.follow_monotonic(is_behind, served_ms);
        }
    }

    fn follow_monotonic(&self, is_behind: bool, served_ms: u64) {
        let mut behind = self.behind.lock();
        self.is_behind.store(is_behind, Ordering::Relaxed);
        if !is_behind {
            *behind = None;
            return;
        }
        let now = self.clock.monotonic();
        let (from_ms, since) = *behind.get_or_insert((served_ms, now));
        let passed_ms = now.saturating_sub(since).as_millis() as u64;
        self.window.follow((from_ms + passed_ms).min(PHYSICAL_MAX_MS) << LOGICAL_BITS);
    }

    /// Makes everything below `end` servable, waiting for the store.
    fn extend_to(&self, end: u64) -> Result<(), Error> {
        let _guard = lock(&self.saving);
        if end <= self.window.bound() { Ok(()) } else { self.save(end) }
    }

    /// Saves a bound one window above `end`. The caller holds `saving`.
    fn save(&self, end: u64) -> Result<(), Error> {
        let physical = end.div_ceil(LOGICAL_MAX) + WINDOW_MS;
        if physical > PHYSICAL_MAX_MS + WINDOW_MS {
            return Err(Error::new(ErrorKind::Invalid, "no timestamps are left"));
        }
        let bound = Timestamp::compose(physical, 0);
        if !mistaken(Mistake::BoundNotSaved) {
            self.store.save(bound)?;
        }
        self.window.saved(bound.0);
        Ok(())
    }
}

impl Oracle for LocalOracle {
    fn get(&self, n: u32) -> Result<Timestamp, Error> {
        check_count(n)?;
        let n = u64::from(n);
        self.follow_clock();
        if self.window.next() + n > self.window.bound() {
            // Before anything is taken: calls that fail must not run the counter away.
            self.extend_to(self.window.next() + n)?;
        }
        let taken = self.window.take(n);
        // The bound is read after the range is taken: it only ever grows.
        if !self.window.may_serve(taken) {
            self.extend_to(taken.end)?;
        }
        let bound = self.window.bound();
        if bound - taken.end < (WINDOW_MS / 2) << LOGICAL_BITS {
            // One caller pays early, so that the others never wait. If it fails here, those who
            // need the new bound will try again and report it.
            if let Some(_guard) = self.saving.try_lock()
                && self.window.bound() == bound
            {
                let _ = self.save(taken.end);
            }
        }
        self.store.may_serve()?;
        Ok(Timestamp(taken.first))
    }
}

#[cfg(test)]
mod tests;
