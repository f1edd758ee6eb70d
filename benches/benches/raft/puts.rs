//! The write path: puts by many clients, what each optimisation gains, and what a put costs in
//! syncs; the same over each log store. It must never compare runs that were not alternated.

use crate::cluster::{CLIENTS, Cluster, Done, Setup, VALUE_BYTES};
use crate::{Run, backends};
use damask_benches::Error;
use damask_benches::measure::Spread;
use damask_benches::report::{Line, Target};
use damask_kv::EngineKind;
use damask_raftstore::{StoreConfig, Without};

/// Puts per second that are to be reached.
const PUTS_TARGET: f64 = 10_000.0;
/// Syncs of all three logs for each put.
const SYNCS_TARGET: f64 = 0.1;
/// Times the naive path.
const NAIVE_TARGET: f64 = 3.0;

/// One way to write, and what was measured of it.
struct Way {
    name: String,
    cluster: Cluster,
    done: Vec<Done>,
}

impl Way {
    fn line(&self, number: fn(&Done) -> f64) -> Line {
        let numbers: Vec<f64> = self.done.iter().map(number).collect();
        Line::new(self.name.clone(), Spread::of(&numbers))
    }
}

/// Nobody is to be elected meanwhile: the naive path keeps heartbeats waiting behind hundreds of
/// syncs, for seconds where those are slow.
fn patient() -> StoreConfig {
    let mut config = StoreConfig::default();
    config.core.raft.election_ticks = 200;
    config
}

/// The path with everything, then without one thing at a time, then the naive one.
fn ways() -> Vec<(String, StoreConfig)> {
    let left_out = |without| StoreConfig { without, ..patient() };
    let one_by_one = |mut config: StoreConfig| {
        config.core.raft.inflight_messages = 1;
        config
    };
    let entry_each = |mut config: StoreConfig| {
        config.core.raft.entry_bytes = 0;
        config
    };
    let none = Without::default();
    let all = [
        ("everything", patient()),
        ("without shared entries", entry_each(patient())),
        ("without batching", left_out(Without { batching: true, ..none })),
        ("without sends before the sync", left_out(Without { early_sends: true, ..none })),
        ("without pipelining", one_by_one(patient())),
        ("without a thread that syncs", left_out(Without { log_thread: true, ..none })),
        ("without a thread that applies", left_out(Without { apply_thread: true, ..none })),
        ("naive: without all of these", one_by_one(left_out(Without::EVERYTHING))),
    ];
    all.into_iter().map(|(name, config)| (name.to_owned(), config)).collect()
}

impl Run {
    /// Rounds of puts, the ways by turns; the first round warms up.
    fn by_turns(&self, ways: &mut [Way]) -> Result<(), Error> {
        let time = self.slice();
        for round in 0..=self.arguments.pick(4, 1) {
            for way in &mut *ways {
                let done = way.cluster.puts(time)?;
                if round > 0 {
                    way.done.push(done);
                }
            }
        }
        Ok(())
    }

    fn way(&self, folder: &tempfile::TempDir, name: String, setup: &Setup) -> Result<Way, Error> {
        let folder = folder.path().join(name.replace([' ', ':'], "-"));
        let cluster = Cluster::start(&folder, setup, self.stopwatch)?;
        Ok(Way { name, cluster, done: Vec::new() })
    }

    pub(crate) fn puts(&self) -> Result<(), Error> {
        let folder = self.folder("raft-puts")?;
        let mut ways: Vec<Way> = ways()
            .into_iter()
            .map(|(name, config)| self.way(&folder, name, &Setup { config, ..Setup::default() }))
            .collect::<Result<_, _>>()?;
        let rows = EngineKind::preferred();
        let setup = Setup { rows, config: patient(), ..Setup::default() };
        ways.push(self.way(&folder, format!("everything, rows in {rows}"), &setup)?);
        self.by_turns(&mut ways)?;
        let title =
            format!("raft-puts: three replicas, {CLIENTS} clients, {VALUE_BYTES} bytes, synced");
        let [ours, peers @ ..] = &ways[..] else { return Err("no ways to write".into()) };
        let lines = |number: fn(&Done) -> f64| -> Vec<Line> {
            peers.iter().map(|way| way.line(number)).collect()
        };
        let (rate, target) = (|done: &Done| done.per_second, Target::AtLeast(PUTS_TARGET));
        self.show(&title, "puts/s", ours.line(rate), Some(target), &lines(rate));
        let naive = &ways[ways.len() - 2];
        let pairs = ours.done.iter().zip(&naive.done);
        let ratios: Vec<f64> = pairs.map(|(a, b)| a.per_second / b.per_second).collect();
        let line = Line::new("ratio, round by round", Spread::of(&ratios));
        let target = Some(Target::AtLeast(NAIVE_TARGET));
        self.show("raft-puts: times the naive path", "x", line, target, &[]);
        let (syncs, target) = (|done: &Done| done.syncs, Target::AtMost(SYNCS_TARGET));
        let title = "raft-puts: syncs of all three logs, for each put";
        self.show(title, "syncs", ours.line(syncs), Some(target), &lines(syncs));
        let micros = |done: &Done| done.micros;
        let title = "raft-puts: time on a processor for each put, all stores and the client";
        self.show(title, "us", ours.line(micros), None, &lines(micros));
        Ok(())
    }

    /// The same puts over each log store.
    pub(crate) fn logs_under_the_store(&self) -> Result<(), Error> {
        let folder = self.folder("raft-logs")?;
        let mut ways: Vec<Way> = Vec::new();
        for &log in backends::NAMES {
            let setup = Setup { log, config: patient(), ..Setup::default() };
            ways.push(self.way(&folder, log.to_owned(), &setup)?);
        }
        self.by_turns(&mut ways)?;
        let [ours, peers @ ..] = &ways[..] else { return Err("no log stores".into()) };
        let numbers: [(&str, &str, fn(&Done) -> f64); 3] = [
            ("raft-logs: puts over each log store", "puts/s", |done| done.per_second),
            ("raft-logs: syncs of all three logs, for each put", "syncs", |done| done.syncs),
            ("raft-logs: time on a processor for each put", "us", |done| done.micros),
        ];
        for (title, unit, number) in numbers {
            let lines: Vec<Line> = peers.iter().map(|way| way.line(number)).collect();
            self.show(title, unit, ours.line(number), None, &lines);
        }
        Ok(())
    }
}
