"""The table of bad inputs: for each its id, its bytes, and what it must get.

Ids are those of the project's list of bad inputs (IH framing, IA signatures, IB protobuf, IP
plainbuffer, IZ compression). A case's bytes are made when it runs, because dates must be fresh.
`t` is a table that must stay as it is; what a case may write goes to `scratch`.
"""

import dataclasses
import functools
import gzip
import struct
import typing
import zlib

import raw
import wire
from wire import field, fields

KEY = [("p", "a"), ("n", 1)]
BODY_LIMIT = 5 * 1024 * 1024
NO_ANSWER = 0


@dataclasses.dataclass
class Case:
    """One row of the table."""

    name: str
    data: typing.Callable  # context -> bytes, or a list of bytes
    status: set
    code: set = None
    message: str = None
    closes: bool = False
    answers: int = 1

    def __str__(self):
        return self.name


CASES = []
INVALID = {"OTSParameterInvalid"}
DENIED = {"OTSAuthFailed"}


def add(name, data, status, code=None, **more):
    status = {status} if isinstance(status, int) else status
    CASES.append(Case(name, data, status, code, **more))


def get_row(table="t", key=None, tail=b""):
    return fields((1, table), (5, 1), (2, wire.row(key or KEY))) + tail


def put_row(row, table="t", condition=0):
    return fields((1, table), (2, row), (3, field(1, condition)))


def call(operation, body, **more):
    """A well-signed request."""
    return lambda context: context.request(operation, body, **more)


def framing(name, head, body=b"", status=400, **more):
    """A signed ListTable or GetRow whose framing lines are `head`. Such errors close."""
    more.setdefault("closes", True)
    add(name, lambda context: context.request("GetRow", get_row(), lines=head, length=False,
                                              send_body=body), status, **more)


# --- IH: framing ---------------------------------------------------------------------------------

for method in ("GET", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"):
    add(f"IH1-{method}", call("GetRow", get_row(), method=method), 405, {"OTSMethodNotAllowed"})
add("IH1-CONNECT", lambda c: b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n",
    405, {"OTSMethodNotAllowed"})

GOOD = get_row()
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)
# Bodies in chunks are refused as "length required", whatever else is wrong with them: no byte of one
# is ever read. What is no body in chunks is refused before.
LENGTH_REQUIRED = 411
framing("IH2-length-then-chunked", [f"Content-Length: {len(GOOD)}", "Transfer-Encoding: chunked"],
        CHUNKED, LENGTH_REQUIRED)
framing("IH2-chunked-then-length", ["Transfer-Encoding: chunked", f"Content-Length: {len(GOOD)}"],
        CHUNKED, LENGTH_REQUIRED)
framing("IH3-two-lengths", [f"Content-Length: {len(GOOD)}", "Content-Length: 5"], GOOD)
for length in ("5, 6", "+5", "0x5", "-1", "99999999999999999999", "", "five", "5;6"):
    framing(f"IH3-length-{length}", [f"Content-Length: {length}"], GOOD)
# Space around a value is not part of it.
framing("IH3-length-with-space", [f"Content-Length: {len(GOOD)} "], GOOD, 200, closes=False)
for coding in ("xchunked", "chunked, identity", "identity", "\x0bchunked", "gzip"):
    framing(f"IH4-coding-{coding!r}", [f"Transfer-Encoding: {coding}"], CHUNKED)
for coding in ("gzip, chunked", "chunked, chunked"):
    framing(f"IH4-coding-{coding!r}", [f"Transfer-Encoding: {coding}"], CHUNKED, LENGTH_REQUIRED)
framing("IH4-space-before-colon", ["Transfer-Encoding : chunked"], CHUNKED)
framing("IH4-folded", ["Transfer-Encoding:", " chunked"], CHUNKED)
framing("IH4-tab-before-name", ["\tTransfer-Encoding: chunked"], CHUNKED)
TE = ["Transfer-Encoding: chunked"]
framing("IH5-size-overflow", TE, b"1" + b"0" * 16 + b"\r\n" + GOOD + b"\r\n0\r\n\r\n", LENGTH_REQUIRED)
framing("IH5-size-not-hex", TE, b"xyz\r\n" + GOOD + b"\r\n0\r\n\r\n", LENGTH_REQUIRED)
framing("IH5-size-negative", TE, b"-5\r\n" + GOOD + b"\r\n0\r\n\r\n", LENGTH_REQUIRED)
framing("IH5-missing-crlf", TE, b"%x\r\n%s0\r\n\r\n" % (len(GOOD), GOOD), LENGTH_REQUIRED)
framing("IH5-bare-lf", TE, b"%x\n%s\n0\n\n" % (len(GOOD), GOOD), LENGTH_REQUIRED)
framing("IH5-extension-1-mib", TE, b"%x;%s\r\n%s\r\n0\r\n\r\n" % (
    len(GOOD), b"e=" + b"x" * 1024 * 1024, GOOD), LENGTH_REQUIRED)
