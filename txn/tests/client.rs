//! The client against stores in memory: isolation, crashes of clients, lost answers, splits.

mod common;

use common::{
    Spoil, brief, cluster, get, locks, prewrite_and_die, put_all, region_of, send, spoiled_client,
    two_phase,
};
use damask_env::spawn;
use damask_txn::{Config, Context, Error, Mutation, Prewrite, Request, RequestError, Services};
use damask_types::{ErrorKind, KeyRange, StoreId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn reads_its_own_writes_over_what_is_stored() {
    let cluster = cluster(&["c", "f"]);
    let client = cluster.client();
    put_all(&client, &[("a", "1"), ("c", "1"), ("d", "1"), ("f", "1"), ("h", "1")]);
    let mut txn = client.begin().expect("begins");
    let mut model: BTreeMap<String, String> =
        ["a", "c", "d", "f", "h"].map(|k| (k.to_owned(), "1".to_owned())).into();
    for (key, value) in [("b", Some("2")), ("c", None), ("f", Some("2")), ("z", Some("2"))] {
        match value {
            Some(value) => {
                txn.put(key, value).expect("fits");
                model.insert(key.to_owned(), value.to_owned());
            }
            None => {
                txn.delete(key).expect("fits");
                model.remove(key);
            }
        }
    }
    txn.lock("d").expect("fits");
    for (start, end) in [("", ""), ("b", "f"), ("c", "d"), ("f", ""), ("", "c"), ("g", "g")] {
        for limit in [0, 1, 2, 3, 100] {
            for reverse in [false, true] {
                let range = KeyRange::new(start, end);
                let inside = model.iter().filter(|(k, _)| range.contains(k.as_bytes()));
                let inside = inside.map(|(k, v)| (k.clone().into_bytes(), v.clone().into_bytes()));
                let mut expected: Vec<_> = inside.collect();
                if reverse {
                    expected.reverse();
                }
                expected.truncate(limit);
                let found = txn.scan(&range, limit, reverse).expect("read");
                assert_eq!(found, expected, "{range:?} limit {limit} reverse {reverse}");
            }
        }
    }
    let keys: Vec<Vec<u8>> = ["z", "c", "a", "f", "x"].map(|k| k.into()).into();
    let values = txn.batch_get(&keys).expect("read");
    let expected = [Some("2"), None, Some("1"), Some("2"), None];
    assert_eq!(values, expected.map(|v| v.map(|v| v.as_bytes().to_vec())));
    let own: Vec<_> = txn.buffered(&KeyRange::all()).map(|(k, v)| (k, v.is_some())).collect();
    let expected: [(&[u8], bool); 4] = [(b"b", true), (b"c", false), (b"f", true), (b"z", true)];
    assert_eq!(own, expected);
    txn.commit().expect("commits");
    let ts = client.timestamp().expect("a timestamp");
    let stored = client.snapshot(ts).scan(&KeyRange::all(), 100, false).expect("read");
    assert_eq!(stored.len(), model.len());
    client.flush();
    assert_eq!(locks(&cluster), 0);
}

#[test]
fn a_statement_can_be_taken_back() {
    let cluster = cluster(&[]);
    let client = cluster.client();
    let mut txn = client.begin().expect("begins");
    txn.put("a", "1").expect("fits");
    let statement = txn.mark();
    txn.put("a", "2").expect("fits");
    txn.put("b", "2").expect("fits");
    txn.rollback_to(statement);
    let statement = txn.mark();
    txn.put("c", "3").expect("fits");
    txn.release(statement);
    assert_eq!((txn.len(), txn.bytes()), (2, 4));
    txn.commit().expect("commits");
    let values = ["a", "b", "c"].map(|key| get(&client, key));
    assert_eq!(values, [Some("1".to_owned()), None, Some("3".to_owned())]);
}

#[test]
fn lost_update_is_refused_and_write_skew_is_not() {
    let cluster = cluster(&["m"]);
    let client = cluster.client();
    put_all(&client, &[("x", "0"), ("y", "0"), ("a", "0")]);
    client.flush();
    let (mut one, mut two) = (client.begin().expect("begins"), client.begin().expect("begins"));
    assert_eq!(one.get(b"x").expect("read"), two.get(b"x").expect("read"));
    one.put("x", "1").expect("fits");
    two.put("x", "2").expect("fits");
    two.put("a", "2").expect("fits");
    one.commit().expect("the first commits");
    let error = two.commit().expect_err("the second does not");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(
        (get(&client, "x").as_deref(), get(&client, "a").as_deref()),
        (Some("1"), Some("0"))
    );
    assert_eq!(locks(&cluster), 0, "the second has rolled back what it locked");

    let (mut one, mut two) = (client.begin().expect("begins"), client.begin().expect("begins"));
    one.get(b"y").expect("read");
    two.get(b"x").expect("read");
    one.put("x", "skew").expect("fits");
    two.put("y", "skew").expect("fits");
    one.commit().expect("commits");
    two.commit().expect("commits too: snapshot isolation permits it");

    // A lock on what was read forbids it.
    let (mut one, mut two) = (client.begin().expect("begins"), client.begin().expect("begins"));
    one.lock("y").expect("fits");
    two.lock("x").expect("fits");
    one.put("x", "1").expect("fits");
    two.put("y", "1").expect("fits");
    one.commit().expect("commits");
    assert_eq!(two.commit().expect_err("refused").kind(), ErrorKind::Conflict);
}

#[test]
fn an_insert_is_unique() {
    let cluster = cluster(&["m"]);
    let client = cluster.client();
    put_all(&client, &[("a", "1"), ("gone", "1")]);
    let mut txn = client.begin().expect("begins");
    txn.delete("gone").expect("fits");
    txn.commit().expect("commits");

    let mut txn = client.begin().expect("begins");
    txn.insert("z", "1").expect("fits");
    txn.insert("a", "2").expect("only the commit finds it");
    let error = txn.commit().expect_err("exists");
    assert_eq!(error, Error::AlreadyExists { key: b"a".to_vec() });
    assert_eq!((get(&client, "z"), locks(&cluster)), (None, 0));

    // Inserted and deleted again: it must not have been there either.
    let mut txn = client.begin().expect("begins");
    txn.insert("a", "2").expect("fits");
    txn.delete("a").expect("fits");
    assert_eq!(txn.commit().expect_err("exists"), Error::AlreadyExists { key: b"a".to_vec() });
    assert_eq!(get(&client, "a").as_deref(), Some("1"));

    let mut txn = client.begin().expect("begins");
    txn.insert("gone", "back").expect("fits");
    txn.delete("a").expect("fits");
    txn.insert("a", "replaced").expect("deleted by itself");
    txn.commit().expect("commits");
    let values = ["gone", "a"].map(|key| get(&client, key));
    assert_eq!(values, [Some("back".to_owned()), Some("replaced".to_owned())]);
}

#[test]
fn of_many_who_insert_one_key_one_succeeds() {
    let cluster = cluster(&[]);
    let client = cluster.client();
    let won = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..8)
        .map(|i| {
            let (client, won) = (client.clone(), Arc::clone(&won));
            spawn("inserter", move || {
                let mut txn = client.begin().expect("begins");
                txn.insert("k", format!("{i}")).expect("fits");
                match txn.commit() {
                    Ok(_) => drop(won.fetch_add(1, Ordering::SeqCst)),
                    Err(Error::AlreadyExists { .. } | Error::Conflict { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| task.join().expect("no panic"));
    assert_eq!(won.load(Ordering::SeqCst), 1);
}

#[test]
fn a_client_that_dies_after_prewrite_is_rolled_back_when_its_time_is_over() {
    let cluster = cluster(&["b", "c"]);
    let client = cluster.client();
    put_all(&client, &[("a", "old"), ("b", "old"), ("c", "old")]);
    client.flush();
    let start_ts = prewrite_and_die(&cluster, &["b", "a", "c"], "new");
    // Alive: readers push it out of their way, and see what was there before.
    assert_eq!(get(&client, "b").as_deref(), Some("old"));
    assert_eq!(get(&client, "a").as_deref(), Some("old"));
    assert_eq!(client.get_latest(b"b").expect("read").as_deref(), Some(&b"old"[..]));
    assert_eq!(locks(&cluster), 3);
    cluster.pass_ms(4_000);
    let ts = client.timestamp().expect("a timestamp");
    let pairs = client.snapshot(ts).scan(&KeyRange::all(), 10, true).expect("read");
    assert!(pairs.iter().all(|(_, value)| value == b"old"), "{pairs:?}");
    // The primary and what was read are clean; a late commit finds it has lost.
    let region = region_of(&cluster, "b");
    let context = Context { region: region.id, epoch: region.epoch };
    let commit = Request::Commit { keys: vec![b"b".to_vec()], start_ts, commit_ts: ts.next() };
    let service = cluster.service(StoreId(1)).expect("the store");
    assert!(matches!(service.call(context, commit), Err(RequestError::Keys(_))));
    assert_eq!(locks(&cluster), 0);
}

#[test]
fn a_client_that_dies_after_the_decision_is_finished_by_readers_and_writers() {
    let cluster = cluster(&["b", "c"]);
    let client = cluster.client();
    put_all(&client, &[("a", "old"), ("b", "old"), ("c", "old")]);
    client.flush();
    let start_ts = prewrite_and_die(&cluster, &["b", "a", "c"], "new");
    let commit_ts = client.timestamp().expect("a timestamp");
    send(&cluster, "b", Request::Commit { keys: vec![b"b".to_vec()], start_ts, commit_ts });
    assert_eq!(get(&client, "a").as_deref(), Some("new"));
    let before = client.snapshot(commit_ts.prev()).get(b"c").expect("read");
    assert_eq!(before.as_deref(), Some(&b"old"[..]));
    put_all(&client, &[("c", "newer")]);
    client.flush();
    assert_eq!(locks(&cluster), 0);
    let at = client.snapshot(commit_ts).get(b"c").expect("read");
    assert_eq!(at.as_deref(), Some(&b"new"[..]));
}

#[test]
fn a_dead_secondary_whose_primary_was_never_locked_is_rolled_back() {
    let cluster = cluster(&["m"]);
    let client = cluster.client();
    let start_ts = client.timestamp().expect("a timestamp");
    let mutations = vec![Mutation::Put { key: b"z".to_vec(), value: b"1".to_vec() }];
    let primary = b"a".to_vec();
    let (ttl_ms, txn_size) = (3_000, 2);
    let prewrite =
        Prewrite { mutations, primary, start_ts, ttl_ms, txn_size, ..Prewrite::default() };
    let prewrite = Request::Prewrite(prewrite);
    send(&cluster, "z", prewrite);
    let impatient =
        cluster.client_with(Arc::clone(&cluster) as Arc<dyn Services>, brief()).expect("valid");
    let ts = impatient.timestamp().expect("a timestamp");
    let error = impatient.snapshot(ts).get(b"z").expect_err("it may be alive");
    assert!(matches!(error, Error::LockTimeout { holder, .. } if holder == start_ts), "{error}");
    cluster.pass_ms(4_000);
    assert_eq!(get(&client, "z"), None);
    assert_eq!(locks(&cluster), 0);
}

#[test]
fn many_locks_of_a_dead_transaction_are_ended_at_once() {
    let cluster = cluster(&["k500"]);
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let client = spoiled_client(&cluster, two_phase(), move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Spoil::Nothing
    });
    let keys: Vec<Vec<u8>> = (0..1_000).map(|i| format!("k{i:03}").into_bytes()).collect();
    let start_ts = client.timestamp().expect("a timestamp");
    for half in keys.chunks(500) {
        let put = |key: &Vec<u8>| Mutation::Put { key: key.clone(), value: b"x".to_vec() };
        let mutations = half.iter().map(put).collect();
        let primary = keys[0].clone();
        let (ttl_ms, txn_size) = (10, 1_000);
        let prewrite =
            Prewrite { mutations, primary, start_ts, ttl_ms, txn_size, ..Prewrite::default() };
        let request = Request::Prewrite(prewrite);
        send(&cluster, std::str::from_utf8(&half[0]).expect("text"), request);
    }
    cluster.pass_ms(100);
    let ts = client.timestamp().expect("a timestamp");
    assert!(client.snapshot(ts).scan(&KeyRange::all(), 10, false).expect("read").is_empty());
    assert_eq!(locks(&cluster), 0);
    let calls = calls.load(Ordering::SeqCst);
    assert!(calls < 12, "{calls} requests for 1000 locks of one transaction");
}

#[test]
fn a_lost_answer_to_the_commit_is_asked_for_again() {
    for spoil_first in [0, 1] {
        let cluster = cluster(&["m"]);
        let commits = AtomicU64::new(0);
        let client = spoiled_client(&cluster, two_phase(), move |request| match request {
            Request::Commit { .. } if commits.fetch_add(1, Ordering::SeqCst) == 0 => {
                match spoil_first {
                    0 => Spoil::LoseAnswer,
                    _ => Spoil::LoseRequest,
                }
            }
            _ => Spoil::Nothing,
        });
        put_all(&client, &[("a", "1"), ("z", "1")]);
        client.flush();
        assert_eq!((get(&client, "a").as_deref(), locks(&cluster)), (Some("1"), 0));
    }
}

#[test]
fn an_outcome_that_stays_unknown_is_reported_as_unknown() {
    let cluster = cluster(&["m"]);
    let arrives = |request: &Request| match request {
        Request::Commit { .. } => Spoil::LoseAnswer,
        _ => Spoil::Nothing,
    };
    let client = spoiled_client(&cluster, brief(), arrives);
    let mut txn = client.begin().expect("begins");
    ["a", "z"].into_iter().for_each(|key| txn.put(key, "1").expect("fits"));
    let error = txn.commit().expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::Undetermined, "{error}");
    // It had happened; and nothing was rolled back.
    let other = cluster.client();
    let values = ["a", "z"].map(|key| get(&other, key));
    assert_eq!(values, [Some("1".to_owned()), Some("1".to_owned())]);

    let lost = |request: &Request| match request {
        Request::Commit { .. } => Spoil::LoseRequest,
        _ => Spoil::Nothing,
    };
    let client = spoiled_client(&cluster, brief(), lost);
    let mut txn = client.begin().expect("begins");
    ["a", "z"].into_iter().for_each(|key| txn.put(key, "2").expect("fits"));
    assert_eq!(txn.commit().expect_err("unknown").kind(), ErrorKind::Undetermined);
    // It had not: it ends with its locks.
    cluster.pass_ms(30_000);
    let values = ["a", "z"].map(|key| get(&other, key));
    assert_eq!(values, [Some("1".to_owned()), Some("1".to_owned())]);
}

#[test]
fn a_commit_that_was_never_accepted_is_no_commit() {
    let cluster = cluster(&["m"]);
    let client = spoiled_client(&cluster, brief(), |request| match request {
        Request::Commit { .. } => Spoil::Refuse,
        _ => Spoil::Nothing,
    });
    let mut txn = client.begin().expect("begins");
    ["a", "z"].into_iter().for_each(|key| txn.put(key, "1").expect("fits"));
    let error = txn.commit().expect_err("refused");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert_eq!(locks(&cluster), 0, "known to have failed, so rolled back");
}

#[test]
fn regions_may_split_under_a_transaction() {
    let cluster = cluster(&[]);
    let client = cluster.client();
    let mut txn = client.begin().expect("begins");
    for i in 0..100 {
        txn.put(format!("k{i:02}"), "1").expect("fits");
    }
    ["k20", "k50", "k80"].into_iter().for_each(|key| cluster.split(key.as_bytes()));
    txn.commit().expect("commits");
    // And between its phases.
    let inner = Arc::clone(&cluster);
    let at = Mutex::new(vec!["k10", "k30", "k70"]);
    let splitting = spoiled_client(&cluster, two_phase(), move |request| {
        if matches!(request, Request::Commit { .. })
            && let Some(key) = at.lock().pop()
        {
            inner.split(key.as_bytes());
        }
        Spoil::Nothing
    });
    let mut txn = splitting.begin().expect("begins");
    for i in 0..100 {
        txn.put(format!("k{i:02}"), "2").expect("fits");
    }
    txn.commit().expect("commits");
    splitting.flush();
    assert_eq!((cluster.replica().regions().len(), locks(&cluster)), (7, 0));
    let ts = client.timestamp().expect("a timestamp");
    let pairs = client.snapshot(ts).scan(&KeyRange::all(), 1_000, false).expect("read");
    assert_eq!(pairs.iter().filter(|(_, value)| value == b"2").count(), 100);
    let back = client.snapshot(ts).scan(&KeyRange::all(), 1_000, true).expect("read");
    assert!(back.iter().rev().eq(pairs.iter()));
}

#[test]
fn a_large_transaction_is_all_or_nothing() {
    const ROWS: usize = 20_000;
    let cluster = cluster(&["r05000", "r10000", "r15000"]);
    let client = cluster.client();
    let fill = |value: &str| {
        let mut txn = client.begin().expect("begins");
        for i in 0..ROWS {
            txn.put(format!("r{i:05}"), format!("{value}{:0>80}", i)).expect("fits");
        }
        txn
    };
    fill("a").commit().expect("commits");
    client.flush();
    assert_eq!(locks(&cluster), 0);
    let txn = fill("b");
    put_all(&client, &[("r19999", "mine")]);
    assert_eq!(txn.commit().expect_err("loses").kind(), ErrorKind::Conflict);
    assert_eq!(locks(&cluster), 0);
    let ts = client.timestamp().expect("a timestamp");
    let pairs = client.snapshot(ts).scan(&KeyRange::all(), usize::MAX, false).expect("read");
    assert_eq!(pairs.len(), ROWS);
    assert_eq!(pairs.iter().filter(|(_, value)| value[0] == b'a').count(), ROWS - 1);
}

#[test]
fn too_much_is_refused_before_anything_is_sent() {
    let cluster = cluster(&[]);
    let services = Arc::clone(&cluster) as Arc<dyn Services>;
    let config = Config { entry_bytes_max: 100, transaction_bytes_max: 250, ..Config::default() };
    let client = cluster.client_with(services, config).expect("valid");
    let mut txn = client.begin().expect("begins");
    let error = txn.put("k", vec![0; 100]).expect_err("too large");
    assert_eq!(error.to_string(), "a key with its value of 101 bytes is above the limit of 100");
    txn.put("a", vec![0; 99]).expect("fits");
    txn.put("b", vec![0; 99]).expect("fits");
    let error = txn.put("c", vec![0; 99]).expect_err("too large");
    assert_eq!(error.to_string(), "a transaction of 300 bytes is above the limit of 250");
    txn.commit().expect("what fitted commits");
}

/// One key written again and again under a savepoint: it stays small, what is kept to take the
/// writes back does not.
#[test]
fn savepoints_do_not_keep_without_bounds() {
    let cluster = cluster(&[]);
    let services = Arc::clone(&cluster) as Arc<dyn Services>;
    let config = Config { entry_bytes_max: 100, transaction_bytes_max: 1_000, ..Config::default() };
    let client = cluster.client_with(services, config).expect("valid");
    let mut txn = client.begin().expect("begins");
    let mark = txn.mark();
    let error = (0..100).find_map(|_| txn.put("k", vec![0; 99]).err()).expect("refused");
    let Error::TooLarge { what, bytes, limit: 1_000 } = &error else { panic!("{error}") };
    assert!(*what == "what savepoints keep" && *bytes < 1_200, "{error}");
    txn.rollback_to(mark);
    txn.put("k", vec![1; 99]).expect("there is room again");
    txn.commit().expect("commits");
    assert_eq!(client.get_latest(b"k").expect("read"), Some(vec![1; 99]));
}

#[test]
fn opposite_orders_do_not_wait_for_each_other_for_ever() {
    let cluster = cluster(&["m"]);
    let client = cluster.client();
    let done = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..2)
        .map(|_| {
            let (client, done) = (client.clone(), Arc::clone(&done));
            spawn("writer", move || {
                for _ in 0..150 {
                    let mut txn = client.begin().expect("begins");
                    txn.put("a", "1").expect("fits");
                    txn.put("z", "1").expect("fits");
                    match txn.commit() {
                        Ok(_) => drop(done.fetch_add(1, Ordering::SeqCst)),
                        Err(Error::Conflict { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| task.join().expect("no panic"));
    assert!(done.load(Ordering::SeqCst) > 0);
    client.flush();
    assert_eq!(locks(&cluster), 0);
}

#[test]
fn a_counter_counts_every_run() {
    let cluster = cluster(&[]);
    let client = cluster.client();
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            spawn("counter", move || {
                for _ in 0..50 {
                    client
                        .run(|txn| {
                            let now = txn.get(b"n")?.map_or(0, |v| v[0]);
                            txn.put("n", vec![now + 1])
                        })
                        .expect("counts");
                }
            })
        })
        .collect();
    tasks.into_iter().for_each(|task| task.join().expect("no panic"));
    assert_eq!(client.get_latest(b"n").expect("read"), Some(vec![200]));
}

#[test]
fn dropping_the_client_ends_its_threads_and_loses_nothing() {
    let cluster = cluster(&["m"]);
    for i in 0..20 {
        let client = cluster.client();
        put_all(&client, &[("a", &format!("{i}")), ("z", &format!("{i}"))]);
    }
    let client = cluster.client();
    let values = ["a", "z"].map(|key| get(&client, key));
    assert_eq!(values, [Some("19".to_owned()), Some("19".to_owned())]);
}

#[test]
fn a_commit_that_takes_long_is_kept_alive() {
    let cluster = cluster(&["m"]);
    let beats = Arc::new(AtomicU64::new(0));
    let (inner, seen) = (Arc::clone(&cluster), Arc::clone(&beats));
    let config = Config { lock_ttl_ms: 60, ..two_phase() };
    let client = spoiled_client(&cluster, config, move |request| {
        match request {
            Request::HeartBeat { .. } => drop(seen.fetch_add(1, Ordering::SeqCst)),
            Request::Commit { .. } if seen.load(Ordering::SeqCst) == 0 => {
                // Held until the second heartbeat is sent, so the first has arrived.
                while seen.load(Ordering::SeqCst) < 2 {
                    std::thread::yield_now();
                }
                // Long after its first lifetime somebody finds the lock.
                inner.pass_ms(5_000);
                assert_eq!(get(&inner.client(), "a"), None);
            }
            _ => {}
        }
        Spoil::Nothing
    });
    put_all(&client, &[("a", "1"), ("z", "1")]);
    assert_eq!(get(&client, "a").as_deref(), Some("1"));
    assert!(beats.load(Ordering::SeqCst) >= 2);
}
