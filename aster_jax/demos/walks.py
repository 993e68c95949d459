"""Walks: problems of graded difficulty, on which a policy can stop using its tool and still earn.

A number is replaced by (b*x+c) mod m until it ends in a given digit. One wording, three
sizes. `walk1` adds 1, 2 or 3 a few times, which a small model can learn to do in its head;
`walk2` adds any digit and goes on for longer, so that the head often slips; `walk3` multiplies
modulo a number a dozen times, which it cannot (numbers are below 100 there, so about a tenth of
them is guessed). With the tool all three are one procedure: define the step, apply it, look
whether to go on. When to stop is only known by looking, so the number of calls follows from what
was seen: the thought after a call spells out what is looked for and the digits that came.

`per_call` cuts the same solution more or less finely: so many applications in a cell, all
of whose values are shown and have to be looked through. Nothing else differs.
"""

import ast
import dataclasses
import random
from collections.abc import Sequence

TEMPLATE = (
    "Start with x = {a}. Until x ends in {e}, replace x by ({b}*x+{c}) mod {m}. What is x then?"
)
GO_ON, START, CHECK = "Go on.", "Start.", "Check."


@dataclasses.dataclass(frozen=True)
class Size:
    """What a family draws from: a, b, c and m, and the range of the number of steps."""

    starts: Sequence[int]
    factors: Sequence[int]
    terms: Sequence[int]
    moduli: Sequence[int]
    steps: range


_STARTS = range(10, 60)
SIZES = {
    "walk1": Size(_STARTS, (1,), range(1, 4), range(151, 1000, 2), range(2, 5)),
    "walk2": Size(_STARTS, (1,), range(1, 10), range(151, 1000, 2), range(2, 6)),
    "walk3": Size(_STARTS, range(3, 10), range(1, 10), range(61, 100, 2), range(10, 15)),
}


def draw(family: str, rng: random.Random) -> tuple[int, int, int, int, int]:
    """(a, e, b, c, m) of one problem, in the order of the template's holes."""
    size = SIZES[family]
    while True:
        b, m = rng.choice(size.factors), rng.choice(size.moduli)
        a, c = rng.choice(size.starts), rng.choice(size.terms)
        values, x = [a], a
        for _ in range(size.steps[-1]):
            x = (b * x + c) % m
            values.append(x)
        at = rng.choice(size.steps)
        e = values[at] % 10
        # Distinct: a walk in a circle shows nothing new.
        is_first = all(v % 10 != e for v in values[:at])
        if is_first and a < m and min(values) >= 10 and len(set(values)) == len(values):
            return a, e, b, c, m


def values(a: int, e: int, b: int, c: int, m: int) -> list[int]:
    """Every value that x is replaced by; the last one is the answer."""
    found, x = [], a
    while x % 10 != e:
        x = (b * x + c) % m
        found.append(x)
    return found


def solve(a: int, e: int, b: int, c: int, m: int) -> int:
    """The answer."""
    return values(a, e, b, c, m)[-1]


def cells(a: int, e: int, b: int, c: int, m: int, per_call: int) -> list[tuple[str, str, str]]:
    """(thought, code, a slip) of every call: as many as it takes to see the answer."""
    go_on = f"[x := f(x) for _ in range({per_call})]"
    found = [(START, f"f = lambda x: ({b}*x+{c}) % {m}; x = {a}; {go_on}", "")]
    walk = values(a, e, b, c, m)
    for at in range(per_call, len(walk), per_call):
        thought = f"{_reading(e, walk[at - per_call : at])} {GO_ON}"
        found.append((thought, go_on, go_on.replace("f(", "g(")))
    return found


def read_out(e: int, shown: str) -> tuple[str, str]:
    """(thought, answer) at what the last cell showed: the first value that ends in e."""
    walk = ast.literal_eval(shown)
    at = next(i for i, x in enumerate(walk) if x % 10 == e)
    return _reading(e, walk[: at + 1]), str(walk[at])


def _reading(e: int, walk: Sequence[int]) -> str:
    """What is looked for, and the last digits that were seen: told apart at a glance."""
    return f"{e}? {' '.join(str(x % 10) for x in walk)}."


def in_text(a: int, e: int, b: int, c: int, m: int) -> str:
    """The whole walk as somebody writes it who calculates in the head, the numbers said first."""
    walk = "".join(f"\nx = {x}" for x in values(a, e, b, c, m))
    return f"I take ({b}*x+{c}) % {m}; x = {a}{walk}"


def last_check(a: int, e: int, b: int, c: int, m: int) -> str:
    """Code that looks at the last step once more, and at no other."""
    *_, before, last = [a, *values(a, e, b, c, m)]
    return f"({b}*{before}+{c}) % {m} == {last}"
