use bytes::{BufMut, Bytes, BytesMut};
use isthmus_model::change::{
    Cast, CellChange, CellWrite, ColumnFilter, Comparator, Condition, Existence, Filter, KeyPart,
    Returned, RowAction, Transfer,
};
use isthmus_model::ids::Timestamp;
use isthmus_model::key::KeyKind;
use isthmus_model::schema::DefinedColumn;
use isthmus_model::value::{Value, ValueKind};
use prost::Message;

use super::*;
use crate::client::encode_request;
use crate::messages;
use crate::plainbuffer::encode_change;

fn text(text: &str) -> Text {
    Text::from(text)
}

fn key(number: i64) -> Vec<NamedKeyPart> {
    let part = KeyPart::Value(KeyValue::Integer(number));
    vec![NamedKeyPart { name: text("pk"), part }]
}

fn compare(name: &str) -> Filter {
    Filter::Column(ColumnFilter {
        name: text(name),
        comparator: Comparator::GreaterEqual,
        value: Value::Integer(3),
        filter_if_missing: true,
        latest_version_only: false,
        transfer: None,
    })
}

fn projection() -> Projection {
    let transfer = Transfer { regex: regex::Regex::new("a(b+)").unwrap(), cast: Cast::Integer };
    let matching = Filter::Column(ColumnFilter {
        name: text("m"),
        comparator: Comparator::Exists,
        value: Value::String(text("any")),
        filter_if_missing: false,
        latest_version_only: true,
        transfer: Some(transfer),
    });
    Projection {
        columns: vec![text("a"), text("b")],
        start_column: Some(text("a")),
        end_column: Some(text("z")),
        max_versions: Some(3),
        time_range: Some((Timestamp(5), Timestamp(9))),
        filter: Some(Filter::Or(vec![
            Filter::Not(Box::new(compare("a"))),
            Filter::And(vec![compare("b"), matching]),
            Filter::Page { offset: 1, limit: 2 },
        ])),
        resume: None,
    }
}

fn put() -> RowChange {
    RowChange {
        key: key(1),
        action: RowAction::Put(vec![CellWrite {
            name: text("a"),
            value: Value::Double(-0.0),
            timestamp: Some(Timestamp(7)),
        }]),
        condition: Condition { existence: Existence::MustNotExist, columns: Some(compare("c")) },
        returned: Returned::Key,
    }
}

fn update() -> RowChange {
    RowChange {
        key: key(2),
        action: RowAction::Update(vec![
            CellChange::Increment { name: text("n"), delta: -1 },
            CellChange::DeleteColumn { name: text("d") },
        ]),
        condition: Condition { existence: Existence::Ignore, columns: None },
        returned: Returned::AfterModify(vec![text("n")]),
    }
}

fn delete() -> RowChange {
    RowChange {
        key: key(3),
        action: RowAction::Delete,
        condition: Condition { existence: Existence::MustExist, columns: None },
        returned: Returned::Nothing,
    }
}

fn place() -> TablePlace {
    TablePlace { region: "r1".into(), instance: "i".into(), table: "t".into() }
}

