use super::mini_store::{Table, serve};
use super::*;
use crate::compare::tests::mini_store;

fn schema() -> Schema {
    Schema {
        number: SchemaNumber(1),
        key_columns: key_columns(),
        defined_columns: Vec::new(),
        options: TableOptions { max_versions: 3, ..TableOptions::default() },
    }
}

fn versions(text: &str) -> mini_store::Cells {
    vec![
        ("a", 9, Value::String(text.into())),
        ("a", 5, Value::Integer(1)),
        ("b", 7, Value::Boolean(true)),
    ]
}

/// A table of thirty rows.
fn table() -> Arc<Mutex<Table>> {
    let mut table = Table::new(schema());
    for id in 0..30 {
        table.put(key(id, "p"), versions("x"));
    }
    Arc::new(Mutex::new(table))
}

async fn side(table: &Arc<Mutex<Table>>) -> Side {
    Side::Store { client: serve(Arc::clone(table)).await, table: "t".to_owned() }
}

fn keys(report: &Report) -> Vec<(PrimaryKey, RowClass)> {
    report.rows.iter().map(|row| (row.key.clone(), row.class)).collect()
}

#[tokio::test]
async fn equal_tables_are_equal_and_their_pages_are_counted() {
    let (left, right) = (table(), table());
    let report = compared(&side(&left).await, &side(&right).await, &options()).await;
    assert_eq!(report.verdict, Verdict::Equal, "{report:?}");
    assert_eq!(report.versions, Versions::All);
    assert_eq!((report.left.rows_read, report.right.rows_read), (30, 30));
    // The description and five pages.
    assert_eq!(report.left.requests, 6);
    assert!(report.right.bytes_read > 1000);
    assert_eq!(report.left.hash, report.right.hash);
}

#[tokio::test]
async fn tables_differ_exactly_where_it_was_planted() {
    let (left, right) = (table(), table());
    {
        let mut right = right.lock().unwrap();
        right.rows.remove(&key(3, "p").encode());
        right.put(key(3, "q"), Vec::new());
        right.put(key(8, "p"), versions("y"));
        let mut old = versions("x");
        old.remove(1);
        right.put(key(29, "p"), old);
        // What refuses batches is read row by row.
        right.refuses_batches = true;
    }
    let report = compared(&side(&left).await, &side(&right).await, &options()).await;
    let expected = [
        (key(3, "p"), RowClass::Missing),
        (key(3, "q"), RowClass::Extra),
        (key(8, "p"), RowClass::Different),
        (key(29, "p"), RowClass::Different),
    ];
    assert_eq!(keys(&report), expected, "{report:?}");
    assert_eq!(report.verdict, Verdict::Different);
    let cell = &report.rows[3].cells[0];
    assert_eq!((cell.name.as_str(), cell.class), ("a", CellClass::Missing));
    assert_eq!(cell.left.as_ref().unwrap().timestamp, Some(Timestamp(5)));
    let newest = Versions::Newest { timestamps: false };
    let options = CompareOptions { versions: Some(newest), ..options() };
    let report = compared(&side(&left).await, &side(&right).await, &options).await;
    assert_eq!(keys(&report), expected[..3]);
}

#[tokio::test]
async fn what_becomes_alike_while_it_is_looked_at_is_not_reported() {
    for look in 0..3 {
        let (left, right) = (table(), table());
        right.lock().unwrap().put(key(8, "p"), versions("late"));
        left.lock().unwrap().later = Some((look, key(8, "p"), Some(versions("late"))));
        right.lock().unwrap().rows.remove(&key(20, "p").encode());
        let report = compared(&side(&left).await, &side(&right).await, &options()).await;
        assert_eq!(keys(&report), [(key(20, "p"), RowClass::Missing)], "{report:?}");
        assert_eq!((report.rows_moved, report.rows_differing), (1, 1));
    }
    let (left, right) = (table(), table());
    right.lock().unwrap().put(key(100, "p"), versions("late"));
    right.lock().unwrap().later = Some((1, key(100, "p"), None));
    let report = compared(&side(&left).await, &side(&right).await, &options()).await;
    assert_eq!((&report.verdict, report.rows_moved), (&Verdict::Equal, 1));
}

