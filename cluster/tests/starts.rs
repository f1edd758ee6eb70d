//! Starting and stopping: in memory at once, on disk with what was there before.

mod support;

use damask_cluster::{Cluster, Config, EngineName};
use damask_pd::Placement;
use damask_types::{StoreId, TableSchema};
use std::path::Path;
use support::{COLUMNS, Client, bounded, schema, split, until};

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
        assert!(error.message.contains("0 column nodes"), "{error}");
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

#[test]
fn any_number_of_row_stores_is_a_cluster() {
    bounded(|| {
        for stores in 1..=9 {
            let config = Config { stores, ..Config::memory() };
            let mut cluster = Cluster::start(config).unwrap_or_else(|e| panic!("{stores}: {e}"));
            let mut client = Client::new(cluster.database());
            client.run_all(&["CREATE DATABASE d", "USE d", "CREATE TABLE t (a INT PRIMARY KEY)"]);
            client.run("INSERT INTO t VALUES (7), (8), (9)");
            let table = schema(&cluster, "d", "t");
            split(&cluster, &table, &[8]);
            client.replicate("d", "t", true);
            for engine in ["row", "column"] {
                client.run(&format!("SET damask_isolation_read_engines = '{engine}'"));
                assert_eq!(client.value("SELECT sum(a) FROM t"), "24", "{stores}, {engine}");
            }
            cluster.stop();
        }
    });
}

/// On disk, with so many row stores.
fn on_disk(data: &Path, stores: usize) -> Config {
    let mut config = Config { data: Some(data.into()), stores, ..Config::memory() };
    config.kv.engine = EngineName::Fjall;
    config.raft.tick_ms = 20;
    config
}

fn refusal(config: Config) -> String {
    Cluster::start(config).err().expect("refused").to_string()
}

/// A cluster with `d.t`, of the rows 1 to 3, that was stopped.
fn filled(config: &Config) {
    let mut cluster = Cluster::start(config.clone()).expect("starts");
    let mut client = Client::new(cluster.database());
    client.run_all(&["CREATE DATABASE d", "USE d", "CREATE TABLE t (a INT PRIMARY KEY)"]);
    client.run("INSERT INTO t VALUES (1), (2), (3)");
    cluster.stop();
}

fn check_filled(cluster: &Cluster) -> std::sync::Arc<TableSchema> {
    let mut client = Client::new(cluster.database());
    assert_eq!(client.value("SELECT sum(a) FROM d.t"), "6");
    schema(cluster, "d", "t")
}

#[test]
fn stores_may_be_added_and_not_left_out() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_owned();
    bounded(move || {
        filled(&on_disk(&data, 3));
        for stores in [1, 2] {
            let refused = refusal(on_disk(&data, stores));
            assert!(refused.contains("3 row stores"), "{refused}");
            assert!(refused.contains(&format!("--stores {stores}")), "{refused}");
        }
        let mut first = Cluster::start(on_disk(&data, 3)).expect("starts");
        for stores in [3, 5] {
            assert!(refusal(on_disk(&data, stores)).contains("in use by another damask process"));
        }
        first.stop();
        let refused = refusal(Config { columns: 0, ..on_disk(&data, 3) });
        assert!(refused.contains("--columns 0 it would lack 101"), "{refused}");
        // What was refused has changed nothing.
        let mut cluster = Cluster::start(on_disk(&data, 3)).expect("starts again");
        check_filled(&cluster);
        cluster.stop();
        drop(cluster);
        let mut cluster =
            Cluster::start(Config { columns: 2, ..on_disk(&data, 5) }).expect("starts with more");
        check_filled(&cluster);
        cluster.stop();
        assert!(refusal(on_disk(&data, 3)).contains("--stores 3 it would lack 4 and 5"));
    });
}

#[test]
fn a_single_store_grows_to_three_that_bear_the_loss_of_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_owned();
    bounded(move || {
        filled(&on_disk(&data, 1));
        let mut cluster = Cluster::start(on_disk(&data, 3)).expect("starts with more");
        until("three voters everywhere", || {
            let regions = cluster.pd().regions();
            !regions.is_empty() && regions.iter().all(|r| r.region.voters().count() == 3)
        });
        let table = check_filled(&cluster);
        let first = support::leader(&cluster, &table);
        cluster.stop_store(first);
        check_filled(&cluster);
        cluster.stop();
        drop(cluster);
        // From now on the second one is known to hold data.
        std::fs::rename(data.join("rows-2"), data.join("lost")).expect("renamed");
        let cluster = Cluster::start(on_disk(&data, 3)).expect("two of three are enough");
        assert_eq!(cluster.down().keys().collect::<Vec<_>>(), [&StoreId(2)]);
        check_filled(&cluster);
    });
}

