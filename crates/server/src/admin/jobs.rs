//! Jobs and events over the administration port.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde_json::json;

use super::{AdminApi, answer, refusal};
use crate::node::jobs::spec::Spec;

/// The routes.
pub(super) fn routes() -> Router<AdminApi> {
    Router::new()
        .route("/v1/jobs", get(list).post(start))
        .route("/v1/jobs/{id}", get(one))
        .route("/v1/jobs/{id}/{act}", post(act))
        .route("/v1/events", get(events))
}

async fn list(State(api): State<AdminApi>) -> Response {
    answer(Ok(json!({ "jobs": api.node.jobs_json() })))
}

async fn start(State(api): State<AdminApi>, body: Bytes) -> Response {
    let spec = match Spec::of_json(&body) {
        Ok(spec) => spec,
        Err(error) => return refusal(&error),
    };
    match api.node.start_job(spec).await {
        Ok(id) => (StatusCode::ACCEPTED, Json(json!({ "id": id }))).into_response(),
        Err(error) => refusal(&error),
    }
}

async fn one(State(api): State<AdminApi>, Path(id): Path<String>) -> Response {
    answer(api.node.job(&id))
}

async fn act(State(api): State<AdminApi>, Path((id, act)): Path<(String, String)>) -> Response {
    answer(api.node.act_on_job(&id, &act))
}

async fn events(State(api): State<AdminApi>) -> Response {
    answer(Ok(json!({ "events": api.node.events() })))
}
