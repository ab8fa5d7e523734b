"""Three regions that all write for an hour: at no cut may `verify` or the gauge see a difference.

Rows are put, updated, counted and deleted, cells lose versions to trimming and expire because the
time to live is lowered again and again, and tombstones are collected behind the horizon. Long, so
it runs with `cargo xtask soak` only: SOAK_SECONDS and SOAK_WRITES_PER_SECOND size it.
"""

import collections
import json
import random
import threading
import time

import ledger
import pytest
import verifying
import wire
from sizes import SOAK, number
from verifying import ALIKE, COULD_NOT_TELL

SECONDS = number("SOAK_SECONDS", 3600)
WRITES_PER_SECOND = number("SOAK_WRITES_PER_SECOND", 200)
TABLE = "restless"
KEYS = 3000
BATCH = 10
COLUMNS = ("a", "b", "c")
DAY = 86400
# From the first time to live down to the last one: a day, the least that there is.
LIVES = (2 * DAY, DAY)
# Between comparisons. Each is a process of its own.
PAUSE = 4
DEEP_EVERY = 300


def live_at(share):
    """Seconds that cells live once a share of the time has passed."""
    return int(LIVES[0] + (LIVES[1] - LIVES[0]) * share)


class Restless(threading.Thread):
    """Changes rows in one region, the same rows that the other regions change."""

    def __init__(self, region, share):
        super().__init__(daemon=True)
        self.region, self.share = region, share
        self.chance = random.Random(region.name)
        self.done, self.refused, self.error = collections.Counter(), collections.Counter(), None
        self.ending = threading.Event()

    def run(self):
        try:
            self.write()
        except Exception as error:  # told in the test's own thread
            self.error = error

    def write(self):
        client = self.region.client(timeout=60)
        pause = BATCH * 3 / WRITES_PER_SECOND
        due = time.monotonic()
        while not self.ending.is_set():
            changes = [self.change(key) for key in self.chance.sample(range(KEYS), BATCH)]
            for (name, *_), result in zip(
                changes, client.batch_write(TABLE, [one[1:] for one in changes]), strict=True
            ):
                if result is None:
                    self.done[name] += 1
                else:
                    self.refused[result[0]] += 1
            due = max(due + pause, time.monotonic() - 1)
            time.sleep(max(0, due - time.monotonic()))
        client.close()

    def change(self, number):
        """(what it is called, kind, key, cells)."""
        key = [("w", f"w{number % 50:02d}"), ("k", number)]
        chance, column = self.chance, self.chance.choice(COLUMNS)
        value = chance.randrange(1 << 40)
        # Cells of any age that will not be refused, so that some expire with each new life.
        age = chance.random() * (live_at(self.share()) - 600)
        past = int((time.time() - age) * 1000)
        kind = chance.choices(("put", "old", "versions", "count", "column", "row"),
                              (20, 25, 20, 15, 10, 10))[0]
        if kind == "put":
            return kind, 1, key, [(name, value) for name in COLUMNS]
        if kind == "old":
            return kind, 2, key, [(column, value, past)]
        if kind == "versions":
            return kind, 2, key, [(column, value + n, past + n) for n in range(4)]
        if kind == "count":
            return kind, 2, key, [("n", 1, None, wire.INCREMENT)]
        if kind == "column":
            return kind, 2, key, [(column, None, None, wire.DELETE_ALL)]
        return kind, 3, key, []


def differing(running):
    """What the gauges say differs, and the events that told of it."""
    shown = []
    for region in running.regions:
        status = json.loads(running.run("status", "--json", config=region.config).stdout)
        for one in status["regions"]:
            for table in (one.get("status") or {}).get("tables", []):
                shown += [(region.name, told) for told in table.get("differing", [])
                          if told["rows"]]
        events = json.loads(running.run("events", "--json", config=region.config).stdout)
        shown += [(region.name, event) for event in events["events"]
                  if event["kind"] in ("replicas-differ", "disk-differs")]
    return shown


@SOAK
@pytest.mark.timeout(SECONDS + 1200)
def test_peers_that_never_rest_are_alike_at_every_cut(three):
    client = three.regions[0].client()
    client.create_table(TABLE, ledger.KEY, max_versions=2, time_to_live=LIVES[0],
                        deviation=30 * DAY)
    client.close()
    three.make_global(TABLE, "peer-to-peer")
    began = time.monotonic()

    def share():
        return min(1, (time.monotonic() - began) / SECONDS)

    writers = [Restless(region, share) for region in three.regions]
    for writer in writers:
        writer.start()
    told, read, exchanged, slowest, deep_at = collections.Counter(), 0, 0, 0, DEEP_EVERY
    while share() < 1:
        # The writers know of the new life before the table does.
        three.run("table", "update", TABLE, "--time-to-live", max(live_at(share()), DAY))
        deep = share() * SECONDS >= deep_at
        deep_at += DEEP_EVERY if deep else 0
        report, code = verifying.verify(three, TABLE, *(["--deep"] if deep else []),
                                        regions="r1,r2,r3")
        told[code] += 1
        assert code in (ALIKE, COULD_NOT_TELL), report
        assert report["rows"] == [] and not verifying.damaged(report), report
        if code == COULD_NOT_TELL:
            print(f"could not tell: {report['reason']}", flush=True)
        read += report["rows_read"]
        exchanged += report["bytes_exchanged"]
        slowest = max(slowest, report["elapsed_ms"] if not deep else 0)
        assert differing(three) == []
        assert all(writer.error is None for writer in writers), [one.error for one in writers]
        if told.total() % 30 == 0:
            rows = verifying.digest_of(three.regions[0], three, TABLE)["rows"]
            print(f"{share() * SECONDS:.0f} s: {told[ALIKE]} alike, {told[COULD_NOT_TELL]} not "
                  f"told, {sum(one.done.total() for one in writers)} writes, digest of {rows} "
                  f"parts, {read} rows read, slowest {slowest:.0f} ms", flush=True)
        time.sleep(PAUSE)
    done, refused = collections.Counter(), collections.Counter()
    for writer in writers:
        writer.ending.set()
        writer.join(60)
        done += writer.done
        refused += writer.refused
    verifying.level(three, TABLE, three.regions)
    report, _ = verifying.verify(three, TABLE, "--deep", regions="r1,r2,r3", expect=ALIKE)
    assert ledger.differing(three.regions, TABLE) == []
    print(f"{told[ALIKE]} alike, {told[COULD_NOT_TELL]} not told, {dict(done)} done, "
          f"{dict(refused)} refused, {exchanged} bytes exchanged, slowest {slowest:.0f} ms")
    assert told[COULD_NOT_TELL] <= told.total() // 10
    assert all(done[kind] for kind in ("put", "old", "versions", "count", "column", "row"))
