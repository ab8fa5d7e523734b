//! Batches that a person settles, since the region that could tell what became of them is lost.
//!
//! A person says of a batch that it is made or given up, in all members alike. That is refused
//! where anybody can still tell, or could if another region wrote the anchor. The word is kept in
//! every region (`words.rs`), told to those that come back, and counts before what an anchor says
//! that comes back with another one.

mod known;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::agreed::Command;
use isthmus_control::distribution::partition_named;
use isthmus_model::atomic::{BatchId, Verdict};
use isthmus_store::Table;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use self::known::{check, known, members, refused, risk, said_before};
use super::ASKED_AT_ONCE;
use super::counts::SettledBy;
use super::member::SETTLE_WITHIN;
use super::words::Word;
use crate::api_error::ApiError;
use crate::node::events::EventKind;
use crate::node::verify::json::key_json;
use crate::node::{Node, Place};
use crate::peer::batch::ByHand;
use crate::peer::call::Question;
use crate::together::{Piece, together};

/// How long other regions are asked.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// Intents that one region tells of, the oldest first, and keys of each.
const TOLD_MAX: usize = 1_000;
const KEYS_TOLD_MAX: usize = 20;
/// Bytes of a name and of a reason.
const TEXT_BYTES_MAX: usize = 200;

/// What regions ask each other about it, in JSON.
#[derive(Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
enum Ask {
    /// What is known of batches in doubt; of this one, if one is named.
    Look { batch: Option<String> },
    /// A person has said this of a batch.
    Word { batch: String, word: Word },
}

/// An intent.
#[derive(Serialize, Deserialize)]
struct Seen {
    batch: String,
    anchor: String,
    table: String,
    rows: usize,
    waited_ms: u64,
    /// The table is written here, so that it can be settled here.
    written: bool,
    keys: Vec<Json>,
}

/// What a region knows.
#[derive(Default, Serialize, Deserialize)]
struct Looked {
    intents: Vec<Seen>,
    /// What was said of the batch that was asked for.
    word: Option<Word>,
    /// There is a replica of the anchor.
    holds_anchor: bool,
    /// And in its log the batch is decided.
    decided: bool,
    /// The quorum could let this region write the anchor.
    may_write_anchor: bool,
    /// What the region that writes the anchor says.
    verdict: Option<String>,
}

/// What became of a member.
#[derive(Serialize, Deserialize)]
struct Settled {
    table: String,
    rows: usize,
    done: bool,
    why: Option<String>,
}

/// What a person asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    batch: String,
    made: bool,
    who: String,
    why: String,
    /// Nothing is done; what is known is told.
    #[serde(default)]
    dry_run: bool,
}

type Found = (BTreeMap<String, Looked>, BTreeMap<String, String>);

impl Node {
    /// The batches that are in doubt in any region that is reached.
    pub async fn batches_json(self: &Arc<Self>) -> Result<Json, ApiError> {
        let (looked, unreached) = self.look_everywhere(None).await;
        let mut by_batch: BTreeMap<&str, Vec<(&str, &Seen)>> = BTreeMap::new();
        for (region, looked) in &looked {
            for seen in &looked.intents {
                by_batch.entry(&seen.batch).or_default().push((region, seen));
            }
        }
        let batches = by_batch.into_iter().map(|(batch, seen)| {
            let waited = seen.iter().map(|(_, seen)| seen.waited_ms).max();
            let anchor = seen.first().map(|(_, seen)| seen.anchor.as_str());
            json!({
                "batch": batch,
                "anchor": anchor,
                "waited_ms": waited,
                "members": members(seen.into_iter()),
            })
        });
        Ok(json!({ "batches": batches.collect::<Vec<_>>(), "unreached": unreached }))
    }