framing("IH5-10000-trailers", TE, b"%x\r\n%s\r\n0\r\n%s\r\n" % (
    len(GOOD), GOOD, b"x-ots-date: 1970\r\n" * 10000), LENGTH_REQUIRED)
framing("IH5-trailer-is-no-header", TE, b"%x\r\n%s\r\n0\r\nx-ots-instancename: other\r\n\r\n" % (
    len(GOOD), GOOD), LENGTH_REQUIRED)
framing("IH6-well-formed-chunks", TE, CHUNKED, LENGTH_REQUIRED)
framing("IH6-chunks-over-the-limit", TE, (b"100000\r\n" + b"x" * 0x100000 + b"\r\n") * 8
        + b"0\r\n\r\n", LENGTH_REQUIRED)
add("IH8-garbage-after-the-body",
    lambda c: c.request("GetRow", get_row()) + b"\x00\x01garbage\r\n\r\n", 400, closes=True,
    answers=2)
add("IH11-header-line-65-kib", call("GetRow", GOOD, lines=["x-filler: " + "x" * 65 * 1024]),
    431, closes=True)
add("IH11-200-headers", call("GetRow", GOOD, lines=[f"x-filler-{i}: x" for i in range(200)]),
    431, closes=True)
add("IH11-headers-of-1-mib", call("GetRow", GOOD, lines=["x-f: " + "x" * 1024] * 1024),
    431, closes=True)
for name, line in {
    "nul-in-value": b"x-other: a\x00b", "cr-in-value": b"x-other: a\rb",
    "nul-in-name": b"x\x00y: a",
    "empty-name": b": a", "space-in-name": b"x y: a", "no-colon": b"xyz", "high-name": b"x\xff: a",
    "delete-in-value": b"x-other: a\x7fb",
}.items():
    add(f"IH12-{name}", call("GetRow", GOOD, lines=[line]), 400, closes=True)
add("IH12-high-bytes-in-a-signed-header", call("GetRow", GOOD, lines=[b"x-ots-request-tag: \xff"]),
    403, DENIED)
add("IH13-no-host", lambda c: c.request("GetRow", GOOD).replace(b"Host: 127.0.0.1\r\n", b""), 400)
add("IH13-two-hosts", call("GetRow", GOOD, lines=["Host: a", "Host: b"]), 400)
add("IH13-host-with-credentials", call("GetRow", GOOD, lines=["Host: user:secret@127.0.0.1"]),
    200)
for path in ("//GetRow", "/GetRow/", "/getrow", "/%47etRow", "/../GetRow", "/./GetRow", "/",
             "/GetRow;x", "/GetRow%00", "/nothing"):
    add(f"IH14-path-{path}", call("GetRow", GOOD, path=path), 400, INVALID)
add("IH14-path-/Get Row", call("GetRow", GOOD, path="/Get Row"), 400)
add("IH14-query", call("GetRow", GOOD, path="/GetRow?x=1"), 400, INVALID,
    message="Unsupported operation: '/GetRow?x=1'.")
add("IH14-absolute-form", call("GetRow", GOOD, path="http://127.0.0.1/GetRow"), 400, INVALID)
add("IH14-authority-form", call("GetRow", GOOD, path="127.0.0.1:80"), 400, INVALID)
add("IH15-http-0.9", lambda c: b"POST /GetRow\r\n\r\n", 400, closes=True)
add("IH15-http-1.0", call("GetRow", GOOD, version="HTTP/1.0"), 200, closes=True)
add("IH15-http-3.0", call("GetRow", GOOD, version="HTTP/3.0"), 400, closes=True)
add("IH15-http-2-preface", lambda c: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00" * 64,
    NO_ANSWER, closes=True)
add("IH15-tls-hello", lambda c: bytes.fromhex("16030100c8010000c40303") + bytes(200),
    400, closes=True)
add("IH16-expect", call("GetRow", GOOD, lines=["Expect: 100-continue"]), 200)
add("IH16-upgrade-h2c", call("GetRow", GOOD, lines=[
    "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"]), 200)
add("IH16-upgrade-websocket", call("GetRow", GOOD, lines=[
    "Connection: Upgrade", "Upgrade: websocket"]), 200)
