//! Applies commands.

use super::{
    AUDIT_MAX, Agreed, Audited, Claim, Command, HISTORY_MAX, How, LEASE_MILLIS, LEFT_MAX,
    NAME_BYTES_MAX, OUTLIVES_MAX, Opening, Outcome, REGIONS_MAX, Refusal, SUSPICIONS_NEEDED,
    Standing, Suspicion, TABLES_MAX, TEXT_BYTES_MAX, Tenure, Vacancy,
};
use crate::global_table::REPLICAS_MAX;

type Applied = Result<Outcome, Refusal>;

/// Where a command stands, and who is to be named for what it changes.
struct Context<'a> {
    index: u64,
    at_millis: u64,
    who: &'a str,
}

impl Agreed {
    /// Applies the command at an index of the quorum's log; indexes grow.
    pub fn apply(&mut self, index: u64, command: &Command) -> Outcome {
        self.try_apply(index, command).unwrap_or_else(Outcome::Refused)
    }

    fn try_apply(&mut self, index: u64, command: &Command) -> Applied {
        let context = |at_millis: &u64, who| Context { index, at_millis: *at_millis, who };
        match command {
            Command::Enrol { writer, at_millis, .. } => {
                self.enrol(&context(at_millis, writer), command)
            }
            Command::Leave { table, version, by, at_millis } => {
                self.leave(&context(at_millis, by), *table, *version)
            }
            Command::Renew { region, run, number, acked, lease_millis, at_millis } => {
                let context = context(at_millis, region);
                self.renew(&context, *run, *number, *acked, *lease_millis)
            }
            Command::Suspect { by, region, run, renewal, outlives, evidence, at_millis } => {
                let suspicion = Suspicion {
                    renewal: *renewal,
                    outlives: (*outlives).min(OUTLIVES_MAX),
                    evidence: cut(evidence),
                };
                self.suspect(&context(at_millis, by), region, *run, suspicion)
            }
            Command::Unsuspect { by, region } => {
                if let Some(standing) = self.regions.get_mut(region) {
                    standing.suspicions.remove(by);
                }
                Ok(Outcome::Done)
            }
            Command::Claim { table, region, epoch, log_epoch, lsn, known_end, at_millis } => {
                let claim = Claim { log_epoch: *log_epoch, lsn: *lsn, known_end: *known_end };
                self.claim(&context(at_millis, region), *table, *epoch, claim)
            }
            Command::Settle { table, epoch, by, at_millis } => {
                self.settle(&context(at_millis, by), *table, *epoch)
            }
            Command::Open { table, epoch, region, after, at_millis } => {
                self.open(&context(at_millis, region), *table, *epoch, *after)
            }
            Command::Resign { table, epoch, region, why, at_millis } => {
                self.resign(&context(at_millis, region), *table, *epoch, why)
            }
            Command::Rejoin { region, run, suspended_at, at_millis } => {
                self.rejoin(&context(at_millis, region), *run, *suspended_at)
            }
            Command::SuspendByHand { region, who, why, at_millis } => {
                self.suspend_by_hand(&context(at_millis, who), region, why)
            }
            Command::Release { region, who, at_millis } => {
                self.release(&context(at_millis, who), region)
            }
            Command::Decide { table, epoch, region, who, at_millis } => {
                self.decide(&context(at_millis, who), *table, *epoch, region)
            }
            Command::AcceptLoss { table, epoch, region, who, at_millis } => {
                self.accept_loss(&context(at_millis, who), *table, *epoch, region)
            }
            Command::Forget { region, who, at_millis } => {
                self.forget(&context(at_millis, who), region)
            }
            Command::Note { who, what, at_millis } => {
                self.audit(&context(at_millis, who), what.clone(), "");
                Ok(Outcome::Done)
            }
        }
    }

