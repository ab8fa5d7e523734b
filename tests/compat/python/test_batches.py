"""BatchGetRow and BatchWriteRow."""

import time

import pytest
import tablestore
import wire
from steps import EXIST, IGNORE, NOT_EXIST, cells, get, invalid, key, put, read, refused
from tablestore import (
    BatchGetRowRequest, BatchWriteRowRequest, DeleteRowItem, PutRowItem, Row,
    TableInBatchGetRowItem, TableInBatchWriteRowItem, UpdateRowItem,
)


def write(client, *tables):
    request = BatchWriteRowRequest()
    for table, items in tables:
        request.add(TableInBatchWriteRowItem(table, items))
    return client.batch_write_row(request)


def fetch(client, *tables, **options):
    request = BatchGetRowRequest()
    for table, keys in tables:
        request.add(TableInBatchGetRowItem(table, keys, **{"max_version": 1, **options}))
    return client.batch_get_row(request)


def put_item(n, columns=(("v", 1),), condition=IGNORE, **options):
    return PutRowItem(Row(key(n=n), list(columns)), condition, **options)


def test_put_update_and_delete_in_one_batch(client, table):
    put(client, table, n=2, columns=[("a", 1)])
    put(client, table, n=3, columns=[("a", 1)])
    answer = write(client, (table, [
        put_item(1, [("v", "new")]),
        UpdateRowItem(Row(key(n=2), {"PUT": [("b", 2)], "INCREMENT": [("a", 4)]}), IGNORE),
        DeleteRowItem(Row(key(n=3)), IGNORE),
    ]))
    assert answer.is_all_succeed()
    assert [one.consumed.write for one in answer.get_put_by_table(table)] == [1]
    assert read(client, table, n=1) == {"v": "new"}
    assert read(client, table, n=2) == {"a": 5, "b": 2}
    assert get(client, table, n=3) is None


def test_several_tables_in_one_batch(client, make_table):
    first, second = make_table(), make_table()
    assert write(client, (first, [put_item(1)]), (second, [put_item(2)])).is_all_succeed()
    found = fetch(client, (first, [key(n=1), key(n=2)]), (second, [key(n=2)]))
    assert [one.row is not None for one in found.get_result_by_table(first)] == [True, False]
    assert [one.row is not None for one in found.get_result_by_table(second)] == [True]


def test_answers_keep_the_order_of_the_request(client, table):
    order = [5, 1, 9, 3]
    write(client, (table, [put_item(n, [("v", n)]) for n in order]))
    keys = [key(n=n) for n in order + [77] + order]
    found = fetch(client, (table, keys)).get_result_by_table(table)
    values = [None if one.row is None else cells(one.row)["v"] for one in found]
    assert values == order + [None] + order
    assert all(one.is_ok for one in found)


def test_the_same_row_several_times_applies_in_order(client, table):
    answer = write(client, (table, [
        put_item(1, [("a", 1)]),
        put_item(1, [("b", 2)]),
        UpdateRowItem(Row(key(n=1), {"PUT": [("c", 3)]}), EXIST),
        UpdateRowItem(Row(key(n=1), {"INCREMENT": [("b", 5)]}), IGNORE),
        UpdateRowItem(Row(key(n=1), {"INCREMENT": [("b", 5)]}), IGNORE),
    ]))
    assert answer.is_all_succeed()
    assert read(client, table) == {"b": 12, "c": 3}
    answer = write(client, (table, [
        DeleteRowItem(Row(key(n=1)), IGNORE),
        put_item(1, [("last", 1)], NOT_EXIST),
    ]))
    assert answer.is_all_succeed()
    assert read(client, table) == {"last": 1}


def test_a_failed_condition_fails_its_row_only(client, table):
    put(client, table, n=2, columns=[("v", "old")])
    answer = write(client, (table, [
        put_item(1), put_item(2, condition=NOT_EXIST), put_item(3, condition=EXIST), put_item(4),
    ]))
    results = answer.get_put_by_table(table)
    assert [one.is_ok for one in results] == [True, False, False, True]
    for one in results[1:3]:
        assert one.error_code == "OTSConditionCheckFail"
        assert one.error_message == "Condition check failed."
    assert read(client, table, n=2) == {"v": "old"}
    assert get(client, table, n=3) is None


def test_wrong_keys_fail_their_rows_only(client, table):
    bad = [
        PutRowItem(Row([("p", "a")], [("v", 1)]), IGNORE),
        PutRowItem(Row([("n", 1), ("p", "a")], [("v", 1)]), IGNORE),
        PutRowItem(Row([("p", 1), ("n", 1)], [("v", 1)]), IGNORE),
    ]
    results = write(client, (table, [put_item(1), *bad])).get_put_by_table(table)
    assert [one.is_ok for one in results] == [True, False, False, False]
    assert [(one.error_code, one.error_message) for one in results[1:]] == [
        ("OTSInvalidPK", "Validate PK size fail. Input: 1, Meta: 2."),
        ("OTSInvalidPK", "Validate PK name fail. Input: n, Meta: p."),
        ("OTSInvalidPK", "Validate PK type fail. Input: VT_INTEGER, Meta: VT_STRING."),
    ]
    found = fetch(client, (table, [key(), [("p", "a")], [("p", 1), ("n", 1)]]))
    results = found.get_result_by_table(table)
    assert [one.is_ok for one in results] == [True, False, False]
    assert results[1].error_message == "Validate PK size fail. Input: 1, Meta: 2."


