"""The scripted expert: a policy that writes the next assistant message of a demonstration.

It looks at the problem and at the tool's real results so far, nothing else; the answer it
gives is the value that the tool printed last. It is run in the real tool by
`demos/collect.py`. What it says when it slips, sees the error and repairs the cell is
decided by the status of the tool's result, not by its wording.
"""

import dataclasses
import random
import re
from collections.abc import Sequence

from aster_jax import tools, types
from aster_jax.data import chat
from aster_jax.demos import families, scripts
from aster_jax.errors import InputError

STYLES = ("dense", "told", "sparse", "check", "text", "direct")
REPAIR = "That failed. Fix it."
LAST_THOUGHT = "The last result is the answer."
REQUEST = " Use the tool."  # what the question of a "told" demonstration ends with
MAX_FAILURES = 2  # failed calls before the expert gives up: its script does not work here
_STYLE = re.compile(r"(?P<name>\w+)(/(?P<per_call>[1-9]\d*))?(\*(?P<times>[1-9]\d*))?")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is decided before a demonstration starts.

    `style`: "dense" (several calls on growing state), "told" (the same, because the question
    asks for it), "sparse" (one call), "check" (works in text, then checks its last step with
    one call), "text" (works in text) or "direct" (states the answer). `slip_at`: the step
    that is first done wrong, or None. `think`: put the sentences into a think block, for
    models that were trained with one. `per_call`: steps of a dense script in one call.
    """

    style: str
    slip_at: int | None = None
    think: bool = False
    per_call: int = 1


def read_styles(text: str) -> list[tuple[str, int]]:
    """(style, steps per call) of every turn of a wheel that demonstrations are drawn from.

    `text` is "NAME", or several separated by commas: "NAME/K" joins K steps of a dense script
    in each call, "NAME*N" is drawn N times as often. Raises InputError for anything else.
    """
    found = []
    for part in text.split(","):
        match = _STYLE.fullmatch(part.strip())
        if not match or match["name"] not in STYLES:
            raise InputError(
                f"demos.style={text!r}: {part!r} is unknown; choose one of {', '.join(STYLES)}, or "
                'several as "text*3,dense/2" (three times as often; two steps per call)'
            )
        found += [(match["name"], int(match["per_call"] or 1))] * int(match["times"] or 1)
    return found


def check(style: str, names: Sequence[str]) -> None:
    """Raise InputError where a family has no solution that a style could be written from."""
    if {name for name, _ in read_styles(style)} - {"direct"}:
        families.check_solved(names)


def plan(
    problem: types.Problem, style: str, slip_share: float, seed: int, think: bool = False
) -> Plan:
    """The plan of a problem's demonstration; a share of the dense ones contains a slip.

    Deterministic in (problem, style, seed). Raises ValueError for an unknown style or a
    share outside [0, 1].
    """
    wheel = read_styles(style)
    if not 0 <= slip_share <= 1:
        raise InputError(f"demos.slip_share={slip_share} is outside [0, 1]")
    name, per_call = random.Random(f"style/{seed}/{problem.id}").choice(wheel)
    if name not in ("dense", "told"):
        return Plan(name, None, think)
    rng = random.Random(f"slip/{seed}/{problem.id}")
    steps = scripts.dense(problem.family, families.numbers(problem), per_call)
    choices = [i for i, step in enumerate(steps) if step.slip]
    slips = rng.random() < slip_share and choices
    return Plan(name, rng.choice(choices) if slips else None, think, per_call)


def question(problem: types.Problem, how: Plan) -> str:
    """What the demonstration's user asks."""
    return problem.question + (REQUEST if how.style == "told" else "")


def next_message(
    problem: types.Problem, how: Plan, results: Sequence[tools.ToolResult]
) -> dict | None:
    """The next assistant message: a tool call, or the final answer, or None to give up.

    Args:
      results: the tool's results of all calls so far, in order.
    """
    if how.style == "direct":
        return _message(f"The answer is \\boxed{{{problem.answer}}}.", how)
    numbers = families.numbers(problem)
    if how.style == "text":
        worked = scripts.in_text(problem.family, numbers)
        return _message(f"{worked}\nThe answer is \\boxed{{{problem.answer}}}.", how)
    steps = _steps(problem.family, numbers, how)
    done = sum(result.status == "ok" for result in results)
    failed = len(results) - done
    if failed >= MAX_FAILURES:
        return None
    if done == len(steps):
        thought, value = "", problem.answer
        if how.style != "check":
            thought, value = scripts.answer(problem.family, numbers, results[-1].text.strip())
        return _message(f"{thought} The answer is \\boxed{{{value}}}.".lstrip(), how)
    step = steps[done]
    if results and results[-1].status != "ok":
        return _message(REPAIR, how, step.code)
    if how.slip_at == done and not failed:
        return _message(step.thought, how, step.slip)
    return _message(step.thought, how, step.code)


def _steps(family: str, numbers: tuple[int, ...], how: Plan) -> tuple[scripts.Step, ...]:
    if how.style == "check":
        return (scripts.check(family, numbers),)
    if how.style == "sparse":
        return scripts.sparse(family, numbers)
    return scripts.dense(family, numbers, how.per_call)


def _message(text: str, how: Plan, code: str | None = None) -> dict:
    """An assistant message; with `think`, its sentence moves into the think block."""
    if code is not None:
        return chat.call_message("" if how.think else text, code, text if how.think else None)
    thought = {"reasoning_content": LAST_THOUGHT} if how.think else {}
    return {"role": "assistant", "content": text, **thought}
