//! An outside mark: the same puts into three members of etcd on this machine. What differs is said
//! beside the numbers; it must never install anything.

use crate::cluster::{CLIENTS, Cluster, Setup, VALUE_BYTES};
use crate::{Run, be_child};
use damask_benches::Error;
use damask_benches::measure::Spread;
use damask_benches::report::Line;
use std::path::Path;

/// Starts the members, and tells rates; see there for what it needs.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/etcd/run.sh");
/// Set for the script: where the members keep their data.
const FOLDER: &str = "DAMASK_BENCH_ETCD_DIR";

/// Is there such a program?
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

impl Run {
    pub(crate) fn etcd(&self) -> Result<(), Error> {
        if let Some(missing) = ["etcd", "go"].into_iter().find(|p| !is_installed(p)) {
            println!("raft-etcd: skipped, there is no `{missing}` in the PATH\n");
            return Ok(());
        }
        if self.arguments.small {
            println!("raft-etcd: skipped in a small run\n");
            return Ok(());
        }
        let folder = self.folder("raft-etcd")?;
        let ours = Cluster::start(&folder.path().join("ours"), &Setup::default(), self.stopwatch)?;
        let theirs = folder.path().join("etcd");
        std::fs::create_dir_all(&theirs)?;
        let theirs = theirs.to_str().ok_or("the folder's name is not text")?;
        let (mut rates, mut syncs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        be_child(Path::new(SCRIPT).into(), (FOLDER, theirs), |_, talk| {
            for round in 0..=3 {
                let done = ours.puts(2 * self.slice())?;
                talk.say(&format!("{}", 2.0 * self.slice().as_secs_f64()))?;
                let line = talk.hear()?;
                let mut numbers = line.split_whitespace().map(str::parse::<f64>);
                let (Some(Ok(rate)), Some(Ok(synced))) = (numbers.next(), numbers.next()) else {
                    return Err(format!("etcd's client says `{line}`").into());
                };
                if round > 0 {
                    rates[0].push(done.per_second);
                    rates[1].push(rate);
                    syncs[0].push(done.syncs);
                    syncs[1].push(synced);
                }
            }
            Ok(())
        })?;
        let title = format!("raft-etcd: {CLIENTS} clients, {VALUE_BYTES} bytes, three replicas");
        let peer = |all: &[Vec<f64>; 2]| [Line::new("etcd", Spread::of(&all[1]))];
        let line = |all: &[Vec<f64>; 2]| Line::new("everything", Spread::of(&all[0]));
        self.show(&title, "puts/s", line(&rates), None, &peer(&rates));
        let title = "raft-etcd: syncs of all three logs, for each put";
        self.show(title, "syncs", line(&syncs), None, &peer(&syncs));
        println!(
            "  differs: etcd is three processes and a client, in Go, that speak gRPC over loopback \
             on the same\n  cores, and keeps every version in a B+tree on the disk; ours is one \
             process, whose messages are\n  queued in memory, and rows are in memory here. Both \
             sync their logs before they answer.\n"
        );
        Ok(())
    }
}
