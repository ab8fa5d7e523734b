"""IP9: batches of the smallest cells, which the server carries out in parts."""

import string

import cases
import pytest
import wire
from wire import field, fields

ROWS, CELLS = 200, 1024
PUT = 1
FIRST = string.ascii_letters + "_"
NAMES = [a + b for a in FIRST for b in FIRST + string.digits][:CELLS]


def row_write(key, names=NAMES):
    row = wire.row(key, [(name, True) for name in names])
    return field(2, fields((1, PUT), (2, row), (3, field(1, 0))))


def key(number):
    return [("p", "small"), ("n", number)]


@pytest.fixture(scope="module")
def small(region, context):
    client = region.client(timeout=60)
    yield client
    client.close()


def results(body):
    """Per table of the answer its name and, per row, its error or None."""
    found = []
    for table in wire.read_message(body)[1]:
        table = wire.read_message(table)
        rows = [wire.read_message(row) for row in table[2]]
        found.append((table[1][0].decode(),
                      [None if row[1][0] else wire.read_error(row[2][0]) for row in rows]))
    return found


def count(client, table):
    return sum(1 for _ in client.scan(table, ["p", "n"], 100))


def test_ip9_a_batch_of_the_smallest_cells_is_answered_row_by_row(small, unharmed):
    # Two tables in turns, and one row that is refused in the middle.
    refused = 120
    body = b""
    for table, numbers in (("small", range(90)), ("scratch", range(3)),
                           ("small", range(90, ROWS - 3))):
        rows = [row_write(key(number), ["1a"] if number == refused else NAMES)
                for number in numbers]
        body += field(1, field(1, table) + b"".join(rows))
    status, _, answer = small.raw("BatchWriteRow", body)
    assert status == 200, answer[:200]
    found = results(answer)
    assert [(name, len(rows)) for name, rows in found] == [
        ("small", 90), ("scratch", 3), ("small", ROWS - 93)]
    failed = [(table, place) for table, (_, rows) in enumerate(found)
              for place, error in enumerate(rows) if error is not None]
    assert failed == [(2, refused - 90)]
    assert found[2][1][refused - 90][0] == "OTSParameterInvalid"
    assert count(small, "small") == ROWS - 3 - 1
    _, cells = small.get_row("small", key(ROWS - 4))
    assert sorted(cell[0] for cell in cells) == sorted(NAMES)


@pytest.mark.parametrize("spoil", ["checksum", "table"])
def test_ip9_what_refuses_such_a_batch_refuses_all_of_it(small, unharmed, spoil):
    before = count(small, "small")
    rows = [row_write(key(1000 + number)) for number in range(ROWS - 1)]
    last = row_write(key(2000))
    if spoil == "checksum":
        at = last.rindex(b"\x09") + 1
        last = last[:at] + bytes([last[at] ^ 1]) + last[at + 1:]
    table = "small" if spoil == "checksum" else "nothere"
    body = field(1, field(1, "small") + b"".join(rows)) + field(1, field(1, table) + last)
    status, _, answer = small.raw("BatchWriteRow", body)
    assert (status, wire.read_error(answer)[0]) == (
        (400, "OTSParameterInvalid") if spoil == "checksum" else (404, "OTSObjectNotExist"))
    assert count(small, "small") == before
    assert len(body) < cases.BODY_LIMIT
