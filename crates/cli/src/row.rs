//! `isthmus row`: read and write single rows and ranges.
//!
//! What must hold: keys are checked against the table's schema before anything is sent; a write
//! whose outcome is not known is never sent again by itself.

mod batch;
mod settle;

use clap::{Args, Subcommand, ValueEnum};
use isthmus_connectors::tablestore::{ClientOptions, TableStore};
use isthmus_model::change::{
    CellChange, CellWrite, Condition, Direction, Existence, KeyPart, NamedKeyPart, Projection,
    Returned, RowAction, RowChange,
};
use isthmus_model::ids::Timestamp;
use isthmus_model::schema::Schema;
use isthmus_model::value::{Text, Value};
use isthmus_protocol::plainbuffer::NamedRow;
use isthmus_protocol::request::{GetRange, GetRow, Operation, WriteRow};
use serde_json::json;

use crate::cells::{self, bound, key, key_json, row_json, row_line};
use crate::error::{CliError, Exit};
use crate::output;
use crate::target::TargetArgs;

/// Arguments of `isthmus row`.
#[derive(Args, Debug)]
#[command(after_help = "\
Keys and cells are JSON objects; bytes are {\"binary\":\"BASE64\"}.

Examples:
  isthmus row put notes '{\"id\":\"a\"}' '{\"text\":\"hello\",\"stars\":5,\"price\":1.5}'
  isthmus row put notes '{\"id\":\"a\"}' '{\"text\":\"new\"}' --if not-exists
  isthmus row get notes '{\"id\":\"a\"}' --region r2
  isthmus row update notes '{\"id\":\"a\"}' --put '{\"text\":\"bye\"}' --increment stars=1 \\
      --delete price
  isthmus row delete notes '{\"id\":\"a\"}'
  isthmus row range notes --start '{\"id\":\"a\"}' --end '{\"id\":\"m\"}' --limit 20
  isthmus row range events --prefix '{\"user\":\"ada\"}' --backward
  isthmus row range notes --as-of safe --limit 0
  isthmus row batch '{\"table\":\"cash\",\"key\":{\"id\":\"a\"},\"increment\":{\"n\":-5}}' \\
      '{\"table\":\"bank\",\"key\":{\"id\":\"b\"},\"increment\":{\"n\":5},\"if\":\"exists\"}'

  isthmus row settle
  isthmus row settle 770/1.1764547200000/3 --given-up --why \"r1 burnt\" --yes

`batch` writes all of its rows or none, whatever partitions, tables and regions they are in.
`settle` shows those of which it is not known whether they are made, and settles one by hand.

`get` and `range` print keys and newest values as one object per row; with --json every version
with its timestamp: {\"key\":{...},\"cells\":[{\"name\":...,\"value\":...,\"timestamp\":...}]}.
A row that does not exist is printed as null, with exit code 0.

With --as-of safe all that is read shows one moment: everything written before it in every region
and nothing else. The moment is told on standard error, and --as-of MOMENT reads as of it again,
in any region, for about two minutes (memory allowing). For several tables or regions ask each for
safe first, then read all as of the latest moment told.")]
pub(crate) struct RowArgs {
    #[command(subcommand)]
    command: RowCommand,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Subcommand, Debug)]
enum RowCommand {
    /// Read a row
    Get(GetArgs),
    /// Write a row, in place of what was there
    Put(PutArgs),
    /// Change some cells of a row
    Update(UpdateArgs),
    /// Delete a row
    Delete(DeleteArgs),
    /// Read rows in the order of their keys
    Range(RangeArgs),
    /// Write rows of several tables and partitions: all of them, or none
    Batch(batch::BatchArgs),
    /// Show batches in doubt, and settle one by hand when the region that decides it is lost
    Settle(settle::SettleArgs),
}

#[derive(Args, Debug)]
struct ShowArgs {
    /// These columns only
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    columns: Vec<String>,
    /// Versions per column
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..))]
    max_versions: u32,
    /// Read as of one moment: `safe`, the newest that is complete here, or one told before
    #[arg(long, value_name = "MOMENT")]
    as_of: Option<String>,
}

impl ShowArgs {
    /// The client for what is to be shown.
    fn reader(&self, client: &TableStore) -> TableStore {
        match &self.as_of {
            Some(as_of) => client.reading_as_of(as_of),
            None => client.clone(),
        }
    }

