"""The writing region changes while official clients write in every region: no error, nothing lost,
nothing done twice, a short pause; also when a region is killed in the middle of it."""

import json
import os
import random
import signal
import threading
import time

import cluster
import pytest
import tablestore
import urllib3
import verifying
import wire
from sizes import number
from test_upgrade import set_format, settled

SWITCHES = number("SWITCHES", 8)
KILLS = number("SWITCH_KILLS", 3)
KEY = [("w", 2), ("k", 1)]
KEYS = 20


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    with cluster.Cluster(regions=3, folder=tmp_path_factory.mktemp("switchover")) as running:
        yield running


def make(running, table, *regions):
    client = running.regions[0].client()
    client.create_table(table, KEY)
    client.close()
    if regions:
        running.run("global-table", "create", table, "--regions", ",".join(regions),
                    "--serve", "primary-secondary")
    else:
        running.make_global(table, "primary-secondary")


def switch(running, table, to, config=None, check=True):
    done = running.run("switchover", table, "--to", to, "--json", config=config, check=check)
    return json.loads(done.stdout) if done.returncode == 0 else done


def writer_of(running, table, region):
    """(primary, epoch, writable) as a region tells."""
    told = json.loads(running.run("status", "--json", config=region.config).stdout)
    for one in told["regions"][0]["status"]["tables"]:
        if one["name"] == table:
            return one["primary"], one["epoch"], one["writable"]
    return None


def await_forwarding(running, table):
    """Lets secondaries pass writes on, and waits until all do."""
    running.run("switchover", table, "--at-secondary", "forward")
    for region in running.regions:
        client = region.client(timeout=30)

        def passes_on(client=client):
            try:
                client.put_row(table, [("w", "~"), ("k", 0)], [("v", 0)])
                return True
            except (wire.Refused, wire.Unknown):
                return False

        cluster.wait_until(passes_on, f"{region.name} passes writes of {table} on", 60)
        client.close()


def await_writer(running, table, name, regions=None):
    def holds():
        found = [writer_of(running, table, one) for one in regions or running.regions]
        told = {one[:2] for one in found if one}
        one_writes = [one[2] for one in found if one].count(True) == 1
        return told if one_writes and len(told) == 1 and next(iter(told))[0] == name else None

    return cluster.wait_until(holds, f"all regions say that {name} writes {table}", 60)


class Counter(threading.Thread):
    """Adds one to a counter again and again through one region, as a client without retries."""

    def __init__(self, running, region, table):
        super().__init__(daemon=True)
        given = running.credentials
        self.client = tablestore.OTSClient(
            region.endpoint, given.key_id, given.secret, given.instance,
            socket_timeout=30, retry_policy=tablestore.NoRetryPolicy(),
        )
        self.table, self.name = table, f"{region.name}-{id(self)}"
        self.done, self.unknown = [0] * KEYS, [0] * KEYS
        self.errors, self.longest = [], 0.0
        self.ending = threading.Event()

    def run(self):
        count, last = 0, time.monotonic()
        while not self.ending.is_set():
            place = count % KEYS
            count += 1
            row = tablestore.Row(self.key(place), {"INCREMENT": [("n", 1)]})
            try:
                self.client.update_row(self.table, row, tablestore.Condition("IGNORE"))
                self.done[place] += 1
            except tablestore.OTSServiceError as error:
                self.errors.append(str(error))
                if error.get_error_code() == "OTSTimeout":
                    self.unknown[place] += 1
                time.sleep(0.02)
            except (tablestore.OTSClientError, urllib3.exceptions.HTTPError, OSError) as error:
                self.errors.append(str(error))
                self.unknown[place] += 1
                time.sleep(0.02)
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now

    def key(self, place):
        return [("w", self.name), ("k", place)]

    def stop(self):
        self.ending.set()
        self.join(60)
        assert not self.is_alive(), "the writer ends"

    def wrong(self, client):
        """Counters that are not what was acknowledged, as (key, found, done, unknown)."""
        found = []
        for place, (done, unknown) in enumerate(zip(self.done, self.unknown, strict=True)):
            row = client.get_row(self.table, self.key(place))
            value = dict(cell[:2] for cell in row[1])["n"] if row else 0
            if not done <= value <= done + unknown:
                found.append((place, value, done, unknown))
        return found


