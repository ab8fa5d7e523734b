"""Synchronous writes: prepared in other regions before they are made, by two-phase and three-phase
commit; what clients see in all regions is one history, whatever is killed or stopped."""

import json
import os
import random
import signal
import threading
import time

import cluster
import linear
import pytest
import wire
from sizes import number
from test_failover import await_enrolled, writer
from test_modes import events, set_mode, told
from test_switchover import Load, await_forwarding, await_writer, make, switch

ROUNDS = number("SYNC_ROUNDS", 2)
FORMS = ["two-phase", "three-phase"]
PATIENT = ["--bound-ms", "60000", "--patience-ms", "60000"]
KEYS = list(range(40))


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sync")
    with cluster.Cluster(regions=3, folder=folder, arguments=["--quorum"]) as running:
        yield running


def prepare(running, table, form, *words, needed=None):
    make(running, table)
    await_forwarding(running, table)
    set_mode(running, table, "sync", "--form", form, *words)
    await_open(running, table)
    if needed:
        await_enrolled(running, table, needed)


def await_open(running, table, regions=None):
    def holds():
        found = [told(one, table) for one in regions or running.regions]
        return any(mode and mode.get("term") for mode in found)

    cluster.wait_until(holds, f"{table} is written synchronously", 60, 0.05)


def registers(running, table, count=1, seed=None, pause=0.005):
    chance = random.Random(seed if seed is not None else number("SEED", time.time_ns()))
    found = []
    for region in running.regions:
        for one in range(count):
            name = f"{region.name}{one}-{chance.randrange(1 << 30)}"
            client = linear.Registers(region, table, KEYS, name, random.Random(chance.random()),
                                      pause)
            found.append(client)
    return found


def row(key):
    return [("w", "one"), ("k", key)]


@pytest.mark.parametrize("form", FORMS)
def test_a_write_is_seen_at_once_in_every_region(regions, form):
    table = f"seen_{form[:3]}"
    prepare(regions, table, form, *PATIENT)
    clients = [one.client(timeout=30) for one in regions.regions]
    chance = random.Random(number("SEED", time.time_ns()))
    for count in range(120):
        chance.choice(clients).put_row(table, row(count % 5), [("v", count)])
        found = chance.choice(clients).get_row(table, row(count % 5))
        assert dict(cell[:2] for cell in found[1])["v"] == count
    # Batches, some rows of which are refused, one row twice, and a number that the server gives.
    changes = [(1, row(key), [("v", "a")]) for key in (100, 101, 100)]
    assert clients[1].batch_write(table, changes) == [None, None, None]
    page, _ = clients[2].get_range(table, row(100), row(102))
    assert [dict(cell[:2] for cell in cells) for _, cells in page] == [{"v": "a"}] * 2
    mode = told(regions.regions[0], table)
    assert mode["answers"] == "sync" and mode["form"] == form and mode["term"]
    nothing_left(regions, table)
    for client in clients:
        client.close()


def nothing_left(running, table):
    """Nothing is prepared or locked any more."""
    def holds():
        modes = [told(one, table) for one in running.regions]
        return all(
            mode and not mode.get("prepared_here") and not mode.get("locked_rows")
            and not mode.get("in_doubt") for mode in modes
        )

    cluster.wait_until(holds, f"nothing of {table} is prepared", 60, 0.1)


def test_the_mode_is_switched_live_and_no_request_fails(regions):
    table = "switched"
    make(regions, table)
    await_forwarding(regions, table)
    modes = [["sync", "--form", "two-phase", *PATIENT], ["semi-sync", *PATIENT],
             ["sync", "--form", "three-phase", *PATIENT], ["async"],
             ["sync", "--form", "three-phase", *PATIENT], ["sync", "--form", "two-phase", *PATIENT]]
    with Load(regions, table) as load:
        for count in range(number("MODE_SWITCHES", 8)):
            began = time.monotonic()
            set_mode(regions, table, *modes[count % len(modes)])
            assert time.monotonic() - began < 2, "a mode is switched in at most 2 s"
            time.sleep(0.5)
    assert load.errors() == []
    assert load.check() > 0
    nothing_left(regions, table)


@pytest.mark.parametrize("form", FORMS)
def test_a_planned_change_of_the_writer_costs_no_client_an_error(regions, form):
    table = f"planned_{form[:3]}"
    prepare(regions, table, form, *PATIENT)
    with Load(regions, table) as load:
        for count in range(6):
            switch(regions, table, ["r2", "r3", "r1"][count % 3])
            time.sleep(0.4)
    assert load.errors() == []
    assert load.check() > 0
    nothing_left(regions, table)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_writer_is_lost_and_what_clients_saw_is_one_history(regions, form, how):
    table = f"lost_{form[:3]}_{how}"
    needed = 2 if form == "two-phase" else 1
    # Two-phase goes on without a region that is away only when it is told to.
    prepare(regions, table, form, "--fallback", "async", "--bound-ms", "1500",
            "--patience-ms", "5000", needed=needed)
    for _ in range(ROUNDS):
        lose_the_writer(regions, table, how)
        await_enrolled(regions, table, needed)
        nothing_left(regions, table)


