//! Bytes at random, and good requests with random damage, only ever give errors or requests.
//!
//! The same two entries are fuzzed without end in the `fuzz` folder; this is the part of it that
//! every run of the tests repeats, from a fixed seed.

use bytes::Bytes;
use isthmus_model::change::{
    CellChange, CellWrite, Condition, KeyPart, NamedKeyPart, Projection, Returned, RowAction,
    RowChange,
};
use isthmus_model::ids::Timestamp;
use isthmus_model::key::KeyValue;
use isthmus_model::value::{Text, Value};
use isthmus_protocol::client::encode_request;
use isthmus_protocol::plainbuffer::{
    decode_delete, decode_key, decode_put, decode_rows, decode_update, decode_variant,
    encode_change,
};
use isthmus_protocol::request::{
    BatchWriteRow, GetRow, Operation, PATHS, TableWrites, WriteRow, decode, decode_filter,
};

/// A small generator, so that the seed means the same for ever.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        // Small numbers are more often tags, lengths and kinds.
        (0..length).map(|_| (self.next() >> (self.next() % 8)) as u8).collect()
    }

    /// Changes, cuts, doubles or adds some bytes.
    fn damage(&mut self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        for _ in 0..=self.below(3) {
            let place = self.below(bytes.len() + 1);
            match self.below(5) {
                0 => bytes.truncate(place),
                1 => bytes.insert(place, self.next() as u8),
                2 => {
                    let copy = bytes[place..].to_vec();
                    bytes.extend_from_slice(&copy);
                }
                _ if place < bytes.len() => match self.below(3) {
                    0 => bytes[place] ^= 1 << self.below(8),
                    1 => bytes[place] = self.next() as u8,
                    _ => bytes[place] = [0, 0x7f, 0x80, 0xff][self.below(4)],
                },
                _ => {}
            }
        }
        bytes
    }
}

fn key() -> Vec<NamedKeyPart> {
    vec![NamedKeyPart {
        name: Text::from("pk"),
        part: KeyPart::Value(KeyValue::String(Text::from("x"))),
    }]
}

fn cell() -> CellWrite {
    CellWrite {
        name: Text::from("a"),
        value: Value::Binary(vec![1; 20].into()),
        timestamp: Some(Timestamp(5)),
    }
}

fn change(action: RowAction) -> RowChange {
    RowChange { key: key(), action, condition: Condition::default(), returned: Returned::Key }
}

fn seeds() -> Vec<Operation> {
    let write = |action| WriteRow { table: Text::from("t"), change: change(action) };
    let update = RowAction::Update(vec![
        CellChange::Put(cell()),
        CellChange::Increment { name: Text::from("n"), delta: 1 },
    ]);
    let rows = vec![change(RowAction::Put(vec![cell()])), change(RowAction::Delete)];
    vec![
        Operation::PutRow(write(RowAction::Put(vec![cell(), cell()]))),
        Operation::UpdateRow(write(update)),
        Operation::DeleteRow(write(RowAction::Delete)),
        Operation::GetRow(GetRow {
            table: Text::from("t"),
            key: key(),
            projection: Projection { max_versions: Some(1), ..Projection::default() },
            token: None,
        }),
        Operation::BatchWriteRow(BatchWriteRow {
            tables: vec![TableWrites { table: Text::from("t"), rows }],
            atomic: false,
        }),
    ]
}

fn decode_everything(bytes: Bytes) {
    let _ = decode_put(&bytes);
    let _ = decode_update(&bytes);
    let _ = decode_delete(&bytes);
    let _ = decode_key(&bytes);
    let _ = decode_rows(&bytes);
    let _ = decode_variant(&bytes);
    let _ = decode_filter(bytes, true);
}

#[test]
fn random_bytes_only_give_errors_or_requests() {
    let mut chance = Chance(0x1234_5678_9abc_def1);
    for round in 0..60_000 {
        let bytes = Bytes::from(chance.bytes(200));
        let _ = decode(PATHS[round % PATHS.len()], bytes.clone());
        decode_everything(bytes);
    }
}

#[test]
fn damaged_requests_only_give_errors_or_requests() {
    let mut chance = Chance(0xfeed_beef_cafe_0001);
    let seeds: Vec<_> = seeds().iter().map(|one| (one.path(), encode_request(one))).collect();
    for round in 0..60_000 {
        let (path, good) = &seeds[round % seeds.len()];
        if let Ok(operation) = decode(path, chance.damage(good).into()) {
            // What is taken for a request is one: it survives the way there and back.
            let again = decode(path, encode_request(&operation));
            assert_eq!(again.as_ref(), Ok(&operation));
        }
    }
}

#[test]
fn damaged_rows_only_give_errors_or_rows() {
    let mut chance = Chance(0x0bad_cafe_0bad_cafe);
    let action = RowAction::Put(vec![cell(), cell()]);
    let good = encode_change(&key(), &action);
    for _ in 0..60_000 {
        let bytes = Bytes::from(chance.damage(&good));
        if let Ok((key, cells)) = decode_put(&bytes)
            && !cells.is_empty()
        {
            // There is one way to write a row with cells, but for zeros behind it.
            let again = encode_change(&key, &RowAction::Put(cells));
            let padding = bytes.strip_prefix(&again[..]);
            assert!(padding.is_some_and(|rest| rest.iter().all(|byte| *byte == 0)), "{again:?}");
        }
        decode_everything(bytes);
    }
}
