//! The locks of one pessimistic transaction: taken statement by statement, kept alive, given back.
//! It must never call a key held whose lock nobody has confirmed, nor change the primary while a
//! lock may name it.
//!
//! ```text
//!   keys of a statement ─► group by region ─► the primary's group first ─► the others side by side
//!      locked                     ─► held at the version that the statement read
//!      locked above that version  ─► held at the newer one; the statement is outdated
//!      a newer version            ─► the statement is outdated
//!      another's lock             ─► the store waits in the key's queue; ended ones are resolved
//!      no answer                  ─► perhaps locked: not held, but given back at the end
//! ```
//!
//! The primary is the first key that was ever locked. As long as a lock may stand it stays the
//! primary, since other transactions ask it what became of this one.

use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::keeper::Watch;
use crate::options::Wait;
use crate::region::{Core, Failed, Group};
use crate::request::{KeyError, LockWait, LockedKey, PessimisticLock, Request, Response};
use damask_types::{KeyLock, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Pause of a waiter between two waits in a store's queue.
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// The locks, as far as known. Dropping it gives them back, in the background.
pub(crate) struct Held {
    client: Client,
    start_ts: Timestamp,
    began: Duration,
    primary: Option<Vec<u8>>,
    /// Nothing newer than this version can stand on the key.
    keys: BTreeMap<Vec<u8>, Timestamp>,
    /// Nobody said whether they are locked.
    perhaps: BTreeSet<Vec<u8>>,
    /// The newest version of all statements and locks.
    newest: Timestamp,
    /// What statements have locked was read at one version, at several, or not at all.
    read: Read,
    alive: Option<Watch>,
    fresh: Option<Fresh>,
}

/// What came with the primary's lock that made a statement outdated, for its second run. As long as
/// the lock stands it is the key's value at every version from its own on.
struct Fresh {
    key: Vec<u8>,
    version: Timestamp,
    value: Option<Vec<u8>>,
    /// The lock lives until then, in the oracle's milliseconds: whoever ends it for its age, and
    /// writes the key, does so at a later timestamp.
    until_ms: u64,
    /// The second run has begun.
    used: bool,
}

/// At which versions statements that lock have read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Read {
    #[default]
    Never,
    At(Timestamp),
    Several,
}

/// What one statement wants.
#[derive(Clone, Copy)]
pub(crate) struct Ask {
    /// The version that it read.
    pub read_ts: Timestamp,
    pub wait: Wait,
    /// Go on without the keys that others hold.
    pub skip: bool,
    /// Learn which keys have a value.
    pub values: bool,
}

/// What all groups of one statement share.
struct Shared {
    ask: Ask,
    primary: Vec<u8>,
    start_ts: Timestamp,
    began: Duration,
    /// On the client's monotonic clock: locks are waited for until then.
    deadline: Duration,
}

/// What became of a group.
#[derive(Default)]
struct Taken {
    /// With the version, and whether the key has a value.
    held: Vec<(Vec<u8>, Timestamp, bool)>,
    perhaps: Vec<Vec<u8>>,
    fresh: Option<Fresh>,
    /// The holder of the first lock in the way, whose primary has said that it is alive.
    alive: Option<Timestamp>,
    failed: Option<Error>,
}

impl Held {
    pub fn new(client: Client, start_ts: Timestamp, began: Duration) -> Held {
        Held {
            client,
            start_ts,
            began,
            primary: None,
            keys: BTreeMap::new(),
            perhaps: BTreeSet::new(),
            newest: start_ts,
            read: Read::Never,
            alive: None,
            fresh: None,
        }
    }

    /// The value of a held key at `read_ts`, if it came with its lock just now.
    pub fn fresh(&self, key: &[u8], read_ts: Timestamp) -> Option<&Option<Vec<u8>>> {
        let fresh = self.fresh.as_ref().filter(|fresh| fresh.key == key)?;
        let is_known = fresh.version <= read_ts && self.keys.contains_key(key);
        (is_known && read_ts.physical_ms() <= fresh.until_ms).then_some(&fresh.value)
    }

