//! The suite on files in memory, and what only files have: damage, faults, bytes.

use super::*;
use crate::log_store::MemoryLogStore;
use crate::machine::Applied;
use crate::testing::{InFolder, InMemory, OnMemoryDisk, log_store_suite};
use damask_env::{Fault, MemoryDisk};
use damask_types::ErrorKind;
use damask_types::key::Hex;

const A: RegionId = RegionId(7);

fn small() -> FileLogConfig {
    FileLogConfig {
        segment_bytes: 700,
        cache_bytes: 300,
        segments_max: 3,
        reserve_bytes: 256,
        compress_bytes_min: 400,
    }
}

/// Nothing reserved, and nearly all compressed.
fn packed() -> FileLogConfig {
    FileLogConfig { reserve_bytes: 0, compress_bytes_min: 30, ..small() }
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
    for config in [small(), packed()] {
        log_store_suite(&|| {
            let config = config.clone();
            Box::new(OnMemoryDisk::new(move |disk: Arc<dyn Disk>| {
                let store = FileLogStore::open(disk, "log", config.clone())?;
                Ok(Arc::new(store) as Arc<dyn LogStore>)
            }))
        });
    }
}

#[test]
fn file_log_passes_the_suite_on_a_real_disk() {
    log_store_suite(&|| {
        let guard = tempfile::tempdir().expect("a temporary folder");
        let open = |folder: &std::path::Path| {
            let disk = damask_env::RealDisk::open(folder).map_err(|e| Error::io("folder", &e))?;
            let store = FileLogStore::open(Arc::new(disk), "log", small())?;
            Ok(Arc::new(store) as Arc<dyn LogStore>)
        };
        Box::new(InFolder { folder: guard.path().to_owned(), open, guard: Box::new(guard) })
    });
}

#[test]
fn memory_log_passes_the_suite() {
    let open = || Arc::new(MemoryLogStore::new()) as Arc<dyn LogStore>;
    log_store_suite(&|| Box::new(InMemory(open)));
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
    let segment = "444d534b4c4f4733".to_owned() + "0100000000000000";
    let header = "d0".to_owned() + "0d000000" + "0000000000000000" + &crc(&bytes[16..29]) + "5d";
    let payload = "04070505".to_owned() + "010701" + "00060500" + "0164";
    let trailer = "e7".to_owned() + &crc(&bytes[16..47]) + "7e";
    let room = "00".repeat(256 - 53);
    assert_eq!(Hex(&bytes).to_string(), segment + &header + &payload + &trailer + &room);
}

fn crc(bytes: &[u8]) -> String {
    Hex(&crc32fast::hash(bytes).to_le_bytes()).to_string()
}

/// Twenty records of two entries, in several segments; all synced.
fn filled() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    for round in 0..20 {
        store.append(entries(round * 2 + 1..=round * 2 + 2)).unwrap();
        store.sync().unwrap();
    }
    assert!(disk.files().len() > 2, "several segments");
    disk
}

/// Where the records of a segment end, and its room begins.
fn end(disk: &MemoryDisk, name: &str) -> usize {
    let bytes = disk.map(name).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// The same files, one of them with other bytes.
fn altered(disk: &MemoryDisk, name: &str, bytes: &[u8]) -> MemoryDisk {
    let image = disk.crash_image(|n| n);
    image.replace(name, bytes).unwrap();
    image
}

#[test]
fn a_flipped_bit_anywhere_is_named() {
    let disk = filled();
    for (name, bytes) in disk.files() {
        let end = end(&disk, &name);
        for at in 0..bytes {
            let image = disk.crash_image(|n| n);
            assert!(image.flip(&name, at, (at % 8) as u8));
            if at >= end {
                // In room that nothing was written to: named, or everything is there.
                match open(&image) {
                    Ok(store) => assert_eq!(store.group(A).unwrap().last.index, 40),
                    Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt),
                }
                continue;
            }
            let e = open(&image).err().unwrap_or_else(|| panic!("{name} at {at} was taken"));
            assert_eq!(e.kind(), ErrorKind::Corrupt);
            let said = e.to_string();
            assert!(said.contains(&name) && said.contains(" at "), "{name} at {at}: {said}");
        }
    }
}

