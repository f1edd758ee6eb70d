//! Requests between processes: sent, answered or not, over the simulated network. It must never say
//! that nothing happened when nobody answered.

use crate::driver::RemotePd;
use crate::kernel::{Group, Micros, kernel};
use crate::net::{NodeId, PLACEMENT};
use crate::nodes::{Alive, Life};
use crate::world::World;
use damask_env::channel;
use damask_env::simulation::pause;
use damask_learner::{AskLeader, ReadError};
use damask_pd::Placement;
use damask_pd_group::Led;
use damask_raftstore::Error as RegionError;
use damask_tso::Oracle;
use damask_txn::{Context, KeyError, LockWait, Request, RequestError, Response, Service, Services};
use damask_types::{ErrorKind, KeyLock, KeyRange, StoreId, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a caller of the oracle waits before it gives up.
const ORACLE_PATIENCE: Duration = Duration::from_millis(300);
/// The same, where it has to find who leads.
const GROUP_PATIENCE: Duration = Duration::from_millis(700);
/// Until a refused connection is known to be refused.
const REFUSED: Duration = Duration::from_micros(400);
/// Leaders that one learner read asks.
const LEADERS_ASKED_MAX: usize = 3;

/// A process that can be asked something.
pub trait Process: Send + Sync + 'static {
    /// Its threads.
    fn group(&self) -> Group;
    /// Does it still live?
    fn is_alive(&self) -> bool;
    /// Others may overtake.
    fn hesitate(&self);
}

impl Process for Life {
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

/// One process's way to others.
#[derive(Clone)]
pub struct Wire {
    /// The cluster.
    pub world: Arc<World>,
    from: NodeId,
    /// The process.
    pub alive: Alive,
    /// The member of the placement driver that answered last; 0: none.
    pub hint: Arc<AtomicU64>,
    /// A request's answer is not waited for any longer than this, microseconds.
    patience: Arc<AtomicU64>,
    /// Not 0: its heartbeats are lost, and copies of its lock requests arrive after so long,
    /// microseconds.
    late_copy: Arc<AtomicU64>,
}

impl Wire {
    /// Of this process.
    pub fn new(world: Arc<World>, from: NodeId, alive: Alive) -> Wire {
        let patience = Arc::new(AtomicU64::new(world.plan.limits.patience_ms * 1_000));
        let (hint, late_copy) = (Arc::default(), Arc::default());
        Wire { world, from, alive, hint, patience, late_copy }
    }

    /// Waits for answers no longer than this.
    pub fn set_patience(&self, patience: Duration) {
        self.patience.store(patience.as_micros() as u64, Ordering::Relaxed);
    }

    /// From now on its heartbeats are lost, and copies of its lock requests arrive late.
    pub fn set_late_copy(&self, late: Micros) {
        self.late_copy.store(late, Ordering::Relaxed);
    }

    /// The oracle, as this process reaches it.
    pub fn oracle(&self) -> RemoteOracle {
        RemoteOracle(self.clone())
    }

    /// The placement driver, as this process reaches it.
    pub fn placement(&self) -> RemotePd {
        RemotePd::new(self.clone())
    }

    /// Has work done in a store's process: see [`Wire::call`].
    pub fn ask<T: Send + 'static>(
        &self,
        to: StoreId,
        patience: Duration,
        work: impl Fn(&Life) -> T + Send + Sync + 'static,
    ) -> Result<T, bool> {
        self.call(to.0, patience, move |world| world.life_at(to), work)
    }

    /// Has work done in another process, as often as the request arrives there; the first answer
    /// that comes back, `Err(false)` if nobody was there to be asked, `Err(true)` if nobody has
    /// answered.
    pub fn call<P: Process, T: Send + 'static>(
        &self,
        to: NodeId,
        patience: Duration,
        find: impl Fn(&World) -> Option<Arc<P>> + Send + Sync + 'static,
        work: impl Fn(&P) -> T + Send + Sync + 'static,
    ) -> Result<T, bool> {
        if !self.alive.get() {
            pause(patience);
            return Err(true);
        }
        if find(&self.world).is_none() {
            pause(REFUSED);
            return Err(false);
        }
        let (sender, receiver) = channel::bounded(1);
        let (world, from, work) = (self.world.clone(), self.from, Arc::new(work));
        let serve = move || {
            let Some(process) = find(&world) else { return };
            let (group, world) = (process.group(), world.clone());
            let (work, sender) = (work.clone(), sender.clone());
            let body = move || {
                process.hesitate();
                let answer = Mutex::new(Some(work(&process)));
                let back = move || {
                    // Nobody waits any more, or another copy was first.
                    if let Some(answer) = answer.lock().take() {
                        drop(sender.try_send(answer));
                    }
                };
                if process.is_alive() {
                    world.net.send(to, from, Arc::new(back));
                }
            };
            kernel().spawn_in(group, "rpc", body);
        };
        self.world.net.send(self.from, to, Arc::new(serve));
        receiver.recv_timeout(patience).map_err(|_| true)
    }
}

impl Services for Wire {
    fn service(&self, store: StoreId) -> Option<Arc<dyn Service>> {
        Some(Arc::new(RemoteService { wire: self.clone(), store }))
    }
}

/// The transaction server of a store, as another process reaches it.
struct RemoteService {
    wire: Wire,
    store: StoreId,
}