add("IH19-10-gb", lambda c: c.request("GetRow", GOOD, length=10 * 10**9, send_body=b""), 413,
    {"OTSRequestBodyTooLarge"}, closes=True)
def exact(size):
    """A GetRow of exactly this many bytes, by an unknown field."""
    for filler in range(size - len(GOOD) - 8, size):
        body = GOOD + field(1000, b"x" * filler)
        if len(body) == size:
            return body
    raise ValueError(size)


add("IH20-body-at-the-limit", lambda c: c.request("GetRow", exact(BODY_LIMIT)), 200)
add("IH20-body-over-the-limit", lambda c: c.request("GetRow", exact(BODY_LIMIT + 1)), 413,
    {"OTSRequestBodyTooLarge"})


# --- IA: signatures ------------------------------------------------------------------------------

REQUIRED = ("x-ots-date", "x-ots-apiversion", "x-ots-accesskeyid", "x-ots-instancename",
            "x-ots-contentmd5", "x-ots-signature")
for header in REQUIRED:
    add(f"IA1-missing-{header}", lambda c, h=header: c.request("GetRow", GOOD, without=[h]), 400,
        INVALID, message=f"Missing header: '{header}'.")
    add(f"IA1-empty-{header}", lambda c, h=header: c.request("GetRow", GOOD, replace={h: ""}), 400,
        INVALID, message=f"Missing header: '{header}'.")
    add(f"IA1-twice-{header}", lambda c, h=header: c.request("GetRow", GOOD, twice={h: None}), 400,
        INVALID, message=f"Duplicated header: '{header}'.")
    add(f"IA1-twice-differing-{header}",
        lambda c, h=header: c.request("GetRow", GOOD, twice={h: "other"}), 400, INVALID,
        message=f"Duplicated header: '{header}'.")
add("IA2-unknown-key", lambda c: c.request("GetRow", GOOD, sign={"key_id": "nobody"}), 403, DENIED,
    message="The AccessKeyID does not exist.")
add("IA2-wrong-secret", lambda c: c.request("GetRow", GOOD, sign={"secret": "wrong"}), 403, DENIED,
    message="Signature mismatch.")


def flipped(at):
    """Changes one character of a text."""
    def change(text):
        place = at % len(text)
        other = "A" if text[place] != "A" else "B"
        return text[:place] + other + text[place + 1:]
    return change


for name, change in {
    "first-byte": flipped(0), "last-byte": flipped(-2), "19-bytes": lambda s: s[:26],
    "21-bytes": lambda s: s[:-1] + "AAA=", "not-base64": lambda s: "!" * 28,
    "url-safe": lambda s: "-_" + s[2:], "no-padding": lambda s: s.rstrip("="),
    "trailing-bits": lambda s: s[:-2] + chr(ord(s[-2]) + 1) + "=", "hex": lambda s: "ab" * 20,
}.items():
    add(f"IA3-{name}", lambda c, f=change: c.request("GetRow", GOOD, change={"x-ots-signature": f}),
        403, DENIED, message="Signature mismatch.")
# Headers have a bound of their own, which comes first.
add("IA3-60-kib", lambda c: c.request(
    "GetRow", GOOD, change={"x-ots-signature": lambda s: s * 2100}), 431, closes=True)
add("IA4-body-changed", lambda c: c.request("GetRow", GOOD, send_body=GOOD[:-1] + b"!"), 403,
    DENIED, message="Mismatch between MD5 value of request body and x-ots-contentmd5 in header.")
add("IA4-md5-changed-too", lambda c: c.request(
    "GetRow", GOOD, send_body=GOOD + b"\x28\x01",
    replace={"x-ots-contentmd5": wire.md5_text(GOOD + b"\x28\x01")}), 403, DENIED)
for name, shift, status in (("early", -901, 403), ("late", 901, 403), ("just-early", -890, 200),
                            ("just-late", 890, 200), ("an-hour", -3600, 403)):
    add(f"IA5-{name}", lambda c, s=shift: c.request("GetRow", GOOD, date=wire.now_text(s)), status)
for date in ("0000-01-01T00:00:00.000Z", "9999-12-31T23:59:59.000Z"):
    add(f"IA5-{date}", call("GetRow", GOOD, date=date), 403, DENIED)
for date in ("2026-02-30T00:00:00.000Z", "2026-13-01T00:00:00.000Z", "2026-01-02T03:04:05.000",
             "2026-01-02T03:04:05+08:00", "2026-01-02 03:04:05Z", "yesterday", "2026-01-02",
             "1767323045", "2026-01-02T25:00:00Z", "-026-01-02T03:04:05Z",
             "2026-01-02T03:04:05.Z0"):
    add(f"IA5-{date}", call("GetRow", GOOD, date=date), 400, INVALID,
        message=f"Invalid date format: {date}.")
