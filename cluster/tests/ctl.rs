//! Orders over HTTP, as `damask ctl` gives them: regions split, leaders and replicas move, a store is
//! drained; and what cannot be done is refused in words. It must never need a client of HTTP.

mod support;

use clap::Parser;
use damask_cluster::cli::ctl;
use damask_cluster::{Cluster, Config};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use support::{Client, bounded, until};

fn ask(addr: SocketAddr, request: &str) -> (String, Value) {
    let mut stream = TcpStream::connect(addr).expect("connects");
    stream.write_all(request.as_bytes()).expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    let status = head.split(' ').nth(1).expect("a status").to_owned();
    (status, serde_json::from_str(body).unwrap_or_else(|_| json!(body)))
}

fn get(addr: SocketAddr, path: &str) -> Value {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let (status, body) = ask(addr, &request);
    assert_eq!(status, "200", "{path}: {body}");
    body
}

fn post(addr: SocketAddr, path: &str, body: &Value) -> (String, Value) {
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    ask(addr, &request)
}

/// Asked again while a replica has to catch up first.
fn accepted(addr: SocketAddr, order: &Value) {
    until("the order to be accepted", || {
        let (status, body) = post(addr, "/orders", order);
        let early = body["error"].as_str().is_some_and(|e| e.contains("caught up"));
        assert!(status == "200" || early, "{order}: {body}");
        !early
    });
}

fn refused(addr: SocketAddr, order: &Value, why: &str) {
    let (status, body) = post(addr, "/orders", order);
    assert!(status == "400" && body["error"].as_str().is_some_and(|e| e.contains(why)), "{body}");
}

#[derive(clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    options: ctl::Options,
}

/// As `damask ctl` with these words.
fn run(addr: SocketAddr, words: &str) -> Result<(), String> {
    let status = format!("--status={addr}");
    let line = ["ctl", &status].into_iter().chain(words.split_whitespace());
    let options = CommandLine::try_parse_from(line).expect("a command").options;
    ctl::run(&options).map_err(|e| e.to_string())
}

fn fails(addr: SocketAddr, words: &str, why: &str) {
    let said = run(addr, words).expect_err("it cannot be done");
    assert!(said.contains(why), "{words}: {said}");
}

/// The region that holds the end of the key space.
fn last(addr: SocketAddr) -> Value {
    get(addr, "/regions").as_array().expect("a list").last().expect("a region").clone()
}

fn stores_of(region: &Value) -> Vec<u64> {
    let peers = region["peers"].as_array().expect("a list").iter();
    let mut stores: Vec<u64> = peers.filter_map(|p| p["store"].as_u64()).collect();
    stores.sort_unstable();
    stores
}

#[test]
fn a_cluster_does_what_it_is_told() {
    bounded(|| {
        // Whoever leads goes on to lead, however busy the machine, until it is told otherwise.
        let mut config = Config::parse("stores = 4\n[raft]\ntick_ms = 200").expect("valid");
        config.status = Some("127.0.0.1:0".parse().expect("an address"));
        let cluster = Cluster::start(config).expect("starts");
        let addr = cluster.status_addr().expect("it is served");
        let mut client = Client::new(cluster.database());
        client.run_all(&["CREATE DATABASE d", "USE d", "CREATE TABLE t (a INT PRIMARY KEY)"]);
        client.run("INSERT INTO t VALUES (1), (2), (3)");
        let id = last(addr)["id"].clone();

        accepted(addr, &json!({"split": {"region": id, "keys": [[0xF0]]}}));
        until("the split", || last(addr)["start"] == "f0");
        let id = last(addr)["id"].clone();

        accepted(addr, &json!({"transfer": {"region": id, "to": 2}}));
        until("the transfer", || last(addr)["leader"]["store"] == 2);
        refused(addr, &json!({"transfer": {"region": id, "to": 2}}), "leads");
        refused(addr, &json!({"transfer": {"region": id, "to": 4}}), "no replica on store 4");

        accepted(addr, &json!({"move": {"region": id, "from": 2, "to": 4}}));
        until("the leader's replica to move", || stores_of(&last(addr)) == [1, 3, 4]);
        refused(addr, &json!({"move": {"region": id, "from": 1, "to": 101}}), "kind");
        refused(addr, &json!({"merge": {"region": id, "into": id}}), "not neighbours");
        refused(addr, &json!({"cancel": {"region": 77}}), "no operator");
        let operators = get(addr, "/operators");
        assert!(operators.as_array().is_some_and(|list| list.len() >= 3), "{operators}");

        let (status, body) = post(addr, "/stores/1", &json!({"intent": "drain", "labels": {}}));
        assert_eq!(status, "200", "{body}");
        until("store 1 to be empty", || {
            let stores = get(addr, "/stores");
            let first = stores.as_array().expect("a list")[0].clone();
            first["intent"] == "drain" && first["load"]["replicas"] == 0
        });
        assert_eq!(stores_of(&last(addr)), [2, 3, 4]);
        client.run("INSERT INTO t VALUES (4)");
        assert_eq!(client.value("SELECT count(*) FROM t"), "4");
        let (status, body) = post(addr, "/stores/9", &json!({"intent": "drain", "labels": {}}));
        assert!(status == "400" && body["error"].is_string(), "{body}");
    });
}

#[test]
fn two_regions_become_one_by_command() {
    bounded(|| {
        let mut config = Config::parse("stores = 3\n[raft]\ntick_ms = 200").expect("valid");
        config.status = Some("127.0.0.1:0".parse().expect("an address"));
        let cluster = Cluster::start(config).expect("starts");
        let addr = cluster.status_addr().expect("it is served");
        let mut client = Client::new(cluster.database());
        client.run_all(&["CREATE DATABASE d", "USE d", "CREATE TABLE t (a INT PRIMARY KEY)"]);
        client.run("INSERT INTO t VALUES (1), (2), (3)");

        fails(addr, "split 99999 nothex", "there is no region 99999");
        let id = last(addr)["id"].as_u64().expect("an id");
        fails(addr, &format!("split {id} nothex"), "hexadecimal");
        for order in ["drain 99", "evict 99", "serve 99"] {
            fails(addr, order, "there is no store 99");
        }
        fails(addr, &format!("merge {id} 99999"), "99999");

        until("the split to be accepted", || run(addr, &format!("split {id} f0")).is_ok());
        // Both parts have to report first.
        until("the split", || {
            let regions = get(addr, "/regions");
            let all = regions.as_array().expect("a list");
            let led = all.iter().all(|r| r["leader"].is_object());
            led && all.len() > 1 && all.last().is_some_and(|r| r["start"] == "f0")
        });
        let regions = get(addr, "/regions");
        let regions = regions.as_array().expect("a list");
        let [.., left, right] = &regions[..] else { panic!("{regions:?}") };
        let (left, right) = (left["id"].clone(), right["id"].clone());
        // Refused while replicas of the new region are still catching up.
        until("the merge to be accepted", || run(addr, &format!("merge {left} {right}")).is_ok());
        until("the merge", || {
            let regions = get(addr, "/regions");
            let ids = regions.as_array().expect("a list").iter().map(|r| r["id"].clone());
            !ids.collect::<Vec<_>>().contains(&left) && last(addr)["id"] == right
        });
        assert_ne!(last(addr)["start"], "f0");
        client.run("INSERT INTO t VALUES (4)");
        assert_eq!(client.value("SELECT count(*) FROM t"), "4");
    });
}
