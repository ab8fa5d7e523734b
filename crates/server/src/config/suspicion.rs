//! `[quorum.suspicion]` of a region and `[witness.suspicion]`: how fast and at what cost a voter
//! suspects a region. What is left out follows from the length of leases.

use std::ops::RangeInclusive;
use std::time::Duration;

use isthmus_control::detect::{Detection, PROBE_BYTES_PER_SECOND_MAX, Settings};
use isthmus_control::watch::PROBE_BYTES;
use serde::{Deserialize, Serialize};

use super::check::{Finding, wrong};

/// How often a region may be probed, in milliseconds.
const PROBE_EVERY_MS: RangeInclusive<u64> = 20..=60_000;
/// Probes that must be missing before a region is suspected.
const PROBES_MISSING: u64 = 3;

/// How fast and at what cost a region is suspected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuspicionConfig {
    /// Milliseconds from one probe of a region to the next, where it is probed, 20 to 60 000.
    /// Default: a fifth of `lease_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_every_ms: Option<u64>,
    /// A region is not suspected sooner after the last sign of life. Default: half of `lease_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
    /// It is suspected when there was none for so long, however usual that is. Default: four
    /// fifths of `lease_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_ms: Option<u64>,
    /// Bytes that the probes of this voter may take in a second, to all regions and with their
    /// answers. Default 65 536.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_bytes_per_second_max: Option<u32>,
}

impl SuspicionConfig {
    pub(super) fn is_default(&self) -> bool {
        *self == SuspicionConfig::default()
    }

    /// How regions are observed, with leases of that length.
    pub fn settings(&self, detection: Detection, lease: Duration) -> Settings {
        let usual = Settings::of_lease(lease);
        let or = |millis: Option<u64>, usual| millis.map_or(usual, Duration::from_millis);
        Settings {
            detection,
            probe_every: or(self.probe_every_ms, usual.probe_every),
            earliest: or(self.after_ms, usual.earliest),
            latest: or(self.within_ms, usual.latest),
            probe_bytes_per_second_max: self
                .probe_bytes_per_second_max
                .unwrap_or(PROBE_BYTES_PER_SECOND_MAX),
            ..usual
        }
    }

    /// Says what is wrong in the section of that name, of a voter beside which `others` vote.
    pub(super) fn check(
        &self,
        section: &str,
        (detection, lease_ms): (Detection, u64),
        others: usize,
    ) -> Result<(), Finding> {
        let settings = self.settings(detection, Duration::from_millis(lease_ms));
        let millis = |span: Duration| span.as_millis() as u64;
        let [probe_every, after, within] =
            [settings.probe_every, settings.earliest, settings.latest].map(millis);
        if !PROBE_EVERY_MS.contains(&probe_every) {
            let message = format!("is {probe_every}, it must be in 20 to 60000");
            return wrong(format!("{section}.probe_every_ms"), message);
        }
        let least =
            (millis(settings.renew_every) * PROBES_MISSING).max(probe_every * PROBES_MISSING);
        if !(least..=lease_ms * 10).contains(&within) {
            let message = format!(
                "is {within}, it must be in {least} to {}: three probes and three renewals must be \
                 missing before a region is suspected, and ten leases are the most",
                lease_ms * 10
            );
            return wrong(format!("{section}.within_ms"), message);
        }
        if !(lease_ms / 4..=within).contains(&after) {
            let message = format!(
                "is {after}, it must be in {} to {within}: from a quarter of the lease to \
                 within_ms",
                lease_ms / 4
            );
            return wrong(format!("{section}.after_ms"), message);
        }
        let needed = (others as u64 * u64::from(PROBE_BYTES) * 1000).div_ceil(probe_every);
        let most = settings.probe_bytes_per_second_max;
        if detection != Detection::Passive && u64::from(most) < needed {
            let message = format!(
                "is {most}, it must be at least {needed}: to probe {others} others every \
                 {probe_every} ms takes that much; probe less often, or say detection = \
                 \"passive\""
            );
            return wrong(format!("{section}.probe_bytes_per_second_max"), message);
        }
        Ok(())
    }
}
