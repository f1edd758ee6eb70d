//! SQL: parser, catalog, optimizer's choice of row, index or column, sessions, MySQL protocol.

pub mod error;
pub mod outcome;

pub mod convert;
pub mod protocol;

pub mod catalog;
pub mod failure;
pub mod session;
pub mod statement;
pub mod query;
pub mod value;
pub mod variables;

pub use error::{Error, Result};
