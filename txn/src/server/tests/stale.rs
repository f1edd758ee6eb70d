//! Safe timestamps beside commits that are on their way: whatever is said to be safe must not be
//! changed by what the log answers later.

use super::*;
use crate::request::Finish;

const NOW: u64 = 1_000;
const REGION: RegionId = RegionId(1);

fn short(key: &str, start_ts: u64, finish: Finish) -> Request {
    let Request::Prewrite(prewrite) = prewrite(key, start_ts) else { unreachable!() };
    Request::Prewrite(Prewrite { finish, ..prewrite })
}

fn stale(server: &TxnServer, key: &str, ts: Timestamp) -> Result<Option<Vec<u8>>> {
    let request = Request::Stale(Box::new(get(key, ts.0)));
    match server.call(CONTEXT, request)? {
        Response::Value(value) => Ok(value),
        other => panic!("{other:?}"),
    }
}

/// A prewrite in a thread of its own; its answer.
fn start(server: &Arc<TxnServer>, request: Request) -> (Task, Arc<Mutex<Option<Response>>>) {
    let (server, answer) = (Arc::clone(server), Arc::new(Mutex::new(None)));
    let there = Arc::clone(&answer);
    let task = spawn("prewrite", move || {
        *there.lock() = Some(server.call(CONTEXT, request).expect("answered"));
    });
    (task, answer)
}

fn version_of(answer: &Mutex<Option<Response>>) -> Timestamp {
    match *answer.lock() {
        Some(Response::Prewritten { min_commit_ts, commit_ts }) => commit_ts.max(min_commit_ts),
        ref other => panic!("{other:?}"),
    }
}

/// Its version was chosen before the round and it is applied after it: only the table knows.
fn a_short_commit_on_its_way_holds_the_region_back(finish: Finish) {
    let (log, oracle, server) = setup_at(NOW, LONG);
    let (task, answer) = start(&server, short("k", NOW - 1, finish));
    while log.count() < 1 {
        std::thread::yield_now();
    }
    oracle.advance_to(Timestamp(NOW + 500));
    let advance = server.advance().expect("advances");
    assert_eq!((advance.regions, advance.left, advance.held.len()), (1, 0, 0));
    assert_eq!(advance.ts, Timestamp(NOW + 500));
    let safe = server.safe_ts(REGION);
    assert_eq!(stale(&server, "k", safe).expect("safe"), None);
    log.pass_one();
    task.join().expect("no panic");
    let version = version_of(&answer);
    assert!(safe < version, "{safe} {version}: what was read would change");
    assert!(safe.next() >= version, "{safe} {version}: nothing else is in the way");
}

#[test]
fn a_one_phase_commit_on_its_way_holds_the_region_back() {
    a_short_commit_on_its_way_holds_the_region_back(Finish::OnePhase);
}

#[test]
fn an_async_commit_on_its_way_holds_the_region_back() {
    let finish = Finish::Async { secondaries: Vec::new() };
    a_short_commit_on_its_way_holds_the_region_back(finish);
}

/// It began before the round, and chooses its version after that.
fn a_short_commit_that_comes_later_is_above(finish: Finish) {
    let (log, oracle, server) = setup_at(NOW, LONG);
    log.open.store(true, Ordering::SeqCst);
    // The first one in a term asks the oracle, as a new leader has to.
    let (task, _) = start(&server, short("m", NOW - 1, Finish::OnePhase));
    task.join().expect("no panic");
    oracle.advance_to(Timestamp(NOW + 500));
    server.advance().expect("advances");
    let safe = server.safe_ts(REGION);
    assert!(safe >= Timestamp(NOW + 500));
    assert_eq!(stale(&server, "k", safe).expect("safe"), None);
    let (task, answer) = start(&server, short("k", NOW - 1, finish));
    task.join().expect("no panic");
    let version = version_of(&answer);
    assert!(version > safe, "{version} {safe}: what was read would change");
}

#[test]
fn a_one_phase_commit_that_comes_later_is_above() {
    a_short_commit_that_comes_later_is_above(Finish::OnePhase);
}

#[test]
fn an_async_commit_that_comes_later_is_above() {
    let finish = Finish::Async { secondaries: Vec::new() };
    a_short_commit_that_comes_later_is_above(finish);
}

