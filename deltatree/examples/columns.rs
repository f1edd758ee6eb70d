//! Runs the race of column stores and writes its page:
//! `cargo run --release -p damask-deltatree --features rocksdb --example columns [PAGE]`.
//! `DAMASK_COLUMNS_ROWS` and its siblings change its size, `DAMASK_BENCH_DIR` its folder.

use damask_deltatree::rivals::race::{Error, RaceConfig, run};
use std::path::PathBuf;

fn main() -> Result<(), Error> {
    let parent = std::env::var_os("DAMASK_BENCH_DIR").map_or(std::env::temp_dir(), PathBuf::from);
    let folder = tempfile::tempdir_in(parent)?;
    let report = run(RaceConfig::full(folder.path()).from_environment()?)?;
    print!("{}", report.text());
    if let Some(page) = std::env::args().nth(1) {
        std::fs::write(&page, report.html())?;
        println!("\npage: {page}");
    }
    Ok(())
}
