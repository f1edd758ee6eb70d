//! Every schedule (up to a few preemptions) of the files that threads share without a log between
//! them: `max_ts` beside the table of locks, the way out of that table, and latches. Each property
//! also has the wrong order, or a missing fence, beside it, which must fail: else the model sees
//! nothing.
//!
//! The files are compiled a second time here, over loom's locks and atomics (`sync`).
#![allow(dead_code, reason = "of each file only a part is run")]

mod sync {
    //! What `src/sync.rs` has, by loom. Patience never ends here: a lost wake-up is a deadlock,
    //! which loom reports.

    pub(crate) use loom::sync::Condvar;
    pub(crate) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use std::cell::Cell;
    use std::ops::{Deref, DerefMut};
    use std::time::Duration;

    loom::thread_local! {
        /// This thread goes through no fence: what must fail.
        pub(crate) static UNFENCED: Cell<bool> = Cell::new(false);
    }

    pub(crate) fn fence(order: Ordering) {
        if !UNFENCED.with(Cell::get) {
            loom::sync::atomic::fence(order);
        }
    }

    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    pub(crate) struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().expect("no panic under a lock")))
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            self.0.as_ref().expect("taken only while it waits")
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("taken only while it waits")
        }
    }

    pub(crate) fn wait_for<T>(
        condvar: &Condvar,
        guard: &mut MutexGuard<'_, T>,
        _: Duration,
    ) -> bool {
        let held = guard.0.take().expect("taken only while it waits");
        guard.0 = Some(condvar.wait(held).expect("no panic under a lock"));
        false
    }
}

#[path = "../src/concurrency/exit.rs"]
mod exit;
#[path = "../src/latch/slots.rs"]
mod slots;
#[path = "../src/concurrency/table.rs"]
mod table;

use damask_types::{KeyRange, LockKind, Timestamp};
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use sync::{AtomicU64, Ordering};
use table::{Pending, Table};

/// Switches of threads where none has to switch, in one schedule.
const PREEMPTIONS: usize = 3;
const START: Timestamp = Timestamp(5);
const READ: Timestamp = Timestamp(10);

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

/// What each property says when it is broken.
const MISSED: &str = "below a read that missed it";
const TWO: &str = "two at once";
/// As loom says that nobody can go on.
const ASLEEP: &str = "deadlock";

/// Does this thread go without fences?
fn unfence(without: bool) {
    sync::UNFENCED.with(|unfenced| unfenced.set(without));
}

/// Does some schedule break this property, and not something else?
fn breaks(property: &str, model: impl Fn() + Sync + Send + 'static) -> bool {
    let explored = std::panic::AssertUnwindSafe(|| explore(model));
    let Err(panic) = std::panic::catch_unwind(explored) else { return false };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
    assert!(text.contains(property), "failed by another cause: {text}");
    true
}

/// What is applied: the version of the one commit, or 0.
type Engine = Arc<AtomicU64>;

fn publish(table: &Arc<Table>) -> table::Guard {
    let pending = Pending { start_ts: START, primary: b"k".to_vec(), ttl_ms: 1, txn_size: 1 };
    table.publish(pending, std::iter::once((&b"k"[..], LockKind::Put)), START.next())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    Right,
    /// Looks at `max_ts` before its lock can be seen.
    LooksFirst,
    /// Lets the lock go before the commit can be read.
    LetsGoFirst,
    /// No fence between its lock and its look at `max_ts`.
    Unfenced,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Right,
    ByRange,
    /// Looks for locks before its read is known.
    LooksFirst,
    /// Takes its snapshot before it looks for locks.
    SnapshotFirst,
    /// No fence between `max_ts` and its look at the table.
    Unfenced,
}

