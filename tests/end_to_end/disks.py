"""A disk whose power can be cut: an ext4 image on a loop device, per region.

After `cut`, what was synced is there and what was not is gone, as after a power failure. Needs root
and loop devices; `missing()` says what this machine lacks.
"""

import contextlib
import ctypes
import fcntl
import functools
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import tempfile
import time

SHUTDOWN = 0x8004587D
# Neither the page cache nor the journal reaches the disk.
NO_FLUSH = 2
BUSY_SECONDS = 20


NEW_MOUNTS = 0x20000


@functools.cache
def alone():
    """Mounts of this process and its children are its own from now on. Else whoever takes a copy of
    all mounts meanwhile keeps a disk alive that was taken away here."""
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNTS) != 0:
        raise OSError(ctypes.get_errno(), "no mounts of one's own")
    run("mount", "--make-rprivate", "/")


def run(*command):
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=60)


def _stands_still(pid):
    """Whether each thread of a process is stopped, and so within no call of the kernel."""
    stats = pathlib.Path(f"/proc/{pid}/task").glob("*/stat")
    return all(one.read_text().rsplit(")", 1)[1].split()[0] == "T" for one in stats)


class Disk:
    """An image and where it is mounted."""

    def __init__(self, image, mount, megabytes=768):
        alone()
        self.image, self.mount = pathlib.Path(image), pathlib.Path(mount)
        self.mount.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as file:
            file.truncate(megabytes * 1024 * 1024)
        # Without lazy work in the background, so that a cut finds nothing but ours.
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)
        self.mounted = False
        self.attach()
        with contextlib.suppress(OSError):
            (self.mount / "lost+found").rmdir()

    def attach(self):
        # A commit interval far longer than a test: only a sync makes anything durable.
        run("mount", "-o", "loop,commit=600", self.image, self.mount)
        self.mounted = True

    def sync(self):
        descriptor = os.open(self.mount, os.O_RDONLY)
        try:
            run("sync", "-f", self.mount)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def shut(self):
        """The power goes: from here nothing more reaches the disk."""
        descriptor = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_FLUSH))
        finally:
            os.close(descriptor)

    def shut_under(self, pid):
        """The same under a process that goes on to write.

        None of its syncs is under way at that moment: Linux (seen with 6.18) may tell of such a one
        that it is done though the journal was given up before, which no cut of power does, since
        nobody is there to be told.
        """
        os.kill(pid, signal.SIGSTOP)
        try:
            until = time.monotonic() + BUSY_SECONDS
            while not _stands_still(pid):
                if time.monotonic() > until:
                    raise TimeoutError(f"process {pid} does not stand still")
                time.sleep(0.001)
            self.shut()
        finally:
            os.kill(pid, signal.SIGCONT)

    def detach(self, lazy=False):
        # A process that was killed may hold its files a moment longer than its parent knows.
        until = time.monotonic() + BUSY_SECONDS
        while self.mounted:
            try:
                run("umount", *(["-l"] if lazy else []), self.mount)
                self.mounted = False
            except subprocess.CalledProcessError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def cut(self):
        """Power off and on. Every process that uses the disk must be dead."""
        self.shut()
        self.detach()
        self.attach()

    def close(self):
        try:
            self.detach()
        except subprocess.CalledProcessError:
            self.detach(lazy=True)
        with contextlib.suppress(OSError):
            self.image.unlink()


def missing():
    """What keeps this machine from cutting power; None where it can."""
    if os.geteuid() != 0:
        return "power cuts need root"
    for tool in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(tool) is None:
            return f"power cuts need {tool}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            disk = Disk(f"{folder}/probe.img", f"{folder}/probe", 32)
        except (subprocess.CalledProcessError, OSError) as error:
            return f"no loop mounts here: {error}"
        try:
            (disk.mount / "lost").write_text("x")
            disk.cut()
            return "the file system cannot be shut down" if (disk.mount / "lost").exists() else None
        except OSError as error:
            return f"the file system cannot be shut down: {error}"
        finally:
            disk.close()
