//! Reads of versions over a [`Snapshot`](crate::Snapshot): the newest commit at or below a
//! timestamp, unless a lock blocks it. It must never write, and never take a lock's side.
//!
//! Keys here are user keys; this file is where they meet `enc(key) !ts`.

use crate::engine::Snapshot;
use damask_types::KeyLock;
use std::sync::Arc;

/// A read's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read<T> {
    /// The answer at the timestamp.
    Ok(T),
    /// A lock is in the way.
    Blocked(Box<KeyLock>),
}

/// Reads versions of user keys.
pub struct MvccReader {
    /// The view that is read.
    pub snapshot: Arc<dyn Snapshot>,
}
