//! What a region knows of batches in doubt, and how it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::atomic::{BatchId, Verdict};
use isthmus_model::ids::Origin;
use isthmus_store::Table;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{ASK_WITHIN, Ask};
use crate::api_error::ApiError;
use crate::node::atomic::ASKED_AT_ONCE;
use crate::node::atomic::words::Word;
use crate::node::verify::json::key_json;
use crate::node::{Node, Place};
use crate::together::{Piece, together};

/// How long it is waited for what a region says that writes the anchor: less than it is asked for.
pub(super) const TELL_WITHIN: Duration = Duration::from_secs(2);
/// A region that is reached and does not tell is asked again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Intents that one region tells of, the oldest first, keys of each, and bytes of all keys.
const TOLD_MAX: usize = 1_000;
const KEYS_TOLD_MAX: usize = 20;
const KEYS_BYTES_MAX: usize = 512 * 1024;

/// An intent.
#[derive(Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) batch: String,
    pub(super) anchor: String,
    pub(super) table: String,
    pub(super) rows: usize,
    pub(super) waited_ms: u64,
    /// The table is written here, so that it can be settled here.
    pub(super) written: bool,
    /// The first ones, as far as there is room.
    pub(super) keys: Vec<Json>,
}

/// What a region knows.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Looked {
    pub(super) intents: Vec<Seen>,
    /// What was said of the batch that was asked for.
    pub(super) word: Option<Word>,
    /// There is a replica of the anchor.
    pub(super) holds_anchor: bool,
    /// And in its log the batch is decided.
    pub(super) decided: bool,
    /// The quorum could let this region write the anchor.
    pub(super) may_write_anchor: bool,
    /// What the region that writes the anchor says.
    pub(super) verdict: Option<String>,
    /// It writes the anchor, or may find out in a moment that it does, and cannot say now: why.
    #[serde(default)]
    pub(super) says_soon: Option<String>,
    /// Regions that it reaches.
    #[serde(default)]
    pub(super) reaches: BTreeSet<String>,
}

/// What all regions have told.
#[derive(Default)]
pub(super) struct Found {
    pub(super) looked: BTreeMap<String, Looked>,
    /// Regions that are not reached, and why.
    pub(super) unreached: BTreeMap<String, String>,
    /// Regions that are reached and did not tell what they know, and why: they may be able to say
    /// what became of a batch.
    pub(super) silent: BTreeMap<String, String>,
}

impl Node {
    pub(super) async fn look_at_batches(&self, batch: Option<BatchId>) -> Looked {
        let reached = self.others.keys().filter(|region| self.is_reached(region));
        let mut looked = Looked { reaches: reached.cloned().collect(), ..Looked::default() };
        looked.intents = self.intents_seen(batch);
        let Some(id) = batch else { return looked };
        looked.word = self.batches.words.of(id);
        let Some(anchor) = self.table_of_line(id.anchor) else { return looked };
        looked.holds_anchor = true;
        looked.decided = anchor.decided_batch(id).is_some_and(|it| it.lsn <= anchor.durable_lsn());
        looked.may_write_anchor = self.registry().is_some_and(|registry| {
            let known = registry.known();
            let tenure = known.agreed.tenure(anchor.id().0);
            tenure.is_some_and(|tenure| tenure.has_replica(&self.config.region.name))
        });
        if !self.may_say(&anchor) {
            return looked;
        }
        match tokio::time::timeout(TELL_WITHIN, self.verdict(id)).await {
            Ok(Ok(verdict)) => looked.verdict = Some(verdict_word(verdict).to_owned()),
            Ok(Err(error)) => looked.says_soon = Some(error.message),
            Err(_) => {
                let why = "What was prepared before it wrote the table is not settled yet.";
                looked.says_soon = Some(why.to_owned());
            }
        }
        looked
    }

