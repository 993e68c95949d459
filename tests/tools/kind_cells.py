"""Groups 51 to 60: kinds of cells by which a session was once lost, silent, masked or open.

Each claims the same in every tier, so these run in all that a host has (kinds_test.py).
"""

from tests.tools.escape_cells import FRAME, LIBC
from tests.tools.hostile_cells import ANY, Group, Step, after, bad, dead, gone, ok

SAFE = ("A1", "A2", "B1", "B2")
ENDED = ("crashed", "ok", "error", "timeout", "protocol_violation", "exited", "denied")
SOCKET = "import os, socket, time\ns = socket.socket(fileno=os.dup(3))\n"
# Ordinary objects, a few bytes each: nothing large is ever refused before all is full.
FILLERS = (
    "a = []\nwhile True: a.append([1, 2])", "a = {}\nwhile True: a[len(a)] = str(len(a))",
    "a = set()\nwhile True: a.add((len(a),))",
    "from fractions import Fraction\na = []\nwhile True: a.append(Fraction(1, len(a) + 1))",
    "import functools\n@functools.lru_cache(None)\ndef a(n): return str(n) * 9\n"
    "n = 0\nwhile True: n += len(a(n))",
    "import sys\nsys.setrecursionlimit(10**7)\na = 0\ndef f(n): return f(n + 1) + [n]\nf(0)",
    "a = []\ntry:\n    while True: a.append(bytes(99))\nfinally:\n    a.append(str(len(a)))",
)
NATIVE_THREADS = (
    "import ctypes, time\nlibc = ctypes.CDLL(None)\nstop = ctypes.cast(libc.pause, ctypes.c_void_p)\n"
    "made, ids = 0, (ctypes.c_ulong * 200)()\n"
    "for i in range(200):\n"
    "    made += not libc.pthread_create(ctypes.byref(ids, 8 * i), None, stop, None)\n"
    "time.sleep(1)\nprint('made', made < 20)"
)
TIMERS = (
    "import ctypes\nlibc = ctypes.CDLL(None)\nid_ = ctypes.c_void_p()\n"
    "sum(libc.timer_create(0, None, ctypes.byref(id_)) == 0 for _ in range(500)) <= 64"
)
LIBRARY = "import fcntl, os\nfile = os.open(os.__file__, os.O_RDONLY)\n"

