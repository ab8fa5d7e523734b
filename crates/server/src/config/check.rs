//! Reads a configuration file and checks what its types cannot say.
//!
//! What must hold: the first thing found wrong is told in one line with file, line and key, and
//! no secret is in it. Files named by the configuration are checked here too, so that a region
//! does not come up half and fail at its first peer.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use isthmus_replication::frame::FORMAT;

use super::{
    AdminConfig, Config, ConfigError, FILE_BYTES_MAX, MetricsConfig, Secret, TraceConfig,
    UP_ACCESS_KEY_SECRET,
};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;
/// Characters of a token: enough that nobody guesses it.
const TOKEN_BYTES: RangeInclusive<usize> = 16..=1024;
/// Bytes of a file that holds one secret.
const SECRET_BYTES_MAX: u64 = 4096;

/// What a GiB may cost.
const PRICE_MAX: f64 = 1e6;
/// Labels of a region, and bytes of their names and values.
const LABELS_MAX: usize = 16;
const LABEL_BYTES: RangeInclusive<usize> = 1..=64;

/// How long a lease may be, in milliseconds.
pub(super) const LEASE_MS: RangeInclusive<u64> = 500..=60_000;
/// Voters of a quorum.
pub(super) const VOTERS: Voters = Voters { min: 3, max: isthmus_registry::MEMBERS_MAX };

/// How many there may be.
pub(super) struct Voters {
    pub(super) min: usize,
    pub(super) max: usize,
}

/// What is wrong: with which key, and why.
pub(super) type Finding = (String, String);

pub(super) fn load(file: &Path) -> Result<Config, ConfigError> {
    load_by(file, |config: &mut Config, directory| {
        resolve(config, directory);
        read_secrets(config).and_then(|()| check(config))
    })
}

/// Reads a file and lets `finish` give what is in it the form in which it is used, or say what is
/// wrong with it.
pub(super) fn load_by<T: serde::de::DeserializeOwned>(
    file: &Path,
    finish: impl FnOnce(&mut T, &Path) -> Result<(), Finding>,
) -> Result<T, ConfigError> {
    let text = read(file)?;
    let mut config: T = toml::from_str(&text).map_err(|error| of_toml(file, &text, &error))?;
    let directory = file.parent().unwrap_or(Path::new(""));
    finish(&mut config, directory).map_err(|(key, message)| ConfigError::Wrong {
        file: file.into(),
        line: line_of_key(&text, &key),
        key,
        message,
    })?;
    Ok(config)
}

fn read(file: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { file: file.into(), source };
    let opened = std::fs::File::open(file).map_err(failed)?;
    let bytes = opened.metadata().map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge { file: file.into(), bytes });
    }
    let mut text = String::new();
    // A pipe has no size: the bound holds for what is read, too.
    opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ConfigError::TooLarge { file: file.into(), bytes: text.len() as u64 });
    }
    if text.trim().is_empty() {
        return Err(ConfigError::Empty { file: file.into() });
    }
    Ok(text)
}

/// Gives paths and URLs the form in which the program uses them.
fn resolve(config: &mut Config, directory: &Path) {
    let files = [&mut config.peer.certificate, &mut config.peer.key, &mut config.peer.authority];
    let secrets = config.credentials.iter_mut().map(|key| &mut key.access_key_secret_file);
    let tokens = [&mut config.metrics.token_file, &mut config.admin.trigger_token_file];
    for path in files.into_iter().chain(secrets).chain(tokens).flatten() {
        *path = directory.join(&path);
    }
    config.storage.data = directory.join(&config.storage.data);
    if config.public.endpoint.is_empty() {
        config.public.endpoint = format!("http://{}", config.public.listen);
    }
    if config.admin.endpoint.is_empty() {
        config.admin.endpoint = format!("http://{}", config.admin.listen);
    }
}

fn read_secrets(config: &mut Config) -> Result<(), Finding> {
    for (place, credential) in config.credentials.iter_mut().enumerate() {
        let key = |name: &str| format!("credentials[{place}].{name}");
        match (&credential.access_key_secret, &credential.access_key_secret_file) {
            (Some(_), Some(_)) => {
                let message = "is given twice; leave access_key_secret or this one out";
                return wrong(key("access_key_secret_file"), message);
            }
            (None, None) => {
                let message = "is missing; give it or access_key_secret_file";
                return wrong(key("access_key_secret"), message);
            }
            (Some(_), None) => {}
            (None, Some(path)) => {
                let secret = read_secret(path).map_err(|m| (key("access_key_secret_file"), m))?;
                credential.access_key_secret = Some(secret);
                // From here on the value counts, wherever it came from.
                credential.access_key_secret_file = None;
            }
        }
    }
    let MetricsConfig { token, token_file, .. } = &mut config.metrics;
    read_token("metrics.token", token, token_file)?;
    let AdminConfig { trigger_token, trigger_token_file, .. } = &mut config.admin;
    read_token("admin.trigger_token", trigger_token, trigger_token_file)
}