#[test]
fn a_lock_that_is_applied_holds_the_region_back_until_it_is_pushed_or_gone() {
    let (log, oracle, server) = setup_at(NOW, LONG);
    log.open.store(true, Ordering::SeqCst);
    let call = |request| server.call(CONTEXT, request).expect("answered");
    call(prewrite("k", NOW - 1));
    oracle.advance_to(Timestamp(NOW + 500));
    let advance = server.advance().expect("advances");
    let held: Vec<_> = advance.held.iter().map(|lock| lock.key.clone()).collect();
    assert_eq!(held, [b"k".to_vec()]);
    // Its primary may not be committed at its start or below.
    let safe = server.safe_ts(REGION);
    assert_eq!(safe, Timestamp(NOW - 1));
    // A read at that very timestamp passes the lock by.
    assert_eq!(stale(&server, "k", safe).expect("safe"), None);
    // It stays so, and is told again and again.
    server.advance().expect("advances");
    assert_eq!(server.safe_ts(REGION), safe);
    server.pushed(&[Timestamp(NOW - 1)], Timestamp(NOW + 400));
    server.advance().expect("advances");
    assert_eq!(server.safe_ts(REGION), Timestamp(NOW + 400));
    assert_eq!(stale(&server, "k", Timestamp(NOW + 400)).expect("safe"), None);
    let commit_ts = Timestamp(NOW + 401);
    let start_ts = Timestamp(NOW - 1);
    call(Request::Commit { keys: vec![b"k".to_vec()], start_ts, commit_ts });
    let advance = server.advance().expect("advances");
    assert_eq!(advance.held, []);
    assert_eq!(server.safe_ts(REGION), advance.ts);
    assert_eq!(stale(&server, "k", Timestamp(NOW + 400)).expect("safe"), None);
    assert_eq!(stale(&server, "k", commit_ts).expect("safe"), Some(b"v".to_vec()));
}

#[test]
fn what_is_not_safe_is_refused_and_what_is_collected_too() {
    let (log, oracle, mut server) = setup_at(NOW, LONG);
    log.open.store(true, Ordering::SeqCst);
    let safe_point = GcSafePoint::new();
    Arc::get_mut(&mut server).expect("alone").safe_point = safe_point.clone();
    let refused = |ts: u64| match stale(&server, "k", Timestamp(ts)) {
        Err(RequestError::Region(RegionError::DataIsNotReady { safe_ts, .. })) => safe_ts.0,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(1), 0);
    oracle.advance_to(Timestamp(NOW + 10));
    server.advance().expect("advances");
    assert_eq!(refused(NOW + 11), NOW + 10);
    assert_eq!(refused(u64::MAX), NOW + 10);
    safe_point.advance(Timestamp(NOW + 5));
    let collected = stale(&server, "k", Timestamp(NOW + 4)).expect_err("refused");
    assert!(matches!(collected, RequestError::BelowSafePoint(_)), "{collected}");
    stale(&server, "k", Timestamp(NOW + 5)).expect("safe");
    // Only reads, of this region, of a bounded size.
    let scan = |limit| Request::Scan {
        range: KeyRange::new("c", "d"),
        ts: Timestamp(NOW + 5),
        limit,
        reverse: false,
        bypass: Vec::new(),
    };
    let call = |request| server.call(CONTEXT, Request::Stale(Box::new(request)));
    assert!(matches!(call(scan(3)), Ok(Response::Pairs(pairs)) if pairs.is_empty()));
    for request in [scan(SCAN_PAIRS_MAX + 1), prewrite("k", 10), get("z", NOW + 5)] {
        let text = format!("{request:?}");
        let error = call(request).expect_err("refused");
        let kind = match error {
            RequestError::Region(e) => e.kind(),
            other => panic!("{other}"),
        };
        assert!(matches!(kind, ErrorKind::Invalid | ErrorKind::Reroute), "{text}: {kind:?}");
    }
}

/// Without an oracle nobody knows what comes later.
#[test]
fn without_an_oracle_nothing_is_safe() {
    let (_, server) = setup(LONG);
    let error = server.advance().expect_err("no oracle");
    assert_eq!(error.kind(), ErrorKind::Retry);
    assert_eq!(server.safe_ts(REGION), Timestamp::ZERO);
}
