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
    drop(waits.applied(changes));
}

fn grant(waits: &Waits, key: &str, holder: u64) {
    let lock = Lock::new(LockKind::Pessimistic, key.into(), Timestamp(holder), 1);
    let changes = waits.changes(&[Record::Lock { key: key.into(), lock }]);
    drop(waits.applied(changes));
}

#[test]
fn a_release_wakes_the_oldest_transaction_and_nobody_else() {
    let (_, waits) = waits();
    let (young, old) = (enter(&waits, "k", 30, 5), enter(&waits, "k", 20, 5));
    let other = enter(&waits, "l", 10, 5);
    release(&waits, "k");
    assert_eq!(old.wait(LONG, LONG), Woken::Released);
    assert_eq!(young.wait(NONE, LONG), Woken::Timeout);
    assert_eq!(other.wait(NONE, LONG), Woken::Timeout);
    // It gets the lock and leaves: the young one waits for it now.
    grant(&waits, "k", 20);
    drop(old);
    assert_eq!(young.wait(NONE, LONG), Woken::Timeout);
    release(&waits, "k");
    assert_eq!(young.wait(LONG, LONG), Woken::Released);
}

#[test]
fn who_gives_up_passes_the_release_on() {
    let (_, waits) = waits();
    let (first, second) = (enter(&waits, "k", 20, 5), enter(&waits, "k", 30, 5));
    release(&waits, "k");
    drop(first);
    assert_eq!(second.wait(LONG, LONG), Woken::Released);
    // One that was not woken passes on nothing.
    let third = enter(&waits, "k", 40, 6);
    let fourth = enter(&waits, "k", 50, 6);
    drop(third);
    assert_eq!(fourth.wait(NONE, LONG), Woken::Timeout);
}

#[test]
fn a_release_before_the_wait_is_heard() {
    let (_, waits) = waits();
    let ticket = enter(&waits, "k", 20, 5);
    release(&waits, "k");
    assert_eq!(ticket.wait(NONE, LONG), Woken::Released);
    ticket.again(Timestamp(7)).expect("no circle");
    assert_eq!(ticket.wait(NONE, LONG), Woken::Timeout, "somebody else was faster");
    let waiter = spawn("waiter", move || assert_eq!(ticket.wait(LONG, LONG), Woken::Released));
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
    assert_eq!(three.wait(LONG, LONG), Woken::Victim(around.clone()));
    assert_eq!(three.again(Timestamp(1)), Err(Refused::Victim(around)));
    assert_eq!(b.wait(NONE, LONG), Woken::Timeout);
}

#[test]
fn nobody_who_waits_costs_nothing() {
    let (_, waits) = waits();
    assert!(waits.changes(&[Record::Unlock { key: b"k".to_vec() }]).is_empty());
    let _ticket = enter(&waits, "l", 20, 5);
    assert!(waits.changes(&[Record::Unlock { key: b"k".to_vec() }]).is_empty());
}

fn ask(key: &str, start_ts: u64) -> Option<Ask> {
    let request = PessimisticLock {
        keys: vec![key.into()],
        primary: key.into(),
        start_ts: Timestamp(start_ts),
        for_update_ts: Timestamp(start_ts),
        ttl_ms: 1,
        wait: crate::request::LockWait::Millis(1),
        return_values: false,
        allow_conflict: true,
    };
    Some(Ask { request, since: Duration::ZERO, term: 1 })
}

fn unlocked(key: &str) -> [Record; 1] {
    [Record::Unlock { key: key.into() }]
}

fn locked(version: u64) -> LockedKey {
    LockedKey { value: None, conflict_ts: Timestamp(version) }
}

