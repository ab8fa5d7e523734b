//! What a job's thread and its owner tell each other: halt, and how far it is.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use serde_json::{Value as Json, json};

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// What it does: scrubbing, comparing, reading, repairing.
    pub phase: &'static str,
    /// Rows done.
    pub rows_done: u64,
    /// Of so many, where that is known.
    pub rows_total: Option<u64>,
    /// Bytes read or moved.
    pub bytes: u64,
    /// Share of the whole job, 0 to 1, where that is known.
    pub fraction: Option<f64>,
}

#[derive(Default)]
struct Inner {
    halted: bool,
    progress: Progress,
}

/// Shared by a job's thread and its owner.
#[derive(Default)]
pub struct Control {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Control {
    /// Tells the thread to halt.
    pub fn halt(&self) {
        self.inner.lock().halted = true;
        self.changed.notify_all();
    }

    /// Whether the thread is to halt.
    pub fn is_halted(&self) -> bool {
        self.inner.lock().halted
    }

    /// Rests, unless it is told to halt.
    pub fn rest(&self, time: Duration) {
        let mut inner = self.inner.lock();
        if !inner.halted && !time.is_zero() {
            // Waking early does no harm: whoever rests looks again at what it waited for.
            let _ = self.changed.wait_for(&mut inner, time);
        }
    }

    /// Tells how far it is.
    pub fn tell(&self, progress: Progress) {
        self.inner.lock().progress = progress;
    }

    /// How far it is, for people who wait.
    pub fn progress_json(&self, elapsed: Duration) -> Json {
        let progress = self.inner.lock().progress.clone();
        let fraction = progress.fraction.map(|fraction| fraction.clamp(0.0, 1.0));
        json!({
            "phase": progress.phase,
            "rows_done": progress.rows_done,
            "rows_total": progress.rows_total,
            "bytes": progress.bytes,
            "fraction": fraction,
            "seconds_left": fraction.and_then(|fraction| seconds_left(fraction, elapsed)),
        })
    }
}

/// What is left, if it goes on as it did. Too early there is nothing to go by.
fn seconds_left(fraction: f64, elapsed: Duration) -> Option<u64> {
    let told = fraction > 0.005 && elapsed >= Duration::from_secs(1);
    told.then(|| (elapsed.as_secs_f64() * (1.0 - fraction) / fraction).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_time_taken() {
        assert_eq!(seconds_left(0.25, Duration::from_secs(10)), Some(30));
        assert_eq!(seconds_left(0.001, Duration::from_secs(10)), None);
        assert_eq!(seconds_left(0.5, Duration::from_millis(10)), None);
        let control = Control::default();
        control.tell(Progress { phase: "reading", fraction: Some(1.5), ..Progress::default() });
        let told = control.progress_json(Duration::from_secs(2));
        assert_eq!((&told["fraction"], &told["seconds_left"]), (&json!(1.0), &json!(0)));
    }

    #[test]
    fn whoever_is_halted_does_not_rest() {
        let control = Control::default();
        control.rest(Duration::from_millis(1));
        control.halt();
        control.rest(Duration::from_secs(3600));
        assert!(control.is_halted());
    }
}
