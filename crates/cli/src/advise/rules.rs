//! What is recommended, from what is needed and what was measured. Pure.

use serde::Serialize;

/// What a person needs of a table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Needs {
    /// Whether several regions are to write it.
    pub(super) many_write: bool,
    /// Whether they change different columns of the same rows.
    pub(super) by_column: bool,
    /// Writes, in seconds, that may be lost with a region.
    pub(super) loss_seconds: f64,
    /// How long a write may take to be answered, in milliseconds.
    pub(super) answer_ms: f64,
    /// How long mistakes are to be kept out of one replica, in hours; 0: not at all.
    pub(super) undo_hours: f64,
    /// Whether the network may be used at some hours only.
    pub(super) at_hours: bool,
    /// Whether only the replica can open connections to the origin.
    pub(super) only_replica_dials: bool,
}

/// What was measured between the writing region and one other.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Way {
    /// The other region.
    pub(super) to: String,
    /// From a question to its answer, in milliseconds.
    pub(super) round_trip_ms: f64,
    /// Bytes each second.
    pub(super) bandwidth: f64,
    /// Bytes before compression over bytes as sent.
    pub(super) compression: f64,
    /// How long a write takes there, its sync included, in milliseconds.
    pub(super) write_ms: f64,
}

/// How much is written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    /// Entries each second.
    pub(super) entries: f64,
    /// Bytes of one.
    pub(super) entry_bytes: f64,
}

/// What is recommended, with what to expect.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Advice {
    /// `primary-secondary` or `peer-to-peer`.
    pub(super) serve: &'static str,
    /// `row` or `column`: what one conflict is about.
    pub(super) sync: &'static str,
    /// `async` or `semi-sync`.
    pub(super) mode: &'static str,
    /// Regions that must hold a write before it is answered.
    pub(super) acks: u32,
    /// `immediate`, `window`; and perhaps one replica that is `delayed`.
    pub(super) timing: Vec<String>,
    /// `push` or `pull`.
    pub(super) direction: &'static str,
    /// How long a write is expected to take to be answered, in milliseconds.
    pub(super) answer_ms: f64,
    /// How late a write is expected to show in the farthest region, in milliseconds.
    pub(super) delay_ms: f64,
    /// Writes that are expected to be lost with the writing region, in milliseconds of writing.
    pub(super) rpo_ms: f64,
    /// Bytes sent each day, to all regions.
    pub(super) wire_bytes_per_day: f64,
    /// Why, and what does not go together.
    pub(super) reasons: Vec<String>,
}

/// Recommends. `own_write_ms` is how long a write takes in the writing region.
pub(super) fn advise(needs: &Needs, own_write_ms: f64, ways: &[Way], load: Load) -> Advice {
    let mut reasons = Vec::new();
    let bytes_each_second = load.entries * load.entry_bytes;
    let delays: Vec<f64> = ways.iter().map(|way| delay_ms(way, load)).collect();
    let farthest = delays.iter().copied().fold(0.0, f64::max);
    let nearest = delays.iter().copied().fold(f64::INFINITY, f64::min);
    // A write is safe where it first arrives; what is on its way till then can be lost.
    let async_rpo = if ways.is_empty() { f64::INFINITY } else { nearest };
    let confirmed = ways.iter().map(|way| way.round_trip_ms + way.write_ms);
    let semi_sync_answer = own_write_ms.max(confirmed.fold(f64::INFINITY, f64::min));

    let wants_none_lost = needs.loss_seconds * 1e3 < async_rpo;
    let (mode, acks, answer_ms, rpo_ms) = match wants_none_lost && !ways.is_empty() {
        true => ("semi-sync", 1, semi_sync_answer, 0.0),
        false => ("async", 0, own_write_ms, async_rpo),
    };
    reasons.push(match mode {
        "async" => format!(
            "{:.0} ms of writes would be on their way if the region were lost, and {:.0} ms may be",
            async_rpo,
            needs.loss_seconds * 1e3
        ),
        _ => format!(
            "no more than {:.0} ms of writes may be lost, and without waiting it would be {:.0}",
            needs.loss_seconds * 1e3,
            async_rpo
        ),
    });
    if answer_ms > needs.answer_ms {
        reasons.push(format!(
            "this does not go together: answers take about {answer_ms:.1} ms, and {:.1} are \
             wanted; a nearer region, or more writes that may be lost, would do",
            needs.answer_ms
        ));
    }
    let busy = ways.iter().find(|way| bytes_each_second / way.compression > way.bandwidth);
    if let Some(way) = busy {
        reasons.push(format!("more is written than the way to {} carries", way.to));
    }
    let serve = if needs.many_write { "peer-to-peer" } else { "primary-secondary" };
    let sync = if needs.by_column { "column" } else { "row" };
    if needs.many_write {
        reasons.push("several regions write; of two writes at once the later one wins".to_owned());
    }
    let (timing, delay_ms) = timing(needs, farthest, &mut reasons);
    let direction = if needs.only_replica_dials { "pull" } else { "push" };
    let sent = ways.iter().map(|way| bytes_each_second / way.compression.max(1.0));
    Advice {
        serve,
        sync,
        mode,
        acks,
        timing,
        direction,
        answer_ms,
        delay_ms,
        rpo_ms,
        wire_bytes_per_day: sent.sum::<f64>() * 86_400.0,
        reasons,
    }
}

