#!/usr/bin/env bash
# Train in several processes: tools/dist_train.sh CONFIG PROCESSES [--max-restarts N] [options of tools/train.py]
# One process per GPU; without a GPU they talk over gloo. NNODES, NODE_RANK, PORT, MASTER_ADDR as in MMAction2; on one
# machine without PORT a free port is taken.
#
# --max-restarts N: when a process dies, all are started anew, at most N times (0 by default). They go on from the newest
# checkpoint in the work dir, so the run is started with --resume, too: it must not be one that should begin afresh
# beside old checkpoints.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG PROCESSES [--max-restarts N] [options of tools/train.py]" >&2
  exit 2
fi
root="$(cd "$(dirname "$0")/.." && pwd)"
config="$1"
processes="$2"
shift 2
restarts=0
resume=()
arguments=()
while [ $# -gt 0 ]; do
  case "$1" in
    --max-restarts | --max-restarts=*)
      if [ "$1" = --max-restarts ]; then shift; fi
      restarts="${1:-}"
      restarts="${restarts#--max-restarts=}"
      if [[ ! "$restarts" =~ ^[0-9]+$ ]]; then
        echo "dist_train.sh: --max-restarts must be a number, got '$restarts'" >&2
        exit 2
      fi
      # Without a file: each start looks for the newest checkpoint.
      if [ "$restarts" -gt 0 ]; then resume=(--resume); fi
      ;;
    *) arguments+=("$1") ;;
  esac
  shift || true
done
python="${PYTHON:-python}" nodes="${NNODES:-1}" address="${MASTER_ADDR:-127.0.0.1}"
if [ "$nodes" = 1 ] && [ -z "${PORT:-}" ]; then
  meeting=(--standalone)
else
  port="${PORT:-29500}"
  meeting=(--nnodes="$nodes" --node_rank="${NODE_RANK:-0}" --master_addr="$address" --master_port="$port")
  if [ "$restarts" -gt 0 ]; then
    # Not the fixed meeting: its store outlives a restart, and a new process may find the address of a dead one.
    meeting=(--nnodes="$nodes" --rdzv_backend=c10d --rdzv_id="hocp_mm_$port" --rdzv_endpoint="$address:$port")
    # The name of a machine need not resolve on itself.
    if [ "$nodes" = 1 ]; then meeting+=(--local_addr="$address"); fi
  fi
  if [ "${NODE_RANK:-0}" = 0 ] && ! "$python" -c 'import socket, sys
with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("", int(sys.argv[1])))' "$port" 2>/dev/null; then
    echo "error: PORT: must be free, but $port is in use, perhaps by another training; choose another one." >&2
    exit 2
  fi
fi
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m torch.distributed.run \
  "${meeting[@]}" --nproc_per_node="$processes" --max_restarts="$restarts" \
  "$root/tools/train.py" "$config" --launcher pytorch "${arguments[@]}" "${resume[@]}"
