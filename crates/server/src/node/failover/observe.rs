//! What this region sees of the others and of itself, and tells of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::agreed::Agreed;
use isthmus_control::disk::DiskState;
use isthmus_control::watch::{News, Watch};
use serde_json::json;
use tokio::sync::watch;

use super::super::Node;
use super::super::events::EventKind;
use super::lease_clock;
use crate::config::QuorumConfig;
use crate::detection;
use crate::peer::call::Probe;
use crate::status::DetectionStatus;

impl Node {
    /// Probes the other regions, until `stop` says so.
    pub async fn keep_probing_regions(self: Arc<Self>, stop: watch::Receiver<bool>) {
        let Some(quorum) = self.quorum().cloned() else { return };
        let detection = self.failover.detection.clone();
        let feed = |watch: &mut Watch, _now: Duration| {
            for (name, other) in self.others() {
                watch.heard(name, other.traffic().heard_at(), other.awaits_since());
                let reached = other.reached();
                if !reached.connected {
                    watch.lost(name, &reached.reason);
                }
            }
        };
        detection.keep_probing(quorum, feed, stop).await;
    }

    /// Answers a probe of another voter.
    pub(in super::super) fn on_probe(&self, from: &str, probe: Probe) -> Bytes {
        self.failover.detection.answer(from, probe, self.ill())
    }

    /// Why this region could not acknowledge a write now.
    fn ill(&self) -> Option<String> {
        if let Some(error) = self.store.refuses_writes() {
            return Some(format!("it takes no writes: {error}"));
        }
        if let Some(told) = self.failover.disk.lock().told() {
            return Some(told);
        }
        let known = self.registry()?.known();
        let renews = known.agreed.regions.contains_key(&self.config.region.name);
        (renews && !self.is_leased()).then(|| "its lease has run out".to_owned())
    }

    /// Looks at the own disk: whether a write would be durable in time. One that is slow counts as
    /// well where no other region would take over by itself, unless a write waits for longer than
    /// a lease.
    pub(super) fn looks_healthy(&self, agreed: &Agreed) -> bool {
        let now = lease_clock();
        let oldest = self.store.oldest_not_durable();
        let (before, state) = {
            let mut disk = self.failover.disk.lock();
            (disk.state(), disk.look(oldest, now))
        };
        if (before == DiskState::Slow) != (state == DiskState::Slow) {
            self.tell_disk();
        }
        let lease = self.config.quorum.as_ref().map_or(Duration::ZERO, QuorumConfig::lease);
        let keeps_up = match state {
            DiskState::Well => true,
            DiskState::Slow | DiskState::Stalled => {
                let watch = self.failover.detection.watch();
                oldest < lease && !watch.would_be_relieved(agreed, now)
            }
        };
        keeps_up && self.store.refuses_writes().is_none()
    }

    /// Whether a region that was suspended would not be so again at once: its disk does well, or
    /// no better one is left.
    pub(super) fn may_rejoin(&self, agreed: &Agreed) -> bool {
        let now = lease_clock();
        match self.failover.disk.lock().state() {
            DiskState::Well => true,
            DiskState::Slow => !self.failover.detection.watch().is_another_well(agreed, now),
            DiskState::Stalled => false,
        }
    }

    fn tell_disk(&self) {
        let own = &self.config.region.name;
        let told = self.failover.disk.lock().told();
        let (kind, text) = match told {
            Some(told) => (EventKind::DiskSlow, format!("{told}; {own} makes room for others")),
            None => (EventKind::DiskWell, "the disk keeps up again".to_owned()),
        };
        self.notice(kind, "", text, json!({ "region": own }));
    }

    pub(super) fn tell_verdicts(&self, news: &[News]) {
        for verdict in news {
            let kind = match verdict.is_suspected {
                true => EventKind::RegionSuspected,
                false => EventKind::RegionTrusted,
            };
            let (text, detail) = detection::tell(verdict);
            self.notice(kind, "", text, detail);
        }
    }

    /// Tells which other regions were suspended since `before`, and why, as the voters have agreed.
    pub(super) fn tell_suspensions(
        &self,
        agreed: &Agreed,
        before: &mut Option<BTreeMap<String, u64>>,
    ) {
        let standings = agreed.regions.iter();
        let now = standings.map(|(name, it)| (name.clone(), it.suspended_at)).collect();
        let Some(before) = before.replace(now) else { return };
        for (name, standing) in &agreed.regions {
            let known = before.get(name).copied().unwrap_or(0);
            if *name == self.config.region.name || standing.suspended_at <= known {
                continue;
            }
            let what = format!("region {name} is suspended");
            let audited = agreed.audit.iter().rev().find(|audited| {
                audited.index == standing.suspended_at && audited.what.starts_with(&what)
            });
            let (who, why) = audited.map_or(("", ""), |it| (&it.who, &it.why));
            let text = format!("{name} is suspended and writes nothing until it is back: {why}");
            let detail = json!({ "region": name, "who": who, "why": why });
            self.notice(EventKind::RegionSuspended, "", text, detail);
        }
    }

    /// What is told of how this region observes the others.
    pub(crate) fn detection_status(&self) -> Option<DetectionStatus> {
        let known = self.registry()?.known();
        let disk = self.failover.disk.lock().told();
        Some(self.failover.detection.status(&known.agreed, disk))
    }
}
