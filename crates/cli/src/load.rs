//! `isthmus load`: a CSV or JSON Lines file into a table.
//!
//! What must hold: each row is a put, so that sending it again changes nothing; a row counts as
//! loaded once the region has acknowledged it; the checkpoint never lies beyond a row that was
//! not acknowledged, so a resumed load misses none. Memory holds a few batches, whatever the
//! file's size.

mod batches;
mod checkpoint;
mod sender;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use isthmus_connectors::csv::Csv;
use isthmus_connectors::json_lines::JsonLines;
use isthmus_connectors::source::Source;
use isthmus_connectors::tablestore::{ClientOptions, TableStore};
use isthmus_connectors::types::{Types, name_of};
use isthmus_model::error::Kind;
use isthmus_model::limits::BATCH_WRITE_ROWS_MAX;
use isthmus_model::schema::{KeyColumn, Schema};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::{CliError, Exit};
use crate::load::batches::{Batch, Batches};
use crate::load::checkpoint::{Checkpoint, Done};
use crate::load::sender::{Sender, Sent};
use crate::output;
use crate::progress::Bar;
use crate::schema::{key_columns, value_kind};
use crate::table::plain_table;
use crate::target::TargetArgs;
use crate::up::StopSignals;

/// How often the checkpoint is written.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// Wrong rows that are told one by one.
const TOLD_MAX: u64 = 20;

/// Arguments of `isthmus load`.
#[derive(Args, Debug)]
#[command(after_help = "\
CSV: the first line names the columns. Values are integers, doubles, true or false, or else
text; --types and the table's own key columns decide where that would be wrong. An empty cell is
left out. JSON Lines: one object per line, null is left out, bytes are {\"binary\":\"BASE64\"}.

Each row is put in place of what was there. A load that was stopped, or whose region went away,
goes on with --resume where it was; the place is kept in FILE.isthmus-load until the load is
complete. Where a file names a key twice, --parallel 1 keeps the last one.

Examples:
  isthmus load flights flights.csv --create --key-columns carrier:string,flight:integer
  isthmus load notes notes.jsonl --types stars:integer,price:double
  isthmus load flights flights.csv --resume --parallel 8")]
pub(crate) struct LoadArgs {
    /// The table
    table: String,
    /// The file
    file: PathBuf,
    /// Its format [default: by its name, .csv or .jsonl]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Types of columns, as NAME:TYPE with commas between
    #[arg(long, value_name = "TYPES", value_parser = Types::parse, default_value = "")]
    types: Types,
    /// Make the table if it does not exist
    #[arg(long, requires = "key_columns")]
    create: bool,
    /// Its key, with --create: NAME or NAME:TYPE with commas between
    #[arg(long, value_name = "COLUMNS")]
    key_columns: Option<String>,
    /// Batches on their way at once
    #[arg(long, value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u16).range(1..=64))]
    parallel: u16,
    /// Rows of a batch
    #[arg(long, value_name = "N", default_value_t = BATCH_WRITE_ROWS_MAX as u16,
        value_parser = clap::value_parser!(u16).range(1..=BATCH_WRITE_ROWS_MAX as i64))]
    batch: u16,
    /// Go on where an earlier load of this file was stopped, if it was
    #[arg(long)]
    resume: bool,
    /// Where the place is kept [default: FILE.isthmus-load]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// How long to go on trying while the region is busy or away, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120,
        value_parser = clap::value_parser!(u64).range(0..=86_400))]
    patience: u64,
    /// Wrong rows to pass over before giving up
    #[arg(long, value_name = "N", default_value_t = 0)]
    errors_max: u64,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Comma-separated values
    Csv,
    /// One JSON object per line
    Jsonl,
}

