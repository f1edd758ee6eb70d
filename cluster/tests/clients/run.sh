#!/bin/sh
# Runs every client check against the server at DAMASK_HOST:DAMASK_PORT (127.0.0.1:4000).
#
#   run.sh [NAME ...]      NAME: pymysql sqlalchemy mysql_connector mysql2 mariadb
#
# Drivers are installed once per version list, outside the checkout, in DAMASK_CLIENTS_CACHE
# (${XDG_CACHE_HOME:-$HOME/.cache}/damask/clients). Exits non-zero if any check fails.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache="${DAMASK_CLIENTS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/damask/clients}"
python="${DAMASK_PYTHON:-python3}"
export DAMASK_HOST="${DAMASK_HOST:-127.0.0.1}" DAMASK_PORT="${DAMASK_PORT:-4000}"
export PYTHONDONTWRITEBYTECODE=1
names="${*:-pymysql sqlalchemy mysql_connector mysql2 mariadb}"

# fingerprint FILE...: changes with the files
fingerprint() {
    cat "$@" | cksum | tr ' ' '-'
}

# The folder's `installed` file is written last: a broken installation is done again.
python_drivers() {
    venv="$cache/python-$(fingerprint "$here/requirements.txt")"
    if [ ! -e "$venv/installed" ]; then
        rm -rf "$venv"
        mkdir -p "$cache"
        "$python" -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
        touch "$venv/installed"
    fi
}

node_drivers() {
    modules="$cache/node-$(fingerprint "$here/package.json" "$here/package-lock.json")"
    if [ ! -e "$modules/installed" ]; then
        rm -rf "$modules"
        mkdir -p "$modules"
        cp "$here/package.json" "$here/package-lock.json" "$modules/"
        npm ci --prefix "$modules" --no-audit --no-fund --silent
        touch "$modules/installed"
    fi
}

check() {
    case "$1" in
        pymysql | sqlalchemy | mysql_connector)
            python_drivers && "$venv/bin/python" "$here/check_$1.py"
            ;;
        mysql2) node_drivers && NODE_PATH="$modules/node_modules" node "$here/check_mysql2.js" ;;
        mariadb) sh "$here/check_mariadb.sh" ;;
        *)
            echo "run.sh: no check is called '$1'" >&2
            false
            ;;
    esac
}

failed=""
for name in $names; do
    check "$name" || failed="$failed $name"
done
if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    exit 1
fi
