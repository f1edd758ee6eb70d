//! Error classes, named by what the caller must do. Each crate has an error of its own whose
//! `kind()` is one of these; nothing here carries a message.

/// What the caller of a failed operation must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Nothing happened; try again after a back-off.
    Retry,
    /// The request went to the wrong place; find the place again, then retry.
    Reroute,
    /// Another transaction's lock is in the way; resolve it, then retry.
    ResolveLock,
    /// A newer write exists; the transaction must start again or give up.
    Conflict,
    /// The caller's mistake; repeating it will not help.
    Invalid,
    /// What was to be read may have been collected; begin again at a newer timestamp.
    TooOld,
    /// The disk is full and nothing was written; retry after freeing space.
    NoSpace,
    /// An earlier sync failed: only reopening the store tells what is durable.
    Poisoned,
    /// Stored bytes are wrong: this replica must be rebuilt, never served.
    Corrupt,
    /// The outcome is not known: it may or may not have happened. Never retried silently.
    Undetermined,
    /// Any other failure of the outside world.
    Io,
}
