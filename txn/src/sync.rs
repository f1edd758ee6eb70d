//! Locks and atomics for the files that are also checked under every schedule: `tests/loom.rs`
//! compiles them again with a module of this name over loom's. It must stay as small as they need.

pub(crate) use damask_env::Condvar;
pub(crate) use parking_lot::Mutex;
pub(crate) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use parking_lot::MutexGuard;
use std::time::Duration;

/// Waits until woken or out of patience, which is true; what holds then is for the caller to see.
pub(crate) fn wait_for<T>(
    condvar: &Condvar,
    guard: &mut MutexGuard<'_, T>,
    patience: Duration,
) -> bool {
    condvar.wait_for(guard, patience)
}
