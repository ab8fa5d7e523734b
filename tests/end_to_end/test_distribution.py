"""Tables divided into partitions that regions share: any region serves any key with the official
SDK; a region that joins takes its share under load and nobody notices; one that is lost takes no
reads with it; what is wrong makes nothing."""

import json
import pathlib
import random
import shutil
import threading
import time
import tomllib

import cluster
import pytest
import tablestore
import urllib3
import wire
from sizes import number
from tablestore import INF_MAX, INF_MIN, Direction
from test_failover import await_enrolled, tenure
from test_receipts import WANTED, ask

ROWS = number("SPREAD_ROWS", 400)
LOAD_SECONDS = number("SPREAD_SECONDS", 3)
PARTITIONS = 12
KEY = "u:string,n:integer"
ALL = ([("u", INF_MIN), ("n", INF_MIN)], [("u", INF_MAX), ("n", INF_MAX)])


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distribution")
    with cluster.Cluster(regions=4, folder=folder) as running:
        yield running


def sdk(running, region, **options):
    given = running.credentials
    options = {"socket_timeout": 60, "retry_policy": tablestore.NoRetryPolicy(), **options}
    return tablestore.OTSClient(
        region.endpoint, given.key_id, given.secret, given.instance, **options
    )


def distribute(running, table, *options, check=True, config=None):
    return running.run("distribute", table, *options, check=check, config=config)


def show(running, table, region=None):
    config = region.config if region else None
    return json.loads(running.run("distribution", "show", table, "--json", config=config).stdout)


def await_settled(running, table, seconds=180):
    def holds():
        told = show(running, table)
        found = told["state"] == "active" and told["moving"] == 0 and not told["silent"]
        return told if found else None

    return cluster.wait_until(holds, f"partitions of {table} are where they belong", seconds, 0.5)


def await_routed(running, table, regions=None):
    """Waits until every region serves the table."""
    for region in regions or running.regions:
        client = region.client(timeout=30)

        def serves(client=client):
            try:
                return bool(client.describe_table(table))
            except (wire.Refused, wire.Unknown):
                return False

        cluster.wait_until(serves, f"{region.name} serves {table}", 60)
        client.close()


def key(user, n):
    return [("u", user), ("n", n)]


def put(client, table, user, n, expect="IGNORE", **columns):
    row = tablestore.Row(key(user, n), list(columns.items()))
    client.put_row(table, row, tablestore.Condition(expect))


def value(client, table, user, n, column="v"):
    _, row, _ = client.get_row(table, key(user, n), max_version=1)
    return None if row is None else {c[0]: c[1] for c in row.attribute_columns}.get(column)


def scan(client, table, direction=Direction.FORWARD, limit=37, **options):
    """All rows, page by page: (key, columns)."""
    start, end = ALL if direction == Direction.FORWARD else ALL[::-1]
    found, pages = [], 0
    while start is not None:
        _, start, rows, _ = client.get_range(
            table, direction, start, end, limit=limit, max_version=1, **options
        )
        assert len(rows) <= limit
        pages += 1
        found += [
            (tuple(v for _, v in row.primary_key), {c[0]: c[1] for c in row.attribute_columns})
            for row in rows
        ]
    return found, pages


