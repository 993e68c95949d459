"""One conversation of a teacher with the real tool: a problem -> a transcript, every cent kept.

The conversation is a fold over its events in the ledger: turns that the teacher wrote,
results that the tool gave. What is not there yet is asked for, written down, and then
taken. So one that a killed process left goes on where it was: turns that are paid are
taken from the ledger, and their code runs once in a new interpreter to have its variables
back. If that does not give the results that the teacher was told, the conversation ends.

No retry of a request runs code again: code runs when its turn is in the ledger, once.
"""

import dataclasses
import json
import threading
import zlib
from collections.abc import Callable

from aster_jax import tools, types
from aster_jax.data import chat
from aster_jax.demos import dialects, endpoint, ledger
from aster_jax.demos.transcript import Transcript
from aster_jax.tools import result as tool_result

LOST = 2  # times that a conversation is given a new interpreter when the tool has lost it
# Why a conversation is over for good, beside "answered".
FAILURES = (
    "turn_budget", "token_budget", "call_budget", "malformed", "empty", "filtered", "garbage",
    "refused", "infrastructure", "state_lost",
)  # fmt: skip
# Why one stands still, and goes on when the same command is given again.
STOPPED = ("trouble", "cap", "leaving")


@dataclasses.dataclass(frozen=True)
class Budgets:
    """Of one conversation: tokens of a turn and in all, calls, malformed turns in a row."""

    turn_tokens: int
    response_tokens: int
    max_calls: int
    max_malformed: int


@dataclasses.dataclass(frozen=True)
class Room:
    """What all conversations share. `cut` shortens a tool's result as rollouts do."""

    how: dialects.How
    budgets: Budgets
    server: endpoint.Endpoint
    book: ledger.Ledger
    executor: tools.Executor
    cut: Callable[[str], str]
    stop: threading.Event
    seed: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a conversation: `reason` is "answered", of `FAILURES` or of `STOPPED`."""

    transcript: Transcript
    reason: str
    why: str
    prompt_tokens: int
    completion_tokens: int
    num_turns: int


@dataclasses.dataclass
class _Talk:
    """Where a conversation stands; changed only by taking events."""

    problem: types.Problem
    history: object
    messages: list[dict]
    statuses: list[str] = dataclasses.field(default_factory=list)
    waiting: list[tuple[dialects.Call, dict]] = dataclasses.field(default_factory=list)
    told: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    malformed_in_row: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    num_turns: int = 0
    reason: str = ""
    why: str = ""


def run(problem: types.Problem, sample: int, key: str, room: Room) -> Outcome:
    """Have the conversation, or what is missing of it."""
    question = {"role": "user", "content": problem.question}
    talk = _Talk(problem, dialects.begin(room.how, problem.question), [question])
    for event in room.book.events(key):
        _take(talk, event, room)
    session, lost = None, 0
    try:
        while not talk.reason:
            if room.stop.is_set():
                talk.reason = "leaving"
            elif talk.waiting:
                if session is None and not talk.waiting[0][0].reason:
                    session = _interpreter(talk, sample, room)
                if talk.reason:
                    break
                result = _result(talk, session, room)
                if result["status"] not in tool_result.INFRA_STATUSES:
                    _add(talk, key, "result", result, room)
                elif lost < LOST:
                    session, lost = None, lost + 1
                else:
                    talk.reason, talk.why = "infrastructure", result["text"]
            else:
                _ask(talk, sample, key, room)
        _close(talk, key, room)
    finally:
        if session is not None:
            room.executor.close(session)
    made = Transcript(
        problem, tuple(talk.messages), tuple(talk.statuses), talk.reason == "answered",
        origin=f"sample {sample} of {problem.id}",
    )  # fmt: skip
    return Outcome(
        made, talk.reason, talk.why, talk.prompt_tokens, talk.completion_tokens, talk.num_turns
    )


def _close(talk, key, room):
    """Write the end down, if it is one for good and stands nowhere yet.

    A refusal before anything is paid may be about our settings: it is not for good.
    """
    known = room.book.events(key)
    if talk.reason == "refused" and not talk.num_turns:
        return
    if talk.reason not in STOPPED and not (known and known[-1]["event"] == "end"):
        room.book.add(key, "end", {"reason": talk.reason, "why": talk.why})


def _add(talk, key, event, values, room):
    """Write an event down, then take it."""
    room.book.add(key, event, values)
    _take(talk, {"event": event, **values}, room)


def _ask(talk, sample, key, room):
    """The teacher's next turn, paid and written down; or the reason why there is none."""
    b = room.budgets
    most = min(b.turn_tokens, b.response_tokens - talk.completion_tokens)
    if most < 1:
        talk.reason = "token_budget"
        return
    name = f"{room.seed}/{talk.problem.id}/{sample}/{talk.num_turns}"
    seed = zlib.crc32(name.encode("utf-8", "surrogatepass")) & 0x7FFFFFFF
    body = dialects.request(room.how, talk.history, seed, most)
    size = len(json.dumps(body))
    reserved = dialects.most_tokens(size), most
    if not room.book.reserve(*reserved):
        talk.reason, talk.why = "cap", "another turn could cost more than is left"
        return
    try:
        reply = endpoint.ask(room.server, dialects.PATHS[room.how.api], body, room.stop)
        if reply.kind in ("trouble", "refused"):
            talk.reason, talk.why = reply.kind, reply.why
            return
        if reply.kind == "garbage":
            values = {"garbage": reply.why}
        else:
            values = _kept(reply.body)
        prompt, written, said = dialects.tokens(reply.body, size, most)
        values |= {"prompt_tokens": prompt, "completion_tokens": written, "tokens_said": said,
                   "attempts": reply.attempts}  # fmt: skip
        _add(talk, key, "turn", values, room)
    finally:
        room.book.release(*reserved)


