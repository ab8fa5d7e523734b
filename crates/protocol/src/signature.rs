//! Who asks, and whether the bytes are the ones it signed: signatures V2 and V4, both ways.
//!
//! All received `x-ots-*` headers are part of what is signed, so that nobody between can add
//! one. Signatures and tokens are compared as bytes and in constant time. An access key that
//! does not exist costs the same work as one that does. Time is handed in. This file knows no
//! HTTP library: headers come as pairs.

mod client;
mod headers;
mod keys;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use md5::{Digest, Md5};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::date::{parse_date, parse_day};
use crate::error::{ProtocolError, shown};
pub use crate::signature::client::{RequestToSign, SignedForSending, sign_request};
pub use crate::signature::headers::SignedHeaders;
#[cfg(test)]
use crate::signature::keys::DerivedKey;
pub use crate::signature::keys::{ResponseKey, Secret, SigningKeys};

type HmacSha1 = Hmac<Sha1>;
type HmacSha256 = Hmac<Sha256>;

/// Name of a header.
pub const DATE: &str = "x-ots-date";
/// Name of a header.
pub const API_VERSION: &str = "x-ots-apiversion";
/// Name of a header.
pub const ACCESS_KEY_ID: &str = "x-ots-accesskeyid";
/// Name of a header.
pub const INSTANCE_NAME: &str = "x-ots-instancename";
/// Name of a header.
pub const CONTENT_MD5: &str = "x-ots-contentmd5";
/// Name of a header.
pub const CONTENT_TYPE: &str = "x-ots-contenttype";
/// Name of a header.
pub const REQUEST_ID: &str = "x-ots-requestid";
/// Name of a header.
pub const SECURITY_TOKEN: &str = "x-ots-ststoken";
const SIGNATURE_V2: &str = "x-ots-signature";
const SIGNATURE_V4: &str = "x-ots-signaturev4";
const SIGN_DATE: &str = "x-ots-signdate";
const SIGN_REGION: &str = "x-ots-signregion";

/// How far a request's date may lie from the server's clock.
pub const DATE_WINDOW_MILLIS: i64 = 15 * 60 * 1_000;
/// How far the day of a signing key may lie from the server's clock: users may pin it.
pub const SIGN_DATE_WINDOW_MILLIS: i64 = 8 * 86_400_000;

/// What follows the headers in what V4 signs.
const V4_SALT: &[u8] = b"ots";
/// Characters of the longest signature, base64 of 32 bytes.
const SIGNATURE_CHARS_MAX: usize = 44;

/// An access key, as it is known here.
#[derive(Clone, Copy, Debug)]
pub struct AccessKey<'a> {
    /// Its secret.
    pub secret: &'a Secret,
    /// The token that goes with it, where it is temporary.
    pub security_token: Option<&'a str>,
}

/// A request whose required headers are there.
#[derive(Clone, Debug)]
pub struct SignedRequest<'a> {
    headers: SignedHeaders<'a>,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V2,
    V4,
}

/// A request whose signature is right.
#[derive(Clone, Debug)]
pub struct Verified<'a> {
    /// The path that was signed: the one received, or that with one slash less in front where a
    /// client doubled it.
    pub path: &'a str,
    /// Signs the answer.
    pub response_key: ResponseKey,
}

impl<'a> SignedRequest<'a> {
    /// Checks that the headers that every request needs are there, once, and not empty.
    pub fn read(headers: SignedHeaders<'a>) -> Result<SignedRequest<'a>, ProtocolError> {
        for name in [DATE, API_VERSION, ACCESS_KEY_ID, INSTANCE_NAME, CONTENT_MD5] {
            headers.required(name)?;
        }
        // Where both are there, the stronger one decides.
        let version = if headers.contains(SIGNATURE_V4) {
            for name in [SIGNATURE_V4, SIGN_DATE, SIGN_REGION] {
                headers.required(name)?;
            }
            Version::V4
        } else {
            headers.required(SIGNATURE_V2)?;
            Version::V2
        };
        Ok(SignedRequest { headers, version })
    }

    /// The headers.
    pub fn headers(&self) -> &SignedHeaders<'a> {
        &self.headers
    }

