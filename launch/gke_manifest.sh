#!/usr/bin/env bash
# Print the JobSet that runs the recipe on a TPU slice of a GKE cluster: one pod per host, all of
# them started again, together, whenever one was told to go, was preempted, or lost its node.
#
#   IMAGE=REGISTRY/aster launch/gke_manifest.sh --config experiments/NAME.py --workdir /mnt/runs/NAME
#
# CLAIM is a PersistentVolumeClaim that all pods may write (ReadWriteMany, such as Filestore's);
# it is mounted at MOUNT, and the workdir lies there.

# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

JOBSET_NAME="${JOBSET_NAME:-aster}"
IMAGE="${IMAGE:-}"                                   # made by launch/Dockerfile
GKE_ACCELERATOR="${GKE_ACCELERATOR:-tpu-v5p-slice}"  # what the node pool has
GKE_TOPOLOGY="${GKE_TOPOLOGY:-2x2x1}"                # of the whole slice, in chips
CHIPS_PER_HOST="${CHIPS_PER_HOST:-4}"
CLAIM="${CLAIM:-aster-runs}"
MOUNT="${MOUNT:-/mnt/runs}"
MAX_RESTARTS="${MAX_RESTARTS:-3}" # after failures; those after a preemption do not count

refuse() {
  echo "gke_manifest.sh: $1" >&2
  exit 2
}

need_workdir "a directory below $MOUNT" "$@"
words=" $* "
if [[ "$words" != *" --workdir"[\ =]"${MOUNT%/}"/* ]]; then
  refuse "give a --workdir below $MOUNT, where the claim is mounted"
fi
if [[ -z "$IMAGE" ]]; then
  refuse "give IMAGE, an image that launch/Dockerfile makes"
fi
if [[ ! "$GKE_TOPOLOGY" =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]]; then
  refuse "GKE_TOPOLOGY=$GKE_TOPOLOGY is no shape such as 2x2x4"
fi
if [[ ! "$CHIPS_PER_HOST$MAX_RESTARTS" =~ ^[1-9][0-9]*$ ]]; then
  refuse "CHIPS_PER_HOST=$CHIPS_PER_HOST and MAX_RESTARTS=$MAX_RESTARTS are numbers"
fi
if [[ ! "$JOBSET_NAME" =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]]; then
  refuse "JOBSET_NAME=$JOBSET_NAME has to be of small letters, digits and hyphens"
fi
chips=$((${GKE_TOPOLOGY//x/*}))
if ((chips % CHIPS_PER_HOST)); then
  refuse "$GKE_TOPOLOGY has $chips chips, which is no multiple of CHIPS_PER_HOST=$CHIPS_PER_HOST"
fi
hosts=$((chips / CHIPS_PER_HOST))

# A text as JSON, which YAML reads as well.
text() {
  local json="$1"
  if [[ "$json" == *[[:cntrl:]]* ]]; then
    refuse "a control character in ${json@Q}"
  fi
  json="${json//\\/\\\\}"
  json="${json//\"/\\\"}"
  echo "\"$json\""
}

arguments=""
for word in "$@"; do
  arguments+="${arguments:+, }$(text "${word//\$/\$\$}")" # Kubernetes puts variables in for $(NAME)
done
for word in "$IMAGE" "$GKE_ACCELERATOR" "$MOUNT" "$CLAIM"; do
  text "$word" >/dev/null
done
spot=""
if [[ "$SPOT" == 1 ]]; then
  spot='
                cloud.google.com/gke-spot: "true"'
fi

cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $JOBSET_NAME
spec:
  failurePolicy:
    maxRestarts: $MAX_RESTARTS
    rules:
      - name: toldtogo
        action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: ["PodFailurePolicy"]
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          completionMode: Indexed
          parallelism: $hosts
          completions: $hosts
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onPodConditions: [{type: DisruptionTarget, status: "True"}]
              - action: FailJob
                onExitCodes: {containerName: aster, operator: In, values: [143]}
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 60
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $(text "$GKE_ACCELERATOR")
                cloud.google.com/gke-tpu-topology: $(text "$GKE_TOPOLOGY")$spot
              containers:
                - name: aster
                  image: $(text "$IMAGE")
                  args: [$arguments]
                  resources:
                    requests: {google.com/tpu: $CHIPS_PER_HOST}
                    limits: {google.com/tpu: $CHIPS_PER_HOST}
                  volumeMounts:
                    - {name: runs, mountPath: $(text "$MOUNT")}
              volumes:
                - name: runs
                  persistentVolumeClaim: {claimName: $(text "$CLAIM")}
YAML
