"""The five global table operations, which no SDK for this language has, by the plain client."""

import itertools

import cluster
import pytest
import wire

G_RE_CONF, G_ACTIVE = 2, 3
PHY_ACTIVE = 5
PRIMARY_SECONDARY, PEER_TO_PEER = 2, 3
KEY = [("p", 2), ("n", 1)]
NAMES = ["p", "n"]
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def regions():
    """Clients of three regions, by name."""
    with cluster.Cluster(regions=3) as running:
        clients = {region.name: region.client() for region in running.regions}
        yield clients
        for client in clients.values():
            client.close()


@pytest.fixture
def base(regions):
    return regions["r1"]


def key(n):
    return [("p", "a"), ("n", n)]


def wait_active(client, table, identity, count=3):
    def holds():
        found = client.describe_global_table(table, identity)
        active = [one for one in found["tables"] if one["status"] == PHY_ACTIVE]
        return found if found["status"] == G_ACTIVE and len(active) == count else None

    return cluster.wait_until(holds, f"global table {table} is active", 60)


@pytest.fixture
def make_global(regions, base):
    """(table, id) of a table with ten rows, made global."""

    def make(peers, others=("r2", "r3"), sync_mode=1):
        table = f"g{next(_NUMBERS)}"
        base.create_table(table, KEY)
        assert base.batch_write(table, [(1, key(n), [("v", n)]) for n in range(10)]) == [None] * 10
        identity, status = base.create_global_table(table, "r1", others, peers, sync_mode)
        assert identity
        assert status in (G_RE_CONF, G_ACTIVE)
        wait_active(base, table, identity, 1 + len(others))
        return table, identity

    return make


def same_rows(regions, table, names=("r1", "r2", "r3")):
    """Waits until these regions answer the same rows, timestamps included."""

    def holds():
        found = [list(regions[name].scan(table, NAMES, 10)) for name in names]
        return found[0] if all(one == found[0] for one in found[1:]) else None

    return cluster.wait_until(holds, f"{table} is alike in {names}", 60)


@pytest.mark.parametrize("peers", [False, True], ids=["primary-secondary", "peer-to-peer"])
def test_a_table_with_rows_is_copied_and_followed(regions, base, make_global, peers):
    table, _ = make_global(peers)
    assert len(same_rows(regions, table)) == 10
    base.put_row(table, key(100), [("v", "later"), ("b", b"\x00")])
    base.update_row(table, key(1), [("v", 5, None, wire.INCREMENT)])
    base.delete_row(table, key(2))

    def arrived():
        return regions["r3"].get_row(table, key(100)) is not None

    cluster.wait_until(arrived, "the later row is in r3", 60)
    rows = same_rows(regions, table)
    assert [found[0][1][1] for found in rows] == [0, 1, 3, 4, 5, 6, 7, 8, 9, 100]
    assert rows[1][1][0][:2] == ("v", 6)


def test_describe_tells_each_replica(base, make_global):
    table, identity = make_global(False)
    found = base.describe_global_table(table, identity, rpo=True)
    assert found["id"] == identity
    assert found["serve"] == PRIMARY_SECONDARY
    assert [one["region"] for one in found["tables"]] == ["r1", "r2", "r3"]
    assert [one["writable"] for one in found["tables"]] == [True, False, False]
    assert {one["table"] for one in found["tables"]} == {table}
    # By a replica instead of by the id, and asked in another region.
    assert base.describe_global_table(table, region="r2")["id"] == identity


def test_a_replica_tells_its_global_table(regions, make_global):
    table, identity = make_global(True)
    for client in regions.values():
        meta = wire.read_message(client.describe_table(table)[1][0])
        assert meta[6][0].decode() == identity


def test_a_secondary_refuses_writes_and_answers_reads(regions, make_global):
    table, _ = make_global(False)
    same_rows(regions, table)
    for name in ("r2", "r3"):
        with pytest.raises(wire.Refused):
            regions[name].put_row(table, key(5), [("v", "no")])
        assert regions[name].get_row(table, key(5))[1][0][:2] == ("v", 5)
    same_rows(regions, table)


def test_every_peer_writes(regions, base, make_global):
    table, identity = make_global(True)
    assert base.describe_global_table(table, identity)["serve"] == PEER_TO_PEER
    for number, client in enumerate(regions.values()):
        client.put_row(table, key(200 + number), [("from", number)])
        client.update_row(table, key(7), [(f"c{number}", number)])

    def arrived():
        return all(
            client.get_row(table, key(200 + number)) is not None
            for client in regions.values() for number in range(3)
        )

    cluster.wait_until(arrived, "each region has the rows of all", 60)
    same_rows(regions, table)


