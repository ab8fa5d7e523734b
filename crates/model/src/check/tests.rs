use super::*;
use crate::change::{ColumnFilter, Comparator, Direction, Filter, KeyPart, Projection};
use crate::fixtures::{key, key_parts, schema, write};
use crate::key::KeyKind;
use crate::schema::{DefinedColumn, KeyColumn};
use crate::value::ValueKind;

const NOW: i64 = 1_700_000_000_500;

fn row_change(action: RowAction) -> RowChange {
    RowChange {
        key: key_parts(),
        action,
        condition: Condition::default(),
        returned: Returned::Nothing,
    }
}

fn put_error(cells: Vec<CellWrite>) -> String {
    let change = row_change(RowAction::Put(cells));
    check_change(&schema(), change, NOW).unwrap_err().to_string()
}

fn update_error(changes: Vec<CellChange>) -> String {
    let change = row_change(RowAction::Update(changes));
    check_change(&schema(), change, NOW).unwrap_err().to_string()
}

fn part(name: &str, part: KeyPart) -> NamedKeyPart {
    NamedKeyPart { name: name.into(), part }
}

fn text(value: &str) -> KeyPart {
    KeyPart::Value(KeyValue::String(value.into()))
}

fn number(value: i64) -> KeyPart {
    KeyPart::Value(KeyValue::Integer(value))
}

fn auto_schema() -> Schema {
    let mut schema = schema();
    schema.key_columns[1].auto_increment = true;
    schema
}

#[test]
fn what_was_taken_is_refused_by_nothing_that_the_schema_says_later() {
    let old = write("a", 1, Some(1_000));
    let change = row_change(RowAction::Put(vec![old]));
    let refused = check_change(&schema(), change.clone(), NOW);
    assert!(matches!(refused, Err(CheckError::TimestampDeviation { .. })));
    let mut later = schema();
    later.options.time_to_live_seconds = Some(86_400);
    let taken = check_change(&later.for_taken(), change.clone(), NOW).unwrap();
    assert_eq!((&taken.action, &taken.condition), (&change.action, &change.condition));
    let other = RowChange { key: Vec::new(), ..change };
    assert!(check_change(&later.for_taken(), other, NOW).is_err(), "the key counts");
}

#[test]
fn a_key_that_does_not_fit_is_named_as_the_public_service_names_it() {
    let long = "x".repeat(1025);
    let double = || KeyPart::NotAKeyType(Value::Double(1.5));
    let count = "The number of primary key columns must be in range: [1, 4].";
    let table: Vec<(Vec<(&str, KeyPart)>, &str)> = vec![
        (vec![], count),
        (vec![("a", number(1)); 5], count),
        (vec![("pk", text("a"))], "Validate PK size fail. Input: 1, Meta: 2."),
        (vec![("id", number(1)), ("pk", text("a"))], "Validate PK name fail. Input: id, Meta: pk."),
        (vec![("pk", text("a")), ("pk", text("a"))], "Validate PK name fail. Input: pk, Meta: id."),
        (
            vec![("pk", number(1)), ("id", number(1))],
            "Validate PK type fail. Input: VT_INTEGER, Meta: VT_STRING.",
        ),
        (
            vec![("pk", KeyPart::Value(KeyValue::Binary("a".into()))), ("id", number(1))],
            "Validate PK type fail. Input: VT_BLOB, Meta: VT_STRING.",
        ),
        (
            vec![("pk", KeyPart::Min), ("id", number(1))],
            "VT_INF_MIN is an invalid type for the primary key.",
        ),
        (
            vec![("pk", text("a")), ("id", KeyPart::Max)],
            "VT_INF_MAX is an invalid type for the primary key.",
        ),
        (
            vec![("pk", double()), ("id", number(1))],
            "VT_DOUBLE is an invalid type for the primary key.",
        ),
        (vec![("", text("a")), ("id", number(1))], "Invalid column name: ''."),
        (
            vec![("pk", text(&long)), ("id", number(1))],
            "The length of primary key column: 'pk' exceeds the MaxLength:1024 with \
             CurrentLength:1025.",
        ),
    ];
    for (parts, message) in table {
        let parts: Vec<_> = parts.into_iter().map(|(name, value)| part(name, value)).collect();
        let error = check_key(&schema(), parts.clone()).unwrap_err();
        assert_eq!(error.to_string(), message);
        let change = RowChange { key: parts, ..row_change(RowAction::Delete) };
        assert_eq!(check_change(&schema(), change, NOW), Err(error));
    }
    assert_eq!(check_key(&schema(), key_parts()), Ok(key()));
    let edge = vec![part("pk", text(&"x".repeat(1024))), part("id", number(1))];
    assert!(check_key(&schema(), edge).is_ok());
    let empty = vec![part("pk", text("")), part("id", number(1))];
    assert!(check_key(&schema(), empty).is_ok());
}

