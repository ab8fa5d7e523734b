"""Column families: groups of columns that live for a time of their own, keep versions of their own
and go only to the regions that are bound to them."""

import json
import random
import time

import cluster
import ledger
import pytest
import verifying
import wire
from sizes import number

ROWS = number("FAMILY_ROWS", 120)
SECONDS = number("EXTRACT_SECONDS", 2)
TABLE = "articles"
DAY = 86_400_000


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A table that r1 writes and r2 holds, with families that r2 was asked for."""
    with cluster.Cluster(regions=3, folder=tmp_path_factory.mktemp("families")) as running:
        client = running.regions[0].client()
        client.create_table(TABLE, ledger.KEY, max_versions=1, deviation=100 * 86_400)
        before = described(client)
        running.run("global-table", "create", TABLE, "--regions", "r1,r2",
                    "--serve", "primary-secondary")
        second = running.regions[1].config
        running.run("table", "families", TABLE, "meta", "--column", "author", "--prefix", "m_",
                    "--time-to-live", "86400", "--max-versions", "3", config=second)
        running.run("table", "families", TABLE, "kept", "--column", "body", "--time-to-live", "-1",
                    config=second)
        for region in running.regions[:2]:
            cluster.wait_until(lambda region=region: len(families(running, region)) == 2,
                               f"{region.name} has the families", 60)
        assert described(client) == before, "the public API knows nothing of families"
        client.close()
        yield running


def described(client):
    """What DescribeTable says of options and columns."""
    told = client.describe_table(TABLE)
    meta = wire.read_message(told[1][0])
    return told[3], {tag: meta.get(tag) for tag in (1, 2, 3)}


def families(running, region):
    done = running.run("table", "families", TABLE, "--json", config=region.config, check=False)
    return json.loads(done.stdout)["families"] if done.returncode == 0 else []


def key(place):
    return [("w", f"w{place % 10}"), ("k", place)]


def rows(region, versions=1):
    """{key: {column: [value of each version]}}; nothing where the table cannot be read."""
    client = region.client()
    try:
        found = {}
        for row_key, cells in client.scan(TABLE, ledger.KEY_NAMES, versions):
            columns = found.setdefault(tuple(value for _, value in row_key), {})
            for name, value, *_ in cells:
                columns.setdefault(name, []).append(value)
        return found
    except (wire.Refused, wire.Unknown):
        return None
    finally:
        client.close()


def put(running, place, **columns):
    client = running.regions[0].client()
    client.put_row(TABLE, key(place), list(columns.items()))
    client.close()


def at_once(running, region, place, versions=9):
    return (rows(region, versions) or {}).get(tuple(value for _, value in key(place)))


def test_a_family_has_its_own_versions_and_time(three):
    now = int(time.time() * 1000)
    old, older = now - 2 * DAY, now - 90 * DAY
    client = three.regions[0].client()
    # Versions with timestamps of their own: some have outlived one family and not another.
    for stamp in (older, old, now - 4000, now - 3000, now - 2000, now - 1000):
        cells = [(name, stamp, stamp) for name in ("m_x", "author", "body", "plain")]
        client.update_row(TABLE, key(1), cells)
    client.update_row(TABLE, key(2), [("m_x", 1, old), ("plain", 2, old)])
    client.close()
    newest = [now - 1000, now - 2000, now - 3000]
    expected = {"m_x": newest, "author": newest, "body": newest[:1], "plain": newest[:1]}
    for region in three.regions[:2]:
        cluster.wait_until(lambda region=region: at_once(three, region, 1) == expected,
                           f"{region.name} shows what each family keeps", 60)
        cluster.wait_until(lambda region=region: at_once(three, region, 2) == {"plain": [2]},
                           f"{region.name} shows what still lives", 60)
    # A longer time brings nothing back.
    three.run("table", "families", TABLE, "meta", "--time-to-live", "864000")
    for region in three.regions[:2]:
        cluster.wait_until(
            lambda region=region: families(three, region)[0]["time_to_live"] == 864_000,
            f"{region.name} has the change", 60)
        assert at_once(three, region, 2) == {"plain": [2]}
    three.regions[1].kill()
    three.regions[1].start()
    cluster.wait_until(lambda: at_once(three, three.regions[1], 1) == expected, "r2 is back", 60)
    cluster.wait_until(
        lambda: all(verifying.digest_of(region, three, TABLE)["state"] == "ready"
                    for region in three.regions[:2]), "digests are ready", 60, 0.3)
    verifying.verify(three, TABLE, regions="r1,r2", expect=verifying.ALIKE)


def test_a_region_takes_the_families_that_it_is_bound_to(three):
    chance = random.Random(5)
    for place in range(ROWS):
        put(three, place, m_a=place, author=f"a{place}", body=f"b{place}", plain=place)
    bound = three.region("r3")
    three.run("global-table", "bind", TABLE, "--regions", "r3", "--families", "meta,rest")

    def part(of):
        taken = lambda name: name != "body"  # noqa: E731
        return {row_key: {name: values for name, values in columns.items() if taken(name)}
                for row_key, columns in of.items()}

    def holds():
        return rows(bound) == part(rows(three.regions[0]))

    cluster.wait_until(holds, "r3 has its families", 60, 0.3)
    limit = time.monotonic() + SECONDS
    client = three.regions[0].client()
    while time.monotonic() < limit:
        place = chance.randrange(ROWS)
        if chance.randrange(5) == 0:
            client.delete_row(TABLE, key(place))
        else:
            cells = [(name, chance.randrange(100)) for name in ("m_a", "author", "body", "plain")]
            client.update_row(TABLE, key(place), chance.sample(cells, 2))
    client.close()
    bound.kill()
    put(three, 1, m_a=-1, body="late")
    bound.start()
    cluster.wait_until(holds, "r3 has its families again", 60, 0.3)
    told = json.loads(three.run("global-table", "describe", TABLE, "--json").stdout)
    assert told["extracts"]["r3"]["families"] == ["meta", "rest"]
    # What a new family would take away from the rest has gone there already.
    done = three.run("table", "families", TABLE, "more", "--column", "plain", check=False)
    assert done.returncode != 0 and "r3" in done.stderr
    three.run("global-table", "unbind", TABLE, "--regions", "r3")


def test_what_makes_no_sense_is_refused(three):
    before = families(three, three.regions[0])
    for words in (
        ["meta", "--column", "other"],
        ["more", "--column", "author"],
        ["more", "--prefix", "m_x"],
        ["more"],
        ["rest", "--column", "c"],
        ["more", "--column", "w"],
        ["more", "--column", "c", "--time-to-live", "60"],
        ["1more", "--column", "c"],
    ):
        done = three.run("table", "families", TABLE, *words, check=False)
        assert done.returncode != 0 and done.stderr, words
    done = three.run("global-table", "bind", TABLE, "--regions", "r3", "--families", "none",
                     check=False)
    assert done.returncode != 0 and "none" in done.stderr
    assert families(three, three.regions[0]) == before
    shown = three.run("table", "families", TABLE).stdout
    assert "meta" in shown and "for ever" in shown
