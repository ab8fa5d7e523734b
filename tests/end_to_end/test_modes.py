"""Semi-synchronous writes: what is answered is elsewhere, and what happens when nobody keeps up."""

import json
import os
import random
import shutil
import threading
import time

import cluster
import ledger
import pytest
import wire
from sizes import number

# A machine that is busy must not make a region fall back.
PATIENT = ["--bound-ms", "60000", "--patience-ms", "60000"]
MODES = [
    ["semi-sync", *PATIENT],
    ["semi-sync", *PATIENT, "--held-by", "2", "--fallback", "refuse"],
    ["async"],
    ["semi-sync", *PATIENT, "--fallback", "async"],
    ["semi-sync", *PATIENT, "--held-by", "2", "--bound-entries", "1000000"],
]


def prepare(running, table, serve="primary-secondary"):
    client = running.regions[0].client()
    client.create_table(table, ledger.KEY)
    client.close()
    running.make_global(table, serve)


def set_mode(running, table, *words, check=True):
    return running.run("global-table", "mode", table, *words, "--json", check=check)


def told(region, table):
    """What a region tells of a table's mode."""
    done = region.cluster.run("status", "--json", config=region.config)
    status = json.loads(done.stdout)["regions"][0]["status"]
    return next(one for one in status["tables"] if one["name"] == table).get("write_mode")


def wait_state(region, table, state):
    def holds():
        mode = told(region, table)
        return mode if mode and mode.get("state") == state else None

    return cluster.wait_until(holds, f"{table} is {state}", 60, 0.1)


def events(region, kind, table):
    done = region.cluster.run("events", "--json", "--kind", kind, config=region.config)
    return [one for one in json.loads(done.stdout)["events"] if one["table"] == table]


def key(count):
    return [("w", "one"), ("k", count)]


def test_a_region_alone_waits_refuses_or_goes_on_as_it_was_told_and_climbs_back(folder):
    with cluster.Cluster(regions=2, folder=folder) as running:
        r1, r2 = running.regions
        client = r1.client()
        for fallback in ("wait", "refuse", "async"):
            prepare(running, fallback)
            set_mode(running, fallback, "semi-sync", "--fallback", fallback,
                     "--bound-ms", "300", "--patience-ms", "1500")
            client.put_row(fallback, key(1), [("v", 1)])
            assert wait_state(r1, fallback, "in-sync")["holders"][0]["region"] == "r2"
        # A batch is answered when all of it is held, and one row that is refused stays so.
        batch = [(1, key(count), [("v", 1)]) for count in (2, 3)]
        assert client.batch_write("wait", batch) == [None, None]
        r2.kill()

        with pytest.raises(wire.Unknown, match="OTSTimeout"):
            client.put_row("wait", key(4), [("v", 1)])
        assert wait_state(r1, "wait", "fallen-back")["lag_entries"] >= 1
        assert client.get_row("wait", key(4)) is not None, "it is written, and shown"
        with pytest.raises(wire.Unknown, match="OTSTimeout"):
            client.put_row("wait", key(5), [("v", 1)])

        with pytest.raises(wire.Unknown, match="OTSTimeout"):
            client.put_row("refuse", key(4), [("v", 1)])
        wait_state(r1, "refuse", "fallen-back")
        with pytest.raises(wire.Refused, match="OTSPartitionUnavailable"):
            client.put_row("refuse", key(5), [("v", 1)])
        assert client.get_row("refuse", key(5)) is None, "nothing is written"

        client.put_row("async", key(4), [("v", 1)])
        fell = events(r1, "sync-fell-back", "async")
        assert fell and fell[0]["detail"]["fallback"] == "async" and fell[0]["detail"]["reason"]
        client.put_row("async", key(5), [("v", 1)])
        # A region that starts again remembers that it had fallen back.
        r1.kill()
        r1.start()
        client.close()
        client.put_row("async", key(6), [("v", 1)])
        wait_state(r1, "async", "fallen-back")
        assert "fallen back: async" in running.run("top", "--once", "--width", "200").stdout

        r2.start()
        for fallback in ("wait", "refuse", "async"):
            wait_state(r1, fallback, "in-sync")
            cluster.wait_until(lambda name=fallback: writes(client, name), f"{fallback} writes")
        for fallback in ("wait", "refuse", "async"):
            fell = events(r1, "sync-fell-back", fallback)
            assert fell and fell[0]["detail"]["fallback"] == fallback, (fallback, fell)
            assert fell[0]["detail"]["reason"] and events(r1, "sync-restored", fallback), fallback
        other = r2.client()
        for fallback in ("wait", "refuse", "async"):
            assert other.get_row(fallback, key(9)) is not None, fallback
        other.close()
        client.close()


