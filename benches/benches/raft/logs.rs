//! The log stores alone: so many regions get an entry each, then one sync, as a store does each
//! turn. It measures nothing of Raft, and must never give two stores other entries.
//!
//! Each region's log is compacted to its last hundred entries every hundred, and purged, as in a
//! store at work; that is in the bytes and not in the times. Bytes are those handed to the system
//! by calls of `write`; what the disk did is counted by its driver, for the whole machine.

use crate::{Run, backends};
use damask_benches::measure::Spread;
use damask_benches::report::{Line, Target};
use damask_benches::{Error, machine};
use damask_raftstore::{Applied, LogBatch, LogEntry, LogOp, LogStore};
use damask_types::RegionId;
use std::path::Path;
use std::sync::Arc;

/// Regions in a turn.
const REGIONS: [u64; 3] = [1, 16, 256];
/// Bytes of each entry: a put of 100 bytes, encoded, is one of about 150.
const ENTRY_BYTES: usize = 200;
/// Entries of a region between two compactions, and kept by one.
const KEPT: u64 = 100;
/// Turns before the first that is counted.
const WARM_UP: u64 = 100;
/// Turns of one store before those of the next.
const TURNS: u64 = 10;

/// Of one store in one round.
struct Figures {
    /// Entries per second, synced.
    rate: f64,
    /// Microseconds, half of the turns took less.
    median: f64,
    /// Bytes written for each entry.
    bytes: f64,
    /// For each sync: writes of the disk, KiB, flushes of its cache.
    disk: [f64; 3],
}

/// What the regions get in a turn: half of an entry is the same for all, half is its own.
fn batch(regions: u64, turn: u64, mixed: &mut u64) -> LogBatch {
    let mut entry = |_| {
        let mut data = vec![7u8; ENTRY_BYTES];
        for byte in &mut data[ENTRY_BYTES / 2..] {
            *mixed = mixed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (*mixed >> 56) as u8;
        }
        LogEntry { index: turn, term: 1, data, ..LogEntry::default() }
    };
    (1..=regions).map(|id| (RegionId(id), LogOp::Append(vec![entry(id)]))).collect()
}

fn compaction(regions: u64, to: u64) -> LogBatch {
    let to = Applied { index: to, term: 1 };
    (1..=regions).map(|id| (RegionId(id), LogOp::CompactTo(to))).collect()
}

/// A store that gets its turns.
struct Racer {
    store: Arc<dyn LogStore>,
    mixed: u64,
    turn: u64,
    /// Seconds of each turn that counts.
    seconds: Vec<f64>,
    /// Of those turns.
    bytes: u64,
    disk: [u64; 3],
}

impl Racer {
    fn open(name: &str, folder: &Path) -> Result<Racer, Error> {
        let store = backends::open(name, folder)?;
        let (mixed, seconds) = (0x9E37_79B9_7F4A_7C15, Vec::new());
        Ok(Racer { store, mixed, turn: 0, seconds, bytes: 0, disk: [0; 3] })
    }

    /// Some turns, of which those after the first [`WARM_UP`] count.
    fn run(&mut self, run: &Run, folder: &Path, regions: u64, turns: u64) -> Result<(), Error> {
        let counts = self.turn >= WARM_UP;
        let before = machine::writes(folder)?;
        for _ in 0..turns {
            self.turn += 1;
            let batch = batch(regions, self.turn, &mut self.mixed);
            let (done, took) = run.stopwatch.time(|| {
                self.store.append(batch)?;
                self.store.sync()
            });
            done?;
            if counts {
                self.seconds.push(took);
            }
            if self.turn.is_multiple_of(KEPT) && self.turn > KEPT {
                self.store.append(compaction(regions, self.turn - KEPT))?;
                self.store.purge()?;
            }
        }
        if counts {
            let written = machine::writes(folder)?.since(&before);
            self.bytes += written.bytes;
            self.disk.iter_mut().zip(written.disk).for_each(|(sum, count)| *sum += count);
        }
        Ok(())
    }

