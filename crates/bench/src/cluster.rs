//! The measured processes: regions that `isthmus up` runs, as a user would.
//!
//! What must hold: one directory of this tool's own is used and emptied, nothing else is touched;
//! whatever happens here, `up` and its regions end. Sizes of memory are set in the files that
//! `up` has written, between two runs.

mod regions;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use isthmus_model::key::KeyKind;
use isthmus_model::schema::KeyColumn;
use isthmus_protocol::client::{
    decode_describe_global_table, decode_error, decode_global_table, encode_request,
};
use isthmus_protocol::request::{
    CreateGlobalTable, CreateTable, DescribeGlobalTable, Operation, OptionsChange, Placement,
    ServeMode, SyncMode, TablePlace, ThroughputChange,
};
use isthmus_protocol::response::GlobalTableStatus;
use rustix::process::Signal;
use serde::Deserialize;

use self::regions::Started;
pub(crate) use self::regions::set_number;
use crate::Options;
use crate::error::{BenchError, Result, Tried};
use crate::load::{Access, Connection, Prepared, Target, runtime};
use crate::process::{end, guarded, signal};
use crate::rows::{KEY, ROW_BYTES, TABLE};

/// How long `up` may take to stop its regions.
const STOP: Duration = Duration::from_secs(40);
/// How long links may take to catch up.
const CATCH_UP: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(20);
/// Tells a directory of this tool from one of somebody else's.
const MARK: &str = "isthmus-bench";
const MIB: u64 = 1024 * 1024;
/// Set-ups of regions at once.
const SPOTS: u8 = 2;
/// Ports that one of them may use.
const SPOT_PORTS: u16 = 100;

/// The directory of this tool, emptied at both ends.
pub(crate) struct Place {
    directory: PathBuf,
}

impl Place {
    /// Takes the directory; refuses one that holds anything else.
    pub(crate) fn take(options: &Options) -> Result<Place> {
        let directory = match &options.around.data {
            Some(directory) => directory.clone(),
            None => default_directory()?,
        };
        let shown = directory.display().to_string();
        fs::create_dir_all(&directory).tried(|| format!("make {shown}"))?;
        let mark = directory.join(MARK);
        let mut found = fs::read_dir(&directory).tried(|| format!("list {shown}"))?;
        if !mark.exists() && found.next().is_some() {
            let text = format!("{shown} is not empty: name an empty directory with --data");
            return Err(BenchError::Failed(text));
        }
        fs::write(&mark, "made by isthmus-bench, may be removed\n")
            .tried(|| format!("write {}", mark.display()))?;
        let place = Place { directory };
        place.empty();
        Ok(place)
    }

    /// Where the regions are; a second and third set-up beside the first has a number.
    fn cluster(&self, number: u8) -> PathBuf {
        self.directory.join(format!("cluster{number}"))
    }

    /// Where regions lie and listen.
    pub(crate) fn spot(&self, options: &Options, number: u8) -> Spot {
        Spot {
            directory: self.cluster(number),
            base_port: options.around.base_port + u16::from(number) * SPOT_PORTS,
            log: options.around.log.clone(),
        }
    }

    /// Where the raw engine is.
    pub(crate) fn engine(&self) -> PathBuf {
        self.directory.join("engine")
    }

    /// Where a store without a server is.
    pub(crate) fn store(&self, name: &str) -> PathBuf {
        self.directory.join(format!("store-{name}"))
    }

    /// A file for appending.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.join("append")
    }

    fn empty(&self) {
        let stores = [self.engine(), self.store("on"), self.store("off")];
        for directory in (0..SPOTS).map(|number| self.cluster(number)).chain(stores) {
            let _ = fs::remove_dir_all(directory);
        }
        let _ = fs::remove_file(self.file());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.empty();
    }
}

/// Beside the profile's directory, so that data lies on the same disk as the build.
fn default_directory() -> Result<PathBuf> {
    let own = std::env::current_exe().tried(|| "find the own program".to_owned())?;
    let target = own.parent().and_then(Path::parent);
    let target = target.ok_or_else(|| BenchError::failed("name a directory with --data"))?;
    Ok(target.join("bench"))
}

