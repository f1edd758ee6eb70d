//! Random transactions of every kind, straight to the decisions: optimistic and pessimistic, in
//! two phases, async or one; every command twice, some late, clients that stop anywhere, others
//! that resolve what they meet. After each step the families keep their invariants, and what was
//! once read at a timestamp is read there for ever.

use damask_kv::{Engine, MemoryEngine, MvccReader, records_to_batch};
use damask_txn::percolator::{Decision, Error, decide};
use damask_txn::testing::check_invariants;
use damask_txn::{
    Finish, KeyError, LockWait, Mutation, PessimisticLock, Prewrite, Request, Response, TxnStatus,
};
use damask_types::ts::LOGICAL_BITS;
use damask_types::{KeyLock, Lock, Timestamp};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

const KEYS: usize = 4;
const STEPS: usize = 140;
const CASES: u32 = 1_000;
const YOUNG: usize = 3;
/// A lock's life, milliseconds: only `Wait` lets them pass, so that starts and computed versions
/// lie next to each other, and meet.
const TTL: u64 = 12;

/// One step; the numbers choose among what is there.
#[derive(Clone, Copy, Debug)]
enum Step {
    Begin { keys: u8, primary: u8, pessimistic: bool, finish: u8 },
    Lock { txn: u8, allow_conflict: bool },
    Prewrite { txn: u8, kind: u8, synced: bool },
    Commit { txn: u8 },
    Rollback { txn: u8 },
    Unlock { txn: u8 },
    Push { txn: u8 },
    Beat { txn: u8 },
    Resolve { key: u8 },
    Read { key: u8, back: u8 },
    Late { nth: u16 },
    Wait { ms: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let n = any::<u8>;
    prop_oneof![
        3 => (1u8..16, n(), any::<bool>(), 0u8..3).prop_map(|(keys, primary, pessimistic, finish)| {
            Step::Begin { keys, primary, pessimistic, finish }
        }),
        4 => (n(), any::<bool>())
            .prop_map(|(txn, allow_conflict)| Step::Lock { txn, allow_conflict }),
        16 => (n(), 0u8..4, 0u8..8)
            .prop_map(|(txn, kind, odds)| Step::Prewrite { txn, kind, synced: odds > 0 }),
        6 => n().prop_map(|txn| Step::Commit { txn }),
        1 => n().prop_map(|txn| Step::Rollback { txn }),
        1 => n().prop_map(|txn| Step::Unlock { txn }),
        1 => n().prop_map(|txn| Step::Push { txn }),
        1 => n().prop_map(|txn| Step::Beat { txn }),
        4 => n().prop_map(|key| Step::Resolve { key }),
        5 => (n(), 0u8..12).prop_map(|(key, back)| Step::Read { key, back }),
        4 => any::<u16>().prop_map(|nth| Step::Late { nth }),
        1 => (1u8..20).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// A client's transaction.
#[derive(Clone, Debug)]
struct Txn {
    start: u64,
    keys: Vec<usize>,
    primary: usize,
    pessimistic: bool,
    for_update: u64,
    held: BTreeSet<usize>,
    finish: Finish,
    /// By key: what its prewrite asked for; 0: two phases.
    prewritten: BTreeMap<usize, u64>,
    /// The client has failed to lock or to prewrite.
    failed: bool,
    outcome: Option<Option<u64>>,
}

#[derive(Default)]
struct Tally {
    committed: BTreeMap<&'static str, u32>,
    rolled_back: u32,
    rereads: u64,
    resolved_async: u32,
}

struct World<'t> {
    engine: MemoryEngine,
    clock: u64,
    max_ts: u64,
    txns: Vec<Txn>,
    past: Vec<Request>,
    /// (key, version) to what was there.
    reads: HashMap<(usize, u64), Option<Vec<u8>>>,
    /// (start, key) to the version that it was written over.
    versions: HashMap<(u64, usize), u64>,
    tally: &'t RefCell<Tally>,
}

fn key_of(key: usize) -> Vec<u8> {
    vec![b'a' + key as u8]
}

fn is_over(start_ts: Timestamp, ttl_ms: u64, now: Timestamp) -> bool {
    start_ts.physical_ms() + ttl_ms < now.physical_ms()
}

/// The second copy of a command that went through changes nothing and is answered the same.
fn check_again(request: &Request, first: &Response, again: Result<Decision, Error>) {
    let again = again.unwrap_or_else(|e| panic!("{request:?} twice: refused, {e}"));
    assert!(again.records.is_empty(), "{request:?} twice: {:?}", again.records);
    assert_eq!(format!("{first:?}"), format!("{:?}", again.response), "{request:?} twice");
}

/// The check itself: a copy that is told something else.
#[test]
#[should_panic(expected = "twice")]
fn a_second_copy_with_another_answer_is_found() {
    let get = Request::Get { key: key_of(0), ts: Timestamp(5), bypass: vec![] };
    let engine = MemoryEngine::new();
    let reader = MvccReader::new(engine.snapshot());
    let first = Response::Value(Some(b"v".to_vec()));
    check_again(&get, &first, decide(&reader, get.clone()));
}

impl World<'_> {
    fn tick(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp(self.clock)
    }

    /// As the server does: twice, for good measure, and remembered for later.
    fn send(&mut self, request: Request) -> Result<Response, Vec<KeyError>> {
        self.past.push(request.clone());
        self.observe(&request);
        let first = self.decide(request.clone());
        if let Ok(first) = &first {
            let reader = MvccReader::new(self.engine.snapshot());
            check_again(&request, first, decide(&reader, request.clone()));
        }
        first
    }

    fn decide(&mut self, request: Request) -> Result<Response, Vec<KeyError>> {
        let reader = MvccReader::new(self.engine.snapshot());
        match decide(&reader, request) {
            Ok(Decision { records, response }) => {
                self.engine.write(records_to_batch(&records)).expect("written");
                Ok(response)
            }
            Err(Error::Keys(keys)) => Err(keys),
            Err(Error::Invalid(_)) => Err(Vec::new()), // a late command that makes no sense now
            Err(Error::Engine(e)) => panic!("{e}"),
        }
    }

    /// What a command looks at pushes every later commit, as in the server.
    fn observe(&mut self, request: &Request) {
        let seen = match request {
            Request::Get { ts, .. } => ts.0,
            Request::PessimisticLock(lock) => lock.for_update_ts.0,
            Request::CheckSecondaryLocks { start_ts, .. } => start_ts.0,
            Request::CheckTxnStatus { lock_ts, caller_start_ts, current_ts, .. } => {
                lock_ts.0.max(caller_start_ts.0).max(current_ts.0)
            }
            _ => 0,
        };
        self.max_ts = self.max_ts.max(seen);
    }

    fn pick(&self, n: u8) -> Option<usize> {
        // The youngest few: else most transactions would never come to an end.
        let count = self.txns.len();
        (count > 0).then(|| count - 1 - usize::from(n) % count.min(YOUNG))
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Begin { keys, primary, pessimistic, finish } => {
                let keys: Vec<_> = (0..KEYS).filter(|key| keys >> key & 1 == 1).collect();
                self.begin(keys, usize::from(primary), pessimistic, finish);
            }
            Step::Wait { ms } => self.clock += u64::from(ms) << LOGICAL_BITS,
            Step::Read { key, back } => {
                self.read(usize::from(key) % KEYS, self.clock - u64::from(back));
            }
            Step::Late { nth } if !self.past.is_empty() => self.late(usize::from(nth)),
            Step::Late { .. } => {}
            Step::Resolve { key } => self.resolve(usize::from(key) % KEYS),
            Step::Lock { txn, .. }
            | Step::Prewrite { txn, .. }
            | Step::Commit { txn }
            | Step::Rollback { txn }
            | Step::Push { txn }
            | Step::Beat { txn }
            | Step::Unlock { txn } => {
                let Some(at) = self.pick(txn) else { return };
                match step {
                    Step::Lock { allow_conflict, .. } => self.lock(at, allow_conflict),
                    Step::Prewrite { kind, synced, .. } => self.prewrite(at, kind, synced),
                    Step::Commit { .. } => self.commit(at),
                    Step::Rollback { .. } => self.rollback(at),
                    Step::Push { .. } => drop(self.status(at, false, false)),
                    Step::Beat { .. } => self.beat(at),
                    _ => self.unlock(at),
                }
            }
        }
    }

