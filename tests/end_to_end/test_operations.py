"""Regions as those see them who run them: a gateway that clients are pointed at, drills that lose a
region on purpose, figures."""

import json
import os
import selectors
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

import cluster
import pytest
import tablestore
import urllib3
import wire
from sizes import number
from test_failover import await_enrolled, rows, standing, writer
from test_switchover import Counter, Load, await_forwarding, await_writer, make, set_mode, switch

GATEWAY_KILLS = number("GATEWAY_KILLS", 2)


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("operations")
    with cluster.Cluster(regions=3, folder=folder, arguments=["--quorum"]) as running:
        yield running


class Gateway:
    """A gateway in front of the regions of a cluster; it looks like a region to clients."""

    def __init__(self, running, folder, *arguments, settings=""):
        port = cluster.base_port(1)
        self.cluster, self.name = running, "gateway"
        named = "".join(f'[[regions]]\nname = "{one.name}"\nendpoint = "{one.endpoint}"\n'
                        for one in running.regions)
        file = folder / f"gateway-{port}.toml"
        file.write_text(f'[gateway]\nlisten = "127.0.0.1:{port}"\nadmin = "127.0.0.1:{port + 1}"\n'
                        f"{settings}\n{named}")
        command = [cluster.binary(), "gateway", "--config", str(file), "--json", *arguments]
        self.process = cluster.spawn(command, folder / "gateway.txt", stdout=-1)
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(20), "the gateway says that it serves"
        told = json.loads(self.process.stdout.readline())
        self.endpoint, self.admin = told["listen"], told["admin"]

    def client(self, **options):
        return wire.Client(self.endpoint, self.cluster.credentials, **options)

    def get(self, path, endpoint=None):
        """(status, text)"""
        try:
            with urllib.request.urlopen((endpoint or self.admin) + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def up(self):
        told = json.loads(self.get("/health")[1])
        return {one["region"]: one["up"] for one in told["regions"]}

    def await_up(self, region, up):
        cluster.wait_until(lambda: self.up()[region] is up, f"{region} is {'up' if up else 'down'}",
                           30)

    def figure(self, name, **labels):
        """The sum of a figure over the series that have these labels."""
        found = 0.0
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(f"isthmus_gateway_{name}") and all(
                    f'{key}="{value}"' in line for key, value in labels.items()):
                found += float(line.rpartition(" ")[2])
        return found

    def stop(self, stop_signal=signal.SIGTERM):
        return cluster.end(self.process, stop_signal)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Reader(threading.Thread):
    """Reads a row again and again through an official client without retries."""

    def __init__(self, running, region, table, key):
        super().__init__(daemon=True)
        given = running.credentials
        self.client = tablestore.OTSClient(
            region.endpoint, given.key_id, given.secret, given.instance,
            socket_timeout=30, retry_policy=tablestore.NoRetryPolicy())
        self.table, self.key = table, key
        self.reads, self.errors, self.ending = 0, [], threading.Event()

    def run(self):
        while not self.ending.is_set():
            try:
                _, row, _ = self.client.get_row(self.table, self.key, max_version=1)
                assert row is not None
                self.reads += 1
            except (tablestore.OTSServiceError, tablestore.OTSClientError,
                    urllib3.exceptions.HTTPError, OSError) as error:
                self.errors.append(str(error))

    def stop(self):
        self.ending.set()
        self.join(60)
        assert not self.is_alive()


def test_official_clients_work_through_a_gateway_and_signatures_stay_valid(regions, tmp_path):
    make(regions, "passed")
    await_forwarding(regions, "passed")
    with Gateway(regions, tmp_path, settings='prefer = "r2"') as gateway:
        given = regions.credentials
        key = [("w", "a"), ("k", 1)]
        for options in [{}, {"region": "r2"}]:
            client = tablestore.OTSClient(gateway.endpoint, given.key_id, given.secret,
                                          given.instance, **options)
            client.put_row("passed", tablestore.Row(key, [("v", 7)]),
                           tablestore.Condition("IGNORE"))

            def shows(client=client):
                _, row, _ = client.get_row("passed", key, max_version=1)
                return row is not None and row.attribute_columns[0][1] == 7

            cluster.wait_until(shows, "what was written is read", 20)
            assert "passed" in client.list_table()
            with pytest.raises(tablestore.OTSServiceError) as refused:
                client.put_row("passed", tablestore.Row(key, [("v", 8)]),
                               tablestore.Condition("EXPECT_NOT_EXIST"))
            assert refused.value.get_error_code() == "OTSConditionCheckFail"
        wrong = tablestore.OTSClient(gateway.endpoint, given.key_id, "wrong", given.instance,
                                     retry_policy=tablestore.NoRetryPolicy())
        with pytest.raises(tablestore.OTSServiceError) as refused:
            wrong.list_table()
        assert refused.value.get_error_code() == "OTSAuthFailed"
        # A large row goes both ways.
        client.put_row("passed", tablestore.Row(key, [("v", bytearray(1 << 20))]),
                       tablestore.Condition("IGNORE"))
        assert gateway.figure("requests_total", region="r2", outcome="done") >= 4
        assert gateway.figure("requests_total", region="r1") == 0
        assert gateway.figure("region_delay_seconds", region="r3") > 0
        assert gateway.get("/health", gateway.endpoint)[0] == 200
        assert gateway.stop() == 0


def test_clients_of_a_gateway_outlive_a_region(regions, tmp_path):
    make(regions, "outlives")
    await_forwarding(regions, "outlives")
    set_mode(regions, "outlives", 1, 10_000)
    await_enrolled(regions, "outlives", 1)
    with Gateway(regions, tmp_path, settings='prefer = "r1"') as gateway:
        counters = [Counter(regions, gateway, "outlives") for _ in range(2)]
        reader = Reader(regions, gateway, "outlives", [("w", "~"), ("k", 0)])
        for one in [*counters, reader]:
            one.start()
        for _ in range(GATEWAY_KILLS):
            time.sleep(1)
            lost = regions.region("r1")
            lost.kill()
            gateway.await_up("r1", False)
            done = sum(counters[0].done)
            cluster.wait_until(lambda done=done: sum(counters[0].done) > done + 20,
                               "writes go on through another region", 60)
            lost.start()
            gateway.await_up("r1", True)
        time.sleep(1)
        for one in [*counters, reader]:
            one.stop()
        # While the table has no writer each region says so; reads never noticed anything.
        errors = {error.partition(",")[0] for one in counters for error in one.errors}
        assert reader.errors == [] and reader.reads > 100
        done = [gateway.figure("requests_total", region=name, outcome="done")
                for name in ("r2", "r3")]
        assert sum(done) > 20, "while r1 was away one of the others was asked"
        client = gateway.client(timeout=30)
        for one in counters:
            cluster.wait_until(lambda one=one: not one.wrong(client), "all counters are right", 60)
        client.close()
    print(f"\nreads {reader.reads}, writes {sum(sum(one.done) for one in counters)}, "
          f"unknown {sum(sum(one.unknown) for one in counters)}, errors {errors}")


def test_a_write_without_an_answer_is_unknown_and_done_once_at_most(regions, tmp_path):
    table = "once"
    make(regions, table)
    await_forwarding(regions, table)
    await_enrolled(regions, table, 0)
    settings = 'prefer = "r1"\nanswer_timeout_ms = 1500'
    with Gateway(regions, tmp_path, settings=settings + "\n[probe]\ndown_after = 100") as gateway:
        client = gateway.client(timeout=20)
        key = [("w", "a"), ("k", 1)]
        client.put_row(table, key, [("v", 1)])
        for region in regions.regions:
            shown = region.client(timeout=20)
            cluster.wait_until(lambda shown=shown: shown.get_row(table, key) is not None,
                               f"{region.name} shows the row", 60)
            shown.close()
        stopped = regions.region("r1")
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            with pytest.raises((wire.Refused, wire.Unknown)) as unknown:
                client.put_row(table, [("w", "a"), ("k", 2)], [("v", 2)])
            assert "OTSTimeout" in str(unknown.value) or unknown.type is wire.Unknown
            # The region counts as up by the rules of this gateway, so a read goes there first.
            begun = time.monotonic()
            assert client.get_row(table, key) is not None
            print(f"\na read left a stopped region after {time.monotonic() - begun:.2f} s")
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        client.close()
        assert gateway.figure("requests_total", region="r1", outcome="unknown") >= 1
        assert gateway.figure("retries_total", region="r1", reason="no-answer") == 1


@pytest.mark.parametrize("balance", ["round-robin", "least-loaded"])
def test_requests_are_spread(regions, tmp_path, balance):
    make(regions, f"spread-{balance}".replace("-", "_"))
    with Gateway(regions, tmp_path, settings=f'balance = "{balance}"') as gateway:
        client = gateway.client(timeout=20)
        for _ in range(30):
            client.list_table()
        client.close()
        done = [gateway.figure("requests_total", region=one.name, outcome="done")
                for one in regions.regions]
        assert sum(done) == 30
        if balance == "round-robin":
            assert done == [10, 10, 10]


def test_a_gateway_that_is_stopped_answers_what_is_in_work(regions, tmp_path):
    table = "ends"
    make(regions, table)
    await_forwarding(regions, table)
    gateway = Gateway(regions, tmp_path)
    counter = Counter(regions, gateway, table)
    counter.start()
    cluster.wait_until(lambda: sum(counter.done) > 10, "there is work", 30)
    assert gateway.stop() == 0
    counter.stop()
    client = regions.region("r1").client(timeout=20)
    assert counter.wrong(client) == []
    client.close()
    nobody = tmp_path / "nobody.toml"
    nobody.write_text("[gateway]\nprefer = \"r9\"\n[[regions]]\nname = \"r1\"\n"
                      "endpoint = \"http://127.0.0.1:1\"\n")
    refused = subprocess.run([cluster.binary(), "gateway", "--config", nobody],
                             capture_output=True, text=True, timeout=20, check=False)
    assert refused.returncode == 2 and "gateway.prefer" in refused.stderr


def test_a_gateway_without_a_region_says_so(regions, tmp_path):
    command = [cluster.binary(), "gateway", "--region", "r1=http://127.0.0.1:1", "--json",
               "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    process = cluster.spawn(command, tmp_path / "log.txt", stdout=-1)
    told = json.loads(process.stdout.readline())
    client = wire.Client(told["listen"], regions.credentials, timeout=10)
    with pytest.raises(wire.Refused) as refused:
        client.list_table()
    assert refused.value.code == "OTSPartitionUnavailable"
    client.close()
    assert cluster.end(process) == 0


def drill(running, *arguments, check=True, region=None):
    """A drill, asked of all regions of `up`; what it told."""
    command = [cluster.binary(), "drill", "region-loss", *arguments, "--json", "--with-others",
               "--data", str(running.data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if check:
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{running.log_tail()}"
    told = json.loads(done.stdout) if done.stdout else None
    return done, told


def nobody_is_out(running):
    told = standing(running, running.regions[0])
    return not any(one["suspended"] for one in told["regions"])


def drilled(running, table):
    """A table of the region r1 whose writes are held by another region."""
    make(running, table)
    await_forwarding(running, table)
    set_mode(running, table, 1, 10_000)
    await_enrolled(running, table, 1)
    if writer(running, table, running.regions[0])[0] != "r1":
        switch(running, table, "r1")
        await_writer(running, table, "r1")


def test_a_drill_loses_a_region_and_nothing_else(regions):
    drilled(regions, "drilled")
    for name in tables_of(regions, "r1") - {"drilled"}:
        # It may be told that it takes longer.
        switch(regions, name, "r2", check=False)
        await_writer(regions, name, "r2")
    _, told = drill(regions, "--table", "drilled", "--dry-run")
    assert (told["region"], told["tables"][0]["held_by"]) == ("r1", 1)
    assert nobody_is_out(regions)
    with Load(regions, "drilled") as load:
        _, told = drill(regions, "--table", "drilled")
    load.check()
    (table,) = told["tables"]
    assert told["passed"] and told["region"] == "r1"
    assert table["writer"] != "r1" and table["missing_rows"] == 0 and table["differing_rows"] == 0
    # The drill loads for a few seconds, on a slow machine a few rows: it is looked that it counts.
    assert 500 < table["rto_ms"] < 20_000 and table["acked_rows"] > 5
    assert nobody_is_out(regions)
    client = regions.regions[0].client(timeout=20)
    assert rows(client, "drilled", "__isthmus_drill__") == []
    found, start = [], [("w", wire.INF_MIN), ("k", wire.INF_MIN)]
    while start is not None:
        page, start = client.get_range("drilled", start, [("w", wire.INF_MAX), ("k", wire.INF_MAX)])
        found.extend(dict(key)["w"] for key, _ in page)
    assert not [one for one in found if one.startswith("__isthmus_drill__")]
    client.close()
    for status in regions.statuses():
        assert status["last_drill"]["id"] == told["id"]
    assert "last drill: region-loss of r1 passed" in regions.run("status").stdout
    assert "region-loss" in regions.run("drill", "list").stdout
    events = regions.run("events", "--kind", "drill-passed", "--json").stdout
    assert told["id"] in events
    print(f"\nRTO {table['rto_ms']} ms, failback {table['failback_ms']} ms, "
          f"{table['acked_rows']} rows, errors {table.get('errors')}, {table['reads']} reads")


def tables_of(running, region):
    told = standing(running, running.regions[0])
    return {one["table"] for one in told["tables"] if one["writer"] == region}


def test_a_drill_refuses_what_could_lose_writes_and_undoes_what_it_began(regions):
    make(regions, "unheld")
    await_forwarding(regions, "unheld")
    await_enrolled(regions, "unheld", 0)
    done, _ = drill(regions, "--table", "unheld", check=False)
    assert done.returncode == 2 and "--accept-loss" in done.stderr
    done, _ = drill(regions, "--table", "none", check=False)
    assert done.returncode == 1 and "knows no table" in done.stderr
    drilled(regions, "stopped")
    command = [cluster.binary(), "drill", "region-loss", "--table", "stopped", "--with-others",
               "--accept-loss", "--out-for", "600", "--data", str(regions.data)]
    log = regions.folder / "drill.txt"
    process = cluster.spawn(command, log, stdout=subprocess.DEVNULL)
    cluster.wait_until(lambda: not nobody_is_out(regions), "a region is taken out", 60)
    assert cluster.end(process, signal.SIGINT, seconds=60) == 130, log.read_text()
    cluster.wait_until(lambda: nobody_is_out(regions), "it was released", 60)
    kept = json.loads(regions.run("drill", "list", "--json").stdout)["drills"]
    assert kept[0]["reason"] == "stopped by a signal" and not kept[0]["passed"]
    for name in ["stopped", "unheld"]:
        cluster.wait_until(lambda name=name: writer(regions, name, regions.regions[0]),
                           f"{name} has a writer", 60)


def test_a_drill_decides_where_a_person_would_and_kills_for_real(regions):
    table = "killed"
    make(regions, table)
    await_forwarding(regions, table)
    await_enrolled(regions, table, 0)
    cluster.wait_until(lambda: writer(regions, table, regions.regions[0]), "one writes", 60)
    lost = regions.region(writer(regions, table, regions.regions[0])[0])
    kill = f"kill -9 {lost.pid}"
    config, log = lost.config, regions.folder / "started.txt"
    start = (f"setsid {cluster.binary()} serve --config {config} >{log} 2>&1 </dev/null & "
             f"echo $! >{regions.folder}/pid")
    try:
        done, told = drill(regions, "--table", table, "--accept-loss", "--how", "kill-command",
                           "--kill-command", kill, "--start-command", start, "--switch-back",
                           "--out-for", "1", check=False)
    finally:
        lost.pid, lost.process = int((regions.folder / "pid").read_text()), None
    (of_table,) = told["tables"]
    assert told["how"] == "kill-command" and of_table["writer"] != lost.name
    # What was acknowledged a moment before the kill may not have been shipped; then it says so.
    assert told["passed"] == (of_table["missing_rows"] + of_table.get("set_aside_rows", 0) == 0)
    assert (done.returncode == 0) == told["passed"], done.stderr
    await_writer(regions, table, lost.name)
    print(f"\nkilled: RTO {of_table['rto_ms']} ms, failback {of_table['failback_ms']} ms, "
          f"missing {of_table['missing_rows']}, errors {of_table.get('errors')}")


def metrics(running, region):
    token = (running.data / "metrics.token").read_text().strip()
    request = urllib.request.Request(region.admin + "/metrics",
                                     headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode()


def figure(text, name, **labels):
    for line in text.splitlines():
        if line.startswith(f"isthmus_{name}") and all(
                f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rpartition(" ")[2])
    return None


def table_of(running, region, table):
    told = json.loads(running.run("status", "--json", config=region.config).stdout)
    status = told["regions"][0]["status"]
    return status, next(one for one in status["tables"] if one["name"] == table)


def test_figures_tell_what_was_available_alike_and_would_be_lost(tmp_path):
    with cluster.Cluster(regions=3, folder=tmp_path, arguments=["--quorum"]) as running:
        table = "figures"
        make(running, table)
        await_forwarding(running, table)
        set_mode(running, table, 1, 10_000)
        await_enrolled(running, table, 1)
        r1, r2, r3 = running.regions

        def measured():
            told = [table_of(running, one, table)[1] for one in running.regions]
            return all(one.get("availability") and one.get("alike") for one in told) and told

        told = cluster.wait_until(measured, "all regions have measured", 60)
        primary = next(one for one in told if one.get("rpo"))
        assert primary["rpo"]["entries"] == 0 and primary["rpo"]["ms"] == 0
        assert [bool(one.get("rpo")) for one in told].count(True) == 1
        assert not primary["rto"]["by_hand"] and primary["rto"]["most_ms"] == 3700
        # What is written and held nowhere else would be lost.
        set_mode_async = running.run("global-table", "mode", table, "async", check=False)
        assert set_mode_async.returncode == 0, set_mode_async.stderr
        for one in (r2, r3):
            running.run("link", "pause", "--table", table, "--from", "r1", "--to", one.name)
        client = r1.client(timeout=20)

        def written(count=[0]):
            count[0] += 1
            client.put_row(table, [("w", "alone"), ("k", count[0])], [("v", 1)])
            return table_of(running, r1, table)[1]["rpo"]["entries"] >= 5

        cluster.wait_until(written, "entries are held nowhere else", 30)
        rpo = table_of(running, r1, table)[1]["rpo"]
        assert rpo["ms"] > 0
        text = metrics(running, r1)
        assert figure(text, "table_rpo_entries", table=table) >= 5
        assert figure(text, "table_availability_ratio", table=table, window="1h") > 0
        assert figure(text, "instance_availability_ratio", window="start") > 0
        assert figure(text, "table_alike_ratio", table=table, window="24h") is not None
        shown = running.run("status").stdout
        assert "RPO NOW" in shown and f"table {table}" in shown and "entries, " in shown
        for one in (r2, r3):
            running.run("link", "resume", "--table", table, "--from", "r1", "--to", one.name)
        cluster.wait_until(lambda: table_of(running, r1, table)[1]["rpo"]["entries"] == 0,
                           "others hold all", 60)
        # Of the rows of the user nothing is seen of a probe.
        found, start = [], [("w", wire.INF_MIN), ("k", wire.INF_MIN)]
        while start is not None:
            page, start = client.get_range(table, start, [("w", wire.INF_MAX), ("k", wire.INF_MAX)])
            found.extend(dict(key)["w"] for key, _ in page)
        assert set(found) <= {"~", "alone"}
        client.close()
        before = table_of(running, r2, table)[1]["availability"]["since_start"]
        os.kill(r2.pid, signal.SIGTERM)
        cluster.wait_until(lambda: not cluster.alive(r2.pid), "r2 has stopped", 60)
        time.sleep(12)
        status, _ = table_of(running, r1, table)
        seen = {one["region"]: one["availability"]["since_start"] for one in status["probes"]}
        assert seen["r2"] < seen["r1"] <= 1 and status["instance_availability"]["hour"] > 0.5
        r2.start()
        # What was found before outlives the restart.
        after = cluster.wait_until(
            lambda: table_of(running, r2, table)[1].get("availability"), "r2 tells figures", 60)
        assert after["since_start"] == pytest.approx(before, abs=0.3)
        print(f"\navailability of r2 seen from r1 {seen['r2']:.3f}, rpo {rpo}")


def test_places_for_another_replica_are_ranked(tmp_path):
    with cluster.Cluster(regions=3, folder=tmp_path) as running:
        labels = {"r1": ("de", "a", 0.5), "r2": ("de", "b", 0.1), "r3": ("jp", "b", 0.1)}
        running.stop()
        for region in running.regions:
            country, provider, price = labels[region.name]
            path = running.data / region.name / "isthmus.toml"
            text = path.read_text().replace("[region]\n", "[region]\n"
                                            f"price_per_gib_egress = {price}\n", 1)
            text = text.replace("[storage]", f'[region.labels]\ncountry = "{country}"\n'
                                             f'provider = "{provider}"\n\n[storage]', 1)
            path.write_text(text)
        running.start()
        client = running.regions[0].client()
        client.create_table("notes", [("w", 2), ("k", 1)])
        for count in range(200):
            client.put_row("notes", [("w", "a"), ("k", count)], [("v", "x" * 1000)])
        client.close()

        def advise(*arguments, check=True):
            command = [cluster.binary(), "region", "advise", "--table", "notes", "--data",
                       str(running.data), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert not check or done.returncode == 0, done.stderr + running.log_tail()
            return done

        told = json.loads(advise("--json", "--candidate",
                                 f"also={running.regions[1].endpoint},country=fr,provider=c",
                                 "--candidate", "gone=http://127.0.0.1:1,country=us").stdout)
        places = {one["name"]: one for one in told["places"]}
        names = [one["name"] for one in told["places"]]
        # Of r2 and r1 one fault may take both; of what nothing is known the way must be.
        assert names.index("r3") < names.index("r2") < names.index("gone")
        assert names.index("also") < names.index("r2") and names[-1] == "gone"
        assert places["r2"]["shared"] == ["country=de"] and places["r3"]["shared"] == []
        assert told["held_by"] == ["r1"] and places["r3"]["fed_by"] == "r1"
        for name in ["r2", "r3", "also"]:
            one = places[name]
            assert 0 < one["round_trip_ms"] < 1000 and one["jitter_ms"] >= 0
            assert one["bandwidth"] > 1 << 20 and one["copy_bytes"] > 0 and one["copy_cost"] > 0
        assert places["gone"]["round_trip_ms"] is None
        assert "cannot be reached" in places["gone"]["reasons"][0]
        shown = advise("--by", "cost").stdout
        assert "shares country=de with r1" in shown and "FIRST COPY" in shown
        # Nothing was changed by it.
        assert json.loads(advise("--json").stdout)["held_by"] == ["r1"]
        running.run("global-table", "create", "notes", "--regions", "r1,r2,r3")
        full = advise(check=False)
        assert full.returncode == 1 and "every region" in full.stderr
        print(f"\n{shown}")
