//! The write path, both ends.
pub mod request;
pub use request::*;