    fn begin(&mut self, keys: Vec<usize>, primary: usize, pessimistic: bool, finish: u8) {
        let start = self.tick().0;
        let primary = keys[primary % keys.len()];
        let others = keys.iter().filter(|key| **key != primary);
        let finish = match finish {
            0 => Finish::TwoPhase,
            1 => Finish::Async { secondaries: others.map(|key| key_of(*key)).collect() },
            _ => Finish::OnePhase,
        };
        self.txns.push(Txn {
            start,
            keys,
            primary,
            pessimistic,
            for_update: if pessimistic { start } else { 0 },
            held: BTreeSet::new(),
            finish,
            prewritten: BTreeMap::new(),
            failed: false,
            outcome: None,
        });
    }

    /// The primary first, then a key after the other, each at a statement of its own.
    fn lock(&mut self, at: usize, allow_conflict: bool) {
        let txn = self.txns[at].clone();
        let started = !txn.prewritten.is_empty() || txn.failed || txn.outcome.is_some();
        if !txn.pessimistic || started {
            return;
        }
        let order = std::iter::once(&txn.primary).chain(&txn.keys);
        let Some(&key) = order.into_iter().find(|key| !txn.held.contains(key)) else { return };
        // Half of the statements read what they saw before: conflicts.
        let for_update = if allow_conflict { txn.for_update } else { self.tick().0 };
        let answer = self.send(Request::PessimisticLock(PessimisticLock {
            keys: vec![key_of(key)],
            primary: key_of(txn.primary),
            start_ts: Timestamp(txn.start),
            for_update_ts: Timestamp(for_update),
            ttl_ms: TTL,
            wait: LockWait::No,
            return_values: true,
            allow_conflict,
        }));
        let Ok(Response::PessimisticLocked(keys)) = answer else { return };
        let version = for_update.max(keys[0].conflict_ts.0);
        let txn = &mut self.txns[at];
        txn.held.insert(key);
        txn.for_update = txn.for_update.max(version);
        self.versions.insert((txn.start, key), version);
    }

