//! The packed form of a row, or of a change of one.
//!
//! Layout, version 1: version, flags, a table of stamps (9 bytes each), the row's tombstone and
//! marker as places in it, then the columns by name, each with its tombstone, trims and cells. A
//! cell starts with one byte: its kind, whether its timestamp is that of its stamp, and the place
//! of its stamp if that is small. So a cell of a plain row costs two or three bytes beside its
//! value. The order that `merge` relies on is checked when decoding. Columns that hold shares
//! follow at the end, so that rows without any are as they always were.

use bytes::Bytes;
use isthmus_model::hlc::Stamp;
use isthmus_model::ids::Timestamp;
use isthmus_model::row::{Cell, Column, Row, Trim};
use isthmus_model::share::{Seen, Share, ShareKind, Shares};
use isthmus_model::value::{Text, Value};

use crate::codec::{
    Corrupt, Reader, STAMP_BYTES, corrupt, put_bytes, put_signed, put_stamp, put_varint,
};

pub(super) const VERSION: u8 = 1;

pub(super) const ROW_TOMBSTONE: u8 = 1;
pub(super) const ROW_MARKER: u8 = 2;
/// Each column has one version, alive, and nothing else; there is at least one.
pub(super) const ROW_PLAIN: u8 = 4;
/// Columns hold shares, which follow the columns.
const ROW_SHARES: u8 = 8;
const ROW_FLAGS: u8 = ROW_TOMBSTONE | ROW_MARKER | ROW_PLAIN | ROW_SHARES;

const COLUMN_TOMBSTONE: u64 = 1;
const COLUMN_TRIMS: u64 = 2;
const COLUMN_FLAG_BITS: u32 = 2;

const CELL_DELETED: u8 = 0;
pub(super) const CELL_INTEGER: u8 = 1;
pub(super) const CELL_DOUBLE: u8 = 2;
pub(super) const CELL_FALSE: u8 = 3;
pub(super) const CELL_TRUE: u8 = 4;
pub(super) const CELL_STRING: u8 = 5;
pub(super) const CELL_BINARY: u8 = 6;
pub(super) const CELL_KIND: u8 = 0x07;
/// The timestamp is the stamp's milliseconds and not written.
pub(super) const CELL_TIME_OF_STAMP: u8 = 0x08;
pub(super) const CELL_PLACE_SHIFT: u32 = 4;
/// The stamp's place follows as a number.
pub(super) const CELL_PLACE_FOLLOWS: u8 = 15;

/// How far back a stamp is looked for before it is written again; bounds the work per cell.
const STAMPS_LOOKED_AT: usize = 32;

/// Bytes of a column with a one-byte name and nothing in it, and of a trim.
pub(super) const COLUMN_BYTES_MIN: usize = 2;
const TRIM_BYTES_MIN: usize = 2;
/// Bytes of the shares of a column, of one share, and of what one write has seen.
const SHARES_BYTES_MIN: usize = 3;
const SHARE_BYTES_MIN: usize = 2;
const SEEN_BYTES_MIN: usize = 2;

const SHARE_PRIORITY: u8 = 1;
const SHARE_MAX: u8 = 2;
const SHARE_MIN: u8 = 3;
const SHARE_COUNTER: u8 = 4;
const SHARE_SET: u8 = 5;
const SHARE_ROW: u8 = 6;

#[derive(Default)]
struct Stamps(Vec<Stamp>);

impl Stamps {
    fn place(&mut self, stamp: Stamp) -> usize {
        let looked_at = self.0.iter().enumerate().rev().take(STAMPS_LOOKED_AT);
        for (place, known) in looked_at {
            if *known == stamp {
                return place;
            }
        }
        self.0.push(stamp);
        self.0.len() - 1
    }
}

/// Appends the packed form.
pub fn encode_row_into(row: &Row, out: &mut Vec<u8>) {
    let mut stamps = Stamps::default();
    let mut flags = 0;
    let mut head = [None, None];
    if let Some(stamp) = row.tombstone {
        flags |= ROW_TOMBSTONE;
        head[0] = Some(stamps.place(stamp));
    }
    if let Some(stamp) = row.marker {
        flags |= ROW_MARKER;
        head[1] = Some(stamps.place(stamp));
    }
    if is_plain(row) {
        flags |= ROW_PLAIN;
    }
    let mut body = Vec::with_capacity(size_hint(row));
    put_varint(&mut body, row.columns.len() as u64);
    for column in &row.columns {
        encode_column(column, &mut stamps, &mut body);
    }
    if row.columns.iter().any(|column| column.shares.is_some()) {
        flags |= ROW_SHARES;
        encode_shares(row, &mut stamps, &mut body);
    }
    out.reserve(body.len() + stamps.0.len() * STAMP_BYTES + 16);
    out.push(VERSION);
    out.push(flags);
    put_varint(out, stamps.0.len() as u64);
    for stamp in &stamps.0 {
        put_stamp(out, *stamp);
    }
    for place in head.into_iter().flatten() {
        put_varint(out, place as u64);
    }
    out.extend_from_slice(&body);
}

