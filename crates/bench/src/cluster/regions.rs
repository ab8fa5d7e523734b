//! Single regions of a cluster: stopped, started again, reached by another way.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value as Json;

use super::{Cluster, POLL, STOP, is_region, program};
use crate::error::{BenchError, Result, Tried};
use crate::load::{Connection, Target, runtime};
use crate::process::{end, guarded, signal};
use crate::proxy::{Proxy, Way};
use crate::rows::TABLE;

/// How long a region may take to serve.
const START: Duration = Duration::from_secs(60);

/// How one link of the first region stands.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct LinkSeen {
    table: String,
    from: String,
    /// The region it ends in.
    pub(crate) to: String,
    /// State.
    pub(crate) state: String,
    /// Entries that are not known to be there.
    pub(crate) lag_entries: u64,
    /// Rows copied.
    #[serde(default)]
    pub(crate) copied_rows: Option<u64>,
    /// Bytes shipped, before compression.
    #[serde(default)]
    pub(crate) sent_bytes: u64,
    /// The same on the way.
    #[serde(default)]
    pub(crate) wire_bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Seen {
    links: Vec<LinkSeen>,
}

/// A region that this process has started, beside `up`.
pub(super) struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        end(&mut self.0, STOP);
    }
}

impl Cluster {
    /// The first region's links of the table.
    pub(crate) fn links(&self) -> Result<Vec<LinkSeen>> {
        let body = self.administer("GET", "/v1/status", Bytes::new())?;
        let seen: Seen = serde_json::from_slice(&body)
            .map_err(|error| BenchError::Failed(format!("status cannot be read: {error}")))?;
        let own = &self.region(0)?.name;
        Ok(seen.links.into_iter().filter(|l| l.table == TABLE && l.from == *own).collect())
    }

    /// The first region's link to another one.
    pub(crate) fn link(&self, place: usize) -> Result<LinkSeen> {
        let to = self.region(place)?.name.clone();
        let found = self.links()?.into_iter().find(|link| link.to == to);
        found.ok_or_else(|| BenchError::Failed(format!("there is no link to {to}")))
    }

    /// One call to the first region's administration port; gives the JSON of its answer.
    pub(crate) fn ask(&self, method: &str, target: &str, body: Bytes) -> Result<Json> {
        self.ask_region(0, method, target, body)
    }

    /// The same of another region.
    pub(crate) fn ask_region(
        &self,
        place: usize,
        method: &str,
        target: &str,
        body: Bytes,
    ) -> Result<Json> {
        let address = self.region(place)?.admin.trim_start_matches("http://").to_owned();
        let admin = Target { address, access: self.access() };
        let (status, body) = runtime()?.block_on(async {
            let mut connection = Connection::open(&admin).await?;
            let answer = connection.administer(method, target, body).await?;
            let body = Bytes::copy_from_slice(connection.body(answer));
            Ok::<_, BenchError>((answer.status, body))
        })?;
        match serde_json::from_slice(&body) {
            Ok(told) if status == 200 => Ok(told),
            _ => {
                let text = String::from_utf8_lossy(&body);
                Err(BenchError::Failed(format!("{method} {target}: {status}: {text}")))
            }
        }
    }

