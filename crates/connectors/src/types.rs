//! How text becomes typed values.
//!
//! What must hold: a value is never changed by being read. Text that looks like a number is one
//! only if nothing of it would be lost (`007` and `1e5x` stay text), and a column with a stated
//! type takes values of that type or refuses them.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use isthmus_model::key::KeyKind;
use isthmus_model::schema::Schema;
use isthmus_model::value::{Text, Value, ValueKind};

/// The stated types of columns; others are inferred, value by value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Types(BTreeMap<String, ValueKind>);

impl Types {
    /// Reads a list like `age:integer,name:string`.
    pub fn parse(list: &str) -> Result<Types, String> {
        let mut types = Types::default();
        for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (name, kind) =
                item.rsplit_once(':').ok_or_else(|| format!("{item:?} is not like NAME:TYPE"))?;
            let kind = kind_of(kind)?;
            if types.0.insert(name.to_owned(), kind).is_some() {
                return Err(format!("column {name} is given twice"));
            }
        }
        Ok(types)
    }

    /// The stated type of a column.
    pub fn get(&self, column: &str) -> Option<ValueKind> {
        self.0.get(column).copied()
    }

    /// States a type, unless one was stated before.
    pub fn or_insert(&mut self, column: &str, kind: ValueKind) {
        self.0.entry(column.to_owned()).or_insert(kind);
    }

    /// What the table says of its columns counts where nothing was stated.
    pub fn with_schema(mut self, schema: &Schema) -> Types {
        for column in &schema.key_columns {
            self.or_insert(column.name.as_str(), kind_of_key(column.kind));
        }
        for column in &schema.defined_columns {
            self.or_insert(column.name.as_str(), column.kind);
        }
        self
    }
}

/// The type of values that a key column of this type takes.
pub fn kind_of_key(kind: KeyKind) -> ValueKind {
    match kind {
        KeyKind::Integer => ValueKind::Integer,
        KeyKind::String => ValueKind::String,
        KeyKind::Binary => ValueKind::Binary,
    }
}

/// The type of that name.
pub fn kind_of(name: &str) -> Result<ValueKind, String> {
    match name.trim().to_ascii_lowercase().as_str() {
        "integer" => Ok(ValueKind::Integer),
        "double" => Ok(ValueKind::Double),
        "boolean" => Ok(ValueKind::Boolean),
        "string" => Ok(ValueKind::String),
        "binary" => Ok(ValueKind::Binary),
        other => {
            Err(format!("{other:?} is no type; types are integer, double, boolean, string, binary"))
        }
    }
}

/// The name of a type.
pub fn name_of(kind: ValueKind) -> &'static str {
    match kind {
        ValueKind::Integer => "integer",
        ValueKind::Double => "double",
        ValueKind::Boolean => "boolean",
        ValueKind::String => "string",
        ValueKind::Binary => "binary",
    }
}

/// The value of a text in a column of this type; binary is written in base64.
pub fn read_as(kind: ValueKind, text: &str) -> Result<Value, String> {
    let not = || format!("{:?} is not of type {}", shown(text), name_of(kind));
    match kind {
        ValueKind::Integer => text.parse().map(Value::Integer).map_err(|_| not()),
        ValueKind::Double => text.parse().map(Value::Double).map_err(|_| not()),
        ValueKind::Boolean => truth(text).map(Value::Boolean).ok_or_else(not),
        ValueKind::String => Ok(Value::String(Text::from(text))),
        ValueKind::Binary => {
            let bytes = STANDARD.decode(text).map_err(|_| format!("{}, in base64", not()))?;
            Ok(Value::Binary(bytes.into()))
        }
    }
}

/// The value of a text in a column of no stated type: an integer, a double, true or false, or
/// else the text itself.
pub fn infer(text: &str) -> Value {
    if looks_like_a_number(text) {
        if let Ok(number) = text.parse() {
            return Value::Integer(number);
        }
        if let Some(number) = text.parse().ok().filter(|number: &f64| number.is_finite())
            && text.contains(['.', 'e', 'E'])
        {
            return Value::Double(number);
        }
    }
    match truth(text) {
        Some(truth) => Value::Boolean(truth),
        None => Value::String(Text::from(text)),
    }
}

fn truth(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// Digits with at most a minus before and a point or an exponent inside, without leading zeros.
fn looks_like_a_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let mut bytes = digits.bytes();
    let starts = bytes.next().is_some_and(|first| first.is_ascii_digit());
    let padded = digits.starts_with('0') && bytes.next().is_some_and(|next| next.is_ascii_digit());
    let ends = digits.ends_with(|last: char| last.is_ascii_digit());
    // Integers have no minus zero: as one, the text would lose its sign.
    starts && ends && !padded && text != "-0"
}

/// Text for an error: cut, so that a line of megabytes does not become a message.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn text_becomes_a_number_only_if_nothing_is_lost() {
        let text = |text: &str| Value::String(Text::from(text));
        assert_eq!(infer("36"), Value::Integer(36));
        assert_eq!(infer("-5"), Value::Integer(-5));
        assert_eq!(infer("0"), Value::Integer(0));
        assert_eq!(infer("-0"), text("-0"));
        assert_eq!(infer("0.5"), Value::Double(0.5));
        assert_eq!(infer("-1.5e3"), Value::Double(-1500.0));
        assert_eq!(infer("TRUE"), Value::Boolean(true));
        for kept in ["007", "00.5", "+1", "1.", ".5", "NaN", "inf", "1e999", "", "1 ", "0x1f"] {
            assert_eq!(infer(kept), text(kept));
        }
        // More digits than 64 bits hold.
        assert_eq!(infer("18446744073709551616"), text("18446744073709551616"));
    }

    #[test]
    fn a_stated_type_takes_its_values_and_no_others() {
        assert_eq!(read_as(ValueKind::Integer, "007"), Ok(Value::Integer(7)));
        assert_eq!(read_as(ValueKind::Double, "3"), Ok(Value::Double(3.0)));
        assert_eq!(read_as(ValueKind::String, "3"), Ok(Value::String("3".into())));
        assert_eq!(read_as(ValueKind::Binary, "AP8="), Ok(Value::Binary(vec![0, 255].into())));
        let error = read_as(ValueKind::Integer, "3.5").unwrap_err();
        assert_eq!(error, "\"3.5\" is not of type integer");
        assert!(read_as(ValueKind::Boolean, "1").is_err());
        assert!(read_as(ValueKind::Binary, "***").is_err());
    }

    #[test]
    fn lists_of_types_are_read_and_checked() {
        let types = Types::parse("a:integer, b:double").unwrap();
        assert_eq!(types.get("b"), Some(ValueKind::Double));
        assert_eq!(types.get("c"), None);
        assert!(Types::parse("a").unwrap_err().contains("NAME:TYPE"));
        assert!(Types::parse("a:number").unwrap_err().contains("no type"));
        assert!(Types::parse("a:double,a:string").unwrap_err().contains("twice"));
    }

    proptest! {
        #[test]
        fn numbers_survive_being_written_and_read(integer: i64, double in any::<f64>()) {
            prop_assert_eq!(infer(&integer.to_string()), Value::Integer(integer));
            let read = read_as(ValueKind::Double, &double.to_string());
            if !double.is_nan() {
                prop_assert_eq!(read, Ok(Value::Double(double)));
            }
        }
    }
}
