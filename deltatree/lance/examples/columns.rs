//! The race of column stores with Lance in it, and its page:
//! `cargo run --release --example columns [PAGE]`, in this package's folder.
//! `DAMASK_COLUMNS_ROWS` and its siblings change its size, `DAMASK_BENCH_DIR` its folder. The LSMs
//! keep their pages in memory here: only their read times mean something.

use damask_deltatree::rivals::race::{Engine, Error, RaceConfig, run};
use damask_deltatree_lance::{LanceConfig, LanceStore};
use damask_env::RealDisk;
use std::path::PathBuf;
use std::sync::Arc;

fn main() -> Result<(), Error> {
    let parent = std::env::var_os("DAMASK_BENCH_DIR").map_or(std::env::temp_dir(), PathBuf::from);
    let folder = tempfile::tempdir_in(parent)?;
    let mut config = RaceConfig::full(folder.path()).from_environment()?;
    config.guests.push(Engine {
        name: "lance",
        open: |folder| {
            let disk = Arc::new(RealDisk::open(folder)?);
            Ok(Arc::new(LanceStore::open(disk, LanceConfig::default())?))
        },
        is_bound: false,
    });
    let report = run(config)?;
    print!("{}", report.text());
    if let Some(page) = std::env::args().nth(1) {
        std::fs::write(&page, report.html())?;
        println!("\npage: {page}");
    }
    Ok(())
}