add("IA5-odd-fraction", lambda c: c.request(
    "GetRow", GOOD, date=wire.now_text().split(".")[0] + ".112010Z"), 200)
add("IA5-no-fraction", lambda c: c.request(
    "GetRow", GOOD, date=wire.now_text().split(".")[0] + "Z"), 200)
add("IA5-fraction-of-1000-digits", lambda c: c.request(
    "GetRow", GOOD, date=wire.now_text().split(".")[0] + "." + "1" * 1000 + "Z"), 200)
add("IA6-signed-for-another-operation", lambda c: c.request(
    "DeleteTable", field(1, "t"), sign_path="/GetRow"), 403, DENIED)
add("IA6-instance-added-twice", lambda c: c.request(
    "GetRow", GOOD, lines=["x-ots-instancename: other"]), 400, INVALID,
    message="Duplicated header: 'x-ots-instancename'.")
add("IA7-header-added-by-a-middle-man", lambda c: c.request(
    "GetRow", GOOD, lines=["x-ots-request-tag: added"]), 403, DENIED)
V4 = {"version": 4}
add("IA8-v4-is-accepted", lambda c: c.request("GetRow", GOOD, sign=V4), 200)
add("IA8-wrong-region", lambda c: c.request(
    "GetRow", GOOD, sign=V4, replace={"x-ots-signregion": "elsewhere"}), 403, DENIED)
add("IA8-wrong-day", lambda c: c.request(
    "GetRow", GOOD, sign=V4, replace={"x-ots-signdate": "20260101"}), 403, DENIED)
add("IA8-day-long-ago", lambda c: c.request("GetRow", GOOD, sign={**V4, "day": "20200101"}), 403,
    DENIED)
add("IA8-no-day", lambda c: c.request("GetRow", GOOD, sign=V4, without=["x-ots-signdate"]),
    400, INVALID, message="Missing header: 'x-ots-signdate'.")
add("IA8-day-malformed", lambda c: c.request("GetRow", GOOD, sign={**V4, "day": "today"}),
    400, INVALID, message="Invalid date format: today.")
add("IA8-good-v2-with-bad-v4", lambda c: c.request(
    "GetRow", GOOD, sign=V4, change={"x-ots-signaturev4": flipped(0)}, both=True), 403, DENIED)
add("IA8-good-v4-with-bad-v2", lambda c: c.request(
    "GetRow", GOOD, sign=V4, both=True, change={"x-ots-signature": flipped(0)}), 200)
add("IA8-v4-stripped", lambda c: c.request(
    "GetRow", GOOD, sign=V4, without=["x-ots-signaturev4"], both="other"), 403, DENIED)
add("IA12-another-instance", lambda c: c.request("GetRow", GOOD, sign={"instance": "other"}), 403,
    DENIED)
for table in ("../t", "demo/t", "t\x00", "\u0442", "T ", "t%00"):
    add(f"IA12-table-{table!r}", call("GetRow", get_row(table)), 400, INVALID)
UNSIGNED = "Missing header: 'x-ots-date'."
for path in ("/metrics", "/admin", "/debug/pprof/", "/debug/vars", "/status", "/v1/status",
             "/config", "/replication", "/dashboard", "/.env", "/api/v1/tables"):
    add(f"IA13-{path}", lambda c, p=path: f"GET {p} HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
        405, {"OTSMethodNotAllowed"})
    add(f"IA13-POST-{path}", lambda c, p=path: raw.request(p, {}), 400, INVALID, message=UNSIGNED)
for operation in ("GetRow", "PutRow", "CreateTable", "ListTable", "DescribeGlobalTable"):
    add(f"IA13-unsigned-{operation}", lambda c, o=operation: raw.request("/" + o, {}), 400, INVALID,
        message=UNSIGNED)
add("IA16-forged-token", lambda c: c.request("GetRow", GOOD, extra={"x-ots-ststoken": "forged"}),
    403, DENIED)

# --- IB: protobuf --------------------------------------------------------------------------------


def message(name, operation, body, status=400, code=INVALID):
    code = code if status == 400 else None
    add(name, call(operation, body), status, code)


message("IB2-varint-of-11-bytes", "GetRow", b"\x28" + b"\xff" * 10 + b"\x01")
message("IB2-varint-that-never-ends", "GetRow", GOOD + b"\xf8" + b"\xff" * 100)
for power in (31, 32, 40, 63):
    message(f"IB2-length-2^{power}", "GetRow", b"\x0a" + wire.varint(2**power) + b"t")
