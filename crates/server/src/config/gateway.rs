//! The configuration of a gateway: a TOML file, read once, checked whole, by the same rules as a
//! region's.
//!
//! ```toml
//! [gateway]
//! listen = "0.0.0.0:8100"
//! balance = "nearest"
//!
//! [[regions]]
//! name = "eu"
//! endpoint = "http://eu.example:8110"
//! ```

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::{
    Finding, REGION_RULE, URL_RULE, collide, is_region_name, is_url, load_by, wrong,
};
use super::{ConfigError, MIB, loopback};

/// Regions that a gateway passes requests on to.
const REGIONS: RangeInclusive<usize> = 1..=32;

/// A gateway's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayFile {
    /// Where it listens, and what it allows.
    #[serde(default)]
    pub gateway: GatewayConfig,
    /// How it looks which regions live.
    #[serde(default)]
    pub probe: GatewayProbe,
    /// Where it passes requests on to.
    #[serde(default)]
    pub regions: Vec<PassedTo>,
}

/// `[gateway]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// Address to listen on for clients. Default 127.0.0.1:8100.
    pub listen: SocketAddr,
    /// Address of its own health and metrics. Default 127.0.0.1:8101.
    pub admin: SocketAddr,
    /// Which of the living regions a request goes to. Default `nearest`.
    pub balance: Balance,
    /// With `nearest`: the region that is taken while it lives, whatever the delays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer: Option<String>,
    /// Connections of clients at once, 1 to 1 000 000. Default 10 000; more wait.
    pub connections_max: usize,
    /// Requests in work at once, 1 to 100 000. Default 1024. More are answered "busy".
    pub requests_max: usize,
    /// Bytes of a request's body, 64 KiB to 64 MiB. Default 5 MiB.
    pub request_bytes_max: usize,
    /// Connections to one region at once, 1 to 10 000. Default 256. What finds none free goes to
    /// another region.
    pub region_connections_max: usize,
    /// Until a connection to a region stands, in milliseconds, 10 to 60 000. Default 1000.
    pub connect_timeout_ms: u64,
    /// How long a region has to answer a read before another one is asked, in milliseconds, 10 to
    /// 600 000. Default 5000.
    pub read_timeout_ms: u64,
    /// Until a request is answered at all, in milliseconds, 10 to 600 000. Default 20 000: a region
    /// may wait for half of that until another one writes the table.
    pub answer_timeout_ms: u64,
}

/// `[probe]`: how a gateway looks which regions live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayProbe {
    /// From one look at a region to the next, in milliseconds, 10 to 600 000. Default 500.
    pub every_ms: u64,
    /// How long a region has to answer, in milliseconds, 10 to 60 000. Default 1000.
    pub timeout_ms: u64,
    /// Failures in a row, of probes and of requests, after which a region is down, 1 to 100.
    /// Default 3.
    pub down_after: u32,
    /// Answered probes in a row after which it is up again, 1 to 100. Default 2.
    pub up_after: u32,
}

/// `[[regions]]`: a region as a gateway knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassedTo {
    /// Its name.
    pub name: String,
    /// URL of its public port.
    pub endpoint: String,
}

/// Which of the living regions a request goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// The one that is preferred, or else the one that answers soonest.
    #[default]
    Nearest,
    /// The one with the fewest requests of this gateway in work.
    LeastLoaded,
    /// Each in its turn.
    RoundRobin,
}

impl Balance {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Balance::Nearest => "nearest",
            Balance::LeastLoaded => "least-loaded",
            Balance::RoundRobin => "round-robin",
        }
    }
}

impl Default for GatewayConfig {
    fn default() -> GatewayConfig {
        GatewayConfig {
            listen: loopback(8100),
            admin: loopback(8101),
            balance: Balance::Nearest,
            prefer: None,
            connections_max: 10_000,
            requests_max: 1024,
            request_bytes_max: 5 * MIB as usize,
            region_connections_max: 256,
            connect_timeout_ms: 1000,
            read_timeout_ms: 5000,
            answer_timeout_ms: 20_000,
        }
    }
}

impl Default for GatewayProbe {
    fn default() -> GatewayProbe {
        GatewayProbe { every_ms: 500, timeout_ms: 1000, down_after: 3, up_after: 2 }
    }
}

impl GatewayConfig {
    /// Until a connection to a region stands.
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    /// How long a region has to answer a read before another one is asked.
    pub fn read_timeout(&self) -> Duration {
        Duration::from_millis(self.read_timeout_ms)
    }

    /// Until a request is answered at all.
    pub fn answer_timeout(&self) -> Duration {
        Duration::from_millis(self.answer_timeout_ms)
    }
}

impl GatewayFile {
    /// Reads and checks a file.
    pub fn load(file: &Path) -> Result<GatewayFile, ConfigError> {
        load_by(file, |config: &mut GatewayFile, _| check(config))
    }

