"""Batches that are made in several partitions, tables and regions or in none: nothing of one is seen
alone, whatever is killed, switched over or lost; a row that cannot be written lets nothing be."""

import contextlib
import json
import random
import threading
import time

import cluster
import pytest
import wire
from sizes import number
from test_distribution import await_routed, await_settled, distribute
from test_failover import await_enrolled, put_until_taken
from test_modes import set_mode
from test_reshape import await_reshaped, numbers, reshape
from test_seeing import samples, scrape
from test_switchover import await_forwarding, await_writer, make, switch
from test_sync import PATIENT, await_open
from test_upgrade import restart

ACCOUNTS = 8
START = 1000
SECONDS = number("ATOMIC_SECONDS", 4)
KILLS = number("ATOMIC_KILLS", 2)
PUT, UPDATE = 1, 2
MUST_EXIST, MUST_NOT_EXIST = 1, 2


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("atomic")
    with cluster.Cluster(regions=3, folder=folder, arguments=["--quorum"]) as running:
        yield running


def key(count):
    return [("w", "one"), ("k", count)]


def atomic(region, timeout=60):
    client = region.client(timeout=timeout)
    client.atomic = True
    return client


def value(found, name="v"):
    return None if found is None else {cell[0]: cell[1] for cell in found[1]}.get(name)


def add(table, account, amount, make_key=key):
    cells = [("v", amount, None, wire.INCREMENT)]
    return table, UPDATE, make_key(account), cells


def newest(region):
    client = region.client(timeout=60)
    client.as_of = "newest"
    return client


def pair(running, name, *mode, apart=True):
    """Two tables, written in different regions."""
    tables = [f"{name}_a", f"{name}_b"]
    for place, table in enumerate(tables):
        make(running, table)
        await_forwarding(running, table)
        if apart and place == 1:
            switch(running, table, running.regions[1].name)
            await_writer(running, table, running.regions[1].name)
        if mode:
            set_mode(running, table, *mode)
        if mode and mode[0] == "sync":
            await_open(running, table)
            await_enrolled(running, table, 2 if "two-phase" in mode else 1)
    return tables


def batches(running, table, region):
    """What a region keeps of batches of a table."""
    told = json.loads(running.run("status", "--json", config=region.config).stdout)
    found = [one for one in told["regions"][0]["status"]["tables"] if one["name"] == table]
    return found[0].get("batches") if found else None


def await_none_in_doubt(running, tables, regions):
    def holds():
        kept = [batches(running, table, region) for table in tables for region in regions]
        return not any(one and one["in_doubt"] for one in kept)

    cluster.wait_until(holds, f"no batch of {tables} is in doubt", 120, 0.3)


def await_nothing_left(running, tables, regions=None, seconds=120):
    def holds():
        return not any(
            batches(running, table, region)
            for table in tables for region in regions or running.regions
        )

    cluster.wait_until(holds, f"nothing is left of batches of {tables}", seconds, 0.3)


def figures(running, region):
    """What a region counts of batches of several partitions, by name and labels."""
    token = (running.data / "metrics.token").read_text(encoding="utf-8").strip()
    code, text = scrape(region, token)
    assert code == 200
    return {name.removeprefix("isthmus_"): value for name, value in samples(text).items()
            if name.startswith("isthmus_batch")}


def parts_settled(found):
    return sum(value for name, value in found.items()
               if name.startswith("batch_parts_settled_total"))