def test_a_bound_in_entries_is_reached_before_the_one_in_time(folder):
    with cluster.Cluster(regions=2, folder=folder) as running:
        r1, r2 = running.regions
        prepare(running, "bound")
        set_mode(running, "bound", "semi-sync", "--fallback", "async", "--bound-entries", "5",
                 "--bound-ms", "600000", "--patience-ms", "60000")
        wait_state(r1, "bound", "in-sync")
        r2.kill()
        # Each waits for the other region until more than the bound wait.
        writers = [threading.Thread(target=put_alone, args=(r1, count), daemon=True)
                   for count in range(4)]
        for writer in writers:
            writer.start()
        cluster.wait_until(lambda: told(r1, "bound")["lag_entries"] >= 4, "four wait", 60, 0.1)
        assert told(r1, "bound")["state"] == "in-sync"
        client = r1.client(timeout=60)
        client.batch_write("bound", [(1, key(count), [("v", 1)]) for count in range(10, 20)])
        assert wait_state(r1, "bound", "fallen-back")
        fell = events(r1, "sync-fell-back", "bound")
        assert "entries" in fell[0]["detail"]["reason"], fell
        for writer in writers:
            writer.join(60)
            assert not writer.is_alive(), "what waited is answered"
        r2.start()
        wait_state(r1, "bound", "in-sync")
        client.close()


def put_alone(region, count):
    client = region.client(timeout=90)
    client.put_row("bound", key(count), [("v", count)])
    client.close()


def writes(client, table):
    try:
        client.put_row(table, key(9), [("v", 9)])
        return True
    except (wire.Refused, wire.Unknown):
        return False


def test_the_mode_is_switched_under_load_and_no_request_fails(three):
    tables = {"one": three.regions[:1], "peers": three.regions}
    prepare(three, "one", "primary-secondary")
    prepare(three, "peers", "peer-to-peer")
    writers = []
    for table, regions in tables.items():
        writers += [ledger.Writer(region, table, region.name) for region in regions]
    for writer in writers:
        writer.start()
    for count in range(number("SWITCHES", 10)):
        for table in tables:
            set_mode(three, table, *MODES[count % len(MODES)])
        time.sleep(0.3)
    for writer in writers:
        writer.stop()
        assert (writer.refusals, writer.unknown) == ([], 0), writer.name
        assert writer.acknowledged == writer.tried and writer.rows > 0, writer.name
    ledger.finish(three, "peers", [one for one in writers if one.table == "peers"])
    assert set_mode(three, "peers", "semi-sync", "--held-by", "3", check=False).returncode
    set_mode(three, "peers", "semi-sync", "--held-by", "2")
    done = three.run("global-table", "unbind", "peers", "--regions", "r3", check=False)
    assert done.returncode and "change its mode first" in done.stderr
    assert [one["text"] for one in events(three.regions[0], "write-mode-set", "peers")]


def test_over_a_chain_who_is_passed_on_to_counts_and_a_paused_link_does_not(three):
    prepare(three, "chain")
    three.run("global-table", "topology", "chain", "chain")
    set_mode(three, "chain", "semi-sync", *PATIENT, "--held-by", "2", "--fallback", "refuse")
    r1, _, r3 = three.regions
    client = r1.client(timeout=90)
    client.put_row("chain", key(1), [("v", 1)])
    far = r3.client()
    assert far.get_row("chain", key(1)) is not None
    far.close()
    three.run("link", "pause", "--table", "chain", "--from", "r2", "--to", "r3")
    cluster.wait_until(lambda: len(told(r1, "chain")["holders"]) == 1, "r3 does not count", 30)
    set_mode(three, "chain", "semi-sync", *PATIENT, "--held-by", "1")
    client.put_row("chain", key(2), [("v", 2)])
    client.close()


class Loss(threading.Thread):
    """Takes a region and its disk away at a random moment after all have written."""

    def __init__(self, region, writers, chance):
        super().__init__(daemon=True)
        self.region, self.writers, self.pause = region, writers, chance.uniform(0, 1.0)

    def run(self):
        cluster.wait_until(lambda: all(w.rows for w in self.writers), "all have written", 60, 0.01)
        time.sleep(self.pause)
        self.region.kill()
        shutil.rmtree(self.region.data)


@pytest.mark.parametrize("serve", ["primary-secondary", "peer-to-peer"])
def test_what_was_acknowledged_outlives_the_region_and_its_disk(folder, serve):
    chance = random.Random(number("SEED", time.time_ns()))
    losses = number("DISK_LOSSES", 200 if os.environ.get("SOAK") else 2)
    for count in range((losses + 1) // 2):
        held_by = 1 + count % 2
        place = folder / str(count)
        place.mkdir()
        with cluster.Cluster(regions=3, folder=place) as running:
            prepare(running, "lost", serve)
            set_mode(running, "lost", "semi-sync", "--held-by", str(held_by))
            origin, *others = running.regions
            writers = [ledger.Writer(origin, "lost", f"w{number}") for number in range(4)]
            loss = Loss(origin, writers, chance)
            for thread in [*writers, loss]:
                thread.start()
            loss.join()
            for writer in writers:
                writer.stop()
                lost = [dict_of(writer.losses(region)) for region in others]
                missing = [key for key in lost[0] if key in lost[1]]
                assert missing == [], f"acknowledged and in no other region: {missing}"
                if held_by == 2:
                    assert lost == [{}, {}], "acknowledged and not in both"
        shutil.rmtree(place, ignore_errors=True)


def dict_of(losses):
    return {key: found for key, *found in losses}
