//! The conformance suite of the column store seam: any store against a plain model, and stores on
//! a disk against crashes, failing I/O and flipped bits. It must never depend on a store's inside.
//!
//! ```text
//!  suite        traps   the histories in which stores are wrong, by name, in four tempos
//!               walk    random changes, restarts, maintenance; reads at random timestamps
//!                 pushed   predicates, order and aggregates, against the model's rows
//!               racing  writers, readers and maintenance at once
//!                 owned    a range that is cleared, filled and replaced meanwhile
//!  crash_suite  a power cut after every change; the n-th I/O fails, for every n
//!  flip_suite   flipped bits are named or harmless
//! ```
//!
//! What a store is asked: whatever order (handle, version) come in, of a version that comes twice
//! the first counts; reads at or after the last safe point; no snapshot lives longer than its store.

mod crash;
pub(crate) mod model;
mod owned;
mod pushed;
mod racing;
mod traps;
mod walk;

pub use crash::{crash_suite, flip_suite};
pub use model::Numbers;

use crate::error::Result;
use crate::store::ColumnStore;
use damask_env::Disk;
use std::sync::Arc;

/// Opens the same place again and again; each call of the maker gives a new, empty place.
pub type Opener = Box<dyn Fn() -> Arc<dyn ColumnStore>>;
/// Opens a store on a disk.
pub type DiskOpener<'a> = &'a dyn Fn(Arc<dyn Disk>) -> Result<Arc<dyn ColumnStore>>;

const WALKS: u64 = 6;

/// Every promise of the seam, on new places from `make`. Panics where a store breaks one.
pub fn suite(make: impl Fn() -> Opener) {
    traps::all(&make);
    for seed in 0..WALKS {
        walk::random_walk(&make(), seed);
    }
    racing::race(&*make()());
}
