"""Will it fit on the disk? What a run writes, added up before it begins.

Checkpoints are counted as they are; of episodes only an upper bound can be known, as
nobody knows beforehand how long trajectories become.
"""

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Iterable, Mapping

import jax
import optax

from aster_jax.errors import InputError
from aster_jax.model import config, transformer
from aster_jax.train import checkpoint, metrics, retention

# Of an episode per token, at most: id, log-prob and entropy are 10 bytes, 4/3 of that as text
# in base64; written out, tokens have 4 to 5 characters in English, of 6 bytes elsewhere.
TOKEN_BYTES = 20
EPISODE_BYTES = 4_000  # of an episode besides its tokens: the question and what was measured


@dataclasses.dataclass(frozen=True)
class Stage:
    """What decides how much a stage writes.

    tx is its optimiser; None for a stage without checkpoints. It saves every `save_every`
    of its `steps` and at the last, and retains what `keep` says. It plays `trajectories`
    in all, of at most `tokens` tokens each.
    """

    tx: optax.GradientTransformation | None = None
    steps: int = 0
    save_every: int = 0
    keep: retention.Keep = retention.Keep()
    trajectories: int = 0
    tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Needed:
    """Bytes on disk: of the checkpoints by stage, when they are most, and of all episodes."""

    checkpoints: Mapping[str, int]
    episodes: int


def state_bytes(cfg: config.ModelConfig, tx: optax.GradientTransformation) -> tuple[int, int]:
    """Bytes of the parameters, and of what the optimiser holds beside them."""
    params = transformer.abstract_params(cfg)
    return _bytes(params), _bytes(jax.eval_shape(tx.init, params))


def needed_bytes(cfg: config.ModelConfig, stages: Mapping[str, Stage]) -> Needed:
    """What a run of these stages, in their order, holds on disk at its worst moment.

    A stage under way holds whole states: those it retains and the one being written. When
    the next one has its first checkpoint only their parameters remain
    (`Checkpoints.drop_moments`); until then it holds fewer states than it does later.
    """
    finished: dict[str, int] = {}
    worst: dict[str, int] = {}
    for name, stage in stages.items():
        if stage.tx is None or not stage.steps:
            continue
        params, moments = state_bytes(cfg, stage.tx)
        kept, most = _counts(stage)
        now = {**finished, name: most * (params + moments)}
        worst = max(worst, now, key=lambda held: sum(held.values()))
        finished[name] = kept * params
    episodes = sum(
        stage.trajectories * (stage.tokens * TOKEN_BYTES + EPISODE_BYTES)
        for stage in stages.values()
    )
    return Needed(worst, episodes)


def check(path: pathlib.Path, needed: Needed) -> str:
    """A sentence for the log about the disk of workdir `path`.

    What the stages of `needed` have under `path/STAGE/checkpoints` counts as written already. Of
    other stages, which are finished, only the moments count: they are going to be deleted.

    Raises InputError when the checkpoints do not fit. Episodes alone refuse nothing, for
    their bound is far above what is usual.
    """
    free = shutil.disk_usage(path).free
    held = going = 0
    for folder in path.glob("*/checkpoints"):
        if folder.parent.name in needed.checkpoints:
            held += _written(folder.rglob("*"))
        elif needed.checkpoints:
            going += _written(folder.glob(f"*/{checkpoint.MOMENTS}/**/*"))
    said = sentence(needed, free, held, going)
    if sum(needed.checkpoints.values()) - held - going > free:
        raise InputError(
            f"{said} on the disk of {path}; give a --workdir on a larger disk, free some space, "
            "or lower keep or raise keep_every of the stages (0 keeps none of those)"
        )
    return said


def _written(files: Iterable[pathlib.Path]) -> int:
    return sum(p.stat().st_size for p in files if p.is_file())


def sentence(needed: Needed, free: int, held: int = 0, going: int = 0) -> str:
    """What is needed, by stage, and what there is; `held` of it is written already, and `going`
    more bytes, of finished stages, will be deleted."""
    total = sum(needed.checkpoints.values())
    parts = ", ".join(f"{name} {_size(n)}" for name, n in needed.checkpoints.items())
    text = (
        f"this run writes up to {_size(total)} of checkpoints" + (f" ({parts})" if parts else "")
        + f" and at most {_size(needed.episodes)} of episodes; "
    )  # fmt: skip
    if held:
        text += f"{_size(held)} are there, "
    if going:
        text += f"{_size(going)} of finished stages will be deleted, "
    text += f"{_size(free)} are free"
    if total <= free + held + going < total + needed.episodes:
        text += ", which long episodes may fill before the end"
    return text


def _counts(stage: Stage) -> tuple[int, int]:
    """Checkpoints that a stage leaves at its end, and has at most while it runs."""
    saved = [
        at for at in range(1, stage.steps + 1) if metrics.every(stage.save_every, at, stage.steps)
    ]
    # The best may be any of them: one more, if there is one more.
    kept = len(retention.retained(saved, {}, stage.keep)) + stage.keep.best
    return min(kept, len(saved)), min(kept + 1, len(saved))


def _bytes(shapes) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(shapes))


def _size(count: float) -> str:
    """`count` bytes for people: two figures or more, in MB or GB."""
    if count < 1e9:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e9:.1f} GB" if count < 10e9 else f"{count / 1e9:.0f} GB"
