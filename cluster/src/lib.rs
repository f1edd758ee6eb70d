//! Wiring only: nodes, network, placement's dull half, status, the `damask` binary.
//!
//! ```text
//!             MySQL clients                        HTTP
//!                  │                                │
//!  Cluster ── Database (sql-lite) ── Dispatch     status
//!    │             │ Client (txn)      │ scans
//!    │   ┌─────────┴─────┬─────────────┴───────┐
//!    │  row store 1..n  ─┴─ row store …      column store 101..     nodes
//!    │   └───────── Network: envelopes ────────┘
//!    └─ Pd + oracle ◄── Reporter: reports, operators
//!       alone, or a Raft group of their own (pd_group)
//! ```
//!
//! Invariants:
//! * nothing here decides: planners, state machines and transactions live in the crates below;
//! * a cluster in memory and one on disk differ only in the disks and engines they are given;
//! * a store that has held data never starts empty, and no store that the cluster had is left out.
//!
//! Reading order: `config`, `cluster`, `topology`, `pd_group`, `stores`, `nodes`, `placement`,
//! `network`, `quarantine`, `replicas`, `schemas`, `reads`, `resolved`, `traces`, `collector`,
//! `space`, `status`, `cli`.

pub mod cli;
pub mod cluster;
mod collector;
pub mod config;
pub mod network;
pub mod nodes;
pub mod pd_group;
pub mod placement;
pub mod quarantine;
pub mod reads;
pub mod replicas;
mod resolved;
pub mod schemas;
mod space;
pub mod status;
mod stores;
pub mod topology;
mod traces;

pub use cluster::Cluster;
pub use config::{Config, EngineName};
