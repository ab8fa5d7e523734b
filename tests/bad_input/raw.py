"""Bytes to a socket and what comes back, with nothing between that would mend them."""

import dataclasses
import socket
import time
import urllib.parse

import wire

ANSWER_SECONDS = 10


@dataclasses.dataclass
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict
    body: bytes

    def error(self):
        """(code, message); a body that is no `Error` message fails."""
        return wire.read_error(self.body)


@dataclasses.dataclass
class Outcome:
    """All answers of a connection, and whether the server closed it."""

    answers: list
    closed: bool

    @property
    def status(self):
        """Of the last answer; 0 for none."""
        return self.answers[-1].status if self.answers else 0


def connect(endpoint, timeout=ANSWER_SECONDS, receive_bytes=None, source=None):
    where = urllib.parse.urlsplit(endpoint)
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if receive_bytes is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    if source is not None:
        found.bind((source, 0))
    found.settimeout(timeout)
    found.connect((where.hostname, where.port))
    return found


def send(endpoint, data, seconds=ANSWER_SECONDS, wait_close=False, answers=1, source=None):
    """Sends and reads `answers` answers, or until the server closes; then looks whether it does.

    `data` is bytes, or a list of bytes sent one after the other with a short pause.
    """
    with connect(endpoint, seconds, source=source) as connection:
        try:
            for number, part in enumerate([data] if isinstance(data, bytes) else data):
                if number:
                    time.sleep(0.05)
                connection.sendall(part)
        except OSError:
            # It answered and closed before all was sent; the answer may still be readable.
            pass
        return receive(connection, seconds, wait_close, answers)


def receive(connection, seconds, wait_close=False, answers=1):
    limit, data, found = time.monotonic() + seconds, b"", []
    closed = False
    while len(found) < answers or wait_close:
        connection.settimeout(max(0.05, limit - time.monotonic()))
        try:
            more = connection.recv(65536)
        except TimeoutError:
            break
        except OSError:
            closed = True
            break
        if not more:
            closed = True
            break
        data += more
        while True:
            answer, data = split(data)
            if answer is None:
                break
            if answer.status != 100:
                found.append(answer)
    return Outcome(found, closed)


def split(data):
    """(the first answer or None, what is left)"""
    head, mark, rest = data.partition(b"\r\n\r\n")
    if not mark:
        return None, data
    lines = head.split(b"\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        headers[name.strip().lower().decode()] = value.strip().decode("latin-1")
    size = int(headers.get("content-length", "0"))
    if len(rest) < size:
        return None, data
    status = int(lines[0].split()[1])
    return Answer(status, headers, rest[:size]), rest[size:]


def request(path, headers, body=b"", method="POST", length=None, version="HTTP/1.1", lines=()):
    """The bytes of a request. `length` None counts the body; False leaves the header out."""
    out = [f"{method} {path} {version}".encode()]
    out += [f"{name}: {value}".encode("latin-1") for name, value in headers.items()]
    out += [line if isinstance(line, bytes) else line.encode("latin-1") for line in lines]
    if not any(one.lower().startswith(b"host") for one in out[1:]):
        out.append(b"Host: 127.0.0.1")
    if length is not False:
        out.append(f"Content-Length: {len(body) if length is None else length}".encode())
    return b"\r\n".join(out) + b"\r\n\r\n" + body