/// One of each operation, with every part filled.
fn operations() -> Vec<Operation> {
    let write = |change| WriteRow { table: text("t"), change };
    let placements = vec![
        Placement { region: "r1".into(), instance: "i".into(), writable: true },
        Placement { region: "r2".into(), instance: "j".into(), writable: false },
    ];
    let token = Some(Bytes::from_static(b"token"));
    vec![
        Operation::CreateTable(CreateTable {
            table: text("t"),
            key_columns: vec![
                KeyColumn { name: text("p"), kind: KeyKind::String, auto_increment: false },
                KeyColumn { name: text("q"), kind: KeyKind::Integer, auto_increment: true },
            ],
            defined_columns: vec![DefinedColumn { name: text("d"), kind: ValueKind::Binary }],
            options: OptionsChange {
                time_to_live: Some(-1),
                max_versions: Some(2),
                deviation_seconds: Some(9),
                allow_update: Some(false),
            },
            reserved: ThroughputChange { read: Some(1), write: Some(2) },
            split_points: vec![KeyValue::String(text("g")), KeyValue::String(text("p"))],
        }),
        Operation::ListTable,
        Operation::DescribeTable(text("t")),
        Operation::UpdateTable(UpdateTable {
            table: text("t"),
            reserved: Some(ThroughputChange { read: None, write: Some(0) }),
            options: Some(OptionsChange { max_versions: Some(5), ..OptionsChange::default() }),
        }),
        Operation::DeleteTable(text("t")),
        Operation::AddDefinedColumn(AddDefinedColumn {
            table: text("t"),
            columns: vec![DefinedColumn { name: text("d"), kind: ValueKind::Binary }],
        }),
        Operation::DeleteDefinedColumn(DeleteDefinedColumn {
            table: text("t"),
            columns: vec![text("d"), text("e")],
        }),
        Operation::GetRow(GetRow {
            table: text("t"),
            key: key(1),
            projection: projection(),
            token: token.clone(),
        }),
        Operation::PutRow(write(put())),
        Operation::UpdateRow(write(update())),
        Operation::DeleteRow(write(delete())),
        Operation::BatchGetRow(BatchGetRow {
            tables: vec![TableReads {
                table: text("t"),
                rows: vec![
                    RowRead { key: key(1), token: None },
                    RowRead { key: key(2), token: token.clone() },
                ],
                projection: projection(),
            }],
        }),
        Operation::BatchWriteRow(BatchWriteRow {
            tables: vec![
                TableWrites { table: text("t"), rows: vec![put(), update(), delete()] },
                TableWrites { table: text("t"), rows: vec![put()] },
            ],
            atomic: true,
        }),
        Operation::GetRange(GetRange {
            table: text("t"),
            start: vec![NamedKeyPart { name: text("pk"), part: KeyPart::Max }],
            end: vec![NamedKeyPart { name: text("pk"), part: KeyPart::Min }],
            direction: Direction::Backward,
            limit: Some(10),
            projection: projection(),
            token,
        }),
        Operation::CreateGlobalTable(CreateGlobalTable {
            base: place(),
            placements: placements.clone(),
            sync_mode: SyncMode::Column,
            serve_mode: Some(ServeMode::PeerToPeer),
        }),
        Operation::BindGlobalTable(BindGlobalTable {
            id: "g".into(),
            name: "t".into(),
            placements,
        }),
        Operation::UnbindGlobalTable(UnbindGlobalTable {
            id: "g".into(),
            name: "t".into(),
            removals: vec![Removal { region: "r2".into(), instance: "j".into() }],
        }),
        Operation::DescribeGlobalTable(DescribeGlobalTable {
            id: Some("g".into()),
            name: "t".into(),
            replica: Some(place()),
            return_rpo: true,
        }),
        Operation::UpdateGlobalTable(UpdateGlobalTable {
            id: "g".into(),
            name: "t".into(),
            replica: Some(ReplicaChange {
                place: place(),
                writable: Some(false),
                primary_eligible: Some(true),
            }),
        }),
        Operation::ListSearchIndex(Some(text("t"))),
        Operation::ListStream(None),
        Operation::ListTunnel(Some(text("t"))),
    ]
}

#[test]
fn every_operation_is_decoded_as_it_was_encoded() {
    let operations = operations();
    assert_eq!(operations.len(), PATHS.len());
    for operation in operations {
        assert_eq!(check_path(operation.path()), Ok(()));
        let decoded = decode(operation.path(), encode_request(&operation));
        assert_eq!(decoded.as_ref(), Ok(&operation), "{}", operation.name());
    }
}

