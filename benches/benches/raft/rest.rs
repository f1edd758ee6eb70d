//! What regions cost in which nothing happens, and for how long a region takes no writes: after it
//! was split, and after its leader was lost. It must never end a wait before a write was
//! acknowledged.

use crate::cluster::{Cluster, FIRST, Setup, child};
use crate::{Run, be_child};
use damask_benches::measure::{Spread, Stopwatch};
use damask_benches::report::{Line, Target};
use damask_benches::{Error, machine};
use damask_raftstore::{Store, StoreConfig};
use damask_types::RegionId;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// Set in a child process that is to be stores with idle regions: how many, `awake` or `asleep`,
/// and its folder.
pub const CHILD: &str = "DAMASK_BENCH_RAFT_IDLE";
/// Percent of a core for 1,000 idle regions.
const CORE_TARGET: f64 = 10.0;
/// MiB for the same.
const MEMORY_TARGET: f64 = 300.0;
/// Milliseconds without writes after a split.
const SPLIT_TARGET: f64 = 20.0;
/// Election timeouts without writes after a leader was lost.
const ELECTIONS_TARGET: f64 = 3.0;

fn config(asleep: bool, tick: Duration) -> StoreConfig {
    let mut config = StoreConfig { tick, ..StoreConfig::default() };
    config.core.hibernate_regions = asleep;
    config
}

/// Waits until every replica sleeps.
fn fall_asleep(cluster: &Cluster) -> Result<(), Error> {
    let asleep = |store: &Store| store.handle().replicas().iter().all(|r| r.hibernating);
    cluster.wait("sleep", || cluster.stores.iter().all(asleep).then_some(()))
}

