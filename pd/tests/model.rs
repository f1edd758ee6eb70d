//! Properties of planning, on a model cluster in virtual time, by seed: it ends, nothing goes to
//! and fro, no quorum is lost; after faults the cluster is whole again. Nothing here knows how
//! decisions are made.

use damask_pd::testing::model::{Chance, Model};
use damask_pd::{
    ColumnRule, Config, Flow, Intent, Pd, Persist, Placement, StoreInfo, StoreKind, StoreSettings,
};
use damask_types::{KeyRange, Peer, StoreId};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// Seeds of one run of each property.
const SEEDS: u64 = 40;
/// Rounds in which every cluster here is still: far more than any has needed.
const ROUNDS_MAX: usize = 1500;

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Option<Vec<u8>>>>);

impl Persist for Memory {
    fn save(&self, bytes: &[u8]) -> Result<(), String> {
        *self.0.lock().expect("no test panics inside") = Some(bytes.to_vec());
        Ok(())
    }
}

/// A cluster by seed.
struct World {
    model: Model,
    memory: Memory,
    config: Config,
    rows: u64,
    columns: u64,
    hosts: HashMap<StoreId, u64>,
    drained: HashSet<StoreId>,
    rules: Vec<ColumnRule>,
    chance: Chance,
}

fn open(config: &Config, memory: &Memory) -> Arc<dyn Placement> {
    let saved = memory.0.lock().expect("no test panics inside").clone();
    let pd = Pd::open(config.clone(), 7, saved.as_deref(), Box::new(memory.clone()));
    Arc::new(pd.expect("opens"))
}

impl World {
    fn new(seed: u64) -> World {
        let mut chance = Chance::new(seed);
        let config = Config {
            region_bytes_max: 1024,
            region_keys_max: 100,
            split_parts_max: 2 + chance.below(4) as usize,
            merge_bytes_max: 100,
            merge_quiet_ms: 2_000,
            merge: chance.below(2) == 0,
            hot_flow: 300,
            leader_tolerance: 2 + chance.below(4),
            quiet_ms: 2_000,
            down_ms: 20_000,
            warm_up_ms: 5_000,
            pending_max: 1 + chance.below(4) as usize,
            replica_operators_max: 1 + chance.below(16) as usize,
            ..Config::default()
        };
        let memory = Memory::default();
        let pd = open(&config, &memory);
        let (rows, columns) = (3 + chance.below(6), chance.below(4));
        let kinds = (1..=rows).map(|id| (id, StoreKind::Row));
        for (id, kind) in kinds.chain((101..101 + columns).map(|id| (id, StoreKind::Column))) {
            let store = StoreInfo { id: StoreId(id), kind, address: format!("s{id}") };
            pd.register_store(store).expect("registers");
        }
        let mut model = Model::new(pd, seed);
        model.busy_flow = [0, 900][chance.below(2) as usize];
        let mut world = World {
            model,
            memory,
            config,
            rows,
            columns,
            hosts: HashMap::new(),
            drained: HashSet::new(),
            rules: Vec::new(),
            chance,
        };
        world.settings();
        world.rules();
        world.regions();
        world
    }

    fn settings(&mut self) {
        let labelled = self.chance.below(2) == 0;
        let spare = self.rows.saturating_sub(3);
        let leaving = self.chance.below(spare + 1);
        for id in 1..=self.rows {
            // So many hosts that three voters fit, with and without the stores that leave.
            let host = if id <= 6 { id % 3 } else { self.chance.below(5) };
            let mut settings = StoreSettings::default();
            if labelled {
                self.hosts.insert(StoreId(id), host);
                settings.labels.insert("host".to_owned(), host.to_string());
            }
            if id > self.rows - leaving {
                settings.intent = Intent::Drain;
                self.drained.insert(StoreId(id));
            } else if id == 1 && self.chance.below(3) == 0 {
                settings.intent = Intent::Evict;
            }
            self.model.pd.set_store(StoreId(id), settings).expect("sets");
        }
    }

    fn rules(&mut self) {
        let letters = ["b", "d", "f", "h", "k", "p", "t", "x"];
        let mut at = 0;
        while let Some(start) = letters.get(at + self.chance.below(4) as usize) {
            let from = letters.iter().position(|l| l == start).expect("it is one");
            let end = letters.get(from + 1).copied().unwrap_or("");
            let replicas = 1 + self.chance.below(3) as u32;
            let rule = ColumnRule { range: KeyRange::new(*start, end), replicas };
            self.model.pd.set_column_rule(rule.clone()).expect("no overlap");
            self.rules.push(rule);
            at = from + 1;
        }
    }

    fn regions(&mut self) {
        let count = 1 + self.chance.below(30);
        let mut start = Vec::new();
        for at in 0..count {
            let end = if at + 1 == count { Vec::new() } else { vec![b'A' + 2 * at as u8, b'm'] };
            let mut stores: Vec<u64> = (1..=self.rows).collect();
            let voters = if self.chance.below(4) == 0 { 1 + self.chance.below(3) } else { 3 };
            while stores.len() > voters as usize {
                let out = self.chance.below(stores.len() as u64) as usize;
                stores.remove(out);
            }
            let flow = match self.chance.below(4) {
                0 => Flow { read: self.chance.below(1000), write: self.chance.below(1000) },
                _ => Flow { read: self.chance.below(100), write: self.chance.below(100) },
            };
            let bytes = self.chance.below(3) * self.chance.below(1500);
            let keys = self.chance.below(3) * self.chance.below(150);
            self.model.add(KeyRange::new(start, end.clone()), &stores, (bytes, keys), flow);
            start = end;
        }
    }

