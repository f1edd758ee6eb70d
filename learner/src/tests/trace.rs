//! A recorded stream gives the same rows in any store it is told to, and a damaged one is named.

use super::fixture::*;
use super::regions::snapshot;
use crate::trace::{OnEnd, Recorder, Replay, ReplayPlan, checksum, replay};
use crate::{ColumnMachine, SchemaSource};
use damask_deltatree::rivals::{LsmColumns, LsmConfig};
use damask_deltatree::{ColumnStore, Config, DeltaTree, MemoryColumnStore};
use damask_env::{Clock, Disk, Fault, MemoryDisk, RealClock};
use damask_raftstore::{Applied, ApplyBatch, Effect, StateMachine};
use damask_types::key::row_range;
use damask_types::*;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LEFT: RegionId = RegionId(2);
const NAME: &str = "trace";

/// A learner that is listened to.
struct Listened {
    disk: Arc<MemoryDisk>,
    store: Arc<Journal>,
    recorder: Arc<Recorder>,
    machine: Arc<dyn StateMachine>,
    /// What was said of the recorder's end.
    told: Arc<Mutex<Vec<String>>>,
}

fn source() -> Arc<dyn SchemaSource> {
    let source = Source::default();
    source.catalog.lock().insert(T, Arc::new(schema(T, &[])));
    Arc::new(source)
}

fn listened(store: Arc<Journal>, bytes_max: u64) -> Listened {
    let disk = Arc::new(MemoryDisk::default());
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = told.clone();
    let on_end: OnEnd = Box::new(move |why| telling.lock().push(why.to_owned()));
    let recorder = Recorder::create(&*disk, NAME, bytes_max, on_end).unwrap();
    let machine = ColumnMachine::open(store.clone(), recorder.schemas(source())).unwrap();
    let machine = recorder.machine(Arc::new(machine)).unwrap();
    Listened { disk, store, recorder, machine, told }
}

impl Listened {
    fn trace(&self) -> Vec<u8> {
        self.recorder.flush();
        self.disk.map(NAME).unwrap().to_vec()
    }
}

fn regions(region: RegionId, index: u64, states: Vec<damask_raftstore::RegionState>) -> ApplyBatch {
    let applied = Applied { index, term: 1 };
    ApplyBatch { region, applied, effects: vec![Effect::Regions(states)] }
}

/// Region 1: rows, short, long and deleted ones.
fn begin(machine: &dyn StateMachine) {
    machine.apply(vec![regions(R, 5, vec![state(R, row_range(T), 1)])]).unwrap();
    let long = row(3, &"l".repeat(300));
    let mut index = 5;
    let mut write = |records| {
        index += 1;
        machine.apply(vec![batch(R, index, records)]).unwrap();
    };
    for handle in 0..40 {
        let value = row(handle, "some");
        let value = if handle % 7 == 3 { &long } else { &value };
        write(prewrite(handle, 20, Some(value)));
        write(commit(handle, 20, 30, Some(value)));
    }
    write(prewrite(2, 40, None));
    write(commit(2, 40, 50, None));
    write(prewrite(9, 40, Some(&long)));
    write(rollback(9, 40, true));
}

/// It splits, and a snapshot takes the place of both parts.
fn go_on(machine: &dyn StateMachine) {
    let all = row_range(T);
    let left = state(LEFT, KeyRange::new(all.start.clone(), key(5)), 2);
    let right = state(R, KeyRange::new(key(5), all.end), 2);
    machine.apply(vec![regions(R, 100, vec![left.clone(), right])]).unwrap();
    let value = row(8, "of the left");
    machine.apply(vec![batch(LEFT, 6, prewrite(4, 60, Some(&value)))]).unwrap();
    machine.apply(vec![batch(LEFT, 7, commit(4, 60, 65, Some(&value)))]).unwrap();
    let mut new = state(R, KeyRange::new(key(5), row_range(T).end), 3);
    new.applied = Applied { index: 150, term: 2 };
    let mut whole = state(R, row_range(T), 5);
    whole.applied = new.applied;
    let mut gone = left;
    gone.tombstone = true;
    gone.merge.into = Some(R);
    machine.import(&whole, std::slice::from_ref(&gone), snapshot()).unwrap();
    for handle in 100..120 {
        let value = row(handle, "after");
        machine.apply(vec![batch(R, 151, prewrite(handle, 90, Some(&value)))]).unwrap();
        machine.apply(vec![batch(R, 152, commit(handle, 90, 95, Some(&value)))]).unwrap();
    }
    machine.sync().unwrap();
}

fn stores() -> Vec<(&'static str, Arc<dyn ColumnStore>)> {
    let tree = DeltaTree::open(Arc::new(MemoryDisk::default()), Config::small()).unwrap();
    vec![
        ("memory", Arc::new(MemoryColumnStore::default())),
        ("deltatree", Arc::new(tree)),
        ("lsm", Arc::new(LsmColumns::in_memory(LsmConfig::default()))),
    ]
}

fn told(trace: &[u8], store: &Arc<dyn ColumnStore>) -> crate::Result<Replay> {
    let plan = ReplayPlan { sync_every: 5, ..ReplayPlan::default() };
    replay(trace, store, &plan, &RealClock::default())
}