def test_a_batch_of_tables_of_two_regions_is_made_wholly_or_not_at_all(regions):
    tables = pair(regions, "whole")
    anchor = regions.regions[0]
    before = figures(regions, anchor)
    for place, region in enumerate(regions.regions):
        client, reader = atomic(region), newest(region)
        rows = [(table, PUT, key(place), [("v", place)]) for table in tables]
        assert client.batch_write_rows(rows) == [None, None]
        for table in tables:
            assert value(reader.get_row(table, key(place))) == place
        # Several rows of one table and of another, one of which must not exist.
        rows = [(table, PUT, key(100 + count), [("v", 1)]) for table in tables
                for count in range(3)]
        rows[4] = (tables[1], PUT, key(place), [("v", 9)], MUST_NOT_EXIST)
        told = client.batch_write_rows(rows)
        assert told[4] == ("OTSConditionCheckFail", "Condition check failed.")
        given_up = f"because of row 2 of table {tables[1]}"
        others = told[:4] + told[5:]
        assert {code for code, _ in others} == {"OTSConditionCheckFail"}
        assert all(given_up in message for _, message in others), others
        for table in tables:
            assert reader.get_row(table, key(100)) is None
            assert value(reader.get_row(table, key(place))) == place
        client.close()
        reader.close()
    await_nothing_left(regions, tables)
    after = figures(regions, anchor)
    grown = {name: after[name] - before[name] for name in after}
    assert grown["batches_begun_total"] == 6
    assert grown['batches_total{outcome="made"}'] == 3
    assert grown['batches_total{outcome="refused"}'] == 3
    assert grown['batches_total{outcome="unknown"}'] == 0
    assert after["batches_in_doubt"] == 0 and after["batches_unsettled"] == 0
    told = regions.run("status", config=anchor.config).stdout
    assert f"batches of several partitions in {anchor.name}: " in told


def test_what_cannot_be_made_so_is_refused_with_a_reason(regions):
    tables = pair(regions, "refused")
    client = atomic(regions.regions[0])
    twice = [(tables[0], PUT, key(1), [("v", 1)])] * 2 + [(tables[1], PUT, key(1), [("v", 1)])]
    assert all(client.batch_write_rows(twice)), "a row is there twice"
    plain = regions.regions[0].client()
    plain.create_table("refused_many", [("w", 2), ("k", 1)])
    regions.make_global("refused_many", "peer-to-peer")
    several = [(tables[0], PUT, key(2), [("v", 1)]), ("refused_many", PUT, key(2), [("v", 1)])]
    told = client.batch_write_rows(several)
    assert all(told) and "written by several regions" in str(told)
    assert newest(regions.regions[0]).get_row(tables[0], key(2)) is None
    with pytest.raises(wire.Refused) as refused:
        client.batch_write_rows([(tables[0], PUT, key(3), [("v", 1)]),
                                 ("not_there", PUT, key(3), [("v", 1)])])
    assert refused.value.code == "OTSObjectNotExist"
    with pytest.raises(wire.Refused) as refused:
        client.get_row(tables[0], key(1))
    assert "x-isthmus-atomic" in refused.value.message
    # Rows of one partition, of several partition keys.
    rows = [(tables[0], PUT, [("w", str(count)), ("k", 1)], [("v", 1)]) for count in range(5)]
    assert client.batch_write_rows(rows) == [None] * 5
    client.close()
    plain.close()


def test_tables_of_one_region_alone(tmp_path):
    with cluster.Cluster(regions=1, folder=tmp_path) as running:
        client, plain = atomic(running.regions[0]), running.regions[0].client()
        for table in ("left", "right"):
            plain.create_table(table, [("w", 2), ("k", 1)])
        rows = [(table, PUT, key(1), [("v", 1)]) for table in ("left", "right")]
        assert client.batch_write_rows(rows) == [None, None]
        rows = [("left", PUT, key(1), [("v", 2)]), ("right", PUT, key(2), [("v", 2)], MUST_EXIST)]
        assert all(client.batch_write_rows(rows))
        found = plain.batch_get_rows([("left", key(1)), ("right", key(1)), ("right", key(2))])
        assert [value(one) for one in found] == [1, 1, None]
        with Transfers(running, ["left", "right"]) as load:
            # Schemas change, and whole tables are read, while rows are locked again and again.
            for count in range(3):
                for table in ("left", "right"):
                    plain.add_defined_column(table, [(f"column_{count}", 2)])
                    assert len(list(plain.scan(table, ["w", "k"]))) >= ACCOUNTS
            for _ in range(KILLS):
                time.sleep(1)
                running.regions[0].kill()
                running.regions[0].start()
        load.check()
        await_nothing_left(running, ["left", "right"])
        client.close()
        plain.close()


