//! Sessions: what one client has set, opened and prepared, and how its statements are run.
//!
//! Reading order: `facts`, `warnings`, `named_locks`, `live`, `running`, `connection`, `transaction`, `locking`,
//! `settings`, `prepared`, `create`, `select_into`, `check`, `load`.

mod check;
pub mod connection;
mod create;
pub mod facts;
pub mod live;
mod load;
mod locking;
pub mod named_locks;
mod past;
mod prepared;
mod running;
mod select_into;
mod settings;
mod transaction;
pub mod warnings;

pub use connection::Connection;
pub use facts::SessionFacts;
pub use named_locks::NamedLocks;
pub use warnings::{Level, Notes, Warning, Warnings};
