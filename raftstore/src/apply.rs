//! What committed entries do: decodes them, decides each against the region's epoch, hands the
//! effects to the state machine, answers. Its decisions depend on the log alone, so that every
//! replica makes the same; only the machine does I/O.

mod merges;

use crate::answer::Answer;
use crate::command::{Body, Command};
use crate::error::{Error, Result};
use crate::handle::{PeerChange, SplitChild};
use crate::log_store::{EntryKind, LogEntry, LogOp, LogStore};
use crate::machine::{Applied, ApplyBatch, Effect, RegionState, SnapshotChunks, StateMachine};
use crate::merge::MergeState;
use damask_env::{Mistake, mistaken};
use damask_types::{KeyRange, Peer, PeerRole, Region, RegionId, StoreId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Where a new region's log starts: 0 means "nothing yet", so newcomers get a snapshot.
pub const LOG_START: Applied = Applied { index: 5, term: 5 };

/// Work for the apply thread, in order.
#[derive(Debug)]
pub(crate) enum ApplyTask {
    /// Committed entries, and who waits for which.
    Entries { region: RegionId, entries: Vec<LogEntry>, waiting: Vec<(u64, Waiting)> },
    /// Take the region's content.
    Export(RegionId),
    /// Replace the region's content.
    Import { state: RegionState, chunks: Arc<SnapshotChunks> },
    /// This store's replica was removed.
    Destroy(RegionState),
}

/// Who waits for a proposal.
#[derive(Debug)]
pub(crate) enum Waiting {
    Write(Answer<Applied>),
    Split(Answer<Vec<Region>>),
    Change(Answer<Region>),
}

impl Waiting {
    pub fn fail(self, e: Error) {
        match self {
            Waiting::Write(answer) => answer.send(Err(e)),
            Waiting::Split(answer) => answer.send(Err(e)),
            Waiting::Change(answer) => answer.send(Err(e)),
        }
    }

    pub fn set_proposed(&mut self) {
        match self {
            Waiting::Write(answer) => answer.proposed = true,
            Waiting::Split(answer) => answer.proposed = true,
            Waiting::Change(answer) => answer.proposed = true,
        }
    }

    fn succeed(self, outcome: Outcome, applied: Applied) {
        match (self, outcome) {
            (Waiting::Write(answer), Outcome::Written) => answer.send(Ok(applied)),
            (Waiting::Split(answer), Outcome::Split(regions)) => answer.send(Ok(regions)),
            (Waiting::Change(answer), Outcome::Changed(region)) => answer.send(Ok(region)),
            (waiting, Outcome::Refused(e)) => waiting.fail(e),
            // Another command at the same index and term is impossible.
            (waiting, _) => waiting.fail(Error::Stale),
        }
    }
}

#[derive(Clone, Debug)]
enum Outcome {
    Written,
    Split(Vec<Region>),
    Changed(Region),
    Refused(Error),
}

/// What the core must know of what was applied.
#[derive(Debug)]
pub(crate) enum ApplyReport {
    Applied {
        region: RegionId,
        applied: Applied,
        changes: Vec<Change>,
    },
    Exported {
        state: RegionState,
        chunks: Arc<SnapshotChunks>,
    },
    /// `replaced`: what went with the content that was there before.
    Imported {
        state: RegionState,
        replaced: Vec<RegionState>,
    },
    Destroyed(RegionState),
}

/// A change of a region, in log order.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Replicas {
        change: PeerChange,
        region: Region,
    },
    Split {
        parent: Region,
        children: Vec<Region>,
    },
    /// A merge of this region has begun, or was taken back, or was declined.
    Merging {
        region: Region,
        merge: MergeState,
    },
    /// This region has taken in another one, whose tombstone is given.
    Merged {
        region: Region,
        merge: MergeState,
        source: Box<RegionState>,
    },
}

struct Known {
    region: Region,
    applied: Applied,
    merge: MergeState,
    /// The last split's other regions, for those who come with an old description.
    siblings: Vec<RegionId>,
    /// An entry said that this replica is out: no more entries.
    removed: bool,
}

impl Known {
    fn new(state: RegionState, siblings: Vec<RegionId>) -> Known {
        let RegionState { region, applied, merge, .. } = state;
        Known { region, applied, merge, siblings, removed: false }
    }

    fn state(&self) -> RegionState {
        let (region, applied, merge) = (self.region.clone(), self.applied, self.merge.clone());
        RegionState { region, applied, tombstone: false, merge }
    }
}

