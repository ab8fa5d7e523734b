//! `isthmus distribute`: divides a table into partitions that regions share.
//!
//! What must hold: it is asked of the region that is to keep the table's record; what is wrong
//! makes nothing anywhere.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use isthmus_control::distribution::wish::Wish;
use isthmus_control::distribution::{By, Only, Place, Rule};
use isthmus_model::key::KeyKind;
use isthmus_model::schema::KeyColumn;
use serde_json::{Value as Json, json};

use crate::error::CliError;
use crate::output;
use crate::schema::key_columns;
use crate::target::TargetArgs;

/// Longer than a region waits for partitions to be made.
const PATIENCE: Duration = Duration::from_secs(40);

/// Arguments of `isthmus distribute`.
#[derive(Args, Debug)]
#[command(after_help = "\
The table is empty, or is made with --key. Its rows are divided by the first key column: by a hash
of it, or by split points of it. Each partition is in --replicas regions, one of which writes it;
any region serves any key. Without --regions all regions share it. A rule keeps keys that begin
with PREFIX in the regions that it names, or in those that have a label in their configuration.

Examples:
  isthmus distribute events --key user:string --by hash --partitions 12 --replicas 2
  isthmus distribute events --by hash --partitions 24 --replicas 2 --regions r1,r2,r3 --weight r1=2
  isthmus distribute users --key id:string --by range --split-points g,n,t --replicas 2 \\
      --keep de-=country=de --keep us-=r3,r4
  isthmus distribution show events")]
pub(crate) struct DistributeArgs {
    /// The table
    name: String,
    /// Key columns of a table that does not exist yet, as NAME:TYPE, like user:string,n:integer
    #[arg(long, value_name = "COLUMNS", value_parser = parse_key)]
    key: Option<Key>,
    /// Versions kept per column, of a table that does not exist yet [default: 1]
    #[arg(long, value_name = "N", requires = "key",
        value_parser = clap::value_parser!(i32).range(1..))]
    max_versions: Option<i32>,
    /// How rows are divided
    #[arg(long, value_name = "HOW")]
    by: ByWord,
    /// Into how many partitions, by hash: 1 to 256
    #[arg(long, value_name = "COUNT")]
    partitions: Option<usize>,
    /// Where the table is divided, by range: values of the first key column
    #[arg(long, value_name = "VALUES", value_delimiter = ',')]
    split_points: Vec<String>,
    /// In how many regions each partition is
    #[arg(long, value_name = "COUNT", default_value_t = 2)]
    replicas: usize,
    /// The regions that share it [default: all]
    #[arg(long, value_name = "REGIONS", value_delimiter = ',')]
    regions: Vec<String>,
    /// How regions are chosen
    #[arg(long, value_name = "HOW", default_value = "balanced")]
    place: PlaceWord,
    /// How much a region holds beside the others, as REGION=WEIGHT; may be given again
    #[arg(long = "weight", value_name = "WEIGHT", value_parser = weight)]
    weights: Vec<(String, u32)>,
    /// Where keys with a prefix are, as PREFIX=REGIONS or PREFIX=LABEL=VALUE; may be given again
    #[arg(long, value_name = "RULE", value_parser = rule)]
    keep: Vec<Rule>,
    /// The chance by which equal regions are chosen [default: any]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// How many partitions move at once [default: 1]
    #[arg(long, value_name = "COUNT")]
    moves_at_once: Option<u32>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// Key columns; a type of its own, because a list would mean "several arguments".
#[derive(Clone, Debug)]
struct Key(Vec<KeyColumn>);

fn parse_key(list: &str) -> Result<Key, String> {
    key_columns(list).map(Key)
}

/// How rows are divided.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ByWord {
    /// By a hash of the first key column
    Hash,
    /// By the first key column, at split points
    Range,
}

/// How regions are chosen.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum PlaceWord {
    /// As many as their weights say, to one
    Balanced,
    /// By chance, by weight
    Random,
}

/// Reads a weight like `r1=2`.
pub(crate) fn weight(text: &str) -> Result<(String, u32), String> {
    let wrong = || format!("{text:?} is not like REGION=WEIGHT, with a weight of 0 to 100");
    let (region, weight) = text.split_once('=').ok_or_else(wrong)?;
    Ok((region.to_owned(), weight.parse().map_err(|_| wrong())?))
}