message("IB2-length-one-past-the-end", "GetRow", b"\x0a\x02t")
message("IB3-unknown-fields", "GetRow", GOOD + field(99, "x") + field(98, 5), 200)
message("IB3-unknown-fields-of-4-mib", "GetRow", GOOD + field(99, b"x" * 4 * 1024 * 1024), 200)
message("IB3-unknown-enum-value", "PutRow", put_row(wire.row(KEY, [("v", 9)]), condition=99))
message("IB3-wrong-wire-type", "GetRow", field(1, 5) + fields((2, wire.row(KEY)), (5, 1)))
message("IB3-field-number-0", "GetRow", GOOD + b"\x00\x01")
message("IB3-field-number-2^29", "GetRow", GOOD + wire.varint(2**29 << 3) + b"\x01")
message("IB3-group-not-ended", "GetRow", GOOD + b"\x9b\x06\x08\x01")
message("IB3-group-end-alone", "GetRow", GOOD + b"\x9c\x06")
message("IB3-wire-type-7", "GetRow", GOOD + b"\x9f\x06\x01")
PUT = {1: field(1, "t"), 2: field(2, wire.row(KEY, [("v", 9)])), 3: field(3, field(1, 0))}
for missing in PUT:
    message(f"IB4-PutRow-without-{missing}", "PutRow",
            b"".join(part for number, part in PUT.items() if number != missing))
GET = {1: field(1, "t"), 2: field(2, wire.row(KEY)), 5: field(5, 1)}
for missing in GET:
    message(f"IB4-GetRow-without-{missing}", "GetRow",
            b"".join(part for number, part in GET.items() if number != missing))
message("IB4-doubled-scalar-last-wins", "GetRow", field(1, "nothere") + GOOD, 200)


def nested(depth):
    """Filters in filters: NOT of NOT of ... of a comparison."""
    leaf = fields((1, 1), (2, "v"), (3, b"\x00" + struct.pack("<q", 1)), (4, 0), (5, 1))
    heads, size = [], len(leaf)
    for level in range(depth):
        # Filter{type, filter: Composite{combinator, sub_filters}}, written from the inside out.
        head = field(1, 1 if level == 0 else 2) + wire.varint(2 << 3 | 2) + wire.varint(size)
        size += len(head)
        heads.append(head)
        if level + 1 < depth:
            head = field(1, 1) + wire.varint(2 << 3 | 2) + wire.varint(size)
            size += len(head)
            heads.append(head)
    return b"".join(reversed(heads)) + leaf


message("IB5-depth-3", "GetRow", GOOD + field(7, nested(3)), 200)
for depth in (33, 100, 1000, 100000):
    message(f"IB5-depth-{depth}", "GetRow", GOOD + field(7, nested(depth)))
message("IB6-table-not-utf-8", "GetRow", field(1, b"\xff\xfe") + fields((2, wire.row(KEY)), (5, 1)))
message("IB6-column-not-utf-8", "GetRow", GOOD + field(3, b"\xed\xa0\x80"))
for operation in ("GetRow", "PutRow", "UpdateRow", "DeleteRow", "BatchGetRow", "BatchWriteRow",
                  "GetRange", "CreateTable", "DescribeTable", "UpdateTable", "DeleteTable",
                  "CreateGlobalTable", "DescribeGlobalTable", "BindGlobalTable",
                  "UnbindGlobalTable", "UpdateGlobalTable"):
    message(f"IB7-empty-{operation}", operation, b"")
    message(f"IB7-garbage-{operation}", operation, b"\xff" * 32)
message("IB7-ListTable-with-a-body", "ListTable", field(99, "x"), 200)


def options(**given):
    given = {"ttl": -1, "versions": 1, "dev": 5, **given}
    body = fields((1, given["ttl"]), (2, given["versions"]), (5, given["dev"]))
    meta = field(1, "bad") + field(2, fields((1, "p"), (2, 2)))
    return fields((1, meta), (2, field(1, fields((1, 0), (2, 0)))), (3, body))


for given in ({"ttl": 0}, {"ttl": -2}, {"ttl": 86399}, {"ttl": -(2**31)}, {"versions": 0},
              {"versions": -1}, {"dev": 0}, {"dev": -1}):
    message(f"IB8-{given}", "CreateTable", options(**given))
LOW, HIGH = [("p", wire.INF_MIN), ("n", wire.INF_MIN)], [("p", wire.INF_MAX), ("n", wire.INF_MAX)]


