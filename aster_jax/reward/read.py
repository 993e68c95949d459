"""An answer's text -> what kind of thing it is: the reader, in the comparison's process.

A reading is one of the kinds in `readings.py`. What cannot be read wholly as mathematics is
Opaque, which is equal to its own spelling and to nothing else: the reward fails closed.
"""

import re

from aster_jax.reward import (
    assigned, cutting, expression, names, readings, tree, units, value,
)  # fmt: skip
from aster_jax.reward import tokens as lexer
from aster_jax.reward.tokens import Refused, Token

RELATIONS = {
    "=": "=", "==": "=", ":=": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=",
    "le": "<=", "ge": ">=", "ne": "!=", "in": "in", "approx": "approx", "equiv": "equiv",
    "sim": "equiv", "to": "equiv", "implies": "equiv", "Rightarrow": "equiv", "cong": "equiv",
}  # fmt: skip
SETS = {"R", "Z", "N", "Q", "C", "emptyset"}
_BASED = re.compile(r"\(?([0-9A-Z]+)\)?_\{?(\d+)\}?")


def read(text: str, is_gold: bool = False) -> list:
    """The readings of an answer, one or two: "1,234" is a number or a list of two."""
    found = []
    for thousands in lexer.ways(text, is_gold):
        try:
            found.append(read_tokens(lexer.tokenise(text, thousands)))
        except (Refused, RecursionError):
            continue
    return found or [opaque(text)]


def opaque(text: str) -> readings.Opaque:
    """The reading of what is not read."""
    try:
        found = lexer.tokenise(text, False)
    except Refused:
        return readings.Opaque(" ".join(text.split()), False)
    calculus = any(t.kind == "command" and t.text in names.CALCULUS for t in found)
    plain = calculus and is_plain(found)
    spelled = " ".join(t.text for t in found)
    return readings.Opaque(re.sub(r"\{ (\S+) \}", r"\1", spelled), plain)


def is_plain(found: list[Token]) -> bool:
    """Whether it is one expression in the common notation of calculus, and nothing else:
    relations only where a sum's index starts, no words, no list, no numbers side by side."""
    depth, last = 0, Token("", "")
    for token in found:
        depth += token.kind == "sign" and (token.text in "({") - (token.text in ")}")
        known = {
            "number": last.kind not in ("number", "letters") or last.text == "d",
            "letters": len(token.text) <= 2,
            "command": token.text in names.CALCULUS_COMMANDS,
            "sign": token.text in "+-*/^_(){}!" or token.text == "=" and depth > 0,
        }
        if token.kind not in known or not known[token.kind]:
            return False
        last = token
    return depth == 0


def read_based(found: list[Token]) -> readings.Based | readings.Value | None:
    """52_8, (2031)_5, A3_{16}; base ten is no base."""
    match = _BASED.fullmatch("".join(t.text for t in found))
    apart = any(t.spaced for t in found[1:] if t.kind in ("number", "letters"))
    if not match or apart or not any(c.isdigit() for c in match[1]):
        return None
    base = int(match[2][:6])
    if match[1][0].isalpha() and base <= 10:
        return None
    if base == 10 and match[1].isdigit():
        return readings.Value(tree.number(match[1]))
    return readings.Based(match[1].lstrip("0") or "0", base)


# From the outside to the inside: lists, relations, sets, ratios, values.


def read_tokens(found: list[Token]):
    """A whole answer."""
    found = conditions(units.without_label(cutting.stripped(found)))
    if not found:
        raise Refused("nothing")
    parts, cuts = cutting.split(found, cutting.is_separator, ordered=True)
    if len(parts) == 1:
        return read_item(found)
    joins = set(cuts)
    kept = [parts[0]]
    for before, part, after in zip(cuts, parts[1:], [*cuts[1:], ""]):
        if part or before != "," or after not in ("and", "or"):  # "14, 27, and 55"
            kept.append(part)
    items = tuple(map(read_item, kept))
    if "or" in joins or "lor" in joins:
        if all(is_condition(item) for item in items):
            return readings.SetOf("cup", items)
    elif joins <= {"and", "land"} and all(is_condition(item) for item in items):
        return readings.SetOf("cap", items)
    return readings.List(shared_name(items))


def conditions(found: list[Token]) -> list[Token]:
    """(x > 2) & (x < 5), as sympy joins conditions, with "and" and "or"."""
    joined = list(found)
    for i in range(1, len(found) - 1):
        between = found[i - 1].text == ")" and found[i + 1].text == "("
        if between and found[i].text in ("&", "|") and found[i].kind == "sign":
            joined[i] = Token("letters", "and" if found[i].text == "&" else "or", True)
    return joined


def is_relation(token: Token) -> bool:
    """A sign of a relation."""
    return token.kind in ("sign", "command") and token.text in RELATIONS


def is_condition(item) -> bool:
    """Whether it says which numbers are meant."""
    return isinstance(item, readings.Relation) or isinstance(item, readings.SetOf)


