"""Bounds of keys, names, values and counts, with the texts that clients compare."""

import pytest
import tablestore
from steps import cells, get, invalid, key, put, refused, update


@pytest.mark.parametrize("given, message", [
    ([("p", "a")], "Validate PK size fail. Input: 1, Meta: 2."),
    ([("p", "a"), ("n", 1), ("m", 2)], "Validate PK size fail. Input: 3, Meta: 2."),
    ([("q", "a"), ("n", 1)], "Validate PK name fail. Input: q, Meta: p."),
    ([("n", 1), ("p", "a")], "Validate PK name fail. Input: n, Meta: p."),
    ([("p", 1), ("n", 1)], "Validate PK type fail. Input: VT_INTEGER, Meta: VT_STRING."),
    ([("p", "a"), ("n", "b")], "Validate PK type fail. Input: VT_STRING, Meta: VT_INTEGER."),
    ([("p", bytearray(b"a")), ("n", 1)],
     "Validate PK type fail. Input: VT_BLOB, Meta: VT_STRING."),
], ids=repr)
def test_wrong_keys_are_told_apart(client, table, given, message):
    ignore = tablestore.Condition("IGNORE")
    for call in (
        lambda: client.get_row(table, given),
        lambda: client.put_row(table, tablestore.Row(given, [("v", 1)]), ignore),
        lambda: client.update_row(table, tablestore.Row(given, {"PUT": [("v", 1)]}), ignore),
        lambda: client.delete_row(table, tablestore.Row(given), ignore),
    ):
        with refused("OTSInvalidPK", message, 400):
            call()


@pytest.mark.parametrize("count", [0, 5])
def test_keys_of_no_column_or_five_are_refused(client, table, count):
    given = [(f"k{number}", "x") for number in range(count)]
    with invalid("The number of primary key columns must be in range: [1, 4]."):
        client.get_row(table, given)


@pytest.mark.parametrize("bound, name", [
    (tablestore.INF_MIN, "VT_INF_MIN"), (tablestore.INF_MAX, "VT_INF_MAX"),
])
def test_infinity_is_no_key_of_a_row(client, table, bound, name):
    given = [("p", bound), ("n", 1)]
    with invalid(f"{name} is an invalid type for the primary key."):
        client.get_row(table, given)
    with invalid(f"{name} is an invalid type for the primary key."):
        client.put_row(table, tablestore.Row(given, [("v", 1)]), tablestore.Condition("IGNORE"))


def test_key_values_are_at_most_1024_bytes(client, table, make_table):
    put(client, table, p="x" * 1024, columns=[("v", 1)])
    assert get(client, table, p="x" * 1024) is not None
    text = "The length of primary key column: 'p' exceeds the MaxLength:1024 with CurrentLength:"
    with invalid(text + "1025."):
        put(client, table, p="x" * 1025)
    # Bytes are counted, not characters.
    with invalid(text + "1026."):
        put(client, table, p="é" * 513)
    binary = make_table(key=[("p", "BINARY")])
    with invalid(text + "1025."):
        client.put_row(binary, tablestore.Row([("p", bytearray(1025))], []))


@pytest.mark.parametrize("kind", [str, bytearray])
def test_values_are_at_most_2_mib(client, table, kind):
    full = "x" * 2097152 if kind is str else bytearray(2097152)
    over = full + ("x" if kind is str else b"x")
    put(client, table, columns=[("v", full)])
    assert cells(get(client, table))["v"] == full
    text = "The length of attribute column: 'v' exceeds the MaxLength:2097152"
    with invalid(text + " with CurrentLength:2097153."):
        put(client, table, columns=[("v", over)])
    with invalid(text + " with CurrentLength:2097153."):
        update(client, table, changes={"PUT": [("v", over)]})


def test_a_write_has_at_most_1024_columns(client, table):
    put(client, table, columns=[(f"c{number}", number) for number in range(1024)])
    assert len(cells(get(client, table))) == 1024
    text = ("The number of attribute columns exceeds the limit, limit count: 1024,"
            " column count: 1025.")
    with invalid(text):
        put(client, table, columns=[(f"c{number}", number) for number in range(1025)])


def test_a_read_names_at_most_1024_columns(client, table):
    put(client, table, columns=[("c1", 1)])
    get(client, table, columns_to_get=[f"c{number}" for number in range(1024)])
    text = ("The number of columns from the request exceeds the limit, limit count: 1024,"
            " column count: 1025.")
    with invalid(text):
        get(client, table, columns_to_get=[f"c{number}" for number in range(1025)])


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", "a" * 256])
def test_bad_column_names_are_refused(client, table, name):
    with invalid(f"Invalid column name: '{name}'."):
        put(client, table, columns=[(name, 1)])
    with invalid(f"Invalid column name: '{name}'."):
        update(client, table, changes={"PUT": [(name, 1)]})


@pytest.mark.parametrize("name", ["_", "A", "a1_", "a" * 255])
def test_edge_column_names_are_accepted(client, table, name):
    put(client, table, columns=[(name, 1)])
    assert cells(get(client, table)) == {name: 1}


def test_a_write_of_more_than_4_mib_is_refused(client, table):
    columns = [(f"c{number}", "x" * 1024 * 1024) for number in range(4)]
    with pytest.raises(tablestore.OTSServiceError) as caught:
        put(client, table, columns=columns)
    assert caught.value.get_http_status() in (400, 413)
    assert caught.value.get_error_code() in (
        "OTSOutOfRowSizeLimit", "OTSParameterInvalid", "OTSRequestBodyTooLarge"
    )
    assert get(client, table) is None


def test_a_column_named_like_a_key_column_is_refused(client, table):
    with invalid():
        put(client, table, columns=[("p", 1)])
    assert get(client, table) is None


def test_a_defined_column_keeps_its_type_as_key_and_reads_back(client, make_table):
    name = make_table(defined=[("d", "INTEGER")])
    put(client, name, columns=[("d", 5), ("free", "x")])
    assert cells(get(client, name)) == {"d": 5, "free": "x"}
    assert client.get_row(name, key())[1].primary_key == key()
