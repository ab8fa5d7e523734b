//! A link ships when its timing lets it, and not before: also after a restart, and from the moment
//! on at which it is asked for something else.
//!
//! What is judged is what a region sends, by its own wall clock and by when its log was durable. It
//! is known from outside when a region has surely looked at its links: at each tick. Entries that
//! complete a copy go at once, and so does what was triggered by hand. Where a link ships when
//! enough waits, all that waits then may go.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_replication::terms::Terms;
use isthmus_replication::timing::Timing;

use super::Violation;

const NAME: &str = "links ship when they may";
/// A minute in which windows open once, at its beginning.
const MINUTE_MILLIS: i64 = 60_000;
const TICKS_KEPT: usize = 64;

/// From a node to a peer, of a partition.
pub(crate) type LinkOf = (usize, usize, PartitionId);

#[derive(Debug, Default)]
struct Link {
    timing: Timing,
    /// How long a window is open.
    window: Duration,
    /// Ticks of the node when the timing was set.
    ticks: u64,
    /// The latest wall clock since then.
    wall_max: i64,
    /// Through this it was triggered by hand.
    triggered: Lsn,
    /// Through this enough waited once.
    released: Lsn,
    /// The replica lacks what only a copy brings, and was not told to follow.
    incomplete: bool,
    /// Entries through this one complete its copy.
    complete_at: Lsn,
    /// It was triggered since the replica fell out of the log.
    copy_asked: bool,
}

#[derive(Debug, Default)]
struct Clock {
    /// When the node looked at its links, by world and wall; `None`: its wall clock was set.
    ticks: VecDeque<(u64, Option<i64>)>,
    count: u64,
    /// What the wall clock showed at the last tick, and whenever it was set or something was asked
    /// since.
    walls: Vec<i64>,
    /// When which end of a log became durable.
    durable: BTreeMap<PartitionId, Vec<(u64, Lsn)>>,
}

/// What was asked of links, and what nodes have seen of time.
#[derive(Debug, Default)]
pub(crate) struct Timings {
    links: BTreeMap<LinkOf, Link>,
    clocks: BTreeMap<usize, Clock>,
    /// Parcels that were judged by another timing than at once.
    pub(crate) judged: u64,
}

/// A parcel that is sent, and what its sender knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) from: Lsn,
    pub(crate) to: Lsn,
    /// The newest moment of an entry that it carries.
    pub(crate) newest: Option<Hlc>,
    pub(crate) wall_millis: i64,
    pub(crate) durable: Lsn,
    /// Bytes of the log after `from`.
    pub(crate) waiting_bytes: u64,
}

/// What waits at a link.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) after: Lsn,
    pub(crate) durable: Lsn,
    /// Bytes of the log after `after`.
    pub(crate) bytes: u64,
}

impl Timings {
    /// Something is asked of a link. The window is that of its timing, if it has one.
    pub(crate) fn asked(&mut self, link: LinkOf, terms: &Terms, window: Duration, wall: i64) {
        let clock = self.clocks.entry(link.0).or_default();
        clock.walls.push(wall);
        let ticks = clock.count;
        let known = self.links.entry(link).or_default();
        if known.timing != terms.timing {
            *known = Link {
                timing: terms.timing.clone(),
                window,
                ticks,
                wall_max: wall,
                incomplete: known.incomplete,
                complete_at: known.complete_at,
                ..Link::default()
            };
        }
    }

    /// The links of a node that ship when enough waits.
    pub(crate) fn counting(&self, node: usize) -> Vec<LinkOf> {
        let links = self.links.range((node, 0, PartitionId(0))..(node + 1, 0, PartitionId(0)));
        let counts = |link: &Link| matches!(link.timing, Timing::Triggered { .. });
        links.filter(|(_, link)| counts(link)).map(|(link, _)| *link).collect()
    }

    /// So much waits at a link whose replica follows while its node looks at it.
    pub(crate) fn waits(&mut self, link: LinkOf, waiting: Waiting) {
        if let Some(known) = self.links.get_mut(&link) {
            known.release(waiting);
        }
    }