    /// A statement begins: what the one before has learned is for its second run only.
    pub fn begin_statement(&mut self) {
        self.fresh = self.fresh.take().filter(|fresh| !fresh.used);
        if let Some(fresh) = &mut self.fresh {
            fresh.used = true;
        }
    }

    /// The version at which a key is locked.
    pub fn version(&self, key: &[u8]) -> Option<Timestamp> {
        self.keys.get(key).copied()
    }

    /// Bytes of the held keys.
    pub fn bytes(&self) -> usize {
        self.keys.keys().map(Vec::len).sum()
    }

    /// The held keys, in order, each with the version at which it is locked.
    pub fn versions(&self) -> impl Iterator<Item = (&[u8], Timestamp)> {
        self.keys.iter().map(|(key, version)| (key.as_slice(), *version))
    }

    /// A statement that locks has ended, and its user knows what it read at this version.
    pub fn has_read(&mut self, read_ts: Timestamp) {
        self.read = match self.read {
            Read::Never => Read::At(read_ts),
            Read::At(other) if other == read_ts => self.read,
            Read::At(_) | Read::Several => Read::Several,
        };
    }

    /// At most one version of the data was locked, and no statement has read under these locks at
    /// another: what it saw was there at that version, whatever became of the locks.
    pub fn is_of_one_version(&self) -> bool {
        let mut versions = self.keys.values();
        let first = versions.next();
        first.is_none() || (self.read != Read::Several && versions.all(|v| Some(v) == first))
    }

    /// The deciding key, if a lock may name it.
    pub fn primary(&self) -> Option<&[u8]> {
        self.primary.as_deref()
    }

    /// The newest version that a statement saw.
    pub fn newest(&self) -> Timestamp {
        self.newest
    }

    /// A statement reads at this version.
    pub fn saw(&mut self, read_ts: Timestamp) {
        self.newest = self.newest.max(read_ts);
    }

    /// Locks these keys (rising, none held); says which of them have a value, if asked. With an
    /// error, those that were locked are held all the same.
    pub fn acquire(&mut self, mut keys: Vec<Vec<u8>>, ask: Ask) -> Result<BTreeSet<Vec<u8>>> {
        let Some(first) = keys.first() else { return Ok(BTreeSet::new()) };
        self.saw(ask.read_ts);
        let primary = self.primary.get_or_insert_with(|| first.clone()).clone();
        if !self.keys.contains_key(&primary) {
            // It comes first, also when an answer about it was lost before.
            if let Err(at) = keys.binary_search(&primary) {
                keys.insert(at, primary.clone());
            }
        }
        let taken = self.take(keys, primary, ask);
        let (mut valued, mut failures) = (BTreeSet::new(), Vec::new());
        for part in taken? {
            for (key, version, has_value) in part.held {
                self.perhaps.remove(&key);
                self.newest = self.newest.max(version);
                if has_value {
                    valued.insert(key.clone());
                }
                if version > ask.read_ts {
                    failures.push(Error::Outdated { key: key.clone(), read_ts: ask.read_ts });
                }
                self.keys.insert(key, version);
            }
            self.perhaps.extend(part.perhaps);
            self.fresh = part.fresh.or(self.fresh.take());
            failures.extend(part.failed);
        }
        self.settle_primary();
        // A statement that cannot go on need not be run again.
        let fatal = failures.iter().position(|e| !matches!(e, Error::Outdated { .. }));
        match failures.is_empty() {
            true => Ok(valued),
            false => Err(failures.swap_remove(fatal.unwrap_or(0))),
        }
    }

    /// Sends the groups: the primary's alone and first, unless it is held.
    fn take(&self, keys: Vec<Vec<u8>>, primary: Vec<u8>, ask: Ask) -> Result<Vec<Taken>> {
        let core = self.client.core();
        let mut groups = core.group(keys, |key| key, Vec::len, &mut core.backoff())?;
        let has_primary = |g: &Group<Vec<u8>>| g.items.binary_search(&primary).is_ok();
        let first = groups.iter().position(has_primary).map(|at| groups.swap_remove(at));
        let (start_ts, began) = (self.start_ts, self.began);
        let patience = match ask.wait {
            Wait::No => Duration::ZERO,
            Wait::Millis(ms) => Duration::from_millis(ms),
        };
        let deadline = core.clock.monotonic().saturating_add(patience);
        let shared = Arc::new(Shared { ask, primary, start_ts, began, deadline });
        let mut taken = Vec::with_capacity(groups.len() + 1);
        if let Some(first) = first {
            taken.push(lock_group(core, &shared, first));
            if taken[0].failed.is_some() {
                return Ok(taken);
            }
        }
        let run = move |core: &Core, group| lock_group(core, &shared, group);
        taken.extend(self.client.side_by_side(groups, run));
        Ok(taken)
    }

