"""Transactions of real clients, many at once: counters that lose nothing, deadlocks with one
victim, a job queue, waits that time out or are killed, and clients that vanish with locks.

Usage: check_isolation.py [--seconds 3]
"""

import argparse
import random
import threading
import time

import pymysql

from damask import playground

CLIENTS = 8
DEADLOCK, TIMEOUT, NOWAIT, INTERRUPTED = 1213, 1205, 3572, 1317
DEADLINE = 60


def run_all(bodies):
    """Runs each body in a thread of its own; the first problem is raised here."""
    problems = []

    def guarded(body):
        try:
            body()
        except BaseException as problem:  # noqa: BLE001: raised again below
            problems.append(problem)

    threads = [threading.Thread(target=guarded, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE + 120)
        assert not thread.is_alive(), "a client hangs"
    if problems:
        raise problems[0]


def one(cursor, sql, *values):
    cursor.execute(sql, values)
    return cursor.fetchone()[0]


def code_of(cursor, sql):
    """The number of the error, 0 if there is none."""
    try:
        cursor.execute(sql)
        return 0
    except pymysql.MySQLError as error:
        return error.args[0]


def until(what, holds):
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}"
        time.sleep(0.005)


def waits(server, connection):
    """Waits until the connection's statement asks for row locks."""
    admin = server.connect().cursor()

    def asks():
        admin.execute("SHOW PROCESSLIST")
        return any(row[0] == connection.thread_id() and row[6] == "waiting for row locks"
                   for row in admin.fetchall())

    until("a wait for a lock", asks)
    admin.connection.close()


def counters(server, seconds, level, transaction):
    """N clients add to one row; no client repeats anything, and nothing is lost."""
    cursor = server.connect(autocommit=True).cursor()
    cursor.execute("CREATE TABLE counter (id INT PRIMARY KEY, n INT NOT NULL)")
    cursor.execute("INSERT INTO counter VALUES (1, 0), (2, 0)")
    done = [0] * CLIENTS

    def client(at):
        own = server.connect(autocommit=True).cursor()
        own.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {level}")
        end = time.monotonic() + seconds
        # Once at least: somebody who never comes first is seen to hang.
        while done[at] == 0 or time.monotonic() < end:
            if transaction:
                own.execute("BEGIN")
                if at % 2:
                    n = one(own, "SELECT n FROM counter WHERE id = 1 FOR UPDATE")
                    own.execute("UPDATE counter SET n = %s WHERE id = 1", (n + 1,))
                else:
                    own.execute("UPDATE counter SET n = n + 1 WHERE id = 1")
                own.execute("UPDATE counter SET n = n + 1 WHERE id = 2")
                own.execute("COMMIT")
            else:
                own.execute("UPDATE counter SET n = n + 1")
            done[at] += 1

    run_all([lambda at=at: client(at) for at in range(CLIENTS)])
    cursor.execute("SELECT n FROM counter ORDER BY id")
    found = [row[0] for row in cursor.fetchall()]
    assert found == [sum(done)] * 2, f"{found} after {sum(done)} additions"
    cursor.execute("DROP TABLE counter")
    print(f"counters ({level}, {'transactions' if transaction else 'statements'}): "
          f"{sum(done)} additions by {CLIENTS} clients", flush=True)


def deadlocks(server, rounds):
    """Circles of two and three: one victim each, and the others commit."""
    cursor = server.connect(autocommit=True).cursor()
    cursor.execute("CREATE TABLE ring (id INT PRIMARY KEY, n INT NOT NULL)")
    cursor.execute("INSERT INTO ring VALUES (0, 0), (1, 0), (2, 0)")
    for number in range(rounds):
        size = 2 + number % 2
        barrier = threading.Barrier(size, timeout=DEADLINE)
        outcomes = [None] * size

        def client(at, size=size, barrier=barrier, outcomes=outcomes):
            own = server.connect(autocommit=True).cursor()
            own.execute("BEGIN")
            own.execute("UPDATE ring SET n = n + 1 WHERE id = %s", (at,))
            barrier.wait()
            after = (at + 1) % size
            outcomes[at] = code_of(own, f"UPDATE ring SET n = n + 1 WHERE id = {after}")
            if outcomes[at] == 0:
                own.execute("COMMIT")
            else:
                # The whole transaction is rolled back: nothing of it is committed here.
                own.execute("COMMIT")

        before = one(cursor, "SELECT sum(n) FROM ring")
        run_all([lambda at=at: client(at) for at in range(size)])
        assert sorted(outcomes) == [0] * (size - 1) + [DEADLOCK], outcomes
        total = one(cursor, "SELECT sum(n) FROM ring")
        assert total - before == 2 * (size - 1), f"{total - before} of {size} clients"
    cursor.execute("DROP TABLE ring")
    print(f"deadlocks: {rounds} circles, one victim each", flush=True)


