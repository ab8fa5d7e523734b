//! The public port: HTTP/1.1, one POST per operation.
//!
//! Order of the checks: shape of the request, size, body, signature, and only then is a single
//! byte of the body looked at as a message. Every answer carries a request id; every 2xx answer
//! and every refusal of a known caller is signed. Connections, requests in work and bytes of
//! bodies in memory are bounded.

pub(crate) mod connections;
mod forward;
mod route;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING,
};
use hyper::http::{HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use isthmus_model::hlc::Hlc;
use isthmus_model::value::Text;
use isthmus_protocol::compression::{
    REQUEST_COMPRESS_SIZE, REQUEST_COMPRESS_TYPE, inflate_request,
};
use isthmus_protocol::date::format_date;
use isthmus_protocol::error_code::{ErrorCode, encode_error};
use isthmus_protocol::receipt::Receipt;
use isthmus_protocol::request::{
    AddDefinedColumn, BatchPartsAnswer, BatchWritePart, BatchWriteParts, DeleteDefinedColumn,
    Operation, TableWrites, UpdateTable, check_path, decode,
};
use isthmus_protocol::response::encode_empty;
use isthmus_protocol::signature::{CONTENT_MD5, CONTENT_TYPE, DATE, REQUEST_ID, content_md5};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::api_error::ApiError;
use crate::as_of::{AS_OF, AsOf, tables_read};
use crate::atomic;
use crate::caller::{Caller, Callers};
use crate::fault;
use crate::metrics::Outcome;
use crate::node::Node;
use crate::peer::serve::Work;
use crate::receipts::{self, AFTER, RECEIPT};
use crate::refusals::Refusals;
use crate::rows::Rows;
use crate::tables::Tables;
use crate::trace;

use self::forward::Change;
use self::route::Fresh;

/// A request's body must be there within this.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The one operation whose requests may be carried out part by part.
const BATCH_WRITE: &str = "/BatchWriteRow";
/// Of the connections, the share that may wait because their addresses were refused too often.
const HELD_BACK_SHARE: usize = 4;
/// Of the requests in work, the share that may wait for the next writing region of a table: others
/// are still served where that does not come.
const UNSETTLED_SHARE: usize = 4;
/// Bytes of bodies in memory, counted in units of 1 KiB.
pub(crate) const BODIES_KIB_MAX: usize = 64 * 1024;

/// The public API of one node.
pub struct PublicApi {
    node: Arc<Node>,
    callers: Arc<Callers>,
    refusals: Refusals,
    held_back: Semaphore,
    rows: Rows,
    tables: Tables,
    body_bytes_max: usize,
    in_work: Semaphore,
    /// Of those in work, the ones that wait for the next writing region of their table.
    unsettled: Semaphore,
    bodies: Semaphore,
    request_prefix: String,
    requests: AtomicU64,
}

impl PublicApi {
    /// Serves for this node. `token_key` seals the tokens of cut rows; `boot` tells request ids
    /// of this run from those of others.
    pub fn new(node: Arc<Node>, callers: Arc<Callers>, token_key: &[u8], boot: u64) -> PublicApi {
        let public = &node.config().public;
        PublicApi {
            rows: Rows::new(node.clone(), token_key),
            tables: Tables::new(node.clone()),
            body_bytes_max: public.request_bytes_max,
            in_work: Semaphore::new(public.requests_max),
            unsettled: Semaphore::new((public.requests_max / UNSETTLED_SHARE).max(1)),
            bodies: Semaphore::new(BODIES_KIB_MAX),
            request_prefix: format!("{:08x}-{boot:016x}", node.config().region.number),
            requests: AtomicU64::new(0),
            callers,
            refusals: Refusals::default(),
            held_back: Semaphore::new(public.connections_max / HELD_BACK_SHARE),
            node,
        }
    }

    /// Serves until `stop` says so, then lets requests in work end.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: watch::Receiver<bool>) {
        let connections_max = self.node.config().public.connections_max;
        let spawn = |work: Work| self.node.spawn(work);
        let api = self.clone();
        let answer = move |from, request| {
            let api = api.clone();
            async move { api.answer(from, request).await }
        };
        connections::serve(listener, stop, connections_max, spawn, answer).await;
    }

    async fn answer(&self, from: IpAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let id = self.request_id();
        let path = request.uri().path().to_owned();
        let mut caller = None;
        let began = self.node.clock().monotonic();
        let traces = self.node.traces();
        // Each layer around it would move it and make room for it twice.
        let serving = fault::caught(Box::pin(self.serve_request(from, request, &mut caller)));
        let (answer, followed) = trace::serve(traces, serving).await;
        let answer = answer.unwrap_or_else(|| Err(ApiError::internal().closing()));
        let outcome = match &answer {
            Ok(_) => Outcome::Done,
            Err(failure) => Outcome::of_code(failure.error.code),
        };
        let took = self.node.clock().monotonic().saturating_sub(began);
        let operation = self.node.requests().note(&path, outcome, took);
        // What nobody signed leaves no trace.
        if let Some((context, began)) = followed.filter(|_| caller.is_some()) {
            let outcome = ("isthmus.outcome", outcome.as_str().to_owned());
            let request = ("isthmus.request", id.clone());
            traces.ended(context, 0, operation, began, vec![outcome, request]);
        }
        respond(&id, &path, caller.as_ref(), answer, self.node.clock().wall_millis())
    }

    async fn serve_request(
        &self,
        from: IpAddr,
        request: Request<Incoming>,
        caller: &mut Option<Caller>,
    ) -> Result<Success, Failure> {
        check_shape(&request)?;
        let (head, body) = request.into_parts();
        let length = declared_length(&body);
        if length.is_some_and(|length| length > self.body_bytes_max as u64) {
            return Err(too_large().closing());
        }
        self.wait_if_refused_often(from).await?;
        let bytes = length.unwrap_or(self.body_bytes_max as u64);
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX);
        let wait = tokio::time::timeout(BODY_TIMEOUT, self.bodies.acquire_many(kib));
        let Ok(Ok(_room)) = wait.await else { return Err(busy().closing()) };
        let body = read_body(body, self.body_bytes_max).await?;
        let second = self.node.clock().wall_millis().div_euclid(1000);
        if self.refusals.is_over(from, second) {
            return Err(busy().closing());
        }
        let known = self.callers.check(
            head.uri.path(),
            head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())),
            &body,
            &**self.node.clock(),
        );
        let known = known.inspect_err(|error| {
            if error.code == ErrorCode::AuthFailed {
                self.refusals.count(from, second);
            }
        })?;
        let path = known.path.clone();
        *caller = Some(known);
        check_path(&path).map_err(ApiError::from)?;
        let Ok(_in_work) = self.in_work.try_acquire() else { return Err(busy().into()) };
        let body = self.inflated(&head.headers, body)?;
        let mut receipt = receipts::is_wanted(&head.headers)?.then(Receipt::default);
        let after = receipts::after(&head.headers)?;
        let as_of = AsOf::of(&head.headers)?;
        if atomic::is_wanted(&head.headers)? {
            if as_of.is_some() || after.is_some() {
                return Err(atomic::invalid("It shows and changes what is newest.").into());
            }
            let body = match &*path {
                BATCH_WRITE => Box::pin(self.write_atomic(&body, receipt.as_mut())).await?,
                _ => {
                    let operation = decode(&path, body).map_err(ApiError::from)?;
                    Box::pin(self.read_atomic(&operation)).await?
                }
            };
            return Ok(Success::of(body));
        }
        if path == BATCH_WRITE && as_of.is_none() && after.is_none() {
            let batch = BatchWriteParts::decode(body.clone()).map_err(ApiError::from)?;
            let body = match self.is_routed(batch.tables().iter().map(Text::as_str)) {
                true => Box::pin(self.route_batch_write(&body, receipt.as_mut())).await?,
                false => {
                    Box::pin(self.change(Change::Batch(batch), &body, receipt.as_mut())).await?
                }
            };
            return Ok(Success::of(body).with_receipt(receipt));
        }
        let operation = decode(&path, body.clone()).map_err(ApiError::from)?;
        if receipt.is_some() {
            receipts::check_write(&operation)?;
        }
        if self.node.has_distributions() && self.is_routed(operation.table_names()) {
            let fresh = Fresh::of(&operation, as_of, after.as_ref())?;
            let fresh = Box::pin(self.at_a_moment(&operation, fresh)).await?;
            let body = Box::pin(self.route(operation, fresh, receipt.as_mut())).await?;
            let mut success = Success::of(body).with_receipt(receipt);
            success.headers.extend(fresh.told().map(|told| (AS_OF, told)));
            return Ok(success);
        }
        if self.node.has_just_started()
            && let Ok(tables) = tables_read(&operation, AS_OF)
        {
            for table in tables {
                self.node.listen_first(table.as_str()).await;
            }
        }
        if let Some(after) = &after {
            for table in tables_read(&operation, AFTER)? {
                let table = self.node.readable(table.as_str())?;
                self.node.read_after(&table, after).await?;
            }
        }
        if after.is_none() && self.reads_newest(&operation, as_of)? {
            let body = Box::pin(self.read_newest(operation, &body)).await?;
            let mut success = Success::of(body);
            success.headers.extend(as_of.map(|_| (AS_OF, "newest".to_owned())));
            return Ok(success);
        }
        let cut = match as_of {
            Some(AsOf::Newest | AsOf::Local | AsOf::Within(_)) | None => None,
            Some(AsOf::Safe) => Some(self.cut(&operation, None).await?),
            Some(AsOf::Cut(at)) => Some(self.cut(&operation, Some(at)).await?),
        };
        if matches!(as_of, None | Some(AsOf::Newest)) {
            self.rows.await_readable(&operation).await?;
        }
        let body = self.execute(operation, &body, cut, receipt.as_mut()).await?;
        let mut success = Success::of(body).with_receipt(receipt);
        success.headers.extend(cut.map(|cut| (AS_OF, cut.to_string())));
        if matches!(as_of, Some(AsOf::Local | AsOf::Within(_))) {
            success.headers.push((AS_OF, "local".to_owned()));
        }
        Ok(success)
    }

    /// The moment as of which an operation reads.
    async fn cut(&self, operation: &Operation, at: Option<Hlc>) -> Result<Hlc, ApiError> {
        let tables = tables_read(operation, AS_OF)?.into_iter();
        let tables: Result<Vec<_>, ApiError> =
            tables.map(|table| self.node.readable(table.as_str())).collect();
        self.node.cut(&tables?, at).await
    }

    /// Nothing more is read of an address that sends wrong signatures in a flood until the second
    /// is over: so a client that waits for its answers is held back. Those that only come and go
    /// must not use up the connections, so past a number they are sent away at once.
    async fn wait_if_refused_often(&self, from: IpAddr) -> Result<(), Failure> {
        let now = self.node.clock().wall_millis();
        if self.refusals.is_over(from, now.div_euclid(1000)) {
            let Ok(_held) = self.held_back.try_acquire() else { return Err(busy().closing()) };
            let left = 1000 - now.rem_euclid(1000);
            tokio::time::sleep(Duration::from_millis(left.unsigned_abs())).await;
        }
        Ok(())
    }

    fn inflated(&self, headers: &HeaderMap, body: Bytes) -> Result<Bytes, ApiError> {
        let text = |name: &str| match headers.get(name).map(HeaderValue::to_str) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(ApiError::invalid(format!("Invalid header: '{name}'."))),
        };
        let kind = text(REQUEST_COMPRESS_TYPE)?;
        if kind.is_none() {
            return Ok(body);
        }
        let size = text(REQUEST_COMPRESS_SIZE)?;
        Ok(inflate_request(&body, kind, size, self.body_bytes_max)?)
    }

    /// A batch that would be large in memory is carried out part by part.
    async fn batch_write(
        &self,
        mut parts: BatchWriteParts,
        mut receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        // What refuses a batch as a whole must do so before the first part is written.
        for table in parts.tables() {
            self.node.writable(table.as_str())?;
        }
        let mut whole = BatchPartsAnswer::default();
        let mut is_first = true;
        while let Some(part) = parts.next() {
            let BatchWritePart { writes, continues } = part?;
            let rows = |table: &TableWrites| (table.table.clone(), table.rows.len());
            let tables: Vec<_> = writes.tables.iter().map(rows).collect();
            let answer = self.rows.batch_write(writes, receipt.as_deref_mut()).await;
            if is_first && (answer.is_err() || parts.is_empty()) {
                return answer;
            }
            is_first = false;
            match answer {
                Ok(answer) => whole.push(continues, answer)?,
                Err(error) => whole.push_failed(continues, &tables, error.code, &error.message),
            }
        }
        Ok(whole.finish())
    }

    async fn execute(
        &self,
        operation: Operation,
        body: &Bytes,
        cut: Option<Hlc>,
        receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        match operation {
            Operation::PutRow(_) | Operation::UpdateRow(_) | Operation::DeleteRow(_) => {
                Box::pin(self.change(Change::One(operation), body, receipt)).await
            }
            Operation::BatchWriteRow(batch) => {
                Box::pin(self.rows.batch_write(batch, receipt)).await
            }
            Operation::GetRow(get) => self.rows.get(get, cut),
            Operation::BatchGetRow(batch) => self.rows.batch_get(batch, cut),
            Operation::GetRange(get) => self.rows.range(get, cut),
            Operation::CreateTable(create) => Box::pin(self.tables.create(create)).await,
            Operation::ListTable => Ok(self.tables.list()),
            Operation::DescribeTable(name) => self.tables.describe(&name),
            Operation::UpdateTable(UpdateTable { ref table, .. })
            | Operation::AddDefinedColumn(AddDefinedColumn { ref table, .. })
            | Operation::DeleteDefinedColumn(DeleteDefinedColumn { ref table, .. })
                if self.node.forwards(table.as_str()) =>
            {
                Box::pin(self.change(Change::One(operation), body, None)).await
            }
            Operation::UpdateTable(update) => Box::pin(self.tables.update(update)).await,
            Operation::DeleteTable(name) => Box::pin(self.tables.delete(&name)).await,
            Operation::AddDefinedColumn(add) => Box::pin(self.tables.add_columns(add)).await,
            Operation::DeleteDefinedColumn(delete) => {
                Box::pin(self.tables.delete_columns(delete)).await
            }
            Operation::CreateGlobalTable(_)
            | Operation::BindGlobalTable(_)
            | Operation::UnbindGlobalTable(_)
            | Operation::DescribeGlobalTable(_)
            | Operation::UpdateGlobalTable(_) => {
                Box::pin(self.node.global_table(&operation, body)).await
            }
            Operation::ListSearchIndex(_) | Operation::ListStream(_) | Operation::ListTunnel(_) => {
                Ok(encode_empty())
            }
        }
    }

    fn request_id(&self) -> String {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number:012x}", self.request_prefix)
    }
}

