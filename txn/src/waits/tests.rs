//! Queues by themselves: who is woken, when, and what is left behind. The server's part (latches,
//! the log, a second look) is tested there.

use super::*;
use crate::deadlock::LocalDeadlocks;
use damask_env::{RealClock, spawn};
use damask_types::{Lock, LockKind};

const LONG: Duration = Duration::from_secs(30);
const NONE: Duration = Duration::from_millis(1);

fn waits() -> (Arc<LocalDeadlocks>, Arc<Waits>) {
    let deadlocks = Arc::new(LocalDeadlocks::new(Arc::new(RealClock::default())));
    (deadlocks.clone(), Arc::new(Waits::new(deadlocks)))
}

fn enter(waits: &Arc<Waits>, key: &str, start_ts: u64, holder: u64) -> Ticket {
    waits
        .enter(key.as_bytes(), Timestamp(start_ts), Timestamp(holder))
        .unwrap_or_else(|_| panic!("no circle"))
}

fn release(waits: &Waits, key: &str) {
    let changes = waits.changes(&[Record::Unlock { key: key.into() }]);
    waits.applied(changes);
}

fn grant(waits: &Waits, key: &str, holder: u64) {
    let lock = Lock::new(LockKind::Pessimistic, key.into(), Timestamp(holder), 1);
    let changes = waits.changes(&[Record::Lock { key: key.into(), lock }]);
    waits.applied(changes);
}

#[test]
fn a_release_wakes_the_oldest_transaction_and_nobody_else() {
    let (_, waits) = waits();
    let (young, old) = (enter(&waits, "k", 30, 5), enter(&waits, "k", 20, 5));
    let other = enter(&waits, "l", 10, 5);
    release(&waits, "k");
    assert_eq!(old.wait(LONG), Woken::Released);
    assert_eq!(young.wait(NONE), Woken::Timeout);
    assert_eq!(other.wait(NONE), Woken::Timeout);
    // It gets the lock and leaves: the young one waits for it now.
    grant(&waits, "k", 20);
    drop(old);
    assert_eq!(young.wait(NONE), Woken::Timeout);
    release(&waits, "k");
    assert_eq!(young.wait(LONG), Woken::Released);
}

#[test]
fn who_gives_up_passes_the_release_on() {
    let (_, waits) = waits();
    let (first, second) = (enter(&waits, "k", 20, 5), enter(&waits, "k", 30, 5));
    release(&waits, "k");
    drop(first);
    assert_eq!(second.wait(LONG), Woken::Released);
    // One that was not woken passes on nothing.
    let third = enter(&waits, "k", 40, 6);
    let fourth = enter(&waits, "k", 50, 6);
    drop(third);
    assert_eq!(fourth.wait(NONE), Woken::Timeout);
}

#[test]
fn a_release_before_the_wait_is_heard() {
    let (_, waits) = waits();
    let ticket = enter(&waits, "k", 20, 5);
    release(&waits, "k");
    assert_eq!(ticket.wait(NONE), Woken::Released);
    ticket.again(Timestamp(7)).expect("no circle");
    assert_eq!(ticket.wait(NONE), Woken::Timeout, "somebody else was faster");
    let waiter = spawn("waiter", move || assert_eq!(ticket.wait(LONG), Woken::Released));
    release(&waits, "k");
    waiter.join().expect("no panic");
}

#[test]
fn a_circle_is_refused_and_leaves_nothing_behind() {
    let (deadlocks, waits) = waits();
    let one = enter(&waits, "a", 1, 2);
    let refused = waits.enter(b"b", Timestamp(2), Timestamp(1)).err().expect("a circle");
    let around = vec![(Timestamp(1), Timestamp(2)), (Timestamp(2), Timestamp(1))];
    assert_eq!(refused, Refused::Victim(around));
    assert_eq!(deadlocks.waits(), 1);
    drop(one);
    assert_eq!(deadlocks.waits(), 0);
    assert!(waits.is_empty() && waits.queues.lock().is_empty());
}

#[test]
fn a_circle_closed_by_a_new_holder_wakes_its_victim() {
    let (_, waits) = waits();
    // 1 waits for `a` and, in another region, for `b`; 3 waits for `a` too.
    let (_a, b) = (enter(&waits, "a", 1, 9), enter(&waits, "b", 1, 3));
    let three = enter(&waits, "a", 3, 9);
    grant(&waits, "a", 1);
    let around = vec![(Timestamp(1), Timestamp(3)), (Timestamp(3), Timestamp(1))];
    assert_eq!(three.wait(LONG), Woken::Victim(around.clone()));
    assert_eq!(three.again(Timestamp(1)), Err(Refused::Victim(around)));
    assert_eq!(b.wait(NONE), Woken::Timeout);
}

#[test]
fn nobody_who_waits_costs_nothing() {
    let (_, waits) = waits();
    assert_eq!(waits.changes(&[Record::Unlock { key: b"k".to_vec() }]), []);
    let _ticket = enter(&waits, "l", 20, 5);
    assert_eq!(waits.changes(&[Record::Unlock { key: b"k".to_vec() }]), []);
}
