mod mini_store;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;
use isthmus_model::clock::SystemClock;
use isthmus_model::ids::Timestamp;
use isthmus_model::key::{KeyKind, KeyValue, PrimaryKey};
use isthmus_model::value::Value;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::TestCaseError;
use serde_json::{Map, Value as Json, json};
use tempfile::TempDir;

use super::*;
use crate::json_lines::json_of_value;

mod across_stores;

fn key_columns() -> Vec<KeyColumn> {
    let column = |name: &str, kind| KeyColumn { name: name.into(), kind, auto_increment: false };
    vec![column("id", KeyKind::Integer), column("part", KeyKind::String)]
}

fn key(id: i64, part: &str) -> PrimaryKey {
    PrimaryKey(vec![KeyValue::Integer(id), KeyValue::String(part.into())])
}

fn options() -> CompareOptions {
    CompareOptions {
        key_columns: Some(key_columns()),
        sort_bytes_max: 300,
        pause: Duration::from_millis(5),
        ..CompareOptions::default()
    }
}

fn file(path: &Path) -> Side {
    let types = Types::parse("text:string,number:double").unwrap();
    Side::File { path: path.to_owned(), format: None, types }
}

async fn compared(left: &Side, right: &Side, options: &CompareOptions) -> Report {
    compare(left, right, options, &SystemClock, &mut |_| {}).await
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The cells of a row.
#[derive(Clone, Debug, Default, PartialEq)]
struct Cells {
    text: Option<String>,
    number: Option<f64>,
    flag: Option<bool>,
}

type Rows = BTreeMap<(i64, String), Cells>;

impl Cells {
    fn values(&self) -> Vec<(&'static str, Value)> {
        let text = self.text.as_deref().map(|text| ("text", Value::String(text.into())));
        let number = self.number.map(|number| ("number", Value::Double(number)));
        let flag = self.flag.map(|flag| ("flag", Value::Boolean(flag)));
        [text, number, flag].into_iter().flatten().collect()
    }
}

fn cells() -> impl Strategy<Value = Cells> {
    let text = proptest::option::of("[a-z\",\n]{1,4}");
    let number = proptest::option::of(any::<i32>().prop_map(|number| f64::from(number) / 8.0));
    (text, number, proptest::option::of(any::<bool>())).prop_map(|(text, number, flag)| Cells {
        text,
        number,
        flag,
    })
}

fn rows() -> impl Strategy<Value = Rows> {
    proptest::collection::btree_map((any::<i8>().prop_map(i64::from), "[a-c]{1,2}"), cells(), 0..60)
}

/// Rows in an order that is not theirs.
fn mixed(rows: &Rows) -> Vec<(&(i64, String), &Cells)> {
    let mut mixed: Vec<_> = rows.iter().collect();
    mixed.sort_by_key(|((id, part), _)| (id.wrapping_mul(0x9e37_79b9).rotate_left(13), part));
    mixed
}

fn write_csv(path: &Path, rows: &Rows) {
    let mut out = csv::Writer::from_path(path).unwrap();
    out.write_record(["flag", "part", "number", "id", "text"]).unwrap();
    for ((id, part), cells) in mixed(rows) {
        let text = |value: Option<String>| value.unwrap_or_default();
        out.write_record([
            text(cells.flag.map(|flag| flag.to_string())),
            part.clone(),
            text(cells.number.map(|number| number.to_string())),
            id.to_string(),
            text(cells.text.clone()),
        ])
        .unwrap();
    }
    out.flush().unwrap();
}

fn write_json_lines(path: &Path, rows: &Rows) {
    let mut out = std::fs::File::create(path).unwrap();
    for ((id, part), cells) in mixed(rows) {
        let mut members = Map::new();
        members.insert("part".into(), part.as_str().into());
        members.insert("id".into(), (*id).into());
        for (name, value) in cells.values() {
            members.insert(name.into(), json_of_value(&value));
        }
        writeln!(out, "{}", Json::Object(members)).unwrap();
    }
}

fn write_versions(path: &Path, rows: &Rows) {
    let mut out = std::fs::File::create(path).unwrap();
    for ((id, part), cells) in mixed(rows) {
        let mut versions = Vec::new();
        for (name, value) in cells.values() {
            versions.push(json!({ "name": name, "value": 1, "timestamp": 4 }));
            let value = json_of_value(&value);
            versions.push(json!({ "name": name, "value": value, "timestamp": 5 }));
        }
        for version in &mut versions {
            // The stated types hold for every version.
            if version["timestamp"] == 4 && version["name"] != "number" {
                version["value"] = if version["name"] == "flag" { json!(true) } else { json!("x") };
            }
        }
        writeln!(out, "{}", json!({ "key": { "id": id, "part": part }, "cells": versions }))
            .unwrap();
    }
}

fn write_parquet(path: &Path, rows: &Rows) {
    let schema = "message rows {
        required binary part (UTF8); optional boolean flag; required int64 id;
        optional double number; optional binary text (UTF8);
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().build());
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    for rows in mixed(rows).chunks(20) {
        let mut group = writer.next_row_group().unwrap();
        let parts: Vec<ByteArray> =
            rows.iter().map(|((_, part), _)| part.as_str().into()).collect();
        put::<ByteArrayType>(&mut group, parts.into_iter().map(Some).collect(), false);
        put::<BoolType>(&mut group, rows.iter().map(|(_, cells)| cells.flag).collect(), true);
        put::<Int64Type>(&mut group, rows.iter().map(|((id, _), _)| Some(*id)).collect(), false);
        put::<DoubleType>(&mut group, rows.iter().map(|(_, cells)| cells.number).collect(), true);
        let texts = rows.iter().map(|(_, cells)| cells.text.as_deref().map(ByteArray::from));
        put::<ByteArrayType>(&mut group, texts.collect(), true);
        group.close().unwrap();
    }
    writer.close().unwrap();
}

