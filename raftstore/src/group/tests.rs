//! The guards around raft-rs: messages that no sound peer sends are refused, and change nothing.

use super::*;
use crate::LOG_START;
use crate::file_log::{FileLogConfig, FileLogStore};
use crate::log_store::LogEntry;
use crate::log_store::{LogOp, MemoryLogStore};
use crate::machine::Applied;
use damask_env::{Fault, MemoryDisk};
use std::panic::{AssertUnwindSafe, catch_unwind};

const REGION: RegionId = RegionId(9);
const OWN: u64 = 1;

fn open(log: &Arc<dyn LogStore>) -> Group {
    open_after(log, usize::MAX)
}

/// `quiet` ticks after a leader's word, or after the start of a store that heard of one before.
fn open_after(log: &Arc<dyn LogStore>, quiet: usize) -> Group {
    let conf = eraftpb::ConfState { voters: vec![OWN, 2, 3], ..Default::default() };
    let config = RaftConfig::default();
    let applied = log.group(REGION).unwrap().truncated.index;
    Group::open(&config, log, REGION, PeerId(OWN), conf, applied, quiet).unwrap()
}

/// A new region's log, with entries in these terms.
fn log_of(terms: &[u64], commit: u64) -> Arc<dyn LogStore> {
    let log: Arc<dyn LogStore> = Arc::new(MemoryLogStore::new());
    fill(log.as_ref(), terms, commit);
    log
}

fn fill(log: &dyn LogStore, terms: &[u64], commit: u64) {
    let entry = |(index, term): (u64, &u64)| LogEntry { index, term: *term, ..LogEntry::default() };
    let entries = (LOG_START.index + 1..).zip(terms).map(entry).collect();
    let hard = HardState { term: *terms.last().unwrap_or(&LOG_START.term), vote: 0, commit };
    let ops = [LogOp::Reset(LOG_START), LogOp::Append(entries), LogOp::HardState(hard)];
    log.append(ops.into_iter().map(|op| (REGION, op)).collect()).unwrap();
}

fn message(kind: MessageType, from: u64, term: u64) -> Message {
    let mut m = Message { from, to: OWN, term, ..Message::default() };
    m.set_msg_type(kind);
    m
}

/// Everything that the group asks for is done at once.
fn settle(group: &mut Group, log: &Arc<dyn LogStore>) {
    while group.has_ready() {
        let mut ready = group.ready();
        let number = ready.number();
        let entries: Vec<_> = ready.take_entries().into_iter().map(from_entry).collect();
        if !entries.is_empty() {
            log.append(vec![(REGION, LogOp::Append(entries))]).unwrap();
        }
        group.log_changed();
        group.advance(ready);
        group.persisted(number);
    }
}

/// Elected by the vote of peer 2; its first entry is in its log.
fn leader(log: &Arc<dyn LogStore>) -> Group {
    let mut group = open(log);
    group.campaign();
    settle(&mut group, log);
    for kind in [MessageType::MsgRequestPreVoteResponse, MessageType::MsgRequestVoteResponse] {
        assert!(group.step(message(kind, 2, LOG_START.term + 1)));
        settle(&mut group, log);
    }
    assert!(group.is_leader());
    group
}

#[test]
fn an_acknowledgement_of_entries_that_never_were_is_refused() {
    let log = log_of(&[], LOG_START.index);
    let mut group = leader(&log);
    let (term, last) = (group.term(), group.last_index());
    for peer in [2, 3] {
        let wrong = message(MessageType::MsgAppendResponse, peer, term);
        assert!(!group.step(Message { index: last + 1, ..wrong }));
        assert!(group.follower(PeerId(peer)).unwrap().matched <= last);
    }
    assert!(group.commit() < last);
    let right = message(MessageType::MsgAppendResponse, 2, term);
    assert!(group.step(Message { index: last, ..right }));
    assert_eq!(group.commit(), last, "the leader goes on");
    let (index, _) = group.propose(vec![b"x".to_vec(), b"y".to_vec()]).unwrap();
    assert_eq!((index, group.last_index()), (last + 1, last + 2));
}

#[test]
fn a_leader_that_lacks_committed_entries_is_refused() {
    let entry = |index, term| Entry { index, term, ..Entry::default() };
    // 6@6 7@6 8@7, committed up to 7.
    let log = log_of(&[6, 6, 7], 7);
    let mut group = open(&log);
    let append = |index, log_term, entries: &[Entry]| {
        let m = message(MessageType::MsgAppend, 2, 9);
        Message { index, log_term, commit: 7, entries: entries.to_vec(), ..m }
    };
    let start = LOG_START;
    for wrong in [
        append(start.index, start.term, &[entry(6, 6), entry(7, 8)]),
        append(start.index, start.term, &[entry(6, 8)]),
        append(6, 5, &[entry(7, 6)]),
        append(6, 6, &[entry(7, 6), entry(9, 9)]),
    ] {
        assert!(!group.step(wrong));
        assert_eq!((group.commit(), group.last_index()), (7, 8));
    }
    // What is not committed may be another leader's.
    assert!(group.step(append(6, 6, &[entry(7, 6), entry(8, 9)])));
    assert!(group.step(append(7, 6, &[entry(8, 9)])));
    settle(&mut group, &log);
    assert_eq!(log.term(REGION, 8).unwrap(), Some(9));
    // From a leader of old it is not refused: it has to learn the newer term.
    assert!(group.step(Message { term: 8, ..append(6, 6, &[entry(7, 8)]) }));
}

