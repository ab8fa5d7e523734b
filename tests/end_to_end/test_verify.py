"""Are regions alike, and where not? Differences are planted in stopped regions, named by `verify`,
mended by `repair` and `scrub`; nothing else is ever named, whatever is written meanwhile."""

import csv
import io
import json
import signal
import subprocess
import time

import cluster
import ledger
import parquet_file
import pytest
import verifying
from sizes import number
from verifying import ALIKE, COULD_NOT_TELL, DIFFERENT, verify

ROWS = number("VERIFY_ROWS", 3000)
ONE, PEERS = "one_writer", "all_write"
TABLES = {ONE: "primary-secondary", PEERS: "peer-to-peer"}
FIELDS = {
    "table", "regions", "equal", "reason", "rows_differing", "rows", "more", "ranges",
    "bytes_exchanged", "round_trips", "rows_read", "rows_read_by_region", "elapsed_ms",
    "watermarks", "scrubbed_since", "bad_on_disk", "tree_wrong",
}
# What only the regions themselves can tell.
OF_REGIONS = {"scrubbed_ranges", "deep", "rows_late"}
# Kind of fault, and the class of the row that it must be reported with.
KINDS = {
    "lost-row": "missing",
    "extra-row": "extra",
    "cell": "different",
    "version": "different",
    "tombstone": None,
    "bit": None,
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Three regions with a table of one writer and a table that all write."""
    with cluster.Cluster(regions=3, folder=tmp_path_factory.mktemp("verify")) as running:
        verifying.configure(running, verifying.NO_SCRUB)
        for table, serve in TABLES.items():
            verifying.make(running, table, serve, ROWS)
        yield running


def test_regions_that_hold_the_same_are_alike(loaded):
    for table in TABLES:
        for regions in ("r1,r2", "r3,r1,r2", None):
            report, _ = verify(loaded, table, regions=regions, expect=ALIKE)
            assert FIELDS | OF_REGIONS <= set(report), (FIELDS | OF_REGIONS) - set(report)
            assert report["equal"] is True and report["rows"] == []
            assert report["rows_differing"] == 0 and report["round_trips"] > 0
            assert set(report["watermarks"]) == set(report["regions"])
            assert report["rows_read"] == 0, "digests tell, no row is read"
        report, _ = verify(loaded, table, "--deep", expect=ALIKE)
        assert report["rows_read"] >= 2 * ROWS
        assert all(report["scrubbed_since"][region] for region in ("r1", "r2"))
        assert_all_keys_told(report["scrubbed_ranges"], {"r1", "r2"})
        assert all(one["since"] for one in report["scrubbed_ranges"]), report["scrubbed_ranges"]
        print(f"{table}: alike in {report['elapsed_ms']} ms, {report['bytes_exchanged']} bytes")


def assert_all_keys_told(ranges, regions):
    """Ranges of each region cover all keys, one after the other."""
    assert {one["region"] for one in ranges} == regions
    for region in regions:
        own = [one for one in ranges if one["region"] == region]
        assert 0 < len(own) <= 256
        assert [one["start"] for one in own] == [None, *(one["end"] for one in own[:-1])]
        assert own[-1]["end"] is None


def test_it_is_told_when_each_range_was_read_last(loaded):
    table = "read_in_part"
    verifying.make(loaded, table, "primary-secondary", 200)
    report, _ = verify(loaded, table, expect=ALIKE)
    assert_all_keys_told(report["scrubbed_ranges"], {"r1", "r2"})
    assert [one["since"] for one in report["scrubbed_ranges"]] == [None, None]
    told, code = verifying.scrub(loaded, table, loaded.region("r2"))
    assert code == 0
    assert_all_keys_told(told["scrubbed_ranges"], {"r2"})
    assert {one["table"] for one in told["scrubbed_ranges"]} == {table}
    report, _ = verify(loaded, table, expect=ALIKE)
    assert_all_keys_told(report["scrubbed_ranges"], {"r1", "r2"})
    read = {region: {one["since"] for one in report["scrubbed_ranges"] if one["region"] == region}
            for region in ("r1", "r2")}
    assert read["r1"] == {None} and None not in read["r2"], report["scrubbed_ranges"]
    everything, _ = verifying.scrub_all(loaded, loaded.region("r2"))
    assert {one["table"] for one in everything["scrubbed_ranges"]} >= {table, *TABLES}


def test_rows_from_before_a_table_had_several_writers_are_alike(loaded):
    table = "came_with_rows"
    client = loaded.regions[0].client()
    client.create_table(table, ledger.KEY)
    client.close()
    verifying.write(loaded, table, loaded.regions[:1], 10)
    # Put twice, so that the first is killed by a tombstone in the log.
    verifying.write(loaded, table, loaded.regions[:1], 10)
    loaded.make_global(table, "peer-to-peer")
    verifying.level(loaded, table, loaded.regions[:1])
    verify(loaded, table, regions=None, expect=ALIKE)
    verifying.write(loaded, table, loaded.regions, 20)
    verifying.level(loaded, table, loaded.regions)
    verify(loaded, table, regions=None, expect=ALIKE)


def test_a_report_is_printed_for_people_and_for_programs(loaded, tmp_path):
    words = ["verify", ONE, "--regions", "r1,r2"]
    text = loaded.run(*words)
    assert text.stdout.startswith(f"ALIKE: {ONE} in r1 and r2\n")
    assert text.stderr == "", "nobody watches, so no progress is shown"
    file = tmp_path / "report.csv"
    assert loaded.run(*words, "--csv", "--output", file).stdout == ""
    assert file.read_text().splitlines() == [
        "first,second,key,row_class,column,timestamp,cell_class,first_value,second_value"]
    job = json.loads(loaded.run(*words, "--detach", "--json").stdout)["id"]
    shown = cluster.wait_until(
        lambda: next((told for told in [json.loads(loaded.run("job", "show", job, "--json").stdout)]
                      if told["state"] == "done"), None), "the job is done", 20)
    assert shown["report"]["equal"] is True and shown["kind"] == "verify"
    listed = json.loads(loaded.run("job", "list", "--json").stdout)["jobs"]
    assert job in [one["id"] for one in listed]
    assert job in loaded.run("job", "list").stdout


def test_what_cannot_be_told_is_neither_alike_nor_different(loaded):
    for words in (
        ["verify", ONE, "--regions", "r1"],
        ["verify", ONE, "--regions", "r1,r1"],
        ["verify", ONE, "--regions", "r1,nowhere"],
        ["verify", "no_such_table", "--regions", "r1,r2"],
        ["verify", ONE, "--against", "no_such_file.csv"],
    ):
        done = loaded.run(*words, check=False)
        assert done.returncode == COULD_NOT_TELL, f"{words}: {done}"
        assert done.stderr or "COULD NOT TELL" in done.stdout, words


def choose(table, kind, place):
    """A key of its own for each table and kind."""
    number = (place * 397 + 31) % ROWS
    if kind == "extra-row":
        return [("w", "w001x"), ("k", place)]
    return [("w", f"w{number // 100:03d}"), ("k", number)]


def plant_all(running, kind, tables):
    """Stops r2, plants one fault in each table and serves it again; gives the keys."""
    region = running.region("r2")
    keys = {table: choose(table, kind, list(KINDS).index(kind) * 10 + place)
            for place, table in enumerate(tables)}
    if kind == "tombstone":
        verifying.await_lasting_tombstones(30)
        for table in tables:
            verifying.delete(running.regions[0], table, keys[table])
            verifying.level(running, table, running.regions[:1])
        deleted_at = time.time() * 1000
    with verifying.stopped(region):
        for table in tables:
            verifying.plant(running, region, table, keys[table], kind)
    if kind == "tombstone":
        for table in tables:
            verifying.verify_since(running, table, deleted_at)
    return keys


def assert_named(running, table, kind, key):
    """`verify` names the planted row and no other; the regions where nothing was planted agree."""
    if kind == "bit":
        verify(running, table, expect=ALIKE)
        report, _ = verify(running, table, "--deep", expect=DIFFERENT)
        places = [place["region"] for place in report["bad_on_disk"]]
        assert set(places) == {"r2"}, report
        assert [row for row, _ in verifying.named(report)] == [key], report["rows"]
        text = running.run("verify", table, "--regions", "r1,r2", "--deep", "--csv", check=False)
        lines = list(csv.DictReader(io.StringIO(text.stdout)))
        assert {"r2"} == {line["first"] for line in lines if line["row_class"] == "bad-on-disk"}
        assert str(dict(key)) in [str(json.loads(line["key"])) for line in lines if line["second"]]
    else:
        report, _ = verify(running, table, expect=DIFFERENT)
        rows = verifying.named(report)
        assert [row for row, _ in rows] == [key], rows
        assert KINDS[kind] in (None, rows[0][1]), rows
        assert report["rows"][0]["cells"], "its cells are named"
    verify(running, table, regions="r1,r3", expect=ALIKE)
    return report


def mend(running, table, kind, key):
    """A dry run changes nothing; then it is repaired, and alike."""
    if kind == "bit":
        region = running.region("r2")
        report, code = verifying.scrub(running, table, region)
        assert code == 1 and report["bad"] and report["repaired"] == 0
        report, code = verifying.scrub(running, table, region, "--repair")
        assert code == 0 and report["repaired"] >= 1
        verify(running, table, "--deep", expect=ALIKE)
        return
    dry = verifying.repair(running, table, "--dry-run")
    assert [row for row, _ in verifying.named(dry)] == [key]
    assert dry["dry_run"] is True and dry["repaired"] == 0
    verify(running, table, expect=DIFFERENT)
    done = verifying.repair(running, table)
    assert done["repaired"] == 1 and done["rows_left"] == 0
    verify(running, table, expect=ALIKE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_fault_is_named_alone_and_mended(loaded, kind):
    # With one writer tombstones are purged at once, so none can be lost.
    tables = [PEERS] if kind == "tombstone" else list(TABLES)
    before = {table: ledger.differing(loaded.regions[:1] * 2, table) for table in tables}
    assert not any(before.values())
    keys = plant_all(loaded, kind, tables)
    for table in tables:
        assert_named(loaded, table, kind, keys[table])
        mend(loaded, table, kind, keys[table])
    for table in tables:
        rows = [verifying.read(region, table, keys[table]) for region in loaded.regions]
        assert rows[0] == rows[1] == rows[2]
        assert (rows[0] is None) == (kind in ("extra-row", "tombstone"))


def test_faults_are_named_while_all_regions_write(loaded):
    with verifying.writing(loaded, PEERS) as writers:
        kinds = ["lost-row", "cell", "extra-row"]
        region = loaded.region("r2")
        keys = {kind: choose(PEERS, kind, 70 + place) for place, kind in enumerate(kinds)}
        verify(loaded, PEERS, expect=ALIKE, regions="r1,r2,r3")
        with verifying.stopped(region):
            for kind, key in keys.items():
                verifying.plant(loaded, region, PEERS, key, kind)
        for _ in range(5):
            report, _ = verify(loaded, PEERS, expect=DIFFERENT)
            rows = verifying.named(report)
            assert sorted(str(row) for row, _ in rows) == sorted(map(str, keys.values())), rows
            verify(loaded, PEERS, regions="r1,r3", expect=ALIKE)
        for _ in range(3):
            # What a writer touched meanwhile is left to the next try.
            if verifying.repair(loaded, PEERS, "--merge", check=False)["rows_left"] == 0:
                break
        report, _ = verify(loaded, PEERS)
        if not report["equal"]:
            # A merge keeps what only one side has; the extra row goes one way.
            verifying.repair(loaded, PEERS)
        for _ in range(5):
            verify(loaded, PEERS, regions="r1,r2,r3", expect=ALIKE)
    for writer in writers:
        assert writer.rows > 0, writer.refusals[-3:]
        for region in loaded.regions:
            cluster.wait_until(lambda writer=writer, region=region: not writer.losses(region),
                               f"{region.name} has what {writer.name} was told is written", 30)


def test_a_difference_is_noticed_without_being_asked_for(loaded):
    keys = plant_all(loaded, "cell", [ONE])

    def noticed():
        events = []
        for region in loaded.regions:
            told = loaded.run("events", "--json", config=region.config)
            events += json.loads(told.stdout)["events"]
        return [one for one in events if one["kind"] == "replicas-differ" and one["table"] == ONE]

    events = cluster.wait_until(noticed, "an event says that replicas differ", 20, 0.5)
    assert "r2" in events[0]["text"] and loaded.run("events").stdout
    mend(loaded, ONE, "cell", keys[ONE])


def test_a_region_that_is_away_leaves_the_question_open(loaded):
    with verifying.stopped(loaded.region("r2")):
        report, code = verify(loaded, ONE, "--wait", "1")
        assert code == COULD_NOT_TELL and report["equal"] is None and "r2" in report["reason"]
        text = loaded.run("verify", ONE, "--regions", "r1,r2", "--wait", "0", check=False)
        assert text.returncode == COULD_NOT_TELL
        assert text.stdout.startswith(f"COULD NOT TELL: {ONE} in r1 and r2: ")
        verify(loaded, ONE, regions="r1,r3", expect=ALIKE)
    verify(loaded, ONE, expect=ALIKE)


def test_digests_are_kept_through_the_death_of_all_regions(loaded):
    before = {table: verifying.digest_of(loaded.regions[0], loaded, table) for table in TABLES}
    with verifying.writing(loaded, PEERS):
        time.sleep(0.5)
        for region in loaded.regions:
            region.kill()
    for region in loaded.regions:
        region.start(wait=False)
    for region in loaded.regions:
        region.wait_serving()
        for table in TABLES:
            digest = verifying.digest_of(region, loaded, table)
            assert digest["state"] == "ready", f"{region.name} {table}: built anew? {digest}"
            assert digest["rows"] >= before[table]["rows"]
    assert "built anew" not in loaded.log_tail(1 << 20)
    for table in TABLES:
        verify(loaded, table, regions="r1,r2,r3", expect=ALIKE)
    # What the digests say is what the rows are.
    verify(loaded, PEERS, "--deep", regions="r1,r2,r3", expect=ALIKE)


def test_a_job_is_paused_cancelled_and_survives_a_restart(loaded):
    region = loaded.regions[0]
    client = region.client()
    client.create_table("wide", ledger.KEY)
    for batch in range(60):
        changes = [(1, [("w", "a"), ("k", batch * 100 + n)], [("t", f"{batch}{n}" * 800)])
                   for n in range(100)]
        assert client.batch_write("wide", changes) == [None] * 100
    client.close()

    def start():
        told = loaded.run("scrub", "wide", "--mib-per-second", "1", "--detach", "--json")
        return json.loads(told.stdout)["id"]

    def job(act, identity):
        return json.loads(loaded.run("job", act, identity, "--json").stdout)

    slow, other = start(), start()
    assert job("pause", slow)["state"] == "paused"
    assert job("cancel", other)["state"] == "cancelled"
    verifying.stop(region)
    region.start()
    assert job("show", slow)["state"] == "paused"
    assert job("resume", slow)["state"] == "running"
    region.kill()
    region.start()
    assert job("show", slow)["state"] == "running"
    assert job("cancel", slow)["state"] == "cancelled"
    running = json.loads(loaded.run("job", "list", "--running", "--json").stdout)["jobs"]
    assert running == [], "what was cancelled does not begin again"


def test_a_signal_cancels_the_job(loaded, tmp_path):
    command = [cluster.binary(), "scrub", "wide", "--mib-per-second", "1",
               "--config", loaded.regions[0].config]
    process = cluster.spawn(command, tmp_path / "log.txt", stdout=subprocess.DEVNULL)
    listed = cluster.wait_until(
        lambda: json.loads(loaded.run("job", "list", "--running", "--json").stdout)["jobs"],
        "the job runs", 10)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    cluster.end(process)
    assert "cancelled" in (tmp_path / "log.txt").read_text()
    shown = json.loads(loaded.run("job", "show", listed[0]["id"], "--json").stdout)
    assert shown["state"] == "cancelled"


def test_wrong_plants_are_refused_with_what_is_wrong(loaded):
    region = loaded.region("r3")
    key = [("w", "w001"), ("k", 101)]

    def refused(table, key, kind, *words):
        done = verifying.plant(loaded, region, table, key, kind, check=False)
        assert done.returncode in (1, 2) and done.stdout == "", done
        told = json.loads(done.stderr.splitlines()[-1])["error"]
        assert all(word in told for word in words), told

    refused(ONE, key, "cell", "runs")
    with verifying.stopped(region):
        refused("no_such_table", key, "cell", "no_such_table")
        refused(ONE, [("w", "w001"), ("k", ROWS + 5)], "lost-row", "no such row")
        for wrong in ([("w", "w001")], [("w", 1), ("k", 1)], [*key, ("x", 1)]):
            refused(ONE, wrong, "lost-row", '"w"', '"k"')
        refused(ONE, key, "extra-row", "there")
        refused(ONE, key, "tombstone", "tombstone")
    verify(loaded, ONE, regions="r1,r3", expect=ALIKE)


NAMES = ["w", "k", "v", "text", "f", "flag"]


def plain_rows(region, table):
    """Each row as a dictionary of its newest values, in no order."""
    client = region.client()
    found = [{**dict(key), **{cell[0]: cell[1] for cell in cells}}
             for key, cells in client.scan(table, ledger.KEY_NAMES)]
    client.close()
    return found[1::2] + found[::2]


def write_export(path, rows):
    if path.suffix == ".parquet":
        parquet_file.write(path, NAMES, rows)
    elif path.suffix == ".csv":
        text = io.StringIO()
        out = csv.DictWriter(text, NAMES, restval="")
        out.writeheader()
        for row in rows:
            out.writerow({name: str(value).lower() if value is True or value is False else value
                          for name, value in row.items()})
        path.write_text(text.getvalue())
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def exported(loaded):
    """A table that nothing else changes, and its rows."""
    verifying.make(loaded, "exported", "primary-secondary", ROWS)
    client = loaded.regions[0].client()
    for number, (name, _) in enumerate([("~marker", 0)]):
        client.delete_row("exported", [("w", name), ("k", number)])
    client.close()
    cluster.wait_until(
        lambda: verifying.read(loaded.regions[2], "exported", [("w", "~marker"), ("k", 0)]) is None,
        "the marker is gone everywhere")
    rows = plain_rows(loaded.regions[0], "exported")
    assert len(rows) == ROWS
    return rows


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_a_table_is_compared_with_its_export(loaded, exported, tmp_path, extension):
    file = tmp_path / f"export.{extension}"
    against = ["--against", str(file)]
    write_export(file, exported)
    for hash_name in ("blake3", "md5", "sha1", "sha256"):
        report, _ = verify(loaded, "exported", *against, "--hash", hash_name, regions=None,
                           expect=ALIKE)
        assert FIELDS <= set(report), FIELDS - set(report)
        assert report["hash"] == hash_name and report["left"]["hash"] == report["right"]["hash"]
    changed = [dict(row) for row in exported]
    lost, other = changed.pop(7), changed[11]
    other["v"] += 1
    added = {**changed[13], "k": 7_000_000}
    write_export(file, [*changed, added])
    report, _ = verify(loaded, "exported", *against, regions=None, expect=DIFFERENT)
    expected = {(str([("w", row["w"]), ("k", row["k"])]), kind)
                for row, kind in ((lost, "missing"), (other, "different"), (added, "extra"))}
    assert {(str(key), kind) for key, kind in verifying.named(report)} == expected
    cells = next(row["cells"] for row in report["rows"] if row["class"] == "different")
    assert [(cell["column"], cell[str(file)]) for cell in cells] == [("v", other["v"])]
    text = loaded.run("verify", "exported", *against, "--csv", check=False)
    assert text.returncode == DIFFERENT
    lines = list(csv.DictReader(io.StringIO(text.stdout)))
    assert {json.loads(line["key"])["k"] for line in lines} == {
        lost["k"], other["k"], 7_000_000}


def test_a_table_is_compared_with_another_endpoint(loaded, exported, folder):
    other = loaded.region("r3").endpoint
    report, _ = verify(loaded, "exported", "--against", other, regions=None, expect=ALIKE)
    assert report["versions"] == "all" and report["rows_read"] == 2 * ROWS
    with cluster.Cluster(regions=1, folder=folder) as single:
        region = single.regions[0]
        client = region.client()
        client.create_table("copy", ledger.KEY)
        for row in sorted(exported, key=lambda row: row["k"])[:20]:
            key = [("w", row["w"]), ("k", row["k"])]
            cells = [(name, value) for name, value in row.items() if name not in ("w", "k")]
            client.put_row("copy", key, cells)
        client.close()
        words = ["--against", region.endpoint, "--against-table", "copy", "--versions", "newest"]
        report, _ = verify(loaded, "exported", *words, regions=None, expect=DIFFERENT)
        assert report["rows_differing"] == report["rows_missing"] == ROWS - 20
    verify(loaded, "exported", "--against", "http://127.0.0.1:1", regions=None,
           expect=COULD_NOT_TELL)