/// The child: three stores with idle regions, until its standard input ends.
pub fn be_idle(what: &str) -> Result<(), Error> {
    let mut words = what.splitn(3, ' ');
    let mut word = || words.next().ok_or_else(|| format!("{CHILD}: {what}: too short"));
    let (regions, asleep, folder) = (word()?.parse()?, word()? == "asleep", word()?);
    let config = config(asleep, StoreConfig::default().tick);
    let setup = Setup { config, ..Setup::default() };
    let cluster = Cluster::start(Path::new(folder), &setup, Stopwatch::default())?;
    cluster.split_into(regions)?;
    if asleep {
        fall_asleep(&cluster)?;
    }
    println!("ready");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// What a process of idle regions takes.
struct Idle {
    /// Percent of a core.
    core: Vec<f64>,
    mib: Vec<f64>,
}

impl Run {
    fn idle_child(&self, regions: u64, asleep: bool) -> Result<Idle, Error> {
        let folder = self.folder("raft-idle")?;
        let how = if asleep { "asleep" } else { "awake" };
        let what = format!("{regions} {how} {}", folder.path().display());
        be_child(std::env::current_exe()?, (CHILD, &what), |id, _| {
            let mut idle = Idle { core: Vec::new(), mib: Vec::new() };
            for _ in 0..self.arguments.pick(3, 1) {
                let start = (machine::processor_seconds(id)?, self.stopwatch.elapsed());
                std::thread::park_timeout(self.arguments.pick(4, 1) * self.slice());
                let spent = machine::processor_seconds(id)? - start.0;
                let passed = (self.stopwatch.elapsed() - start.1).as_secs_f64();
                idle.core.push(100.0 * spent / passed);
                idle.mib.push(machine::resident_mib(id)?);
            }
            Ok(idle)
        })
    }

    pub(crate) fn idle(&self) -> Result<(), Error> {
        let count = self.arguments.pick(1000, 20);
        let (awake, asleep) = (self.idle_child(count, false)?, self.idle_child(count, true)?);
        let alone = self.idle_child(1, false)?;
        let line = |name: &str, values: &[f64]| Line::new(name, Spread::of(values));
        let peers = |of: fn(&Idle) -> &[f64]| {
            [
                line("hibernate_regions = false: awake", of(&awake)),
                line("peer: one region, awake", of(&alone)),
            ]
        };
        let title = format!(
            "raft-idle: {count} regions on three stores in a process of their own, as they are by \
             default: asleep"
        );
        let target = Some(Target::AtMost(CORE_TARGET));
        self.show(&title, "% core", line("asleep", &asleep.core), target, &peers(|i| &i.core));
        let target = Some(Target::AtMost(MEMORY_TARGET));
        self.show(&title, "MiB", line("asleep", &asleep.mib), target, &peers(|i| &i.mib));
        Ok(())
    }

    /// What the same put takes while nothing happens: the machine's share of a gap.
    fn single_puts(&self, cluster: &Cluster, count: u64) -> Result<Line, Error> {
        let mut gaps = Vec::new();
        for _ in 0..count {
            let (put, seconds) = self.stopwatch.time(|| cluster.put_by_anyone(FIRST, b"z"));
            put?;
            gaps.push(seconds * 1e3);
        }
        Ok(Line::new("peer: one put while nothing happens", Spread::of(&gaps)))
    }

    /// From the split's answer until a put into the new region is acknowledged.
    pub(crate) fn split_gap(&self) -> Result<(), Error> {
        let folder = self.folder("raft-split")?;
        let cluster = Cluster::start(folder.path(), &Setup::default(), self.stopwatch)?;
        cluster.put_by_anyone(FIRST, b"z")?;
        let count = self.arguments.pick(50, 3);
        let peer = self.single_puts(&cluster, count)?;
        let mut gaps = Vec::new();
        while (gaps.len() as u64) < count {
            let n = gaps.len() as u64;
            let (id, at) = (5000 + n, format!("w-{n:06}"));
            let key = format!("{at}b").into_bytes();
            if !cluster.split(vec![key], vec![child(id)])? {
                continue;
            }
            let first = format!("{at}a");
            let put = || cluster.put_by_anyone(RegionId(id), first.as_bytes());
            let (put, seconds) = self.stopwatch.time(put);
            put?;
            gaps.push(seconds * 1e3);
        }
        let ours = Line::new("until the first put into a child", Spread::of(&gaps));
        let title = "raft-split: time without a leader after a split";
        self.show(title, "ms", ours, Some(Target::AtMost(SPLIT_TARGET)), &[peer]);
        Ok(())
    }

    /// From when the leader's store is cut off until somebody acknowledges a put.
    fn leader_gaps(&self, asleep: bool, tick: Duration) -> Result<Vec<f64>, Error> {
        let folder = self.folder("raft-leader")?;
        let setup = Setup { config: config(asleep, tick), ..Setup::default() };
        let cluster = Cluster::start(folder.path(), &setup, self.stopwatch)?;
        let mut gaps = Vec::new();
        for _ in 0..self.arguments.pick(11, 1) {
            cluster.put_by_anyone(FIRST, b"z")?;
            if asleep {
                fall_asleep(&cluster)?;
            }
            let lost = cluster.leader(FIRST)?.1.id();
            let (put, seconds) = self.stopwatch.time(|| {
                cluster.network.isolate(lost);
                cluster.put_by_anyone(FIRST, b"z")
            });
            put?;
            gaps.push(seconds);
            cluster.network.rejoin(lost);
            let leads = |store: &&Store| {
                store.handle().replica(FIRST).is_some_and(|status| status.is_leader)
            };
            let one = || (cluster.stores.iter().filter(leads).count() == 1).then_some(());
            cluster.wait("one leader", one)?;
        }
        Ok(gaps)
    }

    pub(crate) fn leader_gap(&self) -> Result<(), Error> {
        let config = StoreConfig::default();
        let tick = self.arguments.pick(config.tick, config.tick / 5);
        let election: Duration = tick * config.core.raft.election_ticks as u32;
        let line = |name: &str, gaps: Vec<f64>| {
            Line::new(name, Spread::of(&gaps).scaled(1.0 / election.as_secs_f64()))
        };
        let asleep = line("asleep, the default", self.leader_gaps(true, tick)?);
        let awake = line("awake", self.leader_gaps(false, tick)?);
        let title = format!(
            "raft-leader: time without writes after a leader is lost, in election timeouts of \
             {} ms",
            election.as_millis()
        );
        self.show(&title, "x", asleep, Some(Target::AtMost(ELECTIONS_TARGET)), &[awake]);
        Ok(())
    }
}
