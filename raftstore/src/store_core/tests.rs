//! Cores, appliers, logs and engines of a few stores in one thread, driven by one seed: messages
//! are lost, doubled and reordered, syncs and applies come late, stores lose power. And a golden
//! trace of a small scenario, in `tests/scripts/trace.txt` (`UPDATE_GOLDEN=1` writes it).

mod abandoned;
mod hibernate;
mod merges;
mod scripts;
mod starts;
mod waiting;

use super::*;
use crate::answer::Answer;
use crate::apply::{Applier, ApplyReport};
use crate::command::encode_write;
use crate::file_log::{FileLogConfig, FileLogStore};
use crate::handle::{PeerChange, ReadMode, ReplicaStatus, SplitChild};
use crate::local_read::LocalReads;
use crate::machine::{ApplyBatch, Effect, StateMachine};
use crate::row_machine::RowMachine;
use damask_env::MemoryDisk;
use damask_kv::{Cf, Engine, MemoryEngine};
use damask_types::codec::encode_key;
use damask_types::{KeyRange, Lock, LockKind, PeerRole, Record, Timestamp};
use parking_lot::Mutex;
use raft::eraftpb::MessageType;

struct Node {
    disk: MemoryDisk,
    engine: MemoryEngine,
    machine: Arc<RowMachine>,
    log: Arc<FileLogStore>,
    core: StoreCore,
    /// What it has published of its leases.
    local: LocalReads,
    now: Duration,
    applier: Applier,
    writes: VecDeque<WriteTask>,
    applies: VecDeque<Vec<ApplyTask>>,
    synced: VecDeque<Vec<(RegionId, u64)>>,
}

/// What clients know: per key, the last number tried and the last acknowledged.
#[derive(Default)]
struct History {
    tried: HashMap<String, u64>,
    acknowledged: HashMap<String, u64>,
    reads: u64,
    writes: u64,
    splits: u64,
    changes: u64,
    leaders: HashMap<(RegionId, u64), StoreId>,
}

struct World {
    nodes: BTreeMap<u64, Node>,
    net: Vec<Envelope>,
    chance: u64,
    next_id: u64,
    history: Arc<Mutex<History>>,
    trace: Option<Vec<String>>,
}

const KEYS: [&str; 6] = ["b", "d", "f", "h", "k", "m"];

fn config() -> CoreConfig {
    let mut config = CoreConfig { log_keep_entries: 2, compact_ticks: 7, ..CoreConfig::default() };
    config.raft.election_ticks = 5;
    config.snapshot_retry_ticks = 10;
    config.snapshot_chunk_bytes = 100;
    config.hibernate_regions = true;
    config
}

impl Node {
    fn start(id: u64, disk: MemoryDisk, engine: MemoryEngine, nonce: u64) -> Node {
        let small = FileLogConfig {
            segment_bytes: 4096,
            cache_bytes: 1000,
            segments_max: 3,
            ..FileLogConfig::default()
        };
        let log = Arc::new(FileLogStore::open(Arc::new(disk.clone()), "raft", small).unwrap());
        let machine = Arc::new(RowMachine::new(Arc::new(engine.clone())));
        let states = machine.recover().unwrap();
        let config = CoreConfig { nonce, ..config() };
        let mut core = StoreCore::new(StoreId(id), config, log.clone(), &states).unwrap();
        let now = Duration::ZERO;
        core.begin(now);
        let applier = Applier::new(StoreId(id), machine.clone(), log.clone(), &states);
        let (writes, applies, synced, local) = Default::default();
        Node { disk, engine, machine, log, core, local, now, applier, writes, applies, synced }
    }

    fn value(engine: &MemoryEngine, key: &str) -> u64 {
        let found = engine.snapshot().get(Cf::Lock, &encode_key(key.as_bytes())).unwrap();
        found.map_or(0, |bytes| Lock::decode(&bytes).unwrap().start_ts.0)
    }
}

impl World {
    fn new(seed: u64, voters: u64, stores: u64) -> World {
        let role = PeerRole::Voter;
        let peers = (1..=voters).map(|s| Peer { id: PeerId(10 + s), store: StoreId(s), role });
        let epoch = Epoch { conf_ver: 1, version: 1 };
        let (id, range) = (RegionId(1), KeyRange::all());
        let region = Region { id, range, epoch, peers: peers.collect() };
        let mut nodes = BTreeMap::new();
        for id in 1..=stores {
            let (disk, engine) = (MemoryDisk::new(), MemoryEngine::with_crashes());
            if id <= voters {
                let region = region.clone();
                let merge = Default::default();
                let state = RegionState { region, applied: LOG_START, tombstone: false, merge };
                let machine = RowMachine::new(Arc::new(engine.clone()));
                let effects = vec![Effect::Regions(vec![state])];
                let batch = ApplyBatch { region: RegionId(1), applied: LOG_START, effects };
                machine.apply(vec![batch]).unwrap();
                machine.sync().unwrap();
            }
            nodes.insert(id, Node::start(id, disk, engine, 0));
        }
        let (net, history) = (Vec::new(), Arc::default());
        World { nodes, net, chance: seed, next_id: 100, history, trace: None }
    }