def filled(running, table, rows=ROWS):
    """Writes rows through all regions in turn, in batches; returns what was written."""
    clients = [sdk(running, region) for region in running.regions]
    written = {}
    for begin in range(0, rows, 50):
        client = clients[begin // 50 % len(clients)]
        batch = [(f"user-{n % 97:03}", n) for n in range(begin, min(begin + 50, rows))]
        items = [
            tablestore.PutRowItem(
                tablestore.Row(key(*one), [("v", one[1]), ("text", f"row {one[1]}")]),
                tablestore.Condition("IGNORE"),
            )
            for one in batch
        ]
        request = tablestore.BatchWriteRowRequest()
        request.add(tablestore.TableInBatchWriteRowItem(table, items))
        answer = client.batch_write_row(request)
        assert answer.is_all_succeed(), [f.error_message for f in answer.get_failed_of_put()]
        written.update({one: one[1] for one in batch})
    return written


def await_everywhere(running, table, expected, regions=None, seconds=90):
    """Waits until every region shows these rows: replicas follow a little later."""
    for region in regions or running.regions:
        client = sdk(running, region)

        def shows(client=client):
            found, _ = scan(client, table, limit=500)
            return {k: c.get("v") for k, c in found} == expected

        cluster.wait_until(shows, f"{region.name} shows all rows of {table}", seconds, 0.5)


def held(told):
    return sum(len(partition["held"]) for partition in told["partitions"])


def test_any_region_serves_any_key(four):
    made = distribute(four, "events", "--key", KEY, "--by", "hash", "--partitions", PARTITIONS,
                      "--replicas", 2, "--regions", "r1,r2,r3", "--seed", 7, "--json")
    assert json.loads(made.stdout)["partitions"] == PARTITIONS
    told = await_settled(four, "events")
    await_routed(four, "events")
    counts = {one["name"]: (one["partitions"], one["written"]) for one in told["regions"]}
    assert counts == {"r1": (8, 4), "r2": (8, 4), "r3": (8, 4)}
    clients = [sdk(four, region) for region in four.regions]
    for place, client in enumerate(clients):
        user = f"single-{place}"
        put(client, "events", user, 1, v=place)
        with pytest.raises(tablestore.OTSServiceError) as refused:
            put(client, "events", user, 1, expect="EXPECT_NOT_EXIST", v=9)
        assert refused.value.get_error_code() == "OTSConditionCheckFail"
        row = tablestore.Row(key(user, 1), {"INCREMENT": [("count", 5)]})
        consumed, _ = client.update_row("events", row, tablestore.Condition("EXPECT_EXIST"))
        assert consumed.write == 1
        for other in clients:
            cluster.wait_until(
                lambda other=other, user=user: value(other, "events", user, 1, "count") == 5,
                "the other regions show the row", 60,
            )
        gone = tablestore.Row(key(user, 1))
        client.delete_row("events", gone, tablestore.Condition("IGNORE"))
    assert list(clients[3].list_table()) == ["events"]
    described = clients[3].describe_table("events")
    assert described.table_meta.table_name == "events"
    assert [name for name, *_ in described.table_meta.schema_of_primary_key] == ["u", "n"]
    for client in clients[:1]:
        with pytest.raises(tablestore.OTSServiceError) as refused:
            value(client, "events/0000", "a", 1)
        assert refused.value.get_error_code() == "OTSParameterInvalid"


def test_batches_answer_in_order_whatever_fails(four):
    client = sdk(four, four.region("r4"))
    condition = tablestore.Condition
    items = [
        tablestore.PutRowItem(
            tablestore.Row(key(f"batch-{n}", n), [("v", n)]),
            condition("EXPECT_EXIST" if n % 5 == 3 else "IGNORE"),
        )
        for n in range(40)
    ]
    request = tablestore.BatchWriteRowRequest()
    request.add(tablestore.TableInBatchWriteRowItem("events", items))
    answer = client.batch_write_row(request)
    results = answer.get_put()
    succeeded, failed = results if isinstance(results, tuple) else (results, [])
    assert (len(succeeded), len(failed)) == (32, 8)
    assert {row.error_code for row in failed} == {"OTSConditionCheckFail"}
    assert sorted(row.index for row in failed) == [n for n in range(40) if n % 5 == 3]

    def all_read():
        request = tablestore.BatchGetRowRequest()
        keys = [key(f"batch-{n}", n) for n in range(40)]
        request.add(tablestore.TableInBatchGetRowItem("events", keys, max_version=1))
        rows = client.batch_get_row(request).get_result_by_table("events")
        found = [row.row and row.row.attribute_columns[0][1] for row in rows]
        return found == [None if n % 5 == 3 else n for n in range(40)]

    cluster.wait_until(all_read, "the batch is read in its order", 60)
    raw = four.region("r3").client()
    together = [(1, key("atom", n), [("v", n)]) for n in range(3)]
    assert raw.batch_write("events", together, atomic=True) == [None] * 3
    apart = [(1, key(f"atom-{n}", n), [("v", n)]) for n in range(3)]
    refused = raw.batch_write("events", apart, atomic=True)
    assert {one and one[0] for one in refused} == {"OTSDataOutOfRange"}, refused
    gone = [(3, key("atom", n), []) for n in range(3)]
    gone += [(3, key(f"batch-{n}", n), []) for n in range(40)]
    assert raw.batch_write("events", gone) == [None] * 43
    raw.close()


def test_ranges_are_in_order_in_both_directions(four):
    written = filled(four, "events")
    await_everywhere(four, "events", written)
    expected = sorted(written)
    for region in (four.region("r4"), four.region("r1")):
        client = sdk(four, region)
        found, pages = scan(client, "events")
        assert [k for k, _ in found] == expected
        assert pages >= len(expected) // 37
        found, _ = scan(client, "events", Direction.BACKWARD)
        assert [k for k, _ in found] == expected[::-1]
        found, _ = scan(client, "events", columns_to_get=["v"])
        assert all(set(columns) == {"v"} for _, columns in found)
        odd = tablestore.SingleColumnCondition("v", 10, tablestore.ComparatorType.LESS_THAN)
        found, _ = scan(client, "events", column_filter=odd)
        assert [k for k, _ in found] == [k for k in expected if written[k] < 10]
        start, end = [("u", "user-010"), ("n", INF_MIN)], [("u", "user-020"), ("n", INF_MAX)]
        _, following, rows, _ = client.get_range(
            "events", Direction.FORWARD, start, end, limit=5000, max_version=1
        )
        within = [k for k in expected if "user-010" <= k[0] <= "user-020"]
        assert [tuple(v for _, v in row.primary_key) for row in rows] == within
        assert following is None
        one = [("u", "user-011"), ("n", INF_MIN)], [("u", "user-011"), ("n", INF_MAX)]
        _, _, rows, _ = client.get_range("events", Direction.FORWARD, *one, max_version=1)
        assert len(rows) == len([k for k in expected if k[0] == "user-011"])
    status = json.loads(four.run("status", "--json").stdout)["regions"][0]["status"]
    partitions = [one for one in status["tables"] if one.get("distribution") == "events"]
    assert len(partitions) == 8
    told = show(four, "events")
    assert sum(one["rows"] for one in told["partitions"]) == len(written)
    assert sum(one["requests"] for one in told["partitions"]) > ROWS / 50


def test_reads_are_as_fresh_as_is_asked(four):
    key_of = [("u", "fresh"), ("n", 1)]
    writer = four.region("r4").client()
    reader = four.region("r2").client()
    for turn in range(20):
        writer.put_row("events", key_of, [("v", turn)])
        reader.as_of = "newest"
        assert reader.get_row("events", key_of)[1][0][1] == turn
        assert reader.told_as_of == "newest"
        found = reader.batch_get("events", [key_of, [("u", "nobody"), ("n", 1)]])
        assert found[0][1][0][1] == turn and found[1] is None
        rows, _ = reader.get_range("events", [("u", wire.INF_MIN), ("n", wire.INF_MIN)],
                                   [("u", "fresi"), ("n", 0)])
        assert [row[1][0][1] for row in rows if row[0][0][1] == "fresh"] == [turn]
    for asked in ("local", "within:5s", "within:1ms"):
        reader.as_of = asked
        assert reader.get_row("events", key_of) is not None
    reader.as_of = "within:1ms"
    writer.put_row("events", key_of, [("v", 99)])
    assert reader.get_row("events", key_of)[1][0][1] == 99, "nobody is so fresh but the writer"
    reader.as_of = "1764547200000.0"
    with pytest.raises(wire.Refused) as refused:
        reader.get_row("events", key_of)
    assert "Begin anew as of 'safe'" in str(refused.value), "it was not kept"
    writer.delete_row("events", key_of)
    writer.close()
    reader.close()


class Chain(threading.Thread):
    """Counts in rows of all partitions, in one order: none is ahead of the one before it."""

    def __init__(self, region, rows):
        super().__init__(daemon=True)
        self.client, self.rows = region.client(timeout=60), rows
        self.ending, self.count, self.failed = threading.Event(), 0, None

    def run(self):
        try:
            while not self.ending.is_set():
                self.count += 1
                for row in self.rows:
                    self.client.put_row("events", row, [("v", self.count)])
                    # Moments of different regions are told apart by the millisecond.
                    time.sleep(0.002)
        except (wire.Refused, wire.Unknown) as error:
            self.failed = error

    def stop(self):
        self.ending.set()
        self.join(60)
        assert self.failed is None and self.count > 1, self.failed


def test_a_moment_is_one_of_all_partitions(four):
    rows = [[("u", f"link-{place:02}"), ("n", 1)] for place in range(24)]
    ends = [[("u", f"link-{end}"), ("n", wire.INF_MIN)] for end in ("", "~")]
    chain = Chain(four.region("r1"), rows)
    readers = [four.region(name).client(timeout=60) for name in ("r2", "r4")]
    chain.start()
    try:
        seen = set()
        until = time.monotonic() + max(LOAD_SECONDS, 3)
        while time.monotonic() < until or len(seen) < 2:
            one, other = readers
            one.as_of = "safe"
            first = one.get_row("events", rows[0])
            one.as_of = other.as_of = moment = one.told_as_of
            shown = []
            for reader in readers:
                found, start = [], ends[0]
                while start is not None:
                    page, start = reader.get_range("events", start, ends[1], limit=7)
                    assert reader.told_as_of == moment
                    found += page
                shown.append(found)
                batch = reader.batch_get("events", rows)
                assert [row for row in batch if row] == found
                assert reader.get_row("events", rows[0]) == (found[0] if found else None) == first
            assert shown[0] == shown[1], moment
            counts = [dict(cell[:2] for cell in cells)["v"] for _, cells in shown[0]]
            counts += [0] * (len(rows) - len(counts))
            ahead = [(place, count) for place, count in enumerate(counts)
                     if not counts[0] - 1 <= count <= counts[max(place - 1, 0)]]
            assert ahead == [], (moment, counts)
            seen.add(moment)
    finally:
        chain.stop()
    for row in rows:
        readers[0].as_of = None
        readers[0].delete_row("events", row)
    for reader in readers:
        reader.close()


class Load(threading.Thread):
    """Writes and reads again and again through one region, as a client without retries."""

    def __init__(self, running, region, table):
        super().__init__(daemon=True)
        self.client, self.table, self.name = sdk(running, region), table, region.name
        self.written, self.errors, self.longest = {}, [], 0.0
        self.ending = threading.Event()

    def run(self):
        chance, count = random.Random(self.name), 0
        while not self.ending.is_set():
            count += 1
            row = (f"load-{self.name}-{chance.randrange(40)}", chance.randrange(5))
            begun = time.monotonic()
            try:
                put(self.client, self.table, *row, v=count)
                self.written[row] = count
                value(self.client, self.table, *row)
            except (tablestore.OTSServiceError, tablestore.OTSClientError,
                    urllib3.exceptions.HTTPError, OSError) as error:
                self.errors.append(str(error))
                time.sleep(0.05)
            self.longest = max(self.longest, time.monotonic() - begun)

    def stop(self):
        self.ending.set()
        self.join(90)
        assert not self.is_alive(), "the load ends"


class Reading(threading.Thread):
    """Reads rows that nobody changes through one region, all at once and one by one."""

    def __init__(self, running, region, table, expected):
        super().__init__(daemon=True)
        self.client, self.table, self.name = sdk(running, region), table, region.name
        self.expected, self.reads, self.wrong = expected, 0, []
        self.ending = threading.Event()

    def run(self):
        chance = random.Random(self.name)
        keys = sorted(self.expected)
        while not self.ending.is_set():
            try:
                found, _ = scan(self.client, self.table, limit=500)
                if {k: c.get("v") for k, c in found} != self.expected:
                    self.wrong.append(f"a range has {len(found)} of {len(keys)} rows")
                for row in chance.sample(keys, 40):
                    shown = value(self.client, self.table, *row)
                    if shown != self.expected[row]:
                        self.wrong.append(f"row {row} reads as {shown}")
            except (tablestore.OTSServiceError, tablestore.OTSClientError,
                    urllib3.exceptions.HTTPError, OSError) as error:
                self.wrong.append(str(error))
                time.sleep(0.05)
            self.reads += 1

    def stop(self):
        self.ending.set()
        self.join(90)
        assert not self.is_alive(), "the reading ends"
        assert self.wrong == [], self.wrong[:5]
        assert self.reads > 0


def test_a_region_that_takes_partitions_shows_all_rows_all_the_time(four):
    distribute(four, "joined", "--key", KEY, "--by", "hash", "--partitions", PARTITIONS,
               "--replicas", 2, "--regions", "r1,r2,r3", "--seed", 11)
    await_settled(four, "joined")
    await_routed(four, "joined")
    written = filled(four, "joined")
    await_everywhere(four, "joined", written)
    reading = [Reading(four, four.region(name), "joined", written) for name in ("r4", "r1")]
    for one in reading:
        one.start()
    four.run("distribution", "rebalance", "joined", "--add-region", "r4", "--moves-at-once", 2)
    await_settled(four, "joined", 300)
    four.run("distribution", "rebalance", "joined", "--empty", "r4", "--moves-at-once", 2)
    await_settled(four, "joined", 300)
    for one in reading:
        one.stop()
    four.region("r1").client(timeout=60).delete_table("joined")


def test_other_tables_of_a_batch_are_as_fresh_as_is_asked(four):
    writer, reader = four.region("r1").client(), four.region("r2").client()
    writer.create_table("beside", [("k", 1)])
    four.make_global("beside", "primary-secondary")
    four.run("switchover", "beside", "--at-secondary", "forward")

    def passed_on():
        try:
            reader.put_row("beside", [("k", 0)], [("v", 0)])
            return True
        except (wire.Refused, wire.Unknown):
            return False

    cluster.wait_until(passed_on, "r2 passes writes on", 60)
    asked = b"".join(
        wire.field(1, wire.fields((1, table), (2, wire.row(one)), (6, 1)))
        for table, one in (("events", key("beside", 1)), ("beside", [("k", 0)]))
    )
    reader.as_of = "newest"
    for turn in range(1, 31):
        writer.put_row("events", key("beside", 1), [("v", turn)])
        writer.put_row("beside", [("k", 0)], [("v", turn)])
        answer = wire.read_message(reader.call("BatchGetRow", asked))
        assert reader.told_as_of == "newest"
        for table in answer[1]:
            row = wire.read_message(wire.read_message(table)[2][0])
            assert row[1][0], wire.read_error(row[2][0])
            assert wire.rows(row[4][0])[0][1][0][1] == turn
    for as_of in ("local", "within:60s"):
        reader.as_of = as_of
        answer = wire.read_message(reader.call("BatchGetRow", asked))
        assert len(answer[1]) == 2
    reader.as_of = None
    row = wire.fields((1, "events"), (2, wire.row(key("beside", 1), [("v", 0)])),
                      (3, wire.field(1, 0)))
    status, told, code = ask(writer, "PutRow", row, WANTED)
    assert status == 200, code
    after = {"x-isthmus-after": told["x-isthmus-receipt"]}
    one = wire.fields((1, "events"), (2, wire.row(key("beside", 1))), (5, 1))
    assert ask(reader, "GetRow", one, after)[0] == 200
    assert ask(reader, "BatchGetRow", asked, after)[2] == "OTSParameterInvalid"
    # The region that waits holds nothing of the partition.
    waited = four.run("wait", "--receipt", told["x-isthmus-receipt"], "--timeout", "60s", "--json",
                      config=four.region("r4").config)
    told = json.loads(waited.stdout)
    assert told["held"] and len(told["regions"]) == 2
    writer.delete_row("events", key("beside", 1))
    writer.close()
    reader.close()


def verify_partitions(running, table):
    """Compares the replicas of all partitions, as all regions together know them."""
    found = {}
    for region in running.regions:
        done = running.run("verify", table, "--json", config=region.config, check=False)
        assert done.returncode in (0, 2), done.stdout + done.stderr
        for report in json.loads(done.stdout)["partitions"]:
            found[report["table"]] = found.get(report["table"]) or report["equal"]
    assert len(found) == len(show(running, table)["partitions"])
    assert set(found.values()) == {True}, found


def test_a_fourth_region_takes_its_share_under_load(four):
    before = show(four, "events")
    written = dict(scan(sdk(four, four.region("r1")), "events", limit=500)[0])
    dry = json.loads(four.run("distribution", "rebalance", "events", "--add-region", "r4",
                              "--dry-run", "--json").stdout)
    assert not dry["begun"] and show(four, "events")["version"] == before["version"]
    loads = [Load(four, region, "events") for region in four.regions]
    for load in loads:
        load.start()
    time.sleep(LOAD_SECONDS)
    begun = json.loads(four.run("distribution", "rebalance", "events", "--add-region", "r4",
                                "--json", config=four.region("r2").config).stdout)
    assert begun["begun"] and begun["moves"] == dry["moves"]
    assert 0 < begun["replicas_moved"] <= 0.3 * begun["replicas"]
    told = await_settled(four, "events", 300)
    time.sleep(LOAD_SECONDS)
    for load in loads:
        load.stop()
    assert [error for load in loads for error in load.errors] == []
    counts = {one["name"]: (one["partitions"], one["written"]) for one in told["regions"]}
    assert counts == {name: (6, 3) for name in ("r1", "r2", "r3", "r4")}
    assert held(told) == 2 * PARTITIONS
    places = zip(before["partitions"], told["partitions"], strict=True)
    moved = sum(len(set(now["held"]) - set(was["held"])) for was, now in places)
    assert moved == begun["replicas_moved"]
    expected = {k: c["v"] for k, c in written.items()}
    for load in loads:
        expected.update(load.written)
    await_everywhere(four, "events", expected)
    verify_partitions(four, "events")
    longest = max(load.longest for load in loads)
    print(f"\n{moved} of {held(before)} replicas moved, {sum(len(one.written) for one in loads)} "
          f"rows written meanwhile, a client waited {longest * 1000:.0f} ms at most")


def test_by_range_keys_are_where_rules_keep_them(four):
    distribute(four, "users", "--key", KEY, "--by", "range", "--split-points", "g,n,t",
               "--replicas", 2, "--keep", "de-=r2,r3", "--seed", 3)
    told = await_settled(four, "users")
    await_routed(four, "users")
    assert len(told["partitions"]) == 6
    kept = [one for one in told["partitions"] if one["rule"] == "de-"]
    assert len(kept) == 1 and set(kept[0]["held"]) == {"r2", "r3"}
    clients = [sdk(four, region) for region in four.regions]
    names = [f"{first}{n}" for first in ("a", "de-", "df", "g", "m", "n", "s", "t", "z")
             for n in range(9)]
    for place, name in enumerate(names):
        put(clients[place % 4], "users", name, place, v=place)
    expected = {(name, place): place for place, name in enumerate(names)}
    await_everywhere(four, "users", expected)
    for client in clients:
        for limit in (1, 7, 500):
            found, _ = scan(client, "users", limit=limit)
            assert [k for k, _ in found] == sorted(expected)
            found, _ = scan(client, "users", Direction.BACKWARD, limit=limit)
            assert [k for k, _ in found] == sorted(expected)[::-1]
    rows = {one["number"]: one["rows"] for one in show(four, "users")["partitions"]}
    assert rows[kept[0]["number"]] == 9
    four.run("distribution", "rebalance", "users", "--empty", "r1")
    told = await_settled(four, "users", 300)
    assert all("r1" not in one["held"] for one in told["partitions"])
    assert set(told["partitions"][kept[0]["number"]]["held"]) == {"r2", "r3"}
    await_everywhere(four, "users", expected)


def test_split_points_of_create_table_count_when_it_is_distributed(four):
    client = four.region("r3").client()
    meta = wire.field(1, "split") + wire.field(2, wire.fields((1, "u"), (2, 2)))
    throughput = wire.field(1, wire.fields((1, 0), (2, 0)))
    body = wire.fields((1, meta), (2, throughput), (3, wire.fields((1, -1), (2, 1))))
    ends = [bytes([9]), wire.variant("g"), wire.variant("p"), bytes([10])]
    for begin, end in zip(ends, ends[1:], strict=False):
        body += wire.field(4, wire.fields((1, begin), (2, end)))
    client.call("CreateTable", body)
    distribute(four, "split", "--by", "range", config=four.region("r3").config)
    told = await_settled(four, "split")
    assert [one["from_text"] for one in told["partitions"]] == ["", "g", "p"]
    assert told["base"] == "r3"
    client.delete_table("split")
    client.close()


def test_a_region_that_is_lost_takes_no_reads_with_it(four):
    found = {k: c["v"] for k, c in scan(sdk(four, four.region("r3")), "events", limit=500)[0]}
    lost = four.region("r2")
    lost.kill()
    others = [region for region in four.regions if region is not lost]
    chance = random.Random(5)
    for region in others:
        client = sdk(four, region)
        for row in chance.sample(sorted(found), 60):
            assert value(client, "events", *row) == found[row]
        assert {k: c["v"] for k, c in scan(client, "events", limit=500)[0]} == found
    lost.start()
    await_routed(four, "events")
    client = sdk(four, lost)

    def writes_all():
        try:
            for n in range(30):
                put(client, "events", f"back-{n}", n, v=n)
            return True
        except tablestore.OTSServiceError:
            return False

    cluster.wait_until(writes_all, "the region that is back takes writes of all partitions", 90, 1)
    found.update({(f"back-{n}", n): n for n in range(30)})
    await_everywhere(four, "events", found)


def test_a_restart_of_all_keeps_everything(four):
    before = show(four, "events")
    found = {k: c["v"] for k, c in scan(sdk(four, four.region("r1")), "events", limit=500)[0]}
    for region in four.regions:
        region.kill()
    for region in four.regions:
        region.start(wait=False)
    for region in four.regions:
        region.wait_serving()
    await_routed(four, "events")
    after = await_settled(four, "events")
    assert [one["held"] for one in after["partitions"]] == [
        one["held"] for one in before["partitions"]]
    assert after["version"] >= before["version"]
    await_everywhere(four, "events", found)
    verify_partitions(four, "events")


def test_moves_go_on_after_regions_were_killed(four):
    """The region that decides, one that gives and one that takes are killed while all moves."""
    found = {k: c["v"] for k, c in scan(sdk(four, four.region("r3")), "events", limit=500)[0]}
    chance = random.Random(9)
    for turn, change in enumerate((("--empty", "r3"), ("--weight", "r3=1"))):
        four.run("distribution", "rebalance", "events", *change, "--moves-at-once", 3)
        for name in ("r1", "r3", "r4"):
            time.sleep(chance.random())
            region = four.region(name)
            region.kill()
            region.start()
        told = await_settled(four, "events", 300)
        counts = {one["name"]: (one["partitions"], one["written"]) for one in told["regions"]}
        assert counts["r3"] == ((0, 0), (6, 3))[turn], counts
        assert held(told) == 2 * PARTITIONS
    await_routed(four, "events")
    await_everywhere(four, "events", found)
    verify_partitions(four, "events")


def test_a_region_that_lost_its_disk_is_given_records_back(folder):
    with cluster.Cluster(regions=4, folder=folder) as running:
        empty = running.region("r4")
        for table, base in (("own", empty), ("other", running.region("r1"))):
            distribute(running, table, "--key", KEY, "--by", "hash", "--partitions", 4,
                       "--replicas", 2, "--regions", "r2,r3", config=base.config)
            await_settled(running, table)
            await_routed(running, table)
            put(sdk(running, empty), table, "a", 1, v=1)
        empty.kill()
        config = tomllib.loads(pathlib.Path(empty.config).read_text(encoding="utf-8"))
        shutil.rmtree(pathlib.Path(empty.config).parent / config["storage"]["data"])
        empty.start()
        for table in ("own", "other"):
            await_routed(running, table)
            assert value(sdk(running, empty), table, "a", 1) == 1
            running.run("distribution", "rebalance", table, "--add-region", "r4")
            told = await_settled(running, table)
            counts = {one["name"]: one["partitions"] for one in told["regions"]}
            assert sum(counts.values()) == 8 and counts["r4"] in (2, 3), counts
            put(sdk(running, empty), table, "a", 1, v=2)


def test_with_a_quorum_another_region_writes_what_one_wrote_that_is_lost(folder):
    with cluster.Cluster(regions=3, folder=folder, arguments=["--quorum"]) as three:
        distribute(three, "kept", "--key", KEY, "--by", "hash", "--partitions", 6, "--replicas", 3)
        await_settled(three, "kept")
        await_routed(three, "kept")
        three.run("global-table", "mode", "kept", "semi-sync", "--held-by", "1")
        written = {(f"user-{n}", n): n for n in range(40)}
        clients = [sdk(three, region) for region in three.regions]
        for (user, n), v in written.items():
            put(clients[n % 3], "kept", user, n, v=v)
        lost = three.region("r3")
        lost.kill()

        def written_again(user, n):
            try:
                put(clients[0], "kept", user, n, v=n + 1)
                return True
            except (tablestore.OTSServiceError, tablestore.OTSClientError):
                return False

        for user, n in written:
            cluster.wait_until(lambda u=user, n=n: written_again(u, n), f"{user} is written", 60)
        lost.start()
        await_everywhere(three, "kept", {one: v + 1 for one, v in written.items()})
        three.run("distribution", "rebalance", "kept")
        told = await_settled(three, "kept")
        assert {one["name"]: one["written"] for one in told["regions"]} == {
            "r1": 2, "r2": 2, "r3": 2}
        await_everywhere(three, "kept", {one: v + 1 for one, v in written.items()})


def test_what_a_lost_region_had_alone_is_set_aside_before_its_replica_goes(folder):
    table = "alone/0000"
    with cluster.Cluster(regions=3, folder=folder, arguments=["--quorum"]) as three:
        distribute(three, "alone", "--key", KEY, "--by", "hash", "--partitions", 1,
                   "--replicas", 2, "--regions", "r2,r3")
        told = await_settled(three, "alone")
        await_routed(three, "alone")
        lost = three.region(told["partitions"][0]["primary"])
        next_one = next(one for one in three.regions if one.name in ("r2", "r3")
                        and one is not lost)
        first = three.region("r1")
        await_enrolled(three, table, 0)
        client = lost.client(timeout=20)
        client.put_row("alone", key("a", 0), [("v", 0)])
        three.run("link", "pause", "--table", table, "--from", lost.name, "--to", next_one.name,
                  config=lost.config)
        time.sleep(1)
        for n in range(1, 31):
            client.put_row("alone", key("a", n), [("v", n)])
        client.close()
        lost.kill()
        cluster.wait_until(
            lambda: (one := tenure(three, first, table)) and one["vacant"]
            and next_one.name in one["vacant"]["claims"], "nobody writes", 90)
        three.run("failover", "--table", table, "--to", next_one.name, config=first.config)
        cluster.wait_until(lambda: not tenure(three, first, table)["vacant"], "one writes", 60)
        three.run("distribution", "rebalance", "alone", "--add-region", "r1", "--empty", lost.name)

        def only_the_lost_one_is_left():
            partition = show(three, "alone")["partitions"][0]
            return {first.name, next_one.name} <= set(partition["held"])

        cluster.wait_until(only_the_lost_one_is_left, "others hold the partition", 120, 0.5)
        lost.start()
        told = await_settled(three, "alone")
        assert set(told["partitions"][0]["held"]) == {first.name, next_one.name}
        tails = json.loads(three.run("tail", "list", "--json", config=lost.config).stdout)
        kept = [one for one in tails[0]["tails"] if one["table"] == table]
        assert [one["rows"] for one in kept] == [30], tails


def test_a_mode_is_that_of_all_partitions(four):
    distribute(four, "sure", "--key", KEY, "--by", "hash", "--partitions", 3, "--replicas", 2,
               "--regions", "r1,r2,r3", "--seed", 1)
    await_settled(four, "sure")
    await_routed(four, "sure")
    done = four.run("global-table", "mode", "sure", "semi-sync", "--held-by", "2", check=False)
    assert done.returncode == 1 and "2" in done.stderr
    four.run("global-table", "mode", "sure", "sync", "--json", config=four.region("r4").config)

    def all_sync():
        told = [one for status in four.statuses() for one in status["tables"]
                if one.get("distribution") == "sure" and one["writable"]]
        return len(told) == 3 and all(one.get("write_mode") for one in told)

    cluster.wait_until(all_sync, "all partitions are written synchronously", 60, 0.5)
    clients = [sdk(four, region) for region in four.regions]
    for n in range(40):
        user = f"sure-{n}"
        put(clients[n % 4], "sure", user, n, v=n)
        assert [value(client, "sure", user, n) for client in clients] == [n] * 4
    four.run("global-table", "mode", "sure", "async")
    for client in clients[:1]:
        client.delete_table("sure")


def test_links_of_all_partitions_are_asked_at_once(four):
    distribute(four, "linked", "--key", KEY, "--by", "hash", "--partitions", 4, "--replicas", 2,
               "--regions", "r1,r2,r3", "--seed", 1)
    await_settled(four, "linked")

    def links():
        told = [one for status in four.statuses() for one in status["links"]]
        return [one for one in told if one["table"].startswith("linked/")]

    assert len(links()) == 4
    four.run("link", "pause", "--table", "linked", config=four.region("r4").config)
    cluster.wait_until(
        lambda: {one["state"] for one in links()} == {"paused"}, "all pause", 60, 0.5)
    ends = {(one["from"], one["to"]) for one in links()}
    origin, replica = sorted(ends)[0]
    four.run("link", "resume", "--table", "linked", "--from", origin, "--to", replica)

    def only_those_run():
        return all((one["state"] == "following") == ((one["from"], one["to"]) == (origin, replica))
                   for one in links())

    cluster.wait_until(only_those_run, "only the links that were named run", 60, 0.5)
    four.run("link", "start", "--table", "linked")
    four.run("link", "set", "--table", "linked", "--bytes-per-second", "1MiB")
    cluster.wait_until(
        lambda: all(one.get("bytes_per_second") == 1 << 20 and one["state"] == "following"
                    for one in links()), "all run and are throttled", 60, 0.5)
    told = four.run("link", "trigger", "--table", "linked", "--json",
                    config=four.region("r4").config)
    assert json.loads(told.stdout) == {"triggered": 4}
    done = four.run("link", "pause", "--table", "linked", "--from", "r4", check=False)
    assert done.returncode == 1 and "no partition" in done.stderr.lower(), done
    client = four.regions[0].client()
    client.delete_table("linked")
    client.close()


WRONG = [
    (("--by", "hash", "--partitions", "0"), "1 to 256 partitions"),
    (("--by", "hash", "--partitions", "257"), "1 to 256 partitions"),
    (("--by", "hash"), "how many partitions"),
    (("--by", "hash", "--partitions", "4", "--replicas", "0"), "1 to 10 replicas"),
    (("--by", "hash", "--partitions", "4", "--replicas", "5"), "there are 4"),
    (("--by", "hash", "--partitions", "4", "--regions", "r1,r9"), "r9 is not configured"),
    (("--by", "hash", "--partitions", "4", "--weight", "r1=101"), "0 to 100"),
    (("--by", "hash", "--partitions", "4", "--split-points", "a"), "divided by range"),
    (("--by", "range"), "at least one split point"),
    (("--by", "range", "--split-points", "a", "--partitions", "3"), "split points and rules"),
    (("--by", "range", "--split-points", "a", "--keep", "de=r1"), "allows 1 regions"),
    (("--by", "range", "--split-points", "a", "--keep", "de=country=de"), "allows 0 regions"),
]


@pytest.mark.parametrize("options, why", WRONG, ids=[why for _, why in WRONG])
def test_what_is_wrong_makes_nothing(four, options, why):
    tables = four.regions[0].client().list_table()
    done = distribute(four, "wrong", "--key", KEY, *options, check=False)
    assert done.returncode in (1, 2) and why in done.stderr, done.stderr
    for region in four.regions:
        client = region.client()
        assert client.list_table() == tables
        with pytest.raises(wire.Refused) as refused:
            client.describe_table("wrong")
        assert refused.value.code == "OTSObjectNotExist"
        client.close()


def test_tables_that_are_in_the_way_are_left_alone(four):
    r1, r3 = four.region("r1").client(), four.region("r3").client()
    options = ("--by", "hash", "--partitions", 4)
    r1.create_table("rows", [("k", 1)])
    r1.put_row("rows", [("k", 1)], [("v", 1)])
    done = distribute(four, "rows", *options, check=False)
    assert done.returncode == 1 and "holds rows" in done.stderr
    r1.put_row("rows", [("k", 2)], [("v", 2)])
    r3.create_table("taken", [("k", 1)])
    done = distribute(four, "taken", "--key", "k:integer", *options, check=False)
    assert done.returncode == 1 and "r3" in done.stderr
    done = distribute(four, "missing", *options, check=False)
    assert done.returncode in (1, 2) and "does not exist" in done.stderr
    done = distribute(four, "events", "--key", KEY, *options, check=False)
    assert done.returncode == 1 and "exists" in done.stderr
    with pytest.raises(wire.Refused) as refused:
        r3.create_table("events", [("k", 1)])
    assert refused.value.code == "OTSObjectAlreadyExist"
    done = four.run("distribution", "rebalance", "events", "--add-region", "r9", check=False)
    assert "r9 is not configured" in done.stderr
    done = four.run("distribution", "rebalance", "events", "--empty", "r1", "--empty", "r2",
                    "--empty", "r3", check=False)
    assert "would be left" in done.stderr
    for table, client in (("rows", r1), ("taken", r3)):
        client.delete_table(table)
        client.close()


def test_a_change_of_schemas_that_failed_halfway_is_completed(four):
    distribute(four, "halfway", "--key", "k:integer", "--by", "hash", "--partitions", 4,
               "--replicas", 1, "--seed", 2)
    told = await_settled(four, "halfway")
    await_routed(four, "halfway")
    lost = four.region(told["partitions"][-1]["primary"])
    asked = next(one for one in four.regions if one is not lost).client(timeout=60)
    lost.kill()
    with pytest.raises((wire.Refused, wire.Unknown)):
        asked.add_defined_column("halfway", [("price", 2)])
    lost.start()

    def added():
        try:
            asked.add_defined_column("halfway", [("price", 2)])
            return True
        except wire.Unknown:
            return False
        except wire.Refused as refused:
            if refused.code == "OTSParameterInvalid":
                raise
            return False

    cluster.wait_until(added, "the column is added everywhere", 90, 1)
    for region in four.regions:
        described = four.run("table", "describe", "halfway", "--json", config=region.config)
        assert "price" in described.stdout
    with pytest.raises(wire.Refused) as refused:
        asked.add_defined_column("halfway", [("price", 2)])
    assert refused.value.code == "OTSParameterInvalid"
    asked.delete_table("halfway")
    asked.close()


def test_the_rest_of_a_wide_row_is_read_through_any_region(four):
    clients = [sdk(four, region) for region in four.regions]
    row = key("wide", 1)
    for n in range(5):
        change = {"PUT": [(f"c{n}", "x" * 1_900_000)]}
        clients[0].update_row("events", tablestore.Row(row, change),
                              tablestore.Condition("IGNORE"))

    def read():
        """The columns, each page through the next region."""
        token, columns = None, []
        for turn in range(8):
            client = clients[turn % len(clients)]
            _, found, token = client.get_row("events", row, max_version=1, token=token)
            columns += [c[0] for c in found.attribute_columns] if found else []
            if not token:
                return turn > 0 and columns == [f"c{n}" for n in range(5)]
        return False

    cluster.wait_until(read, "all pages of the row are read", 60)
    clients[0].delete_row("events", tablestore.Row(row), tablestore.Condition("IGNORE"))


def test_schemas_change_and_tables_go_in_all_regions(four):
    r1 = four.region("r1").client(timeout=60)
    r1.create_table("short", [("k", 1)])
    distribute(four, "short", "--by", "hash", "--partitions", 3, "--replicas", 1)
    await_settled(four, "short")
    await_routed(four, "short")
    r4 = four.region("r4").client(timeout=60)
    for k in range(20):
        r4.put_row("short", [("k", k)], [("v", k)])
    r4.update_table("short", max_versions=3)
    r4.add_defined_column("short", [("price", 2)])
    described = four.run("table", "describe", "short", "--json").stdout
    assert json.loads(described)["options"]["max_versions"] == 3 and "price" in described
    r4.delete_table("short")
    for region in four.regions:
        client = region.client()

        def gone(client=client):
            try:
                client.describe_table("short")
                return False
            except wire.Refused as refused:
                return refused.code == "OTSObjectNotExist"

        cluster.wait_until(gone, f"{region.name} has no table short any more", 60)
        client.close()
    cluster.wait_until(
        lambda: not any("short" in json.dumps(one["tables"]) for one in four.statuses()),
        "no partition of it is left", 60, 0.5,
    )
    distribute(four, "short", "--key", "k:integer", "--by", "hash", "--partitions", 2)
    await_settled(four, "short")
    await_routed(four, "short")
    assert r4.get_row("short", [("k", 1)]) is None
    r1.close()
    r4.close()


def partitions_of(running, table, regions=None):
    found = []
    for region in regions or running.regions:
        told = json.loads(running.run("status", "--json", config=region.config).stdout)
        tables = told["regions"][0]["status"]["tables"]
        found += [one for one in tables if one.get("distribution") == table]
    return found


def knows(region, table):
    """Whether a region has a table of that name; None: it cannot say."""
    client = region.client(timeout=10)
    try:
        client.describe_table(table)
        return True
    except wire.Refused as refused:
        return False if refused.code == "OTSObjectNotExist" else None
    except wire.Unknown:
        return None
    finally:
        client.close()


class Distributing(threading.Thread):
    """Asks one region to distribute a table, beside whatever else happens."""

    def __init__(self, running, table, region, *options):
        super().__init__(daemon=True)
        self.asked = (running, table, "--by", "hash", "--partitions", 3, *options)
        self.config, self.done = region.config, None
        self.start()

    def run(self):
        self.done = distribute(*self.asked, check=False, config=self.config)

    def ended(self):
        self.join(120)
        assert not self.is_alive(), "it is answered"
        return self.done.returncode == 0


def test_a_table_whose_name_is_taken_meanwhile_is_left_alone(four):
    """Another region makes a table of that name while it is distributed: one of both is made."""
    r1, r3, chance = four.region("r1").client(), four.region("r3").client(), random.Random(3)
    made = 0
    for turn in range(8):
        name = f"meanwhile{turn}"
        r1.create_table(name, [("k", 1)])
        distributing = Distributing(four, name, four.region("r1"))
        time.sleep(chance.random() * 0.2)
        try:
            r3.create_table(name, [("k", 1)])
            is_taken = True
        except wire.Refused as refused:
            assert refused.code == "OTSObjectAlreadyExist"
            is_taken = False
        assert distributing.ended() != is_taken, distributing.done.stderr
        made += not is_taken
        if is_taken:
            for client in (r1, r3):
                client.put_row(name, [("k", 1)], [("v", turn)])
                assert client.get_row(name, [("k", 1)])[1][0][1] == turn
                client.delete_table(name)
            assert knows(four.region("r2"), name) is False
            assert partitions_of(four, name) == []
        else:
            await_routed(four, name)
            r1.put_row(name, [("k", 1)], [("v", turn)])
            r1.delete_table(name)
    print(f"\n{made} of 8 were distributed")
    r1.close()
    r3.close()


def test_regions_that_distribute_at_once_do_not_hold_each_other_up(four):
    regions = four.regions[:2]
    both = [Distributing(four, f"mine_{region.name}", region, "--key", KEY) for region in regions]
    assert [one.ended() for one in both] == [True, True], [one.done.stderr for one in both]
    same = [Distributing(four, "same", region, "--key", KEY) for region in regions]
    assert sum(one.ended() for one in same) <= 1
    made = [one for one in same if one.ended()]
    if not made:
        assert partitions_of(four, "same") == []
        distribute(four, "same", "--key", KEY, "--by", "hash", "--partitions", 3)
    for table in ("mine_r1", "mine_r2", "same"):
        await_settled(four, table)
        await_routed(four, table)
        sdk(four, four.region("r3")).delete_table(table)


def test_a_base_that_is_killed_while_it_makes_a_table_leaves_it_whole(four):
    """After its start the table is distributed, or the one that was there takes rows."""
    base, chance, made = four.region("r2"), random.Random(4), 0
    for turn in range(4):
        name = f"cut{turn}"
        client = base.client()
        client.create_table(name, [("k", 1)])
        client.close()
        distributing = Distributing(four, name, base)
        time.sleep(0.05 + chance.random() * 0.25)
        base.kill()
        distributing.ended()
        base.start()
        client = base.client(timeout=10)

        def is_whole(name=name, client=client):
            others = {knows(region, name) for region in four.regions if region is not base}
            try:
                client.put_row(name, [("k", 1)], [("v", 1)])
            except (wire.Refused, wire.Unknown):
                return None
            made = len([one for one in partitions_of(four, name) if one["writable"]])
            return {(True,): made == 3, (False,): made == 0}.get(tuple(others)) and [made]

        found = cluster.wait_until(is_whole, f"{name} is made or is not", 90, 0.5)
        made += found == [3]
        client.delete_table(name)
        client.close()
    print(f"\n{made} of 4 were distributed")


def test_what_is_deleted_while_a_region_is_away_does_not_come_back(folder):
    with cluster.Cluster(regions=3, folder=folder) as three:
        options = ("--key", KEY, "--by", "hash", "--partitions", 6, "--replicas", 2)
        distribute(three, "ghost", *options)
        await_settled(three, "ghost")
        await_routed(three, "ghost")
        await_everywhere(three, "ghost", {k: k[1] for k in filled(three, "ghost", 100)})
        three.run("distribution", "rebalance", "ghost", "--empty", "r2", "--moves-at-once", 4)
        away = three.region("r3")
        away.kill()
        here = three.regions[:2]
        sdk(three, here[1]).delete_table("ghost")

        def is_removed(regions):
            is_known = any(knows(region, "ghost") is not False for region in regions)
            return not is_known and not partitions_of(three, "ghost", regions)

        def made_again():
            return distribute(three, "ghost", *options, check=False).returncode == 0

        cluster.wait_until(lambda: is_removed(here), "two regions have removed it", 60, 0.5)
        assert distribute(three, "ghost", *options, check=False).returncode != 0
        away.start()
        cluster.wait_until(lambda: is_removed(three.regions), "all have removed it", 60, 0.5)
        cluster.wait_until(made_again, "the name is free again", 60, 1)
        for region in three.regions:
            await_routed(three, "ghost", [region])
        await_settled(three, "ghost")
        for region in three.regions:
            assert scan(sdk(three, region), "ghost", limit=500)[0] == []
        await_everywhere(three, "ghost", {k: k[1] for k in filled(three, "ghost", 20)})
        sdk(three, away).delete_table("ghost")
        cluster.wait_until(lambda: is_removed(three.regions), "all have removed it", 60, 0.5)
        for region in three.regions:
            region.kill()
        for region in three.regions:
            region.start(wait=False)
        for region in three.regions:
            region.wait_serving()
        assert is_removed(three.regions)


def test_an_older_disk_brings_no_deleted_table_back(folder):
    """The disk is of a time when another table had the name, divided otherwise."""
    with cluster.Cluster(regions=3, folder=folder) as three:
        distribute(three, "twice", "--key", KEY, "--by", "hash", "--partitions", 3)
        await_settled(three, "twice")
        await_routed(three, "twice")
        old = three.region("r3")
        await_everywhere(three, "twice", {k: k[1] for k in filled(three, "twice", 60)})
        config = tomllib.loads(pathlib.Path(old.config).read_text(encoding="utf-8"))
        data = pathlib.Path(old.config).parent / config["storage"]["data"]
        kept = folder / "kept"
        old.kill()
        shutil.copytree(data, kept)
        old.start()
        sdk(three, old).delete_table("twice")

        def made_again():
            done = distribute(three, "twice", "--key", KEY, "--by", "hash", "--partitions", 5,
                              "--regions", "r1,r2", check=False, config=three.region("r2").config)
            return done.returncode == 0

        cluster.wait_until(made_again, "the name is free again", 60, 1)
        await_settled(three, "twice")
        await_routed(three, "twice")
        written = {k: k[1] for k in filled(three, "twice", 80)}
        await_everywhere(three, "twice", written)
        old.kill()
        shutil.rmtree(data)
        shutil.move(kept, data)
        old.start()

        def is_taken():
            done = three.run("distribution", "show", "twice", "--json", config=old.config,
                             check=False)
            return done.returncode == 0 and json.loads(done.stdout)["base"] == "r2"

        cluster.wait_until(is_taken, "r3 has the record of the new table", 60, 0.2)
        await_everywhere(three, "twice", written)
        cluster.wait_until(lambda: not partitions_of(three, "twice", [old]), "none is left", 60)
        put(sdk(three, old), "twice", "new", 1, v=7)
        await_everywhere(three, "twice", {**written, ("new", 1): 7})
