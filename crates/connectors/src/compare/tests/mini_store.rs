//! A store in memory that speaks as much of the protocol as comparing needs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use isthmus_model::change::{KeyPart, NamedKeyPart, Projection, ShownCell, ShownRow};
use isthmus_model::clock::SystemClock;
use isthmus_model::ids::Timestamp;
use isthmus_model::key::{EncodedKey, KeyBound, PrimaryKey, encode_bound};
use isthmus_model::schema::Schema;
use isthmus_model::value::Value;
use isthmus_protocol::error_code::{ErrorCode, encode_error};
use isthmus_protocol::request::{Operation, decode};
use isthmus_protocol::response::{
    Consumed, RowAnswer, RowsAnswer, TableAnswer, TableDescription, TableStatus, Throughput,
    encode_batch, encode_describe_table,
};
use isthmus_protocol::signature::{CONTENT_MD5, content_md5};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::demo::{response_key, target};
use crate::tablestore::{ClientOptions, TableStore};

/// A row: cells by name, versions newest first.
pub(super) type Cells = Vec<(&'static str, i64, Value)>;

/// Rows of a page.
const PAGE_ROWS: usize = 7;

pub(super) struct Table {
    pub(super) schema: Schema,
    pub(super) rows: BTreeMap<EncodedKey, (PrimaryKey, Cells)>,
    /// A change made when rows are read by key for the n-th time from now.
    pub(super) later: Option<(usize, PrimaryKey, Option<Cells>)>,
    /// Pages after which ranges fail.
    pub(super) pages_left: Option<usize>,
    /// Whether batches of reads are refused.
    pub(super) refuses_batches: bool,
}

impl Table {
    pub(super) fn new(schema: Schema) -> Table {
        let rows = BTreeMap::new();
        Table { schema, rows, later: None, pages_left: None, refuses_batches: false }
    }

    pub(super) fn put(&mut self, key: PrimaryKey, cells: Cells) {
        self.rows.insert(key.encode(), (key, cells));
    }

    fn shown(&self, key: &EncodedKey, projection: &Projection) -> Option<ShownRow> {
        let (key, cells) = self.rows.get(key)?;
        let max = projection.max_versions.unwrap() as usize;
        let mut shown = Vec::<ShownCell>::new();
        for (name, timestamp, value) in cells {
            if shown.iter().filter(|cell| cell.name.as_str() == *name).count() < max {
                shown.push(ShownCell {
                    name: (*name).into(),
                    value: value.clone(),
                    timestamp: Timestamp(*timestamp),
                });
            }
        }
        Some(ShownRow { key: key.clone(), cells: shown })
    }

    fn answer(&mut self, operation: &Operation) -> Result<Bytes, ErrorCode> {
        match operation {
            Operation::DescribeTable(name) if name.as_str() == "t" => {
                Ok(encode_describe_table(&TableDescription {
                    table: "t",
                    schema: &self.schema,
                    throughput: Throughput::default(),
                    status: TableStatus::Active,
                    creation_micros: None,
                    table_id: None,
                    global_table_id: None,
                }))
            }
            Operation::GetRange(range) => {
                if let Some(left) = &mut self.pages_left {
                    *left = left.checked_sub(1).ok_or(ErrorCode::ParameterInvalid)?;
                }
                let (start, end) = (bound(&range.start), bound(&range.end));
                let mut keys = self.rows.range(start..end).map(|(key, _)| key);
                let mut page = RowsAnswer::new(&self.schema);
                for key in keys.by_ref().take(PAGE_ROWS) {
                    page.push(&self.shown(key, &range.projection).unwrap());
                }
                let next = keys.next().map(|key| PrimaryKey::decode(key).unwrap());
                Ok(page.finish_range(Consumed::default(), next.as_ref(), None))
            }
            Operation::BatchGetRow(batch) => {
                if self.refuses_batches {
                    return Err(ErrorCode::ParameterInvalid);
                }
                self.make_later_change();
                let reads = &batch.tables[0];
                let row = |key: &[NamedKeyPart]| self.shown(&bound(key), &reads.projection);
                let rows: Vec<RowAnswer> = reads
                    .rows
                    .iter()
                    .map(|read| RowAnswer::Done {
                        consumed: Consumed::default(),
                        row: row(&read.key),
                        next_token: None,
                    })
                    .collect();
                Ok(encode_batch(&[TableAnswer {
                    table: &reads.table,
                    schema: Some(&self.schema),
                    rows: &rows,
                }]))
            }
            Operation::GetRow(read) => {
                let mut answer = RowsAnswer::new(&self.schema);
                if let Some(row) = self.shown(&bound(&read.key), &read.projection) {
                    answer.push(&row);
                }
                Ok(answer.finish_row(Consumed::default(), None))
            }
            _ => Err(ErrorCode::ObjectNotExist),
        }
    }

    fn make_later_change(&mut self) {
        match &mut self.later {
            Some((0, key, cells)) => {
                let (key, cells) = (key.clone(), cells.take());
                match cells {
                    Some(cells) => self.put(key, cells),
                    None => drop(self.rows.remove(&key.encode())),
                }
                self.later = None;
            }
            Some((looks, _, _)) => *looks -= 1,
            None => {}
        }
    }
}

fn bound(parts: &[NamedKeyPart]) -> EncodedKey {
    let parts: Vec<KeyBound> = parts
        .iter()
        .map(|part| match &part.part {
            KeyPart::Value(value) => KeyBound::Value(value.clone()),
            KeyPart::Min => KeyBound::Min,
            KeyPart::Max => KeyBound::Max,
            KeyPart::AutoIncrement | KeyPart::NotAKeyType(_) => panic!("no bound"),
        })
        .collect();
    encode_bound(&parts)
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, Bytes)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                let path = head.split(' ').nth(1).unwrap().to_owned();
                return Some((path, Bytes::copy_from_slice(&bytes[end + 4..])));
            }
        }
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
    }
}

fn response(path: &str, answer: Result<Bytes, ErrorCode>) -> Vec<u8> {
    let (status, body) = match answer {
        Ok(body) => (200, body),
        Err(code) => (code.http_status(), encode_error(code, "as told")),
    };
    let digest = content_md5(&body);
    let mut headers = [(CONTENT_MD5, digest.as_str()), ("x-ots-requestid", "request-7")];
    let authorization = response_key().authorization("id", path, &mut headers);
    let mut bytes = format!(
        "HTTP/1.1 {status} X\r\n{CONTENT_MD5}: {digest}\r\nx-ots-requestid: request-7\r\n\
         authorization: {authorization}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

/// Serves a table named t; gives a client.
pub(super) async fn serve(table: Arc<Mutex<Table>>) -> TableStore {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let table = Arc::clone(&table);
            tokio::spawn(async move {
                while let Some((path, body)) = read_request(&mut stream).await {
                    let operation = decode(&path, body).unwrap();
                    let answer = table.lock().unwrap().answer(&operation);
                    stream.write_all(&response(&path, answer)).await.unwrap();
                }
            });
        }
    });
    TableStore::new(target(endpoint), ClientOptions::default(), Arc::new(SystemClock)).unwrap()
}
