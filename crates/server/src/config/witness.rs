//! The configuration of a witness: a TOML file, read once, checked whole, by the same rules as a
//! region's.
//!
//! ```toml
//! [witness]
//! name = "w1"
//! number = 200
//! listen = "0.0.0.0:8112"
//! data = "data"
//! certificate = "w1.pem"
//! key = "w1.key"
//! authority = "authority.pem"
//! lease_ms = 2000     # as in [quorum] of the regions; this is the default
//!
//! [[voters]]          # all others that vote: the regions
//! name = "r1"
//! number = 1
//! peer = "r1.example:8112"
//! ```

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::{
    Finding, LEASE_MS, REGION_RULE, VOTERS, is_host_and_port, is_region_name, load_by, owner_only,
    unreadable, wrong,
};
use super::{ConfigError, Detection, Settings, SuspicionConfig, default_lease_ms};

/// A witness's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessFile {
    /// Which witness this is, where it listens and stores.
    pub witness: OwnConfig,
    /// The others that vote.
    #[serde(default)]
    pub voters: Vec<VoterConfig>,
}

/// `[witness]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnConfig {
    /// Its name, as in its certificate and in `[quorum.witness]` of the regions.
    pub name: String,
    /// Its number, as there.
    pub number: u8,
    /// Address to listen on for the regions.
    pub listen: SocketAddr,
    /// Directory of what it stores.
    pub data: PathBuf,
    /// Its certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM; readable by its owner only.
    pub key: PathBuf,
    /// The authority that signed the certificates of all voters, PEM.
    pub authority: PathBuf,
    /// How long a region may write after it has last been confirmed, in milliseconds, as in
    /// `[quorum]` of the regions. Default 2000.
    #[serde(default = "default_lease_ms")]
    pub lease_ms: u64,
    /// By what a region is held to be gone, as in `[quorum]` of the regions. Default `mixed`.
    #[serde(default)]
    pub detection: Detection,
    /// How fast and at what cost a region is suspected.
    #[serde(default, skip_serializing_if = "SuspicionConfig::is_default")]
    pub suspicion: SuspicionConfig,
}

impl OwnConfig {
    /// How regions are observed.
    pub fn settings(&self) -> Settings {
        self.suspicion.settings(self.detection, Duration::from_millis(self.lease_ms))
    }
}

/// `[[voters]]`: a region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoterConfig {
    /// Its name, as in its certificate.
    pub name: String,
    /// Its number.
    pub number: u8,
    /// `host:port` of its peer port.
    pub peer: String,
}

impl WitnessFile {
    /// Reads and checks a file and makes its paths absolute or relative to the working directory.
    pub fn load(file: &Path) -> Result<WitnessFile, ConfigError> {
        load_by(file, |config: &mut WitnessFile, directory| {
            let own = &mut config.witness;
            for path in [&mut own.data, &mut own.certificate, &mut own.key, &mut own.authority] {
                *path = directory.join(&path);
            }
            check(config)
        })
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every part of a configuration has a form in TOML")
    }
}

fn check(config: &WitnessFile) -> Result<(), Finding> {
    let own = &config.witness;
    if !is_region_name(&own.name) {
        return wrong("witness.name", REGION_RULE);
    }
    if own.number == 0 {
        return wrong("witness.number", "is 0, it must be in 1 to 255");
    }
    if !LEASE_MS.contains(&own.lease_ms) {
        let message = format!("is {}, it must be in 500 to 60000", own.lease_ms);
        return wrong("witness.lease_ms", message);
    }
    let lease = (own.detection, own.lease_ms);
    own.suspicion.check("witness.suspicion", lease, config.voters.len())?;
    for (key, path) in [
        ("witness.certificate", &own.certificate),
        ("witness.key", &own.key),
        ("witness.authority", &own.authority),
    ] {
        if let Err(error) = std::fs::File::open(path) {
            return wrong(key, unreadable(path, &error));
        }
    }
    owner_only(&own.key).map_err(|message| ("witness.key".to_owned(), message))?;
    let mut names = BTreeSet::from([own.name.as_str()]);
    let mut numbers = BTreeSet::from([own.number]);
    for (place, voter) in config.voters.iter().enumerate() {
        let key = |name: &str| format!("voters[{place}].{name}");
        if !is_region_name(&voter.name) {
            return wrong(key("name"), REGION_RULE);
        }
        if !names.insert(&voter.name) {
            return wrong(key("name"), format!("{} is the name of another voter", voter.name));
        }
        if voter.number == 0 {
            return wrong(key("number"), "is 0, it must be in 1 to 255");
        }
        if !numbers.insert(voter.number) {
            let message = format!("{} is the number of another voter", voter.number);
            return wrong(key("number"), message);
        }
        if !is_host_and_port(&voter.peer) {
            return wrong(key("peer"), "is no host:port");
        }
    }
    if !(VOTERS.min..=VOTERS.max).contains(&names.len()) {
        let message = format!(
            "{} voters with the witness itself, there must be {} to {}: name all regions",
            names.len(),
            VOTERS.min,
            VOTERS.max
        );
        return wrong("voters", message);
    }
    Ok(())
}
