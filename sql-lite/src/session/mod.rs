//! Sessions: what one client has set, opened and prepared, and how its statements are run.
//!
//! Reading order: `facts`, `warnings`, `live`, `connection`, `transaction`, `settings`, `prepared`,
//! `load`.

pub mod connection;
pub mod facts;
pub mod live;
mod load;
mod prepared;
mod settings;
mod transaction;
pub mod warnings;

pub use connection::Connection;
pub use facts::SessionFacts;
pub use warnings::{Level, Warning, Warnings};
