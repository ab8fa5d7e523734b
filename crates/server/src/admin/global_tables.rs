//! Global tables over the administration port: what is kept of them, and changes.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::json;

use super::{AdminApi, answer};

/// The routes.
pub(super) fn routes() -> Router<AdminApi> {
    Router::new()
        .route("/v1/global-tables", get(list))
        .route("/v1/global-tables/{name}", get(one))
        .route("/v1/global-tables/{name}/changes", post(change))
}

async fn list(State(api): State<AdminApi>) -> Response {
    answer(Ok(json!({ "global_tables": api.node.global_tables_json() })))
}

async fn one(State(api): State<AdminApi>, Path(name): Path<String>) -> Response {
    answer(api.node.global_table_json(&name))
}

async fn change(State(api): State<AdminApi>, Path(name): Path<String>, body: Bytes) -> Response {
    answer(api.node.change_global_table(&name, body).await)
}
