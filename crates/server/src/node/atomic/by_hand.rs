//! Batches that a person settles, since the region that could tell what became of them is lost.
//!
//! A person says of a batch that it is made or given up, in all members alike. That is refused
//! where anybody can still tell, or could if another region wrote the anchor, or may be able to
//! (`look.rs`, `known.rs`). The word is kept in every region (`words.rs`), told to those that come
//! back, and counts before what an anchor says that comes back with another one (`judge.rs`).

mod judge;
mod known;
mod look;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isthmus_control::agreed::Command;
use isthmus_control::distribution::partition_named;
use isthmus_model::atomic::BatchId;
use isthmus_model::ids::TableId;
use isthmus_protocol::error_code::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use self::known::{check, known, members, refused, risk, said_before};
use self::look::{Found, Seen};
use super::ASKED_AT_ONCE;
use super::counts::SettledBy;
use super::member::SETTLE_WITHIN;
use super::words::Word;
use crate::api_error::ApiError;
use crate::node::Node;
use crate::node::events::EventKind;
use crate::peer::batch::ByHand;
use crate::peer::call::Question;
use crate::together::{Piece, together};

/// How long other regions are asked, and those again that are reached and do not tell.
const ASK_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of a name and of a reason.
const TEXT_BYTES_MAX: usize = 200;

/// What regions ask each other about what people decide, in JSON.
#[derive(Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
enum Ask {
    /// What is known of batches in doubt; of this one, if one is named.
    Look { batch: Option<String> },
    /// A person has said this of a batch.
    Word { batch: String, word: Word },
    /// How far a region is that is to write a table, of that number, after a failover.
    Beginning { table: u64 },
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

impl Node {
    /// The batches that are in doubt in any region that is reached.
    pub async fn batches_json(self: &Arc<Self>) -> Result<Json, ApiError> {
        let Found { looked, unreached, silent } = self.look_everywhere(None, Duration::ZERO).await;
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
        let unreached: BTreeMap<String, String> = unreached.into_iter().chain(silent).collect();
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
        let mut found = self.look_everywhere(Some(id), ASK_WITHIN).await;
        let anchor = self.check_nobody_says(id, asked.made, &found)?;
        let seen = found.looked.iter().flat_map(|(region, looked)| {
            looked.intents.iter().map(move |seen| (region.as_str(), seen))
        });
        let told = json!({
            "batch": asked.batch,
            "anchor": anchor,
            "made": asked.made,
            "members": members(seen),
            "unreached": found.unreached,
            "known": known(&anchor, &found.looked, &found.unreached),
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
            to_judge: false,
        };
        if self.audit_word(&asked.batch, &anchor, &word).await? {
            // That has taken its time, and a region may be back that can say.
            found = self.look_everywhere(Some(id), ASK_WITHIN).await;
            if let Err(error) = self.check_nobody_says(id, asked.made, &found) {
                let what = format!("batch {id} is not settled by hand: {}", error.message);
                let (who, at_millis) = (word.who, word.at_millis);
                drop(self.note_in_audit(Command::Note { who, what, at_millis }).await);
                return Err(error);
            }
        }
        self.spread_word(id, word, (told, found)).await
    }

    /// An error: a region says what became of a batch, or it may be that one can. Gives the name of
    /// its anchor.
    fn check_nobody_says(
        &self,
        id: BatchId,
        made: bool,
        found: &Found,
    ) -> Result<String, ApiError> {
        let anchor = check(id, made, found)?;
        let is_known = self.knows_maker_of(id.anchor) && partition_named(&anchor).is_none();
        let holds_none = !found.looked.values().any(|looked| looked.holds_anchor);
        if found.unreached.is_empty() && holds_none && is_known {
            return Err(refused(
                "No region has its anchor any more, and all were reached: it is given up by \
                 itself within some ten seconds.",
            ));
        }
        Ok(anchor)
    }

    /// What is asked about what people decide. Another region asks.
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
            Ask::Beginning { table } => serde_json::to_vec(&self.beginning_of(TableId(table))),
        };
        Ok(told.map_err(|_| ApiError::internal())?.into())
    }

    /// Tells regions that were away what people have said of batches, and looks what this one has
    /// decided of those itself.
    pub(super) async fn tell_words(self: &Arc<Self>) {
        self.judge_words().await;
        for (id, word) in self.batches.words.to_tell() {
            for region in word.left.iter().filter(|region| self.is_reached(region)) {
                let told = Word { left: BTreeSet::new(), to_judge: false, ..word.clone() };
                let ask = Ask::Word { batch: id.to_string(), word: told };
                match self.ask_by_hand(region, &ask, ASK_WITHIN).await {
                    Ok(_) => {}
                    Err(error) if error.code == ErrorCode::OperationConflict => {
                        self.notice_refused(id, &word, region, &error.message);
                    }
                    Err(error) => {
                        tracing::info!(batch = %id, region, %error, "a word is not told yet");
                        continue;
                    }
                }
                if let Err(error) = self.batches.words.told(&self.store, id, region).await {
                    tracing::warn!(batch = %id, region, %error, "not noted as told");
                }
            }
        }
    }

