"""`python -m aster_jax.export --workdir DIR --checkpoint rl2 --out DIR [--step N] [--dtype T]`.

A stage's checkpoint as a Hugging Face directory that transformers, vLLM and this package
(`model.source`) load. Reads the workdir and writes nothing into it, so it can be given
while the run goes on. With `--episodes FILE...` in place of a checkpoint: a run's episodes
as OpenAI messages, or in the Agent Trajectory Interchange Format.
"""

import argparse
import contextlib
import functools
import json
import pathlib
import shutil
import sys

from aster_jax import __version__, named, weights
from aster_jax import config as configs
from aster_jax.data import files as readable
from aster_jax.data import rows
from aster_jax.errors import InputError
from aster_jax.interchange import atif, conversation


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


def export_episodes(files: list[pathlib.Path], form: str, out: pathlib.Path, model: str) -> int:
    """Write the episodes of a run's files in a format that others read; how many.

    "openai": one file, messages and tools per line. "atif": a directory, a document per
    episode, of a model by that name. Raises InputError naming file and row of what is no
    episode, and where `out` is there already.
    """
    if out.exists():
        raise InputError(f"{out} is there already; give another --out")
    count, partial = 0, out.with_name(out.name + ".partial")
    out.parent.mkdir(parents=True, exist_ok=True)
    _clear(partial)  # what an export that failed has left is none of this one
    with contextlib.ExitStack() as stack:
        if form == "atif":
            partial.mkdir()
        else:
            lines = stack.enter_context(open(partial, "wb"))
        for record in _records(files):
            count += 1
            if form == "atif":
                text = json.dumps(record(atif.to_trajectory, model, __version__)) + "\n"
                (partial / f"{count:06d}.json").write_text(text, "utf-8")
            else:
                lines.write(record(_line))
    partial.rename(out)  # so that what is there is whole
    return count


def _clear(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _line(record) -> bytes:
    """What `conversation` makes of a record; ValueError where no UTF-8 has what it says."""
    return (json.dumps(conversation.to_line(record), ensure_ascii=False) + "\n").encode()


def _records(files):
    """For every line of the files, a function that makes something of its record."""
    for path in files:
        readable.check_regular(path)
        try:
            for row, record in rows.lines(path):
                yield functools.partial(_made, record, f"{path} row {row}")
        except OSError as e:
            raise InputError(f"{path} cannot be read ({e})") from e


def _made(record, where, form, *given):
    try:
        return form(record, *given)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
        raise InputError(f"{where}: not an episode record ({e!r:.200})") from e


def main() -> None:
    """Entry point: what is wrong becomes one sentence and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m aster_jax.export", description=__doc__)
    add = parser.add_argument
    add("--workdir", type=pathlib.Path, help="of the run whose checkpoint is exported")
    add("--checkpoint", choices=configs.CHECKPOINTS)
    add("--out", type=pathlib.Path, required=True)
    add("--step", type=int, help="of that stage; default what it hands on")
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--episodes", type=pathlib.Path, nargs="+", help="files of episodes, in place of a checkpoint")
    add("--format", choices=("openai", "atif"), default="openai", help="of exported episodes")
    add("--name", default="aster_jax", help="of the model, in exported episodes")
    a = parser.parse_args()
    try:
        if a.episodes:
            count = export_episodes(a.episodes, a.format, a.out, a.name)
            print(f"{count} episodes are in {a.out}")
            return
        if not (a.workdir and a.checkpoint):
            raise InputError("give --workdir and --checkpoint, or --episodes")
        out, step = export(a.workdir, a.checkpoint, a.out, a.step, a.dtype)
    except InputError as e:
        sys.exit(f"aster_jax.export: {e}")
    print(f"{a.checkpoint}, step {step}, of {a.workdir} is in {out}")


if __name__ == "__main__":
    main()
