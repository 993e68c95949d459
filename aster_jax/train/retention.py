"""Which checkpoints of a stage stay on the disk, by their steps and scores."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which checkpoints stay: the `last` newest, those of `every` so many steps (0: none),
    and the one with the `best` score, if asked."""

    last: int = 2
    every: int = 0
    best: bool = False


def retained(steps: list[int], scores: Mapping[int, float], keep: Keep) -> set[int]:
    """Which of these steps stay; the newest always does.

    Args:
      steps: of the whole checkpoints that are there.
      scores: of those that were measured, by step; higher is better.
    """
    ordered = sorted(steps)
    kept = set(ordered[-max(keep.last, 1) :])
    if keep.every > 0:
        kept |= {step for step in ordered if step % keep.every == 0}
    best = highest(ordered, scores) if keep.best else None
    return kept if best is None else kept | {best}


def highest(steps: list[int], scores: Mapping[int, float]) -> int | None:
    """The step with the highest score, the later of equals; None when none has a score."""
    scored = [step for step in steps if step in scores]
    return max(scored, key=lambda step: (scores[step], step), default=None)
