"""Partitions that are split and merged under load: no request is refused, no write is lost or done
twice, ranges show each row once and in order, and replicas are alike afterwards."""

import json
import os
import random
import signal
import threading
import time

import cluster
import pytest
import tablestore
from sizes import number
from tablestore import Direction
from test_distribution import (
    KEY,
    await_everywhere,
    await_routed,
    await_settled,
    distribute,
    filled,
    key,
    scan,
    sdk,
    show,
    value,
    verify_partitions,
)

ROWS = number("RESHAPE_ROWS", 400)
COUNTERS = 24


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reshape")
    with cluster.Cluster(regions=3, folder=folder) as running:
        yield running


def made(running, table, *options):
    distribute(running, table, "--key", KEY, "--replicas", "2", *options)
    await_settled(running, table)
    await_routed(running, table)


def numbers(told):
    return [partition["number"] for partition in told["partitions"]]


def base_of(running, table):
    return running.region(show(running, table)["base"])


def reshape(running, table, what, *options):
    """Asks for a split or merge."""
    return json.loads(running.run("distribution", what, table, *options, "--json").stdout)


def await_reshaped(running, table, seconds=240):
    def holds():
        try:
            told = show(running, table)
        except (AssertionError, RuntimeError):
            return None
        last["seen"] = (told["reshape"], told["silent"], [
            (part["number"], part["state"], part["waits"]) for part in told["partitions"]
        ])
        found = told["reshape"] is None and told["moving"] == 0 and not told["silent"]
        return told if found else None

    last = {}
    try:
        what = f"partitions of {table} are split or merged"
        return cluster.wait_until(holds, what, seconds, 0.3)
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {last}") from error


def events(running, kind):
    found = []
    for region in running.regions:
        told = running.run("events", "--json", config=region.config).stdout
        told = json.loads(told)
        found += [event for event in told["events"] if event["kind"] == kind]
    return found


class Load:
    """Clients of all regions that add to counters, put rows, and read ranges both ways."""

    def __init__(self, running, table, rows, regions=None, may_fail=False, hot=None):
        self.running, self.table, self.rows = running, table, rows
        self.may_fail, self.hot = may_fail, hot
        self.regions = regions or running.regions
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.added = dict.fromkeys(range(COUNTERS), 0)
        self.unsure = dict.fromkeys(range(COUNTERS), 0)
        self.refused, self.wrong, self.scans, self.writes = [], [], 0, 0
        self.threads = [
            threading.Thread(target=work, args=(region, place), daemon=True)
            for place, region in enumerate(self.regions)
            for work in (self.add, self.batches, self.ranges)
        ]

    def __enter__(self):
        [thread.start() for thread in self.threads]
        return self

    def __exit__(self, *_):
        self.stopped.set()
        [thread.join(120) for thread in self.threads]

    def fails(self, error):
        if not self.may_fail:
            with self.lock:
                self.refused.append(repr(error))

    def add(self, region, place):
        chance = random.Random(place)
        client = sdk(self.running, region)
        while not self.stopped.is_set():
            counter = chance.randrange(COUNTERS)
            row = tablestore.Row(key(f"counter-{counter:02}", 0), {"INCREMENT": [("count", 1)]})
            try:
                client.update_row(self.table, row, tablestore.Condition("IGNORE"))
                with self.lock:
                    self.added[counter] += 1
                    self.writes += 1
            except Exception as error:
                with self.lock:
                    self.unsure[counter] += 1
                self.fails(error)

    def batches(self, region, place):
        client = sdk(self.running, region)
        n = 0
        while not self.stopped.is_set():
            n += 1
            items = [
                tablestore.PutRowItem(
                    tablestore.Row(key(f"batch-{place}-{user:02}", 0), [("v", n)]),
                    tablestore.Condition("IGNORE"),
                )
                for user in range(12)
            ]
            request = tablestore.BatchWriteRowRequest()
            request.add(tablestore.TableInBatchWriteRowItem(self.table, items))
            try:
                answer = client.batch_write_row(request)
                if not answer.is_all_succeed():
                    self.fails([f.error_message for f in answer.get_failed_of_put()])
            except Exception as error:
                self.fails(error)
            time.sleep(0.01)

    def ranges(self, region, place):
        client = sdk(self.running, region)
        turn = place
        while not self.stopped.is_set():
            turn += 1
            direction = (Direction.FORWARD, Direction.BACKWARD)[turn % 2]
            try:
                found, _ = scan(client, self.table, direction, limit=61)
            except Exception as error:
                self.fails(error)
                continue
            keys = [k for k, _ in found]
            in_order = sorted(keys, reverse=direction == Direction.BACKWARD)
            users = {k: c.get("v") for k, c in found if k[0].startswith("user-")}
            with self.lock:
                self.scans += 1
                if keys != in_order or len(set(keys)) != len(keys):
                    self.wrong.append("rows are out of order or twice")
                if users != self.rows:
                    missing = [k for k in self.rows if k not in users]
                    self.wrong.append(f"a range lacks rows: {missing[:5]} of {len(missing)}")

    def check(self):
        """Nothing was refused, and counters are what was added to them."""
        assert not self.refused, self.refused[:3]
        assert not self.wrong, self.wrong[:3]
        assert self.writes and self.scans
        for region in self.regions:
            client = sdk(self.running, region)

            def holds(client=client):
                found = {
                    counter: value(client, self.table, f"counter-{counter:02}", 0, "count") or 0
                    for counter in self.added
                }
                few = [c for c, added in self.added.items() if found[c] < added]
                many = [c for c, n in self.added.items() if found[c] > n + self.unsure[c]]
                assert not many, [(c, self.added[c], found[c]) for c in many]
                return not few

            # Replicas follow a little later.
            cluster.wait_until(holds, f"{region.name} shows all that was added", 60, 0.5)


