//! Ordered bytes and their versions: the row engine seam, its backends, MVCC reads on top.

pub mod engine;
pub mod error;
pub mod mvcc;

pub use engine::{Capabilities, Cf, Cursor, Engine, Estimate, Op, Pair, Snapshot, WriteBatch};
pub use error::{Error, Result};
