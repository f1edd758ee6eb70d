//! Random histories of transactions in every mode, with wires that lose, double and delay, regions
//! that split, clients that die at any step and a store that dies with all that it had in memory:
//! checked by what clients have seen, and once more by the versions that it holds in the end.

mod common;

use common::{Store, cluster, locks};
use damask_env::spawn;
use damask_kv::{Cf, GcSafePoint, MvccReader, Read};
use damask_txn::history::{Anomaly, Level, Op, Outcome, Run, check};
use damask_txn::testing::check_invariants;
use damask_txn::{
    Client, Config, Context, Error, Gc, Isolation, LocalCluster, Mode, Options, Reads, Request,
    RequestError, Response, Service, Services, Transaction, Wait,
};
use damask_types::codec::{decode_key, split_key_ts};
use damask_types::{ErrorKind, StoreId, Timestamp, Write, WriteKind};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

const KEYS: u32 = 10;
const WORKERS: u64 = 4;

fn key_of(key: u32) -> Vec<u8> {
    format!("key{key:02}").into_bytes()
}

fn list_of(value: Option<Vec<u8>>) -> Vec<u32> {
    let bytes = value.unwrap_or_default();
    let (elements, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty(), "a torn list");
    elements.iter().map(|e| u32::from_le_bytes(*e)).collect()
}

/// splitmix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

/// What a history is made of.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seed: u64,
    /// Of 100 transactions, how many are pessimistic.
    pessimistic: u64,
    one_phase: bool,
    async_commit: bool,
    transactions: u64,
    faults: bool,
    /// How long a lock lives that nobody keeps alive; the clock runs about four times as fast as
    /// real time.
    lock_ttl_ms: u64,
    /// Pessimistic statements that only read lock nothing, at this level.
    plain: Option<Isolation>,
    level: Level,
}

/// What became of a history.
#[derive(Clone, Copy, Debug, Default)]
struct Made {
    committed: usize,
    restarts: u64,
}

/// A transaction as it was made, with what only the test knows.
#[derive(Debug)]
struct Record {
    run: Run,
    pessimistic: bool,
    /// Order of its begin and of its answer among all events.
    invoked: u64,
    answered: u64,
    start_ts: Timestamp,
    commit_ts: Option<Timestamp>,
    /// Keys as they were read, and at which version.
    reads: Vec<(u32, Timestamp, Vec<u32>)>,
}

struct World {
    cluster: Arc<LocalCluster>,
    plan: Plan,
    events: AtomicU64,
    elements: AtomicU32,
    /// Requests that will arrive once more, later.
    late: Mutex<Vec<(Context, Request)>>,
    records: Mutex<Vec<Record>>,
    restarts: AtomicU64,
    over: Mutex<bool>,
    ended: Condvar,
}

/// One client's wire, which ends with it.
struct Wire {
    inner: Store,
    chance: Mutex<Chance>,
    /// Requests until the client dies.
    left: AtomicI64,
    world: Arc<World>,
}

impl Service for Wire {
    fn call(&self, context: Context, request: Request) -> Result<Response, RequestError> {
        use damask_raftstore::Error as RegionError;
        let lost = || Err(RegionError::Undetermined("no answer".to_owned()).into());
        let chance = |n| self.chance.lock().below(n);
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            ..0 => return Err(RegionError::Invalid("the client has died".to_owned()).into()),
            0 => {
                if chance(2) == 0 {
                    drop(self.inner.call(context, request));
                }
                return lost();
            }
            _ => {}
        }
        if !self.world.plan.faults {
            return self.inner.call(context, request);
        }
        let read = matches!(request, Request::Get { .. } | Request::BatchGet { .. });
        match chance(300) {
            0 => {
                drop(self.inner.call(context, request));
                lost()
            }
            1 => lost(),
            2..6 => Err(RegionError::Stale.into()),
            6..16 => {
                drop(self.inner.call(context, request.clone()));
                self.inner.call(context, request)
            }
            16..40 if !read => {
                self.world.late.lock().push((context, request.clone()));
                self.inner.call(context, request)
            }
            40..60 => {
                // On its way while others read.
                self.world.pause(Duration::from_micros(500 + chance(2_000)));
                self.inner.call(context, request)
            }
            _ => self.inner.call(context, request),
        }
    }
}

struct Wired(Arc<Wire>);

impl Services for Wired {
    fn service(&self, _: StoreId) -> Option<Arc<dyn Service>> {
        Some(Arc::clone(&self.0) as Arc<dyn Service>)
    }
}