    /// Who asks, if the signature is right.
    pub fn access_key_id(&self) -> &'a str {
        self.present(ACCESS_KEY_ID)
    }

    /// The instance that is meant.
    pub fn instance(&self) -> &'a str {
        self.present(INSTANCE_NAME)
    }

    /// The region of the signing key, where there is one.
    pub fn sign_region(&self) -> Option<&'a str> {
        (self.version == Version::V4).then(|| self.present(SIGN_REGION))
    }

    fn present(&self, name: &str) -> &'a str {
        self.headers.get(name).unwrap_or_default()
    }

    /// Checks dates and signature, and the token of a temporary key.
    ///
    /// `key` is what is known of `access_key_id`; for one that is not known the same work is
    /// done before it is refused. `path` is the path as received.
    pub fn verify(
        &self,
        path: &'a str,
        key: Option<AccessKey<'_>>,
        signing_keys: &SigningKeys,
        now_millis: i64,
    ) -> Result<Verified<'a>, ProtocolError> {
        self.check_dates(now_millis)?;
        let secret = key.map_or_else(|| signing_keys.nobody(), |key| key.secret);
        let id = key.map(|_| self.access_key_id());
        let (signer, response_key, is_fresh) = self.signer(id, secret, signing_keys);
        let signature = self.signature();
        let signed = self.candidates(path).find(|(path, without_empty)| {
            let text = self.headers.string_to_sign(path, *without_empty, self.salt());
            signer.matches(&text, &signature)
        });
        let key = key.ok_or(ProtocolError::AccessKeyUnknown)?;
        let (path, _) = signed.ok_or(ProtocolError::SignatureMismatch)?;
        if is_fresh {
            let (day, region) = (self.present(SIGN_DATE), self.present(SIGN_REGION));
            signing_keys.remember(self.access_key_id(), secret, day, region);
        }
        self.check_token(key.security_token)?;
        Ok(Verified { path, response_key })
    }

    fn check_dates(&self, now_millis: i64) -> Result<(), ProtocolError> {
        let date = self.present(DATE);
        let malformed = |date: &str| ProtocolError::DateMalformed { date: shown(date) };
        let moment = parse_date(date).ok_or_else(|| malformed(date))?;
        // The fraction is not known, so a moment stands for its whole second.
        let ahead = moment.saturating_sub(now_millis);
        let behind = now_millis.saturating_sub(moment.saturating_add(999));
        if ahead > DATE_WINDOW_MILLIS || behind > DATE_WINDOW_MILLIS {
            return Err(ProtocolError::DateSkewed { date: shown(date) });
        }
        if self.version == Version::V4 {
            let date = self.present(SIGN_DATE);
            let day = parse_day(date).ok_or_else(|| malformed(date))?;
            if now_millis.abs_diff(day) > SIGN_DATE_WINDOW_MILLIS as u64 {
                return Err(ProtocolError::SignDateSkewed { date: shown(date) });
            }
        }
        Ok(())
    }

    /// What checks the request and what signs its answer, and whether a key was derived for it
    /// just now.
    fn signer(
        &self,
        id: Option<&str>,
        secret: &Secret,
        signing_keys: &SigningKeys,
    ) -> (Signer, ResponseKey, bool) {
        match self.version {
            Version::V2 => (Signer::V2(secret.sha1()), ResponseKey::new(secret.sha1()), false),
            Version::V4 => {
                let (day, region) = (self.present(SIGN_DATE), self.present(SIGN_REGION));
                let found = signing_keys.find(id, secret, day, region);
                let is_fresh = found.is_none();
                let derived = found.unwrap_or_else(|| secret.derive(day, region));
                (Signer::V4(derived.sha256()), ResponseKey::new(derived.sha1()), is_fresh)
            }
        }
    }

    fn salt(&self) -> &'static [u8] {
        match self.version {
            Version::V2 => b"",
            Version::V4 => V4_SALT,
        }
    }

    /// What was sent as signature, or nothing where it cannot be one.
    fn signature(&self) -> Vec<u8> {
        let name = match self.version {
            Version::V2 => SIGNATURE_V2,
            Version::V4 => SIGNATURE_V4,
        };
        let text = self.present(name);
        if text.len() > SIGNATURE_CHARS_MAX {
            return Vec::new();
        }
        // The decoder refuses padding and trailing bits that are not as they must be.
        STANDARD.decode(text).unwrap_or_default()
    }

    /// What may have been signed: the path as received; without a slash that the client has too
    /// many; and, as one client does, without headers that are known to it and empty.
    fn candidates(&self, path: &'a str) -> impl Iterator<Item = (&'a str, bool)> + use<'a> {
        let collapsed = path.strip_prefix('/').filter(|rest| rest.starts_with('/'));
        let empties = self.headers.has_known_empty();
        std::iter::once(path).chain(collapsed).flat_map(move |path| {
            std::iter::once((path, false)).chain(empties.then_some((path, true)))
        })
    }

    fn check_token(&self, expected: Option<&str>) -> Result<(), ProtocolError> {
        let given = self.headers.get(SECURITY_TOKEN).filter(|token| !token.is_empty());
        let same = match (expected, given) {
            (None, None) => true,
            (Some(expected), Some(given)) => same(expected.as_bytes(), given.as_bytes()),
            (Some(_), None) | (None, Some(_)) => false,
        };
        if same { Ok(()) } else { Err(ProtocolError::TokenMismatch) }
    }

    /// Checks that the body, as it was transmitted, is the one whose MD5 was signed.
    pub fn check_body(&self, body: &[u8]) -> Result<(), ProtocolError> {
        let given = self.present(CONTENT_MD5);
        let given =
            if given.len() > 24 { Vec::new() } else { STANDARD.decode(given).unwrap_or_default() };
        let made = Md5::digest(body);
        if same(&made, &given) { Ok(()) } else { Err(ProtocolError::DigestMismatch) }
    }
}

