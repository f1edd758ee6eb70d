//! Stores on a disk against power cuts, failing I/O and flipped bits. It must never accept a sync
//! that was acknowledged and is lost, nor rows that were never written.

use super::DiskOpener;
use super::model::{Model, Numbers, TABLE, Version, batch, request, scan};
use super::walk::Writer;
use crate::error::Result;
use crate::store::{ColumnStore, HandleRange};
use damask_env::MemoryDisk;
use damask_types::{ErrorKind, Timestamp};
use std::sync::Arc;

/// One change of a script that is run again after each crash.
#[derive(Clone, Debug)]
enum Change {
    Apply(Vec<Version>),
    Clear(HandleRange),
    Sync,
    Maintain(u64),
}

fn script(seed: u64, len: usize) -> (Vec<Change>, u64) {
    let mut writer = Writer::new(seed);
    let mut changes = Vec::new();
    for _ in 0..len {
        changes.push(match writer.numbers.below(10) {
            0..=4 => Change::Apply(writer.versions()),
            5 => Change::Clear(writer.range()),
            6 | 7 => Change::Sync,
            _ => Change::Maintain(writer.move_safe_point() / 2),
        });
    }
    (changes, writer.now)
}

/// Does the change with a number; a sync's mark says which change comes next.
fn perform(store: &dyn ColumnStore, number: usize, change: &Change) -> Result<()> {
    match change {
        Change::Apply(versions) => store.apply(&batch(versions)),
        Change::Clear(range) => store.clear(TABLE, *range),
        Change::Sync => store.sync(&[(1, (number as u64 + 1).to_le_bytes().to_vec())]),
        Change::Maintain(safe_point) => store.maintain(Timestamp(*safe_point), u64::MAX).map(drop),
    }
}

fn model_of(changes: &[Change]) -> Model {
    let mut model = Model::default();
    for change in changes {
        match change {
            Change::Apply(versions) => model.apply(versions),
            Change::Clear(range) => model.clear(*range),
            Change::Sync | Change::Maintain(_) => {}
        }
    }
    model
}

fn next_change(store: &dyn ColumnStore) -> Result<usize> {
    let marks = store.marks()?;
    let bytes = marks.first().map(|(_, bytes)| bytes.as_slice().try_into().expect("8 bytes"));
    Ok(bytes.map_or(0, |bytes| u64::from_le_bytes(bytes) as usize))
}

/// Opens a crash image, replays the script from the mark to `end`, and compares.
fn recover(
    open: DiskOpener<'_>,
    image: MemoryDisk,
    changes: &[Change],
    acknowledged: usize,
    context: &str,
) {
    let store = open(Arc::new(image)).unwrap_or_else(|e| panic!("{context}: open: {e}"));
    let next = next_change(&*store).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(next >= acknowledged, "{context}: a sync was lost: {next} < {acknowledged}");
    for (number, change) in changes.iter().enumerate().skip(next) {
        perform(&*store, number, change).unwrap_or_else(|e| panic!("{context}: replay: {e}"));
    }
    let snapshot = store.snapshot(TABLE).unwrap_or_else(|e| panic!("{context}: {e}"));
    let seen = scan(&*snapshot, &request(&[HandleRange::ALL], u64::MAX, 100), 2);
    let expected = model_of(changes).read(&[HandleRange::ALL], u64::MAX);
    assert_eq!(seen.unwrap_or_else(|e| panic!("{context}: {e}")), expected, "{context}");
}

/// A power cut after every change, and a store whose n-th I/O fails for every n.
pub fn crash_suite(open: DiskOpener<'_>) {
    for seed in 0..4 {
        let (changes, _) = script(seed, 60);
        let disk = MemoryDisk::new();
        let store = open(Arc::new(disk.clone())).expect("an empty disk");
        let (mut numbers, mut acknowledged) = (Numbers(seed), 0);
        for (number, change) in changes.iter().enumerate() {
            perform(&*store, number, change).expect("nothing fails here");
            if matches!(change, Change::Sync) {
                acknowledged = number + 1;
            }
            let image = disk.crash_image(|unsynced| numbers.below(unsynced as u64 + 1) as usize);
            let context = format!("seed {seed}, cut after change {number}");
            recover(open, image, &changes[..=number], acknowledged, &context);
        }
    }
    for seed in 10..13 {
        failing_io(open, seed);
    }
}

