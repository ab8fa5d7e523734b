//! The steps of a drill, and what each has come to.
//!
//! What must hold: from before the region is asked to go until it surely was asked to come back,
//! `is_out` says that it may be out; every wait has an end.

use std::time::Duration;

use isthmus_connectors::tablestore::{ClientOptions, TableStore};
use isthmus_model::clock::{Clock, SystemClock};
use isthmus_server::status::{DrillStatus, DrilledTable};
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::plan::{Plan, Standing, TableStanding};
use super::prober::{Rows, Seen, client, play};
use super::{How, RegionLossArgs};
use crate::error::{CliError, Exit};
use crate::job::follow::{Started, report};
use crate::output;
use crate::target::Place;

/// Where failover is asked for.
const FAILOVER: &str = "/v1/failover";
/// Who asks, for the audit.
const WHO: &str = "isthmus drill";
/// How often it is looked how everything stands.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often it is looked whether a region is released.
const LOOKS_MAX: usize = 20;
/// How long rows are written before the region is lost.
const BEFORE: Duration = Duration::from_secs(1);
/// How long the first rows may take.
const BEGIN_PATIENCE: Duration = Duration::from_secs(20);
/// How long is tried to let the region come back.
const RELEASE_PATIENCE: Duration = Duration::from_secs(120);
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How late what was asked of a quorum may take effect.
const LATE: Duration = Duration::from_secs(6);
/// How long a command may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);
/// How long a request that clears up is sent again.
const CLEAN_PATIENCE: Duration = Duration::from_secs(20);
/// How long the replicas are waited for by one comparison, in seconds.
const COMPARE_SECONDS: u64 = 20;
/// Characters of a reason.
const REASON_CHARS_MAX: usize = 300;

/// A table that is watched, and what is known of it by now.
struct Watched {
    standing: TableStanding,
    rows: Option<Rows>,
    seen: watch::Receiver<Seen>,
    told: DrilledTable,
    /// When it was seen that another region writes it.
    taken_over: Option<Instant>,
}

/// A drill that runs.
pub(super) struct Drill {
    plan: Plan,
    args: RegionLossArgs,
    id: u32,
    began_millis: i64,
    tables: Vec<Watched>,
    players: JoinSet<()>,
    stop: watch::Sender<bool>,
    /// The region may be out.
    is_out: bool,
    /// It is being taken out: what was asked is not called off, so that what came of it is known.
    losing: Option<JoinHandle<Result<(), CliError>>>,
    /// It is not known whether it was taken out.
    is_unsure: bool,
    lost_at: Option<Instant>,
    released_at: Option<Instant>,
    is_over: bool,
}

impl Drill {
    /// One that has not begun.
    pub(super) fn new(plan: Plan, args: RegionLossArgs) -> Drill {
        let watched = |standing: &TableStanding| Watched {
            standing: standing.clone(),
            rows: None,
            seen: watch::channel(Seen::default()).1,
            told: DrilledTable { table: standing.table.clone(), ..DrilledTable::default() },
            taken_over: None,
        };
        Drill {
            tables: plan.tables.iter().map(watched).collect(),
            plan,
            args,
            id: OsRng.try_next_u32().unwrap_or(0),
            began_millis: SystemClock.wall_millis(),
            players: JoinSet::new(),
            stop: watch::Sender::new(false),
            is_out: false,
            losing: None,
            is_unsure: false,
            lost_at: None,
            released_at: None,
            is_over: false,
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.args.patience)
    }

    fn say(&self, text: &str) {
        eprintln!("{text}");
    }

    /// Does it.
    pub(super) async fn go(&mut self) -> Result<(), CliError> {
        let (region, through) =
            (output::plain(&self.plan.region), output::plain(&self.plan.through));
        self.play().await?;
        self.say(&format!("rows are written and read through {through}"));
        sleep(BEFORE).await;
        self.lose().await?;
        self.say(&format!("region {region} is lost"));
        self.await_writers().await?;
        self.say("other regions write; rows are looked for there");
        self.look_for_rows().await?;
        sleep(Duration::from_secs(self.args.out_for)).await;
        self.release().await?;
        self.say(&format!("region {region} may come back"));
        self.await_alike().await?;
        self.look_for_rows().await?;
        self.count_set_aside().await;
        if self.args.switch_back {
            self.switch_back().await?;
        }
        self.is_over = true;
        Ok(())
    }

