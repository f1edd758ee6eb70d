//! What must be so of the three families after every command, whoever sent it: for tests of
//! transactions, of other servers, and of whole clusters. It must never write.
//!
//! `tests/invariants.rs` lists all twenty of
//! them with the tests that hold each. Here are 1 to 8; 9 holds by the form of the keys.

pub mod counter;
pub mod replicated;

use damask_kv::{Cf, Engine, MvccReader, Result, Snapshot};
use damask_types::codec::{decode_key, split_key_ts};
use damask_types::mutation::SHORT_VALUE_MAX;
use damask_types::{KeyLock, KeyRange, Lock, LockKind, Timestamp, Write, WriteKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was found, when nothing is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Locks.
    pub locks: usize,
    /// Committed records.
    pub commits: usize,
    /// Records of rollbacks, those on others' records too.
    pub rollbacks: usize,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// An invariant, by its name.
    #[error("{invariant}: {detail}")]
    Invariant {
        /// Its name.
        invariant: &'static str,
        /// Keys and versions.
        detail: String,
    },
    /// The engine could not be read.
    #[error(transparent)]
    Engine(#[from] damask_kv::Error),
}

/// All records of one key, oldest version first.
type Versions = Vec<(Timestamp, Write)>;

/// A view's locks and records.
struct View {
    reader: MvccReader,
    locks: Vec<KeyLock>,
    records: BTreeMap<Vec<u8>, Versions>,
    values: BTreeSet<(Vec<u8>, Timestamp)>,
    /// Per transaction: where it committed, or that it was rolled back (None).
    outcomes: BTreeMap<Timestamp, Option<Timestamp>>,
}

/// Checks everything in the engine. `read_version`: up to which version a transaction (named by its
/// start) had seen a key when it wrote it; its start, if it is optimistic.
///
/// # Errors
/// The first invariant that is broken.
pub fn check_invariants(
    engine: &dyn Engine,
    read_version: impl Fn(Timestamp, &[u8]) -> Timestamp,
) -> std::result::Result<Found, Broken> {
    let mut view = View::load(engine.snapshot())?;
    let mut found = Found { locks: view.locks.len(), ..Found::default() };
    view.check_records(&mut found)?;
    view.check_overlap(&read_version)?;
    view.check_locks()?;
    view.check_values()?;
    Ok(found)
}

fn broken(invariant: &'static str, detail: String) -> Broken {
    Broken::Invariant { invariant, detail }
}

fn show(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

impl View {
    fn load(snapshot: Arc<dyn Snapshot>) -> Result<View> {
        let reader = MvccReader::new(snapshot);
        let locks = reader.scan_locks(&KeyRange::all(), |_| true, usize::MAX)?;
        let mut records: BTreeMap<Vec<u8>, Versions> = BTreeMap::new();
        for_each(&*reader.snapshot, Cf::Write, |key, ts, value| {
            records.entry(key).or_default().insert(0, (ts, Write::decode(value)?));
            Ok(())
        })?;
        let mut values = BTreeSet::new();
        for_each(&*reader.snapshot, Cf::Default, |key, ts, _| {
            values.insert((key, ts));
            Ok(())
        })?;
        Ok(View { reader, locks, records, values, outcomes: BTreeMap::new() })
    }

    /// 2, 3, 4 and 8.
    fn check_records(&mut self, found: &mut Found) -> std::result::Result<(), Broken> {
        for (key, versions) in &self.records {
            for (commit_ts, write) in versions {
                let at = || format!("{} of {} at {commit_ts}", show(key), write.start_ts);
                let rollback = write.kind == WriteKind::Rollback;
                let fits = match rollback {
                    true => *commit_ts == write.start_ts,
                    false => *commit_ts > write.start_ts,
                };
                if !fits {
                    return Err(broken("commit_after_start", at()));
                }
                let outcome = (!rollback).then_some(*commit_ts);
                end(&mut self.outcomes, write.start_ts, outcome, &at)?;
                found.commits += usize::from(!rollback);
                found.rollbacks += usize::from(rollback);
                if write.overlapped_rollback {
                    end(&mut self.outcomes, *commit_ts, None, &at)?;
                    found.rollbacks += 1;
                }
            }
        }
        Ok(())
    }

    /// 6: who writes has seen all that was there.
    fn check_overlap(
        &self,
        read_version: &impl Fn(Timestamp, &[u8]) -> Timestamp,
    ) -> std::result::Result<(), Broken> {
        for (key, versions) in &self.records {
            let commits = versions.iter().filter(|(_, write)| write.kind != WriteKind::Rollback);
            let commits: Vec<_> = commits.collect();
            for pair in commits.windows(2) {
                let ((older, _), (newer, write)) = (pair[0], pair[1]);
                let seen = read_version(write.start_ts, key);
                if seen < *older {
                    let key = show(key);
                    let detail = format!("{key} at {newer} had seen {seen}, not {older}");
                    return Err(broken("no_write_overlap", detail));
                }
            }
        }
        Ok(())
    }

    fn record_of(&self, key: &[u8], start_ts: Timestamp) -> Option<&(Timestamp, Write)> {
        self.records.get(key)?.iter().find(|(_, write)| write.start_ts == start_ts)
    }

    /// 1 and 5.
    fn check_locks(&self) -> std::result::Result<(), Broken> {
        for KeyLock { key, lock } in &self.locks {
            let start_ts = lock.start_ts;
            let detail = || format!("{} of {start_ts}", show(key));
            if let Some((commit_ts, _)) = self.record_of(key, start_ts) {
                let detail = format!("{} beside its record at {commit_ts}", detail());
                return Err(broken("one_lock_per_key", detail));
            }
            let committed = matches!(self.outcomes.get(&start_ts), Some(Some(_)));
            let ended = self.outcomes.contains_key(&start_ts);
            let prewritten = lock.kind != LockKind::Pessimistic;
            if *key == lock.primary && prewritten && committed && !self.is_whole(lock) {
                return Err(broken("commit_implies_primary", detail()));
            }
            if *key == lock.primary && prewritten && ended && lock.secondaries.is_none() {
                return Err(broken("commit_implies_primary", detail()));
            }
        }
        Ok(())
    }

    /// Is every key of an async commit locked or committed?
    fn is_whole(&self, primary: &Lock) -> bool {
        let Some(secondaries) = &primary.secondaries else { return false };
        secondaries.iter().all(|key| {
            let locked =
                |lock: &&KeyLock| lock.key == *key && lock.lock.start_ts == primary.start_ts;
            let record = self.record_of(key, primary.start_ts);
            self.locks.iter().any(|lock| locked(&lock))
                || record.is_some_and(|(_, write)| write.kind != WriteKind::Rollback)
        })
    }

    /// 7, in both directions.
    fn check_values(&mut self) -> std::result::Result<(), Broken> {
        for (key, versions) in &self.records {
            for (commit_ts, write) in versions {
                let long = write.kind == WriteKind::Put && write.short_value.is_none();
                if !long {
                    continue;
                }
                let at = (key.clone(), write.start_ts);
                let is_long = || {
                    let value = self.reader.load_value(key, write)?;
                    Ok::<_, Broken>(value.is_some_and(|v| v.len() > SHORT_VALUE_MAX))
                };
                if !self.values.remove(&at) || !is_long()? {
                    let detail = format!("{} at {commit_ts}", show(key));
                    return Err(broken("value_present", detail));
                }
            }
        }
        for KeyLock { key, lock } in &self.locks {
            let long = lock.kind == LockKind::Put && lock.short_value.is_none();
            if long && !self.values.remove(&(key.clone(), lock.start_ts)) {
                let detail = format!("{} locked by {}", show(key), lock.start_ts);
                return Err(broken("value_present", detail));
            }
        }
        match self.values.first() {
            None => Ok(()),
            Some((key, ts)) => {
                let detail = format!("{} of {ts} belongs to nothing", show(key));
                Err(broken("value_present", detail))
            }
        }
    }
}

fn end(
    outcomes: &mut BTreeMap<Timestamp, Option<Timestamp>>,
    start_ts: Timestamp,
    outcome: Option<Timestamp>,
    at: &impl Fn() -> String,
) -> std::result::Result<(), Broken> {
    let known = *outcomes.entry(start_ts).or_insert(outcome);
    match (known, outcome) {
        (known, outcome) if known == outcome => Ok(()),
        (Some(known), Some(_)) => {
            Err(broken("same_commit_ts", format!("{}, and at {known} elsewhere", at())))
        }
        _ => Err(broken("unique_outcome", format!("{start_ts}: {}", at()))),
    }
}

fn for_each(
    snapshot: &dyn Snapshot,
    cf: Cf,
    mut body: impl FnMut(Vec<u8>, Timestamp, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut cursor = snapshot.cursor(cf, b"", b"")?;
    let mut pair = cursor.seek(b"")?;
    while let Some((key, value)) = pair {
        let (key, ts) = split_key_ts(key)?;
        body(decode_key(key)?, ts, value)?;
        pair = cursor.next()?;
    }
    Ok(())
}
