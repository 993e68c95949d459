#!/usr/bin/env bash
# Run the recipe on all workers at once. What each one prints goes to this terminal and to a
# log of its own on the worker (launch/tpu_logs.sh shows them).
#
#   TPU_NAME=aster launch/tpu_run.sh --config experiments/quickstart.py --workdir /mnt/runs/quickstart
#
# The workdir has to be on storage that every worker sees and that outlives the pod: the
# same command, on the same or on a new pod, goes on from its newest checkpoint.

# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

need_workdir "a directory that all workers share" "$@"

command_line="VENV=\$HOME/$VENV_DIR LOG_DIR=\$HOME/$LOG_DIR bash $CODE_DIR/launch/machine_run.sh"
on_all_workers "$command_line $(quoted "$@")"
