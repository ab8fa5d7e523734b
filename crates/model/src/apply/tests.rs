use super::*;
use crate::change::{ColumnFilter, Comparator, Filter};
use crate::fixtures::{change, key, put, schema, stamp, update, write};
use crate::hlc::Hlc;
use crate::ids::Origin;
use crate::rule::{ConflictRules, Rule};

fn run(schema: &Schema, row: Option<&Row>, at: i64, change: &CheckedChange) -> Applied {
    try_run(schema, row, at, change).unwrap()
}

fn try_run(
    schema: &Schema,
    row: Option<&Row>,
    at: i64,
    change: &CheckedChange,
) -> Result<Applied, Refusal> {
    let context = ApplyContext {
        schema,
        stamp: stamp(at),
        now_millis: at,
        granularity: Granularity::Change,
        expiry: &[],
    };
    let applied = apply(&context, row, &key(), change)?;
    let mut merged = row.cloned().unwrap_or_default();
    merged.merge(&applied.delta);
    assert_eq!(merged, applied.after, "merging the delta gives the row after it");
    Ok(applied)
}

fn versions(row: &Row, name: &str) -> Vec<(i64, i64)> {
    let number = |cell: &Cell| match &cell.value {
        Some(Value::Integer(number)) => Some((cell.timestamp.0, *number)),
        _ => None,
    };
    row.column(name.as_bytes())
        .map(|column| column.cells.iter().filter_map(number).collect())
        .unwrap_or_default()
}

fn increment(name: &str, delta: i64) -> CellChange {
    CellChange::Increment { name: name.into(), delta }
}

#[test]
fn a_put_replaces_the_row_and_gives_its_own_time() {
    let schema = schema();
    let first = run(&schema, None, 1_000, &put(vec![write("a", 1, None), write("b", 2, None)]));
    let second = run(&schema, Some(&first.after), 2_000, &put(vec![write("a", 3, Some(7))]));
    assert_eq!(versions(&second.after, "a"), [(7, 3)]);
    assert_eq!(versions(&second.after, "b"), []);
    assert_eq!(versions(&first.after, "b"), [(1_000, 2)]);
    assert_eq!(second.delta.tombstone, Some(stamp(2_000)));
}

#[test]
fn a_blind_put_or_delete_needs_no_row_and_an_update_does() {
    let mut blind = put(Vec::new());
    assert!(!needs_row(&blind, Granularity::Change));
    assert!(!needs_row(&change(RowAction::Delete), Granularity::WholeRow));
    assert!(needs_row(&update(vec![increment("a", 1)]), Granularity::Change));
    blind.condition.existence = Existence::MustNotExist;
    assert!(needs_row(&blind, Granularity::Change));
}

#[test]
fn a_put_without_columns_makes_a_row_and_a_delete_ends_it() {
    let schema = schema();
    let row = run(&schema, None, 1_000, &put(Vec::new())).after;
    let view = View::new(&schema.options, 1_000, &[]);
    assert!(view.exists(&row));
    let gone = run(&schema, Some(&row), 2_000, &change(RowAction::Delete)).after;
    assert!(!view.exists(&gone));
}

#[test]
fn a_row_stays_when_its_last_column_goes_but_deletions_make_none() {
    let schema = schema();
    let view = View::new(&schema.options, 1_000, &[]);
    let delete = update(vec![CellChange::DeleteColumn { name: "a".into() }]);
    let row = run(&schema, None, 1_000, &update(vec![CellChange::Put(write("a", 1, None))])).after;
    let bare = run(&schema, Some(&row), 2_000, &delete).after;
    assert!(view.exists(&bare));
    assert_eq!(versions(&bare, "a"), []);
    assert!(!view.exists(&run(&schema, None, 1_000, &delete).after));
}

#[test]
fn a_column_can_be_deleted_and_written_in_one_update() {
    let mut schema = schema();
    schema.options.max_versions = 5;
    let row = run(&schema, None, 1_000, &put(vec![write("a", 1, Some(10))])).after;
    let both = vec![
        CellChange::Put(write("a", 2, Some(5))),
        CellChange::DeleteColumn { name: "a".into() },
    ];
    let row = run(&schema, Some(&row), 2_000, &update(both)).after;
    assert_eq!(versions(&row, "a"), [(5, 2)]);
}

