"""The Linux calls that Python does not wrap, through ctypes; no compiled extension.

Every function raises OSError with the kernel's errno, or ENOSYS on a machine whose numbers
are not known, so that a probe reports a tier as unavailable.
"""

import ctypes
import errno
import os
import platform
import struct

MACHINE = platform.machine()
_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUTS = 0x00020000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = 0x08000000, 0x10000000, 0x20000000
CLONE_NEWNET, CLONE_THREAD = 0x40000000, 0x00010000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2

MACHINES = ("x86_64", "aarch64")  # the numbers below are the same on both
CLOSE_RANGE, MOUNT_SETATTR = 436, 442
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446


def call(name: str, *args, what: str = "") -> int:
    """A function of the C library; integers are passed as C longs, text and bytes as pointers.

    `what` is told of one that fails, in place of its name.
    """
    words = [arg.encode() if isinstance(arg, str) else arg for arg in args]
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in words]
    result = getattr(_libc, name)(*words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what or name}: {os.strerror(code)}")
    return result


def syscall(number: int, *args) -> int:
    """A raw system call, of those that the C library may be too old to know."""
    if MACHINE not in MACHINES:
        raise OSError(errno.ENOSYS, f"no system call table for {MACHINE}")
    return call("syscall", number, *args, what=f"system call {number}")


def unshare(flags: int) -> None:
    """Leaves the current namespaces of the kinds in `flags`."""
    call("unshare", flags, what=f"unshare {flags:#x}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    what = f"mount {kind or source} on {target}"
    call("mount", source, target, kind, flags, data, what=what)


def make_readonly(target: str) -> None:
    """Makes a whole mount tree read-only, nosuid and nodev (kernel 5.12 and later)."""
    attributes = struct.pack("<4Q", MS_RDONLY | MS_NOSUID | MS_NODEV, 0, 0, 0)
    at_fdcwd, at_recursive = -100, 0x8000
    syscall(MOUNT_SETATTR, at_fdcwd, target, at_recursive, attributes, len(attributes))


def set_process(option: int, value: int, structure: bytes | int = 0) -> None:
    """prctl(2) with a value and, where the option wants one, a structure."""
    call("prctl", option, value, structure, 0, 0, what=f"prctl {option}")


def drop_capabilities() -> None:
    """Gives up every capability for good: bounding set first, then the process's own."""
    for capability in range(64):
        try:
            set_process(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:  # past the kernel's last capability
                break
            if error.errno != errno.EPERM:  # no CAP_SETPCAP: nothing to drop either
                raise
    version = (ctypes.c_uint32 * 2)(0x20080522, 0)
    call("capset", ctypes.byref(version), ctypes.byref((ctypes.c_uint32 * 6)()))


def read(path: str) -> bytes:
    """A file of /proc of at most one page, without the calls that a file object makes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
