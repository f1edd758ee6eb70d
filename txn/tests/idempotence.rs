//! Random commands of a few transactions, each perhaps twice and late, straight to the decisions:
//! after every one the invariants hold over all families.

use damask_kv::{Cf, Engine, MemoryEngine, MvccReader, records_to_batch};
use damask_txn::percolator::{Decision, Error, decide};
use damask_txn::{Mutation, Prewrite, Request, Response, TxnStatus};
use damask_types::codec::{decode_key, split_key_ts};
use damask_types::{Lock, Record, Timestamp, Write, WriteKind};
use std::collections::HashMap;

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

#[derive(Default)]
struct Txn {
    start: u64,
    keys: Vec<&'static str>,
    primary: &'static str,
    prewritten: Vec<&'static str>,
    /// The answer to the primary's commit or status was final.
    outcome: Option<Option<u64>>,
}

struct World {
    engine: MemoryEngine,
    chance: Chance,
    clock: u64,
    txns: Vec<Txn>,
    past: Vec<Request>,
}

impl World {
    fn tick(&mut self) -> u64 {
        self.clock += 1 + self.chance.below(3);
        self.clock
    }

    fn send(&mut self, request: Request) -> Option<Response> {
        let reader = MvccReader::new(self.engine.snapshot());
        let decided = decide(&reader, request.clone());
        self.past.push(request.clone());
        let Decision { records, response } = match decided {
            Ok(decision) => decision,
            Err(Error::Keys(_)) => return None,
            Err(e) => panic!("{request:?}: {e}"),
        };
        check_records(&records);
        self.engine.write(records_to_batch(&records)).expect("written");
        // At once again: nothing may change, and whoever has lost the answer is told the same.
        let reader = MvccReader::new(self.engine.snapshot());
        check_again(&request, &response, decide(&reader, request.clone()));
        Some(response)
    }

    fn begin(&mut self) {
        let start = self.tick();
        let mut keys: Vec<_> = KEYS.into_iter().filter(|_| self.chance.below(2) == 0).collect();
        if keys.is_empty() {
            keys.push("a");
        }
        let primary = keys[self.chance.below(keys.len() as u64) as usize];
        self.txns.push(Txn { start, keys, primary, ..Txn::default() });
    }

    fn step(&mut self) {
        if self.txns.is_empty() || self.chance.below(6) == 0 {
            self.begin();
        }
        let at = self.chance.below(self.txns.len() as u64) as usize;
        let start_ts = Timestamp(self.txns[at].start);
        let primary = self.txns[at].primary;
        match self.chance.below(8) {
            0..3 => self.prewrite(at),
            3 | 4 => self.commit(at),
            5 => {
                // Somebody finds the primary expired, or absent.
                let request = Request::CheckTxnStatus {
                    primary: primary.into(),
                    lock_ts: start_ts,
                    caller_start_ts: Timestamp(self.clock),
                    current_ts: match self.chance.below(2) {
                        0 => Timestamp::compose(100, 0),
                        _ => Timestamp(self.clock),
                    },
                    rollback_if_not_exist: self.chance.below(2) == 0,
                    force_sync_commit: false,
                    resolving_pessimistic: false,
                };
                match self.send(request) {
                    Some(Response::Status(TxnStatus::RolledBack)) => self.decided(at, None),
                    Some(Response::Status(TxnStatus::Committed(ts))) => {
                        self.decided(at, Some(ts.0));
                    }
                    _ => {}
                }
            }
            6 => self.resolve(at),
            _ => {
                // A late copy of anything.
                let n = self.past.len() as u64;
                if n > 0 {
                    let request = self.past[self.chance.below(n) as usize].clone();
                    self.send(request);
                }
            }
        }
    }

