//! The store as a state machine without I/O: events in, a [`Turn`] of actions out. It owns every
//! replica of the store; it has no clock, no thread, no chance, and reads the log through the seam.
//!
//! ```text
//!  events ─► step ─► dirty replicas ─► finish ─► Turn { sends, write, applies, changed, maintain }
//!                                        │          │       │       │
//!            Persisted(turn) ◄───────────┼──────────┼───────┘       │ the writer syncs, then sends
//!            Reports ◄───────────────────┼──────────┼───────────────┘ what was held
//!                                        └─ log.append (in memory), once per round for all
//! ```
//!
//! Order that must hold: a leader's entries may leave before its own sync, its term and vote may
//! not; acknowledgements and votes leave after the sync; an entry is applied only when committed
//! and durable here; the region's epoch is checked again when it is applied.

mod events;
mod hibernate;
mod merges;
mod membership;
mod messages;
mod readies;
mod resolved;
mod snapshots;
mod status;
#[cfg(test)]
mod tests;

use crate::apply::{ApplyTask, LOG_START};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::handle::Envelope;
use crate::lease::Lease;
use crate::local_read::View;
use crate::log_store::{GroupLog, HardState, LogBatch, LogOp, LogStore};
use crate::machine::{Applied, RegionState};
use crate::merge::MergeState;
use crate::options::RaftConfig;
use crate::replica::Replica;
use crate::resolved_read::SafeView;
use crate::wire;
use damask_env::{Mistake, mistaken};
use damask_types::{Epoch, Peer, PeerId, Region, RegionId, StoreId};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use events::Event;
use hibernate::Heard;

/// How a store core behaves; times are in ticks.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Of every group.
    pub raft: RaftConfig,
    /// A learner asks again for a read index after this long.
    pub read_retry_ticks: u64,
    /// A read that found no leader, or that is not answered or not applied, fails after this long.
    pub read_wait_ticks: u64,
    /// A deposed leader's proposals get `Undetermined` after this long.
    pub undetermined_ticks: u64,
    /// A snapshot that was not acknowledged is given up after this long.
    pub snapshot_retry_ticks: u64,
    /// A read permit that nobody gave back keeps content that is removed or replaced no longer than
    /// this.
    pub permit_ticks: u64,
    /// About so many bytes are a chunk of a snapshot.
    pub snapshot_chunk_bytes: usize,
    /// So many bytes of snapshots leave a store in a second.
    pub snapshot_bytes_per_second: u64,
    /// Snapshots that a store sends at the same time, and receives.
    pub snapshot_sends_max: usize,
    /// See above.
    pub snapshot_receives_max: usize,
    /// Between two log compactions.
    pub compact_ticks: u64,
    /// Or after this many bytes of entries.
    pub compact_bytes: usize,
    /// Entries kept behind the compaction point, for followers that are a little late.
    pub log_keep_entries: u64,
    /// With more entries than this, a late follower has to take a snapshot, and one that is being
    /// sent does not keep them.
    pub log_max_entries: u64,
    /// Or with more bytes of them, about (TiKV's `raft-log-gc-size-limit`: 72 MiB for regions of
    /// 96). What a log held when the store started is not counted.
    pub log_max_bytes: u64,
    /// A merge begins only if no replica lacks more entries than this. At most as many count as
    /// every store keeps for certain: `log_keep_entries`, and never more than 16.
    pub merge_gap_entries: u64,
    /// A target that cannot take a region in for this long declines, and that one goes on alone.
    pub merge_wait_ticks: u64,
    /// Groups in which nothing happens stop ticking, as TiKV's `hibernate-regions`.
    pub hibernate_regions: bool,
    /// After this long without a command, a read or a change.
    pub hibernate_ticks: u64,
    /// They all wake after at least this long, and at most a quarter longer.
    pub hibernate_max_ticks: u64,
    /// One tick, by which `begin` counts; set by `start`.
    pub tick: Duration,
    /// Makes read contexts of this run differ from those of earlier runs; set by `start`.
    pub nonce: u64,
}

impl CoreConfig {
    /// By so many entries a replica may be behind when its region begins to be merged.
    fn merge_gap(&self) -> u64 {
        self.merge_gap_entries.min(self.log_keep_entries).min(KEPT_ENTRIES)
    }
}

