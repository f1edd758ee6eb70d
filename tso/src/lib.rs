//! Time: the oracle seam, a local oracle with a persisted bound, and a batching client.

use damask_types::{ErrorKind, Timestamp};

/// A failed request for timestamps.
#[derive(Debug, Clone, thiserror::Error)]
#[error("timestamp oracle: {detail} ({kind:?})")]
pub struct Error {
    /// What the caller must do.
    pub kind: ErrorKind,
    /// The cause in words.
    pub detail: String,
}

/// Gives out timestamps.
pub trait Oracle: Send + Sync {
    /// `n >= 1` consecutive timestamps, the first of which is returned, all greater than any that
    /// a call which ended before this one began had returned; also over restarts.
    fn get(&self, n: u32) -> Result<Timestamp, Error>;
}
