//! Looks at the other replicas: roots first, and where these differ, a bounded comparison.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::ids::{Lsn, TableId};
use isthmus_replication::verify::answer::{Answer, Opened, Tell};
use isthmus_replication::verify::compare::{Detail, Options, Progress, Shell, compare};
use isthmus_replication::verify::question::{Ask, Close, Cut, Open, Question};
use isthmus_replication::verify::report::{Report, Verdict};
use isthmus_store::Table;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{Alike, Differ, place_status, places};
use crate::fault;
use crate::node::events::EventKind;
use crate::node::verify::place::Place;
use crate::node::{Node, Record};
use crate::peer::verify::{ROOTS_MAX, Roots};
use crate::status::DifferingPlace;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Tables found alike are looked at again after this, changed or not.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// While nothing changes, a pair that differs is not compared more often.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// A comparison that took t is not repeated before this times t.
const REST_FACTOR: u32 = 20;
/// A comparison of the gauge is cut short here.
const COMPARE_MAX: Duration = Duration::from_secs(10);
const ROWS_COUNTED_MAX: u64 = 100_000;
/// How long it waits for a region that is behind.
const WAIT: Duration = Duration::from_secs(1);

/// A table that may differ in another region.
pub(super) struct Suspect {
    pub(super) table: Arc<Table>,
    pub(super) record: Record,
    /// The end of its log before it was looked at.
    lsn: Lsn,
    first: Opened,
}

/// How the roots of two replicas stand to each other.
#[derive(Debug, PartialEq, Eq)]
enum Stand {
    Alike,
    Differ,
    /// The other one has come to this LSN only.
    Behind(u64),
    Unknown,
}