#[test]
fn a_store_that_lost_its_folder_does_not_come_back_empty() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_owned();
    bounded(move || {
        let config = on_disk(&data, 3);
        filled(&config);
        let moved = |name: &str| data.join(format!("moved-{name}"));
        // A majority without memory would elect a leader without data.
        for names in [&["rows-2"][..], &["rows-1", "rows-2"], &["rows-1", "rows-2", "rows-3"]] {
            for name in names {
                std::fs::rename(data.join(name), moved(name)).expect("renamed");
            }
            let reason = match Cluster::start(config.clone()) {
                Ok(cluster) if names.len() == 1 => {
                    check_filled(&cluster);
                    cluster.down().remove(&StoreId(2)).expect("store 2 does not run")
                }
                Ok(_) => panic!("a majority is lost"),
                Err(e) => e.to_string(),
            };
            assert!(reason.contains("held data, and is empty now"), "{reason}");
            for name in names {
                std::fs::remove_dir_all(data.join(name)).ok();
                std::fs::rename(moved(name), data.join(name)).expect("renamed");
            }
        }
        // Without its state the placement driver would give out ids twice; without its bound the
        // oracle timestamps, should the clock have gone back.
        for name in ["pd", "pd/state", "pd/timestamp"] {
            let aside = data.join("aside");
            std::fs::rename(data.join(name), &aside).expect("renamed");
            let refused = refusal(config.clone());
            assert!(refused.contains("rows-1 is there"), "{name}: {refused}");
            std::fs::remove_dir_all(data.join(name)).ok();
            std::fs::rename(aside, data.join(name)).expect("renamed");
        }
        let cluster = Cluster::start(config).expect("all is there again");
        check_filled(&cluster);
    });
}

/// Flips one byte in the middle of every file below a folder.
fn damage(folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            damage(&path);
            continue;
        }
        let mut bytes = std::fs::read(&path).expect("read");
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 0xff;
            std::fs::write(&path, bytes).expect("written");
        }
    }
}

#[test]
fn a_damaged_store_is_named_and_the_others_serve() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_owned();
    bounded(move || {
        let config = on_disk(&data, 3);
        let mut cluster = Cluster::start(config.clone()).expect("starts");
        let mut client = Client::new(cluster.database());
        client.run_all(&["CREATE DATABASE d", "USE d", "CREATE TABLE t (a INT PRIMARY KEY)"]);
        client.replicate("d", "t", true);
        client.run("INSERT INTO t VALUES (1), (2), (3)");
        client.run("SET damask_isolation_read_engines = 'column'");
        assert_eq!(client.value("SELECT sum(a) FROM t"), "6");
        cluster.stop();
        drop(cluster);
        damage(&data.join("rows-2"));
        damage(&data.join("columns-101"));
        for _ in 0..2 {
            let mut cluster = Cluster::start(config.clone()).expect("starts without them");
            assert_eq!(cluster.down().keys().collect::<Vec<_>>(), [&StoreId(2), &COLUMNS]);
            check_filled(&cluster);
            let mut client = Client::new(cluster.database());
            client.run("INSERT INTO d.t VALUES (4)");
            client.run("DELETE FROM d.t WHERE a = 4");
            cluster.stop();
        }
        damage(&data.join("rows-3"));
        let refused = refusal(config);
        assert!(
            refused.contains("row store 2: ") && refused.contains("row store 3: "),
            "{refused}"
        );
    });
}

