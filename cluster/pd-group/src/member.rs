//! One member of the placement driver's group: a store with the group's one region, and, while it
//! leads, a placement driver and an oracle over the registers. It must never serve what another
//! leader may have gone past: it saves only in its own term, and answers only while its lease lasts.
//!
//! ```text
//!  elected in term T ─► barrier (all of earlier terms is applied) ─► load ─► Led { T, Pd, oracle }
//!  save     propose the register in term T; done when committed and applied; else refused
//!  answer   first take it, then: does the lease of term T last? (the clock is read after)
//! ```

use crate::registers::{self, Registers};
use crate::{EPOCH, Error, GROUP, Result};
use damask_env::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use damask_env::{Clock, Disk, Mistake, Task, lock, mistaken, spawn};
use damask_pd::{Pd, Persist};
use damask_raftstore::{
    FileLogConfig, FileLogStore, LogStore, Proposal, ReadMode, ReadPermit, ReplicaStatus,
    StateMachine, Store, StoreConfig, StoreHandle, StoreOptions, Transport,
};
use damask_tso::{BoundStore, LocalOracle};
use damask_types::{ErrorKind, StoreId, Timestamp};
use parking_lot::Mutex;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// The placement driver's state.
const STATE: &str = "state";
/// The oracle's bound: 8 bytes, big-endian.
const BOUND: &str = "bound";
/// The member's Raft log, on its disk.
const LOG: &str = "raft";
/// Between two looks whether this member leads; a change wakes it at once.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between two looks whether a leader that waits for its group still leads.
const WAIT_SLICE: Duration = Duration::from_millis(20);
/// Looks before it gives up: five seconds.
const WAIT_SLICES_MAX: u32 = 250;

/// Who is told that a member leads and can serve.
pub type OnLead = Arc<dyn Fn(Led) + Send + Sync>;

/// What a member is started with.
pub struct Options {
    /// Which one, from 1.
    pub id: StoreId,
    /// Ticks and elections.
    pub store: StoreConfig,
    /// The planner's aims.
    pub planner: damask_pd::Config,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Its Raft log (`open_log`).
    pub log: Arc<dyn LogStore>,
    /// Its part of the group's state.
    pub registers: Arc<Registers>,
    /// What the log is applied to: the registers, or what stands in front of them.
    pub machine: Arc<dyn StateMachine>,
    /// Its way to the other members.
    pub transport: Arc<dyn Transport>,
    /// Who makes it reachable, before its first message leaves.
    pub on_open: Option<damask_raftstore::OnOpen>,
    /// Who is told, on a thread of the member's that may wait.
    pub on_lead: OnLead,
}

/// The Raft log of a member, on its disk.
///
/// # Errors
/// The disk fails, or the log is damaged.
pub fn open_log(disk: Arc<dyn Disk>) -> Result<FileLogStore> {
    let config =
        FileLogConfig { segment_bytes: 4 << 20, cache_bytes: 4 << 20, ..FileLogConfig::default() };
    FileLogStore::open(disk, LOG, config)
}

/// A leader's line to its group, good for one term.
#[derive(Clone)]
pub struct Line {
    handle: StoreHandle,
    registers: Arc<Registers>,
    term: u64,
}

impl Line {
    fn leads(&self) -> bool {
        self.handle.replica(GROUP).is_some_and(|s| s.is_leader && s.term == self.term)
    }

    fn not_leader(&self) -> Error {
        Error::NotLeader { region: GROUP, leader: None }
    }

