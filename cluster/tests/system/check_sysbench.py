"""Debian's sysbench prepares, runs and cleans up; its only errors are retried write conflicts.

Usage: check_sysbench.py [--seconds 30] [SCRIPT ...]
"""

import argparse
import re
import subprocess

from damask import playground

SCRIPTS = ["oltp_read_write", "oltp_point_select", "oltp_insert"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("scripts", nargs="*", default=SCRIPTS)
    options = parser.parse_args()
    with playground() as server:
        for script in options.scripts:
            command = ["sysbench", script, "--db-driver=mysql", "--mysql-host=127.0.0.1",
                       f"--mysql-port={server.port}", "--mysql-user=root", "--mysql-db=test",
                       "--tables=2", "--table-size=10000", "--threads=4",
                       f"--time={options.seconds}", "--mysql-ignore-errors=9007,1213,1205"]
            subprocess.run([*command, "prepare"], check=True, stdout=subprocess.DEVNULL)
            run = subprocess.run([*command, "run"], stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True)
            assert run.returncode == 0, run.stdout
            done = re.search(r"transactions:\s+(\d+)\s+\(([\d.]+) per sec", run.stdout)
            errors = re.search(r"ignored errors:\s+(\d+)", run.stdout)
            p95 = re.search(r"95th percentile:\s+([\d.]+)", run.stdout)
            assert done and int(done[1]) > 0, run.stdout
            print(f"{script}: {done[2]} transactions/s, 95th percentile {p95[1]} ms, "
                  f"{errors[1]} retried", flush=True)
            subprocess.run([*command, "cleanup"], check=True, stdout=subprocess.DEVNULL)
    print("ok sysbench")


main()
