//! Walks a table in the order of its keys, where too much differs for one sketch.
//!
//! Sums of coarse ranges tell where to look. Ranges that differ are put together to windows of a
//! bounded number of leaves; in each a sketch names the leaves that differ. Where leaves are of no
//! use, because a tree has few and large ones, all rows of the window are compared.

use bytes::Bytes;
use isthmus_digest::Sum;
use isthmus_model::key::EncodedKey;

use crate::verify::answer::{Coarse, Tell, read_sum};
use crate::verify::compare::leaves::{At, KeyRange};
use crate::verify::compare::{Looked, Run};
use crate::verify::error::VerifyError;
use crate::verify::limits::COARSE_RANGES_MAX;
use crate::verify::question::{Ask, CoarseRanges, Cut};

/// What lies between two keys that both sides name.
struct Segment {
    start: Bytes,
    end: Option<Bytes>,
    leaves: u64,
    differs: bool,
}

impl Run<'_, '_> {
    /// Compares from the start, or where an earlier comparison ended. Gives why it ended early.
    pub(super) fn walk(&mut self) -> Result<Option<String>, VerifyError> {
        // Sums of the whole table prove nothing of a window.
        self.widen()?;
        let start = self.options.start.clone().unwrap_or_default().0;
        let mut next = Some(start);
        let mut first_symbols = 256;
        while let Some(start) = next.take() {
            let (segments, after) = self.segments(&start)?;
            for (start, end) in windows(segments, self.options.tuning.window_leaves) {
                if !self.goes_on(Some(&start)) {
                    self.resume = Some(EncodedKey(start));
                    return Ok(Some("it was ended".into()));
                }
                self.window(&start, end.as_ref(), &mut first_symbols)?;
            }
            next = after;
            let Some(next) = &next else { break };
            if let Some(why) = self.renew_cut()? {
                self.resume = Some(EncodedKey(next.clone()));
                return Ok(Some(why));
            }
            if self.pair.is_none() {
                // By now they are alike, root and branch.
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Takes a new cut if the present one is old. No pair is left if all is alike under it.
    fn renew_cut(&mut self) -> Result<Option<String>, VerifyError> {
        let now = self.shell.clock.monotonic();
        let age_max = self.options.tuning.cut_age_max;
        let is_old = |pair: &super::Pair| now.saturating_sub(pair.opened_at) >= age_max;
        if !self.pair.as_ref().is_some_and(is_old) {
            return Ok(None);
        }
        self.close();
        Ok(self.open_pair(Cut::Now)?.err())
    }

    /// The next segments, and where they end.
    fn segments(&mut self, start: &Bytes) -> Result<(Vec<Segment>, Option<Bytes>), VerifyError> {
        let first = self.coarse(0, start, None, self.options.tuning.page_ranges)?;
        let second = self.coarse(1, start, first.next.as_ref(), COARSE_RANGES_MAX)?;
        let next = first.next.clone();
        let segments = match second.next {
            // Far more ranges than on the first side: all of it is one.
            Some(_) => {
                let leaves = [&first, &second].map(leaves_of).into_iter().max();
                let leaves = leaves.unwrap_or_default();
                let (start, end) = (start.clone(), next.clone());
                vec![Segment { start, end, leaves, differs: true }]
            }
            None => merged(&first, &second, next.as_ref())?,
        };
        Ok((segments, next))
    }

    fn coarse(
        &mut self,
        side: usize,
        start: &Bytes,
        end: Option<&Bytes>,
        limit: usize,
    ) -> Result<Coarse, VerifyError> {
        let ask = CoarseRanges {
            session: self.session(side)?,
            start: start.clone(),
            end: end.cloned(),
            limit: limit as u32,
        };
        let Tell::Coarse(coarse) = self.sides[side].ask(Ask::CoarseRanges(ask))? else {
            return Err(VerifyError::Protocol("another answer than coarse ranges"));
        };
        let rises = coarse.ranges.is_sorted_by(|a, b| a.start < b.start);
        let begins = coarse.ranges.first().is_some_and(|range| range.start == *start);
        let goes_on = coarse.next.as_ref().is_none_or(|next| next > start);
        match rises && begins && goes_on {
            true => Ok(coarse),
            false => Err(VerifyError::Protocol("coarse ranges are out of order")),
        }
    }

    fn window(
        &mut self,
        start: &Bytes,
        end: Option<&Bytes>,
        first_symbols: &mut usize,
    ) -> Result<(), VerifyError> {
        let place = At::keys((start.clone(), end.cloned()));
        let symbols_max = self.options.tuning.window_symbols_max;
        let found = self.leaves_that_differ(&place, *first_symbols, symbols_max)?;
        if let Some(only_in) = found {
            // The next window is probably like this one.
            let differing = only_in[0].len() + only_in[1].len();
            *first_symbols = (differing + differing / 2 + 64).min(symbols_max);
            if self.rows_of_leaves(only_in)? == Looked::Done {
                return Ok(());
            }
        }
        let mut next = Some(start.clone());
        while let Some(start) = next {
            next = self.rows_of_range(&start, end, self.options.tuning.range_rows)?;
        }
        Ok(())
    }
}

fn leaves_of(coarse: &Coarse) -> u64 {
    coarse.ranges.iter().map(|range| range.leaves).sum()
}

/// The segments between the keys that both sides name.
fn merged(
    first: &Coarse,
    second: &Coarse,
    end: Option<&Bytes>,
) -> Result<Vec<Segment>, VerifyError> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut sums = [Sum::default(); 2];
    let mut leaves = [0; 2];
    let mut others = second.ranges.iter().peekable();
    let mut start: Option<&Bytes> = None;
    let mut ends = first.ranges.iter().skip(1).map(|range| &range.start);
    for range in &first.ranges {
        let from = start.unwrap_or(&range.start);
        start = Some(from);
        sums[0] += read_sum(&range.sum)?;
        leaves[0] += range.leaves;
        let range_end = ends.next().or(end);
        while let Some(other) = others.next_if(|other| range_end.is_none_or(|e| other.start < *e)) {
            sums[1] += read_sum(&other.sum)?;
            leaves[1] += other.leaves;
        }
        let is_common = others.peek().is_none_or(|other| Some(&other.start) == range_end);
        let is_last = range_end == end;
        if is_last || (is_common && others.peek().is_some()) {
            segments.push(Segment {
                start: from.clone(),
                end: range_end.cloned(),
                leaves: leaves[0].max(leaves[1]),
                differs: sums[0] != sums[1],
            });
            (sums, leaves, start) = ([Sum::default(); 2], [0; 2], None);
        }
    }
    Ok(segments)
}

/// Puts segments that differ together to windows; what lies between them may be in them.
fn windows(segments: Vec<Segment>, leaves_max: u64) -> Vec<KeyRange> {
    let mut windows: Vec<(KeyRange, u64)> = Vec::new();
    // Leaves of segments that are alike, since the last window.
    let mut between = 0;
    for segment in segments {
        if !segment.differs {
            between += segment.leaves;
            continue;
        }
        match windows.last_mut() {
            Some((window, leaves)) if *leaves + between + segment.leaves <= leaves_max => {
                window.1 = segment.end;
                *leaves += between + segment.leaves;
            }
            Some(_) | None => windows.push(((segment.start, segment.end), segment.leaves)),
        }
        between = 0;
    }
    windows.into_iter().map(|(window, _)| window).collect()
}