fn program() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("ISTHMUS_BIN") {
        return Ok(program.into());
    }
    let own = std::env::current_exe().tried(|| "find the own program".to_owned())?;
    let program = own.with_file_name("isthmus");
    if program.exists() {
        return Ok(program);
    }
    let text = format!("{} is missing: cargo build --release -p isthmus", program.display());
    Err(BenchError::Failed(text))
}

/// How much memory an engine has for rows. The engine takes both together: blocks and buffers
/// share one bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Memory {
    /// For blocks read from disk.
    cache_bytes: u64,
    /// For rows not yet on disk.
    write_buffer_bytes: u64,
}

impl Memory {
    /// The least a configuration may say of either.
    const EACH_MIN: u64 = 8 * MIB;

    /// All rows fit twice, and it is no less than the product's default.
    pub(crate) fn holding(rows: u64) -> Memory {
        Memory::at_least(rows * ROW_BYTES as u64 * 2)
    }

    /// So many bytes, and no less than the product's default.
    pub(crate) fn at_least(bytes: u64) -> Memory {
        Memory::of(bytes.max(160 * MIB))
    }

    /// A quarter of the rows fits, as far as the product's least sizes allow.
    pub(crate) fn quarter_of(rows: u64) -> Memory {
        Memory::of(rows * ROW_BYTES as u64 / 4)
    }

    /// So many bytes, as far as the product's least sizes allow.
    pub(crate) fn of(total: u64) -> Memory {
        let write_buffer_bytes = (total * 2 / 5).max(Memory::EACH_MIN);
        let cache_bytes = total.saturating_sub(write_buffer_bytes).max(Memory::EACH_MIN);
        Memory { cache_bytes, write_buffer_bytes }
    }

    /// Both together.
    pub(crate) fn total(self) -> u64 {
        self.cache_bytes + self.write_buffer_bytes
    }

    /// What the table is to the cache, in words.
    pub(crate) fn words(self, rows: u64) -> String {
        self.words_for(rows * ROW_BYTES as u64)
    }

    /// What a table of so many bytes is to the cache, in words.
    pub(crate) fn words_for(self, table_bytes: u64) -> String {
        let times = table_bytes as f64 / self.total() as f64;
        if times <= 1.0 { "in cache".to_owned() } else { format!("{times:.1} x cache") }
    }
}

#[derive(Debug, Deserialize)]
struct Up {
    instance: String,
    access_key_id: String,
    access_key_secret: String,
    regions: Vec<UpRegion>,
}

#[derive(Debug, Deserialize)]
struct UpRegion {
    name: String,
    endpoint: String,
    admin: String,
    pid: u32,
    config: PathBuf,
}

/// What is read of a region's status.
#[derive(Debug, Deserialize)]
struct Status {
    links: Vec<Link>,
}

#[derive(Debug, Deserialize)]
struct Link {
    table: String,
    from: String,
    to: String,
    state: String,
    lag_entries: u64,
}

/// Where regions lie and listen.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    directory: PathBuf,
    base_port: u16,
    log: String,
}

/// What is set in the files of all regions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Memory of each.
    pub(crate) memory: Memory,
    /// Whether they keep digests.
    pub(crate) digests: bool,
}

impl From<Memory> for Settings {
    fn from(memory: Memory) -> Settings {
        Settings { memory, digests: true }
    }
}

/// Regions that run.
pub(crate) struct Cluster {
    spot: Spot,
    up: Up,
    child: Child,
    /// Regions that were stopped and started again, by place.
    started: BTreeMap<usize, Started>,
    /// Kept open: `up` must not find its reader gone.
    _answers: BufReader<ChildStdout>,
}

impl Cluster {
    /// Makes the files of so many regions with these settings, in an empty directory, and starts
    /// them.
    pub(crate) fn fresh(
        options: &Options,
        place: &Place,
        regions: u8,
        settings: impl Into<Settings>,
    ) -> Result<Cluster> {
        Cluster::fresh_at(place.spot(options, 0), regions, settings)
    }

