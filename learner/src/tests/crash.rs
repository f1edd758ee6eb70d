//! A crash at any moment, with or without the rows of after the last sync, loses nothing that a
//! replay of the log does not bring back.

use super::fixture::*;
use crate::ColumnMachine;
use damask_deltatree::ColumnStore;
use damask_raftstore::StateMachine;
use damask_types::{ErrorKind, Record};
use std::collections::BTreeMap;

#[test]
fn marks_keep_a_transaction_in_the_middle() {
    for keep_newer in [false, true] {
        let mut f = Fixture::new();
        let long = row(1, &"y".repeat(300));
        f.write(prewrite(1, 20, Some(&long)));
        assert_eq!(f.machine.sync().unwrap(), [(R, 6)]);
        f.write(commit(1, 20, 30, Some(&long)));
        let mut f = f.crash(keep_newer);
        let states = f.machine.recover().unwrap();
        assert_eq!((states.len(), states[0].applied.index), (1, 6));
        assert_eq!(f.machine.stats().locks, 1, "the lock is back");
        f.index = 6;
        f.write(commit(1, 20, 30, Some(&long)));
        assert_eq!(f.rows(30), [(1, Some(1), Some("y".repeat(300)))]);
        assert_eq!(f.machine.sync().unwrap(), [(R, 7)]);
        let f = f.crash(false);
        assert_eq!((f.rows(30).len(), f.machine.stats().locks), (1, 0));
    }
}

#[test]
fn nothing_is_needed_no_longer_before_a_sync() {
    let mut f = Fixture::new();
    f.machine.sync().unwrap();
    f.write(prewrite(1, 20, None));
    f.store.broken.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(f.machine.sync().is_err());
    f.store.broken.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(f.machine.sync().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(f.crash(true).machine.sync().unwrap(), [(R, 5)]);
}

#[test]
fn a_damaged_mark_is_named() {
    let f = Fixture::new();
    f.machine.sync().unwrap();
    let mut marks = f.store.marks().unwrap();
    marks[0].1[9] ^= 1;
    f.store.sync(&marks).unwrap();
    let opened = ColumnMachine::open(f.store.clone(), f.source.clone());
    assert_eq!(opened.map(|_| ()).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(f.machine.recover().unwrap_err().kind(), ErrorKind::Corrupt);
}

/// A generator of numbers that needs no crate.
struct Seed(u64);

impl Seed {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

type Model = BTreeMap<(i64, u64), Option<(i64, String)>>;

/// A log of transactions on a few rows: each is prewritten, then committed or rolled back.
fn log(chance: &mut Seed) -> (Vec<Vec<Record>>, Model) {
    let mut entries = Vec::new();
    let mut model = Model::new();
    let mut ts = 10;
    let mut open: BTreeMap<i64, (u64, Option<(i64, String)>)> = BTreeMap::new();
    for _ in 0..60 {
        let handle = chance.below(6) as i64;
        ts += 1;
        match open.remove(&handle) {
            None => {
                let wide = if chance.below(3) == 0 { 400 } else { 3 };
                let value = (chance.below(4) > 0).then(|| (ts as i64, "z".repeat(wide)));
                let bytes = value.as_ref().map(|(n, s)| row(*n, s));
                entries.push(prewrite(handle, ts, bytes.as_deref()));
                open.insert(handle, (ts, value));
            }
            Some((start, value)) => {
                let bytes = value.as_ref().map(|(n, s)| row(*n, s));
                if chance.below(4) == 0 {
                    let long = bytes.is_some_and(|b| b.len() > 255);
                    entries.push(rollback(handle, start, long));
                } else {
                    entries.push(commit(handle, start, ts, bytes.as_deref()));
                    model.insert((handle, ts), value);
                }
            }
        }
    }
    (entries, model)
}

fn expected(model: &Model, ts: u64) -> Vec<(i64, Option<i64>, Option<String>)> {
    let newest = |handle: i64| model.range((handle, 0)..=(handle, ts)).next_back();
    let rows = (0..6).filter_map(|handle| {
        let (n, s) = newest(handle)?.1.clone()?;
        Some((handle, Some(n), Some(s)))
    });
    rows.collect()
}

#[test]
fn any_crash_and_replay_gives_the_same_rows() {
    for seed in 1..=150u64 {
        let mut chance = Seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let (entries, model) = log(&mut chance);
        let mut f = Fixture::new();
        f.machine.sync().unwrap();
        let mut at = 0;
        let mut crashes = 0;
        while at < entries.len() {
            let n = 1 + chance.below(5) as usize;
            let end = (at + n).min(entries.len());
            let batches = (at..end).map(|i| batch(R, 6 + i as u64, entries[i].clone()));
            f.machine.apply(batches.collect()).unwrap();
            at = end;
            match chance.below(6) {
                0 | 1 => assert_eq!(f.machine.sync().unwrap(), [(R, 5 + at as u64)]),
                2 if crashes < 8 => {
                    f = f.crash(chance.below(2) == 0);
                    at = (f.machine.recover().unwrap()[0].applied.index - 5) as usize;
                    crashes += 1;
                }
                _ => {}
            }
        }
        for ts in (10..75).step_by(5) {
            assert_eq!(f.rows(ts), expected(&model, ts), "seed {seed} at {ts}");
        }
    }
}
