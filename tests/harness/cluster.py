"""Real processes for the suites: `isthmus up`, single regions, and their end.

What must hold: whatever a test does, no process outlives it (each is a group of its own, killed at
exit, and dies with the test runner); every wait is bounded and says what it waited for; two suites
can run at once, because each takes a block of free ports.
"""

import atexit
import contextlib
import ctypes
import json
import os
import pathlib
import random
import selectors
import signal
import socket
import subprocess
import tempfile
import time

import wire

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_SECONDS = 60
STOP_SECONDS = 30
_RUNNING = set()


def binary():
    """The program under test: ISTHMUS_BIN, else the release build."""
    path = pathlib.Path(os.environ.get("ISTHMUS_BIN", ROOT / "target" / "release" / "isthmus"))
    if not path.is_file():
        raise FileNotFoundError(f"{path}: build it with `cargo build --release -p isthmus`")
    return str(path)


def _tie_to_parent():
    # The child gets SIGTERM when the test runner dies, however it dies.
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)


def spawn(arguments, log, wrapper=(), **options):
    """Starts a process in a group of its own; its standard error goes to `log`."""
    with open(log, "ab") as stderr:
        process = subprocess.Popen(
            [*wrapper, *arguments],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
            preexec_fn=_tie_to_parent,
            **options,
        )
    _RUNNING.add(process)
    return process


def end(process, stop_signal=signal.SIGTERM, seconds=STOP_SECONDS):
    """Ends a process and its group; returns its exit code."""
    if process not in _RUNNING:
        return process.returncode
    if process.poll() is None and stop_signal != signal.SIGKILL:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    code = process.wait(STOP_SECONDS)
    if process.stdout is not None:
        process.stdout.close()
    _RUNNING.discard(process)
    return code


