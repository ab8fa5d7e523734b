//! The packed form of an entry of the change log.
//!
//! It is the same at rest and on the way to other regions. Row changes in it are packed as rows
//! are.

use bytes::Bytes;
use isthmus_model::atomic::{BatchId, BatchMark, Intent, Member};
use isthmus_model::commit::{Term, TxId};
use isthmus_model::entry::{Entry, EntryBody, Handover, RowDelta};
use isthmus_model::expiry::Expiry;
use isthmus_model::family::FamilySet;
use isthmus_model::ids::{Epoch, Lsn, Origin, SchemaNumber, TableId, Timestamp};
use isthmus_model::key::EncodedKey;
use isthmus_model::limits::{AUTO_INCREMENT_MAX, COUNT_MAX};
use isthmus_model::row::Trim;

use crate::codec::row::{decode_row, encode_row_into};
use crate::codec::schema::{encode_schema_into, read_schema};
use crate::codec::{
    Corrupt, Reader, STAMP_BYTES, corrupt, put_bytes, put_signed, put_stamp, put_varint,
};

/// Does not tell what its origin had seen, and does.
const VERSION_PLAIN: u8 = 1;
const VERSION_SEEN: u8 = 2;
/// Tells which prepared change it was.
const VERSION_PREPARED: u8 = 3;
/// Tells what it is to a batch of several partitions, and which prepared change it was, if any.
const VERSION_BATCH: u8 = 4;

const MARK_DECIDED: u8 = 1;
const MARK_SETTLED: u8 = 2;

const BODY_ROWS: u8 = 1;
const BODY_SCHEMA: u8 = 2;
/// Of all columns, and of those that some families spare.
const BODY_EXPIRY: u8 = 3;
const BODY_EXPIRY_SPARING: u8 = 4;
const BODY_HANDOVER: u8 = 5;
const BODY_OPENING: u8 = 6;
const BODY_SETTLED: u8 = 7;
const BODY_INTENT: u8 = 8;
const BODY_ABANDONED: u8 = 9;
const BODY_FORGOTTEN: u8 = 10;

/// Bytes of a row change with an empty key.
const DELTA_BYTES_MIN: usize = 6;
/// Bytes of the name of a batch, and of a member.
const BATCH_BYTES_MIN: usize = 4;
const MEMBER_BYTES_MIN: usize = 2;

/// Appends the packed form.
pub fn encode_entry_into(entry: &Entry, out: &mut Vec<u8>) {
    out.push(match (&entry.seen, &entry.tx, &entry.batch) {
        (Some(_), _, _) => VERSION_SEEN,
        // Of a table with one writer, which tells of nothing seen.
        (None, _, Some(_)) => VERSION_BATCH,
        (None, Some(_), None) => VERSION_PREPARED,
        (None, None, None) => VERSION_PLAIN,
    });
    put_varint(out, entry.lsn.0);
    put_varint(out, entry.epoch.0);
    put_stamp(out, entry.stamp);
    put_varint(out, entry.origin_lsn.0);
    put_varint(out, entry.schema.0);
    if let Some(seen) = &entry.seen {
        put_varint(out, seen.len() as u64);
        seen.iter().for_each(|stamp| put_stamp(out, *stamp));
    } else if let Some(mark) = &entry.batch {
        out.push(u8::from(entry.tx.is_some()));
        put_tx(out, entry.tx);
        put_mark(mark, out);
    } else {
        put_tx(out, entry.tx);
    }
    match &entry.body {
        EntryBody::Rows(deltas) => {
            out.push(BODY_ROWS);
            put_varint(out, deltas.len() as u64);
            let mut row = Vec::new();
            for delta in deltas {
                put_bytes(out, &delta.key.0);
                row.clear();
                encode_row_into(&delta.delta, &mut row);
                put_bytes(out, &row);
            }
        }
        EntryBody::Schema(schema) => {
            out.push(BODY_SCHEMA);
            encode_schema_into(schema, out);
        }
        EntryBody::Expiry(Expiry { trim, spared }) => {
            // The oldest kind that can say it.
            out.push(if spared.0 == 0 { BODY_EXPIRY } else { BODY_EXPIRY_SPARING });
            put_signed(out, trim.below.0);
            put_stamp(out, trim.stamp);
            if spared.0 != 0 {
                put_varint(out, spared.0);
            }
        }
        EntryBody::Handover(handover) => {
            out.push(BODY_HANDOVER);
            out.push(handover.successor.0);
            put_varint(out, handover.auto_increment);
        }
        EntryBody::Opening => out.push(BODY_OPENING),
        EntryBody::Settled(term) => {
            out.push(BODY_SETTLED);
            put_term(out, *term);
        }
        EntryBody::Intent(intent) => {
            out.push(BODY_INTENT);
            put_intent(intent, out);
        }
        EntryBody::Abandoned(id) => {
            out.push(BODY_ABANDONED);
            put_batch(*id, out);
        }
        EntryBody::Forgotten(ids) => {
            out.push(BODY_FORGOTTEN);
            put_varint(out, ids.len() as u64);
            ids.iter().for_each(|id| put_batch(*id, out));
        }
    }
}