/// Applies entries for every region of a store.
pub(crate) struct Applier {
    store: StoreId,
    machine: Arc<dyn StateMachine>,
    log: Arc<dyn LogStore>,
    regions: HashMap<RegionId, Known>,
    /// Regions that have become a part of others here.
    merged: HashSet<RegionId>,
    batches: Vec<ApplyBatch>,
    outcomes: Vec<(Waiting, Outcome, Applied)>,
    reports: Vec<ApplyReport>,
}

impl Applier {
    pub fn new(
        store: StoreId,
        machine: Arc<dyn StateMachine>,
        log: Arc<dyn LogStore>,
        states: &[RegionState],
    ) -> Applier {
        let mut regions = HashMap::new();
        for state in states.iter().filter(|s| !s.tombstone) {
            regions.insert(state.region.id, Known::new(state.clone(), Vec::new()));
        }
        let gone = states.iter().filter(|s| s.tombstone && s.merge.into.is_some());
        let merged = gone.map(|s| s.region.id).collect();
        let (batches, outcomes, reports) = (Vec::new(), Vec::new(), Vec::new());
        Applier { store, machine, log, regions, merged, batches, outcomes, reports }
    }

    /// Does the tasks; everything is in the machine, and answered, when it returns.
    pub fn run(&mut self, tasks: Vec<ApplyTask>) -> Result<Vec<ApplyReport>> {
        for task in tasks {
            match task {
                ApplyTask::Entries { region, entries, waiting } => {
                    self.entries(region, entries, waiting)?;
                }
                ApplyTask::Export(region) => {
                    self.flush()?;
                    self.export(region)?;
                }
                ApplyTask::Import { state, chunks } => {
                    self.flush()?;
                    self.import(state, chunks)?;
                }
                ApplyTask::Destroy(state) => {
                    self.flush()?;
                    self.destroy(state)?;
                }
            }
        }
        self.flush()?;
        Ok(std::mem::take(&mut self.reports))
    }

    fn flush(&mut self) -> Result<()> {
        if !self.batches.is_empty() {
            self.machine.apply(std::mem::take(&mut self.batches))?;
        }
        for (waiting, outcome, applied) in self.outcomes.drain(..) {
            waiting.succeed(outcome, applied);
        }
        Ok(())
    }

    fn entries(
        &mut self,
        id: RegionId,
        entries: Vec<LogEntry>,
        waiting: Vec<(u64, Waiting)>,
    ) -> Result<()> {
        let mut waiting = waiting.into_iter().peekable();
        let mut changes = Vec::new();
        let mut effects = Vec::new();
        let mut applied = None;
        for entry in entries {
            let Some(known) = self.regions.get_mut(&id).filter(|k| !k.removed) else {
                return Ok(());
            };
            if entry.index <= known.applied.index {
                continue;
            }
            let at = Applied { index: entry.index, term: entry.term };
            let prior = std::mem::replace(&mut known.applied, at);
            applied = Some(at);
            let before = changes.len();
            let outcome = self.decide(id, entry, &mut effects, &mut changes)?;
            while let Some((index, who)) = waiting.next_if(|(index, _)| *index <= at.index) {
                assert_eq!(index, at.index, "who waits, waits for an entry of the log");
                self.outcomes.push((who, outcome.clone(), at));
            }
            if changes.len() == before {
                continue;
            }
            if let Change::Replicas { region, .. } = &changes[before]
                && region.peer_on(self.store).is_none()
            {
                return self.removed(id, prior, effects, changes);
            }
            // What a split makes must be durable before anything of it leaves the store, and a
            // merge before the source's log goes.
            if let Change::Split { .. } | Change::Merged { .. } = &changes[before] {
                let effects = std::mem::take(&mut effects);
                self.batches.push(ApplyBatch { region: id, applied: at, effects });
                applied = None;
                let answers = std::mem::take(&mut self.outcomes);
                self.flush()?;
                self.machine.sync()?;
                self.outcomes = answers;
            }
        }
        if let Some(applied) = applied {
            self.batches.push(ApplyBatch { region: id, applied, effects });
        }
        if let Some(known) = self.regions.get(&id) {
            let applied = known.applied;
            self.reports.push(ApplyReport::Applied { region: id, applied, changes });
        }
        Ok(())
    }

    /// This replica is out: the entry that says so is not counted as applied, so that a restart
    /// sees it again until the core, which knows the readers, has the content destroyed.
    fn removed(
        &mut self,
        id: RegionId,
        prior: Applied,
        effects: Vec<Effect>,
        changes: Vec<Change>,
    ) -> Result<()> {
        self.batches.push(ApplyBatch { region: id, applied: prior, effects });
        self.regions.get_mut(&id).expect("its entry was decided").removed = true;
        self.reports.push(ApplyReport::Applied { region: id, applied: prior, changes });
        Ok(())
    }

