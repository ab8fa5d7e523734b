"""Ten regions of one table: chain, ring, star and mesh one after the other, a region taken out and
bound again and one killed under load; nothing is lost, all are alike, and in a quiet world each
entry comes to each region once."""

import collections
import contextlib
import json
import time

import cluster
import ledger
import pytest
import verifying
from sizes import number

SECONDS = number("TEN_SECONDS", 3)
TABLE = "everywhere"
REGIONS = 10
NAMES = [f"r{place}" for place in range(1, REGIONS + 1)]
MESH = [(one, other) for one in NAMES for other in NAMES if one < other]
# Any machine has processors for so many at once.
WRITERS = ("r1", "r4", "r10")


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    with cluster.Cluster(regions=REGIONS, folder=tmp_path_factory.mktemp("ten")) as running:
        client = running.regions[0].client()
        client.create_table(TABLE, ledger.KEY)
        client.close()
        running.make_global(TABLE)
        yield running


def topology(running, *arguments):
    done = running.run("global-table", "topology", TABLE, "--json", *arguments)
    return json.loads(done.stdout)


def links(running):
    """All links of the table, as each region tells of those that leave it; none where one is not
    heard."""
    found = {}
    for region in running.regions:
        with contextlib.suppress(RuntimeError):
            told = json.loads(running.run("status", "--json", config=region.config).stdout)
            status = told["regions"][0].get("status") or {}
            found |= {(one["from"], one["to"]): one for one in status.get("links", [])}
    return found


def await_edges(running, edges):
    """Waits until links run along these edges, both ways, and nowhere else."""
    wanted = {ends for one, other in edges for ends in ((one, other), (other, one))}

    def holds():
        found = links(running)
        return set(found) == wanted and {one["state"] for one in found.values()} == {"following"}

    cluster.wait_until(holds, f"links along {len(edges)} edges", 120, 0.5)


@contextlib.contextmanager
def load(running, tag):
    writers = [ledger.Writer(running.region(name), TABLE, f"{name} {tag}") for name in WRITERS]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.stop()


def assert_alike(running, writers):
    verifying.level(running, TABLE, [running.region(name) for name in WRITERS])
    cluster.wait_until(
        lambda: not ledger.differing(running.regions, TABLE), "all are alike", 120, 1)
    for writer in writers:
        for region in running.regions:
            assert writer.losses(region) == [], f"{writer.name} in {region.name}"


def chain():
    return list(zip(NAMES, NAMES[1:], strict=False))


def test_ten_regions_change_their_edges_under_load(ten):
    with load(ten, "edges") as writers:
        topology(ten, "chain")
        await_edges(ten, chain())
        time.sleep(SECONDS)
        topology(ten, "ring")
        await_edges(ten, [*chain(), (NAMES[-1], NAMES[0])])
        time.sleep(SECONDS)
        topology(ten, "star", "--hub", "r5")
        await_edges(ten, [("r5", name) for name in NAMES if name != "r5"])
        time.sleep(SECONDS)
        topology(ten, "mesh")
        await_edges(ten, MESH)
        time.sleep(SECONDS)
    assert not [refusal for writer in writers for refusal in writer.refusals]
    assert_alike(ten, writers)


def test_a_region_goes_and_comes_and_another_one_dies_under_load(ten):
    topology(ten, "ring")
    await_edges(ten, [*chain(), (NAMES[-1], NAMES[0])])
    leaves, dies = "r7", ten.region("r3")
    with load(ten, "changes") as writers:
        ten.run("global-table", "unbind", TABLE, "--regions", leaves)
        cluster.wait_until(
            lambda: leaves not in json.dumps(topology(ten)), f"{leaves} is out", 60, 0.5)
        dies.kill()
        time.sleep(SECONDS)
        dies.start()
        ten.run("global-table", "bind", TABLE, "--regions", leaves)
        reader = ten.region(leaves)

        def is_read():
            with contextlib.suppress(cluster.wire.Refused, cluster.wire.Unknown):
                return bool(verifying.read(reader, TABLE, writers[0].key(1))) or True
            return False

        cluster.wait_until(is_read, f"{leaves} is read again", 120, 0.5)
        topology(ten, "ring")
        time.sleep(SECONDS)
    cluster.wait_until(lambda: topology(ten)["away"] == [], "nobody is away", 120, 1)
    assert_alike(ten, writers)


@pytest.mark.parametrize("kind", ["chain", "ring", "star", "mesh"])
def test_each_entry_crosses_each_edge_once_at_most(ten, kind):
    # In the order in which the regions were bound; a mesh has no edges of its own.
    told = [tuple(edge.split("-")) for edge in topology(ten, kind)["edges"]]
    assert len(told) == {"chain": 9, "ring": 10, "star": 9, "mesh": 0}[kind]
    await_edges(ten, told or MESH)
    before = links(ten)
    rows, writers = 50, ("r2", "r9")
    for name in writers:
        client = ten.region(name).client()
        for row in range(rows):
            client.put_row(TABLE, [("w", f"{kind} {name}"), ("k", row)], [("v", row)])
        client.close()
    for name in writers:
        last = [("w", f"{kind} {name}"), ("k", rows - 1)]
        for region in ten.regions:
            cluster.wait_until(
                lambda region=region, last=last: verifying.read(region, TABLE, last),
                f"{region.name} has the last row of {name}", 60)
    after = links(ten)
    assert set(after) == set(before)
    sent = {ends: one["sent_entries"] - before[ends]["sent_entries"] for ends, one in after.items()}
    by_edge = collections.Counter()
    for ends, count in sent.items():
        by_edge[frozenset(ends)] += count
    entries = rows * len(writers)
    assert max(by_edge.values()) <= entries, sent
    assert sum(sent.values()) == entries * (REGIONS - 1), sent
