"""Time as the host loop of a phase sees it: deadlines, and when the device was busy.

The one place of a rollout that reads the clock, so that a test can put another one in.
"""

import collections
import concurrent.futures
import dataclasses
import time
from collections.abc import Callable

import jax


@dataclasses.dataclass(frozen=True)
class Clock:
    """`now()` in seconds, and `wait(futures, timeout_s, first)`: until all are done, or the first."""

    now: Callable[[], float]
    wait: Callable[[list, float, bool], None]


def _wait(futures, timeout_s, first):
    when = concurrent.futures.FIRST_COMPLETED if first else concurrent.futures.ALL_COMPLETED
    concurrent.futures.wait(futures, timeout=max(0.0, timeout_s), return_when=when)


REAL = Clock(time.monotonic, _wait)


class Timeline:
    """What the device did when, in `stats`: prefill_s, decode_s and device_idle_s.

    Programs run in the order they were dispatched. Each leaves a small marker array that
    is there when it has run; the host, which waits for results anyway, waits for every
    marker in turn and so sees where one program ends and the next begins. A program that
    ended while the host was elsewhere counts until the host looked. It begins when its call
    does: on a GPU a call with a loop in it comes back only when the loop has run.
    """

    def __init__(self, clock: Clock, stats: collections.Counter):
        self._clock, self._stats = clock, stats
        self._under_way = collections.deque()
        self._free_at = None

    def now(self) -> float:
        """To be read before a program is called."""
        return self._clock.now()

    def dispatched(self, kind: str, marker: jax.Array, called: float) -> None:
        """A program of this kind ("prefill", "decode") was called at that time."""
        self._under_way.append((kind, marker, called))

    def wait(self, marker: jax.Array | None = None) -> None:
        """Until the program with this marker has run, and all before it; without one, all.

        Returns at once where that has been waited for before.
        """
        if marker is not None and not any(mark is marker for _, mark, _ in self._under_way):
            return
        while self._under_way:
            kind, mark, called = self._under_way.popleft()
            jax.block_until_ready(mark)
            now = self._clock.now()
            if self._free_at is not None:
                self._stats["device_idle_s"] += max(0.0, called - self._free_at)
            self._stats[f"{kind}_s"] += now - max(called, self._free_at or called)
            self._free_at = now
            if mark is marker:
                return
