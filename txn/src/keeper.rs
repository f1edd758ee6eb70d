//! Heartbeats: the primaries of pessimistic transactions, and of commits that take long, are kept
//! alive. It must never keep alive what its client has left: it lives in the client, and ends with
//! it; and no transaction lives longer than the configuration allows.
//!
//! ```text
//!   tick ─► whose last beat is old? ─► by region ─► one job a region ─► a few senders
//!                                                   a region that is silent holds up its own only
//! ```

use crate::region::{Core, Failed};
use crate::request::Request;
use crate::workers::Workers;
use damask_env::{Task, spawn};
use damask_pd::Route;
use damask_types::{RegionId, Timestamp};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// How often the keeper looks at least; more often when locks live shorter.
const TICK_MAX: Duration = Duration::from_millis(500);
/// Threads that send: as many regions may be silent, less one, before others wait for them.
const SENDERS: usize = 4;
/// Requests that one beat may take: the leader may have moved.
const TRIES: u32 = 4;
/// Regions whose beats may wait for a sender; those of more wait for the next tick.
const REGIONS_QUEUED_MAX: usize = 256;

/// One transaction with locks.
#[derive(Clone)]
struct Beat {
    primary: Vec<u8>,
    /// When the transaction began, and when its lock was last made to live longer.
    began: Duration,
    last: Duration,
}

/// The transactions with locks, and the thread that keeps them alive.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    task: Option<Task>,
}

pub(crate) struct Shared {
    core: Arc<Core>,
    alive: Mutex<HashMap<Timestamp, Beat>>,
    /// Regions to which beats are on their way.
    busy: Mutex<HashSet<RegionId>>,
}

impl Keeper {
    pub fn new(core: Arc<Core>) -> Keeper {
        let shared = Arc::new(Shared { core, alive: Mutex::default(), busy: Mutex::default() });
        let task = spawn("txn-keeper", {
            let shared = Arc::clone(&shared);
            move || run(&shared)
        });
        Keeper { shared, task: Some(task) }
    }

    /// Keeps the transaction alive until the guard is dropped.
    pub fn watch(&self, start_ts: Timestamp, primary: &[u8], began: Duration) -> Watch {
        let last = self.shared.core.clock.monotonic();
        let beat = Beat { primary: primary.to_vec(), began, last };
        self.shared.alive.lock().insert(start_ts, beat);
        Watch { shared: Arc::clone(&self.shared), start_ts }
    }
}

/// A transaction that is kept alive.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    start_ts: Timestamp,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.alive.lock().remove(&self.start_ts);
    }
}

/// A region's turn: nobody else sends beats to it meanwhile.
struct Turn {
    shared: Arc<Shared>,
    region: RegionId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.busy.lock().remove(&self.region);
    }
}

fn run(shared: &Arc<Shared>) {
    let mut senders = None;
    let due = Duration::from_millis(shared.core.config.lock_ttl_ms / 3);
    let tick = TICK_MAX.min(due / 2).max(Duration::from_millis(1));
    while !shared.core.closing.wait(tick) {
        for (route, beats) in by_region(&shared.core, shared.late(due)) {
            let region = route.region.id;
            if !shared.busy.lock().insert(region) {
                continue;
            }
            let turn = Turn { shared: Arc::clone(shared), region };
            let job = move || beats.into_iter().for_each(|beat| turn.shared.beat(&route, beat));
            let new = || Workers::new("txn-beat", SENDERS, REGIONS_QUEUED_MAX);
            // Refused: there is no room, and the turn ends with the job.
            drop(senders.get_or_insert_with(new).offer(Box::new(job)));
        }
    }
}

type Late = Vec<(Timestamp, Beat)>;

fn by_region(core: &Core, late: Late) -> impl Iterator<Item = (Route, Late)> {
    let mut groups: BTreeMap<RegionId, (Route, Late)> = BTreeMap::new();
    for (start_ts, beat) in late {
        // Not known: the next tick looks again.
        if let Some(route) = core.locate.locate(&beat.primary) {
            let (_, beats) = groups.entry(route.region.id).or_insert((route, Vec::new()));
            beats.push((start_ts, beat));
        }
    }
    groups.into_values()
}

impl Shared {
    /// The transactions whose locks want a beat.
    fn late(&self, due: Duration) -> Late {
        let oldest = Duration::from_millis(self.core.config.transaction_ms_max);
        let now = self.core.clock.monotonic();
        let is_late = |beat: &Beat| {
            let young = now.saturating_sub(beat.began) < oldest;
            young && now.saturating_sub(beat.last) >= due
        };
        let alive = self.alive.lock();
        let late = alive.iter().filter(|(_, beat)| is_late(beat));
        late.map(|(start_ts, beat)| (*start_ts, beat.clone())).collect()
    }

    /// A few times, to one replica after the other; the next tick tries again. The store may say
    /// that there is no lock: the primary is not prewritten yet, or the transaction has ended.
    fn beat(&self, route: &Route, (start_ts, beat): (Timestamp, Beat)) {
        let core = &self.core;
        let now = core.clock.monotonic();
        let age_ms = now.saturating_sub(beat.began).as_millis() as u64;
        let ttl_ms = age_ms + core.config.lock_ttl_max_ms;
        let mut backoff = core.brief_backoff();
        let mut route = route.clone();
        for _ in 0..TRIES {
            let primary = beat.primary.clone();
            let request = Request::HeartBeat { primary, start_ts, ttl_ms };
            match core.call(&route, request, &mut backoff) {
                Ok(_) | Err(Failed::Keys(_)) => {
                    if let Some(beat) = self.alive.lock().get_mut(&start_ts) {
                        beat.last = now;
                    }
                    return;
                }
                Err(Failed::Again) => match core.locate.locate(&beat.primary) {
                    Some(found) => route = found,
                    None => return,
                },
                Err(Failed::Fatal(e)) => {
                    tracing::debug!(%start_ts, error = %e, "a heartbeat was lost");
                    return;
                }
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.core.closing.set();
        if let Some(Err(panic)) = self.task.take().map(Task::join) {
            tracing::error!(panic, "the keeper panicked");
        }
    }
}
