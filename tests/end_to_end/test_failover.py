"""A region is lost, and another one writes its tables: by itself where writes are held by others,
without losing an acknowledged one; else by a person's word, with what is lost counted before and set
aside after. The lost one comes back fenced, and is made alike."""

import json
import os
import signal
import threading
import time

import cluster
import pytest
import wire
from sizes import number
from test_switchover import KEY, Load, await_forwarding, await_writer, make, set_mode, switch

ROUNDS = number("FAILOVER_ROUNDS", 4)
AGAIN = 30


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("failover")
    with cluster.Cluster(regions=3, folder=folder, arguments=["--quorum"]) as running:
        yield running


def standing(running, region):
    told = running.run("failover", "--json", config=region.config, check=False)
    return json.loads(told.stdout) if told.returncode == 0 else None


def tenure(running, region, table):
    told = standing(running, region)
    found = [one for one in (told or {}).get("tables", []) if one["table"] == table]
    return found[0] if found else None


def await_enrolled(running, table, held_by, regions=None):
    """All regions know that the quorum decides about a table."""
    def known():
        told = [tenure(running, one, table) for one in regions or running.regions]
        return all(one and one["held_by"] == held_by and not one["vacant"] for one in told)

    cluster.wait_until(known, f"the quorum knows of {table}", 60)


def writer(running, table, asked):
    one = tenure(running, asked, table)
    return (one["writer"], one["epoch"]) if one and not one["vacant"] else None


def put_until_taken(client, table, key, value, seconds=60):
    """Seconds until a write is acknowledged."""
    begun = time.monotonic()

    def takes():
        try:
            client.put_row(table, key, [("v", value)])
            return True
        except (wire.Refused, wire.Unknown):
            return False

    cluster.wait_until(takes, f"{table} is written again", seconds, 0.02)
    return time.monotonic() - begun


class Writer(threading.Thread):
    """Puts rows through one region and remembers what was acknowledged."""

    def __init__(self, region, table, name):
        super().__init__(daemon=True)
        self.client, self.table, self.name = region.client(timeout=20), table, name
        self.acknowledged, self.times, self.ending = [], [], threading.Event()

    def run(self):
        number = 0
        while not self.ending.is_set():
            number += 1
            try:
                self.client.put_row(self.table, [("w", self.name), ("k", number)], [("v", number)])
                self.acknowledged.append(number)
                self.times.append(time.monotonic())
            except (wire.Refused, wire.Unknown):
                time.sleep(0.01)

    def stop(self):
        self.ending.set()
        self.join(60)
        assert not self.is_alive()

    def missing(self, client):
        try:
            there = {dict(key)["k"] for key, _ in rows(client, self.table, self.name)}
        except wire.Refused:
            # It is made like the others.
            return self.acknowledged
        return [one for one in self.acknowledged if one not in there]


def rows(client, table, name):
    """All rows of one first key, as (key, cells)."""
    found, start = [], [("w", name), ("k", wire.INF_MIN)]
    while start is not None:
        page, start = client.get_range(table, start, [("w", name), ("k", wire.INF_MAX)])
        found.extend(page)
    return found


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_another_region_writes_by_itself_and_nothing_acknowledged_is_lost(regions, how):
    table = f"held_{how}"
    make(regions, table)
    await_forwarding(regions, table)
    set_mode(regions, table, 1, 10_000)
    await_enrolled(regions, table, 1)
    pauses = []
    for turn in range(ROUNDS):
        alive = regions.regions
        name, epoch = cluster.wait_until(lambda: writer(regions, table, alive[0]), "one writes")
        lost = regions.region(name)
        others = [one for one in regions.regions if one is not lost]
        writers = [Writer(one, table, f"{one.name}-{turn}") for one in regions.regions]
        for one in writers:
            one.start()
        time.sleep(1)
        began = time.monotonic()
        if how == "kill":
            lost.kill()
        else:
            os.kill(lost.pid, signal.SIGSTOP)
        next_one = cluster.wait_until(
            lambda: (told := writer(regions, table, others[0])) and told[1] > epoch and told,
            "another region writes", 60)
        assert next_one[0] != name

        def goes_on(began=began, writers=writers):
            # What was under way when it was lost may have been answered at once.
            return [at for one in writers for at in list(one.times) if at > began + 0.5]

        pauses.append(min(cluster.wait_until(goes_on, "writes go on", 60)) - began)
        if how == "kill":
            lost.start()
        else:
            os.kill(lost.pid, signal.SIGCONT)
        time.sleep(1)
        for one in writers:
            one.stop()
        for region in regions.regions:
            client = region.client(timeout=30)
            for one in writers:
                cluster.wait_until(lambda one=one, client=client: not one.missing(client),
                                   f"{region.name} has all that was acknowledged", 90)
            client.close()
        await_writer(regions, table, next_one[0])
    report = json.loads(regions.run("verify", table, "--regions", "r1,r2,r3", "--json").stdout)
    assert report["equal"]
    print(f"\n{how}: written again after {[round(pause, 2) for pause in pauses]} s")


