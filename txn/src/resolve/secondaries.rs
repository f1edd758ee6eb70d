//! An async commit whose primary is locked: its other keys tell whether it is decided. It must
//! never decide while a key can still go either way: what is missing is made to stay missing.

use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::region::{Core, Failed};
use crate::request::{Request, Response};
use damask_types::{KeyLock, Lock, Timestamp};

/// What the keys of a transaction say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Secondaries {
    /// Committed at that version; `None`: rolled back.
    Decided(Option<Timestamp>),
    /// A key is locked for two phases: only the primary decides.
    NotAsync,
}

impl Core {
    /// Asks the keys that the primary's lock names. Where no lock stands a rollback is left.
    pub fn check_secondaries(
        &self,
        primary: &Lock,
        backoff: &mut Backoff<'_>,
    ) -> Result<Secondaries> {
        let Some(keys) = &primary.secondaries else { return Ok(Secondaries::NotAsync) };
        let (locks, decided) = self.check_keys(keys.clone(), primary.start_ts, backoff)?;
        if decided != Timestamp::ZERO {
            return Ok(Secondaries::Decided(Some(decided)));
        }
        if locks.len() < keys.len() {
            return Ok(Secondaries::Decided(None));
        }
        if locks.iter().any(|lock| lock.lock.secondaries.is_none()) {
            return Ok(Secondaries::NotAsync);
        }
        let versions = locks.iter().map(|lock| lock.lock.min_commit_ts);
        Ok(Secondaries::Decided(Some(versions.fold(primary.min_commit_ts, Timestamp::max))))
    }

    /// The locks of a transaction on these keys; or (not ZERO) the version of one that is committed.
    /// Where no lock stands a rollback is left that stays; the first such is enough.
    pub fn check_keys(
        &self,
        mut keys: Vec<Vec<u8>>,
        start_ts: Timestamp,
        backoff: &mut Backoff<'_>,
    ) -> Result<(Vec<KeyLock>, Timestamp)> {
        keys.sort_unstable();
        let mut found = Vec::with_capacity(keys.len());
        let mut work = self.group(keys, |key| key, Vec::len, backoff)?;
        // Ends: every turn answers for a group or takes time from the back-off.
        while let Some(group) = work.pop() {
            let request = Request::CheckSecondaryLocks { keys: group.items.clone(), start_ts };
            match self.call(&group.route, request, backoff) {
                Ok(Response::SecondaryLocks { locks, commit_ts }) => {
                    let is_over = commit_ts != Timestamp::ZERO || locks.len() < group.items.len();
                    found.extend(locks);
                    if is_over {
                        return Ok((found, commit_ts));
                    }
                }
                Ok(other) => return Err(Error::unexpected("secondary locks", other)),
                Err(Failed::Again) => {
                    work.extend(self.group(group.items, |key| key, Vec::len, backoff)?);
                }
                Err(Failed::Fatal(e)) => return Err(e),
                Err(Failed::Keys(errors)) => {
                    return Err(Error::unexpected("secondary locks", errors));
                }
            }
        }
        Ok((found, Timestamp::ZERO))
    }

    /// Ends every lock of an async commit that is decided.
    pub(super) fn end_async(
        &self,
        primary: &Lock,
        outcome: Option<Timestamp>,
        backoff: &mut Backoff<'_>,
    ) -> Result<()> {
        let mut keys = primary.secondaries.clone().unwrap_or_default();
        keys.push(primary.primary.clone());
        keys.sort_unstable();
        let (start_ts, commit_ts) = (primary.start_ts, outcome.unwrap_or(Timestamp::ZERO));
        self.finish_keys(keys, backoff, |keys| Request::ResolveLock { start_ts, commit_ts, keys })
    }
}