#[test]
fn a_zeroed_last_byte_is_damage_too() {
    let disk = filled();
    let (name, _) = disk.files().pop().unwrap();
    let mut bytes = disk.map(&name).unwrap().to_vec();
    let last = end(&disk, &name) - 1;
    assert_ne!(last % 512, 0, "no sector begins there");
    bytes[last] = 0;
    assert_eq!(open(&altered(&disk, &name, &bytes)).err().unwrap().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_missing_segment_and_one_cut_short_are_named() {
    let disk = filled();
    let files = disk.files();
    let image = disk.crash_image(|n| n);
    image.remove(&files[1].0).unwrap();
    assert!(open(&image).err().unwrap().to_string().contains(&files[1].0));
    let (name, len) = &files[0];
    let bytes = disk.map(name).unwrap()[..len - 1].to_vec();
    assert!(open(&altered(&disk, name, &bytes)).err().unwrap().to_string().contains(name));
}

/// One record of each size that matters is written after a synced one, and is cut short: by length,
/// and by zeros in the place of sectors.
#[test]
fn an_unfinished_record_is_cut_off_and_the_log_goes_on() {
    let disk = MemoryDisk::new();
    let config = FileLogConfig { reserve_bytes: 8192, ..FileLogConfig::default() };
    let open = |disk: &MemoryDisk| {
        FileLogStore::open(Arc::new(disk.clone()), "log", config.clone()).unwrap()
    };
    let store = open(&disk);
    store.append(entries(1..=2)).unwrap();
    store.sync().unwrap();
    let (name, room) = disk.files().pop().unwrap();
    let synced = end(&disk, &name);
    store.append(entries(3..=60)).unwrap();
    store.sync().unwrap();
    assert_eq!(disk.files(), [(name.clone(), room)], "into the room that was reserved");
    let whole = disk.map(&name).unwrap()[..end(&disk, &name)].to_vec();
    assert!(whole.len() > 4 * 512, "several sectors");
    let check = |image: &MemoryDisk, what: &str| {
        let store = open(image);
        assert_eq!(store.group(A).unwrap().last.index, 2, "{what}");
        store.append(entries(3..=3)).unwrap();
        store.sync().unwrap();
        drop(store);
        assert_eq!(open(image).group(A).unwrap().last.index, 3, "{what}, again");
    };
    for len in synced..whole.len() {
        check(&altered(&disk, &name, &whole[..len]), &format!("{len} bytes"));
    }
    let sectors = (synced.next_multiple_of(512)..whole.len()).step_by(512);
    for from in std::iter::once(synced).chain(sectors) {
        let mut zeros = whole.clone();
        zeros[from..].fill(0);
        check(&altered(&disk, &name, &zeros), &format!("zeros from {from}"));
        zeros.resize(whole.len() + 700, 0);
        check(&altered(&disk, &name, &zeros), &format!("zeros from {from} and beyond"));
    }
}

/// Readers of old entries, while these are moved out of old files and the files are removed.
#[test]
fn reads_do_not_notice_that_entries_move_and_files_go() {
    const OLD: RegionId = RegionId(1);
    let store = Arc::new(open(&MemoryDisk::new()).unwrap());
    let old = |index| LogEntry { index, term: 1, data: vec![1; 20], ..LogEntry::default() };
    store.append(vec![(OLD, LogOp::Append((1..=4).map(old).collect()))]).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let mut out = Vec::new();
                        store.entries(OLD, 1, 5, u64::MAX, &mut out)?;
                        assert_eq!(out, (1..=4).map(old).collect::<Vec<_>>());
                    }
                    Ok::<(), Error>(())
                })
            })
            .collect();
        for index in 1..=8000 {
            store.append(entries(index..=index)).unwrap();
            store.sync().unwrap();
            store.append(vec![(A, LogOp::CompactTo(Applied { index, term: 1 }))]).unwrap();
            store.purge().unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap().unwrap();
        }
    });
    assert!(store.segments().unwrap()[0].0 > 100, "files came and went");
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

/// A group that stopped with much in the oldest segments, under one that goes on: what the first
/// has is moved, although it is more than half of its segments.
#[test]
fn a_large_quiet_group_does_not_hold_old_segments() {
    let disk = MemoryDisk::new();
    let store = open(&disk).unwrap();
    let quiet = RegionId(1);
    let entry = |index| LogEntry { index, term: 1, data: vec![5; 60], ..LogEntry::default() };
    store.append(vec![(quiet, LogOp::Append((1..=20).map(entry).collect()))]).unwrap();
    store.sync().unwrap();
    let live = |store: &FileLogStore| {
        let state = store.state.lock();
        state.live.entries()
    };
    assert_eq!(live(&store), 20);
    for index in 1..=400 {
        store.append(entries(index..=index)).unwrap();
        store.sync().unwrap();
        store.append(vec![(A, LogOp::CompactTo(Applied { index, term: 1 }))]).unwrap();
        store.purge().unwrap();
        assert!(store.segments().unwrap().len() <= 12, "at {index}: {:?}", store.segments());
        assert_eq!(live(&store), 20, "only what is needed is counted");
    }
    assert!(store.segments().unwrap()[0].0 > 10, "the first segments are gone");
    store.sync().unwrap();
    drop(store);
    let again = open(&disk).unwrap();
    assert_eq!(live(&again), 20, "counted alike when replayed");
    let mut out = Vec::new();
    again.entries(quiet, 1, 21, u64::MAX, &mut out).unwrap();
    assert_eq!(out, (1..=20).map(entry).collect::<Vec<_>>());
    assert!(!again.state.lock().maps.is_empty(), "old segments are read through maps");
}