KINDS = (
    Group(51, "memory filled with small objects is told and kept", tuple(
        after(bad(code, "memory_limit"), Step("del a\n1", ("ok",), "1\n")) for code in FILLERS
    ), "tight", tiers=SAFE),
    Group(51, "deep recursion through a cache", (after(ok(
        "import functools, sys\nsys.setrecursionlimit(10**6)\n@functools.lru_cache(None)\n"
        "def f(n): return n and 1 + f(n - 1)\nf(50_000)", "50000\n")),), tiers=SAFE),
    Group(52, "signals of every number", tuple(
        (bad(f"import os\nos.kill(os.getpid(), {n})", *ENDED, state=""), ok("1", "1\n"))
        for n in (1, 6, 10, 16, 17, 23, 24, 29, 31, 32, 34, 35, 40, 50, 63, 64)
    ), "strict", tiers=SAFE),
    Group(53, "the harness's channels shut, copied, made non-blocking", (
        gone(dead(SOCKET + "s.shutdown(2)\ntime.sleep(9)")),
        gone(dead(SOCKET + "s.shutdown(1)\nimport ctypes\nctypes.string_at(0)")),
        (bad(SOCKET + "s.shutdown(0)", *ENDED), bad("1", "ok", "crashed", state="lost"),
         ok("2", "2\n")),
        gone(dead("import os\nos.dup2(1, 3)")), gone(dead("import os\nos.close(3)")),
        gone(dead("import os\nn = os.open('/dev/null', 1)\nos.dup2(n, 4)\nos.dup2(n, 5)")),
        after(ok("import os\nfor n in range(6): os.set_blocking(n, False)"), ok("print('still here')", "still here\n")),
        gone(dead("import os\nos.write(3, b'\\0\\0')\nos._exit(0)", "crashed",
                  "protocol_violation")),
        gone(dead(FRAME + "os.write(3, b'\\0\\0\\0\\x09[')", "protocol_violation")),
        gone(dead("import os, threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()"
                  "\nos.kill(os.getpid(), 11) or os.abort()"))), tiers=SAFE),
    Group(54, "nothing can be sent to an address", (after(
        bad("import socket\nsocket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)", "denied"),
        bad("import socket\nsocket.socketpair(socket.AF_UNIX, socket.SOCK_RAW)", "denied"),
        ok("import socket\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
           "a.send(b'x'); b.recv(9)", "b'x'\n"),
        bad("a.sendto(b'x', '/dev/log')", "error", "denied", "ok"),
        bad("import socket\na.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)", "denied"),
        bad("import socket\ns = socket.socket(fileno=3)\ntry: s.getsockopt(1, 77)\n"
            "finally: s.detach()", "denied")),), tiers=SAFE),
    Group(55, "library files carry no message", (after(
        bad(LIBRARY + "fcntl.flock(file, fcntl.LOCK_EX)", "denied"),
        bad(LIBRARY + "fcntl.flock(file, fcntl.LOCK_SH)", "denied"),
        bad(LIBRARY + "fcntl.fcntl(file, 1024, 0)", "denied"),  # F_SETLEASE
        bad(LIBRARY + "fcntl.fcntl(os.open(os.path.dirname(os.__file__), os.O_RDONLY), 1026, 1)",
            "denied"),  # F_NOTIFY
        bad(LIBRARY + "import struct\nfcntl.fcntl(file, 5, struct.pack('hhqqi', 1, 0, 0, 0, 0))",
            "denied"),  # F_GETLK
        bad(LIBRARY + "fcntl.fcntl(file, 1036, b'\\1\\0\\0\\0\\0\\0\\0\\0')", "denied"),  # a hint
        bad(LIBC + "call('inotify_init1', 0)", "denied"),
        ok("import sqlite3\nsqlite3.connect(':memory:').execute('select 7').fetchone()", "(7,)\n"),
    ),), tiers=SAFE),
    Group(56, "threads are bounded", (
        after(bad("import concurrent.futures as c, time\n"
                  "list(c.ThreadPoolExecutor(64).map(time.sleep, [1] * 64))", "error",
                  contains="the limit here"), ok("import time; time.sleep(1.2)")),
        (bad(NATIVE_THREADS, "ok", "crashed", state=""), ok("1", "1\n"))), tiers=SAFE),
    Group(57, "kernel memory beside the limit is bounded", (after(
        ok(TIMERS, "True\n"),
        bad("import fcntl, os\nfcntl.fcntl(os.pipe()[0], 1031, 1 << 20)", "denied")),),
        tiers=SAFE),
    Group(58, "programs and processes are refused in words", (after(
        bad("import os\nos.system('ls')", "denied", contains="no program"),
        bad("import multiprocessing\nmultiprocessing.Pool(2)", "denied", contains="no process"),
        bad("import sys\nsys.exit('out of ideas')", "exited", contains="out of ideas\n"),
        bad("str(2**1000000)", "error", contains="100000 digits")),), tiers=SAFE),
    Group(59, "one hint for what is no Python", (after(*(
        bad(code, "syntax_error", contains=f"\nhint: {hint}") for code, hint in (
            ("```python\nx = 1\n```", "send the code alone"), ("x = 1\n```", "send the code alone"),
            ("files = !ls", "shell"), ("  !ls", "shell"), ("%timeit 1", "notebook magics"),
            ("t = %time 1", "notebook magics"), ("print?", "notebook help"), ("?print", "notebook"),
            ("async with x: pass", "no top-level await"), ("[x async for x in y]", "no top-level"),
        ))),), tiers=SAFE),
    Group(60, "the shell's comforts", (after(
        ok("6 * 7", "42\n"), ok("_ + 1", "43\n"), ok("None"), ok("_", "43\n"),
        ok("help(len)", "Return the number of items"),
        ok("import uuid, secrets, os\nrepr((uuid.uuid4().version, len(os.urandom(3))))", "(4, 3)"),
        bad("raise ExceptionGroup('several', [ValueError('first'), KeyError('second')])", "error",
            contains="ValueError: first\n"),
        bad("e = ValueError('v')\ne.add_note('look here')\nraise e", "error",
            contains="ValueError: v\nlook here\n"),
        bad("raise BaseExceptionGroup('g', [ExceptionGroup('h', [ValueError(i)]) for i in range(9)])",
            "error", contains="further members left out")),), tiers=SAFE),
    Group(60, "a module written by a cell", (after(
        ok("open('mymod.py', 'w').write('f = 41')\nimport mymod\nmymod.f", "41\n"),
        ok("import matplotlib\nmatplotlib.use('agg')\nimport matplotlib.pyplot as plt\n"
           "plt.plot([1, 2])\nplt.savefig('figure.png')\nopen('figure.png', 'rb').read(4)", "PNG"),
    ),), tiers=("A1", "A2")),
    Group(60, "no directory to write in", (after(
        bad("import tempfile\ntempfile.mkdtemp()", *ANY, contains="no file can be written here"),
        bad("import matplotlib", *ANY, contains=""),
        bad("open('mymod.py', 'w')", "denied")),), tiers=("B1", "B2")),
)
