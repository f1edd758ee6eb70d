//! Transfers between accounts in several regions, with lost and doubled requests, splits, deaths of
//! the store and readers: no snapshot ever shows another total, and every acknowledged transfer is
//! there.

mod common;

use common::{Spoil, cluster, locks, spoiled_client, two_phase};
use damask_env::spawn;
use damask_kv::Cf;
use damask_txn::Mode::{Optimistic, Pessimistic};
use damask_txn::{
    Client, Config, Error, Gc, Isolation, LocalCluster, Mode, Options, Reads, Transaction, Wait,
};
use damask_types::codec::split_key_ts;
use damask_types::{ErrorKind, KeyRange, Timestamp};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const ACCOUNTS: u64 = 12;
const START: u64 = 100;
const TRANSFERS: usize = 60;

fn account(i: u64) -> Vec<u8> {
    format!("acc{i:02}").into_bytes()
}

fn below(seed: &mut u64, n: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % n
}

/// One unit; `false`: there is none to give, or no room for it.
fn transfer(txn: &mut Transaction, from: u64, to: u64) -> Result<bool, Error> {
    let read = |key: &[u8]| txn.get(key).map(|value| value.expect("an account")[0]);
    let (a, b) = (read(&account(from))?, read(&account(to))?);
    if a == 0 || b == u8::MAX {
        return Ok(false);
    }
    txn.put(account(from), vec![a - 1])?;
    txn.put(account(to), vec![b + 1])?;
    Ok(true)
}

/// As one statement of a pessimistic transaction.
fn locked_transfer(txn: &mut Transaction, from: u64, to: u64) -> Result<bool, Error> {
    loop {
        let mark = txn.mark();
        txn.begin_statement(Reads::Current)?;
        let moved = transfer(txn, from, to)?;
        match txn.lock_written(&mark, Wait::Millis(10_000)) {
            Err(Error::Outdated { .. }) => txn.rollback_to(mark),
            Err(e) => return Err(e),
            Ok(()) => {
                txn.release(mark);
                return Ok(moved);
            }
        }
    }
}

fn teller(client: &Client, mode: Mode, mut seed: u64, done: &AtomicU64) {
    let options = Options { mode, isolation: Isolation::RepeatableRead };
    for _ in 0..TRANSFERS {
        let (from, to) = (below(&mut seed, ACCOUNTS), below(&mut seed, ACCOUNTS));
        if from == to {
            continue;
        }
        let mut txn = client.begin_with(options).expect("begins");
        let moved = match mode {
            Optimistic => transfer(&mut txn, from, to),
            Pessimistic => locked_transfer(&mut txn, from, to),
        };
        match moved.and_then(|moved| if moved { txn.commit() } else { Ok(None) }) {
            Ok(_) => drop(done.fetch_add(1, Ordering::SeqCst)),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict, "{e}"),
        }
    }
}

fn audit(client: &Client, round: u64) {
    let ts = client.timestamp().expect("a timestamp");
    let snapshot = client.snapshot(ts);
    let keys: Vec<_> = (0..ACCOUNTS).map(account).collect();
    let balances = snapshot.batch_get(&keys).expect("read");
    let total: u64 = balances.iter().flatten().map(|v| u64::from(v[0])).sum();
    assert_eq!(total, ACCOUNTS * START, "at {ts}");
    let again = snapshot.scan(&KeyRange::all(), 100, round.is_multiple_of(2)).expect("read");
    let again: u64 = again.iter().map(|(_, v)| u64::from(v[0])).sum();
    assert_eq!(again, total, "at {ts}");
}

fn versions(cluster: &LocalCluster) -> BTreeSet<Timestamp> {
    let snapshot = cluster.engine().snapshot();
    let mut cursor = snapshot.cursor(Cf::Write, &[], &[]).expect("opens");
    let mut versions = BTreeSet::new();
    let mut pair = cursor.seek(&[]).expect("read");
    while let Some((key, _)) = pair {
        versions.insert(split_key_ts(key).expect("a version").1);
        pair = cursor.next().expect("read");
    }
    versions
}

/// Invariant 15.
fn bank_total(modes: [Mode; 4], config: Config) {
    let cluster = cluster(&["acc03", "acc06", "acc09"]);
    let chance = AtomicU64::new(42);
    let client = spoiled_client(&cluster, config, move |_| {
        let seed = chance.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
        let mixed = (seed ^ (seed >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40;
        match mixed % 200 {
            0 => Spoil::LoseAnswer,
            1 => Spoil::LoseRequest,
            2..6 => Spoil::Refuse,
            6..16 => Spoil::Twice,
            _ => Spoil::Nothing,
        }
    });
    let mut txn = client.begin().expect("begins");
    (0..ACCOUNTS).for_each(|i| txn.put(account(i), vec![START as u8]).expect("fits"));
    let first = txn.commit().expect("commits").expect("a version");
    let done = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for (seed, mode) in modes.into_iter().enumerate() {
        let (client, done) = (client.clone(), Arc::clone(&done));
        tasks.push(spawn("teller", move || teller(&client, mode, seed as u64 + 1, &done)));
    }
    let (reader, split) = (client.clone(), Arc::clone(&cluster));
    tasks.push(spawn("auditor", move || {
        for round in 0..40 {
            audit(&reader, round);
            if round % 10 == 5 {
                split.split(&account(round / 4));
            }
            if round % 8 == 3 {
                split.restart();
            }
        }
    }));
    tasks.into_iter().for_each(|task| task.join().expect("no panic"));
    client.flush();
    assert!(done.load(Ordering::SeqCst) > 20, "too few transfers to mean anything");
    // At every version there is.
    for ts in versions(&cluster).into_iter().filter(|ts| *ts >= first) {
        let pairs = client.snapshot(ts).scan(&KeyRange::all(), 99, false).expect("read");
        let total: u64 = pairs.iter().map(|(_, v)| u64::from(v[0])).sum();
        assert_eq!(total, ACCOUNTS * START, "at {ts}");
    }
    audit(&client, 0);
    cluster.pass_ms(60_000);
    let gc = Gc::new(Arc::new(cluster.safe_point()));
    let now = client.timestamp().expect("a timestamp");
    gc.advance(&client, now, Duration::ZERO, None).expect("advances");
    assert_eq!(locks(&cluster), 0);
}

#[test]
fn the_bank_keeps_its_money() {
    bank_total([Optimistic; 4], two_phase());
}

#[test]
fn the_bank_keeps_its_money_on_short_ways() {
    bank_total([Optimistic; 4], Config::default());
}

#[test]
fn the_pessimistic_bank_keeps_its_money() {
    bank_total([Pessimistic; 4], two_phase());
    bank_total([Pessimistic; 4], Config::default());
}

#[test]
fn the_bank_of_both_minds_keeps_its_money() {
    bank_total([Optimistic, Pessimistic, Optimistic, Pessimistic], Config::default());
}
