//! Many replicated regions on three stores of one process, over real logs that are synced: writes
//! and what each optimisation of them gains, reads in every way, the log stores alone and under the
//! store, idle regions, and how long a region takes no writes. It must never skip a sync, and knows
//! no transaction and no SQL.
//!
//! `cargo bench -p damask-benches --bench raft -- [NAME]`; names: `raft-puts`, `raft-reads`,
//! `raft-logs`, `raft-idle`, `raft-split`, `raft-leader`, `raft-oracle`, `raft-etcd`. See
//! README.md beside this crate's manifest.

#[path = "raft/backends.rs"]
mod backends;
#[path = "raft/cluster.rs"]
mod cluster;
#[path = "raft/logs.rs"]
mod logs;
#[path = "raft/oracle.rs"]
mod oracle;
#[path = "raft/outside.rs"]
mod outside;
#[path = "raft/puts.rs"]
mod puts;
#[path = "raft/reads.rs"]
mod reads;
#[path = "raft/rest.rs"]
mod rest;

use damask_benches::arguments::Arguments;
use damask_benches::measure::Stopwatch;
use damask_benches::report::{Line, Target, render};
use damask_benches::{Error, machine};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

fn main() -> ExitCode {
    let result = match std::env::var(rest::CHILD) {
        Ok(what) => rest::be_idle(&what),
        Err(_) => run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("raft: {e}");
            ExitCode::FAILURE
        }
    }
}

struct Run {
    arguments: Arguments,
    stopwatch: Stopwatch,
}

fn run() -> Result<(), Error> {
    let run = Run { arguments: Arguments::read()?, stopwatch: Stopwatch::default() };
    let benches: [(&str, fn(&Run) -> Result<(), Error>); 9] = [
        ("raft-puts", Run::puts),
        ("raft-reads", Run::reads),
        ("raft-logs", Run::logs_alone),
        ("raft-logs", Run::logs_under_the_store),
        ("raft-idle", Run::idle),
        ("raft-split", Run::split_gap),
        ("raft-leader", Run::leader_gap),
        ("raft-oracle", Run::oracle),
        ("raft-etcd", Run::etcd),
    ];
    let wanted: Vec<_> =
        benches.into_iter().filter(|(name, _)| run.arguments.wants(name)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    println!("{}\n", machine::state(&run.arguments.folder, &run.stopwatch)?);
    wanted.into_iter().try_for_each(|(_, bench)| bench(&run))
}

impl Run {
    fn folder(&self, name: &str) -> Result<tempfile::TempDir, Error> {
        let prefix = format!("damask-bench-{name}-");
        Ok(tempfile::Builder::new().prefix(&prefix).tempdir_in(&self.arguments.folder)?)
    }

    fn show(&self, title: &str, unit: &str, ours: Line, target: Option<Target>, peers: &[Line]) {
        let target = target.filter(|_| !self.arguments.small);
        println!("{}\n", render(title, unit, &ours, target, peers));
    }

    /// One measurement of what has a rate.
    fn slice(&self) -> Duration {
        Duration::from_millis(self.arguments.pick(1000, 30))
    }
}

/// Starts a program that says `ready` and goes on until its standard input ends; what `measure`
/// finds meanwhile, given its id and the lines that it says and hears.
fn be_child<T>(
    program: PathBuf,
    variable: (&str, &str),
    measure: impl FnOnce(u32, &mut Talk) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut child = Command::new(&program)
        .env(variable.0, variable.1)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{}: {e}", program.display()))?;
    let mut talk = Talk::with(&mut child);
    let found = match talk.hear() {
        Ok(line) if line == "ready" => measure(child.id(), &mut talk),
        Ok(line) => Err(format!("{} says `{line}`", program.display()).into()),
        Err(e) => Err(e),
    };
    drop(talk);
    let status = child.wait()?;
    let found = found?;
    if status.success() {
        Ok(found)
    } else {
        Err(format!("{}: {status}", program.display()).into())
    }
}

/// Lines to and from a child.
struct Talk {
    output: BufReader<std::process::ChildStdout>,
    input: std::process::ChildStdin,
}

impl Talk {
    fn with(child: &mut Child) -> Talk {
        let output = BufReader::new(child.stdout.take().expect("standard output is piped"));
        Talk { output, input: child.stdin.take().expect("standard input is piped") }
    }

    fn hear(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn say(&mut self, line: &str) -> Result<(), Error> {
        use std::io::Write;
        writeln!(self.input, "{line}")?;
        Ok(self.input.flush()?)
    }
}