fn put<T: parquet::data_type::DataType>(
    group: &mut SerializedRowGroupWriter<'_, std::fs::File>,
    values: Vec<Option<T::T>>,
    optional: bool,
) {
    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let values: Vec<T::T> = values.into_iter().flatten().collect();
    let mut column = group.next_column().unwrap().unwrap();
    let levels = optional.then_some(&levels[..]);
    column.typed::<T>().write_batch(&values, levels, None).unwrap();
    column.close().unwrap();
}

/// The same rows in every format.
fn write_all(directory: &TempDir, rows: &Rows) -> Vec<Side> {
    type Write = fn(&Path, &Rows);
    let writers: [(&str, Write); 4] = [
        ("a.csv", write_csv),
        ("a.jsonl", write_json_lines),
        ("versions.jsonl", write_versions),
        ("a.parquet", write_parquet),
    ];
    let written = writers.map(|(name, write)| {
        let path = directory.path().join(name);
        write(&path, rows);
        file(&path)
    });
    written.into()
}

/// What is to be found, judged without any of the code that finds it.
fn expected(left: &Rows, right: &Rows) -> Vec<(PrimaryKey, RowClass)> {
    let keys: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
    let mut found = Vec::new();
    for (id, part) in keys {
        let of = |rows: &Rows| rows.get(&(*id, part.clone())).cloned();
        let class = match (of(left), of(right)) {
            (Some(_), None) => RowClass::Missing,
            (None, _) => RowClass::Extra,
            (Some(left), Some(right)) if left == right => continue,
            (Some(_), Some(_)) => RowClass::Different,
        };
        found.push((key(*id, part), class));
    }
    found
}

