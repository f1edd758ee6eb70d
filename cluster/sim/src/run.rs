//! One seed from beginning to end: a storm, a calm in which everybody must get on, a silence in
//! which all replicas become alike, and then the judgement of all that was seen. It must never
//! leave a task behind that could go on.

use crate::clients::Session;
use crate::driver::RemotePd;
use crate::history::{Truth, Version};
use crate::kernel::{Kernel, Micros, kernel};
use crate::net::FIRST_CLIENT;
use crate::nodes::{Alive, Life, stop_all, wait_until};
use crate::panics;
use crate::plan::Plan;
use crate::work;
use crate::world::{Counts, World};
use damask_kv::{Cf, Engine, MemoryEngine, Snapshot};
use damask_txn::history::{Level, check};
use damask_types::codec::{decode_key, encode_key_ts, split_key_ts};
use damask_types::{Region, StoreId, Timestamp, Write, WriteKind};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Until the first rows are there.
const SET_UP: Micros = 20_000_000;
/// In which every client must commit something after the storm.
const CALM: Micros = 30_000_000;
/// In which a store that was told to leave must be rid of its replicas; there may be dozens of them,
/// and clients go on all the while.
const REPLACED: Micros = 120_000_000;
/// Transactions that every client must commit in the calm.
const CALM_COMMITS: u64 = 3;
/// In which clients end, and everything is read once more.
const AUDIT: Micros = 40_000_000;
/// In which replicas become alike.
const SILENCE: Micros = 30_000_000;
/// In which all tasks end.
const END: Micros = 20_000_000;
/// Events between two looks at stores that stopped by themselves.
const LOOK_EVERY: u64 = 512;
/// Events of one run: more would be one that gets nowhere.
const EVENTS_MAX: u64 = 40_000_000;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Of everything that happened, in order.
    pub trace: u64,
    /// Things that happened.
    pub events: u64,
    /// Simulated time.
    pub time: Micros,
    /// What was done in it.
    pub counts: Counts,
}

/// A rule was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was run.
    pub plan: Plan,
    /// What was broken.
    pub reason: String,
    /// The last things that happened.
    pub events: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seed = self.plan.seed;
        writeln!(f, "seed {seed}: {}", self.reason)?;
        writeln!(f, "last events (time, node, what):")?;
        self.events.iter().try_for_each(|event| writeln!(f, "  {event}"))?;
        writeln!(f, "limits, and {} faults:", self.plan.faults.len())?;
        self.plan.told().iter().try_for_each(|fault| writeln!(f, "  {fault}"))?;
        writeln!(f, "seed {seed}: {}", self.reason)?;
        match self.plan.has_moved() {
            false => write!(f, "again: damask sim {}", self.plan.command()),
            true => {
                write!(f, "again: damask sim --given FILE, with this in it:\n{}", self.plan.text())
            }
        }
    }
}

/// Runs one plan, on this thread.
///
/// # Errors
/// The rule that was broken, with what led to it.
pub fn run(plan: &Plan) -> Result<Report, Box<Failure>> {
    panics::watch();
    let (kernel, running) = Kernel::start(plan.seed);
    let made = World::new(plan);
    let (result, counts) = match &made {
        Ok(world) => (panics::caught(|| live(&kernel, world)), *world.counts.lock()),
        Err(e) => (Ok(Err(e.clone())), Counts::default()),
    };
    let (trace, events, time) = (kernel.trace(), kernel.events(), kernel.time());
    let story = kernel.story();
    let left = match (&result, &made) {
        (Ok(_), Ok(world)) => end(&kernel, world),
        _ => Ok(()),
    };
    if left.is_err() || result.is_err() {
        // What its tasks hold is on stacks that nobody goes back to.
        std::mem::forget(made);
    } else {
        drop(made);
    }
    kernel.end();
    drop(running);
    panics::unwatch();
    let fail = |reason| Failure { plan: plan.clone(), reason, events: story };
    match result.and_then(|result| result).and(left) {
        Ok(()) => Ok(Report { trace, events, time, counts }),
        Err(reason) => Err(Box::new(fail(reason))),
    }
}

