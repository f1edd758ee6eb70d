//! Seeds of the whole cluster: each runs stores, clients, columns and placement through a storm of
//! faults and judges all that was seen. A failure prints how to run it again.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use damask_sim::{FaultKind, Plan, Report, Sweep, run, shorten, sweep};

const STORM_MS: u64 = 6_000;
/// With what comes after it, a minute.
const LONG_STORM_MS: u64 = 57_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn run_or_panic(plan: &Plan) -> Report {
    run(plan).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn every_seed_keeps_every_rule() {
    let seeds = number("SEEDS").unwrap_or(if cfg!(debug_assertions) { 6 } else { 50 });
    let from = number("FROM").unwrap_or(1);
    let storm_ms = if cfg!(debug_assertions) { STORM_MS } else { LONG_STORM_MS };
    let all = Sweep { from, seeds, jobs: 2, storm_ms, kinds: None };
    let swept = sweep(&all, true);
    println!("{}", swept.told());
    if let Some(failure) = swept.failures.into_iter().next() {
        panic!("{}", shorten(failure));
    }
    // The storm must not be so strong that nothing is tested.
    let each = |what: &str, n: u64, least: u64| {
        assert!(n >= least * seeds, "{what}: {n} in {seeds} seeds");
    };
    let counts = swept.counts;
    each("committed", counts.committed, 25);
    each("scans", counts.scans, 5);
    each("columns", counts.column_scans, 3);
    each("faults", counts.faults, 3);
    each("reads in the past from any replica", counts.stale_served, 1);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 4] {
        let plan = Plan::new(seed, 2_500, None);
        assert_eq!(run_or_panic(&plan), run_or_panic(&plan));
    }
    let trace = |seed| run_or_panic(&Plan::new(seed, 1_000, None)).trace;
    assert_ne!(trace(3), trace(4));
}

#[test]
fn without_faults_everything_is_answered() {
    let report = run_or_panic(&Plan::new(5, STORM_MS, Some(&[])));
    let counts = report.counts;
    assert!(counts.committed > 100 && counts.unknown == 0 && counts.faults == 0, "{counts:?}");
}

/// Each fault alone, so that none of them hides another.
#[test]
fn every_fault_alone_keeps_every_rule() {
    let kinds = FaultKind::ALL.into_iter().enumerate();
    for (at, kind) in kinds.filter(|(at, _)| !cfg!(debug_assertions) || at % 6 == 0) {
        run_or_panic(&Plan::new(1000 + at as u64, 3_000, Some(&[kind])));
    }
}
