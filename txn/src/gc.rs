//! Garbage collection's safe point: how far it may go, the locks below it ended, and only then
//! published. It must never pass a transaction that may still read or commit.
//!
//! ```text
//!   min(now − life time, oldest running − 1)
//!        │ every region: locks at or below it ─► ended? resolve : alive? step back before it
//!        ▼
//!   publish ─► readers below are refused ─► stores remove versions (damask_kv::gc)
//! ```
//!
//! Why no commit at or below a published safe point can follow: a transaction that began at or
//! below it has no lock left, a prewrite of it is refused by the stores that know the safe point,
//! and all others commit above their start.
//!
//! What was published outlives a restart ([`SavedSafePoint`]): versions below it are gone, and a
//! reader must hear that, not be answered without them.

mod saved;

pub use saved::SavedSafePoint;

use crate::client::Client;
use crate::error::Result;
use crate::region::{Core, Failed};
use crate::request::{Request, Response, SCAN_PAIRS_MAX};
use crate::resolve::locks_of;
use damask_kv::GcSafePoint;
use damask_types::{KeyLock, KeyRange, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Locks that are looked at in one request.
const PAGE: usize = 1_024;
const _: () = assert!(PAGE <= SCAN_PAIRS_MAX);

/// Tells every store the safe point.
pub trait Publish: Send + Sync {
    /// The safe point that was published last, before a restart too; ZERO: none ever was.
    fn published(&self) -> Timestamp;
    /// From here on reads below `safe_point` are refused and versions may be removed. Called with
    /// rising safe points only. On an error some stores may know it: it is published again later.
    fn publish(&self, safe_point: Timestamp) -> Result<()>;
}

/// All stores are in this process and share one.
impl Publish for GcSafePoint {
    fn published(&self) -> Timestamp {
        self.get()
    }

    fn publish(&self, safe_point: Timestamp) -> Result<()> {
        self.advance(safe_point);
        Ok(())
    }
}

/// What one advance came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advanced {
    /// The safe point that is published now; perhaps the same as before.
    pub safe_point: Timestamp,
    /// Locks of ended transactions that were found and ended.
    pub resolved: usize,
    /// A transaction that was alive and is older than it was to be: the safe point stays below it.
    pub held_back: Option<Timestamp>,
}

/// Moves the safe point of one cluster. One of them runs at a time.
pub struct Gc {
    publish: Arc<dyn Publish>,
    published: Mutex<Timestamp>,
}

impl Gc {
    /// Publishes to these stores.
    pub fn new(publish: Arc<dyn Publish>) -> Gc {
        let published = Mutex::new(publish.published());
        Gc { publish, published }
    }

    /// The safe point that was published last; ZERO: none.
    pub fn safe_point(&self) -> Timestamp {
        *self.published.lock()
    }

    /// Moves the safe point as far as it may go: `life_time` behind `now`, not to or past
    /// `oldest_running`, the smallest [`Client::oldest_running`] of all clients, asked for after
    /// `now` was taken from the oracle.
    ///
    /// # Errors
    /// Nothing was published: a region does not answer, or the stores could not be told.
    pub fn advance(
        &self,
        client: &Client,
        now: Timestamp,
        life_time: Duration,
        oldest_running: Option<Timestamp>,
    ) -> Result<Advanced> {
        let mut published = self.published.lock();
        let life_ms = u64::try_from(life_time.as_millis()).unwrap_or(u64::MAX);
        let behind = Timestamp::compose(now.physical_ms().saturating_sub(life_ms), 0);
        let limit = oldest_running.map_or(Timestamp::MAX, Timestamp::prev);
        let wanted = behind.min(limit);
        if wanted <= *published {
            return Ok(Advanced { safe_point: *published, resolved: 0, held_back: None });
        }
        let (safe_point, resolved) = resolve_all(client.core(), wanted)?;
        let held_back = (safe_point < wanted).then(|| safe_point.next());
        if safe_point > *published {
            self.publish.publish(safe_point)?;
            *published = safe_point;
        }
        Ok(Advanced { safe_point: *published, resolved, held_back })
    }
}

/// Ends every lock at or below the safe point whose transaction has ended. The safe point, lowered
/// before the oldest of those that have not; and how many locks were ended.
fn resolve_all(core: &Core, mut safe_point: Timestamp) -> Result<(Timestamp, usize)> {
    let mut rest = Some(KeyRange::all());
    let mut resolved = 0;
    // Ends: each page leaves less of the range.
    while let Some(range) = rest {
        let (locks, left) = lock_page(core, &range, safe_point)?;
        let mut backoff = core.backoff();
        let resolution = core.resolve(&locks, Timestamp::ZERO, &mut backoff)?;
        let alive = |lock: &&KeyLock| resolution.living.contains(&lock.lock.start_ts);
        resolved += locks.len() - locks.iter().filter(alive).count();
        if let Some(oldest) = resolution.living.iter().min() {
            safe_point = safe_point.min(oldest.prev());
        }
        rest = left;
    }
    Ok((safe_point, resolved))
}

/// The first locks of a range at or below a version, and what is left of the range behind them.
fn lock_page(
    core: &Core,
    range: &KeyRange,
    ts: Timestamp,
) -> Result<(Vec<KeyLock>, Option<KeyRange>)> {
    let mut backoff = core.backoff();
    // Ends: every turn answers or takes time from the back-off.
    loop {
        let route = core.locate(&range.start, &mut backoff)?;
        let region = &route.region.range;
        let part = region.intersect(range).unwrap_or_else(|| KeyRange::point(&range.start));
        let request = Request::ScanLocks { range: part.clone(), ts, limit: PAGE };
        let locks = match core.call(&route, request, &mut backoff) {
            Ok(Response::Locks(locks)) => locks,
            Ok(other) => return Err(crate::Error::unexpected("locks", other)),
            Err(Failed::Again) => continue,
            Err(Failed::Fatal(e)) => return Err(e),
            Err(Failed::Keys(errors)) => {
                // A lock that is not applied yet: it is there soon, or gone.
                let locks = locks_of(errors)?;
                let resolution = core.resolve(&locks, Timestamp::ZERO, &mut backoff)?;
                match resolution.alive {
                    Some((holder, left)) => backoff.wait_lock(holder, left)?,
                    None => backoff.turn(&"locks of transactions that had ended")?,
                }
                continue;
            }
        };
        let next = match locks.last() {
            Some(last) if locks.len() >= PAGE => KeyRange::point(&last.key).end,
            _ if part.end.is_empty() => return Ok((locks, None)),
            _ => part.end,
        };
        let left = KeyRange { start: next, end: range.end.clone() };
        return Ok((locks, (!left.is_empty()).then_some(left)));
    }
}
