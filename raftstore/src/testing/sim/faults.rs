//! What can go wrong, and the changes that somebody orders at the worst moment. Each seed turns on
//! a half of them. It must never destroy what a majority has made durable.

use super::chance::Chance;
use super::world::{Happening, World};
use crate::answer::Answer;
use crate::handle::{PeerChange, SplitChild};
use crate::store_core::Event;
use damask_types::{Peer, PeerId, PeerRole, Region, RegionId, StoreId};

/// Times that a merge is asked for again.
const MERGE_TRIES: u32 = 40;

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// Messages are lost.
    Loss,
    /// Messages take long, and overtake one another.
    Delay,
    /// Messages arrive twice.
    Duplicate,
    /// Messages come again seconds later.
    Replay,
    /// A store hears nobody and is heard by nobody.
    Isolation,
    /// One store does not hear another.
    OneWayCut,
    /// Power is lost; the store comes back later.
    Crash,
    /// Power is lost everywhere at once.
    Blackout,
    /// A process stands still.
    Pause,
    /// A raft thread stands still; other threads go on.
    Stall,
    /// A disk and the apply thread behind it are slow.
    SlowDisk,
    /// A sync fails, which stops the store.
    SyncFailure,
    /// Clocks run fast and slow.
    Drift,
    /// Regions are split.
    Split,
    /// Regions are merged into their neighbours.
    Merge,
    /// Replicas come, go, and change their role.
    Membership,
    /// Leaders are told to hand over.
    Transfer,
    /// A follower hears no more of its leader, and the other one forgets that it did.
    Forgetting,
    /// Clients ask for nothing, groups fall asleep, and a leader is lost in its sleep.
    Lull,
    /// The stores fall into two parts that hear nothing of one another.
    Partition,
    /// A leader, with fewer than half of the voters, is cut off from the rest.
    Minority,
    /// A leader gives its vote to another store; replicas that do not vote any more are removed.
    LeaderRemoved,
    /// Two regions are merged of which one has just been split, and a third store does not hear
    /// what the one becomes.
    Crossing,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [FaultKind; 23] = [
        FaultKind::Loss,
        FaultKind::Delay,
        FaultKind::Duplicate,
        FaultKind::Replay,
        FaultKind::Isolation,
        FaultKind::OneWayCut,
        FaultKind::Crash,
        FaultKind::Blackout,
        FaultKind::Pause,
        FaultKind::Stall,
        FaultKind::SlowDisk,
        FaultKind::SyncFailure,
        FaultKind::Drift,
        FaultKind::Split,
        FaultKind::Merge,
        FaultKind::Membership,
        FaultKind::Transfer,
        FaultKind::Forgetting,
        FaultKind::Lull,
        FaultKind::Partition,
        FaultKind::Minority,
        FaultKind::LeaderRemoved,
        FaultKind::Crossing,
    ];

    /// A random half, of those that do not aim.
    pub(super) fn half(chance: &mut Chance) -> Vec<FaultKind> {
        use FaultKind::{Crossing, LeaderRemoved, Minority, Partition};
        let aims =
            |kind: &FaultKind| matches!(kind, Partition | Minority | LeaderRemoved | Crossing);
        let all = FaultKind::ALL.into_iter().filter(|kind| !aims(kind));
        all.filter(|_| chance.permille(500)).collect()
    }

    /// One that is in force all the time, or only once.
    fn is_constant(self) -> bool {
        use FaultKind::{Delay, Drift, Duplicate, Loss};
        matches!(self, Loss | Delay | Duplicate | Drift)
    }
}

impl World {
    /// The next fault, while the storm lasts.
    pub(super) fn on_fault(&mut self) {
        if self.now >= self.storm_end {
            return;
        }
        let timed: Vec<FaultKind> =
            self.faults.iter().copied().filter(|kind| !kind.is_constant()).collect();
        if let Some(kind) = self.chance.pick(&timed).copied() {
            self.inject(kind);
        }
        let (least, most) = self.pause;
        let pause = self.chance.between(least, most);
        self.schedule(pause, Happening::Fault);
    }

    fn some_store(&mut self) -> StoreId {
        let ids: Vec<StoreId> = self.nodes.keys().copied().collect();
        *self.chance.pick(&ids).expect("there are stores")
    }

