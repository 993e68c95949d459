"""What a tool call says, without the markup around it: schema, JSON, and result texts.

Under `data/chat.py`, which adds the tags and offers these names to everyone else.
"""

import json

from aster_jax.errors import InputError

# The one tool of SFT, RL and eval; key order is part of what the model reads.
TOOL = {
    "type": "function",
    "function": {
        "name": "code_interpreter",
        "description": "Runs Python code and returns what it printed.",
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The code to run."}},
            "required": ["code"],
        },
    },
}
TOOL_NAME = TOOL["function"]["name"]
NO_JSON = "the tool call is not valid JSON"


def message(text_before: str, code: str, reasoning: str | None = None) -> dict:
    """An assistant message that calls the tool with `code`."""
    call = {"name": TOOL_NAME, "arguments": {"code": code}}
    made = {"role": "assistant", "content": text_before, "tool_calls": [call]}
    return made if reasoning is None else {**made, "reasoning_content": reasoning}


def read(text: str) -> tuple[str, str]:
    """(code, "") of a call's JSON, or ("", reason) when it carries none that may be run.

    The schema is strict: exactly the known function with exactly one string argument, so
    that nothing the model adds (a time limit, a language) can reach the tool. Only a string
    may hold raw newlines and tabs, which JSON would have escaped: their meaning is plain.
    """
    try:
        call = json.loads(text, object_pairs_hook=_unique_keys, strict=False)
    except (ValueError, RecursionError):  # model-written text: a value, not a failure
        return "", NO_JSON
    if not isinstance(call, dict) or set(call) != {"name", "arguments"}:
        return "", 'the tool call is not an object with exactly "name" and "arguments"'
    if call["name"] != TOOL_NAME:
        name = repr(call["name"][:40]) if isinstance(call["name"], str) else "(not a string)"
        return "", f"unknown function {name}, only {TOOL_NAME} exists"
    arguments = call["arguments"]
    if not isinstance(arguments, dict) or "code" not in arguments:
        return "", 'the argument "code" is missing'
    if len(arguments) > 1:
        return "", 'there are arguments other than "code"'
    code = arguments["code"]
    if not isinstance(code, str):
        return "", '"code" is not a string'
    if any("\ud800" <= c <= "\udfff" for c in code):
        return "", '"code" is not valid Unicode'
    return code, ""


def malformed_text(reason: str) -> str:
    """What the model reads instead of a result when its call could not be run."""
    return f"Format error: {reason}. Nothing was run."


def cut(text: str, tokenizer, limit: int) -> str:
    """The text in at most `limit` tokens: head and tail, with the number left out between."""
    ids = tokenizer.encode(text)
    if len(ids) <= limit:
        return text
    room = limit
    while room > 0:
        head, tail = room - room // 2, room // 2
        note = f"\n[... {len(ids) - room} tokens left out ...]\n"
        start = tokenizer.decode(ids[:head]).rstrip("\ufffd")
        stop = tokenizer.decode(ids[len(ids) - tail :]).lstrip("\ufffd")
        shorter = start + note + stop
        if (over := len(tokenizer.encode(shorter)) - limit) <= 0:
            return shorter
        room -= over
    return ""


def _unique_keys(pairs):
    if len({key for key, _ in pairs}) < len(pairs):
        raise InputError("a key is given twice")
    return dict(pairs)