def test_increments_of_all_peers_end_alike(regions, make_global):
    table, _ = make_global(True, sync_mode=2)
    same_rows(regions, table)
    for _ in range(20):
        for number, client in enumerate(regions.values()):
            client.update_row(table, key(3), [("count", number + 1, None, wire.INCREMENT)])

    # The last writer of the column wins: what was added elsewhere at the same moment may be lost.
    same_rows(regions, table)
    counts = {
        dict(cell[:2] for cell in client.get_row(table, key(3))[1])["count"]
        for client in regions.values()
    }
    assert len(counts) == 1 and 0 < counts.pop() <= 120


def test_options_changed_at_the_base_reach_the_replicas(regions, base, make_global):
    table, _ = make_global(False)
    options = wire.fields((1, 864000), (2, 3))
    base.call("UpdateTable", wire.fields((1, table), (3, options)))

    def arrived():
        for client in regions.values():
            found = wire.read_message(client.describe_table(table)[3][0])
            if (found[1][0], found[2][0]) != (864000, 3):
                return False
        return True

    cluster.wait_until(arrived, "the options are alike", 60)


def test_a_region_is_bound_later_and_unbound(regions, base, make_global):
    table, identity = make_global(False, others=["r2"])
    assert table not in regions["r3"].list_table()
    assert base.bind_global_table(table, identity, ["r3"], False) in (G_RE_CONF, G_ACTIVE)
    wait_active(base, table, identity, 3)
    assert len(same_rows(regions, table)) == 10
    assert base.unbind_global_table(table, identity, ["r3"]) in (G_RE_CONF, G_ACTIVE)
    wait_active(base, table, identity, 2)
    names = [one["region"] for one in base.describe_global_table(table, identity)["tables"]]
    assert names == ["r1", "r2"]
    base.put_row(table, key(300), [("v", "after")])

    def arrived():
        return regions["r2"].get_row(table, key(300)) is not None

    cluster.wait_until(arrived, "the bound replica still follows", 60)


def test_the_writer_of_a_primary_secondary_table_changes_in_one_step(regions, base, make_global):
    table, identity = make_global(False)

    def writable():
        found = base.describe_global_table(table, identity)["tables"]
        return [one["region"] for one in found if one["writable"]]

    with pytest.raises(wire.Refused) as caught:
        base.update_global_table(table, identity, "r2", writable=True, eligible=False)
    assert caught.value.code == "OTSParameterInvalid" and writable() == ["r1"]
    base.update_global_table(table, identity, "r2", eligible=True)
    assert writable() == ["r1"]
    base.update_global_table(table, identity, "r2", writable=True, eligible=True)
    assert writable() == ["r2"]
    base.update_global_table(table, identity, "r1", writable=False)
    assert writable() == ["r2"]
    for number, client in enumerate(regions.values()):
        client.put_row(table, key(400 + number), [("v", "yes")])
    base.update_global_table(table, identity, "r1", writable=True, eligible=True)
    base.update_global_table(table, identity, "r2", writable=False)
    assert writable() == ["r1"]
    base.put_row(table, key(410), [("v", "yes")])
    assert len(same_rows(regions, table)) == 14


def test_a_peer_is_closed_for_writes_and_opened_again(regions, base, make_global):
    table, identity = make_global(True)

    def takes_writes():
        try:
            regions["r2"].put_row(table, key(400), [("v", 1)])
            return True
        except wire.Refused:
            return False

    cluster.wait_until(takes_writes, "r2 takes writes", 60)
    base.update_global_table(table, identity, "r2", writable=False)
    cluster.wait_until(lambda: not takes_writes(), "r2 refuses writes", 60)
    assert regions["r2"].get_row(table, key(1)) is not None
    base.update_global_table(table, identity, "r2", writable=True)
    cluster.wait_until(takes_writes, "r2 takes writes again", 60)
    same_rows(regions, table)


def test_wrong_global_tables_are_refused(base, make_global):
    with pytest.raises(wire.Refused) as caught:
        base.create_global_table("nothere", "r1", ["r2"], True)
    assert caught.value.code == "OTSObjectNotExist"
    with pytest.raises(wire.Refused):
        base.describe_global_table("nothere", "no-such-id")
    table, identity = make_global(True, others=["r2"])
    for work in (
        lambda: base.create_global_table(table, "r1", ["r2"], True),
        lambda: base.bind_global_table(table, identity, ["nowhere"], True),
        lambda: base.unbind_global_table(table, identity, ["nowhere"]),
        lambda: base.update_global_table(table, identity, "nowhere", writable=True),
        lambda: base.update_global_table(table, "another-id", "r1", writable=True),
    ):
        with pytest.raises(wire.Refused):
            work()
    assert len(base.describe_global_table(table, identity)["tables"]) == 2