    fn enrol(&mut self, context: &Context<'_>, command: &Command) -> Applied {
        let Some((table, asked)) = Tenure::enrolled(command) else { return Ok(Outcome::Done) };
        check_membership(&asked.name, &asked.writer, &asked.replicas, asked.held_by)?;
        self.check_region(&asked.writer)?;
        let left = self.left.iter().find(|(left, _)| *left == table);
        if let Some((_, known)) = left.filter(|(_, left)| *left >= asked.version) {
            return Err(Refusal::OldVersion { table, known: *known });
        }
        let Some(tenure) = self.tables.get_mut(&table) else {
            return self.enrol_new(context, table, asked);
        };
        if asked.version < tenure.version {
            return Err(Refusal::OldVersion { table, known: tenure.version });
        }
        let is_same = tenure.replicas == asked.replicas && tenure.held_by == asked.held_by;
        let is_news = !is_same || tenure.automatic != asked.automatic;
        if asked.version == tenure.version {
            return match is_news {
                false => Ok(Outcome::Done),
                true => Err(Refusal::OldVersion { table, known: tenure.version }),
            };
        }
        match &tenure.vacant {
            // Those who have claimed were counted by the membership under which was acknowledged.
            Some(vacancy) if !is_same => {
                return Err(Refusal::Vacant { table, epoch: vacancy.epoch });
            }
            None if tenure.epoch != asked.epoch || tenure.writer != asked.writer => {
                return Err(tenure.held_otherwise(table));
            }
            _ => {}
        }
        tenure.name = asked.name;
        tenure.replicas = asked.replicas;
        tenure.held_by = asked.held_by;
        tenure.automatic = asked.automatic;
        tenure.version = asked.version;
        if is_news {
            let (name, version) = (&tenure.name, tenure.version);
            let what = format!("table {name} has a new membership: {}", membership(tenure));
            self.audit(context, what, &format!("version {version} of its record"));
            self.grant_if_all_have_claimed(context, table);
        }
        Ok(Outcome::Done)
    }

    fn enrol_new(&mut self, context: &Context<'_>, table: u64, tenure: Tenure) -> Applied {
        if self.tables.len() >= TABLES_MAX {
            return Err(Refusal::Invalid(format!(
                "{TABLES_MAX} tables are under the quorum, which is as many as can be"
            )));
        }
        let what = format!("table {} is under the quorum, {}", tenure.name, membership(&tenure));
        let how = format!("region {} writes it in epoch {}", tenure.writer, tenure.epoch);
        self.tables.insert(table, tenure);
        self.audit(context, what, &how);
        Ok(Outcome::Done)
    }

    fn leave(&mut self, context: &Context<'_>, table: u64, version: u64) -> Applied {
        let Some(tenure) = self.tables.get(&table) else { return Ok(Outcome::Done) };
        if version < tenure.version {
            return Err(Refusal::OldVersion { table, known: tenure.version });
        }
        let what = format!("table {} is no longer under the quorum", tenure.name);
        self.tables.remove(&table);
        self.left.push_back((table, version));
        if self.left.len() > LEFT_MAX {
            self.left.pop_front();
        }
        self.audit(context, what, &format!("version {version} of its record"));
        Ok(Outcome::Done)
    }

    fn renew(
        &mut self,
        context: &Context<'_>,
        run: u64,
        number: u64,
        acked: u64,
        lease_millis: u64,
    ) -> Applied {
        let region = context.who;
        check_name(region)?;
        if !LEASE_MILLIS.contains(&lease_millis) {
            let (from, to) = LEASE_MILLIS.into_inner();
            return Err(Refusal::Invalid(format!("a lease must be {from} to {to} ms")));
        }
        self.may_renew(region, run)?;
        let is_new = !self.regions.contains_key(region);
        if is_new && self.regions.len() >= REGIONS_MAX {
            return Err(Refusal::Invalid(format!(
                "{REGIONS_MAX} regions are known, which is as many as can be; forget one"
            )));
        }
        let known = self.regions.get(region);
        let newest = known.filter(|known| known.run == run).map_or(0, |known| known.renewal);
        if number <= newest {
            return Err(Refusal::OldRenewal { region: region.to_owned(), newest });
        }
        let standing = self.regions.entry(region.to_owned()).or_default();
        if standing.run != run {
            standing.run = run;
            standing.healthy_renewal = 0;
            standing.suspicions.clear();
        }
        // It cannot know of what was not accepted.
        let healthy = acked.min(newest).max(standing.healthy_renewal);
        standing.healthy_renewal = healthy;
        standing.renewal = number;
        standing.renewed_at = context.index;
        standing.lease_millis = lease_millis;
        standing.suspicions.retain(|_, suspicion| !suspicion.is_void(healthy));
        if is_new {
            self.audit(context, format!("region {region} takes part"), "its first renewal");
        }
        Ok(Outcome::Done)
    }

