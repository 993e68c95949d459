"""The system-call filter of a session: what is refused, by the rule it enforces.

A deny list that answers with an errno. Unknown calls are allowed: they are still bound by
uid, namespaces, Landlock and limits, and an allow list that kills breaks whenever the C
library learns a new call. The filter is raw BPF installed through prctl; `build` makes it
from the tables below, one compare and one return per denied call. Where a session keeps
this machine's file tree, `HOST` refuses what Landlock does not look at.
"""

import ctypes
import errno
import struct

from aster_jax.tools import linux

# name: (x86_64, aarch64); None where the machine never had the call.
DENIED = {
    # No second program and no child: threads only (clone is checked by flags).
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    # The only sockets are socketpairs inside the process (asyncio needs one).
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "bind": (49, 200),
    "listen": (50, 201), "accept4": (288, 242),
    "setsockopt": (54, 208),  # buffers of megabytes, and handles of processes in messages
    # No reading, tracing, stealing from or signalling of other processes.
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "kcmp": (312, 272), "process_madvise": (440, 440), "process_mrelease": (448, 448),
    "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "ioprio_set": (251, 30), "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # No namespaces, mounts or new roots.
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "mount_setattr": (442, 442),
    "move_mount": (429, 429), "open_tree": (428, 428), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "mknod": (133, None), "mknodat": (259, 33), "fanotify_init": (300, 262),
    "open_tree_attr": (467, 467), "statmount": (457, 457), "listmount": (458, 458),
    # No large or rarely used kernel surface.
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "seccomp": (317, 277), "personality": (135, 92),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "adjtimex": (159, 171), "sethostname": (170, 161), "setdomainname": (171, 162),
    "syslog": (103, 116), "vhangup": (153, 58), "ioperm": (173, None), "iopl": (172, None),
    "modify_ldt": (154, None), "uselib": (134, None), "io_setup": (206, 0), "sync": (162, 81),
    "syncfs": (306, 267),
    # No lock on a shared file and no look at who else opens it.
    "flock": (73, 32), "inotify_init": (253, None), "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    # No memory that outlives the process or escapes its limit.
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194),
    "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197), "semget": (64, 190),
    "semop": (65, 193), "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186),
    "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # No change of user, group or capabilities.
    "setuid": (105, 146), "setgid": (106, 144), "setreuid": (113, 145),
    "setregid": (114, 143), "setresuid": (117, 147), "setresgid": (119, 149),
    "setgroups": (116, 159), "setfsuid": (122, 151), "setfsgid": (123, 152),
    "capset": (126, 91), "setsid": (112, 157), "setpgid": (109, 154),
}
HOST = {  # no change to a file that Landlock would let pass, and not the machine's name
    "uname": (63, 160),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7),
    "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "removexattrat": (466, 466), "file_setattr": (469, 469),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "truncate": (76, 45),
}
# Calls whose arguments decide.
CHECKED = {
    "clone": (56, 220), "clone3": (435, 435), "socketpair": (53, 199), "kill": (62, 129),
    "tgkill": (234, 131), "prctl": (157, 167), "prlimit64": (302, 261),
    "fcntl": (72, 25), "ioctl": (16, 29), "getsockopt": (55, 209),
}
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HARMLESS_PRCTL = (15, 16, 3, 39, 0x53564D41)  # names, two getters, naming of mappings
# Streams and packets go to the other end only; datagrams could be sent to any address.
PAIRS = tuple(kind | flags for kind in (1, 5) for flags in (0, 0o4000, 0o2000000, 0o2004000))
PEER_PIDFD = 77  # SO_PEERPIDFD: a handle of the supervisor
# Copies, flags and the size of a pipe. Not among them: owners, who are sent a signal of the
# session's choice at every read; leases, directory watches and hints, which others can see.
HARMLESS_FCNTL = (0, 1, 2, 3, 4, 1030, 1032)
# F_SETLK and F_SETLKW succeed and do nothing, which is what such a lock means to a process
# that is alone with its files (sqlite asks for them); on a library others would see it.
ALONE_FCNTL = (6, 7)
OWNER_IOCTL = (0x8901, 0x8902)
# TCGETS, TCGETS2, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. Every file system has
# commands of its own, some of which change a file that is open for reading only.
HARMLESS_IOCTL = (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)

LOAD, EQUAL, ABOVE, BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
KILL, ALLOW, ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
NUMBER, ARCHITECTURE, ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("<HBBI", code, yes, no, value)


