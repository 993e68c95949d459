"""What a cell reads of earlier ones, by hand and against running it; garbage says nothing."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aster_jax.report import cells
from aster_jax.tools import result


@pytest.mark.parametrize(
    "code, read, bound",
    [
        ("x = 1", "", "x"),
        ("x = x + 1", "x", "x"),
        ("x = 1\nprint(x)", "print", "x"),
        ("print(x)\nx = 1", "print x", "x"),
        ("x += 1", "x", "x"),
        ("a[i] = b", "a i b", ""),
        ("a.b = 3", "a", ""),
        ("x, (y, *z) = w", "w", "x y z"),
        ("import math\nmath.pi", "", ""),
        ("import a.b as c, d.e\nc + d + a", "a", ""),
        ("for i in xs:\n    t += i\nelse:\n    u = t", "xs t", "i t u"),
        ("while n > 1:\n    n -= 1", "n", "n"),
        ("if p:\n    q = 1\nelse:\n    r = q", "p", "q r"),
        ("with open(f) as g:\n    h = g.read()", "open f", "g h"),
        ("try:\n    a = b\nexcept E as e:\n    c = e", "b E e", "a c"),
        ("[x * k for x in xs if x]", "k xs", ""),
        ("(lambda v: v + w)(u)", "w u", ""),
        ("if (n := len(xs)) > 2: print(n)", "len xs print", "n"),
        ("def f(a, b=c):\n    d = a + g\n    return f(d)", "c g", "f"),
        ("def f():\n    global total\n    total = total + 1", "total", "f total"),
        ("class P(Q):\n    y = z\n    def m(self): return self.y + k", "Q z k", "P"),
        ("match v:\n    case [a, *b] if a > t: c = b\n    case {'k': d, **e}: pass", "v t", "a b c d e"),
        ("x: int = y", "int y", "x"),
        ("async def f(): await g()", "g", "f"),
        ("del x", "x", ""),
    ],
)
def test_names_by_hand(code, read, bound):
    got = cells.names(code)
    assert tuple(set(names.split()) for names in (read, bound)) == got


def test_a_session_by_hand():
    """Of the four that could, the second and the last build on what was there."""
    codes = ["a = 1", "b = a * 2", "import math\nc = math.pi", "math.e", "print(b + c)"]
    assert cells.reuse(codes, [""] * 5) == (4, 2)
    assert cells.reuse([], []) == (0, 0)
    assert cells.reuse(["import math", "math.pi"], ["", ""]) == (0, 0)
    # Restarted after the second cell: the third has nothing to go on from, the last has c.
    assert cells.reuse(codes, ["", result.LOST_NOTE, "", "", ""]) == (3, 2)


GARBAGE = ["", "x = ", "!pip install x", "\0", "\ud800", "print 'x'", "(" * 5000, "-" * 50_000 + "1",
           "x = '\\d'", "a" * 200_000, "[" * 150 + "x" + "]" * 150]  # fmt: skip


@pytest.mark.parametrize("code", GARBAGE)
def test_garbage_says_nothing_and_raises_nothing(code, recwarn):
    assert cells.names(code)[0] <= {"x"}
    assert not recwarn.list


@settings(max_examples=200, deadline=None)
@example("lambda: (yield)")
@given(st.text(alphabet="abxy=+-*()[]{}:, \n'\"\\.#@~19defforinlambdamatch", max_size=60))
def test_any_text_is_read_or_left(code):
    read, bound = cells.names(code)
    assert all(isinstance(name, str) and name for name in read | bound)
