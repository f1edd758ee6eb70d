//! Two-phase commit (`raftstore-txn-pd.md` §3.3). It must never commit at a version that was not
//! taken after every lock stood, change the primary, or report an unknown outcome as known.
//!
//! ```text
//!   prewrite all groups side by side ─► commit_ts ─► commit the primary's group ─► answer
//!            │ a key refuses                              the decision              │
//!            ▼                                                                      ▼
//!   roll back what was locked                          the other groups, in the background
//! ```
//!
//! Waiting for locks cannot end in a cycle: a transaction waits only for older ones (smaller
//! `start_ts`). A younger one in the way that is alive could only commit above this one's start,
//! which would be a write conflict anyway: so it is one at once.

use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::region::{Core, Failed, Group};
use crate::request::{KeyError, Mutation, Prewrite, Request};
use damask_types::key::Hex;
use damask_types::{KeyLock, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What all groups of a transaction share.
struct Txn {
    start_ts: Timestamp,
    primary: Vec<u8>,
    ttl_ms: u64,
    size: u64,
    /// A group has failed: the others need not go on.
    failed: AtomicBool,
}

/// What became of a group's prewrite.
struct Prewritten {
    /// Keys that are locked, or may be.
    locked: Vec<Vec<u8>>,
    result: Result<()>,
}

/// Commits mutations sorted by key, at least one.
pub(crate) fn commit(
    client: &Client,
    start_ts: Timestamp,
    began: Duration,
    mutations: Vec<Mutation>,
) -> Result<Timestamp> {
    let core = client.core();
    let bytes = mutations.iter().map(Mutation::bytes).sum();
    let primary = choose_primary(&mutations);
    let age = core.clock.monotonic().saturating_sub(began);
    let txn = Arc::new(Txn {
        start_ts,
        ttl_ms: lifetime_ms(core, bytes) + age.as_millis() as u64,
        size: mutations.len() as u64,
        failed: AtomicBool::new(false),
        primary,
    });
    let _alive = client.keeper().watch(start_ts, &txn.primary, began);
    let mut groups = prewrite(client, &txn, mutations)?;
    let primary_group = groups
        .iter()
        .position(|keys| keys.binary_search(&txn.primary).is_ok())
        .ok_or_else(|| Error::unexpected("prewrite", "the primary is in no group"))?;
    let first = groups.swap_remove(primary_group);
    let mut rest: Vec<Vec<u8>> = Vec::new();
    groups.into_iter().for_each(|keys| rest.extend(keys));
    let commit_ts = match commit_primary(core, &txn, first, &mut rest) {
        Ok(commit_ts) => commit_ts,
        Err(Decided::Known(error)) => return Err(error),
        Err(Decided::NotSent(error, first)) => {
            rest.extend(first);
            roll_back(core, &txn, rest);
            return Err(error);
        }
    };
    core.outcomes.put(start_ts, Some(commit_ts));
    commit_rest(client, start_ts, commit_ts, rest);
    Ok(commit_ts)
}

/// The first key that changes: its record decides, and a lock alone leaves none to readers.
fn choose_primary(mutations: &[Mutation]) -> Vec<u8> {
    let changes = |m: &&Mutation| !matches!(m, Mutation::Lock { .. });
    let primary = mutations.iter().find(changes).or(mutations.first());
    primary.map(|m| m.key().to_vec()).unwrap_or_default()
}

/// TiDB's rule: 3 s, or 6 s times the square root of the MiB, up to 20 s.
fn lifetime_ms(core: &Core, bytes: usize) -> u64 {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    let config = &core.config;
    ((6_000.0 * mebibytes.sqrt()) as u64).clamp(config.lock_ttl_ms, config.lock_ttl_max_ms)
}

/// Locks every key, or rolls back those that it locked. The keys in groups of one region each,
/// sorted within.
fn prewrite(
    client: &Client,
    txn: &Arc<Txn>,
    mutations: Vec<Mutation>,
) -> Result<Vec<Vec<Vec<u8>>>> {
    let core = client.core();
    let groups = core.group(mutations, Mutation::key, Mutation::bytes, &mut core.backoff())?;
    let shared = Arc::clone(txn);
    let run = move |core: &Core, group| prewrite_group(core, &shared, group);
    let mut locked = Vec::new();
    let mut failures = Vec::new();
    for done in client.side_by_side(groups, run) {
        locked.push(done.locked);
        failures.extend(done.result.err());
    }
    // The first failure that is a reason of its own, not the echo of another's.
    let echo = |e: &Error| matches!(e, Error::Unavailable { attempts: 0, .. });
    let at = failures.iter().position(|e| !echo(e)).unwrap_or(0);
    if failures.is_empty() {
        return Ok(locked);
    }
    roll_back(core, txn, locked.into_iter().flatten().collect());
    Err(failures.swap_remove(at))
}

fn prewrite_group(core: &Core, txn: &Txn, group: Group<Mutation>) -> Prewritten {
    let mut locked = Vec::new();
    let mut backoff = core.backoff();
    let result = lock_group(core, txn, group, &mut locked, &mut backoff);
    if result.is_err() {
        txn.failed.store(true, Ordering::Relaxed);
    }
    Prewritten { locked, result }
}

fn lock_group(
    core: &Core,
    txn: &Txn,
    group: Group<Mutation>,
    locked: &mut Vec<Vec<u8>>,
    backoff: &mut Backoff<'_>,
) -> Result<()> {
    let mut work = vec![group];
    while let Some(group) = work.pop() {
        if txn.failed.load(Ordering::Relaxed) {
            let cause = "another part of the transaction failed".to_owned();
            return Err(Error::Unavailable { attempts: 0, waited_ms: 0, cause });
        }
        let request = Request::Prewrite(Prewrite {
            mutations: group.items.clone(),
            primary: txn.primary.clone(),
            start_ts: txn.start_ts,
            ttl_ms: txn.ttl_ms,
            txn_size: txn.size,
            ..Prewrite::default()
        });
        let outcome = core.call(&group.route, request, backoff);
        if backoff.take_unknown() {
            // They may be locked: a failure must roll them back.
            locked.extend(group.items.iter().map(|m| m.key().to_vec()));
        }
        match outcome {
            Ok(_) => locked.extend(group.items.into_iter().map(Mutation::into_key)),
            Err(Failed::Again) => {
                let items = group.items;
                work.extend(core.group(items, Mutation::key, Mutation::bytes, backoff)?);
            }
            Err(Failed::Fatal(e)) => return Err(e),
            Err(Failed::Keys(errors)) => {
                wait_for_locks(core, txn, refused(txn, errors)?, backoff)?;
                work.push(group);
            }
        }
    }
    // A key noted as perhaps locked was then locked for certain.
    locked.sort_unstable();
    locked.dedup();
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
            KeyError::WriteConflict { ref key, .. } => {
                let detail = format!("{error} on key {}", Hex(key));
                return Err(Error::Conflict { start_ts, detail });
            }
            other => return Err(Error::unexpected("prewrite", other)),
        }
    }
    Ok(locks)
}

/// Ends the locks of transactions that have ended; waits for older ones.
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
    backoff.wait_lock(holder, left.min(Duration::from_secs(1)))
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
        Ok(ts) => ts,
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
                        Ok(ts) => ts,
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