    /// The same in a directory of their own.
    pub(crate) fn fresh_at(
        spot: Spot,
        regions: u8,
        settings: impl Into<Settings>,
    ) -> Result<Cluster> {
        Cluster::start(spot, regions, true)?.restart(settings)
    }

    /// Stops the regions and starts them with these settings.
    pub(crate) fn restart(self, settings: impl Into<Settings>) -> Result<Cluster> {
        self.restart_after(settings, |_| Ok(()))
    }

    /// Stops the regions, does something with the files of their configuration and starts them
    /// again.
    pub(crate) fn restart_after(
        self,
        settings: impl Into<Settings>,
        change: impl FnOnce(&[PathBuf]) -> Result<()>,
    ) -> Result<Cluster> {
        let settings = settings.into();
        let files: Vec<PathBuf> = self.up.regions.iter().map(|r| r.config.clone()).collect();
        let regions = u8::try_from(files.len()).unwrap_or(u8::MAX);
        let spot = self.spot.clone();
        drop(self);
        for file in &files {
            set(file, settings)?;
        }
        change(&files)?;
        Cluster::start(spot, regions, false)
    }

    fn start(spot: Spot, regions: u8, fresh: bool) -> Result<Cluster> {
        let program = program()?;
        let mut command = guarded(&program)?;
        command
            .args(["up", "--json", "--log", &spot.log])
            .args(["--regions", &regions.to_string()])
            .args(["--base-port", &spot.base_port.to_string()])
            .arg("--data")
            .arg(&spot.directory);
        if fresh {
            command.arg("--fresh");
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .tried(|| format!("start {}", program.display()))?;
        match announced(&mut child) {
            Ok((up, answers)) => {
                let started = BTreeMap::new();
                Ok(Cluster { spot, up, child, started, _answers: answers })
            }
            Err(error) => {
                end(&mut child, STOP);
                Err(error)
            }
        }
    }

    fn access(&self) -> Access {
        Access {
            instance: self.up.instance.clone(),
            id: self.up.access_key_id.clone(),
            secret: self.up.access_key_secret.clone(),
        }
    }

    fn region(&self, place: usize) -> Result<&UpRegion> {
        self.up.regions.get(place).ok_or_else(|| BenchError::failed("no such region"))
    }

    /// A region's public port.
    pub(crate) fn target(&self, place: usize) -> Result<Target> {
        let address = self.region(place)?.endpoint.trim_start_matches("http://").to_owned();
        Ok(Target { address, access: self.access() })
    }

    /// A region's process.
    pub(crate) fn pid(&self, place: usize) -> Result<u32> {
        Ok(self.region(place)?.pid)
    }

    /// The processes of all regions, the first one's first.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.up.regions.iter().map(|region| region.pid).collect()
    }

    /// Makes the table in the first region and, where there are others, its replicas there.
    pub(crate) fn create_table(&self) -> Result<()> {
        self.create_lone_table()?;
        if self.up.regions.len() > 1 { self.create_replicas(CATCH_UP) } else { Ok(()) }
    }

    /// Makes the table in the first region.
    pub(crate) fn create_lone_table(&self) -> Result<()> {
        let key = KeyColumn { name: KEY.into(), kind: KeyKind::String, auto_increment: false };
        self.create_lone_table_of(vec![key])
    }

    /// The same with another key.
    pub(crate) fn create_lone_table_of(&self, key_columns: Vec<KeyColumn>) -> Result<()> {
        let create = CreateTable {
            table: TABLE.into(),
            key_columns,
            defined_columns: Vec::new(),
            options: OptionsChange {
                time_to_live: Some(-1),
                max_versions: Some(1),
                ..OptionsChange::default()
            },
            reserved: ThroughputChange { read: Some(0), write: Some(0) },
            split_points: Vec::new(),
        };
        self.call("/CreateTable", &Operation::CreateTable(create))?;
        Ok(())
    }

    /// Makes replicas of the table in all other regions and waits until they hold its rows.
    pub(crate) fn create_replicas(&self, limit: Duration) -> Result<()> {
        let id = self.bind_replicas()?;
        self.await_replicas(&id, limit)
    }

