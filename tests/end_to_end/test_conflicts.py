"""Two regions write the same rows, now in sight of each other and now not: rules decide as they
say, what was overwritten unseen is told, nothing else is, and can be written back."""

import json
import urllib.request

import cluster
import flights
import ledger
import pytest
import tablestore
import verifying
import wire
from sizes import number

OVERWRITES = number("CONFLICT_OVERWRITES", 40)
TABLE = "stock"
KEY = [("w", "a"), ("k", 1)]


def sdk(running, region):
    credentials = running.credentials
    return flights.make_client(
        (region.endpoint, credentials.key_id, credentials.secret, credentials.instance))


def update(running, region, puts, increments=(), key=KEY):
    columns = {"PUT": list(puts.items())}
    if increments:
        columns["INCREMENT"] = list(increments)
    row = tablestore.Row(key, columns)
    sdk(running, region).update_row(TABLE, row, tablestore.Condition("IGNORE"))


def put(running, region, table, values):
    row = tablestore.Row(KEY, list(values.items()))
    sdk(running, region).put_row(table, row, tablestore.Condition("IGNORE"))


def shown(running, region, key=KEY, table=TABLE):
    _, row, _ = sdk(running, region).get_row(table, key, max_version=1)
    return {name: value for name, value, _ in row.attribute_columns} if row else {}


def conflicts(running, region=None, *arguments):
    config = region and region.config
    words = ["conflict", "list", TABLE, "--json", *arguments]
    return json.loads(running.run(*words, config=config).stdout)


