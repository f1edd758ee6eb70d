//! Faults as they strike, and their end. It must never destroy what was synced.

use crate::chance::hash_bytes;
use crate::kernel::{Micros, kernel};
use crate::net::NodeId;
use crate::nodes::{Life, crash, start};
use crate::placement::Alone;
use crate::plan::{Fault, FaultKind};
use crate::tables::{BANK, ITEMS, LISTS, key};
use crate::world::World;
use damask_env::Fault as DiskFault;
use damask_raftstore::PeerChange;
use damask_types::{Region, RegionId, StoreId};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Regions above which none is split any more.
pub const REGIONS_MAX: usize = 14;
/// Columns that may be added.
pub const COLUMNS_ADDED_MAX: u64 = 6;
/// Readers that are overtaken by a snapshot's import, and until the lag begins.
const READERS_HELD: u64 = 4;
/// See [`READERS_HELD`].
const LAG_AFTER: Micros = 15_000;
/// Until rows that shall be gone after a lag are in the columns.
const FLEETING_TIME: Micros = 80_000;
/// After a lag the columns catch up, and are not cut off again so soon.
const LAG_REST: Micros = 500_000;
/// A lag in which versions are collected lasts no longer.
const LAG_MAX: Micros = 3_000_000;
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
        stores.chain(self.placement.nodes()).chain(clients).collect()
    }

    /// Does something at a later time.
    pub fn later(self: &Arc<World>, time: Micros, what: impl FnOnce(&Arc<World>) + 'static) {
        let world = self.clone();
        kernel().after(time, move || what(&world));
    }

    /// `to` does not hear `from` for so long.
    pub fn cut(self: &Arc<World>, from: NodeId, to: NodeId, time: Micros) {
        self.net.cut(from, to);
        self.later(time, move |world| world.net.mend(from, to));
    }

    fn strike(self: &Arc<World>, fault: &Fault) {
        let Fault { kind, time, pick, .. } = *fault;
        self.counts.lock().faults += 1;
        kernel().note(kind.name(), 0, time, pick);
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
            FaultKind::OracleCrash => self.crash_oracle(time, pick),
            FaultKind::ClientCrash => self.crash_client(pick, time),
            FaultKind::Split => {
                for n in 0..=(pick >> 40) % 3 {
                    self.split_some(pick.rotate_right(7 * n as u32));
                }
            }
            FaultKind::Transfer => self.transfer_some(pick),
            FaultKind::Merge => self.merge_some(pick),
            FaultKind::OldLeader => self.rival(&self.led(), time, pick),
            FaultKind::PlacementCrash => match &self.placement.alone {
                Some(alone) => {
                    alone.pd.crash();
                    self.crash_oracle(time, pick);
                }
                None => self.crash_members(time, pick),
            },
            FaultKind::OldPlacement => self.old_placement(time, pick),
            FaultKind::BitRot => self.rot(store, pick),
            FaultKind::ColumnLag => self.lag(time, pick),
            FaultKind::LateAnswers
            | FaultKind::Forgetful
            | FaultKind::SlowSplit
            | FaultKind::EarlyVote
            | FaultKind::LateMerge
            | FaultKind::ColumnRush
            | FaultKind::LateLock => self.aim(kind, time, pick),
            FaultKind::BadDisk => self.break_disk(store, time, pick),
            FaultKind::AddColumn => {
                let added = self.columns_added.load(Ordering::Relaxed);
                self.columns_added.store((added + 1).min(COLUMNS_ADDED_MAX), Ordering::Relaxed);
            }
            FaultKind::DropColumn => {
                let added = self.columns_added.load(Ordering::Relaxed);
                if added < COLUMNS_ADDED_MAX {
                    self.columns_dropped.store(added, Ordering::Relaxed);
                    self.columns_added.store(added + 1, Ordering::Relaxed);
                }
            }
        }
    }

    fn crash_oracle(self: &Arc<World>, time: Micros, pick: u64) {
        let Some(alone) = &self.placement.alone else { return self.crash_members(time, pick) };
        *alone.oracle.lock() = None;
        self.later(1 + time / 2, World::restart_oracle);
    }

    /// If it was alone and does not run.
    fn restart_oracle(self: &Arc<World>) {
        let down = |alone: &Alone| alone.oracle.lock().is_none();
        if self.placement.alone.as_ref().is_some_and(down)
            && let Err(e) = self.placement.open_oracle()
        {
            self.fail(format!("the oracle does not start: {e}"));
        }
    }

    /// Bits of a store's disk change by themselves, of one store only: whoever holds the same must
    /// not be met by the same. Mostly it is started again soon, and reads everything.
    fn rot(self: &Arc<World>, store: StoreId, pick: u64) {
        let Some(life) = self.life(store).filter(|_| self.may_rot(store)) else { return };
        for n in 0..1 + (pick >> 30) % 3 {
            if let Some((disk, file)) = life.rot(pick.rotate_right(5 * n as u32)) {
                let file = hash_bytes(file.as_bytes()) % 1_000_000;
                kernel().note("rots", store.0, disk as u64, file);
            }
        }
        if !(pick >> 33).is_multiple_of(4) {
            self.later(1_000 + (pick >> 20) % 300_000, move |world| {
                if !world.is_calm() {
                    crash(world, store, 1 + pick % 100_000);
                }
            });
        }
    }

    /// A disk that is full, or an operation of it that fails: the store stops, and is started
    /// again from what is durable.
    fn break_disk(self: &Arc<World>, store: StoreId, time: Micros, pick: u64) {
        let Some(life) = self.life(store) else { return };
        let disk = pick >> 16;
        let fault = match (pick >> 8) % 3 {
            0 => DiskFault { capacity: Some(life.disk_bytes(disk) + 64), fail_at: None },
            _ => DiskFault { fail_at: Some((pick >> 24) % 60), capacity: None },
        };
        life.break_disk(disk, fault);
        self.later(time, move |world| {
            life.mend_disks();
            if life.alive.get() {
                crash(world, store, 1 + time / 4);
            }
        });
    }

    /// One in three is a change of a part that was split off. Of the others in a run that collects,
    /// half are so long that nothing is left, when they end, of rows that were deleted meanwhile.
    fn lag(self: &Arc<World>, time: Micros, pick: u64) {
        if (pick >> 14).is_multiple_of(3) {
            return self.leave_after_split(pick, READERS_HELD);
        }
        let life = self.plan.limits.life_ms * 1_000;
        if life == 0 || (pick >> 12).is_multiple_of(2) {
            let time = time.clamp(400_000, 1_200_000);
            if self.takes_aim(time + LAG_REST) {
                self.lag_columns(time, pick);
            }
            return;
        }
        let time = (life + 600_000 + pick % 500_000).min(LAG_MAX);
        if !self.takes_aim(time + LAG_REST) {
            return;
        }
        self.fleeting_rows(pick, FLEETING_TIME + LAG_AFTER + 5_000);
        self.later(FLEETING_TIME, move |world| {
            if !world.is_calm() {
                world.lag_columns(time, pick);
            }
        });
    }

    /// A learner that hears nothing while its leader's log goes on.
    fn lag_columns(self: &Arc<World>, time: Micros, pick: u64) {
        let led = self.led();
        let with: Vec<_> =
            led.iter().filter(|(_, region)| region.learners().next().is_some()).collect();
        let Some((life, region)) = with.get(pick as usize % with.len().max(1)) else { return };
        let Some(learner) = region.learners().next().copied() else { return };
        if (pick >> 8).is_multiple_of(3) {
            // Gone, and soon another one takes its place.
            let (id, epoch) = (region.id, region.epoch);
            life.handle.change_peer(id, epoch, PeerChange::Remove(learner), Box::new(|_| {}));
        }
        // Some have just been told that they may read.
        self.pace(learner.store).hold(READERS_HELD);
        (0..READERS_HELD)
            .for_each(|n| self.read_columns(pick.rotate_left(n as u32), &region.range));
        self.later(LAG_AFTER, move |world| {
            let others = world.store_ids().into_iter().filter(|other| *other != learner.store);
            others.for_each(|other| world.cut(other.0, learner.store.0, time));
        });
    }

    fn jump(self: &Arc<World>, pick: u64, time: Micros) {
        let groups: Vec<_> = self.lives().iter().map(|life| life.group).collect();
        let group = match pick % 2 {
            0 => Some(self.placement.clock_of(pick >> 16)),
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
    pub fn led(&self) -> Vec<(Arc<Life>, Region)> {
        let mut led = Vec::new();
        for life in self.lives() {
            let leads = life.handle.replicas().into_iter().filter(|status| status.is_leader);
            led.extend(leads.map(|status| (life.clone(), status.region)));
        }
        led
    }

    /// Splits a region at one of the first rows of a table.
    pub fn split_some(self: &Arc<World>, pick: u64) {
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
            self.crash_soon(region, pick);
        }
    }

    /// Now and then the power fails at one of a region's stores just when something changes it, or
    /// one of them hears nothing of it for a while.
    fn crash_soon(self: &Arc<World>, region: &Region, pick: u64) {
        let peer = region.peers[(pick >> 30) as usize % region.peers.len()];
        match (pick >> 34) % 6 {
            0 => self.later((pick >> 37) % 20_000, move |world| {
                if !world.is_calm() {
                    crash(world, peer.store, 1 + pick % 100_000);
                }
            }),
            1 => {
                let others = self.store_ids().into_iter().filter(|other| *other != peer.store);
                others.for_each(|other| self.cut(other.0, peer.store.0, 100_000 + pick % 500_000));
            }
            _ => {}
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
        let pairs = self.neighbours();
        let Some((life, region, into)) = pairs.get(pick as usize % pairs.len().max(1)) else {
            return;
        };
        self.merge(life, region, *into);
        self.crash_soon(region, pick);
    }

    /// Regions with their leaders, each with a neighbour that is on the same stores.
    pub fn neighbours(&self) -> Vec<(Arc<Life>, Region, RegionId)> {
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
            pairs.extend(others.map(|(_, other)| (life.clone(), one.clone(), other.id)));
        }
        pairs
    }

    /// Has a leader merge its region into another one.
    pub fn merge(self: &Arc<World>, life: &Life, region: &Region, into: RegionId) {
        kernel().note("merge", life.handle.id().0, region.id.0, into.0);
        let world = self.clone();
        let done = move |result: damask_raftstore::Result<Region>| {
            if result.is_ok() {
                world.counts.lock().merges += 1;
            }
        };
        life.handle.merge(region.id, region.epoch, into, Box::new(done));
    }

    /// Ends all faults.
    pub fn heal(self: &Arc<World>) {
        self.calm();
        self.net.heal();
        // What has not been found out by now might be when nobody looks after it any more.
        self.rotten().into_iter().for_each(|id| self.retire(id));
        for id in self.store_ids() {
            self.pace(id).calm();
            match self.life(id) {
                Some(life) => {
                    kernel().wake_group(life.group);
                    if life.is_faulty() {
                        life.mend_disks();
                        crash(self, id, 1);
                    }
                }
                None => start(self, id),
            }
        }
        self.restart_oracle();
        self.heal_members();
        kernel().jump(self.placement.group, 0);
        let clients = self.clients.lock().len();
        (0..clients).for_each(|at| self.start_client(at));
    }
}
