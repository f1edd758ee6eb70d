//! How far each region is resolved: the timestamp below which nothing will be committed there that
//! is not committed yet. Pure: locks in, timestamps out. It must never pass a lock that may still
//! commit at or below.
//!
//! ```text
//!   ts from the oracle ─► max_ts ↑ ─► table of locks ─► snapshot ─► locks in it ─► min ─► publish
//!        │                   │             │                             │
//!        │                   │             │        prewritten, not ended: commits above its start,
//!        │                   │             │        and not below its min_commit_ts
//!        │                   │             └ a short commit that is not applied: its min_commit_ts
//!        │                   └ a short commit that begins later: above ts
//!        └ two phases, prewritten later: the version is taken after that, above ts
//! ```
//! The locks are looked at anew each time, with one cursor for all regions: the family holds
//! nothing but open locks, so a look costs less than to keep count of each lock that comes and
//! goes, and there is nothing to rebuild after a restart, a split, a merge or a change of leader.

use damask_env::{Mistake, mistaken};
use damask_kv::{Cf, Snapshot};
use damask_types::codec::{decode_key, encode_key};
use damask_types::{KeyLock, Lock, LockKind, Region, RegionId, Timestamp};
use std::collections::BTreeMap;

/// Locks after which a look ends, at the end of the region that it is in. The next look goes on
/// with the others.
pub(crate) const LOCKS_MAX: usize = 1 << 18;
/// Transactions that are remembered as pushed.
const PUSHED_MAX: usize = 4_096;

/// What one round came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advance {
    /// The oracle's timestamp: no region can be resolved further.
    pub ts: Timestamp,
    /// Regions led here that were looked at.
    pub regions: usize,
    /// Regions led here that have to wait for the next round: there were too many locks.
    pub left: usize,
    /// For some of the regions that are not resolved up to `ts`: the lock that is in the way.
    pub held: Vec<KeyLock>,
}

/// A region that is looked at.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub region: RegionId,
    pub version: u64,
    /// Its bounds in the engine's form; an empty end: none.
    start: Vec<u8>,
    end: Vec<u8>,
    /// As published before: what is not above it is no news.
    pub last: Timestamp,
    /// Falls from the oracle's timestamp to where the region is resolved.
    pub ts: Timestamp,
    /// Why it fell so far, unless by a commit that is just being applied.
    pub held: Option<KeyLock>,
}

impl Span {
    pub fn new(region: &Region, ts: Timestamp, last: Timestamp) -> Span {
        let form = |key: &[u8]| if key.is_empty() { Vec::new() } else { encode_key(key) };
        let (start, end) = (form(&region.range.start), form(&region.range.end));
        let (region, version) = (region.id, region.epoch.version);
        Span { region, version, start, end, last, ts, held: None }
    }

    fn is_past(&self, key: &[u8]) -> bool {
        !self.end.is_empty() && key >= self.end.as_slice()
    }

    pub fn start(&self) -> &[u8] {
        &self.start
    }
}

/// In key order, and without overlaps: while a split or a merge becomes known, the description
/// with the older version is none.
pub(crate) fn disjoint(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable_by(|a, b| a.start.cmp(&b.start).then(b.version.cmp(&a.version)));
    let mut out: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match out.last_mut().filter(|last| !last.is_past(&span.start)) {
            None => out.push(span),
            Some(last) if last.version < span.version => *last = span,
            Some(_) => {}
        }
    }
    out
}

/// Prewrites of keys (in the engine's form) that are not applied yet, and up to where each lets its
/// region be resolved.
pub(crate) fn under_unfinished(
    spans: &mut [Span],
    unfinished: impl Iterator<Item = (Vec<u8>, Timestamp)>,
) {
    for (key, limit) in unfinished {
        let behind = spans.partition_point(|span| span.start <= key);
        let Some(span) = spans[..behind].last_mut().filter(|span| !span.is_past(&key)) else {
            continue;
        };
        if limit < span.ts {
            (span.ts, span.held) = (limit, None);
        }
    }
}

/// The locks that a snapshot holds: how many spans were looked at.
pub(crate) fn under_locks(
    snapshot: &dyn Snapshot,
    spans: &mut [Span],
    pushed: &Pushed,
    locks_max: &mut usize,
) -> damask_kv::Result<usize> {
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else { return Ok(0) };
    let (start, end) = (first.start.clone(), last.end.clone());
    let mut cursor = snapshot.cursor(Cf::Lock, &start, &end)?;
    let mut pair = cursor.seek(&start)?;
    let mut at = 0;
    while let Some((key, value)) = pair {
        while spans[at].is_past(key) {
            at += 1;
            if at == spans.len() {
                return Ok(at);
            }
            if *locks_max == 0 {
                return Ok(at);
            }
        }
        let span = &mut spans[at];
        if key < span.start.as_slice() {
            pair = cursor.seek(&span.start)?;
            continue;
        }
        *locks_max = locks_max.saturating_sub(1);
        let lock = Lock::decode(value)?;
        if let Some(limit) = pushed.limit(&lock).filter(|limit| *limit < span.ts) {
            let key = decode_key(key)?;
            (span.ts, span.held) = (limit, Some(KeyLock { key, lock }));
        }
        if span.ts > span.last {
            pair = cursor.next()?;
            continue;
        }
        // No news, however many more there are.
        at += 1;
        if at == spans.len() || *locks_max == 0 {
            return Ok(at);
        }
        pair = cursor.seek(&spans[at].start)?;
    }
    Ok(spans.len())
}

/// Transactions that are known to commit above a timestamp, or never: a reader has pushed their
/// primaries. Only their primaries' locks show it.
#[derive(Debug, Default)]
pub(crate) struct Pushed(BTreeMap<Timestamp, Timestamp>);

impl Pushed {
    pub fn add(&mut self, start_ts: Timestamp, above: Timestamp) {
        let known = self.0.entry(start_ts).or_default();
        *known = above.max(*known);
        if self.0.len() > PUSHED_MAX {
            self.0.pop_first();
        }
    }

    /// Up to where a lock lets its region be resolved; `None`: it is in nobody's way.
    fn limit(&self, lock: &Lock) -> Option<Timestamp> {
        let writes = matches!(lock.kind, LockKind::Put | LockKind::Delete);
        if !writes || mistaken(Mistake::ResolvedPastLock) {
            return None;
        }
        let pushed = self.0.get(&lock.start_ts).copied().unwrap_or_default();
        Some(lock.start_ts.max(pushed).max(below(lock.min_commit_ts)))
    }
}

/// Nothing at or below it is at or above `ts`.
pub(crate) fn below(ts: Timestamp) -> Timestamp {
    if ts == Timestamp::ZERO { ts } else { ts.prev() }
}

#[cfg(test)]
mod tests;
