"""IA3: how long a refusal takes tells nothing of how much of a signature was right.

No time is asserted. Requests of both kinds are sent in turns by chance, so that whatever else the
machine does falls on both alike; the test is whether their times come from one distribution.
"""

import base64
import contextlib
import math
import random
import statistics
import time

import cases
import raw

SAMPLES = 20_000
# Each address sends fewer wrong signatures in a second than make the server stop listening to it.
ADDRESSES = 200
T_MAX = 4.5
# A busy machine can mislead once; a real difference shows every time.
ATTEMPTS = 3
# Of all samples the slowest share is left out: they tell of interrupts.
KEPT = 0.9


def wrong(place):
    """Changes one byte of a signature."""
    def change(text):
        signature = bytearray(base64.b64decode(text))
        signature[place] ^= 1
        return base64.b64encode(signature).decode()
    return change


def answer_of(connection, data):
    """(seconds, answer)"""
    begun = time.perf_counter()
    connection.sendall(data)
    received = b""
    while True:
        more = connection.recv(65536)
        assert more, "the connection was closed"
        received += more
        answer, rest = raw.split(received)
        if answer is not None:
            assert not rest
            return time.perf_counter() - begun, answer


def sample(context, header, sign, seed):
    """Times for a difference in the first byte, and in the last."""
    kinds = [context.request("GetRow", cases.GOOD, sign=sign, change={header: wrong(place)})
             for place in (0, -1)]
    chance, times = random.Random(seed), ([], [])
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(raw.connect(context.endpoint, source=f"127.0.7.{number + 1}"))
            for number in range(ADDRESSES)
        ]
        for number in range(SAMPLES):
            first = chance.randrange(2)
            connection = connections[number % ADDRESSES]
            for kind in (first, 1 - first):
                seconds, answer = answer_of(connection, kinds[kind])
                assert answer.status == 403, answer
                times[kind].append(seconds)
    return times


def welch(early, late):
    """t of the means, without the slowest."""
    bound = sorted(early + late)[int(KEPT * (len(early) + len(late)))]
    early, late = ([one for one in side if one < bound] for side in (early, late))
    spread = statistics.variance(early) / len(early) + statistics.variance(late) / len(late)
    return (statistics.fmean(late) - statistics.fmean(early)) / math.sqrt(spread)


def test_ia3_a_refusal_takes_as_long_whatever_was_right_of_the_signature(context, unharmed):
    for header, sign in (("x-ots-signature", None), ("x-ots-signaturev4", {"version": 4})):
        found = []
        for attempt in range(ATTEMPTS):
            early, late = sample(context, header, sign, attempt)
            found.append(welch(early, late))
            print(f"{header}: t {found[-1]:.2f}, medians {statistics.median(early) * 1e6:.1f} and "
                  f"{statistics.median(late) * 1e6:.1f} us")
            if abs(found[-1]) < T_MAX:
                break
        assert min(map(abs, found)) < T_MAX, (header, found)
