"""What goes over the way: compressed as asked, and of large values what has changed."""

import random

import cluster
import ledger
import pytest
import verifying
from test_upgrade import await_settled, restart

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def two():
    with cluster.Cluster(regions=2) as running:
        yield running


def make(running, table, serve="primary-secondary"):
    client = running.regions[0].client()
    client.create_table(table, ledger.KEY)
    client.close()
    running.make_global(table, serve)


def link(running, table):
    """The link from r1 to r2, which is told of when both know of each other."""
    def found():
        links = running.statuses()[0]["links"]
        return next((one for one in links if (one["table"], one["to"]) == (table, "r2")), None)

    return cluster.wait_until(found, f"r1 tells of the link of {table} to r2", 60)


def sent(running, table):
    """Bytes on the way so far, when r2 has all that r1 had."""
    cluster.wait_until(lambda: link(running, table)["lag_entries"] == 0, "r2 has everything", 60)
    return link(running, table)["wire_bytes"]


def value_in(region, table, key):
    client = region.client()
    found = client.get_row(table, key)
    client.close()
    return dict(cell[:2] for cell in found[1])["doc"] if found else None


def large_edits(running, table):
    """Bytes sent for the first writing of a value of 1 MiB, and for each of some edits of 1 KiB."""
    chance, key = random.Random(7), [("w", "large"), ("k", 1)]
    doc = bytearray(chance.randbytes(MIB))
    client = running.regions[0].client(timeout=60)
    costs = [sent(running, table)]
    for edit in range(6):
        if edit:
            at = chance.randrange(MIB - 1024)
            doc[at : at + 1024] = chance.randbytes(1024)
        write = client.put_row if edit % 2 else client.update_row
        write(table, key, [("doc", bytearray(doc)), ("edit", edit)])
        costs.append(sent(running, table))
        assert value_in(running.regions[1], table, key) == doc, f"edit {edit}"
    client.close()
    return [after - before for before, after in zip(costs, costs[1:], strict=False)]


@pytest.mark.parametrize("serve", ["primary-secondary", "peer-to-peer"])
def test_small_change_in_a_large_value_sends_what_has_changed(two, serve):
    table = "large_" + serve.partition("-")[0]
    make(two, table, serve)
    first, *edits = large_edits(two, table)
    assert first > MIB
    # The first edit finds nothing kept where nothing was shipped before.
    assert all(cost < 16 * 1024 for cost in edits), edits


def test_edits_in_quick_succession_arrive_whole(two):
    make(two, "quick")
    chance, client = random.Random(8), two.regions[0].client(timeout=60)
    docs = [bytearray(chance.randbytes(MIB // 4)) for _ in range(4)]
    before = sent(two, "quick")
    for edit in range(100):
        doc = docs[edit % 4]
        at = chance.randrange(len(doc) - 100)
        doc[at : at + 100] = chance.randbytes(100)
        client.put_row("quick", [("w", "q"), ("k", edit % 4)], [("doc", bytearray(doc))])
    cost = sent(two, "quick") - before
    for number, doc in enumerate(docs):
        assert value_in(two.regions[1], "quick", [("w", "q"), ("k", number)]) == doc
    client.close()
    print(f"100 edits of values of 256 KiB: {cost} bytes")
    assert cost < 8 * MIB, cost


def test_the_replica_that_has_another_value_gets_the_whole(two):
    make(two, "other", "peer-to-peer")
    key, chance = [("w", "o"), ("k", 1)], random.Random(9)
    clients = [region.client(timeout=60) for region in two.regions]
    for round_ in range(4):
        # Both write the same value at once, so that each has another one than the other.
        docs = [bytearray(chance.randbytes(MIB // 8)) for _ in clients]
        for client, doc in zip(clients, docs, strict=True):
            client.put_row("other", key, [("doc", doc), ("round", round_)])
    verifying.level(two, "other", two.regions)
    assert not ledger.differing(two.regions, "other")
    for client in clients:
        client.close()


def test_an_older_region_gets_values_whole(three):
    restart(three.regions[1], 1)
    await_settled(three, {"r2"})
    make(three, "older")
    first, *edits = large_edits(three, "older")
    assert all(cost > MIB for cost in [first, *edits]), "format 1 has no patches"
    restart(three.regions[1], None)
    await_settled(three, set())
    _, *edits = large_edits(three, "older")
    assert all(cost < 16 * 1024 for cost in edits), edits


def text_rows(client, table, first, count):
    for number in range(first, first + count, 100):
        changes = [(1, [("w", "t"), ("k", number + place)],
                    [("text", f"customer {number + place} lives in the long lane of Isthmus")])
                   for place in range(100)]
        client.batch_write(table, changes)


def test_links_compress_as_asked_while_they_are_in_use(two):
    make(two, "asked")
    client, first, costs = two.regions[0].client(), 0, {}
    for way in ("none", "lz4", "zstd:9", "auto"):
        two.run("link", "set", "--table", "asked", "--compression", way)
        cluster.wait_until(
            lambda way=way: link(two, "asked")["compression"] == way, f"it compresses by {way}", 20)
        before, sent_before = sent(two, "asked"), link(two, "asked")["sent_bytes"]
        text_rows(client, "asked", first, 2000)
        first += 2000
        costs[way] = (sent(two, "asked") - before) / (link(two, "asked")["sent_bytes"] - sent_before)
    client.close()
    print({way: round(cost, 3) for way, cost in costs.items()})
    assert costs["none"] > 0.95 > 0.7 > costs["lz4"] > costs["zstd:9"]
    assert costs["auto"] < costs["lz4"]
    assert not ledger.differing(two.regions, "asked")
    done = two.run("link", "set", "--table", "asked", "--compression", "gzip", check=False)
    assert done.returncode == 2 and "lz4" in done.stderr


def test_single_small_rows_share_a_dictionary(two):
    make(two, "small")
    client = two.regions[0].client()

    def write(first, count):
        for number in range(first, first + count):
            client.put_row("small", [("w", "s"), ("k", number)],
                           [("name", f"customer {number}"), ("city", "Isthmus"), ("open", True),
                            ("note", "delivered by the second carrier"), ("sum", number * 7919)])

    before = sent(two, "small")
    write(0, 300)
    alone = (sent(two, "small") - before) / 300

    def learned():
        before = sent(two, "small")
        write(1000, 100)
        return (sent(two, "small") - before) / 100 < alone * 0.6

    # Learning is background work: it comes within seconds.
    cluster.wait_until(learned, f"rows take less than {alone:.0f} bytes each", 30, 0.5)
    write(2000, 50)
    two.regions[0].kill()
    two.regions[0].start()
    client.close()
    client = two.regions[0].client()
    write(3000, 50)
    sent(two, "small")
    client.close()
    assert not ledger.differing(two.regions, "small")
