//! Many seeds on a few threads, and the shortening of what fails. It must never report a shorter
//! list of faults that does not fail.

use crate::plan::{FaultKind, Plan};
use crate::run::{Failure, Report, run};
use crate::world::Counts;
use damask_env::{Clock, RealClock, spawn};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs that shortening may cost.
const SHORTEN_RUNS_MAX: u32 = 120;

/// What to run.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// Threads.
    pub jobs: usize,
    /// Length of each storm, simulated milliseconds.
    pub storm_ms: u64,
    /// Only these faults.
    pub kinds: Option<Vec<FaultKind>>,
}

/// What came of it.
#[derive(Default)]
pub struct Swept {
    /// Seeds that held.
    pub held: u64,
    /// Events of all.
    pub events: u64,
    /// Simulated microseconds of all.
    pub time: u64,
    /// What all did.
    pub counts: Counts,
    /// Seeds that failed; the lowest first.
    pub failures: Vec<Failure>,
    /// Real microseconds.
    pub took: u64,
}

impl Swept {
    fn add(&mut self, result: Result<Report, Box<Failure>>) {
        match result {
            Ok(Report { events, time, counts, .. }) => {
                self.held += 1;
                self.events += events;
                self.time += time;
                self.counts.add(&counts);
            }
            Err(failure) => self.failures.push(*failure),
        }
    }

    /// In a few lines.
    pub fn told(&self) -> String {
        let real = self.took.max(1) as f64 / 1e6;
        let simulated = self.time as f64 / 1e6;
        format!(
            "{} seeds held, {} failed, in {real:.1} s: {:.2} seeds/s, {:.0} simulated seconds per \
             second, {:.0} events/s\n{:?}",
            self.held,
            self.failures.len(),
            (self.held + self.failures.len() as u64) as f64 / real,
            simulated / real,
            self.events as f64 / real,
            self.counts
        )
    }
}

/// Runs seeds; stops after the first that fails if `stop` is set.
pub fn sweep(sweep: &Sweep, stop: bool) -> Swept {
    let clock = RealClock::default();
    let next = Arc::new(AtomicU64::new(sweep.from));
    let swept = Arc::new(Mutex::new(Swept::default()));
    let tasks: Vec<_> = (0..sweep.jobs.max(1))
        .map(|_| {
            let (next, swept, sweep) = (next.clone(), swept.clone(), sweep.clone());
            spawn("sim", move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= sweep.from + sweep.seeds {
                        return;
                    }
                    let plan = Plan::new(seed, sweep.storm_ms, sweep.kinds.as_deref());
                    let result = run(&plan);
                    let failed = result.is_err();
                    if let Err(failure) = &result {
                        eprintln!("seed {seed}: {}", failure.reason);
                    }
                    swept.lock().add(result);
                    if failed && stop {
                        next.store(u64::MAX / 2, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        if let Err(panic) = task.join() {
            panic!("the simulator itself: {panic}");
        }
    }
    let mut swept = std::mem::take(&mut *swept.lock());
    swept.failures.sort_by_key(|failure| failure.plan.seed);
    swept.took = clock.monotonic().as_micros() as u64;
    swept
}

/// Leaves out faults as long as it still fails: halves first, then one by one.
pub fn shorten(failure: Failure) -> Failure {
    let mut best = failure;
    let mut runs = 0;
    let mut size = best.plan.faults.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < best.plan.faults.len() && runs < SHORTEN_RUNS_MAX {
            let mut plan = best.plan.clone();
            let end = (at + size).min(plan.faults.len());
            plan.faults.drain(at..end);
            runs += 1;
            match run(&plan) {
                Err(shorter) => best = *shorter,
                Ok(_) => at += size,
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    best
}