impl World {
    /// Lets so much real time pass, or less when the history is over.
    fn pause(&self, time: Duration) {
        let mut over = self.over.lock();
        if !*over {
            self.ended.wait_for(&mut over, time);
        }
    }

    fn is_over(&self) -> bool {
        *self.over.lock()
    }

    fn event(&self) -> u64 {
        self.events.fetch_add(1, Ordering::SeqCst)
    }

    /// A client, which dies after so many requests.
    fn client(self: &Arc<World>, seed: u64, left: i64) -> (Client, Arc<Wire>) {
        let inner = Store(Arc::clone(&self.cluster));
        let chance = Mutex::new(Chance(seed));
        let wire =
            Arc::new(Wire { inner, chance, left: AtomicI64::new(left), world: Arc::clone(self) });
        let config = Config {
            request_ms: 2_000,
            lock_wait_ms: 4_000,
            lock_ttl_ms: self.plan.lock_ttl_ms,
            lock_ttl_max_ms: self.plan.lock_ttl_ms * 3,
            one_phase: self.plan.one_phase,
            async_commit: self.plan.async_commit,
            ..Config::default()
        };
        let services = Arc::new(Wired(Arc::clone(&wire)));
        (self.cluster.client_with(services, config).expect("valid"), wire)
    }

    fn worker(self: &Arc<World>, number: u64) {
        let mut chance = Chance(self.plan.seed * 1_000 + number);
        let mut made = 0;
        while made < self.plan.transactions {
            // Some clients live long, others die soon.
            let left = match (self.plan.faults, chance.below(3)) {
                (true, 0) => chance.below(60) as i64 + 1,
                (true, 1) => chance.below(1_000) as i64 + 100,
                _ => i64::MAX,
            };
            let (client, wire) = self.client(chance.below(u64::MAX), left);
            while made < self.plan.transactions && wire.left.load(Ordering::SeqCst) > 0 {
                self.transaction(&client, &mut chance);
                made += 1;
            }
            // Without a flush: what waits in the background is left to others.
        }
    }

    fn transaction(&self, client: &Client, chance: &mut Chance) {
        let pessimistic = chance.below(100) < self.plan.pessimistic;
        let mode = if pessimistic { Mode::Pessimistic } else { Mode::Optimistic };
        let invoked = self.event();
        let options = Options { mode, isolation: self.plan.plain.unwrap_or_default() };
        let Ok(mut txn) = client.begin_with(options) else { return };
        let start_ts = txn.start_ts();
        let mut record = Record {
            run: Run { ops: Vec::new(), outcome: Outcome::Aborted },
            pessimistic,
            invoked,
            answered: 0,
            start_ts,
            commit_ts: None,
            reads: Vec::new(),
        };
        let done = (0..=chance.below(4)).try_for_each(|_| {
            let (key, writes) = (chance.below(u64::from(KEYS)) as u32, chance.below(5) < 3);
            match pessimistic {
                true => self.pessimistic_step(&mut txn, key, writes, &mut record),
                false => self.step(&mut txn, key, writes, &mut record),
            }
        });
        // Some think better of it.
        let result = match done {
            Ok(()) if chance.below(12) > 0 => txn.commit(),
            Ok(()) => {
                if chance.below(2) == 0 {
                    txn.rollback();
                }
                Err(Error::Invalid("given up".to_owned()))
            }
            Err(e) => Err(e),
        };
        record.run.outcome = match &result {
            Ok(_) => Outcome::Committed,
            Err(e) if e.kind() == ErrorKind::Undetermined => Outcome::Unknown,
            Err(_) => Outcome::Aborted,
        };
        record.commit_ts = result.ok().flatten();
        record.answered = self.event();
        self.records.lock().push(record);
    }

    /// Reads a list, and perhaps appends to it.
    fn step(
        &self,
        txn: &mut Transaction,
        key: u32,
        writes: bool,
        record: &mut Record,
    ) -> Result<(), Error> {
        let mut value = txn.get(&key_of(key))?;
        let own = |op: &Op| matches!(op, Op::Append { key: k, .. } if *k == key);
        let list = list_of(value.clone());
        if !record.run.ops.iter().any(own) {
            record.reads.push((key, txn.read_ts(), list.clone()));
        }
        record.run.ops.push(Op::Read { key, list });
        if writes {
            let element = self.elements.fetch_add(1, Ordering::SeqCst);
            value.get_or_insert_default().extend_from_slice(&element.to_le_bytes());
            txn.put(key_of(key), value.expect("just made"))?;
            record.run.ops.push(Op::Append { key, element });
        }
        Ok(())
    }

