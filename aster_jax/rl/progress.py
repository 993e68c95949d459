"""Where an RL stage stands, how it goes on after a stop, and when it gives up."""

import dataclasses
import json
import zlib

from aster_jax import policy as policies
from aster_jax import together, workdir
from aster_jax.errors import GaveUp
from aster_jax.train import checkpoint, retention, step


@dataclasses.dataclass(frozen=True)
class Progress:
    """The last step made, and what the next one depends on.

    `unusable`: steps in a row up to it that could not be used. `lineage`: a number that all
    updates so far went into; episodes of an unfinished step are of the same policy if it is
    the same. `pending`: the step's metrics and why it could not be used, where it has been made
    and waits for its measurement (`validate.py`), None otherwise.
    """

    step: int = 0
    unusable: int = 0
    lineage: int = 0
    pending: dict | None = None


def start(run: workdir.Run, stage: str, policy: policies.Policy, tx, saved):
    """(state, progress, seconds spent before): the newest checkpoint, or what an earlier
    stage hands on with a fresh optimiser."""
    abstract = step.abstract_state(policy.cfg, tx, run.mesh)
    found = saved.restore_newest(abstract)
    if found is None:
        run.rewind(stage, 0)
        origin = policies.starts_from(run, stage)
        if origin == "base":
            run.say(stage, f"starts from {run.config.model.source}, untrained by this run")
        params = policies.trained_params(run, policy, origin)
        return step.fresh_state(params, tx, run.mesh), Progress(), 0.0
    state, position = found
    known = [f.name for f in dataclasses.fields(Progress) if f.name in position]
    at = Progress(**{name: position[name] for name in known})
    run.say(stage, f"resumed after step {at.step}")
    # One that waits is recorded once it is measured, and may have been by the process before.
    return state, at, run.rewind(stage, at.step - (at.pending is not None))


def reference(run: workdir.Run, stage: str, policy: policies.Policy, c) -> dict | None:
    """The parameters that the KL term compares with: those that the stage began from, read
    anew, so that a resumed one has the same. None, and no memory, where there is no such term."""
    if not c.kl_coef:
        return None
    return policies.trained_params(run, policy, policies.starts_from(run, stage))


def drop_moments(run: workdir.Run, stage: str, saved) -> bool:
    """Once a checkpoint of `stage` is on disk, delete the optimiser's part of those it started
    from: their steps cannot grow any more, and that part is two thirds of the bytes. Before,
    they are what a damaged one would be made again from. Whether it is done."""
    if saved.latest is None:
        return False
    origin = policies.starts_from(run, stage)
    directory = run.path / origin / "checkpoints"
    if origin != "base" and together.once("origin", directory.exists):
        with checkpoint.Checkpoints(directory, retention.Keep()) as earlier:
            earlier.drop_moments()
    return True


def position(at: Progress) -> dict:
    """What a checkpoint says of where it stands."""
    return dataclasses.asdict(at)


def leave(saved, state, at: Progress) -> None:
    """Save the state after the last step, measured or not, if it is not on disk yet."""
    if at.step and at.step != saved.latest:
        saved.save(at.step, state, position(at))
    saved.wait()


def after(at: Progress, values: dict, why_not: str) -> Progress:
    """The progress after one more step; `why_not` is "" for a step that could be used."""
    changed = {k: v for k, v in values.items() if k in ("rl/loss", "rl/grad_norm")}
    lineage = zlib.crc32(json.dumps([at.lineage, sorted(changed.items())]).encode())
    pending = {"values": values, "why_not": why_not}
    return Progress(at.step + 1, at.unusable + 1 if why_not else 0, lineage, pending)


def ended(at: Progress) -> Progress:
    """The progress once the last step has been measured and recorded."""
    return dataclasses.replace(at, pending=None)


def give_up(at: Progress, c, stage: str, why_not: str) -> None:
    """Raise `errors.GaveUp` after too many steps in a row that could not be used."""
    if at.unusable >= c.max_unusable:
        raise GaveUp(
            f"{stage} ends at step {at.step}: {at.unusable} steps in a row could not be used, "
            f"the last one because {why_not} (rl.max_unusable={c.max_unusable}). The episodes of "
            "these steps tell what happened; the same command goes on from the last checkpoint"
        )


def seconds(stats: dict, write_s: float, values: dict) -> dict[str, float]:
    """Where a step's time went, by part."""
    return {
        "time/rollout_s": float(stats["phase_s"]),
        "time/verify_s": stats["verify_s"],
        "time/write_s": write_s,
        "time/old_logprobs_s": values.pop("old_logprobs_s"),
        "time/update_s": values.pop("update_s"),
    }
