//! A cluster whose placement driver and oracle are a group of three: its leader is killed under
//! transfers, everything starts again from disk, and folders of another make are refused. It must
//! never wait for a fixed time.

#![allow(clippy::disallowed_methods)] // threads of tests

mod support;

use damask_cluster::pd_group::PdGroup;
use damask_cluster::{Cluster, Config, EngineName};
use damask_types::StoreId;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::{Client, bounded, quick, until};

fn three() -> Config {
    Config { pds: 3, ..quick() }
}

fn on_disk(data: &Path, pds: usize) -> Config {
    let mut config = Config { pds, data: Some(data.to_owned()), ..quick() };
    config.kv.engine = EngineName::Fjall;
    config
}

fn leader(group: &PdGroup) -> StoreId {
    group.group().latest().expect("a leader").member
}

/// Kills the leader; waits for the next.
fn kill(group: &PdGroup) -> StoreId {
    let old = group.group().latest().expect("a leader");
    group.stop_member(old.member);
    until("another leader", || {
        group.group().latest().is_some_and(|led| led.term > old.term && led.member != old.member)
    });
    old.member
}

/// Moves money between accounts until told to stop; timestamps must rise with real time meanwhile.
fn transfer(cluster: &Cluster, seed: u64, stop: &AtomicBool, ended: &AtomicU64, done: &AtomicU64) {
    let mut client = Client::new(cluster.database());
    client.run("USE bank");
    let mut seed = seed;
    while !stop.load(Ordering::SeqCst) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (from, to) = ((seed >> 33) % 8, (seed >> 40) % 8);
        let statements = [
            "BEGIN".to_owned(),
            format!("UPDATE account SET money = money - 1 WHERE id = {from}"),
            format!("UPDATE account SET money = money + 1 WHERE id = {to}"),
            "COMMIT".to_owned(),
        ];
        // A conflict is allowed: the transaction is rolled back whole.
        if statements.iter().all(|sql| client.try_rows(sql).is_ok()) {
            done.fetch_add(1, Ordering::SeqCst);
        } else {
            client.try_rows("ROLLBACK").ok();
        }
        let before = ended.load(Ordering::SeqCst);
        let ts = cluster.oracle().get(1).expect("served").0;
        assert!(ts > before, "{ts} is not above {before}, which had ended");
        ended.fetch_max(ts, Ordering::SeqCst);
    }
}

#[test]
fn the_leader_may_be_killed_under_transfers() {
    bounded(|| {
        let mut cluster = Cluster::start(three()).expect("starts");
        let mut client = Client::new(cluster.database());
        client.run_all(&[
            "CREATE DATABASE bank",
            "USE bank",
            "CREATE TABLE account (id INT PRIMARY KEY, money INT NOT NULL)",
            "INSERT INTO account VALUES (0,100),(1,100),(2,100),(3,100),(4,100),(5,100),(6,100),(7,100)",
        ]);
        let group = cluster.pd_group().expect("a group").clone();
        let (stop, ended, done) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for seed in 1..=3 {
                let (cluster, stop, ended, done) = (&cluster, &stop, &ended, &done);
                scope.spawn(move || transfer(cluster, seed, stop, ended, done));
            }
            for round in 0..3 {
                let before = done.load(Ordering::SeqCst);
                until("transfers", || done.load(Ordering::SeqCst) > before + 5);
                let killed = kill(&group);
                // What needs ids, stores and rules goes on with the next one.
                client.run(&format!("CREATE TABLE t{round} (a INT PRIMARY KEY)"));
                client.run(&format!("ALTER TABLE t{round} SET COLUMN REPLICA 1"));
                assert_eq!(client.value("SELECT sum(money) FROM account"), "800");
                group.start_member(killed).expect("starts again");
            }
            stop.store(true, Ordering::SeqCst);
        });
        assert_eq!(client.value("SELECT sum(money) FROM account"), "800");
        assert_eq!(cluster.pd().column_rules().len(), 3, "no acknowledged rule is lost");
        for round in 0..3 {
            client.replicate("bank", &format!("t{round}"), false);
        }
        assert!(cluster.pd().operators().iter().all(|o| !o.kind.to_string().contains("replace")));
        cluster.stop();
    });
}

