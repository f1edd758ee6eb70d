//! What committed entries do: decodes them, decides each against the region's epoch, hands the
//! effects to the state machine, answers. Its decisions depend on the log alone, so that every
//! replica makes the same; only the machine does I/O.

pub(crate) mod membership;
mod merges;

use crate::answer::Answer;
use crate::command::{Body, Command, Membership};
use crate::error::{Error, Result};
use crate::handle::SplitChild;
use crate::log_store::{EntryKind, LogEntry, LogOp, LogStore};
use crate::machine::{
    Applied, ApplyBatch, Effect, RegionState, SnapshotPiece, SnapshotSource, StateMachine,
    Unfinished,
};
use crate::merge::MergeState;
use crate::snapshot::Staging;
use damask_env::{Disk, Mistake, mistaken};
use damask_types::{KeyRange, Peer, PeerId, Region, RegionId, StoreId};
use merges::Gone;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Where a new region's log starts: 0 means "nothing yet", so newcomers get a snapshot.
pub const LOG_START: Applied = Applied { index: 5, term: 5 };

/// Work for the apply thread, in order.
#[derive(Debug)]
pub(crate) enum ApplyTask {
    /// Committed entries, and who waits for which.
    Entries { region: RegionId, entries: Vec<LogEntry>, waiting: Vec<(u64, Waiting)> },
    /// Hold on to the region's content as it is now.
    Export(RegionId),
    /// Read a part of it, for a replica.
    Read {
        region: RegionId,
        to: PeerId,
        stream: u64,
        at: u64,
        from: Vec<u8>,
        bytes: usize,
        source: Arc<dyn SnapshotSource>,
    },
    /// Put a part of what a region is to hold aside.
    Stage { region: RegionId, stream: u64, at: u64, last: bool, chunk: Vec<u8> },
    /// Forget the parts that are aside.
    Unstage(RegionId),
    /// Replace the region's content by the parts that are aside.
    Import { state: RegionState, stream: u64 },
    /// This store's replica was removed.
    Destroy(RegionState),
}

/// Who waits for a proposal.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// Of writes that share an entry.
    Writes(Vec<Answer<Applied>>),
    Split(Answer<Vec<Region>>),
    Change(Answer<Region>),
}

impl Waiting {
    pub fn fail(self, e: Error) {
        match self {
            Waiting::Writes(all) => all.into_iter().for_each(|a| a.send(Err(e.clone()))),
            Waiting::Split(answer) => answer.send(Err(e)),
            Waiting::Change(answer) => answer.send(Err(e)),
        }
    }

    pub fn set_proposed(&mut self) {
        match self {
            Waiting::Writes(all) => all.iter_mut().for_each(|answer| answer.proposed = true),
            Waiting::Split(answer) => answer.proposed = true,
            Waiting::Change(answer) => answer.proposed = true,
        }
    }

