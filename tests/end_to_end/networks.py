"""Regions each in a network of its own, joined by a bridge, and what can happen to the ways between.

Clients run outside and reach every region whatever happens between regions: so a region that is cut
off is asked all the time, and must not answer what it may not. Needs root and network namespaces;
`missing()` says what this machine lacks.
"""

import contextlib
import os
import pathlib
import queue
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import cluster
import wire

# Networks of this suite: 10.213.SHARE.N, and names with the same number.
SECRET = "a-secret-of-these-tests-0123456789"
SHARE = int(os.environ.get("PORTS", "0/1").split("/", maxsplit=1)[0])


def run(*command, check=True):
    return subprocess.run(list(map(str, command)), check=check, capture_output=True, text=True,
                          timeout=60)


# Clients are at the first of these addresses, ways with jitter at the second.
OUTSIDE, WAYS = 254, 253


def address(number):
    return f"10.213.{SHARE}.{number}"


def space(number):
    return f"isthmus{SHARE}r{number}"


def missing():
    """What keeps this machine from running regions in networks of their own; None where it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "iptables", "nsenter"):
        if shutil.which(tool) is None:
            return f"network namespaces need {tool}"
    nets = None
    try:
        nets = Networks(2)
        nets.within(1, "iptables", "-A", "INPUT", "-s", "10.0.0.1", "-j", "DROP")
        return nets.unreached()
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"no network namespaces here: {error}"
    finally:
        if nets is not None:
            nets.close()


class Networks:
    """A bridge, and a network for each of so many regions."""

    def __init__(self, count):
        self.count, self.bridge = count, f"isthmus{SHARE}"
        self.close()
        try:
            self.make()
        except BaseException:
            self.close()
            raise

    def make(self):
        run("ip", "link", "add", self.bridge, "type", "bridge")
        for outside in (OUTSIDE, WAYS):
            run("ip", "addr", "add", f"{address(outside)}/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        for number in range(1, self.count + 1):
            outer, inner = f"isth{SHARE}o{number}", f"isth{SHARE}i{number}"
            run("ip", "netns", "add", space(number))
            run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
            run("ip", "link", "set", outer, "master", self.bridge, "up")
            run("ip", "link", "set", inner, "netns", space(number))
            self.within(number, "ip", "addr", "add", f"{address(number)}/24", "dev", inner)
            for device in ("lo", inner):
                self.within(number, "ip", "link", "set", device, "up")

    def unreached(self):
        """What keeps the networks from reaching each other and the outside; None where they do."""
        with socket.create_server((address(OUTSIDE), 0)) as listener:
            port = listener.getsockname()[1]
            listen = ("import socket, sys; server = socket.create_server((sys.argv[1], 9)); "
                      "print('ready', flush=True); server.settimeout(20); server.accept()")
            with subprocess.Popen([*self.wrapper(2), sys.executable, "-c", listen, address(2)],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
                try:
                    other.stdout.readline()
                    dial = ("import socket, sys; socket.create_connection((sys.argv[1], "
                            "int(sys.argv[2])), 3)")
                    for host, place in ((address(OUTSIDE), port), (address(2), 9)):
                        done = self.within(1, sys.executable, "-c", dial, host, str(place),
                                           check=False)
                        if done.returncode != 0:
                            return "networks joined by a bridge do not reach each other here"
                finally:
                    other.kill()
        return None

    @staticmethod
    def wrapper(number):
        # Without a mount namespace of its own, as `ip netns exec` would make.
        return ("nsenter", f"--net=/run/netns/{space(number)}")

    def within(self, number, *command, check=True):
        return run(*self.wrapper(number), *command, check=check)

    def cut(self, number, hears=False, is_heard=False):
        """Cuts a region off the others, both ways or one."""
        for other in range(1, self.count + 1):
            if other == number:
                continue
            if not hears:
                self.within(number, "iptables", "-A", "INPUT", "-s", address(other), "-j", "DROP")
            if not is_heard:
                self.within(number, "iptables", "-A", "OUTPUT", "-d", address(other), "-j", "DROP")

    def lose(self, probability):
        """Loses a share of all packets that come to a region from others, or by ways with jitter."""
        for number in range(1, self.count + 1):
            for other in [*range(1, self.count + 1), WAYS]:
                self.within(number, "iptables", "-A", "INPUT", "-s", address(other), "-m",
                            "statistic", "--mode", "random", "--probability", probability, "-j",
                            "DROP")

    def heal(self):
        for number in range(1, self.count + 1):
            self.within(number, "iptables", "-F", check=False)

    def bytes_between(self, number):
        """Bytes of a region's packets to and from others, since `count_bytes`."""
        told = self.within(number, "iptables", "-nvx", "-L").stdout
        peers = {address(other) for other in range(1, self.count + 1)}
        rows = [line.split() for line in told.splitlines()]
        return sum(int(row[1]) for row in rows if len(row) > 7 and peers & set(row))

    def count_bytes(self):
        for number in range(1, self.count + 1):
            for other in range(1, self.count + 1):
                self.within(number, "iptables", "-A", "INPUT", "-s", address(other))
                self.within(number, "iptables", "-A", "OUTPUT", "-d", address(other))

    def close(self):
        for number in range(1, self.count + 1):
            run("ip", "netns", "del", space(number), check=False)
            run("ip", "link", "del", f"isth{SHARE}o{number}", check=False)
        run("ip", "link", "del", self.bridge, check=False)


