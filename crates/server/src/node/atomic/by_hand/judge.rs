//! What people have said, held against what the region that writes the anchor says when it is back.
//!
//! The word counts. Where it was otherwise, the batch is there in part, and an event says so.

use isthmus_model::atomic::{BatchId, Verdict};
use isthmus_store::Table;
use serde_json::json;

use super::look::TELL_WITHIN;
use crate::node::Node;
use crate::node::atomic::words::Word;
use crate::node::events::EventKind;

/// How a batch that was settled as made stands where it was to be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    /// That is not known yet.
    NotYet,
    /// It is decided, or was and all members have been told.
    AsSaid,
    /// No decision of it is kept.
    Otherwise,
}

impl Judged {
    /// `was_told`: it was decided, and that was forgotten when all members had settled it.
    fn of(verdict: Verdict, was_told: bool) -> Judged {
        match verdict {
            Verdict::Open => Judged::NotYet,
            Verdict::Committed => Judged::AsSaid,
            Verdict::Abandoned if was_told => Judged::AsSaid,
            Verdict::Abandoned => Judged::Otherwise,
        }
    }
}

impl Node {
    /// What counts of a batch of which an anchor says, or others have said, what became of it: what
    /// a person has said comes first, and is noticed where it was otherwise.
    pub(in crate::node::atomic) fn outcome_of(
        &self,
        table: &Table,
        id: BatchId,
        told: bool,
    ) -> bool {
        let Some(word) = self.batches.words.of(id) else { return told };
        if word.made != told && self.batches.words.is_first_otherwise(table.id(), id) {
            let name = table.name();
            let text = format!(
                "batch {id} was settled by hand as {}, and the region that writes its anchor, \
                 which is back, says otherwise; see whether rows of {name} are to be put right",
                word.outcome()
            );
            let detail = json!({ "batch": id.to_string(), "settled_as": word.outcome() });
            self.notice(EventKind::BatchSettledOtherwise, name.as_str(), text, detail);
        }
        word.made
    }

    /// Looks whether batches that were settled as made while this region, which writes their
    /// anchors, was away were decided here: as soon as it can say so.
    pub(super) async fn judge_words(&self) {
        for (id, word) in self.batches.words.to_judge() {
            let anchor = self.table_of_line(id.anchor).filter(|anchor| self.may_say(anchor));
            if let Some(anchor) = anchor {
                let told = tokio::time::timeout(TELL_WITHIN, self.verdict(id)).await;
                // Others of the same anchor would be waited for as long.
                let Ok(told) = told else { return };
                let Ok(verdict) = told else { continue };
                match Judged::of(verdict, self.batches.words.was_told(id)) {
                    Judged::NotYet => continue,
                    Judged::AsSaid => {}
                    Judged::Otherwise => self.notice_undecided(&anchor, id, &word),
                }
            }
            if let Err(error) = self.batches.words.judged(&self.store, id).await {
                tracing::warn!(batch = %id, %error, "not noted as looked at");
            }
        }
    }

    fn notice_undecided(&self, anchor: &Table, id: BatchId, word: &Word) {
        let name = anchor.name();
        let text = format!(
            "batch {id} was settled by hand as made, and no decision of it is kept here, where it \
             was to be decided; see whether its rows of {name} are there"
        );
        let detail = json!({ "batch": id.to_string(), "settled_as": word.outcome() });
        self.notice(EventKind::BatchSettledOtherwise, name.as_str(), text, detail);
    }

    /// Another region keeps another word on a batch than the one that is kept here, for good.
    pub(super) fn notice_refused(&self, id: BatchId, word: &Word, region: &str, why: &str) {
        let anchor = self.table_of_line(id.anchor).map(|anchor| anchor.name());
        let anchor = anchor.as_ref().map_or("", |name| name.as_str());
        let text = format!(
            "batch {id} was settled by hand as {} here, and otherwise in {region}, which keeps to \
             that: its members are not alike ({why})",
            word.outcome()
        );
        let detail = json!({ "batch": id.to_string(), "settled_as": word.outcome(),
            "region": region });
        self.notice(EventKind::BatchSettledOtherwise, anchor, text, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_and_forgotten_before_the_word_came_is_as_was_said() {
        assert_eq!(Judged::of(Verdict::Committed, false), Judged::AsSaid);
        assert_eq!(Judged::of(Verdict::Abandoned, true), Judged::AsSaid);
        assert_eq!(Judged::of(Verdict::Abandoned, false), Judged::Otherwise);
        assert_eq!(Judged::of(Verdict::Open, false), Judged::NotYet, "it is looked again");
    }
}
