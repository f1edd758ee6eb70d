"""While sysbench writes, `SELECT count(*), sum(k)` in one transaction gives equal answers from
rows and from columns.

Usage: check_same.py [--rounds 300]
"""

import argparse
import subprocess

from damask import playground, wait_for_columns


def sysbench(server, command, *options):
    return ["sysbench", "oltp_read_write", "--db-driver=mysql", "--mysql-host=127.0.0.1",
            f"--mysql-port={server.port}", "--mysql-user=root", "--mysql-db=test", "--tables=1",
            "--table-size=10000", "--mysql-ignore-errors=1213,9007,1020,1205", *options, command]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    with playground() as server:
        subprocess.run(sysbench(server, "prepare"), check=True, stdout=subprocess.DEVNULL)
        connection = server.connect()
        cursor = connection.cursor()
        cursor.execute("ALTER TABLE sbtest1 SET COLUMN REPLICA 1")
        wait_for_columns(connection, ["sbtest1"])
        writer = subprocess.Popen(sysbench(server, "run", "--threads=4", "--time=600"),
                                  stdout=subprocess.DEVNULL)
        try:
            answers = set()
            for number in range(options.rounds):
                cursor.execute("BEGIN")
                pair = []
                for engine in ("row", "column"):
                    cursor.execute(f"SET damask_isolation_read_engines = '{engine}'")
                    cursor.execute("SELECT count(*), sum(k) FROM sbtest1")
                    pair.append(cursor.fetchone())
                cursor.execute("COMMIT")
                assert pair[0] == pair[1], f"round {number}: rows say {pair[0]}, columns {pair[1]}"
                answers.add(pair[0])
            assert writer.poll() is None, f"sysbench ended early with {writer.returncode}"
        finally:
            writer.terminate()
            writer.wait()
    assert len(answers) > options.rounds // 10, "the data did not change: nothing was proved"
    print(f"ok same: {options.rounds} rounds, {len(answers)} different answers")


main()
