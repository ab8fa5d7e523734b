"""Versions, timestamps, time ranges, time to live."""

import time

import pytest
import tablestore
from steps import cells, get, invalid, key, put, read, update


def versions(client, table, **options):
    """[(name, value, timestamp)]"""
    row = get(client, table, **options)
    return None if row is None else [tuple(cell) for cell in row.attribute_columns]


@pytest.fixture
def now():
    return int(time.time() * 1000)


def test_versions_come_newest_first(client, versions_table, now):
    for step in (3, 1, 2):
        update(client, versions_table, changes={"PUT": [("v", step, now + step)]})
    assert versions(client, versions_table, max_version=5) == [
        ("v", 3, now + 3), ("v", 2, now + 2), ("v", 1, now + 1)
    ]
    assert versions(client, versions_table, max_version=2) == [
        ("v", 3, now + 3), ("v", 2, now + 2)
    ]
    assert versions(client, versions_table, max_version=1) == [("v", 3, now + 3)]


def test_a_table_keeps_its_max_versions(client, versions_table, now):
    for step in range(8):
        update(client, versions_table, changes={"PUT": [("v", step, now + step)]})
    found = versions(client, versions_table, max_version=100)
    assert [value for _, value, _ in found] == [7, 6, 5, 4, 3]


def test_the_same_timestamp_overwrites(client, versions_table, now):
    update(client, versions_table, changes={"PUT": [("v", "old", now)]})
    update(client, versions_table, changes={"PUT": [("v", "new", now)]})
    assert versions(client, versions_table, max_version=5) == [("v", "new", now)]


def test_with_one_version_the_newest_timestamp_stays(client, table, now):
    update(client, table, changes={"PUT": [("v", "new", now + 10)]})
    update(client, table, changes={"PUT": [("v", "old", now)]})
    assert read(client, table) == {"v": "new"}


def test_several_versions_in_one_put(client, versions_table, now):
    put(client, versions_table, columns=[("v", 1, now), ("v", 2, now + 1), ("w", 3, now)])
    assert versions(client, versions_table, max_version=5) == [
        ("v", 2, now + 1), ("v", 1, now), ("w", 3, now)
    ]


def test_a_put_removes_all_versions_of_before(client, versions_table, now):
    put(client, versions_table, columns=[("v", 1, now), ("v", 2, now + 1)])
    put(client, versions_table, columns=[("v", 3, now - 5)])
    assert versions(client, versions_table, max_version=5) == [("v", 3, now - 5)]


def test_one_version_is_deleted_by_its_timestamp(client, versions_table, now):
    put(client, versions_table, columns=[("v", 1, now), ("v", 2, now + 1), ("v", 3, now + 2)])
    update(client, versions_table, changes={"DELETE": [("v", None, now + 1)]})
    assert [value for _, value, _ in versions(client, versions_table, max_version=5)] == [3, 1]
    update(client, versions_table, changes={"DELETE": [("v", None, now + 77)]})
    assert [value for _, value, _ in versions(client, versions_table, max_version=5)] == [3, 1]


def test_all_versions_are_deleted_by_name(client, versions_table, now):
    put(client, versions_table, columns=[("v", 1, now), ("v", 2, now + 1), ("w", 3, now)])
    update(client, versions_table, changes={"DELETE_ALL": ["v"]})
    assert versions(client, versions_table, max_version=5) == [("w", 3, now)]


def test_a_time_range_is_half_open(client, versions_table, now):
    put(client, versions_table, columns=[("v", step, now + step) for step in range(5)])

    def values(**options):
        found = versions(client, versions_table, max_version=None, **options)
        return None if found is None else [value for _, value, _ in found]

    assert values(time_range=(now + 1, now + 3)) == [2, 1]
    assert values(time_range=(0, now + 100)) == [4, 3, 2, 1, 0]
    assert values(time_range=now + 2) == [2]
    assert values(time_range=(now + 100, now + 200)) is None


def test_time_range_and_max_versions_apply_both(client, versions_table, now):
    put(client, versions_table, columns=[("v", step, now + step) for step in range(5)])
    row = get(client, versions_table, max_version=2, time_range=(now, now + 4))
    assert [cell[1] for cell in row.attribute_columns] == [3, 2]


@pytest.mark.parametrize("time_range", [
    (5, 4), (-1, 5), (0, 2**63 - 1), -1, (2**63 - 1) // 1000,
], ids=repr)
def test_bad_time_ranges_are_refused(client, table, time_range):
    put(client, table, columns=[("v", 1)])
    with invalid():
        get(client, table, max_version=None, time_range=time_range)


@pytest.mark.parametrize("count", [0, -1])
def test_max_versions_of_a_read_is_at_least_one(client, table, count):
    with invalid():
        get(client, table, max_version=count)


def test_a_read_without_versions_is_refused(client, table):
    with invalid("No version condition is specified while querying row."):
        get(client, table, max_version=None)


@pytest.mark.parametrize("stamp", [-1, (2**63 - 1) // 1000, 2**63 - 1])
def test_timestamps_out_of_range_are_refused(client, table, stamp):
    with invalid("Timestamp must be in range [0, INT64_MAX/1000)."):
        put(client, table, columns=[("v", 1, stamp)])
    assert get(client, table) is None


@pytest.mark.parametrize("seconds", [-90000, 90000])
def test_timestamps_beyond_the_deviation_are_refused(client, table, now, seconds):
    with invalid():
        put(client, table, columns=[("v", 1, now + seconds * 1000)])
    assert get(client, table) is None


def test_a_wider_deviation_takes_old_timestamps(client, make_table, now):
    name = make_table(max_time_deviation=10 * 365 * 86400)
    old = now - 9 * 365 * 86400 * 1000
    put(client, name, columns=[("v", 1, old)])
    assert versions(client, name) == [("v", 1, old)]


def test_cells_older_than_the_time_to_live_are_refused(client, make_table, now):
    name = make_table(time_to_live=86400, max_time_deviation=10 * 86400)
    with invalid():
        put(client, name, columns=[("v", 1, now - 2 * 86400 * 1000)])


def test_a_shorter_time_to_live_hides_old_cells(client, make_table, now):
    name = make_table(time_to_live=10 * 86400, max_time_deviation=10 * 86400, max_version=5)
    old = now - 3 * 86400 * 1000
    put(client, name, n=1, columns=[("v", "old", old), ("v", "new", now)])
    put(client, name, n=2, columns=[("v", "old", old)])
    client.update_table(name, tablestore.TableOptions(86400, None, None))
    assert versions(client, name, n=1, max_version=5) == [("v", "new", now)]
    # The row was put a moment ago, so its key outlives the cell.
    assert get(client, name, n=2).attribute_columns == []


def test_fewer_max_versions_hide_older_versions(client, versions_table, now):
    put(client, versions_table, columns=[("v", step, now + step) for step in range(5)])
    client.update_table(versions_table, tablestore.TableOptions(None, 2, None))
    found = versions(client, versions_table, max_version=5)
    assert [value for _, value, _ in found] == [4, 3]


def test_an_increment_makes_the_newest_version(client, versions_table):
    put(client, versions_table, columns=[("v", 1)])
    update(client, versions_table, changes={"INCREMENT": [("v", 2)]})
    assert cells(get(client, versions_table, max_version=1)) == {"v": 3}