def distributed_key(account):
    return [("u", f"user-{account}"), ("n", account)]


def test_rows_of_several_partitions_of_a_distributed_table(regions):
    table = "spread"
    distribute(regions, table, "--key", "u:string,n:integer", "--partitions", "6",
               "--by", "hash", "--replicas", "2")
    await_settled(regions, table)
    await_routed(regions, table)
    for place, region in enumerate(regions.regions):
        client = atomic(region)
        rows = [(table, PUT, distributed_key(100 * place + count), [("v", place)])
                for count in range(20)]
        assert client.batch_write_rows(rows) == [None] * 20
        bad = [*rows[:10], (table, PUT, rows[3][2], [("v", 9)], MUST_NOT_EXIST)]
        bad = [(*one[:3], [("v", 7)], *one[4:]) for one in bad[4:]]
        assert all(client.batch_write_rows(bad))
        found = client.batch_get_rows([(table, one[2]) for one in rows])
        assert [value(one) for one in found] == [place] * 20
        client.close()
    with Transfers(regions, [table], distributed_key) as load:
        time.sleep(SECONDS)
    load.check()


def test_partitions_are_split_and_merged_among_batches(regions):
    table, other = "reshaped", "beside_reshaped"
    distribute(regions, table, "--key", "u:string,n:integer", "--partitions", "2",
               "--by", "hash", "--replicas", "2")
    distribute(regions, other, "--key", "u:string,n:integer", "--partitions", "2",
               "--by", "hash", "--replicas", "2")
    for one in (table, other):
        await_settled(regions, one)
        await_routed(regions, one)
    with Transfers(regions, [table, other], distributed_key) as load:
        time.sleep(1)
        reshape(regions, table, "split", "--partition", "0", "--at", "4" + "0" * 15)
        assert numbers(await_reshaped(regions, table, 90)) == [2, 3, 1]
        reshape(regions, table, "merge", "--partitions", "3,1")
        assert numbers(await_reshaped(regions, table, 90)) == [2, 4]
        made = load.made
        time.sleep(2)
        assert load.made > made
    load.check()


class Transfers:
    """Moves amounts between accounts of tables through all regions, and reads all of them as of one
    moment again and again: their sum is always the same."""

    def __init__(self, running, tables, make_key=key, regions=None):
        self.regions, self.make_key = regions or running.regions, make_key
        self.accounts = [(table, account) for table in tables for account in range(ACCOUNTS)]
        self.ending = threading.Event()
        self.made, self.refused, self.unknown, self.reads = 0, 0, 0, 0
        self.wrong = []
        self.threads = []

    def keys(self):
        return [(table, self.make_key(account)) for table, account in self.accounts]

    def __enter__(self):
        client = atomic(self.regions[0])
        rows = [(table, PUT, one, [("v", START)]) for table, one in self.keys()]
        assert client.batch_write_rows(rows) == [None] * len(rows)
        client.close()
        for region in self.regions:
            self.threads += [threading.Thread(target=self.transfer, args=(region,), daemon=True)
                             for _ in range(2)]
            self.threads.append(threading.Thread(target=self.read, args=(region,), daemon=True))
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        for thread in self.threads:
            thread.join(120)
            assert not thread.is_alive()

    def transfer(self, region):
        client, chance = atomic(region), random.Random()
        while not self.ending.is_set():
            (one, a), (other, b) = chance.sample(self.accounts, 2)
            amount = chance.randrange(1, 10)
            try:
                told = client.batch_write_rows([
                    add(one, a, -amount, self.make_key), add(other, b, amount, self.make_key),
                ])
                self.made += told == [None, None]
                self.refused += any(told)
                if any(told) and not all(told):
                    self.wrong.append(told)
                time.sleep(0.02)
            except wire.Refused:
                self.refused += 1
                time.sleep(0.02)
            except wire.Unknown:
                self.unknown += 1
                time.sleep(0.05)
        client.close()

    def read(self, region):
        client = atomic(region)
        while not self.ending.is_set():
            with contextlib.suppress(wire.Refused, wire.Unknown):
                self.look(client)
                self.reads += 1
            time.sleep(0.01)
        client.close()

    def look(self, client):
        found = [value(one) for one in client.batch_get_rows(self.keys())]
        if None in found or sum(found) != START * len(found):
            self.wrong.append(found)

    def check(self):
        print(f"{self.made} made, {self.refused} refused, {self.unknown} unknown, "
              f"{self.reads} reads")
        assert self.wrong == [] and self.made > 0
        for region in self.regions:
            client = atomic(region)

            def shows(client=client):
                with contextlib.suppress(wire.Refused, wire.Unknown):
                    self.look(client)
                    return True

            cluster.wait_until(shows, f"{region.name} reads all accounts", 60)
            client.close()
        assert self.wrong == []


