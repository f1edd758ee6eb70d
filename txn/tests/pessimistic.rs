//! Pessimistic transactions: statements that read the newest version and lock what they write,
//! others that wait, give up or go around, and clients that die with locks.

mod common;

use common::statements::{LONG, PESSIMISTIC, begin, lock, put, statement};
use common::{DEADLINE, Spoil, cluster, get, locks, poll, put_all, spoiled_client, two_phase};
use damask_env::{Clock, RealClock, spawn};
use damask_txn::{Config, Error, Isolation, Options, Reads, Request, Services, Transaction, Wait};
use damask_types::{ErrorKind, KeyRange};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

fn increment(txn: &mut Transaction, key: &[u8]) -> Result<(), Error> {
    let now = txn.get(key)?.map_or(0, |v| v[0]);
    txn.put(key, vec![now + 1])
}

#[test]
fn a_statement_reads_the_newest_version_and_a_plain_read_the_snapshot() {
    let cluster = cluster(&[]);
    let client = cluster.client();
    put_all(&client, &[("a", "1")]);
    let mut repeatable = begin(&client);
    let committed = Options { isolation: Isolation::ReadCommitted, ..PESSIMISTIC };
    let mut committed = client.begin_with(committed).expect("begins");
    let mut optimistic = client.begin().expect("begins");
    put_all(&client, &[("a", "2")]);
    let read = |txn: &mut Transaction, reads| {
        txn.begin_statement(reads).expect("a timestamp");
        assert_eq!(txn.snapshot().ts(), txn.read_ts());
        String::from_utf8(txn.get(b"a").expect("read").expect("a value")).expect("text")
    };
    assert_eq!(read(&mut repeatable, Reads::Snapshot), "1");
    assert_eq!(read(&mut repeatable, Reads::Current), "2");
    assert_eq!(read(&mut repeatable, Reads::Snapshot), "1");
    assert_eq!(repeatable.read_ts(), repeatable.start_ts());
    assert_eq!(read(&mut committed, Reads::Snapshot), "2");
    assert_eq!(read(&mut optimistic, Reads::Snapshot), "1");
    assert_eq!(read(&mut optimistic, Reads::Current), "1");
}