    /// Waits for an answer of the store's, as long as this is the leader.
    fn wait<T>(&self, answer: &Receiver<Result<T>>) -> Result<T> {
        for _ in 0..WAIT_SLICES_MAX {
            match answer.recv_timeout(WAIT_SLICE) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) if self.leads() => {}
                Err(_) => return Err(Error::Undetermined("it leads no more".to_owned())),
            }
        }
        Err(Error::Undetermined("the group does not answer".to_owned()))
    }

    fn in_term(&self, permit: &ReadPermit) -> Result<()> {
        if permit.term == self.term { Ok(()) } else { Err(self.not_leader()) }
    }

    /// Everything that was committed before is applied here, and this is still the leader.
    fn barrier(&self) -> Result<()> {
        let (sender, answer) = bounded(1);
        let done = Box::new(move |result| drop(sender.send(result)));
        self.handle.read(GROUP, EPOCH, ReadMode::Index, done);
        self.in_term(&self.wait(&answer)?)
    }

    /// May be answered what was taken before this call? By the lease, else the group is asked.
    ///
    /// # Errors
    /// It leads no more, or cannot find out.
    pub fn may_serve(&self) -> Result<()> {
        if mistaken(Mistake::DeposedServes) {
            return Ok(());
        }
        match self.handle.read_local(GROUP, EPOCH, || ()) {
            Some((permit, ())) => self.in_term(&permit),
            None => self.barrier(),
        }
    }

    /// Sets a register: committed and applied on return.
    fn set(&self, name: &str, value: Vec<u8>) -> Result<()> {
        let (sender, answer) = bounded(1);
        let done = Box::new(move |result| drop(sender.send(result)));
        let records = vec![registers::set(name, value)];
        let term = Some(self.term);
        self.handle.propose(Proposal { region: GROUP, epoch: EPOCH, term, records }, done);
        if mistaken(Mistake::BoundNotCommitted) {
            return Ok(());
        }
        self.wait(&answer)?;
        Ok(())
    }
}

impl Persist for Line {
    fn save(&self, bytes: &[u8]) -> std::result::Result<(), String> {
        self.set(STATE, bytes.to_vec()).map_err(|e| e.to_string())
    }
}

impl BoundStore for Line {
    fn load(&self) -> std::result::Result<Timestamp, damask_tso::Error> {
        self.barrier().map_err(to_oracle)?;
        let Some(bytes) = self.registers.get(BOUND) else { return Ok(Timestamp::ZERO) };
        let bytes = <[u8; 8]>::try_from(&bytes[..]).map_err(|_| {
            damask_tso::Error::new(ErrorKind::Corrupt, "the saved bound: not 8 bytes")
        })?;
        Ok(Timestamp(u64::from_be_bytes(bytes)))
    }

    fn save(&self, bound: Timestamp) -> std::result::Result<(), damask_tso::Error> {
        self.set(BOUND, bound.0.to_be_bytes().to_vec()).map_err(to_oracle)
    }

    fn may_serve(&self) -> std::result::Result<(), damask_tso::Error> {
        Line::may_serve(self).map_err(to_oracle)
    }
}

fn to_oracle(e: Error) -> damask_tso::Error {
    let kind = match e.kind() {
        // The bound may be saved or not: nothing was given out below it.
        ErrorKind::Undetermined | ErrorKind::Retry => ErrorKind::Reroute,
        kind => kind,
    };
    damask_tso::Error::new(kind, e)
}

/// What a leader serves with, in its term.
pub struct Led {
    /// Whose.
    pub member: StoreId,
    /// In which term.
    pub term: u64,
    /// The placement driver; it has heard of nothing yet. It waits while it saves: see
    /// [`Led::answer`].
    pub pd: Pd,
    /// The oracle, above everything that earlier leaders gave out.
    pub oracle: LocalOracle,
    /// To ask whether it may still answer.
    pub line: Line,
    /// Held by whoever asks the driver, which holds a lock of its own over a save: a simulated
    /// thread must not wait for that one.
    asked: Mutex<()>,
}

impl Led {
    /// What the driver answers, one question at a time, if this member still leads after that.
    ///
    /// # Errors
    /// It leads no more, or cannot find out.
    pub fn answer<T>(&self, ask: impl FnOnce(&Pd) -> T) -> Result<T> {
        let answer = {
            let _one = lock(&self.asked);
            ask(&self.pd)
        };
        self.line.may_serve()?;
        Ok(answer)
    }
}

/// What is shown of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberStatus {
    /// Which one, from 1.
    pub id: StoreId,
    /// `up`, `stopped` or `failed`.
    pub state: &'static str,
    /// Why it failed.
    pub reason: Option<String>,
    /// Does it lead, as far as it knows?
    pub leads: bool,
    /// In which term it is.
    pub term: Option<u64>,
    /// How far it has applied the group's log.
    pub applied: Option<u64>,
}

enum Wake {
    Look,
    Stop,
}

/// A running member; dropping it without [`Member::stop`] leaves its watch behind.
pub struct Member {
    handle: StoreHandle,
    store: Option<Store>,
    wakes: Sender<Wake>,
    task: Option<Task>,
}

