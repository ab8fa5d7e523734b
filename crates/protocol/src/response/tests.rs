use isthmus_model::change::{KeyPart, ShownCell};
use isthmus_model::ids::{SchemaNumber, Timestamp};
use isthmus_model::key::{KeyValue, PrimaryKey};
use isthmus_model::schema::{DefinedColumn, KeyColumn};
use isthmus_model::value::Value;

use super::*;
use crate::client;
use crate::plainbuffer::{NamedRow, ValueRef};
use crate::request::ServeMode;

fn schema() -> Schema {
    Schema {
        number: SchemaNumber(0),
        key_columns: vec![
            KeyColumn { name: Text::from("p"), kind: KeyKind::String, auto_increment: false },
            KeyColumn { name: Text::from("q"), kind: KeyKind::Integer, auto_increment: true },
        ],
        defined_columns: vec![DefinedColumn { name: Text::from("d"), kind: ValueKind::Double }],
        options: TableOptions {
            time_to_live_seconds: Some(86_400),
            max_versions: 3,
            deviation_seconds: 60,
            allow_update: false,
            ..TableOptions::default()
        },
    }
}

fn row(number: i64, bytes: usize) -> ShownRow {
    ShownRow {
        key: PrimaryKey(vec![KeyValue::String(Text::from("x")), KeyValue::Integer(number)]),
        cells: vec![
            ShownCell {
                name: Text::from("a"),
                value: Value::Binary(vec![7; bytes].into()),
                timestamp: Timestamp(9),
            },
            ShownCell {
                name: Text::from("b"),
                value: Value::Boolean(true),
                timestamp: Timestamp(8),
            },
        ],
    }
}

fn named(row: ShownRow) -> NamedRow {
    NamedRow { key_names: vec![Text::from("p"), Text::from("q")], row }
}

const USED: Consumed = Consumed { read: 1, write: 0 };

#[test]
fn missing_row_is_answered_as_in_the_worked_example() {
    let answer = encode_get_row(&schema(), USED, None, None);
    assert_eq!(&answer[..], b"\x0a\x06\x0a\x04\x08\x01\x10\x00\x12\x00");
}

#[test]
fn rows_are_answered_whatever_their_size() {
    for bytes in [0, 1, 50, 200, 20_000, 3_000_000] {
        for consumed in [USED, Consumed { read: u32::MAX, write: 300 }, Consumed::default()] {
            let answer = encode_get_row(&schema(), consumed, Some(&row(1, bytes)), Some(b"tok"));
            let read = client::decode_get_row(answer).unwrap();
            assert_eq!(read.row, Some(named(row(1, bytes))));
            assert_eq!(read.next_token.as_deref(), Some(&b"tok"[..]));
            assert_eq!(read.consumed.write, consumed.write);
        }
    }
}

#[test]
fn pages_of_a_range_are_answered() {
    let schema = schema();
    let empty = RowsAnswer::new(&schema).finish_range(USED, None, None);
    assert_eq!(&empty[..], b"\x0a\x06\x0a\x04\x08\x01\x10\x00\x12\x00");
    let mut answer = RowsAnswer::with_capacity(&schema, 1 << 20);
    assert_eq!(answer.row_bytes(), 0);
    let rows: Vec<ShownRow> = (0..100).map(|number| row(number, 100)).collect();
    for row in &rows {
        answer.push(row);
    }
    assert!(answer.row_bytes() > 100 * 100);
    let next = PrimaryKey(vec![KeyValue::String(Text::from("y")), KeyValue::Integer(-1)]);
    let page =
        client::decode_get_range(answer.finish_range(USED, Some(&next), Some(b"t"))).unwrap();
    assert_eq!(page.rows, rows.into_iter().map(named).collect::<Vec<_>>());
    let parts: Vec<KeyPart> = page.next_start.unwrap().into_iter().map(|part| part.part).collect();
    assert_eq!(parts, next.0.into_iter().map(KeyPart::Value).collect::<Vec<_>>());
    assert_eq!(page.next_token.as_deref(), Some(&b"t"[..]));
}

#[test]
fn rows_that_the_caller_writes_are_the_same() {
    let schema = schema();
    let row = row(5, 33);
    let mut own = RowsAnswer::new(&schema);
    let mut writer = own.row_writer();
    writer.key(&schema, &row.key);
    for cell in &row.cells {
        writer.cell(cell.name.as_bytes(), ValueRef::from(&cell.value), Some(cell.timestamp.0));
    }
    writer.finish(false);
    assert_eq!(own.finish_row(USED, None), encode_get_row(&schema, USED, Some(&row), None));
}

#[test]
fn writes_are_answered_with_the_row_that_was_asked_for() {
    let answer = encode_write_row(&schema(), Consumed { read: 0, write: 1 }, None);
    assert_eq!(&answer[..], b"\x0a\x06\x0a\x04\x08\x00\x10\x01");
    let key = ShownRow { cells: Vec::new(), ..row(1, 0) };
    let answer = encode_write_row(&schema(), USED, Some(&key));
    assert_eq!(client::decode_write_row(answer).unwrap().row, Some(named(key)));
}

