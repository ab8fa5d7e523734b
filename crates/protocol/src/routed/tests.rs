use isthmus_model::change::{ShownCell, ShownRow};
use isthmus_model::ids::{SchemaNumber, Timestamp};
use isthmus_model::key::{KeyKind, KeyValue};
use isthmus_model::schema::{KeyColumn, Schema, TableOptions};
use isthmus_model::value::Value;

use super::*;
use crate::client::{decode_batch, decode_get_range};
use crate::response::{Consumed, RowAnswer, RowsAnswer, TableAnswer, encode_batch};

fn schema() -> Schema {
    let name = Text::from("k");
    Schema {
        number: SchemaNumber(1),
        key_columns: vec![KeyColumn { name, kind: KeyKind::Integer, auto_increment: false }],
        defined_columns: Vec::new(),
        options: TableOptions::default(),
    }
}

fn key(number: i64) -> PrimaryKey {
    PrimaryKey(vec![KeyValue::Integer(number)])
}

fn page(keys: &[i64], next: Option<i64>, token: Option<&[u8]>) -> Page {
    let schema = schema();
    let mut answer = RowsAnswer::new(&schema);
    for number in keys {
        let cell = ShownCell {
            name: Text::from("v"),
            value: Value::Integer(*number),
            timestamp: Timestamp(7),
        };
        answer.push(&ShownRow { key: key(*number), cells: vec![cell] });
    }
    let next = next.map(key);
    let consumed = Consumed { read: 3, write: 0 };
    Page::decode(answer.finish_range(consumed, next.as_ref(), token)).unwrap()
}

#[test]
fn rows_of_pages_become_one_answer_and_are_not_changed() {
    let (mut odd, mut even) = (page(&[1, 3], None, None), page(&[2, 4], Some(6), None));
    let mut answer = RangeAnswer::default();
    for _ in 0..2 {
        answer.push(&odd.take().unwrap());
        answer.push(&even.take().unwrap());
    }
    assert_eq!((odd.front(), even.front()), (None, Some(&key(6))));
    assert!(odd.next_page().is_none() && even.next_page().is_some());
    answer.leave(&odd);
    answer.leave(&even);
    let consumed = Consumed { read: answer.read() as u32, write: 0 };
    let told = decode_get_range(answer.finish(consumed, even.named_front(), None)).unwrap();
    let keys: Vec<_> = told.rows.iter().map(|row| row.row.key.clone()).collect();
    assert_eq!(keys, [key(1), key(2), key(3), key(4)]);
    assert_eq!(told.rows[2].row.cells[0].value, Value::Integer(3));
    assert_eq!(told.consumed.read, 6);
    assert!(told.next_start.is_some() && told.next_token.is_none());
}

#[test]
fn a_row_that_was_cut_is_the_last_of_its_page() {
    let mut cut = page(&[1, 2], Some(2), Some(b"here"));
    assert_eq!(cut.take().unwrap().cut, None);
    let taken = cut.take().unwrap();
    assert_eq!(taken.cut.unwrap().1, &b"here"[..]);
}

#[test]
fn what_was_not_taken_was_not_used() {
    let mut half = page(&[1, 2], None, None);
    half.take().unwrap();
    let mut answer = RangeAnswer::default();
    answer.leave(&half);
    answer.leave(&page(&[], None, None));
    assert_eq!(answer.read(), 2 + 3);
}

#[test]
fn answers_to_parts_of_a_batch_are_put_where_they_were_asked() {
    let done = |write| RowAnswer::Done {
        consumed: Consumed { read: 0, write },
        row: None,
        next_token: None,
    };
    let part = |rows: &[RowAnswer]| {
        let name = Text::from("t/0001");
        encode_batch(&[TableAnswer { table: &name, schema: None, rows }])
    };
    let mut answer = BatchAnswer::new([(Text::from("t"), 3), (Text::from("u"), 1)]);
    answer.put(&[(0, 2), (1, 0)], part(&[done(3), done(4)])).unwrap();
    answer.put(&[(0, 0)], part(&[done(1)])).unwrap();
    answer.put_failed(&[(0, 1)], ErrorCode::ServerBusy, "no");
    assert!(answer.put(&[(0, 1)], part(&[done(1), done(1)])).is_err());
    let told = decode_batch(answer.finish()).unwrap();
    assert_eq!((told[0].table.as_str(), told[1].table.as_str()), ("t", "u"));
    let written: Vec<_> =
        told[0].rows.iter().map(|row| row.as_ref().map(|r| r.consumed.write)).collect();
    assert_eq!(written[0], Ok(1));
    assert_eq!(written[1].as_ref().unwrap_err().code, "OTSServerBusy");
    assert_eq!((&written[2], told[1].rows[0].as_ref().unwrap().consumed.write), (&Ok(3), 4));
}
