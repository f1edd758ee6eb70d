//! Snapshots that cannot be put in place yet, or not be sent yet, and the logs behind them.

use super::*;
use crate::wire::SnapshotChunk;

const FIRST: RegionId = RegionId(1);
const CHILD: RegionId = RegionId(110);
/// In place of a chunk's number: only a question.
const QUESTION: u64 = u64::MAX;

/// Stores whose messages all arrive at once, but for those of one region to the last store.
struct Net {
    world: World,
    /// Nothing of it reaches store 4.
    deaf: Option<RegionId>,
    /// Parts of a child's content that were sent to store 4: of which stream, which one.
    parts: Vec<(u64, u64)>,
}

impl Net {
    /// Three voters, and a replica on store 4 that has yet to learn anything.
    fn new() -> Net {
        let mut net = Net { world: World::new(1, 3, 4), deaf: None, parts: Vec::new() };
        (1..=4).for_each(|id| net.world.finish(id));
        net.deliver();
        (0..3).for_each(|_| net.tick());
        assert!(net.status(1, FIRST).is_some_and(|s| s.is_leader));
        let epoch = net.status(1, FIRST).unwrap().region.epoch;
        let peer = Peer { id: PeerId(50), store: StoreId(4), role: PeerRole::Learner };
        let (change, answer) = (PeerChange::AddLearner(peer), Answer::new(Box::new(|_| {})));
        net.world.step(1, Event::ChangePeer { region: FIRST, epoch, change, answer });
        net
    }

    /// What was said so far arrives, and what the disks have to do is done.
    fn round(&mut self) {
        for id in 1..=4 {
            while !self.world.nodes[&id].writes.is_empty() {
                self.world.run_writer(id);
            }
            while !self.world.nodes[&id].applies.is_empty() {
                self.world.run_applier(id);
            }
        }
        for envelope in std::mem::take(&mut self.world.net) {
            let to = envelope.to.store.0;
            if let Some(Ok(chunk)) = wire::decode_chunk(&envelope.message)
                && (envelope.region, to) == (CHILD, 4)
                && chunk.at != QUESTION
            {
                self.parts.push((chunk.stream, chunk.at));
            }
            if to != 4 || self.deaf != Some(envelope.region) {
                self.world.step(to, Event::Messages(vec![envelope]));
            }
        }
    }

    fn deliver(&mut self) {
        let busy = |node: &Node| !node.writes.is_empty() || !node.applies.is_empty();
        while !self.world.net.is_empty() || self.world.nodes.values().any(busy) {
            self.round();
        }
    }

    fn tick(&mut self) {
        (1..=4).for_each(|id| self.world.tick(id));
        self.deliver();
    }

    fn status(&self, id: u64, region: RegionId) -> Option<ReplicaStatus> {
        self.world.nodes[&id].core.status(region)
    }

    fn until(&mut self, what: &str, done: impl Fn(&Net) -> bool) {
        for _ in 0..100 {
            if done(self) {
                return;
            }
            self.tick();
        }
        panic!("not after 100 ticks: {what}");
    }

    fn truncated(&self) -> u64 {
        self.world.nodes[&1].log.group(FIRST).unwrap().truncated.index
    }

    /// The machine is durable: the leader's log may go.
    fn compact(&mut self) {
        let points = self.world.nodes[&1].machine.sync().unwrap();
        self.world.step(1, Event::Synced(points));
    }
}

/// Store 4 has not applied its parent's split: the child's content has to wait, for as long as that
/// takes, and is not sent again meanwhile.
#[test]
fn what_is_complete_and_waits_for_a_neighbour_is_sent_once() {
    let mut net = Net::new();
    net.until("a learner", |net| net.status(4, FIRST).is_some());
    net.world.write(1, "d");
    net.deliver();
    net.deaf = Some(FIRST);
    net.world.split(1, "h");
    net.until("a child", |net| net.status(1, CHILD).is_some_and(|s| s.is_leader));
    (0..30).for_each(|_| net.tick());
    let sent = net.parts.clone();
    assert!(!sent.is_empty());
    for _ in 0..300 {
        net.tick();
        assert!(net.status(4, CHILD).is_none(), "the parent's replica still has its keys");
    }
    assert_eq!(net.parts, sent, "each part once");
    net.deaf = None;
    net.until("the child's rows", |net| {
        let at = |id| net.status(id, CHILD).map(|s| s.applied);
        at(4).is_some() && at(4) == at(1)
    });
    assert!(Node::value(&net.world.nodes[&4].engine, "d") > 0);
}

