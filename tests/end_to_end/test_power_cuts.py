"""Power cuts: what was acknowledged was synced. And a lying sync, which must be found out."""

import contextlib
import os
import random
import shutil
import subprocess
import time

import cluster
import disks
import ledger
import pytest
import test_crashes
import verifying
from sizes import number

LACKING = disks.missing()
# A machine that can must not skip by accident: ISTHMUS_REQUIRE_POWER_CUTS turns the skip off.
pytestmark = pytest.mark.skipif(
    LACKING is not None and not os.environ.get("ISTHMUS_REQUIRE_POWER_CUTS"),
    reason=LACKING or "",
)
STRACE = shutil.which("strace")


@contextlib.contextmanager
def on_disks(folder, count):
    """A cluster with a disk of its own for each region: (cluster, {name: disk})."""
    found = {}
    with contextlib.ExitStack() as stack:
        for region in range(1, count + 1):
            name = f"r{region}"
            found[name] = disks.Disk(folder / f"{name}.img", folder / "data" / name)
            stack.callback(found[name].close)
        running = stack.enter_context(cluster.Cluster(regions=count, folder=folder))
        # `up` has made the configuration; from here each region runs alone, so that nothing else
        # has a file open on its disk. What `up` wrote is not the subject of the cuts.
        running.stop()
        for region in running.regions:
            region.start()
        for disk in found.values():
            disk.sync()
        yield running, found


def test_power_cuts_lose_nothing_acknowledged(folder):
    chance = random.Random(number("SEED", 20260103))
    with on_disks(folder, 3) as (running, found):
        test_crashes.prepare(running, "cut")
        writers = test_crashes.start_writers(running, "cut")
        for cut in range(number("POWER_CUTS", 20)):
            time.sleep(chance.uniform(0.3, 1.0))
            victims = chance.sample(running.regions, (1, 1, 2, 3)[cut % 4])
            for region in victims:
                if cut % 2:
                    # The disk goes first, while the process still writes: it must not
                    # acknowledge what it cannot keep.
                    found[region.name].shut_under(region.pid)
                    time.sleep(0.05)
                region.kill()
                found[region.name].cut() if not cut % 2 else remount(found[region.name])
            for region in victims:
                region.start(wait=False)
            for region in victims:
                region.wait_serving()
        time.sleep(0.5)
        ledger.finish(running, "cut", writers)
        verifying.verify(running, "cut", "--deep", regions="r1,r2,r3", expect=verifying.ALIKE)


def remount(disk):
    disk.detach()
    disk.attach()


@pytest.mark.skipif(STRACE is None, reason="needs strace")
def test_a_lying_sync_loses_data(folder):
    """The negative control: if this finds no loss, the power cuts above prove nothing."""
    with on_disks(folder, 1) as (running, found):
        region, disk = running.regions[0], found["r1"]
        client = region.client()
        client.create_table("lied", ledger.KEY)
        client.close()
        region.kill()
        disk.sync()
        lie = [STRACE, "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync",
               "-e", "inject=fsync,fdatasync:retval=0"]
        region.start(wrapper=lie)
        client = region.client()
        for row in range(200):
            client.put_row("lied", [("w", "a"), ("k", row)], [("v", row)])
        client.close()
        traced = children(region.process.pid)
        region.kill()
        for pid in traced:
            cluster.kill_pid(pid)
        disk.cut()
        try:
            region.start()
        except RuntimeError:
            return  # It sees that its data are damaged, and says so.
        client = region.client()
        kept = len(list(client.scan("lied", ledger.KEY_NAMES)))
        client.close()
        assert kept < 200, "a sync that does nothing lost nothing"


def children(pid):
    """What a tracer runs."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as found:
        return [int(child) for child in found.read().split()]


@pytest.mark.skipif(STRACE is None, reason="needs strace")
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_node_that_cannot_sync_stops_and_acknowledges_nothing(folder, error):
    with cluster.Cluster(regions=1, folder=folder) as running:
        region = running.regions[0]
        client = region.client(timeout=10)
        client.create_table("sync", ledger.KEY)
        client.close()
        writer = ledger.Writer(region, "sync", "r1")
        writer.start()
        time.sleep(1)
        writer.paused.set()
        time.sleep(0.5)
        before = writer.rows
        assert before > 0
        tracer = break_syncs(region.pid, error, folder / "strace.txt")
        try:
            writer.paused.clear()
            cluster.wait_until(lambda: not cluster.alive(region.pid), "the node stops", 30)
            assert writer.rows == before, "acknowledged without a sync"
        finally:
            cluster.end(tracer)
        region.kill()
        region.start()
        time.sleep(1)
        writer.stop()
        assert writer.rows > before
        assert writer.losses(region) == []


@pytest.mark.skipif(STRACE is None, reason="needs strace")
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_of_three_regions_those_that_cannot_sync_stop_and_all_become_alike(folder, error):
    with cluster.Cluster(regions=3, folder=folder) as running:
        test_crashes.prepare(running, "sync")
        writers = test_crashes.start_writers(running, "sync")
        for names in (["r2"], ["r1", "r3"]):
            victims = [running.region(name) for name in names]
            time.sleep(1)
            tracers = [break_syncs(one.pid, error, folder / f"strace-{one.name}.txt")
                       for one in victims]
            try:
                for one in victims:
                    cluster.wait_until(lambda one=one: not cluster.alive(one.pid),
                                       f"{one.name} stops", 60)
            finally:
                for tracer in tracers:
                    cluster.end(tracer)
            for one in victims:
                one.kill()
                one.start(wait=False)
            for one in victims:
                one.wait_serving()
        time.sleep(1)
        ledger.finish(running, "sync", writers)
        verifying.verify(running, "sync", "--deep", regions="r1,r2,r3", expect=verifying.ALIKE)


def break_syncs(pid, error, log):
    """From now on every sync of the process fails."""
    process = cluster.spawn(
        [STRACE, "-f", "-o", "/dev/null", "-p", str(pid), "-e", "trace=fsync,fdatasync",
         "-e", f"inject=fsync,fdatasync:error={error}"],
        log, stdout=subprocess.DEVNULL,
    )
    cluster.wait_until(lambda: b"attached" in log.read_bytes(), "strace is attached", 15)
    return process
