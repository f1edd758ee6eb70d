//! The safe point of garbage collection outlives a restart: what may be gone is not read as if it
//! had never been there.

#![allow(clippy::disallowed_methods)] // a deadline in real time

use damask_cluster::config::Gc;
use damask_cluster::{Cluster, Config};
use damask_txn::Error;
use std::time::{Duration, Instant};

const KEY: &[u8] = b"t\x80\x00\x00\x00\x00\x00\x00\x63_rsome";

#[test]
fn a_read_below_the_safe_point_is_refused_after_a_restart_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = |gc| {
        let data = Some(folder.path().to_owned());
        let config = Config { data, stores: 1, columns: 0, gc, ..Config::default() };
        Cluster::start(config).expect("starts")
    };
    let mut cluster = start(Gc { life_time_ms: 0, interval_ms: 20 });
    let client = cluster.client();
    let put = |value: u8| {
        client.run::<_, Error>(|txn| txn.put(KEY, [value])).expect("put");
    };
    put(1);
    let old = client.timestamp().expect("a timestamp");
    put(2);
    let deadline = Instant::now() + Duration::from_secs(60);
    let refused = loop {
        match client.snapshot(old).get(KEY) {
            Err(refused) => break refused,
            Ok(value) => assert_eq!(value, Some(vec![1])),
        }
        assert!(Instant::now() < deadline, "the safe point does not move");
        std::thread::yield_now();
    };
    let Error::BelowSafePoint { ts, safe_point } = refused else { panic!("{refused}") };
    assert_eq!(ts, old);
    cluster.stop();
    drop(cluster);

    // Nothing is collected here that was not collected before.
    let cluster = start(Gc { life_time_ms: 3_600_000, interval_ms: 3_600_000 });
    let refused = cluster.client().snapshot(old).get(KEY).expect_err("it may be gone");
    let Error::BelowSafePoint { safe_point: after, .. } = refused else { panic!("{refused}") };
    assert!(after >= safe_point, "{after} is below {safe_point}");
    assert_eq!(cluster.client().get_latest(KEY).expect("read"), Some(vec![2]));
}
