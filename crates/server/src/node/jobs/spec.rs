//! What a job is to do, as the administration API takes it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::api_error::ApiError;

/// Rows listed in a report at most.
const ROWS_MAX: u64 = 100_000;
/// Rows listed where nothing else is asked for.
const ROWS_DEFAULT: u64 = 10_000;
/// Seconds to wait for a region that is behind, at most.
const WAIT_SECONDS_MAX: u64 = 3600;
/// MiB read each second where nothing else is asked for.
const MIB_DEFAULT: u64 = 32;
const MIB_MAX: u64 = 100_000;
/// Regions compared at once.
const REGIONS_MAX: usize = 10;

/// What a job is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Spec {
    /// Compare replicas.
    Verify(VerifySpec),
    /// Make replicas alike.
    Repair(RepairSpec),
    /// Read rows from the disk.
    Scrub(ScrubSpec),
}

/// Compare replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifySpec {
    /// Table.
    pub table: String,
    /// Regions; each is compared with the first.
    pub regions: Vec<String>,
    /// Read the rows from the disk first.
    #[serde(default)]
    pub deep: bool,
    /// Rows listed in the report.
    #[serde(default)]
    pub rows_max: Option<u64>,
    /// How long to wait for a region that is behind.
    #[serde(default)]
    pub wait_seconds: Option<u64>,
    /// With `deep`: MiB read each second.
    #[serde(default)]
    pub mib_per_second: Option<u64>,
    /// A key to begin at.
    #[serde(default)]
    pub resume: Option<Json>,
}

/// Make one replica like another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairSpec {
    /// Table.
    pub table: String,
    /// The region whose rows are right.
    pub from: String,
    /// The region that is repaired.
    pub to: String,
    /// One way or both.
    #[serde(default)]
    pub mode: RepairMode,
    /// Change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Rows written each second at most.
    #[serde(default)]
    pub rows_per_second: Option<u64>,
    /// Rows listed in the report.
    #[serde(default)]
    pub rows_max: Option<u64>,
}

/// How two replicas are made alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RepairMode {
    /// The target shows what the source shows.
    #[default]
    OneWay,
    /// Both show what either has.
    Merge,
}

/// Read rows from the disk and hold them against the digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubSpec {
    /// Table; all of them where it is absent.
    #[serde(default)]
    pub table: Option<String>,
    /// Region; this one where it is absent.
    #[serde(default)]
    pub region: Option<String>,
    /// MiB read each second.
    #[serde(default)]
    pub mib_per_second: Option<u64>,
    /// Mend what is found from a healthy replica.
    #[serde(default)]
    pub repair: bool,
}

impl Spec {
    /// Reads a request: the members beside `kind`, or those of a member `spec`.
    pub fn of_json(body: &[u8]) -> Result<Spec, ApiError> {
        let json: Json = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid(format!("The body is no JSON: {error}.")))?;
        let Json::Object(mut members) = json else {
            return Err(ApiError::invalid("The body is no JSON object."));
        };
        let Some(Json::String(kind)) = members.remove("kind") else {
            return Err(ApiError::invalid("kind is missing: verify, repair or scrub."));
        };
        if let Some(Json::Object(inner)) = members.remove("spec") {
            members.extend(inner);
        }
        let spec = match kind.as_str() {
            "verify" => Spec::Verify(of_members(members)?),
            "repair" => Spec::Repair(of_members(members)?),
            "scrub" => Spec::Scrub(of_members(members)?),
            _ => {
                let message = format!("There is no kind {kind:?} of job: verify, repair, scrub.");
                return Err(ApiError::invalid(message));
            }
        };
        spec.check_ranges()?;
        Ok(spec)
    }

    fn check_ranges(&self) -> Result<(), ApiError> {
        let check = |name: &str, value: Option<u64>, least: u64, most: u64| match value {
            Some(value) if value < least || value > most => Err(ApiError::invalid(format!(
                "{name} is {value}, it must be in {least} to {most}."
            ))),
            Some(_) | None => Ok(()),
        };
        match self {
            Spec::Verify(spec) => {
                check("rows_max", spec.rows_max, 0, ROWS_MAX)?;
                check("wait_seconds", spec.wait_seconds, 0, WAIT_SECONDS_MAX)?;
                check("mib_per_second", spec.mib_per_second, 1, MIB_MAX)?;
                check_regions(&spec.regions)
            }
            Spec::Repair(spec) => {
                check("rows_max", spec.rows_max, 0, ROWS_MAX)?;
                check("rows_per_second", spec.rows_per_second, 1, 1_000_000)?;
                check_regions(&[spec.from.clone(), spec.to.clone()])
            }
            Spec::Scrub(spec) => check("mib_per_second", spec.mib_per_second, 1, MIB_MAX),
        }
    }

    /// The word for what it does.
    pub fn kind(&self) -> &'static str {
        match self {
            Spec::Verify(_) => "verify",
            Spec::Repair(_) => "repair",
            Spec::Scrub(_) => "scrub",
        }
    }

    /// The table it is about, if it is one.
    pub fn table(&self) -> Option<&str> {
        match self {
            Spec::Verify(spec) => Some(&spec.table),
            Spec::Repair(spec) => Some(&spec.table),
            Spec::Scrub(spec) => spec.table.as_deref(),
        }
    }

    /// As it was asked for.
    pub fn to_json(&self) -> Json {
        serde_json::to_value(self).unwrap_or(Json::Null)
    }
}

