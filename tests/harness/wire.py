"""The client's wire protocol, written once more by hand.

The suites that test bytes (bad input), operations that no SDK for this language has (global tables)
and loaders that must tell "refused" from "unknown" (crashes) need a client with nothing hidden in
it. It shares no code with the server, so that one mistake cannot be made twice in the same way.

What must hold: every call ends within its timeout; an answer that is not a well-formed answer is
`Unknown`, never success; `Refused` means the server said no.
"""

import base64
import datetime
import hashlib
import hmac
import http.client
import struct
import time
import urllib.parse

# --- protobuf -----------------------------------------------------------------------------------


def varint(number):
    """An unsigned number; negative ones as 64 bit two's complement, as protobuf does."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, value):
    """One field: bytes and text are length-delimited, the rest are varints. None is left out."""
    if value is None:
        return b""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, (bytes, bytearray)):
        return varint(number << 3 | 2) + varint(len(value)) + bytes(value)
    return varint(number << 3) + varint(int(value))


def fields(*pairs):
    """Several fields, in the order given."""
    return b"".join(field(number, value) for number, value in pairs)


def read_varint(data, at):
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def read_message(data):
    """Field number -> list of raw values (int or bytes)."""
    out, at = {}, 0
    while at < len(data):
        key, at = read_varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = read_varint(data, at)
        elif kind == 2:
            size, at = read_varint(data, at)
            if at + size > len(data):
                raise ValueError("length beyond the end")
            value, at = bytes(data[at : at + size]), at + size
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = bytes(data[at : at + size]), at + size
        else:
            raise ValueError(f"wire type {kind}")
        out.setdefault(key >> 3, []).append(value)
    return out


def signed(number):
    """A varint read as int64."""
    return number - (1 << 64) if number >= 1 << 63 else number


# --- plainbuffer --------------------------------------------------------------------------------

HEADER = struct.pack("<I", 0x75)
INF_MIN, INF_MAX, AUTO_INCREMENT = object(), object(), object()
BARE = {INF_MIN: 0x09, INF_MAX: 0x0A, AUTO_INCREMENT: 0x0B}
DELETE_ALL, DELETE_ONE, INCREMENT = 0x01, 0x03, 0x04


def _crc_table():
    table = []
    for index in range(256):
        value = index
        for _ in range(8):
            value = ((value << 1) ^ 0x07 if value & 0x80 else value << 1) & 0xFF
        table.append(value)
    return table


CRC_TABLE = _crc_table()


def crc8(start, data):
    for byte in data:
        start = CRC_TABLE[start ^ byte]
    return start


def variant(value):
    """Type byte and payload."""
    if any(value is bare for bare in BARE):
        return bytes([BARE[value]])
    if isinstance(value, bool):
        return bytes([0x02, value])
    if isinstance(value, int):
        return b"\x00" + struct.pack("<q", value)
    if isinstance(value, float):
        return b"\x01" + struct.pack("<d", value)
    if isinstance(value, str):
        data = value.encode()
        return b"\x03" + struct.pack("<I", len(data)) + data
    return b"\x07" + struct.pack("<I", len(value)) + bytes(value)


def cell(name, value=None, timestamp=None, operation=None):
    """One cell and its checksum."""
    name = name.encode() if isinstance(name, str) else name
    out = b"\x03\x04" + struct.pack("<I", len(name)) + name
    crc = crc8(0, name)
    if value is not None:
        data = variant(value)
        out += b"\x05" + struct.pack("<I", len(data)) + data
        crc = crc8(crc, data)
    if operation is not None:
        out += bytes([0x06, operation])
    if timestamp is not None:
        out += b"\x07" + struct.pack("<q", timestamp)
        crc = crc8(crc, struct.pack("<q", timestamp))
    if operation is not None:
        crc = crc8(crc, bytes([operation]))
    return out + bytes([0x0A, crc]), crc


def row(key, cells=(), delete=False, header=True):
    """A row: key is [(name, value)]; a cell is (name, value[, timestamp[, operation]])."""
    out, crcs = b"\x01", []
    for name, value in key:
        data, crc = cell(name, value)
        out += data
        crcs.append(crc)
    if cells:
        out += b"\x02"
        for one in cells:
            data, crc = cell(*one)
            out += data
            crcs.append(crc)
    if delete:
        out += b"\x08"
    return (HEADER if header else b"") + out + bytes([0x09, crc8(crc8(0, crcs), bytes([delete]))])


def _read_variant(data, at):
    kind = data[at]
    at += 1
    if kind == 0x00:
        return struct.unpack_from("<q", data, at)[0], at + 8
    if kind == 0x01:
        return struct.unpack_from("<d", data, at)[0], at + 8
    if kind == 0x02:
        return bool(data[at]), at + 1
    if kind in (0x03, 0x07):
        size = struct.unpack_from("<I", data, at)[0]
        raw = bytes(data[at + 4 : at + 4 + size])
        return (raw.decode() if kind == 0x03 else bytearray(raw)), at + 4 + size
    raise ValueError(f"value type {kind}")


def rows(data):
    """[(key, cells)] with cells (name, value, timestamp); checks every checksum."""
    if not data:
        return []
    if data[:4] != HEADER:
        raise ValueError("header")
    out, at = [], 4
    while at < len(data):
        if data[at] != 0x01:
            raise ValueError(f"tag {data[at]} where a row begins")
        at += 1
        key, cells, into, row_crc = [], [], None, 0
        into = key
        while data[at] in (0x02, 0x03):
            if data[at] == 0x02:
                into, at = cells, at + 1
                continue
            size = struct.unpack_from("<I", data, at + 2)[0]
            name = bytes(data[at + 6 : at + 6 + size])
            at += 6 + size
            crc, value, timestamp = crc8(0, name), None, None
            if data[at] == 0x05:
                start = at + 5
                value, at = _read_variant(data, start)
                crc = crc8(crc, data[start:at])
            if data[at] == 0x07:
                timestamp = struct.unpack_from("<q", data, at + 1)[0]
                crc = crc8(crc, data[at + 1 : at + 9])
                at += 9
            if data[at] != 0x0A or data[at + 1] != crc:
                raise ValueError(f"cell checksum of {name!r}")
            row_crc, at = CRC_TABLE[row_crc ^ crc], at + 2
            found = (name.decode(), value)
            into.append(found if into is key else (*found, timestamp))
        if data[at] != 0x09 or data[at + 1] != CRC_TABLE[row_crc]:
            raise ValueError("row checksum")
        at += 2
        out.append((key, cells))
    return out


# --- signatures ---------------------------------------------------------------------------------


def now_text(shift_seconds=0):
    moment = datetime.datetime.now(datetime.timezone.utc)
    moment += datetime.timedelta(seconds=shift_seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def md5_text(body):
    return base64.b64encode(hashlib.md5(body).digest()).decode()


def string_to_sign(path, headers):
    lines = sorted(
        (name.lower(), value.strip())
        for name, value in headers.items()
        if name.lower().startswith("x-ots-")
        and name.lower() not in ("x-ots-signature", "x-ots-signaturev4")
    )
    return f"{path}\nPOST\n\n" + "".join(f"{name}:{value}\n" for name, value in lines)


def _hmac(key, text, kind):
    key = key.encode() if isinstance(key, str) else key
    return hmac.new(key, text.encode(), kind).digest()


def sign_v2(path, headers, secret):
    text = string_to_sign(path, headers)
    return base64.b64encode(_hmac(secret, text, hashlib.sha1)).decode()


def v4_key(secret, day, region):
    key = _hmac("aliyun_v4" + secret, day, hashlib.sha256)
    for part in (region, "ots", "aliyun_v4_request"):
        key = _hmac(key, part, hashlib.sha256)
    return base64.b64encode(key)


def sign_v4(path, headers, secret):
    key = v4_key(secret, headers["x-ots-signdate"], headers["x-ots-signregion"])
    text = string_to_sign(path, headers) + "ots"
    return base64.b64encode(_hmac(key, text, hashlib.sha256)).decode()


class Credentials:
    """What a request is signed with."""

    def __init__(self, instance, key_id, secret):
        self.instance, self.key_id, self.secret = instance, key_id, secret

    def headers(self, path, body, date=None, extra=None, version=2, region="r1", day=None):
        """All x-ots headers of a request, signed."""
        out = {
            "x-ots-date": date or now_text(),
            "x-ots-apiversion": "2015-12-31",
            "x-ots-accesskeyid": self.key_id,
            "x-ots-instancename": self.instance,
            "x-ots-contentmd5": md5_text(body),
        }
        out.update(extra or {})
        if version == 4:
            out["x-ots-signdate"] = day or out["x-ots-date"][:10].replace("-", "")
            out["x-ots-signregion"] = region
            out["x-ots-signaturev4"] = sign_v4(path, out, self.secret)
        else:
            out["x-ots-signature"] = sign_v2(path, out, self.secret)
        return out


# --- calls --------------------------------------------------------------------------------------


class Refused(Exception):
    """The server said no: nothing happened."""

    def __init__(self, status, code, message):
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message = status, code, message


class Unknown(Exception):
    """No usable answer: it may or may not have happened."""


# After these answers a write may have happened all the same.
UNKNOWN_CODES = {
    "OTSTimeout", "OTSInternalServerError", "OTSServerUnavailable", "OTSRequestTimeout",
}

# Answers with a status of a broken server that say for certain that nothing happened.
REFUSAL_CODES = {"OTSServerBusy", "OTSPartitionUnavailable"}


def read_error(body):
    message = read_message(body)
    code = message.get(1, [b""])[0].decode()
    return code, message.get(2, [b""])[0].decode()


ATOMIC = "x-isthmus-atomic"
AS_OF = "x-isthmus-as-of"

# A server closes connections that stay idle; one this old is not used again, because a request
# on it could fail without having been seen.
IDLE_SECONDS = 5


class Client:
    """One keep-alive connection to one region. Not for several threads."""

    def __init__(self, endpoint, credentials, timeout=15, version=2):
        where = urllib.parse.urlsplit(endpoint)
        self.host, self.port = where.hostname, where.port
        self.credentials, self.timeout, self.version = credentials, timeout, version
        self.connection, self.used = None, 0.0
        # The moment as of which it reads, and the one that the last answer told.
        self.as_of, self.told_as_of = None, None
        # Whether batches are made wholly or not at all, and read as of one moment.
        self.atomic = False

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def raw(self, operation, body, headers=None):
        """(status, headers, body); Unknown where the connection gives none."""
        path = "/" + operation
        if headers is None:
            headers = self.credentials.headers(path, body, version=self.version)
        if self.as_of is not None:
            headers = {**headers, AS_OF: self.as_of}
        if self.atomic:
            headers = {**headers, ATOMIC: "true"}
        try:
            if time.monotonic() - self.used > IDLE_SECONDS:
                self.close()
            if self.connection is None:
                self.connection = http.client.HTTPConnection(
                    self.host, self.port, timeout=self.timeout
                )
            self.connection.request("POST", path, body, headers)
            answer = self.connection.getresponse()
            data = answer.read()
            self.used = time.monotonic()
            self.told_as_of = answer.headers.get(AS_OF)
            if answer.will_close:
                self.close()
            return answer.status, answer.headers, data
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unknown(f"{operation}: {error!r}") from error

    def call(self, operation, body=b""):
        """The answer's bytes, or Refused, or Unknown."""
        status, _, data = self.raw(operation, body)
        if status == 200:
            return data
        try:
            code, message = read_error(data)
        except (ValueError, IndexError) as error:
            raise Unknown(f"{operation}: status {status}, body {data[:80]!r}") from error
        if code in UNKNOWN_CODES or status >= 500 and code not in REFUSAL_CODES:
            raise Unknown(f"{operation}: {status} {code}: {message}")
        raise Refused(status, code, message)

    # Tables.

    def create_table(self, name, key, max_versions=1, time_to_live=-1, deviation=86400, defined=()):
        """key is [(name, type[, option])] with type 1 INTEGER, 2 STRING, 3 BINARY."""
        meta = field(1, name)
        for column in key:
            option = column[2] if len(column) > 2 else None
            meta += field(2, fields((1, column[0]), (2, column[1]), (3, option)))
        for column, kind in defined:
            meta += field(3, fields((1, column), (2, kind)))
        options = fields((1, time_to_live), (2, max_versions), (5, deviation))
        throughput = field(1, fields((1, 0), (2, 0)))
        self.call("CreateTable", fields((1, meta), (2, throughput), (3, options)))

    def update_table(self, name, max_versions=None, time_to_live=None):
        options = fields((1, time_to_live), (2, max_versions))
        self.call("UpdateTable", fields((1, name), (3, options)))

    def delete_table(self, name):
        self.call("DeleteTable", field(1, name))

    def add_defined_column(self, name, columns):
        """columns is [(name, type)], 1 INTEGER, 2 DOUBLE, 3 BOOLEAN, 4 STRING, 7 BINARY."""
        added = b"".join(field(2, fields((1, column), (2, kind))) for column, kind in columns)
        self.call("AddDefinedColumn", field(1, name) + added)

    def delete_defined_column(self, name, columns):
        self.call("DeleteDefinedColumn", fields((1, name), *((2, column) for column in columns)))

    def list_table(self):
        return sorted(n.decode() for n in read_message(self.call("ListTable")).get(1, []))

    def describe_table(self, name):
        return read_message(self.call("DescribeTable", field(1, name)))

    # Rows.

    def put_row(self, table, key, cells, expectation=0):
        body = fields((1, table), (2, row(key, cells)), (3, field(1, expectation)))
        self.call("PutRow", body)

    def update_row(self, table, key, cells, expectation=0, returns=None):
        body = fields((1, table), (2, row(key, cells)), (3, field(1, expectation)))
        if returns is not None:
            content = field(1, 2) + b"".join(field(2, name) for name in returns)
            body += field(4, content)
        answer = read_message(self.call("UpdateRow", body))
        found = rows(answer.get(2, [b""])[0])
        return found[0] if found else None

    def delete_row(self, table, key, expectation=0):
        body = fields((1, table), (2, row(key, delete=True)), (3, field(1, expectation)))
        self.call("DeleteRow", body)

    def get_row(self, table, key, max_versions=1):
        answer = self.call("GetRow", fields((1, table), (2, row(key)), (5, max_versions)))
        found = rows(read_message(answer).get(2, [b""])[0])
        return found[0] if found else None

    def batch_get(self, table, keys):
        """The rows of these keys as `rows` gives them, None where there is none."""
        asked = fields((1, table), *((2, row(key)) for key in keys), (6, 1))
        answer = read_message(self.call("BatchGetRow", field(1, asked)))
        found = []
        for one in read_message(answer[1][0]).get(2, []):
            message = read_message(one)
            if not message[1][0]:
                raise Refused(200, *read_error(message[2][0]))
            shown = rows(message.get(4, [b""])[0])
            found.append(shown[0] if shown else None)
        return found

    def batch_write(self, table, changes, atomic=False):
        """changes is [(type, key, cells)] with type 1 put, 2 update, 3 delete.

        One result per change, in order: None, or (code, message).
        """
        items = b""
        for kind, key, cells in changes:
            data = row(key, cells, delete=kind == 3)
            items += field(2, fields((1, kind), (2, data), (3, field(1, 0))))
        body = field(1, field(1, table) + items) + (field(3, 1) if atomic else b"")
        answer = read_message(self.call("BatchWriteRow", body))
        results = []
        for one in read_message(answer[1][0]).get(2, []):
            message = read_message(one)
            results.append(None if message[1][0] else read_error(message[2][0]))
        if len(results) != len(changes):
            raise Unknown("BatchWriteRow: results and changes differ in number")
        return results

    def batch_write_rows(self, changes):
        """changes is [(table, type, key, cells[, expectation])], of several tables.

        One result per change, in order: None, or (code, message).
        """
        tables = {}
        for place, (table, kind, key, cells, *expectation) in enumerate(changes):
            data = row(key, cells, delete=kind == 3)
            condition = field(1, expectation[0] if expectation else 0)
            item = field(2, fields((1, kind), (2, data), (3, condition)))
            tables.setdefault(table, []).append((place, item))
        body = b"".join(
            field(1, field(1, table) + b"".join(item for _, item in items))
            for table, items in tables.items()
        )
        answer = read_message(self.call("BatchWriteRow", body))
        results = [None] * len(changes)
        for told, items in zip(answer[1], tables.values(), strict=True):
            for one, (place, _) in zip(read_message(told).get(2, []), items, strict=True):
                message = read_message(one)
                results[place] = None if message[1][0] else read_error(message[2][0])
        return results

    def batch_get_rows(self, keys):
        """The rows of [(table, key)] as `rows` gives them, None where there is none."""
        tables = {}
        for place, (table, key) in enumerate(keys):
            tables.setdefault(table, []).append((place, field(2, row(key))))
        body = b"".join(
            field(1, field(1, table) + b"".join(item for _, item in items) + field(6, 1))
            for table, items in tables.items()
        )
        answer = read_message(self.call("BatchGetRow", body))
        found = [None] * len(keys)
        for told, items in zip(answer[1], tables.values(), strict=True):
            for one, (place, _) in zip(read_message(told).get(2, []), items, strict=True):
                message = read_message(one)
                if not message[1][0]:
                    raise Refused(200, *read_error(message[2][0]))
                shown = rows(message.get(4, [b""])[0])
                found[place] = shown[0] if shown else None
        return found

    def get_range(self, table, start, end, limit=None, max_versions=1, backward=False):
        """(rows, next key or None): one page."""
        body = fields((1, table), (2, 1 if backward else 0), (5, max_versions), (6, limit))
        body += fields((7, row(start)), (8, row(end)))
        answer = read_message(self.call("GetRange", body))
        following = answer.get(3, [b""])[0]
        return rows(answer[2][0]), (rows(following)[0][0] if following else None)

    def scan(self, table, key_names, max_versions=1):
        """All rows in key order."""
        start = [(name, INF_MIN) for name in key_names]
        end = [(name, INF_MAX) for name in key_names]
        while start is not None:
            page, start = self.get_range(table, start, end, max_versions=max_versions)
            yield from page

    # Global tables (regions are named by their id; the instance is the client's own).

    def create_global_table(self, table, base, others, peers, sync_mode=1):
        """(id, status). sync_mode 1 row, 2 column."""
        instance = self.credentials.instance
        body = field(2, fields((1, base), (2, instance), (3, table)))
        for region in others:
            body += field(3, fields((1, region), (2, instance), (3, 1 if peers else 0)))
        body += fields((4, sync_mode), (5, 3 if peers else 2))
        answer = read_message(self.call("CreateGlobalTable", body))
        return answer[2][0].decode(), answer[3][0]

    def bind_global_table(self, table, identity, regions, peers):
        body = fields((2, identity), (3, table))
        for region in regions:
            placement = fields((1, region), (2, self.credentials.instance), (3, int(peers)))
            body += field(4, placement)
        return read_message(self.call("BindGlobalTable", body))[3][0]

    def unbind_global_table(self, table, identity, regions):
        body = fields((2, identity), (3, table))
        for region in regions:
            body += field(4, fields((1, region), (2, self.credentials.instance)))
        return read_message(self.call("UnbindGlobalTable", body))[3][0]

    def describe_global_table(self, table, identity=None, region=None, rpo=False):
        """{"id", "status", "serve", "tables": [{...}]}."""
        body = fields((1, identity), (2, table))
        if region is not None:
            body += field(3, self._physical(table, region) + field(4, 0))
        body += field(4, 1) if rpo else b""
        answer = read_message(self.call("DescribeGlobalTable", body))
        tables = []
        for one in answer.get(4, []):
            found = read_message(one)
            tables.append({
                "region": found[1][0].decode(),
                "instance": found[2][0].decode(),
                "table": found[3][0].decode(),
                "writable": bool(found[4][0]),
                "status": found.get(5, [None])[0],
                "stage": found.get(10, [None])[0],
                "rpo": signed(found.get(15, [0])[0]),
            })
        return {
            "id": answer[2][0].decode(),
            "status": answer[3][0],
            "serve": answer.get(5, [None])[0],
            "tables": tables,
        }

    def _physical(self, table, region):
        return fields((1, region), (2, self.credentials.instance), (3, table))

    def update_global_table(self, table, identity, region, writable=None, eligible=None):
        change = self._physical(table, region)
        change += field(4, None if writable is None else int(writable))
        change += field(5, None if eligible is None else int(eligible))
        self.call("UpdateGlobalTable", fields((1, identity), (2, table), (3, change)))
