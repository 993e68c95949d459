"""What a teacher was asked, and what was paid for it: one JSON line per event, never changed.

Keyed by (problem, sample, digest of the settings), so that a conversation which a killed
process left goes on after its last paid turn, and one that has ended is never asked again,
by this run or by another one with the same file.

    {"key", "event": "turn", "reply" or "garbage", "prompt_tokens", "completion_tokens", ...}
    {"key", "event": "result", "status", "text"}       of the tool, in the order of the calls
    {"key", "event": "end", "reason", "why"}            final; the failures too

The rows of a key only make sense together: whoever removes one has to remove them all.
"""

import contextlib
import fcntl
import json
import math
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence

from aster_jax.errors import InputError
from aster_jax.train import metrics


LOOK_S = 0.2  # between two looks at whether what is set aside leaves room, or to stop
MOST_TOKENS = 1 << 40  # of one number of tokens that anybody is believed
_TEXTS = {"result": ("status", "text"), "end": ("reason", "why")}


@contextlib.contextmanager
def opened(path: pathlib.Path, caps: "Caps"):
    """The ledger at `path`, which nobody else has meanwhile. Raises InputError if one has, or
    if there can be no such file."""
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(path.with_name(path.name + ".lock"), "a"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            open(path, "ab").close()
            events = list(_read(path))
        except BlockingIOError as e:
            raise InputError(
                f"another process writes to {path}; wait for it, or give a journal of its own "
                "with demos.teacher.journal"
            ) from e
        except OSError as e:
            raise InputError(
                f"demos.teacher.journal: {path} cannot be written ({e.strerror}); give a file that can"
            ) from e
        yield Ledger(path, caps, events)


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
    once do not run over a cap together. `rows` are (row of the file, event), as `_read`
    gives them.
    """

    def __init__(self, path: pathlib.Path, caps: Caps, rows: Sequence[tuple[int, dict]]):
        self._path, self._caps = path, caps
        self._changed = threading.Condition()
        self._events: dict[str, list[dict]] = {}
        self._rows: dict[str, list[int]] = {}
        self._reserved_tokens, self._reserved_money = 0, 0.0
        self._factor = 0.0  # most that a request came to, of its bound; 0 = none has come yet
        self.prompt_tokens = self.completion_tokens = 0
        self._keys: set[str] = set()
        for row, event in rows:
            self._events.setdefault(event["key"], []).append(event)
            self._rows.setdefault(event["key"], []).append(row)

    def events(self, key: str) -> list[dict]:
        """What is known of a conversation, in order. It counts towards the caps from now on:
        what other settings have cost, in the same file, does not."""
        with self._changed:
            found = list(self._events[key]) if key in self._events else []
            if key not in self._keys:
                self._keys.add(key)
                for event in found:
                    self._count(event)
            return found

    def damaged(self, key: str, i: int, why: str) -> InputError:
        """What to raise where the `i`-th event of a key, as it was read, cannot be there."""
        return _damaged(self._path, self._rows[key][i], key, why)

    def add(self, key: str, event: str, values: dict) -> None:
        """Write one event down; it is on disk when this returns."""
        record = {"key": key, "event": event, **values}
        with self._changed:
            metrics.add_line(self._path, record)
            self._events.setdefault(key, []).append(record)
            self._count(record)

    def reserve(self, sent_bytes: int, most: int, stop: threading.Event) -> tuple[int, int] | None:
        """Set aside what a request can come to; None where that could run over a cap, or when
        `stop` is set.

        Args:
          sent_bytes: of the request. A text has no more tokens than bytes, but servers
            put texts of their own around it; so this is multiplied with the most that any
            request has come to, and the first of all is waited for alone.
          most: tokens that it may write.

        Returns:
          (tokens of the prompt, of the answer), for `release`.
        """
        with self._changed:
            while not stop.is_set():
                factor = max(1.0, self._factor)
                asked = math.ceil(sent_bytes * factor), math.ceil(most * factor)
                if not self._fits(*asked, 0, 0.0):
                    return None
                known = self._factor > 0 or self._caps.allow(math.inf, math.inf)
                reserved = self._reserved_tokens, self._reserved_money
                if not self._reserved_tokens or (known and self._fits(*asked, *reserved)):
                    self._reserved_tokens += sum(asked)
                    self._reserved_money += self._caps.cost(*asked)
                    return asked
                self._changed.wait(LOOK_S)  # what others have set aside may come to less
        return None

    def _fits(self, prompt_tokens, completion_tokens, tokens, money):
        """Whether so much more is within the caps, beside what is set aside."""
        tokens += self.prompt_tokens + self.completion_tokens + prompt_tokens + completion_tokens
        money += self._spent() + self._caps.cost(prompt_tokens, completion_tokens)
        return self._caps.allow(tokens, money)

    def release(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Give back what was set aside."""
        with self._changed:
            self._reserved_tokens -= prompt_tokens + completion_tokens
            self._reserved_money -= self._caps.cost(prompt_tokens, completion_tokens)
            self._changed.notify_all()

    def spent(self) -> float:
        """Money spent on the conversations that were looked at."""
        with self._changed:
            return self._spent()

    def _spent(self):
        return self._caps.cost(self.prompt_tokens, self.completion_tokens)

    def _count(self, event):
        if event["event"] != "turn":
            return
        self.prompt_tokens += event["prompt_tokens"]
        self.completion_tokens += event["completion_tokens"]
        if "sent_bytes" in event:
            said = event["prompt_tokens"] / event["sent_bytes"]
            self._factor = max(self._factor, said, event["completion_tokens"] / event["most"])


def _read(path: pathlib.Path) -> Iterator[tuple[int, dict]]:
    """All whole events with their rows; a torn last line, which a kill leaves, is cut off the
    file. Raises InputError for what is no event, or one that lacks something."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    for row, line in enumerate(data[:whole].split(b"\n")[:-1], 1):
        try:
            event = json.loads(line)
            known = event["event"] in ("turn", "result", "end") and isinstance(event["key"], str)
        except (ValueError, KeyError, TypeError, RecursionError) as e:
            raise InputError(
                f"{path} row {row} is damaged ({e}); remove it, and all rows with the same key"
            ) from e
        if not known:
            raise InputError(f"{path} row {row} is no event of a teacher's journal")
        if missing := _missing(event):
            raise _damaged(path, row, event["key"], f"has no {missing} that could be used")
        yield row, event


def _missing(event) -> str:
    """The fields that an event lacks, or whose values are none."""
    if event["event"] != "turn":
        fields = dict.fromkeys(_TEXTS[event["event"]], lambda v: isinstance(v, str))
    else:
        fields = dict.fromkeys(("prompt_tokens", "completion_tokens"), is_number)
        if "sent_bytes" in event:  # rows of older versions have neither
            fields |= dict.fromkeys(("sent_bytes", "most"), lambda v: is_number(v, 1))
        said = "garbage" if "garbage" in event else "reply"
        fields[said] = lambda v: isinstance(v, str if said == "garbage" else dict)
    return ", ".join(f for f, fits in fields.items() if f not in event or not fits(event[f]))


def is_number(n, least: int = 0) -> bool:
    """Whether it is a number of tokens that can be reckoned with."""
    return isinstance(n, int) and not isinstance(n, bool) and least <= n < MOST_TOKENS


def _damaged(path, row, key, why) -> InputError:
    return InputError(
        f"{path} row {row} {why}; remove all rows with the key {json.dumps(key)}, and that "
        "conversation is had anew"
    )