def get_range(start=LOW, end=HIGH, limit=None, direction=0, tail=b""):
    body = fields((1, "t"), (2, direction), (5, 1), (6, limit))
    return body + fields((7, wire.row(start)), (8, wire.row(end))) + tail


for limit, status in ((0, 400), (-1, 400), (-(2**31), 400), (2**31 - 1, 200)):
    message(f"IB8-limit-{limit}", "GetRange", get_range(limit=limit), status)
for name, time in {
    "start-after-end": fields((1, 5), (2, 4)), "negative": fields((1, -5), (2, 4)),
    "empty": b"", "both": fields((1, 1), (2, 2), (3, 3)), "specific-negative": field(3, -1),
}.items():
    message(f"IB8-time-{name}", "GetRow", GOOD + field(4, time))
message("IB9-no-table", "BatchWriteRow", b"")
message("IB9-negative-kind", "BatchWriteRow", field(1, field(1, "t") + field(2, fields(
    (1, -1), (2, wire.row(KEY, [("v", 9)])), (3, field(1, 0))))))
message("IB10-start-after-end", "GetRange", get_range(HIGH, LOW))
message("IB10-direction-9", "GetRange", get_range(direction=9))
message("IB10-infinity-in-the-middle", "GetRange", get_range([("p", wire.INF_MIN), ("n", 5)]))
message("IB10-incomplete-key", "GetRange", get_range([("p", wire.INF_MIN)]), 400,
        {"OTSInvalidPK", "OTSParameterInvalid"})
message("IB10-forged-token", "GetRange", get_range(tail=field(13, b"forged")))
message("IB10-forged-row-token", "GetRow", GOOD + field(10, b"\xff" * 40))
message("IB11-filter-is-garbage", "GetRow", GOOD + field(7, b"\xff\xff"))
message("IB11-filter-type-unknown", "GetRow", GOOD + field(7, fields((1, 9), (2, b""))))
message("IB11-composite-empty", "GetRow", GOOD + field(7, fields((1, 2), (2, field(1, 2)))))
message("IB11-value-is-garbage", "GetRow", GOOD + field(7, fields(
    (1, 1), (2, fields((1, 1), (2, "v"), (3, b"\x03\xff\xff\xff\xff"), (4, 0), (5, 1))))))

# --- IP: plainbuffer -----------------------------------------------------------------------------

ROW = wire.row(KEY, [("v", 9)])
PK_ROW = wire.row(KEY)


def rejected(name, row, code=INVALID, status=400):
    add(f"IP{name}", call("PutRow", put_row(row)), status, code)


def changed(name, row, code=INVALID):
    """The same for UpdateRow."""
    add(f"IP{name}", call("UpdateRow", put_row(row)), 400, code)


for head in (b"\x00\x00\x00\x00", b"\x76\x00\x00\x00", b"\x00\x00\x00\x75", b"\x75\x00\x00", b""):
    rejected(f"1-header-{head.hex()}", head + ROW[4:] if len(head) == 4 else head)
AT = ROW.index(b"\x04\x01\x00\x00\x00p") + 1  # the length of the first name
VALUE_AT = ROW.index(b"\x05\x06\x00\x00\x00\x03\x01\x00\x00\x00a") + 1
for length in (0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, len(ROW) - AT - 3, len(ROW)):
    rejected(f"3-name-length-{length:#x}", ROW[:AT] + struct.pack("<I", length) + ROW[AT + 4:])
    at = VALUE_AT + 5
    rejected(f"3-text-length-{length:#x}", ROW[:at] + struct.pack("<I", length) + ROW[at + 4:])
for length in (0, 1, 5, 7, 100, 0xFFFFFFFF):
    rejected(f"4-value-length-{length}",
             ROW[:VALUE_AT] + struct.pack("<I", length) + ROW[VALUE_AT + 4:])
rejected("5-row-checksum", ROW[:-1] + bytes([ROW[-1] ^ 1]))
CELL_CRC = ROW.index(b"a\x0a") + 2
rejected("5-cell-checksum", ROW[:CELL_CRC] + bytes([ROW[CELL_CRC] ^ 1]) + ROW[CELL_CRC + 1:])
rejected("5-cell-checksum-missing", ROW[:CELL_CRC - 1] + ROW[CELL_CRC + 1:])
rejected("5-cell-checksum-twice", ROW[:CELL_CRC + 1] + ROW[CELL_CRC - 1:])
rejected("5-row-checksum-missing", ROW[:-2])
rejected("5-row-checksum-twice", ROW + ROW[-2:])


