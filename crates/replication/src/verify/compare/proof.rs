//! Proofs that what is named is all that differs.
//!
//! A sketch names leaves, and parts of rows in them, by short names, and two names may be alike. So
//! each side adds up what is *not* named, with the full 128 bits of each sum. Where these totals
//! are the same, all that is not named is the same on both sides; else it is looked at once more
//! with names of 64 bits.

use bytes::Bytes;
use isthmus_digest::Sum;

use crate::verify::answer::{SelectedParts, Tell, read_sum};
use crate::verify::compare::Run;
use crate::verify::error::VerifyError;
use crate::verify::question::{Ask, Raise};

/// What both sides tell of what they have not named. `None`: a side tells nothing of it.
pub(super) type Totals = [Option<Sum>; 2];

/// A sum as it is told, if it is.
pub(super) fn told(bytes: &Bytes) -> Result<Option<Sum>, VerifyError> {
    if bytes.is_empty() { Ok(None) } else { read_sum(bytes).map(Some) }
}

/// What lies outside of the leaves that are selected.
pub(super) fn outside(parts: [&SelectedParts; 2]) -> Result<Totals, VerifyError> {
    Ok([told(&parts[0].outside)?, told(&parts[1].outside)?])
}

/// What is selected, less what is named of it.
pub(super) fn unnamed(
    parts: [&SelectedParts; 2],
    named: [Option<Sum>; 2],
) -> Result<Totals, VerifyError> {
    let rest = |side: usize| -> Result<Option<Sum>, VerifyError> {
        Ok(told(&parts[side].inside)?.zip(named[side]).map(|(all, named)| all - named))
    };
    Ok([rest(0)?, rest(1)?])
}

impl Run<'_, '_> {
    /// Whether totals prove that all is named; names that are not narrow need no proof.
    pub(super) fn proves(&self, totals: Totals) -> bool {
        match totals {
            [Some(first), Some(second)] => first == second,
            _ => !self.is_narrow(),
        }
    }

    /// Whether both sides use narrow names.
    pub(super) fn is_narrow(&self) -> bool {
        self.pair.as_ref().is_some_and(|pair| pair.narrow)
    }

    /// Goes over to wide names for good.
    pub(super) fn widen(&mut self) -> Result<(), VerifyError> {
        self.wants_narrow = false;
        let Some(pair) = self.pair.as_mut().filter(|pair| pair.narrow) else { return Ok(()) };
        (pair.narrow, pair.sketch) = (false, None);
        let raises = [0, 1].map(|side: usize| {
            let head = &mut pair.heads[side];
            head.narrow = false;
            Ask::Raise(Raise { session: head.session, floors: head.floors, wide: true })
        });
        match self.ask_both(raises)? {
            [Tell::Opened(_), Tell::Opened(_)] => Ok(()),
            _ => Err(VerifyError::Protocol("another answer than to raise")),
        }
    }
}
