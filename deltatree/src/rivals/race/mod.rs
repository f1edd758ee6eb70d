//! The race: engines behind the seam get the same rows in the same order, are asked the same
//! questions in turn, and every answer is compared with the oracle. It must never time an answer
//! that is wrong, nor leave out a cell that is lost.
//!
//! ```text
//!  workload ─► each engine ─► ladder: 0 .. 20 % updated, every question
//!     │                       cycle:  more updates, sampled every few percent; bytes by cause
//!  oracle ───────────────────► compared          report ◄── medians with their spread
//! ```
//!
//! What is the same for all: rows, order, transactions of 1,000 rows, a sync every 32 of them, each
//! followed by all the maintenance that the engine finds due (its time is in the write rate), one
//! thread that asks, data read once before it is timed: everything is in memory or in the page
//! cache. An engine is one line of [`engines`].

mod lines;
mod questions;
mod report;
#[cfg(test)]
mod tests;
mod workload;

use crate::rivals::{AppendColumns, LsmColumns, LsmConfig};
use crate::store::{ColumnStore, Written};
use crate::tree::{Config, DeltaTree};
use damask_env::{Clock, RealClock, RealDisk};
use questions::Ask;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use workload::{Placement, READABLE, TABLE, UPDATE_ROWS, Workload};

/// What stops a race.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub(super) type Result<T> = std::result::Result<T, Error>;

/// How a race is run.
#[derive(Clone, Debug)]
pub struct RaceConfig {
    /// Rows of the table.
    pub rows: u64,
    /// Percent of the rows updated since the load, ascending.
    pub ladder: Vec<u64>,
    /// Times that each question is timed.
    pub repeats: usize,
    /// Percent of the rows updated in the cycle phase, sampled every `sample_percent`.
    pub cycle_percent: u64,
    /// See `cycle_percent`.
    pub sample_percent: u64,
    /// Percent updated at which other placements of updates are asked about; none: not at all.
    pub placement_ladder: Vec<u64>,
    /// Rows of the column that is summed beside a piece of memory: more than caches hold.
    pub bandwidth_rows: u64,
    /// The table has 20 columns of many types instead of 4 whole numbers.
    pub wide: bool,
    /// Data is kept here while the race runs.
    pub folder: PathBuf,
    /// Engines whose name has one of these in it; none: every engine.
    pub engines: Vec<String>,
    /// Parts of the race: see [`Part`].
    pub parts: Vec<Part>,
    /// Questions whose name has one of these in it; none: every question.
    pub questions: Vec<String>,
    /// Engines of other packages, which race beside those of this one.
    pub guests: Vec<Engine>,
}

/// A part of the race that can be run without the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Clean packs beside a piece of memory.
    Bandwidth,
    /// Reads of now while rows are written.
    Writes,
    /// Updates that are not placed evenly.
    Placed,
    /// Every question after some updates.
    Ladder,
    /// Reads while updates and merges go on, and bytes written by cause.
    Cycle,
}

impl Part {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Part); 5] = [
        ("bandwidth", Part::Bandwidth),
        ("writes", Part::Writes),
        ("placed", Part::Placed),
        ("ladder", Part::Ladder),
        ("cycle", Part::Cycle),
    ];
}

/// What a variable of the environment lists, by commas.
fn list(name: &str) -> Option<Vec<String>> {
    let text = std::env::var(name).ok()?;
    Some(text.split(',').map(str::to_owned).collect())
}

impl RaceConfig {
    /// Two million rows: a few minutes on two cores.
    pub fn full(folder: &Path) -> RaceConfig {
        RaceConfig {
            rows: 2_000_000,
            ladder: vec![0, 1, 5, 10, 20],
            repeats: 5,
            cycle_percent: 75,
            sample_percent: 5,
            placement_ladder: vec![5, 20],
            bandwidth_rows: 8_000_000,
            wide: false,
            folder: folder.to_owned(),
            engines: Vec::new(),
            parts: Part::ALL.map(|(_, part)| part).to_vec(),
            questions: Vec::new(),
            guests: Vec::new(),
        }
    }

