//! What is served over HTTP: stores that run, that were stopped, and that stopped themselves; and
//! what the optimizer is told of tables. It must never need a client of HTTP.

mod support;

use damask_cluster::{Cluster, Config};
use damask_env::Fault;
use damask_sql_lite::query::TableFacts;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use support::{COLUMNS, Client, bounded, schema, until};

/// In memory, with logs on disks that can be broken, and status.
fn start() -> (Cluster, SocketAddr) {
    let mut config = Config::parse("[raft]\nlog = 'file'\ntick_ms = 50").expect("valid");
    config.status = Some("127.0.0.1:0".parse().expect("an address"));
    let cluster = Cluster::start(config).expect("starts");
    let status = cluster.status_addr().expect("it is served");
    (cluster, status)
}

fn get(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).expect("connects");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

/// State and reason of a store.
fn state(addr: SocketAddr, store: u64) -> (String, String) {
    let status: serde_json::Value = serde_json::from_str(&get(addr, "/status")).expect("JSON");
    let stores = status["stores"].as_array().expect("a list");
    let found = stores.iter().find(|s| s["id"] == store).expect("the store");
    let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    (text("state"), text("reason"))
}

#[test]
fn a_store_that_stopped_itself_is_shown_with_its_reason() {
    bounded(|| {
        let (mut cluster, addr) = start();
        let mut client = Client::new(cluster.database());
        client.run_all(&["CREATE DATABASE d", "USE d", "CREATE TABLE t (a INT PRIMARY KEY)"]);
        for store in [1, 2, 3, 101] {
            assert_eq!(state(addr, store).0, "up", "{store}");
            assert!(get(addr, "/metrics").contains(&format!("store_up{{store=\"{store}\"}} 1")));
        }
        let disk = cluster.memory_disk("rows-3").expect("the log is on a disk");
        disk.set_fault(Fault { fail_at: Some(0), capacity: None });
        let mut row = 0;
        until("the store to stop", || {
            row += 1;
            client.run(&format!("INSERT INTO t VALUES ({row})"));
            state(addr, 3).0 == "failed"
        });
        let reason = state(addr, 3).1;
        assert!(reason.contains("injected fault") && reason.contains("raft/"), "{reason}");
        let metrics = get(addr, "/metrics");
        assert!(metrics.contains("store_up{store=\"3\"} 0"), "{metrics}");
        assert!(metrics.contains("store_up{store=\"1\"} 1"), "{metrics}");
        until("it leads nothing", || get(addr, "/metrics").contains("leaders{store=\"3\"} 0"));
        assert_eq!(client.value("SELECT count(*) FROM t"), row.to_string());
        cluster.stop_store(COLUMNS);
        assert_eq!(state(addr, 101).0, "stopped");
    });
}

#[test]
fn a_failed_column_store_is_not_chosen() {
    bounded(|| {
        let (cluster, addr) = start();
        let mut client = Client::new(cluster.database());
        client.run_all(&["CREATE DATABASE d", "USE d", "CREATE TABLE t (a INT PRIMARY KEY)"]);
        client.replicate("d", "t", true);
        let table = schema(&cluster, "d", "t");
        assert!(cluster.facts().columns_ready(&table));
        let disk = cluster.memory_disk("columns-101").expect("the log is on a disk");
        disk.set_fault(Fault { fail_at: None, capacity: Some(0) });
        let mut row = 0;
        until("the store to stop", || {
            row += 1;
            client.run(&format!("INSERT INTO t VALUES ({row})"));
            state(addr, 101).0 == "failed"
        });
        assert!(!cluster.facts().columns_ready(&table));
        assert_eq!(client.value("SELECT count(*) FROM t"), row.to_string());
    });
}

#[test]
fn the_optimizer_is_told_how_many_rows_there_are() {
    bounded(|| {
        let (cluster, _) = start();
        let mut client = Client::new(cluster.database());
        client.run_all(&[
            "CREATE DATABASE d",
            "USE d",
            "CREATE TABLE small (a INT PRIMARY KEY)",
            "CREATE TABLE wide (a INT PRIMARY KEY, b VARCHAR(2000) NOT NULL)",
        ]);
        let text = "x".repeat(1500);
        for from in (0..3000).step_by(500) {
            let rows: Vec<_> = (from..from + 500).map(|i| format!("({i}, '{text}')")).collect();
            client.run(&format!("INSERT INTO wide VALUES {}", rows.join(",")));
        }
        let near = |table: &str, rows: f64| {
            let table = schema(&cluster, "d", table);
            until("a size that is near", || {
                let size = cluster.facts().size(&table);
                (rows / 2.0..rows * 2.0).contains(&size.rows)
            });
        };
        // Bytes would say 45,000; and nothing of what lies in the same region counts here.
        near("wide", 3000.0);
        near("small", 1000.0);
        client.replicate("d", "wide", true);
        near("wide", 3000.0);
    });
}