    fn prewrite(&mut self, at: usize) {
        let txn = &self.txns[at];
        if txn.outcome.is_some() {
            return;
        }
        let key = txn.keys[self.chance.below(txn.keys.len() as u64) as usize];
        let mutation = match self.chance.0 % 4 {
            0 => Mutation::Delete { key: key.into() },
            1 => Mutation::Lock { key: key.into() },
            2 => Mutation::Put { key: key.into(), value: vec![7; 300] },
            _ => Mutation::Put { key: key.into(), value: vec![7; 3] },
        };
        if txn.prewritten.contains(&key) {
            return;
        }
        let request = Request::Prewrite(Prewrite {
            mutations: vec![mutation],
            primary: txn.primary.into(),
            start_ts: Timestamp(txn.start),
            ttl_ms: 3,
            txn_size: txn.keys.len() as u64,
            ..Prewrite::default()
        });
        if self.send(request).is_some() {
            self.txns[at].prewritten.push(key);
        }
    }

    /// As a client does: only when all keys are locked, the primary first, at one version.
    fn commit(&mut self, at: usize) {
        let txn = &self.txns[at];
        if txn.prewritten.len() < txn.keys.len() || txn.outcome == Some(None) {
            return;
        }
        let (keys, primary, start_ts) = (txn.keys.clone(), txn.primary, Timestamp(txn.start));
        if self.txns[at].outcome.is_none() {
            let commit = self.tick();
            let request = Request::Commit {
                keys: vec![primary.into()],
                start_ts,
                commit_ts: Timestamp(commit),
            };
            if self.send(request).is_none() {
                return;
            }
            self.decided(at, Some(commit));
        }
        let Some(Some(commit)) = self.txns[at].outcome else { return };
        let key = keys[self.chance.below(keys.len() as u64) as usize];
        let request =
            Request::Commit { keys: vec![key.into()], start_ts, commit_ts: Timestamp(commit) };
        assert!(self.send(request).is_some(), "a secondary must follow its primary");
    }

    fn resolve(&mut self, at: usize) {
        let txn = &self.txns[at];
        let Some(outcome) = txn.outcome else { return };
        let key = txn.keys[self.chance.below(txn.keys.len() as u64) as usize];
        let request = Request::ResolveLock {
            start_ts: Timestamp(txn.start),
            commit_ts: Timestamp(outcome.unwrap_or(0)),
            keys: vec![key.into()],
        };
        self.send(request);
    }

    fn decided(&mut self, at: usize, outcome: Option<u64>) {
        let known = *self.txns[at].outcome.get_or_insert(outcome);
        assert_eq!(known, outcome, "unique_outcome of {}", self.txns[at].start);
    }

    /// Scans the families.
    fn check(&self) {
        let snapshot = self.engine.snapshot();
        let mut writes: HashMap<(Vec<u8>, Timestamp), Write> = HashMap::new();
        let mut cursor = snapshot.cursor(Cf::Write, b"", b"").expect("a cursor");
        let mut pair = cursor.seek(b"").expect("read");
        let mut outcomes: HashMap<Timestamp, Option<Timestamp>> = HashMap::new();
        let mut last: Option<(Vec<u8>, Timestamp)> = None;
        while let Some((key, value)) = pair {
            let (key, commit_ts) = split_key_ts(key).expect("a version");
            let key = decode_key(key).expect("a key");
            let write = Write::decode(value).expect("a record");
            let rolled_back = write.kind == WriteKind::Rollback;
            match rolled_back {
                true => assert_eq!(commit_ts, write.start_ts),
                false => assert!(commit_ts > write.start_ts, "commit_after_start"),
            }
            let outcome = (!rolled_back).then_some(commit_ts);
            let known = outcomes.entry(write.start_ts).or_insert(outcome);
            assert_eq!(*known, outcome, "unique_outcome, same_commit_ts of {}", write.start_ts);
            if !rolled_back {
                // Newest first: the newer writer must have begun after this commit.
                if let Some((newer_key, newer_start)) = &last
                    && *newer_key == key
                {
                    assert!(*newer_start >= commit_ts, "no_write_overlap on {key:?}");
                }
                last = Some((key.clone(), write.start_ts));
            }
            writes.insert((key, commit_ts), write);
            pair = cursor.next().expect("read");
        }
        self.check_values(&writes, &outcomes);
    }

