"""The fifty groups of cells the executor is judged by, as data.

A group is a list of steps run in one fresh session. A step says which statuses are right,
what the model's text must contain, and what became of the variables. Pool "patient" has a
generous time limit, "strict" a short one. `tiers` limits a group to isolation tiers in
which its claim is made at all; elsewhere it is skipped, never passed.
"""

import dataclasses

ANY = ("ok", "error", "denied", "memory_limit", "crashed", "timeout", "output_limit", "exited")
ROOTED = ("A1", "A2")
LOOP = "i = 0\nwhile True:\n    i += 1\n"


@dataclasses.dataclass(frozen=True)
class Step:
    """One cell and what must come of it."""

    code: str
    statuses: tuple[str, ...] = ("ok",)
    contains: str = ""
    state: str = "kept"
    lacks: str = ""


@dataclasses.dataclass(frozen=True)
class Group:
    """One numbered group: several short sequences, each in a session of its own."""

    number: int
    title: str
    sequences: tuple[tuple[Step, ...], ...]
    pool: str = "patient"
    tiers: tuple[str, ...] = ("A1", "A2", "B1", "B2", "C")


def ok(code: str, contains: str = "", lacks: str = "") -> Step:
    """A cell that works."""
    return Step(code, ("ok",), contains, "kept", lacks)


def bad(code: str, *statuses: str, contains: str = "", state: str = "kept") -> Step:
    """A cell that ends in one of `statuses`; state "" means any."""
    return Step(code, statuses, contains, state)


KEPT = ok("print(kept)", "41\n")
SET = ok("kept = 41")


def after(*steps: Step) -> tuple[Step, ...]:
    """Steps between setting a variable and finding it again."""
    return (SET, *steps, KEPT)


def gone(*steps: Step) -> tuple[Step, ...]:
    """Steps that cost the session its variables, after which it works again."""
    return (SET, *steps, ok("'kept' in globals()", "False\n"))


def dead(code: str, *statuses: str, contains: str = "") -> Step:
    """A cell that the interpreter does not survive."""
    return Step(code, statuses or ("crashed",), contains, "lost")


ORDINARY = (
    Group(1, "generator over three cells", ((
        ok("def count():\n    n = 0\n    while True:\n        n += 1\n        yield n\ng = count()"),
        ok("next(g)", "1\n"), ok("next(g)", "2\n"), ok("next(g)", "3\n")),)),
    Group(2, "closures, caches and aliases keep identity", ((
        ok("def make():\n    n = 0\n    def step():\n        nonlocal n\n        n += 1\n"
           "        return n\n    return step\nstep = make()\nstep()", "1\n"),
        ok("step()", "2\n"),
        ok("import functools, numpy as np\n@functools.lru_cache\ndef f(x): return x\nf(1)\n"
           "a = [1]; b = a\nv = np.zeros(4); w = v[1:]"),
        ok("b.append(2)\nw[0] = 7\nprint(a, v[1], f.cache_info().currsize)", "[1, 2] 7.0 1\n")),)),
    Group(3, "assignment before an exception stays", ((
        bad("y = 5\n\n1/0", "error", contains="line 3"), ok("y", "5\n")),)),
    Group(4, "last expression is evaluated once", ((
        ok("L = [1, 2, 3]\nL.pop()", "3\n"), ok("L", "[1, 2]\n")),)),
    Group(5, "trailing comment and semicolon", ((
        ok("1 + 1  # two", "2\n"), Step("5;", ("ok",), ""), ok("print('a'); 7", "a\n7\n")),)),
    Group(6, "__main__ is a real module", ((
        ok("if __name__ == '__main__':\n    print('main')", "main\n"),
        ok("import dataclasses, pickle\n@dataclasses.dataclass\nclass P:\n    x: int\n"
           "pickle.loads(pickle.dumps(P(3)))", "P(x=3)\n")),)),
    Group(7, "a number with 20,000 digits", ((
        Step("print(10**20000)", ("ok",), "bytes dropped"),),)),
    Group(8, "sympy objects across cells", ((
        ok("from sympy import *\nx = symbols('x', positive=True); d = Dummy('d'); f = Function('f')"),
        ok("e = d; sqrt(x**2)", "x\n"), ok("e is d", "True\n"),
        ok("t = symbols('t'); dsolve(f(t).diff(t) - f(t), f(t))", "Eq(f(t), C1*exp(t))\n")),)),
    Group(9, "standard input is empty", (after(
        bad("input()", "error", contains="EOFError"), ok("import sys; repr(sys.stdin.read())", "''\n")),)),
    Group(10, "notebook syntax gets a hint", (after(
        bad("await x", "syntax_error", contains="hint:"),
        bad("%timeit 1", "syntax_error", contains="hint:"),
        bad("!pip install x", "syntax_error", contains="hint:")),)),
    Group(11, "exit keeps the session", (after(
        bad("exit()", "exited"), bad("import sys; sys.exit(3)", "exited"),
        ok("import atexit; atexit.register(print, 'bye');"), bad("quit()", "exited")),)),
    Group(12, "asyncio and joined threads", ((
        ok("import asyncio\nasync def f():\n    await asyncio.sleep(0.01)\n    return 3\nasyncio.run(f())",
           "3\n"),
        ok("import threading\nr = []\nt = threading.Thread(target=r.append, args=(4,))\nt.start()\n"
           "t.join()\nr", "[4]\n")),)),
    Group(13, "odd text is no crash", (after(
        Step("", ("ok",)), ok("# only a comment"), ok("a = 1\r\nprint(a)\r\n", "1\n"),
        bad("if 1:\n\ta = 1\n        b = 2", "syntax_error"), ok("\ufeffprint(5)", "5\n"),
        bad("\U0001f600 = 1", "syntax_error"), bad("a\x00b", "syntax_error")),)),
    Group(15, "a module that is not preloaded", ((
        ok("import colorsys, xml.dom.minidom, wave\ncolorsys.rgb_to_hsv(1, 0, 0)", "(0.0, 1.0, 1)\n"),),)),
)

