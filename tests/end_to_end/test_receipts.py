"""Receipts of writes: waiting until regions have them, and reads that are not older."""

import json
import threading

import cluster
import ledger
import pytest
import tablestore
import wire

WANTED = {"x-isthmus-receipt": "wanted"}


def prepare(running, table, serve="primary-secondary"):
    client = running.regions[0].client()
    client.create_table(table, ledger.KEY)
    client.close()
    running.make_global(table, serve)


def key(count):
    return [("w", "one"), ("k", count)]


def ask(client, operation, body, more):
    """(status, headers, error code or None) of a request with headers of ours."""
    headers = client.credentials.headers("/" + operation, body)
    status, told, data = client.raw(operation, body, {**headers, **more})
    return status, told, None if status == 200 else wire.read_error(data)[0]


def put(client, table, count, more=WANTED):
    body = wire.fields((1, table), (2, wire.row(key(count), [("v", count)])),
                       (3, wire.field(1, 0)))
    status, told, code = ask(client, "PutRow", body, more)
    assert status == 200, code
    return told.get("x-isthmus-receipt")


def get(client, table, count, receipt):
    body = wire.fields((1, table), (2, wire.row(key(count))), (5, 1))
    return ask(client, "GetRow", body, {"x-isthmus-after": receipt})


def wait(running, *words):
    done = running.run("wait", *words, "--json", check=False)
    return done.returncode, json.loads(done.stdout)


def test_a_receipt_is_waited_for_and_a_read_is_not_older(three):
    r1, r2, r3 = three.regions
    prepare(three, "named")
    one, two, far = (region.client() for region in three.regions)
    assert put(one, "named", 1, {}) is None, "who does not ask gets none"
    receipt = put(one, "named", 1)
    code, told = wait(three, "--receipt", receipt, "--regions", "r2,r3", "--timeout", "60s")
    assert (code, told["held"]) == (0, True)
    assert [one["region"] for one in told["regions"]] == ["r2", "r3"]
    for client in (one, two, far):
        assert get(client, "named", 1, receipt)[0] == 200

    # One of them does not get it.
    three.run("link", "pause", "--table", "named", "--to", "r3")
    cluster.wait_until(
        lambda: '"paused"' in three.run("status", "--json", config=r1.config).stdout, "it pauses"
    )
    receipt = put(one, "named", 2)
    code, told = wait(three, "--receipt", receipt, "--timeout", "1s")
    assert (code, told["held"]) == (1, False)
    held = {one["region"]: one["held"] for one in told["regions"]}
    assert held == {"r1": True, "r2": True, "r3": False}
    assert told["regions"][2]["reason"]
    assert get(two, "named", 2, receipt)[0] == 200
    assert get(far, "named", 2, receipt)[::2] == (503, "OTSPartitionUnavailable")
    assert far.get_row("named", key(2)) is None, "without the receipt it is older"

    # A read that waits is answered when the write comes.
    answers = []
    reader = r3.client()
    asking = threading.Thread(target=lambda: answers.append(get(reader, "named", 2, receipt)))
    asking.start()
    three.run("link", "resume", "--table", "named", "--to", "r3")
    asking.join(60)
    cluster.wait_until(lambda: get(far, "named", 2, receipt)[0] == 200, "r3 has it")
    # It outlives a restart, and says so in every region.
    r1.kill()
    r1.start()
    again = r2.cluster.run("wait", "--receipt", receipt, "--timeout", "60s", config=r2.config)
    assert again.stdout.count("has it") == 3
    assert wait(three, "--table", "named", "--timeout", "60s")[0] == 0
    for client in (one, two, far, reader):
        client.close()


