"""Numbers as they are written: digits, repeating decimals, mixed numbers."""

import fractions

from aster_jax.reward import tree
from aster_jax.reward.tokens import Cursor, Refused


def number(at: Cursor, argument) -> tuple:
    """The number that begins at the next token: plain, repeating, or mixed.

    `argument` reads the next argument of a command, for the fraction of a mixed number.
    """
    text = at.peek().text
    at.i += 1
    behind = at.is_command("overline", "dot", ahead=1)
    if at.is_sign(".") and not at.peek().spaced and behind:
        at.i += 1
        return repeating(at, text + ".")
    if at.is_command("overline", "dot") and "." in text:
        return repeating(at, text)
    if (
        at.is_command("ldots")
        and "." in text
        or [at.peek(a).text for a in range(3)] == [".", ".", "."]
        and "." in text
    ):
        at.i += 1 if at.is_command("ldots") else 3
        return tree.going_on(text)
    if "." in text and at.is_sign("(") and at.peek(1).kind == "number":
        raise Refused("a decimal with a bracket may repeat or be a product")
    return mixed(at, text, argument) or tree.number(text)


def repeating(at: Cursor, text: str) -> tuple:
    """0.1\\overline{6}: digits, then the block under the line."""
    at.i += 1
    at.expect("{")
    block = at.peek()
    if block.kind != "number" or not block.text.isdigit():
        raise Refused("digits are missing under the line")
    at.i += 1
    at.expect("}")
    if at.peek().kind == "number":
        raise Refused("digits behind a repeating block")
    return tree.repeated(text, block.text)


def mixed(at: Cursor, text: str, argument) -> tuple | None:
    """3\\frac{1}{2} or 3 1/2: a whole number and a proper fraction, or None."""
    if not text.isdigit():
        return None
    here = at.i
    if at.is_command("frac"):
        at.i += 1
        parts = [argument(), argument()]
    elif at.peek().kind == "number" and at.is_sign("/", ahead=1):
        if not at.peek().spaced or at.peek(2).kind != "number":
            return None
        parts = [tree.number(at.peek().text), tree.number(at.peek(2).text)]
        at.i += 3
    else:
        return None
    if all(part[0] == "num" and not part[2] for part in parts):
        top, bottom = parts[0][1], parts[1][1]
        if 0 < top < bottom:
            return ("num", fractions.Fraction(int(text)) + top / bottom, 0, 0)
        raise Refused("a number beside an improper fraction")
    at.i = here
    return None
