//! What the administration API answers to `GET /v1/status`, for the server that tells it and for
//! whoever shows it.
//!
//! What must hold: names and units stay as they are, because scripts read them; new keys are
//! optional. Times are milliseconds since the Unix epoch, a span of time ends in `_ms`.

mod batches;
mod detection;
mod drill;
mod figures;
mod reshapes;
mod write_mode;

use serde::{Deserialize, Serialize};

pub use self::batches::{BatchCounts, BatchStatus, BatchesStatus};
pub use self::detection::{DetectionStatus, SeenStatus};
pub use self::drill::{DrillStatus, DrilledTable};
pub use self::figures::{RpoStatus, RtoStatus};
pub use self::reshapes::{ReshapeCounts, ReshapeStatus};
pub use self::write_mode::{HolderStatus, InDoubtStatus, SyncState, WriteModeStatus};

/// How a region does, as it sees itself and the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// The instance it serves.
    pub instance: String,
    /// Its name.
    pub region: String,
    /// Its number.
    pub number: u8,
    /// Since when it serves.
    pub serving_since_ms: i64,
    /// When this was told.
    pub now_ms: i64,
    /// All regions, this one first.
    pub regions: Vec<RegionStatus>,
    /// Its tables, by name.
    pub tables: Vec<TableStatus>,
    /// The links that leave it or end in it.
    pub links: Vec<LinkStatus>,
    /// What its prober finds, by region.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ProbeStatus>,
    /// The share of the time in which any region could be written and read from here; absent
    /// before it was looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_availability: Option<Ratios>,
    /// What is kept of change logs for replicas that need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogStatus>,
    /// How the quorum stands that the region takes part in; absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumStatus>,
    /// The last drill; absent where none is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_drill: Option<DrillStatus>,
    /// What became of batches of several partitions since it serves; absent: there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batches: Option<BatchCounts>,
    /// Splits and merges of partitions that are under way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reshapes: Vec<ReshapeStatus>,
    /// What became of those that were begun since it serves; absent: there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reshaped: Option<ReshapeCounts>,
    /// Memory the process holds, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Bytes of its data on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Bytes that are free on that disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
    /// Why it takes no writes; absent where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refuses_writes: Option<String>,
}

/// How a quorum stands, seen from one of those who vote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuorumStatus {
    /// The names of those who vote; none where it has not begun.
    pub members: Vec<String>,
    /// The name of the one that leads; absent where none does, or none that hears a majority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Grows with each election.
    pub term: u64,
    /// The last place in the order of what is agreed on that is stored here.
    pub stored: u64,
    /// The last one that is applied here.
    pub applied: u64,
    /// Whether the answering region may vote: with a new disk only once it has learnt all.
    pub votes: bool,
    /// At the leader: how long ago a majority was last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub majority_heard_ms_ago: Option<u64>,
    /// How long a region may write after it was last confirmed.
    pub lease_ms: u64,
    /// How the answering region observes the others; absent from older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection: Option<DetectionStatus>,
}

/// What the prober of the answering region finds of one region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// The region that is written and read through its public port.
    pub region: String,
    /// Whether the last write and read were answered with success.
    pub up: bool,
    /// Since when that is so.
    pub since_ms: i64,
    /// When the last write and read were; absent before the first of this life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
    /// How long the write took; absent where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_ms: Option<f64>,
    /// How long the read took; absent where it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_ms: Option<f64>,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Up time over all time.
    pub availability: Ratios,
    /// Valid reads and valid writes over all.
    pub consistency: Ratios,
}

/// A ratio, 0 to 1, over the last hour, day and 30 days, and since the first; absent where nothing
/// was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ratios {
    /// Over the last hour.
    pub hour: Option<f64>,
    /// Over the last day.
    pub day: Option<f64>,
    /// Over the last 30 days.
    pub days_30: Option<f64>,
    /// Since it was measured first, through restarts.
    #[serde(default)]
    pub since_start: Option<f64>,
}

