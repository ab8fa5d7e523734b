//! CRC-8 as rows of the wire carry it: polynomial 0x07, start 0, not reflected.
//!
//! It is hot: every byte of every cell is fed, at both ends. Sixteen tables let sixteen bytes be
//! looked up without waiting for each other; the tables are made at compile time and fill 4 KiB.

static TABLES: [[u8; 256]; 16] = tables();

const fn tables() -> [[u8; 256]; 16] {
    let mut tables = [[0u8; 256]; 16];
    let mut value = 0;
    while value < 256 {
        let mut crc = value as u8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x80 != 0 { crc << 1 ^ 0x07 } else { crc << 1 };
            bit += 1;
        }
        tables[0][value] = crc;
        value += 1;
    }
    // Table n gives a byte's share of the sum when n more bytes follow it.
    let mut n = 1;
    while n < 16 {
        let mut value = 0;
        while value < 256 {
            tables[n][value] = tables[0][tables[n - 1][value] as usize];
            value += 1;
        }
        n += 1;
    }
    tables
}

/// Feeds one byte.
#[inline]
pub fn feed_byte(crc: u8, byte: u8) -> u8 {
    TABLES[0][(crc ^ byte) as usize]
}

/// Feeds bytes.
#[inline]
pub fn feed(mut crc: u8, bytes: &[u8]) -> u8 {
    let (blocks, rest) = bytes.as_chunks::<16>();
    for block in blocks {
        let mut sum = TABLES[15][(crc ^ block[0]) as usize];
        let mut place = 1;
        while place < 16 {
            sum ^= TABLES[15 - place][block[place] as usize];
            place += 1;
        }
        crc = sum;
    }
    let (blocks, rest) = rest.as_chunks::<4>();
    for block in blocks {
        crc = feed_word(crc, *block);
    }
    for byte in rest {
        crc = feed_byte(crc, *byte);
    }
    crc
}

#[inline]
fn feed_word(crc: u8, word: [u8; 4]) -> u8 {
    TABLES[3][(crc ^ word[0]) as usize]
        ^ TABLES[2][word[1] as usize]
        ^ TABLES[1][word[2] as usize]
        ^ TABLES[0][word[3] as usize]
}

/// Feeds a 32-bit number, low byte first.
#[inline]
pub fn feed_u32(crc: u8, number: u32) -> u8 {
    feed_word(crc, number.to_le_bytes())
}

/// Feeds a 64-bit number, low byte first.
#[inline]
pub fn feed_u64(crc: u8, number: u64) -> u8 {
    let bytes = number.to_le_bytes();
    TABLES[7][(crc ^ bytes[0]) as usize]
        ^ TABLES[6][bytes[1] as usize]
        ^ TABLES[5][bytes[2] as usize]
        ^ TABLES[4][bytes[3] as usize]
        ^ TABLES[3][bytes[4] as usize]
        ^ TABLES[2][bytes[5] as usize]
        ^ TABLES[1][bytes[6] as usize]
        ^ TABLES[0][bytes[7] as usize]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    fn bit_by_bit(mut crc: u8, bytes: &[u8]) -> u8 {
        for byte in bytes {
            crc ^= byte;
            for _ in 0..8 {
                crc = if crc & 0x80 != 0 { crc << 1 ^ 0x07 } else { crc << 1 };
            }
        }
        crc
    }

    #[test]
    fn check_value_is_the_published_one() {
        assert_eq!(feed(0, b"123456789"), 0xf4);
    }

    proptest! {
        #[test]
        fn tables_agree_with_bit_by_bit(
            start: u8,
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            word: u32,
            number: u64,
        ) {
            prop_assert_eq!(feed(start, &bytes), bit_by_bit(start, &bytes));
            prop_assert_eq!(feed_u32(start, word), bit_by_bit(start, &word.to_le_bytes()));
            prop_assert_eq!(feed_u64(start, number), bit_by_bit(start, &number.to_le_bytes()));
        }
    }
}
