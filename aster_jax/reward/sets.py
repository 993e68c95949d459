"""Sets of real numbers: intervals, finite sets, inequalities in one name, and what joins them.

A set is the sorted points where membership can change, and a test of membership. Two sets
are the same when they agree at all points of both and between them.
"""

import fractions
import math
from collections.abc import Callable
from typing import NamedTuple

from mpmath import mp

from aster_jax.reward import readings, tree, value


class RealSet(NamedTuple):
    """`points`: where membership may change; `holds`: whether a number is in it; `names`:
    the name whose values it holds, if it came from an inequality."""

    points: list
    holds: Callable
    names: frozenset


MOST_POINTS = 200


def real_set(reading) -> RealSet | None:
    """The set of a reading, or None where it is not one of real numbers."""
    if isinstance(reading, readings.Relation):
        return _relation(reading)
    if isinstance(reading, readings.Bracket):
        return _finite(reading.items) if reading.opened == "{" else _interval(reading)
    if not isinstance(reading, readings.SetOf):
        return None
    if reading.sign == "R":
        return RealSet([], lambda x: True, frozenset())
    if reading.sign == "emptyset":
        return RealSet([], lambda x: False, frozenset())
    parts = [real_set(part) for part in reading.parts]
    if not parts or None in parts:
        return None
    tests = [part.holds for part in parts]
    joined = {
        "cup": lambda x: any(test(x) for test in tests),
        "cap": lambda x: all(test(x) for test in tests),
        "setminus": lambda x: tests[0](x) and not any(test(x) for test in tests[1:]),
    }[reading.sign]
    points = [p for part in parts for p in part.points]
    return RealSet(points, joined, frozenset().union(*(part.names for part in parts)))


def same(one: RealSet, other: RealSet) -> bool:
    """Whether two sets have the same members."""
    if len(one.names | other.names) > 1:
        return False
    points = []
    for p in sorted(one.points + other.points, key=value.real):
        if not points or order(points[-1], p) < 0:
            points.append(p)
    if len(points) > MOST_POINTS:
        raise value.Costly("a set of too many points")
    if not points:
        probes = [fractions.Fraction(0)]
    else:
        with mp.workdps(value.DIGITS):
            between = [(value.real(a) + value.real(b)) / 2 for a, b in zip(points, points[1:])]
            probes = [value.real(points[0]) - 1, *points, *between, value.real(points[-1]) + 1]
    return all(one.holds(x) == other.holds(x) for x in probes)


def order(a, b) -> int:
    """-1, 0 or 1: a before, at, or behind b; both may be infinite."""
    if a in (math.inf, -math.inf) or b in (math.inf, -math.inf):
        return (a > b) - (a < b)
    if value.agree(a, b, 50):
        return 0
    return -1 if value.real(a) < value.real(b) else 1


def endpoint(node: tuple):
    """The value of a constant real expression, infinite ones too, or None."""
    sign = 1
    while node[0] == "prod" and len(node[1]) == 2 and node[1][0] == tree.integer(-1):
        sign, node = -sign, node[1][1]
    if node == ("const", "oo"):
        return sign * math.inf
    if tree.symbols(node):
        return None
    try:
        found = value.constant(node, {})[0]
    except value.Undefined:
        return None
    if not isinstance(found, fractions.Fraction):
        if mp.im(found):
            return None
        found = mp.re(found)
    return sign * found


def _finite(items: tuple) -> RealSet | None:
    points = []
    for item in items:
        signs = tree.has_sign_choice(item)
        if not isinstance(item, readings.Value) or item.unit or signs:
            return None
        points.append(endpoint(item.node))
    if any(p is None or p in (math.inf, -math.inf) for p in points):
        return None
    return RealSet(points, lambda x: any(order(x, p) == 0 for p in points), frozenset())


def _interval(reading: readings.Bracket) -> RealSet | None:
    if len(reading.items) != 2 or not all(isinstance(i, readings.Value) for i in reading.items):
        return None
    if any(item.unit for item in reading.items):
        return None
    low, high = (endpoint(item.node) for item in reading.items)
    if low is None or high is None or order(low, high) > 0:
        return None
    closed = reading.opened == "[", reading.closed == "]"

    def holds(x):
        left, right = order(low, x), order(x, high)
        return (left < 0 or left == 0 and closed[0]) and (right < 0 or right == 0 and closed[1])

    points = [p for p in (low, high) if p not in (math.inf, -math.inf)]
    return RealSet(points, holds, frozenset())


def _relation(reading: readings.Relation) -> RealSet | None:
    """Of a chain of inequalities that are linear in one name."""
    names = tree.symbols(reading.sides)
    if len(names) != 1:
        return None
    (name,) = names
    tests, points = [], []
    for left, sign, right in zip(reading.sides, reading.signs, reading.sides[1:]):
        made = _linear(left, sign, right, name)
        if made is None:
            return None
        tests.append(made[1])
        points += made[0]
    return RealSet(points, lambda x: all(test(x) for test in tests), frozenset(names))


def _linear(left, sign, right, name):
    """(points, test) of one inequality, or None where it is not linear."""
    for side, infinite in ((left, right), (right, left)):
        if endpoint(infinite) in (math.inf, -math.inf) and side == ("sym", name):
            return ([], lambda x: True) if sign in ("<", ">") else None
    difference = ("sum", (left, tree.negative(right)))
    try:
        at = [value.constant(difference, {name: fractions.Fraction(t)})[0] for t in (0, 1, 2, 5)]
    except value.Undefined:
        return None
    with mp.workdps(value.DIGITS):
        exact = all(isinstance(v, fractions.Fraction) for v in at)
        a, b, c, d = at if exact else map(value.real, at)
        slope = b - a
        straight = value.agree(c, a + 2 * slope, 50) and value.agree(d, a + 5 * slope, 50)
        if not straight or not slope or mp.im(value.real(slope)) or mp.im(value.real(a)):
            return None
        root = -a / slope
    rising = slope > 0

    def holds(x):
        side = order(x, root) if rising else order(root, x)
        return {"<": side < 0, ">": side > 0, "<=": side <= 0, ">=": side >= 0,
                "!=": side != 0, "=": side == 0}[sign]  # fmt: skip

    return [root], holds
