"""How long a stage still takes, by its last steps. Knows no clock: it is told the times."""

import collections

LAST = 20  # steps whose time counts; the first ones of a process, which compile, are soon forgotten


class Pace:
    """Steps and when they were made, by stage, of this process alone."""

    def __init__(self):
        self._made = collections.defaultdict(lambda: collections.deque(maxlen=LAST + 1))

    def note(self, stage: str, step: int, now_s: float) -> None:
        """A step has been made at `now_s`, in seconds of any clock that runs evenly."""
        made = self._made[stage]
        if made and step <= made[-1][0]:
            made.clear()  # begun again
        made.append((step, now_s))

    def left_s(self, stage: str, steps: int) -> float | None:
        """Seconds until step `steps`; None before two steps are known, and at the end."""
        made = self._made[stage]
        if len(made) < 2 or made[-1][0] >= steps:
            return None
        (first, began), (last, now) = made[0], made[-1]
        return (now - began) / (last - first) * (steps - last)


def text(left_s: float | None) -> str:
    """`  eta 12 min`, to be put behind a line; nothing where it is not known."""
    if left_s is None:
        return ""
    for unit, seconds, most in (("s", 1, 100), ("min", 60, 100), ("h", 3600, 72)):
        if left_s < most * seconds:
            return f"  eta {left_s / seconds:.{1 if unit == 'h' else 0}f} {unit}"
    return f"  eta {left_s / 86400:.1f} days"
