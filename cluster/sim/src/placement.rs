//! The placement driver's process: its state and the oracle's, the reports that come in and the
//! steps that go out. It must never decide where replicas go: that is `damask_pd::plan`'s.

use crate::driver::SimPd;
use crate::kernel::{Group, Micros, kernel};
use crate::net::PLACEMENT;
use crate::nodes::Life;
use crate::world::World;
use damask_env::{Clock, MemoryDisk};
use damask_pd::{Flow, Placement, RegionReport, SplitIds, Step, StoreReport};
use damask_pd::{StoreInfo, StoreKind};
use damask_raftstore::{PeerChange, ReplicaStatus, SplitChild};
use damask_tso::LocalOracle;
use damask_types::{Epoch, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, StoreId};
use parking_lot::Mutex;
use std::sync::Arc;

/// Between two rounds of reports.
const REPORT_EVERY: Micros = 250_000;
/// The oracle's file.
const BOUND: &str = "timestamp";

/// What the placement driver's process has.
pub struct PlacementNode {
    /// Its process.
    pub group: Group,
    /// Placement.
    pub pd: Arc<SimPd>,
    /// The oracle, while it runs.
    pub oracle: Mutex<Option<Arc<LocalOracle>>>,
    disk: MemoryDisk,
}

impl PlacementNode {
    /// A new cluster of so many stores.
    pub fn new(rows: &[StoreId], columns: &[StoreId]) -> Result<PlacementNode, String> {
        let told = |e: &dyn std::fmt::Display| e.to_string();
        let kernel = kernel();
        let group = kernel.group(7_000_000, 1_000_000);
        let config = damask_pd::Config {
            warm_up_ms: 500,
            quiet_ms: 1_500,
            down_ms: 600_000,
            leader_tolerance: 2,
            ..damask_pd::Config::default()
        };
        let pd = SimPd::new(config).map_err(|e| told(&e))?;
        let kinds = rows.iter().map(|id| (*id, StoreKind::Row));
        for (id, kind) in kinds.chain(columns.iter().map(|id| (*id, StoreKind::Column))) {
            let info = StoreInfo { id, kind, address: format!("store-{id}") };
            pd.register_store(info).map_err(|e| told(&e))?;
        }
        let role = PeerRole::Voter;
        let ids = pd.alloc_ids(4).map_err(|e| told(&e))?;
        let peer =
            |at: usize| Peer { id: PeerId(ids.start + 1 + at as u64), store: rows[at], role };
        let first = Region {
            id: RegionId(ids.start),
            range: KeyRange::all(),
            epoch: Epoch { conf_ver: 1, version: 1 },
            peers: (0..3).map(peer).collect(),
        };
        pd.bootstrap(&first).map_err(|e| told(&e))?;
        let disk = MemoryDisk::new();
        let node = PlacementNode { group, pd: Arc::new(pd), oracle: Mutex::new(None), disk };
        node.open_oracle()?;
        Ok(node)
    }

    /// Starts the oracle from what it has saved.
    pub fn open_oracle(&self) -> Result<(), String> {
        self.pd.restart().map_err(|e| e.to_string())?;
        let clock: Arc<dyn Clock> = Arc::new(kernel().clock(self.group));
        let opened = LocalOracle::open(clock, Arc::new(self.disk.clone()), BOUND);
        *self.oracle.lock() = Some(Arc::new(opened.map_err(|e| e.to_string())?));
        Ok(())
    }
}

impl World {
    /// A store's word about one of its replicas, on its way to the placement driver.
    pub fn report(self: &Arc<World>, from: StoreId, status: ReplicaStatus) {
        let Some(leader) = status.leader.filter(|_| status.is_leader) else { return };
        let world = self.clone();
        let delivery = move || {
            let report = RegionReport {
                region: status.region.clone(),
                leader,
                term: status.term,
                bytes: 0,
                flow: Flow::default(),
                pending: status.pending.iter().map(|p| p.id).collect(),
                merging: status.merging,
                unsplittable: false,
            };
            // An old report is refused: nothing is lost by that.
            if let Ok(Some(step)) = world.placement.pd.region_heartbeat(report) {
                let (stepping, region) = (world.clone(), status.region.clone());
                let back = move || stepping.carry_out(from, &region, &step);
                world.net.send(PLACEMENT, from.0, Arc::new(back));
            }
        };
        self.net.send(from.0, PLACEMENT, Arc::new(delivery));
    }

    /// A round of reports from every store, again and again.
    pub fn rounds(self: &Arc<World>) {
        for life in self.lives() {
            let (id, world) = (life.handle.id(), self.clone());
            if kernel().paused_until(life.group).is_some() {
                continue;
            }
            let delivery = move || {
                let report = StoreReport { store: id, capacity: 0, available: 0, failed: false };
                drop(world.placement.pd.store_heartbeat(report));
            };
            self.net.send(id.0, PLACEMENT, Arc::new(delivery));
            life.handle.replicas().into_iter().for_each(|status| self.report(id, status));
        }
        let now = kernel().clock(self.placement.group).monotonic().as_millis() as u64;
        if self.placement.pd.runs()
            && let Err(e) = self.placement.pd.tick(now)
        {
            self.fail(format!("the placement driver cannot plan: {e}"));
        }
        if !self.is_over() {
            let world = self.clone();
            kernel().after(REPORT_EVERY, move || world.rounds());
        }
    }

    fn carry_out(self: &Arc<World>, store: StoreId, region: &Region, step: &Step) {
        let Some(life) = self.life(store) else { return };
        let changes = match step {
            Step::AddLearner(peer) => vec![PeerChange::AddLearner(*peer)],
            Step::AddVoter(peer) => vec![PeerChange::AddVoter(*peer)],
            Step::RemovePeer(peer) => vec![PeerChange::Remove(*peer)],
            Step::Swap { add, old } => {
                vec![PeerChange::AddVoter(*add), PeerChange::AddLearner(*old)]
            }
            Step::TransferLeader(peer) => return life.handle.transfer_leader(region.id, *peer),
            Step::SplitAt(keys) => return self.split(&life, region, keys.clone()),
            _ => return,
        };
        kernel().note("step", store.0, region.id.0, region.epoch.conf_ver);
        let world = self.clone();
        let done = move |result: damask_raftstore::Result<Region>| {
            if result.is_ok() {
                world.counts.lock().changes += 1;
            }
        };
        life.handle.change_peers(region.id, region.epoch, changes, Box::new(done));
    }

    /// Has a leader split its region.
    pub fn split(self: &Arc<World>, life: &Life, region: &Region, keys: Vec<Vec<u8>>) {
        let Ok(ids) = self.placement.pd.ask_split(region, keys.len()) else { return };
        let child = |ids: SplitIds| SplitChild { region: ids.region, peers: ids.peers };
        let children = ids.into_iter().map(child).collect();
        kernel().note("split", life.handle.id().0, region.id.0, keys.len() as u64);
        let world = self.clone();
        let done = move |result: damask_raftstore::Result<Vec<Region>>| {
            if result.is_ok() {
                world.counts.lock().splits += 1;
            }
        };
        life.handle.split(region.id, region.epoch, keys, children, Box::new(done));
    }
}
