"""What a person says when nobody is left who could: what became of a batch whose anchor is lost, that
a table is written on without what lost regions may have prepared, and that a link is to ship less while
the base of its table is away."""

import contextlib
import json
import threading
import time

import cluster
import wire
from sizes import number
from test_atomic import PUT, atomic, await_nothing_left, batches, key, newest, pair, value
from test_failover import await_enrolled, put_until_taken, tenure
from test_modes import events, set_mode, told
from test_switchover import await_forwarding, await_writer, make, switch
from test_sync import PATIENT, await_open


# How long batches are in doubt before they are settled: after a minute that is noticed, too.
DOUBT_SECONDS = number("DOUBT_SECONDS", 0)


class Puts(threading.Thread):
    """Batches, one after the other, of a row of each table that no other batch has."""

    def __init__(self, region, tables, first):
        super().__init__(daemon=True)
        self.client, self.tables = atomic(region), tables
        self.next, self.ending = first, threading.Event()

    def run(self):
        while not self.ending.is_set():
            rows = [(table, PUT, key(self.next), [("v", self.next)]) for table in self.tables]
            self.next += 1
            with contextlib.suppress(wire.Refused, wire.Unknown):
                self.client.batch_write_rows(rows)
        self.client.close()

    def stop(self):
        self.ending.set()
        self.join(120)


def named(running, table, region):
    """The batches in doubt of a table."""
    kept = batches(running, table, region)
    return {one["batch"] for one in kept.get("oldest", [])} if kept else set()


def is_open(running, region, batch):
    """Whether nobody who is reached knows what became of a batch. Asked so, nothing is done."""
    return settle(running, region, batch, "--given-up", check=False).returncode == 2


def caught_in_doubt(running, tables, members, lost, wanted=lambda batch: True):
    """Kills the region that decides until a wanted batch is in doubt in all members; its names."""
    begun = [1]

    def caught():
        puts = Puts(members[0], tables, begun[0])
        puts.start()
        time.sleep(0.4)
        lost.kill()
        puts.ending.set()
        time.sleep(0.5)
        begun[0] = puts.next + 1
        found = [named(running, table, one) for table, one in zip(tables[1:], members, strict=True)]
        both = {batch for batch in set.intersection(*found) if wanted(batch)}
        if not both:
            lost.start()
        puts.stop()
        return both

    return cluster.wait_until(caught, "a batch is in doubt in all members", 180), begun[0]


def key_of(listed, batch):
    """The last part of the key of a batch's rows."""
    found = [one for one in listed["batches"] if one["batch"] == batch]
    return found[0]["members"][0]["keys"][0][1]["value"]


def told_otherwise(region, table):
    """The batches that were settled by hand otherwise than they were decided, as a region tells."""
    return {one["detail"]["batch"] for one in events(region, "batch-settled-otherwise", table)}


def settle(running, region, *words, check=True):
    return running.run("row", "settle", *words, "--json", config=region.config, check=check)