fn is_plain(row: &Row) -> bool {
    let plain = |column: &Column| {
        let one = matches!(&column.cells[..], [cell] if cell.value.is_some());
        let cells_only = column.tombstone.is_none() && column.trims.is_empty();
        one && cells_only && column.shares.is_none()
    };
    !row.columns.is_empty() && row.columns.iter().all(plain)
}

/// Whether a packed row has one live version in each column and no tombstone, so that all of it is
/// live.
pub(crate) fn is_packed_plain(packed: &[u8]) -> bool {
    packed.get(1).is_some_and(|flags| flags & (ROW_PLAIN | ROW_TOMBSTONE) == ROW_PLAIN)
}

/// The packed form of a row as a put leaves it where rows remember what they kill: a tombstone, a
/// marker of the same stamp, and columns of one live version each.
pub(crate) struct PackedPut<'a> {
    pub(crate) tombstone: Stamp,
    /// What the packed form begins with where there is no tombstone.
    live_head: [u8; 2],
    stamps: &'a [u8],
    rest: &'a [u8],
}

impl<'a> PackedPut<'a> {
    const FLAGS: u8 = ROW_TOMBSTONE | ROW_MARKER | ROW_PLAIN;
    /// Version and flags of a row that is a tombstone, and that there is one stamp; after the
    /// stamp its place and that there are no columns.
    const DEAD: ([u8; 3], [u8; 2]) = ([VERSION, ROW_TOMBSTONE, 1], [0, 0]);

