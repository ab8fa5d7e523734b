"""What regions mend by themselves: rows that rot on a disk, found by the background scrub, and rows
that differ, where a rule says so."""

import cluster
import pytest
import verifying
from verifying import ALIKE, DIFFERENT, verify

ROWS = 400
ONE, PEERS = "one_writer", "all_write"
TABLES = {ONE: "primary-secondary", PEERS: "peer-to-peer"}


def key(place):
    return [("w", f"w{place // 100:03d}"), ("k", place)]


@pytest.fixture(scope="module")
def mended(tmp_path_factory):
    """Three regions, of which none reads its disk in the background."""
    with cluster.Cluster(regions=3, folder=tmp_path_factory.mktemp("mending")) as running:
        verifying.configure(running, verifying.NO_SCRUB)
        for table, serve in TABLES.items():
            verifying.make(running, table, serve, ROWS)
        yield running


def plant(running, region, faults, text):
    """Stops a region, plants faults [(table, place, kind)] and starts it with these settings."""
    verifying.stop(region)
    for table, place, kind in faults:
        verifying.plant(running, region, table, key(place), kind)
    verifying.settings(region, text)
    region.start()


def noticed(running, kind, table, regions, what):
    return cluster.wait_until(
        lambda: verifying.events(running, kind, table, regions), f"{what} of {table}", 120, 0.5)


def test_what_the_background_scrub_finds_is_mended_unless_it_must_not_be(mended):
    second, third = mended.region("r2"), mended.region("r3")
    before = {table: verifying.read(second, table, key(77)) for table in TABLES}
    faults = [(table, 77, "bit") for table in TABLES]
    plant(mended, second, faults, "[scrub]\nmib_per_second = 64")
    plant(mended, third, faults, "[scrub]\nmib_per_second = 64\nrepair = false")
    for table in TABLES:
        for region in (second, third):
            found = noticed(mended, "disk-differs", table, [region], "the scrub finds rot")
            assert found[0]["detail"]["region"] == region.name, found
        healed = noticed(mended, "disk-healed", table, [second], "the scrub mends rot")
        detail = healed[0]["detail"]
        assert detail["region"] == "r2" and detail["rows"] == 1, healed
        assert "healthy replica" in healed[0]["text"], healed
        assert verifying.read(second, table, key(77)) == before[table]
        verify(mended, table, "--deep", regions="r1,r2", expect=ALIKE)
        report, _ = verify(mended, table, "--deep", regions="r1,r3", expect=DIFFERENT)
        assert [row for row, _ in verifying.named(report)] == [key(77)]
        assert verifying.events(mended, "disk-healed", table, [third]) == []
        _, code = verifying.scrub(mended, table, third, "--repair")
        assert code == 0
        verify(mended, table, "--deep", regions="r1,r2,r3", expect=ALIKE)


def test_differences_are_repaired_by_rule(mended):
    first, second = mended.region("r1"), mended.region("r2")
    quiet = verifying.NO_SCRUB
    # Of two regions the first by name looks, and its rule counts.
    verifying.configure(mended, f'{quiet}\n[verify]\nauto_repair = "from-primary"', [first])
    plant(mended, second, [(ONE, 5, "cell"), (ONE, 200, "lost-row"), (PEERS, 5, "cell")], quiet)
    noticed(mended, "rows-repaired", ONE, [first], "the rule repairs")
    cluster.wait_until(lambda: verify(mended, ONE)[1] == ALIKE, f"{ONE} is alike", 60)
    noticed(mended, "replicas-differ", PEERS, [first], "the difference is noticed")
    report, _ = verify(mended, PEERS, expect=DIFFERENT)
    assert [row for row, _ in verifying.named(report)] == [key(5)], "no rule says who is right"
    assert verifying.events(mended, "rows-repaired", PEERS) == []

    plant(mended, second, [(ONE, 9, "cell"), (PEERS, 9, "lost-row")], quiet)
    verifying.configure(mended, f'{quiet}\n[verify]\nauto_repair = "merge"', [first])
    noticed(mended, "rows-repaired", PEERS, [first], "the rule merges")
    for table in TABLES:
        cluster.wait_until(lambda table=table: verify(mended, table)[1] == ALIKE,
                           f"{table} is alike", 120, 0.5)
        verify(mended, table, "--deep", regions="r1,r2,r3", expect=ALIKE)
        rows = [verifying.read(region, table, key(9)) for region in mended.regions]
        assert rows[0] and rows[0] == rows[1] == rows[2], rows


def test_where_too_many_rows_differ_no_rule_repairs(mended):
    first, second = mended.region("r1"), mended.region("r2")
    quiet = verifying.NO_SCRUB
    verifying.configure(
        mended, f'{quiet}\n[verify]\nauto_repair = "merge"\nauto_repair_rows_max = 1', [first])
    before = len(verifying.events(mended, "rows-repaired", ONE))
    told = len(verifying.events(mended, "replicas-differ", ONE, [first]))
    plant(mended, second, [(ONE, 11, "cell"), (ONE, 13, "cell")], quiet)
    cluster.wait_until(
        lambda: len(verifying.events(mended, "replicas-differ", ONE, [first])) > told,
        "the difference is noticed", 120, 0.5)
    report, _ = verify(mended, ONE, expect=DIFFERENT)
    assert report["rows_differing"] == 2
    assert len(verifying.events(mended, "rows-repaired", ONE)) == before
