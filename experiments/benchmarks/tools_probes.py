"""Fifty-nine two-cell probes of state fidelity: does a second cell see what a first made?

Each probe is (name, first cell, expression that must be true in a second cell). The first
cells of the last ones raise, exit, run over the time limit or have to be killed.
"""

LOOP = "\nwhile True:\n    i = 0\n"
PROBES = (
    ("integer", "a = 7", "a == 7"),
    ("reassigned", "a = 1\na = a + 1", "a == 2"),
    ("deleted", "a = 1\ndel a", "'a' not in globals()"),
    ("underscore name", "_a = 3", "_a == 3"),
    ("dunder name", "__a__ = 3", "__a__ == 3"),
    ("big integer", "a = 3**9000", "a % 10**6 == pow(3, 9000, 10**6)"),
    ("function", "def f(x): return x + 1", "f(1) == 2"),
    ("lambda", "f = lambda x: x * 2", "f(4) == 8"),
    ("closure counter", "def make():\n    n = [0]\n    def s():\n        n[0] += 1\n        return n[0]\n"
     "    return s\ns = make()\ns()", "s() == 2"),
    ("nonlocal", "def make():\n    n = 0\n    def s():\n        nonlocal n\n        n += 1\n        return n\n"
     "    return s\ns = make(); s()", "s() == 2"),
    ("class", "class C:\n    v = 4", "C().v == 4"),
    ("instance", "class C:\n    pass\nc = C()\nc.v = 5", "c.v == 5 and isinstance(c, C)"),
    ("dataclass", "import dataclasses\n@dataclasses.dataclass\nclass D:\n    x: int\nd = D(2)", "d == D(2)"),
    ("named tuple", "import collections\nT = collections.namedtuple('T', 'x y')\nt = T(1, 2)", "t.y == 2"),
    ("enum", "import enum\nclass E(enum.Enum):\n    A = 1\ne = E.A", "e is E.A"),
    ("module alias", "import math as m", "m.floor(2.5) == 2"),
    ("star import", "from math import *", "floor(pi) == 3"),
    ("shadowed builtin", "sum = 5", "sum == 5"),
    ("fraction", "from fractions import Fraction\nq = Fraction(1, 3)", "q * 3 == 1"),
    ("decimal precision", "import decimal\ndecimal.getcontext().prec = 50",
     "decimal.getcontext().prec == 50"),
    ("mpmath precision", "import mpmath\nmpmath.mp.dps = 40", "mpmath.mp.dps == 40"),
    ("recursion limit", "import sys\nsys.setrecursionlimit(5000)", "sys.getrecursionlimit() == 5000"),
    ("digit limit", "import sys\nsys.set_int_max_str_digits(9000)",
     "sys.get_int_max_str_digits() == 9000"),
    ("generator", "g = (i * i for i in range(9))\nnext(g); next(g);", "next(g) == 4"),
    ("generator function", "def c():\n    n = 0\n    while True:\n        n += 1\n        yield n\n"
     "g = c()\nnext(g);", "next(g) == 2"),
    ("iterator", "i = iter([1, 2, 3])\nnext(i);", "next(i) == 2"),
    ("enumerate", "e = enumerate('ab')\nnext(e);", "next(e) == (1, 'b')"),
    ("zip and map", "z = zip('ab', map(int, '12'))\nnext(z);", "next(z) == ('b', 2)"),
    ("itertools", "import itertools\nc = itertools.count(5)\nnext(c);", "next(c) == 6"),
    ("aliased lists", "a = [1]\nb = a", "b.append(2) is None and a == [1, 2]"),
    ("self reference", "a = []\na.append(a)", "a[0] is a"),
    ("dict by identity", "k = object()\nd = {k: 1}", "d[k] == 1"),
    ("bound method", "a = []\npush = a.append", "push(3) is None and a == [3]"),
    ("weak reference", "import weakref\nclass W: pass\nw = W()\nr = weakref.ref(w)", "r() is w"),
    ("numpy array", "import numpy as np\nv = np.arange(5.0)", "v.sum() == 10"),
    ("numpy view", "import numpy as np\nv = np.zeros(4)\nw = v[1:]", "w.fill(2) is None and v[1] == 2"),
    ("numpy stream", "import numpy as np\nnp.random.seed(1)\nx = np.random.rand()",
     "np.random.rand() != x and (np.random.seed(1) or np.random.rand()) == x"),
    ("random stream", "import random\nrandom.seed(1)\nx = [random.random() for _ in range(2)]\n"
     "random.seed(1); random.random();", "random.random() == x[1]"),
    ("numpy generator", "import numpy as np\nr = np.random.default_rng(3)\nr.random();\n"
     "y = np.random.default_rng(3).random(2)[1]", "r.random() == y"),
    ("sympy assumption", "from sympy import *\nx = symbols('x', positive=True)", "sqrt(x**2) == x"),
    ("sympy dummy", "from sympy import Dummy\nd = Dummy('d')\ne = d + 1", "e - d == 1"),
    ("sympy function", "from sympy import *\nf = Function('f')\nt = symbols('t')", "f(t).diff(t).has(f)"),
    ("sympy lambdify", "from sympy import *\nx = symbols('x')\nh = lambdify(x, x**2 + 1)", "h(3) == 10"),
    ("sympy matrix", "from sympy import Matrix\nm = Matrix([[1, 2], [3, 4]])", "m.det() == -2"),
    ("networkx graph", "import networkx as nx\ng = nx.path_graph(4)", "nx.diameter(g) == 3"),
    ("regex match", "import re\nm = re.match('a(b)', 'ab')", "m.group(1) == 'b'"),
    ("lru cache", "import functools\n@functools.lru_cache\ndef f(x): return x\nf(1);",
     "f(1) == 1 and f.cache_info().hits == 1"),
    ("partial", "import functools\np = functools.partial(pow, 2)", "p(5) == 32"),
    ("property of a class", "class P:\n    @property\n    def v(self): return 6\np = P()", "p.v == 6"),
    ("patched module", "import math\nmath.answer = 42", "math.answer == 42"),
    ("open buffer", "import io\ns = io.StringIO()\ns.write('ab');", "s.getvalue() == 'ab'"),
    ("source of a function", "import inspect\ndef f(): return 8", "'return 8' in inspect.getsource(f)"),
    ("future import", "from __future__ import annotations\ndef f(x: Nowhere): pass",
     "f.__annotations__['x'] == 'Nowhere'"),
    ("running thread", "import threading\nstop = threading.Event()\n"
     "t = threading.Thread(target=stop.wait, daemon=True)\nt.start()",
     "t.is_alive() and stop.set() is None"),
    ("last expression once", "L = [1, 2, 3]\nL.pop()", "L == [1, 2]"),
    ("before an exception", "a = 11\n1 / 0", "a == 11"),
    ("before sys.exit", "import sys\na = 12\nsys.exit(0)", "a == 12"),
    ("before a time-out", "a = 13" + LOOP, "a == 13"),
    ("before a hard kill", None, "a == 14"),
)
# The variable exists before the cell that has to be killed.
HARD = ("a = 14", "sum(range(10**12))")