@pytest.mark.parametrize("by", ["hash", "range"])
def test_partitions_are_split_and_merged_under_load_and_nobody_notices(three, by):
    table = f"shaped_{by}"
    options = (
        ("--by", "hash", "--partitions", "3")
        if by == "hash"
        else ("--by", "range", "--split-points", "counter-12,user-050")
    )
    made(three, table, *options)
    rows = filled(three, table, ROWS)
    await_everywhere(three, table, rows)
    with Load(three, table, rows) as load:
        planned = reshape(three, table, "split", "--partition", "1", "--dry-run")
        assert planned["begun"] is False and planned["sources"] == [1]
        assert numbers(show(three, table)) == [0, 1, 2]
        assert reshape(three, table, "split", "--partition", "1")["begun"] is True
        told = await_reshaped(three, table)
        assert numbers(told) == [0, 3, 4, 2]
        reshape(three, table, "merge", "--partitions", "0,3")
        told = await_reshaped(three, table)
        assert numbers(told) == [5, 4, 2]
        reshape(three, table, "merge", "--partitions", "5,4")
        told = await_reshaped(three, table)
        assert numbers(told) == [6, 2]
    load.check()
    verify_partitions(three, table)
    assert events(three, "partitions-reshaped")
    pauses = [event["detail"]["pause_ms"] for event in events(three, "partition-ended")]
    print(f"\nwrites were held for {max(pauses):.0f} ms at most")


@pytest.mark.parametrize("mode", [("semi-sync", "--held-by", "1"), ("sync",)])
def test_what_is_written_safely_stays_so(three, mode):
    """Increments through all regions, in each write mode, while partitions are split and merged."""
    table = f"safe_{mode[0].replace('-', '_')}"
    distribute(three, table, "--key", KEY, "--by", "hash", "--partitions", "1", "--replicas", "3")
    await_settled(three, table)
    await_routed(three, table)
    three.run("global-table", "mode", table, *mode)
    rows = filled(three, table, 120)
    await_everywhere(three, table, rows)
    with Load(three, table, rows) as load:
        reshape(three, table, "split", "--partition", "0")
        assert numbers(await_reshaped(three, table)) == [1, 2]
        reshape(three, table, "merge", "--partitions", "1,2")
        assert numbers(await_reshaped(three, table)) == [3]
    load.check()
    verify_partitions(three, table)
    partition = json.loads(three.run("global-table", "mode", f"{table}/0003", "--json").stdout)
    assert mode[0] in json.dumps(partition)
    three.run("global-table", "mode", table, "async")