    /// The same as a statement that locks what it reads.
    fn pessimistic_step(
        &self,
        txn: &mut Transaction,
        key: u32,
        writes: bool,
        record: &mut Record,
    ) -> Result<(), Error> {
        if !writes && self.plan.plain.is_some() {
            txn.begin_statement(Reads::Snapshot)?;
            return self.step(txn, key, false, record);
        }
        loop {
            let (ops, reads) = (record.run.ops.len(), record.reads.len());
            let mark = txn.mark();
            txn.begin_statement(Reads::Current)?;
            let done = self
                .step(txn, key, writes, record)
                .and_then(|()| txn.lock(key_of(key)))
                .and_then(|()| txn.lock_written(&mark, Wait::Millis(1_000)));
            match done {
                Ok(()) => {
                    txn.release(mark);
                    return Ok(());
                }
                Err(e) => {
                    txn.rollback_to(mark);
                    record.run.ops.truncate(ops);
                    record.reads.truncate(reads);
                    if !matches!(e, Error::Outdated { .. }) {
                        return Err(e);
                    }
                }
            }
        }
    }

    /// Time for locks, splits, deaths of the store, and messages that come late, until all workers
    /// are done.
    fn turmoil(&self) {
        let mut chance = Chance(self.plan.seed ^ 0x7777);
        while !self.is_over() {
            self.pause(Duration::from_millis(5));
            self.cluster.pass_ms(20);
            if chance.below(20) == 0 && self.plan.faults {
                self.cluster.split(&key_of(chance.below(u64::from(KEYS)) as u32));
            }
            if chance.below(8) == 0 && self.plan.faults {
                self.cluster.restart();
                self.restarts.fetch_add(1, Ordering::SeqCst);
            }
            let mut due = |late: &mut Vec<(Context, Request)>| {
                let at = chance.below(late.len().max(1) as u64) as usize;
                (at < late.len()).then(|| late.swap_remove(at))
            };
            let message = due(&mut self.late.lock());
            message.into_iter().for_each(|message| self.deliver(message));
        }
        let rest = std::mem::take(&mut *self.late.lock());
        rest.into_iter().for_each(|message| self.deliver(message));
    }

    fn deliver(&self, (context, mut request): (Context, Request)) {
        if let Request::PessimisticLock(lock) = &mut request {
            lock.wait = damask_txn::LockWait::No;
        }
        drop(self.cluster.service(StoreId(1)).expect("the store").call(context, request));
    }
}

/// Makes a history and checks it.
fn run(plan: Plan) -> Made {
    let world = Arc::new(World {
        cluster: cluster(&["key03", "key06"]),
        plan,
        events: AtomicU64::new(0),
        elements: AtomicU32::new(1),
        late: Mutex::default(),
        records: Mutex::default(),
        restarts: AtomicU64::new(0),
        over: Mutex::new(false),
        ended: Condvar::new(),
    });
    let workers: Vec<_> = (0..WORKERS)
        .map(|number| {
            let world = Arc::clone(&world);
            spawn("worker", move || world.worker(number))
        })
        .collect();
    let turmoil = {
        let world = Arc::clone(&world);
        spawn("turmoil", move || world.turmoil())
    };
    workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
    *world.over.lock() = true;
    world.ended.notify_all();
    turmoil.join().expect("no panic");
    // Everything ends, and somebody looks at all of it.
    world.cluster.pass_ms(1_000_000);
    let client = world.cluster.client();
    let gc = Gc::new(Arc::new(GcSafePoint::new()));
    let now = client.timestamp().expect("a timestamp");
    gc.advance(&client, now, Duration::ZERO, None).expect("advances");
    assert_eq!(locks(&world.cluster), 0, "{plan:?}");
    let invoked = world.event();
    let last = client.timestamp().expect("a timestamp");
    let values =
        (0..KEYS).map(|key| (key, list_of(client.snapshot(last).get(&key_of(key)).expect("read"))));
    let ops = values.map(|(key, list)| Op::Read { key, list }).collect();
    let mut records = std::mem::take(&mut *world.records.lock());
    records.push(Record {
        run: Run { ops, outcome: Outcome::Committed },
        pessimistic: false,
        invoked,
        answered: world.event(),
        start_ts: last,
        commit_ts: None,
        reads: Vec::new(),
    });
    let runs: Vec<Run> = records.iter().map(|record| record.run.clone()).collect();
    let anomalies = check(&runs, plan.level);
    for anomaly in anomalies.iter().take(3) {
        eprintln!("{anomaly:?}");
        if let Anomaly::G0(circle)
        | Anomaly::G1c(circle)
        | Anomaly::GSingle(circle)
        | Anomaly::G2(circle) = anomaly
        {
            circle.iter().for_each(|at| eprintln!("{at}: {:?}", records[*at]));
        }
    }
    check_versions(&world.cluster, &records, plan);
    check_records(&world.cluster, &records, plan);
    assert!(anomalies.is_empty(), "{plan:?}: {} anomalies", anomalies.len());
    let committed = runs.iter().filter(|run| run.outcome == Outcome::Committed).count();
    Made { committed, restarts: world.restarts.load(Ordering::SeqCst) }
}

