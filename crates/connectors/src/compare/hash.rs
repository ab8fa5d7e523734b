//! Hashes of rows and of whole tables.
//!
//! What must hold: the hash of a row is that of its canonical bytes; the hash of a table is that
//! of the hashes of its rows in the order of their keys, so that two exports of equal tables have
//! one value, whatever the order and the format of the files.

use std::fmt;
use std::str::FromStr;

use sha2::Digest;

use super::row::{Row, Versions};

/// A hash function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashKind {
    /// BLAKE3, 256 bits.
    #[default]
    Blake3,
    /// SHA-256.
    Sha256,
    /// SHA-1; finds accidents, not forgery.
    Sha1,
    /// MD5; finds accidents, not forgery.
    Md5,
}

impl HashKind {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            HashKind::Blake3 => "blake3",
            HashKind::Sha256 => "sha256",
            HashKind::Sha1 => "sha1",
            HashKind::Md5 => "md5",
        }
    }
}

impl FromStr for HashKind {
    type Err = String;

    fn from_str(name: &str) -> Result<HashKind, String> {
        match name.to_ascii_lowercase().as_str() {
            "blake3" => Ok(HashKind::Blake3),
            "sha256" | "sha-256" => Ok(HashKind::Sha256),
            "sha1" | "sha-1" => Ok(HashKind::Sha1),
            "md5" => Ok(HashKind::Md5),
            other => Err(format!("{other:?} is no hash; hashes are blake3, sha256, sha1, md5")),
        }
    }
}

/// What a hash function gave; shown in hexadecimal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Hash(pub Vec<u8>);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hashes bytes as they come.
enum Hasher {
    Blake3(Box<blake3::Hasher>),
    Sha256(sha2::Sha256),
    Sha1(sha1::Sha1),
    Md5(md5::Md5),
}

impl Hasher {
    fn new(kind: HashKind) -> Hasher {
        match kind {
            HashKind::Blake3 => Hasher::Blake3(Box::default()),
            HashKind::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            HashKind::Sha1 => Hasher::Sha1(sha1::Sha1::new()),
            HashKind::Md5 => Hasher::Md5(md5::Md5::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Blake3(hasher) => {
                hasher.update(bytes);
            }
            Hasher::Sha256(hasher) => Digest::update(hasher, bytes),
            Hasher::Sha1(hasher) => Digest::update(hasher, bytes),
            Hasher::Md5(hasher) => Digest::update(hasher, bytes),
        }
    }

    fn finish(self) -> Hash {
        Hash(match self {
            Hasher::Blake3(hasher) => hasher.finalize().as_bytes().to_vec(),
            Hasher::Sha256(hasher) => hasher.finalize().to_vec(),
            Hasher::Sha1(hasher) => hasher.finalize().to_vec(),
            Hasher::Md5(hasher) => hasher.finalize().to_vec(),
        })
    }
}

/// The hash of bytes.
pub fn hash(kind: HashKind, bytes: &[u8]) -> Hash {
    let mut hasher = Hasher::new(kind);
    hasher.update(bytes);
    hasher.finish()
}

/// Hashes rows.
pub struct RowHasher {
    kind: HashKind,
    versions: Versions,
    buffer: Vec<u8>,
}

impl RowHasher {
    /// Hashes what is compared of rows.
    pub fn new(kind: HashKind, versions: Versions) -> RowHasher {
        RowHasher { kind, versions, buffer: Vec::new() }
    }

    /// The hash of a row.
    pub fn row(&mut self, row: &Row) -> Hash {
        self.buffer.clear();
        row.put_canonical(self.versions, &mut self.buffer);
        hash(self.kind, &self.buffer)
    }
}

/// Hashes a table, row by row in the order of keys.
pub struct TableHasher(Hasher);

impl TableHasher {
    /// A table without rows yet.
    pub fn new(kind: HashKind) -> TableHasher {
        TableHasher(Hasher::new(kind))
    }

    /// Takes in the next row.
    pub fn push(&mut self, row: &Hash) {
        self.0.update(&row.0);
    }

    /// The hash of the table.
    pub fn finish(self) -> Hash {
        self.0.finish()
    }
}
