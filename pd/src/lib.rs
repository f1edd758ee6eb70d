//! Place: heartbeats → operators (a pure planner), region routing, ids, placement rules.
//! It must never read a clock, touch a disk itself, or talk to a network.
//!
//! ```text
//!   leaders ──RegionReport──► Placement ──Step──► leaders            (one step a report)
//!   stores ───StoreReport───►   │
//!   clock ────tick──────────►   │  Pd    durable {ids, stores, rules, marks} ──► Persist
//!                               │  Live  regions, leaders, loads  ◄── rebuilt from reports
//!                               │        operators in flight: steps, limits, timeouts
//!                               │        plan(&View, seed) -> Vec<Operator>      pure
//!   clients ──locate──► RegionCache ──route──► Placement
//! ```
//!
//! Invariants:
//! * an id is given out once, over restarts too: the bound is saved before an id below it leaves;
//! * no two known regions overlap; a report never replaces a newer description
//!   (PD's `PreCheckPutRegion`);
//! * the plan for an unchanging cluster reaches a fixed point: no ping-pong;
//! * a region has at most one operator, and no step of it leaves less than a quorum of live voters;
//! * a region is split at every edge of a column rule, so a replica of columns never holds rows
//!   outside of the rule.
//!
//! Reading order: as the modules below.

pub mod values;

pub mod config;
pub mod seam;

pub mod regions;
pub mod view;

pub mod operator;
pub mod planner;

pub mod orders;

mod durable;
mod live;
pub mod pd;

pub mod cache;
pub mod error;
pub mod testing;

pub use cache::RegionCache;
pub use config::Config;
pub use error::{Error, Result};
pub use operator::{Operator, OperatorKind};
pub use pd::{Pd, Persist};
pub use planner::plan;
pub use regions::RegionMap;
pub use seam::{Locate, Placement};
pub use values::*;
pub use view::View;
