//! Dates of the wire: `2026-01-02T03:04:05.678Z`, and days: `20260102`.
//!
//! Only the proleptic Gregorian calendar in UTC, years 0 to 9999, without leap seconds. The
//! fraction of a second is written with three digits and ignored when read: one official client
//! writes something else there.

const DAY_MILLIS: i64 = 86_400_000;
/// The first millisecond of the year 0 and the last one of the year 9999.
const RANGE: (i64, i64) = (-62_167_219_200_000, 253_402_300_799_999);

/// Writes a moment, given in milliseconds since the Unix epoch; outside the years 0 to 9999 the
/// nearest one inside.
pub fn format_date(millis: i64) -> String {
    let millis = millis.clamp(RANGE.0, RANGE.1);
    let (year, month, day) = civil_from_days(millis.div_euclid(DAY_MILLIS));
    let time = millis.rem_euclid(DAY_MILLIS);
    let (hour, minute) = (time / 3_600_000, time / 60_000 % 60);
    let (second, fraction) = (time / 1_000 % 60, time % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:03}Z")
}

/// Reads a moment, in milliseconds since the Unix epoch, whole seconds only.
pub fn parse_date(text: &str) -> Option<i64> {
    let (head, tail) = text.as_bytes().split_at_checked(19)?;
    let [y1, y2, y3, y4, b'-', mo1, mo2, b'-', d1, d2, b'T', h1, h2, b':', mi1, mi2, b':', s1, s2] =
        head
    else {
        return None;
    };
    let year = digits(&[*y1, *y2, *y3, *y4])?;
    let days = days_of(year, digits(&[*mo1, *mo2])?, digits(&[*d1, *d2])?)?;
    let hour = digits(&[*h1, *h2]).filter(|hour| *hour < 24)?;
    let minute = digits(&[*mi1, *mi2]).filter(|minute| *minute < 60)?;
    let second = digits(&[*s1, *s2]).filter(|second| *second < 60)?;
    match tail {
        b"Z" => {}
        [b'.', fraction @ .., b'Z'] if !fraction.is_empty() => {
            fraction.iter().all(u8::is_ascii_digit).then_some(())?;
        }
        _ => return None,
    }
    Some(days * DAY_MILLIS + ((hour * 60 + minute) * 60 + second) * 1_000)
}

/// Writes the day of a moment.
pub fn format_day(millis: i64) -> String {
    let (year, month, day) = civil_from_days(millis.clamp(RANGE.0, RANGE.1).div_euclid(DAY_MILLIS));
    format!("{year:04}{month:02}{day:02}")
}

/// Reads a day: its first moment, in milliseconds since the Unix epoch.
pub fn parse_day(text: &str) -> Option<i64> {
    let bytes: &[u8; 8] = text.as_bytes().try_into().ok()?;
    let days = days_of(digits(&bytes[..4])?, digits(&bytes[4..6])?, digits(&bytes[6..])?)?;
    Some(days * DAY_MILLIS)
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + i64::from(byte - b'0'))
    })
}

fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => return None,
    };
    (1..=last).contains(&day).then(|| days_from_civil(year, month, day))
}

/// Days since the Unix epoch. Source: Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms".
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // The year starts in March, so that the leap day is its last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_of_year = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_of_year + 2) / 5 + 1;
    let month = if month_of_year < 10 { month_of_year + 3 } else { month_of_year - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn known_moments_are_written_and_read() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_767_323_045_678, "2026-01-02T03:04:05.678Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (RANGE.0, "0000-01-01T00:00:00.000Z"),
            (RANGE.1, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(format_date(millis), text);
            assert_eq!(parse_date(text), Some(millis.div_euclid(1_000) * 1_000));
        }
        assert_eq!(format_date(i64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(format_date(i64::MIN), "0000-01-01T00:00:00.000Z");
        assert_eq!(format_day(1_767_323_045_678), "20260102");
    }

    #[test]
    fn fraction_is_optional_and_ignored() {
        let moment = parse_date("2026-11-20T22:53:05Z");
        assert!(moment.is_some());
        assert_eq!(parse_date("2026-11-20T22:53:05.112010Z"), moment);
        let long = format!("2026-11-20T22:53:05.{}Z", "7".repeat(1_000));
        assert_eq!(parse_date(&long), moment);
    }

    #[test]
    fn malformed_dates_are_refused() {
        for text in [
            "",
            "Z",
            "2026-11-20T22:53:05",
            "2026-11-20T22:53:05.123",
            "2026-11-20T22:53:05.Z",
            "2026-11-20T22:53:05.1-2Z",
            "2026-11-20T22:53:05+08:00",
            "2026-11-20T22:53:60Z",
            "2026-11-20T24:00:00Z",
            "2026-11-20T22:60:00Z",
            "2026-02-30T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-00-10T00:00:00Z",
            "2026-13-10T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-04-00T00:00:00Z",
            "2026-11-20 22:53:05Z",
            "2026-11-20t22:53:05z",
            "+026-11-20T22:53:05Z",
            "２０２６-11-20T22:53:05Z",
            " 2026-11-20T22:53:05Z",
        ] {
            assert_eq!(parse_date(text), None, "{text}");
        }
        for text in ["", "2026010", "202601022", "20260132", "2026-1-2", "2026013x"] {
            assert_eq!(parse_day(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn dates_round_trip(millis in RANGE.0..=RANGE.1) {
            let text = format_date(millis);
            prop_assert_eq!(parse_date(&text), Some(millis.div_euclid(1_000) * 1_000));
            let day = format_day(millis);
            prop_assert_eq!(parse_day(&day), Some(millis.div_euclid(DAY_MILLIS) * DAY_MILLIS));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,30}") {
            let _ = parse_date(&text);
            let _ = parse_day(&text);
        }
    }
}