    /// Merely to see that every engine answers right.
    pub fn small(folder: &Path) -> RaceConfig {
        RaceConfig {
            rows: 30_000,
            ladder: vec![0, 5, 40], // the last is behind merges, which must keep the past
            repeats: 1,
            cycle_percent: 40,
            sample_percent: 20,
            placement_ladder: vec![20],
            bandwidth_rows: 20_000,
            ..RaceConfig::full(folder)
        }
    }

    /// With what the environment says: `DAMASK_COLUMNS_ROWS`, `DAMASK_COLUMNS_REPEATS`,
    /// `DAMASK_COLUMNS_CYCLE` (percent), `DAMASK_COLUMNS_WIDE` (1: 20 columns), and by commas
    /// `DAMASK_COLUMNS_ENGINES` and `DAMASK_COLUMNS_QUESTIONS` (names), `DAMASK_COLUMNS_PARTS`
    /// (see [`Part`]) and `DAMASK_COLUMNS_LADDER` (percents).
    pub fn from_environment(mut self) -> Result<RaceConfig> {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().map_err(|e| Error::from(format!("{name}: {text}: {e}"))),
            Err(_) => Ok(default),
        };
        self.rows = number("DAMASK_COLUMNS_ROWS", self.rows)?;
        self.repeats = number("DAMASK_COLUMNS_REPEATS", self.repeats as u64)? as usize;
        self.cycle_percent = number("DAMASK_COLUMNS_CYCLE", self.cycle_percent)?;
        self.wide = match number("DAMASK_COLUMNS_WIDE", u64::from(self.wide))? {
            0 => false,
            1 => true,
            other => return Err(format!("DAMASK_COLUMNS_WIDE: {other}: 0 or 1").into()),
        };
        self.engines = list("DAMASK_COLUMNS_ENGINES").unwrap_or(self.engines);
        self.questions = list("DAMASK_COLUMNS_QUESTIONS").unwrap_or(self.questions);
        if let Some(names) = list("DAMASK_COLUMNS_PARTS") {
            self.parts = names.iter().map(|name| part(name)).collect::<Result<_>>()?;
        }
        if let Some(percents) = list("DAMASK_COLUMNS_LADDER") {
            let percents = percents.iter().map(|text| text.parse::<u64>());
            self.ladder = percents.collect::<std::result::Result<_, _>>()?;
        }
        if self.rows < 2000 || self.repeats == 0 {
            return Err("at least 2000 rows and one repeat are needed".into());
        }
        Ok(self)
    }

    fn wants(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    fn asks(&self, question: &str) -> bool {
        self.questions.is_empty() || self.questions.iter().any(|name| question.contains(name))
    }
}

fn part(name: &str) -> Result<Part> {
    let known = Part::ALL.iter().find(|(known, _)| *known == name);
    known.map(|(_, part)| *part).ok_or_else(|| format!("{name} is no part of the race").into())
}

/// How an engine is opened in an empty folder.
pub type Open = fn(&Path) -> std::result::Result<Arc<dyn ColumnStore>, Error>;

/// An engine of the race.
#[derive(Clone, Debug)]
pub struct Engine {
    /// As the report and `DAMASK_COLUMNS_ENGINES` name it.
    pub name: &'static str,
    /// See [`Open`].
    pub open: Open,
    /// Takes no updates: it is loaded anew with every state, as the bound of what is possible.
    pub is_bound: bool,
}

