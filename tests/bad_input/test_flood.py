"""IA19: one address floods wrong signatures while other clients are served.

What is asserted is that every good request succeeds while the flood is refused and held back, and
that the good clients' times are no more than twice what they are without it: measured in turns in
one run, and again where the machine was busy elsewhere.
"""

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.parse

import cases
import cluster

FLOODER = "127.0.8.1"
# As the server's own.
REFUSALS_PER_SECOND = 500
REQUESTS = 3000
ATTEMPTS = 10
P99_RATIO_MAX = 2.0


@contextlib.contextmanager
def flooding(context, path):
    """Runs the flood; what it counted, and for how long it ran, is in the mapping afterwards."""
    where = urllib.parse.urlsplit(context.endpoint)
    command = [sys.executable, "-B", cluster.ROOT / "tests" / "bad_input" / "flood.py",
               where.hostname, str(where.port), FLOODER, path]
    log = context.region.cluster.folder / "flood.txt"
    begun, counts = time.monotonic(), {}
    process = cluster.spawn(command, log, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"flooding\n"
        yield counts
        process.send_signal(signal.SIGTERM)
        counts.update(json.loads(process.communicate(timeout=30)[0]))
        counts["seconds"] = time.monotonic() - begun
    finally:
        cluster.end(process, signal.SIGKILL)


def served(client):
    """Seconds of each of many good requests; a refused or lost one fails."""
    times = []
    for number in range(REQUESTS):
        begun = time.perf_counter()
        found = client.get_row("t", cases.KEY)
        times.append(time.perf_counter() - begun)
        assert found is not None
        if number % 100 == 0:
            client.put_row("scratch", [("p", "flood"), ("n", number)], [("v", number)])
    return times


def p99(times):
    return sorted(times)[len(times) * 99 // 100]


def test_ia19_others_are_served_while_one_address_floods(region, context, unharmed, tmp_path):
    request = tmp_path / "request"
    client, ratios = region.client(), []
    for _ in range(ATTEMPTS):
        request.write_bytes(context.request("GetRow", cases.GOOD, sign={"secret": "wrong"}))
        quiet = served(client)
        with flooding(context, request) as counts:
            flooded = served(client)
        # So many are checked in every second, those of connections that were under way on top.
        assert counts["403"] <= (REFUSALS_PER_SECOND + 64) * (counts["seconds"] + 2), counts
        assert counts["403"] > 0, counts
        assert counts["sent"] > 2 * counts["403"], counts
        ratios.append(p99(flooded) / p99(quiet))
        print(f"p99 {p99(quiet) * 1e6:.0f} us, flooded {p99(flooded) * 1e6:.0f} us: ratio "
              f"{ratios[-1]:.2f}; {counts}")
        if ratios[-1] < P99_RATIO_MAX:
            break
    client.close()
    assert min(ratios) < P99_RATIO_MAX, ratios
    # When what is left of the flood has been refused, its address is listened to again.
    cluster.wait_until(lambda: context.send(
        context.request("GetRow", cases.GOOD), source=FLOODER).status == 200, "it is served", 10)