/// What a store says to the question what it has, once all of a child's content is there; its own
/// replica of the parent has this version.
fn answer(version: u64) -> Option<(u64, u64)> {
    let mut parent = Newcomer::region(1, KeyRange::all(), 10);
    parent.epoch.version = version;
    let (applied, merge) = (LOG_START, Default::default());
    let state = RegionState { region: parent, applied, tombstone: false, merge };
    let mut store = Newcomer::new(&[state]);
    let mut child = Newcomer::region(2, KeyRange::new("", "m"), 20);
    child.epoch.version = 2;
    for tick in 0..10 {
        store.core.begin(Duration::from_millis(100 * tick));
        store.beat(&child);
    }
    store.snapshot(&child);
    let turn = store.core.finish().unwrap();
    assert!(!turn.applies.iter().any(|t| matches!(t, ApplyTask::Import { .. })));
    let here = |turn: &Turn| {
        turn.sends.iter().find_map(|e| wire::decode_chunks_here(&e.message)).filter(|(_, n)| *n > 0)
    };
    assert_eq!(here(&turn), Some((2, 1)), "it has come");
    let message = store.core.snapshots_message(child.id);
    let (stream, data) = (child.id.0, Vec::new());
    let chunk = SnapshotChunk { stream, at: QUESTION, last: false, message, data };
    let (from, to) = (child.peers[0], child.peers[1]);
    let message = wire::encode_chunk(&chunk);
    let envelope = Envelope { region: child.id, epoch: child.epoch, from, to, message };
    store.core.step(Event::Messages(vec![envelope])).unwrap();
    here(&store.core.finish().unwrap())
}

#[test]
fn only_what_can_be_put_in_place_some_day_keeps_its_attempt_alive() {
    assert_eq!(answer(1), Some((2, 1)), "the parent has yet to split");
    assert_eq!(answer(2), None, "the parent was split already, elsewhere");
    assert_eq!(answer(3), None);
}

#[test]
fn what_could_not_be_sent_is_known_at_the_next_tick_also_soon_after_a_start() {
    let mut net = Net::new();
    net.deaf = Some(FIRST);
    net.deliver();
    net.deaf = None;
    let peer = PeerId(50);
    for _ in 0..20 {
        net.world.tick(1);
        let replica = net.world.nodes.get_mut(&1).unwrap().core.replicas.get_mut(&FIRST).unwrap();
        if replica.sent_snapshots.contains_key(&peer) {
            assert!(replica.group.follower(peer).unwrap().in_snapshot);
            // As if its term had not been durable.
            replica.sent_snapshots.insert(peer, None);
            net.world.tick(1);
            let replica = &net.world.nodes[&1].core.replicas[&FIRST];
            assert!(!replica.group.follower(peer).unwrap().in_snapshot);
            assert!(!replica.sent_snapshots.contains_key(&peer));
            return;
        }
        // The snapshot must not arrive.
        net.round();
    }
    panic!("no snapshot was sent");
}

#[test]
fn a_snapshot_on_its_way_keeps_entries_only_up_to_so_many_bytes() {
    let mut net = Net::new();
    net.until("a snapshot is asked for", |net| {
        let core = &net.world.nodes[&1].core;
        core.sending_from(FIRST).is_some() || net.status(4, FIRST).is_some()
    });
    // Another one, which never arrives.
    net.deaf = Some(FIRST);
    let leader = net.world.nodes.get_mut(&1).unwrap();
    let at = leader.core.replicas[&FIRST].applied.index;
    leader.core.keep_sending(FIRST, PeerId(50), at);
    for _ in 0..40 {
        net.world.write(1, "d");
        net.deliver();
    }
    net.compact();
    assert!(net.truncated() <= at, "its receiver needs what comes after");
    let leader = net.world.nodes.get_mut(&1).unwrap();
    let bytes = leader.core.replicas[&FIRST].log_bytes;
    assert!((40 * 30..40 * 200).contains(&bytes), "{bytes}");
    leader.core.config.log_max_bytes = bytes - 1;
    net.compact();
    let replica = &net.world.nodes[&1].core.replicas[&FIRST];
    assert!(net.truncated() >= replica.applied.index - 2, "it has to do with another one");
    assert!(replica.log_bytes < bytes / 4, "{} of {bytes}", replica.log_bytes);
}