#[test]
fn batches_keep_their_order() {
    let schema = schema();
    let done = |row: Option<ShownRow>| RowAnswer::Done { consumed: USED, row, next_token: None };
    let failed = RowAnswer::Failed {
        code: ErrorCode::ConditionCheckFail,
        message: "Condition check failed.".into(),
    };
    let first = vec![done(Some(row(1, 300))), failed.clone(), done(None), done(Some(row(2, 0)))];
    let second = vec![failed];
    let (a, b) = (Text::from("a"), Text::from("b"));
    let answer = encode_batch(&[
        TableAnswer { table: &a, schema: Some(&schema), rows: &first },
        TableAnswer { table: &b, schema: None, rows: &second },
    ]);
    let tables = client::decode_batch(answer).unwrap();
    assert_eq!(tables[0].table, "a");
    let error = client::ServiceError {
        code: "OTSConditionCheckFail".into(),
        message: "Condition check failed.".into(),
    };
    let shown: Vec<_> =
        tables[0].rows.iter().map(|row| row.as_ref().map(|row| row.row.clone())).collect();
    assert_eq!(
        shown,
        [Ok(Some(named(row(1, 300)))), Err(&error), Ok(None), Ok(Some(named(row(2, 0))))]
    );
    assert_eq!(tables[1].table, "b");
    assert_eq!(tables[1].rows, [Err(error)]);
    assert_eq!(encode_batch(&[]), Bytes::new());
}

#[test]
fn tables_are_described_with_all_that_clients_look_into() {
    let schema = schema();
    let throughput =
        Throughput { read: 0, write: 5, last_increase_seconds: 7, last_decrease_seconds: None };
    let answer = encode_describe_table(&TableDescription {
        table: "t",
        schema: &schema,
        throughput,
        status: TableStatus::Active,
        creation_micros: Some(8),
        table_id: None,
        global_table_id: Some("g"),
    });
    let wire = messages::DescribeTableResponse::decode(answer.clone()).unwrap();
    assert_eq!(wire.table_status, Some(1));
    assert_eq!(wire.stream_details.unwrap().enable_stream, Some(false));
    let unit = wire.reserved_throughput_details.unwrap().capacity_unit.unwrap();
    assert_eq!((unit.read, unit.write), (Some(0), Some(5)));
    let described = client::decode_describe_table(answer).unwrap();
    assert_eq!(described.schema, schema);
    assert_eq!(described.throughput, throughput);
    assert_eq!(described.global_table_id.as_deref(), Some("g"));
    assert_eq!(described.creation_micros, Some(8));
}

#[test]
fn updates_of_tables_are_answered_with_all_that_clients_look_into() {
    let options = TableOptions::default();
    let answer = encode_update_table(&options, Throughput::default());
    let wire = messages::UpdateTableResponse::decode(answer.clone()).unwrap();
    assert_eq!(wire.stream_details.unwrap().enable_stream, Some(false));
    let wire_options = wire.table_options.unwrap();
    assert_eq!(wire_options.time_to_live, Some(-1));
    assert_eq!(wire_options.deviation_cell_version_in_sec, Some(86_400));
    let details = wire.reserved_throughput_details.unwrap();
    assert_eq!(details.last_increase_time, Some(0));
    assert_eq!(client::decode_update_table(answer), Ok(options));
}

#[test]
fn names_of_tables_are_listed() {
    let names = client::decode_list_table(encode_list_table(["a", "b"])).unwrap();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(encode_list_table([]), encode_empty());
}

#[test]
fn global_tables_are_described() {
    let status = GlobalTableStatus::Reconfiguring;
    let created = encode_global_table("g", status, Some(ServeMode::PeerToPeer));
    assert_eq!(&created[..], b"\x12\x01g\x18\x02\x20\x03");
    let result = client::decode_global_table(created).unwrap();
    assert_eq!(result.status, status);
    assert_eq!(result.serve_mode, Some(ServeMode::PeerToPeer));
    let description = GlobalTableDescription {
        id: "g".into(),
        status: GlobalTableStatus::Active,
        serve_mode: None,
        replicas: vec![ReplicaDescription {
            region: "r1".into(),
            instance: "i".into(),
            table: "t".into(),
            writable: true,
            status: ReplicaStatus::SyncData,
            status_millis: Some(1),
            table_id: Some("1".into()),
            number: Some(2),
            endpoint: Some("http://127.0.0.1:1".into()),
            stage: Some(SyncStage::Full),
            failed: false,
            message: None,
            role: Some("primary".into()),
            rpo_nanos: Some(5),
        }],
    };
    let answer = encode_describe_global_table(&description);
    assert_eq!(client::decode_describe_global_table(answer), Ok(description));
}
