# shellcheck shell=bash
# Shared by all scripts here: which pod, and how a command is printed or run.
# Sourced, never run. Every value can be set in the environment.

set -euo pipefail

# Which pod.
TPU_NAME="${TPU_NAME:-aster}"
ZONE="${ZONE:-us-east5-a}"
PROJECT="${PROJECT:-}"                           # empty: gcloud's current project
ACCELERATOR_TYPE="${ACCELERATOR_TYPE:-v5p-8}"    # chips and generation
RUNTIME_VERSION="${RUNTIME_VERSION:-v2-alpha-tpuv5}"
SPOT="${SPOT:-1}"                                # 1: cheaper, and may be preempted

# Where things lie on every worker, below the home directory.
CODE_DIR="${CODE_DIR:-aster/code}"
VENV_DIR="${VENV_DIR:-aster/venv}"
LOG_DIR="${LOG_DIR:-aster/logs}"

DRY_RUN="${DRY_RUN:-0}"                          # 1: print what would be run
# shellcheck disable=SC2034 # read by the scripts that source this
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

where=(--zone "$ZONE")
if [[ -n "$PROJECT" ]]; then
  where+=(--project "$PROJECT")
fi

# Words as they would be typed into a shell; quoted only where it is needed.
quoted() {
  local word out=()
  for word in "$@"; do
    if [[ "$word" =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
      out+=("$word")
    else
      out+=("${word@Q}")
    fi
  done
  echo "${out[*]}"
}

# Run a command, or print it.
call() {
  if [[ "$DRY_RUN" == 1 ]]; then
    quoted "$@"
  else
    "$@"
  fi
}

# Run a command line on every worker of the pod.
on_all_workers() {
  call gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker=all --command "$1"
}

# READY, PREEMPTED, CREATING ... or ABSENT. A dry run asks nobody and assumes ABSENT.
pod_state() {
  if [[ "$DRY_RUN" == 1 ]]; then
    echo ABSENT
    return
  fi
  gcloud compute tpus tpu-vm describe "$TPU_NAME" "${where[@]}" --format='value(state)' \
    2>/dev/null || echo ABSENT
}
