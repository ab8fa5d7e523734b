//! Tables over the administration port: what of their schema the public API does not have.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::{get, post};

use serde::Deserialize;

use super::{AdminApi, answer};
use crate::api_error::ApiError;

/// Conflicts told where no number is given.
const CONFLICTS_TOLD: usize = 100;

/// The routes.
pub(super) fn routes() -> Router<AdminApi> {
    Router::new()
        .route("/v1/tables/{name}/schema", get(schema))
        .route("/v1/tables/{name}/changes", post(change))
        .route("/v1/tables/{name}/receipt", get(receipt))
        .route("/v1/receipts/wait", post(wait))
        .route("/v1/tables/{name}/conflicts", get(conflicts))
        .route("/v1/tables/{name}/conflicts/{id}/restore", post(restore))
}

async fn receipt(State(api): State<AdminApi>, Path(name): Path<String>) -> Response {
    answer(api.node.receipt_json(&name))
}

async fn wait(State(api): State<AdminApi>, body: Bytes) -> Response {
    answer(api.node.wait_for_regions(&body).await)
}

async fn schema(State(api): State<AdminApi>, Path(name): Path<String>) -> Response {
    answer(api.node.schema_json(&name))
}

async fn change(State(api): State<AdminApi>, Path(name): Path<String>, body: Bytes) -> Response {
    answer(api.node.change_schema(&name, body).await)
}

/// Which conflicts.
#[derive(Deserialize)]
struct Which {
    key: Option<String>,
    before: Option<u64>,
    limit: Option<usize>,
}

async fn conflicts(
    State(api): State<AdminApi>,
    Path(name): Path<String>,
    Query(which): Query<Which>,
) -> Response {
    let told = tokio::task::spawn_blocking(move || {
        let limit = which.limit.unwrap_or(CONFLICTS_TOLD);
        api.node.conflicts_json(&name, which.key.as_deref(), which.before, limit)
    });
    answer(told.await.unwrap_or_else(|_| Err(ApiError::internal())))
}

async fn restore(
    State(api): State<AdminApi>,
    Path((name, id)): Path<(String, String)>,
) -> Response {
    answer(api.node.restore_conflict(&name, &id).await)
}
