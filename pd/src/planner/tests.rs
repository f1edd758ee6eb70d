//! The planner as a function: a view in, operators out.

use super::*;
use crate::testing::{learner, region, report, stores, voter};

struct World {
    config: Config,
    stores: BTreeMap<StoreId, StoreInfo>,
    rules: BTreeMap<Vec<u8>, ColumnRule>,
}

impl World {
    fn new(columns: u64, rules: &[(&str, &str, u32)]) -> World {
        let rule = |(start, end, replicas): &(&str, &str, u32)| {
            let range = KeyRange::new(start.as_bytes(), end.as_bytes());
            (range.start.clone(), ColumnRule { range, replicas: *replicas })
        };
        World {
            config: Config { region_bytes_max: 1024, ..Config::default() },
            stores: stores(columns).into_iter().map(|s| (s.id, s)).collect(),
            rules: rules.iter().map(rule).collect(),
        }
    }

    fn plan(&self, report: &RegionReport, all: &[Region], spare: u64) -> Option<Operator> {
        let mut replicas = HashMap::new();
        for peer in all.iter().flat_map(|r| &r.peers) {
            *replicas.entry(peer.store).or_default() += 1;
        }
        let view = View {
            config: &self.config,
            stores: &self.stores,
            rules: &self.rules,
            replicas: &replicas,
            pending: &HashMap::new(),
            spare: PeerId(spare),
        };
        plan(&view, report)
    }
}

fn keys(text: &[&str]) -> Option<Operator> {
    Some(Operator::SplitAt(text.iter().map(|k| k.as_bytes().to_vec()).collect()))
}

#[test]
fn edges_of_rules_come_before_all_else() {
    let world = World::new(1, &[("b", "d", 1), ("d", "f", 1), ("x", "", 1)]);
    let at = |start: &str, end: &str| {
        let r = region(1, start.as_bytes(), end.as_bytes(), 1);
        world.plan(&report(&r, 5000), &[], 99)
    };
    assert_eq!(at("", ""), keys(&["b", "d", "f", "x"]));
    assert_eq!(at("c", "e"), keys(&["d"]));
    assert_eq!(at("a", "b"), Some(Operator::Split), "touches the rule from outside");
    assert_eq!(at("f", "x"), Some(Operator::Split));
    assert_eq!(at("f", ""), keys(&["x"]));
    assert!(matches!(at("b", "c"), Some(Operator::AddLearner(_))));
    assert!(matches!(at("y", ""), Some(Operator::AddLearner(_))));
}

#[test]
fn voters_are_first_learners() {
    let world = World::new(0, &[]);
    let mut r = region(1, b"", b"", 1);
    r.peers.truncate(2);
    let mut rep = report(&r, 0);
    assert_eq!(world.plan(&rep, &[], 99), Some(Operator::AddLearner(learner(99, 3))));
    rep.region.peers.push(learner(99, 3));
    rep.pending = vec![PeerId(99)];
    assert_eq!(world.plan(&rep, &[], 100), None, "waits for it");
    rep.pending.clear();
    assert_eq!(world.plan(&rep, &[], 100), Some(Operator::AddVoter(voter(99, 3))));
    rep.region.peers[2].role = PeerRole::Voter;
    assert_eq!(world.plan(&rep, &[], 100), None);
    rep.region.peers.push(learner(101, 3));
    assert_eq!(world.plan(&rep, &[], 100), Some(Operator::RemovePeer(learner(101, 3))));
}

#[test]
fn a_full_store_gets_no_more_snapshots() {
    let world = World::new(1, &[("a", "z", 1)]);
    let r = region(1, b"b", b"c", 1);
    let pending = HashMap::from([(StoreId(4), world.config.pending_max)]);
    let view = View {
        config: &world.config,
        stores: &world.stores,
        rules: &world.rules,
        replicas: &HashMap::new(),
        pending: &pending,
        spare: PeerId(9),
    };
    assert_eq!(plan(&view, &report(&r, 0)), None);
}

/// A generator of numbers that needs no crate.
struct Seed(u64);