/// The change logs of a region, all together, and their budget (`[log]`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Bytes that are kept.
    pub bytes: u64,
    /// Bytes that may be kept.
    pub budget_bytes: u64,
    /// When the oldest entry was made; absent where none is kept.
    #[serde(default)]
    pub oldest_entry_ms: Option<i64>,
    /// How old an entry may become.
    pub budget_ms: u64,
    /// The share that is used, by bytes or by age, whichever is more.
    pub budget_used: f64,
    /// The highest mark of 50, 80 and 95 % that is passed.
    #[serde(default)]
    pub alarm_percent: Option<u8>,
}

/// A region as the answering one sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegionStatus {
    /// Name.
    pub name: String,
    /// Number.
    pub number: u8,
    /// URL of its public port.
    pub endpoint: String,
    /// Whether it is reached.
    pub state: RegionState,
    /// Since when it is in this state.
    pub since_ms: i64,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// The format spoken on the stream to it; of the region itself the newest that it speaks.
    /// Absent: none is settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<u32>,
}

/// Whether a region is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegionState {
    /// The answering region itself.
    #[serde(rename = "self")]
    Itself,
    /// A stream to it is open.
    Connected,
    /// None is.
    Unreachable,
}

impl RegionState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            RegionState::Itself => "self",
            RegionState::Connected => "connected",
            RegionState::Unreachable => "unreachable",
        }
    }
}

/// Who writes a global table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServeMode {
    /// One region.
    PrimarySecondary,
    /// All of them.
    PeerToPeer,
}

impl ServeMode {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            ServeMode::PrimarySecondary => "primary-secondary",
            ServeMode::PeerToPeer => "peer-to-peer",
        }
    }
}

/// A table of the answering region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TableStatus {
    /// Name.
    pub name: String,
    /// The id that is never used again.
    pub id: u64,
    /// The distributed table that it is a partition of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distribution: Option<String>,
    /// The global table it is a replica of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_table_id: Option<String>,
    /// Who writes that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serve_mode: Option<ServeMode>,
    /// How writes wait for other regions; absent where they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_mode: Option<WriteModeStatus>,
    /// What is open of batches of several partitions; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batches: Option<BatchesStatus>,
    /// Whether clients may write here.
    pub writable: bool,
    /// Why it is neither read nor written, where an old disk was put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put_back: Option<String>,
    /// The region that writes it, where one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// The epoch in which it does; grows with each change of the writing region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Partitions.
    pub partitions: u64,
    /// Address of the last durable entry, added over its partitions.
    pub entries: u64,
    /// How many of them are in its log: what a replica lacks beyond these it is copied.
    #[serde(default)]
    pub log_entries: u64,
    /// Its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<DigestStatus>,
    /// How it stands to the replicas of other regions, as far as that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differing: Vec<DifferingStatus>,
    /// Of a table of several writers: what was deleted before this moment is known everywhere, and
    /// is forgotten by quarters of an hour. It stands while a replica is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizon_ms: Option<i64>,
    /// As of which moments it can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub view: Option<ViewStatus>,
    /// The share of the time in which clients of this region could read it, and write it where it
    /// takes writes; absent where that is not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability: Option<Ratios>,
    /// The share of the time in which its replica here was like those of all other regions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alike: Option<Ratios>,
    /// What would be lost if this region were lost now; absent where it does not write the table,
    /// or no other region has told what it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<RpoStatus>,
    /// For how long nobody would write it then; absent without a quorum and where several write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto: Option<RtoStatus>,
}

/// As of which moments a table can be read, and what it has of each region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ViewStatus {
    /// The safe time, as the header of a read names it: everything of every region before it is
    /// here.
    pub safe: String,
    /// The same; 0 where nothing is known of a region.
    pub safe_ms: i64,
    /// The first moment as of which it can be read; absent where what is needed is not kept,
    /// because nobody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readable_from: Option<String>,
    /// What is here of each region that has made entries.
    pub origins: Vec<OriginStatus>,
}

