//! Merges as the logs of both regions decide them. The target's entry brings the source on this
//! store to its end, by the entries that its own log has for certain and those that came along,
//! and takes it in, in one write. It must never take in a region that is not exactly where its
//! prepare has left it.

use super::{Applier, Change, Outcome, Waiting};
use crate::command::MergeCommit;
use crate::error::{Error, Result};
use crate::log_store::LogEntry;
use crate::machine::{Applied, Effect, RegionState};
use crate::merge::{MergeState, Prepared, merge_regions, prepare_region, rollback_region};
use damask_env::{Mistake, mistaken};
use damask_types::{Region, RegionId};

/// Bytes of a source's own entries that are read at a time.
const CATCH_UP_BYTES: u64 = 4 << 20;

impl Applier {
    pub(super) fn decide_prepare(
        &mut self,
        id: RegionId,
        target: Region,
        min_index: u64,
        effects: &mut Vec<Effect>,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        let known = self.regions.get_mut(&id).expect("its entry is decided");
        let region = match prepare_region(&known.region, &target) {
            Ok(region) => region,
            Err(why) => return Outcome::Refused(Error::Invalid(why)),
        };
        let commit = known.applied.index;
        known.merge.prepared = Some(Prepared { target, min_index, commit });
        known.region = region;
        self.merging(id, effects, changes)
    }

    /// Only of the prepare that it names: a later one may have been committed by now.
    pub(super) fn decide_rollback(
        &mut self,
        id: RegionId,
        commit: u64,
        effects: &mut Vec<Effect>,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        let known = self.regions.get_mut(&id).expect("its entry is decided");
        if known.merge.prepared.as_ref().is_none_or(|p| p.commit != commit) {
            return Outcome::Refused(Error::Stale);
        }
        known.merge.prepared = None;
        known.region = rollback_region(&known.region);
        self.merging(id, effects, changes)
    }

    /// The version grows, and so no merge that was prepared for the old one can ever be committed.
    pub(super) fn decide_refuse(
        &mut self,
        id: RegionId,
        effects: &mut Vec<Effect>,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        let known = self.regions.get_mut(&id).expect("its entry is decided");
        known.region = rollback_region(&known.region);
        self.merging(id, effects, changes)
    }

    fn merging(
        &self,
        id: RegionId,
        effects: &mut Vec<Effect>,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        let state = self.regions[&id].state();
        let (region, merge) = (state.region.clone(), state.merge.clone());
        effects.push(Effect::Regions(vec![state]));
        changes.push(Change::Merging { region: region.clone(), merge });
        Outcome::Changed(region)
    }

    /// # Errors
    /// `Corrupt` if the source is not here, or not where its prepare has left it: nothing that a
    /// sound store has done can lead there.
    pub(super) fn decide_commit(
        &mut self,
        id: RegionId,
        commit: MergeCommit,
        effects: &mut Vec<Effect>,
        changes: &mut Vec<Change>,
    ) -> Result<Outcome> {
        let target = self.regions[&id].region.clone();
        let MergeCommit { source, commit, entries } = commit;
        let region = match merge_regions(&source, &target) {
            Ok(region) => region,
            Err(why) => return Ok(Outcome::Refused(Error::Invalid(why))),
        };
        let skip = mistaken(Mistake::MergeNotCaughtUp);
        if !skip {
            self.catch_up(source.id, commit, entries)?;
        }
        let from = self.regions.get(&source.id).filter(|k| !k.removed);
        // After the prepare there are only the first entries of new leaders, and refused ones.
        let matches = |p: &Prepared| p.commit == commit && p.target == target;
        let from = from.filter(|known| {
            skip || known.region == source
                && known.applied.index >= commit
                && known.merge.prepared.as_ref().is_some_and(matches)
        });
        let Some(from) = from else {
            let here = self.regions.get(&source.id).map(|k| k.state());
            return Err(Error::corrupt(format!(
                "region {id} takes in {source:?}, prepared by its entry {commit}; here is {here:?}"
            )));
        };
        let (applied, theirs) = (from.applied, from.merge.clone());
        let known = self.regions.get_mut(&id).expect("its entry is decided");
        known.merge.absorb(&source, &theirs, &region);
        known.region = region.clone();
        known.siblings.clear();
        let state = known.state();
        let merge = state.merge.clone();
        let gone = tombstone(source, applied, &theirs, id);
        effects.push(Effect::Regions(vec![state, gone.clone()]));
        self.regions.remove(&gone.region.id);
        self.merged.insert(gone.region.id, Gone { into: id, last: commit });
        let source = Box::new(gone);
        changes.push(Change::Merged { region: region.clone(), merge, source });
        Ok(Outcome::Changed(region))
    }

