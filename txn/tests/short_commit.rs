//! One-phase and async commit: what they cost, what becomes of them when answers are lost, regions
//! split or clients die, and when they fall back to two phases.

mod common;

use common::{Spoil, cluster, get, locks, put_all, region_of, send, spoiled_client};
use damask_env::RealClock;
use damask_pd::Locate;
use damask_tso::Oracle;
use damask_txn::{
    Client, Config, Context, Error, Finish, Isolation, LocalCluster, Mode, Mutation, Options,
    Prewrite, Reads, Request, RequestError, Response, Service, Services, Transaction, Wait,
};
use damask_types::{ErrorKind, KeyRange, StoreId, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

fn brief() -> Config {
    Config { request_ms: 300, lock_wait_ms: 300, ..Config::default() }
}

fn write(client: &Client, keys: &[&str], value: &str) -> Result<Timestamp, Error> {
    let mut txn = client.begin().expect("begins");
    keys.iter().for_each(|key| txn.put(*key, value).expect("fits"));
    txn.commit().map(|ts| ts.expect("not read-only"))
}

fn values(client: &Client, keys: &[&str]) -> Vec<Option<String>> {
    keys.iter().map(|key| get(client, key)).collect()
}

fn all(value: &str, count: usize) -> Vec<Option<String>> {
    vec![Some(value.to_owned()); count]
}

/// What one request is, in a word.
fn name(request: &Request) -> &'static str {
    match request {
        Request::Prewrite(prewrite) => match prewrite.finish {
            Finish::OnePhase => "one-phase",
            Finish::Async { .. } => "async",
            Finish::TwoPhase => "two-phase",
        },
        Request::Commit { .. } => "commit",
        Request::PessimisticLock(_) => "lock",
        Request::Rollback { .. } => "rollback",
        Request::PessimisticRollback { .. } => "unlock",
        Request::Get { .. } => "get",
        _ => "other",
    }
}

type Seen = Arc<Mutex<Vec<&'static str>>>;

fn recorded(cluster: &Arc<LocalCluster>) -> (Client, Seen) {
    let seen = Seen::default();
    let list = Arc::clone(&seen);
    let client = spoiled_client(cluster, Config::default(), move |request| {
        list.lock().push(name(request));
        Spoil::Nothing
    });
    (client, seen)
}

struct Counted(Arc<dyn Oracle>, AtomicU64);

impl Oracle for Counted {
    fn get(&self, n: u32) -> Result<Timestamp, damask_tso::Error> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.get(n)
    }
}

#[test]
fn a_write_of_one_row_takes_two_timestamps_and_one_request() {
    let cluster = cluster(&["m"]);
    let requests = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&requests);
    let inner = cluster.service(StoreId(1)).expect("the store");
    let services = common::spoiled_services(inner, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Spoil::Nothing
    });
    let oracle = Arc::new(Counted(cluster.oracle(), AtomicU64::new(0)));
    let (timestamps, locate) = (Arc::clone(&oracle), Arc::clone(&cluster) as Arc<dyn Locate>);
    let clock = Arc::new(RealClock::default());
    let client = Client::new(oracle, locate, services, clock, Config::default()).expect("valid");
    let cost = || {
        client.flush();
        (timestamps.1.swap(0, Ordering::SeqCst), requests.swap(0, Ordering::SeqCst))
    };
    cost();
    write(&client, &["a"], "1").expect("commits");
    assert_eq!(cost(), (2, 1), "blind write");
    let mut txn = client.begin().expect("begins");
    txn.get(b"a").expect("read");
    txn.put("a", "2").expect("fits");
    txn.commit().expect("commits");
    assert_eq!(cost(), (2, 2), "read, then write");
    write(&client, &["a", "b", "c"], "3").expect("commits");
    assert_eq!(cost(), (2, 1), "three rows of one region");
    write(&client, &["a", "z"], "4").expect("commits");
    assert_eq!(cost(), (2, 4), "two regions: two prewrites; two commits after the answer");
    assert_eq!((values(&client, &["a", "z"]), locks(&cluster)), (all("4", 2), 0));
}

