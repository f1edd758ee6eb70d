//! What an operator says to a report: the next step, or why it waits, or that it is over.

use super::*;
use crate::regions::RegionMap;
use crate::testing::{learner, region, stores, voter};
use crate::values::{StoreInfo, StoreReport};
use damask_types::KeyRange;
use std::collections::{BTreeMap, HashMap};

/// Stores 1, 2, 3 and 5 hold rows, 4 columns; those in `quiet` are silent.
struct World {
    config: Config,
    stores: BTreeMap<StoreId, StoreInfo>,
    reports: BTreeMap<StoreId, (u64, StoreReport)>,
    regions: RegionMap<RegionFacts>,
}

const NOW_MS: u64 = 100_000;

impl World {
    fn new(quiet: &[u64]) -> World {
        let mut all = stores(1);
        all.push(StoreInfo { id: StoreId(5), ..all[0].clone() });
        let report = |s: &StoreInfo| {
            let seen = if quiet.contains(&s.id.0) { 0 } else { NOW_MS };
            (s.id, (seen, StoreReport { store: s.id, capacity: 0, available: 0, failed: false }))
        };
        World {
            config: Config::default(),
            reports: all.iter().map(report).collect(),
            stores: all.into_iter().map(|s| (s.id, s)).collect(),
            regions: RegionMap::new(),
        }
    }

