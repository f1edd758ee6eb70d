//! The commit. It must never commit at a version that a reader
//! may have passed, change the primary, or report an unknown outcome as known.
//!
//! ```text
//!                  ┌── one request, one phase: decided by its answer
//!   prewrite ──────┼── small, async: decided when all keys are locked ─────────┐
//!   side by side   └── commit_ts ─► commit the primary's group: decided ──────┤
//!       │ a key refuses                                                   answer, and
//!       ▼                                                     all other keys in the background
//!   end it at its primary: nobody can commit it now, unless a copy of a request just has;
//!   roll back what else was locked
//! ```
//!
//! In one phase and async the stores choose the version: above every read that they have served,
//! and above a timestamp that is taken here before the first request, so that who begins after the
//! answer sees the commit and who had ended before the call is not overtaken (tikv#8589).
//!
//! Waiting for locks cannot end in a cycle: a transaction waits only for older ones (smaller
//! `start_ts`). A younger one in the way that is alive could only commit above this one's start,
//! which would be a write conflict anyway: so it is one at once.

mod prewrite;
mod settle;

pub(crate) use prewrite::Change;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::held::Held;
use crate::region::{Core, Failed, Group};
use crate::request::{KeyError, Mutation, Request};
use damask_types::Timestamp;
use prewrite::{Failure, Locked, Txn, Way, prewrite};
use std::sync::Arc;
use std::time::Duration;

/// A transaction to be committed.
pub(crate) struct Work {
    pub start_ts: Timestamp,
    /// When it began, on the client's monotonic clock.
    pub began: Duration,
    /// At least one, sorted by key.
    pub changes: Vec<Change>,
    /// Pessimistic: its locks.
    pub held: Option<Held>,
}

/// Commits it. Its locks are gone then, or known to the stores as its own; with an error they are
/// given back.
pub(crate) fn commit(client: &Client, work: Work) -> Result<Timestamp> {
    let Work { start_ts, began, mut changes, mut held } = work;
    name_primary(&mut changes, held.as_ref());
    let result = run(client, start_ts, began, changes, held.as_ref());
    if let Some(held) = &mut held {
        match result {
            Ok(_) => held.forget(),
            Err(_) => held.release(),
        }
    }
    result
}

/// Locks may name a primary that was not confirmed itself: then it has to be locked now.
fn name_primary(changes: &mut Vec<Change>, held: Option<&Held>) {
    let Some(primary) = held.and_then(Held::primary) else { return };
    if let Err(at) = changes.binary_search_by(|change| change.key().cmp(primary)) {
        changes.insert(at, Change::new(Mutation::Lock { key: primary.to_vec() }, Timestamp::ZERO));
    }
}

fn run(
    client: &Client,
    start_ts: Timestamp,
    began: Duration,
    changes: Vec<Change>,
    held: Option<&Held>,
) -> Result<Timestamp> {
    let core = client.core();
    let bytes = changes.iter().map(Change::bytes).sum();
    let primary = match held.and_then(Held::primary) {
        Some(primary) => primary.to_vec(),
        None => choose_primary(&changes),
    };
    let age = core.clock.monotonic().saturating_sub(began);
    let size = changes.len() as u64;
    let secondaries = secondaries(core, &changes, &primary);
    let groups = core.group(changes, Change::key, Change::bytes, &mut core.backoff())?;
    let way = choose_way(core, &groups, secondaries.is_some());
    let mut txn = Txn::new(start_ts, primary, way);
    txn.ttl_ms = lifetime_ms(core, bytes) + age.as_millis() as u64;
    txn.size = size;
    txn.for_update_ts = held.map_or(Timestamp::ZERO, Held::newest);
    txn.secondaries = secondaries;
    if way != Way::TwoPhase {
        txn.min_commit_ts = core.timestamp(&mut core.backoff())?.next();
    }
    let txn = Arc::new(txn);
    let kept = held.is_some_and(Held::is_kept_alive);
    let _alive = (!kept).then(|| client.keeper().watch(start_ts, &txn.primary, began));
    match prewrite(client, &txn, groups) {
        Ok(locked) => decide(client, &txn, locked),
        Err(failure) => fail(client, &txn, failure),
    }
}

