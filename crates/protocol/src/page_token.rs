//! Tokens that say where a read of a wide row goes on.
//!
//! A token is bound to its instance, table and row by a MAC, so that one that was made up, cut,
//! changed or taken from another row is refused. Layout: version byte; 0 or 1 for the version
//! bound; the bound as a big-endian integer where there is one; the column's name; then the
//! MAC's first 16 bytes. Nodes that shall understand each other's tokens share the key.

use bytes::{BufMut, Bytes, BytesMut};
use hmac::{Hmac, Mac};
use isthmus_model::change::RowResume;
use isthmus_model::ids::Timestamp;
use isthmus_model::key::EncodedKey;
use isthmus_model::value::Text;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::error::ProtocolError;

const VERSION: u8 = 1;
const MAC_BYTES: usize = 16;
/// A column name, the rest, and some room for names that grow.
const TOKEN_BYTES_MAX: usize = 1024;

/// Makes and opens tokens.
#[derive(Clone)]
pub struct PageTokens {
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for PageTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PageTokens")
    }
}

impl PageTokens {
    /// Tokens made under this key.
    pub fn new(key: &[u8]) -> PageTokens {
        PageTokens { mac: Hmac::new_from_slice(key).expect("a key may have any length") }
    }

    /// The token that lets a read of this row go on here.
    pub fn seal(
        &self,
        instance: &str,
        table: &Text,
        key: &EncodedKey,
        resume: &RowResume,
    ) -> Bytes {
        let mut out = BytesMut::with_capacity(resume.column.len() + 26);
        out.put_u8(VERSION);
        match resume.below {
            None => out.put_u8(0),
            Some(Timestamp(below)) => {
                out.put_u8(1);
                out.put_i64(below);
            }
        }
        out.put_slice(resume.column.as_bytes());
        let mac = self.mac(instance, table, key, &out);
        out.put_slice(&mac);
        out.freeze()
    }

    /// Where a read of this row goes on, if the token is one of this row's.
    pub fn open(
        &self,
        instance: &str,
        table: &Text,
        key: &EncodedKey,
        token: &Bytes,
    ) -> Result<RowResume, ProtocolError> {
        let refused = ProtocolError::Malformed("the token is not one of this row");
        let content_bytes = token.len().saturating_sub(MAC_BYTES);
        if content_bytes < 2 || token.len() > TOKEN_BYTES_MAX {
            return Err(refused);
        }
        let (content, mac) = token.split_at(content_bytes);
        if !bool::from(self.mac(instance, table, key, content).ct_eq(mac)) {
            return Err(refused);
        }
        let (below, name_at) = match content {
            [VERSION, 0, ..] => (None, 2),
            [VERSION, 1, rest @ ..] => match rest.first_chunk::<8>() {
                Some(bytes) => (Some(Timestamp(i64::from_be_bytes(*bytes))), 10),
                None => return Err(refused),
            },
            _ => return Err(refused),
        };
        let column = Text::from_bytes(token.slice(name_at..content_bytes)).map_err(|_| refused)?;
        Ok(RowResume { column, below })
    }

    fn mac(
        &self,
        instance: &str,
        table: &Text,
        key: &EncodedKey,
        content: &[u8],
    ) -> [u8; MAC_BYTES] {
        let mut mac = self.mac.clone();
        // Each part is led by its length, so that none can pass for a part of another.
        for part in [b"page", instance.as_bytes(), table.as_bytes(), &key.0, content] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        let whole = mac.finalize().into_bytes();
        let mut cut = [0; MAC_BYTES];
        cut.copy_from_slice(&whole[..MAC_BYTES]);
        cut
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::key::{KeyValue, PrimaryKey};

    use super::*;

    #[test]
    fn token_opens_for_its_own_row_only() {
        let tokens = PageTokens::new(&[7; 32]);
        let table = Text::from("t");
        let key = PrimaryKey(vec![KeyValue::Integer(1)]).encode();
        for below in [None, Some(Timestamp(-5)), Some(Timestamp(i64::MAX))] {
            let resume = RowResume { column: Text::from("größe"), below };
            let token = tokens.seal("i", &table, &key, &resume);
            assert_eq!(tokens.open("i", &table, &key, &token), Ok(resume));
            let other_key = PrimaryKey(vec![KeyValue::Integer(2)]).encode();
            assert!(tokens.open("i", &table, &other_key, &token).is_err());
            assert!(tokens.open("i", &Text::from("u"), &key, &token).is_err());
            assert!(tokens.open("j", &table, &key, &token).is_err());
            assert!(PageTokens::new(&[8; 32]).open("i", &table, &key, &token).is_err());
            for place in 0..token.len() {
                assert!(tokens.open("i", &table, &key, &token.slice(..place)).is_err());
                for bit in 0..8 {
                    let mut changed = token.to_vec();
                    changed[place] ^= 1 << bit;
                    assert!(tokens.open("i", &table, &key, &changed.into()).is_err());
                }
            }
        }
    }
}