#[tokio::test]
async fn what_changes_but_still_differs_is_reported_as_it_is_at_the_end() {
    let (left, right) = (table(), table());
    right.lock().unwrap().rows.remove(&key(8, "p").encode());
    right.lock().unwrap().later = Some((2, key(8, "p"), Some(versions("other"))));
    let report = compared(&side(&left).await, &side(&right).await, &options()).await;
    assert_eq!(keys(&report), [(key(8, "p"), RowClass::Different)]);
}

#[tokio::test]
async fn many_rows_that_differ_are_all_looked_at_again() {
    let (left, right) = (table(), table());
    for id in 1000..1450 {
        left.lock().unwrap().put(key(id, "p"), versions("x"));
    }
    let report = compared(&side(&left).await, &side(&right).await, &options()).await;
    assert_eq!((report.rows_differing, report.rows_missing), (450, 450));
    assert_eq!(report.left.rows_read, 480 + 3 * 450);
    let once = CompareOptions { looks_again: 0, ..options() };
    let report = compared(&side(&left).await, &side(&right).await, &once).await;
    assert_eq!((report.rows_differing, report.left.rows_read), (450, 480));
}

#[tokio::test]
async fn a_table_is_compared_with_a_file_by_names_and_newest_values() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("t.csv");
    let line = |id: i64| format!("{id},p,x,true\n");
    let text: String = (0..30).rev().map(line).collect();
    std::fs::write(&path, format!("id,part,a,b\n{text}")).unwrap();
    let table = table();
    let options = CompareOptions { key_columns: None, ..options() };
    let report = compared(&side(&table).await, &file(&path), &options).await;
    assert_eq!(report.verdict, Verdict::Equal, "{report:?}");
    assert_eq!(report.versions, Versions::Newest { timestamps: false });
    table.lock().unwrap().put(key(4, "p"), versions("y"));
    let report = compared(&file(&path), &side(&table).await, &options).await;
    assert_eq!(keys(&report), [(key(4, "p"), RowClass::Different)]);
    assert_eq!((report.rows[0].left_line, report.rows[0].right_line), (Some(27), None));
}

#[tokio::test]
async fn a_side_that_fails_is_never_called_equal() {
    let (left, right) = (table(), table());
    left.lock().unwrap().pages_left = Some(3);
    let report = compared(&side(&left).await, &side(&right).await, &options()).await;
    let Verdict::CouldNotTell { reason } = &report.verdict else { panic!("{report:?}") };
    assert!(reason.contains("OTSParameterInvalid"), "{reason}");
    let Side::Store { client, .. } = side(&right).await else { panic!("a store") };
    let nothing = Side::Store { client, table: "nothing".to_owned() };
    let report = compared(&side(&right).await, &nothing, &options()).await;
    let Verdict::CouldNotTell { reason } = &report.verdict else { panic!("{report:?}") };
    assert!(reason.contains("OTSObjectNotExist"), "{reason}");
    let mut other = Table::new(schema());
    other.schema.key_columns.swap(0, 1);
    let report =
        compared(&side(&right).await, &side(&Arc::new(Mutex::new(other))).await, &options()).await;
    let Verdict::CouldNotTell { reason } = &report.verdict else { panic!("{report:?}") };
    assert!(reason.contains("key columns differ"), "{reason}");
}

#[tokio::test]
async fn a_reader_that_stops_without_an_end_is_an_error() {
    let mut feed = Feed::blocking("it", |_| panic!("as a bug would"));
    assert!(matches!(feed.more().await, Err(CompareError::Stopped { .. })));
    let row = |id: i64| Row::new(key(id, "p"), 0, Vec::new(), Versions::All);
    let rows = vec![row(2), row(1)];
    let mut feed = Feed::blocking("it", move |giver| {
        giver.give_blocking(rows);
        Ok(())
    });
    assert!(feed.more().await.unwrap());
    assert!(feed.ready().unwrap().is_some());
    assert!(feed.ready().unwrap_err().to_string().contains("order of their keys"));
}
