//! From roots to the leaves that differ.
//!
//! Sketches of both sides are taken from each other here, so that neither side needs to know the
//! leaves of the other one, and either may be elsewhere. A sketch of coarse ranges costs the sides
//! little: it names the ranges that differ, so that only their leaves need be looked at, or tells
//! about how many leaves differ, so that a sketch of all leaves is asked for at its right size.

use bytes::Bytes;
use isthmus_digest::{Decoder, Estimate, Symbol, decode_symbols};

use crate::verify::answer::{SketchTold, Tell};
use crate::verify::compare::{Looked, Run};
use crate::verify::error::VerifyError;
use crate::verify::limits::{COARSE_SYMBOLS, FIRST_SYMBOLS, SYMBOLS_MAX};
use crate::verify::question::{Ask, LeafSymbols, Named, Sketch};

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
        let difference: Vec<Symbol> = first.iter().zip(&second).map(|(a, b)| a.less(b)).collect();
        self.empty += difference.iter().filter(|symbol| symbol.is_empty()).count();
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

/// Where leaves are looked for.
pub(super) struct At {
    keys: KeyRange,
    /// On each side in these coarse ranges only.
    coarse: Option<OnlyIn>,
}

impl At {
    /// In a range of keys.
    pub(super) fn keys(keys: KeyRange) -> At {
        At { keys, coarse: None }
    }
}

/// What is known of coarse ranges.
enum Coarse {
    /// These differ.
    Named(OnlyIn),
    /// So many leaves of either side differ, about.
    About(usize),
    /// A side does not know them.
    Unknown,
}

/// Beyond this share of ranges that differ it does not matter how many leaves do.
const SHARE_MAX: f64 = 0.98;

/// Symbols that are mostly enough for about so many elements.
fn enough_for(elements: usize) -> usize {
    elements + elements / 2 + FIRST_SYMBOLS as usize / 2
}

impl Run<'_, '_> {
    /// Finds the rows that differ. Gives why it ended before the end, if it did.
    pub(super) fn find(&mut self) -> Result<Option<String>, VerifyError> {
        if self.options.start.is_none() {
            self.selects_whole = true;
            let mut looked = self.try_whole();
            if self.is_narrow() && matches!(looked, Ok(Looked::Unproved)) {
                looked = self.widen().and_then(|()| self.try_whole());
            }
            self.selects_whole = false;
            if looked? == Looked::Done {
                return Ok(None);
            }
        }
        self.walk()
    }

    /// Tries without a walk.
    fn try_whole(&mut self) -> Result<Looked, VerifyError> {
        let tuning = self.options.tuning;
        let mut place = At::keys((Bytes::new(), None));
        let mut first = FIRST_SYMBOLS as usize;
        match self.coarse_that_differ()? {
            Coarse::Named(ranges) => {
                let few = ranges.iter().all(|ranges| ranges.len() <= tuning.few_ranges);
                if few {
                    match self.few_leaves(ranges.clone().map(Named::coarse))? {
                        Looked::TooMuch => {}
                        looked => return Ok(looked),
                    }
                }
                place.coarse = Some(ranges);
            }
            Coarse::About(leaves) if leaves > tuning.whole_symbols_max => {
                return Ok(Looked::TooMuch);
            }
            Coarse::About(leaves) => first = enough_for(leaves),
            Coarse::Unknown => {}
        }
        let found = self.leaves_that_differ(&place, first, tuning.whole_symbols_max)?;
        let Some(only_in) = found else { return Ok(Looked::TooMuch) };
        let few = only_in.iter().all(|leaves| leaves.len() <= tuning.few_leaves);
        if few && self.is_skilled() {
            match self.few_leaves(only_in.clone().map(Named::leaves))? {
                Looked::TooMuch => {}
                looked => return Ok(looked),
            }
        }
        self.rows_of_leaves(only_in)
    }

    /// Whether both sides know more than the first version did.
    pub(super) fn is_skilled(&self) -> bool {
        self.pair.as_ref().is_some_and(|pair| pair.skilled)
    }

