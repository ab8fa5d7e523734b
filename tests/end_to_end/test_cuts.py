"""Reads as of one moment: amounts move between rows in atomic batches, in three regions at once,
and at every cut, in every region, their sum is what it was."""

import contextlib
import json
import pathlib
import random
import threading
import time

import cluster
import ledger
import pytest
import wire
from sizes import number

SECONDS = number("CUT_SECONDS", 3)
ROWS, AMOUNT = 8, 100
TOTAL = ROWS * AMOUNT
PEERS, ONE = "shared_accounts", "own_accounts"
INCREMENT = 4


def key(place):
    return [("w", "bank"), ("k", place)]


KEYS = [key(place) for place in range(ROWS)]
ENDS = [("w", "bank"), ("k", wire.INF_MIN)], [("w", "bank"), ("k", wire.INF_MAX)]


class Mover(threading.Thread):
    """Moves amounts between two rows, both in one atomic batch, until told to stop."""

    def __init__(self, region, table):
        super().__init__(daemon=True)
        self.client, self.table = region.client(), table
        self.ending, self.moves, self.failed = threading.Event(), 0, None

    def run(self):
        chance = random.Random(self.table)
        while not self.ending.is_set():
            one, other = chance.sample(range(ROWS), 2)
            amount = chance.randrange(1, 50)
            parts = [(one, -amount), (other, amount)]
            changes = [(2, key(place), [("amount", change, None, INCREMENT)])
                       for place, change in parts]
            results = self.client.batch_write(self.table, changes, atomic=True)
            if any(results):
                self.failed = results
                return
            self.moves += 1
        self.client.close()

    def stop(self):
        self.ending.set()
        self.join(60)
        assert self.failed is None and self.moves > 0, self.failed


@contextlib.contextmanager
def moving(regions, table):
    movers = [Mover(region, table) for region in regions]
    for mover in movers:
        mover.start()
    try:
        yield
    finally:
        for mover in movers:
            mover.stop()


def amounts(rows):
    cells = {found[0][1][1]: dict(cell[:2] for cell in found[1]) for found in rows if found}
    return {place: named["amount"] for place, named in cells.items()}


def scan(client, table, page):
    """All rows, in pages of some rows."""
    (start, end), found = ENDS, []
    while start is not None:
        rows, start = client.get_range(table, start, end, limit=page)
        found += rows
    return found


