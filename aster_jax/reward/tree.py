"""Expressions as trees of tuples: what the reader makes and the evaluator walks.

Nodes: ("num", Fraction, digits shown, places after the point; 0 and 0 for an integer),
("sym", name), ("const", "pi" | "e" | "i" | "oo"), ("sum", nodes), ("prod", nodes),
("div", a, b), ("pow", a, b), ("root", index, a), ("call", function, arguments),
("pm", +1 or -1, a) for \\pm and \\mp inside a sum, ("matrix", rows).
"""

import fractions
import re

from aster_jax.reward.tokens import Refused

MAX_DIGITS = 10_000


def number(text: str) -> tuple:
    """The node of digits as they are written."""
    mantissa, _, power = text.lower().partition("e")
    if len(text) > MAX_DIGITS or len(power) > 4:
        raise Refused("the number is too long")
    whole, point, decimals = mantissa.partition(".")
    shown = len((whole + decimals).lstrip("0")) if point else 0
    places = len(decimals) - int(power or 0) if point else 0
    value = fractions.Fraction(int(whole + decimals or "0"))
    value *= fractions.Fraction(10) ** (int(power or 0) - len(decimals))
    return ("num", value, shown, places)


def integer(value: int) -> tuple:
    """The node of a whole number."""
    return ("num", fractions.Fraction(value), 0, 0)


def matrix(rows: list[list[tuple]]) -> tuple:
    """The node of rows of equal length."""
    if not rows or len({len(row) for row in rows}) != 1:
        raise Refused("rows of different lengths")
    return ("matrix", tuple(map(tuple, rows)))


def negative(node: tuple) -> tuple:
    """-node; a number keeps being one."""
    if node[0] == "num":
        return ("num", -node[1], *node[2:])
    return ("prod", (integer(-1), node))


def repeated(text: str, block: str) -> tuple:
    """0.1 and the block 6 -> 1/6."""
    if len(text) + len(block) > 200:
        raise Refused("the repeating decimal is too long")
    whole, _, start = text.partition(".")
    value = fractions.Fraction(int(whole + start or "0"))
    value += fractions.Fraction(int(block), 10 ** len(block) - 1)
    return ("num", value / 10 ** len(start), 0, 0)


def going_on(text: str) -> tuple:
    """0.1666... -> 1/6: the shortest block that ends the digits, shown often enough."""
    whole, _, decimals = text.partition(".")
    match = re.search(r"(\d{1,12}?)\1+$", decimals[-60:])
    if match is None or len(match[0]) < 3 or len(decimals) > 60:
        raise Refused("it does not say how the digits go on")
    return repeated(f"{whole}.{decimals[: match.start()]}", match[1])


def symbols(node) -> set[str]:
    """The free names in a tree."""
    if not isinstance(node, tuple):
        return set()
    if node and node[0] == "sym":
        return {node[1]}
    return set().union(*map(symbols, node)) if node else set()


def choose_sign(node, sign: int):
    """The tree with \\pm as `sign` and \\mp as its opposite."""
    if not isinstance(node, tuple):
        return node
    if node and node[0] == "pm":
        inner = choose_sign(node[2], sign)
        return inner if node[1] * sign > 0 else negative(inner)
    return tuple(choose_sign(part, sign) for part in node)


def has_sign_choice(node) -> bool:
    """Whether \\pm or \\mp is in the tree."""
    if not isinstance(node, tuple):
        return False
    return bool(node) and node[0] == "pm" or any(map(has_sign_choice, node))