fn read_token(
    name: &str,
    token: &mut Option<Secret>,
    file: &mut Option<PathBuf>,
) -> Result<(), Finding> {
    let Some(path) = file.take() else { return Ok(()) };
    let key = format!("{name}_file");
    if token.is_some() {
        return wrong(key, format!("is given twice; leave {name} or this one out"));
    }
    // From here on the value counts, wherever it came from.
    *token = Some(read_secret(&path).map_err(|message| (key, message))?);
    Ok(())
}

fn read_secret(path: &Path) -> Result<Secret, String> {
    owner_only(path)?;
    let mut text = String::new();
    let opened = std::fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    opened
        .take(SECRET_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| unreadable(path, &error))?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("{} has more than {SECRET_BYTES_MAX} bytes", path.display()));
    }
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

fn check(config: &Config) -> Result<(), Finding> {
    check_names(config)?;
    check_ranges(config)?;
    check_addresses(config)?;
    check_others(config)?;
    check_quorum(config)?;
    check_peer_files(config)?;
    check_token("metrics.token", config.metrics.token.as_ref())?;
    check_token("admin.trigger_token", config.admin.trigger_token.as_ref())?;
    check_trace(&config.trace)?;
    check_credentials(config)
}

fn check_names(config: &Config) -> Result<(), Finding> {
    if !is_instance_name(&config.instance.name) {
        return wrong("instance.name", INSTANCE_RULE);
    }
    if !is_region_name(&config.region.name) {
        return wrong("region.name", REGION_RULE);
    }
    if config.region.number == 0 {
        return wrong("region.number", "is 0, it must be in 1 to 255");
    }
    let price = config.region.price_per_gib_egress.unwrap_or(0.0);
    if !(0.0..=PRICE_MAX).contains(&price) {
        let message = format!("is {price}, it must be in 0 to {PRICE_MAX}");
        return wrong("region.price_per_gib_egress", message);
    }
    let labels = &config.region.labels;
    let mut texts = labels.iter().flat_map(|(key, value)| [key, value]);
    if labels.len() > LABELS_MAX || texts.any(|text| !LABEL_BYTES.contains(&text.len())) {
        let message = format!("has at most {LABELS_MAX} labels, of 1 to 64 bytes each");
        return wrong("region.labels", message);
    }
    if config.storage.data.as_os_str().is_empty() {
        return wrong("storage.data", "is empty, it names the directory of all data");
    }
    Ok(())
}

fn check_ranges(config: &Config) -> Result<(), Finding> {
    let (storage, public, peer) = (&config.storage, &config.public, &config.peer);
    let (verify, scrub) = (&config.verify, &config.scrub);
    let lease_ms = config.quorum.clone().unwrap_or_default().lease_ms;
    let all: [(&str, u64, RangeInclusive<u64>); 23] = [
        ("instance.table_quota", config.instance.table_quota.into(), 1..=1_000_000),
        ("storage.cache_bytes", storage.cache_bytes, 8 * MIB..=TIB),
        ("storage.write_buffer_bytes", storage.write_buffer_bytes, 8 * MIB..=64 * GIB),
        ("storage.log_tail_bytes", storage.log_tail_bytes, MIB..=64 * GIB),
        ("storage.past_bytes", storage.past_bytes, 0..=64 * GIB),
        ("storage.space_reserve_bytes", storage.space_reserve_bytes, 0..=TIB),
        ("public.connections_max", public.connections_max as u64, 1..=1_000_000),
        ("public.requests_max", public.requests_max as u64, 1..=100_000),
        ("public.request_bytes_max", public.request_bytes_max as u64, 64 * KIB..=64 * MIB),
        ("peer.clock_skew_max_ms", peer.clock_skew_max_ms, 1..=3_600_000),
        ("peer.parcel_bytes_max", peer.parcel_bytes_max as u64, 64 * KIB..=16 * MIB),
        ("peer.window_parcels", peer.window_parcels as u64, 1..=4096),
        ("peer.format_max", peer.format_max.unwrap_or(FORMAT).into(), 1..=FORMAT.into()),
        ("peer.reroute_after_ms", peer.reroute_after_ms, 1000..=3_600_000),
        ("log.keep_mib", config.log.keep_mib, 1..=16 * MIB),
        ("log.keep_hours", config.log.keep_hours.into(), 1..=8760),
        ("metrics.tables_max", config.metrics.tables_max as u64, 0..=10_000),
        ("probe.every_seconds", config.probe.every_seconds.into(), 0..=3600),
        ("probe.tables_max", config.probe.tables_max.into(), 0..=100),
        ("quorum.lease_ms", lease_ms, LEASE_MS),
        ("verify.auto_repair_rows_max", verify.auto_repair_rows_max, 1..=1_000_000),
        ("scrub.mib_per_second", scrub.mib_per_second.into(), 0..=1024),
        ("scrub.every_hours", scrub.every_hours.into(), 1..=8760),
    ];
    for (key, value, range) in all {
        if !range.contains(&value) {
            let (least, most) = range.into_inner();
            return wrong(key, format!("is {value}, it must be in {least} to {most}"));
        }
    }
    Ok(())
}

