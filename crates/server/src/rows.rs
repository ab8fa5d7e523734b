//! The operations on rows: checked, handed to the one door or read from what is durable, encoded.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use isthmus_control::distribution::partition_named;
use isthmus_model::capacity::{CapacityUnits, WriteSize, key_size, version_size};
use isthmus_model::change::{Direction, Projection, Returned, RowChange, ShownRow};
use isthmus_model::check::{
    CheckError, CheckedChange, ReadScope, check_atomic, check_change, check_key, check_projection,
    check_range,
};
use isthmus_model::hlc::Hlc;
use isthmus_model::ids::{Epoch, Lsn};
use isthmus_model::key::{EncodedKey, PrimaryKey, encode_bound};
use isthmus_model::limits::{PAGE_BYTES_MAX, RANGE_ROWS_MAX};
use isthmus_model::row::Row;
use isthmus_model::schema::Schema;
use isthmus_model::show::{Shown, View, look};
use isthmus_model::value::Text;
use isthmus_protocol::page_token::PageTokens;
use isthmus_protocol::plainbuffer::ValueRef;
use isthmus_protocol::receipt::Receipt;
use isthmus_protocol::request::{BatchWriteRow, GetRange, GetRow, WriteRow};
use isthmus_protocol::response::{
    Consumed, RowAnswer, RowsAnswer, TableAnswer, encode_batch, encode_get_row, encode_write_row,
};
use isthmus_store::codec::plain::{PlainCells, PlainValue, plain_cells};
use isthmus_store::codec::row::decode_row;
use isthmus_store::{Pending, StoreError, Table, Written};

use crate::api_error::ApiError;
use crate::node::Node;
use crate::together::{Piece, together};
use crate::trace::Followed;

mod atomic;
mod batch_get;
mod synced;

pub(crate) use self::atomic::encode_written;

/// Rows looked at for one page of a range, also those that a filter hides.
const PAGE_ROWS_READ_MAX: usize = 50_000;
/// Packed rows up to this size are never cut into pages.
const PLAIN_BYTES_MAX: usize = 1024 * 1024;
/// Bytes looked at for one page of a range.
const PAGE_BYTES_READ_MAX: u64 = 64 * 1024 * 1024;

/// Serves operations on rows.
pub struct Rows {
    node: Arc<Node>,
    tokens: PageTokens,
}

impl Rows {
    /// Serves for this node; `token_key` seals the tokens of cut rows, but for those of partitions.
    pub fn new(node: Arc<Node>, token_key: &[u8]) -> Rows {
        Rows { node, tokens: PageTokens::new(token_key) }
    }

    /// PutRow, UpdateRow, DeleteRow. What is written is added to the receipt, if one is wanted.
    pub async fn write(
        &self,
        write: WriteRow,
        receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        self.node.listen_first(write.table.as_str()).await;
        let table = self.node.writable(write.table.as_str())?;
        let schema = table.schema();
        let returned = write.change.returned.clone();
        let checked = check_change(&schema, write.change, self.now())?;
        let size = checked.size;
        self.await_writable(&table, std::slice::from_ref(&checked)).await;
        let pending = self.node.write_at_once(&table, vec![checked], false);
        let followed = Followed::write(self.node.traces(), &table);
        let written = pending.await;
        followed.into_iter().for_each(Followed::committed);
        let written = written?;
        let written = written.into_iter().next().unwrap_or(Err(StoreError::Unknown))?;
        self.node.until_held(&table, (written.lsn, written.epoch)).done().await?;
        if let Some(receipt) = receipt {
            self.node.note_receipt(receipt, &table, written.lsn);
        }
        let consumed = consumed_by_write(size, &written);
        let row = shown_row(&returned, written);
        Ok(encode_write_row(&schema, consumed, row.as_ref()))
    }