/// An answer as it goes out: signed for a caller who is known.
pub(crate) fn respond(
    id: &str,
    path: &str,
    caller: Option<&Caller>,
    answer: Result<Success, Failure>,
    now_millis: i64,
) -> Response<Full<Bytes>> {
    let (status, Success { body, headers: further }, closes) = match answer {
        Ok(success) => (200, success, false),
        Err(Failure { error, status, closes }) => {
            (status, Success::of(encode_error(error.code, &error.message)), closes)
        }
    };
    let md5 = content_md5(&body);
    let date = format_date(now_millis);
    let mut signed = [
        (CONTENT_MD5, md5.as_str()),
        (CONTENT_TYPE, "protocol buffer"),
        (DATE, date.as_str()),
        (REQUEST_ID, id),
    ];
    let authorization = caller.map(|caller| {
        // What the client signed is what it checks: a doubled slash counts once.
        let path = if caller.path.is_empty() { path } else { &caller.path };
        caller.response_key.authorization(&caller.access_key_id, path, &mut signed)
    });
    let mut response = Response::new(Full::new(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.reserve(6);
    let further = further.iter().map(|(name, value)| (*name, value.as_str()));
    for (name, value) in signed.into_iter().chain(further) {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    if let Some(Ok(value)) = authorization.map(HeaderValue::try_from) {
        headers.insert(AUTHORIZATION, value);
    }
    if closes {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Reads a body of so many bytes at most, in time.
pub(crate) async fn read_body(body: Incoming, bytes_max: usize) -> Result<Bytes, Failure> {
    let whole = gather(Limited::new(body, bytes_max));
    match tokio::time::timeout(BODY_TIMEOUT, whole).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(too_large().closing())
        }
        Ok(Err(_)) => Err(ApiError::invalid("The request body is broken.").closing()),
        Err(_) => Err(ApiError::new(ErrorCode::RequestTimeout, "Request timeout.").closing()),
    }
}

/// An answer, with what it tells beside what the protocol has.
pub(crate) struct Success {
    body: Bytes,
    headers: Vec<(&'static str, String)>,
}

impl Success {
    fn of(body: Bytes) -> Success {
        Success { body, headers: Vec::new() }
    }

    /// With the receipt of what was written, if anything was.
    fn with_receipt(mut self, receipt: Option<Receipt>) -> Success {
        let receipt = receipt.filter(|receipt| !receipt.marks().is_empty());
        self.headers.extend(receipt.map(|receipt| (RECEIPT, receipt.to_text())));
        self
    }
}

/// An answer that is no success, and whether the connection must end with it.
pub(crate) struct Failure {
    pub(crate) error: ApiError,
    status: u16,
    closes: bool,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        Failure { status: error.code.http_status(), error, closes: false }
    }
}

impl ApiError {
    pub(crate) fn closing(self) -> Failure {
        Failure { closes: true, ..Failure::from(self) }
    }
}

pub(crate) fn too_large() -> ApiError {
    ApiError::new(ErrorCode::RequestBodyTooLarge, "The size of POST data is too large.")
}

pub(crate) fn busy() -> ApiError {
    ApiError::new(ErrorCode::ServerBusy, "Server is busy.")
}

/// What no client of the protocol sends is refused before anything is read.
pub(crate) fn check_shape(request: &Request<Incoming>) -> Result<(), Failure> {
    let headers = request.headers();
    let doubled = |name| headers.get_all(name).iter().count() > 1;
    if headers.contains_key(TRANSFER_ENCODING) {
        // No client of the protocol sends chunks, and two ways to tell a length are one too many.
        let error = ApiError::invalid("A body in chunks is not accepted; send Content-Length.");
        return Err(Failure { status: 411, ..error.closing() });
    }
    if doubled(CONTENT_LENGTH) || doubled(HOST) {
        return Err(ApiError::invalid("A header is given twice.").closing());
    }
    if !headers.contains_key(HOST) && request.version() == hyper::Version::HTTP_11 {
        return Err(ApiError::invalid("Missing header: 'Host'.").closing());
    }
    if request.method() != Method::POST {
        let message = "Only POST method for requests is supported.";
        return Err(ApiError::new(ErrorCode::MethodNotAllowed, message).closing());
    }
    let uri = request.uri();
    if uri.scheme().is_some() || uri.authority().is_some() || uri.query().is_some() {
        let shown: String = uri.to_string().chars().take(200).collect();
        return Err(ApiError::invalid(format!("Unsupported operation: '{shown}'.")).closing());
    }
    Ok(())
}

/// A body in one piece; what came in one piece is not copied, and no piece twice.
pub(crate) async fn gather<B: Body<Data = Bytes> + Unpin>(mut body: B) -> Result<Bytes, B::Error> {
    let mut only = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if all.is_empty() && only.is_empty() {
            only = data;
            continue;
        }
        if all.is_empty() {
            let left = usize::try_from(body.size_hint().lower()).unwrap_or(0);
            all.reserve(only.len() + data.len() + left);
            all.extend_from_slice(&only);
            only = Bytes::new();
        }
        all.extend_from_slice(&data);
    }
    Ok(if all.is_empty() { only } else { all.freeze() })
}

pub(crate) fn declared_length(body: &Incoming) -> Option<u64> {
    body.size_hint().exact()
}
