"""Inputs that are spoiled at every byte or tag, and clients that are slow, many, or gone."""

import concurrent.futures
import os
import socket
import struct
import time

import cases
import cluster
import pytest
import raw
import wire
from wire import field, fields

WRITE = wire.row(cases.KEY, [("v", 99), ("w", "text"), ("b", b"\x01"), ("d", 1.5), ("o", True)])
META = field(1, "made") + field(2, fields((1, "p"), (2, 2)))
TABLE = fields((2, field(1, fields((1, 0), (2, 0)))), (3, fields((1, -1), (2, 1))), (1, META))
CHANGE = fields((2, wire.row(cases.KEY, [("v", 99)])), (1, 1), (3, field(1, 0)))
# Each ends with a required field, so that no shorter message is complete.
WHOLE = {
    "GetRow": cases.get_row(),
    "PutRow": cases.put_row(WRITE),
    "UpdateRow": cases.put_row(wire.row(cases.KEY, [("v", 1, None, wire.INCREMENT)])),
    "DeleteRow": cases.put_row(wire.row(cases.KEY, delete=True)),
    "GetRange": cases.get_range(),
    "BatchGetRow": field(1, fields((5, 1), (1, "t"), (2, wire.row(cases.KEY)))),
    "BatchWriteRow": field(1, fields((1, "t"), (2, CHANGE))),
    "CreateTable": TABLE,
    "DescribeTable": field(1, "t"),
    "UpdateTable": fields((3, field(2, 3)), (1, "t")),
    "DeleteTable": field(1, "t"),
}


@pytest.mark.parametrize("operation", WHOLE)
def test_ib1_messages_cut_at_every_byte(region, context, unharmed, operation):
    client, whole = region.client(), WHOLE[operation]
    for size in range(len(whole)):
        status, _, body = client.raw(operation, whole[:size])
        assert status == 400, (size, status, body)
        assert wire.read_error(body)[0] in ("OTSParameterInvalid", "OTSInvalidPK"), (size, body)
    client.close()


def test_ip2_every_byte_at_every_tag(region, context, unharmed):
    client = region.client()
    tags = [at for at, byte in enumerate(WRITE) if is_tag(at)]
    assert len(tags) > 20
    for at in tags:
        for byte in range(256):
            if byte == WRITE[at]:
                continue
            row = WRITE[:at] + bytes([byte]) + WRITE[at + 1:]
            status, _, body = client.raw("PutRow", cases.put_row(row))
            assert status == 400, (at, byte, status, body)
    client.close()


def is_tag(at):
    return at in _TAGS


def _tags():
    """Where the tags stand in WRITE."""
    found, at = set(), 4
    while at < len(WRITE):
        tag = WRITE[at]
        found.add(at)
        if tag in (0x04, 0x05):
            at += 5 + struct.unpack_from("<I", WRITE, at + 1)[0]
        else:
            at += {0x01: 1, 0x02: 1, 0x03: 1, 0x07: 9, 0x09: 2, 0x0A: 2}[tag]
    return found


_TAGS = _tags()


def test_ip_rows_cut_at_every_byte(region, context, unharmed):
    client = region.client()
    for size in range(len(WRITE)):
        status, _, body = client.raw("PutRow", cases.put_row(WRITE[:size]))
        assert status == 400, (size, status, body)
    client.close()


def test_ip_every_bit_flipped_is_refused_or_another_row(region, context, unharmed):
    # A checksum of 8 bits misses some pairs of errors, but never a single bit.
    client = region.client()
    for at in range(len(WRITE)):
        for bit in range(8):
            row = WRITE[:at] + bytes([WRITE[at] ^ 1 << bit]) + WRITE[at + 1:]
            status, _, body = client.raw("PutRow", cases.put_row(row))
            assert status == 400, (at, bit, status, body)
    client.close()


def test_ia9_ia10_an_identical_request_is_applied_again(region, context, unharmed):
    client = region.client()
    key = [("p", "replay"), ("n", 1)]
    client.put_row("scratch", key, [("v", 0)])
    change = wire.row(key, [("v", 1, None, wire.INCREMENT)])
    data = context.request("UpdateRow", cases.put_row(change, "scratch"))
    for _ in range(5):
        assert context.send(data).status == 200
    assert client.get_row("scratch", key)[1][0][:2] == ("v", 5)
    client.close()


