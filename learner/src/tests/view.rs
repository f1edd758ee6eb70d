//! Learner reads: what they wait for, what they refuse.

use super::fixture::*;
use crate::{LearnerRead, ReadError, ReadIndex};
use damask_deltatree::HandleRange;
use damask_raftstore::{Applied, ApplyBatch, Done, Effect, Error, ReadPermit, StateMachine};
use damask_types::key::{handle_range, row_range};
use damask_types::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const EPOCH: Epoch = Epoch { conf_ver: 1, version: 1 };

fn view(f: &Fixture, first: i64, last: i64, ts: u64) -> Result<crate::ColumnView, ReadError> {
    f.reader().view(R, EPOCH, &[handle_range(T, first, last)], Timestamp(ts))
}

fn locked(result: Result<crate::ColumnView, ReadError>) -> Vec<KeyLock> {
    match result {
        Err(ReadError::Locked(locks)) => locks,
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("not locked"),
    }
}

#[test]
fn a_lock_blocks_later_reads_of_its_row() {
    let mut f = Fixture::new();
    let value = row(1, "a");
    f.write(prewrite(5, 20, Some(&value)));
    assert!(view(&f, 0, 9, 19).is_ok(), "before the transaction");
    assert!(view(&f, 0, 4, 99).is_ok() && view(&f, 6, 9, 99).is_ok(), "other rows");
    let locks = locked(view(&f, 0, 9, 20));
    assert_eq!((locks.len(), &locks[0].key), (1, &key(5)));
    assert_eq!((locks[0].lock.start_ts, &locks[0].lock.primary), (Timestamp(20), &key(5)));
    f.write(commit(5, 20, 30, Some(&value)));
    let view = view(&f, 0, 9, 30).unwrap();
    assert_eq!(view.handles, [HandleRange { first: 0, last: 9 }]);
    assert_eq!((view.table, view.applied.index), (T, f.index));
    assert_eq!(scan(&*view.snapshot, view.handles[0], 30).len(), 1);
}

#[test]
fn ranges_are_clipped_merged_and_of_one_table() {
    let mut f = Fixture::new();
    let range = |first, last| handle_range(T, first, last);
    let ranges = [range(7, 8), range(1, 3), range(4, 5)];
    let view = f.reader().view(R, EPOCH, &ranges, Timestamp(9)).unwrap();
    let handles = |first, last| HandleRange { first, last };
    assert_eq!(view.handles, [handles(1, 5), handles(7, 8)]);
    let other = [range(1, 2), row_range(TableId(7))];
    for ranges in [&other[..], &[]] {
        let refused = f.reader().view(R, EPOCH, ranges, Timestamp(9)).map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
    }
    f.index += 1;
    let narrow = state(R, KeyRange::new(key(3), key(8)), 2);
    let applied = Applied { index: f.index, term: 1 };
    let effects = vec![Effect::Regions(vec![narrow])];
    f.machine.apply(vec![ApplyBatch { region: R, applied, effects }]).unwrap();
    let stale = f.reader().view(R, EPOCH, &ranges, Timestamp(9)).map(|_| ()).unwrap_err();
    assert!(matches!(stale, ReadError::Region(Error::EpochNotMatch { .. })));
    let epoch = Epoch { version: 2, conf_ver: 9 };
    let view = f.reader().view(R, epoch, &ranges, Timestamp(9)).unwrap();
    assert_eq!(view.handles, [handles(3, 5), handles(7, 7)]);
}

#[test]
fn a_change_between_check_and_snapshot_is_seen() {
    let f = Fixture::new();
    let machine = f.machine.clone();
    let once = AtomicBool::new(true);
    *f.store.before_snapshot.lock() = Some(Box::new(move || {
        if once.swap(false, Ordering::SeqCst) {
            // The same description again: an epoch alone would not tell.
            machine.import(&state(R, row_range(T), 1), &[], vec![]).unwrap();
        }
    }));
    let refused = view(&f, 0, 9, 99).map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Retry);
    assert!(view(&f, 0, 9, 99).is_ok());
}

