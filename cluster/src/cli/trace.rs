//! `damask trace replay FILE`: tells what a column store was told (`[trace]` in the configuration)
//! to another one, and prints how fast it took the rows, what it wrote, and a checksum of what it
//! holds, which is the same for any two stores. It must never touch a cluster's data.

use crate::cli::Error;
use crate::nodes::lsm_on_disk;
use damask_deltatree::rivals::LsmConfig;
use damask_deltatree::{ColumnStore, DeltaTree, MemoryColumnStore};
use damask_env::{Disk, RealClock, RealDisk};
use damask_learner::trace::{ReplayPlan, checksum, replay};
use damask_types::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is done with a recording.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Tell it to a new column store.
    Replay(Replay),
}

/// Which recording, to which store, how fast.
#[derive(Clone, Debug, clap::Args)]
pub struct Replay {
    /// The recording.
    file: PathBuf,
    /// The kind of store.
    #[arg(long, value_enum, default_value = "deltatree")]
    store: StoreName,
    /// Row versions a second [default: as fast as the store takes them].
    #[arg(long, value_name = "ROWS")]
    rate: Option<u64>,
    /// Folder in which the store keeps its data, in a folder of its own that is removed at the end
    /// [default: the system's folder for temporary files].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// Column stores that a recording can be told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum StoreName {
    /// Delta and stable packs.
    Deltatree,
    /// The columnar LSM, on RocksDB.
    Lsm,
    /// The plain model, in memory.
    Memory,
}

fn open(store: StoreName, folder: &Path) -> Result<Arc<dyn ColumnStore>, Error> {
    Ok(match store {
        StoreName::Deltatree => {
            let disk = Arc::new(RealDisk::open(folder)?);
            Arc::new(DeltaTree::open(disk, damask_deltatree::Config::default())?)
        }
        StoreName::Lsm => lsm_on_disk(folder, LsmConfig::default())?,
        StoreName::Memory => Arc::new(MemoryColumnStore::default()),
    })
}

fn tell(options: &Replay, folder: &Path) -> Result<String, Error> {
    let name = options.file.file_name().and_then(|name| name.to_str()).ok_or("not a file")?;
    let parent = options.file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let failed = |e: std::io::Error| format!("{}: {e}", options.file.display());
    let disk = RealDisk::open(parent.unwrap_or(Path::new("."))).map_err(failed)?;
    let trace = disk.map(name).map_err(failed)?;
    let store = open(options.store, folder)?;
    let plan = ReplayPlan { rows_per_second: options.rate, ..ReplayPlan::default() };
    let done = replay(&trace, &store, &plan, &RealClock::default())?;
    let sum = checksum(&*store, &done.tables, Timestamp::MAX)?;
    Ok(format!("{done}\nchecksum {sum:08x}"))
}

/// Replays, and prints what came of it.
pub fn run(command: &Command) -> Result<(), Error> {
    let Command::Replay(options) = command;
    if !options.file.is_file() {
        return Err(format!("{}: there is no such file", options.file.display()).into());
    }
    let parent = options.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = parent.join(format!("damask-replay-{}", std::process::id()));
    damask_env::make_folder(&folder)?;
    let told = tell(options, &folder);
    std::fs::remove_dir_all(&folder)?;
    println!("{}", told?);
    Ok(())
}
