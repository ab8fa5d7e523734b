"""Changes of schemas travel in the log: options, defined columns, rules and drops take effect in
every region, among writes, pauses, stops and crashes, and nothing stalls."""

import contextlib
import json
import random

import cluster
import ledger
import pytest
import verifying
import wire
from sizes import number

CHANGES = number("SCHEMA_CHANGES", 60)
SEED = number("SEED", 3)
STRING = 4


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    with cluster.Cluster(regions=3, folder=tmp_path_factory.mktemp("schemas")) as running:
        yield running


def make(running, table, regions, serve, sync="row"):
    client = running.regions[0].client()
    client.create_table(table, ledger.KEY)
    client.put_row(table, [("w", "first"), ("k", 1)], [("v", 1)])
    client.close()
    running.run("global-table", "create", table, "--regions", regions, "--serve", serve,
                "--sync", sync)
    for name in regions.split(","):
        cluster.wait_until(lambda name=name: has_row(running.region(name), table),
                           f"{name} has {table}", 60)


def has_row(region, table, key=(("w", "first"), ("k", 1))):
    client = region.client()
    try:
        return client.get_row(table, list(key)) is not None
    except (wire.Refused, wire.Unknown):
        return False
    finally:
        client.close()


def tables(region):
    client = region.client()
    try:
        return client.list_table()
    finally:
        client.close()


def gone_from(region, table):
    client = region.client()
    try:
        client.get_row(table, [("w", "first"), ("k", 1)])
        return False
    except wire.Refused as refusal:
        return refusal.code == "OTSObjectNotExist"
    finally:
        client.close()


def drop(running, table, *arguments, asked=None):
    done = running.run("global-table", "drop", table, "--json", *arguments,
                       config=asked and asked.config)
    return json.loads(done.stdout)


def test_a_drop_is_asked_for_anywhere_and_leaves_nothing_anywhere(three):
    for table, serve in [("single", "primary-secondary"), ("peers", "peer-to-peer")]:
        make(three, table, "r1,r2,r3", serve)
        assert drop(three, table, asked=three.regions[2])["gone"]
        for region in three.regions:
            assert table not in tables(region) and gone_from(region, table)
        done = three.run("global-table", "describe", table, check=False)
        assert done.returncode != 0
        kinds = {one["kind"] for one in events(three, table)}
        assert {"table-dropped", "table-gone"} <= kinds


def events(running, table):
    told = json.loads(running.run("events", "--json", "--table", table).stdout)
    return told["events"]


@pytest.mark.parametrize("serve", ["primary-secondary", "peer-to-peer"])
def test_a_region_that_was_away_learns_of_the_drop_and_of_the_new_table(three, serve):
    table = "orders"
    make(three, table, "r1,r2,r3", serve)
    away = three.regions[2]
    away.kill()
    told = drop(three, table, "--no-wait")
    assert not told["gone"]
    for region in three.regions[:2]:
        cluster.wait_until(lambda region=region: gone_from(region, table),
                           f"{region.name} shows no {table}", 60)
    # The log and the record are kept for the region that is away; the name is free.
    client = three.regions[0].client()
    client.create_table(table, ledger.KEY)
    client.put_row(table, [("w", "new"), ("k", 1)], [("v", 2)])
    client.close()
    three.run("global-table", "create", table, "--regions", "r1,r2,r3", "--serve", serve,
              "--no-wait")
    # What is kept of the drop outlives a crash of who asks.
    three.regions[0].kill()
    three.regions[0].start()
    away.start()
    for region in three.regions:
        cluster.wait_until(
            lambda region=region: has_row(region, table, (("w", "new"), ("k", 1))),
            f"{region.name} has the new table", 60)
        assert not has_row(region, table), "no row of the table that was dropped"
    verifying.verify(three, table, regions="r1,r2,r3", expect=verifying.ALIKE)
    drop(three, table)


def test_a_paused_link_holds_the_drop_back_in_its_region_only(three):
    make(three, "held", "r1,r2,r3", "primary-secondary")
    three.run("link", "pause", "--table", "held", "--to", "r3")
    told = drop(three, "held", "--no-wait")
    assert not told["gone"]
    cluster.wait_until(lambda: gone_from(three.regions[1], "held"), "r2 has the drop", 60)
    assert has_row(three.regions[2], "held"), "r3 obeys where its log comes to it"
    three.run("link", "resume", "--table", "held", "--to", "r3")
    for region in three.regions:
        cluster.wait_until(lambda region=region: gone_from(region, "held"),
                           f"{region.name} has the drop", 60)


