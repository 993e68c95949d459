"""`python -m aster_jax.export --workdir DIR --checkpoint rl2 --out DIR [--step N] [--dtype T]`.

A stage's checkpoint as a Hugging Face directory that transformers, vLLM and this package
(`model.source`) load. Reads the workdir and writes nothing into it, so it can be given
while the run goes on.
"""

import argparse
import pathlib
import sys

import jax

from aster_jax import config as configs
from aster_jax import mesh, policy, weights, workdir
from aster_jax.errors import InputError
from aster_jax.lifetime import changes


def export(
    path: pathlib.Path, stage: str, out: pathlib.Path, step: int | None, dtype: str
) -> tuple[pathlib.Path, int]:
    """Write the parameters of a stage's checkpoint to `out`; returns it and their step.

    `step` None takes what the stage hands on, or of a stage under way its newest checkpoint.
    Raises InputError when there is no such run, stage or checkpoint.
    """
    c = workdir.read_config(path)
    run = workdir.Run(c, path, mesh.build(1, 1, 1, jax.local_devices()[:1]))
    described = policy.describe(run)
    if stage == "base":
        step, params = 0, policy.base_params(run, described)
    else:
        step = _step(run, stage) if step is None else step
        params = policy.params_of(run, described, stage, step)
    weights.export(params, described.cfg, described.tokenizer, out, dtype, style=described.style)
    return out, step


def _step(run, stage) -> int:
    if run.has_ended(stage):
        found = policy.handed_on(run, stage)
    else:
        found = changes.steps_made(run.path, stage)
    if not found:
        raise InputError(
            f"stage {stage!r} of {run.path} has no checkpoint; give another --checkpoint "
            f"({', '.join(configs.CHECKPOINTS)})"
        )
    return found


def main() -> None:
    """Entry point: what is wrong becomes one sentence and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m aster_jax.export", description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--checkpoint", choices=configs.CHECKPOINTS, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--step", type=int, help="of that stage; default what it hands on")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    a = parser.parse_args()
    try:
        out, step = export(a.workdir, a.checkpoint, a.out, a.step, a.dtype)
    except InputError as e:
        sys.exit(f"aster_jax.export: {e}")
    print(f"{a.checkpoint}, step {step}, of {a.workdir} is in {out}")


if __name__ == "__main__":
    main()
