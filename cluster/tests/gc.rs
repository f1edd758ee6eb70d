//! Old versions go, in rows and in columns, and nobody who still reads them notices.

#![allow(clippy::disallowed_methods)] // a deadline in real time

use damask_cluster::config::Gc;
use damask_cluster::nodes::Content;
use damask_cluster::{Cluster, Config};
use damask_kv::{Cf, Engine};
use damask_types::StoreId;
use std::time::{Duration, Instant};

const KEY: &[u8] = b"t\x80\x00\x00\x00\x00\x00\x00\x63_rsome";
const UPDATES: u32 = 50;

/// Write records of the key in one store.
fn versions(cluster: &Cluster, store: u64) -> usize {
    let Some(Content::Rows(engine)) = cluster.content(StoreId(store)) else {
        panic!("store {store} keeps rows")
    };
    let start = damask_types::codec::encode_key(KEY);
    let end = [&start[..], &[0xFF; 9]].concat();
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.cursor(Cf::Write, &start, &end).expect("reads");
    let mut count = 0;
    let mut pair = cursor.seek(&start).expect("reads");
    while pair.is_some() {
        count += 1;
        pair = cursor.next().expect("reads");
    }
    count
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn versions_go_on_every_store_once_nobody_needs_them() {
    let gc = Gc { life_time_ms: 0, interval_ms: 20 };
    let cluster = Cluster::start(Config { gc, ..Config::memory() }).expect("starts");
    let client = cluster.client();
    let put = |value: u32| {
        client.run::<_, damask_txn::Error>(|txn| txn.put(KEY, value.to_le_bytes())).expect("put");
    };
    put(0);
    let old = client.begin().expect("begins");
    (1..=UPDATES).for_each(put);
    // It reads what it began with, however often the safe point tries to pass it.
    for _ in 0..100 {
        assert_eq!(old.get(KEY).expect("reads"), Some(0u32.to_le_bytes().to_vec()));
    }
    for store in 1..=3 {
        eventually("all is applied", || versions(&cluster, store) > UPDATES as usize);
    }
    old.rollback();
    for store in 1..=3 {
        eventually("versions go", || versions(&cluster, store) == 1);
    }
    assert_eq!(client.get_latest(KEY).expect("reads"), Some(UPDATES.to_le_bytes().to_vec()));
}