/// raft-rs says term 0 of what its log lacks: it would take these for what it has.
#[test]
fn an_append_behind_a_position_that_is_nowhere_is_refused() {
    let entry = |index, term| Entry { index, term, ..Entry::default() };
    let log = log_of(&[6, 6], 6);
    let mut group = open(&log);
    let append = |index, log_term, entries: &[Entry]| {
        let m = message(MessageType::MsgAppend, 2, 6);
        Message { index, log_term, commit: u64::MAX, entries: entries.to_vec(), ..m }
    };
    for wrong in [
        append(8, 0, &[]),
        append(9, 0, &[entry(10, 6)]),
        append(u64::MAX, 0, &[]),
        append(u64::MAX - 1, 6, &[entry(u64::MAX, 6), entry(0, 6)]),
        append(u64::MAX, 6, &[entry(0, 6)]),
        append(0, 0, &[entry(1, 6)]),
        append(7, 6, &[entry(8, 0)]),
        append(7, 6, &[entry(8, 6), entry(9, 5)]),
        append(7, 6, &[entry(8, 7)]),
        append(7, 7, &[]),
    ] {
        assert!(!group.step(wrong.clone()), "{wrong:?}");
        settle(&mut group, &log);
        assert_eq!((group.commit(), group.last_index()), (6, 7), "{wrong:?}");
    }
    let far = message(MessageType::MsgHeartbeat, 2, u64::MAX);
    assert!(!group.step(far), "its term could grow no more");
    assert!(group.step(append(7, 6, &[entry(8, 6)])));
    assert_eq!((group.commit(), group.last_index()), (8, 8));
}

#[test]
fn a_rejection_of_what_was_never_sent_is_refused() {
    let log = log_of(&[], LOG_START.index);
    let mut group = leader(&log);
    let (term, last) = (group.term(), group.last_index());
    let m = message(MessageType::MsgAppendResponse, 2, term);
    for (index, reject_hint) in [(last - 1, u64::MAX), (last, last + 1), (u64::MAX, last)] {
        assert!(!group.step(Message { reject: true, index, reject_hint, ..m.clone() }));
    }
    assert!(group.step(Message { reject: true, index: last, reject_hint: last - 1, ..m }));
}

/// Its acknowledgements were lost, and its log is compacted above what the leader knows of.
/// The leader must be answered, or it asks for ever.
#[test]
fn a_leader_that_is_behind_a_compacted_log_is_answered() {
    let log = log_of(&[6, 6, 6, 6], 9);
    log.append(vec![(REGION, LogOp::CompactTo(Applied { index: 8, term: 6 }))]).unwrap();
    let mut group = open(&log);
    let entry = |index| Entry { index, term: 6, ..Entry::default() };
    let m = message(MessageType::MsgAppend, 2, 6);
    let m = Message { index: 6, log_term: 6, commit: 9, entries: vec![entry(7), entry(8)], ..m };
    assert!(group.step(m));
    let answers = group.ready().take_persisted_messages();
    assert_eq!((answers.len(), answers[0].index, answers[0].reject), (1, 9, false));
}

#[test]
fn a_commit_index_beyond_the_log_is_refused() {
    let log = log_of(&[6], 6);
    let mut group = open(&log);
    let beat = message(MessageType::MsgHeartbeat, 2, 6);
    assert!(!group.step(Message { commit: 7, ..beat.clone() }));
    assert!(group.step(Message { commit: 6, ..beat }));
}

#[test]
fn a_snapshot_for_impossible_replicas_is_refused() {
    let log = log_of(&[6], 6);
    let mut group = open(&log);
    let snapshot = |voters: &[u64], learners: &[u64]| {
        let conf_state = eraftpb::ConfState {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            ..eraftpb::ConfState::default()
        };
        let metadata =
            eraftpb::SnapshotMetadata { conf_state: Some(conf_state), index: 20, term: 6 };
        let mut m = message(MessageType::MsgSnapshot, 2, 6);
        m.snapshot = Some(Snapshot { data: Vec::new(), metadata: Some(metadata) });
        m
    };
    for (voters, learners) in
        [(&[][..], &[OWN][..]), (&[OWN, 2, 2], &[]), (&[OWN, 2], &[2]), (&[0, OWN], &[])]
    {
        assert!(!group.step(snapshot(voters, learners)), "{voters:?} {learners:?}");
        assert_eq!(group.last_index(), 6);
    }
    assert!(group.step(snapshot(&[2], &[OWN])));
    assert_eq!(group.last_index(), 20);
}

