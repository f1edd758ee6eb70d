"""A real process on a real disk under faults, with real clients: killed, stopped for a while, its
disk filled, its clients' connections cut, slowed and swallowed. Bank transfers and lists that grow
run all the time; after each fault everything that was acknowledged is there, in rows and columns.

Usage: check_faults.py [--rounds 10] [--seconds 3] [--only KIND] [--seed N]
The disk is a tmpfs of its own; where none may be mounted, that fault is left out and it is said.
"""

import argparse
import collections
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pymysql

from check_kill import ACCOUNTS, BALANCE, Client, verify
from damask import Playground, wait_for_columns

CLIENTS = 3
LISTS = 6  # of each round
DISK_MB = 1024
RESERVE_BYTES = 64 << 20
# Lists are long, and written whole: older versions would fill the disk.
GC_LIFE_TIME_MS = 30_000
# What is left for a burst of rows where nothing is kept in reserve.
BURST_BYTES = 30 << 20
BURST_ROW_BYTES = 200_000
BURSTS_MAX = 10
# Nothing was written: conflicts, deadlocks, waits that took too long, a full disk.
REFUSED = (9007, 8002, 1213, 1205, 8028, 9005, 1021)
DEADLINE = 120


class Proxy:
    """Between clients and a server: passes, slows, swallows or cuts."""

    def __init__(self, port):
        self.target = port
        self.delay = 0.0
        self.swallows = False
        self.pairs = set()
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self.lock:
                self.pairs.add((client, server))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self.pump, args=pair, daemon=True).start()

    def pump(self, source, target):
        try:
            while data := source.recv(1 << 16):
                if self.swallows:
                    continue
                if self.delay:
                    time.sleep(self.delay)
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        """Ends every connection; what was on its way is lost."""
        with self.lock:
            pairs, self.pairs = self.pairs, set()
        for end in (end for pair in pairs for end in pair):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()

    def close(self):
        self.listener.close()
        self.cut()


class Teller(Client):
    """Transfers, over new connections when one is lost, until it is told to stop."""

    def __init__(self, server, seed, stop, port):
        super().__init__(server, seed)
        self.stop = stop
        self.options = {"port": port, "read_timeout": 10, "write_timeout": 10}

    def run(self):
        while not self.stop.is_set():
            super().run()
            # Whatever it was told: nothing was acknowledged with it.
            self.problem = None
            self.stop.wait(0.02)


class Writer(threading.Thread):
    """Optimistic transactions that read lists and append to them, as list-append wants them."""

    def __init__(self, server, seed, stop, port, lists):
        super().__init__(daemon=True)
        self.server, self.stop, self.port, self.lists = server, stop, port, lists
        self.random = random.Random(seed)
        self.history = []
        self.errors = collections.Counter()

    def run(self):
        while not self.stop.is_set():
            try:
                connection = self.server.connect(
                    port=self.port, autocommit=True, read_timeout=10, write_timeout=10)
                while not self.stop.is_set():
                    self.transaction(connection.cursor())
            except (pymysql.MySQLError, OSError, EOFError) as error:
                self.errors[error.args[0] if error.args else 0] += 1
                self.stop.wait(0.02)

    def transaction(self, cursor):
        run = {"reads": {}, "appends": {}, "outcome": "failed"}
        self.history.append(run)
        try:
            cursor.execute("BEGIN OPTIMISTIC")
            for _ in range(self.random.randint(1, 4)):
                row = self.random.choice(self.lists)
                if row not in run["appends"] and row not in run["reads"]:
                    cursor.execute("SELECT elements FROM list WHERE id = %s", (row,))
                    run["reads"][row] = elements(cursor.fetchone()[0])
                if self.random.random() < 0.6:
                    element = self.random.getrandbits(52)
                    cursor.execute(
                        "UPDATE list SET elements = CONCAT(elements, %s) WHERE id = %s",
                        (f"{element},", row))
                    run["appends"].setdefault(row, []).append(element)
            run["outcome"] = "unknown"
            cursor.execute("COMMIT")
            run["outcome"] = "committed"
        except pymysql.MySQLError as error:
            if error.args[0] not in REFUSED:
                raise
            run["outcome"] = "failed"
            self.errors[error.args[0]] += 1
            cursor.execute("ROLLBACK")


