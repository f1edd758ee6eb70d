//! The dull half of placement: reports stores and leaders to the placement driver, tells it the
//! time, and carries out the one step it answers. It must never decide: decisions are
//! `damask_pd::plan`'s.

use crate::nodes::Content;
use crate::quarantine::Fault;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use damask_env::{Clock, RealClock, Task, spawn};
use damask_pd::{Flow, Placement, RegionReport, SplitIds, Step, StoreReport};
use damask_raftstore::{Done, PeerChange, ReplicaStatus, SplitChild, StateMachine, StoreHandle};
use damask_types::{Region, RegionId, StoreId};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Time between reports of a quiet region: a real cluster's minute, shortened for one process.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Sizes are measured at every n-th round of reports, where something was applied since: it costs
/// a walk through half of the region.
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
        let (clock, sizes, flows) = (RealClock::default(), HashMap::new(), HashMap::new());
        let whole = HashMap::new();
        let mut reports = Reports { pd, members, clock, sizes, flows, rounds: 0, whole };
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
    flows: HashMap<RegionId, Applying>,
    rounds: u64,
    /// Regions in which no key to split at was found, and their bytes then.
    whole: HashMap<RegionId, u64>,
}

/// How fast a region's log is applied.
#[derive(Clone, Copy)]
struct Applying {
    /// Applied at `at`.
    applied: u64,
    at: Duration,
    /// Entries a second, between the two measurements before.
    rate: u64,
}

/// A region's bytes when so much of its log was applied.
#[derive(Clone, Copy)]
struct Size {
    applied: u64,
    bytes: u64,
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
                    self.rate(&status);
                }
                self.report(store, &status);
            }
        }
        if let Err(e) = self.pd.tick(self.clock.monotonic().as_millis() as u64) {
            tracing::warn!("the placement driver cannot plan: {e}");
        }
    }

    /// Entries applied a second since the last measurement.
    fn rate(&mut self, status: &ReplicaStatus) {
        let (now, applied) = (self.clock.monotonic(), status.applied.index);
        let before = self.flows.get(&status.region.id).copied();
        let rate = before.map_or(0, |before| {
            let ms = now.saturating_sub(before.at).as_millis().max(1) as u64;
            applied.saturating_sub(before.applied).saturating_mul(1000) / ms
        });
        self.flows.insert(status.region.id, Applying { applied, at: now, rate });
    }

    fn measure(&mut self, member: &Member, status: &ReplicaStatus) {
        let (id, applied) = (status.region.id, status.applied.index);
        if self.sizes.get(&id).is_some_and(|size| size.applied == applied) {
            return;
        }
        match member.machine.size(&status.region.range) {
            Ok((bytes, _)) => {
                self.sizes.insert(id, Size { applied, bytes });
            }
            Err(e) => tracing::warn!(region = %id, "size: {e}"),
        }
    }

    /// Was there no key to split at, when it had about as many bytes (an eighth more or less)?
    fn is_unsplittable(&mut self, id: RegionId) -> bool {
        let bytes = self.sizes.get(&id).map_or(0, |size| size.bytes);
        let Some(then) = self.whole.get(&id).copied() else { return false };
        let same = bytes.abs_diff(then) <= then / 8;
        if !same {
            self.whole.remove(&id);
        }
        same
    }

    fn report(&mut self, store: StoreId, status: &ReplicaStatus) {
        let Some(leader) = status.leader.filter(|_| status.is_leader) else { return };
        let report = RegionReport {
            region: status.region.clone(),
            leader,
            term: status.term,
            bytes: self.sizes.get(&status.region.id).map_or(0, |size| size.bytes),
            // Reads are not counted by stores yet.
            flow: Flow { read: 0, write: self.flows.get(&status.region.id).map_or(0, |f| f.rate) },
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
            Step::Split => {
                match member.machine.size(&region.range) {
                    Ok((_, Some(middle))) => {
                        self.split(&member, region, vec![middle]);
                        self.sizes.remove(&region.id);
                    }
                    Ok((_, None)) => {
                        // The next report says so.
                        let bytes = self.sizes.get(&region.id).map_or(0, |size| size.bytes);
                        self.whole.insert(region.id, bytes);
                    }
                    Err(e) => tracing::warn!(region = %region.id, "middle key: {e}"),
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
