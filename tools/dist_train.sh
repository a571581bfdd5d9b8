#!/usr/bin/env bash
# Train in several processes: tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# One process per GPU; without a GPU they talk over gloo. NNODES, NODE_RANK, PORT, MASTER_ADDR as in MMAction2; on one
# machine without PORT a free port is taken.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG PROCESSES [options of tools/train.py]" >&2
  exit 2
fi
root="$(cd "$(dirname "$0")/.." && pwd)"
config="$1"
processes="$2"
shift 2
python="${PYTHON:-python}"
if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
  meeting=(--standalone)
else
  port="${PORT:-29500}"
  meeting=(--nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}"
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="$port")
  if [ "${NODE_RANK:-0}" = 0 ] && ! "$python" -c 'import socket, sys
with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("", int(sys.argv[1])))' "$port" 2>/dev/null; then
    echo "error: PORT: must be free, but $port is in use, perhaps by another training; choose another one." >&2
    exit 2
  fi
fi
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m torch.distributed.run "${meeting[@]}" --nproc_per_node="$processes" \
  "$root/tools/train.py" "$config" --launcher pytorch "$@"