def test_a_batch_whose_anchor_is_lost_is_settled_by_hand_alike_in_all_members(tmp_path):
    with cluster.Cluster(regions=3, folder=tmp_path) as running:
        first, second, third = running.regions
        tables = ["hand_a", "hand_b", "hand_c"]
        for table, region in zip(tables, running.regions, strict=True):
            make(running, table)
            await_forwarding(running, table)
            if region is not first:
                switch(running, table, region.name)
                await_writer(running, table, region.name)
        both, count = caught_in_doubt(running, tables, [second, third], first,
                                      lambda batch: is_open(running, second, batch))
        listed = json.loads(settle(running, second).stdout)
        assert both <= {one["batch"] for one in listed["batches"]}
        assert list(listed["unreached"]) == [first.name]
        one = next(one for one in listed["batches"] if one["batch"] in both)
        assert one["anchor"] == tables[0]
        assert {(it["table"], it["region"]) for it in one["members"] if it["written"]} == {
            (tables[1], second.name), (tables[2], third.name)}
        # Without --yes it is told what is known and what the risk is, and nothing is done.
        asked = settle(running, second, one["batch"], "--given-up", check=False)
        assert asked.returncode == 2 and "in part" in json.loads(asked.stdout)["risk"]
        assert one["batch"] in named(running, tables[1], second)
        time.sleep(DOUBT_SECONDS)
        # One member is away when the word is said, and is told when it is back.
        third.kill()
        listed = json.loads(settle(running, second).stdout)
        said = {}
        for place, batch in enumerate(sorted(named(running, tables[1], second))):
            # One that is known to be decided is not given up.
            said[batch] = bool(place % 2) or not is_open(running, second, batch)
            how = "--made" if said[batch] else "--given-up"
            done = json.loads(settle(running, second, batch, how, "--why", "r1 burnt", "--who",
                                     "ann", "--yes").stdout)
            assert [it["done"] for it in done["settled"]] == [True], done
            assert sorted(done["told_later"]) == [first.name, third.name]
            assert not done["refused_by"]
            other = "--given-up" if said[batch] else "--made"
            again = settle(running, second, batch, other, "--why", "no", "--yes", check=False)
            assert again.returncode != 0 and "stays so" in again.stderr + again.stdout
        assert not named(running, tables[1], second)
        third.start()
        cluster.wait_until(lambda: not named(running, tables[2], third),
                           f"{third.name} has been told", 60)
        there = {}
        for table, region in zip(tables[1:], (second, third), strict=True):
            client = newest(region)
            there[table] = [value(client.get_row(table, key(it))) for it in range(1, count)]
            client.close()
        assert there[tables[1]] == there[tables[2]], "members are alike"
        assert events(second, "batch-settled-by-hand", tables[1])[0]["detail"]["who"] == "ann"
        first.start()
        await_nothing_left(running, tables)
        # What was settled by hand stays as it was.
        client = newest(second)
        assert [value(client.get_row(tables[1], key(it))) for it in range(1, count)] \
            == there[tables[1]]
        client.close()
        # Where it was decided otherwise, that is told: by a member where it was made and is not
        # there, where it was to be decided where it is made only in members. Else nothing is.
        client = newest(first)
        decided = {batch for batch in said
                   if client.get_row(tables[0], key(key_of(listed, batch))) is not None}
        client.close()
        made = {batch for batch, is_made in said.items() if is_made}
        lacking, alone = decided - made, made - decided
        cluster.wait_until(lambda: told_otherwise(second, tables[1]) == lacking,
                           f"{lacking} are told of", 30)
        cluster.wait_until(lambda: told_otherwise(first, tables[0]) == alone,
                           f"{alone} are told of", 30)
        print(f"\nsettled {len(said)}, decided {len(decided)}, otherwise {len(lacking | alone)}")
        unknown = settle(running, second, one["batch"], "--made", "--why", "no", "--yes",
                         check=False)
        assert unknown.returncode == 1


def test_a_region_that_is_back_and_cannot_say_yet_is_waited_for(tmp_path):
    with cluster.Cluster(regions=2, folder=tmp_path) as running:
        first, second = running.regions
        tables = pair(running, "soon")
        both, _ = caught_in_doubt(running, tables, [second], first)
        batch = sorted(both)[0]
        first.start()
        cluster.wait_until(lambda: not json.loads(settle(running, second).stdout)["unreached"],
                           f"{first.name} is reached", 30, 0.05)
        words = []

        def is_over():
            done = settle(running, second, batch, "--made", "--why", "no", "--yes", check=False)
            assert done.returncode != 0, done.stdout
            words.append(done.stderr)
            return "No region that is reached has rows" in done.stderr

        cluster.wait_until(is_over, f"{first.name} has said what became of it", 60, 0.1)
        print("\n" + "\n".join(sorted(set(words))))
        await_nothing_left(running, tables)
        assert not events(second, "batch-settled-by-hand", tables[1])


def test_what_another_region_can_tell_is_not_settled_by_hand(tmp_path):
    with cluster.Cluster(regions=3, folder=tmp_path, arguments=["--quorum"]) as running:
        first, second = running.regions[:2]
        tables = pair(running, "told")
        both, _ = caught_in_doubt(running, tables, [second], first)
        batch = sorted(both)[0]
        words = [batch, "--given-up", "--why", "r1 burnt", "--yes"]

        def refused():
            # As long as nobody knows that it is gone, it may just be away.
            done = settle(running, second, *words, check=False)
            assert done.returncode != 0
            return f"isthmus failover --table {tables[0]} --to" in done.stderr

        cluster.wait_until(refused, "the failover is what helps", 30, 0.5)
        cluster.wait_until(lambda: tenure(running, second, tables[0])["vacant"], "it waits", 30)
        # The audit has nothing of it, since nothing was done.
        audit = json.loads(running.run("failover", "--json", config=second.config).stdout)["audit"]
        assert not [one for one in audit if batch in one["what"]]

        def decided():
            return running.run("failover", "--table", tables[0], "--to", second.name,
                               config=second.config, check=False).returncode == 0

        cluster.wait_until(decided, f"{second.name} is to write", 30, 0.5)
        cluster.wait_until(lambda: not named(running, tables[1], second), "it is told", 60)
        first.start()
        await_nothing_left(running, tables)