/// Every engine: add a line to add one.
fn engines() -> Vec<Engine> {
    let engine = |name, open: Open| Engine { name, open, is_bound: false };
    vec![
        engine("deltatree", |folder| {
            let disk = Arc::new(RealDisk::open(folder)?);
            Ok(Arc::new(DeltaTree::open(disk, Config::default())?))
        }),
        engine("lsm strong", |folder| Ok(Arc::new(lsm(folder, LsmConfig::default())?))),
        engine("lsm naive", |folder| {
            Ok(Arc::new(lsm(folder, LsmConfig { naive: true, ..LsmConfig::default() })?))
        }),
        Engine {
            name: "append-only",
            open: |_| Ok(Arc::new(AppendColumns::new())),
            is_bound: true,
        },
    ]
}

/// Where the LSMs keep their pages.
pub fn lsm_kind() -> &'static str {
    if cfg!(feature = "rocksdb") { "RocksDB" } else { "memory (built without RocksDB)" }
}

#[cfg(feature = "rocksdb")]
fn lsm(folder: &Path, config: LsmConfig) -> Result<LsmColumns> {
    Ok(LsmColumns::open(folder, config)?)
}

#[cfg(not(feature = "rocksdb"))]
fn lsm(_folder: &Path, config: LsmConfig) -> Result<LsmColumns> {
    Ok(LsmColumns::in_memory(config))
}

/// Seconds of one question to one engine, sorted.
#[derive(Clone, Debug)]
pub(super) struct Times(Vec<f64>);

impl Times {
    fn new(mut seconds: Vec<f64>) -> Times {
        seconds.sort_by(f64::total_cmp);
        Times(seconds)
    }

    pub fn median(&self) -> f64 {
        self.0[(self.0.len() - 1) / 2]
    }

    pub fn ends(&self) -> (f64, f64) {
        (self.0[0], self.0[self.0.len() - 1])
    }
}

/// Times by engine, in the order of the report's engines.
#[derive(Debug)]
pub(super) struct Cell {
    pub question: String,
    pub percent: u64,
    /// `None`: the engine does not hold what was asked for.
    pub times: Vec<Option<Times>>,
}

impl Cell {
    /// Of an engine's times.
    pub fn median(&self, engine: usize) -> Option<f64> {
        self.times[engine].as_ref().map(Times::median)
    }

    /// How many times longer an engine takes than the first.
    pub fn ratio(&self, engine: usize) -> Option<f64> {
        Some(self.median(engine)? / self.median(0)?)
    }
}

/// What was measured of one engine's writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Writes {
    pub load_seconds: f64,
    pub update_seconds: f64,
    /// In the cycle phase.
    pub updated_rows: u64,
    pub written: Written,
    pub disk_bytes: u64,
    /// See [`Workload::live_bytes`].
    pub live_bytes: u64,
    pub memory_bytes: u64,
}

/// All that was measured.
pub struct Report {
    pub(super) rows: u64,
    pub(super) columns: usize,
    pub(super) engines: Vec<&'static str>,
    pub(super) ladder: Vec<Cell>,
    pub(super) cycle: Vec<Cell>,
    /// Cells by placement of the updates.
    pub(super) placed: Vec<(&'static str, Vec<Cell>)>,
    bandwidth: Option<lines::Bandwidth>,
    under_writes: Option<lines::UnderWrites>,
    pub(super) writes: Vec<Writes>,
    pub(super) machine: String,
}

struct Runner {
    engine: Engine,
    folder: PathBuf,
    store: Arc<dyn ColumnStore>,
    writes: Writes,
}

struct Race {
    config: RaceConfig,
    clock: RealClock,
    workload: Workload,
    runners: Vec<Runner>,
}

fn difference(now: Written, before: Written) -> Written {
    Written {
        applied: now.applied - before.applied,
        log: now.log - before.log,
        flush: now.flush - before.flush,
        compaction: now.compaction - before.compaction,
        merge: now.merge - before.merge,
        manifest: now.manifest - before.manifest,
    }
}

impl Race {
    fn seconds<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let start = self.clock.monotonic();
        let value = work()?;
        Ok((value, (self.clock.monotonic() - start).as_secs_f64()))
    }

