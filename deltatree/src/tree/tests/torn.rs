//! The delta log where power went between a write and its sync, and sectors of it are missing.

use super::super::log::{Log, Op};
use crate::error::Result;
use crate::store::HandleRange;
use damask_env::{Disk, Fault, MemoryDisk};
use damask_types::{ErrorKind, TableId};
use std::sync::Arc;

/// Of a group: over some sectors.
const OPS: u64 = 20;
const SECTOR: usize = 512;
const FILE: &str = "log/000000000001.log";

fn ops(first: u64) -> Vec<(u64, Op)> {
    let range = |n: u64| HandleRange { first: n as i64, last: n as i64 + 1 };
    (first..first + OPS).map(|n| (n, Op::Clear(TableId(1), range(n)))).collect()
}

/// The last operation that is there.
fn open(disk: &MemoryDisk) -> Result<(Log, u64)> {
    let mut last = 0;
    let replay = |seq, _| {
        assert_eq!(seq, last + 1, "one after the other");
        last = seq;
        Ok(())
    };
    let log = Log::open(Arc::new(disk.clone()), 1, 1 << 20, replay)?;
    Ok((log, last))
}

/// Groups of which the last one is written and not synced.
fn unsynced(groups: u64) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk).expect("an empty folder");
    for group in 1..=groups {
        if group == groups {
            // A new file is made and emptied before it is written.
            let sync = if group == 1 { 3 } else { 1 };
            disk.set_fault(Fault { fail_at: Some(sync), capacity: None });
        }
        let first = (group - 1) * OPS + 1;
        let done = log.append(&ops(first), first + OPS - 1, &[(1, vec![group as u8])]);
        assert_eq!(done.is_err(), group == groups, "{done:?}");
    }
    disk
}

#[test]
fn a_group_that_was_not_synced_is_cut_off_whichever_sectors_are_missing() {
    for groups in 1..=3 {
        let disk = unsynced(groups);
        let mut sectors = 0;
        disk.crash_sectors(|at| {
            sectors = at + 1;
            true
        });
        assert!(sectors > 3, "{sectors} sectors");
        for lost in 0..=sectors {
            for lost_too in 0..=sectors {
                let image = disk.crash_sectors(|at| at != lost && at != lost_too);
                let (log, last) = open(&image).expect("nothing acknowledged is missing");
                let whole = lost == sectors && lost_too == sectors;
                let there = if whole { groups } else { groups - 1 };
                assert_eq!(last, there * OPS, "{lost}, {lost_too} of {groups} groups");
                let marks = if there == 0 { vec![] } else { vec![(1, vec![there as u8])] };
                assert_eq!(log.marks(), marks);
            }
        }
    }
}

#[test]
fn a_sector_that_is_missing_under_a_later_group_is_damage() {
    let disk = unsynced(3).crash_sectors(|_| true);
    for at in [SECTOR, 3 * SECTOR] {
        let image = disk.crash_image(|unsynced| unsynced);
        let file = image.open(FILE).expect("the file");
        let sector = file.read_at(at as u64, SECTOR).expect("a sector");
        for (offset, byte) in sector.into_iter().enumerate() {
            let set = (0..8).filter(|bit| byte >> bit & 1 == 1);
            set.for_each(|bit| assert!(image.flip(FILE, at + offset, bit)));
        }
        let error = open(&image).map(|(_, last)| last).expect_err("it was acknowledged");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}

#[test]
fn a_flipped_bit_in_the_last_group_is_damage() {
    let disk = unsynced(2).crash_sectors(|_| true);
    let (_, len) = disk.files().into_iter().find(|(name, _)| name == FILE).expect("the file");
    for offset in (len - 3 * SECTOR..len - 2 * SECTOR).step_by(37) {
        let image = disk.crash_image(|unsynced| unsynced);
        assert!(image.flip(FILE, offset, 3));
        let error = open(&image).map(|(_, last)| last).expect_err("no sector is missing");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    }
}
