//! Restarts, clocks, disks and elections around one oracle. No test here may use the machine's
//! time.

use super::*;
use crate::bound::MemoryBound;
use damask_env::{Fault, ManualClock, MemoryDisk, RealClock, RealDisk};
use std::time::Duration;

const NOON: u64 = 1_700_000_000_000;
const NAME: &str = "tso/bound";

fn open(clock: &Arc<ManualClock>, disk: &MemoryDisk) -> LocalOracle {
    LocalOracle::open(clock.clone(), Arc::new(disk.clone()), NAME).expect("opens")
}

fn saved(disk: &MemoryDisk) -> Timestamp {
    FileBound::new(Arc::new(disk.clone()), NAME).load().expect("whole")
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
fn conforms_over_a_store_that_fails() {
    crate::testing::bound_faults(|store| {
        let clock = Arc::new(ManualClock::new(NOON));
        Ok(Arc::new(LocalOracle::over(clock, store)?))
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

/// A lock's time to live is measured in it.
#[test]
fn physical_time_goes_on_while_the_wall_clock_is_behind() {
    let clock = Arc::new(ManualClock::new(NOON));
    let oracle = open(&clock, &MemoryDisk::new());
    let served = || oracle.get(1).expect("served").physical_ms();
    assert_eq!(served(), NOON);
    clock.set_wall_ms(NOON - 3_600_000);
    assert_eq!(served(), NOON, "not back");
    clock.advance(Duration::from_secs(5));
    assert_eq!(served(), NOON + 5_000);
    clock.advance(Duration::from_secs(60));
    assert_eq!(served(), NOON + 65_000);
    // It has caught up, is ahead for a while, and is set back once more.
    clock.set_wall_ms(NOON + 100_000);
    assert_eq!(served(), NOON + 100_000);
    clock.advance(Duration::from_secs(1));
    assert_eq!(served(), NOON + 101_000);
    clock.set_wall_ms(NOON);
    assert_eq!(served(), NOON + 101_000);
    clock.advance(Duration::from_secs(2));
    assert_eq!(served(), NOON + 103_000);
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

#[test]
fn calls_that_fail_do_not_run_the_counter_away() {
    let clock = Arc::new(ManualClock::new(NOON));
    let disk = MemoryDisk::new();
    let oracle = open(&clock, &disk);
    let bound = oracle.bound();
    disk.set_fault(Fault { fail_at: None, capacity: Some(0) });
    clock.advance(Duration::from_millis(2 * WINDOW_MS));
    for _ in 0..10_000 {
        assert!(oracle.get(crate::REQUEST_MAX).is_err());
    }
    assert_eq!(oracle.bound(), bound);
    disk.set_fault(Fault::default());
    let ts = oracle.get(1).expect("served again");
    assert_eq!(ts.physical_ms(), NOON + 2 * WINDOW_MS);
}

#[test]
fn a_paused_leader_gives_out_nothing_after_its_successor() {
    let clock = Arc::new(ManualClock::new(NOON));
    let bound = MemoryBound::new();
    let mut greatest = Timestamp::ZERO;
    let mut leaders: Vec<LocalOracle> = Vec::new();
    for round in 0..6u64 {
        // The clock of each new leader is an hour off, forth and back.
        clock.set_wall_ms(if round.is_multiple_of(2) { NOON + 3_600_000 } else { NOON });
        let leader = LocalOracle::over(clock.clone(), Arc::new(bound.elect()));
        leaders.push(leader.expect("elected"));
        let (newest, old) = leaders.split_last().expect("one at least");
        for leader in old {
            let error = leader.get(1).expect_err("its lease has ended");
            assert_eq!(error.kind(), ErrorKind::Reroute);
        }
        let ts = newest.get(100).expect("the leader serves");
        assert!(ts > greatest, "round {round}");
        greatest = Timestamp(ts.0 + 99);
    }
}

#[test]
fn a_lease_that_ends_while_a_range_is_taken_is_noticed() {
    /// Loses its lease the first time that it is asked.
    struct Loses(MemoryBound);
    impl BoundStore for Loses {
        fn load(&self) -> Result<Timestamp, Error> {
            self.0.load()
        }
        fn save(&self, bound: Timestamp) -> Result<(), Error> {
            self.0.save(bound)
        }
        fn may_serve(&self) -> Result<(), Error> {
            drop(self.0.elect());
            self.0.may_serve()
        }
    }
    let clock = Arc::new(ManualClock::new(NOON));
    let oracle = LocalOracle::over(clock, Arc::new(Loses(MemoryBound::new().elect())));
    let error = oracle.expect("opens").get(1).expect_err("checked after the range was taken");
    assert_eq!(error.kind(), ErrorKind::Reroute);
}
