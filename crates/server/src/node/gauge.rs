//! The gauge: for each table and each other region, how many rows differ. Always on.
//!
//! Of two regions the first by name looks. Each second it asks for the roots of the tables that
//! have changed since they were last found alike, all in one question. Where roots differ at one
//! cut, a bounded comparison names and counts the rows, and takes but a small share of the time.
//! Tables that do not change cost nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::global_table::Serve;
use isthmus_model::ids::{Lsn, TableId};
use isthmus_model::key::EncodedKey;
use isthmus_model::schema::Schema;
use isthmus_replication::verify::answer::{Answer, Opened, Tell};
use isthmus_replication::verify::compare::{Detail, Options, Shell, compare};
use isthmus_replication::verify::question::{Ask, Close, Cut, Open, Question};
use isthmus_replication::verify::report::{DifferingRange, Report, Verdict};
use isthmus_store::Table;
use parking_lot::Mutex;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::events::EventKind;
use super::jobs::spec::{RepairMode, RepairSpec, Spec};
use super::verify::key_told;
use super::verify::place::Place;
use super::{Node, Record};
use crate::config::AutoRepair;
use crate::peer::verify::{PlaceTold, ROOTS_MAX, Roots, VerdictTold};
use crate::status::{DifferingPlace, DifferingStatus};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Tables found alike are looked at again after this, changed or not.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// The other region is told what was found at least so often.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// While nothing changes, a pair that differs is not compared more often.
const COMPARE_EVERY: Duration = Duration::from_secs(10);
/// A comparison that took t is not repeated before this times t.
const REST_FACTOR: u32 = 20;
/// A comparison of the gauge is cut short here.
const COMPARE_MAX: Duration = Duration::from_secs(10);
const ROWS_COUNTED_MAX: u64 = 100_000;
/// Ranges that are told of a pair.
const PLACES_MAX: usize = 16;
/// How long it waits for a region that is behind.
const WAIT: Duration = Duration::from_secs(1);
/// Between two repairs by rule of one pair.
const REPAIR_EVERY: Duration = Duration::from_secs(60);

/// When a pair was last found alike.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Alike {
    lsn: Lsn,
    /// Since when the stream to the other region was open: it may have been restarted since.
    reached_since: i64,
    at: Duration,
}

/// How two replicas stand.
#[derive(Clone, Debug, Default)]
struct Pair {
    alike: Option<Alike>,
    rows: Option<u64>,
    ranges: u64,
    places: Vec<PlaceTold>,
    since_millis: i64,
    checked: Duration,
    compare_after: Duration,
    repair_after: Duration,
}

#[derive(Default)]
struct Inner {
    pairs: BTreeMap<(TableId, String), Pair>,
    /// When a region was last told, and whether there is news for it.
    told: BTreeMap<String, (Duration, bool)>,
}

/// How the replicas here stand to those of other regions.
#[derive(Default)]
pub(crate) struct Gauge(Mutex<Inner>);

impl Gauge {
    /// Takes in what the region that looks has found.
    pub(crate) fn told_by(&self, node: &Node, from: &str, verdicts: &[VerdictTold]) {
        if from >= node.config.region.name.as_str() {
            return;
        }
        let now = node.clock.monotonic();
        for told in verdicts {
            let id = TableId(told.table);
            let holds = node.record(id).is_some_and(|record| record.table.replica(from).is_some());
            if !holds {
                continue;
            }
            let mut inner = self.0.lock();
            let pair = inner.pairs.entry((id, from.to_owned())).or_default();
            pair.rows = Some(told.rows);
            pair.ranges = told.ranges;
            pair.places = told.places.iter().take(PLACES_MAX).cloned().collect();
            pair.since_millis = told.since_millis;
            let ago = Duration::from_millis(told.checked_millis_ago);
            pair.checked = now.saturating_sub(ago);
        }
    }

    /// How the replicas of a table stand, by region.
    pub(crate) fn of_table(
        &self,
        table: TableId,
        schema: &Schema,
        now: Duration,
    ) -> Vec<DifferingStatus> {
        let inner = self.0.lock();
        let of_table = inner.pairs.iter().filter(|((id, _), _)| *id == table);
        let told = of_table.filter_map(|((_, region), pair)| {
            Some(DifferingStatus {
                region: region.clone(),
                rows: pair.rows?,
                ranges: pair.ranges,
                places: pair.places.iter().map(|place| place_status(schema, place)).collect(),
                since_ms: pair.since_millis,
                checked_ms_ago: now.saturating_sub(pair.checked).as_millis() as u64,
            })
        });
        told.collect()
    }

    /// Forgets pairs that are no pairs any more.
    fn keep(&self, is_pair: impl Fn(TableId, &str) -> bool) {
        self.0.lock().pairs.retain(|(table, region), _| is_pair(*table, region));
    }