    fn prewrite(&mut self, at: usize, kind: u8, synced: bool) {
        let txn = self.txns[at].clone();
        if txn.failed
            || txn.outcome.is_some()
            || (txn.pessimistic && !txn.held.contains(&txn.primary))
        {
            return;
        }
        let left = txn.keys.iter().filter(|key| !txn.prewritten.contains_key(key)).copied();
        let keys: Vec<usize> = match txn.finish {
            Finish::OnePhase => left.collect(),
            _ => left.take(1).collect(),
        };
        if keys.is_empty() {
            return;
        }
        let mutation = |key: &usize| match (usize::from(kind) + key) % 4 {
            0 => Mutation::Delete { key: key_of(*key) },
            1 => Mutation::Lock { key: key_of(*key) },
            2 => Mutation::Put { key: key_of(*key), value: vec![txn.start as u8; 300] },
            _ => Mutation::Put { key: key_of(*key), value: txn.start.to_be_bytes().to_vec() },
        };
        let request = Prewrite {
            mutations: keys.iter().map(mutation).collect(),
            primary: key_of(txn.primary),
            start_ts: Timestamp(txn.start),
            ttl_ms: TTL,
            txn_size: txn.keys.len() as u64,
            for_update_ts: Timestamp(txn.for_update),
            locked: match txn.pessimistic {
                true => {
                    let held = |key: &usize| txn.held.contains(key).then_some((txn.start, *key));
                    let at = |held: Option<_>| held.map_or(0, |place| self.versions[&place]);
                    keys.iter().map(|key| Timestamp(at(held(key)))).collect()
                }
                false => Vec::new(),
            },
            min_commit_ts: Timestamp::ZERO,
            max_commit_ts: Timestamp::ZERO,
            finish: txn.finish.clone(),
        };
        for key in keys.iter().filter(|key| !txn.held.contains(key)) {
            self.versions.insert((txn.start, *key), txn.for_update.max(txn.start));
        }
        match self.send(self.prepared(request, synced)) {
            Ok(Response::Prewritten { min_commit_ts, commit_ts }) => {
                self.prewritten(at, &keys, min_commit_ts, commit_ts);
            }
            Ok(other) => panic!("{other:?}"),
            Err(errors) => {
                let waits = errors.iter().all(|e| matches!(e, KeyError::Locked(_)));
                self.txns[at].failed = !waits;
            }
        }
    }

