#!/usr/bin/env bash
# Create, set up and run, and do so again each time the pod is preempted, until the run ends
# by itself. Takes the arguments of tpu_run.sh; it is the only command a spot pod needs.
#
#   TPU_NAME=aster launch/tpu_resume.sh --config experiments/quickstart.py --workdir /mnt/runs/quickstart
#
# A run that fails on a pod that is still there is not repeated: its error would come again.
# A pod that cannot be set up is tried a few times, as a new one takes no connections at first.

launch="$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$launch/env.sh"

SETUP_ATTEMPTS="${SETUP_ATTEMPTS:-5}" # in a row, before it is given up

need_workdir "a directory that all workers share" "$@" # before a pod is paid for
not_set_up=0
for ((attempt = 1; attempt <= MAX_ATTEMPTS; attempt++)); do
  code=0
  if ! "$launch/tpu_create.sh"; then
    why="no pod to be had"
  elif ! "$launch/tpu_setup.sh"; then
    why="the pod could not be set up"
    not_set_up=$((not_set_up + 1))
    if ((not_set_up >= SETUP_ATTEMPTS)); then
      echo "$why, $not_set_up times in a row" >&2
      exit 1
    fi
  else
    not_set_up=0
    "$launch/tpu_run.sh" "$@" || code=$?
    case "$code" in
      0) exit 0 ;;
      143) why="the run was told to go" ;;
      255) why="the connection was lost" ;;
      *)
        # A pod that is going shows it a little later than the run does.
        sleep "$RETRY_S"
        if [[ "$(pod_state)" == READY ]]; then
          echo "the run failed with exit code $code and the pod is still there; see launch/tpu_logs.sh" >&2
          exit 1
        fi
        why="the pod is gone"
        ;;
    esac
  fi
  echo "attempt $attempt: $why; next one in $RETRY_S s" >&2
  sleep "$RETRY_S"
done
echo "gave up after $MAX_ATTEMPTS attempts" >&2
exit 1
