"""The paper's SFT set (ShareGPT, paper section 1.1): rows <-> transcripts.

A row has `conversations`: a list of {role, content} with roles user, function (a think
block, then one JSON call), tool and assistant. Every row becomes a transcript or a stated
reason why it cannot; none is dropped in silence. The set holds no gold answers, and only
calls that succeeded: its makers kept nothing else. A row may hold them, in the columns that
a row of `messages` has for them (demos/dialogues.py).

The format has no place for text beside a call, so what a teacher said there is written
into the thought before it.
"""

import json
import re

from aster_jax.data import calls, chat
from aster_jax.data.turns import WRITTEN_TAGS
from aster_jax.demos import dialogues, transcript
from aster_jax.demos.transcript import Transcript

COLUMN = "conversations"
FAMILY = "sharegpt"
_ROLES = ("user", "function", "tool", "assistant")
_THOUGHT = re.compile(r"\s*<think>\n?(.*?)\n?</think>\s*", re.DOTALL)


def read_row(row: dict) -> Transcript | str:
    """One conversation as a transcript, or the reason why it is none."""
    if "system" in row and row["system"]:
        return "has a system text, which would be lost"
    turns = row[COLUMN]
    if (reason := _no_turns(turns)) is not None:
        return reason
    if turns[0]["role"] != "user":
        return "does not start with a user turn"
    if turns[-1]["role"] != "assistant":
        return "does not end with an assistant turn"
    messages = []
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
            if any(tag in rest for tag in WRITTEN_TAGS):
                return f"turn {i + 1} holds a tag of the markup in its text"
            messages.append({"role": "assistant", "content": rest, **thought})
            continue
        code = _code(rest)
        if code is None:
            return f"turn {i + 1} is not exactly one call of the tool with code"
        messages.append({**chat.call_message("", code), **thought})
    return dialogues.transcript_of(row, messages, FAMILY)


def write_row(made: Transcript) -> dict:
    """A finished transcript as a row. Raises InputError for one that the format cannot hold."""
    turns = []
    for message in made.messages:
        role, content = message["role"], message["content"]
        thought = message["reasoning_content"] if "reasoning_content" in message else None
        if role == "assistant" and (found := transcript.calls_of(message)):
            role, thought = "function", "\n\n".join(filter(None, (thought, content)))
            content = json.dumps(
                {"name": found[0]["name"], "arguments": found[0]["arguments"]}, ensure_ascii=False
            )
        if role in ("assistant", "function") and thought:
            content = f"<think>\n{thought}\n</think>\n\n{content}"
        turns.append({"role": role, "content": content})
    tools = json.dumps([chat.TOOL], ensure_ascii=False)
    row = {COLUMN: turns, "tools": tools, **dialogues.columns_of(made)}
    transcript.check_written(made, read_row(row), "ShareGPT")
    return row


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