class Load:
    """Counters through every region."""

    def __init__(self, running, table, regions=None):
        self.running, self.table = running, table
        self.counters = [Counter(running, region, table) for region in regions or running.regions]

    def __enter__(self):
        for counter in self.counters:
            counter.start()
        return self

    def __exit__(self, *_):
        for counter in self.counters:
            counter.stop()

    def errors(self):
        return [error for counter in self.counters for error in counter.errors]

    def check(self):
        """Every region has exactly what was acknowledged; returns how many increments."""
        for region in self.running.regions:
            client = region.client()

            def all_right(client=client):
                return not [one for counter in self.counters for one in counter.wrong(client)]

            cluster.wait_until(all_right, f"{region.name} has all increments, each once", 60)
            client.close()
        return sum(sum(counter.done) for counter in self.counters)


def rows_sent(running, table):
    """Rows of copies, over all links of a table."""
    told = [json.loads(running.run("status", "--json", config=one.config).stdout)
            for one in running.regions]
    return sum(link.get("copied_rows") or 0 for one in told for link in
               one["regions"][0]["status"]["links"] if link["table"] == table)


def test_the_writer_changes_under_load_and_no_client_notices(regions):
    make(regions, "moving")
    await_forwarding(regions, "moving")
    pauses, names = [], ["r2", "r3", "r1"]
    with Load(regions, "moving") as load:
        time.sleep(0.5)
        for turn in range(SWITCHES):
            to = names[turn % 3]
            asked = regions.regions[turn % 2].config
            told = switch(regions, "moving", to, asked)
            assert told["changed"] and told["primary"] == to and told["epoch"] == turn + 2
            pauses.append(told["pause_ms"])
            time.sleep(0.3)
    assert load.errors() == []
    await_writer(regions, "moving", names[(SWITCHES - 1) % 3])
    done = load.check()
    assert not switch(regions, "moving", names[(SWITCHES - 1) % 3])["changed"]
    assert rows_sent(regions, "moving") == 0, "links turn round without a copy"
    report = json.loads(regions.run("verify", "moving", "--regions", "r1,r2,r3", "--json").stdout)
    assert report["equal"]
    longest = max(counter.longest for counter in load.counters)
    print(f"\n{SWITCHES} switches, {done} increments, pause in ms: median "
          f"{sorted(pauses)[len(pauses) // 2]:.1f}, most {max(pauses):.1f}; a client waited "
          f"{longest * 1000:.0f} ms at most")


def set_mode(running, table, held_by, patience_ms):
    # A machine that is busy must not make a region fall back.
    running.run("global-table", "mode", table, "semi-sync", "--held-by", str(held_by),
                "--bound-ms", "60000", "--patience-ms", str(patience_ms))


def mode_of(running, table, region):
    """How writes wait, as a region tells."""
    told = json.loads(running.run("status", "--json", config=region.config).stdout)
    tables = told["regions"][0]["status"]["tables"]
    return next(one for one in tables if one["name"] == table).get("write_mode", {})


def test_writes_that_wait_for_other_regions_do_so_across_switches(regions):
    make(regions, "waiting")
    await_forwarding(regions, "waiting")
    set_mode(regions, "waiting", 2, 20_000)
    pauses, names = [], ["r2", "r3", "r1"]
    with Load(regions, "waiting") as load:
        time.sleep(0.5)
        for turn in range(SWITCHES):
            pauses.append(switch(regions, "waiting", names[turn % 3])["pause_ms"])
            time.sleep(0.3)
    assert load.errors() == []
    last = names[(SWITCHES - 1) % 3]
    await_writer(regions, "waiting", last)
    states = {one.name: mode_of(regions, "waiting", one) for one in regions.regions}
    assert {name: told.get("state") for name, told in states.items()} == {
        name: "in-sync" if name == last else None for name in names}
    assert len(states[last]["holders"]) == 2
    done = load.check()
    longest = max(counter.longest for counter in load.counters)
    print(f"\n{SWITCHES} switches, semi-synchronous, {done} increments, pause in ms: median "
          f"{sorted(pauses)[len(pauses) // 2]:.1f}, most {max(pauses):.1f}; a client waited "
          f"{longest * 1000:.0f} ms at most")


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_write_that_waits_when_the_writer_changes_is_answered_truthfully(regions, comes_back):
    table = f"held-{comes_back}".lower().replace("-", "_")
    make(regions, table)
    set_mode(regions, table, 2, 60_000 if comes_back else 4_000)
    r1, _, r3 = regions.regions
    client = r1.client(timeout=90)
    client.put_row(table, [("w", "a"), ("k", 0)], [("v", 0)])
    answers = []

    def ask():
        try:
            client.put_row(table, [("w", "a"), ("k", 1)], [("v", 1)])
            answers.append("held")
        except wire.Unknown:
            answers.append("unknown")

    r3.kill()
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    cluster.wait_until(lambda: mode_of(regions, table, r1).get("waiting"), "it waits", 30, 0.05)
    assert switch(regions, table, "r2")["changed"]
    if comes_back:
        assert answers == [], "two others do not hold it"
        r3.start()
    asking.join(30)
    assert answers == ["held" if comes_back else "unknown"]
    if not comes_back:
        r3.start()
    # Known or not, it is there, once.
    for region in regions.regions:
        other = region.client()
        cluster.wait_until(lambda one=other: there(one, table), f"{region.name} has it", 60)
        other.close()
    client.close()


