"""Deleted rows really go: when all regions have a delete, nothing of it stays on any disk.

The long one deletes ten million rows of a table of peers (`cargo xtask soak deletes`; DELETES
sizes it) and waits until the horizon has passed them, by the quarter of an hour, and the sweep
has come by.
"""

import contextlib
import os
import threading
import time

import cluster
import ledger
import pytest
from sizes import SOAK, number

TABLE = "passing"
BATCH = 200
MIB = 1024 * 1024
# What a region may hold beyond an empty table, whatever was deleted: for each row of a table of
# peers a tombstone until the horizon has passed it, and for either kind what is not flushed or
# merged yet. Measured with 20 000 rows, of 60 to 80 MiB: 1 MiB with one writer, 2 MiB with peers.
LEFT_MIB = 6
# And once the horizon has passed the tombstones, however many rows there were.
LEFT_MIB_AFTER_SOAK = 16


def written(path):
    """Bytes in the files below a path, whatever RocksDB has set aside for more."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def disks(running):
    return [written(region.data) for region in running.regions]


def change_all(region, rows, change, writers=4):
    """Changes every row, by batches over a few connections."""
    failures = []

    def work(part):
        try:
            client = region.client(timeout=60)
            for start in range(part * BATCH, rows, writers * BATCH):
                changes = [change(row) for row in range(start, min(start + BATCH, rows))]
                assert client.batch_write(TABLE, changes) == [None] * len(changes)
            client.close()
        except Exception as error:  # told below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(7000)
    assert not failures, failures[0]


def key(row):
    return [("w", f"{row % 1000:03d}"), ("k", row)]


def left(region):
    """Rows that are left, markers aside."""
    client = region.client(timeout=60)
    found = [one for one, _ in client.scan(TABLE, ledger.KEY_NAMES) if one[0][1] != "~marker"]
    client.close()
    return found


def come_and_go(running, serve, rows, size):
    """Puts rows, deletes them, and returns the disks before, between and just after."""
    first = running.regions[0]
    client = first.client()
    client.create_table(TABLE, ledger.KEY)
    running.make_global(TABLE, serve)
    empty = disks(running)

    # Nothing that compresses, or it would be small from the first.
    def put(row):
        return (1, key(row), [("v", row), ("b", bytearray(os.urandom(size)))])

    change_all(first, rows, put)
    clients = [region.client(timeout=60) for region in running.regions]
    cluster.await_alike(clients, clients[:1], TABLE, ledger.KEY_NAMES, ledger.filler, 600)
    full = disks(running)
    change_all(first, rows, lambda row: (3, key(row), ()))
    cluster.await_alike(clients, clients[:1], TABLE, ledger.KEY_NAMES, ledger.filler, 600)
    for one in [client, *clients]:
        one.close()
    return empty, full


def in_mib(sizes):
    return [round(size / MIB, 1) for size in sizes]


@pytest.mark.parametrize("serve", ["primary-secondary", "peer-to-peer"])
def test_deleted_rows_leave_the_disks_of_all_regions(three, serve):
    rows = number("DELETE_ROWS", 20000)
    empty, full = come_and_go(three, serve, rows, 1200)
    assert all(a - b >= rows * 1200 for a, b in zip(full, empty, strict=True)), in_mib(full)

    def gone():
        now = disks(three)
        return all(a - b < LEFT_MIB * MIB for a, b in zip(now, empty, strict=True))

    cluster.wait_until(gone, f"of {in_mib(full)} MiB no more than {in_mib(empty)} are left", 120, 1)
    print(f"{serve}: empty {in_mib(empty)}, full {in_mib(full)}, left {in_mib(disks(three))} MiB")
    assert all(left(region) == [] for region in three.regions)


@SOAK
@pytest.mark.timeout(4 * 3600)
def test_ten_million_deletes_leave_no_lasting_trace(three):
    rows = number("DELETES", 10_000_000)
    empty, full = come_and_go(three, "peer-to-peer", rows, 100)
    print(f"{rows} rows: empty {in_mib(empty)}, with tombstones {in_mib(full)} MiB")
    began = time.monotonic()

    def gone():
        now = disks(three)
        print(f"{time.monotonic() - began:.0f} s after the last delete: {in_mib(now)} MiB")
        return all(a - b < LEFT_MIB_AFTER_SOAK * MIB for a, b in zip(now, empty, strict=True))

    # A quarter of an hour until the horizon counts, then the sweep and the merging of files.
    cluster.wait_until(gone, "the disks are near those of an empty table", 2 * 3600, 30)
    assert all(left(region) == [] for region in three.regions)
    assert ledger.differing(three.regions, TABLE) == []
