//! Three stores in one process: replication, restart, crash, leader change, split, merge, learner,
//! linearizable reads. It never waits for a fixed time.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod support;

mod answers;
mod power;
mod reads;
mod regions;
mod replicas;