    /// Decides one entry. An undecodable one is damage, and stops the store.
    fn decide(
        &mut self,
        id: RegionId,
        entry: LogEntry,
        effects: &mut Vec<Effect>,
        changes: &mut Vec<Change>,
    ) -> Result<Outcome> {
        let bytes = match entry.kind {
            EntryKind::Normal => &entry.data,
            EntryKind::Change => &entry.context,
        };
        if bytes.is_empty() {
            return Ok(Outcome::Written); // a new leader's first entry
        }
        let bad = |e| Error::corrupt(format!("entry {} of region {id}: {e}", entry.index));
        let command = Command::decode(bytes).map_err(bad)?;
        let known = self.regions.get(&id).expect("the caller looked it up");
        let (now, then) = (known.region.epoch, command.epoch);
        // §2.8: what each command checks, by equality.
        let same = match &command.body {
            Body::Write(_) => now.version == then.version,
            Body::Change(_) => now.conf_ver == then.conf_ver,
            _ => now == then,
        };
        if !same && !mistaken(Mistake::EpochNotChecked) {
            return Ok(Outcome::Refused(Error::EpochNotMatch { current: self.current(id) }));
        }
        if known.merge.prepared.is_some() && !matches!(command.body, Body::Rollback { .. }) {
            return Ok(Outcome::Refused(Error::Merging(id)));
        }
        match command.body {
            Body::Write(records) => {
                effects.push(Effect::Write(records));
                Ok(Outcome::Written)
            }
            Body::Change(change) => Ok(match self.decide_change(id, change, effects) {
                Ok(region) => {
                    changes.push(Change::Replicas { change, region: region.clone() });
                    Outcome::Changed(region)
                }
                Err(why) => Outcome::Refused(Error::Invalid(why)),
            }),
            Body::Split { keys, children } => {
                Ok(match self.decide_split(id, &keys, &children, effects) {
                    Ok((parent, children)) => {
                        let all = children.iter().chain([&parent]).cloned().collect();
                        changes.push(Change::Split { parent, children });
                        Outcome::Split(all)
                    }
                    Err(why) => Outcome::Refused(Error::Invalid(why)),
                })
            }
            Body::Prepare { target, min_index } => {
                Ok(self.decide_prepare(id, target, min_index, effects, changes))
            }
            Body::Commit(commit) => self.decide_commit(id, commit, effects, changes),
            Body::Rollback { commit } => Ok(self.decide_rollback(id, commit, effects, changes)),
            Body::Refuse { .. } => Ok(self.decide_refuse(id, effects, changes)),
        }
    }

    fn decide_change(
        &mut self,
        id: RegionId,
        change: PeerChange,
        effects: &mut Vec<Effect>,
    ) -> std::result::Result<Region, String> {
        let known = self.regions.get_mut(&id).expect("its entry is decided");
        let region = change_region(&known.region, change)?;
        known.region = region.clone();
        if region.peer_on(self.store).is_some() {
            effects.push(Effect::Regions(vec![known.state()]));
        }
        Ok(region)
    }

    fn decide_split(
        &mut self,
        id: RegionId,
        keys: &[Vec<u8>],
        children: &[SplitChild],
        effects: &mut Vec<Effect>,
    ) -> std::result::Result<(Region, Vec<Region>), String> {
        let known = self.regions.get(&id).expect("its entry is decided");
        let (parent, children) = split_region(&known.region, keys, children)?;
        let (applied, merge) = (known.applied, known.merge.inherited());
        let parts = || std::iter::once(&parent).chain(&children);
        let state = |region: &Region| {
            let (region, merge) = (region.clone(), merge.clone());
            let applied = if region.id == id { applied } else { LOG_START };
            RegionState { region, applied, tombstone: false, merge }
        };
        effects.push(Effect::Regions(parts().map(state).collect()));
        for region in parts() {
            let siblings = parts().map(|r| r.id).filter(|r| *r != region.id).collect();
            self.regions.insert(region.id, Known::new(state(region), siblings));
        }
        Ok((parent, children))
    }

    fn current(&self, id: RegionId) -> Vec<Region> {
        let Some(known) = self.regions.get(&id) else { return Vec::new() };
        let siblings = known.siblings.iter().filter_map(|s| self.regions.get(s));
        std::iter::once(known).chain(siblings).map(|k| k.region.clone()).collect()
    }

