"""What people ask of links: pauses, stops, timing, throttles, directions, switched under load."""

import json
import pathlib
import random
import statistics
import time
import urllib.error
import urllib.request

import cluster
import ledger
import wire
from sizes import number

NEVER = "0 0 29 2 * UTC for 1s"


def link(running, *words, check=True):
    return running.run("link", *words, check=check)


def states(running, table):
    """How the links of a table stand, by their ends; asked of the regions that they leave."""
    found = {}
    for region in running.regions:
        done = running.run("link", "list", "--table", table, "--json", config=region.config,
                           check=False)
        for one in json.loads(done.stdout)["links"] if done.returncode == 0 else []:
            if one["from"] == region.name:
                found[one["from"], one["to"]] = one
    return found


def wait_state(running, table, ends, *wanted):
    def holds():
        one = states(running, table).get(ends)
        return one if one and one["state"] in wanted else None

    return cluster.wait_until(holds, f"link {ends} is {wanted}", 60, 0.1)


def prepare(running, table, serve="primary-secondary"):
    client = running.regions[0].client()
    client.create_table(table, ledger.KEY)
    client.close()
    running.make_global(table, serve)


class Rows:
    """Rows that are put in the first region and looked for in others."""

    def __init__(self, running, table):
        self.clients = {region.name: region.client() for region in running.regions}
        self.table, self.count = table, 0

    def put(self, region="r1"):
        self.count += 1
        key = [("w", "seen"), ("k", self.count)]
        self.clients[region].put_row(self.table, key, [("v", self.count)])
        return key

    def has(self, region, key):
        try:
            return self.clients[region].get_row(self.table, key) is not None
        except wire.Refused:
            return False

    def wait(self, region, key, seconds=60):
        cluster.wait_until(lambda: self.has(region, key), f"{region} has {key}", seconds)

    def stays_out(self, region, key, seconds=0.7):
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            assert not self.has(region, key), f"{region} has {key} too soon"
            time.sleep(0.1)


def test_a_link_is_paused_stopped_and_resumed_through_restarts(three):
    prepare(three, "held")
    rows = Rows(three, "held")
    link(three, "pause", "--table", "held", "--from", "r1", "--to", "r2")
    wait_state(three, "held", ("r1", "r2"), "paused")
    key = rows.put()
    rows.wait("r3", key)
    rows.stays_out("r2", key)
    # A restart changes nothing of it.
    three.regions[0].kill()
    three.regions[0].start()
    rows.clients["r1"] = three.regions[0].client()
    found = wait_state(three, "held", ("r1", "r2"), "paused")
    assert found["lag_entries"] >= 1 and "paused" in found["reason"], found
    wait_state(three, "held", ("r1", "r3"), "following")
    rows.stays_out("r2", key)
    link(three, "resume", "--table", "held", "--from", "r1", "--to", "r2")
    rows.wait("r2", key)

    # For a stopped link nothing is kept; a copy of what differs heals it.
    link(three, "stop", "--table", "held", "--to", "r3")
    wait_state(three, "held", ("r1", "r3"), "stopped")
    batch = [(1, [("w", "many"), ("k", row)], [("v", row)]) for row in range(100)]
    for _ in range(25):
        rows.clients["r1"].batch_write("held", batch)
    key = rows.put()
    rows.wait("r2", key)
    rows.stays_out("r3", key)
    time.sleep(2.5)  # So that the log is trimmed, which is done each second.
    link(three, "resume", "--table", "held")
    rows.wait("r3", key)
    found = wait_state(three, "held", ("r1", "r3"), "following")
    assert found["copied_rows"], found
    assert ledger.differing(three.regions, "held") == []
    told = json.loads(three.run("events", "--kind", "link-state", "--json").stdout.splitlines()[0])
    assert "link-state" in json.dumps(told), told


