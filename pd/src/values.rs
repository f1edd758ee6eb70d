//! What crosses the placement seam: stores, reports, operators, routes, rules. Plain values;
//! nothing here decides.

use damask_types::{KeyRange, Peer, PeerId, Region, RegionId, StoreId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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

/// What a store is meant to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// Take replicas and lead.
    #[default]
    Serve,
    /// Keep replicas, lead nothing.
    Evict,
    /// Give away leaders, then replicas: the store is about to leave.
    Drain,
}

/// What an operator of the cluster says of a store; durable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreSettings {
    /// What it is meant to do.
    pub intent: Intent,
    /// Where it stands: `host`, `rack`, `zone`, …
    pub labels: BTreeMap<String, String>,
}

/// A store's report about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreReport {
    /// Which one.
    pub store: StoreId,
    /// Bytes of its disk; 0 = not known.
    pub capacity: u64,
    /// Bytes of it that are free.
    pub available: u64,
    /// It has found its data to be damaged, or cannot write: it must not lead, and what it holds
    /// is replaced.
    pub failed: bool,
}

/// Has a store been heard of?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Lately.
    Up,
    /// Not for a moment: it gets nothing new.
    Quiet,
    /// Not for so long that its replicas are replaced; or it says itself that it has failed.
    Down,
}

/// What a store carries, with what operators in flight will change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Replicas.
    pub replicas: i64,
    /// Leaders.
    pub leaders: i64,
    /// Replicas that have not caught up.
    pub pending: i64,
    /// Rough bytes of its replicas' rows, and a little for each replica.
    pub bytes: i64,
    /// Request units of reads a second, where it leads.
    pub read: i64,
    /// Request units of writes a second, on every replica.
    pub write: i64,
}

/// A store as the placement driver knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreStatus {
    /// As registered.
    pub info: StoreInfo,
    /// What it is meant to do, and where it stands.
    pub settings: StoreSettings,
    /// Has it been heard of?
    pub health: Health,
    /// What it carries.
    pub load: Load,
}

/// How busy a region is, in request units a second: one for each request or log entry, and one for
/// each 4 KiB that it moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Reads, at the leader.
    pub read: u64,
    /// Writes, at every replica.
    pub write: u64,
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
    /// Rough number of its rows' versions.
    pub keys: u64,
    /// How busy it is.
    pub flow: Flow,
    /// It has been too busy for long, and this key parts what is asked of it evenly.
    pub split_key: Option<Vec<u8>>,
    /// Replicas that have not caught up (learners waiting for a snapshot, …).
    pub pending: Vec<PeerId>,
    /// It is about to become a part of its neighbour: nothing else can be done with it.
    pub merging: bool,
    /// When a key to split it at was last looked for there was none, and its size is still about
    /// the same.
    pub unsplittable: bool,
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
    /// Rough number of its rows' versions.
    pub keys: u64,
    /// How busy it is.
    pub flow: Flow,
    /// Replicas that have not caught up.
    pub pending: Vec<PeerId>,
}

/// One step for a leader to take, in answer to its report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Add a learner.
    AddLearner(Peer),
    /// Add a voter, or let a learner vote.
    AddVoter(Peer),
    /// In one step, by a joint configuration: a learner votes, and a voter learns.
    Swap {
        /// The learner, as a voter.
        add: Peer,
        /// The voter, as it is.
        old: Peer,
    },
    /// Remove a replica.
    RemovePeer(Peer),
    /// Let another replica lead.
    TransferLeader(Peer),
    /// Find keys that part it into so many of about the same size, and split there.
    Split(usize),
    /// Split at exactly these user keys.
    SplitAt(Vec<Vec<u8>>),
    /// Become a part of this neighbour, which has replicas on the same stores.
    Merge(RegionId),
}

/// What a person asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Split a region: at these user keys, or in the middle if there are none.
    Split {
        /// Which one.
        region: RegionId,
        /// Where.
        keys: Vec<Vec<u8>>,
    },
    /// Let the replica on a store lead.
    Transfer {
        /// Which region.
        region: RegionId,
        /// Who shall lead.
        to: StoreId,
    },
    /// Move a replica.
    Move {
        /// Which region.
        region: RegionId,
        /// From here.
        from: StoreId,
        /// To here.
        to: StoreId,
    },
    /// Merge a region into a neighbour.
    Merge {
        /// Which one disappears.
        region: RegionId,
        /// Which one grows.
        into: RegionId,
    },
    /// Give up the operator that is in flight for a region.
    Cancel {
        /// Which one.
        region: RegionId,
    },
}

/// An operator in flight, or one that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OperatorStatus {
    /// Of which region.
    pub region: RegionId,
    /// Why.
    pub kind: String,
    /// Its steps in words.
    pub steps: Vec<String>,
    /// What it does or waits for, or how it ended.
    pub state: String,
    /// Milliseconds since it began.
    pub age_ms: u64,
}

/// Values that only grow, and are durable before they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// No timestamp at or above it was given out.
    TimestampBound,
    /// Versions that only reads below it need may be gone.
    SafePoint,
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