def shared_name(items: tuple) -> tuple:
    """n = 3, 5, 9 names all of them: the first name is dropped."""
    first, rest = items[0], items[1:]
    related = readings.Assigned | readings.Relation
    if isinstance(first, readings.Assigned) and not any(isinstance(i, related) for i in rest):
        return (first.item, *rest)
    return items


def read_item(found: list[Token]):
    """What stands between two separators."""
    found = cutting.stripped(found)
    if not found:
        raise Refused("an empty place in a list")
    based = read_based(found)
    if based is not None:
        return based
    if is_words(found):
        return read_text(found)
    sides, signs = cutting.split(found, is_relation, ordered=True)
    if signs:
        return read_relation(sides, [RELATIONS[s] for s in signs])
    for sign in ("setminus", "cup", "cap"):
        parts, joins = cutting.split(found, lambda t: t.kind == "command" and t.text == sign)
        if joins:
            return readings.SetOf(sign, tuple(map(read_item, parts)))
    parts, joins = cutting.split(found, lambda t: t.kind == "sign" and t.text == ":")
    if joins:
        return readings.Ratio(tuple(read_value(p) for p in parts))
    if len(found) == 1 and found[0].kind == "command" and found[0].text in SETS:
        return readings.SetOf(found[0].text, ())
    called = read_constructor(found)
    if called is not None:
        return called
    outer = cutting.enclosed(found)
    if outer is not None and not any(t.text == "choose" for t in outer):
        return read_bracket(found[0].text, found[-1].text, found[1:-1])
    return read_value(found)


def read_bracket(opened: str, closed: str, inner: list[Token]):
    """(a, b), [a, b), \\{a, b\\}, {a | condition}."""
    if opened in ("{", "\\{"):
        if closed != opened.replace("{", "}"):
            raise Refused("a set that is not closed as it was opened")
        opened, closed = "{", "}"
    parts, joins = cutting.split(inner, lambda t: t.kind == "sign" and t.text in (",", ";"))
    if opened == "{" and not inner:
        return readings.SetOf("emptyset", ())
    if opened == "{" and not joins:
        builder, bars = cutting.split(inner, lambda t: t.text in ("mid", ":", "|"))
        if bars and len(builder) == 2:
            condition = read_tokens(builder[1])
            if is_condition(condition):
                return condition
    if len(parts) == 1 and (opened, closed) in (("(", ")"), ("{", "}"), ("[", "]")):
        item = read_item(inner)
        if opened == "(" or isinstance(item, readings.SetOf):
            return item
        return readings.Bracket(opened, closed, (item,))
    items = tuple(map(read_item, parts))
    lists = [item for item in items if isinstance(item, readings.Bracket)]
    rows = [item.items for item in lists if item.opened == "["]
    if opened == "[" and len(rows) == len(items) and len({len(r) for r in rows}) == 1:
        if all(isinstance(v, readings.Value) for row in rows for v in row):
            return readings.Value(tree.matrix([[v.node for v in row] for row in rows]))
    return readings.Bracket(opened, closed, items)


def read_constructor(found: list[Token]):
    """What sympy and Python print around things: Interval(0, 1), Matrix([[1, 2]]), ..."""
    names = [t.text for t in found if t.kind == "letters"]
    at = next((i for i, t in enumerate(found) if t.text == "("), None)
    if not names or found[0].text not in CONSTRUCTORS or at is None or at > 3:
        return None
    if cutting.enclosed(found[at:]) is None:
        return None
    parts, _ = cutting.split(found[at + 1 : -1], lambda t: t.kind == "sign" and t.text == ",")
    return CONSTRUCTORS[found[0].text](found[2].text if at == 3 else "", parts)


def _interval(variant: str, parts: list):
    ends = [[], []] if len(parts) < 2 else parts[:2]
    flags = [bool(p) and p[0].text == "True" for p in parts[2:4]] + [False, False]
    left = variant in ("open", "Lopen") or flags[0]
    right = variant in ("open", "Ropen") or flags[1]
    return readings.Bracket("(["[not left], ")]"[not right], tuple(map(read_item, ends)))


def _matrix(variant: str, parts: list):
    return _as_matrix(
        read_item([t for i, p in enumerate(parts) for t in ([Token("sign", ",")] if i else []) + p])
    )


def _as_matrix(item):
    if isinstance(item, readings.Bracket) and item.opened == "[":
        if all(isinstance(i, readings.Value) for i in item.items):
            return readings.Value(tree.matrix([[i.node] for i in item.items]))
    if isinstance(item, readings.Value) and item.node[0] == "matrix":
        return item
    raise Refused("not a matrix")


def _equation(variant: str, parts: list):
    if len(parts) != 2:
        raise Refused("not an equation")
    return read_relation(parts, ["="])