def move(region, number, base):
    """Rewrites a region's file, made for one machine, for networks of their own. The port for
    administration stays where only the region's own network reaches it."""
    path = pathlib.Path(region.config)

    def moved(found):
        owner, kind = divmod(int(found.group(1)) - base, 10)
        return found.group(0) if kind == 1 else f"{address(owner)}:{found.group(1)}"

    text = re.sub(r"127\.0\.0\.1:(\d+)", moved, path.read_text())
    # The secret that everybody knows is taken on a loopback address only.
    path.write_text(text.replace(region.cluster.told["access_key_secret"], SECRET))
    region.endpoint = re.sub(r"127\.0\.0\.1:(\d+)", moved, region.endpoint)
    region.wrapper = Networks.wrapper(number)


@contextlib.contextmanager
def apart(folder, count=3, arguments=("--quorum",), edit=None, jitter=None):
    """Regions in networks of their own: (cluster, networks). `edit` changes the text of a file; with
    `jitter` all between regions is held up for up to so many seconds."""
    with contextlib.ExitStack() as stack:
        networks = Networks(count)
        stack.callback(networks.close)
        running = stack.enter_context(
            cluster.Cluster(regions=count, folder=folder, arguments=list(arguments)))
        running.stop()
        for number, region in enumerate(running.regions, 1):
            move(region, number, running.base)
            path = pathlib.Path(region.config)
            text = path.read_text()
            for peer in re.findall(r'^peer = "([^"]+)"', text, re.M) if jitter else []:
                way = stack.enter_context(contextlib.closing(Jitter(peer, jitter)))
                text = text.replace(f'peer = "{peer}"', f'peer = "{way.place}"')
            path.write_text(edit(text) if edit else text)
        running.credentials = wire.Credentials(
            running.instance, running.told["access_key_id"], SECRET)
        for region in running.regions:
            region.start(wait=False)
        for region in running.regions:
            region.wait_serving()
        yield running, networks


class Jitter:
    """A way from one region to another that holds up what goes either way, in its order, for a random
    time up to so many seconds."""

    def __init__(self, to, most):
        self.to, self.most = to, most
        self.listener = socket.create_server((address(WAYS), 0), backlog=64)
        self.listener.settimeout(0.5)
        self.place = f"{address(WAYS)}:{self.listener.getsockname()[1]}"
        self.ending = threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while not self.ending.is_set():
            try:
                near, _ = self.listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            near.settimeout(None)
            threading.Thread(target=self.join, args=(near,), daemon=True).start()

    def join(self, near):
        host, port = self.to.split(":")
        try:
            far = socket.create_connection((host, int(port)), 5, (address(WAYS), 0))
            far.settimeout(None)
        except OSError:
            near.close()
            return
        for here, there in ((near, far), (far, near)):
            there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting = queue.SimpleQueue()
            threading.Thread(target=self.take, args=(here, waiting), daemon=True).start()
            threading.Thread(target=self.give, args=(there, waiting), daemon=True).start()

    def take(self, here, waiting):
        due = 0.0
        while True:
            try:
                data = here.recv(65536)
            except OSError:
                data = b""
            due = max(due, time.monotonic() + random.uniform(0, self.most))
            waiting.put((due, data))
            if not data:
                return

    @staticmethod
    def give(there, waiting):
        while True:
            due, data = waiting.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if not data:
                    there.shutdown(socket.SHUT_RDWR)
                    return
                there.sendall(data)
            except OSError:
                return

    def close(self):
        self.ending.set()
        self.listener.close()