#[test]
fn requests_cut_anywhere_are_refused_or_are_other_whole_requests() {
    for operation in operations() {
        let body = encode_request(&operation);
        for end in 0..body.len() {
            match decode(operation.path(), body.slice(..end)) {
                Err(error) => assert_eq!(error.code().as_str(), "OTSParameterInvalid"),
                // Cut between two fields, the rest may be a request of its own; never this one.
                Ok(other) => assert_ne!(other, operation, "{} cut at {end}", operation.name()),
            }
        }
    }
}

#[test]
fn paths_are_compared_byte_by_byte() {
    for path in [
        "",
        "/",
        "GetRow",
        "//GetRow",
        "/GetRow/",
        "/getrow",
        "/%47etRow",
        "/GetRow?x=1",
        "/../GetRow",
        "/ComputeSplitPointsBySize",
        "/tunnel/create",
    ] {
        let error = decode(path, Bytes::new()).unwrap_err();
        assert_eq!(check_path(path), Err(error.clone()));
        assert_eq!(error.code().as_str(), "OTSParameterInvalid");
        let name = path.strip_prefix('/').unwrap_or(path);
        assert_eq!(error.message(), format!("Unsupported operation: '{name}'."));
    }
}

#[test]
fn empty_bodies_are_whole_only_where_nothing_is_required() {
    for path in PATHS {
        let is_whole =
            ["/ListTable", "/ListSearchIndex", "/ListStream", "/tunnel/list"].contains(&path);
        assert_eq!(decode(path, Bytes::new()).is_ok(), is_whole, "{path}");
    }
    let unknown = Bytes::from_static(b"\x52\x03abc\x58\x07");
    assert_eq!(decode("/ListTable", unknown), Ok(Operation::ListTable));
    assert!(decode("/ListTable", Bytes::from_static(b"\x52\x04abc")).is_err());
}

/// A field of bytes.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::bytes::encode(number, &bytes.to_vec(), &mut out);
    out
}

#[test]
fn malformed_fields_are_refused_and_unknown_ones_skipped() {
    let good = field(1, b"t");
    let with = |more: &[u8]| decode("/DescribeTable", [&good[..], more].concat().into());
    let described = Ok(Operation::DescribeTable(text("t")));
    for unknown in [
        &b"\x98\x06\x01"[..],
        b"\x9a\x06\x02ab",
        b"\x99\x06\0\0\0\0\0\0\0\0",
        b"\x9d\x06\0\0\0\0",
        b"\x9b\x06\x08\x01\x9c\x06",
        // The greatest field number.
        b"\xf8\xff\xff\xff\x0f\x01",
    ] {
        assert_eq!(with(unknown), described, "{unknown:?}");
    }
    for malformed in [
        // A varint of 11 bytes.
        &b"\x98\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..],
        // Lengths of 2^31, 2^32 and 2^63.
        b"\x9a\x06\x80\x80\x80\x80\x08",
        b"\x9a\x06\x80\x80\x80\x80\x10",
        b"\x9a\x06\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        // Groups that end wrong or not at all, wire types 6 and 7.
        b"\x9b\x06\x08\x01",
        b"\x9b\x06\xa4\x06",
        b"\x9c\x06",
        b"\x9e\x06\0",
        b"\x9f\x06\0",
        // Field numbers 0 and 2^29, wrong wire type of a known field.
        b"\x02\x01a",
        b"\x80\x80\x80\x80\x10\x01",
        b"\x08\x01",
    ] {
        assert!(with(malformed).is_err(), "{malformed:?}");
    }
    assert_eq!(with(&b"\x98\x06\x01".repeat(300_000)), described);
    let groups = b"\x9b\x06".repeat(100_000);
    assert!(with(&groups).is_err());
}

#[test]
fn of_doubled_fields_the_last_counts_and_messages_merge() {
    let body = [field(1, b"first"), field(1, b"t")].concat();
    assert_eq!(decode("/DescribeTable", body.into()), Ok(Operation::DescribeTable(text("t"))));
    let row = encode_change(&key(1), &RowAction::Delete);
    let existence = field(3, b"\x08\x01");
    let condition = field(3, b"\x12\x00");
    let body = [field(1, b"t"), field(2, &row), existence, condition].concat();
    let Ok(Operation::DeleteRow(write)) = decode("/DeleteRow", body.into()) else { panic!() };
    assert_eq!(write.change.condition.existence, Existence::MustExist);
}