    /// Lets all other regions begin to copy the table; gives the global table's id.
    pub(crate) fn bind_replicas(&self) -> Result<String> {
        let (base, others) =
            self.up.regions.split_first().ok_or_else(|| BenchError::failed("no regions"))?;
        let instance = &self.up.instance;
        let placement = |region: &UpRegion| Placement {
            region: region.name.clone(),
            instance: instance.clone(),
            writable: false,
        };
        let create = CreateGlobalTable {
            base: TablePlace {
                region: base.name.clone(),
                instance: instance.clone(),
                table: TABLE.to_owned(),
            },
            placements: others.iter().map(placement).collect(),
            sync_mode: SyncMode::Row,
            serve_mode: Some(ServeMode::PrimarySecondary),
        };
        let answer = self.call("/CreateGlobalTable", &Operation::CreateGlobalTable(create))?;
        Ok(decode_global_table(answer)?.id)
    }

    /// Waits until all replicas hold the table's rows.
    pub(crate) fn await_replicas(&self, id: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let describe = Operation::DescribeGlobalTable(DescribeGlobalTable {
                id: Some(id.to_owned()),
                name: TABLE.to_owned(),
                replica: None,
                return_rpo: false,
            });
            let answer = self.call("/DescribeGlobalTable", &describe)?;
            if decode_describe_global_table(answer)?.status == GlobalTableStatus::Active {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(BenchError::failed("the replicas do not come into use"));
            }
            std::thread::sleep(POLL);
        }
    }

    /// One call to the first region.
    fn call(&self, path: &str, operation: &Operation) -> Result<Bytes> {
        let target = self.target(0)?;
        let prepared = Prepared::new(encode_request(operation));
        let (status, body) = runtime()?.block_on(async {
            let mut connection = Connection::open(&target).await?;
            let answer = connection.exchange(path, &prepared, true).await?;
            let body = Bytes::copy_from_slice(connection.body(answer));
            Ok::<_, BenchError>((answer.status, body))
        })?;
        if status == 200 {
            return Ok(body);
        }
        let error = decode_error(body)?;
        Err(BenchError::Failed(format!("{path}: {}: {}", error.code, error.message)))
    }

    /// Entries that the first region's links have not yet brought over, the slowest link's.
    /// Without replicas 0; `None` while a link does not follow.
    pub(crate) fn behind(&self) -> Result<Option<u64>> {
        if self.up.regions.len() == 1 {
            return Ok(Some(0));
        }
        let status = self.status()?;
        let own = &self.region(0)?.name;
        let links: Vec<&Link> =
            status.links.iter().filter(|link| link.table == TABLE && link.from == *own).collect();
        let others = &self.up.regions[1..];
        if !others.iter().all(|other| links.iter().any(|link| link.to == other.name)) {
            return Ok(None);
        }
        if links.iter().any(|link| link.state != "following") {
            return Ok(None);
        }
        Ok(links.iter().map(|link| link.lag_entries).max())
    }

    fn status(&self) -> Result<Status> {
        let body = self.administer("GET", "/v1/status", Bytes::new())?;
        serde_json::from_slice(&body)
            .map_err(|error| BenchError::Failed(format!("status cannot be read: {error}")))
    }

    /// Sets when writes of the table are answered; `mode` is JSON.
    pub(crate) fn set_mode(&self, mode: &str) -> Result<()> {
        self.change_table(format!(r#"{{"change":"set-mode","mode":{mode}}}"#))
    }

    /// Holds copies to a share of one processor at their origin.
    pub(crate) fn hold_copies(&self, percent: u8) -> Result<()> {
        self.change_table(format!(r#"{{"change":"set-link","copy_cpu_percent":{percent}}}"#))
    }

    fn change_table(&self, change: String) -> Result<()> {
        let target = format!("/v1/global-tables/{TABLE}/changes");
        self.administer("POST", &target, change.into()).map(drop)
    }

    /// The first region's administration port.
    pub(crate) fn admin(&self) -> Result<Target> {
        let address = self.region(0)?.admin.trim_start_matches("http://").to_owned();
        Ok(Target { address, access: self.access() })
    }

    /// One call to the first region's administration port.
    fn administer(&self, method: &str, target: &str, body: Bytes) -> Result<Bytes> {
        let admin = self.admin()?;
        runtime()?.block_on(async {
            let mut connection = Connection::open(&admin).await?;
            let answer = connection.administer(method, target, body).await?;
            Ok::<_, BenchError>(Bytes::copy_from_slice(connection.body(answer)))
        })
    }

    /// Waits until every replica holds everything; gives how long that took.
    pub(crate) fn catch_up(&self) -> Result<Duration> {
        let start = Instant::now();
        while self.behind()? != Some(0) {
            if start.elapsed() > CATCH_UP {
                let text = format!("the links do not catch up within {} s", CATCH_UP.as_secs());
                return Err(BenchError::Failed(text));
            }
            std::thread::sleep(POLL);
        }
        Ok(start.elapsed())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !end(&mut self.child, STOP) {
            // They stop when `up` is gone; these are in a hurry.
            for region in &self.up.regions {
                if is_region(region) {
                    signal(region.pid, Signal::KILL);
                }
            }
        }
    }
}

/// Whether the process still is that region's.
fn is_region(region: &UpRegion) -> bool {
    let config = region.config.display().to_string();
    fs::read(format!("/proc/{}/cmdline", region.pid))
        .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&config))
}

/// Waits for the line that `up` prints once all regions serve; it has a bound of its own.
fn announced(child: &mut Child) -> Result<(Up, BufReader<ChildStdout>)> {
    let output = child.stdout.take().ok_or_else(|| BenchError::failed("no output to read"))?;
    let mut output = BufReader::new(output);
    let mut line = String::new();
    output.read_line(&mut line).tried(|| "read what `isthmus up` prints".to_owned())?;
    let up = serde_json::from_str(&line)
        .map_err(|error| BenchError::Failed(format!("`isthmus up` did not come up: {error}")))?;
    Ok((up, output))
}

fn set(file: &Path, settings: Settings) -> Result<()> {
    let shown = file.display();
    let text = fs::read_to_string(file).tried(|| format!("read {shown}"))?;
    let text = with_settings(&text, settings)
        .ok_or_else(|| BenchError::Failed(format!("{shown} has another form")))?;
    fs::write(file, text).tried(|| format!("write {shown}"))
}

fn with_settings(text: &str, settings: Settings) -> Option<String> {
    let mut config: toml::Table = text.parse().ok()?;
    let storage = config.get_mut("storage")?.as_table_mut()?;
    let Settings { memory, digests } = settings;
    for (key, bytes) in
        [("cache_bytes", memory.cache_bytes), ("write_buffer_bytes", memory.write_buffer_bytes)]
    {
        storage.insert(key.to_owned(), toml::Value::Integer(i64::try_from(bytes).ok()?));
    }
    storage.insert("digests".to_owned(), toml::Value::Boolean(digests));
    toml::to_string(&config).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_set_and_the_rest_of_the_file_kept() {
        let text = "[region]\nname = \"r1\"\n[storage]\ndata = \"data\"\ncache_bytes = 5\n";
        let memory = Memory { cache_bytes: 7, write_buffer_bytes: 9 };
        let settings = Settings { memory, digests: false };
        let changed: toml::Table = with_settings(text, settings).unwrap().parse().unwrap();
        assert_eq!(changed["storage"]["digests"].as_bool(), Some(false));
        assert_eq!(changed["storage"]["cache_bytes"].as_integer(), Some(7));
        assert_eq!(changed["storage"]["write_buffer_bytes"].as_integer(), Some(9));
        assert_eq!(changed["storage"]["data"].as_str(), Some("data"));
        assert_eq!(changed["region"]["name"].as_str(), Some("r1"));
        assert_eq!(with_settings("[region]", settings), None);
    }

    #[test]
    fn a_table_is_in_the_cache_or_some_times_as_large() {
        assert_eq!(Memory::holding(80_000).words(80_000), "in cache");
        assert_eq!(Memory::quarter_of(80_000).words(80_000), "4.0 x cache");
        assert_eq!(Memory::quarter_of(16_384).words(16_384), "in cache");
    }
}
