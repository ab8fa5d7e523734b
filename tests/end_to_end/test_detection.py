"""How regions find out that another one is gone, by each setting: what it costs, counted in packets,
how long it takes, and what is told of it. Regions in networks of their own."""

import json
import os
import pathlib
import re
import signal
import sys
import threading
import time

import cluster
import networks
import pytest
import wire
from sizes import number
from test_failover import await_enrolled
from test_switchover import await_forwarding, make, set_mode

LACKING = networks.missing()
pytestmark = pytest.mark.skipif(
    LACKING is not None and not os.environ.get("ISTHMUS_REQUIRE_FAULTS"), reason=LACKING or "")
SECONDS = number("DETECTION_SECONDS", 6)
LOSSES = number("DETECTION_LOSSES", 1)


def detection(running, region):
    told = running.run("quorum", "--json", config=region.config)
    return json.loads(told.stdout)["detection"]


def events(running, region, kind):
    told = running.run("events", "--json", "--kind", kind, config=region.config)
    return json.loads(told.stdout)["events"]


def await_seen(running, verdict="alive"):
    """All regions see all others so."""
    def holds():
        seen = [one for region in running.regions for one in detection(running, region)["regions"]]
        return len(seen) == 6 and all(one["verdict"] == verdict for one in seen)

    cluster.wait_until(holds, f"all are {verdict}", 60, 0.2)


class Busy(threading.Thread):
    """Writes through the region that writes."""

    def __init__(self, region, table):
        super().__init__(daemon=True)
        self.client, self.table, self.ending = region.client(timeout=20), table, threading.Event()
        self.written = 0

    def run(self):
        while not self.ending.is_set():
            try:
                self.client.put_row(self.table, [("w", "a"), ("k", self.written % 50)], [("v", 1)])
                self.written += 1
            except (wire.Refused, wire.Unknown):
                pass
            time.sleep(0.01)

    def stop(self):
        self.ending.set()
        self.join(60)


def spent(running, nets, seconds):
    """Bytes of probes and of packets in a second, at each region."""
    before = [detection(running, one)["probe_bytes"] for one in running.regions]
    packets = [nets.bytes_between(place) for place in (1, 2, 3)]
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    after = [detection(running, one)["probe_bytes"] for one in running.regions]
    packets = [nets.bytes_between(place) - packets[place - 1] for place in (1, 2, 3)]
    return [(now - then) / took for now, then in zip(after, before, strict=True)], \
        [count / took for count in packets]


@pytest.mark.parametrize("by", ["active", "passive", "mixed"])
def test_a_region_that_is_gone_is_found_and_what_that_costs_is_told(folder, by):
    def edit(text):
        return text.replace('detection = "mixed"', f'detection = "{by}"')

    with networks.apart(folder, edit=edit) as (running, nets):
        r1, r2, r3 = running.regions
        make(running, "t")
        await_forwarding(running, "t")
        set_mode(running, "t", 1, 20_000)
        await_enrolled(running, "t", 1)
        await_seen(running)
        nets.count_bytes()
        idle, idle_packets = spent(running, nets, SECONDS)
        busy = Busy(r1, "t")
        busy.start()
        loaded, _ = spent(running, nets, SECONDS)
        busy.stop()
        told = detection(running, r2)
        assert told["by"] == by
        assert told["probe_bytes_per_second"] <= 2 * told["probe_bytes_per_second_max"]
        # Probes of r1 and r2 are not needed while entries and their acknowledgements go to and fro.
        writers = loaded[0]
        if by == "passive":
            assert idle == [0, 0, 0] and loaded == [0, 0, 0]
        elif by == "active":
            assert min(idle) > 0 and min(loaded) > 0
        else:
            assert min(idle) > 0
            assert writers < idle[0] / 2, (idle, loaded)
        for turn in range(LOSSES):
            lose(running, r3, (r1, r2), turn)
        told = [detection(running, one) for one in (r1, r2)]
        check_told(running, r1, by, told[0])
        print(f"\n{by}: probes idle {shown(idle)}, busy {shown(loaded)} B/s; packets idle "
              f"{shown(idle_packets)} B/s; quorum {told[0]['quorum_bytes_per_second']} B/s; "
              f"detected after p50 {[one['detected_after_p50_ms'] for one in told]} ms, last "
              f"{[one['detected_after_last_ms'] for one in told]} ms")


def shown(figures):
    return [round(figure) for figure in figures]


def lose(running, lost, others, turn):
    before = [len(events(running, one, "region-suspected")) for one in others]
    if turn % 2:
        os.kill(lost.pid, signal.SIGSTOP)
    else:
        lost.kill()
    for one, count in zip(others, before, strict=True):
        cluster.wait_until(lambda o=one, c=count: len(events(running, o, "region-suspected")) > c,
                           f"{one.name} suspects {lost.name}", 60, 0.2)
    cluster.wait_until(lambda: events(running, others[0], "region-suspended"), "suspended", 60)
    if turn % 2:
        os.kill(lost.pid, signal.SIGCONT)
    else:
        lost.start()
    await_seen(running)


def check_told(running, region, by, told):
    assert told["detections"] >= 1
    assert told["detected_after_last_ms"] >= told["suspect_after_ms"]
    # The newest first; a slow start may have been told of, too.
    event = about(events(running, region, "region-suspected"), "r3")
    assert event["detail"]["silent_ms"] >= 1000
    assert "r3 seems to be gone" in event["text"] and "phi" in event["text"]
    suspended = about(events(running, region, "region-suspended"), "r3")
    assert "r1: " in suspended["detail"]["why"] and "r2: " in suspended["detail"]["why"]
    cluster.wait_until(lambda: events(running, region, "region-trusted"), "it is trusted again", 60)
    text = running.run("status", config=region.config).stdout
    assert f"r1 detects {by}: probes" in text
    figures = metrics(running, region)
    assert f'isthmus_detection_suspicions_total{{by="{by}"}}' in figures
    assert f'isthmus_detection_seconds{{by="{by}",which="p50"}}' in figures
    assert 'isthmus_region_suspected{to="r3"} 0' in figures


def about(events, region):
    return next(one for one in events if one["detail"]["region"] == region)


def metrics(running, region):
    """As the region's own network sees them."""
    token = pathlib.Path(running.data / "metrics.token").read_text().strip()
    config = pathlib.Path(region.config).read_text()
    admin = re.search(r'\[admin\]\nlisten = "([^"]+)"', config).group(1)
    script = ("import sys, urllib.request as u; print(u.urlopen(u.Request(sys.argv[1], headers="
              "{'Authorization': 'Bearer ' + sys.argv[2]}), timeout=20).read().decode())")
    command = [*region.wrapper, sys.executable, "-c", script, f"http://{admin}/metrics", token]
    return networks.run(*command).stdout
