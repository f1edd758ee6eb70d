//! Tells a recorded trace to a column store, and prints how fast it took the rows, what it wrote
//! and a checksum of what it holds, as `damask trace replay` does, without the cluster to compile:
//! `cargo run --release -p damask-learner --example trace FILE [deltatree|memory|lsm [ROWS/S]]`.
//! The LSM keeps its pages in memory; DeltaTree writes to `DAMASK_BENCH_DIR`, or the system's
//! folder for temporary files, and removes it.

use damask_deltatree::rivals::{LsmColumns, LsmConfig};
use damask_deltatree::{ColumnStore, Config, DeltaTree, MemoryColumnStore};
use damask_env::{RealClock, RealDisk};
use damask_learner::trace::{ReplayPlan, checksum, replay};
use damask_types::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Failure = Box<dyn std::error::Error>;

fn open(backend: &str, folder: &Path) -> Result<Arc<dyn ColumnStore>, Failure> {
    Ok(match backend {
        "deltatree" => {
            let disk = Arc::new(RealDisk::open(folder)?);
            Arc::new(DeltaTree::open(disk, Config::default())?)
        }
        "memory" => Arc::new(MemoryColumnStore::default()),
        "lsm" => Arc::new(LsmColumns::in_memory(LsmConfig::default())),
        other => return Err(format!("no column store is called {other}").into()),
    })
}

fn run(folder: &Path) -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let file = arguments.first().ok_or("which trace?")?;
    let backend = arguments.get(1).map_or("deltatree", String::as_str);
    let rate = arguments.get(2).map(|rate| rate.parse::<u64>()).transpose()?;
    let store = open(backend, folder)?;
    let trace = std::fs::read(file)?;
    let plan = ReplayPlan { rows_per_second: rate, ..ReplayPlan::default() };
    let done = replay(&trace, &store, &plan, &RealClock::default())?;
    println!("{backend}: {done}");
    println!("checksum {:08x}", checksum(&*store, &done.tables, Timestamp::MAX)?);
    Ok(())
}

fn main() -> Result<(), Failure> {
    let parent = std::env::var_os("DAMASK_BENCH_DIR").map_or(std::env::temp_dir(), PathBuf::from);
    let folder = parent.join(format!("damask-trace-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let done = run(&folder);
    std::fs::remove_dir_all(&folder)?;
    done
}
