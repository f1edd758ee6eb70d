//! For tests here and above: the suite that every log store must pass, and a network inside the
//! process that can lose messages. Nothing outside tests and benches may use it.

mod log_suite;
mod network;

pub use log_suite::{Crash, LogHarness, log_store_suite};
pub use network::LocalNetwork;