    /// BatchWriteRow. What is written is added to the receipt, if one is wanted.
    pub async fn batch_write(
        &self,
        batch: BatchWriteRow,
        mut receipt: Option<&mut Receipt>,
    ) -> Result<Bytes, ApiError> {
        let mut tables = Vec::with_capacity(batch.tables.len());
        for writes in &batch.tables {
            self.node.listen_first(writes.table.as_str()).await;
            tables.push(self.node.writable(writes.table.as_str())?);
        }
        let mut parts = Vec::with_capacity(tables.len());
        for (table, writes) in tables.iter().zip(batch.tables) {
            let part = BatchPart::check(&table.schema(), writes.rows, batch.atomic, self.now());
            parts.push((writes.table, part));
        }
        // All at once, so that none waits for rows of another one that are locked.
        let waits = tables.iter().zip(&parts);
        let waits = waits.map(|(table, (_, part))| -> Piece<'_, ()> {
            Box::pin(self.await_writable(table, &part.changes))
        });
        together(waits.collect(), tables.len()).await;
        // Every table's part is handed over before the first is waited for: they share a sync.
        let submitted = tables.iter().zip(parts);
        let mut under_way: Vec<_> =
            submitted.map(|(table, (name, part))| (name, part.submit(&self.node, table))).collect();
        if let [(_, only)] = &mut under_way[..]
            && only.is_elsewhere()
        {
            return Err(ApiError::elsewhere());
        }
        let traces = self.node.traces();
        let followed: Vec<Followed<'_>> =
            tables.iter().filter_map(|table| Followed::write(traces, table)).collect();
        let mut answers = Vec::with_capacity(under_way.len());
        let mut holds = Vec::with_capacity(under_way.len());
        for (table, (name, part)) in tables.iter().zip(under_way) {
            let (rows, last) = part.answer().await;
            if let (Some(receipt), Some((lsn, _))) = (receipt.as_deref_mut(), last) {
                self.node.note_receipt(receipt, table, lsn);
            }
            holds.push(last.map(|last| self.node.until_held(table, last)));
            answers.push((name, rows));
        }
        followed.into_iter().for_each(Followed::committed);
        for (hold, (_, rows)) in holds.into_iter().zip(&mut answers) {
            if let Some(hold) = hold
                && let Err(error) = hold.done().await
            {
                for row in rows.iter_mut().filter(|row| matches!(row, RowAnswer::Done { .. })) {
                    *row = failed(error.clone());
                }
            }
        }
        Ok(encode_tables(&tables, &answers))
    }

    /// GetRow, as of a cut that is safe or of now.
    pub fn get(&self, get: GetRow, cut: Option<Hlc>) -> Result<Bytes, ApiError> {
        let table = self.node.readable(get.table.as_str())?;
        let schema = table.schema();
        check_projection(&get.projection, ReadScope::Row)?;
        let key = check_key(&schema, get.key)?;
        let encoded = key.encode();
        let mut projection = get.projection;
        if let Some(token) = &get.token {
            projection.resume = Some(self.open(&get.table, &encoded, token)?);
        }
        let nothing = || encode_get_row(&schema, consumed_by_read(0), None, None);
        let packed = match cut {
            None => table.get_packed(&encoded)?,
            Some(cut) => table.at_cut(cut)?.get_packed(&encoded)?,
        };
        let Some(packed) = packed else { return Ok(nothing()) };
        let mut page = Page::new(&schema, self.view(&table), &projection, 1, packed.len() * 2);
        let row = match page.look_at(&packed)? {
            Found::Nothing => return Ok(nothing()),
            Found::Plain(cells) => {
                page.take_plain(key, cells)?;
                return Ok(page.finish_row());
            }
            Found::Row(row) => row,
        };
        let look = look(&row, key, &schema, &page.view, &projection);
        let consumed = consumed_by_read(look.read_bytes);
        let token = self.seal(&get.table, &encoded, look.shown.as_ref());
        let shown = look.shown.map(|shown| shown.row);
        Ok(encode_get_row(&schema, consumed, shown.as_ref(), token.as_deref()))
    }

    /// GetRange, as of a cut that is safe or of now.
    pub fn range(&self, get: GetRange, cut: Option<Hlc>) -> Result<Bytes, ApiError> {
        self.page(get, cut, None)
    }

    /// A part of a page that is made of those of several partitions: of so many bytes at most, and
    /// a row. What it tells as units for reading are bytes, so that the sum is rounded up once.
    pub fn part_of_range(
        &self,
        get: GetRange,
        cut: Option<Hlc>,
        bytes_max: usize,
    ) -> Result<Bytes, ApiError> {
        self.page(get, cut, Some(bytes_max))
    }

    fn page(
        &self,
        get: GetRange,
        cut: Option<Hlc>,
        part_bytes_max: Option<usize>,
    ) -> Result<Bytes, ApiError> {
        let table = self.node.readable(get.table.as_str())?;
        let schema = table.schema();
        check_projection(&get.projection, ReadScope::Range)?;
        let range = check_range(&schema, get.start, get.end, get.direction)?;
        let (start, end) = (encode_bound(&range.start), encode_bound(&range.end));
        let (lower, upper) = match get.direction {
            Direction::Forward => (start.clone(), end),
            Direction::Backward => (end.successor(), start.successor()),
        };
        let rows_max = get.limit.map_or(RANGE_ROWS_MAX, |limit| limit as usize).min(RANGE_ROWS_MAX);
        let view = self.view(&table);
        let mut page = Page::new(&schema, view, &get.projection, rows_max, 64 * 1024);
        page.shows_all &= get.token.is_none();
        page.is_part = part_bytes_max.is_some();
        page.page_bytes_max = part_bytes_max.unwrap_or(PAGE_BYTES_MAX).min(PAGE_BYTES_MAX);
        let first = match &get.token {
            Some(token) => Some(Projection {
                resume: Some(self.open(&get.table, &start, token)?),
                ..get.projection.clone()
            }),
            None => None,
        };
        match cut {
            None => {
                let snapshot = table.snapshot()?;
                let rows = snapshot.scan_packed(&lower, Some(&upper), get.direction);
                self.fill(page, rows, &get.table, (&start, first))
            }
            Some(cut) => {
                let snapshot = table.at_cut(cut)?;
                let rows = snapshot.scan_packed(&lower, Some(&upper), get.direction);
                self.fill(page, rows, &get.table, (&start, first))
            }
        }
    }

    /// Shows rows until the page is full. The row at `start` may be shown from its middle on.
    fn fill(
        &self,
        mut page: Page<'_>,
        rows: impl Iterator<Item = Result<(EncodedKey, Bytes), StoreError>>,
        table: &Text,
        (start, first): (&EncodedKey, Option<Projection>),
    ) -> Result<Bytes, ApiError> {
        for row in rows {
            let (encoded, packed) = row?;
            let found = page.look_at(&packed)?;
            if matches!(found, Found::Nothing) {
                continue;
            }
            let key = PrimaryKey::decode(&encoded).map_err(|_| damaged(table))?;
            if page.is_full() {
                return Ok(page.finish(Some(&key), None));
            }
            let row = match found {
                Found::Plain(cells) => {
                    page.take_plain(key, cells)?;
                    continue;
                }
                Found::Row(row) => row,
                Found::Nothing => continue,
            };
            let resumed = first.as_ref().filter(|_| encoded == *start);
            if let Some(shown) = page.take(&row, key, resumed)
                && let Some(resume) = &shown.resume
            {
                let sealed = sealed_for(table);
                let token = self.tokens(table).seal(self.instance(), &sealed, &encoded, resume);
                return Ok(page.finish(Some(&shown.row.key), Some(&token)));
            }
        }
        Ok(page.finish(None, None))
    }

    fn view(&self, table: &Table) -> View {
        table.view(self.now())
    }

    fn now(&self) -> i64 {
        self.node.clock().wall_millis()
    }

    fn instance(&self) -> &str {
        &self.node.config().instance.name
    }

    /// What tokens of a table are sealed with. Those of a partition open in every region that
    /// holds it, since any may be asked for the rest of a row, and in those that take its place
    /// when it is split or merged: the key is what all of them know of the table. It is no secret,
    /// and keeps tokens of other rows and damaged ones out; whoever makes one up begins a read
    /// elsewhere in a row that may be read anyway.
    fn tokens(&self, table: &Text) -> Cow<'_, PageTokens> {
        let partition = partition_named(table.as_str())
            .and_then(|_| self.node.store().table_by_name(table.as_str()));
        match partition {
            None => Cow::Borrowed(&self.tokens),
            Some(partition) => {
                let key = format!("partition {}", partition.spec().created_millis);
                Cow::Owned(PageTokens::new(key.as_bytes()))
            }
        }
    }

    fn open(
        &self,
        table: &Text,
        key: &EncodedKey,
        token: &Bytes,
    ) -> Result<isthmus_model::change::RowResume, ApiError> {
        Ok(self.tokens(table).open(self.instance(), &sealed_for(table), key, token)?)
    }

    fn seal(&self, table: &Text, key: &EncodedKey, shown: Option<&Shown>) -> Option<Bytes> {
        let resume = shown?.resume.as_ref()?;
        Some(self.tokens(table).seal(self.instance(), &sealed_for(table), key, resume))
    }
}

