//! What a link has carried, and how fast lately.
//!
//! Counted by the origin under the lock of its links, so plain numbers do. An idle link costs
//! nothing: a rate is made of two stretches of time, the running one and the one before it, and
//! both are judged when somebody asks. Whoever counts something more of a link adds a field here
//! and shows it among the metrics of the server.

use std::time::Duration;

/// Length of the stretches that rates are made of.
const STRETCH: Duration = Duration::from_secs(5);

/// What a link has carried since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Parcels sent.
    pub parcels: u64,
    /// Chunks of copies sent.
    pub chunks: u64,
    /// Bytes of both before compression.
    pub bytes: u64,
    /// Bytes of both as they were sent.
    pub wire_bytes: u64,
    /// Entries that the replica said it holds.
    pub entries: u64,
    /// How often it had to begin anew: a stream lost, a fault told.
    pub retries: u64,
    lately: Lately,
}

/// How much went over each second, over the last 5 to 10 seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Entries that the replica said it holds.
    pub entries: f64,
    /// Bytes as they were sent.
    pub wire_bytes: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Lately {
    /// When the running stretch began.
    began: Duration,
    running: (u64, u64),
    before: (u64, u64),
}

impl Traffic {
    /// A parcel was sent.
    pub fn parcel(&mut self, bytes: usize, wire_bytes: usize, now: Duration) {
        self.parcels += 1;
        self.sent(bytes, wire_bytes, now);
    }

    /// A chunk was sent.
    pub fn chunk(&mut self, bytes: usize, wire_bytes: usize, now: Duration) {
        self.chunks += 1;
        self.sent(bytes, wire_bytes, now);
    }

    /// The replica holds so many entries more.
    pub fn acked(&mut self, entries: u64, now: Duration) {
        self.entries += entries;
        self.lately.turn(now);
        self.lately.running.0 += entries;
    }

    /// Takes in what another link has carried; not how fast it was.
    pub fn add(&mut self, other: &Traffic) {
        self.parcels += other.parcels;
        self.chunks += other.chunks;
        self.bytes += other.bytes;
        self.wire_bytes += other.wire_bytes;
        self.entries += other.entries;
        self.retries += other.retries;
    }

    /// How fast it was lately.
    pub fn rate(&self, now: Duration) -> Rate {
        let mut lately = self.lately;
        lately.turn(now);
        let span = (STRETCH + now.saturating_sub(lately.began)).as_secs_f64();
        let each_second = |before: u64, running: u64| (before + running) as f64 / span;
        Rate {
            entries: each_second(lately.before.0, lately.running.0),
            wire_bytes: each_second(lately.before.1, lately.running.1),
        }
    }

    fn sent(&mut self, bytes: usize, wire_bytes: usize, now: Duration) {
        self.bytes += bytes as u64;
        self.wire_bytes += wire_bytes as u64;
        self.lately.turn(now);
        self.lately.running.1 += wire_bytes as u64;
    }
}

impl Lately {
    /// Begins a new stretch if the running one is over.
    fn turn(&mut self, now: Duration) {
        let ran = now.saturating_sub(self.began);
        if ran < STRETCH {
            return;
        }
        self.before = if ran < STRETCH * 2 { self.running } else { (0, 0) };
        self.running = (0, 0);
        self.began = if ran < STRETCH * 2 { self.began + STRETCH } else { now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_flow_has_its_rate_and_an_idle_link_none() {
        let mut traffic = Traffic::default();
        let start = Duration::from_secs(1000);
        for step in 0..300u32 {
            let now = start + Duration::from_millis(100) * step;
            traffic.parcel(40, 20, now);
            traffic.acked(10, now);
        }
        let rate = traffic.rate(start + Duration::from_secs(30));
        assert!((90.0..=110.0).contains(&rate.entries), "{rate:?}");
        assert!((180.0..=220.0).contains(&rate.wire_bytes), "{rate:?}");
        assert_eq!((traffic.parcels, traffic.bytes, traffic.entries), (300, 12_000, 3_000));
        assert_eq!(traffic.rate(start + Duration::from_secs(60)), Rate::default());
    }
}
