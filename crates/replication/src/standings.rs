//! How all replicas of a partition stand, told from region to region along edges.
//!
//! Regions that no link joins still need to know of each other: how far each has come, so that
//! logs are kept for all of them and people see it; below which moment an origin makes nothing
//! more, and what each replica has, so that tombstones are forgotten in time and not too early.
//! Each region tells this of itself once a second and passes on what it has heard; the newest
//! word of a region counts. Of a neighbour only its own word does: one that lost its disk and is
//! copied from here must not be known by what it had before.

use std::collections::{BTreeMap, VecDeque};

use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Lsn, Origin, PartitionId};
use isthmus_store::{Table, Watermark};
use parking_lot::Mutex;

use crate::frame::{self, Standing};
use crate::horizon::SafeTimes;
use crate::limits::PLACES_KEPT_MAX;

#[derive(Debug, Default)]
struct Known {
    /// The newest word of each region, this one's too.
    regions: BTreeMap<Origin, Standing>,
    /// By origin: the promise that is to be reached here, and the LSN where it is.
    awaited: BTreeMap<Origin, (Hlc, Lsn)>,
    /// What this region promised in the first word of this life.
    first: Option<Hlc>,
    /// Places in the log here, and what of each origin lies before them.
    places: VecDeque<(Lsn, BTreeMap<Origin, Lsn>)>,
}

/// What this node knows of how replicas stand. Shared by all links.
#[derive(Debug, Default)]
pub struct Standings {
    partitions: Mutex<BTreeMap<PartitionId, Known>>,
}

/// What a region tells of its replica beside what the table itself says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnWord {
    /// It makes nothing below this any more; taken before the table was looked at.
    pub promise: Hlc,
    /// It has all that was there when it was made.
    pub is_complete: bool,
    /// The other regions that write the partition; none with one writer.
    pub other_writers: Vec<Origin>,
    /// Regions that it feeds and that know nothing of the table.
    pub unassigned: Vec<Origin>,
}

impl Standings {
    /// Takes note of how the replica here stands.
    pub fn tell(&self, own: Origin, table: &Table, word: &OwnWord, safe_times: &SafeTimes) {
        let partition = table.partition();
        let many = table.spec().writers.are_many();
        let vector = table.vector();
        let mut partitions = self.partitions.lock();
        let known = partitions.entry(partition).or_default();
        if many {
            known.reach_promises(partition, &vector, safe_times);
            known.note_place(own, &vector, table.log_start());
        }
        let safe = match many && word.is_complete {
            true => safe_times.safe(partition, &word.other_writers, word.promise),
            false => Hlc::MIN,
        };
        let standing = Standing {
            partition: partition.0,
            region: u32::from(own.0),
            promise: word.promise.0,
            safe: safe.0,
            is_complete: word.is_complete,
            held: vector.iter().map(frame::Watermark::from).collect(),
            unassigned: word.unassigned.iter().map(|region| u32::from(region.0)).collect(),
        };
        let first = *known.first.get_or_insert(word.promise);
        let before = known.regions.get(&own);
        if before.is_none_or(|before| many || is_news(first, before, &standing)) {
            known.regions.insert(own, standing);
        }
    }

    /// Takes in what a region is said to have told. Older words than the known one are ignored.
    pub fn hear(&self, standing: Standing, safe_times: &SafeTimes) {
        let partition = PartitionId(standing.partition);
        let region = Origin(standing.region as u8);
        let mut partitions = self.partitions.lock();
        let known = partitions.entry(partition).or_default();
        if known.regions.get(&region).is_some_and(|k| k.promise >= standing.promise) {
            return;
        }
        let end = standing.held.iter().find(|mark| mark.origin == standing.region);
        if let Some(end) = end {
            let promise = (Hlc(standing.promise), Lsn(end.lsn));
            known.awaited.entry(region).or_insert(promise);
        }
        safe_times.told(partition, region, Hlc(standing.safe));
        known.regions.insert(region, standing);
    }

    /// The newest word of a region.
    pub fn of(&self, partition: PartitionId, region: Origin) -> Option<Standing> {
        self.partitions.lock().get(&partition)?.regions.get(&region).cloned()
    }

    /// Whether any region says that this one knows nothing of the table.
    pub fn is_unassigned(&self, partition: PartitionId, region: Origin) -> bool {
        let partitions = self.partitions.lock();
        let mut words =
            partitions.get(&partition).into_iter().flat_map(|known| known.regions.values());
        words.any(|word| word.unassigned.contains(&u32::from(region.0)))
    }