def _refuse(code: int = errno.EPERM) -> bytes:
    return _op(RETURN, ERRNO | code)


def _only(number: int, *rules: tuple[int, tuple[int, ...]], first: bytes = b"") -> bytes:
    """Refuses `number` unless in each rule the low word of the argument is one of the values."""
    body = first
    for argument, allowed in rules:
        body += _op(LOAD, ARGUMENT + 8 * argument)
        body += b"".join(_op(EQUAL, value, len(allowed) - i) for i, value in enumerate(allowed))
        body += _refuse()
    body += _op(RETURN, ALLOW)
    return _op(EQUAL, number, 0, len(body) // 8) + body


def _never(number: int, argument: int, refused: tuple[int, ...]) -> bytes:
    """Refuses `number` if its argument is one of `refused`."""
    body = _op(LOAD, ARGUMENT + 8 * argument)
    body += b"".join(_op(EQUAL, value, 0, 1) + _refuse() for value in refused)
    body += _op(RETURN, ALLOW)
    return _op(EQUAL, number, 0, len(body) // 8) + body


def build(own_pid: int, guard_host: bool = False, machine: str = linux.MACHINE) -> bytes:
    """The filter program. `own_pid` is the one process that may be signalled.

    `guard_host` is for sessions without namespaces of their own: it also refuses `HOST`.
    Raises OSError(ENOSYS) on a machine the tables do not know.
    """
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no filter table for {machine}")
    column = list(ARCHITECTURES).index(machine)
    number = {name: codes[column] for name, codes in CHECKED.items()}
    # Another architecture's entry point would make all numbers below mean other calls.
    program = _op(LOAD, ARCHITECTURE) + _op(EQUAL, ARCHITECTURES[machine], 1)
    program += _op(RETURN, KILL) + _op(LOAD, NUMBER)
    if machine == "x86_64":  # the x32 calls share the architecture and start at this bit
        program += _op(ABOVE, 0x40000000, 0, 1) + _op(RETURN, KILL)
    for codes in (DENIED | HOST if guard_host else DENIED).values():
        if codes[column] is not None:
            program += _op(EQUAL, codes[column], 0, 1) + _refuse()
    # ENOSYS sends the C library back to clone, whose flags can be read here.
    program += _op(EQUAL, number["clone3"], 0, 1) + _refuse(errno.ENOSYS)
    program += _op(EQUAL, number["clone"], 0, 4) + _op(LOAD, ARGUMENT)
    program += _op(BITS, linux.CLONE_THREAD, 0, 1) + _op(RETURN, ALLOW) + _refuse()
    program += _only(number["socketpair"], (0, (1,)), (1, PAIRS))  # AF_UNIX
    program += _never(number["getsockopt"], 2, (PEER_PIDFD,))
    program += _only(number["kill"], (0, (own_pid,)))
    program += _only(number["tgkill"], (0, (own_pid,)))
    program += _only(number["prctl"], (0, HARMLESS_PRCTL))
    program += _only(number["prlimit64"], (0, (0, own_pid)))
    nothing = _op(LOAD, ARGUMENT + 8)
    nothing += b"".join(_op(EQUAL, value, 0, 1) + _op(RETURN, ERRNO) for value in ALONE_FCNTL)
    program += _only(number["fcntl"], (1, HARMLESS_FCNTL), first=nothing)
    if guard_host:
        program += _only(number["ioctl"], (1, HARMLESS_IOCTL))
    else:
        program += _never(number["ioctl"], 1, OWNER_IOCTL)
    return program + _op(RETURN, ALLOW)


SOMEBODY = 0x7ABCDEF1  # stands for the pid in a program that is made ahead of time


def address(program: bytes, own_pid: int) -> bytes:
    """A program built for `SOMEBODY`, now for `own_pid`: building one takes a millisecond."""
    return program.replace(struct.pack("<I", SOMEBODY), struct.pack("<I", own_pid))


def install(program: bytes) -> None:
    """Puts the filter on this process for good; it is inherited and cannot be removed."""
    code = ctypes.create_string_buffer(program, len(program))
    wrapped = struct.pack("HP", len(program) // 8, ctypes.addressof(code))
    linux.set_process(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.set_process(linux.PR_SET_SECCOMP, linux.SECCOMP_MODE_FILTER, wrapped)