    /// Begins to play clients, and waits until each is answered.
    async fn play(&mut self) -> Result<(), CliError> {
        let place = self.plan.public(&self.plan.through)?;
        for table in &mut self.tables {
            let client = client(&place, Duration::ZERO)?;
            let described = client.describe_table(&table.standing.table).await?;
            let rows = Rows::new(&table.standing.table, &described.schema, self.id);
            let (seeing, seen) = watch::channel(Seen::default());
            (table.rows, table.seen) = (Some(rows.clone()), seen);
            self.players.spawn(play(client, rows, seeing, self.stop.subscribe()));
        }
        for table in &mut self.tables {
            let has_begun = table.seen.wait_for(|seen| !seen.acked.is_empty());
            let begun = timeout(BEGIN_PATIENCE, has_begun).await.map(|begun| begun.map(drop));
            if begun.is_ok_and(|begun| begun.is_ok()) {
                continue;
            }
            let errors = table.seen.borrow().errors.clone();
            let errors: Vec<String> = errors.into_keys().collect();
            return Err(CliError::failed(format!(
                "no row of {} could be written through {}: {}",
                output::plain(&table.standing.table),
                output::plain(&self.plan.through),
                output::plain(&errors.join(", "))
            ))
            .hint("nothing was taken out"));
        }
        Ok(())
    }

    /// Takes the region out.
    async fn lose(&mut self) -> Result<(), CliError> {
        self.is_out = true;
        self.lost_at = Some(Instant::now());
        let losing = match self.plan.how {
            How::KillCommand => {
                let command = self.args.kill_command.clone().unwrap_or_default();
                tokio::spawn(async move { run_command(&command).await })
            }
            How::Suspend => {
                let why = format!("drill {:08x}", self.id);
                let asked = json!({ "failover": "suspend", "region": self.plan.region,
                    "who": WHO, "why": why });
                let places = self.plan.places.clone();
                tokio::spawn(async move { ask_any(&places, FAILOVER, &asked).await.map(drop) })
            }
        };
        let lost = self.losing.insert(losing).await;
        self.losing = None;
        let lost = lost.unwrap_or_else(|error| Err(CliError::failed(error.to_string())));
        self.is_unsure = lost.is_err();
        lost
    }

    /// Lets the region come back, if it may be out. Tried again for a while, whatever fails.
    pub(super) async fn release(&mut self) -> Result<(), CliError> {
        if !self.is_out {
            return Ok(());
        }
        if let Some(losing) = self.losing.take() {
            // Else it could be taken out after it was released.
            let lost = timeout(COMMAND_PATIENCE * 2, losing).await;
            self.is_unsure = !matches!(lost, Ok(Ok(Ok(()))));
        }
        if std::mem::take(&mut self.is_unsure) {
            // What had no answer may take effect late.
            sleep(LATE).await;
        }
        let until = Instant::now() + RELEASE_PATIENCE;
        loop {
            let released = match (self.plan.how, &self.args.start_command) {
                (How::Suspend, _) => self.release_by_hand().await,
                (How::KillCommand, Some(command)) => run_command(command).await,
                // It starts by itself.
                (How::KillCommand, None) => Ok(()),
            };
            match released {
                Ok(()) => {
                    self.is_out = false;
                    self.released_at = Some(Instant::now());
                    return Ok(());
                }
                Err(error) if Instant::now() >= until => {
                    let region = output::plain(&self.plan.region);
                    let what = format!("region {region} is still taken out");
                    return Err(error
                        .context(what)
                        .hint(format!("let it come back: isthmus failover --release {region}")));
                }
                Err(error) => {
                    eprintln!("tried again: {}", output::plain(&error.message));
                    sleep(TRY_AGAIN).await;
                }
            }
        }
    }

    async fn release_by_hand(&self) -> Result<(), CliError> {
        let region = &self.plan.region;
        let asked = json!({ "failover": "release", "region": region, "who": WHO });
        let released = ask_any(&self.plan.places, FAILOVER, &asked).await;
        // One that is not out cannot be released, which is as good; and a region that is asked may
        // hear of what was decided a little later.
        for _ in 0..LOOKS_MAX {
            match self.standing().await {
                Ok(standing) if !standing.is_out_by_hand(region) => return Ok(()),
                Ok(_) => sleep(LOOK_EVERY).await,
                Err(error) => return released.and(Err(error)),
            }
        }
        released.and_then(|_| Err(CliError::failed("it is not released yet")))
    }

