"""Random hostile endings: every call is answered in time, as the model's doing, with nothing left.

A cell does up to three things to its own process, then ends in one of many ways. Each round
of such cells is followed by an honest call in another session.
"""

import os
import pathlib
import random
import sys
import time

import pytest

from aster_jax.tools import config, result
from tests.tools import suite

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="isolation needs Linux")

WALL_S, GRACE_S, ROUND = 0.6, 0.3, 8
PRELUDE = "import ctypes, fcntl, os, resource, signal, socket, struct, threading, time\n"
DEEDS = (  # {n} is a descriptor, {s} a signal, {k} a small number
    "os.close({n})", "os.closerange({n}, {n} + {k})", "os.dup2({n}, ({n} + {k}) % 8)",
    "os.set_blocking({n}, False)", "os.write(3, os.urandom({k}))", "os.write(3, bytes({k}))",
    "os.write(3, struct.pack('>I', {k}) + b'{{')", "os.write(3, struct.pack('>I', 2) + b'{{}}')",
    "socket.socket(fileno=os.dup(3)).shutdown({k} % 3)", "os.write(1, b'x' * (1 << 14))",
    "fcntl.fcntl({n}, 4, os.O_NONBLOCK | os.O_ASYNC)", "held = os.dup(3)",
    "signal.signal({s}, signal.SIG_IGN)", "signal.signal({s}, lambda *a: time.sleep(9))",
    "signal.pthread_sigmask(0, range(1, 65))", "signal.setitimer({k} % 3, 0.01, 0.01)",
    "signal.setitimer(0, 0)", "resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))",
    "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))",
    "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))",
    "resource.setrlimit(resource.RLIMIT_CPU, (1, 1))", "sys_stack = [[]] * 10**6",
    "threading.Thread(target=time.sleep, args=({k},), daemon=True).start()",
    "threading.Thread(target=lambda: [0 for _ in iter(int, 1)], daemon=True).start()",
    "threading.Thread(target=lambda: [os.write(1, b'y') for _ in iter(int, 1)], daemon=True).start()",
    "threading.Thread(target=lambda: [os.write(3, b'y') for _ in range({k})], daemon=True).start()",
    "threading.Thread(target=lambda: (time.sleep(0.1), os.closerange(0, 9)), daemon=True).start()",
    "__import__('atexit').register(time.sleep, 9)", "__import__('sys').settrace(lambda *a: 1 / 0)",
    "__import__('builtins').print = None", "__import__('gc').set_threshold(1)",
    "os.kill(os.getpid(), {s})", "signal.pthread_kill(threading.get_ident(), {s})",
)
ENDS = (
    "pass", "1 / 0", "raise SystemExit", "raise KeyboardInterrupt", "os._exit({k})", "os.abort()",
    "os.kill(os.getpid(), {s})", "signal.raise_signal({s})", "ctypes.string_at({k})",
    "while True: pass", "time.sleep(99)", "sum(range(10**12))", "input()",
    "while True: print('z' * 99)", "while True: os.write(1, b'z' * 65536)",
    "a = []\nwhile True: a.append([1])", "os.kill(os.getpid(), 19)", "threading.Lock().__enter__() or "
    "threading.Event().wait()", "def f(): f()\nf()", "raise ExceptionGroup('g', [ValueError()] * 99)",
    "ctypes.CDLL(None).pthread_exit(None)", "ctypes.CDLL(None).exit(3)", "os.closerange(0, 99)",
)


def make_cell(chance: random.Random) -> str:
    """One hostile cell; a deed that fails is no reason to stop."""
    rows = [chance.choice(DEEDS) for _ in range(chance.randint(0, 3))]
    code = PRELUDE + "".join(f"try: {row}\nexcept Exception: pass\n" for row in rows)
    code += chance.choice(ENDS) + "\n"
    values = {"n": chance.randint(0, 7), "s": chance.randint(1, 64), "k": chance.randint(1, 9)}
    for name, value in values.items():
        code = code.replace("{" + name + "}", str(value))
    return code.replace("{{", "{").replace("}}", "}")


def hurt(tools, count: int, chance: random.Random) -> None:
    """`count` hostile cells in rounds; AssertionError tells the first cell that did harm."""
    honest = tools.open(seed=1)
    assert tools.run(honest, "kept = 41").status == "ok"
    before = list_files(tools)
    for _ in range(-(-count // ROUND)):
        sessions = [tools.open(seed=2) for _ in range(ROUND)]
        cells = [make_cell(chance) for _ in sessions]
        begun = time.monotonic()
        futures = [tools.submit(*pair) for pair in zip(sessions, cells, strict=True)]
        for cell, future in zip(cells, futures, strict=True):
            left_s = begun + 4 * (WALL_S + GRACE_S) + 30.0 - time.monotonic()
            outcome = future.result(max(0.1, left_s))
            assert outcome.status in result.MODEL_STATUSES, (cell, outcome)
            assert outcome.wall_s < WALL_S + GRACE_S + 2.0, (cell, outcome)
        for cell, session in zip(cells, sessions, strict=True):
            again = tools.run(session, "1 + 1")
            assert again.status in result.MODEL_STATUSES, (cell, again)
            tools.close(session)
        assert tools.run(honest, "kept").text == "41\n", cells
    report = tools.report()
    assert report["running"] == report["queued"] == 0
    assert report["counts"].get("zygotes_lost", 0) == 0
    assert set(report["counts"]) <= set(result.MODEL_STATUSES), report["counts"]
    check_leftovers(tools, before)


def list_files(tools) -> int:
    """Open descriptors of the supervisor."""
    return len(os.listdir(f"/proc/{tools.report()['supervisor_pid']}/fd"))


def check_leftovers(tools, before: int) -> None:
    """No process that nobody knows, no descriptor more than before but for a spare on its way."""
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        report = tools.report()
        left = suite.descendants(report["zygote_pids"][0]) - suite.known_pids(report)
        if not left and list_files(tools) <= before:
            return
        time.sleep(0.1)
    names = {pid: pathlib.Path(f"/proc/{pid}/stat").read_text()[:60] for pid in left
             if pathlib.Path(f"/proc/{pid}").exists()}
    raise AssertionError(f"left: {names}; descriptors {before} -> {list_files(tools)}")


@pytest.mark.parametrize("tier", config.SAFE_TIERS)
def test_a_few_hostile_endings(tier):
    with suite.start(tier, wall_limit_s=WALL_S, grace_s=GRACE_S, memory_limit_mib=64) as tools:
        hurt(tools, 24, random.Random(f"few {tier}"))


@pytest.mark.slow
@pytest.mark.parametrize("tier", config.SAFE_TIERS)
def test_two_thousand_hostile_endings(tier):
    with suite.start(
        tier, wall_limit_s=WALL_S, grace_s=GRACE_S, memory_limit_mib=64, max_calls=1 << 20
    ) as tools:
        hurt(tools, 2000, random.Random(f"many {tier}"))