    /// Settles a batch as a person says. `body` is the JSON of what is asked for.
    pub async fn settle_by_hand(self: &Arc<Self>, body: &[u8]) -> Result<Json, ApiError> {
        let asked: Asked = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid(format!("The request cannot be read: {error}.")))?;
        if asked.who.len().max(asked.why.len()) > TEXT_BYTES_MAX {
            return Err(ApiError::invalid(format!(
                "Who and why have at most {TEXT_BYTES_MAX} bytes."
            )));
        }
        let id = asked.batch.parse::<BatchId>();
        let id = id.map_err(|error| ApiError::invalid(format!("{error}.")))?;
        let (looked, unreached) = self.look_everywhere(Some(id)).await;
        let anchor = check(id, asked.made, &looked)?;
        let is_known = self.knows_maker_of(id.anchor) && partition_named(&anchor).is_none();
        let holds_none = !looked.values().any(|looked| looked.holds_anchor);
        if unreached.is_empty() && holds_none && is_known {
            return Err(refused(
                "No region has its anchor any more, and all were reached: it is given up by \
                 itself within some ten seconds.",
            ));
        }
        let seen = looked.iter().flat_map(|(region, looked)| {
            looked.intents.iter().map(move |seen| (region.as_str(), seen))
        });
        let told = json!({
            "batch": asked.batch,
            "anchor": anchor,
            "made": asked.made,
            "members": members(seen),
            "unreached": unreached,
            "known": known(&anchor, &looked, &unreached),
            "risk": risk(asked.made, &anchor),
        });
        if asked.dry_run {
            return Ok(told);
        }
        let word = Word {
            made: asked.made,
            who: asked.who,
            why: asked.why,
            at_millis: self.clock.wall_millis().unsigned_abs(),
            left: BTreeSet::new(),
        };
        self.audit_word(&asked.batch, &anchor, &word).await?;
        self.spread_word(id, word, told).await
    }

    /// What is asked about batches that people settle. Another region asks.
    pub(in crate::node) async fn on_by_hand(
        self: &Arc<Self>,
        asked: ByHand,
    ) -> Result<Bytes, ApiError> {
        let damaged = |_| ApiError::invalid("The question cannot be read.");
        let ask: Ask = serde_json::from_slice(&asked.asked).map_err(damaged)?;
        let id_of = |text: &str| text.parse::<BatchId>();
        let told = match ask {
            Ask::Look { batch } => {
                let id = batch.as_deref().map(id_of).transpose();
                let id = id.map_err(|_| ApiError::invalid("A batch has no name."))?;
                serde_json::to_vec(&self.look_at_batches(id).await)
            }
            Ask::Word { batch, word } => {
                let id = id_of(&batch).map_err(|_| ApiError::invalid("A batch has no name."))?;
                serde_json::to_vec(&self.take_word(id, word).await?)
            }
        };
        Ok(told.map_err(|_| ApiError::internal())?.into())
    }

    /// Tells regions that were away what people have said of batches.
    pub(super) async fn tell_words(self: &Arc<Self>) {
        for (id, word) in self.batches.words.to_tell() {
            for region in word.left.iter().filter(|region| self.is_reached(region)) {
                let word = Word { left: BTreeSet::new(), ..word.clone() };
                match self.ask_by_hand(region, &Ask::Word { batch: id.to_string(), word }).await {
                    Ok(_) => {
                        if let Err(error) = self.batches.words.told(&self.store, id, region).await {
                            tracing::warn!(batch = %id, region, %error, "not noted as told");
                        }
                    }
                    Err(error) => {
                        tracing::info!(batch = %id, region, %error, "a word is not told yet");
                    }
                }
            }
        }
    }

    /// The region that writes the anchor says what became of a batch; a person may have said
    /// otherwise while it was away. Gives what counts.
    pub(super) fn outcome_of(&self, table: &Table, id: BatchId, told: bool) -> bool {
        let Some(word) = self.batches.words.of(id) else { return told };
        if word.made != told && self.batches.upkeep.lock().is_first_notice(table.id(), id) {
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

    async fn look_at_batches(&self, batch: Option<BatchId>) -> Looked {
        let mut looked = Looked::default();
        let now = self.clock.wall_millis();
        for table in self.store.tables() {
            let written = self.is_written_here(&table);
            let (schema, name) = (table.schema(), table.name());
            for (id, anchor, rows, since) in table.intents() {
                if batch.is_some_and(|batch| batch != id) || looked.intents.len() >= TOLD_MAX {
                    continue;
                }
                let keys = table.intent(id).map(|(intent, _)| intent.keys).unwrap_or_default();
                let keys = keys.iter().take(KEYS_TOLD_MAX).map(|key| key_json(&schema, key));
                looked.intents.push(Seen {
                    batch: id.to_string(),
                    anchor: anchor.as_str().to_owned(),
                    table: name.as_str().to_owned(),
                    rows,
                    waited_ms: now.saturating_sub(since.millis()).max(0).unsigned_abs(),
                    written,
                    keys: keys.collect(),
                });
            }
        }
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
        looked.verdict = self.verdict(id).await.ok().map(|verdict| {
            let word = match verdict {
                Verdict::Open => "open",
                Verdict::Committed => "made",
                Verdict::Abandoned => "given up",
            };
            word.to_owned()
        });
        looked
    }

    /// Whether this region writes a table, and has what its disk may have lacked.
    pub(super) fn is_written_here(&self, table: &Table) -> bool {
        let place = self.place_of_writes(table.name().as_str());
        matches!(place, Ok(Place::Here(here)) if here.id() == table.id())
            && !self.may_be_put_back(table)
    }

    async fn ask_by_hand(self: &Arc<Self>, region: &str, ask: &Ask) -> Result<Bytes, ApiError> {
        let asked = serde_json::to_vec(ask).map_err(|_| ApiError::internal())?.into();
        self.ask_region(region, Question::ByHand(ByHand { asked }), ASK_WITHIN).await
    }

    /// What all regions know that are reached, and why the others are not.
    async fn look_everywhere(self: &Arc<Self>, batch: Option<BatchId>) -> Found {
        let ask = &Ask::Look { batch: batch.map(|id| id.to_string()) };
        let asking = self.others.keys().map(|region| -> Piece<'_, _> {
            Box::pin(async move {
                let told = self.ask_by_hand(region, ask).await;
                let looked = told.and_then(|told| {
                    serde_json::from_slice::<Looked>(&told).map_err(|_| ApiError::internal())
                });
                (region.clone(), looked)
            })
        });
        let told = together(asking.collect(), ASKED_AT_ONCE).await;
        let mut found = Found::default();
        found.0.insert(self.config.region.name.clone(), self.look_at_batches(batch).await);
        for (region, looked) in told {
            match looked {
                Ok(looked) => drop(found.0.insert(region, looked)),
                Err(error) => drop(found.1.insert(region, error.message)),
            }
        }
        found
    }

    /// Where regions decide together, nothing is settled by hand that is not in the audit.
    async fn audit_word(&self, batch: &str, anchor: &str, word: &Word) -> Result<(), ApiError> {
        if self.registry().is_none() {
            return Ok(());
        }
        let what = format!(
            "batch {batch}, which {anchor} decides, is settled by hand as {}: {}",
            word.outcome(),
            word.why
        );
        let (who, at_millis) = (word.who.clone(), word.at_millis);
        self.note_in_audit(Command::Note { who, what, at_millis }).await
    }

    /// Keeps a word here, tells it to all regions that are reached, and to the others later.
    async fn spread_word(
        self: &Arc<Self>,
        id: BatchId,
        word: Word,
        known: Json,
    ) -> Result<Json, ApiError> {
        let own = &self.config.region.name;
        let left = self.others.keys().cloned().collect();
        let kept = Word { left, ..word.clone() };
        let mut settled = BTreeMap::from([(own.clone(), self.take_word(id, kept).await?)]);
        let ask = &Ask::Word { batch: id.to_string(), word };
        let asking = self.others.keys().map(|region| -> Piece<'_, _> {
            Box::pin(async move { (region.clone(), self.ask_by_hand(region, ask).await) })
        });
        let mut failed = BTreeMap::new();
        for (region, told) in together(asking.collect(), ASKED_AT_ONCE).await {
            match told {
                Ok(told) => {
                    self.batches.words.told(&self.store, id, &region).await?;
                    let told = serde_json::from_slice(&told).map_err(|_| ApiError::internal())?;
                    settled.insert(region, told);
                }
                Err(error) => drop(failed.insert(region, error.message)),
            }
        }
        let mut known = known;
        let settled = settled.into_iter().flat_map(|(region, settled)| {
            settled.into_iter().map(move |one| {
                let (table, rows, done, why) = (one.table, one.rows, one.done, one.why);
                json!({ "region": region, "table": table, "rows": rows, "done": done, "why": why })
            })
        });
        known["settled"] = settled.collect();
        known["told_later"] = json!(failed);
        Ok(known)
    }

    /// Keeps what a person has said of a batch and settles what is written here.
    async fn take_word(
        self: &Arc<Self>,
        id: BatchId,
        word: Word,
    ) -> Result<Vec<Settled>, ApiError> {
        let is_new = self.batches.words.of(id).is_none();
        let made = word.made;
        let word = self.batches.words.keep(&self.store, id, word).await?;
        if word.made != made {
            return Err(refused(&said_before(&word)));
        }
        if is_new {
            self.notice_undecided(id, &word);
        }
        let mut settled = Vec::new();
        for table in self.store.tables() {
            let Some((intent, _)) = table.intent(id) else { continue };
            let (name, rows) = (table.name().as_str().to_owned(), intent.keys.len());
            if is_new {
                let text = format!(
                    "{rows} rows that batch {id} had locked are settled by hand as {} by {}: {}",
                    word.outcome(),
                    word.who,
                    word.why
                );
                let detail = json!({ "batch": id.to_string(), "made": made, "rows": rows,
                    "who": word.who, "why": word.why });
                self.notice(EventKind::BatchSettledByHand, &name, text, detail);
            }
            if !self.is_written_here(&table) {
                // Whoever writes it has been told, or will be.
                continue;
            }
            let until = self.clock.monotonic() + SETTLE_WITHIN;
            let ended = self.settle(&table, id, (made, SettledBy::Hand), until).await;
            let why = ended.err().map(|error| error.message);
            settled.push(Settled { table: name, rows, done: why.is_none(), why });
        }
        Ok(settled)
    }
}

impl Node {
    /// A batch was settled as made while this region, which writes its anchor, was away.
    fn notice_undecided(&self, id: BatchId, word: &Word) {
        let Some(anchor) = self.table_of_line(id.anchor) else { return };
        let is_decided = anchor.decided_batch(id).is_some();
        if !word.made || is_decided || !self.is_written_here(&anchor) {
            return;
        }
        let name = anchor.name();
        let text = format!(
            "batch {id} was settled by hand as made, and no decision of it is kept here, where it \
             was to be decided; see whether its rows of {name} are there"
        );
        let detail = json!({ "batch": id.to_string(), "settled_as": word.outcome() });
        self.notice(EventKind::BatchSettledOtherwise, name.as_str(), text, detail);
    }
}
