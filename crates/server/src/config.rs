//! The configuration of one region: a TOML file, read once, checked whole.
//!
//! What must hold: a program that starts has a configuration in which every value lies in its
//! range and no two values contradict each other; what does not is refused with one line that
//! names the file, the line and the key. Unknown keys are refused, so that a typing error never
//! silently gives a default. Secrets never show in `Debug` output or in an error.
//!
//! Relative paths are relative to the file. The rules are in `check.rs`.

mod check;
pub mod gateway;
mod suspicion;
#[cfg(test)]
mod tests;
pub mod witness;

pub use self::suspicion::SuspicionConfig;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use isthmus_control::detect::{Detection, Settings};
use serde::{Deserialize, Serialize};

/// Bytes of a configuration file at most.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The instance that `isthmus up` serves.
pub const UP_INSTANCE: &str = "demo";
/// The access key id that `isthmus up` accepts.
pub const UP_ACCESS_KEY_ID: &str = "isthmus-demo";
/// The secret of that key. It is public, so it is accepted on loopback addresses only.
pub const UP_ACCESS_KEY_SECRET: &str = "isthmus-demo-secret-0123456789";

const MIB: u64 = 1024 * 1024;

/// Why a configuration cannot be used. `Display` is one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing or may not be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Read {
        /// The configuration file.
        file: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The file holds nothing but space.
    #[error("{}: is empty; [instance], [region], [storage] and [[credentials]] are needed",
        file.display())]
    Empty {
        /// The configuration file.
        file: PathBuf,
    },
    /// The file is too large to be a configuration.
    #[error("{}: has {bytes} bytes, a configuration has at most {FILE_BYTES_MAX}", file.display())]
    TooLarge {
        /// The configuration file.
        file: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A key is unknown, missing, of a wrong type, out of its range or against another one.
    #[error("{}:{line}: {key}: {message}", file.display())]
    Wrong {
        /// The configuration file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key with its table, like `public.listen`.
        key: String,
        /// What is wrong and what would be right.
        message: String,
    },
}

/// A region's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What the region serves.
    pub instance: InstanceConfig,
    /// Which region this is.
    pub region: RegionConfig,
    /// Where and how much it stores.
    pub storage: StorageConfig,
    /// The port for clients.
    #[serde(default)]
    pub public: PublicConfig,
    /// The port for administration.
    #[serde(default)]
    pub admin: AdminConfig,
    /// The port for other regions.
    #[serde(default)]
    pub peer: PeerConfig,
    /// How long logs are kept for replicas that do not come.
    #[serde(default, skip_serializing_if = "LogConfig::is_default")]
    pub log: LogConfig,
    /// What is done when replicas differ.
    #[serde(default, skip_serializing_if = "VerifyConfig::is_default")]
    pub verify: VerifyConfig,
    /// How the disk is read again and again.
    #[serde(default, skip_serializing_if = "ScrubConfig::is_default")]
    pub scrub: ScrubConfig,
    /// What is told to Prometheus, and to whom.
    #[serde(default, skip_serializing_if = "MetricsConfig::is_default")]
    pub metrics: MetricsConfig,
    /// Where traces of requests are sent.
    #[serde(default, skip_serializing_if = "TraceConfig::is_default")]
    pub trace: TraceConfig,
    /// How regions are probed.
    #[serde(default, skip_serializing_if = "ProbeConfig::is_default")]
    pub probe: ProbeConfig,
    /// What regions decide together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumConfig>,
    /// The other regions, none by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<OtherRegionConfig>,
    /// Who may call; at least one.
    #[serde(default)]
    pub credentials: Vec<CredentialConfig>,
}

/// `[instance]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceConfig {
    /// Name as clients send it: 3 to 16 letters, digits or `-`, a letter first, no `-` last.
    pub name: String,
    /// Tables that may exist, 1 to 1 000 000. Default 64.
    #[serde(default = "default_table_quota")]
    pub table_quota: u32,
}

