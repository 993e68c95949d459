"""OpenAI's `messages` + `tools` (as TRL, verl and prime-rl train on): rows <-> transcripts.

Arguments of a call are an object or its JSON, reasoning stands in `reasoning_content` or
`reasoning`. A row may hold the gold answer as a problem's row does (`data/golds.py`), an
`id`, a `family`, and the `statuses` of its calls; where these are missing, a result whose
last line reads like a Python exception counts as an error. Another tool than ours with one
text argument is read as ours: it is code for the same kind of interpreter.
"""

import hashlib
import json
import re

from aster_jax import types
from aster_jax.data import calls, chat, golds, messages
from aster_jax.data.turns import WRITTEN_TAGS
from aster_jax.demos import transcript
from aster_jax.demos.transcript import Transcript
from aster_jax.errors import InputError

COLUMN = "messages"
FAMILY = "messages"
_LAST_LINE = re.compile(r"^(\w+\.)*\w*(Error|Exception|Interrupt|Warning|Exit)(:|$)")
_ANSWERS = ("reward_model", "answer", "final_answer", "expected_answer")


def read_row(row: dict) -> Transcript | str:
    """One conversation as a transcript, or the reason why it is none."""
    try:
        read = messages.read([_plain(m) for m in row[COLUMN] or ()])
        spoken = _conversation(read)
        answer = golds.of(row, "its row") if any(_has(row, f) for f in _ANSWERS) else ""
    except (InputError, TypeError, AttributeError) as e:
        return str(e)
    if isinstance(spoken, str):
        return spoken
    results = [m["content"] for m in spoken if m["role"] == "tool"]
    statuses = tuple(map(status_of, results))
    if _has(row, "statuses"):
        statuses = tuple(row["statuses"])
        if len(statuses) < len(results) or not all(isinstance(s, str) for s in statuses):
            return f"has {len(results)} results of tools and statuses {list(statuses)!r:.80}"
    question = spoken[0]["content"]
    digest = hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    own = str(row["id"]) if _has(row, "id") else f"{FAMILY}-{digest}"
    family = str(row["family"]) if _has(row, "family") else FAMILY
    return Transcript(types.Problem(own, question, answer, family), tuple(spoken), statuses)


def write_row(made: Transcript) -> dict:
    """A transcript as a row; arguments as JSON, which every reader takes, and ids for calls."""
    written, waiting = [], []
    for message in made.messages:
        new = {"role": message["role"], "content": message["content"]}
        if "reasoning_content" in message and message["reasoning_content"] is not None:
            new["reasoning_content"] = message["reasoning_content"]
        if found := transcript.calls_of(message):
            new["tool_calls"] = [_call(c, f"call_{len(written)}_{i}") for i, c in enumerate(found)]
            waiting = [c["id"] for c in new["tool_calls"]]
        if message["role"] == "tool" and waiting:
            new["tool_call_id"] = waiting.pop(0)
        written.append(new)
    row = {"id": made.problem.id, COLUMN: written, "tools": [chat.TOOL], "family": made.problem.family}
    if made.problem.answer:
        row["answer"] = made.problem.answer
    return {**row, "statuses": list(made.statuses)}


def status_of(result: str) -> str:
    """What a tool's status was, guessed from its text."""
    last = result.rstrip().rpartition("\n")[2]
    return "error" if _LAST_LINE.match(last) or "Traceback (most recent" in result else "ok"


def _has(row, field) -> bool:
    return field in row and row[field] is not None


def _plain(message):
    """A message without what a table adds to all because one has it."""
    return {k: v for k, v in message.items() if v is not None or k == "content"}


def _call(call: dict, name: str) -> dict:
    arguments = call["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": name, "type": "function", "function": {"name": call["name"], "arguments": text}}


def _conversation(read: list[messages.Message]) -> list[dict] | str:
    """The messages in our shape: a question, then turns and results, an answer at the end."""
    if read and read[0].role == "system":
        if read[0].content.strip():
            return "has a system message, which would be lost"
        read = read[1:]
    if not read or read[0].role != "user":
        return "does not start with a user message"
    if read[-1].role != "assistant" or read[-1].calls:
        return "does not end with an assistant's answer"
    made, open_calls = [], 0
    for i, message in enumerate(read):
        if (message.role == "tool") != (open_calls > 0):
            return f"message {i} is a result without a call, or stands where one is missing"
        open_calls -= message.role == "tool"
        if message.role == "system":
            return f"message {i} is a system message in the middle"
        if message.role != "assistant":
            made.append({"role": message.role, "content": message.content})
            continue
        if len(message.calls) > 1:
            return f"message {i} makes {len(message.calls)} calls at once; our turns make one"
        new = _turn(message)
        if any(tag in new["content"] for tag in WRITTEN_TAGS):
            return f"message {i} holds a tag of the markup in its text"
        if message.calls:
            code = _code(message.calls[0])
            if code is None:
                return f"message {i} has a call that is not one text of code"
            new["tool_calls"] = chat.call_message("", code)["tool_calls"]
            open_calls = 1
        made.append(new)
    return made


def _turn(message) -> dict:
    """Content and thought, also where the thought is a block at the start of the content."""
    content, thought = message.content, message.thought
    match = re.match(r"\s*<think>\n?(.*?)\n?</think>\s*", content, re.DOTALL)
    if match and not thought:
        content, thought = content[match.end() :], match[1]
    made = {"role": "assistant", "content": content}
    return made if thought is None else {**made, "reasoning_content": thought}


def _code(call: messages.Call) -> str | None:
    arguments = json.loads(call.arguments)
    if len(arguments) != 1:
        return None
    (text,) = arguments.values()
    made = {"name": calls.TOOL_NAME, "arguments": {"code": text}}
    code, reason = calls.read(json.dumps(made))
    return None if reason else code
