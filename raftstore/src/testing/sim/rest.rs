//! What follows when nobody asks for anything: groups fall asleep, in the storm and after it, and
//! find a leader again when theirs is lost meanwhile. It must never wake anybody itself.

use super::world::{Happening, World};
use crate::handle::ReplicaStatus;
use damask_types::{RegionId, StoreId};
use std::collections::BTreeMap;

/// How long it may take until all groups sleep at once; in simulated microseconds.
const ALL_ASLEEP: u64 = 120_000_000;
/// Election timeouts after which a group whose leader is lost has another one: one until that is
/// noticed, one or two until somebody stands, and again for votes that were split.
const ELECTIONS_MAX: u64 = 12;

impl World {
    /// Clients pause for so long that groups fall asleep; often a leader is lost then.
    pub(super) fn lull(&mut self) {
        let long = self.chance.between(300, 4_000) * 1000;
        self.lull_until = self.now + long;
        if self.chance.permille(500) {
            let led = self.led();
            let stores: Vec<StoreId> = led.values().copied().collect();
            let Some(store) = self.chance.pick(&stores).copied() else { return };
            let after = self.chance.between(long / 2, long);
            let downtime = self.chance.between(1, 3_000) * 1000;
            self.schedule(after, Happening::Lose(store, downtime));
        }
    }

    /// Who leads each region, as somebody believes.
    fn led(&self) -> BTreeMap<RegionId, StoreId> {
        let all = self.nodes.iter().flat_map(|(id, n)| n.replicas().into_iter().map(|s| (*id, s)));
        all.filter(|(_, s)| s.is_leader).map(|(id, s)| (s.region.id, id)).collect()
    }

    /// After everything has become alike: all sleep; then one store is lost, and every region that
    /// has a quorum left is led again, soon.
    pub(super) fn rest(&mut self) -> Result<(), String> {
        if !self.config.hibernate_regions {
            return Ok(());
        }
        let awake = |s: &ReplicaStatus| !s.hibernating;
        let asleep = |world: &World| !world.nodes.values().any(|n| n.replicas().iter().any(awake));
        if !self.run_until(self.now + ALL_ASLEEP, asleep)? {
            let told = self.describe();
            return Err(format!("somebody does not fall asleep\n{told}"));
        }
        let led = self.led();
        let stores: Vec<StoreId> = led.values().copied().collect();
        let Some(lost) = self.chance.pick(&stores).copied() else { return Ok(()) };
        let node = self.nodes.get_mut(&lost).expect("it leads");
        node.crash(&mut self.chance).map_err(|e| format!("an image of store {lost}: {e}"))?;
        self.note("lost", lost, 0, 0);
        let regions = self.watch.lock().regions().clone();
        let mut orphans: Vec<RegionId> = Vec::new();
        for (id, region) in regions {
            let (all, left) = (region.voters(), region.voters().filter(|p| p.store != lost));
            if led.get(&id) == Some(&lost) && left.count() > all.count() / 2 {
                orphans.push(id);
            }
        }
        let timeout = self.config.tick.as_micros() as u64 * self.config.raft.election_ticks as u64;
        let found = |world: &World| {
            let led = world.led();
            orphans.iter().all(|id| led.contains_key(id))
        };
        if !self.run_until(self.now + ELECTIONS_MAX * timeout, found)? {
            let told = self.describe();
            return Err(format!("{orphans:?} were led by store {lost}, and now by none\n{told}"));
        }
        Ok(())
    }
}
