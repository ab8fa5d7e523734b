//! Which region a client command talks to, and with which key.
//!
//! What must hold: the place is found in one order, first what the command line says, then the
//! environment, then the regions that `isthmus up` runs; half an answer is refused, not filled
//! up from another place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use isthmus_connectors::admin::{Admin, healthy};
use isthmus_connectors::http::HttpOptions;
use isthmus_connectors::tablestore::{ClientOptions, TableStore, Target};
use isthmus_model::clock::SystemClock;
use isthmus_server::config::{Config, Secret};
use serde::{Deserialize, Serialize};

use crate::error::CliError;

/// The directory of `isthmus up` where none is given.
pub(crate) const DEFAULT_DATA: &str = ".isthmus";
/// The file in it that says what runs.
pub(crate) const UP_FILE: &str = "up.json";

/// How long a region has to say that it serves, where another one could be asked instead.
const PROBE: std::time::Duration = std::time::Duration::from_secs(1);

/// Finds the region. The same for every client command.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which region")]
pub(crate) struct TargetArgs {
    /// A region's own configuration file
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// URL of a region's public port
    #[arg(long, global = true, value_name = "URL", env = "ISTHMUS_ENDPOINT")]
    endpoint: Option<String>,
    /// Instance, with --endpoint
    #[arg(long, global = true, value_name = "NAME", env = "ISTHMUS_INSTANCE")]
    instance: Option<String>,
    /// Access key id, with --endpoint
    #[arg(long, global = true, value_name = "ID", env = "ISTHMUS_ACCESS_KEY_ID")]
    access_key_id: Option<String>,
    /// Access key secret, with --endpoint; better given in the variable
    #[arg(
        long,
        global = true,
        value_name = "SECRET",
        env = "ISTHMUS_ACCESS_KEY_SECRET",
        hide_env_values = true
    )]
    access_key_secret: Option<String>,
    /// Token of temporary credentials, with --endpoint
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "ISTHMUS_SECURITY_TOKEN",
        hide_env_values = true
    )]
    security_token: Option<String>,
    /// Sign with V4 for this region id instead of with V2
    #[arg(long, global = true, value_name = "ID", env = "ISTHMUS_SIGN_REGION")]
    sign_region: Option<String>,
    /// URL of a region's administration port
    #[arg(long, global = true, value_name = "URL", env = "ISTHMUS_ADMIN")]
    admin: Option<String>,
    /// Directory of `isthmus up`, when its regions are meant
    #[arg(long, global = true, value_name = "DIR", env = "ISTHMUS_DATA",
        default_value = DEFAULT_DATA)]
    data: PathBuf,
    /// One of the regions that `isthmus up` runs [default: the first]
    #[arg(long, global = true, value_name = "NAME")]
    region: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What `isthmus up` runs; the line it prints and the file it keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct UpFile {
    /// Instance.
    pub(crate) instance: String,
    /// Access key id.
    pub(crate) access_key_id: String,
    /// Its secret.
    pub(crate) access_key_secret: String,
    /// The regions, by number.
    pub(crate) regions: Vec<UpRegion>,
    /// The witness, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) witness: Option<UpWitness>,
}

/// The witness that `isthmus up` runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct UpWitness {
    /// Name.
    pub(crate) name: String,
    /// Where it listens for the regions.
    pub(crate) peer: String,
    /// Its process.
    pub(crate) pid: u32,
    /// Its configuration file.
    pub(crate) config: String,
    /// Its directory.
    pub(crate) data: String,
}

/// One region that `isthmus up` runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct UpRegion {
    /// Name.
    pub(crate) name: String,
    /// URL of its public port.
    pub(crate) endpoint: String,
    /// URL of its administration port.
    pub(crate) admin: String,
    /// Its process.
    pub(crate) pid: u32,
    /// Its configuration file.
    pub(crate) config: String,
    /// Its directory.
    pub(crate) data: String,
}

/// A region and a key for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    /// Its name, where known.
    pub(crate) name: Option<String>,
    /// URL of its public port; empty where only administration is meant.
    pub(crate) endpoint: String,
    /// URL of its administration port, where known.
    pub(crate) admin: Option<String>,
    /// Instance.
    pub(crate) instance: String,
    access_key_id: String,
    access_key_secret: Secret,
    security_token: Option<Secret>,
    sign_region: Option<String>,
}

/// A store that is not one of the regions found; what is not given is as in the region.
pub(crate) struct Elsewhere {
    /// URL of its public port.
    pub(crate) endpoint: String,
    /// Instance.
    pub(crate) instance: Option<String>,
    /// Access key id and secret.
    pub(crate) key: Option<(String, String)>,
    /// Token of temporary credentials.
    pub(crate) security_token: Option<String>,
    /// Sign with V4 for this region id.
    pub(crate) sign_region: Option<String>,
}

impl TargetArgs {
    /// The region that is meant.
    pub(crate) fn place(&self) -> Result<Place, CliError> {
        Ok(self.places()?.swap_remove(0))
    }

