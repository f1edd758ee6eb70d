//! CHECK TABLE finds what is wrong with index entries, rows and columns, and nothing where nothing
//! is, whatever is written meanwhile; who waits for a lock is seen.

#![allow(clippy::disallowed_methods)] // threads of tests

mod support;

use damask_cluster::Cluster;
use damask_cluster::nodes::Content;
use damask_deltatree::HandleRange;
use damask_types::Datum;
use damask_types::key::{index_key, row_key};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use support::{COLUMNS, Client, bounded, quick, schema, until};

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start(quick()).expect("starts");
    let mut client = Client::new(cluster.database());
    client.run_all(&[
        "CREATE DATABASE d",
        "USE d",
        "CREATE TABLE t (id INT PRIMARY KEY, v INT, s VARCHAR(9), KEY k (v), UNIQUE KEY u (s))",
        "INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, NULL), (4, 4, 'd'), (5, NULL, 'e')",
    ]);
    (cluster, client)
}

/// What CHECK TABLE says, `kind: text` for each line.
fn said(client: &mut Client) -> Vec<String> {
    let rows = client.rows("CHECK TABLE t");
    let cell = |cell: &Option<String>| cell.clone().unwrap_or_default();
    rows.iter().map(|row| format!("{}: {}", cell(&row[2]), cell(&row[3]))).collect()
}

#[test]
fn what_is_wrong_is_found_and_named() {
    bounded(|| {
        let (cluster, mut client) = start();
        client.replicate("d", "t", true);
        assert_eq!(said(&mut client), ["status: OK"]);
        let table = schema(&cluster, "d", "t");
        let write = |key: &[u8], value: Option<&[u8]>| {
            let mut txn = cluster.client().begin().expect("begins");
            match value {
                Some(value) => txn.put(key, value).expect("written"),
                None => txn.delete(key).expect("deleted"),
            }
            txn.commit().expect("committed");
        };
        let entry = |value: i64, handle: i64| {
            index_key(table.id, table.indexes[0].id, &[Datum::Int(value)], Some(handle))
        };
        let mut broken = |key: &[u8], value: Option<&[u8]>, fault: &str| {
            write(key, value);
            let told = said(&mut client);
            assert_eq!(told, [format!("error: {fault}"), "error: Corrupt".to_owned()]);
            let refusal = client.try_rows("ADMIN CHECK TABLE t").expect_err("damaged");
            assert_eq!(refusal.code, 8223, "{refusal}");
        };
        broken(&entry(2, 2), None, "index 'k': the entry of row 2 is missing");
        write(&entry(2, 2), Some(b"0"));
        broken(&entry(77, 3), Some(b"0"), "index 'k': an entry of row 3 is too many");
        write(&entry(77, 3), None);
        let absent = "index 'k': an entry names row 99, which is not there";
        broken(&entry(5, 99), Some(b"0"), absent);
        write(&entry(5, 99), None);
        let unique = index_key(table.id, table.indexes[1].id, &[Datum::Text("d".into())], None);
        let other = damask_types::key::encode_handle(1);
        broken(&unique, Some(&other), "index 'u': the entry of row 4 is of another row");
        write(&unique, Some(&damask_types::key::encode_handle(4)));
        assert_eq!(said(&mut client), ["status: OK"]);
        // A row that the columns have lost.
        let Some(Content::Columns(columns)) = cluster.content(COLUMNS) else { panic!("columns") };
        columns.clear(table.id, HandleRange { first: 4, last: 4 }).expect("cleared");
        let told = said(&mut client);
        assert!(told[0].starts_with("error: the column replica has 4 rows"), "{told:?}");
        assert_eq!(told[1..], ["error: Corrupt"]);
    });
}

#[test]
fn a_row_that_cannot_be_read_is_named() {
    bounded(|| {
        let (cluster, mut client) = start();
        let table = schema(&cluster, "d", "t");
        let mut txn = cluster.client().begin().expect("begins");
        txn.put(row_key(table.id, 4), b"\xff\xff\xff").expect("written");
        txn.commit().expect("committed");
        let told = said(&mut client);
        assert!(told[0].starts_with("error: row 4 of table 't' is damaged"), "{told:?}");
        assert_eq!(told[1..], ["error: Corrupt"]);
    });
}

#[test]
fn a_check_sees_one_moment_of_a_table_that_changes() {
    bounded(|| {
        let (cluster, mut client) = start();
        client.replicate("d", "t", true);
        let stop = Arc::new(AtomicBool::new(false));
        let (database, stopped) = (cluster.database().clone(), stop.clone());
        let writer = std::thread::spawn(move || {
            let mut client = Client::new(&database);
            client.run("USE d");
            let mut n = 0;
            while !stopped.load(Ordering::SeqCst) {
                n += 1;
                let id = 10 + n % 50;
                client.run(&format!("REPLACE INTO t VALUES ({id}, {n}, 's{id}')"));
                client.run("UPDATE t SET v = v + 1 WHERE id < 4");
                client.run(&format!("DELETE FROM t WHERE id = {}", 10 + n * 7 % 50));
            }
            n
        });
        for _ in 0..20 {
            assert_eq!(said(&mut client), ["status: OK"]);
        }
        stop.store(true, Ordering::SeqCst);
        assert!(writer.join().expect("joins") > 0);
    });
}

#[test]
fn who_waits_for_a_row_lock_is_seen() {
    bounded(|| {
        let (cluster, mut holder) = start();
        holder.run_all(&["BEGIN PESSIMISTIC", "UPDATE t SET v = 20 WHERE id = 2"]);
        let mut watcher = Client::new(cluster.database());
        let all = "SELECT count(*) FROM information_schema.data_lock_waits";
        assert_eq!(watcher.value(all), "0");
        let database = cluster.database().clone();
        let waiter = std::thread::spawn(move || {
            let mut client = Client::new(&database);
            client.run_all(&["USE d", "BEGIN PESSIMISTIC"]);
            let value = client.value("SELECT v FROM t WHERE id = 2 FOR UPDATE");
            client.run("COMMIT");
            value
        });
        until("a wait", || watcher.value(all) == "1");
        let sql = "SELECT key_info, trx_id > current_holding_trx_id, sql_digest_text, \
                   length(sql_digest) FROM information_schema.data_lock_waits";
        let row = watcher.rows(sql).remove(0);
        let cell = |at: usize| row[at].clone().unwrap_or_default();
        assert!(cell(0).contains(r#""handle_value":"2""#), "{row:?}");
        assert_eq!(cell(1), "1");
        assert_eq!(cell(2), "select `v` from `t` where `id` = ? for update");
        assert_eq!(cell(3), "64");
        holder.run("COMMIT");
        assert_eq!(waiter.join().expect("joins"), "20");
        assert_eq!(watcher.value(all), "0");
    });
}
