"""`python -m aster_jax.export --workdir DIR --checkpoint rl2 --out DIR [--step N] [--dtype T]`.

A stage's checkpoint as a Hugging Face directory that transformers, vLLM and this package
(`model.source`) load. Reads the workdir and writes nothing into it, so it can be given
while the run goes on.
"""

import argparse
import pathlib
import sys

from aster_jax import config as configs
from aster_jax import named, weights
from aster_jax.errors import InputError


def export(
    path: pathlib.Path, stage: str, out: pathlib.Path, step: int | None, dtype: str
) -> tuple[pathlib.Path, int]:
    """Write the parameters of a stage's checkpoint to `out`; returns it and their step.

    `step` None takes what the stage hands on, or of a stage under way its newest checkpoint.
    Raises InputError when there is no such run, stage or checkpoint.
    """
    params, described, step = named.of_run(path, stage, step)
    weights.export(params, described.cfg, described.tokenizer, out, dtype, style=described.style)
    return out, step


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