fn check(report: &Report, expected: &[(PrimaryKey, RowClass)]) -> Result<(), TestCaseError> {
    let found: Vec<_> = report.rows.iter().map(|row| (row.key.clone(), row.class)).collect();
    prop_assert_eq!(&found[..], expected, "{:?}", report.verdict);
    prop_assert_eq!(report.rows_differing, expected.len() as u64);
    let equal = expected.is_empty();
    let verdict = if equal { Verdict::Equal } else { Verdict::Different };
    prop_assert_eq!(&report.verdict, &verdict);
    prop_assert_eq!(report.left.hash == report.right.hash, equal);
    Ok(())
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(40))]

    #[test]
    fn files_of_any_format_and_order_differ_exactly_where_it_was_planted(
        rows in rows(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), 0..3), 0..5),
        other in cells(),
    ) {
        let mut changed = rows.clone();
        for (index, kind) in changes {
            let keys: Vec<_> = rows.keys().collect();
            if keys.is_empty() {
                continue;
            }
            let key = *index.get(&keys);
            match kind {
                0 => drop(changed.remove(key)),
                1 => drop(changed.insert((key.0 + 1000, key.1.clone()), other.clone())),
                _ => drop(changed.insert(key.clone(), other.clone())),
            }
        }
        let expected = expected(&rows, &changed);
        let (left, right) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let (lefts, rights) = (write_all(&left, &rows), write_all(&right, &changed));
        let runtime = runtime();
        for (at, left) in lefts.iter().enumerate() {
            let right = &rights[(at + 1) % rights.len()];
            let report = runtime.block_on(compared(left, right, &options()));
            check(&report, &expected)?;
            prop_assert_eq!(report.left.rows_read, rows.len() as u64);
        }
    }

    #[test]
    fn bodies_give_back_their_rows(values in proptest::collection::vec((value(), 0i64..4), 0..6)) {
        for versions in [Versions::All, Versions::Newest { timestamps: false }] {
            let row = row_of(&values, versions);
            let mut body = Vec::new();
            row.put_body(versions, &mut body);
            let key = row.encoded.0.clone();
            let body = Bytes::from(body);
            let again = Row::of_body(key.clone(), body.clone(), versions);
            prop_assert_eq!(again, Ok(row));
            for cut in 0..body.len() {
                assert!(Row::of_body(key.clone(), body.slice(..cut), versions).is_err());
            }
        }
    }

    #[test]
    fn rows_differ_if_and_only_if_their_canonical_bytes_do(
        left in proptest::collection::vec((value(), 0i64..3), 0..4),
        right in proptest::collection::vec((value(), 0i64..3), 0..4),
    ) {
        for versions in [
            Versions::All,
            Versions::Newest { timestamps: true },
            Versions::Newest { timestamps: false },
        ] {
            let (left, right) = (row_of(&left, versions), row_of(&right, versions));
            let canonical = |row: &Row| {
                let mut bytes = Vec::new();
                row.put_canonical(versions, &mut bytes);
                bytes
            };
            let found = difference(Some(&left), Some(&right), versions);
            prop_assert_eq!(found.is_none(), canonical(&left) == canonical(&right));
            if let Some(found) = found {
                assert!(!found.cells.is_empty());
                assert!(found.cells.iter().all(|cell| cell.left != cell.right));
            }
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::Integer),
        Just(Value::Double(0.0)),
        Just(Value::Double(-0.0)),
        any::<bool>().prop_map(Value::Boolean),
        "[ab]{0,2}".prop_map(|text| Value::String(text.into())),
        Just(Value::Binary(Bytes::from_static(b"a"))),
    ]
}

/// Cells of the columns a and b in turn; one value per version.
fn row_of(values: &[(Value, i64)], versions: Versions) -> Row {
    let mut cells = BTreeMap::new();
    for (at, (value, timestamp)) in values.iter().enumerate() {
        cells.insert((if at % 2 == 0 { "a" } else { "b" }, *timestamp), value.clone());
    }
    let cell = |((name, timestamp), value): ((&str, i64), Value)| Cell {
        name: name.into(),
        timestamp: Some(Timestamp(timestamp)),
        value,
    };
    Row::new(key(7, "x"), 3, cells.into_iter().map(cell).collect(), versions)
}

