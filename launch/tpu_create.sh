#!/usr/bin/env bash
# Create the pod, unless it is there; a preempted one is deleted and made anew. With QUEUED=1 it
# is asked for as a queued resource, and this waits until it is given, at most QUEUE_WAIT_S.
#
#   TPU_NAME=aster ZONE=us-east5-a ACCELERATOR_TYPE=v5p-8 launch/tpu_create.sh
#
# Where the state of what is there cannot be told, nothing is created and nothing deleted.

# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

QUEUE_WAIT_S="${QUEUE_WAIT_S:-86400}"

create_pod() {
  local create=(
    gcloud compute tpus tpu-vm create "$TPU_NAME" "${where[@]}"
    --accelerator-type "$ACCELERATOR_TYPE"
    --version "$RUNTIME_VERSION"
  )
  if [[ "$SPOT" == 1 ]]; then
    create+=(--spot)
  fi
  call "${create[@]}"
}

queue_pod() {
  local create=(
    gcloud compute tpus queued-resources create "$TPU_NAME" "${where[@]}"
    --node-id "$TPU_NAME"
    --accelerator-type "$ACCELERATOR_TYPE"
    --runtime-version "$RUNTIME_VERSION"
  )
  if [[ "$SPOT" == 1 ]]; then
    create+=(--spot)
  fi
  call "${create[@]}"
}

# Until the request is granted; exit 1 where it fails, or is not granted in time.
wait_in_queue() {
  local state before="" until=$((SECONDS + QUEUE_WAIT_S))
  if [[ "$DRY_RUN" == 1 ]]; then
    return
  fi
  while ((SECONDS < until)); do
    state="$(queue_state)"
    if [[ "$state" == ACTIVE && "$(pod_state)" == READY ]]; then
      echo "$TPU_NAME is ready"
      return
    elif [[ "$state" == FAILED || "$state" == SUSPENDED || "$state" == ABSENT ]]; then
      echo "the request for $TPU_NAME is $state" >&2
      exit 1
    elif [[ "$state" != "$before" ]]; then
      echo "$(date --iso-8601=seconds) the request for $TPU_NAME is $state"
      before="$state"
    fi
    sleep "$RETRY_S"
  done
  echo "$TPU_NAME has not been given within $QUEUE_WAIT_S s; the request stays in the queue" >&2
  exit 1
}

if [[ "$QUEUED" == 1 ]]; then
  state="$(queue_state)"
  # A request that was granted once stays so while its spot machines are gone.
  if [[ "$state" == ACTIVE ]]; then
    state="$(pod_state)"
  fi
else
  state="$(pod_state)"
fi

case "$state" in
  READY)
    echo "$TPU_NAME is ready"
    exit 0
    ;;
  ABSENT)
    if [[ "$QUEUED" == 1 ]]; then queue_pod; else create_pod; fi
    ;;
  PREEMPTED | TERMINATED | FAILED | SUSPENDED)
    # Such a pod never comes back by itself.
    "$(dirname "${BASH_SOURCE[0]}")/tpu_delete.sh"
    if [[ "$QUEUED" == 1 ]]; then queue_pod; else create_pod; fi
    ;;
  WAITING_FOR_RESOURCES | ACCEPTED | PROVISIONING | CREATING)
    if [[ "$QUEUED" != 1 ]]; then
      echo "$TPU_NAME is $state; look again later" >&2
      exit 1
    fi
    ;;
  *)
    echo "$TPU_NAME is $state; left as it is (launch/tpu_delete.sh deletes it)" >&2
    exit 1
    ;;
esac
if [[ "$QUEUED" == 1 ]]; then
  wait_in_queue
fi
