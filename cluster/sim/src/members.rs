//! The members of the placement driver's group as processes: started from what a crash left, ended
//! by one at any moment, asked over the network. It must never give a later life anything of an
//! earlier one but what was durable.

use crate::alike::Told;
use crate::disks::{Pace, SimLog, SimMachine};
use crate::kernel::{Group, Micros, kernel};
use crate::logs::Seen;
use crate::net::{FIRST_MEMBER, NodeId};
use crate::nodes::{Alive, after_crash};
use crate::placement::planner;
use crate::remote::Process;
use crate::world::World;
use damask_env::{Clock, Disk, Fault as DiskFault, MemoryDisk};
use damask_pd_group::member::open_log;
use damask_pd_group::{GROUP, Led, Member, Options, Registers};
use damask_raftstore::{CoreConfig, Envelope, StoreConfig, StoreHandle, Transport};
use damask_types::StoreId;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Entries of a member's log that are kept, and after which a late member takes a snapshot.
const LOG_ENTRIES: (u64, u64) = (8, 40);
/// A wall clock may be wrong by so many milliseconds, from the beginning.
const SKEW_MS: u64 = 2_500;
/// Until a leader that was told to die does, once it can serve.
const DOOM: (Micros, Micros) = (300, 30_000);
/// Shorter than this, nobody else is elected.
const RIVALRY_MIN: Micros = 1_500_000;
/// Longest pause of a leader whose successor it has not met.
const PAUSE_MAX: Micros = 2_500_000;

/// The places of so many members in the network; a driver alone has none of them.
pub fn member_ids(pds: u64) -> Vec<NodeId> {
    let members = if pds > 1 { pds } else { 0 };
    (0..members).map(|n| FIRST_MEMBER + n).collect()
}

fn store_of(id: NodeId) -> StoreId {
    StoreId(id - FIRST_MEMBER + 1)
}

fn node_of(store: StoreId) -> NodeId {
    FIRST_MEMBER + store.0 - 1
}

/// A member, running or not.
pub struct PdNode {
    /// Its process, in all its lives: a wall clock that is wrong stays so.
    pub group: Group,
    /// While it runs.
    pub life: Option<Arc<PdLife>>,
    disk: Option<MemoryDisk>,
    pace: Arc<Pace>,
}

/// A running member.
pub struct PdLife {
    /// Its process.
    pub group: Group,
    /// Does it still run?
    pub alive: Alive,
    handle: StoreHandle,
    registers: Arc<Registers>,
    /// What it serves with, since it was last elected.
    led: Arc<Mutex<Option<Arc<Led>>>>,
    member: Mutex<Option<Member>>,
    disk: MemoryDisk,
    pace: Arc<Pace>,
    /// Its disk may fail: that it stops then is no failure of the group's.
    faulty: AtomicBool,
}

impl PdLife {
    /// What it serves with, if it leads as far as it knows.
    pub fn led(&self) -> Option<Arc<Led>> {
        let led = self.led.lock().clone()?;
        let status = self.handle.replica(GROUP)?;
        (status.is_leader && status.term == led.term).then_some(led)
    }

    /// Who leads, as far as it knows.
    pub fn leader(&self) -> Option<NodeId> {
        Some(node_of(self.handle.replica(GROUP)?.leader?.store))
    }

    /// Why it stopped, unless its disk was made to fail and that is the reason.
    pub fn failed(&self) -> Option<String> {
        let why = self.handle.failed()?.to_string();
        let faulty = self.faulty.load(Ordering::Relaxed);
        (!faulty || why.contains("panicked")).then_some(why)
    }
}

impl Process for PdLife {
    fn group(&self) -> Group {
        self.group
    }

    fn is_alive(&self) -> bool {
        self.alive.get()
    }

    fn hesitate(&self) {
        self.pace.hesitate();
    }
}

