//! Why a request to a store failed, named by what the client must do.

use damask_types::{ErrorKind, KeyRange, Peer, Region, RegionId, Timestamp};

/// A failed request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Refused before anything was done: the disk is nearly full. What frees space is still taken.
    #[error("the disk is nearly full: {0}")]
    DiskFull(String),
    /// Another replica leads, or nobody is known to.
    #[error("region {region} is not led here (leader: {leader:?})")]
    NotLeader {
        /// The region.
        region: RegionId,
        /// Who leads, if known.
        leader: Option<Peer>,
    },
    /// The region has changed; here is what is known now.
    #[error("the epoch does not match; current regions: {current:?}")]
    EpochNotMatch {
        /// This store's newest descriptions that overlap the old one.
        current: Vec<Region>,
    },
    /// This replica may not yet be read at that timestamp without a question: ask the leader.
    #[error("region {region} is not ready to be read at {ts}: it is safe up to {safe_ts}")]
    DataIsNotReady {
        /// The region.
        region: RegionId,
        /// As asked.
        ts: Timestamp,
        /// What is safe; ZERO: nothing.
        safe_ts: Timestamp,
    },
    /// It is about to become a part of its neighbour: ask again, it will be elsewhere or as before.
    #[error("region {0} is being merged")]
    Merging(RegionId),
    /// No such region here.
    #[error("region {0} is not on this store")]
    RegionNotFound(RegionId),
    /// The key is outside of the region.
    #[error("a key is outside of region {region} {range:?}")]
    KeyNotInRegion {
        /// The region.
        region: RegionId,
        /// Its range.
        range: KeyRange,
    },
    /// Proposed, but another leader's entry took its place, or the term moved before it was
    /// proposed. Nothing of it was or will be applied.
    #[error("the command is stale")]
    Stale,
    /// Too much in flight.
    #[error("the store is busy: {0}")]
    Busy(&'static str),
    /// The store stopped after the command was proposed: it may or may not be applied.
    #[error("the outcome is not known: {0}")]
    Undetermined(String),
    /// One command is larger than the log takes.
    #[error("a command of {bytes} bytes is above the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The store's disk or engine failed.
    #[error("{detail} ({kind:?})")]
    Storage {
        /// What the caller must do.
        kind: ErrorKind,
        /// The cause in words.
        detail: String,
    },
    /// The store has stopped.
    #[error("the store has stopped")]
    Stopped,
}

impl Error {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NotLeader { .. } | Error::EpochNotMatch { .. } => ErrorKind::Reroute,
            Error::RegionNotFound(_) | Error::KeyNotInRegion { .. } => ErrorKind::Reroute,
            Error::Stopped | Error::DataIsNotReady { .. } => ErrorKind::Reroute,
            Error::Stale | Error::Busy(_) | Error::Merging(_) => ErrorKind::Retry,
            Error::Undetermined(_) => ErrorKind::Undetermined,
            Error::TooLarge { .. } | Error::Invalid(_) => ErrorKind::Invalid,
            Error::DiskFull(_) => ErrorKind::NoSpace,
            Error::Storage { kind, .. } => *kind,
        }
    }

    /// Stored bytes are wrong.
    pub fn corrupt(detail: impl Into<String>) -> Error {
        Error::Storage { kind: ErrorKind::Corrupt, detail: detail.into() }
    }

    /// A disk operation failed.
    pub fn io(what: impl std::fmt::Display, e: &std::io::Error) -> Error {
        let kind = match e.kind() {
            std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Error::Storage { kind, detail: format!("{what}: {e}") }
    }
}

impl From<damask_kv::Error> for Error {
    fn from(e: damask_kv::Error) -> Error {
        Error::Storage { kind: e.kind(), detail: e.to_string() }
    }
}

impl From<damask_types::codec::DecodeError> for Error {
    fn from(e: damask_types::codec::DecodeError) -> Error {
        Error::corrupt(e.to_string())
    }
}

/// The result of a request to a store.
pub type Result<T> = std::result::Result<T, Error>;