def lose_the_writer(regions, table, how):
    name, epoch = cluster.wait_until(
        lambda: writer(regions, table, regions.regions[0]), "one writes")
    lost = regions.region(name)
    others = [one for one in regions.regions if one is not lost]
    clients = registers(regions, table)
    first = linear.read_all(others[0], table, KEYS)
    for client in clients:
        client.history = {key: [] for key in KEYS}
        client.start()
    time.sleep(1)
    began = time.monotonic()
    if how == "kill":
        lost.kill()
    else:
        os.kill(lost.pid, signal.SIGSTOP)
    cluster.wait_until(
        lambda: (it := writer(regions, table, others[0])) and it[1] > epoch and it,
        "another region writes", 60)
    # By a client that had an answer from nobody before.
    cluster.wait_until(
        lambda: any(at > began + 0.3 for one in clients for at in list(one.times)),
        "it goes on", 60, 0.02)
    time.sleep(1)
    if how == "kill":
        lost.start()
    else:
        os.kill(lost.pid, signal.SIGCONT)
    time.sleep(1.5)
    for client in clients:
        client.stop()
    await_ready(regions, table)
    finals = [linear.read_all(one, table, KEYS) for one in regions.regions]
    assert finals[0] == finals[1] == finals[2]
    for key, value in first.items():
        clients[0].history[key].append((0, 0, "write", value))
    linear.check(clients, finals)
    assert sum(one.acknowledged for one in clients) > 0


def await_ready(regions, table):
    """All replicas follow, and can be read."""
    def holds():
        for one in regions.regions:
            client = one.client()
            try:
                client.get_row(table, [("w", "register"), ("k", 0)])
            except (wire.Refused, wire.Unknown):
                return False
            finally:
                client.close()
        return True

    cluster.wait_until(holds, f"{table} is ready in all regions", 60, 0.1)


def test_one_of_three_may_be_away_in_three_phase_and_none_in_two_phase(regions):
    for form in FORMS:
        prepare(regions, f"away_{form[:3]}", form, "--bound-ms", "1000", "--patience-ms", "1500")
    prepare(regions, "away_alone", "two-phase", "--bound-ms", "1000", "--patience-ms", "5000",
            "--fallback", "async")
    r1, _, r3 = regions.regions
    client = r1.client(timeout=30)
    r3.kill()
    for count in range(20):
        client.put_row("away_thr", row(count), [("v", count)])
    with pytest.raises(wire.Unknown, match="OTSTimeout"):
        client.put_row("away_two", row(1), [("v", 1)])
    assert client.get_row("away_two", row(1)) is None, "it is seen nowhere before it is decided"
    mode = told(r1, "away_two")
    assert mode["in_doubt"][0]["voted"] == ["r2"] and mode["locked_rows"] == 1, mode
    with pytest.raises(wire.Refused, match="Nothing was written"):
        client.put_row("away_two", row(1), [("v", 2)])
    # Past the bound it makes writes alone, and says so.
    client.put_row("away_alone", row(1), [("v", 1)])
    assert events(r1, "sync-fell-back", "away_alone")
    client.put_row("away_alone", row(2), [("v", 2)])
    r3.start()
    # What was in doubt is decided by itself.
    cluster.wait_until(lambda: client.get_row("away_two", row(1)) is not None, "decided", 60, 0.1)
    client.put_row("away_two", row(1), [("v", 3)])
    for table in ("away_two", "away_thr", "away_alone"):
        nothing_left(regions, table)
        cluster.wait_until(lambda t=table: told(r1, t)["state"] == "in-sync", f"{table} in sync")
    client.close()


def test_a_writer_that_starts_again_settles_what_it_has_left(regions):
    table = "again"
    prepare(regions, table, "three-phase", "--patience-ms", "1000", "--bound-ms", "60000")
    r1, r2, r3 = regions.regions
    await_writer(regions, table, "r1")
    client = r1.client(timeout=30)
    client.put_row(table, row(1), [("v", 1)])
    for other in (r2, r3):
        os.kill(other.pid, signal.SIGSTOP)
    outcomes = []

    def put(key):
        one = r1.client(timeout=30)
        try:
            one.put_row(table, row(key), [("v", 2)])
            outcomes.append("done")
        except (wire.Refused, wire.Unknown) as error:
            outcomes.append(str(error))
        one.close()

    threads = [threading.Thread(target=put, args=(key,)) for key in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert outcomes and "done" not in outcomes, outcomes
    r1.kill()
    for other in (r2, r3):
        os.kill(other.pid, signal.SIGCONT)
    r1.start()
    await_open(regions, table)
    cluster.wait_until(lambda: puts(client, table, 1), "it is written again", 60, 0.1)
    nothing_left(regions, table)
    found = []
    for one in regions.regions:
        other = one.client()
        found.append([shown(other, table, key) for key in (1, 2, 3)])
        other.close()
    assert found[0] == found[1] == found[2], found
    assert found[0][0] == 9
    client.close()


def puts(client, table, key):
    try:
        client.put_row(table, row(key), [("v", 9)])
        return True
    except (wire.Refused, wire.Unknown):
        return False


def shown(client, table, key):
    found = client.get_row(table, row(key))
    return dict(cell[:2] for cell in found[1])["v"] if found else None


def test_what_cannot_be_synchronous_is_refused(regions):
    client = regions.regions[0].client()
    client.create_table("peers", [("w", 2), ("k", 1)])
    client.close()
    regions.make_global("peers")
    done = set_mode(regions, "peers", "sync", check=False)
    assert done.returncode and "one region writes" in done.stderr
    shown_mode = json.loads(regions.run("global-table", "mode", "peers", "--json").stdout)
    assert shown_mode["mode"]["answers"] == "async"
