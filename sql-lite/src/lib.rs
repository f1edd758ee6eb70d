//! SQL: parser, catalog, optimizer's choice of row, index or column, sessions, MySQL protocol.

pub mod error;
pub mod outcome;

pub use error::{Error, Result};
