//! Async and one-phase commit through the server: what readers see between decision and apply.
//! Each test says which order it would fail without.

use super::*;
use crate::request::Finish;

fn short(key: &str, start_ts: u64, finish: Finish) -> Request {
    let Request::Prewrite(prewrite) = prewrite(key, start_ts) else { unreachable!("a prewrite") };
    Request::Prewrite(Prewrite { finish, ..prewrite })
}

fn one_phase(key: &str, start_ts: u64) -> Request {
    short(key, start_ts, Finish::OnePhase)
}

fn is_locked<T>(answer: &Result<T>, key: &str) -> bool {
    let Err(RequestError::Keys(keys)) = answer else { return false };
    matches!(&keys[..], [KeyError::Locked(lock)] if lock.key == key.as_bytes())
}

fn held(log: &HeldLog, count: usize) {
    while log.count() < count {
        std::thread::yield_now();
    }
}

#[test]
fn a_commit_in_flight_is_seen_by_later_reads_and_not_by_earlier_ones() {
    let (log, _, server) = setup_at(100, LONG);
    server.call(CONTEXT, get("k", 150)).expect("nothing there");
    let writer = call(&server, one_phase("k", 110));
    held(&log, 1);
    // Dropping the guard before the apply would let the second one read past a commit at 151.
    let before = server.call(CONTEXT, get("k", 150)).expect("the commit is above it");
    assert!(matches!(before, Response::Value(None)));
    assert!(is_locked(&server.call(CONTEXT, get("k", 151)), "k"));
    let scan = Request::Scan {
        range: KeyRange::new("b", "y"),
        ts: Timestamp(200),
        limit: 10,
        reverse: true,
        bypass: Vec::new(),
    };
    assert!(is_locked(&server.call(CONTEXT, scan), "k"));
    let learner = Request::ReadIndex { range: KeyRange::new("b", "y"), ts: Timestamp(300) };
    assert!(is_locked(&server.call(CONTEXT, learner.clone()), "k"));
    assert_eq!(server.admit(&[KeyRange::new("k", "l")], Timestamp(300)).expect("sane").len(), 1);
    let gc = Request::ScanLocks { range: KeyRange::new("b", "y"), ts: Timestamp(300), limit: 9 };
    assert!(is_locked(&server.call(CONTEXT, gc), "k"), "not applied, and not overlooked");
    assert!(server.call(CONTEXT, get("l", 300)).is_ok(), "another key");
    let latest = server.call(CONTEXT, get("k", u64::MAX)).expect("not decided yet");
    assert!(matches!(latest, Response::Value(None)));
    log.pass_one();
    writer.join().expect("no panic");
    let after = server.call(CONTEXT, get("k", 151)).expect("committed");
    assert!(matches!(after, Response::Value(Some(v)) if v == b"v"));
    let index = server.call(CONTEXT, learner).expect("nothing is in flight");
    assert!(matches!(index, Response::ReadIndex(1)), "covers the commit: {index:?}");
}

#[test]
fn an_async_lock_is_seen_from_memory_and_then_from_the_engine() {
    let (log, _, server) = setup_at(100, LONG);
    let finish = Finish::Async { secondaries: vec![b"l".to_vec()] };
    let writer = call(&server, short("k", 110, finish));
    held(&log, 1);
    assert!(is_locked(&server.call(CONTEXT, get("k", 120)), "k"));
    let bypass =
        Request::Get { key: b"k".to_vec(), ts: Timestamp(120), bypass: vec![Timestamp(110)] };
    assert!(server.call(CONTEXT, bypass.clone()).is_ok());
    log.pass_one();
    writer.join().expect("no panic");
    assert!(is_locked(&server.call(CONTEXT, get("k", 120)), "k"));
    assert!(server.call(CONTEXT, bypass).is_ok());
}