    fn with<T>(&self, ask: impl FnOnce(&View<'_>) -> T) -> T {
        ask(&View {
            config: &self.config,
            now_ms: NOW_MS,
            started_ms: Some(0),
            stores: &self.stores,
            settings: &BTreeMap::new(),
            reports: &self.reports,
            rules: &BTreeMap::new(),
            regions: &self.regions,
            loads: &HashMap::new(),
            running: &BTreeMap::new(),
        })
    }

    /// What an operator that began with `before` says to `now`, led by its first replica.
    fn say(&self, before: &Region, steps: &[Step], now: &Region, pending: &[Peer]) -> Progress {
        let facts = RegionFacts {
            leader: Some(now.peers[0]),
            pending: pending.iter().map(|p| p.id).collect(),
            ..RegionFacts::default()
        };
        self.with(|view| {
            let steps = steps.to_vec();
            Operator::new(view, before, OperatorKind::Ordered, steps).progress(view, now, &facts)
        })
    }
}

fn with_peers(peers: &[Peer]) -> Region {
    Region { peers: peers.to_vec(), ..region(1, b"", b"", 1) }
}

#[test]
fn a_move_goes_step_by_step() {
    let world = World::new(&[]);
    let [a, b, c] = [voter(11, 1), voter(12, 2), voter(13, 3)];
    let (new, votes) = (learner(15, 5), voter(15, 5));
    let (c_learns, role) = (learner(13, 3), PeerRole::Demoting);
    let between = [Peer { role, ..c }, Peer { role: PeerRole::Incoming, ..votes }];
    let steps = [Step::AddLearner(new), Step::Swap { add: votes, old: c }, Step::RemovePeer(c)];
    let before = with_peers(&[a, b, c]);
    let say =
        |peers: &[Peer], pending: &[Peer]| world.say(&before, &steps, &with_peers(peers), pending);
    assert_eq!(say(&[a, b, c], &[]), Progress::Do(steps[0].clone()));
    assert!(matches!(say(&[a, b, c, new], &[new]), Progress::Wait(_)));
    assert_eq!(say(&[a, b, c, new], &[]), Progress::Do(steps[1].clone()));
    assert!(matches!(say(&[a, b, between[0], between[1]], &[]), Progress::Wait(_)));
    assert_eq!(say(&[a, b, c_learns, votes], &[]), Progress::Do(steps[2].clone()));
    assert_eq!(say(&[a, b, votes], &[]), Progress::Done);
    // The leader is asked to go: first another one leads.
    assert_eq!(say(&[c, a, b, new], &[]), Progress::Do(Step::TransferLeader(a)));
    // Nobody else can: it hands over on the way.
    let pending = [a, b];
    let alone = with_peers(&[c]);
    let swap = [Step::Swap { add: votes, old: c }];
    let only =
        world.say(&alone, &[Step::AddLearner(new), swap[0].clone()], &with_peers(&[c, new]), &[]);
    assert_eq!(only, Progress::Do(swap[0].clone()));
    // Too few would be alive.
    assert!(matches!(say(&[a, b, c, new], &pending), Progress::Wait(_)));
    // Somebody else has changed the replicas.
    assert!(matches!(say(&[a, c], &[]), Progress::Stale(_)));
    assert!(matches!(say(&[a, b, c, voter(77, 4)], &[]), Progress::Stale(_)));
}

#[test]
fn what_somebody_else_has_undone_is_not_done_again() {
    let world = World::new(&[]);
    let [a, b, c] = [voter(11, 1), voter(12, 2), voter(13, 3)];
    let (new, votes) = (learner(15, 5), voter(15, 5));
    let steps = [Step::AddLearner(new), Step::Swap { add: votes, old: c }, Step::RemovePeer(c)];
    let before = with_peers(&[a, b, c]);
    let say = |peers: &[Peer], changes: u64| {
        let mut now = with_peers(peers);
        now.epoch.conf_ver += changes;
        world.say(&before, &steps, &now, &[])
    };
    assert_eq!(say(&[a, b, c], 0), Progress::Do(steps[0].clone()));
    // The new replica was there, and its id is used up.
    assert!(matches!(say(&[a, b, c], 2), Progress::Stale(_)));
    assert_eq!(say(&[a, b, c, new], 1), Progress::Do(steps[1].clone()));
    assert!(matches!(say(&[a, b, c, new], 3), Progress::Stale(_)));
    let c_learns = learner(13, 3);
    assert_eq!(say(&[a, b, c_learns, votes], 5), Progress::Do(steps[2].clone()));
    assert_eq!(say(&[a, b, votes], 6), Progress::Done);
}

#[test]
fn no_step_leaves_less_than_a_live_quorum() {
    let [a, b, c, d] = [voter(11, 1), voter(12, 2), voter(13, 3), voter(15, 5)];
    let remove = |world: &World, peers: &[Peer], gone: Peer, pending: &[Peer]| {
        let before = with_peers(peers);
        world.say(&before, &[Step::RemovePeer(gone)], &before, pending)
    };
    let all_up = World::new(&[]);
    assert!(matches!(remove(&all_up, &[a, b, c], c, &[]), Progress::Do(_)));
    // Of the two that would stay, one has not caught up, or is silent.
    assert!(matches!(remove(&all_up, &[a, b, c], c, &[b]), Progress::Wait(_)));
    assert!(matches!(remove(&World::new(&[2]), &[a, b, c], c, &[]), Progress::Wait(_)));
    // The silent one itself may go.
    assert!(matches!(remove(&World::new(&[3]), &[a, b, c], c, &[]), Progress::Do(_)));
    // Nor may a voter be added that only counts against the living.
    let add = |world: &World| {
        let before = with_peers(&[a, b, c, learner(15, 5)]);
        world.say(&before, &[Step::AddVoter(d)], &before, &[])
    };
    assert!(matches!(add(&World::new(&[3])), Progress::Do(_)));
    assert!(matches!(add(&World::new(&[3, 5])), Progress::Wait(_)));
}

#[test]
fn a_leader_that_cannot_lead_is_not_asked_for() {
    let [a, b, c] = [voter(11, 1), voter(12, 2), voter(13, 3)];
    let before = with_peers(&[a, b, c]);
    let steps = [Step::TransferLeader(b)];
    let all_up = World::new(&[]);
    assert_eq!(all_up.say(&before, &steps, &before, &[]), Progress::Do(steps[0].clone()));
    assert!(matches!(all_up.say(&before, &steps, &before, &[b]), Progress::Stale(_)));
    assert!(matches!(World::new(&[2]).say(&before, &steps, &before, &[]), Progress::Stale(_)));
    let moved = with_peers(&[b, a, c]);
    assert_eq!(all_up.say(&before, &steps, &moved, &[]), Progress::Done);
}

#[test]
fn splits_and_merges_end_when_the_range_has_changed() {
    let mut world = World::new(&[]);
    let left = region(1, b"", b"m", 1);
    let split = Region { range: KeyRange::new("f", "m"), ..region(1, b"", b"", 2) };
    assert_eq!(world.say(&left, &[Step::Split(2)], &left, &[]), Progress::Do(Step::Split(2)));
    assert_eq!(world.say(&left, &[Step::Split(2)], &split, &[]), Progress::Done);
    let whole = RegionFacts { unsplittable: true, ..RegionFacts::default() };
    world.with(|view| {
        let operator = Operator::new(view, &left, OperatorKind::SplitBySize, vec![Step::Split(2)]);
        assert!(matches!(operator.progress(view, &left, &whole), Progress::Stale(_)));
    });
    let merge = [Step::Merge(RegionId(2))];
    assert!(matches!(world.say(&left, &merge, &left, &[]), Progress::Stale(_)), "no neighbour");
    world.regions.put(region(2, b"m", b"", 1), RegionFacts::default()).expect("the first");
    assert_eq!(world.say(&left, &merge, &left, &[]), Progress::Do(merge[0].clone()));
    // The prepare raises the version: only when the region is gone is it done.
    let mut prepared = region(1, b"", b"m", 2);
    prepared.epoch.conf_ver += 1;
    let progress = |merging| {
        let leader = Some(left.peers[0]);
        let facts = RegionFacts { leader, merging, ..RegionFacts::default() };
        world.with(|view| {
            let steps = merge.to_vec();
            let operator = Operator::new(view, &left, OperatorKind::Merge, steps);
            operator.progress(view, &prepared, &facts)
        })
    };
    assert!(matches!(progress(true), Progress::Wait(_)));
    assert!(matches!(progress(false), Progress::Stale(_)), "it was taken back");
    let elsewhere = with_peers(&[voter(21, 1), voter(22, 2), voter(25, 5)]);
    let elsewhere = Region { id: RegionId(2), range: KeyRange::new("m", ""), ..elsewhere };
    world.regions.put(elsewhere, RegionFacts::default()).expect("as new");
    assert!(matches!(world.say(&left, &merge, &left, &[]), Progress::Stale(_)));
}

#[test]
fn a_merge_does_not_wait_for_a_store_that_is_down() {
    let mut world = World::new(&[]);
    let (left, right) = (region(1, b"", b"m", 1), region(2, b"m", b"", 1));
    let facts = RegionFacts { pending: vec![right.peers[2].id], ..RegionFacts::default() };
    world.regions.put(right.clone(), facts).expect("the first");
    let merge = [Step::Merge(RegionId(2))];
    assert!(matches!(world.say(&left, &merge, &left, &[]), Progress::Wait(_)), "it is pending");
    let (_, report) = world.reports.get_mut(&right.peers[2].store).expect("it has reported");
    report.failed = true;
    let said = world.say(&left, &merge, &left, &[]);
    assert!(matches!(said, Progress::Stale(why) if why.contains("down")), "{said:?}");
    // Nothing is written there, so that it lacks nothing: the leader would refuse for ever.
    world.regions.put(right, RegionFacts::default()).expect("as new");
    let said = world.say(&left, &merge, &left, &[]);
    assert!(matches!(said, Progress::Stale(why) if why.contains("down")), "{said:?}");
}

#[test]
fn ids_are_given_and_time_runs_out() {
    let world = World::new(&[]);
    world.with(|view| {
        let before = region(1, b"", b"", 1);
        let steps = view::move_steps(before.peers[2], StoreId(5));
        let mut operator = Operator::new(view, &before, OperatorKind::Drain, steps);
        assert_eq!(operator.ids_wanted(), 1);
        operator.assign_ids(70..71);
        assert_eq!(
            operator.steps[..2],
            [
                Step::AddLearner(learner(70, 5)),
                Step::Swap { add: voter(70, 5), old: before.peers[2] }
            ]
        );
        assert!(operator.targets(StoreId(5)) && !operator.targets(StoreId(3)));
        assert!(!operator.is_overdue(NOW_MS + 600_000));
        assert!(operator.is_overdue(NOW_MS + 700_000));
    });
}