fn put_tx(out: &mut Vec<u8>, tx: Option<TxId>) {
    if let Some(tx) = tx {
        put_term(out, tx.term);
        put_varint(out, tx.number);
    }
}

fn read_tx(reader: &mut Reader<'_>) -> Result<TxId, Corrupt> {
    Ok(TxId { term: read_term(reader)?, number: reader.varint()? })
}

fn put_batch(id: BatchId, out: &mut Vec<u8>) {
    put_varint(out, id.anchor.0);
    put_term(out, id.term);
    put_varint(out, id.number);
}

fn read_batch(reader: &mut Reader<'_>) -> Result<BatchId, Corrupt> {
    let anchor = TableId(reader.varint()?);
    Ok(BatchId { anchor, term: read_term(reader)?, number: reader.varint()? })
}

fn put_mark(mark: &BatchMark, out: &mut Vec<u8>) {
    match mark {
        BatchMark::Decided { id, members } => {
            out.push(MARK_DECIDED);
            put_batch(*id, out);
            put_members(members, out);
        }
        BatchMark::Settled(id) => {
            out.push(MARK_SETTLED);
            put_batch(*id, out);
        }
    }
}

fn read_mark(reader: &mut Reader<'_>) -> Result<BatchMark, Corrupt> {
    match reader.byte()? {
        MARK_DECIDED => {
            let id = read_batch(reader)?;
            Ok(BatchMark::Decided { id, members: read_members(reader)? })
        }
        MARK_SETTLED => Ok(BatchMark::Settled(read_batch(reader)?)),
        _ => corrupt("unknown mark of a batch"),
    }
}

/// Appends the members of a batch.
pub(crate) fn put_members(members: &[Member], out: &mut Vec<u8>) {
    put_varint(out, members.len() as u64);
    for member in members {
        put_varint(out, member.table.0);
        put_bytes(out, member.name.as_bytes());
    }
}

/// What `put_members` made.
pub(crate) fn read_members(reader: &mut Reader<'_>) -> Result<Vec<Member>, Corrupt> {
    let count = reader.count(MEMBER_BYTES_MIN)?;
    let one = |_| Ok(Member { table: TableId(reader.varint()?), name: reader.text()? });
    (0..count).map(one).collect()
}

/// Appends an intent.
pub(crate) fn put_intent(intent: &Intent, out: &mut Vec<u8>) {
    put_batch(intent.id, out);
    put_bytes(out, intent.anchor.as_bytes());
    put_varint(out, intent.keys.len() as u64);
    intent.keys.iter().for_each(|key| put_bytes(out, &key.0));
    put_bytes(out, &intent.request);
}

/// What `put_intent` made.
pub(crate) fn read_intent(reader: &mut Reader<'_>) -> Result<Intent, Corrupt> {
    let (id, anchor) = (read_batch(reader)?, reader.text()?);
    let count = reader.count(1)?;
    let keys = (0..count).map(|_| Ok(EncodedKey(reader.bytes()?))).collect::<Result<_, _>>()?;
    Ok(Intent { id, anchor, keys, request: reader.bytes()? })
}

fn put_term(out: &mut Vec<u8>, term: Term) {
    put_varint(out, term.epoch);
    put_varint(out, term.life);
}

fn read_term(reader: &mut Reader<'_>) -> Result<Term, Corrupt> {
    let term = Term { epoch: reader.varint()?, life: reader.varint()? };
    match term.epoch.max(term.life) >= COUNT_MAX {
        true => corrupt("a term that no table comes to"),
        false => Ok(term),
    }
}

/// The packed form.
pub fn encode_entry(entry: &Entry) -> Bytes {
    let mut out = Vec::new();
    encode_entry_into(entry, &mut out);
    out.into()
}