/// True if `done` held before the time was over.
fn go(
    kernel: &Kernel,
    world: &World,
    time: Micros,
    done: impl Fn() -> bool,
) -> Result<bool, String> {
    let mut failure = None;
    let reached = kernel.run_until(kernel.time() + time, || {
        let events = kernel.events();
        world.check_leases();
        if let Some(panic) = panics::take() {
            failure = Some(format!("a panic: {panic}"));
        } else if events > EVENTS_MAX {
            failure = Some(format!("{events} events: it gets nowhere"));
        } else if world.has_failed() || events.is_multiple_of(LOOK_EVERY) {
            failure = world.failure();
        }
        failure.is_some() || done()
    });
    match failure.or_else(|| world.failure()) {
        Some(why) => Err(why),
        None => Ok(reached),
    }
}

fn live(kernel: &Kernel, world: &Arc<World>) -> Result<(), String> {
    world.start();
    set_up(kernel, world)?;
    let clients = world.clients.lock().len();
    (0..clients).for_each(|at| world.start_client(at));
    world.schedule_faults();
    world.advance_safe_point();
    go(kernel, world, world.plan.storm, || false)?;
    world.heal();
    let gets_on = || {
        world.clients.lock().iter().all(|client| client.in_calm >= CALM_COMMITS)
            && kernel.events().is_multiple_of(LOOK_EVERY)
    };
    if !go(kernel, world, CALM, gets_on)? {
        let commits: Vec<u64> = world.clients.lock().iter().map(|c| c.in_calm).collect();
        let told = describe(world);
        return Err(format!("clients committed {commits:?} after the storm\n{told}"));
    }
    let is_done = || kernel.events().is_multiple_of(LOOK_EVERY) && is_replaced(world);
    if !is_replaced(world) && !go(kernel, world, REPLACED, is_done)? {
        return Err(format!("a store that leaves keeps replicas\n{}", describe(world)));
    }
    world.over();
    // What is read last is read after everything else has ended.
    let quiet = || world.at_work.load(Ordering::Relaxed) == 0;
    if !go(kernel, world, AUDIT, quiet)? {
        return Err(format!("clients do not end\n{}", describe(world)));
    }
    audit(kernel, world)?;
    silence(kernel, world)?;
    let truth = truth(world)?;
    world.extras.lock().check()?;
    let history = world.history.lock();
    truth.check(&history)?;
    let found = check(&history.lists, Level::SnapshotIsolation);
    match found.first() {
        None => Ok(()),
        Some(anomaly) => Err(format!("lists: {anomaly:?} (and {} more)", found.len() - 1)),
    }
}

/// Has every region a leader, and other replicas instead of those that are gone for good?
fn is_replaced(world: &World) -> bool {
    let retired = world.retired();
    let is_whole = |(region, _): &(Region, Arc<Life>)| {
        region.peers.iter().all(|peer| !retired.contains(&peer.store))
    };
    retired.is_empty() || leaders(&world.lives()).is_ok_and(|led| led.values().all(is_whole))
}

/// Does something in a client's process of its own, until it holds.
fn with_client(
    kernel: &Kernel,
    world: &Arc<World>,
    number: u64,
    time: Micros,
    mut body: impl FnMut(&mut Session) -> bool + Send + 'static,
) -> Result<bool, String> {
    let done = Arc::new(Mutex::new(false));
    let (group, told, task_world) = (kernel.group(0, 1_000_000), done.clone(), world.clone());
    let id = FIRST_CLIENT + 500 + number;
    let alive = Alive::new();
    let lives = alive.clone();
    kernel.spawn_in(group, "auditor", move || {
        let mut session = Session::open(&task_world, id, lives, number);
        let gets_done = wait_until(time, || body(&mut session));
        session.client.flush();
        drop(session);
        *told.lock() = gets_done;
    });
    let reached = go(kernel, world, time, || *done.lock())?;
    alive.end();
    Ok(reached)
}

fn set_up(kernel: &Kernel, world: &Arc<World>) -> Result<(), String> {
    let body = |session: &mut Session| {
        let rules = session.world.set_column_rules(&session.wire.placement());
        rules.is_ok() && work::set_up(session).is_ok()
    };
    if with_client(kernel, world, 0, SET_UP, body)? {
        return Ok(());
    }
    Err(format!("the first rows are not taken\n{}", describe(world)))
}

fn audit(kernel: &Kernel, world: &Arc<World>) -> Result<(), String> {
    if with_client(kernel, world, 1, AUDIT, work::audit)? {
        return Ok(());
    }
    Err(format!("not everything can be read after the storm\n{}", describe(world)))
}

