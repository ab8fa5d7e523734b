"""The main job at full size: load in one region, or in all, and read the same in every region."""

import concurrent.futures
import gc
import itertools
import json
import time

import cluster
import flights
import pytest
import tablestore
from sizes import number

ROWS = number("FLIGHTS_ROWS", 336776)


def told(region):
    credentials = region.cluster.credentials
    return (region.endpoint, credentials.key_id, credentials.secret, credentials.instance)


def make(running, serve):
    client = flights.make_client(told(running.regions[0]))
    client.create_table(
        tablestore.TableMeta("flights", flights.KEY),
        tablestore.TableOptions(-1, 1, 10 * 365 * 86400),
        tablestore.ReservedThroughput(tablestore.CapacityUnit(0, 0)),
    )
    running.make_global("flights", serve)


def await_alike(running, writers):
    clients = [region.client(timeout=60) for region in running.regions]
    cluster.await_alike(
        clients, [clients[running.regions.index(one)] for one in writers], "flights",
        flights.KEY_NAMES, lambda number: ("~marker", "marker", number), seconds=300,
    )
    for client in clients:
        client.close()


def assert_alike(running, expected_rows):
    """Cell by cell, with timestamps, in the same order. Returns the rows without the markers."""
    scans = [flights.scan(told(region), "flights") for region in running.regions]
    found, different, count = {}, [], 0
    # Millions of small objects, none of them in a cycle.
    gc.disable()
    try:
        for answers in itertools.zip_longest(*scans):
            if any(one != answers[0] for one in answers[1:]):
                count += 1
                different = [*different, answers][:3]
            if answers[0] is not None and answers[0][0][0] != "~marker":
                found[answers[0][0]] = answers[0][1]
    finally:
        gc.enable()
    assert count == 0, f"{count} rows differ, the first: {different}"
    if expected_rows is not None:
        assert len(found) == expected_rows
    return found


@pytest.mark.timeout(2400)
def test_flights_loaded_in_one_region_are_the_same_in_all(three):
    make(three, "primary-secondary")
    begun = time.monotonic()
    assert flights.load([told(three.regions[0])], "flights", ROWS) == ROWS
    seconds = time.monotonic() - begun
    await_alike(three, three.regions[:1])
    print(f"loaded {ROWS} rows in {seconds:.1f} s, {ROWS / seconds:.0f} rows/s; "
          f"replicas level after {time.monotonic() - begun - seconds:.2f} s more")
    found = assert_alike(three, ROWS)
    for values, cells in flights.rows(ROWS):
        got = found[values]
        assert [cell[:2] for cell in got] == sorted(cells), values
        assert all(type(g[1]) is type(c[1]) for g, c in zip(got, sorted(cells), strict=True))


@pytest.mark.timeout(2400)
def test_flights_loaded_and_changed_by_all_peers_are_the_same_in_all(three):
    make(three, "peer-to-peer")
    assert flights.load([told(region) for region in three.regions], "flights", ROWS) == ROWS
    await_alike(three, three.regions)
    # Now each region changes rows, most of which another one wrote, all at the same time. What was
    # loaded is told by the rows, most of them, that none changes.
    with flights.pool() as workers:
        parts = [
            workers.submit(change, told(region), index, ROWS)
            for index, region in enumerate(three.regions)
        ]
        counts = [part.result(900) for part in parts]
    await_alike(three, three.regions)
    found = assert_alike(three, None)
    print("changed by each region:", json.dumps(counts))
    check_changes(found)


