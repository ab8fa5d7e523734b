//! The files of `isthmus up`: one directory, one folder per region.
//!
//! ```text
//! DIR/up.json              what runs, for client commands
//! DIR/up.lock              held while `up` runs
//! DIR/metrics.token        who bears it may read the metrics of all regions
//! DIR/tls/                 authority and one certificate and key per region and witness
//! DIR/rN/isthmus.toml      the region's configuration
//! DIR/rN/log.txt           its log
//! DIR/rN/data/             its data
//! DIR/w1/                  the same of the witness, if there is one
//! ```
//!
//! What must hold: a file that a person changed is kept as long as it still describes the same
//! regions; keys and secrets are readable by their owner only; emptying the directory removes
//! what `up` made and nothing else.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use isthmus_server::config::witness::{OwnConfig, VoterConfig, WitnessFile};
use isthmus_server::config::{
    AdminConfig, Config, CredentialConfig, InstanceConfig, LogConfig, MetricsConfig,
    OtherRegionConfig, PeerConfig, ProbeConfig, PublicConfig, QuorumConfig, RegionConfig,
    ScrubConfig, Secret, StorageConfig, TraceConfig, UP_ACCESS_KEY_ID, UP_ACCESS_KEY_SECRET,
    UP_INSTANCE, VerifyConfig, WitnessConfig,
};

use rand::TryRngCore;
use rand::rngs::OsRng;

use crate::error::CliError;
use crate::target::UP_FILE;
use crate::up::tls;

pub(super) const CONFIG_FILE: &str = "isthmus.toml";
pub(super) const LOG_FILE: &str = "log.txt";
const LOCK_FILE: &str = "up.lock";
const TOKEN_FILE: &str = "metrics.token";
const DATA: &str = "data";
/// The witness and its number, which no region has.
pub(super) const WITNESS: &str = "w1";
const WITNESS_NUMBER: u8 = 200;
const TLS: &str = "tls";
const HEAD: &str = "\
# Written by `isthmus up`, and kept as it is while it still describes the same regions on the
# same ports: change sizes and limits as you like.
";

/// Where everything of one `up` is.
pub(super) struct Layout {
    pub(super) directory: PathBuf,
    pub(super) regions: u8,
    pub(super) base_port: u16,
    pub(super) table_quota: u32,
    /// The regions decide together who writes when one is lost.
    pub(super) quorum: bool,
    /// With a witness.
    pub(super) witness: bool,
}

impl Layout {
    /// The name of a region.
    pub(super) fn name(number: u8) -> String {
        format!("r{number}")
    }

    pub(super) fn region_directory(&self, number: u8) -> PathBuf {
        self.directory.join(Layout::name(number))
    }

    pub(super) fn config_file(&self, number: u8) -> PathBuf {
        self.region_directory(number).join(CONFIG_FILE)
    }

    pub(super) fn witness_directory(&self) -> PathBuf {
        self.directory.join(WITNESS)
    }

    /// Where the witness listens: the peer port of a region 0, which does not exist.
    pub(super) fn witness_address(&self) -> SocketAddr {
        self.address(0, 2)
    }

    /// URL of a region's public port.
    pub(super) fn endpoint(&self, number: u8) -> String {
        format!("http://{}", self.address(number, 0))
    }

    /// URL of a region's administration port.
    pub(super) fn admin(&self, number: u8) -> String {
        format!("http://{}", self.address(number, 1))
    }

    /// Clients, administration and peers have the ports after BASE + 10 * N.
    fn address(&self, number: u8, port: u16) -> SocketAddr {
        let port = self.base_port + 10 * u16::from(number) + port;
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// Makes the directory and takes its lock.
    pub(super) fn lock(&self) -> Result<File, CliError> {
        let directory = &self.directory;
        std::fs::create_dir_all(directory).map_err(|error| at(directory, &error))?;
        let path = directory.join(LOCK_FILE);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| at(&path, &error))?;
        file.try_lock().map_err(|_| {
            CliError::failed(format!("another `isthmus up` runs in {}", directory.display()))
                .hint("stop that one, or give this one another place with --data and --base-port")
        })?;
        Ok(file)
    }

