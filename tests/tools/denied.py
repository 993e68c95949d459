"""Runs the hostile cells on a host made poorer: `python -m tests.tools.denied MODE GROUPS`.

A seccomp filter installed here, before anything starts, makes the namespace calls fail as
in a container, these and the changes of user as for an ordinary user in one, or the Landlock
calls as on an old kernel. One line per group is printed:
passed, skipped (with the tier that makes no such claim) or FAILED.
"""

import errno
import pathlib
import struct
import sys
import tempfile

from aster_jax.tools import linux, seccomp

NAMESPACES = {name: seccomp.DENIED[name] for name in (
    "unshare", "setns", "mount", "umount2", "pivot_root", "mount_setattr", "chroot")}
USER = NAMESPACES | {name: seccomp.DENIED[name] for name in (
    "setuid", "setresuid", "setgid", "setresgid", "setgroups")}
LANDLOCK = {name: (444 + index, 444 + index) for index, name in enumerate(
    ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"))}
MODES = {
    "namespaces": (NAMESPACES, errno.EPERM), "user": (USER, errno.EPERM),
    "landlock": (LANDLOCK, errno.ENOSYS),
}


def refuse(calls: dict, code: int) -> bytes:
    """A small filter that makes `calls` fail with `code`."""
    column, step = list(seccomp.ARCHITECTURES).index(linux.MACHINE), struct.Struct("<HBBI").pack
    program = step(seccomp.LOAD, 0, 0, seccomp.NUMBER)
    for numbers in calls.values():
        program += step(seccomp.EQUAL, 0, 1, numbers[column])
        program += step(seccomp.RETURN, 0, 0, seccomp.ERRNO | code)
    return program + step(seccomp.RETURN, 0, 0, seccomp.ALLOW)


def main(mode: str, wanted: str) -> int:
    """Takes the layer away, runs the groups (`all` or `quick`), counts the failures."""
    calls, code = MODES[mode]
    seccomp.install(refuse(calls, code))
    from tests.tools import suite  # after the filter: it starts nothing on import

    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = suite.Bench(pathlib.Path(folder))
        print(f"tier {bench.tier} with {mode} denied", flush=True)
        for group in suite.GROUPS:
            if wanted == "quick" and group.pool in ("strict", "tight"):
                continue
            if bench.tier not in group.tiers:
                print(f"group {group.number:02d} skipped: no claim in tier {bench.tier}")
                continue
            try:
                bench.run(group)
                print(f"group {group.number:02d} passed", flush=True)
            except AssertionError as error:
                failures += 1
                print(f"group {group.number:02d} FAILED: {error}", flush=True)
        bench.close()
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