def alike(load, tables):
    """In the end each region's own replica has the sum, too."""
    keys = load.keys()
    for region in load.regions:
        client = region.client(timeout=30)
        client.as_of = "local"

        def holds(client=client):
            with contextlib.suppress(wire.Refused, wire.Unknown):
                found = [value(client.get_row(table, one)) for table, one in keys]
                return None not in found and sum(found) == START * len(found)

        cluster.wait_until(holds, f"{region.name} has the sum of {tables}", 60, 0.2)
        client.close()


MODES = {
    "async": [],
    "semi-sync": ["semi-sync", *PATIENT],
    "two-phase": ["sync", "--form", "two-phase", *PATIENT],
    "three-phase": ["sync", "--form", "three-phase", *PATIENT],
}


@pytest.mark.parametrize("mode", MODES)
def test_transfers_keep_the_sum_while_regions_are_killed(regions, mode):
    tables = pair(regions, f"kill_{mode.replace('-', '_')}", *MODES[mode])
    # What is asynchronous nobody takes over without a person's word: its region comes back.
    with Transfers(regions, tables) as load:
        for count in range(KILLS):
            time.sleep(SECONDS / 2)
            region = regions.regions[count % 2]
            region.kill()
            time.sleep(0.3)
            region.start()
        time.sleep(SECONDS / 2)
    load.check()
    assert load.reads > 0
    await_nothing_left(regions, tables)
    alike(load, tables)


def test_transfers_keep_the_sum_while_writers_change(regions):
    tables = pair(regions, "moved")
    with Transfers(regions, tables) as load:
        for count in range(4):
            time.sleep(SECONDS / 4)
            table, to = tables[count % 2], regions.regions[(count + 2) % 3].name
            done = switch(regions, table, to, check=False)
            if isinstance(done, dict):
                await_writer(regions, table, to)
    load.check()
    await_nothing_left(regions, tables)
    alike(load, tables)


def test_a_region_that_stays_away_leaves_no_row_locked_when_others_take_over(regions):
    """The region that coordinates is lost in the middle, and another one writes its tables."""
    tables = pair(regions, "lost", *MODES["three-phase"])
    first, left = regions.regions[0], regions.regions[1:]
    with Transfers(regions, tables) as load:
        time.sleep(SECONDS / 2)
        first.kill()
        client = left[0].client(timeout=60)
        put_until_taken(client, tables[0], key(500), 1)
        client.close()
        time.sleep(SECONDS / 2)
    await_none_in_doubt(regions, tables, left)
    assert load.wrong == []
    first.start()
    load.check()
    await_nothing_left(regions, tables)
    alike(load, tables)


