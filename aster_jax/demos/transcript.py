"""One demonstration as messages, as it happened, and how they lie on disk.

Every teacher makes these (`demos/collect.py`, `demos/talk.py`, `demos/episodes.py`), every
format reads and writes them; `demos/curate.py` chooses among them.
"""

import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Sequence

from aster_jax import types
from aster_jax.data import calls, rows
from aster_jax.errors import InputError
from aster_jax.tools import result
from aster_jax.train import metrics

# Statuses of attempts at a call that reached no tool.
VOID = ("malformed", "no_calls_left")
STATUSES = (*result.MODEL_STATUSES, *result.INFRA_STATUSES, *VOID)
HALF = "half of a surrogate pair, which is no character"
_FIELDS = ("role", "content", "reasoning_content", "tool_calls")


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


def code_of(call: dict) -> str | None:
    """The code of a call; None for one of another tool, or with more or other arguments."""
    arguments = call["arguments"]
    ours = call["name"] == calls.TOOL_NAME and isinstance(arguments, dict)
    return arguments["code"] if ours and set(arguments) == {"code"} else None


def has_half(made: Transcript) -> bool:
    """Whether it holds `HALF`: nothing that is UTF-8, file or vocabulary, can hold it."""
    text = json.dumps([dataclasses.asdict(made.problem), made.messages], ensure_ascii=False)
    return re.search("[\ud800-\udfff]", text) is not None


def fault(made: Transcript) -> str:
    """What keeps it from being a conversation as the rules and `data/chat.py` take them, where
    it comes from a file; "" when nothing does."""
    texts = {"verdict": made.verdict, "origin": made.origin}
    texts |= {f"problem.{k}": v for k, v in dataclasses.asdict(made.problem).items()}
    for name, value in texts.items():
        if not isinstance(value, str):
            return f"{name} is {value!r:.40}, not text"
    if not isinstance(made.finished, bool):
        return f"finished is {made.finished!r:.40}, not true or false"
    attempts = is_open = 0
    for i, message in enumerate(made.messages):
        if reason := _message_fault(message):
            return f"message {i} {reason}"
        if (message["role"] == "tool") != bool(is_open):
            return f"message {i} is a result without a call, or stands where one is missing"
        is_open = len(calls_of(message))
        attempts += is_open
    if not made.messages or made.messages[0]["role"] != "user":
        return "it does not start with a user message"
    if made.finished and (made.messages[-1]["role"] != "assistant" or is_open):
        return "it does not end with an assistant's answer"
    return statuses_fault(made.statuses, attempts)


def statuses_fault(statuses, attempts: int) -> str:
    """What keeps a value of a file from being the statuses of so many calls."""
    if not isinstance(statuses, (list, tuple)):
        return f"has statuses {statuses!r:.60}, which are no list"
    if unknown := [s for s in statuses if s not in STATUSES]:
        return f"has a status {unknown[0]!r:.40}; known are {', '.join(STATUSES)}"
    if len(statuses) != attempts:
        return f"has {attempts} calls and statuses {list(statuses)!r:.80}"
    return ""


def _message_fault(message) -> str:
    if not isinstance(message, dict):
        return f"is {message!r:.40}, not an object"
    if "role" not in message or message["role"] not in ("user", "assistant", "tool"):
        return "has no role of user, assistant and tool"
    if more := [field for field in message if field not in _FIELDS]:
        return f"has a field {more[0]!r:.40} that nothing is known for"
    if "content" not in message:
        return "has no content"
    for field in _FIELDS[1:3]:
        if field in message and not isinstance(message[field], str):
            return f"has {field} {message[field]!r:.40}, which is not text"
    found = message["tool_calls"] if "tool_calls" in message else []
    if not isinstance(found, list):
        return f"has tool_calls {found!r:.40}, which are no list"
    if found and (len(found) > 1 or message["role"] != "assistant"):
        return f"makes {len(found)} calls as {message['role']}; an assistant makes one a turn"
    return "" if all(map(_is_call, found)) else "has a call that is not a name and its arguments"


