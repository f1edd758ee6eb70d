//! Locks of clients that fell silent, and requests that come late or whose answers are lost: whoever
//! was told that it has failed must not commit, and nothing must stay locked.

mod common;

use common::statements::{LONG, begin, lock, put};
use common::{Spoil, brief, cluster, get, locks, put_all, region_of, send, spoiled_client};
use damask_kv::MvccReader;
use damask_txn::{
    Config, Context, Error, LockWait, PessimisticLock, Reads, Request, Response, Service, Services,
    Wait,
};
use damask_types::{ErrorKind, KeyRange, StoreId};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[test]
fn the_locks_of_a_dead_client_go_when_their_time_is_over() {
    let cluster = cluster(&["m"]);
    // Dies without a word: nothing that ends it arrives, and nothing that keeps it alive.
    let dead = spoiled_client(&cluster, brief(), |request| match request {
        Request::PessimisticRollback { .. } | Request::HeartBeat { .. } => Spoil::Refuse,
        _ => Spoil::Nothing,
    });
    let mut txn = begin(&dead);
    ["a", "b", "z"].into_iter().for_each(|key| put(&mut txn, key, "dead"));
    let client = cluster.client();
    let mut other = begin(&client);
    assert!(lock(&mut other, "z", Wait::No).is_err(), "it may be alive");
    cluster.pass_ms(10_000);
    lock(&mut other, "z", Wait::No).expect("its time is over");
    lock(&mut other, "a", Wait::No).expect("its time is over");
    assert_eq!(get(&client, "b"), None, "a pessimistic lock stops no reader");
    put_all(&client, &[("b", "1")]);
    other.rollback();
    // It was not dead. What it has lost it knows at the commit.
    put(&mut txn, "y", "late");
    assert_eq!(txn.commit().expect_err("its locks have gone").kind(), ErrorKind::Conflict);
    assert_eq!((get(&client, "y"), get(&client, "b").as_deref()), (None, Some("1")));
    cluster.pass_ms(10_000);
    let mut other = begin(&client);
    ["a", "y", "z"].into_iter().for_each(|key| lock(&mut other, key, Wait::No).expect("free"));
    other.rollback();
    client.flush();
    assert_eq!(locks(&cluster), 0);
}

/// The value that comes with a lock is good while the lock stands, which is as long as the primary's:
/// one that has been given up says nothing any more.
#[test]
fn a_value_that_came_with_a_lock_ends_with_the_primary() {
    let cluster = cluster(&["b"]);
    let others = cluster.client();
    put_all(&others, &[("a", "1"), ("b", "1")]);
    let client = spoiled_client(&cluster, Config::default(), |request| match request {
        Request::HeartBeat { .. } => Spoil::LoseRequest,
        _ => Spoil::Nothing,
    });
    let mut txn = begin(&client);
    put(&mut txn, "a", "2");
    // It is silent for so long that others end it, and does not know.
    cluster.pass_ms(10 * Config::default().lock_ttl_ms);
    put_all(&others, &[("a", "3")]);
    let mark = txn.mark();
    txn.begin_statement(Reads::Current).expect("a timestamp");
    put_all(&others, &[("b", "2")]);
    let locked = txn.lock("b").and_then(|()| txn.lock_written(&mark, LONG));
    assert!(matches!(locked, Err(Error::Outdated { .. })), "{locked:?}");
    txn.rollback_to(mark);
    put_all(&others, &[("b", "3")]);
    txn.begin_statement(Reads::Current).expect("a timestamp");
    assert_eq!(txn.get(b"b").expect("read"), Some(b"3".to_vec()));
    txn.commit().expect_err("it was ended");
}

