"""The functions that the evaluator knows, on Fractions where they can be and mpmath elsewhere.

All of them work at mpmath's present precision, and refuse (Costly) what would take too long
before they begin.
"""

import fractions
import functools
import math

import mpmath
from mpmath import mp

EXACT_BITS = 200_000  # rationals up to this size stay exact
MOST_BITS = 16_000  # of rationals inside an expression that is not rational
HUGE = 10**15  # exponents and arguments beyond this are not computed


class Costly(Exception):
    """Its value would take too long or too many digits."""


class Undefined(Exception):
    """It has no value (division by zero, logarithm of zero)."""


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