    fn roll(&mut self, n: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % n
    }

    fn tick(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.now += Duration::from_millis(100);
        node.core.begin(node.now);
        self.finish(id);
    }

    fn step(&mut self, id: u64, event: Event) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.core.step(event).unwrap();
        self.finish(id);
    }

    fn finish(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        loop {
            let turn = node.core.finish().unwrap();
            node.local.publish(turn.views);
            for region in node.core.ids() {
                let status = node.core.status(region).filter(|s| s.is_leader);
                if let Some(status) = status {
                    let mut history = self.history.lock();
                    let first = history.leaders.entry((region, status.term)).or_insert(StoreId(id));
                    assert_eq!(*first, StoreId(id), "two leaders in a term: {status:?}");
                }
            }
            if let Some(trace) = &mut self.trace {
                trace.extend(turn.sends.iter().map(|e| format!("{id} send {}", describe(e))));
                let held = turn.write.iter().flat_map(|w| &w.held);
                trace.extend(held.map(|e| format!("{id} hold {}", describe(e))));
            }
            self.net.extend(turn.sends);
            node.writes.extend(turn.write);
            if !turn.applies.is_empty() {
                node.applies.push_back(turn.applies);
            }
            if turn.maintain {
                node.synced.push_back(node.machine.sync().unwrap());
                node.log.purge().unwrap();
            }
            if !node.core.has_more() {
                return;
            }
        }
    }

    fn run_writer(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(task) = node.writes.pop_front() else { return };
        if task.sync {
            node.log.sync().unwrap();
        }
        self.net.extend(task.held);
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{id} durable{}", if task.sync { "" } else { " (no sync)" }));
        }
        self.step(id, Event::Persisted(task.turn));
    }

    fn run_applier(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(tasks) = node.applies.pop_front() else { return };
        let reports = node.applier.run(tasks).unwrap();
        if let Some(trace) = &mut self.trace {
            for report in &reports {
                if let ApplyReport::Applied { region, applied, changes } = report {
                    let split = if changes.is_empty() { "" } else { " changed" };
                    trace.push(format!("{id} applied r{region} {}{split}", applied.index));
                }
            }
        }
        self.step(id, Event::Reports(reports));
    }

    fn deliver(&mut self, at: usize) {
        let envelope = self.net.swap_remove(at);
        self.step(envelope.to.store.0, Event::Messages(vec![envelope]));
    }

    /// The engine's image first: the machine never is ahead of the durable log.
    fn crash(&mut self, id: u64) {
        let keep = self.roll(5) as usize;
        let nonce = self.roll(u64::MAX);
        let node = self.nodes.remove(&id).unwrap();
        let engine = node.engine.crash(node.engine.unsynced() * keep / 4).unwrap();
        let keep = self.roll(5) as usize;
        let disk = node.disk.crash_image(|n| n * keep / 4);
        drop(node);
        self.nodes.insert(id, Node::start(id, disk, engine, nonce));
        self.finish(id);
    }

    fn region_at(&mut self, id: u64, key: &str) -> Option<ReplicaStatus> {
        let core = &self.nodes[&id].core;
        let mut all = core.ids().into_iter().filter_map(|r| core.status(r));
        all.rfind(|s| s.region.range.contains(key.as_bytes()))
    }

    fn write(&mut self, id: u64, key: &'static str) {
        let Some(status) = self.region_at(id, key) else { return };
        let mut history = self.history.lock();
        let tried = history.tried.entry(key.to_owned()).or_default();
        *tried += 1;
        let n = *tried;
        drop(history);
        let lock = Lock::new(LockKind::Put, b"p".to_vec(), Timestamp(n), 1);
        let records = [Record::Lock { key: key.as_bytes().to_vec(), lock }];
        let payload = encode_write(status.region.epoch, &records);
        let (history, engine) = (self.history.clone(), self.nodes[&id].engine.clone());
        let done = move |result: Result<Applied>| {
            if result.is_ok() {
                let mut history = history.lock();
                let last = history.acknowledged.entry(key.to_owned()).or_default();
                *last = n.max(*last);
                history.writes += 1;
                assert!(Node::value(&engine, key) > 0);
            }
        };
        let answer = Answer::new(Box::new(done));
        let (region, epoch) = (status.region.id, status.region.epoch);
        self.step(id, Event::Propose { region, epoch, term: None, payload, span: None, answer });
    }

    fn read(&mut self, id: u64, key: &'static str) {
        let Some(status) = self.region_at(id, key) else { return };
        let floor = self.history.lock().acknowledged.get(key).copied().unwrap_or(0);
        let (history, engine) = (self.history.clone(), self.nodes[&id].engine.clone());
        let done = move |result: Result<crate::handle::ReadPermit>| {
            if let Ok(permit) = result {
                let found = Node::value(&engine, key);
                assert!(
                    found >= floor,
                    "read {key} on {id} = {found} after {floor} was acknowledged: {permit:?}"
                );
                history.lock().reads += 1;
            }
        };
        let answer = Answer::new(Box::new(done));
        let (region, epoch) = (status.region.id, status.region.epoch);
        self.step(id, Event::Read { region, epoch, mode: ReadMode::Index, answer });
    }

    fn split(&mut self, id: u64, key: &'static str) {
        let Some(status) = self.region_at(id, key) else { return };
        self.next_id += 10;
        let next = self.next_id;
        let peers = (1..=status.region.peers.len() as u64).map(|n| PeerId(next + n)).collect();
        let children = vec![SplitChild { region: RegionId(next), peers }];
        let history = self.history.clone();
        let done = move |result: Result<Vec<Region>>| {
            history.lock().splits += u64::from(result.is_ok());
        };
        let answer = Answer::new(Box::new(done));
        let keys = vec![key.as_bytes().to_vec()];
        let (region, epoch) = (status.region.id, status.region.epoch);
        self.step(id, Event::Split { region, epoch, keys, children, answer });
    }

    /// Moves a replica in or out of the last store.
    fn change(&mut self, id: u64, key: &'static str) {
        let Some(status) = self.region_at(id, key) else { return };
        let last = StoreId(*self.nodes.keys().last().unwrap());
        self.next_id += 10;
        let new = Peer { id: PeerId(self.next_id), store: last, role: PeerRole::Learner };
        let change = match (status.region.peer_on(last), self.roll(2)) {
            (None, _) => PeerChange::AddLearner(new),
            (Some(peer), 0) => PeerChange::AddVoter(*peer),
            (Some(peer), _) => PeerChange::Remove(*peer),
        };
        let history = self.history.clone();
        let done = move |result: Result<Region>| {
            history.lock().changes += u64::from(result.is_ok());
        };
        let answer = Answer::new(Box::new(done));
        let (region, epoch) = (status.region.id, status.region.epoch);
        self.step(id, Event::ChangePeer { region, epoch, change, answer });
    }

    fn chaos(&mut self, steps: u64) {
        for _ in 0..steps {
            let id = self.roll(self.nodes.len() as u64) + 1;
            let key = KEYS[self.roll(KEYS.len() as u64) as usize];
            match self.roll(1000) {
                0..=399 if !self.net.is_empty() => {
                    let at = self.roll(self.net.len().min(8) as u64) as usize;
                    self.deliver(at);
                }
                400..=419 if !self.net.is_empty() => {
                    let at = self.roll(self.net.len() as u64) as usize;
                    self.net.swap_remove(at);
                }
                420..=439 if !self.net.is_empty() => {
                    let at = self.roll(self.net.len() as u64) as usize;
                    let copy = self.net[at].clone();
                    self.net.push(copy);
                }
                440..=579 => self.run_writer(id),
                580..=719 => self.run_applier(id),
                720..=779 => self.tick(id),
                780..=879 => self.write(id, key),
                880..=979 => self.read(id, key),
                980..=983 => self.split(id, key),
                984..=988 => self.change(id, key),
                989..=991 => self.crash(id),
                992 => {
                    if let Some(status) = self.region_at(id, key) {
                        let to = status.region.peers[self.roll(2) as usize];
                        self.step(id, Event::TransferLeader { region: status.region.id, to });
                    }
                }
                993 => self.net.retain(|e| e.to.store.0 != id),
                994..=996 => {
                    if let Some(points) = self.nodes.get_mut(&id).unwrap().synced.pop_front() {
                        self.step(id, Event::Synced(points));
                    }
                }
                _ => {}
            }
        }
    }

    /// Everything works: until nothing is left to do, then a tick for all.
    fn calm(&mut self, ticks: u64) {
        for _ in 0..ticks {
            loop {
                let before = self.net.len();
                for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                    while !self.nodes[&id].writes.is_empty() {
                        self.run_writer(id);
                    }
                    while !self.nodes[&id].applies.is_empty() {
                        self.run_applier(id);
                    }
                }
                for envelope in std::mem::take(&mut self.net) {
                    self.step(envelope.to.store.0, Event::Messages(vec![envelope]));
                }
                let busy = |n: &Node| !n.writes.is_empty() || !n.applies.is_empty();
                if before == 0 && self.net.is_empty() && !self.nodes.values().any(busy) {
                    break;
                }
            }
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.tick(id);
            }
        }
    }

    /// After the storm: all leaders there, all replicas alike, nothing acknowledged lost.
    fn check(&mut self) {
        self.calm(80);
        let before = self.history.lock().acknowledged.clone();
        for key in KEYS {
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.write(id, key);
                self.read(id, key);
            }
        }
        self.calm(20);
        let history = self.history.clone();
        for key in KEYS {
            let ids: Vec<u64> = self.nodes.keys().copied().collect();
            let with: Vec<_> =
                ids.iter().filter_map(|id| Some((*id, self.region_at(*id, key)?))).collect();
            let newest = with.iter().map(|(_, s)| s.region.epoch.version).max().unwrap();
            let leader = with.iter().find(|(_, s)| s.is_leader && s.region.epoch.version == newest);
            let leader = &leader.unwrap_or_else(|| panic!("no leader for {key}: {with:?}")).1;
            let acknowledged = history.lock().acknowledged.get(key).copied().unwrap_or(0);
            for peer in &leader.region.peers {
                let node = &self.nodes[&peer.store.0];
                let found = Node::value(&node.engine, key);
                assert!(found >= acknowledged, "{key} is {found} on {peer:?}, not {acknowledged}");
                let status = self.region_at(peer.store.0, key).expect("a replica");
                assert_eq!(status.region, leader.region, "on {peer:?}");
                assert_eq!(status.applied, leader.applied, "on {peer:?}");
            }
            assert!(acknowledged > before.get(key).copied().unwrap_or(0), "{key} takes no writes");
        }
    }
}

