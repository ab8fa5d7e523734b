//! Observes the other regions for a voter: sends the probes that are due, tells what came of them,
//! and hands on what the links have brought (`isthmus_control::watch` decides).
//!
//! Probes go over the connections of the quorum, so that neither the work of clients nor a copy
//! of a table holds them up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::agreed::Agreed;
use isthmus_control::detect::{Heard, Settings};
use isthmus_control::watch::{News, Watch};
use parking_lot::{Mutex, MutexGuard};
use prost::Message as _;
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::node::lease_clock;
use crate::peer::call::{COMMANDS, Probe, Probed, Question};
use crate::quorum::Quorum;
use crate::registry::Registry;
use crate::status::{DetectionStatus, SeenStatus};

/// A probe is looked for so often in the time from one to the next.
const LOOKS: u32 = 4;
/// And not more often than this.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(10);

/// What one voter sees of the regions.
pub(crate) struct Detection {
    settings: Settings,
    watch: Mutex<Watch>,
}

impl Detection {
    /// Has seen nothing yet.
    pub(crate) fn new(own: &str, settings: Settings) -> Detection {
        Detection { settings, watch: Mutex::new(Watch::new(own, settings, lease_clock())) }
    }

    /// What is seen.
    pub(crate) fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock()
    }

    /// Answers a probe; `ill` says why this region is not well.
    pub(crate) fn answer(&self, from: &str, probe: Probe, ill: Option<String>) -> Bytes {
        let heard_ago = probe.heard_micros_ago.map(Duration::from_micros);
        self.watch().asked(from, heard_ago, lease_clock());
        let ill = ill.unwrap_or_default();
        let told = Probed { sent_micros: probe.sent_micros, ill, commands: COMMANDS };
        told.encode_to_vec().into()
    }

    /// Probes whom it should, until `stop` says so. `feed` tells what links have brought.
    pub(crate) async fn keep_probing(
        self: Arc<Self>,
        quorum: Arc<Quorum>,
        feed: impl Fn(&mut Watch, Duration),
        mut stop: watch::Receiver<bool>,
    ) {
        let mut probes = JoinSet::new();
        let mut bytes_before = quorum.bytes();
        let look_every = (self.settings.probe_every / LOOKS).max(LOOK_EVERY_MIN);
        while !*stop.borrow() {
            while probes.try_join_next().is_some() {}
            let known = quorum.known();
            let due = {
                let now = lease_clock();
                let mut watch = self.watch();
                let bytes = quorum.bytes();
                watch.agreed_by_bytes(bytes.saturating_sub(bytes_before), now);
                bytes_before = bytes;
                feed(&mut watch, now);
                watch.to_probe(&known.agreed, now)
            };
            for region in due {
                probes.spawn(self.clone().probe(quorum.clone(), region));
            }
            tokio::select! {
                () = tokio::time::sleep(look_every) => {}
                _ = stop.changed() => return,
            }
        }
    }

    async fn probe(self: Arc<Self>, quorum: Arc<Quorum>, region: String) {
        let sent = lease_clock();
        let heard_ago = self.watch().heard_ago(&region, sent);
        let probe = Probe { sent_micros: micros(sent), heard_micros_ago: heard_ago.map(micros) };
        let answer = quorum.ask(&region, Question::Probe(probe), self.settings.latest).await;
        let told = match answer {
            // A program that knows no probes answers, and lives.
            Ok(None) => Ok(()),
            Ok(Some(body)) => match Probed::decode(body) {
                Ok(told) if told.sent_micros != probe.sent_micros => {
                    Err("it answers another probe".to_owned())
                }
                Ok(told) if told.ill.is_empty() => Ok(()),
                Ok(told) => Err(told.ill),
                Err(error) => Err(format!("its answer cannot be read: {error}")),
            },
            Err(error) => Err(error),
        };
        let mut watch = self.watch();
        match told {
            Ok(()) => watch.answered(&region, sent, lease_clock()),
            Err(error) => watch.failed(&region, &error),
        }
    }

    /// What is told of it. `disk` says what is wrong with the own one.
    pub(crate) fn status(&self, agreed: &Agreed, disk: Option<String>) -> DetectionStatus {
        let figures = self.watch().figures(agreed, lease_clock());
        let settings = figures.settings;
        let regions = figures.regions.into_iter().map(|seen| SeenStatus {
            region: seen.region,
            verdict: seen.verdict.to_owned(),
            phi: rounded(seen.phi),
            renewal_ms_ago: seen.heard.renewal.map(millis),
            frame_ms_ago: seen.heard.frame.map(millis),
            answer_ms_ago: seen.heard.answer.map(millis),
            question_ms_ago: seen.heard.question.map(millis),
            round_trip_ms: seen.heard.round_trip.map(|it| it.as_secs_f64() * 1e3),
        });
        DetectionStatus {
            by: settings.detection.as_str().to_owned(),
            probe_every_ms: millis(settings.probe_every),
            suspect_after_ms: millis(settings.earliest),
            suspect_within_ms: millis(settings.latest),
            probe_bytes_per_second: rounded(figures.probe_bytes_per_second),
            probe_bytes_per_second_max: settings.probe_bytes_per_second_max,
            probe_bytes: figures.probe_bytes,
            quorum_bytes_per_second: rounded(figures.quorum_bytes_per_second),
            detections: figures.detections,
            detected_after_last_ms: figures.detected_after_last.map(millis),
            detected_after_p50_ms: figures.detected_after_p50.map(millis),
            regions: regions.collect(),
            disk,
        }
    }
}

/// A verdict in words, and what was seen, for programs.
pub(crate) fn tell(news: &News) -> (String, Json) {
    let region = &news.region;
    let others = match news.also_suspected_by.as_slice() {
        [] => "no other voter says so yet".to_owned(),
        [other] => format!("{other} says so, too"),
        others => format!("{} say so, too", others.join(", ")),
    };
    let text = match news.is_suspected {
        true => format!("{region} seems to be gone: {}; {others}", news.evidence),
        false => format!("{region} is trusted again: {}", news.evidence),
    };
    let Heard { renewal, frame, answer, question, round_trip, owed } = news.heard;
    let detail = json!({
        "region": region,
        "silent_ms": millis(news.silence),
        "phi": rounded(news.phi),
        "also_suspected_by": news.also_suspected_by,
        "renewal_ms_ago": renewal.map(millis),
        "frame_ms_ago": frame.map(millis),
        "answer_ms_ago": answer.map(millis),
        "question_ms_ago": question.map(millis),
        "round_trip_ms": round_trip.map(millis),
        "answer_owed_ms": owed.map(millis),
    });
    (text, detail)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// As many digits as mean something; a silence without an end has no number.
fn rounded(figure: f64) -> f64 {
    (figure.min(1e6) * 10.0).round() / 10.0
}
