"""Measures how long a replica that fell out of the log takes to be alike again.

By `cargo xtask bench gap [ROWS]`, or: python3 tests/end_to_end/gap_copy.py BINARY DIRECTORY [ROWS]

Two regions, a table with one writer. Times a full copy of it, stops the secondary, overwrites one
row in a hundred until the log no longer has it all, starts the secondary and times the copy of
what differs: from when the secondary can be reached (its administration answers), which is told
apart from how long its program took to start, until the link follows and nothing lags. When that
was is told by the link itself, so that asking can be seldom and takes no processor from what is
timed. Prints one JSON line.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

BINARY, PLACE = sys.argv[1], sys.argv[2]
ROWS = int(sys.argv[3]) if len(sys.argv) > 3 else 1_000_000
PORT = 8600
TABLE = "gap_copy"


def isthmus(*words, check=True):
    line = [BINARY, *words, "--data", PLACE]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise SystemExit(f"{line}: {done.stdout}{done.stderr}")
    return done.stdout


def configure():
    line = [BINARY, "up", "--regions", "2", "--base-port", str(PORT), "--data", PLACE, "--fresh"]
    with subprocess.Popen([*line, "--json"], stdout=subprocess.PIPE, text=True) as up:
        up.stdout.readline()
        up.send_signal(signal.SIGTERM)
    file = f"{PLACE}/r1/isthmus.toml"
    with open(file, "a", encoding="utf-8") as config:
        config.write("\n[log]\nkeep_mib = 1\n")


def serve(region):
    log = open(f"{PLACE}/{region}.log", "a", encoding="utf-8")
    line = [BINARY, "serve", "--config", f"{PLACE}/{region}/isthmus.toml"]
    process = subprocess.Popen(line, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{PORT + 10 * int(region[1:]) + 1}/v1/health"
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).read()
            return process
        except (urllib.error.URLError, OSError):
            time.sleep(0.01)


def link():
    told = json.loads(isthmus("status", "--json", check=False) or "{}")
    regions = told if isinstance(told, list) else told.get("regions", [told])
    for region in regions:
        status = region.get("status", region)
        for found in status.get("links", []) if isinstance(status, dict) else []:
            if found["table"] == TABLE and found["from"] == "r1":
                return found
    return None


def until_alike(began):
    while True:
        found = link()
        if found and found["state"] == "following" and found["lag_entries"] == 0:
            return found["since_ms"] / 1000 - began, found
        if time.time() - began > 900:
            raise SystemExit(f"not alike: {found}")
        time.sleep(0.25)


def load(file, rows, seed):
    chance = random.Random(seed)
    with open(file, "w", encoding="utf-8") as csv:
        csv.write("id,a,b\n")
        for row in rows:
            csv.write(f"{row:09},{chance.randbytes(25).hex()},{chance.randbytes(20).hex()}\n")
    isthmus("load", TABLE, file, "--region", "r1", "--create", "--key-columns", "id:string")


def main():
    os.makedirs(PLACE, exist_ok=True)
    configure()
    first, second = serve("r1"), serve("r2")
    try:
        load(f"{PLACE}/all.csv", range(ROWS), 1)
        began = time.time()
        regions = ("--regions", "r1,r2", "--serve", "primary-secondary")
        isthmus("global-table", "create", TABLE, *regions)
        full, told = until_alike(began)
        copied = told.get("copied_rows")
        time.sleep(20)
        second.send_signal(signal.SIGTERM)
        second.wait()
        changed = random.Random(2).sample(range(ROWS), ROWS // 100)
        for seed in range(3, 7):
            load(f"{PLACE}/some.csv", sorted(changed), seed)
        time.sleep(3)
        started = time.time()
        second = serve("r2")
        began = time.time()
        some, told = until_alike(began)
        same = isthmus("verify", TABLE, "--regions", "r1,r2", "--json", check=False)
        print(json.dumps({
            "rows": ROWS,
            "changed": len(changed),
            "full_copy_s": round(full, 2),
            "full_copy_rows": copied,
            "start_s": round(began - started, 2),
            "gap_copy_s": round(some, 2),
            "gap_copy_rows": (told.get("copied_rows") or 0) - (copied or 0),
            "gap_alike_rows": told.get("alike_rows"),
            "ratio": round(some / full, 3),
            "equal": json.loads(same or "{}").get("equal"),
        }))
    finally:
        first.terminate()
        second.terminate()


main()