    /// All regions that are meant: one, or all that `isthmus up` runs.
    pub(crate) fn places(&self) -> Result<Vec<Place>, CliError> {
        let mut places = if let Some(file) = &self.config {
            vec![of_config(&Config::load(file)?)?]
        } else if self.region.is_none() && self.is_named() {
            vec![self.of_arguments()?]
        } else {
            self.of_up()?
        };
        if let Some(admin) = &self.admin {
            places.truncate(1);
            places[0].admin = Some(admin.clone());
        }
        for place in &mut places {
            place.sign_region.clone_from(&self.sign_region);
        }
        Ok(places)
    }

    /// The same, where `--region` says something else than whom to ask.
    pub(crate) fn of_any_region(&self) -> TargetArgs {
        TargetArgs { region: None, ..self.clone() }
    }

    /// The region that `--region` names.
    pub(crate) fn region_name(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// The region to ask to do something that several regions take part in: one that answers,
    /// of those that are preferred if there is any, in their order.
    pub(crate) async fn answering(&self, preferred: &[String]) -> Result<Place, CliError> {
        let mut places = self.places()?;
        let rank = |place: &Place| {
            let name = place.name.as_deref();
            preferred.iter().position(|wanted| Some(wanted.as_str()) == name)
        };
        places.sort_by_key(|place| rank(place).unwrap_or(preferred.len()));
        if places.len() > 1 {
            for place in &places {
                let Some(admin) = &place.admin else { continue };
                if healthy(admin, PROBE).await {
                    return Ok(place.clone());
                }
            }
        }
        Ok(places.swap_remove(0))
    }

    /// Whether arguments or variables name the region; an administration port does with its key.
    fn is_named(&self) -> bool {
        self.endpoint.is_some() || (self.admin.is_some() && self.instance.is_some())
    }

    fn of_arguments(&self) -> Result<Place, CliError> {
        let needed = |value: &Option<String>, name: &str| {
            value.clone().ok_or_else(|| {
                let variable = name.to_uppercase().replace('-', "_");
                CliError::usage(format!("--{name} is missing, it goes with --endpoint"))
                    .hint(format!("give it, or set ISTHMUS_{variable}"))
            })
        };
        Ok(Place {
            name: None,
            endpoint: self.endpoint.clone().unwrap_or_default(),
            admin: None,
            instance: needed(&self.instance, "instance")?,
            access_key_id: needed(&self.access_key_id, "access-key-id")?,
            access_key_secret: Secret::new(needed(&self.access_key_secret, "access-key-secret")?),
            security_token: self.security_token.clone().map(Secret::new),
            sign_region: None,
        })
    }

    fn of_up(&self) -> Result<Vec<Place>, CliError> {
        let up = read_up_file(&self.data)?;
        let named = |region: &&UpRegion| self.region.as_ref().is_none_or(|it| *it == region.name);
        let places: Vec<Place> =
            up.regions.iter().filter(named).map(|region| up.place(region)).collect();
        if places.is_empty() {
            let names: Vec<&str> = up.regions.iter().map(|region| region.name.as_str()).collect();
            let region = self.region.as_deref().unwrap_or_default();
            return Err(CliError::usage(format!(
                "`isthmus up` runs no region {region:?}, its regions are {}",
                names.join(", ")
            )));
        }
        Ok(places)
    }
}

/// Reads what `isthmus up` wrote into its directory.
pub(crate) fn read_up_file(data: &Path) -> Result<UpFile, CliError> {
    let file = data.join(UP_FILE);
    let text = std::fs::read(&file).map_err(|error| {
        CliError::usage(format!(
            "no region is named, and {} cannot be read: {error}",
            file.display()
        ))
        .hint(
            "start regions with `isthmus up` and run this in the same directory, or name one \
                 with --config or --endpoint",
        )
    })?;
    let up: UpFile = serde_json::from_slice(&text).map_err(|error| {
        CliError::usage(format!("{}: {error}", file.display()))
            .hint("the file is damaged; start `isthmus up` again")
    })?;
    if up.regions.is_empty() {
        return Err(CliError::usage(format!("{} names no region", file.display())));
    }
    Ok(up)
}

impl UpFile {
    fn place(&self, region: &UpRegion) -> Place {
        Place {
            name: Some(region.name.clone()),
            endpoint: region.endpoint.clone(),
            admin: Some(region.admin.clone()),
            instance: self.instance.clone(),
            access_key_id: self.access_key_id.clone(),
            access_key_secret: Secret::new(self.access_key_secret.clone()),
            security_token: None,
            sign_region: None,
        }
    }
}

/// The first key that is not disabled, on the region's own ports.
fn of_config(config: &Config) -> Result<Place, CliError> {
    let key = config.credentials.iter().find(|key| !key.disabled).ok_or_else(|| {
        CliError::usage("all credentials of the configuration are disabled")
            .hint("name a region with --endpoint and a key with --access-key-id")
    })?;
    Ok(Place {
        name: Some(config.region.name.clone()),
        endpoint: config.public.endpoint.clone(),
        admin: Some(config.admin.endpoint.clone()),
        instance: config.instance.name.clone(),
        access_key_id: key.access_key_id.clone(),
        access_key_secret: Secret::new(key.secret()),
        security_token: key.security_token.clone(),
        sign_region: None,
    })
}

impl Place {
    /// What to call the region in a message.
    pub(crate) fn shown(&self) -> &str {
        match &self.name {
            Some(name) => name,
            None if self.endpoint.is_empty() => self.admin.as_deref().unwrap_or_default(),
            None => &self.endpoint,
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests(name: &str) -> Place {
        Place {
            name: Some(name.to_owned()),
            endpoint: "http://127.0.0.1:1".to_owned(),
            admin: Some("http://127.0.0.1:2".to_owned()),
            instance: "demo".to_owned(),
            access_key_id: "id".to_owned(),
            access_key_secret: Secret::new("secret"),
            security_token: None,
            sign_region: None,
        }
    }

    /// Another store. The key of this one goes there only where no other is given.
    pub(crate) fn elsewhere(&self, other: Elsewhere) -> Place {
        let mut place = Place {
            name: None,
            endpoint: other.endpoint,
            admin: None,
            instance: other.instance.unwrap_or_else(|| self.instance.clone()),
            sign_region: other.sign_region,
            ..self.clone()
        };
        if let Some((id, secret)) = other.key {
            place.access_key_id = id;
            place.access_key_secret = Secret::new(secret);
            place.security_token = None;
        }
        if let Some(token) = other.security_token {
            place.security_token = Some(Secret::new(token));
        }
        place
    }

    fn target(&self, endpoint: &str) -> Target {
        Target {
            endpoint: endpoint.to_owned(),
            instance: self.instance.clone(),
            access_key_id: self.access_key_id.clone(),
            access_key_secret: self.access_key_secret.expose().to_owned(),
            security_token: self.security_token.as_ref().map(|token| token.expose().to_owned()),
            sign_region: self.sign_region.clone(),
        }
    }

    /// A client of the public API.
    pub(crate) fn client(&self, options: ClientOptions) -> Result<TableStore, CliError> {
        if self.endpoint.is_empty() {
            return Err(CliError::usage("--endpoint is missing"));
        }
        Ok(TableStore::new(self.target(&self.endpoint), options, Arc::new(SystemClock))?)
    }

    /// A client of the administration API.
    pub(crate) fn admin_client(&self) -> Result<Admin, CliError> {
        self.admin_client_within(std::time::Duration::from_secs(5))
    }

    /// One for what may take longer.
    pub(crate) fn admin_client_within(
        &self,
        answer_timeout: std::time::Duration,
    ) -> Result<Admin, CliError> {
        let admin = self.admin.as_ref().ok_or_else(|| {
            CliError::usage("the administration port of the region is not known")
                .hint("give --admin URL, or set ISTHMUS_ADMIN")
        })?;
        let options = HttpOptions { answer_timeout, ..HttpOptions::default() };
        Ok(Admin::new(self.target(admin), options, Arc::new(SystemClock))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up() -> UpFile {
        let region = |name: &str| UpRegion {
            name: name.into(),
            endpoint: format!("http://{name}:1"),
            admin: format!("http://{name}:2"),
            pid: 7,
            config: format!("{name}/isthmus.toml"),
            data: name.into(),
        };
        UpFile {
            instance: "demo".into(),
            access_key_id: "id".into(),
            access_key_secret: "hush".into(),
            regions: vec![region("r1"), region("r2")],
            witness: None,
        }
    }

    #[test]
    fn regions_of_up_are_found_by_name() {
        let place = tempfile::tempdir().unwrap();
        let text = serde_json::to_string(&up()).unwrap();
        std::fs::write(place.path().join(UP_FILE), text).unwrap();
        let mut args = TargetArgs { data: place.path().into(), ..TargetArgs::default() };
        assert_eq!(args.places().unwrap().len(), 2);
        assert_eq!(args.place().unwrap().shown(), "r1");
        args.region = Some("r2".into());
        assert_eq!(args.place().unwrap().endpoint, "http://r2:1");
        assert_eq!(args.place().unwrap().admin.as_deref(), Some("http://r2:2"));
        args.region = Some("r9".into());
        assert!(args.place().unwrap_err().message.contains("r1, r2"));
        assert!(!format!("{:?}", args.of_up().is_err()).contains("hush"));
    }

    #[test]
    fn an_endpoint_without_a_key_is_not_filled_up_from_elsewhere() {
        let args = TargetArgs { endpoint: Some("http://h:1".into()), ..TargetArgs::default() };
        let error = args.place().unwrap_err();
        assert_eq!(error.message, "--instance is missing, it goes with --endpoint");
        assert_eq!(error.hint.as_deref(), Some("give it, or set ISTHMUS_INSTANCE"));
    }

    #[test]
    fn without_any_word_the_error_says_how_to_begin() {
        let place = tempfile::tempdir().unwrap();
        let args = TargetArgs { data: place.path().into(), ..TargetArgs::default() };
        assert!(args.place().unwrap_err().hint.unwrap().contains("isthmus up"));
    }
}