def test_a_synchronous_table_whose_majority_is_lost_is_written_on_when_a_person_accepts_it(tmp_path):
    table = "accepted"
    with cluster.Cluster(regions=5, folder=tmp_path, arguments=["--quorum"]) as running:
        lost, left, asked = running.regions[:2], running.regions[2], running.regions[3]
        make(running, table, *[one.name for one in running.regions[:3]])
        for region in running.regions[:3]:
            running._wait_replica(region, table)
        set_mode(running, table, "sync", "--form", "three-phase", *PATIENT)
        await_open(running, table, running.regions[:3])
        await_enrolled(running, table, 1)
        client = running.regions[0].client(timeout=30)
        for count in range(50):
            client.put_row(table, key(count), [("v", count)])
        client.close()
        reader = left.client(timeout=30)
        reader.as_of = "local"

        def has_all():
            with contextlib.suppress(wire.Refused, wire.Unknown):
                return reader.get_row(table, key(49)) is not None

        cluster.wait_until(has_all, f"{left.name} has all rows", 60)
        for region in lost:
            region.kill()

        def claimed():
            one = tenure(running, asked, table)
            return one["vacant"] and list(one["vacant"]["claims"]) == [left.name]

        cluster.wait_until(claimed, f"{left.name} claims the table", 60)
        say = ["failover", "--table", table, "--to", left.name, "--who", "ann"]
        told_before = json.loads(running.run(*say, "--accept-loss", "--dry-run", "--json",
                                             config=asked.config).stdout)
        assert told_before["silent"] == [one.name for one in lost]
        # The region that is asked has no replica: the one that is to write tells it.
        assert told_before["may_lose_answered"] and told_before["sync"] is True
        assert told_before["awaited"] == []
        assert (told_before["heard"], told_before["needed"]) == (1, 2)
        assert tenure(running, asked, table)["vacant"], "nothing was done"
        # Without it the table is granted, and waits for those who may know of answered writes.
        running.run(*say, config=asked.config)
        cluster.wait_until(lambda: tenure(running, asked, table)["writer"] == left.name, "granted")
        await_writer(running, table, left.name, [left])
        # Whatever is asked of the table meanwhile, nothing that was prepared is passed over.
        set_mode_at(running, left, table, "async")
        time.sleep(8)
        assert tenure(running, left, table)["held_by"] == 1
        writer = left.client(timeout=20)
        try:
            writer.put_row(table, key(100), [("v", 100)])
            raise AssertionError("it is written without those who may know")
        except (wire.Refused, wire.Unknown):
            pass
        running.run(*say, "--accept-loss", config=asked.config)
        put_until_taken(writer, table, key(100), 100)
        assert all(reader.get_row(table, key(count)) for count in range(50))
        found = events(left, "loss-accepted", table)
        assert sorted(found[0]["detail"]["silent"]) == [one.name for one in lost]
        audit = json.loads(running.run("failover", "--json", config=left.config).stdout)["audit"]
        assert [one["who"] for one in audit if "loss is accepted" in one["why"]] == ["ann"]
        for region in (left, asked):
            again = running.run(*say, "--accept-loss", config=region.config, check=False)
            assert again.returncode != 0 and "no loss to accept" in again.stderr
        # Those who come back are made alike.
        for region in lost:
            region.start()
        for region in lost:
            near = region.client(timeout=30)
            near.as_of = "local"

            def is_alike(near=near):
                with contextlib.suppress(wire.Refused, wire.Unknown):
                    return value(near.get_row(table, key(100))) == 100

            cluster.wait_until(is_alike, f"{region.name} has what was written since", 60)
            near.close()
        set_mode_at(running, left, table, "sync", "--form", "three-phase", *PATIENT)
        cluster.wait_until(lambda: told(left, table).get("term"), "synchronous again", 60)
        writer.put_row(table, key(101), [("v", 101)])
        reader.close()
        writer.close()


def set_mode_at(running, region, table, *words):
    def is_set():
        return running.run("global-table", "mode", table, *words, config=region.config,
                           check=False).returncode == 0

    cluster.wait_until(is_set, f"{table} is {words}", 60, 0.5)


def link(running, table, place, to):
    """How the link of a table to a region stands, as the region tells that it leaves."""
    told = json.loads(running.run("status", "--json", config=place.config).stdout)
    links = told["regions"][0]["status"]["links"]
    return next(one for one in links if (one["table"], one["to"]) == (table, to.name))


def has(region, table, count):
    client = region.client(timeout=30)
    client.as_of = "local"
    try:
        return client.get_row(table, key(count)) is not None
    except (wire.Refused, wire.Unknown):
        return False
    finally:
        client.close()