    fn succeed(self, outcome: Outcome, applied: Applied) {
        match (self, outcome) {
            (Waiting::Writes(all), Outcome::Written) => {
                all.into_iter().for_each(|answer| answer.send(Ok(applied)));
            }
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
        source: Arc<dyn SnapshotSource>,
    },
    /// A part of a region's content.
    Piece {
        region: RegionId,
        to: PeerId,
        stream: u64,
        at: u64,
        piece: SnapshotPiece,
    },
    /// Is a part of a region's new content aside now?
    Staged {
        region: RegionId,
        stream: u64,
        at: u64,
        last: bool,
        kept: bool,
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
        change: Membership,
        region: Region,
    },
    Split {
        /// The command's entry.
        at: Applied,
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
    staging: Staging,
    regions: HashMap<RegionId, Known>,
    /// Regions that have become a part of others here.
    merged: HashMap<RegionId, Gone>,
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
        let gone = states.iter().filter(|s| s.tombstone);
        let merged = gone.filter_map(|s| Some((s.region.id, Gone::of(s)?))).collect();
        let (batches, outcomes, reports) = (Vec::new(), Vec::new(), Vec::new());
        let staging = Staging::in_memory();
        Applier { store, machine, log, staging, regions, merged, batches, outcomes, reports }
    }

    /// What comes in parts is put aside on this disk, instead of in memory; what an earlier run
    /// has left there is removed.
    pub fn stage_on(mut self, disk: Arc<dyn Disk>) -> Result<Applier> {
        self.staging = Staging::open(disk)?;
        Ok(self)
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
                ApplyTask::Read { region, to, stream, at, from, bytes, source } => {
                    let piece = source.read(&from, bytes)?;
                    self.reports.push(ApplyReport::Piece { region, to, stream, at, piece });
                }
                ApplyTask::Stage { region, stream, at, last, chunk } => {
                    let kept = self.staging.put(region, stream, at, &chunk)?;
                    self.reports.push(ApplyReport::Staged { region, stream, at, last, kept });
                }
                ApplyTask::Unstage(region) => self.staging.clear(region)?,
                ApplyTask::Import { state, stream } => {
                    self.flush()?;
                    let id = state.region.id;
                    self.import(state, stream)?;
                    self.staging.clear(id)?;
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
        if mistaken(Mistake::AckBeforeApply) {
            self.outcomes.drain(..).for_each(|(who, outcome, at)| who.succeed(outcome, at));
        }
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
                self.answer_gone(id, waiting);
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
                self.answer_gone(id, waiting);
                return self.removed(id, prior, effects, changes);
            }
            // What a split makes must be durable before anything of it leaves the store, and a
            // merge before the source's log goes.
            if let Change::Split { .. } | Change::Merged { .. } = &changes[before] {
                let mut effects = std::mem::take(&mut effects);
                let apart = children_apart(&mut effects);
                self.batches.push(ApplyBatch { region: id, applied: at, effects });
                applied = None;
                let answers = std::mem::take(&mut self.outcomes);
                self.flush()?;
                self.machine.sync()?;
                if let Some(effects) = apart {
                    self.machine.apply(vec![ApplyBatch { region: id, applied: at, effects }])?;
                }
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
            Body::Change(_) | Body::Joint(_) | Body::Leave => now.conf_ver == then.conf_ver,
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
            Body::Change(change) => {
                Ok(self.decide_change(id, Membership::One(change), effects, changes))
            }
            Body::Joint(several) => {
                Ok(self.decide_change(id, Membership::Joint(several), effects, changes))
            }
            Body::Leave => Ok(self.decide_change(id, Membership::Leave, effects, changes)),
            Body::Split { keys, children } => {
                Ok(match self.decide_split(id, &keys, &children, effects) {
                    Ok((parent, children)) => {
                        let all = children.iter().chain([&parent]).cloned().collect();
                        let at = Applied { index: entry.index, term: entry.term };
                        changes.push(Change::Split { at, parent, children });
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
        change: Membership,
        effects: &mut Vec<Effect>,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        let known = self.regions.get_mut(&id).expect("its entry is decided");
        let region = match membership::after(&known.region, &change) {
            Ok(region) => region,
            Err(why) => return Outcome::Refused(Error::Invalid(why)),
        };
        known.region = region.clone();
        if region.peer_on(self.store).is_some() {
            effects.push(Effect::Regions(vec![known.state()]));
        }
        changes.push(Change::Replicas { change, region: region.clone() });
        Outcome::Changed(region)
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
            let source = self.machine.source(&known.region)?;
            self.reports.push(ApplyReport::Exported { state: known.state(), source });
        }
        Ok(())
    }

    /// Marker in the log, then the machine; the core resets the log when told (§1.3: machine
    /// first, log second; after a crash the marker says that the second step is due).
    fn import(&mut self, state: RegionState, stream: u64) -> Result<()> {
        let id = state.region.id;
        if self.merged.contains_key(&id) {
            return Ok(()); // an entry of the target's was faster: its content is not this one's
        }
        let replaced = self.replaced_by(&state)?;
        let kept = self.staging.seal(id, stream)?;
        let mut chunks = self.staging.chunks(id, stream)?;
        self.log.append(vec![(id, LogOp::Restoring(state.applied))])?;
        self.log.sync()?;
        self.machine.import_staged(&state, &replaced, &mut chunks, kept)?;
        drop(chunks);
        for gone in &replaced {
            self.regions.remove(&gone.region.id);
            self.merged.extend(Gone::of(gone).map(|into| (gone.region.id, into)));
        }
        self.regions.insert(id, Known::new(state.clone(), Vec::new()));
        self.reports.push(ApplyReport::Imported { state, replaced });
        Ok(())
    }

    /// The core may not know yet of a split that was applied here: only the range as it is now
    /// may go.
    fn destroy(&mut self, mut state: RegionState) -> Result<()> {
        if self.merged.contains_key(&state.region.id) {
            return Ok(()); // its content is another region's by now
        }
        if state.merge.into.is_some() {
            self.merged.extend(Gone::of(&state).map(|into| (state.region.id, into)));
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

/// New regions to be written after the others are durable: only as a deliberate mistake.
fn children_apart(effects: &mut [Effect]) -> Option<Vec<Effect>> {
    let Some(Effect::Regions(states)) = effects.last_mut() else { return None };
    let apart = mistaken(Mistake::ChildSeparately);
    let children = states.extract_if(.., |state| apart && state.applied == LOG_START);
    let children: Vec<RegionState> = children.collect();
    (!children.is_empty()).then(|| vec![Effect::Regions(children)])
}

/// Does an import again that a crash has cut short, from the chunks that were kept for that. To be
/// called before anything else is asked of the machine.
///
/// # Errors
/// `Corrupt` if they are not there: this replica has neither its old content nor a new one.
pub(crate) fn resume_import(machine: &dyn StateMachine, disk: Option<&dyn Disk>) -> Result<()> {
    let Some(Unfinished { state, replaced }) = machine.unfinished()? else { return Ok(()) };
    let id = state.region.id;
    let disk = disk.ok_or_else(|| {
        let what = "a snapshot was being put in place, and its parts are gone";
        Error::corrupt(format!("region {id}: {what}"))
    })?;
    tracing::info!(region = %id, "a snapshot that was being put in place is put there again");
    let spans = Staging::sealed(disk, id)?;
    machine.import_staged(&state, &replaced, &mut Staging::read_sealed(disk, id, &spans), true)
}

/// Parent (the rightmost part) and children of a split.
pub(crate) fn split_region(
    region: &Region,
    keys: &[Vec<u8>],
    children: &[SplitChild],
) -> std::result::Result<(Region, Vec<Region>), String> {
    if region.is_joint() {
        return Err(format!("region {} is between two sets of voters", region.id));
    }
    if keys.is_empty() || keys.len() != children.len() {
        return Err("a split needs one child per key".to_owned());
    }
    let inside = |key: &Vec<u8>| *key > region.range.start && region.range.contains(key);
    if !keys.iter().all(inside) || keys.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err("split keys must grow, inside the region".to_owned());
    }
    if repeats(children.iter().map(|c| c.region.0).chain([region.id.0])) {
        return Err("a child needs an id that is no other region's".to_owned());
    }
    let own = region.peers.iter().map(|peer| peer.id.0);
    if repeats(children.iter().flat_map(|c| &c.peers).map(|peer| peer.0).chain(own)) {
        return Err("a child's peer needs an id that is no other peer's".to_owned());
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

/// Does an id come twice, or is one 0, which is nobody's?
fn repeats(mut ids: impl Iterator<Item = u64>) -> bool {
    let mut seen = HashSet::from([0]);
    !ids.all(|id| seen.insert(id))
}

#[cfg(test)]
mod tests;
