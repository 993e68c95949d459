#!/usr/bin/env bash
# The last lines of every worker's log.
#
#   TPU_NAME=aster launch/tpu_logs.sh [LINES]

# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

lines="${1:-40}"
if [[ ! "$lines" =~ ^[0-9]+$ ]]; then
  echo "usage: launch/tpu_logs.sh [LINES], not '$lines'" >&2
  exit 2
fi
on_all_workers "tail -n $lines $LOG_DIR/*.log"
