//! Reads at a safe timestamp, on the caller's thread: what the raft thread publishes of each
//! replica, and the check. It must never permit a read of content that is being replaced.
//!
//! Order of a read: find the region, compare the epoch and the timestamp, take the snapshot, look
//! again. What a turn takes back is taken back before anything else of the turn is done, so that
//! whoever still finds it after his snapshot has taken that before.

use crate::cells::Safe;
use crate::error::{Error, Result};
use crate::handle::ReadPermit;
use crate::machine::Applied;
use crate::resolved::SafeAt;
use damask_types::{Epoch, Region, RegionId, Timestamp};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

/// What a replica publishes.
#[derive(Clone, Debug)]
pub(crate) struct SafeView {
    /// Keeps the content from being destroyed, as a permit does.
    pub region: Arc<Region>,
    pub term: u64,
    pub safe: SafeAt,
}

impl PartialEq for SafeView {
    fn eq(&self, other: &SafeView) -> bool {
        Arc::ptr_eq(&self.region, &other.region) && self.safe == other.safe
    }
}

/// One region, as readers see it.
struct Readable {
    region: Arc<Region>,
    term: u64,
    safe: Safe,
}

/// The regions of a store that may be read at a safe timestamp.
#[derive(Default)]
pub(crate) struct SafeReads {
    all: RwLock<HashMap<RegionId, Arc<Readable>>>,
}

impl SafeReads {
    /// What a turn has changed; `None`: not readable this way until a later turn says so.
    pub fn publish(&self, changes: Vec<(RegionId, Option<SafeView>)>) {
        for (id, view) in changes {
            let Some(view) = view else {
                withdraw(self.all.write().remove(&id));
                continue;
            };
            let SafeView { region, term, safe } = view;
            let there = self.all.read().get(&id).cloned();
            if let Some(there) = there
                && there.term == term
                && Arc::ptr_eq(&there.region, &region)
            {
                there.safe.publish(safe.index, safe.ts.0);
                continue;
            }
            let safe = Safe::new(safe.index, safe.ts.0);
            let readable = Arc::new(Readable { region, term, safe });
            withdraw(self.all.write().insert(id, readable));
        }
    }

    /// What `take` has seen, which is everything committed at or below `ts` for ever.
    ///
    /// # Errors
    /// `DataIsNotReady`: the leader has to be asked. `EpochNotMatch`: the region has changed.
    pub fn read<S>(
        &self,
        id: RegionId,
        epoch: Epoch,
        ts: Timestamp,
        take: impl FnOnce() -> S,
    ) -> Result<(ReadPermit, S)> {
        let found = self.all.read().get(&id).cloned();
        let not_ready = |safe_ts| Error::DataIsNotReady { region: id, ts, safe_ts };
        let found = found.ok_or_else(|| not_ready(Timestamp::ZERO))?;
        match epoch.version.cmp(&found.region.epoch.version) {
            std::cmp::Ordering::Less => {
                return Err(Error::EpochNotMatch { current: vec![Region::clone(&found.region)] });
            }
            std::cmp::Ordering::Greater => return Err(not_ready(Timestamp::ZERO)),
            std::cmp::Ordering::Equal => {}
        }
        let read = found.safe.read(ts.0, take);
        let (taken, index) = read.map_err(|safe| not_ready(Timestamp(safe)))?;
        let applied = Applied { index, term: found.term };
        let permit = ReadPermit { region: found.region.clone(), term: found.term, applied };
        Ok((permit, taken))
    }

    /// Up to where a region may be read; ZERO: it may not.
    pub fn safe_ts(&self, id: RegionId) -> Timestamp {
        let all = self.all.read();
        all.get(&id).map_or(Timestamp::ZERO, |r| Timestamp(r.safe.ts()))
    }

    /// The store stops: nothing is read here any more.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.all.write());
        all.into_values().for_each(|readable| withdraw(Some(readable)));
    }
}

/// Who has found it already hears it at the second look.
fn withdraw(readable: Option<Arc<Readable>>) {
    if let Some(readable) = readable {
        readable.safe.withdraw();
    }
}

#[cfg(test)]
mod tests {
    //! What was published is readable up to its timestamp, until it is taken back.

    use super::*;
    use damask_types::KeyRange;

    const ID: RegionId = RegionId(7);
    const EPOCH: Epoch = Epoch { conf_ver: 1, version: 3 };

    fn view(ts: u64) -> (RegionId, Option<SafeView>) {
        let (range, peers) = (KeyRange::all(), Vec::new());
        let region = Arc::new(Region { id: ID, range, epoch: EPOCH, peers });
        let safe = SafeAt { ts: Timestamp(ts), index: 9 };
        (ID, Some(SafeView { region, term: 6, safe }))
    }

    fn refused(result: Result<(ReadPermit, ())>) -> Timestamp {
        match result {
            Err(Error::DataIsNotReady { safe_ts, .. }) => safe_ts,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_read_is_served_up_to_the_timestamp_and_looked_at_again_after_its_snapshot() {
        let reads = SafeReads::default();
        let read = |ts| reads.read(ID, EPOCH, Timestamp(ts), || ());
        assert_eq!(refused(read(1)), Timestamp::ZERO);
        let first = view(50);
        reads.publish(vec![first.clone()]);
        assert_eq!(read(50).unwrap().0.applied, Applied { index: 9, term: 6 });
        assert_eq!(refused(read(51)), Timestamp(50));
        assert_eq!(reads.safe_ts(ID), Timestamp(50));
        let mut later = first.1.clone().unwrap();
        later.safe.ts = Timestamp(60);
        reads.publish(vec![(ID, Some(later))]);
        read(60).unwrap();
        // Taken back, or replaced by another description, while the snapshot was taken.
        let back = reads.read(ID, EPOCH, Timestamp(60), || reads.publish(vec![(ID, None)]));
        assert_eq!(refused(back), Timestamp::ZERO);
        reads.publish(vec![first.clone()]);
        let other = reads.read(ID, EPOCH, Timestamp(50), || reads.publish(vec![view(50)]));
        assert_eq!(refused(other), Timestamp::ZERO);
        let stopped = reads.read(ID, EPOCH, Timestamp(50), || reads.clear());
        assert_eq!(refused(stopped), Timestamp::ZERO);
    }

    #[test]
    fn another_description_of_the_region_is_not_read() {
        let reads = SafeReads::default();
        reads.publish(vec![view(50)]);
        let read = |version| reads.read(ID, Epoch { version, ..EPOCH }, Timestamp(1), || ());
        assert!(matches!(read(2), Err(Error::EpochNotMatch { current }) if current.len() == 1));
        assert_eq!(refused(read(4)), Timestamp::ZERO);
        read(3).unwrap();
    }
}
