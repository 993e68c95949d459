#!/usr/bin/env bash
# Create, set up and run, and do so again each time the pod is preempted, until the run ends
# by itself. Takes the arguments of tpu_run.sh; it is the only command a spot pod needs.
#
#   TPU_NAME=aster launch/tpu_resume.sh --config experiments/quickstart.py --workdir /mnt/runs/quickstart
#
# A run that fails on a pod that is still there is not repeated: its error would come again.

launch="$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$launch/env.sh"

RETRY_S="${RETRY_S:-60}"           # seconds before the next attempt
MAX_ATTEMPTS="${MAX_ATTEMPTS:-100}"

for ((attempt = 1; attempt <= MAX_ATTEMPTS; attempt++)); do
  if ! "$launch/tpu_create.sh"; then
    echo "attempt $attempt: no pod to be had; next one in $RETRY_S s" >&2
  elif "$launch/tpu_setup.sh" && "$launch/tpu_run.sh" "$@"; then
    exit 0
  elif [[ $? -ne 143 && "$(pod_state)" == READY ]]; then
    echo "the run failed and the pod is still there; see launch/tpu_logs.sh" >&2
    exit 1
  else
    echo "attempt $attempt: the pod is gone, or was told to go; next one in $RETRY_S s" >&2
  fi
  sleep "$RETRY_S"
done
echo "gave up after $MAX_ATTEMPTS attempts" >&2
exit 1