def cell(name, data, timestamp=None, operation=None, fed=None):
    """A cell whose value bytes are given as they are."""
    name = name.encode() if isinstance(name, str) else name
    out = b"\x03\x04" + struct.pack("<I", len(name)) + name
    crc = wire.crc8(0, name)
    if data is not None:
        out += b"\x05" + struct.pack("<I", len(data)) + data
        crc = wire.crc8(crc, data if fed is None else fed)
    if operation is not None:
        out += bytes([0x06, operation])
    if timestamp is not None:
        out += b"\x07" + struct.pack("<q", timestamp)
        crc = wire.crc8(crc, struct.pack("<q", timestamp))
    if operation is not None:
        crc = wire.crc8(crc, bytes([operation]))
    return out + bytes([0x0A, crc]), crc


def row_of(*cells, key=KEY, middle=b""):
    out, crcs = wire.HEADER + b"\x01", []
    for name, value in key:
        part, crc = wire.cell(name, value)
        out += part
        crcs.append(crc)
    out += b"\x02" if cells else b""
    for part, crc in cells:
        out += part
        crcs.append(crc)
    return out + middle + bytes([0x09, wire.crc8(wire.crc8(0, crcs), b"\x00")])


NINE = b"\x00" + struct.pack("<q", 9)
for kind in (4, 5, 8, 0x0C, 0x80, 0xFF):
    rejected(f"6-type-{kind:#x}", row_of(cell("v", bytes([kind]) + bytes(8))))
for kind in (9, 10, 11):
    rejected(f"6-type-{kind:#x}-in-a-column", row_of(cell("v", bytes([kind]))))
rejected("6-boolean-2", row_of(cell("v", b"\x02\x02")))
rejected("6-text-not-utf-8", row_of(cell("v", b"\x03\x02\x00\x00\x00\xff\xfe")))
rejected("6-value-empty", row_of(cell("v", b"")))
PK_CODES = {"OTSInvalidPK", "OTSParameterInvalid"}
for name, key in {
    "none": [], "four": [(f"k{i}", "x") for i in range(4)],
    "five": [(f"k{i}", "x") for i in range(5)],
    "wrong-order": KEY[::-1], "wrong-name": [("q", "a"), ("n", 1)], "twice": [KEY[0], KEY[0]],
    "wrong-type": [("p", 1), ("n", 1)], "double": [("p", 1.5), ("n", 1)],
    "boolean": [("p", True), ("n", 1)], "infinity": [("p", wire.INF_MIN), ("n", 1)],
    "auto": [("p", "a"), ("n", wire.AUTO_INCREMENT)], "1025": [("p", "x" * 1025), ("n", 1)],
}.items():
    rejected(f"7-key-{name}", wire.row(key, [("v", 9)]), PK_CODES)
for name in (b"", b"1a", b"a-b", b"a b", b"x" * 256, b"\xff\xfe", "ä".encode(), b"a\x00"):
    rejected(f"8-name-{name[:8].hex()}", row_of(cell(name, NINE)))
rejected("8-column-twice", row_of(cell("v", NINE), cell("v", NINE)))
rejected("8-column-twice-at-one-time", wire.row(KEY, [("v", 1, 1), ("v", 2, 1)]))
rejected("8-column-named-like-a-key", wire.row(KEY, [("p", 1)]))
rejected("9-value-over-2-mib", wire.row(KEY, [("v", bytes(2 * 1024 * 1024 + 1))]))
COUNT_CODES = {"OTSParameterInvalid", "OTSOutOfColumnCountLimit"}
rejected("9-1025-columns", wire.row(KEY, [(f"c{i}", 1) for i in range(1025)]), COUNT_CODES)
rejected("9-10000-columns", wire.row(KEY, [(f"c{i}", 1) for i in range(10000)]), COUNT_CODES)
rejected("9-row-over-4-mib", wire.row(KEY, [(f"c{i}", bytes(1024 * 1024)) for i in range(4)]
                                     + [("d", bytes(1000))]),
         {"OTSParameterInvalid", "OTSOutOfRowSizeLimit"})