def test_timing_is_switched_live(three):
    prepare(three, "timed")
    rows = Rows(three, "timed")
    ends = ["--table", "timed", "--from", "r1", "--to", "r2"]

    link(three, "set", *ends, "--timing", "delayed", "--by", "4s")
    cluster.wait_until(
        lambda: "delayed" in states(three, "timed")["r1", "r2"].get("timing", ""), "it is delayed")
    begun = time.monotonic()
    key = rows.put()
    rows.wait("r3", key)
    rows.stays_out("r2", key, 2)
    rows.wait("r2", key)
    assert time.monotonic() - begun >= 3.9
    # What makes no sense is refused and changes nothing.
    for wrong in (["--timing", "windows", "--window", "61 * * * * UTC for 1h"],
                  ["--timing", "windows", "--window", "0 2 * * * Nowhere/City for 1h"],
                  ["--timing", "interval", "--every", "0"],
                  ["--timing", "interval", "--every", "90d"],
                  ["--timing", "triggered", "--bytes", "0"],
                  ["--from", "r9", "--timing", "immediate"]):
        assert link(three, "set", "--table", "timed", *wrong, check=False).returncode != 0, wrong
    assert "delayed" in states(three, "timed")["r1", "r2"]["timing"]
    assert link(three, "trigger", *ends, check=False).returncode == 1

    link(three, "set", *ends, "--timing", "interval", "--every", "20s")
    cluster.wait_until(
        lambda: "every 20 s" in states(three, "timed")["r1", "r2"]["timing"], "it has an interval")
    # Intervals are counted from 1970: the next one is far.
    cluster.wait_until(lambda: 1 < time.time() % 20 < 8, "an interval has just begun", 30)
    key = rows.put()
    rows.wait("r3", key)
    rows.stays_out("r2", key, 4)
    rows.wait("r2", key)

    link(three, "set", *ends, "--timing", "triggered", "--entries", "20")
    cluster.wait_until(
        lambda: "triggered" in states(three, "timed")["r1", "r2"]["timing"], "it is triggered")
    key = rows.put()
    rows.wait("r3", key)
    rows.stays_out("r2", key)
    # Any region passes it on.
    done = three.run("link", "trigger", *ends, "--json", config=three.regions[2].config)
    assert json.loads(done.stdout) == {"triggered": 1}
    rows.wait("r2", key)
    waiting = [rows.put() for _ in range(10)]
    rows.stays_out("r2", waiting[-1], 0.5)
    last = [rows.put() for _ in range(15)][-1]
    rows.wait("r2", waiting[-1])

    link(three, "set", *ends, "--timing", "triggered", "--bytes", "20KiB")
    cluster.wait_until(
        lambda: "20480 bytes" in states(three, "timed")["r1", "r2"]["timing"], "bytes trigger it")
    key = rows.put()
    rows.stays_out("r2", key)
    large = [("v", random.randbytes(30000))]
    rows.clients["r1"].put_row("timed", [("w", "large"), ("k", 1)], large)
    rows.wait("r2", key)

    link(three, "set", *ends, "--timing", "windows", "--window", NEVER)
    cluster.wait_until(
        lambda: "windows" in states(three, "timed")["r1", "r2"]["timing"], "it has a window")
    key = rows.put()
    rows.wait("r3", key)
    rows.stays_out("r2", key)
    found = states(three, "timed")["r1", "r2"]
    assert found["next_ms"] > time.time() * 1000 and found["lag_entries"] >= 1, found
    link(three, "set", *ends, "--timing", "windows", "--window", "* * * * * Asia/Tokyo for 10m")
    rows.wait("r2", key)
    rows.wait("r2", last)
    link(three, "set", *ends, "--timing", "immediate")
    rows.wait("r2", rows.put())
    assert "timing" not in states(three, "timed")["r1", "r2"]