    fn projection(&self) -> Projection {
        Projection {
            columns: self.columns.iter().map(|name| Text::from(name.as_str())).collect(),
            max_versions: Some(self.max_versions),
            ..Projection::default()
        }
    }
}

#[derive(Args, Debug)]
struct GetArgs {
    /// The table
    table: String,
    /// The key, a JSON object
    key: String,
    #[command(flatten)]
    show: ShowArgs,
}

/// Whether the row must exist.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum If {
    /// Write whether or not there is a row
    Any,
    /// Write only where there is one
    Exists,
    /// Write only where there is none
    NotExists,
}

impl If {
    fn condition(self) -> Condition {
        let existence = match self {
            If::Any => Existence::Ignore,
            If::Exists => Existence::MustExist,
            If::NotExists => Existence::MustNotExist,
        };
        Condition { existence, columns: None }
    }
}

#[derive(Args, Debug)]
struct PutArgs {
    /// The table
    table: String,
    /// The key, a JSON object; a column that the server numbers is left out
    key: String,
    /// The cells, a JSON object
    #[arg(default_value = "{}")]
    cells: String,
    /// Version of the cells, in milliseconds [default: the server's time]
    #[arg(long, value_name = "MILLISECONDS")]
    timestamp: Option<i64>,
    /// Condition
    #[arg(long = "if", value_name = "CONDITION", default_value = "any")]
    condition: If,
}

#[derive(Args, Debug)]
struct UpdateArgs {
    /// The table
    table: String,
    /// The key, a JSON object
    key: String,
    /// Cells to write, a JSON object
    #[arg(long, value_name = "CELLS")]
    put: Option<String>,
    /// Columns to delete, all versions
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    delete: Vec<String>,
    /// One version to delete, as NAME=MILLISECONDS; may be given again
    #[arg(long, value_name = "VERSION", value_parser = named_number)]
    delete_version: Vec<(String, i64)>,
    /// An integer to add to, as NAME=N; may be given again
    #[arg(long, value_name = "ADDITION", value_parser = named_number,
        allow_hyphen_values = true)]
    increment: Vec<(String, i64)>,
    /// Version of the cells to write, in milliseconds [default: the server's time]
    #[arg(long, value_name = "MILLISECONDS")]
    timestamp: Option<i64>,
    /// Condition
    #[arg(long = "if", value_name = "CONDITION", default_value = "any")]
    condition: If,
}

fn named_number(text: &str) -> Result<(String, i64), String> {
    let wrong = || format!("{text:?} is not like NAME=NUMBER");
    let (name, number) = text.split_once('=').ok_or_else(wrong)?;
    Ok((name.to_owned(), number.parse().map_err(|_| wrong())?))
}

#[derive(Args, Debug)]
struct DeleteArgs {
    /// The table
    table: String,
    /// The key, a JSON object
    key: String,
    /// Condition
    #[arg(long = "if", value_name = "CONDITION", default_value = "any")]
    condition: If,
}

#[derive(Args, Debug)]
struct RangeArgs {
    /// The table
    table: String,
    /// First key, inclusive; the first columns of it will do
    #[arg(long, value_name = "KEY")]
    start: Option<String>,
    /// End, exclusive; the first columns of it will do
    #[arg(long, value_name = "KEY")]
    end: Option<String>,
    /// All rows whose keys begin with these columns
    #[arg(long, value_name = "KEY", conflicts_with_all = ["start", "end"])]
    prefix: Option<String>,
    /// From the greatest key down
    #[arg(long)]
    backward: bool,
    /// Rows to print; 0: all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
    #[command(flatten)]
    show: ShowArgs,
}

/// Runs one of the commands.
pub(crate) async fn run(args: RowArgs) -> Result<(), CliError> {
    if let RowCommand::Settle(asked) = args.command {
        return settle::run(asked, &args.target).await;
    }
    let client = args.target.place()?.client(ClientOptions::default())?;
    let json = args.target.json;
    match args.command {
        RowCommand::Get(args) => get(&client, args, json).await,
        RowCommand::Put(args) => put(&client, args, json).await,
        RowCommand::Update(args) => update(&client, args, json).await,
        RowCommand::Delete(args) => {
            let schema = schema_of(&client, &args.table).await?;
            let change = RowChange {
                key: key(&schema, &args.key, false)?,
                action: RowAction::Delete,
                condition: args.condition.condition(),
                returned: Returned::Nothing,
            };
            let table = Text::from(args.table.as_str());
            client.write_row(Operation::DeleteRow(WriteRow { table, change })).await?;
            done(json, "deleted", None)
        }
        RowCommand::Range(args) => range(&client, args, json).await,
        RowCommand::Batch(args) => batch::run(&client, args, json).await,
        // Done above, by the administration port.
        RowCommand::Settle(_) => Ok(()),
    }
}