fn check_addresses(config: &Config) -> Result<(), Finding> {
    let (public, admin) = (config.public.listen, config.admin.listen);
    let peer = config.peer.listen;
    if collide(public, admin) {
        return wrong("admin.listen", format!("{admin} is the address of public.listen too"));
    }
    if collide(public, peer) {
        return wrong("peer.listen", format!("{peer} is the address of public.listen too"));
    }
    if collide(admin, peer) {
        return wrong("peer.listen", format!("{peer} is the address of admin.listen too"));
    }
    for (key, url) in
        [("public.endpoint", &config.public.endpoint), ("admin.endpoint", &config.admin.endpoint)]
    {
        if !is_url(url) {
            return wrong(key, URL_RULE);
        }
    }
    Ok(())
}

/// Port 0 is a port of the system's choice, so it never collides.
pub(super) fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_place = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && same_place
}

fn check_others(config: &Config) -> Result<(), Finding> {
    let mut names = BTreeSet::from([config.region.name.as_str()]);
    let mut numbers = BTreeSet::from([config.region.number]);
    for (place, region) in config.regions.iter().enumerate() {
        let key = |name: &str| format!("regions[{place}].{name}");
        if !is_region_name(&region.name) {
            return wrong(key("name"), REGION_RULE);
        }
        if !names.insert(&region.name) {
            return wrong(key("name"), format!("{} is the name of another region", region.name));
        }
        if region.number == 0 {
            return wrong(key("number"), "is 0, it must be in 1 to 255");
        }
        if !numbers.insert(region.number) {
            let message = format!("{} is the number of another region", region.number);
            return wrong(key("number"), message);
        }
        if region.peer.as_ref().is_some_and(|peer| !is_host_and_port(peer)) {
            return wrong(key("peer"), "is no host:port");
        }
        if !is_url(&region.endpoint) {
            return wrong(key("endpoint"), URL_RULE);
        }
        if region.instance.as_deref().is_some_and(|name| !is_instance_name(name)) {
            return wrong(key("instance"), INSTANCE_RULE);
        }
    }
    Ok(())
}

fn check_quorum(config: &Config) -> Result<(), Finding> {
    let Some(quorum) = &config.quorum else { return Ok(()) };
    if let Some(place) = config.regions.iter().position(|region| region.peer.is_none()) {
        let message = "is missing; with [quorum] every region must be dialled by the others";
        return wrong(format!("regions[{place}].peer"), message);
    }
    let mut names: BTreeSet<&str> =
        config.regions.iter().map(|region| region.name.as_str()).collect();
    names.insert(&config.region.name);
    let mut numbers: BTreeSet<u8> = config.regions.iter().map(|region| region.number).collect();
    numbers.insert(config.region.number);
    if let Some(witness) = &quorum.witness {
        let key = |name: &str| format!("quorum.witness.{name}");
        if !is_region_name(&witness.name) {
            return wrong(key("name"), REGION_RULE);
        }
        if !names.insert(&witness.name) {
            return wrong(key("name"), format!("{} is the name of a region", witness.name));
        }
        if witness.number == 0 {
            return wrong(key("number"), "is 0, it must be in 1 to 255");
        }
        if !numbers.insert(witness.number) {
            let message = format!("{} is the number of a region", witness.number);
            return wrong(key("number"), message);
        }
        if !is_host_and_port(&witness.peer) {
            return wrong(key("peer"), "is no host:port");
        }
    }
    check_voters(&quorum.voters, &names)?;
    let slow = quorum.disk_slow().as_millis() as u64;
    if !(50..=quorum.lease_ms).contains(&slow) {
        let message = format!("is {slow}, it must be in 50 to lease_ms, {}", quorum.lease_ms);
        return wrong("quorum.disk_slow_ms", message);
    }
    let lease = (quorum.detection, quorum.lease_ms);
    quorum.suspicion.check("quorum.suspicion", lease, names.len() - 1)
}

