//! Stores that stop, are cut off and come back, under reads and writes: nothing acknowledged is
//! lost, nothing half done is seen, and rows and columns stay equal.

#![allow(clippy::disallowed_methods)] // threads of tests

mod support;

use damask_cluster::Cluster;
use damask_cluster::nodes::Content;
use damask_kv::engine::versions_end;
use damask_kv::{Cf, WriteBatch};
use damask_types::codec::encode_key;
use damask_types::key::row_key;
use damask_types::{StoreId, TableSchema};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::{COLUMNS, Client, bounded, leader, quick, schema, split, until};

const ROW_STORES: [StoreId; 3] = [StoreId(1), StoreId(2), StoreId(3)];

/// A cluster with table `d.t (id, v)` of ten rows in three regions, and its columns.
fn start() -> (Cluster, Client, Arc<TableSchema>) {
    let cluster = Cluster::start(quick()).expect("starts");
    let mut client = Client::new(cluster.database());
    client.run_all(&[
        "CREATE DATABASE d",
        "USE d",
        "CREATE TABLE t (id INT PRIMARY KEY, v INT NOT NULL)",
        "INSERT INTO t VALUES (1,1),(2,1),(3,1),(4,1),(5,1),(6,1),(7,1),(8,1),(9,1),(10,1)",
    ]);
    let table = schema(&cluster, "d", "t");
    split(&cluster, &table, &[4, 8]);
    client.replicate("d", "t", true);
    (cluster, client, table)
}

/// Rows and columns must both say so.
fn both(client: &mut Client, sql: &str, expected: &str) {
    for engine in ["row", "column"] {
        client.run(&format!("SET damask_isolation_read_engines = '{engine}'"));
        assert_eq!(client.value(sql), expected, "{engine}: {sql}");
    }
    client.run("SET damask_isolation_read_engines = 'row,column'");
}

/// Every replica of a running store is as far as the leaders are.
fn caught_up(cluster: &Cluster, store: StoreId) {
    until(&format!("store {store} to catch up"), || {
        let leaders = ROW_STORES.iter().flat_map(|id| cluster.replicas(*id));
        let leaders: Vec<_> = leaders.filter(|status| status.is_leader).collect();
        let own = cluster.replicas(store);
        let reached = |id, index| own.iter().any(|s| s.region.id == id && s.applied.index >= index);
        let mine = leaders.iter().filter(|s| s.region.peer_on(store).is_some());
        !leaders.is_empty() && mine.into_iter().all(|s| reached(s.region.id, s.commit))
    });
}

#[test]
fn any_one_row_store_may_stop() {
    bounded(|| {
        let (mut cluster, mut client, table) = start();
        let led = leader(&cluster, &table);
        let follows = ROW_STORES.into_iter().find(|id| *id != led).expect("three stores");
        // Each stops after the one before it has come back: each is needed for a majority once.
        let mut sum = 10;
        for store in [follows, led, StoreId(1), StoreId(2), StoreId(3)] {
            cluster.stop_store(store);
            for id in [1, 5, 9] {
                client.run(&format!("UPDATE t SET v = v + 1 WHERE id = {id}"));
                sum += 1;
            }
            assert_eq!(client.value("SELECT v FROM t WHERE id = 2"), "1");
            both(&mut client, "SELECT sum(v) FROM t", &sum.to_string());
            cluster.start_store(store).expect("starts again");
            caught_up(&cluster, store);
        }
        both(&mut client, "SELECT count(*) FROM t", "10");
    });
}

