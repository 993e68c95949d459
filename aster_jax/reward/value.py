"""Expressions -> numbers, exact where they are rational, else to as many digits as it takes.

Equality is decided here: rationals exactly; other constants to 50 digits and to twice the
digits that the numbers inside them have; expressions with names as identities, at rational
points. There is no absolute tolerance, and no rewriting that could run for ever: each node
is visited once per point. What would still cost too much raises Costly.
"""

import fractions
import functools
import hashlib
import math

import mpmath
from mpmath import mp

from aster_jax.reward import tree
from aster_jax.reward.functions import (
    EXACT, EXACT_BITS, HUGE, MOST_BITS, NUMERIC, Costly, Undefined, power, real,
)  # fmt: skip

DIGITS = 60
POINTS, TRIES = 6, 16
FLOAT_DIGITS = range(16, 18)  # what a binary float prints when it is not exact
FLOAT_NOISE = 2e-15  # relative: some roundings
mp.dps = 2 * DIGITS + 10  # outside of `constant`, which says its own


class Evaluator:
    """One evaluation at mpmath's present precision: the names' values, the largest rational."""

    def __init__(self, names: dict):
        self.names, self.bits = names, 0

    def __call__(self, node: tuple):
        """The value of a node: a Fraction where it is known to be rational, else mpmath's."""
        value = getattr(self, node[0])(*node[1:])
        if isinstance(value, fractions.Fraction):
            bits = max(value.numerator.bit_length(), value.denominator.bit_length())
            if bits > EXACT_BITS:
                return real(value)
            self.bits = max(self.bits, bits)
        elif not mpmath.isfinite(value):
            raise Undefined("no finite value")
        return value

    def num(self, value, shown, places):
        """A number."""
        return value

    def sym(self, name):
        """A name."""
        if name not in self.names:
            raise Undefined(f"{name} has no value")
        return self.names[name]

    def const(self, name):
        """A constant."""
        if name == "oo":
            raise Undefined("infinity")
        return {"pi": +mp.pi, "e": +mp.e, "i": mpmath.mpc(0, 1)}[name]

    def sum(self, parts):
        """A sum; addends that vanish beside others raise nothing, `constant` asks again."""
        values = [self(part) for part in parts]
        exact = sum((v for v in values if isinstance(v, fractions.Fraction)), fractions.Fraction())
        others = [v for v in values if not isinstance(v, fractions.Fraction)]
        if not others:
            return exact
        terms = [*others, real(exact)] if exact else others
        largest = max(mp.mag(v) for v in terms)
        if any(v and mp.mag(v) < largest - mp.prec for v in terms):
            raise Costly("addends too far apart")
        total = mpmath.fsum(terms)
        if not total or mp.mag(total) < largest - mp.prec + 30:
            return fractions.Fraction()  # as far as this precision sees
        return total

    def prod(self, parts):
        """A product."""
        values = [self(part) for part in parts]
        if all(isinstance(v, fractions.Fraction) for v in values):
            return math.prod(values, start=fractions.Fraction(1))
        if any(isinstance(v, fractions.Fraction) and not v for v in values):
            return fractions.Fraction()
        return mpmath.fprod(map(real, values))

    def div(self, top, bottom):
        """A quotient."""
        a, b = self(top), self(bottom)
        if not b:
            raise Undefined("division by zero")
        if isinstance(a, fractions.Fraction) and isinstance(b, fractions.Fraction):
            return a / b
        return real(a) / real(b)

    def pow(self, base, exponent):
        """A power."""
        return power(self(base), self(exponent))

    def root(self, index, node):
        """An n-th root; of a negative number the real one where there is one."""
        n, a = self(index), self(node)
        if not isinstance(n, fractions.Fraction) or n.denominator != 1 or not 1 <= n <= 10_000:
            return power(a, 1 / n if isinstance(n, fractions.Fraction) and n else 1 / real(n))
        odd_negative = n % 2 == 1 and mpmath.im(real(a)) == 0 and real(a).real < 0
        if odd_negative:
            return -power(-a, 1 / n)
        return power(a, 1 / n)

    def call(self, name, arguments):
        """A function."""
        values = [self(a) for a in arguments]
        if name in EXACT:
            return EXACT[name](*values)
        if name not in NUMERIC or len(values) != 1:
            raise Undefined(f"{name} of {len(values)}")
        x = real(values[0])
        if abs(x) > HUGE:
            raise Costly("too large an argument")
        value = NUMERIC[name](x)
        if not value or mp.mag(value) < 20 - mp.prec:
            return fractions.Fraction()
        return value

    def pm(self, sign, node):
        """Signs have to be chosen before."""
        raise Undefined("plus or minus")

    def matrix(self, rows):
        """A matrix is no number."""
        raise Undefined("a matrix")


