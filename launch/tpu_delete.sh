#!/usr/bin/env bash
# Delete the pod and everything on its disks, and with QUEUED=1 the request for it. Run
# directories on shared storage stay.
#
#   TPU_NAME=aster launch/tpu_delete.sh

# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

if [[ "$QUEUED" == 1 ]]; then
  call gcloud compute tpus queued-resources delete "$TPU_NAME" "${where[@]}" --force --quiet
else
  call gcloud compute tpus tpu-vm delete "$TPU_NAME" "${where[@]}" --quiet
fi