def _kept(body: dict) -> dict:
    """Of a server's answer, what the turn is read from again."""
    choices = body["choices"] if "choices" in body else None
    if not isinstance(choices, list) or not choices:
        return {"garbage": "the answer has no choices"}
    return {"reply": {"choices": choices[:1]}}


def _take(talk, event, room):
    """One event; every decision that follows from it is made here, so that it is the same
    when the event comes from the ledger."""
    if event["event"] == "end":
        talk.reason, talk.why = event["reason"], event["why"]
    elif event["event"] == "turn":
        _take_turn(talk, event, room)
    else:
        _take_result(talk, event, room)


def _take_turn(talk, event, room):
    talk.prompt_tokens += event["prompt_tokens"]
    talk.completion_tokens += event["completion_tokens"]
    talk.num_turns += 1
    if "garbage" in event:
        talk.reason, talk.why = "garbage", event["garbage"]
        return
    spoken = dialects.read(room.how, event["reply"])
    if isinstance(spoken, str):
        talk.reason, talk.why = "garbage", spoken
        return
    thought = {} if spoken.thought is None else {"reasoning_content": spoken.thought}
    if spoken.finish in ("length", "content_filter"):
        talk.reason = {"length": "turn_budget"}.get(spoken.finish, "filtered")
        talk.messages.append({"role": "assistant", "content": spoken.text, **thought})
        return
    talk.history = dialects.after_turn(room.how, talk.history, spoken)
    if not spoken.calls:
        talk.messages.append({"role": "assistant", "content": spoken.text, **thought})
        talk.reason = "answered" if spoken.text.strip() else "empty"
        return
    for i, call in enumerate(spoken.calls):
        # Calls made at once are turns of their own, as the policy makes them.
        said = {"content": "" if i else spoken.text, **({} if i else thought)}
        message = {"role": "assistant", **said, "tool_calls": [call.written]}
        talk.waiting.append((call, message))
    if len(talk.statuses) >= room.budgets.max_calls:
        talk.reason = "call_budget"


def _take_result(talk, event, room):
    call, message = talk.waiting.pop(0)
    status, text = event["status"], event["text"]
    talk.told.append((call.code, status, text))
    talk.messages += [message, {"role": "tool", "content": text}]
    talk.statuses.append(status)
    talk.history = dialects.after_result(room.how, talk.history, call, text)
    talk.malformed_in_row = talk.malformed_in_row + 1 if call.reason else 0
    if talk.malformed_in_row > room.budgets.max_malformed:
        talk.reason, talk.why = "malformed", call.reason
    elif talk.waiting and len(talk.statuses) >= room.budgets.max_calls:
        talk.reason = "call_budget"


def _result(talk, session, room) -> dict:
    """What the tool says to the call that waits."""
    call = talk.waiting[0][0]
    if call.reason:
        return {"status": "malformed", "text": chat.malformed_text(call.reason)}
    found = room.executor.run(session, call.code)
    return {"status": found.status, "text": room.cut(found.text.removesuffix("\n"))}


def _interpreter(talk, sample, room):
    """An interpreter for the conversation, with the variables that earlier calls have left."""
    name = f"{room.seed}/{talk.problem.id}/{sample}"
    session = room.executor.open(seed=zlib.crc32(name.encode("utf-8", "surrogatepass")))
    for code, status, text in talk.told:
        if status == "malformed":
            continue
        again = room.executor.run(session, code)
        if (again.status, room.cut(again.text.removesuffix("\n"))) != (status, text):
            talk.reason = "state_lost"
            talk.why = f"run again after an interruption, a call gave {again.status}, not {status}"
            break
    return session
