"""Running the expert in the real tool: problems -> transcripts, many at a time.

Every demonstration has an interpreter of its own. What the tool returns goes into the
transcript as it is; nothing is typed in. The order of the result is that of the problems
and does not depend on which call returned first.
"""

import concurrent.futures
import dataclasses
import zlib
from collections.abc import Sequence

from aster_jax import tools, types
from aster_jax.demos import teacher
from aster_jax.demos.transcript import Transcript


@dataclasses.dataclass
class _Live:
    """A demonstration under way."""

    problem: types.Problem
    how: teacher.Plan
    session: tools.Session | None
    messages: list[dict]
    results: list[tools.ToolResult]


def collect(
    problems: Sequence[types.Problem],
    style: str,
    executor: tools.Executor,
    slip_share: float = 0.0,
    seed: int = 0,
    think: bool = False,
    max_open: int = 64,
) -> list[Transcript]:
    """One transcript per problem, in their order.

    Args:
      style: as `teacher.read_styles` reads it.
      executor: the tool; not used by "direct" and "text".
      slip_share: share of dense demonstrations that make a mistake and repair it.
      seed: of the slips and of the interpreters.
      think: sentences go into think blocks.
      max_open: interpreters alive at once.
    """
    done: dict[int, Transcript] = {}
    calls: dict[concurrent.futures.Future, int] = {}
    live: dict[int, _Live] = {}
    waiting = list(enumerate(problems))[::-1]
    while waiting or calls:
        while waiting and len(live) < max_open:
            i, problem = waiting.pop()
            how = teacher.plan(problem, style, slip_share, seed, think)
            name = f"{seed}/{problem.id}"
            session = None if how.style in ("direct", "text") else executor.open(zlib.crc32(name.encode()))
            question = {"role": "user", "content": teacher.question(problem, how)}
            live[i] = _Live(problem, how, session, [question], [])
            _advance(i, live, calls, done, executor)
        if calls:
            returned, _ = concurrent.futures.wait(
                calls, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for call in returned:
                i = calls.pop(call)
                result = call.result()
                live[i].results.append(result)
                live[i].messages.append({"role": "tool", "content": result.text.removesuffix("\n")})
                _advance(i, live, calls, done, executor)
    return [done[i] for i in range(len(problems))]


def _advance(i, live, calls, done, executor):
    """Let the teacher speak; submit its call, or end the demonstration."""
    now = live[i]
    lost = bool(now.results) and now.results[-1].is_infra
    message = None if lost else teacher.next_message(now.problem, now.how, now.results)
    if message is not None:
        now.messages.append(message)
    if message is not None and "tool_calls" in message:
        code = message["tool_calls"][0]["arguments"]["code"]
        calls[executor.submit(now.session, code)] = i
        return
    statuses = tuple(result.status for result in now.results)
    done[i] = Transcript(
        now.problem, tuple(now.messages), statuses, finished=message is not None
    )
    if now.session is not None:
        executor.close(now.session)
    del live[i]
