"""kill -9 in the middle of writes: nothing acknowledged is lost, all regions become alike."""

import json
import random
import signal
import subprocess
import time

import cluster
import ledger
import verifying
import wire
from sizes import number


def start_writers(running, table):
    writers = [ledger.Writer(region, table, region.name) for region in running.regions]
    for writer in writers:
        writer.start()
    return writers


def prepare(running, table):
    client = running.regions[0].client()
    client.create_table(table, ledger.KEY)
    client.close()
    running.make_global(table, "peer-to-peer")


def test_kills_of_one_two_and_all_regions_lose_nothing(three):
    chance = random.Random(number("SEED", 20260102))
    prepare(three, "crash")
    writers = start_writers(three, "crash")
    for cut in range(number("CRASHES", 20)):
        time.sleep(chance.uniform(0.2, 1.2))
        count = (1, 1, 2, 3)[cut % 4]
        victims = chance.sample(three.regions, count)
        for region in victims:
            region.kill()
        # The others go on writing meanwhile; entries for the dead wait in their logs.
        time.sleep(chance.uniform(0, 0.6))
        for region in victims:
            region.start(wait=False)
        for region in victims:
            region.wait_serving()
    time.sleep(0.5)
    ledger.finish(three, "crash", writers)
    # The disks hold what the digests say, in all regions the same.
    verifying.verify(three, "crash", "--deep", regions="r1,r2,r3", expect=verifying.ALIKE)


def test_the_load_command_survives_a_kill(three, folder):
    rows = number("LOAD_ROWS", 40000)
    file = folder / "rows.jsonl"
    with file.open("w") as out:
        for row in range(rows):
            line = {"w": f"w{row % 50:02d}", "k": row, "v": row, "text": f"row {row}", "f": row / 8}
            out.write(json.dumps(line) + "\n")
    region = three.regions[0]
    client = region.client()
    client.create_table("loaded", ledger.KEY)
    client.close()
    three.make_global("loaded", "primary-secondary")
    command = [cluster.binary(), "load", "loaded", str(file), "--config", region.config]
    log = folder / "load.txt"
    process = cluster.spawn(command, log, stdout=subprocess.DEVNULL)
    time.sleep(1)
    region.kill()
    time.sleep(1)
    region.start()
    for _ in range(3):
        # Loading is idempotent: one that gave up is started again.
        if process.wait(300) == 0:
            break
        cluster.end(process)
        process = cluster.spawn(command, log, stdout=subprocess.DEVNULL)
    assert cluster.end(process) == 0, log.read_text()[-2000:]
    client = region.client()
    found = {key[1][1]: dict(c[:2] for c in cells)
             for key, cells in client.scan("loaded", ledger.KEY_NAMES)}
    client.close()
    assert len(found) == rows
    assert all(found[row] == {"v": row, "text": f"row {row}", "f": row / 8} for row in found)
    clients = [one.client() for one in three.regions]
    cluster.await_alike(clients, clients[:1], "loaded", ledger.KEY_NAMES, ledger.filler)
    assert ledger.differing(three.regions, "loaded") == []


def test_a_load_that_was_killed_goes_on_where_it_was(folder):
    rows = number("LOAD_ROWS", 40000)
    file = folder / "rows.jsonl"
    with file.open("w") as out:
        for row in range(rows):
            line = {"w": f"w{row % 50:02d}", "k": row, "v": row, "text": "x" * 200}
            out.write(json.dumps(line) + "\n")
    place = folder / "rows.jsonl.isthmus-load"
    with cluster.Cluster(regions=1, folder=folder) as running:
        region = running.regions[0]
        client = region.client()
        client.create_table("resumed", ledger.KEY)
        command = [cluster.binary(), "load", "resumed", str(file), "--config", region.config,
                   "--json", "--parallel", "1", "--batch", "20"]
        process = cluster.spawn(command, folder / "load.txt", stdout=subprocess.DEVNULL)
        # The place is kept once a second; what was loaded after it is loaded again.
        cluster.wait_until(
            lambda: place.exists() or process.poll() is not None, "a place is kept", 60)
        cluster.end(process, signal.SIGKILL)
        assert place.exists(), "it was killed in the middle"
        before = {key[1][1]: cells for key, cells in client.scan("resumed", ledger.KEY_NAMES)}
        assert 0 < len(before) < rows
        done = running.run("load", "resumed", str(file), "--json", "--resume", "--batch", "20",
                           seconds=300)
        told = json.loads(done.stdout.splitlines()[-1])
        assert 0 < told["resumed_at_row"] <= len(before), told
        found = {key[1][1]: cells for key, cells in client.scan("resumed", ledger.KEY_NAMES)}
        client.close()
        assert len(found) == rows
        assert all({name: value for name, value, *_ in cells} == {"v": row, "text": "x" * 200}
                   for row, cells in found.items())
        # What lies before the place was not written a second time.
        assert all(found[row] == before[row] for row in range(told["resumed_at_row"]))
        assert not place.exists()


