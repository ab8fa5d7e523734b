//! What people have said of batches whose anchors cannot be asked: kept at rest, so that members
//! and anchors that come back later are told the same.
//!
//! The first word on a batch counts, for ever. The newest are kept; a batch of which the word is
//! forgotten is in doubt again where it was not settled by then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use isthmus_model::atomic::BatchId;
use isthmus_model::ids::TableId;
use isthmus_store::Store;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::api_error::ApiError;
use crate::node::NodeError;

const NOTES: &str = "batch-word/";
/// Words that are kept.
const WORDS_MAX: usize = 1_000;
/// Decisions of which it is remembered that all members had settled them.
const TOLD_MAX: usize = 10_000;

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
    /// This region writes the anchor, and it is not looked yet whether it has decided the batch as
    /// was said.
    #[serde(default)]
    pub(super) to_judge: bool,
}

impl Word {
    pub(super) fn outcome(&self) -> &'static str {
        if self.made { "made" } else { "given up" }
    }
}

/// What was said, and what is needed to hold it against what anchors say.
#[derive(Default)]
pub(super) struct Words {
    kept: Mutex<BTreeMap<BatchId, Word>>,
    /// Tables in which it was noticed that an anchor says otherwise, of batches that are kept.
    otherwise: Mutex<BTreeSet<(TableId, BatchId)>>,
    /// Decisions that this process has told all members and forgotten, the newest last.
    told: Mutex<VecDeque<BatchId>>,
}

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
        Ok(Words { kept: Mutex::new(words), ..Words::default() })
    }

    /// What was said of a batch.
    pub(super) fn of(&self, id: BatchId) -> Option<Word> {
        self.kept.lock().get(&id).cloned()
    }

    /// Whether it was said that a batch is made.
    pub(super) fn outcome(&self, id: BatchId) -> Option<bool> {
        self.kept.lock().get(&id).map(|word| word.made)
    }

    /// Words of which other regions are to be told.
    pub(super) fn to_tell(&self) -> Vec<(BatchId, Word)> {
        self.of_which(|word| !word.left.is_empty())
    }

    /// Words that are to be held against what this region has decided.
    pub(super) fn to_judge(&self) -> Vec<(BatchId, Word)> {
        self.of_which(|word| word.to_judge)
    }

    fn of_which(&self, is_one: impl Fn(&Word) -> bool) -> Vec<(BatchId, Word)> {
        let words = self.kept.lock();
        let found = words.iter().filter(|(_, word)| is_one(word));
        found.map(|(id, word)| (*id, word.clone())).collect()
    }

    /// Keeps a word, durably when it returns. Gives the one that counts, and whether it is this
    /// one: an earlier one stays, and only who is left to be told is added to it.
    pub(super) async fn keep(
        &self,
        store: &Store,
        id: BatchId,
        word: Word,
    ) -> Result<(Word, bool), ApiError> {
        let (kept, is_new, noted) = {
            let mut words = self.kept.lock();
            let is_new = !words.contains_key(&id);
            let kept = words.entry(id).or_insert_with(|| word.clone());
            if kept.made == word.made {
                kept.left.extend(word.left);
            }
            let kept = kept.clone();
            if let Some(oldest) = forget_oldest(&mut words, id) {
                self.otherwise.lock().retain(|(_, known)| *known != oldest);
                drop(store.delete_note(&note_name(oldest)));
            }
            let note = serde_json::to_vec(&kept).map_err(|_| ApiError::internal())?;
            // In the order in which they are changed here.
            (kept, is_new, store.put_note(&note_name(id), &note))
        };
        noted.await?;
        Ok((kept, is_new))
    }

    /// A region has been told, or keeps another word for good.
    pub(super) async fn told(
        &self,
        store: &Store,
        id: BatchId,
        region: &str,
    ) -> Result<(), ApiError> {
        self.change(store, id, |word| word.left.remove(region)).await
    }

    /// It was looked what this region has decided, or another one writes the anchor.
    pub(super) async fn judged(&self, store: &Store, id: BatchId) -> Result<(), ApiError> {
        self.change(store, id, |word| std::mem::take(&mut word.to_judge)).await
    }

    async fn change(
        &self,
        store: &Store,
        id: BatchId,
        change: impl FnOnce(&mut Word) -> bool,
    ) -> Result<(), ApiError> {
        let noted = {
            let mut words = self.kept.lock();
            let Some(word) = words.get_mut(&id) else { return Ok(()) };
            if !change(word) {
                return Ok(());
            }
            let note = serde_json::to_vec(word).map_err(|_| ApiError::internal())?;
            store.put_note(&note_name(id), &note)
        };
        Ok(noted.await?)
    }

    /// Whether it was not noticed yet that an anchor says otherwise of a batch in a table; from now
    /// on it was. How long the batch was in doubt does not matter.
    pub(super) fn is_first_otherwise(&self, table: TableId, id: BatchId) -> bool {
        self.otherwise.lock().insert((table, id))
    }

    /// Decisions are told to all members and forgotten.
    pub(super) fn note_told(&self, ids: &[BatchId]) {
        let mut told = self.told.lock();
        told.extend(ids);
        let too_many = told.len().saturating_sub(TOLD_MAX);
        told.drain(..too_many);
    }

    /// Whether a decision is known to have been told to all members before it was forgotten.
    pub(super) fn was_told(&self, id: BatchId) -> bool {
        self.told.lock().contains(&id)
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
        Word {
            made: true,
            who: "ann".to_owned(),
            why: "lost".to_owned(),
            at_millis,
            left,
            to_judge: false,
        }
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

    #[test]
    fn that_an_anchor_says_otherwise_is_noticed_once_in_each_table() {
        let words = Words::default();
        assert!(words.is_first_otherwise(TableId(1), id(3)));
        assert!(!words.is_first_otherwise(TableId(1), id(3)));
        assert!(words.is_first_otherwise(TableId(2), id(3)));
    }

    #[test]
    fn the_newest_decisions_that_were_told_are_remembered() {
        let words = Words::default();
        let ids: Vec<BatchId> = (0..=TOLD_MAX as u64).map(id).collect();
        words.note_told(&ids);
        assert!(!words.was_told(id(0)) && words.was_told(id(1)));
        assert!(words.was_told(id(TOLD_MAX as u64)));
    }

    #[test]
    fn a_word_of_before_is_read() {
        let kept = r#"{"made":true,"who":"ann","why":"lost","at_millis":5,"left":["r3"]}"#;
        assert_eq!(serde_json::from_str::<Word>(kept).unwrap(), word(5, &["r3"]));
    }
}
