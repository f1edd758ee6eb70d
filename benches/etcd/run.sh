#!/usr/bin/env bash
# Three members of etcd on loopback, and its client: says `ready`, then for each line it hears, a
# number of seconds, one line: puts per second, and syncs of all three logs for each put. Ends with
# its input, and leaves nothing.
#
# Needs `etcd` (Debian: etcd-server) and `go`, which fetches etcd's client once; DAMASK_BENCH_ETCD_DIR
# is an existing folder for the data. Ports: 22379 to 22384.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
data="${DAMASK_BENCH_ETCD_DIR:?a folder for the data}"

client="$data/client"
(cd "$here" && go build -o "$client" .) >&2

members=()
stop() {
  for member in "${members[@]}"; do kill "$member" 2>/dev/null || true; done
  for member in "${members[@]}"; do wait "$member" 2>/dev/null || true; done
}
trap stop EXIT

cluster="m1=http://127.0.0.1:22380,m2=http://127.0.0.1:22382,m3=http://127.0.0.1:22384"
for n in 1 2 3; do
  clients="http://127.0.0.1:$((22377 + 2 * n))" peers="http://127.0.0.1:$((22378 + 2 * n))"
  etcd --name "m$n" --data-dir "$data/m$n" --initial-cluster "$cluster" \
    --initial-cluster-state new --initial-cluster-token damask-bench \
    --listen-client-urls "$clients" --advertise-client-urls "$clients" \
    --listen-peer-urls "$peers" --initial-advertise-peer-urls "$peers" \
    --quota-backend-bytes 4294967296 --auto-compaction-retention 0 \
    --log-level error >"$data/m$n.log" 2>&1 &
  members+=($!)
done

# It also tells of every member that does not answer yet: only worth reading if it fails.
"$client" -clients 256 -connections 16 -bytes 100 \
  -endpoints http://127.0.0.1:22379,http://127.0.0.1:22381,http://127.0.0.1:22383 \
  2>"$data/client.log" || { tail -n 20 "$data"/*.log >&2; exit 1; }
