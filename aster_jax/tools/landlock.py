"""Landlock: the files a session may touch, enforced by the kernel without privileges.

Everything below the library directories may be read; the scratch directory, if there is
one, may be written; nothing else can be opened, made, renamed or removed. What Landlock
never looks at is a change of mode, owner, times or attributes: read-only mounts stop that,
or the calls in `seccomp.HOST` are refused. Emptying a file it looks at from ABI 3 on only.
Newer kernels also refuse TCP (ABI 4) and signals and abstract sockets that leave the session
(ABI 6); those are a second lock, since seccomp refuses them in any case.
"""

import ctypes
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


def create(rules: list[tuple[str, int]]) -> int:
    """A descriptor of the ruleset from (path, rights); a path that does not exist is left out."""
    abi = find_abi()
    rights = FILE_RIGHTS.get(abi, ALL_RIGHTS)
    words = [rights, NET_RIGHTS if abi >= 4 else 0, SCOPES if abi >= 6 else 0]
    size = 8 * (3 if abi >= 6 else 2 if abi >= 4 else 1)
    attributes = (ctypes.c_uint64 * 3)(*words)
    ruleset = linux.syscall(linux.LANDLOCK_CREATE, ctypes.byref(attributes), size, 0)
    for path, wanted in rules:
        allow(ruleset, path, wanted & rights)
    return ruleset


def allow(ruleset: int, path: str, rights: int) -> None:
    """Adds one path (and what lies below it) to the ruleset."""
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):
        rights &= READ_FILE | WRITE_FILE
    rule = ctypes.create_string_buffer(struct.pack("<Qi", rights, descriptor), 12)
    try:
        linux.syscall(linux.LANDLOCK_ADD, ruleset, 1, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)


def restrict(ruleset: int) -> None:
    """Applies the ruleset to this process and all it may become; needs no_new_privs."""
    linux.set_process(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.syscall(linux.LANDLOCK_RESTRICT, ruleset, 0)
