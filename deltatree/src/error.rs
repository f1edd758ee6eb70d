//! The column store's error: what failed, and what the caller must do.

use damask_types::ErrorKind;

/// A failed operation.
#[derive(Debug, thiserror::Error)]
#[error("{op}: {detail} ({kind:?})")]
pub struct Error {
    /// The operation, e.g. `apply`.
    pub op: &'static str,
    /// What the caller must do.
    pub kind: ErrorKind,
    /// The cause in words; names the file when bytes are wrong.
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

impl From<arrow::error::ArrowError> for Error {
    fn from(e: arrow::error::ArrowError) -> Error {
        Error::new("arrow", ErrorKind::Invalid, e)
    }
}

/// The result of a column store operation.
pub type Result<T> = std::result::Result<T, Error>;