#[test]
fn a_disk_that_is_nearly_full_takes_nothing_new_and_lets_go() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_owned();
    bounded(move || {
        let config = on_disk(&data, 3);
        filled(&config);
        let full = Config { reserve_bytes: Some(u64::MAX), ..config.clone() };
        let mut cluster = Cluster::start(full).expect("starts");
        let mut client = Client::new(cluster.database());
        client.run("USE d");
        for sql in ["INSERT INTO t VALUES (9)", "UPDATE t SET a = 8 WHERE a = 1"] {
            for mode in ["optimistic", "pessimistic"] {
                client.run(&format!("SET tidb_txn_mode = '{mode}'"));
                assert_eq!(client.try_rows(sql).expect_err("no room").code, 1021, "{sql}");
                client.run("BEGIN");
                client.try_rows(sql).ok();
                assert_eq!(client.try_rows("COMMIT").err().map(|e| e.code), Some(1021), "{sql}");
            }
        }
        assert_eq!(client.value("SELECT sum(a) FROM t"), "6");
        client.run("DELETE FROM t WHERE a = 3");
        client.run("CREATE TABLE u (a INT)");
        client.run("DROP TABLE u");
        cluster.stop();
        drop(cluster);
        let mut cluster = Cluster::start(config).expect("starts");
        let mut client = Client::new(cluster.database());
        client.run("INSERT INTO d.t VALUES (9)");
        assert_eq!(client.value("SELECT sum(a) FROM d.t"), "12");
        cluster.stop();
    });
}

#[test]
fn a_first_start_that_was_cut_short_is_taken_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_owned();
    bounded(move || {
        // Only the placement driver got so far, for a cluster of one.
        let disk = damask_env::RealDisk::open(data.join("pd")).expect("a folder");
        let clock = damask_env::RealClock::default();
        let one = on_disk(&data, 1);
        let pd = damask_cluster::topology::open_pd(&one, &clock, std::sync::Arc::new(disk));
        let first = pd.expect("opens").bootstrapped().expect("announced");
        assert_eq!(first.peers.len(), 1);
        // The first region is what was announced, whoever starts.
        let cluster = Cluster::start(on_disk(&data, 3)).expect("starts");
        let initialised = |id| cluster.pd().is_initialised(StoreId(id));
        assert!(initialised(1));
        until("the others to hold data", || initialised(2) && initialised(3));
        let mut client = Client::new(cluster.database());
        assert_eq!(client.value("SELECT 1"), "1");
    });
}

#[cfg(feature = "rocksdb")]
#[test]
fn a_log_in_rocksdb_serves_and_comes_back() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_owned();
    bounded(move || {
        let mut config = on_disk(&data, 3);
        config.raft.log = Some(damask_cluster::config::LogName::Rocksdb);
        filled(&config);
        let mut cluster = Cluster::start(config).expect("starts again");
        check_filled(&cluster);
        cluster.stop();
        drop(cluster);
        assert!(refusal(on_disk(&data, 3)).contains("log was changed"));
    });
}