/// Reads a rule like `de-=r1,r2` or `de-=country=de`.
fn rule(text: &str) -> Result<Rule, String> {
    let wrong = || format!("{text:?} is not like PREFIX=REGIONS or PREFIX=LABEL=VALUE");
    let (prefix, only) = text.split_once('=').ok_or_else(wrong)?;
    if prefix.is_empty() || only.is_empty() {
        return Err(wrong());
    }
    let only = match only.split_once('=') {
        Some((label, value)) => Only::Label(label.to_owned(), value.to_owned()),
        None => Only::Regions(only.split(',').map(str::to_owned).collect()),
    };
    Ok(Rule { prefix: prefix.to_owned(), only })
}

impl DistributeArgs {
    fn wish(&self) -> Wish {
        Wish {
            by: match self.by {
                ByWord::Hash => By::Hash,
                ByWord::Range => By::Range,
            },
            partitions: self.partitions,
            replicas: self.replicas,
            regions: self.regions.clone(),
            place: match self.place {
                PlaceWord::Balanced => Place::Balanced,
                PlaceWord::Random => Place::Random,
            },
            weights: self.weights.iter().cloned().collect::<BTreeMap<_, _>>(),
            keep: self.keep.clone(),
            split_points: self.split_points.clone(),
            seed: self.seed,
            moves_at_once: self.moves_at_once,
        }
    }
}

fn column_json(column: &KeyColumn) -> Json {
    let kind = match column.kind {
        KeyKind::Integer => "integer",
        KeyKind::String => "string",
        KeyKind::Binary => "binary",
    };
    json!({
        "name": column.name.as_str(),
        "type": kind,
        "auto_increment": column.auto_increment,
    })
}

/// Distributes a table.
pub(crate) async fn run(args: DistributeArgs) -> Result<(), CliError> {
    let schema = args.key.as_ref().map(|Key(columns)| {
        json!({
            "key": columns.iter().map(column_json).collect::<Vec<_>>(),
            "max_versions": args.max_versions,
        })
    });
    let asked = json!({ "name": args.name, "schema": schema, "wish": args.wish() });
    let admin = args.target.place()?.admin_client_within(PATIENCE)?;
    let made: Json = admin.post_json("/v1/distributions", &asked).await?;
    if args.target.json {
        return output::json(&made);
    }
    let is_ready = made["state"] == "active";
    output::line(&format!(
        "{} is divided into {} partitions, each in {} regions{}",
        output::plain(&args.name),
        made["partitions"],
        made["replicas"],
        if is_ready { "" } else { "; they are being made, `isthmus distribution show` tells" },
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DistributeArgs,
    }

    fn parse(words: &[&str]) -> Result<DistributeArgs, String> {
        let line = Line::try_parse_from([&["d", "t"], words].concat());
        line.map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn wishes_are_read() {
        let words = [
            "--by",
            "range",
            "--split-points",
            "g,n",
            "--weight",
            "r1=2",
            "--keep",
            "de-=r1,r2",
            "--keep",
            "us=country=us",
        ];
        let wish = parse(&words).unwrap().wish();
        assert_eq!((wish.by, wish.replicas, wish.split_points.len()), (By::Range, 2, 2));
        assert_eq!(wish.weights["r1"], 2);
        assert_eq!(wish.keep[0].only, Only::Regions(vec!["r1".into(), "r2".into()]));
        assert_eq!(wish.keep[1].only, Only::Label("country".into(), "us".into()));
    }

    #[test]
    fn wrong_ones_are_refused() {
        assert!(parse(&[]).is_err(), "how is to be said");
        for wrong in ["r1", "r1=", "r1=x", "r1=-1"] {
            assert!(parse(&["--by", "hash", "--weight", wrong]).is_err(), "{wrong}");
        }
        for wrong in ["de", "=r1", "de="] {
            assert!(parse(&["--by", "range", "--keep", wrong]).is_err(), "{wrong}");
        }
        assert!(parse(&["--by", "hash", "--max-versions", "3"]).is_err(), "only with --key");
    }
}