/// Every region has one leader, and all its replicas are where the leader is.
fn silence(kernel: &Kernel, world: &Arc<World>) -> Result<(), String> {
    let end = kernel.time() + SILENCE;
    loop {
        go(kernel, world, 300_000, || false)?;
        match settled(world) {
            Ok(()) => return Ok(()),
            Err(e) if kernel.time() >= end => {
                return Err(format!("replicas do not become alike: {e}\n{}", describe(world)));
            }
            Err(_) => {}
        }
    }
}

fn settled(world: &World) -> Result<(), String> {
    world.members_settled()?;
    let lives = world.lives();
    let regions = leaders(&lives)?;
    for (region, leader) in regions.values() {
        let status = leader.handle.replica(region.id).ok_or("a leader without its region")?;
        for peer in &region.peers {
            let there = lives.iter().find(|life| life.handle.id() == peer.store);
            let there = there.and_then(|life| life.handle.replica(region.id));
            let alike = there.as_ref().is_some_and(|t| {
                t.applied.index == status.applied.index && t.region.epoch == region.epoch
            });
            if !alike {
                let there = there.map(|t| (t.applied, t.region.epoch));
                return Err(format!(
                    "region {} on store {}: {there:?}, and the leader has {:?} {:?}",
                    region.id, peer.store, status.applied, region.epoch
                ));
            }
        }
    }
    Ok(())
}

type Led = BTreeMap<Vec<u8>, (Region, Arc<Life>)>;

/// Regions by their start, each with its leader; they hold every key once.
fn leaders(lives: &[Arc<Life>]) -> Result<Led, String> {
    let mut regions: Led = BTreeMap::new();
    for life in lives {
        for status in life.handle.replicas().into_iter().filter(|status| status.is_leader) {
            let start = status.region.range.start.clone();
            if let Some((other, _)) = regions.insert(start, (status.region.clone(), life.clone())) {
                return Err(format!("two leaders: of {} and {}", other.id, status.region.id));
            }
        }
    }
    let mut next = Some(Vec::new());
    for (start, (region, _)) in &regions {
        if next.as_ref() != Some(start) {
            return Err(format!("region {} begins where none ends", region.id));
        }
        next = Some(region.range.end.clone()).filter(|end| !end.is_empty());
    }
    match next {
        None => Ok(regions),
        Some(_) => Err("the last keys have no leader".to_owned()),
    }
}

/// What the stores hold: read on each region's leader, the same on its other voters.
fn truth(world: &World) -> Result<Truth, String> {
    let (lives, safe_point) = (world.lives(), world.safe_point.get());
    let mut truth = Truth::default();
    for (region, leader) in leaders(&lives)?.into_values() {
        let engine = leader.engine.as_ref().ok_or("columns lead")?;
        let found = versions(engine, &region, safe_point)?;
        let (alike, rest) = (found.seen_from(safe_point), rest_of(engine, &region, safe_point)?);
        for peer in region.voters().filter(|peer| peer.store != leader.handle.id()) {
            let other = lives.iter().find(|life| life.handle.id() == peer.store);
            let other = other.and_then(|life| life.engine.as_ref()).ok_or("a voter is missing")?;
            let theirs = versions(other, &region, safe_point)?.seen_from(safe_point);
            if theirs != alike || rest_of(other, &region, safe_point)? != rest {
                let (one, other) = (leader.handle.id(), peer.store);
                return Err(format!("region {} differs on stores {one} and {other}", region.id));
            }
        }
        truth.0.extend(found.0);
    }
    world.journal.lock().judge(&truth, safe_point)
}