async fn schema_of(client: &TableStore, table: &str) -> Result<Schema, CliError> {
    Ok(client.describe_table(table).await?.schema)
}

fn done(json: bool, word: &str, row: Option<&NamedRow>) -> Result<(), CliError> {
    if json {
        return output::json(&json!({ "done": word, "row": row.map(row_json) }));
    }
    match row {
        Some(row) => output::line(&format!("{word} {}", key_json(row))),
        None => output::line(word),
    }
}

fn print(json: bool, row: &NamedRow) -> Result<(), CliError> {
    output::json(&if json { row_json(row) } else { row_line(row) })
}

async fn get(client: &TableStore, args: GetArgs, json: bool) -> Result<(), CliError> {
    let schema = schema_of(client, &args.table).await?;
    let request = GetRow {
        table: Text::from(args.table.as_str()),
        key: key(&schema, &args.key, false)?,
        projection: args.show.projection(),
        token: None,
    };
    let reader = args.show.reader(client);
    match reader.get_row(request).await? {
        Some(row) => print(json, &row),
        None => output::line("null"),
    }?;
    tell_as_of(&reader);
    Ok(())
}

fn tell_as_of(reader: &TableStore) {
    if let Some(as_of) = reader.settled_as_of() {
        eprintln!("as of {}", output::plain(as_of));
    }
}

async fn put(client: &TableStore, args: PutArgs, json: bool) -> Result<(), CliError> {
    let schema = schema_of(client, &args.table).await?;
    let key = key(&schema, &args.key, true)?;
    let numbered = key.iter().any(|part| part.part == KeyPart::AutoIncrement);
    let change = RowChange {
        key,
        action: RowAction::Put(cells::cells(&schema, &args.cells, args.timestamp)?),
        condition: args.condition.condition(),
        returned: if numbered { Returned::Key } else { Returned::Nothing },
    };
    let table = Text::from(args.table.as_str());
    let row = client.write_row(Operation::PutRow(WriteRow { table, change })).await?;
    done(json, "put", row.as_ref())
}

async fn update(client: &TableStore, args: UpdateArgs, json: bool) -> Result<(), CliError> {
    let schema = schema_of(client, &args.table).await?;
    let changes = changes(&schema, &args)?;
    if changes.is_empty() {
        return Err(CliError::usage("nothing to change is given")
            .hint("give --put, --delete, --delete-version or --increment"));
    }
    let incremented: Vec<Text> =
        args.increment.iter().map(|(name, _)| Text::from(name.as_str())).collect();
    let change = RowChange {
        key: key(&schema, &args.key, false)?,
        action: RowAction::Update(changes),
        condition: args.condition.condition(),
        returned: match incremented.is_empty() {
            true => Returned::Nothing,
            false => Returned::AfterModify(incremented),
        },
    };
    let table = Text::from(args.table.as_str());
    let row = client.write_row(Operation::UpdateRow(WriteRow { table, change })).await?;
    match row {
        Some(row) if !json => output::line(&format!("updated {}", row_line(&row))),
        row => done(json, "updated", row.as_ref()),
    }
}

fn changes(schema: &Schema, args: &UpdateArgs) -> Result<Vec<CellChange>, CliError> {
    let text = |name: &str| Text::from(name);
    let mut changes = Vec::new();
    if let Some(put) = &args.put {
        let puts = cells::cells(schema, put, args.timestamp)?;
        changes.extend(puts.into_iter().map(CellChange::Put));
    }
    changes.extend(args.delete.iter().map(|name| CellChange::DeleteColumn { name: text(name) }));
    changes.extend(args.delete_version.iter().map(|(name, timestamp)| CellChange::DeleteVersion {
        name: text(name),
        timestamp: Timestamp(*timestamp),
    }));
    changes.extend(
        args.increment
            .iter()
            .map(|(name, delta)| CellChange::Increment { name: text(name), delta: *delta }),
    );
    Ok(changes)
}

