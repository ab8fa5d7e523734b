//! Few leaves: told one by one to the other side, which lays its own beside them.
//!
//! Where trees have different leaves over the same rows, their sums tell that these are alike, so
//! only rows of leaves that do hold something else are read.

use std::collections::HashSet;

use bytes::Bytes;
use isthmus_digest::{LeafTold, decode_leaves, encode_leaves, unlike_leaves};

use crate::verify::answer::{Answer, Laid, SelectedParts, Tell};
use crate::verify::error::VerifyError;
use crate::verify::limits::{LAID_ROWS_MAX, LEAVES_TOLD_KEY_BYTES_MAX, LEAVES_TOLD_MAX};
use crate::verify::question::{Lay, Named, Want};
use crate::verify::session::Session;
use crate::verify::session::selected::{ChosenLeaves, choose};

impl Session {
    /// Tells leaves one by one; nothing if they are too many.
    pub(super) fn tell_leaves(&mut self, named: &Named) -> Bytes {
        self.told = self.leaves_of(named);
        let key_bytes = |leaf: &LeafTold| leaf.start.len() + leaf.end.as_ref().map_or(0, Vec::len);
        let fits = self.told.len() <= LEAVES_TOLD_MAX
            && self.told.iter().map(key_bytes).sum::<usize>() <= LEAVES_TOLD_KEY_BYTES_MAX;
        if fits { encode_leaves(&self.told).into() } else { Bytes::new() }
    }

    /// Lays leaves beside those that were told, and selects what is unlike.
    pub(super) fn lay(&mut self, ask: &Lay) -> Result<Answer, VerifyError> {
        let theirs = decode_leaves(&ask.told, LEAVES_TOLD_KEY_BYTES_MAX)
            .map_err(|_| VerifyError::Damaged("leaves cannot be read"))?;
        let named = ask.named.as_ref().ok_or(VerifyError::Damaged("no leaves are named"))?;
        if theirs.len() > LEAVES_TOLD_MAX {
            return Err(VerifyError::Damaged("too many leaves are told"));
        }
        let own = self.leaves_of(named);
        if own.len() > LEAVES_TOLD_MAX {
            let parts = SelectedParts { too_many: true, ..SelectedParts::default() };
            let laid = Laid { unlike: Vec::new(), parts: Some(parts) };
            return Ok(Answer::new(0, Tell::Laid(laid)));
        }
        let [unlike, unlike_own] = unlike_leaves(&theirs, &own);
        let chosen = self.choose_told(unlike_own.iter().filter_map(|place| own.get(*place)));
        let (selected, mut rows_read) = self.select_chosen(chosen)?;
        let count = self.selection.count();
        let mut parts = SelectedParts { count, more: true, ..selected };
        if !parts.too_many && count <= LAID_ROWS_MAX {
            let want = Want { kind: Want::UNLIKE, contents: ask.contents, ..Want::default() };
            rows_read += self.tell_unlike(&want, &mut parts)?;
        }
        let unlike = unlike.into_iter().map(|place| place as u32).collect();
        Ok(Answer::new(rows_read, Tell::Laid(Laid { unlike, parts: Some(parts) })))
    }

    /// Leaves that were told last, by their places.
    pub(super) fn chosen_by_place(&self, places: &[u32]) -> ChosenLeaves {
        self.choose_told(places.iter().filter_map(|place| self.told.get(*place as usize)))
    }

    fn choose_told<'a>(&self, leaves: impl Iterator<Item = &'a LeafTold>) -> ChosenLeaves {
        let mut chosen = ChosenLeaves::new();
        for told in leaves {
            // That of a list is one leaf of the tree, which has the whole of the sum.
            let end = told.end.as_deref();
            let mut found = self.view.tree().leaves(told.lane, &told.start, end);
            if let Some(leaf) = found.next().filter(|leaf| leaf.start == told.start) {
                choose(&mut chosen, told.lane, leaf);
            }
        }
        chosen
    }

    /// Leaves by lane and key: those in coarse ranges, or single ones.
    fn leaves_of(&mut self, named: &Named) -> Vec<LeafTold> {
        if named.coarse.is_empty() {
            let mut wanted: HashSet<u64> = named.leaves.iter().copied().collect();
            let chosen = self.find_leaves(&mut wanted);
            let told = |(lane, leaf)| LeafTold::of(lane, &leaf);
            return chosen.into_iter().map(told).collect();
        }
        let mut leaves = Vec::new();
        for range in self.coarse_named(&named.coarse) {
            let inside = self.view.tree().leaves(range.lane, &range.start, range.end.as_deref());
            leaves.extend(inside.map(|leaf| LeafTold::of(range.lane, &leaf)));
        }
        leaves
    }
}
