//! Sizes and spans of time as people write them: `10MiB`, `90s`, `2h`.
//!
//! What must hold: a number without a unit is bytes or seconds; units are of 1024 where they say
//! so (KiB) and of 1000 where they do not (KB); nothing is rounded.

/// Reads a size, such as `64KiB`, `10MB` or `4096`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let units = [
        ("", 1),
        ("B", 1),
        ("KB", 1000),
        ("KiB", 1 << 10),
        ("MB", 1_000_000),
        ("MiB", 1 << 20),
        ("GB", 1_000_000_000),
        ("GiB", 1 << 30),
    ];
    read(text, &units).ok_or_else(|| format!("{text:?} is no size such as 4096, 64KiB or 10MB"))
}

/// Reads a span of whole seconds, such as `90s`, `5m`, `2h` or `1d`.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let units = [("", 1), ("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];
    read(text, &units).ok_or_else(|| format!("{text:?} is no time such as 90s, 5m, 2h or 1d"))
}

fn read(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_read() {
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("10MiB"), Ok(10 << 20));
        assert_eq!(bytes("3 KB"), Ok(3000));
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("2h"), Ok(7200));
        for wrong in ["", "x", "MiB", "10XB", "-1", "1.5MiB", "99999999999999GiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert!(seconds("3w").is_err());
    }
}
