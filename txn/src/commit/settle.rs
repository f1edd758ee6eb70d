//! What became of a transaction of this client whose prewrite failed with a request unanswered
//! that may have decided it. It must never guess: the primary, or all keys together, tell.

use super::prewrite::Txn;
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
                    Secondaries::NotAsync => roll_back_primary(core, txn),
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

/// Only this client could commit it, and it does not: unless it has, the primary is rolled back.
fn roll_back_primary(core: &Core, txn: &Txn) -> Result<Option<Timestamp>> {
    let mut backoff = core.backoff();
    // Ends: every turn decides or takes time from the back-off.
    loop {
        let route = core.locate(&txn.primary, &mut backoff)?;
        let (keys, start_ts) = (vec![txn.primary.clone()], txn.start_ts);
        match core.call(&route, Request::Rollback { keys, start_ts }, &mut backoff) {
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
