#!/usr/bin/env bash
# On the machine itself: machine_run.sh, again whenever the run was told to go (exit code 143)
# or was killed (137), until it ends by itself. Any other exit code is the script's own: the
# error would come again. For one machine with a GPU; a line in its crontab comes again after a
# reboot:
#
#   @reboot VENV=$HOME/aster/venv $HOME/aster/launch/machine_resume.sh --config ... --workdir ...

set -euo pipefail

RETRY_S="${RETRY_S:-60}"
MAX_ATTEMPTS="${MAX_ATTEMPTS:-100}"

for ((attempt = 1; attempt <= MAX_ATTEMPTS; attempt++)); do
  code=0
  "$(dirname "${BASH_SOURCE[0]}")/machine_run.sh" "$@" || code=$?
  if [[ "$code" != 143 && "$code" != 137 ]]; then
    exit "$code"
  fi
  echo "attempt $attempt: the run ended with exit code $code; next one in $RETRY_S s" >&2
  sleep "$RETRY_S"
done
echo "gave up after $MAX_ATTEMPTS attempts" >&2
exit 1