def elements(text):
    return [int(part) for part in text.split(",") if part]


def check_lists(history, final):
    """Snapshot isolation of a list-append history, by its cycles."""
    writer = {}
    for number, run in enumerate(history):
        for row, appended in run["appends"].items():
            there = [e for e in appended if e in final[row]]
            assert run["outcome"] != "failed" or not there, f"{run}: it failed, and {there} is there"
            if run["outcome"] == "committed":
                assert there == appended, f"{run}: acknowledged, and only {there} is there"
            writer.update(((row, element), number) for element in there)
    for row, all_of in final.items():
        assert len(set(all_of)) == len(all_of), f"list {row} holds an element twice"
        for element in all_of:
            assert (row, element) in writer, f"list {row} holds {element}, which nobody wrote"
    happened = {number for number in writer.values()}
    for number, run in enumerate(history):
        if number in happened:
            run["outcome"] = "committed"
            lost = [e for row, all_of in run["appends"].items()
                    for e in all_of if (row, e) not in writer]
            assert not lost, f"{run}: only a part of it is there"
    strong, anti = collections.defaultdict(set), set()
    for row, all_of in final.items():
        writers = [writer[(row, element)] for element in all_of]
        for before, after in zip(writers, writers[1:]):
            if before != after:
                strong[before].add(after)
    for number, run in enumerate(history):
        if run["outcome"] != "committed":
            continue
        for row, seen in run["reads"].items():
            all_of = final[row]
            assert seen == all_of[:len(seen)], f"{run}: list {row} is {all_of}"
            if seen and (before := writer[(row, seen[-1])]) != number:
                strong[before].add(number)
            if len(seen) < len(all_of) and (after := writer[(row, all_of[len(seen)])]) != number:
                anti.add((number, after))
    order = topological(strong, len(history))
    for before, after in anti:
        assert not reaches(strong, order, after, before), (
            f"{history[before]} missed {history[after]}, which came before it")


def topological(edges, size):
    """Each node's place; a cycle of versions and reads is no history at all."""
    incoming = [0] * size
    for after in (node for nodes in edges.values() for node in nodes):
        incoming[after] += 1
    ready = [node for node in range(size) if not incoming[node]]
    place = {}
    while ready:
        node = ready.pop()
        place[node] = len(place)
        for after in edges.get(node, ()):
            incoming[after] -= 1
            if not incoming[after]:
                ready.append(after)
    assert len(place) == size, "transactions depend on one another in a circle"
    return place


def reaches(edges, order, start, goal):
    seen, rest = {start}, [start]
    while rest:
        node = rest.pop()
        if node == goal:
            return True
        for after in edges.get(node, ()):
            if after not in seen and order[after] <= order[goal]:
                seen.add(after)
                rest.append(after)
    return False


class Server(Playground):
    """On a file system of its own, if one may be mounted."""

    def __init__(self, reserve_bytes=RESERVE_BYTES):
        super().__init__()
        self.folder = os.path.join(self.data, "cluster")
        self.ballast = os.path.join(self.folder, "ballast")
        os.mkdir(self.folder)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "damask", self.folder]
        self.mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        config = os.path.join(self.data, "config.toml")
        with open(config, "w") as f:
            f.write(f"reserve_bytes = {reserve_bytes}\n")
            f.write(f"[gc]\nlife_time_ms = {GC_LIFE_TIME_MS}\ninterval_ms = 10000\n")
        self.options = ["--config", config]

    def fill(self, leave):
        """Leaves so many bytes free."""
        stat = os.statvfs(self.folder)
        with open(self.ballast, "ab") as f:
            more = max(1, stat.f_bavail * stat.f_frsize - leave)
            os.posix_fallocate(f.fileno(), f.seek(0, os.SEEK_END), more)

    def free(self):
        if os.path.exists(self.ballast):
            os.remove(self.ballast)

    def remove(self):
        self.kill()
        if self.mounted:
            subprocess.run(["umount", self.folder], check=False)
        super().remove()


