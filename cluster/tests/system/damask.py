"""Starts, kills and stops a playground for the system tests, and connects to it.

Loopback only, free ports, a folder of its own; ends only the process it started.
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pymysql

START_SECONDS = 60
STOP_SECONDS = 30


# Below the ports that the kernel gives to clients: a client of a server that is down must not
# take its port, nor connect to itself.
PORTS = range(20_000, 32_000)


def free_ports(count):
    """So many different ports that nobody listens at."""
    with contextlib.ExitStack() as held:
        ports = []
        while len(ports) < count:
            s = held.enter_context(socket.socket())
            try:
                s.bind(("127.0.0.1", random.choice(PORTS)))
                ports.append(s.getsockname()[1])
            except OSError:
                pass
        return ports


class Playground:
    """One `damask playground` process with a data folder that outlives it."""

    def __init__(self, *options):
        self.binary = os.environ["DAMASK_BINARY"]
        self.data = tempfile.mkdtemp(prefix="damask-test-")
        self.port, self.status = free_ports(2)
        self.options = list(options)
        self.process = None
        self.log = os.path.join(self.data, "log")

    def start(self):
        command = [self.binary, "playground", "--data", os.path.join(self.data, "cluster"),
                   "--mysql", f"127.0.0.1:{self.port}", "--status", f"127.0.0.1:{self.status}"]
        out = os.path.join(self.data, "out")
        with open(self.log, "ab") as log, open(out, "wb") as stdout:
            self.process = subprocess.Popen(command + self.options, stdout=stdout, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        text = ""
        while time.monotonic() < deadline:
            with open(out) as f:
                text = f.read()
            if "ready\n" in text:
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        self.kill()
        raise RuntimeError(f"the playground did not start:\n{text}\n{self.log_tail()}")

    def log_tail(self):
        with open(self.log, errors="replace") as f:
            return f.read()[-4000:]

    def kill(self):
        """kill -9, and wait for the end."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self):
        """Ctrl-C; it must end by itself."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                code = self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
                raise RuntimeError("the playground did not stop on Ctrl-C") from None
            if code != 0:
                raise RuntimeError(f"the playground ended with {code}:\n{self.log_tail()}")

    def connect(self, **options):
        options = {"user": "root", "host": "127.0.0.1", "port": self.port, "database": "test",
                   "connect_timeout": 10, "read_timeout": 120, "local_infile": True, **options}
        return pymysql.connect(**options)

    def remove(self):
        self.kill()
        shutil.rmtree(self.data, ignore_errors=True)


@contextlib.contextmanager
def playground(*options):
    server = Playground(*options)
    try:
        yield server.start()
        server.stop()
    finally:
        server.remove()


def wait_for_columns(connection, tables, seconds=60):
    """Waits until every named table of the current database has its column replicas."""
    deadline = time.monotonic() + seconds
    names = ",".join(f"'{t}'" for t in tables)
    with connection.cursor() as cursor:
        while time.monotonic() < deadline:
            cursor.execute("SELECT count(*) FROM information_schema.tiflash_replica WHERE "
                           f"table_schema = database() AND table_name IN ({names}) AND available = 1")
            if cursor.fetchone()[0] == len(tables):
                return
            time.sleep(0.05)
    raise RuntimeError(f"no column replicas of {names} after {seconds} s")
