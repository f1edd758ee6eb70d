//! Faults as they strike, and their end. It must never destroy what was synced.

use crate::kernel::{Micros, kernel};
use crate::net::{NodeId, PLACEMENT};
use crate::nodes::{Life, crash, start};
use crate::plan::{Fault, FaultKind};
use crate::tables::{BANK, ITEMS, LISTS, key};
use crate::world::World;
use damask_types::{Region, StoreId};
use std::sync::Arc;

/// Regions above which none is split any more.
const REGIONS_MAX: usize = 14;
/// Threads of a store that may stand still alone.
const STALLED: [&str; 3] = ["raft", "apply", "log"];

impl World {
    /// Lets the plan's faults happen.
    pub fn schedule_faults(self: &Arc<World>) {
        let has = |kind| self.plan.faults.iter().any(|fault| fault.kind == kind);
        self.net.set(
            has(FaultKind::Loss),
            has(FaultKind::Delay),
            has(FaultKind::Duplicate),
            has(FaultKind::Replay),
        );
        for fault in self.plan.faults.clone() {
            let world = self.clone();
            kernel().after(fault.at, move || {
                if !world.is_calm() {
                    world.strike(&fault);
                }
            });
        }
    }

    fn nodes(&self) -> Vec<NodeId> {
        let stores = self.store_ids().into_iter().map(|id| id.0);
        let clients = self.clients.lock().iter().map(|client| client.id).collect::<Vec<_>>();
        stores.chain([PLACEMENT]).chain(clients).collect()
    }

    fn later(self: &Arc<World>, time: Micros, what: impl FnOnce(&Arc<World>) + 'static) {
        let world = self.clone();
        kernel().after(time, move || what(&world));
    }

    fn cut(self: &Arc<World>, from: NodeId, to: NodeId, time: Micros) {
        self.net.cut(from, to);
        self.later(time, move |world| world.net.mend(from, to));
    }

    fn strike(self: &Arc<World>, fault: &Fault) {
        let Fault { kind, time, pick, .. } = *fault;
        self.counts.lock().faults += 1;
        kernel().note("fault", kind as u64, time, pick);
        let some = |all: &[u64], by: u64| all[(by % all.len() as u64) as usize];
        let nodes = self.nodes();
        let stores: Vec<u64> = self.store_ids().into_iter().map(|id| id.0).collect();
        let store = StoreId(some(&stores, pick));
        match kind {
            FaultKind::Loss | FaultKind::Delay | FaultKind::Duplicate | FaultKind::Drift => {}
            FaultKind::Replay => self.net.replay(time.max(100_000), pick),
            FaultKind::Isolation => {
                // Half of the time a leader, from other stores only: clients still reach it.
                let led = self.led();
                let leader = led.get((pick >> 8) as usize % led.len().max(1));
                let (all, alone) = match leader.filter(|_| (pick >> 20) % 2 == 1) {
                    Some((life, _)) => (&stores, life.handle.id().0),
                    None => (&nodes, some(&nodes, pick)),
                };
                for other in all.iter().copied().filter(|other| *other != alone) {
                    self.cut(alone, other, time);
                    self.cut(other, alone, time);
                }
            }
            FaultKind::OneWayCut => self.cut(some(&nodes, pick), some(&nodes, pick >> 8), time),
            FaultKind::Crash => crash(self, store, time.min(1_000_000)),
            FaultKind::Blackout => {
                for (at, id) in self.store_ids().into_iter().enumerate() {
                    crash(self, id, 1 + (pick >> at) % 400_000);
                }
            }
            FaultKind::Pause => {
                if let Some(life) = self.life(store) {
                    kernel().pause_group(life.group, time);
                }
            }
            FaultKind::Stall => {
                if let Some(life) = self.life(store) {
                    let name = STALLED[(pick >> 8) as usize % STALLED.len()];
                    kernel().stall(life.group, name, time);
                }
            }
            FaultKind::SlowDisk => {
                self.pace(store).slow(5 + pick % 100, kernel().time() + time);
            }
            FaultKind::Jump => self.jump(pick, time),
            FaultKind::OracleCrash => {
                *self.placement.oracle.lock() = None;
                self.later(1 + time / 2, |world| {
                    if world.placement.oracle.lock().is_none()
                        && let Err(e) = world.placement.open_oracle()
                    {
                        world.fail(format!("the oracle does not start: {e}"));
                    }
                });
            }
            FaultKind::ClientCrash => self.crash_client(pick, time),
            FaultKind::Split => self.split_some(pick),
            FaultKind::Transfer => self.transfer_some(pick),
            FaultKind::Merge => self.merge_some(pick),
        }
    }