    fn inject(&mut self, kind: FaultKind) {
        let store = self.some_store();
        // Mostly short, up to 2.5 seconds.
        let root = self.chance.between(1, 50);
        let long = root * root * 1000;
        self.injected += 1;
        self.note_fault(kind, store, long);
        match kind {
            FaultKind::Loss | FaultKind::Delay | FaultKind::Duplicate | FaultKind::Drift => {}
            FaultKind::Replay => {
                for _ in 0..self.chance.between(1, 12) {
                    let Some(envelope) = self.chance.pick(&self.old).cloned() else { break };
                    let delay = self.chance.below(long);
                    self.schedule(delay, Happening::Deliver(Box::new(envelope)));
                }
            }
            FaultKind::Isolation => self.part(&[store], long),
            FaultKind::OneWayCut => {
                let other = self.some_store();
                self.cut_one_way(store, other, long);
            }
            FaultKind::Partition => {
                let all: Vec<StoreId> = self.nodes.keys().copied().collect();
                let side: Vec<StoreId> =
                    all.into_iter().filter(|_| self.chance.permille(500)).collect();
                self.part(&side, long);
            }
            FaultKind::Minority => self.order_minority(),
            FaultKind::Crash => self.crash(store, long),
            FaultKind::Blackout => {
                for store in self.nodes.keys().copied().collect::<Vec<_>>() {
                    let long = self.chance.between(0, 400_000);
                    self.crash(store, long);
                }
            }
            FaultKind::Pause => self.node(store).paused_until = self.now + long,
            FaultKind::Stall => self.node(store).stalled_until = self.now + long,
            FaultKind::SlowDisk => {
                let times = self.chance.between(5, 200);
                self.node(store).slow = (times, self.now + long);
            }
            FaultKind::SyncFailure => self.node(store).sync_fails = true,
            FaultKind::Split => self.order_split(),
            FaultKind::Merge => self.order_merge(),
            FaultKind::Membership => self.order_change(),
            FaultKind::Transfer => {
                let Some((store, region)) = self.some_led_region() else { return };
                let Some(to) = self.chance.pick(&region.peers).copied() else { return };
                self.tell(store, Event::TransferLeader { region: region.id, to });
            }
            FaultKind::Forgetting => self.forget(),
            FaultKind::Lull => self.lull(),
            FaultKind::LeaderRemoved => self.order_leader_removed(),
            FaultKind::Crossing => self.order_crossing(),
        }
    }

    fn cut_one_way(&mut self, from: StoreId, to: StoreId, long: u64) {
        self.cut.insert((from, to));
        self.schedule(long, Happening::Heal(from, to));
    }

    /// Nothing goes between these stores and the others.
    fn part(&mut self, side: &[StoreId], long: u64) {
        let others: Vec<StoreId> =
            self.nodes.keys().copied().filter(|id| !side.contains(id)).collect();
        for other in others {
            for store in side {
                self.cut_one_way(*store, other, long);
                self.cut_one_way(other, *store, long);
            }
        }
    }

    fn order_minority(&mut self) {
        let Some((leader, region)) = self.some_led_region() else { return };
        let followers = region.voters().map(|p| p.store).filter(|s| *s != leader);
        let mut followers: Vec<StoreId> = followers.collect();
        // The leader and as many others as leave a majority.
        let others = (followers.len() / 2).saturating_sub(1);
        let mut side = vec![leader];
        for _ in 0..others {
            let at = self.chance.below(followers.len() as u64) as usize;
            side.push(followers.swap_remove(at));
        }
        let long = self.chance.between(500, 2_500) * 1000;
        self.part(&side, long);
    }

    fn forget(&mut self) {
        let Some((leader, region)) = self.some_led_region() else { return };
        let others: Vec<StoreId> = region.voters().map(|p| p.store).collect();
        let others: Vec<StoreId> = others.into_iter().filter(|s| *s != leader).collect();
        let Some(deaf) = self.chance.pick(&others).copied() else { return };
        let long = self.chance.between(500, 2_500) * 1000;
        self.cut.insert((leader, deaf));
        self.schedule(long, Happening::Heal(leader, deaf));
        if self.chance.permille(700) {
            // Nor does the leader hear of another one.
            self.cut.insert((deaf, leader));
            self.schedule(long, Happening::Heal(deaf, leader));
        }
        for other in others.into_iter().filter(|s| *s != deaf) {
            for _ in 0..2 {
                let after = self.chance.below(long);
                self.schedule(after, Happening::Crash(other));
            }
        }
    }

    /// A process that comes back at once.
    pub(super) fn on_crash(&mut self, store: StoreId) {
        let downtime = self.chance.between(1, 30_000);
        self.crash(store, downtime);
    }

    pub(super) fn crash(&mut self, store: StoreId, downtime: u64) {
        let node = self.nodes.get_mut(&store).expect("it is a store's id");
        if node.running.is_some() {
            if let Err(e) = node.crash(&mut self.chance) {
                self.fail(format!("an image of store {store}: {e}"));
            }
            self.counts.lock().restarts += 1;
            self.schedule(downtime, Happening::Start(store));
        }
    }

