//! Every interleaving of who publishes and who looks, under loom. Each property also has weakened
//! forms that must fail, by that property and nothing else: else the model sees nothing.

use super::*;
use loom::sync::atomic::AtomicU64 as LoomU64;
use loom::sync::{Arc, Mutex};
use loom::thread;

damask_env::cell_over! { Strong(LoomU64) load: |order| order, change: |order| order }
damask_env::cell_over! {
    /// Its changes release nothing.
    Unreleased(LoomU64) load: |order| order, change: |_| Ordering::Relaxed
}
damask_env::cell_over! {
    /// Its loads acquire nothing.
    Unacquired(LoomU64) load: |_| Ordering::Relaxed, change: |order| order
}

/// Does some interleaving break this property, and not something else?
fn breaks(property: &str, model: impl Fn() + Sync + Send + 'static) -> bool {
    let explored = std::panic::AssertUnwindSafe(|| loom::model(model));
    let Err(panic) = std::panic::catch_unwind(explored) else { return false };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
    assert!(text.contains(property), "failed by another cause: {text}");
    true
}

/// What each property says when it is broken.
const OLD_COMMIT: &str = "older than what was published with the lease";
const UNACKNOWLEDGED: &str = "older than what was acknowledged";
const AFTER_WITHDRAWAL: &str = "read after another may have written";
const OLD_INDEX: &str = "an index older than its timestamp";
const REPLACED: &str = "read of content that is being replaced";
const OVERTAKEN: &str = "overtakes what was said before";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Right,
    /// The two steps of who publishes, the other way round.
    Turned,
}

/// Runs `there` beside `here`.
fn beside<T: Send + Sync + 'static>(
    shared: T,
    there: impl FnOnce(&T) + Send + 'static,
    here: impl FnOnce(&T),
) {
    let shared = Arc::new(shared);
    let other = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || there(&shared))
    };
    here(&shared);
    other.join().expect("no panic");
}

/// Commits 1, 2, 3 are published with leases until 10, 20, 30.
fn lease_and_commit<C: Cell + 'static>(order: Order) -> impl Fn() + Sync + Send + 'static {
    move || {
        let look = |lease: &Lease<C>| {
            let now = 15;
            if let Some(commit) = lease.commit_at(now) {
                assert!(commit >= 2, "{commit}: {OLD_COMMIT}");
            }
            if let Some(commit) = lease.commit_at(now + 10) {
                assert!(commit >= 3, "{commit}: {OLD_COMMIT}");
            }
        };
        beside(Lease::<C>::new(1, 10), look, |lease| match order {
            Order::Right => {
                assert!(lease.publish(2, 20) && lease.publish(3, 30));
            }
            Order::Turned => {
                for (commit, until) in [(2, 20), (3, 30)] {
                    lease.until.swap(until, Ordering::Release);
                    lease.commit.store(commit, Ordering::Release);
                }
            }
        });
    }
}

#[test]
fn a_valid_permit_has_the_commit_index_of_its_lease() {
    loom::model(lease_and_commit::<Strong>(Order::Right));
    let turned = lease_and_commit::<Strong>(Order::Turned);
    assert!(breaks(OLD_COMMIT, turned), "the end before the commit");
    assert!(breaks(OLD_COMMIT, lease_and_commit::<Unreleased>(Order::Right)), "no release");
    assert!(breaks(OLD_COMMIT, lease_and_commit::<Unacquired>(Order::Right)), "no acquire");
}

/// A commit is published under a lease that lasts, then acknowledged.
fn acknowledged(order: Order) -> impl Fn() + Sync + Send + 'static {
    move || {
        let look = |(lease, heard): &(Lease<Strong>, LoomU64)| {
            if heard.load(Ordering::Acquire) == 1 {
                let commit = lease.commit_at(5).expect("it lasts");
                assert!(commit >= 2, "{commit}: {UNACKNOWLEDGED}");
            }
        };
        let shared = (Lease::new(1, 10), LoomU64::new(0));
        beside(shared, look, |(lease, heard)| {
            if order == Order::Turned {
                heard.store(1, Ordering::Release);
            }
            assert!(!lease.publish(2, 10));
            heard.store(1, Ordering::Release);
        });
    }
}