CONSTRUCTORS = {
    "Interval": _interval, "Matrix": _matrix, "array": _matrix, "ImmutableMatrix": _matrix,
    "Eq": _equation,
    "FiniteSet": lambda variant, parts: readings.Bracket("{", "}", tuple(map(read_item, parts))),
    "set": lambda variant, parts: _listed(parts, "{", "}"),
    "list": lambda variant, parts: _listed(parts, "[", "]"),
    "tuple": lambda variant, parts: _listed(parts, "(", ")"),
    "Tuple": lambda variant, parts: readings.Bracket("(", ")", tuple(map(read_item, parts))),
    "Point": lambda variant, parts: readings.Bracket("(", ")", tuple(map(read_item, parts))),
    "Union": lambda variant, parts: readings.SetOf("cup", tuple(map(read_item, parts))),
    "Intersection": lambda variant, parts: readings.SetOf("cap", tuple(map(read_item, parts))),
    "Complement": lambda variant, parts: readings.SetOf("setminus", tuple(map(read_item, parts))),
}  # fmt: skip


def _listed(parts: list, opened: str, closed: str):
    item = read_item(parts[0]) if len(parts) == 1 else None
    if not isinstance(item, readings.Bracket):
        raise Refused("not a list")
    return readings.Bracket(opened, closed, item.items)


def read_relation(sides: list, signs: list):
    """An assignment, a membership, or a relation."""
    if "equiv" in signs or not sides[-1] or not sides[0]:
        raise Refused("a relation that is not read")
    if "approx" in signs:
        return read_approximation(sides, signs)
    if set(signs) == {"="}:
        for name_at, value_at in ((0, 1), (len(sides) - 1, 0)):
            name = assigned.name(sides[name_at])
            if name is not None:
                rest = sides[1:] if name_at == 0 else sides[:-1]
                items = tuple(map(read_item, rest))
                return (
                    readings.Assigned(name, items[-1] if name_at == 0 else items[0])
                    if (len(items) == 1)
                    else readings.Assigned(name, readings.Same(items))
                )
    if signs == ["in"]:
        if assigned.name(sides[0]) is None:
            raise Refused("a membership of something")
        return read_item(sides[1])
    if "in" in signs:
        raise Refused("a membership in a chain")
    values = [read_value(side) for side in sides]
    if any(v.unit for v in values):
        raise Refused("units in a relation")
    return readings.Relation(tuple(v.node for v in values), tuple(signs))


def read_approximation(sides: list, signs: list):
    """x = 1/3 \\approx 0.33: the exact part, if the other is near it."""
    cut = signs.index("approx") + 1
    if signs.count("approx") > 1 or len(sides) != cut + 1:
        raise Refused("an approximation in a chain")
    about = read_value(sides[-1])
    if cut == 1 and assigned.name(sides[0]) is not None:
        return readings.Assigned(assigned.name(sides[0]), about)
    exact = read_relation(sides[:cut], signs[:-1]) if cut > 1 else read_value(sides[0])
    value = exact.item if isinstance(exact, readings.Assigned) else exact
    if not isinstance(value, readings.Value) or not near(value.node, about.node):
        raise Refused("an approximation of something else")
    return exact


def near(one: tuple, other: tuple) -> bool:
    """Whether two constants are within a hundredth of each other."""
    if tree.symbols(one) | tree.symbols(other):
        return False
    try:
        return value.agree(value.constant(one, {})[0], value.constant(other, {})[0], 2)
    except value.Undefined:
        return False


def read_text(found: list[Token]) -> readings.Text:
    """Words as one text; a single lower-case run is a product of names too."""
    words = " ".join(t.text for t in found if t.text not in ".()")
    node = None
    run = [t for t in found if t.text not in "()"]
    if len(run) == 1 and run[0].kind == "letters" and len(run[0].text) <= 3:
        try:
            node = expression.parse(run)
        except Refused:
            node = None
    return readings.Text(words.casefold().replace(" - ", " ").strip(), node)


def is_words(found: list[Token]) -> bool:
    """Whether it is a text: letters of which some make a word, and nothing mathematical."""
    longest = 0
    for token in found:
        if token.kind not in ("letters", "word") and token.text not in (".", "-", "'", "(", ")"):
            starts = found[0].kind in ("word", "letters") and len(found[0].text) > 1
            if not (token.kind == "number" and starts):  # "June 20"
                return False
        if token.kind in ("letters", "word"):
            known = token.text in names.FUNCTIONS or token.text in names.GREEK
            if token.text in names.CONSTANTS or known and len(found) > 1:
                return False
            longest = max(longest, len(token.text))
    if any(t.text == "-" and not found[i].kind for i, t in enumerate(found)):
        return False
    return longest > 1


def read_value(found: list[Token]) -> readings.Value:
    """An expression with at most one unit behind it, or a currency before it."""
    found = cutting.stripped(found)
    if is_words(found):
        raise Refused("words where a value should stand")
    inner, unit = units.split(found)
    if not inner:
        raise Refused("a unit without a number")
    return readings.Value(expression.parse(inner), unit)
