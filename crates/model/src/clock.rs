//! The only door to time.

use std::time::Duration;

/// Tells time. Everything that needs time is handed one.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch. May step back.
    fn wall_millis(&self) -> i64;

    /// Time since some fixed moment. Never steps back and counts suspension.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the door")]
    fn wall_millis(&self) -> i64 {
        let now = std::time::SystemTime::now();
        match now.duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => since.as_millis() as i64,
            Err(_) => 0,
        }
    }

    #[allow(clippy::disallowed_methods, reason = "this is the door")]
    fn monotonic(&self) -> Duration {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }
}

/// The machine's clocks, with the wall clock wrong by a fixed span: for drills.
#[derive(Clone, Copy, Debug)]
pub struct WrongClock {
    /// How far it is ahead, in milliseconds.
    pub ahead_millis: i64,
}

impl Clock for WrongClock {
    fn wall_millis(&self) -> i64 {
        SystemClock.wall_millis().saturating_add(self.ahead_millis)
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }
}