#[test]
fn names_of_tables_are_checked() {
    let long = "x".repeat(255);
    for name in ["t", "_", "A1_", &long] {
        assert!(decode("/DescribeTable", field(1, name.as_bytes()).into()).is_ok());
    }
    let longer = "x".repeat(256);
    for name in ["", "1t", "a-b", "../x", "other/inst", "tаble", "a b", "a\0", &longer] {
        let error = decode("/DescribeTable", field(1, name.as_bytes()).into()).unwrap_err();
        let shown = name.replace('\0', "\\u{0}");
        assert_eq!(error.message(), format!("Invalid table name: '{shown}'."));
    }
    assert!(decode("/DescribeTable", field(1, b"\xff").into()).is_err());
}

fn range() -> messages::GetRangeRequest {
    let min = vec![NamedKeyPart { name: text("pk"), part: KeyPart::Min }];
    let max = vec![NamedKeyPart { name: text("pk"), part: KeyPart::Max }];
    messages::GetRangeRequest {
        table_name: Some(Bytes::from_static(b"t")),
        direction: Some(0),
        max_versions: Some(1),
        inclusive_start_primary_key: Some(crate::plainbuffer::encode_named_key(&min)),
        exclusive_end_primary_key: Some(crate::plainbuffer::encode_named_key(&max)),
        ..messages::GetRangeRequest::default()
    }
}

fn message_of(wire: &messages::GetRangeRequest) -> Result<(), String> {
    let decoded = decode("/GetRange", wire.encode_to_vec().into());
    decoded.map(|_| ()).map_err(|error| error.message())
}

#[test]
fn numbers_of_a_read_are_checked() {
    assert_eq!(message_of(&range()), Ok(()));
    for limit in [0, -1, i32::MIN] {
        let wire = messages::GetRangeRequest { limit: Some(limit), ..range() };
        assert_eq!(message_of(&wire), Err("The limit must be greater than 0.".into()));
    }
    for max_versions in [0, -1] {
        let wire = messages::GetRangeRequest { max_versions: Some(max_versions), ..range() };
        assert!(message_of(&wire).is_err());
    }
    for limit in [1, i32::MAX] {
        let wire =
            messages::GetRangeRequest { limit: Some(limit), max_versions: Some(limit), ..range() };
        assert_eq!(message_of(&wire), Ok(()));
    }
    let wire = messages::GetRangeRequest { max_versions: None, ..range() };
    assert_eq!(message_of(&wire), Err("No version condition is specified.".into()));
    for direction in [2, -1] {
        let wire = messages::GetRangeRequest { direction: Some(direction), ..range() };
        assert!(message_of(&wire).is_err());
    }
    let id = Some(Bytes::from_static(b"x"));
    let wire = messages::GetRangeRequest { transaction_id: id, ..range() };
    assert_eq!(message_of(&wire), Err("TransactionID is invalid.".into()));
}

#[test]
fn time_ranges_are_checked() {
    let max = i64::MAX / 1_000;
    let with = |start_time, end_time, specific_time| {
        let time_range = Some(messages::TimeRange { start_time, end_time, specific_time });
        message_of(&messages::GetRangeRequest { time_range, max_versions: None, ..range() })
    };
    assert_eq!(with(Some(0), Some(max), None), Ok(()));
    assert_eq!(with(None, Some(1), None), Ok(()));
    assert_eq!(with(Some(1), None, None), Ok(()));
    assert_eq!(with(None, None, Some(max - 1)), Ok(()));
    let outside = || Err("Timestamp must be in range [0, INT64_MAX/1000).".to_owned());
    assert_eq!(with(Some(-1), Some(1), None), outside());
    assert_eq!(with(Some(0), Some(max + 1), None), outside());
    assert_eq!(with(Some(i64::MIN), Some(i64::MAX), None), outside());
    assert_eq!(with(None, None, Some(max)), outside());
    assert_eq!(with(None, None, Some(i64::MAX)), outside());
    assert_eq!(with(None, None, Some(-1)), outside());
    for (start, end, specific) in [
        (Some(2), Some(1), None),
        (Some(1), Some(1), None),
        (None, None, None),
        (Some(0), None, Some(1)),
        (None, Some(9), Some(1)),
    ] {
        assert!(with(start, end, specific).is_err());
    }
}