    /// A link is triggered by hand while its log is durable through this.
    pub(crate) fn triggered(&mut self, link: LinkOf, durable: Lsn) {
        let known = self.links.entry(link).or_default();
        known.triggered = known.triggered.max(durable);
        known.copy_asked = true;
    }

    /// A node looks at its links.
    pub(crate) fn ticks(&mut self, node: usize, now_micros: u64, wall: i64) {
        let clock = self.clocks.entry(node).or_default();
        clock.count += 1;
        clock.walls.clear();
        clock.walls.push(wall);
        clock.tick(now_micros, Some(wall));
        self.saw(node, wall);
    }

    /// A node's wall clock is set; it showed this before.
    pub(crate) fn clock_is_set(&mut self, node: usize, now_micros: u64, wall: i64) {
        let clock = self.clocks.entry(node).or_default();
        clock.walls.push(wall);
        clock.tick(now_micros, None);
        self.saw(node, wall);
    }

    fn saw(&mut self, node: usize, wall: i64) {
        for (_, link) in self.links.iter_mut().filter(|((from, ..), _)| *from == node) {
            link.wall_max = link.wall_max.max(wall);
        }
    }

    /// A node begins a new life, which remembers nothing of what was released.
    pub(crate) fn starts(&mut self, node: usize, now_micros: u64, wall: i64) {
        let clock = self.clocks.entry(node).or_default();
        clock.walls.clear();
        clock.tick(now_micros, None);
        let count = clock.count;
        for (_, link) in self.links.iter_mut().filter(|((from, ..), _)| *from == node) {
            *link = Link {
                timing: link.timing.clone(),
                window: link.window,
                ticks: count,
                wall_max: wall,
                ..Link::default()
            };
        }
    }

    /// A node's log has become durable through this.
    pub(crate) fn durable(&mut self, node: usize, partition: PartitionId, now: u64, lsn: Lsn) {
        let clock = self.clocks.entry(node).or_default();
        let ends = clock.durable.entry(partition).or_default();
        if ends.last().is_none_or(|(_, last)| *last < lsn) {
            ends.push((now, lsn));
        }
    }

    /// A replica has said where it stands, while the log is durable through this.
    pub(crate) fn opened(&mut self, link: LinkOf, incomplete: bool, durable: Lsn) {
        let known = self.links.entry(link).or_default();
        (known.incomplete, known.complete_at) = (incomplete, durable);
    }

    /// A replica has a chunk of a copy, which may be the last one.
    pub(crate) fn copied(&mut self, link: LinkOf, durable: Lsn) {
        self.links.entry(link).or_default().complete_at = durable;
    }

    /// A replica is told that it has all.
    pub(crate) fn follows(&mut self, link: LinkOf) {
        let known = self.links.entry(link).or_default();
        known.incomplete = false;
        known.copy_asked = false;
    }

    /// A copy begins, or goes on.
    pub(crate) fn copies(
        &mut self,
        link: LinkOf,
        goes_on: bool,
        wall: i64,
    ) -> Result<(), Violation> {
        let clock = self.clocks.entry(link.0).or_default();
        let known = self.links.entry(link).or_default();
        let is_windowed = matches!(known.timing, Timing::Windows(_));
        if is_windowed && !clock.has_open(known.window, wall) {
            return broken(link, known, &format!("copies while no window is open at {wall}"));
        }
        let is_delayed = matches!(known.timing, Timing::Delayed(_));
        if is_delayed && !known.incomplete && !known.copy_asked && !goes_on {
            return broken(link, known, "copies to a replica that it is to keep behind");
        }
        // Entries that complete the copy go with it, until the replica is told to follow.
        known.incomplete = true;
        Ok(())
    }

