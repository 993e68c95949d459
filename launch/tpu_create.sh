#!/usr/bin/env bash
# Create the pod, unless it is there; a preempted one is deleted and made anew.
#
#   TPU_NAME=aster ZONE=us-east5-a ACCELERATOR_TYPE=v5p-8 launch/tpu_create.sh

# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

case "$(pod_state)" in
  READY)
    echo "$TPU_NAME is ready"
    exit 0
    ;;
  ABSENT) ;;
  *)
    # PREEMPTED, TERMINATED, or stuck: such a pod never comes back by itself.
    call gcloud compute tpus tpu-vm delete "$TPU_NAME" "${where[@]}" --quiet
    ;;
esac

create=(
  gcloud compute tpus tpu-vm create "$TPU_NAME" "${where[@]}"
  --accelerator-type "$ACCELERATOR_TYPE"
  --version "$RUNTIME_VERSION"
)
if [[ "$SPOT" == 1 ]]; then
  create+=(--spot)
fi
call "${create[@]}"