#[test]
fn columns_of_a_read_are_bounded() {
    let with = |count: usize| {
        let columns_to_get = vec![Bytes::from_static(b"c"); count];
        message_of(&messages::GetRangeRequest { columns_to_get, ..range() })
    };
    assert_eq!(with(1_024), Ok(()));
    assert_eq!(
        with(1_025),
        Err("The number of columns from the request exceeds the limit, limit count: 1024, \
             column count: 1025."
            .into())
    );
}

fn filter_of(filter: &Filter) -> Bytes {
    let projection =
        Projection { filter: Some(filter.clone()), max_versions: Some(1), ..projection() };
    let get = GetRow { table: text("t"), key: key(1), projection, token: None };
    let body = encode_request(&Operation::GetRow(get));
    messages::GetRowRequest::decode(body).unwrap().filter.unwrap()
}

fn refusal(filter: &Filter) -> String {
    decode_filter(filter_of(filter), true).unwrap_err().message()
}

#[test]
fn filters_have_at_most_32_nodes_however_deep() {
    let deep = |nodes: usize| (1..nodes).fold(compare("a"), |inner, _| Filter::Not(inner.into()));
    assert_eq!(decode_filter(filter_of(&deep(32)), true), Ok(deep(32)));
    let too_many = "The count of filter exceeds the max: 32.";
    assert_eq!(refusal(&deep(33)), too_many);
    // Each level holds the whole of the levels below it, so that bytes grow slowly with depth.
    assert_eq!(refusal(&deep(1_000)), too_many);
    let wide = |parts: usize| Filter::And(vec![compare("a"); parts]);
    assert!(decode_filter(filter_of(&wide(31)), true).is_ok());
    assert_eq!(refusal(&wide(32)), too_many);
    assert_eq!(refusal(&wide(33)), too_many);
    // Two bytes for each part.
    let tiny = [field(1, b""), b"\x12\x00".repeat(2_000_000)].concat();
    let wire = messages::Filter { kind: Some(2), filter: Some(tiny.into()) };
    let error = decode_filter(wire.encode_to_vec().into(), true).unwrap_err();
    assert_eq!(error.message(), too_many);
}

#[test]
fn filters_have_the_parts_that_they_need() {
    let not = "Invalid NOT operator: the number of sub-filters must be 1.";
    let and_or = "Invalid AND/OR operator: the number of sub-filters must be more than 1.";
    assert_eq!(refusal(&Filter::And(vec![])), and_or);
    assert_eq!(refusal(&Filter::Or(vec![compare("a")])), and_or);
    for count in [0, 2] {
        let part = messages::Filter::decode(filter_of(&compare("a"))).unwrap();
        let composite = messages::CompositeColumnValueFilter {
            combinator: Some(1),
            sub_filters: vec![part; count],
        };
        let filter = Some(composite.encode_to_vec().into());
        let wire = messages::Filter { kind: Some(2), filter };
        let error = decode_filter(wire.encode_to_vec().into(), true).unwrap_err();
        assert_eq!(error.message(), not);
    }
    let page = Filter::Page { offset: 0, limit: 1 };
    assert!(decode_filter(filter_of(&page), true).is_ok());
    assert!(decode_filter(filter_of(&page), false).is_err());
}

