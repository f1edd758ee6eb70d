//! The two walks of the architecture, one write and one analytic read, as a trace of what each part
//! is left with. The golden trace is `sql/walk.txt`; times are masked, so it never changes by itself.

mod support;

use damask_cluster::Cluster;
use damask_cluster::nodes::Content;
use damask_deltatree::store::HandleRange;
use damask_kv::MvccReader;
use damask_types::key::{index_prefix, row_key};
use damask_types::{KeyRange, PeerRole, StoreId, TableSchema, Timestamp, Write};
use std::fmt::Write as _;
use support::{COLUMNS, Client, bounded, golden, quick, schema, until};

const ROW_STORES: [StoreId; 3] = [StoreId(1), StoreId(2), StoreId(3)];

#[test]
fn walk() {
    bounded(|| {
        let cluster = Cluster::start(quick()).expect("starts");
        let mut client = Client::new(cluster.database());
        client.run_all(&[
            "CREATE DATABASE d",
            "USE d",
            "CREATE TABLE t (id INT PRIMARY KEY, name VARCHAR(10), KEY by_name (name))",
        ]);
        client.replicate("d", "t", true);
        let mut trace = String::new();
        write_walk(&cluster, &mut client, &mut trace);
        read_walk(&mut client, &mut trace);
        golden("walk.txt", &trace);
    });
}

fn write_walk(cluster: &Cluster, client: &mut Client, out: &mut String) {
    let table = schema(cluster, "d", "t");
    let sql = "INSERT INTO t VALUES (1, 'a')";
    let before = cluster.client().timestamp().expect("a timestamp");
    writeln!(out, "{sql}\n  {}", client.transcript(sql)).expect("text");
    let after = cluster.client().timestamp().expect("a timestamp");

    let keys = [("row key", row_key(table.id, 1)), ("index key", index_entry(cluster, &table))];
    for (name, key) in &keys {
        let route = cluster.pd().route(key).expect("a region");
        let on = |role| {
            let peers = route.region.peers.iter().filter(|p| p.role == role);
            let mut stores: Vec<_> = peers.map(|p| p.store.0.to_string()).collect();
            stores.sort();
            if stores.is_empty() { "none".to_owned() } else { stores.join(" ") }
        };
        let (voters, learners) = (on(PeerRole::Voter), on(PeerRole::Learner));
        writeln!(out, "{name}: voters on {voters}, learners on {learners}").expect("text");
    }
    let regions =
        keys.each_ref().map(|(_, key)| cluster.pd().route(key).expect("a region").region.id);
    writeln!(out, "one region for both: {}", regions[0] == regions[1]).expect("text");

    // Secondaries are committed, and followers apply, after the client has its answer.
    let mut decided = None;
    for store in ROW_STORES {
        writeln!(out, "row store {store}").expect("text");
        for (name, key) in &keys {
            let (commit_ts, write) = committed(cluster, store, key);
            // A commit without a round for its timestamp may get that of the very next start.
            assert!(before < write.start_ts && write.start_ts < commit_ts && commit_ts <= after);
            let times = (write.start_ts, commit_ts);
            assert_eq!(*decided.get_or_insert(times), times, "one transaction, one decision");
            let bytes = write.short_value.as_ref().map_or(0, Vec::len);
            let kind = write.kind;
            writeln!(out, "  {name}: no lock; start_ts -> commit_ts {kind:?} of {bytes} bytes")
                .expect("text");
        }
    }
    let (start_ts, commit_ts) = decided.expect("three stores");
    writeln!(out, "before < start_ts < commit_ts <= after").expect("text");
    trace_columns(cluster, &table, start_ts, commit_ts, out);
}

/// The only key of the table's only index.
fn index_entry(cluster: &Cluster, table: &TableSchema) -> Vec<u8> {
    let range = KeyRange::prefix(&index_prefix(table.id, table.indexes[0].id));
    let snapshot = cluster.client().snapshot(cluster.client().timestamp().expect("a timestamp"));
    let mut pairs = snapshot.scan(&range, 10, false).expect("a scan");
    assert_eq!(pairs.len(), 1, "one row, one entry");
    pairs.remove(0).0
}

/// What a row store holds of a key, once its lock is gone.
fn committed(cluster: &Cluster, store: StoreId, key: &[u8]) -> (Timestamp, Write) {
    let Some(Content::Rows(engine)) = cluster.content(store) else { panic!("{store} has rows") };
    let mut found = None;
    until("the commit to be applied", || {
        let reader = MvccReader::new(engine.snapshot());
        let mut versions = reader.versions(key).expect("readable");
        let newest = versions.seek(Timestamp::MAX).expect("readable");
        if newest.is_some() {
            let older = versions.next().expect("readable");
            assert!(older.is_none(), "written once");
        }
        let lock = reader.load_lock(key).expect("readable");
        found = newest.filter(|_| lock.is_none());
        found.is_some()
    });
    found.expect("waited for")
}

fn trace_columns(
    cluster: &Cluster,
    table: &TableSchema,
    start_ts: Timestamp,
    commit_ts: Timestamp,
    out: &mut String,
) {
    let Some(Content::Columns(columns)) = cluster.content(COLUMNS) else { panic!("columns") };
    let count = |ts| {
        let snapshot = columns.snapshot(table.id).expect("a snapshot");
        snapshot.count(&[HandleRange::ALL], ts).expect("a count")
    };
    until("the columns to be applied", || count(Timestamp::MAX) == 1);
    let (start, early, now) =
        (count(start_ts), count(Timestamp(commit_ts.0 - 1)), count(commit_ts));
    writeln!(out, "column store {COLUMNS}").expect("text");
    writeln!(out, "  rows at start_ts: {start}").expect("text");
    writeln!(out, "  rows just before commit_ts: {early}").expect("text");
    writeln!(out, "  rows at commit_ts: {now}\n").expect("text");
}

fn read_walk(client: &mut Client, out: &mut String) {
    client.run("INSERT INTO t VALUES (2, 'b'), (3, 'a')");
    let sql = "SELECT name, count(*), sum(id) FROM t GROUP BY name";
    for engines in ["row", "column", "row,column"] {
        client.run(&format!("SET damask_isolation_read_engines = '{engines}'"));
        writeln!(out, "{sql}\n  engines allowed: {engines}").expect("text");
        let plan = client.rows(&format!("EXPLAIN {sql}")).into_iter();
        // What runs beside the data; how the rest is spread depends on the machine's cores.
        let fragment = plan
            .filter_map(|row| row.into_iter().next_back()?)
            .find(|info| info.starts_with("Fragment"));
        let fragment = fragment.expect("a fragment");
        let (what, costs) = fragment.split_once("; cost").expect("a reason and costs");
        assert!(costs.contains("row") && costs.contains("column"), "both are weighed: {costs}");
        writeln!(out, "  {what})").expect("text");
        writeln!(out, "{}\n", client.transcript(sql)).expect("text");
    }
}
