"""Entries go along edges: chain, ring, star and back to a mesh, changed while all regions write;
a region in the middle is killed and comes back; nothing acknowledged is lost and all are alike."""

import contextlib
import json
import time

import cluster
import ledger
import pytest
import verifying
from sizes import number

SECONDS = number("TOPOLOGY_SECONDS", 3)
ONE, PEERS = "one_writer", "all_write"
TABLES = {ONE: "primary-secondary", PEERS: "peer-to-peer"}
ALL = "r1,r2,r3,r4"


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    with cluster.Cluster(regions=4, folder=tmp_path_factory.mktemp("topologies")) as running:
        for table, serve in TABLES.items():
            client = running.regions[0].client()
            client.create_table(table, ledger.KEY)
            client.close()
            running.make_global(table, serve)
        yield running


def topology(running, table, *arguments, check=True):
    done = running.run("global-table", "topology", table, "--json", *arguments, check=check)
    return json.loads(done.stdout) if done.returncode == 0 else done


def links(running):
    """(table, from, to) of all links, as each region tells of those that leave it."""
    found = set()
    for region in running.regions:
        told = json.loads(running.run("status", "--json", config=region.config).stdout)
        found |= {(link["table"], link["from"], link["to"])
                  for one in told["regions"] for link in one["status"]["links"]}
    return found


def await_links(running, table, expected):
    """Waits until a table has exactly these links, each written as in "r1>r2"."""
    wanted = {(table, *one.split(">")) for one in expected}

    def holds():
        with contextlib.suppress(RuntimeError):
            return {link for link in links(running) if link[0] == table} == wanted
        return False

    cluster.wait_until(holds, f"{table} has the links {sorted(expected)}", 30)


def both(edges):
    return [one for edge in edges for one in (">".join(edge), ">".join(reversed(edge)))]


@contextlib.contextmanager
def load(running, regions=None):
    """Writes in all regions to the one table and in the base to the other."""
    regions = regions or running.regions
    writers = [ledger.Writer(region, PEERS, region.name) for region in regions]
    writers.append(ledger.Writer(running.regions[0], ONE, "only"))
    for writer in writers:
        writer.start()
    yield writers
    for writer in writers:
        writer.stop()


def assert_alike(running, writers):
    for table in TABLES:
        wrote = running.regions if table == PEERS else running.regions[:1]
        verifying.level(running, table, wrote)
        report, _ = verifying.verify(running, table, regions=ALL, expect=verifying.ALIKE)
        assert report["rows"] == []
        assert ledger.differing(running.regions, table) == []
        for writer in writers:
            if writer.table == table:
                for region in running.regions:
                    assert writer.losses(region) == [], f"{writer.name} in {region.name}"


def test_edges_change_under_load_and_all_stay_alike(four):
    chain = [("r1", "r2"), ("r2", "r3"), ("r3", "r4")]
    with load(four) as writers:
        for table in TABLES:
            assert topology(four, table, "chain")["edges"] == ["r1-r2", "r2-r3", "r3-r4"]
        await_links(four, ONE, ["r1>r2", "r2>r3", "r3>r4"])
        await_links(four, PEERS, both(chain))
        time.sleep(SECONDS)
        for table in TABLES:
            topology(four, table, "ring")
        await_links(four, ONE, ["r1>r2", "r2>r3", "r1>r4"])
        await_links(four, PEERS, both([*chain, ("r4", "r1")]))
        time.sleep(SECONDS)
        for table in TABLES:
            topology(four, table, "star", "--hub", "r3")
        await_links(four, ONE, ["r1>r3", "r3>r2", "r3>r4"])
        await_links(four, PEERS, both([("r3", one) for one in ("r1", "r2", "r4")]))
        time.sleep(SECONDS)
        for table in TABLES:
            assert topology(four, table, "mesh")["edges"] == []
        await_links(four, ONE, ["r1>r2", "r1>r3", "r1>r4"])
        time.sleep(SECONDS)
    assert not [refusal for writer in writers for refusal in writer.refusals]
    assert_alike(four, writers)


def test_a_region_in_the_middle_goes_and_comes_back(four):
    middle = four.region("r2")
    for table in TABLES:
        topology(four, table, "ring")
    await_links(four, ONE, ["r1>r2", "r2>r3", "r1>r4"])
    others = [region for region in four.regions if region is not middle]
    with load(four, others) as writers:
        time.sleep(SECONDS)
        middle.kill()
        # Its base finds a way around it.
        assert cluster.wait_until(
            lambda: topology(four, ONE)["away"] == ["r2"], "entries go around r2", 60)
        mark = time.time_ns() % (1 << 60)
        client = four.regions[0].client()
        key = [("w", "~around"), ("k", 1)]
        client.put_row(ONE, key, [("v", mark)])
        client.close()
        far = four.region("r3")
        cluster.wait_until(
            lambda: (verifying.read(far, ONE, key) or [0, []])[1][:1] and
            verifying.read(far, ONE, key)[1][0][1] == mark, "r3 has what went around r2", 30)
        events = json.loads(four.run("events", "--json").stdout)
        assert "edges-rerouted" in json.dumps(events)
        middle.start()
        cluster.wait_until(lambda: topology(four, ONE)["away"] == [], "r2 is back", 60)
        time.sleep(SECONDS)
    assert_alike(four, writers)


def test_progress_of_replicas_that_others_feed_is_known(four):
    for table in TABLES:
        topology(four, table, "chain")
    client = four.regions[0].client()
    client.create_table("late", ledger.KEY)
    for place in range(500):
        client.put_row("late", [("w", "late"), ("k", place)], [("v", place)])
    four.run("global-table", "create", "late", "--regions", "r1,r2", "--serve", "peer-to-peer")
    topology(four, "late", "--edges", "r1-r2")
    # A region that is bound later is joined to the base; then it is fed by the last one.
    four.run("global-table", "bind", "late", "--regions", "r3")
    assert topology(four, "late")["edges"] == ["r1-r2", "r1-r3"]
    topology(four, "late", "--edges", "r1-r2,r2-r3")
    await_links(four, "late", both([("r1", "r2"), ("r2", "r3")]))

    def rpo_is_known():
        found = json.loads(four.run("global-table", "describe", "late", "--json").stdout)
        assert found["edges"] == ["r1-r2", "r2-r3"]
        far = next(one for one in found["replicas"] if one["region"] == "r3")
        return found["status"] == "active" and far["rpo_nanos"]

    assert cluster.wait_until(rpo_is_known, "how far r3 has come is known", 30)
    four.run("global-table", "unbind", "late", "--regions", "r2")
    assert topology(four, "late")["edges"] == ["r1-r3"]
    client.put_row("late", [("w", "last"), ("k", 1)], [("v", 1)])
    far = four.region("r3")
    cluster.wait_until(
        lambda: verifying.read(far, "late", [("w", "last"), ("k", 1)]), "r3 is fed by r1", 30)
    client.close()


def test_edges_that_make_no_sense_are_refused(four):
    before = topology(four, ONE)
    for words in (
        ["--edges", "r1-r2,r3-r4"],
        ["--edges", "r1-r2"],
        ["--edges", "r1-r9"],
        ["--edges", "nonsense"],
        ["star", "--hub", "r9"],
        ["chain", "--hub", "r1"],
        ["triangle"],
    ):
        done = topology(four, ONE, *words, check=False)
        assert done.returncode != 0 and done.stderr, words
    assert topology(four, ONE) == before
    with pytest.raises(RuntimeError):
        four.run("global-table", "topology", "no_such_table", "chain")