/// Every version of every key: its transaction and its list.
fn versions(cluster: &LocalCluster) -> BTreeMap<u32, BTreeMap<Timestamp, (Timestamp, Vec<u32>)>> {
    let snapshot = cluster.engine().snapshot();
    let reader = MvccReader::new(Arc::clone(&snapshot));
    let mut found: BTreeMap<u32, BTreeMap<Timestamp, (Timestamp, Vec<u32>)>> = BTreeMap::new();
    let mut cursor = snapshot.cursor(Cf::Write, &[], &[]).expect("opens");
    let mut pair = cursor.seek(&[]).expect("read");
    while let Some((key, value)) = pair {
        let (encoded, commit_ts) = split_key_ts(key).expect("a version");
        let key = decode_key(encoded).expect("a key");
        let write = Write::decode(value).expect("a record");
        if write.kind == WriteKind::Put {
            let Ok(Read::Ok(value)) = reader.get(&key, commit_ts) else { panic!("unreadable") };
            let number = std::str::from_utf8(&key[3..]).expect("text").parse().expect("a number");
            let list = list_of(value.map(Vec::from));
            found.entry(number).or_default().insert(commit_ts, (write.start_ts, list));
        }
        pair = cursor.next().expect("read");
    }
    found
}

/// The same history by its timestamps: every version follows from the one before, every read is
/// what stood at its version for ever (invariant 11), every outcome is as told, and commits keep
/// the order of time (invariant 14).
fn check_versions(cluster: &LocalCluster, records: &[Record], plan: Plan) {
    let versions = versions(cluster);
    let mut by_start: BTreeMap<Timestamp, &Record> = BTreeMap::new();
    by_start.extend(records.iter().map(|record| (record.start_ts, record)));
    for (key, chain) in &versions {
        let mut before: &[u32] = &[];
        for (commit_ts, (start_ts, list)) in chain {
            let record = by_start[start_ts];
            let own = record.run.ops.iter().filter_map(|op| match op {
                Op::Append { key: k, element } if k == key => Some(*element),
                _ => None,
            });
            let expected: Vec<u32> = before.iter().copied().chain(own).collect();
            assert_eq!(list, &expected, "{plan:?}: key {key} at {commit_ts} by {start_ts}");
            assert_ne!(record.run.outcome, Outcome::Aborted, "{plan:?}: {start_ts} is not aborted");
            if let Some(told) = record.commit_ts {
                assert_eq!(told, *commit_ts, "{plan:?}: {start_ts}");
            }
            before = list;
        }
    }
    let at = |key: u32, ts: Timestamp| {
        let newest = versions.get(&key).and_then(|chain| chain.range(..=ts).next_back());
        newest.map(|(_, (_, list))| list.as_slice()).unwrap_or_default()
    };
    for record in records {
        for (key, read_ts, list) in &record.reads {
            let name = record.start_ts;
            assert_eq!(at(*key, *read_ts), list, "{plan:?}: {name} read {key} at {read_ts}");
        }
    }
    let mut by_answer: Vec<&Record> = records.iter().filter(|r| r.commit_ts.is_some()).collect();
    by_answer.sort_by_key(|record| record.answered);
    let mut by_begin: Vec<&Record> = records.iter().collect();
    by_begin.sort_by_key(|record| record.invoked);
    let (mut newest, mut answers) = (Timestamp::ZERO, by_answer.into_iter().peekable());
    for record in by_begin {
        while let Some(earlier) = answers.next_if(|r| r.answered < record.invoked) {
            newest = newest.max(earlier.commit_ts.expect("filtered"));
        }
        assert!(newest <= record.start_ts, "{plan:?}: {} does not see {newest}", record.start_ts);
    }
}

