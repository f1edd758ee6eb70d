//! The end of a transaction of this client whose prewrite failed, perhaps with a request unanswered
//! that may have decided it. It must never guess: the primary, or all keys together, tell.

use super::prewrite::Txn;
use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::region::{Core, Failed};
use crate::request::{KeyError, Request, Response, TxnStatus};
use crate::resolve::Secondaries;
use damask_types::Timestamp;

/// Committed at that version; `None`: rolled back, for good.
pub(super) fn settle(core: &Core, txn: &Txn) -> Result<Option<Timestamp>> {
    let mut backoff = core.backoff();
    let current_ts = core.timestamp(&mut backoff)?;
    // Ends: every turn decides or takes time from the back-off.
    loop {
        // Where nothing is known a rollback is left: a request that is still on its way fails.
        let request = Request::CheckTxnStatus {
            primary: txn.primary.clone(),
            lock_ts: txn.start_ts,
            caller_start_ts: Timestamp::ZERO,
            current_ts,
            rollback_if_not_exist: true,
            force_sync_commit: false,
            resolving_pessimistic: false,
        };
        let route = core.locate(&txn.primary, &mut backoff)?;
        match core.call(&route, request, &mut backoff) {
            Ok(Response::Status(TxnStatus::Committed(commit_ts))) => return Ok(Some(commit_ts)),
            Ok(Response::Status(TxnStatus::RolledBack)) => return Ok(None),
            Ok(Response::Status(TxnStatus::Locked { lock })) => {
                return match core.check_secondaries(&lock, &mut backoff)? {
                    Secondaries::Decided(outcome) => Ok(outcome),
                    Secondaries::NotAsync => roll_back_primary(core, txn, &mut core.backoff()),
                };
            }
            Ok(other) => return Err(Error::unexpected("transaction status", other)),
            Err(Failed::Again) => {}
            Err(Failed::Fatal(e)) => return Err(e),
            Err(Failed::Keys(errors)) => {
                return Err(Error::unexpected("transaction status", errors));
            }
        }
    }
}

/// Every request was answered, and not all keys were locked. Committed at that version all the same,
/// by a copy of a request; `None`: rolled back, for good.
pub(super) fn end(core: &Core, txn: &Txn) -> Result<Option<Timestamp>> {
    let mut backoff = core.brief_backoff();
    if txn.for_update_ts == Timestamp::ZERO {
        return roll_back_primary(core, txn, &mut backoff);
    }
    // Its lock may be gone. Then a rollback would leave a record that a later one swallows, and a
    // late copy of a lock request would not miss it: this leaves one that stays.
    let primary = vec![txn.primary.clone()];
    match core.check_keys(primary, txn.start_ts, &mut backoff)? {
        (_, commit_ts) if commit_ts != Timestamp::ZERO => Ok(Some(commit_ts)),
        (locks, _) if locks.is_empty() => Ok(None),
        _ => roll_back_primary(core, txn, &mut backoff),
    }
}

/// Only this client could commit it, and it does not: unless it has, the primary is rolled back.
fn roll_back_primary(
    core: &Core,
    txn: &Txn,
    backoff: &mut Backoff<'_>,
) -> Result<Option<Timestamp>> {
    // Ends: every turn decides or takes time from the back-off.
    loop {
        let route = core.locate(&txn.primary, backoff)?;
        let (keys, start_ts) = (vec![txn.primary.clone()], txn.start_ts);
        match core.call(&route, Request::Rollback { keys, start_ts }, backoff) {
            Ok(_) => return Ok(None),
            Err(Failed::Again) => {}
            Err(Failed::Fatal(e)) => return Err(e),
            Err(Failed::Keys(errors)) => match errors.first() {
                Some(KeyError::Committed { commit_ts, .. }) => return Ok(Some(*commit_ts)),
                _ => return Err(Error::unexpected("rollback", errors)),
            },
        }
    }
}
