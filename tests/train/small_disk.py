"""A real file system of a few megabytes, so that tests can fill a disk."""

import contextlib
import os
import pathlib
import subprocess

import pytest


@contextlib.contextmanager
def mounted(path: pathlib.Path, size: int):
    """A tmpfs of `size` bytes at `path`; the test is skipped where none may be mounted."""
    path.mkdir()
    options = f"size={size}"
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)],
            check=True, capture_output=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as e:
        pytest.skip(f"a file system to fill needs the right to mount one ({e})")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: pathlib.Path, leave: int) -> None:
    """Take all but `leave` bytes (in whole blocks)."""
    found = os.statvfs(disk)
    take = found.f_bavail * found.f_frsize - leave
    with open(disk / f"ballast_{len(list(disk.glob('ballast_*')))}", "wb") as f:
        f.write(bytes(max(take, 0)))


def free(disk: pathlib.Path) -> None:
    """Give back what `fill` took."""
    for path in disk.glob("ballast_*"):
        path.unlink()
