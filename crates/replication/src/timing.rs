//! When a link may ship: at once, later, at intervals, in windows, or when it is triggered.
//!
//! A gate is asked now and then and says through which entry the log may be shipped and whether
//! rows of a copy may. What it has released stays released. Intervals are counted from the epoch
//! and windows follow from the time alone, so a restart changes neither. Copies begin at once
//! under every timing but windows; one that would bring a delayed replica what it is kept behind of
//! waits until it is asked for. Pure: time is handed in, as milliseconds since the Unix epoch.

use std::time::Duration;

use cronexpr::{Crontab, MakeTimestamp};
use isthmus_model::ids::Lsn;

/// Log records that are looked at for a delay at once.
const RECORDS_MAX: usize = 256;

/// When a link ships.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Timing {
    /// Entries as they come.
    #[default]
    Immediate,
    /// An entry when it is so old.
    Delayed(Duration),
    /// What there is, once in each interval.
    Interval(Duration),
    /// While one of the windows is open.
    Windows(Vec<Window>),
    /// What there is when a person or program asks for it, or when so much waits.
    Triggered {
        /// Entries that wait.
        entries: Option<u64>,
        /// Bytes of log records that wait.
        bytes: Option<u64>,
    },
}

/// A window that opens again and again.
#[derive(Clone, Debug)]
pub struct Window {
    text: String,
    opens: Crontab,
    lasts: Duration,
}

impl PartialEq for Window {
    fn eq(&self, other: &Window) -> bool {
        (&self.text, self.lasts) == (&other.text, other.lasts)
    }
}

impl Window {
    /// A window that opens when a cron expression says so and stays open for a while. `cron` has
    /// five fields and the name or offset of a time zone, such as `30 2 * * 1-5 Europe/Berlin`.
    pub fn parse(cron: &str, lasts: Duration) -> Result<Window, String> {
        let opens = cronexpr::parse_crontab(cron).map_err(|error| error.to_string())?;
        let window = Window { text: cron.to_owned(), opens, lasts };
        match window.next_after(0) {
            Some(_) => Ok(window),
            None => Err(format!("{cron}: never comes")),
        }
    }

    fn next_after(&self, millis: i64) -> Option<i64> {
        let after = MakeTimestamp::from_millisecond(millis).ok()?;
        Some(self.opens.find_next(after).ok()?.timestamp().as_millisecond())
    }

    /// Whether it is open, and when that changes.
    fn state(&self, now: i64) -> (bool, i64) {
        let lasts = self.lasts.as_millis() as i64;
        match self.next_after(now.saturating_sub(lasts)) {
            Some(opens) if opens <= now => (true, opens + lasts),
            Some(opens) => (false, opens),
            None => (false, i64::MAX),
        }
    }
}

/// What a gate is told.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The time.
    pub now_millis: i64,
    /// The end of the log.
    pub appended: Lsn,
    /// Shipped through.
    pub shipped: Lsn,
    /// That is known: the link follows the log.
    pub follows: bool,
    /// The replica had everything until entries that it lacks were gone here.
    pub fell_out: bool,
    /// Bytes of the log after that.
    pub waiting_bytes: u64,
}

/// What may be shipped now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Entries through this one.
    pub through: Lsn,
    /// Rows of a copy.
    pub copies: Copies,
    /// When more may be, if that is known and there is something to wait for.
    pub next_millis: Option<i64>,
}

/// When rows of a copy may be shipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copies {
    /// Now.
    #[default]
    Now,
    /// When a window opens.
    InWindow,
    /// When a person or program asks for it.
    WhenAsked,
}

/// Says what a link may ship by its timing.
#[derive(Clone, Debug)]
pub struct Gate {
    timing: Timing,
    released: Lsn,
    /// A copy was asked for, until the link follows the log again.
    copy_asked: bool,
    /// The interval that was last seen.
    interval: Option<i64>,
    /// When the log record after an entry is old enough, for a delay; `None`: look at it.
    due: Option<(Lsn, i64)>,
    /// Whether a window is open, from when till when that holds.
    window: Option<(bool, i64, i64)>,
}

impl Gate {
    /// A gate that has released nothing so far.
    pub fn new(timing: Timing) -> Gate {
        let released = Lsn(0);
        Gate { timing, released, copy_asked: false, interval: None, due: None, window: None }
    }