    fn restart(&mut self) {
        self.model.pd = open(&self.config, &self.memory);
    }

    fn settle(&mut self, seed: u64) -> usize {
        let rounds = self.model.settle(ROUNDS_MAX);
        rounds.unwrap_or_else(|| {
            let operators = self.model.pd.operators();
            panic!("seed {seed}: still not at rest; {operators:#?}")
        })
    }

    /// What the cluster must look like at rest.
    fn check(&self, seed: u64) {
        let mut next = Some(Vec::new());
        let mut regions: Vec<_> = self.model.regions.iter().collect();
        regions.sort_by(|a, b| a.region.range.start.cmp(&b.region.range.start));
        for known in regions {
            let region = &known.region;
            assert_eq!(next.as_ref(), Some(&region.range.start), "seed {seed}: no gap");
            next = (!region.range.end.is_empty()).then(|| region.range.end.clone());
            let context = format!("seed {seed}: {known:?}");
            assert_eq!(region.voters().count(), 3, "{context}");
            assert!(known.bytes <= 1024 && known.keys <= 100, "{context}");
            let flow = known.flow.read + known.flow.write;
            assert!(self.model.busy_flow == 0 || flow <= self.model.busy_flow, "{context}");
            let is_row = |p: &&Peer| p.store.0 < 100;
            assert!(region.learners().all(|p| !is_row(&p)), "{context}");
            let leaves = |p: &Peer| self.drained.contains(&p.store);
            assert!(!region.peers.iter().any(leaves), "{context}");
            let hosts: Vec<u64> =
                region.voters().filter_map(|p| self.hosts.get(&p.store)).copied().collect();
            let distinct: HashSet<u64> = hosts.iter().copied().collect();
            let there: HashSet<u64> = self
                .hosts
                .iter()
                .filter(|(id, _)| !self.drained.contains(id))
                .map(|(_, host)| *host)
                .collect();
            assert!(there.len() < 3 || distinct.len() == hosts.len(), "{context}");
            self.check_columns(&known.region, &context);
        }
        assert_eq!(next, None, "seed {seed}: every key");
        assert_eq!(self.model.pd.regions().len(), self.model.regions.len());
    }

    fn check_columns(&self, region: &damask_types::Region, context: &str) {
        let crossing = |rule: &&ColumnRule| rule.range.intersect(&region.range).is_some();
        let rule = self.rules.iter().find(crossing);
        let wanted = rule.map_or(0, |rule| u64::from(rule.replicas).min(self.columns));
        assert_eq!(region.learners().count() as u64, wanted, "{context}");
        if let Some(rule) = rule {
            assert_eq!(
                rule.range.intersect(&region.range),
                Some(region.range.clone()),
                "{context}"
            );
        }
    }
}

#[test]
fn without_faults_it_comes_to_rest_and_nothing_goes_to_and_fro() {
    let (mut most, mut steps) = (0, 0);
    for seed in 1..=SEEDS {
        let mut world = World::new(seed);
        most = most.max(world.settle(seed));
        world.check(seed);
        steps += world.model.steps;
        let rest = world.model.regions.clone();
        for _ in 0..100 {
            assert_eq!(world.model.round(), 0, "seed {seed}: at rest");
        }
        assert_eq!(format!("{rest:?}"), format!("{:?}", world.model.regions));
    }
    println!("at most {most} rounds, {steps} steps in {SEEDS} clusters");
}

#[test]
fn a_restarted_driver_goes_on_where_it_was() {
    for seed in 1..=SEEDS / 2 {
        let mut world = World::new(seed);
        // What was in flight is forgotten: a replica may be taken back and be wanted again.
        world.model.faultless = false;
        for _ in 0..3 {
            for _ in 0..1 + world.chance.below(20) {
                world.model.round();
            }
            world.restart();
        }
        world.settle(seed);
        world.check(seed);
    }
}

#[test]
fn after_stores_stop_and_come_back_every_region_is_whole() {
    for seed in 1..=SEEDS / 2 {
        let mut world = World::new(seed);
        world.model.faultless = false;
        for _ in 0..4 {
            // One at a time: two are more than three voters bear.
            let store = StoreId(1 + world.chance.below(world.rows));
            world.model.down.insert(store);
            for _ in 0..world.chance.below(120) {
                world.model.round();
            }
            world.model.down.clear();
            for _ in 0..world.chance.below(40) {
                world.model.round();
            }
        }
        world.settle(seed);
        world.check(seed);
        let led = world.model.regions.iter().all(|r| r.leader.is_some());
        assert!(led, "seed {seed}: every region is led");
    }
}

#[test]
fn a_store_that_stays_away_is_replaced() {
    for seed in 1..=SEEDS / 2 {
        let mut world = World::new(seed);
        if world.rows as usize <= 3 + world.drained.len() {
            continue; // nowhere to go
        }
        world.settle(seed);
        world.model.faultless = false;
        let gone = (1..=world.rows).map(StoreId).find(|id| !world.drained.contains(id));
        let gone = gone.expect("some stay");
        world.model.down.insert(gone);
        world.settle(seed);
        // Silence is noticed only after a while.
        for _ in 0..60 {
            world.model.round();
        }
        world.settle(seed);
        for region in &world.model.regions {
            assert!(region.region.peer_on(gone).is_none(), "seed {seed}: {region:?}");
            assert_eq!(region.region.voters().count(), 3, "seed {seed}: {region:?}");
        }
    }
}
