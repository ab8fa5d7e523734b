"""A client that sends wrong signatures as fast as it can, from one address, until it is ended.

`python flood.py HOST PORT ADDRESS FILE`: FILE holds one request. It says when it has begun; when
it ends (SIGTERM) it prints `{"sent": .., "403": .., "503": .., "ended": .., "left": ..}`. Half of
its connections wait for their answers; the others leave soon where none comes, and come again.
"""

import collections
import json
import os
import selectors
import signal
import socket
import sys
import time

CONNECTIONS = 32
# Requests sent at once, before the first answer is read.
PIPELINED = 32
IMPATIENT_SECONDS = 0.005


class Flood:
    """Some connections that are kept busy."""

    def __init__(self, where, source, request):
        self.where, self.source, self.data = where, source, request * PIPELINED
        self.counts = collections.Counter()
        self.selector = selectors.DefaultSelector()
        self.goes_on = True

    def connect(self, patient):
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.bind((self.source, 0))
            connection.connect(self.where)
            connection.setblocking(False)
        except OSError:
            # No port is free for the moment.
            connection.close()
            return False
        self.selector.register(connection, selectors.EVENT_READ, Progress(patient))
        self.send(connection)
        return True

    def send(self, connection):
        try:
            connection.send(self.data)
            self.counts["sent"] += PIPELINED
        except OSError:
            pass  # Closed already, which is read next, or full.

    def read(self, connection, progress):
        try:
            data = connection.recv(1 << 16)
        except OSError:
            data = b""
        for status in (403, 503):
            found = data.count(b"HTTP/1.1 %d" % status)
            self.counts[str(status)] += found
            progress.answered += found
        progress.since = time.monotonic()
        if not data:
            self.counts["ended"] += 1
            self.close(connection)
        elif progress.answered >= PIPELINED:
            progress.answered -= PIPELINED
            self.send(connection)

    def close(self, connection):
        self.selector.unregister(connection)
        connection.close()

    def run(self):
        self.fill_up()
        print("flooding", flush=True)
        while self.goes_on:
            for key, _ in self.selector.select(IMPATIENT_SECONDS):
                self.read(key.fileobj, key.data)
            limit = time.monotonic() - IMPATIENT_SECONDS
            open_ones = list(self.selector.get_map().values())
            for key in open_ones:
                if not key.data.patient and key.data.since < limit:
                    self.counts["left"] += 1
                    self.close(key.fileobj)
            self.fill_up()

    def fill_up(self):
        open_ones = collections.Counter(
            key.data.patient for key in self.selector.get_map().values())
        for patient in (True, False):
            for _ in range(CONNECTIONS // 2 - open_ones[patient]):
                self.connect(patient)


class Progress:
    """Of one connection."""

    def __init__(self, patient):
        self.patient, self.answered, self.since = patient, 0, time.monotonic()


def main(host, port, source, path):
    # Whoever floods brings a machine of its own: its work must not slow down the other clients.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with open(path, "rb") as file:
        flood = Flood((host, int(port)), source, file.read())
    signal.signal(signal.SIGTERM, lambda *_: setattr(flood, "goes_on", False))
    flood.run()
    print(json.dumps(flood.counts), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