def there(client, table):
    try:
        return client.get_row(table, [("w", "a"), ("k", 1)]) is not None
    except (wire.Refused, wire.Unknown):
        return False


def moment(told):
    millis, counter = told.split(".")
    return int(millis), int(counter)


def test_reads_as_of_a_moment_go_on_under_the_next_writer(regions):
    make(regions, "seen")
    await_forwarding(regions, "seen")
    key = [("w", "a"), ("k", 1)]
    clients = [region.client(timeout=30) for region in regions.regions]
    for turn, to in enumerate(["r2", "r3", "r1"]):
        clients[turn].put_row("seen", key, [("v", turn)])
        assert switch(regions, "seen", to)["changed"]
        clients[turn].put_row("seen", key, [("v", turn + 100)])
        # What was written under the next writer is seen everywhere as of one moment, in time.
        for client in clients:
            client.as_of = "safe"

        def sees(client, wanted=turn + 100):
            row = client.get_row("seen", key)
            return row is not None and dict(cell[:2] for cell in row[1])["v"] == wanted

        for client in clients:
            cluster.wait_until(lambda one=client: sees(one), "the write is in the safe time", 30)
        cut = max((client.told_as_of for client in clients), key=moment)
        rows = []
        for client in clients:
            client.as_of = cut
            rows.append(client.get_row("seen", key))
            assert client.told_as_of == cut
            client.as_of = None
        assert rows.count(rows[0]) == 3, rows
    for client in clients:
        client.close()


def test_schema_and_numbers_move_with_the_writer(regions):
    client = regions.regions[0].client()
    client.create_table("numbered", [("w", 2), ("k", 1, 1)])
    client.close()
    regions.make_global("numbered", "primary-secondary")

    def put(region):
        given = regions.credentials
        official = tablestore.OTSClient(region.endpoint, given.key_id, given.secret,
                                        given.instance)
        key = [("w", "a"), ("k", tablestore.PK_AUTO_INCR)]
        _, row = official.put_row("numbered", tablestore.Row(key, [("v", 1)]),
                                  tablestore.Condition("IGNORE"),
                                  return_type=tablestore.ReturnType.RT_PK)
        return row.primary_key[1][1]

    numbers = [put(regions.regions[0]) for _ in range(5)]
    switch(regions, "numbered", "r2")
    # The region that wrote before passes on what its clients ask.
    numbers += [put(regions.regions[0]), put(regions.regions[1])]
    assert numbers == sorted(set(numbers))
    clients = [region.client() for region in regions.regions]
    first = clients[0]
    first.add_defined_column("numbered", [("d", 4)])

    def arrived():
        found = [client.describe_table("numbered") for client in clients]
        return all(3 in wire.read_message(one[1][0]) for one in found)

    cluster.wait_until(arrived, "the column is defined everywhere", 60)
    regions.run("switchover", "numbered", "--at-secondary", "refuse")

    def refuses():
        try:
            first.put_row("numbered", [("w", "b"), ("k", 1)], [("v", 1)])
        except wire.Refused as refusal:
            return regions.regions[1].endpoint in str(refusal)
        return False

    cluster.wait_until(refuses, "r1 refuses writes and names r2", 60)
    for client in clients:
        client.close()


