//! The planner as a function, by golden scripts: a cluster in a few lines, and what is planned. The
//! scripts are in `tests/scripts`; `UPDATE_SCRIPTS=1` writes the answers anew, to be read in review.
//!
//! ```text
//! config merge=true voters=1            aims that differ from the defaults, and merge=false
//! store 1 row host=a drain silent=40    kind, labels, what it is meant to do, seconds of silence;
//!                                       failed: it says so itself
//! rule b..d 2                           column rule
//! region 1 a..c 1* 2 3p 101l bytes=5    peers by store: * leads, p has not caught up, l learns;
//!                                       merging: its neighbour is about to take it in
//! running transfer 1 2                  an order that is in flight
//! plan | check 1 | order move 1 3 4     what to ask; the answer follows after ----
//! ```

use crate::config::Config;
use crate::operator::Operator;
use crate::orders::operator_for;
use crate::planner::{check_region, plan};
use crate::regions::RegionMap;
use crate::values::*;
use crate::view::{RegionFacts, View, count};
use damask_types::{Epoch, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, StoreId};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::Path;

/// Long after the start.
const NOW_MS: u64 = 10_000_000;

#[derive(Default)]
struct World {
    config: Config,
    stores: BTreeMap<StoreId, StoreInfo>,
    settings: BTreeMap<StoreId, StoreSettings>,
    reports: BTreeMap<StoreId, (u64, StoreReport)>,
    rules: BTreeMap<Vec<u8>, ColumnRule>,
    regions: RegionMap<RegionFacts>,
    loads: HashMap<StoreId, Load>,
    running: BTreeMap<RegionId, Operator>,
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("{word}: a number is expected"))
}

fn range(word: &str) -> KeyRange {
    let (start, end) = word.split_once("..").expect("start..end");
    KeyRange::new(start, end)
}