for stamp in (-1, 2**63 - 1, (2**63 - 1) // 1000, -(2**63), 1, 2**50):
    rejected(f"10-time-{stamp}", wire.row(KEY, [("v", 9, stamp)]))
changed("11-delete-version-without-time", row_of(cell("v", None, operation=3)))
changed("11-delete-all-with-value", row_of(cell("v", NINE, operation=1)))
changed("11-delete-version-with-value", row_of(cell("v", NINE, timestamp=5, operation=3)))
changed("11-increment-with-text", wire.row(KEY, [("v", "x", None, 4)]))
changed("11-increment-with-double", wire.row(KEY, [("v", 1.5, None, 4)]))
changed("11-increment-without-value", row_of(cell("v", None, operation=4)))
changed("11-increment-with-time", wire.row(KEY, [("v", 1, 5, 4)]))
changed("11-increment-overflows", wire.row(KEY, [("v", 2**63 - 1, None, 4)]))
changed("11-increment-of-text", wire.row(KEY, [("s", 1, None, 4)]))
for operation in (0, 2, 5, 0xFF):
    changed(f"11-operation-{operation}", row_of(cell("v", NINE, operation=operation)))
changed("11-no-columns", PK_ROW)
rejected("11-operation-in-a-put", row_of(cell("v", NINE, operation=4)))
rejected("12-two-rows", ROW + wire.row([("p", "b"), ("n", 1)], [("v", 9)], header=False))
rejected("12-trailing-bytes", ROW + b"\x01")
rejected("12-delete-marker-in-a-put", wire.row(KEY, [("v", 9)], delete=True))
rejected("12-no-row", wire.HEADER)
rejected("12-empty", b"")
# The official Node SDK fills its buffers up with zeros behind the row.
add("IP12-zeros-behind-the-row", call("PutRow", put_row(ROW + bytes(8), "scratch")), 200)
add("IP12-delete-with-columns", call("DeleteRow", put_row(wire.row(KEY, [("v", 9)], True))), 400)
add("IP12-get-with-columns", call("GetRow", fields((1, "t"), (2, ROW), (5, 1))), 400)
SEQUENCE = bytes.fromhex("0b180000000c130000000d000000000e7b401e18240a06000f01000000")
rejected("13-extension", row_of(cell("v", NINE), middle=SEQUENCE))
rejected("13-extension-length", row_of(cell("v", NINE), middle=b"\x0b\xff\xff\xff\x7f"))

# --- IZ: compression -----------------------------------------------------------------------------


def packed(body, size, kind="deflate"):
    extra = {"x-ots-request-compress-type": kind}
    if size is not None:
        extra["x-ots-request-compress-size"] = str(size)
    return lambda c: c.request("GetRow", body() if callable(body) else body, extra=extra)


@functools.lru_cache(1)
def bomb():
    """A gibibyte of zeros in a mebibyte."""
    packer, zeros = zlib.compressobj(9), bytes(1024 * 1024)
    return b"".join(packer.compress(zeros) for _ in range(1024)) + packer.flush()


SMALL = zlib.compress(GOOD)
add("IZ0-a-compressed-request", packed(SMALL, len(GOOD)), 200)
for size in (2**30, 2**63):
    for name, body in (("bomb-", bomb), ("", SMALL)):
        add(f"IZ1-{name}declared-{size}", packed(body, size), 413, {"OTSRequestBodyTooLarge"})
for size in (1, -1, None, "x", len(GOOD)):
    add(f"IZ1-bomb-declared-{size}", packed(bomb, size), 400, INVALID)
for size in (1, len(GOOD) - 1, len(GOOD) + 1, -1, None, "x"):
    add(f"IZ1-declared-{size}", packed(SMALL, size), 400, INVALID)
add("IZ2-truncated", packed(SMALL[:-5], len(GOOD)), 400)
add("IZ2-wrong-sum", packed(SMALL[:-1] + bytes([SMALL[-1] ^ 1]), len(GOOD)), 400)
add("IZ2-raw", packed(SMALL[2:-4], len(GOOD)), 400)
add("IZ2-gzip", packed(gzip.compress(GOOD), len(GOOD)), 400)
add("IZ2-twice", packed(zlib.compress(SMALL), len(SMALL)), 400)
add("IZ2-trailing-bytes", packed(SMALL + b"x", len(GOOD)), 400)
add("IZ2-not-packed", packed(GOOD, len(GOOD)), 400)


def with_dictionary():
    packer = zlib.compressobj(zdict=b"dictionary")
    return packer.compress(GOOD) + packer.flush()


add("IZ2-dictionary", packed(with_dictionary(), len(GOOD)), 400)
add("IZ3-unknown-type", packed(SMALL, len(GOOD), "zstd"), 400, INVALID)
add("IZ3-type-in-odd-case", packed(SMALL, len(GOOD), "DeFlAtE"), 400, INVALID)
add("IZ3-answer-type-in-odd-case", lambda c: c.request(
    "GetRow", GOOD, extra={"x-ots-response-compress-type": "ZSTD"}), 200)
