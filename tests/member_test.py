"""A member of a study: the run's own command, in a process that goes when its parent does."""

import os
import signal
import subprocess
import sys


def test_a_member_ends_with_its_parent(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "aster_jax.member", "--config=smoke", f"--workdir={tmp_path}"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    process.stdin.close()  # as the kernel does for a parent that is gone
    try:
        assert process.wait(120) == 70
    finally:
        process.send_signal(signal.SIGKILL)


def test_it_ends_well_by_itself():
    """While its thread still waits for the parent's end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "aster_jax.member", "--help"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    try:
        assert process.wait(120) == 0, process.stderr.read()
        assert process.stderr.read() == b""
    finally:
        process.kill()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()
