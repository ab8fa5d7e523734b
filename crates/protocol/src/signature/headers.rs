//! The headers that are signed.

use std::borrow::Cow;

use crate::error::ProtocolError;
use crate::signature::{SIGNATURE_V2, SIGNATURE_V4};

const PREFIX: &str = "x-ots-";
/// More of them than any client sends.
const HEADERS_MAX: usize = 64;

/// Headers that one client knows, and leaves out of what it signs where they are empty.
const KNOWN: [&str; 21] = [
    "x-ots-accesskeyid",
    "x-ots-admin-target-userid",
    "x-ots-admin-task-type",
    "x-ots-apiversion",
    "x-ots-charge-for-admin",
    "x-ots-contentmd5",
    "x-ots-date",
    "x-ots-instancename",
    "x-ots-issecuretransport",
    "x-ots-playeraccountid",
    "x-ots-request-priority",
    "x-ots-request-search-tag",
    "x-ots-request-tag",
    "x-ots-sdk-traceid",
    "x-ots-signdate",
    "x-ots-signregion",
    "x-ots-sourceip",
    "x-ots-ststoken",
    "x-ots-trace-id",
    "x-ots-trace-threshold",
    "x-ots-tunnel-type",
];

/// The `x-ots-*` headers of a request, each once, sorted by name.
#[derive(Clone, Debug)]
pub struct SignedHeaders<'a> {
    headers: Vec<(Cow<'a, str>, &'a [u8])>,
}

impl<'a> SignedHeaders<'a> {
    /// Takes the headers that are signed out of all headers of a request.
    ///
    /// One that is there twice is an error: neither first nor last could be trusted.
    pub fn collect(
        all: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<SignedHeaders<'a>, ProtocolError> {
        let mut headers: Vec<(Cow<'a, str>, &'a [u8])> = Vec::with_capacity(12);
        for (name, value) in all {
            let is_ours =
                name.get(..PREFIX.len()).is_some_and(|head| head.eq_ignore_ascii_case(PREFIX));
            if !is_ours {
                continue;
            }
            if headers.len() == HEADERS_MAX {
                return Err(ProtocolError::invalid("Too many x-ots headers."));
            }
            let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                Cow::Owned(name.to_ascii_lowercase())
            } else {
                Cow::Borrowed(name)
            };
            headers.push((name, value.trim_ascii()));
        }
        headers.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = headers.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(ProtocolError::HeaderDoubled { name: pair[0].0.to_string() });
        }
        Ok(SignedHeaders { headers })
    }

    fn find(&self, name: &str) -> Option<&'a [u8]> {
        let place = self.headers.binary_search_by(|header| (*header.0).cmp(name)).ok()?;
        self.headers.get(place).map(|header| header.1)
    }

    /// Whether the header is there, be it empty.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The value of a header, if it is text. The name is in lower case.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.find(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    pub(super) fn required(&self, name: &'static str) -> Result<&'a str, ProtocolError> {
        match self.find(name).map(std::str::from_utf8) {
            None | Some(Ok("")) => Err(ProtocolError::HeaderMissing { name }),
            Some(Err(_)) => Err(ProtocolError::HeaderMalformed { name }),
            Some(Ok(value)) => Ok(value),
        }
    }

    /// Whether any header that one client leaves out where it is empty is there and empty.
    pub(super) fn has_known_empty(&self) -> bool {
        self.headers.iter().any(|(name, value)| is_known_empty(name, value))
    }

    pub(super) fn string_to_sign(&self, path: &str, without_empty: bool, salt: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(512);
        text.extend_from_slice(path.as_bytes());
        text.extend_from_slice(b"\nPOST\n\n");
        for (name, value) in &self.headers {
            let is_signature = name == SIGNATURE_V2 || name == SIGNATURE_V4;
            if is_signature || (without_empty && is_known_empty(name, value)) {
                continue;
            }
            text.extend_from_slice(name.as_bytes());
            text.push(b':');
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        text.extend_from_slice(salt);
        text
    }
}

fn is_known_empty(name: &str, value: &[u8]) -> bool {
    value.is_empty() && KNOWN.contains(&name)
}
