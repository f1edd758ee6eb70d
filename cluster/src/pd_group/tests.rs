//! A group by itself: it is a placement driver and an oracle like any other, over restarts, changes
//! of leader, leaders that are cut off, and clocks that jump. It must never wait for a fixed time.

use super::*;
use damask_env::{MemoryDisk, RealClock};
use damask_pd::{ColumnRule, Mark, Pd, Placement};
use damask_tso::Oracle;
use damask_types::{ErrorKind, KeyRange, Region};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

const DEADLINE: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;

/// The machine's clock with a wall clock that is set wrong.
struct Wrong(RealClock, AtomicI64);

impl Clock for Wrong {
    fn wall_ms(&self) -> u64 {
        self.0.wall_ms().saturating_add_signed(self.1.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

/// Disks and clocks of a group, which outlive it.
struct World {
    disks: Vec<Arc<MemoryDisk>>,
    clocks: Vec<Arc<Wrong>>,
}

impl World {
    fn new(members: usize) -> World {
        let real = RealClock::default();
        let clock = |_| Arc::new(Wrong(real, AtomicI64::new(0)));
        let disks = (0..members).map(|_| Arc::new(MemoryDisk::new())).collect();
        World { disks, clocks: (0..members).map(clock).collect() }
    }

    fn try_start(&self, patience: Duration) -> Result<PdGroup, Error> {
        let pairs = self.disks.iter().zip(&self.clocks);
        let member = |(d, c): (&Arc<MemoryDisk>, &Arc<Wrong>)| MemberSetup {
            disk: d.clone(),
            clock: c.clone(),
        };
        let members = pairs.map(member).collect();
        let store = StoreConfig { tick: Duration::from_millis(50), ..StoreConfig::default() };
        let planner = damask_pd::Config::default();
        PdGroup::start(Setup { members, store, planner, patience })
    }

    fn start(&self) -> PdGroup {
        self.try_start(DEADLINE).expect("starts")
    }
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let (clock, pause) = (RealClock::default(), Closing::new());
    while !is() {
        assert!(clock.monotonic() < DEADLINE, "not within {DEADLINE:?}: {what}");
        pause.wait(Duration::from_millis(2));
    }
}

/// Waits for another leader, of a later term.
fn next_leader(group: &PdGroup, old: &Led) -> Arc<Led> {
    let mut next = None;
    until("another leader", || {
        next = group.group().latest().filter(|l| l.term > old.term && l.member != old.member);
        next.is_some()
    });
    next.expect("waited for")
}

/// Waits until every member that runs has applied what the furthest has.
fn caught_up(group: &PdGroup) {
    until("every member to catch up", || {
        let applied: Vec<_> = group.members().iter().filter_map(|m| m.applied).collect();
        applied.iter().all(|a| Some(a) == applied.iter().max())
            && group.members().iter().any(|m| m.leads)
    });
}

#[test]
fn it_is_a_placement_driver_and_an_oracle_like_any_other() {
    let groups = Mutex::new(Vec::new());
    let make = || {
        let group = World::new(3).start();
        let facade = group.group().clone();
        groups.lock().push(group);
        facade
    };
    damask_pd::testing::suite(|| make());
    damask_tso::testing::suite(|| make());
}

#[test]
fn what_must_survive_a_restart_of_every_member_does() {
    damask_pd::testing::restart_suite(|| {
        let (world, running) = (World::new(3), Mutex::new(None));
        Box::new(move || {
            let mut running = running.lock();
            drop(running.take());
            let group = world.start();
            let facade = group.group().clone();
            *running = Some(group);
            facade
        })
    });
}

#[test]
fn time_goes_on_over_restarts_and_clocks_that_jump() {
    let (world, mut running) = (World::new(3), None);
    damask_tso::testing::restarts(|round| {
        drop(running.take());
        for (n, clock) in (0..).zip(&world.clocks) {
            clock.1.store([HOUR_MS, -HOUR_MS, 0][(n + round as usize) % 3], Ordering::SeqCst);
        }
        let group = running.insert(world.start());
        group.group().clone()
    });
}

#[test]
fn a_leader_that_is_cut_off_serves_nothing_that_another_has_passed() {
    let group = World::new(3).start();
    let facade = group.group();
    let before = facade.get(10).expect("served");
    facade.raise(Mark::SafePoint, 5).expect("raised");
    let mut olds: Vec<Arc<Led>> = Vec::new();
    // Until one leads again: what it had before is of an old term none the less.
    let again = |olds: &[Arc<Led>]| {
        let now = facade.latest().expect("a leader");
        olds.len() >= 2 && olds.iter().any(|old| old.member == now.member)
    };
    while !again(&olds) {
        let round = olds.len();
        let old = facade.latest().expect("a leader");
        let first = facade.alloc_ids(1).expect("ids");
        facade.network.set_cut(old.member, true);
        let new = next_leader(&group, &old);
        let ts = facade.get(1).expect("the new leader serves");
        assert!(ts > before, "round {round}");
        // Its window is below, and not used up by far: only its lease has ended.
        assert!(old.oracle.bound() <= ts, "round {round}");
        assert_eq!(old.oracle.get(1).expect_err("fenced").kind(), ErrorKind::Reroute);
        assert!(old.pd.raise(Mark::SafePoint, 900).is_err(), "it cannot save");
        assert!(old.pd.alloc_ids(5_000).is_err(), "nor reserve ids");
        let ids = facade.alloc_ids(10).expect("ids");
        let left = old.pd.alloc_ids(1).expect("of its own window");
        assert!(left.start > first.start && left.start < ids.start, "never the new leader's");
        assert_eq!(facade.raise(Mark::SafePoint, 5).expect("answers"), 5);
        facade.network.set_cut(old.member, false);
        until("the old leader to follow", || {
            let status = &group.members()[old.member.0 as usize - 1];
            !status.leads && status.term >= Some(new.term)
        });
        caught_up(&group);
        olds.push(old);
    }
    for old in olds {
        assert_eq!(old.oracle.get(1).expect_err("of an old term").kind(), ErrorKind::Reroute);
        assert!(old.pd.raise(Mark::SafePoint, 900).is_err(), "it cannot save");
    }
    assert_eq!(facade.raise(Mark::SafePoint, 6).expect("answers"), 6);
}

#[test]
fn a_minority_serves_nothing_and_says_so() {
    let world = World::new(3);
    let group = world.try_start(Duration::from_millis(300)).expect("starts");
    let facade = group.group();
    let mut before = None;
    until("a first timestamp", || {
        before = facade.get(1).ok();
        before.is_some()
    });
    for id in [2, 3].map(StoreId) {
        group.stop_member(id);
    }
    until("the lease to end", || facade.get(1).is_err());
    let refusal = facade.get(1).expect_err("no quorum");
    assert_eq!(refusal.kind(), ErrorKind::Retry);
    assert!(refusal.to_string().contains("no member of its group leads"), "{refusal}");
    let refusal = facade.raise(Mark::SafePoint, 1).expect_err("no quorum");
    assert_eq!(refusal.kind(), ErrorKind::Retry);
    assert!(refusal.to_string().contains("no member of its group leads"), "{refusal}");
    assert!(facade.tick(1).is_err() && facade.stores().is_empty());
    let states: Vec<_> = group.members().into_iter().map(|m| m.state).collect();
    assert_eq!(states, ["up", "stopped", "stopped"]);
    group.start_member(StoreId(3)).expect("starts again");
    let served = || facade.get(1).is_ok_and(|ts| Some(ts) > before);
    until("a majority to serve again", served);
    until("a change", || facade.raise(Mark::SafePoint, 1) == Ok(1));
}

/// What threads have been given, while leaders come and go.
#[derive(Default)]
struct Given {
    stop: AtomicBool,
    /// The greatest timestamp that a call which has ended was given.
    ended: AtomicU64,
    calls: AtomicU64,
    ids: Mutex<HashSet<u64>>,
    mark: AtomicU64,
}

impl Given {
    fn take(&self, facade: &Group) {
        while !self.stop.load(Ordering::SeqCst) {
            let before = self.ended.load(Ordering::SeqCst);
            let ts = facade.get(3).expect("served").0;
            assert!(ts > before, "{ts} is not above {before}, which had ended");
            self.ended.fetch_max(ts + 2, Ordering::SeqCst);
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            if call.is_multiple_of(8) {
                let ids = facade.alloc_ids(97).expect("ids");
                assert!(ids.into_iter().all(|id| self.ids.lock().insert(id)), "an id comes twice");
            }
            if call.is_multiple_of(16) {
                let raised = facade.raise(Mark::SafePoint, call).expect("raised");
                let known = self.mark.fetch_max(raised, Ordering::SeqCst);
                assert!(raised >= call && known < u64::MAX);
            }
        }
    }
}

#[test]
fn leaders_that_are_killed_lose_nothing_and_repeat_nothing() {
    let world = World::new(3);
    let group = world.start();
    let given = Arc::new(Given::default());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (given, facade) = (given.clone(), group.group().clone());
            damask_env::spawn("takes", move || given.take(&facade))
        })
        .collect();
    let mut rules = Vec::new();
    for round in 0..4u8 {
        let led = group.group().latest().expect("a leader");
        let calls = given.calls.load(Ordering::SeqCst);
        until("calls", || given.calls.load(Ordering::SeqCst) > calls + 50);
        // The next leader's clock is an hour off.
        for clock in &world.clocks {
            let hours = HOUR_MS * i64::from(round % 3) - HOUR_MS;
            clock.1.store(hours, Ordering::SeqCst);
        }
        group.stop_member(led.member);
        let rule = ColumnRule { range: KeyRange::new([round], [round + 1]), replicas: 1 };
        group.group().set_column_rule(rule.clone()).expect("acknowledged");
        rules.push(rule);
        next_leader(&group, &led);
        group.start_member(led.member).expect("starts again");
    }
    caught_up_to(&group, &given);
    given.stop.store(true, Ordering::SeqCst);
    threads.into_iter().for_each(|thread| thread.join().expect("nothing was repeated"));
    caught_up(&group);
    assert_eq!(group.group().column_rules(), rules);
    let mark = given.mark.load(Ordering::SeqCst);
    assert_eq!(group.group().raise(Mark::SafePoint, 0), Ok(mark));
    // All of them stop, and begin again with what was acknowledged.
    drop(group);
    let group = world.start();
    assert_eq!(group.group().column_rules(), rules);
    assert_eq!(group.group().mark(Mark::SafePoint), mark);
    assert!(group.group().get(1).expect("served").0 > given.ended.load(Ordering::SeqCst));
    let ids = group.group().alloc_ids(2).expect("ids");
    assert!(ids.into_iter().all(|id| !given.ids.lock().contains(&id)));
}

/// Calls go on after the last change.
fn caught_up_to(group: &PdGroup, given: &Given) {
    let calls = given.calls.load(Ordering::SeqCst);
    until("calls", || given.calls.load(Ordering::SeqCst) > calls + 50);
    assert!(group.members().iter().all(|m| m.state == "up"));
}

#[test]
fn a_new_leader_plans_nothing_for_stores_it_has_not_heard_of() {
    let group = World::new(3).start();
    let facade = group.group();
    let stores = damask_pd::testing::stores(1);
    stores.iter().for_each(|s| facade.register_store(s.clone()).expect("registered"));
    let first = damask_pd::testing::region(1, b"", b"", 1);
    assert!(facade.bootstrap(&first).expect("announced"));
    let report = damask_pd::testing::report(&first, 10);
    assert_eq!(facade.region_heartbeat(report.clone()), Ok(None));
    facade.tick(3_600_000).expect("planned");
    let old = facade.latest().expect("a leader");
    group.stop_member(old.member);
    let new = next_leader(&group, &old);
    // Until it is told, its predecessor's regions are as good as any.
    assert!(new.pd.regions().is_empty());
    assert_eq!(facade.route(b"k").and_then(|r| r.leader), Some(first.peers[0]));
    assert_eq!(facade.regions().len(), 1);
    for now in [3_600_000, 3_600_500, 3_601_000] {
        until("a tick", || facade.tick(now).is_ok());
        assert_eq!(facade.region_heartbeat(report.clone()), Ok(None), "nobody is down yet");
        assert!(facade.operators().is_empty());
    }
    assert!(knows(&new.pd, &first));
}

fn knows(pd: &Pd, region: &Region) -> bool {
    pd.route(b"k").is_some_and(|route| route.region == *region && route.leader.is_some())
}

#[test]
fn a_member_without_its_disk_never_votes_again_and_the_number_is_kept() {
    let mut world = World::new(3);
    let group = world.start();
    let before = group.group().get(1).expect("served");
    group.group().raise(Mark::SafePoint, 7).expect("raised");
    drop(group);
    world.disks[1] = Arc::new(MemoryDisk::new());
    let group = world.start();
    let lost = &group.members()[1];
    assert_eq!(lost.state, "failed");
    assert!(lost.reason.as_ref().is_some_and(|r| r.contains("is empty now")), "{lost:?}");
    assert!(group.group().get(1).expect("two are a majority") > before);
    assert_eq!(group.group().mark(Mark::SafePoint), 7);
    drop(group);
    world.disks[0] = Arc::new(MemoryDisk::new());
    let refusal = world.try_start(DEADLINE).err().expect("one is not").to_string();
    assert!(refusal.contains("too few members") && refusal.contains("member 1:"), "{refusal}");
    let five = World { disks: World::new(5).disks, clocks: World::new(5).clocks };
    drop(five.start());
    let four = World { disks: five.disks[..3].to_vec(), clocks: five.clocks[..3].to_vec() };
    let refusal = four.try_start(DEADLINE).err().expect("refused").to_string();
    assert!(refusal.contains("has 5 members") && refusal.contains("--pds 5"), "{refusal}");
}
