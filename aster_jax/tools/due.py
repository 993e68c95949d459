"""What is to happen to a session some time from now, unless its call begins or ends before.

Nearly all of it never happens: most calls end at once and the next one follows at once. So
it costs a place in a queue, and one timer serves all sessions.
"""

import asyncio
import collections


class Line:
    """Events of processes that are due the same time after they were put in."""

    def __init__(self, loop: asyncio.AbstractEventLoop, delay_s: float):
        self.loop, self.delay_s = loop, delay_s
        self.items, self.waits = collections.deque(), False

    def add(self, process, event) -> None:
        """`event` happens to `process` after the delay if its `turn` is the same then."""
        self.items.append((self.loop.time() + self.delay_s, process, process.turn, event))
        if not self.waits:
            self.waits = True
            self.loop.call_later(self.delay_s, self.serve)

    def serve(self) -> None:
        """Lets happen what is due."""
        now = self.loop.time()
        while self.items and self.items[0][0] <= now:
            _, process, turn, event = self.items.popleft()
            if process.turn == turn:
                process.guard(event)
        self.waits = bool(self.items)
        if self.waits:
            self.loop.call_at(self.items[0][0], self.serve)
