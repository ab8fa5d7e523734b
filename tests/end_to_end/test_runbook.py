"""The steps of docs/runbook.md, followed literally: each block that is marked with a drill's name is run
as it stands there, and every command is repeated until it shows what the page says it shows."""

import collections
import json
import os
import pathlib
import re
import signal
import stat
import subprocess
import time

import cluster
import pytest
import verifying
import wire

# Each step is awaited for a while.
pytestmark = pytest.mark.timeout(900)
PAGE = cluster.ROOT / "docs" / "runbook.md"
AWAIT_SECONDS = 120
STEP = collections.namedtuple("STEP", "command shows")
SYSTEMCTL = """#!/bin/sh
# What the page calls by this name, for regions of a test.
set -e
name=${2#isthmus@}
folder=$(dirname "$0")
case $1 in
start)
    isthmus serve --config "$folder/$name.toml" >>"$folder/$name.log" 2>&1 </dev/null &
    echo $! >"$folder/$name.pid" ;;
stop)
    pid=$(cat "$folder/$name.pid")
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done ;;
*) exit 2 ;;
esac
"""


def blocks(drill):
    """The blocks of a drill in the page's order, each a list of steps."""
    found = re.findall(rf"^```sh drill={drill}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return [steps(text) for text in found]


def steps(text):
    made = []
    for line in text.splitlines():
        if line.startswith("# => "):
            made[-1].shows.append(line.removeprefix("# => "))
        elif line.strip():
            made.append(STEP(line, []))
    return made


class Operator:
    """Somebody who follows the page, on the machines of a cluster."""

    def __init__(self, running, folder):
        self.running, self.folder = running, folder / "operator"
        self.folder.mkdir()
        (self.folder / "isthmus").symlink_to(cluster.binary())
        systemctl = self.folder / "systemctl"
        systemctl.write_text(SYSTEMCTL)
        systemctl.chmod(systemctl.stat().st_mode | stat.S_IXUSR)
        self.names = {}
        for region in running.regions:
            name = region.name
            # A link to a file would make its paths those of another folder.
            (self.folder / f"{name}.pid").write_text(str(region.pid))
            self.names[f"/var/lib/isthmus/{name}"] = f"{region.data}/data"
            self.names[f"/etc/isthmus/{name}.toml"] = region.config
        path = pathlib.Path(self.folder / "systemctl")
        path.write_text(path.read_text().replace(
            '"$folder/$name.toml"', f'"{running.data}/$name/isthmus.toml"'))
        self.shell = subprocess.Popen(
            ["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=self.folder, start_new_session=True,
            env={**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", "USER": "operator"})

    def say(self, command):
        """Has the shell do it, which keeps what was set before; gives (code, output)."""
        self.shell.stdin.write(f"{command}\necho \"<<done $?>>\"\n")
        self.shell.stdin.flush()
        said = []
        for line in self.shell.stdout:
            done = re.search(r"<<done (\d+)>>$", line)
            if done:
                return int(done.group(1)), "".join([*said, line[:done.start()]])
            said.append(line)
        raise RuntimeError("the shell has ended")

    def follow(self, block):
        for step in block:
            self.do(step)

    def do(self, step):
        command = step.command
        for written, here in self.names.items():
            command = command.replace(written, here)
        assert "/var/lib/isthmus" not in command and "/etc/isthmus" not in command, command
        until = time.monotonic() + AWAIT_SECONDS
        while True:
            code, said = self.say(command)
            shown = " ".join(said.split())
            if all(" ".join(words.split()) in shown for words in step.shows):
                # Where nothing is said to be shown, it must be done.
                assert step.shows or code == 0, f"{step.command}: {code}\n{said}"
                return
            assert time.monotonic() < until, \
                f"{step.command}\nshows, with code {code}:\n{said}\nand not {step.shows}\n" \
                f"{self.running.log_tail()}"
            time.sleep(0.5)

    def close(self):
        try:
            # What hangs in it goes as well.
            os.killpg(self.shell.pid, signal.SIGKILL)
            self.shell.wait(30)
        finally:
            for path in self.folder.glob("*.pid"):
                pid = int(path.read_text())
                if cluster.alive(pid):
                    cluster.kill_pid(pid)


@pytest.fixture
def drill(folder):
    """(cluster, operator); r1 writes `orders` and all regions have it."""
    with cluster.Cluster(regions=3, folder=folder, arguments=["--quorum"]) as running:
        r1 = running.regions[0]
        running.run("table", "create", "orders", "--key", "id:string")
        running.make_global("orders", "primary-secondary")
        for number in range(20):
            put(running, f"row {number}")
        cluster.wait_until(lambda: "r1" in running.run("failover", config=r1.config).stdout
                           and tenure(running)["writer"] == "r1", "the quorum knows of it", 60)
        running.run("verify", "orders", "--regions", "r1,r2,r3")
        operator = Operator(running, folder)
        try:
            yield running, operator
        finally:
            operator.close()


def put(running, key, region=None):
    region = region or running.regions[0]
    running.run("row", "put", "orders", json.dumps({"id": key}), '{"v": 1}', config=region.config)


def tenure(running, region=None):
    region = region or running.regions[0]
    told = json.loads(running.run("failover", "--json", config=region.config).stdout)
    found = [one for one in told["tables"] if one["table"] == "orders"]
    return found[0] if found else {"writer": None}


def keys(region):
    client = region.client(timeout=20)
    rows, start = [], [("id", wire.INF_MIN)]
    while start is not None:
        page, start = client.get_range("orders", start, [("id", wire.INF_MAX)])
        rows += [dict(key)["id"] for key, _ in page]
    client.close()
    return set(rows)


ALL = {f"row {number}" for number in range(20)}


def test_a_region_is_lost_and_comes_back_with_a_tail(drill):
    running, operator = drill
    r1, r2, r3 = running.regions
    seen, decided, back, tail, role, over = blocks("region-lost")
    # What r1 acknowledges from here on nobody else has.
    running.run("link", "pause", "--table", "orders", "--from", "r1")
    time.sleep(1)
    for number in range(3):
        put(running, f"alone {number}")
    r1.kill()
    operator.follow(seen)
    operator.follow(decided)
    # The links that take the place of those are paused as well, and so are those of r1 again.
    running.run("link", "resume", "--table", "orders", config=r2.config)
    operator.follow(back)
    operator.follow(tail)
    operator.follow(role)
    running.run("link", "resume", "--table", "orders", config=r1.config)
    operator.follow(over)
    wanted = ALL | {"probe"} | {f"alone {number}" for number in range(3)}
    assert [keys(one) for one in (r1, r2, r3)] == [wanted] * 3
    assert tenure(running)["writer"] == "r1"


def test_a_region_is_taken_down_as_planned(drill):
    running, operator = drill
    for block in blocks("planned"):
        operator.follow(block)
    assert [keys(one) for one in running.regions] == [ALL] * 3
    assert tenure(running)["writer"] == "r1"


def test_a_disk_is_lost(drill):
    running, operator = drill
    r1 = running.regions[0]
    r1.kill()
    seen, decided = blocks("region-lost")[:2]
    operator.follow(seen)
    operator.follow(decided)
    for block in blocks("disk-lost"):
        operator.follow(block)
    assert [keys(one) for one in running.regions] == [ALL | {"probe"}] * 3
    assert tenure(running)["writer"] == "r1"


def test_a_quorum_is_lost_for_good(drill):
    running, operator = drill
    for region in running.regions[1:]:
        region.kill()
    cluster.wait_until(
        lambda: "none of them leads" in running.run("quorum").stdout, "nobody leads", 60)
    for block in blocks("quorum-lost"):
        operator.follow(block)
    assert [keys(one) for one in running.regions] == [ALL | {"probe"}] * 3


def test_rows_differ(drill):
    running, operator = drill
    r2 = running.regions[1]
    for kind, name in (("lost-row", "row 3"), ("extra-row", "nobody's"), ("cell", "row 5")):
        with verifying.stopped(r2):
            verifying.plant(running, r2, "orders", [("id", name)], kind)
    for block in blocks("rows-differ"):
        operator.follow(block)
    assert [keys(one) for one in running.regions] == [ALL] * 3


def test_every_drill_of_the_page_is_run_here():
    named = set(re.findall(r"^```sh drill=(\S+)$", PAGE.read_text(), re.M))
    assert named == {"region-lost", "planned", "disk-lost", "quorum-lost", "rows-differ"}