/// A lock that was lost and that a late copy of its request has taken again says nothing of what was
/// committed between, however new a later statement's version is: neither of a key that was written
/// nor of one that was only locked.
#[test]
fn a_lock_taken_again_by_a_late_copy_does_not_hold_what_was_read() {
    for written in [true, false] {
        let cluster = cluster(&["b"]);
        let others = cluster.client();
        put_all(&others, &[("a", "1"), ("b", "1")]);
        let copies = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&copies);
        let client = spoiled_client(&cluster, Config::default(), move |request| match request {
            Request::HeartBeat { .. } => Spoil::LoseRequest,
            Request::PessimisticLock(_) => {
                seen.lock().push(request.clone());
                Spoil::Nothing
            }
            _ => Spoil::Nothing,
        });
        let mut txn = begin(&client);
        match written {
            true => put(&mut txn, "a", "2"),
            false => lock(&mut txn, "a", LONG).expect("free"),
        }
        cluster.pass_ms(10 * Config::default().lock_ttl_ms);
        put_all(&others, &[("a", "3")]);
        let region = region_of(&cluster, "a");
        let context = Context { region: region.id, epoch: region.epoch };
        let store = cluster.service(StoreId(1)).expect("the store");
        let copies = std::mem::take(&mut *copies.lock());
        copies.into_iter().for_each(|request| drop(store.call(context, request)));
        assert_eq!(locks(&cluster), 1, "the copy has taken it");
        put(&mut txn, "b", "2");
        assert_eq!(txn.commit().expect_err("it was lost").kind(), ErrorKind::Conflict);
        client.flush();
        assert_eq!([get(&others, "a"), get(&others, "b")].map(Option::unwrap), ["3", "1"]);
    }
}

/// Somebody's question takes an expired primary off; before its next word the owner, which was only
/// slow, has locked the key again. That lock is young and alive.
#[test]
fn a_primary_locked_again_after_the_question_stays() {
    let cluster = cluster(&[]);
    let owners = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&owners);
    let owner = spoiled_client(&cluster, brief(), move |request| match request {
        Request::PessimisticLock(lock) => {
            seen.lock().get_or_insert(lock.clone());
            Spoil::Nothing
        }
        Request::HeartBeat { .. } => Spoil::LoseRequest,
        _ => Spoil::Nothing,
    });
    let mut txn = begin(&owner);
    put(&mut txn, "a", "1");
    cluster.pass_ms(10 * brief().lock_ttl_ms);
    // The resolver asks first; whatever it says next finds the lock that was taken meanwhile.
    let (again, asked) = (Arc::clone(&owners), AtomicBool::new(false));
    let store = common::Store(Arc::clone(&cluster));
    let region = region_of(&cluster, "a");
    let context = Context { region: region.id, epoch: region.epoch };
    let resolver = spoiled_client(&cluster, brief(), move |request| {
        if matches!(request, Request::CheckTxnStatus { .. }) {
            asked.store(true, Ordering::SeqCst);
        } else if asked.load(Ordering::SeqCst)
            && let Some(mut lock) = again.lock().take()
        {
            lock.ttl_ms *= 100;
            let taken = store.call(context, Request::PessimisticLock(lock));
            assert!(matches!(taken, Ok(Response::PessimisticLocked(_))), "{taken:?}");
        }
        Spoil::Nothing
    });
    let mut other = begin(&resolver);
    let refused = lock(&mut other, "a", Wait::No);
    assert!(matches!(refused, Err(Error::LockNotAvailable { .. })), "{refused:?}");
    assert!(owners.lock().is_none(), "it was locked again");
    other.rollback();
    txn.commit().expect("its lock stands");
    assert_eq!(get(&owner, "a").as_deref(), Some("1"));
}