/// `[region]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionConfig {
    /// Name: 1 to 64 letters, digits or `-`, a letter first. The certificate's name too.
    pub name: String,
    /// Number, 1 to 255, alike in the files of all regions and never used again.
    pub number: u8,
    /// What a GiB costs that leaves this region, in any currency, 0 to 1 000 000. Only told to who
    /// asks where a replica is to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_gib_egress: Option<f64>,
    /// What else is to be known of the place, such as its country or who runs it; at most 16, of
    /// 1 to 64 characters each. Only told as well.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// `[storage]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// Directory of all data.
    pub data: PathBuf,
    /// Memory for blocks read from disk, 8 MiB to 1 TiB. Default 96 MiB.
    #[serde(default = "default_cache_bytes")]
    pub cache_bytes: u64,
    /// Memory for rows not yet in tables on disk, 8 MiB to 64 GiB. Default 64 MiB.
    #[serde(default = "default_write_buffer_bytes")]
    pub write_buffer_bytes: u64,
    /// Memory for the newest entries of all logs, 1 MiB to 64 GiB. Default 32 MiB.
    #[serde(default = "default_log_tail_bytes")]
    pub log_tail_bytes: u64,
    /// Memory for what rows were before they changed, of tables that are read as of a moment, 0 to
    /// 64 GiB. Default 64 MiB.
    #[serde(default = "default_past_bytes")]
    pub past_bytes: u64,
    /// Free disk below which writes are refused, 0 to 1 TiB. Default 256 MiB.
    #[serde(default = "default_space_reserve_bytes")]
    pub space_reserve_bytes: u64,
    /// Keep digests of tables, by which replicas are compared without reading them. Default true.
    #[serde(default = "default_true", skip_serializing_if = "is_true")]
    pub digests: bool,
}

/// `[verify]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyConfig {
    /// What is done by itself where replicas differ. Default `off`.
    pub auto_repair: AutoRepair,
    /// Rows that differ, above which nothing is done by itself, 1 to 1 000 000. Default 1000.
    pub auto_repair_rows_max: u64,
}

/// What is done by itself where replicas differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AutoRepair {
    /// Nothing.
    #[default]
    Off,
    /// Tables with one writer are made like that of the writer.
    FromPrimary,
    /// That, and tables with several writers are merged.
    Merge,
}

/// `[scrub]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScrubConfig {
    /// MiB read each second in the background, 0 to 1024; 0: none. Default 4.
    pub mib_per_second: u32,
    /// Hours from the begin of one pass over a table to the next, 1 to 8760. Default 168.
    pub every_hours: u32,
    /// Mend what is found from a healthy replica. Default true.
    #[serde(skip_serializing_if = "is_true")]
    pub repair: bool,
}

/// `[public]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PublicConfig {
    /// Address to listen on. Default 127.0.0.1:8110.
    pub listen: SocketAddr,
    /// URL under which clients reach it. Default `http://` and the listen address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Connections at once, 1 to 1 000 000. Default 10 000.
    pub connections_max: usize,
    /// Requests in work at once, 1 to 100 000. Default 1024. More are answered "busy".
    pub requests_max: usize,
    /// Bytes of a request's body, 64 KiB to 64 MiB. Default 5 MiB.
    pub request_bytes_max: usize,
}

/// `[admin]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address to listen on. Default 127.0.0.1:8111.
    pub listen: SocketAddr,
    /// URL under which operators reach it. Default `http://` and the listen address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Who bears this token may trigger links, and nothing else. Without it only who can sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger_token: Option<Secret>,
    /// A file that holds the token; readable by its owner only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger_token_file: Option<PathBuf>,
}

/// `[peer]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeerConfig {
    /// Address to listen on. Default 127.0.0.1:8112.
    pub listen: SocketAddr,
    /// This region's certificate, PEM. Needed as soon as there are other regions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM; readable by its owner only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The authority that signed the certificates of all regions, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<PathBuf>,
    /// How far the clock of another region may be ahead, in milliseconds, 1 to 3 600 000.
    /// Default 500. What comes from further ahead waits.
    pub clock_skew_max_ms: u64,
    /// Bytes of a parcel before compression, 64 KiB to 16 MiB. Default 1 MiB.
    pub parcel_bytes_max: usize,
    /// Parcels on their way per link, 1 to 4096. Default 1024: single writes over a long way are
    /// many small parcels.
    pub window_parcels: usize,
    /// The newest format spoken with other regions, 1 to the newest known. Default: the newest.
    /// An older one is for the time of an upgrade.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_max: Option<u32>,
    /// A region that the base of a table with edges has not reached for so many milliseconds passes
    /// nothing on, where there is a way around it; 1000 to 3 600 000. Default 15 000.
    pub reroute_after_ms: u64,
}

/// `[log]`: what is kept of change logs for replicas that need it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// MiB of all logs of the region, 1 to 16 777 216. Default 1024.
    pub keep_mib: u64,
    /// Hours an entry is kept, 1 to 8760. Default 72.
    pub keep_hours: u32,
}