impl Seed {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A key near the middle of a range whose keys are short.
fn middle(range: &KeyRange) -> Vec<u8> {
    let number = |key: &[u8]| {
        let mut bytes = [0; 16];
        bytes[..key.len()].copy_from_slice(key);
        u128::from_be_bytes(bytes)
    };
    let end = if range.end.is_empty() { u128::MAX } else { number(&range.end) };
    let start = number(&range.start);
    (start + (end - start) / 2).to_be_bytes().to_vec()
}

/// A cluster that does what it is told at once.
fn obey(world: &World, regions: &mut Vec<(Region, u64)>, at: usize, op: Operator, next: &mut u64) {
    let (mut r, bytes) = regions.remove(at);
    let keys = match op {
        Operator::AddLearner(peer) => {
            assert!(r.peer_on(peer.store).is_none(), "one replica a store");
            r.peers.push(peer);
            vec![]
        }
        Operator::AddVoter(peer) => {
            let known = r.peers.iter_mut().find(|p| p.id == peer.id).expect("was a learner");
            assert_eq!(world.stores[&peer.store].kind, StoreKind::Row, "columns never vote");
            *known = peer;
            vec![]
        }
        Operator::RemovePeer(peer) => {
            assert_eq!(peer.role, PeerRole::Learner, "never a voter here");
            r.peers.retain(|p| p.id != peer.id);
            vec![]
        }
        Operator::TransferLeader(_) => panic!("not planned"),
        Operator::Split => vec![middle(&r.range)],
        Operator::SplitAt(keys) => keys,
    };
    r.epoch.conf_ver += 1;
    let parts = keys.len() as u64 + 1;
    for key in keys {
        assert!(r.range.contains(&key) && key != r.range.start);
        *next += 20;
        let mut left = r.clone();
        left.id = damask_types::RegionId(*next);
        left.range.end = key.clone();
        left.peers.iter_mut().zip(*next + 1..).for_each(|(p, id)| p.id = PeerId(id));
        r.range.start = key;
        regions.push((left, bytes / parts));
    }
    regions.push((r, bytes / parts));
}

#[test]
fn every_start_reaches_a_fixed_point() {
    for seed in 1..=300u64 {
        let mut chance = Seed(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let letters = ["", "b", "d", "f", "h", "k", "p", "t", "x", ""];
        let cut = 1 + chance.below(7) as usize;
        let rules = [
            (letters[cut], letters[cut + 1], 1 + chance.below(3) as u32),
            (letters[cut + 1], letters[9], chance.below(2) as u32 + 1),
        ];
        let rules = if chance.below(4) == 0 { &rules[..1] } else { &rules[..] };
        let world = World::new(chance.below(4), rules);
        let mut first = region(1, b"", b"", 1);
        first.peers.truncate(1 + chance.below(3) as usize);
        for store in 3..6 {
            if chance.below(2) == 0 && first.peer_on(StoreId(store)).is_none() {
                first.peers.push(learner(900 + store, store));
            }
        }
        let mut regions = vec![(first, chance.below(20_000))];
        let mut next = 1000;
        let mut steps = 0;
        loop {
            let all: Vec<Region> = regions.iter().map(|(r, _)| r.clone()).collect();
            let step = regions.iter().enumerate().find_map(|(i, (r, bytes))| {
                world.plan(&report(r, *bytes), &all, next).map(|op| (i, op))
            });
            let Some((i, op)) = step else { break };
            next += 20;
            obey(&world, &mut regions, i, op, &mut next);
            steps += 1;
            assert!(steps < 1000, "seed {seed}: no fixed point");
        }
        let columns = world.stores.len() as u64 - 3;
        for (r, bytes) in &regions {
            let on_columns = r.peers.iter().filter(|p| p.store.0 > 3).count() as u64;
            let known =
                r.peers.iter().filter(|p| p.store.0 > 3 && p.store.0 <= 3 + columns).count();
            let wanted = u64::from(column_replicas(&world.rules, &r.range)).min(columns);
            assert_eq!(known as u64, wanted, "seed {seed} {r:?}");
            assert!(on_columns >= wanted && *bytes <= 1024, "seed {seed}");
            assert_eq!(r.voters().count(), 3, "seed {seed}");
        }
    }
}
