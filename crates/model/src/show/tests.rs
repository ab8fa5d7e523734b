use super::*;
use crate::change::{ColumnFilter, Comparator, Filter};
use crate::fixtures::{key, schema, stamp};
use crate::ids::Timestamp;
use crate::value::Value;

fn row(cells: &[(&str, i64, i64)]) -> Row {
    let mut row = Row { marker: Some(stamp(100)), ..Row::default() };
    for (name, timestamp, value) in cells {
        row.column_mut(&Text::from(*name)).set(Cell {
            timestamp: Timestamp(*timestamp),
            stamp: stamp(100),
            value: Some(Value::Integer(*value)),
        });
    }
    row
}

fn wide() -> (Schema, Row) {
    let mut schema = schema();
    schema.options.max_versions = 3;
    let cells = [
        ("a", 4, 4),
        ("a", 3, 3),
        ("a", 2, 2),
        ("a", 1, 1),
        ("b", 2, 20),
        ("c", 3, 30),
        ("c", 1, 10),
    ];
    (schema, row(&cells))
}

fn projection() -> Projection {
    Projection { max_versions: Some(100), ..Projection::default() }
}

fn see(projection: &Projection) -> Option<Vec<(String, i64)>> {
    let (schema, row) = wide();
    let view = View::new(&schema.options, 1_000, &[]);
    let shown = show(&row, key(), &schema, &view, projection)?;
    assert_eq!(shown.row.key, key());
    Some(shown.row.cells.iter().map(|cell| (cell.name.to_string(), cell.timestamp.0)).collect())
}

fn told(cells: &[(&str, i64)]) -> Option<Vec<(String, i64)>> {
    Some(cells.iter().map(|(name, timestamp)| ((*name).to_owned(), *timestamp)).collect())
}

fn names(names: &[&str]) -> Vec<Text> {
    names.iter().map(|name| Text::from(*name)).collect()
}

fn equals(name: &str, value: i64) -> Filter {
    Filter::Column(ColumnFilter {
        name: name.into(),
        comparator: Comparator::Equal,
        value: Value::Integer(value),
        filter_if_missing: true,
        latest_version_only: true,
        transfer: None,
    })
}

#[test]
fn versions_are_bounded_by_table_and_request_and_time() {
    let all = [("a", 4), ("a", 3), ("a", 2), ("b", 2), ("c", 3), ("c", 1)];
    assert_eq!(see(&projection()), told(&all));
    let newest = Projection { max_versions: Some(1), ..projection() };
    assert_eq!(see(&newest), told(&[("a", 4), ("b", 2), ("c", 3)]));
    let early = Some((Timestamp(1), Timestamp(3)));
    // Version 1 of "a" is not kept by the table.
    let timed = Projection { time_range: early, ..newest };
    assert_eq!(see(&timed), told(&[("a", 2), ("b", 2), ("c", 1)]));
}

#[test]
fn named_columns_come_in_the_order_of_the_row() {
    let named = Projection { columns: names(&["c", "b", "b", "x"]), ..projection() };
    assert_eq!(see(&named), told(&[("b", 2), ("c", 3), ("c", 1)]));
    let ranged =
        Projection { start_column: Some("b".into()), end_column: Some("c".into()), ..projection() };
    assert_eq!(see(&ranged), told(&[("b", 2)]));
    let both = Projection { columns: names(&["a", "b"]), ..ranged };
    assert_eq!(see(&both), told(&[("b", 2)]));
}

#[test]
fn a_row_without_what_is_asked_for_is_not_shown() {
    let named = Projection { columns: names(&["x"]), ..projection() };
    assert_eq!(see(&named), None);
    let with_key = Projection { columns: names(&["x", "id"]), ..projection() };
    assert_eq!(see(&with_key), told(&[]));
    let ranged = Projection { start_column: Some("x".into()), ..projection() };
    assert_eq!(see(&ranged), None);
    let backward = Projection { end_column: Some("a".into()), ..ranged };
    assert_eq!(see(&backward), None);
    let late = Projection { time_range: Some((Timestamp(500), Timestamp(600))), ..projection() };
    assert_eq!(see(&late), None);
}

