//! The client's error: what became of a transaction, and what the caller must do. It must never
//! call an unknown outcome a failure.

use damask_types::key::Hex;
use damask_types::{ErrorKind, Timestamp};

/// A failed operation of a transaction. Unless it says otherwise, nothing of the transaction is or
/// will become visible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another transaction wrote first. Run it again from its beginning.
    #[error("write conflict in transaction {start_ts}: {detail}")]
    Conflict {
        /// The loser.
        start_ts: Timestamp,
        /// What was found.
        detail: String,
    },
    /// An insert found its key.
    #[error("key {} exists", Hex(.key))]
    AlreadyExists {
        /// The key.
        key: Vec<u8>,
    },
    /// The transaction may or may not be committed: nobody answered after the commit was sent.
    #[error("transaction {start_ts} may or may not be committed: {detail}")]
    Undetermined {
        /// The transaction.
        start_ts: Timestamp,
        /// The cause in words.
        detail: String,
    },
    /// Versions at this timestamp may have been collected: the transaction has lasted longer than
    /// the life time of garbage collection. Run it again.
    #[error(
        "GC life time is shorter than transaction duration: transaction starts at {ts}, \
         GC safe point is {safe_point}"
    )]
    BelowSafePoint {
        /// What was to be read, or the start of what was to be written.
        ts: Timestamp,
        /// The safe point.
        safe_point: Timestamp,
    },
    /// More than a transaction takes.
    #[error("{what} of {bytes} bytes is above the limit of {limit}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A lock was in the way for too long.
    #[error("waited {waited_ms} ms for a lock of transaction {holder}")]
    LockTimeout {
        /// Who holds it.
        holder: Timestamp,
        /// How long, milliseconds.
        waited_ms: u64,
    },
    /// Pessimistic: what the statement read is not the newest any more. Take back its writes, begin
    /// it again, run it again; the transaction goes on.
    #[error("a version newer than {read_ts} of key {} exists", Hex(.key))]
    Outdated {
        /// Of what.
        key: Vec<u8>,
        /// What the statement read.
        read_ts: Timestamp,
    },
    /// Waiting for a lock would never end: transactions wait for each other in a circle, and this
    /// one is to give way. Roll it back, all of it.
    #[error("deadlock: transaction {start_ts} waits for {holder}")]
    Deadlock {
        /// The victim.
        start_ts: Timestamp,
        /// Whom it would wait for.
        holder: Timestamp,
        /// The key.
        key: Vec<u8>,
        /// (waiter, holder) around the circle, the victim's wait last.
        circle: Vec<(Timestamp, Timestamp)>,
    },
    /// A lock is in the way and the caller does not wait.
    #[error("key {} is locked by transaction {holder}", Hex(.key))]
    LockNotAvailable {
        /// The key.
        key: Vec<u8>,
        /// Who holds it.
        holder: Timestamp,
    },
    /// Retried until the time was up.
    #[error("gave up after {attempts} attempts in {waited_ms} ms; the last: {cause}")]
    Unavailable {
        /// How often.
        attempts: u32,
        /// For how long, milliseconds.
        waited_ms: u64,
        /// The last failure.
        cause: String,
    },
    /// A store's disk or engine failed, or something impossible was found.
    #[error("{detail} ({kind:?})")]
    Storage {
        /// What the caller must do.
        kind: ErrorKind,
        /// The cause in words.
        detail: String,
    },
    /// The caller's mistake.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Conflict { .. } | Error::Outdated { .. } | Error::Deadlock { .. } => {
                ErrorKind::Conflict
            }
            Error::Undetermined { .. } => ErrorKind::Undetermined,
            Error::LockTimeout { .. }
            | Error::LockNotAvailable { .. }
            | Error::Unavailable { .. } => ErrorKind::Retry,
            Error::BelowSafePoint { .. } => ErrorKind::TooOld,
            Error::AlreadyExists { .. } | Error::TooLarge { .. } | Error::Invalid(_) => {
                ErrorKind::Invalid
            }
            Error::Storage { kind, .. } => *kind,
        }
    }

    /// Two ends that do not understand each other.
    pub(crate) fn unexpected(what: &str, found: impl std::fmt::Debug) -> Error {
        let detail = format!("{what}: unexpected answer {found:?}");
        Error::Storage { kind: ErrorKind::Corrupt, detail }
    }
}

/// The result of an operation of a transaction.
pub type Result<T> = std::result::Result<T, Error>;