/// Entries that are only in files, many in a record that is compressed; in the newest segment, in
/// older ones that are mapped, and moved.
#[test]
fn compressed_entries_are_read_from_files() {
    let disk = MemoryDisk::new();
    let config = FileLogConfig { cache_bytes: 0, compress_bytes_min: 100, ..small() };
    let open = |disk: &MemoryDisk| {
        FileLogStore::open(Arc::new(disk.clone()), "log", config.clone()).unwrap()
    };
    let store = open(&disk);
    for round in 0..40 {
        store.append(entries(round * 8 + 1..=round * 8 + 8)).unwrap();
        store.sync().unwrap();
    }
    let written: usize = disk.files().iter().map(|(_, bytes)| bytes).sum();
    assert!(written < 320 * 40 / 2, "{written} bytes of files");
    let check = |store: &FileLogStore, from: u64| {
        let mut out = Vec::new();
        store.entries(A, from, 321, u64::MAX, &mut out).unwrap();
        assert!(out.iter().all(|entry| entry.data == [9; 40]));
        assert!(out.iter().map(|entry| entry.index).eq(from..321));
    };
    check(&store, 1);
    drop(store);
    let store = open(&disk);
    check(&store, 1);
    let quiet = entries(1..=1).pop().unwrap().1;
    store.append(vec![(RegionId(3), quiet.clone())]).unwrap();
    for index in 1..=300 {
        store.append(vec![(A, LogOp::CompactTo(Applied { index, term: 1 }))]).unwrap();
        store.append(vec![(RegionId(2), LogOp::Reset(Applied { index, term: 1 }))]).unwrap();
        store.sync().unwrap();
        store.purge().unwrap();
    }
    assert!(store.segments().unwrap()[0].0 > 10, "{:?}", store.segments());
    check(&store, 301);
    drop(store);
    let store = open(&disk);
    check(&store, 301);
    let mut out = Vec::new();
    store.entries(RegionId(3), 1, 2, u64::MAX, &mut out).unwrap();
    assert_eq!(LogOp::Append(out), quiet);
}

/// A group in which nothing happens does not keep what others have long forgotten.
#[test]
fn a_quiet_group_keeps_no_segment_of_others() {
    let disk = MemoryDisk::new();
    let config = FileLogConfig { segment_bytes: 4096, segments_max: 100, ..small() };
    let store = FileLogStore::open(Arc::new(disk.clone()), "log", config.clone()).unwrap();
    let entry = |index| LogEntry { index, term: 1, data: vec![5; 100], ..LogEntry::default() };
    let quiet = LogOp::Append(vec![LogEntry { data: vec![5; 10], ..entry(1) }]);
    store.append(vec![(RegionId(3), quiet.clone())]).unwrap();
    for index in 1..=500 {
        store.append(vec![(A, LogOp::Append(vec![entry(index)]))]).unwrap();
        let applied = Applied { index: index - 1, term: 1 };
        store.append(vec![(A, LogOp::CompactTo(applied))]).unwrap();
        store.sync().unwrap();
        store.purge().unwrap();
        let segments = store.segments().unwrap().len();
        assert!(segments <= 3, "{segments} segments after {index} entries");
    }
    drop(store);
    let store = FileLogStore::open(Arc::new(disk), "log", config).unwrap();
    for (group, first, op) in [(RegionId(3), 1, quiet), (A, 500, LogOp::Append(vec![entry(500)]))] {
        let mut out = Vec::new();
        store.entries(group, first, first + 1, u64::MAX, &mut out).unwrap();
        assert_eq!(LogOp::Append(out), op);
    }
}

/// An entry that a sync must carry while old entries are moved does not wait for all of them.
#[test]
fn moved_entries_go_out_in_pieces() {
    let disk = MemoryDisk::new();
    let config = FileLogConfig {
        segment_bytes: 4 << 20,
        segments_max: 1,
        compress_bytes_min: usize::MAX,
        ..small()
    };
    let store = FileLogStore::open(Arc::new(disk.clone()), "log", config).unwrap();
    let entry =
        |index| LogEntry { index, term: 1, data: vec![5; 100 << 10], ..LogEntry::default() };
    let all = |range: std::ops::RangeInclusive<u64>| LogOp::Append(range.map(entry).collect());
    store.append(vec![(A, all(1..=40)), (RegionId(2), all(1..=38))]).unwrap();
    store.sync().unwrap();
    store.append(vec![(RegionId(2), LogOp::CompactTo(Applied { index: 38, term: 1 }))]).unwrap();
    store.append(vec![(A, LogOp::CompactTo(Applied { index: 10, term: 1 }))]).unwrap();
    store.sync().unwrap();
    disk.set_fault(Fault::default());
    store.purge().unwrap();
    // Each piece is appended and synced: 30 entries of 100 KiB in pieces of a mebibyte.
    assert!(disk.operations() >= 6, "{} operations", disk.operations());
    let mut out = Vec::new();
    store.entries(A, 11, 41, u64::MAX, &mut out).unwrap();
    assert!(out.len() == 30 && out.iter().all(|e| e.data.len() == 100 << 10));
}
