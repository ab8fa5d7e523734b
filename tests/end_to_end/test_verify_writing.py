"""Faults of every kind in random places of tables that are written meanwhile, in one region and in
all: exactly these are named, and mended without losing a write. SEED repeats a run."""

import random
import time

import cluster
import ledger
import pytest
import verifying
from sizes import number
from verifying import ALIKE, verify

ROWS, PLACES = 1200, 800
TABLES = {"one_writer": "primary-secondary", "all_write": "peer-to-peer"}
# What plain `verify` finds. A bit that rotted is found by reading the disk only.
KINDS = ["lost-row", "extra-row", "cell", "version", "tombstone", "swap"]
ATTEMPTS = 6


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Three regions with a table of one writer and a table that all write."""
    with cluster.Cluster(regions=3, folder=tmp_path_factory.mktemp("writing")) as running:
        verifying.configure(running, verifying.NO_SCRUB)
        for table, serve in TABLES.items():
            verifying.make(running, table, serve, ROWS)
        yield running


def key(place):
    return [("w", f"w{place // 100:03d}"), ("k", place)]


def pick(chance, table, used):
    """A random key for each kind of fault, no two of them neighbours, and one that rots, far from
    the others: whoever looks at a row sees its whole leaf, which is large among new rows."""
    # With one writer tombstones are purged at once, so none can be lost.
    kinds = [kind for kind in KINDS if kind != "tombstone" or table != "one_writer"]
    free = [place for place in range(0, PLACES, 2) if place not in used]
    picked = dict(zip(kinds, chance.sample(free, len(kinds)), strict=True))
    used.update(picked.values())
    rotten = chance.choice([place for place in range(ROWS - 100, ROWS) if place not in used])
    used.add(rotten)
    keys = {kind: key(place) for kind, place in picked.items()}
    keys["extra-row"] = [("w", f"w{picked['extra-row'] // 100:03d}x"), ("k", picked["extra-row"])]
    return keys, key(picked["swap"] + 1), key(rotten)


def texts(keys):
    return sorted(str(one) for one in keys)


def assert_named(running, table, keys, *arguments, since=0, maybe=None):
    """`verify` names rows with these keys and no other, but for one that it may have read, once it
    compares what was written by then."""
    report = verifying.verify_since(running, table, since, *arguments)
    assert report["equal"] is False, report
    found = [one for one in verifying.named(report) if one[0] != maybe]
    assert texts(row for row, _ in found) == texts(keys), found
    return {str(row): kind for row, kind in found}, report


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("table", "writing"), [
    ("one_writer", 1), ("all_write", 1), ("all_write", 3)])
def test_faults_in_random_places_are_named_and_mended_while_clients_write(written, table, writing):
    chance = random.Random(number("SEED", 20261201) * 10 + writing)
    first, second = written.region("r1"), written.region("r2")
    used = set()
    with verifying.writing(written, table, written.regions[:writing]) as writers:
        for _ in range(number("PLANT_ROUNDS", 2)):
            keys, partner, rotten = pick(chance, table, used)
            print(f"{table}, {writing} write: {keys}, swapped with {partner}, rotten {rotten}")
            if "tombstone" in keys:
                verifying.await_lasting_tombstones(90)
                verifying.delete(first, table, keys["tombstone"])
                verifying.level(written, table, [first])
            with verifying.stopped(second):
                for kind, row in [*keys.items(), ("bit", rotten)]:
                    verifying.plant(written, second, table, row, kind)
            wrong, since = [*keys.values(), partner], time.time() * 1000
            for _ in range(3):
                kinds, _ = assert_named(written, table, wrong, since=since, maybe=rotten)
                verify(written, table, regions="r1,r3", expect=ALIKE)
            expected = {"lost-row": "missing", "extra-row": "extra", "cell": "different",
                        "version": "different", "swap": "different"}
            assert {kind: kinds[str(keys[kind])] for kind in expected} == expected
            assert kinds[str(partner)] == "different"
            _, report = assert_named(written, table, [*wrong, rotten], "--deep")
            assert {place["region"] for place in report["bad_on_disk"]} == {"r2"}, report
            mend(written, table)
    for writer in writers:
        assert writer.rows > 0, writer.refusals[-3:]
        for region in written.regions:
            cluster.wait_until(lambda writer=writer, region=region: not writer.losses(region),
                               f"{region.name} has what {writer.name} was told is written", 60)
    verifying.level(written, table, written.regions[:writing])
    assert ledger.differing(written.regions, table) == []


def mend(running, table):
    """What a writer touched meanwhile is left to the next try."""
    for _ in range(ATTEMPTS):
        report, code = verifying.scrub(running, table, running.region("r2"), "--repair")
        if code == 0:
            break
    assert code == 0, report
    for _ in range(ATTEMPTS):
        done = verifying.repair(running, table, check=False)
        if done["rows_left"] == 0:
            break
    assert done["rows_left"] == 0, done
    verify(running, table, "--deep", regions="r1,r2,r3", expect=ALIKE)
