//! Pessimistic locks that are waited for: nobody sleeps through a release, nobody waits in a
//! circle, nobody waits for the dead.

use super::*;
use crate::request::{LockWait, LockedKey, PessimisticLock};
use damask_types::Record;
use std::sync::atomic::AtomicU64;

const NONE: LockWait = LockWait::No;
const FOREVER: LockWait = LockWait::Millis(30_000);

fn lock(keys: &[&str], start_ts: u64, wait: LockWait) -> Request {
    Request::PessimisticLock(PessimisticLock {
        keys: keys.iter().map(|key| (*key).into()).collect(),
        primary: keys[0].into(),
        start_ts: Timestamp(start_ts),
        for_update_ts: Timestamp(start_ts),
        ttl_ms: 1_000_000,
        wait,
        return_values: false,
        allow_conflict: true,
    })
}

fn unlock(keys: &[&str], start_ts: u64) -> Request {
    Request::PessimisticRollback {
        keys: keys.iter().map(|key| (*key).into()).collect(),
        start_ts: Timestamp(start_ts),
        for_update_ts: Timestamp::MAX,
    }
}

/// A server whose log is open, at millisecond 1000.
fn setup() -> (Arc<HeldLog>, Arc<MemoryOracle>, Arc<TxnServer>) {
    let (log, oracle, server) = setup_at(Timestamp::compose(1_000, 0).0, LONG);
    log.open.store(true, Ordering::SeqCst);
    (log, oracle, server)
}

fn ts(ms: u64, logical: u64) -> u64 {
    Timestamp::compose(ms, logical).0
}

fn waiting(server: &TxnServer) {
    while server.waits.is_empty() {
        std::thread::yield_now();
    }
}

fn holder_of(error: &RequestError) -> Option<u64> {
    let RequestError::Keys(keys) = error else { return None };
    match keys.first() {
        Some(KeyError::Locked(lock)) => Some(lock.lock.start_ts.0),
        _ => None,
    }
}

#[test]
fn a_waiter_gets_the_lock_when_the_holder_lets_go() {
    let (_, _, server) = setup();
    let (one, two) = (ts(1_000, 1), ts(1_000, 2));
    server.call(CONTEXT, lock(&["k"], one, NONE)).expect("free");
    let refused = server.call(CONTEXT, lock(&["k"], two, NONE)).expect_err("held");
    assert_eq!(holder_of(&refused), Some(one));
    for end in ["unlock", "rollback", "commit", "resolve"] {
        let waiter = {
            let server = Arc::clone(&server);
            spawn("waiter", move || {
                let answer = server.call(CONTEXT, lock(&["k"], two, FOREVER));
                assert!(matches!(answer, Ok(Response::PessimisticLocked(_))), "{answer:?}");
            })
        };
        waiting(&server);
        let (keys, start_ts) = (vec![b"k".to_vec()], Timestamp(one));
        let request = match end {
            "unlock" => unlock(&["k"], one),
            "rollback" => Request::Rollback { keys, start_ts },
            "resolve" => Request::ResolveLock { keys, start_ts, commit_ts: Timestamp::ZERO },
            _ => Request::Commit { keys, start_ts, commit_ts: Timestamp(one + 1) },
        };
        server.call(CONTEXT, request).expect("let go");
        waiter.join().expect("no panic");
        assert!(server.waits.is_empty());
        // Again with a first holder that has not ended.
        server.call(CONTEXT, unlock(&["k"], two)).expect("let go");
        let again = server.call(CONTEXT, lock(&["k"], one, NONE));
        if again.is_err() {
            break; // rolled back above
        }
    }
}

#[test]
fn a_commit_in_one_phase_wakes_too_and_its_version_is_told() {
    let (_, _, server) = setup();
    let (one, two) = (ts(1_000, 1), ts(1_000, 2));
    server.call(CONTEXT, lock(&["k"], one, NONE)).expect("free");
    let waiter = {
        let server = Arc::clone(&server);
        spawn("waiter", move || {
            let answer = server.call(CONTEXT, lock(&["k"], two, FOREVER)).expect("locked");
            let Response::PessimisticLocked(keys) = answer else { panic!("{answer:?}") };
            let [LockedKey { conflict_ts, .. }] = keys[..] else { panic!("{keys:?}") };
            assert!(conflict_ts.0 > two, "locked at the version of the first one");
        })
    };
    waiting(&server);
    let Request::Prewrite(write) = prewrite("k", one) else { unreachable!("a prewrite") };
    let write = Prewrite {
        for_update_ts: Timestamp(one),
        locked: vec![Timestamp(one)],
        finish: crate::request::Finish::OnePhase,
        min_commit_ts: Timestamp(two + 1),
        ..write
    };
    server.call(CONTEXT, Request::Prewrite(write)).expect("committed");
    waiter.join().expect("no panic");
}