impl VerifySpec {
    /// Rows listed.
    pub fn rows_listed(&self) -> usize {
        self.rows_max.unwrap_or(ROWS_DEFAULT) as usize
    }

    /// MiB read each second.
    pub fn mib_per_second(&self) -> u64 {
        self.mib_per_second.unwrap_or(MIB_DEFAULT)
    }
}

impl RepairSpec {
    /// Rows listed.
    pub fn rows_listed(&self) -> usize {
        self.rows_max.unwrap_or(ROWS_DEFAULT) as usize
    }
}

impl ScrubSpec {
    /// MiB read each second.
    pub fn mib_per_second(&self) -> u64 {
        self.mib_per_second.unwrap_or(MIB_DEFAULT)
    }
}

fn of_members<T: DeserializeOwned>(members: Map<String, Json>) -> Result<T, ApiError> {
    serde_json::from_value(Json::Object(members))
        .map_err(|error| ApiError::invalid(format!("The job is not described rightly: {error}.")))
}

fn check_regions(regions: &[String]) -> Result<(), ApiError> {
    if regions.len() < 2 || regions.len() > REGIONS_MAX {
        let message = format!("Two to {REGIONS_MAX} regions can be compared, name them.");
        return Err(ApiError::invalid(message));
    }
    for (place, region) in regions.iter().enumerate() {
        if regions[..place].contains(region) {
            return Err(ApiError::invalid(format!(
                "Region {region} is named twice; a replica is compared with another one."
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Spec, String> {
        Spec::of_json(text.as_bytes()).map_err(|error| error.message)
    }

    #[test]
    fn jobs_are_read_in_both_forms_and_round_trip() {
        let flat = r#"{"kind":"verify","table":"t","regions":["a","b"],"deep":true,
            "rows_max":5,"wait_seconds":null,"resume":null}"#;
        let nested = r#"{"kind":"verify","spec":{"table":"t","regions":["a","b"],"deep":true,
            "rows_max":5}}"#;
        let spec = read(flat).unwrap();
        assert_eq!(read(nested).unwrap(), spec);
        let kept: Spec = serde_json::from_value(spec.to_json()).unwrap();
        assert_eq!(kept, spec);
        let repair = read(r#"{"kind":"repair","table":"t","from":"a","to":"b","mode":"merge"}"#);
        let Spec::Repair(repair) = repair.unwrap() else { panic!("another kind") };
        assert_eq!(repair.mode, RepairMode::Merge);
        let Spec::Scrub(scrub) = read(r#"{"kind":"scrub"}"#).unwrap() else {
            panic!("another kind")
        };
        assert_eq!((scrub.mib_per_second(), scrub.table), (32, None));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let cases = [
            ("[]", "no JSON object"),
            ("{", "no JSON:"),
            (r#"{"table":"t"}"#, "kind is missing"),
            (r#"{"kind":"copy"}"#, "no kind \"copy\""),
            (r#"{"kind":"verify","table":"t","regions":["a"]}"#, "Two to 10 regions"),
            (r#"{"kind":"verify","table":"t","regions":["a","a"]}"#, "a is named twice"),
            (r#"{"kind":"verify","table":"t","regions":["a","b"],"dep":1}"#, "unknown field `dep`"),
            (r#"{"kind":"repair","table":"t","from":"a","to":"a"}"#, "a is named twice"),
            (r#"{"kind":"scrub","mib_per_second":0}"#, "it must be in 1 to 100000"),
        ];
        for (text, expected) in cases {
            let found = read(text).unwrap_err();
            assert!(found.contains(expected), "{text}: {found}");
        }
    }
}
