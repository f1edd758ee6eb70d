//! What a contended key costs, measured in one run: `cargo run --release -p damask-txn --example
//! hot_key`, or with ` -- WORD` only what has the word in its name. It must never be taken for a
//! bench of the machine: only the ratios mean something.
//!
//! One counter, pessimistic transactions; 64 clients take turns with one client. In memory without
//! replication; three replicas in memory; three replicas with logs on disk.

use damask_env::{Clock, Disk, MemoryDisk, RealClock, RealDisk};
use damask_kv::MemoryEngine;
use damask_txn::testing::counter::{count_up_together, read_count};
use damask_txn::testing::replicated::{Parts, Replicated};
use damask_txn::{Client, Config, LocalCluster};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const CLIENTS: usize = 64;
/// Rounds of both; the first is not counted.
const ROUNDS: usize = 6;
const KEY: &[u8] = b"hot";

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let cluster = LocalCluster::new(Arc::new(MemoryEngine::new()));
    race("memory, not replicated", &cluster.client(), 19_200)?;

    let memory = Replicated::start(3, Duration::from_millis(100), Box::new(|_| in_memory()));
    memory.leader();
    race("three replicas in memory", &memory.client(Config::default())?, 3_200)?;

    let folder = tempfile::tempdir()?;
    let root = folder.path().to_owned();
    let open = Box::new(move |id| on_disk(&root.join(format!("{id}"))));
    let disk = Replicated::start(3, Duration::from_millis(100), open);
    disk.leader();
    race("three replicas, logs on disk", &disk.client(Config::default())?, 1_280)?;
    Ok(())
}

fn in_memory() -> Parts {
    Parts { disk: Arc::new(MemoryDisk::new()), engine: Arc::new(MemoryEngine::new()) }
}

fn on_disk(folder: &Path) -> Parts {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(folder).expect("a folder"));
    Parts { disk, engine: Arc::new(MemoryEngine::new()) }
}

fn race(name: &str, client: &Client, all: usize) -> Result<(), Failed> {
    if std::env::args().nth(1).is_some_and(|word| !name.contains(&word)) {
        return Ok(());
    }
    let clock = RealClock::default();
    let (mut rates, mut total) = ([Vec::new(), Vec::new()], 0);
    for round in 0..ROUNDS {
        for (rates, clients) in rates.iter_mut().zip([CLIENTS, 1]) {
            let begin = clock.monotonic();
            count_up_together(client, KEY, clients, all / clients)?;
            let seconds = (clock.monotonic() - begin).as_secs_f64();
            total += all;
            if round > 0 {
                rates.push(all as f64 / seconds);
            }
        }
    }
    let counted = read_count(client, KEY)?;
    if counted != total as u64 {
        return Err(format!("{counted} of {total} counted").into());
    }
    let mut ratios: Vec<f64> = rates[0].iter().zip(&rates[1]).map(|(a, b)| a / b).collect();
    let median = |rates: &mut Vec<f64>| {
        rates.sort_unstable_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let (low, high) = (ratios.iter().copied().fold(f64::MAX, f64::min), max(&ratios));
    println!(
        "{name}: {CLIENTS} clients {:.0}/s, 1 client {:.0}/s, {:.2}x ({low:.2}..{high:.2})",
        median(&mut rates[0].clone()),
        median(&mut rates[1].clone()),
        median(&mut ratios)
    );
    Ok(())
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MIN, f64::max)
}
