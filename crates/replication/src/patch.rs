//! Parcels packed against the values that their entries replace.
//!
//! A small change inside of a large value makes an entry with all of the value. The replica has
//! the value before it, so the parcel is compressed with that one as a prefix, and what has not
//! changed costs next to nothing. The replica finds the prefix by row and column, checks it by
//! length and checksum, and asks for the whole where it has another.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::key::EncodedKey;
use isthmus_model::row::Row;
use isthmus_store::{ReplacedValue, StoreError, bytes_of};
use xxhash_rust::xxh3::xxh3_64;
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, DCtx};

use crate::error::ReplicationError;
use crate::frame::{Packed, Prior};
use crate::limits::{PRIORS_BYTES_MAX, PRIORS_MAX};
use crate::pack::{CODEC_ZSTD_PATCH, checked, length, packed};

/// zstd looks back as far as this at most: 2 to the power of it.
const WINDOW_LOG: std::ops::RangeInclusive<u32> = 18..=27;

/// Packs a parcel against what its entries replace; `None`: there is nothing, or it is of no use.
pub fn pack_patch(bytes: &[u8], replaced: &[ReplacedValue], level: i32) -> Option<Packed> {
    let mut prefix = Vec::new();
    let mut priors = Vec::new();
    for value in replaced.iter().take(PRIORS_MAX) {
        if prefix.len() + value.value.len() > PRIORS_BYTES_MAX {
            break;
        }
        prefix.extend_from_slice(&value.value);
        priors.push(Prior {
            key: value.key.0.clone(),
            column: value.column.bytes().clone(),
            bytes: value.value.len() as u64,
            checksum: xxh3_64(&value.value),
        });
    }
    if priors.is_empty() {
        return None;
    }
    let data = compress(bytes, &prefix, level)?;
    (data.len() < bytes.len()).then(|| Packed { priors, ..packed(CODEC_ZSTD_PATCH, bytes, data) })
}

fn compress(bytes: &[u8], prefix: &[u8], level: i32) -> Option<Bytes> {
    let reach = (prefix.len() + bytes.len()) as u64;
    let window_log =
        (u64::BITS - reach.leading_zeros()).clamp(*WINDOW_LOG.start(), *WINDOW_LOG.end());
    let mut compressor = Compressor::default();
    compressor.set_parameter(CParameter::CompressionLevel(level)).ok()?;
    compressor.set_parameter(CParameter::WindowLog(window_log)).ok()?;
    compressor.set_parameter(CParameter::EnableLongDistanceMatching(true)).ok()?;
    compressor.context_mut().ref_prefix(prefix).ok()?;
    compressor.compress(bytes).ok().map(Bytes::from)
}

/// Unpacks what was packed so. `row` gives the row of a key as it is before the parcel's entries.
pub fn unpack_patch(
    packed: &Packed,
    mut row: impl FnMut(&EncodedKey) -> Result<Option<Arc<Row>>, StoreError>,
) -> Result<Bytes, ReplicationError> {
    let length = length(packed)?;
    let prefix_bytes: u64 =
        packed.priors.iter().fold(0, |sum, prior| prior.bytes.saturating_add(sum));
    if packed.priors.len() > PRIORS_MAX || prefix_bytes > PRIORS_BYTES_MAX as u64 {
        return Err(ReplicationError::Damaged("a parcel is packed against more than may be"));
    }
    let mut prefix = Vec::with_capacity(prefix_bytes as usize);
    for prior in &packed.priors {
        let row = row(&EncodedKey(prior.key.clone()))?;
        let value = row.as_ref().and_then(|row| find(row, prior));
        prefix.extend_from_slice(value.ok_or(ReplicationError::PriorMissing)?);
    }
    let mut context = DCtx::create();
    let damaged = |_| ReplicationError::Damaged("a parcel cannot be decompressed");
    context.ref_prefix(&prefix).map_err(damaged)?;
    let mut bytes = Vec::with_capacity(length);
    context.decompress(&mut bytes, &packed.data).map_err(damaged)?;
    checked(packed, bytes.into())
}

fn find<'a>(row: &'a Row, prior: &Prior) -> Option<&'a Bytes> {
    let column = row.column(&prior.column)?;
    let values = column.cells.iter().filter_map(|cell| bytes_of(cell.value.as_ref()?));
    let mut alike = values.filter(|value| value.len() as u64 == prior.bytes);
    alike.find(|value| xxh3_64(value) == prior.checksum)
}