    /// After a round: a primary that nothing can name is none.
    fn settle_primary(&mut self) {
        if self.keys.is_empty() && self.perhaps.is_empty() {
            self.primary = None;
        } else if let Some(primary) = self.primary.as_ref().filter(|_| self.alive.is_none()) {
            self.alive = Some(self.client.keeper().watch(self.start_ts, primary, self.began));
        }
    }

    /// Does it have heartbeats?
    pub fn is_kept_alive(&self) -> bool {
        self.alive.is_some()
    }

    /// The transaction has ended and its end took these locks off.
    pub fn forget(&mut self) {
        self.keys.clear();
    }

    /// Gives back every lock, now. Whatever fails here is done by whoever meets the lock, when it
    /// expires.
    pub fn release(&mut self) {
        self.alive = None;
        let keys = self.all_keys();
        if !keys.is_empty() {
            give_back(self.client.core(), self.start_ts, keys);
        }
    }

    fn all_keys(&mut self) -> Vec<Vec<u8>> {
        let mut keys = std::mem::take(&mut self.perhaps);
        keys.extend(std::mem::take(&mut self.keys).into_keys());
        keys.into_iter().collect()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (keys, start_ts) = (self.all_keys(), self.start_ts);
        if !keys.is_empty() {
            self.client.in_background(move |core| give_back(core, start_ts, keys));
        }
    }
}

fn give_back(core: &Core, start_ts: Timestamp, keys: Vec<Vec<u8>>) {
    let for_update_ts = Timestamp::MAX;
    let request = |keys| Request::PessimisticRollback { keys, start_ts, for_update_ts };
    if let Err(e) = core.finish_keys(keys, &mut core.brief_backoff(), request) {
        tracing::warn!(%start_ts, error = %e, "pessimistic locks are left to be resolved");
    }
}

fn lock_group(core: &Core, shared: &Shared, group: Group<Vec<u8>>) -> Taken {
    let mut taken = Taken::default();
    let mut backoff = core.lock_backoff(shared.deadline.saturating_sub(core.clock.monotonic()));
    let mut work = vec![group];
    // Ends: every turn locks a group, drops keys from one, or takes time from the back-off.
    while let Some(group) = work.pop() {
        match lock_once(core, shared, group, &mut taken, &mut backoff) {
            Ok(rest) => work.extend(rest),
            Err(e) => {
                taken.failed = Some(e);
                break;
            }
        }
    }
    taken
}

