#!/usr/bin/env bash
# On the machine itself: run the recipe, with a log named after the machine. A process of an
# earlier run that still holds the accelerator is ended first.
#
#   VENV=venv LOG_DIR=logs launch/machine_run.sh --config experiments/NAME.py --workdir DIR

set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$(realpath "${VENV:-$ROOT/venv}")"
LOG_DIR="${LOG_DIR:-$ROOT/logs}"

if [[ "${DRY_RUN:-0}" == 1 ]]; then
  echo "cd ${ROOT@Q} && exec $VENV/bin/python -u -m aster_jax.main ${*@Q}"
  exit 0
fi

mkdir -p "$LOG_DIR"
log="$(realpath "$LOG_DIR")/$(hostname).log"
pid_file="${log%.log}.pid"
if [[ -f "$pid_file" ]] && grep -qs aster_jax.main "/proc/$(<"$pid_file")/cmdline"; then
  kill -KILL "$(<"$pid_file")"
fi

cd "$ROOT"
echo "--- $(date --iso-8601=seconds) aster_jax.main $*" >>"$log"
# The run takes this script's place, so that SIGTERM reaches it and its exit code is the script's.
# What writes the log outlives a signal to all of them: the run still has things to say then.
exec > >(
  trap '' TERM INT HUP
  exec tee -a "$log"
) 2>&1
echo "$$" >"$pid_file"
exec "$VENV/bin/python" -u -m aster_jax.main "$@"