    fn suspect(
        &mut self,
        context: &Context<'_>,
        region: &str,
        run: u64,
        suspicion: Suspicion,
    ) -> Applied {
        check_name(context.who)?;
        if context.who == region {
            return Err(Refusal::OnItself(region.to_owned()));
        }
        if self.is_suspended(context.who) {
            return Err(Refusal::Suspended(context.who.to_owned()));
        }
        let standing = self.known_mut(region)?;
        if standing.suspended {
            return Ok(Outcome::Done);
        }
        let newest = standing.healthy_renewal;
        if run != standing.run || suspicion.renewal > newest || suspicion.is_void(newest) {
            return Err(Refusal::Overtaken { region: region.to_owned(), newest });
        }
        let is_full = standing.suspicions.len() >= REGIONS_MAX;
        if is_full && !standing.suspicions.contains_key(context.who) {
            return Err(Refusal::Invalid("too many regions suspect it already".to_owned()));
        }
        standing.suspicions.insert(context.who.to_owned(), suspicion);
        if standing.suspicions.len() >= SUSPICIONS_NEEDED {
            let all = std::mem::take(&mut standing.suspicions);
            let told: Vec<String> =
                all.iter().map(|(by, seen)| format!("{by}: {}", seen.evidence)).collect();
            self.suspend(context, region, &told.join("; "));
        }
        Ok(Outcome::Done)
    }

    fn suspend_by_hand(&mut self, context: &Context<'_>, region: &str, why: &str) -> Applied {
        let standing = self.known_mut(region)?;
        let was_by_hand = std::mem::replace(&mut standing.by_hand, true);
        match standing.suspended {
            false => self.suspend(context, region, why),
            true if !was_by_hand => {
                self.audit(context, format!("region {region} stays suspended by hand"), why);
            }
            true => {}
        }
        Ok(Outcome::Done)
    }

    /// Takes the lease and the tables of a region away, and its claims back.
    fn suspend(&mut self, context: &Context<'_>, region: &str, why: &str) {
        let Some(standing) = self.regions.get_mut(region) else { return };
        standing.suspended = true;
        standing.suspended_at = context.index;
        standing.suspicions.clear();
        // It is not known any more to be of sound mind.
        for other in self.regions.values_mut() {
            other.suspicions.remove(region);
        }
        let mut vacated = 0;
        let mut maybe_complete = Vec::new();
        for (table, tenure) in &mut self.tables {
            if let Some(vacancy) = &mut tenure.vacant {
                vacancy.claims.remove(region);
                maybe_complete.push(*table);
            } else if tenure.writer == region {
                tenure.vacate(context);
                vacated += 1;
            }
        }
        self.audit(context, format!("region {region} is suspended, {vacated} tables vacant"), why);
        for table in maybe_complete {
            self.grant_if_all_have_claimed(context, table);
        }
    }

    fn rejoin(&mut self, context: &Context<'_>, run: u64, suspended_at: u64) -> Applied {
        let region = context.who;
        let standing = self.known_mut(region)?;
        if run < standing.run {
            return Err(Refusal::OldRun { region: region.to_owned(), run: standing.run });
        }
        if !standing.suspended {
            return Ok(Outcome::Done);
        }
        if standing.by_hand {
            return Err(Refusal::SuspendedByHand(region.to_owned()));
        }
        if standing.suspended_at != suspended_at {
            let at = standing.suspended_at;
            return Err(Refusal::SuspendedAgain { region: region.to_owned(), at });
        }
        standing.suspended = false;
        if standing.run != run {
            (standing.run, standing.renewal, standing.healthy_renewal) = (run, 0, 0);
        }
        let why = format!("it has fenced itself after the suspension at {suspended_at}");
        self.audit(context, format!("region {region} has rejoined"), &why);
        Ok(Outcome::Done)
    }

    fn release(&mut self, context: &Context<'_>, region: &str) -> Applied {
        let standing = self.known_mut(region)?;
        if !standing.suspended {
            return Err(Refusal::NotSuspended(region.to_owned()));
        }
        if std::mem::replace(&mut standing.by_hand, false) {
            self.audit(context, format!("region {region} may rejoin"), "released by hand");
        }
        Ok(Outcome::Done)
    }

