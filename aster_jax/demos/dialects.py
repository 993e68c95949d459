"""The two ways to ask a teacher: chat completions with tools, and raw completions of text.

Each says what to send after a history, and reads what came back into the same `Spoken`. In
chat the history is a list of messages, the teacher's own ones sent back as they came, its
reasoning too; in raw text it is one growing string, nothing of which is ever written anew.
"""

import dataclasses
import json

from aster_jax.data import calls, chat, messages
from aster_jax.demos import ledger
from aster_jax.errors import InputError

PATHS = {"chat": "/chat/completions", "completions": "/completions"}
_END_OF_TURN = chat.CONTROL[1]
_THOUGHTS = ("reasoning_content", "reasoning")
NOTHING = "the turn has neither text nor a call"
# Fields of a request that the answer is read by, or that the budgets are kept with.
OWN = ("messages", "prompt", "stream", "n", "best_of", "echo", "max_tokens")


@dataclasses.dataclass(frozen=True)
class How:
    """What a teacher is asked for; the fields are the keys `demos.teacher.NAME` (config.py).

    `show_tool`: the tool's schema is sent. `style` is the markup of raw text; `extra` are
    fields added to every request, or taken out of it where they are None.
    """

    api: str
    model: str
    system: str
    show_tool: bool
    temperature: float
    top_p: float
    reasoning_back: bool
    style: str
    extra: dict


@dataclasses.dataclass(frozen=True)
class Call:
    """One call that a teacher made: code, or the reason why it cannot be run.

    `written` is what it wrote as {name, arguments}; `number` is the server's name for it.
    """

    code: str
    reason: str
    written: dict
    number: str = ""


@dataclasses.dataclass(frozen=True)
class Spoken:
    """One turn of a teacher. `sent_back` is what stands for it in the history; `why` says, of
    a turn without text or calls, what it has instead."""

    text: str
    thought: str | None
    calls: tuple[Call, ...]
    finish: str
    sent_back: object
    why: str = ""


def check_extra(text: str) -> dict:
    """The fields of `demos.teacher.extra`. Raises InputError for what is no JSON object, and
    for fields that are not anybody else's to choose."""
    try:
        found = json.loads(text or "{}")
        json.dumps(found, allow_nan=False)
    except (ValueError, RecursionError) as e:
        raise InputError(f"demos.teacher.extra={text!r:.80} is not JSON: {e}") from e
    if not isinstance(found, dict):
        raise InputError(f"demos.teacher.extra={text!r:.80} is not a JSON object")
    if taken := [field for field in OWN if field in found and found[field] is not None]:
        raise InputError(
            f"demos.teacher.extra={text!r:.80} sets {', '.join(taken)}, which the conversation "
            "itself determines (demos.teacher.turn_tokens for max_tokens); leave it out"
        )
    return found


def begin(how: How, question: str):
    """The history before the teacher's first turn."""
    said = [{"role": "system", "content": how.system}] if how.system else []
    said.append({"role": "user", "content": question})
    return said if how.api == "chat" else chat.raw_prompt(said, _schemas(how), how.style)


def request(how: How, history, seed: int, max_tokens: int) -> dict:
    """What to send for the next turn."""
    made = {
        "model": how.model, "temperature": how.temperature, "top_p": how.top_p, "seed": seed,
        "max_tokens": max_tokens, "stream": False,
    }  # fmt: skip
    if how.api == "chat":
        made |= {"messages": history, "tools": _schemas(how)}
    else:
        made |= {"prompt": history, "stop": [_END_OF_TURN]}
    made |= how.extra
    return {field: value for field, value in made.items() if value is not None}


def _schemas(how) -> list | None:
    return [chat.TOOL] if how.show_tool else None


def after_turn(how: How, history, spoken: Spoken):
    """The history with the teacher's turn."""
    if how.api == "chat":
        return [*history, spoken.sent_back]
    return history + spoken.sent_back


def after_result(how: How, history, call: Call, text: str):
    """The history with the result of a call."""
    if how.api == "chat":
        return [*history, {"role": "tool", "tool_call_id": call.number, "content": text}]
    return history + chat.raw_result(text, how.style)


def tokens(body: dict, sent_bytes: int, max_tokens: int) -> tuple[int, int, bool]:
    """(of the prompt, written, whether the server said so); else both are put at their most: no
    text has more tokens than bytes."""
    usage = body["usage"] if "usage" in body else None
    if isinstance(usage, dict):
        found = [usage[k] if k in usage else None for k in ("prompt_tokens", "completion_tokens")]
        whole = [int(n) if isinstance(n, float) and n.is_integer() else n for n in found]
        if all(map(ledger.is_number, whole)):
            return *whole, True
    if "choices" in body:
        max_tokens = min(max_tokens, len(json.dumps(body["choices"])))
    return sent_bytes, max_tokens, False


