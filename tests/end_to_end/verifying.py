"""Tables to compare, and the commands that compare, plant and repair, as the tests call them."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import time

import cluster
import flights
import ledger
import tablestore

ALIKE, DIFFERENT, COULD_NOT_TELL = 0, 1, 2


def cells_of(number):
    cells = [("v", number), ("text", f"row {number} " + "x" * (number % 40)), ("f", number / 8)]
    return cells + [("flag", number % 2 == 0)] if number % 5 else cells


def rows(count):
    """[(key, cells)] in the table's order, keys as of `ledger`."""
    return [([("w", f"w{n // 100:03d}"), ("k", n)], cells_of(n)) for n in range(count)]


def make(running, table, serve, count):
    """A global table with rows, written through the SDK: where peers write, by all of them."""
    client = running.regions[0].client()
    client.create_table(table, ledger.KEY)
    client.close()
    running.make_global(table, serve)
    writers = running.regions if serve == "peer-to-peer" else running.regions[:1]
    write(running, table, writers, count)
    level(running, table, writers)


def write(running, table, writers, count):
    """Puts so many rows through the SDK, a part of them in each of the regions `writers`."""
    every = rows(count)
    for place, region in enumerate(writers):
        credentials = running.credentials
        sdk = flights.make_client(
            (region.endpoint, credentials.key_id, credentials.secret, credentials.instance))
        items = [tablestore.PutRowItem(tablestore.Row(key, cells), tablestore.Condition("IGNORE"))
                 for key, cells in every[place :: len(writers)]]
        flights.write(sdk, table, items)


def level(running, table, writers):
    """Waits until all regions have what these had accepted."""
    clients = [region.client() for region in running.regions]
    cluster.await_alike(
        clients, [clients[running.regions.index(one)] for one in writers], table,
        ledger.KEY_NAMES, ledger.filler,
    )
    for client in clients:
        client.close()


def verify(running, table, *arguments, regions="r1,r2", expect=None, asked=None):
    """The report and the exit code of `isthmus verify`."""
    words = ["verify", table, *(["--regions", regions] if regions else []), "--json", *arguments]
    done = running.run(*words, check=False, config=asked and asked.config)
    shown = f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    report = json.loads(done.stdout) if done.stdout.strip() else None
    if expect is not None:
        assert done.returncode == expect, shown
    if report is not None:
        told = {True: ALIKE, False: DIFFERENT, None: COULD_NOT_TELL}[report["equal"]]
        assert done.returncode == told or damaged(report), shown
    return report, done.returncode


def verify_since(running, table, since, *arguments):
    """The report of a comparison that covers what was written by then, in milliseconds: just after
    a region has come back it may be of some seconds before."""
    def later():
        report, _ = verify(running, table, *arguments)
        marks = report["watermarks"].values() if report else []
        as_of = [int(one["hlc"]) >> 16 for one in marks]
        return report if as_of and min(as_of) >= since else None

    return cluster.wait_until(later, "the comparison is of later", 30)


def damaged(report):
    return bool(report["bad_on_disk"] or report["tree_wrong"])


def key_of(row):
    """A reported key as the harness has it."""
    key = row["key"]
    if isinstance(key, dict):
        return list(key.items())
    return [(part["name"], part["value"]) for part in key]


def named(report):
    """[(key, class)] of all differing rows of a report."""
    assert report["rows_differing"] == len(report["rows"]) and not report["more"]
    return [(key_of(row), row["class"]) for row in report["rows"]]


def repair(running, table, *arguments, check=True, to="r2"):
    done = running.run("repair", table, "--from", "r1", "--to", to, "--json", *arguments,
                       check=check)
    return json.loads(done.stdout)


def scrub(running, table, region, *arguments):
    """The report and the exit code of `isthmus scrub` in a region."""
    done = running.run("scrub", table, "--json", *arguments, config=region.config, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout), done.returncode


def scrub_all(running, region):
    """The same of all tables."""
    done = running.run("scrub", "--json", config=region.config, check=False)
    return json.loads(done.stdout), done.returncode


def plant(running, region, table, key, kind, check=True):
    return running.run("debug", "plant", "--table", table, "--key", json.dumps(dict(key)),
                       "--kind", kind, "--json", config=region.config, check=check)


def stop(region):
    """Ends one region as an operator would; the others go on."""
    pid = region.pid
    if region.process is not None:
        assert cluster.end(region.process) == 0
        region.process = None
        return
    os.kill(pid, signal.SIGTERM)
    cluster.wait_until(lambda: not cluster.alive(pid), f"{region.name} has stopped", 30)


@contextlib.contextmanager
def stopped(region):
    """Stops a region for a while."""
    stop(region)
    try:
        yield
    finally:
        region.start()


def settings(region, text):
    """Adds to the configuration that a region had at first; what was added before is gone."""
    file, first = pathlib.Path(region.config), pathlib.Path(f"{region.config}.first")
    if not first.exists():
        shutil.copyfile(file, first)
    file.write_text(f"{first.read_text()}\n{text}\n")


def configure(running, text, regions=None):
    """The same with regions, all by default, that run: they are started again."""
    regions = regions or running.regions
    for region in regions:
        stop(region)
        settings(region, text)
    for region in regions:
        region.start(wait=False)
    for region in regions:
        region.wait_serving()


# Where faults must be found by the test and by nobody else.
NO_SCRUB = "[scrub]\nmib_per_second = 0"


def events(running, kind, table, regions=None):
    """What regions, all by default, have noticed of a table, newest first."""
    found = []
    for region in regions or running.regions:
        told = running.run("events", "--kind", kind, "--table", table, "--json",
                           config=region.config, check=False)
        if told.returncode == 0:
            found += [one for one in json.loads(told.stdout)["events"]
                      if one["region"] == region.name]
    return found


@contextlib.contextmanager
def writing(running, table, regions=None):
    """Writes in regions, all by default, meanwhile; gives the writers."""
    writers = [ledger.Writer(region, table, region.name) for region in regions or running.regions]
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.stop()


def read(region, table, key):
    client = region.client()
    try:
        return client.get_row(table, key)
    finally:
        client.close()


def delete(region, table, key):
    client = region.client()
    try:
        client.delete_row(table, key)
    finally:
        client.close()


# Tombstones of the same 2^20 milliseconds are forgotten together, when these are over everywhere.
FORGOTTEN_TOGETHER = (1 << 20) / 1000


def await_lasting_tombstones(seconds):
    """Waits, where need be, so that what is deleted now is not forgotten for so long: a tombstone
    that was lost and that all others have forgotten is no difference."""
    left = FORGOTTEN_TOGETHER - time.time() % FORGOTTEN_TOGETHER
    if left < seconds:
        time.sleep(left + 1)


def digest_of(region, running, table):
    """What a region says of its digest of a table, or nothing while it cannot be asked."""
    try:
        told = running.run("status", "--json", "--table", table, config=region.config)
    except RuntimeError:
        return None
    status = json.loads(told.stdout)["regions"][0]["status"]
    return status and next(one["digest"] for one in status["tables"] if one["name"] == table)
