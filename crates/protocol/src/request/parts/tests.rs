use isthmus_model::change::{Condition, KeyPart, Returned};
use isthmus_model::key::KeyValue;
use isthmus_model::value::Value;

use super::*;
use crate::client::encode_request;
use crate::request::{Operation, decode};
use crate::response::{Consumed, RowAnswer, TableAnswer, encode_batch};

/// A put of so many of the smallest cells with a name.
fn put(number: usize, cells: usize) -> RowChange {
    let part = KeyPart::Value(KeyValue::Integer(number as i64));
    let cell = |place: usize| CellWrite {
        name: Text::from(["a", "b", "c", "d"][place % 4]),
        value: Value::Boolean(true),
        timestamp: None,
    };
    RowChange {
        key: vec![NamedKeyPart { name: Text::from("k"), part }],
        action: RowAction::Put((0..cells).map(cell).collect()),
        condition: Condition::default(),
        returned: Returned::Nothing,
    }
}

fn batch(rows_of_tables: &[usize], cells: usize, atomic: bool) -> (BatchWriteRow, Bytes) {
    let tables = rows_of_tables.iter().enumerate().map(|(place, rows)| TableWrites {
        table: Text::from(format!("t{place}")),
        rows: (0..*rows).map(|number| put(number, cells)).collect(),
    });
    let batch = BatchWriteRow { tables: tables.collect(), atomic };
    let body = encode_request(&Operation::BatchWriteRow(batch.clone()));
    (batch, body)
}

fn parts(body: Bytes) -> Vec<BatchWritePart> {
    BatchWriteParts::decode(body).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_batch_of_common_cells_is_one_part() {
    for (rows, cells) in [(vec![200], 10), (vec![3, 1, 196], 1), (vec![1], 1024)] {
        let (batch, body) = batch(&rows, cells, false);
        let found = parts(body);
        assert_eq!(found, [BatchWritePart { writes: batch, continues: false }]);
    }
}

#[test]
fn a_batch_of_the_smallest_cells_takes_three_times_its_body() {
    let (whole, body) = batch(&[200], 1024, false);
    let found = parts(body.clone());
    assert!(found.len() > 1);
    let mut rows = Vec::new();
    for (place, part) in found.into_iter().enumerate() {
        assert_eq!(part.continues, place > 0);
        let [table] = <[TableWrites; 1]>::try_from(part.writes.tables).unwrap();
        let bytes: usize = table.rows.iter().map(memory).sum();
        // The row that passes the bound is one of the part.
        let bound = 3 * body.len() + memory(&table.rows[0]);
        assert!(body.len() + bytes <= bound, "{bytes} beside {}", body.len());
        rows.extend(table.rows);
    }
    assert_eq!(rows, whole.tables[0].rows);
    let again = decode("/BatchWriteRow", body);
    assert_eq!(again, Ok(Operation::BatchWriteRow(whole)));
}

#[test]
fn parts_keep_the_order_of_tables_and_rows() {
    let (whole, body) = batch(&[70, 1, 60, 69], 1024, false);
    let mut tables: Vec<TableWrites> = Vec::new();
    for part in parts(body) {
        let mut more = part.writes.tables.into_iter();
        if part.continues {
            let (last, first) = (tables.last_mut().unwrap(), more.next().unwrap());
            assert_eq!(last.table, first.table);
            last.rows.extend(first.rows);
        }
        tables.extend(more);
    }
    assert_eq!(tables, whole.tables);
}

#[test]
fn an_atomic_batch_stays_whole() {
    let (whole, body) = batch(&[200], 1024, true);
    assert_eq!(parts(body), [BatchWritePart { writes: whole, continues: false }]);
}

#[test]
fn wrong_bytes_in_the_last_row_refuse_the_batch_before_its_first_part() {
    let (_, body) = batch(&[200], 1024, false);
    let mut body = body.to_vec();
    // The tag of the row's checksum.
    let end = body.iter().rposition(|byte| *byte == 0x09).unwrap();
    body[end + 1] ^= 1;
    assert!(BatchWriteParts::decode(body.into()).is_err());
}

#[test]
fn answers_to_parts_become_the_answer_to_the_whole() {
    let done = |write| RowAnswer::Done {
        consumed: Consumed { read: 0, write },
        row: None,
        next_token: None,
    };
    let failed = || RowAnswer::Failed { code: ErrorCode::ServerBusy, message: "no".to_owned() };
    let (one, two) = (Text::from("one"), Text::from("two"));
    let encoded = |tables: &[(&Text, &[RowAnswer])]| {
        let answer = |(table, rows)| TableAnswer { table, schema: None, rows };
        encode_batch(&tables.iter().copied().map(answer).collect::<Vec<_>>())
    };
    let mut whole = BatchPartsAnswer::default();
    whole.push(false, encoded(&[(&one, &[done(1), done(2)])])).unwrap();
    whole.push(true, encoded(&[(&one, &[done(3)]), (&two, &[failed()])])).unwrap();
    let rest = [(two.clone(), 1), (one.clone(), 2)];
    whole.push_failed(true, &rest, ErrorCode::ServerBusy, "no");
    whole.push_failed(false, &[(two.clone(), 1)], ErrorCode::ServerBusy, "no");
    let expected = encoded(&[
        (&one, &[done(1), done(2), done(3)]),
        (&two, &[failed(), failed()]),
        (&one, &[failed(), failed()]),
        (&two, &[failed()]),
    ]);
    assert_eq!(whole.finish(), expected);
}

#[test]
fn groups_keep_their_rows_in_order_and_what_belongs_together_stays_so() {
    let odd_or_even = |table: &Text, key: &[NamedKeyPart]| match &key[0].part {
        KeyPart::Value(KeyValue::Integer(number)) if table.as_str() == "t0" => {
            Text::from(format!("t0/000{}", number % 2))
        }
        _ => table.clone(),
    };
    let (whole, body) = batch(&[3, 2], 1, false);
    let (counts, groups) = batches_by_group(body, odd_or_even).unwrap();
    assert_eq!(counts, [(Text::from("t0"), 3), (Text::from("t1"), 2)]);
    let told: Vec<_> =
        groups.iter().map(|group| (group.name.as_str(), group.places.clone())).collect();
    let expected = [
        ("t0/0000", vec![(0, 0), (0, 2)]),
        ("t0/0001", vec![(0, 1)]),
        ("t1", vec![(1, 0), (1, 1)]),
    ];
    assert_eq!(told, expected);
    let mut parts = BatchWriteParts::decode_passed_on(groups[0].body.clone()).unwrap();
    let rows = parts.next().unwrap().unwrap().writes.tables.remove(0).rows;
    assert_eq!(rows, [whole.tables[0].rows[0].clone(), whole.tables[0].rows[2].clone()]);
    assert!(BatchWriteParts::decode(groups[0].body.clone()).is_err(), "no client says that");
    let (_, body) = batch(&[3], 1, true);
    let (_, groups) = batches_by_group(body, odd_or_even).unwrap();
    assert_eq!((groups.len(), groups[0].places.len()), (1, 3));
}