#[test]
fn without_columns_writes_go_on_and_columns_catch_up() {
    bounded(|| {
        let (mut cluster, mut client, table) = start();
        for round in 0..3i64 {
            cluster.stop_store(COLUMNS);
            // The optimizer does not choose what nobody serves, and who insists is told.
            let before = (10 + round * 19).to_string();
            assert_eq!(client.value("SELECT count(*) FROM t"), before);
            client.run("SET damask_isolation_read_engines = 'column'");
            let refusal = client.try_rows("SELECT count(*) FROM t").expect_err("no columns");
            assert_eq!(refusal.code, 1815, "{refusal}");
            client.run("SET damask_isolation_read_engines = 'row,column'");
            let available = "SELECT available FROM information_schema.tiflash_replica";
            assert_eq!(client.value(available), "0");
            for i in 0..20 {
                let id = 100 + round * 20 + i;
                client.run(&format!("INSERT INTO t VALUES ({id}, 1)"));
            }
            client.run(&format!("DELETE FROM t WHERE id = {}", 100 + round * 20));
            client.run(&format!("UPDATE t SET v = 5 WHERE id = {}", 101 + round * 20));
            // The log of a new region begins while nobody turns it into columns.
            split(&cluster, &table, &[100 + round * 20 + 10]);
            cluster.start_store(COLUMNS).expect("starts again");
            client.replicate("d", "t", false);
            let rows = 10 + (round + 1) * 19;
            let sum = rows + (round + 1) * 4;
            both(&mut client, "SELECT count(*) FROM t", &rows.to_string());
            both(&mut client, "SELECT sum(v) FROM t", &sum.to_string());
        }
    });
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_serves_nothing_old() {
    bounded(|| {
        let (cluster, mut client, table) = start();
        for round in 1..=2 {
            let cut = leader(&cluster, &table);
            cluster.network().set_cut(cut, true);
            for id in 1..=10 {
                client.run(&format!("UPDATE t SET v = v + 1 WHERE id = {id}"));
            }
            let sum = 10 + 10 * round;
            both(&mut client, "SELECT sum(v) FROM t", &sum.to_string());
            assert_eq!(client.value("SELECT v FROM t WHERE id = 1"), (1 + round).to_string());
            cluster.network().set_cut(cut, false);
            caught_up(&cluster, cut);
        }
    });
}

#[test]
fn columns_that_are_cut_off_are_never_old() {
    bounded(|| {
        let (cluster, mut client, _) = start();
        cluster.network().set_cut(COLUMNS, true);
        client.run("SET damask_isolation_read_engines = 'row'");
        client.run("UPDATE t SET v = 2");
        assert_eq!(client.value("SELECT sum(v) FROM t"), "20");
        let database = cluster.database().clone();
        let reader = std::thread::spawn(move || {
            let mut client = Client::new(&database);
            client.run_all(&["USE d", "SET damask_isolation_read_engines = 'column'"]);
            client.value("SELECT sum(v) /* reader */ FROM t")
        });
        let running = "SELECT count(*) FROM information_schema.processlist \
                       WHERE info LIKE '%/* reader */%' AND info NOT LIKE '%processlist%'";
        until("the reader to ask", || client.value(running) == "1");
        // It waits for the columns as long as they are cut off: others are served meanwhile.
        for _ in 0..100 {
            assert_eq!(client.value("SELECT sum(v) FROM t"), "20");
        }
        assert!(!reader.is_finished(), "it had nothing to answer with: {:?}", reader.join());
        cluster.network().set_cut(COLUMNS, false);
        assert_eq!(reader.join().expect("an answer"), "20");
        caught_up(&cluster, COLUMNS);
        both(&mut client, "SELECT sum(v) FROM t", "20");
    });
}

/// Makes a record of the row unreadable, on one store.
fn spoil(cluster: &Cluster, store: StoreId, table: &TableSchema, handle: i64) {
    let Some(Content::Rows(engine)) = cluster.content(store) else { panic!("a row store") };
    let start = encode_key(&row_key(table.id, handle));
    let mut end = start.clone();
    versions_end(&mut end);
    let snapshot = engine.snapshot();
    let mut cursor = snapshot.cursor(Cf::Write, &start, &end).expect("a cursor");
    let (key, _) = cursor.seek(&start).expect("read").expect("the row was written");
    let mut batch = WriteBatch::default();
    batch.put(Cf::Write, key, [0xEE]);
    engine.write(batch).expect("written");
}

#[test]
fn a_store_that_finds_damage_leaves_when_the_others_suffice() {
    bounded(|| {
        let (mut cluster, mut client, table) = start();
        client.run("SET damask_isolation_read_engines = 'row'");
        let first = leader(&cluster, &table);
        spoil(&cluster, first, &table, 2);
        // Nobody notices: neither who reads the row, nor who writes it, nor who scans.
        assert_eq!(client.value("SELECT v FROM t WHERE id = 2"), "1");
        let why = cluster.failed(first).expect("it is named");
        assert!(why.contains("write type"), "{why}");
        client.run("UPDATE t SET v = v + 1 WHERE id = 2");
        until("others to lead", || leader(&cluster, &table) != first);
        assert_eq!(client.value("SELECT sum(v) FROM t"), "11");
        // A majority needs the next one: it goes on, and says what it found.
        let second = leader(&cluster, &table);
        spoil(&cluster, second, &table, 3);
        let refusal = client.try_rows("SELECT v FROM t WHERE id = 3").expect_err("damaged");
        assert!(refusal.to_string().contains("write type"), "{refusal}");
        assert!(cluster.failed(second).is_some());
        assert_eq!(client.value("SELECT v FROM t WHERE id = 2"), "2");
        client.run("UPDATE t SET v = v + 1 WHERE id = 1");
        // Whatever starts in its place is heard again.
        cluster.stop_store(first);
        assert!(!cluster.network().is_cut(first));
        cluster.start_store(first).expect("starts again");
        caught_up(&cluster, first);
    });
}

const ACCOUNTS: u64 = 24;
const START_BALANCE: u64 = 1000;
const TELLERS: u64 = 4;
const CHECKS: u64 = 30;
const TRANSFERS_MIN: u64 = 40;

/// One transfer in a transaction; false if another was first.
fn transfer(client: &mut Client, from: u64, to: u64, amount: u64) -> bool {
    let statements = [
        "BEGIN".to_owned(),
        format!("SELECT v FROM bank WHERE id = {from}"),
        format!("UPDATE bank SET v = v - {amount} WHERE id = {from}"),
        format!("UPDATE bank SET v = v + {amount} WHERE id = {to}"),
        format!("INSERT INTO ledger (payer, payee, amount) VALUES ({from}, {to}, {amount})"),
        "COMMIT".to_owned(),
    ];
    for sql in &statements {
        if let Err(e) = client.try_rows(sql) {
            let conflict = [1205, 1213, 9007].contains(&e.code);
            assert!(conflict, "{sql}: {e}");
            client.run("ROLLBACK");
            return false;
        }
    }
    true
}

#[test]
fn transfers_keep_the_sum_in_rows_and_columns_at_every_moment() {
    bounded(|| {
        let (cluster, mut client, _) = start();
        client.run_all(&[
            "CREATE TABLE bank (id INT PRIMARY KEY, v BIGINT NOT NULL)",
            "CREATE TABLE ledger (n BIGINT PRIMARY KEY AUTO_INCREMENT, payer INT, payee INT, \
             amount INT, KEY (payer))",
        ]);
        for id in 0..ACCOUNTS {
            client.run(&format!("INSERT INTO bank VALUES ({id}, {START_BALANCE})"));
        }
        split(&cluster, &schema(&cluster, "d", "bank"), &[8, 16]);
        client.replicate("d", "bank", true);
        client.replicate("d", "ledger", true);
        let stop = AtomicBool::new(false);
        let done = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for teller in 0..TELLERS {
                let (stop, done, database) = (&stop, &done, cluster.database());
                scope.spawn(move || {
                    let mut client = Client::new(database);
                    client.run("USE d");
                    let mut state = teller + 1;
                    while !stop.load(Ordering::SeqCst) {
                        // Knuth's linear congruential generator: a cheap spread of accounts.
                        state =
                            state.wrapping_mul(6364136223846793005).wrapping_add(teller * 2 + 1);
                        let from = (state >> 33) % ACCOUNTS;
                        let to = (from + 1 + (state >> 40) % (ACCOUNTS - 1)) % ACCOUNTS;
                        if transfer(&mut client, from, to, 1 + (state >> 50) % 9) {
                            done.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                });
            }
            let check = std::panic::AssertUnwindSafe(|| {
                let mut checks = 0;
                while checks < CHECKS || done.load(Ordering::SeqCst) < TRANSFERS_MIN {
                    check_bank(&mut client);
                    checks += 1;
                }
            });
            let checked = std::panic::catch_unwind(check);
            stop.store(true, Ordering::SeqCst);
            if let Err(panic) = checked {
                std::panic::resume_unwind(panic);
            }
        });
        check_bank(&mut client);
        both(&mut client, "SELECT count(*) FROM ledger", &done.into_inner().to_string());
    });
}

/// At one timestamp: the money is all there, and rows and columns agree on every account.
fn check_bank(client: &mut Client) {
    client.run("BEGIN");
    let mut answers = Vec::new();
    for engine in ["row", "column"] {
        client.run(&format!("SET damask_isolation_read_engines = '{engine}'"));
        let total = client.value("SELECT sum(v) FROM bank");
        assert_eq!(total, (ACCOUNTS * START_BALANCE).to_string(), "{engine}");
        let moved = "SELECT count(*), sum(amount), sum(payer), sum(payee) FROM ledger";
        let accounts = client.rows("SELECT id, v FROM bank ORDER BY id");
        answers.push((accounts, client.rows(moved)));
    }
    assert_eq!(answers[0], answers[1]);
    client.run("COMMIT");
    client.run("SET damask_isolation_read_engines = 'row,column'");
}