    /// Words that are newer than what was told, which is kept by region; not those of `peer`.
    pub(crate) fn newer(
        &self,
        partition: PartitionId,
        told: &mut BTreeMap<Origin, u64>,
        peer: Origin,
    ) -> Vec<Standing> {
        let partitions = self.partitions.lock();
        let Some(known) = partitions.get(&partition) else { return Vec::new() };
        let mut newer = Vec::new();
        for (region, word) in known.regions.iter().filter(|(region, _)| **region != peer) {
            if told.insert(*region, word.promise) != Some(word.promise) {
                newer.push(word.clone());
            }
        }
        newer
    }

    /// All of these replicas hold the log here through this LSN, as far as they have told;
    /// `None`: one has not.
    pub fn held_by(&self, own: Origin, table: &Table, replicas: &[Origin]) -> Option<Lsn> {
        let partitions = self.partitions.lock();
        let known = partitions.get(&table.partition())?;
        let mut least: BTreeMap<Origin, Lsn> = BTreeMap::new();
        let mut end = table.durable_lsn();
        for replica in replicas {
            let word = known.regions.get(replica)?;
            for mark in &word.held {
                let origin = Origin(mark.origin as u8);
                if origin == *replica {
                    end = end.min(Lsn(mark.lsn));
                    continue;
                }
                let held = least.entry(origin).or_insert(Lsn(mark.lsn));
                *held = Lsn(mark.lsn).min(*held);
            }
            // Who is not named was never heard from there.
            for origin in replicas.iter().chain([&own]).filter(|origin| *origin != replica) {
                if !word.held.iter().any(|mark| mark.origin == u32::from(origin.0)) {
                    least.insert(*origin, Lsn(0));
                }
            }
        }
        if !table.spec().writers.are_many() {
            return Some(end);
        }
        Some(known.place_within(|origin| least.get(&origin).copied()).unwrap_or(table.log_start()))
    }

    /// The last known place in the log here before which nothing lies of these origins that is
    /// not held; `None`: no place is known.
    pub(crate) fn place(
        &self,
        partition: PartitionId,
        origins: &[Origin],
        held: &BTreeMap<Origin, (Lsn, Hlc)>,
    ) -> Option<Lsn> {
        let partitions = self.partitions.lock();
        partitions.get(&partition)?.place_within(|origin| {
            let held = held.get(&origin).map_or(Lsn(0), |(lsn, _)| *lsn);
            origins.contains(&origin).then_some(held)
        })
    }

    /// Nothing is passed on any more.
    pub fn forget(&self, partition: PartitionId) {
        self.partitions.lock().remove(&partition);
    }
}

/// Whether a word is to be told, with one writer. There nobody waits for promises, and an idle
/// table is not talked about. But a new life may begin with the promise that the one before has
/// told last, and what is no newer is not heard: so it goes on until it has promised more.
fn is_news(first: Hlc, before: &Standing, standing: &Standing) -> bool {
    let is_sure = Hlc(before.promise) > first;
    let is_more = standing.promise > before.promise;
    !is_sure && is_more || Standing { promise: before.promise, ..standing.clone() } != *before
}

impl Known {
    /// Takes note of promises whose entries are all here.
    fn reach_promises(
        &mut self,
        partition: PartitionId,
        vector: &[Watermark],
        safe_times: &SafeTimes,
    ) {
        for mark in vector {
            let Some((promise, end)) = self.awaited.get(&mark.origin).copied() else { continue };
            if mark.lsn < end {
                continue;
            }
            safe_times.applied(partition, mark.origin, promise);
            // The next one to wait for is the newest.
            let word = self.regions.get(&mark.origin);
            let newest = word.and_then(|word| {
                let end = word.held.iter().find(|held| held.origin == word.region)?;
                Some((Hlc(word.promise), Lsn(end.lsn)))
            });
            match newest.filter(|(newest, _)| *newest > promise) {
                Some((newest, end)) if mark.lsn >= end => {
                    safe_times.applied(partition, mark.origin, newest);
                    self.awaited.remove(&mark.origin);
                }
                Some(later) => drop(self.awaited.insert(mark.origin, later)),
                None => drop(self.awaited.remove(&mark.origin)),
            }
        }
    }