def _is_call(call) -> bool:
    if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
        return False
    arguments = call["arguments"]
    values = list(arguments.values()) if isinstance(arguments, dict) else [arguments]
    return all(isinstance(text, str) for text in (call["name"], *values))


def check_written(made: Transcript, read: Transcript | str, form: str) -> None:
    """That a row just written in a format, `read` again, says what it was made of: messages
    (thoughts and words of a turn as one text, up to blanks), statuses, and what is known of the
    problem. Raises InputError with the transcript's origin."""
    if not made.finished:
        raise unfit(made, form, "it is unfinished")
    if isinstance(read, str):
        raise unfit(made, form, f"the row that it becomes {read}")
    for i, (mine, other) in enumerate(itertools.zip_longest(_said(made), _said(read))):
        if mine != other:
            raise unfit(made, form, f"its message {i} would be read otherwise")
    if read.statuses != made.statuses:
        raise unfit(made, form, f"its statuses would be read as {list(read.statuses)!r:.80}")
    if dataclasses.replace(read.problem, question=made.problem.question) != made.problem:
        raise unfit(made, form, f"its problem would be read as {read.problem!r:.200}")


def unfit(made: Transcript, form: str, why: str) -> InputError:
    """The error for a transcript that a format cannot hold."""
    return InputError(f"{made.origin or made.problem.id} cannot be written as {form}: {why}")


def _said(made) -> list[tuple]:
    said = []
    for m in made.messages:
        thought = m["reasoning_content"] if "reasoning_content" in m else ""
        words = [*(thought or "").split(), *m["content"].split()]
        said.append((m["role"], m["content"] if m["role"] == "tool" else words, calls_of(m)))
    return said


def save(path: pathlib.Path, transcripts: Sequence[Transcript]) -> None:
    """One JSON object a line, readable without this package; whole or absent."""
    metrics.replace(path, lines(transcripts))


def load(path: pathlib.Path) -> list[Transcript]:
    """What `save` wrote. Raises InputError naming file and row for anything else."""
    return [_read(record, f"{path} row {row}") for row, record in rows.lines(path)]


def read_row(record: dict) -> Transcript | str:
    """A record of `save`, or why it is none; fields that are null are not there."""
    try:
        return _read(without_nulls(record, 1), "it")
    except InputError as e:
        return str(e)


def write_row(transcript: Transcript) -> dict:
    """The record of one transcript."""
    return dataclasses.asdict(transcript)


def _read(record, where) -> Transcript:
    try:
        for name in ("messages", "statuses"):
            if not isinstance(record[name], (list, tuple)):
                raise TypeError(f"{name} is {record[name]!r:.40}, not a list")
        made = Transcript(
            **record
            | {
                "problem": types.Problem(**record["problem"]),
                "messages": tuple(map(without_nulls, record["messages"])),
                "statuses": tuple(record["statuses"]),
            }
        )
    except (TypeError, KeyError) as e:
        raise InputError(f"{where} is no transcript of this package ({e!r:.160})") from e
    if reason := fault(made):
        raise InputError(f"{where} is no transcript of this package ({reason})")
    return made


def without_nulls(value, depth: int = 5):
    """A message without the fields that a table adds to all objects because one has them: in it,
    its list of calls, a call, its function and the arguments of that. What is none stays."""
    if not depth or not isinstance(value, (dict, list)):
        return value
    if isinstance(value, list):
        return [without_nulls(v, depth - 1) for v in value]
    return {k: without_nulls(v, depth - 1) for k, v in value.items() if v is not None}


def lines(values: Sequence) -> str:
    """Dataclasses as JSON lines."""
    text = "".join(json.dumps(dataclasses.asdict(v), ensure_ascii=False) + "\n" for v in values)
    # Half of a surrogate pair, which only stands in what is dropped, becomes JSON's own escape.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