#[test]
fn names_have_letters_digits_and_underscores() {
    let long = "a".repeat(255);
    for name in ["a", "_", "A9_z", &long] {
        assert!(check_table_name(name).is_ok(), "{name}");
    }
    let longer = "a".repeat(256);
    for name in ["", "9a", "a-b", "a.b", "é", "a b", "a\0", &longer] {
        let error = check_table_name(name).unwrap_err();
        assert_eq!(error.to_string(), format!("Invalid table name: '{name}'."));
        let message = put_error(vec![write(name, 1, None)]);
        assert_eq!(message, format!("Invalid column name: '{name}'."));
    }
}

#[test]
fn one_write_changes_a_register_once() {
    let twice = "Duplicated attribute column name: 'a' while putting row.";
    assert_eq!(put_error(vec![write("a", 1, None), write("a", 2, None)]), twice);
    let now = Some(NOW);
    assert_eq!(put_error(vec![write("a", 1, now), write("b", 1, None), write("a", 2, now)]), twice);
    let versions = vec![write("a", 1, now), write("a", 2, Some(NOW + 1)), write("a", 3, None)];
    assert!(check_change(&schema(), row_change(RowAction::Put(versions)), NOW).is_ok());

    let twice = "Duplicated attribute column name: 'a' while updating row.";
    let delete = || CellChange::DeleteColumn { name: "a".into() };
    let increment = || CellChange::Increment { name: "a".into(), delta: 1 };
    let version = || CellChange::DeleteVersion { name: "a".into(), timestamp: Timestamp(NOW) };
    let cell = |timestamp| CellChange::Put(write("a", 1, timestamp));
    assert_eq!(update_error(vec![delete(), delete()]), twice);
    assert_eq!(update_error(vec![version(), cell(now)]), twice);
    assert_eq!(update_error(vec![increment(), increment()]), twice);
    assert_eq!(update_error(vec![increment(), cell(now)]), twice);
    assert_eq!(update_error(vec![delete(), increment()]), twice);
    let allowed = RowAction::Update(vec![cell(None), delete(), version()]);
    assert!(check_change(&schema(), row_change(allowed), NOW).is_ok());
    assert_eq!(update_error(Vec::new()), "Attribute column is missing.");
}

#[test]
fn an_attribute_has_no_name_of_a_key_column() {
    let message = "Duplicated attribute column name with primary key column: 'id'.";
    assert_eq!(put_error(vec![write("id", 1, None)]), message);
}

