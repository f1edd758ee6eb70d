//! Optimistic two-phase commit with lock resolution: two
//! transactions write the same two keys; messages arrive late or twice, clients crash anywhere,
//! and anybody may resolve a lock. Implementation: `txn::percolator`, `txn::resolve`.

use crate::explore::Model;

const KEYS: usize = 2;
const TXNS: usize = 2;
const PRIMARY: usize = 0;

/// Mutations that must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// As specified.
    None,
    /// A resolver removes the primary's lock and leaves no rollback record: a late prewrite and
    /// commit then succeed (mutation 12 of the design's list).
    ForgetRollback,
    /// Prewrite does not look for commits after its start (mutation 15).
    NoConflictCheck,
    /// Commit does not look for its lock.
    CommitWithoutLock,
    /// Secondaries are committed before the primary.
    SecondaryFirst,
}

/// A decided transaction on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Record {
    Commit { txn: usize, start: u8, commit: u8 },
    Rollback { txn: usize },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Key {
    lock: Option<usize>,
    records: Vec<Record>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Txn {
    start: Option<u8>,
    prewritten: [bool; KEYS],
    /// A prewrite was refused: the client gives up.
    refused: bool,
    commit: Option<u8>,
}

/// Two keys, two transactions, one clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    clock: u8,
    keys: [Key; KEYS],
    txns: [Txn; TXNS],
}

/// A step: `(transaction, key)`.
#[derive(Clone, Debug)]
pub enum Action {
    /// Takes a start timestamp.
    Start(usize),
    /// A prewrite arrives, perhaps late, perhaps again.
    Prewrite(usize, usize),
    /// All prewrites were answered: takes a commit timestamp.
    Decide(usize),
    /// A commit arrives, perhaps late, perhaps again.
    Commit(usize, usize),
    /// Somebody finds this transaction's lock on this key expired, asks the primary, and acts.
    Resolve(usize, usize),
}

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Percolator {
    /// The mutation.
    pub bug: Bug,
}

impl Key {
    fn outcome(&self, txn: usize) -> Option<Record> {
        self.records.iter().copied().find(|record| match record {
            Record::Commit { txn: t, .. } | Record::Rollback { txn: t } => *t == txn,
        })
    }

    fn put(&mut self, record: Record) {
        if !self.records.contains(&record) {
            self.records.push(record);
        }
    }
}

impl Percolator {
    fn prewrite(&self, state: &mut State, txn: usize, key: usize) {
        let start = state.txns[txn].start.expect("prewrite follows start");
        let k = &mut state.keys[key];
        let conflict = k.records.iter().any(|record| match record {
            Record::Commit { txn: t, commit, .. } => {
                *t != txn && *commit > start && self.bug != Bug::NoConflictCheck
            }
            Record::Rollback { txn: t } => *t == txn,
        });
        // A transaction's own commit: the prewrite is a late copy, and is answered as done.
        let done = matches!(k.outcome(txn), Some(Record::Commit { .. }));
        match k.lock {
            Some(holder) if holder != txn => state.txns[txn].refused = true,
            _ if done => {}
            _ if conflict => state.txns[txn].refused = true,
            _ => {
                k.lock = Some(txn);
                state.txns[txn].prewritten[key] = true;
            }
        }
    }

    fn commit(&self, state: &mut State, txn: usize, key: usize) {
        let start = state.txns[txn].start.expect("commit follows start");
        let commit = state.txns[txn].commit.expect("commit follows the decision");
        let k = &mut state.keys[key];
        if k.lock == Some(txn) || self.bug == Bug::CommitWithoutLock {
            if k.lock == Some(txn) {
                k.lock = None;
            }
            k.put(Record::Commit { txn, start, commit });
        }
    }

    fn resolve(&self, state: &mut State, txn: usize, key: usize) {
        let primary = &mut state.keys[PRIMARY];
        let outcome = match primary.outcome(txn) {
            Some(outcome) => outcome,
            None => {
                if primary.lock == Some(txn) {
                    primary.lock = None;
                }
                let rollback = Record::Rollback { txn };
                if self.bug != Bug::ForgetRollback {
                    primary.put(rollback);
                }
                rollback
            }
        };
        let k = &mut state.keys[key];
        if k.lock == Some(txn) {
            k.lock = None;
            k.put(outcome);
        }
    }
}