/// A commit in one phase; its version.
fn write(table: &Arc<Table>, engine: &Engine, writer: Writer) -> u64 {
    let before = table.max_ts().next().max(START.next()).0;
    unfence(writer == Writer::Unfenced);
    let guard = publish(table);
    let commit_ts = match writer {
        Writer::LooksFirst => before,
        _ => guard.min_commit_ts().0,
    };
    if writer == Writer::LetsGoFirst {
        drop(guard);
        engine.store(commit_ts, Ordering::Release);
    } else {
        engine.store(commit_ts, Ordering::Release);
        drop(guard);
    }
    commit_ts
}

/// A read at 10: what it found, or `None` if a lock was in its way.
fn read(table: &Table, engine: &Engine, reader: Reader) -> Option<u64> {
    let blocked = || match (table.is_empty(), reader) {
        (true, _) => false,
        (_, Reader::ByRange) => !table.blocking_range(&KeyRange::all(), READ, &[], 9).is_empty(),
        _ => table.blocking(b"k", READ, &[]).is_some(),
    };
    unfence(reader == Reader::Unfenced);
    match reader {
        Reader::Right | Reader::ByRange | Reader::Unfenced => {
            table.read(READ);
            (!blocked()).then(|| engine.load(Ordering::Acquire))
        }
        Reader::LooksFirst => {
            let blocked = blocked();
            table.read(READ);
            (!blocked).then(|| engine.load(Ordering::Acquire))
        }
        Reader::SnapshotFirst => {
            table.read(READ);
            let found = engine.load(Ordering::Acquire);
            (!blocked()).then_some(found)
        }
    }
}

