//! Where reads that do not go through a transaction server meet it: scans of rows, and learners
//! that ask a region's leader. Wiring only: it must never let a read pass unannounced.

use damask_coprocessor::{Admission, EndpointError};
use damask_learner::{AskLeader, ReadError};
use damask_pd::Placement;
use damask_raftstore::{Error as RegionError, StoreHandle};
use damask_txn::{Context, KeyError, Request, RequestError, Response, Services, TxnServer};
use damask_types::{KeyLock, KeyRange, RegionId, Timestamp};
use std::sync::Arc;

/// Leaders that one learner read asks before it is refused: one that has just moved is found.
const LEADERS_ASKED_MAX: usize = 3;

/// Scans of a store's rows, announced to the store's transaction server, and counted by the store.
pub struct RowReads {
    /// Who knows of unfinished writes.
    pub server: Arc<TxnServer>,
    /// Who knows which regions are busy.
    pub store: StoreHandle,
}

impl Admission for RowReads {
    fn begin(&self, ranges: &[KeyRange], ts: Timestamp) -> Result<(), EndpointError> {
        let locks = self.server.admit(ranges, ts)?;
        if locks.is_empty() { Ok(()) } else { Err(EndpointError::Locked(locks)) }
    }

    fn confirm(&self, ts: Timestamp) -> Result<(), EndpointError> {
        Ok(self.server.confirm(ts)?)
    }

    fn note(&self, region: RegionId, ranges: &[KeyRange]) {
        for range in ranges {
            self.store.note_read(region, &range.start, &range.end, 0);
        }
    }

    fn note_bytes(&self, region: RegionId, bytes: u64) {
        self.store.note_read_bytes(region, bytes);
    }
}

/// Announces learners' reads to the leaders of their regions.
pub fn ask_leader(pd: Arc<dyn Placement>, services: Arc<dyn Services>) -> AskLeader {
    Box::new(move |region, epoch, ranges, ts| {
        let Some(range) = hull(ranges) else { return Ok(0) }; // nothing of it is read
        let nobody = || ReadError::Region(RegionError::Busy("no leader to ask for a read index"));
        let route = pd.route(&range.start).ok_or_else(nobody)?;
        let mut leader = route.leader;
        for _ in 0..LEADERS_ASKED_MAX {
            let service = leader.and_then(|peer| services.service(peer.store));
            let service = service.ok_or_else(nobody)?;
            let request = Request::ReadIndex { range: range.clone(), ts };
            match service.call(Context { region, epoch }, request) {
                Ok(Response::ReadIndex(index)) => return Ok(index),
                Ok(_) => {
                    let detail = format!("region {region} answers no read index");
                    return Err(RegionError::Invalid(detail).into());
                }
                Err(RequestError::Region(RegionError::NotLeader { leader: other, .. })) => {
                    leader = other;
                }
                Err(RequestError::Region(RegionError::Stopped)) => return Err(nobody()),
                Err(RequestError::Region(e)) => return Err(e.into()),
                Err(RequestError::Keys(keys)) => return Err(refused(keys)),
                Err(RequestError::BelowSafePoint(e)) => {
                    return Err(RegionError::from(damask_kv::Error::from(e)).into());
                }
            }
        }
        Err(nobody())
    })
}

fn refused(keys: Vec<KeyError>) -> ReadError {
    let mut locks: Vec<KeyLock> = Vec::with_capacity(keys.len());
    for key in keys {
        match key {
            KeyError::Locked(lock) => locks.push(*lock),
            other => return RegionError::Invalid(other.to_string()).into(),
        }
    }
    ReadError::Locked(locks)
}

/// The smallest range that holds them all.
fn hull(ranges: &[KeyRange]) -> Option<KeyRange> {
    let start = ranges.iter().map(|range| &range.start).min()?.clone();
    let open = ranges.iter().any(|range| range.end.is_empty());
    let end = if open { None } else { ranges.iter().map(|range| &range.end).max() };
    Some(KeyRange { start, end: end.cloned().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    //! The range that a leader is asked about; it must never leave a part out.

    use super::*;

    #[test]
    fn a_hull_holds_every_range() {
        assert_eq!(hull(&[]), None);
        let (a, b) = (KeyRange::new("a", "c"), KeyRange::new("x", "z"));
        assert_eq!(hull(&[b.clone(), a.clone()]), Some(KeyRange::new("a", "z")));
        assert_eq!(hull(&[a, KeyRange::new("b", "")]), Some(KeyRange::new("a", "")));
        assert_eq!(hull(std::slice::from_ref(&b)), Some(b));
    }
}