/// Loads the file.
pub(crate) async fn run(args: LoadArgs) -> Result<(), CliError> {
    let patience = Duration::from_secs(args.patience);
    let options = ClientOptions { patience, retries_connecting: true, ..ClientOptions::default() };
    let client = args.target.place()?.client(options)?;
    let format = format(&args)?;
    let size = std::fs::metadata(&args.file)
        .map_err(|error| CliError::usage(format!("{}: {error}", args.file.display())))?
        .len();
    let schema = schema(&client, &args, format).await?;
    let mut source = open(&args.file, format, types(&args.types, &schema))?;
    let checkpoint = Checkpoint::at(&args.file, args.checkpoint.as_deref(), &args.table, size);
    let start = match (args.resume, checkpoint.read()?) {
        (true, Some(place)) => place,
        (false, Some(place)) => {
            eprintln!("an earlier load stopped after row {}; --resume goes on there", place.rows);
            Default::default()
        }
        (_, None) => Default::default(),
    };
    if start.rows > 0 {
        source.move_to(start)?;
    }
    let mut load = Load {
        sender: Sender::new(client, &args.table, &schema, patience),
        done: Done::new(start),
        bar: Bar::new(!args.target.json, size, start.bytes),
        checkpoint,
        began: Instant::now(),
        errors: 0,
        parallel: usize::from(args.parallel),
        errors_max: args.errors_max,
    };
    let batches = Batches::new(source, &args.table, schema, usize::from(args.batch));
    let ended = load.run(batches).await;
    load.bar.clear();
    if let Err(error) = ended {
        return Err(load.give_up(error));
    }
    load.checkpoint.remove()?;
    load.report(&args, start.rows)
}

fn format(args: &LoadArgs) -> Result<Format, CliError> {
    let extension = args.file.extension().and_then(|extension| extension.to_str());
    match (args.format, extension.map(str::to_ascii_lowercase).as_deref()) {
        (Some(format), _) => Ok(format),
        (None, Some("csv")) => Ok(Format::Csv),
        (None, Some("jsonl" | "ndjson" | "json")) => Ok(Format::Jsonl),
        (None, _) => Err(CliError::usage(format!("{}: format not known", args.file.display()))
            .hint("say --format csv or --format jsonl")),
    }
}

fn open(file: &Path, format: Format, types: Types) -> Result<Box<dyn Source>, CliError> {
    let opened: Result<Box<dyn Source>, _> = match format {
        Format::Csv => Csv::open(file, types).map(|csv| Box::new(csv) as Box<dyn Source>),
        Format::Jsonl => JsonLines::open(file, types).map(|rows| Box::new(rows) as _),
    };
    opened.map_err(|error| CliError::from(error).context(file.display()))
}

/// What the table says of its columns counts where the command line says nothing.
fn types(given: &Types, schema: &Schema) -> Types {
    let mut types = given.clone();
    for column in &schema.key_columns {
        types.or_insert(column.name.as_str(), value_kind(column.kind));
    }
    for column in &schema.defined_columns {
        types.or_insert(column.name.as_str(), column.kind);
    }
    types
}

/// The table's schema; makes the table where that was asked for.
async fn schema(client: &TableStore, args: &LoadArgs, format: Format) -> Result<Schema, CliError> {
    match client.describe_table(&args.table).await {
        Ok(found) => return Ok(found.schema),
        Err(error) if error.kind() == Kind::NotFound && args.create => {}
        Err(error) if error.kind() == Kind::NotFound => {
            return Err(CliError::from(error)
                .hint("make it with `isthmus table create`, or give --create --key-columns"));
        }
        Err(error) => return Err(error.into()),
    }
    let list = args.key_columns.as_deref().unwrap_or_default();
    let key = key_of_file(list, args, format)?;
    client.create_table(plain_table(&args.table, key)).await?;
    Ok(client.describe_table(&args.table).await?.schema)
}

/// Key columns; a type that is not given is that of the first row's value.
fn key_of_file(list: &str, args: &LoadArgs, format: Format) -> Result<Vec<KeyColumn>, CliError> {
    let mut first = None;
    let mut items = Vec::new();
    for item in list.split(',').map(str::trim) {
        if item.contains(':') {
            items.push(item.to_owned());
            continue;
        }
        let row = match &first {
            Some(row) => row,
            None => {
                let row = open(&args.file, format, args.types.clone())?.next_row()?;
                first.insert(row.ok_or_else(|| CliError::usage("the file holds no row"))?)
            }
        };
        let cell = row.cells.iter().find(|(name, _)| name.as_str() == item).ok_or_else(|| {
            CliError::usage(format!("the first row has no value in key column {item:?}"))
        })?;
        items.push(format!("{item}:{}", name_of(cell.1.kind())));
    }
    key_columns(&items.join(",")).map_err(|error| {
        CliError::usage(format!("--key-columns: {error}"))
            .hint("state the type, like --key-columns id:string")
    })
}

