//! Links over the administration port: shipping on demand. What is asked of links for good is a
//! change of their global table; how they stand is in the status.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;

use super::{AdminApi, answer};

/// The routes.
pub(super) fn routes() -> Router<AdminApi> {
    Router::new().route("/v1/links/trigger", post(trigger))
}

async fn trigger(State(api): State<AdminApi>, body: Bytes) -> Response {
    answer(api.node.trigger_links(&body).await)
}