    fn pair(&self, table: TableId, region: &str) -> Pair {
        self.0.lock().pairs.get(&(table, region.to_owned())).cloned().unwrap_or_default()
    }

    /// What there is to tell a region now, if it is time.
    fn to_tell(&self, region: &str, now: Duration) -> Option<Vec<VerdictTold>> {
        let mut inner = self.0.lock();
        let of_region = inner.pairs.iter().filter(|((_, other), _)| other == region);
        let verdict = |((table, _), pair): (&(TableId, String), &Pair)| {
            Some(VerdictTold {
                table: table.0,
                rows: pair.rows?,
                ranges: pair.ranges,
                places: pair.places.clone(),
                since_millis: pair.since_millis,
                checked_millis_ago: now.saturating_sub(pair.checked).as_millis() as u64,
            })
        };
        let verdicts: Vec<VerdictTold> = of_region.filter_map(verdict).take(ROOTS_MAX).collect();
        let (at, news) = inner.told.entry(region.to_owned()).or_default();
        let due = *news || now.saturating_sub(*at) >= TELL_EVERY;
        if !due || verdicts.is_empty() {
            return None;
        }
        (*at, *news) = (now, false);
        Some(verdicts)
    }

    /// Notes a verdict. Gives the rows that differed before, if it was known.
    fn note(
        &self,
        key: (TableId, &str),
        found: Differ,
        alike: Option<Alike>,
        now: (i64, Duration),
    ) -> Option<u64> {
        let mut inner = self.0.lock();
        let pair = inner.pairs.entry((key.0, key.1.to_owned())).or_default();
        let before = pair.rows;
        let rows = found.rows;
        if before != Some(rows) {
            let was_alike = before.unwrap_or(0) == 0;
            if was_alike || rows == 0 {
                pair.since_millis = now.0;
            }
        }
        (pair.rows, pair.ranges, pair.places) = (Some(rows), found.ranges, found.places);
        pair.alike = alike;
        pair.checked = now.1;
        if before != Some(rows) {
            inner.told.entry(key.1.to_owned()).or_default().1 = true;
        }
        before
    }

    fn compare_after(&self, table: TableId, region: &str, after: Duration) {
        let mut inner = self.0.lock();
        let pair = inner.pairs.entry((table, region.to_owned())).or_default();
        pair.compare_after = after;
    }
}

/// What is found to differ of a pair.
#[derive(Clone, Debug, Default)]
struct Differ {
    rows: u64,
    ranges: u64,
    places: Vec<PlaceTold>,
}

/// A few ranges for any number: neighbours are taken together.
fn places(ranges: &[DifferingRange]) -> Vec<PlaceTold> {
    let each = ranges.len().div_ceil(PLACES_MAX).max(1);
    let place = |chunk: &[DifferingRange]| PlaceTold {
        first: chunk[0].first.0.clone(),
        last: chunk[chunk.len() - 1].last.0.clone(),
        rows: chunk.iter().map(|range| range.rows).sum(),
    };
    ranges.chunks(each).map(place).collect()
}

fn place_status(schema: &Schema, place: &PlaceTold) -> DifferingPlace {
    let key = |key: &Bytes| key_told(schema, &EncodedKey(key.clone()));
    DifferingPlace { start: key(&place.first), end: key(&place.last), rows: place.rows }
}

