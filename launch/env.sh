# shellcheck shell=bash
# Shared by the scripts that ask for machines: which pod, and how a command is printed or run.
# Sourced, never run. Every value can be set in the environment.

set -euo pipefail

# Which pod.
TPU_NAME="${TPU_NAME:-aster}"
ZONE="${ZONE:-us-east5-a}"
PROJECT="${PROJECT:-}"                           # empty: gcloud's current project
ACCELERATOR_TYPE="${ACCELERATOR_TYPE:-v5p-8}"    # chips and generation
RUNTIME_VERSION="${RUNTIME_VERSION:-v2-alpha-tpuv5}"
SPOT="${SPOT:-1}"                                # 1: cheaper, and may be preempted
QUEUED="${QUEUED:-0}"                            # 1: ask in the queue (a queued resource) and wait

# Where things lie on every worker, below the home directory.
CODE_DIR="${CODE_DIR:-aster/code}"
VENV_DIR="${VENV_DIR:-aster/venv}"
LOG_DIR="${LOG_DIR:-aster/logs}"

RETRY_S="${RETRY_S:-60}"                         # seconds before something is looked at again
MAX_ATTEMPTS="${MAX_ATTEMPTS:-100}"              # of a run that comes again by itself
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

# End with a sentence where the arguments name no workdir; $1 says which one is wanted.
need_workdir() {
  local wanted="$1"
  shift
  if [[ " $* " != *" --workdir"[\ =]* ]]; then
    echo "${0##*/}: give --workdir DIR, $wanted" >&2
    exit 2
  fi
}

# What `gcloud compute tpus $1 describe` says of the pod in the field $2; ABSENT where it knows
# none, UNKNOWN (and gcloud's words) where it could not tell. A dry run asks nobody: ABSENT.
_described() {
  local words state
  if [[ "$DRY_RUN" == 1 ]]; then
    echo ABSENT
    return
  fi
  words="$(mktemp)"
  if state="$(gcloud compute tpus "$1" describe "$TPU_NAME" "${where[@]}" \
    --format="value($2)" 2>"$words")"; then
    echo "${state:-UNKNOWN}"
  elif grep -qiE 'NOT_FOUND|not found' "$words"; then
    echo ABSENT
  else
    cat "$words" >&2
    echo UNKNOWN
  fi
  rm -f "$words"
}

# READY, PREEMPTED, CREATING, ... of the machines.
pod_state() {
  _described tpu-vm state
}

# ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED, ... of the request for them.
queue_state() {
  _described queued-resources state.state
}
