//! The first phase: every key of a transaction is locked, or in one phase committed. It must never
//! go back to a shorter way after a longer one was taken, nor forget a lock that may stand.
//!
//! ```text
//!   OnePhase ──► Async ──► TwoPhase       a transaction's way only ever falls to the right:
//!      │           │                      a second region, an answer that refuses the short way
//!      │           └── all keys locked: decided, at the largest version that a key named
//!      └── one request: decided by it
//! ```

use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::region::{Core, Failed, Group};
use crate::request::{Finish, KeyError, Mutation, Prewrite, Request, Response};
use damask_types::key::Hex;
use damask_types::{KeyLock, LockKind, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

/// A change, and at which version the transaction holds a pessimistic lock on its key; ZERO: it
/// holds none.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub mutation: Mutation,
    pub locked: Timestamp,
}

impl Change {
    pub fn new(mutation: Mutation, locked: Timestamp) -> Change {
        Change { mutation, locked }
    }

    pub fn key(&self) -> &[u8] {
        self.mutation.key()
    }

    pub fn bytes(&self) -> usize {
        self.mutation.bytes()
    }
}

/// How the transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Way {
    OnePhase,
    Async,
    TwoPhase,
}

/// What all groups of a transaction share.
pub(super) struct Txn {
    pub start_ts: Timestamp,
    pub primary: Vec<u8>,
    pub ttl_ms: u64,
    /// Keys.
    pub size: u64,
    /// ZERO: optimistic.
    pub for_update_ts: Timestamp,
    /// The shorter ways: not below it.
    pub min_commit_ts: Timestamp,
    /// All keys but the primary, if it may end the async way.
    pub secondaries: Option<Vec<Vec<u8>>>,
    way: AtomicU8,
    /// A group has failed: the others need not go on.
    failed: AtomicBool,
    /// A request that may have decided the transaction has no answer.
    unknown: AtomicBool,
    /// A request that could decide it has reached its keys.
    reached: AtomicBool,
}

impl Txn {
    pub fn new(start_ts: Timestamp, primary: Vec<u8>, way: Way) -> Txn {
        Txn {
            start_ts,
            primary,
            ttl_ms: 0,
            size: 0,
            for_update_ts: Timestamp::ZERO,
            min_commit_ts: Timestamp::ZERO,
            secondaries: None,
            way: AtomicU8::new(way as u8),
            failed: AtomicBool::new(false),
            unknown: AtomicBool::new(false),
            reached: AtomicBool::new(false),
        }
    }

    pub fn way(&self) -> Way {
        match self.way.load(Ordering::SeqCst) {
            0 => Way::OnePhase,
            1 => Way::Async,
            _ => Way::TwoPhase,
        }
    }

    fn fall_to(&self, way: Way) {
        self.way.fetch_max(way as u8, Ordering::SeqCst);
    }

    /// May it be decided although a part of it failed?
    pub fn is_unknown(&self) -> bool {
        self.unknown.load(Ordering::SeqCst)
    }

    /// Could a copy of its requests decide it, as long as its primary is not rolled back?
    pub fn may_be_decided(&self) -> bool {
        self.reached.load(Ordering::SeqCst)
    }

    /// How a request with `keys` of its keys may end it.
    fn finish(&self, keys: &[Change]) -> Finish {
        if self.way() == Way::OnePhase && keys.len() as u64 != self.size {
            self.fall_to(if self.secondaries.is_some() { Way::Async } else { Way::TwoPhase });
        }
        match (self.way(), &self.secondaries) {
            (Way::OnePhase, _) => Finish::OnePhase,
            (Way::Async, Some(secondaries)) => {
                let primary = keys.iter().any(|change| change.key() == self.primary);
                let secondaries = if primary { secondaries.clone() } else { Vec::new() };
                Finish::Async { secondaries }
            }
            (Way::Async | Way::TwoPhase, _) => Finish::TwoPhase,
        }
    }
}

