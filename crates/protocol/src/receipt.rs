//! Receipts: opaque text that names writes, so that others can tell whether they have them.
//!
//! Layout, in base64 without padding and with the alphabet for URLs: version byte; a count; that
//! many marks of table, partition, origin, epoch and LSN, big-endian; then the first 4 bytes of the
//! SHA-256 of all that, so that one that was cut or mistyped is refused. A receipt is no secret
//! and proves nothing: who makes one up only lets a read or a question of its own wait.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId, TableId};
use sha2::{Digest, Sha256};

const VERSION: u8 = 1;
const MARK_BYTES: usize = 8 + 8 + 1 + 8 + 8;
const SUM_BYTES: usize = 4;
/// Tables of one batch at most.
pub const MARKS_MAX: usize = 200;
/// Characters of the longest receipt.
const CHARS_MAX: usize = (2 + MARKS_MAX * MARK_BYTES + SUM_BYTES).div_ceil(3) * 4;

/// The last write of a batch in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The table.
    pub table: TableId,
    /// The partition.
    pub partition: PartitionId,
    /// The region that made it.
    pub origin: Origin,
    /// The epoch under which it was made.
    pub epoch: Epoch,
    /// Its address in the log of its origin.
    pub lsn: Lsn,
}

/// Names writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    marks: Vec<Mark>,
}

impl Receipt {
    /// Adds a write. Of several in one partition the last one of an origin is kept, since it
    /// covers those before. Past the bound none is added.
    pub fn add(&mut self, mark: Mark) {
        let place = |mark: &Mark| (mark.table, mark.partition, mark.origin);
        match self.marks.iter().position(|known| place(known) == place(&mark)) {
            Some(at) if self.marks[at].lsn < mark.lsn => self.marks[at] = mark,
            Some(_) => {}
            None if self.marks.len() < MARKS_MAX => self.marks.push(mark),
            None => {}
        }
    }

    /// What it names.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// Its text.
    pub fn to_text(&self) -> String {
        let mut bytes = vec![VERSION, self.marks.len() as u8];
        for mark in &self.marks {
            bytes.extend_from_slice(&mark.table.0.to_be_bytes());
            bytes.extend_from_slice(&mark.partition.0.to_be_bytes());
            bytes.push(mark.origin.0);
            bytes.extend_from_slice(&mark.epoch.0.to_be_bytes());
            bytes.extend_from_slice(&mark.lsn.0.to_be_bytes());
        }
        let sum = sum(&bytes);
        bytes.extend_from_slice(&sum);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads what `to_text` wrote; `None`: it is not that.
    pub fn parse(text: &str) -> Option<Receipt> {
        if text.len() > CHARS_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (content, told) = bytes.split_at(bytes.len().checked_sub(SUM_BYTES)?);
        let [VERSION, count, marks @ ..] = content else { return None };
        let is_whole = marks.len() == usize::from(*count) * MARK_BYTES;
        if sum(content) != told || !is_whole || *count == 0 || usize::from(*count) > MARKS_MAX {
            return None;
        }
        let number = |mark: &[u8], at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&mark[at..at + 8]);
            u64::from_be_bytes(bytes)
        };
        let mark = |mark: &[u8]| Mark {
            table: TableId(number(mark, 0)),
            partition: PartitionId(number(mark, 8)),
            origin: Origin(mark[16]),
            epoch: Epoch(number(mark, 17)),
            lsn: Lsn(number(mark, 25)),
        };
        Some(Receipt { marks: marks.chunks_exact(MARK_BYTES).map(mark).collect() })
    }
}

fn sum(bytes: &[u8]) -> [u8; SUM_BYTES] {
    let mut sum = [0; SUM_BYTES];
    sum.copy_from_slice(&Sha256::digest(bytes)[..SUM_BYTES]);
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn mark(table: u64, origin: u8, lsn: u64) -> Mark {
        Mark {
            table: TableId(table),
            partition: PartitionId(table),
            origin: Origin(origin),
            epoch: Epoch(3),
            lsn: Lsn(lsn),
        }
    }

    #[test]
    fn a_receipt_keeps_the_last_write_of_each_origin() {
        let mut receipt = Receipt::default();
        for one in [mark(7, 1, 5), mark(7, 1, 9), mark(7, 1, 8), mark(7, 2, 4), mark(8, 1, 1)] {
            receipt.add(one);
        }
        assert_eq!(receipt.marks(), [mark(7, 1, 9), mark(7, 2, 4), mark(8, 1, 1)]);
        assert_eq!(Receipt::parse(&receipt.to_text()).unwrap(), receipt);
    }

    #[test]
    fn the_text_stays_what_it_is() {
        let mut receipt = Receipt::default();
        receipt.add(mark(7, 1, 9));
        let text = receipt.to_text();
        assert!(text.starts_with("AQEAAAAAAAAABwAAAAAAAAAHAQAAAAAAAAADAAAAAAAAAA"), "{text}");
    }

    #[test]
    fn what_no_write_gave_is_refused() {
        let mut receipt = Receipt::default();
        receipt.add(mark(7, 1, 9));
        let text = receipt.to_text();
        let long = "A".repeat(CHARS_MAX + 4);
        for wrong in ["", "AQEA", &text[..text.len() - 1], &format!("{text}AAAA"), &long, "é"] {
            assert!(Receipt::parse(wrong).is_none(), "{wrong}");
        }
        assert!(Receipt::parse(&Receipt::default().to_text()).is_none());
        let mut many = Receipt::default();
        (0..MARKS_MAX as u64 + 50).for_each(|table| many.add(mark(table, 1, 1)));
        assert_eq!(many.marks().len(), MARKS_MAX);
        assert_eq!(Receipt::parse(&many.to_text()).unwrap(), many);
    }

    proptest! {
        #[test]
        fn any_changed_character_is_noticed(at in 0usize..52, to in any::<u8>()) {
            let mut receipt = Receipt::default();
            receipt.add(mark(7, 1, 9));
            let text = receipt.to_text();
            let mut changed = text.clone().into_bytes();
            let letters: Vec<u8> = (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').collect();
            changed[at] = letters[usize::from(to) % letters.len()];
            let changed = String::from_utf8(changed).unwrap();
            match changed == text {
                true => prop_assert_eq!(Receipt::parse(&changed).unwrap(), receipt),
                false => prop_assert!(Receipt::parse(&changed).is_none()),
            }
        }
    }
}
