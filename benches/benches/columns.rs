//! Column stores under updates: DeltaTree, an LSM with two readers, and columns without updates,
//! over the same rows and questions. It must never time an answer that differs from the oracle's.
//!
//! `cargo bench -p damask-benches --bench columns`; see `damask_deltatree::rivals::race`.

use damask_benches::Error;
use damask_benches::arguments::Arguments;
use damask_benches::machine::state;
use damask_benches::measure::Stopwatch;
use damask_deltatree::rivals::race::{RaceConfig, run};

/// The page, in the folder of what cargo built.
const PAGE: &str = "columns.html";

fn main() -> Result<(), Error> {
    let arguments = Arguments::read()?;
    if !arguments.wants("columns") {
        return Ok(());
    }
    let folder = tempfile::tempdir_in(&arguments.folder)?;
    if arguments.small {
        run(RaceConfig::small(folder.path()))?;
        return Ok(());
    }
    println!("{}", state(folder.path(), &Stopwatch::default())?);
    let report = run(RaceConfig::full(folder.path()).from_environment()?)?;
    print!("{}", report.text());
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let page = std::path::Path::new(&target).join(PAGE);
    std::fs::write(&page, report.html())?;
    println!("\npage: {}", page.display());
    Ok(())
}
