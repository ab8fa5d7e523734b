//! What a drill will do, from how regions and tables stand, before anything is done.

use std::collections::BTreeMap;

use isthmus_connectors::admin::AdminError;
use isthmus_server::status::Status;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{How, RegionLossArgs};
use crate::error::CliError;
use crate::output;
use crate::target::{Elsewhere, Place, TargetArgs};

/// Tables that are watched at once.
const TABLES_MAX: usize = 64;

/// How regions and tables stand with the quorum, as far as a drill needs it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Standing {
    pub(super) regions: Vec<RegionStanding>,
    pub(super) tables: Vec<TableStanding>,
}

impl Standing {
    /// Whether a region is suspended by a person's word, which nobody else takes back.
    pub(super) fn is_out_by_hand(&self, region: &str) -> bool {
        self.regions.iter().any(|one| one.region == region && one.by_hand)
    }
}

/// A region.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RegionStanding {
    pub(super) region: String,
    pub(super) suspended: bool,
    #[serde(default)]
    pub(super) by_hand: bool,
}

/// A table.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct TableStanding {
    pub(super) table: String,
    pub(super) epoch: u64,
    pub(super) writer: String,
    pub(super) replicas: Vec<String>,
    pub(super) automatic: bool,
    #[serde(default)]
    pub(super) held_by: u64,
    #[serde(default)]
    pub(super) claims_needed: usize,
    #[serde(default)]
    pub(super) vacant: Option<Vacancy>,
    #[serde(default)]
    pub(super) would_be_lost_entries: Option<u64>,
}

/// That nobody writes it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Vacancy {
    #[serde(default)]
    pub(super) claims: BTreeMap<String, Claim>,
}

/// How much a region has of it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Claim {
    pub(super) log_epoch: u64,
    pub(super) lsn: u64,
}

impl Vacancy {
    /// Who has most.
    pub(super) fn best(&self) -> Option<&str> {
        let reach = |(_, claim): &(&String, &Claim)| (claim.log_epoch, claim.lsn);
        self.claims.iter().max_by_key(reach).map(|(region, _)| region.as_str())
    }
}

/// What is going to be done.
pub(super) struct Plan {
    /// The region that is lost.
    pub(super) region: String,
    /// The tables that are watched.
    pub(super) tables: Vec<TableStanding>,
    /// Tables that the region writes besides.
    pub(super) others: Vec<TableStanding>,
    /// The region through which clients are played.
    pub(super) through: String,
    /// How.
    pub(super) how: How,
    /// The regions whose administration ports are known; that of the lost one last.
    pub(super) places: Vec<Place>,
    /// Public ports by region.
    pub(super) endpoints: BTreeMap<String, String>,
}

impl Plan {
    /// Looks how everything stands.
    pub(super) async fn make(
        args: &RegionLossArgs,
        region: Option<&str>,
        target: &TargetArgs,
    ) -> Result<Plan, CliError> {
        let asked = target.answering(&[]).await?;
        let admin = asked.admin_client()?;
        let status: Status = admin.get_json("/v1/status").await?;
        let standing: Standing = admin.get_json("/v1/failover").await.map_err(|error| {
            let hint = matches!(error, AdminError::Refused { .. });
            let error = CliError::from(error);
            if !hint {
                return error;
            }
            error.hint("a drill needs regions that fail over by a quorum: [quorum] in their files")
        })?;
        let mut places = target.places()?;
        for place in &mut places {
            if place.name.is_none() && places_is(&asked, place) {
                place.name = Some(status.region.clone());
            }
        }
        let endpoints = status
            .regions
            .iter()
            .map(|region| (region.name.clone(), region.endpoint.clone()))
            .collect();
        Plan::of(args, region, standing, places, endpoints)
    }