#[test]
fn a_row_of_its_key_alone_is_shown() {
    let schema = schema();
    let view = View::new(&schema.options, 1_000, &[]);
    let empty = row(&[]);
    let shown = show(&empty, key(), &schema, &view, &projection()).unwrap();
    assert_eq!((shown.row.cells.len(), shown.read_bytes), (0, 13));
    let then = Projection { time_range: Some((Timestamp(100), Timestamp(101))), ..projection() };
    assert!(show(&empty, key(), &schema, &view, &then).is_some());
    assert_eq!(look(&Row::default(), key(), &schema, &view, &then), Look::default());
}

#[test]
fn a_filter_sees_what_the_projection_leaves() {
    let filtered = |columns: &[&str], filter| Projection {
        columns: names(columns),
        filter: Some(filter),
        ..projection()
    };
    assert_eq!(see(&filtered(&["b"], equals("b", 20))), told(&[("b", 2)]));
    assert_eq!(see(&filtered(&["b"], equals("b", 21))), None);
    assert_eq!(see(&filtered(&["b"], equals("a", 4))), None, "not among the columns");
    assert_eq!(see(&filtered(&["b"], equals("id", 1))), told(&[("b", 2)]), "a key column");
}

#[test]
fn what_a_filter_hides_was_read_all_the_same() {
    let (schema, row) = wide();
    let view = View::new(&schema.options, 1_000, &[]);
    let filter = Some(equals("b", 21));
    let hidden = look(&row, key(), &schema, &view, &Projection { filter, ..projection() });
    // The key counts 13, each of the six versions 1 + 8 + 8.
    assert_eq!(hidden, Look { shown: None, read_bytes: 13 + 6 * 17 });
    let shown = look(&row, key(), &schema, &view, &projection());
    assert_eq!(shown.read_bytes, 13 + 6 * 17);
}

#[test]
fn column_paging_counts_columns() {
    let paged =
        |offset, limit| Projection { filter: Some(Filter::Page { offset, limit }), ..projection() };
    assert_eq!(see(&paged(1, 1)), told(&[("b", 2)]));
    assert_eq!(see(&paged(2, 9)), told(&[("c", 3), ("c", 1)]));
    assert_eq!(see(&paged(3, 9)), told(&[]));
}

#[test]
fn expired_and_deleted_versions_are_not_shown() {
    let (mut schema, mut row) = wide();
    row.column_mut(&"a".into()).set(Cell {
        timestamp: Timestamp(4),
        stamp: stamp(200),
        value: None,
    });
    schema.options.time_to_live_seconds = Some(1);
    let view = View::new(&schema.options, 1_003, &[]);
    let shown = show(&row, key(), &schema, &view, &projection()).unwrap();
    let cells: Vec<_> =
        shown.row.cells.iter().map(|cell| (cell.name.as_str(), cell.timestamp.0)).collect();
    assert_eq!(cells, [("a", 3), ("c", 3)]);
    assert!(!exists(&row, &View::new(&schema.options, 1_101, &[])), "the marker expires too");
}

#[test]
fn a_wide_row_is_read_page_by_page() {
    let mut schema = schema();
    schema.options.max_versions = 10;
    let mut row = Row { marker: Some(stamp(100)), ..Row::default() };
    for name in ["a", "b"] {
        for timestamp in 0..5 {
            row.column_mut(&name.into()).set(Cell {
                timestamp: Timestamp(timestamp),
                stamp: stamp(100),
                value: Some(Value::Binary(vec![0; 1 << 20].into())),
            });
        }
    }
    let view = View::new(&schema.options, 1_000, &[]);
    let whole: Vec<(String, i64)> = ["a", "b"]
        .iter()
        .flat_map(|name| (0..5).rev().map(|timestamp| ((*name).to_owned(), timestamp)))
        .collect();
    let (mut seen, mut pages) = (Vec::new(), 0);
    let mut projection = projection();
    loop {
        let shown = show(&row, key(), &schema, &view, &projection).unwrap();
        assert!(shown.read_bytes <= limits::PAGE_BYTES_MAX as u64);
        let told = |cell: &ShownCell| (cell.name.to_string(), cell.timestamp.0);
        seen.extend(shown.row.cells.iter().map(told));
        pages += 1;
        match shown.resume {
            Some(resume) => projection.resume = Some(resume),
            None => break,
        }
    }
    assert_eq!((seen, pages), (whole, 4));
}
