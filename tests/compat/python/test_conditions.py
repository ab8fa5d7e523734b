"""Column conditions of writes, filters of reads."""

import itertools
import time

import pytest
import tablestore
from steps import CHECK_FAILED, cells, get, invalid, key, put, read, refused, update
from tablestore import (
    CastType, ComparatorType, CompositeColumnCondition, Condition, LogicalOperator, RegexRule,
    SingleColumnCondition, SingleColumnRegexCondition,
)

EQ, NE = ComparatorType.EQUAL, ComparatorType.NOT_EQUAL
GT, GE = ComparatorType.GREATER_THAN, ComparatorType.GREATER_EQUAL
LT, LE = ComparatorType.LESS_THAN, ComparatorType.LESS_EQUAL


def one(name, value, comparator, **options):
    return SingleColumnCondition(name, value, comparator, **options)


def many(operator, *parts):
    found = CompositeColumnCondition(operator)
    for part in parts:
        found.add_sub_condition(part)
    return found


CASES = [
    (comparator, value, holds)
    for comparator, holds_of in [
        (EQ, lambda c: c == 0), (NE, lambda c: c != 0), (GT, lambda c: c > 0),
        (GE, lambda c: c >= 0), (LT, lambda c: c < 0), (LE, lambda c: c <= 0),
    ]
    for value, holds in [(4, holds_of(1)), (5, holds_of(0)), (6, holds_of(-1))]
]


@pytest.mark.parametrize("comparator, value, holds", CASES)
def test_each_comparator_as_filter_and_as_condition(client, table, comparator, value, holds):
    put(client, table, columns=[("v", 5)])
    condition = one("v", value, comparator)
    assert (get(client, table, column_filter=condition) is not None) == holds
    if holds:
        put(client, table, columns=[("w", 1)], condition=Condition("IGNORE", condition))
        assert read(client, table) == {"w": 1}
    else:
        with refused(*CHECK_FAILED):
            put(client, table, columns=[("w", 1)], condition=Condition("IGNORE", condition))
        assert read(client, table) == {"v": 5}


@pytest.mark.parametrize("low, high", [
    (-1, 1), (-1.5, 2.5), ("a", "b"), ("", "a"), ("Z", "a"), (False, True),
    (bytearray(b"\x00"), bytearray(b"\xff")), ("a", "aa"),
], ids=repr)
def test_values_of_each_type_have_their_order(client, table, low, high):
    put(client, table, columns=[("v", low)])
    assert get(client, table, column_filter=one("v", high, LT)) is not None
    assert get(client, table, column_filter=one("v", high, GE)) is None
    assert get(client, table, column_filter=one("v", low, EQ)) is not None


def test_values_of_different_types_are_never_equal(client, table):
    put(client, table, columns=[("v", 1)])
    for other in (1.0, "1", True, bytearray(b"1")):
        assert get(client, table, column_filter=one("v", other, EQ)) is None


@pytest.mark.parametrize("passes", [True, False])
def test_a_missing_column_passes_only_where_told(client, table, passes):
    put(client, table, columns=[("v", 1)])
    condition = one("nothere", 1, EQ, pass_if_missing=passes)
    assert (get(client, table, column_filter=condition) is not None) == passes
    wanted = Condition("EXPECT_EXIST", condition)
    if passes:
        update(client, table, changes={"PUT": [("w", 1)]}, condition=wanted)
    else:
        with refused(*CHECK_FAILED):
            update(client, table, changes={"PUT": [("w", 1)]}, condition=wanted)


def test_a_condition_on_a_missing_row_sees_missing_columns(client, table):
    with refused(*CHECK_FAILED):
        put(client, table, condition=Condition("IGNORE", one("v", 1, EQ, pass_if_missing=False)))
    put(client, table, condition=Condition("IGNORE", one("v", 1, EQ, pass_if_missing=True)))
    assert get(client, table) is not None


def test_a_condition_guards_a_delete(client, table):
    put(client, table, columns=[("v", 1)])
    with refused(*CHECK_FAILED):
        client.delete_row(table, tablestore.Row(key()), Condition("IGNORE", one("v", 2, EQ)))
    client.delete_row(table, tablestore.Row(key()), Condition("EXPECT_EXIST", one("v", 1, EQ)))
    assert get(client, table) is None


def test_compare_and_set_counts_up(client, table):
    put(client, table, columns=[("v", 0)])
    for number in range(10):
        guard = Condition("EXPECT_EXIST", one("v", number, EQ, pass_if_missing=False))
        update(client, table, changes={"PUT": [("v", number + 1)]}, condition=guard)
        with refused(*CHECK_FAILED):
            update(client, table, changes={"PUT": [("v", -1)]}, condition=guard)
    assert read(client, table) == {"v": 10}