def test_both_orders_of_the_two_calls_change_the_writer_once(regions):
    make(regions, "called")
    client = regions.regions[2].client(timeout=60)
    identity = client.describe_global_table("called")["id"]

    def writable():
        told = client.describe_global_table("called", identity)["tables"]
        return [one["region"] for one in told if one["writable"]]

    # As the documentation has it: the new one first.
    client.update_global_table("called", identity, "r2", writable=True, eligible=True)
    assert writable() == ["r2"]
    client.update_global_table("called", identity, "r1", writable=False)
    assert writable() == ["r2"]
    await_writer(regions, "called", "r2")
    # The other way round: it goes on writing until its successor is named.
    client.update_global_table("called", identity, "r2", writable=False)
    assert writable() == ["r2"]
    client.put_row("called", [("w", "a"), ("k", 1)], [("v", 1)])
    client.update_global_table("called", identity, "r3", writable=True, eligible=True)
    assert writable() == ["r3"]
    await_writer(regions, "called", "r3")
    client.close()


def test_who_cannot_take_over_is_refused_with_what_to_do(regions):
    make(regions, "kept", "r1", "r2")
    regions.run("global-table", "bind", "kept", "--regions", "r3", "--columns", "v")

    def refused(to):
        done = switch(regions, "kept", to, check=False)
        assert not isinstance(done, dict), done
        return done.stderr + done.stdout

    assert "a part of the table" in refused("r3")
    regions.run("link", "pause", "--table", "kept", "--to", "r2")
    assert "resume it first" in refused("r2")
    regions.run("link", "resume", "--table", "kept", "--to", "r2")
    regions.run("link", "set", "--table", "kept", "--to", "r2", "--timing", "delayed",
                "--by", "1h")
    assert "immediate first" in refused("r2")
    regions.run("link", "set", "--table", "kept", "--to", "r2", "--timing", "immediate")
    assert "holds no replica" in refused("r9")
    assert switch(regions, "kept", "r2")["changed"]
    done = regions.run("global-table", "unbind", "kept", "--regions", "r2", check=False)
    assert done.returncode == 1 and "let another region write first" in done.stderr
    await_writer(regions, "kept", "r2", regions.regions[:2])


def switch_when_ready(running, table, to):
    def done():
        answer = switch(running, table, to, check=False)
        return answer if isinstance(answer, dict) else None

    return cluster.wait_until(done, f"{to} writes {table}", 60)


def unbind(running, table, name):
    return running.run("global-table", "unbind", table, "--regions", name, check=False)


def test_a_table_that_is_made_global_again_goes_on_in_its_epoch(regions):
    both = regions.regions[:2]
    make(regions, "again", "r1", "r2")
    for to in ("r2", "r1"):
        switch_when_ready(regions, "again", to)
        await_writer(regions, "again", to, both)
    assert unbind(regions, "again", "r2").returncode == 0

    def made_again():
        done = regions.run("global-table", "create", "again", "--regions", "r1,r2",
                           "--serve", "primary-secondary", check=False)
        return done.returncode == 0

    cluster.wait_until(made_again, "the table is global again", 60)
    assert await_writer(regions, "again", "r1", both) == {("r1", 3)}
    answer = switch_when_ready(regions, "again", "r2")
    assert (answer["primary"], answer["epoch"]) == ("r2", 4)
    assert await_writer(regions, "again", "r2", both) == {("r2", 4)}
    client = both[0].client()
    client.put_row("again", [("w", "a"), ("k", 1)], [("v", 1)])
    client.close()
    report = json.loads(regions.run("verify", "again", "--regions", "r1,r2", "--json").stdout)
    assert report["equal"]


def test_who_is_to_write_next_is_not_unbound(regions):
    make(regions, "bound", "r1", "r2")
    switch_when_ready(regions, "bound", "r2")
    switch_when_ready(regions, "bound", "r1")
    r2, client = regions.region("r2"), regions.regions[0].client()
    identity = client.describe_global_table("bound")["id"]

    def why_not():
        try:
            client.unbind_global_table("bound", identity, ["r2"])
        except wire.Refused as refused:
            return str(refused)
        return None

    os.kill(r2.pid, signal.SIGSTOP)
    try:
        asking = threading.Thread(
            target=switch, args=(regions, "bound", "r2", None, False), daemon=True)
        asking.start()
        under_way = False
        while asking.is_alive() and not under_way:
            under_way = "under way" in switch(regions, "bound", "r9", check=False).stderr
        refused = why_not()
        # Where this took longer than that waits for a region, there is nothing to be refused.
        assert not asking.is_alive() or "is being changed" in refused
        asking.join(90)
    finally:
        os.kill(r2.pid, signal.SIGCONT)
    # Nothing was handed over, so it may go.
    if refused:
        assert why_not() is None
    client.close()