    /// Removes what earlier runs left.
    pub(super) fn empty(&self) -> Result<(), CliError> {
        let found =
            std::fs::read_dir(&self.directory).map_err(|error| at(&self.directory, &error))?;
        for entry in found {
            let entry = entry.map_err(|error| at(&self.directory, &error))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let path = entry.path();
            let removed = if is_region_name(&name) || name == WITNESS || name == TLS {
                std::fs::remove_dir_all(&path)
            } else if name == UP_FILE || name == TOKEN_FILE {
                std::fs::remove_file(&path)
            } else {
                Ok(())
            };
            removed.map_err(|error| at(&path, &error))?;
        }
        Ok(())
    }

    /// Writes what is missing or describes other regions.
    pub(super) fn write(&self) -> Result<(), CliError> {
        let mut names: Vec<String> = (1..=self.regions).map(Layout::name).collect();
        names.extend(self.witness.then(|| WITNESS.to_owned()));
        tls::write(&self.directory.join(TLS), &names)?;
        let token = self.directory.join(TOKEN_FILE);
        if !token.exists() {
            write_private(&token, &new_token()?)?;
        }
        for number in 1..=self.regions {
            let directory = self.region_directory(number);
            std::fs::create_dir_all(&directory).map_err(|error| at(&directory, &error))?;
            let file = directory.join(CONFIG_FILE);
            let wanted = self.config(number);
            if !self.is_kept(&file, &wanted) {
                write_private(&file, &format!("{HEAD}\n{}", wanted.to_toml()))?;
            }
        }
        match self.witness {
            true => self.write_witness(),
            false => Ok(()),
        }
    }

    fn write_witness(&self) -> Result<(), CliError> {
        let directory = self.witness_directory();
        std::fs::create_dir_all(&directory).map_err(|error| at(&directory, &error))?;
        let pem = |file: &str| PathBuf::from("..").join(TLS).join(file);
        let wanted = WitnessFile {
            witness: OwnConfig {
                name: WITNESS.to_owned(),
                number: WITNESS_NUMBER,
                listen: self.witness_address(),
                data: DATA.into(),
                certificate: pem(&format!("{WITNESS}.pem")),
                key: pem(&format!("{WITNESS}.key")),
                authority: pem("authority.pem"),
                lease_ms: QuorumConfig::default().lease_ms,
                detection: QuorumConfig::default().detection,
                suspicion: QuorumConfig::default().suspicion,
            },
            voters: (1..=self.regions)
                .map(|number| VoterConfig {
                    name: Layout::name(number),
                    number,
                    peer: self.address(number, 2).to_string(),
                })
                .collect(),
        };
        let file = directory.join(CONFIG_FILE);
        let is_kept = WitnessFile::load(&file).is_ok_and(|found| {
            found.voters == wanted.voters && found.witness.listen == wanted.witness.listen
        });
        match is_kept {
            true => Ok(()),
            false => write_private(&file, &format!("{HEAD}\n{}", wanted.to_toml())),
        }
    }

    /// Who decides, if anybody does.
    fn quorum_config(&self) -> Option<QuorumConfig> {
        let witness = self.witness.then(|| WitnessConfig {
            name: WITNESS.to_owned(),
            number: WITNESS_NUMBER,
            peer: self.witness_address().to_string(),
        });
        let mut voters: Vec<String> = (1..=self.regions).map(Layout::name).collect();
        voters.extend(self.witness.then(|| WITNESS.to_owned()));
        self.quorum.then(|| QuorumConfig { voters, witness, ..QuorumConfig::default() })
    }

