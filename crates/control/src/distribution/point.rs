//! Where a row is in the order of the partitions of its table.
//!
//! By range a point is the first key column in the encoding that keeps the order of keys, and any
//! beginning of one is a point as well, so that a prefix has a begin and an end. By hash it is 8
//! bytes, big-endian, of a keyed hash of that encoding. Records and rows at rest depend on both:
//! they never change, and a test pins the hash.

use std::fmt;

use highway::{HighwayHash, HighwayHasher, Key};
use isthmus_model::key::{EncodedKey, KeyValue, PrimaryKey};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The key of the hash that divides rows. An arbitrary constant.
const ROOT: [u64; 4] =
    [0x6973_7468_6d75_7320, 0x7061_7274_6974_696f, 0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03];
/// Bytes of a string or binary end with so many that no prefix has.
const END_BYTES: usize = 2;
/// Bytes of a hash.
const HASH_BYTES: usize = 8;

/// A place in the order of the partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point(Vec<u8>);

impl Point {
    /// Of a row that is found by the hash of its first key column.
    pub fn of_hash(value: &KeyValue) -> Point {
        Point(hash_of(value).to_be_bytes().to_vec())
    }

    /// Of a row that is found by its first key column.
    pub fn of_key(value: &KeyValue) -> Point {
        Point(PrimaryKey(vec![value.clone()]).encode().0.to_vec())
    }

    /// The begin of the keys that begin with `prefix`: a string or binary without its end.
    pub fn of_prefix(prefix: &KeyValue) -> Point {
        let Point(mut bytes) = Point::of_key(prefix);
        if !matches!(prefix, KeyValue::Integer(_)) {
            bytes.truncate(bytes.len() - END_BYTES);
        }
        Point(bytes)
    }

    /// The begin of part `place` of `count` equal parts of all hashes.
    pub fn of_part(place: usize, count: usize) -> Point {
        match place {
            0 => Point::default(),
            _ => {
                let begin = ((place as u128) << 64).div_ceil(count as u128);
                Point(u64::try_from(begin).unwrap_or(u64::MAX).to_be_bytes().to_vec())
            }
        }
    }

    /// The end of what begins with it: the least point that does not. None: nothing is above.
    pub fn after_all(&self) -> Option<Point> {
        let mut bytes = self.0.clone();
        while let Some(last) = bytes.pop() {
            if let Some(next) = last.checked_add(1) {
                bytes.push(next);
                return Some(Point(bytes));
            }
        }
        None
    }