/// Whether two texts are the same, in a time that tells nothing of where they differ. Everything
/// that only an honest sender can know is compared here and nowhere else.
fn same(made: &[u8], given: &[u8]) -> bool {
    made.ct_eq(given).into()
}

/// What a request to the administration API signs in the place of the path: its method and its
/// whole target, query included. No path of the public API looks like it, so a request that was
/// signed for one of the two APIs means nothing to the other.
pub fn admin_path(method: &str, target: &str) -> String {
    [method, " ", target].concat()
}

/// Base64 of a body's MD5, as the header has it.
pub fn content_md5(body: &[u8]) -> String {
    STANDARD.encode(Md5::digest(body))
}

enum Signer {
    V2(HmacSha1),
    V4(HmacSha256),
}

impl Signer {
    fn matches(&self, text: &[u8], signature: &[u8]) -> bool {
        match self {
            Signer::V2(mac) => {
                same(&mac.clone().chain_update(text).finalize().into_bytes(), signature)
            }
            Signer::V4(mac) => {
                same(&mac.clone().chain_update(text).finalize().into_bytes(), signature)
            }
        }
    }

    fn sign(&self, text: &[u8]) -> String {
        match self {
            Signer::V2(mac) => {
                STANDARD.encode(mac.clone().chain_update(text).finalize().into_bytes())
            }
            Signer::V4(mac) => {
                STANDARD.encode(mac.clone().chain_update(text).finalize().into_bytes())
            }
        }
    }
}

#[cfg(test)]
mod tests;