def constant(node: tuple, names: dict, digits: int = DIGITS) -> tuple:
    """(value, digits that are right); asks again with more digits until two answers agree.

    Raises Undefined, or Costly where no precision settles it.
    """
    if rational(node):
        with mp.workdps(DIGITS):
            value = Evaluator(names)(node)
        if isinstance(value, fractions.Fraction):
            return value, math.inf
    for _ in range(4):
        try:
            found = []
            for precision in (digits, 2 * digits):
                with mp.workdps(precision):
                    run = Evaluator(names)
                    found.append(run(node))
            if run.bits > MOST_BITS:
                raise Costly("too many digits inside")
            needed = DIGITS + int(0.61 * run.bits)
            if needed <= digits and agree(*found, digits // 2):
                return found[1], digits
            digits = max(needed, 2 * digits if needed <= digits else needed)
        except Costly as cause:
            if "far apart" not in str(cause) or digits > 4000:
                raise
            digits *= 6
    raise Costly("no precision settles it")


def rational(node) -> bool:
    """Whether a tree holds nothing but arithmetic with rationals."""
    if not isinstance(node, tuple) or not node:
        return True
    if (
        node[0] == "const"
        or node[0] == "root"
        or node[0] == "call"
        and node[1] not in ("factorial", "binomial", "ratio", "same", "abs", "gcd", "lcm")
    ):
        return False
    if node[0] == "pow" and not (node[2][0] == "num" and node[2][1].denominator == 1):
        return False
    return all(map(rational, node))


def agree(a, b, digits: float) -> bool:
    """Whether two numbers are the same to so many significant digits."""
    if isinstance(a, fractions.Fraction) and isinstance(b, fractions.Fraction):
        return a == b
    if not a or not b:
        return not a and not b
    with mp.workdps(int(digits) + 30):
        x, y = real(a), real(b)
        return bool(abs(x - y) <= max(abs(x), abs(y)) * mpmath.mpf(10) ** -int(digits))


def both(one: tuple, other: tuple, names: dict) -> tuple:
    """(value, value, digits to which they can be compared): those of the more delicate one."""
    a, right_a = constant(one, names)
    b, right_b = constant(other, names)
    if right_a < right_b < math.inf:
        a, right_a = constant(one, names, right_b)
    elif right_b < right_a < math.inf:
        b, right_b = constant(other, names, right_a)
    right = min(right_a, right_b)
    return a, b, right if right < math.inf else DIGITS


def equal(one: tuple, other: tuple) -> bool:
    """Whether two expressions are the same: constants by value, others as identities.

    Raises Undefined where one has no value, Costly where a value cannot be had.
    """
    names = sorted(tree.symbols(one) | tree.symbols(other))
    if not names:
        a, b, right = both(one, other, {})
        return agree(a, b, right)
    agreed = 0
    for k in range(TRIES):
        values = {name: point(name, k) for name in names}
        try:
            a, b, right = both(one, other, values)
        except Undefined:
            continue
        if not agree(a, b, right):
            return False
        agreed += 1
        if agreed == POINTS:
            return True
    return False


@functools.lru_cache(4096)
def point(name: str, k: int) -> fractions.Fraction:
    """The k-th value of a name: rational, of either sign, between 1/4 and 3 in size."""
    hashed = hashlib.blake2b(f"{name} {k}".encode("utf-8", "replace"), digest_size=6).digest()
    drawn = int.from_bytes(hashed, "big")  # of one name nothing follows about another
    size = fractions.Fraction(drawn % 997 + 250, 500 + drawn // 997 % 89)
    minus = k == 1 or k > 1 and drawn >> 20 & 1  # all positive, all negative, then mixed
    return -size if minus else size


def multiple(one: tuple, other: tuple) -> int:
    """+1 or -1 if one expression is a positive or negative multiple of the other, else 0."""
    names = sorted(tree.symbols(one) | tree.symbols(other))
    ratios = []
    for k in range(TRIES):
        values = {name: point(name, k) for name in names}
        try:
            a, b, right = both(one, other, values)
        except Undefined:
            continue
        if not a or not b:
            if bool(a) != bool(b):
                return 0
            continue
        with mp.workdps(right + 10):
            exact = isinstance(a, fractions.Fraction) and isinstance(b, fractions.Fraction)
            ratios.append(a / b if exact else real(a) / real(b))
        if not agree(ratios[0], ratios[-1], right - 10) or mpmath.im(real(ratios[-1])):
            return 0
        if len(ratios) == POINTS:
            return 1 if real(ratios[0]) > 0 else -1
    return 0


def rounds_to(node: tuple, other: tuple, digits: int) -> bool:
    """Whether a decimal stands for a number: that number rounded or cut to what it shows.

    Only for numbers that no decimal is equal to, and only from `digits` significant digits
    on; and for what a binary float prints of any number that is written shorter.
    """
    if node[0] != "num" or not node[2]:
        return False
    _, decimal, shown, places = node
    exact = constant(other, {})[0]
    if mpmath.im(real(exact)) or not exact:
        return False
    with mp.workdps(DIGITS):
        difference = abs(real(exact) - real(decimal))
        finite = isinstance(exact, fractions.Fraction) and terminates(exact)
        noise = abs(real(exact)) * (FLOAT_NOISE if finite else 5 * FLOAT_NOISE)
        if finite:  # so near that the float can mean no other number as short
            noise = min(noise, real(fractions.Fraction(1, 10**8 * exact.denominator)))
        if shown in FLOAT_DIGITS and decimal.denominator != 1 and difference <= noise:
            return not (other[0] == "num" and other[2] >= FLOAT_DIGITS[0])
        if shown < digits or finite:
            return False
        unit = mpmath.mpf(10) ** -places
        cut = abs(real(exact)) > abs(real(decimal)) and difference < unit
        return bool(cut or difference <= unit / 2)


def terminates(x: fractions.Fraction) -> bool:
    """Whether a decimal with finitely many digits is equal to it."""
    rest = x.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1
