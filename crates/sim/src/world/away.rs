//! A region is away for a simulated week while the others go on: what they keep for it is bounded,
//! and when it is back it is made like the others, with nothing of what was deleted.
//!
//! Time moves in steps of twenty minutes, of which one second is lived through.

use std::collections::BTreeMap;

use isthmus_model::ids::{Lsn, PartitionId};
use isthmus_store::engine::Space;
use isthmus_store::keys;
use isthmus_store::limits::FORGET_STEP;

use super::events::Event;
use super::{Phase, QUIET_EVERY, World};
use crate::checkers::Violation;

const NAME: &str = "what is kept for a region that is away is bounded";
/// The region that is away.
const AWAY: usize = 2;
const STEP_MICROS: u64 = 1200 * 1_000_000;
const LIVED_MICROS: u64 = 1_000_000;
const STEPS_OF_A_DAY: u64 = 72;
const DAYS: u64 = 7;
/// What a kind of record may take more in the last three days than in the three after the first,
/// whatever the order of things brings.
const SLACK_BYTES: u64 = 4096;

/// What a region keeps.
#[derive(Clone, Debug, Default)]
struct Kept {
    /// Bytes on its disk, by space and kind of record.
    disk: BTreeMap<(u8, u8), u64>,
    /// Of change logs.
    log_bytes: u64,
    /// Of digests, in memory.
    digest_bytes: u64,
}

impl Kept {
    /// The most of both.
    fn most(&mut self, other: &Kept) {
        for (kind, bytes) in &other.disk {
            let most = self.disk.entry(*kind).or_default();
            *most = (*most).max(*bytes);
        }
        self.log_bytes = self.log_bytes.max(other.log_bytes);
        self.digest_bytes = self.digest_bytes.max(other.digest_bytes);
    }
}

impl World {
    pub(super) fn run_away(&mut self) -> Result<(), Violation> {
        self.boot();
        let begins = self.nature.chaos_micros;
        if !self.go_on(begins)? {
            return Ok(());
        }
        self.phase = Phase::Drain;
        if !self.drain()? {
            return Ok(());
        }
        self.compare(false)?;
        self.phase = Phase::Chaos;
        self.soon(30_000, Event::Client);
        self.away = Some(AWAY);
        self.crash(AWAY);
        let (mut early, mut late) = (Kept::default(), Kept::default());
        for step in 0..DAYS * STEPS_OF_A_DAY {
            let then = self.now() + LIVED_MICROS;
            if !self.go_on(then)? {
                return Ok(());
            }
            self.jump(STEP_MICROS);
            let day = step / STEPS_OF_A_DAY;
            for node in (0..self.nature.regions).filter(|node| *node != AWAY) {
                let kept = self.kept(node);
                self.check_log(node, &kept)?;
                self.check_given_back(node)?;
                match day {
                    1..=3 => early.most(&kept),
                    4.. => late.most(&kept),
                    _ => {}
                }
            }
        }
        self.note(&format!("kept in days 2 to 4 at most {early:?}, in days 5 to 7 {late:?}"));
        check_growth(&early, &late)?;
        self.away = None;
        self.heal();
        if !self.drain()? {
            return Ok(());
        }
        self.compare(false)?;
        self.sweep_all()
    }

    /// Time passes in which nothing happens.
    pub(super) fn jump(&mut self, micros: u64) {
        let now = self.now();
        let waiting = std::mem::take(&mut self.queue);
        for ((at, number), event) in waiting {
            self.queue.insert((at.max(now) + micros, number), event);
        }
        self.time.advance(now + micros);
    }

    /// Lets happen what happens until all is answered, shipped and trimmed.
    pub(super) fn drain(&mut self) -> Result<bool, Violation> {
        let deadline = self.now() + super::DRAIN_MICROS_MAX;
        loop {
            let then = self.now() + QUIET_EVERY;
            if !self.go_on(then)? {
                return Ok(false);
            }
            match self.is_quiet() {
                Ok(()) => return Ok(true),
                Err(waits) if self.now() > deadline => {
                    return Err(Violation::of("what is healed gets on", waits));
                }
                Err(_) => {}
            }
        }
    }

    fn kept(&self, node: usize) -> Kept {
        let mut kept = Kept::default();
        let Some(place) = self.nodes.get(node) else { return kept };
        for (space, key, bytes) in place.disk.sizes() {
            let kind = key.first().copied().unwrap_or_default();
            *kept.disk.entry((space_number(space), kind)).or_default() += bytes;
        }
        for table in place.life.iter().flat_map(|life| life.store.tables()) {
            kept.log_bytes += table.log_size().bytes;
            if let Ok(view) = table.digest_view() {
                kept.digest_bytes += view.tree().memory_bytes() as u64;
            }
        }
        kept
    }