#[test]
fn hostile_expressions_are_refused() {
    for pattern in ["(", "((((((a{100}){100}){100}){100}){100})", &"a".repeat(1_025)] {
        let column = messages::SingleColumnValueFilter {
            comparator: Some(1),
            column_name: Some(Bytes::from_static(b"c")),
            column_value: Some(Bytes::from_static(&[2, 1])),
            filter_if_missing: Some(true),
            latest_version_only: Some(true),
            value_trans_rule: Some(messages::ValueTransferRule {
                regex: Some(Bytes::copy_from_slice(pattern.as_bytes())),
                cast_type: None,
            }),
        };
        let filter = Some(column.encode_to_vec().into());
        let wire = messages::Filter { kind: Some(1), filter };
        assert!(decode_filter(wire.encode_to_vec().into(), true).is_err());
    }
}

fn batch(rows: usize, tables: usize) -> Result<Operation, ProtocolError> {
    let rows = vec![RowChange { condition: Condition::default(), ..put() }; rows];
    let tables = vec![TableWrites { table: text("t"), rows }; tables];
    let batch = Operation::BatchWriteRow(BatchWriteRow { tables, atomic: false });
    decode(batch.path(), encode_request(&batch))
}

#[test]
fn rows_of_a_batch_write_are_bounded() {
    let refused = |rows, tables| batch(rows, tables).unwrap_err().message();
    assert!(batch(200, 1).is_ok());
    assert!(batch(1, 200).is_ok());
    assert_eq!(refused(201, 1), "Rows count exceeds the upper limit: 200.");
    assert_eq!(refused(101, 2), "Rows count exceeds the upper limit: 200.");
    assert_eq!(refused(1, 201), "Rows count exceeds the upper limit: 200.");
    assert_eq!(refused(1, 0), "No row is specified in BatchWriteRow.");
    assert_eq!(refused(0, 1), "No operation is specified for table: 't'.");
    let empty_tables = b"\x0a\x00".repeat(1_000_000);
    let error = decode("/BatchWriteRow", empty_tables.into()).unwrap_err();
    assert_eq!(error.message(), "Rows count exceeds the upper limit: 200.");
}

#[test]
fn rows_of_a_batch_read_are_bounded() {
    let decoded = |rows: usize, tables: usize| {
        let rows = vec![RowRead { key: key(1), token: None }; rows];
        let projection = Projection { max_versions: Some(1), ..Projection::default() };
        let tables = vec![TableReads { table: text("t"), rows, projection }; tables];
        let batch = Operation::BatchGetRow(BatchGetRow { tables });
        decode(batch.path(), encode_request(&batch)).map_err(|error| error.message())
    };
    let refused = |text: &str| Err(text.to_owned());
    assert!(decoded(100, 1).is_ok());
    assert_eq!(decoded(101, 1), refused("Rows count exceeds the upper limit: 100."));
    assert_eq!(decoded(51, 2), refused("Rows count exceeds the upper limit: 100."));
    assert_eq!(decoded(1, 0), refused("No row specified in the request of BatchGetRow."));
    assert_eq!(decoded(0, 1), refused("No operation is specified for table: 't'."));
}

#[test]
fn data_of_a_batch_write_is_bounded() {
    let with = |bytes: usize| {
        let cell = |bytes| CellWrite {
            name: text("abcd"),
            value: Value::Binary(vec![0; bytes].into()),
            timestamp: None,
        };
        // The key has 2 + 8 bytes, the names of the cells 8.
        let half = (bytes - 18) / 2;
        let action = RowAction::Put(vec![cell(half), cell(bytes - 18 - half)]);
        let rows = vec![RowChange { action, ..put() }];
        let tables = vec![TableWrites { table: text("t"), rows }];
        let batch = Operation::BatchWriteRow(BatchWriteRow { tables, atomic: false });
        decode(batch.path(), encode_request(&batch))
    };
    assert!(with(4 << 20).is_ok());
    assert_eq!(
        with((4 << 20) + 1).unwrap_err().message(),
        "The total data size of BatchWriteRow request exceeds the limit, limit size: 4194304, \
         data size: 4194305."
    );
}