#[test]
fn the_second_waits_for_the_first_and_loses_nothing() {
    let cluster = cluster(&["m"]);
    let client = cluster.client();
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let client = client.clone();
            spawn("counter", move || {
                for _ in 0..25 {
                    let mut txn = begin(&client);
                    statement(&mut txn, |txn| increment(txn, b"n")).expect("locked");
                    statement(&mut txn, |txn| increment(txn, b"a")).expect("locked");
                    // Whoever has its locks commits: there is nobody to lose against.
                    txn.commit().expect("commits");
                }
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| task.join().expect("no panic"));
    let values = ["a", "n"].map(|key| client.get_latest(key.as_bytes()).expect("read"));
    assert_eq!(values, [Some(vec![150]), Some(vec![150])]);
    client.flush();
    assert_eq!(locks(&cluster), 0);
}

#[test]
fn nowait_fails_and_a_wait_ends() {
    let cluster = cluster(&["m"]);
    let client = cluster.client();
    let mut holder = begin(&client);
    put(&mut holder, "k", "1");
    let mut other = begin(&client);
    let error = lock(&mut other, "k", Wait::No).expect_err("it is locked");
    let key = b"k".to_vec();
    assert_eq!(error, Error::LockNotAvailable { key, holder: holder.start_ts() });
    let error = lock(&mut other, "k", Wait::Millis(60)).expect_err("it stays locked");
    assert!(
        matches!(error, Error::LockTimeout { holder: h, waited_ms } if h == holder.start_ts()
            && waited_ms >= 60),
        "{error}"
    );
    assert_eq!(error.kind(), ErrorKind::Retry);
    // The transaction goes on: only the statement failed.
    put(&mut other, "z", "2");
    other.commit().expect("commits");
    holder.commit().expect("commits");
    let values = ["k", "z"].map(|key| get(&client, key));
    assert_eq!(values, [Some("1".to_owned()), Some("2".to_owned())]);
    client.flush();
    assert_eq!(locks(&cluster), 0);
}

#[test]
fn locked_rows_are_skipped() {
    let cluster = cluster(&["c", "e"]);
    let client = cluster.client();
    let keys: Vec<Vec<u8>> = ["a", "b", "c", "d", "e", "f"].map(|k| k.into()).into();
    let mut holder = begin(&client);
    ["a", "d"].into_iter().for_each(|key| put(&mut holder, key, "held"));
    let mut worker = begin(&client);
    worker.begin_statement(Reads::Current).expect("a timestamp");
    let held = worker.try_lock(&keys).expect("asked");
    assert_eq!(held, [false, true, true, false, true, true]);
    assert_eq!(worker.try_lock(&keys).expect("asked again"), held);
    // They are held indeed, and given back with the transaction.
    assert!(lock(&mut holder, "f", Wait::No).is_err());
    worker.rollback();
    lock(&mut holder, "f", Wait::No).expect("free again");
    holder.commit().expect("commits");
    client.flush();
    assert_eq!(locks(&cluster), 0);

    let mut nobody = client.begin().expect("begins");
    assert_eq!(nobody.try_lock(&keys[..2]).expect("asked"), [true, true], "optimistic");
    nobody.begin_statement(Reads::Current).expect("nothing");
    assert_eq!(nobody.read_ts(), nobody.start_ts());
}

#[test]
fn all_rows_may_be_locked_by_others() {
    let cluster = cluster(&[]);
    let client = cluster.client();
    let mut holder = begin(&client);
    ["a", "b"].into_iter().for_each(|key| put(&mut holder, key, "held"));
    let mut worker = begin(&client);
    worker.begin_statement(Reads::Current).expect("a timestamp");
    let keys = [b"a".to_vec(), b"b".to_vec()];
    assert_eq!(worker.try_lock(&keys).expect("asked"), [false, false]);
    holder.commit().expect("commits");
    client.flush();
    // Free, but newer than what the statement has read.
    let error = worker.try_lock(&keys).expect_err("a newer version");
    assert!(matches!(error, Error::Outdated { .. }), "{error}");
    worker.begin_statement(Reads::Current).expect("a timestamp");
    assert_eq!(worker.try_lock(&keys).expect("asked"), [true, true]);
    drop(worker);
    poll("no locks", || locks(&cluster) == 0);
}

#[test]
fn the_lock_of_an_outdated_statement_is_kept_for_its_second_try() {
    let cluster = cluster(&[]);
    let requests = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&requests);
    let client = spoiled_client(&cluster, Config::default(), move |request| {
        if matches!(request, Request::PessimisticLock(_)) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        Spoil::Nothing
    });
    put_all(&client, &[("n", "\u{1}")]);
    let mut txn = begin(&client);
    let mut runs = 0;
    let other = cluster.client();
    statement(&mut txn, |txn| {
        runs += 1;
        increment(txn, b"n")?;
        if runs == 1 {
            put_all(&other, &[("n", "\u{7}")]);
        }
        Ok(())
    })
    .expect("locked");
    assert_eq!((runs, requests.load(Ordering::SeqCst)), (2, 1));
    txn.commit().expect("commits");
    assert_eq!(client.get_latest(b"n").expect("read"), Some(vec![8]));
}

#[test]
fn several_keys_are_not_locked_above_what_was_read() {
    let cluster = cluster(&[]);
    let client = cluster.client();
    let mut txn = begin(&client);
    let mut runs = 0;
    statement(&mut txn, |txn| {
        runs += 1;
        increment(txn, b"a")?;
        increment(txn, b"b")?;
        if runs == 1 {
            put_all(&client, &[("b", "\u{7}")]);
        }
        Ok(())
    })
    .expect("locked");
    assert_eq!(runs, 2);
    txn.commit().expect("commits");
    let values = ["a", "b"].map(|key| client.get_latest(key.as_bytes()).expect("read"));
    assert_eq!(values, [Some(vec![1]), Some(vec![8])]);
}

#[test]
fn a_lock_held_above_the_statements_version_is_outdated_too() {
    let cluster = cluster(&[]);
    let client = cluster.client();
    let mut txn = begin(&client);
    put_all(&client, &[("k", "2")]);
    put(&mut txn, "k", "3");
    // A statement that read the old snapshot must not write over what it has not seen.
    let mark = txn.mark();
    txn.begin_statement(Reads::Snapshot).expect("the start");
    txn.delete("k").expect("fits");
    let error = txn.lock_written(&mark, LONG).expect_err("read too early");
    assert!(matches!(error, Error::Outdated { read_ts, .. } if read_ts == txn.start_ts()));
    txn.rollback_to(mark);
    assert_eq!(txn.try_lock(&[b"k".to_vec()]).expect_err("too").kind(), ErrorKind::Conflict);
    txn.commit().expect("commits");
    assert_eq!(get(&client, "k").as_deref(), Some("3"));
}

