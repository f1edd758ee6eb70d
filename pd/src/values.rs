//! What crosses the placement seam: stores, reports, operators, routes, rules. Plain values;
//! nothing here decides.

use damask_types::{KeyRange, Peer, PeerId, Region, RegionId, StoreId};
use serde::{Deserialize, Serialize};

/// What a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StoreKind {
    /// Rows: its replicas vote.
    Row,
    /// Columns: its replicas learn.
    Column,
}

/// A store as registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreInfo {
    /// Which one.
    pub id: StoreId,
    /// Rows or columns.
    pub kind: StoreKind,
    /// Where it listens; a name when in process.
    pub address: String,
}

/// A leader's report about its region.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionReport {
    /// Its description.
    pub region: Region,
    /// Who leads.
    pub leader: Peer,
    /// In which term.
    pub term: u64,
    /// Rough bytes of its rows.
    pub bytes: u64,
    /// Replicas that have not caught up (learners waiting for a snapshot, …).
    pub pending: Vec<PeerId>,
}

/// A region as the placement driver knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionStatus {
    /// Its newest known description.
    pub region: Region,
    /// Who led it last; `None` = not reported yet.
    pub leader: Option<Peer>,
    /// The term of the last report.
    pub term: u64,
    /// Rough bytes of its rows.
    pub bytes: u64,
    /// Replicas that have not caught up.
    pub pending: Vec<PeerId>,
}

/// One step for a leader to take, in answer to its report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Add a learner.
    AddLearner(Peer),
    /// Add a voter, or let a learner vote.
    AddVoter(Peer),
    /// Remove a replica.
    RemovePeer(Peer),
    /// Let another replica lead.
    TransferLeader(Peer),
    /// Find the middle key and split there.
    Split,
    /// Split at exactly these user keys.
    SplitAt(Vec<Vec<u8>>),
}

/// Ids for one new region of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitIds {
    /// The new region.
    pub region: RegionId,
    /// One for each replica, in the order of the parent's peers.
    pub peers: Vec<PeerId>,
}

/// Where a key lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The region's newest known description.
    pub region: Region,
    /// Who led it last; `None` = unknown yet.
    pub leader: Option<Peer>,
}

/// "This range wants column replicas."
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnRule {
    /// Row keys of one table.
    pub range: KeyRange,
    /// Learners asked for.
    pub replicas: u32,
}

/// How far a column rule is carried out, in replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColumnProgress {
    /// Replicas that exist and have caught up.
    pub ready: u64,
    /// Replicas that the rule asks for; 0 = no rule.
    pub wanted: u64,
}

impl ColumnProgress {
    /// May the range be read from columns?
    pub fn is_complete(&self) -> bool {
        self.wanted > 0 && self.ready >= self.wanted
    }
}
