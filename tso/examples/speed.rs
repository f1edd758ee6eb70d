//! How many timestamps a second the local oracle gives out, on the real clock and disk:
//! `cargo run --release -p damask-tso --example speed`. It must never be slowed by anything that a
//! cluster would not do.

use damask_env::{Clock, RealClock, RealDisk, spawn};
use damask_tso::{BatchingOracle, LocalOracle, Oracle};
use std::sync::Arc;

const BATCH: u32 = 100;
const BATCHES: u32 = 1_000_000;
const SINGLES: u32 = 5_000_000;

/// Millions of timestamps a second of this many threads, each of which calls so often.
fn rate(clock: &dyn Clock, oracle: &Arc<dyn Oracle>, threads: u32, calls: u32, n: u32) -> f64 {
    let begin = clock.monotonic();
    let tasks: Vec<_> = (0..threads)
        .map(|_| {
            let oracle = Arc::clone(oracle);
            spawn("caller", move || {
                for _ in 0..calls {
                    oracle.get(n).expect("served");
                }
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| task.join().expect("no panic"));
    let seconds = (clock.monotonic() - begin).as_secs_f64();
    f64::from(threads) * f64::from(calls) * f64::from(n) / seconds / 1e6
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = Arc::new(RealDisk::open(folder.path()).expect("a disk"));
    let clock = Arc::new(RealClock::default());
    let local = LocalOracle::open(clock.clone(), disk, "bound").expect("opens");
    let local: Arc<dyn Oracle> = Arc::new(local);
    let shared: Arc<dyn Oracle> = Arc::new(BatchingOracle::new(local.clone()));
    let clock = clock.as_ref();
    println!("one thread, {BATCH} a call  {:8.1} M/s", rate(clock, &local, 1, BATCHES, BATCH));
    println!("one thread, one by one  {:8.1} M/s", rate(clock, &local, 1, SINGLES, 1));
    println!("two threads, one by one {:8.1} M/s", rate(clock, &local, 2, SINGLES, 1));
    println!(
        "two threads, one by one, sharing calls {:8.1} M/s",
        rate(clock, &shared, 2, SINGLES, 1)
    );
}