    /// The same rules for one that was not read from a file. An error names the key.
    pub fn checked(self) -> Result<GatewayFile, String> {
        match check(&self) {
            Ok(()) => Ok(self),
            Err((key, message)) => Err(format!("{key} {message}")),
        }
    }
}

fn check(config: &GatewayFile) -> Result<(), Finding> {
    let (own, probe) = (&config.gateway, &config.probe);
    let all: [(&str, u64, RangeInclusive<u64>); 11] = [
        ("gateway.connections_max", own.connections_max as u64, 1..=1_000_000),
        ("gateway.requests_max", own.requests_max as u64, 1..=100_000),
        ("gateway.request_bytes_max", own.request_bytes_max as u64, MIB / 16..=64 * MIB),
        ("gateway.region_connections_max", own.region_connections_max as u64, 1..=10_000),
        ("gateway.connect_timeout_ms", own.connect_timeout_ms, 10..=60_000),
        ("gateway.read_timeout_ms", own.read_timeout_ms, 10..=600_000),
        ("gateway.answer_timeout_ms", own.answer_timeout_ms, 10..=600_000),
        ("probe.every_ms", probe.every_ms, 10..=600_000),
        ("probe.timeout_ms", probe.timeout_ms, 10..=60_000),
        ("probe.down_after", probe.down_after.into(), 1..=100),
        ("probe.up_after", probe.up_after.into(), 1..=100),
    ];
    for (key, value, range) in all {
        if !range.contains(&value) {
            let (least, most) = range.into_inner();
            return wrong(key, format!("is {value}, it must be in {least} to {most}"));
        }
    }
    if collide(own.listen, own.admin) {
        return wrong("gateway.admin", format!("{} is the address for clients too", own.admin));
    }
    if !REGIONS.contains(&config.regions.len()) {
        let (least, most) = REGIONS.into_inner();
        let message =
            format!("{} are given, there must be {least} to {most}", config.regions.len());
        return wrong("regions", message);
    }
    let mut names = BTreeSet::new();
    for (place, region) in config.regions.iter().enumerate() {
        let key = |name: &str| format!("regions[{place}].{name}");
        if !is_region_name(&region.name) {
            return wrong(key("name"), REGION_RULE);
        }
        if !names.insert(region.name.as_str()) {
            return wrong(key("name"), format!("{} is the name of another region", region.name));
        }
        if !is_url(&region.endpoint) || region.endpoint.starts_with("https") {
            return wrong(key("endpoint"), format!("{URL_RULE}; https is not spoken"));
        }
    }
    match &own.prefer {
        Some(name) if !names.contains(name.as_str()) => {
            wrong("gateway.prefer", format!("{name} is none of the regions"))
        }
        Some(_) if own.balance != Balance::Nearest => {
            let balance = own.balance.as_str();
            wrong("gateway.prefer", format!("does not go with balance {balance}"))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str, endpoint: &str) -> PassedTo {
        PassedTo { name: name.to_owned(), endpoint: endpoint.to_owned() }
    }

    fn file(regions: Vec<PassedTo>) -> GatewayFile {
        let (gateway, probe) = (GatewayConfig::default(), GatewayProbe::default());
        GatewayFile { gateway, probe, regions }
    }

    #[test]
    fn a_file_of_regions_is_enough() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("gateway.toml");
        let text = "[[regions]]\nname = \"r1\"\nendpoint = \"http://h:1\"\n";
        std::fs::write(&path, text).unwrap();
        let read = GatewayFile::load(&path).unwrap();
        assert_eq!(read, file(vec![region("r1", "http://h:1")]));
        std::fs::write(&path, format!("[gateway]\nprefer = \"r9\"\n{text}")).unwrap();
        let error = GatewayFile::load(&path).unwrap_err().to_string();
        assert!(error.contains(":2: gateway.prefer: r9 is none of the regions"), "{error}");
        std::fs::write(&path, format!("[gateway]\nmode = \"x\"\n{text}")).unwrap();
        assert!(GatewayFile::load(&path).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_key() {
        let refused = |file: GatewayFile| file.checked().unwrap_err();
        assert!(refused(file(Vec::new())).starts_with("regions 0 are given"));
        let r1 = || region("r1", "http://h:1");
        assert!(refused(file(vec![r1(), r1()])).starts_with("regions[1].name"));
        assert!(refused(file(vec![region("r1", "https://h")])).starts_with("regions[0].endpoint"));
        let mut same = file(vec![r1()]);
        same.gateway.admin = same.gateway.listen;
        assert!(refused(same).starts_with("gateway.admin"));
        let mut both = file(vec![r1()]);
        (both.gateway.prefer, both.gateway.balance) = (Some("r1".into()), Balance::RoundRobin);
        assert!(refused(both).contains("does not go with balance round-robin"));
        let mut never = file(vec![r1()]);
        never.probe.down_after = 0;
        assert_eq!(refused(never), "probe.down_after is 0, it must be in 1 to 100");
    }
}
