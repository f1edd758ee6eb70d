//! What must hold after every step of every replica, beyond what clients can see: checked as
//! entries are applied and leaders show themselves. It must never depend on the order in which
//! replicas do the same.
//!
//! ```text
//!   (region, term)     one replica leads
//!   (region, index)    one term, on every replica
//!   a record's key     inside of its region, as that is applied there
//!   (store, key)       in one region at most
//!   (key, start_ts)    committed or rolled back, never both
//!   a rollback that is protected is not taken away by another one
//! ```

use damask_raftstore::{ApplyBatch, Effect, RegionState, ReplicaStatus};
use damask_types::key::Hex;
use damask_types::{KeyRange, PeerId, Record, RegionId, Timestamp, WriteKind};
use std::collections::{BTreeMap, BTreeSet};

/// A transaction's part on one key.
type Part = (Vec<u8>, Timestamp);

/// What was seen of the whole cluster so far.
#[derive(Default)]
pub struct Rules {
    leaders: BTreeMap<(RegionId, u64), PeerId>,
    terms: BTreeMap<(RegionId, u64), u64>,
    /// True: committed.
    outcomes: BTreeMap<Part, bool>,
    protected: BTreeSet<Part>,
    /// Taken away while they were not protected: a replica that is behind does that once more.
    dropped: BTreeSet<Part>,
    /// A transaction that began below may be rolled back late where its record was collected.
    safe_point: Timestamp,
}

impl Rules {
    /// A replica's word about itself; what contradicts an earlier one.
    pub fn leads(&mut self, status: &ReplicaStatus) -> Option<String> {
        let peer = status.leader.filter(|_| status.is_leader)?.id;
        let (region, term) = (status.region.id, status.term);
        let first = *self.leaders.entry((region, term)).or_insert(peer);
        let two = || format!("region {region} has two leaders in term {term}: {first} and {peer}");
        (first != peer).then(two)
    }

    /// Versions below it may be collected from now on.
    pub fn collect_below(&mut self, safe_point: Timestamp) {
        self.safe_point = safe_point;
    }

    /// Entries that a replica of rows applies; what contradicts.
    pub fn note(&mut self, batches: &[ApplyBatch]) -> Option<String> {
        let mut broken = None;
        for ApplyBatch { region, applied, effects } in batches {
            let term = *self.terms.entry((*region, applied.index)).or_insert(applied.term);
            if term != applied.term {
                let (index, other) = (applied.index, applied.term);
                let why =
                    format!("entry {index} of region {region} is of terms {term} and {other}");
                broken.get_or_insert(why);
            }
            for effect in effects {
                if let Effect::Write(records) = effect {
                    let found = records.iter().find_map(|record| self.record(record));
                    broken = broken.or(found);
                }
            }
        }
        broken
    }

    fn record(&mut self, record: &Record) -> Option<String> {
        match record {
            Record::Write { key, commit_ts, write } => {
                let committed = write.kind != WriteKind::Rollback;
                if write.is_protected() {
                    self.protected.insert((key.clone(), *commit_ts));
                }
                let part = (key.clone(), write.start_ts);
                let first = *self.outcomes.entry(part).or_insert(committed);
                let both = || {
                    let (key, start_ts) = (Hex(key), write.start_ts);
                    format!("transaction {start_ts} is committed and rolled back at key {key}")
                };
                // Of a key that it deleted nothing may be left by which a late request could tell.
                let is_late = first && write.start_ts <= self.safe_point;
                (first != committed && !is_late).then(both)
            }
            Record::DropWrite { key, commit_ts } => {
                let part = (key.clone(), *commit_ts);
                // Below the safe point one that was collected may come again, not protected.
                let gone = *commit_ts > self.safe_point
                    && self.protected.contains(&part)
                    && !self.dropped.contains(&part);
                if !gone {
                    self.dropped.insert(part);
                }
                let key = Hex(key);
                gone.then(|| format!("the protected rollback of {commit_ts} at key {key} is gone"))
            }
            _ => None,
        }
    }
}

/// The ranges of one store's regions, as applied there.
#[derive(Default)]
pub struct Ranges(BTreeMap<RegionId, KeyRange>);

impl Ranges {
    /// Regions are now like this; two that share keys.
    pub fn know(&mut self, states: &[RegionState]) -> Option<String> {
        for state in states {
            match state.tombstone {
                true => drop(self.0.remove(&state.region.id)),
                false => drop(self.0.insert(state.region.id, state.region.range.clone())),
            }
        }
        let mut there = states.iter().filter(|state| !state.tombstone).map(|state| &state.region);
        there.find_map(|region| {
            let shares = |(id, range): &(&RegionId, &KeyRange)| {
                **id != region.id && range.intersect(&region.range).is_some()
            };
            let (other, theirs) = self.0.iter().find(shares)?;
            let (id, own) = (region.id, &region.range);
            Some(format!("one store has regions {id}, {own:?}, and {other}, {theirs:?}"))
        })
    }

