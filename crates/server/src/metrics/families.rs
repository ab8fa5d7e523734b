//! The families: which figures there are, under which names and labels.
//!
//! `Figures` holds everything as it is at one moment, so that writing it out takes no lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Error;
use std::time::Duration;

use isthmus_model::ids::PartitionId;
use isthmus_replication::ship::LinkReport;
use isthmus_replication::traffic::Traffic;
use isthmus_store::counters::{DURATION_BOUNDS_MICROS, Durations};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::Outcome;
use super::batches::BatchFigures;
use super::detection;
use super::modes::ModeFigures;
use super::reshapes;
use crate::node::tell::{disk_bytes, memory_bytes};
use crate::node::{Node, ReshapeFigures};
use crate::status::{DetectionStatus, DrillStatus, ProbeStatus, Ratios, RpoStatus};

/// What tables without series of their own are summed under; no table can have this name.
const REST: &str = "(rest)";

pub(crate) type Labels = Vec<(&'static str, String)>;

/// Durations as Prometheus wants them: the bound of each class in seconds, how often it came.
#[derive(Debug)]
pub(crate) struct Histogram {
    classes: Vec<(f64, u64)>,
    sum: f64,
}

impl Histogram {
    /// Those of so many durations.
    pub(crate) fn of(durations: &Durations) -> Histogram {
        Histogram::of_classes(&durations.get())
    }

    /// The same, where how often each class came is known, and the sum.
    pub(crate) fn of_classes((counts, sum): &(Vec<u64>, Duration)) -> Histogram {
        let bounds = DURATION_BOUNDS_MICROS.iter().map(|micros| *micros as f64 / 1e6);
        let classes = bounds.chain([f64::MAX]).zip(counts.iter().copied()).collect();
        Histogram { classes, sum: sum.as_secs_f64() }
    }

    fn count(&self) -> u64 {
        self.classes.iter().map(|(_, count)| count).sum()
    }
}

/// The links of one table, or of the rest of the tables, to one region.
#[derive(Debug, Default)]
struct LinkFigures {
    states: BTreeMap<&'static str, u64>,
    lag_entries: u64,
    lag_bytes: u64,
    oldest_millis: Option<i64>,
    traffic: Traffic,
    wire_bytes: u64,
    copied_rows: u64,
    entries_rate: f64,
    bytes_rate: f64,
    conflicts: u64,
}

impl LinkFigures {
    fn add(&mut self, report: &LinkReport) {
        *self.states.entry(report.state.as_str()).or_default() += 1;
        let acked = report.acked.unwrap_or_default();
        self.lag_entries += report.appended.0.saturating_sub(acked.0);
        self.lag_bytes += report.waiting_bytes;
        self.oldest_millis = match (self.oldest_millis, report.oldest_millis) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.traffic.add(&report.traffic);
        self.wire_bytes += report.wire_bytes;
        self.copied_rows += report.copied_rows;
        self.entries_rate += report.rate.entries;
        self.bytes_rate += report.rate.wire_bytes;
    }
}

/// All figures of a node at one moment.
#[derive(Debug)]
pub(super) struct Figures {
    version: &'static str,
    region: String,
    now_millis: i64,
    serving_since_millis: i64,
    tables: u64,
    entries: BTreeMap<String, u64>,
    differing: BTreeMap<(String, String), u64>,
    /// Safe times, in milliseconds.
    safe: BTreeMap<String, i64>,
    past_bytes: u64,
    /// Conflicts by table and rule.
    conflicts: BTreeMap<(String, &'static str), u64>,
    reached: Vec<(String, bool)>,
    /// By table and the region they end in.
    links: BTreeMap<(String, String), LinkFigures>,
    requests: Vec<(&'static str, Outcome, u64)>,
    request_times: Vec<(&'static str, Histogram)>,
    commits: [u64; 4],
    commit_time: Histogram,
    memory: Option<u64>,
    disk: u64,
    disk_free: Option<u64>,
    refuses_writes: bool,
    probes: Vec<ProbeStatus>,
    modes: ModeFigures,
    detection: Option<DetectionStatus>,
    last_drill: Option<DrillStatus>,
    instance: Option<Ratios>,
    /// Availability of tables with series of their own, and for which share they were alike.
    measured: Vec<(String, Ratios, Option<Ratios>)>,
    /// What would be lost of each table now: the most of those that are summed.
    rpo: BTreeMap<String, RpoStatus>,
    /// How long nobody would write, in milliseconds.
    rto: BTreeMap<String, u64>,
    batches: BatchFigures,
    reshapes: ReshapeFigures,
}

impl Figures {
    /// Reads everything. May block for a moment.
    pub(super) fn of(node: &Node) -> Figures {
        let tables = node.tables();
        // The oldest keep their series when new tables come.
        let own_series = node.config().metrics.tables_max;
        let mut by_age: Vec<_> = tables.iter().map(|table| (table.id(), table)).collect();
        by_age.sort_by_key(|(id, _)| *id);
        let named: BTreeMap<PartitionId, String> = by_age
            .iter()
            .take(own_series)
            .map(|(_, table)| (table.partition(), table.name().as_str().to_owned()))
            .collect();
        let all: BTreeSet<PartitionId> = tables.iter().map(|table| table.partition()).collect();
        let label = |partition| named.get(&partition).cloned().unwrap_or_else(|| REST.to_owned());

        let mut entries = BTreeMap::<String, u64>::new();
        let mut differing = BTreeMap::<(String, String), u64>::new();
        let mut safe = BTreeMap::<String, i64>::new();
        let mut conflicts = BTreeMap::<(String, &str), u64>::new();
        let mut measured = Vec::new();
        let mut rpo = BTreeMap::<String, RpoStatus>::new();
        let mut rto = BTreeMap::<String, u64>::new();
        let mut batches = BatchFigures::of(node);
        let now_millis = node.clock().wall_millis();
        for table in &tables {
            batches.add(node, table);
            let name = label(table.partition());
            if name != REST
                && let Some((availability, alike)) = node.probes().of_table(table.id(), now_millis)
            {
                measured.push((name.clone(), availability, alike));
            }
            let record = node.record(table.id());
            if let Some(more) = node.rpo_status(table, record.as_ref()) {
                let most = rpo.entry(name.clone()).or_insert_with(|| more.clone());
                most.entries = most.entries.max(more.entries);
                most.ms = most.ms.max(more.ms);
            }
            let forecast = node.rto_status(table.id(), table.name().as_str());
            if let Some(most_ms) = forecast.and_then(|forecast| forecast.most_ms) {
                let most = rto.entry(name.clone()).or_default();
                *most = most_ms.max(*most);
            }
            for (rule, count) in table.conflicts_by_rule() {
                *conflicts.entry((name.clone(), rule)).or_default() += count;
            }
            let millis = node.safe_to_read(table).millis();
            let least = safe.entry(name.clone()).or_insert(millis);
            *least = millis.min(*least);
            *entries.entry(name.clone()).or_default() += table.durable_lsn().0;
            for other in node.differing(table.id(), &table.schema()) {
                *differing.entry((name.clone(), other.region)).or_default() += other.rows;
            }
        }
        let mut links = BTreeMap::<(String, String), LinkFigures>::new();
        for (region, other) in node.others() {
            let (reports, peer) = {
                let links = other.links();
                (links.reports(), links.peer())
            };
            for report in reports.iter().filter(|report| all.contains(&report.partition)) {
                let key = (label(report.partition), region.clone());
                let figures = links.entry(key).or_default();
                figures.add(report);
                let table = node.store().table_of_partition(report.partition);
                figures.conflicts += table.map_or(0, |table| table.conflicts_with_region(peer));
            }
        }
        let reached = node.others().iter();
        let counters = node.store().counters();
        let requests = node.requests();
        Figures {
            version: env!("CARGO_PKG_VERSION"),
            region: node.config().region.name.clone(),
            now_millis: node.clock().wall_millis(),
            serving_since_millis: node.serving_since_millis(),
            tables: tables.len() as u64,
            entries,
            differing,
            safe,
            conflicts,
            past_bytes: node.store().past_bytes() as u64,
            reached: reached.map(|(name, it)| (name.clone(), it.reached().connected)).collect(),
            links,
            requests: requests.counts().collect(),
            request_times: requests
                .times()
                .map(|(name, time)| (name, Histogram::of(time)))
                .filter(|(_, histogram)| histogram.count() > 0)
                .collect(),
            commits: [
                counters.commits.get(),
                counters.groups.get(),
                counters.entries.get(),
                counters.log_bytes.get(),
            ],
            commit_time: Histogram::of(&counters.commit_time),
            memory: memory_bytes(),
            disk: disk_bytes(&node.config().storage.data),
            disk_free: node.store().space_left().ok(),
            refuses_writes: node.store().refuses_writes().is_some(),
            probes: node.probes().status(node.clock().wall_millis()),
            modes: ModeFigures::of(node, label),
            detection: node.detection_status(),
            last_drill: node.last_drill(),
            instance: node.probes().of_instance(now_millis),
            measured,
            rpo,
            rto,
            batches,
            reshapes: node.reshape_figures(),
        }
    }

    fn node(&self, to: &mut Families<'_>) -> Result<(), Error> {
        let region = vec![("region", self.region.clone()), ("version", self.version.to_owned())];
        to.gauge("build", "Program and region that tell this", [(region, 1.0)])?;
        let since = self.serving_since_millis as f64 / 1e3;
        to.gauge("serving_since_seconds", "Since when it serves, Unix time", one(since))?;
        to.gauge("tables", "Tables of the region", one(self.tables as f64))?;
        let entries = self.entries.iter();
        let entries = entries.map(|(table, count)| (table_label(table), *count as f64));
        to.gauge("table_entries", "Last address of the table's log", entries)?;
        let differing = self.differing.iter().map(|((table, region), rows)| {
            (vec![("table", table.clone()), ("to", region.clone())], *rows as f64)
        });
        let help = "Rows that differ from another region's at equal watermarks";
        to.gauge("table_differing_rows", help, differing)?;
        let safe = self.safe.iter();
        let safe = safe.map(|(table, millis)| (table_label(table), *millis as f64 / 1e3));
        let help = "Everything written before it in every region is here, Unix time";
        to.gauge("table_safe_seconds", help, safe)?;
        let conflicts = self.conflicts.iter().map(|((table, rule), count)| {
            (vec![("table", table.clone()), ("rule", (*rule).to_owned())], *count)
        });
        to.counter("conflicts", "Conflicts that this region has noticed", conflicts)?;
        let help = "Memory for what rows were, for reads as of a moment";
        to.gauge("past_bytes", help, one(self.past_bytes as f64))?;
        let reached = self.reached.iter();
        let reached = reached.map(|(region, it)| (vec![("to", region.clone())], number(*it)));
        to.gauge("region_reached", "Whether a stream to the region is open", reached)?;
        let memory = self.memory.map(|bytes| (Labels::new(), bytes as f64));
        to.gauge("memory_bytes", "Memory that the process holds", memory)?;
        to.gauge("disk_bytes", "Bytes of the region's data on disk", one(self.disk as f64))?;
        let free = self.disk_free.map(|bytes| (Labels::new(), bytes as f64));
        to.gauge("disk_free_bytes", "Bytes that can be written to that disk", free)?;
        let refuses = one(number(self.refuses_writes));
        to.gauge("refuses_writes", "Whether no writes are taken at the moment", refuses)
    }

    fn store(&self, to: &mut Families<'_>) -> Result<(), Error> {
        let [commits, groups, entries, bytes] = self.commits;
        let none = |count| [(Labels::new(), count)];
        to.counter("commits", "Batches made durable, each with one sync", none(commits))?;
        to.counter("commit_groups", "What partitions gave to commits", none(groups))?;
        to.counter("entries", "Entries made durable", none(entries))?;
        to.counter("log_bytes", "Bytes of their log records", none(bytes))?;
        let help = "How long commits took, their syncs included";
        to.histogram("commit_seconds", help, [(Labels::new(), &self.commit_time)])
    }

    fn probes(&self, to: &mut Families<'_>) -> Result<(), Error> {
        let region = |probe: &ProbeStatus| vec![("to", probe.region.clone())];
        let up = self.probes.iter().map(|probe| (region(probe), number(probe.up)));
        to.gauge("probe_up", "Whether the last write and read were answered", up)?;
        let times = self.probes.iter().flat_map(|probe| {
            let both = [("write", probe.write_ms), ("read", probe.read_ms)];
            both.into_iter().filter_map(move |(operation, millis)| {
                let mut labels = region(probe);
                labels.push(("operation", operation.to_owned()));
                Some((labels, millis? / 1e3))
            })
        });
        to.gauge("probe_seconds", "How long the last write and read took", times)?;
        let ratios = |of: fn(&ProbeStatus) -> Ratios| {
            self.probes.iter().flat_map(move |probe| by_window(region(probe), of(probe)))
        };
        let availability = ratios(|probe| probe.availability);
        to.gauge("availability_ratio", "Up time over all time, as probed from here", availability)?;
        let help = "Valid reads and valid writes over all, as probed from here";
        to.gauge("consistency_ratio", help, ratios(|probe| probe.consistency))
    }

    fn figures(&self, to: &mut Families<'_>) -> Result<(), Error> {
        let instance = self.instance.iter().flat_map(|it| by_window(Labels::new(), *it));
        let help = "Share of the time in which some region answered, as probed from here";
        to.gauge("instance_availability_ratio", help, instance)?;
        let measured = self.measured.iter();
        let available =
            measured.clone().flat_map(|(table, it, _)| by_window(table_label(table), *it));
        let help = "Share of the time in which the table could be read and written from here";
        to.gauge("table_availability_ratio", help, available)?;
        let alike = measured
            .filter_map(|(table, _, alike)| Some(by_window(table_label(table), (*alike)?)))
            .flatten();
        let help = "Share of the time in which the replica was like all others";
        to.gauge("table_alike_ratio", help, alike)?;
        let rpo = self.rpo.iter();
        let entries = rpo.clone().map(|(table, it)| (table_label(table), it.entries as f64));
        let help = "Entries written here that no other region is known to hold";
        to.gauge("table_rpo_entries", help, entries)?;
        let age = rpo.map(|(table, it)| (table_label(table), it.ms as f64 / 1e3));
        to.gauge("table_rpo_seconds", "Age of the oldest of them", age)?;
        let rto = self.rto.iter();
        let rto = rto.map(|(table, most)| (table_label(table), *most as f64 / 1e3));
        let help = "How long nobody would write if the writing region were lost, at most";
        to.gauge("table_rto_forecast_seconds", help, rto)
    }

    fn last_drill(&self, to: &mut Families<'_>) -> Result<(), Error> {
        let last = self.last_drill.iter();
        let last = || last.clone().map(|drill| (vec![("kind", drill.kind.clone())], drill));
        let ended = last().map(|(labels, drill)| (labels, drill.ended_ms as f64 / 1e3));
        to.gauge("drill_last_seconds", "When the last drill ended, Unix time", ended)?;
        let passed = last().map(|(labels, drill)| (labels, number(drill.passed)));
        let help = "Whether nothing was lost in it and the replicas were alike";
        to.gauge("drill_passed", help, passed)?;
        let missing = last().map(|(labels, drill)| (labels, drill.missing_rows() as f64));
        to.gauge("drill_missing_rows", "Acknowledged rows that it lost", missing)?;
        let rto = last().filter_map(|(labels, drill)| Some((labels, drill.rto_ms()? as f64 / 1e3)));
        to.gauge("drill_rto_seconds", "The longest time in it without an answered write", rto)
    }

    fn requests(&self, to: &mut Families<'_>) -> Result<(), Error> {
        let counts = self.requests.iter().filter(|(_, _, count)| *count > 0);
        let counts = counts.map(|(operation, outcome, count)| {
            let outcome = outcome.as_str().to_owned();
            (vec![("operation", (*operation).to_owned()), ("outcome", outcome)], *count)
        });
        to.counter("requests", "Requests of the public port that ended", counts)?;
        let times = self.request_times.iter().map(|(operation, histogram)| {
            (vec![("operation", (*operation).to_owned())], histogram)
        });
        to.histogram("request_seconds", "How long they took, from head to answer", times)
    }

    fn links(&self, to: &mut Families<'_>) -> Result<(), Error> {
        let states = self.links.iter().flat_map(|(key, link)| {
            link.states.iter().map(|(state, count)| {
                let mut labels = self.link_labels(key);
                labels.push(("state", (*state).to_owned()));
                (labels, *count as f64)
            })
        });
        to.gauge("link_state", "Links in each state", states)?;
        let help = "Entries that are durable here and not known to be there";
        self.gauge(to, "link_lag_entries", help, |link| link.lag_entries as f64)?;
        let help = "Bytes of the log that wait for the other region, about";
        self.gauge(to, "link_lag_bytes", help, |link| link.lag_bytes as f64)?;
        let now = self.now_millis;
        let help = "Age of the oldest entry that is not known to be there";
        self.gauge(to, "link_lag_seconds", help, |link| {
            link.oldest_millis.map_or(0.0, |oldest| (now - oldest).max(0) as f64 / 1e3)
        })?;
        let oldest = self.links.iter().filter_map(|(key, link)| {
            Some((self.link_labels(key), link.oldest_millis? as f64 / 1e3))
        });
        let help = "When that entry was accepted, Unix time";
        to.gauge("link_oldest_entry_seconds", help, oldest)?;
        let help = "Entries that the other region took, each second lately";
        self.gauge(to, "link_entries_per_second", help, |link| link.entries_rate)?;
        let help = "Bytes sent, each second lately";
        self.gauge(to, "link_wire_bytes_per_second", help, |link| link.bytes_rate)?;
        let help = "Entries that the other region took";
        self.counter(to, "link_entries", help, |link| link.traffic.entries)?;
        let help = "Parcels of entries sent";
        self.counter(to, "link_parcels", help, |link| link.traffic.parcels)?;
        self.counter(to, "link_chunks", "Chunks of copies sent", |link| link.traffic.chunks)?;
        let help = "Bytes of parcels and chunks before compression";
        self.counter(to, "link_bytes", help, |link| link.traffic.bytes)?;
        let help = "Bytes of parcels and chunks as they were sent";
        self.counter(to, "link_wire_bytes", help, |link| link.wire_bytes)?;
        let help = "Rows of copies sent";
        self.counter(to, "link_copied_rows", help, |link| link.copied_rows)?;
        let help = "How often a link had to begin anew";
        self.counter(to, "link_retries", help, |link| link.traffic.retries)?;
        let help = "Conflicts of writes here with those of the other region, noticed here";
        self.counter(to, "link_conflicts", help, |link| link.conflicts)
    }

    fn link_labels(&self, (table, region): &(String, String)) -> Labels {
        let own = self.region.clone();
        vec![("table", table.clone()), ("from", own), ("to", region.clone())]
    }

    fn gauge(
        &self,
        to: &mut Families<'_>,
        name: &str,
        help: &str,
        figure: impl Fn(&LinkFigures) -> f64,
    ) -> Result<(), Error> {
        let samples = self.links.iter().map(|(key, link)| (self.link_labels(key), figure(link)));
        to.gauge(name, help, samples)
    }

    fn counter(
        &self,
        to: &mut Families<'_>,
        name: &str,
        help: &str,
        figure: impl Fn(&LinkFigures) -> u64,
    ) -> Result<(), Error> {
        let samples = self.links.iter().map(|(key, link)| (self.link_labels(key), figure(link)));
        to.counter(name, help, samples)
    }
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Families(encoder);
        self.node(&mut to)?;
        self.store(&mut to)?;
        self.requests(&mut to)?;
        self.probes(&mut to)?;
        self.figures(&mut to)?;
        self.last_drill(&mut to)?;
        self.modes.encode(&mut to)?;
        self.batches.encode(&mut to)?;
        reshapes::encode(&self.reshapes, &mut to)?;
        if let Some(detection) = &self.detection {
            detection::encode(detection, &mut to)?;
        }
        self.links(&mut to)
    }
}

/// Writes families.
pub(crate) struct Families<'a>(pub(crate) DescriptorEncoder<'a>);

impl Families<'_> {
    pub(crate) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            match labels.is_empty() {
                true => family.encode_gauge(&value)?,
                false => family.encode_family(&labels)?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    pub(crate) fn counter(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            match labels.is_empty() {
                true => family.encode_counter::<Labels, _, u64>(&value, None)?,
                false => {
                    family
                        .encode_family(&labels)?
                        .encode_counter::<Labels, _, u64>(&value, None)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn histogram<'h>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, &'h Histogram)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, histogram) in samples {
            let (sum, count, classes) = (histogram.sum, histogram.count(), &histogram.classes);
            match labels.is_empty() {
                true => family.encode_histogram::<Labels>(sum, count, classes, None)?,
                false => family
                    .encode_family(&labels)?
                    .encode_histogram::<Labels>(sum, count, classes, None)?,
            }
        }
        Ok(())
    }
}

/// A ratio by the time that it is of, where anything was measured in that.
fn by_window(labels: Labels, ratios: Ratios) -> impl Iterator<Item = (Labels, f64)> {
    let Ratios { hour, day, days_30, since_start } = ratios;
    let all = [("1h", hour), ("24h", day), ("30d", days_30), ("start", since_start)];
    all.into_iter().filter_map(move |(window, ratio)| {
        let mut labels = labels.clone();
        labels.push(("window", window.to_owned()));
        Some((labels, ratio?))
    })
}

fn one(value: f64) -> [(Labels, f64); 1] {
    [(Labels::new(), value)]
}

pub(super) fn table_label(table: &str) -> Labels {
    vec![("table", table.to_owned())]
}

fn number(truth: bool) -> f64 {
    f64::from(u8::from(truth))
}
