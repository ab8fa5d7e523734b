//! `isthmus table`: make, list, describe, change and delete tables.

mod families;
mod rules;

use clap::{Args, Subcommand};
use isthmus_connectors::tablestore::ClientOptions;
use isthmus_model::schema::{DefinedColumn, KeyColumn, Schema};
use isthmus_model::value::Text;
use isthmus_protocol::client::DescribedTable;
use isthmus_protocol::request::{
    AddDefinedColumn, CreateTable, DeleteDefinedColumn, Operation, OptionsChange, ThroughputChange,
    UpdateTable,
};
use serde_json::{Value as Json, json};

use crate::error::CliError;
use crate::output;
use crate::schema::{defined_column, key_columns, key_text, schema_json};
use crate::target::TargetArgs;

/// Arguments of `isthmus table`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  isthmus table create notes --key id:string
  isthmus table create events --key user:string,number:integer:auto-increment \\
      --column price:double --max-versions 3 --time-to-live 604800
  isthmus table list
  isthmus table describe events
  isthmus table update events --max-versions 5
  isthmus table update events --add-column note:string --delete-column price
  isthmus table rules stock --column count=counter --column tags=set --default last-writer
  isthmus table families events meta --prefix m_ --time-to-live 604800
  isthmus table delete events")]
pub(crate) struct TableArgs {
    #[command(subcommand)]
    command: TableCommand,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Subcommand, Debug)]
enum TableCommand {
    /// Make a table
    Create(CreateArgs),
    /// Name all tables
    List,
    /// Show a table's columns and options
    Describe {
        /// The table
        name: String,
    },
    /// Change a table's options and defined columns
    Update {
        /// The table
        name: String,
        /// A defined column to add as NAME:TYPE; may be given again
        #[arg(long = "add-column", value_name = "COLUMN", value_parser = defined_column)]
        add: Vec<DefinedColumn>,
        /// A defined column to take away, whose cells stay; may be given again
        #[arg(long = "delete-column", value_name = "NAME")]
        delete: Vec<String>,
        #[command(flatten)]
        options: OptionArgs,
    },
    /// Show or set how conflicts between regions are decided
    Rules(rules::RulesArgs),
    /// Show, make or change column families
    Families(families::FamiliesArgs),
    /// Delete a table and all its rows
    Delete {
        /// The table
        name: String,
    },
}

#[derive(Args, Debug)]
struct CreateArgs {
    /// Letters, digits and _, a letter or _ first
    name: String,
    /// Key columns as NAME:TYPE, 1 to 4, like user:string,number:integer:auto-increment
    #[arg(long, value_name = "COLUMNS", value_parser = parse_key)]
    key: Key,
    /// A defined column as NAME:TYPE; may be given again
    #[arg(long = "column", value_name = "COLUMN", value_parser = defined_column)]
    columns: Vec<DefinedColumn>,
    #[command(flatten)]
    options: OptionArgs,
}

/// Key columns; a type of its own, because a list would mean "several arguments".
#[derive(Clone, Debug)]
struct Key(Vec<KeyColumn>);

fn parse_key(list: &str) -> Result<Key, String> {
    key_columns(list).map(Key)
}

#[derive(Args, Debug)]
struct OptionArgs {
    /// Versions kept per column [1 where a table is made]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    max_versions: Option<i32>,
    /// Seconds a cell lives, 86400 or more; -1: for ever [-1 where a table is made]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    time_to_live: Option<i32>,
    /// How far a cell's own timestamp may be from the server's time, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(1..))]
    deviation: Option<i64>,
    /// Whether rows may be updated, not only put
    #[arg(long, value_name = "BOOL")]
    allow_update: Option<bool>,
}

impl OptionArgs {
    fn change(&self) -> OptionsChange {
        OptionsChange {
            time_to_live: self.time_to_live,
            max_versions: self.max_versions,
            deviation_seconds: self.deviation,
            allow_update: self.allow_update,
        }
    }
}

/// What makes a table with these columns and nothing special.
pub(crate) fn plain_table(name: &str, key: Vec<KeyColumn>) -> CreateTable {
    CreateTable {
        table: Text::from(name),
        key_columns: key,
        defined_columns: Vec::new(),
        options: OptionsChange {
            time_to_live: Some(-1),
            max_versions: Some(1),
            ..OptionsChange::default()
        },
        reserved: ThroughputChange { read: Some(0), write: Some(0) },
        split_points: Vec::new(),
    }
}

