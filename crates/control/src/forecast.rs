//! How long a copy will take and what it will send, from what was measured beforehand. Pure.
//!
//! The formulas are those of docs/seeing.md: with n rows of d bytes, bandwidth b and the measured
//! gain r by compression and parallelism, the migration time is `n*d/(b*r)`, and the delay of
//! what is written meanwhile `n*d/b` for n rows that wait. Where reading or taking rows is slower
//! than the network, what a person lets the link ship, or an earlier copy between the two regions
//! was, that is what counts.

use serde::{Deserialize, Serialize};

/// What is measured before a copy. Bytes are those of rows as they are stored, rates are per
/// second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Rows: n.
    pub rows: u64,
    /// Bytes of one row with its key, on average: d.
    pub row_bytes: f64,
    /// Bytes that one stream carries each second: b.
    pub bandwidth: f64,
    /// From a question to its answer, in milliseconds.
    pub round_trip_ms: f64,
    /// Bytes before compression over bytes as they are sent.
    pub compression: f64,
    /// What several messages under way carry over what one does.
    pub parallelism: f64,
    /// Bytes that this region reads and packs each second.
    pub reads: f64,
    /// Bytes that the other one unpacks and makes durable each second.
    pub takes: f64,
    /// Bytes each second of the last large copy between the two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<f64>,
    /// What the link may ship: bytes each second; `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Entries each second, here rows; `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries_per_second: Option<u64>,
    /// Percent of one processor that reading and packing may take; `None`: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_cpu_percent: Option<u8>,
}

/// What a copy is slowed down by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// The network.
    Network,
    /// Reading rows here.
    Reading,
    /// Making them durable there.
    Taking,
    /// Whatever slowed down the last copy.
    LikeTheLast,
    /// The bytes each second that the link may ship.
    Bytes,
    /// The entries, here rows, each second that the link may ship.
    Entries,
    /// The share of a processor that a copy may take here.
    Cpu,
}

/// What is to be expected of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// How long it takes.
    pub seconds: f64,
    /// Bytes of rows.
    pub bytes: u64,
    /// Bytes that are sent.
    pub wire_bytes: u64,
    /// What it is slowed down by.
    pub limit: Limit,
    /// How much later a row that is written then shows there, in milliseconds.
    pub sync_delay_ms: f64,
}

impl Measures {
    /// The gain by compression and parallelism: r.
    pub fn gain(&self) -> f64 {
        self.compression.max(f64::MIN_POSITIVE) * self.parallelism.max(1.0)
    }

    /// Bytes that are read and packed each second, by what a copy may take of a processor.
    fn readies(&self) -> (f64, Limit) {
        match self.copy_cpu_percent {
            Some(percent) if percent < 100 => (self.reads * f64::from(percent) / 100.0, Limit::Cpu),
            Some(_) | None => (self.reads, Limit::Reading),
        }
    }

    /// What is to be expected of a copy of all rows.
    pub fn forecast(&self) -> Forecast {
        let bytes = self.rows as f64 * self.row_bytes;
        let network = self.bandwidth * self.gain();
        let asked = [
            (self.bytes_per_second.map(|rate| rate as f64), Limit::Bytes),
            (self.entries_per_second.map(|rate| rate as f64 * self.row_bytes), Limit::Entries),
        ];
        let asked = asked.into_iter().filter_map(|(rate, limit)| Some((rate?, limit)));
        let met = [(network, Limit::Network), self.readies(), (self.takes, Limit::Taking)];
        let slowest = met.into_iter().chain(asked).min_by(|a, b| a.0.total_cmp(&b.0));
        let (measured, limit) = slowest.unwrap_or((network, Limit::Network));
        // A copy of the past has met everything that slows one down.
        let (rate, limit) = match self.past {
            Some(past) if past < measured => (past, Limit::LikeTheLast),
            Some(_) | None => (measured, limit),
        };
        let delay = self.row_bytes / self.bandwidth.max(1.0);
        Forecast {
            seconds: bytes / rate.max(1.0) + self.round_trip_ms / 1e3,
            bytes: bytes as u64,
            wire_bytes: (bytes / self.compression.max(f64::MIN_POSITIVE)) as u64,
            limit,
            sync_delay_ms: self.round_trip_ms / 2.0 + delay * 1e3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measures() -> Measures {
        Measures {
            rows: 1_000_000,
            row_bytes: 100.0,
            bandwidth: 1e6,
            round_trip_ms: 100.0,
            compression: 4.0,
            parallelism: 2.5,
            reads: 1e9,
            takes: 1e9,
            past: None,
            bytes_per_second: None,
            entries_per_second: None,
            copy_cpu_percent: None,
        }
    }

    #[test]
    fn a_copy_takes_n_times_d_over_b_times_r() {
        let forecast = measures().forecast();
        assert!((forecast.seconds - 10.1).abs() < 1e-6, "{forecast:?}");
        assert_eq!((forecast.bytes, forecast.wire_bytes), (100_000_000, 25_000_000));
        assert_eq!(forecast.limit, Limit::Network);
        assert!((forecast.sync_delay_ms - 50.1).abs() < 1e-6, "{forecast:?}");
    }

    #[test]
    fn what_is_slowest_counts() {
        let slow_disk = Measures { takes: 5e6, ..measures() };
        assert_eq!(slow_disk.forecast().limit, Limit::Taking);
        assert!(slow_disk.forecast().seconds > 20.0);
        let slow_past = Measures { past: Some(1e6), ..slow_disk };
        assert_eq!(slow_past.forecast().limit, Limit::LikeTheLast);
        assert!(slow_past.forecast().seconds > 100.0);
        for (throttled, limit, seconds) in [
            (Measures { bytes_per_second: Some(500_000), ..measures() }, Limit::Bytes, 200.0),
            (Measures { entries_per_second: Some(2_000), ..measures() }, Limit::Entries, 500.0),
            (Measures { reads: 8e6, copy_cpu_percent: Some(25), ..measures() }, Limit::Cpu, 50.0),
            (Measures { copy_cpu_percent: Some(100), ..measures() }, Limit::Network, 10.0),
        ] {
            let forecast = throttled.forecast();
            assert_eq!(forecast.limit, limit);
            assert!((forecast.seconds - seconds - 0.1).abs() < 1e-6, "{forecast:?}");
        }
        let empty = Measures { rows: 0, ..measures() }.forecast();
        assert!(empty.seconds < 0.2 && empty.wire_bytes == 0);
    }
}