    /// Asks another region how far it is that is to write a table after a failover; the answer is
    /// JSON.
    pub(in crate::node) async fn ask_beginning(
        self: &Arc<Self>,
        region: &str,
        table: TableId,
    ) -> Result<Bytes, ApiError> {
        self.ask_by_hand(region, &Ask::Beginning { table: table.0 }, ASK_WITHIN).await
    }

    async fn ask_by_hand(
        self: &Arc<Self>,
        region: &str,
        ask: &Ask,
        within: Duration,
    ) -> Result<Bytes, ApiError> {
        let asked = serde_json::to_vec(ask).map_err(|_| ApiError::internal())?.into();
        self.ask_region(region, Question::ByHand(ByHand { asked }), within).await
    }

    /// Where regions decide together, nothing is settled by hand that is not in the audit. Gives
    /// whether they do.
    async fn audit_word(&self, batch: &str, anchor: &str, word: &Word) -> Result<bool, ApiError> {
        if self.registry().is_none() {
            return Ok(false);
        }
        let what = format!(
            "batch {batch}, which {anchor} decides, is settled by hand as {}: {}",
            word.outcome(),
            word.why
        );
        let (who, at_millis) = (word.who.clone(), word.at_millis);
        self.note_in_audit(Command::Note { who, what, at_millis }).await?;
        Ok(true)
    }

    /// Keeps a word here and tells it to all regions that are reached. These, too, tell it later to
    /// those that are not.
    async fn spread_word(
        self: &Arc<Self>,
        id: BatchId,
        word: Word,
        (mut told, found): (Json, Found),
    ) -> Result<Json, ApiError> {
        let own = &self.config.region.name;
        let left = self.others.keys().cloned().collect();
        let kept = Word { left, ..word.clone() };
        let mut settled = BTreeMap::from([(own.clone(), self.take_word(id, kept).await?)]);
        let left = found.unreached.into_keys().collect();
        let ask = &Ask::Word { batch: id.to_string(), word: Word { left, ..word.clone() } };
        let asking = self.others.keys().map(|region| -> Piece<'_, _> {
            Box::pin(async move { (region, self.ask_by_hand(region, ask, ASK_WITHIN).await) })
        });
        let (mut later, mut refused_by) = (BTreeMap::new(), BTreeMap::new());
        for (region, answer) in together(asking.collect(), ASKED_AT_ONCE).await {
            match answer {
                Ok(answer) => {
                    let parts = serde_json::from_slice(&answer);
                    settled.insert(region.clone(), parts.map_err(|_| ApiError::internal())?);
                }
                Err(error) if error.code == ErrorCode::OperationConflict => {
                    self.notice_refused(id, &word, region, &error.message);
                    refused_by.insert(region, error.message);
                }
                Err(error) => {
                    later.insert(region, error.message);
                    continue;
                }
            }
            self.batches.words.told(&self.store, id, region).await?;
        }
        let settled = settled.into_iter().flat_map(|(region, settled)| {
            settled.into_iter().map(move |one| {
                let (table, rows, done, why) = (one.table, one.rows, one.done, one.why);
                json!({ "region": region, "table": table, "rows": rows, "done": done, "why": why })
            })
        });
        told["settled"] = settled.collect();
        told["told_later"] = json!(later);
        told["refused_by"] = json!(refused_by);
        Ok(told)
    }

    /// Keeps what a person has said of a batch and settles what is written here.
    async fn take_word(
        self: &Arc<Self>,
        id: BatchId,
        word: Word,
    ) -> Result<Vec<Settled>, ApiError> {
        let made = word.made;
        let anchor = self.table_of_line(id.anchor);
        let to_judge = made && anchor.is_some_and(|anchor| self.may_say(&anchor));
        let word = Word { to_judge, ..word };
        let (word, is_new) = self.batches.words.keep(&self.store, id, word).await?;
        if word.made != made {
            return Err(refused(&said_before(&word)));
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
            if ended.is_ok() {
                self.batches.upkeep.lock().is_over(table.id(), id);
            }
            let why = ended.err().map(|error| error.message);
            settled.push(Settled { table: name, rows, done: why.is_none(), why });
        }
        Ok(settled)
    }
}