    /// A sync failed: the store stops with what is durable.
    pub(super) fn stop_for_failure(&mut self, store: StoreId) {
        let downtime = self.chance.between(10_000, 1_000_000);
        self.crash(store, downtime);
    }

    /// Who leads a region, as somebody believes, and as what.
    fn leader_of(&self, id: RegionId) -> Option<(StoreId, Region)> {
        self.nodes.iter().find_map(|(store, node)| {
            let all = node.replicas().into_iter();
            let led = all.filter(|s| s.is_leader && s.region.id == id).map(|s| s.region);
            led.map(|region| (*store, region)).next()
        })
    }

    /// A store, and a region that it leads or believes to.
    fn some_led_region(&mut self) -> Option<(StoreId, Region)> {
        let all = self.nodes.iter().flat_map(|(id, n)| n.replicas().into_iter().map(|s| (*id, s)));
        let led = all.filter(|(_, s)| s.is_leader).map(|(id, s)| (id, s.region));
        let led: Vec<(StoreId, Region)> = led.collect();
        self.chance.pick(&led).cloned()
    }

    fn order_split(&mut self) {
        let Some((store, region)) = self.some_led_region() else { return };
        self.split_region(store, &region);
    }

    /// At one or two of the clients' keys, if there are any inside and not too many regions.
    fn split_region(&mut self, store: StoreId, region: &Region) {
        if self.watch.lock().regions().len() > 8 {
            return;
        }
        let inside: Vec<Vec<u8>> = self.keys.iter().map(|k| k.as_bytes().to_vec()).collect();
        let inside =
            inside.into_iter().filter(|k| *k > region.range.start && region.range.contains(k));
        let mut keys: Vec<Vec<u8>> = inside.filter(|_| self.chance.permille(400)).collect();
        keys.sort();
        keys.truncate(2);
        let children = keys.iter().map(|_| {
            self.next_id += 10;
            let next = self.next_id;
            let peers = (1..=region.peers.len() as u64).map(|n| PeerId(next + n)).collect();
            SplitChild { region: RegionId(next), peers }
        });
        let children: Vec<SplitChild> = children.collect();
        if keys.is_empty() {
            return;
        }
        let done = self.count(|counts| counts.splits += 1);
        let answer = Answer::new(done);
        let (region, epoch) = (region.id, region.epoch);
        self.tell(store, Event::Split { region, epoch, keys, children, answer });
    }

    fn order_merge(&mut self) {
        // Alone it would find nothing to merge.
        if self.watch.lock().regions().len() < 2 || self.chance.permille(200) {
            return self.order_split();
        }
        let Some((_, region)) = self.some_led_region() else { return };
        let all = self.watch.lock().regions().clone();
        let beside = |r: &&Region| crate::merge::adjacent(r, &region);
        let neighbours: Vec<RegionId> = all.values().filter(beside).map(|r| r.id).collect();
        let Some(into) = self.chance.pick(&neighbours).copied() else { return };
        self.on_merge(region.id, into, MERGE_TRIES);
    }

    /// A leader refuses while a replica is behind: it is asked again, as an operator would.
    pub(super) fn on_merge(&mut self, region: RegionId, into: RegionId, tries: u32) {
        let found = self.nodes.iter().find_map(|(id, node)| {
            let all = node.replicas().into_iter();
            let led = all.filter(|s| s.is_leader && s.region.id == region && !s.merging);
            led.map(|s| (*id, s.region.epoch)).next()
        });
        if let Some((store, epoch)) = found {
            let answer = Answer::new(self.count(|counts| counts.prepares += 1));
            self.tell(store, Event::Merge { region, epoch, into, answer });
        }
        if tries > 0 && self.now < self.storm_end {
            let pause = self.chance.between(5_000, 60_000);
            self.schedule(pause, Happening::Merge(region, into, tries - 1));
        }
    }

    /// Some stores' replicas get a vote or lose it, in one step.
    fn order_joint(&mut self, store: StoreId, region: &Region) {
        let stores: Vec<StoreId> = self.nodes.keys().copied().collect();
        let mut changes = Vec::new();
        let mut rest = region.voters().count();
        for on in stores {
            if self.chance.permille(500) {
                continue;
            }
            self.next_id += 10;
            let new = Peer { id: PeerId(self.next_id), store: on, role: PeerRole::Learner };
            match region.peer_on(on).copied() {
                None => changes.push(PeerChange::AddVoter(new)),
                Some(peer) if !peer.role.votes() => changes.push(PeerChange::AddVoter(peer)),
                Some(peer) if rest > 1 => {
                    rest -= 1;
                    changes.push(PeerChange::AddLearner(peer));
                }
                Some(_) => {}
            }
        }
        let answer = Answer::new(self.count(|counts| counts.joint_changes += 1));
        let (region, epoch) = (region.id, region.epoch);
        if changes.len() > 1 {
            self.tell(store, Event::ChangePeers { region, epoch, changes, answer });
        }
    }

