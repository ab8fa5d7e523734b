//! Small tables and changes for the tests of this crate.

use crate::capacity::WriteSize;
use crate::change::{CellChange, CellWrite, Condition, NamedKeyPart, Returned, RowAction};
use crate::check::{CheckedChange, CheckedKey};
use crate::hlc::{Hlc, Stamp};
use crate::ids::{Origin, SchemaNumber, Timestamp};
use crate::key::{KeyKind, KeyValue, PrimaryKey};
use crate::schema::{KeyColumn, Schema, TableOptions};
use crate::value::{Text, Value};

/// Two key columns, "pk" and "id"; the default options.
pub(crate) fn schema() -> Schema {
    let column = |name: &str, kind| KeyColumn { name: name.into(), kind, auto_increment: false };
    Schema {
        number: SchemaNumber(1),
        key_columns: vec![column("pk", KeyKind::String), column("id", KeyKind::Integer)],
        defined_columns: Vec::new(),
        options: TableOptions::default(),
    }
}

pub(crate) fn key() -> PrimaryKey {
    PrimaryKey(vec![KeyValue::String("a".into()), KeyValue::Integer(1)])
}

pub(crate) fn key_parts() -> Vec<NamedKeyPart> {
    let part = |name: &str, value| NamedKeyPart {
        name: name.into(),
        part: crate::change::KeyPart::Value(value),
    };
    vec![part("pk", KeyValue::String("a".into())), part("id", KeyValue::Integer(1))]
}

pub(crate) fn stamp(millis: i64) -> Stamp {
    Stamp { hlc: Hlc::from_millis(millis), origin: Origin(1) }
}

pub(crate) fn write(name: &str, value: i64, timestamp: Option<i64>) -> CellWrite {
    CellWrite {
        name: Text::from(name),
        value: Value::Integer(value),
        timestamp: timestamp.map(Timestamp),
    }
}

pub(crate) fn put(cells: Vec<CellWrite>) -> CheckedChange {
    change(RowAction::Put(cells))
}

pub(crate) fn update(changes: Vec<CellChange>) -> CheckedChange {
    change(RowAction::Update(changes))
}

pub(crate) fn change(action: RowAction) -> CheckedChange {
    CheckedChange {
        key: CheckedKey::Whole(key()),
        action,
        condition: Condition::default(),
        returned: Returned::Nothing,
        size: WriteSize::default(),
    }
}
