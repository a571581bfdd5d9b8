#!/usr/bin/env bash
#SBATCH --job-name=hocp_mm
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Train under Slurm, and go on after pre-emption or the end of the time limit:
#
#   sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=64 --time=12:00:00 tools/slurm_train.sh CONFIG [options of tools/train.py]
#
# One task per node, in which torchrun starts one process per GPU (or PROCESSES). Slurm warns 120 seconds before it ends
# the job (SIGTERM, to this script alone); the trainers then write a checkpoint and end with 143, and the job is put back
# into the queue under the same number. Every start resumes from the newest checkpoint in the work dir, if there is one.
# A job that ends well, or fails without a warning, is not put back. torchrun gives the trainers 30 seconds: an iteration
# and a checkpoint must fit.
#
#   PYTHON=python      PROCESSES=8 (per node)      PORT=29500 (made from the job's number by default)
#   MAX_RESTARTS=0     starts anew, from the last checkpoint, after a process has died; not after a warning of Slurm's
set -euo pipefail

if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then
  echo "usage: sbatch [options of Slurm] $0 CONFIG [options of tools/train.py]" >&2
  exit 2
fi
for name in SLURM_JOB_ID SLURM_JOB_NUM_NODES SLURM_JOB_NODELIST; do
  if [ -z "${!name:-}" ]; then
    echo "slurm_train.sh: to be started with sbatch, which sets $name; without Slurm: tools/dist_train.sh" >&2
    exit 2
  fi
done
# Slurm runs a copy of this file elsewhere: the repository is where sbatch was called, or HOCP_MM_ROOT.
root="${HOCP_MM_ROOT:-${SLURM_SUBMIT_DIR:-$PWD}}"
if [ ! -f "$root/tools/train.py" ]; then
  echo "slurm_train.sh: call sbatch in the repository or set HOCP_MM_ROOT, no tools/train.py in $root" >&2
  exit 2
fi

terminated=0
trainers=""
# shellcheck disable=SC2329 # called by the trap
forward() {
  terminated=$((terminated + 1))
  echo "slurm_train.sh: SIGTERM, the trainers are told to write a checkpoint"
  # srun passes it on to its tasks, and torchrun to its processes.
  if [ -n "$trainers" ]; then kill -TERM "$trainers" 2>/dev/null || true; fi
}
trap forward TERM

nodes="$(scontrol show hostnames "$SLURM_JOB_NODELIST")"
master="${nodes%%$'\n'*}"
# Two jobs may share a node.
port="${PORT:-$((20000 + SLURM_JOB_ID % 20000))}"
processes="${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

# In the background, since a shell takes no signal while it waits for a foreground process.
srun --ntasks-per-node=1 --kill-on-bad-exit=1 \
  "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node="$processes" --max_restarts="${MAX_RESTARTS:-0}" \
  --rdzv_backend=c10d --rdzv_id="$SLURM_JOB_ID" --rdzv_endpoint="$master:$port" \
  "$root/tools/train.py" "$@" --launcher pytorch --resume &
trainers=$!
# A warning that came before there was anybody to tell.
if [ "$terminated" != 0 ]; then forward; fi

# A signal ends `wait` before the trainers end; bash still knows their code then.
heard=-1
while [ "$heard" != "$terminated" ]; do
  heard=$terminated code=0
  wait "$trainers" || code=$?
done

if [ "$terminated" != 0 ] && [ "$code" != 0 ]; then
  echo "slurm_train.sh: ended with $code after SIGTERM, job $SLURM_JOB_ID goes back into the queue"
  scontrol requeue "$SLURM_JOB_ID"
  # torchrun ends with 1 whatever its processes said; the trainers' own code for this is 128 + SIGTERM.
  code=143
fi
exit "$code"