def read(how: How, body: dict) -> Spoken | str:
    """The teacher's turn in a server's answer, or what keeps it from being one."""
    choices = body["choices"] if "choices" in body else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return "the answer has no choices"
    choice = choices[0]
    finish = choice["finish_reason"] if "finish_reason" in choice else None
    finish = finish if isinstance(finish, str) else ""
    return _raw_turn(how, choice, finish) if how.api != "chat" else _turn(how, choice, finish)


def _raw_turn(how, choice, finish) -> Spoken | str:
    if "text" not in choice or not isinstance(choice["text"], str):
        return "the choice has no text"
    text = choice["text"].partition(_END_OF_TURN)[0]
    turn = chat.parse_text(text, how.style)
    made, why = _written(turn, text), turn.reason or NOTHING
    return Spoken(turn.text, turn.thought or None, made, finish, text, why)


def _written(turn: chat.Turn, text: str) -> tuple[Call, ...]:
    """The call that a turn makes in its text."""
    if turn.kind == "answer":
        return ()
    arguments = {"code": turn.code} if turn.kind == "call" else text
    return (Call(turn.code, turn.reason, {"name": calls.TOOL_NAME, "arguments": arguments}, "call_0"),)


def _turn(how, choice, finish) -> Spoken | str:
    message = choice["message"] if "message" in choice else None
    if not isinstance(message, dict):
        return "the choice has no message"
    try:
        content = messages.text(message["content"] if "content" in message else None, "message")
    except InputError as e:
        return str(e)
    asked = message["tool_calls"] if "tool_calls" in message else None
    if asked is not None and not isinstance(asked, list):
        return "tool_calls is no list"
    made = tuple(_call(call, i) for i, call in enumerate(asked or ()))
    back = {"role": "assistant", "content": content}
    thought, why = None, _instead(message)
    for field in _THOUGHTS:
        if field in message and isinstance(message[field], str) and message[field]:
            thought = message[field]
            if how.reasoning_back:
                back[field] = thought
    if made:
        back["tool_calls"] = [_sent(call) for call in made]
    opened = content.lstrip().startswith("<think>")
    if opened or "</think>" in content or "<tool_call>" in content:
        begun = opened or "</think>" not in content
        turn = chat.parse_text(content, "qwen3" if begun else "qwen3_thinking_2507")
        # A server without a parser of thoughts or calls leaves them in the text.
        # What goes back to it is a call again, for text of a message is no markup.
        if not made and (made := _written(turn, content)):
            back |= {"content": turn.text, "tool_calls": [_sent(call) for call in made]}
            if turn.thought and how.reasoning_back:
                back[_THOUGHTS[0]] = turn.thought
        content, thought, why = turn.text, thought or turn.thought, turn.reason or why
    return Spoken(content, thought, made, finish, back, why)


def _instead(message) -> str:
    """What a message has that stands for text and calls, and is neither."""
    if "refusal" in message and isinstance(message["refusal"], str) and message["refusal"]:
        return f"the teacher refused: {message['refusal']!r:.200}"
    if "function_call" in message and message["function_call"]:
        return ("the server answers with function_call, which is older than tool_calls and not "
                "read here; try demos.teacher.api=completions")  # fmt: skip
    return NOTHING


def _call(call, i) -> Call:
    """A call as the policy's own would be read: exactly one text of code."""
    given = call["function"] if isinstance(call, dict) and "function" in call else None
    number = call["id"] if isinstance(call, dict) and "id" in call else None
    number = number if isinstance(number, str) and number else f"call_{i}"
    if not isinstance(given, dict) or not isinstance(given.get("name"), str):
        return Call("", "the tool call is not a function with a name", {"name": "", "arguments": ""},
                    number)  # fmt: skip
    arguments = given["arguments"] if "arguments" in given else None
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments)
    written = {"name": given["name"], "arguments": arguments}
    code, reason = calls.read(f'{{"name": {json.dumps(given["name"])}, "arguments": {arguments}}}')
    if not reason:
        written["arguments"] = {"code": code}
    return Call(code, reason, written, number)


def _sent(call: Call) -> dict:
    """A call in the history; servers refuse arguments that are no JSON, so these are put in."""
    arguments = call.written["arguments"]
    if not isinstance(arguments, str):
        text = json.dumps(arguments, ensure_ascii=False)
    else:
        try:
            found = json.loads(arguments)
        except (ValueError, RecursionError):
            found = None
        text = arguments if isinstance(found, dict) else json.dumps({"not_json": arguments})
    name = call.written["name"] or "unknown"
    return {"id": call.number, "type": "function", "function": {"name": name, "arguments": text}}