/// The invariants of what is stored (1 to 9).
fn check_records(cluster: &LocalCluster, records: &[Record], plan: Plan) {
    let by_start: BTreeMap<_, _> = records.iter().map(|r| (r.start_ts, r)).collect();
    let read_version = |start_ts: Timestamp, key: &[u8]| {
        let record = by_start[&start_ts];
        let reads = record.reads.iter().filter(|(k, _, _)| key_of(*k) == key);
        match reads.map(|(_, read_ts, _)| *read_ts).max() {
            Some(read_ts) => read_ts,
            // Locked by a statement that failed: nobody knows what it had read.
            None if record.pessimistic => Timestamp::MAX,
            None => start_ts,
        }
    };
    let found = check_invariants(cluster.engine().as_ref(), read_version);
    let found = found.unwrap_or_else(|broken| panic!("{plan:?}: {broken}"));
    assert_eq!(found.locks, 0, "{plan:?}");
}

const PLAN: Plan = Plan {
    seed: 0,
    pessimistic: 0,
    one_phase: false,
    async_commit: false,
    transactions: 60,
    faults: true,
    lock_ttl_ms: 600,
    plain: None,
    level: Level::SnapshotIsolation,
};

/// Seeds of each mode; more from the environment.
fn seeds() -> u64 {
    std::env::var("DAMASK_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

fn many(plan: Plan) {
    let count = seeds();
    let made = (1..=count).map(|seed| run(Plan { seed, ..plan })).fold(Made::default(), |a, b| {
        Made { committed: a.committed + b.committed, restarts: a.restarts + b.restarts }
    });
    let all = count as usize * (plan.transactions * WORKERS) as usize;
    assert!(made.committed > all / 4, "{made:?} of {all}: too few to mean anything");
    assert!(made.restarts >= count, "{made:?}: the store has hardly died");
}

#[test]
fn optimistic_histories_have_snapshot_isolation() {
    many(PLAN);
}

#[test]
fn optimistic_histories_on_short_ways_have_snapshot_isolation() {
    many(Plan { one_phase: true, async_commit: true, ..PLAN });
    many(Plan { async_commit: true, ..PLAN });
}

/// Who locks all that it reads is serializable.
#[test]
fn pessimistic_histories_are_serializable() {
    many(Plan { pessimistic: 100, level: Level::Serializable, ..PLAN });
}

#[test]
fn pessimistic_histories_on_short_ways_are_serializable() {
    let plan = Plan { pessimistic: 100, level: Level::Serializable, ..PLAN };
    many(Plan { one_phase: true, async_commit: true, ..plan });
}

#[test]
fn mixed_histories_have_snapshot_isolation() {
    many(Plan { pessimistic: 50, ..PLAN });
    many(Plan { pessimistic: 50, one_phase: true, async_commit: true, ..PLAN });
}

/// Statements of one transaction that read different versions: the one that locks reads the newest,
/// the other its snapshot, or what is committed by then. Nothing unfinished is seen all the same.
#[test]
fn plain_reads_beside_locks_see_what_is_committed() {
    let plan = Plan { pessimistic: 70, one_phase: true, async_commit: true, ..PLAN };
    for isolation in [Isolation::RepeatableRead, Isolation::ReadCommitted] {
        many(Plan { plain: Some(isolation), level: Level::ReadCommitted, ..plan });
    }
}

/// Locks run out while their owners still think, are taken by others, and taken again by copies of
/// requests: whoever has lost one, and what it kept from changing, does not get through. Most do not.
#[test]
fn locks_that_run_out_lose_nothing() {
    for lock_ttl_ms in [8, 40] {
        let plan = Plan { lock_ttl_ms, pessimistic: 80, one_phase: true, ..PLAN };
        let serial = Plan { pessimistic: 100, level: Level::Serializable, ..plan };
        for plan in [serial, Plan { async_commit: true, ..serial }, plan] {
            let committed: usize =
                (1..=seeds()).map(|seed| run(Plan { seed, ..plan }).committed).sum();
            assert!(committed > 10, "{plan:?}: {committed} are too few to mean anything");
        }
    }
}

#[test]
fn without_faults_hardly_anything_fails() {
    let plan = Plan { pessimistic: 100, faults: false, ..PLAN };
    let plan = Plan { one_phase: true, async_commit: true, level: Level::Serializable, ..plan };
    let Made { committed, .. } = run(plan);
    let all = (plan.transactions * WORKERS) as usize;
    assert!(committed * 2 > all, "{committed} of {all}");
}