    fn load(&mut self) -> Result<()> {
        for at in 0..self.runners.len() {
            let store = self.runners[at].store.clone();
            let ((), seconds) = self.seconds(|| self.workload.load(&*store))?;
            self.runners[at].writes.load_seconds = seconds;
        }
        Ok(())
    }

    fn update(&mut self, rows: u64) -> Result<()> {
        let batches = self.workload.transactions(rows);
        for at in 0..self.runners.len() {
            if self.runners[at].engine.is_bound {
                let store = (self.runners[at].engine.open)(&self.config.folder)?;
                self.workload.load(&*store)?;
                self.runners[at].store = store;
                continue;
            }
            let store = self.runners[at].store.clone();
            let ((), seconds) = self.seconds(|| self.workload.apply(&*store, &batches))?;
            self.runners[at].writes.update_seconds += seconds;
        }
        Ok(())
    }

    /// Asks every engine in turn, so that a busy moment hits all; the first round is not timed,
    /// every answer is compared.
    fn cell(&self, name: &str, ask: Ask, percent: u64, ts: u64) -> Result<Cell> {
        let mut times = vec![Vec::new(); self.runners.len()];
        let expected = questions::expected(&self.workload, ask, ts);
        // a bound holds the newest rows alone: of the past it would be timed at another answer
        let holds = |runner: &Runner| ts >= self.workload.now || !runner.engine.is_bound;
        for round in 0..=self.config.repeats {
            for (at, runner) in self.runners.iter().enumerate().filter(|(_, r)| holds(r)) {
                let rows = self.workload.rows();
                let ask = || questions::ask(&*runner.store, ask, rows, ts);
                let (answer, seconds) = self.seconds(ask)?;
                if answer != expected {
                    let name = format!("{}: {name} at {percent} %", runner.engine.name);
                    return Err(format!("{name}: {answer:?}, not {expected:?}").into());
                }
                if round > 0 {
                    times[at].push(seconds);
                }
            }
        }
        let times = times.into_iter().zip(&self.runners);
        let times = times.map(|(times, runner)| holds(runner).then(|| Times::new(times))).collect();
        Ok(Cell { question: name.to_owned(), percent, times })
    }

    fn ladder(&mut self) -> Result<Vec<Cell>> {
        let mut cells = Vec::new();
        for percent in self.config.ladder.clone() {
            let target = self.workload.rows() * percent / 100;
            self.update(target.saturating_sub(self.workload.updated))?;
            let more: &[_] = if self.config.wide { &questions::WIDE } else { &[] };
            let asked = questions::ALL.iter().chain(more);
            for (name, ask) in asked.filter(|(name, _)| self.config.asks(name)) {
                cells.push(self.cell(name, *ask, percent, u64::MAX)?);
            }
            if percent > 0 {
                let name = format!("Q2, {} rows ago", READABLE * UPDATE_ROWS);
                if self.config.asks(&name) {
                    cells.push(self.cell(&name, Ask::Sum, percent, self.workload.oldest())?);
                }
            }
        }
        Ok(cells)
    }

    fn cycle(&mut self) -> Result<Vec<Cell>> {
        let before: Vec<Written> = self.runners.iter().map(|r| r.store.written()).collect();
        self.runners.iter_mut().for_each(|runner| runner.writes.update_seconds = 0.0);
        let (mut cells, mut done) = (Vec::new(), 0);
        while done < self.config.cycle_percent {
            let step = self.config.sample_percent.min(self.config.cycle_percent - done);
            let rows = self.workload.rows() * step / 100;
            self.update(rows)?;
            done += step;
            for runner in &mut self.runners {
                runner.writes.updated_rows += rows;
            }
            for (name, ask) in [("Q2 sum(k)", Ask::Sum), ("Q3 four columns", Ask::Four)] {
                cells.push(self.cell(name, ask, done, u64::MAX)?);
            }
        }
        let live_bytes = self.workload.live_bytes();
        for (runner, before) in self.runners.iter_mut().zip(before) {
            let stats = runner.store.stats(TABLE)?;
            if !runner.engine.is_bound {
                runner.writes.written = difference(runner.store.written(), before);
            }
            // what an engine says leaves out its log and its garbage
            let files = bytes_in(&runner.folder)?;
            runner.writes.disk_bytes = if files > 0 { files } else { stats.disk_bytes };
            runner.writes.live_bytes = live_bytes;
            runner.writes.memory_bytes = stats.memory_bytes;
        }
        Ok(cells)
    }
}

