//! The engine's error: what failed, and what the caller must do.

use damask_types::ErrorKind;

/// A failed operation.
#[derive(Debug, thiserror::Error)]
#[error("{op}: {detail} ({kind:?})")]
pub struct Error {
    /// The operation, e.g. `write`.
    pub op: &'static str,
    /// What the caller must do.
    pub kind: ErrorKind,
    /// The cause in words.
    pub detail: String,
}

impl Error {
    /// A new error.
    pub fn new(op: &'static str, kind: ErrorKind, detail: impl ToString) -> Error {
        Error { op, kind, detail: detail.to_string() }
    }

    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl From<damask_types::codec::DecodeError> for Error {
    fn from(e: damask_types::codec::DecodeError) -> Error {
        Error::new("decode", ErrorKind::Corrupt, e)
    }
}

/// The result of an engine operation.
pub type Result<T> = std::result::Result<T, Error>;
