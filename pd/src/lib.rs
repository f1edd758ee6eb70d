//! Place: heartbeats → operators (a pure planner), region routing, ids, placement rules.

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

/// One step for a leader to take, in answer to its report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Add a learner.
    AddLearner(Peer),
    /// Add a voter.
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
