"""One conversation of a teacher with the real tool: a problem -> a transcript, every cent kept.

The conversation is a fold over its events in the ledger: turns that the teacher wrote,
results that the tool gave. What is not there yet is asked for, written down, and then
taken. So one that a killed process left goes on where it was: turns that are paid are
taken from the ledger, and their code runs once in a new interpreter to have its variables
back. If that does not give the results that the teacher was told, the conversation ends; if
the tool fails at it, the conversation stands still.

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

LOST = 2  # times that a conversation is given a new interpreter when the tool has failed it
# Why a conversation is over for good, beside "answered".
FAILURES = (
    "turn_budget", "token_budget", "call_budget", "malformed", "empty", "filtered", "garbage",
    "refused", "infrastructure", "state_lost",
)  # fmt: skip
# Why one stands still, and goes on when the same command is given again.
STOPPED = ("trouble", "tool", "cap", "leaving")
# Ends that the events before them do not tell.
_UNTOLD = ("token_budget", "refused", "infrastructure", "state_lost")


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
    """What came of a conversation: `reason` is "answered", of `FAILURES` or of `STOPPED`;
    `fresh` where it was not known before this run."""

    transcript: Transcript
    reason: str
    why: str
    prompt_tokens: int
    completion_tokens: int
    num_turns: int
    fresh: bool


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
    lost: int = 0
    ended: bool = False
    reason: str = ""
    why: str = ""


def run(problem: types.Problem, sample: int, key: str, room: Room) -> Outcome:
    """Have the conversation, or what is missing of it. Raises InputError where the ledger
    holds one that nobody can have had."""
    question = {"role": "user", "content": problem.question}
    talk = _Talk(problem, dialects.begin(room.how, problem.question), [question])
    for i, event in enumerate(room.book.events(key)):
        if why := _misplaced(talk, event):
            raise room.book.damaged(key, i, why)
        _take(talk, event, room)
    fresh = not talk.reason
    _go_on(talk, sample, key, room)
    made = Transcript(
        problem, tuple(talk.messages), tuple(talk.statuses), talk.reason == "answered",
        origin=f"sample {sample} of {problem.id}",
    )  # fmt: skip
    return Outcome(
        made, talk.reason, talk.why, talk.prompt_tokens, talk.completion_tokens, talk.num_turns, fresh
    )


def _go_on(talk, sample, key, room):
    """Until there is a reason to end or to stand still."""
    session = None
    try:
        while not talk.reason:
            if room.stop.is_set():
                talk.reason = "leaving"
            elif not talk.waiting:
                _ask(talk, sample, key, room)
            elif talk.waiting[0][0].reason or session is not None:
                result = _result(talk, session, room)
                if result["status"] not in tool_result.INFRA_STATUSES:
                    _add(talk, key, "result", result, room)
                    continue
                room.executor.close(session)
                session = None
                _lose(talk, "infrastructure", result["text"])
            else:
                session = room.executor.open(seed=_seed(f"{room.seed}/{talk.problem.id}/{sample}"))
                if failure := _restore(talk, session, room):
                    room.executor.close(session)
                    session = None
                    _lose(talk, "tool", failure)
        _close(talk, key, room)
    finally:
        if session is not None:
            room.executor.close(session)


def _lose(talk, reason, why):
    """Count an interpreter that the tool has failed; too many of them are the reason."""
    talk.lost += 1
    if talk.lost > LOST:
        talk.reason, talk.why = reason, why


def _misplaced(talk, event) -> str:
    """Why an event of the ledger cannot follow the ones before it; "" where it can."""
    kind = event["event"]
    if talk.ended or (talk.reason and kind != "end"):
        return "goes on with a conversation that had ended"
    if kind == "end" and not talk.reason and event["reason"] not in _UNTOLD:
        return "ends a conversation that had not come to that"
    if kind == "turn" and talk.waiting:
        return "is a turn where the result of a call is missing"
    if kind == "result" and not talk.waiting:
        return "is a result where no call waits for one"
    return ""


def _close(talk, key, room):
    """Write the end down, if it is one for good and stands nowhere yet.

    A refusal or garbage before anything is paid may be about our settings, or about the
    address: it is not for good.
    """
    unpaid = talk.reason in ("refused", "garbage") and not talk.num_turns
    if not (talk.ended or unpaid or talk.reason in STOPPED):
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
    seed = _seed(f"{room.seed}/{talk.problem.id}/{sample}/{talk.num_turns}") & 0x7FFFFFFF
    body = dialects.request(room.how, talk.history, seed, most)
    size = len(json.dumps(body))
    reserved = room.book.reserve(size, most, room.stop)
    if reserved is None and room.stop.is_set():
        talk.reason = "leaving"
        return
    if reserved is None:
        talk.reason, talk.why = "cap", "another turn could cost more than is left"
        return
    try:
        reply = endpoint.ask(room.server, dialects.PATHS[room.how.api], body, room.stop)
        if reply.kind in ("trouble", "refused"):
            talk.reason, talk.why = reply.kind, reply.why
            return
        values = {"garbage": reply.why} if reply.kind == "garbage" else _kept(reply.body)
        prompt, written, said = dialects.tokens(reply.body, size, most)
        if "garbage" in values and not (said or talk.num_turns):
            talk.reason, talk.why = "garbage", values["garbage"]
            return
        values |= {"prompt_tokens": prompt, "completion_tokens": written, "tokens_said": said,
                   "sent_bytes": size, "most": most, "attempts": reply.attempts}  # fmt: skip
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
        # What the turns tell counts: an older reading of them may have come to another end.
        talk.ended, talk.reason = True, talk.reason or event["reason"]
        talk.why = talk.why or event["why"]
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
        talk.why = "" if talk.reason == "answered" else spoken.why
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


def _restore(talk, session, room) -> str:
    """Give an interpreter the variables that earlier calls have left.

    Returns what the tool says where it fails us; another result than the teacher was told
    ends the conversation.
    """
    for code, status, text in talk.told:
        if status == "malformed":
            continue
        again = room.executor.run(session, code)
        if again.status in tool_result.INFRA_STATUSES:
            return f"variables could not be restored: {again.status}: {again.text.strip()}"
        if (again.status, room.cut(again.text.removesuffix("\n"))) != (status, text):
            talk.reason = "state_lost"
            talk.why = f"run again after an interruption, a call gave {again.status}, not {status}"
            break
    return ""


def _seed(name: str) -> int:
    return zlib.crc32(name.encode("utf-8", "surrogatepass"))
