//! How fast a log becomes columns, on one thread: rows out of entries' bytes into DeltaTree, beside
//! the same into a store that forgets them. It must never count the making of the entries.

use damask_benches::Error;
use damask_benches::arguments::Arguments;
use damask_benches::measure::{Spread, Stopwatch};
use damask_benches::report::{Line, Target, render};
use damask_deltatree::{ColumnStore, Config, DeltaTree};
use damask_env::RealDisk;
use damask_learner::speed::{Forgetful, Ingest, Shape, Taken, Workload};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Rows a second on one core, records' and rows' decoding included.
const TARGET: f64 = 500_000.0;

/// One run's rates: new rows, new versions, new rows into nothing.
struct Round {
    inserts: Taken,
    updates: Taken,
    forgotten: Taken,
}

fn round(
    workload: &Workload,
    (inserts, updates): (&[Vec<u8>], &[Vec<u8>]),
    folder: &Path,
    now: &dyn Fn() -> Duration,
) -> Result<Round, Error> {
    let forgetful: Arc<dyn ColumnStore> = Arc::new(Forgetful::default());
    let forgotten = Ingest::new(forgetful, workload.shape)?.run(inserts, now)?;
    let disk = Arc::new(RealDisk::open(folder)?);
    let tree: Arc<dyn ColumnStore> = Arc::new(DeltaTree::open(disk, Config::default())?);
    let mut ingest = Ingest::new(tree, workload.shape)?;
    let inserted = ingest.run(inserts, now)?;
    Ok(Round { inserts: inserted, updates: ingest.run(updates, now)?, forgotten })
}

/// Every shape, committed in one phase and in two.
pub fn run(arguments: &Arguments, folder: &Path) -> Result<(), Error> {
    let stopwatch = Stopwatch::default();
    let (rows, rounds) = arguments.pick((500_000, 5), (5_000, 1));
    for shape in Shape::ALL {
        for two_phase in [false, true] {
            let workload = Workload { shape, two_phase };
            let (inserts, updates) = (workload.inserts(rows), workload.updates(rows / 2, rows));
            let mut all = Vec::with_capacity(rounds);
            for _ in 0..rounds {
                let folder = tempfile::tempdir_in(folder)?;
                let now = || stopwatch.elapsed();
                all.push(round(&workload, (&inserts, &updates), folder.path(), &now)?);
            }
            let spread = |rate: &dyn Fn(&Round) -> f64| {
                Spread::of(&all.iter().map(rate).collect::<Vec<_>>())
            };
            let phases = if two_phase { "two phases" } else { "one phase" };
            let title = format!("ingest: {}, committed in {phases}, one thread", shape.name());
            let target = (!arguments.small && shape == Shape::Narrow && !two_phase)
                .then_some(Target::AtLeast(TARGET));
            let peers = [
                Line::new("new versions", spread(&|round| round.updates.rate())),
                Line::new("new rows, syncs, merges", spread(&|round| round.inserts.settled_rate())),
                Line::new("new versions too", spread(&|round| round.updates.settled_rate())),
                Line::new("floor: the store forgets", spread(&|round| round.forgotten.rate())),
            ];
            let ours = Line::new("new rows", spread(&|round| round.inserts.rate()));
            println!("{}\n", render(&title, "rows/s", &ours, target, &peers));
        }
    }
    Ok(())
}
