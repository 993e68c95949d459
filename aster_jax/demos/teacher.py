"""The scripted expert: a policy that writes the next assistant message of a demonstration.

It looks at the problem and at the tool's real results so far, nothing else; the answer it
gives is the value that the tool printed last. It is run in the real tool by
`demos/collect.py`. What it says when it slips, sees the error and repairs the cell is
decided by the status of the tool's result, not by its wording.
"""

import dataclasses
import random
from collections.abc import Sequence

from aster_jax import tools, types
from aster_jax.data import chat
from aster_jax.demos import families, scripts
from aster_jax.errors import InputError

STYLES = ("dense", "sparse", "direct")
REPAIR = "That failed. Fix it."
LAST_THOUGHT = "The last result is the answer."
MAX_FAILURES = 2  # failed calls before the expert gives up: its script does not work here


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is decided before a demonstration starts.

    `style`: "dense" (several calls on growing state), "sparse" (one call) or "direct"
    (the answer without the tool). `slip_at`: the step that is first done wrong, or None.
    `think`: put the sentences into a think block, for models that were trained with one.
    """

    style: str
    slip_at: int | None = None
    think: bool = False


def plan(
    problem: types.Problem, style: str, slip_share: float, seed: int, think: bool = False
) -> Plan:
    """The plan of a problem's demonstration; a share of the dense ones contains a slip.

    Deterministic in (problem, style, seed). Raises ValueError for an unknown style or a
    share outside [0, 1].
    """
    if style not in STYLES:
        raise InputError(f"demos.style={style!r} is unknown; choose one of {STYLES}")
    if not 0 <= slip_share <= 1:
        raise InputError(f"demos.slip_share={slip_share} is outside [0, 1]")
    if style != "dense":
        return Plan(style, None, think)
    rng = random.Random(f"slip/{seed}/{problem.id}")
    steps = scripts.dense(problem.family, families.numbers(problem))
    choices = [i for i, step in enumerate(steps) if step.slip]
    slips = rng.random() < slip_share
    return Plan(style, rng.choice(choices) if slips else None, think)


def next_message(
    problem: types.Problem, how: Plan, results: Sequence[tools.ToolResult]
) -> dict | None:
    """The next assistant message: a tool call, or the final answer, or None to give up.

    Args:
      results: the tool's results of all calls so far, in order.
    """
    if how.style == "direct":
        return _message(f"The answer is \\boxed{{{problem.answer}}}.", how)
    steps = _steps(problem, how.style)
    done = sum(result.status == "ok" for result in results)
    failed = len(results) - done
    if failed >= MAX_FAILURES:
        return None
    if done == len(steps):
        value = results[-1].text.strip()
        return _message(f"The answer is \\boxed{{{value}}}.", how)
    step = steps[done]
    if results and results[-1].status != "ok":
        return _message(REPAIR, how, step.code)
    if how.slip_at == done and not failed:
        return _message(step.thought, how, step.slip)
    return _message(step.thought, how, step.code)


def _steps(problem: types.Problem, style: str) -> tuple[scripts.Step, ...]:
    write = scripts.dense if style == "dense" else scripts.sparse
    return write(problem.family, families.numbers(problem))


def _message(text: str, how: Plan, code: str | None = None) -> dict:
    """An assistant message; with `think`, its sentence moves into the think block."""
    if code is not None:
        return chat.call_message("" if how.think else text, code, text if how.think else None)
    thought = {"reasoning_content": LAST_THOUGHT} if how.think else {}
    return {"role": "assistant", "content": text, **thought}