    fn forget(&mut self, context: &Context<'_>, region: &str) -> Applied {
        if !self.known_mut(region)?.suspended {
            return Err(Refusal::NotSuspended(region.to_owned()));
        }
        let uses = |tenure: &Tenure| tenure.writer == region || tenure.has_replica(region);
        if let Some((table, _)) = self.tables.iter().find(|(_, tenure)| uses(tenure)) {
            return Err(Refusal::InUse { region: region.to_owned(), table: *table });
        }
        self.regions.remove(region);
        self.audit(context, format!("region {region} is forgotten"), "by hand");
        Ok(Outcome::Done)
    }

    fn claim(&mut self, context: &Context<'_>, table: u64, epoch: u64, claim: Claim) -> Applied {
        let region = context.who;
        self.check_region(region)?;
        let tenure = self.tables.get_mut(&table).ok_or(Refusal::NoTable(table))?;
        if let Some(granted) = tenure.granted_to(region, epoch) {
            return Ok(granted);
        }
        if !tenure.has_replica(region) {
            return Err(Refusal::NoReplica { table, region: region.to_owned() });
        }
        let vacancy = tenure.vacancy_mut(table, epoch)?;
        if claim.log_epoch >= epoch {
            return Err(Refusal::Invalid(format!(
                "the log of region {region} goes on in epoch {}, and epoch {epoch} was granted \
                 to nobody; copy the table anew",
                claim.log_epoch
            )));
        }
        vacancy.claims.insert(region.to_owned(), claim);
        self.grant_if_all_have_claimed(context, table);
        let tenure = self.tables.get(&table).ok_or(Refusal::NoTable(table))?;
        Ok(tenure.granted_to(region, epoch).unwrap_or(Outcome::Done))
    }

    fn settle(&mut self, context: &Context<'_>, table: u64, epoch: u64) -> Applied {
        let tenure = self.tables.get_mut(&table).ok_or(Refusal::NoTable(table))?;
        if tenure.vacant.is_none() && tenure.epoch == epoch {
            return Ok(Outcome::Done);
        }
        let have = tenure.vacancy_mut(table, epoch)?.claims.len();
        let needed = tenure.claims_needed();
        let Some((best, _)) = tenure.best_claim().filter(|_| have >= needed) else {
            return Err(Refusal::TooFewClaims { table, have, needed });
        };
        if !tenure.may_go_by_itself_to(best) {
            return Err(Refusal::AwaitsPerson(table));
        }
        let best = best.to_owned();
        self.grant(context, table, &best, "others were waited for long enough");
        Ok(Outcome::Done)
    }

    fn decide(&mut self, context: &Context<'_>, table: u64, epoch: u64, region: &str) -> Applied {
        let tenure = self.tables.get_mut(&table).ok_or(Refusal::NoTable(table))?;
        if tenure.granted_to(region, epoch).is_some() {
            return Ok(Outcome::Done);
        }
        let vacancy = tenure.vacancy_mut(table, epoch)?;
        if !vacancy.claims.contains_key(region) {
            return Err(Refusal::NotClaimed { table, region: region.to_owned() });
        }
        self.grant(context, table, region, "decided by hand");
        Ok(Outcome::Done)
    }

    /// The epoch that a region was granted begins with what is known of earlier ones.
    fn accept_loss(
        &mut self,
        context: &Context<'_>,
        table: u64,
        epoch: u64,
        region: &str,
    ) -> Applied {
        let tenure = self.tables.get_mut(&table).ok_or(Refusal::NoTable(table))?;
        if tenure.granted_to(region, epoch).is_none() {
            return Err(match &tenure.vacant {
                Some(vacancy) => Refusal::Vacant { table, epoch: vacancy.epoch },
                None => tenure.held_otherwise(table),
            });
        }
        let newest = tenure.history.last_mut().filter(|newest| newest.how == How::Failover);
        let Some(newest) = newest else { return Ok(Outcome::Done) };
        if std::mem::replace(&mut newest.accepts_loss, true) {
            return Ok(Outcome::Done);
        }
        let what = format!(
            "region {} writes table {} in epoch {} without what replicas that are gone may have \
             prepared",
            newest.writer, tenure.name, newest.epoch
        );
        self.audit(context, what, "the loss is accepted by hand");
        Ok(Outcome::Done)
    }