#[test]
fn any_seed_keeps_what_was_acknowledged_and_reads_are_linearizable() {
    let from: u64 = std::env::var("SEED").map_or(1, |s| s.parse().unwrap());
    let count: u64 = std::env::var("SEEDS").map_or(6, |s| s.parse().unwrap());
    let mut total = History::default();
    for seed in from..from + count {
        println!("seed {seed}"); // shown if the test fails
        let mut world = World::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, 3, 4);
        for id in 1..=4 {
            world.finish(id);
        }
        world.chaos(24_000);
        world.check();
        let history = world.history.lock();
        total.reads += history.reads;
        total.writes += history.writes;
        total.splits += history.splits;
        total.changes += history.changes;
    }
    // The storm must not be so strong that nothing is tested.
    let each = |n: u64, least: u64| assert!(n >= least * count, "{n} in {count} seeds");
    each(total.reads, 20);
    each(total.writes, 20);
    each(total.splits, 1);
    each(total.changes, 1);
}

fn describe(e: &Envelope) -> String {
    if e.message.is_empty() {
        return format!("r{} notice to {}", e.region, e.to.store);
    }
    let m = wire::decode_message(&e.message).unwrap();
    let mut text =
        format!("r{} {:?} to {} term {}", e.region, m.get_msg_type(), e.to.store, m.term);
    match m.get_msg_type() {
        MessageType::MsgAppend => {
            text += &format!(" after {} entries {} commit {}", m.index, m.entries.len(), m.commit);
        }
        MessageType::MsgAppendResponse => text += &format!(" index {}", m.index),
        _ => {}
    }
    text + if m.reject { " reject" } else { "" }
}