    fn note_place(&mut self, own: Origin, vector: &[Watermark], log_start: Lsn) {
        let Some(end) = vector.iter().find(|mark| mark.origin == own).map(|mark| mark.lsn) else {
            return;
        };
        let marks = vector.iter().map(|mark| (mark.origin, mark.lsn)).collect();
        match self.places.back_mut().filter(|(last, _)| *last == end) {
            // What moved without an entry here lies before it as well.
            Some(last) => last.1 = marks,
            None => self.places.push_back((end, marks)),
        }
        while self.places.get(1).is_some_and(|(lsn, _)| *lsn <= log_start) {
            self.places.pop_front();
        }
        if self.places.len() > PLACES_KEPT_MAX {
            let mut number = 0;
            self.places.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
    }

    /// The last place before which nothing lies beyond these bounds.
    fn place_within(&self, bound: impl Fn(Origin) -> Option<Lsn>) -> Option<Lsn> {
        let fits = |marks: &BTreeMap<Origin, Lsn>| {
            marks.iter().all(|(origin, lsn)| bound(*origin).is_none_or(|bound| *lsn <= bound))
        };
        self.places.iter().rev().find(|(_, marks)| fits(marks)).map(|(lsn, _)| *lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: PartitionId = PartitionId(1);

    fn word(region: u32, promise: u64, safe: u64, unassigned: &[u32]) -> Standing {
        let unassigned = unassigned.to_vec();
        Standing { partition: HERE.0, region, promise, safe, unassigned, ..Standing::default() }
    }

    #[test]
    fn the_newest_word_of_a_region_counts_even_if_it_says_less() {
        let (standings, times) = (Standings::default(), SafeTimes::default());
        standings.hear(word(3, 20, 15, &[]), &times);
        assert_eq!(times.horizon(HERE, &[], Hlc(100)), Hlc(100));
        standings.hear(word(3, 10, 90, &[4]), &times);
        assert_eq!(standings.of(HERE, Origin(3)), Some(word(3, 20, 15, &[])));
        assert!(!standings.is_unassigned(HERE, Origin(4)));
        // It lost its disk and is copied.
        standings.hear(word(3, 30, 0, &[4]), &times);
        assert!(standings.is_unassigned(HERE, Origin(4)));
        times.applied(HERE, Origin(3), Hlc(50));
        assert_eq!(times.horizon(HERE, &[Origin(3)], Hlc(100)), Hlc::MIN);
    }

    #[test]
    fn each_word_is_passed_on_once_and_not_to_whom_it_is_about() {
        let (standings, times) = (Standings::default(), SafeTimes::default());
        standings.hear(word(3, 20, 15, &[]), &times);
        standings.hear(word(2, 20, 15, &[]), &times);
        let mut told = BTreeMap::new();
        assert_eq!(standings.newer(HERE, &mut told, Origin(2)), [word(3, 20, 15, &[])]);
        assert_eq!(standings.newer(HERE, &mut told, Origin(2)), []);
        standings.hear(word(3, 21, 16, &[]), &times);
        assert_eq!(standings.newer(HERE, &mut told, Origin(2)), [word(3, 21, 16, &[])]);
    }

    #[test]
    fn places_are_found_by_what_lies_before_them() {
        let mut known = Known::default();
        let mark = |origin: u8, lsn: u64| Watermark {
            origin: Origin(origin),
            lsn: Lsn(lsn),
            hlc: Hlc::MIN,
        };
        for (own, other) in [(5, 10), (5, 12), (9, 20), (30, 40)] {
            known.note_place(Origin(1), &[mark(1, own), mark(2, other)], Lsn(0));
        }
        let within =
            |bound: u64| known.place_within(|origin| (origin == Origin(2)).then_some(Lsn(bound)));
        assert_eq!(within(11), None);
        assert_eq!(within(12), Some(Lsn(5)));
        assert_eq!(within(39), Some(Lsn(9)));
    }

    #[test]
    fn a_new_life_is_heard_though_it_begins_with_the_promise_of_the_one_before() {
        let (standings, times) = (Standings::default(), SafeTimes::default());
        let held = |lsn| vec![frame::Watermark { origin: 3, lsn, hlc: lsn, life: 0 }];
        let word = |promise, lsn| Standing { held: held(lsn), ..word(3, promise, 0, &[]) };
        let heard = || standings.of(HERE, Origin(3)).unwrap().held[0].lsn;
        standings.hear(word(70, 1), &times);
        // It starts again, takes what it lacks and is idle from then on.
        let (first, all) = (word(70, 1), word(70, 4));
        assert!(is_news(Hlc(70), &first, &all));
        standings.hear(all.clone(), &times);
        assert_eq!(heard(), 1);
        assert!(!is_news(Hlc(70), &all, &word(70, 4)));
        let later = word(71, 4);
        assert!(is_news(Hlc(70), &all, &later));
        standings.hear(later.clone(), &times);
        assert_eq!(heard(), 4);
        assert!(!is_news(Hlc(70), &later, &word(99, 4)));
        assert!(is_news(Hlc(70), &later, &word(99, 5)));
    }
}
