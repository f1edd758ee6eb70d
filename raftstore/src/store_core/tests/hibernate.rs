//! Groups that sleep: who falls asleep, what is said meanwhile, and what wakes them.

use super::*;
use crate::hibernate::Word;

/// Three stores whose messages all arrive at once, but for those of a lost store or group.
struct Calm {
    world: World,
    lost: Option<u64>,
    /// Messages of this region to that store are lost.
    deaf: Option<(RegionId, u64)>,
}

const FIRST: RegionId = RegionId(1);
const CHILD: RegionId = RegionId(110);
const ELECTION_TICKS: u64 = 5;

impl Calm {
    fn new() -> Calm {
        let mut calm = Calm { world: World::new(1, 3, 3), lost: None, deaf: None };
        (1..=3).for_each(|id| calm.world.finish(id));
        calm.deliver();
        (0..3).for_each(|_| drop(calm.tick()));
        assert_eq!(calm.leader(FIRST), Some(1));
        calm
    }

    fn ids(&self) -> Vec<u64> {
        self.world.nodes.keys().copied().filter(|id| Some(*id) != self.lost).collect()
    }

    /// What was sent.
    fn deliver(&mut self) -> Vec<Envelope> {
        let mut sent = Vec::new();
        loop {
            for id in self.ids() {
                while !self.world.nodes[&id].writes.is_empty() {
                    self.world.run_writer(id);
                }
                while !self.world.nodes[&id].applies.is_empty() {
                    self.world.run_applier(id);
                }
            }
            if self.world.net.is_empty() {
                return sent;
            }
            for envelope in std::mem::take(&mut self.world.net) {
                let (from, to) = (envelope.from.store.0, envelope.to.store.0);
                sent.push(envelope.clone());
                let gone = [from, to].iter().any(|id| Some(*id) == self.lost);
                if !gone && self.deaf != Some((envelope.region, to)) {
                    self.world.step(to, Event::Messages(vec![envelope]));
                }
            }
        }
    }

    fn tick(&mut self) -> Vec<Envelope> {
        self.ids().into_iter().for_each(|id| self.world.tick(id));
        self.deliver()
    }

    fn status(&self, id: u64, region: RegionId) -> Option<ReplicaStatus> {
        self.world.nodes[&id].core.status(region)
    }

    fn leader(&self, region: RegionId) -> Option<u64> {
        let leads = |id: &u64| self.status(*id, region).is_some_and(|s| s.is_leader);
        self.ids().into_iter().find(leads)
    }

    fn asleep(&self, region: RegionId) -> Vec<u64> {
        let sleeps = |id: &u64| self.status(*id, region).is_some_and(|s| s.hibernating);
        self.ids().into_iter().filter(sleeps).collect()
    }

    /// Ticks until this holds.
    fn until(&mut self, max: u64, done: impl Fn(&Calm) -> bool) -> u64 {
        for ticks in 0..=max {
            if done(self) {
                return ticks;
            }
            self.tick();
        }
        let told = self.ids().into_iter().map(|id| self.world.nodes[&id].core.describe(FIRST));
        panic!("not after {max} ticks: {:#?}", told.collect::<Vec<_>>());
    }

    fn sleep(&mut self) {
        self.until(60, |calm| calm.asleep(FIRST) == [1, 2, 3]);
    }

    fn written(&self) -> u64 {
        self.world.history.lock().writes
    }
}

#[test]
fn in_an_idle_group_only_the_leaders_store_speaks_for_all_its_groups() {
    let mut calm = Calm::new();
    calm.sleep();
    calm.world.split(1, "h");
    calm.deliver();
    calm.until(60, |calm| calm.asleep(FIRST) == [1, 2, 3] && calm.asleep(CHILD) == [1, 2, 3]);
    calm.tick();
    let mut sent = Vec::new();
    (0..20).for_each(|_| sent.extend(calm.tick()));
    // To each of the other two, with every second tick's heartbeat.
    assert_eq!(sent.len(), 20, "{sent:?}");
    for envelope in sent {
        assert_eq!((envelope.region, envelope.from.store), (RegionId(0), StoreId(1)));
        let Some(Word::Vouch(digest)) = Word::decode(&envelope.message) else { panic!() };
        assert_eq!(digest.count, 2);
    }
    // None of them minds for long.
    (0..300).for_each(|_| drop(calm.tick()));
    assert_eq!(calm.asleep(FIRST), [1, 2, 3]);
    assert_eq!(calm.asleep(CHILD), [1, 2, 3]);
}

#[test]
fn a_write_wakes_everybody_and_they_sleep_again() {
    let mut calm = Calm::new();
    calm.sleep();
    let before = calm.written();
    calm.world.write(1, "b");
    calm.deliver();
    assert_eq!(calm.written(), before + 1);
    assert!(calm.asleep(FIRST).is_empty());
    calm.until(3, |calm| {
        let applied = |id| calm.status(id, FIRST).map(|s| s.applied);
        applied(1) == applied(2) && applied(2) == applied(3)
    });
    calm.sleep();
}

