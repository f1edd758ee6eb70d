//! A region that is read a lot is split at a key inside of what is read, whichever way the reads
//! take: gets of the transaction server, scans of the coprocessor. It must never depend on how fast
//! the machine is, but that it serves a few reads a second.

mod support;

use damask_cluster::{Cluster, Config};
use damask_types::KeyRange;
use damask_types::key::row_key;
use support::{Client, bounded, quick, schema, until};

/// Rows of the table, and the first and last that are read.
const ROWS: i64 = 1_000;
const HOT: (i64, i64) = (300, 500);

/// Reads rows of the hot part until it is cut, each by the statement that `read` makes.
fn is_split_where_it_is_read(read: impl Fn(i64) -> String + Send + 'static) {
    bounded(move || {
        let mut config: Config = quick();
        config.raft.split_requests_min = 20;
        let cluster = Cluster::start(config).expect("starts");
        let mut client = Client::new(cluster.database());
        client.run_all(&[
            "CREATE DATABASE d",
            "USE d",
            "CREATE TABLE t (a INT PRIMARY KEY, b INT)",
        ]);
        let rows: Vec<String> = (0..ROWS).map(|a| format!("({a}, {a})")).collect();
        client.run(&format!("INSERT INTO t VALUES {}", rows.join(", ")));
        let table = schema(&cluster, "d", "t").id;
        let hot = KeyRange::new(row_key(table, HOT.0 + 1), row_key(table, HOT.1));
        let cut = || {
            let regions = cluster.pd().regions();
            regions.iter().any(|status| hot.contains(&status.region.range.start))
        };
        let mut n = 0;
        until("the region to be split inside of the hot rows", || {
            for _ in 0..50 {
                n = (n + 77) % (HOT.1 - HOT.0);
                client.rows(&read(HOT.0 + n));
            }
            cut()
        });
        assert_eq!(client.value("SELECT count(*) FROM t"), ROWS.to_string());
    });
}

#[test]
fn a_region_hot_by_gets_is_split() {
    is_split_where_it_is_read(|a| format!("SELECT b FROM t WHERE a = {a}"));
}

#[test]
fn a_region_hot_by_scans_is_split() {
    is_split_where_it_is_read(|a| {
        format!("SELECT sum(b) FROM t WHERE a BETWEEN {a} AND {}", a + 1)
    });
}