    async fn standing(&self) -> Result<Standing, CliError> {
        let mut failure = CliError::failed("no region is known");
        for place in &self.plan.places {
            match place.admin_client()?.get_json(FAILOVER).await {
                Ok(standing) => return Ok(standing),
                Err(error) => failure = error.into(),
            }
        }
        Err(failure)
    }

    /// Waits until another region writes each table, and acknowledges. Where a person decides, the
    /// region that has most is named.
    async fn await_writers(&mut self) -> Result<(), CliError> {
        let until = Instant::now() + self.patience();
        while self.tables.iter().any(|table| table.taken_over.is_none()) {
            if Instant::now() >= until {
                return Err(self.late("no other region writes"));
            }
            sleep(LOOK_EVERY).await;
            // While it is not answered, that is looked again.
            let Ok(standing) = self.standing().await else { continue };
            let mut to_decide = Vec::new();
            for table in &mut self.tables {
                let name = table.standing.table.clone();
                let Some(now) = standing.tables.iter().find(|one| one.table == name) else {
                    continue;
                };
                let lost = now.would_be_lost_entries;
                // It may have fallen back before it was lost.
                table.standing.held_by = table.standing.held_by.min(now.held_by);
                match &now.vacant {
                    Some(vacancy) => {
                        table.told.known_lost_entries = lost;
                        let is_complete = vacancy.claims.len() >= now.claims_needed.max(1);
                        let best = vacancy.best().filter(|_| is_complete && !now.automatic);
                        to_decide.extend(best.map(|best| (name.clone(), best.to_owned())));
                    }
                    None if now.epoch > table.standing.epoch && now.writer != self.plan.region => {
                        table.told.writer = Some(now.writer.clone());
                        table.taken_over.get_or_insert_with(Instant::now);
                    }
                    None => {}
                }
            }
            for (table, to) in to_decide {
                let asked = json!({ "failover": "decide", "table": table, "to": to, "who": WHO });
                // Another region may have claimed more meanwhile; then it is decided anew.
                let _ = ask_any(&self.plan.places, FAILOVER, &asked).await;
            }
        }
        for place in 0..self.tables.len() {
            let table = &mut self.tables[place];
            let since = table.taken_over;
            let is_written = table.seen.wait_for(|seen| seen.last() >= since);
            let left = until.saturating_duration_since(Instant::now());
            let written = timeout(left, is_written).await.is_ok_and(|written| written.is_ok());
            if !written {
                return Err(self.late("no write is acknowledged"));
            }
        }
        Ok(())
    }

    fn late(&self, what: &str) -> CliError {
        let seconds = self.args.patience;
        CliError::failed(format!("{what} after {seconds} s"))
            .hint("`isthmus failover` tells how it stands; --patience waits longer")
    }

    /// Looks which acknowledged rows are missing where the tables are written now.
    async fn look_for_rows(&mut self) -> Result<(), CliError> {
        for place in 0..self.tables.len() {
            let table = &self.tables[place];
            let (Some(rows), Some(writer)) = (&table.rows, &table.told.writer) else { continue };
            let acked: Vec<u64> =
                table.seen.borrow().acked.iter().map(|(number, _)| *number).collect();
            let client = client(&self.plan.public(writer)?, CLEAN_PATIENCE)?;
            let missing = rows.missing(&client, &acked).await?;
            let told = &mut self.tables[place].told;
            told.missing_rows = told.missing_rows.max(missing);
        }
        Ok(())
    }