def test_a_copy_tells_how_long_it_takes_and_keeps_to_its_throttle(folder):
    count = number("COPY_ROWS", 24_000)
    with cluster.Cluster(regions=2, folder=folder) as two:
        prepare(two, "copied")
        ends = ["--table", "copied", "--from", "r1", "--to", "r2"]
        link(two, "stop", *ends)
        wait_state(two, "copied", ("r1", "r2"), "stopped")
        client = two.regions[0].client()
        for start in range(0, count, 200):
            client.batch_write("copied", [
                (1, [("w", "row"), ("k", row)], [("v", row), ("text", f"{row:0180}")])
                for row in range(start, start + 200)
            ])
        client.close()
        time.sleep(2.5)  # So that the log is trimmed, which is done each second.
        # About eight seconds.
        link(two, "set", *ends, "--bytes-per-second", count * 30, "--copy-cpu-percent", 100)
        link(two, "resume", *ends)
        begun, told = None, []

        def ended():
            nonlocal begun
            one, now = states(two, "copied")["r1", "r2"], time.monotonic()
            if one["state"] == "copying" and one.get("copy"):
                begun = begun or now
                told.append((now, one["copy"]))
            return begun and one["state"] == "following"

        cluster.wait_until(ended, "the copy is complete", 120, 0.1)
        end = time.monotonic()
        assert end - begun > 4, "the throttle is kept"
        later = [(at, copy) for at, copy in told
                 if copy["rows_done"] > count / 10 and end - at > 1.5]
        assert later, told
        off = [abs(copy["left_ms"] / 1000 - (end - at)) / (end - at) for at, copy in later]
        assert statistics.median(off) < 0.2, off
        for at, copy in later:
            assert abs(copy["rows_total"] - count) < count / 10, copy
            left = copy["left_ms"] / 1000
            # Generous, since other processes use the machine.
            assert abs(left - (end - at)) < max(0.5 * (end - at), 1.5), (end - at, copy)
        assert ledger.differing(two.regions, "copied") == []


def settings(chance):
    """Words of `link set` and alike, one of each kind in turn by chance."""
    rate = chance.choice(["0", "20KiB", "200KiB"])
    return chance.choice([
        ["pause"], ["stop"], ["resume"], ["trigger"],
        ["set", "--timing", "immediate"],
        ["set", "--timing", "delayed", "--by", chance.choice(["1s", "3s"])],
        ["set", "--timing", "interval", "--every", "1s"],
        ["set", "--timing", "windows", "--window", NEVER],
        ["set", "--timing", "windows", "--window", "* * * * * +02:00 for 1m"],
        ["set", "--timing", "triggered", "--entries", "30", "--bytes", "20KiB"],
        ["set", "--bytes-per-second", rate],
        ["set", "--entries-per-second", chance.choice(["0", "50", "500"])],
        ["set", "--copy-cpu-percent", chance.choice(["0", "5", "100"])],
        ["set", "--direction", "pull"], ["set", "--direction", "push"],
        ["set", "--compression", chance.choice(["auto", "zstd:9", "lz4", "none"])],
    ])


def test_every_setting_is_switched_under_load_and_nothing_is_lost(three):
    chance = random.Random(number("SEED", 20261129))
    prepare(three, "switched", "peer-to-peer")
    writers = [ledger.Writer(region, "switched", region.name) for region in three.regions]
    for writer in writers:
        writer.start()
    names = [region.name for region in three.regions]
    for turn in range(number("SWITCHES", 45)):
        command, *words = settings(chance)
        ends = []
        if chance.random() < 0.8:
            origin, replica = chance.sample(names, 2)
            ends = ["--from", origin, "--to", replica]
        # A delayed link is not triggered; all else must be done.
        done = link(three, command, "--table", "switched", *ends, *words, check=False)
        assert done.returncode == 0 or command == "trigger", (done.stdout, done.stderr)
        if turn % 15 == 14:
            region = chance.choice(three.regions)
            region.kill()
            region.start()
        time.sleep(chance.uniform(0, 0.25))
    link(three, "resume", "--table", "switched")
    link(three, "set", "--table", "switched", "--timing", "immediate", "--bytes-per-second", "0",
         "--entries-per-second", "0", "--copy-cpu-percent", "0", "--direction", "push",
         "--compression", "auto")
    for writer in writers:
        writer.stop()
    for writer in writers:
        assert writer.rows > 0, f"{writer.name} was never acknowledged: {writer.refusals[-3:]}"
        assert writer.losses(writer.region) == [], f"lost in {writer.name}, which acknowledged it"
    clients = [region.client() for region in three.regions]
    cluster.await_alike(clients, clients, "switched", ledger.KEY_NAMES, ledger.filler)
    for client in clients:
        client.close()
    cluster.wait_until(
        lambda: not ledger.differing(three.regions, "switched"), "all regions are alike", 60, 1
    )
    for writer in writers:
        for region in three.regions:
            assert writer.losses(region) == [], f"rows of {writer.name} lost in {region.name}"