/// All keys are locked.
pub(super) struct Locked {
    /// In groups of one region each, sorted within.
    pub groups: Vec<Vec<Vec<u8>>>,
    /// No commit below it.
    pub min_commit_ts: Timestamp,
    /// The transaction is committed already.
    pub decided: Option<Timestamp>,
}

/// Not all keys are locked.
pub(super) struct Failure {
    pub error: Error,
    /// Keys that are locked, or may be.
    pub locked: Vec<Vec<u8>>,
}

/// What became of a group.
#[derive(Default)]
struct Part {
    locked: Vec<Vec<u8>>,
    min_commit_ts: Timestamp,
    decided: Option<Timestamp>,
    failed: Option<Error>,
}

/// Locks every key of the groups.
pub(super) fn prewrite(
    client: &Client,
    txn: &Arc<Txn>,
    groups: Vec<Group<Change>>,
) -> std::result::Result<Locked, Failure> {
    let shared = Arc::clone(txn);
    let run = move |core: &Core, group| prewrite_group(core, &shared, group);
    let (mut groups_locked, mut failures) = (Vec::new(), Vec::new());
    let (mut min_commit_ts, mut decided) = (Timestamp::ZERO, None);
    for part in client.side_by_side(groups, run) {
        groups_locked.push(part.locked);
        min_commit_ts = min_commit_ts.max(part.min_commit_ts);
        decided = decided.or(part.decided);
        failures.extend(part.failed);
    }
    if decided.is_some() || failures.is_empty() {
        return Ok(Locked { groups: groups_locked, min_commit_ts, decided });
    }
    // The first failure that is a reason of its own, not the echo of another's.
    let echo = |e: &Error| matches!(e, Error::Unavailable { attempts: 0, .. });
    let at = failures.iter().position(|e| !echo(e)).unwrap_or(0);
    let locked = groups_locked.into_iter().flatten().collect();
    Err(Failure { error: failures.swap_remove(at), locked })
}

fn prewrite_group(core: &Core, txn: &Txn, group: Group<Change>) -> Part {
    let mut part = Part::default();
    let mut backoff = core.backoff();
    if let Err(e) = lock_group(core, txn, group, &mut part, &mut backoff) {
        txn.failed.store(true, Ordering::Relaxed);
        part.failed = Some(e);
    }
    // A key noted as perhaps locked was then locked for certain.
    part.locked.sort_unstable();
    part.locked.dedup();
    part
}

fn lock_group(
    core: &Core,
    txn: &Txn,
    group: Group<Change>,
    part: &mut Part,
    backoff: &mut Backoff<'_>,
) -> Result<()> {
    let mut work = vec![group];
    while let Some(group) = work.pop() {
        if txn.failed.load(Ordering::Relaxed) {
            let cause = "another part of the transaction failed".to_owned();
            return Err(Error::Unavailable { attempts: 0, waited_ms: 0, cause });
        }
        let finish = txn.finish(&group.items);
        let may_decide = finish != Finish::TwoPhase;
        let outcome = core.call(&group.route, request(txn, &group.items, finish), backoff);
        if backoff.take_unknown() {
            // They may be locked: a failure must roll them back.
            part.locked.extend(group.items.iter().map(|change| change.key().to_vec()));
            if may_decide {
                txn.unknown.store(true, Ordering::SeqCst);
            }
        }
        if may_decide && matches!(outcome, Ok(_) | Err(Failed::Keys(_))) {
            txn.reached.store(true, Ordering::SeqCst);
        }
        match outcome {
            Ok(response) => {
                note_answer(txn, part, may_decide, response)?;
                let keys = group.items.into_iter().map(|change| change.mutation.into_key());
                part.locked.extend(keys);
            }
            Err(Failed::Again) => {
                work.extend(core.group(group.items, Change::key, Change::bytes, backoff)?);
            }
            Err(Failed::Fatal(e)) => return Err(e),
            Err(Failed::Keys(errors)) => {
                wait_for_locks(core, txn, refused(txn, errors)?, backoff)?;
                work.push(group);
            }
        }
    }
    Ok(())
}