    /// Finds it in a packed row that is one.
    pub(crate) fn find(packed: &'a [u8]) -> Option<PackedPut<'a>> {
        let (&[VERSION, Self::FLAGS], body) = packed.split_first_chunk()? else { return None };
        let count = usize::from(*body.first().filter(|count| (1..0x80).contains(*count))?);
        let (stamps, rest) = body.split_at_checked(1 + count * STAMP_BYTES)?;
        // Both stamps are the first, so that without the tombstone all keep their places.
        let ([0, 0], _) = rest.split_first_chunk()? else { return None };
        let (hlc, origin) = stamps[1..].split_first_chunk()?;
        let hlc = isthmus_model::hlc::Hlc(u64::from_le_bytes(*hlc));
        let origin = isthmus_model::ids::Origin(*origin.first()?);
        let live_head = [VERSION, ROW_MARKER | ROW_PLAIN];
        Some(PackedPut { tombstone: Stamp { hlc, origin }, live_head, stamps, rest: &rest[1..] })
    }

    /// The packed form of the row without its tombstone, in pieces.
    pub(crate) fn live(&self) -> [&[u8]; 3] {
        [&self.live_head, self.stamps, self.rest]
    }

    /// The packed form of the tombstone alone, in pieces.
    pub(crate) fn dead(&self) -> [&[u8]; 3] {
        [&Self::DEAD.0, &self.stamps[1..=STAMP_BYTES], &Self::DEAD.1]
    }
}

/// The packed form.
pub fn encode_row(row: &Row) -> Bytes {
    let mut out = Vec::new();
    encode_row_into(row, &mut out);
    out.into()
}

fn size_hint(row: &Row) -> usize {
    let of_cell = |cell: &Cell| cell.value.as_ref().map_or(0, Value::size) + 16;
    let of_column =
        |column: &Column| column.name.len() + 16 + column.cells.iter().map(of_cell).sum::<usize>();
    row.columns.iter().map(of_column).sum::<usize>() + 16
}

fn encode_column(column: &Column, stamps: &mut Stamps, out: &mut Vec<u8>) {
    put_bytes(out, column.name.as_bytes());
    let mut flags = (column.cells.len() as u64) << COLUMN_FLAG_BITS;
    if column.tombstone.is_some() {
        flags |= COLUMN_TOMBSTONE;
    }
    if !column.trims.is_empty() {
        flags |= COLUMN_TRIMS;
    }
    put_varint(out, flags);
    if let Some(stamp) = column.tombstone {
        put_varint(out, stamps.place(stamp) as u64);
    }
    if !column.trims.is_empty() {
        put_varint(out, column.trims.len() as u64);
        for trim in &column.trims {
            put_signed(out, trim.below.0);
            put_varint(out, stamps.place(trim.stamp) as u64);
        }
    }
    for cell in &column.cells {
        encode_cell(cell, stamps, out);
    }
}

/// The columns that hold shares: their place, the shares, what is replaced.
fn encode_shares(row: &Row, stamps: &mut Stamps, out: &mut Vec<u8>) {
    let holding = row.columns.iter().enumerate();
    let holding = holding.filter_map(|(place, column)| Some((place, column.shares.as_ref()?)));
    put_varint(out, holding.clone().count() as u64);
    for (place, shares) in holding {
        put_varint(out, place as u64);
        put_varint(out, shares.list.len() as u64);
        for share in &shares.list {
            encode_share(share, stamps, out);
        }
        put_varint(out, shares.seen.len() as u64);
        for seen in &shares.seen {
            put_varint(out, stamps.place(seen.until) as u64);
            put_varint(out, stamps.place(seen.by) as u64);
        }
    }
}

fn encode_share(share: &Share, stamps: &mut Stamps, out: &mut Vec<u8>) {
    match share.kind {
        ShareKind::Priority(rank) => out.extend_from_slice(&[SHARE_PRIORITY, rank]),
        ShareKind::Max => out.push(SHARE_MAX),
        ShareKind::Min => out.push(SHARE_MIN),
        ShareKind::Counter => {
            out.push(SHARE_COUNTER);
            put_varint(out, stamps.place(share.first) as u64);
        }
        ShareKind::Set => out.push(SHARE_SET),
        ShareKind::Row(rank) => out.extend_from_slice(&[SHARE_ROW, rank]),
    }
    let Share { timestamp, stamp, value, .. } = share.clone();
    encode_cell(&Cell { timestamp, stamp, value: Some(value) }, stamps, out);
}

fn encode_cell(cell: &Cell, stamps: &mut Stamps, out: &mut Vec<u8>) {
    let place = stamps.place(cell.stamp);
    let inline = (place as u64).min(u64::from(CELL_PLACE_FOLLOWS)) as u8;
    let time_of_stamp = cell.timestamp == cell.stamp.hlc.timestamp();
    let mut head = kind_of(cell.value.as_ref()) | inline << CELL_PLACE_SHIFT;
    if time_of_stamp {
        head |= CELL_TIME_OF_STAMP;
    }
    out.push(head);
    if inline == CELL_PLACE_FOLLOWS {
        put_varint(out, place as u64);
    }
    if !time_of_stamp {
        put_signed(out, cell.timestamp.0);
    }
    match &cell.value {
        None | Some(Value::Boolean(_)) => {}
        Some(Value::Integer(number)) => put_signed(out, *number),
        Some(Value::Double(number)) => out.extend_from_slice(&number.to_bits().to_le_bytes()),
        Some(Value::String(text)) => put_bytes(out, text.as_bytes()),
        Some(Value::Binary(bytes)) => put_bytes(out, bytes),
    }
}

fn kind_of(value: Option<&Value>) -> u8 {
    match value {
        None => CELL_DELETED,
        Some(Value::Integer(_)) => CELL_INTEGER,
        Some(Value::Double(_)) => CELL_DOUBLE,
        Some(Value::Boolean(false)) => CELL_FALSE,
        Some(Value::Boolean(true)) => CELL_TRUE,
        Some(Value::String(_)) => CELL_STRING,
        Some(Value::Binary(_)) => CELL_BINARY,
    }
}

/// Decodes what `encode_row` made; texts and binaries share the buffer.
pub fn decode_row(bytes: &Bytes) -> Result<Row, Corrupt> {
    let mut reader = Reader::new(bytes);
    let row = read_row(&mut reader)?;
    reader.end()?;
    Ok(row)
}

/// Stamps as they lie in the buffer.
struct StampTable {
    bytes: Bytes,
}

impl StampTable {
    fn read(reader: &mut Reader<'_>) -> Result<StampTable, Corrupt> {
        let count = reader.count(STAMP_BYTES)?;
        Ok(StampTable { bytes: reader.take(count * STAMP_BYTES)? })
    }