    /// Applies what the source lacks up to `commit`: below the first of `carried`, its own log has
    /// every entry, committed and durable; the prepare has seen to that.
    fn catch_up(&mut self, id: RegionId, commit: u64, carried: Vec<LogEntry>) -> Result<()> {
        // Who waits for the target's earlier entries waits until those are written.
        let answers = std::mem::take(&mut self.outcomes);
        let first = carried.first().map_or(commit + 1, |entry| entry.index);
        while let Some(known) = self.regions.get(&id).filter(|k| !k.removed) {
            let next = known.applied.index + 1;
            if next >= first.min(commit + 1) {
                break;
            }
            let mut own = Vec::new();
            self.log.entries(id, next, first, CATCH_UP_BYTES, &mut own)?;
            self.entries(id, own, Vec::new())?;
        }
        self.entries(id, carried, Vec::new())?;
        self.outcomes.splice(0..0, answers);
        Ok(())
    }

    /// Nothing of a log that has no region any more is applied: entries behind the one that
    /// prepared a merge never were, and never will be; what others did with the rest is not known.
    pub(super) fn answer_gone(&self, id: RegionId, waiting: impl Iterator<Item = (u64, Waiting)>) {
        for (index, who) in waiting {
            who.fail(match self.merged.get(&id) {
                Some(gone) if index > gone.last => match self.current(gone.into) {
                    current if current.is_empty() => Error::RegionNotFound(id),
                    current => Error::EpochNotMatch { current },
                },
                Some(_) => Error::Undetermined("its region was merged".to_owned()),
                None => Error::Undetermined("this replica was removed".to_owned()),
            });
        }
    }

    /// Regions that a snapshot's region has taken in elsewhere, and that have their keys here.
    pub(super) fn replaced_by(&self, state: &RegionState) -> Result<Vec<RegionState>> {
        let id = state.region.id;
        let overlaps = |r: &Region| r.id != id && r.range.intersect(&state.region.range).is_some();
        let mut replaced = Vec::new();
        for known in self.regions.values().filter(|known| overlaps(&known.region)) {
            let Some(into) = state.merge.taken_by(known.region.id) else {
                return Err(Error::corrupt(format!(
                    "a snapshot of region {id} would replace region {}",
                    known.region.id
                )));
            };
            let region = known.region.clone();
            replaced.push(tombstone(region, known.applied, &known.merge, into));
        }
        replaced.sort_by_key(|gone| gone.region.id);
        Ok(replaced)
    }
}

/// Where the keys of a merged region are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone {
    into: RegionId,
    /// No entry behind it was applied by anybody.
    last: u64,
}

impl Gone {
    /// As a tombstone says it, which does not know the region's last entry.
    pub fn of(state: &RegionState) -> Option<Gone> {
        Some(Gone { into: state.merge.into?, last: u64::MAX })
    }
}

/// A region that has become a part of another one.
fn tombstone(region: Region, applied: Applied, merge: &MergeState, into: RegionId) -> RegionState {
    RegionState { region, applied, tombstone: true, merge: merge.gone_into(into) }
}

#[cfg(test)]
mod tests {
    //! What a target's entry must find in the source, or else stop.

