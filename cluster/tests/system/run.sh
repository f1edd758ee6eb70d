#!/usr/bin/env bash
# The system tests: a real `damask` process, real clients, kill -9. Usage: run.sh BINARY [full|faults]
# `full` runs the sizes that the project promises; without it a shorter form of each. `faults` is the
# ten minutes of faults alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export DAMASK_BINARY="${1:?the damask binary}"
full="${2:-}"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/damask/system-venv"

# One environment for all, made anew when the list of packages changes.
want="$(python3 --version) $(sha256sum < requirements.txt)"
if [ "$(cat "$cache/made-of" 2>/dev/null)" != "$want" ]; then
  rm -rf "$cache"
  python3 -m venv "$cache"
  "$cache/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt
  printf '%s\n' "$want" > "$cache/made-of"
fi
export PATH="$cache/bin:$PATH"

if [ "$full" = "faults" ]; then
  exec python check_faults.py --rounds 60 --seconds 6
fi
python check_clients.py
python check_sim.py
if [ -n "$full" ]; then
  python check_tpch.py --scale 0.1 --times
  python check_sysbench.py --seconds 30
  python check_same.py --rounds 300
  python check_isolation.py --seconds 10
  python check_kill.py --rounds 20
  python check_faults.py --rounds 60 --seconds 6
else
  python check_tpch.py --scale 0.01
  python check_sysbench.py --seconds 5
  python check_same.py --rounds 100
  python check_isolation.py --seconds 2
  python check_kill.py --rounds 20 --seconds 0.7
  python check_faults.py --rounds 6 --seconds 1.5
fi