/// One request; what is to be sent after it.
fn lock_once(
    core: &Core,
    shared: &Shared,
    group: Group<Vec<u8>>,
    taken: &mut Taken,
    backoff: &mut Backoff<'_>,
) -> Result<Vec<Group<Vec<u8>>>> {
    let ask = &shared.ask;
    let before = core.clock.monotonic();
    let age_ms = before.saturating_sub(shared.began).as_millis() as u64;
    let ttl_ms = age_ms + core.config.lock_ttl_ms;
    let left_ms = backoff.lock_left().as_millis() as u64;
    let request = Request::PessimisticLock(PessimisticLock {
        keys: group.items.clone(),
        primary: shared.primary.clone(),
        start_ts: shared.start_ts,
        for_update_ts: ask.read_ts,
        ttl_ms,
        wait: match taken.alive {
            _ if left_ms == 0 => LockWait::No,
            Some(holder) => LockWait::Behind { holder, millis: left_ms },
            None => LockWait::Millis(left_ms),
        },
        return_values: ask.values,
        allow_conflict: group.items.len() == 1,
    });
    let outcome = core.call(&group.route, request, backoff);
    if backoff.take_unknown() {
        taken.perhaps.extend(group.items.iter().cloned());
    }
    match outcome {
        Ok(Response::PessimisticLocked(locked)) if locked.len() == group.items.len() => {
            // Of the primary alone is it known how long it lives. Another key's lock ends with it,
            // and it may have run out long ago.
            if let ([key], [l]) = (group.items.as_slice(), locked.as_slice())
                && l.conflict_ts != Timestamp::ZERO
                && *key == shared.primary
            {
                let until_ms = shared.start_ts.physical_ms() + ttl_ms;
                let (key, version, value) = (key.clone(), l.conflict_ts, l.value.clone());
                taken.fresh = Some(Fresh { key, version, value, until_ms, used: false });
            }
            let version = |l: &LockedKey| l.conflict_ts.max(ask.read_ts);
            let pairs = group.items.into_iter().zip(locked);
            taken.held.extend(pairs.map(|(key, l)| (key, version(&l), l.value.is_some())));
            Ok(Vec::new())
        }
        Ok(other) => Err(Error::unexpected("pessimistic lock", other)),
        Err(Failed::Again) => core.group(group.items, |key| key, Vec::len, backoff),
        Err(Failed::Fatal(e)) => Err(e),
        Err(Failed::Keys(errors)) => {
            if left_ms > 0 {
                backoff.add_lock_wait(core.clock.monotonic().saturating_sub(before));
            }
            let locks = refused(shared, errors)?;
            after_locks(core, shared, group, &locks, taken, backoff)
        }
    }
}

/// The locks in the way, or what else makes the statement hopeless.
fn refused(shared: &Shared, errors: Vec<KeyError>) -> Result<Vec<KeyLock>> {
    let mut locks = Vec::with_capacity(errors.len());
    for error in errors {
        match error {
            KeyError::Locked(lock) => locks.push(*lock),
            KeyError::WriteConflict { key, .. } => {
                return Err(Error::Outdated { key, read_ts: shared.ask.read_ts });
            }
            KeyError::Deadlock { start_ts, holder, key, circle } => {
                return Err(Error::Deadlock { start_ts, holder, key, circle });
            }
            KeyError::PessimisticLockRolledBack { start_ts } => {
                let detail = "it was rolled back by another transaction".to_owned();
                return Err(Error::Conflict { start_ts, detail });
            }
            other => return Err(Error::unexpected("pessimistic lock", other)),
        }
    }
    Ok(locks)
}

/// Ends the locks of transactions that have ended; for the others the statement waits, goes on
/// without their keys, or gives up.
fn after_locks(
    core: &Core,
    shared: &Shared,
    mut group: Group<Vec<u8>>,
    locks: &[KeyLock],
    taken: &mut Taken,
    backoff: &mut Backoff<'_>,
) -> Result<Vec<Group<Vec<u8>>>> {
    let resolution = core.resolve(locks, Timestamp::ZERO, backoff)?;
    let is_alive = |lock: &&KeyLock| resolution.living.contains(&lock.lock.start_ts);
    taken.alive = locks.iter().find(is_alive).map(|lock| lock.lock.start_ts);
    let Some((holder, left)) = resolution.alive else {
        backoff.turn(&"locks of transactions that had ended")?;
        return Ok(vec![group]);
    };
    let mut living = locks.iter().filter(is_alive);
    match shared.ask.wait {
        Wait::No if shared.ask.skip => {
            let blocked: BTreeSet<&[u8]> = living.map(|l| l.key.as_slice()).collect();
            group.items.retain(|key| !blocked.contains(key.as_slice()));
            backoff.turn(&"keys that others hold")?;
            let rest = (!group.items.is_empty()).then_some(group);
            Ok(rest.into_iter().collect())
        }
        Wait::No => {
            let key = living.next().map(|l| l.key.clone()).unwrap_or_default();
            Err(Error::LockNotAvailable { key, holder })
        }
        Wait::Millis(_) => {
            backoff.wait_lock(holder, left.min(PAUSE_MAX))?;
            Ok(vec![group])
        }
    }
}
