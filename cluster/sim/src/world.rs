//! The cluster that one seed makes: its processes, its network, what was seen of it. It must never
//! hold a lock over anything that waits.

use crate::collect::Journal;
use crate::disks::Pace;
use crate::extras::Extras;
use crate::history::History;
use crate::kernel::{Group, kernel};
use crate::keys::Keys;
use crate::logs::Logs;
use crate::net::{FIRST_CLIENT, Net, NodeId};
use crate::nodes::{Alive, FIRST_COLUMN_STORE, Life, Node, spare_of, start};
use crate::placement::PlacementNode;
use crate::plan::{FaultKind, Plan};
use crate::rules::Rules;
use crate::sizes::Sizes;
use damask_kv::GcSafePoint;
use damask_raftstore::Envelope;
use damask_txn::{Client, Deadlocks, LocalDeadlocks};
use damask_types::StoreId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

/// What a run did: a test can see that it was not idle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions that were committed, and answered so.
    pub committed: u64,
    /// That failed for sure.
    pub aborted: u64,
    /// Whose outcome nobody told.
    pub unknown: u64,
    /// Reads of a snapshot of rows.
    pub scans: u64,
    /// Reads of columns.
    pub column_scans: u64,
    /// Reads of columns that were not answered in time.
    pub column_refusals: u64,
    /// Reads of a table in the past, from any replica.
    pub stale_scans: u64,
    /// Requests of those that some replica answered without a question to its leader.
    pub stale_served: u64,
    /// Splits.
    pub splits: u64,
    /// Merges.
    pub merges: u64,
    /// Splits of regions that the planner found too large: asked for, not all done.
    pub planned_splits: u64,
    /// Merges of regions that it found too small, likewise.
    pub planned_merges: u64,
    /// Changes of replicas.
    pub changes: u64,
    /// Faults.
    pub faults: u64,
    /// Stores that found their disk changed, and left for good.
    pub rot_found: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: &Counts) {
        self.committed += other.committed;
        self.aborted += other.aborted;
        self.unknown += other.unknown;
        self.scans += other.scans;
        self.column_scans += other.column_scans;
        self.column_refusals += other.column_refusals;
        self.stale_scans += other.stale_scans;
        self.stale_served += other.stale_served;
        self.splits += other.splits;
        self.merges += other.merges;
        self.planned_splits += other.planned_splits;
        self.planned_merges += other.planned_merges;
        self.changes += other.changes;
        self.faults += other.faults;
        self.rot_found += other.rot_found;
    }
}

const STORM: u8 = 0;
const CALM: u8 = 1;
const OVER: u8 = 2;
const ENDED: u8 = 3;

/// A client's process.
pub struct ClientNode {
    /// Its place in the network.
    pub id: NodeId,
    /// Its process.
    pub group: Group,
    /// Its life, while it runs.
    pub alive: Option<Alive>,
    /// Counts its lives.
    pub lives: u64,
    /// Transactions committed in the calm.
    pub in_calm: u64,
}

/// The cluster.
pub struct World {
    /// What was drawn for it.
    pub plan: Plan,
    /// Its network.
    pub net: Arc<Net>,
    /// Its stores.
    pub stores: Mutex<BTreeMap<StoreId, Node>>,
    /// Its placement driver and oracle.
    pub placement: PlacementNode,
    /// Who waits for whom.
    pub deadlocks: Arc<dyn Deadlocks>,
    /// Its clients.
    pub clients: Mutex<Vec<ClientNode>>,
    /// Clients' tasks that have not ended, those of lives that have ended included.
    pub at_work: AtomicU64,
    /// What clients saw.
    pub history: Mutex<History>,
    /// See [`Extras`].
    pub extras: Mutex<Extras>,
    /// Below it versions may be gone.
    pub safe_point: GcSafePoint,
    /// Everything that was applied.
    pub journal: Mutex<Journal>,
    /// What must hold of every replica.
    pub rules: Mutex<Rules>,
    /// What the logs of all stores say.
    pub logs: Arc<Mutex<Logs>>,
    /// And those of the placement driver's members.
    pub member_logs: Arc<Mutex<Logs>>,
    /// Who has which keys.
    pub keys: Mutex<Keys>,
    /// How large regions are.
    pub sizes: Mutex<Sizes>,
    /// Two leaders say that they have the same ones.
    pub contested: AtomicBool,
    /// Clients that run, with their lives.
    pub running: Mutex<Vec<(Alive, Client)>>,
    /// How often a column was added to the tables.
    pub columns_added: Arc<AtomicU64>,
    /// Until then no fault aims that would cut what another one needs.
    pub aimed_until: AtomicU64,
    /// Of those, how many were dropped: the first ones.
    pub columns_dropped: Arc<AtomicU64>,
    /// What happened.
    pub counts: Mutex<Counts>,
    paces: BTreeMap<StoreId, Arc<Pace>>,
    /// The one store whose disk has changed by itself.
    rotten: Mutex<Option<StoreId>>,
    /// Stores that are gone for good.
    retired: Mutex<Vec<StoreId>>,
    stage: AtomicU8,
    failure: Mutex<Option<String>>,
    /// There is one.
    failed: AtomicBool,
}

