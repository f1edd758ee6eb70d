//! SQL: parser, catalog, optimizer's choice of row, index or column, sessions, MySQL protocol.

pub mod error;
pub mod outcome;

pub mod convert;
pub mod protocol;

pub mod catalog;
pub mod database;
pub mod ddl;
pub mod dml;
pub mod failure;
pub mod information_schema;
pub mod session;
pub mod show;
pub mod statement;
pub mod query;
pub mod value;
pub mod variables;

pub use database::{Database, Doorman, Services};
pub use error::{Error, Result};