def test_ctrl_c_stops_up_and_serve_cleanly(folder):
    with cluster.Cluster(regions=2, folder=folder) as running:
        prepare(running, "kept")
        first, second = running.regions
        client = first.client()
        client.put_row("kept", [("w", "a"), ("k", 1)], [("v", 1)])
        client.close()
        pids = [region.pid for region in running.regions]
        assert cluster.end(running.process, signal.SIGINT) == 0
        assert not any(cluster.alive(pid) for pid in pids)
        for region in running.regions:
            region.start()
        for region in running.regions:
            assert cluster.end(region.process, signal.SIGINT) == 0, running.log_tail()
            region.process = None
        # Nothing is lost, and no directory is left locked.
        for region in running.regions:
            region.start()
        for region in (first, second):
            client = region.client()
            cluster.wait_until(lambda client=client: client.get_row("kept", [("w", "a"), ("k", 1)]),
                               f"{region.name} has the row", 30)
            client.close()


def test_up_keeps_its_data_between_runs_and_stops_cleanly(folder):
    with cluster.Cluster(regions=2, folder=folder) as running:
        client = running.regions[0].client()
        client.create_table("kept", ledger.KEY)
        client.put_row("kept", [("w", "a"), ("k", 1)], [("v", 1)])
        pids = [region.pid for region in running.regions]
        assert running.stop() == 0
        assert not any(cluster.alive(pid) for pid in pids)
        running.start()
        client = running.regions[0].client()
        assert client.get_row("kept", [("w", "a"), ("k", 1)])[1][0][:2] == ("v", 1)
        client.close()
        running.stop()
        running.arguments.append("--fresh")
        running.start()
        client = running.regions[0].client()
        assert client.list_table() == []
        client.close()


def test_up_restarts_a_killed_region_where_told(folder):
    with cluster.Cluster(regions=1, folder=folder, arguments=["--restart"]) as running:
        region = running.regions[0]
        cluster.kill_pid(region.pid)
        region.wait_serving()


def test_a_killed_region_stays_down_and_a_second_start_is_refused(folder):
    with cluster.Cluster(regions=1, folder=folder) as running:
        region = running.regions[0]
        second = cluster.spawn([cluster.binary(), "serve", "--config", region.config],
                               folder / "second.txt", stdout=subprocess.DEVNULL)
        assert second.wait(30) != 0, "the data directory is in use"
        cluster.end(second)
        region.kill()
        time.sleep(1)
        assert not region.serving()
        region.start()


def test_status_tells_regions_and_links(three):
    prepare(three, "seen")
    client = three.regions[0].client()
    client.put_row("seen", [("w", "a"), ("k", 1)], [("v", 1)])
    client.close()

    def told():
        status = three.status()
        text = json.dumps(status)
        return status if all(f'"{region.name}"' in text for region in three.regions) \
            and "seen" in text else None

    status = cluster.wait_until(told, "status names all regions and the table", 30, 0.5)
    assert status["regions"]
    assert three.run("status").stdout.strip()


def test_an_unreachable_server_is_unknown_and_not_refused(three):
    region = three.regions[0]
    region.kill()
    client = region.client(timeout=3)
    try:
        client.list_table()
        raise AssertionError("a dead region answered")
    except wire.Unknown:
        pass
    region.start()