/// Every region votes, so that it knows who may write; few do, since all are waited for.
fn check_voters(voters: &[String], names: &BTreeSet<&str>) -> Result<(), Finding> {
    if names.len() < VOTERS.min {
        let message = format!(
            "has {} voters, at least {} are needed to outlive one of them; add [quorum.witness], \
             or leave [quorum] out and fail over by hand",
            names.len(),
            VOTERS.min
        );
        return wrong("quorum", message);
    }
    if names.len() > VOTERS.max {
        let message = format!("has {} voters, {} are the most", names.len(), VOTERS.max);
        return wrong("quorum", message);
    }
    if voters.is_empty() {
        return Ok(());
    }
    let listed: BTreeSet<&str> = voters.iter().map(String::as_str).collect();
    if listed.len() < voters.len() {
        return wrong("quorum.voters", "names one twice");
    }
    if let Some(unknown) = listed.difference(names).next() {
        let message = format!("{unknown} is no region of this file and not the witness");
        return wrong("quorum.voters", message);
    }
    if let Some(missing) = names.difference(&listed).next() {
        let message = format!("{missing} is missing; all regions and the witness have a vote");
        return wrong("quorum.voters", message);
    }
    Ok(())
}

fn check_peer_files(config: &Config) -> Result<(), Finding> {
    let peer = &config.peer;
    for (key, path) in [
        ("peer.certificate", &peer.certificate),
        ("peer.key", &peer.key),
        ("peer.authority", &peer.authority),
    ] {
        match path {
            None if config.regions.is_empty() => {}
            None => return wrong(key, "is missing; it is needed where [[regions]] are given"),
            Some(path) => {
                if let Err(error) = std::fs::File::open(path) {
                    return wrong(key, unreadable(path, &error));
                }
            }
        }
    }
    match &peer.key {
        Some(path) => owner_only(path).map_err(|message| ("peer.key".to_owned(), message)),
        None => Ok(()),
    }
}

fn check_token(name: &str, token: Option<&Secret>) -> Result<(), Finding> {
    let Some(token) = token else { return Ok(()) };
    let token = token.expose();
    if !TOKEN_BYTES.contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let (least, most) = TOKEN_BYTES.into_inner();
        let message = format!("must be {least} to {most} visible ASCII characters");
        return wrong(name, message);
    }
    Ok(())
}

fn check_trace(trace: &TraceConfig) -> Result<(), Finding> {
    if trace.endpoint.as_deref().is_some_and(|url| !is_url(url) || url.starts_with("https")) {
        return wrong("trace.endpoint", "must be a URL like http://host:port; https is not spoken");
    }
    if !(0.0..=1.0).contains(&trace.sample) {
        return wrong("trace.sample", format!("is {}, it must be in 0 to 1", trace.sample));
    }
    Ok(())
}

fn check_credentials(config: &Config) -> Result<(), Finding> {
    if config.credentials.is_empty() {
        return wrong("credentials", "none is given; nobody could call this region");
    }
    let mut ids = BTreeSet::new();
    for (place, credential) in config.credentials.iter().enumerate() {
        let key = |name: &str| format!("credentials[{place}].{name}");
        let id = credential.access_key_id.as_str();
        if id.is_empty() || id.len() > 128 || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong(key("access_key_id"), "must be 1 to 128 visible ASCII characters");
        }
        if !ids.insert(id) {
            return wrong(key("access_key_id"), format!("{id} is given twice"));
        }
        if credential.secret().trim().is_empty() {
            return wrong(key("access_key_secret"), "is empty");
        }
        // The secret of `up` is in the documentation: it must not guard an open port.
        if credential.secret() == UP_ACCESS_KEY_SECRET && !config.public.listen.ip().is_loopback() {
            let message = "is the public secret of `isthmus up`; choose another one, or listen \
                           on a loopback address";
            return wrong(key("access_key_secret"), message);
        }
        if credential.security_token.as_ref().is_some_and(|token| token.expose().is_empty()) {
            return wrong(key("security_token"), "is empty");
        }
        if credential.expires.as_deref().is_some_and(|text| utc_millis(text).is_none()) {
            return wrong(key("expires"), "is no time like 2030-01-31T12:00:00Z");
        }
    }
    Ok(())
}

