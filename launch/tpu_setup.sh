#!/usr/bin/env bash
# Copy the tracked files of this checkout, as they are now, to every worker and make the
# virtual environment there. Can be repeated: the code is replaced, and the environment is
# made again only when the pinned requirements have changed.
#
#   TPU_NAME=aster launch/tpu_setup.sh

# shellcheck source-path=SCRIPTDIR source=env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

archive="$(mktemp -d)/aster_code.tar.gz"
trap 'rm -rf "$(dirname "$archive")"' EXIT
if [[ "$DRY_RUN" == 1 ]]; then
  archive=/tmp/aster_code.tar.gz
  trap - EXIT
  echo "git ls-files -z | tar --null --files-from=- -czf $archive"
else
  (cd "$ROOT" && git ls-files -z | tar --null --files-from=- -czf "$archive")
fi

call gcloud compute tpus tpu-vm scp "$archive" "$TPU_NAME:aster_code.tar.gz" "${where[@]}" \
  --worker=all
on_all_workers "rm -rf $CODE_DIR && mkdir -p $CODE_DIR && tar -xzf aster_code.tar.gz -C $CODE_DIR"
on_all_workers "VENV=\$HOME/$VENV_DIR bash $CODE_DIR/launch/machine_setup.sh tpu"