#[test]
fn the_way_depends_on_regions_and_size() {
    let cluster = cluster(&["m"]);
    let (client, seen) = recorded(&cluster);
    let ways = |client: &Client| {
        client.flush();
        let mut list = std::mem::take(&mut *seen.lock());
        list.dedup();
        list
    };
    write(&client, &["a", "b"], "1").expect("commits");
    assert_eq!(ways(&client), ["one-phase"]);
    write(&client, &["a", "z"], "1").expect("commits");
    assert_eq!(ways(&client), ["async", "commit"]);
    let mut txn = client.begin().expect("begins");
    (0..300).for_each(|i| txn.put(format!("{}{i}", ["a", "z"][i % 2]), "1").expect("fits"));
    txn.commit().expect("commits");
    assert_eq!(ways(&client), ["two-phase", "commit"], "too many keys");
    let mut txn = client.begin().expect("begins");
    let long = "k".repeat(3_000);
    ["a", "z"].iter().for_each(|key| txn.put(format!("{key}{long}"), "1").expect("fits"));
    txn.commit().expect("commits");
    assert_eq!(ways(&client), ["two-phase", "commit"], "too long keys");
    assert_eq!(locks(&cluster), 0);
}

#[test]
fn pessimistic_transactions_end_the_same_ways() {
    let cluster = cluster(&["m"]);
    let (client, seen) = recorded(&cluster);
    let options = Options { mode: Mode::Pessimistic, isolation: Isolation::RepeatableRead };
    for (keys, ways) in
        [(["a", "b"], vec!["lock", "one-phase"]), (["a", "z"], vec!["lock", "async", "commit"])]
    {
        let mut txn = client.begin_with(options).expect("begins");
        let mark = txn.mark();
        txn.begin_statement(Reads::Current).expect("a timestamp");
        keys.iter().for_each(|key| txn.put(*key, "1").expect("fits"));
        txn.lock_written(&mark, Wait::No).expect("locked");
        txn.release(mark);
        txn.commit().expect("commits");
        client.flush();
        let mut list = std::mem::take(&mut *seen.lock());
        list.dedup();
        assert_eq!(list, ways);
        assert_eq!((values(&client, &keys), locks(&cluster)), (all("1", 2), 0));
        seen.lock().clear();
    }
}

/// A lost answer or request, once: asked for again, and committed once.
#[test]
fn what_is_lost_once_is_asked_for_again() {
    for keys in [&["a", "b"][..], &["a", "z"], &["a", "g", "z"]] {
        for lose_request in [false, true] {
            for nth in 0..keys.len() as u32 {
                let cluster = cluster(&["d", "m"]);
                let count = AtomicU32::new(0);
                let client =
                    spoiled_client(&cluster, Config::default(), move |request| match request {
                        Request::Prewrite(_) if count.fetch_add(1, Ordering::SeqCst) == nth => {
                            if lose_request {
                                Spoil::LoseRequest
                            } else {
                                Spoil::LoseAnswer
                            }
                        }
                        _ => Spoil::Nothing,
                    });
                let commit_ts = write(&client, keys, "1").expect("commits");
                client.flush();
                assert_eq!(values(&client, keys), all("1", keys.len()));
                assert_eq!(locks(&cluster), 0);
                let before = client.snapshot(commit_ts.prev());
                assert_eq!(before.scan(&KeyRange::all(), 9, false).expect("read"), []);
            }
        }
    }
}

/// Invariant 17: what stays unknown is found out, or said to be unknown.
#[test]
fn undetermined_not_retried() {
    for keys in [&["a", "b"][..], &["a", "z"]] {
        // Prewrites are never answered. Those that are sent arrive: that is found out.
        let cluster = cluster(&["m"]);
        let client = spoiled_client(&cluster, brief(), |request| match request {
            Request::Prewrite(_) => Spoil::LoseAnswer,
            _ => Spoil::Nothing,
        });
        let result = write(&client, keys, "1");
        client.flush();
        match result {
            Ok(commit_ts) => {
                assert_eq!(values(&client, keys), all("1", 2));
                let before = client.snapshot(commit_ts.prev());
                assert_eq!(before.scan(&KeyRange::all(), 9, false).expect("read"), []);
            }
            // The first region has used up the time before the second was asked.
            Err(Error::Unavailable { .. }) if keys[1] == "z" => {
                assert_eq!(values(&client, keys), [None, None]);
                write(&cluster.client(), keys, "1").expect("commits");
            }
            Err(other) => panic!("{other}"),
        }
        cluster.client().flush();

        // They do not arrive: it is not committed, and stays so.
        let late = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&late);
        let client = spoiled_client(&cluster, brief(), move |request| match request {
            Request::Prewrite(_) => {
                keep.lock().push(request.clone());
                Spoil::LoseRequest
            }
            _ => Spoil::Nothing,
        });
        let error = write(&client, keys, "2").expect_err("nothing arrived");
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        for request in late.lock().drain(..) {
            let Request::Prewrite(prewrite) = &request else { unreachable!() };
            let key = String::from_utf8(prewrite.mutations[0].key().to_vec()).expect("text");
            let region = region_of(&cluster, &key);
            let context = Context { region: region.id, epoch: region.epoch };
            let service = cluster.service(StoreId(1)).expect("the store");
            drop(service.call(context, request));
        }
        cluster.pass_ms(30_000);
        assert_eq!((values(&client, keys), locks(&cluster)), (all("1", 2), 0));

        // Nobody can tell either.
        let client = spoiled_client(&cluster, brief(), |request| match request {
            Request::Prewrite(_) => Spoil::LoseAnswer,
            _ => Spoil::LoseRequest,
        });
        let error = write(&client, keys, "3").expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Undetermined, "{error}");
        cluster.pass_ms(30_000);
        let found = values(&cluster.client(), keys);
        assert!(found == all("3", 2) || (keys[1] == "z" && found == all("1", 2)), "{found:?}");
    }
}