/// The first key that changes: its record decides, and a lock alone leaves none to readers.
fn choose_primary(changes: &[Change]) -> Vec<u8> {
    let written = |change: &&Change| !matches!(change.mutation, Mutation::Lock { .. });
    let primary = changes.iter().find(written).or(changes.first());
    primary.map(|change| change.key().to_vec()).unwrap_or_default()
}

/// All keys but the primary, if few enough to be named in its lock.
fn secondaries(core: &Core, changes: &[Change], primary: &[u8]) -> Option<Vec<Vec<u8>>> {
    let config = &core.config;
    if !config.async_commit || changes.len() > config.async_keys_max {
        return None;
    }
    let bytes: usize = changes.iter().map(|change| change.key().len()).sum();
    let others = changes.iter().map(Change::key).filter(|key| *key != primary);
    (bytes <= config.async_key_bytes_max).then(|| others.map(<[u8]>::to_vec).collect())
}

fn choose_way(core: &Core, groups: &[Group<Change>], few: bool) -> Way {
    match groups.len() {
        1 if core.config.one_phase => Way::OnePhase,
        _ if few => Way::Async,
        _ => Way::TwoPhase,
    }
}

/// TiDB's rule: 3 s, or 6 s times the square root of the MiB, up to 20 s.
fn lifetime_ms(core: &Core, bytes: usize) -> u64 {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    let config = &core.config;
    ((6_000.0 * mebibytes.sqrt()) as u64).clamp(config.lock_ttl_ms, config.lock_ttl_max_ms)
}

/// Every key is locked.
fn decide(client: &Client, txn: &Txn, locked: Locked) -> Result<Timestamp> {
    let core = client.core();
    let Locked { mut groups, min_commit_ts, decided } = locked;
    let start_ts = txn.start_ts;
    let early = decided.or((txn.way() == Way::Async).then_some(min_commit_ts));
    if let Some(commit_ts) = early {
        core.outcomes.put(start_ts, Some(commit_ts));
        if txn.way() != Way::OnePhase {
            let keys = groups.into_iter().flatten().collect();
            commit_rest(client, start_ts, commit_ts, keys);
        }
        return Ok(commit_ts);
    }
    let with_primary = |keys: &Vec<Vec<u8>>| keys.binary_search(&txn.primary).is_ok();
    let primary_group = groups
        .iter()
        .position(with_primary)
        .ok_or_else(|| Error::unexpected("prewrite", "the primary is in no group"))?;
    let first = groups.swap_remove(primary_group);
    let mut rest: Vec<Vec<u8>> = groups.into_iter().flatten().collect();
    let commit_ts = match commit_primary(core, txn, min_commit_ts, first, &mut rest) {
        Ok(commit_ts) => commit_ts,
        Err(Decided::Known(error)) => return Err(error),
        Err(Decided::NotSent(error, first)) => {
            rest.extend(first);
            roll_back(core, txn, rest);
            return Err(error);
        }
    };
    core.outcomes.put(start_ts, Some(commit_ts));
    commit_rest(client, start_ts, commit_ts, rest);
    Ok(commit_ts)
}

/// A key is not locked. A copy of a request that comes late could still lock what was refused, and
/// decide the transaction: so it is ended at its primary, and whoever came first has decided.
fn fail(client: &Client, txn: &Txn, failure: Failure) -> Result<Timestamp> {
    let Failure { error, mut locked } = failure;
    let (core, start_ts) = (client.core(), txn.start_ts);
    // Late copies of an async prewrite may lock every key, and whoever finds them all so commits:
    // only all keys together tell.
    let by_all_keys = txn.is_unknown() || (txn.may_be_decided() && txn.secondaries.is_some());
    match if by_all_keys { settle::settle(core, txn) } else { settle::end(core, txn) } {
        Ok(Some(commit_ts)) => {
            core.outcomes.put(start_ts, Some(commit_ts));
            commit_rest(client, start_ts, commit_ts, locked);
            return Ok(commit_ts);
        }
        Ok(None) if by_all_keys => core.outcomes.put(start_ts, None),
        Ok(None) => {}
        Err(silent) if by_all_keys || txn.may_be_decided() => {
            let detail = format!("{error}; and nobody can tell: {silent}");
            return Err(Error::Undetermined { start_ts, detail });
        }
        Err(silent) => tracing::warn!(%start_ts, error = %silent, "the primary is left"),
    }
    if by_all_keys {
        // Perhaps a missing key has told: the primary's lock stands.
        locked.push(txn.primary.clone());
    }
    roll_back(core, txn, locked);
    Err(error)
}