#[test]
fn a_statement_taken_back_keeps_its_locks_and_the_commit_leaves_none() {
    let cluster = cluster(&["m"]);
    let client = cluster.client();
    put_all(&client, &[("a", "1"), ("z", "1")]);
    client.flush();
    let mut txn = begin(&client);
    let savepoint = txn.mark();
    // The primary is locked here, and not written in the end.
    put(&mut txn, "a", "2");
    txn.rollback_to(savepoint);
    put(&mut txn, "z", "2");
    let mut other = begin(&client);
    assert!(lock(&mut other, "a", Wait::No).is_err(), "still held");
    let mut reader = client.begin().expect("began before the commit");
    assert_eq!(reader.get(b"a").expect("read").as_deref(), Some(&b"1"[..]));
    txn.commit().expect("commits");
    client.flush();
    assert_eq!(locks(&cluster), 0);
    let values = ["a", "z"].map(|key| get(&client, key));
    assert_eq!(values, [Some("1".to_owned()), Some("2".to_owned())]);
    // What was locked counts as touched for an optimistic transaction that began before.
    reader.put("a", "3").expect("fits");
    assert_eq!(reader.commit().expect_err("refused").kind(), ErrorKind::Conflict);
}

#[test]
fn locks_without_writes_are_given_back() {
    let cluster = cluster(&["m"]);
    let client = cluster.client();
    let mut txn = begin(&client);
    statement(&mut txn, |txn| txn.lock("a").and_then(|()| txn.lock("z"))).expect("free");
    assert_eq!(locks(&cluster), 2);
    assert_eq!(txn.commit().expect("nothing to write"), None);
    assert_eq!(locks(&cluster), 0);
    // At two versions: only a commit tells that the first lock was still there at the second.
    let mut txn = begin(&client);
    lock(&mut txn, "a", Wait::No).expect("free");
    lock(&mut txn, "z", Wait::No).expect("free");
    txn.commit().expect("commits").expect("a version");
    client.flush();
    assert_eq!(locks(&cluster), 0);

    let mut txn = begin(&client);
    put(&mut txn, "a", "1");
    txn.rollback();
    assert_eq!(locks(&cluster), 0);

    let mut txn = begin(&client);
    put(&mut txn, "a", "1");
    drop(txn);
    client.flush();
    assert_eq!((locks(&cluster), get(&client, "a")), (0, None));
}

#[test]
fn an_insert_is_checked_when_it_is_locked() {
    let cluster = cluster(&[]);
    let client = cluster.client();
    put_all(&client, &[("a", "1")]);
    let mut txn = begin(&client);
    let insert = |txn: &mut Transaction, key: &str| statement(txn, |txn| txn.insert(key, "new"));
    assert_eq!(insert(&mut txn, "a"), Err(Error::AlreadyExists { key: b"a".to_vec() }));
    // Held by the statement that failed.
    assert_eq!(insert(&mut txn, "a"), Err(Error::AlreadyExists { key: b"a".to_vec() }));
    insert(&mut txn, "b").expect("new");
    statement(&mut txn, |txn| txn.delete("b")).expect("its own");
    statement(&mut txn, |txn| txn.delete("a")).expect("locked");
    insert(&mut txn, "a").expect("deleted by itself");
    txn.commit().expect("commits");
    assert_eq!((get(&client, "a").as_deref(), get(&client, "b")), (Some("new"), None));
    client.flush();
    assert_eq!(locks(&cluster), 0);
}

#[test]
fn a_write_outside_of_a_statement_is_checked_at_the_commit() {
    let cluster = cluster(&["m"]);
    let client = cluster.client();
    let mut txn = begin(&client);
    put(&mut txn, "z", "1");
    txn.put("a", "1").expect("fits");
    put_all(&client, &[("a", "2")]);
    // A later statement's version says nothing about what this one has read.
    put(&mut txn, "y", "1");
    assert_eq!(txn.commit().expect_err("a newer version").kind(), ErrorKind::Conflict);
    assert_eq!((get(&client, "a").as_deref(), get(&client, "z")), (Some("2"), None));
    client.flush();
    assert_eq!(locks(&cluster), 0);
    let mut txn = begin(&client);
    put(&mut txn, "z", "1");
    txn.put("a", "3").expect("fits");
    txn.commit().expect("nobody was faster");
    assert_eq!(get(&client, "a").as_deref(), Some("3"));
}