    use super::*;
    use crate::apply::{ApplyReport, ApplyTask, LOG_START};
    use crate::command::{encode_commit, encode_prepare, encode_rollback, encode_write};
    use crate::log_store::MemoryLogStore;
    use crate::machine::StateMachine;
    use crate::merge::Absorbed;
    use crate::row_machine::RowMachine;
    use damask_kv::MemoryEngine;
    use damask_types::{Epoch, KeyRange, Peer, PeerId, PeerRole, StoreId};
    use std::sync::Arc;

    const FIRST: u64 = LOG_START.index + 1;

    fn region(id: u64, range: KeyRange, version: u64, conf_ver: u64) -> Region {
        let (store, role) = (StoreId(1), PeerRole::Voter);
        let peers = vec![Peer { id: PeerId(id * 10), store, role }];
        Region { id: RegionId(id), range, epoch: Epoch { conf_ver, version }, peers }
    }

    fn entry(index: u64, data: Vec<u8>) -> LogEntry {
        LogEntry { index, term: 6, data, ..LogEntry::default() }
    }

    struct Two {
        machine: Arc<RowMachine>,
        applier: Applier,
        source: Region,
        target: Region,
    }

    impl Two {
        fn new() -> Two {
            let machine = Arc::new(RowMachine::new(Arc::new(MemoryEngine::new())));
            let source = region(1, KeyRange::new("", "m"), 1, 1);
            let target = region(2, KeyRange::new("m", ""), 1, 1);
            let state = |region: &Region| {
                let (region, merge) = (region.clone(), MergeState::default());
                RegionState { region, applied: LOG_START, tombstone: false, merge }
            };
            let states = [state(&source), state(&target)];
            let log = Arc::new(MemoryLogStore::new());
            let applier = Applier::new(StoreId(1), machine.clone(), log, &states);
            Two { machine, applier, source, target }
        }

        fn apply(&mut self, region: u64, entries: Vec<LogEntry>) -> Result<Vec<ApplyReport>> {
            let (region, waiting) = (RegionId(region), Vec::new());
            self.applier.run(vec![ApplyTask::Entries { region, entries, waiting }])
        }

        /// The prepare is entry 7, after a write.
        fn source_entries(&self) -> Vec<LogEntry> {
            let epoch = self.source.epoch;
            let prepare = encode_prepare(epoch, &self.target, FIRST);
            vec![entry(FIRST, encode_write(epoch, &[])), entry(FIRST + 1, prepare)]
        }

        fn commit(&mut self, commit: u64, entries: Vec<LogEntry>) -> Result<Vec<ApplyReport>> {
            let mut source = self.source.clone();
            source.epoch = Epoch { conf_ver: 2, version: 2 };
            let merge = MergeCommit { source, commit, entries };
            let data = encode_commit(self.target.epoch, &merge);
            self.apply(2, vec![entry(FIRST, data)])
        }
    }

    #[test]
    fn a_replica_that_lacks_the_last_entries_gets_them_from_the_targets_log() {
        let mut two = Two::new();
        let entries = two.source_entries();
        let reports = two.commit(FIRST + 1, entries).unwrap();
        let merged = reports.iter().any(|r| match r {
            ApplyReport::Applied { changes, .. } => {
                changes.iter().any(|c| matches!(c, Change::Merged { .. }))
            }
            _ => false,
        });
        assert!(merged);
        let states = two.machine.recover().unwrap();
        let [gone, whole] = &states[..] else { panic!("{states:?}") };
        assert!(gone.tombstone && gone.merge.into == Some(RegionId(2)));
        assert_eq!((&whole.region.range, whole.region.epoch.version), (&KeyRange::all(), 3));
        assert!(whole.merge.has_absorbed(RegionId(1)));
        // A late task of the source changes nothing any more.
        let late = entry(FIRST + 2, encode_write(Epoch { conf_ver: 2, version: 2 }, &[]));
        assert!(two.apply(1, vec![late]).unwrap().is_empty());
        let state = RegionState { applied: Applied { index: 90, term: 7 }, ..gone.clone() };
        let import = ApplyTask::Import { state, stream: 1 };
        assert!(two.applier.run(vec![import]).unwrap().is_empty());
        assert_eq!(two.machine.recover().unwrap(), states);
    }