#[test]
fn the_trace_of_a_write_and_a_split_is_as_recorded() {
    let mut world = World::new(1, 3, 3);
    world.trace = Some(Vec::new());
    let mark = |world: &mut World, text: &str| {
        world.calm(1);
        world.trace.as_mut().unwrap().push(format!("# {text}"));
    };
    (1..=3).for_each(|id| world.finish(id));
    mark(&mut world, "write");
    world.write(1, "d");
    mark(&mut world, "read");
    world.read(1, "d");
    mark(&mut world, "split");
    world.split(1, "h");
    world.calm(2);
    let trace = world.trace.unwrap().join("\n") + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts/trace.txt");
    if std::env::var("UPDATE_GOLDEN").is_ok() {
        std::fs::write(path, &trace).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), trace);
}

/// A store without anything, and messages to it from store 1.
struct Newcomer {
    core: StoreCore,
}

impl Newcomer {
    fn new(states: &[RegionState]) -> Newcomer {
        let log = Arc::new(crate::MemoryLogStore::new());
        let core = StoreCore::new(StoreId(4), config(), log, states).unwrap();
        Newcomer { core }
    }

    fn region(id: u64, range: KeyRange, own: u64) -> Region {
        let peer =
            |id, store| Peer { id: PeerId(id), store: StoreId(store), role: PeerRole::Voter };
        let epoch = Epoch { conf_ver: 6, version: 1 };
        Region { id: RegionId(id), range, epoch, peers: vec![peer(1, 1), peer(own, 4)] }
    }