fn request(txn: &Txn, changes: &[Change], finish: Finish) -> Request {
    let two_phase = finish == Finish::TwoPhase;
    let locked = match txn.for_update_ts {
        Timestamp::ZERO => Vec::new(),
        _ => changes.iter().map(|change| change.locked).collect(),
    };
    Request::Prewrite(Prewrite {
        mutations: changes.iter().map(|change| change.mutation.clone()).collect(),
        primary: txn.primary.clone(),
        start_ts: txn.start_ts,
        ttl_ms: txn.ttl_ms,
        txn_size: txn.size,
        for_update_ts: txn.for_update_ts,
        locked,
        min_commit_ts: if two_phase { Timestamp::ZERO } else { txn.min_commit_ts },
        max_commit_ts: Timestamp::ZERO,
        finish,
    })
}

fn note_answer(txn: &Txn, part: &mut Part, may_decide: bool, response: Response) -> Result<()> {
    let Response::Prewritten { min_commit_ts, commit_ts } = response else {
        return Err(Error::unexpected("prewrite", response));
    };
    if commit_ts != Timestamp::ZERO {
        part.decided = Some(commit_ts);
    } else if may_decide && (txn.way() == Way::OnePhase || min_commit_ts == Timestamp::ZERO) {
        txn.fall_to(Way::TwoPhase);
    }
    part.min_commit_ts = part.min_commit_ts.max(min_commit_ts);
    Ok(())
}

/// The locks in the way, or what else makes the prewrite hopeless.
fn refused(txn: &Txn, errors: Vec<KeyError>) -> Result<Vec<KeyLock>> {
    let start_ts = txn.start_ts;
    let mut locks = Vec::with_capacity(errors.len());
    for error in errors {
        match error {
            KeyError::Locked(lock) => locks.push(*lock),
            KeyError::AlreadyExists { key } => return Err(Error::AlreadyExists { key }),
            KeyError::WriteConflict { ref key, .. }
            | KeyError::PessimisticLockNotFound { ref key, .. } => {
                let detail = format!("{error} on key {}", Hex(key));
                return Err(Error::Conflict { start_ts, detail });
            }
            other => return Err(Error::unexpected("prewrite", other)),
        }
    }
    Ok(locks)
}

/// Ends the locks of transactions that have ended; waits for older ones.
///
/// A pessimistic lock stands as long as its user thinks, and its owner may be waiting for a lock of
/// this transaction, or for whatever the caller holds while it commits: nobody waits for it here.
/// Who wants to takes a pessimistic lock too, and stands in the store's queue.
fn wait_for_locks(
    core: &Core,
    txn: &Txn,
    locks: Vec<KeyLock>,
    backoff: &mut Backoff<'_>,
) -> Result<()> {
    let start_ts = txn.start_ts;
    let resolution = core.resolve(&locks, Timestamp::ZERO, backoff)?;
    let Some((holder, left)) = resolution.alive else {
        return backoff.turn(&"locks of transactions that had ended");
    };
    let younger = resolution.living.iter().find(|holder| **holder > start_ts);
    if let Some(younger) = younger {
        let detail = format!("transaction {younger}, which began later, holds a lock");
        return Err(Error::Conflict { start_ts, detail });
    }
    let alive = |lock: &&KeyLock| resolution.living.contains(&lock.lock.start_ts);
    let mut living = locks.iter().filter(alive);
    if living.any(|lock| lock.lock.kind == LockKind::Pessimistic) {
        let detail = format!("transaction {holder} holds a lock until it ends");
        return Err(Error::Conflict { start_ts, detail });
    }
    backoff.wait_lock(holder, left.min(Duration::from_secs(1)))
}
