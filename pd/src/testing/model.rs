//! A small cluster that does what a placement driver tells it, in virtual time, with stores that
//! stop and come back: what properties of planning are checked on. It must never forgive a step
//! that a real leader would refuse.

use crate::seam::Placement;
use crate::values::*;
use damask_types::{Epoch, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, StoreId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Virtual milliseconds between two rounds of reports.
pub const ROUND_MS: u64 = 500;
/// Rounds without a step, and without an operator in flight, after which nothing more will come.
const QUIET_ROUNDS: usize = 8;

/// A generator of numbers that needs no crate; one seed, one sequence.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Different for every seed.
    pub fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// `0..n`; 0 for n = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        if n == 0 { 0 } else { (self.0 >> 11) % n }
    }
}

/// A region as it really is.
#[derive(Clone, Debug)]
pub struct ModelRegion {
    /// Its description.
    pub region: Region,
    /// Who leads; `None`: nobody can.
    pub leader: Option<Peer>,
    /// In which term.
    pub term: u64,
    /// Bytes of its rows.
    pub bytes: u64,
    /// Versions of its rows.
    pub keys: u64,
    /// How busy it is.
    pub flow: Flow,
    /// Rounds until replicas have caught up.
    lagging: HashMap<PeerId, u64>,
}

/// The cluster.
pub struct Model {
    /// Who plans; may be replaced, as by a restart.
    pub pd: Arc<dyn Placement>,
    /// Every region.
    pub regions: Vec<ModelRegion>,
    /// Virtual time.
    pub now_ms: u64,
    /// Steps carried out.
    pub steps: u64,
    /// Stores that are down.
    pub down: HashSet<StoreId>,
    /// Request units a second above which a store names the middle key to split a region at; 0 =
    /// never.
    pub busy_flow: u64,
    /// No fault has happened: nothing may go to and fro, no quorum may be lost.
    pub faultless: bool,
    stores: BTreeMap<StoreId, StoreKind>,
    /// Where regions have been since the cluster itself last changed.
    seen: HashSet<(RegionId, BTreeSet<StoreId>)>,
    chance: Chance,
}

impl Model {
    /// No region yet. The stores are those that the driver knows.
    pub fn new(pd: Arc<dyn Placement>, seed: u64) -> Model {
        let stores = pd.stores().into_iter().map(|s| (s.id, s.kind)).collect();
        Model {
            pd,
            regions: Vec::new(),
            now_ms: 0,
            steps: 0,
            down: HashSet::new(),
            busy_flow: 0,
            faultless: true,
            stores,
            seen: HashSet::new(),
            chance: Chance::new(seed),
        }
    }

    /// Adds a region with voters on these stores; the first leads.
    pub fn add(&mut self, range: KeyRange, voters: &[u64], (bytes, keys): (u64, u64), flow: Flow) {
        let n = voters.len() as u64 + 1;
        let first = self.pd.alloc_ids(n).expect("ids").start;
        let peer = |(id, store): (u64, &u64)| Peer {
            id: PeerId(id),
            store: StoreId(*store),
            role: PeerRole::Voter,
        };
        let peers: Vec<Peer> = (first + 1..).zip(voters).map(peer).collect();
        self.seen.insert((RegionId(first), peers.iter().map(|p| p.store).collect()));
        let (id, epoch) = (RegionId(first), Epoch { conf_ver: 1, version: 1 });
        let (leader, region) = (Some(peers[0]), Region { id, range, epoch, peers });
        let lagging = HashMap::new();
        self.regions.push(ModelRegion { region, leader, term: 5, bytes, keys, flow, lagging });
    }

    /// One round: stores report, time passes, leaders report and do what they are told. How many
    /// steps there were.
    pub fn round(&mut self) -> usize {
        self.now_ms += ROUND_MS;
        for store in self.stores.keys().filter(|store| !self.down.contains(store)) {
            let report = StoreReport { store: *store, capacity: 100, available: 90, failed: false };
            self.pd.store_heartbeat(report).expect("a known store");
        }
        self.pd.tick(self.now_ms).expect("the driver's disk works");
        let balances =
            |op: &OperatorStatus| op.kind.starts_with("balance") || op.kind.starts_with("hot");
        if self.pd.operators().iter().any(|op| is_in_flight(op) && !balances(op)) {
            // While the cluster itself changes, the best place of a region may change twice.
            self.seen.clear();
        }
        let before = self.steps;
        let ids: Vec<RegionId> = self.regions.iter().map(|r| r.region.id).collect();
        for id in ids {
            // It may have been merged away.
            if let Some(at) = self.regions.iter().position(|r| r.region.id == id) {
                self.region_round(at);
            }
        }
        (self.steps - before) as usize
    }

