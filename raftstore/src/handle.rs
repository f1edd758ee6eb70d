//! What a running store is asked and says (`driver::StoreHandle` has the methods). A request
//! returns at once; its answer comes to `done`, on a store's thread, which must not be blocked.

use crate::error::Result;
use crate::machine::Applied;
use damask_types::{Epoch, Peer, Record, Region, RegionId, StoreId, Timestamp};
use std::sync::Arc;

/// Receives an answer, once.
pub type Done<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// Records to replicate in one region.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The region.
    pub region: RegionId,
    /// The description under which the records were made.
    pub epoch: Epoch,
    /// If given, propose only in this term (of the view the records were decided on), else `Stale`.
    pub term: Option<u64>,
    /// What to apply, all in one log entry.
    pub records: Vec<Record>,
}

/// How a read makes sure that it sees everything acknowledged before it was asked for. All but the
/// last are linearizable; what differs is the cost, and who may serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadMode {
    /// By an empty command in the log: one entry and one sync on a majority. The costly baseline.
    Log,
    /// The leader asks a majority whether it still leads; no disk.
    Index,
    /// The leader needs no question while its lease lasts, else as `Index`.
    #[default]
    Lease,
    /// As `Index`, and any replica serves, learners too: it asks its leader for the index, and waits
    /// for it. It may by then have applied more than the leader has, whose lease reads catch up
    /// with it. Only for who does not rely on what leaders keep in memory, as locks of transactions.
    Follower,
    /// Any replica serves whose safe timestamp is at or above this one, and nobody is asked: for
    /// reads of versions at or below it, which sees nothing that was acknowledged later.
    Stale(Timestamp),
}

/// "Everything acknowledged before you asked is applied here": take a snapshot now, and drop the
/// permit after that: until then the content stays even if this replica is removed.
#[derive(Clone, Debug)]
pub struct ReadPermit {
    /// The region as applied here now; its epoch equals the one asked for.
    pub region: Arc<Region>,
    /// The leader's term at the read index.
    pub term: u64,
    /// A position in the log at or above everything acknowledged before: another replica that has
    /// applied it may serve the same read. By a lease it may be ahead of what is applied here, by
    /// entries that nobody was told of. By a safe timestamp: the position that came with it.
    pub applied: Applied,
}

/// What a store says of one of its replicas.
#[derive(Clone, Debug)]
pub struct ReplicaStatus {
    /// The region.
    pub region: Region,
    /// Who leads, as far as this replica knows.
    pub leader: Option<Peer>,
    /// Is it this one?
    pub is_leader: bool,
    /// In which term.
    pub term: u64,
    /// Last applied.
    pub applied: Applied,
    /// Last committed as far as known.
    pub commit: u64,
    /// It is about to become a part of a neighbour.
    pub merging: bool,
    /// Nothing happens in its group, which does not tick: anything wakes it.
    pub hibernating: bool,
    /// On the leader: replicas that have not caught up.
    pub pending: Vec<Peer>,
    /// On the leader: each replica's matched index.
    pub matched: Vec<(Peer, u64)>,
}

/// A change of one replica of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerChange {
    /// Add (or demote to) a learner.
    AddLearner(Peer),
    /// Add (or promote to) a voter.
    AddVoter(Peer),
    /// Remove.
    Remove(Peer),
}

/// Ids of one region that a split makes, left to right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitChild {
    /// The new region.
    pub region: RegionId,
    /// Its peers, in the order of the parent's.
    pub peers: Vec<damask_types::PeerId>,
}

/// A message between stores about one region.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The region.
    pub region: RegionId,
    /// Its range and epoch at the sender, so that the receiver can make a replica it lacks.
    pub epoch: Epoch,
    /// Sender.
    pub from: Peer,
    /// Receiver.
    pub to: Peer,
    /// raft-rs's message, a notice or a part of a snapshot's content, encoded.
    pub message: Vec<u8>,
}

/// Carries envelopes; may drop, delay, duplicate or reorder; never blocks.
pub trait Transport: Send + Sync + 'static {
    /// Sends to `to.store`.
    fn send(&self, to: StoreId, envelopes: Vec<Envelope>);
}
