//! Typed values of cells, and text that shares its bytes.
//!
//! A value never copies the bytes it was decoded from: strings and binaries are views of a
//! shared buffer. Doubles compare by their bits where equality means "the same cell".

use std::borrow::Borrow;
use std::fmt;

use bytes::Bytes;

/// UTF-8 text that shares its bytes.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Bytes);

impl Text {
    /// Checks that the bytes are UTF-8.
    pub fn from_bytes(bytes: Bytes) -> Result<Text, std::str::Utf8Error> {
        std::str::from_utf8(&bytes)?;
        Ok(Text(bytes))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("checked when it was made")
    }

    /// The bytes of the text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The shared bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Text {
    fn from(text: String) -> Text {
        Text(Bytes::from(text))
    }
}

impl Borrow<[u8]> for Text {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The type of an attribute value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueKind {
    /// 64-bit signed.
    Integer,
    /// IEEE 754 binary64.
    Double,
    /// True or false.
    Boolean,
    /// UTF-8 text.
    String,
    /// Bytes.
    Binary,
}

/// The value of an attribute cell.
#[derive(Clone, Debug)]
pub enum Value {
    /// 64-bit signed.
    Integer(i64),
    /// IEEE 754 binary64, kept bit by bit.
    Double(f64),
    /// True or false.
    Boolean(bool),
    /// UTF-8 text.
    String(Text),
    /// Bytes.
    Binary(Bytes),
}

impl Value {
    /// The type.
    pub fn kind(&self) -> ValueKind {
        match self {
            Value::Integer(_) => ValueKind::Integer,
            Value::Double(_) => ValueKind::Double,
            Value::Boolean(_) => ValueKind::Boolean,
            Value::String(_) => ValueKind::String,
            Value::Binary(_) => ValueKind::Binary,
        }
    }

    /// Bytes as the capacity units and limits count them: 8 for numbers, 1 for booleans.
    pub fn size(&self) -> usize {
        match self {
            Value::Integer(_) | Value::Double(_) => 8,
            Value::Boolean(_) => 1,
            Value::String(text) => text.len(),
            Value::Binary(bytes) => bytes.len(),
        }
    }
}

/// Same type and same bits: NaN equals itself, 0.0 differs from -0.0.
impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Integer(a), Value::Integer(b)) => a == b,
            (Value::Double(a), Value::Double(b)) => a.to_bits() == b.to_bits(),
            (Value::Boolean(a), Value::Boolean(b)) => a == b,
            (Value::String(a), Value::String(b)) => a == b,
            (Value::Binary(a), Value::Binary(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Value {}
