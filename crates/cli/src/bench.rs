//! `isthmus bench`: load on a running region, and what it took.
//!
//! What must hold: the latencies are those that a client sees, from the first byte sent to the
//! answer checked; a request that failed is counted and never as done; rows are of ten columns
//! and 1 KiB in all, unless asked otherwise.

mod latency;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args, Subcommand};
use isthmus_connectors::tablestore::{ClientError, ClientOptions, TableStore};
use isthmus_model::change::{Direction, KeyPart, NamedKeyPart, Projection, RowChange};
use isthmus_model::error::Kind;
use isthmus_model::key::KeyValue;
use isthmus_model::limits::{BATCH_WRITE_ROWS_MAX, RANGE_ROWS_MAX};
use isthmus_model::value::{Text, Value};
use isthmus_protocol::request::{
    BatchWriteRow, GetRange, GetRow, Operation, TableWrites, WriteRow,
};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bench::latency::Latencies;
use crate::error::{CliError, Exit};
use crate::output;
use crate::progress::Line;
use crate::row::plain_put;
use crate::schema::key_columns;
use crate::table::plain_table;
use crate::target::TargetArgs;
use crate::up::StopSignals;

/// The name of the key column.
const KEY: &str = "id";
/// Columns of a row.
const COLUMNS: usize = 10;
/// What spreads the numbers of rows over the keys, and back: its product with a number below
/// 2^63 is unique, because it is odd.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Arguments of `isthmus bench`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  isthmus bench write                                  PutRow over 64 connections
  isthmus bench write --batch 200 --connections 4      BatchWriteRow
  isthmus bench read --rows 1000000                    GetRow of rows that were written before
  isthmus bench read --range 1000 --connections 4      GetRange

The table isthmus_bench is made where it does not exist, and stays.")]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Subcommand, Debug)]
enum BenchCommand {
    /// Write rows
    Write {
        #[command(flatten)]
        common: CommonArgs,
        /// Rows per request; 1: PutRow, else BatchWriteRow
        #[arg(long, value_name = "N", default_value_t = 1,
            value_parser = clap::value_parser!(u16).range(1..=BATCH_WRITE_ROWS_MAX as i64))]
        batch: u16,
    },
    /// Read rows
    Read {
        #[command(flatten)]
        common: CommonArgs,
        /// Rows per request; 1: GetRow, else GetRange
        #[arg(long, value_name = "N", default_value_t = 1,
            value_parser = clap::value_parser!(u16).range(1..=RANGE_ROWS_MAX as i64))]
        range: u16,
    },
}

#[derive(Args, Clone, Debug)]
struct CommonArgs {
    /// Connections, each with one request at a time
    #[arg(long, value_name = "N", default_value_t = 64,
        value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// How long
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How many different rows
    #[arg(long, value_name = "N", default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rows: u64,
    /// Bytes of a row's values
    #[arg(long, value_name = "N", default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    row_bytes: u32,
    /// The table
    #[arg(long, value_name = "NAME", default_value = "isthmus_bench")]
    table: String,
}

/// What each request does.
#[derive(Clone, Copy, Debug)]
enum Work {
    Put,
    Batch(u64),
    Get,
    Range(u64),
}

impl Work {
    fn operation(self) -> &'static str {
        match self {
            Work::Put => "PutRow",
            Work::Batch(_) => "BatchWriteRow",
            Work::Get => "GetRow",
            Work::Range(_) => "GetRange",
        }
    }
}

/// Shared by all connections.
struct Shared {
    client: TableStore,
    table: Text,
    work: Work,
    rows: u64,
    column_bytes: usize,
    next: AtomicU64,
    rows_done: AtomicU64,
}

