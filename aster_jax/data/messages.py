"""Messages in the shapes that people write them -> one plain shape, or what is wrong with one.

Under `data/chat.py`, which adds the markup. The shapes are those of OpenAI's chat interface:
content as text, as parts of type "text", or absent; calls bare or under "function", their
arguments as an object or as its JSON; reasoning under either of its two names. Whatever
else would have been lost on the way, or trained on as it is, is an error.
"""

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aster_jax.errors import InputError

ROLES = ("system", "user", "assistant", "tool")
_THOUGHTS = ("reasoning_content", "reasoning")
_WRITTEN = ("role", "content", "tool_calls", *_THOUGHTS)
_LABELS = ("name", "tool_call_id", "id")  # say who and which; no template writes them


class Call(NamedTuple):
    """One call of an assistant's message; `arguments` is the JSON of an object."""

    name: str
    arguments: str


class Message(NamedTuple):
    """A message; `thought` is None where the message has no field for it."""

    role: str
    content: str
    thought: str | None
    calls: tuple[Call, ...]


def read(messages: Iterable[Mapping]) -> list[Message]:
    """A conversation. Raises InputError naming the message by its index from 0."""
    if isinstance(messages, (str, bytes, Mapping)):
        raise InputError(f"messages are a {type(messages).__name__}; give a list of them")
    return [read_one(message, f"message {i}") for i, message in enumerate(messages)]


def read_one(message: Mapping, where: str) -> Message:
    """One message; `where` names it in errors."""
    if not isinstance(message, Mapping):
        raise InputError(f"{where} is a {type(message).__name__}, not an object with role and "
                         "content")  # fmt: skip
    role = message["role"] if "role" in message else None
    if role not in ROLES:
        raise InputError(f"{where} has role {role!r}; known are {', '.join(ROLES)}")
    for field, value in message.items():
        if field not in _WRITTEN and field not in _LABELS and not _empty(value):
            raise InputError(f"{where} has a field {field!r} that no markup is known for: move "
                             "what it says to content or reasoning, or remove it")  # fmt: skip
        if role != "assistant" and field in ("tool_calls", *_THOUGHTS) and not _empty(value):
            raise InputError(f"{where} is a {role}'s and has {field}, which only an assistant has")
    content = text(message["content"] if "content" in message else None, where)
    calls = message["tool_calls"] if "tool_calls" in message else None
    if calls is not None and not isinstance(calls, (list, tuple)):
        raise InputError(f"{where}: tool_calls is a {type(calls).__name__}, not a list of calls")
    made = tuple(_call(call, f"{where}, call {i}") for i, call in enumerate(calls or ()))
    return Message(role, content, _thought(message, where), made)


def text(content, where: str) -> str:
    """What `content` says: nothing, text, or a list of parts that are all text.

    Parts are joined without a separator, as Qwen's templates do.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, (list, tuple)):
        raise InputError(f"{where}: content is a {type(content).__name__}, not text or a list of "
                         "parts of type 'text'")  # fmt: skip
    return "".join(_part(part, f"{where}, part {i}") for i, part in enumerate(content))


def _part(part, where) -> str:
    if not isinstance(part, Mapping):
        raise InputError(f"{where} is a {type(part).__name__}, not "
                         '{"type": "text", "text": ...}')  # fmt: skip
    kind = part["type"] if "type" in part else None
    if kind != "text":
        raise InputError(f"{where} has type {kind!r:.60}; only parts of type 'text' can be read")
    if "text" not in part or not isinstance(part["text"], str):
        raise InputError(f"{where} has no text")
    return part["text"]


def _thought(message, where) -> str | None:
    """The reasoning, from whichever field it stands in; twice the same is once."""
    given = {f: message[f] for f in _THOUGHTS if f in message and message[f] is not None}
    for field, value in given.items():
        if not isinstance(value, str):
            raise InputError(f"{where}: {field} is a {type(value).__name__}, not text")
    said = {value for value in given.values() if value}
    if len(said) > 1:
        raise InputError(f"{where} has reasoning_content and reasoning, and they differ; keep one")
    return said.pop() if said else ("" if given else None)


def _call(call, where) -> Call:
    if not isinstance(call, Mapping):
        raise InputError(f"{where} is a {type(call).__name__}, not an object")
    if "type" in call and call["type"] not in (None, "function"):
        raise InputError(f"{where} has type {call['type']!r:.60}; only functions can be called")
    given = call["function"] if "function" in call else call
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: function is a {type(given).__name__}, not an object")
    name = given["name"] if "name" in given else None
    if not isinstance(name, str) or not name or f'"{name}"' != _json(name, where):
        raise InputError(f"{where} has name {name!r:.60}; a function's plain name is needed")
    if "arguments" not in given:
        raise InputError(f"{where} has no arguments")
    arguments = given["arguments"]
    if isinstance(arguments, str):  # written as it is, so it must be what a reader can read
        return Call(name, _checked(arguments, where))
    if not isinstance(arguments, Mapping):
        raise InputError(f"{where}: arguments is {arguments!r:.60}, not an object or its JSON")
    return Call(name, _json(dict(arguments), where))


def _checked(arguments: str, where) -> str:
    try:
        found = json.loads(arguments, object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: arguments {arguments!r:.60} are not valid JSON ({error})"
                         ) from error  # fmt: skip
    if not isinstance(found, dict):
        raise InputError(f"{where}: arguments {arguments!r:.60} are not the JSON of an object")
    return arguments


def _json(value, where) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: {value!r:.60} has no JSON ({error})") from error


def _unique(pairs):
    if len({key for key, _ in pairs}) < len(pairs):
        raise InputError("a key is given twice")
    return dict(pairs)


def _no_number(name):
    raise InputError(f"{name} is no number")


def _empty(value) -> bool:
    return value is None or (isinstance(value, (str, bool, list, tuple, dict)) and not value)
