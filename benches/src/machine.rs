//! What the numbers were measured on, and what a process takes of it. It must never change
//! anything but files in the folder it is given.

use crate::Error;
use crate::measure::{Spread, Stopwatch, median_of_calls};
use damask_env::{Disk, RealDisk};
use std::os::linux::fs::MetadataExt;
use std::path::Path;

/// Syncs whose median is printed.
const SYNCS: usize = 50;
/// Bytes added before each sync: one page.
const SYNC_BYTES: usize = 4096;

/// Cores, load, and what a sync costs in `folder`, in one line.
pub fn state(folder: &Path, stopwatch: &Stopwatch) -> Result<String, Error> {
    let cores = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    let sync = sync_seconds(folder, stopwatch)? * 1e3;
    Ok(format!(
        "machine: {cores} cores, load average {}, sync of 4 KiB p50 {sync:.3} ms in {}",
        load.join(" "),
        folder.display()
    ))
}

/// The median of what it takes to make one page durable.
fn sync_seconds(folder: &Path, stopwatch: &Stopwatch) -> Result<f64, Error> {
    let disk = RealDisk::open(folder)?;
    let file = disk.open("sync-cost")?;
    let page = vec![0x5a; SYNC_BYTES];
    let median = median_of_calls(stopwatch, SYNCS, || {
        file.append(&page)?;
        file.sync()
    })?;
    disk.remove("sync-cost")?;
    Ok(median)
}

/// MiB of a running process that are in memory.
pub fn resident_mib(process: u32) -> Result<f64, Error> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()
    });
    Ok(kib.ok_or("no VmRSS in /proc: has the process ended?")? / 1024.0)
}

/// Seconds that all threads of a running process were on a processor; those that have ended do not
/// count.
pub fn processor_seconds(process: u32) -> Result<f64, Error> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread that has ended meanwhile.
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let spent = text.split_whitespace().next().ok_or("an empty schedstat")?;
        nanoseconds += spent.parse::<f64>()?;
    }
    Ok(nanoseconds / 1e9)
}

fn own_io(name: &str) -> Result<u64, Error> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let count = io.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    count.ok_or_else(|| format!("no {name} in /proc/self/io").into())
}

/// Bytes that this process has given to disks so far, whatever the page cache has yet to write.
pub fn written_bytes() -> Result<u64, Error> {
    own_io("write_bytes:")
}

/// What was written so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Bytes that this process has handed to calls of `write`.
    pub bytes: u64,
    /// By the whole machine to the disk of a folder: writes, KiB written, flushes of its cache. 0
    /// where the system does not say.
    pub disk: [u64; 3],
}

impl Writes {
    /// What came after `before`.
    pub fn since(self, before: &Writes) -> Writes {
        let mut disk = self.disk;
        disk.iter_mut().zip(before.disk).for_each(|(count, before)| *count -= before);
        Writes { bytes: self.bytes - before.bytes, disk }
    }
}

/// Counted so far; `folder` names the disk.
pub fn writes(folder: &Path) -> Result<Writes, Error> {
    Ok(Writes { bytes: own_io("wchar:")?, disk: disk_counts(folder).unwrap_or_default() })
}

fn disk_counts(folder: &Path) -> Option<[u64; 3]> {
    let device = std::fs::metadata(folder).ok()?.st_dev();
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    Some([*numbers.get(4)?, *numbers.get(6)? / 2, *numbers.get(15)?])
}

/// [`resident_mib`], `count` times, with a pause before each.
pub fn resident_spread(
    process: u32,
    count: usize,
    pause: std::time::Duration,
) -> Result<Spread, Error> {
    let mut samples = Vec::with_capacity(count);
    for _ in 0..count {
        std::thread::park_timeout(pause);
        samples.push(resident_mib(process)?);
    }
    Ok(Spread::of(&samples))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_memory_and_an_absent_one_is_an_error() {
        let mib = resident_mib(std::process::id()).expect("this process runs");
        assert!((0.5..65_536.0).contains(&mib), "{mib}");
        assert!(resident_mib(u32::MAX).is_err());
    }

    #[test]
    fn a_process_spends_time_and_counts_what_it_writes() {
        let own = std::process::id();
        let folder = tempfile::tempdir().expect("a folder");
        let (spent, before) = (processor_seconds(own), writes(folder.path()).expect("counted"));
        let spent = spent.expect("this process runs");
        while processor_seconds(own).expect("this process runs") < spent + 0.001 {
            std::hint::black_box(vec![1u8; 1 << 16]);
        }
        std::fs::write(folder.path().join("some"), vec![7; 100_000]).expect("written");
        let written = writes(folder.path()).expect("counted").since(&before);
        assert!((100_000..100_000_000).contains(&written.bytes), "{written:?}");
        assert!(processor_seconds(u32::MAX).is_err());
    }

    #[test]
    fn the_state_names_cores_load_and_sync() {
        let folder = tempfile::tempdir().expect("a folder");
        let line = state(folder.path(), &Stopwatch::default()).expect("measured");
        assert!(line.contains(" cores, load average ") && line.contains("p50"), "{line}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 0);
    }
}