def test_what_a_lost_region_had_alone_is_counted_set_aside_and_merged(regions):
    table = "alone"
    make(regions, table)
    await_forwarding(regions, table)
    await_enrolled(regions, table, 0)
    name, epoch = writer(regions, table, regions.regions[0])
    lost = regions.region(name)
    others = [one for one in regions.regions if one is not lost]
    client = lost.client(timeout=20)
    client.put_row(table, [("w", "a"), ("k", 0)], [("v", 0)])
    for one in others:
        regions.run("link", "pause", "--table", table, "--from", name, "--to", one.name)
    time.sleep(1)
    for number_of in range(1, AGAIN + 1):
        client.put_row(table, [("w", "a"), ("k", number_of)], [("v", number_of)])
    client.update_row(table, [("w", "a"), ("k", 0)], [("v", 100)])
    client.update_row(table, [("w", "a"), ("k", 2)], [("v", 200)])
    client.close()
    # It tells the others how far it is once a second.
    time.sleep(2.5)
    told = regions.run("failover", "--suspend", name, "--why", "drill", "--dry-run", "--json",
                       config=others[0].config)
    forecast = next(one for one in json.loads(told.stdout)["tables"] if one["table"] == table)
    assert forecast["would_be_lost_entries"] == AGAIN + 2
    lost.kill()
    vacant = cluster.wait_until(
        lambda: (one := tenure(regions, others[0], table)) and one["vacant"], "nobody writes", 60)
    assert vacant["epoch"] == epoch + 1
    # A person must say so: what was acknowledged would be given up.
    time.sleep(2)
    assert tenure(regions, others[0], table)["vacant"]
    cluster.wait_until(lambda: tenure(regions, others[0], table)["vacant"]["claims"], "claims", 30)
    regions.run("failover", "--table", table, "--to", others[0].name, config=others[1].config)
    client = others[1].client(timeout=20)
    put_until_taken(client, table, [("w", "b"), ("k", 1)], 1)
    # One of the rows is overwritten by the next writer.
    client.put_row(table, [("w", "a"), ("k", 1)], [("v", -1)])
    lost.start()
    kept = cluster.wait_until(
        lambda: [one for one in json.loads(
            regions.run("tail", "list", "--json", config=lost.config).stdout)[0]["tails"]
            if one["table"] == table], "the tail is set aside", 60)
    assert kept[0]["rows"] == AGAIN + 2
    # What was asked of the links of the lost region is asked of those that take their place.
    regions.run("link", "resume", "--table", table, "--from", others[0].name, "--to",
                others[1].name, config=others[0].config)
    await_writer(regions, table, others[0].name)
    back = lost.client(timeout=20)

    def alike():
        try:
            found = {dict(key)["k"]: cells for key, cells in rows(back, table, "a")}
        except wire.Refused:
            return False
        return set(found) == {0, 1}

    cluster.wait_until(alike, "the region that was lost is like the others", 60)
    done = json.loads(regions.run("tail", "merge", kept[0]["file"], "--json",
                                  config=lost.config).stdout)
    assert done["merged"] == AGAIN + 1 and done["passed_over"] == 1
    for region in regions.regions:
        one = region.client(timeout=20)

        def merged(one=one):
            values = {dict(key)["k"]: dict(cell[:2] for cell in cells)["v"]
                      for key, cells in rows(one, table, "a")}
            told = [values.get(number_of) for number_of in (0, 1, 2)]
            return len(values) == AGAIN + 1 and told == [100, -1, 200]

        cluster.wait_until(merged, f"{region.name} has what was merged", 60)
        one.close()
    again = json.loads(regions.run("tail", "merge", kept[0]["file"], "--json",
                                   config=lost.config).stdout)
    assert again["merged"] == 0
    report = json.loads(regions.run("verify", table, "--regions", "r1,r2,r3", "--json").stdout)
    assert report["equal"]
    client.close()
    back.close()


def test_switchovers_are_granted_by_the_quorum(regions):
    table = "planned"
    make(regions, table)
    await_forwarding(regions, table)
    set_mode(regions, table, 1, 20_000)
    await_enrolled(regions, table, 1)
    pauses = []
    with Load(regions, table) as load:
        time.sleep(0.5)
        for turn in range(4):
            told = switch(regions, table, ["r2", "r3", "r1"][turn % 3])
            assert told["changed"]
            pauses.append(told["pause_ms"])
            time.sleep(0.5)
    assert load.errors() == []
    load.check()
    audit = [one["what"] for one in standing(regions, regions.regions[0])["audit"]]
    assert audit
    print(f"\npauses of switchovers under a quorum in ms: {[round(one, 1) for one in pauses]}")


def test_the_others_know_before_a_region_answers_alone(regions):
    table = "falls_back"
    make(regions, table)
    await_forwarding(regions, table)
    regions.run("global-table", "mode", table, "semi-sync", "--held-by", "2", "--bound-ms", "500",
                "--patience-ms", "10000", "--fallback", "async")
    await_enrolled(regions, table, 2)
    name, _ = writer(regions, table, regions.regions[0])
    writes = regions.region(name)
    away = next(one for one in regions.regions if one is not writes)
    asked = next(one for one in regions.regions if one not in (writes, away))
    away.kill()
    client = writes.client(timeout=20)
    put_until_taken(client, table, [("w", "a"), ("k", 1)], 1)
    told = tenure(regions, asked, table)
    assert (told["held_by"], told["automatic"]) == (0, False)
    away.start()
    await_enrolled(regions, table, 2)
    client.put_row(table, [("w", "a"), ("k", 2)], [("v", 2)])
    client.close()


def test_a_region_alone_acknowledges_nothing(regions):
    table = "cut_off"
    make(regions, table)
    await_forwarding(regions, table)
    await_enrolled(regions, table, 0)
    name, _ = writer(regions, table, regions.regions[0])
    alone = regions.region(name)
    others = [one for one in regions.regions if one is not alone]
    for one in others:
        os.kill(one.pid, signal.SIGSTOP)
    try:
        time.sleep(5)
        client = alone.client(timeout=5)
        with pytest.raises((wire.Refused, wire.Unknown)):
            client.put_row(table, [("w", "x"), ("k", 1)], [("v", 1)])
        client.close()
    finally:
        for one in others:
            os.kill(one.pid, signal.SIGCONT)
    client = alone.client(timeout=20)
    put_until_taken(client, table, [("w", "y"), ("k", 1)], 1)
    client.close()
