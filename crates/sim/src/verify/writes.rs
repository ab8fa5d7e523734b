//! Changes that clients ask for: few columns, few timestamps, so that they meet.

use std::ops::Range;

use isthmus_model::change::{
    CellChange, CellWrite, Condition, Existence, KeyPart, NamedKeyPart, Returned, RowAction,
    RowChange,
};
use isthmus_model::check::{CheckedChange, check_change};
use isthmus_model::ids::Timestamp;
use isthmus_model::key::{EncodedKey, KeyValue, PrimaryKey};
use isthmus_model::schema::Schema;
use isthmus_model::value::Value;
use rand::Rng;
use rand::rngs::SmallRng;

/// Draws changes.
pub(super) struct Writes<'a> {
    pub(super) rng: &'a mut SmallRng,
    pub(super) schema: &'a Schema,
    pub(super) now_millis: i64,
    pub(super) keys: Range<i64>,
    /// Goes into a value, so that no two are the same.
    pub(super) number: u64,
}

/// A key of the table, encoded.
pub(super) fn key(number: i64) -> EncodedKey {
    PrimaryKey(vec![KeyValue::Integer(number)]).encode()
}

impl Writes<'_> {
    /// A change that the server accepts.
    pub(super) fn change(&mut self) -> Option<CheckedChange> {
        let number = self.rng.random_range(self.keys.clone());
        let action = match self.rng.random_range(0..10) {
            0..=3 => RowAction::Put(self.cells()),
            4 => RowAction::Delete,
            _ => RowAction::Update(self.steps()),
        };
        let change = RowChange {
            key: vec![NamedKeyPart {
                name: "k".into(),
                part: KeyPart::Value(KeyValue::Integer(number)),
            }],
            action,
            condition: Condition { existence: Existence::Ignore, columns: None },
            returned: Returned::Nothing,
        };
        check_change(self.schema, change, self.now_millis).ok()
    }

    fn cells(&mut self) -> Vec<CellWrite> {
        (0..self.rng.random_range(0..4)).map(|place| self.cell(place)).collect()
    }

    fn cell(&mut self, place: u32) -> CellWrite {
        let timestamp = (self.rng.random_range(0..3) == 0).then(|| self.timestamp());
        let value = match self.rng.random_range(0..8) {
            0 => Value::Integer(self.number as i64),
            1 => Value::Double(self.number as f64),
            2 => Value::Boolean(self.number.is_multiple_of(2)),
            3 => Value::Binary(self.number.to_le_bytes().to_vec().into()),
            _ => Value::String(format!("value {}", self.number).into()),
        };
        CellWrite { name: format!("c{place}").into(), value, timestamp }
    }

    fn timestamp(&mut self) -> Timestamp {
        let back = match self.schema.options.time_to_live_seconds {
            Some(seconds) => self.rng.random_range(0..i64::from(seconds) * 1000),
            None => self.rng.random_range(0..4) * 1000,
        };
        let at = self.now_millis - back;
        Timestamp(at - at % 1000)
    }

    fn steps(&mut self) -> Vec<CellChange> {
        let mut steps = Vec::new();
        for place in 0..self.rng.random_range(1..4) {
            let name = format!("c{place}").into();
            steps.push(match self.rng.random_range(0..9) {
                0 => CellChange::DeleteColumn { name },
                1 => CellChange::DeleteVersion { name, timestamp: self.timestamp() },
                2 if place == 0 => CellChange::Increment { name: "n".into(), delta: 1 },
                _ => CellChange::Put(self.cell(place)),
            });
        }
        steps
    }
}
