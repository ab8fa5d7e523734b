"""One region at a time changes the format between regions, up and back, while all of them write.

An older program is stood in for by `peer.format_max`; ISTHMUS_OLD_BIN names a real one.
"""

import os
import pathlib

import cluster
import ledger
import verifying

OLD = 1


def set_format(region, newest):
    """Caps the format that a stopped region speaks, or, with None, takes the cap out."""
    path = pathlib.Path(region.config)
    lines = [line for line in path.read_text().splitlines() if not line.startswith("format_max")]
    if newest is not None:
        lines.insert(lines.index("[peer]") + 1, f"format_max = {newest}")
    path.write_text("\n".join(lines) + "\n")


def restart(region, newest):
    verifying.stop(region)
    old = os.environ.get("ISTHMUS_OLD_BIN") if newest == OLD else None
    set_format(region, None if old else newest)
    region.start(program=old)


def settled(running):
    """{(region, other): format} as the regions tell it."""
    found = {}
    for status in running.statuses():
        for other in status["regions"]:
            if other["state"] == "connected":
                found[status["region"], other["name"]] = other.get("format")
    return found


def await_settled(running, old):
    """Waits until every two regions speak the lower of their formats; `old` are not upgraded."""
    newest = max(other["format"] for status in running.statuses()
                 for other in status["regions"] if other["state"] == "self")
    names = [region.name for region in running.regions]
    expected = {(one, other): OLD if {one, other} & old else newest
                for one in names for other in names if one != other}
    cluster.wait_until(lambda: settled(running) == expected, f"formats settle on {expected}", 60)


def test_regions_are_upgraded_one_at_a_time_and_back_under_load(three):
    client = three.regions[0].client()
    client.create_table("upgraded", ledger.KEY)
    client.close()
    three.make_global("upgraded", "peer-to-peer")
    old = {region.name for region in three.regions}
    for region in three.regions:
        restart(region, OLD)
    await_settled(three, old)
    writers = [ledger.Writer(region, "upgraded", region.name) for region in three.regions]
    for writer in writers:
        writer.start()
    for region in three.regions[::-1]:
        restart(region, None)
        old.discard(region.name)
        await_settled(three, old)
    restart(three.regions[1], OLD)
    await_settled(three, {three.regions[1].name})
    ledger.finish(three, "upgraded", writers)
