"""A peer that is unbound, writes alone and is bound again: what the others deleted meanwhile stays
deleted, what it wrote alone comes to all, and all are alike.
"""

import cluster
import ledger
import pytest

TABLE = "bound"
ROWS = 300


def key(row):
    return [("w", f"{row % 7}"), ("k", row)]


def rows_of(client):
    found = client.scan(TABLE, ledger.KEY_NAMES)
    return {one[1][1]: dict(cell[:2] for cell in cells)["v"]
            for one, cells in found if one[0][1] != "~marker"}


def is_refused(act):
    try:
        act()
    except (cluster.wire.Refused, cluster.wire.Unknown):
        return True
    return False


@pytest.mark.parametrize(
    # More than a log that nobody follows keeps when it is trimmed; and few, which are there again
    # after a crash.
    ("alone", "crashes"), [(1200, False), (30, True)], ids=["many", "few and a crash"])
def test_a_peer_that_is_bound_again_brings_nothing_back(three, alone, crashes):
    clients = [region.client(timeout=60) for region in three.regions]
    one, two, left = clients
    one.create_table(TABLE, ledger.KEY)
    three.make_global(TABLE)
    for row in range(ROWS):
        clients[row % 3].put_row(TABLE, key(row), [("v", row)])
    cluster.await_alike(clients, clients, TABLE, ledger.KEY_NAMES, ledger.filler)

    three.run("global-table", "unbind", TABLE, "--regions", "r3")
    cluster.wait_until(lambda: "r3" not in three.run("global-table", "describe", TABLE).stdout,
                       "r3 is unbound", 60, 0.5)
    expected = {row: row for row in range(ROWS)}
    for row in range(0, 100):
        (one if row % 2 else two).delete_row(TABLE, key(row))
        expected.pop(row)
    for row in range(100, 150):
        two.put_row(TABLE, key(row), [("v", -row)])
        expected[row] = -row
    for row in range(1000, 1000 + alone):
        left.put_row(TABLE, key(row), [("v", row)])
        expected[row] = row
    for row in range(200, 220):
        left.delete_row(TABLE, key(row))
        expected.pop(row)
    left.put_row(TABLE, key(250), [("v", 7)])
    expected[250] = 7
    if crashes:
        three.region("r3").kill()
        three.region("r3").start()
        left.close()
        left = clients[2] = three.region("r3").client(timeout=60)
        cluster.wait_until(
            lambda: "connected" in three.run("status").stdout, "r3 is reached again", 60, 0.5)

    three.run("global-table", "bind", TABLE, "--regions", "r3")
    cluster.wait_until(
        lambda: not is_refused(lambda: left.get_row(TABLE, key(250))), "r3 is read", 120, 0.2)
    # What is deleted while rows come back and forth stays deleted, too.
    for row in range(150, 200):
        clients[row % 3].delete_row(TABLE, key(row))
        expected.pop(row)
    cluster.await_alike(clients, clients, TABLE, ledger.KEY_NAMES, ledger.filler)
    cluster.wait_until(lambda: all(rows_of(client) == expected for client in clients),
                       "every region has what is expected", 120, 1)
    assert not ledger.differing(three.regions, TABLE)
    for client in clients:
        client.close()