#[test]
fn values_columns_and_rows_are_bounded() {
    let binary = |name: &str, length: usize| CellWrite {
        name: name.into(),
        value: Value::Binary(vec![0; length].into()),
        timestamp: None,
    };
    let two_mib = limits::VALUE_BYTES_MAX;
    assert_eq!(
        put_error(vec![binary("a", two_mib + 1)]),
        "The length of attribute column: 'a' exceeds the MaxLength:2097152 with \
         CurrentLength:2097153."
    );
    let largest = row_change(RowAction::Put(vec![binary("a", two_mib)]));
    assert!(check_change(&schema(), largest, NOW).is_ok());
    let message = "The total data size of columns in one row exceeded the limit.";
    assert_eq!(put_error(vec![binary("a", two_mib), binary("b", two_mib)]), message);

    let columns = |count| (0..count).map(|n| write(&format!("c{n}"), 1, None)).collect::<Vec<_>>();
    assert!(check_change(&schema(), row_change(RowAction::Put(columns(1024))), NOW).is_ok());
    assert_eq!(
        put_error(columns(1025)),
        "The number of attribute columns exceeds the limit, limit count: 1024, column count: 1025."
    );
    let versions = (0..1025).map(|n| write("a", 1, Some(NOW + n))).collect();
    assert_eq!(put_error(versions), "The number of columns in one row exceeded the limit.");
}

#[test]
fn the_size_counts_what_is_written() {
    let mut schema = schema();
    schema.options.max_versions = 2;
    let changes = vec![
        CellChange::Put(write("ab", 1, None)),
        CellChange::DeleteColumn { name: "abc".into() },
        CellChange::DeleteVersion { name: "abcd".into(), timestamp: Timestamp(1) },
        CellChange::Increment { name: "n".into(), delta: 1 },
    ];
    let change = row_change(RowAction::Update(changes));
    let size = check_change(&schema, change, NOW).unwrap().size;
    assert_eq!(size, WriteSize { key: 13, attributes: (2 + 8 + 8) + 3 + 4 + (1 + 8 + 8) });
    let delete = check_change(&schema, row_change(RowAction::Delete), NOW).unwrap();
    assert_eq!(delete.size, WriteSize { key: 13, attributes: 0 });
}

#[test]
fn timestamps_lie_in_the_window() {
    let mut schema = schema();
    schema.options.deviation_seconds = 100;
    let at = |schema: &Schema, timestamp: i64| {
        let change = row_change(RowAction::Put(vec![write("a", 1, Some(timestamp))]));
        check_change(schema, change, NOW).map(|_| ()).map_err(|error| error.to_string())
    };
    let range = Err("Timestamp must be in range [0, INT64_MAX/1000).".to_owned());
    let far = Err("Invalid timestamp. Cell:a.".to_owned());
    let second = NOW / 1000;
    let table = [
        (-1, &range),
        (i64::MIN, &range),
        (i64::MAX, &range),
        (limits::TIMESTAMP_MAX, &range),
        (limits::TIMESTAMP_MAX - 1, &far),
        (0, &far),
        ((second - 100) * 1000, &Ok(())),
        ((second - 100) * 1000 - 1, &far),
        ((second + 100) * 1000 - 1, &Ok(())),
        ((second + 100) * 1000, &far),
    ];
    for (timestamp, result) in table {
        assert_eq!(at(&schema, timestamp), *result, "{timestamp}");
    }
    schema.options.time_to_live_seconds = Some(50);
    assert_eq!(at(&schema, (second - 50) * 1000), Ok(()));
    assert_eq!(at(&schema, (second - 50) * 1000 - 1), far);
    // An old version can be deleted.
    let version = CellChange::DeleteVersion { name: "a".into(), timestamp: Timestamp(0) };
    let change = row_change(RowAction::Update(vec![version]));
    assert!(check_change(&schema, change, NOW).is_ok());
}

