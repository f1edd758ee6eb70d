//! Why the placement driver refused. Nothing here retries.

use damask_types::{ErrorKind, RegionId, StoreId};

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The report or request speaks of an older description or term than the one known.
    #[error("region {region}: {detail}")]
    Stale {
        /// The region that was reported.
        region: RegionId,
        /// What is newer.
        detail: String,
    },
    /// The store was never registered.
    #[error("store {0} is not registered")]
    UnknownStore(StoreId),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The durable state could not be saved; nothing has changed.
    #[error("the placement driver's state was not saved: {0}")]
    Storage(String),
    /// The saved state is damaged.
    #[error("the placement driver's saved state is damaged: {0}")]
    Corrupt(String),
    /// A remote placement driver did not answer.
    #[error("the placement driver does not answer: {0}")]
    Unavailable(String),
}

impl Error {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Stale { .. } => ErrorKind::Reroute,
            Error::UnknownStore(_) | Error::Invalid(_) => ErrorKind::Invalid,
            Error::Storage(_) => ErrorKind::Io,
            Error::Corrupt(_) => ErrorKind::Corrupt,
            Error::Unavailable(_) => ErrorKind::Retry,
        }
    }
}

/// The result of a placement request.
pub type Result<T> = std::result::Result<T, Error>;
