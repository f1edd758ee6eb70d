//! How fast the log stores append and sync: so many regions get an entry each, then one sync, as a
//! store does each turn. It measures nothing of Raft.
//!
//! ```text
//! cargo run --release -p damask-raftstore --features rocksdb --example log_speed -- \
//!     --folder /var/tmp --seconds 5 --entry-bytes 200 --regions 1,16,256
//! ```
//! Each region's log is compacted to its last hundred entries every hundred, and purged, as
//! in a store at work. Bytes are those handed to the system by `write` calls, files and logs of the
//! backend all together (`wchar` of `/proc/self/io`, 0 where there is none).

use damask_env::{Clock, RealClock, RealDisk};
use damask_raftstore::{
    Applied, FileLogConfig, FileLogStore, LogEntry, LogOp, LogStore, MemoryLogStore,
};
use damask_types::RegionId;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Entries of a region between two compactions, and kept by one.
const KEPT: u64 = 100;

struct Options {
    folder: PathBuf,
    time: Duration,
    entry_bytes: usize,
    regions: Vec<u64>,
    backends: Vec<String>,
}

fn options() -> Options {
    let mut options = Options {
        folder: std::env::temp_dir(),
        time: Duration::from_secs(3),
        entry_bytes: 200,
        regions: vec![1, 16, 256],
        backends: ["memory", "file", "rocksdb"].map(str::to_owned).into(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        let value = words.next().unwrap_or_else(|| panic!("{name} needs a value"));
        let number = |text: &str| text.parse::<u64>().unwrap_or_else(|e| panic!("{text}: {e}"));
        match name.as_str() {
            "--folder" => options.folder = value.into(),
            "--seconds" => options.time = Duration::from_secs(number(&value)),
            "--entry-bytes" => options.entry_bytes = number(&value) as usize,
            "--regions" => options.regions = value.split(',').map(number).collect(),
            "--backends" => options.backends = value.split(',').map(str::to_owned).collect(),
            _ => panic!("{name}: --folder --seconds --entry-bytes --regions --backends are known"),
        }
    }
    options
}

fn open(backend: &str, folder: &Path) -> Option<Arc<dyn LogStore>> {
    match backend {
        "memory" => Some(Arc::new(MemoryLogStore::new())),
        "file" => {
            let disk = Arc::new(RealDisk::open(folder).expect("the folder can be made"));
            let store = FileLogStore::open(disk, "log", FileLogConfig::default());
            Some(Arc::new(store.expect("an empty log opens")))
        }
        #[cfg(feature = "rocksdb")]
        "rocksdb" => {
            let config = damask_raftstore::RocksLogConfig::default();
            let store = damask_raftstore::RocksLogStore::open(folder, &config);
            Some(Arc::new(store.expect("an empty log opens")))
        }
        _ => None,
    }
}

/// Bytes that this process has handed to `write` so far.
fn bytes_written() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Numbers of one run.
struct Figures {
    turns: u64,
    took: Duration,
    /// Microseconds of each turn, sorted.
    micros: Vec<u64>,
    bytes: u64,
}

fn run(store: &dyn LogStore, regions: u64, options: &Options) -> Figures {
    let clock = RealClock::default();
    // Half of it changes from entry to entry, as rows do.
    let mut data = vec![7u8; options.entry_bytes];
    let mut mixed = 0x9E37_79B9_7F4A_7C15u64;
    let before = bytes_written();
    let start = clock.monotonic();
    let (mut turns, mut micros) = (0u64, Vec::new());
    while clock.monotonic() - start < options.time {
        turns += 1;
        for byte in data.iter_mut().step_by(2) {
            mixed = mixed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (mixed >> 56) as u8;
        }
        let entry = LogEntry { index: turns, term: 1, data: data.clone(), ..LogEntry::default() };
        let append = |id| (RegionId(id), LogOp::Append(vec![entry.clone()]));
        let began = clock.monotonic();
        store.append((1..=regions).map(append).collect()).expect("appends");
        store.sync().expect("syncs");
        micros.push((clock.monotonic() - began).as_micros() as u64);
        if turns % KEPT == 0 && turns > KEPT {
            let to = Applied { index: turns - KEPT, term: 1 };
            let compact = |id| (RegionId(id), LogOp::CompactTo(to));
            store.append((1..=regions).map(compact).collect()).expect("compacts");
            store.purge().expect("purges");
        }
    }
    let took = clock.monotonic() - start;
    micros.sort_unstable();
    Figures { turns, took, micros, bytes: bytes_written() - before }
}

fn main() {
    let options = options();
    println!(
        "entries of {} bytes, {} s each, in {}",
        options.entry_bytes,
        options.time.as_secs(),
        options.folder.display()
    );
    println!(
        "{:<8} {:>8} {:>10} {:>12} {:>9} {:>9} {:>12}",
        "store", "regions", "syncs/s", "entries/s", "p50 us", "p99 us", "bytes/entry"
    );
    for regions in &options.regions {
        for backend in &options.backends {
            let name = format!("damask-log-speed-{}-{backend}-{regions}", std::process::id());
            let folder = options.folder.join(name);
            std::fs::create_dir_all(&folder).expect("a folder for the log");
            match open(backend, &folder) {
                Some(store) => {
                    let figures = run(store.as_ref(), *regions, &options);
                    drop(store);
                    report(backend, *regions, &figures);
                }
                None => println!("{backend:<8} is not in this build, or not known"),
            }
            std::fs::remove_dir_all(&folder).expect("the folder can be removed");
        }
    }
}

fn report(backend: &str, regions: u64, figures: &Figures) {
    let seconds = figures.took.as_secs_f64();
    let entries = figures.turns * regions;
    let at = |percent: usize| figures.micros[(figures.micros.len() - 1) * percent / 100];
    println!(
        "{backend:<8} {regions:>8} {:>10.0} {:>12.0} {:>9} {:>9} {:>12.1}",
        figures.turns as f64 / seconds,
        entries as f64 / seconds,
        at(50),
        at(99),
        figures.bytes as f64 / entries as f64
    );
}
