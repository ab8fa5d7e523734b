//! Batches that ask to be made in all partitions that they are about, or in none; and reads of
//! several rows as of one moment.

use std::collections::BTreeMap;

use bytes::Bytes;
use isthmus_control::write_mode::WriteMode;
use isthmus_model::change::NamedKeyPart;
use isthmus_model::value::Text;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::receipt::Receipt;
use isthmus_protocol::request::{Operation, RowPlace, atomic_groups};
use isthmus_protocol::routed::BatchAnswer;

use super::Fresh;
use super::batch::Tables;
use crate::api_error::ApiError;
use crate::atomic::invalid;
use crate::http::PublicApi;
use crate::http::forward::Change;
use crate::node::{Partition, Place};
use crate::peer::batch::{Batch, BatchDone, BatchGroup};
use crate::peer::call::Failure;

/// Rows that change are read again so often at most.
const READS_MAX: usize = 20;

/// Why a batch is not made: a row's place in it, and what is wrong there.
struct Cause {
    place: RowPlace,
    error: ApiError,
}

impl PublicApi {
    /// BatchWriteRow, made wholly or not at all.
    pub(in crate::http) async fn write_atomic(
        &self,
        body: &Bytes,
        receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        if receipt.is_some() {
            return Err(invalid("There is no receipt for such a batch."));
        }
        let names = match Change::decode_of_client(body)? {
            Change::Batch(checked) => checked.tables().to_vec(),
            _ => return Err(ApiError::internal()),
        };
        let mut turns = self.turns();
        loop {
            let tables = self.tables_of(&names, &mut turns);
            // No error of these, and no cause, comes of a batch that is made.
            let is_elsewhere = |error: &ApiError| {
                let is_elsewhere = error.is_elsewhere || error.code == ErrorCode::ObjectNotExist;
                is_elsewhere && tables.any(|table| self.node.may_be_reshaped(table))
            };
            match Box::pin(self.write_atomic_to(&names, &tables, body)).await {
                Err(error) if is_elsewhere(&error) => turns.next(error).await?,
                Err(error) => return Err(error),
                Ok((counts, places, done)) => match cause_of(&places, &done) {
                    Some(cause) if is_elsewhere(&cause.error) => turns.next(cause.error).await?,
                    _ => return answer(counts, &places, done),
                },
            }
        }
    }

    /// Has a batch made in partitions as they are known.
    async fn write_atomic_to(
        &self,
        names: &[Text],
        tables: &Tables,
        body: &Bytes,
    ) -> Result<(Vec<(Text, usize)>, Vec<Vec<RowPlace>>, BatchDone), ApiError> {
        let whole = names.iter().filter(|table| !tables.has(table));
        let mut places = BTreeMap::new();
        for table in whole {
            self.node.listen_first(table.as_str()).await;
            places.insert(table.clone(), self.node.place_of_writes(table.as_str())?);
        }
        let name_of = |table: &Text, key: &[NamedKeyPart]| tables.name_of(table, key);
        let (counts, mut groups) = atomic_groups(body.clone(), name_of)?;
        // Whoever makes batches of the same partitions has the same anchor, so that no two wait for
        // each other. A decision is as durable as the anchor's mode says.
        groups.sort_by_cached_key(|group| {
            (!self.is_synchronous(tables, &group.name), group.name.clone())
        });
        let group = |name: &Text, body: &Bytes| BatchGroup {
            name: name.as_str().to_owned(),
            body: body.clone(),
            region: match (tables.named(name), places.get(name)) {
                (Some(partition), _) => self.likely_writer(&partition),
                (None, Some(Place::There(region))) => region.clone(),
                (None, _) => String::new(),
            },
            table: self.node.line_named(name.as_str()),
        };
        let groups: Vec<_> =
            groups.into_iter().map(|one| (group(&one.name, &one.body), one.places)).collect();
        let (groups, places): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
        let done = self.node.have_batch_made(Batch { groups }).await?;
        Ok((counts, places, done))
    }

    /// The region that is likely to write a partition.
    fn likely_writer(&self, partition: &Partition<'_>) -> String {
        let name = partition.name();
        self.node.count_request(&name);
        match self.node.place_of_writes(&name) {
            Ok(Place::Here(_)) => String::new(),
            Ok(Place::There(region)) => region,
            Ok(Place::Unsettled) | Err(_) => {
                self.node.likely_writers(partition).into_iter().next().unwrap_or_default()
            }
        }
    }

