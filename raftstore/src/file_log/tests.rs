//! The suite on files in memory, and what only files have: damage, faults, bytes.

use super::*;
use crate::log_store::MemoryLogStore;
use crate::machine::Applied;
use crate::testing::{LogHarness, log_store_suite};
use damask_env::{Fault, MemoryDisk};
use damask_types::key::Hex;

const A: RegionId = RegionId(7);

fn small() -> FileLogConfig {
    FileLogConfig { segment_bytes: 700, cache_bytes: 300, segments_max: 3 }
}

fn open(disk: &MemoryDisk) -> Result<FileLogStore> {
    FileLogStore::open(Arc::new(disk.clone()), "log", small())
}

fn entries(range: std::ops::RangeInclusive<u64>) -> LogBatch {
    let entry = |index| LogEntry { index, term: 1, data: vec![9; 40], ..LogEntry::default() };
    vec![(A, LogOp::Append(range.map(entry).collect()))]
}

#[test]
fn file_log_passes_the_suite() {
    log_store_suite(&|| {
        let disk = MemoryDisk::new();
        let store = Arc::new(open(&disk).unwrap());
        let crash = move |keep: &mut dyn FnMut(usize) -> usize| {
            let image = disk.crash_image(keep);
            Arc::new(open(&image).unwrap()) as Arc<dyn LogStore>
        };
        LogHarness { store, crash: Some(Box::new(crash)) }
    });
}

#[test]
fn file_log_passes_the_suite_on_a_real_disk() {
    log_store_suite(&|| {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(damask_env::RealDisk::open(folder.path()).unwrap());
        let store = Arc::new(FileLogStore::open(disk.clone(), "log", small()).unwrap());
        // Not a power cut, but a process that ends: what was written is there.
        let crash = move |_: &mut dyn FnMut(usize) -> usize| {
            let _folder = &folder;
            Arc::new(FileLogStore::open(disk.clone(), "log", small()).unwrap()) as Arc<dyn LogStore>
        };
        LogHarness { store, crash: Some(Box::new(crash)) }
    });
}

#[test]
fn memory_log_passes_the_suite() {
    log_store_suite(&|| LogHarness { store: Arc::new(MemoryLogStore::new()), crash: None });
}

#[test]
fn bytes_are_fixed() {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    let entry = LogEntry { index: 6, term: 5, data: b"d".to_vec(), ..LogEntry::default() };
    store.append(vec![(A, LogOp::Reset(Applied { index: 5, term: 5 }))]).unwrap();
    store.append(vec![(A, LogOp::Append(vec![entry]))]).unwrap();
    store.sync().unwrap();
    let bytes = disk.map("log/0000000000000001.log").unwrap();
    let header = "444d534b4c4f4731".to_owned() + "0100000000000000";
    let record = "0d000000".to_owned() + &Hex(&crc(&bytes[24..])).to_string() + "0000000000000000";
    let payload = "04070505".to_owned() + "010701" + "00060500" + "0164";
    assert_eq!(Hex(&bytes).to_string(), header + &record + &payload);
}

fn crc(bytes: &[u8]) -> [u8; 4] {
    crc32fast::hash(bytes).to_le_bytes()
}

#[test]
fn damage_in_the_middle_is_named_and_a_torn_end_is_cut() {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    for round in 0..20 {
        store.append(entries(round * 2 + 1..=round * 2 + 2)).unwrap();
        store.sync().unwrap();
    }
    let files = disk.files();
    assert!(files.len() > 2, "several segments");
    let (last, len) = files.last().unwrap().clone();
    for (name, bytes) in &files {
        let image = disk.crash_image(|n| n);
        assert!(image.flip(name, bytes - 3, 1));
        match open(&image) {
            Ok(store) => {
                assert_eq!(*name, last, "only the last record of all may be taken for torn");
                assert!(store.group(A).unwrap().last.index < 40);
            }
            Err(e) => assert!(e.to_string().contains(name), "{e}"),
        }
        let image = disk.crash_image(|n| n);
        assert!(image.flip(name, 3, 1), "the header");
        let e = open(&image).err().expect("a bad header before good records").to_string();
        assert!(e.contains(name), "{e}");
    }
    // A first record that is bad before a good one.
    let image = disk.crash_image(|n| n);
    assert!(image.flip(&last, 20, 1));
    if len > 300 {
        assert!(open(&image).is_err());
    }
    let image = disk.crash_image(|n| n);
    image.remove(&files[1].0).unwrap();
    assert!(open(&image).is_err(), "a missing segment");
}

#[test]
fn a_read_of_damaged_bytes_is_an_error() {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    store.append(entries(1..=30)).unwrap();
    store.sync().unwrap();
    assert!(disk.flip("log/0000000000000001.log", 60, 2));
    let mut out = Vec::new();
    let e = store.entries(A, 1, 31, u64::MAX, &mut out).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
}

#[test]
fn after_a_failed_operation_nothing_is_acknowledged_and_nothing_acknowledged_is_lost() {
    for fail_at in 0.. {
        let disk = MemoryDisk::new();
        disk.set_fault(Fault { fail_at: Some(fail_at), capacity: None });
        let mut acknowledged = 0;
        let mut run = || -> Result<()> {
            let store = open(&disk)?;
            for index in 1..=40 {
                store.append(entries(index..=index))?;
                store.sync()?;
                acknowledged = index;
                if index % 8 == 0 {
                    let to = Applied { index: index - 4, term: 1 };
                    store.append(vec![(A, LogOp::CompactTo(to))])?;
                    store.purge()?;
                }
            }
            Ok(())
        };
        let clean = run().is_ok();
        let image = disk.crash_image(|n| n / 2);
        let store = open(&image).unwrap();
        let last = store.group(A).map_or(0, |log| log.last.index);
        assert!(last >= acknowledged, "failure {fail_at}: {last} of {acknowledged}");
        if clean && fail_at > disk.operations() {
            break;
        }
    }
}

#[test]
fn a_quiet_group_does_not_hold_old_segments() {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    let quiet = RegionId(1);
    let entry = LogEntry { index: 1, term: 1, data: b"q".to_vec(), ..LogEntry::default() };
    store.append(vec![(quiet, LogOp::Append(vec![entry.clone()]))]).unwrap();
    for index in 1..=200 {
        store.append(entries(index..=index)).unwrap();
        store.sync().unwrap();
        store.append(vec![(A, LogOp::CompactTo(Applied { index, term: 1 }))]).unwrap();
        store.purge().unwrap();
        assert!(store.segments().unwrap().len() <= 5, "at {index}");
    }
    store.sync().unwrap();
    let again = open(&disk.crash_image(|_| 0)).unwrap();
    let mut out = Vec::new();
    again.entries(quiet, 1, 2, u64::MAX, &mut out).unwrap();
    assert_eq!(out, [entry]);
}