    /// What a person takes it for, of a table that is divided by range: the value of the first key
    /// column, or the begin of one.
    pub fn to_text(&self) -> String {
        let Some((_, rest)) = self.0.split_first() else { return String::new() };
        let key = EncodedKey(self.0.clone().into());
        if let Ok(PrimaryKey(values)) = PrimaryKey::decode(&key) {
            return match values.first() {
                Some(KeyValue::Integer(number)) => number.to_string(),
                Some(KeyValue::String(text)) => text.as_str().to_owned(),
                Some(KeyValue::Binary(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
                None => String::new(),
            };
        }
        String::from_utf8_lossy(rest).into_owned()
    }

    /// Whether everything is at or behind it.
    pub fn is_first(&self) -> bool {
        self.0.is_empty()
    }

    /// In hexadecimal.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A point of a table that is divided by hash, as a person names it: 16 hexadecimal digits.
    pub fn of_hash_text(text: &str) -> Option<Point> {
        Point::from_hex(text).filter(|Point(bytes)| bytes.len() == HASH_BYTES)
    }

    /// The point in the middle between two of a table that is divided by hash; `None` as the end:
    /// where everything ends.
    pub fn middle(&self, end: Option<&Point>) -> Point {
        let begin = u128::from(self.hash());
        let end = end.map_or(1 << 64, |end| u128::from(end.hash()));
        let middle = u64::try_from(u128::midpoint(begin, end)).unwrap_or(u64::MAX);
        Point(middle.to_be_bytes().to_vec())
    }

    /// How much of all hashes lies between two points; `None` as the end: where everything ends.
    pub fn share(&self, end: Option<&Point>) -> f64 {
        let end = end.map_or(1 << 64, |end| u128::from(end.hash()));
        end.saturating_sub(u128::from(self.hash())) as f64 / (1u128 << 64) as f64
    }

    /// The hash that it is; of the first point 0.
    fn hash(&self) -> u64 {
        self.0.as_slice().try_into().map_or(0, u64::from_be_bytes)
    }

    fn from_hex(text: &str) -> Option<Point> {
        let bytes = text.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        });
        bytes.collect::<Option<_>>().map(Point)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Point, D::Error> {
        let text = String::deserialize(deserializer)?;
        Point::from_hex(&text).ok_or_else(|| D::Error::custom("it is not in hexadecimal"))
    }
}

/// The hash by which a row is found.
fn hash_of(value: &KeyValue) -> u64 {
    HighwayHasher::new(Key(ROOT)).hash64(&PrimaryKey(vec![value.clone()]).encode().0)
}

/// A number for each pair of a seed and words, as if by chance, the same everywhere.
pub(super) fn chance(seed: u64, number: u64, word: &str) -> u64 {
    let mut state = HighwayHasher::new(Key(ROOT));
    state.append(&seed.to_le_bytes());
    state.append(&number.to_le_bytes());
    state.append(word.as_bytes());
    state.finalize64()
}

#[cfg(test)]
mod tests {
    use isthmus_model::value::Text;

    use super::*;

    #[test]
    fn hash_never_changes() {
        let point = |value| Point::of_hash(&value).to_hex();
        let found = [
            point(KeyValue::Integer(42)),
            point(KeyValue::String(Text::from("user-1"))),
            point(KeyValue::Binary(vec![0, 255].into())),
        ];
        assert_eq!(found, PINNED);
    }

    const PINNED: [&str; 3] = ["97ec2532782390a7", "920ebb2662b1b330", "d7854def26051891"];

    #[test]
    fn prefixes_enclose_what_begins_with_them() {
        let key = |text: &str| Point::of_key(&KeyValue::String(Text::from(text)));
        let begin = Point::of_prefix(&KeyValue::String(Text::from("de")));
        let end = begin.after_all().unwrap();
        for within in ["de", "de\u{0}", "de-1", "dezz", "de\u{10ffff}"] {
            assert!(begin <= key(within) && key(within) < end, "{within}");
        }
        for outside in ["", "d", "dd", "df", "e", "ddz"] {
            assert!(key(outside) < begin || key(outside) >= end, "{outside}");
        }
        assert_eq!(Point(vec![255, 255]).after_all(), None);
        assert_eq!(Point(vec![1, 255]).after_all(), Some(Point(vec![2])));
    }

    #[test]
    fn points_are_shown_as_keys() {
        let text = |value: &str| KeyValue::String(Text::from(value));
        assert_eq!(Point::default().to_text(), "");
        assert_eq!(Point::of_key(&KeyValue::Integer(-3)).to_text(), "-3");
        assert_eq!(Point::of_key(&text("de-1")).to_text(), "de-1");
        assert_eq!(Point::of_prefix(&text("de-")).to_text(), "de-");
        assert_eq!(Point::of_prefix(&text("de-")).after_all().unwrap().to_text(), "de.");
    }

    #[test]
    fn text_of_points_is_read_again_and_wrong_text_is_refused() {
        let point = Point::of_key(&KeyValue::Integer(-3));
        let text = serde_json::to_string(&point).unwrap();
        assert_eq!(serde_json::from_str::<Point>(&text).unwrap(), point);
        for wrong in ["\"0\"", "\"0g\"", "\"é1\"", "7"] {
            assert!(serde_json::from_str::<Point>(wrong).is_err(), "{wrong}");
        }
    }
}