    fn coarse_that_differ(&mut self) -> Result<Coarse, VerifyError> {
        if !self.is_skilled() {
            return Ok(Coarse::Unknown);
        }
        let told = self.pair.as_mut().and_then(|pair| pair.sketch.take());
        let second = match told {
            Some(told) => told,
            None => self.sketch(1)?,
        };
        let sketches = [self.sketch(0)?, second];
        let mut difference = Difference::new();
        let symbols = [sketches[0].symbols.clone(), sketches[1].symbols.clone()];
        if difference.add(symbols, COARSE_SYMBOLS as usize)? {
            return Ok(Coarse::Named(difference.finish()));
        }
        let damaged = |_| VerifyError::Damaged("estimate cannot be read");
        let [one, two] = [&sketches[0].estimate, &sketches[1].estimate];
        let one = Estimate::decode(one).map_err(damaged)?;
        let two = Estimate::decode(two).map_err(damaged)?;
        let ranges = sketches.iter().map(|sketch| sketch.ranges).max().unwrap_or_default() as f64;
        // Ranges by chance: some hold several of the leaves that differ. Each is on both sides.
        let share = (one.difference(&two) / 2.0 / ranges.max(1.0)).min(SHARE_MAX);
        Ok(Coarse::About((-2.0 * ranges * (1.0 - share).ln()) as usize))
    }

    fn sketch(&mut self, side: usize) -> Result<SketchTold, VerifyError> {
        let ask = Sketch { session: self.session(side)?, count: COARSE_SYMBOLS };
        match self.sides[side].ask(Ask::Sketch(ask))? {
            Tell::Sketch(sketch) => Ok(sketch),
            _ => Err(VerifyError::Protocol("another answer than a sketch")),
        }
    }

    /// The leaves of some place that differ, if a sketch of at most so many symbols tells.
    pub(super) fn leaves_that_differ(
        &mut self,
        place: &At,
        first: usize,
        symbols_max: usize,
    ) -> Result<Option<OnlyIn>, VerifyError> {
        let mut difference = Difference::new();
        let symbols_max = symbols_max.max(1);
        let mut next = first.clamp(1, symbols_max);
        while difference.taken < symbols_max {
            let count = (next - difference.taken).min(SYMBOLS_MAX);
            let asks = [0, 1].map(|side| self.leaf_symbols(side, place, difference.taken, count));
            let [first, second] = asks;
            let symbols = self.ask_both([first?, second?])?.map(|told| match told {
                Tell::Symbols(symbols) => Ok(symbols),
                _ => Err(VerifyError::Protocol("another answer than symbols")),
            });
            let [first, second] = symbols;
            if difference.add([first?, second?], count)? {
                return Ok(Some(difference.finish()));
            }
            if difference.taken >= next {
                next = difference.enough().min(symbols_max);
            }
        }
        Ok(None)
    }

    fn leaf_symbols(
        &self,
        side: usize,
        place: &At,
        from: usize,
        count: usize,
    ) -> Result<Ask, VerifyError> {
        Ok(Ask::LeafSymbols(LeafSymbols {
            session: self.session(side)?,
            start: place.keys.0.clone(),
            end: place.keys.1.clone(),
            from: from as u32,
            count: count as u32,
            short: self.is_skilled(),
            in_coarse: place.coarse.is_some(),
            coarse: place.coarse.as_ref().map(|ranges| ranges[side].clone()).unwrap_or_default(),
        }))
    }

    /// Asks both sides at one time.
    pub(super) fn ask_both(&mut self, asks: [Ask; 2]) -> Result<[Tell; 2], VerifyError> {
        let [first, second] = asks;
        self.sides[1].ahead(second.clone());
        Ok([self.sides[0].ask(first)?, self.sides[1].ask(second)?])
    }

    /// The number of a side's session.
    pub(super) fn session(&self, side: usize) -> Result<u64, VerifyError> {
        let pair = self.pair.as_ref().ok_or(VerifyError::NoSession)?;
        Ok(pair.heads[side].session)
    }
}