/// The table whose rows the tokens of a table are for: of a partition the one that it is of.
fn sealed_for(table: &Text) -> Text {
    partition_named(table.as_str()).map_or_else(|| table.clone(), |(whole, _)| Text::from(whole))
}

/// The answer to a read that is being made.
struct Page<'a> {
    schema: &'a Schema,
    view: View,
    projection: &'a Projection,
    rows_max: usize,
    page_bytes_max: usize,
    /// It is a part of a page: bytes are told as units.
    is_part: bool,
    answer: RowsAnswer<'a>,
    rows: usize,
    rows_read: usize,
    bytes_read: u64,
    /// Of a plain row everything is shown.
    shows_all: bool,
}

/// What a packed row is to a page.
enum Found<'a> {
    /// Nothing that exists.
    Nothing,
    /// A row that is shown as it is stored.
    Plain(PlainCells<'a>),
    /// A row to look at.
    Row(Row),
}

impl<'a> Page<'a> {
    /// An answer without rows; they will take about so many bytes.
    fn new(
        schema: &'a Schema,
        view: View,
        projection: &'a Projection,
        rows_max: usize,
        row_bytes: usize,
    ) -> Page<'a> {
        let answer = RowsAnswer::with_capacity(schema, row_bytes);
        let (rows, rows_read, bytes_read, shows_all) = (0, 0, 0, false);
        let page = Page {
            schema,
            view,
            projection,
            rows_max,
            page_bytes_max: PAGE_BYTES_MAX,
            is_part: false,
            answer,
            rows,
            rows_read,
            bytes_read,
            shows_all,
        };
        Page { shows_all: page.shows_all(), ..page }
    }

    fn shows_all(&self) -> bool {
        let Projection { columns, start_column, end_column, time_range, filter, resume, .. } =
            self.projection;
        columns.is_empty()
            && start_column.is_none()
            && end_column.is_none()
            && time_range.is_none()
            && filter.is_none()
            && resume.is_none()
            && self.view.shows_all_ages()
    }

    fn look_at<'b>(&self, packed: &'b Bytes) -> Result<Found<'b>, ApiError> {
        let damaged = |source| StoreError::Corrupt { what: "row", source };
        if self.shows_all
            && packed.len() <= PLAIN_BYTES_MAX
            && let Some(cells) = plain_cells(packed).map_err(damaged)?
        {
            return Ok(Found::Plain(cells));
        }
        let row = decode_row(packed).map_err(damaged)?;
        Ok(if self.view.exists(&row) { Found::Row(row) } else { Found::Nothing })
    }

    /// Shows a plain row without making a row of it.
    fn take_plain(&mut self, key: PrimaryKey, cells: PlainCells<'_>) -> Result<(), ApiError> {
        let version_bytes = version_size(&self.schema.options);
        let mut bytes = key_size(self.schema, &key);
        let mut writer = self.answer.row_writer();
        writer.key(self.schema, &key);
        for cell in cells {
            let cell = cell.map_err(|source| StoreError::Corrupt { what: "row", source })?;
            bytes += cell.name.len() + cell.value.size() + version_bytes;
            writer.cell(cell.name, value_ref(cell.value), Some(cell.timestamp.0));
        }
        writer.finish(false);
        if self.rows == 0 && self.rows_max < RANGE_ROWS_MAX {
            // So many were asked for, and rows of one table are mostly alike.
            let more = self.rows_max.saturating_mul(self.answer.row_bytes());
            self.answer.reserve(more.min(self.page_bytes_max));
        }
        self.rows += 1;
        self.rows_read += 1;
        self.bytes_read += bytes as u64;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.rows >= self.rows_max
            || self.answer.row_bytes() >= self.page_bytes_max
            || self.rows_read >= PAGE_ROWS_READ_MAX
            || self.bytes_read >= PAGE_BYTES_READ_MAX
    }

    /// Looks at a row; gives it back if it was cut.
    fn take(&mut self, row: &Row, key: PrimaryKey, resumed: Option<&Projection>) -> Option<Shown> {
        let projection = resumed.unwrap_or(self.projection);
        let look = look(row, key, self.schema, &self.view, projection);
        self.rows_read += 1;
        self.bytes_read += look.read_bytes;
        let shown = look.shown?;
        self.answer.push(&shown.row);
        self.rows += 1;
        shown.resume.is_some().then_some(shown)
    }

    fn finish_row(self) -> Bytes {
        self.answer.finish_row(consumed_by_read(self.bytes_read), None)
    }

    fn finish(self, next: Option<&PrimaryKey>, token: Option<&[u8]>) -> Bytes {
        let consumed = match self.is_part {
            true => Consumed { read: u32::try_from(self.bytes_read).unwrap_or(u32::MAX), write: 0 },
            false => consumed_by_read(self.bytes_read),
        };
        self.answer.finish_range(consumed, next, token)
    }
}