#[test]
fn nobody_commits_below_what_was_read_by_whatever_command() {
    let lock = |for_update_ts| {
        Request::PessimisticLock(crate::request::PessimisticLock {
            keys: vec![b"x".to_vec()],
            primary: b"x".to_vec(),
            start_ts: Timestamp(1),
            for_update_ts: Timestamp(for_update_ts),
            ttl_ms: 1,
            wait: crate::request::LockWait::No,
            return_values: false,
            allow_conflict: false,
        })
    };
    let status = |current_ts| Request::CheckTxnStatus {
        primary: b"x".to_vec(),
        lock_ts: Timestamp(1),
        caller_start_ts: Timestamp(2),
        current_ts: Timestamp(current_ts),
        rollback_if_not_exist: false,
        force_sync_commit: false,
        resolving_pessimistic: false,
    };
    let insert = |start_ts| {
        let key = b"i".to_vec();
        Request::Prewrite(Prewrite {
            mutations: vec![Mutation::Insert { key: key.clone(), value: Vec::new() }],
            primary: key,
            start_ts: Timestamp(start_ts),
            ..Prewrite::default()
        })
    };
    let secondaries = |start_ts| Request::CheckSecondaryLocks {
        keys: vec![b"x".to_vec()],
        start_ts: Timestamp(start_ts),
    };
    let index = |ts| Request::ReadIndex { range: KeyRange::new("b", "c"), ts: Timestamp(ts) };
    let make: [fn(u64) -> Request; 2] = [
        |ts| get("b", ts),
        |ts| Request::BatchGet { keys: vec![b"b".to_vec()], ts: Timestamp(ts), bypass: Vec::new() },
    ];
    let (log, _, server) = setup_at(100, LONG);
    log.open.store(true, Ordering::SeqCst);
    let reads: Vec<Box<dyn Fn(u64) -> Request>> = vec![
        Box::new(lock),
        Box::new(status),
        Box::new(insert),
        Box::new(secondaries),
        Box::new(index),
        Box::new(make[0]),
        Box::new(make[1]),
    ];
    for (i, read) in (2u64..).zip(reads) {
        let ts = i * 1_000;
        drop(server.call(CONTEXT, read(ts)));
        let answer = server.call(CONTEXT, one_phase("k", ts - 500)).expect("committed");
        let Response::Prewritten { commit_ts, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(commit_ts, Timestamp(ts + 1), "read {i}");
    }
}

#[test]
fn a_new_leader_starts_above_what_its_predecessor_has_served() {
    let (log, oracle, server) = setup_at(100, LONG);
    log.open.store(true, Ordering::SeqCst);
    let commit_ts = |key, start_ts| {
        let answer = server.call(CONTEXT, one_phase(key, start_ts)).expect("committed");
        let Response::Prewritten { commit_ts, .. } = answer else { panic!("{answer:?}") };
        commit_ts.0
    };
    assert_eq!(commit_ts("k", 50), 101);
    oracle.advance_to(Timestamp(1_000));
    assert_eq!(commit_ts("l", 60), 101, "the same term");
    let region = log.inner.remove(RegionId(1)).expect("hosted");
    log.inner.host(region, 6);
    assert_eq!(commit_ts("m", 70), 1_001, "others may have read up to 1000 in the term before");
}

#[test]
fn without_an_oracle_a_short_commit_falls_back() {
    let (log, server) = setup(LONG);
    log.open.store(true, Ordering::SeqCst);
    let answer = server.call(CONTEXT, one_phase("k", 50)).expect("prewritten");
    let zero = Timestamp::ZERO;
    assert!(matches!(answer, Response::Prewritten { min_commit_ts, commit_ts }
        if min_commit_ts == zero && commit_ts == zero));
    assert!(is_locked(&server.call(CONTEXT, get("k", 60)), "k"));
}

#[test]
fn what_is_refused_leaves_no_lock_in_memory() {
    let (log, _, server) = setup_at(100, LONG);
    log.open.store(true, Ordering::SeqCst);
    server.call(CONTEXT, one_phase("k", 50)).expect("committed");
    assert!(server.call(CONTEXT, one_phase("k", 40)).is_err(), "a newer version");
    let locks = server.admit(&[KeyRange::all()], Timestamp(500)).expect("sane");
    assert_eq!(locks, []);
}

#[test]
fn below_the_safe_point_nothing_is_read_or_begun() {
    let (log, _, server) = setup_at(100, LONG);
    log.open.store(true, Ordering::SeqCst);
    server.call(CONTEXT, one_phase("k", 50)).expect("committed");
    server.safe_point.advance(Timestamp(300));
    let scan = |ts| Request::Scan {
        range: KeyRange::new("b", "y"),
        ts: Timestamp(ts),
        limit: 10,
        reverse: false,
        bypass: Vec::new(),
    };
    let index = |ts| Request::ReadIndex { range: KeyRange::new("b", "c"), ts: Timestamp(ts) };
    for (old, new) in [
        (get("k", 299), get("k", 300)),
        (scan(299), scan(300)),
        (index(299), index(300)),
        (prewrite("m", 299), prewrite("m", 300)),
        (one_phase("n", 299), one_phase("n", 300)),
    ] {
        let refused = server.call(CONTEXT, old).expect_err("below");
        let RequestError::BelowSafePoint(refused) = refused else { panic!("{refused}") };
        assert_eq!((refused.ts, refused.safe_point), (Timestamp(299), Timestamp(300)));
        server.call(CONTEXT, new).expect("at the safe point");
    }
    let refused = server.admit(&[KeyRange::all()], Timestamp(299)).expect_err("below");
    assert_eq!(refused.kind(), ErrorKind::TooOld);
    let refused = server.confirm(Timestamp(299)).expect_err("below");
    assert_eq!(refused.kind(), ErrorKind::TooOld);
    server.confirm(Timestamp(300)).expect("at the safe point");
    // Ending an old transaction is always possible.
    let resolve = Request::ResolveLock {
        start_ts: Timestamp(10),
        commit_ts: Timestamp::ZERO,
        keys: vec![b"k".to_vec()],
    };
    server.call(CONTEXT, resolve).expect("resolved");
}
