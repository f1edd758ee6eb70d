//! Timestamps from the oracle of the placement driver's group, three members with logs that are
//! synced, beside the oracle of one process with a bound in a file. It must never take one that is
//! not above those before.

use crate::Run;
use damask_benches::Error;
use damask_benches::measure::Spread;
use damask_benches::report::Line;
use damask_env::{Disk, RealClock, RealDisk};
use damask_pd_group::member::open_log;
use damask_pd_group::{Led, Member, Options, Registers, make};
use damask_raftstore::StoreConfig;
use damask_raftstore::testing::LocalNetwork;
use damask_tso::{LocalOracle, Oracle};
use damask_types::{StoreId, Timestamp};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

const MEMBERS: u64 = 3;
/// Until a member leads.
const WAIT: Duration = Duration::from_secs(60);
/// Calls between two looks at the time.
const CALLS: u32 = 100;

/// What calls of one timestamp each took.
struct Calls {
    per_second: f64,
    /// Microseconds: half took less, one in a hundred took more, and the longest.
    median: f64,
    late: f64,
    worst: f64,
}

/// A running group, and who leads it.
struct Group {
    members: Vec<Member>,
    led: Led,
}

impl Group {
    fn start(folder: &Path) -> Result<Group, Error> {
        let open = |n: u64| -> Result<Arc<dyn Disk>, Error> {
            Ok(Arc::new(RealDisk::open(folder.join(n.to_string()))?))
        };
        let disks = (1..=MEMBERS).map(open).collect::<Result<Vec<_>, _>>()?;
        make(&disks)?;
        let (network, (sender, leaders)) = (LocalNetwork::new(), channel());
        let mut members = Vec::new();
        // The first asks for votes as soon as it runs: the others run before it.
        for (at, disk) in disks.into_iter().enumerate().rev() {
            let registers = Arc::new(Registers::open(disk.clone())?);
            let (connected, sender) = (network.clone(), sender.clone());
            members.push(Member::start(Options {
                id: StoreId(at as u64 + 1),
                store: StoreConfig::default(),
                planner: damask_pd::Config::default(),
                clock: Arc::new(RealClock::default()),
                log: Arc::new(open_log(disk)?),
                machine: registers.clone(),
                registers,
                transport: Arc::new(network.clone()),
                on_open: Some(Box::new(move |handle| connected.connect(handle))),
                // Nobody listens any more when a bench has failed.
                on_lead: Arc::new(move |led| drop(sender.send(led))),
            })?);
        }
        Ok(Group { members, led: leaders.recv_timeout(WAIT)? })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.members.iter_mut().for_each(Member::stop);
    }
}

impl Run {
    fn timestamps(&self, oracle: &dyn Oracle, time: Duration) -> Result<Calls, Error> {
        let (mut seconds, mut last) = (Vec::new(), Timestamp::ZERO);
        let start = self.stopwatch.elapsed();
        let mut passed = Duration::ZERO;
        while passed < time {
            for _ in 0..CALLS {
                let (taken, took) = self.stopwatch.time(|| oracle.get(1));
                let taken = taken?;
                if taken <= last {
                    return Err(format!("{taken:?} came after {last:?}").into());
                }
                last = taken;
                seconds.push(took * 1e6);
            }
            passed = self.stopwatch.elapsed() - start;
        }
        seconds.sort_by(f64::total_cmp);
        let at = |part: usize| seconds[(seconds.len() - 1) * part / 100];
        let per_second = seconds.len() as f64 / passed.as_secs_f64();
        Ok(Calls { per_second, median: at(50), late: at(99), worst: at(100) })
    }

    pub(crate) fn oracle(&self) -> Result<(), Error> {
        let folder = self.folder("raft-oracle")?;
        let group = Group::start(folder.path())?;
        let disk = Arc::new(RealDisk::open(folder.path().join("local"))?);
        let local = LocalOracle::open(Arc::new(RealClock::default()), disk, "tso")?;
        let mut calls: [Vec<Calls>; 2] = Default::default();
        for _ in 0..self.arguments.pick(5, 1) {
            calls[0].push(self.timestamps(&group.led.oracle, self.slice())?);
            calls[1].push(self.timestamps(&local, self.slice())?);
        }
        let line = |name: &str, at: usize, number: fn(&Calls) -> f64| {
            let numbers: Vec<f64> = calls[at].iter().map(number).collect();
            Line::new(name, Spread::of(&numbers))
        };
        let peer = |number| line("peer: local, bound in a file", 1, number);
        let title = "raft-oracle: timestamps of a group of three, one caller";
        let group = |number| line("by the group's leader", 0, number);
        self.show(title, "/s", group(|c| c.per_second), None, &[peer(|c| c.per_second)]);
        let title = "raft-oracle: a call";
        let late = line("one in a hundred takes more", 0, |c| c.late);
        let worst = line("the longest: a window is saved", 0, |c| c.worst);
        self.show(title, "us", group(|c| c.median), None, &[peer(|c| c.median), late, worst]);
        Ok(())
    }
}
