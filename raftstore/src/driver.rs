//! A running store: the core on a thread of its own, and the threads that do its I/O. It decides
//! nothing; on any local failure it stops the store with the reason, and never goes on.
//!
//! ```text
//!  handle ──► inbox ──► raft ──► apply       machine.apply, answers        ──► reports ─┐
//!                ▲        ├────► writer      log.sync, then held messages  ──► persisted┤
//!                │        ├────► maintenance machine.sync, log.purge       ──► synced   ┤
//!                │        └────► transport                                              │
//!                └──────────────────────────────────────────────────────────────────────┘
//! ```
//! While nothing else is to be done, and no other store was heard or spoken to of late, the raft
//! thread itself syncs and applies; or the thread that proposes does all three, and a commit wakes
//! nobody. `turns.rs` has both, and why the order stays the same.
//!
//! The inbox takes whatever the store's own threads say; requests are bounded by bytes until they
//! are answered, messages by bytes until they are stepped.

mod loads;
#[cfg(test)]
mod tests;
mod turns;

use crate::answer::{Answer, Charge};
use crate::apply::{Applier, LOG_START, resume_import};
use crate::cells::Tally;
use crate::command;
use crate::error::{Error, Result};
use crate::handle::{
    Done, Envelope, PeerChange, Proposal, ReadMode, ReadPermit, ReplicaStatus, SplitChild,
    Transport,
};
use crate::load::{Access, Loads};
use crate::local_read::LocalReads;
use crate::log_store::LogStore;
use crate::machine::{Applied, ApplyBatch, Effect, RegionState, StateMachine};
use crate::options::{StoreConfig, StoreOptions};
use crate::resolved::Resolved;
use crate::resolved_read::SafeReads;
use crate::store_core::{Event, StoreCore};
use crate::threads::{Inbox, apply_loop, maintain_loop, write_loop};
use damask_env::channel::{Sender, bounded, unbounded};
use damask_env::{Clock, Mistake, Task, mistaken, spawn};
use damask_types::{Epoch, ErrorKind, Peer, Region, RegionId, StoreId, Timestamp};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use turns::Raft;

struct Shared {
    id: StoreId,
    config: StoreConfig,
    clock: Arc<dyn Clock>,
    local: LocalReads,
    safe: SafeReads,
    loads: Loads,
    inbox: Inbox,
    /// Until the store stops.
    raft: Mutex<Option<Raft>>,
    requests: Arc<AtomicUsize>,
    messages: AtomicUsize,
    applying: AtomicUsize,
    /// Tasks at the log thread, and at the apply thread: raised only by whoever runs a turn.
    pending_writes: Tally,
    pending_applies: Tally,
    statuses: RwLock<BTreeMap<RegionId, ReplicaStatus>>,
    failed: Mutex<Option<Error>>,
}

impl Shared {
    fn new(
        id: StoreId,
        config: StoreConfig,
        clock: Arc<dyn Clock>,
        inbox: Sender<Event>,
    ) -> Shared {
        let inbox = Inbox::new(inbox);
        Shared {
            id,
            loads: Loads::new(config.load.clone()),
            config,
            clock,
            local: LocalReads::default(),
            safe: SafeReads::default(),
            inbox,
            raft: Mutex::default(),
            requests: Arc::default(),
            messages: AtomicUsize::new(0),
            applying: AtomicUsize::new(0),
            pending_writes: Tally::default(),
            pending_applies: Tally::default(),
            statuses: RwLock::default(),
            failed: Mutex::default(),
        }
    }

    /// A thread of the store, whose failure stops the store.
    fn spawn(
        self: &Arc<Shared>,
        name: &str,
        body: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Task {
        let shared = self.clone();
        let run = move || match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => shared.fail(e),
            Err(panic) => shared.fail(panicked(panic.as_ref())),
        };
        spawn(&format!("{name}-{}", self.id), run)
    }

    /// Keeps the first reason; others follow from it.
    fn fail(&self, e: Error) {
        let mut failed = self.failed.lock();
        if failed.is_none() {
            tracing::error!(store = %self.id, error = %e, "the store stops");
            *failed = Some(e);
        }
        drop(failed);
        self.inbox.send(Event::Stop);
    }
}

/// A running store; dropping it stops it.
pub struct Store {
    handle: StoreHandle,
    tasks: Vec<Task>,
}

/// Requests to a store. See `handle.rs` for what each answer means.
#[derive(Clone)]
pub struct StoreHandle {
    shared: Arc<Shared>,
}