def kill_pid(pid, seconds=60):
    """kill -9 of one process, and waits until it is gone: until the disk has answered it, too."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), f"process {pid} is gone", seconds)


def alive(pid):
    """Whether anything of the process is left: a leader may be a zombie before its other threads
    have ended, and until then they hold its ports and its files."""
    try:
        if len(os.listdir(f"/proc/{pid}/task")) > 1:
            return True
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _memory_bytes(pid, name):
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        for line in status:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def resident_bytes(pid):
    """Memory in use, as the kernel counts it."""
    return _memory_bytes(pid, "VmRSS")


def peak_bytes(pid):
    """The most memory that was ever in use."""
    return _memory_bytes(pid, "VmHWM")


def processor_seconds(pid):
    """Time that all threads of a process have had of processors."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def disk_bytes(path):
    """Bytes that the files below a path take on disk."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


def wait_until(holds, what, seconds=60, pause=0.05):
    """Waits until `holds()` is true (its value is returned), or fails naming what was awaited."""
    limit = time.monotonic() + seconds
    while True:
        value = holds()
        if value:
            return value
        if time.monotonic() > limit:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(pause)


def _free(port):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def base_port(regions):
    """The base of a block of free ports. Below the range that the kernel gives to clients.

    Runs at the same time take blocks of their own: PORTS=0/2 and PORTS=1/2 for two.
    """
    chance = random.Random(os.urandom(8))
    share, runs = map(int, os.environ.get("PORTS", "0/1").split("/"))
    for _ in range(200):
        base = chance.randrange(11000 + 100 * share, 31000, 100 * runs)
        if all(_free(port) for port in range(base, base + 10 * (regions + 1) + 10)):
            return base
    raise OSError("no block of free ports")


class Region:
    """One region of a cluster."""

    def __init__(self, cluster, told):
        self.cluster, self.name = cluster, told["name"]
        self.endpoint, self.admin = told["endpoint"], told["admin"]
        self.config, self.data, self.pid = told["config"], told["data"], told["pid"]
        self.process = None
        # What runs the region's processes and commands, where it is not this machine as it is.
        self.wrapper = ()

    def client(self, **options):
        return wire.Client(self.endpoint, self.cluster.credentials, **options)

    def kill(self):
        """kill -9."""
        pid = self.pid
        if self.process is not None:
            end(self.process, signal.SIGKILL)
            self.process = None
        kill_pid(pid)

    def start(self, wait=True, wrapper=(), program=None, **options):
        """Brings a killed region back alone; returns the seconds until it served."""
        begun = time.monotonic()
        command = [program or binary(), "serve", "--config", self.config]
        self.process = spawn(command, self.cluster.log, (*self.wrapper, *wrapper), stdout=subprocess.DEVNULL,
                             **options)
        self.pid = self.process.pid
        if wait:
            self.wait_serving()
        return time.monotonic() - begun

    def serving(self):
        client = self.client(timeout=5)
        try:
            client.list_table()
            return True
        except (wire.Unknown, wire.Refused):
            return False
        finally:
            client.close()

    def wait_serving(self, seconds=START_SECONDS):
        def holds():
            if self.process is not None and self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended at once\n{self.cluster.log_tail()}")
            return self.serving()

        wait_until(holds, f"{self.name} serves", seconds)


class Cluster:
    """Regions started by one `isthmus up`."""

    def __init__(self, regions=3, folder=None, arguments=(), environment=None):
        self._own = tempfile.TemporaryDirectory(prefix="isthmus-") if folder is None else None
        self.folder = pathlib.Path(folder or self._own.name)
        self.data = self.folder / "data"
        self.log = self.folder / "log.txt"
        self.count, self.arguments = regions, list(arguments)
        self.environment = {**os.environ, **(environment or {})}
        self.base = base_port(regions)
        self.process = None
        self.regions = []
        self.start()

    def start(self):
        """Starts `up` and waits for its one line."""
        command = [
            binary(), "up", "--json", "--regions", str(self.count),
            "--base-port", str(self.base), "--data", str(self.data), *self.arguments,
        ]
        self.process = spawn(command, self.log, stdout=subprocess.PIPE, env=self.environment)
        try:
            told = json.loads(self._first_line())
        except (ValueError, TimeoutError, RuntimeError):
            self.stop()
            raise
        self.instance = told["instance"]
        self.credentials = wire.Credentials(
            told["instance"], told["access_key_id"], told["access_key_secret"]
        )
        self.told = told
        self.regions = [Region(self, one) for one in told["regions"]]

    def _first_line(self):
        line, limit = b"", time.monotonic() + START_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                left = limit - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"`up` did not say that it serves\n{self.log_tail()}")
                if not selector.select(left):
                    continue
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    raise RuntimeError(f"`up` ended\n{self.log_tail()}")
                line += data
        return line.splitlines()[0]

    def log_tail(self, size=3000):
        """The ends of all logs, for the message of a failure."""
        shown = []
        for path in [self.log, *sorted(self.data.glob("*/log.txt"))]:
            with contextlib.suppress(FileNotFoundError):
                shown.append(f"--- {path}\n" + path.read_bytes()[-size:].decode(errors="replace"))
        return "\n".join(shown)

    def region(self, name):
        return next(one for one in self.regions if one.name == name)

    def run(self, *arguments, config=None, seconds=120, check=True):
        """Runs a client command against the first region (or `config`); returns its output."""
        config = config or self.regions[0].config
        wrapper = next((one.wrapper for one in self.regions if one.config == config), ())
        command = [*wrapper, binary(), *map(str, arguments), "--config", config]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds,
            env=self.environment, check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def make_global(self, table, serve="peer-to-peer"):
        names = ",".join(region.name for region in self.regions)
        self.run("global-table", "create", table, "--regions", names, "--serve", serve)
        for region in self.regions:
            self._wait_replica(region, table)

    @staticmethod
    def _wait_replica(region, table):
        client = region.client()

        def holds():
            try:
                return bool(client.describe_table(table))
            except (wire.Refused, wire.Unknown):
                return False

        wait_until(holds, f"table {table} is in {region.name}", 60)
        client.close()

    def statuses(self):
        """What each region tells of itself."""
        told = [self.run("status", "--json", config=one.config) for one in self.regions]
        return [json.loads(done.stdout)["regions"][0]["status"] for done in told]

    def status(self):
        return json.loads(self.run("status", "--json").stdout)

    def stop(self):
        """Stops every process of the cluster; returns the exit code of `up`."""
        code = end(self.process)
        for region in self.regions:
            if region.process is not None:
                end(region.process)
            elif alive(region.pid):
                kill_pid(region.pid)
        return code

    def close(self):
        self.stop()
        if self._own is not None:
            self._own.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@atexit.register
def _end_all():
    for process in list(_RUNNING):
        with contextlib.suppress(Exception):
            os.killpg(process.pid, signal.SIGTERM)
    limit = time.monotonic() + 5
    for process in list(_RUNNING):
        with contextlib.suppress(Exception):
            process.wait(max(0.1, limit - time.monotonic()))
        with contextlib.suppress(Exception):
            os.killpg(process.pid, signal.SIGKILL)


def await_alike(clients, writers, table, key_names, filler, seconds=120):
    """Waits until every region has what each writing region had accepted before the call.

    Each writer puts a marker row; since entries of an origin are applied in their order, a region
    that shows the marker has all that came before. `filler(number)` makes a marker's key; the
    table must have one partition.
    """
    stamp = time.time_ns() % (1 << 62)
    marks = []
    for number, writer in enumerate(writers):
        key = list(zip(key_names, filler(number), strict=True))
        writer.put_row(table, key, [("marker", stamp)])
        marks.append(key)

    def shows(client, key):
        found = client.get_row(table, key)
        return found is not None and any(c[0] == "marker" and c[1] == stamp for c in found[1])

    for key in marks:
        for index, client in enumerate(clients):
            wait_until(
                lambda client=client, key=key: shows(client, key),
                f"region {index} has the marker {key}", seconds,
            )