#[test]
fn everything_is_there_again_after_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_owned();
    bounded(move || {
        let config = on_disk(&data, 3);
        let mut cluster = Cluster::start(config.clone()).expect("starts");
        let mut client = Client::new(cluster.database());
        client.run_all(&["CREATE DATABASE d", "USE d", "CREATE TABLE t (a INT PRIMARY KEY)"]);
        client.run("INSERT INTO t VALUES (1), (2)");
        client.replicate("d", "t", true);
        let (id, ts) = (cluster.pd().cluster_id(), cluster.oracle().get(1).expect("served"));
        let ids = cluster.pd().alloc_ids(3).expect("ids");
        drop(client);
        cluster.stop();
        drop(cluster);
        for pds in [1, 5] {
            let refusal = Cluster::start(on_disk(&data, pds)).err().expect("refused").to_string();
            assert!(refusal.contains("--pds 3"), "{refusal}");
        }
        let mut cluster = Cluster::start(config).expect("starts again");
        assert_eq!(cluster.pd().cluster_id(), id);
        assert!(cluster.oracle().get(1).expect("served") > ts);
        assert!(cluster.pd().alloc_ids(1).expect("ids").start >= ids.end);
        assert_eq!(cluster.pd().column_rules().len(), 1);
        let mut client = Client::new(cluster.database());
        client.replicate("d", "t", false);
        assert_eq!(client.value("SELECT sum(a) FROM d.t"), "3");
        cluster.stop();
    });
}

#[test]
fn a_member_that_lost_its_disk_is_named_at_the_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_owned();
    bounded(move || {
        let config = on_disk(&data, 3);
        let mut cluster = Cluster::start(config.clone()).expect("starts");
        assert_eq!(cluster.not_running(), [""; 0]);
        let ts = cluster.oracle().get(1).expect("served");
        cluster.stop();
        drop(cluster);
        std::fs::remove_dir_all(data.join("pd-2")).expect("removed");
        let mut cluster = Cluster::start(config).expect("two are a majority");
        let said = cluster.not_running();
        assert_eq!(said.len(), 1, "{said:?}");
        let word = "member 2 of the placement driver: ";
        assert!(said[0].starts_with(word) && said[0].contains("is empty now"), "{said:?}");
        assert!(cluster.oracle().get(1).expect("served") > ts);
        cluster.stop();
    });
}

#[test]
fn a_single_drivers_folder_is_not_taken_for_a_groups() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_owned();
    bounded(move || {
        drop(Cluster::start(on_disk(&data, 1)).expect("starts"));
        let refused = |pds| Cluster::start(on_disk(&data, pds)).err().expect("refused").to_string();
        let refusal = refused(3);
        assert!(refusal.contains("pd/state") && refusal.contains("--pds 1"), "{refusal}");
        drop(Cluster::start(on_disk(&data, 1)).expect("it opens as it was"));
        std::fs::remove_dir_all(data.join("pd")).expect("removed");
        let refusal = refused(3);
        assert!(refusal.contains("pd-1/") && refusal.contains("given out twice"), "{refusal}");
    });
}

#[test]
fn members_are_shown_over_http() {
    bounded(|| {
        let config = Config { status: Some("127.0.0.1:0".parse().expect("valid")), ..three() };
        let mut cluster = Cluster::start(config).expect("starts");
        let addr = cluster.status_addr().expect("it is served");
        let get = |path: &str| -> serde_json::Value {
            let mut stream = TcpStream::connect(addr).expect("connects");
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                .expect("asks");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("answers");
            let body = answer.split_once("\r\n\r\n").expect("a body").1;
            serde_json::from_str(body).expect("JSON")
        };
        let group: Arc<PdGroup> = cluster.pd_group().expect("a group").clone();
        let leads = |list: &serde_json::Value| {
            let list = list.as_array().expect("a list").clone();
            assert_eq!(list.len(), 3);
            list.into_iter().find(|m| m["leads"] == true).and_then(|m| m["id"].as_u64())
        };
        until("the leader to be shown", || leads(&get("/members")) == Some(leader(&group).0));
        let killed = kill(&group);
        until("the next leader to be shown", || {
            leads(&get("/status")["placement"]) == Some(leader(&group).0)
        });
        assert_eq!(get("/members")[killed.0 as usize - 1]["state"], "stopped");
        cluster.stop();
    });
}
