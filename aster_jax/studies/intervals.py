"""95 % intervals over seeds, by Student's t. Pure.

A study's unit is a run: what differs from seed to seed (problems, order, sampling) is what a
claim has to hold against, and problems of one run are not independent of each other. One seed
has no interval, and neither have seeds that agree to the last digit: what they vary by is not
known then. Assumes that a run's number varies about its mean like a normal one.
"""

import dataclasses
import math
from collections.abc import Sequence

from scipy import special

LEVEL = 0.95
RATE = (0.0, 1.0)  # where shares and accuracies lie, so no interval of theirs goes beyond


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds; `low` and `high` are None where those leave no interval."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def is_above(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low is not None and self.low > 0

    @property
    def is_below(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.high is not None and self.high < 0


def over_seeds(
    values: Sequence[float | None], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> Estimate | None:
    """Mean and interval of one number per seed; seeds without one (None) are left out.

    `bounds` is where such a number can lie; the interval is cut there. Returns None when there
    is no number at all.
    """
    known = [float(v) for v in values if v is not None]
    if not known:
        return None
    n, mean = len(known), sum(known) / len(known)
    if n == 1 or max(known) - min(known) < 1e-9:
        return Estimate(mean, None, None, n)
    variance = sum((v - mean) ** 2 for v in known) / (n - 1)
    half = float(special.stdtrit(n - 1, (1 + LEVEL) / 2)) * math.sqrt(variance / n)
    return Estimate(mean, max(mean - half, bounds[0]), min(mean + half, bounds[1]), n)


def difference(ours: dict[int, float | None], theirs: dict[int, float | None]) -> Estimate | None:
    """How much larger ours is, paired by seed: a seed has the same problems in every variant."""
    both = [s for s in ours if s in theirs and None not in (ours[s], theirs[s])]
    return over_seeds([ours[s] - theirs[s] for s in both])