def test_what_cannot_be_is_refused_with_the_reason(three):
    table = "unshaped"
    made(three, table, "--by", "range", "--split-points", "m", "--keep", "de-=r1,r2")

    def refused(*arguments):
        done = three.run("distribution", *arguments, check=False)
        assert done.returncode != 0, done.stdout
        return done.stderr

    assert "no partition 9" in refused("split", table, "--partition", "9", "--at", "x")
    assert "not within" in refused("split", table, "--partition", "0", "--at", "x")
    assert "different rules" in refused("merge", table, "--partitions", "0,1")
    assert "holds nothing" in refused("split", table, "--partition", "0")
    assert "No partition" in refused("cancel", table)
    assert "split again" in refused(
        "set", table, "--split-size", "2MiB", "--merge-size", "2MiB",
    )


def test_deletes_versions_and_numbers_go_on(three):
    table = "versions"
    distribute(
        three, table, "--key", "u:string,n:integer", "--max-versions", "3",
        "--by", "hash", "--partitions", "1", "--replicas", "2",
    )
    await_settled(three, table)
    await_routed(three, table)
    client = sdk(three, three.regions[0])
    begin = int(time.time() * 1000)
    for user in range(60):
        for version in range(3):
            row = tablestore.Row(
                key(f"u{user:02}", 1), {"PUT": [("v", version, begin + version)]},
            )
            client.update_row(table, row, tablestore.Condition("IGNORE"))
    for user in range(0, 60, 3):
        client.delete_row(
            table, tablestore.Row(key(f"u{user:02}", 1)), tablestore.Condition("IGNORE"),
        )
    reshape(three, table, "split", "--partition", "0")
    await_reshaped(three, table)
    for region in three.regions:
        client = sdk(three, region)

        def shows(client=client):
            for user in range(60):
                _, row, _ = client.get_row(table, key(f"u{user:02}", 1), max_version=5)
                cells = [] if row is None else [c[1:] for c in row.attribute_columns]
                wanted = [(v, begin + v) for v in (2, 1, 0)] if user % 3 else []
                if [tuple(c) for c in cells] != wanted:
                    return False
            return True

        cluster.wait_until(shows, f"{region.name} shows all versions", 60)


@pytest.mark.parametrize("who", ["writer", "base", "other"])
def test_a_region_that_is_killed_meanwhile_costs_nothing(tmp_path, who):
    """Kills a region again and again while partitions are split and merged."""
    with cluster.Cluster(regions=3, folder=tmp_path) as running:
        table = "killed"
        made(running, table, "--by", "hash", "--partitions", "2")
        rows = filled(running, table, ROWS)
        await_everywhere(running, table, rows)
        chance = random.Random(who)
        with Load(running, table, rows, may_fail=True) as load:
            for turn in range(4):
                told = await_reshaped(running, table)
                parts = told["partitions"]
                if turn % 2 == 0:
                    asked = ("split", "--partition", str(parts[0]["number"]))
                else:
                    asked = ("merge", "--partitions", f"{parts[0]['number']},{parts[1]['number']}")
                writer = parts[0]["primary"]
                names = {"writer": writer, "base": told["base"]}
                others = [r.name for r in running.regions if r.name not in names.values()]
                victim = running.region(names.get(who, others[0]))
                reshape(running, table, *asked[:1], *asked[1:])
                time.sleep(chance.random() * 2)
                victim.kill()
                time.sleep(0.5)
                victim.start()
                await_reshaped(running, table)
        load.refused = []
        load.check()
        told = show(running, table)
        assert len(told["partitions"]) == 2
        verify_partitions(running, table)