impl Member {
    /// Starts it with what it holds of the group (`make`).
    ///
    /// # Errors
    /// It held data and is empty now, or what it holds is damaged.
    pub fn start(options: Options) -> Result<Member> {
        let Options { id, mut store, planner, clock, log, registers, .. } = options;
        // Who asleep would notice that the leader is gone?
        store.core.hibernate_regions = false;
        let (wakes, inbox) = bounded(1);
        let mut of_store = StoreOptions::new(id);
        of_store.config = store;
        of_store.held_data = true;
        let look = wakes.clone();
        // Full: it is about to look anyway.
        of_store.on_change = Some(Arc::new(move |_| drop(look.try_send(Wake::Look))));
        of_store.on_open = options.on_open;
        let (machine, transport) = (options.machine, options.transport);
        let store = Store::start(of_store, log, machine, transport, clock.clone())?;
        let (handle, on_lead) = (store.handle(), options.on_lead);
        let watch = Watch { handle, registers, clock, planner, on_lead, term: 0 };
        let handle = watch.handle.clone();
        let task = spawn(&format!("pd-{id}"), move || watch.run(&inbox));
        Ok(Member { handle, store: Some(store), wakes, task: Some(task) })
    }

    /// How requests and messages get in.
    pub fn handle(&self) -> &StoreHandle {
        &self.handle
    }

    /// What it says of itself.
    pub fn status(&self) -> MemberStatus {
        let (id, reason) = (self.handle.id(), self.handle.failed().map(|e| e.to_string()));
        let state = if reason.is_some() { "failed" } else { "up" };
        let replica: Option<ReplicaStatus> = self.handle.replica(GROUP);
        let term = replica.as_ref().map(|r| r.term);
        let applied = replica.as_ref().map(|r| r.applied.index);
        let leads = replica.is_some_and(|r| r.is_leader);
        MemberStatus { id, state, reason, leads, term, applied }
    }

    /// Stops it, as if its process had ended. Whoever waits for it is answered first.
    pub fn stop(&mut self) {
        if let Some(store) = self.store.take()
            && let Err(e) = store.stop()
        {
            tracing::warn!(member = %self.handle.id(), "the placement driver's member: {e}");
        }
        // Its waits have ended with the store.
        self.wakes.send(Wake::Stop).ok();
        if let Some(task) = self.task.take() {
            task.join().ok();
        }
    }
}

/// Looks whether a member leads, and opens what it then serves with.
struct Watch {
    handle: StoreHandle,
    registers: Arc<Registers>,
    clock: Arc<dyn Clock>,
    planner: damask_pd::Config,
    on_lead: OnLead,
    /// The last term that it has opened for.
    term: u64,
}

impl Watch {
    fn run(mut self, inbox: &Receiver<Wake>) {
        loop {
            match inbox.recv_timeout(LOOK_EVERY) {
                Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Wake::Look) | Err(RecvTimeoutError::Timeout) => {}
            }
            let status = self.handle.replica(GROUP).filter(|s| s.is_leader && s.term > self.term);
            let Some(status) = status else { continue };
            match self.open(status.term) {
                Ok(led) => {
                    self.term = led.term;
                    (self.on_lead)(led);
                }
                // Tried again at the next look, if it still leads.
                Err(e) => tracing::warn!(member = %self.handle.id(), "the leader of the placement \
                    driver's group cannot serve: {e}"),
            }
        }
    }

    fn open(&self, term: u64) -> std::result::Result<Led, String> {
        let (handle, registers) = (self.handle.clone(), self.registers.clone());
        let line = Line { handle, registers, term };
        line.barrier().map_err(|e| e.to_string())?;
        let saved = self.registers.get(STATE);
        // Any number will do that differs from other clusters'; the first leader's is kept.
        let cluster_id = self.clock.wall_ms();
        let persist = Box::new(line.clone());
        let pd = Pd::open(self.planner.clone(), cluster_id, saved.as_deref(), persist)
            .map_err(|e| e.to_string())?;
        let oracle = LocalOracle::over(self.clock.clone(), Arc::new(line.clone()))
            .map_err(|e| e.to_string())?;
        let (member, asked) = (self.handle.id(), Mutex::new(()));
        Ok(Led { member, term, pd, oracle, line, asked })
    }
}