    fn check_values(
        &self,
        writes: &HashMap<(Vec<u8>, Timestamp), Write>,
        outcomes: &HashMap<Timestamp, Option<Timestamp>>,
    ) {
        let snapshot = self.engine.snapshot();
        let reader = MvccReader::new(self.engine.snapshot());
        let mut wanted = 0;
        for ((key, _), write) in writes {
            if write.kind == WriteKind::Put {
                let value = reader.load_value(key, write).expect("value_present");
                wanted += usize::from(value.expect("a put").len() > 255);
            }
        }
        let locks = reader.scan_locks(&damask_types::KeyRange::all(), |_| true, 100);
        for lock in locks.expect("read") {
            let Lock { start_ts, .. } = lock.lock;
            let own =
                writes.iter().find(|((key, _), w)| *key == lock.key && w.start_ts == start_ts);
            assert!(own.is_none(), "one_lock_per_key: {lock:?} beside {own:?}");
            if lock.key == lock.lock.primary {
                assert!(!outcomes.contains_key(&start_ts), "commit_implies_primary: {lock:?}");
            }
            let long =
                lock.lock.short_value.is_none() && lock.lock.kind == damask_types::LockKind::Put;
            wanted += usize::from(long);
        }
        let mut cursor = snapshot.cursor(Cf::Default, b"", b"").expect("a cursor");
        let mut stored = 0;
        let mut pair = cursor.seek(b"").expect("read");
        while pair.is_some() {
            stored += 1;
            pair = cursor.next().expect("read");
        }
        assert_eq!(stored, wanted, "value_present: no value without its lock or record");
    }
}

/// The second copy of a command that went through changes nothing and is answered the same.
fn check_again(request: &Request, first: &Response, again: Result<Decision, Error>) {
    let again = again.unwrap_or_else(|e| panic!("{request:?} twice: refused, {e}"));
    assert!(again.records.is_empty(), "{request:?} twice: {:?}", again.records);
    assert_eq!(format!("{:?}", again.response), format!("{first:?}"), "{request:?} twice");
}

/// The check itself: a command that does not know what it has done.
#[test]
#[should_panic(expected = "twice: refused")]
fn a_second_copy_that_is_refused_is_found() {
    let rollback = Request::Rollback { keys: vec![b"a".to_vec()], start_ts: Timestamp(5) };
    let committed = Request::Commit {
        keys: vec![b"a".to_vec()],
        start_ts: Timestamp(5),
        commit_ts: Timestamp(6),
    };
    let engine = MemoryEngine::new();
    let reader = MvccReader::new(engine.snapshot());
    let first = decide(&reader, rollback).expect("nothing is in its way");
    check_again(&committed, &first.response, decide(&reader, committed.clone()));
}

fn check_records(records: &[Record]) {
    let mut versions: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Write { key, commit_ts, .. } => Some((key.clone(), *commit_ts)),
            _ => None,
        })
        .collect();
    let count = versions.len();
    versions.sort();
    versions.dedup();
    assert_eq!(versions.len(), count, "unique_write");
}

#[test]
fn random_commands_keep_the_invariants() {
    let mut committed = 0;
    for seed in 0..300 {
        let mut world = World {
            engine: MemoryEngine::new(),
            chance: Chance(seed),
            clock: 10,
            txns: Vec::new(),
            past: Vec::new(),
        };
        for _ in 0..80 {
            world.step();
            world.check();
        }
        committed += world.txns.iter().filter(|t| matches!(t.outcome, Some(Some(_)))).count();
    }
    assert!(committed > 300, "only {committed} transactions committed: the test tests little");
}