/// One region answers, the other does not: all or nothing, and the client knows which.
#[test]
fn half_an_async_commit_is_none() {
    let cluster = cluster(&["m"]);
    let mut expected = vec![None, None];
    for (silent, arrives) in [("a", true), ("a", false), ("z", true), ("z", false)] {
        let client = spoiled_client(&cluster, brief(), move |request| match request {
            Request::Prewrite(p) if p.mutations[0].key() == silent.as_bytes() => {
                if arrives {
                    Spoil::LoseAnswer
                } else {
                    Spoil::LoseRequest
                }
            }
            _ => Spoil::Nothing,
        });
        let value = format!("{silent}{arrives}");
        match write(&client, &["a", "z"], &value) {
            Ok(_) => {
                assert!(arrives);
                expected = all(&value, 2);
            }
            // It did not arrive, or the time was over before the other was asked.
            Err(error) => assert!(matches!(error, Error::Unavailable { .. }), "{error}"),
        }
        client.flush();
        assert_eq!(
            (values(&cluster.client(), &["a", "z"]), locks(&cluster)),
            (expected.clone(), 0)
        );
    }
    assert_ne!(expected, [None, None]);
}

#[test]
fn an_async_commit_is_answered_before_it_is_written_down() {
    let cluster = cluster(&["m"]);
    let client = spoiled_client(&cluster, brief(), |request| match request {
        Request::Commit { .. } => Spoil::Refuse,
        _ => Spoil::Nothing,
    });
    let commit_ts = write(&client, &["a", "z"], "1").expect("decided");
    client.flush();
    assert_eq!(locks(&cluster), 2, "nothing is written down yet");
    // Its own client knows the outcome.
    assert_eq!(get(&client, "z").as_deref(), Some("1"));
    // Another finds it out from the locks, when their time is over.
    let other = cluster.client();
    cluster.pass_ms(30_000);
    assert_eq!(get(&other, "a").as_deref(), Some("1"));
    assert_eq!(locks(&cluster), 0);
    let at = |ts| other.snapshot(ts).get(b"a").expect("read");
    assert_eq!((at(commit_ts.prev()), at(commit_ts).as_deref()), (None, Some(&b"1"[..])));
}

/// Prewrites keys as an async commit, one request each, in the given ways; and dies.
fn die(cluster: &Arc<LocalCluster>, keys: &[(&str, bool)], names: &[&str]) -> Timestamp {
    let client = cluster.client();
    let start_ts = client.timestamp().expect("a timestamp");
    let min_commit_ts = client.timestamp().expect("a timestamp").next();
    for (at, (key, is_async)) in keys.iter().enumerate() {
        let (key, value) = (key.as_bytes().to_vec(), b"dead".to_vec());
        let secondaries = match at {
            0 => names.iter().map(|key| key.as_bytes().to_vec()).collect(),
            _ => Vec::new(),
        };
        let finish = if *is_async { Finish::Async { secondaries } } else { Finish::TwoPhase };
        let prewrite = Prewrite {
            mutations: vec![Mutation::Put { key, value }],
            primary: keys[0].0.into(),
            start_ts,
            ttl_ms: 3_000,
            txn_size: names.len() as u64 + 1,
            min_commit_ts,
            finish,
            ..Prewrite::default()
        };
        send(cluster, keys[at].0, Request::Prewrite(prewrite));
    }
    start_ts
}