#[test]
fn nothing_is_replaced_while_somebody_may_read_it() {
    let mut net = Net::new();
    for _ in 0..50 {
        if net.world.nodes[&4].core.ids() == [FIRST] {
            break;
        }
        net.world.tick(1);
        net.round();
    }
    assert!(net.status(4, FIRST).is_none(), "a replica without rows");
    let replica = |net: &mut Net| {
        let core = &mut net.world.nodes.get_mut(&4).unwrap().core;
        core.replicas.get_mut(&FIRST).unwrap().view()
    };
    let permits = [replica(&mut net), replica(&mut net)];
    for _ in 0..50 {
        net.tick();
        assert!(net.status(4, FIRST).is_none());
    }
    let [first, second] = permits;
    drop(first);
    (0..5).for_each(|_| net.tick());
    assert!(net.status(4, FIRST).is_none(), "one more is held");
    drop(second);
    net.until("the rows", |net| net.status(4, FIRST).is_some());
}

/// A replica is destroyed, and its store hears of the next one of the same region in the same turn.
#[test]
fn a_new_replica_does_not_begin_with_the_log_of_the_one_before() {
    let log = Arc::new(crate::MemoryLogStore::new());
    let entry = |index| crate::LogEntry { index, term: 6, ..crate::LogEntry::default() };
    let hard = HardState { term: 6, vote: 0, commit: 7 };
    let ops = [LogOp::Reset(LOG_START), LogOp::Append(vec![entry(6), entry(7)])];
    let ops = ops.into_iter().chain([LogOp::HardState(hard)]);
    log.append(ops.map(|op| (FIRST, op)).collect()).unwrap();
    let old = Newcomer::region(1, KeyRange::all(), 10);
    let (applied, merge) = (LOG_START, Default::default());
    let state = RegionState { region: old.clone(), applied, tombstone: false, merge };
    let core = StoreCore::new(StoreId(4), config(), log, std::slice::from_ref(&state)).unwrap();
    let mut store = Newcomer { core };
    store.core.finish().unwrap();
    let next = Newcomer::region(1, KeyRange::all(), 20);
    let epoch = Epoch { conf_ver: 8, ..old.epoch };
    store.core.destroy(FIRST, epoch);
    let mut state = state;
    (state.tombstone, state.region.epoch) = (true, epoch);
    store.core.step(Event::Reports(vec![ApplyReport::Destroyed(state)])).unwrap();
    store.beat(&Region { epoch: Epoch { conf_ver: 9, ..epoch }, ..next });
    assert_eq!(store.core.ids(), [FIRST]);
    assert_eq!(store.core.replicas[&FIRST].group.last_index(), 0);
    store.core.finish().unwrap();
    assert_eq!(store.core.replicas[&FIRST].group.last_index(), 0);
}

