//! Columns that accept writes: the column store seam, a memory store, and DeltaTree.

pub mod error;
pub mod store;
pub mod types;

pub use error::{Error, Result};
pub use store::*;
