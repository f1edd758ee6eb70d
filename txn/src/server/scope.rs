//! What a request is about: its keys, the versions it looks at, and whether all of that lies in the
//! region. It must never leave out a key that the request decides about.

use super::Result;
use crate::request::{Mutation, PessimisticLock, Prewrite, Request, Response};
use damask_raftstore::Error as RegionError;
use damask_types::{Region, Timestamp};

/// The keys that a command decides about.
pub(super) fn keys_of(request: &Request) -> Box<dyn Iterator<Item = &[u8]> + '_> {
    match request {
        Request::Stale(request) => keys_of(request),
        Request::Prewrite(prewrite) => Box::new(prewrite.mutations.iter().map(Mutation::key)),
        Request::PessimisticLock(lock) => Box::new(lock.keys.iter().map(Vec::as_slice)),
        Request::Commit { keys, .. }
        | Request::Rollback { keys, .. }
        | Request::ResolveLock { keys, .. }
        | Request::CheckSecondaryLocks { keys, .. }
        | Request::PessimisticRollback { keys, .. }
        | Request::BatchGet { keys, .. } => Box::new(keys.iter().map(Vec::as_slice)),
        Request::CheckTxnStatus { primary: key, .. }
        | Request::HeartBeat { primary: key, .. }
        | Request::Get { key, .. } => Box::new(std::iter::once(key.as_slice())),
        Request::Scan { .. } | Request::ScanLocks { .. } | Request::ReadIndex { .. } => {
            Box::new(std::iter::empty())
        }
    }
}

/// Bytes that a read has found.
pub(super) fn bytes_of(response: &Response) -> u64 {
    let bytes = match response {
        Response::Value(value) => value.as_ref().map_or(0, Vec::len),
        Response::Values(values) => values.iter().flatten().map(Vec::len).sum(),
        Response::Pairs(pairs) => pairs.iter().map(|(key, value)| key.len() + value.len()).sum(),
        _ => 0,
    };
    bytes as u64
}

/// The version that a reading request asks for.
pub(super) fn version_of(request: &Request) -> Timestamp {
    match request {
        Request::Get { ts, .. }
        | Request::BatchGet { ts, .. }
        | Request::Scan { ts, .. }
        | Request::ScanLocks { ts, .. }
        | Request::ReadIndex { ts, .. } => *ts,
        _ => Timestamp::MAX,
    }
}

/// The version up to which a writing command has looked, so that nobody may commit at or below it
/// any more; ZERO: it does not matter.
pub(super) fn reads_of(request: &Request) -> Timestamp {
    let known = |ts: Timestamp| if ts == Timestamp::MAX { Timestamp::ZERO } else { ts };
    match request {
        Request::PessimisticLock(PessimisticLock { for_update_ts, .. }) => known(*for_update_ts),
        Request::Prewrite(Prewrite { mutations, start_ts, for_update_ts, .. }) => {
            let inserts = mutations.iter().any(|m| matches!(m, Mutation::Insert { .. }));
            if inserts { known((*start_ts).max(*for_update_ts)) } else { Timestamp::ZERO }
        }
        Request::CheckTxnStatus { lock_ts, caller_start_ts, current_ts, .. } => {
            known(*lock_ts).max(known(*caller_start_ts)).max(known(*current_ts))
        }
        Request::CheckSecondaryLocks { start_ts, .. } => known(*start_ts),
        _ => Timestamp::ZERO,
    }
}

/// The start of a transaction that wants new locks: what GC has collected would be missed. MAX:
/// the command may come however late.
pub(super) fn starts_of(request: &Request) -> Timestamp {
    match request {
        Request::Prewrite(Prewrite { start_ts, .. })
        | Request::PessimisticLock(PessimisticLock { start_ts, .. }) => *start_ts,
        _ => Timestamp::MAX,
    }
}

/// Refuses keys outside of the region: another region's leader decides about them.
pub(super) fn check_keys(region: &Region, request: &Request) -> Result<()> {
    let inside = match request {
        Request::Scan { range, .. } | Request::ScanLocks { range, .. } => {
            range.is_empty() || region.range.intersect(range).as_ref() == Some(range)
        }
        _ => keys_of(request).all(|key| region.range.contains(key)),
    };
    match inside {
        true => Ok(()),
        false => {
            let range = region.range.clone();
            Err(RegionError::KeyNotInRegion { region: region.id, range }.into())
        }
    }
}
