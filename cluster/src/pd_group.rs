//! The placement driver and the oracle as a Raft group of their own: members that replicate a few
//! registers, of which the leader serves. It must never let two leaders answer for one moment.
//!
//! ```text
//!   Placement, Oracle ──► Group (facade: finds the leader, asks again) ──► Led { Pd, oracle }
//!                                                                            │ save, may_serve
//!   member 1..n: Store { one region; FileLog; Registers "state", "bound" } ◄─┘ in its own term
//!         └──────────────── Network of the group's own ───────────────┘
//! ```
//!
//! Invariants:
//! * a leader saves only in its own term, so a deposed one extends no window, of ids or of time;
//! * it answers with what it has taken only if its lease lasts after that: the next leader, which
//!   begins above the saved bound, was not there yet;
//! * a new leader first applies everything of earlier terms, and begins with what they saved;
//!   regions, leaders and loads it learns from reports, and it plans when it has heard of all;
//! * a member that has voted never begins empty again.
//!
//! What is durable and what is rebuilt follows `raftstore-txn-pd.md` §4.4. A group of one gains
//! nothing over a file, so a single driver keeps its state in `pd/` (`topology`).

mod facade;
mod member;
mod registers;

pub use member::Led;

use crate::network::Network;
use crate::nodes::Error;
use damask_env::{Clock, Closing, Disk};
use damask_raftstore::StoreConfig;
use damask_types::{Epoch, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, StoreId};
use member::Member;
use parking_lot::{Mutex, RwLock};
use registers::Registers;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

/// The one region of the group. Its stores are no stores of the cluster.
pub(crate) const GROUP: RegionId = RegionId(1);
/// It never changes.
pub(crate) const EPOCH: Epoch = Epoch { conf_ver: 1, version: 1 };
/// Says, on each member's disk, that every member was made, and how many they are. Without it none
/// has ever run.
pub const MADE: &str = "group";
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

    fn store_config(&self) -> StoreConfig {
        self.setup.store.clone()
    }

    fn planner(&self) -> damask_pd::Config {
        self.setup.planner.clone()
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
    pub fn start(mut setup: Setup) -> Result<PdGroup, Error> {
        // Who asleep would notice that the leader is gone?
        setup.store.core.hibernate_regions = false;
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
        if let Some(mut member) = member {
            member.stop(&self.group, id);
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
        let member = Member::start(&self.group, id)?;
        self.down.lock().remove(&id);
        self.running.lock().insert(id, member);
        Ok(())
    }

    /// Every member, by id.
    pub fn members(&self) -> Vec<MemberStatus> {
        let (running, down) = (self.running.lock(), self.down.lock());
        let status = |id: StoreId| match (running.get(&id), down.get(&id)) {
            (Some(member), _) => member.status(id),
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
        for (id, mut member) in members {
            member.stop(&self.group, id);
        }
    }
}

impl Drop for PdGroup {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The group's region with so many members, each a voter.
fn region(members: u64) -> Region {
    let peer = |n| Peer { id: PeerId(n), store: StoreId(n), role: PeerRole::Voter };
    let peers = (1..=members).map(peer).collect();
    Region { id: GROUP, range: KeyRange::all(), epoch: EPOCH, peers }
}

/// How many members a group was made of, by one member's disk; `None`: it was never made.
///
/// # Errors
/// The disk fails, or the file is damaged.
pub fn made(disk: &dyn Disk) -> Result<Option<u64>, Error> {
    match disk.map(MADE) {
        Ok(content) => {
            let members = serde_json::from_slice(&content);
            Ok(Some(members.map_err(|e| format!("the file {MADE} is damaged: {e}"))?))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Makes every member's part of a new group, before any of them runs.
fn make(setup: &Setup) -> Result<(), Error> {
    let members = setup.members.len() as u64;
    let mut found = None;
    for member in &setup.members {
        // What cannot be read is told when the member starts.
        found = found.or(made(member.disk.as_ref()).unwrap_or_default());
    }
    match found {
        Some(before) if before == members => return Ok(()),
        Some(before) => {
            return Err(format!(
                "this cluster's placement driver has {before} members, and not {members}: start \
                 it with --pds {before}"
            )
            .into());
        }
        None => {}
    }
    for (n, member) in (1..).zip(&setup.members) {
        let registers = Registers::open(member.disk.clone())?;
        damask_raftstore::bootstrap(&registers, StoreId(n), region(members))?;
    }
    for member in &setup.members {
        member.disk.replace(MADE, members.to_string().as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
