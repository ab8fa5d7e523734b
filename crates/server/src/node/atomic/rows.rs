//! The rows of a batch in one partition: checked, and answered.

use std::collections::BTreeSet;

use bytes::Bytes;
use isthmus_model::capacity::WriteSize;
use isthmus_model::change::Returned;
use isthmus_model::check::{CheckedChange, CheckedKey, check_change};
use isthmus_model::key::EncodedKey;
use isthmus_model::schema::Schema;
use isthmus_protocol::request::{Operation, decode_passed_on};
use isthmus_store::{StoreError, Table, Written};

use crate::api_error::ApiError;
use crate::node::SyncRow;
use crate::peer::batch::RowRefused;
use crate::peer::call::Failure;

/// Path of the one operation that a batch can ask for.
pub(super) const PATH: &str = "/BatchWriteRow";

/// The rows of a batch in one partition, as they were checked.
pub(super) struct Group {
    body: Bytes,
    pub(super) changes: Vec<CheckedChange>,
    shown: Vec<(WriteSize, Returned)>,
}

/// Rows that cannot be written, with their places.
pub(super) type Refused = Vec<(usize, ApiError)>;

impl Group {
    /// Checks what a request asks for. `is_alone`: nothing else is in the batch.
    pub(super) fn check(
        schema: &Schema,
        body: &Bytes,
        judged_millis: i64,
        is_alone: bool,
    ) -> Result<Result<Group, Refused>, ApiError> {
        let Operation::BatchWriteRow(batch) = decode_passed_on(PATH, body.clone())? else {
            return Err(ApiError::internal());
        };
        let mut group = Group { body: body.clone(), changes: Vec::new(), shown: Vec::new() };
        let mut refused = Vec::new();
        let rows = batch.tables.into_iter().flat_map(|table| table.rows);
        for (place, row) in rows.enumerate() {
            let returned = row.returned.clone();
            if !is_alone && matches!(returned, Returned::AfterModify(_)) {
                refused.push((place, ApiError::invalid(
                    "A batch that is made in several partitions or in none cannot return what rows \
                     are after it.",
                )));
                continue;
            }
            match check_change(schema, row, judged_millis) {
                Ok(checked) => {
                    group.shown.push((checked.size, returned));
                    group.changes.push(checked);
                }
                Err(error) => refused.push((place, error.into())),
            }
        }
        if refused.is_empty()
            && let Some(place) = first_twice(&group.changes)
        {
            refused.push((place, StoreError::RowTwice.into()));
        }
        Ok(if refused.is_empty() { Ok(group) } else { Err(refused) })
    }

    /// The keys of its rows, but for those that the server makes.
    pub(super) fn keys(&self) -> Vec<EncodedKey> {
        self.changes.iter().filter_map(key_of).collect()
    }

    /// What it asks for.
    pub(super) fn body(&self) -> &Bytes {
        &self.body
    }

    /// Its rows for a table that is written synchronously.
    pub(super) fn sync_rows(&self) -> Vec<SyncRow> {
        let changes = self.changes.iter().cloned();
        changes.map(|change| SyncRow { body: self.body.clone(), change }).collect()
    }

    /// The answer, should all of it be made as it was judged.
    pub(super) fn answer(self, table: &Table, written: Vec<Written>) -> Bytes {
        crate::rows::encode_written(table, self.shown.into_iter().zip(written))
    }
}

/// The key of a row, but for one that the server makes.
fn key_of(change: &CheckedChange) -> Option<EncodedKey> {
    match &change.key {
        CheckedKey::Whole(key) => Some(key.encode()),
        CheckedKey::AutoIncrement { .. } => None,
    }
}

/// The place of the first row that was there before.
fn first_twice(changes: &[CheckedChange]) -> Option<usize> {
    let mut keys = BTreeSet::new();
    changes.iter().position(|change| key_of(change).is_some_and(|key| !keys.insert(key)))
}

/// What came of the rows of a group: all were written, or why not.
pub(super) fn all_or_refused(
    results: Vec<Result<Written, ApiError>>,
) -> Result<Vec<Written>, Refused> {
    let (mut written, mut refused) = (Vec::new(), Vec::new());
    for (place, result) in results.into_iter().enumerate() {
        match result {
            Ok(one) => written.push(one),
            Err(error) if error.is_given_up() => {}
            Err(error) => refused.push((place, error)),
        }
    }
    if refused.is_empty() { Ok(written) } else { Err(refused) }
}

/// Results of the store, of which those that another row was the reason for are named so.
pub(super) fn of_store(
    results: Vec<Result<Written, StoreError>>,
) -> Vec<Result<Written, ApiError>> {
    let one = |result: Result<Written, StoreError>| {
        result.map_err(|error| match error {
            StoreError::AbortedTogether => ApiError::given_up(),
            error => error.into(),
        })
    };
    results.into_iter().map(one).collect()
}

/// As they are told.
pub(super) fn refused_told(refused: Refused) -> Vec<RowRefused> {
    let one = |(place, error): (usize, ApiError)| RowRefused {
        place: u32::try_from(place).unwrap_or(u32::MAX),
        failure: Some(failure(error)),
    };
    refused.into_iter().map(one).collect()
}

/// As it is told.
pub(super) fn failure(error: ApiError) -> Failure {
    Failure {
        code: error.code.as_str().to_owned(),
        message: error.message,
        is_elsewhere: error.is_elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::capacity::WriteSize;
    use isthmus_model::change::{Condition, RowAction};
    use isthmus_model::key::{KeyValue, PrimaryKey};

    use super::*;

    #[test]
    fn a_row_that_is_there_twice_is_named_by_its_place() {
        let change = |key| CheckedChange {
            key,
            action: RowAction::Delete,
            condition: Condition::default(),
            returned: Returned::Nothing,
            size: WriteSize { key: 8, attributes: 0 },
        };
        let given = |number| change(CheckedKey::Whole(PrimaryKey(vec![KeyValue::Integer(number)])));
        let made =
            || change(CheckedKey::AutoIncrement { values: vec![KeyValue::Integer(0)], column: 0 });
        assert_eq!(first_twice(&[made(), given(1), made(), given(2), given(1)]), Some(4));
        assert_eq!(first_twice(&[made(), made(), given(1)]), None);
    }
}
