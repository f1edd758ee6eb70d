//! Orders over HTTP: what `damask ctl` asks for. Each is handed to the placement driver, which says
//! no or lets it begin with the region's next report; nothing is decided or carried out here.
//!
//! ```text
//!   GET  /members             a list: the placement driver's members, and who leads
//!   GET  /stores              a list: what they are, are meant to do, carry
//!   GET  /operators           a list: in flight, then some that have ended
//!   POST /orders              {"transfer": {"region": 1, "to": 2}}, {"split": …}, {"move": …}, …
//!   POST /stores/{id}         {"intent": "drain", "labels": {"host": "a"}}
//! ```
//! A body must be `application/json`: a web page of another origin cannot send it. A refusal has
//! status 400, a failure 500; both say why: `{"error": "…"}`.

use crate::cluster::Parts;
use crate::placement::Member;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use damask_pd::{Order, StoreSettings};
use damask_types::{ErrorKind, StoreId};
use serde_json::{Value, json};
use std::sync::Arc;

type Answer = (StatusCode, Json<Value>);

/// The routes of orders and of what they change.
pub(super) fn router() -> axum::Router<Arc<Parts>> {
    axum::Router::new()
        .route("/members", get(members))
        .route("/stores", get(stores))
        .route("/stores/{id}", post(set_store))
        .route("/operators", get(operators))
        .route("/orders", post(order))
}

async fn members(State(parts): State<Arc<Parts>>) -> Json<Value> {
    Json(json!(parts.pd_members()))
}

async fn stores(State(parts): State<Arc<Parts>>) -> Json<Value> {
    let members = parts.members.read().clone();
    let store = |status: damask_pd::StoreStatus| {
        let runs = members.get(&status.info.id).map(Member::failed);
        let state = match &runs {
            None => "stopped",
            Some(None) => "up",
            Some(Some(_)) => "failed",
        };
        json!({
            "id": status.info.id,
            "kind": status.info.kind,
            "address": status.info.address,
            "state": state,
            "reason": runs.flatten(),
            "health": status.health,
            "intent": status.settings.intent,
            "labels": status.settings.labels,
            "load": status.load,
        })
    };
    Json(parts.pd.store_statuses().into_iter().map(store).collect())
}

async fn operators(State(parts): State<Arc<Parts>>) -> Json<Value> {
    Json(json!(parts.pd.operators()))
}

async fn order(State(parts): State<Arc<Parts>>, Json(order): Json<Order>) -> Answer {
    changed(move || parts.pd.order(&order)).await
}

async fn set_store(
    State(parts): State<Arc<Parts>>,
    Path(id): Path<u64>,
    Json(settings): Json<StoreSettings>,
) -> Answer {
    changed(move || parts.pd.set_store(StoreId(id), settings)).await
}

/// On a thread that may wait: what is changed is durable first, and a group may have to elect.
async fn changed(change: impl FnOnce() -> damask_pd::Result<()> + Send + 'static) -> Answer {
    match tokio::task::spawn_blocking(change).await {
        Ok(result) => answer(result),
        Err(e) => answer(Err(damask_pd::Error::Unavailable(e.to_string()))),
    }
}

fn answer(result: damask_pd::Result<()>) -> Answer {
    match result {
        Ok(()) => (StatusCode::OK, Json(json!({ "accepted": true }))),
        Err(e) => {
            let status = match e.kind() {
                ErrorKind::Invalid => StatusCode::BAD_REQUEST,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, Json(json!({ "error": e.to_string() })))
        }
    }
}
