"""Rows of partitions that are split and merged do not cross the network once more: each region
puts those that it has into the new partitions, and only what differs is sent."""

import json
import os
import pathlib
import random
import signal
import threading
import time

import cluster
import pytest
import tablestore
from sizes import number
from test_distribution import await_routed, await_settled, distribute, sdk, show, verify_partitions
from test_reshape import await_reshaped, numbers, reshape
from test_seeing import samples, scrape

ROWS = number("SEED_ROWS", 30_000)
BYTES = 200
# Of the bytes of all rows so many may be sent again, beside some for each split.
SHARE = 0.02
BESIDE = 256 * 1024


def sent(running, token, table):
    """Bytes on the wire of all links of a table's partitions, and rows that were copied."""
    wire = rows = 0
    for region in running.regions:
        code, text = scrape(region, token)
        assert code == 200
        for name, value in samples(text).items():
            if f'table="{table}/' not in name:
                continue
            wire += value if name.startswith("isthmus_link_wire_bytes_total") else 0
            rows += value if name.startswith("isthmus_link_copied_rows_total") else 0
    return wire, rows


def figures(running, token, name):
    """The sum of a figure over all regions and labels."""
    found = [samples(scrape(region, token)[1]) for region in running.regions]
    return sum(value for one in found for key, value in one.items()
               if key.partition("{")[0] == name)


def loaded(running, table, rows):
    """Loads rows that do not compress."""
    file = running.data / f"{table}.csv"
    chance = random.Random(5)
    with file.open("w") as out:
        out.write("u,n,text\n")
        for row in range(rows):
            out.write(f"user-{row:08},{row},{chance.randbytes(BYTES // 2).hex()}\n")
    running.run("load", table, str(file), seconds=1200)
    file.unlink()


def await_rows(running, table, rows, seconds=600):
    """Waits until every replica has its rows."""
    def holds():
        told = show(running, table)
        parts = told["partitions"]
        whole = all(
            len(part["replicas"]) == 2
            and len({one["rows"] for one in part["replicas"].values()}) == 1
            for part in parts
        )
        return whole and sum(part["rows"] or 0 for part in parts) == rows

    cluster.wait_until(holds, f"all replicas of {table} have their rows", seconds, 1)


def made(running, table, partitions):
    distribute(
        running, table, "--key", "u:string,n:integer", "--replicas", "2", "--by", "hash",
        "--partitions", str(partitions),
    )
    await_settled(running, table)
    await_routed(running, table)


def token_of(running):
    return (pathlib.Path(running.data) / "metrics.token").read_text(encoding="utf-8").strip()


@pytest.mark.timeout(3600)
def test_rows_of_a_split_do_not_cross_the_network_again(folder):
    with cluster.Cluster(regions=3, folder=folder) as running:
        token, table = token_of(running), "seeded"
        made(running, table, 1)
        loaded(running, table, ROWS)
        await_rows(running, table, ROWS)
        size = ROWS * BYTES
        before, _ = sent(running, token, table)
        assert before > size / 2, "what is loaded goes to the other replica"
        steps = [("split", "--partition", "0"), ("split", "--partition", "1"),
                 ("merge", "--partitions", "3,4")]
        for step in steps:
            before, _ = sent(running, token, table)
            began = time.monotonic()
            reshape(running, table, *step)
            told = await_reshaped(running, table, 1200)
            took = time.monotonic() - began
            # Figures of partitions that ended go with them.
            after, copied = sent(running, token, table)
            print(f"\n{' '.join(step)}: {took:.1f} s, {after} bytes on the wire of links that are "
                  f"left, {copied:.0f} rows copied, of {size} bytes of rows")
            new = {one["table"] for one in told["partitions"]}
            assert new
            assert copied <= ROWS * SHARE
            await_rows(running, table, ROWS)
        fresh = {f"{table}/{n:04}" for n in numbers(show(running, table))}
        wire = 0
        for region in running.regions:
            for name, value in samples(scrape(region, token)[1]).items():
                if name.startswith("isthmus_link_wire_bytes_total") and any(
                    f'table="{one}"' in name for one in fresh
                ):
                    wire += value
        print(f"links of {sorted(fresh)} have sent {wire:.0f} bytes in all")
        assert wire <= size * SHARE + 3 * BESIDE, (wire, size)
        verify_partitions(running, table)
        assert figures(running, token, "isthmus_reshapes_total") >= 6
        assert figures(running, token, "isthmus_reshapes_running") == 0
        assert figures(running, token, "isthmus_reshape_held_seconds_count") >= 3
        assert "3 begun, 3 done, 0 given up" in running.run("status").stdout


