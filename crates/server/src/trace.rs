//! Traces of requests, exported by OTLP over HTTP as JSON where `[trace]` names an endpoint.
//!
//! What must hold: a request that is not followed pays for one random number; an endpoint that is
//! slow or away costs spans and nothing else. Which request is followed is known to everything
//! that it runs through by `CURRENT`, so that no signature carries it. What is followed beyond
//! the request is the replication room's (`replication::trace`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use isthmus_connectors::http::{Http, HttpOptions};
use isthmus_replication::trace::{Context, Span, Traces};
use isthmus_store::Table;
use serde_json::{Value as Json, json};
use tokio::sync::watch;

use crate::node::Node;

/// How often spans are sent.
const EXPORT_EVERY: Duration = Duration::from_secs(1);
/// Spans of one request to the endpoint.
const BATCH_SPANS_MAX: usize = 512;
/// How long the endpoint has to answer.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where an endpoint of OTLP takes spans.
const PATH: &str = "/v1/traces";
/// A span that serves a request, and any other one.
const SERVER: u8 = 2;
const INTERNAL: u8 = 1;

tokio::task_local! {
    static CURRENT: Context;
}

/// Serves a request, perhaps as one that is followed; gives its span if it is.
pub(crate) async fn serve<T>(
    traces: &Traces,
    request: impl Future<Output = T>,
) -> (T, Option<(Context, u64)>) {
    match traces.sample() {
        None => (request.await, None),
        Some(context) => {
            let began = traces.now_nanos();
            (CURRENT.scope(context, request).await, Some((context, began)))
        }
    }
}

/// A write of a request that is followed, until it is durable.
pub(crate) struct Followed<'a> {
    traces: &'a Traces,
    request: Context,
    began_nanos: u64,
    table: String,
}

impl<'a> Followed<'a> {
    /// Follows what was just accepted for a table, if the request is followed.
    pub(crate) fn write(traces: &'a Traces, table: &Table) -> Option<Followed<'a>> {
        let request = CURRENT.try_with(|context| *context).ok()?;
        // Other writes may have been accepted since: where the log has them, it has this one.
        traces.note(table.partition(), table.accepted_lsn(), request);
        let (began_nanos, table) = (traces.now_nanos(), table.name().as_str().to_owned());
        Some(Followed { traces, request, began_nanos, table })
    }

    /// It is durable, or was refused.
    pub(crate) fn committed(self) {
        let context = self.traces.below(self.request);
        let table = vec![("isthmus.table", self.table)];
        self.traces.ended(context, self.request.span, "commit", self.began_nanos, table);
    }
}

impl Node {
    /// Sends spans to the endpoint of the configuration, until `stop` says so.
    pub async fn keep_traces_exported(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let Some(endpoint) = &self.config().trace.endpoint else { return };
        let options = HttpOptions {
            connect_timeout: EXPORT_TIMEOUT,
            answer_timeout: EXPORT_TIMEOUT,
            idle_max: 1,
        };
        let http = match Http::new(endpoint, options) {
            Ok(http) => http,
            Err(error) => return tracing::warn!(%error, "traces are not exported"),
        };
        let mut is_lost = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(EXPORT_EVERY) => {}
                _ = stop.changed() => {}
            }
            loop {
                let spans = self.traces().take(BATCH_SPANS_MAX);
                if spans.is_empty() {
                    break;
                }
                let lost = self.export(&http, &spans).await.err();
                if lost.is_some() != is_lost {
                    let reason = lost.as_deref().unwrap_or("none");
                    tracing::warn!(reason, lost = !is_lost, "export of traces");
                }
                is_lost = lost.is_some();
            }
            if *stop.borrow() {
                return;
            }
        }
    }

    async fn export(&self, http: &Http, spans: &[Span]) -> Result<(), String> {
        let body = document(&self.config().region.name, spans).to_string();
        let headers = [("content-type", "application/json".to_owned())];
        let sent = http.send(Method::POST, PATH, &headers, Bytes::from(body)).await;
        match sent {
            Ok(answer) if answer.status.is_success() => Ok(()),
            Ok(answer) => Err(format!("HTTP status {}", answer.status)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Spans in the JSON form of OTLP.
fn document(region: &str, spans: &[Span]) -> Json {
    let resource = [attribute("service.name", "isthmus"), attribute("isthmus.region", region)];
    let spans: Vec<Json> = spans.iter().map(span).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{
            "scope": { "name": "isthmus", "version": env!("CARGO_PKG_VERSION") },
            "spans": spans,
        }],
    }] })
}

fn span(span: &Span) -> Json {
    let kind = if span.parent == 0 { SERVER } else { INTERNAL };
    let attributes: Vec<Json> =
        span.attributes.iter().map(|(key, value)| attribute(key, value)).collect();
    let mut told = json!({
        "traceId": format!("{:032x}", span.context.trace),
        "spanId": format!("{:016x}", span.context.span),
        "name": span.name,
        "kind": kind,
        // 64-bit numbers are text in this form.
        "startTimeUnixNano": span.began_nanos.to_string(),
        "endTimeUnixNano": span.ended_nanos.to_string(),
        "attributes": attributes,
    });
    if span.parent != 0 {
        told["parentSpanId"] = json!(format!("{:016x}", span.parent));
    }
    told
}

fn attribute(key: &str, value: &str) -> Json {
    json!({ "key": key, "value": { "stringValue": value } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_collectors_read_them() {
        let context = Context { trace: 0xab, span: 0x1 };
        let attributes = vec![("isthmus.to", "r2".to_owned())];
        let ship =
            Span { context, parent: 2, name: "ship", began_nanos: 5, ended_nanos: 7, attributes };
        let told = document("r1", &[ship]);
        let told = &told["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(told["traceId"], "000000000000000000000000000000ab");
        assert_eq!(
            (&told["spanId"], &told["parentSpanId"]),
            (&json!("0000000000000001"), &json!("0000000000000002"))
        );
        assert_eq!((&told["startTimeUnixNano"], &told["kind"]), (&json!("5"), &json!(1)));
        assert_eq!(told["attributes"][0]["value"]["stringValue"], "r2");
    }
}
