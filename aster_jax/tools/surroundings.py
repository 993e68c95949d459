"""What a cell finds around it: neutral names, chance from the seed, a bound on threads.

`dress` changes the interpreter once, in the zygote after preloading; `seed` is called with
a session's first cell. All of this shapes honest cells, not an attacker: what must not be
known is hidden by `result.Veil`, `namespaces` and `seccomp`.
"""

import _sitebuiltins
import _socket
import _thread
import builtins
import errno
import os
import platform
import random
import sys

from aster_jax.tools import namespaces

# Functions below look names up in this copy: cells may replace what is in `builtins`.
__builtins__ = dict(vars(builtins))

THREAD_STACK_BYTES = 8 << 20
DIGITS = 100_000  # of an integer as text: beyond it, an error instead of seconds
_chance = random.Random()
_reseed, _threads = random.Random.seed, _thread._count


def dress(settings: dict) -> None:
    """Changes this interpreter for all sessions that are forked from it."""
    builtins.exit = builtins.quit = sys.exit  # as site does, which is left out here
    builtins.help = _sitebuiltins._Helper()
    sys.argv, sys.orig_argv[:], sys.executable = [""], ["python3"], ""
    sys.prefix = sys.exec_prefix = sys.base_prefix = sys.base_exec_prefix = "/usr"
    if settings["tier"] in ("A1", "A2") and settings["scratch_mib"]:
        sys.path.insert(0, "")  # modules that a cell writes into its directory
    sys.set_int_max_str_digits(DIGITS)  # 4300 are too few for number theory
    found = os.uname()
    here = os.uname_result((found.sysname, namespaces.HOST_NAME, *found[2:]))
    replace(os.uname, lambda: here)  # where it is not, the call itself is refused
    platform._uname_cache = None
    replace(_socket.gethostname, lambda: namespaces.HOST_NAME)
    replace(os.system, run_program)
    replace(os.urandom, draw)
    replace(os.getrandom, lambda size, flags=0: draw(size))
    random.Random.seed = reseed
    random.seed = random._inst.seed
    _thread.stack_size(THREAD_STACK_BYTES)  # else as much as the first thread's may grow
    most = settings["max_processes"] - 1
    for name in ("start_new_thread", "start_new", "start_joinable_thread"):
        if hasattr(_thread, name):
            replace(getattr(_thread, name), bound_threads(getattr(_thread, name), most))


def replace(old, new) -> None:
    """Puts `new` in place of `old` under every name that a loaded module has for it."""
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is old and module is not sys.modules[__name__]:
                setattr(module, name, new)


def run_program(command) -> int:
    """In place of os.system, which would tell of the refusal by a number only."""
    raise PermissionError(errno.EPERM, "no program can be started here")


def draw(size: int, /) -> bytes:
    """In place of os.urandom: uuid4, secrets and unseeded generators all ask it."""
    if size < 0:
        raise ValueError("negative argument not allowed")
    return _chance.randbytes(size)


def reseed(self, a=None, version: int = 2) -> None:
    """In place of random.Random.seed, which would ask the kernel for a missing seed."""
    _reseed(self, int.from_bytes(draw(32), "little") if a is None else a, version)


def bound_threads(start, most: int):
    """`start`, which starts a thread, with a bound that names itself."""
    def start_bounded(*args, **names):
        if _threads() >= most:
            raise RuntimeError(f"can't start new thread: {most} run already, the limit here")
        return start(*args, **names)

    return start_bounded


def seed(number: int) -> None:
    """Gives this session its own random streams; a fork would share the zygote's."""
    _reseed(_chance, f"entropy {number}")
    random.seed(number)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(number % 2**32)
    if "sympy" in sys.modules:
        sys.modules["sympy.core.random"].seed(number)
