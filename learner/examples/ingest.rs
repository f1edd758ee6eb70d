//! Prints how fast a log becomes columns on one thread, in processor time:
//! `cargo run --release -p damask-learner --example ingest [ROWS]`.
//! DeltaTree writes to `DAMASK_BENCH_DIR`, or the system's folder for temporary files.
#![allow(clippy::disallowed_methods)] // it measures

use damask_deltatree::{ColumnStore, Config, DeltaTree};
use damask_env::RealDisk;
use damask_learner::speed::{Forgetful, Ingest, Shape, Taken, Workload};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

/// How long this thread has had a processor, as Linux counts it; elsewhere, the time.
fn processor(since: Instant) -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let busy = text.split(' ').next().and_then(|first| first.parse().ok());
    busy.map_or(since.elapsed(), Duration::from_nanos)
}

fn show(what: &str, taken: &Taken) {
    let ns = |time: Duration| time.as_nanos() as f64 / taken.rows.max(1) as f64;
    println!(
        "  {what:<30}{:>12.0} rows/s   records {:>5.0} ns, apply {:>5.0} ns, sync and merges \
         {:>5.0} ns a row ({:>9.0} rows/s with them)",
        taken.rate(),
        ns(taken.decode),
        ns(taken.apply),
        ns(taken.settle),
        taken.settled_rate()
    );
}

fn run(folder: &Path, rows: u64) -> Result<(), Failure> {
    let since = Instant::now();
    let now = || processor(since);
    for shape in Shape::ALL {
        for two_phase in [false, true] {
            let workload = Workload { shape, two_phase };
            let inserts = workload.inserts(rows);
            let updates = workload.updates(rows / 2, rows);
            let phases = if two_phase { "two phases" } else { "one phase" };
            println!("{}, {phases}, {rows} rows", shape.name());
            let forgetful: Arc<dyn ColumnStore> = Arc::new(Forgetful::default());
            show(
                "inserts, store that forgets",
                &Ingest::new(forgetful, shape)?.run(&inserts, &now)?,
            );
            let folder = folder.join(format!("{shape:?}-{two_phase}"));
            std::fs::create_dir_all(&folder)?;
            let disk = Arc::new(RealDisk::open(&folder)?);
            let tree: Arc<dyn ColumnStore> = Arc::new(DeltaTree::open(disk, Config::default())?);
            let mut ingest = Ingest::new(tree, shape)?;
            show("inserts, DeltaTree", &ingest.run(&inserts, &now)?);
            show("updates, DeltaTree", &ingest.run(&updates, &now)?);
            drop(ingest);
            std::fs::remove_dir_all(&folder)?;
        }
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let rows = std::env::args().nth(1).map_or(Ok(500_000), |rows| rows.parse())?;
    let parent = std::env::var_os("DAMASK_BENCH_DIR").map_or(std::env::temp_dir(), PathBuf::from);
    let folder = parent.join(format!("damask-ingest-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let done = run(&folder, rows);
    std::fs::remove_dir_all(&folder)?;
    done
}
