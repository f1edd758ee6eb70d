//! Clusters, clients that die and wires that fail, for the tests of the client. Nothing here may
//! know what a test expects.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod falls;
pub mod statements;

use damask_env::{Clock, RealClock};
use damask_kv::{MemoryEngine, MvccReader};
use damask_raftstore::Error as RegionError;
use damask_txn::{
    Client, Config, Context, LocalCluster, Mutation, Prewrite, Request, RequestError, Response,
    Service, Services,
};
use damask_types::{KeyRange, Region, StoreId, Timestamp};
use std::sync::Arc;
use std::time::Duration;

pub fn cluster(splits: &[&str]) -> Arc<LocalCluster> {
    let cluster = LocalCluster::new(Arc::new(MemoryEngine::new()));
    splits.iter().for_each(|key| cluster.split(key.as_bytes()));
    cluster
}

pub fn put_all(client: &Client, pairs: &[(&str, &str)]) -> Timestamp {
    let mut txn = client.begin().expect("begins");
    for (key, value) in pairs {
        txn.put(*key, *value).expect("fits");
    }
    txn.commit().expect("commits").expect("not read-only")
}

pub fn get(client: &Client, key: &str) -> Option<String> {
    let ts = client.timestamp().expect("a timestamp");
    let value = client.snapshot(ts).get(key.as_bytes()).expect("read");
    value.map(|v| String::from_utf8(v).expect("text"))
}

pub fn locks(cluster: &LocalCluster) -> usize {
    let reader = MvccReader::new(cluster.engine().snapshot());
    reader.scan_locks(&KeyRange::all(), |_| true, usize::MAX).expect("read").len()
}

pub fn region_of(cluster: &LocalCluster, key: &str) -> Region {
    let regions = cluster.replica().regions();
    regions.into_iter().find(|r| r.range.contains(key.as_bytes())).expect("all keys have one")
}

/// For how long a test waits for what must come: elections and dead transactions on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until something is so, for a bounded time.
pub fn poll(what: &str, mut is_so: impl FnMut() -> bool) {
    let clock = RealClock::default();
    let deadline = clock.monotonic() + DEADLINE;
    while !is_so() {
        assert!(clock.monotonic() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Sends one request as a client that knows its way.
pub fn send(cluster: &LocalCluster, key: &str, request: Request) -> Response {
    let region = region_of(cluster, key);
    let context = Context { region: region.id, epoch: region.epoch };
    let service = cluster.service(StoreId(1)).expect("the store");
    service.call(context, request).expect("answered")
}

/// A client that prewrites these keys (each in its own region) and then dies.
pub fn prewrite_and_die(cluster: &Arc<LocalCluster>, keys: &[&str], value: &str) -> Timestamp {
    let start_ts = cluster.client().timestamp().expect("a timestamp");
    for key in keys {
        let value = value.into();
        let mutations = vec![Mutation::Put { key: key.as_bytes().to_vec(), value }];
        let primary = keys[0].into();
        let prewrite = Prewrite {
            mutations,
            primary,
            start_ts,
            ttl_ms: 3_000,
            txn_size: 3,
            ..Prewrite::default()
        };
        send(cluster, key, Request::Prewrite(prewrite));
    }
    start_ts
}

/// Stands between a client and the store, and spoils a part of the traffic.
struct Spoiled<F> {
    inner: Arc<dyn Service>,
    rule: F,
}

/// What happens to one request.
pub enum Spoil {
    Nothing,
    /// It never arrives, and the client is told so.
    Refuse,
    /// It never arrives, and this is said.
    Answer(RegionError),
    /// It arrives, the answer does not.
    LoseAnswer,
    /// It does not arrive, and the client cannot know.
    LoseRequest,
    /// It arrives twice.
    Twice,
    /// The same as their namesakes, and then something happens.
    LoseAnswerThen(Box<dyn FnOnce()>),
    LoseRequestThen(Box<dyn FnOnce()>),
}

impl<F: Fn(&Request) -> Spoil + Send + Sync + 'static> Service for Spoiled<F> {
    fn call(&self, context: Context, request: Request) -> Result<Response, RequestError> {
        let lost = || Err(RegionError::Undetermined("no answer".to_owned()).into());
        match (self.rule)(&request) {
            Spoil::Nothing => self.inner.call(context, request),
            Spoil::Refuse => Err(RegionError::Stale.into()),
            Spoil::Answer(error) => Err(error.into()),
            Spoil::LoseRequest => lost(),
            Spoil::LoseRequestThen(then) => {
                then();
                lost()
            }
            Spoil::LoseAnswerThen(then) => {
                drop(self.inner.call(context, request));
                then();
                lost()
            }
            Spoil::LoseAnswer => {
                // Whatever it was: nobody will know.
                drop(self.inner.call(context, request));
                lost()
            }
            Spoil::Twice => {
                drop(self.inner.call(context, request.clone()));
                self.inner.call(context, request)
            }
        }
    }
}

struct Only(Arc<dyn Service>);

impl Services for Only {
    fn service(&self, _: StoreId) -> Option<Arc<dyn Service>> {
        Some(Arc::clone(&self.0))
    }
}

/// The store behind a wire of that kind.
pub fn spoiled_services(
    inner: Arc<dyn Service>,
    rule: impl Fn(&Request) -> Spoil + Send + Sync + 'static,
) -> Arc<dyn Services> {
    Arc::new(Only(Arc::new(Spoiled { inner, rule })))
}

pub fn spoiled_client(
    cluster: &Arc<LocalCluster>,
    config: Config,
    rule: impl Fn(&Request) -> Spoil + Send + Sync + 'static,
) -> Client {
    let inner = Arc::new(Store(Arc::clone(cluster)));
    cluster.client_with(spoiled_services(inner, rule), config).expect("valid")
}

/// The store of a cluster, in whichever of its lives.
pub struct Store(pub Arc<LocalCluster>);

impl Service for Store {
    fn call(&self, context: Context, request: Request) -> Result<Response, RequestError> {
        self.0.service(StoreId(1)).expect("the store").call(context, request)
    }
}

/// Always two phases.
pub fn two_phase() -> Config {
    Config { one_phase: false, async_commit: false, ..Config::default() }
}

/// The same without patience.
pub fn brief() -> Config {
    Config { request_ms: 300, lock_wait_ms: 300, ..two_phase() }
}