def kill(server, proxy, chance, seconds):
    server.kill()
    time.sleep(chance.uniform(0, 0.3))
    server.start()


def pause(server, proxy, chance, seconds):
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(seconds * chance.uniform(0.3, 1.2))
    server.process.send_signal(signal.SIGCONT)


def cut(server, proxy, chance, seconds):
    for _ in range(chance.randint(1, 4)):
        proxy.cut()
        time.sleep(seconds * chance.uniform(0.02, 0.3))


def slow(server, proxy, chance, seconds):
    proxy.delay = chance.uniform(0.01, 0.15)
    time.sleep(seconds)
    proxy.delay = 0.0


def swallow(server, proxy, chance, seconds):
    proxy.swallows = True
    time.sleep(seconds * chance.uniform(0.1, 0.5))
    proxy.cut()
    proxy.swallows = False


def fill(server, proxy, chance, seconds):
    """First below the reserve, where rows are refused; then to the last byte, where stores stop,
    and go on by themselves once there is room, if the process lives."""
    server.fill(RESERVE_BYTES // 2)
    time.sleep(seconds)
    if chance.random() < 0.7:
        server.fill(0)
        time.sleep(seconds)
        if chance.random() < 0.5:
            server.kill()
    server.free()
    if server.process.poll() is not None:
        server.start()


FAULTS = {"kill": kill, "pause": pause, "cut": cut, "slow": slow, "swallow": swallow, "fill": fill}


def set_up(server):
    connection = server.connect()
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL)")
    cursor.execute("CREATE TABLE transfer (id BIGINT PRIMARY KEY, source BIGINT NOT NULL, "
                   "target BIGINT NOT NULL, amount BIGINT NOT NULL, KEY (source))")
    cursor.execute("CREATE TABLE list (id BIGINT PRIMARY KEY, elements TEXT NOT NULL)")
    cursor.executemany("INSERT INTO account VALUES (%s, %s)",
                       [(i, BALANCE) for i in range(ACCOUNTS)])
    connection.commit()
    for table in ("account", "transfer", "list"):
        cursor.execute(f"ALTER TABLE {table} SET COLUMN REPLICA 1")
    connection.close()


def read_lists(server):
    """Of rows and of columns, at one timestamp."""
    connection = server.connect()
    wait_for_columns(connection, ["list"])
    cursor = connection.cursor()
    cursor.execute("BEGIN")
    found = []
    for engine in ("row", "column"):
        cursor.execute(f"SET damask_isolation_read_engines = '{engine}'")
        cursor.execute("SELECT id, elements FROM list")
        found.append({row: elements(text) for row, text in cursor.fetchall()})
    cursor.execute("COMMIT")
    connection.close()
    assert found[0] == found[1], "rows and columns differ"
    return found[0]


def until(what, body):
    """Again and again: the cluster may still be electing."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            return body()
        except (pymysql.MySQLError, OSError) as error:
            assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}: {error}"
            time.sleep(0.1)


def new_lists(server, number):
    """The round's own, empty."""
    lists = range(number * LISTS, (number + 1) * LISTS)
    connection = server.connect()
    connection.cursor().executemany("REPLACE INTO list VALUES (%s, '')", [(i,) for i in lists])
    connection.commit()
    connection.close()
    return lists