/// Runs the load and prints what it took.
pub(crate) async fn run(args: BenchArgs) -> Result<(), CliError> {
    let (common, work) = match &args.command {
        BenchCommand::Write { common, batch: 1 } => (common, Work::Put),
        BenchCommand::Write { common, batch } => (common, Work::Batch(u64::from(*batch))),
        BenchCommand::Read { common, range: 1 } => (common, Work::Get),
        BenchCommand::Read { common, range } => (common, Work::Range(u64::from(*range))),
    };
    let options = ClientOptions { patience: Duration::ZERO, ..ClientOptions::default() };
    let client = args.target.place()?.client(options)?;
    prepare(&client, &common.table, work).await?;
    let shared = Arc::new(Shared {
        client,
        table: Text::from(common.table.as_str()),
        work,
        rows: common.rows,
        column_bytes: (common.row_bytes as usize / COLUMNS).max(1),
        next: AtomicU64::new(0),
        rows_done: AtomicU64::new(0),
    });
    let line = Line::new(!args.target.json);
    let began = Instant::now();
    let measured = measure(&shared, common, &line).await;
    let seconds = began.elapsed().as_secs_f64();
    line.clear();
    report(&args, common, &shared, &measured?, seconds)
}

async fn prepare(client: &TableStore, table: &str, work: Work) -> Result<(), CliError> {
    match client.describe_table(table).await {
        Ok(found) => {
            let key = key_columns(&format!("{KEY}:integer")).map_err(CliError::usage)?;
            if found.schema.key_columns == key {
                return Ok(());
            }
            Err(CliError::usage(format!("the key of table {table} is not {KEY}:integer"))
                .hint("name another one with --table"))
        }
        Err(error)
            if error.kind() == Kind::NotFound && matches!(work, Work::Put | Work::Batch(_)) =>
        {
            let key = key_columns(&format!("{KEY}:integer")).map_err(CliError::usage)?;
            Ok(client.create_table(plain_table(table, key)).await?)
        }
        Err(error) if error.kind() == Kind::NotFound => {
            Err(CliError::from(error).hint("write rows first, with `isthmus bench write`"))
        }
        Err(error) => Err(error.into()),
    }
}

async fn measure(
    shared: &Arc<Shared>,
    common: &CommonArgs,
    line: &Line,
) -> Result<Latencies, CliError> {
    let mut stop = StopSignals::new()?;
    let deadline = Instant::now() + Duration::from_secs(common.seconds);
    let mut connections = JoinSet::new();
    for _ in 0..common.connections {
        connections.spawn(connection(Arc::clone(shared), deadline));
    }
    let mut all = Latencies::default();
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let mut before = 0;
    loop {
        tokio::select! {
            ended = connections.join_next() => match ended {
                Some(ended) => {
                    all.add(&ended.map_err(|error| CliError::failed(error.to_string()))?);
                }
                None => return Ok(all),
            },
            _ = tick.tick() => {
                let now = shared.rows_done.load(Ordering::Relaxed);
                line.set(&format!("{} rows, {} rows/s", now, (now - before) * 2));
                before = now;
            }
            () = stop.next() => return Err(CliError::new(Exit::Stopped, "stopped")),
        }
    }
}