    fn intents_seen(&self, batch: Option<BatchId>) -> Vec<Seen> {
        let now = self.clock.wall_millis();
        let mut found = Vec::new();
        for table in self.store.tables() {
            let intents = table.intents().into_iter();
            let asked = intents.filter(|(id, ..)| batch.is_none_or(|batch| batch == *id));
            found.extend(asked.map(|(id, anchor, rows, since)| {
                (since.millis(), id, anchor, rows, table.clone())
            }));
        }
        found.sort_by_key(|(since, id, ..)| (*since, *id));
        found.truncate(TOLD_MAX);
        let mut room = KEYS_BYTES_MAX;
        let seen = found.into_iter().map(|(since, id, anchor, rows, table)| {
            let schema = table.schema();
            let keys = table.intent(id).map(|(intent, _)| intent.keys).unwrap_or_default();
            let keys = keys.iter().take(KEYS_TOLD_MAX).map(|key| key_json(&schema, key));
            Seen {
                batch: id.to_string(),
                anchor: anchor.as_str().to_owned(),
                table: table.name().as_str().to_owned(),
                rows,
                waited_ms: now.saturating_sub(since).max(0).unsigned_abs(),
                written: self.is_written_here(&table),
                keys: fitting(keys, &mut room),
            }
        });
        seen.collect()
    }

    /// Whether this region writes a table, and has what its disk may have lacked.
    pub(in crate::node::atomic) fn is_written_here(&self, table: &Table) -> bool {
        let place = self.place_of_writes(table.name().as_str());
        matches!(place, Ok(Place::Here(here)) if here.id() == table.id())
            && !self.may_be_put_back(table)
    }

    /// Whether this region is to be waited for, if it cannot say now what became of batches whose
    /// anchor the table is: by its log it writes it or is about to, or its disk may be an old one.
    pub(super) fn may_say(&self, anchor: &Table) -> bool {
        let word = anchor.writer_word();
        let is_next = word.successor == Some(Origin(self.config.region.number));
        !anchor.is_dropped() && (word.accepts || is_next || self.may_be_put_back(anchor))
    }

    /// What all regions know. One that is reached and does not tell is asked again for so long.
    pub(super) async fn look_everywhere(
        self: &Arc<Self>,
        batch: Option<BatchId>,
        patience: Duration,
    ) -> Found {
        let ask = &Ask::Look { batch: batch.map(|id| id.to_string()) };
        let until = self.clock.monotonic() + patience;
        let asking = self.others.keys().map(|region| -> Piece<'_, _> {
            Box::pin(async move { (region, self.look_there(region, ask, until).await) })
        });
        let asking = together(asking.collect(), ASKED_AT_ONCE);
        let (told, own) = tokio::join!(asking, self.look_at_batches(batch));
        let mut found = Found::default();
        found.looked.insert(self.config.region.name.clone(), own);
        for (region, looked) in told {
            match looked {
                Ok(looked) => drop(found.looked.insert(region.clone(), looked)),
                Err((why, true)) => drop(found.silent.insert(region.clone(), why)),
                Err((why, false)) => drop(found.unreached.insert(region.clone(), why)),
            }
        }
        found
    }

    /// What another region knows. An error says why it did not tell, and whether it is reached.
    async fn look_there(
        self: &Arc<Self>,
        region: &str,
        ask: &Ask,
        until: Duration,
    ) -> Result<Looked, (String, bool)> {
        loop {
            let told = self.ask_by_hand(region, ask, ASK_WITHIN).await;
            let looked = told.and_then(|told| {
                serde_json::from_slice::<Looked>(&told).map_err(|_| ApiError::internal())
            });
            let error = match looked {
                Ok(looked) => return Ok(looked),
                Err(error) => error,
            };
            let is_reached = self.is_reached(region);
            if !is_reached || self.clock.monotonic() >= until {
                return Err((error.message, is_reached));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Open => "open",
        Verdict::Committed => "made",
        Verdict::Abandoned => "given up",
    }
}

/// The first ones, as long as there is room for them. What they take is taken from it.
fn fitting(keys: impl Iterator<Item = Json>, room: &mut usize) -> Vec<Json> {
    let fits = |key: &Json| {
        let left = room.checked_sub(key.to_string().len());
        *room = left.unwrap_or(0);
        left.is_some()
    };
    keys.take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_told_as_long_as_there_is_room() {
        let key = || json!("k".repeat(8));
        let mut room = 25;
        assert_eq!(fitting([key(), key(), key()].into_iter(), &mut room).len(), 2);
        assert_eq!(fitting([key()].into_iter(), &mut room).len(), 0, "nor of the next intent");
    }

    #[test]
    fn what_a_region_tells_that_says_less_is_read() {
        let told = r#"{"intents":[],"word":null,"holds_anchor":true,"decided":false,
            "may_write_anchor":false,"verdict":null}"#;
        let looked: Looked = serde_json::from_str(told).unwrap();
        assert!(looked.holds_anchor && looked.says_soon.is_none() && looked.reaches.is_empty());
    }
}
