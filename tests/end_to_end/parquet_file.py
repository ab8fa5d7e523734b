"""Writes a plain Parquet file: one row group, PLAIN, not compressed, every column optional.

From the format's own description and with no library, so that what reads it is tested against
another reading of that description.
"""

import itertools
import struct

BOOLEAN, INT64, DOUBLE, BYTE_ARRAY = 0, 2, 5, 6
UTF8, PLAIN, RLE = 0, 0, 3
OPTIONAL = 1


def write(path, names, rows):
    """`rows` are dictionaries; a column has the type of its first value."""
    with open(path, "wb") as out:
        out.write(b"PAR1")
        chunks = []
        for name in names:
            values = [row.get(name) for row in rows]
            kind, text = kind_of(next(value for value in values if value is not None))
            page = levels(values) + data([v for v in values if v is not None])
            header = record(
                (1, i32(0)), (2, i32(len(page))), (3, i32(len(page))),
                (5, (12, record((1, i32(len(values))), (2, i32(PLAIN)), (3, i32(RLE)),
                                (4, i32(RLE))))),
            )
            at = out.tell()
            out.write(header + page)
            chunks.append((name, kind, text, at, len(header) + len(page)))
        footer = metadata(chunks, len(rows))
        out.write(footer + struct.pack("<I", len(footer)) + b"PAR1")


def kind_of(value):
    if isinstance(value, bool):
        return BOOLEAN, False
    if isinstance(value, int):
        return INT64, False
    if isinstance(value, float):
        return DOUBLE, False
    return BYTE_ARRAY, isinstance(value, str)


def levels(values):
    runs = b""
    for present, run in itertools.groupby(value is not None for value in values):
        runs += varint(len(list(run)) << 1) + bytes([present])
    return struct.pack("<I", len(runs)) + runs


def data(values):
    if isinstance(values[0], bool):
        bits = bytearray((len(values) + 7) // 8)
        for place, value in enumerate(values):
            bits[place // 8] |= value << place % 8
        return bytes(bits)
    if isinstance(values[0], int):
        return struct.pack(f"<{len(values)}q", *values)
    if isinstance(values[0], float):
        return struct.pack(f"<{len(values)}d", *values)
    raw = [value.encode() if isinstance(value, str) else bytes(value) for value in values]
    return b"".join(struct.pack("<I", len(one)) + one for one in raw)


def metadata(chunks, rows):
    schema = [record((4, binary("schema")), (5, i32(len(chunks))))]
    columns = []
    for name, kind, text, at, size in chunks:
        members = [(1, i32(kind)), (3, i32(OPTIONAL)), (4, binary(name))]
        schema.append(record(*members, *([(6, i32(UTF8))] if text else [])))
        inner = record(
            (1, i32(kind)), (2, listed(5, [zigzag(PLAIN), zigzag(RLE)])),
            (3, listed(8, [binary(name)[1]])), (4, i32(0)), (5, i64(rows)), (6, i64(size)),
            (7, i64(size)), (9, i64(at)),
        )
        columns.append(record((2, i64(at)), (3, (12, inner))))
    total = sum(size for *_, size in chunks)
    group = record((1, listed(12, columns)), (2, i64(total)), (3, i64(rows)))
    return record((1, i32(1)), (2, listed(12, schema)), (3, i64(rows)), (4, listed(12, [group])))


# Thrift's compact protocol: (type, bytes) of a member, in the order of their numbers.

def record(*members):
    out, before = b"", 0
    for number, (kind, value) in members:
        out += bytes([number - before << 4 | kind]) + value
        before = number
    return out + b"\0"


def listed(kind, items):
    size = bytes([len(items) << 4 | kind]) if len(items) < 15 else \
        bytes([0xF0 | kind]) + varint(len(items))
    return 9, size + b"".join(items)


def i32(number):
    return 5, zigzag(number)


def i64(number):
    return 6, zigzag(number)


def binary(text):
    return 8, varint(len(text.encode())) + text.encode()


def zigzag(number):
    return varint(number << 1 ^ number >> 63)


def varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])
