"""CreateTable, ListTable, DescribeTable, UpdateTable, DeleteTable through the Python SDK."""

import pytest
import tablestore
import wire
from steps import invalid, put, read, refused, update

NONE = tablestore.ReservedThroughput(tablestore.CapacityUnit(0, 0))


def create(client, name, key, defined=None, **options):
    client.create_table(
        tablestore.TableMeta(name, key, defined), tablestore.TableOptions(**options), NONE
    )


def test_created_table_is_listed_until_it_is_deleted(client, make_table):
    name = make_table()
    assert name in client.list_table()
    client.delete_table(name)
    assert name not in client.list_table()


def test_describe_answers_what_create_was_given(client, make_table):
    name = make_table(
        key=[("a", "STRING"), ("b", "INTEGER"), ("c", "BINARY"), ("d", "INTEGER")],
        defined=[("x", "INTEGER"), ("y", "DOUBLE"), ("z", "BOOLEAN"), ("s", "STRING"),
                 ("w", "BINARY")],
        time_to_live=864000, max_version=7, max_time_deviation=3600,
    )
    found = client.describe_table(name)
    assert found.table_meta.table_name == name
    assert [tuple(one) for one in found.table_meta.schema_of_primary_key] == [
        ("a", "STRING"), ("b", "INTEGER"), ("c", "BINARY"), ("d", "INTEGER")
    ]
    assert [tuple(one) for one in found.table_meta.defined_columns] == [
        ("x", "INTEGER"), ("y", "DOUBLE"), ("z", "BOOLEAN"), ("s", "STRING"), ("w", "BINARY")
    ]
    assert found.table_options.time_to_live == 864000
    assert found.table_options.max_version == 7
    assert found.table_options.max_time_deviation == 3600
    assert found.reserved_throughput_details.capacity_unit.read == 0
    assert found.reserved_throughput_details.capacity_unit.write == 0
    assert found.secondary_indexes == []


def test_table_for_ever_has_time_to_live_minus_one(client, table):
    options = client.describe_table(table).table_options
    assert (options.time_to_live, options.max_version) == (-1, 1)
    assert options.allow_update is True


def test_second_create_of_a_name_is_refused(client, table):
    with refused("OTSObjectAlreadyExist", "Requested table already exists.", 409):
        create(client, table, [("p", "STRING")])


def test_table_names_differ_by_case(client, make_table):
    name = make_table()
    other = name.upper()
    create(client, other, [("p", "STRING")])
    assert {name, other} <= set(client.list_table())
    client.delete_table(other)


def test_a_deleted_table_made_again_is_empty(client, table):
    put(client, table, columns=[("v", 1)])
    client.delete_table(table)
    create(client, table, [("p", "STRING"), ("n", "INTEGER")])
    assert read(client, table) is None


@pytest.mark.parametrize("call", [
    lambda client: client.describe_table("nothere"),
    lambda client: client.delete_table("nothere"),
    lambda client: client.update_table("nothere", tablestore.TableOptions(-1, 2)),
    lambda client: client.get_row("nothere", [("p", "x")]),
    lambda client: client.put_row("nothere", tablestore.Row([("p", "x")], [("v", 1)])),
    lambda client: client.get_range(
        "nothere", "FORWARD", [("p", tablestore.INF_MIN)], [("p", tablestore.INF_MAX)]),
], ids=["describe", "delete", "update", "get", "put", "range"])
def test_a_missing_table_is_named_so(client, call):
    with refused("OTSObjectNotExist", "Requested table does not exist.", 404):
        call(client)


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", "ä", "a" * 256, "a.b", "../x"])
def test_bad_table_names_are_refused(client, name):
    with invalid(f"Invalid table name: '{name}'."):
        create(client, name, [("p", "STRING")])


@pytest.mark.parametrize("name", ["_", "A_9", "a" * 255])
def test_edge_table_names_are_accepted(client, name):
    create(client, name, [("p", "STRING")])
    assert name in client.list_table()
    client.delete_table(name)


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a" * 256])
def test_bad_key_column_names_are_refused(client, name):
    with invalid(f"Invalid column name: '{name}'."):
        create(client, "bad", [(name, "STRING")])


@pytest.mark.parametrize("count", [0, 5])
def test_key_columns_are_one_to_four(client, count):
    with invalid("The number of primary key columns must be in range: [1, 4]."):
        create(client, "bad", [(f"k{i}", "STRING") for i in range(count)])


def test_a_key_column_name_given_twice_is_refused(client):
    with invalid("Duplicated primary key name: 'p'."):
        create(client, "bad", [("p", "STRING"), ("p", "INTEGER")])


def test_a_boolean_key_column_is_refused(client):
    with invalid(lambda text: "is an invalid type for the primary key." in text):
        create(client, "bad", [("p", "BOOLEAN")])


@pytest.mark.parametrize("options", [
    {"max_version": 0}, {"max_version": -1}, {"time_to_live": 0}, {"time_to_live": -2},
    {"max_time_deviation": 0}, {"max_time_deviation": -1},
])
def test_options_out_of_range_are_refused(client, options):
    with invalid():
        create(client, "bad", [("p", "STRING")], **options)