#[test]
fn a_dead_async_commit_is_decided_by_its_keys() {
    let keys = ["a", "g", "z"];
    let old = || vec![Some("old".to_owned()); 3];
    let cases = [
        // All are locked: committed.
        (vec![("g", true), ("a", true), ("z", true)], all("dead", 3)),
        // One is missing: rolled back.
        (vec![("g", true), ("a", true)], old()),
        (vec![("g", true)], old()),
        // One is locked for two phases: only the primary decides, and nobody has committed it.
        (vec![("g", true), ("a", true), ("z", false)], old()),
        (vec![("g", false), ("a", true), ("z", true)], old()),
    ];
    for (locked, expected) in cases {
        for first in keys {
            let cluster = cluster(&["d", "m"]);
            let client = cluster.client();
            put_all(&client, &keys.map(|key| (key, "old")));
            client.flush();
            let start_ts = die(&cluster, &locked, &["a", "z"]);
            // Whoever meets it while it may be alive waits.
            let impatient = spoiled_client(&cluster, brief(), |_| Spoil::Nothing);
            let ts = impatient.timestamp().expect("a timestamp");
            match impatient.snapshot(ts).get(b"g") {
                Err(Error::LockTimeout { .. }) if locked[0].1 => {}
                // A primary in two phases is pushed out of the way.
                Ok(Some(value)) if !locked[0].1 && value == b"old" => {}
                other => panic!("{locked:?}: {other:?}"),
            }
            cluster.pass_ms(4_000);
            drop(get(&client, first));
            assert_eq!(values(&client, &keys), expected, "{locked:?}, met at {first}");
            assert_eq!(locks(&cluster), 0, "{locked:?}");
            // What comes late finds it decided, or is ended by whoever meets it.
            let (key, value) = (b"z".to_vec(), b"late".to_vec());
            let prewrite = Prewrite {
                mutations: vec![Mutation::Put { key, value }],
                primary: b"g".to_vec(),
                start_ts,
                ttl_ms: 3_000,
                txn_size: 3,
                finish: Finish::Async { secondaries: Vec::new() },
                ..Prewrite::default()
            };
            let region = region_of(&cluster, "z");
            let context = Context { region: region.id, epoch: region.epoch };
            let service = cluster.service(StoreId(1)).expect("the store");
            let answer = service.call(context, Request::Prewrite(prewrite));
            if expected[2].as_deref() == Some("dead") {
                let Ok(Response::Prewritten { commit_ts, .. }) = answer else {
                    panic!("{answer:?}");
                };
                assert!(commit_ts > start_ts, "it is committed");
            }
            assert_eq!(values(&cluster.client(), &keys), expected, "{locked:?}");
            assert_eq!(locks(&cluster), 0, "{locked:?}");
        }
    }
}

#[test]
fn the_latest_version_is_read_past_a_lock_only_if_that_is_not_committed() {
    let cluster = cluster(&["m"]);
    let client = cluster.client();
    put_all(&client, &[("a", "old"), ("z", "old")]);
    client.flush();
    let impatient = spoiled_client(&cluster, brief(), |_| Spoil::Nothing);
    // In two phases: the primary is not committed, so nothing is.
    common::prewrite_and_die(&cluster, &["a", "z"], "dead");
    for key in ["a", "z"] {
        let value = impatient.get_latest(key.as_bytes()).expect("read");
        assert_eq!(value.as_deref(), Some(&b"old"[..]));
    }
    cluster.pass_ms(4_000);
    assert_eq!(get(&client, "z").as_deref(), Some("old"));
    assert_eq!(get(&client, "a").as_deref(), Some("old"));
    // Async: it may be, so a reader waits.
    die(&cluster, &[("a", true), ("z", true)], &["z"]);
    for key in ["a", "z"] {
        let error = impatient.get_latest(key.as_bytes()).expect_err("nobody knows yet");
        assert!(matches!(error, Error::LockTimeout { .. }), "{error}");
    }
    cluster.pass_ms(4_000);
    let value = impatient.get_latest(b"z").expect("read");
    assert_eq!(value.as_deref(), Some(&b"dead"[..]));
}

/// A store that changes prewrites before it decides on them.
struct Changed<F>(Arc<dyn Service>, F);

impl<F: Fn(&mut Prewrite) + Send + Sync + 'static> Service for Changed<F> {
    fn call(&self, context: Context, mut request: Request) -> Result<Response, RequestError> {
        if let Request::Prewrite(prewrite) = &mut request {
            (self.1)(prewrite);
        }
        self.0.call(context, request)
    }
}

struct One(Arc<dyn Service>);

impl Services for One {
    fn service(&self, _: StoreId) -> Option<Arc<dyn Service>> {
        Some(Arc::clone(&self.0))
    }
}

fn changed_client(
    cluster: &Arc<LocalCluster>,
    change: impl Fn(&mut Prewrite) + Send + Sync + 'static,
) -> Client {
    let inner = cluster.service(StoreId(1)).expect("the store");
    let services = Arc::new(One(Arc::new(Changed(inner, change))));
    cluster.client_with(services, Config::default()).expect("valid")
}

