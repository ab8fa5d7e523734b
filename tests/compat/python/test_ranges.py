"""GetRange: both directions, paging, bounds, options, wide rows."""

import pytest
import tablestore
from steps import cells, invalid, key, put, refused, update
from tablestore import INF_MAX, INF_MIN, CapacityUnit, Direction

ALL = ([("p", INF_MIN), ("n", INF_MIN)], [("p", INF_MAX), ("n", INF_MAX)])


@pytest.fixture
def filled(client, table):
    """p in a, b, c; n in 0..9."""
    for p in "abc":
        for n in range(10):
            put(client, table, p, n, [("v", f"{p}{n}"), ("n1", n)])
    return table


def keys(rows):
    return [(row.primary_key[0][1], row.primary_key[1][1]) for row in rows]


def page(client, table, start, end, direction=Direction.FORWARD, **options):
    _, following, rows, _ = client.get_range(table, direction, start, end, **options)
    return rows, following


EVERY = [(p, n) for p in "abc" for n in range(10)]


def test_forward_and_backward_over_all(client, filled):
    rows, following = page(client, filled, *ALL)
    assert keys(rows) == EVERY
    assert following is None
    rows, following = page(client, filled, ALL[1], ALL[0], Direction.BACKWARD)
    assert keys(rows) == EVERY[::-1]
    assert following is None


def test_start_is_in_and_end_is_out(client, filled):
    rows, _ = page(client, filled, key("a", 8), key("b", 2))
    assert keys(rows) == [("a", 8), ("a", 9), ("b", 0), ("b", 1)]
    rows, _ = page(client, filled, key("b", 2), key("a", 8), Direction.BACKWARD)
    assert keys(rows) == [("b", 2), ("b", 1), ("b", 0), ("a", 9)]


def test_bounds_inside_one_partition_key(client, filled):
    rows, _ = page(client, filled, [("p", "b"), ("n", INF_MIN)], [("p", "b"), ("n", INF_MAX)])
    assert keys(rows) == [("b", n) for n in range(10)]
    rows, _ = page(client, filled, [("p", "b"), ("n", INF_MAX)], [("p", "b"), ("n", INF_MIN)],
                   Direction.BACKWARD)
    assert keys(rows) == [("b", n) for n in reversed(range(10))]
    rows, _ = page(client, filled, [("p", "a"), ("n", INF_MAX)], [("p", "c"), ("n", INF_MIN)])
    assert keys(rows) == [("b", n) for n in range(10)]


def test_bounds_need_not_exist(client, filled):
    rows, _ = page(client, filled, key("aa", 5), key("bb", 5))
    assert keys(rows) == [("b", n) for n in range(10)]
    rows, following = page(client, filled, key("x", 0), key("y", 0))
    assert rows == []
    assert following is None


@pytest.mark.parametrize("direction", [Direction.FORWARD, Direction.BACKWARD])
@pytest.mark.parametrize("limit", [1, 7, 10, 29, 30, 31])
def test_pages_join_without_loss_or_repeat(client, filled, direction, limit):
    start, end = ALL if direction == Direction.FORWARD else ALL[::-1]
    found = []
    while start:
        rows, start = page(client, filled, start, end, direction, limit=limit)
        assert len(rows) <= limit
        found += keys(rows)
        assert len(found) <= len(EVERY)
    assert found == (EVERY if direction == Direction.FORWARD else EVERY[::-1])


def test_the_next_key_is_the_first_row_not_returned(client, filled):
    rows, following = page(client, filled, *ALL, limit=10)
    assert len(rows) == 10
    assert following == key("b", 0)


def test_xget_range_walks_all_pages(client, filled):
    counter = CapacityUnit(0, 0)
    rows = list(client.xget_range(filled, Direction.FORWARD, *ALL, counter, count=25))
    assert keys(rows) == EVERY[:25]
    assert counter.read >= 1


