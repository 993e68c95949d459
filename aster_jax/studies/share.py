"""Stages that several members of a study would make alike are made once.

Where in the flow: `run.py` asks here before a member is played. If its demonstrations, or those
and SFT, are determined alike (`lifetime/changes.py`) in a member of the same seed that has finished
them, the member starts from copies of these directories, with the bits that it would have made
itself. Checkpoints are hard links where the disk has them: no file of one is ever written again.
`STAGE/shared.json` says where a stage comes from.
"""

import filecmp
import json
import os
import pathlib
import shutil
from collections.abc import Iterable

from aster_jax import workdir
from aster_jax.config import STAGES
from aster_jax.lifetime import changes
from aster_jax.report import records
from aster_jax.train import metrics

SHARED = ("demos", "sft")
# Sections whose every key has to agree: those that do not determine the result move its last bits.
_ALIKE = {"demos": ("demos", "tools"), "sft": ("mesh", "model", "sft")}
_PROBED = ("rollout", "tools")


def take(c, here: pathlib.Path, others: Iterable[pathlib.Path]) -> dict[str, pathlib.Path]:
    """Give the run at `here`, of config `c`, the first stages that one of `others` has for it.

    Returns the workdir that each stage was taken from; {} where the run makes all itself. A copy
    that fails leaves nothing.
    """
    taken = {}
    for stage in (s for s in SHARED if s in c.stages):
        if (here / stage / "began.json").exists():  # its own, or taken before
            continue
        found = next((o for o in others if _is_same(c, here, o, stage)), None)
        if found is None or not _copy(found, here, stage):
            break
        taken[stage] = found
    return taken


def _is_same(c, here, other, stage) -> bool:
    """Whether `other` has finished what the run would make of this stage."""
    if not (other / stage / "DONE.json").exists():
        return False
    began = records.whole(other / stage / "began.json")
    config, asked = records.whole(other / "config.json"), json.loads(workdir.as_json(c))
    sections = _ALIKE[stage] + _PROBED * (stage == "sft" and c.sft.probe_every > 0)
    if not changes.is_record(began, c, stage) or any(config[s] != asked[s] for s in sections):
        return False
    if stage == "demos":
        return True
    # A teacher behind a server never says the same twice.
    own, its = (path / "demos" / "demos.jsonl" for path in (here, other))
    return own.exists() and its.exists() and filecmp.cmp(own, its, shallow=False)


def _copy(other, here, stage) -> bool:
    """The stage's directory and its lines of metrics.jsonl; the directory is there last, whole."""
    partial = here / f".{stage}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a copy that was killed
    try:
        shutil.copytree(other / stage, partial, copy_function=_copy_file)
        origin = {"from": os.path.relpath(other, here)}
        metrics.replace(partial / "shared.json", json.dumps(origin) + "\n")
        lines = metrics.lines(here, *(s for s in STAGES if s != stage))
        lines += metrics.lines(other, stage)
        if lines:
            text = "".join(json.dumps(line) + "\n" for line in lines)
            metrics.replace(here / "metrics.jsonl", text)
        partial.rename(here / stage)
    except OSError:  # then the run makes the stage itself
        shutil.rmtree(partial, ignore_errors=True)
        return False
    return True


def _copy_file(old: str, new: str) -> None:
    if "checkpoints" in pathlib.Path(old).parts:
        try:
            os.link(old, new)
            return
        except OSError:  # a disk without hard links
            pass
    shutil.copy2(old, new)