    fn open(&mut self, context: &Context<'_>, table: u64, epoch: u64, after: u64) -> Applied {
        let region = context.who;
        self.check_region(region)?;
        let tenure = self.tables.get_mut(&table).ok_or(Refusal::NoTable(table))?;
        if let Some(granted) = tenure.granted_to(region, epoch) {
            return Ok(granted);
        }
        if let Some(vacancy) = &tenure.vacant {
            return Err(Refusal::Vacant { table, epoch: vacancy.epoch });
        }
        if tenure.epoch.checked_add(1) != Some(epoch) {
            return Err(tenure.held_otherwise(table));
        }
        if !tenure.has_replica(region) {
            return Err(Refusal::NoReplica { table, region: region.to_owned() });
        }
        let log_epoch = tenure.epoch;
        let why = format!("region {} has handed over", tenure.writer);
        tenure.begin(Opening {
            epoch,
            writer: region.to_owned(),
            after,
            log_epoch,
            how: How::Planned,
            accepts_loss: false,
        });
        let what = format!(
            "region {region} writes table {} in epoch {epoch} after LSN {after}",
            tenure.name
        );
        self.audit(context, what, &why);
        Ok(Outcome::Granted { epoch, after })
    }

    fn resign(&mut self, context: &Context<'_>, table: u64, epoch: u64, why: &str) -> Applied {
        let region = context.who;
        let tenure = self.tables.get_mut(&table).ok_or(Refusal::NoTable(table))?;
        if tenure.vacant.is_some() && tenure.epoch == epoch && tenure.writer == region {
            return Ok(Outcome::Done);
        }
        if tenure.vacant.is_some() || tenure.epoch != epoch || tenure.writer != region {
            return Err(tenure.held_otherwise(table));
        }
        tenure.vacate(context);
        let what = format!("region {region} has resigned from table {}", tenure.name);
        self.audit(context, what, why);
        Ok(Outcome::Done)
    }

    /// Nobody is waited for who is suspended, since its claim would not be taken.
    fn grant_if_all_have_claimed(&mut self, context: &Context<'_>, table: u64) {
        let Some(tenure) = self.tables.get(&table) else { return };
        let Some(vacancy) = &tenure.vacant else { return };
        let is_complete = tenure
            .replicas
            .iter()
            .all(|region| vacancy.claims.contains_key(region) || self.is_suspended(region));
        let is_enough = vacancy.claims.len() >= tenure.claims_needed();
        let best = tenure.best_claim().map(|(region, _)| region);
        let best = best.filter(|best| is_complete && is_enough && tenure.may_go_by_itself_to(best));
        if let Some(best) = best.map(str::to_owned) {
            self.grant(context, table, &best, "all regions that are there have claimed it");
        }
    }

    /// Grants the epoch of a vacancy to a region that has claimed it.
    fn grant(&mut self, context: &Context<'_>, table: u64, region: &str, why: &str) {
        let Some(tenure) = self.tables.get_mut(&table) else { return };
        let needed = tenure.claims_needed();
        let Some(vacancy) = tenure.vacant.take() else { return };
        let Some(claim) = vacancy.claims.get(region) else {
            tenure.vacant = Some(vacancy);
            return;
        };
        let epoch = vacancy.epoch;
        let known_end = vacancy.claims.values().map(|claim| claim.known_end).max().unwrap_or(0);
        let lost = known_end.saturating_sub(claim.lsn);
        let what = format!(
            "region {region} writes table {} in epoch {epoch} after LSN {}",
            tenure.name, claim.lsn
        );
        let why = format!(
            "{why}; {} of {needed} claims, {lost} entries of {} are known to be missing",
            vacancy.claims.len(),
            tenure.writer
        );
        tenure.begin(Opening {
            epoch,
            writer: region.to_owned(),
            after: claim.lsn,
            log_epoch: claim.log_epoch,
            how: How::Failover,
            accepts_loss: false,
        });
        self.audit(context, what, &why);
    }

    fn known_mut(&mut self, region: &str) -> Result<&mut Standing, Refusal> {
        self.regions.get_mut(region).ok_or_else(|| Refusal::UnknownRegion(region.to_owned()))
    }

    /// Whether a region is known and not suspended.
    fn check_region(&self, region: &str) -> Result<(), Refusal> {
        match self.regions.get(region) {
            None => Err(Refusal::UnknownRegion(region.to_owned())),
            Some(standing) if standing.suspended => Err(Refusal::Suspended(region.to_owned())),
            Some(_) => Ok(()),
        }
    }

