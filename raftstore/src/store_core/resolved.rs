//! Safe timestamps between stores: a leader's offers, whether it still led when they were made, and
//! what every replica makes of them. It must never publish an offer of a term that was over when
//! the locks were looked at.
//!
//! ```text
//!   offers ─► check ─► every store with a voter: is this the newest term there?
//!             agree ◄─ a quorum: nobody was elected since the offer was made
//!             publish ─► every store with a replica; and here
//! ```
//! One word for each pair of stores, however many regions; groups that sleep go on sleeping, for
//! nothing of this is a group's own message. What a deposed leader overlooked cannot be below the
//! timestamp: who decides in a newer term begins with a newer timestamp of the oracle, and commits
//! in two phases take theirs after their locks are applied.

use super::StoreCore;
use crate::handle::Envelope;
use crate::replica::Replica;
use crate::resolved::{Resolved, SafeAt, SafeWord, WORD_REGIONS_MAX};
use crate::resolved_read::SafeView;
use damask_env::{Mistake, mistaken};
use damask_types::{Epoch, Peer, PeerId, PeerRole, RegionId, StoreId};
use std::collections::{BTreeMap, BTreeSet};

/// The offers of the newest round; older ones are forgotten.
#[derive(Default)]
pub(super) struct Resolving {
    round: u64,
    offers: BTreeMap<RegionId, Offer>,
}

/// An offer that waits for a quorum.
struct Offer {
    term: u64,
    version: u64,
    at: SafeAt,
    /// Ids of peers that know of no newer term.
    agreed: BTreeSet<u64>,
}

impl Offer {
    /// Is this still the leader and the region of the offer?
    fn holds(&self, replica: &Replica) -> bool {
        replica.initialised
            && replica.is_free()
            && replica.group.is_leader()
            && replica.group.term() == self.term
            && replica.applied.term == self.term
            && replica.region.epoch.version == self.version
            && !replica.is_merging()
    }
}

impl Replica {
    /// Up to where this replica may be read; `None` while its content may be replaced, or be
    /// somebody else's.
    pub fn safe_view(&mut self) -> Option<SafeView> {
        let replaced =
            self.importing.is_some() || self.snapshot_persisting.is_some() || self.frozen;
        if !self.initialised || self.destroying || replaced || self.merge.prepared.is_some() {
            return None;
        }
        self.safe.applied(self.applied.index);
        let safe = self.safe.at(self.region.epoch.version)?;
        if let Some(same) = &self.safe_published
            && same.safe == safe
            && same.region.epoch == self.region.epoch
        {
            return Some(same.clone());
        }
        Some(SafeView { region: self.view(), term: self.group.term(), safe })
    }
}

impl StoreCore {
    /// A round begins: what was found of regions that are led here.
    pub(super) fn on_resolved(&mut self, found: Vec<Resolved>) {
        self.resolving.round += 1;
        self.resolving.offers.clear();
        let mut asked: BTreeMap<StoreId, Vec<(RegionId, u64)>> = BTreeMap::new();
        let mut sure = Vec::new();
        for Resolved { region: id, epoch, term, ts } in found {
            let Some(replica) = self.replicas.get(&id) else { continue };
            // Now, after the snapshot was taken: at or above all that it holds.
            let at = SafeAt { ts, index: replica.group.commit() };
            let agreed = BTreeSet::from([replica.peer.id.0]);
            let offer = Offer { term, version: epoch.version, at, agreed };
            if !offer.holds(replica) {
                continue;
            }
            if replica.group.is_quorum(&offer.agreed) || mistaken(Mistake::SafeUnvouched) {
                sure.push(id);
            }
            for peer in replica.region.voters().filter(|peer| peer.store != self.store) {
                asked.entry(peer.store).or_default().push((id, term));
            }
            self.resolving.offers.insert(id, offer);
        }
        let round = (self.config.nonce, self.resolving.round);
        for (to, regions) in asked {
            for part in regions.chunks(WORD_REGIONS_MAX) {
                let word = SafeWord::Check { round, regions: part.to_vec() };
                self.out.sends.push(store_word(self.store, to, &word));
            }
        }
        self.publish_offers(&sure);
    }

