//! What accepted rows change in the digest, and by which rules it counts.
//!
//! What of a row is in the digest is known before the row changes: by the overlay, by the cache of
//! rows written lately, or by the row itself. Where rules change so that this is true no more, the
//! digest is built anew.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use isthmus_digest::{Change, Parts, changes_between};
use isthmus_model::expiry::{Expiry, add_expiry};
use isthmus_model::family::FamilyNumber;
use isthmus_model::hlc::Hlc;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::{Row, expiry_bucket};

use super::{At, Inner};
use crate::codec::row::encode_row;
use crate::digest::{Measure, PartsCache, Rules, Silent, Stamped, Tag, families_of, kills_bucket};

impl Inner {
    /// Whether a digest is kept.
    pub(crate) fn has_digest(&self) -> bool {
        self.hasher.is_some()
    }

    /// What of a row is in the digest, if the overlay tells, or else by the row as it is known to
    /// be in the engine.
    pub(crate) fn parts_of(&self, key: &EncodedKey, stored: Option<&Row>) -> Parts {
        match (self.overlay.get(key), stored) {
            (Some(known), _) => known.parts.clone(),
            (None, Some(row)) if self.hasher.is_some() => {
                self.measure_row(key, row, &encode_row(row))
            }
            (None, Some(_) | None) => Parts::new(),
        }
    }

    /// What of a row is in the digest, if it is in the overlay.
    pub(crate) fn parts_overlaid(&self, key: &EncodedKey) -> Option<Parts> {
        self.overlay.get(key).map(|known| known.parts.clone())
    }

    /// What of a row is in the digest, if it was written lately. Its name may be at hand.
    pub(crate) fn parts_cached(&self, key: &EncodedKey, tag: Option<Tag>) -> Option<Parts> {
        self.tag(key, tag).and_then(|tag| self.cache.get(tag))
    }

    /// Puts into the cache what it is to know of the rows of the open group.
    pub(super) fn fill_cache(&mut self) {
        self.cache.put_all(&self.uncached);
        self.uncached.clear();
    }

    /// Sets right what is known of a row in the digest.
    pub(crate) fn know_parts(&mut self, key: &EncodedKey, parts: Parts) {
        self.fill_cache();
        if let Some(tag) = self.tag(key, None) {
            self.cache.put(tag, &parts);
        }
        if let Some(known) = self.overlay.get_mut(key) {
            known.parts = parts;
        }
    }

    /// Nothing is known of rows written lately but by the overlay: the digest has come to say
    /// otherwise what they are.
    pub(crate) fn forget_parts(&mut self) {
        self.life.store(self.cache.begin_life(), Ordering::Relaxed);
    }

    /// The name of a row in the cache of parts, given perhaps what it was a moment before.
    pub(super) fn tag(&self, key: &EncodedKey, known: Option<Tag>) -> Option<Tag> {
        let life = self.life.load(Ordering::Relaxed);
        let tag = |hasher| {
            let known = known.filter(|tag| tag.is_of(life));
            known.unwrap_or_else(|| PartsCache::tag(hasher, life, &key.0))
        };
        self.hasher.as_ref().map(tag)
    }

    pub(super) fn measure_row(&self, key: &EncodedKey, row: &Row, value: &Bytes) -> Parts {
        let Some(hasher) = &self.hasher else { return Parts::new() };
        let may_hold_kills = self.spec.writers.are_many();
        let families = &self.schema.options.families;
        let rules = &self.state.rules;
        Measure { hasher, rules, families, may_hold_kills }.of_row(&key.0, row, value)
    }

    pub(super) fn change_digest(
        &mut self,
        key: &EncodedKey,
        mut before: Parts,
        after: &Parts,
        at: At,
    ) {
        if self.hasher.is_none() {
            return;
        }
        let rules = &self.state.rules;
        before.retain(|lane| rules.counts(lane));
        let changed = self.part.digest.len();
        changes_between(&key.0, &before, after, |change| {
            self.part.bytes += key.0.len();
            self.part.digest.push(Stamped { change, lsn: at.lsn, stamp: at.stamp });
        });
        if self.part.digest.len() == changed && at.stamp.is_some() {
            self.part.silent.push(Silent { key: key.0.clone(), lsn: at.lsn });
        }
    }

