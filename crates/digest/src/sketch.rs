//! Sketches of sets: as many symbols as two sets differ in, not as many as they hold.
//!
//! A rateless invertible Bloom lookup table, after "Practical Rateless Set Reconciliation" (Yang,
//! Gilad and Alizadeh, SIGCOMM 2024). One side sends symbols of its set, one after another; the
//! other takes the same symbols of its own set away and names the difference as soon as about 1.35
//! to 1.7 times as many symbols have come as elements differ. Both sides must map elements to
//! symbols alike: the mapping uses only operations that are exact by IEEE 754 (product, quotient,
//! square root), and a test pins it.
//!
//! Elements are keyed fingerprints, distinct within a set. Of narrow ones two may meet; then one is
//! named wrongly or not at all, so whoever takes narrow ones proves by sums that all are named. A
//! peer that sends nonsense gets no answer, or a wrong one: whoever acts on a difference looks at
//! the rows themselves first.

use crate::Damaged;
use crate::codec::{Reader, put_number, put_signed};

/// The elements that map to one place, folded into one.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Symbol {
    /// The exclusive or of the elements.
    pub sum: u64,
    /// The exclusive or of a hash of each.
    pub check: u64,
    /// How many they are.
    pub count: i64,
}

impl Symbol {
    fn fold(&mut self, element: u64, check: u64, count: i64) {
        self.sum ^= element;
        self.check ^= check;
        self.count = self.count.wrapping_add(count);
    }

    /// This symbol of one set less that of another: what is left of either alone.
    pub fn less(&self, other: &Symbol) -> Symbol {
        Symbol {
            sum: self.sum ^ other.sum,
            check: self.check ^ other.check,
            count: self.count.wrapping_sub(other.count),
        }
    }

    /// Whether nothing maps to it, or what does is the same on both sides.
    pub fn is_empty(&self) -> bool {
        self.sum == 0 && self.count == 0 && self.check & CHECK_MASK == 0
    }

    /// Whether this is a single element, of which side. `place` is where the symbol stands.
    fn single(&self, place: u64) -> Option<i64> {
        let is_single = self.count.unsigned_abs() == 1
            && (self.check ^ check_of(self.sum)) & CHECK_MASK == 0
            && Mapped::new(self.sum).is_part_of(place);
        is_single.then_some(self.count)
    }
}

/// What of a check is sent, and compared. Together with the place, to which few elements map, that
/// tells a single element; where it errs the sketch is not decoded and more symbols are asked for.
const CHECK_BYTES: usize = 3;
const CHECK_MASK: u64 = (1 << (8 * CHECK_BYTES)) - 1;

/// The hash of an element that tells a single element from a mixture.
fn check_of(element: u64) -> u64 {
    mix(element ^ 0x5851_f42d_4c95_7f2d)
}

/// Spreads every bit over all others (the finalizer of MurmurHash3, with Stafford's constants).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// An element and the next symbol it is part of. Every element is part of the first symbol, and
/// of the one at place `i` with a chance of `1 / (1 + i / 2)`.
#[derive(Clone, Copy, Debug)]
struct Mapped {
    element: u64,
    random: u64,
    next: u64,
}

impl Mapped {
    fn new(element: u64) -> Mapped {
        Mapped { element, random: mix(element), next: 0 }
    }

    fn advance(&mut self) {
        self.random = self.random.wrapping_mul(0xda94_2042_e4dd_58b5);
        // In (0, 1], with 53 bits: exact.
        let chance = ((self.random >> 11) + 1) as f64 / (1u64 << 53) as f64;
        let jump = (self.next as f64 + 1.5) * (1.0 / chance.sqrt() - 1.0);
        // Rounded up; at least one. Beyond the greatest number it stays there.
        self.next = self.next.saturating_add(jump as u64).saturating_add(1);
    }

    /// Whether the element, not advanced yet, is part of the symbol at a place.
    fn is_part_of(mut self, place: u64) -> bool {
        while self.next < place {
            self.advance();
        }
        self.next == place
    }

    /// Folds the element into its places before the end of `symbols`, the first being at `base`.
    fn fold_into(&mut self, symbols: &mut [Symbol], base: u64) {
        let check = check_of(self.element);
        while let Some(symbol) = symbols.get_mut((self.next - base) as usize) {
            symbol.fold(self.element, check, 1);
            self.advance();
        }
    }
}

/// Symbols that one call gives at most.
const SYMBOLS_MAX: usize = 1 << 20;
/// Symbols made at once at least: a pass over all elements costs more than these.
const SYMBOLS_AHEAD_MIN: usize = 256;

/// Gives the symbols of a set, one after another.
#[derive(Clone, Debug)]
pub struct Encoder {
    elements: Vec<Mapped>,
    /// Symbols that are made and not given yet.
    ahead: Vec<Symbol>,
    /// The place of the first of these.
    base: u64,
}

