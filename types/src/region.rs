//! Regions: a key range, its replicas, and the epoch that orders its changes.
//! Plain values; who leads is not part of them.

use crate::ids::{PeerId, RegionId, StoreId};
use crate::key::KeyRange;
use serde::{Deserialize, Serialize};

/// Two counters that order a region's descriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// Raised by every change of the replicas.
    pub conf_ver: u64,
    /// Raised by every split or merge.
    pub version: u64,
}

impl Epoch {
    /// Is this description older than `other` in either counter?
    pub fn is_stale(&self, other: &Epoch) -> bool {
        self.version < other.version || self.conf_ver < other.conf_ver
    }
}

/// What a replica may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PeerRole {
    /// Counts in the quorum.
    Voter,
    /// Follows the log outside the quorum.
    Learner,
    /// Becomes a voter: in a joint configuration, it counts in the new quorum only.
    Incoming,
    /// Becomes a learner: in a joint configuration, it counts in the old quorum only.
    Demoting,
}

impl PeerRole {
    /// Does it count in a quorum?
    pub fn votes(self) -> bool {
        self != PeerRole::Learner
    }
}

/// One replica of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Peer {
    /// Its id inside Raft.
    pub id: PeerId,
    /// Where it lives.
    pub store: StoreId,
    /// Voter or learner, or between the two.
    pub role: PeerRole,
}

/// A region's description, as replicated in its own log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Which one.
    pub id: RegionId,
    /// The user keys it holds.
    pub range: KeyRange,
    /// The order of its descriptions.
    pub epoch: Epoch,
    /// Its replicas.
    pub peers: Vec<Peer>,
}

impl Region {
    /// The replica on `store`.
    pub fn peer_on(&self, store: StoreId) -> Option<&Peer> {
        self.peers.iter().find(|p| p.store == store)
    }

    /// The replica with this id.
    pub fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.iter().find(|p| p.id == id)
    }

    /// Replicas that count in the quorum; in a joint configuration, in one of the two at least.
    pub fn voters(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|p| p.role.votes())
    }

    /// Replicas outside the quorum.
    pub fn learners(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|p| p.role == PeerRole::Learner)
    }

    /// Is it between two sets of voters, so that whatever is decided needs a majority of both?
    pub fn is_joint(&self) -> bool {
        self.peers.iter().any(|p| matches!(p.role, PeerRole::Incoming | PeerRole::Demoting))
    }
}
