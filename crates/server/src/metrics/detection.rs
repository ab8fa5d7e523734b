//! What is told of how other regions are observed.

use std::fmt::Error;

use super::families::{Families, Labels};
use crate::status::{DetectionStatus, SeenStatus};

/// Writes it out.
pub(super) fn encode(told: &DetectionStatus, to: &mut Families<'_>) -> Result<(), Error> {
    let one = |figure: f64| [(Labels::new(), figure)];
    let by = vec![("by", told.by.clone())];
    let detections = [(by.clone(), told.detections)];
    to.counter("detection_suspicions", "Regions that were suspected from here", detections)?;
    let help = "Bytes of probes and their answers, sent and received here";
    to.counter("detection_probe_bytes", help, [(by.clone(), told.probe_bytes)])?;
    let help = "The same in a second, over the last minute";
    let rate = [(by.clone(), told.probe_bytes_per_second)];
    to.gauge("detection_probe_bytes_per_second", help, rate)?;
    let help = "Bytes in a second that the probes sent here may take";
    let most = one(told.probe_bytes_per_second_max.into());
    to.gauge("detection_probe_bytes_per_second_max", help, most)?;
    let help = "Bytes in a second that voters say to each other through this one to agree";
    to.gauge("quorum_bytes_per_second", help, one(told.quorum_bytes_per_second))?;
    let times = [("last", told.detected_after_last_ms), ("p50", told.detected_after_p50_ms)];
    let times = times.into_iter().filter_map(|(which, millis)| {
        let mut labels = by.clone();
        labels.push(("which", which.to_owned()));
        Some((labels, millis? as f64 / 1e3))
    });
    let help = "How long a region had been silent when it was suspected";
    to.gauge("detection_seconds", help, times)?;
    let seen = |figure: fn(&SeenStatus) -> f64| {
        let regions = told.regions.iter();
        regions.map(move |seen| (vec![("to", seen.region.clone())], figure(seen)))
    };
    let suspected = seen(|seen| f64::from(u8::from(seen.verdict == "suspect")));
    to.gauge("region_suspected", "Whether the region seems to be gone from here", suspected)?;
    let help = "How unusual the silence of the region is: the negative logarithm of its chance";
    to.gauge("region_phi", help, seen(|seen| seen.phi))?;
    let help = "Whether the own disk does not keep up, so that the lease is not renewed";
    to.gauge("disk_slow", help, one(f64::from(u8::from(told.disk.is_some()))))
}
