//! Transactions that end in one phase, that commit asynchronously, or that lock before they write:
//! what the row side decides about them becomes the same rows at the same versions.

use super::fixture::*;
use damask_deltatree::HandleRange;
use damask_raftstore::StateMachine;
use damask_types::key::handle_range;
use damask_types::*;

const EPOCH: Epoch = Epoch { conf_ver: 1, version: 1 };

fn write(handle: i64, start_ts: u64, commit_ts: u64, value: Option<&[u8]>) -> Vec<Record> {
    let (key, start_ts) = (key(handle), Timestamp(start_ts));
    let kind = if value.is_some() { WriteKind::Put } else { WriteKind::Delete };
    let mut records = Vec::new();
    let mut short = value.map(<[u8]>::to_vec);
    if let Some(value) = short.take_if(|value| value.len() > mutation::SHORT_VALUE_MAX) {
        records.push(Record::Value { key: key.clone(), start_ts, value });
    }
    let write = Write::new(kind, start_ts, short);
    records.push(Record::Write { key, commit_ts: Timestamp(commit_ts), write });
    records
}

fn lock(handle: i64, kind: LockKind, start_ts: u64) -> Lock {
    Lock::new(kind, key(handle), Timestamp(start_ts), 1_000)
}

fn locks(f: &Fixture, ts: u64) -> usize {
    match f.reader().view(R, EPOCH, &[handle_range(T, 0, 99)], Timestamp(ts)) {
        Ok(_) => 0,
        Err(crate::ReadError::Locked(locks)) => locks.len(),
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn one_phase_writes_are_rows_without_ever_a_lock() {
    let mut f = Fixture::new();
    let (short, long) = (row(1, "a"), row(2, &"b".repeat(400)));
    let mut records = write(1, 20, 25, Some(&short));
    records.extend(write(2, 20, 25, Some(&long)));
    f.write(records);
    assert_eq!((f.rows(24).len(), f.rows(25).len(), locks(&f, 99)), (0, 2, 0));
    assert_eq!(f.rows(25)[1].2.as_deref().map(str::len), Some(400));
    f.write(write(1, 30, 31, None));
    assert_eq!((f.rows(30).len(), f.rows(31).len()), (2, 1));
    let stats = f.machine.stats();
    assert_eq!((stats.rows, stats.last_commit_ts), (3, Timestamp(31)));
    // Nothing of it waits for a commit that will not come.
    let slot = f.machine.slot(R).expect("a region");
    assert!(slot.hidden.lock().values.is_empty());
}

#[test]
fn a_crash_replays_one_phase_writes_to_the_same_rows() {
    let mut f = Fixture::new();
    let long = row(2, &"b".repeat(400));
    f.machine.sync().expect("synced");
    f.write(write(2, 20, 25, Some(&long)));
    let mut g = f.crash(true);
    g.write(write(2, 20, 25, Some(&long)));
    assert_eq!(g.rows(99), f.rows(99));
    assert_eq!(g.rows(99).len(), 1);
}

#[test]
fn a_pessimistic_lock_blocks_no_reader_until_it_is_prewritten() {
    let mut f = Fixture::new();
    let value = row(1, "a");
    let pessimistic = lock(5, LockKind::Pessimistic, 20);
    f.write(vec![Record::Lock { key: key(5), lock: pessimistic }]);
    assert_eq!((locks(&f, 99), f.machine.stats().locks), (0, 0));
    f.write(prewrite(5, 20, Some(&value)));
    assert_eq!(locks(&f, 99), 1);
    f.write(commit(5, 20, 30, Some(&value)));
    assert_eq!((locks(&f, 99), f.rows(30).len()), (0, 1));
    // Locked and ended in one phase.
    f.write(vec![Record::Lock { key: key(6), lock: lock(6, LockKind::Pessimistic, 40) }]);
    let mut records = write(6, 40, 45, Some(&value));
    records.push(Record::Unlock { key: key(6) });
    f.write(records);
    assert_eq!((locks(&f, 99), f.rows(44).len(), f.rows(45).len()), (0, 1, 2));
}

#[test]
fn an_async_commit_blocks_readers_from_its_lowest_version_on() {
    let mut f = Fixture::new();
    let value = row(1, "a");
    let mut undecided = lock(5, LockKind::Put, 20);
    undecided.min_commit_ts = Timestamp(50);
    undecided.secondaries = Some(vec![key(6)]);
    undecided.short_value = Some(value.clone());
    f.write(vec![Record::Lock { key: key(5), lock: undecided.clone() }]);
    assert_eq!((locks(&f, 49), locks(&f, 50)), (0, 1));
    // A rollback of another transaction at a version that it may commit at, and then does.
    undecided.rollback_ts.push(Timestamp(60));
    let protected = Write::rollback(Timestamp(60), true);
    f.write(vec![
        Record::Lock { key: key(5), lock: undecided },
        Record::Write { key: key(5), commit_ts: Timestamp(60), write: protected },
    ]);
    let mut write = Write::new(WriteKind::Put, Timestamp(20), Some(value));
    write.overlapped_rollback = true;
    f.write(vec![
        Record::Write { key: key(5), commit_ts: Timestamp(60), write },
        Record::Unlock { key: key(5) },
    ]);
    assert_eq!((locks(&f, 99), f.rows(59).len(), f.rows(60).len()), (0, 0, 1));
    let view = f.reader().view(R, EPOCH, &[handle_range(T, 0, 99)], Timestamp(60)).expect("a view");
    assert_eq!(view.handles, [HandleRange { first: 0, last: 99 }]);
}
