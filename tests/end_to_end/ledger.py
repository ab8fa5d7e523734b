"""Writers that note what was acknowledged, and the check that nothing of it is lost.

Each writer owns its keys. For a key it counts upwards; what a region answers for it later must be
at least the last count that was acknowledged and at most the last that was tried: a write whose
answer was lost may have happened, and both is right.
"""

import threading
import time

import cluster
import wire

KEY = [("w", 2), ("k", 1)]
KEY_NAMES = ["w", "k"]
KEYS = 400


class Writer(threading.Thread):
    """Writes to one region until told to stop: single rows and batches, puts and updates."""

    def __init__(self, region, table, name):
        super().__init__(daemon=True)
        self.region, self.table, self.name = region, table, name
        self.acknowledged, self.tried = {}, {}
        self.refusals, self.unknown, self.rows = [], 0, 0
        self.ending = threading.Event()
        self.paused = threading.Event()

    def run(self):
        client, count = self.region.client(timeout=30), 0
        while not self.ending.is_set():
            if self.paused.is_set():
                time.sleep(0.02)
                continue
            count += 1
            keys = [count % KEYS] if count % 3 else [(count * 7 + i) % KEYS for i in range(20)]
            try:
                self.write(client, keys, count)
            except wire.Unknown:
                self.unknown += 1
                time.sleep(0.05)
            except wire.Refused as refusal:
                self.refusals.append(str(refusal))
                time.sleep(0.05)
        client.close()

    def write(self, client, keys, count):
        for key in keys:
            self.tried[key] = count
        cells = [("v", count), ("text", f"{self.name} {count} " + "x" * 80)]
        if len(keys) == 1:
            client.update_row(self.table, self.key(keys[0]), cells)
            results = [None]
        else:
            changes = [(1, self.key(key), cells) for key in keys]
            results = client.batch_write(self.table, changes)
        for key, result in zip(keys, results, strict=True):
            if result is None:
                self.acknowledged[key] = count
                self.rows += 1

    def key(self, number):
        return [("w", self.name), ("k", number)]

    def stop(self):
        self.ending.set()
        self.join(60)
        assert not self.is_alive(), "the writer ends"

    def losses(self, region):
        """What the region should hold and does not: [(key, found, acknowledged, tried)]."""
        client, found = region.client(), {}
        start = [("w", self.name), ("k", wire.INF_MIN)]
        end = [("w", self.name), ("k", wire.INF_MAX)]
        while start is not None:
            page, start = client.get_range(self.table, start, end)
            for key, cells in page:
                found[key[1][1]] = dict(cell[:2] for cell in cells)["v"]
        client.close()
        lost = []
        for key, tried in self.tried.items():
            acknowledged, value = self.acknowledged.get(key, 0), found.get(key, 0)
            if not acknowledged <= value <= tried:
                lost.append((key, value, acknowledged, tried))
        return lost


def filler(number):
    """Keys of marker rows."""
    return ("~marker", number)


def differing(regions, table, key_names=KEY_NAMES, max_versions=10):
    """Where regions differ, timestamps included: at most ten rows, as text."""
    clients = [region.client() for region in regions]
    rows = [
        {tuple(value for _, value in key): cells
         for key, cells in client.scan(table, key_names, max_versions)}
        for client in clients
    ]
    for client in clients:
        client.close()
    keys = sorted(set().union(*rows))
    found = []
    for key in keys:
        shown = [one.get(key) for one in rows]
        if any(one != shown[0] for one in shown[1:]):
            found.append(f"{key}: {shown}")
    return found[:10]


def finish(running, table, writers):
    """Stops the writers and checks what the suite promises."""
    for writer in writers:
        writer.stop()
    for writer in writers:
        assert writer.rows > 0, f"{writer.name} was never acknowledged: {writer.refusals[-3:]}"
        lost = writer.losses(writer.region)
        assert not lost, f"lost in {writer.name}, which acknowledged it: {lost[:20]} of {len(lost)}"
    clients = [region.client() for region in running.regions]
    cluster.await_alike(clients, clients, table, KEY_NAMES, filler)
    for client in clients:
        client.close()
    cluster.wait_until(
        lambda: not differing(running.regions, table), "all regions are alike", 60, 1
    )
    for writer in writers:
        for region in running.regions:
            lost = writer.losses(region)
            assert not lost, f"rows of {writer.name} lost in {region.name}: {lost[:20]}"
