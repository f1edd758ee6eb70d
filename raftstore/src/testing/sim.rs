//! One seed, one run of a few stores: the product's own cores, appliers and rows in one thread,
//! over simulated clocks, network and disks. After each event the rules that must always hold are
//! checked. Nothing here may read a clock, start a thread or draw a number that is not the seed's.
//!
//! ```text
//!  heap of (time, order) ─► happening ─► turn of a store ─► messages, syncs, applies ─► heap
//!                               │                │
//!   clients, faults ────────────┘                └─► watch: leaders, entries, commits, regions,
//!                                                    leases; history: every read linearizable
//! ```
//! A run has three parts: a storm of the faults that the seed turned on, a calm in which everything
//! works and every key must take writes again, and a silence in which all replicas become alike,
//! fall asleep, and elect leaders again when one store is lost.

mod chance;
mod clients;
mod disk;
mod faults;
mod history;
mod machine;
mod rest;
mod store;
mod turns;
mod verdict;
mod watch;
mod world;

pub use faults::FaultKind;
pub use history::{KeyHistory, Operation, check_register};

use chance::Chance;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::World;

/// How a run is made from its seed.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Everything is drawn from it.
    pub seed: u64,
    /// Length of the storm, in simulated milliseconds.
    pub storm_ms: u64,
    /// Only these faults, instead of a half drawn by the seed.
    pub faults: Option<Vec<FaultKind>>,
    /// Shortest and longest time between two of them, in simulated milliseconds.
    pub pause_ms: (u64, u64),
    /// Clients, each of which asks for one thing at a time.
    pub clients: u64,
    /// So many of a thousand requests are writes, instead of a number drawn by the seed.
    pub writes_permille: Option<u64>,
    /// So many stores, instead of three to five.
    pub stores: Option<u64>,
    /// Voters of the first region, on the first stores.
    pub voters: u64,
    /// Logs are cut soon and short: who was away for a moment needs a snapshot.
    pub short_logs: bool,
}

impl SimConfig {
    /// What the tests run.
    pub fn new(seed: u64) -> SimConfig {
        SimConfig {
            seed,
            storm_ms: 8_000,
            faults: None,
            pause_ms: (10, 200),
            clients: 8,
            writes_permille: None,
            stores: None,
            voters: 3,
            short_logs: false,
        }
    }
}

/// What a run did: a test can see that it was not idle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SimReport {
    /// Of everything that happened, in order.
    pub trace_hash: u64,
    /// Things that happened.
    pub events: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Reads that returned, by log, index, lease, follower.
    pub reads: [u64; 4],
    /// Reads that needed no question: the leader's lease covered them.
    pub local_reads: u64,
    /// Splits that succeeded.
    pub splits: u64,
    /// Merges that began.
    pub prepares: u64,
    /// Regions that became a part of their neighbour.
    pub merges: u64,
    /// Merges that were taken back.
    pub rollbacks: u64,
    /// Replicas of merged regions that a snapshot has replaced.
    pub replaced: u64,
    /// Changes of replicas that succeeded.
    pub changes: u64,
    /// Those of several replicas at once.
    pub joint_changes: u64,
    /// Terms in which somebody led.
    pub leaders: u64,
    /// Snapshots put in place.
    pub snapshots: u64,
    /// Replicas that fell asleep.
    pub sleeps: u64,
    /// Faults injected.
    pub faults: u64,
    /// Stores that lost power, or stopped for a failed sync.
    pub restarts: u64,
    /// Messages that the network lost.
    pub lost: u64,
    /// Messages that a cut has stopped.
    pub stopped: u64,
    /// Leaders that were told to give up their vote.
    pub deposed: u64,
}

impl SimReport {
    /// Adds what another run did. Hashes of traces are not added.
    pub fn add(&mut self, other: &SimReport) {
        self.events += other.events;
        self.writes += other.writes;
        self.reads.iter_mut().zip(other.reads).for_each(|(all, n)| *all += n);
        self.local_reads += other.local_reads;
        self.splits += other.splits;
        self.prepares += other.prepares;
        self.merges += other.merges;
        self.rollbacks += other.rollbacks;
        self.replaced += other.replaced;
        self.changes += other.changes;
        self.joint_changes += other.joint_changes;
        self.leaders += other.leaders;
        self.snapshots += other.snapshots;
        self.sleeps += other.sleeps;
        self.faults += other.faults;
        self.restarts += other.restarts;
        self.lost += other.lost;
        self.stopped += other.stopped;
        self.deposed += other.deposed;
    }
}

/// A rule was broken.
#[derive(Clone, Debug)]
pub struct SimFailure {
    /// Run it again with this.
    pub seed: u64,
    /// What was broken.
    pub reason: String,
    /// Faults with their times, in milliseconds.
    pub faults: Vec<String>,
    /// The last things that happened.
    pub events: VecDeque<String>,
}

impl std::fmt::Display for SimFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.reason)?;
        writeln!(f, "last events:")?;
        self.events.iter().try_for_each(|event| writeln!(f, "  {event}"))?;
        writeln!(f, "faults:")?;
        self.faults.iter().try_for_each(|fault| writeln!(f, "  {fault}"))?;
        writeln!(f, "seed {}: {}", self.seed, self.reason)
    }
}

/// Runs one seed.
///
/// # Errors
/// The rule that was broken, with what led to it.
pub fn run(config: &SimConfig) -> Result<SimReport, Box<SimFailure>> {
    run_recorded(config).map(|(report, _)| report)
}

/// Runs one seed, and gives what clients did with each key.
///
/// # Errors
/// As `run`.
pub fn run_recorded(config: &SimConfig) -> Result<(SimReport, Vec<KeyHistory>), Box<SimFailure>> {
    let mut world = World::new(config, Chance::new(config.seed));
    let result = catch_unwind(AssertUnwindSafe(|| world.run(config)));
    let reason = match result {
        Ok(Ok(())) => return Ok((world.report(), world.histories())),
        Ok(Err(reason)) => reason,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&'static str>().copied());
            format!("a panic: {}", text.unwrap_or("no message"))
        }
    };
    let (faults, events) = world.story();
    Err(Box::new(SimFailure { seed: config.seed, reason, faults, events }))
}
