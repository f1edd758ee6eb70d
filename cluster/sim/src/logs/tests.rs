//! Each rule meets a history that breaks it, beside the same one unbroken.

use super::*;
use damask_raftstore::{Applied, MergeState};
use damask_types::{Epoch, KeyRange, PeerId, Region};

const REGION: RegionId = RegionId(1);

fn store(n: u64) -> StoreId {
    StoreId(n)
}

fn entry(index: u64, term: u64, says: &str) -> LogEntry {
    let (data, kind) = (says.as_bytes().to_vec(), Default::default());
    LogEntry { index, term, kind, data, context: Vec::new() }
}

fn append(entries: &[(u64, u64, &str)]) -> (RegionId, LogOp) {
    let entries = entries.iter().map(|(index, term, says)| entry(*index, *term, says));
    (REGION, LogOp::Append(entries.collect()))
}

fn commit(term: u64, commit: u64) -> (RegionId, LogOp) {
    (REGION, LogOp::HardState(HardState { term, vote: 0, commit }))
}

fn region(conf_ver: u64, roles: &[(u64, PeerRole)]) -> RegionState {
    let peer = |(n, role): &(u64, PeerRole)| Peer { id: PeerId(*n), store: store(*n), role: *role };
    let region = Region {
        id: REGION,
        range: KeyRange::all(),
        epoch: Epoch { conf_ver, version: 1 },
        peers: roles.iter().map(peer).collect(),
    };
    let (applied, merge) = (LOG_START, MergeState::default());
    RegionState { region, applied, tombstone: false, merge }
}

/// Logs of three stores, as the product keeps them, and what is said of them.
#[derive(Default)]
struct Stores {
    real: BTreeMap<u64, MemoryLogStore>,
    logs: Logs,
}

impl Stores {
    fn new(roles: &[(u64, PeerRole)]) -> Stores {
        let mut stores = Stores::default();
        for (n, _) in roles {
            stores.logs.recovered(store(*n), &[region(1, roles)], true);
            let start = (REGION, LogOp::Reset(LOG_START));
            assert_eq!(stores.append(*n, vec![start]), None);
        }
        stores
    }

    fn voters() -> Stores {
        Stores::new(&[1, 2, 3].map(|n| (n, PeerRole::Voter)))
    }

    fn append(&mut self, n: u64, batch: LogBatch) -> Option<String> {
        let real = self.real.entry(n).or_default();
        real.append(batch.clone()).expect("memory");
        let term = |id, index| real.term(id, index).expect("memory");
        let by = Appending { store: store(n), term: &term, conf_ver: &|_| 0 };
        self.logs.appended(&by, digested(&batch))
    }

    fn sync(&mut self, n: u64) -> Option<String> {
        self.logs.synced(store(n))
    }

    fn write(&mut self, n: u64, batch: LogBatch) -> Option<String> {
        self.append(n, batch).or_else(|| self.sync(n))
    }
}

#[test]
fn an_entry_has_one_content_after_one_term() {
    let mut stores = Stores::voters();
    assert_eq!(stores.write(1, vec![append(&[(6, 6, "a"), (7, 7, "b")])]), None);
    assert_eq!(stores.write(2, vec![append(&[(6, 6, "a"), (7, 7, "b")])]), None);
    assert_eq!(stores.append(3, vec![append(&[(6, 6, "c")])]), None, "it may still be lost");
    assert!(stores.sync(3).expect("another content").contains("entry 6 of term 6"));
    let mut stores = Stores::voters();
    assert_eq!(stores.write(1, vec![append(&[(6, 6, "a"), (7, 7, "b")])]), None);
    let after_another = vec![append(&[(6, 5, "z"), (7, 7, "b")])];
    assert!(stores.write(2, after_another).expect("another term before").contains("entry 7"));
}

#[test]
fn a_commit_is_what_a_majority_has_durably() {
    let mut stores = Stores::voters();
    assert_eq!(stores.write(1, vec![append(&[(6, 6, "a")])]), None);
    assert_eq!(stores.append(2, vec![append(&[(6, 6, "a")])]), None);
    let early = stores.append(1, vec![commit(6, 6)]).expect("store 2 has not synced");
    assert!(early.contains("calls 6@6 committed") && early.contains("only stores [1]"), "{early}");

    let mut stores = Stores::voters();
    assert_eq!(stores.append(1, vec![append(&[(6, 6, "a")])]), None);
    assert_eq!(stores.write(2, vec![append(&[(6, 6, "a")])]), None);
    assert_eq!(stores.write(3, vec![append(&[(6, 6, "a")])]), None);
    assert_eq!(stores.append(1, vec![commit(6, 6)]), None, "without its own");
    // An entry of another term in that place is another entry.
    assert_eq!(stores.write(1, vec![append(&[(7, 6, "b")])]), None);
    assert_eq!(stores.write(2, vec![append(&[(7, 7, "c")])]), None);
    assert!(stores.append(1, vec![commit(6, 7)]).expect("only one").contains("only stores [1]"));
    assert!(stores.append(1, vec![commit(6, 9)]).expect("nobody has it").contains("lacks it"));
}