def test_intents_outlive_restarts_and_end_when_the_anchor_is_back(regions):
    """The region that decides is lost in the middle, and no other one takes over: rows stay locked,
    also when their own region starts anew, and are settled when it is back."""
    tables = pair(regions, "doubt")
    first, second = regions.regions[:2]
    load = Transfers(regions, tables)
    with load:
        cluster.wait_until(lambda: load.made > 20, "batches are made", 60)

        def caught():
            first.kill()
            time.sleep(0.5)
            kept = batches(regions, tables[1], second)
            if kept and kept["in_doubt"]:
                return kept
            made = load.made
            first.start()
            # Else there is no batch to be caught.
            cluster.wait_until(lambda: load.made > made + 20, "batches are made", 60)
            return None

        kept = cluster.wait_until(caught, "a batch is in doubt", 180)
    assert kept["oldest"][0]["anchor"] == tables[0] and kept["oldest"][0]["rows"] > 0
    second.kill()
    second.start()
    kept = batches(regions, tables[1], second)
    assert kept["in_doubt"] == len(kept["oldest"]) > 0
    told = regions.run("status", config=second.config).stdout
    assert "of several partitions in doubt" in told and tables[0] in told
    found = figures(regions, second)
    assert found["batches_in_doubt"] >= kept["in_doubt"]
    assert found["batches_in_doubt_oldest_seconds"] > 0
    settled = parts_settled(found)
    # Nobody sees or changes what is locked.
    client, plain, locked = newest(second), second.client(timeout=30), 0
    for account in range(ACCOUNTS):
        try:
            client.get_row(tables[1], key(account))
        except wire.Refused as error:
            assert error.code == "OTSPartitionUnavailable"
            with pytest.raises(wire.Refused) as refused:
                plain.put_row(tables[1], key(account), [("v", 0)])
            assert refused.value.code == "OTSRowOperationConflict"
            locked += 1
    assert locked > 0
    client.close()
    plain.close()
    first.start()
    await_nothing_left(regions, tables)
    found = figures(regions, second)
    assert found["batches_in_doubt"] == found["batches_in_doubt_oldest_seconds"] == 0
    # It asked, unless the anchor had decided and told it first.
    assert parts_settled(found) > settled
    load.check()
    alike(load, tables)


def test_a_replica_that_is_copied_among_batches_can_write(regions):
    """A region is bound while batches are open, and writes the table soon after."""
    names = [region.name for region in regions.regions]
    tables = ["bound_a", "bound_b"]
    for table in tables:
        make(regions, table, *names[:2])
    for table in tables:
        cluster.wait_until(lambda table=table: passes(regions.regions[0], table), table, 60)
    told = Transfers(regions, tables)
    told.running = type("Two", (), {"regions": regions.regions[:1]})()
    with told as load:
        time.sleep(SECONDS / 2)
        for table in tables:
            regions.run("global-table", "bind", table, "--regions", names[2])
        for table in tables:
            regions._wait_replica(regions.regions[2], table)
            time.sleep(0.3)
            cluster.wait_until(
                lambda table=table: isinstance(switch(regions, table, names[2], check=False), dict),
                f"{names[2]} writes {table}", 60, 0.5,
            )
        time.sleep(SECONDS / 2)
    load.check()
    await_nothing_left(regions, tables)


def passes(region, table):
    client = region.client(timeout=30)
    try:
        client.put_row(table, key(900), [("v", 0)])
        return True
    except (wire.Refused, wire.Unknown):
        return False
    finally:
        client.close()