impl Node {
    /// Looks again and again, until `stop` says so.
    pub async fn keep_gauge(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let (node, runtime) = (self.clone(), Handle::current());
            tokio::select! {
                () = fault::blocking(move || node.look(&runtime)) => {}
                _ = stop.changed() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = stop.changed() => return,
            }
        }
    }

    /// One round over all regions.
    fn look(self: &Arc<Self>, runtime: &Handle) {
        let own = &self.config.region.name;
        let records = self.records.lock().clone();
        self.verification.gauge.keep(|table, region| {
            records.get(&table).is_some_and(|record| record.table.replica(region).is_some())
        });
        for (region, other) in &self.others {
            let reached = other.reached();
            if region < own || !reached.connected {
                continue;
            }
            let tables = records.iter().filter(|(_, record)| {
                record.ready
                    && record.table.replica(own).is_some()
                    && record.table.replica(region).is_some()
                    && ![own, region].into_iter().any(|one| record.table.takes_extract(one))
            });
            let suspects: Vec<Suspect> = tables
                .filter_map(|(id, record)| self.suspect(*id, record, region, reached.since_millis))
                .take(ROOTS_MAX)
                .collect();
            let Ok(place) = Place::in_region(self, region, runtime) else { continue };
            self.look_at(&place, suspects, reached.since_millis, runtime);
        }
    }

    /// A table that has changed since it was last found alike.
    fn suspect(
        &self,
        id: TableId,
        record: &Record,
        region: &str,
        reached_since: i64,
    ) -> Option<Suspect> {
        let table = self.store.table(id)?;
        let (lsn, now) = (table.durable_lsn(), self.clock.monotonic());
        let pair = self.verification.gauge.pair(id, region);
        let is_known = pair.alike.is_some_and(|alike| {
            alike.lsn == lsn
                && alike.reached_since == reached_since
                && now.saturating_sub(alike.at) < LOOK_AGAIN_AFTER
        });
        // One that differs is asked for its roots all the same, to see soon when it is mended.
        if is_known {
            return None;
        }
        let first = self.open_here(id, Cut::Now)?;
        Some(Suspect { table, record: record.clone(), lsn, first })
    }

    /// The roots of a table here.
    fn open_here(&self, table: TableId, cut: Cut) -> Option<Opened> {
        let sessions = &self.verification.sessions;
        let open = Open { table: table.0, cut: Some(cut.into()), ..Open::default() };
        let Some(Tell::Opened(opened)) = sessions.answer(Ask::Open(open).into()).tell else {
            return None;
        };
        sessions.answer(Ask::Close(Close { session: opened.session }).into());
        Some(opened)
    }

    fn look_at(
        self: &Arc<Self>,
        place: &Place,
        mut suspects: Vec<Suspect>,
        reached_since: i64,
        runtime: &Handle,
    ) {
        // A replica that is behind is asked a second time, as of where it has come to.
        for _ in 0..2 {
            let now = self.clock.monotonic();
            let verdicts = self.verification.gauge.to_tell(&place.region, now);
            if suspects.is_empty() && verdicts.is_none() {
                return;
            }
            let questions = suspects.iter().map(|suspect| question_of(suspect).encode()).collect();
            let roots = Roots { questions, verdicts: verdicts.unwrap_or_default() };
            let Ok(told) = place.roots(roots) else { return };
            let mut again = Vec::new();
            for (mut suspect, answer) in suspects.into_iter().zip(&told.answers) {
                match stand(&suspect.first, Answer::decode(answer).ok()) {
                    Stand::Alike => self.note_alike(&suspect, place, reached_since),
                    Stand::Differ => self.count(&suspect, place, reached_since, runtime),
                    Stand::Behind(lsn) => {
                        if let Some(first) = self.open_here(suspect.table.id(), Cut::Lsn(lsn))
                            && first.cut_lsn == lsn
                        {
                            suspect.first = first;
                            again.push(suspect);
                        }
                    }
                    Stand::Unknown => {}
                }
            }
            suspects = again;
        }
    }

    fn note_alike(&self, suspect: &Suspect, place: &Place, reached_since: i64) {
        let now = (self.clock.wall_millis(), self.clock.monotonic());
        // Only if nothing more has come is the table known to be alike by now.
        let is_whole = suspect.first.many_writers || suspect.first.cut_lsn == suspect.lsn.0;
        let alike = Alike { lsn: suspect.lsn, reached_since, at: now.1 };
        let (id, name) = (suspect.table.id(), suspect.table.name());
        let key = (id, place.region.as_str());
        let before =
            self.verification.gauge.note(key, Differ::default(), is_whole.then_some(alike), now);
        self.verification.gauge.compare_after(id, &place.region, Duration::ZERO);
        if before.is_some_and(|rows| rows > 0) {
            let pair = [self.config.region.name.as_str(), place.region.as_str()];
            let text = format!("{} and {} are alike again", pair[0], pair[1]);
            let detail = json!({ "regions": pair });
            self.notice(EventKind::ReplicasAlike, name.as_str(), text, detail);
        }
    }

    /// Roots differ at one cut: names and counts the rows.
    fn count(
        self: &Arc<Self>,
        suspect: &Suspect,
        place: &Place,
        reached_since: i64,
        runtime: &Handle,
    ) {
        let gauge = &self.verification.gauge;
        let (id, began) = (suspect.table.id(), self.clock.monotonic());
        if began < gauge.pair(id, &place.region).compare_after {
            return;
        }
        let report = self.compare_briefly(suspect, place, began, runtime);
        let now = self.clock.monotonic();
        let rest = (now.saturating_sub(began) * REST_FACTOR).max(LOOK_EVERY);
        let Some(report) = report else {
            gauge.compare_after(id, &place.region, now + rest);
            return;
        };
        match report.verdict {
            Verdict::Equal => {
                self.note_alike(suspect, place, reached_since);
                gauge.compare_after(id, &place.region, now + rest);
            }
            Verdict::CouldNotTell(_) => {
                gauge.compare_after(id, &place.region, now + rest);
            }
            Verdict::Different => {
                self.note_differ(suspect, place, &report);
                let after = now + rest.max(COMPARE_EVERY);
                gauge.compare_after(id, &place.region, after);
                self.repair_by_rule(suspect, place, report.rows_differing, runtime);
            }
        }
    }

    fn compare_briefly(
        self: &Arc<Self>,
        suspect: &Suspect,
        place: &Place,
        began: Duration,
        runtime: &Handle,
    ) -> Option<Report> {
        let own = &self.config.region.name;
        let names = [own.clone(), place.region.clone()];
        let mut options = Options::new(suspect.table.id(), names);
        options.wait = WAIT;
        options.rows_max = 1;
        options.detail = Detail::Keys;
        let clock = self.clock();
        let mut progress = |now: &Progress| {
            let took = clock.monotonic().saturating_sub(began);
            match took >= COMPARE_MAX || now.rows_differing >= ROWS_COUNTED_MAX {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let mut shell = Shell {
            clock: &**clock,
            pause: &mut |time| runtime.block_on(tokio::time::sleep(time)),
            progress: &mut progress,
            found: None,
        };
        let here = Place::in_region(self, own, runtime).ok()?;
        let (mut first, mut second) = (here.side(), place.side());
        compare(&mut *first, &mut *second, &options, &mut shell).ok()
    }

    fn note_differ(&self, suspect: &Suspect, place: &Place, report: &Report) {
        let now = (self.clock.wall_millis(), self.clock.monotonic());
        let (rows, ranges) = (report.rows_differing, report.ranges.len() as u64);
        let key = (suspect.table.id(), place.region.as_str());
        let found = Differ { rows, ranges, places: places(&report.ranges) };
        let schema = suspect.table.schema();
        let told: Vec<DifferingPlace> =
            found.places.iter().map(|place| place_status(&schema, place)).collect();
        let before = self.verification.gauge.note(key, found, None, now);
        if before == Some(rows) {
            return;
        }
        let pair = [self.config.region.name.as_str(), place.region.as_str()];
        let name = suspect.table.name();
        let count = if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
        let text = format!("{count} of {} and {} differ", pair[0], pair[1]);
        let detail = json!({ "regions": pair, "rows": rows, "ranges": ranges, "places": told });
        self.notice(EventKind::ReplicasDiffer, name.as_str(), text, detail);
    }
}

/// Asks the other region for its roots at the cut of the first.
fn question_of(suspect: &Suspect) -> Question {
    let first = &suspect.first;
    let cut = match first.many_writers {
        true => Cut::Hlc(first.cut_hlc),
        false => Cut::Lsn(first.cut_lsn),
    };
    let open = Open {
        table: suspect.table.id().0,
        cut: Some(cut.into()),
        floors: Some(first.floors()),
        roots: first.roots.clone(),
        ..Open::default()
    };
    Ask::Open(open).into()
}

/// What the other region's answer says.
fn stand(first: &Opened, answer: Option<Answer>) -> Stand {
    match answer.and_then(|answer| answer.tell) {
        Some(Tell::Opened(second)) => stand_of(first, &second),
        Some(Tell::NotYet(behind)) if !first.many_writers => Stand::Behind(behind.lsn),
        Some(_) | None => Stand::Unknown,
    }
}

fn stand_of(first: &Opened, second: &Opened) -> Stand {
    let many = first.many_writers;
    if many != second.many_writers || (!many && first.cut_lsn != second.cut_lsn) {
        return Stand::Unknown;
    }
    if second.alike {
        return Stand::Alike;
    }
    let floors = first.floors().joined(second.floors());
    let total = |opened: &Opened| {
        let roots = opened.roots.as_ref()?;
        roots.total_above(floors).ok().flatten()
    };
    match (total(first), total(second)) {
        (Some(one), Some(other)) if one == other => Stand::Alike,
        (Some(_), Some(_)) => Stand::Differ,
        // More lanes than are told: a comparison will know.
        (None, _) | (_, None) => Stand::Differ,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(lsn: u64, many_writers: bool, alike: bool) -> Opened {
        Opened { cut_lsn: lsn, many_writers, alike, ..Opened::default() }
    }

    #[test]
    fn roots_are_compared_only_at_one_cut() {
        let first = opened(5, false, false);
        assert_eq!(stand_of(&first, &opened(5, false, true)), Stand::Alike);
        assert_eq!(stand_of(&first, &opened(6, false, true)), Stand::Unknown);
        assert_eq!(stand_of(&first, &opened(5, true, true)), Stand::Unknown);
        assert_eq!(stand_of(&opened(5, true, false), &opened(9, true, true)), Stand::Alike);
        assert_eq!(stand_of(&first, &opened(5, false, false)), Stand::Differ);
        assert_eq!(stand(&first, None), Stand::Unknown);
    }
}