def open_accounts(running, table):
    client = running.regions[0].client()
    client.batch_write(table, [(1, one, [("amount", AMOUNT)]) for one in KEYS], atomic=True)
    client.close()
    for region in running.regions:
        client = region.client()
        cluster.wait_until(lambda client=client: sum(amounts(scan(client, table, None)).values())
                           == TOTAL, f"{region.name} has the accounts")
        client.close()


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Three regions with a table that all write, counting, and one that the first writes."""
    with cluster.Cluster(regions=3, folder=tmp_path_factory.mktemp("cuts")) as running:
        client = running.regions[0].client()
        for table in (PEERS, ONE):
            client.create_table(table, ledger.KEY)
        client.close()
        running.run("global-table", "create", PEERS, "--regions", "r1,r2,r3",
                    "--serve", "peer-to-peer", "--sync", "column")
        running.run("table", "rules", PEERS, "--column", "amount=counter")
        running.make_global(ONE, "primary-secondary")
        for region in running.regions:
            cluster.wait_until(
                lambda region=region: json.loads(running.run(
                    "table", "rules", PEERS, "--json", config=region.config).stdout)["rules"],
                f"rules are in {region.name}", 60)
        for table in (PEERS, ONE):
            open_accounts(running, table)
        yield running


def settled(client, table):
    """The newest moment that is safe in a region."""
    client.as_of = "safe"
    client.get_row(table, KEYS[0])
    return client.told_as_of


def moment(told):
    millis, counter = told.split(".")
    return int(millis), int(counter)


def check_cuts(running, table):
    """Cuts taken in one region are complete, and the same in all."""
    clients = [region.client() for region in running.regions]
    newest = max((settled(client, table) for client in clients), key=moment)
    cuts, until = 0, time.monotonic() + SECONDS
    while time.monotonic() < until or cuts == 0:
        for at, client in enumerate(clients):
            client.as_of = "safe"
            (first, _), cut = client.get_range(table, *ENDS, limit=1), client.told_as_of
            cut = max(cut, newest, key=moment)
            seen = []
            for other in clients:
                other.as_of = cut
                seen.append(scan(other, table, 3))
                assert other.told_as_of == cut
            assert seen[0] == seen[1] == seen[2], cut
            assert len(seen[0]) == ROWS and first
            assert sum(amounts(seen[0]).values()) == TOTAL, (cut, seen[0])
            assert clients[at].batch_get(table, KEYS) == seen[0]
            cuts += 1
            # Of what is newest nothing but whole batches is seen, either.
            client.as_of = None
            assert sum(amounts(client.batch_get(table, KEYS)).values()) == TOTAL
            assert sum(amounts(scan(client, table, None)).values()) == TOTAL
    for client in clients:
        # Safe times get on although writers never rest.
        cluster.wait_until(lambda client=client: moment(settled(client, table)) > moment(newest),
                           "the safe time gets on")
        client.close()


def test_at_every_cut_and_in_every_region_sums_are_what_they_were(bank):
    with moving(bank.regions, PEERS):
        check_cuts(bank, PEERS)


def test_secondaries_show_the_same_cuts_as_the_primary(bank):
    with moving(bank.regions[:1], ONE):
        check_cuts(bank, ONE)


def test_one_cut_serves_several_tables_and_the_command_line(bank):
    clients = [region.client() for region in bank.regions]
    cut = max((settled(client, table) for table in (PEERS, ONE) for client in clients), key=moment)
    shown = []
    for region, client in zip(bank.regions, clients, strict=True):
        client.as_of = cut
        for table in (PEERS, ONE):
            rows = scan(client, table, None)
            assert sum(amounts(rows).values()) == TOTAL
            done = bank.run("row", "range", table, "--as-of", cut, "--limit", "0",
                            config=region.config)
            assert done.stderr == f"as of {cut}\n"
            told = [json.loads(line) for line in done.stdout.splitlines()]
            assert [row["amount"] for row in told] == list(amounts(rows).values())
            shown.append(rows)
        client.close()
    assert shown[0::2] == [shown[0]] * 3 and shown[1::2] == [shown[1]] * 3
    done = bank.run("row", "get", ONE, json.dumps(dict(KEYS[0])), "--as-of", "safe")
    assert done.stderr.startswith("as of ")


def table_status(region, table):
    told = region.cluster.run("status", "--json", config=region.config)
    status = json.loads(told.stdout)["regions"][0]["status"]
    return next(one for one in status["tables"] if one["name"] == table)


def refused(client, call, *arguments):
    with pytest.raises((wire.Refused, wire.Unknown)) as caught:
        getattr(client, call)(*arguments)
    return str(caught.value)


def test_a_cut_that_cannot_be_shown_is_refused_with_the_reason(bank):
    first, third = bank.regions[0], bank.regions[2]
    path = pathlib.Path(third.config)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("past_bytes = 67108864", "past_bytes = 20000"), encoding="utf-8")
    third.kill()
    third.start()
    client, away = third.client(), first.client()
    cut = settled(client, PEERS)
    view = table_status(third, PEERS)["view"]
    assert moment(view["safe"]) >= moment(cut) >= moment(view["readable_from"])
    assert {one["region"] for one in view["origins"]} == {"r1", "r2", "r3"}

    # The safe time stands still while the first region's link is paused; what is overwritten since
    # is kept as long as it fits.
    bank.run("link", "pause", "--table", PEERS, "--from", "r1", "--to", "r3")
    away.batch_write(PEERS, [(2, one, [("amount", 1, None, INCREMENT)]) for one in KEYS])
    client.as_of = None
    client.batch_write(PEERS, [(2, one, [("amount", -1, None, INCREMENT)]) for one in KEYS])
    held = settled(client, PEERS)
    client.as_of = held
    assert sum(amounts(scan(client, PEERS, 3)).values()) == TOTAL, held
    client.as_of = None
    for _ in range(40):
        client.batch_write(PEERS, [(2, one, [("note", "x" * 100)]) for one in KEYS])
    client.as_of = held
    told = refused(client, "get_row", PEERS, KEYS[0])
    assert "OTSParameterInvalid" in told and "storage.past_bytes" in told, told
    client.as_of = "safe"
    told = refused(client, "get_row", PEERS, KEYS[0])
    assert "OTSServerUnavailable" in told and "Region r1" in told, told
    bank.run("link", "resume", "--table", PEERS, "--from", "r1", "--to", "r3")

    def is_readable():
        with contextlib.suppress(wire.Unknown, wire.Refused):
            return settled(client, PEERS)
        return None

    cluster.wait_until(is_readable, "the safe time gets on")

    for wrong in ("now", "17", "1.70000"):
        client.as_of = wrong
        assert "x-isthmus-as-of" in refused(client, "get_row", PEERS, KEYS[0])
    client.as_of = "safe"
    assert "GetRow" in refused(client, "put_row", PEERS, KEYS[0], [("amount", 1)])
    assert "GetRow" in refused(client, "batch_write", PEERS, [(1, KEYS[0], [("amount", 1)])])
    client.as_of = f"{int(time.time() * 1000) + 3_600_000}.0"
    assert "OTSServerUnavailable" in refused(client, "get_row", PEERS, KEYS[0])
    client.close()
    away.close()


def test_a_read_is_local_within_its_bound_and_the_newest_beyond_it(bank):
    first, third = bank.regions[0], bank.regions[2]
    bank.run("switchover", ONE, "--at-secondary", "forward")
    writer, client = first.client(), third.client(timeout=30)
    marker = [("w", "bound"), ("k", 1)]

    def value():
        found = client.get_row(ONE, marker)
        return dict(cell[:2] for cell in found[1])["v"] if found else None

    def reads_locally():
        with contextlib.suppress(wire.Unknown, wire.Refused):
            value()
            return client.told_as_of == "local"
        return False

    writer.put_row(ONE, marker, [("v", 1)])
    client.as_of = "within:30s"
    cluster.wait_until(lambda: value() == 1 and reads_locally(), "r3 is up to date", 60)
    bank.run("link", "pause", "--table", ONE, "--from", "r1", "--to", "r3")
    writer.put_row(ONE, marker, [("v", 2)])
    client.as_of = "within:1s"
    cluster.wait_until(lambda: value() == 2, "a read that asks for less goes to r1", 60)
    assert client.told_as_of == "newest"
    client.as_of = "within:3600s"
    assert (value(), client.told_as_of) == (1, "local")
    bank.run("link", "resume", "--table", ONE, "--from", "r1", "--to", "r3")
    client.as_of = "within:30s"
    cluster.wait_until(lambda: value() == 2 and reads_locally(), "r3 is up to date again", 60)

    # Nobody can be asked for the newest state where several write.
    client.as_of = "within:30s"
    client.get_row(PEERS, KEYS[0])
    bank.run("link", "pause", "--table", PEERS, "--from", "r1", "--to", "r3")
    assert writer.batch_write(PEERS, [(2, KEYS[0], [("note", "late")])]) == [None]
    client.as_of = "within:1s"

    def told():
        try:
            client.get_row(PEERS, KEYS[0])
        except (wire.Refused, wire.Unknown) as error:
            # Another region's word may be late for a moment.
            return "Region r1" in str(error)
        return False

    cluster.wait_until(told, "the read is refused because of r1", 60)
    bank.run("link", "resume", "--table", PEERS, "--from", "r1", "--to", "r3")
    for wrong in ("within:", "within:1", "within:2h", "within:3601s"):
        client.as_of = wrong
        assert "within:5s" in refused(client, "get_row", ONE, marker)
    writer.close()
    client.close()
