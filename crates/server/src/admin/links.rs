//! Links over the administration port: shipping on demand. What is asked of links for good is a
//! change of their global table; how they stand is in the status.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::post;
use serde::Deserialize;

use super::{AdminApi, answer};
use crate::node::TriggerAsked;

/// The routes.
pub(super) fn routes() -> Router<AdminApi> {
    Router::new().route("/v1/links/trigger", post(trigger))
}

/// Which links, where the query says so: other programs send a body of their own.
#[derive(Deserialize)]
struct Which {
    table: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

async fn trigger(
    State(api): State<AdminApi>,
    Query(Which { table, from, to }): Query<Which>,
    body: Bytes,
) -> Response {
    let asked = match table {
        Some(table) => Ok(TriggerAsked { table, from, to }),
        None => TriggerAsked::read(&body),
    };
    match asked {
        Ok(asked) => answer(api.node.trigger_links(&asked).await),
        Err(error) => answer(Err(error)),
    }
}
