"""The log of a replica that does not come: alarms in order, a gap, and a copy of what differs."""

import itertools
import json
import os

import cluster
import ledger
import verifying

TABLE = "kept"
KIB = 1024


def told(running, *words):
    """The JSON of a command that may find a region silent."""
    return json.loads(running.run(*words, "--json", check=False).stdout)


def status(running):
    return next(one["status"] for one in told(running, "status")["regions"] if one["name"] == "r1")


def events(running, kind):
    """Events of a kind in the first region, oldest first."""
    found = told(running, "events", "--kind", kind, "--table", TABLE)["events"]
    return [one for one in reversed(found) if one["region"] == "r1"]


def test_alarms_come_in_order_and_a_gap_is_healed_by_what_differs(folder):
    with cluster.Cluster(regions=2, folder=folder) as running:
        first, second = running.regions
        client = first.client()
        client.create_table(TABLE, ledger.KEY)
        running.make_global(TABLE, "primary-secondary")
        first.kill()
        with open(first.config, "a", encoding="utf-8") as config:
            config.write("\n[log]\nkeep_mib = 1\n")
        first.start()
        client = first.client()
        # However long the log takes to fill: few of the rows change after the first 2 000.
        rows = itertools.chain(range(2000), itertools.cycle(range(2000, 2600)))

        def write(count, size):
            keys = [next(rows) for _ in range(count)]
            changes = [(1, [("w", f"{row % 1000:03d}"), ("k", row)],
                        [("v", os.urandom(size // 2).hex())]) for row in keys]
            assert client.batch_write(TABLE, changes) == [None] * count

        for _ in range(20):
            write(100, 40)
        clients = [one.client() for one in running.regions]
        cluster.await_alike(clients, clients[:1], TABLE, ledger.KEY_NAMES, ledger.filler)
        assert status(running)["log"]["alarm_percent"] is None

        def waiting():
            links = [one for one in status(running)["links"] if one["table"] == TABLE]
            return [one["lag_entries"] for one in links]

        # Else the replica may have what is cut later without a word of it having come here.
        cluster.wait_until(lambda: waiting() == [0], "the replica has told what it has")
        second.kill()

        def used():
            return status(running)["log"]["budget_used"]

        for percent in (50, 80, 95):
            while used() < percent / 100 + 0.01:
                write(16, KIB)
            cluster.wait_until(
                lambda mark=percent: [one["detail"]["percent"] for one in
                                      events(running, "log-budget")][-1:] == [mark],
                f"an alarm at {percent} %", 30)
            assert status(running)["log"]["alarm_percent"] == percent
        alarms = events(running, "log-budget")
        assert [one["detail"]["percent"] for one in alarms] == [50, 80, 95]
        for one in alarms:
            held = one["detail"]["held_by"][0]
            assert (held["table"], held["region"]) == (TABLE, "r2") and held["waiting_bytes"] > 0
            assert one["detail"]["bytes"] > 0 and one["detail"]["budget_bytes"] == KIB * KIB
            assert "log.keep_mib" in one["text"] and "r2" in one["text"], one["text"]
        assert events(running, "link-gap") == []

        while not events(running, "link-gap"):
            write(64, 4 * KIB)
        # The log is cut with the next commit; until then the replica, should it come, lacks nothing.
        write(64, 4 * KIB)
        link = next(one for one in status(running)["links"] if one["table"] == TABLE)
        assert link["state"] == "gap" and "copying heals it" in link["reason"], link

        second.start()
        cluster.wait_until(lambda: events(running, "link-healed"), "the gap is healed", 60)
        healed = events(running, "link-healed")[0]["detail"]
        assert healed["region"] == "r2" and healed["alike_rows"] > 0, healed
        clients = [one.client() for one in running.regions]
        cluster.await_alike(clients, clients[:1], TABLE, ledger.KEY_NAMES, ledger.filler)
        report, _ = verifying.verify(running, TABLE, regions="r1,r2", expect=verifying.ALIKE)
        assert report["equal"] is True


def test_to_a_replica_that_is_bound_again_only_what_differs_is_shipped(three):
    rows, changed = 3000, 30
    first = three.regions[0]
    verifying.make(three, TABLE, "primary-secondary", rows)
    three.run("global-table", "unbind", TABLE, "--regions", "r3")
    cluster.wait_until(lambda: "r3" not in replicas(three), "r3 is unbound", 60)
    client = first.client()
    changes = [(1, key, [("v", -1)]) for key, _ in verifying.rows(rows)[:: rows // changed]]
    assert client.batch_write(TABLE, changes) == [None] * changed
    client.close()
    three.run("global-table", "bind", TABLE, "--regions", "r3")

    def followed():
        links = [one for one in status(three)["links"]
                 if (one["table"], one["to"]) == (TABLE, "r3")]
        return links[0] if links and links[0]["state"] == "following" else None

    link = cluster.wait_until(followed, "r3 follows again", 120, 0.2)
    print(f"bound again: {link['copied_rows']} rows shipped, {link['alike_rows']} alike")
    # Some others may go with a range of which much differs.
    assert link["copied_rows"] < rows / 10, link
    assert link["alike_rows"] > rows * 9 / 10, link
    verifying.level(three, TABLE, [first])
    verifying.verify(three, TABLE, "--deep", regions="r1,r3", expect=verifying.ALIKE)
    assert ledger.differing(three.regions, TABLE) == []


def replicas(running):
    told = json.loads(running.run("global-table", "describe", TABLE, "--json").stdout)
    return [one["region"] for one in told["replicas"]]


def test_a_delayed_replica_that_fell_out_of_the_log_is_copied_when_asked(folder):
    with cluster.Cluster(regions=2, folder=folder) as running:
        first, second = running.regions
        client = first.client()
        client.create_table(TABLE, ledger.KEY)
        running.make_global(TABLE, "primary-secondary")
        first.kill()
        with open(first.config, "a", encoding="utf-8") as config:
            config.write("\n[log]\nkeep_mib = 1\nkeep_hours = 2\n")
        first.start()
        client = first.client()
        client.put_row(TABLE, [("w", "old"), ("k", 1)], [("v", "right")])
        clients = [one.client() for one in running.regions]
        cluster.await_alike(clients, clients[:1], TABLE, ledger.KEY_NAMES, ledger.filler)
        ends = ["--table", TABLE, "--from", "r1", "--to", "r2"]
        done = running.run("link", "set", *ends, "--timing", "delayed", "--by", "2h", check=False)
        assert done.returncode != 0 and "log.keep_hours" in done.stderr, done
        running.run("link", "set", *ends, "--timing", "delayed", "--by", "1h")

        def link():
            return next(one for one in status(running)["links"] if one["table"] == TABLE)

        cluster.wait_until(lambda: "delayed" in link().get("timing", ""), "it is delayed", 30)
        client.put_row(TABLE, [("w", "old"), ("k", 1)], [("v", "a mistake")])
        row = 0
        while link()["state"] != "gap":
            changes = [(1, [("w", "new"), ("k", row + one)], [("v", os.urandom(8 * KIB).hex())])
                       for one in range(32)]
            assert client.batch_write(TABLE, changes) == [None] * 32
            row += 32
        assert "link trigger" in link()["reason"], link()
        # Also where the two meet anew, it does not come by itself.
        second.kill()
        second.start()
        cluster.wait_until(lambda: link()["state"] == "gap", "it is in a gap again", 60)
        key = [("w", "old"), ("k", 1)]
        reader = second.client()
        assert ("v", "right") in [one[:2] for one in reader.get_row(TABLE, key)[1]]
        running.run("link", "trigger", *ends)
        cluster.wait_until(lambda: link()["state"] == "following", "it is healed", 60)
        cluster.wait_until(
            lambda: ("v", "a mistake") in [
                one[:2] for one in verifying.read(second, TABLE, key)[1]],
            "the copy brought what is there now", 30)
        client.close()
        reader.close()
