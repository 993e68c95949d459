"""Landlock: the files a session may touch, enforced by the kernel without privileges.

Everything below the library directories may be read; the scratch directory, if there is
one, may be written; nothing else can be opened, made, renamed or removed. What Landlock
never looks at is a change of mode, owner, times or attributes: read-only mounts stop that,
or the calls in `seccomp.HOST` are refused. Emptying a file it looks at from ABI 3 on only.
Newer kernels also refuse TCP (ABI 4) and signals and abstract sockets that leave the session
(ABI 6); those are a second lock, since seccomp refuses them in any case.
"""

import os
import struct

from aster_jax.tools import linux

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
READ = READ_FILE | READ_DIR
ALL_RIGHTS = (1 << 16) - 1  # ABI 5 and later
WRITE = ALL_RIGHTS & ~EXECUTE
# Rights known to each ABI: filesystem rights are bits 0..12, then refer, truncate, ioctl.
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
NET_RIGHTS, SCOPES = 0b11, 0b11
TRUNCATE_ABI = 3  # kernel 6.2


def find_abi() -> int:
    """The kernel's Landlock version. Raises OSError where there is none."""
    return linux.syscall(linux.LANDLOCK_CREATE, 0, 0, 1)


def restrict(rules: list[tuple[str, int]]) -> None:
    """Leaves this process, and all it may become, what `rules` allow.

    A rule is (path, rights) for it and what lies below it; an absent path is left out.
    """
    abi = find_abi()
    rights = FILE_RIGHTS.get(abi, ALL_RIGHTS)
    words = struct.pack("<3Q", rights, NET_RIGHTS, SCOPES)
    words = words[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = linux.syscall(linux.LANDLOCK_CREATE, words, len(words), 0)
    for path, wanted in rules:
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        known = rights if os.path.isdir(path) else READ_FILE | WRITE_FILE
        rule = struct.pack("<Qi", wanted & known, descriptor)
        linux.syscall(linux.LANDLOCK_ADD, ruleset, 1, rule, 0)
        os.close(descriptor)
    linux.set_process(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.syscall(linux.LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)
