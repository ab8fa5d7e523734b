"""Histories of single registers, and whether they are linearizable.

Each row is a register with values that are written once. An operation is (begun, ended, kind,
value): a write that was not answered ends never, and may have happened at any time after it began,
or not at all. The search is that of Wing and Gong with Lowe's memory of what was tried: what is
linearized so far, and the value then.
"""

import threading
import time

import wire

NEVER = float("inf")


def is_linearizable(operations, first=None):
    """Whether one order of the operations explains all answers."""
    operations = sorted(operations)
    answered = [i for i, one in enumerate(operations) if one[1] != NEVER]
    last_answered = answered[-1] + 1 if answered else 0

    def is_all_answered(at, more):
        if last_answered - at > len(more) + len(operations) - len(answered):
            return False
        return all(i in more for i in range(at, last_answered) if operations[i][1] != NEVER)

    # All before `at` are done, and those of `more`.
    seen, stack = set(), [(0, frozenset(), first)]
    while stack:
        at, more, value = stack.pop()
        while at in more:
            more, at = more - {at}, at + 1
        if at >= last_answered or is_all_answered(at, more):
            return True
        if (at, more, value) in seen:
            continue
        seen.add((at, more, value))
        # What began after another one had ended that is not done yet comes later.
        soonest, last = NEVER, at
        while last < len(operations) and operations[last][0] <= soonest:
            if last not in more:
                soonest = min(soonest, operations[last][1])
            last += 1
        for i in range(last - 1, at - 1, -1):
            begun, _, kind, written = operations[i]
            if i in more or begun > soonest:
                continue
            if kind == "write":
                stack.append((at, more | {i}, written))
            elif written == value:
                stack.append((at, more | {i}, value))
    return False


class Registers(threading.Thread):
    """Reads and writes a few rows through one region, and keeps the history of each."""

    def __init__(self, region, table, keys, name, chance, pause=0.0):
        super().__init__(daemon=True)
        self.client = region.client(timeout=20)
        self.table, self.keys, self.name, self.chance = table, keys, name, chance
        self.pause = pause
        self.history = {key: [] for key in keys}
        self.acknowledged, self.errors, self.unknown = 0, [], 0
        self.times = []
        self.ending = threading.Event()

    def run(self):
        count = 0
        while not self.ending.is_set():
            key = self.chance.choice(self.keys)
            row, begun = [("w", "register"), ("k", key)], time.monotonic()
            try:
                if self.chance.random() < 0.5:
                    count += 1
                    value = f"{self.name}-{count}"
                    self.write(key, row, value, begun)
                else:
                    found = self.client.get_row(self.table, row)
                    value = dict(cell[:2] for cell in found[1])["v"] if found else None
                    self.history[key].append((begun, time.monotonic(), "read", value))
            except (wire.Refused, wire.Unknown, OSError) as error:
                self.errors.append(str(error))
                time.sleep(0.02)
            if self.pause:
                time.sleep(self.pause)
        self.client.close()

    def write(self, key, row, value, begun):
        try:
            self.client.put_row(self.table, row, [("v", value)])
        except wire.Refused:
            # Nothing was done.
            raise
        except (wire.Unknown, OSError):
            self.unknown += 1
            self.history[key].append((begun, NEVER, "write", value))
            raise
        ended = time.monotonic()
        self.history[key].append((begun, ended, "write", value))
        self.acknowledged += 1
        self.times.append(ended)

    def stop(self):
        self.ending.set()
        self.join(60)
        assert not self.is_alive(), "the client ends"


def check(clients, finals=()):
    """All that clients saw of a row is one history; `finals` are reads at the end."""
    keys = set().union(*(one.history for one in clients))
    now = time.monotonic()
    for key in sorted(keys):
        history = [one for client in clients for one in client.history.get(key, [])]
        history += [(now, now + 1 + i, "read", values[key]) for i, values in enumerate(finals)]
        assert is_linearizable(history), f"row {key}: {sorted(history)}"


def read_all(region, table, keys):
    """What a region shows of the rows."""
    client, found = region.client(timeout=20), {}
    for key in keys:
        row = client.get_row(table, [("w", "register"), ("k", key)])
        found[key] = dict(cell[:2] for cell in row[1])["v"] if row else None
    client.close()
    return found