def test_a_value_too_long_fails_its_row_only(client, table):
    long = "x" * (2 * 1024 * 1024 + 1)
    results = write(client, (table, [put_item(1, [("v", long)]), put_item(2)]))
    results = results.get_put_by_table(table)
    assert [one.is_ok for one in results] == [False, True]
    assert results[0].error_code == "OTSParameterInvalid"
    assert results[0].error_message == (
        "The length of attribute column: 'v' exceeds the MaxLength:2097152"
        " with CurrentLength:2097153."
    )


def test_200_rows_are_written_and_201_refused(client, table):
    assert write(client, (table, [put_item(n) for n in range(200)])).is_all_succeed()
    with invalid("Rows count exceeds the upper limit: 200."):
        write(client, (table, [put_item(n, [("v", "no")]) for n in range(201)]))
    assert read(client, table, n=0) == {"v": 1}


def test_100_rows_are_read_and_101_refused(client, table):
    found = fetch(client, (table, [key(n=n) for n in range(100)])).get_result_by_table(table)
    assert len(found) == 100
    with invalid("Rows count exceeds the upper limit: 100."):
        fetch(client, (table, [key(n=n) for n in range(101)]))


def test_the_row_limit_is_over_all_tables(client, make_table):
    first, second = make_table(), make_table()
    with invalid("Rows count exceeds the upper limit: 200."):
        write(client, (first, [put_item(n) for n in range(101)]),
              (second, [put_item(n) for n in range(100)]))


def test_more_than_4_mib_in_a_batch_are_refused(client, table):
    items = [put_item(n, [("v", "x" * 900_000)]) for n in range(5)]
    with invalid(lambda text: text.startswith(
        "The total data size of BatchWriteRow request exceeds the limit, limit size: 4194304,"
        " data size: "
    )):
        write(client, (table, items))
    assert get(client, table, n=0) is None


def test_empty_batches_are_refused(client, table):
    with invalid("No row is specified in BatchWriteRow."):
        write(client)
    with invalid("No row specified in the request of BatchGetRow."):
        fetch(client)
    with invalid(f"No operation is specified for table: '{table}'."):
        write(client, (table, []))


def test_a_missing_table_fails_the_whole_read(client, table):
    with refused("OTSObjectNotExist", "Requested table does not exist.", 404):
        fetch(client, (table, [key()]), ("nothere", [key()]))


def test_a_bad_table_name_fails_the_whole_batch(client, table):
    with invalid("Invalid table name: '1bad'."):
        write(client, (table, [put_item(1)]), ("1bad", [put_item(1)]))
    assert get(client, table) is None


def test_each_row_counts_its_own_capacity(client, table):
    results = write(client, (table, [put_item(1), put_item(2, [("v", "x" * 9000)])]))
    assert [one.consumed.write for one in results.get_put_by_table(table)] == [1, 3]
    found = fetch(client, (table, [key(n=1), key(n=2), key(n=3)])).get_result_by_table(table)
    assert [one.consumed.read for one in found] == [1, 3, 1]


def test_auto_increment_keys_are_returned_in_a_batch(client, make_table):
    name = make_table(key=[("p", "STRING"), ("id", "INTEGER", tablestore.PK_AUTO_INCR)])
    items = [
        PutRowItem(Row([("p", "x"), ("id", tablestore.PK_AUTO_INCR)], [("v", n)]), IGNORE,
                   tablestore.ReturnType.RT_PK)
        for n in range(10)
    ]
    results = write(client, (name, items)).get_put_by_table(name)
    given = [one.row.primary_key[1][1] for one in results]
    assert given == sorted(set(given))


def test_batch_read_options(client, versions_table):
    now = int(time.time() * 1000)
    put(client, versions_table, columns=[("a", 1, now - 2), ("a", 2, now - 1), ("b", 3, now - 1)])

    def only(**options):
        found = fetch(client, (versions_table, [key()]), **options)
        row = found.get_result_by_table(versions_table)[0].row
        return None if row is None else [(c[0], c[1]) for c in row.attribute_columns]

    assert only(max_version=5) == [("a", 2), ("a", 1), ("b", 3)]
    assert only(max_version=1, columns_to_get=["b"]) == [("b", 3)]
    assert only(max_version=None, time_range=(now - 2, now - 1)) == [("a", 1)]
    assert only(max_version=None, time_range=now - 1) == [("a", 2), ("b", 3)]
    assert only(max_version=1, start_column="b") == [("b", 3)]
    wanted = tablestore.SingleColumnCondition("b", 4, tablestore.ComparatorType.EQUAL)
    assert only(max_version=1, column_filter=wanted) is None


def test_a_batch_read_without_versions_is_refused(client, table):
    with invalid("No version condition is specified while querying row."):
        fetch(client, (table, [key()]), max_version=None)


@pytest.mark.parametrize("kind", [1, 3])
def test_batches_by_hand_answer_one_result_per_row(table, plain, kind):
    changes = [(kind, key(n=n), [("v", n)] if kind == 1 else []) for n in range(3)]
    assert plain.batch_write(table, changes) == [None] * 3
    with pytest.raises(wire.Refused):
        plain.batch_write(table, [])