@pytest.mark.parametrize("delay", [0.05, 0.3, 1.0])
def test_what_has_ended_goes_on_without_its_base(tmp_path, delay):
    """The base stops to answer while a partition is split, and the writer is killed."""
    with cluster.Cluster(regions=3, folder=tmp_path) as running:
        table = "alone"
        made(running, table, "--by", "range", "--split-points", "b,d,f,h,j")
        told = show(running, table)
        base = base_of(running, table)
        places = enumerate(told["partitions"])
        found = ((place, one) for place, one in places if base.name not in one["held"])
        place, part = next(found, (None, None))
        if part is None:
            pytest.skip("the base holds a replica of each partition")
        letter = "acegik"[place]
        users = [f"{letter}{n}" for n in range(10)]
        writer = running.region(part["primary"])
        client = sdk(running, writer)
        anyway = tablestore.Condition("IGNORE")
        for user in users:
            client.put_row(table, tablestore.Row(key(user, 1), [("w", 1)]), anyway)
        reshape(running, table, "split", "--partition", str(part["number"]), "--at", f"{letter}5")
        time.sleep(delay)
        # It counts as reached for a while yet, and hears nothing.
        os.kill(base.pid, signal.SIGSTOP)
        time.sleep(1)
        base.kill()
        writer.kill()
        writer.start()

        def goes_on():
            client = sdk(running, writer)
            try:
                for user in users:
                    row = tablestore.Row(key(user, 1), {"PUT": [("w", 2)]})
                    client.update_row(table, row, anyway)
                return True
            except (tablestore.OTSServiceError, tablestore.OTSClientError):
                return False

        cluster.wait_until(goes_on, "the rows of the partition are written", 120, 0.5)
        base.start()
        told = await_reshaped(running, table)
        assert len(told["partitions"]) == 7
        client = sdk(running, base)

        def shows_all():
            found = [client.get_row(table, key(user, 1), max_version=1)[1] for user in users]
            return all([cell[1] for cell in row.attribute_columns] == [2] for row in found)

        # Another region may answer, and replicas follow a little later.
        cluster.wait_until(shows_all, "what was written meanwhile is seen", 30)
        verify_partitions(running, table)


@pytest.mark.parametrize("delay", [0.1, 0.5, 1.0, 1.6])
def test_a_writer_that_is_lost_meanwhile_takes_no_write_with_it(tmp_path, delay):
    """With a quorum another region writes the partitions; what was acknowledged is in them."""
    with cluster.Cluster(regions=3, folder=tmp_path, arguments=["--quorum"]) as running:
        table = "lost"
        options = ("--by", "hash", "--partitions", "3", "--replicas", "3")
        distribute(running, table, "--key", KEY, *options)
        await_settled(running, table)
        await_routed(running, table)
        running.run("global-table", "mode", table, "semi-sync", "--held-by", "1")
        rows = filled(running, table, ROWS)
        await_everywhere(running, table, rows)
        told = show(running, table)
        part = next(one for one in told["partitions"] if one["primary"] != told["base"])
        lost = running.region(part["primary"])
        others = [region for region in running.regions if region is not lost]
        with Load(running, table, rows, regions=others, may_fail=True) as load:
            reshape(running, table, "split", "--partition", str(part["number"]))
            time.sleep(delay)
            lost.kill()
            writes = load.writes

            def goes_on():
                client = sdk(running, others[0])
                users = [f"user-{n:03}" for n in range(40)]
                try:
                    for user in users:
                        row = tablestore.Row(key(user, -1), {"PUT": [("w", 1)]})
                        client.update_row(table, row, tablestore.Condition("IGNORE"))
                    for user in users:
                        row = tablestore.Row(key(user, -1))
                        client.delete_row(table, row, tablestore.Condition("IGNORE"))
                    return True
                except (tablestore.OTSServiceError, tablestore.OTSClientError):
                    return False

            cluster.wait_until(goes_on, "all partitions are written again", 120, 0.5)
            assert load.writes > writes
            lost.start()
            told = await_reshaped(running, table)
        load.wrong = []
        load.check()
        assert len(told["partitions"]) == 4
        await_settled(running, table)
        verify_partitions(running, table)