impl World {
    fn view(&self) -> View<'_> {
        View {
            config: &self.config,
            now_ms: NOW_MS,
            started_ms: Some(0),
            stores: &self.stores,
            settings: &self.settings,
            reports: &self.reports,
            rules: &self.rules,
            regions: &self.regions,
            loads: &self.loads,
            running: &self.running,
        }
    }

    fn aims(&mut self, words: &[&str]) {
        for word in words {
            let (name, value) = word.split_once('=').expect("name=value");
            let config = &mut self.config;
            match name {
                "merge" => config.merge = value == "true",
                "voters" => config.voters = number(value) as usize,
                "bytes" => config.region_bytes_max = number(value),
                "merge_bytes" => config.merge_bytes_max = number(value),
                "keys" => config.region_keys_max = number(value),
                "by_load" => config.split_by_load = value == "true",
                "hot" => config.hot_flow = number(value),
                "leaders" => config.leader_tolerance = number(value),
                "pending" => config.pending_max = number(value) as usize,
                _ => panic!("no aim {name}"),
            }
        }
    }

    fn store(&mut self, words: &[&str]) {
        let id = StoreId(number(words[0]));
        let kind = if words[1] == "row" { StoreKind::Row } else { StoreKind::Column };
        self.stores.insert(id, StoreInfo { id, kind, address: String::new() });
        let mut settings = StoreSettings::default();
        let mut report = StoreReport { store: id, capacity: 100, available: 50, failed: false };
        let mut seen = NOW_MS;
        for word in &words[2..] {
            match (*word, word.split_once('=')) {
                ("drain", _) => settings.intent = Intent::Drain,
                ("evict", _) => settings.intent = Intent::Evict,
                ("failed", _) => report.failed = true,
                (_, Some(("silent", seconds))) => seen -= number(seconds) * 1000,
                (_, Some(("free", percent))) => report.available = number(percent),
                (_, Some((name, value))) => {
                    settings.labels.insert(name.to_owned(), value.to_owned());
                }
                _ => panic!("store: {word}"),
            }
        }
        self.settings.insert(id, settings);
        self.reports.insert(id, (seen, report));
    }

    fn region(&mut self, words: &[&str]) {
        let id = RegionId(number(words[0]));
        let epoch = Epoch { conf_ver: 1, version: 1 };
        let mut region = Region { id, range: range(words[1]), epoch, peers: Vec::new() };
        let mut facts = RegionFacts { term: 5, ..RegionFacts::default() };
        for word in &words[2..] {
            match word.split_once('=') {
                Some(("bytes", n)) => facts.bytes = number(n),
                Some(("keys", n)) => facts.keys = number(n),
                Some(("split", key)) => facts.split_key = Some(key.as_bytes().to_vec()),
                Some(("read", n)) => facts.flow.read = number(n),
                Some(("write", n)) => facts.flow.write = number(n),
                Some(("since", seconds)) => facts.since_ms = NOW_MS - number(seconds) * 1000,
                Some(_) => panic!("region: {word}"),
                None if *word == "merging" => facts.merging = true,
                None if *word == "unsplittable" => facts.unsplittable = true,
                None => {
                    let store = number(word.trim_end_matches(['*', 'p', 'l']));
                    let role = if word.contains('l') { PeerRole::Learner } else { PeerRole::Voter };
                    let peer =
                        Peer { id: PeerId(id.0 * 1000 + store), store: StoreId(store), role };
                    region.peers.push(peer);
                    facts.leader = facts.leader.or(word.contains('*').then_some(peer));
                    facts.pending.extend(word.contains('p').then_some(peer.id));
                }
            }
        }
        let weight = self.view().weight(&facts);
        count(&mut self.loads, &region, &facts, weight, 1);
        self.regions.put(region, facts).expect("regions do not overlap");
    }

    fn order(&self, words: &[&str]) -> crate::Result<Operator> {
        let region = RegionId(number(words[1]));
        let store = |at: usize| StoreId(number(words[at]));
        let order = match words[0] {
            "split" => {
                let keys = words[2..].iter().map(|key| key.as_bytes().to_vec()).collect();
                Order::Split { region, keys }
            }
            "transfer" => Order::Transfer { region, to: store(2) },
            "move" => Order::Move { region, from: store(2), to: store(3) },
            "merge" => Order::Merge { region, into: RegionId(number(words[2])) },
            other => panic!("no order {other}"),
        };
        operator_for(&self.view(), &order)
    }

    fn line(&mut self, line: &str, out: &mut String) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((command, rest)) = words.split_first() else { return };
        let mut answer = |text: String| writeln!(out, "{text}").expect("a string takes all");
        match *command {
            "#" => {}
            "config" => self.aims(rest),
            "store" => self.store(rest),
            "rule" => {
                let rule = ColumnRule { range: range(rest[0]), replicas: number(rest[1]) as u32 };
                self.rules.insert(rule.range.start.clone(), rule);
            }
            "region" => self.region(rest),
            "running" => {
                let operator = self.order(rest).expect("it can be ordered");
                self.running.insert(operator.region, operator);
            }
            "plan" => {
                let planned = plan(&self.view(), 0);
                planned.iter().for_each(|operator| answer(operator.to_string()));
                if planned.is_empty() {
                    answer("nothing".to_owned());
                }
            }
            "check" => {
                let id = RegionId(number(rest[0]));
                let (region, facts) = self.regions.get(id).expect("a region");
                let found = check_region(&self.view(), region, facts);
                answer(found.map_or("nothing".to_owned(), |operator| operator.to_string()));
            }
            "order" => answer(match self.order(rest) {
                Ok(operator) => operator.to_string(),
                Err(e) => format!("refused: {e}"),
            }),
            other => panic!("no command {other}"),
        }
    }
}

/// Cases are parted by empty lines; each begins with a new world.
fn run(text: &str) -> String {
    let mut out = String::new();
    for case in text.split("\n\n").filter(|case| !case.trim().is_empty()) {
        let (mut world, mut answers) = (World::default(), String::new());
        // Else every case of small regions would be one of merges.
        world.config.merge = false;
        for line in case.lines().take_while(|line| *line != "----") {
            writeln!(out, "{line}").expect("a string takes all");
            world.line(line, &mut answers);
        }
        writeln!(out, "----\n{answers}").expect("a string takes all");
    }
    out.trim_end().to_owned() + "\n"
}

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .expect("the scripts")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    names.sort();
    assert!(names.len() >= 4, "{names:?}");
    for name in names {
        let text = std::fs::read_to_string(&name).expect("UTF-8");
        let found = run(&text);
        if std::env::var_os("UPDATE_SCRIPTS").is_some() {
            std::fs::write(&name, found).expect("written");
        } else {
            assert_eq!(found, text, "{}", name.display());
        }
    }
}
