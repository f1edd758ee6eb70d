//! One simulated store: the product's core, applier and local reads, and its clock, log and engine.
//! It must never act by itself: the world calls it, and carries away what it asks for.

use super::chance::Chance;
use super::disk::SimLog;
use super::machine::Watched;
use super::watch::Watch;
use crate::apply::{Applier, ApplyTask};
use crate::error::Result;
use crate::handle::ReplicaStatus;
use crate::local_read::{LocalReads, View};
use crate::machine::StateMachine;
use crate::store_core::{CoreConfig, Event, StoreCore, WriteTask};
use damask_kv::MemoryEngine;
use damask_types::{RegionId, StoreId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// A monotonic clock that runs a little fast or slow. Simulated time is in microseconds.
#[derive(Clone, Copy)]
pub(super) struct SimClock {
    pub offset: u64,
    /// Parts in a million, around a million.
    pub rate: u64,
}

impl SimClock {
    pub fn local(&self, now: u64) -> Duration {
        Duration::from_micros(self.offset + now * self.rate / 1_000_000)
    }

    /// When this clock will show a time, rounded up.
    pub fn global(&self, local: Duration) -> u64 {
        let local = (local.as_micros() as u64).saturating_sub(self.offset);
        (local * 1_000_000).div_ceil(self.rate)
    }
}

/// What survives a crash.
pub(super) struct Image {
    pub log: SimLog,
    pub engine: MemoryEngine,
}

/// A store that runs.
pub(super) struct Running {
    pub core: StoreCore,
    pub applier: Applier,
    pub log: Arc<SimLog>,
    pub engine: MemoryEngine,
    pub machine: Arc<Watched>,
    pub local: LocalReads,
    /// What `local` holds.
    pub views: BTreeMap<RegionId, View>,
    pub inbox: Vec<Event>,
    /// When the raft thread wakes up; `u64::MAX` while it runs.
    pub turn_at: u64,
    pub writes: VecDeque<WriteTask>,
    /// The sync at work: what it covers.
    pub writing: Option<(u64, Vec<WriteTask>)>,
    pub applies: VecDeque<Vec<ApplyTask>>,
    pub applying: bool,
    pub maintaining: bool,
}

/// A store, running or not.
pub(super) struct Node {
    pub id: StoreId,
    pub clock: SimClock,
    /// Counts starts: what an earlier life began does not end in this one.
    pub life: u64,
    pub running: Option<Running>,
    pub image: Option<Image>,
    /// The whole process stands still until then.
    pub paused_until: u64,
    /// Only its raft thread does.
    pub stalled_until: u64,
    /// Its disk is so many times slower until the second.
    pub slow: (u64, u64),
    /// The next sync fails.
    pub sync_fails: bool,
    /// Who sleeps here, and how often somebody fell asleep.
    pub asleep: BTreeSet<RegionId>,
    pub sleeps: u64,
}

impl Node {
    pub fn new(id: StoreId, clock: SimClock, image: Image) -> Node {
        Node {
            id,
            clock,
            life: 0,
            running: None,
            image: Some(image),
            paused_until: 0,
            stalled_until: 0,
            slow: (1, 0),
            sync_fails: false,
            asleep: BTreeSet::new(),
            sleeps: 0,
        }
    }

    /// Starts from its image.
    pub fn start(
        &mut self,
        now: u64,
        config: &CoreConfig,
        nonce: u64,
        watch: &Arc<Mutex<Watch>>,
    ) -> Result<()> {
        let Some(Image { log, engine }) = self.image.take() else { return Ok(()) };
        self.life += 1;
        (self.paused_until, self.stalled_until) = (0, 0);
        self.sync_fails = false;
        let log = Arc::new(log);
        let machine = Arc::new(Watched::new(self.id, engine.clone(), watch.clone()));
        let states = machine.recover()?;
        let config = CoreConfig { nonce, ..config.clone() };
        let mut core = StoreCore::new(self.id, config, log.clone(), &states)?;
        core.begin(self.clock.local(now));
        let applier = Applier::new(self.id, machine.clone(), log.clone(), &states);
        self.running = Some(Running {
            core,
            applier,
            log,
            engine,
            machine,
            local: LocalReads::default(),
            views: BTreeMap::new(),
            inbox: Vec::new(),
            turn_at: u64::MAX,
            writes: VecDeque::new(),
            writing: None,
            applies: VecDeque::new(),
            applying: false,
            maintaining: false,
        });
        Ok(())
    }

    /// Power is lost: a prefix of what was not synced stays.
    pub fn crash(&mut self, chance: &mut Chance) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        // The engine's image first: it is never ahead of the durable log.
        let part = |n: usize, quarter: u64| n * quarter as usize / 4;
        let keep = part(running.engine.unsynced(), chance.below(5));
        let engine = running.engine.crash(keep)?;
        let log = running.log.crash(part(running.log.unsynced(), chance.below(5)))?;
        self.image = Some(Image { log, engine });
        Ok(())
    }

    /// The replica that holds a key here.
    pub fn region_at(&self, key: &[u8]) -> Option<ReplicaStatus> {
        let core = &self.running.as_ref()?.core;
        let all = core.ids().into_iter().filter_map(|id| core.status(id));
        all.filter(|s| s.region.range.contains(key)).max_by_key(|s| s.region.epoch.version)
    }

    /// Counts who fell asleep since the last call.
    pub fn note_sleep(&mut self) {
        let all = self.replicas().into_iter().filter(|s| s.hibernating);
        let asleep: BTreeSet<RegionId> = all.map(|s| s.region.id).collect();
        self.sleeps += asleep.difference(&self.asleep).count() as u64;
        self.asleep = asleep;
    }

    /// Every replica here.
    pub fn replicas(&self) -> Vec<ReplicaStatus> {
        let Some(running) = &self.running else { return Vec::new() };
        let core = &running.core;
        core.ids().into_iter().filter_map(|id| core.status(id)).collect()
    }
}
