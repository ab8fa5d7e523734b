"""Faults of the region that writes, in networks of their own, under load in sync mode: writes go on
in another region, nothing acknowledged is lost, and what clients of all regions saw is one history.

ROUNDS=200 makes the long run (one of each fault by default), as `cargo xtask soak faults` does; FAULTS
names some of them.
"""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import time

import cluster
import disks
import linear
import networks
import pytest
import test_sync
from sizes import number
from test_failover import Writer, await_enrolled, writer
from test_switchover import await_forwarding, make, set_mode

LONG = bool(os.environ.get("SOAK"))
ROUNDS = number("ROUNDS", 200 if LONG else 1)
SECONDS = number("SECONDS", 7200 if LONG else 0)
FORMS = {"two-phase": 2, "three-phase": 1}
FAULTS = ["kill", "stop", "cut", "deaf", "mute", "slow-disk", "stuck-disk", "power-cut"]
LACKING = networks.missing() or disks.missing()
STRACE = shutil.which("strace")
pytestmark = pytest.mark.skipif(
    LACKING is not None and not os.environ.get("ISTHMUS_REQUIRE_FAULTS"), reason=LACKING or "")


class Lost:
    """The region that writes, and what is done to it."""

    def __init__(self, region, place, nets, disk):
        self.region, self.place, self.nets, self.disk = region, place, nets, disk
        self.tracer = None

    def begin(self, fault):
        if fault == "kill":
            self.region.kill()
        elif fault == "stop":
            os.kill(self.region.pid, signal.SIGSTOP)
        elif fault in ("cut", "deaf", "mute"):
            self.nets.cut(self.place, hears=fault == "mute", is_heard=fault == "deaf")
        elif fault in ("slow-disk", "stuck-disk"):
            # Microseconds.
            delay = 900_000 if fault == "slow-disk" else 8_000_000
            self.tracer = subprocess.Popen(
                [STRACE, "-f", "-qq", "-o", "/dev/null", "-p", str(self.region.pid), "-e",
                 "trace=fsync,fdatasync", "-e", f"inject=fsync,fdatasync:delay_enter={delay}"],
                stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        elif fault == "power-cut":
            # The disk goes first, while the process still writes.
            self.disk.shut_under(self.region.pid)
            time.sleep(0.05)
            self.region.kill()

    def end(self, fault):
        if fault == "kill":
            self.region.start(wait=False)
        elif fault == "stop":
            os.kill(self.region.pid, signal.SIGCONT)
        elif fault in ("cut", "deaf", "mute"):
            self.nets.heal()
        elif fault in ("slow-disk", "stuck-disk"):
            self.tracer.terminate()
            self.tracer.wait(60)
        elif fault == "power-cut":
            self.disk.detach()
            self.disk.attach()
            self.region.start(wait=False)


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with contextlib.ExitStack() as stack:
        found = {}
        for place in (1, 2, 3):
            name = f"r{place}"
            found[name] = disks.Disk(folder / f"{name}.img", folder / "data" / name)
            stack.callback(found[name].close)
        running, nets = stack.enter_context(networks.apart(folder))
        for disk in found.values():
            disk.sync()
        yield running, nets, found


def prepare(running, table, form):
    make(running, table)
    await_forwarding(running, table)
    # Two-phase goes on without a region that is away only when it is told to.
    running.run("global-table", "mode", table, "sync", "--form", form, "--bound-ms", "1500",
                "--patience-ms", "5000", "--fallback", "async")
    test_sync.await_open(running, table)
    await_enrolled(running, table, FORMS[form])


class Round:
    """One fault, from load before to replicas that are alike after."""

    def __init__(self, setting, table, fault):
        self.running, self.nets, self.disks = setting
        self.table, self.fault = table, fault
        alive = self.running.regions[0]
        name, self.epoch = cluster.wait_until(lambda: writer(self.running, table, alive), "written")
        region = self.running.region(name)
        self.lost = Lost(region, int(name[1:]), self.nets, self.disks[name])
        self.others = [one for one in self.running.regions if one is not region]

    def play(self):
        """The longest time in seconds in which no client had a write acknowledged."""
        clients = test_sync.registers(self.running, self.table)
        first = linear.read_all(self.others[0], self.table, test_sync.KEYS)
        for client in clients:
            client.history = {key: [] for key in test_sync.KEYS}
            client.start()
        try:
            time.sleep(random.uniform(0.6, 1.2))
            began = time.monotonic()
            self.lost.begin(self.fault)
            try:
                self.await_another(clients)
                time.sleep(0.5)
            finally:
                self.lost.end(self.fault)
            self.lost.region.wait_serving()
            time.sleep(1)
        finally:
            for client in clients:
                client.stop()
        self.check(clients, first)
        ends = sorted(ended for one in clients for ended, _ in answered(one) if ended > began)
        return max(after - before for before, after in itertools.pairwise([began, *ends]))

    def await_another(self, clients):
        """Another region writes, and clients have had answers to what they asked after that."""
        def moved():
            told = writer(self.running, self.table, self.others[0])
            return told and told[1] > self.epoch

        try:
            cluster.wait_until(moved, "another region writes", 60)
        except TimeoutError:
            # A disk that is merely slow may go on to write.
            if self.fault != "slow-disk":
                raise
        moved_at = time.monotonic()
        cluster.wait_until(
            lambda: any(begun > moved_at for one in clients for _, begun in answered(one)),
            "writes go on", 90, 0.02)

    def check(self, clients, first):
        test_sync.await_ready(self.running, self.table)
        test_sync.nothing_left(self.running, self.table)

        def read():
            found = [linear.read_all(one, self.table, test_sync.KEYS)
                     for one in self.running.regions]
            return found if found[0] == found[1] == found[2] else None

        finals = cluster.wait_until(read, "all regions show the same", 90, 0.2)
        for key, value in first.items():
            clients[0].history[key].append((0, 0, "write", value))
        linear.check(clients, finals)
        assert sum(one.acknowledged for one in clients) > 0
        done = self.running.run("verify", self.table, "--regions", "r1,r2,r3", "--json",
                                check=False)
        report = json.loads(done.stdout)
        assert report["equal"], report


def answered(client):
    """(ended, begun) of each acknowledged write."""
    histories = [list(history) for history in client.history.values()]
    return [(one[1], one[0]) for history in histories for one in history
            if one[2] == "write" and one[1] != linear.NEVER]


def wanted(fault):
    named = os.environ.get("FAULTS")
    return not named or fault in named.split(",")


@pytest.mark.timeout(240 + 60 * ROUNDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if wanted(fault)])
def test_the_writer_meets_a_fault_and_clients_see_one_history(regions, fault, form):
    if fault.endswith("disk") and STRACE is None:
        pytest.skip("slow disks need strace")
    running = regions[0]
    pauses = []
    table = f"{fault}_{form[:3]}".replace("-", "_")
    prepare(running, table, form)
    for _ in range(ROUNDS):
        cluster.wait_until(lambda: is_whole(running), "nobody is suspended", 120, 0.2)
        pauses.append(Round(regions, table, fault).play())
        await_enrolled(running, table, FORMS[form])
    tell(f"{fault}, {form}", pauses)


