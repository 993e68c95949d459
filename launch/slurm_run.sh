#!/usr/bin/env bash
# Submit a run to SLURM: slurm_job.sh, with everything SLURM is asked for on one command line.
#
#   NODES=2 GPUS_PER_NODE=8 VENV=venv launch/slurm_run.sh --config experiments/NAME.py --workdir DIR
#
# The checkout, the virtual environment and the workdir lie on a disk that all nodes share. One
# node runs one process with all its GPUs; several run one process per GPU, as JAX wants it there.

# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

JOB_NAME="${JOB_NAME:-aster}"
NODES="${NODES:-1}"
GPUS_PER_NODE="${GPUS_PER_NODE:-1}"
CPUS_PER_GPU="${CPUS_PER_GPU:-8}" # the tool and the verifier want them
TIME="${TIME:-24:00:00}"          # then SLURM says so, the run saves, and comes again
NOTICE_S="${NOTICE_S:-60}"        # before that; more than notice_s of the config
PARTITION="${PARTITION:-}"        # empty: SLURM's own
ACCOUNT="${ACCOUNT:-}"
SLURM_LOGS="${SLURM_LOGS:-$ROOT/logs}"

for number in "$NODES" "$GPUS_PER_NODE" "$CPUS_PER_GPU" "$NOTICE_S"; do
  if [[ ! "$number" =~ ^[1-9][0-9]*$ ]]; then
    echo "slurm_run.sh: NODES, GPUS_PER_NODE, CPUS_PER_GPU and NOTICE_S are numbers, not '$number'" >&2
    exit 2
  fi
done
need_workdir "a directory on a disk that all nodes share" "$@"

tasks=1
if ((NODES > 1)); then
  tasks="$GPUS_PER_NODE"
fi
submit=(
  sbatch --job-name "$JOB_NAME" --chdir "$ROOT" --time "$TIME"
  --nodes "$NODES" --ntasks-per-node "$tasks" --gpus-per-node "$GPUS_PER_NODE"
  --cpus-per-task $((CPUS_PER_GPU * GPUS_PER_NODE / tasks))
  --requeue --signal "TERM@$NOTICE_S" --open-mode append --output "$SLURM_LOGS/%x-%j.log"
)
if [[ -n "$PARTITION" ]]; then
  submit+=(--partition "$PARTITION")
fi
if [[ -n "$ACCOUNT" ]]; then
  submit+=(--account "$ACCOUNT")
fi
call mkdir -p "$SLURM_LOGS"
call "${submit[@]}" "$ROOT/launch/slurm_job.sh" "$@"