def test_receipts_of_peers_and_batches_and_what_is_no_receipt(three):
    prepare(three, "peers", "peer-to-peer")
    prepare(three, "other")
    one, two, _ = (region.client() for region in three.regions)
    receipt = put(two, "peers", 1)
    cluster.wait_until(lambda: get(one, "peers", 1, receipt)[0] == 200, "r1 has the peer's write")
    rows = [(1, key(count), [("v", 1)]) for count in (2, 3)]
    parts = b"".join(
        wire.field(1, wire.fields((1, table)) + b"".join(
            wire.field(2, wire.fields((1, kind), (2, wire.row(row, cells)),
                                      (3, wire.field(1, 0))))
            for kind, row, cells in rows))
        for table in ("peers", "other"))
    status, told, code = ask(one, "BatchWriteRow", parts, WANTED)
    assert status == 200, code
    both = told["x-isthmus-receipt"]
    for table in ("peers", "other"):
        cluster.wait_until(lambda name=table: get(two, name, 3, both)[0] == 200, f"r2 has {table}")
    assert get(one, "other", 1, receipt)[::2] == (400, "OTSParameterInvalid")
    for wrong in ("", "none", receipt[:-1], receipt + "A", "AQEA"):
        assert get(one, "peers", 1, wrong)[::2] == (400, "OTSParameterInvalid"), wrong
    body = wire.fields((1, "peers"), (2, wire.row(key(1))), (5, 1))
    assert ask(one, "GetRow", body, WANTED)[::2] == (400, "OTSParameterInvalid")
    assert ask(one, "GetRow", body, {"x-isthmus-receipt": "yes"})[0] == 400
    assert ask(one, "ListTable", b"", {"x-isthmus-after": receipt})[0] == 400
    refused = three.run("wait", "--receipt", "none", "--regions", "r2", check=False)
    assert refused.returncode == 1 and "receipt" in refused.stderr
    refused = three.run("wait", "--receipt", receipt, "--regions", "r9", check=False)
    assert refused.returncode == 1 and "r9" in refused.stderr
    one.close()
    two.close()


def test_a_write_that_is_passed_on_brings_the_receipt_of_the_region_that_writes(three):
    prepare(three, "passed")
    three.run("switchover", "passed", "--to", "r2")
    one, _, far = (region.client(timeout=30) for region in three.regions)
    assert put(one, "passed", 1, {}) is None
    receipt = put(one, "passed", 1)
    assert receipt
    for client in (one, far):
        cluster.wait_until(lambda c=client: get(c, "passed", 1, receipt)[0] == 200, "it has it")
    code, told = wait(three, "--receipt", receipt, "--timeout", "60s")
    assert (code, told["held"]) == (0, True)
    assert [one["region"] for one in told["regions"]] == ["r1", "r2", "r3"]
    one.close()
    far.close()


class WithHeaders:
    """The connection of an SDK's client, with headers of ours; keeps those of the answers."""

    def __init__(self, client):
        self.send_receive, self.more, self.told = client.connection.send_receive, {}, {}
        client.connection.send_receive = self

    def __call__(self, query, headers, body):
        answer = self.send_receive(query, {**headers, **self.more}, body)
        self.told = {name.lower(): value for name, value in dict(answer[2]).items()}
        return answer


@pytest.mark.parametrize("serve", ["primary-secondary"])
def test_an_sdk_takes_receipts_with_a_header_more(three, serve):
    prepare(three, "sdk", serve)
    credentials = three.credentials
    clients = [
        tablestore.OTSClient(region.endpoint, credentials.key_id, credentials.secret,
                             credentials.instance, retry_policy=tablestore.NoRetryPolicy())
        for region in three.regions
    ]
    writer, reader = WithHeaders(clients[0]), WithHeaders(clients[1])
    writer.more = WANTED
    clients[0].put_row("sdk", tablestore.Row(key(1), [("v", 1)]))
    reader.more = {"x-isthmus-after": writer.told["x-isthmus-receipt"]}
    _, row, _ = clients[1].get_row("sdk", key(1), max_version=1)
    assert row.attribute_columns[0][:2] == ("v", 1)