/// Locks, and records without a value: they are the same on every replica too.
fn rest_of(
    engine: &MemoryEngine,
    region: &Region,
    safe_point: Timestamp,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>, String> {
    let told = |e: &dyn std::fmt::Display| e.to_string();
    let snapshot = engine.snapshot();
    let mut rest = Vec::new();
    for family in [Cf::Lock, Cf::Write] {
        let mut cursor = snapshot.cursor(family, &[], &[]).map_err(|e| told(&e))?;
        let mut pair = cursor.seek(&[]).map_err(|e| told(&e))?;
        while let Some((full, value)) = pair {
            let (encoded, counts) = match family {
                Cf::Lock => (full, true),
                _ => {
                    let (encoded, ts) = split_key_ts(full).map_err(|e| told(&e))?;
                    let kind = Write::decode(value).map_err(|e| told(&e))?.kind;
                    let bare = matches!(kind, WriteKind::Lock | WriteKind::Rollback);
                    (encoded, bare && ts > safe_point)
                }
            };
            if counts && region.range.contains(&decode_key(encoded).map_err(|e| told(&e))?) {
                rest.push((full.to_vec(), value.to_vec()));
            }
            pair = cursor.next().map_err(|e| told(&e))?;
        }
    }
    Ok(rest)
}

/// Values and deletions, but for those that no read at or above the safe point can see again.
fn versions(
    engine: &MemoryEngine,
    region: &Region,
    safe_point: Timestamp,
) -> Result<Truth, String> {
    let told = |e: &dyn std::fmt::Display| e.to_string();
    let snapshot = engine.snapshot();
    let mut truth = Truth::default();
    let mut cursor = snapshot.cursor(Cf::Write, &[], &[]).map_err(|e| told(&e))?;
    let mut pair = cursor.seek(&[]).map_err(|e| told(&e))?;
    while let Some((full, record)) = pair {
        let (encoded, commit_ts) = split_key_ts(full).map_err(|e| told(&e))?;
        let key = decode_key(encoded).map_err(|e| told(&e))?;
        let write = Write::decode(record).map_err(|e| told(&e))?;
        let fenced = |fence: Timestamp| fence != Timestamp::ZERO && fence <= safe_point;
        if write.gc_fence.is_some_and(fenced) {
            // It came back with a note when what stood above it was collected: nobody sees it.
            pair = cursor.next().map_err(|e| told(&e))?;
            continue;
        }
        let value = match write.kind {
            WriteKind::Put => Some(value_of(snapshot.as_ref(), &key, &write)?),
            WriteKind::Delete => None,
            WriteKind::Lock | WriteKind::Rollback => {
                pair = cursor.next().map_err(|e| told(&e))?;
                continue;
            }
        };
        if region.range.contains(&key) {
            let version = Version { commit_ts, start_ts: write.start_ts, value };
            truth.0.entry(key).or_default().push(version);
        }
        pair = cursor.next().map_err(|e| told(&e))?;
    }
    // Newest first in the engine.
    truth.0.values_mut().for_each(|versions| versions.reverse());
    Ok(truth)
}

fn value_of(snapshot: &dyn Snapshot, key: &[u8], write: &Write) -> Result<Vec<u8>, String> {
    if let Some(short) = &write.short_value {
        return Ok(short.clone());
    }
    let found = snapshot.get(Cf::Default, &encode_key_ts(key, write.start_ts));
    let found = found.map_err(|e| e.to_string())?;
    found.map(|bytes| bytes.to_vec()).ok_or_else(|| format!("no value for {write:?}"))
}

/// Every replica in words.
fn describe(world: &World) -> String {
    let mut told = String::new();
    for id in world.store_ids() {
        let Some(life) = world.life(StoreId(id.0)) else {
            told += &format!("    store {id} does not run\n");
            continue;
        };
        for status in life.handle.replicas() {
            let leader = status.leader.map(|peer| peer.store.0);
            told += &format!(
                "    store {id} region {} {:?} term {} leader {leader:?} applied {} commit {}\n",
                status.region.id,
                status.region.epoch,
                status.term,
                status.applied.index,
                status.commit
            );
        }
    }
    told
}

/// Ends all tasks.
fn end(kernel: &Kernel, world: &Arc<World>) -> Result<(), String> {
    world.end();
    for client in world.clients.lock().iter_mut() {
        if let Some(alive) = client.alive.take() {
            alive.end();
        }
    }
    stop_all(world);
    world.stop_members();
    kernel.run_until(kernel.time() + END, || kernel.tasks() == 0);
    drop(panics::take());
    match kernel.tasks() {
        0 => Ok(()),
        n => Err(format!("{n} tasks do not end: {:?}", kernel.names())),
    }
}

impl World {
    /// Asks for columns of the tables that shall have some.
    fn set_column_rules(&self, pd: &RemotePd) -> Result<(), String> {
        use damask_pd::{ColumnRule, Placement};
        if self.plan.limits.columns == 0 {
            return Ok(());
        }
        for table in crate::tables::WITH_COLUMNS {
            let range = damask_types::key::row_range(table);
            let rule = ColumnRule { range, replicas: 1 };
            pd.set_column_rule(rule).map_err(|e| e.to_string())?;
        }
        kernel().note("column rules", 0, 0, 0);
        Ok(())
    }
}
