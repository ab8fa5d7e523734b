"""A data directory that was put back from an old copy: found out, healed, no delete undone.

What the region had acknowledged since the copy and a replica holds is there in the end, deletes
made since stay, and all regions are alike.
"""

import json
import shutil

import cluster
import ledger
import pytest
import wire

TABLE = "kept"


def key(row):
    return [("w", f"{row % 7}"), ("k", row)]


def events(running, region, kind):
    asked = ["events", "--kind", kind, "--table", TABLE, "--json"]
    told = json.loads(running.run(*asked, config=region.config).stdout)["events"]
    return [one for one in told if one["region"] == region.name]


def patiently(ask, what):
    """Asks again while a region that has just started is not ready."""
    def holds():
        try:
            return ask() or True
        except (wire.Refused, wire.Unknown) as refusal:
            print(f"{what}: {refusal}")
            return False

    cluster.wait_until(holds, what, 60, 0.2)


@pytest.mark.parametrize(
    ("serve", "which"),
    [("primary-secondary", 0), ("primary-secondary", 1), ("peer-to-peer", 0), ("peer-to-peer", 2)],
    ids=["primary", "secondary", "base", "peer"],
)
def test_an_old_data_directory_that_is_put_back_is_healed(three, folder, serve, which):
    regions = three.regions
    back = regions[which]
    clients = [region.client(timeout=60) for region in regions]
    writers = clients if serve == "peer-to-peer" else clients[:1]
    clients[0].create_table(TABLE, ledger.KEY)
    three.make_global(TABLE, serve)
    expected = {}

    def put(client, row, value):
        client.put_row(TABLE, key(row), [("v", value)])
        expected[row] = value

    def delete(client, row):
        client.delete_row(TABLE, key(row))
        expected.pop(row, None)

    def all_alike():
        cluster.await_alike(clients, writers, TABLE, ledger.KEY_NAMES, ledger.filler)

    for row in range(200):
        put(writers[row % len(writers)], row, row)
    all_alike()
    back.kill()
    copy = folder / "copy"
    shutil.copytree(back.data, copy)
    back.start()
    clients[which].close()
    clients[which] = back.client(timeout=60)
    writers = clients if serve == "peer-to-peer" else clients[:1]
    for row in range(100, 260):
        patiently(lambda row=row: put(writers[row % len(writers)], row, -row), "a put")
    for row in range(0, 120, 2):
        delete(writers[row % len(writers)], row)
    all_alike()
    back.kill()
    shutil.rmtree(back.data)
    shutil.copytree(copy, back.data)
    back.start()
    clients[which].close()
    clients[which] = back.client(timeout=60)
    writers = clients if serve == "peer-to-peer" else clients[:1]
    writer = clients[which] if which in (0, 2) else writers[0]
    for row in range(250, 300):
        patiently(lambda row=row: put(writer, row, 2 * row), "a put after it was put back")
    all_alike()
    cluster.wait_until(lambda: not ledger.differing(regions, TABLE), "all are alike", 60, 1)
    for client in clients:
        rows = {one[1][1]: dict(cell[:2] for cell in cells)["v"]
                for one, cells in client.scan(TABLE, ledger.KEY_NAMES) if one[0][1] != "~marker"}
        assert rows == expected
    if serve == "peer-to-peer" or which == 0:
        found = cluster.wait_until(lambda: events(three, back, "old-disk"), "it is found", 30, 1)
        assert not found[0]["detail"]["needs_a_person"], found
        cluster.wait_until(lambda: events(three, back, "old-disk-healed"), "it is told", 30, 1)
    for client in clients:
        client.close()


@pytest.mark.parametrize("wrote_alone", [False, True], ids=["heard", "alone"])
def test_a_region_that_wrote_before_follows_after_its_old_disk_was_put_back(
    three, folder, wrote_alone
):
    regions = three.regions
    back = regions[0]
    clients = [region.client(timeout=60) for region in regions]
    clients[0].create_table(TABLE, ledger.KEY)
    three.make_global(TABLE, "primary-secondary")
    expected = {}

    def put(client, row, value):
        client.put_row(TABLE, key(row), [("v", value)])
        expected[row] = value

    for row in range(100):
        put(clients[0], row, row)
    cluster.await_alike(clients, clients[:1], TABLE, ledger.KEY_NAMES, ledger.filler)
    back.kill()
    copy = folder / "copy"
    shutil.copytree(back.data, copy)
    back.start()
    # Refused until the region that has just started has heard from all.
    ask = ["switchover", TABLE, "--to", "r2"]
    cluster.wait_until(lambda: three.run(*ask, check=False).returncode == 0, "r2 writes", 60, 0.5)
    for row in range(50, 150):
        patiently(lambda row=row: put(clients[1], row, -row), "a put in r2")
    back.kill()
    shutil.rmtree(back.data)
    shutil.copytree(copy, back.data)
    if wrote_alone:
        # Nobody is there to tell it, and it starts again before anybody does: what it accepted
        # is in the place of what r2 wrote, and gives way.
        for other in regions[1:]:
            other.kill()
        back.start()
        client = back.client(timeout=60)
        patiently(lambda: client.put_row(TABLE, key(500), [("v", 500)]), "a put alone")
        client.close()
        back.kill()
        for other in regions[1:]:
            other.start()
        clients[1:] = [region.client(timeout=60) for region in regions[1:]]
    back.start()
    clients[0].close()
    clients[0] = back.client(timeout=60)
    # By its disk it writes the table. It must have heard better before it accepts anything: what
    # it acknowledges was passed on, and is in all regions in the end.
    for row in range(100, 110):
        patiently(lambda row=row: put(clients[0], row, 3 * row), "a put where it was put back")
    for row in range(140, 160):
        put(clients[1], row, 2 * row)

    def all_alike():
        try:
            return not ledger.differing(regions, TABLE)
        except (wire.Refused, wire.Unknown):
            return False

    cluster.wait_until(all_alike, "all are alike", 60, 1)
    rows = {one[1][1]: dict(cell[:2] for cell in cells)["v"]
            for one, cells in clients[0].scan(TABLE, ledger.KEY_NAMES) if one[0][1] != "~marker"}
    assert rows == expected
    found = cluster.wait_until(lambda: events(three, back, "old-disk"), "it is told", 30, 1)
    assert not found[0]["detail"]["needs_a_person"], found
    for client in clients:
        client.close()
