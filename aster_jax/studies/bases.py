"""What all members of a study start from: the runs of its bases, and the weights they leave.

Where in the flow: `run.py` has the bases made before any member, each from the weights of the one
before. Their last checkpoint is exported to `BASE/weights`; `BASE/weights.json` says which
stage and step those are of. Bases may grow while nothing has begun from them: then the weights
are exported again.
"""

import json
import pathlib
import shutil
from collections.abc import Callable

from aster_jax import export, policy, together, workdir
from aster_jax.errors import InputError
from aster_jax.lifetime import changes
from aster_jax.report import records
from aster_jax.studies import plan
from aster_jax.train import metrics

PLACE = "base"  # in place of a member: what they all start from


def make(c, path: pathlib.Path, play: Callable, say: Callable[[str], None]) -> None:
    """Make every base of the study at `path`, and export its weights.

    Raises InputError where a base would become another one that something has begun from.
    """
    weights, bases = "", plan.bases(c)
    members = [m.path for m in plan.members(c)]
    for i, base in enumerate(bases):
        say(f"base {base.variant}")
        here, config = path / base.variant, plan.config_of(c, base, weights)
        later = [*(b.variant for b in bases[i + 1 :]), *members]

        def begun(later=later) -> str:
            return next((p for p in later if any((path / p).glob("*/began.json"))), "")

        together.once("base", lambda: _check_settled(config, here, begun()))
        play(config, here)
        weights = together.once("base", lambda: _weights(here, begun()))


def weights(c, path: pathlib.Path) -> str:
    """The directory that members start from; "" for a study without a base.

    Raises InputError where it is not there, or is of a base with fewer steps.
    """
    bases = plan.bases(c)
    if not bases:
        return ""
    here = path / bases[-1].variant
    found = here / plan.EXPORT
    if not (found / "config.json").exists():
        raise InputError(
            f"{found} is not there, and all members start from it; --member={PLACE} makes it"
        )
    if changed := _changed(plan.config_of(c, bases[-1]), here):
        raise InputError(
            f"{found} is of another base than the config asks for ({changed}); --member={PLACE} "
            "makes it anew"
        )
    return str(found)


def _changed(config, here: pathlib.Path) -> str:
    """What the config asks of the base's last stage that it was not made with; "" for nothing."""
    last = _last(config.stages)
    began = records.whole(here / last / "began.json")
    if began is None:
        was = _last(records.whole(here / "config.json")["stages"])
        return f"its last stage: {was} -> {last}"
    return ", ".join(
        f"{key}: {began['keys'][key]} -> {value}"
        for key, value in changes.growing(config, last).items()
        if began["keys"].get(key, value) != value
    )


def _last(stages) -> str:
    return [s for s in changes.TRAINING if s in stages][-1]


def _check_settled(config, here: pathlib.Path, begun: str) -> None:
    """InputError where a base that `begun` has begun from would be trained further."""
    is_exported = (here / plan.EXPORT / "config.json").exists()
    if is_exported and begun and (changed := _changed(config, here)):
        raise InputError(_refusal(here, changed, begun))


def _refusal(here, changed, begun) -> str:
    return (
        f"base {here.name!r} would become another one ({changed}), and {begun} has begun from its "
        "weights; take the change back, or give a new --workdir"
    )


def _weights(here: pathlib.Path, begun: str) -> str:
    """The base's last checkpoint as a directory that members start from, made where it is not."""
    out, note = here / plan.EXPORT, here / "weights.json"
    made = workdir.Run(workdir.read_config(here), here, mesh=None)
    stage = _last(made.config.stages)
    now, known = {"stage": stage, "step": policy.handed_on(made, stage)}, records.whole(note)
    if (out / "config.json").exists():
        if known == now or (known is None and begun):  # before there were such notes
            return str(out)
        if begun:
            raise InputError(_refusal(here, f"{known} -> {now}", begun))
        note.unlink(missing_ok=True)
        shutil.rmtree(out)
    export.export(here, stage, out, None, "float32")
    metrics.replace(note, json.dumps(now) + "\n")
    return str(out)