impl World {
    /// The cluster of a plan; nothing runs yet.
    ///
    /// # Errors
    /// In words.
    pub fn new(plan: &Plan) -> Result<Arc<World>, String> {
        let kernel = kernel();
        let limits = &plan.limits;
        kernel.be_late(limits.late_permille, limits.late_most);
        let rows: Vec<StoreId> = (1..=limits.stores).map(StoreId).collect();
        let columns: Vec<StoreId> =
            (0..limits.columns).map(|n| StoreId(FIRST_COLUMN_STORE + n)).collect();
        let pace = || Pace::new(limits.hesitate_permille, limits.hold_permille);
        let placement = PlacementNode::new(limits, pace, &rows, &columns)?;
        let has = |kind| plan.faults.iter().any(|fault| fault.kind == kind);
        let (drifts, rots) = (has(FaultKind::Drift), has(FaultKind::BitRot));
        let spares = [StoreId(limits.stores + 1), StoreId(FIRST_COLUMN_STORE + limits.columns)];
        let spares = spares.into_iter().filter(|_| rots);
        let draw_clock = || {
            kernel.draw(|chance| {
                let rate = chance.between(970_000, 1_030_000);
                (chance.below(1 << 36), if drifts { rate } else { 1_000_000 })
            })
        };
        let all = || rows.iter().chain(&columns).copied();
        let stores = all().map(|id| (id, Node::new(id, draw_clock()))).collect();
        let clients = (0..limits.clients).map(|n| {
            let (offset, rate) = draw_clock();
            let group = kernel.group(offset, rate);
            ClientNode { id: FIRST_CLIENT + n, group, alive: None, lives: 0, in_calm: 0 }
        });
        let clients = clients.collect();
        let clock = Arc::new(kernel.clock(placement.group));
        Ok(Arc::new(World {
            plan: plan.clone(),
            net: Arc::default(),
            stores: Mutex::new(stores),
            placement,
            deadlocks: Arc::new(LocalDeadlocks::new(clock)),
            clients: Mutex::new(clients),
            at_work: AtomicU64::new(0),
            history: Mutex::default(),
            extras: Mutex::default(),
            safe_point: GcSafePoint::new(),
            journal: Mutex::default(),
            rules: Mutex::default(),
            logs: Arc::default(),
            member_logs: Arc::default(),
            keys: Mutex::default(),
            sizes: Mutex::default(),
            contested: AtomicBool::new(false),
            running: Mutex::default(),
            columns_added: Arc::default(),
            aimed_until: AtomicU64::new(0),
            columns_dropped: Arc::default(),
            counts: Mutex::default(),
            paces: all().chain(spares).map(|id| (id, Arc::new(pace()))).collect(),
            rotten: Mutex::default(),
            retired: Mutex::default(),
            stage: AtomicU8::new(STORM),
            failure: Mutex::default(),
            failed: AtomicBool::new(false),
        }))
    }

    /// How fast a store's disk is.
    pub fn pace(&self, id: StoreId) -> Arc<Pace> {
        self.paces.get(&id).cloned().unwrap_or_default()
    }

