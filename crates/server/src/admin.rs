//! The administration port: one JSON API, described in `docs/openapi.json`.
//!
//! Only the health of the process is told to anybody; all else asks for the signature of a known
//! access key, made like that of the public API but over method, path and query. The metrics are
//! also given to who bears their token of the configuration, since Prometheus cannot sign, and
//! links are triggered by who bears theirs, since a webhook cannot.

mod batches;
mod distributions;
mod failover;
mod global_tables;
mod jobs;
mod links;
mod tables;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use isthmus_protocol::error_code::ErrorCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::api_error::ApiError;
use crate::caller::{Callers, Opens};
use crate::metrics;
use crate::node::Node;
use crate::status::Status;

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The administration API of one node.
#[derive(Clone)]
pub struct AdminApi {
    node: Arc<Node>,
    callers: Arc<Callers>,
}

impl AdminApi {
    /// Serves for this node.
    pub fn new(node: Arc<Node>, callers: Arc<Callers>) -> AdminApi {
        AdminApi { node, callers }
    }

    /// Serves until `stop` says so.
    pub async fn serve(self, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let signed = Router::new()
            .route("/v1/status", get(status))
            .route("/v1/probes", get(probes))
            .route("/v1/plans", post(plan))
            .route("/v1/measures", post(measure))
            .route("/v1/drills", get(drills).post(keep_drill))
            .route("/v1/quorum", post(change_voters))
            .merge(jobs::routes())
            .merge(global_tables::routes())
            .merge(distributions::routes())
            .merge(failover::routes())
            .merge(batches::routes())
            .merge(tables::routes())
            .layer(from_fn_with_state(self.clone(), check_caller));
        let scraped = Router::new()
            .route("/metrics", get(scrape))
            .layer(from_fn_with_state(self.clone(), check_scraper));
        let triggered = links::routes().layer(from_fn_with_state(self.clone(), check_trigger));
        let open = Router::new().route("/v1/health", get(health));
        let router = open.merge(scraped).merge(triggered).merge(signed).with_state(self);
        let stopped = async move {
            let _ = stop.changed().await;
        };
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
            tracing::error!(%error, "administration port ended");
        }
    }
}

async fn check_caller(State(api): State<AdminApi>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_BYTES_MAX).await else {
        return refusal(&ApiError::invalid("The request body is too large or broken."));
    };
    let headers = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let (method, clock) = (head.method.as_str(), &**api.node.clock());
    match api.callers.check_admin(method, target, headers, &body, clock) {
        Ok(_) => next.run(Request::from_parts(head, Body::from(body))).await,
        Err(error) => refusal(&error),
    }
}

async fn check_scraper(State(api): State<AdminApi>, request: Request, next: Next) -> Response {
    check_bearer(Opens::Metrics, api, request, next).await
}

async fn check_trigger(State(api): State<AdminApi>, request: Request, next: Next) -> Response {
    check_bearer(Opens::Trigger, api, request, next).await
}

async fn check_bearer(opens: Opens, api: AdminApi, request: Request, next: Next) -> Response {
    let bearer = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.strip_prefix("Bearer "));
    match bearer {
        None => check_caller(State(api), request, next).await,
        Some(token) if api.callers.bears_token(opens, token) => next.run(request).await,
        Some(_) => refusal(&ApiError::new(ErrorCode::AuthFailed, "The token is not accepted.")),
    }
}

fn refusal(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
    (status, Json(json!({"code": error.code.as_str(), "message": error.message}))).into_response()
}

fn answer(told: Result<Value, ApiError>) -> Response {
    match told {
        Ok(told) => Json(told).into_response(),
        Err(error) => refusal(&error),
    }
}

async fn health() -> Json<serde_json::Value> {
    Json(json!({"status": "serving"}))
}

async fn probes(State(api): State<AdminApi>) -> Response {
    let now = api.node.clock().wall_millis();
    answer(Ok(json!({ "probes": api.node.probes().status(now) })))
}

/// What is asked to be forecast.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanWish {
    to: String,
    #[serde(default)]
    table: Option<String>,
}

async fn plan(State(api): State<AdminApi>, body: Bytes) -> Response {
    let wish: PlanWish = match serde_json::from_slice(&body) {
        Ok(wish) => wish,
        Err(error) => return refusal(&ApiError::invalid(format!("The wish is wrong: {error}."))),
    };
    answer(api.node.clone().plan(wish.table.as_deref(), &wish.to).await)
}

async fn measure(State(api): State<AdminApi>, body: Bytes) -> Response {
    answer(api.node.measure_ways(&body).await)
}

async fn drills(State(api): State<AdminApi>) -> Response {
    answer(Ok(api.node.drills_json()))
}

async fn keep_drill(State(api): State<AdminApi>, body: Bytes) -> Response {
    answer(api.node.keep_drill(&body).await)
}

async fn change_voters(State(api): State<AdminApi>, body: Bytes) -> Response {
    answer(api.node.change_voters(&body).await)
}

async fn scrape(State(api): State<AdminApi>) -> Response {
    let node = api.node.clone();
    match tokio::task::spawn_blocking(move || metrics::text(&node)).await {
        Ok(Ok(text)) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Ok(Err(_)) | Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn status(State(api): State<AdminApi>) -> Result<Json<Status>, StatusCode> {
    let node = api.node.clone();
    let told = tokio::task::spawn_blocking(move || node.status()).await;
    told.map(Json).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests;