#[test]
fn a_read_after_an_acknowledgement_sees_its_commit() {
    loom::model(acknowledged(Order::Right));
    assert!(breaks(UNACKNOWLEDGED, acknowledged(Order::Turned)), "acknowledged, then published");
}

/// A leader withdraws its lease, made longer just before, and another one writes.
fn withdrawn(order: Order) -> impl Fn() + Sync + Send + 'static {
    move || {
        let look = |(lease, elsewhere): &(Lease<Strong>, LoomU64)| {
            let written = elsewhere.load(Ordering::Acquire);
            if lease.commit_at(5).is_some() {
                assert!(written == 0, "{AFTER_WITHDRAWAL}");
            }
        };
        let shared = (Lease::new(1, 10), LoomU64::new(0));
        beside(shared, look, |(lease, elsewhere)| {
            lease.publish(2, 20);
            if order == Order::Turned {
                elsewhere.store(1, Ordering::Release);
            }
            lease.withdraw();
            elsewhere.store(1, Ordering::Release);
        });
    }
}

#[test]
fn a_withdrawn_lease_permits_nobody_who_has_found_it() {
    loom::model(withdrawn(Order::Right));
    assert!(breaks(AFTER_WITHDRAWAL, withdrawn(Order::Turned)), "written, then withdrawn");
}

/// Timestamps 50 and 60 are safe with what is applied at 1 and 2.
fn safe_and_index<C: Cell + 'static>(order: Order) -> impl Fn() + Sync + Send + 'static {
    move || {
        let look = |safe: &Safe<C>| {
            if let Ok(((), index)) = safe.read(55, || ()) {
                assert!(index >= 2, "{index}: {OLD_INDEX}");
            }
        };
        beside(Safe::<C>::new(1, 50), look, |safe| match order {
            Order::Right => safe.publish(2, 60),
            Order::Turned => {
                safe.ts.store(60, Ordering::Release);
                safe.index.store(2, Ordering::Release);
            }
        });
    }
}

#[test]
fn a_safe_timestamp_has_its_index() {
    loom::model(safe_and_index::<Strong>(Order::Right));
    assert!(breaks(OLD_INDEX, safe_and_index::<Strong>(Order::Turned)), "ts before index");
    assert!(breaks(OLD_INDEX, safe_and_index::<Unreleased>(Order::Right)), "no release");
    assert!(breaks(OLD_INDEX, safe_and_index::<Unacquired>(Order::Right)), "no acquire");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Replacing {
    Right,
    /// Takes back what is already being replaced.
    ReplacesFirst,
    /// Publishes the new content where the old one was taken back.
    SameCell,
    /// The reader looks only before its snapshot.
    LooksOnce,
    /// The snapshot is not ordered after the changes it shows.
    LooseSnapshot,
}

/// Content 0 is replaced by 2; in between it is 1, half of each.
fn replaced(how: Replacing) -> impl Fn() + Sync + Send + 'static {
    const HALF: u64 = 1;
    const NEW: u64 = 2;
    move || {
        let shared = Arc::new((Safe::<Strong>::new(1, 50), LoomU64::new(0)));
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (safe, content) = &*shared;
                let found = match how {
                    Replacing::LooseSnapshot => safe.read(40, || content.load(Ordering::Relaxed)),
                    Replacing::LooksOnce => {
                        safe.look(40).map(|()| (content.load(Ordering::Acquire), 0))
                    }
                    _ => safe.read(40, || content.load(Ordering::Acquire)),
                };
                if let Ok((found, _)) = found {
                    assert!(found != HALF, "{REPLACED}");
                }
            })
        };
        let (safe, content) = &*shared;
        if how == Replacing::ReplacesFirst {
            content.store(HALF, Ordering::Release);
        }
        safe.withdraw();
        content.store(HALF, Ordering::Release);
        content.store(NEW, Ordering::Release);
        if how == Replacing::SameCell {
            safe.publish(2, 60);
        }
        other.join().expect("no panic");
    }
}

