//! The dull half of placement: reports stores and leaders to the placement driver, tells it the
//! time, and carries out the one step it answers. It must never decide: decisions are
//! `damask_pd::plan`'s.

use crate::nodes::Content;
use crate::quarantine::Fault;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use damask_env::{Clock, RealClock, Task, spawn};
use damask_pd::{Flow, Placement, RegionReport, SplitIds, Step, StoreReport};
use damask_raftstore::{
    Done, PeerChange, RangeSize, RegionLoad, ReplicaStatus, SplitChild, StateMachine, StoreHandle,
};
use damask_types::{Region, RegionId, StoreId};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Time between reports of a quiet region: a real cluster's minute, shortened for one process.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Sizes are measured at every n-th round of reports, where something was applied since.
const SIZE_EVERY_ROUNDS: u64 = 4;
/// Changes waiting to be reported; more are covered by the next round.
const CHANGES_MAX: usize = 4096;

/// A store that runs, or stopped by itself.
#[derive(Clone)]
pub struct Member {
    /// Its handle.
    pub handle: StoreHandle,
    /// Its state machine, for sizes.
    pub machine: Arc<dyn StateMachine>,
    /// What it keeps.
    pub content: Content,
    /// What was found to be wrong with it; the store itself may run on.
    pub fault: Arc<Fault>,
}

impl Member {
    /// Why it cannot be relied on, if so.
    pub fn failed(&self) -> Option<String> {
        let stopped = self.handle.failed().map(|e| format!("the store stopped: {e}"));
        stopped.or_else(|| self.fault.get())
    }
}

/// Stores by id, as they come and go.
pub type Members = Arc<RwLock<HashMap<StoreId, Member>>>;

/// The running reporter.
pub struct Reporter {
    changes: Sender<Message>,
    task: Option<Task>,
}

enum Message {
    Changed(StoreId, Box<ReplicaStatus>),
    Hurry,
    Stop,
}

/// Where stores announce a new leader or epoch.
#[derive(Clone)]
pub struct Announce(Sender<Message>);

impl Announce {
    /// Called on a store's thread: never blocks.
    pub fn changed(&self, store: StoreId, status: ReplicaStatus) {
        // When full, the next round reports it.
        self.0.try_send(Message::Changed(store, Box::new(status))).ok();
    }

    /// Asks for a round of reports now: a rule changed.
    pub fn hurry(&self) {
        self.0.try_send(Message::Hurry).ok();
    }
}

impl Reporter {
    /// Starts the reporter's thread; stores are attached through `members`.
    pub fn start(pd: Arc<dyn Placement>, members: Members) -> Reporter {
        let (changes, inbox) = crossbeam_channel::bounded(CHANGES_MAX);
        let (clock, sizes, loads) = (RealClock::default(), HashMap::new(), HashMap::new());
        let whole = HashMap::new();
        let mut reports = Reports { pd, members, clock, sizes, loads, rounds: 0, whole };
        let task = spawn("placement", move || reports.run(&inbox));
        Reporter { changes, task: Some(task) }
    }

    /// Where stores announce changes.
    pub fn announce(&self) -> Announce {
        Announce(self.changes.clone())
    }

