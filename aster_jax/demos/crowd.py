"""Many conversations with a teacher at once: problems x samples -> transcripts and an account.

Conversations are independent; what they share is the ledger, the tool, and the word to
stop. They come back in the order of the problems and samples, whichever ended first.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence

from aster_jax import types
from aster_jax.demos import endpoint, talk
from aster_jax.demos.transcript import Transcript
from aster_jax.errors import GaveUp, Leaving

LOOK_S = 0.2  # between two looks at whether to stop
SAID_EVERY = 20  # conversations between two lines of progress


@dataclasses.dataclass(frozen=True)
class Account:
    """What was asked and what it came to; the reasons add up to `asked`.

    `money` in the currency of the prices. `tokens_by_reason` are prompt and completion
    tokens of the conversations that ended so.
    """

    asked: int
    reasons: dict[str, int]
    tokens_by_reason: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    money: float
    turns: int
    whys: dict[str, str]


def key(problem: types.Problem, sample: int, digest: str) -> str:
    """What a conversation is known by in the ledger; another question is another key."""
    question = hashlib.sha256(problem.question.encode("utf-8", "surrogatepass")).hexdigest()
    return json.dumps([problem.id, question[:12], sample, digest])


def collect(
    problems: Sequence[types.Problem], samples: int, digest: str, room: talk.Room, at_once: int,
    stopping: Callable[[], bool], say: Callable[[str], None],
) -> tuple[list[Transcript], Account]:  # fmt: skip
    """Have every conversation that has not ended yet.

    Raises GaveUp when the server cannot be reached, refuses, or says nothing of sense, again
    and again with nothing between that works; and Leaving when `stopping()` says so, after
    `endpoint.GRACE_S` for the answers on their way. What is paid stays in the ledger either
    way, and the same call goes on from there.
    """
    asked = [(p, s) for p in problems for s in range(samples)]
    for problem, sample in asked:
        room.book.events(key(problem, sample, digest))  # what is spent counts from the start
    outcomes: dict[int, talk.Outcome] = {}
    with concurrent.futures.ThreadPoolExecutor(at_once) as threads:
        under_way = {
            threads.submit(talk.run, problem, sample, key(problem, sample, digest), room): i
            for i, (problem, sample) in enumerate(asked)
        }
        try:
            _wait(under_way, outcomes, room, at_once, stopping, say)
        except BaseException:
            room.stop.set()
            for future in under_way:
                future.cancel()
            raise
    ordered = [outcomes[i] for i in range(len(asked))]
    return [o.transcript for o in ordered], _account(ordered, room)


def _wait(under_way, outcomes, room, at_once, stopping, say):
    """Until all have ended, somebody asks to stop, or the server has had its chances."""
    in_row, total = 0, len(under_way)
    while under_way:
        if stopping():
            say(f"asked to stop; answers that take more than {endpoint.GRACE_S:g} s are lost, and "
                "may be paid twice")  # fmt: skip
            raise Leaving("asked to stop while a teacher was asked")
        ended, _ = concurrent.futures.wait(
            under_way, LOOK_S, concurrent.futures.FIRST_COMPLETED
        )
        for future in ended:
            outcome = outcomes[under_way.pop(future)] = future.result()
            if outcome.fresh and outcome.reason not in ("cap", "tool"):
                in_row = in_row + 1 if _is_silent(outcome) else 0
            if in_row > at_once:
                raise GaveUp(
                    f"the teacher at {room.server.url} did not answer {in_row} conversations in a "
                    f"row: {outcome.why}. What is paid is in the journal; the same command goes on"
                )
            if len(outcomes) % SAID_EVERY == 0 or len(outcomes) == total:
                say(f"{len(outcomes)}/{total} conversations, {room.book.prompt_tokens} + "
                    f"{room.book.completion_tokens} tokens, cost {room.book.spent():.4f}")  # fmt: skip


def _is_silent(outcome) -> bool:
    """Whether it ended as all of them do while something is wrong with the server."""
    if outcome.reason == "refused":  # after some turns it is about the conversation's length
        return not outcome.num_turns
    return outcome.reason in ("trouble", "garbage")


def _account(outcomes, room) -> Account:
    tokens = collections.Counter()
    for o in outcomes:
        tokens[o.reason] += o.prompt_tokens + o.completion_tokens
    return Account(
        asked=len(outcomes),
        reasons=dict(collections.Counter(o.reason for o in outcomes)),
        tokens_by_reason=dict(tokens),
        prompt_tokens=sum(o.prompt_tokens for o in outcomes),
        completion_tokens=sum(o.completion_tokens for o in outcomes),
        money=room.book.spent(),
        turns=sum(o.num_turns for o in outcomes),
        whys={o.reason: o.why for o in outcomes if o.why},
    )
