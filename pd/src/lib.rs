//! Place: heartbeats → operators (a pure planner), region routing, ids, placement rules.
//! It must never read a clock, touch a disk itself, or talk to a network.
//!
//! ```text
//!   leaders ──RegionReport──► Placement ──Operator──► leaders        (one step per report)
//!                               │  Pd: durable {ids, stores, rules}  ──► Persist
//!                               │      volatile {regions, leaders}   ◄── rebuilt from reports
//!                               │      plan(&View, &RegionReport) -> Option<Operator>   pure
//!   clients ──locate──► RegionCache ──route──► Placement
//! ```
//!
//! Invariants:
//! * an id is given out once, over restarts too: the bound is saved before an id below it leaves;
//! * no two known regions overlap; a report never replaces a newer description
//!   (`raftstore-txn-pd.md` §4.2, PD's `PreCheckPutRegion`);
//! * the plan for an unchanging cluster reaches a fixed point: no ping-pong;
//! * a region is split at every edge of a column rule, so a replica of columns never holds rows
//!   outside of the rule.
//!
//! What is durable and what is rebuilt from reports follows `raftstore-txn-pd.md` §4.4.
//!
//! Reading order: `values`, `seam`, `regions`, `planner`, `durable`, `pd`, `cache`, `testing`.

pub mod cache;
mod durable;
pub mod error;
pub mod pd;
pub mod planner;
pub mod regions;
pub mod seam;
pub mod testing;
pub mod values;

pub use cache::RegionCache;
pub use error::{Error, Result};
pub use pd::{Pd, Persist};
pub use planner::{Config, View, plan};
pub use regions::RegionMap;
pub use seam::{Locate, Placement};
pub use values::*;