/// `[metrics]`: what `/metrics` on the administration port tells, and to whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Who bears this token may read them, and nothing else. Without it only who can sign.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// A file that holds the token; readable by its owner only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// Tables with series of their own, 0 to 10 000; the rest are summed. Default 100.
    pub tables_max: usize,
}

/// `[trace]`: traces of requests, through all regions that have this.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TraceConfig {
    /// URL of a collector that takes OTLP over HTTP, such as `http://127.0.0.1:4318`. Without it
    /// nothing is traced here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The share of requests that is traced from here on, 0 to 1. Default 0.01. What other
    /// regions trace is followed here whatever this says.
    pub sample: f64,
}

/// `[probe]`: how this region writes to and reads from each region, to see how they do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbeConfig {
    /// Seconds from one write and read of each region to the next, 0 to 3600; 0: none. Default 5.
    pub every_seconds: u32,
    /// Tables of this region that are looked at besides, the oldest, 0 to 100. Default 20.
    pub tables_max: u32,
}

/// `[quorum]`: all regions, and a witness where there is one, decide together who writes when a
/// region is lost. Without it failover is by hand. Alike in the files of all regions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuorumConfig {
    /// The names of all regions and of the witness, 3 to 9. May be left out, since they are those
    /// of this file; where it is given it is checked against them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub voters: Vec<String>,
    /// How long a region may write after it has last been confirmed, in milliseconds, 500 to
    /// 60 000. Default 2000. Another region writes a little later than that.
    #[serde(default = "default_lease_ms")]
    pub lease_ms: u64,
    /// By what a region is held to be gone: `active` (by probes), `passive` (by its renewals and
    /// the answers that its links owe) or `mixed` (by both; probes only where links are silent).
    /// Default `mixed`.
    #[serde(default)]
    pub detection: Detection,
    /// How old a write may be that is not durable, in milliseconds, 50 to `lease_ms`, before the
    /// disk counts as stalled and the lease is not renewed where another region takes over.
    /// Default: a quarter of `lease_ms`, and not less than 500 as far as the lease allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_slow_ms: Option<u64>,
    /// How fast and at what cost a region is suspected.
    #[serde(default, skip_serializing_if = "SuspicionConfig::is_default")]
    pub suspicion: SuspicionConfig,
    /// A process that votes and holds no rows: the third vote for two regions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<WitnessConfig>,
}

/// A short lease does not make a disk slow.
const DISK_SLOW_MIN: Duration = Duration::from_millis(500);

impl QuorumConfig {
    /// How long a region may write after it has last been confirmed.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// How old a write may be that is not durable.
    pub fn disk_slow(&self) -> Duration {
        let lease = self.lease();
        let by_itself = (lease / 4).max(DISK_SLOW_MIN).min(lease);
        self.disk_slow_ms.map_or(by_itself, Duration::from_millis)
    }

    /// How regions are observed.
    pub fn settings(&self) -> Settings {
        self.suspicion.settings(self.detection, self.lease())
    }
}

impl Default for QuorumConfig {
    fn default() -> QuorumConfig {
        QuorumConfig {
            voters: Vec::new(),
            lease_ms: default_lease_ms(),
            detection: Detection::default(),
            disk_slow_ms: None,
            suspicion: SuspicionConfig::default(),
            witness: None,
        }
    }
}

fn default_lease_ms() -> u64 {
    2000
}

/// `[quorum.witness]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// Its name, as in its certificate.
    pub name: String,
    /// A number that no region has, 1 to 255.
    pub number: u8,
    /// `host:port` of its peer port.
    pub peer: String,
}

/// `[[regions]]`: another region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OtherRegionConfig {
    /// Its name, as in its certificate.
    pub name: String,
    /// Its number.
    pub number: u8,
    /// `host:port` of its peer port. Absent: it cannot be dialled from here, so it dials, and
    /// pulls what it gets from this region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// URL of its public port.
    pub endpoint: String,
    /// Its instance. Default: the same as here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

/// `[[credentials]]`: one access key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialConfig {
    /// Name of the key.
    pub access_key_id: String,
    /// The secret itself, or else:
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key_secret: Option<Secret>,
    /// a file that holds it; readable by its owner only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_key_secret_file: Option<PathBuf>,
    /// Makes the key temporary: requests must carry this token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_token: Option<Secret>,
    /// When the key ends, like `2030-01-31T12:00:00Z`. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Refuses the key. Default false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub disabled: bool,
}