    fn get(&self, place: u64) -> Result<Stamp, Corrupt> {
        let start = place as usize;
        let found = start
            .checked_mul(STAMP_BYTES)
            .and_then(|start| self.bytes.get(start..)?.first_chunk::<STAMP_BYTES>());
        let Some([hlc @ .., origin]) = found else { return corrupt("no such stamp") };
        Ok(Stamp {
            hlc: isthmus_model::hlc::Hlc(u64::from_le_bytes(*hlc)),
            origin: isthmus_model::ids::Origin(*origin),
        })
    }
}

fn read_row(reader: &mut Reader<'_>) -> Result<Row, Corrupt> {
    reader.version(VERSION)?;
    let flags = reader.byte()?;
    if flags & !ROW_FLAGS != 0 {
        return corrupt("unknown flag of a row");
    }
    let stamps = StampTable::read(reader)?;
    let mut stamp_if = |flag: u8| match flags & flag {
        0 => Ok(None),
        _ => stamps.get(reader.varint()?).map(Some),
    };
    let tombstone = stamp_if(ROW_TOMBSTONE)?;
    let marker = stamp_if(ROW_MARKER)?;
    let count = reader.count(COLUMN_BYTES_MIN)?;
    let mut columns: Vec<Column> = Vec::with_capacity(count);
    for _ in 0..count {
        let column = read_column(reader, &stamps)?;
        if columns.last().is_some_and(|last| last.name >= column.name) {
            return corrupt("columns out of order");
        }
        columns.push(column);
    }
    if flags & ROW_SHARES != 0 {
        read_shares(reader, &stamps, &mut columns)?;
    }
    Ok(Row { tombstone, marker, columns })
}

fn read_shares(
    reader: &mut Reader<'_>,
    stamps: &StampTable,
    columns: &mut [Column],
) -> Result<(), Corrupt> {
    let mut next = 0;
    for _ in 0..reader.count(SHARES_BYTES_MIN)? {
        let place = reader.varint()? as usize;
        let mut shares = Shares::default();
        for _ in 0..reader.count(SHARE_BYTES_MIN)? {
            shares.add(read_share(reader, stamps)?);
        }
        for _ in 0..reader.count(SEEN_BYTES_MIN)? {
            let until = stamps.get(reader.varint()?)?;
            shares.see(Seen { until, by: stamps.get(reader.varint()?)? });
        }
        let column = columns.get_mut(place).filter(|_| place >= next && !shares.is_bare());
        let Some(column) = column else { return corrupt("place of a column with shares") };
        column.shares = Some(Box::new(shares));
        next = place + 1;
    }
    Ok(())
}

fn read_share(reader: &mut Reader<'_>, stamps: &StampTable) -> Result<Share, Corrupt> {
    let mut first = None;
    let kind = match reader.byte()? {
        SHARE_PRIORITY => ShareKind::Priority(reader.byte()?),
        SHARE_MAX => ShareKind::Max,
        SHARE_MIN => ShareKind::Min,
        SHARE_COUNTER => {
            first = Some(stamps.get(reader.varint()?)?);
            ShareKind::Counter
        }
        SHARE_SET => ShareKind::Set,
        SHARE_ROW => ShareKind::Row(reader.byte()?),
        _ => return corrupt("unknown kind of share"),
    };
    let Cell { timestamp, stamp, value } = read_cell(reader, stamps)?;
    let Some(value) = value else { return corrupt("share without a value") };
    Ok(Share { kind, first: first.unwrap_or(stamp), stamp, timestamp, value })
}

fn read_column(reader: &mut Reader<'_>, stamps: &StampTable) -> Result<Column, Corrupt> {
    let name: Text = reader.text()?;
    let flags = reader.varint()?;
    let tombstone = match flags & COLUMN_TOMBSTONE {
        0 => None,
        _ => Some(stamps.get(reader.varint()?)?),
    };
    let mut trims = Vec::new();
    if flags & COLUMN_TRIMS != 0 {
        for _ in 0..reader.count(TRIM_BYTES_MIN)? {
            let below = Timestamp(reader.signed()?);
            trims.push(Trim { below, stamp: stamps.get(reader.varint()?)? });
        }
    }
    let count = flags >> COLUMN_FLAG_BITS;
    if count > reader.left() as u64 {
        return corrupt("count exceeds the bytes");
    }
    let mut cells: Vec<Cell> = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let cell = read_cell(reader, stamps)?;
        if cells.last().is_some_and(|last| last.timestamp <= cell.timestamp) {
            return corrupt("cells out of order");
        }
        cells.push(cell);
    }
    Ok(Column { name, tombstone, trims, cells, shares: None })
}

fn read_cell(reader: &mut Reader<'_>, stamps: &StampTable) -> Result<Cell, Corrupt> {
    let head = reader.byte()?;
    let place = match head >> CELL_PLACE_SHIFT {
        CELL_PLACE_FOLLOWS => reader.varint()?,
        place => u64::from(place),
    };
    let stamp = stamps.get(place)?;
    let timestamp = match head & CELL_TIME_OF_STAMP {
        0 => Timestamp(reader.signed()?),
        _ => stamp.hlc.timestamp(),
    };
    let value = match head & CELL_KIND {
        CELL_DELETED => None,
        CELL_INTEGER => Some(Value::Integer(reader.signed()?)),
        CELL_DOUBLE => Some(Value::Double(f64::from_bits(u64::from_le_bytes(reader.array()?)))),
        CELL_FALSE => Some(Value::Boolean(false)),
        CELL_TRUE => Some(Value::Boolean(true)),
        CELL_STRING => Some(Value::String(reader.text()?)),
        CELL_BINARY => Some(Value::Binary(reader.bytes()?)),
        _ => return corrupt("unknown kind of cell"),
    };
    Ok(Cell { timestamp, stamp, value })
}

#[cfg(test)]
pub(crate) mod tests;
