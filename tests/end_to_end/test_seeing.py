"""What regions tell of themselves agrees with what is: lag, probes, events, metrics, `top`."""

import http.server
import json
import os
import pathlib
import signal
import threading
import time
import urllib.error
import urllib.request

import cluster
import ledger

TABLE = "seen"
ROW = [("w", "mark"), ("k", 1)]
LAG_SECONDS = float(os.environ.get("LAG_SECONDS", "3"))


def key(number):
    return [("w", "plan"), ("k", number)]


def close_to(figure, low, high):
    """Whether a figure in milliseconds lies in a range, to 10 ms or 5 %."""
    slack = max(10, 0.05 * high)
    return low - slack <= figure <= high + slack


class Marker(threading.Thread):
    """Overwrites one row with growing numbers; knows when each was sent and acknowledged."""

    def __init__(self, region):
        super().__init__(daemon=True)
        self.client = region.client()
        self.sent, self.acked, self.over = [], [], threading.Event()

    def put(self):
        self.sent.append(time.time() * 1000)
        self.client.put_row(TABLE, ROW, [("n", len(self.sent) - 1)])
        self.acked.append(time.time() * 1000)

    def run(self):
        while not self.over.wait(0.02):
            self.put()

    def finish(self):
        self.over.set()
        self.join()
        self.client.close()


def shown(client):
    found = client.get_row(TABLE, ROW)
    return found[1][0][1] if found else -1


def status(running, region):
    told = running.run("status", "--json", config=region.config)
    return json.loads(told.stdout)["regions"][0]["status"]


def link(told, to):
    return next(one for one in told["links"] if one["table"] == TABLE and one["to"] == to)


def make(running, serve):
    client = running.regions[0].client()
    client.create_table(TABLE, ledger.KEY)
    client.close()
    running.make_global(TABLE, serve)


def test_lag_and_rpo_agree_with_rows_that_are_looked_for(three):
    r1, r2, _ = three.regions
    make(three, "primary-secondary")
    here, there = r1.client(), r2.client()
    marker = Marker(r1)
    marker.put()
    cluster.wait_until(lambda: shown(there) == 0, "the first row is in r2")
    os.kill(r2.pid, signal.SIGSTOP)
    try:
        marker.start()
        time.sleep(LAG_SECONDS)
        told = status(three, r1)
        rpo = next(one["rpo"] for one in here.describe_global_table(TABLE, rpo=True)["tables"]
                   if one["region"] == "r2") / 1e6
    finally:
        os.kill(r2.pid, signal.SIGCONT)
    # r2 shows the row numbered 0 or a few more that it took before it was stopped.
    found = link(told, "r2")
    oldest = found["oldest_entry_ms"]
    first = next(n for n in range(len(marker.acked)) if marker.acked[n] + 10 >= oldest)
    assert first <= 3, (first, marker.sent[:5], oldest)
    low, high = told["now_ms"] - marker.acked[first], told["now_ms"] - marker.sent[first]
    assert high > LAG_SECONDS * 900
    assert close_to(found["lag_ms"], low, high), (found, low, high)
    assert marker.sent[first] - 10 <= rpo <= marker.acked[first] + 10, (rpo, marker.sent[first])
    assert found["lag_entries"] >= 0.8 * (len(marker.acked) - first) - 3, found
    assert found["waiting_bytes"] > 0
    marker.finish()
    last = len(marker.sent) - 1
    cluster.wait_until(lambda: shown(there) == last, "r2 shows the last row")
    cluster.wait_until(lambda: link(status(three, r1), "r2")["lag_ms"] == 0, "no lag is left")
    here.close()
    there.close()


def test_lag_of_a_link_that_stays_behind_agrees_with_what_its_replica_shows(three):
    r1, r2, _ = three.regions
    make(three, "primary-secondary")
    three.run("link", "set", "--table", TABLE, "--to", "r2", "--timing", "delayed", "--by", "2s")
    there, marker = r2.client(), Marker(r1)
    marker.put()
    marker.start()
    cluster.wait_until(lambda: link(status(three, r1), "r2")["lag_ms"] > 1500 and shown(there) > 0,
                       "rows come to r2 two seconds late", 30)
    lags = []
    for _ in range(int(os.environ.get("LAG_LOOKS", "5"))):
        before = shown(there)
        told = status(three, r1)
        after = shown(there)
        # The oldest row that is not there is the one after what is shown, at one look or the other;
        # at the later one there may be none.
        acked, sent = marker.acked[after + 1 :], marker.sent[before + 1 :]
        low = told["now_ms"] - acked[0] if acked else 0
        high = told["now_ms"] - sent[0] if sent else 0
        lag = link(told, "r2")["lag_ms"]
        assert close_to(lag, low, high), (lag, low, high)
        lags.append(lag)
        time.sleep(0.3)
    assert max(lags) > 1000, lags
    marker.finish()
    there.close()


