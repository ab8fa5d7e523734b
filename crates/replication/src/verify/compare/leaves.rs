//! From roots to the leaves that differ.
//!
//! Sketches of both sides are taken from each other here, so that neither side needs to know the
//! leaves of the other one, and either may be elsewhere.

use bytes::Bytes;
use isthmus_digest::{Decoder, Symbol, decode_symbols};

use crate::verify::answer::Tell;
use crate::verify::compare::Run;
use crate::verify::error::VerifyError;
use crate::verify::limits::{FIRST_SYMBOLS, SYMBOLS_MAX};
use crate::verify::question::{Ask, LeafSymbols};

/// Elements that only the first or only the second side has.
pub(super) type OnlyIn = [Vec<u64>; 2];

/// A range of keys; no end: to the last.
pub(super) type KeyRange = (Bytes, Option<Bytes>);

/// Finds in what two sides differ from symbols of both.
pub(super) struct Difference {
    decoder: Decoder,
    pub(super) taken: usize,
    /// Symbols that no element of the difference is part of.
    empty: usize,
}

/// Fewer empty symbols than these say little of how much differs.
const EMPTY_MIN: usize = 3;

impl Difference {
    pub(super) fn new() -> Difference {
        Difference { decoder: Decoder::new(std::iter::empty()), taken: 0, empty: 0 }
    }

    /// Takes in `count` further symbols of both sides. True: all is known.
    pub(super) fn add(&mut self, symbols: [Bytes; 2], count: usize) -> Result<bool, VerifyError> {
        let [first, second] = [read(&symbols[0], count)?, read(&symbols[1], count)?];
        let less = |(a, b): (&Symbol, &Symbol)| Symbol {
            sum: a.sum ^ b.sum,
            check: a.check ^ b.check,
            count: a.count.wrapping_sub(b.count),
        };
        let difference: Vec<Symbol> = first.iter().zip(&second).map(less).collect();
        let is_empty = |symbol: &&Symbol| **symbol == Symbol::default();
        self.empty += difference.iter().filter(is_empty).count();
        self.decoder.add(&difference);
        self.taken += count;
        Ok(self.decoder.decoded())
    }

    /// How many symbols will probably be enough, all in all.
    ///
    /// An element is part of the symbol at place `i` with a chance of `1 / (1 + i / 2)`; so the
    /// number of empty symbols tells how many elements there are, once a few are empty.
    pub(super) fn enough(&self) -> usize {
        if self.empty < EMPTY_MIN {
            return 4 * self.taken;
        }
        let expected = |elements: f64| -> f64 {
            (0..self.taken).map(|place| (-elements / (1.0 + place as f64 / 2.0)).exp()).sum()
        };
        let (mut low, mut high) = (0.0, 64.0 * self.taken as f64);
        for _ in 0..30 {
            let middle = (low + high) / 2.0;
            match expected(middle) > self.empty as f64 {
                true => low = middle,
                false => high = middle,
            }
        }
        // What a sketch takes, and a little more.
        ((1.5 * high) as usize + 16).max(self.taken + self.taken / 4)
    }

    pub(super) fn finish(&self) -> OnlyIn {
        let (first, second) = self.decoder.difference();
        [first, second]
    }
}

fn read(bytes: &Bytes, count: usize) -> Result<Vec<Symbol>, VerifyError> {
    let symbols =
        decode_symbols(bytes).map_err(|_| VerifyError::Damaged("symbols cannot be read"))?;
    match symbols.len() == count {
        true => Ok(symbols),
        false => Err(VerifyError::Protocol("another number of symbols than asked for")),
    }
}

impl Run<'_, '_> {
    /// Finds the rows that differ. Gives why it ended before the end, if it did.
    pub(super) fn find(&mut self) -> Result<Option<String>, VerifyError> {
        if self.options.start.is_none() {
            self.selects_whole = true;
            let done = self.try_whole();
            self.selects_whole = false;
            if done? {
                return Ok(None);
            }
        }
        self.walk()
    }

    /// Tries with one sketch of all leaves. False: too many differ.
    fn try_whole(&mut self) -> Result<bool, VerifyError> {
        let tuning = self.options.tuning;
        let all = (Bytes::new(), None);
        let given = self.pair.as_mut().and_then(|pair| pair.symbols.take());
        let count = FIRST_SYMBOLS as usize;
        let found = self.leaves_that_differ(&all, given, count, tuning.whole_symbols_max)?;
        let Some(only_in) = found else { return Ok(false) };
        let few = only_in.iter().all(|leaves| leaves.len() <= tuning.few_leaves);
        if few && self.few_leaves(&only_in)? {
            return Ok(true);
        }
        self.rows_of_leaves(only_in)
    }

    /// The leaves that start in a range and differ, if a sketch of at most so many symbols tells.
    pub(super) fn leaves_that_differ(
        &mut self,
        range: &KeyRange,
        given: Option<Bytes>,
        first: usize,
        symbols_max: usize,
    ) -> Result<Option<OnlyIn>, VerifyError> {
        let mut difference = Difference::new();
        let mut given = given;
        let symbols_max = symbols_max.max(first);
        let mut next = first;
        while difference.taken < symbols_max {
            let count = (next - difference.taken).min(SYMBOLS_MAX);
            let mut symbols = [Bytes::new(), Bytes::new()];
            for (side, symbols) in symbols.iter_mut().enumerate() {
                *symbols = match given.take_if(|_| side == 1) {
                    Some(given) => given,
                    None => self.leaf_symbols(side, range, difference.taken, count)?,
                };
            }
            if difference.add(symbols, count)? {
                return Ok(Some(difference.finish()));
            }
            if difference.taken >= next {
                next = difference.enough().min(symbols_max);
            }
        }
        Ok(None)
    }

    fn leaf_symbols(
        &mut self,
        side: usize,
        range: &KeyRange,
        from: usize,
        count: usize,
    ) -> Result<Bytes, VerifyError> {
        let ask = LeafSymbols {
            session: self.session(side)?,
            start: range.0.clone(),
            end: range.1.clone(),
            from: from as u32,
            count: count as u32,
        };
        match self.sides[side].ask(Ask::LeafSymbols(ask))? {
            Tell::Symbols(symbols) => Ok(symbols),
            _ => Err(VerifyError::Protocol("another answer than symbols")),
        }
    }

    /// The number of a side's session.
    pub(super) fn session(&self, side: usize) -> Result<u64, VerifyError> {
        let pair = self.pair.as_ref().ok_or(VerifyError::NoSession)?;
        Ok(pair.heads[side].session)
    }
}