    /// Whether it lets everything pass and need not be asked again.
    pub fn is_always_open(&self) -> bool {
        self.timing == Timing::Immediate
    }

    /// Releases what there is, whatever the timing.
    pub fn trigger(&mut self, appended: Lsn) {
        self.released = self.released.max(appended);
        self.copy_asked = true;
    }

    /// What may be shipped now. `record_after` tells of the log record after an entry: its last
    /// entry, and when the newest was made; `None`: there is none.
    pub fn look(
        &mut self,
        moment: &Moment,
        record_after: impl FnMut(Lsn) -> Option<(Lsn, i64)>,
    ) -> Leave {
        let (now, appended) = (moment.now_millis, moment.appended);
        self.copy_asked &= !moment.follows;
        let mut copies = Copies::Now;
        let next = match &self.timing {
            Timing::Immediate => {
                return Leave { through: Lsn(u64::MAX), copies, next_millis: None };
            }
            Timing::Delayed(by) => {
                if moment.fell_out && !self.copy_asked {
                    copies = Copies::WhenAsked;
                }
                self.pass_delayed(by.as_millis() as i64, moment, record_after);
                self.due.map(|(_, due)| due)
            }
            Timing::Interval(every) => {
                let every = (every.as_millis() as i64).max(1);
                let interval = now.div_euclid(every);
                if self.interval.replace(interval).is_some_and(|before| before != interval) {
                    self.released = appended;
                }
                Some((interval + 1) * every)
            }
            Timing::Windows(_) => {
                let (open, until) = self.window(now);
                if open {
                    return Leave { through: Lsn(u64::MAX), copies, next_millis: None };
                }
                let next_millis = (until < i64::MAX).then_some(until);
                return Leave { through: self.released, copies: Copies::InWindow, next_millis };
            }
            Timing::Triggered { entries, bytes } => {
                let waits = appended.0.saturating_sub(moment.shipped.0);
                let enough = entries.is_some_and(|least| waits >= least)
                    || bytes.is_some_and(|least| moment.waiting_bytes >= least);
                // Until the replica has said where it stands nobody knows what waits.
                if moment.follows && enough && waits > 0 {
                    self.released = appended;
                }
                None
            }
        };
        let waits = appended > self.released.max(moment.shipped);
        Leave { through: self.released, copies, next_millis: next.filter(|_| waits) }
    }

    /// Releases what is old enough. An entry's own time counts, so a restart changes nothing.
    fn pass_delayed(
        &mut self,
        by: i64,
        moment: &Moment,
        mut record_after: impl FnMut(Lsn) -> Option<(Lsn, i64)>,
    ) {
        // What was shipped under another timing may be asked for again before it is old enough.
        let mut through = self.released.max(moment.shipped);
        let waits = |(after, due)| after == through && moment.now_millis < due;
        if !moment.follows || self.due.is_some_and(waits) {
            return;
        }
        self.due = None;
        for _ in 0..RECORDS_MAX {
            let Some((last, made)) = record_after(through) else { return };
            let due = made.saturating_add(by);
            if due > moment.now_millis {
                self.due = Some((through, due));
                return;
            }
            (self.released, through) = (last, last);
        }
    }