fn timing(needs: &Needs, farthest: f64, reasons: &mut Vec<String>) -> (Vec<String>, f64) {
    let mut timing = vec![if needs.at_hours { "window" } else { "immediate" }.to_owned()];
    let mut delay_ms = farthest;
    if needs.at_hours {
        reasons.push("between two windows everything waits: up to a day can be lost".to_owned());
        delay_ms = 86_400_000.0;
    }
    if needs.undo_hours > 0.0 {
        timing.push(format!("delayed {:.1} h in one more replica", needs.undo_hours));
        reasons.push("a replica that stays behind keeps what a mistake deletes".to_owned());
    }
    (timing, delay_ms)
}

/// Half a round trip, the time on the wire at this load, and the sync there.
fn delay_ms(way: &Way, load: Load) -> f64 {
    let wire = load.entry_bytes / way.compression.max(1.0) / way.bandwidth.max(1.0) * 1e3;
    let used = load.entries * wire / 1e3;
    // What waits grows without bound as the way fills up.
    let queued = wire / (1.0 - used.min(0.99));
    way.round_trip_ms / 2.0 + queued + way.write_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs() -> Needs {
        Needs {
            many_write: false,
            by_column: false,
            loss_seconds: 5.0,
            answer_ms: 20.0,
            undo_hours: 0.0,
            at_hours: false,
            only_replica_dials: false,
        }
    }

    fn way(to: &str, round_trip_ms: f64) -> Way {
        Way { to: to.to_owned(), round_trip_ms, bandwidth: 1e7, compression: 2.0, write_ms: 2.0 }
    }

    const LOAD: Load = Load { entries: 1000.0, entry_bytes: 200.0 };

    #[test]
    fn who_may_lose_seconds_is_answered_at_once() {
        let ways = [way("r2", 30.0), way("r3", 100.0)];
        let advice = advise(&needs(), 3.0, &ways, LOAD);
        assert_eq!(
            (advice.mode, advice.serve, advice.direction),
            ("async", "primary-secondary", "push")
        );
        assert_eq!(advice.timing, ["immediate"]);
        assert_eq!(advice.answer_ms, 3.0);
        assert!((17.0..18.0).contains(&advice.rpo_ms), "{advice:?}");
        assert!((52.0..53.0).contains(&advice.delay_ms), "{advice:?}");
        assert_eq!(advice.wire_bytes_per_day, 2.0 * 100_000.0 * 86_400.0);
    }

    #[test]
    fn who_may_lose_nothing_waits_for_the_nearest_region() {
        let ways = [way("r2", 30.0), way("r3", 100.0)];
        let needs = Needs { loss_seconds: 0.0, ..needs() };
        let advice = advise(&needs, 3.0, &ways, LOAD);
        assert_eq!((advice.mode, advice.acks, advice.rpo_ms), ("semi-sync", 1, 0.0));
        assert_eq!(advice.answer_ms, 32.0);
        let told = advice.reasons.iter().any(|reason| reason.contains("does not go together"));
        assert!(told, "{advice:?}");
    }

    #[test]
    fn mistakes_hours_and_firewalls_decide_timing_and_direction() {
        let needs = Needs {
            many_write: true,
            by_column: true,
            undo_hours: 6.0,
            at_hours: true,
            only_replica_dials: true,
            ..needs()
        };
        let advice = advise(&needs, 3.0, &[way("r2", 30.0)], LOAD);
        assert_eq!((advice.serve, advice.sync), ("peer-to-peer", "column"));
        assert_eq!(advice.timing, ["window", "delayed 6.0 h in one more replica"]);
        assert_eq!((advice.direction, advice.delay_ms), ("pull", 86_400_000.0));
        let full = Load { entries: 1e6, entry_bytes: 200.0 };
        let advice = advise(&needs, 3.0, &[way("r2", 30.0)], full);
        assert!(advice.reasons.iter().any(|reason| reason.contains("carries")), "{advice:?}");
    }
}