async fn range(client: &TableStore, args: RangeArgs, json: bool) -> Result<(), CliError> {
    let schema = schema_of(client, &args.table).await?;
    let (start, end) = ends(&schema, &args)?;
    let limit = u32::try_from(args.limit).unwrap_or(u32::MAX);
    let reader = args.show.reader(client);
    let mut pages = reader.range(GetRange {
        table: Text::from(args.table.as_str()),
        start,
        end,
        direction: if args.backward { Direction::Backward } else { Direction::Forward },
        limit: (limit > 0).then_some(limit),
        projection: args.show.projection(),
        token: None,
    });
    while let Some(rows) = pages.next_page().await? {
        for row in &rows {
            print(json, row)?;
        }
    }
    tell_as_of(&reader);
    if !pages.is_at_end() && !json {
        eprintln!("there may be more; --limit 0 prints all rows");
    }
    Ok(())
}

type Ends = (Vec<NamedKeyPart>, Vec<NamedKeyPart>);

/// What is not given of an end is filled up so that the start is in and the end is out.
fn ends(schema: &Schema, args: &RangeArgs) -> Result<Ends, CliError> {
    let (low, high) = match args.backward {
        false => (KeyPart::Min, KeyPart::Max),
        true => (KeyPart::Max, KeyPart::Min),
    };
    if let Some(prefix) = &args.prefix {
        return Ok((bound(schema, Some(prefix), low)?, bound(schema, Some(prefix), high)?));
    }
    let start = bound(schema, args.start.as_deref(), low.clone())?;
    let rest = if args.end.is_some() { low } else { high };
    Ok((start, bound(schema, args.end.as_deref(), rest)?))
}

/// A put of these cells, whatever is there.
pub(crate) fn plain_put(key: Vec<NamedKeyPart>, cells: Vec<(Text, Value)>) -> RowChange {
    let write = |(name, value)| CellWrite { name, value, timestamp: None };
    RowChange {
        key,
        action: RowAction::Put(cells.into_iter().map(write).collect()),
        condition: Condition::default(),
        returned: Returned::Nothing,
    }
}

/// The error of a row that a batch did not write.
pub(crate) fn row_error(what: &str, code: &str, message: &str) -> CliError {
    CliError {
        message: format!("{what}: {code}: {}", output::plain(message)),
        hint: None,
        code: Some(code.to_owned()),
        exit: Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::key::KeyValue;

    use super::*;

    fn schema() -> Schema {
        Schema {
            number: isthmus_model::ids::SchemaNumber(1),
            key_columns: crate::schema::key_columns("a:string,b:integer").unwrap(),
            defined_columns: Vec::new(),
            options: isthmus_model::schema::TableOptions::default(),
        }
    }

    fn args(start: Option<&str>, end: Option<&str>, backward: bool) -> RangeArgs {
        RangeArgs {
            table: "t".into(),
            start: start.map(str::to_owned),
            end: end.map(str::to_owned),
            prefix: None,
            backward,
            limit: 0,
            show: ShowArgs { columns: Vec::new(), max_versions: 1, as_of: None },
        }
    }

    fn parts(parts: Vec<NamedKeyPart>) -> Vec<KeyPart> {
        parts.into_iter().map(|part| part.part).collect()
    }

    #[test]
    fn the_start_is_in_and_the_end_is_out_both_ways() {
        let value = |text: &str| KeyPart::Value(KeyValue::String(text.into()));
        let (a, m) = (Some(r#"{"a":"a"}"#), Some(r#"{"a":"m"}"#));
        let (start, end) = ends(&schema(), &args(a, m, false)).unwrap();
        assert_eq!(parts(start), [value("a"), KeyPart::Min]);
        assert_eq!(parts(end), [value("m"), KeyPart::Min]);
        let (start, end) = ends(&schema(), &args(m, a, true)).unwrap();
        assert_eq!(parts(start), [value("m"), KeyPart::Max]);
        assert_eq!(parts(end), [value("a"), KeyPart::Max]);
        let (start, end) = ends(&schema(), &args(None, None, true)).unwrap();
        assert_eq!(parts(start), [KeyPart::Max, KeyPart::Max]);
        assert_eq!(parts(end), [KeyPart::Min, KeyPart::Min]);
    }

    #[test]
    fn additions_are_names_and_numbers() {
        assert_eq!(named_number("stars=-2"), Ok(("stars".to_owned(), -2)));
        assert!(named_number("stars").is_err());
        assert!(named_number("stars=x").is_err());
    }
}