#[test]
fn a_circle_has_one_victim_and_the_other_goes_on() {
    let (_, _, server) = setup();
    let (one, two) = (ts(1_000, 1), ts(1_000, 2));
    server.call(CONTEXT, lock(&["c"], one, NONE)).expect("free");
    server.call(CONTEXT, lock(&["b"], two, NONE)).expect("free");
    let first = {
        let server = Arc::clone(&server);
        spawn("first", move || {
            drop(server.call(CONTEXT, lock(&["b"], one, FOREVER)).expect("locked"))
        })
    };
    waiting(&server);
    let refused = server.call(CONTEXT, lock(&["c"], two, FOREVER)).expect_err("a circle");
    let RequestError::Keys(keys) = refused else { panic!("{refused}") };
    let [KeyError::Deadlock { start_ts, holder, key, circle }] = &keys[..] else {
        panic!("{keys:?}")
    };
    assert_eq!((start_ts.0, holder.0, &key[..]), (two, one, &b"c"[..]));
    let around = [(Timestamp(one), Timestamp(two)), (Timestamp(two), Timestamp(one))];
    assert_eq!(circle[..], around);
    server.call(CONTEXT, unlock(&["b"], two)).expect("the victim gives up");
    first.join().expect("no panic");
}

#[test]
fn out_of_time_the_lock_is_named() {
    let (_, _, server) = setup();
    let (one, two) = (ts(1_000, 1), ts(1_000, 2));
    server.call(CONTEXT, lock(&["k"], one, NONE)).expect("free");
    let wait = LockWait::Millis(30);
    let refused = server.call(CONTEXT, lock(&["k"], two, wait)).expect_err("held");
    assert_eq!(holder_of(&refused), Some(one));
    assert!(server.waits.is_empty());
}

#[test]
fn nobody_waits_for_an_expired_lock() {
    let (_, oracle, server) = setup();
    let (one, two) = (ts(1_000, 1), ts(1_000, 2));
    let Request::PessimisticLock(brief) = lock(&["k"], one, NONE) else { unreachable!("a lock") };
    let brief = PessimisticLock { ttl_ms: 5, ..brief };
    server.call(CONTEXT, Request::PessimisticLock(brief)).expect("free");
    let waiter = {
        let server = Arc::clone(&server);
        spawn("waiter", move || {
            let refused = server.call(CONTEXT, lock(&["k"], two, FOREVER)).expect_err("held");
            assert_eq!(holder_of(&refused), Some(one));
        })
    };
    waiting(&server);
    oracle.advance_to(Timestamp::compose(2_000, 0));
    waiter.join().expect("it has looked again");
}

#[test]
fn a_waiter_hears_that_another_store_leads() {
    let (log, _, server) = setup();
    let (one, two) = (ts(1_000, 1), ts(1_000, 2));
    server.call(CONTEXT, lock(&["k"], one, NONE)).expect("free");
    let waiter = {
        let server = Arc::clone(&server);
        spawn("waiter", move || {
            let refused = server.call(CONTEXT, lock(&["k"], two, FOREVER)).expect_err("moved");
            assert!(matches!(refused, RequestError::Region(RegionError::RegionNotFound(_))));
        })
    };
    waiting(&server);
    log.inner.remove(RegionId(1)).expect("hosted");
    waiter.join().expect("it has looked again");
}

