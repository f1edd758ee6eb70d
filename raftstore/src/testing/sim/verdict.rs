//! What is compared over all stores: content now and then, and at the end whether they are alike.
//! It must never change what it looks at.

use super::world::World;
use crate::apply::LOG_START;
use crate::machine::{RegionState, StateMachine};
use damask_types::{RegionId, StoreId};
use std::collections::BTreeMap;

impl World {
    /// Every replica in words.
    pub(super) fn describe(&self) -> String {
        let mut told = String::new();
        for (id, node) in &self.nodes {
            let Some(running) = &node.running else { continue };
            for region in running.core.ids() {
                let replica = running.core.describe(region);
                told += &format!("    store {id} region {region}: {replica}\n");
            }
        }
        told
    }

    /// Replicas that have applied the same hold the same.
    pub(super) fn compare(&self) -> Result<(), String> {
        let mut seen: BTreeMap<(RegionId, u64), (StoreId, u64)> = BTreeMap::new();
        for (id, node) in &self.nodes {
            let Some(running) = &node.running else { continue };
            for state in running.machine.rows().recover().map_err(|e| e.to_string())? {
                let RegionState { region, applied, tombstone: false, .. } = state else { continue };
                let scan = running.machine.scan(&region.range).map_err(|e| e.to_string())?;
                let first = *seen.entry((region.id, applied.index)).or_insert((*id, scan));
                if first.1 != scan {
                    return Err(format!(
                        "region {} at {} differs between stores {} and {id}",
                        region.id, applied.index, first.0
                    ));
                }
            }
        }
        Ok(())
    }

    /// Every region has one leader, and its replicas, and nobody else, are where the leader is.
    pub(super) fn settled(&self) -> Result<(), String> {
        self.compare()?;
        let all: BTreeMap<StoreId, _> =
            self.nodes.iter().map(|(id, n)| (*id, n.replicas())).collect();
        let regions = self.watch.lock().regions().clone();
        for (id, replicas) in &all {
            if let Some(left) = replicas.iter().find(|s| !regions.contains_key(&s.region.id)) {
                return Err(format!("left behind on store {id}: {left:?}"));
            }
            if let Some(joint) = replicas.iter().find(|s| s.region.is_joint()) {
                return Err(format!("on store {id} a joint configuration has no end: {joint:?}"));
            }
            if let Some(merging) = replicas.iter().find(|s| s.merging) {
                return Err(format!("on store {id} a merge has no end: {merging:?}"));
            }
        }
        for region in regions.values() {
            let of = |id: &StoreId| all[id].iter().find(|s| s.region.id == region.id);
            let leads = |id: &&StoreId| of(id).is_some_and(|s| s.is_leader);
            let leaders: Vec<&StoreId> = all.keys().filter(leads).collect();
            let [leader] = leaders[..] else {
                return Err(format!("region {} is led by {leaders:?}", region.id));
            };
            let leader = of(leader).expect("it leads");
            if leader.region != *region || leader.applied.index < LOG_START.index {
                return Err(format!("the leader has {:?}, not {region:?}", leader.region));
            }
            for id in all.keys() {
                match (region.peer_on(*id), of(id)) {
                    (None, None) => {}
                    (Some(_), Some(status))
                        if status.applied == leader.applied && status.region == *region => {}
                    (peer, status) => {
                        let tell = |id: &StoreId| {
                            let running = self.nodes[id].running.as_ref();
                            running.map(|r| r.core.describe(region.id)).unwrap_or_default()
                        };
                        let on = leaders[0];
                        return Err(format!(
                            "region {} on store {id}: {peer:?}, {status:?}\n    here {}\n    \
                             leader, on {on}: {}",
                            region.id,
                            tell(id),
                            tell(on)
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