#[test]
fn versions_over_the_bound_are_trimmed_in_the_delta() {
    let mut schema = schema();
    schema.options.max_versions = 2;
    let cells = vec![write("a", 1, Some(1)), write("a", 2, Some(2)), write("a", 3, Some(3))];
    let mut row = run(&schema, None, 1_000, &put(cells)).after;
    assert_eq!(versions(&row, "a"), [(3, 3), (2, 2)]);
    let applied =
        run(&schema, Some(&row), 2_000, &update(vec![CellChange::Put(write("a", 4, Some(4)))]));
    row = applied.after;
    assert_eq!(versions(&row, "a"), [(4, 4), (3, 3)]);
    let trim = Trim { below: Timestamp(3), stamp: stamp(2_000) };
    assert_eq!(applied.delta.column(b"a").unwrap().trims, [trim]);
    // A write below the oldest kept version is trimmed at once.
    let late = update(vec![CellChange::Put(write("a", 0, Some(1)))]);
    let applied = run(&schema, Some(&row), 3_000, &late);
    assert_eq!(versions(&applied.after, "a"), [(4, 4), (3, 3)]);
    assert_eq!(versions(&applied.delta, "a"), []);
}

#[test]
fn a_deleted_version_makes_room() {
    let mut schema = schema();
    schema.options.max_versions = 2;
    let row = run(&schema, None, 1_000, &put(vec![write("a", 1, Some(1)), write("a", 2, Some(2))]));
    let delete = CellChange::DeleteVersion { name: "a".into(), timestamp: Timestamp(2) };
    let changes = vec![delete, CellChange::Put(write("a", 3, Some(3)))];
    let row = run(&schema, Some(&row.after), 2_000, &update(changes)).after;
    assert_eq!(versions(&row, "a"), [(3, 3), (1, 1)]);
}

#[test]
fn an_increment_counts_from_the_newest_version() {
    let schema = schema();
    let applied = run(&schema, None, 1_000, &update(vec![increment("n", 5)]));
    assert_eq!(versions(&applied.after, "n"), [(1_000, 5)]);
    let mut again = update(vec![increment("n", -7)]);
    again.returned = Returned::AfterModify(vec!["n".into(), "other".into()]);
    let applied = run(&schema, Some(&applied.after), 2_000, &again);
    assert_eq!(versions(&applied.after, "n"), [(2_000, -2)]);
    let shown =
        ShownCell { name: "n".into(), value: Value::Integer(-2), timestamp: Timestamp(2_000) };
    assert_eq!(applied.shown, [shown]);
}

#[test]
fn an_increment_is_read_back_also_over_a_version_from_the_future() {
    let schema = schema();
    let row = run(&schema, None, 1_000, &put(vec![write("n", 10, Some(50_000))])).after;
    let row = run(&schema, Some(&row), 2_000, &update(vec![increment("n", 1)])).after;
    assert_eq!(versions(&row, "n"), [(50_000, 11)]);
}

#[test]
fn increments_that_cannot_be_are_refused() {
    let schema = schema();
    let one_more = update(vec![increment("n", 1)]);
    let full = run(&schema, None, 1_000, &put(vec![write("n", i64::MAX, None)])).after;
    let overflow = Refusal::IncrementOverflow { name: "n".into() };
    assert_eq!(try_run(&schema, Some(&full), 2_000, &one_more), Err(overflow));
    let mut text = write("n", 0, None);
    text.value = Value::String("1".into());
    let text = run(&schema, None, 1_000, &put(vec![text])).after;
    let no_integer = Refusal::IncrementOfNonInteger { name: "n".into() };
    assert_eq!(try_run(&schema, Some(&text), 2_000, &one_more), Err(no_integer));
}