    /// Waits until the region is back and its replicas are like the others.
    async fn await_alike(&mut self) -> Result<(), CliError> {
        let until = Instant::now() + self.patience();
        let began = self.released_at.unwrap_or_else(Instant::now);
        loop {
            let standing = self.standing().await;
            let is_out = |standing: &Standing| {
                let mut regions = standing.regions.iter();
                regions.any(|one| one.region == self.plan.region && one.suspended)
            };
            if standing.as_ref().is_ok_and(|standing| !is_out(standing)) {
                break;
            }
            if Instant::now() >= until {
                return Err(self.late("the region has not come back"));
            }
            sleep(LOOK_EVERY).await;
        }
        // What is written meanwhile would make the comparison longer, and is seen already.
        self.stop_playing().await;
        for place in 0..self.tables.len() {
            let (table, replicas) = {
                let standing = &self.tables[place].standing;
                (standing.table.clone(), standing.replicas.clone())
            };
            loop {
                let compared = self.compare(&table, &replicas).await;
                let told = &mut self.tables[place].told;
                match compared {
                    Ok((true, _)) => {
                        told.differing_rows = Some(0);
                        told.failback_ms = Some(began.elapsed().as_millis() as u64);
                        break;
                    }
                    Err(error) if error.exit == Exit::Stopped => return Err(error),
                    Ok((false, rows)) => told.differing_rows = Some(rows),
                    // A replica that is being made like the others cannot be compared yet.
                    Err(_) => {}
                }
                if Instant::now() >= until {
                    return Err(self.late("the replicas are not alike"));
                }
                sleep(TRY_AGAIN / 4).await;
            }
        }
        Ok(())
    }

    /// Whether replicas are alike, and how many rows differ.
    async fn compare(&self, table: &str, replicas: &[String]) -> Result<(bool, u64), CliError> {
        #[derive(Deserialize)]
        struct Compared {
            equal: Option<bool>,
            #[serde(default)]
            rows_differing: u64,
        }
        let wish = json!({ "kind": "verify", "table": table, "regions": replicas,
            "deep": false, "rows_max": 1, "wait_seconds": COMPARE_SECONDS });
        let place =
            self.plan.places.first().ok_or_else(|| CliError::failed("no region is known"))?;
        let mut job = Started::start(place, &wish).await?;
        let told = report(job.wait(false).await?)?;
        let compared = Compared::deserialize(&told)
            .map_err(|error| CliError::failed(format!("the report cannot be read: {error}")))?;
        let unknown = || CliError::failed("it could not be told whether the replicas are alike");
        Ok((compared.equal.ok_or_else(unknown)?, compared.rows_differing))
    }

    /// Counts what the region has set aside, where it can be asked.
    async fn count_set_aside(&mut self) {
        #[derive(Deserialize)]
        struct Kept {
            region: String,
            tails: Vec<Tail>,
        }
        #[derive(Deserialize)]
        struct Tail {
            table: String,
            rows: u64,
            set_aside_ms: i64,
        }
        for admin in self.plan.places.iter().rev().filter_map(|place| place.admin_client().ok()) {
            let Ok(kept) = admin.get_json::<Kept>("/v1/tails").await else { continue };
            if kept.region != self.plan.region {
                continue;
            }
            for table in &mut self.tables {
                let name = &table.standing.table;
                let new = kept
                    .tails
                    .iter()
                    .filter(|tail| tail.table == *name && tail.set_aside_ms >= self.began_millis);
                table.told.set_aside_rows = Some(new.map(|tail| tail.rows).sum());
            }
            return;
        }
    }

    async fn switch_back(&self) -> Result<(), CliError> {
        for table in &self.tables {
            let path = format!("/v1/global-tables/{}/changes", table.standing.table);
            let change = json!({ "change": "switchover", "to": self.plan.region });
            let place = self.plan.places.first();
            let place = place.ok_or_else(|| CliError::failed("no region is known"))?;
            let admin = place.admin_client_within(COMMAND_PATIENCE)?;
            let done: Result<Json, _> = admin.post_json(&path, &change).await;
            done.map_err(|error| {
                let region = output::plain(&self.plan.region);
                CliError::from(error).context(format!("region {region} does not write again"))
            })?;
        }
        Ok(())
    }

    async fn stop_playing(&mut self) {
        self.stop.send_replace(true);
        while self.players.join_next().await.is_some() {}
    }

    /// Deletes the rows of the drill, through a region that lives.
    pub(super) async fn clean_up(&mut self) -> Result<(), CliError> {
        self.stop_playing().await;
        let options = ClientOptions { patience: CLEAN_PATIENCE, ..ClientOptions::default() };
        let place = self.plan.public(&self.plan.through)?;
        let client: TableStore = place.client(options)?;
        for table in &self.tables {
            let Some(rows) = &table.rows else { continue };
            rows.delete(&client).await.map_err(|error| {
                let name = output::plain(&table.standing.table);
                CliError::from(error).context(format!("rows of the drill are left in {name}"))
            })?;
        }
        Ok(())
    }

