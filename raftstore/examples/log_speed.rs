//! How fast the log stores append and sync: so many regions get an entry each, then one sync, as a
//! store does each turn. It measures nothing of Raft.
//!
//! ```text
//! cargo run --release -p damask-raftstore --features rocksdb,raft-engine --example log_speed -- \
//!     --folder /var/tmp --seconds 2 --rounds 5 --entry-bytes 200 --regions 1,16,256
//! ```
//! Each region's log is compacted to its last hundred entries every hundred, and purged, as
//! in a store at work; that is not in the times. The stores take turns, round by round; printed are
//! medians of the rounds, and the smallest and the largest. Bytes are those handed to the system by
//! `write` calls, files and logs of the backend all together (`wchar` of `/proc/self/io`). What the
//! disk did is counted by its driver (`/sys/dev/block`), for the whole machine: be alone on it.
//! Both are 0 where the system does not say.

mod logs;

use damask_env::{Clock, RealClock};
use damask_raftstore::{Applied, LogBatch, LogEntry, LogOp, LogStore};
use damask_types::RegionId;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Entries of a region between two compactions, and kept by one.
const KEPT: u64 = 100;
/// Turns before the first that is counted.
const WARM_UP: u64 = 100;

struct Options {
    folder: PathBuf,
    time: Duration,
    rounds: usize,
    entry_bytes: usize,
    regions: Vec<u64>,
    backends: Vec<String>,
}