    /// The server's part: above every read, or not at all in fewer than two phases.
    fn prepared(&self, mut request: Prewrite, synced: bool) -> Request {
        match synced {
            true if request.finish != Finish::TwoPhase => {
                request.min_commit_ts = Timestamp(self.max_ts + 1);
            }
            _ => request.finish = Finish::TwoPhase,
        }
        Request::Prewrite(request)
    }

    fn prewritten(&mut self, at: usize, keys: &[usize], min: Timestamp, commit: Timestamp) {
        if commit != Timestamp::ZERO {
            return self.decided(at, Some(commit.0));
        }
        let txn = &mut self.txns[at];
        txn.prewritten.extend(keys.iter().map(|key| (*key, min.0)));
        if txn.finish == Finish::OnePhase {
            txn.finish = Finish::TwoPhase;
        }
        let whole = txn.prewritten.len() == txn.keys.len();
        let lowest = txn.prewritten.values().copied();
        if whole && matches!(txn.finish, Finish::Async { .. }) && lowest.clone().all(|min| min > 0)
        {
            let commit = lowest.max().expect("some keys");
            self.decided(at, Some(commit));
        }
    }

    /// As a client does: only when all keys are locked, the primary first, at one version.
    fn commit(&mut self, at: usize) {
        let txn = self.txns[at].clone();
        if txn.outcome == Some(None) {
            return;
        }
        if txn.outcome.is_none() {
            if txn.failed || txn.prewritten.len() < txn.keys.len() {
                return;
            }
            let commit_ts = self.tick();
            let keys = vec![key_of(txn.primary)];
            let start_ts = Timestamp(txn.start);
            match self.send(Request::Commit { keys, start_ts, commit_ts }) {
                Ok(_) => self.decided(at, Some(commit_ts.0)),
                Err(errors) => {
                    // Pushed by a reader, or locked at a version one ahead of the clock: later.
                    let expired = matches!(errors[..], [KeyError::CommitTsExpired { .. }]);
                    self.txns[at].failed = !expired;
                    return;
                }
            }
        }
        let Some(Some(commit)) = self.txns[at].outcome else { return };
        if txn.prewritten.len() == txn.keys.len() {
            let keys = txn.keys.iter().map(|key| key_of(*key)).collect();
            let (start_ts, commit_ts) = (Timestamp(txn.start), Timestamp(commit));
            let committed = self.send(Request::Commit { keys, start_ts, commit_ts });
            assert!(committed.is_ok(), "all keys follow: {committed:?} of {txn:?}");
        }
    }

    /// A client gives up; only one that has not been told of its commit does.
    fn rollback(&mut self, at: usize) {
        let txn = self.txns[at].clone();
        let whole = txn.prewritten.len() == txn.keys.len();
        if txn.outcome.is_some() || (whole && !txn.failed) {
            return;
        }
        self.txns[at].failed = true;
        let keys = txn.keys.iter().map(|key| key_of(*key)).collect();
        if self.send(Request::Rollback { keys, start_ts: Timestamp(txn.start) }).is_ok() {
            self.decided(at, None);
        }
    }

    fn unlock(&mut self, at: usize) {
        let txn = self.txns[at].clone();
        if !txn.pessimistic || !txn.prewritten.is_empty() || txn.outcome.is_some() {
            return;
        }
        let keys = txn.held.iter().map(|key| key_of(*key)).collect();
        let (start_ts, for_update_ts) = (Timestamp(txn.start), Timestamp(txn.for_update));
        self.send(Request::PessimisticRollback { keys, start_ts, for_update_ts }).expect("always");
        self.txns[at].held.clear();
        self.txns[at].failed = true;
    }

    /// The client is alive, or a beat of it comes late.
    fn beat(&mut self, at: usize) {
        let txn = self.txns[at].clone();
        let (primary, start_ts) = (key_of(txn.primary), Timestamp(txn.start));
        let answer = self.send(Request::HeartBeat { primary, start_ts, ttl_ms: 2 * TTL });
        let Ok(Response::Status(TxnStatus::Locked { lock })) = answer else { return };
        assert!(lock.ttl_ms >= 2 * TTL && lock.start_ts == start_ts);
        assert!(txn.outcome != Some(None), "nothing lives again");
    }

