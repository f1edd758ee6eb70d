//! A lock that is passed on is the lock that the waiter would have taken by itself. No test here
//! may look at anything but records and answers.

use super::*;
use crate::percolator::decide;
use crate::request::{Finish, LockWait, Mutation, Prewrite, Request};
use damask_kv::{Engine, MemoryEngine, records_to_batch};
use proptest::prelude::*;

const KEYS: [&[u8]; 2] = [b"k", b"other"];

/// What transaction `txn` (its start is `10 * txn`) does next; `late` lies above its start.
#[derive(Clone, Debug)]
struct Step {
    txn: u64,
    what: u8,
    /// Of the change: put, delete, lock.
    kind: u8,
    late: u64,
    long: bool,
}

fn step() -> impl Strategy<Value = Step> {
    (1u64..8, 0u8..9, 0u8..3, 0u64..90, any::<bool>())
        .prop_map(|(txn, what, kind, late, long)| Step { txn, what, kind, late, long })
}

fn lock_request(txn: u64, late: u64, values: bool) -> PessimisticLock {
    let start_ts = Timestamp(10 * txn);
    PessimisticLock {
        keys: vec![b"k".to_vec()],
        primary: KEYS[(txn % 2) as usize].to_vec(),
        start_ts,
        for_update_ts: Timestamp(start_ts.0 + late),
        ttl_ms: 7,
        wait: LockWait::No,
        return_values: values,
        allow_conflict: true,
    }
}

fn request(step: &Step) -> Request {
    let Step { txn, what, kind, late, long } = *step;
    let (start_ts, late) = (Timestamp(10 * txn), Timestamp(10 * txn + late));
    let key = b"k".to_vec();
    let keys = vec![key.clone()];
    let value = vec![txn as u8; if long { 300 } else { 3 }];
    let mutation = match kind {
        0 => Mutation::Put { key: key.clone(), value },
        1 => Mutation::Delete { key: key.clone() },
        _ => Mutation::Lock { key: key.clone() },
    };
    let prewrite = |finish| {
        Request::Prewrite(Prewrite {
            mutations: vec![mutation.clone()],
            primary: KEYS[(txn % 2) as usize].to_vec(),
            start_ts,
            ttl_ms: 5,
            txn_size: 1,
            for_update_ts: late,
            locked: vec![late],
            min_commit_ts: late.next(),
            finish,
            ..Prewrite::default()
        })
    };
    match what {
        0 | 1 => Request::PessimisticLock(lock_request(txn, step.late, false)),
        2 | 3 => prewrite(Finish::OnePhase),
        4 => prewrite(Finish::TwoPhase),
        5 => prewrite(Finish::Async { secondaries: Vec::new() }),
        6 => Request::Commit { keys, start_ts, commit_ts: late.next() },
        7 => Request::Rollback { keys, start_ts },
        _ => Request::PessimisticRollback { keys, start_ts, for_update_ts: Timestamp::MAX },
    }
}

/// The waiter's request as [`lock`] decides it, as text; errors alike.
fn by_itself(engine: &MemoryEngine, request: &PessimisticLock) -> String {
    let reader = MvccReader::new(engine.snapshot());
    match lock(&reader, request) {
        Ok(Decision { records, response }) => format!("{records:?} {response:?}"),
        Err(e) => format!("{e:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_is_passed_on_is_what_a_look_would_have_taken(
        steps in prop::collection::vec(step(), 1..40), waiter in 1u64..9, late in 0u64..60,
        values in any::<bool>(),
    ) {
        let engine = MemoryEngine::new();
        let waiting = lock_request(waiter, late, values);
        let mut passed = 0;
        for step in steps.iter().filter(|step| step.txn != waiter) {
            let reader = MvccReader::new(engine.snapshot());
            // A version comes from the oracle when the lock is held: none lies below one that is.
            let newest = newest_change(&reader, b"k").expect("memory");
            if step.what == 6 && 10 * step.txn + step.late < newest.0 {
                continue;
            }
            let may = may_be_passed(&reader, &waiting).expect("memory");
            let Ok(Decision { records, .. }) = decide(&reader, request(step)) else { continue };
            let given = pass_on(&reader, &records, &waiting).expect("memory");
            engine.write(records_to_batch(&records)).expect("memory");
            if let Some((record, locked)) = given.filter(|_| may) {
                let response = Response::PessimisticLocked(vec![locked]);
                let given = format!("{:?} {response:?}", [record]);
                prop_assert_eq!(given, by_itself(&engine, &waiting), "after {:?}", step);
                passed += 1;
            }
        }
        let unlocks = steps.len() > 30 && passed == 0;
        prop_assume!(!unlocks);
    }
}

#[test]
fn a_release_is_passed_on_with_the_value_and_anything_else_is_not() {
    let engine = MemoryEngine::new();
    let apply = |what: u8, txn: u64, late: u64, kind: u8| {
        let reader = MvccReader::new(engine.snapshot());
        let step = Step { txn, what, kind, late, long: true };
        let decided = decide(&reader, request(&step)).expect("decided");
        let given = pass_on(&reader, &decided.records, &lock_request(3, 0, false)).expect("read");
        engine.write(records_to_batch(&decided.records)).expect("memory");
        given.map(|(_, locked)| (locked.conflict_ts.0, locked.value.map(|value| value.len())))
    };
    let (put, delete, lock) = (0, 1, 2);
    assert_eq!(apply(0, 1, 0, put), None, "locked");
    assert_eq!(apply(8, 1, 0, put), Some((0, None)), "given back: no conflict, nothing asked");
    apply(0, 1, 0, put);
    assert_eq!(apply(3, 1, 50, put), Some((61, Some(300))), "committed in one phase at 61");
    apply(0, 2, 60, put);
    assert_eq!(apply(4, 2, 60, delete), None, "prewritten");
    assert_eq!(apply(6, 2, 70, put), Some((91, None)), "a delete at 91");
    apply(0, 4, 70, put);
    assert_eq!(apply(2, 4, 70, lock), Some((111, None)), "a lock record");
    apply(0, 5, 70, put);
    assert_eq!(apply(4, 5, 70, put), None, "prewritten, with the long value");
    assert_eq!(apply(6, 5, 80, put), Some((131, Some(300))), "which is passed on from there");
}

/// The first answer was lost; the second request names a later end, and its sender reads by the
/// value until then.
#[test]
fn a_lock_above_its_statement_lives_as_long_as_the_second_request_says() {
    let engine = MemoryEngine::new();
    let write = Write::new(WriteKind::Put, Timestamp(20), Some(b"v".to_vec()));
    let there = Record::Write { key: b"k".to_vec(), commit_ts: Timestamp(25), write };
    engine.write(records_to_batch(&[there])).expect("memory");
    let mut request = lock_request(1, 0, false);
    let mut locks = |ttl_ms| {
        request.ttl_ms = ttl_ms;
        let decided = lock(&MvccReader::new(engine.snapshot()), &request).expect("locked");
        engine.write(records_to_batch(&decided.records)).expect("memory");
        let Response::PessimisticLocked(locked) = decided.response else { panic!("locked") };
        assert_eq!(locked[0].conflict_ts, Timestamp(25));
        assert_eq!(locked[0].value.as_deref(), Some(&b"v"[..]));
        let reader = MvccReader::new(engine.snapshot());
        let lock = reader.load_lock(b"k").expect("memory").expect("there");
        assert_eq!(lock.for_update_ts, Timestamp(25));
        lock.ttl_ms
    };
    assert_eq!([locks(7), locks(90), locks(8)], [7, 90, 90]);
}