/// What a replica has of one region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OriginStatus {
    /// The region that made the entries.
    pub region: String,
    /// The watermark: everything of it up to this address is here.
    pub lsn: u64,
    /// When the entry there was made; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
    /// Everything that it made before is here, and it makes nothing more before; absent of this
    /// region itself and where it has not promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safe_ms: Option<i64>,
}

/// The digest of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DigestStatus {
    /// State.
    pub state: DigestWord,
    /// Rows it counts; several times where parts of a row expire at different times.
    pub rows: u64,
    /// Leaves.
    pub leaves: u64,
    /// Memory it takes.
    pub memory_bytes: u64,
    /// All rows were read from the disk since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrubbed_since_ms: Option<i64>,
}

/// State of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DigestWord {
    /// It is current.
    Ready,
    /// It is being built from the rows.
    Building,
    /// It is not kept.
    Off,
}

/// How two replicas of a table stand to each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DifferingStatus {
    /// The other region.
    pub region: String,
    /// Rows that differ at equal watermarks.
    pub rows: u64,
    /// Ranges that they lie in.
    pub ranges: u64,
    /// These ranges; neighbours are taken together where they are many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<DifferingPlace>,
    /// Since when they differ, or are alike.
    pub since_ms: i64,
    /// How long ago that was looked at.
    pub checked_ms_ago: u64,
}

/// How many rows differ between two keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DifferingPlace {
    /// The first that differs, as a report has it.
    pub start: serde_json::Value,
    /// The last that differs.
    pub end: serde_json::Value,
    /// How many.
    pub rows: u64,
}

/// One link: what one region gives another of one partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The table's name.
    pub table: String,
    /// The partition.
    pub partition: u64,
    /// Region it leaves.
    pub from: String,
    /// Region it ends in.
    pub to: String,
    /// State.
    pub state: LinkState,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// A person has paused or throttled it where it begins, since the base of its table is away.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Since when it is in this state.
    pub since_ms: i64,
    /// Entries that are durable at the origin and not known to be in the other region.
    pub lag_entries: u64,
    /// Age of the oldest of them; 0 where there is none.
    pub lag_ms: u64,
    /// When the oldest of them was accepted; absent where there is none.
    #[serde(default)]
    pub oldest_entry_ms: Option<i64>,
    /// Last entry sent.
    pub shipped_lsn: u64,
    /// Last entry known to be durable there.
    pub acked_lsn: u64,
    /// Rows copied so far, while `copying`.
    #[serde(default)]
    pub copied_rows: Option<u64>,
    /// Rows that were alike and were not copied, about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alike_rows: Option<u64>,
    /// Bytes of the log that wait for the other region, about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_bytes: Option<u64>,
    /// The share of the budget of `[log]` that is used, where entries wait; at 1 the log is cut
    /// and the link falls into a gap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_budget_used: Option<f64>,
    /// Who dials: `push` is the origin, `pull` the other region.
    #[serde(default = "push")]
    pub direction: String,
    /// When it ships, in words; absent: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing: Option<String>,
    /// When it ships next, where entries wait for that and it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<i64>,
    /// Bytes per second that it may ship; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Entries per second that it may ship; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries_per_second: Option<u64>,
    /// Percent of a processor that a copy may take; absent: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_cpu_percent: Option<u8>,
    /// The copy that is under way or halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyStatus>,
    /// Bytes sent since the link was made, before compression.
    #[serde(default)]
    pub sent_bytes: u64,
    /// Entries and rows of copies sent since then.
    #[serde(default)]
    pub sent_entries: u64,
    /// How it is asked to compress.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub compression: String,
    /// Bytes that went on the way for it since the link was made, before encryption.
    #[serde(default)]
    pub wire_bytes: u64,
    /// Entries that the other region took, each second, over the last 5 to 10 seconds.
    #[serde(default)]
    pub entries_rate: f64,
    /// Bytes sent, compressed, each second, over the same time.
    #[serde(default)]
    pub wire_bytes_rate: f64,
    /// How often it had to begin anew since it was made.
    #[serde(default)]
    pub retries: u64,
    /// Conflicts of writes here with writes of the other region that were noticed here since this
    /// region serves.
    #[serde(default)]
    pub conflicts: u64,
    /// The last copy that ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_copy: Option<EndedCopy>,
}

