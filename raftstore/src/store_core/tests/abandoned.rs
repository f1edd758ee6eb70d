//! Reads that nobody can answer any more, and messages that no sound peer sends. A store may give
//! such a read up, never answer it; and what such a message says, it must not repeat.

use super::*;
use crate::handle::ReadPermit;
use raft::eraftpb::{Entry, Message};
use std::sync::mpsc::{Receiver, channel};

const FIRST: RegionId = RegionId(1);

/// Store 4 with a learner, or a voter, of region 1, which has heard of its leader on store 1.
fn led(role: PeerRole) -> (Newcomer, Epoch) {
    let mut region = Newcomer::region(1, KeyRange::all(), 10);
    region.peers[1].role = role;
    let log = Arc::new(crate::MemoryLogStore::new());
    let hard = HardState { term: 6, vote: 0, commit: LOG_START.index };
    let ops = vec![(FIRST, LogOp::Reset(LOG_START)), (FIRST, LogOp::HardState(hard))];
    log.append(ops).unwrap();
    let (applied, merge) = (LOG_START, Default::default());
    let states = [RegionState { region: region.clone(), applied, tombstone: false, merge }];
    let core = StoreCore::new(StoreId(4), config(), log, &states).unwrap();
    let mut store = Newcomer { core };
    store.core.begin(Duration::ZERO);
    store.beat(&region);
    store.core.finish().unwrap();
    (store, region.epoch)
}

/// An answer, and where it comes.
fn expected() -> (Answer<ReadPermit>, Receiver<Result<ReadPermit>>) {
    let (sender, receiver) = channel();
    (Answer::new(Box::new(move |result| drop(sender.send(result)))), receiver)
}

/// Time passes, and nobody says a word: the questions that the store asks meanwhile.
fn alone(store: &mut Newcomer, from: u64, ticks: u64) -> usize {
    let mut questions = 0;
    for tick in from..from + ticks {
        store.core.begin(Duration::from_millis(100 * tick));
        let turn = store.core.finish().unwrap();
        if let Some(write) = turn.write {
            store.core.step(Event::Persisted(write.turn)).unwrap();
        }
        let asks = |e: &&Envelope| {
            let m = wire::decode_message(&e.message);
            m.is_ok_and(|m| m.get_msg_type() == MessageType::MsgReadIndex)
        };
        questions += turn.sends.iter().filter(asks).count();
    }
    questions
}

#[test]
fn a_read_whose_leader_is_cut_off_is_given_up() {
    for role in [PeerRole::Learner, PeerRole::Voter] {
        let (mut store, epoch) = led(role);
        let (answer, receiver) = expected();
        let mode = ReadMode::Follower;
        store.core.step(Event::Read { region: FIRST, epoch, mode, answer }).unwrap();
        let wait = config().read_wait_ticks;
        assert!(alone(&mut store, 1, wait / 2) > 0, "it asks");
        assert!(receiver.try_recv().is_err(), "its time is not over");
        alone(&mut store, 1 + wait / 2, wait);
        let refused = receiver.try_recv().expect("an answer").expect_err("nobody confirmed it");
        assert!(matches!(refused, Error::NotLeader { .. }), "{refused}");
        assert_eq!(alone(&mut store, 1 + wait * 2, 20), 0, "and asks no more");
        assert!(!store.core.replicas[&FIRST].is_unfinished() || role.votes());
    }
}

#[test]
fn a_read_at_an_index_that_never_comes_is_given_up() {
    let (mut store, epoch) = led(PeerRole::Learner);
    let (answer, receiver) = expected();
    let index = LOG_START.index + 1;
    store.core.step(Event::ReadAt { region: FIRST, epoch, index, answer }).unwrap();
    let wait = config().read_wait_ticks;
    alone(&mut store, 1, wait / 2);
    assert!(receiver.try_recv().is_err(), "its time is not over");
    alone(&mut store, 1 + wait / 2, wait);
    let refused = receiver.try_recv().expect("an answer").expect_err("it is not applied");
    assert!(matches!(refused, Error::NotLeader { .. }), "{refused}");
    assert!(!store.core.replicas[&FIRST].is_unfinished());
}