/// One connection: a request at a time until the end.
async fn connection(shared: Arc<Shared>, deadline: Instant) -> Latencies {
    let mut latencies = Latencies::default();
    loop {
        let began = Instant::now();
        if began >= deadline {
            return latencies;
        }
        match shared.request().await {
            Ok(rows) => {
                shared.rows_done.fetch_add(rows, Ordering::Relaxed);
                latencies.record(began.elapsed());
            }
            Err(error) => {
                latencies.fail(&error.to_string());
                // A region that is away must not be asked a hundred thousand times a second.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

impl Shared {
    /// Sends one request; gives the rows that it wrote or read.
    async fn request(&self) -> Result<u64, ClientError> {
        match self.work {
            Work::Put => {
                let change = self.put(self.take(1));
                let table = self.table.clone();
                self.client.write_row(Operation::PutRow(WriteRow { table, change })).await?;
                Ok(1)
            }
            Work::Batch(count) => self.batch(count).await,
            Work::Get => {
                let request = GetRow {
                    table: self.table.clone(),
                    key: key(self.number(self.take(1))),
                    projection: newest(),
                    token: None,
                };
                Ok(u64::from(self.client.get_row(request).await?.is_some()))
            }
            Work::Range(count) => {
                let request = GetRange {
                    table: self.table.clone(),
                    start: key(self.number(self.take(1))),
                    end: vec![NamedKeyPart { name: Text::from(KEY), part: KeyPart::Max }],
                    direction: Direction::Forward,
                    limit: u32::try_from(count).ok(),
                    projection: newest(),
                    token: None,
                };
                Ok(self.client.get_range(request).await?.rows.len() as u64)
            }
        }
    }

    async fn batch(&self, count: u64) -> Result<u64, ClientError> {
        let first = self.take(count);
        let rows = (first..first + count).map(|number| self.put(number)).collect();
        let tables = vec![TableWrites { table: self.table.clone(), rows }];
        let request = BatchWriteRow { tables, atomic: false };
        let answered = self.client.batch_write(request, false).await?;
        let mut written = 0;
        for result in answered.into_iter().flat_map(|table| table.rows) {
            match result {
                Ok(_) => written += 1,
                Err(error) => {
                    return Err(ClientError::Service {
                        status: 200,
                        code: error.code,
                        message: error.message,
                        request_id: "in a batch".to_owned(),
                    });
                }
            }
        }
        Ok(written)
    }

    fn take(&self, count: u64) -> u64 {
        self.next.fetch_add(count, Ordering::Relaxed)
    }

    /// The key of the n-th request: all keys once, in no order, then again.
    fn number(&self, n: u64) -> i64 {
        ((n % self.rows).wrapping_mul(SPREAD) >> 1) as i64
    }

    fn put(&self, n: u64) -> RowChange {
        let cells = (0..COLUMNS).map(|column| {
            let name = Text::from(format!("column{column}"));
            (name, Value::String(Text::from(value(n, column as u64, self.column_bytes))))
        });
        plain_put(key(self.number(n)), cells.collect())
    }
}

fn newest() -> Projection {
    Projection { max_versions: Some(1), ..Projection::default() }
}

fn key(number: i64) -> Vec<NamedKeyPart> {
    let part = KeyPart::Value(KeyValue::Integer(number));
    vec![NamedKeyPart { name: Text::from(KEY), part }]
}

/// Text that hardly compresses, always the same for the same place.
fn value(n: u64, column: u64, length: usize) -> String {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    let mut state = n.wrapping_mul(SPREAD) ^ column.wrapping_mul(0xd1b5_4a32_d192_ed03) | 1;
    let mut text = String::with_capacity(length);
    while text.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let mut bits = state;
        for _ in 0..10.min(length - text.len()) {
            text.push(char::from(LETTERS[(bits & 63) as usize]));
            bits >>= 6;
        }
    }
    text
}

fn report(
    args: &BenchArgs,
    common: &CommonArgs,
    shared: &Shared,
    measured: &Latencies,
    seconds: f64,
) -> Result<(), CliError> {
    let rows = shared.rows_done.load(Ordering::Relaxed);
    let requests = measured.count();
    if requests == 0 {
        let why = measured.failure().unwrap_or("no request was answered");
        return Err(CliError::failed(why.to_owned()));
    }
    let millis = |share: f64| measured.quantile(share).as_secs_f64() * 1e3;
    let max = measured.max().as_secs_f64() * 1e3;
    let (row_rate, rate) = (rows as f64 / seconds, requests as f64 / seconds);
    if args.target.json {
        return output::json(&json!({
            "operation": shared.work.operation(),
            "connections": common.connections,
            "seconds": seconds,
            "requests": requests,
            "rows": rows,
            "failed": measured.failures(),
            "failure": measured.failure(),
            "requests_per_second": rate,
            "rows_per_second": row_rate,
            "latency_ms": {
                "p50": millis(0.5), "p90": millis(0.9), "p99": millis(0.99),
                "p999": millis(0.999), "max": max,
            },
        }));
    }
    let mut text = format!(
        "{}, {} connections, {seconds:.1} s\n\
         {rows} rows in {requests} requests: {row_rate:.0} rows/s, {rate:.0} requests/s\n\
         latency p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {max:.2} ms",
        shared.work.operation(),
        common.connections,
        millis(0.5),
        millis(0.9),
        millis(0.99),
        millis(0.999),
    );
    if let Some(failure) = measured.failure() {
        text += &format!("\n{} requests failed, the first: {failure}", measured.failures());
    }
    output::line(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_length_and_differ() {
        let one = value(1, 0, 102);
        assert_eq!(one.len(), 102);
        assert_eq!(one, value(1, 0, 102));
        assert_ne!(one, value(2, 0, 102));
        assert_ne!(one, value(1, 1, 102));
    }
}
