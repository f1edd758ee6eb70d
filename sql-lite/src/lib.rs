//! SQL: parser, catalog, optimizer's choice of row, index or column, sessions, MySQL protocol. It
//! must never know how rows are stored: it has transactions, scans, and a placer of replicas.
//!
//! ```text
//!  client ─ protocol ─ outcome (seam) ─ session ─ statement (parser)
//!                                          ├─ query ── catalog tables, DataFusion ─► coprocessor
//!                                          ├─ dml ─── rows and index entries ──────► txn
//!                                          ├─ ddl ─── catalog, backfill ───────────► txn
//!                                          └─ show, information_schema
//! ```
//!
//! Invariants: a row is never written without its index entries; a statement that fails in an open
//! transaction leaves nothing of it; a killed or late statement ends with an error, and only it.
//!
//! Reading order: `error`, `outcome`, `interrupt`, `statement`, `catalog`, `database`, `session`,
//! `dml`, `query`, `ddl`, `show`, `protocol`.

pub mod error;
pub mod outcome;

pub mod convert;
pub mod interrupt;
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