/// Many transactions increment one counter behind one lock: if a release went unheard, a waiter
/// would only come on by its recheck, and this would take minutes.
#[test]
fn a_hot_key_is_handed_on_without_a_pause() {
    const CLIENTS: u64 = 16;
    const ROUNDS: u64 = 40;
    let (_, oracle, server) = setup();
    let inside = Arc::new(AtomicU64::new(0));
    let clock = RealClock::default();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (server, oracle, inside) = (server.clone(), oracle.clone(), inside.clone());
            spawn("client", move || {
                for round in 0..ROUNDS {
                    let start_ts = oracle.get(1).expect("a counter").0;
                    // Sometimes together with a key that others hold for a moment too.
                    let keys = if round % 4 == 0 { &["hot", "warm"][..] } else { &["hot"] };
                    server.call(CONTEXT, lock(keys, start_ts, FOREVER)).expect("locked");
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                    inside.fetch_sub(1, Ordering::SeqCst);
                    server.call(CONTEXT, unlock(keys, start_ts)).expect("let go");
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("no panic"));
    assert!(server.waits.is_empty());
    let limit = Duration::from_millis(CLIENTS * ROUNDS * 500);
    assert!(clock.monotonic() < limit, "waiters were not woken");
}

/// Counts what reaches the log, and what asks for a read index.
struct Counted {
    inner: LocalReplica,
    proposals: AtomicU64,
    reads: AtomicU64,
}

impl Replica for Counted {
    fn propose(&self, proposal: Proposal, done: Done<Applied>) {
        self.proposals.fetch_add(1, Ordering::SeqCst);
        self.inner.propose(proposal, done);
    }

    fn read_index(&self, region: RegionId, epoch: Epoch, done: Done<ReadPermit>) {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.read_index(region, epoch, done);
    }

    fn leads(&self, region: RegionId, epoch: Epoch) -> Option<ReadPermit> {
        self.inner.leads(region, epoch)
    }
}

fn one_phase(key: &str, value: u64, start_ts: Timestamp, version: Timestamp) -> Request {
    Request::Prewrite(Prewrite {
        mutations: vec![Mutation::Put { key: key.into(), value: value.to_le_bytes().into() }],
        primary: key.into(),
        start_ts,
        ttl_ms: 3_000,
        txn_size: 1,
        for_update_ts: version,
        locked: vec![version],
        finish: crate::request::Finish::OnePhase,
        ..Prewrite::default()
    })
}

/// What a contended transaction costs: one log entry, which commits it and locks the key for the
/// next one, and no read index at all. Alone it costs two entries.
#[test]
fn a_contended_transaction_costs_one_log_entry() {
    const CLIENTS: u64 = 8;
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let inner = LocalReplica::new(Arc::clone(&engine));
    let peers = vec![Peer { id: PeerId(1), store: StoreId(1), role: PeerRole::Voter }];
    inner.host(Region { id: RegionId(1), range: KeyRange::all(), epoch: EPOCH, peers }, 5);
    let (proposals, reads) = (AtomicU64::new(0), AtomicU64::new(0));
    let counted = Arc::new(Counted { inner, proposals, reads });
    let oracle = Arc::new(MemoryOracle::new(Timestamp::compose(1_000, 0).0));
    let server = TxnServer::new(Arc::clone(&counted), engine).with_oracle(oracle.clone());
    let server = Arc::new(server);
    let now = |oracle: &MemoryOracle| oracle.get(1).expect("a counter");
    let counts =
        || (counted.proposals.load(Ordering::SeqCst), counted.reads.load(Ordering::SeqCst));

    let first = now(&oracle);
    server.call(CONTEXT, lock(&["k"], first.0, NONE)).expect("free");
    // They come one after the other, and each finds the ones before in the queue.
    let mut waiters = Vec::new();
    for n in 1..=CLIENTS {
        let (server, oracle) = (Arc::clone(&server), Arc::clone(&oracle));
        let start_ts = now(&oracle);
        let called = Arc::clone(&server);
        waiters.push(spawn("waiter", move || {
            let answer = server.call(CONTEXT, lock(&["k"], start_ts.0, FOREVER)).expect("locked");
            let Response::PessimisticLocked(keys) = answer else { panic!("{answer:?}") };
            let [LockedKey { value: Some(value), conflict_ts }] = &keys[..] else {
                panic!("{keys:?}")
            };
            let seen = u64::from_le_bytes(value[..].try_into().expect("eight bytes"));
            let version = now(&oracle).max(*conflict_ts);
            let commit = one_phase("k", seen + 1, start_ts, version);
            server.call(CONTEXT, commit).expect("committed");
        }));
        while called.waits.waiting_for(b"k") < n as usize {
            std::thread::yield_now();
        }
    }
    let before = counts();
    server.call(CONTEXT, one_phase("k", 1, first, now(&oracle))).expect("committed");
    waiters.into_iter().for_each(|waiter| waiter.join().expect("no panic"));
    let after = counts();
    assert_eq!(after.0 - before.0, CLIENTS + 1, "one entry a transaction");
    assert_eq!(after.1, before.1, "and no read index");
    assert!(server.waits.is_empty());
    let value = server.call(CONTEXT, get("k", u64::MAX)).expect("read");
    let Response::Value(Some(value)) = value else { panic!("{value:?}") };
    assert_eq!(value, (CLIENTS + 1).to_le_bytes());
}

/// The log refuses the entry that would have passed the key on: nothing has happened, and the
/// waiter gets it from the second one.
#[test]
fn a_key_is_passed_on_only_if_the_entry_is_applied() {
    let (log, _, server) = setup();
    let (one, two) = (ts(1_000, 1), ts(1_000, 2));
    server.call(CONTEXT, lock(&["k"], one, NONE)).expect("free");
    let waiter = {
        let server = Arc::clone(&server);
        spawn("waiter", move || {
            let answer = server.call(CONTEXT, lock(&["k"], two, FOREVER));
            assert!(matches!(answer, Ok(Response::PessimisticLocked(_))), "{answer:?}");
        })
    };
    waiting(&server);
    log.open.store(false, Ordering::SeqCst);
    let end = call(&server, unlock(&["k"], one));
    while log.count() < 1 {
        std::thread::yield_now();
    }
    let (proposal, done) = log.held.lock().remove(0);
    let passed = proposal.records.iter().any(
        |record| matches!(record, Record::Lock { lock, .. } if lock.start_ts == Timestamp(two)),
    );
    assert!(passed, "{:?}", proposal.records);
    log.open.store(true, Ordering::SeqCst);
    done(Err(RegionError::Stale));
    end.join().expect("no panic");
    // Still held by the first: the waiter has looked, and waits again.
    let refused = server.call(CONTEXT, lock(&["k"], ts(1_000, 3), NONE)).expect_err("held");
    assert_eq!(holder_of(&refused), Some(one));
    server.call(CONTEXT, unlock(&["k"], one)).expect("let go");
    waiter.join().expect("no panic");
    let refused = server.call(CONTEXT, lock(&["k"], ts(1_000, 3), NONE)).expect_err("held");
    assert_eq!(holder_of(&refused), Some(two));
}