#[test]
fn a_key_is_passed_on_to_the_first_who_asks_and_nobody_looks() {
    let (deadlocks, waits) = waits();
    let (young, old) = (enter(&waits, "k", 30, 5), enter(&waits, "k", 20, 5));
    [&young, &old].iter().zip([30, 20]).for_each(|(t, ts)| t.offer(ask("k", ts)));
    let mut changes = waits.changes(&unlocked("k"));
    let [change] = &mut changes[..] else { panic!("{changes:?}") };
    assert_eq!(change.asks().expect("the oldest").request.start_ts, Timestamp(20));
    change.pass_on(locked(7));
    drop(waits.applied(changes));
    assert_eq!(old.wait(NONE, NONE), Woken::Granted(locked(7)));
    assert_eq!(young.wait(NONE, NONE), Woken::Timeout);
    assert_eq!((waits.waiting_for(b"k"), deadlocks.waits()), (1, 1), "it has left");
    assert_eq!(old.close(), Some(Woken::Granted(locked(7))), "and does not forget it");
    drop(old);
    assert_eq!(waits.waiting_for(b"k"), 1);
}

#[test]
fn a_promise_that_is_not_kept_sends_the_waiter_to_look() {
    let (_, waits) = waits();
    let ticket = enter(&waits, "k", 20, 5);
    ticket.offer(ask("k", 20));
    // The proposal was refused.
    let mut changes = waits.changes(&unlocked("k"));
    changes[0].pass_on(locked(7));
    assert_eq!(ticket.wait(NONE, NONE), Woken::Unknown, "it is in the log");
    assert_eq!(ticket.close(), Some(Woken::Unknown));
    drop(changes);
    assert_eq!(ticket.wait(LONG, LONG), Woken::Released);
    // Nothing could be decided for it: the release wakes it.
    ticket.again(Timestamp(5)).expect("no circle");
    let mut changes = waits.changes(&unlocked("k"));
    changes[0].refuse();
    assert_eq!(ticket.wait(NONE, NONE), Woken::Timeout);
    drop(waits.applied(changes));
    assert_eq!(ticket.wait(LONG, LONG), Woken::Released);
}

#[test]
fn who_has_closed_or_ended_or_is_a_victim_is_passed_nothing() {
    let (_, waits) = waits();
    let (closed, ended) = (enter(&waits, "k", 10, 5), enter(&waits, "k", 20, 5));
    closed.offer(ask("k", 10));
    ended.offer(ask("k", 20));
    assert_eq!(closed.close(), None);
    // A late duplicate of a request whose transaction is being rolled back here.
    let write = damask_types::Write::rollback(Timestamp(20), true);
    let rollback = Record::Write { key: b"k".to_vec(), commit_ts: Timestamp(20), write };
    drop(waits.applied(waits.changes(&[rollback])));
    assert_eq!(ended.wait(LONG, LONG), Woken::Released, "to hear that it has ended");
    ended.again(Timestamp(5)).expect("no circle");
    let changes = waits.changes(&unlocked("k"));
    assert!(changes[0].asks().is_none());
    drop(waits.applied(changes));
    assert_eq!(ended.wait(LONG, LONG), Woken::Released);
}

#[test]
fn one_joins_others_only_behind_a_known_holder() {
    let (deadlocks, waits) = waits();
    assert!(waits.join(b"k", Timestamp(9)).expect("no circle").is_none(), "no queue");
    let first = enter(&waits, "k", 20, 5);
    assert!(waits.join(b"k", Timestamp(5)).expect("no circle").is_none(), "its own lock");
    let joined = waits.join(b"k", Timestamp(30)).expect("no circle").expect("a queue");
    let wait =
        |waiter| Wait { key: b"k".to_vec(), waiter: Timestamp(waiter), holder: Timestamp(5) };
    assert_eq!(waits.list(), [wait(20), wait(30)]);
    assert_eq!(deadlocks.waits(), 2);
    // A circle through the holder that was announced.
    let refused = waits.enter(b"l", Timestamp(5), Timestamp(30)).err().expect("a circle");
    assert!(matches!(refused, Refused::Victim(_)));
    release(&waits, "k");
    assert!(waits.join(b"k", Timestamp(40)).expect("no circle").is_none(), "it is free");
    drop(first);
    assert_eq!(joined.wait(LONG, LONG), Woken::Released);
    drop(joined);
    assert!(waits.is_empty() && deadlocks.waits() == 0);
}