    /// Lanes of kills that are wholly below the horizon count no more.
    pub(super) fn raise_kills_floor(&mut self, horizon: Hlc, at: At) {
        let floor = kills_bucket(horizon);
        let many = self.spec.writers.are_many();
        if many {
            self.drop_kills_below(floor, at);
        }
    }

    /// Kills below this bucket may be gone here, and count no more.
    pub(crate) fn drop_kills_below(&mut self, floor: u64, at: At) {
        if floor > self.state.rules.kills_floor {
            self.state.rules.kills_floor = floor;
            self.drop_lanes(Change::DropKills(floor), at);
        }
    }

    fn drop_lanes(&mut self, change: Change, at: At) {
        if self.hasher.is_some() {
            self.part.digest.push(Stamped { change, lsn: at.lsn, stamp: at.stamp });
        }
    }

    /// Takes note of an expiry of all rows.
    pub(crate) fn expire(&mut self, expiry: Expiry, at: At) {
        add_expiry(&mut self.state.expiry, expiry);
        self.part.expired = true;
        let own_time = self.schema.options.families.with_own_time();
        if !own_time.is_within(expiry.spared) {
            // No lane is theirs alone, so what has gone of them is left out by counting anew.
            return self.begin_digest_anew(Rules::of(&self.schema, &self.state.expiry));
        }
        if expiry.spared.has(FamilyNumber::NONE) {
            return;
        }
        let floor = expiry_bucket(expiry.trim.below);
        let rules = &mut self.state.rules;
        if rules.time_lanes && floor > rules.time_floor {
            rules.time_floor = floor;
            self.drop_lanes(Change::DropTime(floor), at);
        }
    }

    /// Takes what a source has logged as expired in the place of what is logged here, if something
    /// of that was never logged there: cells that it kills may be gone here, and the source has
    /// them. So nothing that was counted without them is compared. Gives whether it was so.
    pub(crate) fn leave_expiry_for(&mut self, source: &[Expiry]) -> bool {
        let mut together = source.to_vec();
        self.state.expiry.iter().for_each(|expiry| add_expiry(&mut together, *expiry));
        if together == source {
            return false;
        }
        self.state.expiry = source.to_vec();
        self.begin_digest_anew(Rules::of(&self.schema, source));
        true
    }

    /// A change of the schema changes what the digest counts where it changes how long cells live
    /// so that what would have been dropped may stay, or which of them live otherwise.
    pub(crate) fn follow_schema(&mut self, before: Option<u32>, after: Option<u32>) {
        let lives_longer = match (before, after) {
            (Some(before), Some(after)) => after > before,
            (Some(_), None) | (None, Some(_)) => true,
            (None, None) => false,
        };
        let families = families_of(&self.schema);
        if lives_longer || families != self.state.rules.families {
            self.begin_digest_anew(Rules::of(&self.spec.schema, &self.state.expiry));
        }
    }

    /// Makes the digest count what that of another replica counts.
    pub(crate) fn take_rules(&mut self, rules: &Rules) {
        if !rules.measure_alike(&self.state.rules) {
            self.begin_digest_anew(rules.clone());
        }
    }

    fn begin_digest_anew(&mut self, rules: Rules) {
        let kills_floor = self.state.rules.kills_floor;
        // Also where no digest is kept now: one may be built some day.
        self.state.rules = Rules { kills_floor, ..rules };
        if self.hasher.is_none() {
            return;
        }
        self.forget_parts();
        self.part.digest.clear();
        self.part.digest_anew = true;
        // In front, so that the floor is there when the rest comes.
        let lsn = self.state.lsn;
        let change = Change::DropKills(kills_floor);
        self.part.digest.push(Stamped { change, lsn, stamp: None });
        let mut overlay = std::mem::take(&mut self.overlay);
        for (key, known) in &mut overlay {
            known.parts = match &known.row {
                Some(row) => self.measure_row(key, row, &encode_row(row)),
                None => Parts::new(),
            };
        }
        self.overlay = overlay;
    }
}
