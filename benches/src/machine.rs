//! What the numbers were measured on, and what a process takes of it. It must never change
//! anything but files in the folder it is given.

use crate::Error;
use crate::measure::{Spread, Stopwatch, median_of_calls};
use damask_env::{Disk, RealDisk};
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

/// Bytes that this process has given to disks so far, whatever the page cache has yet to write.
pub fn written_bytes() -> Result<u64, Error> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok());
    bytes.ok_or_else(|| "no write_bytes in /proc/self/io".into())
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
    fn the_state_names_cores_load_and_sync() {
        let folder = tempfile::tempdir().expect("a folder");
        let line = state(folder.path(), &Stopwatch::default()).expect("measured");
        assert!(line.contains(" cores, load average ") && line.contains("p50"), "{line}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 0);
    }
}