fn failing_io(open: DiskOpener<'_>, seed: u64) {
    const OPERATIONS_MAX: u64 = 5000;
    let (changes, _) = script(seed, 50);
    for fail_at in 0..OPERATIONS_MAX {
        let disk = MemoryDisk::new();
        disk.set_fault(damask_env::Fault { fail_at: Some(fail_at), ..Default::default() });
        let (mut acknowledged, mut failed, mut done) = (0, false, 0);
        let store = match open(Arc::new(disk.clone())) {
            Ok(store) => store,
            Err(_) => {
                failed = true;
                open(Arc::new(disk.clone())).expect("it fails only once")
            }
        };
        let mut numbers = Numbers(fail_at);
        for (number, change) in changes.iter().enumerate() {
            let context = format!("seed {seed}, I/O {fail_at} failed, change {number}");
            done = number + 1;
            match perform(&*store, number, change) {
                Ok(()) if matches!(change, Change::Sync) => acknowledged = number + 1,
                Ok(()) => {}
                Err(e) => {
                    assert!(!failed, "{context}: {e}");
                    failed = true;
                    let mut cut = |unsynced| numbers.below(unsynced as u64 + 1) as usize;
                    let so_far = &changes[..done];
                    recover(open, disk.crash_image(&mut cut), so_far, acknowledged, &context);
                    if e.kind() == ErrorKind::Poisoned {
                        break;
                    }
                    // What is merged meanwhile lets go of logs, never of what they alone hold.
                    perform(&*store, number, &Change::Maintain(0)).expect("it fails only once");
                    recover(open, disk.crash_image(cut), so_far, acknowledged, &context);
                    perform(&*store, number, change).unwrap_or_else(|e| panic!("{context}: {e}"));
                    if matches!(change, Change::Sync) {
                        acknowledged = number + 1;
                    }
                    recover(open, disk.crash_image(|_| 0), so_far, acknowledged, &context);
                }
            }
        }
        let context = format!("seed {seed}, I/O {fail_at} failed, at the end");
        recover(open, disk.crash_image(|_| 0), &changes[..done], acknowledged, &context);
        if !failed && disk.operations() <= fail_at {
            return;
        }
    }
    panic!("seed {seed}: the script takes more than {OPERATIONS_MAX} operations");
}

/// Flips bits of every file of a store, one at a time: the store names the file as corrupt, or it
/// gives an earlier mark from which a replay leads to the right rows.
pub fn flip_suite(open: DiskOpener<'_>) {
    let (changes, now) = script(42, 60);
    let disk = MemoryDisk::new();
    let store = open(Arc::new(disk.clone())).expect("an empty disk");
    for (number, change) in changes.iter().enumerate() {
        perform(&*store, number, change).expect("nothing fails here");
    }
    perform(&*store, changes.len(), &Change::Sync).expect("synced");
    drop(store);
    let (mut found, mut flips) = (0, 0);
    for (name, len) in disk.files() {
        for offset in (0..len).step_by(len.div_ceil(150).max(1)) {
            let image = disk.crash_image(|unsynced| unsynced);
            assert!(image.flip(&name, offset, (offset % 8) as u8));
            flips += 1;
            match read_flipped(open, image, &changes, now) {
                Ok(()) => {}
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Corrupt, "{name} at {offset}: {e}");
                    assert!(e.to_string().contains(&name), "{name} at {offset}: {e}");
                    found += 1;
                }
            }
        }
    }
    assert!(found * 2 > flips, "only {found} of {flips} flips were found");
}

fn read_flipped(
    open: DiskOpener<'_>,
    image: MemoryDisk,
    changes: &[Change],
    now: u64,
) -> Result<()> {
    let store = open(Arc::new(image))?;
    let next = next_change(&*store)?.min(changes.len());
    let syncs = changes.iter().enumerate().filter(|(_, c)| matches!(c, Change::Sync));
    let mut cuts = syncs.map(|(number, _)| number + 1).chain([changes.len()]);
    assert!(cuts.any(|cut| cut == next), "a mark that was never written: {next}");
    // rows may be newer than the mark; a replay from the mark makes them whole
    for (number, change) in changes.iter().enumerate().skip(next) {
        perform(&*store, number, change)?;
    }
    let snapshot = store.snapshot(TABLE)?;
    let seen = scan(&*snapshot, &request(&[HandleRange::ALL], now, 100), 1)?;
    let expected = model_of(changes).read(&[HandleRange::ALL], now);
    assert_eq!(seen, expected, "rows that were never written");
    Ok(())
}