/// Cores and load, in one line.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    format!("{cores} cores, load average {} at the start, one thread asks", load.join(" "))
}

/// Of all files in a folder and those in it. A file that goes meanwhile is not counted.
fn bytes_in(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path())?,
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        };
    }
    Ok(bytes)
}

/// Every wanted engine in a folder of its own.
fn runners(config: &RaceConfig, name: &str) -> Result<Vec<Runner>> {
    let wanted = |engine: &Engine| {
        let names = &config.engines;
        names.is_empty() || names.iter().any(|name| engine.name.contains(name.as_str()))
    };
    let mut runners = Vec::new();
    let all = engines().into_iter().chain(config.guests.iter().cloned());
    for (number, engine) in all.filter(wanted).enumerate() {
        let folder = config.folder.join(name).join(number.to_string());
        std::fs::create_dir_all(&folder)?;
        let store = (engine.open)(&folder)?;
        runners.push(Runner { engine, folder, store, writes: Writes::default() });
    }
    Ok(runners)
}

impl Race {
    fn new(config: &RaceConfig, placement: Placement) -> Result<Race> {
        let workload = Workload::new(config.rows, placement);
        Ok(Race {
            config: config.clone(),
            clock: RealClock::default(),
            workload: if config.wide { workload.wide() } else { workload },
            runners: runners(config, placement.name())?,
        })
    }

    /// A few cells, to be compared with those of evenly placed updates.
    fn placed(mut self) -> Result<Vec<Cell>> {
        self.load()?;
        let mut cells = Vec::new();
        for percent in self.config.placement_ladder.clone() {
            let target = self.workload.rows() * percent / 100;
            self.update(target.saturating_sub(self.workload.updated))?;
            for (name, ask) in questions::PLACED.iter().filter(|(n, _)| self.config.asks(n)) {
                cells.push(self.cell(name, *ask, percent, u64::MAX)?);
            }
        }
        Ok(cells)
    }
}

/// Runs a race. A wrong answer is an error.
pub fn run(config: RaceConfig) -> Result<Report> {
    let machine = machine();
    let wants = |part| config.wants(part);
    let bandwidth = wants(Part::Bandwidth).then(|| lines::bandwidth(&config)).transpose()?;
    let under_writes = wants(Part::Writes).then(|| lines::under_writes(&config)).transpose()?;
    let mut placed = Vec::new();
    for placement in [Placement::Zipf, Placement::Newest] {
        if wants(Part::Placed) && !config.placement_ladder.is_empty() {
            placed.push((placement.name(), Race::new(&config, placement)?.placed()?));
        }
    }
    let mut race = Race::new(&config, Placement::Uniform)?;
    if wants(Part::Ladder) || wants(Part::Cycle) {
        race.load()?;
    }
    let ladder = if wants(Part::Ladder) { race.ladder()? } else { Vec::new() };
    let cycle = if wants(Part::Cycle) { race.cycle()? } else { Vec::new() };
    Ok(Report {
        rows: race.workload.rows(),
        columns: race.workload.columns,
        engines: race.runners.iter().map(|runner| runner.engine.name).collect(),
        ladder,
        cycle,
        placed,
        bandwidth,
        under_writes,
        writes: race.runners.into_iter().map(|runner| runner.writes).collect(),
        machine,
    })
}
