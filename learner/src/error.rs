//! Why the learner stopped. Every one of these is local: a command's own failure never comes here.

use damask_types::{ErrorKind, TableId, Timestamp};

/// A failed operation; the replicas of this store stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A committed row does not fit the newest schema of its table.
    #[error("row {handle} of table {table} cannot be decoded: {detail}")]
    Row {
        /// The table.
        table: TableId,
        /// The row.
        handle: i64,
        /// What is wrong.
        detail: String,
    },
    /// A commit of a long value that was never seen.
    #[error("key {key} was committed, but the value of transaction {start_ts} is missing")]
    MissingValue {
        /// The key in hex.
        key: String,
        /// The transaction.
        start_ts: Timestamp,
    },
    /// The schema source cannot say what a table is.
    #[error("the schema of table {table} cannot be read: {detail}")]
    Schema {
        /// The table.
        table: TableId,
        /// Why.
        detail: String,
    },
    /// The column store failed.
    #[error("{detail} ({kind:?})")]
    Store {
        /// What the caller must do.
        kind: ErrorKind,
        /// The cause in words.
        detail: String,
    },
    /// A stored mark or a snapshot's chunk is damaged.
    #[error("{what} is damaged: {detail}")]
    Corrupt {
        /// Which bytes.
        what: &'static str,
        /// What is wrong with them.
        detail: String,
    },
    /// The caller's mistake.
    #[error("{0}")]
    Invalid(String),
    /// An earlier call failed; only reopening tells what is durable.
    #[error("the column machine has failed before: {0}")]
    Failed(String),
}

impl Error {
    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Row { .. } | Error::MissingValue { .. } | Error::Corrupt { .. } => {
                ErrorKind::Corrupt
            }
            Error::Schema { .. } => ErrorKind::Io,
            Error::Store { kind, .. } => *kind,
            Error::Invalid(_) => ErrorKind::Invalid,
            Error::Failed(_) => ErrorKind::Poisoned,
        }
    }
}

impl From<damask_deltatree::Error> for Error {
    fn from(e: damask_deltatree::Error) -> Error {
        Error::Store { kind: e.kind(), detail: e.to_string() }
    }
}

impl From<Error> for damask_raftstore::Error {
    fn from(e: Error) -> damask_raftstore::Error {
        match e {
            Error::Invalid(text) => damask_raftstore::Error::Invalid(text),
            e => damask_raftstore::Error::Storage { kind: e.kind(), detail: e.to_string() },
        }
    }
}

/// The result of a learner's operation.
pub type Result<T> = std::result::Result<T, Error>;