def test_a_link_is_held_where_it_begins_while_the_base_is_away(tmp_path):
    table = "held"
    with cluster.Cluster(regions=3, folder=tmp_path) as running:
        base, second, third = running.regions
        client = base.client()
        client.create_table(table, [("w", 2), ("k", 1)])
        client.close()
        running.make_global(table)
        writer = second.client(timeout=30)
        writer.put_row(table, key(1), [("v", 1)])
        cluster.wait_until(lambda: has(third, table, 1), "all are there", 60)
        ends = ["--table", table, "--from", second.name, "--to", third.name]

        def ask(*words, check=True):
            return running.run("link", *words, *ends, "--json", config=second.config, check=check)

        base.kill()

        def is_held():
            done = ask("pause", check=False)
            return json.loads(done.stdout).get("held_in") if done.returncode == 0 else None

        assert cluster.wait_until(is_held, "the base is known to be away", 60) == [second.name]
        # From another region, too; and what only the base can say is refused.
        words = running.run("link", "set", *ends, "--entries-per-second", "50",
                            config=third.config).stdout
        assert f"held in {second.name}, since base {base.name} is away" in words
        for refused in (["stop"], ["set", "--timing", "interval", "--every", "5s"]):
            told_why = ask(*refused, check=False)
            assert told_why.returncode != 0 and "until the base is back" in told_why.stderr
        stands = link(running, table, second, third)
        assert (stands["state"], stands["held"], stands["entries_per_second"]) == (
            "paused", True, 50)
        writer.put_row(table, key(2), [("v", 2)])
        second.kill()
        second.start()
        time.sleep(2)
        assert not has(third, table, 2), "it outlives a restart"
        stands = link(running, table, second, third)
        assert (stands["state"], stands["held"]) == ("paused", True)
        base.start()
        cluster.wait_until(lambda: not link(running, table, second, third).get("held"),
                           "the base has taken it into the record", 60)
        stands = link(running, table, second, third)
        assert (stands["state"], stands["entries_per_second"]) == ("paused", 50)
        assert events(second, "link-hold-ended", table) and events(second, "link-held", table)
        assert not has(third, table, 2)
        assert json.loads(ask("resume").stdout)["held_in"] == []
        cluster.wait_until(lambda: has(third, table, 2), "it ships again", 60)
        # Taken back before the base is there, nothing is left of it.
        base.kill()
        cluster.wait_until(is_held, "held again", 60)
        assert json.loads(ask("resume").stdout)["held_in"] == [second.name]
        client = second.client(timeout=30)
        client.put_row(table, key(3), [("v", 3)])
        cluster.wait_until(lambda: has(third, table, 3), "it ships again", 60)
        # Of all links: those of the base nobody holds, and that is told.
        told = json.loads(running.run("link", "pause", "--table", table, "--json",
                                      config=second.config).stdout)
        assert told["held_in"] == [second.name, third.name]
        assert list(told["not_held_in"]) == [base.name]
        base.start()
        cluster.wait_until(lambda: not link(running, table, third, second).get("held"),
                           "the base has taken all of it", 60)
        assert link(running, table, third, second)["state"] == "paused"
        client.close()
        writer.close()


def horizon(running, table, region):
    told = json.loads(running.run("status", "--json", config=region.config).stdout)
    found = [one for one in told["regions"][0]["status"]["tables"] if one["name"] == table]
    return found[0].get("horizon_ms") if found else None


def moves_on(running, table, region, seconds=60):
    since = time.time() * 1000

    def holds():
        now = horizon(running, table, region)
        return now is not None and now > since

    cluster.wait_until(holds, f"the horizon of {table} in {region.name} moves on", seconds, 0.5)


def test_the_horizon_moves_on_without_regions_that_were_unbound(tmp_path):
    table = "unbound"
    with cluster.Cluster(regions=3, folder=tmp_path) as running:
        first, second, third = running.regions
        client = first.client(timeout=30)
        client.create_table(table, [("w", 2), ("k", 1)])
        running.make_global(table)
        for count in range(20):
            client.put_row(table, key(count), [("v", count)])
            client.delete_row(table, key(count))
        moves_on(running, table, first)
        # One that is away holds it, until it is unbound: it cannot be reached to confirm that.
        third.kill()
        time.sleep(3)
        stands = horizon(running, table, first)
        time.sleep(3)
        assert horizon(running, table, first) == stands
        running.run("global-table", "unbind", table, "--regions", third.name, "--no-wait",
                    config=first.config)
        for region in (first, second):
            moves_on(running, table, region)
        # The last one waits for nobody, also after a restart; the others have gone their own way.
        running.run("global-table", "unbind", table, "--regions", second.name, "--no-wait",
                    config=first.config)
        third.start()

        def is_alone():
            told = json.loads(running.run("status", "--json", config=first.config).stdout)
            found = told["regions"][0]["status"]["tables"]
            return not [one for one in found if one["name"] == table][0].get("global_table_id")

        cluster.wait_until(is_alone, f"{first.name} is alone", 60)
        client.delete_row(table, key(1))
        moves_on(running, table, first)
        first.kill()
        first.start()
        moves_on(running, table, first)
        stands = horizon(running, table, second)
        time.sleep(3)
        assert horizon(running, table, second) == stands
        client.close()
