//! What signs: secrets, the keys derived from them, and the key of an answer.

use std::collections::HashMap;
use std::fmt;
use std::sync::{PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::Mac;
use sha2::{Digest, Sha256};

use crate::signature::{HmacSha1, HmacSha256, same};

const KEY_ANY_LENGTH: &str = "a key may have any length";
/// Derived keys that are remembered.
const REMEMBERED_MAX: usize = 4096;

/// The secret of an access key, made ready for signing. It never shows itself.
#[derive(Clone)]
pub struct Secret {
    sha1: HmacSha1,
    v4_root: HmacSha256,
    digest: [u8; 32],
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Makes a secret ready.
    pub fn new(secret: &[u8]) -> Secret {
        let root = [b"aliyun_v4", secret].concat();
        Secret {
            sha1: HmacSha1::new_from_slice(secret).expect(KEY_ANY_LENGTH),
            v4_root: HmacSha256::new_from_slice(&root).expect(KEY_ANY_LENGTH),
            digest: Sha256::digest(secret).into(),
        }
    }

    pub(super) fn sha1(&self) -> HmacSha1 {
        self.sha1.clone()
    }

    pub(super) fn derive(&self, day: &str, region: &str) -> DerivedKey {
        let mut key = step(self.v4_root.clone(), day.as_bytes());
        for part in [region.as_bytes(), b"ots", b"aliyun_v4_request"] {
            key = step(HmacSha256::new_from_slice(&key).expect(KEY_ANY_LENGTH), part);
        }
        // The key is the text of the derived bytes, not the bytes.
        let text = STANDARD.encode(key);
        DerivedKey {
            sha1: HmacSha1::new_from_slice(text.as_bytes()).expect(KEY_ANY_LENGTH),
            sha256: HmacSha256::new_from_slice(text.as_bytes()).expect(KEY_ANY_LENGTH),
            secret_digest: self.digest,
        }
    }
}

fn step(mac: HmacSha256, part: &[u8]) -> [u8; 32] {
    mac.chain_update(part).finalize().into_bytes().into()
}

/// A key for one day and region.
#[derive(Clone)]
pub(super) struct DerivedKey {
    sha1: HmacSha1,
    sha256: HmacSha256,
    /// Tells whether the secret is still the one it was derived from.
    secret_digest: [u8; 32],
}

impl DerivedKey {
    pub(super) fn sha1(&self) -> HmacSha1 {
        self.sha1.clone()
    }

    pub(super) fn sha256(&self) -> HmacSha256 {
        self.sha256.clone()
    }
}

/// Remembers derived keys, a bounded number of them.
///
/// Only keys that have signed a good request are remembered, so that bad requests cannot fill
/// it. A key that was derived from an earlier secret of the same access key is never used.
pub struct SigningKeys {
    derived: RwLock<HashMap<String, DerivedKey>>,
    nobody: Secret,
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKeys")
    }
}

impl Default for SigningKeys {
    fn default() -> SigningKeys {
        SigningKeys { derived: RwLock::default(), nobody: Secret::new(b"nobody") }
    }
}

impl SigningKeys {
    /// Remembers nothing yet.
    pub fn new() -> SigningKeys {
        SigningKeys::default()
    }

    /// The secret that stands for access keys that do not exist.
    pub(super) fn nobody(&self) -> &Secret {
        &self.nobody
    }

    /// The key that was remembered for an access key, or for nobody.
    pub(super) fn find(
        &self,
        id: Option<&str>,
        secret: &Secret,
        day: &str,
        region: &str,
    ) -> Option<DerivedKey> {
        let derived = self.derived.read().unwrap_or_else(PoisonError::into_inner);
        let known = derived.get(&name(id, day, region))?;
        same(&known.secret_digest, &secret.digest).then(|| known.clone())
    }

    /// Remembers the key of a request that was good; and that of nobody beside it, so that for
    /// a region in use an access key that does not exist takes no longer than one that does.
    pub(super) fn remember(&self, id: &str, secret: &Secret, day: &str, region: &str) {
        let key = secret.derive(day, region);
        let nobody = self.nobody.derive(day, region);
        let mut derived = self.derived.write().unwrap_or_else(PoisonError::into_inner);
        if derived.len() + 2 > REMEMBERED_MAX {
            derived.clear();
        }
        derived.insert(name(Some(id), day, region), key);
        derived.insert(name(None, day, region), nobody);
    }
}

fn name(id: Option<&str>, day: &str, region: &str) -> String {
    // A header holds no line feed, so no two names are alike.
    let kind = if id.is_some() { "k" } else { "n" };
    [kind, id.unwrap_or_default(), day, region].join("\n")
}

/// Signs the answer to a request.
#[derive(Clone)]
pub struct ResponseKey {
    mac: HmacSha1,
}

impl fmt::Debug for ResponseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseKey")
    }
}

impl ResponseKey {
    pub(super) fn new(mac: HmacSha1) -> ResponseKey {
        ResponseKey { mac }
    }

    /// The value of the `Authorization` header.
    ///
    /// `headers` are all `x-ots-*` headers of the answer, names in lower case, in any order.
    pub fn authorization(
        &self,
        access_key_id: &str,
        path: &str,
        headers: &mut [(&str, &str)],
    ) -> String {
        headers.sort_unstable();
        let mut mac = self.mac.clone();
        for (name, value) in headers.iter() {
            for part in [name, ":", value, "\n"] {
                mac.update(part.as_bytes());
            }
        }
        mac.update(path.as_bytes());
        let mut value = String::with_capacity(access_key_id.len() + 36);
        value.push_str("OTS ");
        value.push_str(access_key_id);
        value.push(':');
        STANDARD.encode_string(mac.finalize().into_bytes(), &mut value);
        value
    }

    /// Whether an answer's `Authorization` header is the right one; for clients.
    pub fn is_authorization(
        &self,
        given: &str,
        access_key_id: &str,
        path: &str,
        headers: &mut [(&str, &str)],
    ) -> bool {
        let made = self.authorization(access_key_id, path, headers);
        same(made.as_bytes(), given.as_bytes())
    }
}
