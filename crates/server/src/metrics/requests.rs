//! Requests of the public port, counted by operation and outcome, with how long they took.
//!
//! A request costs two relaxed additions here, and two for its duration.

use std::time::Duration;

use isthmus_protocol::error_code::ErrorCode;
use isthmus_store::counters::{Counter, Durations};

/// The operations that have series of their own, as their paths have them without the slash.
/// What else is asked for is counted under the last.
const OPERATIONS: [&str; 18] = [
    "GetRow",
    "PutRow",
    "UpdateRow",
    "DeleteRow",
    "BatchGetRow",
    "BatchWriteRow",
    "GetRange",
    "CreateTable",
    "ListTable",
    "DescribeTable",
    "UpdateTable",
    "DeleteTable",
    "CreateGlobalTable",
    "BindGlobalTable",
    "UnbindGlobalTable",
    "DescribeGlobalTable",
    "UpdateGlobalTable",
    "other",
];

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done. Rows of a batch may have been refused one by one.
    Done,
    /// It was wrong, not allowed, or its condition was not met.
    Refused,
    /// There was too much to do, or the place was not ready.
    Busy,
    /// Whether it took effect is not known.
    Unknown,
    /// A bug or a broken disk.
    Failed,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 5] =
        [Outcome::Done, Outcome::Refused, Outcome::Busy, Outcome::Unknown, Outcome::Failed];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Refused => "refused",
            Outcome::Busy => "busy",
            Outcome::Unknown => "unknown",
            Outcome::Failed => "failed",
        }
    }

    /// How a request ended that was answered with this code.
    pub fn of_code(code: ErrorCode) -> Outcome {
        match (code, code.http_status()) {
            (ErrorCode::Timeout, _) => Outcome::Unknown,
            (ErrorCode::TableNotReady, _) | (_, 503) => Outcome::Busy,
            (_, 500..) => Outcome::Failed,
            (_, _) => Outcome::Refused,
        }
    }
}

#[derive(Debug, Default)]
struct OfOperation {
    outcomes: [Counter; Outcome::ALL.len()],
    time: Durations,
}

/// All requests since the region serves.
#[derive(Debug, Default)]
pub struct Requests([OfOperation; OPERATIONS.len()]);

impl Requests {
    /// A request to a path has ended after some time; gives the name it is counted under.
    pub fn note(&self, path: &str, outcome: Outcome, took: Duration) -> &'static str {
        let name = path.trim_start_matches('/');
        let known = OPERATIONS.iter().position(|operation| *operation == name);
        let place = known.unwrap_or(OPERATIONS.len() - 1);
        let operation = &self.0[place];
        operation.outcomes[outcome as usize].one();
        operation.time.note(took);
        OPERATIONS[place]
    }

    /// How many of an operation ended so, of those that ended at all.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, Outcome, u64)> {
        OPERATIONS.iter().zip(&self.0).flat_map(|(name, operation)| {
            let ended = Outcome::ALL.iter().zip(&operation.outcomes);
            ended.map(|(outcome, count)| (*name, *outcome, count.get()))
        })
    }

    /// How long the requests of each operation took: the classes and the sum.
    pub(super) fn times(&self) -> impl Iterator<Item = (&'static str, &Durations)> {
        OPERATIONS.iter().zip(&self.0).map(|(name, operation)| (*name, &operation.time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_for_the_series_stay_the_same() {
        let requests = Requests::default();
        let took = Duration::from_millis(1);
        requests.note("/GetRow", Outcome::Done, took);
        for path in ["/GetRow2", "", "//", "/../x"] {
            requests.note(path, Outcome::Refused, took);
        }
        let counts: Vec<_> = requests.counts().filter(|(_, _, count)| *count > 0).collect();
        assert_eq!(counts, [("GetRow", Outcome::Done, 1), ("other", Outcome::Refused, 4)]);
        assert_eq!(requests.counts().count(), OPERATIONS.len() * Outcome::ALL.len());
    }

    #[test]
    fn every_code_has_an_outcome() {
        let of = Outcome::of_code;
        assert_eq!(of(ErrorCode::Timeout), Outcome::Unknown);
        assert_eq!(of(ErrorCode::ServerBusy), Outcome::Busy);
        assert_eq!(of(ErrorCode::ConditionCheckFail), Outcome::Refused);
        assert_eq!(of(ErrorCode::InternalServerError), Outcome::Failed);
    }
}