    /// What it has come to.
    pub(super) fn report(&self, failure: Option<&CliError>) -> DrillStatus {
        let tables: Vec<DrilledTable> = self.tables.iter().map(|table| self.told(table)).collect();
        let sum = |of: fn(&DrilledTable) -> u64| tables.iter().map(of).sum::<u64>();
        let missing = sum(|table| table.missing_rows);
        // Where others hold writes before they are answered, what no other has was not answered.
        let unheld = self.tables.iter().filter(|table| table.standing.held_by == 0);
        let unheld: Vec<&DrilledTable> = unheld.map(|table| &table.told).collect();
        let set_aside: u64 = unheld.iter().filter_map(|table| table.set_aside_rows).sum();
        // What was set aside tells what was lost; without that, what others had not heard of.
        let untold = unheld.iter().filter(|table| table.set_aside_rows.is_none());
        let untold: u64 = untold.filter_map(|table| table.known_lost_entries).sum();
        let differing = sum(|table| table.differing_rows.unwrap_or(0));
        let reason = match failure {
            Some(error) => error.message.chars().take(REASON_CHARS_MAX).collect(),
            None if missing > 0 => format!("{missing} acknowledged rows are missing"),
            None if set_aside > 0 => format!("{set_aside} changes were set aside"),
            None if untold > 0 => format!("{untold} entries may be set aside in the region"),
            None if differing > 0 => format!("{differing} rows differ"),
            None if !self.is_over => "not all of it was done".to_owned(),
            None => String::new(),
        };
        DrillStatus {
            id: format!("{:08x}-{}", self.id, self.began_millis),
            kind: "region-loss".to_owned(),
            how: self.plan.how.as_str().to_owned(),
            region: self.plan.region.clone(),
            through: self.plan.through.clone(),
            began_ms: self.began_millis,
            ended_ms: SystemClock.wall_millis(),
            passed: reason.is_empty(),
            reason,
            tables,
        }
    }

    fn told(&self, table: &Watched) -> DrilledTable {
        let seen = table.seen.borrow();
        let pause = match (self.lost_at, table.taken_over) {
            (Some(lost), Some(taken)) => seen.longest_pause(lost, taken),
            (_, _) => None,
        };
        DrilledTable {
            acked_rows: seen.acked.len() as u64,
            rto_ms: pause.map(|pause| pause.as_millis() as u64),
            errors: seen.errors.clone(),
            reads: seen.reads,
            ..table.told.clone()
        }
    }

    /// Has it kept in every region that is known and answers.
    pub(super) async fn keep(&self, status: &DrillStatus) {
        for place in &self.plan.places {
            let kept: Result<Json, CliError> = match place.admin_client() {
                Ok(admin) => admin.post_json("/v1/drills", status).await.map_err(CliError::from),
                Err(error) => Err(error),
            };
            if let Err(error) = kept {
                eprintln!("not kept in {}: {}", place.shown(), output::plain(&error.message));
            }
        }
    }
}

/// Asks the first region that answers; that of the lost one comes last.
async fn ask_any(places: &[Place], path: &str, asked: &Json) -> Result<Json, CliError> {
    let mut failure = CliError::failed("no region is known");
    for place in places {
        match place.admin_client()?.post_json(path, asked).await {
            Ok(done) => return Ok(done),
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

/// Runs a command of the shell; its output goes to standard error.
async fn run_command(command: &str) -> Result<(), CliError> {
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", command])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::from(std::io::stderr()))
        .spawn()
        .map_err(|error| CliError::failed(format!("{command:?} cannot be run: {error}")))?;
    let ended = timeout(COMMAND_PATIENCE, child.wait()).await;
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(CliError::failed(format!("{command:?} ended with {status}"))),
        Ok(Err(error)) => Err(CliError::failed(format!("{command:?}: {error}"))),
        Err(_) => {
            let _ = child.kill().await;
            let seconds = COMMAND_PATIENCE.as_secs();
            Err(CliError::failed(format!("{command:?} has not ended after {seconds} s")))
        }
    }
}
