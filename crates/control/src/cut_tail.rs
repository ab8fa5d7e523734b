//! What a replica remembers of a tail that was cut off its log: whether what others had prepared
//! of it is still known here.
//!
//! The replica may be one of the few that knew of a change which was answered. Who cannot tell of
//! everything that it knew tells a new writer nothing, so that it is not counted among those who
//! were asked.

use isthmus_model::commit::Term;

/// A tail was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutTail {
    /// The epoch that does not go on from it.
    pub epoch: u64,
    /// From where on all that had been prepared was prepared again; `None`: not all of it could be.
    pub again: Option<Place>,
}

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The newest epoch of that log.
    pub log_epoch: u64,
    /// What lies after this entry is meant.
    pub after: u64,
}

impl CutTail {
    /// Whether the replica may lack something, by the term that is settled in its log now.
    /// `is_part`: whether the log of an epoch, through an entry, is part of what the newest epoch
    /// goes on from. That may go on from an earlier entry than the one for which the tail was cut.
    pub fn may_lack(&self, settled: Term, is_part: impl Fn(u64, u64) -> bool) -> bool {
        let is_known = |place: Place| is_part(place.log_epoch, place.after);
        settled.epoch < self.epoch && !self.again.is_some_and(is_known)
    }

    /// What is to be remembered of this tail after an earlier one: what is lacking since then is
    /// not in this one. `may_lack`: as above, of the earlier one.
    pub fn following(self, earlier: Option<CutTail>, may_lack: bool) -> CutTail {
        let is_of_same_log = |earlier: CutTail| {
            let log_epoch = |one: CutTail| one.again.map(|place| place.log_epoch);
            log_epoch(earlier).is_some() && log_epoch(earlier) == log_epoch(self)
        };
        // Of the same log all was prepared again, from an earlier place on.
        match may_lack && !earlier.is_some_and(is_of_same_log) {
            true => CutTail { again: None, ..self },
            false => self,
        }
    }

    /// As it is kept.
    pub fn encode(&self) -> Vec<u8> {
        let place = self.again.map(|place| [place.log_epoch, place.after]);
        let numbers = std::iter::once(self.epoch).chain(place.into_iter().flatten());
        numbers.flat_map(u64::to_be_bytes).collect()
    }

    /// What `encode` gave; of something else it may lack whatever there is.
    pub fn decode(bytes: &[u8]) -> CutTail {
        let number =
            |at: usize| bytes.get(at..)?.first_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes));
        match (bytes.len(), number(0), number(8), number(16)) {
            (24, Some(epoch), Some(log_epoch), Some(after)) => {
                CutTail { epoch, again: Some(Place { log_epoch, after }) }
            }
            // Also from before places were told.
            (8, Some(epoch), ..) => CutTail { epoch, again: None },
            _ => CutTail { epoch: u64::MAX, again: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(epoch: u64, again: Option<(u64, u64)>) -> CutTail {
        CutTail { epoch, again: again.map(|(log_epoch, after)| Place { log_epoch, after }) }
    }

    fn settled(epoch: u64) -> Term {
        Term { epoch, life: 5 }
    }

    #[test]
    fn who_has_prepared_all_again_lacks_nothing_unless_more_is_cut_off_later() {
        let tail = cut(3, Some((2, 70)));
        assert!(!tail.may_lack(settled(2), |log_epoch, after| (log_epoch, after) == (2, 70)));
        // The next epoch goes on from an earlier entry.
        let through_60 = |log_epoch: u64, after: u64| log_epoch == 2 && after <= 60;
        assert!(tail.may_lack(settled(2), through_60));
        // Until everything is settled.
        assert!(!tail.may_lack(settled(3), through_60));
        assert!(cut(3, None).may_lack(settled(2), |_, _| true));
        assert!(!cut(3, None).may_lack(settled(4), |_, _| false));
    }

    #[test]
    fn what_an_earlier_tail_lacks_is_lacking_after_a_later_one() {
        let later = cut(5, Some((4, 90)));
        assert_eq!(later.following(None, false), later);
        assert_eq!(later.following(Some(cut(3, None)), true), cut(5, None));
        assert_eq!(later.following(Some(cut(3, Some((2, 70)))), true), cut(5, None));
        assert_eq!(later.following(Some(cut(3, Some((2, 70)))), false), later);
        // It was noted and not cut off before a still later epoch did not go on from it either.
        assert_eq!(later.following(Some(cut(4, Some((4, 95)))), true), later);
        assert_eq!(cut(5, None).following(Some(cut(4, Some((4, 95)))), true), cut(5, None));
    }

    #[test]
    fn what_is_kept_is_read_and_what_is_older_too() {
        for tail in [cut(3, None), cut(3, Some((2, 70)))] {
            assert_eq!(CutTail::decode(&tail.encode()), tail);
        }
        assert_eq!(CutTail::decode(&7_u64.to_be_bytes()), cut(7, None));
        assert_eq!(CutTail::decode(b"what"), cut(u64::MAX, None));
    }
}