    /// Rounds until nothing happens any more; `None`: more than `max`.
    pub fn settle(&mut self, max: usize) -> Option<usize> {
        let mut quiet = 0;
        for round in 0..max {
            let idle = self.round() == 0 && !self.pd.operators().iter().any(is_in_flight);
            quiet = if idle { quiet + 1 } else { 0 };
            if quiet == QUIET_ROUNDS {
                return Some(round + 1);
            }
        }
        None
    }

    fn region_round(&mut self, at: usize) {
        self.elect(at);
        let down = &self.down;
        let region = &mut self.regions[at];
        let stores: HashMap<PeerId, StoreId> =
            region.region.peers.iter().map(|p| (p.id, p.store)).collect();
        for (peer, rounds) in &mut region.lagging {
            if stores.get(peer).is_some_and(|store| !down.contains(store)) {
                *rounds = rounds.saturating_sub(1);
            }
        }
        region.lagging.retain(|peer, rounds| *rounds > 0 && stores.contains_key(peer));
        let Some(leader) = region.leader else { return };
        let busy = self.busy_flow > 0 && region.flow.read + region.flow.write > self.busy_flow;
        let report = RegionReport {
            region: region.region.clone(),
            leader,
            term: region.term,
            bytes: region.bytes,
            keys: region.keys,
            flow: region.flow,
            split_key: busy.then(|| middle(&region.region.range)),
            pending: region.lagging.keys().copied().collect(),
            merging: false,
            unsplittable: false,
        };
        if let Some(step) = self.pd.region_heartbeat(report).expect("the newest report") {
            self.steps += 1;
            self.obey(at, step);
        }
    }

    /// A leader is lost with its store; another is elected by a live majority.
    fn elect(&mut self, at: usize) {
        let region = &self.regions[at];
        let works =
            |p: &&Peer| !self.down.contains(&p.store) && !region.lagging.contains_key(&p.id);
        if region.leader.as_ref().is_some_and(|leader| works(&leader) && self.has_quorum(at)) {
            return;
        }
        let able: Vec<Peer> = region.region.voters().filter(works).copied().collect();
        let leader = match self.has_quorum(at) && !able.is_empty() {
            true => Some(able[self.chance.below(able.len() as u64) as usize]),
            false => None,
        };
        let region = &mut self.regions[at];
        region.leader = leader;
        region.term += 1;
    }

    fn live(&self, at: usize) -> usize {
        let region = &self.regions[at];
        let live = |p: &&Peer| !self.down.contains(&p.store) && !region.lagging.contains_key(&p.id);
        region.region.voters().filter(live).count()
    }

    fn has_quorum(&self, at: usize) -> bool {
        self.live(at) > self.regions[at].region.voters().count() / 2
    }

    fn obey(&mut self, at: usize, step: Step) {
        let store_of = |store: &StoreId| self.stores[store];
        let delay = self.chance.below(5);
        let region = &mut self.regions[at];
        let id = region.region.id;
        match step {
            Step::AddLearner(peer) => {
                assert!(peer.id != PeerId(0) && peer.role == PeerRole::Learner, "{peer:?}");
                assert!(region.region.peer_on(peer.store).is_none(), "one replica a store");
                region.region.peers.push(peer);
                region.lagging.insert(peer.id, delay);
            }
            Step::AddVoter(peer) => {
                assert_eq!(store_of(&peer.store), StoreKind::Row, "columns never vote");
                let mut peers = region.region.peers.iter_mut();
                let known = peers.find(|p| p.id == peer.id).expect("first a learner");
                assert!(known.role == PeerRole::Learner && peer.role == PeerRole::Voter);
                *known = peer;
            }
            Step::Swap { add, old } => {
                assert_eq!(store_of(&add.store), StoreKind::Row, "columns never vote");
                for peer in &mut region.region.peers {
                    match peer.id {
                        id if id == add.id => {
                            assert_eq!(peer.role, PeerRole::Learner, "first a learner");
                            peer.role = PeerRole::Voter;
                        }
                        id if id == old.id => {
                            assert_eq!(peer.role, PeerRole::Voter, "it votes until then");
                            peer.role = PeerRole::Learner;
                        }
                        _ => {}
                    }
                }
                if region.leader.is_some_and(|leader| leader.id == old.id) {
                    // It has handed over on the way.
                    region.leader = region.region.voters().next().copied();
                    region.term += 1;
                }
                region.region.epoch.conf_ver += 3;
            }
            Step::RemovePeer(peer) => {
                assert!(region.leader.is_some_and(|l| l.id != peer.id), "the leader is asked");
                assert!(region.region.peer(peer.id).is_some(), "it is there");
                region.region.peers.retain(|p| p.id != peer.id);
                region.lagging.remove(&peer.id);
                let stores = region.region.peers.iter().map(|p| p.store).collect();
                let is_new = self.seen.insert((id, stores));
                if self.faultless && !is_new {
                    let mut operators = self.pd.operators();
                    operators.retain(|op| op.region == id);
                    panic!("region {id} is again where it was: {operators:#?}");
                }
            }
            Step::TransferLeader(peer) => {
                let known = region.region.peer(peer.id).expect("a replica");
                assert_eq!(known.role, PeerRole::Voter, "learners do not lead");
                if !region.lagging.contains_key(&peer.id) && !self.down.contains(&peer.store) {
                    region.leader = Some(*known);
                    region.term += 1;
                }
                return;
            }
            Step::Split(parts) => {
                let keys = cuts(&region.region.range, parts);
                return self.split(at, keys);
            }
            Step::SplitAt(keys) => return self.split(at, keys),
            Step::Merge(target) => return self.merge(at, target),
        }
        self.regions[at].region.epoch.conf_ver += 1;
        let peers = &self.regions[at].region.peers;
        assert!(!self.faultless || self.has_quorum(at), "region {id}: no quorum: {peers:?}");
    }