/// Runs one of the commands.
pub(crate) async fn run(args: TableArgs) -> Result<(), CliError> {
    let place = args.target.place()?;
    let client = place.client(ClientOptions::default())?;
    let json = args.target.json;
    match args.command {
        TableCommand::Create(create) => {
            let mut request = plain_table(&create.name, create.key.0);
            request.defined_columns = create.columns;
            let options = create.options.change();
            request.options = OptionsChange {
                time_to_live: options.time_to_live.or(request.options.time_to_live),
                max_versions: options.max_versions.or(request.options.max_versions),
                ..options
            };
            let key = key_text(&request.key_columns);
            client.create_table(request).await?;
            done(json, &create.name, "created", &format!("table {} ({key})", create.name))
        }
        TableCommand::List => {
            let names = client.list_tables().await?;
            if json {
                return output::json(&json!({ "tables": names }));
            }
            names.iter().try_for_each(|name| output::line(&output::plain(name)))
        }
        TableCommand::Describe { name } => {
            let info = client.describe_table(&name).await?;
            if json { output::json(&info_json(&info)) } else { output::line(&info_text(&info)) }
        }
        TableCommand::Update { name, add, delete, options } => {
            let change = options.change();
            let has_options = change != OptionsChange::default();
            if !has_options && add.is_empty() && delete.is_empty() {
                return Err(CliError::usage("nothing to change is given").hint(
                    "give --max-versions, --time-to-live, --deviation, --allow-update, \
                     --add-column or --delete-column",
                ));
            }
            let table = Text::from(name.as_str());
            if has_options {
                let (reserved, options) = (None, Some(change));
                let request = UpdateTable { table: table.clone(), reserved, options };
                client.update_table(request).await?;
            }
            if !delete.is_empty() {
                let columns = delete.iter().map(|name| Text::from(name.as_str())).collect();
                let change = DeleteDefinedColumn { table: table.clone(), columns };
                client.change_defined_columns(Operation::DeleteDefinedColumn(change)).await?;
            }
            if !add.is_empty() {
                let change = AddDefinedColumn { table, columns: add };
                client.change_defined_columns(Operation::AddDefinedColumn(change)).await?;
            }
            done(json, &name, "updated", &format!("table {name}"))
        }
        TableCommand::Rules(args) => rules::run(args, &place, json).await,
        TableCommand::Families(args) => families::run(args, &place, json).await,
        TableCommand::Delete { name } => {
            client.delete_table(&name).await?;
            done(json, &name, "deleted", &format!("table {name}"))
        }
    }
}

fn done(json: bool, name: &str, word: &str, text: &str) -> Result<(), CliError> {
    if json {
        return output::json(&json!({ "table": name, "done": word }));
    }
    output::line(&format!("{word} {text}"))
}

fn info_json(info: &DescribedTable) -> Json {
    let mut json = schema_json(&info.schema);
    json["table"] = info.table.as_str().into();
    json["table_id"] = info.table_id.clone().into();
    json["global_table_id"] = info.global_table_id.clone().into();
    json
}

fn info_text(info: &DescribedTable) -> String {
    let Schema { key_columns, defined_columns, options, .. } = &info.schema;
    let time_to_live = match options.time_to_live_seconds {
        Some(seconds) => format!("{seconds} s"),
        None => "for ever".to_owned(),
    };
    let mut rows = vec![
        vec!["table".to_owned(), output::plain(&info.table)],
        vec!["key".to_owned(), key_text(key_columns)],
    ];
    for column in defined_columns {
        let kind = isthmus_connectors::types::name_of(column.kind);
        rows.push(vec!["column".to_owned(), format!("{}:{kind}", column.name)]);
    }
    rows.push(vec!["max versions".to_owned(), format!(" {}", options.max_versions)]);
    rows.push(vec!["time to live".to_owned(), time_to_live]);
    rows.push(vec!["deviation".to_owned(), format!("{} s", options.deviation_seconds)]);
    rows.push(vec!["update allowed".to_owned(), options.allow_update.to_string()]);
    if let Some(id) = &info.global_table_id {
        rows.push(vec!["global table".to_owned(), output::plain(id)]);
    }
    let lines: Vec<String> =
        rows.iter().map(|row| format!("{:<15} {}", row[0], row[1].trim())).collect();
    lines.join("\n")
}