def test_a_replica_that_is_behind_is_sent_what_it_lacks(folder):
    """Writes go on, and the other replica stands still while the partition is split: it ends up
    alike, and the writes of the meantime are in it."""
    rows = min(ROWS, 4_000)
    with cluster.Cluster(regions=3, folder=folder) as running:
        table = "behind"
        made(running, table, 1)
        loaded(running, table, rows)
        await_rows(running, table, rows)
        part = show(running, table)["partitions"][0]
        other = next(name for name in part["held"] if name != part["primary"])
        base = show(running, table)["base"]
        writer, other = running.region(part["primary"]), running.region(other)
        over, written, failed = threading.Event(), {}, []

        def write():
            client, turn = sdk(running, writer), 0
            chance = random.Random(3)
            while not over.is_set():
                turn += 1
                n = chance.randrange(rows)
                key = [("u", f"user-{n:08}"), ("n", n)]
                try:
                    if turn % 5 == 0:
                        client.delete_row(
                            table, tablestore.Row(key), tablestore.Condition("IGNORE"))
                        written[n] = None
                    else:
                        row = tablestore.Row(key, [("v", turn)])
                        client.put_row(table, row, tablestore.Condition("IGNORE"))
                        written[n] = turn
                except Exception as error:
                    failed.append(error)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        time.sleep(1)
        if other.name != base:
            os.kill(other.pid, signal.SIGSTOP)
        reshape(running, table, "split", "--partition", "0")
        time.sleep(1)
        os.kill(other.pid, signal.SIGCONT)
        time.sleep(1)
        assert len(numbers(await_reshaped(running, table))) == 2
        time.sleep(1)
        over.set()
        thread.join(60)
        assert not failed, failed[:3]
        verify_partitions(running, table)
        for region in running.regions:
            client = sdk(running, region)

            def shows(client=client):
                for n, turn in written.items():
                    key = [("u", f"user-{n:08}"), ("n", n)]
                    _, row, _ = client.get_row(table, key, max_version=1)
                    found = None if row is None else dict(
                        (cell[0], cell[1]) for cell in row.attribute_columns
                    ).get("v")
                    if found != turn:
                        return False
                return True

            cluster.wait_until(shows, f"{region.name} shows all writes", 60, 0.5)


def test_what_was_begun_is_removed_when_a_split_is_given_up(folder):
    rows = min(ROWS, 20_000)
    with cluster.Cluster(regions=3, folder=folder) as running:
        table = "begun"
        made(running, table, 1)
        loaded(running, table, rows)
        await_rows(running, table, rows)
        told = show(running, table)
        part = told["partitions"][0]
        others = [name for name in part["held"] if name not in (part["primary"], told["base"])]
        away = running.region(others[0]) if others else None
        if away:
            os.kill(away.pid, signal.SIGSTOP)
        reshape(running, table, "split", "--partition", "0")
        time.sleep(0.4)
        running.run("distribution", "cancel", table)
        if away:
            os.kill(away.pid, signal.SIGCONT)
        told = await_reshaped(running, table)
        if numbers(told) == [0]:
            def is_clean():
                for region in running.regions:
                    told = running.run("status", "--table", table, "--json", config=region.config)
                    tables = json.loads(told.stdout)["regions"][0]["status"]["tables"]
                    names = {one["name"] for one in tables}
                    if not names <= {f"{table}/0000"}:
                        return False
                return True

            cluster.wait_until(is_clean, "nothing of the new partitions is left", 60, 0.5)
        reshape(running, table, "split", "--partition", str(numbers(told)[0]))
        await_reshaped(running, table)
        await_rows(running, table, rows)
        verify_partitions(running, table)


def test_regions_that_die_while_they_seed_end_up_alike(folder):
    """Whoever is killed while it puts rows into new partitions begins anew, or is copied: what was
    deleted meanwhile does not come back."""
    rows = min(ROWS, 20_000)
    with cluster.Cluster(regions=3, folder=folder) as running:
        table = "killed"
        made(running, table, 1)
        loaded(running, table, rows)
        await_rows(running, table, rows)
        part = show(running, table)["partitions"][0]
        writer = running.region(part["primary"])
        other = running.region(next(name for name in part["held"] if name != part["primary"]))
        deleted, chance = 0, random.Random(7)
        for region, wait in [(other, 0.3), (writer, 0.3), (other, 0.6)]:
            first = numbers(show(running, table))[0]
            reshape(running, table, "split", "--partition", str(first))
            time.sleep(wait)
            region.kill()
            alive = next(one for one in running.regions if one is not region)
            time.sleep(chance.random())
            region.start()
            client = sdk(running, alive)
            for row in range(deleted, deleted + 20):
                key = [("u", f"user-{row:08}"), ("n", row)]
                cluster.wait_until(lambda key=key: delete(client, table, key), "deleted", 60, 0.2)
            deleted += 20
            await_reshaped(running, table)
            await_rows(running, table, rows - deleted)
            verify_partitions(running, table)


def delete(client, table, key):
    try:
        client.delete_row(table, tablestore.Row(key), tablestore.Condition("IGNORE"))
        return True
    except Exception:
        return False
