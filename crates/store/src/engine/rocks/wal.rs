//! Tells a torn end of the write-ahead log from damage before it.
//!
//! Every commit is synced before the next one is written, so that a power cut can tear one record
//! at most, the last. RocksDB cannot tell a torn record whose file has its full length, with
//! zeros where the disk had not got to, from a damaged one. So the files are looked at: if a
//! record begins anywhere after the damage, in that file or a later one, something acknowledged
//! would be lost, and the directory is refused.
//!
//! Format: blocks of 32 KiB; a record is a masked CRC-32C, a length, a type, and the bytes. A
//! record that does not fit is split in a first, middle and last part.

use std::fs;
use std::path::{Path, PathBuf};

use crate::engine::EngineError;

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;
const TYPE_ZERO: u8 = 0;
const TYPE_FULL: u8 = 1;
const TYPE_FIRST: u8 = 2;
const TYPE_LAST: u8 = 4;
const CRC_MASK: u32 = 0xa282_ead8;

/// Goes by if all that is damaged is the last record of the newest file that holds anything.
pub(super) fn check_torn_tail(folder: &Path, damage: &str) -> Result<(), EngineError> {
    let files = log_files(folder).map_err(|error| {
        EngineError::Failed(format!("cannot read the write-ahead log: {error}"))
    })?;
    let mut torn: Option<&Path> = None;
    let mut contents = Vec::new();
    for path in &files {
        let bytes = fs::read(path)
            .map_err(|error| EngineError::Failed(format!("cannot read {path:?}: {error}")))?;
        contents.push((path, bytes));
    }
    for (path, bytes) in &contents {
        if torn.is_some() && records_begin_in(bytes, 0) {
            return Err(refused(torn.unwrap_or(path), damage));
        }
        if let Some(place) = first_damage(bytes) {
            if records_begin_in(bytes, place + 1) {
                return Err(refused(path, damage));
            }
            torn = Some(path);
        }
    }
    // Without damage in the log, what RocksDB complains of lies elsewhere.
    if torn.is_some() { Ok(()) } else { Err(EngineError::Corrupt(damage.into())) }
}

fn refused(path: &Path, damage: &str) -> EngineError {
    EngineError::Corrupt(format!(
        "{} is damaged before its end, and acknowledged writes are in it ({damage}): restore the \
         directory from a backup, or start with an empty one and copy from another region",
        path.display()
    ))
}

/// Files of the write-ahead log, oldest first.
fn log_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            files.push(path);
        }
    }
    // Names are numbers, and longer ones greater.
    files.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    Ok(files)
}

/// One physical record.
struct Part {
    kind: u8,
    end: usize,
}

/// The record at a place, if its checksum is right. A record never crosses a block.
fn part_at(bytes: &[u8], place: usize) -> Option<Part> {
    let header = bytes.get(place..)?.first_chunk::<HEADER>()?;
    let [c0, c1, c2, c3, l0, l1, kind] = *header;
    let length = usize::from(u16::from_le_bytes([l0, l1]));
    let end = place + HEADER + length;
    if kind == TYPE_ZERO || end > (place / BLOCK + 1) * BLOCK {
        return None;
    }
    let checked = bytes.get(place + HEADER - 1..end)?;
    let masked = crc32c(checked).rotate_right(15).wrapping_add(CRC_MASK);
    (masked == u32::from_le_bytes([c0, c1, c2, c3])).then_some(Part { kind, end })
}

/// Where the first record lies that is not whole: `None` if all are.
fn first_damage(bytes: &[u8]) -> Option<usize> {
    let mut place = 0;
    let mut begun = None;
    while place < bytes.len() {
        let left_in_block = BLOCK - place % BLOCK;
        if left_in_block < HEADER {
            place += left_in_block;
            continue;
        }
        let Some(part) = part_at(bytes, place) else { return Some(begun.unwrap_or(place)) };
        begun = match part.kind {
            TYPE_FIRST => Some(place),
            TYPE_FULL | TYPE_LAST => None,
            _ => begun,
        };
        place = part.end;
    }
    begun
}

/// Whether a whole record, or the first part of one, lies anywhere from a place on.
fn records_begin_in(bytes: &[u8], from: usize) -> bool {
    (from..bytes.len()).any(|place| {
        let kind = bytes.get(place + HEADER - 1);
        kind.is_some_and(|kind| *kind == TYPE_FULL || *kind == TYPE_FIRST)
            && part_at(bytes, place).is_some()
    })
}

const fn crc32c_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

const CRC32C: [u32; 256] = crc32c_table();

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| CRC32C[((crc as u8) ^ byte) as usize] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_the_castagnoli_one() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