    fn status(&mut self, at: usize, force: bool, pessimistic: bool) -> Option<TxnStatus> {
        let txn = self.txns[at].clone();
        let now = Timestamp(self.clock);
        let answer = self.send(Request::CheckTxnStatus {
            primary: key_of(txn.primary),
            lock_ts: Timestamp(txn.start),
            caller_start_ts: now,
            current_ts: now,
            rollback_if_not_exist: is_over(Timestamp(txn.start), TTL, now),
            force_sync_commit: force,
            resolving_pessimistic: pessimistic,
        });
        let Ok(Response::Status(status)) = answer else { return None };
        match status {
            TxnStatus::RolledBack => self.decided(at, None),
            TxnStatus::Committed(ts) => self.decided(at, Some(ts.0)),
            TxnStatus::Locked { .. } | TxnStatus::Unknown => {}
        }
        Some(status)
    }

    /// Somebody has met a lock on the key.
    fn resolve(&mut self, key: usize) {
        let reader = MvccReader::new(self.engine.snapshot());
        let Some(lock) = reader.load_lock(&key_of(key)).expect("read") else { return };
        let at = self.txns.iter().position(|txn| txn.start == lock.start_ts.0);
        let at = at.expect("all locks are these transactions'");
        let pessimistic = lock.kind == damask_types::LockKind::Pessimistic;
        let Some(status) = self.status(at, false, pessimistic) else { return };
        let commit = match status {
            TxnStatus::Committed(ts) => ts,
            TxnStatus::RolledBack => Timestamp::ZERO,
            TxnStatus::Unknown => {
                let (keys, start_ts) = (vec![key_of(key)], lock.start_ts);
                let for_update_ts = lock.for_update_ts;
                self.send(Request::PessimisticRollback { keys, start_ts, for_update_ts })
                    .expect("always");
                return;
            }
            TxnStatus::Locked { lock: primary } => match self.ask_secondaries(at, &primary) {
                Some(commit) => commit,
                None => return,
            },
        };
        let (start_ts, commit_ts) = (lock.start_ts, commit);
        let keys = vec![key_of(key), lock.primary.clone()];
        for key in keys {
            let resolve = Request::ResolveLock { start_ts, commit_ts, keys: vec![key] };
            self.send(resolve).expect("an ended transaction's locks can be resolved");
        }
    }

    /// The end of an async commit, if its time is up: all locks stand, or one never will.
    fn ask_secondaries(&mut self, at: usize, primary: &Lock) -> Option<Timestamp> {
        let keys = primary.secondaries.clone()?;
        if !is_over(primary.start_ts, primary.ttl_ms, Timestamp(self.clock)) {
            return None;
        }
        let count = keys.len();
        let start_ts = primary.start_ts;
        let answer = self.send(Request::CheckSecondaryLocks { keys, start_ts });
        let Ok(Response::SecondaryLocks { locks, commit_ts }) = answer else {
            panic!("{answer:?}")
        };
        if commit_ts != Timestamp::ZERO {
            self.decided(at, Some(commit_ts.0));
            return Some(commit_ts);
        }
        if locks.len() < count {
            self.decided(at, None);
            return Some(Timestamp::ZERO);
        }
        if locks.iter().any(|KeyLock { lock, .. }| lock.secondaries.is_none()) {
            return match self.status(at, true, false)? {
                TxnStatus::RolledBack => Some(Timestamp::ZERO),
                TxnStatus::Committed(ts) => Some(ts),
                TxnStatus::Locked { .. } | TxnStatus::Unknown => None,
            };
        }
        let lowest = locks.iter().map(|lock| lock.lock.min_commit_ts);
        let commit_ts = lowest.max().unwrap_or_default().max(primary.min_commit_ts);
        self.decided(at, Some(commit_ts.0));
        self.tally.borrow_mut().resolved_async += 1;
        Some(commit_ts)
    }