/// Members of a new group; none runs yet.
///
/// # Errors
/// In words.
pub fn make(pds: u64, pace: impl Fn() -> Pace) -> Result<Vec<PdNode>, String> {
    let disks: Vec<MemoryDisk> = member_ids(pds).iter().map(|_| MemoryDisk::new()).collect();
    let shared: Vec<Arc<dyn Disk>> =
        disks.iter().map(|disk| -> Arc<dyn Disk> { Arc::new(disk.clone()) }).collect();
    if shared.is_empty() {
        return Ok(Vec::new());
    }
    damask_pd_group::make(&shared).map_err(|e| e.to_string())?;
    let kernel = kernel();
    let node = |disk| {
        let (offset, skew) =
            kernel.draw(|chance| (chance.below(1 << 36), chance.below(2 * SKEW_MS)));
        let group = kernel.group(offset, 1_000_000);
        kernel.jump(group, skew as i64 - SKEW_MS as i64);
        PdNode { group, life: None, disk: Some(disk), pace: Arc::new(pace()) }
    };
    kernel.note("members", 0, pds, 0);
    Ok(disks.into_iter().map(node).collect())
}

/// Messages between members.
struct PdTransport {
    world: Arc<World>,
    from: NodeId,
    alive: Alive,
}

impl Transport for PdTransport {
    fn send(&self, to: StoreId, envelopes: Vec<Envelope>) {
        if !self.alive.get() {
            return;
        }
        for envelope in envelopes {
            let (world, to) = (self.world.clone(), node_of(to));
            let delivery = move || {
                if let Some(life) = world.placement.life(to) {
                    kernel().note("pd message", to, envelope.message.len() as u64, 0);
                    life.handle.receive(vec![envelope.clone()]);
                }
            };
            self.world.net.send(self.from, to, Arc::new(delivery));
        }
    }
}

fn store_config(world: &World) -> StoreConfig {
    let limits = &world.plan.limits;
    let (log_keep_entries, log_max_entries) = LOG_ENTRIES;
    let mut core = CoreConfig {
        log_keep_entries,
        log_max_entries,
        compact_ticks: limits.compact_ticks,
        read_wait_ticks: 20,
        undetermined_ticks: 40,
        snapshot_retry_ticks: 10,
        ..CoreConfig::default()
    };
    core.raft.election_ticks = limits.election_ticks as usize;
    core.raft.heartbeat_ticks = 1;
    core.raft.seed = world.plan.seed;
    StoreConfig { tick: Duration::from_millis(limits.tick_ms), core, ..StoreConfig::default() }
}

/// Starts a member from what it holds.
fn open(
    world: &Arc<World>,
    id: NodeId,
    group: Group,
    pace: Arc<Pace>,
    disk: MemoryDisk,
) -> damask_pd_group::Result<PdLife> {
    let (alive, led) = (Alive::new(), Arc::<Mutex<Option<Arc<Led>>>>::default());
    let clock: Arc<dyn Clock> = Arc::new(kernel().clock(group));
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let registers = Arc::new(Registers::open(shared.clone())?);
    let (lives, slot, of_world) = (alive.clone(), led.clone(), world.clone());
    let on_lead = move |led: Led| {
        if lives.get() {
            kernel().note("pd leads", id, led.term, led.oracle.bound().0);
            let before = slot.lock().replace(Arc::new(led));
            drop(before);
            of_world.leads_placement(id);
        }
    };
    let inner = open_log(shared)?;
    let (store, logs) = (store_of(id), world.member_logs.clone());
    let (of_world, alive_too, of_members) = (world.clone(), alive.clone(), true);
    let seen = Seen { world: of_world, logs, store, alive: alive_too, of_members };
    seen.judge(|logs| logs.opened(store, &inner));
    let member = Member::start(Options {
        id: store,
        store: store_config(world),
        planner: planner(&world.plan.limits),
        clock,
        log: Arc::new(SimLog { inner, pace: pace.clone(), seen: seen.clone() }),
        registers: registers.clone(),
        machine: Arc::new(SimMachine {
            inner: registers.clone(),
            pace: pace.clone(),
            told: Some(Told::new(seen.clone())),
            seen,
            rows: false,
            ranges: Mutex::default(),
            flushes: Arc::default(),
        }),
        transport: Arc::new(PdTransport { world: world.clone(), from: id, alive: alive.clone() }),
        on_open: None,
        on_lead: Arc::new(on_lead),
    })?;
    let (handle, member) = (member.handle().clone(), Mutex::new(Some(member)));
    let faulty = AtomicBool::new(false);
    Ok(PdLife { group, alive, handle, registers, led, member, disk, pace, faulty })
}