def test_a_page_holds_at_most_5000_rows(client, table):
    for start in range(0, 5200, 200):
        request = tablestore.BatchWriteRowRequest()
        request.add(tablestore.TableInBatchWriteRowItem(table, [
            tablestore.PutRowItem(tablestore.Row(key("a", n), [("v", n)]), None)
            for n in range(start, start + 200)
        ]))
        assert client.batch_write_row(request).is_all_succeed()
    rows, following = page(client, table, *ALL)
    assert 0 < len(rows) <= 5000
    assert following == key("a", len(rows))
    found = len(rows)
    while following:
        rows, following = page(client, table, following, ALL[1])
        found += len(rows)
    assert found == 5200


def test_a_page_holds_at_most_4_mib(client, table):
    for n in range(6):
        put(client, table, n=n, columns=[("v", "x" * 1024 * 1024)])
    found, start, pages = [], ALL[0], 0
    while start:
        rows, start = page(client, table, start, ALL[1])
        assert sum(len(cells(row)["v"]) for row in rows) <= 5 * 1024 * 1024
        found += keys(rows)
        pages += 1
        assert pages <= 10
    assert found == [("a", n) for n in range(6)]
    assert pages >= 2


@pytest.mark.parametrize("start, end, direction, message", [
    (("b", 1), ("a", 1), "FORWARD", "Begin key must less than end key in FORWARD"),
    (("a", 1), ("a", 1), "FORWARD", "Begin key must less than end key in FORWARD"),
    (("a", 1), ("b", 1), "BACKWARD", "Begin key must more than end key in BACKWARD"),
    (("a", 1), ("a", 1), "BACKWARD", "Begin key must more than end key in BACKWARD"),
])
def test_bounds_the_wrong_way_round_are_refused(client, table, start, end, direction, message):
    with invalid(message):
        page(client, table, key(*start), key(*end), direction)


@pytest.mark.parametrize("limit", [0, -1])
def test_the_limit_is_greater_than_zero(client, table, limit):
    with invalid("The limit must be greater than 0."):
        page(client, table, *ALL, limit=limit)


def test_a_range_without_versions_is_refused(client, table):
    with invalid("No version condition is specified."):
        page(client, table, *ALL, max_version=None)


def test_columns_to_get_leaves_out_rows_without_them(client, table):
    put(client, table, n=1, columns=[("a", 1), ("b", 1)])
    put(client, table, n=2, columns=[("b", 2)])
    put(client, table, n=3, columns=[("a", 3)])
    rows, _ = page(client, table, *ALL, columns_to_get=["a"])
    assert [(keys([row])[0][1], cells(row)) for row in rows] == [(1, {"a": 1}), (3, {"a": 3})]


def test_a_range_sees_writes_and_deletes_at_once(client, filled):
    client.delete_row(filled, tablestore.Row(key("b", 5)), tablestore.Condition("IGNORE"))
    update(client, filled, "b", 6, {"PUT": [("v", "changed")]})
    rows, _ = page(client, filled, key("b", 4), key("b", 8))
    assert [(keys([row])[0][1], cells(row)["v"]) for row in rows] == [
        (4, "b4"), (6, "changed"), (7, "b7")
    ]


def test_start_and_end_column_cut_each_row(client, filled):
    rows, _ = page(client, filled, *ALL, start_column="o")
    assert len(rows) == 30
    assert all(list(cells(row)) == ["v"] for row in rows)


def test_a_range_counts_what_it_reads(client, filled):
    consumed = client.get_range(filled, Direction.FORWARD, *ALL)[0]
    assert (consumed.read, consumed.write) == (1, 0)
    consumed = client.get_range(filled, Direction.FORWARD, key("x", 1), key("y", 1))[0]
    assert (consumed.read, consumed.write) == (1, 0)


def test_wrong_keys_in_bounds_are_refused(client, table):
    with refused("OTSInvalidPK", "Validate PK size fail. Input: 1, Meta: 2.", 400):
        page(client, table, [("p", INF_MIN)], [("p", INF_MAX)])
    with refused("OTSInvalidPK", "Validate PK name fail. Input: q, Meta: p.", 400):
        page(client, table, [("q", INF_MIN), ("n", INF_MIN)], [("q", INF_MAX), ("n", INF_MAX)])
