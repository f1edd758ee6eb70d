//! For tests here and above: the suite that every log store must pass, and a network inside the
//! process that can lose messages, and a simulator of whole stores. Nothing outside tests and
//! benches may use it.

mod log_suite;
mod network;
pub mod sim;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub use log_suite::OnWatchedFolder;
pub use log_suite::{InFolder, InMemory, LogBackend, OnMemoryDisk, log_store_suite};
pub use network::LocalNetwork;