def hide(region, hidden):
    """Takes the address of another region out of a region's configuration."""
    path = pathlib.Path(region.config)
    parts = path.read_text().split("[[regions]]")
    for place, part in enumerate(parts[1:], 1):
        if f'name = "{hidden}"' in part:
            lines = part.splitlines()
            parts[place] = "\n".join(line for line in lines if not line.startswith("peer = ")) + "\n"
    path.write_text("[[regions]]".join(parts))


def test_a_region_that_cannot_be_dialled_pulls(three):
    three.stop()
    for region in three.regions[:2]:
        hide(region, "r3")
    for region in three.regions:
        region.start()
    prepare(three, "hidden", "peer-to-peer")
    rows = Rows(three, "hidden")
    for origin in ("r1", "r2", "r3"):
        key = rows.put(origin)
        for region in ("r1", "r2", "r3"):
            rows.wait(region, key)
    found = states(three, "hidden")
    directions = {ends: one["direction"] for ends, one in found.items()}
    assert directions == {
        ("r1", "r2"): "push", ("r1", "r3"): "pull", ("r2", "r1"): "push",
        ("r2", "r3"): "pull", ("r3", "r1"): "push", ("r3", "r2"): "push",
    }
    # Questions reach it, too, and it comes back after a crash.
    three.run("verify", "hidden", "--regions", "r1,r3")
    three.regions[2].kill()
    key = rows.put("r1")
    three.regions[2].start()
    rows.clients["r3"] = three.regions[2].client()
    rows.wait("r3", key)
    # One that can be dialled may pull as well.
    link(three, "set", "--table", "hidden", "--from", "r1", "--to", "r2", "--direction", "pull")
    cluster.wait_until(
        lambda: states(three, "hidden")["r1", "r2"]["direction"] == "pull", "r2 pulls")
    rows.wait("r2", rows.put("r1"))
    assert ledger.differing(three.regions, "hidden") == []


SETTINGS = ["direction", "timing", "bytes_per_second", "entries_per_second", "copy_cpu_percent",
            "compression"]


def test_what_is_asked_of_a_link_survives_crashes_of_the_base_and_of_its_origin(three):
    prepare(three, "asked", "peer-to-peer")
    base, origin = three.regions[0], three.regions[1]
    ends = ["--table", "asked", "--from", "r2", "--to", "r3"]
    link(three, "set", *ends, "--timing", "interval", "--every", "7m", "--direction", "pull",
         "--bytes-per-second", "12345", "--entries-per-second", "678", "--copy-cpu-percent", "9",
         "--compression", "zstd:9")

    def asked():
        one = states(three, "asked").get(("r2", "r3"), {})
        return {name: one.get(name) for name in SETTINGS}

    wanted = {"direction": "pull", "timing": "every 420 s", "bytes_per_second": 12345,
              "entries_per_second": 678, "copy_cpu_percent": 9, "compression": "zstd:9"}
    cluster.wait_until(lambda: asked() == wanted, "it is asked of the link", 30)
    for region in (base, origin):
        region.kill()
        region.start()
        cluster.wait_until(lambda: asked() == wanted, f"it is so after {region.name} died", 60)
    for one in (base, origin):
        one.kill()
    for one in (origin, base):
        one.start()
    cluster.wait_until(lambda: asked() == wanted, "it is so after both died", 60)
    # A stopped one stays so, and starts by that name.
    link(three, "stop", *ends)
    wait_state(three, "asked", ("r2", "r3"), "stopped")
    origin.kill()
    origin.start()
    wait_state(three, "asked", ("r2", "r3"), "stopped")
    link(three, "start", *ends)
    link(three, "set", *ends, "--timing", "immediate")
    wait_state(three, "asked", ("r2", "r3"), "following")
    rows = Rows(three, "asked")
    rows.wait("r3", rows.put("r2"))