    /// The rightmost part keeps the id; flow and bytes are shared out evenly.
    fn split(&mut self, at: usize, keys: Vec<Vec<u8>>) {
        let mut rest = self.regions[at].clone();
        let parts = keys.len() as u64 + 1;
        let ids = self.pd.ask_split(&rest.region, keys.len()).expect("ids of a split");
        (rest.bytes, rest.keys) = (rest.bytes / parts, rest.keys / parts);
        rest.flow = Flow { read: rest.flow.read / parts, write: rest.flow.write / parts };
        rest.region.epoch.version += parts - 1;
        for (key, ids) in keys.into_iter().zip(ids) {
            let range = &rest.region.range;
            assert!(range.contains(&key) && key != range.start, "a key strictly inside");
            let mut left = rest.clone();
            left.region.id = ids.region;
            left.region.range.end.clone_from(&key);
            for (peer, id) in left.region.peers.iter_mut().zip(ids.peers) {
                let rounds = rest.lagging.get(&peer.id).copied();
                left.lagging.extend(rounds.map(|rounds| (id, rounds)));
                peer.id = id;
            }
            let led = rest.leader.and_then(|leader| left.region.peer_on(leader.store).copied());
            left.leader = led;
            rest.region.range.start = key;
            self.regions.push(left);
        }
        self.regions[at] = rest;
    }

    fn merge(&mut self, at: usize, target: RegionId) {
        let source = self.regions.remove(at);
        let found = self.regions.iter_mut().find(|r| r.region.id == target);
        let target = found.expect("the neighbour is there");
        let stores = |r: &Region| r.peers.iter().map(|p| (p.store, p.role)).collect::<HashSet<_>>();
        assert_eq!(stores(&source.region), stores(&target.region), "on the same stores");
        let (range, gone) = (&mut target.region.range, source.region.range);
        match range.start == gone.end && !gone.end.is_empty() {
            true => range.start = gone.start,
            false => {
                assert_eq!(range.end, gone.start, "neighbours");
                range.end = gone.end;
            }
        }
        target.bytes += source.bytes;
        target.keys += source.keys;
        target.flow.read += source.flow.read;
        target.flow.write += source.flow.write;
        let version = target.region.epoch.version.max(source.region.epoch.version);
        target.region.epoch.version = version + 1;
    }
}

fn is_in_flight(operator: &OperatorStatus) -> bool {
    !operator.state.starts_with("given up") && operator.state != "done"
}

fn middle(range: &KeyRange) -> Vec<u8> {
    cuts(range, 2).remove(0)
}

/// Keys that part a range, whose keys are short, evenly.
fn cuts(range: &KeyRange, parts: usize) -> Vec<Vec<u8>> {
    let number = |key: &[u8]| {
        let mut bytes = [0; 16];
        let n = key.len().min(16);
        bytes[..n].copy_from_slice(&key[..n]);
        u128::from_be_bytes(bytes)
    };
    let end = if range.end.is_empty() { u128::MAX } else { number(&range.end) };
    let start = number(&range.start);
    let part = (end - start) / parts as u128;
    (1..parts as u128).map(|i| (start + part * i).to_be_bytes().to_vec()).collect()
}