const INSTANCE_RULE: &str =
    "must be 3 to 16 letters, digits or '-', with a letter first and no '-' last";
pub(super) const REGION_RULE: &str =
    "must be 1 to 64 letters, digits or '-', with a letter first and no '-' last";
pub(super) const URL_RULE: &str = "must be a URL like http://host:port";

fn is_instance_name(name: &str) -> bool {
    (3..=16).contains(&name.len()) && is_name(name)
}

pub(super) fn is_region_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && is_name(name)
}

fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && !name.ends_with('-')
}

pub(super) fn is_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|host| {
        let host = host.split('/').next().unwrap_or_default();
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic())
    })
}

pub(super) fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let is_host = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic());
        is_host && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

pub(super) fn owner_only(path: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(format!("{path} has mode {mode:03o}, others can read it; do: chmod 600 {path}"))
}

pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> String {
    format!("{} cannot be read: {error}", path.display())
}

pub(super) fn wrong<T>(key: impl Into<String>, message: impl Into<String>) -> Result<T, Finding> {
    Err((key.into(), message.into()))
}

/// Milliseconds since the Unix epoch of a time like `2030-01-31T12:00:00Z`; a fraction of a
/// second may be given and is kept to the millisecond.
pub(super) fn utc_millis(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let bytes = whole.as_bytes();
    if bytes.len() != 19 || separators.iter().any(|(place, byte)| bytes[*place] != *byte) {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        let all = digits.iter().all(u8::is_ascii_digit);
        all.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let valid = (1..=12).contains(&month)
        && (1..=days_of_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !valid || fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let millis = fraction.bytes().chain(*b"000").take(3);
    let millis = millis.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    let seconds = (days(year, month, day) * 24 + hour) * 3600 + minute * 60 + second;
    Some(seconds * 1000 + millis)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since the Unix epoch.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let before = year - 1;
    let days_before_year = before * 365 + before / 4 - before / 100 + before / 400;
    let days_before_month: i64 = (1..month).map(|month| days_of_month(year, month)).sum();
    // 719 162 days lie between the first day of year 1 and the epoch.
    days_before_year + days_before_month + day - 1 - 719_162
}

fn of_toml(file: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    let line = 1 + text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
    let message = error.message().replace('\n', ", ");
    ConfigError::Wrong { file: PathBuf::from(file), line, key: key_at(text, line), message }
}

/// The key that stands in a line, with its table. A line without one names its table.
fn key_at(text: &str, line: usize) -> String {
    let tables = tables_by_line(text);
    let table = tables.get(line - 1).cloned().unwrap_or_default();
    let text = text.lines().nth(line - 1).unwrap_or_default().trim();
    match text.split_once('=') {
        Some((key, _)) if table.is_empty() => key.trim().to_owned(),
        Some((key, _)) if !text.starts_with('[') => format!("{table}.{}", key.trim()),
        _ if table.is_empty() => "file".to_owned(),
        _ => table,
    }
}

/// The table each line belongs to; those of arrays are numbered from 0.
fn tables_by_line(text: &str) -> Vec<String> {
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    let mut table = String::new();
    let mut all = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(name) = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
            let name = name.trim();
            let count = counts.entry(name.to_owned()).or_default();
            table = format!("{name}[{count}]");
            *count += 1;
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = name.trim().to_owned();
        }
        all.push(table.clone());
    }
    all
}

/// The line of a key, or else of its table, or else the first.
fn line_of_key(text: &str, key: &str) -> usize {
    let (table, name) = key.rsplit_once('.').unwrap_or((key, ""));
    let tables = tables_by_line(text);
    let in_table = |place: &usize| tables[*place] == table;
    let is_key = |line: &str| line.split_once('=').is_some_and(|(found, _)| found.trim() == name);
    let mut lines = text.lines().enumerate().filter(|(place, _)| in_table(place));
    let of_table = lines.clone().next();
    lines.find(|(_, line)| is_key(line)).or(of_table).map_or(1, |(place, _)| place + 1)
}
