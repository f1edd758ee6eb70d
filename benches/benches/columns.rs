//! Column stores under updates: DeltaTree, an LSM with two readers, and columns without updates,
//! over the same rows and questions; and how fast a log becomes columns. It must never time an
//! answer that differs from the oracle's.
//!
//! `cargo bench -p damask-benches --bench columns -- [NAME]`; names: `ingest`, `columns`; see
//! `damask_learner::speed` and `damask_deltatree::rivals::race`.

#[path = "columns/ingest.rs"]
mod ingest;

use damask_benches::Error;
use damask_benches::arguments::Arguments;
use damask_benches::machine::state;
use damask_benches::measure::Stopwatch;
use damask_deltatree::rivals::race::{RaceConfig, run};
use std::path::Path;

/// The page, in the folder of what cargo built.
const PAGE: &str = "columns.html";

fn main() -> Result<(), Error> {
    let arguments = Arguments::read()?;
    if !arguments.wants("ingest") && !arguments.wants("columns") {
        return Ok(());
    }
    let folder = tempfile::tempdir_in(&arguments.folder)?;
    println!("{}\n", state(folder.path(), &Stopwatch::default())?);
    if arguments.wants("ingest") {
        ingest::run(&arguments, folder.path())?;
    }
    if arguments.wants("columns") {
        race(&arguments, folder.path())?;
    }
    Ok(())
}

fn race(arguments: &Arguments, folder: &Path) -> Result<(), Error> {
    if arguments.small {
        run(RaceConfig::small(folder))?;
        return Ok(());
    }
    let report = run(RaceConfig::full(folder).from_environment()?)?;
    print!("{}", report.text());
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let page = Path::new(&target).join(PAGE);
    std::fs::create_dir_all(&target)?;
    std::fs::write(&page, report.html())?;
    println!("\npage: {}", page.display());
    Ok(())
}
