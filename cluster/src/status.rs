//! Status over HTTP: `/status` (JSON), `/regions` (JSON), `/metrics` (Prometheus text). It must never
//! change anything: orders are `control`'s.
//!
//! A store is `up`, `stopped` (by its owner), or `failed` (it could not be started, stopped itself,
//! or found damage; the reason is said).

mod control;

use crate::cluster::Parts;
use crate::placement::Member;
use crate::resolved;
use axum::Json;
use axum::extract::State;
use axum::routing::get;
use damask_pd::StoreInfo;
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// The routes.
pub fn router(parts: Arc<Parts>) -> axum::Router {
    axum::Router::new()
        .route("/status", get(status))
        .route("/regions", get(regions))
        .route("/metrics", get(metrics))
        .merge(control::router())
        .with_state(parts)
}

async fn status(State(parts): State<Arc<Parts>>) -> Json<Value> {
    let stores: Vec<Value> = parts.pd.stores().iter().map(|s| store(&parts, s)).collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cluster_id": parts.pd.cluster_id().to_string(),
        "disk": if parts.room.is_little() { "nearly full" } else { "ok" },
        "placement": parts.pd_members(),
        "stores": stores,
        "regions": parts.pd.regions().len(),
    }))
}

fn store(parts: &Parts, info: &StoreInfo) -> Value {
    let mut value = json!(info);
    let (state, reason) = match parts.members.read().get(&info.id).map(Member::failed) {
        None => match parts.down.read().get(&info.id) {
            Some(reason) => ("failed", Some(reason.clone())),
            None => ("stopped", None),
        },
        Some(None) => ("up", None),
        Some(reason) => ("failed", reason),
    };
    value["state"] = json!(state);
    value["reason"] = json!(reason);
    value
}

async fn regions(State(parts): State<Arc<Parts>>) -> Json<Value> {
    let hex = |key: &[u8]| damask_types::key::Hex(key).to_string();
    let list = parts.pd.regions().into_iter().map(|status| {
        let region = &status.region;
        json!({
            "id": region.id,
            "start": hex(&region.range.start),
            "end": hex(&region.range.end),
            "epoch": region.epoch,
            "peers": region.peers,
            "leader": status.leader,
            "term": status.term,
            "bytes": status.bytes,
            "keys": status.keys,
            "flow": status.flow,
            "pending": status.pending,
            "safe_ts": resolved::safe_of(&parts.members, region.id),
        })
    });
    Json(Value::Array(list.collect()))
}

async fn metrics(State(parts): State<Arc<Parts>>) -> String {
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, values: Vec<(String, f64)>| {
        writeln!(out, "# HELP damask_{name} {help}\n# TYPE damask_{name} gauge").ok();
        for (labels, value) in values {
            writeln!(out, "damask_{name}{labels} {value}").ok();
        }
    };
    let regions = parts.pd.regions();
    gauge(
        "regions",
        "Regions known to the placement driver.",
        vec![(String::new(), regions.len() as f64)],
    );
    let bytes = regions.iter().map(|r| r.bytes as f64).sum();
    gauge("row_bytes", "Rough bytes of all regions' rows.", vec![(String::new(), bytes)]);
    let safe = resolved::safe_everywhere(&parts.members).physical_ms() as f64 / 1_000.0;
    let help = "Time of the oracle up to which every replica may be read, in Unix seconds.";
    gauge("safe_seconds", help, vec![(String::new(), safe)]);
    let room = f64::from(u8::from(!parts.room.is_little()));
    let help = "1: new rows are taken; 0: the disk is nearly full, and they are refused.";
    gauge("disk_has_room", help, vec![(String::new(), room)]);
    let pd = parts
        .pd_members()
        .into_iter()
        .map(|member| (format!("{{member=\"{}\"}}", member.id), f64::from(u8::from(member.leads))));
    let help = "1: this member of the placement driver leads, as far as it knows.";
    gauge("pd_leader", help, pd.collect());
    let members = parts.members.read().clone();
    let up = parts.pd.stores().into_iter().map(|info| {
        let runs = members.get(&info.id).is_some_and(|member| member.failed().is_none());
        (format!("{{store=\"{}\"}}", info.id), f64::from(u8::from(runs)))
    });
    gauge("store_up", "1: the store runs; 0: it stopped, or it failed.", up.collect());
    let mut leaders = Vec::new();
    let mut replicas = Vec::new();
    for (id, member) in &members {
        let list = member.handle.replicas();
        let label = format!("{{store=\"{id}\"}}");
        replicas.push((label.clone(), list.len() as f64));
        leaders.push((label, list.iter().filter(|r| r.is_leader).count() as f64));
    }
    gauge("replicas", "Replicas on a store.", replicas);
    gauge("leaders", "Leaders on a store.", leaders);
    out
}
