//! Starting and stopping: in memory at once, on disk with what was there before.

mod support;

use damask_cluster::{Cluster, Config, EngineName};
use support::{COLUMNS, Client, bounded, schema, until};

#[test]
fn a_cluster_in_memory_needs_no_election_timeout() {
    bounded(|| {
        let mut config = Config::memory();
        // An hour: only a store that asks for votes at once gets them in time.
        config.raft.tick_ms = 3_600_000;
        let cluster = Cluster::start(config).expect("starts");
        let mut client = Client::new(cluster.database());
        assert_eq!(client.value("SELECT 1 + 1"), "2");
        client.run_all(&["CREATE DATABASE d", "USE d", "CREATE TABLE t (a INT PRIMARY KEY)"]);
        client.run("INSERT INTO t VALUES (7)");
        assert_eq!(client.value("SELECT a FROM t"), "7");
    });
}

#[test]
fn one_store_without_columns_is_a_cluster_too() {
    bounded(|| {
        let config = Config { stores: 1, columns: 0, ..Config::memory() };
        let cluster = Cluster::start(config).expect("starts");
        let mut client = Client::new(cluster.database());
        client.run_all(&["CREATE DATABASE d", "USE d", "CREATE TABLE t (a INT PRIMARY KEY)"]);
        client.run("INSERT INTO t VALUES (7)");
        assert_eq!(client.value("SELECT a FROM t"), "7");
        let error = client.try_rows("ALTER TABLE t SET COLUMN REPLICA 1").expect_err("no store");
        assert!(error.message.contains("tiflash"), "{error}");
    });
}

#[test]
fn a_config_that_cannot_work_is_explained() {
    let refused = |config: Config| Cluster::start(config).err().expect("refused").to_string();
    assert!(refused(Config { stores: 0, ..Config::memory() }).contains("stores = 0"));
    assert!(refused(Config { columns: 9, ..Config::memory() }).contains("columns = 9"));
    let mut config = Config::memory();
    config.raft.tick_ms = 0;
    assert!(refused(config).contains("tick_ms"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("bound");
    let refusal = refused(Config { mysql: Some(addr), ..Config::memory() });
    assert!(refusal.contains(&format!("port {}", addr.port())), "{refusal}");
}

#[test]
fn a_restart_on_disk_keeps_rows_columns_and_identities() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    bounded(move || {
        let mut config = Config { data: Some(data), ..Config::memory() };
        config.kv.engine = EngineName::Fjall;
        config.raft.tick_ms = 20;
        let mut cluster = Cluster::start(config.clone()).expect("starts");
        let mut client = Client::new(cluster.database());
        client.run_all(&[
            "CREATE DATABASE d",
            "USE d",
            "CREATE TABLE t (a INT PRIMARY KEY AUTO_INCREMENT, b VARCHAR(10), KEY (b))",
        ]);
        client.replicate("d", "t", true);
        client.run("INSERT INTO t (b) VALUES ('x'), ('y'), ('z')");
        client.run("DELETE FROM t WHERE b = 'y'");
        let table = schema(&cluster, "d", "t");
        drop(client);
        cluster.stop();
        drop(cluster);

        // Twice: the second start recovers what the first one recovered.
        for round in 0..2 {
            let mut cluster = Cluster::start(config.clone()).expect("starts again");
            let mut client = Client::new(cluster.database());
            assert_eq!(schema(&cluster, "d", "t").id, table.id);
            client.run("USE d");
            let available = "SELECT available FROM information_schema.tiflash_replica";
            until("the columns' region to report", || client.value(available) == "1");
            for engine in ["row", "column"] {
                client.run(&format!("SET damask_isolation_read_engines = '{engine}'"));
                let count = client.value("SELECT count(*) FROM t WHERE b IN ('x', 'y', 'z')");
                assert_eq!(count, "2", "{engine}, round {round}");
            }
            let id = "SELECT a FROM t WHERE b = 'new'";
            client.run("INSERT INTO t (b) VALUES ('new')");
            let new: i64 = client.value(id).parse().expect("a number");
            assert!(new > 3, "an id is given out once: {new}");
            client.run("DELETE FROM t WHERE b = 'new'");
            assert!(cluster.content(COLUMNS).is_some());
            cluster.stop();
        }
    });
}