def round_of(server, number, kind, chance, seconds, acknowledged, finals):
    lists = until("new lists", lambda: new_lists(server, number))
    proxy, stop = Proxy(server.port), threading.Event()
    make = lambda kind, *more: [  # noqa: E731
        kind(server, chance.getrandbits(64), stop, proxy.port, *more) for _ in range(CLIENTS)]
    tellers, writers = make(Teller), make(Writer, lists)
    for client in tellers + writers:
        client.start()
    time.sleep(seconds / 2)
    FAULTS[kind](server, proxy, chance, seconds)
    time.sleep(seconds / 2)
    stop.set()
    proxy.swallows = False
    for client in tellers + writers:
        client.join(DEADLINE)
        assert not client.is_alive(), "a client hangs"
    proxy.close()
    for teller in tellers:
        acknowledged.update(teller.acknowledged)
    history = [run for writer in writers for run in writer.history]
    there = until("the bank", lambda: verify(server, acknowledged))
    found = until("the lists", lambda: read_lists(server))
    check_lists(history, {row: found[row] for row in lists})
    for row, elements_then in finals.items():
        assert found[row] == elements_then, f"list {row} of an earlier round has changed"
    finals.update(found)
    errors = sum((writer.errors for writer in writers), collections.Counter())
    return there, sum(run["outcome"] == "committed" for run in history), dict(errors)


def burst(server, acknowledged):
    """Rows until something fails; the stores that have stopped by then. There are none if the
    look at the file system came between its last byte and the next write."""
    server.free()
    server.fill(BURST_BYTES)

    def insert():
        row = random.getrandbits(62)
        with server.connect(read_timeout=2, autocommit=True) as connection:
            connection.cursor().execute("INSERT INTO burst VALUES (%s, %s)",
                                        (row, random.randbytes(BURST_ROW_BYTES)))
        acknowledged.add(row)

    until("room again", insert)
    try:
        for _ in range(2 * BURST_BYTES // BURST_ROW_BYTES):
            insert()
        raise AssertionError("there was room for everything")
    except (pymysql.MySQLError, OSError):
        pass
    url = f"http://127.0.0.1:{server.status}/status"
    stores = json.load(urllib.request.urlopen(url))["stores"]
    return [store for store in stores if store["state"] == "failed"]


def overflow():
    """Without a reserve a burst of rows to the last byte stops stores; room starts them again."""
    server, acknowledged = Server(reserve_bytes=1), set()
    try:
        server.start()
        connection = server.connect(autocommit=True)
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE burst (id BIGINT PRIMARY KEY, data LONGBLOB NOT NULL)")
        for _ in range(BURSTS_MAX):
            stopped = burst(server, acknowledged)
            if stopped:
                break
        assert stopped, f"no store has stopped in {BURSTS_MAX} bursts"
        server.free()

        def rows():
            connection = server.connect(autocommit=True)
            cursor = connection.cursor()
            cursor.execute("SELECT id FROM burst")
            found = {row for row, in cursor.fetchall()}
            cursor.execute("REPLACE INTO burst VALUES (-1, 'there is room')")
            connection.close()
            return found

        found = until("rows again", rows)
        assert acknowledged <= found, f"lost: {acknowledged - found}"
        server.stop()
    except BaseException:
        print(server.log_tail())
        raise
    finally:
        server.remove()
    print(f"overflow: {len(stopped)} stores stopped, and went on with {len(acknowledged)} rows",
          flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--only", choices=FAULTS)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    chance = random.Random(options.seed)
    server = Server()
    kinds = [options.only] if options.only else list(FAULTS)
    if not server.mounted and "fill" in kinds:
        print("no tmpfs may be mounted here: the disk is not filled", flush=True)
        kinds.remove("fill")
    acknowledged, finals, committed = set(), {}, 0
    try:
        if "fill" in kinds:
            overflow()
        server.start()
        set_up(server)
        for number in range(options.rounds):
            # Each kind once, then any.
            kind = kinds[number] if number < len(kinds) else chance.choice(kinds)
            there, lists, errors = round_of(
                server, number, kind, chance, options.seconds, acknowledged, finals)
            committed += lists
            print(f"round {number + 1}, {kind}: {len(acknowledged)} acknowledged, {there} there, "
                  f"{lists} list transactions, errors {errors}", flush=True)
        assert len(acknowledged) > options.rounds < committed, "almost nothing was acknowledged"
        server.stop()
    except BaseException:
        print(server.log_tail())
        raise
    finally:
        server.remove()
    print(f"ok faults: {options.rounds} rounds, {len(acknowledged)} transfers, "
          f"{committed} list transactions")


if __name__ == "__main__":
    main()