fn create() -> messages::CreateTableRequest {
    let body = encode_request(&operations().remove(0));
    messages::CreateTableRequest::decode(body).unwrap()
}

fn created(wire: &messages::CreateTableRequest) -> Result<(), String> {
    let decoded = decode("/CreateTable", wire.encode_to_vec().into());
    decoded.map(|_| ()).map_err(|error| error.message())
}

#[test]
fn schemas_are_checked() {
    let with = |change: &dyn Fn(&mut messages::TableMeta)| {
        let mut wire = create();
        wire.partitions.clear();
        change(wire.table_meta.as_mut().unwrap());
        created(&wire)
    };
    let column = |name: &str, kind| messages::PrimaryKeySchema {
        name: Some(Bytes::copy_from_slice(name.as_bytes())),
        kind: Some(kind),
        option: None,
    };
    let refused = |text: &str| Err(text.to_owned());
    let count = "The number of primary key columns must be in range: [1, 4].";
    assert_eq!(with(&|_| ()), Ok(()));
    assert_eq!(with(&|meta| meta.primary_key.clear()), refused(count));
    assert_eq!(with(&|meta| meta.primary_key = vec![column("a", 1); 5]), refused(count));
    assert_eq!(
        with(&|meta| meta.primary_key = vec![column("a", 1), column("a", 2)]),
        refused("Duplicated primary key name: 'a'.")
    );
    assert_eq!(
        with(&|meta| meta.primary_key = vec![column("a", 5)]),
        refused("PK_BOOLEAN is an invalid type for the primary key.")
    );
    assert_eq!(
        with(&|meta| meta.primary_key = vec![column("1", 1)]),
        refused("Invalid column name: '1'.")
    );
    for name in ["", &"x".repeat(256), "a b", "d\u{308}"] {
        assert!(with(&|meta| meta.primary_key = vec![column(name, 1)]).is_err());
    }
    assert!(with(&|meta| meta.primary_key[0].option = Some(1)).is_err());
    assert!(with(&|meta| meta.primary_key[1].kind = Some(2)).is_err());
    let defined =
        |name: String| messages::DefinedColumnSchema { name: Some(name.into()), kind: Some(1) };
    let many = |count: usize| (0..count).map(|n| defined(format!("c{n}"))).collect();
    assert_eq!(with(&|meta| meta.defined_column = many(32)), Ok(()));
    assert!(with(&|meta| meta.defined_column = many(33)).is_err());
    assert!(with(&|meta| meta.defined_column = vec![defined("p".into())]).is_err());
    assert!(with(&|meta| meta.index_meta = vec![messages::IndexMeta::default()]).is_err());
}

#[test]
fn what_tables_cannot_do_is_refused() {
    assert_eq!(created(&create()), Ok(()));
    for change in [
        (|wire| wire.table_meta = None) as fn(&mut messages::CreateTableRequest),
        |wire| wire.reserved_throughput = None,
        |wire| wire.table_options = None,
        |wire| wire.table_options.as_mut().unwrap().time_to_live = None,
        |wire| wire.table_options.as_mut().unwrap().max_versions = None,
        |wire| wire.table_options.as_mut().unwrap().update_full_row = Some(true),
        |wire| wire.index_metas = vec![messages::IndexMeta::default()],
        |wire| wire.enable_local_txn = Some(true),
        |wire| wire.partitions.swap(0, 1),
        |wire| wire.partitions.truncate(2),
        |wire| wire.partitions[2].end = Some(Bytes::from_static(&[9])),
        |wire| wire.partitions[1].begin = Some(Bytes::from_static(&[9])),
        |wire| wire.partitions = vec![messages::PartitionRange::default()],
        |wire| {
            wire.stream_spec = Some(messages::StreamSpecification {
                enable_stream: Some(true),
                ..messages::StreamSpecification::default()
            });
        },
    ] {
        let mut wire = create();
        change(&mut wire);
        assert!(created(&wire).is_err(), "{wire:?}");
    }
    let mut wire = create();
    wire.stream_spec = Some(messages::StreamSpecification {
        enable_stream: Some(false),
        ..messages::StreamSpecification::default()
    });
    assert_eq!(created(&wire), Ok(()));
}