/// `snapshot_read`: what a read at 10 did not find is not below it in the end.
fn one_writer(writer: Writer, readers: &'static [Reader]) -> impl Fn() + Sync + Send + 'static {
    move || {
        let table = Arc::new(Table::default());
        let engine: Engine = Arc::new(AtomicU64::new(0));
        let spawned: Vec<_> = readers
            .iter()
            .map(|reader| {
                let (table, engine) = (table.clone(), engine.clone());
                thread::spawn(move || read(&table, &engine, *reader))
            })
            .collect();
        let commit_ts = write(&table, &engine, writer);
        for reader in spawned {
            if reader.join().expect("no panic") == Some(0) {
                assert!(commit_ts > READ.0, "a commit at {commit_ts} {MISSED}");
            }
        }
        assert!(table.is_empty());
    }
}

#[test]
fn a_read_sees_the_lock_or_the_commit_or_is_below_it() {
    explore(one_writer(Writer::Right, &[Reader::Right]));
    explore(one_writer(Writer::Right, &[Reader::ByRange]));
}

#[test]
fn readers_that_share_a_timestamp_are_both_safe() {
    explore(one_writer(Writer::Right, &[Reader::Right, Reader::Right]));
}

/// A model that fails by itself proves nothing of the property.
#[test]
#[should_panic(expected = "failed by another cause: a bug of the model")]
fn another_failure_is_not_taken_for_the_property() {
    breaks(MISSED, || panic!("a bug of the model"));
}

#[test]
fn every_other_order_fails() {
    assert!(!breaks(MISSED, one_writer(Writer::Right, &[Reader::Right])), "the right order");
    assert!(
        breaks(MISSED, one_writer(Writer::LooksFirst, &[Reader::Right])),
        "max_ts before the lock"
    );
    assert!(
        breaks(MISSED, one_writer(Writer::LetsGoFirst, &[Reader::Right])),
        "guard before apply"
    );
    assert!(
        breaks(MISSED, one_writer(Writer::Right, &[Reader::LooksFirst])),
        "table before max_ts"
    );
    assert!(
        breaks(MISSED, one_writer(Writer::Right, &[Reader::SnapshotFirst])),
        "snapshot before table"
    );
}

/// One fence alone orders nothing.
#[test]
fn either_fence_of_the_table_is_missed() {
    assert!(breaks(MISSED, one_writer(Writer::Unfenced, &[Reader::Right])), "the writer's");
    assert!(breaks(MISSED, one_writer(Writer::Right, &[Reader::Unfenced])), "the reader's");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaver {
    Right,
    /// Looks for readers before it has left.
    LooksFirst,
    Unfenced,
}

/// A prewrite leaves while readers wait for it; `fenced` says of each whether it is right. Nobody
/// is out of patience: one who is not woken waits for ever.
fn leaving(leaver: Leaver, fenced: &'static [bool]) -> impl Fn() + Sync + Send + 'static {
    move || {
        let (table, exit) = (Arc::new(Table::default()), Arc::new(exit::Exit::default()));
        let guard = publish(&table);
        let readers: Vec<_> = fenced
            .iter()
            .map(|fenced| {
                let (table, exit) = (table.clone(), exit.clone());
                thread::spawn(move || {
                    unfence(!fenced);
                    exit.wait_until(Duration::MAX, || table.is_empty());
                })
            })
            .collect();
        unfence(leaver == Leaver::Unfenced);
        if leaver == Leaver::LooksFirst {
            exit.leave();
            drop(guard);
        } else {
            drop(guard);
            exit.leave();
        }
        readers.into_iter().for_each(|reader| reader.join().expect("no panic"));
    }
}

#[test]
fn who_waits_for_a_prewrite_hears_that_it_left() {
    explore(leaving(Leaver::Right, &[true]));
    explore(leaving(Leaver::Right, &[true, true]));
}

#[test]
fn a_wake_up_is_lost_without_either_fence_or_in_another_order() {
    assert!(breaks(ASLEEP, leaving(Leaver::LooksFirst, &[true])), "readers before leaving");
    assert!(breaks(ASLEEP, leaving(Leaver::Unfenced, &[true])), "the fence of who leaves");
    assert!(breaks(ASLEEP, leaving(Leaver::Right, &[false])), "the fence of who waits");
}

/// Two commands on two keys, named in opposite orders.
fn turns(names: [[&'static [u8]; 2]; 2], latched: bool) -> impl Fn() + Sync + Send + 'static {
    move || {
        let latches = Arc::new(slots::Latches::with_slots(2));
        let inside = Arc::new(AtomicBool::new(false));
        let command = move |latches: &Arc<slots::Latches>, inside: &AtomicBool, who: usize| {
            let keys = names[who].into_iter();
            let guard = latched.then(|| latches.acquire(keys, Duration::MAX).expect("granted"));
            assert!(!inside.swap(true, std::sync::atomic::Ordering::SeqCst), "{TWO}");
            thread::yield_now();
            inside.store(false, std::sync::atomic::Ordering::SeqCst);
            drop(guard);
        };
        let other = {
            let (latches, inside) = (latches.clone(), inside.clone());
            thread::spawn(move || command(&latches, &inside, 1))
        };
        command(&latches, &inside, 0);
        other.join().expect("no panic");
    }
}

#[test]
fn latches_are_held_by_one_and_lose_no_wake_up() {
    let keys: [&[u8]; 8] = [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"];
    explore(turns([[keys[0], keys[1]], [keys[1], keys[0]]], true));
    explore(turns([[keys[2], keys[3]], [keys[3], keys[4]]], true));
    assert!(breaks(TWO, turns([[keys[0], keys[1]], [keys[1], keys[0]]], false)), "without latches");
}

/// Three on one key: whoever waits is woken, in turn.
#[test]
fn three_commands_on_one_key_all_get_through() {
    explore(|| {
        let latches = Arc::new(slots::Latches::with_slots(1));
        let run = |latches: Arc<slots::Latches>| {
            let keys = std::iter::once(&b"k"[..]);
            drop(latches.acquire(keys, Duration::MAX).expect("granted"));
        };
        let others: Vec<_> = (0..2)
            .map(|_| {
                let latches = latches.clone();
                thread::spawn(move || run(latches))
            })
            .collect();
        run(latches.clone());
        others.into_iter().for_each(|other| other.join().expect("no panic"));
        assert_eq!(latches.waiting_for(b"k"), 0);
    });
}