fn value_ref(value: PlainValue<'_>) -> ValueRef<'_> {
    match value {
        PlainValue::Integer(number) => ValueRef::Integer(number),
        PlainValue::Double(number) => ValueRef::Double(number),
        PlainValue::Boolean(truth) => ValueRef::Boolean(truth),
        PlainValue::String(bytes) => ValueRef::String(bytes),
        PlainValue::Binary(bytes) => ValueRef::Binary(bytes),
    }
}

/// The rows of one table in a batch, some of them refused at once.
struct BatchPart {
    changes: Vec<CheckedChange>,
    /// Per row: its place among the changes with its size and what it shows, or its refusal.
    places: Vec<Result<(WriteSize, Returned), ApiError>>,
    atomic: bool,
}

impl BatchPart {
    fn check(schema: &Schema, rows: Vec<RowChange>, atomic: bool, now_millis: i64) -> BatchPart {
        let mut part = BatchPart { changes: Vec::new(), places: Vec::new(), atomic };
        for row in rows {
            let returned = row.returned.clone();
            match check_change(schema, row, now_millis) {
                Ok(checked) => {
                    part.places.push(Ok((checked.size, returned)));
                    part.changes.push(checked);
                }
                Err(error) => part.places.push(Err(error.into())),
            }
        }
        if atomic {
            part.check_atomic();
        }
        part
    }

    /// All rows of an atomic batch fail together.
    fn check_atomic(&mut self) {
        let out_of_scope = self.scope_error().map(ApiError::from);
        let refused = self.places.iter().find_map(|place| place.as_ref().err().cloned());
        if let Some(error) = out_of_scope.or(refused) {
            self.changes.clear();
            for place in &mut self.places {
                if place.is_ok() {
                    *place = Err(error.clone());
                }
            }
        }
    }

    fn scope_error(&self) -> Option<CheckError> {
        let keys: Vec<PrimaryKey> =
            self.changes.iter().map(|change| change.key.clone().whole(|| 0)).collect();
        let first = keys.first()?;
        keys.iter().find_map(|key| check_atomic(first, key).err())
    }

    fn submit(self, node: &Node, table: &Table) -> BatchUnderWay {
        let (changes, atomic) = (self.changes, self.atomic);
        let pending = (!changes.is_empty()).then(|| node.write_at_once(table, changes, atomic));
        BatchUnderWay { pending, places: self.places }
    }
}

struct BatchUnderWay {
    pending: Option<Pending<Vec<Result<Written, StoreError>>>>,
    places: Vec<Result<(WriteSize, Returned), ApiError>>,
}

impl BatchUnderWay {
    /// Whether all was refused because another region writes the table since a moment ago, or it
    /// has ended: if it was a partition, its rows go on in others.
    fn is_elsewhere(&mut self) -> bool {
        let told = self.pending.as_mut().and_then(Pending::try_take);
        let is_elsewhere =
            matches!(told, Some(Err(StoreError::NotWritable { .. } | StoreError::NoTable(_))));
        if let Some(told) = told {
            self.pending = Some(Pending::ready(told));
        }
        is_elsewhere
    }

    /// One answer per row, and the last entry that was written with its epoch.
    async fn answer(self) -> (Vec<RowAnswer>, Option<(Lsn, Epoch)>) {
        let (mut results, all) = match self.pending {
            None => (Vec::new().into_iter(), None),
            Some(pending) => match pending.await {
                Ok(results) => (results.into_iter(), None),
                Err(error) => (Vec::new().into_iter(), Some(ApiError::from(error))),
            },
        };
        let mut last = None;
        let answer = |place: Result<(WriteSize, Returned), ApiError>| {
            let (size, returned) = match place {
                Ok(place) => place,
                Err(error) => return failed(error),
            };
            match (results.next(), &all) {
                (Some(Ok(written)), _) => {
                    last = last.max(Some((written.lsn, written.epoch)));
                    RowAnswer::Done {
                        consumed: consumed_by_write(size, &written),
                        row: shown_row(&returned, written),
                        next_token: None,
                    }
                }
                (Some(Err(error)), _) => failed(error.into()),
                (None, Some(error)) => failed(error.clone()),
                (None, None) => failed(StoreError::Unknown.into()),
            }
        };
        let answers = self.places.into_iter().map(answer).collect();
        (answers, last)
    }
}

fn encode_tables(tables: &[Arc<Table>], answers: &[(Text, Vec<RowAnswer>)]) -> Bytes {
    let schemas: Vec<_> = tables.iter().map(|table| table.schema()).collect();
    let answers: Vec<TableAnswer<'_>> = answers
        .iter()
        .zip(&schemas)
        .map(|((table, rows), schema)| TableAnswer { table, schema: Some(schema), rows })
        .collect();
    encode_batch(&answers)
}

fn failed(error: ApiError) -> RowAnswer {
    RowAnswer::Failed { code: error.code, message: error.message }
}

fn shown_row(returned: &Returned, written: Written) -> Option<ShownRow> {
    match returned {
        Returned::Nothing => None,
        Returned::Key => Some(ShownRow { key: written.key, cells: Vec::new() }),
        Returned::AfterModify(_) => Some(ShownRow { key: written.key, cells: written.shown }),
    }
}

fn consumed_by_write(size: WriteSize, written: &Written) -> Consumed {
    let units = CapacityUnits::of_write(size, written.read_bytes);
    Consumed { read: units.read, write: units.write }
}

pub(crate) fn consumed_by_read(bytes: u64) -> Consumed {
    let units = CapacityUnits::of_read(bytes);
    Consumed { read: units.read, write: units.write }
}

fn damaged(table: &Text) -> ApiError {
    tracing::error!(%table, "a stored key cannot be decoded");
    ApiError::new(
        isthmus_protocol::error_code::ErrorCode::InternalServerError,
        "Internal server error.",
    )
}