TIME = (
    Group(16, "endless loop", (after(bad(LOOP, "timeout")),), "strict"),
    Group(17, "loop that swallows every exception", ((SET, bad(
        "while True:\n    try:\n        for i in range(10**6):\n            pass\n"
        "    except BaseException:\n        pass", "timeout", state=""), ok("1")),), "strict"),
    Group(18, "signals ignored", (gone(dead(
        "import signal\nfor s in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):\n"
        "    signal.signal(s, signal.SIG_IGN)\n" + LOOP, "timeout")),), "strict"),
    Group(19, "timer cancelled", (gone(dead(
        "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0)\n" + LOOP, "timeout")),), "strict"),
    Group(20, "C loop without signal checks", (gone(dead("sum(range(10**11))", "timeout")),), "strict"),
    Group(21, "regex, lock, sleep", (
        after(bad("import re\nre.match('(a+)+$', 'a' * 60 + 'b')", "timeout")),
        after(bad("import threading\nk = threading.Lock()\nk.acquire(); k.acquire()", "timeout")),
        after(bad("import time\ntime.sleep(10**6)", "timeout"))), "strict"),
    Group(22, "partial output of a timed-out cell", (
        after(bad("print('partial')\n" + LOOP, "timeout", contains="partial\n")),
        gone(dead("print('partial')\nsum(range(10**11))", "timeout", contains="partial\n"))), "strict"),
    Group(23, "repr that never returns", (after(bad(
        "class R:\n    def __str__(self):\n        while True:\n            i = 0\nR()", "timeout")),),
        "strict"),
    Group(24, "no late second interrupt", (after(
        bad(LOOP, "timeout"), ok("import time\ntime.sleep(0.3)\nprint('calm')", "calm\n")),), "strict"),
)

RESOURCES = (
    Group(25, "memory bombs", (after(
        bad("bytearray(10 << 30)", "memory_limit"),
        bad("a = []\nwhile True:\n    a.append(bytearray(1 << 24))", "memory_limit"), ok("del a"),
        bad("import numpy as np\nb = [np.ones(1 << 20) for _ in range(200)]", "memory_limit")),)),
    Group(26, "memory outside the heap is bounded", (after(
        bad("import mmap\nm = [mmap.mmap(-1, 1 << 27) for _ in range(20)]", "error", "memory_limit"),
        bad("import os\nos.memfd_create('x')", "denied"),
        bad("import os\np = [os.pipe() for _ in range(500)]", "error", contains="Too many open files")),)),
    Group(27, "no child processes", (after(
        bad("import os\nwhile True:\n    os.fork()", "denied", contains="not permitted"),
        bad("import subprocess\nsubprocess.run(['ls'])", "denied", contains="not permitted"),
        bad("import multiprocessing\nmultiprocessing.Pool(2)", "denied", "error")),)),
    Group(28, "thread bomb", (after(bad(
        "import threading, time\nfor _ in range(500):\n"
        "    threading.Thread(target=time.sleep, args=(0.2,), daemon=True).start()", "error", "memory_limit",
        contains="can't start new thread")),)),
    Group(29, "infinite recursion", (after(
        bad("def f(n): return f(n + 1)\nf(0)", "error", contains="RecursionError")),)),
    Group(30, "recursion without limit, deep nesting", (
        (bad("import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1)\nf(0)", *ANY, state=""),
         ok("1", "1\n")),
        (bad("a = []\nfor _ in range(10**5):\n    a = [a]\nprint(a)", *ANY, state=""), ok("1", "1\n")),
        (bad("(" * 5000 + ")" * 5000, "syntax_error"), ok("1", "1\n"))), "strict"),
    Group(31, "scratch quota", (after(
        bad("for i in range(100):\n    open(f'f{i}', 'wb').write(bytes(1 << 20))", "error",
            contains="No space left"),
        bad("for i in range(100000):\n    open(f'g{i}', 'wb').close()", "error",
            contains="No space left")),), tiers=ROOTED),
    Group(32, "nothing else is writable", (after(
        bad("import os\nopen(os.__file__, 'a')", "denied"),
        bad("open('/usr/lib/x', 'w')", "denied"), bad("open('/dev/shm/x', 'w')", "denied", "error"),
        bad("import os\nopen('/etc/x', 'w')", "denied", "error")),),
        tiers=("A1", "A2", "B1", "B2")),
    Group(33, "a hundred megabytes are cut", (
        (SET, Step("print('x' * 10**8)", ("ok",), "bytes dropped"), KEPT),)),
    Group(33, "floods without end", (
        after(bad("while True:\n    print('y' * 100)", "timeout", contains="bytes dropped")),
        after(bad("y = 'y' * 10**6\nwhile True:\n    print(y)", "timeout", contains="dropped")),
        (dead("import os\nwhile True:\n    os.write(1, b'z' * 65536)", "output_limit"), ok("1", "1\n"))),
        "strict"),
    Group(34, "sudden deaths", (
        gone(dead("import os\nos._exit(3)", contains="exit code 3")),
        gone(dead("import os\nos.abort()", contains="SIG")),
        gone(dead("import ctypes\nctypes.string_at(0)", contains="SIGSEGV")),
        (bad("import os\nos.kill(os.getpid(), 9)", "crashed", "ok", state=""), ok("1", "1\n")))),
    Group(35, "all descriptors closed", (
        (dead("import os\nos.closerange(0, 64)"), ok("1", "1\n")),)),
)
