//! Time: gives out timestamps that are unique and ordered over the whole cluster, also over
//! restarts and a wall clock that jumps. It must never give out what a crash could make it repeat.
//!
//! ```text
//!  callers ──► BatchingOracle ──► LocalOracle ──► Window      next timestamp: one fetch_add
//!              one inner call       │   ▲
//!              for all waiting      ▼   │ served only below it, and while the lease holds
//!                                 BoundStore: a file, or a value that a group replicates
//! ```
//!
//! Invariants:
//! * a timestamp is given out once, and after every one whose call had ended before;
//! * every timestamp given out is below the bound that is saved;
//! * the bound never goes back, whatever the clock says.
//!
//! Not here: a store that replicates the bound (the placement driver's own group; it implements
//! [`BoundStore`] and opens [`LocalOracle::over`] it at each election), and a remote oracle (a wire
//! in front of [`Oracle`]).
//!
//! Reading order: `window`, `bound`, `local`, `batching`, `memory`, `testing`.

pub mod batching;
pub mod bound;
pub mod error;
pub mod local;
pub mod memory;
pub mod testing;
mod window;

pub use batching::BatchingOracle;
pub use bound::{BoundStore, FileBound, MemoryBound};
pub use error::Error;
pub use local::{LocalOracle, WINDOW_MS};
pub use memory::MemoryOracle;

use damask_types::Timestamp;
use damask_types::ts::LOGICAL_MAX;

/// Timestamps that one call may ask for: as many as one millisecond holds.
pub const REQUEST_MAX: u32 = LOGICAL_MAX as u32;

/// Gives out timestamps.
pub trait Oracle: Send + Sync {
    /// `n` consecutive timestamps (`1 <= n <= REQUEST_MAX`), the first of which is returned, all
    /// greater than any that a call which ended before this one began had returned; also over
    /// restarts.
    fn get(&self, n: u32) -> Result<Timestamp, Error>;
}

/// Refuses counts that no oracle serves.
fn check_count(n: u32) -> Result<(), Error> {
    if (1..=REQUEST_MAX).contains(&n) {
        return Ok(());
    }
    Err(Error::invalid(format!("{n} timestamps asked for; 1 to {REQUEST_MAX} are possible")))
}