    /// Whoever still asks whether its target can take it in finds the answer in what is left.
    #[test]
    fn a_tombstone_remembers_what_its_region_had_taken_in() {
        let mut two = Two::new();
        let earlier = Absorbed { region: RegionId(9), into: RegionId(1), version: 1 };
        let known = two.applier.regions.get_mut(&RegionId(1)).unwrap();
        known.merge.absorbed.push(earlier);
        let entries = two.source_entries();
        two.commit(FIRST + 1, entries).unwrap();
        let states = two.machine.recover().unwrap();
        let gone = states.iter().find(|s| s.tombstone).unwrap();
        assert_eq!(gone.merge.into, Some(RegionId(2)));
        assert_eq!(gone.merge.absorbed, [earlier]);
        assert!(gone.merge.prepared.is_none());
    }

    /// Entries behind the prepare are never applied: their writers may ask again elsewhere. Those
    /// before it were, and nobody here knows with what outcome.
    #[test]
    fn who_waits_for_an_entry_of_a_merged_region_learns_where_its_keys_are() {
        let mut two = Two::new();
        let entries = two.source_entries();
        two.commit(FIRST + 1, entries).unwrap();
        let answers = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let waiting = |index: u64| {
            let answers = answers.clone();
            let done = move |result: Result<Applied>| answers.lock().push(result.unwrap_err());
            let answer = crate::answer::Answer::new(Box::new(done));
            let mut waiting = Waiting::Writes(vec![answer]);
            waiting.set_proposed();
            (index, waiting)
        };
        let (region, late) = (RegionId(1), |index| entry(index, Vec::new()));
        let entries = vec![late(FIRST), late(FIRST + 2)];
        let waiting = vec![waiting(FIRST), waiting(FIRST + 2)];
        two.applier.run(vec![ApplyTask::Entries { region, entries, waiting }]).unwrap();
        let answers = answers.lock();
        let [Error::Undetermined(why), Error::EpochNotMatch { current }] = &answers[..] else {
            panic!("{answers:?}")
        };
        assert_eq!(why, "its region was merged");
        assert_eq!((current.len(), current[0].id), (1, RegionId(2)));
    }

    /// Without the match, entries of an earlier prepare could be taken for those of a later one.
    #[test]
    fn a_commit_that_names_another_prepare_stops_the_store() {
        let mut two = Two::new();
        let entries = two.source_entries();
        two.apply(1, entries).unwrap();
        let wrong = two.commit(FIRST + 2, vec![entry(FIRST + 2, Vec::new())]);
        assert_eq!(wrong.unwrap_err().kind(), damask_types::ErrorKind::Corrupt);

        let mut two = Two::new();
        let only = two.source_entries().swap_remove(0);
        let unprepared = two.commit(FIRST, vec![only]);
        assert_eq!(unprepared.unwrap_err().kind(), damask_types::ErrorKind::Corrupt);
    }

    #[test]
    fn only_the_prepare_that_it_names_is_taken_back() {
        let mut two = Two::new();
        let entries = two.source_entries();
        two.apply(1, entries).unwrap();
        let epoch = Epoch { conf_ver: 2, version: 2 };
        let state = |two: &Two| two.applier.regions[&RegionId(1)].state();
        two.apply(1, vec![entry(FIRST + 2, encode_rollback(epoch, FIRST))]).unwrap();
        assert!(state(&two).merge.prepared.is_some(), "it names another one");
        two.apply(1, vec![entry(FIRST + 3, encode_write(epoch, &[]))]).unwrap();
        two.apply(1, vec![entry(FIRST + 4, encode_rollback(epoch, FIRST + 1))]).unwrap();
        assert!(state(&two).merge.prepared.is_none());
        assert_eq!(state(&two).region.epoch, Epoch { conf_ver: 2, version: 3 });
    }
}