impl Service for RemoteService {
    fn call(&self, context: Context, request: Request) -> Result<Response, RequestError> {
        let waits = match &request {
            Request::PessimisticLock(lock) => match lock.wait {
                LockWait::No => 0,
                LockWait::Millis(ms) => ms,
                #[allow(unreachable_patterns, reason = "other waits are as long as a lock lives")]
                _ => 2_000,
            },
            _ => 0,
        };
        let own = Duration::from_micros(self.wire.patience.load(Ordering::Relaxed));
        let patience = own + Duration::from_millis(waits);
        let late = Duration::from_micros(self.wire.late_copy.load(Ordering::Relaxed));
        let copied = matches!(request, Request::PessimisticLock(_)) && !late.is_zero();
        if matches!(request, Request::HeartBeat { .. }) && !late.is_zero() {
            pause(own);
            return Err(RegionError::Undetermined("no answer".to_owned()).into());
        }
        let work = move |life: &Life| match &life.server {
            Some(server) => server.call(context, request.clone()),
            None => Err(RegionError::Invalid("a column store serves no writes".into()).into()),
        };
        if copied {
            let (wire, store, work) = (self.wire.clone(), self.store, work.clone());
            let again = move || {
                pause(late);
                drop(wire.ask(store, patience, work));
            };
            drop(damask_env::spawn("late-copy", again));
        }
        match self.wire.ask(self.store, patience, work) {
            Ok(answer) => answer,
            Err(false) => Err(RegionError::Stopped.into()),
            Err(true) => Err(RegionError::Undetermined("no answer".to_owned()).into()),
        }
    }
}

/// The oracle, behind the network.
pub struct RemoteOracle(Wire);

impl RemoteOracle {
    fn take(&self, n: u32) -> Result<Timestamp, damask_tso::Error> {
        let Wire { world, from, alive, .. } = &self.0;
        let silent = || damask_tso::Error::new(ErrorKind::Retry, "the oracle does not answer");
        let Some(alone) = &world.placement.alone else {
            let ask = move |led: &Led| match led.oracle.get(n) {
                Err(e) if e.kind() == ErrorKind::Reroute => None,
                answer => Some(answer),
            };
            let answer = self.0.placement().ask_leader(GROUP_PATIENCE, ask);
            return answer.unwrap_or_else(|| Err(silent()));
        };
        let lost = || {
            pause(ORACLE_PATIENCE);
            Err(silent())
        };
        if !alive.get() || !world.net.travel(*from, PLACEMENT) {
            return lost();
        }
        let oracle = alone.oracle.lock().clone();
        let Some(oracle) = oracle else { return lost() };
        let ts = oracle.get(n)?;
        if world.net.travel(PLACEMENT, *from) { Ok(ts) } else { lost() }
    }
}

impl Oracle for RemoteOracle {
    fn get(&self, n: u32) -> Result<Timestamp, damask_tso::Error> {
        let Wire { world, alive, .. } = &self.0;
        let floor = world.placement.given.lock().floor();
        let ts = self.take(n)?;
        if alive.get()
            && let Some(why) = world.placement.given.lock().timestamps(floor, ts, n)
        {
            world.fail(why);
        }
        Ok(ts)
    }
}

/// Announces learners' reads to the leaders of their regions.
pub fn ask_leader(pd: RemotePd, services: Arc<dyn Services>) -> AskLeader {
    Box::new(move |region, epoch, ranges, ts| {
        let Some(range) = hull(ranges) else { return Ok(0) }; // nothing of it is read
        let nobody = || ReadError::Region(RegionError::Busy("no leader to ask for a read index"));
        let mut leader = pd.route(&range.start).ok_or_else(nobody)?.leader;
        for _ in 0..LEADERS_ASKED_MAX {
            let service = leader.and_then(|peer| services.service(peer.store));
            let service = service.ok_or_else(nobody)?;
            let request = Request::ReadIndex { range: range.clone(), ts };
            match service.call(Context { region, epoch }, request) {
                Ok(Response::ReadIndex(index)) => {
                    dawdle();
                    return Ok(index);
                }
                Ok(_) => return Err(RegionError::Invalid("no read index".into()).into()),
                Err(RequestError::Region(RegionError::NotLeader { leader: other, .. })) => {
                    leader = other;
                }
                Err(RequestError::Region(RegionError::Stopped)) => return Err(nobody()),
                Err(RequestError::Region(e)) => return Err(e.into()),
                Err(RequestError::Keys(keys)) => return Err(refused(keys)),
                Err(RequestError::BelowSafePoint(e)) => {
                    return Err(ReadError::Store {
                        kind: ErrorKind::TooOld,
                        detail: e.to_string(),
                    });
                }
            }
        }
        Err(nobody())
    })
}

/// A reader may be slow to go on with what its leader said.
fn dawdle() {
    let time = kernel().draw(|chance| match chance.permille(300) {
        true => chance.between(1, 6_000),
        false => 1,
    });
    pause(Duration::from_micros(time));
}

fn refused(keys: Vec<KeyError>) -> ReadError {
    let mut locks: Vec<KeyLock> = Vec::with_capacity(keys.len());
    for key in keys {
        match key {
            KeyError::Locked(lock) => locks.push(*lock),
            other => return RegionError::Invalid(other.to_string()).into(),
        }
    }
    ReadError::Locked(locks)
}

/// The smallest range that holds them all.
fn hull(ranges: &[KeyRange]) -> Option<KeyRange> {
    let start = ranges.iter().map(|range| &range.start).min()?.clone();
    let open = ranges.iter().any(|range| range.end.is_empty());
    let end = if open { None } else { ranges.iter().map(|range| &range.end).max() };
    Some(KeyRange { start, end: end.cloned().unwrap_or_default() })
}
