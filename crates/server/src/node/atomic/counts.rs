//! How many batches of several partitions were begun here and what became of them, and of intents,
//! since this process serves.

use isthmus_store::counters::Counter;

use super::is_unknown;
use crate::api_error::ApiError;
use crate::peer::batch::BatchDone;
use crate::status::BatchCounts;

/// Who has had an intent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum SettledBy {
    /// The region that writes the anchor, which told it.
    Anchor,
    /// The upkeep of the member, which asked for it: what told it was lost, or late.
    Upkeep,
    /// A person, as no region could tell what became of it.
    Hand,
}

/// What became of a batch, as the region that writes its anchor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Became {
    Made,
    /// Nothing is made of it.
    Refused,
    /// It may be made or not, or not as safely as was asked for.
    Unknown,
}

fn became(done: &Result<BatchDone, ApiError>) -> Became {
    match done {
        Ok(done) => {
            let is_refused = done
                .groups
                .iter()
                .any(|group| !group.refused.is_empty() || group.failure.is_some());
            if is_refused { Became::Refused } else { Became::Made }
        }
        Err(error) if is_unknown(error) => Became::Unknown,
        Err(_) => Became::Refused,
    }
}

/// The counts.
#[derive(Debug, Default)]
pub(in crate::node) struct Counts {
    begun: Counter,
    made: Counter,
    refused: Counter,
    unknown: Counter,
    settled_by_anchor: Counter,
    settled_by_upkeep: Counter,
    settled_by_hand: Counter,
}

impl Counts {
    /// A batch whose anchor is written here is begun.
    pub(super) fn begin(&self) {
        self.begun.one();
    }

    /// That was the answer to it.
    pub(super) fn end(&self, done: &Result<BatchDone, ApiError>) {
        match became(done) {
            Became::Made => self.made.one(),
            Became::Refused => self.refused.one(),
            Became::Unknown => self.unknown.one(),
        }
    }

    /// An intent has ended here.
    pub(super) fn settled(&self, by: SettledBy) {
        match by {
            SettledBy::Anchor => self.settled_by_anchor.one(),
            SettledBy::Upkeep => self.settled_by_upkeep.one(),
            SettledBy::Hand => self.settled_by_hand.one(),
        }
    }

    /// All of them.
    pub(super) fn told(&self) -> BatchCounts {
        BatchCounts {
            begun: self.begun.get(),
            made: self.made.get(),
            refused: self.refused.get(),
            unknown: self.unknown.get(),
            settled_by_anchor: self.settled_by_anchor.get(),
            settled_by_upkeep: self.settled_by_upkeep.get(),
            settled_by_hand: self.settled_by_hand.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use isthmus_protocol::error_code::ErrorCode;

    use super::*;
    use crate::peer::batch::{GroupDone, RowRefused};

    #[test]
    fn each_batch_that_was_begun_is_made_refused_or_unknown() {
        let counts = Counts::default();
        let made = || Ok(BatchDone { groups: vec![GroupDone::default(), GroupDone::default()] });
        let refused = GroupDone { refused: vec![RowRefused::default()], ..GroupDone::default() };
        let answers = [
            made(),
            made(),
            Ok(BatchDone { groups: vec![GroupDone::default(), refused] }),
            Err(ApiError::elsewhere()),
            Err(ApiError::new(ErrorCode::Timeout, "It is not known.")),
        ];
        for answer in &answers {
            counts.begin();
            counts.end(answer);
        }
        counts.settled(SettledBy::Upkeep);
        let told = counts.told();
        assert_eq!((told.begun, told.made, told.refused, told.unknown), (5, 2, 2, 1));
        assert_eq!((told.settled_by_anchor, told.settled_by_upkeep), (0, 1));
    }
}
