"""The system-call filter: its tables against the kernel's headers, its logic by running it.

The program is interpreted here by a small BPF machine, so that both machines' filters are
tested on any host.
"""

import pathlib
import re
import struct

import pytest

from aster_jax.tools import seccomp

HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}
CALLS = seccomp.DENIED | seccomp.HOST | seccomp.CHECKED


def decide(program: bytes, machine: str, number: int, *arguments: int) -> int:
    """What the filter returns for one system call."""
    values = list(arguments) + [0] * (6 - len(arguments))
    data = struct.pack("<IIQ6Q", number, seccomp.ARCHITECTURES[machine], 0, *values)
    steps = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    at, word = 0, 0
    while True:
        code, yes, no, value = steps[at]
        at += 1
        if code == seccomp.LOAD:
            (word,) = struct.unpack_from("<I", data, value)
        elif code == seccomp.RETURN:
            return value
        else:
            holds = {seccomp.EQUAL: word == value, seccomp.ABOVE: word >= value,
                     seccomp.BITS: bool(word & value)}[code]
            at += yes if holds else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_numbers_are_the_kernels(machine):
    path = pathlib.Path(HEADERS[machine])
    if not path.exists():
        pytest.skip(f"no {path} on this host")
    column = list(seccomp.ARCHITECTURES).index(machine)
    rows = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text())
    known = {name: int(number) for name, number in rows}
    absent = [name for name, both in CALLS.items() if both[column] is not None
              and name not in known]
    assert set(absent) <= {  # not yet in older headers, or no longer
        "process_mrelease", "memfd_secret", "uselib", "fchmodat2", "setxattrat",
        "removexattrat", "file_setattr", "statmount", "listmount", "open_tree_attr",
    }, absent
    wrong = {name: known[name] for name, both in CALLS.items()
             if name in known and both[column] is not None and known[name] != both[column]}
    assert not wrong


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_denied_calls_get_an_errno_and_common_ones_pass(machine):
    program = seccomp.build(7, machine=machine)
    column = list(seccomp.ARCHITECTURES).index(machine)
    for name, both in seccomp.DENIED.items():
        if both[column] is not None:
            assert decide(program, machine, both[column]) == seccomp.ERRNO | 1, name
    for number in {"x86_64": (0, 1, 9, 202, 231), "aarch64": (63, 64, 222, 98, 94)}[machine]:
        assert decide(program, machine, number) == seccomp.ALLOW


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_arguments_decide(machine):
    program = seccomp.build(7, machine=machine)
    column = list(seccomp.ARCHITECTURES).index(machine)

    def ask(name, *arguments):
        return decide(program, machine, CALLS[name][column], *arguments)

    refused = seccomp.ERRNO | 1
    assert ask("clone", 0x00010000 | 0x100) == seccomp.ALLOW  # a thread
    assert ask("clone", 17) == refused  # a process
    assert ask("clone3") == seccomp.ERRNO | 38  # ENOSYS: falls back to clone
    flags = (0, 0o4000, 0o2000000, 0o2004000)  # non-blocking, closing at exec
    assert {ask("socketpair", 1, kind | f) for kind in (1, 5) for f in flags} == {seccomp.ALLOW}
    assert {ask("socketpair", 1, kind | f) for kind in (2, 3, 4) for f in flags} == {refused}
    assert ask("socketpair", 2, 1) == ask("socketpair", 30, 5) == refused
    assert ask("getsockopt", 3, 1, 77) == refused  # a handle of the other end's process
    assert ask("getsockopt", 3, 1, 3) == seccomp.ALLOW
    assert ask("kill", 7, 9) == seccomp.ALLOW and ask("kill", 8, 9) == refused
    assert ask("kill", 2**32 - 1, 9) == refused  # kill(-1)
    assert ask("prlimit64", 0) == seccomp.ALLOW and ask("prlimit64", 1) == refused
    assert ask("prctl", 15) == seccomp.ALLOW
    assert {ask("prctl", option) for option in (1, 4, 22, 36, 38)} == {refused}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("guard", [False, True])
def test_files_are_guarded_where_a_session_has_no_mounts(machine, guard):
    program = seccomp.build(7, guard_host=guard, machine=machine)
    column = list(seccomp.ARCHITECTURES).index(machine)
    numbers = {both[column] for both in seccomp.HOST.values()} - {None}
    decided = {decide(program, machine, number) for number in numbers}
    assert decided == {seccomp.ERRNO | 1 if guard else seccomp.ALLOW}
    ioctl, verity = CALLS["ioctl"][column], 0x40806685  # seals a file open for reading
    assert (decide(program, machine, ioctl, 3, verity) == seccomp.ALLOW) is not guard


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("guard", [False, True])
def test_a_descriptor_gets_no_owner_and_keeps_its_ordinary_commands(machine, guard):
    program = seccomp.build(7, guard_host=guard, machine=machine)
    fcntl, ioctl = (CALLS[name][list(seccomp.ARCHITECTURES).index(machine)]
                    for name in ("fcntl", "ioctl"))

    def ask(number, command):
        return decide(program, machine, number, 3, command)

    assert {ask(ioctl, command) for command in (0x8901, 0x8902)} == {seccomp.ERRNO | 1}
    # Copies, flags and the size of a pipe; terminal or not, non-blocking, closing at exec.
    kept = (0, 1, 2, 3, 4, 1030, 1032)
    assert {ask(fcntl, command) for command in kept} == {seccomp.ALLOW}
    assert {ask(ioctl, command) for command in (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)} == {
        seccomp.ALLOW}
    # Owners, leases, watches, hints, larger pipes; locks of a process alone are no calls at all.
    rest = set(range(40)) | set(range(1024, 1045))
    assert {ask(fcntl, command) for command in rest - {*kept, 6, 7}} == {seccomp.ERRNO | 1}
    assert ask(fcntl, 6) == ask(fcntl, 7) == seccomp.ERRNO


def test_other_entry_points_are_killed():
    program = seccomp.build(7, machine="x86_64")
    assert decide(program, "x86_64", 0x40000000 + 1) == seccomp.KILL
    assert decide(program, "aarch64", 1) == seccomp.KILL


def test_a_program_made_ahead_is_the_same():
    ahead = seccomp.build(seccomp.SOMEBODY, machine="x86_64")
    assert seccomp.address(ahead, 7) == seccomp.build(7, machine="x86_64")


def test_an_unknown_machine_has_no_filter():
    with pytest.raises(OSError, match="riscv"):
        seccomp.build(1, machine="riscv64")
