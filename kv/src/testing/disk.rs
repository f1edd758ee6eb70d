//! An engine's files while the disk fails, fills up, or loses power: what was synced stays, a
//! prefix of the rest, never a hole, never another answer. It must never touch a call that is not
//! of the engine under test.
//!
//! ```text
//! test program ── disk_suite! ── its own write, fsync, rename, ... before the C library's (calls)
//!                                     │ each call for a file below the folder of the engine
//!                                     ▼
//!                 watch     is this the call that fails? a sync? a place to cut the power?
//!                                     ▼
//!                 model     what a disk has for sure, and what it may have beside that
//!                                     ▼
//!                 failures  the n-th call fails, or all from the n-th on
//!                 power     the power goes at every sync, and at some calls in between
//! ```
//!
//! The disk's promise is POSIX's, and little more: a file's bytes are there after an fsync or
//! fdatasync of the file, a name (created, renamed or removed) after an fsync of its folder. What
//! came after is lost, whole, or torn at a sector; the names of one folder change in the order of
//! the calls, which is the little more, and what file systems with a journal give. A failed fsync
//! loses what it was to write: a second one that returns well says nothing of it, as on Linux.
//!
//! The model reads the files themselves, so it does not matter how bytes came there: `write`, a
//! map in memory, `O_DIRECT` or io_uring. Not everything can be made to fail, though: a write
//! through a map, through io_uring or by `fopen` is no call of the C library's, and of those the
//! forms that take an open folder (`openat`, `unlinkat`, `renameat`, `linkat`), `truncate` by name,
//! `posix_fallocate` and `copy_file_range` are left alone. `O_SYNC`, `msync`, `sync` and `syncfs`
//! are taken for nothing, so an engine that relies on them is judged too hard. A call that goes to
//! the kernel by itself is counted, and fails, nowhere.

pub mod calls;
mod failures;
mod folder;
mod life;
mod model;
mod power;
pub mod watch;

pub use folder::{Unsynced, WatchedFolder};

use crate::engine::Engine;
use crate::error::Result;
use std::path::Path;

/// Set in the environment: the n-th call fails for every n, and the power is cut in every way at
/// every place. Else, where there are many, a sample: the stride is printed.
pub const EVERY_CALL: &str = "DAMASK_KV_EVERY_CALL";

/// The n-th write, sync, change of a name, or read fails, once or for good (a full disk that is
/// freed afterwards). Needs [`crate::disk_suite`]'s calls in the program. `open` should give an engine
/// of small buffers.
///
/// # Panics
/// At the first difference.
pub fn failing_calls<E: Engine>(open: impl Fn(&Path) -> Result<E> + Sync) {
    failures::check(&open);
}

/// The power goes at every sync, and at some writes in between. Needs [`crate::disk_suite`]'s calls in
/// the program. The engine's buffers must be so small that half a megabyte reaches its files.
///
/// # Panics
/// At the first difference.
pub fn power_cuts<E: Engine>(open: impl Fn(&Path) -> Result<E>) {
    power::check(&open);
}

fn every_call() -> bool {
    std::env::var_os(EVERY_CALL).is_some()
}
