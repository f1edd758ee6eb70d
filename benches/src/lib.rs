//! What the benches share: how they are asked, how they measure, what they say, and a loaded
//! cluster. It is not a place for workloads of one bench, and it must never hide a number.
//!
//! ```text
//!  benches/spine.rs    the whole cluster, each speed beside its peer and its target
//!  benches/parts.rs    single parts beside a floor (criterion)
//!  benches/raft.rs     replicated regions, without the cluster around them
//!       │
//!       ├─ arguments   names to run, scale, small or full
//!       ├─ measure     one clock; medians with their spread
//!       ├─ report      a speed, its target, its peers
//!       ├─ machine     cores, load, cost of a sync, memory of a process
//!       └─ tpch        a cluster in this process with the TPC-H tables in it (feature `cluster`)
//! ```
//!
//! Invariants:
//! * a measured value is printed with how often it was taken and how far it spread;
//! * what is measured and its peer run in the same process, alternating, over the same data;
//! * a run that is small (under `cargo test`) shows no target as reached or missed.
//!
//! Reading order: as the modules below.

pub mod arguments;
pub mod measure;
pub mod report;

pub mod machine;
#[cfg(feature = "cluster")]
pub mod tpch;

/// What stops a bench.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