    /// A parcel is sent.
    pub(crate) fn check(&mut self, link: LinkOf, sent: &Sent) -> Result<(), Violation> {
        self.saw(link.0, sent.wall_millis);
        let clock = self.clocks.entry(link.0).or_default();
        let Some(known) = self.links.get_mut(&link) else { return Ok(()) };
        if known.timing == Timing::Immediate {
            return Ok(());
        }
        self.judged += 1;
        let waiting =
            Waiting { after: sent.from, durable: sent.durable, bytes: sent.waiting_bytes };
        known.release(waiting);
        let completes = known.incomplete && sent.to <= known.complete_at;
        if completes || sent.to <= known.triggered {
            return Ok(());
        }
        let what = match &known.timing {
            Timing::Immediate => None,
            Timing::Delayed(by) => {
                let due = sent.newest.map(|hlc| hlc.millis() + by.as_millis() as i64);
                let early = due.is_some_and(|due| due > known.wall_max);
                early.then(|| format!("an entry is due at {due:?}, it is {}", known.wall_max))
            }
            Timing::Interval(every) => {
                let every = (every.as_millis() as i64).max(1);
                clock.why_too_early(link.2, every, known.ticks, sent)
            }
            Timing::Windows(_) => {
                let open = clock.has_open(known.window, sent.wall_millis);
                (!open).then(|| format!("no window is open at {}", sent.wall_millis))
            }
            Timing::Triggered { .. } => {
                let waits = sent.durable.0.saturating_sub(sent.from.0);
                let (bytes, released) = (sent.waiting_bytes, known.released);
                let early = sent.to > released;
                early.then(|| format!("{waits} entries and {bytes} bytes wait, after {released}"))
            }
        };
        match what {
            None => Ok(()),
            Some(what) => broken(link, known, &format!("ships {}..{}: {what}", sent.from, sent.to)),
        }
    }
}

fn broken(link: LinkOf, known: &Link, what: &str) -> Result<(), Violation> {
    let (from, to, partition) = link;
    let timing = &known.timing;
    let what = format!("the link of {partition} from {from} to {to}, {timing:?}, {what}");
    Err(Violation::of(NAME, what))
}

impl Link {
    /// Takes note of what waits while the replica follows: all of it may go if it is enough.
    fn release(&mut self, waiting: Waiting) {
        let Timing::Triggered { entries, bytes } = self.timing else { return };
        let waits = waiting.durable.0.saturating_sub(waiting.after.0);
        let enough = entries.is_some_and(|least| waits >= least)
            || bytes.is_some_and(|least| waiting.bytes >= least);
        if enough {
            self.released = self.released.max(waiting.durable);
        }
    }
}

impl Clock {
    /// Whether a window is open now, or was when the node may have looked last.
    fn has_open(&self, window: Duration, wall: i64) -> bool {
        let lasts = window.as_millis() as i64;
        let mut walls = self.walls.iter().chain([&wall]);
        walls.any(|wall| wall.rem_euclid(MINUTE_MILLIS) < lasts)
    }

    fn tick(&mut self, now_micros: u64, wall: Option<i64>) {
        self.ticks.push_back((now_micros, wall));
        if self.ticks.len() > TICKS_KEPT {
            self.ticks.pop_front();
        }
    }

    /// In an interval that which was durable when it was first looked at is shipped, and nothing
    /// else; nothing at all in the one in which that was asked for.
    fn why_too_early(
        &self,
        partition: PartitionId,
        every: i64,
        asked_at: u64,
        sent: &Sent,
    ) -> Option<String> {
        let interval = sent.wall_millis.div_euclid(every);
        let is_of_now = |wall: &Option<i64>| wall.is_some_and(|w| w.div_euclid(every) == interval);
        let of_now = self.ticks.iter().rev().take_while(|(_, wall)| is_of_now(wall)).count();
        // Before the first tick of an interval it may have been looked at any moment before.
        let first = self.ticks.len().checked_sub(of_now).and_then(|at| self.ticks.get(at))?;
        let since = self.count.saturating_sub(of_now as u64);
        if asked_at > since && of_now < self.ticks.len() {
            return Some("it was asked for in this interval".to_owned());
        }
        let ends = self.durable.get(&partition)?;
        let durable = ends.iter().find(|(_, lsn)| *lsn >= sent.to).map(|(at, _)| *at)?;
        let late = durable > first.0;
        late.then(|| format!("durable at {durable}, looked at {} in this interval", first.0))
    }
}