def scrape(region, token):
    request = urllib.request.Request(f"{region.admin}/metrics")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(text):
    """{"name{labels}": value} of a scrape."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_metrics_are_given_to_who_bears_the_token_and_are_bounded(folder):
    with cluster.Cluster(regions=2, folder=folder) as running:
        r1, r2 = running.regions
        token = (running.data / "metrics.token").read_text(encoding="utf-8").strip()
        assert os.stat(running.data / "metrics.token").st_mode & 0o077 == 0
        for wrong in (None, "", "x", token[:-1], token + "x", token.upper() + "Z"):
            assert scrape(r1, wrong)[0] in (400, 403), wrong
        make(running, "peer-to-peer")
        client = r1.client()
        for number in range(20):
            client.put_row(TABLE, [("w", "m"), ("k", number)], [("v", number)])
        with_rest = json.dumps("(rest)")
        for number in range(3):
            client.create_table(f"more{number}", ledger.KEY)
        code, text = scrape(r1, token)
        assert code == 200 and text.endswith("# EOF\n"), text[-200:]
        found = samples(text)
        assert found['isthmus_requests_total{operation="PutRow",outcome="done"}'] >= 20
        assert found['isthmus_request_seconds_count{operation="PutRow"}'] >= 20
        assert found['isthmus_request_seconds_bucket{le="+Inf",operation="PutRow"}'] >= 20
        assert found["isthmus_commits_total"] > 0 and found["isthmus_disk_free_bytes"] > 0
        key = f'{{table="{TABLE}",from="r1",to="r2"'
        cluster.wait_until(
            lambda: samples(scrape(r1, token)[1])[f"isthmus_link_entries_total{key}}}"] >= 20,
            "r2 took the entries", 20)
        found = samples(scrape(r1, token)[1])
        assert found[f'isthmus_link_state{key},state="following"}}'] == 1
        assert found[f"isthmus_link_wire_bytes_total{key}}}"] > 0
        assert 0 < found[f'isthmus_table_safe_seconds{{table="{TABLE}"}}'] < time.time() + 60
        assert with_rest not in text and "__isthmus" not in text
        told = status(running, r1)
        assert told["disk_free_bytes"] > 0 and told["disk_bytes"] > 0
        client.close()
        # With room for one series the other tables are summed.
        r1.kill()
        config = pathlib.Path(r1.config)
        text = config.read_text(encoding="utf-8")
        assert "tables_max = 100" in text
        config.write_text(text.replace("tables_max = 100", "tables_max = 1"), encoding="utf-8")
        r1.start()
        found = samples(scrape(r1, token)[1])
        assert found['isthmus_table_entries{table="(rest)"}'] == 0
        assert sum(name.startswith("isthmus_table_entries") for name in found) == 2
        assert r2.serving()


def probe(told, region):
    return next((one for one in told.get("probes", []) if one["region"] == region), None)


def test_probes_see_a_region_that_is_down_and_users_see_no_probes(folder):
    with cluster.Cluster(regions=2, folder=folder) as running:
        r1, r2 = running.regions
        for region in running.regions:
            region.kill()
            with open(region.config, "a", encoding="utf-8") as config:
                config.write("\n[probe]\nevery_seconds = 1\n")
            region.start()

        def seen(holds, what):
            return cluster.wait_until(
                lambda: (lambda one: one and holds(one) and one)(probe(status(running, r1), "r2")),
                what, 30)

        up = seen(lambda one: one["up"] and (one["availability"]["hour"] or 0) > 0, "r2 is up")
        assert up["write_ms"] > 0 and up["read_ms"] > 0, up
        client = r1.client()
        assert client.list_table() == []
        for act in (lambda: client.create_table("__isthmus_probe__", ledger.KEY),
                    lambda: client.delete_table("__isthmus_probe__"),
                    lambda: client.describe_table("__isthmus_probe__")):
            try:
                act()
                raise AssertionError("a reserved table can be used")
            except cluster.wire.Refused:
                pass
        client.close()
        assert status(running, r1)["tables"] == []
        r2.kill()
        down = seen(lambda one: not one["up"], "r2 is seen to be down")
        assert "refused" in down["reason"] or "cannot connect" in down["reason"], down
        time.sleep(2.5)
        down = probe(status(running, r1), "r2")
        assert down["availability"]["hour"] < 1 and down["consistency"]["hour"] < 1
        assert probe(status(running, r1), "r1")["availability"]["hour"] == 1
        r2.start()
        seen(lambda one: one["up"], "r2 is up again")
        # What was found outlives a restart in order.
        assert cluster.end(r1.process) == 0
        r1.process = None
        r1.start()
        later = seen(lambda one: one["availability"]["hour"], "the figures are there again")
        assert later["availability"]["hour"] < 1, later
        # And events do too, each change of a link's or region's state among them.
        events = json.loads(running.run("events", "--json", config=r1.config).stdout)["events"]
        kinds = {event["kind"] for event in events}
        assert {"region-lost", "region-reached"} <= kinds, kinds


def test_changes_of_links_are_events_with_their_reasons_and_top_shows_them(folder):
    with cluster.Cluster(regions=2, folder=folder) as running:
        r1, r2 = running.regions
        make(running, "primary-secondary")
        r2.kill()

        def told():
            shown = running.run("events", "--json", "--kind", "link-state", config=r1.config)
            return [one for one in json.loads(shown.stdout)["events"] if one["table"] == TABLE]

        lost = cluster.wait_until(
            lambda: [one for one in told() if one["detail"]["state"] == "opening"],
            "the link that was lost is told", 30)
        assert lost[0]["detail"]["reason"] and lost[0]["detail"]["to"] == "r2", lost
        r1.kill()
        r1.start()
        assert [one["at_ms"] for one in told()][-1] <= lost[0]["at_ms"], "events outlive a kill"
        r2.start()
        cluster.wait_until(
            lambda: any(one["detail"]["state"] == "following" and one["at_ms"] > lost[0]["at_ms"]
                        for one in told()), "the link that follows again is told", 30)
        frame = running.run("top", "--once", "--width", "200", config=r1.config).stdout
        for word in ("REGION", "LINK", "r1 -> r2", "following", "AVAILABILITY", "link-state",
                     TABLE):
            assert word in frame, f"{word} in\n{frame}"
        assert "\x1b" not in frame


class Collector:
    """Takes spans as OTLP over HTTP, in JSON."""

    def __init__(self):
        spans = self.spans = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                assert self.path == "/v1/traces", self.path
                for resource in body["resourceSpans"]:
                    told = {one["key"]: one["value"]["stringValue"]
                            for one in resource["resource"]["attributes"]}
                    for scope in resource["scopeSpans"]:
                        spans.extend({**span, "region": told["isthmus.region"]}
                                     for span in scope["spans"])
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def trace_of(self, span):
        return [one for one in self.spans if one["traceId"] == span["traceId"]]


def test_a_write_is_one_trace_through_all_regions(folder):
    collector = Collector()
    with cluster.Cluster(regions=2, folder=folder) as running:
        r1, r2 = running.regions
        for region in running.regions:
            region.kill()
            with open(region.config, "a", encoding="utf-8") as config:
                config.write(f'\n[trace]\nendpoint = "{collector.url}"\n'
                             f"sample = {1.0 if region is r1 else 0.0}\n")
            region.start()
        make(running, "primary-secondary")
        client, there = r1.client(), r2.client()
        client.put_row(TABLE, ROW, [("n", 7)])
        cluster.wait_until(lambda: shown(there) == 7, "the row is in r2")

        def whole():
            for put in list(collector.spans):
                tables = [one for one in collector.trace_of(put) if one["name"] == "commit"
                          and one["attributes"][0]["value"]["stringValue"] == TABLE]
                trace = collector.trace_of(put)
                if tables and {"receive", "apply", "ack"} <= {one["name"] for one in trace}:
                    return trace
            return None

        trace = cluster.wait_until(whole, "a whole trace is exported", 20)
        client.close()
        there.close()
    one = {span["name"]: span for span in trace}
    assert set(one) == {"PutRow", "commit", "ship", "receive", "apply", "ack"}, sorted(one)
    root, ship = one["PutRow"], one["ship"]
    assert root.get("parentSpanId") is None and root["kind"] == 2
    for name, parent in (("commit", root), ("ship", root), ("receive", ship), ("apply", ship),
                         ("ack", ship)):
        assert one[name]["parentSpanId"] == parent["spanId"], name
    regions = {name: span["region"] for name, span in one.items()}
    assert {name for name in regions if regions[name] == "r2"} == {"receive", "apply"}, regions
    for span in trace:
        assert int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
    # Regions read the clock of the wall to the millisecond, each for itself.
    skew = 2_000_000
    assert int(one["apply"]["startTimeUnixNano"]) <= int(one["ack"]["endTimeUnixNano"]) + skew


PLAN_ROWS = int(os.environ.get("PLAN_ROWS", "20000"))


def await_trimmed(running, region):
    """Else the log would be shipped, and nothing copied."""
    def is_trimmed():
        tables = {one["name"]: one for one in status(running, region)["tables"]}
        return tables[TABLE]["log_entries"] < tables[TABLE]["entries"]

    cluster.wait_until(is_trimmed, "the log reaches back no more", 60)


def test_a_throttle_is_in_the_forecast_of_a_copy(three):
    r1 = three.regions[0]
    client = r1.client()
    client.create_table(TABLE, ledger.KEY)
    three.run("global-table", "create", TABLE, "--regions", "r1,r2", "--serve",
              "primary-secondary")
    cluster.wait_until(lambda: link(status(three, r1), "r2")["state"] == "following",
                       "r2 has the table", 60)
    three.run("link", "stop", "--table", TABLE, "--from", "r1", "--to", "r2")
    text = "all of it is much like the row before it " * 4
    for first in range(0, PLAN_ROWS, 200):
        client.batch_write(TABLE, [(1, key(n), [("v", n), ("text", text)])
                                   for n in range(first, min(first + 200, PLAN_ROWS))])

    def forecast_is_of(limit):
        told = json.loads(three.run("plan", TABLE, "--to", "r2", "--json").stdout)
        return told["forecast"]["limit"] == limit and told["forecast"]

    # So slow that a machine which does other things meanwhile keeps up.
    for limit, rates in (("entries", (0, PLAN_ROWS // 10)), ("bytes", (PLAN_ROWS * 15, 0))):
        three.run("link", "set", "--table", TABLE, "--from", "r1", "--to", "r2",
                  "--bytes-per-second", rates[0], "--entries-per-second", rates[1])
        forecast = cluster.wait_until(lambda limit=limit: forecast_is_of(limit), limit, 30, 1)
    await_trimmed(three, r1)
    three.run("link", "start", "--table", TABLE, "--from", "r1", "--to", "r2")
    took = cluster.wait_until(lambda: link(status(three, r1), "r2").get("last_copy"),
                              "the copy has ended", 120)
    seconds = (took["ended_ms"] - took["began_ms"]) / 1000
    assert took["throttled"] and took["rows"] == PLAN_ROWS, took
    assert 0.5 < seconds / forecast["seconds"] < 2, (took, forecast)
    client.close()


def test_a_copy_is_forecast_and_the_forecast_shown_beside_what_it_took(three):
    r1 = three.regions[0]
    client = r1.client()
    client.create_table(TABLE, ledger.KEY)
    text = "all of it is much like the row before it " * 4
    for first in range(0, PLAN_ROWS, 200):
        client.batch_write(TABLE, [(1, key(n), [("v", n), ("text", text)])
                                   for n in range(first, min(first + 200, PLAN_ROWS))])
    three.run("global-table", "create", TABLE, "--regions", "r1,r2", "--serve",
              "primary-secondary")
    cluster.wait_until(lambda: link(status(three, r1), "r2")["state"] == "following",
                       "r2 has the table", 60)

    await_trimmed(three, r1)
    before = status(three, r1)["now_ms"]
    told = json.loads(three.run("plan", TABLE, "--to", "r3", "--json").stdout)
    measures, forecast = told["measures"], told["forecast"]
    assert measures["rows"] == PLAN_ROWS and measures["compression"] > 1.5, measures
    assert measures["bandwidth"] > 0 and measures["round_trip_ms"] > 0, measures
    assert forecast["bytes"] > PLAN_ROWS * len(text), forecast
    assert 0 < forecast["wire_bytes"] < forecast["bytes"], forecast
    three.run("global-table", "bind", TABLE, "--regions", "r3")

    def copied():
        found = [one for one in status(three, r1)["links"] if one["to"] == "r3"]
        return found and found[0].get("last_copy")

    took = cluster.wait_until(copied, "the copy has ended", 60)
    assert took["rows"] == PLAN_ROWS and took["began_ms"] >= before, took
    assert took["forecast_wire_bytes"] == forecast["wire_bytes"]
    # Time depends on what else the machine does; bytes do not.
    assert 0.5 < took["wire_bytes"] / forecast["wire_bytes"] < 2, (took, forecast)
    shown = three.run("plan", TABLE, "--to", "r3").stdout
    assert "FORECAST" in shown and "MEASURED" in shown, shown
    for wrong in (("plan", TABLE, "--to", "r9"), ("plan", "nothing", "--to", "r3")):
        assert three.run(*wrong, check=False).returncode == 1, wrong
    advice = json.loads(three.run("advise", "--table", TABLE, "--to", "r2,r3", "--loss", "0",
                                  "--json").stdout)
    assert advice["advice"]["mode"] == "semi-sync", advice
    assert advice["advice"]["rpo_ms"] == 0 and len(advice["ways"]) == 2, advice
    client.close()
