//! Stores as processes: started from what a crash left, ended by one at any moment. It must never
//! give a later life anything of an earlier one but what was durable, nor start one again whose
//! disk was found to be damaged.

use crate::alike::Told;
use crate::collect;
use crate::disks::{ColumnDisk, FlushedEngine, Pace, SimColumns, SimEngine, SimLog, SimMachine};
use crate::kernel::{Group, Micros, kernel};
use crate::logs::Seen;
use crate::remote::{Wire, ask_leader};
use crate::stale;
use crate::tables::Schemas;
use crate::world::World;
use damask_deltatree::{ColumnStore, DeltaTree};
use damask_env::channel::{self, RecvTimeoutError, Sender};
use damask_env::simulation::pause;
use damask_env::{Clock, Disk, Fault as DiskFault, MemoryDisk};
use damask_kv::MemoryEngine;
use damask_learner::{ColumnMachine, LearnerRead, StoreReads};
use damask_pd::{Placement, StoreInfo, StoreKind};
use damask_raftstore::{
    CoreConfig, Envelope, FileLogConfig, FileLogStore, RowMachine, StateMachine, Store,
    StoreConfig, StoreHandle, StoreOptions, Transport,
};
use damask_txn::deadlock::Circle;
use damask_txn::{Deadlocks, TxnServer};
use damask_types::{ErrorKind, Region, StoreId, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The first column store.
pub const FIRST_COLUMN_STORE: u64 = 101;
/// Where a store's log is on its disk.
const LOG: &str = "raft";
/// A transaction server waits no longer for its log.
const SERVER_PATIENCE: Duration = Duration::from_millis(1_200);
/// A learner's read waits no longer.
const LEARNER_PATIENCE: Duration = Duration::from_millis(1_500);
/// A store that starts looks for the placement driver so often, microseconds.
const PLACEMENT_WAIT: Micros = 40_000;
/// And asks it for so long.
const PLACEMENT_PATIENCE: Micros = 120_000_000;
/// Between two rounds of a column store's background work.
const MAINTAIN_EVERY: Duration = Duration::from_millis(150);

/// What survives a crash.
pub enum Image {
    /// Of a row store: its log's disk, and its engine.
    Rows(MemoryDisk, MemoryEngine),
    /// Of a column store: its log's disk, and its columns'.
    Columns(MemoryDisk, MemoryDisk),
}

/// Does a process still live? Shared by all that acts for it.
#[derive(Clone, Default)]
pub struct Alive(Arc<AtomicBool>);

impl Alive {
    /// It lives.
    pub fn new() -> Alive {
        Alive(Arc::new(AtomicBool::new(true)))
    }

    /// Does it?
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Is it the same life?
    pub fn is(&self, other: &Alive) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// No longer.
    pub fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A running store.
pub struct Life {
    /// Its process.
    pub group: Group,
    /// Does it still run?
    pub alive: Alive,
    /// How requests get in.
    pub handle: StoreHandle,
    /// Who overtakes whom in it.
    pub pace: Arc<Pace>,
    /// What it applies to.
    pub machine: Arc<dyn StateMachine>,
    /// Row stores.
    pub server: Option<Arc<TxnServer>>,
    /// Column stores.
    pub reader: Option<LearnerRead>,
    /// Row stores: what was applied.
    pub engine: Option<MemoryEngine>,
    store: Mutex<Option<Store>>,
    disks: Vec<MemoryDisk>,
    maintain: Mutex<Option<Sender<()>>>,
    /// Its disk may fail: that it stops then is no failure of the cluster's.
    faulty: AtomicBool,
}

impl Life {
    /// Why it stopped, unless its disk was made to fail and that is the reason.
    pub fn failed(&self) -> Option<String> {
        let why = self.handle.failed()?.to_string();
        (!self.is_faulty() || why.contains("panicked")).then_some(why)
    }

    /// Was a disk of it made to fail?
    pub fn is_faulty(&self) -> bool {
        self.faulty.load(Ordering::Relaxed)
    }

    /// From now on one of its disks fails as told.
    pub fn break_disk(&self, pick: u64, fault: DiskFault) {
        self.faulty.store(true, Ordering::Relaxed);
        self.disks[pick as usize % self.disks.len()].set_fault(fault);
    }

    /// Bytes that one of its disks holds.
    pub fn disk_bytes(&self, pick: u64) -> u64 {
        let files = self.disks[pick as usize % self.disks.len()].files();
        files.iter().map(|(_, bytes)| *bytes as u64).sum()
    }

    /// Flips a bit of what one of its disks holds: which one, and the file.
    pub fn rot(&self, pick: u64) -> Option<(usize, String)> {
        let at = pick as usize % self.disks.len();
        let mut files = self.disks[at].files();
        files.retain(|(_, bytes)| *bytes > 0);
        let (name, bytes) = files.get((pick >> 4) as usize % files.len().max(1))?;
        let offset = (pick >> 12) as usize % bytes;
        self.disks[at].flip(name, offset, (pick >> 1) as u8).then(|| (at, name.clone()))
    }

    /// Its disks are whole again.
    pub fn mend_disks(&self) {
        self.disks.iter().for_each(|disk| disk.set_fault(DiskFault::default()));
    }
}

/// A store, running or not.
pub struct Node {
    /// Its monotonic clock at time 0, and its speed.
    clock: (Micros, u64),
    /// While it runs.
    pub life: Option<Arc<Life>>,
    image: Option<Image>,
}

impl Node {
    /// A store that holds nothing.
    pub fn new(id: StoreId, clock: (Micros, u64)) -> Node {
        let disk = MemoryDisk::new;
        let image = match id.0 >= FIRST_COLUMN_STORE {
            true => Image::Columns(disk(), disk()),
            false => Image::Rows(disk(), MemoryEngine::with_crashes()),
        };
        Node { clock, life: None, image: Some(image) }
    }
}

/// Starts a store from its image, if it does not run; as soon as the placement driver does, which
/// must say whether it ever held data.
pub fn start(world: &Arc<World>, id: StoreId) {
    if !world.placement.is_ready() {
        let world = world.clone();
        return kernel().after(PLACEMENT_WAIT, move || start(&world, id));
    }
    let mut stores = world.stores.lock();
    let Some(node) = stores.get_mut(&id) else { return };
    let (Some(image), (offset, rate)) = (node.image.take(), node.clock) else { return };
    drop(stores);
    let kernel = kernel();
    let group = kernel.group(offset, rate);
    kernel.note("starts", id.0, 0, 0);
    let world = world.clone();
    kernel.spawn_in(group, &format!("start-{id}"), move || match open(&world, id, group, image) {
        Ok(life) if world.is_retired(id) => bury(Arc::new(life)),
        Ok(life) => {
            if let Some(node) = world.stores.lock().get_mut(&id) {
                node.life = Some(Arc::new(life));
            }
        }
        Err(e) if !world.found_rot(id) => {
            world.fail(format!("store {id} does not start: {e}"));
        }
        Err(_) => {}
    });
}

type Opened<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn open(world: &Arc<World>, id: StoreId, group: Group, image: Image) -> Opened<Life> {
    let alive = Alive::new();
    let pace = world.pace(id);
    let clock: Arc<dyn Clock> = Arc::new(kernel().clock(group));
    let (log_disk, rest) = match image {
        Image::Rows(log, engine) => (log, Ok(engine)),
        Image::Columns(log, columns) => (log, Err(columns)),
    };
    let inner = FileLogStore::open(Arc::new(log_disk.clone()), LOG, log_config())?;
    let (logs, of_members) = (world.logs.clone(), false);
    let seen = Seen { world: world.clone(), logs, store: id, alive: alive.clone(), of_members };
    seen.judge(|logs| logs.opened(id, &inner));
    let log = Arc::new(SimLog { inner, pace: pace.clone(), seen: seen.clone() });
    let flushes = Arc::new(AtomicBool::new(false));
    let flushed = |inner: &MemoryEngine| {
        let (inner, pace, flushes) = (inner.clone(), pace.clone(), flushes.clone());
        let seen = seen.clone();
        Arc::new(RowMachine::new(Arc::new(FlushedEngine { inner, pace, flushes, seen })))
    };
    let rows = rest.as_ref().ok().map(flushed);
    let (machine, columns): (Arc<dyn StateMachine>, _) = match &rest {
        Ok(_) => (rows.clone().ok_or("rows without a machine")?, None),
        Err(disk) => {
            let merges = Arc::new(AtomicBool::new(false));
            let (inner, pace, merging) = (disk.clone(), pace.clone(), merges.clone());
            let disk: Arc<dyn Disk> =
                Arc::new(ColumnDisk { inner, pace: pace.clone(), merges: merging });
            let tree = Arc::new(DeltaTree::open(disk, damask_deltatree::Config::small())?);
            let columns = Arc::new(SimColumns::new(tree, pace, merges));
            let schemas = Arc::new(schemas(world));
            let machine = Arc::new(ColumnMachine::open(columns.clone(), schemas)?);
            (machine.clone(), Some((machine, columns)))
        }
    };
    let wire = Wire::new(world.clone(), id.0, alive.clone());
    let held_data = bootstrap(world, &wire, id, machine.as_ref())?;
    let machine = Arc::new(SimMachine {
        inner: machine,
        pace: pace.clone(),
        seen: seen.clone(),
        rows: rows.is_some(),
        told: rows.is_none().then(|| Told::new(seen.clone())),
        ranges: Mutex::default(),
        flushes,
    });
    let transport = Arc::new(SimTransport { world: world.clone(), id, alive: alive.clone() });
    let options = options(world, id, &alive, held_data);
    let store = Store::start(options, log, machine.clone(), transport, clock.clone())?;
    let (handle, applies) = (store.handle(), machine);
    let mut disks = vec![log_disk];
    let (mut server, mut reader, mut engine) = (None, None, None);
    let maintain = match (rest, columns) {
        (Ok(engine_of_rows), _) => {
            let read = SimEngine { inner: engine_of_rows.clone(), pace: pace.clone() };
            let deadlocks = Announced { inner: world.deadlocks.clone(), alive: alive.clone() };
            let made = TxnServer::new(handle.clone(), Arc::new(read))
                .with_oracle(Arc::new(wire.oracle()))
                .with_deadlocks(Arc::new(deadlocks))
                .with_safe_point(world.safe_point.clone())
                .with_clock(clock)
                .with_patience(SERVER_PATIENCE);
            let made = Arc::new(made);
            stale::start(world, id, &alive, made.clone());
            server = Some(made);
            engine = Some(engine_of_rows);
            rows.map(|rows| collect::start(world, &alive, rows))
        }
        (Err(disk), Some((machine, columns))) => {
            disks.push(disk);
            let ask = ask_leader(wire.placement(), Arc::new(wire));
            let reads = Arc::new(StoreReads::new(handle.clone(), ask));
            let safe_point = world.safe_point.clone();
            let read = LearnerRead::new(reads, machine, LEARNER_PATIENCE);
            reader = Some(read.with_safe_point(Arc::new(move || safe_point.get())));
            Some(start_maintenance(world, id, &alive, columns))
        }
        (Err(_), None) => return Err("columns without a tree".into()),
    };
    let (store, maintain) = (Mutex::new(Some(store)), Mutex::new(maintain));
    let faulty = AtomicBool::new(false);
    Ok(Life {
        group,
        alive,
        handle,
        pace,
        machine: applies,
        server,
        reader,
        engine,
        store,
        disks,
        maintain,
        faulty,
    })
}

fn schemas(world: &World) -> Schemas {
    Schemas::new(world.columns_added.clone(), world.columns_dropped.clone())
}

/// Small files, so that they are closed, moved and removed.
fn log_config() -> FileLogConfig {
    FileLogConfig {
        segment_bytes: 16 << 10,
        cache_bytes: 32 << 10,
        segments_max: 3,
        ..FileLogConfig::default()
    }
}

/// Its part of the first region, the first time it starts. Has it ever held data?
fn bootstrap(world: &World, wire: &Wire, id: StoreId, machine: &dyn StateMachine) -> Opened<bool> {
    let pd = wire.placement();
    // Whoever does not hear from the driver must not take itself for a new store.
    let mut known: Option<(Option<Region>, bool)> = None;
    let ask = || {
        known = pd.ask(move |pd| (pd.bootstrapped(), pd.is_initialised(id))).ok();
        known.is_some() || world.has_ended()
    };
    wait_until(PLACEMENT_PATIENCE, ask);
    let (first, held_data) = known.ok_or("the placement driver does not answer")?;
    let first = first.filter(|first| first.peer_on(id).is_some() && !held_data);
    let Some(first) = first else { return Ok(held_data) };
    damask_raftstore::bootstrap(machine, id, first)?;
    let note = || pd.set_initialised(id).is_ok() || world.has_ended();
    match wait_until(PLACEMENT_PATIENCE, note) {
        true => Ok(true),
        false => Err("the placement driver does not note the store".into()),
    }
}

fn options(world: &Arc<World>, id: StoreId, alive: &Alive, held_data: bool) -> StoreOptions {
    let limits = &world.plan.limits;
    let mut options = StoreOptions::new(id);
    let mut core = CoreConfig {
        log_keep_entries: limits.log_keep,
        log_max_entries: limits.log_max,
        compact_ticks: limits.compact_ticks,
        read_wait_ticks: 20,
        undetermined_ticks: 40,
        snapshot_retry_ticks: 10,
        permit_ticks: limits.permit_ticks,
        ..CoreConfig::default()
    };
    core.hibernate_regions = limits.hibernate_ticks > 0;
    core.hibernate_ticks = limits.hibernate_ticks;
    core.hibernate_max_ticks = 200;
    core.raft.election_ticks = limits.election_ticks as usize;
    core.raft.heartbeat_ticks = 1;
    core.raft.seed = world.plan.seed;
    options.config =
        StoreConfig { tick: Duration::from_millis(limits.tick_ms), core, ..StoreConfig::default() };
    options.held_data = held_data;
    let (reports, lives) = (world.clone(), alive.clone());
    options.on_change = Some(Arc::new(move |status| {
        if lives.get() {
            reports.report(id, status);
        }
    }));
    options
}

/// Merges deltas in the background until the sender is dropped.
fn start_maintenance(
    world: &Arc<World>,
    id: StoreId,
    alive: &Alive,
    columns: Arc<SimColumns>,
) -> Sender<()> {
    let (stop, stopped) = channel::bounded(1);
    let (safe_point, lives, world) = (world.safe_point.clone(), alive.clone(), world.clone());
    let body = move || {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(MAINTAIN_EVERY) {
            // A disk that fails is found by the log's threads too, and ends the store there.
            if let Err(e) = columns.maintain(safe_point.get(), 1 << 20)
                && lives.get()
                && e.kind() == ErrorKind::Corrupt
            {
                assert!(world.found_rot(id), "columns: {e}");
                return;
            }
        }
    };
    drop(damask_env::spawn("maintain", body));
    stop
}

/// Ends a store as a power cut does: what was not synced is lost but for a part of it. It comes
/// back after `downtime`.
pub fn crash(world: &Arc<World>, id: StoreId, downtime: Micros) {
    let life = {
        let mut stores = world.stores.lock();
        let Some(node) = stores.get_mut(&id) else { return };
        let Some(life) = node.life.take() else { return };
        node.image = match image_of(&life) {
            Ok(image) => Some(image),
            Err(e) => return world.fail(format!("an image of store {id}: {e}")),
        };
        life
    };
    kernel().note("crashes", id.0, downtime, 0);
    world.leads_only(id, &[]);
    bury(life);
    let world = world.clone();
    kernel().after(downtime, move || start(&world, id));
}

/// What a crash leaves of so much that was not synced: a part, or all but the last few writes.
pub fn crash_part(n: usize) -> usize {
    kernel().draw(|chance| match chance.permille(500) {
        true => n * chance.below(5) as usize / 4,
        false => n.saturating_sub(chance.below(6) as usize),
    })
}

/// What a crash leaves of a disk: of each file a part of what was not synced, or, where the power
/// went, some of its sectors, whichever came first.
pub fn after_crash(disk: &MemoryDisk) -> MemoryDisk {
    if !kernel().draw(|chance| chance.permille(300)) {
        return disk.crash_image(crash_part);
    }
    let written = kernel().draw(|chance| chance.below(1001));
    disk.crash_sectors(|_| kernel().draw(|chance| chance.permille(written)))
}

fn image_of(life: &Life) -> damask_kv::Result<Image> {
    let disk = |at: usize| after_crash(&life.disks[at]);
    Ok(match &life.engine {
        // The engine first: it is never ahead of the durable log.
        Some(engine) => {
            let nothing = kernel().draw(|chance| chance.permille(300));
            let unsynced = engine.unsynced();
            let engine = engine.crash(if nothing { 0 } else { crash_part(unsynced) })?;
            Image::Rows(disk(0), engine)
        }
        None => Image::Columns(disk(0), disk(1)),
    })
}

/// Lets the threads of a process that has ended come to their end, unheard by anybody.
fn bury(life: Arc<Life>) {
    life.alive.end();
    let kernel = kernel();
    kernel.wake_group(life.group);
    kernel.spawn_in(life.group, "bury", move || {
        drop(life.maintain.lock().take());
        let store = life.store.lock().take();
        if let Some(store) = store {
            drop(store.stop());
        }
    });
}

/// Stops all stores, with nobody to come back.
pub fn stop_all(world: &World) {
    for node in world.stores.lock().values_mut() {
        node.image = None;
        if let Some(life) = node.life.take() {
            bury(life);
        }
    }
}

/// The store that takes the place of one of this kind which is gone for good.
pub fn spare_of(world: &World, id: StoreId) -> StoreId {
    let limits = &world.plan.limits;
    match id.0 >= FIRST_COLUMN_STORE {
        true => StoreId(FIRST_COLUMN_STORE + limits.columns),
        false => StoreId(limits.stores + 1),
    }
}

impl World {
    /// A store meets something that cannot be right. Is it the one whose disk has changed by
    /// itself? Then it leaves for good.
    pub fn found_rot(self: &Arc<World>, id: StoreId) -> bool {
        if !self.is_rotten(id) {
            return false;
        }
        if !self.is_retired(id) {
            kernel().note("rot found", id.0, 0, 0);
            self.counts.lock().rot_found += 1;
            self.retire(id);
        }
        true
    }

    /// A store leaves for good, with all that it holds; another one is started in its place, and
    /// the placement driver moves replicas there.
    pub fn retire(self: &Arc<World>, id: StoreId) {
        let spare = spare_of(self, id);
        let life = {
            let mut stores = self.stores.lock();
            let Some(node) = stores.get_mut(&id).filter(|_| self.note_retired(id)) else { return };
            node.image = None;
            let life = node.life.take();
            let offset = kernel().draw(|chance| chance.below(1 << 36));
            stores.insert(spare, Node::new(spare, (offset, 1_000_000)));
            life
        };
        kernel().note("retired", id.0, spare.0, 0);
        self.leads_only(id, &[]);
        life.into_iter().for_each(bury);
        let kind = match id.0 >= FIRST_COLUMN_STORE {
            true => StoreKind::Column,
            false => StoreKind::Row,
        };
        let register = move |pd: &damask_pd::Pd| {
            pd.register_store(StoreInfo { id: spare, kind, address: format!("store-{spare}") })
        };
        self.arrange(register, move |world| start(world, spare));
    }
}

/// Messages between stores.
struct SimTransport {
    world: Arc<World>,
    id: StoreId,
    alive: Alive,
}

impl Transport for SimTransport {
    fn send(&self, to: StoreId, envelopes: Vec<Envelope>) {
        if !self.alive.get() {
            return;
        }
        for envelope in envelopes {
            let world = self.world.clone();
            let delivery = move || world.receive(to, envelope.clone());
            self.world.net.send(self.id.0, to.0, Arc::new(delivery));
        }
    }
}

/// A deadlock detector that a process which has ended says nothing more to.
struct Announced {
    inner: Arc<dyn Deadlocks>,
    alive: Alive,
}

impl Deadlocks for Announced {
    fn wait(&self, waiter: Timestamp, key: &[u8], holder: Timestamp) -> Option<Circle> {
        self.alive.get().then(|| self.inner.wait(waiter, key, holder))?
    }

    fn join(&self, waiter: Timestamp, key: &[u8]) -> Option<Circle> {
        self.alive.get().then(|| self.inner.join(waiter, key))?
    }

    fn hand_over(&self, key: &[u8], holder: Timestamp) -> Option<(Timestamp, Circle)> {
        self.alive.get().then(|| self.inner.hand_over(key, holder))?
    }

    fn leave(&self, waiter: Timestamp, key: &[u8]) {
        if self.alive.get() {
            self.inner.leave(waiter, key);
        }
    }
}

/// Waits until something holds, looking again and again; false: it does not within this time.
pub fn wait_until(at_most: Micros, mut holds: impl FnMut() -> bool) -> bool {
    let end = kernel().time() + at_most;
    while !holds() {
        if kernel().time() >= end {
            return false;
        }
        pause(Duration::from_millis(5));
    }
    true
}