/// Lets the threads of a member that has ended come to their end, unheard by anybody.
fn bury(life: Arc<PdLife>) {
    life.alive.end();
    let kernel = kernel();
    kernel.wake_group(life.group);
    kernel.spawn_in(life.group, "bury", move || {
        let member = life.member.lock().take();
        if let Some(mut member) = member {
            member.stop();
        }
    });
}

impl World {
    /// Starts a member, if it does not run.
    pub fn start_member(self: &Arc<World>, id: NodeId) {
        let (group, pace, disk) = {
            let mut members = self.placement.members.lock();
            let Some(node) = members.get_mut(&id) else { return };
            let Some(disk) = node.disk.take() else { return };
            (node.group, node.pace.clone(), disk)
        };
        kernel().note("pd starts", id, 0, 0);
        let world = self.clone();
        kernel().spawn_in(group, &format!("pd-start-{id}"), move || {
            match open(&world, id, group, pace, disk) {
                Ok(life) => {
                    if let Some(node) = world.placement.members.lock().get_mut(&id) {
                        node.life = Some(Arc::new(life));
                    }
                }
                Err(e) => world.fail(format!("member {id} of the driver does not start: {e}")),
            }
        });
    }

    /// Ends a member as a power cut does; it comes back after `downtime`.
    pub fn crash_member(self: &Arc<World>, id: NodeId, downtime: Micros) {
        let life = {
            let mut members = self.placement.members.lock();
            let Some(node) = members.get_mut(&id) else { return };
            let Some(life) = node.life.take() else { return };
            node.disk = Some(after_crash(&life.disk));
            life
        };
        kernel().note("pd crashes", id, downtime, 0);
        bury(life);
        let world = self.clone();
        kernel().after(downtime, move || world.start_member(id));
    }

    /// Stops all members, with nobody to come back.
    pub fn stop_members(&self) {
        let mut members = self.placement.members.lock();
        for node in members.values_mut() {
            node.disk = None;
            if let Some(life) = node.life.take() {
                bury(life);
            }
        }
    }

    /// A member can serve as the leader.
    fn leads_placement(self: &Arc<World>, id: NodeId) {
        if !self.placement.doomed.swap(false, Ordering::Relaxed) {
            return;
        }
        if self.is_calm() {
            return;
        }
        // What it has just proposed reaches nobody, and nobody knows; or it dies.
        if kernel().draw(|chance| chance.permille(500)) {
            return self.cut_member(id, RIVALRY_MIN);
        }
        let (soon, late) = DOOM;
        let time = kernel().draw(|chance| chance.between(soon, late));
        let world = self.clone();
        kernel().after(time, move || {
            if !world.is_calm() {
                world.crash_member(id, 100_000 + time * 10);
            }
        });
    }

    /// A member and the others do not hear each other; whoever asks them still does.
    fn cut_member(self: &Arc<World>, id: NodeId, time: Micros) {
        let others = member_ids(self.plan.limits.pds).into_iter().filter(|other| *other != id);
        for other in others {
            self.cut(id, other, time);
            self.cut(other, id, time);
        }
    }

    /// The member that was elected last, as far as anybody knows.
    fn placement_leader(&self) -> Option<(NodeId, Arc<PdLife>)> {
        let members = self.placement.members.lock();
        let lives = members.iter().filter_map(|(id, node)| Some((*id, node.life.clone()?)));
        lives
            .filter(|(_, life)| life.led().is_some())
            .max_by_key(|(_, life)| life.led().map_or(0, |led| led.term))
    }

