//! Distributed tables over the administration port.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};

use super::{AdminApi, answer};

/// The routes.
pub(super) fn routes() -> Router<AdminApi> {
    Router::new()
        .route("/v1/distributions", get(list).post(distribute))
        .route("/v1/distributions/{name}", get(one))
        .route("/v1/distributions/{name}/rebalance", post(rebalance))
        .route("/v1/distributions/{name}/reshape", post(reshape))
}

async fn list(State(api): State<AdminApi>) -> Response {
    answer(Ok(api.node.distributions_json()))
}

async fn distribute(State(api): State<AdminApi>, body: Bytes) -> Response {
    answer(api.node.distribute(&body).await)
}

async fn one(State(api): State<AdminApi>, Path(name): Path<String>) -> Response {
    answer(api.node.distribution_json(&name).await)
}

async fn rebalance(State(api): State<AdminApi>, Path(name): Path<String>, body: Bytes) -> Response {
    answer(api.node.rebalance(&name, &body).await)
}

async fn reshape(State(api): State<AdminApi>, Path(name): Path<String>, body: Bytes) -> Response {
    answer(api.node.reshape(&name, &body).await)
}
