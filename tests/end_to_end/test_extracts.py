"""Replicas that take less than all of a table, while it is written: what they hold is what the
filter, the range and the columns leave of the base's rows, also after crashes."""

import json
import random
import time

import cluster
import ledger
import pytest
import verifying
import wire
from sizes import number

SECONDS = number("EXTRACT_SECONDS", 2)
ROWS = number("EXTRACT_ROWS", 400)
TABLE = "orders"


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """One table in r1, and regions that can be bound."""
    with cluster.Cluster(regions=4, folder=tmp_path_factory.mktemp("extracts")) as running:
        client = running.regions[0].client()
        client.create_table(TABLE, ledger.KEY)
        for place in range(ROWS):
            client.put_row(TABLE, key(place), [("v", place), ("text", f"row {place}")])
        client.close()
        running.run("global-table", "create", TABLE, "--regions", "r1,r2",
                    "--serve", "primary-secondary")
        yield running


def key(place):
    return [("w", f"w{place % 10}"), ("k", place)]


def rows(region):
    """{key: {column: value}} of a region's table; nothing where it cannot be read."""
    client = region.client()
    try:
        return {tuple(value for _, value in found): dict(cell[:2] for cell in cells)
                for found, cells in client.scan(TABLE, ledger.KEY_NAMES)}
    except (wire.Refused, wire.Unknown):
        return None
    finally:
        client.close()


def churn(running, seconds, chance):
    """Puts, updates and deletes rows of the base for a while."""
    client, limit = running.regions[0].client(), time.monotonic() + seconds
    while time.monotonic() < limit:
        place = chance.randrange(ROWS)
        match chance.randrange(4):
            case 0:
                client.delete_row(TABLE, key(place))
            case 1:
                client.put_row(TABLE, key(place), [("v", chance.randrange(ROWS))])
            case _:
                cells = [("v", chance.randrange(ROWS)), ("text", f"now {place}")]
                client.update_row(TABLE, key(place), cells)
    client.close()


def await_equal(running, region, expected):
    """Waits until a region shows what `expected` makes of the base's rows."""
    base = running.regions[0]

    def holds():
        return rows(region) == expected(rows(base))

    try:
        cluster.wait_until(holds, f"{region.name} has its part", 30, pause=0.3)
    except TimeoutError:
        have, want = rows(region), expected(rows(base))
        assert have == want


def bind(running, *arguments):
    running.run("global-table", "bind", TABLE, *arguments)


def unbind(running, name):
    running.run("global-table", "unbind", TABLE, "--regions", name)
    client = running.region(name).client()
    client.delete_table(TABLE)
    client.close()


