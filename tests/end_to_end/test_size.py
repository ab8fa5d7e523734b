"""Restart time, memory and disk: reported, and held to bounds that do not depend on the machine."""

import threading
import time

import cluster
import ledger
import pytest
import wire
from sizes import SOAK, number

MIB = 1024 * 1024


def fill(region, table, rows, writers=4, size=40):
    """Rows by batches over a few connections."""
    failures = []

    def work(part):
        try:
            client = region.client(timeout=60)
            for start in range(part * 200, rows, writers * 200):
                changes = [
                    (1, [("w", f"{row % 1000:03d}"), ("k", row)], [("v", row), ("t", "x" * size)])
                    for row in range(start, min(start + 200, rows))
                ]
                assert client.batch_write(table, changes) == [None] * len(changes)
            client.close()
        except Exception as error:  # told below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(1200)
    assert not failures, failures[0]


@pytest.mark.timeout(1500)
def test_restart_on_a_million_rows(three, folder):
    rows = number("RESTART_ROWS", 1000000)
    file = folder / "rows.csv"
    with file.open("w") as out:
        out.write("w,k,v,t\n")
        for row in range(rows):
            out.write(f"{row % 1000:03d},{row},{row},some text of row {row}\n")
    region = three.regions[0]
    client = region.client()
    client.create_table("many", ledger.KEY)
    three.make_global("many", "primary-secondary")
    three.run("load", "many", str(file), seconds=900)
    clients = [one.client(timeout=60) for one in three.regions]
    cluster.await_alike(clients, clients[:1], "many", ledger.KEY_NAMES, ledger.filler, 300)
    memory = [cluster.peak_bytes(one.pid) // MIB for one in three.regions]
    disk = [cluster.disk_bytes(one.data) // MIB for one in three.regions]
    print(f"{rows} rows: at most {memory} MiB of memory, disk {disk} MiB")
    assert max(memory) <= 512
    for one in three.regions:
        one.kill()
        seconds = one.start()
        print(f"{one.name} serves {seconds:.2f} s after kill -9 with {rows} rows")
    key = [("w", f"{(rows - 1) % 1000:03d}"), ("k", rows - 1)]
    for one in three.regions:
        again = one.client()
        assert again.get_row("many", key) is not None
        again.close()


@pytest.mark.timeout(900)
def test_ten_thousand_empty_tables(folder):
    tables = number("EMPTY_TABLES", 10000)
    with cluster.Cluster(regions=1, folder=folder, arguments=["--tables-max", "20000"]) as running:
        region = running.regions[0]
        client = region.client(timeout=60)
        before = cluster.resident_bytes(region.pid)
        connections = make_tables(region, tables)
        assert len(client.list_table()) == tables
        grown = (cluster.peak_bytes(region.pid) - before) // MIB
        print(f"{tables} empty tables: {grown} MiB more memory, made by {connections} connections")
        assert grown < 256
        assert_idle(region, tables)
        region.kill()
        seconds = region.start()
        again = cluster.resident_bytes(region.pid) // MIB
        print(f"after a restart in {seconds:.2f} s: {again} MiB in all")
        client.close()
        client = region.client(timeout=60)
        assert len(client.list_table()) == tables
        client.put_row("t0", [("w", "a"), ("k", 1)], [("v", 1)])
        client.close()


IDLE_SECONDS = 10


def assert_idle(region, tables):
    """Tables that nobody uses cost no timers: the process hardly runs, once what making them left
    to do is done."""
    def share():
        before, begun = cluster.processor_seconds(region.pid), time.monotonic()
        time.sleep(IDLE_SECONDS)
        used = cluster.processor_seconds(region.pid) - before
        found = used / (time.monotonic() - begun)
        print(f"{tables} idle tables: {found:.1%} of a processor")
        return found < 0.2

    cluster.wait_until(share, "idle tables take less than a fifth of a processor", 180, 0)


def make_tables(region, tables, connections=8):
    failures = []

    def work(part):
        try:
            client = region.client(timeout=60)
            for index in range(part, tables, connections):
                client.create_table(f"t{index}", ledger.KEY)
            client.close()
        except Exception as error:  # told below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(600)
    assert not failures, failures[0]
    return connections


@SOAK
@pytest.mark.timeout(7200)
def test_ten_million_overwrites_of_a_thousand_rows_stay_small(three):
    writes, rows = number("OVERWRITES", 10_000_000), 1000
    region = three.regions[0]
    client = region.client()
    client.create_table("hot", ledger.KEY)
    three.make_global("hot", "primary-secondary")
    client.close()
    failures = []

    def work(part):
        try:
            own = region.client(timeout=60)
            for turn in range(writes // rows // 4):
                for start in range(0, rows, 200):
                    changes = [(1, [("w", "hot"), ("k", row)], [("v", turn * 4 + part)])
                               for row in range(start, start + 200)]
                    assert own.batch_write("hot", changes) == [None] * 200
            own.close()
        except Exception as error:  # told below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(7000)
    assert not failures, failures[0]
    clients = [one.client(timeout=60) for one in three.regions]
    cluster.await_alike(clients, clients[:1], "hot", ledger.KEY_NAMES, ledger.filler, 600)

    def small():
        found = [cluster.disk_bytes(one.data) // MIB for one in three.regions]
        print(f"after {writes} overwrites: disk {found} MiB")
        return max(found) < 512

    # The last files are merged away in the background.
    cluster.wait_until(small, "the disk holds less than 512 MiB", 300, 10)
    for one in clients:
        assert len([key for key, _ in one.scan("hot", ledger.KEY_NAMES)
                    if key[0][1] == "hot"]) == rows
        one.close()
    assert max(cluster.peak_bytes(one.pid) for one in three.regions) <= 512 * MIB


def test_memory_stays_bounded_while_ingesting(three):
    rows = number("INGEST_ROWS", 60000)
    client = three.regions[0].client()
    client.create_table("wide", ledger.KEY)
    three.make_global("wide", "primary-secondary")
    fill(three.regions[0], "wide", rows, size=1000)
    clients = [one.client(timeout=60) for one in three.regions]
    cluster.await_alike(clients, clients[:1], "wide", ledger.KEY_NAMES, ledger.filler, 300)
    memory = [cluster.peak_bytes(one.pid) // MIB for one in three.regions]
    print(f"{rows} rows of 1 KiB: at most {memory} MiB of memory")
    assert max(memory) <= 512
    page, _ = clients[2].get_range(
        "wide", [("w", wire.INF_MIN), ("k", wire.INF_MIN)],
        [("w", wire.INF_MAX), ("k", wire.INF_MAX)], limit=10,
    )
    assert len(page) == 10
