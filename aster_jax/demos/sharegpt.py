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
from aster_jax.data import chat
from aster_jax.demos import curate
from aster_jax.errors import InputError

FAMILY = "sharegpt"
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
    except pyarrow.ArrowException as e:
        raise InputError(f"{path} cannot be read as parquet: {e}") from e
    if "conversations" not in table.column_names:
        raise InputError(
            f"{path} has no column 'conversations' (columns: {', '.join(table.column_names)})"
        )
    transcripts, skipped = [], []
    for row, turns in enumerate(table.column("conversations").to_pylist(), 1):
        read = read_row(turns)
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
    if not turns or turns[0]["role"] != "user":
        return "does not start with a user turn"
    if turns[-1]["role"] != "assistant":
        return "does not end with an assistant turn"
    messages, calls = [], 0
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
            messages.append({"role": "assistant", "content": rest, **thought})
            continue
        code = _code(rest)
        if code is None:
            return f"turn {i + 1} is not exactly one call of the tool with code"
        message = chat.call_message("", code)
        messages.append({**message, **thought})
        calls += 1
    question = turns[0]["content"]
    digest = hashlib.sha256(question.encode()).hexdigest()[:12]
    problem = types.Problem(f"{FAMILY}-{digest}", question, "", FAMILY)
    return curate.Transcript(problem, tuple(messages), ("ok",) * calls)


def _split(content: str) -> tuple[dict, str]:
    """The think block as a field (absent where there is none), and what follows it."""
    match = _THOUGHT.match(content)
    if match is None:
        return {}, content
    return {"reasoning_content": match[1]}, content[match.end() :]


def _code(text: str) -> str | None:
    """The code of a turn that is one JSON call, else None."""
    try:
        call = json.loads(text)
    except json.JSONDecodeError:
        return None
    if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
        return None
    arguments = call["arguments"]
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError:
            return None
    known = call["name"] == chat.TOOL["function"]["name"]
    if not known or not isinstance(arguments, dict) or set(arguments) != {"code"}:
        return None
    return arguments["code"] if isinstance(arguments["code"], str) else None