    /// Logs are within their budget, but for the last step in which they are cut.
    fn check_log(&self, node: usize, kept: &Kept) -> Result<(), Violation> {
        let Some(retention) = self.nature.retention else { return Ok(()) };
        let entries = FORGET_STEP * self.nature.tables.len() as u64;
        let most = retention.keep_bytes.saturating_mul(2) + entries * ENTRY_BYTES_MAX;
        match kept.log_bytes > most {
            true => {
                let what = format!("node {node} keeps {} bytes of logs", kept.log_bytes);
                Err(Violation::of(NAME, what))
            }
            false => Ok(()),
        }
    }

    /// What is trimmed of a log is given back in steps of so many entries, by whole records.
    fn check_given_back(&self, node: usize) -> Result<(), Violation> {
        let Some(place) = self.nodes.get(node) else { return Ok(()) };
        let mut records: BTreeMap<PartitionId, Vec<Lsn>> = BTreeMap::new();
        for (space, key, _) in place.disk.sizes() {
            if space == Space::Log
                && let Ok((partition, first)) = keys::log::decode_key(&key)
            {
                records.entry(partition).or_default().push(first);
            }
        }
        for table in place.life.iter().flat_map(|life| life.store.tables()) {
            let firsts = records.get(&table.partition()).map_or(&[][..], Vec::as_slice);
            if is_kept_too_long(firsts, table.log_start()) {
                let (name, start) = (table.name(), table.log_start());
                let what = format!("the log of {name} at node {node} begins after {start}");
                return Err(Violation::of(
                    NAME,
                    format!("{what}, and {:?} are kept", firsts.get(..2)),
                ));
            }
        }
        Ok(())
    }
}

/// Whether the oldest of the log records that begin at these entries should have been given back.
fn is_kept_too_long(firsts: &[Lsn], log_start: Lsn) -> bool {
    // The oldest ends before the next one.
    let next = firsts.get(1);
    next.is_some_and(|next| log_start.next() >= Lsn(next.0 + FORGET_STEP))
}

/// Of an entry that clients of the simulation make, about.
const ENTRY_BYTES_MAX: u64 = 300;

fn space_number(space: Space) -> u8 {
    match space {
        Space::Rows => 0,
        Space::Log => 1,
        Space::Meta => 2,
    }
}

fn check_growth(early: &Kept, late: &Kept) -> Result<(), Violation> {
    let grows = |before: u64, after: u64| after > before + before / 2 + SLACK_BYTES;
    let grown = |what: String| Err(Violation::of(NAME, format!("{what} grows and grows")));
    for (kind, after) in &late.disk {
        let before = early.disk.get(kind).copied().unwrap_or_default();
        if grows(before, *after) && !has_bound(*kind) {
            return grown(format!("kind {kind:?} on the disk, {before} and then {after} bytes,"));
        }
    }
    if grows(early.digest_bytes, late.digest_bytes) {
        let (before, after) = (early.digest_bytes, late.digest_bytes);
        return grown(format!("the memory of digests, {before} and then {after} bytes,"));
    }
    Ok(())
}

/// Whether a kind of record has a bound of its own: conflicts, 10 000 and 16 MiB of a table, which
/// a week of so few writes does not reach; and records of logs, which are looked at one by one.
fn has_bound(kind: (u8, u8)) -> bool {
    [conflicts(), log_records()].contains(&kind)
}

fn conflicts() -> (u8, u8) {
    let (first, _) = keys::conflict::range(PartitionId(0));
    (space_number(Space::Meta), first.first().copied().unwrap_or_default())
}

fn log_records() -> (u8, u8) {
    let key = keys::log::encode_key(PartitionId(0), Lsn(0));
    (space_number(Space::Log), key.first().copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(bytes: u64, digest_bytes: u64) -> Kept {
        Kept {
            disk: [
                ((0, 1), bytes),
                (conflicts(), digest_bytes * 9),
                (log_records(), digest_bytes * 9),
            ]
            .into(),
            log_bytes: 0,
            digest_bytes,
        }
    }

    #[test]
    fn what_grows_and_grows_is_seen() {
        assert!(check_growth(&kept(10_000, 10_000), &kept(12_000, 12_000)).is_ok());
        assert!(check_growth(&kept(10_000, 10_000), &kept(30_000, 12_000)).is_err());
        assert!(check_growth(&kept(10_000, 10_000), &kept(12_000, 30_000)).is_err());
    }

    #[test]
    fn a_record_that_should_have_been_given_back_is_seen() {
        let firsts = [Lsn(1), Lsn(11), Lsn(5000)];
        assert!(!is_kept_too_long(&firsts, Lsn(10 + FORGET_STEP - 1)));
        assert!(is_kept_too_long(&firsts, Lsn(10 + FORGET_STEP)));
        // Nobody knows where the only one ends.
        assert!(!is_kept_too_long(&firsts[..1], Lsn(9000)));
    }
}