def test_what_is_no_global_table_is_deleted_and_not_dropped(three):
    client = three.regions[0].client()
    client.create_table("alone", ledger.KEY)
    done = three.run("global-table", "drop", "alone", check=False)
    assert done.returncode != 0 and done.stderr
    client.delete_table("alone")
    make(three, "shared", "r1,r2", "primary-secondary")
    with pytest.raises(wire.Refused, match="Drop that"):
        client.delete_table("shared")
    client.close()
    drop(three, "shared")


class Changes:
    """Random changes of one table among everything else."""

    def __init__(self, running, table, chance):
        self.running, self.table, self.chance = running, table, chance
        self.defined, self.made = set(), 0

    def one(self):
        kinds = [self.options] * 4 + [self.column] * 3 + [self.rules] * 2 + [self.links] * 2
        if self.made % 20 == 19:
            kinds = [self.crash]
        self.made += 1
        self.chance.choice(kinds)()

    def base(self, change):
        client = self.running.regions[0].client()
        try:
            cluster.wait_until(lambda: self.tried(change, client), f"{self.table} is changed", 60)
        finally:
            client.close()

    @staticmethod
    def tried(change, client):
        try:
            change(client)
        except wire.Unknown:
            return False
        return True

    def options(self):
        versions = self.chance.randrange(1, 5)
        seconds = self.chance.choice([-1, 86_400, 200_000, 1_000_000])
        self.base(lambda client: client.update_table(self.table, versions, seconds))

    def column(self):
        name = f"d{self.chance.randrange(8)}"

        def change(client):
            # An answer that was lost may have been an answer.
            with contextlib.suppress(wire.Refused):
                if name in self.defined:
                    client.delete_defined_column(self.table, [name])
                else:
                    client.add_defined_column(self.table, [(name, STRING)])

        self.base(change)
        self.defined ^= {name}

    def rules(self):
        rule = self.chance.choice(["max", "min", "last-writer", "priority"])
        words = ["table", "rules", self.table, "--column", f"c{self.chance.randrange(3)}={rule}"]
        done = self.running.run(*words, check=False)
        # A region that is away or a table whose rows conflict whole has none.
        assert done.returncode == 0 or "Region" in done.stderr or "rows" in done.stderr, done

    def links(self):
        verb = self.chance.choice(["pause", "resume", "resume", "stop"])
        one, other = self.chance.sample(["r1", "r2", "r3"], 2)
        words = ["link", verb, "--table", self.table, "--from", one, "--to", other]
        self.running.run(*words, check=False)

    def crash(self):
        region = self.chance.choice(self.running.regions)
        region.kill()
        region.start()


def test_random_changes_among_writes_pauses_and_crashes_neither_stall_nor_corrupt(three):
    chance = random.Random(SEED)
    make(three, "one", "r1,r2,r3", "primary-secondary")
    make(three, "many", "r1,r2,r3", "peer-to-peer", "column")
    writers = {
        "one": [ledger.Writer(three.regions[0], "one", "r1")],
        "many": [ledger.Writer(region, "many", region.name) for region in three.regions],
    }
    for writer in sum(writers.values(), []):
        writer.start()
    changes = [Changes(three, table, chance) for table in writers]
    for place in range(CHANGES):
        changes[place % 2].one()
    for table in writers:
        three.run("link", "resume", "--table", table)
    # Both tables get and keep what was written, wherever.
    for writer in sum(writers.values(), []):
        writer.stop()
        assert writer.rows > 0, writer.refusals[-3:]
    for table, of_table in writers.items():
        verifying.level(three, table, three.regions if table == "many" else three.regions[:1])
        cluster.wait_until(lambda table=table: not ledger.differing(three.regions, table),
                           f"{table} is alike", 60, 1)
        for writer in of_table:
            for region in three.regions:
                assert writer.losses(region) == [], f"{table}: rows lost in {region.name}"
        told = [schema(three, region, table) for region in three.regions]
        assert told[0] == told[1] == told[2]
        cluster.wait_until(
            lambda table=table: all(
                verifying.digest_of(region, three, table)["state"] == "ready"
                for region in three.regions),
            f"digests of {table} are ready", 60, 0.5)
        verifying.verify(three, table, regions="r1,r2,r3", expect=verifying.ALIKE)
        drop(three, table)


def schema(running, region, table):
    """What of a table must be alike: what the public API tells, and the number and rules."""
    client = region.client()
    described = {tag: value for tag, value in client.describe_table(table).items()
                 if tag in (1, 3)}
    client.close()
    told = json.loads(running.run("table", "rules", table, "--json", config=region.config).stdout)
    return described, told
