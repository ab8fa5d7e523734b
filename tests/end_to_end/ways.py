"""A way between two ports of this machine on which everything takes its time."""

import contextlib
import queue
import socket
import threading
import time


class Way:
    """Passes on to a port, each way and in order, what came so many seconds ago."""

    def __init__(self, to, delay):
        self.to, self.delay = to, delay
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.place = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            host, port = self.to.rsplit(":", 1)
            try:
                far = socket.create_connection((host, int(port)), 10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for here, there in ((near, far), (far, near)):
                there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                waiting = queue.Queue(4096)
                threading.Thread(target=self.take, args=(here, waiting), daemon=True).start()
                threading.Thread(target=self.give, args=(there, waiting), daemon=True).start()

    def take(self, here, waiting):
        data = b"more"
        while data:
            try:
                data = here.recv(65536)
            except OSError:
                data = b""
            waiting.put((time.monotonic() + self.delay, data))

    @staticmethod
    def give(there, waiting):
        data, is_open = b"more", True
        while data:
            # To the end, also where nobody is left: whoever takes must never wait for ever.
            due, data = waiting.get()
            time.sleep(max(0.0, due - time.monotonic()) if is_open else 0)
            try:
                there.sendall(data)
            except OSError:
                is_open = False
        with contextlib.suppress(OSError):
            there.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.close()