    /// Whether a window is open, and until when that holds.
    fn window(&mut self, now: i64) -> (bool, i64) {
        if let Some((open, from, until)) = self.window
            && (from..until).contains(&now)
        {
            return (open, until);
        }
        let Timing::Windows(windows) = &self.timing else { return (true, i64::MAX) };
        let states: Vec<(bool, i64)> = windows.iter().map(|window| window.state(now)).collect();
        let open = states.iter().any(|(open, _)| *open);
        let changes = states.iter().filter(|(other, _)| *other == open).map(|(_, until)| *until);
        let until = if open { changes.max() } else { changes.min() }.unwrap_or(i64::MAX);
        self.window = Some((open, now, until));
        (open, until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Lsn = Lsn(0);

    fn moment(now_millis: i64, appended: u64, shipped: u64) -> Moment {
        let waiting_bytes = (appended - shipped) * 100;
        let (appended, shipped) = (Lsn(appended), Lsn(shipped));
        let (follows, fell_out) = (true, false);
        Moment { now_millis, appended, shipped, follows, fell_out, waiting_bytes }
    }

    fn no_record(_: Lsn) -> Option<(Lsn, i64)> {
        None
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn at_once_everything_passes() {
        let mut gate = Gate::new(Timing::Immediate);
        assert!(gate.is_always_open());
        assert_eq!(gate.look(&moment(5, 9, 0), no_record).through, Lsn(u64::MAX));
    }

    #[test]
    fn what_is_delayed_passes_when_it_is_old_enough() {
        // Records end at 5, 8 and 9.
        let log = [(Lsn(5), 1_000), (Lsn(8), 4_000), (Lsn(9), 12_000)];
        let after = |end: u64| {
            move |lsn| log.into_iter().find(|(last, _)| *last > lsn && *last <= Lsn(end))
        };
        let mut gate = Gate::new(Timing::Delayed(secs(10)));
        let leave = gate.look(&moment(1_000, 5, 0), after(5));
        assert_eq!((leave.through, leave.next_millis), (NONE, Some(11_000)));
        assert_eq!(gate.look(&moment(10_999, 8, 0), after(8)).through, NONE);
        let leave = gate.look(&moment(11_000, 8, 0), after(8));
        assert_eq!((leave.through, leave.next_millis), (Lsn(5), Some(14_000)));
        let leave = gate.look(&moment(14_000, 9, 5), after(9));
        assert_eq!((leave.through, leave.next_millis), (Lsn(8), Some(22_000)));
        // One that begins later knows as much.
        let mut gate = Gate::new(Timing::Delayed(secs(10)));
        let leave = gate.look(&moment(21_000, 9, 0), after(9));
        assert_eq!((leave.through, leave.next_millis), (Lsn(8), Some(22_000)));
        let leave = gate.look(&moment(22_000, 9, 8), after(9));
        assert_eq!((leave.through, leave.next_millis), (Lsn(9), None));
    }

    #[test]
    fn what_was_shipped_at_once_and_lost_waits_when_a_delay_is_asked_for() {
        let log = [(Lsn(5), 1_000), (Lsn(8), 4_000)];
        let after = |lsn| log.into_iter().find(|(last, _)| *last > lsn);
        let mut gate = Gate::new(Timing::Delayed(secs(10)));
        assert_eq!(gate.look(&moment(5_000, 8, 8), after).through, NONE);
        // The stream broke, and the replica has it not.
        let leave = gate.look(&moment(6_000, 8, 5), after);
        assert_eq!((leave.through, leave.next_millis), (NONE, Some(14_000)));
        assert_eq!(gate.look(&moment(14_000, 8, 5), after).through, Lsn(8));
    }

    #[test]
    fn nothing_is_triggered_before_the_replica_has_said_where_it_stands() {
        let mut gate = Gate::new(Timing::Triggered { entries: Some(5), bytes: None });
        // A link that has just been made seems to have shipped nothing of a log with nine entries.
        let opening = Moment { follows: false, ..moment(1_000, 9, 0) };
        assert_eq!(gate.look(&opening, no_record).through, NONE);
        // Two wait.
        assert_eq!(gate.look(&moment(1_100, 9, 7), no_record).through, NONE);
        assert_eq!(gate.look(&moment(1_200, 12, 7), no_record).through, Lsn(12));
    }

    #[test]
    fn nothing_delayed_passes_before_the_replica_has_said_where_it_stands() {
        let mut gate = Gate::new(Timing::Delayed(secs(10)));
        let opening = Moment { follows: false, ..moment(99_000, 9, 0) };
        assert_eq!(gate.look(&opening, |_| Some((Lsn(9), 0))).through, NONE);
    }

    #[test]
    fn delayed_replica_that_fell_out_of_the_log_is_copied_when_it_is_asked_for() {
        let mut gate = Gate::new(Timing::Delayed(secs(10)));
        let opening = Moment { follows: false, ..moment(99_000, 9, 0) };
        let fallen = Moment { fell_out: true, ..opening };
        assert_eq!(gate.look(&opening, no_record).copies, Copies::Now);
        assert_eq!(gate.look(&fallen, no_record).copies, Copies::WhenAsked);
        gate.trigger(Lsn(9));
        assert_eq!(gate.look(&fallen, no_record).copies, Copies::Now);
        // The next time it is to be asked for again.
        gate.look(&moment(99_000, 9, 9), no_record);
        assert_eq!(gate.look(&fallen, no_record).copies, Copies::WhenAsked);
        let mut gate = Gate::new(Timing::Interval(secs(10)));
        assert_eq!(gate.look(&fallen, no_record).copies, Copies::Now);
    }

    #[test]
    fn much_that_is_old_enough_passes_in_steps() {
        let mut gate = Gate::new(Timing::Delayed(secs(1)));
        let each = |lsn: Lsn| (lsn < Lsn(1000)).then(|| (lsn.next(), 0));
        let step = RECORDS_MAX as u64;
        assert_eq!(gate.look(&moment(99_000, 1000, 0), each).through, Lsn(step));
        assert_eq!(gate.look(&moment(99_001, 1000, 7), each).through, Lsn(2 * step));
    }

    #[test]
    fn an_interval_releases_what_there_is_once() {
        let mut gate = Gate::new(Timing::Interval(secs(5)));
        let leave = gate.look(&moment(12_000, 5, 0), no_record);
        assert_eq!((leave.through, leave.next_millis), (NONE, Some(15_000)));
        assert_eq!(gate.look(&moment(14_999, 7, 0), no_record).through, NONE);
        assert_eq!(gate.look(&moment(15_000, 8, 0), no_record).through, Lsn(8));
        assert_eq!(gate.look(&moment(16_000, 9, 8), no_record).through, Lsn(8));
        assert_eq!(gate.look(&moment(20_100, 9, 8), no_record).through, Lsn(9));
    }

    #[test]
    fn enough_that_waits_or_a_person_triggers() {
        let (entries, bytes) = (Some(10), Some(500));
        let mut gate = Gate::new(Timing::Triggered { entries, bytes });
        assert_eq!(gate.look(&moment(1, 4, 0), no_record).through, NONE);
        assert_eq!(gate.look(&moment(2, 5, 0), no_record).through, Lsn(5));
        gate.trigger(Lsn(6));
        assert_eq!(gate.look(&moment(3, 7, 5), no_record).through, Lsn(6));
        let mut gate = Gate::new(Timing::Triggered { entries, bytes: None });
        assert_eq!(gate.look(&moment(1, 9, 0), no_record).through, NONE);
        assert_eq!(gate.look(&moment(1, 10, 0), no_record).through, Lsn(10));
    }

    /// Milliseconds of a moment in UTC.
    fn at(text: &str) -> i64 {
        let moment: MakeTimestamp = text.parse().unwrap();
        moment.0.as_millisecond()
    }

    #[test]
    fn windows_open_by_the_clock_of_their_zone() {
        // Berlin is an hour ahead of UTC in winter and two in summer.
        let window = Window::parse("0 2 * * * Europe/Berlin", secs(7200)).unwrap();
        let mut gate = Gate::new(Timing::Windows(vec![window]));
        let mut opens = |text| {
            let leave = gate.look(&moment(at(text), 5, 0), no_record);
            (leave.copies == Copies::Now, leave.next_millis)
        };
        assert_eq!(opens("2026-01-10T00:59:59Z"), (false, Some(at("2026-01-10T01:00:00Z"))));
        assert_eq!(opens("2026-01-10T01:00:00Z"), (true, None));
        assert_eq!(opens("2026-01-10T02:59:59Z"), (true, None));
        assert_eq!(opens("2026-01-10T03:00:00Z"), (false, Some(at("2026-01-11T01:00:00Z"))));
        assert_eq!(opens("2026-07-10T00:00:00Z"), (true, None));
        // The clock may be set back.
        assert_eq!(opens("2026-01-10T00:30:00Z"), (false, Some(at("2026-01-10T01:00:00Z"))));
    }

    #[test]
    fn one_open_window_is_enough() {
        let window = |cron| Window::parse(cron, secs(3600)).unwrap();
        let both = vec![window("0 3 * * * UTC"), window("0 12 * * 6 +00:00")];
        let mut gate = Gate::new(Timing::Windows(both));
        let mut copies = |text| gate.look(&moment(at(text), 1, 0), no_record).copies;
        assert_eq!(copies("2026-11-28T12:30:00Z"), Copies::Now);
        assert_eq!(copies("2026-11-29T12:30:00Z"), Copies::InWindow);
        assert_eq!(copies("2026-11-29T03:30:00Z"), Copies::Now);
    }

    #[test]
    fn wrong_windows_are_refused() {
        for cron in
            ["", "0 2 * * *", "61 2 * * * UTC", "0 2 * * * Europe/Nowhere", "0 0 30 2 * UTC"]
        {
            assert!(Window::parse(cron, secs(60)).is_err(), "{cron}");
        }
    }
}