    fn jump(self: &Arc<World>, pick: u64, time: Micros) {
        let groups: Vec<_> = self.lives().iter().map(|life| life.group).collect();
        let group = match pick % 2 {
            0 => Some(self.placement.group),
            _ => groups.get((pick >> 8) as usize % groups.len().max(1)).copied(),
        };
        let Some(group) = group else { return };
        // Up to two seconds ahead, or an hour back.
        let ms = match (pick >> 4) % 2 {
            0 => ((pick >> 8) % 2_000) as i64,
            _ => -(((pick >> 8) % 3_600_000) as i64),
        };
        kernel().jump(group, ms);
        self.later(time, move |_| kernel().jump(group, 0));
    }

    fn crash_client(self: &Arc<World>, pick: u64, time: Micros) {
        let at = {
            let mut clients = self.clients.lock();
            let at = pick as usize % clients.len();
            if let Some(alive) = clients[at].alive.take() {
                alive.end();
            }
            at
        };
        self.later(time, move |world| world.start_client(at));
    }

    /// Regions with their leaders.
    fn led(&self) -> Vec<(Arc<Life>, Region)> {
        let mut led = Vec::new();
        for life in self.lives() {
            let leads = life.handle.replicas().into_iter().filter(|status| status.is_leader);
            led.extend(leads.map(|status| (life.clone(), status.region)));
        }
        led
    }

    fn split_some(self: &Arc<World>, pick: u64) {
        let led = self.led();
        if led.is_empty() || led.len() > REGIONS_MAX {
            return;
        }
        let table = [BANK, LISTS, ITEMS][(pick >> 8) as usize % 3];
        let at = key(table, ((pick >> 16) % 12) as i64);
        let holds = |(_, region): &&(Arc<Life>, Region)| {
            region.range.contains(&at) && region.range.start != at
        };
        if let Some((life, region)) = led.iter().find(holds) {
            self.split(life, region, vec![at]);
        }
    }

    fn transfer_some(&self, pick: u64) {
        let led = self.led();
        let Some((life, region)) = led.get(pick as usize % led.len().max(1)) else { return };
        let voters: Vec<_> = region.voters().copied().collect();
        if let Some(peer) = voters.get((pick >> 8) as usize % voters.len().max(1)) {
            life.handle.transfer_leader(region.id, *peer);
        }
    }

    /// Merges a region into a neighbour that is on the same stores.
    fn merge_some(self: &Arc<World>, pick: u64) {
        let led = self.led();
        let stores = |region: &Region| {
            let mut stores: Vec<_> = region.peers.iter().map(|p| (p.store, p.role)).collect();
            stores.sort_unstable_by_key(|(store, _)| *store);
            stores
        };
        let mut pairs = Vec::new();
        for (life, one) in &led {
            let touches = |other: &Region| {
                let right = !one.range.end.is_empty() && one.range.end == other.range.start;
                let left = !one.range.start.is_empty() && one.range.start == other.range.end;
                (right || left) && stores(one) == stores(other)
            };
            let others = led.iter().filter(|(_, other)| touches(other));
            pairs.extend(others.map(|(_, other)| (life, one, other.id)));
        }
        let Some((life, region, into)) = pairs.get(pick as usize % pairs.len().max(1)) else {
            return;
        };
        kernel().note("merge", life.handle.id().0, region.id.0, into.0);
        let world = self.clone();
        let done = move |result: damask_raftstore::Result<Region>| {
            if result.is_ok() {
                world.counts.lock().merges += 1;
            }
        };
        life.handle.merge(region.id, region.epoch, *into, Box::new(done));
    }

    /// Ends all faults.
    pub fn heal(self: &Arc<World>) {
        self.calm();
        self.net.heal();
        for id in self.store_ids() {
            self.pace(id).slow(1, 0);
            match self.life(id) {
                Some(life) => kernel().wake_group(life.group),
                None => start(self, id),
            }
        }
        if self.placement.oracle.lock().is_none()
            && let Err(e) = self.placement.open_oracle()
        {
            self.fail(format!("the oracle does not start: {e}"));
        }
        kernel().jump(self.placement.group, 0);
        let clients = self.clients.lock().len();
        (0..clients).for_each(|at| self.start_client(at));
    }
}
