"""GetRow, PutRow, UpdateRow, DeleteRow: values, replacing, deleting, counting."""

import math
import struct
import time

import pytest
import tablestore
import wire
from steps import (
    CHECK_FAILED, EXIST, IGNORE, NOT_EXIST, cells, get, invalid, key, put, read, refused, update,
)

VALUES = [
    0, 1, -1, 2**63 - 1, -(2**63), 0.0, 1.5, -1e308, 5e-324, math.inf, -math.inf, True, False,
    "", "x", "表格存储", "\U0001f680 rocket", "nul\x00inside", "\ufeffbom", bytearray(),
    bytearray(b"\x00\xff\x80"), bytearray(range(256)),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_with_its_type(client, table, value):
    put(client, table, columns=[("v", value)])
    found = get(client, table).attribute_columns
    assert len(found) == 1
    assert found[0][:2] == ("v", value)
    assert type(found[0][1]) is type(value)


@pytest.mark.parametrize("bits", [
    0x7FF8000000000000, 0x7FF8000000000001, 0xFFF8000000000000, 0x7FF0000000000001,
    0x8000000000000000, 0x0000000000000001,
], ids=hex)
def test_doubles_keep_their_bits(table, plain, bits):
    value = struct.unpack("<d", struct.pack("<Q", bits))[0]
    plain.put_row(table, key(), [("v", value)])
    _, found = plain.get_row(table, key())
    assert struct.unpack("<Q", struct.pack("<d", found[0][1]))[0] == bits


def test_bytes_are_sent_as_text_by_this_sdk(client, table):
    put(client, table, columns=[("v", b"text")])
    assert read(client, table) == {"v": "text"}


@pytest.mark.parametrize("kind, values", [
    ("STRING", ["", "a", "ab", "b", "é", "\U0001f680"]),
    ("INTEGER", [-(2**63), -1, 0, 1, 2**63 - 1]),
    ("BINARY", [bytearray(), bytearray(b"\x00"), bytearray(b"\x00\xff"), bytearray(b"\xff")]),
])
def test_key_values_come_back_in_order(client, make_table, kind, values):
    name = make_table(key=[("k", kind)])
    for value in reversed(values):
        client.put_row(name, tablestore.Row([("k", value)], [("v", 1)]))
    _, _, rows, _ = client.get_range(
        name, "FORWARD", [("k", tablestore.INF_MIN)], [("k", tablestore.INF_MAX)]
    )
    assert [row.primary_key[0][1] for row in rows] == values
    for value in values:
        assert client.get_row(name, [("k", value)])[1].primary_key == [("k", value)]


def test_four_key_columns_make_one_row_each(client, make_table):
    name = make_table(
        key=[("a", "STRING"), ("b", "INTEGER"), ("c", "BINARY"), ("d", "STRING")]
    )
    for text in ("x", "y"):
        pk = [("a", "s"), ("b", 1), ("c", bytearray(b"z")), ("d", text)]
        client.put_row(name, tablestore.Row(pk, [("v", text)]))
        assert client.get_row(name, pk)[1].primary_key == pk
    pk = [("a", "s"), ("b", 1), ("c", bytearray(b"z")), ("d", "other")]
    assert client.get_row(name, pk)[1] is None


def test_a_missing_row_is_none(client, table):
    consumed, row, token = client.get_row(table, key())
    assert row is None
    assert not token
    assert (consumed.read, consumed.write) == (1, 0)


def test_put_replaces_the_whole_row(client, table):
    put(client, table, columns=[("a", 1), ("b", 2)])
    put(client, table, columns=[("c", 3)])
    assert read(client, table) == {"c": 3}


def test_a_row_of_only_a_key_exists(client, table):
    put(client, table)
    row = get(client, table)
    assert row.primary_key == key()
    assert row.attribute_columns == []
    with refused(*CHECK_FAILED):
        put(client, table, condition=NOT_EXIST)


def test_columns_come_back_sorted_by_name(client, table):
    put(client, table, columns=[("b", 1), ("a", 2), ("B", 3), ("_", 4), ("c", 5)])
    assert [cell[0] for cell in get(client, table).attribute_columns] == ["B", "_", "a", "b", "c"]


def test_cells_of_one_write_have_one_timestamp_near_now(client, table):
    before = int(time.time() * 1000)
    put(client, table, columns=[("a", 1), ("b", 2), ("c", "x")])
    after = int(time.time() * 1000)
    stamps = {cell[2] for cell in get(client, table).attribute_columns}
    assert len(stamps) == 1
    # A second either way: the server's clock is not the client's.
    assert before - 1000 <= stamps.pop() <= after + 1000


def test_update_merges_into_the_row(client, table):
    put(client, table, columns=[("a", 1), ("b", 2)])
    update(client, table, changes={"PUT": [("b", 3), ("c", 4)]})
    assert read(client, table) == {"a": 1, "b": 3, "c": 4}


def test_update_makes_a_missing_row(client, table):
    update(client, table, changes={"PUT": [("a", 1)]})
    assert read(client, table) == {"a": 1}


def test_update_of_only_deletions_makes_no_row(client, table):
    update(client, table, changes={"DELETE_ALL": ["a"]})
    assert get(client, table) is None


def test_update_deletes_a_column(client, table):
    put(client, table, columns=[("a", 1), ("b", 2)])
    update(client, table, changes={"DELETE_ALL": ["a", "nothere"]})
    assert read(client, table) == {"b": 2}


def test_a_row_whose_last_column_was_deleted_still_exists(client, table):
    put(client, table, columns=[("a", 1)])
    update(client, table, changes={"DELETE_ALL": ["a"]})
    assert get(client, table).primary_key == key()
    update(client, table, changes={"PUT": [("b", 1)]}, condition=EXIST)


def test_one_update_puts_deletes_and_counts(client, table):
    put(client, table, columns=[("gone", 1), ("count", 10), ("stays", "s")])
    update(client, table, changes={
        "PUT": [("new", 1.5)], "DELETE_ALL": ["gone"], "INCREMENT": [("count", 5)],
    })
    assert read(client, table) == {"new": 1.5, "count": 15, "stays": "s"}


def test_update_without_columns_is_refused(client, table):
    with invalid("Attribute column is missing."):
        update(client, table, changes={})


def test_increment_begins_at_zero_and_goes_both_ways(client, table):
    update(client, table, changes={"INCREMENT": [("n1", 7)]})
    update(client, table, changes={"INCREMENT": [("n1", -10)]})
    assert read(client, table) == {"n1": -3}


@pytest.mark.parametrize("value", ["text", 1.5, True, bytearray(b"b")], ids=repr)
def test_increment_of_what_is_no_integer_is_refused(client, table, value):
    put(client, table, columns=[("v", value)])
    with invalid():
        update(client, table, changes={"INCREMENT": [("v", 1)]})
    assert read(client, table) == {"v": value}


def test_increment_beyond_64_bits_is_refused(client, table):
    put(client, table, columns=[("v", 2**63 - 1)])
    with invalid():
        update(client, table, changes={"INCREMENT": [("v", 1)]})
    assert read(client, table) == {"v": 2**63 - 1}


def test_increment_answers_the_new_value_where_asked(client, table, plain):
    put(client, table, columns=[("v", 40), ("other", 1)])
    found = plain.update_row(table, key(), [("v", 2, None, wire.INCREMENT)], returns=["v"])
    assert found[0] == key()
    assert [cell[:2] for cell in found[1]] == [("v", 42)]
    assert found[1][0][2] is not None


def test_delete_removes_the_row(client, table):
    put(client, table, columns=[("a", 1)])
    client.delete_row(table, tablestore.Row(key()), IGNORE)
    assert get(client, table) is None
    client.delete_row(table, tablestore.Row(key()), IGNORE)


def test_a_deleted_row_put_again_has_nothing_of_before(client, versions_table):
    put(client, versions_table, columns=[("a", 1)])
    client.delete_row(versions_table, tablestore.Row(key()), IGNORE)
    put(client, versions_table, columns=[("b", 1)])
    assert read(client, versions_table, max_version=5) == {"b": 1}


def test_the_key_is_returned_where_asked(client, table):
    asked = {"return_type": tablestore.ReturnType.RT_PK}
    _, row = put(client, table, columns=[("a", 1)], **asked)
    assert row.primary_key == key()
    _, row = update(client, table, changes={"PUT": [("a", 2)]}, **asked)
    assert row.primary_key == key()
    _, row = client.delete_row(table, tablestore.Row(key()), IGNORE, **asked)
    assert row.primary_key == key()
    _, row = put(client, table, columns=[("a", 1)])
    assert row is None


def test_row_conditions_on_existence(client, table):
    with refused(*CHECK_FAILED):
        put(client, table, columns=[("a", 1)], condition=EXIST)
    with refused(*CHECK_FAILED):
        update(client, table, changes={"PUT": [("a", 1)]}, condition=EXIST)
    with refused(*CHECK_FAILED):
        client.delete_row(table, tablestore.Row(key()), EXIST)
    assert get(client, table) is None
    put(client, table, columns=[("a", 1)], condition=NOT_EXIST)
    with refused(*CHECK_FAILED):
        put(client, table, columns=[("a", 2)], condition=NOT_EXIST)
    with refused(*CHECK_FAILED):
        update(client, table, changes={"PUT": [("a", 2)]}, condition=NOT_EXIST)
    assert read(client, table) == {"a": 1}
    put(client, table, columns=[("a", 3)], condition=EXIST)
    client.delete_row(table, tablestore.Row(key()), EXIST)
    assert get(client, table) is None


def test_columns_to_get_picks_columns(client, table):
    put(client, table, columns=[("a", 1), ("b", 2), ("c", 3)])
    assert read(client, table, columns_to_get=["c", "a", "nothere"]) == {"a": 1, "c": 3}
    assert get(client, table, columns_to_get=["a"]).primary_key == key()


def test_columns_to_get_of_nothing_the_row_has_gives_no_row(client, table):
    put(client, table, columns=[("a", 1)])
    assert get(client, table, columns_to_get=["nothere"]) is None


def test_a_key_column_may_be_named_in_columns_to_get(client, table):
    put(client, table, columns=[("a", 1)])
    row = get(client, table, columns_to_get=["p"])
    assert row.primary_key == key()
    assert row.attribute_columns == []


def test_start_and_end_column_cut_a_row(client, table):
    put(client, table, columns=[(name, 1) for name in "abcde"])
    row = get(client, table, start_column="b", end_column="d")
    assert list(cells(row)) == ["b", "c"]
    assert list(cells(get(client, table, start_column="d"))) == ["d", "e"]
    assert list(cells(get(client, table, end_column="b"))) == ["a"]


def test_a_wide_row_keeps_all_its_columns(client, table):
    for part in range(3):
        columns = [(f"c{number:05d}", number) for number in range(part * 1000, part * 1000 + 1000)]
        update(client, table, changes={"PUT": columns})
    found = read(client, table)
    assert len(found) == 3000
    assert list(found.items()) == [(f"c{number:05d}", number) for number in range(3000)]


def test_auto_increment_gives_growing_keys(client, make_table):
    name = make_table(key=[("p", "STRING"), ("id", "INTEGER", tablestore.PK_AUTO_INCR)])
    schema = client.describe_table(name).table_meta.schema_of_primary_key
    assert [tuple(one)[:2] for one in schema] == [("p", "STRING"), ("id", "INTEGER")]
    assert len(schema[1]) == 3
    given = []
    for number in range(5):
        row = tablestore.Row([("p", "x"), ("id", tablestore.PK_AUTO_INCR)], [("v", number)])
        _, answer = client.put_row(name, row, IGNORE, tablestore.ReturnType.RT_PK)
        given.append(answer.primary_key[1][1])
    assert given == sorted(set(given))
    for number, value in enumerate(given):
        found = client.get_row(name, [("p", "x"), ("id", value)])[1]
        assert cells(found) == {"v": number}
    existing = tablestore.Row([("p", "x"), ("id", given[0])], {"PUT": [("v", "changed")]})
    client.update_row(name, existing, EXIST)
    assert cells(client.get_row(name, existing.primary_key)[1]) == {"v": "changed"}


def test_a_capacity_unit_is_4_kib_begun(client, table):
    consumed, _ = put(client, table, columns=[("v", "x" * 100)])
    assert (consumed.read, consumed.write) == (0, 1)
    consumed, _ = put(client, table, columns=[("v", "x" * 4096)])
    assert (consumed.read, consumed.write) == (0, 2)
    assert tuple(vars(client.get_row(table, key())[0]).values()) == (2, 0)
    consumed, _ = put(client, table, columns=[("v", "x" * 5000)], condition=EXIST)
    assert (consumed.read, consumed.write) == (1, 2)
    consumed, _ = update(client, table, changes={"PUT": [("w", 1)]})
    assert (consumed.read, consumed.write) == (0, 1)
    consumed, _ = client.delete_row(table, tablestore.Row(key()), EXIST)
    assert (consumed.read, consumed.write) == (1, 1)
    consumed, _ = client.delete_row(table, tablestore.Row(key()), IGNORE)
    assert (consumed.read, consumed.write) == (0, 1)


def test_a_capacity_unit_counts_names_and_values_to_the_byte(client, table):
    # Key: p + "a" + n + 8 = 11 bytes; the column: 1 + what is left of 4096.
    exact = 4096 - 11 - 1
    assert put(client, table, columns=[("v", "x" * exact)])[0].write == 1
    assert put(client, table, columns=[("v", "x" * (exact + 1))])[0].write == 2
