//! Batches of several partitions over the administration port: those in doubt, and a person's word
//! on one.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};

use super::{AdminApi, answer};

/// The routes.
pub(super) fn routes() -> Router<AdminApi> {
    Router::new().route("/v1/batches", get(in_doubt)).route("/v1/batches/settle", post(settle))
}

async fn in_doubt(State(api): State<AdminApi>) -> Response {
    answer(api.node.batches_json().await)
}

async fn settle(State(api): State<AdminApi>, body: Bytes) -> Response {
    answer(api.node.settle_by_hand(&body).await)
}