    /// Ends the thread.
    pub fn stop(&mut self) {
        self.changes.send(Message::Stop).ok();
        if let Some(task) = self.task.take() {
            task.join().ok();
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Reports {
    pd: Arc<dyn Placement>,
    members: Members,
    /// Only for time that passes between rounds.
    clock: RealClock,
    sizes: HashMap<RegionId, Size>,
    /// As of the last round, by whoever led then.
    loads: HashMap<RegionId, RegionLoad>,
    rounds: u64,
    /// Regions in which no key to split at was found, and their sizes then.
    whole: HashMap<RegionId, Size>,
}

/// A region's bytes and versions when so much of its log was applied.
#[derive(Clone, Copy, Default)]
struct Size {
    applied: u64,
    bytes: u64,
    keys: u64,
}

/// Request units: one for each request, and one for each 4 KiB that it moves.
fn flow(load: &RegionLoad) -> Flow {
    let units = |requests: u64, bytes: u64| requests.saturating_add(bytes / 4096);
    let (read, write) = (units(load.reads, load.read_bytes), units(load.writes, load.write_bytes));
    Flow { read, write }
}

impl Reports {
    fn run(&mut self, inbox: &Receiver<Message>) {
        loop {
            match inbox.recv_timeout(REPORT_EVERY) {
                Ok(Message::Changed(store, status)) => self.report(store, &status),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Message::Hurry) | Err(RecvTimeoutError::Timeout) => self.round(),
            }
        }
    }

    fn round(&mut self) {
        self.rounds += 1;
        let members: Vec<_> = self.members.read().iter().map(|(id, m)| (*id, m.clone())).collect();
        self.loads = members.iter().flat_map(|(_, member)| member.handle.loads()).collect();
        for (store, member) in members {
            // Nobody says yet how large the stores' disks are.
            let failed = member.failed().is_some();
            let report = StoreReport { store, capacity: 0, available: 0, failed };
            if let Err(e) = self.pd.store_heartbeat(report) {
                tracing::debug!(%store, "report refused: {e}");
            }
            for status in member.handle.replicas() {
                if status.is_leader && self.rounds % SIZE_EVERY_ROUNDS == 1 {
                    self.measure(&member, &status);
                }
                self.report(store, &status);
            }
        }
        if let Err(e) = self.pd.tick(self.clock.monotonic().as_millis() as u64) {
            tracing::warn!("the placement driver cannot plan: {e}");
        }
    }

    fn measure(&mut self, member: &Member, status: &ReplicaStatus) {
        let (id, applied) = (status.region.id, status.applied.index);
        if self.sizes.get(&id).is_some_and(|size| size.applied == applied) {
            return;
        }
        match member.machine.size(&status.region.range, 1) {
            Ok(RangeSize { bytes, keys, .. }) => {
                self.sizes.insert(id, Size { applied, bytes, keys });
            }
            Err(e) => tracing::warn!(region = %id, "size: {e}"),
        }
    }

    /// Was there no key to split at, when it was about as large (an eighth more or less)?
    fn is_unsplittable(&mut self, id: RegionId) -> bool {
        let now = self.sizes.get(&id).copied().unwrap_or_default();
        let Some(then) = self.whole.get(&id).copied() else { return false };
        let about = |now: u64, then: u64| now.abs_diff(then) <= then / 8;
        let same = about(now.bytes, then.bytes) && about(now.keys, then.keys);
        if !same {
            self.whole.remove(&id);
        }
        same
    }

    fn report(&mut self, store: StoreId, status: &ReplicaStatus) {
        let Some(leader) = status.leader.filter(|_| status.is_leader) else { return };
        let size = self.sizes.get(&status.region.id).copied().unwrap_or_default();
        let load = self.loads.get(&status.region.id).cloned().unwrap_or_default();
        let report = RegionReport {
            region: status.region.clone(),
            leader,
            term: status.term,
            bytes: size.bytes,
            keys: size.keys,
            flow: flow(&load),
            split_key: load.split_key,
            pending: status.pending.iter().map(|p| p.id).collect(),
            merging: status.merging,
            unsplittable: self.is_unsplittable(status.region.id),
        };
        match self.pd.region_heartbeat(report) {
            Ok(Some(step)) => self.carry_out(store, &status.region, step),
            Ok(None) => {}
            Err(e) => tracing::debug!(region = %status.region.id, "report refused: {e}"),
        }
    }

    fn carry_out(&mut self, store: StoreId, region: &Region, step: Step) {
        let Some(member) = self.members.read().get(&store).cloned() else { return };
        tracing::info!(region = %region.id, %step, "operator");
        let changes = match step {
            Step::AddLearner(peer) => vec![PeerChange::AddLearner(peer)],
            Step::AddVoter(peer) => vec![PeerChange::AddVoter(peer)],
            Step::RemovePeer(peer) => vec![PeerChange::Remove(peer)],
            Step::Swap { add, old } => {
                vec![PeerChange::AddVoter(add), PeerChange::AddLearner(old)]
            }
            Step::TransferLeader(peer) => {
                member.handle.transfer_leader(region.id, peer);
                return;
            }
            Step::Split(parts) => {
                match member.machine.size(&region.range, parts) {
                    Ok(RangeSize { cuts, .. }) if cuts.is_empty() => {
                        // The next report says so.
                        let size = self.sizes.get(&region.id).copied().unwrap_or_default();
                        self.whole.insert(region.id, size);
                    }
                    Ok(RangeSize { cuts, .. }) => {
                        self.split(&member, region, cuts);
                        self.sizes.remove(&region.id);
                    }
                    Err(e) => tracing::warn!(region = %region.id, "keys to split at: {e}"),
                }
                return;
            }
            Step::SplitAt(keys) => {
                self.split(&member, region, keys);
                return;
            }
            Step::Merge(into) => {
                member.handle.merge(region.id, region.epoch, into, refused_later("merge", region));
                return;
            }
        };
        let done = refused_later("change of replicas", region);
        member.handle.change_peers(region.id, region.epoch, changes, done);
    }

    fn split(&self, member: &Member, region: &Region, keys: Vec<Vec<u8>>) {
        let ids = match self.pd.ask_split(region, keys.len()) {
            Ok(ids) => ids,
            Err(e) => {
                tracing::warn!(region = %region.id, "ids for a split: {e}");
                return;
            }
        };
        let child = |ids: SplitIds| SplitChild { region: ids.region, peers: ids.peers };
        let children = ids.into_iter().map(child).collect();
        let id = region.id;
        let done = Box::new(move |result: damask_raftstore::Result<Vec<Region>>| {
            if let Err(e) = result {
                tracing::debug!(region = %id, "split: {e}");
            }
        });
        member.handle.split(region.id, region.epoch, keys, children, done);
    }
}

/// What a leader refuses now, the next report asks for again.
fn refused_later(what: &'static str, region: &Region) -> Done<Region> {
    let id = region.id;
    Box::new(move |result| {
        if let Err(e) = result {
            tracing::debug!(region = %id, "{what}: {e}");
        }
    })
}