def test_the_command_line_writes_rows_of_several_tables(regions):
    tables = pair(regions, "command", apart=False)

    def change(table, count, **what):
        return json.dumps({"table": table, "key": {"w": "one", "k": count}, **what})

    done = regions.run("row", "batch", change(tables[0], 1, put={"v": 5}),
                       change(tables[1], 1, increment={"v": 2}, update={"text": "two"}), "--json")
    assert json.loads(done.stdout) == {"done": "written", "rows": 2}
    refused = regions.run("row", "batch", change(tables[0], 1, delete=True),
                          change(tables[1], 9, put={"v": 1}, **{"if": "exists"}), check=False)
    assert refused.returncode != 0 and "OTSConditionCheckFail" in refused.stderr
    client = newest(regions.regions[1])
    found = [client.get_row(table, key(1)) for table in tables]
    assert [value(one) for one in found] == [5, 2] and value(found[1], "text") == "two"
    client.close()


def test_regions_that_know_no_such_batches_are_told_apart(tmp_path):
    with cluster.Cluster(regions=2, folder=tmp_path) as running:
        tables = ["old_a", "old_b"]
        for table in tables:
            make(running, table)
        old = running.regions[1]
        restart(old, 7)
        client = atomic(running.regions[0])
        rows = [(table, PUT, key(1), [("v", 1)]) for table in tables]

        def refused():
            try:
                client.batch_write_rows(rows)
            except (wire.Refused, wire.Unknown) as error:
                return f"Region {old.name}" in str(error) and "knows no batches" in str(error)
            return False

        cluster.wait_until(refused, "the batch is refused", 60, 0.5)
        assert client.batch_write_rows(rows[:1]) == [None], "one partition needs nothing new"
        restart(old, None)

        def made():
            with contextlib.suppress(wire.Refused, wire.Unknown):
                return client.batch_write_rows(rows) == [None, None]

        cluster.wait_until(made, "the batch is made", 60, 0.5)
        client.close()


def test_a_replica_that_was_unbound_says_nothing_of_the_batches_of_others(regions):
    tables = pair(regions, "own_way", *MODES["semi-sync"])
    writers, alone = regions.regions[:2], regions.regions[2]
    client = atomic(writers[0])
    assert client.batch_write_rows(
        [(table, PUT, key(1000), [("v", 1)]) for table in tables]) == [None, None]
    own, plain, near = atomic(alone), alone.client(timeout=60), writers[0].client(timeout=60)
    plain.as_of = "local"
    for table in tables:
        cluster.wait_until(lambda table=table: value(plain.get_row(table, key(1000))) == 1,
                           f"{alone.name} has {table}", 60)
        regions.run("global-table", "unbind", table, "--regions", alone.name)

        def is_unbound(table=table):
            replicas = near.describe_global_table(table)["tables"]
            return alone.name not in [one["region"] for one in replicas]

        cluster.wait_until(is_unbound, f"{alone.name} is unbound from {table}", 60)

    def makes_its_own():
        with contextlib.suppress(wire.Refused, wire.Unknown):
            rows = [(table, PUT, key(1001), [("v", 2)]) for table in tables]
            return own.batch_write_rows(rows) == [None, None]

    cluster.wait_until(makes_its_own, f"{alone.name} has tables of its own", 120, 0.5)
    with Transfers(regions, tables, regions=writers) as load:
        for count in range(KILLS):
            time.sleep(SECONDS / 2)
            region = writers[count % 2]
            region.kill()
            cluster.wait_until(makes_its_own, "its batches need nobody else", 60)
            region.start()
        time.sleep(SECONDS / 2)
    load.check()
    await_nothing_left(regions, tables)
    alike(load, tables)
    for table in tables:
        assert value(plain.get_row(table, key(1001))) == 2
        assert plain.get_row(table, key(0)) is None, "it has no rows of theirs"
        # What it has made alone goes when it is a replica again.
        regions.run("global-table", "bind", table, "--regions", alone.name)

        def has_theirs(table=table):
            with contextlib.suppress(wire.Refused, wire.Unknown):
                return plain.get_row(table, key(1001)) is None

        cluster.wait_until(has_theirs, f"{alone.name} has what others have of {table}", 120)
    there = newest(writers[0])
    assert [there.get_row(table, key(1001)) for table in tables] == [None, None]
    for one in (client, own, plain, near, there):
        one.close()