@pytest.mark.parametrize("a, b", list(itertools.product([True, False], repeat=2)))
def test_and_or_not(client, table, a, b):
    put(client, table, columns=[("a", int(a)), ("b", int(b))])
    first, second = one("a", 1, EQ), one("b", 1, EQ)

    def passes(condition):
        return get(client, table, column_filter=condition) is not None

    assert passes(many(LogicalOperator.AND, first, second)) == (a and b)
    assert passes(many(LogicalOperator.OR, first, second)) == (a or b)
    assert passes(many(LogicalOperator.NOT, first)) == (not a)
    nested = many(LogicalOperator.NOT, many(LogicalOperator.AND, first, second))
    assert passes(many(LogicalOperator.OR, nested, first)) == ((not (a and b)) or a)


def test_a_filter_of_32_nodes_is_accepted_and_of_33_refused(client, table):
    put(client, table, columns=[("v", 1)])

    def wide(count):
        return many(LogicalOperator.AND, *[one("v", 1, EQ) for _ in range(count - 1)])

    assert get(client, table, column_filter=wide(32)) is not None
    with invalid("The count of filter exceeds the max: 32."):
        get(client, table, column_filter=wide(33))
    with invalid("The count of filter exceeds the max: 32."):
        put(client, table, condition=Condition("IGNORE", wide(33)))


def test_composites_with_a_wrong_number_of_parts_are_refused(client, table):
    part = one("v", 1, EQ)
    with invalid("Invalid NOT operator: the number of sub-filters must be 1."):
        get(client, table, column_filter=many(LogicalOperator.NOT, part, part))
    for operator in (LogicalOperator.AND, LogicalOperator.OR):
        with invalid("Invalid AND/OR operator: the number of sub-filters must be more than 1."):
            get(client, table, column_filter=many(operator, part))
    with invalid():
        get(client, table, column_filter=many(LogicalOperator.NOT))


def test_latest_version_only_looks_at_the_newest(client, versions_table):
    now = int(time.time() * 1000)
    put(client, versions_table, columns=[("v", 1, now - 2000), ("v", 2, now - 1000)])
    newest = one("v", 1, EQ, latest_version_only=True)
    every = one("v", 1, EQ, latest_version_only=False)
    assert get(client, versions_table, column_filter=newest, max_version=5) is None
    assert get(client, versions_table, column_filter=every, max_version=5) is not None


def test_a_filter_sees_only_the_columns_asked_for(client, table):
    put(client, table, columns=[("a", 1), ("b", 2)])
    hidden = one("b", 2, EQ, pass_if_missing=False)
    assert get(client, table, columns_to_get=["a"], column_filter=hidden) is None
    assert get(client, table, columns_to_get=["a", "b"], column_filter=hidden) is not None


@pytest.mark.parametrize("text, cast, value, comparator, holds", [
    ("t1=10,", CastType.VT_INTEGER, 10, EQ, True),
    ("t1=10,", CastType.VT_INTEGER, 9, GT, True),
    ("t1=10,", CastType.VT_INTEGER, 11, GE, False),
    ("t1=2.5,", CastType.VT_DOUBLE, 2.5, EQ, True),
    ("t1=abc,", CastType.VT_STRING, "abc", EQ, True),
    ("t1=abc,", CastType.VT_STRING, "abd", EQ, False),
    ("other", CastType.VT_INTEGER, 10, EQ, False),
    ("t1=abc,", CastType.VT_INTEGER, 10, EQ, False),
])
def test_a_part_of_a_text_is_compared(client, table, text, cast, value, comparator, holds):
    put(client, table, columns=[("v", text)])
    condition = SingleColumnRegexCondition("v", comparator, value, RegexRule("t1=([^,]+),", cast))
    assert (get(client, table, column_filter=condition) is not None) == holds


def test_a_rule_that_is_no_regular_expression_is_refused(client, table):
    put(client, table, columns=[("v", "x")])
    broken = SingleColumnRegexCondition("v", EQ, "x", RegexRule("((", CastType.VT_STRING))
    with invalid():
        get(client, table, column_filter=broken)


def test_filters_on_existence_of_a_column(client, table):
    put(client, table, columns=[("v", 1)])
    exists = SingleColumnRegexCondition("v", ComparatorType.EXIST)
    absent = SingleColumnRegexCondition("v", ComparatorType.NOT_EXIST)
    assert get(client, table, column_filter=exists) is not None
    assert get(client, table, column_filter=absent) is None


def test_a_filter_drops_rows_of_a_range_but_not_the_page(client, table):
    for number in range(20):
        put(client, table, n=number, columns=[("even", number % 2 == 0), ("n1", number)])
    _, _, rows, _ = client.get_range(
        table, "FORWARD", [("p", "a"), ("n", tablestore.INF_MIN)],
        [("p", "a"), ("n", tablestore.INF_MAX)], column_filter=one("even", True, EQ),
    )
    assert [cells(row)["n1"] for row in rows] == list(range(0, 20, 2))
