//! The cluster that one seed makes: its processes, its network, what was seen of it. It must never
//! hold a lock over anything that waits.

use crate::collect::Journal;
use crate::disks::Pace;
use crate::history::History;
use crate::kernel::{Group, kernel};
use crate::net::{FIRST_CLIENT, Net, NodeId};
use crate::nodes::{Alive, FIRST_COLUMN_STORE, Life, Node, start};
use crate::placement::PlacementNode;
use crate::plan::{FaultKind, Plan};
use damask_kv::GcSafePoint;
use damask_raftstore::Envelope;
use damask_txn::{Client, Deadlocks, LocalDeadlocks};
use damask_types::StoreId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

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
    /// Splits.
    pub splits: u64,
    /// Merges.
    pub merges: u64,
    /// Changes of replicas.
    pub changes: u64,
    /// Faults.
    pub faults: u64,
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
        self.splits += other.splits;
        self.merges += other.merges;
        self.changes += other.changes;
        self.faults += other.faults;
    }
}

const STORM: u8 = 0;
const CALM: u8 = 1;
const OVER: u8 = 2;

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
    /// Below it versions may be gone.
    pub safe_point: GcSafePoint,
    /// Everything that was applied, in runs that collect.
    pub journal: Mutex<Journal>,
    /// Clients that run, with their lives.
    pub running: Mutex<Vec<(Alive, Client)>>,
    /// How often a column was added to the tables.
    pub columns_added: Arc<AtomicU64>,
    /// What happened.
    pub counts: Mutex<Counts>,
    paces: BTreeMap<StoreId, Arc<Pace>>,
    stage: AtomicU8,
    failure: Mutex<Option<String>>,
}

impl World {
    /// The cluster of a plan; nothing runs yet.
    ///
    /// # Errors
    /// In words.
    pub fn new(plan: &Plan) -> Result<Arc<World>, String> {
        let kernel = kernel();
        let limits = &plan.limits;
        let rows: Vec<StoreId> = (1..=limits.stores).map(StoreId).collect();
        let columns: Vec<StoreId> =
            (0..limits.columns).map(|n| StoreId(FIRST_COLUMN_STORE + n)).collect();
        let placement = PlacementNode::new(&rows, &columns)?;
        let drifts = plan.faults.iter().any(|fault| fault.kind == FaultKind::Drift);
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
        let pace = || Arc::new(Pace::new(limits.hesitate_permille, limits.hold_permille));
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
            safe_point: GcSafePoint::new(),
            journal: Mutex::default(),
            running: Mutex::default(),
            columns_added: Arc::default(),
            counts: Mutex::default(),
            paces: all().map(|id| (id, pace())).collect(),
            stage: AtomicU8::new(STORM),
            failure: Mutex::default(),
        }))
    }

    /// How fast a store's disk is.
    pub fn pace(&self, id: StoreId) -> Arc<Pace> {
        self.paces.get(&id).cloned().unwrap_or_default()
    }

    /// Ids of all stores.
    pub fn store_ids(&self) -> Vec<StoreId> {
        self.paces.keys().copied().collect()
    }

    /// Starts every store and the reports.
    pub fn start(self: &Arc<World>) {
        self.store_ids().into_iter().for_each(|id| start(self, id));
        self.rounds();
    }

    /// A store that runs.
    pub fn life(&self, id: StoreId) -> Option<Arc<Life>> {
        self.stores.lock().get(&id).and_then(|node| node.life.clone())
    }

    /// Does it run?
    pub fn runs(&self, id: StoreId) -> bool {
        self.stores.lock().get(&id).is_some_and(|node| node.life.is_some())
    }

    /// All that run.
    pub fn lives(&self) -> Vec<Arc<Life>> {
        self.stores.lock().values().filter_map(|node| node.life.clone()).collect()
    }

    /// A message has arrived.
    pub fn receive(&self, to: StoreId, envelope: Envelope) {
        let Some(life) = self.life(to) else { return };
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

    /// Keeps the first failure.
    pub fn fail(&self, why: String) {
        self.failure.lock().get_or_insert(why);
    }

    /// The first failure.
    pub fn failure(&self) -> Option<String> {
        let stopped = self.lives().into_iter().find_map(|life| {
            let e = life.failed()?;
            Some(format!("store {} stopped: {e}", life.handle.id()))
        });
        self.failure.lock().clone().or(stopped)
    }

    /// Has anything failed?
    pub fn has_failed(&self) -> bool {
        self.failure.lock().is_some()
    }
}