impl Encoder {
    /// For a set of distinct elements.
    pub fn new(elements: impl Iterator<Item = u64>) -> Encoder {
        let elements = elements.map(Mapped::new).collect();
        Encoder { elements, ahead: Vec::new(), base: 0 }
    }

    /// The next symbols: as many as asked for, but at most 2^20 in one call.
    pub fn symbols(&mut self, count: usize) -> Vec<Symbol> {
        let count = count.min(SYMBOLS_MAX);
        if count > self.ahead.len() {
            self.make(count);
        }
        let rest = self.ahead.split_off(count);
        self.base += count as u64;
        std::mem::replace(&mut self.ahead, rest)
    }

    /// How many elements the set has.
    pub fn elements(&self) -> usize {
        self.elements.len()
    }

    /// Makes at least `count` symbols from `base` on, so many more that passes stay few.
    fn make(&mut self, count: usize) {
        let made = self.ahead.len();
        let doubled = usize::try_from(self.base).unwrap_or(SYMBOLS_MAX).min(SYMBOLS_MAX);
        let wanted = count.max(made + SYMBOLS_AHEAD_MIN.max(doubled / 2));
        self.ahead.resize(wanted, Symbol::default());
        for element in &mut self.elements {
            element.fold_into(&mut self.ahead, self.base);
        }
    }
}

/// Finds in what a set here differs from the set that a sketch was made of.
#[derive(Clone, Debug)]
pub struct Decoder {
    local: Encoder,
    /// What remains of each symbol: the elements only one side has and that are not known yet.
    remaining: Vec<Symbol>,
    /// How many of these are not empty.
    unsolved: usize,
    /// Known elements of the difference: 1 if only the other side has it, -1 if only this one.
    known: Vec<(Mapped, i64)>,
}

impl Decoder {
    /// For the set here, of distinct elements.
    pub fn new(local: impl Iterator<Item = u64>) -> Decoder {
        let local = Encoder::new(local);
        Decoder { local, remaining: Vec::new(), unsolved: 0, known: Vec::new() }
    }

    /// Takes in the next symbols of the other side, in their order.
    pub fn add(&mut self, remote: &[Symbol]) {
        for remote in remote.chunks(SYMBOLS_MAX) {
            self.add_chunk(remote);
        }
    }

    fn add_chunk(&mut self, remote: &[Symbol]) {
        let from = self.remaining.len();
        let local = self.local.symbols(remote.len());
        for (remote, local) in remote.iter().zip(local) {
            self.remaining.push(remote.less(&local));
        }
        for (element, side) in &mut self.known {
            let check = check_of(element.element);
            while let Some(symbol) = self.remaining.get_mut(element.next as usize) {
                symbol.fold(element.element, check, -*side);
                element.advance();
            }
        }
        self.unsolved += self.remaining[from..].iter().filter(|left| !left.is_empty()).count();
        self.solve((from..self.remaining.len()).collect());
    }

    /// Takes single elements out of all symbols they are part of, which leaves more single ones.
    fn solve(&mut self, mut places: Vec<usize>) {
        while let Some(place) = places.pop() {
            let Some(side) = self.remaining[place].single(place as u64) else { continue };
            // Honest symbols never name more elements than there are symbols.
            if self.known.len() >= self.remaining.len() {
                return;
            }
            let mut element = Mapped::new(self.remaining[place].sum);
            let check = check_of(element.element);
            while let Some(symbol) = self.remaining.get_mut(element.next as usize) {
                let was_empty = symbol.is_empty();
                symbol.fold(element.element, check, -side);
                match (was_empty, symbol.is_empty()) {
                    (false, true) => self.unsolved -= 1,
                    (true, false) => self.unsolved += 1,
                    (true, true) | (false, false) => {}
                }
                places.push(element.next as usize);
                element.advance();
            }
            self.known.push((element, side));
        }
    }

    /// How many symbols have been taken in.
    pub fn symbols(&self) -> usize {
        self.remaining.len()
    }

    /// Whether the whole difference is known.
    pub fn decoded(&self) -> bool {
        !self.remaining.is_empty() && self.unsolved == 0
    }

    /// What is known of the difference: the elements that only the other side has, and those that
    /// only this one has. It is all once `decoded`.
    pub fn difference(&self) -> (Vec<u64>, Vec<u64>) {
        let side_of = |wanted: i64| {
            let of = self.known.iter().filter(move |(_, side)| *side == wanted);
            of.map(|(element, _)| element.element).collect()
        };
        (side_of(1), side_of(-1))
    }
}

const VERSION: u8 = 1;
const SHORT: u8 = 2;
const NARROW: u8 = 3;
const WHAT: &str = "symbols of a sketch";
const SYMBOL_BYTES_MIN: usize = 17;