#[test]
fn other_column_stores_serve_as_well() {
    let (shadow, other) = ("'shadow'", "'shadow'\nshadow = ['lsm', 'memory']");
    for name in ["'lsm'", shadow, other] {
        bounded(move || {
            let text = format!("column_store = {name}\n[raft]\ntick_ms = 50");
            let cluster = Cluster::start(Config::parse(&text).expect("valid")).expect("starts");
            serve_columns(cluster, name);
        });
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn other_engines_do_not_begin_in_an_old_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, first, other) in [
        ("r", EngineName::Rocksdb, EngineName::Fjall),
        ("f", EngineName::Fjall, EngineName::Rocksdb),
    ] {
        let data = folder.path().join(name);
        bounded(move || {
            let mut config = on_disk(&data, 1);
            config.kv.engine = first;
            filled(&config);
            let mut cluster = Cluster::start(config.clone()).expect("starts");
            Client::new(cluster.database()).replicate("d", "t", true);
            cluster.stop();
            drop(cluster);
            config.kv.engine = other;
            assert!(refusal(config.clone()).contains("engine was changed"));
            config.kv.engine = first;
            config.column_store = damask_cluster::config::ColumnStoreName::Lsm;
            let cluster = Cluster::start(config.clone()).expect("rows can be read");
            let down = cluster.down();
            assert!(down[&COLUMNS].contains("column_store was changed"), "{down:?}");
            drop(cluster);
            config.column_store = damask_cluster::config::ColumnStoreName::Deltatree;
            check_filled(&Cluster::start(config).expect("starts"));
        });
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn other_column_stores_come_back_from_disk() {
    use damask_cluster::config::ColumnStoreName;
    for name in [ColumnStoreName::Lsm, ColumnStoreName::Shadow] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().to_owned();
        bounded(move || {
            let config = Config { column_store: name, ..on_disk(&data, 3) };
            let cluster = Cluster::start(config.clone()).expect("starts");
            serve_columns(cluster, &format!("{name:?}"));
            let cluster = Cluster::start(config).expect("starts again");
            let mut client = Client::new(cluster.database());
            client.run("SET damask_isolation_read_engines = 'column'");
            client.replicate("d", "t", false);
            assert_eq!(client.value("SELECT sum(v) FROM d.t"), "4900");
        });
    }
}

/// One of two column nodes does not come back from a restart: the other one serves alone, also what
/// is written then.
#[test]
fn one_of_two_column_nodes_is_lost_over_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_owned();
    bounded(move || {
        let config = Config { columns: 2, ..on_disk(&data, 3) };
        filled(&config);
        let mut cluster = Cluster::start(config.clone()).expect("starts");
        let mut client = Client::new(cluster.database());
        client.run("ALTER TABLE d.t SET COLUMN REPLICA 2");
        client.replicate("d", "t", false);
        cluster.stop();
        drop((client, cluster));
        damage(&data.join(format!("columns-{COLUMNS}")));
        let cluster = Cluster::start(config).expect("the others can be read");
        let down = cluster.down();
        assert!(down.len() == 1 && down.contains_key(&COLUMNS), "{down:?}");
        let mut client = Client::new(cluster.database());
        client.run("SET damask_isolation_read_engines = 'column'");
        assert_eq!(client.value("SELECT sum(a) FROM d.t"), "6");
        client.run("INSERT INTO d.t VALUES (4)");
        assert_eq!(client.value("SELECT sum(a) FROM d.t"), "10");
    });
}

/// Writes, replaces and deletes rows, and reads their columns.
fn serve_columns(mut cluster: Cluster, name: &str) {
    let mut client = Client::new(cluster.database());
    client.run_all(&["CREATE DATABASE d", "USE d"]);
    client.run("CREATE TABLE t (a INT PRIMARY KEY, v INT, w VARCHAR(9))");
    let rows: Vec<String> = (0..100).map(|a| format!("({a}, {a}, 'w{}')", a % 7)).collect();
    client.run(&format!("INSERT INTO t VALUES {}", rows.join(",")));
    client.replicate("d", "t", true);
    client.run("UPDATE t SET v = v + 1 WHERE a < 50");
    client.run("DELETE FROM t WHERE a = 99 OR a = 0");
    let mut answers = Vec::new();
    for engine in ["row", "column"] {
        client.run(&format!("SET damask_isolation_read_engines = '{engine}'"));
        let groups = client.rows("SELECT w, count(*), sum(v), max(a) FROM t GROUP BY w ORDER BY w");
        let few = client.rows("SELECT a, v FROM t WHERE v > 90 ORDER BY a DESC LIMIT 5");
        answers.push((client.value("SELECT sum(v) FROM t"), groups, few));
    }
    assert_eq!(answers[0].0, "4900", "{name}");
    assert_eq!(answers[0], answers[1], "{name}");
    cluster.stop();
}

#[test]
fn a_log_on_files_and_columns_in_memory_serve_as_well() {
    bounded(|| {
        let text = "column_store = 'memory'\n[raft]\nlog = 'file'\ntick_ms = 50";
        let mut cluster = Cluster::start(Config::parse(text).expect("valid")).expect("starts");
        let disk = cluster.memory_disk("rows-1").expect("the log is on a disk");
        assert!(disk.files().iter().any(|(name, _)| name.starts_with("raft/")));
        let mut client = Client::new(cluster.database());
        client.run_all(&["CREATE DATABASE d", "USE d", "CREATE TABLE t (a INT PRIMARY KEY)"]);
        client.run("INSERT INTO t VALUES (1), (2)");
        client.replicate("d", "t", true);
        cluster.stop_store(COLUMNS);
        cluster.start_store(COLUMNS).expect("starts again");
        client.replicate("d", "t", false);
        client.run("SET damask_isolation_read_engines = 'column'");
        assert_eq!(client.value("SELECT sum(a) FROM t"), "3");
    });
}
