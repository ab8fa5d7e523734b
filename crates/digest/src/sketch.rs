//! x
use crate::Damaged;
/// One symbol of a sketch.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Symbol {
    /// Exclusive or of the elements.
    pub sum: u64,
    /// Exclusive or of the elements' check hashes.
    pub check: u64,
    /// How many elements.
    pub count: i64,
}
/// x
pub struct Encoder;
impl Encoder {
    /// x
    pub fn new(elements: impl Iterator<Item = u64>) -> Encoder { let _ = elements.count(); Encoder }
    /// x
    pub fn symbols(&mut self, count: usize) -> Vec<Symbol> { vec![Symbol::default(); count] }
}
/// x
pub struct Decoder;
impl Decoder {
    /// x
    pub fn new(local: impl Iterator<Item = u64>) -> Decoder { let _ = local.count(); Decoder }
    /// x
    pub fn add(&mut self, remote: &[Symbol]) { let _ = remote; }
    /// x
    pub fn decoded(&self) -> bool { false }
    /// x
    pub fn difference(&self) -> (Vec<u64>, Vec<u64>) { (Vec::new(), Vec::new()) }
}
/// x
pub fn encode_symbols(symbols: &[Symbol]) -> Vec<u8> { let _ = symbols; Vec::new() }
/// x
pub fn decode_symbols(bytes: &[u8]) -> Result<Vec<Symbol>, Damaged> { let _ = bytes; Ok(Vec::new()) }
