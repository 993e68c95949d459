#!/usr/bin/env bash
# Delete the pod and everything on its disks. Run directories on shared storage stay.
#
#   TPU_NAME=aster launch/tpu_delete.sh

# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

call gcloud compute tpus tpu-vm delete "$TPU_NAME" "${where[@]}" --quiet