/// How a commit of the primary failed.
enum Decided {
    /// Whatever the error says.
    Known(Error),
    /// No commit was accepted and none is on its way; the keys are still locked.
    NotSent(Error, Vec<Vec<u8>>),
}

/// Commits the primary and what shares its request. Keys that turn out to be in other regions go
/// to `rest`.
fn commit_primary(
    core: &Core,
    txn: &Txn,
    min_commit_ts: Timestamp,
    mut keys: Vec<Vec<u8>>,
    rest: &mut Vec<Vec<u8>>,
) -> std::result::Result<Timestamp, Decided> {
    let start_ts = txn.start_ts;
    let mut backoff = core.backoff();
    // May a commit that was sent have happened, although nobody says so?
    let mut unknown = false;
    let fail = |error: Error, unknown: bool, keys: Vec<Vec<u8>>| match unknown {
        true => Decided::Known(Error::Undetermined { start_ts, detail: error.to_string() }),
        false => Decided::NotSent(error, keys),
    };
    let mut commit_ts = match core.timestamp(&mut backoff) {
        Ok(ts) => ts.max(min_commit_ts),
        Err(e) => return Err(fail(e, false, keys)),
    };
    // Ends: every turn decides or takes time from the back-off.
    loop {
        let route = match core.locate(&txn.primary, &mut backoff) {
            Ok(route) => route,
            Err(e) => return Err(fail(e, unknown, keys)),
        };
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|key| route.region.range.contains(key));
        keys = here;
        rest.extend(elsewhere);
        // Sending the same commit again is safe: it is the same decision, and its answer tells
        // what became of the one before.
        let request = Request::Commit { keys: keys.clone(), start_ts, commit_ts };
        let outcome = core.call(&route, request, &mut backoff);
        unknown |= backoff.take_unknown();
        match outcome {
            Ok(_) => return Ok(commit_ts),
            Err(Failed::Again) => {}
            Err(Failed::Fatal(e)) => return Err(fail(e, unknown, keys)),
            Err(Failed::Keys(errors)) => match errors.first() {
                Some(KeyError::CommitTsExpired { .. }) => {
                    // A reader pushed the primary. No commit at the old version can have happened.
                    unknown = false;
                    commit_ts = match core.timestamp(&mut backoff) {
                        Ok(ts) => ts.max(min_commit_ts),
                        Err(e) => return Err(fail(e, unknown, keys)),
                    };
                    if let Err(e) = backoff.turn(&"readers pushed the commit") {
                        return Err(fail(e, unknown, keys));
                    }
                }
                Some(KeyError::TxnLockNotFound { .. }) => {
                    let detail = "it was rolled back by another transaction".to_owned();
                    return Err(fail(Error::Conflict { start_ts, detail }, false, keys));
                }
                _ => return Err(Decided::Known(Error::unexpected("commit", errors))),
            },
        }
    }
}

/// Commits the keys that the decision has left locked. Whatever fails here is done by whoever
/// meets the lock.
fn commit_rest(client: &Client, start_ts: Timestamp, commit_ts: Timestamp, mut keys: Vec<Vec<u8>>) {
    if keys.is_empty() {
        return;
    }
    keys.sort_unstable();
    keys.dedup();
    client.in_background(move |core| {
        let request = |keys| Request::Commit { keys, start_ts, commit_ts };
        if let Err(e) = core.finish_keys(keys, &mut core.brief_backoff(), request) {
            tracing::warn!(%start_ts, error = %e, "secondary keys are left to be resolved");
        }
    });
}

/// Takes off the locks of a transaction that will not commit. Whatever fails here is done by
/// whoever meets the lock, when it expires.
fn roll_back(core: &Core, txn: &Txn, mut keys: Vec<Vec<u8>>) {
    let start_ts = txn.start_ts;
    keys.sort_unstable();
    keys.dedup();
    let request = |keys| Request::Rollback { keys, start_ts };
    if let Err(e) = core.finish_keys(keys, &mut core.brief_backoff(), request) {
        tracing::warn!(%start_ts, error = %e, "locks are left to be resolved");
    }
}