#[test]
fn conditions_are_judged_on_the_row_before() {
    let mut schema = schema();
    schema.options.time_to_live_seconds = Some(86_400);
    let row = run(&schema, None, 1_000, &put(vec![write("a", 1, None)])).after;
    let mut conditional = put(Vec::new());
    conditional.condition.existence = Existence::MustNotExist;
    assert_eq!(try_run(&schema, Some(&row), 2_000, &conditional), Err(Refusal::ConditionFailed));
    // A day later the row has expired.
    let later = 86_400_000 + 1_001;
    assert_eq!(run(&schema, Some(&row), later, &conditional).read_bytes, 13);
    conditional.condition.existence = Existence::MustExist;
    assert_eq!(run(&schema, Some(&row), 2_000, &conditional).read_bytes, 13);
    assert_eq!(try_run(&schema, Some(&row), later, &conditional), Err(Refusal::ConditionFailed));
    assert_eq!(try_run(&schema, None, 2_000, &conditional), Err(Refusal::ConditionFailed));
    let filter = |value| {
        Some(Filter::Column(ColumnFilter {
            name: "a".into(),
            comparator: Comparator::Equal,
            value: Value::Integer(value),
            filter_if_missing: true,
            latest_version_only: true,
            transfer: None,
        }))
    };
    conditional.condition = Condition { existence: Existence::Ignore, columns: filter(1) };
    // The key counts 13, the cell 1 + 8 and 8 for its timestamp.
    assert_eq!(run(&schema, Some(&row), 2_000, &conditional).read_bytes, 30);
    conditional.condition.columns = filter(2);
    assert_eq!(try_run(&schema, Some(&row), 2_000, &conditional), Err(Refusal::ConditionFailed));
}

#[test]
fn a_table_can_forbid_updates() {
    let mut schema = schema();
    schema.options.allow_update = false;
    let refused = try_run(&schema, None, 1_000, &update(vec![increment("n", 1)]));
    assert_eq!(refused, Err(Refusal::UpdateNotAllowed));
    assert!(try_run(&schema, None, 1_000, &put(Vec::new())).is_ok());
}

#[test]
fn a_whole_row_delta_wins_whole() {
    let mut schema = schema();
    schema.options.max_versions = 3;
    let base = run(&schema, None, 1_000, &put(vec![write("a", 1, Some(1))])).after;
    let in_region = |origin, at, name: &str| {
        let context = ApplyContext {
            schema: &schema,
            stamp: Stamp { hlc: Hlc::from_millis(at), origin: Origin(origin) },
            now_millis: at,
            granularity: Granularity::WholeRow,
            expiry: &[],
        };
        let change = update(vec![CellChange::Put(write(name, 2, Some(2)))]);
        apply(&context, Some(&base), &key(), &change).unwrap()
    };
    let first = in_region(1, 2_000, "b");
    let second = in_region(2, 2_001, "c");
    let mut merged = first.after.clone();
    merged.merge(&second.delta);
    assert_eq!(merged, second.after);
    assert_eq!(versions(&merged, "a"), [(1, 1)]);
    assert_eq!(versions(&merged, "b"), []);
    assert_eq!(versions(&merged, "c"), [(2, 2)]);
}

#[test]
fn by_priority_one_write_of_a_whole_row_is_shown() {
    let mut schema = schema();
    schema.options.time_to_live_seconds = None;
    let (default, priority) = (Rule::Priority, vec![Origin(2), Origin(1)]);
    schema.options.rules = Some(ConflictRules { default, priority, ..ConflictRules::default() });
    let in_region = |row: &Row, origin, at, change: &CheckedChange| {
        let context = ApplyContext {
            schema: &schema,
            stamp: Stamp { hlc: Hlc::from_millis(at), origin: Origin(origin) },
            now_millis: at,
            granularity: Granularity::WholeRowByRule,
            expiry: &[],
        };
        apply(&context, Some(row), &key(), change).unwrap()
    };
    let set = |name: &str, value| update(vec![CellChange::Put(write(name, value, None))]);
    let view = View::new(&schema.options, 9_000, &[]);
    let shown = |row: &Row| {
        let row = view.chosen(row).into_owned();
        ["a", "b", "c"].map(|name| versions(&row, name).first().map(|(_, value)| *value))
    };
    let base = in_region(&Row::default(), 1, 1_000, &put(vec![write("a", 1, None)])).after;
    let first = in_region(&base, 2, 2_000, &set("b", 2));
    let second = in_region(&base, 3, 3_000, &set("c", 3));
    let mut merged = first.after.clone();
    merged.merge(&second.delta);
    assert_eq!(shown(&merged), [Some(1), Some(2), None]);
    // What has seen both replaces both, and begins from what is shown.
    let third = in_region(&merged, 3, 4_000, &update(vec![increment("a", 4)]));
    assert_eq!(shown(&third.after), [Some(5), Some(2), None]);
    let gone = in_region(&third.after, 1, 5_000, &change(RowAction::Delete)).after;
    assert!(!view.exists(&gone) && gone.columns.iter().all(|column| column.shares().is_empty()));
    // A delete of one region and a change of another, neither having seen the other.
    let mut both = in_region(&base, 2, 6_000, &change(RowAction::Delete)).after;
    both.merge(&second.delta);
    assert_eq!(shown(&both), [Some(1), None, Some(3)]);
}

