//! What happened, as lines, as a running hash, and as the last few for a report.

use std::collections::VecDeque;
use std::fmt::Write;

use xxhash_rust::xxh3::xxh3_64;

/// Lines kept for a report.
const LINES_KEPT: usize = 200;

/// Everything that happened, in order.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    recent: VecDeque<String>,
    dumps: bool,
}

impl Trace {
    /// An empty one; `dumps`: every line goes to the standard output.
    pub(crate) fn new(dumps: bool) -> Trace {
        Trace { dumps, ..Trace::default() }
    }

    /// Takes note of an event.
    pub(crate) fn note(&mut self, now_micros: u64, event: &str) {
        let mut line = String::with_capacity(event.len() + 24);
        let (seconds, micros) = (now_micros / 1_000_000, now_micros % 1_000_000);
        // Writing to a string cannot fail.
        let _ = write!(line, "{:6} {seconds:3}.{micros:06} {event}", self.events);
        self.hash = xxh3_64(&[&self.hash.to_le_bytes()[..], line.as_bytes()].concat());
        self.events += 1;
        if self.dumps {
            println!("{line}");
        }
        if self.recent.len() >= LINES_KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(line);
    }

    /// A hash of everything so far: equal for equal histories.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How much has happened.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The last lines.
    pub fn recent(&self) -> impl Iterator<Item = &str> {
        self.recent.iter().map(String::as_str)
    }
}