#[test]
fn every_store_ends_with_the_rows_of_the_one_that_was_listened_to() {
    for is_long in [false, true] {
        let listened = listened(Arc::default(), 1 << 20);
        begin(&*listened.machine);
        if is_long {
            go_on(&*listened.machine);
        }
        assert_eq!(listened.recorder.ended(), None);
        let trace = listened.trace();
        for (name, store) in stores() {
            let done = told(&trace, &store).unwrap();
            assert!(!done.incomplete && done.rows > 40, "{name}: {done:?}");
            assert_eq!(done.tables.keys().collect::<Vec<_>>(), [&T]);
            for ts in [Timestamp(30), Timestamp(65), Timestamp::MAX] {
                let sum = |store: &dyn ColumnStore| checksum(store, &done.tables, ts).unwrap();
                assert_eq!(sum(&*store), sum(&*listened.store), "{name} at {ts}, {is_long}");
                if !is_long {
                    assert_ne!(sum(&*store), sum(&MemoryColumnStore::default()), "rows count");
                }
            }
        }
    }
}

#[test]
fn a_damaged_record_is_named_and_a_short_file_ends_early() {
    let listened = listened(Arc::default(), 1 << 20);
    begin(&*listened.machine);
    let trace = listened.trace();
    let whole = told(&trace, &stores()[0].1).unwrap();
    for at in [3, 20, trace.len() / 2, trace.len() - 1] {
        let mut damaged = trace.clone();
        damaged[at] ^= 4;
        let told = told(&damaged, &stores()[0].1);
        // a wrong length may also reach behind the end
        let is_seen =
            told.as_ref().map_or_else(|e| e.kind() == ErrorKind::Corrupt, |r| r.incomplete);
        assert!(is_seen, "byte {at}: {told:?}");
    }
    let short = told(&trace[..trace.len() - 3], &stores()[0].1).unwrap();
    assert!(short.incomplete);
    assert_eq!(short.records, whole.records - 1);
}

#[test]
fn a_full_tape_ends_but_the_learner_goes_on() {
    let listened = listened(Arc::default(), 2000);
    begin(&*listened.machine);
    assert!(listened.recorder.ended().is_some());
    let told_of_it = listened.told.lock().clone();
    assert!(told_of_it.len() == 1 && told_of_it[0].contains("2000 bytes"), "{told_of_it:?}");
    let trace = listened.disk.map(NAME).unwrap();
    assert!(trace.len() <= 2000);
    let short = told(&trace, &stores()[0].1).unwrap();
    assert!(!short.incomplete && short.records > 3, "{short:?}");
    let rows = scan(&*listened.store.snapshot(T).unwrap(), damask_deltatree::HandleRange::ALL, 60);
    assert_eq!(rows.len(), 39);
}

#[test]
fn a_full_disk_ends_the_tape_and_not_the_learner() {
    let listened = listened(Arc::default(), 1 << 20);
    begin(&*listened.machine);
    let before = listened.trace();
    listened.disk.set_fault(Fault { capacity: Some(0), ..Fault::default() });
    go_on(&*listened.machine);
    assert_eq!(listened.told.lock().len(), 1, "{:?}", listened.told.lock());
    assert!(listened.recorder.ended().is_some());
    let snapshot = listened.store.snapshot(T).unwrap();
    let after = damask_deltatree::HandleRange { first: 100, last: 119 };
    assert_eq!(scan(&*snapshot, after, 95).len(), 20);
    listened.disk.set_fault(Fault::default());
    let short = told(&listened.trace()[..before.len()], &stores()[0].1).unwrap();
    assert!(!short.incomplete && short.rows > 40);
}

#[test]
fn a_region_of_before_is_left_out_until_its_snapshot() {
    let first = listened(Arc::default(), 1 << 20);
    begin(&*first.machine);
    first.machine.sync().unwrap();
    let second = listened(first.store.clone(), 1 << 20);
    second.machine.apply(vec![batch(R, 99, prewrite(1, 70, None))]).unwrap();
    let empty = told(&second.trace(), &stores()[0].1).unwrap();
    assert_eq!(empty.rows, 0);
    go_on(&*second.machine);
    for (name, store) in stores() {
        let done = told(&second.trace(), &store).unwrap();
        let sum = |store: &dyn ColumnStore| checksum(store, &done.tables, Timestamp::MAX).unwrap();
        assert_eq!(sum(&*store), sum(&*second.store), "{name}");
    }
}

/// A clock that goes on by a millisecond whenever it is read.
#[derive(Default)]
struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn wall_ms(&self) -> u64 {
        0
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::SeqCst))
    }
}

#[test]
fn a_rate_is_kept() {
    let listened = listened(Arc::default(), 1 << 20);
    begin(&*listened.machine);
    let trace = listened.trace();
    let plan = ReplayPlan { rows_per_second: Some(200), ..ReplayPlan::default() };
    let store = &stores()[0].1;
    let done = replay(&trace, store, &plan, &Ticks::default()).unwrap();
    assert!(done.taken >= Duration::from_millis(done.rows * 5), "{done:?}");
}