#[test]
fn the_server_gives_auto_increment_values_only_to_puts() {
    let schema = auto_schema();
    let placeholder = || vec![part("pk", text("a")), part("id", KeyPart::AutoIncrement)];
    let change = |key, action, existence| RowChange {
        key,
        condition: Condition { existence, columns: None },
        ..row_change(action)
    };
    let new = change(placeholder(), RowAction::Put(Vec::new()), Existence::Ignore);
    let checked = check_change(&schema, new.clone(), NOW).unwrap();
    assert_eq!(checked.size.key, 13);
    let CheckedKey::AutoIncrement { column, .. } = &checked.key else { panic!("{checked:?}") };
    assert_eq!(*column, 1);
    let given = PrimaryKey(vec![KeyValue::String("a".into()), KeyValue::Integer(7)]);
    assert_eq!(checked.key.whole(|| 7), given);

    let message = |change| check_change(&schema, change, NOW).unwrap_err().to_string();
    assert_eq!(
        message(change(placeholder(), RowAction::Put(Vec::new()), Existence::MustExist)),
        "Invalid expect: EXPECT_EXIST when modify row with pk auto increment."
    );
    assert_eq!(
        message(change(placeholder(), RowAction::Delete, Existence::Ignore)),
        "Invalid row to delete which with pk auto increment."
    );
    assert_eq!(
        check_key(&schema, placeholder()).unwrap_err().to_string(),
        "PKAutoIncr can't be used for read operations."
    );
    let elsewhere = vec![part("pk", KeyPart::AutoIncrement), part("id", number(1))];
    assert!(check_key(&schema, elsewhere).is_err());

    // A given key changes rows that are there.
    let given = change(key_parts(), RowAction::Put(Vec::new()), Existence::Ignore);
    let checked = check_change(&schema, given, NOW).unwrap();
    assert_eq!(checked.condition.existence, Existence::MustExist);
    let made = change(key_parts(), RowAction::Put(Vec::new()), Existence::MustNotExist);
    assert!(check_change(&schema, made, NOW).is_err());
}

#[test]
fn a_delete_cannot_want_no_row() {
    let mut change = row_change(RowAction::Delete);
    change.condition.existence = Existence::MustNotExist;
    let message = check_change(&schema(), change, NOW).unwrap_err().to_string();
    assert_eq!(message, "Invalid row-existence expectation: EXPECT_NOT_EXIST.");
}

#[test]
fn ranges_run_in_their_direction_and_are_not_empty() {
    let bound = |pk, id| vec![part("pk", pk), part("id", id)];
    let range = |start, end, direction| {
        check_range(&schema(), start, end, direction).map(|_| ()).map_err(|error| error.to_string())
    };
    let low = || bound(text("a"), number(1));
    let high = || bound(text("a"), KeyPart::Max);
    let forward = Err("Begin key must less than end key in FORWARD".to_owned());
    let backward = Err("Begin key must more than end key in BACKWARD".to_owned());
    assert_eq!(range(low(), high(), Direction::Forward), Ok(()));
    assert_eq!(range(high(), low(), Direction::Forward), forward);
    assert_eq!(range(low(), low(), Direction::Forward), forward);
    assert_eq!(range(high(), low(), Direction::Backward), Ok(()));
    assert_eq!(range(low(), high(), Direction::Backward), backward);
    assert_eq!(range(low(), low(), Direction::Backward), backward);
    let all = (bound(KeyPart::Min, KeyPart::Min), bound(KeyPart::Max, KeyPart::Max));
    assert_eq!(range(all.0, all.1, Direction::Forward), Ok(()));
    let middle = bound(KeyPart::Min, number(1));
    assert_eq!(
        range(middle, high(), Direction::Forward).unwrap_err(),
        "Invalid range: a value follows INF_MIN or INF_MAX in the primary key."
    );
    let short = vec![part("pk", text("a"))];
    assert_eq!(
        range(short, high(), Direction::Forward).unwrap_err(),
        "Validate PK size fail. Input: 1, Meta: 2."
    );
    let auto = bound(text("a"), KeyPart::AutoIncrement);
    assert!(range(auto, high(), Direction::Forward).is_err());
}

fn leaf() -> Filter {
    Filter::Column(ColumnFilter {
        name: "a".into(),
        comparator: Comparator::Equal,
        value: Value::Integer(1),
        filter_if_missing: true,
        latest_version_only: true,
        transfer: None,
    })
}