    pub(super) fn on_safe_word(&mut self, from: StoreId, word: SafeWord) {
        match word {
            SafeWord::Check { round, regions } => {
                let same = |(id, term): &(RegionId, u64)| {
                    self.replicas.get(id).is_some_and(|r| r.group.term() == *term)
                };
                let regions = regions.into_iter().filter(same).map(|(id, _)| id).collect();
                let word = SafeWord::Agree { round, regions };
                self.out.sends.push(store_word(self.store, from, &word));
            }
            SafeWord::Agree { round, regions } => {
                if round == (self.config.nonce, self.resolving.round) {
                    self.on_agreed(from, &regions);
                }
            }
            SafeWord::Publish(regions) => {
                for (id, version, at) in regions {
                    self.hear_safe(id, version, at);
                }
            }
        }
    }

    fn on_agreed(&mut self, from: StoreId, regions: &[RegionId]) {
        let mut sure = Vec::new();
        for id in regions {
            let Some(offer) = self.resolving.offers.get_mut(id) else { continue };
            let Some(replica) = self.replicas.get(id) else { continue };
            let Some(peer) = replica.region.peer_on(from) else { continue };
            let before = replica.group.is_quorum(&offer.agreed);
            offer.agreed.insert(peer.id.0);
            if !before && replica.group.is_quorum(&offer.agreed) {
                sure.push(*id);
            }
        }
        self.publish_offers(&sure);
    }

    /// A quorum knows of no newer term.
    fn publish_offers(&mut self, sure: &[RegionId]) {
        let mut told: BTreeMap<StoreId, Vec<(RegionId, u64, SafeAt)>> = BTreeMap::new();
        for id in sure {
            let Some(Offer { version, at, .. }) = self.offer_of(*id) else { continue };
            let (version, at) = (*version, *at);
            for peer in self.replicas[id].region.peers.iter().filter(|p| p.store != self.store) {
                told.entry(peer.store).or_default().push((*id, version, at));
            }
            self.hear_safe(*id, version, at);
        }
        for (to, regions) in told {
            for part in regions.chunks(WORD_REGIONS_MAX) {
                let word = SafeWord::Publish(part.to_vec());
                self.out.sends.push(store_word(self.store, to, &word));
            }
        }
    }

    fn offer_of(&self, id: RegionId) -> Option<&Offer> {
        let replica = self.replicas.get(&id)?;
        self.resolving.offers.get(&id).filter(|offer| offer.holds(replica))
    }

    fn hear_safe(&mut self, id: RegionId, version: u64, at: SafeAt) {
        let here =
            |r: &&mut Replica| r.initialised && !r.destroying && r.region.epoch.version == version;
        let Some(replica) = self.replicas.get_mut(&id).filter(here) else { return };
        replica.safe.hear(version, at);
        // At once, if that much is applied: a group in which nothing happens has no turn of its own.
        self.publish_safe(id);
    }

    /// Tells readers what is new: before anything of this turn is done.
    pub(super) fn publish_safe(&mut self, id: RegionId) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let view = replica.safe_view();
        if view != replica.safe_published {
            replica.safe_published.clone_from(&view);
            self.out.safe.push((id, view));
        }
    }
}

/// Between stores: no region's, and no peer's.
fn store_word(from: StoreId, to: StoreId, word: &SafeWord) -> Envelope {
    let peer = |store| Peer { id: PeerId(0), store, role: PeerRole::Voter };
    Envelope {
        region: RegionId(0),
        epoch: Epoch::default(),
        from: peer(from),
        to: peer(to),
        message: word.encode(),
    }
}