#[test]
fn content_that_is_being_replaced_is_not_read() {
    let breaks = |how| breaks(REPLACED, replaced(how));
    loom::model(replaced(Replacing::Right));
    assert!(breaks(Replacing::ReplacesFirst), "replaced, then taken back");
    assert!(breaks(Replacing::SameCell), "published again in the same cell");
    assert!(breaks(Replacing::LooksOnce), "no look after the snapshot");
    assert!(breaks(Replacing::LooseSnapshot), "a snapshot that acquires nothing");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HandOff {
    Right,
    /// The other thread is seen to have no task before it has spoken.
    LowersFirst,
    /// Who would do its work looks at the inbox before its tasks.
    InboxFirst,
    /// What is stepped leaves the inbox before its turn.
    LeavesFirst,
}

/// A store: an event is in `inbox` from when it is sent, in `core` from when it is stepped.
struct Store<C: Cell> {
    tasks: Tally<C>,
    unstepped: Tally<C>,
    inbox: Mutex<Option<&'static str>>,
    core: Mutex<Option<&'static str>>,
}

/// The log thread does its one task while a caller would do the next in its place, beside the raft
/// thread: what the log thread says is stepped before that.
fn hand_off<C: Cell + 'static>(how: HandOff) -> impl Fn() + Sync + Send + 'static {
    move || {
        let (inbox, core) = (Mutex::new(None), Mutex::new(None));
        let (tasks, unstepped) = (Tally::<C>::default(), Tally::default());
        let store = Arc::new(Store { tasks, unstepped, inbox, core });
        store.tasks.raise();
        let log = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                if how == HandOff::LowersFirst {
                    store.tasks.lower(1);
                }
                store.unstepped.raise();
                *store.inbox.lock().expect("no panic") = Some("persisted");
                if how != HandOff::LowersFirst {
                    store.tasks.lower(1);
                }
            })
        };
        let raft = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let Some(event) = store.inbox.lock().expect("no panic").take() else { return };
                if how == HandOff::LeavesFirst {
                    store.unstepped.lower(1);
                }
                let mut core = store.core.lock().expect("no panic");
                *core = Some(event);
                if how != HandOff::LeavesFirst {
                    store.unstepped.lower(1);
                }
            })
        };
        let core = store.core.lock().expect("no panic");
        let quiet = match how {
            HandOff::InboxFirst => store.unstepped.is_none() && store.tasks.is_none(),
            _ => is_quiet(&[&store.tasks], &store.unstepped),
        };
        assert!(!quiet || core.is_some(), "what is done here {OVERTAKEN}");
        drop(core);
        log.join().expect("no panic");
        raft.join().expect("no panic");
    }
}

#[test]
fn who_does_the_work_of_a_thread_follows_what_that_has_said() {
    let breaks = |how| breaks(OVERTAKEN, hand_off::<Strong>(how));
    loom::model(hand_off::<Strong>(HandOff::Right));
    assert!(breaks(HandOff::LowersFirst), "no task before it has spoken");
    assert!(breaks(HandOff::InboxFirst), "the inbox before the tasks");
    assert!(breaks(HandOff::LeavesFirst), "out of the inbox before its turn");
}

#[test]
fn tallies_that_release_or_acquire_nothing_are_found() {
    assert!(breaks(OVERTAKEN, hand_off::<Unreleased>(HandOff::Right)), "no release");
    assert!(breaks(OVERTAKEN, hand_off::<Unacquired>(HandOff::Right)), "no acquire");
}
