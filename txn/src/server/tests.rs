//! The server end over a replica whose log answers only when it is told to.

use super::*;
use crate::replica::LocalReplica;
use crate::request::{Mutation, Prewrite, TxnStatus};
use damask_env::{Task, spawn};
use damask_kv::MemoryEngine;
use damask_raftstore::{Applied, Resolved};
use damask_tso::MemoryOracle;
use damask_types::{Epoch, Peer, PeerId, PeerRole, Region, RegionId, StoreId};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

mod phases;
mod stale;
mod waiting;

const EPOCH: Epoch = Epoch { conf_ver: 1, version: 1 };
const CONTEXT: Context = Context { region: RegionId(1), epoch: EPOCH };

/// Holds proposals back.
struct HeldLog {
    inner: LocalReplica,
    held: Mutex<Vec<(Proposal, Done<Applied>)>>,
    /// Nothing is held back any more.
    open: AtomicBool,
}

impl Replica for Arc<HeldLog> {
    fn propose(&self, proposal: Proposal, done: Done<Applied>) {
        match self.open.load(Ordering::SeqCst) {
            true => self.inner.propose(proposal, done),
            false => self.held.lock().push((proposal, done)),
        }
    }

    fn read_index(&self, region: RegionId, epoch: Epoch, done: Done<ReadPermit>) {
        self.inner.read_index(region, epoch, done);
    }

    fn leads(&self, region: RegionId, epoch: Epoch) -> Option<ReadPermit> {
        self.inner.leads(region, epoch)
    }

    fn led(&self) -> Vec<ReadPermit> {
        Replica::led(&self.inner)
    }

    fn resolved(&self, found: Vec<Resolved>) {
        Replica::resolved(&self.inner, found);
    }

    fn read_stale(
        &self,
        region: RegionId,
        epoch: Epoch,
        ts: Timestamp,
        take: &mut dyn FnMut(),
    ) -> damask_raftstore::Result<ReadPermit> {
        Replica::read_stale(&self.inner, region, epoch, ts, take)
    }

    fn safe_ts(&self, region: RegionId) -> Timestamp {
        Replica::safe_ts(&self.inner, region)
    }
}

impl HeldLog {
    /// Waits for a proposal, and lets it pass.
    fn pass_one(&self) {
        loop {
            let first = {
                let mut held = self.held.lock();
                (!held.is_empty()).then(|| held.remove(0))
            };
            match first {
                Some((proposal, done)) => return self.inner.propose(proposal, done),
                None => std::thread::yield_now(),
            }
        }
    }

    fn count(&self) -> usize {
        self.held.lock().len()
    }
}

fn setup(patience: Duration) -> (Arc<HeldLog>, Arc<TxnServer>) {
    let (log, _, server) = setup_at(0, patience);
    (log, server)
}

/// With an oracle that begins with `now`; 0: without one.
fn setup_at(now: u64, patience: Duration) -> (Arc<HeldLog>, Arc<MemoryOracle>, Arc<TxnServer>) {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let inner = LocalReplica::new(Arc::clone(&engine));
    let peer = Peer { id: PeerId(1), store: StoreId(1), role: PeerRole::Voter };
    let range = KeyRange::new("b", "y");
    inner.host(Region { id: RegionId(1), range, epoch: EPOCH, peers: vec![peer] }, 5);
    let log = Arc::new(HeldLog { inner, held: Mutex::default(), open: AtomicBool::new(false) });
    let mut server = TxnServer::new(Arc::clone(&log), engine).with_patience(patience);
    let oracle = Arc::new(MemoryOracle::new(now));
    if now > 0 {
        server = server.with_oracle(oracle.clone());
    }
    (log, oracle, Arc::new(server))
}

fn call(server: &Arc<TxnServer>, request: Request) -> Task {
    let server = Arc::clone(server);
    spawn("caller", move || drop(server.call(CONTEXT, request)))
}

fn get(key: &str, ts: u64) -> Request {
    Request::Get { key: key.into(), ts: Timestamp(ts), bypass: Vec::new() }
}

fn prewrite(key: &str, start_ts: u64) -> Request {
    Request::Prewrite(Prewrite {
        mutations: vec![Mutation::Put { key: key.into(), value: b"v".to_vec() }],
        primary: key.into(),
        start_ts: Timestamp(start_ts),
        ttl_ms: 3_000,
        txn_size: 1,
        ..Prewrite::default()
    })
}

const LONG: Duration = Duration::from_secs(30);

#[test]
fn commands_on_one_key_wait_for_the_log_and_others_do_not() {
    let (log, server) = setup(LONG);
    let answers = Arc::new(Mutex::new(Vec::new()));
    let call = |key: &'static str, start_ts| {
        let (server, answers) = (Arc::clone(&server), Arc::clone(&answers));
        spawn("caller", move || {
            let answer = server.call(CONTEXT, prewrite(key, start_ts));
            answers.lock().push((start_ts, answer.is_ok()));
        })
    };
    let first = call("k", 10);
    while log.count() < 1 {
        std::thread::yield_now();
    }
    let second = call("k", 11);
    let other = call("m", 12);
    while log.count() < 2 {
        std::thread::yield_now();
    }
    // Of the two on `k` only one is decided; `m` is in the log beside it.
    let in_log: Vec<_> = log.held.lock().iter().map(|(p, _)| p.records[0].key()[0]).collect();
    assert_eq!(in_log, [b'k', b'm']);
    log.pass_one();
    log.pass_one();
    [first, second, other].into_iter().for_each(|task| task.join().expect("no panic"));
    let mut answers = answers.lock().clone();
    answers.sort_unstable();
    assert_eq!(answers, [(10, true), (11, false), (12, true)], "the second finds a lock");
}