    fn is_synchronous(&self, tables: &Tables, name: &Text) -> bool {
        match tables.named(name) {
            Some(partition) => matches!(partition.table.mode, WriteMode::Sync(_)),
            None => self.node.is_synchronous(name.as_str()),
        }
    }

    /// BatchGetRow as of one moment: rows are read until two reads find the same, so that all of
    /// them were so between the two.
    pub(in crate::http) async fn read_atomic(
        &self,
        operation: &Operation,
    ) -> Result<Bytes, ApiError> {
        let Operation::BatchGetRow(batch) = operation else {
            return Err(invalid("It is for BatchWriteRow and BatchGetRow."));
        };
        let mut before = None;
        for _ in 0..READS_MAX {
            let read = Box::pin(self.route_batch_get(batch.clone(), Fresh::Newest)).await?;
            if before.as_ref() == Some(&read) {
                return Ok(read);
            }
            before = Some(read);
        }
        Err(ApiError::new(
            ErrorCode::ServerBusy,
            "Server is busy. The rows change so fast that they cannot be read as of one moment.",
        ))
    }
}

/// The answer to the whole batch.
fn answer(
    counts: Vec<(Text, usize)>,
    places: &[Vec<RowPlace>],
    done: BatchDone,
) -> Result<Bytes, ApiError> {
    if done.groups.len() != places.len() {
        return Err(ApiError::internal());
    }
    let names: Vec<Text> = counts.iter().map(|(name, _)| name.clone()).collect();
    let mut whole = BatchAnswer::new(counts);
    let Some(cause) = cause_of(places, &done) else {
        for (places, group) in places.iter().zip(done.groups) {
            whole.put(places, group.answer)?;
        }
        return Ok(whole.finish());
    };
    let (table, row) = cause.place;
    let name = names.get(table).map_or("", Text::as_str);
    let others = format!(
        "Nothing was written: the batch was given up because of row {} of table {name}: {}",
        row + 1,
        cause.error.message
    );
    for (places, group) in places.iter().zip(done.groups) {
        match group.failure {
            Some(failure) => {
                let error = error_of(failure);
                whole.put_failed(places, error.code, &error.message);
            }
            None => whole.put_failed(places, cause.error.code, &others),
        }
        for refused in group.refused {
            let place = places.get(refused.place as usize);
            if let (Some(place), Some(failure)) = (place, refused.failure) {
                let error = error_of(failure);
                whole.put_failed(std::slice::from_ref(place), error.code, &error.message);
            }
        }
    }
    Ok(whole.finish())
}

/// The first reason for which a batch is not made; `None`: it is made.
fn cause_of(places: &[Vec<RowPlace>], done: &BatchDone) -> Option<Cause> {
    let mut groups = places.iter().zip(&done.groups);
    groups.find_map(|(places, group)| {
        let refused = group.refused.first();
        let row = refused.map_or(0, |refused| refused.place as usize);
        let failure = refused.and_then(|refused| refused.failure.clone());
        let failure = failure.or_else(|| group.failure.clone())?;
        Some(Cause { place: *places.get(row)?, error: error_of(failure) })
    })
}

fn error_of(failure: Failure) -> ApiError {
    let code = ErrorCode::from_name(&failure.code).unwrap_or(ErrorCode::InternalServerError);
    ApiError { is_elsewhere: failure.is_elsewhere, ..ApiError::new(code, failure.message) }
}

#[cfg(test)]
mod tests {
    use isthmus_protocol::client::decode_batch;

    use super::*;
    use crate::peer::batch::{GroupDone, RowRefused};

    fn refused(place: u32) -> RowRefused {
        let failure = Failure {
            code: "OTSConditionCheckFail".to_owned(),
            message: "Condition check failed.".to_owned(),
            is_elsewhere: false,
        };
        RowRefused { place, failure: Some(failure) }
    }

    #[test]
    fn the_row_at_fault_is_named_to_all_others() {
        let counts = vec![(Text::from("a"), 2), (Text::from("b"), 1)];
        let places = vec![vec![(1, 0)], vec![(0, 0), (0, 1)]];
        let groups = vec![
            GroupDone::default(),
            GroupDone { refused: vec![refused(1)], ..Default::default() },
        ];
        let told = answer(counts, &places, BatchDone { groups }).unwrap();
        let told = decode_batch(told).unwrap();
        let rows = told.into_iter().flat_map(|table| table.rows);
        let errors: Vec<String> = rows.map(|row| row.unwrap_err().message).collect();
        let other = "Nothing was written: the batch was given up because of row 2 of table a: \
                     Condition check failed.";
        assert_eq!(errors, [other, "Condition check failed.", other]);
    }
}