    /// Power is lost at the leader of the group, at a member, or at all of them; sometimes at the
    /// next leader too, as soon as it serves.
    pub fn crash_members(self: &Arc<World>, time: Micros, pick: u64) {
        let ids = member_ids(self.plan.limits.pds);
        let leader = self.placement_leader().map(|(id, _)| id);
        let downtime = 1 + time.min(1_000_000);
        self.placement.doomed.store(pick.is_multiple_of(2), Ordering::Relaxed);
        match (pick >> 4) % 8 {
            0 => ids.into_iter().for_each(|id| {
                self.crash_member(id, 1 + pick.wrapping_shr(id as u32) % 400_000);
            }),
            1 | 2 => self.crash_member(ids[(pick >> 8) as usize % ids.len()], downtime),
            _ => {
                if let Some(leader) = leader {
                    self.crash_member(leader, downtime);
                }
            }
        }
    }

    /// The group's leader does not know that it leads no more: it is cut off from the others, and
    /// not from those that ask it; or it stands still, or the thread does that would hear of it.
    /// Or its disk is slow, or fails.
    pub fn old_placement(self: &Arc<World>, time: Micros, pick: u64) {
        let Some((leader, life)) = self.placement_leader() else { return };
        let long = time.max(RIVALRY_MIN);
        match pick % 8 {
            0..=2 => self.cut_member(leader, long),
            3 | 4 => kernel().pause_group(life.group, time.min(PAUSE_MAX)),
            5 => kernel().stall(life.group, "raft", long),
            6 => life.pace.slow(5 + pick % 100, kernel().time() + long),
            _ => {
                life.faulty.store(true, Ordering::Relaxed);
                let fail_at = Some((pick >> 24) % 30);
                life.disk.set_fault(DiskFault { fail_at, capacity: None });
                let world = self.clone();
                kernel().after(time.max(50_000), move || {
                    if life.alive.get() {
                        world.crash_member(leader, 1 + time / 4);
                    }
                });
            }
        }
    }

    /// Nothing is wrong with the members any more.
    pub fn heal_members(self: &Arc<World>) {
        for id in member_ids(self.plan.limits.pds) {
            let (group, life) = {
                let members = self.placement.members.lock();
                let Some(node) = members.get(&id) else { continue };
                node.pace.slow(1, 0);
                (node.group, node.life.clone())
            };
            kernel().wake_group(group);
            kernel().jump(group, 0);
            match life {
                Some(life) if life.faulty.load(Ordering::Relaxed) => self.crash_member(id, 1),
                Some(_) => {}
                None => self.start_member(id),
            }
        }
    }

    /// Does one member lead, and do all hold what it holds?
    ///
    /// # Errors
    /// In words, if not.
    pub fn members_settled(&self) -> Result<(), String> {
        let ids = member_ids(self.plan.limits.pds);
        let lives: Vec<_> = ids.iter().filter_map(|id| self.placement.life(*id)).collect();
        if lives.len() < ids.len() {
            return Err("a member of the placement driver does not run".to_owned());
        }
        let applied = |life: &Arc<PdLife>| life.handle.replica(GROUP).map(|s| s.applied.index);
        let led = lives.iter().filter(|life| life.led().is_some()).count();
        let furthest = lives.iter().map(applied).max();
        if !lives.is_empty() && led != 1 {
            return Err(format!("{led} members of the placement driver lead"));
        }
        for life in &lives {
            let values = |name| (life.registers.get(name), lives[0].registers.get(name));
            if Some(applied(life)) != furthest {
                return Err(format!(
                    "members have applied {:?}",
                    lives.iter().map(applied).collect::<Vec<_>>()
                ));
            }
            for name in ["state", "bound"] {
                let (own, first) = values(name);
                if own != first {
                    return Err(format!("members hold different values of {name}"));
                }
            }
        }
        Ok(())
    }
}
