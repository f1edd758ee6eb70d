//! Reads on the caller's thread while the leader's lease lasts: what the raft thread publishes of
//! each region it leads, and the check. It must never permit anything after the lease's end.
//!
//! Order of a read: find the region, compare the epoch, (take the snapshot,) read the clock,
//! compare it with the lease's end. What is published of a turn is published before its messages
//! leave. The pair that readers compare without a lock is in `cells`.

use crate::cells::Lease;
use crate::handle::ReadPermit;
use crate::machine::Applied;
use damask_types::{Epoch, Region, RegionId};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a leader publishes of a region.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Keeps the content from being destroyed, as a permit does.
    pub region: Arc<Region>,
    pub term: u64,
    /// Everything that was acknowledged is at or below it.
    pub commit: u64,
    /// End of the lease, by the store's monotonic clock.
    pub until: Duration,
}

impl PartialEq for View {
    fn eq(&self, other: &View) -> bool {
        let fields = |v: &View| (v.term, v.commit, v.until);
        Arc::ptr_eq(&self.region, &other.region) && fields(self) == fields(other)
    }
}

/// One region, as readers see it.
pub(crate) struct LocalView {
    region: Arc<Region>,
    term: u64,
    lease: Lease,
    /// The raft thread has been asked to renew the lease.
    renewing: AtomicBool,
}

impl LocalView {
    /// A permit, if the lease lasts at `now`, which was read after this view was found.
    pub fn permit(&self, now: Duration) -> Option<ReadPermit> {
        let index = self.lease.commit_at(nanoseconds(now))?;
        let applied = Applied { index, term: self.term };
        Some(ReadPermit { region: self.region.clone(), term: self.term, applied })
    }

    /// True once when the rest of the lease is shorter than `rest`: ask for more.
    pub fn renew(&self, now: Duration, rest: Duration) -> bool {
        nanoseconds(now + rest) >= self.lease.until()
            && !self.renewing.swap(true, Ordering::Relaxed)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The regions that a store leads and may read locally.
#[derive(Default)]
pub(crate) struct LocalReads {
    views: RwLock<HashMap<RegionId, Arc<LocalView>>>,
}

impl LocalReads {
    /// What a turn has changed; `None`: not readable this way any more.
    pub fn publish(&self, changes: Vec<(RegionId, Option<View>)>) {
        for (id, view) in changes {
            let Some(view) = view else {
                self.withdraw(self.views.write().remove(&id));
                continue;
            };
            let until = nanoseconds(view.until);
            let there = self.views.read().get(&id).cloned();
            if let Some(there) = there
                && there.term == view.term
                && Arc::ptr_eq(&there.region, &view.region)
            {
                if there.lease.publish(view.commit, until) {
                    there.renewing.store(false, Ordering::Relaxed);
                }
                continue;
            }
            let View { region, term, commit, .. } = view;
            let (lease, renewing) = (Lease::new(commit, until), AtomicBool::new(false));
            let view = Arc::new(LocalView { region, term, lease, renewing });
            self.withdraw(self.views.write().insert(id, view));
        }
    }

    /// Who has found the view already gets no permit from it any more.
    fn withdraw(&self, view: Option<Arc<LocalView>>) {
        if let Some(view) = view {
            view.lease.withdraw();
        }
    }

    /// The region, if it is the one of this epoch.
    pub fn find(&self, id: RegionId, epoch: Epoch) -> Option<Arc<LocalView>> {
        let view = self.views.read().get(&id).cloned()?;
        (view.region.epoch.version == epoch.version).then_some(view)
    }

    /// The store stops: it leads nothing any more.
    pub fn clear(&self) {
        let views = std::mem::take(&mut *self.views.write());
        views.into_values().for_each(|view| self.withdraw(Some(view)));
    }
}

#[cfg(test)]
mod tests {
    //! What is published is readable until its end, and not after it was withdrawn.

    use super::*;
    use damask_types::KeyRange;

    #[test]
    fn a_permit_is_given_until_the_lease_ends_or_is_withdrawn() {
        let (id, range) = (RegionId(7), KeyRange::all());
        let epoch = Epoch { conf_ver: 1, version: 3 };
        let region = Arc::new(Region { id, range, epoch, peers: Vec::new() });
        let ms = Duration::from_millis;
        let view = |until| View { region: region.clone(), term: 6, commit: 9, until };
        let reads = LocalReads::default();
        assert!(reads.find(id, epoch).is_none());
        reads.publish(vec![(id, Some(view(ms(10))))]);
        assert!(reads.find(id, Epoch { version: 2, ..epoch }).is_none());
        let found = reads.find(id, epoch).unwrap();
        assert_eq!(found.permit(ms(9)).unwrap().applied, Applied { index: 9, term: 6 });
        assert!(found.permit(ms(10)).is_none());
        assert!(!found.renew(ms(5), ms(4)));
        assert!(found.renew(ms(6), ms(4)));
        assert!(!found.renew(ms(7), ms(4)), "once");
        reads.publish(vec![(id, Some(view(ms(20))))]);
        assert!(found.permit(ms(19)).is_some(), "it was made longer");
        assert!(found.renew(ms(16), ms(4)));
        reads.publish(vec![(id, None)]);
        assert!(reads.find(id, epoch).is_none());
        assert!(found.permit(ms(19)).is_none(), "nor for who has found it");
    }
}
