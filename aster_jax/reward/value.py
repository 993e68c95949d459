"""Expressions -> numbers, exact where they are rational, else to as many digits as it takes.

Equality is decided here: rationals exactly; other constants to 50 digits and to twice the
digits that the numbers inside them have; expressions with names as identities, at rational
points. There is no absolute tolerance, and no rewriting that could run for ever: each node
is visited once per point. What would still cost too much raises Costly.
"""

import fractions
import functools
import math
import zlib

import mpmath
from mpmath import mp

from aster_jax.reward import expression

DIGITS = 60
EXACT_BITS = 200_000  # rationals up to this size stay exact
MOST_BITS = 16_000  # of rationals inside an expression that is not rational
HUGE = 10**15  # exponents and arguments beyond this are not computed
POINTS, TRIES = 6, 16
FLOAT_DIGITS = range(16, 18)  # what a binary float prints when it is not exact
FLOAT_NOISE = 2e-15  # relative: some roundings
mp.dps = 2 * DIGITS + 10  # outside of `constant`, which says its own


class Costly(Exception):
    """Its value would take too long or too many digits."""


class Undefined(Exception):
    """It has no value (division by zero, logarithm of zero)."""


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


def real(value):
    """mpmath's number of a value."""
    if isinstance(value, fractions.Fraction):
        return mpmath.mpf(value.numerator) / value.denominator
    return value


def power(a, b):
    """a^b; exact where it can be."""
    if isinstance(b, fractions.Fraction) and isinstance(a, fractions.Fraction):
        found = rational_power(a, b)
        if found is not None:
            return found
    if not a:
        if mpmath.re(real(b)) > 0:
            return fractions.Fraction()
        raise Undefined("zero to the power of nothing")
    if a == 1:
        return fractions.Fraction(1)
    x, y = real(a), real(b)
    if abs(y) * (abs(mp.mag(x)) + 1) > HUGE:
        raise Costly("too large a power")
    if isinstance(b, fractions.Fraction) and b.denominator == 1:
        return mpmath.power(x, b.numerator)
    return mpmath.power(x, y)


def rational_power(a: fractions.Fraction, b: fractions.Fraction):
    """a^b as a Fraction, or None where it is not rational or too large."""
    if b == 0:
        return fractions.Fraction(1)
    if a == 0:
        if b < 0:
            raise Undefined("division by zero")
        return a
    if b.denominator != 1:
        if a < 0 or b.denominator > 64:
            return None
        tops = [whole_root(n, b.denominator) for n in (a.numerator, a.denominator)]
        if None in tops:
            return None
        a, b = fractions.Fraction(*tops), fractions.Fraction(b.numerator)
    bits = max(a.numerator.bit_length(), a.denominator.bit_length())
    if abs(a) != 1 and bits * abs(b) > EXACT_BITS:
        return None
    return a ** (int(b) if abs(a) != 1 else int(b) % 2)