def is_whole(running):
    for one in running.regions:
        told = running.run("failover", "--json", config=one.config, check=False)
        if told.returncode != 0:
            return False
        found = json.loads(told.stdout)["regions"]
        if len(found) < 3 or any(it["suspended"] or it["suspected_by"] for it in found):
            return False
    return True


def tell(what, pauses):
    pauses = sorted(pauses)
    p99 = pauses[min(len(pauses) - 1, len(pauses) * 99 // 100)]
    print(f"\n{what}: {len(pauses)} rounds, no write answered for p50 "
          f"{statistics.median(pauses):.2f} s, p99 {p99:.2f} s, most {pauses[-1]:.2f} s")


@pytest.mark.skipif(SECONDS == 0, reason="long: SECONDS=60, or cargo xtask soak faults")
@pytest.mark.timeout(SECONDS + 300)
def test_losses_and_jitter_change_no_writer(folder):
    """One packet of twenty is lost, and all is held up for up to 100 ms."""
    with networks.apart(folder, jitter=0.1) as (running, nets):
        make(running, "shaky")
        await_forwarding(running, "shaky")
        set_mode(running, "shaky", 1, 20_000)
        await_enrolled(running, "shaky", 1)
        cluster.wait_until(lambda: is_whole(running), "nobody is suspended", 60, 0.2)
        before = suspensions(running)
        nets.lose(0.05)
        load = Writer(running.regions[0], "shaky", "shaky")
        load.start()
        time.sleep(SECONDS)
        load.stop()
        nets.heal()
        assert suspensions(running) == before == []
        assert not load.missing(running.regions[0].client())
        raised = [told(one)["detections"] for one in running.regions]
        print(f"\n{SECONDS} s, {len(load.acknowledged)} writes, suspicions of single regions: "
              f"{raised}")


def suspensions(running):
    found = json.loads(running.run("failover", "--json").stdout)
    return [one for one in found["audit"] if "suspended" in one["what"]]


def told(region):
    status = region.cluster.run("quorum", "--json", config=region.config)
    return json.loads(status.stdout)["detection"]