/// Text that never shows in `Debug` output.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text. Never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Config {
    /// Reads and checks a file, makes its paths absolute or relative to the working directory,
    /// and reads the files of secrets: after it every credential has its `access_key_secret`.
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        check::load(file)
    }

    /// The file's text. What is at its default is written too, so that a reader sees it.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("every part of a configuration has a form in TOML")
    }

    /// The other region of this name.
    pub fn other_region(&self, name: &str) -> Option<&OtherRegionConfig> {
        self.regions.iter().find(|region| region.name == name)
    }

    /// The instance of a region, this one or another.
    pub fn instance_of(&self, region: &str) -> Option<&str> {
        if region == self.region.name {
            return Some(&self.instance.name);
        }
        let other = self.other_region(region)?;
        Some(other.instance.as_deref().unwrap_or(&self.instance.name))
    }
}

impl CredentialConfig {
    /// The secret; empty only if the configuration was not made by `Config::load`.
    pub fn secret(&self) -> &str {
        self.access_key_secret.as_ref().map_or("", Secret::expose)
    }

    /// When the key ends, in milliseconds since the Unix epoch. `None`: never.
    pub fn expires_ms(&self) -> Option<i64> {
        self.expires.as_deref().and_then(check::utc_millis)
    }
}

impl Default for PublicConfig {
    fn default() -> PublicConfig {
        PublicConfig {
            listen: loopback(8110),
            endpoint: String::new(),
            connections_max: 10_000,
            requests_max: 1024,
            request_bytes_max: 5 * MIB as usize,
        }
    }
}

impl Default for AdminConfig {
    fn default() -> AdminConfig {
        AdminConfig {
            listen: loopback(8111),
            endpoint: String::new(),
            trigger_token: None,
            trigger_token_file: None,
        }
    }
}

impl Default for PeerConfig {
    fn default() -> PeerConfig {
        PeerConfig {
            listen: loopback(8112),
            certificate: None,
            key: None,
            authority: None,
            clock_skew_max_ms: 500,
            parcel_bytes_max: MIB as usize,
            window_parcels: 1024,
            format_max: None,
            reroute_after_ms: 15_000,
        }
    }
}

impl Default for VerifyConfig {
    fn default() -> VerifyConfig {
        VerifyConfig { auto_repair: AutoRepair::Off, auto_repair_rows_max: 1000 }
    }
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { keep_mib: 1024, keep_hours: 72 }
    }
}

impl LogConfig {
    fn is_default(&self) -> bool {
        *self == LogConfig::default()
    }
}

impl Default for MetricsConfig {
    fn default() -> MetricsConfig {
        MetricsConfig { token: None, token_file: None, tables_max: 100 }
    }
}

impl MetricsConfig {
    fn is_default(&self) -> bool {
        *self == MetricsConfig::default()
    }
}

impl Default for ProbeConfig {
    fn default() -> ProbeConfig {
        ProbeConfig { every_seconds: 5, tables_max: 20 }
    }
}

impl Default for TraceConfig {
    fn default() -> TraceConfig {
        TraceConfig { endpoint: None, sample: 0.01 }
    }
}

impl TraceConfig {
    fn is_default(&self) -> bool {
        *self == TraceConfig::default()
    }
}

impl ProbeConfig {
    fn is_default(&self) -> bool {
        *self == ProbeConfig::default()
    }
}

impl VerifyConfig {
    fn is_default(&self) -> bool {
        *self == VerifyConfig::default()
    }
}

impl Default for ScrubConfig {
    fn default() -> ScrubConfig {
        ScrubConfig { mib_per_second: 4, every_hours: 7 * 24, repair: true }
    }
}

impl ScrubConfig {
    fn is_default(&self) -> bool {
        *self == ScrubConfig::default()
    }
}

impl StorageConfig {
    /// The defaults, with this directory.
    pub fn at(data: impl Into<PathBuf>) -> StorageConfig {
        StorageConfig {
            data: data.into(),
            cache_bytes: default_cache_bytes(),
            write_buffer_bytes: default_write_buffer_bytes(),
            log_tail_bytes: default_log_tail_bytes(),
            past_bytes: default_past_bytes(),
            space_reserve_bytes: default_space_reserve_bytes(),
            digests: true,
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn default_table_quota() -> u32 {
    64
}

fn default_cache_bytes() -> u64 {
    96 * MIB
}

fn default_write_buffer_bytes() -> u64 {
    64 * MIB
}

fn default_log_tail_bytes() -> u64 {
    32 * MIB
}

fn default_past_bytes() -> u64 {
    64 * MIB
}

fn default_space_reserve_bytes() -> u64 {
    256 * MIB
}

fn default_true() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

fn is_false(value: &bool) -> bool {
    !*value
}
