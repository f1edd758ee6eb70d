//! Many replicated regions over an engine.

pub mod error;
pub mod handle;
pub mod machine;

pub use error::{Error, Result};
pub use handle::*;
pub use machine::*;