impl Default for CoreConfig {
    fn default() -> CoreConfig {
        CoreConfig {
            raft: RaftConfig::default(),
            read_retry_ticks: 2,
            read_wait_ticks: 50,
            undetermined_ticks: 100,
            snapshot_retry_ticks: 50,
            permit_ticks: 600,
            snapshot_chunk_bytes: crate::snapshot::CHUNK_BYTES,
            snapshot_bytes_per_second: 100 << 20,
            snapshot_sends_max: 4,
            snapshot_receives_max: 4,
            compact_ticks: 50,
            compact_bytes: 64 << 20,
            log_keep_entries: 1024,
            log_max_entries: 100_000,
            log_max_bytes: 72 << 20,
            merge_gap_entries: 16,
            merge_wait_ticks: 100,
            hibernate_regions: true,
            hibernate_ticks: 20,
            hibernate_max_ticks: 6000,
            tick: Duration::from_millis(100),
            nonce: 0,
        }
    }
}

/// What to sync, and what may leave after it.
#[derive(Debug, Default)]
pub(crate) struct WriteTask {
    pub turn: u64,
    /// False: only commit indexes; they may become durable whenever.
    pub sync: bool,
    pub held: Vec<Envelope>,
}

/// What one turn asks for.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// What may be read by a lease; readers must know before anything else of the turn is done.
    pub views: Vec<(RegionId, Option<View>)>,
    /// What may be read at safe timestamps; as `views`.
    pub safe: Vec<(RegionId, Option<SafeView>)>,
    /// May leave at once.
    pub sends: Vec<Envelope>,
    pub write: Option<WriteTask>,
    /// In order.
    pub applies: Vec<ApplyTask>,
    /// A leader appeared or a description changed.
    pub changed: BTreeSet<RegionId>,
    /// Gone from this store.
    pub removed: Vec<RegionId>,
    /// Sync the machine, then compact and purge logs.
    pub maintain: bool,
}

/// What is left of a replica that is gone.
struct Tombstone {
    epoch: Epoch,
    peer: Option<PeerId>,
    /// What merges have left: who has its keys, or what it had absorbed when it was removed.
    merge: MergeState,
}

impl Tombstone {
    fn of(state: &RegionState, store: StoreId) -> Tombstone {
        let peer = state.region.peer_on(store).map(|p| p.id);
        Tombstone { epoch: state.region.epoch, peer, merge: state.merge.clone() }
    }
}

/// Messages for a region that this store does not have: it may be about to be split off here.
struct Early {
    since: u64,
    envelopes: Vec<Envelope>,
}

/// Regions with early messages, and messages of each.
const EARLY_REGIONS_MAX: usize = 1024;
const EARLY_MESSAGES_MAX: usize = 8;
/// Ticks after which an unknown region is taken for one that is new to this store.
const EARLY_TICKS: u64 = 3;
/// Ticks after which early messages are forgotten.
const EARLY_TICKS_MAX: u64 = 50;
/// Ticks made up for after a pause; more would only cause elections.
const TICKS_MAX: u32 = 5;
/// Election ticks by which a lease is shorter: one, because a follower's first tick may come at
/// once after a leader's word, and one in which clocks may drift apart.
const LEASE_MARGIN_TICKS: usize = 2;
/// Of `log_keep_entries`, so many are kept even of a log that has `log_max_entries`.
const KEPT_ENTRIES: u64 = 16;
/// Ticks without a leader after which a learner asks whether it is still one.
const PROBE_TICKS: usize = 100;

/// All replicas of a store.
pub(crate) struct StoreCore {
    store: StoreId,
    config: CoreConfig,
    log: Arc<dyn LogStore>,
    replicas: BTreeMap<RegionId, Replica>,
    tombstones: HashMap<RegionId, Tombstone>,
    early: BTreeMap<RegionId, Early>,
    /// Replicas that are about to be replaced, and by whose snapshot.
    frozen: BTreeMap<RegionId, RegionId>,
    dirty: BTreeSet<RegionId>,
    /// Log operations that belong to no ready.
    ops: LogBatch,
    turn: u64,
    tick: u64,
    /// By the store's monotonic clock: after whatever this turn takes in, before what it sends.
    now: Duration,
    next_tick: Option<Duration>,
    /// It never said anything to anybody: there is no promise that it could have forgotten.
    fresh: bool,
    incarnations: u64,
    reads: u64,
    /// Stores that replicas here rely on in their sleep.
    heard: BTreeMap<StoreId, Heard>,
    unpersisted: VecDeque<(u64, Vec<Persisting>)>,
    persisting: Vec<Persisting>,
    snapshots: snapshots::Snapshots,
    /// Taken by raft-rs; the apply thread gets them when nobody reads what they replace.
    unread: Vec<messages::Unread>,
    resolving: resolved::Resolving,
    appended_bytes: usize,
    out: Turn,
    /// The apply thread is behind: followers take no more entries.
    pub overloaded: bool,
}