    fn of(
        args: &RegionLossArgs,
        region: Option<&str>,
        standing: Standing,
        mut places: Vec<Place>,
        endpoints: BTreeMap<String, String>,
    ) -> Result<Plan, CliError> {
        let (mut tables, mut writer) = (Vec::new(), region.map(str::to_owned));
        if args.table.len() > TABLES_MAX {
            return Err(CliError::usage(format!("more than {TABLES_MAX} tables are named")));
        }
        for name in &args.table {
            let shown = output::plain(name);
            let found = standing.tables.iter().find(|table| table.table == *name);
            let table = found.ok_or_else(|| {
                CliError::failed(format!("the quorum knows no table {shown}"))
                    .hint("only tables that one region writes fail over; `isthmus failover` tells")
            })?;
            if table.vacant.is_some() {
                return Err(CliError::failed(format!("nobody writes {shown} now"))
                    .hint("`isthmus failover` tells how it stands"));
            }
            if tables.iter().any(|other: &TableStanding| other.table == *name) {
                return Err(CliError::usage(format!("table {shown} is named twice")));
            }
            let region = writer.get_or_insert_with(|| table.writer.clone());
            if table.writer != *region {
                return Err(CliError::failed(format!(
                    "{shown} is written by region {}, not by {}",
                    output::plain(&table.writer),
                    output::plain(region)
                ))
                .hint("name tables that one region writes, or let it with `isthmus switchover`"));
            }
            tables.push(table.clone());
        }
        let region = writer.unwrap_or_default();
        let is_out = standing.regions.iter().find(|one| one.suspended);
        if let Some(out) = is_out {
            return Err(CliError::failed(format!(
                "region {} is suspended already",
                output::plain(&out.region)
            ))
            .hint("a drill begins when all regions are well"));
        }
        let holds = |name: &&String| {
            **name != region && tables.iter().all(|table| table.replicas.contains(name))
        };
        let through = match &args.through {
            Some(name) => Some(name).filter(holds),
            None => tables.first().and_then(|table| table.replicas.iter().find(holds)),
        };
        let through = through.cloned().ok_or_else(|| {
            CliError::failed("no other region holds all of these tables")
                .hint("--through names one that does")
        })?;
        let is_named = |table: &&TableStanding| args.table.contains(&table.table);
        let others = standing.tables.iter().filter(|table| table.writer == region);
        let others = others.filter(|table| !is_named(table)).cloned().collect();
        places.sort_by_key(|place| place.name.as_deref() == Some(region.as_str()));
        Ok(Plan { region, tables, others, through, how: args.how, places, endpoints })
    }

    /// Whether what would be touched may be.
    pub(super) fn check_allowed(&self, args: &RegionLossArgs) -> Result<(), CliError> {
        let region = output::plain(&self.region);
        let others = names(self.others.iter());
        if !others.is_empty() && !args.with_others {
            return Err(CliError::usage(format!("region {region} also writes {others}"))
                .hint("a region is lost whole; --with-others allows it"));
        }
        let all = self.tables.iter().chain(&self.others);
        let unsafe_ones = names(all.filter(|table| table.held_by == 0));
        if !unsafe_ones.is_empty() && !args.accept_loss {
            return Err(CliError::usage(format!(
                "writes of {unsafe_ones} are answered before other regions hold them, so some \
                 may be set aside"
            ))
            .hint(
                "let them be held first (`isthmus global-table mode`), or allow it with \
                   --accept-loss",
            ));
        }
        Ok(())
    }

    /// The public port of a region, with the key of those that were named.
    pub(super) fn public(&self, region: &str) -> Result<Place, CliError> {
        let own = self.places.first().filter(|place| !place.endpoint.is_empty());
        let endpoint = self.endpoints.get(region).cloned();
        let endpoint = endpoint.or_else(|| own.map(|place| place.endpoint.clone()));
        let (Some(place), Some(endpoint)) = (self.places.first(), endpoint) else {
            return Err(CliError::failed(format!(
                "the public port of region {} is not known",
                output::plain(region)
            )));
        };
        let (instance, key, security_token, sign_region) = (None, None, None, None);
        let there = Elsewhere { endpoint, instance, key, security_token, sign_region };
        Ok(place.elsewhere(there))
    }

    /// For programs.
    pub(super) fn json(&self) -> Json {
        let table = |table: &TableStanding| {
            json!({
                "table": table.table,
                "writer": table.writer,
                "replicas": table.replicas,
                "held_by": table.held_by,
                "automatic": table.automatic,
                "would_be_lost_entries": table.would_be_lost_entries,
            })
        };
        json!({
            "kind": "region-loss",
            "how": self.how.as_str(),
            "region": self.region,
            "through": self.through,
            "tables": self.tables.iter().map(table).collect::<Vec<_>>(),
            "others": self.others.iter().map(table).collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let row = |table: &TableStanding, watched: &str| {
            let held = match table.held_by {
                0 => "not held: some may be set aside".to_owned(),
                held => format!("held by {held} before they are answered"),
            };
            let next = if table.automatic { "the quorum" } else { "a person: the drill" };
            vec![
                output::plain(&table.table),
                watched.to_owned(),
                held,
                next.to_owned(),
                table.would_be_lost_entries.map_or_else(|| "-".to_owned(), |it| it.to_string()),
            ]
        };
        let mut rows: Vec<Vec<String>> =
            self.tables.iter().map(|table| row(table, "yes")).collect();
        rows.extend(self.others.iter().map(|table| row(table, "no, goes along")));
        let headings = ["TABLE", "WATCHED", "WRITES", "DECIDED BY", "LACKING ELSEWHERE NOW"];
        let (region, through) = (output::plain(&self.region), output::plain(&self.through));
        let (lose, back) = match self.how {
            How::Suspend => ("suspended by hand", "released"),
            How::KillCommand => ("killed by your command", "started again"),
        };
        format!(
            "Region {region} will be {lose} while rows are written and read through {through}; \
             when another region writes it is {back},\nand its replicas are compared. Nothing was \
             done yet.\n\n{}",
            output::table_text(&headings, &rows)
        )
    }
}

fn names<'a>(tables: impl Iterator<Item = &'a TableStanding>) -> String {
    let names: Vec<String> = tables.map(|table| output::plain(&table.table)).collect();
    names.join(", ")
}

/// Whether it is the place that was asked.
fn places_is(asked: &Place, place: &Place) -> bool {
    asked.admin == place.admin && asked.endpoint == place.endpoint
}

#[cfg(test)]
mod tests {
    use super::super::tests::args;
    use super::*;

