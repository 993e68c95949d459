"""What a freshly forked session gives up before it reads its first cell.

The order is the point: mounts and identity while it still may, then the death signal
(credential changes clear it), then Landlock, then seccomp, which forbids all of these.
"""

import os
import resource
import signal

from aster_jax.tools import config, landlock, linux, namespaces, seccomp

IN_NAMESPACES = ("A1", "A2")
OWN_UID = ("A1", "B1")
STACK_MIB = 96  # the kernel keeps 128 free below the stack
BEHIND_LANDLOCK = ("B1", "B2")  # the host's file tree, and nothing but Landlock before it


def enter(
    tier: str, order: dict, settings: dict, rules: list[tuple] | None, program: bytes
) -> None:
    """Confines this process for `tier`. Raises OSError if any layer refuses.

    `order` is the supervisor's spawn order (uid, address-space base in bytes); `rules` are
    what Landlock leaves (path, rights), None without Landlock; `program` is the filter,
    made for nobody in particular.
    """
    uid = order["uid"] if tier in OWN_UID else os.getuid()
    gid = order["uid"] if tier in OWN_UID else os.getgid()
    if tier in IN_NAMESPACES and settings["scratch_mib"]:
        namespaces.mount_scratch(settings["scratch"], settings["scratch_mib"], uid, gid)
    else:
        os.chdir("/")
    os.umask(0o077)
    if settings["niceness"]:
        os.nice(settings["niceness"])
    set_limits(order, settings, own_uid=tier in OWN_UID)
    if tier in OWN_UID:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    else:
        linux.drop_capabilities()
    linux.set_process(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    linux.set_process(linux.PR_SET_DUMPABLE, 0)
    if tier in config.SAFE_TIERS and rules is not None:
        landlock.restrict(rules)
    if tier != "D":
        seccomp.install(seccomp.address(program, os.getpid()))


def set_limits(order: dict, settings: dict, own_uid: bool) -> None:
    """Resource limits; of memory, what cell and harness may have together.

    The stack may grow further than usual, for recursion through C (a cached function); a
    thread's stack has the size that was the limit when the zygote started.
    """
    mib = 1 << 20
    memory_mib = settings["memory_limit_mib"] + settings["headroom_mib"]
    limits = {
        resource.RLIMIT_AS: order["base_bytes"] + memory_mib * mib,
        resource.RLIMIT_NOFILE: settings["max_files"],
        resource.RLIMIT_FSIZE: settings["file_limit_mib"] * mib,
        resource.RLIMIT_CORE: 0, resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 64,  # timers, too, are counted for all of a user's processes
        resource.RLIMIT_STACK: STACK_MIB * mib,
    }
    if own_uid:  # the count is per user: on a shared uid it would count the user's desktop
        limits[resource.RLIMIT_NPROC] = settings["max_processes"]
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(name, (value, hard if name == resource.RLIMIT_STACK else value))