    /// Entries that the store applies; a record outside of its region, regions that share keys.
    pub fn note(&mut self, batches: &[ApplyBatch]) -> Option<String> {
        let mut broken = None;
        for ApplyBatch { region, applied, effects } in batches {
            for effect in effects {
                let found = match effect {
                    Effect::Regions(states) => self.know(states),
                    Effect::Write(records) => {
                        let Some(range) = self.0.get(region) else { continue };
                        let found = records.iter().find(|record| !range.contains(record.key()));
                        let told = |record: &Record| {
                            let (key, index) = (Hex(record.key()), applied.index);
                            format!("region {region}, {range:?}, applies key {key} at {index}")
                        };
                        found.map(told)
                    }
                };
                broken = broken.or(found);
            }
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use damask_raftstore::{Applied, MergeState};
    use damask_types::{Epoch, Region, Write};

    const REGION: RegionId = RegionId(1);

    fn batch(index: u64, term: u64, effects: Vec<Effect>) -> Vec<ApplyBatch> {
        vec![ApplyBatch { region: REGION, applied: Applied { index, term }, effects }]
    }

    fn write(key: &str, commit: u64, write: Write) -> Effect {
        let (key, commit_ts) = (key.as_bytes().to_vec(), Timestamp(commit));
        Effect::Write(vec![Record::Write { key, commit_ts, write }])
    }

    #[test]
    fn an_index_has_one_term_and_a_transaction_one_outcome() {
        let mut rules = Rules::default();
        let start = Timestamp(5);
        let put = || Write::new(WriteKind::Put, start, None);
        assert_eq!(rules.note(&batch(7, 6, vec![write("k", 9, put())])), None);
        assert_eq!(rules.note(&batch(7, 6, vec![write("k", 9, put())])), None, "another replica");
        let rolled_back = || vec![write("k", 5, Write::rollback(start, false))];
        let found = rules.note(&batch(8, 6, rolled_back())).expect("both");
        assert!(found.contains("committed and rolled back"), "{found}");
        rules.collect_below(start);
        assert_eq!(rules.note(&batch(8, 6, rolled_back())), None, "its record may be gone");
        assert!(rules.note(&batch(7, 8, vec![])).expect("two terms").contains("of terms 6 and 8"));
    }

    #[test]
    fn a_protected_rollback_stays() {
        let mut rules = Rules::default();
        let rollback = |ts, protected| write("k", ts, Write::rollback(Timestamp(ts), protected));
        let both = vec![rollback(5, false), rollback(6, true)];
        assert_eq!(rules.note(&batch(7, 6, both)), None);
        let (key, commit_ts) = (b"k".to_vec(), Timestamp(5));
        let dropped = Effect::Write(vec![Record::DropWrite { key: key.clone(), commit_ts }]);
        assert_eq!(rules.note(&batch(8, 6, vec![dropped])), None);
        let six = Record::DropWrite { key: key.clone(), commit_ts: Timestamp(6) };
        let found = rules.note(&batch(9, 6, vec![Effect::Write(vec![six])]));
        assert!(found.expect("protected").contains("is gone"));
        // It comes again, protected; a replica that is behind takes the first one away after that.
        let again = vec![rollback(5, true)];
        assert_eq!(rules.note(&batch(10, 6, again)), None);
        let dropped = Effect::Write(vec![Record::DropWrite { key, commit_ts }]);
        assert_eq!(rules.note(&batch(8, 6, vec![dropped])), None);
    }

    fn state(id: RegionId, start: &str, end: &str) -> RegionState {
        RegionState {
            region: Region {
                id,
                range: KeyRange::new(start, end),
                epoch: Epoch { conf_ver: 1, version: 1 },
                peers: Vec::new(),
            },
            applied: Applied { index: 6, term: 6 },
            tombstone: false,
            merge: MergeState::default(),
        }
    }

    #[test]
    fn regions_of_one_store_share_no_key() {
        let mut ranges = Ranges::default();
        let (left, right) = (state(REGION, "a", "m"), state(RegionId(2), "m", "z"));
        assert_eq!(ranges.know(&[left.clone(), right.clone()]), None);
        let gone = RegionState { tombstone: true, ..right };
        assert_eq!(ranges.know(&[gone, state(REGION, "a", "z")]), None, "a merge");
        let both = Effect::Regions(vec![state(RegionId(3), "y", "zz")]);
        let found = ranges.note(&batch(7, 6, vec![both])).expect("they share y");
        assert!(found.contains("one store has regions 3"), "{found}");
    }

    #[test]
    fn a_record_outside_of_its_region_is_found() {
        let state = |end: &str| state(REGION, "a", end);
        let mut ranges = Ranges::default();
        assert_eq!(ranges.know(&[state("z")]), None);
        let put = || write("k", 9, Write::new(WriteKind::Put, Timestamp(5), None));
        assert_eq!(ranges.note(&batch(7, 6, vec![put()])), None);
        // What comes before a split is still inside, what comes after it is not.
        let split = || Effect::Regions(vec![state("c")]);
        assert_eq!(ranges.note(&batch(8, 6, vec![put(), split()])), None);
        assert!(ranges.note(&batch(9, 6, vec![put()])).expect("outside").contains("applies key"));
    }
}