impl Store {
    /// Recovers and runs.
    ///
    /// # Errors
    /// A config that cannot work, storage that fails, or a log and a machine that do not fit.
    pub fn start(
        options: StoreOptions,
        log: Arc<dyn LogStore>,
        machine: Arc<dyn StateMachine>,
        transport: Arc<dyn Transport>,
        clock: Arc<dyn Clock>,
    ) -> Result<Store> {
        let StoreOptions { id, config, bootstrap: first, held_data, on_change, on_open, staging } =
            options;
        config.validate()?;
        resume_import(machine.as_ref(), staging.as_deref())?;
        if let Some(first) = first {
            bootstrap(machine.as_ref(), id, first)?;
        }
        let states = machine.recover()?;
        if held_data && states.is_empty() {
            return Err(Error::corrupt(format!(
                "store {id} held data, and is empty now: it has forgotten its votes and what it \
                 acknowledged, and must not take part again"
            )));
        }
        let mut core_config = config.core.clone();
        core_config.nonce = clock.wall_ms();
        core_config.tick = config.tick;
        let core = StoreCore::new(id, core_config, log.clone(), &states)?;
        let applier = Applier::new(id, machine.clone(), log.clone(), &states);
        let applier = match staging {
            Some(disk) => applier.stage_on(disk)?,
            None => applier,
        };
        let applier = Arc::new(Mutex::new(applier));
        let (inbox, events) = unbounded();
        let shared = Arc::new(Shared::new(id, config, clock, inbox));
        let handle = StoreHandle { shared: shared.clone() };
        if let Some(on_open) = on_open {
            on_open(handle.clone());
        }
        let (writer, writes) = unbounded();
        let (apply, applies) = unbounded();
        let (maintenance, works) = bounded(1);
        let sender = transport.clone();
        let raft = Raft {
            shared: shared.clone(),
            core,
            transport,
            on_change,
            log: log.clone(),
            applier: applier.clone(),
            writer,
            apply,
            maintenance,
            idle: false,
            here: None,
            talked: None,
        };
        *shared.raft.lock() = Some(raft);
        let inbox = shared.inbox.clone();
        let (at_raft, at_log, at_apply) = (shared.clone(), shared.clone(), shared.clone());
        let synced = log.clone();
        let tasks = vec![
            shared.spawn("raft", move || turns::run(&at_raft, &events)),
            shared.spawn("log", move || {
                let Shared { pending_writes, inbox, .. } = &*at_log;
                write_loop(&writes, synced.as_ref(), sender.as_ref(), pending_writes, inbox)
            }),
            shared.spawn("compact", move || {
                maintain_loop(&works, machine.as_ref(), log.as_ref(), &inbox)
            }),
            shared.spawn("apply", move || {
                let Shared { pending_applies, applying, inbox, .. } = &*at_apply;
                apply_loop(&applies, &applier, pending_applies, applying, inbox)
            }),
        ];
        Ok(Store { handle, tasks })
    }

    /// How requests get in.
    pub fn handle(&self) -> StoreHandle {
        self.handle.clone()
    }

    /// Why the store stopped by itself.
    pub fn failed(&self) -> Option<Error> {
        self.handle.failed()
    }

    /// Stops: no request is taken any more, those in flight are answered or `Undetermined`.
    pub fn stop(mut self) -> Result<()> {
        self.halt();
        self.failed().map_or(Ok(()), Err)
    }

