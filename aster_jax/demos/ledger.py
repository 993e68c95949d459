"""What a teacher was asked, and what was paid for it: one JSON line per event, never changed.

Keyed by (problem, sample, digest of the settings), so that a conversation which a killed
process left goes on after its last paid turn, and one that has ended is never asked again,
by this run or by another one with the same file.

    {"key", "event": "turn", "reply", "prompt_tokens", "completion_tokens", ...}
    {"key", "event": "result", "status", "text"}       of the tool, in the order of the calls
    {"key", "event": "end", "reason", ...}              final; the failures too
"""

import contextlib
import fcntl
import json
import os
import pathlib
import threading

from aster_jax.errors import InputError
from aster_jax.train import metrics


@contextlib.contextmanager
def opened(path: pathlib.Path, caps: "Caps"):
    """The ledger at `path`, which nobody else has meanwhile. Raises InputError if one has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise InputError(
                f"another process writes to {path}; wait for it, or give a journal of its own "
                "with demos.teacher.journal"
            ) from e
        yield Ledger(path, caps)


class Caps:
    """Most tokens and money that may be spent, and prices per million tokens; 0 = no cap."""

    def __init__(self, tokens: int = 0, money: float = 0.0, prompt: float = 0.0, written: float = 0.0):
        self.tokens, self.money = tokens, money
        self._prompt, self._written = prompt, written

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Of so many tokens, in the currency of the prices."""
        return (prompt_tokens * self._prompt + completion_tokens * self._written) / 1e6

    def allow(self, tokens: int, money: float) -> bool:
        """Whether so much in all is within both caps."""
        return not (0 < self.tokens < tokens or 0 < self.money < money)


class Ledger:
    """The events so far, by key, and what they cost; from any thread.

    What is about to be spent is reserved before it is asked for, so that many requests at
    once do not run over a cap together.
    """

    def __init__(self, path: pathlib.Path, caps: Caps):
        self._path, self._caps = path, caps
        self._lock = threading.Lock()
        self._events: dict[str, list[dict]] = {}
        self._reserved_tokens, self._reserved_money = 0, 0.0
        self.prompt_tokens = self.completion_tokens = 0
        self._keys: set[str] = set()
        for event in _read(path):
            self._events.setdefault(event["key"], []).append(event)

    def events(self, key: str) -> list[dict]:
        """What is known of a conversation, in order. It counts towards the caps from now on:
        what other settings have cost, in the same file, does not."""
        with self._lock:
            found = list(self._events[key]) if key in self._events else []
            if key not in self._keys:
                self._keys.add(key)
                for event in found:
                    self._count(event)
            return found

    def add(self, key: str, event: str, values: dict) -> None:
        """Write one event down; it is on disk when this returns."""
        record = {"key": key, "event": event, **values}
        with self._lock:
            metrics.add_line(self._path, record)
            self._events.setdefault(key, []).append(record)
            self._count(record)

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> bool:
        """Set so much aside, unless it could run over a cap."""
        with self._lock:
            money = self._caps.cost(prompt_tokens, completion_tokens)
            tokens = prompt_tokens + completion_tokens
            spent = self.prompt_tokens + self.completion_tokens + self._reserved_tokens
            if not self._caps.allow(spent + tokens, self._spent() + self._reserved_money + money):
                return False
            self._reserved_tokens += tokens
            self._reserved_money += money
            return True

    def release(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Give back what was set aside."""
        with self._lock:
            self._reserved_tokens -= prompt_tokens + completion_tokens
            self._reserved_money -= self._caps.cost(prompt_tokens, completion_tokens)

    def spent(self) -> float:
        """Money spent on the conversations that were looked at."""
        with self._lock:
            return self._spent()

    def _spent(self):
        return self._caps.cost(self.prompt_tokens, self.completion_tokens)

    def _count(self, event):
        if event["event"] == "turn":
            self.prompt_tokens += event["prompt_tokens"]
            self.completion_tokens += event["completion_tokens"]


def _read(path: pathlib.Path) -> list[dict]:
    """All whole events; a torn last line, which a kill leaves, is cut off the file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    events = []
    for row, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
        try:
            event = json.loads(line)
            known = event["event"] in ("turn", "result", "end") and isinstance(event["key"], str)
        except (ValueError, KeyError, TypeError) as e:
            raise InputError(f"{path} row {row} is damaged ({e}); remove that line") from e
        if not known:
            raise InputError(f"{path} row {row} is no event of a teacher's journal")
        events.append(event)
    return events
