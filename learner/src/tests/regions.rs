//! Splits, merges, snapshots taken in, replicas removed.

use super::fixture::*;
use crate::machine::ColumnMachine;
use damask_deltatree::{ColumnStore, Config, DeltaTree};
use damask_env::MemoryDisk;
use damask_raftstore::snapshot::{ChunkWriter, FAMILIES};
use damask_raftstore::{Applied, ApplyBatch, Effect, RangeSize, StateMachine};
use damask_types::codec::{encode_key, encode_key_ts};
use damask_types::key::row_range;
use damask_types::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const LEFT: RegionId = RegionId(2);

fn split_at(handle: i64) -> Effect {
    let all = row_range(T);
    let left = state(LEFT, KeyRange::new(all.start, key(handle)), 2);
    let right = state(R, KeyRange::new(key(handle), all.end), 2);
    Effect::Regions(vec![left, right])
}

fn split(f: &mut Fixture, handle: i64) {
    f.index += 1;
    let applied = Applied { index: f.index, term: 1 };
    f.machine
        .apply(vec![ApplyBatch { region: R, applied, effects: vec![split_at(handle)] }])
        .unwrap();
}

#[test]
fn locks_and_values_follow_their_keys() {
    let mut f = Fixture::new();
    let long = row(1, &"l".repeat(300));
    f.write(prewrite(1, 20, Some(&long)));
    f.write(prewrite(9, 20, Some(&long)));
    split(&mut f, 5);
    f.machine.apply(vec![batch(LEFT, 6, commit(1, 20, 30, Some(&long)))]).unwrap();
    assert_eq!(f.machine.stats().locks, 1);
    f.write(commit(9, 20, 30, Some(&long)));
    assert_eq!(f.rows(30).len(), 2);
    assert_eq!(f.machine.stats().locks, 0);
    assert_eq!(f.machine.sync().unwrap(), [(R, f.index), (LEFT, 6)]);
    let states = f.crash(false).machine.recover().unwrap();
    assert_eq!(states.iter().map(|s| s.region.epoch.version).collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn a_split_in_the_middle_of_a_call() {
    let mut f = Fixture::new();
    let long = row(1, &"l".repeat(300));
    let applied = Applied { index: 6, term: 1 };
    let mut both = prewrite(1, 20, Some(&long));
    both.extend(prewrite(9, 20, Some(&long)));
    let after = commit(9, 20, 30, Some(&long));
    let effects = vec![Effect::Write(both), split_at(5), Effect::Write(after)];
    let left = batch(LEFT, 7, commit(1, 20, 30, Some(&long)));
    f.machine.apply(vec![ApplyBatch { region: R, applied, effects }, left]).unwrap();
    f.index = 6;
    assert_eq!(f.rows(30).len(), 2);
    assert_eq!(f.machine.stats().locks, 0);
    // An older description changes nothing.
    let old = Effect::Regions(vec![state(R, row_range(T), 1)]);
    let applied = Applied { index: 8, term: 1 };
    f.machine.apply(vec![ApplyBatch { region: R, applied, effects: vec![old] }]).unwrap();
    assert_eq!(f.machine.slot(R).unwrap().seen.lock().state.region.epoch.version, 2);
}

/// The left part is taken in again, as the target's entry says: its tombstone comes along.
fn merge_left(version: u64) -> Effect {
    let all = row_range(T);
    let mut gone = state(LEFT, KeyRange::new(all.start.clone(), key(5)), version - 1);
    gone.tombstone = true;
    gone.merge.into = Some(R);
    Effect::Regions(vec![state(R, all, version), gone])
}

#[test]
fn a_merge_brings_rows_locks_and_values_together() {
    let mut f = Fixture::new();
    let long = row(1, &"l".repeat(300));
    f.write(prewrite(1, 20, Some(&long)));
    f.write(prewrite(9, 20, Some(&long)));
    split(&mut f, 5);
    let short = row(2, "two");
    f.machine.apply(vec![batch(LEFT, 6, prewrite(2, 20, Some(&short)))]).unwrap();
    f.machine.apply(vec![batch(LEFT, 7, commit(2, 20, 30, Some(&short)))]).unwrap();
    let before = f.machine.slot(R).unwrap().seen.lock().generation;
    // The source's last entries and the merge come in one call, as after a catch-up.
    let prepared = state(LEFT, KeyRange::new(row_range(T).start, key(5)), 3);
    let last = ApplyBatch {
        region: LEFT,
        applied: Applied { index: 8, term: 1 },
        effects: vec![Effect::Regions(vec![prepared])],
    };
    f.index += 1;
    let applied = Applied { index: f.index, term: 1 };
    let merge = ApplyBatch { region: R, applied, effects: vec![merge_left(4)] };
    f.machine.apply(vec![last, merge]).unwrap();
    assert!(f.machine.slot(R).unwrap().seen.lock().generation > before, "readers ask again");
    assert_eq!(f.machine.sync().unwrap(), [(R, f.index)], "the source counts no more");
    for mut f in [f.crash(false), f] {
        let slot = f.machine.slot(R).unwrap();
        assert_eq!(slot.seen.lock().locks.len(), 2, "the left one came along");
        assert_eq!(slot.hidden.lock().values.len(), 2);
        let left = f.machine.slot(LEFT).unwrap();
        assert!(left.seen.lock().state.tombstone && left.seen.lock().locks.is_empty());
        assert_eq!(f.rows(30).iter().map(|r| r.0).collect::<Vec<_>>(), [2]);
        // Who has only the part that was the target's may not serve the whole.
        let epoch = Epoch { conf_ver: 1, version: 2 };
        let old = f.reader().view(R, epoch, &[row_range(T)], Timestamp(30)).map(|_| ());
        assert_eq!(old.unwrap_err().kind(), ErrorKind::Reroute);
        let gone = f.reader().view(LEFT, epoch, &[row_range(T)], Timestamp(30)).map(|_| ());
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::Reroute);
        f.write(commit(1, 20, 30, Some(&long)));
        f.write(commit(9, 20, 30, Some(&long)));
        assert_eq!(f.rows(30).iter().map(|r| r.0).collect::<Vec<_>>(), [1, 2, 9]);
    }
}

/// A snapshot of the grown region comes where its part still lives.
#[test]
fn a_snapshot_replaces_the_regions_that_were_taken_in() {
    let mut f = Fixture::new();
    let value = row(1, "a");
    for handle in [1, 9] {
        f.write(prewrite(handle, 20, Some(&value)));
        f.write(commit(handle, 20, 30, Some(&value)));
    }
    split(&mut f, 5);
    f.machine.apply(vec![batch(LEFT, 6, prewrite(4, 90, Some(&value)))]).unwrap();
    let mut new = state(R, row_range(T), 5);
    new.applied = Applied { index: 50, term: 2 };
    let mut gone = state(LEFT, KeyRange::new(row_range(T).start, key(5)), 2);
    gone.tombstone = true;
    gone.merge.into = Some(R);
    f.machine.import(&new, std::slice::from_ref(&gone), snapshot()).unwrap();
    for f in [f.crash(false), f] {
        assert_eq!(f.machine.recover().unwrap(), [new.clone(), gone.clone()]);
        assert_eq!(f.rows(60).iter().map(|r| r.0).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(f.machine.stats().locks, 1, "only the snapshot's");
    }
}

/// A row store's content: rows 1 (two versions), 2 (deleted), 3 (long), 4 (locked, long), 5 (rolled
/// back), an index entry.
pub fn snapshot() -> Vec<Vec<u8>> {
    let [default, lock, write] = FAMILIES;
    let mut chunks = ChunkWriter::new();
    let ts = Timestamp;
    let long = row(3, &"n".repeat(300));
    chunks.push(default, &encode_key_ts(&key(3), ts(20)), &long);
    chunks.push(default, &encode_key_ts(&key(4), ts(70)), &long);
    let held = Lock::new(LockKind::Put, key(4), ts(70), 1);
    chunks.push(lock, &encode_key(&key(4)), &held.encode());
    let put = |start, value: Option<Vec<u8>>| Write::new(WriteKind::Put, ts(start), value).encode();
    chunks.push(write, &encode_key_ts(&key(1), ts(50)), &put(40, Some(row(12, "new"))));
    chunks.push(write, &encode_key_ts(&key(1), ts(30)), &put(20, Some(row(11, "old"))));
    let delete = Write::new(WriteKind::Delete, ts(40), None).encode();
    chunks.push(write, &encode_key_ts(&key(2), ts(50)), &delete);
    chunks.push(write, &encode_key_ts(&key(2), ts(30)), &put(20, Some(row(2, "two"))));
    chunks.push(write, &encode_key_ts(&key(3), ts(30)), &put(20, None));
    chunks.push(write, &encode_key_ts(&key(5), ts(20)), &Write::rollback(ts(20), true).encode());
    let index = damask_types::key::index_key(T, IndexId(1), &[Datum::Int(1)], Some(1));
    chunks.push(write, &encode_key_ts(&index, ts(30)), &put(20, Some(b"junk".to_vec())));
    chunks.finish()
}

#[test]
fn a_snapshot_replaces_all_and_is_durable() {
    let mut f = Fixture::new();
    let value = row(0, "before");
    f.write(prewrite(8, 20, Some(&value)));
    f.write(commit(8, 20, 30, Some(&value)));
    f.write(prewrite(7, 20, Some(&value)));
    let mut new = state(R, row_range(T), 3);
    new.applied = Applied { index: 50, term: 2 };
    f.machine.import(&new, &[], snapshot()).unwrap();
    for f in [f.crash(false), f] {
        assert_eq!(f.machine.recover().unwrap(), std::slice::from_ref(&new));
        let at30 = [(1, 11, "old".to_owned()), (2, 2, "two".into()), (3, 3, "n".repeat(300))];
        let at50 = [(1, 12, "new".to_owned()), (3, 3, "n".repeat(300))];
        let some = |rows: &[(i64, i64, String)]| -> Vec<_> {
            rows.iter().map(|(h, n, s)| (*h, Some(*n), Some(s.clone()))).collect()
        };
        assert_eq!(f.rows(49), some(&at30));
        assert_eq!(f.rows(50), some(&at50));
        assert_eq!(f.machine.stats().locks, 1, "only the snapshot's");
        let long = row(3, &"n".repeat(300));
        f.machine.apply(vec![batch(R, 51, commit(4, 70, 80, Some(&long)))]).unwrap();
        assert_eq!(f.rows(80).len(), 3);
        assert_eq!(f.machine.sync().unwrap(), [(R, 51)]);
    }
}

/// A learner that knows one table, and the DeltaTree below it.
fn over_a_tree(table: TableSchema) -> (Arc<DeltaTree>, ColumnMachine) {
    let tree = Arc::new(DeltaTree::open(Arc::new(MemoryDisk::new()), Config::small()).unwrap());
    let source = Arc::new(Source::default());
    source.catalog.lock().insert(T, Arc::new(table));
    let machine = ColumnMachine::open(tree.clone(), source).unwrap();
    (tree, machine)
}

/// The rows of a region that had none go straight into stable files; those of a later snapshot take
/// their place.
#[test]
fn a_snapshots_rows_need_no_delta() {
    let (tree, machine) = over_a_tree(schema(T, &[]));
    let mut new = state(R, row_range(T), 3);
    for (index, delta_rows) in [(50, 0), (60, 5)] {
        new.applied = Applied { index, term: 2 };
        machine.import(&new, &[], snapshot()).unwrap();
        let stats = tree.stats(T).unwrap();
        assert_eq!((stats.stable_rows, stats.delta_rows), (5, delta_rows), "at {index}");
        let handles = |ts| -> Vec<i64> {
            let rows = scan(&*tree.snapshot(T).unwrap(), damask_deltatree::HandleRange::ALL, ts);
            rows.iter().map(|row| row.0).collect()
        };
        assert_eq!((handles(29), handles(49), handles(50)), (vec![], vec![1, 2, 3], vec![1, 3]));
    }
}

/// A table may have no column but its handle.
#[test]
fn a_snapshot_of_rows_without_columns() {
    let mut table = schema(T, &[]);
    table.columns.truncate(1);
    let (tree, machine) = over_a_tree(table);
    let mut chunks = ChunkWriter::new();
    for handle in 1..=3 {
        let value = damask_types::row::encode_row(&[]);
        let write = Write::new(WriteKind::Put, Timestamp(20), Some(value)).encode();
        chunks.push(FAMILIES[2], &encode_key_ts(&key(handle), Timestamp(30)), &write);
    }
    let mut new = state(R, row_range(T), 3);
    new.applied = Applied { index: 50, term: 2 };
    machine.import(&new, &[], chunks.finish()).unwrap();
    let all = [damask_deltatree::HandleRange::ALL];
    assert_eq!(tree.snapshot(T).unwrap().count(&all, Timestamp(30)).unwrap(), 3);
}

/// Where a replica of another region lives, its rows stay.
#[test]
fn a_snapshot_leaves_the_rows_of_others() {
    let mut f = Fixture::new();
    let value = row(1, "a");
    for handle in [6, 9] {
        f.write(prewrite(handle, 20, Some(&value)));
        f.write(commit(handle, 20, 30, Some(&value)));
    }
    let mut new = state(LEFT, KeyRange::new(row_range(T).start, key(7)), 5);
    new.applied = Applied { index: 50, term: 2 };
    f.machine.import(&new, &[], snapshot()).unwrap();
    assert_eq!(f.rows(60).iter().map(|r| r.0).collect::<Vec<_>>(), [1, 3, 6, 9]);
}

/// A delta that is full is merged first, as for all rows.
#[test]
fn a_snapshot_waits_for_a_full_store() {
    let f = Fixture::new();
    f.store.full.store(2, Ordering::SeqCst);
    let mut new = state(R, row_range(T), 3);
    new.applied = Applied { index: 50, term: 2 };
    f.machine.import(&new, &[], snapshot()).unwrap();
    assert_eq!(f.rows(50).iter().map(|r| r.0).collect::<Vec<_>>(), [1, 3]);
}

/// Whether what a fence names is still there or gone: a record that was noted on is a row as any
/// other below its fence, and from there on it is none.
#[test]
fn a_snapshots_fenced_row_is_seen_up_to_its_fence() {
    let f = Fixture::new();
    let [.., family] = FAMILIES;
    let mut chunks = ChunkWriter::new();
    let mut add = |kind, handle, at: u64, fence: Option<u64>| {
        // Of rows 7 and 8 the long values are gone.
        let short = kind == WriteKind::Put && (handle < 7 || fence.is_none());
        let value = short.then(|| row(at as i64, "a"));
        let mut write = Write::new(kind, Timestamp(at - 5), value);
        write.overlapped_rollback = fence.is_some();
        write.gc_fence = fence.map(Timestamp);
        chunks.push(family, &encode_key_ts(&key(handle), Timestamp(at)), &write.encode());
    };
    use WriteKind::{Delete, Lock, Put};
    // Of row 1 all are there, of row 2 a deletion is.
    add(Put, 1, 50, None);
    add(Lock, 1, 45, None);
    add(Put, 1, 40, Some(50));
    add(Put, 1, 30, Some(40));
    add(Delete, 2, 50, Some(0));
    add(Put, 2, 40, Some(50));
    // What followed is gone: of row 3, of row 4 with another one behind it, of row 5 with an older
    // one left. Nothing has followed row 6.
    add(Put, 3, 40, Some(50));
    add(Put, 4, 60, None);
    add(Put, 4, 40, Some(50));
    add(Put, 5, 40, Some(50));
    add(Put, 5, 30, None);
    add(Put, 6, 40, Some(0));
    // A note that came after GC.
    add(Put, 7, 50, None);
    add(Put, 7, 40, Some(50));
    add(Put, 8, 40, Some(50));
    f.machine.import(&state(R, row_range(T), 3), &[], chunks.finish()).unwrap();
    let seen = |ts: u64| -> Vec<_> {
        f.rows(ts).into_iter().map(|(handle, number, _)| (handle, number.unwrap())).collect()
    };
    assert_eq!(seen(39), [(1, 30), (5, 30)]);
    assert_eq!(seen(49), [(1, 40), (2, 40), (3, 40), (4, 40), (5, 40), (6, 40)]);
    assert_eq!(seen(50), [(1, 50), (6, 40), (7, 50)]);
    assert_eq!(seen(60), [(1, 50), (4, 60), (6, 40), (7, 50)]);
}

#[test]
fn a_damaged_snapshot_is_never_served() {
    let f = Fixture::new();
    f.machine.sync().unwrap();
    let mut chunks = snapshot();
    chunks[0][100] ^= 1;
    let failed = f.machine.import(&state(R, row_range(T), 3), &[], chunks).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Corrupt);
    let epoch = Epoch { conf_ver: 1, version: 1 };
    assert!(f.reader().view(R, epoch, &[row_range(T)], Timestamp(90)).is_err());
    let again = f.crash(false);
    assert_eq!(again.machine.recover().unwrap()[0].region.epoch.version, 1, "the old state");
}

#[test]
fn a_removed_replica_leaves_its_neighbour_alone() {
    let mut f = Fixture::new();
    let value = row(1, "a");
    for handle in [1, 9] {
        f.write(prewrite(handle, 20, Some(&value)));
        f.write(commit(handle, 20, 30, Some(&value)));
    }
    split(&mut f, 5);
    // Its description is older than the split: the left part is another region's now.
    f.machine.destroy(&state(R, row_range(T), 2)).unwrap();
    for f in [f.crash(false), f] {
        assert_eq!(f.rows(1000), [(1, Some(1), Some("a".into()))]);
        let states = f.machine.recover().unwrap();
        assert!(states.iter().any(|s| s.region.id == R && s.tombstone));
    }
}

#[test]
fn a_learner_has_nothing_to_export() {
    let f = Fixture::new();
    let region = state(R, row_range(T), 1).region;
    assert_eq!(f.machine.export(&region).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(f.machine.size(&KeyRange::all(), 2).unwrap(), RangeSize::default());
}