/// A table that may differ in another region.
struct Suspect {
    table: Arc<Table>,
    record: Record,
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
            let round = tokio::task::spawn_blocking(move || node.look(&runtime));
            tokio::select! {
                looked = round => {
                    if let Err(error) = looked {
                        tracing::error!(%error, "the gauge broke");
                    }
                }
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
        let mut progress = |now: &isthmus_replication::verify::compare::Progress| {
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

    /// Starts a repair, if the configuration says so.
    fn repair_by_rule(
        self: &Arc<Self>,
        suspect: &Suspect,
        place: &Place,
        rows: u64,
        runtime: &Handle,
    ) {
        let rule = &self.config.verify;
        let table = &suspect.record.table;
        let pair = [self.config.region.name.as_str(), place.region.as_str()];
        let Some((from, to, mode)) = repair_of(rule.auto_repair, table.serve, &table.base, pair)
        else {
            return;
        };
        let now = self.clock.monotonic();
        let known = self.verification.gauge.pair(suspect.table.id(), &place.region);
        if rows > rule.auto_repair_rows_max
            || now < known.repair_after
            || self.jobs.is_busy_with(&table.name)
        {
            return;
        }
        if let Some(pair) = self
            .verification
            .gauge
            .0
            .lock()
            .pairs
            .get_mut(&(suspect.table.id(), place.region.clone()))
        {
            pair.repair_after = now + REPAIR_EVERY;
        }
        let spec = Spec::Repair(RepairSpec {
            table: table.name.clone(),
            from: from.to_owned(),
            to: to.to_owned(),
            mode,
            dry_run: false,
            rows_per_second: None,
            rows_max: None,
        });
        match runtime.block_on(self.start_job(spec)) {
            Ok(id) => tracing::info!(table = %table.name, %id, "repair by rule begun"),
            Err(error) => tracing::warn!(table = %table.name, %error, "repair by rule not begun"),
        }
    }
}

/// From where to where a pair is repaired by rule.
fn repair_of<'a>(
    rule: AutoRepair,
    serve: Serve,
    base: &str,
    pair: [&'a str; 2],
) -> Option<(&'a str, &'a str, RepairMode)> {
    match (rule, serve) {
        (AutoRepair::Off, _) | (AutoRepair::FromPrimary, Serve::PeerToPeer) => None,
        (AutoRepair::Merge, Serve::PeerToPeer) => Some((pair[0], pair[1], RepairMode::Merge)),
        (AutoRepair::FromPrimary | AutoRepair::Merge, Serve::PrimarySecondary) => {
            let from = pair.iter().position(|region| *region == base)?;
            Some((pair[from], pair[1 - from], RepairMode::OneWay))
        }
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
    use isthmus_model::ids::SchemaNumber;
    use isthmus_model::key::KeyKind;
    use isthmus_model::schema::{KeyColumn, TableOptions};

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

    #[test]
    fn rules_say_which_side_is_repaired() {
        let pair = ["a", "b"];
        let of = |rule, serve, base| repair_of(rule, serve, base, pair);
        let (one, many) = (Serve::PrimarySecondary, Serve::PeerToPeer);
        assert_eq!(of(AutoRepair::Off, one, "a"), None);
        assert_eq!(of(AutoRepair::FromPrimary, many, "a"), None);
        assert_eq!(of(AutoRepair::FromPrimary, one, "b"), Some(("b", "a", RepairMode::OneWay)));
        assert_eq!(of(AutoRepair::Merge, one, "a"), Some(("a", "b", RepairMode::OneWay)));
        assert_eq!(of(AutoRepair::Merge, one, "c"), None);
        assert_eq!(of(AutoRepair::Merge, many, "c"), Some(("a", "b", RepairMode::Merge)));
    }

    fn schema() -> Schema {
        let column = KeyColumn { name: "k".into(), kind: KeyKind::Integer, auto_increment: false };
        Schema {
            number: SchemaNumber(1),
            key_columns: vec![column],
            defined_columns: Vec::new(),
            options: TableOptions::default(),
        }
    }

    #[test]
    fn a_pair_remembers_since_when_it_differs() {
        let gauge = Gauge::default();
        let (table, second) = (TableId(1), Duration::from_secs(1));
        let found = |rows| Differ { rows, ranges: 1, places: Vec::new() };
        assert_eq!(gauge.note((table, "b"), found(3), None, (10, second)), None);
        assert_eq!(gauge.note((table, "b"), found(4), None, (20, second)), Some(3));
        let told = gauge.of_table(table, &schema(), second * 3);
        assert_eq!((told[0].rows, told[0].since_ms, told[0].checked_ms_ago), (4, 10, 2000));
        assert_eq!(gauge.note((table, "b"), Differ::default(), None, (30, second)), Some(4));
        assert_eq!(gauge.of_table(table, &schema(), second)[0].since_ms, 30);
        assert!(gauge.to_tell("b", second).is_some());
        assert!(gauge.to_tell("b", second).is_none());
        gauge.keep(|_, _| false);
        assert!(gauge.of_table(table, &schema(), second).is_empty());
    }

    #[test]
    fn places_are_few_and_hold_every_row() {
        let key = |number: u64| EncodedKey(Bytes::from(number.to_be_bytes().to_vec()));
        let range = |n: u64| DifferingRange { first: key(2 * n), last: key(2 * n + 1), rows: n };
        for count in [0, 1, 16, 17, 64] {
            let ranges: Vec<DifferingRange> = (0..count).map(range).collect();
            let places = places(&ranges);
            assert!(places.len() <= PLACES_MAX);
            let rows: u64 = places.iter().map(|place| place.rows).sum();
            assert_eq!(rows, ranges.iter().map(|range| range.rows).sum::<u64>());
            assert_eq!(
                places.first().map(|place| place.first.clone()),
                ranges.first().map(|range| range.first.0.clone())
            );
            assert_eq!(
                places.last().map(|place| place.last.clone()),
                ranges.last().map(|range| range.last.0.clone())
            );
        }
    }
}
