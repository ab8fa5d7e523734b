//! A client for any store that speaks the Tablestore protocol, ours or another.
//!
//! What must hold: requests are signed, answers are checked against their signature and digest;
//! a request is sent again only if it certainly had no effect or may be repeated without harm,
//! and only for a bounded time; every error tells whether the change may have taken effect.

mod error;
mod pages;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use isthmus_model::clock::Clock;
use isthmus_model::schema::TableOptions;
use isthmus_model::value::Text;
use isthmus_protocol::client::{
    DescribedTable, GlobalTableResult, RangePage, TableResult, decode_batch,
    decode_describe_global_table, decode_describe_table, decode_error, decode_get_range,
    decode_get_row, decode_global_table, decode_list_table, decode_update_table, decode_write_row,
    encode_request,
};
use isthmus_protocol::plainbuffer::NamedRow;
use isthmus_protocol::request::{
    BatchWriteRow, BindGlobalTable, CreateGlobalTable, CreateTable, DescribeGlobalTable, GetRange,
    GetRow, Operation, UnbindGlobalTable, UpdateGlobalTable, UpdateTable,
};
use isthmus_protocol::response::GlobalTableDescription;
use isthmus_protocol::signature::{
    CONTENT_MD5, RequestToSign, Secret, SignedForSending, content_md5, sign_request,
};

use crate::http::{Answer, Http, HttpOptions};
pub use crate::tablestore::error::{ClientError, is_retried};
pub use crate::tablestore::pages::RangePages;
pub use crate::tablestore::rows::Traffic;
use crate::tablestore::rows::TrafficCount;

/// The header that names the moment as of which is read.
const AS_OF: &str = "x-isthmus-as-of";
/// The header of batches that are written wholly or not at all.
const ATOMIC: &str = "x-isthmus-atomic";
/// First wait before a request is sent again; it doubles.
const WAIT_MIN: Duration = Duration::from_millis(10);
/// Longest such wait.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Pages of one wide row at most.
const ROW_PAGES_MAX: usize = 1024;

/// A store and a key for it.
#[derive(Clone)]
pub struct Target {
    /// URL, `http://host:port`.
    pub endpoint: String,
    /// Instance.
    pub instance: String,
    /// Access key id.
    pub access_key_id: String,
    /// Its secret.
    pub access_key_secret: String,
    /// The token of temporary credentials.
    pub security_token: Option<String>,
    /// Signs with V4 for this region; else with V2.
    pub sign_region: Option<String>,
}

/// How patient the client is.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// Connections.
    pub http: HttpOptions,
    /// For how long a request is sent again; zero: never.
    pub patience: Duration,
    /// Whether to go on trying where no connection can be made.
    pub retries_connecting: bool,
    /// Where the spread of the waits begins.
    pub seed: u64,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            http: HttpOptions::default(),
            patience: Duration::from_secs(10),
            retries_connecting: false,
            seed: 0,
        }
    }
}

/// A client. Clones share their connections.
#[derive(Clone)]
pub struct TableStore {
    shared: Arc<Shared>,
    as_of: Option<Arc<AsOf>>,
    all_or_none: bool,
}

/// The moment as of which a client reads.
struct AsOf {
    asked: String,
    /// What the first answer has told.
    settled: OnceLock<String>,
}

struct Shared {
    http: Http,
    signer: Signer,
    options: ClientOptions,
    chance: AtomicU64,
    traffic: TrafficCount,
}

/// Signs requests to one target.
pub(crate) struct Signer {
    target: Target,
    secret: Secret,
    clock: Arc<dyn Clock>,
}

impl Signer {
    pub(crate) fn new(target: Target, clock: Arc<dyn Clock>) -> Signer {
        let secret = Secret::new(target.access_key_secret.as_bytes());
        Signer { target, secret, clock }
    }

    pub(crate) fn sign(&self, path: &str, body: &[u8]) -> Result<SignedForSending, ClientError> {
        let request = RequestToSign {
            path,
            body,
            instance: &self.target.instance,
            access_key_id: &self.target.access_key_id,
            secret: &self.secret,
            security_token: self.target.security_token.as_deref(),
            sign_region: self.target.sign_region.as_deref(),
            further: &[],
            now_millis: self.clock.wall_millis(),
        };
        sign_request(&request).map_err(|source| ClientError::Request { source })
    }
}

