//! Latches: commands that share a key take turns (`slots` says how). It must never hold more than
//! that one file: it is checked under every schedule by `tests/loom.rs`.

mod slots;
#[cfg(test)]
mod tests;

pub use slots::{Guard, Latches};
