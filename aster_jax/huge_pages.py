"""A process that has its memory on huge pages, which glibc must be asked for before it starts.

Where in the flow: the commands call `restart` before they import JAX. On a CPU every step takes its
buffers from the system and gives them back, 4 KiB at a time: a tenth of a small run's seconds were
page faults. No result depends on it, and where the kernel has no huge pages to ask for (or gives
them unasked) nothing happens.
"""

import os
import pathlib
import sys

# Read by glibc (2.35 and later) as a process starts, by nothing else.
NAME, WANTED = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
KERNEL = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def environment() -> dict[str, str]:
    """This process's environment for one that shall have huge pages; an own choice in it stays."""
    return {NAME: WANTED, **os.environ}


def restart() -> None:
    """Begin this process again with huge pages, the same command under the same number.

    Returns where that is not needed or not possible: the variable is set, the kernel does not
    wait to be asked, another C library, a process that does not belong to the command (a notebook
    that runs the module), a debugger that would be lost.
    """
    if NAME in os.environ or not sys.executable or sys.gettrace() is not None:
        return
    if _is_own() and _can_be_asked():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment())


def _is_own() -> bool:
    given = sys.orig_argv[1:]  # what the interpreter was started with, before `-m` was taken away
    return "aster_jax.main" in given or bool(given) and os.path.basename(given[0]) == "aster"


def _can_be_asked() -> bool:
    try:
        asked = "[madvise]" in KERNEL.read_text()
        return asked and os.confstr("CS_GNU_LIBC_VERSION").startswith("glibc")
    except (OSError, ValueError, AttributeError):  # no Linux, no such file, no glibc
        return False