def test_ih18_a_client_that_goes_leaves_a_whole_row_or_none(region, context, unharmed):
    client = region.client()
    cells = [(f"c{number:03d}", "x" * 100) for number in range(200)]
    for number in range(60):
        key = [("p", "reset"), ("n", number)]
        data = context.request("PutRow", cases.put_row(wire.row(key, cells), "scratch"))
        cut = len(data) if number % 2 else len(data) * number // 60
        connection = raw.connect(context.endpoint)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(data[:cut])
        connection.close()
    time.sleep(1)
    for number in range(60):
        found = client.get_row("scratch", [("p", "reset"), ("n", number)])
        assert found is None or [one[:2] for one in found[1]] == cells
        if not number % 2:
            assert found is None
    client.close()


def test_slow_clients_are_ended_and_hinder_nobody(region, context, unharmed):
    """IH7, IH9 and IH10 at once, so that their deadlines pass together."""
    client = region.client()
    for number in range(4):
        key = [("p", "big"), ("n", number)]
        client.put_row("scratch", key, [("v", bytes(1024 * 1024))])
    client.close()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        short = [pool.submit(short_body, context) for _ in range(2)]
        slow = [pool.submit(slow_headers, context) for _ in range(6)]
        dribble = [pool.submit(slow_reader, context) for _ in range(4)]
        good = pool.submit(good_requests, region)
        for one in short:
            outcome = one.result(120)
            assert outcome.status == 408
            assert outcome.answers[-1].error()[0] == "OTSRequestTimeout"
            assert outcome.closed
        assert all(one.result(120) for one in slow), "slow headers are cut off"
        assert all(one.result(180) for one in dribble), "slow readers are cut off"
        assert good.result(120) == 200


def short_body(context):
    data = context.request("GetRow", cases.GOOD, length=len(cases.GOOD) + 10)
    return context.send(data, seconds=45, wait_close=True)


def slow_headers(context):
    """Whether the server ends a connection whose headers never end."""
    with raw.connect(context.endpoint, 1) as connection:
        limit = time.monotonic() + 40
        connection.sendall(b"POST /GetRow HTTP/1.1\r\nHost: a\r\n")
        while time.monotonic() < limit:
            try:
                connection.sendall(b"x")
                if connection.recv(4096) == b"":
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
    return False


def slow_reader(context):
    """Whether the server ends a connection that takes a 4 MiB answer one byte a second."""
    low, high = [("p", "big"), ("n", wire.INF_MIN)], [("p", "big"), ("n", wire.INF_MAX)]
    body = fields((1, "scratch"), (2, 0), (5, 1), (7, wire.row(low)), (8, wire.row(high)))
    with raw.connect(context.endpoint, 5, receive_bytes=2048) as connection:
        connection.sendall(context.request("GetRange", body))
        limit = time.monotonic() + 120
        while time.monotonic() < limit:
            try:
                if connection.recv(1) == b"":
                    return True
                # A closed connection still hands out what it had received; a write tells.
                connection.send(b"\r\n")
            except TimeoutError:
                continue
            except OSError:
                return True
            time.sleep(1)
    return False


def good_requests(region):
    client, done = region.client(), 0
    for _ in range(200):
        assert client.get_row("t", cases.KEY) is not None
        done += 1
        time.sleep(0.05)
    client.close()
    return done


def test_ih17_many_idle_connections_and_churn(region, context, unharmed):
    idle = []
    try:
        for _ in range(800):
            idle.append(raw.connect(context.endpoint))
        client = region.client()
        assert client.get_row("t", cases.KEY) is not None
        client.close()
        for _ in range(500):
            raw.connect(context.endpoint).close()
    finally:
        for connection in idle:
            connection.close()
    client = region.client()
    assert client.get_row("t", cases.KEY) is not None
    client.close()

    def few():
        path = f"/proc/{region.pid}/fd"
        return len(os.listdir(path)) < 400

    cluster.wait_until(few, "connections that ended give their descriptors back", 30)


def test_ia18_nothing_secret_and_no_control_bytes_in_logs(region, context, unharmed):
    agent = "\x1b[31mred" + "x" * 4000
    for lines in ([f"User-Agent: {agent}"], ["x-ots-sdk-traceid: \x1b[2J"]):
        context.send(context.request("GetRow", cases.GOOD, lines=lines))
    signature = context.request("GetRow", cases.GOOD).split(b"x-ots-signature: ")[1][:20]
    context.send(context.request("GetRow", cases.GOOD, sign={"secret": "wrong"}))
    folder = region.cluster.data
    logs = [path for path in folder.rglob("log*") if path.is_file()] + [region.cluster.log]
    assert len(logs) > 1, "the region keeps a log"
    for path in logs:
        text = path.read_bytes()
        assert context.told.secret.encode() not in text, path
        assert signature not in text, path
        assert b"\x1b[31mred" not in text, path
        assert b"\x1b[2J" not in text, path