#[test]
fn a_transaction_that_thinks_long_is_kept_alive() {
    let cluster = cluster(&["m"]);
    let beats = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&beats);
    let config = Config { lock_ttl_ms: 60, ..Config::default() };
    let client = spoiled_client(&cluster, config, move |request| {
        if matches!(request, Request::HeartBeat { .. }) {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        Spoil::Nothing
    });
    let mut txn = begin(&client);
    put(&mut txn, "z", "1");
    poll("two heartbeats", || beats.load(Ordering::SeqCst) >= 2);
    cluster.pass_ms(5_000);
    let mut other = begin(&cluster.client());
    assert!(lock(&mut other, "z", Wait::No).is_err(), "alive");
    txn.commit().expect("commits");
    assert_eq!(get(&client, "z").as_deref(), Some("1"));
}

/// A region that does not answer heartbeats holds up none but its own transactions.
#[test]
fn a_silent_region_does_not_let_the_transactions_of_others_die() {
    let cluster = cluster(&["m"]);
    let (silent, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let beats = Arc::new(AtomicU64::new(0));
    let (held, ended, seen) = (Arc::clone(&silent), Arc::clone(&over), Arc::clone(&beats));
    let config = Config { lock_ttl_ms: 60, ..Config::default() };
    let client = spoiled_client(&cluster, config, move |request| {
        match request {
            Request::HeartBeat { primary, .. } if primary == b"a" => {
                held.fetch_add(1, Ordering::SeqCst);
                while !ended.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            }
            Request::HeartBeat { .. } => drop(seen.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        }
        Spoil::Nothing
    });
    let (mut one, mut other) = (begin(&client), begin(&client));
    put(&mut one, "a", "1");
    put(&mut other, "z", "1");
    poll("a heartbeat that hangs", || silent.load(Ordering::SeqCst) > 0);
    let before = beats.load(Ordering::SeqCst);
    let clock = RealClock::default();
    while beats.load(Ordering::SeqCst) < before + 3 && clock.monotonic() < DEADLINE {
        std::thread::yield_now();
    }
    let went_on = beats.load(Ordering::SeqCst) >= before + 3;
    over.store(true, Ordering::SeqCst);
    assert!(went_on, "the other region's transaction had no heartbeats");
    one.commit().expect("commits");
    other.commit().expect("commits");
}

/// Locks of a transaction that lasts look old, all but its primary's: who waits for them stands in
/// the queue all the same, and is seen in a circle.
#[test]
fn a_circle_of_transactions_that_last_has_a_victim_too() {
    let cluster = cluster(&["m"]);
    let beats = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&beats);
    let config = Config { lock_ttl_ms: 60, ..Config::default() };
    let client = spoiled_client(&cluster, config, move |request| {
        if let Request::HeartBeat { primary, .. } = request {
            seen.lock().insert(primary.clone());
        }
        Spoil::Nothing
    });
    let (mut one, mut other) = (begin(&client), begin(&client));
    put(&mut one, "p1", "1");
    put(&mut one, "a", "1");
    put(&mut other, "p2", "1");
    put(&mut other, "z", "1");
    // Their primaries live on; their other locks do not.
    for _ in 0..2 {
        beats.lock().clear();
        poll("heartbeats of both", || beats.lock().len() == 2);
    }
    cluster.pass_ms(5_000);
    let waiter = spawn("waiter", move || match lock(&mut other, "a", LONG) {
        Ok(()) => drop(other.commit().expect("commits")),
        Err(e) => {
            assert!(matches!(e, Error::Deadlock { .. }), "{e}");
            other.rollback();
        }
    });
    match lock(&mut one, "z", LONG) {
        Ok(()) => drop(one.commit().expect("commits")),
        Err(e) => {
            assert!(matches!(e, Error::Deadlock { .. }), "{e}");
            one.rollback();
        }
    }
    waiter.join().expect("no panic");
    client.flush();
    assert_eq!(locks(&cluster), 0);
}

/// Committed in two phases a long value is in the store before the entry that passes its key on.
#[test]
fn a_long_value_is_there_for_the_next_one() {
    let cluster = cluster(&["m"]);
    let client = spoiled_client(&cluster, two_phase(), |_| Spoil::Nothing);
    put_all(&client, &[("a", &"x".repeat(300))]);
    let mut first = begin(&client);
    put(&mut first, "a", &"y".repeat(300));
    put(&mut first, "z", "1");
    let waiter = {
        let client = client.clone();
        spawn("waiter", move || {
            let mut next = begin(&client);
            let add = |txn: &mut Transaction| {
                let mut value = txn.get(b"a")?.unwrap_or_default();
                value.push(b'!');
                txn.put("a", value)
            };
            statement(&mut next, add).expect("locked");
            next.commit().expect("commits");
        })
    };
    poll("it waits", || !cluster.lock_waits().is_empty());
    first.commit().expect("commits");
    waiter.join().expect("no panic");
    let found = get(&client, "a").expect("a value");
    assert_eq!(found, "y".repeat(300) + "!");
}

/// A lock that came late names a primary that its transaction has given up since: whoever meets it
/// takes it off, and the transaction goes on.
#[test]
fn regions_split_under_a_pessimistic_transaction() {
    let cluster = cluster(&[]);
    let inner = Arc::clone(&cluster);
    let at = Mutex::new(vec!["k90", "k15", "k70", "k40", "k05", "k55"]);
    let client = spoiled_client(&cluster, Config::default(), move |request| {
        let splits = matches!(
            request,
            Request::PessimisticLock(_) | Request::Prewrite(_) | Request::Commit { .. }
        );
        if splits && let Some(key) = at.lock().pop() {
            inner.split(key.as_bytes());
        }
        Spoil::Nothing
    });
    let mut txn = begin(&client);
    statement(&mut txn, |txn| (0..100).try_for_each(|i| txn.put(format!("k{i:02}"), "1")))
        .expect("locked");
    assert_eq!(locks(&cluster), 100);
    txn.commit().expect("commits");
    client.flush();
    assert_eq!(locks(&cluster), 0);
    let ts = client.timestamp().expect("a timestamp");
    let pairs = client.snapshot(ts).scan(&KeyRange::all(), 1_000, false).expect("read");
    assert_eq!(pairs.len(), 100);
}

#[test]
fn an_optimistic_commit_does_not_wait_for_a_user_who_thinks() {
    let cluster = cluster(&["m"]);
    let services = Arc::clone(&cluster) as Arc<dyn Services>;
    let config = Config { lock_wait_ms: 100, ..Config::default() };
    let client = cluster.client_with(services, config).expect("valid");
    let mut holder = begin(&client);
    put(&mut holder, "a", "1");
    // With keys of its own it would hold them all the time; with one key, what its caller holds.
    for keys in [&["a", "z"][..], &["a"]] {
        let mut txn = client.begin().expect("begins");
        keys.iter().for_each(|key| txn.put(*key, "2").expect("fits"));
        assert_eq!(txn.commit().expect_err("held").kind(), ErrorKind::Conflict);
    }
    holder.commit().expect("commits");
    assert_eq!(get(&client, "a").as_deref(), Some("1"));
    client.flush();
    assert_eq!(locks(&cluster), 0);
}

/// Invariant 20, as clients see it: of those who wait for each other in a circle one gives way.
#[test]
fn of_a_circle_one_is_the_victim() {
    for size in [2, 3, 5] {
        let cluster = cluster(&["k2"]);
        let client = cluster.client();
        let ready = Arc::new(std::sync::Barrier::new(size));
        let victims = Arc::new(AtomicU64::new(0));
        let tasks: Vec<_> = (0..size)
            .map(|i| {
                let (client, ready) = (client.clone(), Arc::clone(&ready));
                let victims = Arc::clone(&victims);
                spawn("waiter", move || {
                    let mut txn = begin(&client);
                    put(&mut txn, &format!("k{i}"), "own");
                    ready.wait();
                    let next = format!("k{}", (i + 1) % size);
                    match lock(&mut txn, &next, LONG) {
                        Ok(()) => txn.commit().map(|_| ()).expect("it has all its locks"),
                        Err(Error::Deadlock { start_ts, circle, .. }) => {
                            assert_eq!((start_ts, circle.len()), (txn.start_ts(), size));
                            txn.rollback();
                            victims.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(other) => panic!("{other}"),
                    }
                })
            })
            .collect();
        tasks.into_iter().for_each(|task| task.join().expect("no panic"));
        assert_eq!(victims.load(Ordering::SeqCst), 1, "of {size}");
        client.flush();
        assert_eq!(locks(&cluster), 0);
    }
}
