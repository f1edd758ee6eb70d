"""kill -9 under a bank-transfer load: the total stays, and every acknowledged transfer is there.

Usage: check_kill.py [--rounds 20] [--seconds 1.5]
"""

import argparse
import random
import threading
import time

import pymysql

from damask import Playground, wait_for_columns

ACCOUNTS = 50
BALANCE = 1000
CLIENTS = 4


class Client(threading.Thread):
    """Transfers until the server is gone; remembers what was acknowledged, and what is in doubt."""

    def __init__(self, server, seed):
        super().__init__(daemon=True)
        self.server = server
        self.random = random.Random(seed)
        self.stop = threading.Event()
        self.options = {}
        self.acknowledged = []
        self.in_doubt = []
        self.problem = None

    def run(self):
        try:
            connection = self.server.connect(autocommit=False, **self.options)
        except pymysql.Error:
            return
        while not self.stop.is_set():
            transfer = self.random.getrandbits(62)
            try:
                if self.transfer(connection.cursor(), transfer):
                    try:
                        connection.commit()
                        self.acknowledged.append(transfer)
                    except pymysql.err.OperationalError as error:
                        if error.args[0] in (8501, 2013, 2006):
                            self.in_doubt.append(transfer)
                        if error.args[0] in (2013, 2006):
                            return
                else:
                    connection.rollback()
            except pymysql.MySQLError as error:
                if error.args[0] in (9007, 1213, 1205, 8028, 9005, 8501):
                    try:
                        connection.rollback()
                        continue
                    except pymysql.MySQLError:
                        return
                if error.args[0] not in (2013, 2006, 2003, 0):
                    self.problem = error
                return
            except (OSError, EOFError):
                return

    def transfer(self, cursor, transfer):
        a, b = self.random.sample(range(ACCOUNTS), 2)
        amount = self.random.randint(1, 20)
        cursor.execute("SELECT balance FROM account WHERE id = %s", (a,))
        if cursor.fetchone()[0] < amount:
            return False
        cursor.execute("UPDATE account SET balance = balance - %s WHERE id = %s", (amount, a))
        cursor.execute("UPDATE account SET balance = balance + %s WHERE id = %s", (amount, b))
        cursor.execute("INSERT INTO transfer VALUES (%s, %s, %s, %s)", (transfer, a, b, amount))
        return True


def verify(server, acknowledged):
    connection = server.connect()
    wait_for_columns(connection, ["account", "transfer"])
    cursor = connection.cursor()
    for engine in ("row", "column"):
        cursor.execute(f"SET damask_isolation_read_engines = '{engine}'")
        cursor.execute("BEGIN")
        cursor.execute("SELECT count(*), sum(balance) FROM account")
        total = cursor.fetchone()
        assert total == (ACCOUNTS, ACCOUNTS * BALANCE), f"{engine}: total is {total}"
        cursor.execute("SELECT id, source, target, amount FROM transfer")
        transfers = cursor.fetchall()
        cursor.execute("SELECT id, balance FROM account")
        balances = dict(cursor.fetchall())
        cursor.execute("COMMIT")
        lost = acknowledged - {t[0] for t in transfers}
        assert not lost, f"{engine}: {len(lost)} acknowledged transfers are lost"
        expected = dict.fromkeys(range(ACCOUNTS), BALANCE)
        for _, source, target, amount in transfers:
            expected[source] -= amount
            expected[target] += amount
        assert balances == expected, f"{engine}: a half transfer is there"
    connection.close()
    return len(transfers)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.5)
    options = parser.parse_args()
    server = Playground()
    acknowledged = set()
    seed = time.time_ns()
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    try:
        server.start()
        connection = server.connect()
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE account (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL)")
        cursor.execute("CREATE TABLE transfer (id BIGINT PRIMARY KEY, source BIGINT NOT NULL, "
                       "target BIGINT NOT NULL, amount BIGINT NOT NULL, KEY (source))")
        cursor.executemany("INSERT INTO account VALUES (%s, %s)",
                           [(i, BALANCE) for i in range(ACCOUNTS)])
        connection.commit()
        cursor.execute("ALTER TABLE account SET COLUMN REPLICA 1")
        cursor.execute("ALTER TABLE transfer SET COLUMN REPLICA 1")
        connection.close()
        for number in range(options.rounds):
            clients = [Client(server, chance.getrandbits(64)) for _ in range(CLIENTS)]
            for client in clients:
                client.start()
            time.sleep(options.seconds * chance.uniform(0.5, 1.5))
            server.kill()
            for client in clients:
                client.join(30)
                assert not client.is_alive(), "a client hangs"
                if client.problem:
                    raise client.problem
                acknowledged.update(client.acknowledged)
            start = time.monotonic()
            server.start()
            there = verify(server, acknowledged)
            print(f"round {number + 1}: {len(acknowledged)} acknowledged, {there} there, "
                  f"back after {time.monotonic() - start:.1f} s", flush=True)
        assert len(acknowledged) > options.rounds, "almost nothing was acknowledged"
        server.stop()
    except BaseException:
        print(server.log_tail())
        raise
    finally:
        server.remove()
    print(f"ok kill: {options.rounds} rounds, {len(acknowledged)} acknowledged transfers")


if __name__ == "__main__":
    main()