#[test]
fn a_logged_expiry_hides_what_a_longer_time_to_live_would_show() {
    let schema = schema();
    let row = run(&schema, None, 1_000, &update(vec![CellChange::Put(write("a", 1, None))])).after;
    let expiry = Trim { below: Timestamp(1_001), stamp: stamp(1_500) };
    let view = View::new(&schema.options, 2_000, &[expiry.into()]);
    assert!(!view.exists(&row));
    let mut expired = row.clone();
    expired.expire(&expiry.into(), &schema.options.families);
    assert!(expired.is_bare());
}

fn again(schema: &Schema, row: Option<&Row>, at: i64, made: i64, delta: &Row) -> Applied {
    let context = ApplyContext {
        schema,
        stamp: stamp(at),
        now_millis: at,
        granularity: Granularity::Change,
        expiry: &[],
    };
    let applied = apply_again(&context, row, stamp(made), delta);
    let mut merged = row.cloned().unwrap_or_default();
    merged.merge(&applied.delta);
    assert_eq!(merged, applied.after, "merging the delta gives the row after it");
    assert_eq!(applied.delta.stamp_max(), Some(stamp(at)));
    applied
}

#[test]
fn a_change_that_is_made_again_sets_what_it_had_set() {
    let mut schema = schema();
    schema.options.max_versions = 2;
    let base = run(&schema, None, 1_000, &put(vec![write("a", 1, None), write("b", 1, None)]));
    let changes = vec![
        CellChange::Put(write("a", 2, None)),
        increment("b", 4),
        CellChange::DeleteColumn { name: "c".into() },
    ];
    let first = run(&schema, Some(&base.after), 2_000, &update(changes));
    let second = run(&schema, Some(&first.after), 3_000, &update(vec![increment("a", 5)]));
    // On the same row, later: versions keep their names.
    let made_again = again(&schema, Some(&base.after), 9_000, 2_000, &first.delta);
    assert_eq!(versions(&made_again.after, "a"), [(2_000, 2), (1_000, 1)]);
    assert_eq!(versions(&made_again.after, "b"), [(2_000, 5), (1_000, 1)]);
    let made_again = again(&schema, Some(&made_again.after), 9_500, 3_000, &second.delta);
    assert_eq!(versions(&made_again.after, "a"), [(3_000, 7), (2_000, 2)]);
    // What replaces the row does so, whatever is there.
    let replaced = run(&schema, None, 4_000, &put(vec![write("a", 8, None)]));
    let replaced = again(&schema, None, 9_600, 4_000, &replaced.delta);
    assert_eq!(versions(&replaced.after, "a"), [(4_000, 8)]);
    let deleted = run(&schema, None, 5_000, &change(RowAction::Delete));
    let deleted = again(&schema, None, 9_700, 5_000, &deleted.delta);
    assert_eq!(deleted.after.tombstone, Some(stamp(9_700)));
}

/// The one before it was made again from what the client had asked for, at a later moment.
#[test]
fn a_change_that_is_made_again_is_newer_than_the_one_before_it() {
    let mut schema = schema();
    schema.options.max_versions = 1;
    let base = run(&schema, None, 1_000, &put(vec![write("n", 1, None)]));
    let first = run(&schema, Some(&base.after), 2_000, &update(vec![increment("n", 1)]));
    let second = run(&schema, Some(&first.after), 3_000, &update(vec![increment("n", 1)]));
    let named = CellChange::Put(write("m", 4, Some(2_500)));
    let third = run(&schema, Some(&second.after), 4_000, &update(vec![named]));
    let asked_again = run(&schema, Some(&base.after), 8_000, &update(vec![increment("n", 1)]));
    assert_eq!(versions(&asked_again.after, "n"), [(8_000, 2)]);
    let made_again = again(&schema, Some(&asked_again.after), 9_000, 3_000, &second.delta);
    assert_eq!(versions(&made_again.after, "n"), [(9_000, 3)]);
    // What a client has named keeps its name.
    let made_again = again(&schema, Some(&made_again.after), 9_500, 4_000, &third.delta);
    assert_eq!(versions(&made_again.after, "m"), [(2_500, 4)]);
}