#[test]
fn a_leader_lost_in_its_sleep_has_a_successor_within_three_elections_time() {
    let mut calm = Calm::new();
    calm.sleep();
    (0..50).for_each(|_| drop(calm.tick()));
    calm.lost = Some(1);
    let ticks = calm.until(3 * ELECTION_TICKS, |calm| calm.leader(FIRST).is_some());
    assert!(ticks >= ELECTION_TICKS - 2, "nobody gives up a leader whose store was just heard of");
    let (leader, before) = (calm.leader(FIRST).unwrap(), calm.written());
    calm.world.write(leader, "b");
    calm.deliver();
    assert_eq!(calm.written(), before + 1);
    // It lacks one of three, who may come back with another opinion: nobody sleeps.
    (0..60).for_each(|_| drop(calm.tick()));
    assert!(calm.asleep(FIRST).is_empty());
    calm.lost = None;
    calm.sleep();
    assert_eq!(calm.leader(FIRST), Some(leader));
}

#[test]
fn a_lost_follower_stands_when_it_comes_back_and_is_told_who_leads() {
    let mut calm = Calm::new();
    calm.sleep();
    let term = calm.status(1, FIRST).unwrap().term;
    calm.world.crash(3);
    calm.until(60, |calm| calm.asleep(FIRST) == [1, 2, 3]);
    let status = calm.status(3, FIRST).unwrap();
    assert_eq!((status.leader.unwrap().store, status.term), (StoreId(1), term));
}

#[test]
fn who_slept_long_has_no_lease_and_asks_a_quorum() {
    let mut calm = Calm::new();
    calm.sleep();
    (0..20).for_each(|_| drop(calm.tick()));
    let (epoch, answered) = (Epoch { conf_ver: 1, version: 1 }, Arc::new(Mutex::new(0)));
    let said = answered.clone();
    let answer = Answer::new(Box::new(move |result: Result<_>| {
        result.unwrap();
        *said.lock() += 1;
    }));
    let event = Event::Read { region: FIRST, epoch, mode: ReadMode::Lease, answer };
    calm.world.step(1, event);
    assert_eq!(*answered.lock(), 0, "another one may lead by now");
    calm.deliver();
    assert_eq!(*answered.lock(), 1);
}

#[test]
fn a_follower_that_is_read_wakes_its_leader() {
    let mut calm = Calm::new();
    calm.sleep();
    let reads = calm.world.history.lock().reads;
    let (epoch, history) = (Epoch { conf_ver: 1, version: 1 }, calm.world.history.clone());
    let done = move |result: Result<crate::handle::ReadPermit>| {
        result.unwrap();
        history.lock().reads += 1;
    };
    let answer = Answer::new(Box::new(done));
    let event = Event::Read { region: FIRST, epoch, mode: ReadMode::Follower, answer };
    calm.world.step(2, event);
    calm.deliver();
    assert_eq!(calm.world.history.lock().reads, reads + 1);
    assert!(!calm.asleep(FIRST).contains(&1));
}

/// Its leader's store still speaks, but not for it: without a digest it would sleep for ever.
#[test]
fn a_replica_that_was_removed_in_its_sleep_is_told() {
    let mut calm = Calm::new();
    calm.world.split(1, "h");
    calm.deliver();
    let both = |calm: &Calm| calm.asleep(FIRST) == [1, 2, 3] && calm.asleep(CHILD) == [1, 2, 3];
    calm.until(60, both);
    calm.deaf = Some((CHILD, 3));
    let region = calm.status(1, CHILD).unwrap().region;
    let peer = *region.peer_on(StoreId(3)).unwrap();
    let (epoch, change) = (region.epoch, PeerChange::Remove(peer));
    let answer = Answer::new(Box::new(|result: Result<Region>| drop(result.unwrap())));
    calm.world.step(1, Event::ChangePeer { region: CHILD, epoch, change, answer });
    calm.deliver();
    calm.until(60, |calm| calm.asleep(CHILD) == [1, 2, 3]);
    calm.deaf = None;
    let ticks = calm.until(200, |calm| calm.status(3, CHILD).is_none());
    assert!(ticks > ELECTION_TICKS, "for a while stores may differ");
    calm.until(100, |calm| calm.asleep(FIRST) == [1, 2, 3] && calm.asleep(CHILD) == [1, 2]);
}

#[test]
fn a_long_sleep_ends_by_itself() {
    let mut calm = Calm::new();
    calm.sleep();
    let max = CoreConfig::default().hibernate_max_ticks;
    calm.until(max + max / 4 + 1, |calm| calm.asleep(FIRST).is_empty());
    calm.sleep();
}