def test_what_waits_for_a_region_can_be_given_up(tmp_path):
    with cluster.Cluster(regions=3, folder=tmp_path) as running:
        table = "waiting"
        made(running, table, "--by", "hash", "--partitions", "1")
        rows = filled(running, table, ROWS)
        await_everywhere(running, table, rows)
        told = show(running, table)
        part = told["partitions"][0]
        held = [name for name in part["held"] if name not in (part["primary"], told["base"])]
        if not held:
            held = [name for name in part["held"] if name != part["primary"]]
        away = running.region(held[0])
        if away.name == told["base"]:
            pytest.skip("the base holds the other replica")
        away.kill()
        reshape(running, table, "split", "--partition", "0")

        def waits():
            return (show(running, table)["reshape"] or {}).get("waits")

        cluster.wait_until(waits, "it says what it waits for", 60)
        client = sdk(running, running.region(part["primary"]))
        user, n = next(iter(rows))
        assert value(client, table, user, n) == rows[user, n]
        running.run("distribution", "cancel", table)

        def is_given_up():
            told = show(running, table)
            return told["reshape"] is None and told["silent"]

        # A region that is lost keeps nobody from giving it up.
        cluster.wait_until(is_given_up, "it is given up", 120)
        away.start()
        told = await_reshaped(running, table)
        assert numbers(told) == [0]
        await_everywhere(running, table, rows)
        reshape(running, table, "split", "--partition", "0")
        assert len(numbers(await_reshaped(running, table))) == 2
        await_everywhere(running, table, rows)


def test_a_merge_that_is_given_up_leaves_all_where_it_was(three):
    table = "apart"
    made(three, table, "--by", "hash", "--partitions", "4")
    rows = filled(three, table, 100)

    def places(told):
        return [(one["number"], one["wanted"], sorted(one["held"])) for one in told["partitions"]]

    before = places(show(three, table))
    pairs = list(zip(before, before[1:]))
    one, other = next((pair for pair in pairs if pair[0][1] != pair[1][1]), pairs[0])
    reshape(three, table, "merge", "--partitions", f"{one[0]},{other[0]}")
    three.run("distribution", "cancel", table)
    assert places(await_reshaped(three, table)) == before
    await_everywhere(three, table, rows)


def test_a_hot_partition_is_split_and_a_hot_key_is_not(three):
    table = "hot"
    made(three, table, "--by", "hash", "--partitions", "1")
    rows = filled(three, table, 100)
    three.run("distribution", "set", table, "--split-load", "10")
    with Load(three, table, rows) as load:
        def is_split():
            return len(show(three, table)["partitions"]) > 1

        began = time.monotonic()
        cluster.wait_until(is_split, "the hot partition is split", 120)
        print(f"\nit was split {time.monotonic() - began:.1f} s after its limit was set")
        three.run("distribution", "set", table, "--split-load", "none")
        await_reshaped(three, table)
    load.check()
    told = await_settled(three, table)
    assert len({part["primary"] for part in told["partitions"]}) > 1, "two regions write them"

    table = "hotkey"
    made(three, table, "--by", "hash", "--partitions", "1")
    three.run("distribution", "set", table, "--split-load", "10")
    client = sdk(three, three.regions[0])

    def is_told():
        for _ in range(100):
            row = tablestore.Row(key("one", 0), {"INCREMENT": [("count", 1)]})
            client.update_row(table, row, tablestore.Condition("IGNORE"))
        return events(three, "partition-hot")

    told = cluster.wait_until(is_told, "a hot key is told of", 120)
    assert told[0]["table"].startswith(table)
    assert numbers(show(three, table)) == [0]


def test_a_large_partition_is_split_and_small_ones_are_merged(three):
    table = "large"
    made(three, table, "--by", "range", "--split-points", "m")
    three.run("distribution", "set", table, "--split-size", "1MiB")
    client = sdk(three, three.regions[0])
    text = "x" * 8000
    for n in range(300):
        row = tablestore.Row(key(f"a{n:04}", n), [("v", n), ("text", text)])
        client.put_row(table, row, tablestore.Condition("IGNORE"))

    def is_split():
        return len(show(three, table)["partitions"]) >= 4

    cluster.wait_until(is_split, "the large partition is split", 180)
    told = await_reshaped(three, table)
    three.run("distribution", "set", table, "--split-size", "none")
    expected = {(f"a{n:04}", n): n for n in range(300)}
    await_everywhere(three, table, expected)
    verify_partitions(three, table)
    assert told["limits"] == {"split_bytes": 1 << 20}

    table = "small"
    made(three, table, "--by", "hash", "--partitions", "6")
    rows = filled(three, table, 100)
    three.run("distribution", "set", table, "--merge-size", "1MiB")

    def are_merged():
        return len(show(three, table)["partitions"]) == 3

    cluster.wait_until(are_merged, "small partitions are merged", 240)
    await_reshaped(three, table)
    await_everywhere(three, table, rows)