def whole_root(n: int, degree: int) -> int | None:
    """The whole number whose power n is, or None."""
    if n.bit_length() > MOST_BITS:
        return None
    if degree == 2:
        root = math.isqrt(n)
    else:
        with mp.workprec(n.bit_length() // degree + 40):
            root = int(mpmath.nint(mpmath.root(mpmath.mpf(n), degree)))
    return root if root**degree == n else None


def factorial(n):
    """n!; the gamma function between whole numbers."""
    if isinstance(n, fractions.Fraction) and n.denominator == 1:
        if n < 0:
            raise Undefined("factorial of a negative number")
        if n <= 10_000:
            return fractions.Fraction(math.factorial(int(n)))
    x = real(n)
    if abs(x) > 10**12:
        raise Costly("too large a factorial")
    return mpmath.gamma(x + 1)


def binomial(n, k):
    """The binomial coefficient."""
    whole = [isinstance(v, fractions.Fraction) and v.denominator == 1 for v in (n, k)]
    if all(whole) and 0 <= n:
        if not 0 <= k <= n:
            return fractions.Fraction()
        n, k = int(n), int(min(k, n - k))
        if n <= 10_000 or k * n.bit_length() <= EXACT_BITS:
            return fractions.Fraction(math.comb(n, k))
        if n > 10**12:
            raise Costly("too large a binomial coefficient")
        with mp.workdps(mp.dps + 40):
            g = mpmath.loggamma
            return mpmath.exp(g(n + 1) - g(k + 1) - g(n - k + 1))
    if max(abs(real(n)), abs(real(k))) > 10**6:
        raise Costly("too large a binomial coefficient")
    return mpmath.binomial(real(n), real(k))


def logarithm(x, base=None):
    """log x, natural without a base."""
    if not x or base is not None and (not base or base == 1):
        raise Undefined("no logarithm")
    if x == 1:
        return fractions.Fraction()
    value = mpmath.log(real(x))
    return value if base is None else value / mpmath.log(real(base))


def rounded(up: bool, x):
    """Floor or ceiling; what is as near to a whole number as digits show is that number."""
    if isinstance(x, fractions.Fraction):
        return fractions.Fraction(math.ceil(x) if up else math.floor(x))
    if mpmath.im(x) or abs(x) > HUGE:
        raise Undefined("rounding")
    near = mpmath.nint(x)
    if abs(x - near) < mpmath.mpf(10) ** (-mp.dps // 2):
        return fractions.Fraction(int(near))
    return fractions.Fraction(int(mpmath.ceil(x) if up else mpmath.floor(x)))


def whole_numbers(function, *values):
    """A function of whole numbers."""
    if not all(isinstance(v, fractions.Fraction) and v.denominator == 1 for v in values):
        raise Undefined("not whole numbers")
    return fractions.Fraction(function(*map(int, values)))


def extreme(function, *values):
    """The largest or the smallest of real numbers."""
    if not values or any(mpmath.im(real(v)) for v in values):
        raise Undefined("not real numbers")
    return function(values, key=real)


def magnitude(x):
    """|x|."""
    return abs(x) if isinstance(x, fractions.Fraction) else mpmath.fabs(x)


def ratio(a, b=fractions.Fraction(1)):
    """Rational(a, b)."""
    if not b:
        raise Undefined("division by zero")
    return a / b if isinstance(a, fractions.Fraction) else real(a) / real(b)


EXACT = {
    "factorial": factorial, "binomial": binomial, "log": logarithm, "ln": logarithm,
    "lg": lambda x: logarithm(x, fractions.Fraction(10)),
    "log10": lambda x: logarithm(x, fractions.Fraction(10)),
    "log2": lambda x: logarithm(x, fractions.Fraction(2)),
    "sqrt": lambda x: power(x, fractions.Fraction(1, 2)),
    "cbrt": lambda x: power(x, fractions.Fraction(1, 3)), "power": power,
    "root": lambda x, n: power(x, 1 / n), "abs": magnitude, "ratio": ratio,
    "same": lambda x: x, "floor": functools.partial(rounded, False),
    "ceiling": functools.partial(rounded, True),
    "gcd": functools.partial(whole_numbers, math.gcd),
    "lcm": functools.partial(whole_numbers, math.lcm),
    "max": functools.partial(extreme, max), "min": functools.partial(extreme, min),
    "re": lambda x: x if isinstance(x, fractions.Fraction) else mpmath.re(x),
    "im": lambda x: fractions.Fraction() if isinstance(x, fractions.Fraction) else mpmath.im(x),
    "gamma": lambda x: factorial(x - 1),
}  # fmt: skip
NUMERIC = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "cot": mpmath.cot,
    "sec": mpmath.sec, "csc": mpmath.csc, "arcsin": mpmath.asin, "arccos": mpmath.acos,
    "arctan": mpmath.atan, "arccot": mpmath.acot, "sinh": mpmath.sinh, "cosh": mpmath.cosh,
    "tanh": mpmath.tanh, "exp": mpmath.exp, "asinh": mpmath.asinh, "acosh": mpmath.acosh,
    "atanh": mpmath.atanh, "sign": mpmath.sign,
}  # fmt: skip


def constant(node: tuple, names: dict) -> tuple:
    """(value, digits that are right); asks again with more digits until two answers agree.

    Raises Undefined, or Costly where no precision settles it.
    """
    if rational(node):
        with mp.workdps(DIGITS):
            value = Evaluator(names)(node)
        if isinstance(value, fractions.Fraction):
            return value, math.inf
    digits = DIGITS
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
    if node[0] == "const" or node[0] == "root" or node[0] == "call" and node[1] not in (
        "factorial", "binomial", "ratio", "same", "abs", "gcd", "lcm"):
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


def equal(one: tuple, other: tuple) -> bool:
    """Whether two expressions are the same: constants by value, others as identities.

    Raises Undefined where one has no value, Costly where a value cannot be had.
    """
    names = sorted(expression.symbols(one) | expression.symbols(other))
    if not names:
        a, right_a = constant(one, {})
        b, right_b = constant(other, {})
        right = min(right_a, right_b)
        return agree(a, b, right if right < math.inf else DIGITS)
    agreed = 0
    for k in range(TRIES):
        values = {name: point(name, k) for name in names}
        try:
            a, b = constant(one, values)[0], constant(other, values)[0]
        except Undefined:
            continue
        if not agree(a, b, 50):
            return False
        agreed += 1
        if agreed == POINTS:
            return True
    return False


def point(name: str, k: int) -> fractions.Fraction:
    """The k-th value of a name: rational, of either sign, between 1/4 and 3 in size."""
    drawn = zlib.crc32(f"{name} {k}".encode())
    size = fractions.Fraction(drawn % 997 + 250, 500 + drawn // 997 % 89)
    minus = k == 1 or k > 1 and drawn >> 20 & 1  # all positive, all negative, then mixed
    return -size if minus else size


def multiple(one: tuple, other: tuple) -> int:
    """+1 or -1 if one expression is a positive or negative multiple of the other, else 0."""
    names = sorted(expression.symbols(one) | expression.symbols(other))
    ratios = []
    for k in range(TRIES):
        values = {name: point(name, k) for name in names}
        try:
            a, b = constant(one, values)[0], constant(other, values)[0]
        except Undefined:
            continue
        if not a or not b:
            if bool(a) != bool(b):
                return 0
            continue
        with mp.workdps(DIGITS):
            both = isinstance(a, fractions.Fraction) and isinstance(b, fractions.Fraction)
            ratios.append(a / b if both else real(a) / real(b))
        if not agree(ratios[0], ratios[-1], 50) or mpmath.im(real(ratios[-1])):
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
        if shown in FLOAT_DIGITS and difference <= noise:
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
