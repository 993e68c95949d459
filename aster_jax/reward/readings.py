"""The kinds of answers: what `read.py` makes of a text and `compare.py` compares."""

from typing import NamedTuple


class Value(NamedTuple):
    """An expression with the unit that stands beside it ("" for none)."""

    node: tuple
    unit: str = ""


class Text(NamedTuple):
    """Words. `node`: what they are as a product of names (`xy`), or None."""

    words: str
    node: tuple | None = None


class List(NamedTuple):
    """Items beside each other without a bracket."""

    items: tuple


class Bracket(NamedTuple):
    """Items in brackets: a point, an interval, a list, a set ("{")."""

    opened: str
    closed: str
    items: tuple


class Assigned(NamedTuple):
    """`name` = the thing."""

    name: str
    item: tuple


class Relation(NamedTuple):
    """Sides with relations between them, outside of an assignment."""

    sides: tuple
    signs: tuple


class SetOf(NamedTuple):
    """Sets joined: "cup", "cap", "setminus"; or a named set ("R", no parts)."""

    sign: str
    parts: tuple


class Ratio(NamedTuple):
    """a:b:c, or a time."""

    parts: tuple


class Based(NamedTuple):
    """Digits in a base other than ten."""

    digits: str
    base: int


class Opaque(NamedTuple):
    """A text that is not read: its tokens. `calculus`: sums, integrals, limits and the like."""

    text: str
    calculus: bool


class Same(NamedTuple):
    """x = 5+5+1 = 11: all of them have to be equal to what they are compared with."""

    items: tuple
