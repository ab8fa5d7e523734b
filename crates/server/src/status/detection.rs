//! How a voter observes the regions, in its status.

use serde::{Deserialize, Serialize};

/// How the answering region observes the others, and what that costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectionStatus {
    /// `active`, `passive` or `mixed`.
    pub by: String,
    /// How often a region is probed, where it is.
    pub probe_every_ms: u64,
    /// A region is not suspected sooner after the last sign of life.
    pub suspect_after_ms: u64,
    /// It is suspected when there was none for so long.
    pub suspect_within_ms: u64,
    /// Bytes in a second of its probes and of those that it answers, over the last minute.
    pub probe_bytes_per_second: f64,
    /// What its own probes may take.
    pub probe_bytes_per_second_max: u32,
    /// Bytes of probes since it was started.
    pub probe_bytes: u64,
    /// Bytes in a second that it says and hears to agree with the other voters, renewals among
    /// them, over the last minute.
    pub quorum_bytes_per_second: f64,
    /// How many suspicions it has had since it was started.
    pub detections: u64,
    /// How long the last region that it suspected had been silent then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected_after_last_ms: Option<u64>,
    /// Half of the last 100 had been silent for less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected_after_p50_ms: Option<u64>,
    /// How it sees the others.
    pub regions: Vec<SeenStatus>,
    /// What is wrong with its own disk, so that it does not renew its lease; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
}

/// How one region is seen by the answering one. What never was is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeenStatus {
    /// The region.
    pub region: String,
    /// `alive`, `unsteady` (it was silent, and is not steady yet), `suspect` or `suspended`.
    pub verdict: String,
    /// How unusual its silence is: the chance of a usual one that is longer is 10 to minus this.
    pub phi: f64,
    /// When a renewal was last agreed on by which it showed that it hears as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_ms_ago: Option<u64>,
    /// When a frame of a link last came from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_ms_ago: Option<u64>,
    /// When it last answered a probe and was well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_ms_ago: Option<u64>,
    /// When it last sent a probe that says that it hears the answering region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question_ms_ago: Option<u64>,
    /// How long its newest answer took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_ms: Option<f64>,
}
