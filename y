#!/usr/bin/env bash
# The one entry point: ./x up | test | lint | bench | setup. See README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

cache="${XDG_CACHE_HOME:-$HOME/.cache}/damask"
# Outside of the checkout, so that a fresh clone finds its dependencies compiled.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/target}"
export CARGO_INCREMENTAL=0
if [ -z "${RUSTC_WRAPPER:-}" ] && command -v sccache >/dev/null 2>&1; then
  export RUSTC_WRAPPER=sccache
fi

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'x: %s\n' "$*" >&2; exit 1; }

usage() {
  cat <<'EOF'
./x up [--light] [OPTIONS]   build in release, start a cluster, print how to connect
                             --light: the pure-Rust row engine, no C++ to compile
                             OPTIONS go to `damask playground` (see `./x up --help`)
./x test [--light]           everything CI checks: format, lints, unit and integration tests, real clients
./x lint                     format and lints only
./x bench [NAME]             the benches: all, or those whose name contains NAME
./x setup [--tests]          install what building (and testing) needs, or say what is missing
EOF
}

# Debian packages by the command or file that shows they are there.
build_packages=(
  "c++:g++" "make:make" "clang:clang" "protoc:protobuf-compiler" "python3:python3"
)
test_packages=(
  "sysbench:sysbench" "mariadb:mariadb-client" "node:nodejs" "npm:npm"
)

have_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] || ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1 \
    || ls /usr/lib/*/libclang*.so* >/dev/null 2>&1
}

missing_packages() { # pairs...
  local pair
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || printf '%s\n' "${pair##*:}"
  done
}

setup() { # [--light] [--tests]
  local packages=() sudo="" light="" tests=""
  for argument in "$@"; do
    case "$argument" in
      --light) light=1 ;;
      --tests) tests=1 ;;
      *) die "setup: unknown option $argument" ;;
    esac
  done
  command -v cargo >/dev/null 2>&1 \
    || die "Rust is missing: install rustup from https://rustup.rs, then run this again"
  mapfile -t packages < <(missing_packages "${build_packages[@]}")
  if [ -z "$light" ] && ! have_libclang; then packages+=("libclang-dev"); fi
  if [ -n "$tests" ]; then
    mapfile -t -O "${#packages[@]}" packages < <(missing_packages "${test_packages[@]}")
    python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=("python3-venv")
  fi
  [ "${#packages[@]}" -eq 0 ] && return 0
  [ "$(id -u)" -eq 0 ] || sudo="sudo -n"
  if command -v apt-get >/dev/null 2>&1 && { [ -z "$sudo" ] || sudo -n true 2>/dev/null; }; then
    say "installing: ${packages[*]}"
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq "${packages[@]}" >/dev/null
  else
    die "these Debian packages are missing: apt-get install ${packages[*]}"
  fi
}

build() { # [--light]
  if [ "${1:-}" = "--light" ]; then
    say "building damask with the pure-Rust row engine (from nothing on 2 cores: under 15 minutes)"
    cargo build --release -p damask-cluster --bin damask --no-default-features
  else
    say "building damask (from nothing on 2 cores: under 40 minutes, most of it RocksDB)"
    cargo build --release --workspace --bin damask
  fi
}

up() {
  local light=()
  if [ "${1:-}" = "--light" ]; then light=(--light); shift; fi
  setup "${light[@]}"
  build "${light[@]}"
  exec "$CARGO_TARGET_DIR/release/damask" playground "$@"
}

lint() {
  say "format"
  cargo fmt --all --check
  say "lints"
  cargo clippy --release --workspace --all-targets --quiet -- -D warnings
}

unit_tests() {
  say "unit and integration tests"
  cargo test --release --workspace --quiet
}

client_tests() { # [full]
  say "real clients, load and crash tests"
  cluster/tests/system/run.sh "$CARGO_TARGET_DIR/release/damask" "$@"
}

run_tests() {
  if [ "${1:-}" = "--light" ]; then
    setup --light --tests
    cargo test --release --quiet -p damask-types -p damask-env -p damask-tso -p damask-pd \
      -p damask-deltatree -p damask-raftstore -p damask-txn -p damask-learner
    cargo test --release --quiet -p damask-kv --no-default-features
    cargo test --release --quiet -p damask-cluster --no-default-features
    build --light
  else
    setup --tests
    lint
    unit_tests
    build
  fi
  client_tests
  say "all passed"
}

bench() {
  setup
  cargo bench --workspace --bench spine --bench parts -- "${1:-}"
}

command="${1:-}"
[ $# -gt 0 ] && shift
case "$command" in
  up) up "$@" ;;
  test) run_tests "$@" ;;
  lint) setup; lint ;;
  bench) bench "$@" ;;
  setup) setup "$@" ;;
  ""|-h|--help|help) usage ;;
  *) usage >&2; die "unknown command: $command" ;;
esac