    /// Whether the file describes this region among these others.
    fn is_kept(&self, file: &Path, wanted: &Config) -> bool {
        let Ok(found) = Config::load(file) else { return false };
        let voters = |config: &Config| {
            config.quorum.as_ref().map(|quorum| (quorum.voters.clone(), quorum.witness.clone()))
        };
        let key = |config: &Config| {
            let key = &config.credentials[0];
            (key.access_key_id.clone(), key.secret().to_owned(), key.disabled)
        };
        found.instance == wanted.instance
            && found.region.name == wanted.region.name
            && found.region.number == wanted.region.number
            && found.regions == wanted.regions
            && voters(&found) == voters(wanted)
            && found.public.listen == wanted.public.listen
            && found.admin.listen == wanted.admin.listen
            && found.peer.listen == wanted.peer.listen
            && key(&found) == key(wanted)
    }

    fn config(&self, number: u8) -> Config {
        let name = Layout::name(number);
        let pem = |file: String| Some(PathBuf::from("..").join(TLS).join(file));
        let others = (1..=self.regions).filter(|other| *other != number);
        Config {
            instance: InstanceConfig {
                name: UP_INSTANCE.to_owned(),
                table_quota: self.table_quota,
            },
            region: RegionConfig {
                name: name.clone(),
                number,
                price_per_gib_egress: None,
                labels: BTreeMap::new(),
            },
            storage: StorageConfig::at(DATA),
            public: PublicConfig {
                listen: self.address(number, 0),
                endpoint: self.endpoint(number),
                ..PublicConfig::default()
            },
            admin: AdminConfig {
                listen: self.address(number, 1),
                endpoint: self.admin(number),
                ..AdminConfig::default()
            },
            peer: PeerConfig {
                listen: self.address(number, 2),
                certificate: pem(format!("{name}.pem")),
                key: pem(format!("{name}.key")),
                authority: pem("authority.pem".to_owned()),
                ..PeerConfig::default()
            },
            log: LogConfig::default(),
            verify: VerifyConfig::default(),
            scrub: ScrubConfig::default(),
            probe: ProbeConfig::default(),
            trace: TraceConfig::default(),
            quorum: self.quorum_config(),
            metrics: MetricsConfig {
                token_file: Some(Path::new("..").join(TOKEN_FILE)),
                ..MetricsConfig::default()
            },
            regions: others
                .map(|other| OtherRegionConfig {
                    name: Layout::name(other),
                    number: other,
                    peer: Some(self.address(other, 2).to_string()),
                    endpoint: self.endpoint(other),
                    instance: None,
                })
                .collect(),
            credentials: vec![CredentialConfig {
                access_key_id: UP_ACCESS_KEY_ID.to_owned(),
                access_key_secret: Some(Secret::new(UP_ACCESS_KEY_SECRET)),
                access_key_secret_file: None,
                security_token: None,
                expires: None,
                disabled: false,
            }],
        }
    }

    /// A port in use is told now, and not in the log of a region that could not start.
    pub(super) fn check_ports(&self) -> Result<(), CliError> {
        let mut all = Vec::new();
        for number in 1..=self.regions {
            let name = format!("region {}", Layout::name(number));
            all.extend((0..3).map(|port| (name.clone(), self.address(number, port))));
        }
        all.extend(self.witness.then(|| (format!("witness {WITNESS}"), self.witness_address())));
        for (name, address) in all {
            TcpListener::bind(address).map_err(|error| {
                CliError::failed(format!("{name} cannot listen on {address}: {error}"))
                    .hint("stop what uses the port, or choose others with --base-port")
            })?;
        }
        Ok(())
    }
}

