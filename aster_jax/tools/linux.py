"""The Linux calls that Python does not wrap, through ctypes; no compiled extension.

Every function raises OSError with the kernel's errno, or ENOSYS on a machine whose numbers
are not known, so that a probe reports a tier as unavailable.
"""

import ctypes
import errno
import os
import platform

MACHINE = platform.machine()
_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUTS = 0x00020000, 0x04000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = 0x08000000, 0x10000000, 0x20000000
CLONE_NEWNET, CLONE_THREAD = 0x40000000, 0x00010000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2

# Only numbers that differ between the two machines; newer calls share theirs.
SYSCALLS = {
    "x86_64": {"pivot_root": 155, "setns": 308, "capset": 126},
    "aarch64": {"pivot_root": 41, "setns": 268, "capset": 91},
}
CLOSE_RANGE = 436
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
MOUNT_SETATTR = 442


def syscall(number: int, *args) -> int:
    """A raw system call. Integers are passed as C longs, bytes as pointers."""
    if MACHINE not in SYSCALLS:
        raise OSError(errno.ENOSYS, f"no system call table for {MACHINE}")
    wide = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result = _libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"system call {number}: {os.strerror(code)}")
    return result


def call_named(name: str, *args) -> int:
    """A raw system call by one of the names in `SYSCALLS`."""
    if MACHINE not in SYSCALLS:
        raise OSError(errno.ENOSYS, f"no system call table for {MACHINE}")
    return syscall(SYSCALLS[MACHINE][name], *args)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def unshare(flags: int) -> None:
    """Leaves the current namespaces of the kinds in `flags`."""
    _check(_libc.unshare(ctypes.c_int(flags)), f"unshare {flags:#x}")


def set_namespace(descriptor: int, kinds: int) -> None:
    """Enters the namespaces of the process behind a pidfd (setns)."""
    call_named("setns", descriptor, kinds)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    _check(
        _libc.mount(
            source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags),
            data.encode(),
        ),
        f"mount {kind or source} on {target}",
    )


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(target.encode(), ctypes.c_int(flags)), f"unmount {target}")


def set_host_name(name: str) -> None:
    """sethostname(2), in the current UTS namespace."""
    _check(_libc.sethostname(name.encode(), ctypes.c_size_t(len(name))), "sethostname")


def pivot_root(new_root: str, put_old: str) -> None:
    """Makes `new_root` the root of this mount namespace."""
    call_named("pivot_root", new_root.encode(), put_old.encode())


def make_readonly(target: str) -> None:
    """Makes a whole mount tree read-only, nosuid and nodev (kernel 5.12 and later)."""
    attributes = (ctypes.c_uint64 * 4)(MS_RDONLY | MS_NOSUID | MS_NODEV, 0, 0, 0)
    at_fdcwd, at_recursive = -100, 0x8000
    syscall(
        MOUNT_SETATTR, at_fdcwd, target.encode(), at_recursive,
        ctypes.byref(attributes), ctypes.sizeof(attributes),
    )


def set_process(option: int, value: int, address: int = 0) -> None:
    """prctl(2) with a value and, where the option wants one, the address of a structure."""
    words = [ctypes.c_ulong(word) for word in (value, address, 0, 0)]
    _check(_libc.prctl(ctypes.c_int(option), *words), f"prctl {option}")


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
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    call_named("capset", ctypes.byref(header), ctypes.byref(data))


def close_from(first: int) -> None:
    """Closes every descriptor from `first` up."""
    try:
        syscall(CLOSE_RANGE, first, 0xFFFFFFFF, 0)
    except OSError:  # before kernel 5.9
        os.closerange(first, 65536)


def read(path: str) -> bytes:
    """A file of /proc of at most one page, without the calls that a file object makes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def write(path: str, text: str) -> None:
    """Writes a file of /proc."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