    fn send(&mut self, region: &Region, mut m: raft::eraftpb::Message) {
        let (from, to) = (region.peers[0], region.peers[1]);
        (m.from, m.to, m.term) = (from.id.0, to.id.0, 6);
        let (message, epoch) = (wire::encode_message(&m), region.epoch);
        let region = region.id;
        let envelope = Envelope { region, epoch, from, to, message };
        self.core.step(Event::Messages(vec![envelope])).unwrap();
    }

    fn beat(&mut self, region: &Region) {
        let mut m = raft::eraftpb::Message::default();
        m.set_msg_type(MessageType::MsgHeartbeat);
        self.send(region, m);
    }

    fn snapshot(&mut self, region: &Region) {
        self.snapshot_after(region, &MergeState::default());
    }

    fn snapshot_after(&mut self, region: &Region, merge: &MergeState) {
        let mut data = Vec::new();
        wire::put_region(&mut data, region);
        wire::put_merge(&mut data, merge);
        let conf_state = Some(wire::conf_state(region));
        let metadata = raft::eraftpb::SnapshotMetadata { conf_state, index: 10, term: 6 };
        let snapshot = raft::eraftpb::Snapshot { data, metadata: Some(metadata) };
        let mut m = raft::eraftpb::Message {
            snapshot: Some(snapshot),
            ..raft::eraftpb::Message::default()
        };
        m.set_msg_type(MessageType::MsgSnapshot);
        let (from, to, stream) = (region.peers[0], region.peers[1], region.id.0);
        (m.from, m.to, m.term) = (from.id.0, to.id.0, 6);
        let (message, data) = (wire::encode_message(&m), Vec::new());
        let chunk = wire::SnapshotChunk { stream, at: 0, last: true, message, data };
        let (message, epoch, region) = (wire::encode_chunk(&chunk), region.epoch, region.id);
        let envelope = Envelope { region, epoch, from, to, message };
        self.core.step(Event::Messages(vec![envelope])).unwrap();
        let staged = ApplyReport::Staged { region, stream, at: 0, last: true, kept: true };
        self.core.step(Event::Reports(vec![staged])).unwrap();
    }
}

/// The tombstone has its epoch from whoever told of the removal, who knew the next peer already.
/// Without that peer's vote the region may have no leader.
#[test]
fn a_peer_that_came_after_a_removed_one_may_come_whatever_the_tombstones_epoch() {
    let applied = Applied { index: 9, term: 6 };
    let region = Newcomer::region(1, KeyRange::all(), 140);
    let merge = Default::default();
    let mut store = Newcomer::new(&[RegionState { region, applied, tombstone: true, merge }]);
    for gone in [139, 140] {
        store.beat(&Newcomer::region(1, KeyRange::all(), gone));
        assert!(store.core.ids().is_empty(), "peer {gone} is gone");
    }
    store.beat(&Newcomer::region(1, KeyRange::all(), 150));
    assert_eq!(store.core.ids(), [RegionId(1)]);
}

/// A child's snapshot, and its parent's of before the split: the parent's would remove the child's
/// content, and its log would make the child again as it was at first.
#[test]
fn of_two_snapshots_that_overlap_one_waits() {
    let mut store = Newcomer::new(&[]);
    let child = Newcomer::region(2, KeyRange::new("", "m"), 20);
    let parent = Newcomer::region(1, KeyRange::all(), 10);
    for in_one_turn in [true, false] {
        let mut imports = 0;
        let mut finish = |store: &mut Newcomer| {
            let applies = store.core.finish().unwrap().applies;
            imports += applies.iter().filter(|t| matches!(t, ApplyTask::Import { .. })).count();
        };
        store.beat(&child);
        store.beat(&parent);
        finish(&mut store);
        store.snapshot(&child);
        if !in_one_turn {
            finish(&mut store);
        }
        store.snapshot(&parent);
        finish(&mut store);
        assert_eq!(imports, 1);
        store = Newcomer::new(&[]);
    }
}