#[cfg(test)]
mod tests {
    use isthmus_model::hlc::{Hlc, Stamp};
    use isthmus_model::ids::{Origin, Timestamp};
    use isthmus_model::row::Cell;
    use isthmus_model::value::Value;

    use super::*;
    use crate::pack::unpack;

    const MIB: usize = 1024 * 1024;

    /// Bytes of no pattern.
    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let block = |place: u64| xxh3_64(&[seed, place].map(u64::to_le_bytes).concat());
        (0..bytes.div_ceil(8) as u64).flat_map(|place| block(place).to_le_bytes()).collect()
    }

    fn replaced(value: &[u8]) -> ReplacedValue {
        let key = EncodedKey(Bytes::from_static(b"key"));
        ReplacedValue { key, column: "doc".into(), value: Bytes::copy_from_slice(value) }
    }

    fn row(value: &[u8]) -> Row {
        let mut row = Row::default();
        row.column_mut(&"doc".into()).set(Cell {
            timestamp: Timestamp(1),
            stamp: Stamp { hlc: Hlc::from_millis(1), origin: Origin(1) },
            value: Some(Value::Binary(Bytes::copy_from_slice(value))),
        });
        row
    }

    #[test]
    fn change_of_a_kib_inside_of_a_mib_costs_about_a_kib() {
        let old = noise(1, MIB);
        let mut new = old.clone();
        new.splice(300_000..301_024, noise(2, 1024));
        let entry = [b"entry before ".as_slice(), &new, b" and after"].concat();
        for level in [1, 3, 9] {
            let packed = pack_patch(&entry, &[replaced(&old)], level).unwrap();
            assert!(packed.data.len() < 4096, "{} bytes at level {level}", packed.data.len());
            let unpacked = unpack_patch(&packed, |_| Ok(Some(Arc::new(row(&old))))).unwrap();
            assert_eq!(unpacked, entry);
            assert!(unpack(&packed).is_err());
        }
        // What is put in between moves all that comes after it.
        new.splice(5_000..5_000, noise(3, 777));
        let packed = pack_patch(&new, &[replaced(&old)], 1).unwrap();
        assert!(packed.data.len() < 4096, "{} bytes", packed.data.len());
    }

    #[test]
    fn several_values_are_patched_in_one_parcel() {
        let old: Vec<Vec<u8>> = (0..4).map(|seed| noise(seed, MIB / 2)).collect();
        let replaced: Vec<ReplacedValue> = old.iter().map(|value| replaced(value)).collect();
        let packed = pack_patch(&old.concat(), &replaced, 1).unwrap();
        assert!(packed.data.len() < 4096, "{} bytes", packed.data.len());
        let mut rows = old.iter();
        let unpacked = unpack_patch(&packed, |_| Ok(rows.next().map(|value| Arc::new(row(value)))));
        assert_eq!(unpacked.unwrap(), old.concat());
    }

    #[test]
    fn other_values_are_found_out() {
        let old = noise(1, MIB / 4);
        let packed = pack_patch(&old, &[replaced(&old)], 1).unwrap();
        let other = noise(9, MIB / 4);
        for found in [None, Some(Row::default()), Some(row(&other)), Some(row(b"short"))] {
            let unpacked = unpack_patch(&packed, |_| Ok(found.clone().map(Arc::new)));
            assert!(matches!(unpacked, Err(ReplicationError::PriorMissing)));
        }
    }

    #[test]
    fn bombs_and_damage_are_refused() {
        let old = noise(1, MIB / 4);
        let good = pack_patch(&old, &[replaced(&old)], 1).unwrap();
        let mut many = good.clone();
        many.priors = vec![good.priors[0].clone(); PRIORS_MAX + 1];
        let mut large = good.clone();
        large.priors[0].bytes = u64::MAX;
        let mut longer = good.clone();
        longer.bytes_unpacked = 1 << 40;
        let mut shorter = good.clone();
        shorter.bytes_unpacked -= 1;
        let mut torn = good.clone();
        torn.data.truncate(5);
        let mut other = good.clone();
        other.checksum ^= 1;
        for packed in [many, large, longer, shorter, torn, other] {
            let unpacked = unpack_patch(&packed, |_| Ok(Some(Arc::new(row(&old)))));
            assert!(matches!(unpacked, Err(ReplicationError::Damaged(_))), "{unpacked:?}");
        }
        let nothing = pack_patch(&old, &[], 1);
        assert!(nothing.is_none());
        let useless = pack_patch(&old, &[replaced(&noise(8, MIB / 4))], 1);
        assert!(useless.is_none());
    }
}
