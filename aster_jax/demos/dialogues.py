"""OpenAI's `messages` + `tools` (as TRL, verl and prime-rl train on): rows <-> transcripts.

Arguments of a call are an object or its JSON, reasoning stands in `reasoning_content` or
`reasoning`. A row may hold the gold answer as a problem's row does (`data/golds.py`), an
`id`, a `family`, and the `statuses` of its calls; where these are missing, a result whose
last line reads like a Python exception counts as an error. Another tool than ours with one
text argument is read as ours: it is code for the same kind of interpreter.

What stands in a row beside its conversation is read and written here for the other formats too.
"""

import hashlib
import json
import re
from collections.abc import Sequence

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
    turns = () if row[COLUMN] is None else row[COLUMN]
    if not isinstance(turns, (list, tuple)):
        return f"has messages that are {turns!r:.40}, not a list of them"
    try:
        spoken = _conversation(messages.read(map(transcript.without_nulls, turns)))
    except InputError as e:
        return str(e)
    return spoken if isinstance(spoken, str) else transcript_of(row, spoken, FAMILY)


def transcript_of(row: dict, spoken: Sequence[dict], family: str) -> Transcript | str:
    """A conversation that was read from a row, with what else the row tells of it, or the reason
    why that cannot be; `family` stands where the row names none."""
    given = {k: v for k, v in row.items() if v is not None}
    for field in ("id", "family", "scorer"):
        value = given[field] if field in given else ""
        if type(value) not in (str, int, float) or value != value:  # as NaN is
            return f"has {field} {value!r:.60}, which is neither text nor a number"
    question = spoken[0]["content"]
    if not question.strip():
        return "has a question without text"
    results = [m["content"] for m in spoken if m["role"] == "tool"]
    if "statuses" not in given:
        given["statuses"] = list(map(status_of, results))
    if reason := transcript.statuses_fault(given["statuses"], len(results)):
        return reason
    try:
        answer = golds.of(given, "its row") if any(f in given for f in _ANSWERS) else ""
    except InputError as e:
        return str(e)
    digest = hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    problem = types.Problem(
        id=str(given["id"]) if "id" in given else f"{family}-{digest}",
        question=question,
        answer=answer,
        family=str(given["family"]) if "family" in given else family,
        scorer=str(given["scorer"]) if "scorer" in given else "",
    )
    return Transcript(problem, tuple(spoken), tuple(given["statuses"]))


def columns_of(made: Transcript) -> dict:
    """What `transcript_of` reads from a row beside its conversation."""
    p = made.problem
    known = {field: value for field, value in (("answer", p.answer), ("scorer", p.scorer)) if value}
    return {"id": p.id, "family": p.family, **known, "statuses": list(made.statuses)}


def write_row(made: Transcript) -> dict:
    """A transcript as a row; arguments as JSON, which every reader takes, and ids for calls.

    Raises InputError for one that would not be read as what it is.
    """
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
    row = {COLUMN: written, "tools": [chat.TOOL], **columns_of(made)}
    transcript.check_written(made, read_row(row), "messages")
    return row


def status_of(result: str) -> str:
    """What a tool's status was, guessed from its text."""
    last = result.rstrip().rpartition("\n")[2]
    return "error" if _LAST_LINE.match(last) or "Traceback (most recent" in result else "ok"


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
    arguments = {k: v for k, v in json.loads(call.arguments).items() if v is not None}
    if len(arguments) != 1:
        return None
    (text,) = arguments.values()
    made = {"name": calls.TOOL_NAME, "arguments": {"code": text}}
    code, reason = calls.read(json.dumps(made))
    return None if reason else code
