//! BatchGetRow: the rows of one table as of one commit, so that of an atomic write all is seen or
//! nothing.

use std::sync::Arc;

use bytes::Bytes;
use isthmus_model::change::{Projection, RowResume};
use isthmus_model::check::{ReadScope, check_key, check_projection};
use isthmus_model::hlc::Hlc;
use isthmus_model::key::{EncodedKey, PrimaryKey};
use isthmus_model::schema::Schema;
use isthmus_model::show::{View, look};
use isthmus_model::value::Text;
use isthmus_protocol::request::{BatchGetRow, TableReads};
use isthmus_protocol::response::RowAnswer;
use isthmus_store::codec::row::decode_row;
use isthmus_store::{StoreError, Table};

use super::{Rows, consumed_by_read, encode_tables, failed};
use crate::api_error::ApiError;

/// What the rows of one table are looked at with.
struct Looking<'a> {
    table: &'a Text,
    schema: &'a Schema,
    view: View,
    projection: &'a Projection,
}

/// A row to read: its key, and where to go on in it.
struct Wanted {
    key: PrimaryKey,
    encoded: EncodedKey,
    resume: Option<RowResume>,
}

impl Rows {
    /// BatchGetRow, as of a cut that is safe or of now.
    pub fn batch_get(&self, batch: BatchGetRow, cut: Option<Hlc>) -> Result<Bytes, ApiError> {
        let mut tables = Vec::with_capacity(batch.tables.len());
        for reads in &batch.tables {
            tables.push(self.node.readable(reads.table.as_str())?);
        }
        let mut answers = Vec::with_capacity(tables.len());
        for (table, reads) in tables.iter().zip(batch.tables) {
            let name = reads.table.clone();
            answers.push((name, self.get_of_table(table, reads, cut)?));
        }
        Ok(encode_tables(&tables, &answers))
    }

    fn get_of_table(
        &self,
        table: &Arc<Table>,
        reads: TableReads,
        cut: Option<Hlc>,
    ) -> Result<Vec<RowAnswer>, ApiError> {
        check_projection(&reads.projection, ReadScope::Row)?;
        let schema = table.schema();
        let mut wanted = Vec::with_capacity(reads.rows.len());
        for read in reads.rows {
            let key = check_key(&schema, read.key);
            // A token is refused with the whole request, a key alone.
            let resume = match (&read.token, &key) {
                (Some(token), Ok(key)) => Some(self.open(&reads.table, &key.encode(), token)?),
                (Some(_), Err(error)) => return Err(error.clone().into()),
                (None, _) => None,
            };
            wanted.push(key.map(|key| Wanted { encoded: key.encode(), key, resume }));
        }
        let keys: Vec<EncodedKey> =
            wanted.iter().flatten().map(|wanted| wanted.encoded.clone()).collect();
        let mut rows = match cut {
            None => table.get_many_packed(&keys)?,
            Some(cut) => table.at_cut(cut)?.get_many_packed(&keys)?,
        }
        .into_iter();
        let view = self.view(table);
        let projection = &reads.projection;
        let looking = Looking { table: &reads.table, schema: &schema, view, projection };
        let answer = |wanted: Result<Wanted, _>| match wanted {
            Ok(wanted) => {
                let packed = rows.next().flatten();
                self.look_at(&looking, wanted, packed).unwrap_or_else(failed)
            }
            Err(error) => failed(ApiError::from(error)),
        };
        Ok(wanted.into_iter().map(answer).collect())
    }

    fn look_at(
        &self,
        looking: &Looking<'_>,
        wanted: Wanted,
        packed: Option<Bytes>,
    ) -> Result<RowAnswer, ApiError> {
        let Some(packed) = packed else {
            let consumed = consumed_by_read(0);
            return Ok(RowAnswer::Done { consumed, row: None, next_token: None });
        };
        let Wanted { key, encoded, resume } = wanted;
        let row =
            decode_row(&packed).map_err(|source| StoreError::Corrupt { what: "row", source })?;
        let resumed = resume.is_some().then(|| Projection { resume, ..looking.projection.clone() });
        let projection = resumed.as_ref().unwrap_or(looking.projection);
        let look = look(&row, key, looking.schema, &looking.view, projection);
        Ok(RowAnswer::Done {
            consumed: consumed_by_read(look.read_bytes),
            next_token: self.seal(looking.table, &encoded, look.shown.as_ref()),
            row: look.shown.map(|shown| shown.row),
        })
    }
}