#[test]
fn canonical_bytes_and_hashes_are_those_that_are_documented() {
    let values = [(Value::Integer(-1), 5), (Value::String("é".into()), 6)];
    let row = row_of(&values, Versions::Newest { timestamps: false });
    let mut bytes = Vec::new();
    row.put_canonical(Versions::Newest { timestamps: false }, &mut bytes);
    let mut documented = vec![1, 0, 0, 0, 13];
    documented.extend(&row.encoded.0);
    documented.extend([0, 0, 0, 2, 0, 0, 0, 1, b'a', 1]);
    documented.extend([255; 8]);
    documented.extend([0, 0, 0, 1, b'b', 4, 0, 0, 0, 2, 0xc3, 0xa9]);
    assert_eq!(bytes, documented);
    let all = row_of(&values, Versions::All);
    bytes.clear();
    all.put_canonical(Versions::All, &mut bytes);
    assert_eq!((bytes[0], bytes.len()), (2, documented.len() + 16));
    let empty = |kind: HashKind| hash(kind, b"").to_string();
    assert_eq!(empty(HashKind::Md5), "d41d8cd98f00b204e9800998ecf8427e");
    assert_eq!(empty(HashKind::Sha1), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    assert!(empty(HashKind::Sha256).starts_with("e3b0c44298fc1c149afbf4c8996fb924"));
    assert!(empty(HashKind::Blake3).starts_with("af1349b9f5f9a1a6a0404dea36dcc949"));
    assert_eq!("SHA-256".parse(), Ok(HashKind::Sha256));
    assert!("crc32".parse::<HashKind>().unwrap_err().contains("is no hash"));
}

#[test]
fn one_value_tells_that_exports_are_alike() {
    let mut rows = Rows::new();
    for id in 0..50 {
        let cells = Cells { text: Some(format!("t{id}")), number: None, flag: Some(id % 2 == 0) };
        rows.insert((id, "p".to_owned()), cells);
    }
    let directory = TempDir::new().unwrap();
    let newest = Versions::Newest { timestamps: false };
    for hash in [HashKind::Blake3, HashKind::Md5] {
        let options = CompareOptions { hash, versions: Some(newest), ..options() };
        let mut hashes = Vec::new();
        for side in write_all(&directory, &rows) {
            let found = runtime().block_on(hash_side(&side, &options, &mut |_| {})).unwrap();
            assert_eq!(found.rows, 50);
            hashes.push(found.hash);
        }
        hashes.dedup();
        assert_eq!(hashes.len(), 1);
    }
    let sides = write_all(&directory, &rows);
    rows.insert((3, "p".to_owned()), Cells::default());
    let other = TempDir::new().unwrap();
    let changed = write_all(&other, &rows);
    let hashed = |side: &Side| runtime().block_on(hash_side(side, &options(), &mut |_| {}));
    assert_ne!(hashed(&sides[0]).unwrap().hash, hashed(&changed[0]).unwrap().hash);
}

#[test]
fn versions_in_a_file_are_compared_where_both_sides_have_them() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let line = |old: &str, at: i64| {
        format!(
            "{{\"key\":{{\"id\":1,\"part\":\"p\"}},\"cells\":[\
             {{\"name\":\"c\",\"value\":\"{old}\",\"timestamp\":{at}}},\
             {{\"name\":\"c\",\"value\":\"new\",\"timestamp\":9}}]}}\n"
        )
    };
    std::fs::write(path("a.jsonl"), line("old", 1)).unwrap();
    std::fs::write(path("b.jsonl"), line("older", 1)).unwrap();
    std::fs::write(path("c.jsonl"), line("old", 2)).unwrap();
    let of = |a: &str, b: &str, versions| {
        let options = CompareOptions { versions, ..options() };
        runtime().block_on(compared(&file(&path(a)), &file(&path(b)), &options))
    };
    assert_eq!(of("a.jsonl", "a.jsonl", None).verdict, Verdict::Equal);
    let report = of("a.jsonl", "b.jsonl", None);
    assert_eq!(report.versions, Versions::All);
    assert_eq!(report.rows[0].cells[0].class, CellClass::Different);
    assert_eq!((report.rows[0].left_line, report.rows[0].right_line), (Some(1), Some(1)));
    let classes: Vec<CellClass> =
        of("a.jsonl", "c.jsonl", None).rows[0].cells.iter().map(|cell| cell.class).collect();
    assert_eq!(classes, [CellClass::Extra, CellClass::Missing]);
    let newest = of("a.jsonl", "b.jsonl", Some(Versions::Newest { timestamps: true }));
    assert_eq!(newest.verdict, Verdict::Equal);
    std::fs::write(path("d.csv"), "id,part,c\n1,p,new\n").unwrap();
    assert_eq!(of("a.jsonl", "d.csv", None).verdict, Verdict::Equal);
    let Verdict::CouldNotTell { reason } = of("a.jsonl", "d.csv", Some(Versions::All)).verdict
    else {
        panic!("a CSV has no versions");
    };
    assert!(reason.ends_with("d.csv: holds no versions; compare the newest values instead"));
}