def restart_with_format(running, region, newest):
    verifying.stop(region)
    set_format(region, newest)
    region.start()

    def is_settled():
        told = {other: form for (one, other), form in settled(running).items() if one == "r1"}
        formats = [told.get("r2"), told.get("r3")]
        return None not in formats and (formats[1] == newest or formats[0] == formats[1])

    cluster.wait_until(is_settled, f"r3 speaks {newest or 'the newest format'}", 60)


def test_an_older_region_is_given_no_table_whose_writer_has_changed(regions):
    make(regions, "newer", "r1", "r2")
    make(regions, "aged", "r1", "r3")
    switch_when_ready(regions, "newer", "r2")
    switch_when_ready(regions, "aged", "r3")
    await_writer(regions, "aged", "r3", [regions.regions[0], regions.regions[2]])
    r3, client = regions.region("r3"), regions.regions[0].client(timeout=30)
    restart_with_format(regions, r3, 5)
    try:
        identity = client.describe_global_table("newer")["id"]
        with pytest.raises((wire.Refused, wire.Unknown), match="Upgrade it first"):
            client.bind_global_table("newer", identity, ["r3"], False)
        with pytest.raises((wire.Refused, wire.Unknown), match="too old to be passed writes"):
            client.put_row("aged", [("w", "a"), ("k", 1)], [("v", 1)])
    finally:
        restart_with_format(regions, r3, None)
    assert client.bind_global_table("newer", identity, ["r3"], False)
    client.put_row("aged", [("w", "a"), ("k", 1)], [("v", 1)])
    client.close()


def test_a_switch_over_edges_turns_the_chain_round(regions):
    make(regions, "chained")
    regions.run("global-table", "topology", "chained", "chain")
    await_forwarding(regions, "chained")
    with Load(regions, "chained") as load:
        time.sleep(1)
        for to in ("r3", "r1"):
            assert switch(regions, "chained", to)["changed"]
            await_writer(regions, "chained", to)
    assert load.errors() == []
    load.check()
    assert rows_sent(regions, "chained") == 0


def test_a_region_that_has_just_started_hands_over(regions):
    make(regions, "started")
    await_forwarding(regions, "started")
    await_writer(regions, "started", "r1")
    regions.regions[0].kill()
    regions.regions[0].start()
    assert switch(regions, "started", "r2")["changed"]
    assert switch(regions, "started", "r1")["changed"]


def test_a_region_killed_in_the_middle_leaves_one_writer_and_loses_nothing(regions):
    make(regions, "killed")
    await_forwarding(regions, "killed")
    chance = random.Random(number("SEED", 7))
    with Load(regions, "killed") as load:
        for turn in range(KILLS):
            before = cluster.wait_until(
                lambda: writer_of(regions, "killed", regions.regions[0]), "r1 tells", 60)
            old = regions.region(before[0])
            to = "r2" if old.name != "r2" else "r3"
            victim = old if turn % 2 == 0 else regions.region(to)
            asking = threading.Thread(
                target=switch, args=(regions, "killed", to, None, False), daemon=True)
            asking.start()
            time.sleep(chance.uniform(0.02, 0.25))
            victim.kill()
            asking.join(90)
            victim.start()

            def settled(old=old.name, to=to, epoch=before[1]):
                found = {writer_of(regions, "killed", one) for one in regions.regions}
                names = {one[:2] for one in found if one}
                writers = [one for one in found if one and one[2]]
                return (len(names) == 1 and len(writers) == 1
                        and next(iter(names)) in {(old, epoch), (to, epoch + 1)})

            cluster.wait_until(settled, f"one region writes after kill {turn}", 60)
            time.sleep(0.5)
    load.check()
    report = json.loads(regions.run("verify", "killed", "--regions", "r1,r2,r3", "--json").stdout)
    assert report["equal"]
