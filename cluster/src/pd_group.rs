//! The members of the placement driver's Raft group (`damask_pd_group`) in one process, with a
//! network of their own, and the group as one driver and one oracle. It must never ask a member
//! for what another leader may have gone past.
//!
//! ```text
//!   Placement, Oracle ──► Group (facade: finds the leader, asks again) ──► Led { Pd, oracle }
//!                                                                            │ save, may_serve
//!   member 1..n: Store { one region; FileLog; Registers "state", "bound" } ◄─┘ in its own term
//!         └──────────────── Network of the group's own ───────────────┘
//! ```
//!
//! A group of one gains nothing over a file, so a single driver keeps its state in `pd/`
//! (`topology`).

mod facade;

pub use damask_pd_group::{Led, MADE, MemberStatus, made};

use crate::network::Network;
use crate::nodes::Error;
use damask_env::{Clock, Closing, Disk};
use damask_pd_group::member::open_log;
use damask_pd_group::{Member, Options, Registers};
use damask_raftstore::StoreConfig;
use damask_types::StoreId;
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

/// Until the group has its first leader.
const LEADER_WAIT: Duration = Duration::from_secs(30);
/// Between two looks for it.
const LEADER_POLL: Duration = Duration::from_millis(2);

/// What a member is given.
#[derive(Clone)]
pub struct MemberSetup {
    /// Its own disk.
    pub disk: Arc<dyn Disk>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
}

/// What a group is made of.
pub struct Setup {
    /// One each; 3 or 5.
    pub members: Vec<MemberSetup>,
    /// Ticks and elections.
    pub store: StoreConfig,
    /// The planner's aims.
    pub planner: damask_pd::Config,
    /// For how long a request looks for a leader.
    pub patience: Duration,
}

/// A single driver without a group, as `/status` shows it.
pub fn alone() -> MemberStatus {
    let (reason, term, applied) = (None, None, None);
    MemberStatus { id: StoreId(1), state: "up", reason, leads: true, term, applied }
}

/// Who has led, the latest first.
#[derive(Default)]
struct Seen {
    latest: Option<Arc<Led>>,
    /// Until the latest has heard of every region, or until then: what it knew of them.
    before: Option<(Arc<Led>, Duration)>,
}

/// The group as the rest of the cluster sees it: a `Placement` and an `Oracle` (`facade.rs`).
pub struct Group {
    setup: Setup,
    /// Between the members; for tests, to cut them off.
    pub network: Arc<Network>,
    seen: RwLock<Seen>,
    closing: Closing,
    on_lead: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Group {
    fn setup(&self, id: StoreId) -> MemberSetup {
        self.setup.members[id.0 as usize - 1].clone()
    }

    /// Only for time that passes between two looks.
    fn now(&self) -> Duration {
        self.setup.members[0].clock.monotonic()
    }

    /// Starts a member on its disk, which holds its part of the group.
    fn start(self: &Arc<Group>, id: StoreId) -> damask_pd_group::Result<Member> {
        let MemberSetup { disk, clock } = self.setup(id);
        let registers = Arc::new(Registers::open(disk.clone())?);
        let (network, group) = (self.network.clone(), Arc::downgrade(self));
        let lead = move |led| {
            if let Some(group) = group.upgrade() {
                group.lead(led);
            }
        };
        Member::start(Options {
            id,
            store: self.setup.store.clone(),
            planner: self.setup.planner.clone(),
            clock,
            log: Arc::new(open_log(disk)?),
            machine: registers.clone(),
            registers,
            transport: self.network.clone(),
            on_open: Some(Box::new(move |handle| network.attach(id, handle))),
            on_lead: Arc::new(lead),
        })
    }

    fn stop(&self, id: StoreId, mut member: Member) {
        self.network.detach(id);
        member.stop();
    }

    /// A member leads from now on, unless another has been elected since.
    fn lead(&self, led: Led) {
        tracing::info!(member = %led.member, term = led.term, "leads the placement driver's group");
        let mut seen = self.seen.write();
        if seen.latest.as_ref().is_some_and(|latest| latest.term >= led.term) {
            return;
        }
        let before = seen.latest.replace(Arc::new(led));
        let until = self.now() + facade::BEFORE_MAX;
        // One that knows nothing yet does not replace one that knows all.
        let before = before.filter(|b| facade::knows_all(&b.pd)).map(|b| (b, until));
        seen.before = before.or(seen.before.take());
        drop(seen);
        if let Some(on_lead) = self.on_lead.get() {
            on_lead();
        }
    }

    /// Who was elected last, as far as is known; `None`: nobody yet. It may lead no more.
    pub fn latest(&self) -> Option<Arc<Led>> {
        self.seen.read().latest.clone()
    }

    /// Called whenever another member begins to lead: it is to be told of everything.
    pub fn on_lead(&self, call: impl Fn() + Send + Sync + 'static) {
        self.on_lead.set(Box::new(call)).ok();
    }
}

/// A running group. Dropping it stops it.
pub struct PdGroup {
    group: Arc<Group>,
    running: Mutex<BTreeMap<StoreId, Member>>,
    /// Members that could not be started, and why.
    down: Mutex<BTreeMap<StoreId, String>>,
}

impl PdGroup {
    /// Starts every member; returns when one of them leads.
    ///
    /// # Errors
    /// In words for the user: too few members can be started, or the group was made of another
    /// number of them.
    pub fn start(setup: Setup) -> Result<PdGroup, Error> {
        let members = setup.members.len() as u64;
        make(&setup)?;
        let network = Arc::new(Network::default());
        let (seen, closing, on_lead) = (RwLock::default(), Closing::new(), OnceLock::new());
        let group = Arc::new(Group { setup, network, seen, closing, on_lead });
        let (running, down) = (Mutex::default(), Mutex::default());
        let group = PdGroup { group, running, down };
        // The first asks for votes as soon as it runs: the others run before it.
        for id in (1..=members).rev().map(StoreId) {
            if let Err(e) = group.start_member(id) {
                group.down.lock().insert(id, e.to_string());
            }
        }
        if group.running.lock().len() as u64 * 2 <= members {
            return Err(group.without("too few members can be started"));
        }
        let deadline = group.group.now() + LEADER_WAIT;
        while group.group.latest().is_none() {
            if group.group.now() >= deadline {
                return Err(group.without("no member becomes the leader"));
            }
            group.group.closing.wait(LEADER_POLL);
        }
        Ok(group)
    }