    /// Ids of all stores, those that take another's place included.
    pub fn store_ids(&self) -> Vec<StoreId> {
        self.paces.keys().copied().collect()
    }

    /// Starts every store and the reports.
    pub fn start(self: &Arc<World>) {
        let ids: Vec<StoreId> = self.stores.lock().keys().copied().collect();
        let (rows, columns) = ids.iter().partition(|id| id.0 < FIRST_COLUMN_STORE);
        self.start_members(rows, columns);
        ids.into_iter().for_each(|id| start(self, id));
        self.rounds();
    }

    /// A store that runs.
    pub fn life(&self, id: StoreId) -> Option<Arc<Life>> {
        self.stores.lock().get(&id).and_then(|node| node.life.clone())
    }

    /// Who answers where this store is, or was: the one that has taken its place has its address too,
    /// and must refuse what was meant for the other.
    pub fn life_at(&self, id: StoreId) -> Option<Arc<Life>> {
        let is_gone = self.retired.lock().contains(&id);
        self.life(if is_gone { spare_of(self, id) } else { id })
    }

    /// All that run.
    pub fn lives(&self) -> Vec<Arc<Life>> {
        self.stores.lock().values().filter_map(|node| node.life.clone()).collect()
    }

    /// A message has arrived.
    pub fn receive(&self, to: StoreId, envelope: Envelope) {
        let Some(life) = self.life_at(to) else { return };
        let bytes = crate::chance::hash_bytes(&envelope.message);
        kernel().note("message", to.0, envelope.region.0, bytes % 1_000_000);
        life.handle.receive(vec![envelope]);
    }

    /// Is the storm over?
    pub fn is_calm(&self) -> bool {
        self.stage.load(Ordering::Relaxed) >= CALM
    }

    /// Should clients end?
    pub fn is_over(&self) -> bool {
        self.stage.load(Ordering::Relaxed) >= OVER
    }

    /// The storm is over.
    pub fn calm(&self) {
        self.stage.store(CALM, Ordering::Relaxed);
    }

    /// Clients end.
    pub fn over(&self) {
        self.stage.store(OVER, Ordering::Relaxed);
    }

    /// Does everything end?
    pub fn has_ended(&self) -> bool {
        self.stage.load(Ordering::Relaxed) >= ENDED
    }

    /// Everything ends.
    pub fn end(&self) {
        self.stage.store(ENDED, Ordering::Relaxed);
    }

    /// May this store's disk change by itself? Only one's ever does.
    pub fn may_rot(&self, id: StoreId) -> bool {
        *self.rotten.lock().get_or_insert(id) == id
    }

    /// Has this store's disk changed by itself?
    pub fn is_rotten(&self, id: StoreId) -> bool {
        *self.rotten.lock() == Some(id)
    }

    /// The store whose disk has changed by itself.
    pub fn rotten(&self) -> Option<StoreId> {
        *self.rotten.lock()
    }

    /// Is it gone for good?
    pub fn is_retired(&self, id: StoreId) -> bool {
        self.retired.lock().contains(&id)
    }

    /// Stores that are.
    pub fn retired(&self) -> Vec<StoreId> {
        self.retired.lock().clone()
    }

    /// It is, from now on; false: it was before.
    pub fn note_retired(&self, id: StoreId) -> bool {
        let mut retired = self.retired.lock();
        let is_new = !retired.contains(&id);
        if is_new {
            retired.push(id);
        }
        is_new
    }

    /// Keeps the first failure.
    pub fn fail(&self, why: String) {
        self.failure.lock().get_or_insert(why);
        self.failed.store(true, Ordering::Relaxed);
    }

    /// The first failure.
    pub fn failure(&self) -> Option<String> {
        let stopped = self.lives().into_iter().find_map(|life| {
            let (id, e) = (life.handle.id(), life.failed()?);
            (!self.is_rotten(id)).then(|| format!("store {id} stopped: {e}"))
        });
        let members = || {
            let failed = self.placement.lives().into_iter().find_map(|life| life.failed());
            failed.map(|e| format!("a member of the placement driver stopped: {e}"))
        };
        self.failure.lock().clone().or(stopped).or_else(members)
    }

    /// Has anything failed?
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}