impl TableStore {
    /// A client of that store. No connection is made before the first request.
    pub fn new(
        target: Target,
        options: ClientOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<TableStore, ClientError> {
        let http = Http::new(&target.endpoint, options.http)?;
        let signer = Signer::new(target, clock);
        let chance = AtomicU64::new(options.seed);
        Ok(TableStore {
            shared: Arc::new(Shared {
                http,
                signer,
                options,
                chance,
                traffic: TrafficCount::default(),
            }),
            as_of: None,
            all_or_none: false,
        })
    }

    /// The same, but for reads as of one moment only: `safe`, which the first answer settles to a
    /// time, or a time that such an answer has told. Only Isthmus knows of it.
    pub fn reading_as_of(&self, as_of: &str) -> TableStore {
        TableStore {
            shared: self.shared.clone(),
            as_of: Some(Arc::new(AsOf { asked: as_of.to_owned(), settled: OnceLock::new() })),
            all_or_none: false,
        }
    }

    /// The same, but for batches of rows that are written wholly or not at all, whatever
    /// partitions, tables and regions they are about. Only Isthmus knows of it.
    pub fn all_or_none(&self) -> TableStore {
        TableStore { shared: self.shared.clone(), as_of: None, all_or_none: true }
    }

    /// The moment as of which it reads; `None`: that of each read, or no answer has settled it.
    pub fn settled_as_of(&self) -> Option<&str> {
        Some(self.as_of.as_ref()?.settled.get()?.as_str())
    }

    /// The store's URL.
    pub fn endpoint(&self) -> &str {
        self.shared.http.endpoint()
    }

    /// Sends an operation and gives the body of its answer.
    ///
    /// `repeatable` says that the operation may be sent again although it may have taken effect.
    pub async fn call(
        &self,
        operation: &Operation,
        repeatable: bool,
    ) -> Result<Bytes, ClientError> {
        let (path, body) = (operation.path(), encode_request(operation));
        let repeatable = repeatable || operation.is_read();
        let mut wait = WAIT_MIN;
        let began = tokio::time::Instant::now();
        loop {
            let error = match self.once(path, body.clone()).await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            let again = error.is_retried(repeatable, self.shared.options.retries_connecting);
            if !again || began.elapsed() >= self.shared.options.patience {
                return Err(error);
            }
            tokio::time::sleep(self.spread(wait)).await;
            wait = (wait * 2).min(WAIT_MAX);
        }
    }

    /// Half of the wait to all of it, so that clients that failed together do not come together.
    fn spread(&self, wait: Duration) -> Duration {
        let step = 0x9e37_79b9_7f4a_7c15;
        let mut bits = self.shared.chance.fetch_add(step, Ordering::Relaxed).wrapping_add(step);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let share = ((bits ^ (bits >> 31)) >> 32) as f64 / f64::from(u32::MAX);
        wait.mul_f64(0.5 + share / 2.0)
    }

    async fn once(&self, path: &'static str, body: Bytes) -> Result<Bytes, ClientError> {
        let shared = &self.shared;
        let mut signed = shared.signer.sign(path, &body)?;
        if let Some(AsOf { asked, settled }) = self.as_of.as_deref() {
            signed.headers.push((AS_OF, settled.get().unwrap_or(asked).clone()));
        }
        if self.all_or_none {
            signed.headers.push((ATOMIC, "true".to_owned()));
        }
        shared.traffic.sent(body.len());
        let answer = shared.http.send(Method::POST, path, &signed.headers, body).await?;
        shared.traffic.received(answer.body.len());
        check_answer(path, &shared.signer.target.access_key_id, &signed, &answer)?;
        if answer.status.is_success() {
            if let Some(as_of) = &self.as_of {
                let Some(settled) = header(&answer, AS_OF) else {
                    return Err(ClientError::Answer {
                        operation: &path[1..],
                        message: "the store does not know reads as of a moment".to_owned(),
                    });
                };
                as_of.settled.get_or_init(|| settled.to_owned());
            }
            return Ok(answer.body);
        }
        let status = answer.status.as_u16();
        let request_id = header(&answer, "x-ots-requestid").unwrap_or_default().to_owned();
        match decode_error(answer.body) {
            Ok(error) => Err(ClientError::Service {
                status,
                code: error.code,
                message: error.message,
                request_id,
            }),
            Err(_) => Err(ClientError::Answer {
                operation: &path[1..],
                message: format!("HTTP status {status} without a readable error"),
            }),
        }
    }

    /// Names all tables.
    pub async fn list_tables(&self) -> Result<Vec<String>, ClientError> {
        self.read(Operation::ListTable, decode_list_table).await
    }

    /// Describes a table.
    pub async fn describe_table(&self, table: &str) -> Result<DescribedTable, ClientError> {
        self.read(Operation::DescribeTable(Text::from(table)), decode_describe_table).await
    }

    /// Makes a table.
    pub async fn create_table(&self, request: CreateTable) -> Result<(), ClientError> {
        self.call(&Operation::CreateTable(request), false).await.map(drop)
    }

    /// Changes a table; gives its options as they are now.
    pub async fn update_table(&self, request: UpdateTable) -> Result<TableOptions, ClientError> {
        self.read(Operation::UpdateTable(request), decode_update_table).await
    }

    /// Adds defined columns to a table, or takes them away.
    pub async fn change_defined_columns(&self, operation: Operation) -> Result<(), ClientError> {
        self.call(&operation, false).await.map(drop)
    }

    /// Deletes a table.
    pub async fn delete_table(&self, table: &str) -> Result<(), ClientError> {
        self.call(&Operation::DeleteTable(Text::from(table)), false).await.map(drop)
    }

    /// Reads a row, page by page where it is wide.
    pub async fn get_row(&self, mut request: GetRow) -> Result<Option<NamedRow>, ClientError> {
        let mut whole: Option<NamedRow> = None;
        for _ in 0..ROW_PAGES_MAX {
            let read = self.read(Operation::GetRow(request.clone()), decode_get_row).await?;
            match (&mut whole, read.row) {
                (Some(whole), Some(more)) => whole.row.cells.extend(more.row.cells),
                (None, row) => whole = row,
                (Some(_), None) => {}
            }
            if read.next_token.is_none() {
                return Ok(whole);
            }
            request.token = read.next_token;
        }
        Err(ClientError::Answer {
            operation: "GetRow",
            message: format!("the row has more than {ROW_PAGES_MAX} pages"),
        })
    }

    /// Sends PutRow, UpdateRow or DeleteRow once; gives the row if it was asked for.
    pub async fn write_row(&self, operation: Operation) -> Result<Option<NamedRow>, ClientError> {
        self.read(operation, decode_write_row).await.map(|written| written.row)
    }

    /// Writes rows. What failed is told row by row.
    pub async fn batch_write(
        &self,
        request: BatchWriteRow,
        repeatable: bool,
    ) -> Result<Vec<TableResult>, ClientError> {
        let operation = Operation::BatchWriteRow(request);
        let body = self.call(&operation, repeatable).await?;
        decode_batch(body).map_err(|error| answer_error(&operation, &error))
    }

    /// Reads one page of a range.
    pub async fn get_range(&self, request: GetRange) -> Result<RangePage, ClientError> {
        self.read(Operation::GetRange(request), decode_get_range).await
    }

    /// Reads a range page by page, each row whole.
    pub fn range(&self, request: GetRange) -> RangePages {
        RangePages::new(self.clone(), request)
    }

    /// Makes a global table.
    pub async fn create_global_table(
        &self,
        request: CreateGlobalTable,
    ) -> Result<GlobalTableResult, ClientError> {
        self.read(Operation::CreateGlobalTable(request), decode_global_table).await
    }

    /// Adds replicas.
    pub async fn bind_global_table(
        &self,
        request: BindGlobalTable,
    ) -> Result<GlobalTableResult, ClientError> {
        self.read(Operation::BindGlobalTable(request), decode_global_table).await
    }

    /// Takes replicas away.
    pub async fn unbind_global_table(
        &self,
        request: UnbindGlobalTable,
    ) -> Result<GlobalTableResult, ClientError> {
        self.read(Operation::UnbindGlobalTable(request), decode_global_table).await
    }

    /// Describes a global table.
    pub async fn describe_global_table(
        &self,
        request: DescribeGlobalTable,
    ) -> Result<GlobalTableDescription, ClientError> {
        self.read(Operation::DescribeGlobalTable(request), decode_describe_global_table).await
    }

    /// Changes who writes.
    pub async fn update_global_table(&self, request: UpdateGlobalTable) -> Result<(), ClientError> {
        self.call(&Operation::UpdateGlobalTable(request), false).await.map(drop)
    }

    /// Sends an operation and reads its answer.
    async fn read<T>(
        &self,
        operation: Operation,
        decode: fn(Bytes) -> Result<T, isthmus_protocol::error::ProtocolError>,
    ) -> Result<T, ClientError> {
        let body = self.call(&operation, false).await?;
        decode(body).map_err(|error| answer_error(&operation, &error))
    }
}

fn answer_error(operation: &Operation, error: &dyn std::error::Error) -> ClientError {
    ClientError::Answer { operation: operation.name(), message: error.to_string() }
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name)?.to_str().ok()
}

/// A success must be signed and digested; an error need not be, but what it carries must be right.
fn check_answer(
    path: &'static str,
    access_key_id: &str,
    signed: &SignedForSending,
    answer: &Answer,
) -> Result<(), ClientError> {
    let wrong = |message: &str| ClientError::Answer {
        operation: &path[1..],
        message: format!("{message} (HTTP status {})", answer.status.as_u16()),
    };
    match header(answer, CONTENT_MD5) {
        Some(digest) if digest != content_md5(&answer.body) => {
            return Err(wrong("the answer does not match its digest"));
        }
        None if answer.status.is_success() => return Err(wrong("the answer has no digest")),
        _ => {}
    }
    let Some(given) = header(answer, "authorization") else {
        return match answer.status.is_success() {
            true => Err(wrong("the answer is not signed")),
            false => Ok(()),
        };
    };
    let mut headers: Vec<(&str, &str)> = answer
        .headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-ots-"))
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default()))
        .collect();
    match signed.response_key.is_authorization(given, access_key_id, path, &mut headers) {
        true => Ok(()),
        false => Err(wrong("the signature of the answer is wrong")),
    }
}
