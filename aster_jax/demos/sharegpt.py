"""The paper's SFT set (ShareGPT parquet, paper section 1.1) as transcripts.

A row has `conversations`: a list of {role, content} with roles user, function (a think
block, then one JSON call), tool and assistant. Every row becomes a transcript or a stated
reason why it cannot; none is dropped in silence. The set holds no gold answers, and only
calls that succeeded: its makers kept nothing else.
"""

import dataclasses
import hashlib
import json
import pathlib
import re

import pyarrow
import pyarrow.parquet

from aster_jax import types
from aster_jax.data import calls, chat
from aster_jax.demos import curate
from aster_jax.errors import InputError

FAMILY = "sharegpt"
_ROLES = ("user", "function", "tool", "assistant")
# In an answer's text these would be read as markup when it is rendered, and cut it short.
_STRAY = ("<think>", "</think>", "<tool_call>", "</tool_call>")
_THOUGHT = re.compile(r"\s*<think>\n?(.*?)\n?</think>\s*", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A row that is no usable demonstration; `row` counts from 1."""

    row: int
    reason: str


def load(path: str | pathlib.Path) -> tuple[list[curate.Transcript], list[Skipped]]:
    """All usable conversations of the file, and the rows that are not.

    Raises ValueError when the file cannot be read, has no `conversations`, or holds no
    usable row.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"demonstration file {path} does not exist; check demos.source")
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read as parquet: {e}") from e
    if "conversations" not in table.column_names:
        raise InputError(
            f"{path} has no column 'conversations' (columns: {', '.join(table.column_names)})"
        )
    transcripts, skipped = [], []
    rows = table.column("conversations").to_pylist()
    systems = _column(table, "system")
    for row, turns in enumerate(rows, 1):
        system = systems[row - 1] if systems else None
        read = "has a system text, which would be lost" if system else read_row(turns)
        if isinstance(read, str):
            skipped.append(Skipped(row, read))
        else:
            transcripts.append(read)
    if not transcripts:
        reason = f"; row {skipped[0].row}: {skipped[0].reason}" if skipped else ""
        raise InputError(f"{path} holds no usable conversation{reason}")
    return transcripts, skipped


def read_row(turns: list[dict]) -> curate.Transcript | str:
    """One conversation as a transcript, or the reason why it is none."""
    if (reason := _no_turns(turns)) is not None:
        return reason
    if turns[0]["role"] != "user":
        return "does not start with a user turn"
    if turns[-1]["role"] != "assistant":
        return "does not end with an assistant turn"
    messages, num_calls = [], 0
    for i, turn in enumerate(turns):
        if (turn["role"] in ("user", "tool")) != (i % 2 == 0):
            return f"turn {i + 1} breaks the order of given and written turns"
        if turn["role"] in ("user", "tool"):
            answers_call = i > 0 and turns[i - 1]["role"] == "function"
            if (turn["role"] == "tool") != answers_call:
                return f"turn {i + 1} is a tool result without a call, or a call without one"
            messages.append({"role": turn["role"], "content": turn["content"]})
            continue
        thought, rest = _split(turn["content"])
        if turn["role"] == "assistant":
            if any(tag in rest for tag in _STRAY):
                return f"turn {i + 1} holds a tag of the markup in its text"
            messages.append({"role": "assistant", "content": rest, **thought})
            continue
        code = _code(rest)
        if code is None:
            return f"turn {i + 1} is not exactly one call of the tool with code"
        message = chat.call_message("", code)
        messages.append({**message, **thought})
        num_calls += 1
    question = turns[0]["content"]
    digest = hashlib.sha256(question.encode()).hexdigest()[:12]
    problem = types.Problem(f"{FAMILY}-{digest}", question, "", FAMILY)
    return curate.Transcript(problem, tuple(messages), ("ok",) * num_calls)


def _no_turns(turns) -> str | None:
    """What keeps a value from being a list of turns {role, content} of known roles."""
    if not isinstance(turns, list) or not turns:
        return "holds no turns"
    for i, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or not {"role", "content"} <= set(turn):
            return f"turn {i} is not an object with role and content"
        if turn["role"] not in _ROLES and i > 1:
            return f"turn {i} has role {turn['role']!r:.40}; known are {', '.join(_ROLES)}"
        if not isinstance(turn["content"], str):
            return f"turn {i} has content that is not text"
        more = [k for k, v in turn.items() if k not in ("role", "content") and v not in (None, "")]
        if more:
            return f"turn {i} has a field {more[0]!r} that would be lost"
    return None


def _column(table, name) -> list:
    return table.column(name).to_pylist() if name in table.column_names else []


def _split(content: str) -> tuple[dict, str]:
    """The think block as a field (absent where there is none), and what follows it."""
    match = _THOUGHT.match(content)
    if match is None:
        return {}, content
    return {"reasoning_content": match[1]}, content[match.end() :]


def _code(text: str) -> str | None:
    """The code of a turn that is one JSON call, else None.

    As strict as a call that the model writes; arguments may be JSON within the JSON.
    """
    try:
        call = json.loads(text, strict=False)
        if isinstance(call, dict) and isinstance(call.get("arguments"), str):
            call["arguments"] = json.loads(call["arguments"], strict=False)
            text = json.dumps(call)
    except (ValueError, RecursionError):
        return None
    code, reason = calls.read(text)
    return None if reason else code
