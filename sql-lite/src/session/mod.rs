//! Sessions.
pub mod facts;
pub mod warnings;
pub use facts::SessionFacts;
pub use warnings::{Level, Warning, Warnings};
