//! Linearizable reads of single keys, each asked for by itself, in every way there is. It must
//! never count a read that did not find what was written.

use crate::Run;
use crate::cluster::{CLIENTS, Cluster, Setup};
use damask_benches::Error;
use damask_benches::measure::Spread;
use damask_benches::report::{Line, Target};
use damask_raftstore::ReadMode;

/// Reads per second by the lease.
const LEASE_TARGET: f64 = 150_000.0;
/// Reads per second by a question to the quorum.
const INDEX_TARGET: f64 = 30_000.0;

const MODES: [(ReadMode, &str); 4] = [
    (ReadMode::Lease, "by the lease"),
    (ReadMode::Index, "by ReadIndex"),
    (ReadMode::Follower, "on a follower"),
    (ReadMode::Log, "by the log"),
];

impl Run {
    pub(crate) fn reads(&self) -> Result<(), Error> {
        let folder = self.folder("raft-reads")?;
        let cluster = Cluster::start(folder.path(), &Setup::default(), self.stopwatch)?;
        cluster.fill()?;
        let time = self.slice();
        let (mut local, mut asked) = (Vec::new(), 0);
        let mut rates: [Vec<f64>; MODES.len()] = Default::default();
        for round in 0..=self.arguments.pick(4, 1) {
            let (rate, others) = cluster.local_reads(time)?;
            if round > 0 {
                local.push(rate);
                asked += others;
            }
            for ((mode, _), rates) in MODES.iter().zip(&mut rates) {
                let done = cluster.reads(*mode, time)?;
                if round > 0 {
                    rates.push(done.per_second);
                }
            }
        }
        let line = |at: usize| {
            let name = format!("{}, {CLIENTS} in flight", MODES[at].1);
            Line::new(name, Spread::of(&rates[at]))
        };
        let name = format!("one thread, {asked} of them not by the lease");
        let ours = Line::new(name, Spread::of(&local));
        let target = Some(Target::AtLeast(LEASE_TARGET));
        let title = "raft-reads: by the leader's lease, on the thread that asks";
        self.show(title, "reads/s", ours, target, &[line(0)]);
        let title = "raft-reads: by ReadIndex, beside the other ways";
        let target = Some(Target::AtLeast(INDEX_TARGET));
        self.show(title, "reads/s", line(1), target, &[line(0), line(2), line(3)]);
        Ok(())
    }
}