def test_a_copy_goes_on_where_it_was_when_either_side_dies(folder):
    count = number("COPY_ROWS", 24_000)
    with cluster.Cluster(regions=2, folder=folder) as two:
        prepare(two, "copied")
        ends = ["--table", "copied", "--from", "r1", "--to", "r2"]
        link(two, "stop", *ends)
        wait_state(two, "copied", ("r1", "r2"), "stopped")
        client = two.regions[0].client()
        for start in range(0, count, 200):
            client.batch_write("copied", [
                (1, [("w", "row"), ("k", row)], [("v", row), ("text", f"{row:0180}")])
                for row in range(start, start + 200)
            ])
        client.close()
        time.sleep(2.5)  # So that the log is trimmed, which is done each second.
        # About a minute, if it is not killed and lifted; by entries this time.
        link(two, "set", *ends, "--entries-per-second", count // 60, "--bytes-per-second",
             count * 20, "--copy-cpu-percent", 100)
        link(two, "start", *ends)

        def copied(least):
            one = states(two, "copied").get(("r1", "r2"), {})
            copy = one.get("copy") or {}
            return one["state"] == "copying" and copy.get("rows_done", 0) >= least and copy

        begun, done = time.monotonic(), cluster.wait_until(
            lambda: copied(count // 20), "a part is copied", 120, 0.1)["rows_done"]
        assert time.monotonic() - begun > 1, "entries per second are kept to"
        for region in two.regions:
            region.kill()
            region.start()
            again = cluster.wait_until(lambda: copied(1), "the copy goes on", 60, 0.05)
            # What was under way is sent again.
            assert again["rows_done"] >= done * 0.9, (region.name, done, again)
            done = cluster.wait_until(
                lambda: copied(again["rows_done"] + count // 20), "more is copied", 120, 0.1
            )["rows_done"]
        link(two, "set", *ends, "--entries-per-second", 0, "--bytes-per-second", 0)
        wait_state(two, "copied", ("r1", "r2"), "following")
        assert ledger.differing(two.regions, "copied") == []


TOKEN = "a-webhook-bears-this-token"


def hook(region, target, headers=None, body=b"{}"):
    """What a program that cannot sign is answered."""
    request = urllib.request.Request(f"{region.admin}{target}", data=body, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_webhook_triggers_a_link_by_its_token(folder):
    with cluster.Cluster(regions=2, folder=folder) as two:
        first = two.regions[0]
        first.kill()
        config = pathlib.Path(first.config)
        text = config.read_text(encoding="utf-8")
        assert text.count("[admin]") == 1
        config.write_text(text.replace("[admin]", f'[admin]\ntrigger_token = "{TOKEN}"'))
        first.start()
        prepare(two, "hooked")
        rows = Rows(two, "hooked")
        link(two, "set", "--table", "hooked", "--timing", "triggered", "--entries", "100000")
        cluster.wait_until(
            lambda: "triggered" in states(two, "hooked")["r1", "r2"].get("timing", ""), "it waits")
        key = rows.put()
        rows.stays_out("r2", key)
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        target = "/v1/links/trigger?table=hooked&to=r2"
        for headers in ({}, {"Authorization": "Bearer " + TOKEN[:-1]},
                        {"Authorization": f"Bearer {TOKEN}x"}):
            assert hook(first, target, headers)[0] in (400, 401, 403), headers
        # It opens nothing else, and the token of the metrics does not open it.
        assert hook(first, "/v1/plans", bearer)[0] in (400, 401, 403)
        metrics = (two.data / "metrics.token").read_text(encoding="utf-8").strip()
        assert hook(first, target, {"Authorization": f"Bearer {metrics}"})[0] in (400, 401, 403)
        assert hook(two.regions[1], target, bearer)[0] in (400, 401, 403), "r2 has no such token"
        rows.stays_out("r2", key)
        assert hook(first, target, bearer, b"what a webhook sends") == (200, {"triggered": 1})
        rows.wait("r2", key)
        key = rows.put()
        body = json.dumps({"table": "hooked"}).encode()
        assert hook(first, "/v1/links/trigger", bearer, body) == (200, {"triggered": 1})
        rows.wait("r2", key)
        assert hook(first, "/v1/links/trigger?table=nothing", bearer)[0] == 404
