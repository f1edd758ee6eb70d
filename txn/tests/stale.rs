//! Stale reads of any replica while transactions commit in one phase, async and in two, clients
//! die, and leaders fall: whatever a replica once answered at a timestamp is what the versions say
//! in the end. And who is asked, and what a transaction that looks back may not do.

mod common;

use common::falls::{ACCOUNTS, Falls, START, STORES, TICK, account, balance, below, open_accounts};
use common::{cluster, falls, get, locks, poll, prewrite_and_die, put_all};
use damask_env::spawn;
use damask_kv::{MvccReader, Read};
use damask_raftstore::{Error as RegionError, ReadMode};
use damask_txn::testing::replicated::Replicated;
use damask_txn::{
    Client, Config, Context, Error, Mutation, Prewrite, ReadFrom, Request, RequestError, Response,
    Service, Services,
};
use damask_types::{ErrorKind, KeyRange, RegionId, StoreId, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const REGION: RegionId = RegionId(1);
/// Who leads goes on to lead, however busy the machine.
const CALM: Duration = Duration::from_millis(300);
/// Leaders that fall, and transfers and stale reads between two falls.
const FALLS: u64 = 2;
const BETWEEN: u64 = 40;

/// What a replica has answered.
struct Seen {
    store: StoreId,
    ts: Timestamp,
    values: Vec<Option<Vec<u8>>>,
}

struct World {
    cluster: Arc<Replicated>,
    stores: Falls,
    over: AtomicBool,
    committed: AtomicU64,
    seen: Mutex<Vec<Seen>>,
    /// Answered by a store that led, and by one that did not.
    by_role: [AtomicU64; 2],
}

impl World {
    fn start(tick: Duration) -> Arc<World> {
        let stores = Falls::start(tick);
        Arc::new(World {
            cluster: Arc::clone(&stores.cluster),
            stores,
            over: AtomicBool::new(false),
            committed: AtomicU64::new(0),
            seen: Mutex::default(),
            by_role: Default::default(),
        })
    }

    fn client(&self, config: &Config) -> Client {
        let config = Config { lock_ttl_ms: 600, lock_ttl_max_ms: 2_000, ..config.clone() };
        self.cluster.client(config).expect("valid")
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn transfer(&self, client: &Client, mut seed: u64) {
        while !self.is_over() {
            let (from, to) = (below(&mut seed, ACCOUNTS), below(&mut seed, ACCOUNTS));
            if from == to {
                continue;
            }
            if falls::transfer(client, from, to).is_ok() {
                self.committed.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn context(&self, store: StoreId) -> Option<Context> {
        let region = self.cluster.handle(store)?.region(REGION)?;
        Some(Context { region: REGION, epoch: region.epoch })
    }

    /// Moves safe timestamps; now and then a client dies and leaves a lock in the way.
    fn advance(&self, client: &Client) {
        let mut rounds = 0;
        while !self.is_over() {
            rounds += 1;
            for store in self.cluster.running() {
                let Some(server) = self.cluster.server(store) else { continue };
                let Ok(advance) = server.advance() else { continue };
                // Time passes slowly here: a lock of a second ago is an old one.
                let old = |ts: Timestamp| ts.physical_ms() + 100 < advance.ts.physical_ms();
                let held: Vec<_> =
                    advance.held.into_iter().filter(|lock| old(lock.lock.start_ts)).collect();
                if let Ok(pushed) = client.push_locks(&held, advance.ts) {
                    server.pushed(&pushed, advance.ts);
                }
            }
            if rounds % 16 == 0 {
                self.die(client);
            }
            let oracle = self.cluster.oracle();
            let now = client.timestamp().expect("a timestamp").physical_ms();
            oracle.advance_to(Timestamp::compose(now + 5, 0));
            std::thread::yield_now();
        }
    }

    fn die(&self, client: &Client) {
        let Ok(start_ts) = client.timestamp() else { return };
        let leader = self.cluster.leader();
        let (Some(context), Some(server)) = (self.context(leader), self.cluster.server(leader))
        else {
            return;
        };
        let prewrite = Prewrite {
            mutations: vec![Mutation::Put { key: b"dead".to_vec(), value: b"v".to_vec() }],
            primary: b"dead".to_vec(),
            start_ts,
            ttl_ms: 200,
            txn_size: 1,
            ..Prewrite::default()
        };
        // Refused: the one before it is still in the way.
        drop(server.call(context, Request::Prewrite(prewrite)));
    }

    /// Asks any replica at what is safe there, or a little below.
    fn look(&self, mut seed: u64) {
        while !self.is_over() {
            let store = StoreId(below(&mut seed, STORES) + 1);
            let (Some(server), Some(context)) = (self.cluster.server(store), self.context(store))
            else {
                continue;
            };
            let safe = server.safe_ts(REGION);
            let ts =
                Timestamp(safe.0.saturating_sub(below(&mut seed, 4) * below(&mut seed, 5_000)));
            let status = self.cluster.handle(store).and_then(|handle| handle.replica(REGION));
            let leads = status.is_some_and(|status| status.is_leader);
            let (keys, bypass) = ((0..ACCOUNTS).map(account).collect(), Vec::new());
            let request = Request::BatchGet { keys, ts, bypass };
            let answer = server.call(context, Request::Stale(Box::new(request)));
            if let Ok(Response::Values(values)) = answer
                && values.iter().all(Option::is_some)
            {
                let total: u64 = values.iter().map(|value| balance(value.as_ref())).sum();
                assert_eq!(total, ACCOUNTS * START, "store {store} at {ts}");
                self.by_role[usize::from(!leads)].fetch_add(1, Ordering::SeqCst);
                let mut seen = self.seen.lock();
                // Old ones count as much as new ones, but not all are kept.
                if seen.len() < 20_000 {
                    seen.push(Seen { store, ts, values });
                }
            }
        }
    }

    fn fall(&self, n: u64) {
        let leader = self.cluster.leader();
        self.cluster.cut_off(leader);
        if n.is_multiple_of(2) {
            self.stores.cut_power(leader);
        } else {
            // For a while two of them believe to lead.
            poll("another leader", || self.cluster.leader() != leader);
            self.go_on();
            self.cluster.network().rejoin(leader);
        }
    }

    /// Transfers and stale reads of leaders and of others go on.
    fn go_on(&self) {
        let counts = || {
            let read = |n: usize| self.by_role[n].load(Ordering::SeqCst);
            [self.committed.load(Ordering::SeqCst), read(0), read(1)]
        };
        let before = counts();
        poll("transfers and stale reads go on", || {
            counts().iter().zip(before).all(|(now, before)| *now >= before + BETWEEN)
        });
    }
}

fn stale_reads_agree_with_the_versions(config: &Config) {
    let world = World::start(TICK);
    world.cluster.leader();
    let client = world.client(config);
    open_accounts(&client);
    let mut workers = Vec::new();
    for seed in 1..=2 {
        let (one, two) = (Arc::clone(&world), Arc::clone(&world));
        let own = world.client(config);
        workers.push(spawn("transfer", move || one.transfer(&own, seed)));
        workers.push(spawn("look", move || two.look(seed)));
    }
    let (one, own) = (Arc::clone(&world), world.client(config));
    workers.push(spawn("advance", move || one.advance(&own)));
    for n in 0..FALLS {
        world.go_on();
        world.fall(n);
    }
    world.go_on();
    world.over.store(true, Ordering::SeqCst);
    workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
    // Nothing goes on any more; then the versions tell.
    world.stores.end_all(&client);
    let leader = world.cluster.leader();
    let engine = world.cluster.engine(leader).expect("it runs");
    let reader = MvccReader::new(engine.snapshot());
    let locks = reader.scan_locks(&KeyRange::all(), |_| true, 10).expect("read");
    assert_eq!(locks, [], "no lock is left");
    for Seen { store, ts, values } in world.seen.lock().iter() {
        for (n, value) in (0..ACCOUNTS).zip(values) {
            let Read::Ok(now) = reader.get(&account(n), *ts).expect("read") else {
                panic!("a lock");
            };
            let now = now.map(Vec::from);
            assert_eq!(*value, now, "account {n} at {ts}, as store {store} answered");
        }
    }
}

#[test]
fn stale_reads_beside_commits_in_one_phase() {
    stale_reads_agree_with_the_versions(&Config::default());
}

#[test]
fn stale_reads_beside_async_commits() {
    stale_reads_agree_with_the_versions(&Config { one_phase: false, ..Config::default() });
}

#[test]
fn stale_reads_beside_commits_in_two_phases() {
    stale_reads_agree_with_the_versions(&common::two_phase());
}

/// All replicas take turns, the leader only where they are not ready; one nearby is asked alone.
#[test]
fn any_replica_is_asked_and_then_the_leader() {
    let world = World::start(CALM);
    let leader = world.cluster.leader();
    let client = world.client(&Config::default());
    let at = put_all(&client, &[("a", "1"), ("b", "2")]);
    let keys = [b"a".to_vec(), b"b".to_vec()];
    let values = [Some(b"1".to_vec()), Some(b"2".to_vec())];
    let reader = client.snapshot(at).from(ReadFrom::Any);
    assert_eq!(reader.batch_get(&keys).expect("read"), values);
    assert_eq!(client.stale_reads(), (0, 1), "nothing is safe yet");
    let is_safe = |store| world.cluster.server(store).is_some_and(|s| s.safe_ts(REGION) >= at);
    poll("all are safe", || {
        world.cluster.server(leader).expect("it runs").advance().expect("advances");
        world.cluster.running().into_iter().all(is_safe)
    });
    for store in world.cluster.running() {
        let handle = world.cluster.handle(store).expect("it runs");
        let epoch = world.context(store).expect("it has the region").epoch;
        let read = |ts| {
            let (answer, there) = (Arc::new(Mutex::new(None)), ReadMode::Stale(ts));
            let told = Arc::clone(&answer);
            let done = move |result| *told.lock() = Some(result);
            handle.read(REGION, epoch, there, Box::new(done));
            answer.lock().take().expect("at once")
        };
        assert_eq!(read(at).expect("safe").region.id, REGION);
        let refused = read(Timestamp(u64::MAX)).expect_err("not safe");
        assert!(matches!(refused, RegionError::DataIsNotReady { safe_ts, .. } if safe_ts >= at));
    }
    for _ in 0..6 {
        assert_eq!(reader.batch_get(&keys).expect("read"), values);
        assert_eq!(reader.get(b"a").expect("read"), values[0]);
        assert_eq!(reader.scan(&KeyRange::all(), 1, true).expect("read")[0].0, b"b");
    }
    assert_eq!(client.stale_reads(), (18, 1));
    // Cut off, a replica still has what was safe; the others go on, and know more.
    let far = StoreId(leader.0 % STORES + 1);
    world.cluster.cut_off(far);
    let later = put_all(&client, &[("a", "3")]);
    let others =
        |store| store == far || world.cluster.server(store).unwrap().safe_ts(REGION) >= later;
    poll("the others are safe", || {
        world.cluster.server(leader).expect("it runs").advance().expect("advances");
        world.cluster.running().into_iter().all(others)
    });
    let near = world.client(&Config { nearest: Some(far), ..Config::default() });
    let read = |ts| near.snapshot(ts).from(ReadFrom::Any).get(b"a").expect("read");
    assert_eq!(read(at), values[0]);
    assert_eq!(near.stale_reads(), (1, 0));
    assert_eq!(read(later), Some(b"3".to_vec()));
    assert_eq!(near.stale_reads(), (1, 1), "the leader knows");
}

#[test]
fn a_transaction_that_looks_back_reads_and_nothing_else() {
    let cluster = cluster(&["h", "p"]);
    let client = cluster.client();
    let at = put_all(&client, &[("a", "1"), ("i", "2"), ("q", "3")]);
    put_all(&client, &[("a", "4"), ("i", "5")]);
    client.flush();
    cluster.advance().expect("advances");
    cluster.split(b"d");
    cluster.advance().expect("advances");
    let mut txn = client.begin_stale(at).expect("the past");
    assert!(txn.is_stale());
    assert_eq!(txn.read_ts(), at);
    let pairs = txn.scan(&KeyRange::all(), 10, false).expect("read");
    let pairs: Vec<(&[u8], &[u8])> = pairs.iter().map(|(k, v)| (&k[..], &v[..])).collect();
    assert_eq!(pairs, [(&b"a"[..], &b"1"[..]), (b"i", b"2"), (b"q", b"3")]);
    assert_eq!(txn.get(b"i").expect("read"), Some(b"2".to_vec()));
    // It keeps what it reads from being collected.
    assert_eq!(client.oldest_running(), Some(at));
    for refused in [txn.put("a", "9"), txn.delete("a"), txn.lock("a"), txn.insert("z", "9")] {
        assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    }
    assert_eq!(txn.commit().expect("nothing to do"), None);
    let (served, refused) = client.stale_reads();
    assert!(served >= 4 && refused <= 1, "{served} {refused}");
    assert_eq!(get(&client, "a").as_deref(), Some("4"));
    let future = client.timestamp().expect("a timestamp").0 + 1_000;
    let error = client.begin_stale(Timestamp(future)).err().expect("the future");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(client.begin_stale(Timestamp::ZERO).is_err());
    // What is collected is named, by whichever replica.
    cluster.safe_point().advance(at.next());
    let error = client.begin_stale(at).expect("the past").get(b"a").expect_err("collected");
    assert!(matches!(error, Error::BelowSafePoint { .. }), "{error}");
}

/// A transaction that stays open does not stop the others' past: it is pushed; one that is dead is
/// ended.
#[test]
fn locks_of_the_living_are_pushed_and_those_of_the_dead_end() {
    let cluster = cluster(&["h"]);
    let client = cluster.client();
    put_all(&client, &[("a", "1"), ("i", "1")]);
    let start_ts = prewrite_and_die(&cluster, &["a", "i"], "9");
    put_all(&client, &[("b", "2")]);
    let server = cluster.server();
    let safe = |key: &str| server.safe_ts(common::region_of(&cluster, key).id);
    let advance = cluster.advance().expect("advances");
    assert_eq!(advance.held.len(), 2);
    assert_eq!((safe("a"), safe("i")), (start_ts, start_ts));
    let pushed = client.push_locks(&advance.held, advance.ts).expect("asked");
    assert_eq!(pushed.first(), Some(&start_ts));
    server.pushed(&pushed, advance.ts);
    let next = cluster.advance().expect("advances");
    assert!(safe("a") >= advance.ts && safe("i") >= advance.ts, "{next:?}");
    assert_eq!(locks(&cluster), 2);
    let read = |key: &str| {
        let region = common::region_of(&cluster, key);
        let context = Context { region: region.id, epoch: region.epoch };
        let (key, ts, bypass) = (key.as_bytes().to_vec(), advance.ts, Vec::new());
        match server.call(context, Request::Stale(Box::new(Request::Get { key, ts, bypass }))) {
            Ok(Response::Value(value)) => value,
            Err(RequestError::Keys(locked)) => panic!("{locked:?}"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((read("a"), read("i")), (Some(b"1".to_vec()), Some(b"1".to_vec())));
    cluster.pass_ms(10_000);
    let advance = cluster.advance().expect("advances");
    let pushed = client.push_locks(&advance.held, advance.ts).expect("asked");
    assert_eq!((pushed.len(), locks(&cluster)), (0, 0), "it is over");
    let last = cluster.advance().expect("advances");
    assert_eq!((last.held.len(), safe("a"), safe("i")), (0, last.ts, last.ts));
    assert!(cluster.service(StoreId(1)).is_some());
}