def transfers(server, seconds):
    """Random transfers that lock in any order: deadlocks are the only errors, the total stays."""
    accounts, balance = 10, 100
    cursor = server.connect(autocommit=True).cursor()
    cursor.execute("CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL)")
    cursor.executemany("INSERT INTO account VALUES (%s, %s)",
                       [(i, balance) for i in range(accounts)])
    counts = {"commits": 0, "victims": 0}
    guard = threading.Lock()

    def client(at):
        chance = random.Random(at)
        own = server.connect(autocommit=True).cursor()
        end = time.monotonic() + seconds
        committed = False
        while not committed or time.monotonic() < end:
            a, b = chance.sample(range(accounts), 2)
            amount = chance.randint(1, 30)
            own.execute("BEGIN")
            try:
                own.execute("UPDATE account SET balance = balance - %s "
                            "WHERE id = %s AND balance >= %s", (amount, a, amount))
                if own.rowcount:
                    own.execute("UPDATE account SET balance = balance + %s WHERE id = %s",
                                (amount, b))
                own.execute("COMMIT")
                committed = True
                with guard:
                    counts["commits"] += 1
            except pymysql.MySQLError as error:
                if error.args[0] != DEADLOCK:
                    raise
                with guard:
                    counts["victims"] += 1

    def reader():
        own = server.connect(autocommit=True).cursor()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            total, least = None, None
            own.execute("SELECT sum(balance), min(balance) FROM account")
            total, least = own.fetchone()
            assert total == accounts * balance and least >= 0, (total, least)

    run_all([lambda at=at: client(at) for at in range(CLIENTS)] + [reader])
    assert one(cursor, "SELECT sum(balance) FROM account") == accounts * balance
    assert counts["commits"] >= CLIENTS
    cursor.execute("DROP TABLE account")
    print(f"transfers: {counts['commits']} commits, {counts['victims']} victims", flush=True)


def queue(server, jobs):
    """Workers take jobs with SKIP LOCKED: each job is done once, and nobody waits."""
    cursor = server.connect(autocommit=True).cursor()
    cursor.execute("CREATE TABLE job (id INT PRIMARY KEY, state VARCHAR(8), KEY (state))")
    cursor.execute("CREATE TABLE done (worker INT, job INT)")
    cursor.executemany("INSERT INTO job VALUES (%s, 'new')", [(i,) for i in range(jobs)])

    barrier = threading.Barrier(CLIENTS, timeout=DEADLINE)

    def worker(at):
        own = server.connect(autocommit=True).cursor()
        barrier.wait()
        while True:
            own.execute("BEGIN")
            own.execute("SELECT id FROM job WHERE state = 'new' ORDER BY id LIMIT 1 "
                        "FOR UPDATE SKIP LOCKED")
            row = own.fetchone()
            if row:
                own.execute("UPDATE job SET state = 'done' WHERE id = %s", row)
                own.execute("INSERT INTO done VALUES (%s, %s)", (at, row[0]))
            own.execute("COMMIT")
            # Jobs that others have locked are still theirs to finish.
            if not row and one(own, "SELECT count(*) FROM job WHERE state = 'new'") == 0:
                return

    run_all([lambda at=at: worker(at) for at in range(CLIENTS)])
    cursor.execute("SELECT count(*), count(DISTINCT job), count(DISTINCT worker) FROM done")
    count, distinct, workers = cursor.fetchone()
    assert (count, distinct) == (jobs, jobs), f"{count} jobs done, {distinct} of them different"
    assert workers > 1, "one worker did it all"
    cursor.execute("DROP TABLE job, done")
    print(f"queue: {jobs} jobs, each done once, by {workers} workers", flush=True)


def waiting(server):
    """A wait ends: by NOWAIT, by its time, by KILL, by the holder's end, however that comes."""
    cursor = server.connect(autocommit=True).cursor()
    cursor.execute("CREATE TABLE held (id INT PRIMARY KEY, n INT NOT NULL)")
    cursor.execute("INSERT INTO held VALUES (1, 0)")
    holder = server.connect(autocommit=True)
    holder.cursor().execute("BEGIN")
    holder.cursor().execute("UPDATE held SET n = n + 1 WHERE id = 1")

    waiter = server.connect(autocommit=True)
    own = waiter.cursor()
    own.execute("BEGIN")
    assert code_of(own, "SELECT n FROM held WHERE id = 1 FOR UPDATE NOWAIT") == NOWAIT
    own.execute("SET innodb_lock_wait_timeout = 1")
    assert code_of(own, "UPDATE held SET n = n + 1 WHERE id = 1") == TIMEOUT
    own.execute("SET innodb_lock_wait_timeout = 50")

    outcome = []

    def wait():
        outcome.append(code_of(own, "UPDATE held SET n = n + 10 WHERE id = 1"))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    waits(server, waiter)
    cursor.execute(f"KILL QUERY {waiter.thread_id()}")
    thread.join(DEADLINE)
    assert outcome == [INTERRUPTED], outcome

    # The transaction goes on after each of them, and gets the row when its holder vanishes.
    outcome.clear()
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    waits(server, waiter)
    holder.close()
    thread.join(DEADLINE)
    assert outcome == [0], outcome
    own.execute("COMMIT")
    assert one(cursor, "SELECT n FROM held WHERE id = 1") == 10
    cursor.execute("DROP TABLE held")
    print("waits: NOWAIT, time-out, KILL QUERY, a holder that vanished", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    with playground() as server:
        for level in ("REPEATABLE READ", "READ COMMITTED"):
            counters(server, options.seconds, level, transaction=True)
        counters(server, options.seconds, "REPEATABLE READ", transaction=False)
        deadlocks(server, 10)
        transfers(server, options.seconds)
        queue(server, 200)
        waiting(server)
    print("ok isolation")


main()
