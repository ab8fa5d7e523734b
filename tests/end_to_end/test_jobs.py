"""Jobs that compare and repair go on when their region dies in the middle, and over slow ways."""

import contextlib
import json
import pathlib
import re

import cluster
import pytest
import verifying
import ways
from verifying import ALIKE, DIFFERENT, verify

ROWS = 3000
DELAY = 0.1
LOST = 12


def key(place):
    return [("w", f"w{place // 100:03d}"), ("k", place)]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two regions with a table of one writer."""
    with cluster.Cluster(regions=2, folder=tmp_path_factory.mktemp("jobs")) as running:
        verifying.configure(running, verifying.NO_SCRUB)
        verifying.make(running, "rows", "primary-secondary", ROWS)
        yield running


def plant_some(running, places):
    with verifying.stopped(running.region("r2")):
        for place, kind in places:
            verifying.plant(running, running.region("r2"), "rows", key(place), kind)


def start(running, *words):
    return json.loads(running.run(*words, "--detach", "--json").stdout)["id"]


def show(running, job):
    """What is told of a job; nothing while its region is away."""
    done = running.run("job", "show", job, "--json", check=False)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def await_done(running, job):
    def ended():
        told = show(running, job)
        return told if told.get("state") not in (None, "running") else None

    told = cluster.wait_until(ended, f"job {job} has ended", 180, 0.2)
    assert told["state"] == "done", told
    return told["report"]


def test_a_repair_whose_region_is_killed_goes_on(two):
    first = two.region("r1")
    plant_some(two, [(place * 200, "lost-row") for place in range(LOST)])
    report, _ = verify(two, "rows", expect=DIFFERENT)
    assert report["rows_differing"] == LOST
    job = start(two, "repair", "rows", "--from", "r1", "--to", "r2", "--rows-per-second", "1")
    cluster.wait_until(lambda: show(two, job).get("state") == "running", "the repair runs", 30)
    first.kill()
    first.start()
    assert show(two, job)["state"] in ("running", "done")
    report = await_done(two, job)
    assert report["rows_left"] == 0 and report["equal_after"] is True, report
    verify(two, "rows", "--deep", expect=ALIKE)
    for place in range(LOST):
        row = key(place * 200)
        assert verifying.read(two.region("r2"), "rows", row) == verifying.read(first, "rows", row)


def test_a_comparison_whose_region_is_killed_goes_on(two):
    first = two.region("r1")
    client = first.client()
    client.create_table("wide", [("w", 2), ("k", 1)])
    # A step of a scrub is about 2 000 rows; between steps it waits, to keep to its rate.
    for batch in range(60):
        changes = [(1, [("w", "a"), ("k", batch * 100 + n)], [("t", f"{batch:02d}{n:02d}" * 400)])
                   for n in range(100)]
        assert client.batch_write("wide", changes) == [None] * 100
    client.close()
    two.make_global("wide", "primary-secondary")
    verifying.level(two, "wide", [first])
    job = start(two, "verify", "wide", "--regions", "r1,r2", "--deep", "--mib-per-second", "1")
    cluster.wait_until(lambda: show(two, job)["progress"]["rows_done"], "the disk is read", 30)
    first.kill()
    first.start()
    assert show(two, job)["state"] in ("running", "done")
    report = await_done(two, job)
    assert report["equal"] is True and report["deep"] is True, report
    assert report["rows_read"] >= 2 * 6000
    assert all(report["scrubbed_since"].values()), report


@pytest.fixture
def slow(two):
    """The same regions with a way between them on which each message takes its time."""
    files = {region.name: pathlib.Path(region.config) for region in two.regions}
    before = {name: file.read_text() for name, file in files.items()}
    with contextlib.ExitStack() as stack:
        for region in two.regions:
            verifying.stop(region)
            text = before[region.name]
            for peer in re.findall(r'^peer = "([^"]+)"', text, re.M):
                way = stack.enter_context(contextlib.closing(ways.Way(peer, DELAY)))
                text = text.replace(f'peer = "{peer}"', f'peer = "{way.place}"')
            assert text != before[region.name]
            files[region.name].write_text(text)
        for region in two.regions:
            region.start()
        yield two
        for region in two.regions:
            verifying.stop(region)
            files[region.name].write_text(before[region.name])
        for region in two.regions:
            region.start()


def test_over_a_slow_way_the_answer_is_right_and_takes_few_round_trips(slow):
    verifying.write(slow, "rows", slow.regions[:1], 20)
    verifying.level(slow, "rows", slow.regions[:1])
    report, _ = verify(slow, "rows", expect=ALIKE)
    assert report["round_trips"] <= 2 and report["rows_read"] == 0, report
    places = {100: "cell", 1100: "lost-row", 2100: "version"}
    plant_some(slow, places.items())
    report, _ = verify(slow, "rows", expect=DIFFERENT)
    assert sorted(str(row) for row, _ in verifying.named(report)) == sorted(
        str(key(place)) for place in places)
    # Opening, naming, and looking again at what differs.
    assert report["round_trips"] <= 6, report["round_trips"]
    print(f"{len(places)} of {ROWS} rows differ: {report['round_trips']} round trips, "
          f"{report['elapsed_ms']} ms with {DELAY * 2000:.0f} ms each")
    done = verifying.repair(slow, "rows")
    assert done["repaired"] == len(places) and done["rows_left"] == 0
    verify(slow, "rows", expect=ALIKE)