/// A message that can be read and makes no sense: positions that are nowhere, terms that are none,
/// votes and acknowledgements of nobody. What a sound peer might say is not in it, true or not:
/// whoever lies well may say that it has what it has not.
fn nonsense(world: &mut World, own: PeerId, at: (u64, u64)) -> Message {
    let (last, term) = at;
    let nowhere = [0, last + 1, last + 2, last + 1000, u64::MAX - 1, u64::MAX];
    let never = [0, term.saturating_add(7), u64::MAX];
    let mut of = |all: &[u64]| all[world.roll(all.len() as u64) as usize];
    let mut m = Message {
        msg_type: of(&(0..=20).collect::<Vec<_>>()) as i32,
        to: own.0,
        from: of(&[0, 11, 13, 99, u64::MAX]),
        term: of(&[
            0,
            term - 1,
            term,
            term,
            term.saturating_add(1),
            term.saturating_add(1000),
            u64::MAX,
        ]),
        log_term: of(&never),
        index: of(&nowhere),
        commit: of(&nowhere),
        commit_term: of(&[0, u64::MAX]),
        reject: of(&[0, 1]) == 1,
        reject_hint: of(&nowhere),
        ..Message::default()
    };
    for at in 1..=of(&[0, 1, 2, 3]) {
        let index = if of(&[0, 1]) == 0 { of(&nowhere) } else { m.index.wrapping_add(at) };
        let (term, entry_type) = (of(&[0, term, u64::MAX]), of(&[0, 1, 2, 9]) as i32);
        m.entries.push(Entry { index, term, entry_type, ..Entry::default() });
    }
    let votes = [MessageType::MsgRequestVoteResponse, MessageType::MsgRequestPreVoteResponse];
    m.reject |= votes.iter().any(|vote| *vote as i32 == m.msg_type);
    m
}

/// A follower and a leader, in turn, hear it.
#[test]
fn nonsense_neither_stops_a_store_nor_is_repeated() {
    let mut world = World::new(77, 3, 3);
    (1..=3).for_each(|id| world.finish(id));
    world.calm(3);
    for (round, victim) in (0..30).flat_map(|round| [(round, 1), (round, 2)]) {
        for _ in 0..60 {
            let status = world.nodes[&victim].core.status(FIRST).unwrap();
            let last = world.nodes[&victim].log.group(FIRST).unwrap().last.index;
            let own = *status.region.peer_on(StoreId(victim)).unwrap();
            let m = nonsense(&mut world, own.id, (last, status.term));
            let known = status.region.peer(PeerId(m.from)).copied();
            let (id, store, role) = (PeerId(m.from), StoreId(3), PeerRole::Voter);
            let from = known.unwrap_or(Peer { id, store, role });
            let (message, epoch) = (wire::encode_message(&m), status.region.epoch);
            let envelope = Envelope { region: FIRST, epoch, from, to: own, message };
            world.step(victim, Event::Messages(vec![envelope]));
            while !world.nodes[&victim].writes.is_empty() {
                world.run_writer(victim);
            }
            let last = world.nodes[&victim].log.group(FIRST).unwrap().last.index;
            for said in std::mem::take(&mut world.net) {
                let Ok(answer) = wire::decode_message(&said.message) else { continue };
                let acknowledges = answer.get_msg_type() == MessageType::MsgAppendResponse;
                assert!(
                    !acknowledges || answer.reject || answer.index <= last,
                    "{m:?}: {answer:?}"
                );
            }
        }
        let before = world.history.lock().writes;
        for _ in 0..40 {
            world.calm(5);
            (1..=3).for_each(|id| world.write(id, "d"));
            world.calm(1);
            if world.history.lock().writes > before {
                break;
            }
        }
        assert!(world.history.lock().writes > before, "round {round}: no leader any more");
    }
}