#[test]
fn between_two_sets_a_majority_of_both_is_asked() {
    use PeerRole::{Demoting, Incoming, Learner, Voter};
    let roles = [(1, Voter), (2, Voter), (3, Demoting), (4, Incoming), (5, Learner)];
    let on = |with: &[u64]| {
        let mut stores = Stores::new(&roles);
        for n in with {
            assert_eq!(stores.write(*n, vec![append(&[(6, 6, "a")])]), None);
        }
        stores.append(with[0], vec![commit(6, 6)])
    };
    assert_eq!(on(&[1, 2]), None);
    assert!(on(&[1, 3]).expect("one of the new three").contains("no majority's"));
    assert!(on(&[1, 4]).expect("one of the old three").contains("no majority's"));
    assert!(on(&[1, 5]).expect("a learner").contains("no majority's"));
    assert_eq!(on(&[1, 3, 4]), None);
}

#[test]
fn a_log_that_is_given_up_after_a_merge_counts_as_it_was() {
    let mut stores = Stores::voters();
    assert_eq!(stores.write(1, vec![append(&[(6, 6, "a"), (7, 6, "b")])]), None);
    assert_eq!(stores.write(2, vec![append(&[(6, 6, "a")])]), None);
    assert_eq!(stores.write(2, vec![(REGION, LogOp::Destroy)]), None);
    let applied = Applied { index: 6, term: 6 };
    let state = RegionState { tombstone: true, ..region(1, &[]) };
    let effects = vec![Effect::Regions(vec![state])];
    stores.logs.applies(store(2), &[ApplyBatch { region: RegionId(2), applied, effects }]);
    assert_eq!(stores.append(1, vec![commit(6, 6)]), None, "acknowledged before");
    let never = stores.append(1, vec![commit(6, 7)]).expect("nobody else ever had it");
    assert!(never.contains("only stores [1]"), "{never}");
}

#[test]
fn what_was_committed_stays() {
    let mut stores = Stores::voters();
    for n in [1, 2] {
        assert_eq!(stores.write(n, vec![append(&[(6, 6, "a"), (7, 6, "b")])]), None);
    }
    assert_eq!(stores.write(1, vec![commit(6, 7)]), None);
    assert_eq!(stores.write(3, vec![append(&[(6, 6, "a"), (7, 8, "c")])]), None);
    assert!(stores.append(3, vec![commit(8, 7)]).expect("two").contains("7@6 was committed"));
    let to = Applied { index: 7, term: 9 };
    let snapshot = vec![(REGION, LogOp::Reset(to)), commit(9, 7)];
    assert!(stores.append(3, snapshot).expect("two").contains("7@6 was committed"));
}

#[test]
fn an_entry_stays_in_the_log_until_what_it_did_is_durable() {
    let mut stores = Stores::voters();
    let cut = |index| vec![(REGION, LogOp::CompactTo(Applied { index, term: 6 }))];
    assert_eq!(stores.write(1, vec![append(&[(6, 6, "a"), (7, 6, "b")])]), None);
    stores.logs.applied(store(1), [(REGION, 6)]);
    stores.logs.flushed(store(1));
    stores.logs.applied(store(1), [(REGION, 7)]);
    assert_eq!(stores.append(1, cut(6)), None);
    let early = stores.append(1, cut(7)).expect("applied, and not durable");
    assert!(early.contains("forgets entries up to 7, and its engine holds only 6"), "{early}");
    stores.logs.flushed(store(1));
    assert_eq!(stores.append(1, cut(7)), None);
}

#[test]
fn a_store_that_comes_back_has_what_its_log_has_and_a_rotten_one_is_not_asked() {
    let mut stores = Stores::voters();
    assert_eq!(stores.write(1, vec![append(&[(6, 6, "a")])]), None);
    assert_eq!(stores.append(2, vec![append(&[(6, 6, "a")])]), None);
    // The power cut has kept what was not synced.
    let found = stores.logs.opened(store(2), &stores.real[&2]);
    assert_eq!(found, None);
    assert_eq!(stores.append(1, vec![commit(6, 6)]), None);
    // It has kept something that nobody can have written.
    let other = MemoryLogStore::new();
    let batch = vec![(REGION, LogOp::Reset(LOG_START)), append(&[(6, 6, "x")])];
    other.append(batch).expect("memory");
    assert!(stores.logs.opened(store(3), &other).expect("differs").contains("entry 6"));
    stores.logs.rotten = Some(store(3));
    assert_eq!(stores.logs.opened(store(3), &other), None);
}

/// Its replicas may be newer than those of who hears of it.
#[test]
fn what_a_rotten_leader_commits_is_not_asked_of_who_hears_of_it() {
    let mut stores = Stores::voters();
    assert_eq!(stores.append(2, vec![append(&[(6, 6, "a")])]), None);
    stores.logs.rotten = Some(store(3));
    assert_eq!(stores.append(3, vec![append(&[(6, 6, "a")]), commit(6, 6)]), None);
    assert_eq!(stores.append(2, vec![commit(6, 6)]), None);
    assert_eq!(stores.append(2, vec![append(&[(7, 6, "b")])]), None);
    let own = stores.append(2, vec![commit(6, 7)]).expect("nobody else has said so");
    assert!(own.contains("no majority's"), "{own}");
}