def change(told_one, index, limit):
    """What one region does to the rows: deletes, counts, overwrites, writes its own timestamps.

    The rows are cut into blocks of 60; the place in a block says what happens to a row, so that
    some rows are changed by one region only (its outcome is then known) and some by all.
    """
    client, counts = flights.make_client(told_one), {}
    ignore = tablestore.Condition("IGNORE")
    old = int(time.time() * 1000) - 365 * 86400 * 1000
    items = []

    def add(kind, item):
        counts[kind] = counts.get(kind, 0) + 1
        items.append(item)

    for place, (values, _) in enumerate(flights.rows(limit)):
        spot, key = place % 60, flights.key(values)
        # Rows that this region alone changes; another region loaded two thirds of them.
        if spot == index:
            add("delete", tablestore.DeleteRowItem(tablestore.Row(key), ignore))
        elif spot == 3 + index:
            cells = [("by", index), ("distance", -1)]
            add("put", tablestore.PutRowItem(tablestore.Row(key, cells), ignore))
        elif spot == 6 + index:
            cells = {"PUT": [("own_time", f"r{index}", old + index)], "DELETE_ALL": ["tailnum"]}
            add("update", tablestore.UpdateRowItem(tablestore.Row(key, cells), ignore))
        elif spot == 9 + index:
            cells = {"INCREMENT": [("distance", 1000)]}
            add("increment", tablestore.UpdateRowItem(tablestore.Row(key, cells), ignore))
        # Rows that all regions change at once: only sameness is promised.
        elif spot == 20:
            cells = {"INCREMENT": [("distance", 1)]}
            add("all-increment", tablestore.UpdateRowItem(tablestore.Row(key, cells), ignore))
        elif spot == 21:
            cells = [("winner", index)]
            add("all-put", tablestore.PutRowItem(tablestore.Row(key, cells), ignore))
        elif spot == 22:
            if index == 0:
                add("all-mixed", tablestore.DeleteRowItem(tablestore.Row(key), ignore))
            else:
                cells = {"PUT": [(f"c{index}", index)], "DELETE_ALL": ["dest"]}
                add("all-mixed", tablestore.UpdateRowItem(tablestore.Row(key, cells), ignore))
        elif spot == 23:
            cells = {"PUT": [("stamped", index, old)]}
            add("all-stamped", tablestore.UpdateRowItem(tablestore.Row(key, cells), ignore))
        if len(items) >= 2000:
            flights.write(client, "flights", items)
            items.clear()
    flights.write(client, "flights", items)
    return counts


def check_changes(found):
    """The rows that one region alone changed must show just that."""
    for place, (values, cells) in enumerate(flights.rows(ROWS)):
        spot, before, row = place % 60, dict(cells), found.get(values)
        after = None if row is None else {name: value for name, value, _ in row}
        if spot < 3:
            assert after is None, values
        elif spot < 6:
            assert after == {"by": spot - 3, "distance": -1}, values
        elif spot < 9:
            before.pop("tailnum", None)
            assert after == {**before, "own_time": f"r{spot - 6}"}, values
        elif spot < 12:
            assert after == {**before, "distance": before["distance"] + 1000}, values
        elif spot == 21:
            assert set(after) == {"winner"}, values
        elif spot == 23:
            assert after.keys() == before.keys() | {"stamped"}, values
        elif spot not in (20, 22):
            assert after == before, values


def test_a_table_with_rows_is_copied_while_writes_go_on(three):
    """Made global after it was filled, and changed while it is copied."""
    limit = min(ROWS, 60000)
    client = flights.make_client(told(three.regions[0]))
    client.create_table(
        tablestore.TableMeta("flights", flights.KEY), tablestore.TableOptions(),
        tablestore.ReservedThroughput(tablestore.CapacityUnit(0, 0)),
    )
    flights.load([told(three.regions[0])], "flights", limit)
    with concurrent.futures.ThreadPoolExecutor(1) as worker:
        made = worker.submit(three.make_global, "flights", "primary-secondary")
        ignore = tablestore.Condition("IGNORE")
        for values, _ in flights.rows(limit)[::50]:
            row = tablestore.Row(flights.key(values), {"PUT": [("during", 1)]})
            client.update_row("flights", row, ignore)
        made.result(120)
    await_alike(three, three.regions[:1])
    assert_alike(three, limit)