/// What older regions do.
fn push() -> String {
    "push".to_owned()
}

/// How a copy gets on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopyStatus {
    /// Rows that are settled in the other region, about: those that were alike included, and those
    /// that it does not take.
    pub rows_done: u64,
    /// Rows of the table, or of the keys that the region takes, about; absent where no digest
    /// counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_total: Option<u64>,
    /// Bytes of rows that are durable there since the copy began or went on.
    pub bytes_done: u64,
    /// Rows settled per second, lately.
    pub rows_per_second: f64,
    /// Bytes per second, lately.
    pub bytes_per_second: f64,
    /// The time left; absent where it is not known or the copy halts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
}

/// A copy that has ended, beside what `plan` had said of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndedCopy {
    /// When it began.
    pub began_ms: i64,
    /// When it ended.
    pub ended_ms: i64,
    /// A person had said how fast the link may ship.
    #[serde(default)]
    pub throttled: bool,
    /// Rows that were sent.
    pub rows: u64,
    /// Their bytes before compression.
    pub bytes: u64,
    /// Their bytes as they were sent.
    pub wire_bytes: u64,
    /// How long it should have taken; absent where nobody had asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast_seconds: Option<f64>,
    /// What it should have sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast_wire_bytes: Option<u64>,
}

impl EndedCopy {
    /// How long it took.
    pub fn seconds(&self) -> f64 {
        (self.ended_ms - self.began_ms).max(1) as f64 / 1e3
    }
}

/// State of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// The other region is not reached, or has not said yet where it stands.
    Opening,
    /// The table as it is goes over, entries wait.
    Copying,
    /// Entries go over as they come.
    Following,
    /// A person holds it; entries wait.
    Paused,
    /// It has ended as it should.
    Stopped,
    /// Entries it needs are gone; to be healed by comparing.
    Gap,
    /// It belongs to an older epoch.
    Fenced,
    /// Something that must never happen did.
    Broken,
}

impl LinkState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            LinkState::Opening => "opening",
            LinkState::Copying => "copying",
            LinkState::Following => "following",
            LinkState::Paused => "paused",
            LinkState::Stopped => "stopped",
            LinkState::Gap => "gap",
            LinkState::Fenced => "fenced",
            LinkState::Broken => "broken",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_written_as_the_words_they_are_shown_as() {
        let states = [
            LinkState::Opening,
            LinkState::Copying,
            LinkState::Following,
            LinkState::Paused,
            LinkState::Stopped,
            LinkState::Gap,
            LinkState::Fenced,
            LinkState::Broken,
        ];
        for state in states {
            assert_eq!(serde_json::json!(state), serde_json::json!(state.as_str()));
        }
        for state in [RegionState::Itself, RegionState::Connected, RegionState::Unreachable] {
            assert_eq!(serde_json::json!(state), serde_json::json!(state.as_str()));
        }
        for mode in [ServeMode::PrimarySecondary, ServeMode::PeerToPeer] {
            assert_eq!(serde_json::json!(mode), serde_json::json!(mode.as_str()));
        }
    }

    #[test]
    fn a_link_without_the_optional_keys_is_read() {
        let text = r#"{"table":"t","partition":1,"from":"r1","to":"r2","state":"following",
            "since_ms":1,"lag_entries":0,"lag_ms":0,"shipped_lsn":2,"acked_lsn":2}"#;
        let link: LinkStatus = serde_json::from_str(text).unwrap();
        assert_eq!(link.oldest_entry_ms, None);
        assert_eq!(link.copied_rows, None);
    }
}
