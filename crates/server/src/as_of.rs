//! Which moment a read asks for, by a header of its request.

use std::time::Duration;

use hyper::HeaderMap;
use isthmus_model::hlc::Hlc;
use isthmus_model::value::Text;
use isthmus_protocol::request::Operation;

use crate::api_error::ApiError;

/// The header, of requests and of answers.
pub(crate) const AS_OF: &str = "x-isthmus-as-of";

/// What a bound in time begins with.
const WITHIN: &str = "within:";
/// The longest one, in milliseconds: an hour.
const WITHIN_MAX: u64 = 3_600_000;

/// A time like `5s` or `1500ms`, of at most an hour.
fn bound_of(text: &str) -> Option<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s')?, 1000),
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let millis = is_number.then(|| number.parse::<u64>().ok()?.checked_mul(unit))??;
    (millis <= WITHIN_MAX).then(|| Duration::from_millis(millis))
}

/// Which moment a read asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsOf {
    /// The newest that is safe here.
    Safe,
    /// The newest state of each row, as the region that writes it has it: of a table that is
    /// written synchronously that is asked for without saying so.
    Newest,
    /// The newest state of each row that the answering region has.
    Local,
    /// What the answering region has, if it lacks nothing that is older than this; else the newest
    /// state.
    Within(Duration),
    /// This one.
    Cut(Hlc),
}

impl AsOf {
    /// What the headers of a request ask for; `None`: what the table's mode says.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<AsOf>, ApiError> {
        let Some(value) = headers.get(AS_OF) else { return Ok(None) };
        let text = value.to_str().unwrap_or_default();
        match text {
            "safe" => return Ok(Some(AsOf::Safe)),
            "newest" => return Ok(Some(AsOf::Newest)),
            "local" => return Ok(Some(AsOf::Local)),
            _ => {}
        }
        if let Some(bound) = text.strip_prefix(WITHIN).and_then(bound_of) {
            return Ok(Some(AsOf::Within(bound)));
        }
        let refused = || {
            ApiError::invalid(format!(
                "Invalid header: '{AS_OF}'. It is 'safe', 'newest', 'local', a bound like \
                 'within:5s' or 'within:1500ms' or a time as an answer names it, like \
                 '1764547200000.0'."
            ))
        };
        text.parse().map(|cut| Some(AsOf::Cut(cut))).map_err(|_| refused())
    }
}

/// The tables that an operation reads; `header` is for reads only.
pub(crate) fn tables_read<'a>(
    operation: &'a Operation,
    header: &str,
) -> Result<Vec<&'a Text>, ApiError> {
    match operation {
        Operation::GetRow(get) => Ok(vec![&get.table]),
        Operation::GetRange(get) => Ok(vec![&get.table]),
        Operation::BatchGetRow(batch) => Ok(batch.tables.iter().map(|part| &part.table).collect()),
        _ => Err(ApiError::invalid(format!(
            "The header '{header}' is for GetRow, BatchGetRow and GetRange."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(value: &str) -> Result<Option<AsOf>, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(AS_OF, value.parse().unwrap());
        AsOf::of(&headers)
    }

    #[test]
    fn a_read_asks_for_the_safe_time_or_for_one_that_was_told() {
        assert_eq!(AsOf::of(&HeaderMap::new()), Ok(None));
        assert_eq!(asked("safe"), Ok(Some(AsOf::Safe)));
        assert_eq!(asked("newest"), Ok(Some(AsOf::Newest)));
        assert_eq!(asked("local"), Ok(Some(AsOf::Local)));
        let cut = Hlc((1_764_547_200_000 << 16) | 7);
        assert_eq!(asked(&cut.to_string()), Ok(Some(AsOf::Cut(cut))));
        for wrong in ["", "now", "Safe", "-1.0", "1.65536", "1.", "281474976710656.0", "1.0.0"] {
            assert!(asked(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bound_is_a_number_and_its_unit() {
        let within = |millis| Ok(Some(AsOf::Within(Duration::from_millis(millis))));
        assert_eq!(asked("within:5s"), within(5000));
        assert_eq!(asked("within:1500ms"), within(1500));
        assert_eq!(asked("within:0s"), within(0));
        for wrong in ["", "5", "s", "ms", "-1s", "+1s", "1.5s", "3601s", "18446744073709551615s"] {
            assert!(asked(&format!("within:{wrong}")).is_err(), "{wrong}");
        }
    }
}