/// The safe point rises while the view waits, and what a read there would see is merged away.
#[test]
fn a_view_below_a_safe_point_that_rose_meanwhile_is_refused() {
    let f = Fixture::new();
    let safe_point = Arc::new(AtomicU64::new(50));
    let now = safe_point.clone();
    let read = Arc::new(move || Timestamp(now.load(Ordering::SeqCst)));
    let reader = f.reader().with_safe_point(read);
    let ranges = [handle_range(T, 0, 9)];
    let view = |ts| reader.view(R, EPOCH, &ranges, Timestamp(ts)).map(|_| ());
    assert!(view(50).is_ok(), "the safe point itself is kept");
    assert_eq!(view(49).unwrap_err().kind(), ErrorKind::TooOld);
    let rises = safe_point.clone();
    *f.store.before_snapshot.lock() = Some(Box::new(move || rises.store(60, Ordering::SeqCst)));
    let refused = view(55).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TooOld, "{refused}");
    assert!(view(60).is_ok());
}

#[test]
fn a_removed_or_unknown_region_is_not_here() {
    let f = Fixture::new();
    f.machine.destroy(&state(R, row_range(T), 1)).unwrap();
    assert_eq!(view(&f, 0, 9, 99).map(|_| ()).unwrap_err().kind(), ErrorKind::Reroute);
    let refused = f.reader().view(RegionId(9), EPOCH, &[row_range(T)], Timestamp(9));
    assert_eq!(refused.map(|_| ()).unwrap_err().kind(), ErrorKind::Reroute);
}

/// Never answers, or answers from ahead of the machine.
struct Odd {
    keep: parking_lot::Mutex<Vec<Done<ReadPermit>>>,
    ahead: bool,
}

impl ReadIndex for Odd {
    fn ask(&self, _: RegionId, _: Epoch, _: &[KeyRange], _: Timestamp) -> Result<u64, ReadError> {
        Ok(1000)
    }

    fn wait(&self, _: RegionId, _: Epoch, _: u64, done: Done<ReadPermit>) {
        match self.ahead {
            true => done(Ok(ReadPermit {
                region: Arc::new(state(R, row_range(T), 1).region),
                term: 1,
                applied: Applied { index: 1000, term: 1 },
            })),
            false => self.keep.lock().push(done),
        }
    }
}

/// A leader with an unfinished prewrite on row 5, which could commit from version 40 on.
struct Pending(parking_lot::Mutex<Vec<(Vec<KeyRange>, Timestamp)>>);

impl ReadIndex for Pending {
    fn ask(
        &self,
        _: RegionId,
        _: Epoch,
        ranges: &[KeyRange],
        ts: Timestamp,
    ) -> Result<u64, ReadError> {
        self.0.lock().push((ranges.to_vec(), ts));
        if ts < Timestamp(40) || !ranges.iter().any(|range| range.contains(&key(5))) {
            return Ok(7);
        }
        let lock = Lock::new(LockKind::Put, key(5), Timestamp(20), 1);
        Err(ReadError::Locked(vec![KeyLock { key: key(5), lock }]))
    }

    fn wait(&self, region: RegionId, _: Epoch, index: u64, done: Done<ReadPermit>) {
        assert_eq!(index, 7, "what the leader has said");
        let region = Arc::new(state(region, row_range(T), 1).region);
        done(Ok(ReadPermit { region, term: 1, applied: Applied { index: 7, term: 1 } }));
    }
}

#[test]
fn the_leader_is_asked_at_the_timestamp_about_what_is_read() {
    let mut f = Fixture::new();
    f.write(vec![]);
    f.write(vec![]);
    let leader = Arc::new(Pending(parking_lot::Mutex::default()));
    let reader = LearnerRead::new(leader.clone(), f.machine.clone(), Duration::from_secs(5));
    let view =
        |first, last, ts| reader.view(R, EPOCH, &[handle_range(T, first, last)], Timestamp(ts));
    assert!(view(0, 9, 39).is_ok() && view(6, 9, 99).is_ok());
    assert_eq!(locked(view(0, 9, 40))[0].key, key(5));
    let asked: Vec<_> = leader.0.lock().iter().map(|(_, ts)| ts.0).collect();
    assert_eq!(asked, [39, 99, 40]);
}

#[test]
fn no_permit_no_view() {
    let f = Fixture::new();
    for ahead in [false, true] {
        let odd = Arc::new(Odd { keep: Default::default(), ahead });
        let reader = LearnerRead::new(odd, f.machine.clone(), Duration::from_millis(20));
        let refused = reader.view(R, EPOCH, &[row_range(T)], Timestamp(9)).map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Retry);
        assert_eq!(matches!(refused, ReadError::Timeout { .. }), !ahead);
    }
}