struct Persisting {
    region: RegionId,
    incarnation: u64,
    number: u64,
}

impl StoreCore {
    /// Starts from what the machine and the log store recovered, finishing what a crash cut short.
    ///
    /// # Errors
    /// `Corrupt` if the log and the machine do not fit: acknowledged entries were lost.
    pub fn new(
        store: StoreId,
        config: CoreConfig,
        log: Arc<dyn LogStore>,
        states: &[RegionState],
    ) -> Result<StoreCore> {
        let mut core = StoreCore {
            store,
            config,
            log,
            replicas: BTreeMap::new(),
            tombstones: HashMap::new(),
            early: BTreeMap::new(),
            frozen: BTreeMap::new(),
            dirty: BTreeSet::new(),
            ops: Vec::new(),
            turn: 0,
            tick: 0,
            now: Duration::ZERO,
            next_tick: None,
            fresh: false,
            incarnations: 0,
            reads: 0,
            heard: BTreeMap::new(),
            unpersisted: VecDeque::new(),
            persisting: Vec::new(),
            snapshots: snapshots::Snapshots::default(),
            unread: Vec::new(),
            resolving: resolved::Resolving::default(),
            appended_bytes: 0,
            out: Turn::default(),
            overloaded: false,
        };
        let mut groups: BTreeMap<RegionId, GroupLog> = core.log.recover()?.into_iter().collect();
        core.fresh = groups.is_empty() && states.iter().all(|s| s.applied == LOG_START);
        for state in states {
            let group = groups.remove(&state.region.id).unwrap_or_default();
            core.recover_region(state, group)?;
        }
        for (id, group) in groups {
            if group.last.index > 0 {
                return Err(Error::corrupt(format!("region {id} has a log but no state")));
            }
        }
        // Neither may break a promise: who leads alone has voted for itself, and a log without an
        // entry wins no vote against one with a committed entry. A region that was split off waits
        // for its time like any other: its parent's leader may not have applied the split, and may
        // still read its keys by the lease.
        let first = |r: &Replica| {
            let alone = r.region.voters().all(|p| p.id == r.peer.id) && r.hard.vote == r.peer.id.0;
            let fresh = r.group.last_index() == LOG_START.index && r.region.epoch.version == 1;
            alone || fresh && r.region.voters().next().is_some_and(|p| p.id == r.peer.id)
        };
        for (id, replica) in &mut core.replicas {
            if first(replica) {
                replica.group.campaign();
            }
            core.dirty.insert(*id);
            core.out.changed.insert(*id);
        }
        Ok(core)
    }

    fn recover_region(&mut self, state: &RegionState, group: GroupLog) -> Result<()> {
        let (id, applied) = (state.region.id, state.applied);
        let peer = state.region.peer_on(self.store).copied();
        if state.tombstone {
            self.tombstones.insert(id, Tombstone::of(state, self.store));
            if group.last.index > 0 {
                self.log.append(vec![(id, LogOp::Destroy)])?;
            }
            return Ok(());
        }
        let peer = peer.ok_or_else(|| {
            Error::Invalid(format!("region {id} has no replica on store {}", self.store))
        })?;
        let there = group.last.index > 0 && self.log.term(id, applied.index)? == Some(applied.term);
        if !there {
            let fresh = applied == LOG_START && group.last.index == 0;
            if !fresh && group.restoring != Some(applied) {
                return Err(Error::corrupt(format!(
                    "region {id} is applied up to {}@{}, but its log ends at {}@{}: entries that \
                     this replica acknowledged are lost",
                    applied.index, applied.term, group.last.index, group.last.term
                )));
            }
            self.reset_log(id, group.hard, applied)?;
        }
        self.open_replica(state.clone(), peer, self.quiet())
    }

    /// For how many ticks, at least, no leader was heard of in a group that is not here.
    fn quiet(&self) -> usize {
        let free = self.fresh || mistaken(Mistake::VoteBanSkipped);
        if free { usize::MAX } else { self.tick as usize }
    }