/// The apply thread tells of a change of replicas after a snapshot's last part, and the snapshot is
/// behind that change: raft-rs is set up with the snapshot's replicas by then
/// (`damask-sim --seed 7202 --storm 6000`).
#[test]
fn a_change_that_a_snapshot_has_gone_past_is_not_made_again() {
    use crate::command::{Membership, encode_change, encode_leave};
    let other = Peer { id: PeerId(2), store: StoreId(2), role: PeerRole::Learner };
    let with = |role| {
        let mut region = Newcomer::region(1, KeyRange::all(), 10);
        region.peers[1].role = PeerRole::Learner;
        region.peers.push(Peer { role, ..other });
        region
    };
    let (joint, learns) = (with(PeerRole::Incoming), with(PeerRole::Learner));
    let mut left = with(PeerRole::Voter);
    left.epoch.conf_ver += 1;
    let mut removed = learns.clone();
    removed.epoch.conf_ver += 2;
    removed.peers.retain(|peer| peer.id != other.id);
    let votes = PeerChange::AddVoter(other);
    let leave = (Membership::Leave, encode_leave(joint.epoch));
    let vote = (Membership::One(votes), encode_change(learns.epoch, votes));
    // What is said to be done, and how the region is in the snapshot.
    for (before, (change, context), after) in [(learns, vote, removed), (joint, leave, left)] {
        let log = Arc::new(crate::MemoryLogStore::new());
        let kind = crate::EntryKind::Change;
        let entry = crate::LogEntry { index: 6, term: 6, kind, context, ..Default::default() };
        let hard = HardState { term: 6, vote: 0, commit: 6 };
        let ops = [LogOp::Reset(LOG_START), LogOp::Append(vec![entry]), LogOp::HardState(hard)];
        log.append(ops.into_iter().map(|op| (FIRST, op)).collect()).unwrap();
        let (applied, merge) = (LOG_START, Default::default());
        let states = [RegionState { region: before, applied, tombstone: false, merge }];
        let machine = Arc::new(RowMachine::new(Arc::new(MemoryEngine::new())));
        let effects = vec![Effect::Regions(states.to_vec())];
        machine.apply(vec![ApplyBatch { region: FIRST, applied, effects }]).unwrap();
        let core = StoreCore::new(StoreId(4), config(), log.clone(), &states).unwrap();
        let mut store = Newcomer { core };
        let mut applier = Applier::new(StoreId(4), machine, log, &states);
        let reports = applier.run(store.core.finish().unwrap().applies).unwrap();
        assert!(format!("{reports:?}").contains(&format!("{change:?}")), "{reports:?}");
        store.snapshot(&after);
        store.core.step(Event::Reports(reports)).unwrap();
        let applies = store.core.finish().unwrap().applies;
        let Some(ApplyTask::Import { state, .. }) = applies.last() else { panic!("{applies:?}") };
        let (state, replaced) = (state.clone(), Vec::new());
        store.core.step(Event::Reports(vec![ApplyReport::Imported { state, replaced }])).unwrap();
        let replica = &store.core.replicas[&FIRST];
        assert_eq!(replica.region, after);
        let votes = |peer: &Peer| peer.role == PeerRole::Voter;
        let ids = |peers: &[Peer]| peers.iter().filter(|p| votes(p)).map(|p| p.id.0).collect();
        assert!(replica.group.is_quorum(&ids(&after.peers)));
        let alone = after.peers.iter().filter(|p| votes(p)).count() == 1;
        assert_eq!(replica.group.is_quorum(&[1].into()), alone, "by {:?}", after.peers);
    }
}

/// Where a learner is, a client may look for the leader. It would miss what the leader keeps in
/// memory: a transaction that commits below a read (`damask-sim --seed 328`).
#[test]
fn a_learner_is_read_only_by_who_says_so() {
    let mut net = Net::new();
    net.until("a learner", |net| net.status(4, FIRST).is_some());
    let epoch = net.status(4, FIRST).unwrap().region.epoch;
    for mode in [ReadMode::Index, ReadMode::Lease, ReadMode::Follower] {
        let (sender, receiver) = std::sync::mpsc::channel();
        let answer = Answer::new(Box::new(move |result| drop(sender.send(result))));
        net.world.step(4, Event::Read { region: FIRST, epoch, mode, answer });
        (0..3).for_each(|_| net.tick());
        let found: Result<crate::handle::ReadPermit> = receiver.try_recv().expect("an answer");
        match (mode, found) {
            (ReadMode::Follower, Ok(permit)) => assert_eq!(permit.region.id, FIRST),
            (ReadMode::Index | ReadMode::Lease, Err(Error::NotLeader { leader, .. })) => {
                assert_eq!(leader.map(|peer| peer.store), Some(StoreId(1)));
            }
            other => panic!("{other:?}"),
        }
    }
}
