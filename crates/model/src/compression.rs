//! How what goes from region to region is compressed, as a person asks for it.
//!
//! It is a wish: what does not get smaller goes as it is, and a peer that does not know a method
//! is spoken to in one that it knows.

use std::fmt;
use std::str::FromStr;

/// The level of `zstd` without a number.
pub const ZSTD_LEVEL: u8 = 3;
/// The highest level: above it, memory grows and links cannot keep up.
pub const ZSTD_LEVEL_MAX: u8 = 19;

/// A way to compress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// What the program thinks best: the fastest zstd, with a dictionary where it pays.
    #[default]
    Auto,
    /// zstd at this level, 1 to 19, with a dictionary where it pays.
    Zstd(u8),
    /// LZ4: less time and more bytes than any zstd.
    Lz4,
    /// None.
    None,
}

/// A text that names no way to compress.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of auto, zstd, zstd:LEVEL with a level from 1 to 19, lz4 and none")]
pub struct BadCompression(pub String);

impl FromStr for Compression {
    type Err = BadCompression;

    fn from_str(text: &str) -> Result<Compression, BadCompression> {
        let bad = || BadCompression(text.chars().take(32).collect());
        match text {
            "auto" => Ok(Compression::Auto),
            "zstd" => Ok(Compression::Zstd(ZSTD_LEVEL)),
            "lz4" => Ok(Compression::Lz4),
            "none" => Ok(Compression::None),
            _ => {
                let level = text.strip_prefix("zstd:").ok_or_else(bad)?;
                let level: u8 = level.parse().map_err(|_| bad())?;
                match (1..=ZSTD_LEVEL_MAX).contains(&level) {
                    true => Ok(Compression::Zstd(level)),
                    false => Err(bad()),
                }
            }
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Compression::Auto => f.write_str("auto"),
            Compression::Zstd(level) => write!(f, "zstd:{level}"),
            Compression::Lz4 => f.write_str("lz4"),
            Compression::None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_ways_to_compress() {
        let ways = [Compression::Auto, Compression::Lz4, Compression::None];
        let levels = (1..=ZSTD_LEVEL_MAX).map(Compression::Zstd);
        for way in ways.into_iter().chain(levels) {
            assert_eq!(way.to_string().parse(), Ok(way));
        }
        assert_eq!("zstd".parse(), Ok(Compression::Zstd(ZSTD_LEVEL)));
        for text in ["", "Zstd", "zstd:", "zstd:0", "zstd:20", "zstd:-1", "zstd:999", "gzip"] {
            assert!(text.parse::<Compression>().is_err(), "{text}");
        }
    }
}
