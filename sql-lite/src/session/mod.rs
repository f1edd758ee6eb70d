//! Sessions: what one client has set, opened and prepared, and how its statements are run.
//!
//! Reading order: `facts`, `warnings`, `live`, `running`, `connection`, `transaction`, `locking`,
//! `settings`, `prepared`, `create`, `load`.

pub mod connection;
mod create;
pub mod facts;
pub mod live;
mod load;
mod locking;
mod prepared;
mod running;
mod settings;
mod transaction;
pub mod warnings;

pub use connection::Connection;
pub use facts::SessionFacts;
pub use warnings::{Level, Warning, Warnings};
