"""Two regions and a witness: what needs a majority goes on without any one of the three, and not
without two. The witness stores nothing but what is agreed on; with a new disk it learns it anew."""

import json
import os
import shutil
import signal
import subprocess
import time

import cluster
import pytest
import wire
from test_failover import await_enrolled, put_until_taken, tenure, writer
from test_switchover import await_forwarding, make


class Witness:
    """The witness of a cluster."""

    def __init__(self, running):
        told = running.told["witness"]
        self.cluster, self.name, self.pid = running, told["name"], told["pid"]
        self.config, self.data = told["config"], told["data"]
        self.process = None

    def start(self):
        command = [cluster.binary(), "witness", "--config", self.config]
        self.process = cluster.spawn(command, self.cluster.log, stdout=subprocess.DEVNULL)
        self.pid = self.process.pid

    def kill(self):
        if self.process is not None:
            cluster.end(self.process, signal.SIGKILL)
            self.process = None
        cluster.kill_pid(self.pid)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("witness")
    with cluster.Cluster(regions=2, folder=folder, arguments=["--witness"]) as running:
        running.witness = Witness(running)
        yield running
        if running.witness.process is not None:
            cluster.end(running.witness.process)


def quorum(running, region):
    told = running.run("quorum", "--json", config=region.config, check=False)
    return json.loads(told.stdout) if told.returncode == 0 else {}


def await_leader(running, regions=None):
    """One that leads, as these see it."""
    def leads():
        told = [quorum(running, one) for one in regions or running.regions]
        leaders = {one.get("leader") for one in told}
        return len(leaders) == 1 and leaders.pop()

    return cluster.wait_until(leads, "one leads", 60)


def begin(running, table):
    make(running, table)
    running.run("failover", "--table", table, "--set", "automatic")
    await_enrolled(running, table, 0)
    cluster.wait_until(lambda: all((one := tenure(running, region, table)) and one["automatic"]
                                   for region in running.regions), "it is known", 60)
    return cluster.wait_until(lambda: writer(running, table, running.regions[0]), "one writes", 60)


def test_the_other_region_writes_with_the_word_of_the_witness(pair):
    await_leader(pair)
    assert sorted(quorum(pair, pair.regions[0])["members"]) == ["r1", "r2", "w1"]
    name, epoch = begin(pair, "lost")
    lost = pair.region(name)
    other = next(one for one in pair.regions if one is not lost)
    lost.kill()
    told = cluster.wait_until(
        lambda: (one := writer(pair, "lost", other)) and one[1] > epoch and one, "it writes", 60)
    assert told[0] == other.name
    client = other.client(timeout=20)
    put_until_taken(client, "lost", [("w", "a"), ("k", 1)], 1)
    client.close()
    lost.start()
    await_leader(pair)
    cluster.wait_until(lambda: writer(pair, "lost", lost) == told, "the lost one follows", 60)


def test_without_the_witness_all_goes_on_and_without_two_nothing_is_acknowledged(pair):
    name, _ = begin(pair, "alone")
    writes = pair.region(name)
    other = next(one for one in pair.regions if one is not writes)
    pair.witness.kill()
    client = writes.client(timeout=20)
    put_until_taken(client, "alone", [("w", "a"), ("k", 1)], 1)
    client.close()
    os.kill(other.pid, signal.SIGSTOP)
    try:
        time.sleep(5)
        client = writes.client(timeout=5)
        with pytest.raises((wire.Refused, wire.Unknown)):
            client.put_row("alone", [("w", "b"), ("k", 1)], [("v", 1)])
        client.close()
        # The witness comes back, and with it a majority.
        pair.witness.start()
        client = writes.client(timeout=20)
        put_until_taken(client, "alone", [("w", "c"), ("k", 1)], 1)
        client.close()
    finally:
        os.kill(other.pid, signal.SIGCONT)
    await_leader(pair)


def test_a_witness_with_a_new_disk_learns_what_was_agreed_on(pair):
    await_leader(pair)
    pair.witness.kill()
    shutil.rmtree(os.path.join(pair.witness.data, "data"))
    pair.witness.start()
    name, epoch = begin(pair, "learnt")
    lost = pair.region(name)
    other = next(one for one in pair.regions if one is not lost)
    # It can be half of a majority again.
    def knows():
        with open(pair.log, encoding="utf-8", errors="replace") as log:
            return "has a vote in the quorum from now on" in log.read()

    cluster.wait_until(knows, "the witness may vote", 60)
    lost.kill()
    cluster.wait_until(
        lambda: (one := writer(pair, "learnt", other)) and one[1] > epoch, "it writes", 60)
    assert tenure(pair, other, "learnt")["writer"] == other.name
    lost.start()
    await_leader(pair)


def test_the_witness_answers_nobody_but_voters_and_stops_when_told(pair):
    away = subprocess.run(
        [cluster.binary(), "witness", "--config", pair.witness.data + "/none.toml"],
        capture_output=True, text=True, timeout=30, check=False)
    assert away.returncode == 2 and "cannot be read" in away.stderr
    pair.witness.kill()
    pair.witness.start()
    await_leader(pair)
    process, pair.witness.process = pair.witness.process, None
    assert cluster.end(process) == 0
    pair.witness.start()
    told = pair.run("quorum", "--voters", "r1,r2,r9", check=False)
    assert told.returncode == 1 and "r9 is no region" in told.stderr
    assert pair.run("quorum", "--voters", "r1,r2,w1").returncode == 0


def test_a_witness_that_probes_has_a_voice_by_what_it_finds(folder):
    with cluster.Cluster(regions=2, folder=folder, arguments=["--witness"]) as running:
        running.stop()
        for path in running.data.glob("*/isthmus.toml"):
            text = path.read_text()
            path.write_text(text.replace('detection = "mixed"', 'detection = "active"'))
        running.start()
        make(running, "probed")
        await_forwarding(running, "probed")
        await_enrolled(running, "probed", 0)
        running.run("failover", "--table", "probed", "--set", "automatic")
        r1, r2 = running.regions
        cluster.wait_until(lambda: tenure(running, r2, "probed")["automatic"], "it is known", 60)
        r1.kill()
        client = r2.client(timeout=20)
        put_until_taken(client, "probed", [("w", "a"), ("k", 1)], 1)
        client.close()
        told = running.run("failover", "--json", config=r2.config).stdout
        why = next(one["why"] for one in json.loads(told)["audit"] if "suspended" in one["what"])
        assert "w1: silent" in why and "r2: silent" in why and "probes not answered" in why, why