#[test]
fn filters_are_bounded_and_whole() {
    let message = |filter: &Filter, in_read| check_filter(filter, in_read).unwrap_err().to_string();
    assert!(check_filter(&Filter::And(vec![leaf(); 31]), true).is_ok());
    let many = "The count of filter exceeds the max: 32.";
    assert_eq!(message(&Filter::Or(vec![leaf(); 32]), true), many);
    let deep = (0..1000).fold(leaf(), |inner, _| Filter::Not(Box::new(inner)));
    assert_eq!(message(&deep, true), many);
    let few = "Invalid AND/OR operator: the number of sub-filters must be more than 1.";
    assert_eq!(message(&Filter::And(Vec::new()), true), few);
    assert_eq!(message(&Filter::Or(vec![leaf()]), true), few);
    let page = || Filter::Page { offset: 0, limit: 1 };
    assert!(check_filter(&page(), true).is_ok());
    assert!(check_filter(&Filter::And(vec![leaf(), page()]), true).is_ok());
    assert!(check_filter(&page(), false).is_err());
    assert!(check_filter(&Filter::Or(vec![leaf(), page()]), true).is_err());
    assert!(check_filter(&Filter::And(vec![page(), page()]), true).is_err());
    assert!(check_filter(&Filter::Page { offset: 0, limit: 0 }, true).is_err());
}

#[test]
fn a_read_must_bound_the_versions() {
    let message = |projection: &Projection, scope| {
        check_projection(projection, scope).unwrap_err().to_string()
    };
    let none = Projection::default();
    assert_eq!(message(&none, ReadScope::Range), "No version condition is specified.");
    assert_eq!(
        message(&none, ReadScope::Row),
        "No version condition is specified while querying row."
    );
    let one = Projection { max_versions: Some(1), ..Projection::default() };
    assert!(check_projection(&one, ReadScope::Row).is_ok());
    assert_eq!(
        message(&Projection { max_versions: Some(0), ..Projection::default() }, ReadScope::Row),
        "Invalid max versions: 0. Reason: Max versions must be positive."
    );
    let many = Projection { columns: vec!["a".into(); 1025], ..one.clone() };
    assert_eq!(
        message(&many, ReadScope::Row),
        "The number of columns from the request exceeds the limit, limit count: 1024, column \
         count: 1025."
    );
    let range = |start, end| Projection {
        time_range: Some((Timestamp(start), Timestamp(end))),
        ..Projection::default()
    };
    assert!(check_projection(&range(0, limits::TIMESTAMP_MAX), ReadScope::Row).is_ok());
    let bounds = "Timestamp must be in range [0, INT64_MAX/1000).";
    assert_eq!(message(&range(-1, 5), ReadScope::Row), bounds);
    assert_eq!(message(&range(0, i64::MAX), ReadScope::Row), bounds);
    assert!(check_projection(&range(5, 5), ReadScope::Row).is_err());
    assert!(check_projection(&range(6, 5), ReadScope::Row).is_err());
}