/// Decodes what `encode_entry` made; texts and binaries share the buffer.
pub fn decode_entry(bytes: &Bytes) -> Result<Entry, Corrupt> {
    let mut reader = Reader::new(bytes);
    let version = reader.byte()?;
    if !(VERSION_PLAIN..=VERSION_BATCH).contains(&version) {
        return corrupt("unknown version of an entry");
    }
    let lsn = Lsn(reader.varint()?);
    let epoch = Epoch(reader.varint()?);
    let stamp = reader.stamp()?;
    let origin_lsn = Lsn(reader.varint()?);
    if lsn.0.max(epoch.0).max(origin_lsn.0) >= COUNT_MAX {
        return corrupt("an entry beyond the end of any log");
    }
    let schema = SchemaNumber(reader.varint()?);
    let (mut seen, mut tx, mut batch) = (None, None, None);
    match version {
        VERSION_SEEN => {
            let count = reader.count(STAMP_BYTES)?;
            seen = Some((0..count).map(|_| reader.stamp()).collect::<Result<_, _>>()?);
        }
        VERSION_PREPARED => {
            tx = Some(read_tx(&mut reader)?);
        }
        VERSION_BATCH => {
            tx = match reader.byte()? {
                0 => None,
                1 => Some(read_tx(&mut reader)?),
                _ => return corrupt("flag of an entry"),
            };
            batch = Some(read_mark(&mut reader)?);
        }
        _ => {}
    }
    let body = match reader.byte()? {
        BODY_ROWS => {
            let count = reader.count(DELTA_BYTES_MIN)?;
            let mut deltas = Vec::with_capacity(count);
            for _ in 0..count {
                let key = EncodedKey(reader.bytes()?);
                deltas.push(RowDelta { key, delta: decode_row(&reader.bytes()?)? });
            }
            EntryBody::Rows(deltas)
        }
        BODY_SCHEMA => EntryBody::Schema(read_schema(&mut reader)?),
        kind @ (BODY_EXPIRY | BODY_EXPIRY_SPARING) => {
            let below = Timestamp(reader.signed()?);
            let trim = Trim { below, stamp: reader.stamp()? };
            let spared = match kind {
                BODY_EXPIRY => FamilySet::default(),
                _ => FamilySet(reader.varint()?),
            };
            if kind == BODY_EXPIRY_SPARING && spared == FamilySet::default() {
                return corrupt("an expiry that spares nothing");
            }
            EntryBody::Expiry(Expiry { trim, spared })
        }
        BODY_HANDOVER => {
            let successor = Origin(reader.byte()?);
            let auto_increment = reader.varint()?;
            if auto_increment >= AUTO_INCREMENT_MAX {
                return corrupt("a counter that no id can hold");
            }
            EntryBody::Handover(Handover { successor, auto_increment })
        }
        BODY_OPENING => EntryBody::Opening,
        BODY_SETTLED => EntryBody::Settled(read_term(&mut reader)?),
        BODY_INTENT => EntryBody::Intent(read_intent(&mut reader)?),
        BODY_ABANDONED => EntryBody::Abandoned(read_batch(&mut reader)?),
        BODY_FORGOTTEN => {
            let count = reader.count(BATCH_BYTES_MIN)?;
            let ids = (0..count).map(|_| read_batch(&mut reader)).collect::<Result<_, _>>()?;
            EntryBody::Forgotten(ids)
        }
        _ => return corrupt("unknown kind of entry"),
    };
    reader.end()?;
    Ok(Entry { lsn, epoch, stamp, origin_lsn, schema, seen, tx, batch, body })
}

#[cfg(test)]
pub(crate) mod tests {
    use isthmus_model::hlc::{Hlc, Stamp};
    use isthmus_model::ids::Origin;
    use proptest::prelude::{
        Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
    };

    use super::*;
    use crate::codec::row::tests::rows;
    use crate::codec::schema::tests::schemas;

    /// Any expiry that can be stored.
    pub(crate) fn expiries() -> impl Strategy<Value = Expiry> {
        let spared = prop_oneof![proptest::strategy::Just(0), any::<u64>()];
        (any::<i64>(), any::<u64>(), spared).prop_map(|(below, hlc, spared)| {
            let stamp = Stamp { hlc: Hlc(hlc), origin: Origin(3) };
            let trim = Trim { below: Timestamp(below), stamp };
            Expiry { trim, spared: FamilySet(spared) }
        })
    }

    fn bodies() -> impl Strategy<Value = EntryBody> {
        let key = proptest::collection::vec(any::<u8>(), 0..12);
        let delta =
            (key, rows()).prop_map(|(key, delta)| RowDelta { key: EncodedKey(key.into()), delta });
        prop_oneof![
            proptest::collection::vec(delta, 0..4).prop_map(EntryBody::Rows),
            schemas().prop_map(EntryBody::Schema),
            expiries().prop_map(EntryBody::Expiry),
            (any::<u8>(), 0..AUTO_INCREMENT_MAX).prop_map(|(successor, auto_increment)| {
                EntryBody::Handover(Handover { successor: Origin(successor), auto_increment })
            }),
            Just(EntryBody::Opening),
            terms().prop_map(EntryBody::Settled),
            intents().prop_map(EntryBody::Intent),
            batch_ids().prop_map(EntryBody::Abandoned),
            proptest::collection::vec(batch_ids(), 0..3).prop_map(EntryBody::Forgotten),
        ]
    }