def metrics(running, region):
    token = (running.data / "metrics.token").read_text(encoding="utf-8").strip()
    bearer = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{region.admin}/metrics", headers=bearer)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode().splitlines()


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two regions and a table that both write, with rules that the second one was asked to set."""
    with cluster.Cluster(regions=2, folder=tmp_path_factory.mktemp("conflicts")) as running:
        client = running.regions[0].client()
        client.create_table(TABLE, ledger.KEY)
        client.close()
        running.run("global-table", "create", TABLE, "--regions", "r1,r2",
                    "--serve", "peer-to-peer", "--sync", "column")
        second = running.regions[1].config
        running.run("table", "rules", TABLE, "--column", "count=counter", "--column", "tags=set",
                    "--column", "high=max", "--column", "low=min", "--column", "boss=priority",
                    "--priority", "r1,r2", config=second)
        for region in running.regions:
            cluster.wait_until(
                lambda region=region: json.loads(running.run(
                    "table", "rules", TABLE, "--json", config=region.config).stdout)["rules"],
                f"rules are in {region.name}", 30)
        yield running


def test_rules_that_make_no_sense_are_refused_and_change_nothing(pair):
    before = pair.run("table", "rules", TABLE).stdout
    assert "counter" in before and "priority: r1, r2" in before
    for words in (["--column", "k=counter"], ["--default", "set"], ["--priority", "r9"],
                  ["--column", "high=best"]):
        done = pair.run("table", "rules", TABLE, *words, check=False)
        assert done.returncode in (1, 2) and done.stderr, words
    assert pair.run("table", "rules", TABLE).stdout == before


def test_writes_in_sight_of_each_other_are_no_conflict(pair):
    for count in range(OVERWRITES):
        here, there = pair.regions[count % 2], pair.regions[1 - count % 2]
        update(pair, here, {"plain": count, "high": OVERWRITES - count})
        cluster.wait_until(
            lambda there=there, count=count: shown(pair, there).get("plain") == count,
            "the other region has it", 30)
    assert shown(pair, pair.regions[0])["high"] == 1, "what was seen may be lowered"
    assert conflicts(pair)["noticed"] == 0


def test_writes_out_of_sight_are_decided_by_rule_and_told(pair):
    first, second = pair.regions
    second.kill()
    update(pair, first, {"tags": '["a"]', "high": 9, "low": 9, "boss": "one", "plain": "first"},
           [("count", 5)])
    first.kill()
    second.start()
    update(pair, second, {"tags": '["b"]', "high": 4, "low": 4, "boss": "two",
                          "plain": "second"},
           [("count", 3)])
    first.start()
    expected = {"tags": '["a","b"]', "high": 9, "low": 4, "boss": "one", "plain": "second", "count": 8}
    for region in pair.regions:
        cluster.wait_until(lambda region=region: shown(pair, region) == expected,
                           f"{region.name} shows what the rules say", 60)
    for region in pair.regions:
        told = conflicts(pair, region)
        by_column = {one["column"]: one for one in told["conflicts"]}
        assert sorted(by_column) == ["boss", "high", "low", "plain", "tags"]
        assert told["noticed"] == 5
        winners = {name: one["winner"] for name, one in by_column.items()}
        assert winners == {"boss": "r1", "high": "r1", "low": "r2", "plain": "r2", "tags": "both"}
        changes = {one["region"]: one["value"] for one in by_column["plain"]["changes"]}
        assert changes == {"r1": "first", "r2": "second"}
        assert by_column["high"]["rule"] == "max"
        counted = f'isthmus_conflicts_total{{table="{TABLE}",rule="%s"}} 1'
        told = metrics(pair, region)
        for rule in ("set", "max", "min", "priority", "last-writer"):
            assert counted % rule in told, told
        other = next(one.name for one in pair.regions if one is not region)
        ends = f'table="{TABLE}",from="{region.name}",to="{other}"'
        assert f"isthmus_link_conflicts_total{{{ends}}} 5" in told, told
        status = json.loads(pair.run("status", "--json", config=region.config).stdout)
        links = [one for one in status["regions"][0]["status"]["links"] if one["table"] == TABLE]
        assert [one["conflicts"] for one in links] == [5], links


def test_a_loser_is_written_back_as_a_write_of_now(pair):
    key = json.dumps(dict(KEY))
    told = conflicts(pair, pair.regions[1], "--key", key)["conflicts"]
    lost = next(one for one in told if one["column"] == "plain")
    config = pair.regions[1].config
    assert "first" in pair.run("conflict", "restore", TABLE, lost["id"], config=config).stdout
    for region in pair.regions:
        cluster.wait_until(lambda region=region: shown(pair, region)["plain"] == "first",
                           f"{region.name} has it back", 30)
    done = pair.run("conflict", "restore", TABLE, "r2-99999", config=config, check=False)
    assert done.returncode == 1 and "r2-99999" in done.stderr
    verifying.level(pair, TABLE, pair.regions)
    verifying.verify(pair, TABLE, "--deep", expect=verifying.ALIKE)


def test_where_whole_rows_conflict_the_region_of_higher_priority_keeps_its_row(pair):
    table = "whole"
    first, second = pair.regions
    client = first.client()
    client.create_table(table, ledger.KEY)
    client.close()
    pair.run("global-table", "create", table, "--regions", "r1,r2",
             "--serve", "peer-to-peer", "--sync", "row")
    for words in (["--column", "count=counter"], ["--default", "max"]):
        done = pair.run("table", "rules", table, *words, check=False)
        assert done.returncode == 1 and "sync mode column" in done.stderr, done.stderr
    pair.run("table", "rules", table, "--default", "priority", "--priority", "r1,r2")
    cluster.wait_until(
        lambda: json.loads(pair.run("table", "rules", table, "--json",
                                    config=second.config).stdout)["rules"],
        "the rule is in r2", 30)
    put(pair, first, table, {"a": 0})
    cluster.wait_until(lambda: shown(pair, second, table=table) == {"a": 0}, "r2 has it", 30)
    second.kill()
    put(pair, first, table, {"a": 1, "b": 1})
    first.kill()
    second.start()
    put(pair, second, table, {"a": 2, "c": 2})
    first.start()
    for region in pair.regions:
        cluster.wait_until(
            lambda region=region: shown(pair, region, table=table) == {"a": 1, "b": 1},
            f"{region.name} shows the row of r1 and nothing of the other", 60)
    # Whoever has seen it may replace it.
    put(pair, second, table, {"c": 3})
    for region in pair.regions:
        cluster.wait_until(lambda region=region: shown(pair, region, table=table) == {"c": 3},
                           f"{region.name} shows the later row", 30)
    verifying.level(pair, table, pair.regions)
    verifying.verify(pair, table, "--deep", expect=verifying.ALIKE)


def test_a_region_whose_clock_is_off_refuses_writes_until_it_is_right(pair):
    client = pair.regions[0].client()
    client.create_table("alone", ledger.KEY)
    client.close()
    pair.regions[0].kill()
    wrong = cluster.spawn(
        [cluster.binary(), "serve", "--config", pair.regions[0].config, "--clock-ahead-ms", "5000"],
        pair.log)
    try:
        pair.regions[0].wait_serving()
        for region in pair.regions:
            cluster.wait_until(lambda region=region: refused_by_clock(region), "it is noticed", 30)
        client.put_row("alone", KEY, [("v", 1)])
        assert shown(pair, pair.regions[0])["plain"] == "first", "reads go on"
        events = json.loads(pair.run("events", "--json").stdout)["events"]
        assert "clock-off" in [event["kind"] for event in events]
    finally:
        cluster.end(wrong)
    pair.regions[0].start()
    for region in pair.regions:
        cluster.wait_until(lambda region=region: not refused_by_clock(region), "it is right", 30)
    client.close()


def refused_by_clock(region):
    client = region.client()
    try:
        client.update_row(TABLE, KEY, [("probe", 1)])
        return False
    except (wire.Refused, wire.Unknown) as refusal:
        assert "clock" in str(refusal), refusal
        return True
    finally:
        client.close()


def test_a_hundred_thousand_overwrites_in_sight_of_each_other_are_no_conflict(three):
    rows, total, mark = 200, number("SEEN_OVERWRITES", 100_000), [("w", "~mark"), ("k", 1)]
    clients = [region.client(timeout=60) for region in three.regions]
    clients[0].create_table(TABLE, ledger.KEY)
    three.make_global(TABLE)
    for turn in range(total // rows):
        writer = clients[turn % 3]
        changes = [(1, [("w", "seen"), ("k", row)], [("v", turn)]) for row in range(rows)]
        assert writer.batch_write(TABLE, changes) == [None] * rows
        writer.put_row(TABLE, mark, [("v", turn)])
        # The entries of a region are applied in their order.
        for client in clients:
            cluster.wait_until(
                lambda client=client, turn=turn: value_of(client, mark) == turn,
                "all regions have seen the turn", 60, 0.002)
    for region, client in zip(three.regions, clients, strict=True):
        assert conflicts(three, region)["noticed"] == 0
        assert {dict(cell[:2] for cell in cells)["v"]
                for _, cells in client.scan(TABLE, ledger.KEY_NAMES)} == {total // rows - 1}
    # And one that is written out of sight is told as what it is.
    three.run("link", "pause", "--table", TABLE)
    clients[0].put_row(TABLE, mark, [("v", -1)])
    clients[2].put_row(TABLE, mark, [("v", -3)])
    three.run("link", "resume", "--table", TABLE)

    def noticed():
        return [conflicts(three, one)["noticed"] for one in three.regions] == [1, 0, 1]

    cluster.wait_until(noticed, "the two regions that took part tell one conflict each", 60, 0.5)
    for client in clients:
        client.close()


def value_of(client, key):
    found = client.get_row(TABLE, key)
    return dict(cell[:2] for cell in found[1])["v"] if found else None