    fn standing(tables: Json) -> Standing {
        let regions = json!([{ "region": "r1", "suspended": false }]);
        Standing::deserialize(json!({ "regions": regions, "tables": tables })).unwrap()
    }

    fn table(name: &str, writer: &str, held_by: u64) -> Json {
        json!({ "table": name, "epoch": 1, "writer": writer, "replicas": ["r1", "r2", "r3"],
                "automatic": held_by > 0, "held_by": held_by, "vacant": null })
    }

    fn plan(words: &[&str], tables: Json) -> Result<Plan, CliError> {
        let places = vec![Place::for_tests("r1"), Place::for_tests("r2")];
        Plan::of(&args(words), None, standing(tables), places, BTreeMap::new())
    }

    #[test]
    fn the_writer_is_lost_and_another_region_is_asked() {
        let plan = plan(&["--table", "t"], json!([table("t", "r1", 1), table("u", "r2", 1)]));
        let plan = plan.unwrap();
        assert_eq!((plan.region.as_str(), plan.through.as_str()), ("r1", "r2"));
        assert_eq!(plan.places[0].name.as_deref(), Some("r2"));
        assert!(plan.others.is_empty() && plan.check_allowed(&args(&["--table", "t"])).is_ok());
        assert!(plan.text().contains("held by 1 before they are answered"));
        assert_eq!(plan.json()["tables"][0]["table"], "t");
    }

    #[test]
    fn what_would_go_along_or_be_lost_must_be_allowed() {
        let tables = || json!([table("t", "r1", 1), table("u", "r1", 0)]);
        let refused = |words: &[&str]| {
            let plan = plan(words, tables()).unwrap();
            plan.check_allowed(&args(words)).err().map(|error| error.message)
        };
        assert!(refused(&["--table", "t"]).unwrap().contains("also writes u"));
        let words = ["--table", "t", "--with-others"];
        assert!(refused(&words).unwrap().contains("writes of u are answered before"));
        assert_eq!(refused(&[&words[..], &["--accept-loss"]].concat()), None);
    }

    #[test]
    fn what_cannot_be_drilled_is_told_beforehand() {
        let error = |words: &[&str], tables| plan(words, tables).err().unwrap().message;
        let two = json!([table("t", "r1", 1), table("u", "r2", 1)]);
        assert!(error(&["--table", "x"], two.clone()).contains("knows no table x"));
        let both = ["--table", "t", "--table", "u"];
        assert!(error(&both, two.clone()).contains("u is written by region r2"));
        let places = vec![Place::for_tests("r1")];
        let named = Plan::of(
            &args(&["--table", "t"]),
            Some("r2"),
            standing(two.clone()),
            places,
            BTreeMap::new(),
        );
        assert!(named.err().unwrap().message.contains("not by r2"));
        assert!(error(&["--table", "t", "--through", "r1"], two).contains("no other region"));
    }

    #[test]
    fn of_claims_the_one_that_reaches_furthest_is_best() {
        let claim = |log_epoch, lsn| Claim { log_epoch, lsn };
        let claims = [("a", claim(1, 9)), ("b", claim(2, 3)), ("c", claim(2, 2))];
        let claims = claims.map(|(name, claim)| (name.to_owned(), claim)).into();
        assert_eq!(Vacancy { claims }.best(), Some("b"));
        assert_eq!(Vacancy { claims: BTreeMap::new() }.best(), None);
    }
}
