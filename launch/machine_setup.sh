#!/usr/bin/env bash
# On the machine itself: a virtual environment with the pinned requirements and jax of the
# same version for its accelerator. The TPU set-up runs this on every worker; on a machine
# with a GPU, or with nothing but a CPU, run it by hand.
#
#   launch/machine_setup.sh tpu|cuda13|cuda12|cpu      VENV=DIR (default: venv)

set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$ROOT/venv}"
DRY_RUN="${DRY_RUN:-0}"
accelerator="${1:-}"

case "$accelerator" in
  tpu | cuda13 | cuda12 | cpu) ;;
  *)
    echo "usage: launch/machine_setup.sh tpu|cuda13|cuda12|cpu, not '$accelerator'" >&2
    exit 2
    ;;
esac

call() {
  if [[ "$DRY_RUN" == 1 ]]; then
    echo "$*"
  else
    "$@"
  fi
}

# jax and its accelerator's plug-in have to be of one version.
version="$(sed -n 's/^jax==//p' "$ROOT/requirements.txt")"
# What the environment was made from; when that is unchanged there is nothing to do.
made_from="$accelerator $(sha256sum <"$ROOT/requirements.txt")"
if [[ "$DRY_RUN" != 1 && -f "$VENV/made_from" && "$(<"$VENV/made_from")" == "$made_from" ]]; then
  echo "$VENV is up to date"
  exit 0
fi

# A Python of Debian's or Ubuntu's makes no environments without its -venv package, and lacks
# ensurepip by that. `bare` is such a one of the right version.
python="" bare=""
for candidate in python3.12 python3.11 python3.13 python3; do
  if ! command -v "$candidate" >/dev/null \
    || ! "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    continue
  fi
  if "$candidate" -c 'import ensurepip' 2>/dev/null; then
    python="$candidate"
    break
  fi
  bare="${bare:-$candidate}"
done
if [[ -z "$python" && -n "$bare" ]]; then
  python="$bare"
  named="$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')"
  call sudo apt-get update -q
  call sudo apt-get install -y -q "$named-venv"
elif [[ -z "$python" ]]; then
  # TPU images come with an older Python.
  python=python3.11
  call sudo apt-get update -q
  call sudo apt-get install -y -q "$python" "$python-venv"
fi

call "$python" -m venv --clear "$VENV"
call "$VENV/bin/pip" install -q --upgrade pip
call "$VENV/bin/pip" install -q -r "$ROOT/requirements.txt"
if [[ "$accelerator" != cpu ]]; then
  call "$VENV/bin/pip" install -q "jax[$accelerator]==$version"
fi
call "$VENV/bin/python" -c 'import jax; print(jax.__version__, jax.local_devices())'
if [[ "$DRY_RUN" != 1 ]]; then
  echo "$made_from" >"$VENV/made_from"
fi
