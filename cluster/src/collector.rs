//! Moves the safe point of garbage collection, and keeps it over a restart. It must never decide
//! how far it may go: that is `damask_txn::gc`'s. The stores see it move and remove what is below
//! by themselves.

use crate::config;
use damask_env::{Closing, Disk, Task, spawn};
use damask_kv::GcSafePoint;
use damask_pd::{Mark, Placement};
use damask_tso::{BoundStore, FileBound};
use damask_txn::Client;
use damask_txn::gc::{Gc, SavedSafePoint};
use damask_types::{ErrorKind, Timestamp};
use std::sync::Arc;
use std::time::Duration;

/// The file that holds it, in the format of an oracle's bound.
const FILE: &str = "gc-safe-point";

/// Loads into `safe_point` what was saved before a restart: before any store reads or collects.
///
/// # Errors
/// The disk fails, or the file is damaged.
pub fn open(disk: Arc<dyn Disk>, safe_point: GcSafePoint) -> damask_txn::Result<SavedSafePoint> {
    SavedSafePoint::open(Box::new(FileBound::new(disk, FILE)), safe_point)
}

/// The same, from what a placement driver that is a group has replicated.
///
/// # Errors
/// Nobody leads the group.
pub fn open_mark(
    pd: Arc<dyn Placement>,
    safe_point: GcSafePoint,
) -> damask_txn::Result<SavedSafePoint> {
    SavedSafePoint::open(Box::new(MarkBound(pd)), safe_point)
}

/// The placement driver's mark.
struct MarkBound(Arc<dyn Placement>);

impl MarkBound {
    fn raise(&self, to: Timestamp) -> Result<Timestamp, damask_tso::Error> {
        let raised = self.0.raise(Mark::SafePoint, to.0).map(Timestamp);
        raised.map_err(|e| damask_tso::Error::new(ErrorKind::Retry, e))
    }
}

impl BoundStore for MarkBound {
    fn load(&self) -> Result<Timestamp, damask_tso::Error> {
        // Raised to nothing: its value, from whoever leads now.
        self.raise(Timestamp::ZERO)
    }

    fn save(&self, bound: Timestamp) -> Result<(), damask_tso::Error> {
        self.raise(bound).map(drop)
    }

    fn may_serve(&self) -> Result<(), damask_tso::Error> {
        Ok(())
    }
}

/// The thread that moves it, until `closing` is closed.
pub fn start(
    config: &config::Gc,
    client: Client,
    safe_point: SavedSafePoint,
    closing: Arc<Closing>,
) -> Task {
    let life_time = Duration::from_millis(config.life_time_ms);
    let interval = Duration::from_millis(config.interval_ms);
    let gc = Gc::new(Arc::new(safe_point));
    spawn("gc", move || {
        while !closing.wait(interval) {
            if let Err(error) = advance(&gc, &client, life_time) {
                // Nothing was published: the next round tries again.
                tracing::warn!(%error, "the safe point does not move");
            }
        }
    })
}

fn advance(gc: &Gc, client: &Client, life_time: Duration) -> damask_txn::Result<()> {
    let now = client.timestamp()?;
    let oldest = client.oldest_running();
    let advanced = gc.advance(client, now, life_time, oldest)?;
    tracing::debug!(safe_point = %advanced.safe_point, resolved = advanced.resolved, "safe point");
    Ok(())
}