    fn lease(&self) -> Lease {
        let wrong = if mistaken(Mistake::LeaseTooLong) { 50 } else { 0 };
        let ticks = self.config.raft.election_ticks.saturating_sub(LEASE_MARGIN_TICKS) + wrong;
        Lease::new(self.config.tick * ticks as u32)
    }

    /// Begins a turn: all its events came in before `now`, and nothing of it has left yet. Ticks
    /// that are due come first, so that a leader's word counts from now.
    ///
    /// Returns when the next tick is due.
    pub fn begin(&mut self, now: Duration) -> Duration {
        self.now = self.now.max(now);
        let tick = self.config.tick;
        let mut next = self.next_tick.unwrap_or(self.now + tick);
        let mut ticks = 0;
        while next <= self.now && ticks < TICKS_MAX {
            self.on_tick();
            next += tick;
            ticks += 1;
        }
        if next <= self.now {
            next = self.now + tick;
        }
        self.next_tick = Some(next);
        next
    }

    /// Ticks so far.
    pub fn ticks(&self) -> u64 {
        self.tick
    }

    /// The log continues after `at`; term and vote stay.
    fn reset_log(&mut self, id: RegionId, hard: HardState, at: Applied) -> Result<()> {
        let vote = if hard.term >= at.term { hard.vote } else { 0 };
        let hard = HardState { term: hard.term.max(at.term), vote, commit: at.index };
        self.log.append(vec![(id, LogOp::Reset(at)), (id, LogOp::HardState(hard))])
    }

    /// What was decided of logs in this turn is seen by whoever looks at them next: a replica that
    /// is opened must not find the log of the one that has just been destroyed.
    fn append_ops(&mut self) -> Result<()> {
        let ops = std::mem::take(&mut self.ops);
        self.append_log(ops, Vec::new())
    }

    /// Appends operations that belong to no ready, and those that do: whoever gave one is told by
    /// the caller that its log was changed.
    fn append_log(&mut self, mut batch: LogBatch, readies: LogBatch) -> Result<()> {
        let changed: Vec<RegionId> = batch.iter().map(|(id, _)| *id).collect();
        batch.extend(readies);
        if !batch.is_empty() {
            self.log.append(batch)?;
        }
        let here = changed.iter().filter_map(|id| self.replicas.get(id));
        here.for_each(|replica| replica.group.log_changed());
        Ok(())
    }

    fn open_replica(&mut self, state: RegionState, peer: Peer, quiet: usize) -> Result<()> {
        let (id, conf) = (state.region.id, wire::conf_state(&state.region));
        let (config, index) = (&self.config.raft, state.applied.index);
        let group = Group::open(config, &self.log, id, peer.id, conf, index, quiet)?;
        self.incarnations += 1;
        let replica = Replica::new(state, peer, group, self.incarnations, self.lease());
        self.replicas.insert(id, replica);
        self.dirty.insert(id);
        Ok(())
    }

    /// This store's description of a region and of those that were split from it.
    fn current(replicas: &BTreeMap<RegionId, Replica>, replica: &Replica) -> Vec<Region> {
        let siblings = replica.siblings.iter().filter_map(|id| replicas.get(id));
        let siblings = siblings.filter(|r| r.initialised).map(|r| r.region.clone());
        std::iter::once(replica.region.clone()).chain(siblings).collect()
    }

    fn regions(&self, id: RegionId) -> Vec<Region> {
        self.replicas.get(&id).map_or_else(Vec::new, |r| Self::current(&self.replicas, r))
    }

    /// A replica in words, for the story of a failure.
    pub fn describe(&self, id: RegionId) -> String {
        let Some(replica) = self.replicas.get(&id) else { return "no replica".to_owned() };
        let log = self.log.group(id).unwrap_or_default();
        let waits = (replica.outstanding, replica.exporting, replica.is_free());
        let exported = (replica.exported_tick, &replica.sent_snapshots, self.tick);
        format!(
            "{:?}, {log:?}, outstanding, exporting, free: {waits:?}, exported, sent, tick: \
             {exported:?}, {:?}, {:?}, {}, {}",
            replica.region,
            replica.merge,
            replica.merge_entry,
            replica.group.describe(),
            self.describe_snapshots(id)
        )
    }

    /// Every region here.
    pub fn ids(&self) -> Vec<RegionId> {
        self.replicas.keys().copied().collect()
    }

    /// Why a group could not read its log, if that is why raft-rs gave up.
    pub fn take_failure(&self) -> Option<Error> {
        self.replicas.values().find_map(|r| r.group.take_failure())
    }
}
