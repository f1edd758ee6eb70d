//! The oracle of one process: an atomic counter below a bound that is saved before it is served.
//! It must never answer with a timestamp at or above the bound on the disk.
//!
//! The counter is the packed timestamp itself, so a burst of more than 2^18 in one millisecond
//! carries into the next millisecond, and a wall clock that stands still or goes back is outrun.

use crate::error::Error;
use crate::{Oracle, bound, check_count};
use damask_env::{Clock, Disk};
use damask_types::ts::{LOGICAL_BITS, LOGICAL_MAX};
use damask_types::{ErrorKind, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far the saved bound runs ahead of what is served, milliseconds: one write to the disk in
/// about half this time, and at most this far a jump forward at a restart (PD: 3 to 5 s).
pub const WINDOW_MS: u64 = 4_000;
/// The latest physical time that is served (year 3084): a clock beyond it is not believed.
const PHYSICAL_MAX_MS: u64 = 1 << 45;

/// Timestamps from this process's clock and disk. One instance to a file.
pub struct LocalOracle {
    clock: Arc<dyn Clock>,
    disk: Arc<dyn Disk>,
    name: String,
    /// The first timestamp that nobody has taken.
    next: AtomicU64,
    /// Timestamps below it may be served; equal to what is on the disk.
    bound: AtomicU64,
    /// Held while the bound is being saved.
    saving: Mutex<()>,
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
        let now = clock.wall_ms();
        if now >= PHYSICAL_MAX_MS {
            return Err(Error::invalid(format!("the clock says {now} ms after 1970")));
        }
        let saved = bound::load(disk.as_ref(), name)?.unwrap_or(Timestamp::ZERO);
        let next = saved.max(Timestamp::compose(now.max(1), 0));
        let oracle = LocalOracle {
            clock,
            disk,
            name: name.to_owned(),
            next: AtomicU64::new(next.0),
            bound: AtomicU64::new(saved.0),
            saving: Mutex::new(()),
        };
        oracle.extend_to(next.0)?;
        Ok(oracle)
    }

    /// Everything below is given out or skipped: a restart begins here at the latest.
    pub fn bound(&self) -> Timestamp {
        Timestamp(self.bound.load(Ordering::SeqCst))
    }

    /// Lets the counter follow the wall clock; never back, and not to an absurd time.
    fn follow_clock(&self) {
        let now_ms = self.clock.wall_ms();
        let now = now_ms << LOGICAL_BITS;
        if now_ms < PHYSICAL_MAX_MS && self.next.load(Ordering::SeqCst) < now {
            self.next.fetch_max(now, Ordering::SeqCst);
        }
    }

    /// Makes `[.., end)` servable, waiting for the disk.
    fn extend_to(&self, end: u64) -> Result<(), Error> {
        let guard = self.saving.lock();
        if end < self.bound.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.save(end)?;
        drop(guard);
        Ok(())
    }

    /// Saves a bound one window above `end`. The caller holds `saving`.
    fn save(&self, end: u64) -> Result<(), Error> {
        let physical = end.div_ceil(LOGICAL_MAX) + WINDOW_MS;
        if physical > PHYSICAL_MAX_MS + WINDOW_MS {
            return Err(Error::new(ErrorKind::Invalid, "no timestamps are left"));
        }
        let bound = Timestamp::compose(physical, 0);
        bound::save(self.disk.as_ref(), &self.name, bound)?;
        self.bound.store(bound.0, Ordering::SeqCst);
        Ok(())
    }
}

