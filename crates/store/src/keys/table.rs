//! One table: its number, to what it is and who writes it.

use bytes::Bytes;
use isthmus_model::commit::Term;
use isthmus_model::ids::{Epoch, Lsn, Origin, PartitionId, TableId};
use isthmus_model::limits::COUNT_MAX;

use crate::codec::schema::{encode_schema_into, read_schema};
use crate::codec::{Corrupt, Reader, corrupt, put_bytes, put_signed, put_varint};
use crate::keys::{KIND_TABLE, decode_number_key, number_key, range_of_kind};
use crate::spec::{HandedOver, TableSpec, Writers, Writing};

/// Does not tell who writes: with one writer it is the base, and always was.
const VERSION_OF_BASE: u8 = 1;
/// Tells. Written only where it says more, so that earlier programs read all other tables.
const VERSION_OF_WRITER: u8 = 2;
/// Tells that, and what was prepared is settled. Written only where something was.
const VERSION_OF_SETTLED: u8 = 3;

/// The key of a table.
pub fn encode_key(table: TableId) -> Bytes {
    number_key(KIND_TABLE, table.0)
}

/// What `encode_key` was given.
pub fn decode_key(key: &[u8]) -> Result<TableId, Corrupt> {
    decode_number_key(KIND_TABLE, key).map(TableId)
}

/// The keys of all tables.
pub fn range() -> (Bytes, Bytes) {
    range_of_kind(KIND_TABLE)
}

/// The stored form.
pub fn encode_value(spec: &TableSpec) -> Bytes {
    let mut out = Vec::with_capacity(128);
    let is_of_base = spec.writer == spec.base && spec.handed_over.is_none();
    let version = match (spec.settled > Term::default(), is_of_base) {
        (true, _) => VERSION_OF_SETTLED,
        (false, true) => VERSION_OF_BASE,
        (false, false) => VERSION_OF_WRITER,
    };
    out.push(version);
    put_varint(&mut out, spec.id.0);
    put_bytes(&mut out, spec.name.as_bytes());
    put_varint(&mut out, spec.partition.0);
    put_signed(&mut out, spec.created_millis);
    put_varint(&mut out, spec.epoch.0);
    out.push(spec.base.0);
    out.push(match spec.writing {
        Writing::Accept => 1,
        Writing::Refuse => 2,
    });
    out.push(match spec.writers {
        Writers::One => 1,
        Writers::ManyByColumn => 2,
        Writers::ManyByRow => 3,
    });
    if version >= VERSION_OF_WRITER {
        out.push(spec.writer.0);
        put_varint(&mut out, spec.handed_over.map_or(0, |end| end.at.0));
        out.extend(spec.handed_over.map(|end| end.successor.0));
    }
    if version >= VERSION_OF_SETTLED {
        put_varint(&mut out, spec.settled.epoch);
        put_varint(&mut out, spec.settled.life);
    }
    encode_schema_into(&spec.schema, &mut out);
    out.into()
}

/// What `encode_value` was given.
pub fn decode_value(bytes: &Bytes) -> Result<TableSpec, Corrupt> {
    let mut reader = Reader::new(bytes);
    let version = reader.byte()?;
    if !(VERSION_OF_BASE..=VERSION_OF_SETTLED).contains(&version) {
        return corrupt("version of the record of a table");
    }
    let id = TableId(reader.varint()?);
    let name = reader.text()?;
    let partition = PartitionId(reader.varint()?);
    let created_millis = reader.signed()?;
    let epoch = Epoch(reader.varint()?);
    let base = Origin(reader.byte()?);
    let writing = match reader.byte()? {
        1 => Writing::Accept,
        2 => Writing::Refuse,
        _ => return corrupt("unknown way of writing"),
    };
    let writers = match reader.byte()? {
        1 => Writers::One,
        2 => Writers::ManyByColumn,
        3 => Writers::ManyByRow,
        _ => return corrupt("unknown writers"),
    };
    let (writer, end) = match version {
        VERSION_OF_BASE => (base, Lsn(0)),
        _ => (Origin(reader.byte()?), Lsn(reader.varint()?)),
    };
    let handed_over = match end {
        Lsn(0) => None,
        at => Some(HandedOver { at, successor: Origin(reader.byte()?) }),
    };
    let settled = match version {
        VERSION_OF_SETTLED => Term { epoch: reader.varint()?, life: reader.varint()? },
        _ => Term::default(),
    };
    if epoch.0.max(end.0).max(settled.epoch).max(settled.life) >= COUNT_MAX {
        return corrupt("an epoch that no log comes to");
    }
    let schema = read_schema(&mut reader)?;
    reader.end()?;
    Ok(TableSpec {
        id,
        name,
        partition,
        schema,
        created_millis,
        epoch,
        base,
        writing,
        writers,
        writer,
        handed_over,
        settled,
    })
}

#[cfg(test)]
mod tests {
    use isthmus_model::value::Text;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::codec::schema::tests::schemas;

    proptest! {
        #[test]
        fn table_round_trips_and_truncations_are_refused(
            numbers in any::<[u64; 2]>(),
            epoch in 0..COUNT_MAX,
            name in ".{0,20}",
            created_millis: i64,
            base: u8,
            accept: bool,
            writers in 0..3usize,
            writer: u8,
            end in proptest::option::of((1..COUNT_MAX, any::<u8>())),
            settled in 0..3u64,
            schema in schemas(),
        ) {
            let spec = TableSpec {
                id: TableId(numbers[0]),
                name: Text::from(name),
                partition: PartitionId(numbers[1]),
                schema,
                created_millis,
                epoch: Epoch(epoch),
                base: Origin(base),
                writing: if accept { Writing::Accept } else { Writing::Refuse },
                writers: [Writers::One, Writers::ManyByColumn, Writers::ManyByRow][writers],
                writer: Origin(if accept { writer } else { base }),
                handed_over: end.map(|(at, successor)| HandedOver {
                    at: Lsn(at),
                    successor: Origin(successor),
                }),
                settled: Term { epoch: settled, life: settled * 7 },
            };
            prop_assert_eq!(decode_key(&encode_key(spec.id)), Ok(spec.id));
            let bytes = encode_value(&spec);
            prop_assert_eq!(decode_value(&bytes), Ok(spec));
            for length in 0..bytes.len() {
                prop_assert!(decode_value(&bytes.slice(..length)).is_err());
            }
        }
    }

    #[test]
    fn tables_that_were_never_handed_over_are_as_before() {
        let spec = crate::tests::spec(Writers::One, Writing::Accept);
        assert_eq!(encode_value(&spec)[0], VERSION_OF_BASE);
        let handed_over = TableSpec { writer: Origin(9), ..spec };
        assert_eq!(encode_value(&handed_over)[0], VERSION_OF_WRITER);
    }
}