fn options() -> Options {
    let mut options = Options {
        folder: std::env::temp_dir(),
        time: Duration::from_secs(2),
        rounds: 3,
        entry_bytes: 200,
        regions: vec![1, 16, 256],
        backends: logs::NAMES.map(str::to_owned).into(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        let value = words.next().unwrap_or_else(|| panic!("{name} needs a value"));
        let number = |text: &str| text.parse::<u64>().unwrap_or_else(|e| panic!("{text}: {e}"));
        match name.as_str() {
            "--folder" => options.folder = value.into(),
            "--seconds" => options.time = Duration::from_secs(number(&value)),
            "--rounds" => options.rounds = number(&value).max(1) as usize,
            "--entry-bytes" => options.entry_bytes = number(&value) as usize,
            "--regions" => options.regions = value.split(',').map(number).collect(),
            "--backends" => options.backends = value.split(',').map(str::to_owned).collect(),
            _ => panic!(
                "{name}: --folder --seconds --rounds --entry-bytes --regions --backends are known"
            ),
        }
    }
    options
}

/// What the system has counted so far.
#[derive(Clone, Copy, Default)]
struct Counts {
    /// Bytes that this process has handed to `write`.
    bytes: u64,
    /// By the disk: writes, KiB written, flushes of its cache.
    disk: [u64; 3],
}

fn counts(folder: &Path) -> Counts {
    let text = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: "));
    let bytes = line.and_then(|n| n.parse().ok()).unwrap_or(0);
    Counts { bytes, disk: disk_counts(folder).unwrap_or_default() }
}

fn disk_counts(folder: &Path) -> Option<[u64; 3]> {
    let device = std::fs::metadata(folder).ok()?.st_dev();
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    Some([*numbers.get(4)?, *numbers.get(6)? / 2, *numbers.get(15)?])
}

/// Numbers of one round.
struct Figures {
    /// Microseconds of each turn, sorted.
    micros: Vec<u64>,
    /// For each sync.
    bytes: f64,
    disk: [f64; 3],
}

/// What the regions get in a turn: half of an entry is the same for all, half is its own.
fn batch(regions: u64, turn: u64, entry_bytes: usize, mixed: &mut u64) -> LogBatch {
    let mut entry = |_| {
        let mut data = vec![7u8; entry_bytes];
        for byte in &mut data[entry_bytes / 2..] {
            *mixed = mixed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (*mixed >> 56) as u8;
        }
        LogEntry { index: turn, term: 1, data, ..LogEntry::default() }
    };
    (1..=regions).map(|id| (RegionId(id), LogOp::Append(vec![entry(id)]))).collect()
}

fn run(store: &dyn LogStore, regions: u64, options: &Options) -> Figures {
    let clock = RealClock::default();
    let mut mixed = 0x9E37_79B9_7F4A_7C15u64;
    let (mut turn, mut micros) = (0, Vec::new());
    let (mut before, mut spent) = (Counts::default(), Duration::ZERO);
    while spent < options.time {
        turn += 1;
        let batch = batch(regions, turn, options.entry_bytes, &mut mixed);
        if turn == WARM_UP {
            before = counts(&options.folder);
        }
        let began = clock.monotonic();
        store.append(batch).expect("appends");
        store.sync().expect("syncs");
        let took = clock.monotonic() - began;
        if turn >= WARM_UP {
            micros.push(took.as_micros() as u64);
            spent += took;
        }
        if turn % KEPT == 0 && turn > KEPT {
            let to = Applied { index: turn - KEPT, term: 1 };
            let compact = |id| (RegionId(id), LogOp::CompactTo(to));
            store.append((1..=regions).map(compact).collect()).expect("compacts");
            store.purge().expect("purges");
        }
    }
    let after = counts(&options.folder);
    let syncs = micros.len() as f64;
    let mut disk = [0.0; 3];
    for (at, rate) in disk.iter_mut().enumerate() {
        *rate = (after.disk[at] - before.disk[at]) as f64 / syncs;
    }
    micros.sort_unstable();
    Figures { micros, bytes: (after.bytes - before.bytes) as f64 / syncs, disk }
}

fn main() {
    let options = options();
    println!(
        "entries of {} bytes, {} rounds of {} s each, in {}",
        options.entry_bytes,
        options.rounds,
        options.time.as_secs(),
        options.folder.display()
    );
    println!(
        "{:<12} {:>7} {:>9}  {:<15} {:>9}  {:<13} {:>8} {:>11} {:>11} {:>8} {:>8}",
        "store",
        "regions",
        "syncs/s",
        "(min to max)",
        "p50 us",
        "(min to max)",
        "p99 us",
        "bytes/entry",
        "disk writes",
        "disk KiB",
        "flushes"
    );
    for regions in &options.regions {
        let mut all: Vec<Vec<Figures>> = options.backends.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.rounds {
            for (backend, rounds) in options.backends.iter().zip(&mut all) {
                rounds.extend(round(backend, *regions, &options));
            }
        }
        for (backend, rounds) in options.backends.iter().zip(all) {
            match rounds.is_empty() {
                true => println!("{backend:<12} is not in this build, or not known"),
                false => report(backend, *regions, &rounds),
            }
        }
    }
}

fn round(backend: &str, regions: u64, options: &Options) -> Option<Figures> {
    let name = format!("damask-log-speed-{}-{backend}-{regions}", std::process::id());
    let folder = options.folder.join(name);
    std::fs::create_dir_all(&folder).expect("a folder for the log");
    let figures = logs::open(backend, &folder).map(|store| run(store.as_ref(), regions, options));
    std::fs::remove_dir_all(&folder).expect("the folder can be removed");
    figures
}

/// Median, smallest, largest.
fn spread(rounds: &[Figures], number: impl Fn(&Figures) -> f64) -> [f64; 3] {
    let mut all: Vec<f64> = rounds.iter().map(number).collect();
    all.sort_by(f64::total_cmp);
    [all[all.len() / 2], all[0], all[all.len() - 1]]
}

fn report(backend: &str, regions: u64, rounds: &[Figures]) {
    let at = |f: &Figures, percent: usize| f.micros[(f.micros.len() - 1) * percent / 100] as f64;
    let rate = |f: &Figures| f.micros.len() as f64 * 1e6 / f.micros.iter().sum::<u64>() as f64;
    let [rate, least, most] = spread(rounds, rate);
    let [p50, low, high] = spread(rounds, |f| at(f, 50));
    let [p99, ..] = spread(rounds, |f| at(f, 99));
    let [bytes, ..] = spread(rounds, |f| f.bytes / regions as f64);
    let disk = [0, 1, 2].map(|which| spread(rounds, |f| f.disk[which])[0]);
    println!(
        "{backend:<12} {regions:>7} {rate:>9.0}  {:<15} {p50:>9.0}  {:<13} {p99:>8.0} \
         {bytes:>11.1} {:>11.2} {:>8.1} {:>8.2}",
        format!("({least:.0} to {most:.0})"),
        format!("({low:.0} to {high:.0})"),
        disk[0],
        disk[1],
        disk[2],
    );
}