    fn halt(&mut self) {
        self.handle.shared.inbox.send(Event::Stop);
        for task in self.tasks.drain(..) {
            if let Err(panic) = task.join() {
                self.handle.shared.fail(Error::Invalid(panic));
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Makes the first region, durable on return, if the machine holds nothing yet and the store is to
/// have a replica of the region. False: there was nothing to do.
///
/// Only for a store that was never started: one that lost its data would forget its votes.
///
/// # Errors
/// Storage that fails.
pub fn bootstrap(machine: &dyn StateMachine, store: StoreId, first: Region) -> Result<bool> {
    if first.peer_on(store).is_none() || !machine.recover()?.is_empty() {
        return Ok(false);
    }
    let (region, applied) = (first.id, LOG_START);
    let merge = Default::default();
    let state = RegionState { region: first, applied, tombstone: false, merge };
    let effects = vec![Effect::Regions(vec![state])];
    machine.apply(vec![ApplyBatch { region, applied, effects }])?;
    machine.sync()?;
    Ok(true)
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&'static str>().copied());
    let detail = format!("a thread of the store panicked: {}", text.unwrap_or("no message"));
    Error::Storage { kind: ErrorKind::Poisoned, detail }
}

impl StoreHandle {
    fn send(&self, event: Event) {
        self.shared.inbox.send(event);
    }

    /// Replicates and applies records; answered after they are applied here. On a store alone all
    /// of this may be done, and `done` be called, on this thread: hold nothing that `done` needs.
    pub fn propose(&self, proposal: Proposal, done: Done<Applied>) {
        let Proposal { region, epoch, term, records } = proposal;
        let payload = command::encode_write(epoch, &records);
        let keys = || records.iter().map(damask_types::Record::key);
        let span = keys().min().zip(keys().max());
        let span = span.map(|(low, high)| (low.to_vec(), high.to_vec()));
        let (bytes, limit) = (payload.len(), self.shared.config.command_bytes_max);
        if bytes > limit {
            return done(Err(Error::TooLarge { bytes, limit }));
        }
        if self.shared.applying.load(Ordering::Relaxed) > self.shared.config.apply_bytes_max {
            return done(Err(Error::Busy("too much is committed and not yet applied")));
        }
        let max = self.shared.config.requests_bytes_max;
        let Some(charge) = Charge::take(&self.shared.requests, bytes + 256, max) else {
            return done(Err(Error::Busy("too many commands are in flight")));
        };
        if let Some((low, high)) = &span {
            self.shared.loads.note_keys(region, Access::Write, low, high, bytes as u64);
        }
        let answer = Answer::charged(done, charge);
        let event = Event::Propose { region, epoch, term, payload, span, answer };
        if let Some(event) = self.shared.serve(event) {
            self.send(event);
        }
    }

    /// Asks for a linearizable view, on the leader, as `StoreConfig::reads` says.
    /// While the leader's lease lasts `done` is called at once, on this thread.
    pub fn read_index(&self, region: RegionId, epoch: Epoch, done: Done<ReadPermit>) {
        self.read(region, epoch, self.shared.config.reads, done);
    }

    /// Asks for a linearizable view in this way.
    pub fn read(&self, region: RegionId, epoch: Epoch, mode: ReadMode, done: Done<ReadPermit>) {
        match mode {
            ReadMode::Log => return self.read_by_log(region, epoch, done),
            ReadMode::Lease => {
                if let Some((permit, ())) = self.read_local(region, epoch, || ()) {
                    return done(Ok(permit));
                }
            }
            ReadMode::Stale(ts) => {
                let read = self.read_stale(region, epoch, ts, || ());
                return done(read.map(|(permit, ())| permit));
            }
            ReadMode::Index | ReadMode::Follower => {}
        }
        let max = self.shared.config.requests_bytes_max;
        let Some(charge) = Charge::take(&self.shared.requests, 256, max) else {
            return done(Err(Error::Busy("too many reads are in flight")));
        };
        self.send(Event::Read { region, epoch, mode, answer: Answer::charged(done, charge) });
    }

    /// What `take` has seen (a snapshot), if the leader's lease covered it: the clock is read after
    /// `take`. `None`: there is no lease, or the region is another; use `read`.
    pub fn read_local<S>(
        &self,
        region: RegionId,
        epoch: Epoch,
        take: impl FnOnce() -> S,
    ) -> Option<(ReadPermit, S)> {
        let shared = &self.shared;
        let view = shared.local.find(region, epoch)?;
        let taken = take();
        let early = shared.config.tick * 20 * u32::from(mistaken(Mistake::ClockReadEarly));
        let now = shared.clock.monotonic().saturating_sub(early);
        let permit = view.permit(now)?;
        if view.renew(now, shared.config.tick) {
            self.send(Event::Renew(region));
        }
        Some((permit, taken))
    }

    /// What `take` has seen (a snapshot) on any replica, without a question to anybody: all that
    /// was ever and will ever be committed at or below `ts`. It is looked at again after `take`.
    ///
    /// # Errors
    /// `DataIsNotReady`: above this replica's safe timestamp, ask the leader. `EpochNotMatch`.
    pub fn read_stale<S>(
        &self,
        region: RegionId,
        epoch: Epoch,
        ts: Timestamp,
        take: impl FnOnce() -> S,
    ) -> Result<(ReadPermit, S)> {
        self.shared.safe.read(region, epoch, ts, take)
    }

    /// Up to where this store's replica may be read by `read_stale`; ZERO: it may not.
    pub fn safe_ts(&self, region: RegionId) -> Timestamp {
        self.shared.safe.safe_ts(region)
    }

    /// Of regions that this store leads: nothing will be committed at or below these timestamps
    /// any more that is not in their logs now. Once a quorum knows of no newer term, all replicas
    /// are told.
    pub fn resolved(&self, found: Vec<Resolved>) {
        self.send(Event::Resolved(found));
    }

    fn read_by_log(&self, region: RegionId, epoch: Epoch, done: Done<ReadPermit>) {
        let proposal = Proposal { region, epoch, term: None, records: Vec::new() };
        let handle = self.clone();
        let then = move |result: Result<Applied>| match result {
            Ok(applied) => handle.read_at(region, epoch, applied.index, done),
            // Nothing was to be written: the caller may simply ask again.
            Err(Error::Undetermined(_)) => done(Err(Error::Stale)),
            Err(e) => done(Err(e)),
        };
        self.propose(proposal, Box::new(then));
    }

    /// A view of this replica as soon as it has applied `index`, which the region's leader has
    /// named when it was asked for a read (by another way than the log's).
    pub fn read_at(&self, region: RegionId, epoch: Epoch, index: u64, done: Done<ReadPermit>) {
        let max = self.shared.config.requests_bytes_max;
        let Some(charge) = Charge::take(&self.shared.requests, 256, max) else {
            return done(Err(Error::Busy("too many reads are in flight")));
        };
        self.send(Event::ReadAt { region, epoch, index, answer: Answer::charged(done, charge) });
    }

    /// Splits a region at keys; `children` get the parts on the left. Answers with all parts, from
    /// left to right.
    pub fn split(
        &self,
        region: RegionId,
        epoch: Epoch,
        keys: Vec<Vec<u8>>,
        children: Vec<SplitChild>,
        done: Done<Vec<Region>>,
    ) {
        let answer = Answer::new(done);
        self.send(Event::Split { region, epoch, keys, children, answer });
    }

    /// Changes one replica.
    pub fn change_peer(
        &self,
        region: RegionId,
        epoch: Epoch,
        change: PeerChange,
        done: Done<Region>,
    ) {
        self.send(Event::ChangePeer { region, epoch, change, answer: Answer::new(done) });
    }

    /// Changes several replicas in one step: until all are changed, decisions need a majority of
    /// the voters before and of those after. Answered when that begins; whoever leads ends it. A
    /// voter can be demoted, and removed after that; one change is made as `change_peer` does.
    pub fn change_peers(
        &self,
        region: RegionId,
        epoch: Epoch,
        changes: Vec<PeerChange>,
        done: Done<Region>,
    ) {
        self.send(Event::ChangePeers { region, epoch, changes, answer: Answer::new(done) });
    }

    /// Has a region become a part of its neighbour, which has replicas on the same stores. Answered
    /// once it takes nothing more; from then on it is taken in, or goes on alone.
    pub fn merge(&self, region: RegionId, epoch: Epoch, into: RegionId, done: Done<Region>) {
        self.send(Event::Merge { region, epoch, into, answer: Answer::new(done) });
    }

    /// Asks the leader to make `to` the leader. Whether it happens shows in `replicas`.
    pub fn transfer_leader(&self, region: RegionId, to: Peer) {
        self.send(Event::TransferLeader { region, to });
    }

    /// Messages from other stores. What is too much is dropped.
    pub fn receive(&self, envelopes: Vec<Envelope>) {
        let bytes = message_bytes(&envelopes);
        let before = self.shared.messages.fetch_add(bytes, Ordering::Relaxed);
        if before > self.shared.config.messages_bytes_max {
            self.shared.messages.fetch_sub(bytes, Ordering::Relaxed);
            return;
        }
        self.send(Event::Messages(envelopes));
    }

    /// Every replica here that has a region, as of the last tick or change.
    pub fn replicas(&self) -> Vec<ReplicaStatus> {
        self.shared.statuses.read().values().cloned().collect()
    }

    /// One of them.
    pub fn replica(&self, region: RegionId) -> Option<ReplicaStatus> {
        self.shared.statuses.read().get(&region).cloned()
    }

    /// Its description.
    pub fn region(&self, region: RegionId) -> Option<Region> {
        self.shared.statuses.read().get(&region).map(|status| status.region.clone())
    }

    /// Why the store stopped by itself.
    pub fn failed(&self) -> Option<Error> {
        self.shared.failed.lock().clone()
    }

    /// Which store this is.
    pub fn id(&self) -> StoreId {
        self.shared.id
    }
}

fn message_bytes(envelopes: &[Envelope]) -> usize {
    envelopes.iter().map(|e| e.message.len() + 64).sum()
}
