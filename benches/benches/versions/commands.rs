//! Every command of a transaction as what it is: a decision over a snapshot, here of the engine in
//! memory. It must never write, replicate or wait; microseconds for 1,000 keys are nanoseconds a
//! key.

use super::{MANY, row, value};
use criterion::{BatchSize, Criterion, Throughput};
use damask_kv::{Engine, MemoryEngine, MvccReader, records_to_batch};
use damask_txn::percolator::decide;
use damask_txn::{Finish, LockWait, Mutation, PessimisticLock, Prewrite, Request};
use damask_types::{KeyRange, Timestamp};

/// The transaction that the commands are about, its commit, and a later reader's time.
const START: Timestamp = Timestamp(100);
const COMMIT: Timestamp = Timestamp(200);
const LATER: Timestamp = Timestamp(300);
/// A lock's life, which never ends here.
const TTL_MS: u64 = 1 << 40;

/// One command: what was sent before it, the command, and how many records it decides.
struct Case {
    name: &'static str,
    before: Vec<Request>,
    request: Request,
    records: u64,
}

pub(crate) fn commands(c: &mut Criterion) {
    let mut group = c.benchmark_group("command/1000 keys");
    group.throughput(Throughput::Elements(MANY));
    many().into_iter().for_each(|case| run(&mut group, case));
    group.finish();
    let mut group = c.benchmark_group("command/one key");
    group.throughput(Throughput::Elements(1));
    one().into_iter().for_each(|case| run(&mut group, case));
    group.finish();
}

type Group<'a> = criterion::BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn run(group: &mut Group<'_>, Case { name, before, request, records }: Case) {
    let engine = MemoryEngine::new();
    // An older version of every key, committed: what a real one has.
    let old = prewrite(Timestamp(10), Finish::TwoPhase, false);
    let old_commit = commit(Timestamp(10), Timestamp(20));
    for request in [old, old_commit].into_iter().chain(before) {
        let reader = MvccReader::new(engine.snapshot());
        let decision = decide(&reader, request).expect("comes before");
        engine.write(records_to_batch(&decision.records)).expect("memory");
    }
    let reader = MvccReader::new(engine.snapshot());
    let decided = decide(&reader, request.clone()).expect("decides").records.len();
    assert_eq!(decided as u64, records, "{name}");
    group.bench_function(name, |b| {
        b.iter_batched(
            || request.clone(),
            |request| decide(&reader, request).expect("decides"),
            BatchSize::LargeInput,
        );
    });
}

fn keys() -> Vec<Vec<u8>> {
    (0..MANY).map(row).collect()
}

fn prewrite(start_ts: Timestamp, finish: Finish, pessimistic: bool) -> Request {
    let min_commit_ts = match finish {
        Finish::TwoPhase => Timestamp::ZERO,
        _ => COMMIT,
    };
    Request::Prewrite(Prewrite {
        mutations: (0..MANY).map(|n| Mutation::Put { key: row(n), value: value(n) }).collect(),
        primary: row(0),
        start_ts,
        ttl_ms: TTL_MS,
        txn_size: MANY,
        for_update_ts: if pessimistic { start_ts } else { Timestamp::ZERO },
        locked: if pessimistic { vec![start_ts; MANY as usize] } else { Vec::new() },
        min_commit_ts,
        finish,
        ..Prewrite::default()
    })
}

fn asynchronous() -> Request {
    prewrite(START, Finish::Async { secondaries: keys().split_off(1) }, false)
}

fn commit(start_ts: Timestamp, commit_ts: Timestamp) -> Request {
    Request::Commit { keys: keys(), start_ts, commit_ts }
}

fn pessimistic_lock() -> Request {
    Request::PessimisticLock(PessimisticLock {
        keys: keys(),
        primary: row(0),
        start_ts: START,
        for_update_ts: START,
        ttl_ms: TTL_MS,
        wait: LockWait::No,
        return_values: false,
        allow_conflict: false,
    })
}

/// Commands of many keys.
fn many() -> Vec<Case> {
    let two_phase = || prewrite(START, Finish::TwoPhase, false);
    let resolve = |commit_ts| Request::ResolveLock { start_ts: START, commit_ts, keys: keys() };
    let case = |name, before, request, records| Case { name, before, request, records };
    let give_up =
        Request::PessimisticRollback { keys: keys(), start_ts: START, for_update_ts: START };
    let locks = Request::ScanLocks { range: KeyRange::all(), ts: LATER, limit: MANY as usize };
    vec![
        case("prewrite, optimistic", vec![], two_phase(), MANY),
        case(
            "prewrite, pessimistic",
            vec![pessimistic_lock()],
            prewrite(START, Finish::TwoPhase, true),
            MANY,
        ),
        case("prewrite, async commit", vec![], asynchronous(), MANY),
        case("prewrite, one phase", vec![], prewrite(START, Finish::OnePhase, false), MANY),
        case("commit", vec![two_phase()], commit(START, COMMIT), 2 * MANY),
        case("commit, again", vec![two_phase(), commit(START, COMMIT)], commit(START, COMMIT), 0),
        case(
            "rollback",
            vec![two_phase()],
            Request::Rollback { keys: keys(), start_ts: START },
            2 * MANY,
        ),
        case("resolve_lock, committed", vec![two_phase()], resolve(COMMIT), 2 * MANY),
        case("resolve_lock, rolled back", vec![two_phase()], resolve(Timestamp::ZERO), 2 * MANY),
        case(
            "check_secondary_locks",
            vec![asynchronous()],
            Request::CheckSecondaryLocks { keys: keys(), start_ts: START },
            0,
        ),
        case("pessimistic_lock", vec![], pessimistic_lock(), MANY),
        case("pessimistic_rollback", vec![pessimistic_lock()], give_up, MANY),
        case("scan_locks", vec![two_phase()], locks, 0),
    ]
}

/// Commands of the primary alone.
fn one() -> Vec<Case> {
    let check = |caller_start_ts| Request::CheckTxnStatus {
        primary: row(0),
        lock_ts: START,
        caller_start_ts,
        current_ts: LATER,
        rollback_if_not_exist: true,
        force_sync_commit: false,
        resolving_pessimistic: false,
    };
    let two_phase = || prewrite(START, Finish::TwoPhase, false);
    let case = |name, before, request, records| Case { name, before, request, records };
    let beat = Request::HeartBeat { primary: row(0), start_ts: START, ttl_ms: 2 * TTL_MS };
    vec![
        case("check_txn_status, alive", vec![two_phase()], check(Timestamp::ZERO), 0),
        case("check_txn_status, pushed", vec![two_phase()], check(LATER), 1),
        case(
            "check_txn_status, committed",
            vec![two_phase(), commit(START, COMMIT)],
            check(LATER),
            0,
        ),
        case("check_txn_status, nothing there", vec![], check(LATER), 1),
        case("heartbeat", vec![two_phase()], beat, 1),
        case("get", vec![], Request::Get { key: row(MANY / 2), ts: LATER, bypass: Vec::new() }, 0),
    ]
}