/// How wide the elements of a sketch are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Width {
    /// 64 bits: no two fingerprints of a table are alike but by a very small chance.
    #[default]
    Wide,
    /// 40 bits: some may be, so that what a sketch names must be proved to be all by sums.
    Narrow,
}

impl Width {
    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Width::Wide => 8,
            Width::Narrow => 5,
        }
    }

    /// The bits of a fingerprint that are the element.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }

    /// Elements on the wire, one after the other.
    pub fn encode(self, elements: &[u64]) -> Vec<u8> {
        let mut out = Vec::with_capacity(elements.len() * self.bytes());
        for element in elements {
            out.extend_from_slice(&element.to_le_bytes()[..self.bytes()]);
        }
        out
    }

    /// What was encoded.
    pub fn decode(self, bytes: &[u8]) -> Result<Vec<u64>, Damaged> {
        if !bytes.len().is_multiple_of(self.bytes()) {
            return Err(Damaged { what: "elements of a sketch" });
        }
        let element = |bytes: &[u8]| {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(whole)
        };
        Ok(bytes.chunks_exact(self.bytes()).map(element).collect())
    }

    /// Bytes of the shortest symbol in the short form.
    const fn short_bytes_min(self) -> usize {
        self.bytes() + CHECK_BYTES + 1
    }
}

/// The form of symbols on the wire.
pub fn encode_symbols(symbols: &[Symbol]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + 19 * symbols.len());
    out.push(VERSION);
    put_number(&mut out, symbols.len() as u64);
    for symbol in symbols {
        out.extend_from_slice(&symbol.sum.to_le_bytes());
        out.extend_from_slice(&symbol.check.to_le_bytes());
        put_signed(&mut out, symbol.count);
    }
    out
}

/// The short form: of checks what is compared, of counts by how much they miss what is to be
/// expected. The first symbol stands at place `from` of a sketch of so many elements of a width.
pub fn encode_symbols_short(symbols: &[Symbol], width: Width, from: u64, elements: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(24 + (width.short_bytes_min() + 1) * symbols.len());
    out.push(match width {
        Width::Wide => SHORT,
        Width::Narrow => NARROW,
    });
    put_number(&mut out, symbols.len() as u64);
    put_number(&mut out, from);
    put_number(&mut out, elements);
    for (place, symbol) in (from..).zip(symbols) {
        out.extend_from_slice(&symbol.sum.to_le_bytes()[..width.bytes()]);
        out.extend_from_slice(&symbol.check.to_le_bytes()[..CHECK_BYTES]);
        put_signed(&mut out, symbol.count.wrapping_sub(expected(place, elements)));
    }
    out
}

/// How many elements map to a place, about.
fn expected(place: u64, elements: u64) -> i64 {
    let expected = u128::from(elements) * 2 / (u128::from(place) + 2);
    i64::try_from(expected).unwrap_or(i64::MAX)
}

/// The symbols that were encoded, in either form. Checks are told as far as they are compared.
pub fn decode_symbols(bytes: &[u8]) -> Result<Vec<Symbol>, Damaged> {
    let mut reader = Reader::new(bytes, WHAT);
    let version = reader.byte()?;
    let symbols = match version {
        VERSION => {
            let count = reader.count(SYMBOL_BYTES_MIN)?;
            let mut symbols = Vec::with_capacity(count);
            for _ in 0..count {
                let sum = u64::from_le_bytes(reader.array()?);
                let check = u64::from_le_bytes(reader.array()?) & CHECK_MASK;
                symbols.push(Symbol { sum, check, count: reader.signed()? });
            }
            symbols
        }
        SHORT => decode_short(&mut reader, Width::Wide)?,
        NARROW => decode_short(&mut reader, Width::Narrow)?,
        _ => return reader.damaged(),
    };
    reader.finish()?;
    Ok(symbols)
}

fn decode_short(reader: &mut Reader<'_>, width: Width) -> Result<Vec<Symbol>, Damaged> {
    let count = reader.count(width.short_bytes_min())?;
    let from = reader.number()?;
    let elements = reader.number()?;
    let mut symbols = Vec::with_capacity(count);
    for place in (from..).take(count) {
        let mut sum = [0; 8];
        sum[..width.bytes()].copy_from_slice(reader.take(width.bytes())?);
        let mut check = [0; 8];
        check[..CHECK_BYTES].copy_from_slice(&reader.array::<CHECK_BYTES>()?);
        let count = reader.signed()?.wrapping_add(expected(place, elements));
        let (sum, check) = (u64::from_le_bytes(sum), u64::from_le_bytes(check));
        symbols.push(Symbol { sum, check, count });
    }
    Ok(symbols)
}

#[cfg(test)]
mod tests;
