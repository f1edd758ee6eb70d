//! Columns that are asked for and not there: who may read rows reads them and is told, who insists
//! waits a little and is told why.

mod support;

use damask_cluster::Cluster;
use damask_cluster::config::{Config, Trace};
use damask_deltatree::{ColumnStore, HandleRange, MemoryColumnStore};
use damask_env::{Clock, RealClock};
use damask_learner::trace::{ReplayPlan, replay};
use damask_types::{StoreId, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use support::{COLUMNS, Client, bounded, quick, until};

/// A statement waits for columns for 3 s.
const WAIT_MIN: Duration = Duration::from_secs(2);

const HINTED: &str = "SELECT /*+ READ_FROM_STORAGE(COLUMN[t]) */ sum(v) FROM t";

fn fill(client: &mut Client) {
    client.run_all(&[
        "CREATE DATABASE d",
        "USE d",
        "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
        "INSERT INTO t VALUES (1, 10), (2, 20)",
    ]);
}

/// Asks columns that are not there yet. A statement waits for them; on a busy machine they may
/// come later than it waits, and it is given again.
fn waited_for(client: &mut Client, sql: &str) -> String {
    let mut answer = None;
    until("columns", || {
        let clock = RealClock::default();
        match client.try_rows(sql) {
            Ok(rows) => answer = rows.into_iter().flatten().flatten().next(),
            Err(e) => assert!(e.code == 1815 && clock.monotonic() >= WAIT_MIN, "{sql}: {e}"),
        }
        answer.is_some()
    });
    answer.expect("waited for")
}

/// Codes and texts of SHOW WARNINGS.
fn warned(client: &mut Client) -> Vec<String> {
    let rows = client.rows("SHOW WARNINGS");
    let cell = |cell: &Option<String>| cell.clone().unwrap_or_default();
    rows.iter().map(|row| format!("{} {}", cell(&row[1]), cell(&row[2]))).collect()
}

#[test]
fn a_hint_that_cannot_be_obeyed_warns() {
    bounded(|| {
        let mut cluster = Cluster::start(quick()).expect("starts");
        let mut client = Client::new(cluster.database());
        fill(&mut client);
        let warns = |client: &mut Client| {
            assert_eq!(client.value(HINTED), "30");
            let told = warned(client);
            assert!(told.len() == 1 && told[0].starts_with("1815 No available path"), "{told:?}");
        };
        warns(&mut client);
        client.replicate("d", "t", true);
        assert_eq!(client.value(HINTED), "30");
        assert_eq!(warned(&mut client), [""; 0], "it was obeyed");
        let lag = "SELECT lag_ms FROM information_schema.column_replica";
        let lag_ms = |client: &mut Client| client.value(lag).parse::<u64>().expect("a number");
        until("columns that are hardly behind", || lag_ms(&mut client) <= 1000);
        let there = "SELECT applied_index > 0 AND applied_index = commit_index
            FROM information_schema.column_replica";
        until("all that is committed", || client.value(there) == "1");
        cluster.stop_store(COLUMNS);
        warns(&mut client);
        assert_eq!(client.rows(lag), [[None]], "nobody catches up");
        assert_eq!(client.rows(there), [[None]], "nobody knows");
        client.run("SET damask_isolation_read_engines = 'column'");
        let refusal = client.try_rows("SELECT sum(v) FROM t").expect_err("no columns");
        assert_eq!(refusal.code, 1815);
        assert!(refusal.message.contains("not reachable"), "{refusal}");
        cluster.start_store(COLUMNS).expect("starts again");
        assert_eq!(waited_for(&mut client, "SELECT sum(v) FROM t"), "30");
    });
}

/// Each of two column nodes is lost in turn, and comes back: columns go on to be read, at once.
#[test]
fn of_two_column_nodes_one_is_enough() {
    bounded(|| {
        let mut cluster = Cluster::start(Config { columns: 2, ..quick() }).expect("starts");
        let mut client = Client::new(cluster.database());
        fill(&mut client);
        client.run("ALTER TABLE d.t SET COLUMN REPLICA 2");
        client.replicate("d", "t", false);
        client.run("SET damask_isolation_read_engines = 'column'");
        let (first, second) = (COLUMNS, StoreId(COLUMNS.0 + 1));
        let lag = "SELECT available, lag_ms <= 1000 FROM information_schema.column_replica";
        let mut sum = 30;
        for (round, lost) in [first, second, first].into_iter().enumerate() {
            cluster.stop_store(lost);
            let id = 10 + round;
            client.run(&format!("INSERT INTO t VALUES ({id}, {id})"));
            sum += id;
            assert_eq!(waited_for(&mut client, "SELECT sum(v) FROM t"), sum.to_string());
            let near =
                |client: &mut Client| client.rows(lag)[0] == ["1", "1"].map(|n| Some(n.into()));
            until("the lag of the one that runs", || near(&mut client));
            cluster.start_store(lost).expect("starts again");
            until("both again", || cluster.down().is_empty());
        }
    });
}

#[test]
fn after_a_restart_columns_are_waited_for() {
    bounded(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = quick();
        config.data = Some(folder.path().to_owned());
        let start = || Cluster::start(config.clone()).expect("starts");
        let mut cluster = start();
        let mut client = Client::new(cluster.database());
        fill(&mut client);
        client.replicate("d", "t", true);
        for round in 0..3 {
            drop(client);
            cluster.stop();
            drop(cluster);
            cluster = start();
            client = Client::new(cluster.database());
            client.run_all(&["USE d", "SET damask_isolation_read_engines = 'column'"]);
            assert_eq!(waited_for(&mut client, "SELECT sum(v) FROM t"), "30", "round {round}");
        }
    });
}

#[test]
fn what_columns_were_told_can_be_told_again() {
    bounded(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = quick();
        config.trace = Some(Trace { folder: folder.path().to_owned(), bytes_max: 1 << 24 });
        let mut cluster = Cluster::start(config).expect("starts");
        let mut client = Client::new(cluster.database());
        fill(&mut client);
        client.replicate("d", "t", true);
        client.run("INSERT INTO t VALUES (3, 30), (4, 40)");
        client.run("DELETE FROM t WHERE id = 1");
        assert_eq!(client.value(HINTED), "90");
        drop(client);
        cluster.stop();
        let trace = std::fs::read(folder.path().join("columns-101.1.trace")).expect("recorded");
        let store: Arc<dyn ColumnStore> = Arc::new(MemoryColumnStore::default());
        let told = replay(&trace, &store, &ReplayPlan::default(), &RealClock::default());
        let told = told.expect("it can be told");
        let table = told.tables.iter().find(|(_, schema)| schema.name == "t").expect("a table");
        let snapshot = store.snapshot(*table.0).expect("a snapshot");
        let rows = snapshot.count(&[HandleRange::ALL], Timestamp::MAX).expect("counted");
        assert_eq!((rows, told.incomplete), (3, false));
    });
}
