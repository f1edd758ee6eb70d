//! The placement driver's processes: one alone, or the members of a group; the reports that come in
//! and the steps that go out. It must never decide where replicas go: that is `damask_pd::plan`'s.

use crate::driver::{RemotePd, SimPd};
use crate::given::Given;
use crate::kernel::{Group, Micros, kernel};
use crate::members::{PdLife, PdNode, make, member_ids};
use crate::net::{FIRST_MEMBER, NodeId, PLACEMENT};
use crate::nodes::{Alive, Life};
use crate::plan::Limits;
use crate::remote::Wire;
use crate::world::World;
use damask_env::simulation::pause;
use damask_env::{Clock, MemoryDisk};
use damask_pd::{Flow, Pd, Placement, RegionReport, SplitIds, Step, StoreReport};
use damask_pd::{StoreInfo, StoreKind};
use damask_raftstore::{PeerChange, ReplicaStatus, SplitChild};
use damask_tso::LocalOracle;
use damask_types::{Epoch, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, StoreId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two rounds of reports.
const REPORT_EVERY: Micros = 250_000;
/// The oracle's file.
const BOUND: &str = "timestamp";
/// Whoever makes stores known to the driver, in the network.
pub const OPERATOR: NodeId = 899;
/// Until that is tried again.
const AGAIN: Duration = Duration::from_millis(30);

/// A driver and an oracle in one process, with files of their own.
pub struct Alone {
    /// Placement.
    pub pd: SimPd,
    /// The oracle, while it runs.
    pub oracle: Mutex<Option<Arc<LocalOracle>>>,
    disk: MemoryDisk,
}

/// What the placement driver's processes have.
pub struct PlacementNode {
    /// Its process, if it is alone; in any case that of whoever looks after the cluster.
    pub group: Group,
    /// The driver, if it is alone.
    pub alone: Option<Alone>,
    /// The members of its group, by their place in the network.
    pub members: Mutex<BTreeMap<NodeId, PdNode>>,
    /// The next leader of the group dies as soon as it serves.
    pub doomed: AtomicBool,
    /// What was given out.
    pub given: Mutex<Given>,
    /// It knows the stores and the first region.
    ready: AtomicBool,
}

/// The planner's aims.
pub fn planner(limits: &Limits) -> damask_pd::Config {
    let aims = damask_pd::Config {
        warm_up_ms: 500,
        quiet_ms: 1_500,
        down_ms: 600_000,
        leader_tolerance: 2,
        ..damask_pd::Config::default()
    };
    match limits.region_keys {
        0 => aims,
        region_keys_max => damask_pd::Config {
            region_keys_max,
            merge_keys_max: region_keys_max,
            merge_quiet_ms: limits.merge_quiet_ms,
            ..aims
        },
    }
}

/// Makes the stores known, and the region that holds every key at first. May be done again.
fn prepare(pd: &Pd, rows: &[StoreId], columns: &[StoreId]) -> damask_pd::Result<()> {
    let kinds = rows.iter().map(|id| (*id, StoreKind::Row));
    for (id, kind) in kinds.chain(columns.iter().map(|id| (*id, StoreKind::Column))) {
        pd.register_store(StoreInfo { id, kind, address: format!("store-{id}") })?;
    }
    if pd.bootstrapped().is_some() {
        return Ok(());
    }
    let (ids, role) = (pd.alloc_ids(4)?, PeerRole::Voter);
    let peer = |at: usize| Peer { id: PeerId(ids.start + 1 + at as u64), store: rows[at], role };
    let first = Region {
        id: RegionId(ids.start),
        range: KeyRange::all(),
        epoch: Epoch { conf_ver: 1, version: 1 },
        peers: (0..3).map(peer).collect(),
    };
    pd.bootstrap(&first)?;
    Ok(())
}

impl PlacementNode {
    /// Of a new cluster; a driver alone is ready at once.
    ///
    /// # Errors
    /// In words.
    pub fn new(
        limits: &Limits,
        pace: impl Fn() -> crate::disks::Pace,
        rows: &[StoreId],
        columns: &[StoreId],
    ) -> Result<PlacementNode, String> {
        let group = kernel().group(7_000_000, 1_000_000);
        let members: BTreeMap<_, _> = (FIRST_MEMBER..).zip(make(limits.pds, pace)?).collect();
        let alone = members.is_empty().then(|| alone(limits, rows, columns)).transpose()?;
        let node = PlacementNode {
            group,
            ready: AtomicBool::new(alone.is_some()),
            alone,
            members: Mutex::new(members),
            doomed: AtomicBool::new(false),
            given: Mutex::default(),
        };
        node.open_oracle()?;
        Ok(node)
    }

    /// Starts a driver alone and its oracle from what they have saved.
    ///
    /// # Errors
    /// In words.
    pub fn open_oracle(&self) -> Result<(), String> {
        let Some(alone) = &self.alone else { return Ok(()) };
        alone.pd.restart().map_err(|e| e.to_string())?;
        let clock: Arc<dyn Clock> = Arc::new(kernel().clock(self.group));
        let opened = LocalOracle::open(clock, Arc::new(alone.disk.clone()), BOUND);
        *alone.oracle.lock() = Some(Arc::new(opened.map_err(|e| e.to_string())?));
        Ok(())
    }

    /// May stores start? A driver alone must run; members are asked for as long as it takes.
    pub fn is_ready(&self) -> bool {
        let runs = self.alone.as_ref().is_none_or(|alone| alone.pd.runs());
        runs && self.ready.load(Ordering::Relaxed)
    }

    /// A member that runs.
    pub fn life(&self, id: NodeId) -> Option<Arc<PdLife>> {
        self.members.lock().get(&id)?.life.clone()
    }

    /// All that run.
    pub fn lives(&self) -> Vec<Arc<PdLife>> {
        self.members.lock().values().filter_map(|node| node.life.clone()).collect()
    }

    /// Places in the network.
    pub fn nodes(&self) -> Vec<NodeId> {
        match &self.alone {
            Some(_) => vec![PLACEMENT],
            None => self.members.lock().keys().copied().collect(),
        }
    }

    /// The clocks of one of its processes.
    pub fn clock_of(&self, pick: u64) -> Group {
        let members = self.members.lock();
        let at = pick as usize % members.len().max(1);
        members.values().nth(at).map_or(self.group, |node| node.group)
    }
}

fn alone(limits: &Limits, rows: &[StoreId], columns: &[StoreId]) -> Result<Alone, String> {
    let pd = SimPd::new(planner(limits)).map_err(|e| e.to_string())?;
    let up = pd.up().map_err(|e| e.to_string())?;
    prepare(&up, rows, columns).map_err(|e| e.to_string())?;
    Ok(Alone { pd, oracle: Mutex::new(None), disk: MemoryDisk::new() })
}

impl World {
    /// The placement driver, as whoever looks after the cluster reaches it.
    pub fn operator(self: &Arc<World>) -> RemotePd {
        RemotePd::new(Wire::new(self.clone(), OPERATOR, Alive::new()))
    }

    /// Has something done to the placement driver, until it is, then goes on.
    pub fn arrange(
        self: &Arc<World>,
        what: impl Fn(&Pd) -> damask_pd::Result<()> + Send + Sync + 'static,
        then: impl FnOnce(&Arc<World>) + Send + 'static,
    ) {
        let (world, what) = (self.clone(), Arc::new(what));
        kernel().spawn_in(self.placement.group, "operator", move || {
            let pd = world.operator();
            loop {
                let what = what.clone();
                match pd.ask(move |pd| what(pd)) {
                    Ok(Ok(())) => return then(&world),
                    _ if world.has_ended() => return,
                    _ => pause(AGAIN),
                }
            }
        });
    }

    /// Starts the members of the driver's group; stores begin when they are known to it.
    pub fn start_members(self: &Arc<World>, rows: Vec<StoreId>, columns: Vec<StoreId>) {
        let ids = member_ids(self.plan.limits.pds);
        if ids.is_empty() {
            return;
        }
        ids.into_iter().for_each(|id| self.start_member(id));
        let ready = |world: &Arc<World>| world.placement.ready.store(true, Ordering::Relaxed);
        self.arrange(move |pd| prepare(pd, &rows, &columns), ready);
    }

    /// Has something said to the driver: to the one alone at once, to a group's leader on a thread
    /// of its own. What it answers goes on to `then`, if there is anything.
    fn tell(
        self: &Arc<World>,
        from: NodeId,
        say: impl Fn(&Pd) -> Option<Step> + Send + Sync + 'static,
        then: impl Fn(&Arc<World>, &Step) + Send + Sync + 'static,
    ) {
        let (say, then) = (Arc::new(say), Arc::new(then));
        for node in self.placement.nodes() {
            let (world, say, then) = (self.clone(), say.clone(), then.clone());
            let delivery = move || match &world.placement.alone {
                Some(alone) => {
                    if let Some(step) = alone.pd.up().ok().and_then(|pd| say(&pd)) {
                        world.answer_step(node, from, step, then.clone());
                    }
                }
                None => world.tell_member(node, from, say.clone(), then.clone()),
            };
            self.net.send(from, node, Arc::new(delivery));
        }
    }

    fn tell_member(
        self: &Arc<World>,
        node: NodeId,
        from: NodeId,
        say: Arc<impl Fn(&Pd) -> Option<Step> + Send + Sync + 'static>,
        then: Arc<impl Fn(&Arc<World>, &Step) + Send + Sync + 'static>,
    ) {
        let Some(life) = self.placement.life(node) else { return };
        let Some(led) = life.led() else { return };
        let world = self.clone();
        kernel().spawn_in(life.group, "report", move || {
            if let Ok(Some(step)) = led.answer(|pd| say(pd))
                && life.alive.get()
            {
                world.answer_step(node, from, step, then);
            }
        });
    }

    fn answer_step(
        self: &Arc<World>,
        node: NodeId,
        to: NodeId,
        step: Step,
        then: Arc<impl Fn(&Arc<World>, &Step) + Send + Sync + 'static>,
    ) {
        let world = self.clone();
        self.net.send(node, to, Arc::new(move || then(&world, &step)));
    }

    /// A store's word about one of its replicas, on its way to the placement driver.
    pub fn report(self: &Arc<World>, from: StoreId, status: ReplicaStatus) {
        self.claims(from, &status);
        let Some(leader) = status.leader.filter(|_| status.is_leader) else { return };
        let region = status.region.clone();
        let (size, unsplittable) = {
            let mut sizes = self.sizes.lock();
            (sizes.of(region.id), sizes.is_unsplittable(region.id))
        };
        let say = move |pd: &Pd| {
            let report = RegionReport {
                region: status.region.clone(),
                leader,
                term: status.term,
                bytes: size.bytes,
                keys: size.keys,
                flow: Flow::default(),
                split_key: None,
                pending: status.pending.iter().map(|p| p.id).collect(),
                merging: status.merging,
                unsplittable,
            };
            // An old report is refused: nothing is lost by that.
            pd.region_heartbeat(report).ok().flatten()
        };
        let then = move |world: &Arc<World>, step: &Step| world.carry_out(from, &region, step);
        self.tell(from.0, say, then);
    }

    fn report_store(self: &Arc<World>, store: StoreId, failed: bool) {
        let say = move |pd: &Pd| {
            drop(pd.store_heartbeat(StoreReport { store, capacity: 0, available: 0, failed }));
            None
        };
        self.tell(store.0, say, |_, _| {});
    }

    /// A round of reports from every store, again and again.
    pub fn rounds(self: &Arc<World>) {
        self.measure_all();
        for life in self.lives() {
            let (id, statuses) = (life.handle.id(), life.handle.replicas());
            self.leads_only(id, &statuses);
            if kernel().paused_until(life.group).is_some() {
                continue;
            }
            self.report_store(id, false);
            statuses.into_iter().for_each(|status| self.report(id, status));
        }
        // Of those that never come back somebody else says so.
        self.retired().into_iter().for_each(|id| self.report_store(id, true));
        self.plan_ahead();
        if !self.is_over() {
            let world = self.clone();
            kernel().after(REPORT_EVERY, move || world.rounds());
        }
    }

    /// Time goes on for whoever plans.
    fn plan_ahead(self: &Arc<World>) {
        let now = |group| kernel().clock(group).monotonic().as_millis() as u64;
        if let Some(pd) = self.placement.alone.as_ref().and_then(|alone| alone.pd.up().ok()) {
            if let Err(e) = pd.tick(now(self.placement.group)) {
                self.fail(format!("the placement driver cannot plan: {e}"));
            }
            return;
        }
        for life in self.placement.lives() {
            let Some(led) = life.led() else { continue };
            let group = life.group;
            kernel().spawn_in(group, "plan", move || {
                // One that leads no more may fail to save.
                drop(led.answer(|pd| pd.tick(now(group))));
            });
        }
    }

    fn carry_out(self: &Arc<World>, store: StoreId, region: &Region, step: &Step) {
        let Some(life) = self.life(store) else { return };
        let changes = match step {
            Step::AddLearner(peer) => {
                let differs = self.placement.given.lock().peer(peer.id, region.id, peer.store);
                differs.into_iter().for_each(|why| self.fail(why));
                vec![PeerChange::AddLearner(*peer)]
            }
            Step::AddVoter(peer) => vec![PeerChange::AddVoter(*peer)],
            Step::RemovePeer(peer) => vec![PeerChange::Remove(*peer)],
            Step::Swap { add, old } => {
                vec![PeerChange::AddVoter(*add), PeerChange::AddLearner(*old)]
            }
            Step::TransferLeader(peer) => return life.handle.transfer_leader(region.id, *peer),
            Step::SplitAt(keys) => return self.split(&life, region, keys.clone()),
            Step::Split(parts) => return self.split_evenly(&life, region, *parts),
            Step::Merge(into) => return self.merge_small(&life, region, *into),
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

    /// Has a leader split its region, as soon as it has ids for the new ones.
    pub fn split(self: &Arc<World>, life: &Life, region: &Region, keys: Vec<Vec<u8>>) {
        kernel().note("split", life.handle.id().0, region.id.0, keys.len() as u64);
        let (handle, region, world) = (life.handle.clone(), region.clone(), self.clone());
        let pd = RemotePd::new(Wire::new(self.clone(), handle.id().0, life.alive.clone()));
        kernel().spawn_in(life.group, "split", move || {
            let Ok(ids) = pd.ask_split(&region, keys.len()) else { return };
            let twice = world.placement.given.lock().split(&ids);
            twice.into_iter().for_each(|why| world.fail(why));
            let child = |ids: SplitIds| SplitChild { region: ids.region, peers: ids.peers };
            let children = ids.into_iter().map(child).collect();
            let done = move |result: damask_raftstore::Result<Vec<Region>>| {
                if result.is_ok() {
                    world.counts.lock().splits += 1;
                }
            };
            handle.split(region.id, region.epoch, keys, children, Box::new(done));
        });
    }
}