/// A load on its way.
struct Load {
    sender: Sender,
    done: Done,
    bar: Bar,
    checkpoint: Checkpoint,
    began: Instant,
    errors: u64,
    parallel: usize,
    errors_max: u64,
}

impl Load {
    /// Sends all batches, so many at once, until the end or the first error.
    async fn run(&mut self, mut batches: Batches) -> Result<(), CliError> {
        let mut stop = StopSignals::new()?;
        let (give, mut take) = mpsc::channel::<Result<Batch, CliError>>(self.parallel);
        // Reading blocks, and ends when nobody takes its batches any more.
        tokio::task::spawn_blocking(move || {
            while let Some(batch) = batches.next_batch().transpose() {
                let failed = batch.is_err();
                if give.blocking_send(batch).is_err() || failed {
                    return;
                }
            }
        });
        let mut sending = JoinSet::<Result<Sent, CliError>>::new();
        let mut tick = tokio::time::interval(CHECKPOINT_EVERY);
        let mut reading = true;
        while reading || !sending.is_empty() {
            tokio::select! {
                batch = take.recv(), if reading && sending.len() < self.parallel => match batch {
                    Some(batch) => {
                        let batch = batch?;
                        self.done.start(batch.number, batch.end);
                        self.count(&batch.wrong)?;
                        sending.spawn(self.sender.clone().send(batch));
                    }
                    None => reading = false,
                },
                Some(sent) = sending.join_next() => {
                    let sent = sent.map_err(|error| CliError::failed(error.to_string()))??;
                    self.count(&sent.wrong)?;
                    self.done.end(sent.number, sent.rows);
                }
                _ = tick.tick() => self.checkpoint.write(self.done.place())?,
                () = stop.next() => return Err(CliError::new(Exit::Stopped, "stopped")),
            }
            let place = self.done.place();
            let seconds = self.began.elapsed().as_secs_f64().max(0.001);
            self.bar.set(place.bytes, place.rows, self.done.rows() as f64 / seconds);
        }
        Ok(())
    }

    /// Tells wrong rows and gives up where there are too many.
    fn count(&mut self, wrong: &[CliError]) -> Result<(), CliError> {
        for error in wrong {
            self.errors += 1;
            if self.errors > self.errors_max {
                return Err(CliError {
                    message: error.message.clone(),
                    hint: Some("--errors-max N passes over wrong rows".to_owned()),
                    code: error.code.clone(),
                    exit: error.exit,
                });
            }
            if self.errors <= TOLD_MAX {
                self.bar.note(&format!("passed over: {}", error.message));
            }
        }
        Ok(())
    }

    /// Keeps the place and says how to go on.
    fn give_up(&self, error: CliError) -> CliError {
        let place = self.done.place();
        let CliError { message, hint, code, exit } = error;
        let message = format!("{message}; {} rows of the file are loaded", place.rows);
        let mut error = CliError { message, hint, code, exit };
        let kept = if place.rows > 0 { self.checkpoint.write(place) } else { Ok(()) };
        match (kept, &error.hint) {
            (Err(failed), _) => error.message += &format!("; {}", failed.message),
            (Ok(()), None) => error.hint = Some("go on with the same command and --resume".into()),
            (Ok(()), Some(hint)) => {
                error.hint = Some(format!("{hint}; then go on with --resume"));
            }
        }
        error
    }

    fn report(&self, args: &LoadArgs, resumed_at: u64) -> Result<(), CliError> {
        let seconds = self.began.elapsed().as_secs_f64();
        let rows = self.done.rows();
        let rate = rows as f64 / seconds.max(0.001);
        if args.target.json {
            return output::json(&json!({
                "table": args.table,
                "file": args.file.display().to_string(),
                "rows": rows,
                "rows_passed_over": self.errors,
                "resumed_at_row": resumed_at,
                "seconds": seconds,
                "rows_per_second": rate,
            }));
        }
        let more = match (resumed_at, self.errors) {
            (0, 0) => String::new(),
            (0, wrong) => format!(", {wrong} passed over"),
            (at, wrong) => format!(", after {at} of an earlier run, {wrong} passed over"),
        };
        let table = &args.table;
        output::line(&format!(
            "loaded {rows} rows into {table} in {seconds:.1} s, {rate:.0} rows/s{more}"
        ))
    }
}
