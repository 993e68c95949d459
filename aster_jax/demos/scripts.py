"""How an expert solves each problem family with the tool, as steps of code.

A dense script is five short cells on one growing state: the first gives the question's
numbers names, every later one but the check defines a name that the next needs, and the
check computes something a second way. The last cell's value is the answer. Cells are one
line and end in an expression, so the tool shows its value. A sparse script is the same
work in one cell.

The expert does no arithmetic of its own: numbers are copied from the question once, and
the answer from the tool. Small models can copy; they cannot calculate.
"""

import dataclasses
from collections.abc import Callable

from aster_jax.demos import walks
from aster_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Step:
    """One tool call: the sentence before it and its code.

    `slip` is the same cell with a plausible mistake that raises an error; "" if none.
    """

    thought: str
    code: str
    slip: str = ""


def dense(family: str, numbers: tuple[int, ...], per_call: int = 1) -> tuple[Step, ...]:
    """The steps for a problem with these numbers (`families.numbers`).

    `per_call` of them go into one cell: the same solution cut less finely.
    """
    if family in walks.SIZES:
        return tuple(Step(*cell) for cell in walks.cells(*numbers, per_call))
    steps = _DENSE[family](*numbers)
    return tuple(_joined(steps[i : i + per_call]) for i in range(0, len(steps), per_call))


def sparse(family: str, numbers: tuple[int, ...]) -> tuple[Step, ...]:
    """The same work as one step."""
    if family in walks.SIZES:
        return dense(family, numbers, per_call=len(walks.values(*numbers)))
    return (Step("Compute it with code.", _SPARSE[family](*numbers)),)


def in_text(family: str, numbers: tuple[int, ...]) -> str:
    """The work as text, without the tool. Raises InputError for families that have none."""
    _check_walk(family)
    return walks.in_text(*numbers)


def check(family: str, numbers: tuple[int, ...]) -> Step:
    """The work as text, and one call that looks at its end once more."""
    text = in_text(family, numbers)
    return Step(f"{text}\n{walks.CHECK}", walks.last_check(*numbers))


def answer(family: str, numbers: tuple[int, ...], shown: str) -> tuple[str, str]:
    """(thought, answer) at what the last cell showed; most need no thought, which is ""."""
    return walks.read_out(numbers[1], shown) if family in walks.SIZES else ("", shown)


def _joined(steps: tuple[Step, ...]) -> Step:
    if len(steps) == 1:
        return steps[0]
    return Step(" ".join(s.thought for s in steps), "; ".join(s.code for s in steps))


def _check_walk(family):
    if family not in walks.SIZES:
        raise InputError(
            f"family {family!r} has no solution in text; only {', '.join(walks.SIZES)} have: "
            "choose these as problems.families, or another demos.style"
        )


def _prod(a, b, c):
    return (
        Step("Read the numbers.", f"a, b, c = {a}, {b}, {c}; a*b"),
        Step("Compute p.", "p = a*b+c; p", "p = a*b+d; p"),
        Step("Check.", "(p-c)/a == b"),
        Step("List the digits.", "d = [int(t) for t in str(p)]; d", "d = [int(t) for t in p]; d"),
        Step("Add the squares.", "s = sum(t*t for t in d); s", "s = sum(d*d); s"),
    )


def _mod(a, b, c, m):
    return (
        Step(
            "Read the numbers.",
            f"a, b, c, m = {a}, {b}, {c}, {m}; f = lambda x: (b*x+c) % m; x = f(a); x",
        ),
        Step("Second step.", "x = f(x); x", "x = g(x); x"),
        Step("Check.", "x == f(f(a))"),
        Step("Third step.", "x = f(x); x", "x = f(X); x"),
        Step("Fourth step.", "x = f(x); x"),
    )


def _lcm(a, b, m):
    return (
        Step("Read the numbers.", f"a, b, m = {a}, {b}, {m}; a*b"),
        Step("Find the gcd.", "from math import gcd; g = gcd(a, b); g", "g = gcd(a, b); g"),
        Step("Divide.", "l = a*b//g; l", "l = a*b//gcd; l"),
        Step("Check.", "l % a == 0 and l % b == 0"),
        Step("Reduce.", "r = l % m; r"),
    )


def _count(n, a, b):
    return (
        Step("Read the numbers.", f"n, a, b = {n}, {a}, {b}; R = range(1, n+1); len(R)"),
        Step(
            "Multiples of a.",
            "A = {k for k in R if k % a == 0}; len(A)",
            "A = {k for k in R if k % a == 0}; A.len()",
        ),
        Step("Multiples of b.", "B = {k for k in R if k % b == 0}; len(B)"),
        Step("Check.", "len(A) == n//a and len(B) == n//b"),
        Step("Take them out.", "c = len(R)-len(A | B); c", "c = len(R)-len(A + B); c"),
    )


def _poly(a, b, n, m):
    return (
        Step(
            "Read the numbers.",
            f"a, b, n, m = {a}, {b}, {n}, {m}; f = lambda k: a*k*k+b; f(1)",
        ),
        Step(
            "List the values.",
            "v = [f(k) for k in range(1, n+1)]; v[-1]",
            "v = [f(k) for k in n]; v[-1]",
        ),
        Step("Add up.", "s = sum(v); s", "s = v.sum(); s"),
        Step("Check.", "len(v) == n and v[-1] == f(n)"),
        Step("Reduce.", "r = s % m; r"),
    )


_DENSE: dict[str, Callable[..., tuple[Step, ...]]] = {
    "prod": _prod, "mod": _mod, "lcm": _lcm, "count": _count, "poly": _poly,
}
_SPARSE: dict[str, Callable[..., str]] = {
    "prod": lambda a, b, c: f"sum(int(t)**2 for t in str({a}*{b}+{c}))",
    "mod": lambda a, b, c, m: (
        f"f = lambda x: ({b}*x+{c}) % {m}; f(f(f(f({a}))))"
    ),
    "lcm": lambda a, b, m: f"from math import lcm; lcm({a}, {b}) % {m}",
    "count": lambda n, a, b: f"sum(k % {a} > 0 and k % {b} > 0 for k in range(1, {n}+1))",
    "poly": lambda a, b, n, m: f"sum({a}*k*k+{b} for k in range(1, {n}+1)) % {m}",
}
