//! A safe point that outlives a restart. It must never be used before it is saved, nor fall.
//!
//! ```text
//!   publish ─► saved, durable ─► readers refused, versions removed
//!   open    ─► loaded ─► readers refused, before any store serves
//! ```

use super::Publish;
use crate::error::{Error, Result};
use damask_kv::GcSafePoint;
use damask_tso::BoundStore;
use damask_types::Timestamp;
use parking_lot::Mutex;

/// Keeps the safe point of all stores of one process where an oracle would keep its bound.
pub struct SavedSafePoint {
    store: Mutex<Box<dyn BoundStore>>,
    shared: GcSafePoint,
}

impl SavedSafePoint {
    /// Loads what was saved into `shared`, before anything is read or collected below it.
    ///
    /// # Errors
    /// The store fails, or what it holds is damaged: nobody knows what was collected.
    pub fn open(store: Box<dyn BoundStore>, shared: GcSafePoint) -> Result<SavedSafePoint> {
        shared.advance(store.load().map_err(failed)?);
        Ok(SavedSafePoint { store: Mutex::new(store), shared })
    }
}

impl Publish for SavedSafePoint {
    fn published(&self) -> Timestamp {
        self.shared.get()
    }

    fn publish(&self, safe_point: Timestamp) -> Result<()> {
        let store = self.store.lock();
        if safe_point > self.shared.get() {
            store.save(safe_point).map_err(failed)?;
            self.shared.advance(safe_point);
        }
        Ok(())
    }
}

fn failed(e: damask_tso::Error) -> Error {
    Error::Storage { kind: e.kind(), detail: format!("the safe point: {e}") }
}