#[test]
fn what_is_wrong_with_a_file_is_told_and_nothing_is_called_equal() {
    let directory = TempDir::new().unwrap();
    let good = directory.path().join("good.csv");
    std::fs::write(&good, "id,part\n1,p\n").unwrap();
    let cases = [
        ("twice.csv", "id,part\n1,p\n2,q\n1,p\n", "lines 2 and 4 have the same key {\"id\":1,"),
        ("no_key.csv", "id,part\n1,p\n2,\n", "line 3: key column part has no value"),
        ("type.jsonl", "{\"id\":1.5,\"part\":\"p\"}", "line 1, column id: is of type double"),
        ("broken.jsonl", "{\"id\":1,\"part\":\"p\"}\n{", "line 2: is no JSON object"),
        (
            "form.jsonl",
            "{\"key\":{\"id\":1,\"part\":\"p\"},\"cells\":[]}\n{\"id\":2}",
            "line 2: is no row",
        ),
        (
            "other.jsonl",
            "{\"key\":{\"id\":1,\"part\":\"p\",\"x\":1},\"cells\":[]}",
            "line 1: x is no key",
        ),
        ("not.parquet", "id,part\n", "is not Parquet"),
        ("what.txt", "id,part\n", "format not known"),
        ("ragged.csv", "id,part\n1\n", "line 2: has 1 cells, the header has 2"),
    ];
    for (name, text, expected) in cases {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        for (left, right) in [(&path, &good), (&good, &path)] {
            let report = runtime().block_on(compared(&file(left), &file(right), &options()));
            let Verdict::CouldNotTell { reason } = &report.verdict else {
                panic!("{name}: {:?}", report.verdict);
            };
            assert!(reason.contains(expected) && reason.contains(name), "{name}: {reason}");
            assert_eq!(report.to_json()["equal"], Json::Null);
        }
    }
    let none = CompareOptions { key_columns: None, ..options() };
    let report = runtime().block_on(compared(&file(&good), &file(&good), &none));
    assert!(
        matches!(report.verdict, Verdict::CouldNotTell { reason } if reason.contains("stated"))
    );
    let missing = file(&directory.path().join("missing.csv"));
    let report = runtime().block_on(compared(&file(&good), &missing, &options()));
    assert!(matches!(report.verdict, Verdict::CouldNotTell { .. }));
}

#[test]
fn the_list_has_a_bound_and_the_counts_are_exact() {
    let directory = TempDir::new().unwrap();
    let (left, right) = (directory.path().join("l.csv"), directory.path().join("r.csv"));
    let text: String = (0..500).map(|id| format!("{id},p,{}\n", id % 7)).collect();
    std::fs::write(&left, format!("id,part,n\n{text}")).unwrap();
    std::fs::write(&right, "id,part,n\n3,p,9\n1000,p,1\n").unwrap();
    let mut last = None;
    let bounded = CompareOptions { rows_listed_max: 10, ..options() };
    let report = runtime().block_on(compare(
        &file(&left),
        &file(&right),
        &bounded,
        &SystemClock,
        &mut |progress| last = Some(progress),
    ));
    assert_eq!((report.rows_differing, report.rows.len()), (501, 10));
    assert_eq!((report.rows_missing, report.rows_extra, report.rows_different), (499, 1, 1));
    assert_eq!(report.rows[3].class, RowClass::Different);
    let last = last.unwrap();
    assert_eq!((last.rows_done, last.left_rows, last.right_rows), (501, 500, 2));
    let json = report.to_json();
    assert_eq!(json["rows"][3]["key"], json!({ "id": 3, "part": "p" }));
    assert_eq!(json["rows"][3]["cells"][0]["left"], json!({ "value": 3 }));
    let bounded = CompareOptions { listed_bytes_max: 2000, ..options() };
    let report = runtime().block_on(compared(&file(&left), &file(&right), &bounded));
    assert!(report.rows.len() < 10 && report.rows_differing == 501);
}
