//! The commands of the `damask` binary.

pub mod ctl;
pub mod load;
pub mod playground;
pub mod trace;

/// What a command reports to its user.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