/// A token that nobody guesses.
fn new_token() -> Result<String, CliError> {
    let mut bytes = [0; 24];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| CliError::failed(format!("the system gives no randomness: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n")
}

/// `r` and a number.
fn is_region_name(name: &str) -> bool {
    name.strip_prefix('r').is_some_and(|rest| {
        !rest.is_empty() && rest.len() <= 3 && rest.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Writes a file that only its owner may read: whole or not at all.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), CliError> {
    let part = path.with_extension("part");
    let written = || -> std::io::Result<()> {
        // A part left by a killed run may have other rights.
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    };
    written().map_err(|error| at(path, &error))
}

pub(super) fn at(path: &Path, error: &std::io::Error) -> CliError {
    CliError::failed(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn layout(directory: &Path, regions: u8) -> Layout {
        let (base_port, table_quota) = (21_000, 20_000);
        let directory = directory.into();
        Layout { directory, regions, base_port, table_quota, quorum: false, witness: false }
    }

    #[test]
    fn configurations_of_up_are_valid_and_name_each_other() {
        let place = tempfile::tempdir().unwrap();
        let layout = layout(place.path(), 3);
        layout.write().unwrap();
        let config = Config::load(&layout.config_file(2)).unwrap();
        assert_eq!((config.region.name.as_str(), config.region.number), ("r2", 2));
        assert_eq!(config.public.listen.port(), 21_020);
        assert_eq!(config.admin.endpoint, "http://127.0.0.1:21021");
        assert_eq!(config.other_region("r3").unwrap().peer.as_deref(), Some("127.0.0.1:21032"));
        assert_eq!(config.storage.data, place.path().join("r2/data"));
        assert_eq!(config.instance.table_quota, 20_000);
        let mode = std::fs::metadata(layout.config_file(2)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_witness_and_two_regions_name_each_other() {
        let place = tempfile::tempdir().unwrap();
        let layout = Layout { quorum: true, witness: true, ..layout(place.path(), 2) };
        layout.write().unwrap();
        let quorum = Config::load(&layout.config_file(1)).unwrap().quorum.unwrap();
        assert_eq!(quorum.voters, ["r1", "r2", "w1"]);
        assert_eq!(quorum.witness.unwrap().peer, "127.0.0.1:21002");
        let file = layout.witness_directory().join(CONFIG_FILE);
        let witness = WitnessFile::load(&file).unwrap();
        assert_eq!(witness.witness.listen, layout.witness_address());
        assert_eq!(witness.voters[1].peer, "127.0.0.1:21022");
        let alone =
            Layout { quorum: true, witness: false, ..super::tests::layout(place.path(), 3) };
        alone.write().unwrap();
        let quorum = Config::load(&alone.config_file(1)).unwrap().quorum.unwrap();
        assert_eq!((quorum.voters.len(), quorum.witness), (3, None));
        layout.empty().unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn what_a_person_changed_is_kept_until_the_regions_change() {
        let place = tempfile::tempdir().unwrap();
        let layout = layout(place.path(), 2);
        layout.write().unwrap();
        let file = layout.config_file(1);
        let text = std::fs::read_to_string(&file).unwrap();
        let changed = text
            .replace("cache_bytes = 100663296", "cache_bytes = 9000000")
            .replace("[storage]", "[region.labels]\ncountry = \"de\"\n\n[storage]");
        assert_ne!(text, changed);
        std::fs::write(&file, &changed).unwrap();
        layout.write().unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), changed);
        super::tests::layout(place.path(), 3).write().unwrap();
        assert_eq!(Config::load(&file).unwrap().regions.len(), 2);
    }

    #[test]
    fn emptying_removes_what_up_made_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let layout = layout(place.path(), 1);
        layout.write().unwrap();
        for other in ["notes.txt", "rome", "r"] {
            std::fs::write(place.path().join(other), "mine").unwrap();
        }
        layout.empty().unwrap();
        let mut left: Vec<_> = std::fs::read_dir(place.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["notes.txt", "r", "rome"]);
    }

    #[test]
    fn a_second_run_in_the_same_place_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let layout = layout(place.path(), 1);
        let held = layout.lock().unwrap();
        assert!(layout.lock().unwrap_err().message.contains("another `isthmus up` runs"));
        drop(held);
        layout.lock().unwrap();
    }
}