    /// What is wrong, and which members do not run.
    fn without(&self, what: &str) -> Error {
        let down = self.down.lock();
        let reasons = down.iter().map(|(id, reason)| format!("\n  member {id}: {reason}"));
        format!("the placement driver: {what}{}", reasons.collect::<String>()).into()
    }

    /// The group as a placement driver and an oracle.
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }

    /// Stops one member, as if its process had ended; `start_member` brings it back.
    pub fn stop_member(&self, id: StoreId) {
        let member = self.running.lock().remove(&id);
        if let Some(member) = member {
            self.group.stop(id, member);
        }
    }

    /// Starts a stopped member with its data.
    ///
    /// # Errors
    /// Its disk fails, or does not hold what it held.
    pub fn start_member(&self, id: StoreId) -> Result<(), Error> {
        if self.running.lock().contains_key(&id) {
            return Err(format!("member {id} runs already").into());
        }
        let member = self.group.start(id)?;
        self.down.lock().remove(&id);
        self.running.lock().insert(id, member);
        Ok(())
    }

    /// Every member, by id.
    pub fn members(&self) -> Vec<MemberStatus> {
        let (running, down) = (self.running.lock(), self.down.lock());
        let status = |id: StoreId| match (running.get(&id), down.get(&id)) {
            (Some(member), _) => member.status(),
            (None, reason) => {
                let state = if reason.is_some() { "failed" } else { "stopped" };
                let (term, applied) = (None, None);
                MemberStatus { id, state, reason: reason.cloned(), leads: false, term, applied }
            }
        };
        (1..=self.group.setup.members.len() as u64).map(StoreId).map(status).collect()
    }

    /// Ends every request that waits, then every member.
    pub fn stop(&self) {
        self.group.closing.close();
        let members = std::mem::take(&mut *self.running.lock());
        for (id, member) in members {
            self.group.stop(id, member);
        }
    }
}

impl Drop for PdGroup {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes every member's part of a new group, before any of them runs.
fn make(setup: &Setup) -> Result<(), Error> {
    let disks: Vec<_> = setup.members.iter().map(|member| member.disk.clone()).collect();
    let (members, made) = (disks.len() as u64, damask_pd_group::make(&disks)?);
    if made == members {
        return Ok(());
    }
    Err(format!(
        "this cluster's placement driver has {made} members, and not {members}: start it with \
         --pds {made}"
    )
    .into())
}

#[cfg(test)]
mod tests;