    fn export(&mut self, id: RegionId) -> Result<()> {
        if let Some(known) = self.regions.get(&id) {
            let chunks = Arc::new(self.machine.export(&known.region)?);
            self.reports.push(ApplyReport::Exported { state: known.state(), chunks });
        }
        Ok(())
    }

    /// Marker in the log, then the machine; the core resets the log when told (§1.3: machine
    /// first, log second; after a crash the marker says that the second step is due).
    fn import(&mut self, state: RegionState, chunks: Arc<SnapshotChunks>) -> Result<()> {
        let id = state.region.id;
        if self.merged.contains(&id) {
            return Ok(()); // an entry of the target's was faster: its content is not this one's
        }
        let replaced = self.replaced_by(&state)?;
        self.log.append(vec![(id, LogOp::Restoring(state.applied))])?;
        self.log.sync()?;
        self.machine.import(&state, &replaced, Arc::unwrap_or_clone(chunks))?;
        for gone in &replaced {
            self.regions.remove(&gone.region.id);
            self.merged.insert(gone.region.id);
        }
        self.regions.insert(id, Known::new(state.clone(), Vec::new()));
        self.reports.push(ApplyReport::Imported { state, replaced });
        Ok(())
    }

    /// The core may not know yet of a split that was applied here: only the range as it is now
    /// may go.
    fn destroy(&mut self, mut state: RegionState) -> Result<()> {
        if self.merged.contains(&state.region.id) {
            return Ok(()); // its content is another region's by now
        }
        if state.merge.into.is_some() {
            self.merged.insert(state.region.id);
        }
        if let Some(known) = self.regions.remove(&state.region.id) {
            state.region.range = known.region.range;
            state.region.epoch.version = known.region.epoch.version;
        }
        self.machine.destroy(&state)?;
        self.reports.push(ApplyReport::Destroyed(state));
        Ok(())
    }
}

/// The region after a change of one replica.
pub(crate) fn change_region(
    region: &Region,
    change: PeerChange,
) -> std::result::Result<Region, String> {
    let mut after = region.clone();
    after.epoch.conf_ver += 1;
    let (peer, role) = match change {
        PeerChange::Remove(peer) => {
            if region.peer(peer.id).is_none() {
                return Err(format!("peer {} is not in region {}", peer.id, region.id));
            }
            after.peers.retain(|p| p.id != peer.id);
            if after.voters().next().is_none() {
                return Err("the last voter cannot be removed".to_owned());
            }
            return Ok(after);
        }
        PeerChange::AddLearner(peer) => (peer, PeerRole::Learner),
        PeerChange::AddVoter(peer) => (peer, PeerRole::Voter),
    };
    match after.peers.iter_mut().find(|p| p.id == peer.id || p.store == peer.store) {
        Some(there) if there.id != peer.id || there.store != peer.store => {
            return Err(format!("store {} has peer {} already", there.store, there.id));
        }
        Some(there) if there.role == role => return Err(format!("peer {} is that", peer.id)),
        Some(there) => there.role = role,
        None => after.peers.push(Peer { role, ..peer }),
    }
    if after.voters().next().is_none() {
        return Err("the last voter cannot be demoted".to_owned());
    }
    Ok(after)
}

/// Parent (the rightmost part) and children of a split.
pub(crate) fn split_region(
    region: &Region,
    keys: &[Vec<u8>],
    children: &[SplitChild],
) -> std::result::Result<(Region, Vec<Region>), String> {
    if keys.is_empty() || keys.len() != children.len() {
        return Err("a split needs one child per key".to_owned());
    }
    let inside = |key: &Vec<u8>| *key > region.range.start && region.range.contains(key);
    if !keys.iter().all(inside) || keys.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err("split keys must grow, inside the region".to_owned());
    }
    let mut epoch = region.epoch;
    epoch.version += keys.len() as u64;
    let mut start = region.range.start.clone();
    let mut made = Vec::new();
    for (key, child) in keys.iter().zip(children) {
        if child.peers.len() != region.peers.len() {
            return Err("a child needs one peer per peer of its parent".to_owned());
        }
        let peers = region.peers.iter().zip(&child.peers).map(|(p, id)| Peer { id: *id, ..*p });
        let range =
            KeyRange { start: std::mem::replace(&mut start, key.clone()), end: key.clone() };
        made.push(Region { id: child.region, range, epoch, peers: peers.collect() });
    }
    let range = KeyRange { start, end: region.range.end.clone() };
    let parent = Region { id: region.id, range, epoch, peers: region.peers.clone() };
    Ok((parent, made))
}
