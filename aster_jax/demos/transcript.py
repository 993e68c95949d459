"""One demonstration as messages, as it happened, and how they lie on disk.

Every teacher makes these (`demos/collect.py`, `demos/talk.py`, `demos/episodes.py`), every
format reads and writes them; `demos/curate.py` chooses among them.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

from aster_jax import types
from aster_jax.errors import InputError
from aster_jax.train import metrics

# Statuses of attempts at a call that reached no tool.
VOID = ("malformed", "no_calls_left")


@dataclasses.dataclass(frozen=True)
class Transcript:
    """A question, and what a teacher and its tool said until the answer.

    `statuses` has the tool's status of every attempt at a call, in order; those in `VOID`
    reached no tool. `finished` is False when the teacher gave up or the tool was
    unavailable; then there is no final answer. `verdict` is the verifier's, "" where nobody
    has judged it; `origin` says where it is from (file and row, run and step, sample).
    """

    problem: types.Problem
    messages: tuple[dict, ...]
    statuses: tuple[str, ...]
    finished: bool = True
    verdict: str = ""
    origin: str = ""

    @property
    def final_text(self) -> str:
        """The last assistant turn, which holds the answer; "" when unfinished."""
        return self.messages[-1]["content"] if self.finished else ""

    @property
    def num_calls(self) -> int:
        """Calls that reached the tool."""
        return sum(status not in VOID for status in self.statuses)

    @property
    def num_void(self) -> int:
        """Turns of the teacher that neither reached the tool nor are the answer."""
        spoken = self.messages[:-1] if self.finished else self.messages
        silent = [m for m in spoken if m["role"] == "assistant" and not calls_of(m)]
        return len(silent) + sum(status in VOID for status in self.statuses)


def calls_of(message: dict) -> list:
    """The calls of a message; none where it has no field for them."""
    return list(message["tool_calls"] or ()) if "tool_calls" in message else []


def save(path: pathlib.Path, transcripts: Sequence[Transcript]) -> None:
    """One JSON object a line, readable without this package; whole or absent."""
    metrics.replace(path, lines(transcripts))


def load(path: pathlib.Path) -> list[Transcript]:
    """What `save` wrote. Raises InputError naming file and row for anything else."""
    # Split at "\n" only: tool output may hold other characters that count as line ends.
    rows = enumerate(path.read_text(encoding="utf-8").split("\n"), 1)
    return [_read(json.loads(row), f"{path} row {n}") for n, row in rows if row]


def read_row(record: dict) -> Transcript | str:
    """A record of `save`, or why it is none."""
    try:
        return _read(record, "it")
    except InputError as e:
        return str(e)


def write_row(transcript: Transcript) -> dict:
    """The record of one transcript."""
    return dataclasses.asdict(transcript)


def _read(record, where) -> Transcript:
    try:
        return Transcript(
            **record
            | {
                "problem": types.Problem(**record["problem"]),
                "messages": tuple(_plain(m) for m in record["messages"]),
                "statuses": tuple(record["statuses"]),
            }
        )
    except (TypeError, KeyError, AttributeError) as e:
        raise InputError(f"{where} is no transcript of this package ({e!r:.120})") from e


def _plain(message: dict) -> dict:
    """Without the fields that a table adds to every message because one of them has them."""
    made = {key: value for key, value in message.items() if value is not None}
    return {**made, "content": message["content"]}


def lines(values: Sequence) -> str:
    """Dataclasses as JSON lines."""
    return "".join(json.dumps(dataclasses.asdict(v), ensure_ascii=False) + "\n" for v in values)
