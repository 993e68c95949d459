#!/usr/bin/env bash
# Start the JobSet of gke_manifest.sh, whose arguments and environment it takes. One that has
# ended is replaced; one that is under way is left alone.
#
#   IMAGE=REGISTRY/aster launch/gke_run.sh --config experiments/NAME.py --workdir /mnt/runs/NAME

launch="$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source-path=SCRIPTDIR source=env.sh
source "$launch/env.sh"

JOBSET_NAME="${JOBSET_NAME:-aster}"

manifest="$("$launch/gke_manifest.sh" "$@")"
if [[ "$DRY_RUN" == 1 ]]; then
  call kubectl create --filename -
  echo "$manifest"
  exit 0
fi

# NAME/ while it is under way, NAME/Completed or NAME/Failed afterwards, nothing for none.
found="$(kubectl get jobset "$JOBSET_NAME" --ignore-not-found \
  --output 'jsonpath={.metadata.name}/{.status.terminalState}')"
case "$found" in
  "" | /) ;;
  "$JOBSET_NAME/")
    echo "$JOBSET_NAME is under way; kubectl delete jobset $JOBSET_NAME ends it" >&2
    exit 1
    ;;
  *)
    echo "$found: replaced"
    kubectl delete jobset "$JOBSET_NAME" --wait
    ;;
esac
kubectl create --filename - <<<"$manifest"
echo "kubectl logs --follow --prefix --selector jobset.sigs.k8s.io/jobset-name=$JOBSET_NAME"