impl Oracle for LocalOracle {
    fn get(&self, n: u32) -> Result<Timestamp, Error> {
        check_count(n)?;
        self.follow_clock();
        let first = self.next.fetch_add(u64::from(n), Ordering::SeqCst);
        let end = first + u64::from(n);
        // The bound is read after the range is taken: it only ever grows.
        let bound = self.bound.load(Ordering::SeqCst);
        if end >= bound {
            self.extend_to(end)?;
        } else if bound - end < (WINDOW_MS / 2) << LOGICAL_BITS {
            // One caller pays early, so that the others never wait. If it fails here, those who
            // need the new bound will try again and report it.
            if let Some(_guard) = self.saving.try_lock()
                && self.bound.load(Ordering::SeqCst) == bound
            {
                let _ = self.save(end);
            }
        }
        Ok(Timestamp(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use damask_env::{Fault, ManualClock, MemoryDisk, RealClock, RealDisk};
    use std::time::Duration;

    const NOON: u64 = 1_700_000_000_000;
    const NAME: &str = "tso/bound";

    fn open(clock: &Arc<ManualClock>, disk: &MemoryDisk) -> LocalOracle {
        LocalOracle::open(clock.clone(), Arc::new(disk.clone()), NAME).expect("opens")
    }

    fn saved(disk: &MemoryDisk) -> Timestamp {
        bound::load(disk, NAME).expect("whole").expect("saved")
    }

    #[test]
    fn conforms() {
        crate::testing::suite(|| {
            let disk = Arc::new(MemoryDisk::new());
            let oracle = LocalOracle::open(Arc::new(RealClock::default()), disk, NAME);
            Arc::new(oracle.expect("opens"))
        });
    }

    #[test]
    fn conforms_over_restarts() {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Arc::new(ManualClock::new(NOON));
        crate::testing::restarts(|round| {
            clock.set_wall_ms(NOON - round * 3_600_000);
            let disk = Arc::new(RealDisk::open(folder.path()).expect("a disk"));
            Arc::new(LocalOracle::open(clock.clone(), disk, NAME).expect("opens"))
        });
    }

    #[test]
    fn follows_the_clock_forward_and_ignores_it_backward() {
        let clock = Arc::new(ManualClock::new(NOON));
        let oracle = open(&clock, &MemoryDisk::new());
        let a = oracle.get(1).expect("a");
        assert_eq!(a.physical_ms(), NOON);
        clock.set_wall_ms(NOON + 3_600_000);
        let b = oracle.get(1).expect("b");
        assert_eq!(b.physical_ms(), NOON + 3_600_000);
        clock.set_wall_ms(NOON - 3_600_000);
        let c = oracle.get(1).expect("c");
        assert_eq!(c, b.next());
        clock.set_wall_ms(u64::MAX);
        assert_eq!(oracle.get(1).expect("an absurd time is not followed"), c.next());
    }

    #[test]
    fn a_burst_carries_into_the_next_millisecond() {
        let clock = Arc::new(ManualClock::new(NOON));
        let oracle = open(&clock, &MemoryDisk::new());
        let a = oracle.get(crate::REQUEST_MAX).expect("a full millisecond");
        let b = oracle.get(1).expect("one more");
        assert_eq!(a, Timestamp::compose(NOON, 0));
        assert_eq!(b, Timestamp::compose(NOON + 1, 0));
    }

    #[test]
    fn everything_served_is_below_the_saved_bound() {
        let clock = Arc::new(ManualClock::new(NOON));
        let disk = MemoryDisk::new();
        let oracle = open(&clock, &disk);
        for step in 0..2_000u32 {
            clock.advance(Duration::from_millis(u64::from(step % 97)));
            let n = 1 + step % 1000;
            let last = oracle.get(n).expect("served").0 + u64::from(n) - 1;
            assert!(last < saved(&disk).0, "step {step}");
        }
    }

    #[test]
    fn a_power_cut_at_any_operation_repeats_nothing() {
        let disk = MemoryDisk::new();
        let mut greatest = Timestamp::ZERO;
        for cut in 0..40 {
            // Each life ends at its `cut`-th disk operation; the clock stands an hour earlier.
            let clock = Arc::new(ManualClock::new(NOON - cut * 3_600_000));
            disk.set_fault(Fault::default());
            let oracle = open(&clock, &disk);
            disk.set_fault(Fault { fail_at: Some(cut % 3), capacity: None });
            for _ in 0..12 {
                clock.advance(Duration::from_millis(900));
                if let Ok(ts) = oracle.get(2) {
                    assert!(ts > greatest, "{ts:?} after {greatest:?} in life {cut}");
                    greatest = ts.next();
                }
            }
        }
    }

    #[test]
    fn a_failed_save_is_reported_and_then_recovers() {
        let clock = Arc::new(ManualClock::new(NOON));
        let disk = MemoryDisk::new();
        let oracle = open(&clock, &disk);
        let before = oracle.get(1).expect("served");
        disk.set_fault(Fault { fail_at: None, capacity: Some(0) });
        clock.advance(Duration::from_secs(60));
        assert_eq!(oracle.get(1).expect_err("no space").kind(), ErrorKind::NoSpace);
        disk.set_fault(Fault::default());
        assert!(oracle.get(1).expect("served again") > before);
    }

    #[test]
    fn a_damaged_bound_is_named_and_not_used() {
        let clock = Arc::new(ManualClock::new(NOON));
        let disk = MemoryDisk::new();
        drop(open(&clock, &disk));
        assert!(disk.flip(NAME, 10, 3));
        let oracle = LocalOracle::open(clock, Arc::new(disk), NAME);
        assert_eq!(oracle.err().expect("damaged").kind(), ErrorKind::Corrupt);
    }
}