    fn late(&mut self, nth: usize) {
        match self.past[nth % self.past.len()].clone() {
            Request::Prewrite(request) => {
                // Its answer is lost too, but what it did counts.
                let start = request.start_ts.0;
                let request = self.prepared(request, true);
                if let Ok(Response::Prewritten { commit_ts, .. }) = self.send(request)
                    && commit_ts != Timestamp::ZERO
                {
                    let at = self.txns.iter().position(|txn| txn.start == start);
                    self.decided(at.expect("one of these"), Some(commit_ts.0));
                }
            }
            // A client that is told of a commit has sent its own; others' pushes and reads are new.
            request => drop(self.send(request)),
        }
    }

    fn read(&mut self, key: usize, at: u64) {
        let answer =
            self.send(Request::Get { key: key_of(key), ts: Timestamp(at), bypass: vec![] });
        let Ok(Response::Value(value)) = answer else { return };
        let first = self.reads.entry((key, at)).or_insert_with(|| value.clone());
        assert_eq!(*first, value, "snapshot_read of {key} at {at}");
    }

    fn decided(&mut self, at: usize, outcome: Option<u64>) {
        let txn = &mut self.txns[at];
        if txn.outcome.is_none() {
            let mut tally = self.tally.borrow_mut();
            match (outcome, &txn.finish, txn.pessimistic) {
                (None, ..) => tally.rolled_back += 1,
                (_, Finish::TwoPhase, false) => *tally.committed.entry("two").or_default() += 1,
                (_, Finish::TwoPhase, true) => *tally.committed.entry("two p").or_default() += 1,
                (_, Finish::Async { .. }, false) => {
                    *tally.committed.entry("async").or_default() += 1
                }
                (_, Finish::Async { .. }, true) => {
                    *tally.committed.entry("async p").or_default() += 1
                }
                (_, Finish::OnePhase, false) => *tally.committed.entry("one").or_default() += 1,
                (_, Finish::OnePhase, true) => *tally.committed.entry("one p").or_default() += 1,
            }
        }
        let known = *txn.outcome.get_or_insert(outcome);
        assert_eq!(known, outcome, "unique_outcome of {txn:?}");
    }

    fn check(&mut self) {
        let seen = |start: Timestamp, key: &[u8]| {
            let key = usize::from(key[0] - b'a');
            Timestamp(self.versions.get(&(start.0, key)).copied().unwrap_or(start.0))
        };
        if let Err(e) = check_invariants(&self.engine, seen) {
            panic!("{e}");
        }
        // What was read once: the same, or somebody's lock in the way.
        let reader = MvccReader::new(self.engine.snapshot());
        for ((key, at), value) in &self.reads {
            let get = Request::Get { key: key_of(*key), ts: Timestamp(*at), bypass: vec![] };
            if let Ok(Decision { response: Response::Value(now), .. }) = decide(&reader, get) {
                assert_eq!(now, *value, "snapshot_read of {key} at {at}, later");
                self.tally.borrow_mut().rereads += 1;
            }
        }
    }
}

#[test]
fn transactions_of_every_kind_keep_the_invariants() {
    let tally = RefCell::new(Tally::default());
    // More of the same sequence: DECISION_CASES=100000.
    let cases = std::env::var("DECISION_CASES").ok().and_then(|cases| cases.parse().ok());
    let mut config = ProptestConfig::with_cases(cases.unwrap_or(CASES));
    config.failure_persistence = None;
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(Default::default()),
    );
    let steps = prop::collection::vec(step(), 1..STEPS);
    let result = runner.run(&steps, |steps| {
        let mut world = World {
            engine: MemoryEngine::new(),
            clock: Timestamp::compose(1, 0).0,
            max_ts: 0,
            txns: Vec::new(),
            past: Vec::new(),
            reads: HashMap::new(),
            versions: HashMap::new(),
            tally: &tally,
        };
        for step in steps {
            world.run(step);
            world.check();
        }
        Ok(())
    });
    if let Err(e) = result {
        panic!("{e}");
    }
    let tally = tally.into_inner();
    for kind in ["two", "two p", "async", "async p", "one", "one p"] {
        let count = tally.committed.get(kind).copied().unwrap_or_default();
        assert!(count >= 50, "only {count} of {kind}: {:?}", tally.committed);
    }
    assert!(tally.rolled_back > 100, "{} rolled back", tally.rolled_back);
    assert!(tally.rereads > 10_000, "{} read again", tally.rereads);
    assert!(tally.resolved_async > 0, "no resolver has finished an async commit");
}