fn has_key(prewrite: &Prewrite, keys: &[&str]) -> bool {
    prewrite.mutations.iter().any(|m| keys.iter().any(|key| key.as_bytes() == m.key()))
}

#[test]
fn a_store_may_ask_for_two_phases() {
    let keys = ["a", "z"];
    for (splits, reluctant) in
        [(&[][..], &["a"][..]), (&["m"], &["a"]), (&["m"], &["z"]), (&["m"], &["a", "z"])]
    {
        let cluster = cluster(splits);
        let client = changed_client(&cluster, move |prewrite| {
            if has_key(prewrite, reluctant) {
                prewrite.finish = Finish::TwoPhase;
            }
        });
        let commit_ts = write(&client, &keys, "1").expect("commits");
        assert_eq!(values(&client, &keys), all("1", 2));
        client.flush();
        assert_eq!(locks(&cluster), 0);
        let before = client.snapshot(commit_ts.prev());
        assert_eq!(before.scan(&KeyRange::all(), 9, false).expect("read"), []);
    }
}

/// Invariants 4 and 10: one version for all keys, above what any of them asks for.
#[test]
fn an_async_commit_is_at_the_highest_version_that_a_key_asks_for() {
    for late in ["a", "g", "z"] {
        let cluster = cluster(&["d", "m"]);
        let wanted = Timestamp(cluster.oracle().get(1).expect("a counter").0 + 1_000);
        let client = changed_client(&cluster, move |prewrite| {
            if has_key(prewrite, &[late]) {
                prewrite.min_commit_ts = prewrite.min_commit_ts.max(wanted);
            }
        });
        let keys = ["a", "g", "z"];
        assert_eq!(write(&client, &keys, "1"), Ok(wanted), "{late}");
        client.flush();
        assert_eq!(locks(&cluster), 0, "{late}");
        let before = client.snapshot(wanted.prev());
        assert_eq!(before.scan(&KeyRange::all(), 9, false).expect("read"), []);
        let at = client.snapshot(wanted).scan(&KeyRange::all(), 9, false).expect("read");
        assert_eq!(at.len(), 3, "{late}");
    }
}

/// A region splits under a one-phase commit, whose first request has or has not arrived.
#[test]
fn a_split_ends_the_one_phase() {
    for lost in [None, Some(false), Some(true)] {
        let cluster = cluster(&[]);
        let (inner, at) = (Arc::clone(&cluster), Mutex::new(vec!["m"]));
        let client = spoiled_client(&cluster, Config::default(), move |request| {
            if !matches!(request, Request::Prewrite(_)) {
                return Spoil::Nothing;
            }
            let Some(key) = at.lock().pop() else { return Spoil::Nothing };
            match lost {
                None => inner.split(key.as_bytes()),
                // It is split while the client waits to try again.
                Some(arrives) => {
                    let later = Arc::clone(&inner);
                    let split = move || later.split(key.as_bytes());
                    return if arrives {
                        Spoil::LoseAnswerThen(Box::new(split))
                    } else {
                        Spoil::LoseRequestThen(Box::new(split))
                    };
                }
            }
            Spoil::Nothing
        });
        let commit_ts = write(&client, &["a", "z"], "1").expect("commits");
        client.flush();
        assert_eq!((values(&client, &["a", "z"]), locks(&cluster)), (all("1", 2), 0), "{lost:?}");
        let before = client.snapshot(commit_ts.prev());
        assert_eq!(before.scan(&KeyRange::all(), 9, false).expect("read"), []);
        assert_eq!(cluster.replica().regions().len(), 2);
    }
}

/// Invariant 14: who begins after the answer sees it, and whoever had ended before the call is not
/// overtaken.
#[test]
fn commits_keep_the_order_of_time() {
    let cluster = cluster(&["m"]);
    let client = spoiled_client(&cluster, Config::default(), |_| Spoil::Nothing);
    for round in 0..200 {
        let mut early: Transaction = client.begin().expect("begins");
        let first = write(&client, &["a"], &format!("{round}")).expect("commits");
        let second = write(&client, &["b", "z"], &format!("{round}")).expect("commits");
        early.put("c", format!("{round}")).expect("fits");
        let third = early.commit().expect("commits").expect("a version");
        assert!(first < second && second < third, "{first} {second} {third}");
        let next = client.begin().expect("begins");
        assert!(third < next.start_ts() || next.get(b"c").expect("read").is_some());
        let expected = Some(format!("{round}").into_bytes());
        for key in ["a", "b", "c", "z"] {
            assert_eq!(next.get(key.as_bytes()).expect("read"), expected, "{key}");
        }
    }
}
