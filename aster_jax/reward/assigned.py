"""Which left sides make a relation an assignment: names, and names of values.

"x=7" gives a value, "x+y=7" is an equation. What stands before the sign is compared, letter
by letter, with the patterns below, and anything else is an equation.
"""

import re

from aster_jax.reward import cutting, names, units
from aster_jax.reward.tokens import Token

LONGEST = 60
_INDEX = r"(?:_\{?[-+\w,]+\}?)?"
_PATTERNS = tuple(
    re.compile(pattern) for pattern in (
        rf"[a-zA-Z]{_INDEX}",  # x, S_{10}
        rf"[A-Z]{{2,}}{_INDEX}|\|[A-Z]+\||\[[A-Z]{{2,}}\]",  # AB, |AB|, the area [ABC]
        r"[A-Za-z][a-z]{3,19}",  # area
        r"m?(?:angle|triangle|overline|vec|hat)\{?[a-zA-Z]+\}?",  # the angle ABC
        r"\(?[a-zA-Z](?:,[a-zA-Z])+\)?",  # (x, y)
        r"frac\{[A-Z]{2,}\}\{[A-Z]{2,}\}|[A-Z]{2,}[/:][A-Z]{2,}",  # a ratio of segments
        r"[mnpqrs](?:\+[mnpqrs]){1,4}",  # m+n, the sums that competitions ask for
    )
)  # fmt: skip
# f(3), P(A|B), g_1(x): letters that are used for functions, and not of themselves.
_VALUE = re.compile(rf"([A-Zfghpqrsuvw]){_INDEX}[(\[]([-\w.,/+|=<>]*)[)\]]")
_TWO_ARGUMENTS = {"gcd", "lcm", "max", "min"}


def name(side: list[Token]) -> str | None:
    """The name that a side is, without spaces, or None where it is no name of a value."""
    side = cutting.stripped(side)
    if not side or sum(len(t.text) for t in side) > LONGEST:
        return None
    if all(t.kind == "word" for t in side):
        text = " ".join(t.text for t in side)
        return None if set(text.casefold().split()) & units.NOT_UNITS else text
    commands = [t.text for t in side if t.kind == "command"]
    compact = "".join(t.text for t in side)
    if len(side) == 1 and commands:
        return compact if compact in names.GREEK else None
    if set(commands) - names.DECORATIONS - _TWO_ARGUMENTS - {"frac"}:
        return None
    before = side[: next((i for i, t in enumerate(side) if t.text == "_"), len(side))]
    if any(t.text in names.FUNCTIONS and len(t.text) > 1 for t in before):
        head = side[0].text in _TWO_ARGUMENTS and re.fullmatch(r"[a-z]+\(\w+(?:,\w+)+\)", compact)
        return compact if head else None
    if any(pattern.fullmatch(compact) for pattern in _PATTERNS):
        return compact
    value = _VALUE.fullmatch(compact)
    if value is None or value[1] in value[2] and not value[1].isupper():
        return None
    is_function = value[1] in "fgh" or value[1].isupper() and value[1] not in value[2]
    return compact if is_function or re.fullmatch(r"\w+", value[2]) else None