    fn figures(&self, regions: u64) -> Figures {
        let syncs = self.seconds.len() as f64;
        Figures {
            rate: syncs * regions as f64 / self.seconds.iter().sum::<f64>(),
            median: Spread::of(&self.seconds).median * 1e6,
            bytes: self.bytes as f64 / (syncs * regions as f64),
            disk: self.disk.map(|count| count as f64 / syncs),
        }
    }
}

impl Run {
    /// One round: all stores at once, some turns of one and then of the next, so that whatever else
    /// the disk has to do meets all of them alike. Who begins changes.
    fn round(&self, regions: u64) -> Result<Vec<Figures>, Error> {
        let folder = self.folder("raft-logs")?;
        let open = |name: &&str| Racer::open(name, &folder.path().join(name));
        let mut racers = backends::NAMES.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let (count, time) = (racers.len(), self.slice().as_secs_f64() * racers.len() as f64);
        let spent = |racers: &[Racer]| racers.iter().flat_map(|r| &r.seconds).sum::<f64>();
        let mut first = 0;
        while spent(&racers) < time {
            for at in 0..count {
                racers[(first + at) % count].run(self, folder.path(), regions, TURNS)?;
            }
            first += 1;
        }
        Ok(racers.iter().map(|racer| racer.figures(regions)).collect())
    }

    /// Rounds, by store.
    fn race(&self, regions: u64) -> Result<Vec<Vec<Figures>>, Error> {
        let mut all: Vec<Vec<Figures>> = backends::NAMES.iter().map(|_| Vec::new()).collect();
        for _ in 0..self.arguments.pick(4, 1) {
            for (all, figures) in all.iter_mut().zip(self.round(regions)?) {
                all.push(figures);
            }
        }
        Ok(all)
    }

    pub(crate) fn logs_alone(&self) -> Result<(), Error> {
        for regions in REGIONS {
            let all = self.race(regions)?;
            let line = |at: usize, number: fn(&Figures) -> f64| {
                let numbers: Vec<f64> = all[at].iter().map(number).collect();
                Line::new(backends::NAMES[at], Spread::of(&numbers))
            };
            let lines = |number: fn(&Figures) -> f64| -> (Line, Vec<Line>) {
                (line(0, number), (1..all.len()).map(|at| line(at, number)).collect())
            };
            let of = format!("raft-logs: {regions} regions a sync");
            let (ours, peers) = lines(|f| f.rate);
            self.show(&format!("{of}, entries"), "/s", ours, None, &peers);
            let (ours, peers) = lines(|f| f.median);
            self.show(&format!("{of}, a turn"), "us", ours, None, &peers);
            let (ours, mut peers) = lines(|f| f.bytes);
            peers.retain(|peer| peer.spread.median > 0.0);
            self.show(&format!("{of}, written for an entry"), "bytes", ours, None, &peers);
            self.beside_raft_engine(&of, &all);
            for (name, figures) in backends::NAMES.iter().zip(&all) {
                let [writes, kib, flushes] = figures[figures.len() / 2].disk;
                println!(
                    "  {name:<12} the disk, for each sync: {writes:.2} writes, {kib:.1} KiB, \
                     {flushes:.2} flushes"
                );
            }
            println!();
        }
        Ok(())
    }

    /// The ratios that have targets.
    fn beside_raft_engine(&self, of: &str, all: &[Vec<Figures>]) {
        let Some(at) = backends::NAMES.iter().position(|name| *name == "raft-engine") else {
            return println!("{of}: this build has no raft-engine to compare with\n");
        };
        let ratio = |number: fn(&Figures) -> f64| {
            let pairs = all[0].iter().zip(&all[at]);
            Spread::of(&pairs.map(|(a, b)| number(a) / number(b)).collect::<Vec<f64>>())
        };
        let line = |spread| Line::new("ratio, round by round", spread);
        let target = Some(Target::AtLeast(1.0));
        let title = format!("{of}, times raft-engine's rate");
        self.show(&title, "x", line(ratio(|f| f.rate)), target, &[]);
        let target = Some(Target::AtMost(1.0));
        let title = format!("{of}, times raft-engine's bytes");
        self.show(&title, "x", line(ratio(|f| f.bytes)), target, &[]);
    }
}
