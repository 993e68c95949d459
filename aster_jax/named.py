"""A model by the name that a command is given: anything `weights` loads, or a run's workdir.

Where export, chat and serve find what they are asked for. Reads a workdir and writes
nothing into it, so it can be given while the run goes on.
"""

import argparse
import dataclasses
import json
import pathlib

import jax

from aster_jax import config as configs
from aster_jax import mesh, policy, weights, workdir
from aster_jax.errors import InputError
from aster_jax.lifetime import changes


@dataclasses.dataclass(frozen=True)
class Named:
    """A loaded model; `tools` it was shown in training, None where nobody knows; its `origin`."""

    model: weights.Loaded
    tools: tuple | None
    origin: str


def ask(parser: argparse.ArgumentParser) -> None:
    """Add the flags by which a command is told its model: what `load` and an engine take."""
    add = parser.add_argument
    add("--model", required=True, help="a checkpoint, or the workdir of a run")
    add("--checkpoint", default="", help="of a workdir: base, sft, rl1 or rl2; default the last")
    add("--step", type=int, help="of that stage; default what it hands on")
    add("--style", default="", help="chat markup; default the model's own")
    add("--dtype", default="float32", help="of weights and cache: float32 or bfloat16")


def load(name: str, checkpoint: str = "", step: int | None = None) -> Named:
    """The model of a source, or of a workdir: there of a stage, "" for the last that has one.

    Raises InputError when there is no such model, stage or checkpoint.
    """
    path = pathlib.Path(name)
    if not is_workdir(path):
        if checkpoint or step is not None:
            raise InputError(f"{name} is no workdir of a run, so it has no checkpoint to choose")
        return Named(weights.load(name), None, name)
    stage = checkpoint or _last(path)
    params, described, step = of_run(path, stage, step)
    model = weights.Loaded(
        params, described.cfg, described.tokenizer, described.style, None, path
    )
    return Named(model, described.tools or (), f"{stage}, step {step}, of {name}")


def is_workdir(path: pathlib.Path) -> bool:
    """Whether the config there is one of a run: checkpoints have a file of that name too."""
    known = path / "config.json"
    if not known.is_file():
        return False
    try:
        found = json.loads(known.read_text("utf-8"))
    except ValueError:
        return False
    return isinstance(found, dict) and {"stages", "rollout"} <= set(found)


def of_run(path: pathlib.Path, stage: str, step: int | None) -> tuple[dict, policy.Policy, int]:
    """(parameters, policy, step) of a stage's checkpoint, on the first device.

    `step` None takes what the stage hands on, or of a stage under way its newest checkpoint.
    Raises InputError when there is no such run, stage or checkpoint.
    """
    run = _open(path)
    described = policy.describe(run)
    if stage == "base":
        return policy.base_params(run, described), described, 0
    step = _step(run, stage) if step is None else step
    return policy.params_of(run, described, stage, step), described, step


def _open(path) -> workdir.Run:
    return workdir.Run(workdir.read_config(path), path, mesh.build(1, 1, 1, jax.local_devices()[:1]))


def _last(path) -> str:
    """The last stage with a checkpoint; "base" where there is none."""
    run = _open(path)
    return next((s for s in reversed(changes.TRAINING) if _found(run, s)), "base")


def _found(run, stage) -> int:
    if run.has_ended(stage):
        return policy.handed_on(run, stage)
    return changes.steps_made(run.path, stage)


def _step(run, stage) -> int:
    if not (found := _found(run, stage)):
        raise InputError(
            f"stage {stage!r} of {run.path} has no checkpoint; give another --checkpoint "
            f"({', '.join(configs.CHECKPOINTS)})"
        )
    return found
