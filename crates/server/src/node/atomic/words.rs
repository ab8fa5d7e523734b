//! What people have said of batches whose anchors cannot be asked: kept at rest, so that members
//! and anchors that come back later are told the same.
//!
//! The first word on a batch counts, for ever. The newest are kept; a batch of which the word is
//! forgotten is in doubt again where it was not settled by then.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_model::atomic::BatchId;
use isthmus_store::Store;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::api_error::ApiError;
use crate::node::NodeError;

const NOTES: &str = "batch-word/";
/// Words that are kept.
const WORDS_MAX: usize = 1_000;

fn note_name(id: BatchId) -> Vec<u8> {
    format!("{NOTES}{id}").into_bytes()
}

/// What a person has said of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Word {
    /// It is made; else it is given up.
    pub(super) made: bool,
    /// The person.
    pub(super) who: String,
    /// Why.
    pub(super) why: String,
    /// When, by the clock of the region that was asked.
    pub(super) at_millis: u64,
    /// Regions that are still to be told from here.
    #[serde(default)]
    pub(super) left: BTreeSet<String>,
}

impl Word {
    pub(super) fn outcome(&self) -> &'static str {
        if self.made { "made" } else { "given up" }
    }
}

/// By batch.
#[derive(Default)]
pub(super) struct Words(Mutex<BTreeMap<BatchId, Word>>);

impl Words {
    /// What is kept.
    pub(super) fn read(store: &Store) -> Result<Words, NodeError> {
        let mut words = BTreeMap::new();
        for (name, value) in store.notes(NOTES.as_bytes())? {
            let damaged = || NodeError::Record(String::from_utf8_lossy(&name).into_owned());
            let name = name.strip_prefix(NOTES.as_bytes()).ok_or_else(damaged)?;
            let name = std::str::from_utf8(name).map_err(|_| damaged())?;
            let id = name.parse::<BatchId>().map_err(|_| damaged())?;
            words.insert(id, serde_json::from_slice(&value).map_err(|_| damaged())?);
        }
        Ok(Words(Mutex::new(words)))
    }

    /// What was said of a batch.
    pub(super) fn of(&self, id: BatchId) -> Option<Word> {
        self.0.lock().get(&id).cloned()
    }

    /// Whether it was said that a batch is made.
    pub(super) fn outcome(&self, id: BatchId) -> Option<bool> {
        self.0.lock().get(&id).map(|word| word.made)
    }

    /// Words of which other regions are to be told.
    pub(super) fn to_tell(&self) -> Vec<(BatchId, Word)> {
        let words = self.0.lock();
        let to_tell = words.iter().filter(|(_, word)| !word.left.is_empty());
        to_tell.map(|(id, word)| (*id, word.clone())).collect()
    }

    /// Keeps a word, durably when it returns. Gives the one that counts: an earlier one, if there
    /// is one, to which only who is left to be told is added.
    pub(super) async fn keep(
        &self,
        store: &Store,
        id: BatchId,
        word: Word,
    ) -> Result<Word, ApiError> {
        let (kept, forgotten) = {
            let mut words = self.0.lock();
            let kept = words.entry(id).or_insert_with(|| word.clone());
            if kept.made == word.made {
                kept.left.extend(word.left);
            }
            let kept = kept.clone();
            (kept, forget_oldest(&mut words, id))
        };
        if let Some(oldest) = forgotten {
            drop(store.delete_note(&note_name(oldest)));
        }
        let note = serde_json::to_vec(&kept).map_err(|_| ApiError::internal())?;
        store.put_note(&note_name(id), &note).await?;
        Ok(kept)
    }

    /// A region has been told.
    pub(super) async fn told(
        &self,
        store: &Store,
        id: BatchId,
        region: &str,
    ) -> Result<(), ApiError> {
        let note = {
            let mut words = self.0.lock();
            let Some(word) = words.get_mut(&id) else { return Ok(()) };
            if !word.left.remove(region) {
                return Ok(());
            }
            serde_json::to_vec(word).map_err(|_| ApiError::internal())?
        };
        Ok(store.put_note(&note_name(id), &note).await?)
    }
}

/// Those of which all have been told go first.
fn forget_oldest(words: &mut BTreeMap<BatchId, Word>, newest: BatchId) -> Option<BatchId> {
    if words.len() <= WORDS_MAX {
        return None;
    }
    let others = words.iter().filter(|(id, _)| **id != newest);
    let oldest = others.min_by_key(|(_, word)| (!word.left.is_empty(), word.at_millis));
    let oldest = oldest.map(|(id, _)| *id)?;
    words.remove(&oldest);
    Some(oldest)
}

#[cfg(test)]
mod tests {
    use isthmus_model::commit::Term;
    use isthmus_model::ids::TableId;

    use super::*;

    fn id(number: u64) -> BatchId {
        BatchId { anchor: TableId(770), term: Term { epoch: 1, life: 5 }, number }
    }

    fn word(at_millis: u64, left: &[&str]) -> Word {
        let left = left.iter().map(|name| (*name).to_owned()).collect();
        Word { made: true, who: "ann".to_owned(), why: "lost".to_owned(), at_millis, left }
    }

    #[test]
    fn the_oldest_that_all_know_is_forgotten_first() {
        let mut words: BTreeMap<BatchId, Word> =
            (0..WORDS_MAX as u64).map(|number| (id(number), word(number, &[]))).collect();
        assert_eq!(forget_oldest(&mut words, id(0)), None);
        words.insert(id(9_999), word(0, &[]));
        words.insert(id(0), word(0, &["r3"]));
        assert_eq!(forget_oldest(&mut words, id(9_999)), Some(id(1)));
        assert_eq!(words.len(), WORDS_MAX);
    }
}
