"""The self-test of a new zygote: one session has to work, and to fail at escaping.

A tier is believed only after a session forked in it imported from the library tree, did
some mathematics if it can, and had every attempt below refused. Tier C may read files
and tier D promises nothing, so fewer attempts count there.
"""

import asyncio

from aster_jax.tools import confine, process

# (tiers that must refuse it, what it is, one expression or statement)
SAFE, FILTERED = ("A1", "A2", "B1", "B2"), ("A1", "A2", "B1", "B2", "C")
ESCAPES = (
    (SAFE, "read a host file", "open('/etc/passwd').read()"),
    (SAFE, "list the host's processes", "os.listdir('/proc')"),
    (SAFE, "write into the library tree", "open(os.__file__ + '.trial', 'w')"),
    # These three would change nothing if they were let through.
    (SAFE, "set a library's mode", "os.chmod(os.__file__, library.st_mode)"),
    (SAFE, "set a library's times", "os.utime(os.__file__, ns=times)"),
    (SAFE, "set a library's size", "os.truncate(os.__file__, library.st_size)"),
    # Its own pipe: in B2 this fails by the filter alone, whoever owns the libraries.
    (confine.BEHIND_LANDLOCK, "set a descriptor's mode", "os.fchmod(1, 0o600)"),
    (confine.BEHIND_LANDLOCK, "list shared memory", "os.listdir('/dev/shm')"),
    (SAFE, "open a terminal", "open('/dev/ptmx')"),
    (FILTERED, "open a network socket", "socket.socket()"),
    (FILTERED, "send to an address", "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)"),
    (FILTERED, "lock a library", "fcntl.flock(os.open(os.__file__, os.O_RDONLY), fcntl.LOCK_SH)"),
    (FILTERED, "start a process", "os.fork() or os._exit(0)"),
    (FILTERED, "run a program", "os.execv('/bin/true', ['true'])"),
    (FILTERED, "signal its parent", "os.kill(os.getppid() or -1, 0)"),
    (FILTERED, "have a descriptor signal its parent", "fcntl.fcntl(1, 8, os.getppid())"),
    (FILTERED, "make memory outside its limit", "os.memfd_create('x')"),
    (FILTERED, "trace a process", "trace(16, os.getppid(), 0, 0)"),
    (FILTERED, "leave its namespaces", "leave(0x10000000)"),
)
CELL = """
import ctypes, fcntl, os, socket
import colorsys  # not preloaded: the library tree has to be readable
library = os.stat(os.__file__)
times = (library.st_atime_ns, library.st_mtime_ns)
libc = ctypes.CDLL(None, use_errno=True)
def trace(*args):
    if libc.ptrace(*args) != 0: raise OSError(ctypes.get_errno(), "refused")
def leave(kinds):
    if libc.unshare(kinds) != 0: raise OSError(ctypes.get_errno(), "refused")
escaped = []
for name, attempt in {attempts!r}:
    try:
        exec(attempt)
        escaped.append(name)
    except OSError:
        pass
try:
    import sympy
    assert sympy.solve("x**2 - 3*x + 2") == [1, 2]
except ImportError:
    pass
print("escaped:", escaped)
"""


class Trial:
    """The owner of the one test session: its first reply or its end is the outcome."""

    def __init__(self, tier: str):
        self.seed, self.outcome = 0, asyncio.get_running_loop().create_future()
        self.attempts = [(name, code) for tiers, name, code in ESCAPES if tier in tiers]

    def on_ready(self, child: process.Process) -> None:
        """Runs the cell."""
        child.start_call(CELL.format(attempts=self.attempts), 20.0)

    def on_reply(self, child: process.Process, claim: dict) -> None:
        """Keeps the status it claims and what it printed."""
        if not self.outcome.done():
            text = child.outputs[0].text() + child.outputs[1].text()
            self.outcome.set_result((claim["status"], text))

    def on_fault(self, child: process.Process, status: str, why: str) -> None:
        """Ends the trial."""
        child.kill()

    def on_exit(self, child: process.Process, report: dict) -> None:
        """It died: either the end of a finished trial or a failure."""
        if not self.outcome.done():
            self.outcome.set_result(("died", f"{report} {child.outputs[1].text()}"))


async def check(nest, tier: str, limit_s: float) -> str:
    """Why the zygote must not be used, or "" if all is as it should be."""
    trial = Trial(tier)
    child = nest.spawn(trial)
    try:
        status, text = await asyncio.wait_for(trial.outcome, limit_s)
    except asyncio.TimeoutError:
        status, text = "timeout", "no answer"
    child.close()
    if (status, text) == ("ok", "escaped: []\n"):
        return ""
    return f"self-test in tier {tier}: {status}: {text[-500:]}"
