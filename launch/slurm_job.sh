#!/usr/bin/env bash
# What SLURM runs (slurm_run.sh submits it): the recipe on all nodes, and the job put back into
# the queue when the run was told to go, at the end of its time or before a preemption.
#
#   VENV=venv sbatch --nodes 1 --gpus-per-node 1 --requeue --signal TERM@60 launch/slurm_job.sh --config ...

# SLURM runs a copy of this file from elsewhere; it starts in the checkout (sbatch --chdir).
# shellcheck source-path=SCRIPTDIR source=env.sh
source launch/env.sh

VENV="${VENV:-$PWD/venv}"
trap : TERM # the run is told by itself; this script stays for what comes after it

code=0
# The processes of a run end each other; whoever is still saving is not to be killed by SLURM.
call srun --kill-on-bad-exit=0 "$VENV/bin/python" -u -m aster_jax.main "$@" || code=$?
if [[ "$code" != 143 ]]; then
  exit "$code"
fi

if ((${SLURM_RESTART_COUNT:-0} >= MAX_ATTEMPTS)); then
  echo "the run was told to go $MAX_ATTEMPTS times; not put back into the queue" >&2
  exit 143
fi
# A preempted job is put back by SLURM itself, and a cancelled one is to stay away: neither is
# RUNNING any more.
if ! state="$(squeue --noheader --job "$SLURM_JOB_ID" --format %T)"; then
  echo "SLURM does not tell the job's state; submit it again, and it goes on where it stopped" >&2
  exit 143
fi
if [[ "$state" != RUNNING ]]; then
  echo "the job is ${state:-gone}; left to SLURM"
  exit 143
fi
if ! scontrol requeue "$SLURM_JOB_ID"; then
  echo "not put back into the queue; submit it again, and it goes on where it stopped" >&2
  exit 143
fi