    fn terms() -> impl Strategy<Value = Term> {
        (0..COUNT_MAX, 0..COUNT_MAX).prop_map(|(epoch, life)| Term { epoch, life })
    }

    fn txs() -> impl Strategy<Value = TxId> {
        (terms(), any::<u64>()).prop_map(|(term, number)| TxId { term, number })
    }

    /// The name of any batch.
    pub(crate) fn batch_ids() -> impl Strategy<Value = BatchId> {
        (any::<u64>(), terms(), any::<u64>()).prop_map(|(anchor, term, number)| BatchId {
            anchor: TableId(anchor),
            term,
            number,
        })
    }

    /// Any intent.
    pub(crate) fn intents() -> impl Strategy<Value = Intent> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..12);
        let keys = proptest::collection::vec(bytes(), 0..3);
        (batch_ids(), "[a-z]{0,5}", keys, bytes()).prop_map(|(id, anchor, keys, request)| Intent {
            id,
            anchor: anchor.into(),
            keys: keys.into_iter().map(|key| EncodedKey(key.into())).collect(),
            request: request.into(),
        })
    }

    /// Any member of a batch.
    pub(crate) fn members() -> impl Strategy<Value = Member> {
        let member =
            |(table, name): (u64, String)| Member { table: TableId(table), name: name.into() };
        (any::<u64>(), "[a-z]{0,5}").prop_map(member)
    }

    fn marks() -> impl Strategy<Value = BatchMark> {
        let members = proptest::collection::vec(members(), 0..3);
        prop_oneof![
            batch_ids().prop_map(BatchMark::Settled),
            (batch_ids(), members).prop_map(|(id, members)| BatchMark::Decided { id, members }),
        ]
    }

    /// Any entry that can be stored.
    pub(crate) fn entries() -> impl Strategy<Value = Entry> {
        let count = || 0..COUNT_MAX;
        let numbers = (count(), count(), any::<u64>(), any::<u8>(), count());
        let seen = (any::<u64>(), any::<u8>());
        let seen = seen.prop_map(|(hlc, origin)| Stamp { hlc: Hlc(hlc), origin: Origin(origin) });
        let seen = proptest::option::of(proptest::collection::vec(seen, 0..3));
        let tx = proptest::option::of(txs());
        let batch = proptest::option::of(marks());
        (numbers, any::<u64>(), seen, tx, batch, bodies()).prop_map(
            |((lsn, epoch, hlc, origin, origin_lsn), schema, seen, tx, batch, body)| Entry {
                lsn: Lsn(lsn),
                epoch: Epoch(epoch),
                stamp: Stamp { hlc: Hlc(hlc), origin: Origin(origin) },
                origin_lsn: Lsn(origin_lsn),
                schema: SchemaNumber(schema),
                tx: tx.filter(|_| seen.is_none()),
                batch: batch.filter(|_| seen.is_none()),
                seen,
                body,
            },
        )
    }

    #[test]
    fn numbers_after_which_none_comes_are_refused() {
        let entry = Entry {
            lsn: Lsn(1),
            epoch: Epoch(1),
            stamp: Stamp { hlc: Hlc(1), origin: Origin(1) },
            origin_lsn: Lsn(1),
            schema: SchemaNumber(1),
            seen: None,
            tx: None,
            batch: None,
            body: EntryBody::Opening,
        };
        assert!(decode_entry(&encode_entry(&entry)).is_ok());
        let handover = Handover { successor: Origin(2), auto_increment: u64::MAX };
        for bad in [
            Entry { lsn: Lsn(u64::MAX), ..entry.clone() },
            Entry { epoch: Epoch(u64::MAX), ..entry.clone() },
            Entry { origin_lsn: Lsn(u64::MAX), ..entry.clone() },
            Entry { body: EntryBody::Handover(handover), ..entry },
        ] {
            assert!(decode_entry(&encode_entry(&bad)).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn entry_round_trips(entry in entries()) {
            prop_assert_eq!(decode_entry(&encode_entry(&entry)), Ok(entry));
        }

        #[test]
        fn damaged_entries_never_panic(
            entry in entries(),
            flips in proptest::collection::vec(any::<u32>(), 0..3),
            cut: u32,
        ) {
            let whole = encode_entry(&entry);
            let cut = cut as usize % whole.len();
            prop_assert!(decode_entry(&whole.slice(..cut)).is_err());
            let mut bytes = whole.to_vec();
            for flip in flips {
                let bit = flip as usize % (bytes.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
            let _ = decode_entry(&bytes.into());
        }
    }
}
