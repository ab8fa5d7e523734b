//! Failover over the administration port: how leases and tables stand, a person's word, and what
//! was set aside.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use isthmus_protocol::error_code::ErrorCode;
use serde::Deserialize;

use super::{AdminApi, answer};
use crate::api_error::ApiError;

/// Changes told at once where nobody says how many.
const CHANGES_TOLD: usize = 100;

/// The routes.
pub(super) fn routes() -> Router<AdminApi> {
    Router::new()
        .route("/v1/failover", get(show).post(fail_over))
        .route("/v1/tails", get(tails))
        .route("/v1/tails/{file}", get(tail))
        .route("/v1/tails/{file}/drop", post(drop_tail))
        .route("/v1/tails/{file}/merge", post(merge))
}

async fn show(State(api): State<AdminApi>) -> Response {
    answer(api.node.failover_json())
}

async fn fail_over(State(api): State<AdminApi>, body: Bytes) -> Response {
    answer(api.node.fail_over(&body).await)
}

async fn blocking(
    work: impl FnOnce() -> Result<serde_json::Value, ApiError> + Send + 'static,
) -> Response {
    let done = tokio::task::spawn_blocking(work).await;
    let failed = |_| ApiError::new(ErrorCode::InternalServerError, "Internal server error.");
    answer(done.map_err(failed).and_then(|done| done))
}

async fn tails(State(api): State<AdminApi>) -> Response {
    blocking(move || api.node.tails_json()).await
}

/// Which changes of a tail.
#[derive(Deserialize)]
struct Which {
    #[serde(default)]
    skip: usize,
    limit: Option<usize>,
}

async fn tail(
    State(api): State<AdminApi>,
    Path(file): Path<String>,
    Query(which): Query<Which>,
) -> Response {
    let limit = which.limit.unwrap_or(CHANGES_TOLD);
    blocking(move || api.node.tail_json(&file, which.skip, limit)).await
}

async fn drop_tail(State(api): State<AdminApi>, Path(file): Path<String>) -> Response {
    blocking(move || api.node.drop_tail(&file)).await
}

async fn merge(State(api): State<AdminApi>, Path(file): Path<String>) -> Response {
    answer(api.node.merge_tail(&file).await)
}