    /// In one step the leader loses its vote and another store has one; or who has none goes.
    fn order_leader_removed(&mut self) {
        let Some((leader, region)) = self.some_led_region() else { return };
        let (id, epoch) = (region.id, region.epoch);
        let learner = region.peers.iter().find(|p| p.role == PeerRole::Learner).copied();
        if let Some(peer) = learner.filter(|_| self.chance.permille(500)) {
            let answer = Answer::new(self.count(|counts| counts.changes += 1));
            let change = PeerChange::Remove(peer);
            return self.tell(leader, Event::ChangePeer { region: id, epoch, change, answer });
        }
        let votes = |on: &StoreId| region.peer_on(*on).is_some_and(|p| p.role.votes());
        let free: Vec<StoreId> = self.nodes.keys().copied().filter(|on| !votes(on)).collect();
        let Some(on) = self.chance.pick(&free).copied() else { return };
        let Some(own) = region.peer_on(leader).copied() else { return };
        self.next_id += 10;
        let new = Peer { id: PeerId(self.next_id), store: on, role: PeerRole::Voter };
        let new = region.peer_on(on).copied().unwrap_or(new);
        let answer = Answer::new(self.count(|counts| counts.joint_changes += 1));
        let changes = vec![PeerChange::AddVoter(new), PeerChange::AddLearner(own)];
        self.tell(leader, Event::ChangePeers { region: id, epoch, changes, answer });
    }

    /// A third store knows the neighbour as it was before a split, and the region as it is; or the
    /// other way round.
    fn order_crossing(&mut self) {
        let Some((leads, region)) = self.some_led_region() else { return };
        let all = self.watch.lock().regions().clone();
        let beside = |r: &&Region| crate::merge::adjacent(r, &region);
        let neighbours: Vec<RegionId> = all.values().filter(beside).map(|r| r.id).collect();
        let Some(into) = self.chance.pick(&neighbours).copied() else {
            return self.order_split();
        };
        let Some((other, target)) = self.leader_of(into) else { return };
        if other == leads {
            let peers: Vec<Peer> = target.voters().filter(|p| p.store != leads).copied().collect();
            let Some(to) = self.chance.pick(&peers).copied() else { return };
            return self.tell(leads, Event::TransferLeader { region: into, to });
        }
        let thirds = region.voters().map(|p| p.store).filter(|s| *s != leads && *s != other);
        let thirds: Vec<StoreId> = thirds.collect();
        let Some(deaf) = self.chance.pick(&thirds).copied() else { return };
        let long = self.chance.between(500, 3_000) * 1000;
        let source = self.chance.permille(300);
        let (from, changed) = if source { (leads, &region) } else { (other, &target) };
        self.cut_one_way(from, deaf, long);
        self.split_region(from, changed);
        self.on_merge(region.id, into, MERGE_TRIES);
    }

    fn order_change(&mut self) {
        let Some((store, region)) = self.some_led_region() else { return };
        if self.chance.permille(400) {
            return self.order_joint(store, &region);
        }
        let on = self.some_store();
        self.next_id += 10;
        let voters = region.voters().count();
        let new = Peer { id: PeerId(self.next_id), store: on, role: PeerRole::Learner };
        let change = match region.peer_on(on).copied() {
            None if self.chance.permille(700) => PeerChange::AddLearner(new),
            None => PeerChange::AddVoter(new),
            Some(peer) if peer.role == PeerRole::Learner && self.chance.permille(700) => {
                PeerChange::AddVoter(peer)
            }
            Some(peer) if voters > 2 && peer.role == PeerRole::Voter => {
                match self.chance.permille(300) {
                    true => PeerChange::AddLearner(peer),
                    false => PeerChange::Remove(peer),
                }
            }
            Some(peer) if peer.role == PeerRole::Learner => PeerChange::Remove(peer),
            Some(_) => return,
        };
        let done = self.count(|counts| counts.changes += 1);
        let answer = Answer::new(done);
        let (region, epoch) = (region.id, region.epoch);
        self.tell(store, Event::ChangePeer { region, epoch, change, answer });
    }
}
