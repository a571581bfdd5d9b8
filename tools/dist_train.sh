#!/usr/bin/env bash
# Train in several processes: tools/dist_train.sh CONFIG PROCESSES [options of tools/train.py]
# One process per GPU; without a GPU they talk over gloo. NNODES, NODE_RANK, PORT, MASTER_ADDR as in MMAction2.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG PROCESSES [options of tools/train.py]" >&2
  exit 2
fi
root="$(cd "$(dirname "$0")/.." && pwd)"
config="$1"
processes="$2"
shift 2
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" --nproc_per_node="$processes" \
  "$root/tools/train.py" "$config" --launcher pytorch "$@"