/// A lease of the leader before the restart may still last.
#[test]
fn no_vote_is_given_for_an_elections_time_after_a_start_or_a_leaders_word() {
    let log = log_of(&[6], 6);
    let mut group = open_after(&log, 0);
    let ask = |kind, term| {
        let m = message(kind, 3, term);
        Message { index: 6, log_term: 6, ..m }
    };
    let ticks = RaftConfig::default().election_ticks;
    for _ in 0..ticks {
        assert!(!group.step(ask(MessageType::MsgRequestPreVote, 7)));
        assert!(!group.step(ask(MessageType::MsgRequestVote, 7)));
        assert_eq!((group.term(), group.may_vote()), (6, false));
        group.tick();
    }
    // Its own election may have begun: a vote is all the same.
    assert!(group.may_vote());
    assert!(group.step(ask(MessageType::MsgRequestVote, 8)));
    assert_eq!((group.term(), group.hard_state().vote), (8, 3));
    // A leader's word begins it again, and a newer term does not end it.
    assert!(group.step(message(MessageType::MsgHeartbeat, 3, 8)));
    assert!(group.step(message(MessageType::MsgHeartbeatResponse, 2, 9)));
    assert_eq!((group.term(), group.may_vote()), (9, false));
    assert!(!group.step(ask(MessageType::MsgRequestVote, 9)));
    // But for the one whom the leader itself has told to take over.
    let m = Message {
        context: raft::CAMPAIGN_TRANSFER.to_vec(),
        ..message(MessageType::MsgRequestVote, 2, 10)
    };
    assert!(group.step(Message { index: 6, log_term: 6, ..m }));
    assert_eq!(group.hard_state().vote, 2);
}

/// raft-rs aborts then: whoever catches that tells the disk's reason, not that a thread panicked.
#[test]
fn a_log_that_cannot_be_read_leaves_its_reason() {
    let disk = MemoryDisk::new();
    let open_log = || -> Arc<dyn LogStore> {
        let config = FileLogConfig::default();
        Arc::new(FileLogStore::open(Arc::new(disk.clone()), "raft", config).unwrap())
    };
    let before = open_log();
    fill(before.as_ref(), &[6, 6], 7);
    before.sync().unwrap();
    // Its entries are in no memory.
    let mut group = open(&open_log());
    assert!(group.has_ready() && group.take_failure().is_none());
    disk.set_fault(Fault { fail_at: Some(0), capacity: None });
    assert!(catch_unwind(AssertUnwindSafe(|| group.ready())).is_err());
    let reason = group.take_failure().expect("kept").to_string();
    assert!(reason.contains("injected fault"), "{reason}");
}

/// As whoever led a region does in what a split makes of it.
#[test]
fn the_first_term_is_led_without_a_vote_and_reads_wait_for_its_first_entry() {
    let log = log_of(&[], LOG_START.index);
    let mut group = open_after(&log, 0);
    assert!(group.lead_first_term(), "nobody is asked, so no promise stands in the way");
    let first = LOG_START.index + 1;
    assert!(group.is_leader());
    assert_eq!((group.term(), group.last_index()), (LOG_START.term, first));
    let ready = group.ready();
    assert!(ready.hs().is_none(), "its term is durable already");
    let appends = |m: &&Message| m.get_msg_type() == MessageType::MsgAppend && m.entries.len() == 1;
    assert_eq!(ready.messages().iter().filter(appends).count(), 2);
    let (number, mut ready) = (ready.number(), ready);
    let entries = ready.take_entries().into_iter().map(from_entry).collect();
    log.append(vec![(REGION, LogOp::Append(entries))]).unwrap();
    group.log_changed();
    group.advance(ready);
    group.persisted(number);
    assert!(!group.knows_commit(), "what is committed is the split's, and no entry");
    let m = message(MessageType::MsgAppendResponse, 2, LOG_START.term);
    assert!(group.step(Message { index: first, ..m }));
    assert!(group.knows_commit());
    assert!(!group.lead_first_term(), "once");
}

#[test]
fn a_log_or_a_term_that_went_on_is_not_led_without_a_vote() {
    let newer = log_of(&[], LOG_START.index);
    let hard = HardState { term: LOG_START.term + 1, vote: 2, commit: LOG_START.index };
    newer.append(vec![(REGION, LogOp::HardState(hard))]).unwrap();
    for log in [newer, log_of(&[LOG_START.term], LOG_START.index), log_of(&[6], 6)] {
        let mut group = open(&log);
        let before = (group.term(), group.last_index());
        assert!(!group.lead_first_term());
        assert!(!group.is_leader());
        assert_eq!((group.term(), group.last_index()), before);
    }
}
