//! Leaders lose their power, or the others, while transactions commit in one phase, async and in
//! two: what was acknowledged is there, no snapshot shows another total, histories are those of
//! snapshot isolation, and no lock stays.

mod common;

use common::falls::{ACCOUNTS, Falls, START, TICK, account, balance, below, open_accounts};
use common::{falls, poll};
use damask_env::spawn;
use damask_kv::MvccReader;
use damask_txn::history::{Level, Op, Outcome, Run, check};
use damask_txn::testing::check_invariants;
use damask_txn::testing::counter::{count_up, read_count};
use damask_txn::{Client, Config, Error, Mode, Options, Reads, Transaction, Wait};
use damask_types::{ErrorKind, KeyRange, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

const LISTS: u32 = 8;
/// Leaders that fall, one after the other.
const FALLS: u64 = 4;
/// Transactions that are acknowledged between two falls.
const BETWEEN: u64 = 40;

struct World {
    stores: Falls,
    over: AtomicBool,
    elements: AtomicU32,
    committed: AtomicU64,
    runs: Mutex<Vec<Run>>,
}

fn list_key(list: u32) -> Vec<u8> {
    format!("list{list}").into_bytes()
}

fn list_of(value: Option<Vec<u8>>) -> Vec<u32> {
    let bytes = value.unwrap_or_default();
    let (elements, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty(), "a torn list");
    elements.iter().map(|e| u32::from_le_bytes(*e)).collect()
}

impl World {
    fn start() -> Arc<World> {
        Arc::new(World {
            stores: Falls::start(TICK),
            over: AtomicBool::new(false),
            elements: AtomicU32::new(1),
            committed: AtomicU64::new(0),
            runs: Mutex::default(),
        })
    }

    fn client(&self, config: Config) -> Client {
        let config = Config { lock_ttl_ms: 600, lock_ttl_max_ms: 2_000, ..config };
        self.stores.cluster.client(config).expect("valid")
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Reads some lists and appends to them, until the end.
    fn append(&self, client: &Client, mode: Mode, mut seed: u64) {
        let options = Options { mode, ..Options::default() };
        while !self.is_over() {
            let Ok(mut txn) = client.begin_with(options) else { continue };
            let mut ops = Vec::new();
            let done = (0..=below(&mut seed, 3)).try_for_each(|_| {
                let key = below(&mut seed, u64::from(LISTS)) as u32;
                match mode {
                    Mode::Optimistic => self.append_one(&mut txn, key, &mut ops),
                    Mode::Pessimistic => self.append_locked(&mut txn, key, &mut ops),
                }
            });
            let outcome = self.end(done.and_then(|()| txn.commit()));
            self.runs.lock().push(Run { ops, outcome });
        }
    }

    fn append_one(&self, txn: &mut Transaction, key: u32, ops: &mut Vec<Op>) -> Result<(), Error> {
        let mut value = txn.get(&list_key(key))?;
        ops.push(Op::Read { key, list: list_of(value.clone()) });
        let element = self.elements.fetch_add(1, Ordering::SeqCst);
        value.get_or_insert_default().extend(element.to_le_bytes());
        txn.put(list_key(key), value.unwrap_or_default())?;
        ops.push(Op::Append { key, element });
        Ok(())
    }

    /// As a statement that locks what it reads, and runs again when that was outdated.
    fn append_locked(
        &self,
        txn: &mut Transaction,
        key: u32,
        ops: &mut Vec<Op>,
    ) -> Result<(), Error> {
        let before = ops.len();
        // Ends: who holds the lock is not outdated again.
        loop {
            let mark = txn.mark();
            txn.begin_statement(Reads::Current)?;
            let done = self
                .append_one(txn, key, ops)
                .and_then(|()| txn.lock_written(&mark, Wait::Millis(2_000)));
            match done {
                Ok(()) => {
                    txn.release(mark);
                    return Ok(());
                }
                Err(e) => {
                    txn.rollback_to(mark);
                    ops.truncate(before);
                    if !matches!(e, Error::Outdated { .. }) {
                        return Err(e);
                    }
                }
            }
        }
    }

    fn end<T>(&self, result: Result<T, Error>) -> Outcome {
        match result {
            Ok(_) => {
                self.committed.fetch_add(1, Ordering::SeqCst);
                Outcome::Committed
            }
            Err(e) if e.kind() == ErrorKind::Undetermined => Outcome::Unknown,
            Err(_) => Outcome::Aborted,
        }
    }

    /// Moves money and looks at the total, until the end.
    fn transfer(&self, client: &Client, mut seed: u64) {
        while !self.is_over() {
            let (from, to) = (below(&mut seed, ACCOUNTS), below(&mut seed, ACCOUNTS));
            if from == to {
                self.check_total(client);
                continue;
            }
            self.end(falls::transfer(client, from, to));
        }
    }

    fn check_total(&self, client: &Client) {
        let Ok(ts) = client.timestamp() else { return };
        let keys: Vec<_> = (0..ACCOUNTS).map(account).collect();
        // Without a leader there is no answer.
        if let Ok(values) = client.snapshot(ts).batch_get(&keys) {
            let total: u64 = values.into_iter().map(balance).sum();
            assert_eq!(total, ACCOUNTS * START, "at {ts}");
        }
    }

    /// The leader falls while transactions are on their way: without power, or cut off for as long
    /// as it takes to elect another.
    fn fall(&self, n: u64) {
        let cluster = &self.stores.cluster;
        let leader = cluster.leader();
        cluster.cut_off(leader);
        if n.is_multiple_of(2) {
            self.stores.cut_power(leader);
        } else {
            poll("another leader", || cluster.leader() != leader);
            cluster.stop(leader);
            cluster.restart(leader, false);
        }
    }

    fn count(&self) -> u64 {
        self.committed.load(Ordering::SeqCst)
    }
}

/// Transactions that end one way until all leaders have fallen, and then the whole truth.
fn leaders_fall(config: Config, mode: Mode) {
    let world = World::start();
    world.stores.cluster.leader();
    let client = world.client(config.clone());
    open_accounts(&client);
    let counted = Arc::new(Mutex::new((0, 0)));
    let mut workers = Vec::new();
    for seed in 1..=2 {
        let (one, two) = (Arc::clone(&world), Arc::clone(&world));
        let (own, other) = (world.client(config.clone()), world.client(config.clone()));
        workers.push(spawn("append", move || one.append(&own, mode, seed)));
        workers.push(spawn("transfer", move || two.transfer(&other, seed)));
    }
    for _ in 0..2 {
        let (world, counted) = (Arc::clone(&world), Arc::clone(&counted));
        let own = world.client(config.clone());
        workers.push(spawn("count", move || {
            while !world.is_over() {
                let result = count_up(&own, b"count");
                let mut counted = counted.lock();
                match world.end(result) {
                    Outcome::Committed => counted.0 += 1,
                    Outcome::Unknown => counted.1 += 1,
                    Outcome::Aborted => {}
                }
            }
        }));
    }
    for n in 0..FALLS {
        let before = world.count();
        poll("transactions go on", || world.count() >= before + BETWEEN);
        world.fall(n);
    }
    let before = world.count();
    poll("transactions go on", || world.count() >= before + BETWEEN);
    world.over.store(true, Ordering::SeqCst);
    workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
    the_whole_truth(&world, &config, mode, *counted.lock());
}

/// `counted`: increments that were acknowledged, and those of which nobody knows.
fn the_whole_truth(world: &World, config: &Config, mode: Mode, counted: (u64, u64)) {
    let client = world.client(config.clone());
    world.stores.end_all(&client);
    world.check_total(&client);
    let count = read_count(&client, b"count").expect("read");
    let (acknowledged, unknown) = counted;
    assert!((acknowledged..=acknowledged + unknown).contains(&count), "{count}: {counted:?}");

    let last = client.timestamp().expect("a timestamp");
    let read = |list| client.snapshot(last).get(&list_key(list)).expect("read");
    let ops = (0..LISTS).map(|key| Op::Read { key, list: list_of(read(key)) }).collect();
    let mut runs = std::mem::take(&mut *world.runs.lock());
    runs.push(Run { ops, outcome: Outcome::Committed });
    // Who locks all that it reads is serializable.
    let level = match mode {
        Mode::Optimistic => Level::SnapshotIsolation,
        Mode::Pessimistic => Level::Serializable,
    };
    let anomalies = check(&runs, level);
    assert!(anomalies.is_empty(), "{:?}", &anomalies[..anomalies.len().min(3)]);

    let leader = world.stores.cluster.leader();
    let engine = world.stores.cluster.engine(leader).expect("it runs");
    let reader = MvccReader::new(engine.snapshot());
    let locks = reader.scan_locks(&KeyRange::all(), |_| true, 10).expect("read");
    assert_eq!(locks, [], "no lock is left");
    // The counter's transactions have read what they locked, and so have pessimistic ones.
    let read_version = |start_ts: Timestamp, key: &[u8]| match mode {
        Mode::Pessimistic if key.starts_with(b"list") => Timestamp::MAX,
        _ if key == b"count" => Timestamp::MAX,
        _ => start_ts,
    };
    check_invariants(engine.as_ref(), read_version).expect("whole");
}

#[test]
fn leaders_fall_under_commits_in_one_phase() {
    leaders_fall(Config::default(), Mode::Optimistic);
}

#[test]
fn leaders_fall_under_async_commits() {
    leaders_fall(Config { one_phase: false, ..Config::default() }, Mode::Optimistic);
}

#[test]
fn leaders_fall_under_commits_in_two_phases() {
    leaders_fall(common::two_phase(), Mode::Optimistic);
}

#[test]
fn leaders_fall_under_locks() {
    leaders_fall(Config::default(), Mode::Pessimistic);
    leaders_fall(Config { one_phase: false, ..Config::default() }, Mode::Pessimistic);
}