def test_the_auto_increment_column_is_an_integer_and_not_the_first(client):
    auto = tablestore.PK_AUTO_INCR
    with invalid():
        create(client, "bad", [("p", "INTEGER", auto)])
    with invalid():
        create(client, "bad", [("p", "STRING"), ("q", "STRING", auto)])
    with invalid():
        create(client, "bad", [("p", "STRING"), ("q", "INTEGER", auto), ("r", "INTEGER", auto)])


def test_more_than_32_defined_columns_are_refused(client):
    with invalid():
        create(client, "bad", [("p", "STRING")], [(f"c{i}", "STRING") for i in range(33)])


def test_update_changes_only_what_it_names(client, make_table):
    name = make_table(time_to_live=864000, max_version=2, max_time_deviation=7200)
    answer = client.update_table(name, tablestore.TableOptions(None, 9, None))
    assert answer.table_options.max_version == 9
    assert answer.table_options.time_to_live == 864000
    assert answer.table_options.max_time_deviation == 7200
    found = client.describe_table(name).table_options
    assert (found.time_to_live, found.max_version, found.max_time_deviation) == (864000, 9, 7200)


def test_update_of_nothing_is_refused(client, table):
    with invalid():
        client.update_table(table)


def test_update_out_of_range_is_refused_and_changes_nothing(client, table):
    with invalid():
        client.update_table(table, tablestore.TableOptions(-1, 0, 86400))
    assert client.describe_table(table).table_options.max_version == 1


def test_a_table_may_forbid_update_row(client, table):
    put(client, table, columns=[("v", 1)])
    client.update_table(table, tablestore.TableOptions(-1, 1, 86400, False))
    assert client.describe_table(table).table_options.allow_update is False
    with invalid():
        update(client, table, changes={"PUT": [("v", 2)]})
    assert read(client, table) == {"v": 1}
    put(client, table, columns=[("v", 3)])
    client.update_table(table, tablestore.TableOptions(-1, 1, 86400, True))
    update(client, table, changes={"PUT": [("v", 4)]})
    assert read(client, table) == {"v": 4}


def test_a_table_made_split_in_advance_reads_as_one(client):
    client._create_table_ex(
        tablestore.TableMeta("split", [("n", "INTEGER")]), tablestore.TableOptions(), NONE,
        split_points=[10, 20, 30],
    )
    try:
        for n in (5, 15, 25, 35):
            client.put_row("split", tablestore.Row([("n", n)], [("v", n)]))
        _, _, rows, _ = client.get_range(
            "split", "FORWARD", [("n", tablestore.INF_MIN)], [("n", tablestore.INF_MAX)],
        )
        assert [row.primary_key[0][1] for row in rows] == [5, 15, 25, 35]
    finally:
        client.delete_table("split")


def test_the_table_quota_is_told(client):
    if len(client.list_table()) > 60:
        pytest.skip("the server under test holds tables of others")
    made = []
    try:
        with refused("OTSQuotaExhausted", "Number of tables exceeds the quota:64.", 403):
            for number in range(65):
                create(client, f"quota_{number}", [("p", "STRING")])
                made.append(f"quota_{number}")
    finally:
        for name in made:
            client.delete_table(name)


def test_list_search_index_is_empty(client, table):
    assert list(client.list_search_index(table)) == []
    assert list(client.list_search_index()) == []


@pytest.mark.parametrize("name, call", [
    ("Search", lambda client, table: client.search(
        table, "i", tablestore.SearchQuery(tablestore.MatchAllQuery()))),
    ("SQLQuery", lambda client, table: client.exe_sql_query("select 1")),
    ("CreateIndex", lambda client, table: client.create_secondary_index(
        table, tablestore.SecondaryIndexMeta("i", ["n"], []), False)),
    ("DropIndex", lambda client, table: client.delete_secondary_index(table, "i")),
    ("StartLocalTransaction", lambda client, table: client.start_local_transaction(
        table, [("p", "a")])),
    ("ComputeSplits", lambda client, table: client.compute_splits(table, "i")),
    ("DescribeSearchIndex", lambda client, table: client.describe_search_index(table, "i")),
    ("DeleteSearchIndex", lambda client, table: client.delete_search_index(table, "i")),
    ("ListTimeseriesTable", lambda client, table: client.list_timeseries_table()),
], ids=lambda one: one if isinstance(one, str) else "")
def test_operations_not_built_are_refused_as_unsupported(client, table, name, call):
    with invalid(f"Unsupported operation: '{name}'."):
        call(client, table)


def test_defined_columns_are_added_and_deleted(client, plain, make_table):
    name = make_table(defined=[("x", "INTEGER")])
    plain.add_defined_column(name, [("y", 2), ("z", 4)])
    plain.delete_defined_column(name, ["x"])
    found = client.describe_table(name).table_meta.defined_columns
    assert [tuple(one) for one in found] == [("y", "DOUBLE"), ("z", "STRING")]


@pytest.mark.parametrize("columns", [[("y", 1)], [("pk", 1)], [("n", 1), ("n", 2)], []])
def test_defined_columns_that_cannot_be_are_refused(client, plain, make_table, columns):
    name = make_table(key=[("pk", "STRING")], defined=[("y", "INTEGER")])
    with pytest.raises(wire.Refused):
        plain.add_defined_column(name, columns)
    with pytest.raises(wire.Refused):
        plain.delete_defined_column(name, ["not_there"])
    found = client.describe_table(name).table_meta.defined_columns
    assert [tuple(one) for one in found] == [("y", "INTEGER")]