    fn audit(&mut self, context: &Context<'_>, what: String, why: &str) {
        let Context { index, at_millis, who } = *context;
        let (who, what, why) = (cut(who), cut(&what), cut(why));
        self.audit.push_back(Audited { index, at_millis, who, what, why });
        while self.audit.len() > AUDIT_MAX {
            self.audit.pop_front();
        }
    }
}

impl Suspicion {
    /// Whether the region has been seen alive since.
    fn is_void(&self, healthy_renewal: u64) -> bool {
        healthy_renewal > self.renewal.saturating_add(self.outlives)
    }
}

impl Tenure {
    /// What an enrolment asks for, as it is where the table is a new one.
    fn enrolled(command: &Command) -> Option<(u64, Tenure)> {
        let Command::Enrol {
            table,
            name,
            epoch,
            writer,
            replicas,
            held_by,
            automatic,
            version,
            ..
        } = command
        else {
            return None;
        };
        let opening = Opening {
            epoch: *epoch,
            writer: writer.clone(),
            after: 0,
            log_epoch: 0,
            how: How::Enrolled,
            accepts_loss: false,
        };
        let tenure = Tenure {
            name: name.clone(),
            epoch: *epoch,
            writer: writer.clone(),
            vacant: None,
            replicas: replicas.clone(),
            held_by: *held_by,
            automatic: *automatic,
            version: *version,
            history: vec![opening],
        };
        Some((*table, tenure))
    }

    fn vacate(&mut self, context: &Context<'_>) {
        self.vacant = Some(Vacancy {
            epoch: self.epoch.saturating_add(1),
            since_index: context.index,
            since_millis: context.at_millis,
            claims: std::collections::BTreeMap::new(),
        });
    }

    fn begin(&mut self, opening: Opening) {
        self.epoch = opening.epoch;
        self.writer.clone_from(&opening.writer);
        self.vacant = None;
        self.history.push(opening);
        if self.history.len() > HISTORY_MAX {
            self.history.remove(0);
        }
    }

    /// The vacancy of the table, if it is that of this epoch.
    fn vacancy_mut(&mut self, table: u64, epoch: u64) -> Result<&mut Vacancy, Refusal> {
        let otherwise = self.held_otherwise(table);
        match &mut self.vacant {
            None => Err(otherwise),
            Some(vacancy) if vacancy.epoch != epoch => {
                Err(Refusal::Vacant { table, epoch: vacancy.epoch })
            }
            Some(vacancy) => Ok(vacancy),
        }
    }

    /// A table that waits for a person goes back to its own writer without one.
    fn may_go_by_itself_to(&self, region: &str) -> bool {
        self.automatic || self.writer == region
    }
}

fn membership(tenure: &Tenure) -> String {
    let held = match tenure.held_by {
        0 => String::new(),
        held_by => format!(", held by {held_by} others"),
    };
    let word = if tenure.automatic { "automatic" } else { "by hand" };
    format!("replicas {}{held}, failover {word}", tenure.replicas.join(" "))
}

fn check_membership(
    name: &str,
    writer: &str,
    replicas: &[String],
    held_by: u8,
) -> Result<(), Refusal> {
    let wrong = |what: String| Err(Refusal::Invalid(what));
    check_name(name)?;
    replicas.iter().try_for_each(|region| check_name(region))?;
    if replicas.len() > REPLICAS_MAX {
        return wrong(format!("a table has at most {REPLICAS_MAX} replicas"));
    }
    if !replicas.iter().any(|region| region == writer) {
        return wrong(format!("region {writer} writes the table and is none of its replicas"));
    }
    let is_twice = |at: usize| replicas.iter().take(at).any(|other| *other == replicas[at]);
    if (0..replicas.len()).any(is_twice) {
        return wrong("a region is named twice".to_owned());
    }
    if usize::from(held_by) >= replicas.len() {
        return wrong(format!("there are not {held_by} other replicas to hold a write"));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), Refusal> {
    match (1..=NAME_BYTES_MAX).contains(&name.len()) {
        true => Ok(()),
        false => Err(Refusal::Invalid(format!("a name has 1 to {NAME_BYTES_MAX} bytes"))),
    }
}

/// What people read is cut to its bound.
fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
