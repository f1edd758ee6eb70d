"""The binary's own simulator, as a user calls it: the same seed twice is the same run, seeds hold,
and wrong words are refused with help.
"""

import os
import re
import subprocess

DEADLINE = 120


def sim(*words):
    command = [os.environ["DAMASK_BINARY"], "sim", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)


def trace(seed):
    done = sim("--seed", str(seed), "--storm", "3000")
    assert done.returncode == 0, done
    found = re.search(rf"^seed {seed} held: trace (\w+), \d+ events$", done.stdout, re.M)
    assert found, done.stdout
    return found.group(0)


def main():
    first, again, other = trace(5), trace(5), trace(6)
    assert first == again, (first, again)
    assert first.split()[4] != other.split()[4], "two seeds, one trace"
    swept = sim("--seeds", "4", "--from", "100", "--jobs", "2", "--storm", "3000")
    assert swept.returncode == 0 and "4 seeds held, 0 failed" in swept.stdout, swept
    for wrong in (["--seeds", "many"], ["--speed", "5"], ["--seed"]):
        refused = sim(*wrong)
        assert refused.returncode != 0 and "damask sim" in refused.stderr, refused
    print("sim ok: the same seed twice, a sweep, wrong words")


if __name__ == "__main__":
    main()