#[test]
fn latches_stay_until_the_log_has_answered_even_if_nobody_waits() {
    let (log, server) = setup(Duration::from_millis(20));
    let answer = server.call(CONTEXT, prewrite("k", 10));
    let unknown =
        |e: &RequestError| matches!(e, RequestError::Region(RegionError::Undetermined(_)));
    assert!(unknown(&answer.expect_err("no answer in time")));
    // Had the latch been let go, this would decide on a view without the first one's lock.
    let answer = server.call(CONTEXT, prewrite("k", 11));
    assert!(matches!(answer, Err(RequestError::Region(RegionError::Busy(_)))), "{answer:?}");
    log.pass_one();
    let answer = server.call(CONTEXT, prewrite("k", 11));
    assert!(matches!(answer, Err(RequestError::Keys(_))), "{answer:?}");
}

#[test]
fn a_decision_of_an_older_term_is_not_applied() {
    let (log, server) = setup(LONG);
    let caller = {
        let server = Arc::clone(&server);
        spawn("caller", move || {
            let answer = server.call(CONTEXT, prewrite("k", 10));
            assert!(matches!(answer, Err(RequestError::Region(RegionError::Stale))));
        })
    };
    while log.count() < 1 {
        std::thread::yield_now();
    }
    let region = log.inner.remove(RegionId(1)).expect("hosted");
    log.inner.host(region, 6);
    log.pass_one();
    caller.join().expect("no panic");
    let read = Request::Get { key: b"k".to_vec(), ts: Timestamp(99), bypass: Vec::new() };
    assert!(matches!(server.call(CONTEXT, read), Ok(Response::Value(None))));
}

#[test]
fn keys_outside_of_the_region_and_other_epochs_are_refused() {
    let (log, server) = setup(LONG);
    for key in ["a", "y", "z"] {
        let answer = server.call(CONTEXT, prewrite(key, 10));
        let refused = |e: &RequestError| {
            matches!(e, RequestError::Region(RegionError::KeyNotInRegion { .. }))
        };
        assert!(refused(&answer.expect_err("outside")), "{key}");
    }
    let scan = |range: KeyRange, limit| Request::Scan {
        range,
        ts: Timestamp(9),
        limit,
        reverse: false,
        bypass: Vec::new(),
    };
    assert!(server.call(CONTEXT, scan(KeyRange::new("a", "c"), 10)).is_err());
    assert!(server.call(CONTEXT, scan(KeyRange::new("c", ""), 10)).is_err());
    assert!(server.call(CONTEXT, scan(KeyRange::new("c", "y"), usize::MAX)).is_err());
    assert!(server.call(CONTEXT, scan(KeyRange::new("c", "y"), 10)).is_ok());
    let old = Context { epoch: Epoch { conf_ver: 1, version: 0 }, ..CONTEXT };
    let answer = server.call(old, prewrite("k", 10)).expect_err("an old epoch");
    assert!(matches!(answer, RequestError::Region(RegionError::EpochNotMatch { .. })));
    assert_eq!(log.count(), 0);
}

#[test]
fn a_command_without_records_does_not_reach_the_log() {
    let (log, server) = setup(LONG);
    let status = Request::CheckTxnStatus {
        primary: b"k".to_vec(),
        lock_ts: Timestamp(10),
        caller_start_ts: Timestamp::ZERO,
        current_ts: Timestamp(11),
        rollback_if_not_exist: true,
        force_sync_commit: false,
        resolving_pessimistic: false,
    };
    let again = status.clone();
    let caller = {
        let server = Arc::clone(&server);
        spawn("caller", move || drop(server.call(CONTEXT, status)))
    };
    log.pass_one();
    caller.join().expect("no panic");
    let answer = server.call(CONTEXT, again).expect("answered without the log");
    assert!(matches!(answer, Response::Status(TxnStatus::RolledBack)));
}

/// A replica that leads no more and does not know it yet.
struct Deposed(LocalReplica);

impl Replica for Deposed {
    fn propose(&self, _: Proposal, done: Done<Applied>) {
        done(Err(RegionError::Stale));
    }

    fn read_index(&self, region: RegionId, _: Epoch, done: Done<ReadPermit>) {
        done(Err(RegionError::NotLeader { region, leader: None }));
    }

    fn leads(&self, region: RegionId, epoch: Epoch) -> Option<ReadPermit> {
        self.0.leads(region, epoch)
    }
}

/// What a deposed leader decides is either refused by the log or confirmed by a read index: it
/// must not say that a lock is missing which its successor has.
#[test]
fn a_deposed_leader_answers_nothing() {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let replica = LocalReplica::new(Arc::clone(&engine));
    replica
        .host(Region { id: RegionId(1), range: KeyRange::all(), epoch: EPOCH, peers: vec![] }, 5);
    let server = TxnServer::new(Deposed(replica), engine);
    let (keys, start_ts) = (vec![b"k".to_vec()], Timestamp(10));
    let requests = [
        prewrite("k", 10),
        Request::Commit { keys: keys.clone(), start_ts, commit_ts: Timestamp(11) },
        Request::PessimisticRollback { keys, start_ts, for_update_ts: Timestamp(10) },
        Request::HeartBeat { primary: b"k".to_vec(), start_ts, ttl_ms: 1 },
        get("k", 10),
    ];
    for request in requests {
        let words = format!("{request:?}");
        let answer = server.call(CONTEXT, request);
        let refused = |e: &RequestError| {
            let stale = RequestError::Region(RegionError::Stale).to_string();
            e.to_string() == stale || e.to_string().contains("is not led here")
        };
        assert!(refused(&answer.expect_err("not led here")), "{words}");
    }
}
