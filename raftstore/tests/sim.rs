//! Seeds of the simulator: each runs a few stores through a storm of faults and checks every rule
//! after every event. `SEED=n` runs one seed, `SEEDS=n` so many. A failure prints its seed, the
//! faults and the last events.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use damask_raftstore::testing::sim::{FaultKind, SimConfig, SimReport, run};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn run_or_panic(config: &SimConfig) -> SimReport {
    run(config).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Runs on two threads; what they did, added up.
fn sweep(configs: Vec<SimConfig>) -> SimReport {
    let half = |odd: usize| {
        let mine = configs.iter().skip(odd).step_by(2);
        mine.map(run_or_panic).collect::<Vec<_>>()
    };
    let reports = std::thread::scope(|scope| {
        let other = scope.spawn(move || half(1));
        let mut reports = half(0);
        reports.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        reports
    });
    let mut total = SimReport::default();
    reports.iter().for_each(|report| total.add(report));
    total
}

#[test]
fn every_seed_keeps_every_rule() {
    let (from, count) = match number("SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("SEEDS").unwrap_or(if cfg!(debug_assertions) { 40 } else { 400 })),
    };
    let total = sweep((from..from + count).map(SimConfig::new).collect());
    println!("{count} seeds from {from}: {total:?}");
    if count < 20 {
        return;
    }
    // The storm must not be so strong that nothing is tested.
    let each = |what: &str, n: u64, ten: u64| {
        assert!(n * 10 >= ten * count, "{what}: {n} in {count} seeds");
    };
    each("writes", total.writes, 500);
    total.reads.iter().for_each(|n| each("reads", *n, 150));
    each("local reads", total.local_reads, 150);
    each("splits", total.splits, 5);
    each("merges", total.merges, 2);
    each("changes", total.changes, 3);
    each("joint changes", total.joint_changes, 2);
    each("terms", total.leaders, 40);
    each("snapshots", total.snapshots, 10);
    each("sleeps", total.sleeps, 50);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [7, 8] {
        let (first, second) =
            (run_or_panic(&SimConfig::new(seed)), run_or_panic(&SimConfig::new(seed)));
        assert_eq!(first, second);
    }
    let other = run_or_panic(&SimConfig::new(9));
    assert_ne!(other.trace_hash, run_or_panic(&SimConfig::new(7)).trace_hash);
}

#[test]
fn without_faults_everything_is_answered() {
    let config = SimConfig { faults: Some(Vec::new()), ..SimConfig::new(5) };
    let report = run_or_panic(&config);
    assert!(report.writes > 200 && report.local_reads > 50, "{report:?}");
    assert!(
        report.leaders <= 2,
        "nobody else is elected, but for the leader who is lost at the end"
    );
}

/// Each fault alone, so that none of them hides another.
#[test]
fn every_fault_alone_keeps_every_rule() {
    for (at, kind) in FaultKind::ALL.into_iter().enumerate() {
        let seed = 1000 + at as u64;
        let config = SimConfig { faults: Some(vec![kind]), ..SimConfig::new(seed) };
        let report = run_or_panic(&config);
        let few = if kind == FaultKind::Lull { 5 } else { 20 };
        assert!(report.writes > few, "{kind:?}: {report:?}");
    }
}

/// Merges, with a few other faults beside: in a full storm few of them come to their end.
fn merging(seed: u64) -> SimConfig {
    use FaultKind::*;
    let beside = [
        vec![],
        vec![Split, Transfer],
        vec![Split, Delay, Duplicate, Replay],
        vec![Split, Isolation, Crash],
        vec![Split, SlowDisk, Stall, Transfer],
        vec![Split, Membership, Loss],
        vec![Split, Blackout, SyncFailure, SlowDisk],
        vec![Split, OneWayCut, Pause, Drift],
    ];
    let mut faults = beside[seed as usize % beside.len()].clone();
    faults.push(Merge);
    SimConfig { faults: Some(faults), ..SimConfig::new(seed) }
}

/// The others had made its last entry commit, and it lost power before it was durable at its own
/// place: nothing carried it there.
#[test]
fn a_leader_that_prepares_a_merge_may_lose_its_last_entries() {
    run_or_panic(&merging(6918));
}

#[test]
fn merges_keep_every_rule() {
    let (from, count) = match number("SEED") {
        Some(seed) => (seed, 1),
        None => (3000, number("SEEDS").unwrap_or(if cfg!(debug_assertions) { 24 } else { 160 })),
    };
    let total = sweep((from..from + count).map(merging).collect());
    println!("{count} seeds from {from}: {total:?}");
    if count >= 20 {
        assert!(total.merges > 2 * count && total.rollbacks > 0 && total.replaced > 0, "{total:?}");
    }
}

/// A region is merged into one that has just been split, and a third store has not heard of that:
/// what it believes of the target proves nothing.
fn crossing(seed: u64) -> SimConfig {
    use FaultKind::*;
    let beside = [
        vec![],
        vec![Transfer],
        vec![SlowDisk, Delay],
        vec![Crash],
        vec![Membership],
        vec![Stall, Duplicate, Replay],
    ];
    let mut faults = beside[seed as usize % beside.len()].clone();
    faults.push(Crossing);
    SimConfig { faults: Some(faults), pause_ms: (10, 400), ..SimConfig::new(seed) }
}

#[test]
fn merges_that_cross_splits_keep_every_rule() {
    let (from, count) = match number("SEED") {
        Some(seed) => (seed, 1),
        None => (4000, number("SEEDS").unwrap_or(if cfg!(debug_assertions) { 12 } else { 90 })),
    };
    let total = sweep((from..from + count).map(crossing).collect());
    println!("{count} seeds from {from}: {total:?}");
    if count >= 12 {
        assert!(total.merges > count && total.rollbacks > 0, "{total:?}");
    }
}

/// Followers that forget whom they promised not to vote: alone, or its storm hides what follows.
#[test]
fn a_restart_breaks_no_promise_to_a_leader() {
    let faults = Some(vec![FaultKind::Forgetting]);
    for seed in 2000..2000 + if cfg!(debug_assertions) { 10 } else { 60 } {
        run_or_panic(&SimConfig { faults: faults.clone(), ..SimConfig::new(seed) });
    }
}
