//! The simulator's own test: each deliberate mistake must be found by some seed. It must never
//! count a mistake as found that the same seeds find without it.

use crate::plan::Plan;
use crate::run::run;
use crate::sweep::Sweep;
use damask_env::mutation::{Mistake, mutate};
use damask_env::{Clock, RealClock, spawn};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a mistake fared.
#[derive(Clone, Debug)]
pub struct Fared {
    /// The mistake.
    pub mistake: Mistake,
    /// Seeds until one failed, that one included; `None`: none did.
    pub seeds: Option<u64>,
    /// What that seed found.
    pub reason: String,
    /// Seeds before it that failed without the mistake too.
    pub alone: u64,
}

/// Makes each mistake in turn, until one of these seeds fails.
pub fn mutants(mistakes: &[Mistake], sweep: &Sweep) -> Vec<Fared> {
    let next = Arc::new(AtomicUsize::new(0));
    let all: Arc<Vec<Mistake>> = Arc::new(mistakes.to_vec());
    let fared = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..sweep.jobs.max(1))
        .map(|_| {
            let (next, all, fared) = (next.clone(), all.clone(), fared.clone());
            let sweep = sweep.clone();
            spawn("mutants", move || {
                while let Some(mistake) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let clock = RealClock::default();
                    let one = hunt(*mistake, &sweep);
                    let (name, time) = (format!("{mistake:?}"), clock.monotonic().as_secs_f64());
                    let seeds = one.seeds.map_or_else(|| "missed".to_owned(), |n| n.to_string());
                    let reason = one.reason.lines().next().unwrap_or_default();
                    let reason: String = reason.chars().take(100).collect();
                    println!("{name:<24} {seeds:>7} {time:>7.1} s  {reason}");
                    fared.lock().push(one);
                }
            })
        })
        .collect();
    for task in tasks {
        if let Err(panic) = task.join() {
            panic!("the simulator itself: {panic}");
        }
    }
    std::mem::take(&mut *fared.lock())
}

fn hunt(mistake: Mistake, sweep: &Sweep) -> Fared {
    let mut alone = 0;
    for seed in sweep.from..sweep.from + sweep.seeds {
        let plan = Plan::new(seed, sweep.storm_ms, sweep.kinds.as_deref());
        mutate(Some(mistake));
        let result = run(&plan);
        mutate(None);
        let Err(failure) = result else { continue };
        if let Err(failure) = run(&plan) {
            // It says nothing of the mistake.
            eprintln!("seed {seed} fails without a mistake: {}", failure.reason);
            alone += 1;
            continue;
        }
        let seeds = Some(seed - sweep.from + 1);
        return Fared { mistake, seeds, reason: failure.reason, alone };
    }
    Fared { mistake, seeds: None, reason: String::new(), alone }
}