def test_a_filter_a_range_and_columns_leave_the_rest_out(four):
    chance = random.Random(7)
    rule = {"and": [{"column": {"name": "v", "is": ">=", "value": ROWS // 2}},
                    {"not": {"column": {"name": "k", "is": "=", "value": 3}}}]}
    bind(four, "--regions", "r3", "--filter", json.dumps(rule))
    bind(four, "--regions", "r4", "--columns", "v", "--range-from", '["w2"]',
         "--range-to", '["w7", 100]')

    def passing(all_rows):
        return {found: cells for found, cells in all_rows.items()
                if cells.get("v", -1) >= ROWS // 2 and found[1] != 3}

    def in_range(all_rows):
        return {found: {"v": cells["v"]} for found, cells in all_rows.items()
                if ("w2",) <= found and found < ("w7", 100)}

    filtered, ranged = four.region("r3"), four.region("r4")
    await_equal(four, filtered, passing)
    await_equal(four, ranged, in_range)
    assert 0 < len(rows(filtered)) < ROWS and 0 < len(rows(ranged)) < ROWS
    churn(four, SECONDS, chance)
    filtered.kill()
    churn(four, SECONDS, chance)
    filtered.start()
    churn(four, SECONDS, chance)
    await_equal(four, filtered, passing)
    await_equal(four, ranged, in_range)
    await_equal(four, four.region("r2"), lambda all_rows: all_rows)
    told = json.loads(four.run("global-table", "describe", TABLE, "--json").stdout)
    assert told["extracts"]["r3"]["filter"] == rule
    assert told["extracts"]["r4"]["columns"] == ["v"]
    # What it holds cannot be compared, and that is said.
    for regions in ("r1,r3", "r4,r2"):
        done = four.run("verify", TABLE, "--regions", regions, check=False)
        assert done.returncode == verifying.COULD_NOT_TELL and "only a part" in (
            done.stdout + done.stderr)
    verifying.verify(four, TABLE, regions="r1,r2", expect=verifying.ALIKE)
    unbind(four, "r3")
    unbind(four, "r4")


def test_once_and_from_now_on(four):
    chance = random.Random(8)
    before = rows(four.regions[0])
    bind(four, "--regions", "r3", "--copy", "full")
    bind(four, "--regions", "r4", "--copy", "incremental")
    once, later = four.region("r3"), four.region("r4")
    cluster.wait_until(lambda: rows(once) == before, "r3 has what was there", 30)
    cluster.wait_until(lambda: rows(later) == {}, "r4 begins with nothing", 30)
    client = four.regions[0].client()
    client.put_row(TABLE, [("w", "new"), ("k", 1)], [("v", 1)])
    client.close()
    cluster.wait_until(lambda: list(rows(later)) == [("new", 1)], "r4 takes what comes", 30)
    later.kill()
    churn(four, SECONDS, chance)
    later.start()

    def written_since(all_rows):
        return {found: cells for found, cells in all_rows.items() if cells != before.get(found)}

    def has_what_came():
        have, want = rows(later), written_since(rows(four.regions[0]))
        return have is not None and all(
            cells.items() <= want[found].items() if found in want else True
            for found, cells in have.items()) and set(want) <= set(have)

    cluster.wait_until(has_what_came, "r4 has what came while it was away", 30)
    assert rows(once) == before, "what was copied once stays as it was"
    unbind(four, "r3")
    unbind(four, "r4")


def test_the_progress_of_a_part_is_that_of_the_keys_that_are_looked_at(four):
    away = four.region("r4")
    away.kill()
    bind(four, "--regions", "r4", "--filter",
         json.dumps({"column": {"name": "v", "is": "<", "value": ROWS // 4}}),
         "--range-from", '["w0"]', "--range-to", '["w5"]', "--no-wait")
    ends = ["--table", TABLE, "--from", "r1", "--to", "r4"]
    # Half a minute or so, however many rows are taken of those that are looked at.
    four.run("link", "set", *ends, "--bytes-per-second", ROWS, "--copy-cpu-percent", 100)
    away.start()

    def copy():
        told = json.loads(four.run("link", "list", "--table", TABLE, "--json").stdout)["links"]
        one = next(link for link in told if link["to"] == "r4")
        copying = one["state"] == "copying" and one.get("copy") or {}
        return copying.get("rows_done") and copying

    within = len([found for found in rows(four.regions[0]) if "w0" <= found[0] < "w5"])
    told = cluster.wait_until(copy, "a part of it is copied", 60, 0.1)
    # Of leaves at the ends of the range a part lies outside.
    assert abs(told["rows_total"] - within) < 70 and told["rows_done"] <= told["rows_total"], told
    four.run("link", "set", *ends, "--bytes-per-second", 0)
    await_equal(four, away, lambda all_rows: {
        found: cells for found, cells in all_rows.items()
        if "w0" <= found[0] < "w5" and cells.get("v", -1) < ROWS // 4})
    unbind(four, "r4")


def test_what_makes_no_sense_is_refused(four):
    before = four.run("global-table", "describe", TABLE, "--json").stdout
    for words in (
        ["--filter", "{"],
        ["--filter", '{"column":{"name":"v","is":"~","value":1}}'],
        ["--filter", '{"column":{"name":"v","is":"="}}'],
        ["--range-from", '["b"]', "--range-to", '["a"]'],
        ["--range-from", "[1.5]"],
        ["--columns", "v,v"],
        ["--copy", "sometimes"],
    ):
        done = four.run("global-table", "bind", TABLE, "--regions", "r4", *words, check=False)
        assert done.returncode != 0 and done.stderr, words
    unknown = four.run("global-table", "bind", TABLE, "--regions", "r9", "--copy", "full",
                       check=False)
    assert unknown.returncode != 0
    assert json.loads(four.run("global-table", "describe", TABLE, "--json").stdout)[
        "replicas"][1]["region"] == json.loads(before)["replicas"][1]["region"]