impl Model for Percolator {
    type State = State;
    type Action = Action;

    fn init(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State) -> Vec<Action> {
        let mut actions = Vec::new();
        for (t, txn) in state.txns.iter().enumerate() {
            if txn.start.is_none() {
                actions.push(Action::Start(t));
                continue;
            }
            actions.extend((0..KEYS).map(|key| Action::Prewrite(t, key)));
            if txn.commit.is_none() && !txn.refused && txn.prewritten == [true; KEYS] {
                actions.push(Action::Decide(t));
            }
            if txn.commit.is_some() {
                actions.push(Action::Commit(t, PRIMARY));
                let primary = matches!(state.keys[PRIMARY].outcome(t), Some(Record::Commit { .. }));
                if primary || self.bug == Bug::SecondaryFirst {
                    actions.extend((1..KEYS).map(|key| Action::Commit(t, key)));
                }
            }
            let locked = (0..KEYS).filter(|key| state.keys[*key].lock == Some(t));
            actions.extend(locked.map(|key| Action::Resolve(t, key)));
        }
        actions
    }

    fn next(&self, state: &State, action: &Action) -> State {
        let mut next = state.clone();
        match *action {
            Action::Start(t) => {
                next.clock += 1;
                next.txns[t].start = Some(next.clock);
            }
            Action::Prewrite(t, key) => self.prewrite(&mut next, t, key),
            Action::Decide(t) => {
                next.clock += 1;
                next.txns[t].commit = Some(next.clock);
            }
            Action::Commit(t, key) => self.commit(&mut next, t, key),
            Action::Resolve(t, key) => self.resolve(&mut next, t, key),
        }
        next
    }

    fn invariants(&self) -> Vec<(&'static str, fn(&State) -> bool)> {
        vec![
            ("unique_outcome", unique_outcome),
            ("commit_implies_primary", commit_implies_primary),
            ("no_write_overlap", no_write_overlap),
        ]
    }
}

/// No transaction is committed somewhere and rolled back somewhere (TLA+: UniqueCommitOrAbort).
fn unique_outcome(state: &State) -> bool {
    (0..TXNS).all(|t| {
        let records = || state.keys.iter().flat_map(|k| &k.records);
        let committed = records().any(|r| matches!(r, Record::Commit { txn, .. } if *txn == t));
        let aborted = records().any(|r| matches!(r, Record::Rollback { txn } if *txn == t));
        !(committed && aborted)
    })
}

/// A secondary is committed only after the primary (TLA+: CommitConsistency).
fn commit_implies_primary(state: &State) -> bool {
    let committed = |key: &Key, t| matches!(key.outcome(t), Some(Record::Commit { .. }));
    (0..TXNS).all(|t| {
        !state.keys.iter().any(|key| committed(key, t)) || committed(&state.keys[PRIMARY], t)
    })
}

/// Two committed writers of a key do not overlap: no lost update (TLA+: WriteConsistency).
fn no_write_overlap(state: &State) -> bool {
    state.keys.iter().all(|key| {
        let spans: Vec<(u8, u8)> = key
            .records
            .iter()
            .filter_map(|record| match record {
                Record::Commit { start, commit, .. } => Some((*start, *commit)),
                Record::Rollback { .. } => None,
            })
            .collect();
        spans
            .iter()
            .enumerate()
            .all(|(i, a)| spans[i + 1..].iter().all(|b| a.1 <= b.0 || b.1 <= a.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Violation, explore};

    fn run(bug: Bug) -> Result<usize, Violation> {
        explore(&Percolator { bug }, 5_000_000)
    }

    #[test]
    fn two_phase_commit_holds_in_every_state() {
        let states = run(Bug::None).unwrap_or_else(|violation| panic!("{violation}"));
        assert!(states > 1000, "only {states} states: the model does not move");
    }

    #[test]
    fn each_bug_is_found() {
        for (bug, invariant) in [
            (Bug::ForgetRollback, "unique_outcome"),
            (Bug::NoConflictCheck, "no_write_overlap"),
            (Bug::CommitWithoutLock, "unique_outcome"),
            (Bug::SecondaryFirst, "commit_implies_primary"),
        ] {
            let violation = run(bug).expect_err("the bug is found");
            assert_eq!(violation.invariant, invariant, "{bug:?}: {violation}");
        }
    }
}