#[test]
fn schemas_keep_the_rules_of_tables() {
    let message = |edit: &dyn Fn(&mut Schema)| {
        let mut schema = schema();
        edit(&mut schema);
        check_schema(&schema).map_err(|error| error.to_string())
    };
    assert_eq!(message(&|_| {}), Ok(()));
    let refused = |edit: &dyn Fn(&mut Schema), told: &str| {
        assert_eq!(message(edit), Err(told.to_owned()));
    };
    let count = "The number of primary key columns must be in range: [1, 4].";
    refused(&|schema| schema.key_columns.clear(), count);
    let column =
        |name: &str| KeyColumn { name: name.into(), kind: KeyKind::Integer, auto_increment: false };
    refused(&|schema| schema.key_columns.extend(["x", "y", "z"].map(column)), count);
    refused(
        &|schema| schema.key_columns[1].name = "pk".into(),
        "Duplicated primary key name: 'pk'.",
    );
    refused(&|schema| schema.key_columns[1].name = "1".into(), "Invalid column name: '1'.");
    refused(
        &|schema| schema.key_columns[0].auto_increment = true,
        "PkAutoIncr cannot be set as first pk column.",
    );
    let text_id = |schema: &mut Schema| {
        schema.key_columns[1].auto_increment = true;
        schema.key_columns[1].kind = KeyKind::String;
    };
    refused(&text_id, "AUTO_INCREMENT primary key must be integer.");
    let two = |schema: &mut Schema| {
        schema.key_columns.push(column("x"));
        schema.key_columns[1].auto_increment = true;
        schema.key_columns[2].auto_increment = true;
    };
    refused(&two, "AUTO_INCREMENT primary key count must <= 1.");
    let defined = |name: &str| DefinedColumn { name: name.into(), kind: ValueKind::String };
    refused(
        &|schema| schema.defined_columns = (0..33).map(|n| defined(&format!("c{n}"))).collect(),
        "The number of defined columns must be in range: [0, 32].",
    );
    refused(
        &|schema| schema.defined_columns = vec![defined("id")],
        "Duplicated attribute column name with primary key column: 'id'.",
    );
    refused(
        &|schema| schema.defined_columns = vec![defined("c"), defined("c")],
        "Duplicated attribute column name: 'c'.",
    );
    refused(
        &|schema| schema.options.max_versions = 0,
        "The maximum versions cannot be less than or equal to 0.",
    );
    refused(
        &|schema| schema.options.deviation_seconds = 0,
        "The maximum deviation must be in range [1, INT64_MAX/1000000].",
    );
    refused(
        &|schema| schema.options.time_to_live_seconds = Some(86_399),
        "TimeToLive must be -1 or at least 86400 seconds.",
    );
}

#[test]
fn options_of_requests_have_ranges() {
    assert_eq!(check_time_to_live(-1), Ok(None));
    assert_eq!(check_time_to_live(86_400), Ok(Some(86_400)));
    assert_eq!(check_time_to_live(0), Err(CheckError::TimeToLive));
    assert_eq!(check_time_to_live(-2), Err(CheckError::TimeToLive));
    assert_eq!(check_time_to_live(86_399), Err(CheckError::TimeToLiveShort));
    assert_eq!(check_max_versions(1), Ok(1));
    assert_eq!(check_max_versions(0), Err(CheckError::MaxVersions));
    assert_eq!(check_range_limit(None), Ok(5000));
    assert_eq!(check_range_limit(Some(9_999)), Ok(5000));
    assert_eq!(check_range_limit(Some(0)), Err(CheckError::RangeLimit));
    assert_eq!(check_range_limit(Some(-1)), Err(CheckError::RangeLimit));
}

#[test]
fn batches_are_bounded() {
    let get = |rows| check_batch_get(&[("t", rows)]).map_err(|error| error.to_string());
    let write = |rows| check_batch_write(&[("t", rows)]).map_err(|error| error.to_string());
    let told = |message: &str| Err(message.to_owned());
    assert_eq!((get(100), write(200)), (Ok(()), Ok(())));
    assert_eq!(get(101), told("Rows count exceeds the upper limit: 100."));
    assert_eq!(write(201), told("Rows count exceeds the upper limit: 200."));
    assert_eq!(get(0), told("No operation is specified for table: 't'."));
    assert_eq!(check_batch_get(&[]), Err(CheckError::NoRowToGet));
    assert_eq!(check_batch_write(&[]), Err(CheckError::NoRowToWrite));
    assert_eq!(
        check_batch_size(limits::WRITE_BYTES_MAX + 1).unwrap_err().to_string(),
        "The total data size of BatchWriteRow request exceeds the limit, limit size: 4194304, data \
         size: 4194305."
    );
    let other = PrimaryKey(vec![KeyValue::String("b".into()), KeyValue::Integer(1)]);
    let error = check_atomic(&key(), &other).unwrap_err();
    assert_eq!(error.to_string(), "Data out of scope of atomic. Atomic PartKey:a. Data PartKey:b");
    assert_eq!(error.code(), CheckCode::DataOutOfRange);
}
