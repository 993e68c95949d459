"""Words beside a number: which are units, which change the number, and which are the same.

A unit may be missing on one side; two different ones differ. A word that changes a number
(million, dozen, at least) is no unit: then the whole is a text.
"""

import re

from aster_jax.reward import names
from aster_jax.reward.tokens import Refused, Token

NOT_UNITS = set(
    "million millions billion billions trillion trillions thousand thousands hundred hundreds "
    "dozen dozens score gross half halves third thirds quarter fourth fifth tenth tenths "
    "hundredth hundredths thousandth thousandths millionth lakh crore mil k twice double "
    "or and if not no nor none more less least most fewer than at between over under above below "
    "about approximately around almost nearly roughly maximum minimum max min mod modulo base "
    "times squared cubed plus minus divided by to from is are isn even odd except excluding "
    "otherwise when where for all any every some negative positive only but either neither "
    "infinity infinite undefined unknown january february march april may june july august "
    "september october november december pi e i sqrt root factorial choose power point "
    "per cent of in terms given unless does doesn cannot any both up down remainder".split()
) - {"in", "per", "of", "point"}
_SAME = {
    "inch": "in", "inche": "in", "feet": "ft", "foot": "ft", "yard": "yd", "mile": "mi",
    "meter": "m", "metre": "m", "centimeter": "cm", "centimetre": "cm", "millimeter": "mm",
    "millimetre": "mm", "kilometer": "km", "kilometre": "km", "gram": "g", "kilogram": "kg",
    "milligram": "mg", "liter": "l", "litre": "l", "hour": "h", "hr": "h", "minute": "min",
    "second": "s", "sec": "s", "pound": "lb", "ounce": "oz", "dollar": "$", "usd": "$",
    "cent": "cent", "degree": "deg", "percent": "%", "percentage": "%", "pct": "%", "square": "sq",
    "radian": "rad", "kph": "km/h", "way": "", "unit": "", "euro": "euro",
}  # fmt: skip
SHORT = {
    "cm", "mm", "km", "m", "kg", "g", "mg", "ft", "in", "mi", "yd", "mph", "kph", "lb", "lbs",
    "oz", "ml", "l", "hr", "hrs", "min", "mins", "sec", "secs", "sq", "cu", "rad", "deg", "s",
    "h", "am", "pm", "hz", "pct", "usd", "men", "day", "per", "of", "cups", "ways",
}  # fmt: skip
TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}  # of degrees: a number
_CURRENCY = {"\\$": "$", "euro": "euro", "pounds": "pound"}
_LABEL = re.compile(r"(?:the |my |our |so |thus |hence |therefore )*(?:final |correct )?"
                    r"(?:answer|ans|result|solution|option|choice)(?: is| choice)?")  # fmt: skip


def without_label(found: list[Token]) -> list[Token]:
    """Without "Answer:" or "The answer is" in front."""
    for i, token in enumerate(found[:8]):
        if token.kind not in ("letters", "word", "sign"):
            break
        words = " ".join(t.text for t in found[:i] if t.kind != "sign").casefold()
        if token.text == ":" and i and _LABEL.fullmatch(words):
            return found[i + 1 :]
        if words.endswith(" is") and _LABEL.fullmatch(words):
            return found[i:]
    return found


def split(found: list[Token]) -> tuple[list[Token], str]:
    """(the tokens of the number, its unit). Raises Refused for words that are no unit."""
    if found and (found[0].text in _CURRENCY or found[0].text in ("-", "+") and
                  len(found) > 2 and found[1].text in _CURRENCY):  # fmt: skip
        at = 0 if found[0].text in _CURRENCY else 1
        inner, unit = split(found[:at] + found[at + 1 :])
        if unit not in ("", "$"):
            raise Refused("two units")
        return inner, _CURRENCY[found[at].text]
    for i in range(1, len(found)):
        if starts_unit(found, i):
            return found[:i], unit_text(found[i:])
    return found, ""


def starts_unit(found: list[Token], i: int) -> bool:
    """Whether what follows from here is a unit: outside of all brackets, to the end."""
    token = found[i]
    depth = sum((t.text in ("(", "[", "{", "\\{")) - (t.text in (")", "]", "}", "\\}"))
                for t in found[:i] if t.kind == "sign")  # fmt: skip
    if depth or any(t.kind == "command" and t.text.startswith(("begin", "end")) for t in found[:i]):
        return False
    if token.kind == "word":
        return token.text not in names.FUNCTIONS
    if token.kind == "command":
        if token.text == "frac":
            inner = [t for t in found[i + 1 :] if t.text not in "{}"]
            return (
                len(inner) == 2
                and all(t.kind in ("word", "letters") for t in inner)
                and (all(t.kind == "word" or len(t.text) > 1 for t in inner))
            )
        if token.text == "degree":
            return not any(t.text in TRIGONOMETRIC for t in found[:i])
        return token.text in ("pmod", "euro", "pounds")
    if token.kind == "sign":
        return token.text in ("%", "\\%", "\\$")
    if token.kind != "letters" or len(token.text) < 2 or token.text in names.FUNCTIONS:
        return False
    if token.text in names.CONSTANTS or token.text in names.GREEK:
        return False
    is_number = found[i - 1].kind == "number" or found[i - 1].text in (")", "}", "]")
    return token.text.casefold() in SHORT and is_number or token.spaced and len(token.text) > 3


def unit_text(found: list[Token]) -> str:
    """One spelling of a unit's tokens."""
    if any(a.text == b.text == "." for a, b in zip(found, found[1:])):
        raise Refused("dots behind a number")
    words = [t for t in found if not (t.kind == "sign" and t.text in "{}.")]
    parts = []
    if words and words[0].kind == "command" and words[0].text == "frac":
        words = [words[1], Token("sign", "/"), *words[2:]]
    if len(words) > 12:
        raise Refused("a sentence behind a number")
    for token in words:
        text = token.text
        if token.kind in ("word", "letters"):
            text = text.casefold()
            if text in NOT_UNITS or not text.isalpha():
                raise Refused(f"{text!r} changes the number")
            text = text[:-1] if len(text) > 2 and text.endswith("s") else text
            parts.append(_SAME[text] if text in _SAME else text)
        elif token.kind == "command" and text == "degree":
            parts.append("deg")
        elif token.kind == "command" and text in ("pmod", "cdot"):
            parts.append("mod" if text == "pmod" else " ")
        elif token.kind == "number" and token.text.isdigit():
            parts.append(text)
        elif token.kind == "sign" and text in ("%", "\\%", "\\$", "^", "/", "-", "(", ")"):
            parts.append({"\\%": "%", "\\$": "$"}.get(text, text))
        elif token.kind == "command" and text in _CURRENCY:
            parts.append(_CURRENCY[text])
        else:
            raise Refused("no unit")
    text = " ".join(p for p in parts if p)
    if "%" in parts and parts != ["%"] or parts[-1:] == ["mod"]:
        raise Refused("no unit")
    text = re.sub(r" ?([/^-]) ?", r"\1", text)
    squared = re.fullmatch(r"(?:sq|cu)(?: (.*))?", text)
    if squared:
        power = "^2" if text.startswith("sq") else "^3"
        return (squared[1] or "unit") + power
    if re.search(r"\d", re.sub(r"\^-?\d|mod \(?\d+\)?|mod \d+", "", text)):
        raise Refused("a second number")
    return {"per cent": "%", "mi/h": "mph", "mi per h": "mph", "km per h": "km/h"}.get(text, text)
