//! The oracle's error: what failed, and what the caller must do.

use damask_types::ErrorKind;

/// A failed request for timestamps. None of them was given out.
#[derive(Debug, Clone, thiserror::Error)]
#[error("timestamp oracle: {detail} ({kind:?})")]
pub struct Error {
    /// What the caller must do.
    pub kind: ErrorKind,
    /// The cause in words.
    pub detail: String,
}

impl Error {
    /// A new error.
    pub fn new(kind: ErrorKind, detail: impl ToString) -> Error {
        Error { kind, detail: detail.to_string() }
    }

    /// The caller's mistake.
    pub(crate) fn invalid(detail: impl ToString) -> Error {
        Error::new(ErrorKind::Invalid, detail)
    }

    /// What the caller must do.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Error {
        let kind = match e.kind() {
            std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Error::new(kind, e)
    }
}
