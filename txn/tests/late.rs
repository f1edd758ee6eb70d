//! Locks of clients that fell silent, and requests that come late or whose answers are lost:
//! whoever was told that it has failed must not commit, and nothing must stay locked.

mod common;

use common::statements::{LONG, PESSIMISTIC, begin, lock, put, statement};
use common::{Spoil, brief, cluster, get, locks, put_all, region_of, send, spoiled_client};
use damask_kv::MvccReader;
use damask_txn::{
    Client, Config, Context, Error, LocalCluster, LockWait, Mode, Options, PessimisticLock, Reads,
    Request, Response, Service, Services, Transaction, Wait,
};
use damask_types::{ErrorKind, KeyRange, StoreId, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a client has sent to lock and to prewrite.
type Copies = Arc<Mutex<Vec<Request>>>;

/// A client that takes the short ways, whose heartbeats are lost and whose requests are copied.
fn copied_client(cluster: &Arc<LocalCluster>) -> (Client, Copies) {
    let copies = Copies::default();
    let seen = Arc::clone(&copies);
    let config = Config { one_phase: true, async_commit: true, ..Config::default() };
    let client = spoiled_client(cluster, config, move |request| match request {
        Request::HeartBeat { .. } => Spoil::LoseRequest,
        Request::PessimisticLock(_) | Request::Prewrite(_) => {
            seen.lock().push(request.clone());
            Spoil::Nothing
        }
        _ => Spoil::Nothing,
    });
    (client, copies)
}

/// Sets `a`, below what the next transaction reads at: a commit in one phase is at the very version
/// that is given out next.
fn put_before(client: &Client, value: &str) {
    let version = put_all(client, &[("a", value)]);
    assert!(client.timestamp().expect("a timestamp") >= version);
}

/// Brings these requests to the region of `key`, whatever becomes of them.
fn deliver(cluster: &LocalCluster, key: &str, requests: impl IntoIterator<Item = Request>) {
    let region = region_of(cluster, key);
    let context = Context { region: region.id, epoch: region.epoch };
    let store = cluster.service(StoreId(1)).expect("the store");
    requests.into_iter().for_each(|request| drop(store.call(context, request)));
}

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

/// The value that comes with a lock is good while the lock stands, which is as long as the
/// primary's: one that has been given up says nothing any more.
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

/// A lock that was lost and that a late copy of its request has taken again says nothing of what
/// was committed between, however new a later statement's version is: neither of a key that was written
/// nor of one that was only locked.
#[test]
fn a_lock_taken_again_by_a_late_copy_does_not_hold_what_was_read() {
    for written in [true, false] {
        let cluster = cluster(&["b"]);
        let others = cluster.client();
        put_all(&others, &[("a", "1"), ("b", "1")]);
        let (client, copies) = copied_client(&cluster);
        let mut txn = begin(&client);
        match written {
            true => put(&mut txn, "a", "2"),
            false => lock(&mut txn, "a", LONG).expect("free"),
        }
        cluster.pass_ms(10 * Config::default().lock_ttl_ms);
        put_all(&others, &[("a", "3")]);
        deliver(&cluster, "a", std::mem::take(&mut *copies.lock()));
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

/// Who was told that it has failed does not commit by copies of its requests that come late;
/// neither when another's rollback has swallowed a record of its end that could be swallowed.
#[test]
fn a_failed_commit_is_not_made_by_late_copies() {
    for swallowed in [false, true] {
        let cluster = cluster(&[]);
        let others = cluster.client();
        put_before(&others, "1");
        let (client, copies) = copied_client(&cluster);
        let mut txn = begin(&client);
        put(&mut txn, "a", "2");
        cluster.pass_ms(10 * Config::default().lock_ttl_ms);
        let mut other = begin(&others);
        lock(&mut other, "a", LONG).expect("its time is over");
        assert_eq!(txn.commit().expect_err("its lock has gone").kind(), ErrorKind::Conflict);
        if swallowed {
            let (keys, start_ts) = (vec![b"a".to_vec()], other.start_ts());
            send(&cluster, "a", Request::Rollback { keys, start_ts });
        }
        other.rollback();
        let copies = std::mem::take(&mut *copies.lock());
        assert!(copies.len() > 1, "a lock and a prewrite");
        deliver(&cluster, "a", copies);
        cluster.pass_ms(100 * Config::default().lock_ttl_ms);
        put_all(&others, &[("b", "1")]);
        assert_eq!(get(&others, "a").as_deref(), Some("1"));
    }
}

fn started(prewrite: &Option<Request>) -> Option<Timestamp> {
    match prewrite {
        Some(Request::Prewrite(prewrite)) => Some(prewrite.start_ts),
        _ => None,
    }
}

/// A copy of a refused prewrite comes before the client has ended the transaction, and commits it:
/// then that is what the client says.
#[test]
fn a_copy_that_overtakes_the_end_of_a_refused_commit_decides() {
    for mode in [Mode::Optimistic, Mode::Pessimistic] {
        let cluster = cluster(&[]);
        let others = cluster.client();
        put_before(&others, "1");
        let holder = Arc::new(Mutex::new(None::<Transaction>));
        let (held, prewrite) = (Arc::clone(&holder), Mutex::new(None));
        let store = Arc::clone(&cluster);
        let config = Config { one_phase: true, ..Config::default() };
        let client = spoiled_client(&cluster, config, move |request| {
            match request {
                Request::HeartBeat { .. } => return Spoil::LoseRequest,
                Request::Prewrite(_) => *prewrite.lock() = Some(request.clone()),
                // Its first word about itself after that.
                Request::Rollback { start_ts, .. }
                | Request::CheckSecondaryLocks { start_ts, .. }
                | Request::CheckTxnStatus { lock_ts: start_ts, .. }
                    if started(&prewrite.lock()) == Some(*start_ts) =>
                {
                    if let Some(holder) = held.lock().take() {
                        holder.rollback();
                        deliver(&store, "a", prewrite.lock().take());
                    }
                }
                _ => {}
            }
            Spoil::Nothing
        });
        let mut txn = client.begin_with(Options { mode, ..PESSIMISTIC }).expect("begins");
        match mode {
            Mode::Optimistic => txn.put("a", "2").expect("fits"),
            Mode::Pessimistic => put(&mut txn, "a", "2"),
        }
        cluster.pass_ms(10 * Config::default().lock_ttl_ms);
        let mut other = begin(&others);
        lock(&mut other, "a", LONG).expect("nobody holds it any more");
        *holder.lock() = Some(other);
        let commit_ts = txn.commit().expect("a copy has committed it").expect("not read-only");
        assert!(holder.lock().is_none(), "the copy came");
        assert_eq!(get(&others, "a").as_deref(), Some("2"));
        assert_eq!(others.snapshot(commit_ts.prev()).get(b"a").expect("read"), Some(b"1".to_vec()));
        assert_eq!(locks(&cluster), 0);
    }
}

/// Nobody has heard that it was given up: as long as a copy could commit it in one go, its outcome
/// is not known. In two phases only this client could.
#[test]
fn a_refused_commit_whose_end_does_not_arrive_may_be_made() {
    for (short, kind) in [(true, ErrorKind::Undetermined), (false, ErrorKind::Conflict)] {
        let cluster = cluster(&[]);
        let config = Config { one_phase: short, ..brief() };
        let client = spoiled_client(&cluster, config, |request| match request {
            Request::Rollback { .. } => Spoil::LoseRequest,
            _ => Spoil::Nothing,
        });
        let others = cluster.client();
        let mut other = begin(&others);
        lock(&mut other, "a", LONG).expect("free");
        let mut txn = client.begin().expect("begins");
        txn.put("a", "1").expect("fits");
        assert_eq!(txn.commit().expect_err("the key is held").kind(), kind);
        other.rollback();
    }
}

/// A lock that was lost between two reads of its key kept nothing from changing: who has read both
/// is told at the end, also if it wrote nothing.
#[test]
fn two_reads_under_a_lock_that_was_lost_between_them_do_not_pass() {
    for lost in [true, false] {
        let cluster = cluster(&[]);
        let others = cluster.client();
        put_all(&others, &[("a", "1")]);
        let client = spoiled_client(&cluster, Config::default(), |request| match request {
            Request::HeartBeat { .. } => Spoil::LoseRequest,
            _ => Spoil::Nothing,
        });
        let mut txn = begin(&client);
        let read = |txn: &mut Transaction| {
            let value = statement(txn, |txn| {
                txn.lock("a")?;
                txn.get(b"a")
            });
            value.expect("read")
        };
        assert_eq!(read(&mut txn), Some(b"1".to_vec()));
        if lost {
            cluster.pass_ms(10 * Config::default().lock_ttl_ms);
            put_all(&others, &[("a", "2")]);
            assert_eq!(read(&mut txn), Some(b"2".to_vec()));
            assert_eq!(txn.commit().expect_err("it was lost").kind(), ErrorKind::Conflict);
        } else {
            assert_eq!(read(&mut txn), Some(b"1".to_vec()));
            txn.commit().expect("it stood");
        }
        assert_eq!(locks(&cluster), 0);
    }
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