#[test]
fn options_are_merged_and_checked() {
    let base = TableOptions::default();
    let merged = |change: OptionsChange| change.merged(&base, 86_400);
    let none = OptionsChange::default();
    assert_eq!(merged(none), Ok(base.clone()));
    let live = |seconds| OptionsChange { time_to_live: Some(seconds), ..none };
    assert_eq!(merged(live(-1)).unwrap().time_to_live_seconds, None);
    assert_eq!(merged(live(86_400)).unwrap().time_to_live_seconds, Some(86_400));
    assert_eq!(merged(live(i32::MAX)).unwrap().time_to_live_seconds, Some(i32::MAX as u32));
    for seconds in [0, -2, 86_399, i32::MIN] {
        assert!(merged(live(seconds)).is_err());
    }
    assert!(live(1).merged(&base, 1).is_ok());
    assert!(live(0).merged(&base, 0).is_err());
    for versions in [0, -1] {
        assert!(merged(OptionsChange { max_versions: Some(versions), ..none }).is_err());
    }
    for seconds in [0, -1] {
        assert!(merged(OptionsChange { deviation_seconds: Some(seconds), ..none }).is_err());
    }
    let change = OptionsChange { allow_update: Some(false), max_versions: Some(7), ..none };
    let expected = TableOptions { allow_update: false, max_versions: 7, ..base.clone() };
    assert_eq!(merged(change), Ok(expected));
}

#[test]
fn update_of_nothing_is_refused() {
    assert!(decode("/UpdateTable", field(1, b"t").into()).is_err());
    // A stream that is turned off is something, though there is none.
    let off = [field(1, b"t"), field(4, b"\x08\x00")].concat();
    let update = decode("/UpdateTable", off.into());
    let expected = UpdateTable { table: text("t"), reserved: None, options: None };
    assert_eq!(update, Ok(Operation::UpdateTable(expected)));
    let again = decode("/UpdateTable", encode_request(update.as_ref().unwrap()));
    assert_eq!(again, update);
}

#[test]
fn required_fields_are_required() {
    // Each field of the full request taken out in turn, by its number.
    for (path, required) in [
        ("/GetRow", &[1, 2][..]),
        ("/PutRow", &[1, 2, 3]),
        ("/UpdateRow", &[1, 2, 3]),
        ("/DeleteRow", &[1, 2, 3]),
        ("/GetRange", &[1, 2, 7, 8]),
        ("/CreateTable", &[1, 2]),
        ("/CreateGlobalTable", &[2, 4]),
        ("/BindGlobalTable", &[2, 3]),
        ("/UnbindGlobalTable", &[2, 3, 4]),
        ("/DescribeGlobalTable", &[2]),
        ("/UpdateGlobalTable", &[1, 2]),
    ] {
        let operation = operations().into_iter().find(|one| one.path() == path).unwrap();
        let body = encode_request(&operation);
        for number in required {
            let rest = without(&body, *number);
            assert_ne!(rest.len(), body.len());
            assert!(decode(path, rest).is_err(), "{path} without {number}");
        }
    }
}

fn without(body: &Bytes, number: u32) -> Bytes {
    let mut rest = body.clone();
    let mut out = BytesMut::new();
    while !rest.is_empty() {
        let before = rest.clone();
        let (found, wire_type) = prost::encoding::decode_key(&mut rest).unwrap();
        let context = prost::encoding::DecodeContext::default();
        prost::encoding::skip_field(wire_type, found, &mut rest, context).unwrap();
        if found != number {
            out.put_slice(&before[..before.len() - rest.len()]);
        }
    }
    out.freeze()
}
