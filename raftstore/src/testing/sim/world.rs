//! The heap of happenings, the network, and the turns of each store as the product's driver makes
//! them. It must never let two happenings depend on anything but the seed.

use super::chance::{Chance, hash_bytes, mix};
use super::clients::{Reply, Request};
use super::disk::SimLog;
use super::faults::FaultKind;
use super::store::{Image, Node, SimClock};
use super::watch::Watch;
use super::{SimConfig, SimReport};
use crate::handle::{Done, Envelope, ReadPermit};
use crate::row_machine::RowMachine;
use crate::store_core::{CoreConfig, Event};
use damask_kv::MemoryEngine;
use damask_types::{Epoch, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, StoreId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Events kept for the story of a failure.
const STORY_EVENTS: usize = 120;
/// The calm after the storm, in which every key must take writes, and the silence after that; in
/// simulated microseconds.
const CALM: u64 = 20_000_000;
const SILENCE: u64 = 60_000_000;
/// Happenings between two comparisons of all content.
const COMPARE_EVERY: u64 = 512;

/// Something that happens at a time.
pub(super) enum Happening {
    /// A raft thread wakes up.
    Turn(StoreId, u64),
    Deliver(Box<Envelope>),
    /// A log thread's sync ends.
    Synced(StoreId, u64),
    /// An apply thread's task ends.
    Applied(StoreId, u64),
    /// The compaction thread has work.
    Maintain(StoreId, u64),
    Client(u64),
    GiveUp(usize),
    ReadEnds(usize, StoreId, u64, ReadPermit),
    Fault,
    /// Somebody asks for a merge, so many times more.
    Merge(RegionId, RegionId, u32),
    Heal(StoreId, StoreId),
    Start(StoreId),
    Crash(StoreId),
    /// Power is lost for so long.
    Lose(StoreId, u64),
}

/// A happening in few words, for the story.
type Note = (u64, &'static str, u64, u64, u64);

pub(super) struct World {
    pub chance: Chance,
    /// Microseconds.
    pub now: u64,
    heap: BTreeMap<(u64, u64), Happening>,
    scheduled: u64,
    pub config: CoreConfig,
    pub nodes: BTreeMap<StoreId, Node>,
    pub keys: Vec<&'static str>,
    pub watch: Arc<Mutex<Watch>>,
    // The network.
    pub faults: Vec<FaultKind>,
    pub cut: BTreeSet<(StoreId, StoreId)>,
    pub old: Vec<Envelope>,
    // Clients.
    pub requests: Vec<Request>,
    pub replies: Arc<Mutex<Vec<(usize, Reply)>>>,
    pub order: u64,
    pub counts: Arc<Mutex<SimReport>>,
    pub written_in_calm: Vec<bool>,
    /// So many requests in a thousand are writes.
    pub write_share: u64,
    /// Shortest and longest time between two faults.
    pub pause: (u64, u64),
    pub storm_end: u64,
    pub clients_end: u64,
    /// Until then nobody asks for anything.
    pub lull_until: u64,
    pub next_id: u64,
    // The story.
    pub injected: u64,
    fault_notes: Vec<(u64, FaultKind, StoreId, u64)>,
    notes: VecDeque<Note>,
    trace_hash: u64,
    events: u64,
    failure: Option<String>,
}

fn draw_config(sim: &SimConfig, chance: &mut Chance) -> CoreConfig {
    let mut config = CoreConfig {
        tick: Duration::from_millis(chance.between(20, 100)),
        log_keep_entries: chance.below(12),
        log_max_entries: chance.between(20, 400),
        merge_wait_ticks: chance.between(5, 50),
        compact_ticks: chance.between(3, 30),
        snapshot_retry_ticks: chance.between(5, 20),
        snapshot_chunk_bytes: 100,
        snapshot_bytes_per_second: 20_000,
        snapshot_sends_max: 2,
        snapshot_receives_max: 2,
        read_wait_ticks: chance.between(10, 50),
        undetermined_ticks: chance.between(20, 100),
        hibernate_regions: chance.permille(850),
        hibernate_ticks: chance.between(1, 8),
        hibernate_max_ticks: chance.between(60, 400),
        ..CoreConfig::default()
    };
    config.raft.election_ticks = chance.between(4, 10) as usize;
    config.raft.heartbeat_ticks = chance.between(1, 2) as usize;
    config.raft.seed = chance.next();
    config.raft.message_bytes = if chance.permille(500) { 200 } else { 1 << 20 };
    config.raft.inflight_messages = chance.between(1, 64) as usize;
    config.raft.apply_bytes = if chance.permille(300) { 100 } else { 1 << 20 };
    if sim.short_logs {
        (config.log_keep_entries, config.log_max_entries, config.compact_ticks) = (0, 8, 2);
    }
    config
}

impl World {
    pub fn new(sim: &SimConfig, mut chance: Chance) -> World {
        let config = draw_config(sim, &mut chance);
        let faults = sim.faults.clone().unwrap_or_else(|| FaultKind::half(&mut chance));
        let role = PeerRole::Voter;
        let voters = 1..=sim.voters;
        let peers = voters.map(|s| Peer { id: PeerId(10 + s), store: StoreId(s), role });
        let epoch = Epoch { conf_ver: 1, version: 1 };
        let (id, range) = (RegionId(1), KeyRange::all());
        let first = Region { id, range, epoch, peers: peers.collect() };
        let watch = Arc::new(Mutex::new(Watch::with_first(first.clone())));
        let mut nodes = BTreeMap::new();
        let drawn = chance.between(3, 5);
        for id in (1..=sim.stores.unwrap_or(drawn).max(sim.voters)).map(StoreId) {
            let engine = MemoryEngine::with_crashes();
            if first.peer_on(id).is_some() {
                let rows = RowMachine::new(Arc::new(engine.clone()));
                crate::bootstrap(&rows, id, first.clone()).expect("an engine in memory");
            }
            let drifts = faults.contains(&FaultKind::Drift);
            let rate = if drifts { chance.between(970_000, 1_030_000) } else { 1_000_000 };
            let clock = SimClock { offset: chance.below(1 << 40), rate };
            let image = Image { log: SimLog::new(watch.clone()), engine };
            nodes.insert(id, Node::new(id, clock, image));
        }
        let storm_end = sim.storm_ms * 1000;
        let keys = vec!["b", "d", "f", "h", "k", "m", "p", "r", "t", "w"];
        let drawn = [3, 100, 450, 800][chance.below(4) as usize];
        let write_share = sim.writes_permille.unwrap_or(drawn);
        World {
            chance,
            write_share,
            now: 0,
            heap: BTreeMap::new(),
            scheduled: 0,
            config,
            nodes,
            written_in_calm: vec![false; keys.len()],
            keys,
            watch,
            faults,
            cut: BTreeSet::new(),
            old: Vec::new(),
            requests: Vec::new(),
            replies: Arc::default(),
            order: 0,
            counts: Arc::default(),
            pause: (sim.pause_ms.0 * 1000, sim.pause_ms.1 * 1000),
            storm_end,
            clients_end: u64::MAX,
            lull_until: 0,
            next_id: 100,
            injected: 0,
            fault_notes: Vec::new(),
            notes: VecDeque::new(),
            trace_hash: 0,
            events: 0,
            failure: None,
        }
    }

    pub fn report(&self) -> SimReport {
        let mut report = self.counts.lock().clone();
        report.trace_hash = self.trace_hash;
        report.events = self.events;
        report.sleeps = self.nodes.values().map(|node| node.sleeps).sum();
        report.leaders = self.watch.lock().leaders();
        let watch = self.watch.lock();
        report.snapshots = watch.snapshots;
        (report.merges, report.rollbacks) = (watch.merges(), watch.rollbacks);
        (report.replaced, report.deposed) = (watch.replaced, watch.deposed);
        drop(watch);
        report.faults = self.injected;
        report
    }

    /// Faults, and the last events.
    pub fn story(&self) -> (Vec<String>, VecDeque<String>) {
        let mut faults = vec![format!("turned on: {:?}", self.faults)];
        faults.push(format!("{:?}", self.config));
        faults.extend(self.fault_notes.iter().map(|(at, kind, store, long)| {
            format!("{:>9.3} {kind:?} store {store} {} ms", *at as f64 / 1000.0, long / 1000)
        }));
        let events = self.notes.iter().map(|(at, what, store, a, b)| {
            format!("{:>9.3} {what} store {store} {a} {b}", *at as f64 / 1000.0)
        });
        (faults, events.collect())
    }

    pub fn node(&mut self, id: StoreId) -> &mut Node {
        self.nodes.get_mut(&id).expect("it is a store's id")
    }

    pub fn schedule(&mut self, after: u64, what: Happening) {
        self.scheduled += 1;
        self.heap.insert((self.now + after, self.scheduled), what);
    }

    pub fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    /// Counts a success.
    pub fn count<T: 'static>(&self, add: impl Fn(&mut SimReport) + Send + 'static) -> Done<T> {
        let counts = self.counts.clone();
        Box::new(move |result| {
            if result.is_ok() {
                add(&mut counts.lock());
            }
        })
    }

    pub fn note_fault(&mut self, kind: FaultKind, store: StoreId, long: u64) {
        self.fault_notes.push((self.now, kind, store, long));
        self.note("fault", store, kind as u64, long);
    }

    pub(super) fn note(&mut self, what: &'static str, store: StoreId, a: u64, b: u64) {
        let fold = hash_bytes(what.as_bytes()) ^ mix(a) ^ mix(b).rotate_left(7) ^ store.0;
        self.trace_hash = mix(self.trace_hash ^ self.now ^ fold);
        if self.notes.len() == STORY_EVENTS {
            self.notes.pop_front();
        }
        self.notes.push_back((self.now, what, store.0, a, b));
    }

    /// Storm, calm, silence.
    pub fn run(&mut self, sim: &SimConfig) -> Result<(), String> {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.start(id)?;
        }
        let clients = 0..sim.clients;
        clients.for_each(|client| self.schedule(client * 1000, Happening::Client(client)));
        self.schedule(200_000, Happening::Fault);
        self.run_until(sim.storm_ms * 1000, |_| false)?;
        self.heal();
        let calm = |world: &World| world.written_in_calm.iter().all(|written| *written);
        if !self.run_until(self.now + CALM, calm)? {
            let missing: Vec<&str> = (self.keys.iter().zip(&self.written_in_calm))
                .filter_map(|(key, written)| (!written).then_some(*key))
                .collect();
            let told = self.describe();
            return Err(format!("keys {missing:?} take no writes after the storm\n{told}"));
        }
        self.clients_end = self.now;
        let mut why = String::new();
        let end = self.now + SILENCE;
        while self.now < end {
            self.run_until(self.now + 250_000, |_| false)?;
            match self.settled() {
                Ok(()) => {
                    why.clear();
                    break;
                }
                Err(e) => why = e,
            }
        }
        if !why.is_empty() {
            return Err(format!("replicas do not become alike: {why}"));
        }
        self.rest()?;
        self.check_history()
    }

    fn heal(&mut self) {
        self.faults.clear();
        self.cut.clear();
        self.lull_until = 0;
        let now = self.now;
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            let node = self.node(id);
            (node.paused_until, node.stalled_until, node.slow) = (now, now, (1, 0));
            node.sync_fails = false;
            if node.running.is_none() {
                self.schedule(0, Happening::Start(id));
            }
        }
    }

    /// True if `done` was reached.
    pub(super) fn run_until(
        &mut self,
        end: u64,
        done: impl Fn(&World) -> bool,
    ) -> Result<bool, String> {
        while let Some(next) = self.heap.first_entry() {
            if next.key().0 >= end {
                break;
            }
            let ((at, _), what) = next.remove_entry();
            self.now = at;
            self.events += 1;
            self.happen(what)?;
            self.take_replies();
            if self.events.is_multiple_of(COMPARE_EVERY) {
                self.compare()?;
            }
            let violation = self.watch.lock().violation();
            if let Some(why) = self.failure.take().or(violation) {
                return Err(why);
            }
            if done(self) {
                return Ok(true);
            }
        }
        self.now = end;
        Ok(false)
    }

    fn happen(&mut self, what: Happening) -> Result<(), String> {
        match what {
            Happening::Turn(store, life) => return self.on_turn(store, life),
            Happening::Deliver(envelope) => self.on_deliver(*envelope),
            Happening::Synced(store, life) => return self.on_synced(store, life),
            Happening::Applied(store, life) => return self.on_applied(store, life),
            Happening::Maintain(store, life) => return self.on_maintain(store, life),
            Happening::Client(client) => self.on_client(client),
            Happening::GiveUp(at) => self.on_give_up(at),
            Happening::ReadEnds(at, store, life, permit) => {
                self.on_read_ends(at, store, life, permit);
            }
            Happening::Fault => self.on_fault(),
            Happening::Merge(region, into, tries) => self.on_merge(region, into, tries),
            Happening::Heal(from, to) => {
                self.cut.remove(&(from, to));
            }
            Happening::Start(store) => return self.start(store),
            Happening::Crash(store) => self.on_crash(store),
            Happening::Lose(store, long) if self.now < self.storm_end => self.crash(store, long),
            Happening::Lose(..) => {}
        }
        Ok(())
    }

    fn start(&mut self, id: StoreId) -> Result<(), String> {
        let (now, nonce) = (self.now, self.chance.next());
        let (config, watch) = (self.config.clone(), self.watch.clone());
        let node = self.node(id);
        if node.running.is_some() {
            return Ok(());
        }
        node.start(now, &config, nonce, &watch).map_err(|e| format!("store {id} starts: {e}"))?;
        let life = node.life;
        self.note("start", id, life, 0);
        self.wake(id, 0);
        Ok(())
    }

    /// An event for a store's raft thread; nobody hears it if the store does not run.
    pub fn tell(&mut self, id: StoreId, event: Event) {
        let delay = self.chance.below(1500);
        if let Some(running) = &mut self.node(id).running {
            running.inbox.push(event);
            self.wake(id, delay);
        }
    }

    /// Has the raft thread run within this time.
    pub(super) fn wake(&mut self, id: StoreId, after: u64) {
        let at = self.now + after;
        let node = self.node(id);
        let life = node.life;
        let Some(running) = &mut node.running else { return };
        if at < running.turn_at {
            running.turn_at = at;
            self.schedule(after, Happening::Turn(id, life));
        }
    }
}