/// Who was told that it has failed does not commit by copies of its requests that come late.
#[test]
fn a_failed_commit_is_not_made_by_late_copies() {
    let cluster = cluster(&[]);
    let others = cluster.client();
    put_all(&others, &[("a", "1")]);
    let copies = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&copies);
    let config = Config { one_phase: true, async_commit: true, ..Config::default() };
    let client = spoiled_client(&cluster, config, move |request| match request {
        Request::HeartBeat { .. } => Spoil::LoseRequest,
        Request::PessimisticLock(_) | Request::Prewrite(_) => {
            seen.lock().push(request.clone());
            Spoil::Nothing
        }
        _ => Spoil::Nothing,
    });
    let mut txn = begin(&client);
    put(&mut txn, "a", "2");
    cluster.pass_ms(10 * Config::default().lock_ttl_ms);
    let mut other = begin(&others);
    lock(&mut other, "a", LONG).expect("its time is over");
    other.rollback();
    others.flush();
    assert_eq!(txn.commit().expect_err("its lock has gone").kind(), ErrorKind::Conflict);
    let copies = std::mem::take(&mut *copies.lock());
    assert!(copies.len() > 1, "a lock and a prewrite");
    let region = region_of(&cluster, "a");
    let context = Context { region: region.id, epoch: region.epoch };
    let store = cluster.service(StoreId(1)).expect("the store");
    copies.into_iter().for_each(|request| drop(store.call(context, request)));
    cluster.pass_ms(100 * Config::default().lock_ttl_ms);
    put_all(&others, &[("b", "1")]);
    assert_eq!(get(&others, "a").as_deref(), Some("1"));
}

#[test]
fn a_late_lock_under_another_primary_is_taken_off() {
    let cluster = cluster(&["m"]);
    let client = cluster.client();
    let mut txn = begin(&client);
    put(&mut txn, "a", "1");
    put(&mut txn, "p", "1");
    put(&mut txn, "zz", "1");
    let late = PessimisticLock {
        keys: vec![b"z".to_vec()],
        primary: b"p".to_vec(),
        start_ts: txn.start_ts(),
        for_update_ts: txn.start_ts(),
        ttl_ms: 1_000_000,
        wait: LockWait::No,
        return_values: false,
        allow_conflict: false,
    };
    send(&cluster, "z", Request::PessimisticLock(late));
    // Asked about together with a lock that the transaction does hold: only the late one goes.
    let reader = MvccReader::new(cluster.engine().snapshot());
    let both = KeyRange::new("z", "zzz");
    let both = reader.scan_locks(&both, |_| true, usize::MAX).expect("read");
    assert_eq!((both.len(), locks(&cluster)), (2, 4));
    let now = client.timestamp().expect("a timestamp");
    client.resolve_locks(&both, now).expect("resolved");
    assert_eq!(locks(&cluster), 3);
    let mut other = begin(&client);
    lock(&mut other, "z", Wait::No).expect("nobody holds it");
    other.rollback();
    txn.commit().expect("commits");
    client.flush();
    assert_eq!((get(&client, "p").as_deref(), locks(&cluster)), (Some("1"), 0));
}

#[test]
fn lost_answers_to_lock_requests_leave_no_locks() {
    for lose_request in [false, true] {
        let cluster = cluster(&["m"]);
        let calls = AtomicU64::new(0);
        let client = spoiled_client(&cluster, Config::default(), move |request| match request {
            Request::PessimisticLock(_)
                if calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) =>
            {
                if lose_request {
                    Spoil::LoseRequest
                } else {
                    Spoil::LoseAnswer
                }
            }
            _ => Spoil::Nothing,
        });
        let mut txn = begin(&client);
        put(&mut txn, "a", "1");
        put(&mut txn, "z", "1");
        txn.commit().expect("commits");
        client.flush();
        assert_eq!((get(&client, "z").as_deref(), locks(&cluster)), (Some("1"), 0));
    }
    // Nobody ever answers: the statement fails, and the locks go back all the same.
    let cluster = cluster(&["m"]);
    let client = spoiled_client(&cluster, brief(), |request| match request {
        Request::PessimisticLock(_) => Spoil::LoseAnswer,
        _ => Spoil::Nothing,
    });
    let mut txn = begin(&client);
    let error = lock(&mut txn, "a", LONG).expect_err("no answer");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert_eq!(locks(&cluster), 1);
    txn.rollback();
    assert_eq!(locks(&cluster), 0);
}
