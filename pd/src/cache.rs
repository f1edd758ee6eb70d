//! A client's view of where keys are: filled from a placement driver on demand, corrected by what
//! stores answer. It must never go back to an older description of a region.

use crate::regions::RegionMap;
use crate::seam::{Locate, Placement};
use crate::values::Route;
use damask_types::{KeyRange, Peer, Region, RegionId};
use parking_lot::RwLock;
use std::sync::Arc;

/// Caches routes; a hit is one read lock and one map look-up.
pub struct RegionCache {
    placement: Arc<dyn Placement>,
    known: RwLock<RegionMap<Option<Peer>>>,
}

impl RegionCache {
    /// An empty cache over a placement driver.
    pub fn new(placement: Arc<dyn Placement>) -> RegionCache {
        RegionCache { placement, known: RwLock::new(RegionMap::new()) }
    }

    /// Asks the placement driver, and keeps the answer unless something newer is known here.
    fn load(&self, key: &[u8]) -> Option<Route> {
        let route = self.placement.route(key)?;
        let mut known = self.known.write();
        match put(&mut known, route.region.clone(), route.leader) {
            true => Some(route),
            false => known.find(key).map(to_route).or(Some(route)),
        }
    }
}

fn to_route((region, leader): &(Region, Option<Peer>)) -> Route {
    Route { region: region.clone(), leader: *leader }
}

/// Puts a description unless an older one. Without a leader it gets a likely one: who led the
/// region, or whatever it replaces, before; the children of a split are led where the parent was.
fn put(known: &mut RegionMap<Option<Peer>>, region: Region, leader: Option<Peer>) -> bool {
    let leader = leader.or_else(|| likely_leader(known, &region));
    known.put(region, leader).is_ok()
}

fn likely_leader(known: &RegionMap<Option<Peer>>, region: &Region) -> Option<Peer> {
    let before = match known.get(region.id) {
        Some((_, leader)) => *leader,
        None => known.overlapping(&region.range).find_map(|(_, leader)| *leader),
    };
    region.voters().find(|peer| Some(peer.store) == before.map(|b| b.store)).copied()
}

impl Locate for RegionCache {
    fn locate(&self, key: &[u8]) -> Option<Route> {
        let hit = self.known.read().find(key).map(to_route);
        match hit {
            Some(route) if route.leader.is_some() => Some(route),
            // The leader was found wrong: perhaps the placement driver has heard of the next.
            hit => self.load(key).or(hit),
        }
    }

    fn locate_range(&self, range: &KeyRange) -> Vec<Route> {
        let mut routes = Vec::new();
        let mut key = range.start.clone();
        // Ends: each region ends after `key`.
        while !range.is_empty() {
            let Some(route) = self.locate(&key) else { return Vec::new() };
            key.clone_from(&route.region.range.end);
            routes.push(route);
            if key.is_empty() || (!range.end.is_empty() && key >= range.end) {
                break;
            }
        }
        routes
    }

    fn update(&self, regions: Vec<Region>) {
        let mut known = self.known.write();
        // All leaders first: putting one child of a split removes the parent.
        let likely: Vec<_> = regions.iter().map(|r| likely_leader(&known, r)).collect();
        for (region, leader) in regions.into_iter().zip(likely) {
            put(&mut known, region, leader);
        }
    }

    fn set_leader(&self, region: RegionId, leader: Option<Peer>) {
        if let Some(known) = self.known.write().value_mut(region) {
            *known = leader;
        }
    }

    fn invalidate(&self, region: RegionId) {
        self.known.write().remove(region);
    }
}

#[cfg(test)]
mod tests;
