//! The whole cluster from one seed: the product's own stores, transaction servers and clients,
//! learners and columns, placement driver and oracle, on simulated threads, clocks, disks and
//! network. It must never let anything but the seed decide what happens.
//!
//! ```text
//!   plan(seed) ─► limits, faults                        kernel: one task at a time, by a heap of
//!        │                                                (time, order); damask_env asks it for
//!        ▼                                                every wait, channel, thread and clock
//!   world ─► nodes: Store + TxnServer | LearnerRead      net: delay, loss, doubles, cuts, replays
//!        ├─► placement: Pd, LocalOracle | members        disks: synced image + part of the rest
//!        └─► clients: txn::Client ─► work ─► history
//!                                              │
//!   storm ─► calm ─► audit ─► silence ─► truth (every version in the stores) ─► check
//! ```
//! Nothing of the product is replaced: stores run their own threads, and those wait through
//! `damask_env`, which asks the simulation's scheduler. A crash takes the disks' images at one
//! instant and lets the threads of the old life end unheard.
//!
//! What is checked: every committed, aborted and unknown transaction and every read, in the past
//! from any replica (`stale`) too, against the versions in the stores (`history`), list-append
//! histories by their cycles (`damask_txn::history`), the bank's total and index entries in every
//! scan, columns against rows at the same timestamp, liveness after the storm, replicas at the
//! end, threads that do not end, and every panic. After every step of a replica (`rules`): one
//! leader a term, one term an index, no record outside of its region, one outcome on a key, and
//! rollbacks that are protected stay; regions tile the keys, and two leases never cover the same
//! ones (`keys`); logs agree, and what is called committed or is cut off is durable (`logs`); what
//! replicas have written is the same at each index (`alike`). Each timestamp and id is given out
//! once, timestamps in order (`given`).
//!
//! Not here: SQL and DataFusion, RocksDB and fjall (threads and I/O of their own).
//!
//! Reading order: `plan`, `kernel`, `places`, `net`, `disks`, `driver`, `nodes`, `remote`, `given`,
//! `placement`, `sizes`, `members`, `world`, `collect`, `alike`, `rules`, `keys`, `logs`, `faults`,
//! `rivals`, `aimed`, `tables`, `work`, `clients`, `columns`, `stale`, `history`, `run`, `sweep`,
//! `replay`, `mutants`.

pub mod chance;
pub mod plan;

pub mod kernel;
pub mod net;
mod places;

mod disks;
mod driver;
mod given;
mod members;
mod nodes;
mod passed_on;
mod placement;
mod remote;
mod sizes;
mod world;

mod alike;
mod collect;
mod keys;
mod logs;
mod rules;

mod aimed;
mod faults;
mod rivals;

mod clients;
mod columns;
pub mod history;
mod extras;
mod stale;
mod tables;
mod work;

mod args;
mod replay;
#[cfg(feature = "mutations")]
pub mod mutants;
mod panics;
mod run;
mod sweep;

pub use args::main;
pub use plan::{Fault, FaultKind, Limits, Plan};
pub use run::{Failure, Report, run};
pub use sweep::{Sweep, Swept, shorten, sweep};
pub use world::Counts;