    /// Waits until a link does what is asked, and gives how it stands then.
    pub(crate) fn await_link(
        &self,
        place: usize,
        limit: Duration,
        holds: impl Fn(&LinkSeen) -> bool,
    ) -> Result<LinkSeen> {
        let start = Instant::now();
        loop {
            let link = self.link(place)?;
            if holds(&link) {
                return Ok(link);
            }
            if start.elapsed() > limit {
                let (to, state, lag) = (&link.to, &link.state, link.lag_entries);
                let text = format!("the link to {to} is {state} and lacks {lag} entries");
                return Err(BenchError::Failed(text));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Stops a region; the others go on.
    pub(crate) fn stop_region(&mut self, place: usize) -> Result<()> {
        if let Some(started) = self.started.remove(&place) {
            drop(started);
            return Ok(());
        }
        let region = self.region(place)?;
        signal(region.pid, Signal::TERM);
        let start = Instant::now();
        while is_region(region) {
            if start.elapsed() > STOP {
                return Err(BenchError::Failed(format!("{} does not stop", region.name)));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Starts a stopped region and waits until it takes connections.
    pub(crate) fn start_region(&mut self, place: usize) -> Result<()> {
        let program = program()?;
        let region = self.region(place)?;
        let name = region.name.clone();
        let child = guarded(&program)?
            .args(["serve", "--log", &self.spot.log, "--config"])
            .arg(&region.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .tried(|| format!("start {name}"))?;
        let pid = child.id();
        self.started.insert(place, Started(child));
        if let Some(region) = self.up.regions.get_mut(place) {
            region.pid = pid;
        }
        let address = self.target(place)?.address;
        let start = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            if start.elapsed() > START {
                return Err(BenchError::Failed(format!("{name} does not serve")));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Makes one region reach another by a proxy. The region is started anew, not by `up`, which
    /// would set its file right.
    pub(crate) fn route(&mut self, from: usize, to: usize, way: Way) -> Result<Proxy> {
        let name = self.region(to)?.name.clone();
        let proxy = Proxy::start(peer_address(&self.region(to)?.config)?, way)?;
        self.stop_region(from)?;
        route(&self.region(from)?.config, &name, proxy.address)?;
        self.start_region(from)?;
        Ok(proxy)
    }
}

/// Where the region of a configuration listens for others.
fn peer_address(file: &Path) -> Result<SocketAddr> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).tried(|| format!("read {shown}"))?;
    let config: Option<toml::Table> = text.parse().ok();
    let found = config
        .and_then(|config| config.get("peer")?.get("listen")?.as_str()?.parse::<SocketAddr>().ok());
    found.ok_or_else(|| BenchError::Failed(format!("{shown} has no peer.listen")))
}

/// Makes the region of a configuration reach another one at this address.
fn route(file: &Path, region: &str, address: SocketAddr) -> Result<()> {
    edit(file, |config| {
        let regions = config.get_mut("regions")?.as_array_mut()?;
        let is_it =
            |one: &&mut toml::Value| one.get("name").and_then(|n| n.as_str()) == Some(region);
        let other = regions.iter_mut().find(is_it)?.as_table_mut()?;
        other.insert("peer".to_owned(), toml::Value::String(address.to_string()));
        Some(())
    })
}

/// Sets a number in a section of a configuration.
pub(crate) fn set_number(file: &Path, section: &str, key: &str, value: i64) -> Result<()> {
    edit(file, |config| {
        let section =
            config.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        section.as_table_mut()?.insert(key.to_owned(), toml::Value::Integer(value));
        Some(())
    })
}

fn edit(file: &Path, change: impl FnOnce(&mut toml::Table) -> Option<()>) -> Result<()> {
    let shown = file.display();
    let text = std::fs::read_to_string(file).tried(|| format!("read {shown}"))?;
    let config: Option<toml::Table> = text.parse().ok();
    let changed = config.and_then(|mut config| {
        change(&mut config)?;
        toml::to_string(&config).ok()
    });
    let text = changed.ok_or_else(|| BenchError::Failed(format!("{shown} has another form")))?;
    std::fs::write(file, text).tried(|| format!("write {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_routed_and_numbers_set() {
        let file = std::env::temp_dir().join(format!("isthmus-bench-{}.toml", std::process::id()));
        let text = "[peer]\nlisten = \"127.0.0.1:7\"\n\
                    [[regions]]\nname = \"r2\"\npeer = \"127.0.0.1:8\"\n";
        std::fs::write(&file, text).unwrap();
        assert_eq!(peer_address(&file).unwrap().port(), 7);
        route(&file, "r2", "127.0.0.1:9".parse().unwrap()).unwrap();
        assert!(route(&file, "r3", "127.0.0.1:9".parse().unwrap()).is_err());
        set_number(&file, "log", "keep_mib", 5).unwrap();
        let config: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(config["regions"][0]["peer"].as_str(), Some("127.0.0.1:9"));
        assert_eq!(config["log"]["keep_mib"].as_integer(), Some(5));
    }
}
